"""Boolean masks (Tq, Tk): True = query i may attend to key j. `graph` says what a mask can do.

If Tq differs from Tk, the last query is aligned with the last key: query i sits at key position
i + Tk - Tq.
"""

from __future__ import annotations

import numpy as np

from attncourse.graph import density, hops, reach
from attncourse.inputs import check_count, int_sizes

__all__ = ["blocks", "causal", "density", "hops", "positions", "reach"]


@int_sizes
def positions(n_queries: int, n_keys: int) -> np.ndarray:
    """Return the key position (Tq,) at which each query sits; negative before the first key."""
    return np.arange(n_queries) + (n_keys - n_queries)


@int_sizes
def causal(n_queries: int, n_keys: int) -> np.ndarray:
    """Return the mask (Tq, Tk) of queries that see themselves and what came before."""
    return np.arange(n_keys) <= positions(n_queries, n_keys)[:, None]


@int_sizes
def blocks(n_queries: int, n_keys: int, *, block: int, overlap: int = 0) -> np.ndarray:
    """Return the mask (Tq, Tk) of queries that see their own block of keys.

    Without overlap the blocks are islands: no number of layers carries anything across an edge.
    Where the overlap is a multiple of the block, `block_sparse` attends so with `layouts.band`,
    and never makes this mask.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        block: Keys in a block.
        overlap: Keys that a block sees beyond each of its edges.
    """
    block = check_count("masks.blocks", "block", block, least=1)
    overlap = check_count("masks.blocks", "overlap", overlap)
    span = n_queries + n_keys  # more reaches no further, and would overflow
    block, overlap = min(block, max(span, 1)), min(overlap, span)
    first = (positions(n_queries, n_keys) // block * block)[:, None]  # (Tq, 1)
    key = np.arange(n_keys)
    return (key >= first - overlap) & (key < first + block + overlap)
