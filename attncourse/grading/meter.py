"""The allocation meter: the most bytes a call holds at once, and the line that asked for them.

How many bytes is `measure.peak_bytes`: `tracemalloc` for NumPy and Python objects, the allocators
for torch. Which line is found by running the call a second time under a trace function, which
books every growth of the peak on the line that had just been executed.

What it sees: arrays that were never written to, memory that was freed again before the call
returned, memory of other threads and, in a call on NumPy arrays, anonymous or file-backed `mmap`
and tensors that torch makes on the side. What existed before the call and views of it do not count.

What it cannot see: memory that a C library takes for itself, such as the workspace of BLAS or
`malloc` called through ctypes, other processes, and files. Memory mapped with `mmap` counts until
the end of the call, even when it is unmapped earlier. With several threads the bytes are right, but
the line may be one that another thread was executing.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from types import CodeType, FrameType
from typing import Any

import numpy as np

from attncourse import measure
from attncourse.grading.places import Place, namespace, place
from attncourse.grading.values import is_tensor, leaves
from attncourse.measure.memory import python_peak_bytes
from attncourse.units import format_bytes


class Unmetered(Exception):
    """The call switched the meter off."""


@dataclass(frozen=True)
class Peak:
    """The most bytes a call held, and where the largest part of them was made.

    Attributes:
        bytes: The result included, what existed before the call not.
        place: The line of the learner's code, None if no line of it is to blame.
        shape: Shape of the array made there, None if unknown.
        dtype: Its dtype, "float32"; None if the array itself was not seen and the shape is only
            one that accounts for the bytes.
        times: How many such arrays were alive at once; bytes for each of its positions if the
            array was not seen.
    """

    bytes: int
    place: Place | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    times: int = 1

    @property
    def line(self) -> int | None:
        """The line, counted from the first line of its function."""
        return self.place and self.place.line

    @property
    def source(self) -> str | None:
        """The text of that line."""
        return self.place and self.place.text

    def __str__(self) -> str:
        if self.place is None:
            return ""
        if self.shape is None:
            return f"most of it made at {self.place}"
        if self.dtype is None:
            each, positions = self.times, " × ".join(map(str, self.shape))
            made, plural = format_bytes(each * math.prod(self.shape)), "" if each == 1 else "s"
            return f"{made}, {each} byte{plural} for each of {positions}, made at {self.place}"
        many, plural = ("a", "") if self.times == 1 else (str(self.times), "s")
        return f"{many} {self.shape} {self.dtype} array{plural} made at {self.place}"


def peak(function: Callable, *args: Any, **kwargs: Any) -> Peak:
    """Meter `function(*args, **kwargs)`: how many bytes at once, and which line made most of them.

    The function runs twice, with tensors among its arguments three times.

    Raises:
        Unmetered: The function switched tracemalloc off.
    """
    _, n_bytes = held(function, *args, **kwargs)
    return located(n_bytes, function, *args, **kwargs)


def held(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Return the result of `function(*args, **kwargs)` and the most bytes it held at once.

    Raises:
        Unmetered: The function switched tracemalloc off.
    """
    results, beside = [], 0  # torch is run twice; freeing the first result would count

    def run_numpy(*args: Any, **kwargs: Any) -> None:
        nonlocal beside
        with _tracing_kept(), _maps_counted() as mapped, _tensors_counted(function) as storages:
            mark = bytearray(1)
            results.append(function(*args, **kwargs))
        beside = sum(mapped) + storages.peak
        if tracemalloc.get_object_traceback(mark) is None:  # off, or off and on again
            raise Unmetered("tracemalloc was switched off")

    def run_torch(*args: Any, **kwargs: Any) -> None:
        results.append(function(*args, **kwargs))

    if _holds_tensors((args, kwargs)):
        n_bytes = measure.peak_bytes(run_torch, *args, **kwargs)
    else:
        n_bytes = python_peak_bytes("meter.held", partial(run_numpy, *args, **kwargs))
    return results[-1], n_bytes + beside


