"""The most bytes that a call holds at once, and the bytes that are free."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attncourse.measure.marks import alone, cuda_marked, python_marked
from attncourse.measure.tensors import device_of, devices_used, one_of

_profiling = False  # torch's profiler serves one measurement at a time


def peak_bytes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Return the most bytes that `function(*args, **kwargs)` holds at once.

    What existed before does not count, so the inputs are left out and the output is included. Calls
    may be measured inside each other, but for those on CPU tensors.

    Args:
        function: What to run, once; for tensors on the CPU twice, because the first run takes what
            torch allocates only once. Twice more if it uses tensors that are not among its
            arguments, but in a closure, a module or another object, or made by itself: the first
            run finds that out.
        *args: Its arguments; where they lie decides which allocator is watched.
        **kwargs: Its keyword arguments.

    Returns:
        Bytes in NumPy arrays and Python objects; with tensors among the arguments, bytes in
        tensors of the same device; with tensors elsewhere, the larger of the two.

    Raises:
        NotImplementedError: The tensors lie on more than one GPU, or calls on CPU tensors are
            measured inside each other or recorded by torch's profiler.
        RuntimeError: Another thread worked at the same time. Memory is counted for the process.
    """
    where = "measure.peak_bytes"
    call = functools.partial(function, *args, **kwargs)
    device = device_of(where, args, kwargs)
    if device is not None:
        return _tensor_peak(where, call, device)
    with devices_used() as devices:
        held = python_peak_bytes(where, call)
    device = one_of(where, devices)
    if device is None:
        return held
    held = python_peak_bytes(where, call)  # without what torch loads when it is first used
    return max(held, _tensor_peak(where, call, device))


def python_peak_bytes(where: str, call: Callable[[], Any]) -> int:
    """Return the most bytes in NumPy arrays and Python objects that a call holds, tensors aside.

    Args:
        where: The function that asks.
        call: What to run, once.

    Raises:
        RuntimeError: Another thread worked at the same time.
    """
    with alone(where), python_marked() as mark:
        call()
    return mark.bytes


def _tensor_peak(where: str, call: Callable[[], Any], device: Any) -> int:
    if device.type == "cpu":
        return _torch_cpu_peak(where, call)
    with alone(where), cuda_marked(sys.modules["torch"].cuda, device) as mark:
        call()
    return mark.bytes


def _torch_cpu_peak(where: str, call: Callable[[], Any]) -> int:
    global _profiling
    if _profiling:
        raise NotImplementedError(
            f"{where}: calls on CPU tensors cannot be measured inside each other; torch's profiler "
            "serves one at a time"
        )
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # its start and stop lines go to stderr
    from torch.autograd import _profiler_enabled
    from torch.autograd.profiler import profile  # torch.profiler's loads the compiler, for seconds

    others = f"{where}: nothing that torch's profiler records can be measured on CPU tensors"
    if _profiler_enabled():
        raise NotImplementedError(others)
    _profiling = True
    try:
        call()
        with profile(use_kineto=True, profile_memory=True) as recorded:
            result = call()  # kept, so that its memory is not freed inside the record
            if not _profiler_enabled():  # the call has started its own, which ended ours
                raise NotImplementedError(others)
    finally:
        _profiling = False
    del result
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


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


def free_bytes(device: Any = None) -> int:
    """Return how many bytes are still to be had on a device.

    Args:
        device: A GPU, as torch names it ("cuda" is the current one): CUDA is asked, and what torch
            has reserved there and does not use counts. The machine's memory for "cpu" or None.
    """
    if device is not None and not str(device).startswith("cpu"):
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    return psutil.virtual_memory().available
