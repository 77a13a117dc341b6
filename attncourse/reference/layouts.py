"""Layouts of block-sparse attention: bool grids (query blocks, key blocks); True = attend to it."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count
from attncourse.reference import masks


def grid(n_queries: int, n_keys: int, *, block: int) -> tuple[range, range]:
    """Return the numbers of the query blocks and of the key blocks, as a layout lists them.

    A query belongs to the block of its position i + Tk - Tq. With fewer queries than keys the first
    query block may be cut, with more queries its number is negative; what a query sees is the
    same whether it comes alone or with those before it.
    """
    check_count("layouts.grid", "block", block, least=1)
    first, end = (n_keys - n_queries) // block, -(-n_keys // block)
    return range(first, end if n_queries else first), range(end)


def band(n_queries: int, n_keys: int, *, block: int, window_blocks: int) -> np.ndarray:
    """Return the layout of a window of blocks.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        block: Tokens in a block.
        window_blocks: Radius in blocks: each sees itself and as many on each side.
    """
    check_count("layouts.band", "window_blocks", window_blocks)
    own, keys = grid(n_queries, n_keys, block=block)
    return np.abs(np.arange(len(keys)) - np.array(own, dtype=int)[:, None]) <= window_blocks


def blocks_of(visible: np.ndarray, *, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the layout that covers a mask, and which of its blocks are partial.

    Args:
        visible: bool (Tq, Tk).
        block: Tokens in a block.

    Returns:
        bool (query blocks, key blocks) twice: blocks with any True, and those not wholly True.
    """
    n_queries, n_keys = visible.shape
    own, columns = grid(n_queries, n_keys, block=block)
    layout, partial = np.zeros((2, len(own), len(columns)), dtype=bool)
    rows = masks.positions(n_queries, n_keys) // block - own.start
    i, j = np.nonzero(visible)
    layout[rows[i], j // block] = True
    i, j = np.nonzero(~visible)
    partial[rows[i], j // block] = True
    return layout, partial & layout
