"""Bytes and seconds in words, each with its unit."""

from __future__ import annotations

SECONDS_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def format_seconds(seconds: float) -> str:
    """Return a time with three digits and its unit: "1.25 ms"."""
    if seconds == 0:
        return "0 s"
    factor, unit = next((u for u in SECONDS_UNITS if abs(seconds) >= 0.9995 * u[0]), (1e-9, "ns"))
    digits = f"{seconds / factor:.3g}"
    return f"{float(digits):.0f} {unit}" if "e" in digits else f"{digits} {unit}"


def format_bytes(n_bytes: float, *, decimal: bool = False) -> str:
    """Write a number of bytes with its unit, to three significant digits or one decimal.

    Args:
        n_bytes: A number of bytes.
        decimal: Powers of 10 (kB, MB, GB) instead of powers of 2 (KiB, MiB, GiB).

    Examples:
        >>> format_bytes(67_108_864), format_bytes(67_108_864, decimal=True)
        ('64.0 MiB', '67.1 MB')
    """
    base, units = (
        (1000, ("B", "kB", "MB", "GB", "TB", "PB"))
        if decimal
        else (1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    )
    value, unit = float(n_bytes), units[0]
    for unit in units:
        if round(abs(value), 1) < base or unit == units[-1]:
            break
        value /= base
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
