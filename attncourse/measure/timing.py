"""The seconds of a call: the CPU's clock, or the GPU's own."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncourse.measure.loops import progress
from attncourse.measure.tensors import cuda_in_use, device_of
from attncourse.units import format_seconds

FLUSH_BYTES = 256 * 2**20  # more than the caches of a CPU or a GPU hold


@dataclass(frozen=True)
class Timing:
    """The seconds of repeated calls.

    Attributes:
        median: The middle of the repeats, in seconds.
        low: The lower quartile, in seconds.
        high: The upper quartile, in seconds.
        repeats: How many calls were timed, warm-up aside.
    """

    median: float
    low: float
    high: float
    repeats: int

    def __str__(self) -> str:
        spread = f"{format_seconds(self.low)} to {format_seconds(self.high)}"
        return f"{format_seconds(self.median)} (quartiles {spread}, {self.repeats} calls)"


def seconds(
    function: Callable[..., Any],
    *args: Any,
    repeats: int = 5,
    warmup: int = 1,
    flush: bool = False,
    at_least: int = 1,
    at_most: float | None = None,
    **kwargs: Any,
) -> Timing:
    """Time `function(*args, **kwargs)`.

    The first calls pay for things that later ones do not: page faults, compilation, caches. They
    are made and thrown away. A GPU only queues a call, so with CUDA tensors among the arguments
    the GPU's own clock is read, before and after the work; for CUDA tensors that the call holds
    elsewhere, it is the time until the GPU is done, launch included. Ctrl-C ends it and leaves
    nothing changed; from two seconds on `progress` shows how far it is.

    Args:
        function: What to time.
        *args: Its arguments.
        repeats: Timed calls, at least 1.
        warmup: Calls before them, not timed.
        flush: Fill the caches with something else before each timed call, so that the inputs come
            from main memory. On a GPU this also hides the time to launch: the GPU is still filling
            its cache while the call is queued.
        at_least: Timed calls that are made however long they take.
        at_most: Once they are made and have taken so many seconds, no further one is made.
        **kwargs: Its keyword arguments.

    Returns:
        Median and quartiles in seconds.

    Raises:
        ValueError: `repeats` below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(
            "measure.seconds: repeats must be at least 1 and warmup at least 0, "
            f"got {repeats} and {warmup}"
        )
    call = functools.partial(function, *args, **kwargs)
    for _ in range(warmup):
        call()
    device = device_of("measure.seconds", args, kwargs)
    once = _cpu_once
    flusher = _flusher(device) if flush else None
    if device is not None and device.type == "cuda":
        once = functools.partial(_cuda_once, device)
    times: list[float] = []
    for _ in progress(range(repeats), "timing"):
        if at_most is not None and sum(times) >= at_most and len(times) >= max(1, at_least):
            break
        times.append(once(call, flusher) if flusher else once(call))
    return _timing(times)


def _timing(times: list[float]) -> Timing:
    if len(times) == 1:
        return Timing(times[0], times[0], times[0], 1)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high, len(times))


def _cpu_once(call: Callable[[], Any], flusher: Callable[[], Any] | None = None) -> float:
    cuda = cuda_in_use()
    if flusher:
        flusher()
    if cuda:
        cuda.synchronize()
    start = time.perf_counter()
    call()
    if cuda:
        cuda.synchronize()
    return time.perf_counter() - start


def _cuda_once(
    device: Any, call: Callable[[], Any], flusher: Callable[[], Any] | None = None
) -> float:
    cuda = sys.modules["torch"].cuda
    with cuda.device(device):
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda.synchronize()
        if flusher:
            flusher()
        start.record()
        call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1e3  # CUDA counts milliseconds


def _flusher(device: Any) -> Callable[[], Any]:
    """Return what fills the caches of a device, the CPU's if there is none."""
    if device is None or device.type == "cpu":
        return functools.partial(np.empty(FLUSH_BYTES // 4, np.uint8).fill, 0)
    torch = sys.modules["torch"]
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_
