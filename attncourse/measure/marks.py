"""High-water marks of memory that may be set inside each other, and who else works meanwhile."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MAY_WORK = 1e-3  # seconds of another thread: as long as it takes to fill a megabyte
# Threads of the notebook's kernel, and the grader's clock, work now and then and hold little.
SERVICES = ("ipykernel", "IPython", "jupyter_client", "zmq", "attncourse")


class NotAlone(RuntimeError):
    """Another thread worked while memory was counted for the whole process."""


@dataclass(eq=False)
class Mark:
    """The bytes in use when a measurement began, and the most until now.

    Attributes:
        before: At the beginning.
        highest: Since then; right when the measurement has ended.
    """

    before: int
    highest: int = 0

    @property
    def bytes(self) -> int:
        """The most beyond what was there."""
        return max(0, self.highest - self.before)


_open: dict[str, list[Mark]] = {}  # by meter; each has one mark, which all measurements share


@contextmanager
def _marked(
    meter: str, now: Callable[[], int], highest: Callable[[], int], reset: Callable[[], Any]
) -> Iterator[Mark]:
    """Watch a meter whose only mark is set back; measurements further out keep what it showed."""
    marks = _open.setdefault(meter, [])

    def book() -> None:
        for mark in marks:
            mark.highest = max(mark.highest, highest())

    book()
    reset()
    mark = Mark(now())
    marks.append(mark)
    try:
        yield mark
    finally:
        book()
        marks.remove(mark)


@contextmanager
def python_marked() -> Iterator[Mark]:
    """Watch NumPy arrays and Python objects."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        with _marked(
            "python",
            lambda: tracemalloc.get_traced_memory()[0],
            lambda: tracemalloc.get_traced_memory()[1],
            lambda: tracemalloc.reset_peak(),
        ) as mark:
            yield mark
    finally:
        if not was_tracing:
            tracemalloc.stop()


@contextmanager
def cuda_marked(cuda: Any, device: Any) -> Iterator[Mark]:
    """Watch the tensors on one GPU.

    Args:
        cuda: `torch.cuda`.
        device: Which GPU.
    """
    cuda.synchronize(device)
    with _marked(
        str(device),
        lambda: cuda.memory_allocated(device),
        lambda: cuda.max_memory_allocated(device),
        lambda: cuda.reset_peak_memory_stats(device),
    ) as mark:
        yield mark
        cuda.synchronize(device)


@contextmanager
def alone(where: str) -> Iterator[None]:
    """Refuse a measurement of memory in whose time another thread worked.

    Memory is counted for the whole process. What threads hold that the block itself starts is its
    own; a thread that only waits does no harm. Where threads have no clocks, nothing is refused.

    Raises:
        NotAlone: At the end of the block, which has run.
    """
    before = {thread: (clock, _read(clock)) for thread, clock in _clocks()}
    yield
    for thread, (clock, seconds) in before.items():
        if seconds is None:
            continue
        now = _read(clock)
        if now is None or now - seconds > MAY_WORK:
            raise NotAlone(
                f"{where}: the thread {thread.name!r} worked at the same time, and memory is "
                "counted for the whole process: let it end first"
            )


def _clocks() -> Iterator[tuple[threading.Thread, int]]:
    if sys.platform != "linux":
        return
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None)
        module = getattr(target, "__module__", None) or type(thread).__module__
        mine = thread is threading.current_thread() or module.partition(".")[0] in SERVICES
        if not mine and thread.native_id is not None:  # else it is only just starting
            # Linux's number for the clock of a thread. `time.pthread_getcpuclockid` crashes for
            # one that has ended, which Python still lists if it was not started by `threading`.
            yield thread, ~thread.native_id << 3 | 6


def _read(clock: int) -> float | None:
    try:
        return time.clock_gettime(clock)
    except OSError:  # the thread has ended
        return None
