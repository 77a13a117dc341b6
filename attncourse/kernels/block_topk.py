"""Block top-k attention in Triton: torch glances and chooses, the block-sparse kernel attends.

A choice is a list of key tiles, which is all that the block-sparse kernel asks for; here each head
brings its own. The lists are filled in on the device, so that nothing waits for the CPU.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.definitions.block_choice import check_knobs, groups
from attncourse.inputs import check_scale, int_sizes
from attncourse.kernels import block_sparse
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.plan import FULL, words_of
from attncourse.kernels._parts.tiles import (
    check_no_grad,
    check_tensors,
    padded,
    tiling,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    block: int,
    keep: int,
    choose_every: int = 1,
    bound: bool = False,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the `keep` blocks of keys that look best to each query.

    A program is a tile of queries that share a choice, and walks over the tiles of their blocks. A
    tile has 16 rows at least: where fewer share a choice, the others are empty, and multiplied.

    Contract: `attncourse.kernels`; knobs: `reference.block_topk.attention`.
    Where two blocks look equally good, rounding may choose another than the reference does.
    Gradients: none.
    Memory: the output, (B, H, Tq) float32; for each group of queries that share a choice, and each
        head, float32 scores of all blocks and the list of its tiles.
    """
    where = "block_topk.attention"
    check_tensors(where, q, k, v)
    knobs = check_knobs(where, block, keep, choose_every, bound, causal)
    check_no_grad(where, q, k, v)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    scale = check_scale(where, scale, D)
    out = q.new_zeros(B, H, Tq, Dv)  # causal queries before all keys are in no program
    asked = Tq, Tk, max(D, Dv), q.element_size(), *knobs
    lists = _lists(*asked)
    if not len(lists.items):
        return out
    lse = q.new_empty(B, H, Tq, dtype=torch.float32)
    with torch.cuda.device_of(q):
        items, pictures, *orders, first, own, entries = _on(q.device, *asked)
        chosen = _choose(q, k, first, own, *knobs, scale)
        named = _name(chosen, entries, lists.key_tiles, -(-Tk // knobs[0]))
        tables, blocks = (named, pictures, *orders), (lists.BLOCK_Q, lists.BLOCK_K)
        block_sparse.walk(q, k, v, items, tables, blocks, scale, out, lse)
    return out


class _Lists(NamedTuple):
    """All of the lists but which blocks are chosen.

    Attributes:
        items: int32 (n, 5), as of `plan.Lists`.
        pictures: int64 (n, BLOCK_Q), as of `plan.Plan`.
        q_order: int32, which query stands at each place of the tiles; Tq for none.
        k_order: int32, which key does: blocks are filled up to whole tiles, and a last, shorter
            block by repeating its last key, so that loads do not depend on what is chosen.
        first: int64 (groups,), the query that chooses.
        own: int64 (groups,), its block.
        entries: int64 (n, 5): group, which of its blocks, tile of that, picture, and picture if it
            is the last block of all.
        key_tiles: Tiles of a block.
        live: Keys that each entry loads, int (n,).
        BLOCK_Q: Queries of a tile.
        BLOCK_K: Keys of a tile.
    """

    items: np.ndarray
    pictures: np.ndarray
    q_order: np.ndarray
    k_order: np.ndarray
    first: np.ndarray
    own: np.ndarray
    entries: np.ndarray
    key_tiles: int
    live: np.ndarray
    BLOCK_Q: int
    BLOCK_K: int


@functools.lru_cache(maxsize=16)
def _lists(
    n_queries, n_keys, width, dtype_bytes, block, keep, choose_every, bound, causal
) -> _Lists:
    starts, own = groups(n_queries, n_keys, block, choose_every, causal)
    if not n_keys:
        starts, own = starts[-1:], own[:0]
    size, n_blocks = min(block, n_keys), -(-n_keys // block)  # keys of a block
    lengths = np.diff(starts)
    BLOCK_Q, BLOCK_K = _tile_sizes(int(lengths.max(initial=1)), max(size, 1), width, dtype_bytes)

    # each group, and each block, fills whole tiles of its own
    tiles = -(-lengths // BLOCK_Q)
    group = np.repeat(np.arange(len(own)), tiles)  # of each tile of queries
    number = np.arange(len(group)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    rows = (starts[:-1][group] + number * BLOCK_Q)[:, None] + np.arange(BLOCK_Q)
    q_order = np.where(rows < starts[1:][group, None], rows, n_queries)
    key_tiles = -(-size // BLOCK_K)
    place = np.arange(key_tiles * BLOCK_K)
    tokens = np.minimum(np.arange(n_blocks)[:, None] * block + place, n_keys - 1)
    k_order = np.where(place < size, tokens, n_keys)

    # a tile of queries visits tile t of its block of this rank
    count = np.minimum(keep, own + 1 if causal else np.full_like(own, n_blocks))[group]
    grid = np.arange(len(group)), np.arange(count.max(initial=0)), np.arange(key_tiles)
    row, rank, t = (x.ravel() for x in np.meshgrid(*grid, indexing="ij"))
    offset = (starts[:-1][group] + number * BLOCK_Q + n_keys - n_queries - own[group] * block)[row]
    is_own = causal & (rank == count[row] - 1)  # later than all others that it may choose
    seen = (rank < count[row]) & ~(is_own & (t * BLOCK_K > offset + BLOCK_Q - 1))
    row, rank, t, offset, is_own = (x[seen] for x in (row, rank, t, offset, is_own))
    offset = np.where(is_own, offset, size)  # others are seen whole
    rest = n_keys - (n_blocks - 1) * block  # keys of the last block
    ragged = not causal and rest < size

    kinds, kind = np.unique(np.stack([offset, t], 1), axis=0, return_inverse=True)
    pictures = []

    def picture(offset, t, end):
        places = t * BLOCK_K + np.arange(BLOCK_K)
        shown = (places < end) & (places <= offset + np.arange(BLOCK_Q)[:, None])
        if shown.all() and not ragged:
            return FULL
        pictures.append(words_of(shown))
        return len(pictures) - 1

    usual = np.array([picture(*each, size) for each in kinds], int)[kind.ravel()]
    last = np.array([picture(*each, rest) for each in kinds if ragged], int)
    last = last[kind.ravel()] if ragged else usual
    order = np.lexsort((usual != FULL, row))  # full tiles first
    entries = np.stack([group[row], rank, t, usual, last], axis=1)[order]
    ends = np.searchsorted(row, np.arange(len(group) + 1))
    full = np.bincount(row[usual == FULL], minlength=len(group))
    nothing = np.full(len(group), -1)
    items = np.stack([np.arange(len(group)), ends[:-1], ends[:-1] + full, ends[1:], nothing], 1)
    return _Lists(
        items.astype(np.int32),
        np.array(pictures, np.int64).reshape(-1, BLOCK_Q),
        *(order.astype(np.int32).ravel() for order in (q_order, k_order)),
        *(starts[:-1], own, entries, key_tiles),
        np.minimum(BLOCK_K, size - entries[:, 2] * BLOCK_K),
        *(BLOCK_Q, BLOCK_K),
    )


def _tile_sizes(rows: int, size: int, width: int, dtype_bytes: int) -> tuple[int, int]:
    """Return BLOCK_Q and BLOCK_K for so many rows of a group and keys of a block."""
    BLOCK_Q, BLOCK_K, _ = tiling(width, dtype_bytes)
    side = size & -size  # the largest power of two that divides it
    return min(padded(rows), BLOCK_Q), min(side if side >= 32 else padded(size), BLOCK_K)


@functools.lru_cache(maxsize=4)
def _on(device: torch.device, *asked) -> tuple[torch.Tensor, ...]:
    """Return the arrays of `_lists` on a device; the last few are kept there."""
    return tuple(torch.from_numpy(array).to(device) for array in _lists(*asked)[:7])


def _choose(q, k, first, own, block, keep, choose_every, bound, causal, scale) -> torch.Tensor:
    """Return the blocks int64 (B, H, groups, count) that each group chooses, in ascending order."""
    seen = _summaries(k, block, bound)
    chooser = q[:, :, first].float() * float(np.sign(scale))
    if bound:
        chooser = torch.cat([chooser.clamp(min=0), chooser.clamp(max=0)], dim=-1)
    largest = torch.finfo(torch.float32).max
    scores = torch.matmul(chooser, seen.mT)  # (B, H, groups, blocks)
    scores = scores.nan_to_num(nan=largest, posinf=largest, neginf=-largest)
    blocks = torch.arange(scores.shape[-1], device=q.device)
    scores.masked_fill_(blocks == own[:, None], torch.inf)
    if causal:
        scores.masked_fill_(blocks > own[:, None], -torch.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :keep].sort(dim=-1).values


def _summaries(k: torch.Tensor, block: int, bound: bool) -> torch.Tensor:
    """Return (B, H, blocks, D) float32, with `bound` twice as wide: see the reference."""
    Tk = k.shape[2]
    size, n_blocks = min(block, Tk), -(-Tk // block)
    missing = n_blocks * size - Tk

    def filled(value):
        longer = torch.nn.functional.pad(k.float(), (0, 0, 0, missing), value=value)
        return longer.unflatten(2, (n_blocks, size))

    if bound:
        return torch.cat([filled(-torch.inf).amax(3), filled(torch.inf).amin(3)], dim=-1)
    counts = torch.full((n_blocks, 1), float(size), device=k.device)
    counts[-1] -= missing
    return filled(0.0).sum(3) / counts


def _name(chosen, entries, key_tiles: int, n_blocks: int) -> torch.Tensor:
    """Return the entries of each head, int32 (B, H, n, 2): tile of keys and picture."""
    group, rank, t, usual, last = entries.T
    blocks = chosen[:, :, group, rank]  # (B, H, n)
    picture = torch.where(blocks == n_blocks - 1, last, usual)
    return torch.stack([blocks * key_tiles + t, picture], dim=-1).int()


@int_sizes
@counted_in_grids()
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
    """Count what the kernel of `attention` does, and `torch_cost`: see `attncourse.kernels`.

    The data do not change it: each group reads as many blocks whatever it chooses, and of a last,
    shorter block some keys twice.
    """
    knobs = check_knobs("block_topk.cost", block, keep, choose_every, bound, causal)
    finding = torch_cost(
        B, H, Tq, Tk, D, block=block, keep=keep, choose_every=choose_every, bound=bound,
        causal=causal, dtype_bytes=dtype_bytes,
    )  # fmt: skip
    lists = _lists(Tq, Tk, D, dtype_bytes, *knobs)
    BLOCK_Q, BLOCK_K = lists.BLOCK_Q, lists.BLOCK_K
    n_tiles, visited = len(lists.items), len(lists.entries)
    n_cut = int(np.count_nonzero(lists.entries[:, 3] != FULL))
    queries, keys = int(np.sum(lists.q_order < Tq)), int(lists.live.sum())
    read = n_tiles * (20 + 4 * BLOCK_Q) + visited * (4 + 4 * BLOCK_K) + n_cut * (4 + 8 * BLOCK_Q)
    read += (queries + 2 * keys) * D * dtype_bytes
    out, lse = B * H * Tq * D * dtype_bytes, B * H * Tq * 4
    constant = sum(array.nbytes for array in lists[:7]) if n_tiles else 0
    return Cost(
        flops=4 * B * H * visited * BLOCK_Q * BLOCK_K * padded(D) + finding.flops,
        bytes_read=B * H * read + finding.bytes_read,
        bytes_written=B * H * queries * (D * dtype_bytes + 4) + finding.bytes_written,
        peak_bytes=out + (lse + constant if n_tiles else 0) + finding.peak_bytes,
    )


@int_sizes
def torch_cost(
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
    """Count the part of `cost` that is torch's: the glance, the choice and the lists.

    Keys and choosing queries are read once, the lists written once; what passes through memory in
    between is the library's affair. So the peak is the least possible: the vectors of the blocks,
    the scores of all groups, sorted, and the lists.
    """
    knobs = check_knobs("block_topk.cost", block, keep, choose_every, bound, causal)
    lists = _lists(Tq, Tk, D, dtype_bytes, *knobs)
    if not len(lists.items):
        return Cost(0, 0, 0, 0)
    n_groups, n_blocks = len(lists.own), -(-Tk // knobs[0])
    width = D * (1 + knobs[3])
    named = 8 * len(lists.entries)
    return Cost(
        flops=2 * B * H * n_groups * n_blocks * width,
        bytes_read=B * H * (Tk + n_groups) * D * dtype_bytes,
        bytes_written=B * H * named,
        peak_bytes=B * H * (n_blocks * (width * 4 + n_groups * (4 + 8)) + named),
    )
