"""Measure a call: its seconds, its peak bytes, its floating-point operations; and the machine.

Torch is never imported here. Where a caller passes torch tensors it is there already, and the
measurement follows them: CUDA events and the CUDA allocator for tensors on a GPU, torch's
allocator events for tensors on the CPU, `tracemalloc` for NumPy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import string
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attncourse.units import format_seconds

FLUSH_BYTES = 256 * 2**20  # more than the caches of a CPU or a GPU hold
PROGRESS_AFTER = 2.0  # seconds; what is done sooner needs no bar


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
    the GPU's own clock is read, before and after the work. Ctrl-C ends it and leaves nothing
    changed; from two seconds on a terminal shows how far it is.

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
    on_gpu = _home_of(args, kwargs) == "cuda"
    once, empty = (_cuda_once, _cuda_flusher) if on_gpu else (_cpu_once, _cpu_flusher)
    flusher = empty() if flush else None
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
    home = _home_of(args, kwargs)
    if home == "cuda":
        return _cuda_peak(call)
    if home == "cpu":
        return _torch_cpu_peak(call)
    return _numpy_peak(call)


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


@dataclass
class Seen:
    """What `watch` saw.

    Attributes:
        seconds: From entering to leaving.
        peak_bytes: The most bytes in NumPy arrays and Python objects, beyond those at the start.
        cuda_peak_bytes: The same in tensors on the GPU; None where torch uses no GPU.
    """

    seconds: float = math.nan
    peak_bytes: int = 0
    cuda_peak_bytes: int | None = None


@contextmanager
def watch() -> Iterator[Seen]:
    """Measure the seconds and the peak bytes of a `with` block, once.

    Watching allocations slows code that makes many small objects. For a time to quote use
    `seconds`, which warms up, repeats and shows the spread.

    Yields:
        A record that is filled when the block ends, by an error or Ctrl-C too.

    Examples:
        >>> with watch() as seen:
        ...     zeros = np.zeros(10**6)
        >>> seen.peak_bytes >= zeros.nbytes
        True
    """
    seen = Seen()
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch is not None and torch.cuda.is_initialized() else None
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        cuda_before = cuda.memory_allocated()
    start = time.perf_counter()
    try:
        yield seen
    finally:
        if cuda:
            cuda.synchronize()
            seen.cuda_peak_bytes = cuda.max_memory_allocated() - cuda_before
        seen.seconds = time.perf_counter() - start
        seen.peak_bytes = max(0, tracemalloc.get_traced_memory()[1] - before)
        if not was_tracing:
            tracemalloc.stop()


def energy(
    function: Callable[..., Any], *args: Any, at_least: float = 1.0, **kwargs: Any
) -> float | None:
    """Return the joules that one call takes on the GPU, idle power included, if the GPU tells.

    The call is repeated for a second, because the meter is slow. It is NVML's counter of energy if
    pynvml is installed, else the power that nvidia-smi reports, times the time.

    Args:
        function: What to run.
        *args: Its arguments, with CUDA tensors among them.
        at_least: Seconds to repeat for.
        **kwargs: Its keyword arguments.

    Returns:
        Joules of one call, or None without CUDA tensors or a meter.
    """
    if _home_of(args, kwargs) != "cuda":
        return None
    torch = sys.modules["torch"]
    call = functools.partial(function, *args, **kwargs)
    gpu = (
        f"GPU-{torch.cuda.get_device_properties().uuid}"  # NVML counts GPUs that torch may not see
    )
    read = _energy_meter(gpu)
    call()
    torch.cuda.synchronize()
    start, calls, watts = time.perf_counter(), 0, []
    first = read() if read else None
    while (elapsed := time.perf_counter() - start) < at_least or not calls:
        call()
        calls += 1
        torch.cuda.synchronize()
        if read is None and elapsed > len(watts) * at_least / 5:
            watts.append(_watts(gpu))
    if read:
        return (read() - first) / calls
    watts = [value for value in watts[1:] if value is not None]  # the first was still idle
    elapsed = time.perf_counter() - start
    return statistics.mean(watts) * elapsed / calls if watts else None


def progress(
    items: Iterable[Any], words: str, *, total: int | None = None, show: bool | None = None
) -> Iterator[Any]:
    """Yield the items; after two seconds a line on stderr says how many are done.

    Args:
        items: What to go through.
        words: What is being done.
        total: How many items there are; `len(items)` if it has one.
        show: Whether to write; only on a terminal, if not given.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    show = sys.stderr.isatty() if show is None else show
    start, written = time.perf_counter(), 0
    try:
        for done, item in enumerate(items):
            elapsed = time.perf_counter() - start
            if show and elapsed > PROGRESS_AFTER:
                line = f"{words}: {done}" + (f" of {total}" if total else "")
                line += f", {format_seconds(round(elapsed))} gone"
                if total and done:
                    line += f", about {format_seconds(round(elapsed * (total - done) / done))} left"
                print(f"\r{line:<{written}}", end="", flush=True, file=sys.stderr)
                written = len(line)
            yield item
    finally:
        if written:
            print(f"\r{'':<{written}}\r", end="", flush=True, file=sys.stderr)


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Count the matrix products that `function(*args, **kwargs)` executes, 2 per multiply-add.

    Counted are `@`, np.matmul, np.dot, np.inner, np.vdot, np.vecdot, np.matvec, np.vecmat,
    np.einsum, np.tensordot and what NumPy builds from them. Exponentials, sums and scaling are
    not. The call computes what it always computes: its arrays carry a counter, nothing else. They
    inherit it from the arguments and from NumPy's array makers, which are replaced while the call
    runs, so let no other thread use NumPy meanwhile. The product of two arrays that come from
    elsewhere, such as two straight from a random generator, goes unseen.

    Args:
        function: What to run, once.
        *args: Its arguments; arrays in tuples, lists and dicts count too.
        **kwargs: Its keyword arguments.

    Returns:
        FLOPs: twice the number of multiply-adds.

    Raises:
        NotImplementedError: np.einsum was called with lists of indices instead of a string.
    """
    counted = type("Counted", (_Counted,), {"multiply_adds": 0})
    makers = {name: getattr(np, name) for name in _ARRAY_MAKERS}
    try:
        for name, maker in makers.items():
            setattr(np, name, counted.making(maker))
        function(*counted.wrap(args), **counted.wrap(kwargs))
    finally:
        for name, maker in makers.items():
            setattr(np, name, maker)
    return 2 * counted.multiply_adds


class Machine(dict):
    """The facts of `machine()`; `str` gives them as one sentence."""

    def __str__(self) -> str:
        memory = f"{self['memory_bytes'] / 2**30:.0f} GiB" if self["memory_bytes"] else "unknown"
        versions = ", ".join(
            f"{name} {version}" for name, version in self["versions"].items() if version
        )
        return (
            f"{self['cpu']}, {self['cores']} cores, {memory} memory; "
            f"{self['gpu'] or 'no GPU'}; {self['system']}; {versions}"
        )


def machine() -> Machine:
    """Describe this machine in words that a recorded measurement can carry.

    Returns:
        cpu, cores (those this process may use), memory_bytes (None if unknown), gpu (None if
        there is none), driver (None without one), system, and versions of python, numpy, torch
        and triton (None if absent).
    """
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=_memory_bytes(),
        gpu=_gpu_name(),
        driver=_output_of(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        ).partition("\n")[0]
        or None,
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in ("numpy", "torch", "triton")},
    )


def _cpu_once(call: Callable[[], Any], flusher: Callable[[], Any] | None = None) -> float:
    if flusher:
        flusher()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cuda_once(call: Callable[[], Any], flusher: Callable[[], Any] | None = None) -> float:
    torch = sys.modules["torch"]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if flusher:
        flusher()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3  # CUDA counts milliseconds


def _cpu_flusher() -> Callable[[], Any]:
    return functools.partial(np.empty(FLUSH_BYTES // 4, np.uint8).fill, 0)


def _cuda_flusher() -> Callable[[], Any]:
    torch = sys.modules["torch"]
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_


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


def _home_of(*values: Any) -> str:
    """Return "cuda", "cpu" or, where no tensor is among the values, "numpy"."""
    torch = sys.modules.get("torch")
    homes = {
        value.device.type
        for value in _leaves(values)
        if torch is not None and isinstance(value, torch.Tensor)
    }
    return "cuda" if "cuda" in homes else "cpu" if homes else "numpy"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for part in value:
        yield from _leaves(part)


# They drop the subclass or make an array without one, and `a @ b` on their results must be seen.
_ARRAY_MAKERS = (
    *("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"),
    *("arange", "empty", "eye", "full", "identity", "linspace", "ones", "zeros"),
)


class _Counted(np.ndarray):
    """An ndarray that counts the matrix products it takes part in."""

    multiply_adds: int  # kept by the subclass that `count_flops` makes for one call

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        cls = type(self)
        result = getattr(ufunc, method)(*cls.plain(inputs), **cls.plain(kwargs))
        if ufunc.__name__ in ("matmul", "vecdot", "matvec", "vecmat") and method == "__call__":
            axis = kwargs["axes"][0][-1] if "axes" in kwargs else kwargs.get("axis", -1)
            cls.multiply_adds += np.size(result) * np.shape(inputs[0])[axis]
        if "out" in kwargs:
            return kwargs["out"] if ufunc.nout > 1 else kwargs["out"][0]
        return cls.wrap(result)

    def __array_function__(self, func, types, args, kwargs):
        cls = type(self)
        count = _PRODUCTS.get(func.__name__)
        if count is None:  # NumPy's own code, and the products inside it, run on counted arrays
            return cls.wrap(super().__array_function__(func, types, args, kwargs))
        args, kwargs = cls.plain(args), cls.plain(kwargs)
        result = func(*args, **kwargs)
        cls.multiply_adds += count(result, *args, **kwargs)
        return cls.wrap(result)

    def dot(self, b, out=None):
        return np.dot(self, b, out)

    @classmethod
    def wrap(cls, value):
        """Let the plain arrays in `value` count, over the same memory."""
        return _convert(value, np.ndarray, cls)

    @classmethod
    def plain(cls, value):
        """See the counted arrays in `value` as plain ones, over the same memory."""
        return _convert(value, cls, np.ndarray)

    @classmethod
    def making(cls, maker):
        return lambda *args, **kwargs: cls.wrap(maker(*args, **kwargs))


def _convert(value, old: type, new: type):
    if type(value) is old:
        return value.view(new)
    if type(value) in (tuple, list):
        return type(value)(_convert(part, old, new) for part in value)
    if type(value) is dict:
        return {key: _convert(part, old, new) for key, part in value.items()}
    return value


def _dot_products(result, a, b, out=None) -> int:
    return np.size(result) * np.shape(a)[-1] if np.ndim(a) and np.ndim(b) else 0


def _vdot_products(result, a, b) -> int:
    return np.size(a)


def _tensordot_products(result, a, b, axes=2) -> int:
    a_axes = range(-axes, 0) if isinstance(axes, int) else np.ravel(axes[0]).tolist()
    return np.size(result) * math.prod(np.shape(a)[axis] for axis in a_axes)


def _einsum_products(result, subscripts, *arrays, optimize=False, **_) -> int:
    """Multiply-adds of einsum: for each product of a pair, the sizes of all its indices."""
    if not isinstance(subscripts, str):
        raise NotImplementedError(
            "measure.count_flops: np.einsum is counted with its indices in a string only"
        )
    terms, kept = _einsum_terms(subscripts, arrays)
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        for index, size in zip(term, np.shape(array), strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    path = [tuple(range(len(arrays)))]
    if optimize is not False:
        path = np.einsum_path(subscripts, *arrays, optimize=optimize)[0][1:]
    total = 0
    for step in path:
        together = set().union(*(terms[position] for position in step))
        total += (len(step) - 1) * math.prod(sizes[index] for index in together)
        terms = [term for position, term in enumerate(terms) if position not in step]
        terms.append("".join(together & kept.union(*terms)))
    return total


def _einsum_terms(subscripts: str, arrays) -> tuple[list[str], set[str]]:
    """Return each array's indices, the ellipsis spelt out, and the indices of the result."""
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    spare = [letter for letter in string.ascii_letters if letter not in subscripts]
    terms, leading = [], ""
    for term, array in zip(given.split(","), arrays, strict=True):
        n_leading = np.ndim(array) - len(term.replace("...", ""))
        ellipsis = "".join(spare[:n_leading][::-1])  # aligned at the right, as broadcasting is
        leading = max(leading, ellipsis, key=len)
        terms.append(term.replace("...", ellipsis))
    if not arrow:
        result = "".join(i for i in set(given) if i.isalpha() and given.count(i) == 1)
        return terms, set(result + leading)
    return terms, set(result.replace("...", leading))


_PRODUCTS = {
    "dot": _dot_products,
    "inner": _dot_products,
    "vdot": _vdot_products,
    "tensordot": _tensordot_products,
    "einsum": _einsum_products,
}


def _status_bytes(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024  # the system writes kB and means KiB
    raise FileNotFoundError(f"no {field} in {status}")


def _energy_meter(gpu: str) -> Callable[[], float] | None:
    """Return a function that reads joules since the driver was loaded, or None."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, or a GPU without the counter
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3  # NVML's are mJ


def _watts(gpu: str) -> float | None:
    query = ("--query-gpu=power.draw", "--format=csv,noheader,nounits")
    text = _output_of("nvidia-smi", f"--id={gpu}", *query)
    try:
        return float(text)
    except ValueError:  # "[N/A]", or no such program
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        return _output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines()[0] if names else None


def _output_of(*command: str) -> str:
    """Return what a program prints, or nothing where there is no such program."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
