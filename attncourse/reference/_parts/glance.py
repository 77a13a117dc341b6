"""The glance of block top-k attention: which blocks of keys look best to each group of queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attncourse.definitions.block_choice import groups
from attncourse.inputs import check_count, check_flag

TOGETHER = 32  # queries handled together, or one group of more


def summaries(k: np.ndarray, *, block: int, bound: bool = False) -> np.ndarray:
    """Return what a glance at each block sees: the mean of its keys, or their extremes.

    Args:
        k: (..., Tk, D) floating.
        block: Keys in a block; the last one may have fewer.
        bound: The largest number in each of the D dimensions and the smallest, not the mean.

    Returns:
        (..., blocks, D), with `bound` (..., blocks, 2·D), in float32 at least.
    """
    block = check_count("block_topk.summaries", "block", block, least=1)
    bound = check_flag("block_topk.summaries", "bound", bound)
    work = np.result_type(k.dtype, np.float32)
    n_blocks = -(-k.shape[-2] // block)
    seen = np.empty((*k.shape[:-2], n_blocks, k.shape[-1] * (1 + bound)), work)
    for number in range(n_blocks):  # float16 is widened a block at a time
        own = k[..., number * block : (number + 1) * block, :]
        parts = [own.max(-2), own.min(-2)] if bound else [own.mean(-2, dtype=work)]
        np.concatenate(parts, axis=-1, out=seen[..., number, :], casting="same_kind")
    return seen


class Step(NamedTuple):
    """Groups of queries handled together.

    Attributes:
        rows: int (groups, rows), their queries; the last one of a shorter group is repeated.
        own: int (groups,), the block that each group stands in; negative before all keys.
        seen: Blocks from the first that any of them may choose.
        count: Blocks that each of them reads.
    """

    rows: np.ndarray
    own: np.ndarray
    seen: int
    count: int


def steps(n_queries, n_keys, block, keep, choose_every, bound, causal) -> Iterator[Step]:
    starts, own = groups(n_queries, n_keys, block, choose_every, causal)
    if not len(own) or not n_keys:
        return
    longest = int(np.diff(starts).max())
    n_groups = max(1, TOGETHER // longest)
    for first in range(0, len(own), n_groups):
        some = slice(first, first + n_groups)
        last = starts[1:][some] - 1
        rows = np.minimum(starts[:-1][some, None] + np.arange(longest), last[:, None])
        seen = int(own[some][-1]) + 1 if causal else -(-n_keys // block)
        yield Step(rows, own[some], seen, min(keep, seen))


def choices(
    q, k, block, keep, choose_every, bound, causal, factor
) -> Iterator[tuple[Step, np.ndarray]]:
    """Yield steps of one head, and the blocks int (groups, count) that their groups choose."""
    seen = summaries(k, block=block, bound=bound)
    for step in steps(len(q), len(k), block, keep, choose_every, bound, causal):
        first = q[step.rows[:, 0]].astype(seen.dtype, copy=False) * float(np.sign(factor))
        if bound:  # each number of a query meets the extreme that makes most of it
            first = np.concatenate([np.maximum(first, 0), np.minimum(first, 0)], axis=-1)
        yield step, _best(first, seen[: step.seen], step, causal)  # holds no scores meanwhile


def _best(first, seen, step: Step, causal) -> np.ndarray:
    """Return the blocks int (groups, count) that look best to the queries `first`, ascending."""
    # matmul sums in an order that depends on the column: equal blocks would get unequal scores
    scores = np.einsum("gd,bd->gb", first, seen)  # (groups, seen)
    largest = np.finfo(scores.dtype).max
    scores[np.isnan(scores)] = largest
    np.clip(scores, -largest, largest, out=scores)
    blocks = np.arange(step.seen)
    scores[blocks == step.own[:, None]] = np.inf
    if causal:
        scores[blocks > step.own[:, None]] = -np.inf
    order = np.argsort(np.negative(scores, out=scores), axis=-1, kind="stable")
    return np.sort(order[:, : step.count], axis=-1)
