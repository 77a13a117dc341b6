"""Layouts of block-sparse attention: bool grids (query blocks, key blocks); True = attend to it."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.definitions.patterns import band, grid

__all__ = ["band", "blocks_of", "grid"]


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
