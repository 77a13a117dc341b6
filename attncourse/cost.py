"""Costs before anything runs: FLOPs, bytes moved, peak bytes; and the time they allow.

Conventions, used in the whole course:

- One multiply-add is 2 FLOPs. `flops` counts the matrix products that are executed, whether a
  mask hides their result or not.
- `bytes_read` and `bytes_written` count traffic with main memory; what stays in a block is free.
- `peak_bytes` is the most that a call holds at once: its output included, its inputs not.
- kB, MB and GB are powers of 10; KiB, MiB and GiB are powers of 2.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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

    def seconds(self, device: Device, dtype: str | None = None) -> float:
        """Return the least time the device can need: the larger of computing and moving.

        Args:
            device: What computes.
            dtype: The numbers' type, such as "float32"; the device's fastest if not given.
        """
        moving = (self.bytes_read + self.bytes_written) / device.bytes_per_second
        return max(self.flops / device.peak(dtype), moving)


@dataclass(frozen=True)
class Device:
    """What a device can do at most, and who says so.

    Attributes:
        name: The name on the box.
        flops_per_second: Peak of dense matrix products in half precision, no sparsity; float32
            for `this_cpu`.
        bytes_per_second: Peak bandwidth of its main memory.
        memory_bytes: The size on the box, GB read as a power of 10.
        source: Where the figures come from.
        peaks: FLOPs per second of dense matrix products for each type with a source. On a GPU,
            "float32" runs on the plain cores; "tf32" (float32 inputs, rounded), "float16" and
            "bfloat16" on tensor cores.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    memory_bytes: int
    source: str
    peaks: Mapping[str, float] = field(default_factory=dict, hash=False)

    def peak(self, dtype: str | None = None) -> float:
        """Return the most FLOPs per second for a type, or `flops_per_second` if none is given.

        Raises:
            ValueError: No source gives a figure for this type on this device.
        """
        if dtype is None:
            return self.flops_per_second
        if dtype not in self.peaks:
            raise ValueError(
                f"Device.peak: dtype must be one of {', '.join(self.peaks)} on {self.name}, "
                f"got {dtype!r}"
            )
        return self.peaks[dtype]


GB = 10**9


def _gpu(
    name: str,
    memory_gb: int,
    gb_per_second: float,
    source: str,
    *,
    float32: float,
    tf32: float | None = None,
    float16: float,
    bfloat16: bool = True,
) -> Device:
    """Make a Device from figures in TFLOP/s; bfloat16 runs as fast as float16 where it exists."""
    peaks = {"float32": float32, "tf32": tf32, "float16": float16}
    peaks["bfloat16"] = float16 if bfloat16 else None
    exact = {dtype: round(peak * 1e12) for dtype, peak in peaks.items() if peak is not None}
    return Device(name, exact["float16"], round(gb_per_second * GB), memory_gb * GB, source, exact)


# A laptop's box names no FLOPs: two for each core and cycle, at the highest clock that NVIDIA lets
# a maker set; on tensor cores in the ratios of the RTX 4090, whose chip is of the same design.
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _gpu(
            "RTX 4060 Laptop", 8, 256,
            "NVIDIA's laptop specifications: 3072 cores at up to 2370 MHz, 128 bits at 16 Gbit/s",
            float32=14.56, tf32=14.56, float16=29.12,
        ),
        _gpu(
            "V100 16 GB", 16, 900, "NVIDIA V100 datasheet, SXM2",
            float32=15.7, float16=125, bfloat16=False,
        ),
        _gpu(
            "RTX 4090", 24, 1008, "NVIDIA Ada GPU architecture whitepaper",
            float32=82.6, tf32=82.6, float16=165.2,
        ),
        _gpu(
            "A100 40 GB", 40, 1555, "NVIDIA A100 datasheet, SXM4",
            float32=19.5, tf32=156, float16=312,
        ),
        _gpu(
            "H100 80 GB", 80, 3350, "NVIDIA H100 datasheet, SXM5",
            float32=67, tf32=494.5, float16=989,
        ),
        _gpu(
            "H200", 141, 4800, "NVIDIA H200 datasheet, SXM",
            float32=67, tf32=494.5, float16=989,
        ),
    )
}  # fmt: skip


@functools.cache
def this_cpu() -> Device:
    """Measure this CPU: the best of a few matrix products and copies, about half a second.

    NumPy uses as many threads as it would for a mechanism. The result is kept for the process. A
    machine that others use at the same time shows less than it can.

    Returns:
        A Device with the peaks of "float32" and "float64"; `flops_per_second` is float32's.
    """
    import numpy as np

    from attncourse import measure

    size = 1024
    peaks = {}
    for dtype in ("float32", "float64"):
        a = np.full((size, size), 0.5, dtype)
        out = np.empty_like(a)
        peaks[dtype] = 2 * size**3 / _best_seconds(np.matmul, a, a, out)
    source, target = np.ones(2**23), np.ones(2**23)  # 64 MiB each: more than most caches hold
    bandwidth = 2 * source.nbytes / _best_seconds(np.copyto, target, source)
    machine = measure.machine()
    return Device(
        "this CPU",
        peaks["float32"],
        bandwidth,
        machine["memory_bytes"] or 0,
        f"measured: {machine['cpu']}, {machine['cores']} cores",
        peaks,
    )


