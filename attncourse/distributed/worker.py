"""What each process of `Workers` does: join the group, run what comes, leave with its parent."""

from __future__ import annotations

import datetime
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import traceback
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from attncourse.distributed import all_to_all, counting, ring, travel, wire

__all__ = ["all_to_all", "counting", "ring", "serve"]  # loaded once, before the forks
YEAR = 365 * 86_400.0  # seconds; as good as no limit, and gloo can add it to a time


def serve(
    tasks: connection.Connection,
    questions: connection.Connection,
    rank: int,
    size: int,
    store: str,
    seconds: float,
) -> None:
    """Run the tasks that come, until the process that sends them is gone.

    Args:
        tasks: Brings (function, arguments, options), pickled by `travel.dumps`, and takes the
            answers: (True, result), or (False, (kind, line, traceback)) of what was raised. The
            first answer says that the group stands.
        questions: Any bytes ask where this process is just now, and whether a slow link sends.
        rank: This process's.
        size: Processes in all.
        store: The file by which they find one another.
        seconds: How long each waits for another; a year, if more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this one
    folder = Path(store).parent
    threading.Thread(target=_watch, args=(questions, folder), daemon=True).start()
    torch.set_num_threads(1)
    if (loopback := _loopback()) is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback  # no host name to look up, nothing leaves
    timeout = datetime.timedelta(seconds=min(seconds, YEAR))
    where = Path(store).as_uri()
    _answer(
        tasks,
        lambda: dist.init_process_group(
            "gloo", init_method=where, rank=rank, world_size=size, timeout=timeout
        ),
        folder,
    )
    while True:
        try:
            packed = tasks.recv_bytes()
        except (EOFError, OSError):
            _leave(folder)
        _answer(tasks, lambda: _call(packed), folder)  # noqa: B023, called at once
        del packed


def _call(packed: bytes) -> Any:
    function, arguments, options = pickle.loads(packed)
    return function(*arguments, **options)


def _answer(tasks: connection.Connection, call: Any, folder: Path) -> None:
    """Send what the call returns or raises; leave if nobody is there to read it."""
    try:
        answer = travel.dumps((True, call()))
    except BaseException as error:
        full = "".join(traceback.format_exception(error))
        answer = travel.dumps((False, (type(error).__name__, travel.first_line(error), full)))
    try:
        tasks.send_bytes(answer)
    except OSError:
        _leave(folder)


def _leave(folder: Path) -> NoReturn:
    """End this process, and what its maker may be gone without having removed."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _watch(questions: connection.Connection, folder: Path) -> None:
    """Leave with the parent, whatever the main thread does; say where that is when asked."""
    parent = parent_process()
    assert parent is not None
    try:
        while parent.sentinel not in connection.wait([parent.sentinel, questions]):
            questions.recv_bytes()
            questions.send_bytes(pickle.dumps((wire.is_sending(), _where())))
    except (EOFError, OSError):
        pass
    _leave(folder)


def _where() -> str:
    """Return the line that the main thread is at, torch's and Python's own lines aside."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    libraries = (str(Path(torch.__file__).parent), str(Path(os.__file__).parent))
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(libraries):
            return f"line {frame.f_lineno} of {Path(code.co_filename).name.strip('<>')}"
        frame = frame.f_back
    return "no line of Python"


def _loopback() -> str | None:
    """Return the name of the interface that reaches this machine only, if it has one."""
    if sys.platform == "win32":
        return None
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