def located(n_bytes: int, function: Callable, *args: Any, **kwargs: Any) -> Peak:
    """Run a call that held `n_bytes` again, and return its peak with the line that made most."""
    lines = _Lines(function)
    tensors = _holds_tensors((args, kwargs))
    with _tensors_counted(function) as storages:
        if tensors:
            function(*args, **kwargs)
        else:
            lines.run(args, kwargs)
    found = lines.worst()
    if storages.largest is not None and (tensors or storages.peak > n_bytes / 2):
        where, shape, dtype = storages.largest
        return Peak(n_bytes, where and place(function, *where), shape, dtype)
    if found is None:
        return Peak(n_bytes)
    where = place(function, found.code, found.line)
    times = max(1, round(found.growth / found.step))
    if found.array is not None:
        return Peak(n_bytes, where, *found.array, times)
    guess = _guess(found.step, (args, kwargs))
    if guess is None:
        return Peak(n_bytes, where)
    shape, each = guess
    return Peak(n_bytes, where, shape if times == 1 else (times, *shape), None, each)


@dataclass
class _Line:
    """What one line added to the peak."""

    code: CodeType
    line: int
    growth: int = 0
    steps: int = 0
    largest: int = 0  # in one step
    array: tuple[tuple[int, ...], str] | None = None  # shape and dtype, if it was found

    @property
    def step(self) -> int:
        """Bytes of one step: of a typical one in a loop, whose first steps hold temporaries too."""
        return self.growth // self.steps if self.steps > 8 else self.largest


@dataclass
class _Lines:
    """Books each growth of tracemalloc's peak on the line of the learner's code before it."""

    function: Callable
    lines: dict[tuple[CodeType, int], _Line] = field(default_factory=dict)
    peak: int = 0
    current: dict[int, tuple[CodeType, int] | None] = field(default_factory=dict)  # by thread

    def run(self, args: tuple, kwargs: dict) -> None:
        """Call the function under the trace, in every thread that it starts."""
        own, step = namespace(self.function), self._step

        def enter(frame: FrameType, event: str, arg: Any) -> Callable | None:
            if frame.f_globals is not own:
                return None
            return step(frame, event, arg)

        was_tracing = tracemalloc.is_tracing()
        before = sys.gettrace(), threading.gettrace()
        if not was_tracing:
            tracemalloc.start()
        try:
            tracemalloc.reset_peak()
            self.peak = tracemalloc.get_traced_memory()[1]
            with _tracing_kept():
                threading.settrace(enter)
                sys.settrace(enter)
                self.function(*args, **kwargs)
        finally:
            sys.settrace(before[0])
            threading.settrace(before[1])
            if not was_tracing:
                tracemalloc.stop()

    def worst(self) -> _Line | None:
        """The first of the lines that added most."""
        most = max((line.growth for line in self.lines.values()), default=0)
        return next((line for line in self.lines.values() if line.growth > 0.95 * most), None)

    def _step(self, frame: FrameType, event: str, arg: Any) -> Callable:
        thread = threading.get_ident()
        highest = tracemalloc.get_traced_memory()[1]
        if highest > self.peak:
            growth, self.peak = highest - self.peak, highest
            if where := self.current.get(thread):
                self._book(where, growth, [*frame.f_locals.values(), arg])
        if event != "return":
            self.current[thread] = (frame.f_code, frame.f_lineno)
        else:
            caller = frame.f_back
            while caller is not None and caller.f_globals is not frame.f_globals:
                caller = caller.f_back
            self.current[thread] = caller and (caller.f_code, caller.f_lineno)
        return self._step

    def _book(self, where: tuple[CodeType, int], growth: int, values: list) -> None:
        line = self.lines.setdefault(where, _Line(*where))
        line.growth += growth
        line.steps += 1
        if growth > line.largest:
            line.largest = growth
            line.array = _array_of(growth, values)


def _array_of(growth: int, values: list) -> tuple[tuple[int, ...], str] | None:
    """Find an array of that size among those that were just bound to a name or returned."""
    for value in values:
        if type(value) is np.ndarray and _fits(value.nbytes, growth):
            return value.shape, value.dtype.name
    return None


