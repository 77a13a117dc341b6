"""Relative positions (Shaw): a learned vector for each clipped distance, on keys and values.

T5's bias, ALiBi and RoPE need no attention of their own; `_parts/encodings.py` has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.definitions.buckets import t5_bucket
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes, stream
from attncourse.reference._parts.encodings import alibi_bias, alibi_slopes, rotate, t5_bias
from attncourse.softmax import nan_to_keys, scaled

__all__ = [
    "alibi_bias",
    "alibi_slopes",
    "attention",
    "cost",
    "random_tables",
    "rotate",
    "t5_bias",
    "t5_bucket",
]

BLOCK = 128  # queries and keys of a tile


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    relative_keys: np.ndarray,
    relative_values: np.ndarray,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return Σⱼ wᵢⱼ (vⱼ + relative_values[r]) with scores qᵢ · (kⱼ + relative_keys[r]) · scale.

    r is the distance j - i, clipped to ±max_distance. A query has only 2·max_distance + 1 different
    scores with relative keys, and one sum of weights for each relative value. So these are kept,
    not a vector for each pair, and the softmax runs online over tiles as in `flash`. A tile further
    away than max_distance has one r: there they cost next to nothing.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        relative_keys: (2·max_distance + 1, D): row 0 for max_distance or more before the query,
            the middle for the query's own position.
        relative_values: (2·max_distance + 1, Dv).

    Memory:
        Two tiles (..., 128, 128) and a few (..., 128, 2·max_distance + 1 + D).

    Paper:
        Shaw, Uszkoreit, Vaswani 2018, arXiv:1803.02155, sections 3.1 to 3.3.
    """
    check_qkv("relative.attention", q, k, v)
    causal = check_flag("relative.attention", "causal", causal)
    _check_tables(relative_keys, relative_values, q.shape[-1], v.shape[-1])
    (k, v), ahead = nan_to_keys(k, v), k.shape[-2] - q.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    factor = check_scale("relative.attention", scale, q.shape[-1])
    tables = relative_keys.astype(work, copy=False), relative_values.astype(work, copy=False)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for first in range(0, q.shape[-2], BLOCK):
        rows = slice(first, first + BLOCK)
        q_tile = scaled(q[..., rows, :], factor)  # (..., block, D)
        out[..., rows, :] = _query_tile(q_tile, k, v, *tables, first + ahead, causal)
    return out


