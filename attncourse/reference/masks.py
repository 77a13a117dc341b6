"""Boolean masks (Tq, Tk): True = query i may attend to key j. And what a mask can tell.

If Tq differs from Tk, the last query is aligned with the last key: query i sits at key position
i + Tk - Tq.
"""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count


def positions(n_queries: int, n_keys: int) -> np.ndarray:
    """Return the key position (Tq,) at which each query sits; negative before the first key."""
    return np.arange(n_queries) + (n_keys - n_queries)


def causal(n_queries: int, n_keys: int) -> np.ndarray:
    """Return the mask (Tq, Tk) of queries that see themselves and what came before."""
    return np.arange(n_keys) <= positions(n_queries, n_keys)[:, None]


def blocks(n_queries: int, n_keys: int, *, block: int, overlap: int = 0) -> np.ndarray:
    """Return the mask (Tq, Tk) of queries that see their own block of keys.

    Without overlap the blocks are islands: no number of layers carries anything across an edge.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        block: Keys in a block.
        overlap: Keys that a block sees beyond each of its edges.
    """
    check_count("masks.blocks", "block", block, least=1)
    check_count("masks.blocks", "overlap", overlap)
    first = (positions(n_queries, n_keys) // block * block)[:, None]
    key = np.arange(n_keys)
    return (key >= first - overlap) & (key < first + block + overlap)


def density(mask: np.ndarray) -> float:
    """Return the share of pairs that may attend, 0 to 1. Sparsity is 1 - density."""
    return float(mask.mean()) if mask.size else 0.0


def reach(mask: np.ndarray, layers: int) -> np.ndarray:
    """Return which inputs can influence which outputs after `layers` layers of this mask.

    Layers multiply like boolean matrices; the residual connection keeps each token's own input.

    Args:
        mask: bool (T, T).
        layers: 0 gives the identity.

    Returns:
        bool (T, T): [i, j] is True if output i depends on input j.
    """
    check_count("masks.reach", "layers", layers)
    _check_square("masks.reach", mask)
    step = (mask | np.eye(len(mask), dtype=bool)).astype(np.float32)
    reached = np.eye(len(mask), dtype=np.float32)
    for _ in range(layers):
        reached = np.minimum(step @ reached, 1)
    return reached > 0


def hops(mask: np.ndarray) -> np.ndarray:
    """Return after how many layers each input first reaches each output.

    Args:
        mask: bool (T, T).

    Returns:
        int (T, T); 0 on the diagonal, -1 where no number of layers is enough.
    """
    _check_square("masks.hops", mask)
    layers = np.where(np.eye(len(mask), dtype=bool), 0, -1)
    step = (mask | np.eye(len(mask), dtype=bool)).astype(np.float32)
    reached, depth = np.eye(len(mask), dtype=np.float32), 0
    while True:
        depth += 1
        reached = np.minimum(step @ reached, 1)
        fresh = (reached > 0) & (layers < 0)
        if not fresh.any():
            return layers
        layers[fresh] = depth


def _check_square(where: str, mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1] or mask.dtype != bool:
        raise ValueError(
            f"{where}: mask must be a square boolean matrix, got {mask.dtype} {mask.shape}"
        )
