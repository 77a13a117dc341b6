"""The second meter: by how much a process grows in a call, whoever took the memory.

The first meter sees what NumPy, Python and torch book. This one asks the system. The call runs once
more in a forked child, where every page of memory that was there before is shared with its parent:
a page that the call writes to becomes the child's own, be it new, or part of a buffer that was kept
somewhere from earlier. Linux counts such pages. Elsewhere there is no second meter.

It is coarse, and meant for what is far too large: a page counts as a whole, and so do the scratch
buffers of BLAS and the counters inside old Python objects. `NOISE` is allowed for that.

What it cannot see: an old buffer that the call only reads.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from attncourse.grading import guard

NOISE = 6 * 2**20  # bytes; over all solutions and alternatives at most 3.7 MiB were seen
LARGE = 2**17  # bytes, from which on an array is mapped
SMALL = 2**20  # bytes of objects of each size that find room in pools
# prctl's PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_THP_DISABLE
_DIE_WITH_PARENT, _ADOPT_ORPHANS, _NO_HUGE_PAGES = 1, 36, 41
_MAP_FROM = -3  # mallopt's M_MMAP_THRESHOLD


@dataclass(frozen=True)
class Growth:
    """What a call did to its process.

    Attributes:
        bytes: Memory that was written to, the result included.
        started: Whether it started other processes, whose memory is not in `bytes`.
    """

    bytes: int
    started: bool


def growth(
    function: Callable, args: tuple, kwargs: dict, *, before: tuple, seconds: float
) -> Growth | None:
    """Run `function(*args, **kwargs)` in a forked child and return how it grew.

    Args:
        function: The learner's function.
        args: Its arguments.
        kwargs: Its keyword arguments.
        before: `(args, kwargs)` of a small call that is made first, for what is loaded only once.
        seconds: The time limit.

    Returns:
        None where the system does not tell, or the call did not end.
    """
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork() among threads: see `_child`
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(_child(function, args, kwargs, before, seconds)).encode())
        finally:
            os._exit(0)  # nothing of the notebook's runs on in the child
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], 2 * seconds + 5)
        told = os.read(reading, 4096) if ready else b""
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
    found = json.loads(told) if told else None
    return found and Growth(*found)


def _child(
    function: Callable, args: tuple, kwargs: dict, before: tuple, seconds: float
) -> tuple[int, bool] | None:
    """What the child does: settle, make the small call, then the one that counts."""
    import resource  # not on Windows

    libc = ctypes.CDLL(None)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    libc.prctl(_NO_HUGE_PAGES, 1, 0, 0, 0)  # one byte written would count as 2 MiB
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    gc.freeze()  # a collection writes into every old object that it visits
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # its other threads were not forked: it would wait for them
    _settle()
    shared = _own_bytes()
    guard.call(function, *before, seconds=seconds, owner=function)
    high = _highest()
    outcome = guard.call(function, args, kwargs, seconds=seconds, owner=function)
    if outcome.raised:
        return None
    grown = max(_own_bytes() - shared, _highest() - high if high else 0)
    running = psutil.Process().children(recursive=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    for process in running:
        with suppress(psutil.Error):
            process.kill()
            process.wait(1)
    return grown, bool(running or ended)


def _settle() -> None:
    """Let BLAS and NumPy take what they take once."""
    for dtype in (np.float32, np.float64):
        x = np.full((256, 256), 1 / 16, dtype)  # scores of 1: exp must not overflow
        np.exp(x @ x.T - x.max(-1)).sum(-1)
    _fill_pools()
    _close_holes()


def _fill_pools() -> None:
    """Write to what Python keeps for small objects, wherever there is room between old ones.

    Those that the call makes then come to lie there, and not each on a page of its parent's.
    """
    for size in range(48, 513, 16):
        _ = [bytes(size - sys.getsizeof(b"")) for _ in range(SMALL // size)]


class _MallInfo2(ctypes.Structure):
    """What glibc's `mallinfo2` returns.

    `arena` is how large the heap has become, `hblks` how many blocks lie outside of it.
    """

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks "
        "keepcost".split()
    ]


def _close_holes() -> None:
    """Leave no hole in the heap whose use would count for more than is held at a time.

    In a process that has run for long, arrays come to lie in ever other holes between what is kept,
    and each would count once it is written to. So the child takes the large ones for good, without
    writing: arrays of that size are then mapped, and given back when they are freed. The small ones
    it writes to before anything is counted.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):  # another C library, or glibc before 2.33
        return
    libc.mallinfo2.restype = _MallInfo2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.mallopt(_MAP_FROM, LARGE)

    def grown() -> tuple[int, int]:
        info = libc.mallinfo2()
        return info.arena, info.hblks

    small = []
    for bits in range(24, 9, -1):
        before = grown()
        while grown() == before:  # until no hole of this size is left
            place = libc.malloc(2**bits)
            if 2**bits < LARGE:
                ctypes.memset(place, 1, 2**bits)
                small.append(place)
    for place in small:
        libc.free(place)


def _own_bytes() -> int:
    """Bytes of memory that this process alone has written to."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, *rest = line.split()
        if name == "Private_Dirty:":
            return 1024 * int(rest[0])
    return 0


def _highest() -> int:
    """The most memory that was occupied since the last call of this function; 0 if not told."""
    status = Path("/proc/self/status").read_text()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return 0
