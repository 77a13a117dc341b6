"""More sequences or heads than a grid of programs has room for: some after the others."""

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any

import torch

from attncourse.cost import Cost

MAX_GRID = 65_535  # CUDA's limit for the second and third axis of a grid


def in_grids(each: int | Callable = 1, **axes: tuple[int | None, int]) -> Callable:
    """Let a function of q, k and v launch grids of at most `MAX_GRID` heads and sequences.

    What fits is passed on as it is. What does not is cut, and the results are joined, which takes
    the output twice. Gradients pass through both.

    Args:
        each: Programs that one head takes on the grid's second axis, at most, or a function of q, k
            and the knobs that says so.
        **axes: Of knobs that differ by head: the axes, from the end, of the sequences (None if
            there is none) and of the heads. An axis that is 1 or missing is left alone.

    Returns:
        A decorator.
    """

    def decorate(attention: Callable) -> Callable:
        @functools.wraps(attention)
        def in_parts(q, k, v, *rest, **knobs):
            parts = None
            if all(isinstance(x, torch.Tensor) and x.ndim == 4 for x in (q, k, v)):
                many = each(q, k, **knobs) if callable(each) else each
                parts = cuts(*q.shape[:2], v.shape[1], many)
            if parts is None:
                return attention(q, k, v, *rest, **knobs)
            B, H = q.shape[:2]
            joined = []
            for batch, heads in parts:
                joined.append([])
                for head, group in heads:
                    own = knobs | {
                        name: _cut(knobs[name], where, (batch, head), (B, H))
                        for name, where in axes.items()
                        if name in knobs
                    }
                    inputs = q[batch, head], k[batch, group], v[batch, group]
                    joined[-1].append(attention(*inputs, *rest, **own))
            return join(joined)

        return in_parts

    return decorate


def counted_in_grids(each: int | Callable = 1) -> Callable:
    """Let a `cost` count what `in_grids` does: all parts, and that their results are joined.

    Args:
        each: As of `in_grids`, or a function of Tq, Tk and the knobs.

    Returns:
        A decorator of `cost`.
    """

    def decorate(cost: Callable) -> Callable:
        @functools.wraps(cost)
        def of_all_parts(B, H, Tq, Tk, D, **knobs):
            many = each(Tq, Tk, **knobs) if callable(each) else each

            def of_part(batch: int, heads: int) -> Cost:
                return cost(batch, heads, Tq, Tk, D, **knobs)

            return count_parts(of_part, B, H, H, Tq * D * knobs.get("dtype_bytes", 4), many)

        return of_all_parts

    return decorate


def count_parts(
    of_part: Callable[[int, int], Cost], B: int, H: int, G: int, out_bytes: int, each: int = 1
) -> Cost:
    """Return what the parts of `cuts` cost together.

    Results are held until all are there; joining reads and writes the whole output once more.

    Args:
        of_part: Returns the cost of so many sequences and heads.
        B: Sequences.
        H: Heads.
        G: Key/value heads.
        out_bytes: Of one head of one sequence, the output's.
        each: Programs that one head takes on the grid's second axis, at most.
    """
    parts = cuts(B, H, G, each)
    if parts is None:
        return of_part(B, H)
    of_part = functools.cache(of_part)
    held = peak = 0
    costs = []
    for batch, heads in parts:
        for head, _ in heads:
            sizes = len(range(*batch.indices(B))), len(range(*head.indices(H)))
            one = of_part(*sizes)
            costs.append(one)
            peak = max(peak, held + one.peak_bytes)
            held += out_bytes * sizes[0] * sizes[1]
    return Cost(
        flops=sum(one.flops for one in costs),
        bytes_read=sum(one.bytes_read for one in costs) + held,
        bytes_written=sum(one.bytes_written for one in costs) + held,
        peak_bytes=max(peak, 2 * held),
    )


def cuts(B: int, H: int, G: int, each: int = 1) -> list[tuple[slice, list]] | None:
    """Return slices of the batch, each with its slices of heads and of key/value heads.

    None means that all fits into one grid, or that nothing can be cut so that it does.
    """
    if not isinstance(each, numbers.Integral) or (B <= MAX_GRID and H * each <= MAX_GRID):
        return None
    shared = H // G if G and H % G == 0 else 1  # query heads of one key/value head stay together
    most = MAX_GRID // max(1, each) // shared
    if not most or B == 0 or H != shared * G:
        return None
    heads = [
        (slice(start * shared, (start + most) * shared), slice(start, start + most))
        for start in range(0, G, most)
    ]
    return [(slice(start, start + MAX_GRID), heads) for start in range(0, B, MAX_GRID)]


def join(parts: list[list[torch.Tensor]]) -> torch.Tensor:
    """Return what the parts of `cuts` are together: rows are sequences, columns are heads.

    The lists are emptied on the way, so that no more than twice the whole is held.
    """
    rows = []
    for row in parts:
        rows.append(torch.cat(row, 1) if len(row) > 1 else row[0])
        row.clear()
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def _cut(knob: Any, axes: tuple, parts: tuple[slice, slice], whole: tuple[int, int]) -> Any:
    """Return a knob's own part: of a tensor, or of each tensor of `matrices`."""
    if hasattr(knob, "matrices"):
        matrices = {name: _cut(x, axes, parts, whole) for name, x in knob.matrices.items()}
        return dataclasses.replace(knob, matrices=matrices)
    if isinstance(knob, torch.Tensor):
        for axis, part, count in zip(axes, parts, whole, strict=True):
            if axis is not None and knob.ndim >= -axis and knob.shape[axis] == count > 1:
                start, stop, _ = part.indices(count)
                knob = knob.narrow(axis, start, stop - start)
    return knob
