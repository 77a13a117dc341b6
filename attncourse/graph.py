"""A mask as a graph: tokens are nodes, "may attend" is an edge, and each layer is one step.

Whether a sparse pattern joins two tokens at all, and after how many layers, is a question about
paths in this graph. It has nothing to do with weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attncourse.inputs import check_count


def connections(mask: np.ndarray) -> int:
    """Return how many pairs (i, j) may attend."""
    return int(np.count_nonzero(mask))


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
    layers = check_count("graph.reach", "layers", layers)
    _check_square("graph.reach", mask)
    step, reached = _step(mask), np.eye(len(mask), dtype=np.float32)
    for _ in range(layers):
        reached = np.minimum(step @ reached, 1)
    return reached > 0


def reach_through(layer_masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return `reach` after each layer of a network whose layers have different masks.

    Args:
        layer_masks: bool (T, T) each, the mask of the first layer first.

    Returns:
        bool (T, T) for each layer; the order of the layers matters.
    """
    if not layer_masks:
        return []
    for mask in layer_masks:
        _check_square("graph.reach_through", mask)
    if len({mask.shape for mask in layer_masks}) > 1:
        raise ValueError(
            "graph.reach_through: the masks must have one shape, "
            f"got {sorted({mask.shape for mask in layer_masks})}"
        )
    reached, after = np.eye(len(layer_masks[0]), dtype=np.float32), []
    for mask in layer_masks:
        reached = np.minimum(_step(mask) @ reached, 1)
        after.append(reached > 0)
    return after


def hops(mask: np.ndarray) -> np.ndarray:
    """Return after how many layers each input first reaches each output.

    Args:
        mask: bool (T, T).

    Returns:
        int (T, T); 0 on the diagonal, -1 where no number of layers is enough.
    """
    _check_square("graph.hops", mask)
    layers = np.where(np.eye(len(mask), dtype=bool), 0, -1)
    step, reached = _step(mask), np.eye(len(mask), dtype=np.float32)
    depth = 0
    while True:
        depth += 1
        reached = np.minimum(step @ reached, 1)
        fresh = (reached > 0) & (layers < 0)
        if not fresh.any():
            return layers
        layers[fresh] = depth


def hop_curve(mask: np.ndarray) -> np.ndarray:
    """Return the share of all pairs joined within 0, 1, 2 … layers, up to where it stops growing.

    Args:
        mask: bool (T, T).

    Returns:
        float (depth + 1,): rising; ends at 1 if every token reaches every other.
    """
    needed = hops(mask)
    if not needed.size:
        return np.ones(1)
    return np.cumsum(np.bincount(needed[needed >= 0])) / needed.size


def islands(mask: np.ndarray) -> np.ndarray:
    """Return which island each token belongs to: tokens that no edge joins, in either direction.

    Args:
        mask: bool (T, T).

    Returns:
        int (T,): the smallest token of the token's island.
    """
    _check_square("graph.islands", mask)
    label = np.arange(len(mask))
    joined = mask | mask.T | np.eye(len(mask), dtype=bool)
    while True:  # every token takes the smallest label beside it, until nothing changes
        smaller = np.where(joined, label, len(mask)).min(axis=1, initial=len(mask))
        if np.array_equal(smaller, label):
            return label
        label = smaller


def _step(mask: np.ndarray) -> np.ndarray:
    return (mask | np.eye(len(mask), dtype=bool)).astype(np.float32)


def _check_square(where: str, mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1] or mask.dtype != bool:
        raise ValueError(
            f"{where}: mask must be a square boolean matrix, got {mask.dtype} {mask.shape}"
        )
