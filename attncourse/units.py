"""Bytes, seconds and counts in words, each with its unit; and such words read as numbers.

Where thousands are parted it is by a comma, 16,384, as Python's format does it. People who type a
number may use a space, too.
"""

from __future__ import annotations

import re

SECONDS_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def format_seconds(seconds: float) -> str:
    """Return a time with three digits and its unit: "1.25 ms"."""
    if seconds == 0:
        return "0 s"
    factor, unit = next((u for u in SECONDS_UNITS if abs(seconds) >= 0.9995 * u[0]), (1e-9, "ns"))
    digits = f"{seconds / factor:.3g}"
    return f"{float(digits):,.0f} {unit}" if float(digits) >= 1000 else f"{digits} {unit}"


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


def format_difference(difference: float, *, below: float) -> str:
    """Say how far apart two results are: "less than 1e-12" where no machine agrees on more.

    Args:
        difference: At least 0.
        below: What rounding stays below; how far it goes differs from processor to processor.
    """
    if difference < below:
        return f"less than {below:.1g}".replace("e-0", "e-")
    return f"{difference:.1g}".replace("e-0", "e-")


LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_DECIMAL = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_BINARY = {f"{letter}i": 1024.0**power for power, letter in enumerate("kmgtp", 1)}
_PREFIXES = {"": 1.0} | _DECIMAL | _BINARY
_BYTES = _PREFIXES | {f"{prefix}b": factor for prefix, factor in _PREFIXES.items()}
_BYTES |= {"byte": 1.0, "bytes": 1.0}
_SECONDS = {unit: factor for factor, unit in SECONDS_UNITS} | {"": 1.0, "us": 1e-6}
_SECONDS |= {"sec": 1.0, "second": 1.0, "seconds": 1.0, "min": 60.0, "h": 3600.0}
_COUNTS = {"": 1.0, "thousand": 1e3} | {word: factor for factor, word in LARGE} | _DECIMAL

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_POWER = rf"({_NUMBER})(?:\s*(?:\^|\*\*)\s*(-?\d+))?"
_PRODUCT = re.compile(rf"{_POWER}(?:\s*[*/·×x]\s*{_POWER})*")


def format_quantity(value: float, unit: str = "", *, decimal: bool = False) -> str:
    """Write a number above 0 with its unit, in as few digits as say what it is.

    Args:
        value: The number, in `unit`.
        unit: "B" for bytes, "s" for seconds, "" for a plain number, or a word shown after it.
        decimal: For bytes, powers of 10 instead of powers of 2.

    Examples:
        >>> format_quantity(67_108_864, "B"), format_quantity(34_359_738_368, "FLOPs")
        ('64 MiB', '34.4 billion FLOPs')
    """
    if unit == "B":
        if value < 10:
            return f"{value:.3g} B"
        return format_bytes(value, decimal=decimal).replace(".0 ", " ")
    if unit == "s" and value < 1e4:
        return format_seconds(value)
    factor, word = 1.0, ""
    if value >= 1e7:
        factor, word = next(large for large in LARGE if value >= large[0])
    digits = f"{value / factor:.3g}" if word or value < 1000 else f"{value:,.0f}"
    if "e+" in digits:
        digits = f"{float(digits):,.0f}"
    unit = unit.removesuffix("s") if digits == "1" and not word and len(unit) > 1 else unit
    return " ".join(filter(None, (digits, word, unit)))


def parse_quantity(text: str, unit: str = "") -> float:
    """Read a number as people write it: "4 MiB", "3 ms", "4e6", "2^20", "4 000", "3 million keys".

    Args:
        text: A number, or a product or quotient of some, with or without a unit.
        unit: The unit of the result, as in `format_quantity`; what `text` leaves out.

    Raises:
        ValueError: `text` is no such number, or its unit is another.
    """
    plain = " ".join(text.lower().replace("μ", "µ").split()).lstrip("~≈ ")
    plain = re.sub(r"(?<![\d.])0,(?=\d)", "0.", plain)
    plain = re.sub(r"(?<=\d)[ ,_'’](?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"(?<=\d),(?=\d)", ".", plain)
    found = _PRODUCT.match(plain)
    value = _factor(plain[found.end() :].strip(), unit.lower()) if found else None
    if found is None or value is None:
        raise ValueError(f"units.parse_quantity: text must be a number in {unit!r}, got {text!r}")
    try:
        for operator, number, power in re.findall(rf"([*/·×x]?)\s*{_POWER}", found[0]):
            term = float(number) ** int(power or 1)
            value = value / term if operator == "/" else value * term
    except ArithmeticError:
        raise ValueError(f"units.parse_quantity: {text!r} is too large or too small") from None
    return value


def _factor(behind: str, unit: str) -> float | None:
    """Return how many `unit` the words behind a number are worth; None if they are another unit."""
    if unit == "b":
        return _BYTES.get(behind)
    if unit == "s":
        return _SECONDS.get(behind)
    for word in filter(None, (unit, unit.removesuffix("s"), "percent" if unit == "%" else "")):
        behind = behind.removesuffix(word).strip()
    return _COUNTS.get("" if behind in ("x", "×", "times") else behind)