def _guess(growth: int, arguments: Any) -> tuple[tuple[int, ...], int] | None:
    """Write a number of bytes as a shape, from sizes that are known, and bytes for each position.

    The simplest reading wins: few axes, few bytes. What arrays they were was not seen: 8 bytes may
    be one float64 or two float32. More axes than three and than any argument has, or more than two
    of one size, could be read into every number.
    """
    sizes, most_axes = set(), 3
    for value in leaves(arguments):
        if isinstance(value, np.ndarray):
            sizes.update(value.shape)
            most_axes = min(4, max(most_axes, value.ndim))
        elif type(value) is int and value < 10**9:
            sizes.add(value)
    sizes = sorted((size for size in sizes if size > 1), reverse=True)[:8]
    axes = range(1, most_axes + 1)
    for n_axes, each in itertools.product(axes, (1, 2, 4, 8, 12, 16, 24, 32)):
        for shape in itertools.combinations_with_replacement(sizes[::-1], n_axes):
            if len(set(shape)) >= n_axes - 1 and _fits(each * math.prod(shape), growth):
                return shape, each
    return None


def _fits(n_bytes: int, growth: int) -> bool:
    """Whether arrays of `n_bytes`, with their Python objects, make up a growth."""
    return 0 <= growth - n_bytes <= 0.02 * growth + 256


@contextmanager
def _tracing_kept() -> Iterator[None]:
    """Let calls that stop or reset tracemalloc do nothing: it is the meter's for now."""
    names = ("start", "stop", "reset_peak", "clear_traces")
    real = {name: getattr(tracemalloc, name) for name in names}
    try:
        for name in names[1:]:
            setattr(tracemalloc, name, lambda: None)
        tracemalloc.start = lambda nframe=1: None
        yield
    finally:
        for name in names:
            setattr(tracemalloc, name, real[name])


_mapped: list[int] | None = None  # lengths of the maps made, while they are counted


@cache
def _listen() -> None:
    """Install the audit hook, once: Python offers no way to take one away."""

    def hear(event: str, args: tuple) -> None:
        if event == "mmap.__new__" and _mapped is not None:
            _mapped.append(args[1])

    sys.addaudithook(hear)


@contextmanager
def _maps_counted() -> Iterator[list[int]]:
    global _mapped
    _listen()
    _mapped = mapped = []
    try:
        yield mapped
    finally:
        _mapped = None


@dataclass
class _Storages:
    """The torch storages alive in a call: the most bytes at once, and the largest of them."""

    function: Callable
    now: int = 0
    peak: int = 0
    seen: set[int] = field(default_factory=set)
    largest_bytes: int = 0
    largest: tuple[tuple[CodeType, int] | None, tuple[int, ...], str] | None = None

    def add(self, tensor: Any, known: set[int]) -> None:
        """Count the storage of a tensor that an operation returned, unless it is known."""
        storage = tensor.untyped_storage()
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in known or key in self.seen:
            return
        self.seen.add(key)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, n_bytes)
        if n_bytes > self.largest_bytes:
            dtype = str(tensor.dtype).removeprefix("torch.")
            self.largest_bytes = n_bytes
            self.largest = self._where(), tuple(tensor.shape), dtype

    def _freed(self, key: int, n_bytes: int) -> None:
        self.seen.discard(key)
        self.now -= n_bytes

    def _where(self) -> tuple[CodeType, int] | None:
        own, frame = namespace(self.function), sys._getframe()
        while frame is not None and frame.f_globals is not own:
            frame = frame.f_back
        return frame and (frame.f_code, frame.f_lineno)


@contextmanager
def _tensors_counted(function: Callable) -> Iterator[_Storages]:
    """Count what torch's operations return, if torch is loaded at all."""
    storages = _Storages(function)
    torch = sys.modules.get("torch")
    if torch is None:
        yield storages
        return
    from torch.overrides import TorchFunctionMode

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            given = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
            for tensor in tensors(result):
                storages.add(tensor, given)
            return result

    def tensors(value: Any) -> list[Any]:
        return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]

    with Counting():
        yield storages


def _holds_tensors(arguments: Any) -> bool:
    return any(map(is_tensor, leaves(arguments)))