def _best_seconds(call: Callable[..., Any], *args: Any, repeats: int = 8) -> float:
    best = float("inf")
    call(*args)
    for _ in range(repeats):
        start = time.perf_counter()
        call(*args)
        best = min(best, time.perf_counter() - start)
    return best


NUMBER_BYTES = {"float64": 8, "float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
LOW_SHARE = 0.01  # below this share of what the device can do, a time asks for an explanation
OVERHEAD_SECONDS = 1e-4  # starting the work may take as long as that, whatever the work is


@dataclass(frozen=True)
class Implied:
    """What a time says about the device that is said to have needed it.

    Attributes:
        seconds: The time in question.
        least_seconds: The least that the device can need.
        flops_per_second: FLOPs of the work over the time.
        bytes_per_second: Bytes of the work over the time.
        share: Of the device's limit, `least_seconds / seconds`; above 1 is impossible.
        limit: What the least time is made of: "computing" or "moving".
        verdict: "above peak", "plausible" or "absurdly low".
    """

    seconds: float
    least_seconds: float
    flops_per_second: float
    bytes_per_second: float
    share: float
    limit: str
    verdict: str

    def __str__(self) -> str:
        percent = f"{self.share:.2%}" if self.share < LOW_SHARE else f"{self.share:.0%}"
        rates = f"{self.flops_per_second / 1e12:.3g} TFLOP/s, {self.bytes_per_second / GB:.3g} GB/s"
        return f"{rates}, {percent} of the limit by {self.limit}: {self.verdict}"


def implied(
    seconds: float,
    n: int,
    width: int,
    *,
    device: Device,
    heads: int = 1,
    batch: int = 1,
    layers: int = 1,
    dtype: str | None = None,
    causal: bool = False,
    cost: Cost | None = None,
) -> Implied:
    """Say what a time for attention implies, and whether the device can have done it.

        FLOPs = 4·layers·B·H·n²·D      bytes = 4·layers·B·H·n·D·(bytes of a number)

    is the least that exact attention takes: its two products, and q, k, v and out each moved once.
    A time that these already forbid is impossible for every algorithm. A time of which they are
    less than 1 % (`LOW_SHARE`) is absurdly low in what it implies, unless it is below 100 µs
    (`OVERHEAD_SECONDS`), which starting the work can take. Inputs are taken to come from main
    memory: a small one that waits in a cache may beat the bandwidth.

    Args:
        seconds: The time in question, above 0.
        n: Queries, and as many keys.
        width: D, numbers in one query, key or value.
        device: What is said to have needed the time.
        heads: H.
        batch: B.
        layers: How many times the work is done in that time.
        dtype: The numbers' type; if not given, the device's fastest for the FLOPs, and 2 bytes a
            number, 4 on a device whose peaks have no "float16".
        causal: Half of the pairs are enough, so the FLOPs are halved.
        cost: The work of another mechanism, `layers` times, instead of exact attention's.

    Returns:
        The rates, the share of the device's limit, and the verdict.

    Raises:
        ValueError: `seconds`, `n`, `width`, `heads`, `batch` or `layers` not above 0, or a `dtype`
            that the device has no figure for.
    """
    sizes = {"n": n, "width": width, "heads": heads, "batch": batch, "layers": layers}
    for name, value in ({"seconds": seconds} | sizes).items():
        if not value > 0:
            raise ValueError(f"cost.implied: {name} must be above 0, got {value}")
    if cost is None:
        each = NUMBER_BYTES[dtype or ("float16" if "float16" in device.peaks else "float32")]
        moved = batch * heads * n * width * each
        products = 4 * batch * heads * n * n * width
        cost = Cost(products // 2 if causal else products, 3 * moved, moved, 0)
    flops = layers * cost.flops
    n_bytes = layers * (cost.bytes_read + cost.bytes_written)
    computing, moving = flops / device.peak(dtype), n_bytes / device.bytes_per_second
    least = max(computing, moving)
    share = least / seconds
    if share > 1:
        verdict = "above peak"
    elif share < LOW_SHARE and seconds > OVERHEAD_SECONDS:
        verdict = "absurdly low"
    else:
        verdict = "plausible"
    limit = "computing" if computing >= moving else "moving"
    return Implied(seconds, least, flops / seconds, n_bytes / seconds, share, limit, verdict)
