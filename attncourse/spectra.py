"""What a matrix of attention weights is like: its rank, its locality, its spread."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.inputs import check_count


def energy_curve(matrix: np.ndarray) -> np.ndarray:
    """Return the share of the energy that the first r singular values hold, for r = 1, 2, ...

    1 minus it is the squared relative error of the best approximation of rank r.

    Args:
        matrix: (..., Tq, Tk) floating, say weights or scores.

    Returns:
        (..., min(Tq, Tk)) float64, rising to 1; a matrix of zeros has 1 everywhere.

    Raises:
        ValueError: Fewer than 2 axes, no entries, NaN or infinity.

    Paper:
        Eckart, Young 1936: the truncated singular value decomposition is the best of its rank.
    """
    energy = np.cumsum(np.square(_singular_values("spectra.energy_curve", matrix)), axis=-1)
    total = energy[..., -1:]
    return np.where(total > 0, energy / np.where(total > 0, total, 1), 1.0)


def effective_rank(matrix: np.ndarray, *, energy: float = 0.99) -> np.ndarray:
    """Return the smallest rank whose best approximation holds a given share of the energy.

    Args:
        matrix: (..., Tq, Tk) floating.
        energy: The share of the squared singular values, above 0, at most 1.

    Returns:
        int (...), 1 to min(Tq, Tk).

    Raises:
        ValueError: A share outside 0 ... 1, and as in `energy_curve`.
    """
    if not 0 < energy <= 1:
        raise ValueError(
            f"spectra.effective_rank: energy must be above 0 and at most 1, got {energy}"
        )
    curve = energy_curve(matrix)
    enough = curve >= energy - 1e-12  # the sum of all shares is 1 only to rounding
    return enough.argmax(axis=-1) + 1


def entropy_rank(matrix: np.ndarray) -> np.ndarray:
    """Return exp(H), H the entropy of the singular values divided by their sum.

    A rank without a threshold: n equal singular values count n, one that dominates counts 1.

    Args:
        matrix: (..., Tq, Tk) floating.

    Returns:
        float64 (...), 1 to min(Tq, Tk); 0 for a matrix of zeros.

    Paper:
        Roy, Vetterli 2007, "The effective rank", EUSIPCO.
    """
    values = _singular_values("spectra.entropy_rank", matrix)
    total = values.sum(axis=-1, keepdims=True)
    shares = values / np.where(total > 0, total, 1)
    return np.where(total[..., 0] > 0, np.exp2(_bits(shares)), 0.0)


def locality(weights: np.ndarray, *, radius: int) -> np.ndarray:
    """Return how much of each query's attention lies within `radius` tokens of it.

    Args:
        weights: (..., Tq, Tk), rows summing to 1.
        radius: In tokens, as `window`: keys p - radius ... p + radius around p = i + Tk - Tq.

    Returns:
        float64 (..., Tq), 0 to 1.

    Raises:
        TypeError: A radius that is no integer.
        ValueError: radius < 0.
    """
    radius = check_count("spectra.locality", "radius", radius)
    n_queries, n_keys = weights.shape[-2:]
    distance = np.abs(np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None])
    return weights.sum(axis=-1, dtype=np.float64, where=distance <= radius)


def row_entropy(weights: np.ndarray) -> np.ndarray:
    """Return the entropy of each query's weights: 0 bits for one key, log2(Tk) for all alike.

    Args:
        weights: (..., Tq, Tk), rows summing to 1 or all zero.

    Returns:
        float64 (..., Tq), in bits.
    """
    return _bits(weights.astype(np.float64))


def _bits(shares: np.ndarray) -> np.ndarray:
    """Return -sum p log2 p over the last axis; 0 log 0 is 0, and NaN stays NaN."""
    logs = np.log2(shares, where=shares != 0, out=np.zeros_like(shares))
    return np.abs((shares * logs).sum(axis=-1))  # the sum is at most 0, and -0 is no entropy


def _singular_values(where: str, matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(f"{where}: matrix must have rows and columns, got shape {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise ValueError(f"{where}: matrix must be finite, got NaN or infinity")
    return np.linalg.svd(matrix, compute_uv=False)