def random_tables(
    max_distance: int, width: int, value_width: int, *, seed: int = 0, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Draw relative keys (2·max_distance + 1, D) and values (2·max_distance + 1, Dv).

    Args:
        max_distance: Distance at which positions are clipped.
        width: D.
        value_width: Dv.
        seed: The same seed gives the same numbers, in any dtype.
        dtype: A NumPy floating dtype.
    """
    max_distance = check_count("relative.random_tables", "max_distance", max_distance)
    generator = stream("relative", seed)
    drawn = (generator.standard_normal((2 * max_distance + 1, n)) for n in (width, value_width))
    keys, values = (table.astype(np.float16).astype(dtype) for table in drawn)
    return keys, values


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    max_distance: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    Beyond the products of `flash` there are two with the tables, 2·max_distance + 1 rows each.
    Traffic takes the tables to stay in cache.

    Args:
        max_distance: Distance at which positions are clipped.
    """
    n_distances = 2 * check_count("relative.cost", "max_distance", max_distance) + 1
    causal = check_flag("relative.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    pairs = loaded = 0
    for first in range(0, Tq, BLOCK):
        n_rows = min(BLOCK, Tq - first)
        n_seen = max(first + n_rows + Tk - Tq, 0) if causal else Tk
        pairs += n_rows * n_seen
        loaded += (n_rows + 2 * n_seen) * D
    n_rows, n_cols = min(BLOCK, Tq), min(BLOCK, Tk)
    tables = 2 * n_distances * D
    converted = n_cols * D if work_bytes != dtype_bytes else 0
    numbers = n_rows * (2 * n_cols + 2 * D + 2 * n_distances) + converted  # scores and their gain
    held = B * H * numbers + tables * (work_bytes != dtype_bytes)
    indices = (n_rows * n_cols + NUMPY_BUFFER) * 8
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * (pairs + Tq * n_distances) * D,
        bytes_read=(B * H * loaded + tables) * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + held * work_bytes + indices,
    )


def _query_tile(q, k, v, relative_keys, relative_values, start, causal) -> np.ndarray:
    """Return the output of one tile of scaled queries; the first one sits at key `start`."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    gains = np.matmul(q, relative_keys.T)  # (..., block, distances): what a score gains
    sums = np.zeros_like(gains)  # the weights so far, summed for each distance
    acc = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)  # (..., block, Dv)
    running_max = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)  # (..., block, 1)
    last = start + n_queries if causal else n_keys
    for first in range(0, last, BLOCK):
        keys = slice(first, min(first + BLOCK, last))
        weights, new_max = _weights(q, k[..., keys, :], gains, start - first, running_max, causal)
        rescale = np.exp(running_max - np.where(new_max == -np.inf, 0, new_max))
        sums *= rescale
        _add(sums, weights, start - first)
        acc *= rescale
        acc += np.matmul(weights, v[..., keys, :].astype(q.dtype, copy=False))
        running_max = new_max
        del weights  # before the next tile makes its own
    running_sum = sums.sum(axis=-1, keepdims=True)
    running_sum[running_sum == 0] = 1
    acc += np.matmul(sums, relative_values)
    acc /= running_sum
    return acc


def _weights(q, k, gains, own, running_max, causal) -> tuple[np.ndarray, np.ndarray]:
    """Return exp(scores - new_max) of a tile whose first query sits at its key `own`."""
    scores = np.matmul(q, k.astype(q.dtype, copy=False).swapaxes(-1, -2))  # (..., block, keys)
    row, distance = _distances(*scores.shape[-2:], own, gains.shape[-1] // 2)
    scores += gains[..., row, distance]
    if causal and own < k.shape[-2] - 1:
        np.copyto(scores, -np.inf, where=~np.tri(*scores.shape[-2:], own, dtype=bool))
    new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
    scores -= np.where(new_max == -np.inf, 0, new_max)
    return np.exp(scores, out=scores), new_max


def _add(sums, weights, own) -> None:
    """Add the weights of a tile to the sums of their distances."""
    row, distance = _distances(*weights.shape[-2:], own, sums.shape[-1] // 2)
    if distance.size == 1:
        sums[..., distance[0, 0]] += weights.sum(axis=-1)
    else:
        np.add.at(sums, (..., row, distance), weights)


def _distances(n_queries, n_keys, own, max_distance) -> tuple[np.ndarray, np.ndarray]:
    """Return row numbers (block, 1), and which row of the tables each pair of a tile takes.

    A tile with one distance needs no (block, block) of them: (1, 1) says it all.
    """
    row = np.arange(n_queries)[:, None]
    nearest, farthest = np.clip(
        (own - n_keys + 1, own + n_queries - 1), -max_distance, max_distance
    )
    if nearest == farthest:
        return row, np.array([[max_distance - nearest]])
    distance = np.arange(n_keys) - (row + own)
    np.clip(distance, -max_distance, max_distance, out=distance)
    distance += max_distance
    return row, distance


def _check_tables(relative_keys, relative_values, width: int, value_width: int) -> None:
    for name, table, n_cols in (
        ("relative_keys", relative_keys, width),
        ("relative_values", relative_values, value_width),
    ):
        if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
            kind = getattr(table, "dtype", type(table).__name__)
            raise TypeError(f"relative.attention: {name} must hold floating numbers, got {kind}")
        if table.ndim != 2 or table.shape[0] % 2 == 0 or table.shape[1] != n_cols:
            raise ValueError(
                f"relative.attention: {name} must have shape (2·max_distance + 1, {n_cols}), "
                f"got {table.shape}"
            )
    if len(relative_keys) != len(relative_values):
        raise ValueError(
            "relative.attention: relative_keys and relative_values must have as many rows, "
            f"got {len(relative_keys)} and {len(relative_values)}"
        )
