"""T5's buckets of distances, on which the reference and the kernel must agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attncourse.inputs import check_count, check_flag


def t5_bucket(
    distance: np.ndarray, *, n_buckets: int = 32, max_distance: int = 128, causal: bool = False
) -> np.ndarray:
    """Return the number of the bucket of each distance.

    Both directions have half of the buckets each; causal, the past has all of them. Half of a
    direction's buckets hold one distance each, the others grow with it: bucket e + ⌊(n - e) ·
    log(d / e) / log(max_distance / e)⌋ for the distances d from e = n / 2 on.

    Args:
        distance: int, any shape: key position minus query position.
        n_buckets: All buckets together, even.
        max_distance: Distances from here on share the last bucket, if not those before do already.
        causal: Later keys count as distance 0.

    Returns:
        int, 0 ... n_buckets - 1. With both directions the first bucket of the later keys, n_buckets
        // 2, stays empty: distance 0 counts to the earlier ones.

    Raises:
        ValueError: n_buckets below 2 (4 with both directions) or odd, or max_distance too small.

    Paper:
        Raffel et al. 2020, arXiv:1910.10683, section 2.1; the formula is that of its code.
    """
    causal = check_flag("relative.t5_bucket", "causal", causal)
    n_own, max_distance = check_buckets("relative.t5_bucket", n_buckets, max_distance, causal)
    exact = n_own // 2
    distance = np.asarray(distance)
    size = np.maximum(-distance, 0) if causal else np.abs(distance)
    growth = np.log(np.maximum(size, exact) / exact) / math.log(max_distance / exact)
    grown = np.minimum(exact + (growth * (n_own - exact)).astype(size.dtype), n_own - 1)
    bucket = np.where(size < exact, size, grown)
    return bucket if causal else bucket + n_own * (distance > 0)


def rows_by_distance(n_buckets: int, max_distance: int, causal: bool) -> np.ndarray:
    """Return the bucket of each distance from -max_distance to max_distance; those beyond share it.

    Args:
        n_buckets: As in `t5_bucket`.
        max_distance: As in `t5_bucket`.
        causal: As in `t5_bucket`.
    """
    distances = np.arange(-max_distance, max_distance + 1)
    return t5_bucket(distances, n_buckets=n_buckets, max_distance=max_distance, causal=causal)


def check_buckets(where: str, n_buckets: int, max_distance: int, causal: bool) -> tuple[int, int]:
    """Refuse buckets that T5's formula cannot fill; return their number a side and max_distance.

    Args:
        where: The function that asks, such as "t5.attention".
        n_buckets: As in `t5_bucket`.
        max_distance: As in `t5_bucket`.
        causal: As in `t5_bucket`.
    """
    n_buckets = check_count(where, "n_buckets", n_buckets, least=2 if causal else 4)
    if n_buckets % 2:
        raise ValueError(f"{where}: n_buckets must be even, got {n_buckets}")
    n_own = n_buckets if causal else n_buckets // 2
    return n_own, check_count(where, "max_distance", max_distance, least=n_own // 2 + 1)


def check_table(where: str, table: Any, heads: int, max_distance: int, causal: bool) -> int:
    """Return max_distance as an int; refuse a table that fits no heads or that no formula fills.

    Args:
        where: The function that asks.
        table: An array or a tensor, to be (n_buckets, heads) or (n_buckets, 1).
        heads: H.
        max_distance: As in `t5_bucket`.
        causal: As in `t5_bucket`.

    Raises:
        TypeError: A table that holds no floating numbers.
        ValueError: One of another shape, and as in `t5_bucket`.
    """
    if not hasattr(table, "dtype") or "float" not in str(table.dtype):
        kind = getattr(table, "dtype", type(table).__name__)
        raise TypeError(f"{where}: table must hold floating numbers, got {kind}")
    if table.ndim != 2 or table.shape[1] not in (1, heads):
        raise ValueError(
            f"{where}: table must have shape (n_buckets, {heads}) or (n_buckets, 1), "
            f"got {tuple(table.shape)}"
        )
    return check_buckets(where, len(table), max_distance, causal)[1]
