"""T5's relative position bias: one learned number for each bucket of distances, on every score."""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse.cost import Cost
from attncourse.definitions.buckets import check_table, rows_by_distance
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes, stream
from attncourse.reference import flash

BLOCK = 256  # queries and keys of a tile


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    table: np.ndarray,
    max_distance: int = 128,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale + bias) v, where bias[h, i, j] = table[bucket(j - i), h].

    The bias of a pair depends on its distance alone, and a tile has only as many distances as rows
    and columns together: that many numbers are looked up, and each row of the tile is a view of
    them, one place further on. So neither the scores nor the bias are ever whole.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        table: (n_buckets, H), learned, H the axis before Tq, 1 where there is none; or
            (n_buckets, 1), the same for all heads. n_buckets is even.
        max_distance: Distances from here on share the last bucket: see `relative.t5_bucket`.
        causal: All buckets are for the past, as in T5's decoder.
        scale: T5 itself takes 1.

    Raises:
        ValueError: A table of another shape, or buckets that the formula cannot fill.

    Memory:
        One tile (..., 256, 256) of scores, one number per query, and the biases of 2·max_distance +
        1 distances.

    Paper:
        Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """
    check_qkv("t5.attention", q, k, v)
    scale = check_scale("t5.attention", scale, q.shape[-1])
    causal = check_flag("t5.attention", "causal", causal)
    heads = q.shape[-3] if q.ndim > 2 else 1
    max_distance = check_table("t5.attention", table, heads, max_distance, causal)
    biases = by_distance(table, max_distance, causal).astype(np.result_type(q.dtype, np.float32))

    def bias(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        distances = np.arange(keys[0] - queries[-1], keys[-1] - queries[0] + 1)
        rows = np.clip(distances, -max_distance, max_distance) + max_distance
        windows = np.lib.stride_tricks.sliding_window_view(biases[:, rows], len(keys), axis=-1)
        skewed = windows[:, ::-1]  # (H, queries, keys), a view: the first query is furthest behind
        return skewed if q.ndim > 2 else skewed[0]

    tiles = {"block_q": BLOCK, "block_k": BLOCK}
    return flash.forward(q, k, v, **tiles, causal=causal, scale=scale, bias=bias)[0]


def by_distance(table: np.ndarray, max_distance: int, causal: bool) -> np.ndarray:
    """Return the bias (H, 2·max_distance + 1) of each distance from -max_distance on.

    Args:
        table: (n_buckets, H).
        max_distance: As in `attention`; distances beyond have the bias at the end.
    """
    return np.ascontiguousarray(table[rows_by_distance(len(table), max_distance, causal)].T)


def random_table(
    n_buckets: int = 32, heads: int = 1, *, seed: int = 0, dtype: Any = np.float32
) -> np.ndarray:
    """Draw a table (n_buckets, heads) of biases.

    Args:
        n_buckets: Its rows; T5 has 32.
        heads: Its columns.
        seed: The same seed gives the same numbers, in any dtype.
        dtype: A NumPy floating dtype.
    """
    drawn = stream("t5", seed).standard_normal((n_buckets, heads))
    return drawn.astype(np.float16).astype(dtype)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    max_distance: int = 128,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does with a bias for each head: the products of `flash`.

    A bias is added, not multiplied.

    Arguments and rules as in `attncourse.reference`.

    Args:
        dtype_bytes: Bytes of one number of q, k, v, out and the table.
    """
    max_distance = check_count("t5.cost", "max_distance", max_distance, least=1)
    causal = check_flag("t5.cost", "causal", causal)
    sizes = {"block_q": BLOCK, "block_k": BLOCK, "causal": causal, "dtype_bytes": dtype_bytes}
    plain = flash.cost(B, H, Tq, Tk, D, **sizes)
    biases = H * (2 * max_distance + 1)
    return Cost(
        flops=plain.flops,
        bytes_read=plain.bytes_read + biases * dtype_bytes,
        bytes_written=plain.bytes_written,
        peak_bytes=plain.peak_bytes + biases * max(4, dtype_bytes),
    )
