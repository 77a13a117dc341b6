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
from collections.abc import Callable, Iterator, Mapping
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
        wider: Floating arrays with more bytes a number than any that came in: their names in the
            learner's code, and their dtypes. Empty if they are too small to matter.
    """

    bytes: int
    place: Place | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    times: int = 1
    wider: Mapping[str, str] = field(default_factory=dict)

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
    lines = _Lines(function, widest(arguments := (args, kwargs)))
    tensors = _holds_tensors(arguments)
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
    where, wider = place(function, found.code, found.line), lines.wider(n_bytes)
    times = found.times
    if found.array is not None and found.largest <= 1.05 * found.step:  # as large as all others
        return Peak(n_bytes, where, *found.array, times or 1, wider)
    guess = _guess(found.step, found.seen)
    if guess is None or times is None:
        return Peak(n_bytes, where, wider=wider)
    shape, each = guess
    return Peak(n_bytes, where, shape if times == 1 else (times, *shape), None, each, wider)


@dataclass
class _Line:
    """What one line added to the peak."""

    code: CodeType
    line: int
    steps: list[int] = field(default_factory=list)  # bytes of each
    largest: int = 0  # in one step
    array: tuple[tuple[int, ...], str] | None = None  # shape and dtype, if it was found
    seen: tuple[tuple[int, ...], ...] = ()  # shapes of the arrays that its function had then

    @property
    def growth(self) -> int:
        """Bytes of all steps."""
        return sum(self.steps)

    @property
    def step(self) -> int:
        """Bytes of one step: of a typical one in a loop, whose first steps hold temporaries too."""
        steps = [step for step in self.steps if step > 0.02 * self.largest]  # no Python objects
        return self.growth // len(steps) if len(steps) > 8 else self.largest

    @property
    def times(self) -> int | None:
        """How many such steps make up the growth; None if it is no whole number of them."""
        times = self.growth / self.step
        return round(times) if abs(times - round(times)) < 0.05 * times else None


@dataclass
class _Lines:
    """Books each growth of tracemalloc's peak on the line of the learner's code before it."""

    function: Callable
    came_in: str | None = None  # the widest floating dtype of the arguments
    lines: dict[tuple[CodeType, int], _Line] = field(default_factory=dict)
    peak: int = 0
    current: dict[int, tuple[CodeType, int] | None] = field(default_factory=dict)  # by thread
    wide: dict[str, str] = field(default_factory=dict)  # dtypes, by name
    wide_bytes: int = 0  # of those that one frame had at once
    other_bytes: int = 0  # of the largest array made that has no floating numbers
    given: set[int] = field(default_factory=set)  # ids of the arguments' arrays

    def run(self, args: tuple, kwargs: dict) -> None:
        """Call the function under the trace, in every thread that it starts."""
        own, step = namespace(self.function), self._step
        self.given = {id(each) for each in leaves((args, kwargs))}

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

    def wider(self, n_bytes: int) -> Mapping[str, str]:
        """The arrays wider than what came in, if they are a tenth of the peak and numbers alone.

        What share of a peak their dtype has cannot be told where large arrays of integers are held.
        """
        told = self.wide_bytes >= n_bytes / 10 > self.other_bytes
        return self.wide if told else {}

    def _step(self, frame: FrameType, event: str, arg: Any) -> Callable:
        thread = threading.get_ident()
        highest = tracemalloc.get_traced_memory()[1]
        if highest > self.peak:
            growth, self.peak = highest - self.peak, highest
            if where := self.current.get(thread):
                self._book(where, growth, [*frame.f_locals.values(), arg])
            self._widen(frame)
        if event != "return":
            self.current[thread] = (frame.f_code, frame.f_lineno)
        else:
            self._widen(frame)
            caller = frame.f_back
            while caller is not None and caller.f_globals is not frame.f_globals:
                caller = caller.f_back
            self.current[thread] = caller and (caller.f_code, caller.f_lineno)
        return self._step

    def _book(self, where: tuple[CodeType, int], growth: int, values: list) -> None:
        line = self.lines.setdefault(where, _Line(*where))
        line.steps.append(growth)
        if growth > line.largest:
            line.largest = growth
            line.array = _array_of(growth, values)
            line.seen = tuple(each.shape for each in _arrays(values))

    def _widen(self, frame: FrameType) -> None:
        """Note what names of a frame hold floating arrays wider than any that came in."""
        if self.came_in is None:
            return
        width, wide_bytes = np.dtype(self.came_in).itemsize, 0
        for name, value in list(frame.f_locals.items()):
            for array in _arrays([value]):
                if array.dtype.kind != "f":
                    if id(array) not in self.given:
                        self.other_bytes = max(self.other_bytes, array.nbytes)
                elif array.itemsize > width:
                    self.wide[name] = array.dtype.name
                    wide_bytes += array.nbytes
        self.wide_bytes = max(self.wide_bytes, wide_bytes)


def _array_of(growth: int, values: list) -> tuple[tuple[int, ...], str] | None:
    """Find an array of that size among those that were just bound to a name or returned."""
    for value in values:
        if type(value) is np.ndarray and _fits(value.nbytes, growth):
            return value.shape, value.dtype.name
    return None


def _arrays(values: list) -> Iterator[np.ndarray]:
    """Yield the arrays among values, and the first of those that a tuple or list holds."""
    for value in values:
        inner = value[:8] if type(value) in (tuple, list) else (value,)
        yield from (each for each in inner if type(each) is np.ndarray)


def widest(arguments: Any) -> str | None:
    """The widest floating dtype among the arrays of the arguments, None if there is none."""
    arrays = [each for each in leaves(arguments) if isinstance(each, np.ndarray)]
    floating = [each.dtype for each in arrays if each.dtype.kind == "f"]
    return max(floating, key=lambda dtype: dtype.itemsize).name if floating else None


def _guess(growth: int, seen: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], int] | None:
    """Write a number of bytes as a shape, from sizes that were seen, and bytes for each position.

    Sizes are those of the arrays that the line had at hand. The simplest reading wins: few axes,
    then one or two float32. What arrays they were was not seen: 8 bytes may be one float64 or two
    float32. More axes than three and than any array has, or more than two of one size, could be
    read into every number.
    """
    most_axes = 4 if any(len(shape) > 3 for shape in seen) else 3
    sizes = {size for shape in seen for size in shape}
    known = sorted((size for size in sizes if size > 1), reverse=True)[:8]
    axes = range(1, most_axes + 1)
    for n_axes, each in itertools.product(axes, (4, 8, 1, 12, 16, 24, 32, 2)):
        for shape in itertools.combinations_with_replacement(known[::-1], n_axes):
            if len(set(shape)) >= n_axes - 1 and _fits(each * math.prod(shape), growth):
                return shape, each
    return None


def _fits(n_bytes: int, growth: int) -> bool:
    """Whether arrays of `n_bytes`, with their Python objects, make up a growth.

    It may lack a little, as the line before, and what looks on here, may have held that already.
    """
    return -1024 <= growth - n_bytes <= 0.02 * growth + 256


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
