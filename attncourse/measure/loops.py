"""How long a loop takes and how far it is, for whoever waits for it."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attncourse.units import format_seconds

PROGRESS_AFTER = 2.0  # seconds; what is done sooner needs no line
WRITTEN_EVERY = 0.2  # seconds

_busy = False  # whether a loop further out shows its line already


def progress(
    items: Iterable[Any],
    words: str,
    *,
    total: int | None = None,
    expect_seconds: float | None = None,
    show: bool | None = None,
) -> Iterator[Any]:
    """Yield the items, and tell who waits how long it takes and how far it is.

    Around a loop it is one line:

        for window in measure.progress(windows, "sweeping", expect_seconds=40):

    "sweeping: about 40 s" is there before the first item, and after two seconds "sweeping: 300 of
    1800, 7 s gone, about 35 s left". The line goes away at the end, by an error or Ctrl-C too. Of
    loops inside each other only the outermost writes one.

    It is written where a person waits: on a terminal, or below the cell in JupyterLab. A notebook
    that is built, tested or graded shows none, so its outputs are the same each time.

    Args:
        items: What to go through.
        words: What is being done.
        total: How many items there are; `len(items)` if it has one.
        expect_seconds: About how long it takes, if that is known; told if it is two or more.
        show: Whether to write; if not given, where a person waits.
    """
    global _busy
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    write = None if _busy else _writer(show)
    if write is None:
        yield from items
        return
    _busy = True
    start = time.perf_counter()
    written = -WRITTEN_EVERY
    try:
        if expect_seconds is not None and expect_seconds >= PROGRESS_AFTER:
            write(f"{words}: about {format_seconds(expect_seconds)}")
        for done, item in enumerate(items):
            elapsed = time.perf_counter() - start
            if elapsed > PROGRESS_AFTER and elapsed - written >= WRITTEN_EVERY:
                write(f"{words}: {_how_far(done, total, elapsed)}")
                written = elapsed
            yield item
    finally:
        _busy = False
        write("")


def _how_far(done: int, total: int | None, elapsed: float) -> str:
    text = f"{done}" + (f" of {total}" if total else "")
    text += f", {format_seconds(round(elapsed))} gone"
    if total and done:
        text += f", about {format_seconds(round(elapsed * (total - done) / done))} left"
    return text


def _writer(show: bool | None) -> Callable[[str], None] | None:
    """Return what writes a line in place of the last one, or None where nobody waits."""
    if show is False:
        return None
    if _in_lab():
        return _cell_line()
    return _terminal_line() if show or sys.stderr.isatty() else None


def _in_lab() -> bool:
    """Whether a person runs this notebook: the server names its session, other runners do not."""
    environment = os.environ
    return (
        "JPY_SESSION_NAME" in environment
        and "PYTEST_CURRENT_TEST" not in environment
        and "ipykernel" in sys.modules
    )


def _cell_line() -> Callable[[str], None]:
    from IPython.display import display

    handle = None

    def write(line: str) -> None:
        nonlocal handle
        data = {"text/plain": line, "text/html": f'<div role="status">{html.escape(line)}</div>'}
        if handle:
            handle.update(data, raw=True)
        elif line:
            handle = display(data, raw=True, display_id=True)

    return write


def _terminal_line() -> Callable[[str], None]:
    width = 0

    def write(line: str) -> None:
        nonlocal width
        if line or width:
            end = "" if line else "\r"
            print(f"\r{line:<{width}}", end=end, flush=True, file=sys.stderr)
        width = len(line)

    return write
