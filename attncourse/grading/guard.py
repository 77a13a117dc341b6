"""Run a learner's function so that whatever it does ends in an `Outcome`.

Loops, exits, exceptions of any kind, prints and changes of global state stay inside. What cannot be
kept inside a process is a crash, and a loop in C that never returns to Python: the pytest plugin
ends those from outside.
"""

from __future__ import annotations

import builtins
import ctypes
import gc
import io
import os
import random
import signal
import sys
import threading
import time
import tracemalloc
import warnings
from _signal import getsignal  # signal's own makes an enum of each handler, in longer than a call
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attncourse.grading.messages import plain
from attncourse.grading.places import Place, last_place

PRINTED = 2000  # characters kept of what an answer prints
AGAIN = 0.002  # seconds until the next TimeUp, in case the answer swallowed one
SIGNALS = signal.valid_signals() - {signal.SIGINT}  # asking for them at each call takes long
HEADROOM = 2 * 2**30 + (os.cpu_count() or 1) * 2**28  # address space an answer may add, in bytes


class TimeUp(BaseException):
    """The call took longer than its limit; no `except Exception` of the learner's swallows it."""


@dataclass(frozen=True)
class Raised:
    """An exception, reduced to text: its traceback would keep the learner's arrays alive.

    Attributes:
        kind: The class of the exception.
        message: Its message as one line, cleaned and cut.
        place: The learner's line, None if it was raised before any ran.
        own: Whether that line raised it itself, and not something that it called.
    """

    kind: type[BaseException]
    message: str
    place: Place | None
    own: bool


@dataclass(frozen=True)
class Outcome:
    """What came of one call: `raised` is None if it returned."""

    value: Any = None
    raised: Raised | None = None
    printed: str = ""
    warned: tuple[str, ...] = ()


def call(function: Callable, args: tuple, kwargs: dict, *, seconds: float, owner: Any) -> Outcome:
    """Call a function that is not trusted.

    Args:
        function: What to call.
        args: Its arguments, which it may change.
        kwargs: Its keyword arguments, likewise.
        seconds: The time limit. In the main thread of a POSIX system it also ends a sleep.
        owner: The learner's function, for the line numbers of exceptions.

    Raises:
        KeyboardInterrupt: The user interrupted the call. One that the function raises itself is
            an outcome like any other exception.
    """
    printed, value = _Printed(), None
    caught: list[warnings.WarningMessage] = []
    # What stands if a watchdog's TimeUp arrives just after the call.
    raised: Raised | None = Raised(TimeUp, "", None, False)
    with suppress(TimeUp), ExitStack() as stack:
        for setting in (_restored(), _captured(printed), _numpy_errors()):
            stack.enter_context(setting)
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(_memory_limit())
        interrupted = stack.enter_context(_interrupts())
        stack.enter_context(_time_limit(seconds))
        try:
            value = _invoke(function, args, kwargs)
            raised = None
        except BaseException as error:
            if interrupted:
                raise
            raised = _describe(error, owner)
    warned = tuple(dict.fromkeys(plain(each.message) for each in caught))
    return Outcome(value, raised, plain(printed.text, PRINTED), warned)


def _invoke(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Call; then put builtins and NumPy's names back before anything else needs them."""
    namespaces = [(space.update, space.copy()) for space in (vars(builtins), vars(np))]
    try:
        return function(*args, **kwargs)
    finally:
        for update, kept in namespaces:
            update(kept)


def _describe(error: BaseException, owner: Any) -> Raised:
    chosen = error
    while type(chosen).__name__ == "InterpreterError" and chosen.__cause__ is not None:
        chosen = chosen.__cause__  # Triton's interpreter wraps what a kernel raises
    last = chosen.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where, own = (last_place(owner, traceback) for traceback in (chosen.__traceback__, last))
    return Raised(type(chosen), " ".join(plain(chosen).split()), where, own is not None)


class _Printed(io.TextIOBase):
    """A stream that keeps the beginning of what is written and forgets the rest."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        if len(self.text) < PRINTED:
            self.text += text[: 2 * PRINTED]
        return len(text)

    def writable(self) -> bool:
        return True


@contextmanager
def _captured(printed: _Printed) -> Iterator[None]:
    """Keep prints, and whatever is shown through IPython's display, out of the cell's output."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        if "IPython" in sys.modules:
            from IPython.utils.capture import capture_output

            stack.enter_context(capture_output(stdout=False, stderr=False, display=True))
        sys.stdin = io.StringIO()
        yield


def _numpy_errors() -> Any:
    """NumPy's own defaults, whatever the notebook has set; put back afterwards."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


@contextmanager
def _restored() -> Iterator[None]:
    """Put process-wide state back as it was."""
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    hooks = {name: getattr(sys, name) for name in ("displayhook", "excepthook")}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept, not drawn from)
    traces = sys.gettrace(), sys.getprofile(), threading.gettrace()
    depth, collecting = sys.getrecursionlimit(), gc.isenabled()
    environment = dict(os.environ)
    folder = None
    with suppress(OSError):  # it may have been removed
        folder = Path.cwd()
    tracing = tracemalloc.is_tracing()
    handlers = {}
    if _in_main_thread():
        handlers = {number: getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for name, value in (streams | hooks).items():
            setattr(sys, name, value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if traces != (sys.gettrace(), sys.getprofile(), threading.gettrace()):
            sys.settrace(traces[0])
            sys.setprofile(traces[1])
            threading.settrace(traces[2])
        sys.setrecursionlimit(depth)
        (gc.enable if collecting else gc.disable)()
        if folder is not None:
            os.chdir(folder)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        if tracemalloc.is_tracing() != tracing:
            (tracemalloc.start if tracing else tracemalloc.stop)()
        for number, handler in handlers.items():
            if handler is not None and getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def _interrupts() -> Iterator[list[bool]]:
    """Tell a real Ctrl-C, which ends the check, from a KeyboardInterrupt raised by the answer."""
    pressed: list[bool] = []
    before = signal.getsignal(signal.SIGINT) if _in_main_thread() else None
    if before in (None, signal.SIG_IGN, signal.SIG_DFL):
        yield pressed
        return

    def press(number: int, frame: Any) -> None:
        pressed.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _memory_limit() -> Iterator[None]:
    """Let an allocation without end, or one absurdly large, end in a MemoryError (on Linux)."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + HEADROOM
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _time_limit(seconds: float) -> Any:
    if _in_main_thread() and hasattr(signal, "setitimer"):
        return _alarm(seconds)
    return _watchdog(seconds)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `TimeUp` in the call by SIGALRM, again and again in case the answer swallows it."""

    def ring(number: int, frame: Any) -> None:
        if _inside(frame):
            raise TimeUp

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:  # somebody else's alarm, such as pytest-timeout's
            left = remaining - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)


def _inside(frame: Any) -> bool:
    """Whether a frame belongs to the call, and not to the grader's own code around it."""
    frame = frame.f_back
    while frame is not None and frame.f_code is not _invoke.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """Raise `TimeUp` in this thread from another one, where there is no alarm.

    The exception arrives between two steps of Python code; a sleep is not interrupted.
    """
    target, over, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with lock:
                if not over.is_set() and _inside(sys._current_frames()[target]):
                    _raise_in(target, TimeUp)
            wait = AGAIN

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        settled = False
        while not settled:
            with suppress(TimeUp):
                with lock:
                    over.set()
                # One that was sent must arrive, here: taken back, it would leave CPython 3.11
                # looking for it for ever once a trace function is set.
                for _ in range(3):
                    pass
                settled = True


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
