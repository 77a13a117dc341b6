"""Processes that work together, for notebooks and tests: started at need, never left behind."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import psutil

from attncourse.distributed import travel
from attncourse.inputs import check_count
from attncourse.units import format_seconds

START = 120.0  # seconds to come up: on a busy machine, importing torch alone may take half of it
LIMIT = 600.0  # seconds of a run: long work is honest, and a hang is heard long before
IDLE = 5.0  # seconds in which nobody works: longer than any message, and short enough to wait for
WORKING = 0.01  # of one core, all workers together; waiting takes less, a busy machine leaves more
GRACE = 0.25  # seconds for a worker's death to be heard after the error of one that waited for it
ANSWER = 1.0  # seconds in which a worker must say where it is, on a busy machine too
NAP = 60.0  # seconds of a wait, at most: the system's have a limit, `limit` and `idle` have none
SERVER = "attncourse.distributed.worker"
_MAIN = threading.Lock()  # held by the thread that has replaced __main__


class WorkerError(RuntimeError):
    """A worker raised, died, or gave no answer; all of them were ended.

    Attributes:
        traceback: What the worker said in full, if it raised.
    """

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback


class each(tuple):
    """Arguments of which each worker gets its own: `workers.run(f, each([a, b, c, d]))`."""

    __slots__ = ()


class Workers:
    """n processes on this machine in one torch process group, over gloo.

        with Workers(4) as workers:
            q, k, v = ([shard(x, rank, 4) for rank in range(4)] for x in (q, k, v))
            parts = workers.run(ring_attention, each(q), each(k), each(v), causal=True)
            out = unshard(parts)

    They start at the first `run`, each as a fork of a server that has loaded torch, and wait for
    the next. If one raises, dies, or gives no answer in time, all are ended and one line says which
    and why; the next `run` starts new ones. Ctrl-C ends them too, and `close()`, the end of a
    `with`, and the end of the process that made them, however it ends. Each computes on one thread.
    They talk over the loopback interface and meet by a file, so several notebooks do not clash.
    Threads may share them: a `run` waits until the one of another thread is done.

    No clock tells long work from a hang, in which all wait for a call that one never makes. Their
    processors do: who waits uses none. So a `run` that takes long goes on as long as any worker
    computes, or waits in a `slow_link`; when for `idle` seconds none does, all are ended. A worker
    that only sleeps counts as hung. `limit` is for one that computes without end.

    Args:
        n: How many, at least 1.
        limit: Seconds in which each `run` must be done; math.inf for no limit.
        idle: Seconds in which some worker, or a process that it started, must have computed; give
            more to work that sleeps.

    Raises:
        TypeError: `n` is no integer.
        ValueError: `n` below 1, or `limit` or `idle` not above 0.
    """

    def __init__(self, n: int, *, limit: float = LIMIT, idle: float = IDLE):
        self.n = check_count("Workers", "n", n, least=1)
        for name, seconds in (("limit", limit), ("idle", idle)):
            if not seconds > 0:
                raise ValueError(f"Workers: {name} must be above 0 seconds, got {seconds}")
        self.limit, self.idle = float(limit), float(idle)
        self._pool: _Pool | None = None
        self._turn = threading.RLock()  # of the thread whose call the workers are at

    def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """Call the function in every worker, and return what each returned, in order of rank.

        There `torch.distributed` knows the worker's rank. A function of a notebook travels as its
        text, with the modules, functions and values that it names; all else as copies.

        Args:
            function: Of a module, or one that stands by itself in a cell or script.
            *arguments: The same for all workers, except that `each(…)` gives each its own.
            **options: Likewise, by name.

        Raises:
            TypeError: A function, or a value it names, that cannot travel.
            ValueError: An `each` of another length than n.
            WorkerError: A worker raised, died or gave no answer in time.
        """
        if not callable(function):
            raise TypeError(f"Workers.run: needs a function, got {type(function).__name__}")
        try:
            tasks = [
                travel.dumps((function, *self._share(arguments, options, rank)))
                for rank in range(self.n)
            ]
        except TypeError as error:
            raise TypeError(f"Workers.run: {error}") from None
        with self._turn:
            self.start()
            assert self._pool is not None
            try:
                return self._pool.run(tasks, self.limit, self.idle)
            except BaseException:  # Ctrl-C too
                self.close()
                raise

    def start(self) -> None:
        """Start the workers if there are none; `run` does so too.

        Raises:
            WorkerError: They did not come up.
        """
        with self._turn:
            if self._pool is None:
                self._pool = _Pool(self.n, self.limit)
                try:
                    self._pool.start()
                except BaseException:
                    self.close()
                    raise

    def close(self) -> None:
        """End the workers, whatever they do; the next `run` starts new ones."""
        if self._pool is not None:
            self._pool.end()
            self._pool = None

    @property
    def pids(self) -> list[int]:
        """Process ids in order of rank; empty while there are none."""
        return [] if self._pool is None else [process.pid for process in self._pool.processes]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _share(self, arguments: tuple, options: dict, rank: int) -> tuple[list, dict]:
        """Return the arguments and options of one worker."""

        def own(argument: Any) -> Any:
            if not isinstance(argument, each):
                return argument
            if len(argument) != self.n:
                raise ValueError(
                    f"Workers.run: each must hold {self.n} arguments, got {len(argument)}"
                )
            return argument[rank]

        return [own(x) for x in arguments], {name: own(x) for name, x in options.items()}


class _Pool:
    """One set of processes, from their start to their end."""

    def __init__(self, size: int, limit: float):
        self.size, self.limit = size, limit
        self.folder = tempfile.mkdtemp(prefix="attncourse-workers-")
        self.processes: list[Any] = []
        self.tasks: list[connection.Connection] = []
        self.questions: list[connection.Connection] = []
        # Called when nothing refers to the pool any more, and at the interpreter's end, too.
        self.end = weakref.finalize(
            self, _end, os.getpid(), self.processes, (self.tasks, self.questions), self.folder
        )

    def start(self) -> None:
        context = _context()
        store = str(Path(self.folder, "store"))
        for rank in range(self.size):
            pipes = [context.Pipe(), context.Pipe()]
            for ends, (here, _) in zip((self.tasks, self.questions), pipes, strict=True):
                ends.append(here)
            there = [there for _, there in pipes]
            process = context.Process(
                target=_serve, args=(*there, rank, self.size, store, self.limit), daemon=True
            )
            self.processes.append(process)
            with _without_main():
                process.start()
            for end in there:
                end.close()
        self._collect("start", START)

    def run(self, tasks: Sequence[bytes], limit: float, idle: float) -> list[Any]:
        for rank, task in enumerate(tasks):
            try:
                self.tasks[rank].send_bytes(task)
            except OSError:
                self._died([rank])
        return self._collect("run", limit, idle)

    def _collect(self, what: str, limit: float, idle: float = math.inf) -> list[Any]:
        """Return the answer of each worker, or say what went wrong."""
        answers: dict[int, Any] = {}
        raised: dict[int, tuple[str, str, str]] = {}
        sentinels = {process.sentinel: rank for rank, process in enumerate(self.processes)}
        deadline = time.monotonic() + limit
        pulse = _Pulse(self.processes, idle)
        while len(answers) + len(raised) < self.size:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ends = {self.tasks[r]: r for r in range(self.size) if r not in answers | raised}
            if pulse.is_gone() and not raised:
                self._silent(what, sorted(ends.values()), f"{format_seconds(idle)} without work")
                pulse.begin()
            dead = []
            for ready in connection.wait([*ends, *sentinels], min(left, idle / 8, NAP)):
                rank = sentinels[ready] if ready in sentinels else ends[ready]
                if ready in sentinels:
                    dead.append(rank)
                    continue
                try:
                    answer = ready.recv_bytes()
                except (EOFError, OSError):
                    dead.append(rank)
                    continue
                good, value = self._read(answer, rank)
                (answers if good else raised)[rank] = value
            if dead:
                self._died(dead)
            if raised:
                deadline = min(deadline, time.monotonic() + GRACE)
        if raised:
            self._raised(what, raised)
        silent = [rank for rank in range(self.size) if rank not in answers]
        if silent:
            self._silent(what, silent, format_seconds(limit), patient=False)
        return [answers[rank] for rank in range(self.size)]

    def _read(self, answer: bytes, rank: int) -> tuple[bool, Any]:
        try:
            return pickle.loads(answer)
        except Exception as error:  # what a class does when it is unpickled, or one unknown here
            raise WorkerError(
                f"Workers: what worker {rank} of {self.size} returned cannot be unpickled here: "
                f"{type(error).__name__}{travel.first_line(error)}"
            ) from error

    def _died(self, dead: list[int]) -> NoReturn:
        rank = min(dead)
        process = self.processes[rank]
        process.join(1)
        code = process.exitcode
        how = f"with status {code}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else -code
            how = f"of {name}"
            if name == "SIGABRT":
                how += ", as when gloo receives another number of bytes than it was to"
        raise WorkerError(f"Workers: worker {rank} of {self.size} died {how}; {self._rest()}")

    def _raised(self, what: str, raised: dict[int, tuple[str, str, str]]) -> NoReturn:
        # What gloo says is that another one failed; the other one knows why.
        rank = min(raised, key=lambda rank: ("gloo/" in raised[rank][1], rank))
        kind, line, full = raised[rank]
        raise WorkerError(f"Workers.{what}: worker {rank} of {self.size} raised {kind}{line}", full)

    def _silent(self, what: str, silent: list[int], since: str, *, patient: bool = True) -> None:
        """Raise, saying where the silent ones are; but if patient, not while a slow link sends."""
        for rank in silent:
            with contextlib.suppress(EOFError, OSError):
                while self.questions[rank].poll():  # answers that came too late
                    self.questions[rank].recv_bytes()
                self.questions[rank].send_bytes(b"?")
        places: dict[str, list[str]] = {}
        until = time.monotonic() + ANSWER
        for rank in silent:
            place = "without a word"
            with contextlib.suppress(EOFError, OSError):
                if self.questions[rank].poll(max(0.0, until - time.monotonic())):
                    sends, where = pickle.loads(self.questions[rank].recv_bytes())
                    if sends and patient:
                        return
                    place = f"at {where}"
            places.setdefault(place, []).append(str(rank))
        odd_ones_first = sorted(places.items(), key=lambda item: len(item[1]))
        said = "; ".join(f"{', '.join(ranks)} {place}" for place, ranks in odd_ones_first)
        raise WorkerError(
            f"Workers.{what}: after {since} {len(silent)} of {self.size} workers "
            f"had not answered: {said}. {self._rest().capitalize()}"
        )

    def _rest(self) -> str:
        return "all were ended" if self.size > 1 else "it was ended"


class _Pulse:
    """Whether processes, or those that they started, compute: whether processor time is used."""

    def __init__(self, processes: Sequence[Any], idle: float):
        self.idle = idle
        self._pids = [process.pid for process in processes]
        self.begin()

    def begin(self) -> None:
        """Take this moment as the last one at which they computed."""
        self._since, self._used = time.monotonic(), self._seconds()

    def is_gone(self) -> bool:
        """Whether they have used less than `WORKING` of a core for `idle` seconds."""
        seconds = self._seconds()
        self._used = min(self._used, seconds)  # it falls by what an orphan has used
        if seconds - self._used >= WORKING * self.idle:
            self.begin()
        return time.monotonic() - self._since >= self.idle

    def _seconds(self) -> float:
        seconds = 0.0
        for pid in self._pids:
            with contextlib.suppress(psutil.Error):  # it has just died, which others tell
                worker = psutil.Process(pid)
                for process in (worker, *worker.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        seconds += sum(process.cpu_times()[:4])  # and of its children that ended
        return seconds


def _serve(*arguments: Any) -> None:
    """Run in a worker; its module is imported there alone, since it needs torch."""
    from attncourse.distributed import worker

    worker.serve(*arguments)


def _end(
    owner: int,
    processes: Sequence[Any],
    pipes: Sequence[Sequence[connection.Connection]],
    folder: str,
) -> None:
    """Kill what is left, at once: a worker that waits for a dead one would not hear of it."""
    if os.getpid() != owner:  # a fork of the process that made them
        return
    for end in (end for ends in pipes for end in ends):
        end.close()  # of a process that was just being made, nothing else is known yet
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join(5)
    shutil.rmtree(folder, ignore_errors=True)


def _context() -> Any:
    """Return multiprocessing's context: forks of a server with torch loaded, where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([SERVER])
    # Jupyter interrupts a whole process group; the server and its forks leave that to the parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _without_main():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running the script or notebook again in each process."""
    with _MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
