"""How far a loop is, for whoever waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from attncourse.units import format_seconds

PROGRESS_AFTER = 2.0  # seconds; what is done sooner needs no bar


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
