"""Block top-k attention: a glance at each block of keys decides which blocks a query reads."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.definitions.block_choice import check_knobs
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import attend, held_bytes
from attncourse.reference._parts.glance import choices, steps, summaries
from attncourse.softmax import nan_to_keys

__all__ = ["attention", "cost", "mask_of", "select", "summaries"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    block: int,
    keep: int,
    choose_every: int = 1,
    bound: bool = False,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the `keep` blocks of keys that look best to each query.

    A glance is a product with one vector, the mean of the block's keys; so a query scores n / block
    vectors, and the keys of its few blocks. The block that it stands in is always one of them.
    Causal, later blocks never are, and of its own block a query sees the keys up to itself.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        block: Keys in a block.
        keep: Blocks that a query reads, its own included; all, if there are no more. Of equal
            scores the first blocks are kept; one that is NaN counts as the highest.
        choose_every: Queries that share a choice, which the first of them makes; at most to the
            end of their block. 1 lets everyone choose, more makes whole tiles for a GPU.
        bound: Instead of by its mean, score a block by the most that any key could score that
            lies between its extremes; none of its keys exceeds that.

    Raises:
        ValueError: block, keep or choose_every < 1.

    Memory:
        One head at a time: the vectors of its blocks, and of 32 queries, or of one group of more,
        the scores of all blocks and the gathered keys or values (groups, keep · block, D).

    Paper:
        Lu et al. 2025, arXiv:2502.13189, section 2.2 (means; everyone chooses); Tang et al. 2024,
        arXiv:2406.10774 (the bound).
    """
    where = "block_topk.attention"
    check_qkv(where, q, k, v)
    knobs = check_knobs(where, block, keep, choose_every, bound, causal)
    factor = check_scale(where, scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for head in np.ndindex(q.shape[:-2]):
        k_, v_ = nan_to_keys(k[head], v[head])
        for step, chosen in choices(q[head], k[head], *knobs, factor):
            keys, hidden = _tokens(chosen, step.rows, len(q[head]), len(k_), knobs[0], causal)
            part = attend(q[head][step.rows], k_, v_, keys, hidden, factor)
            out[head][step.rows.ravel()] = part.reshape(-1, v.shape[-1])
    return out


def select(
    q: np.ndarray,
    k: np.ndarray,
    *,
    block: int,
    keep: int,
    choose_every: int = 1,
    bound: bool = False,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return the blocks that `attention` keeps.

    Args and Raises as in `attention`.

    Returns:
        int (..., Tq, min(keep, blocks)), in ascending order; -1 where no more are visible.
    """
    where = "block_topk.select"
    check_qkv(where, q, k, k)
    knobs = check_knobs(where, block, keep, choose_every, bound, causal)
    factor = check_scale(where, scale, q.shape[-1])
    kept = np.full((*q.shape[:-1], min(knobs[1], -(-k.shape[-2] // knobs[0]))), -1)
    for head in np.ndindex(q.shape[:-2]):
        for step, chosen in choices(q[head], k[head], *knobs, factor):
            late = causal & (chosen > step.own[:, None])
            shown = np.where(late, -1, chosen)[:, None, :]  # (groups, 1, count)
            kept[head][step.rows, : chosen.shape[-1]] = shown
    return kept


def mask_of(chosen: np.ndarray, n_keys: int, *, block: int, causal: bool = False) -> np.ndarray:
    """Return the mask (..., Tq, Tk) of chosen blocks (..., Tq, count); -1 is nobody."""
    block = check_count("block_topk.mask_of", "block", block, least=1)
    causal = check_flag("block_topk.mask_of", "causal", causal)
    visible = np.zeros((*chosen.shape[:-1], -(-n_keys // block) + 1), dtype=bool)
    np.put_along_axis(visible, chosen, True, axis=-1)  # the last column takes the -1
    shown = visible[..., np.arange(n_keys) // block]  # (..., Tq, Tk)
    return shown & masks.causal(chosen.shape[-2], n_keys) if causal else shown


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    block: int,
    keep: int,
    choose_every: int = 1,
    bound: bool = False,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The data do not change it: a query reads as many blocks whatever it chooses, and a last, shorter
    block is filled up by repeating its last key, hidden.
    """
    knobs = check_knobs("block_topk.cost", block, keep, choose_every, bound, causal)
    block, _, _, bound, causal = knobs
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    size, width = min(block, Tk), D * (1 + bound)
    flops = loaded = largest = all_groups = 0
    for step in steps(Tq, Tk, *knobs):
        (n_groups, rows), keys = step.rows.shape, step.count * size
        flops += 2 * n_groups * (step.seen * width + 2 * rows * keys * D)
        loaded += (n_groups * (rows + 2 * keys) + step.seen * (1 + bound)) * D
        gathered = held_bytes(n_groups, rows, keys, D, dtype_bytes, gathered=True)
        hidden = n_groups * keys * (8 + (rows if causal else 1))
        all_groups += n_groups
        scores = n_groups * step.seen
        marking = scores * (work_bytes + 1) + min(NUMPY_BUFFER, scores) * 2 * 8  # own, later blocks
        largest = max(largest, gathered + hidden, scores * (work_bytes + 8), marking)
    # groups are found by five integers of 8 bytes and three booleans a query, and kept as two
    largest = max(43 * Tq, 2 * 8 * all_groups + largest)
    out = B * H * Tq * D * dtype_bytes
    held = -(-Tk // block) * width * work_bytes if all_groups else 0
    return Cost(
        flops=B * H * flops,
        bytes_read=B * H * (loaded + Tk * D) * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + held + largest,
    )


def _tokens(chosen, rows, n_queries, n_keys, block, causal) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys int (groups, keys) of the blocks, and which are hidden (groups, rows, keys).

    What is beyond the end repeats the last key.
    """
    keys = chosen[:, :, None] * block + np.arange(min(block, n_keys))
    keys = keys.reshape(len(chosen), -1)
    if causal:  # hides what is beyond the end, too
        hidden = keys[:, None, :] > rows[:, :, None] + (n_keys - n_queries)
    else:
        hidden = keys[:, None, :] >= n_keys
    return np.minimum(keys, n_keys - 1, out=keys), hidden
