"""The softmax of attention: stable, in place, and zero where nothing may be seen."""

from __future__ import annotations

import numpy as np


def scaled(q: np.ndarray, factor: float) -> np.ndarray:
    """Return q · factor in float32 at least, with NaN for infinity.

    Scaling queries instead of their scores takes fewer products. An infinity would make scores of
    ±inf, and a row of -inf cannot be told from a masked one: as NaN it passes through.

    Args:
        q: (..., Tq, D) floating.
        factor: Factor of the scores.
    """
    out = np.multiply(q, factor, dtype=np.result_type(q.dtype, np.float32))
    np.copyto(out, np.nan, where=np.isinf(out))
    return out


def spoiled(v: np.ndarray) -> np.ndarray | None:
    """Return which values hold a NaN or an infinity, bool (..., Tk); None if none do."""
    if not v.size or (np.isfinite(v.min()) and np.isfinite(v.max())):  # no array of bools
        return None
    return ~np.isfinite(v).all(axis=-1)


def nan_to_keys(k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return k and v with what is not finite in a value moved to its key, as NaN.

    A hidden key has weight 0, and 0 · NaN is NaN: in a product with a whole tile of values it would
    spoil rows that may not attend to it, which rows depending on the size of the tile. A key that
    is NaN is hidden with its score.

    Args:
        k: (..., Tk, D) floating.
        v: (..., Tk, Dv).

    Memory:
        Copies, if there is such a value; nothing else.
    """
    bad = spoiled(v)
    if bad is None:
        return k, v
    return tuple(
        np.where(bad[..., None], array.dtype.type(number), array)
        for array, number in ((k, np.nan), (v, 0))
    )


def softmax_in_place(scores: np.ndarray) -> np.ndarray:
    """Turn scores into weights without a second array.

    Each row becomes exp(s - max s) / sum exp(s - max s). Subtracting the maximum changes nothing
    in the quotient and keeps exp from overflowing. A row of -inf becomes zeros.

    Args:
        scores: (..., Tq, Tk) floating; overwritten. -inf marks a pair that may not attend.

    Returns:
        The same array: weights (..., Tq, Tk), rows summing to 1 or all zero.

    Memory:
        Two numbers per row.
    """
    scores /= exp_in_place(scores)
    return scores


def exp_in_place(scores: np.ndarray) -> np.ndarray:
    """Turn scores into exp(s - max s) and leave the division by the row sums to the caller.

    Args:
        scores: (..., Tq, Tk) floating; overwritten.

    Returns:
        The row sums (..., Tq, 1); 1 where the row is empty.
    """
    row_max = scores.max(axis=-1, keepdims=True, initial=-np.inf)  # (..., rows, 1)
    row_max[row_max == -np.inf] = 0  # an empty row: exp(-inf - 0) = 0 instead of NaN
    scores -= row_max
    np.exp(scores, out=scores)
    row_sum = scores.sum(axis=-1, keepdims=True)  # (..., rows, 1)
    row_sum[row_sum == 0] = 1
    return row_sum


def softmax(scores: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the softmax over the last axis and leave the scores alone.

    Args:
        scores: (..., Tq, Tk) floating.
        mask: bool, broadcast against scores; True = may attend.

    Returns:
        Weights (..., Tq, Tk) in the dtype of the scores; a fully masked row is zero.
    """
    weights = scores.copy() if mask is None else np.where(mask, scores, scores.dtype.type(-np.inf))
    return softmax_in_place(weights)
