"""Chunked attention: softmax attention itself, a few rows of the matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.softmax import exp_in_place, nan_to_keys, scaled


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    chunk: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v, `chunk` queries at a time.

    A row of the softmax needs no other row. So only the rows of one chunk exist, whole, and the
    next chunk reuses their memory: the (Tq, Tk) matrix is never made. A causal chunk takes only
    the keys up to its last query, which also saves nearly half of the arithmetic.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        chunk: Queries handled together.

    Raises:
        ValueError: chunk < 1.

    Memory:
        The scores of one chunk: (..., chunk, Tk).

    Paper:
        Rabe, Staats 2021, arXiv:2112.05682, section 4, with the keys in one piece.
    """
    check_qkv("chunked.attention", q, k, v)
    chunk = check_count("chunked.attention", "chunk", chunk, least=1)
    causal = check_flag("chunked.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    factor = check_scale("chunked.attention", scale, q.shape[-1])
    k, v = k.astype(work, copy=False), v.astype(work, copy=False)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, n_seen in _chunks(n_queries, n_keys, chunk, causal):
        q_chunk = scaled(q[..., rows.start : rows.stop, :], factor)  # (..., chunk, D)
        past = n_seen - len(rows) if causal else n_seen  # keys before the first query of the chunk
        out[..., rows.start : rows.stop, :] = _attend(
            q_chunk, k[..., :n_seen, :], v[..., :n_seen, :], past
        )
    return out


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The smaller the chunk, the more often k and v are read.
    """
    chunk = check_count("chunked.cost", "chunk", chunk, least=1)
    causal = check_flag("chunked.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    widened = work_bytes != dtype_bytes
    pairs = loaded = largest = 0
    for rows, n_seen in _chunks(Tq, Tk, chunk, causal):
        pairs += len(rows) * n_seen
        loaded += (len(rows) + 2 * n_seen) * D
        numbers = len(rows) * (n_seen + 2 * D)  # scores, scaled queries, product
        corner = len(rows) ** 2 * causal  # the boolean mask
        largest = max(largest, B * H * numbers * work_bytes + corner)
    out = B * H * Tq * D * dtype_bytes
    converted = 2 * B * H * Tk * D * work_bytes * widened
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + converted + largest + NUMPY_BUFFER * work_bytes,
    )


def _attend(q, k, v, past) -> np.ndarray:
    """Return the output of one chunk; its scores are gone when it returns."""
    scores = np.matmul(q, k.swapaxes(-1, -2))  # (..., chunk, seen)
    if past < k.shape[-2]:
        corner = scores[..., max(past, 0) :]
        future = ~np.tri(*corner.shape[-2:], min(past, 0), dtype=bool)
        np.copyto(corner, -np.inf, where=future)
    row_sum = exp_in_place(scores)  # (..., chunk, 1)
    out = np.matmul(scores, v)  # (..., chunk, Dv)
    out /= row_sum  # after the product there is less to divide
    return out


def _chunks(n_queries: int, n_keys: int, chunk: int, causal: bool) -> Iterator[tuple[range, int]]:
    """Yield (queries, number of keys they need), chunks that see no key left out."""
    for first in range(0, n_queries, chunk):
        rows = range(first, min(first + chunk, n_queries))
        n_seen = rows.stop + n_keys - n_queries if causal else n_keys
        if n_seen > 0:
            yield rows, n_seen
