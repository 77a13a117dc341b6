"""The most bytes that a call holds at once, and the bytes that are free."""

from __future__ import annotations

import functools
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attncourse.measure.tensors import home_of


def peak_bytes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Return the most bytes that `function(*args, **kwargs)` holds at once.

    What existed before does not count, so the inputs are left out and the output is included.

    Args:
        function: What to run, once. For tensors on the CPU it runs twice; the first run takes
            what torch allocates only once.
        *args: Its arguments; where they lie decides which allocator is watched.
        **kwargs: Its keyword arguments.

    Returns:
        Bytes in NumPy arrays and Python objects; with tensors among the arguments, bytes in
        tensors of the same device.
    """
    call = functools.partial(function, *args, **kwargs)
    home = home_of(args, kwargs)
    if home == "cuda":
        return _cuda_peak(call)
    if home == "cpu":
        return _torch_cpu_peak(call)
    return _numpy_peak(call)


def _numpy_peak(call: Callable[[], Any]) -> int:
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    return max(0, peak - before)


def _torch_cpu_peak(call: Callable[[], Any]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # its start and stop lines go to stderr
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()  # kept, so that its memory is not freed inside the record
    del result
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _cuda_peak(call: Callable[[], Any]) -> int:
    torch = sys.modules["torch"]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def resident_peak_bytes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Return by how much the memory of this process rises at most during a call.

    The system counts the pages that are occupied (VmHWM), whoever asked for them: NumPy, torch, or
    a library that keeps scratch to itself. It is coarse: in steps of pages, without what comes from
    memory that the process already held. `peak_bytes` is exact for what it watches.

    Args:
        function: What to run, once.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Raises:
        NotImplementedError: This system keeps no such mark, or lets nobody reset it.
    """
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    call = functools.partial(function, *args, **kwargs)
    try:
        clear.write_text("5")  # the mark starts again from what is occupied now
        before = _status_bytes(status, "VmHWM")
    except OSError as error:
        raise NotImplementedError(
            f"measure.resident_peak_bytes: this system gives no peak to read ({error})"
        ) from None
    result = call()
    peak = _status_bytes(status, "VmHWM")
    del result
    return max(0, peak - before)


def _status_bytes(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024  # the system writes kB and means KiB
    raise FileNotFoundError(f"no {field} in {status}")


def free_bytes(on_gpu: bool = False) -> int:
    """Return how many bytes are still to be had: on the current GPU, or in this machine's memory.

    Args:
        on_gpu: Ask CUDA, and count what torch has reserved and does not use.
    """
    if on_gpu:
        import torch

        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + unused
    import psutil

    return psutil.virtual_memory().available
