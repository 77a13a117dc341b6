"""Strided attention: query i sees the keys j whose distance i - j is a multiple of the stride."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import BLOCK, attend, held_bytes
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    stride: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the keys with (i - j) mod stride = 0.

    Tokens of one residue class see each other and nobody else: taking every stride-th row of q, k
    and v leaves full attention on a short sequence, and there is nothing to mask.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        stride: Distance between two neighbouring keys, in tokens.

    Raises:
        ValueError: stride < 1.

    Memory:
        The scores of one block: (..., 64, Tk / stride).

    Paper:
        Child, Gray, Radford, Sutskever 2019, arXiv:1904.10509, section 4.3: one of its two
        factors.
    """
    check_qkv("strided.attention", q, k, v)
    stride = check_count("strided.attention", "stride", stride, least=1)
    causal = check_flag("strided.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("strided.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, keys in blocks(n_queries, n_keys, stride, causal):
        row_part, key_part = (slice(part.start, part.stop, part.step) for part in (rows, keys))
        own = (rows[0] + n_keys - n_queries) // stride  # where the first query sits in its class
        future = ~np.tri(len(rows), len(keys), own, dtype=bool) if causal else None
        out[..., row_part, :] = attend(q[..., row_part, :], k, v, key_part, future, factor)
    return out


@int_sizes
def mask(n_queries: int, n_keys: int, *, stride: int, causal: bool = False) -> np.ndarray:
    """Return the mask (Tq, Tk) of strided attention; arguments as in `attncourse.reference`."""
    stride = check_count("strided.mask", "stride", stride, least=1)
    causal = check_flag("strided.mask", "causal", causal)
    offset = np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None]
    visible = offset % stride == 0  # (Tq, Tk)
    return visible & (offset <= 0) if causal else visible


def learned_stride(weights: np.ndarray, *, mass: float) -> np.ndarray:
    """Return the largest stride whose keys still catch a given share of all attention.

    Every stride is tried: the attention at each distance is summed once, and a stride catches the
    sum over its multiples. Data of period p that attends to its own phase gives p.

    Args:
        weights: (..., Tq, Tk), rows summing to 1: attention that was measured on data.
        mass: The share to catch, 0 to 1.

    Returns:
        int (...): a stride from 1 to Tk, for each head on its own.

    Raises:
        ValueError: `mass` outside 0 ... 1, or no key.
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"strided.learned_stride: mass must be between 0 and 1, got {mass}")
    *leading, n_queries, n_keys = weights.shape
    if n_keys == 0:
        raise ValueError(
            f"strided.learned_stride: weights must have at least 1 key, got shape {weights.shape}"
        )
    distance = np.abs(np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None]).ravel()
    found = np.ones(leading, dtype=int)
    for head in np.ndindex(*leading):
        at_distance = np.bincount(distance, weights[head].ravel())  # (distances,)
        enough = (mass - 1e-6) * at_distance.sum()  # float32 rows sum to 1 only to rounding
        strides = range(n_keys, 1, -1)
        found[head] = next((s for s in strides if at_distance[::s].sum() >= enough), 1)
    return found


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    stride: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`."""
    stride = check_count("strided.cost", "stride", stride, least=1)
    causal = check_flag("strided.cost", "causal", causal)
    pairs = loaded = largest = 0
    for rows, keys in blocks(Tq, Tk, stride, causal):
        pairs += len(rows) * len(keys)
        loaded += (len(rows) + 2 * len(keys)) * D
        held = held_bytes(B * H, len(rows), len(keys), D, dtype_bytes)
        largest = max(largest, held + len(rows) * len(keys) * causal)  # `future`
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def blocks(n_queries: int, n_keys: int, stride: int, causal: bool) -> Iterator[tuple[range, range]]:
    """Yield (queries, keys): up to BLOCK queries of one residue class and the keys they may see."""
    ahead = n_keys - n_queries
    for start in range(min(stride, n_queries)):
        for first in range(start, n_queries, BLOCK * stride):
            rows = range(first, min(first + BLOCK * stride, n_queries), stride)
            end = max(0, rows[-1] + ahead + 1) if causal else n_keys
            yield rows, range((first + ahead) % stride, end, stride)
