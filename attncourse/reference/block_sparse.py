"""Block-sparse attention: a grid says which blocks of keys each block of queries attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from attncourse import layouts, masks
from attncourse.cost import Cost
from attncourse.definitions.patterns import check_grids
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import attend, held_bytes
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    layout: np.ndarray,
    block: int,
    partial: np.ndarray | None = None,
    visible: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the blocks of keys that the layout lists.

    A row of blocks takes the keys it lists, and nothing is computed for the others; blocks that
    follow one another are not even copied. `visible` is asked about the partial blocks only: a full
    one is seen as a whole. Causal, the blocks of the future are skipped.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        layout: bool (query blocks, key blocks), as `layouts.grid` numbers them; True = attend.
        block: Tokens in a block. Query blocks are counted in key positions, i + Tk - Tq.
        partial: bool, shaped as layout: the blocks to which `visible` applies; all if not given.
        visible: A function of queries i (rows, 1) and keys j (1, keys) that says who may attend.

    Raises:
        TypeError: A grid that is not boolean.
        ValueError: block < 1, `partial` without `visible`.

    Memory:
        One row of blocks: its scores (..., block, listed · block), and a copy of its keys or its
        values where there are gaps between the blocks.

    Paper:
        Gray, Radford, Kingma 2017, "GPU kernels for block-sparse weights"; full and partial blocks:
        Dong et al. 2024, arXiv:2412.05496.
    """
    check_qkv("block_sparse.attention", q, k, v)
    causal = check_flag("block_sparse.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    block = check_grids(
        "block_sparse.attention", n_queries, n_keys, layout, block, partial, visible
    )
    factor = check_scale("block_sparse.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for row, rows, listed in _rows_of_blocks(n_queries, n_keys, layout, block, causal):
        keys = _tokens(listed, block, n_keys)  # (keys,)
        hidden = np.zeros((len(rows), len(keys)), dtype=bool) if visible or causal else None
        if visible:
            cut = np.isin(
                keys // block, listed if partial is None else np.flatnonzero(partial[row])
            )
            hidden[:, cut] = ~visible(np.array(rows)[:, None], keys[None, cut])
        if causal:
            late = np.searchsorted(keys, rows.start + n_keys - n_queries)  # its own block's keys
            hidden[:, late:] |= ~np.tri(len(rows), len(keys) - late, dtype=bool)
        part = slice(rows.start, rows.stop)
        out[..., part, :] = attend(q[..., part, :], k, v, _unbroken(keys), hidden, factor)
    return out


@int_sizes
def mask(
    n_queries: int,
    n_keys: int,
    *,
    layout: np.ndarray,
    block: int,
    partial: np.ndarray | None = None,
    visible: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    causal: bool = False,
) -> np.ndarray:
    """Return the mask (Tq, Tk) of the blocks; arguments as in `attncourse.reference`."""
    block = check_grids("block_sparse.mask", n_queries, n_keys, layout, block, partial, visible)
    causal = check_flag("block_sparse.mask", "causal", causal)
    i, j = np.arange(n_queries)[:, None], np.arange(n_keys)[None, :]
    row = (i + n_keys - n_queries) // block - (n_keys - n_queries) // block
    shown = layout[row, j // block]  # (Tq, Tk)
    if visible:
        shown = shown & (visible(i, j) | (partial is not None and ~partial[row, j // block]))
    return shown & masks.causal(n_queries, n_keys) if causal else shown


@int_sizes
def layout_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    layout: np.ndarray,
    block: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does at this layout, without `visible`, by the rules of `cost`."""
    block = check_grids("block_sparse.layout_cost", Tq, Tk, layout, block)
    causal = check_flag("block_sparse.layout_cost", "causal", causal)
    pairs = loaded = largest = 0
    for _, rows, listed in _rows_of_blocks(Tq, Tk, layout, block, causal):
        tokens = _tokens(listed, block, Tk)
        keys = len(tokens)
        pairs += len(rows) * keys
        loaded += (len(rows) + 2 * keys) * D
        gathered = not isinstance(_unbroken(tokens), slice)
        held = held_bytes(B * H, len(rows), keys, D, dtype_bytes, gathered=gathered)
        largest = max(largest, held + 8 * keys + len(rows) * keys * causal)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    block: int,
    window_blocks: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does at `layouts.band`, which the catalogue's sliders set.

    Arguments and rules as in `attncourse.reference`.

    Args:
        window_blocks: Radius in blocks: each sees itself and as many on each side.
    """
    block = check_count("block_sparse.cost", "block", block, least=1)
    window_blocks = check_count("block_sparse.cost", "window_blocks", window_blocks)
    causal = check_flag("block_sparse.cost", "causal", causal)
    layout = layouts.band(Tq, Tk, block=block, window_blocks=window_blocks)
    sizes = {"block": block, "causal": causal, "dtype_bytes": dtype_bytes}
    return layout_cost(B, H, Tq, Tk, D, layout=layout, **sizes)


def _rows_of_blocks(
    n_queries: int, n_keys: int, layout: np.ndarray, block: int, causal: bool
) -> Iterator[tuple[int, range, np.ndarray]]:
    """Yield (row of the layout, its queries, the key blocks it lists that are not all future)."""
    ahead = n_keys - n_queries
    for row, own in enumerate(layouts.grid(n_queries, n_keys, block=block)[0]):
        rows = range(max(own * block - ahead, 0), min((own + 1) * block - ahead, n_queries))
        listed = np.flatnonzero(layout[row])
        yield row, rows, listed[listed <= own] if causal else listed


def _tokens(blocks: np.ndarray, block: int, n_keys: int) -> np.ndarray:
    tokens = (blocks[:, None] * block + np.arange(min(block, n_keys))).ravel()
    return tokens[tokens < n_keys]


def _unbroken(tokens: np.ndarray) -> slice | np.ndarray:
    """Return a slice, which needs no copy, if the tokens follow one another."""
    if len(tokens) and tokens[-1] - tokens[0] == len(tokens) - 1:
        return slice(tokens[0], tokens[-1] + 1)
    return tokens
