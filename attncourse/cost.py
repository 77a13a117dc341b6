"""Costs before anything runs: FLOPs, bytes moved, peak bytes; and the time they allow.

Conventions, used in the whole course:

- One multiply-add is 2 FLOPs. `flops` counts the matrix products that are executed, whether a
  mask hides their result or not.
- `bytes_read` and `bytes_written` count traffic with main memory; what stays in a block is free.
- `peak_bytes` is the most that a call holds at once: its output included, its inputs not.
- kB, MB and GB are powers of 10; KiB, MiB and GiB are powers of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMPY_BUFFER = 8192  # numbers that NumPy's loops keep aside while they broadcast one operand


@dataclass(frozen=True)
class Cost:
    """What one call takes.

    Attributes:
        flops: Floating-point operations of the matrix products.
        bytes_read: Bytes read from main memory.
        bytes_written: Bytes written to main memory.
        peak_bytes: The most bytes held at once beyond the inputs.
    """

    flops: int
    bytes_read: int
    bytes_written: int
    peak_bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs per byte of traffic."""
        return self.flops / max(1, self.bytes_read + self.bytes_written)

    def seconds(self, device: Device) -> float:
        """Return the least time the device can need: the larger of computing and moving."""
        moving = (self.bytes_read + self.bytes_written) / device.bytes_per_second
        return max(self.flops / device.flops_per_second, moving)


@dataclass(frozen=True)
class Device:
    """What a device can do at most, and who says so.

    Attributes:
        name: The name on the box.
        flops_per_second: Peak of dense half-precision matrix products, no sparsity.
        bytes_per_second: Peak bandwidth of its main memory.
        memory_bytes: The size on the box, GB read as a power of 10.
        source: Where the figures come from.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    memory_bytes: int
    source: str


GB = 10**9

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("V100 16 GB", 125e12, 900e9, 16 * GB, "NVIDIA V100 datasheet, SXM2"),
        Device("RTX 4090", 165.2e12, 1008e9, 24 * GB, "NVIDIA Ada GPU architecture whitepaper"),
        Device("A100 40 GB", 312e12, 1555e9, 40 * GB, "NVIDIA A100 datasheet, SXM4"),
        Device("H100 80 GB", 989e12, 3350e9, 80 * GB, "NVIDIA H100 datasheet, SXM5"),
        Device("H200", 989e12, 4800e9, 141 * GB, "NVIDIA H200 datasheet, SXM"),
    )
}


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
