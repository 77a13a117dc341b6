"""Who holds which tokens: the positions of each process, and arrays cut and joined by them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from attncourse.inputs import check_count

Layout = Literal["zigzag", "contiguous"]
LAYOUTS = ("zigzag", "contiguous")


def runs(n: int, rank: int, size: int, layout: Layout = "zigzag") -> list[range]:
    """Return the runs of neighbouring tokens that one of `size` processes holds.

    "contiguous" cuts the n tokens into `size` runs, and process r holds run r. "zigzag" cuts them
    into 2·size, and process r holds run r and run 2·size − 1 − r: one early and one late, so that
    under a causal mask all have the same to do. Where n does not divide evenly, the first runs
    have one token more; a process may hold none.

    Args:
        n: Tokens of the whole sequence.
        rank: r, which process, from 0.
        size: P, how many processes.
        layout: "zigzag" or "contiguous".

    Raises:
        TypeError: A number that is no integer.
        ValueError: n < 0, size < 1, a rank outside 0 … size − 1, or an unknown layout.
    """
    n, size = _check("runs", n, size, layout)
    rank = check_count("distributed.runs", "rank", rank)
    if rank >= size:
        raise ValueError(f"distributed.runs: rank must be below size {size}, got {rank}")
    pieces = size if layout == "contiguous" else 2 * size
    held = [rank] if layout == "contiguous" else [rank, pieces - 1 - rank]
    short, longer = divmod(n, pieces)
    starts = [i * short + min(i, longer) for i in range(pieces + 1)]
    return [range(starts[i], starts[i + 1]) for i in held]


def positions(n: int, rank: int, size: int, layout: Layout = "zigzag") -> np.ndarray:
    """Return the positions of the tokens that one process holds, int (n/P,), in its own order.

    Arguments and errors as in `runs`.
    """
    return np.concatenate([np.arange(r.start, r.stop) for r in runs(n, rank, size, layout)])


def count(n: int, rank: int, size: int, layout: Layout = "zigzag") -> int:
    """Return how many tokens one process holds; arguments and errors as in `runs`."""
    return sum(map(len, runs(n, rank, size, layout)))


def shard(x: Any, rank: int, size: int, layout: Layout = "zigzag", *, axis: int = -2) -> Any:
    """Return the part of x that one process holds: a copy, so that the whole can be freed.

    Args:
        x: A NumPy array or a torch tensor, such as (B, H, n, D).
        rank: Which process, from 0.
        size: How many processes.
        layout: "zigzag" or "contiguous".
        axis: Where the tokens are.

    Returns:
        The same kind, with n/P tokens on that axis.

    Raises:
        TypeError: A number that is no integer.
        ValueError: As in `runs`.
    """
    held = positions(x.shape[axis], rank, size, layout)
    return (
        np.take(x, held, axis)
        if isinstance(x, np.ndarray)
        else x.index_select(axis, _like(x, held))
    )


def unshard(parts: Sequence[Any], layout: Layout = "zigzag", *, axis: int = -2) -> Any:
    """Return the whole from the parts of all processes, in order of rank; undoes `shard`.

    Args:
        parts: One array or tensor of each process.
        layout: How they were cut.
        axis: Where the tokens are.

    Raises:
        ValueError: No parts, an unknown layout, or parts whose lengths the layout does not give.
    """
    size, n = len(parts), sum(part.shape[axis] for part in parts)
    _check("unshard", n, size, layout)
    held = [positions(n, rank, size, layout) for rank in range(size)]
    lengths = [part.shape[axis] for part in parts]
    if lengths != [len(own) for own in held]:
        raise ValueError(
            f"distributed.unshard: {n} tokens on {size} processes are "
            f"{[len(own) for own in held]} each ({layout}), got {lengths}"
        )
    order = np.argsort(np.concatenate(held))
    if isinstance(parts[0], np.ndarray):
        return np.take(np.concatenate(parts, axis), order, axis)
    whole = sys.modules["torch"].cat(list(parts), axis)
    return whole.index_select(axis, _like(whole, order))


def _like(x: Any, index: np.ndarray) -> Any:
    return sys.modules["torch"].from_numpy(index).to(x.device)


def _check(where: str, n: Any, size: Any, layout: Any) -> tuple[int, int]:
    if layout not in LAYOUTS:
        known = " or ".join(map(repr, LAYOUTS))
        raise ValueError(f"distributed.{where}: layout must be {known}, got {layout!r}")
    n = check_count(f"distributed.{where}", "n", n)
    return n, check_count(f"distributed.{where}", "size", size, least=1)
