"""Tiles of the score matrix: how they are cut, masked, and joined again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def tiles(first: int, last: int, block: int) -> Iterator[slice]:
    """Yield first ... last - 1 in slices of `block`, the last one shorter."""
    for start in range(first, last, block):
        yield slice(start, min(start + block, last))


def hide_future(scores: np.ndarray, diagonal: int) -> None:
    """Set the scores of later keys to -inf; the first query sits at key `diagonal` of the tile."""
    n_rows, n_cols = scores.shape[-2:]
    if diagonal < n_cols - 1:  # else the tile lies below the diagonal
        np.copyto(scores, -np.inf, where=~np.tri(n_rows, n_cols, diagonal, dtype=bool))


def finite(maximum: np.ndarray) -> np.ndarray:
    """Replace -inf, the maximum of a row without visible keys, by 0: -inf - -inf would be NaN."""
    return np.where(maximum == -np.inf, maximum.dtype.type(0), maximum)


def merge(
    out_a: np.ndarray, lse_a: np.ndarray, out_b: np.ndarray, lse_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `forward` gives for two disjoint sets of keys, from what it gives for each.

    Split keys, pages and devices are joined with this; the order does not matter.

    Args:
        out_a: (..., Tq, Dv), attention to the first set of keys.
        lse_a: (..., Tq), its log-sum-exp; -inf where no key was seen.
        out_b: (..., Tq, Dv), attention to the second set.
        lse_b: (..., Tq).

    Returns:
        out and lse of both sets together.
    """
    shapes = [array.shape for array in (out_a, lse_a, out_b, lse_b)]
    if shapes[:2] != shapes[2:] or shapes[0][:-1] != shapes[1]:
        raise ValueError(
            f"flash.merge: two outputs (..., Tq, Dv) and their lse (..., Tq), got {shapes}"
        )
    lse = np.logaddexp(lse_a, lse_b)
    pivot = finite(lse)
    out = out_a * np.exp(lse_a - pivot)[..., None] + out_b * np.exp(lse_b - pivot)[..., None]
    return out.astype(out_a.dtype, copy=False), lse
