"""Scoring functions: dot, multiplicative, bilinear and additive; additive attention in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes, stream
from attncourse.softmax import nan_to_keys, softmax_in_place

BLOCK = 32  # queries handled together, and keys of a tile: (32, 32, hidden) fits in the cache


def dot(q: np.ndarray, k: np.ndarray, *, scale: float = 1.0) -> np.ndarray:
    """Return q kᵀ · scale, (..., Tq, Tk): no parameters, one matrix product.

    With scale=1/√D these are the scores of Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    """
    return np.matmul(q, k.swapaxes(-1, -2)) * check_scale("scoring.dot", scale)


def multiplicative(q: np.ndarray, k: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return q weight kᵀ, (..., Tq, Tk): Luong's "general" score, a dot product after one step.

    That step is all there is to it: any dot-product attention to (q weight), k and v with scale=1
    is multiplicative attention, with that one's memory.

    Args:
        q: (..., Tq, Dq).
        k: (..., Tk, Dk); the widths may differ.
        weight: (Dq, Dk), learned.

    Paper:
        Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.1.
    """
    return np.matmul(np.matmul(q, weight), k.swapaxes(-1, -2))


def bilinear(
    q: np.ndarray, k: np.ndarray, query_weights: np.ndarray, key_weights: np.ndarray
) -> np.ndarray:
    """Return (q query_weights) (k key_weights)ᵀ: a bilinear form of rank d or less, (..., Tq, Tk).

    Its matrix is query_weights key_weightsᵀ. The projections of a Transformer's head are this, with
    (Dq + Dk) d parameters where `multiplicative` has Dq Dk.

    Args:
        q: (..., Tq, Dq).
        k: (..., Tk, Dk).
        query_weights: (Dq, d), learned.
        key_weights: (Dk, d), learned.
    """
    return dot(np.matmul(q, query_weights), np.matmul(k, key_weights))


def additive(
    q: np.ndarray,
    k: np.ndarray,
    query_weights: np.ndarray,
    key_weights: np.ndarray,
    vector: np.ndarray,
) -> np.ndarray:
    """Return tanh(q query_weights + k key_weights) · vector for each pair, (..., Tq, Tk).

    No matrix product makes the sum inside of tanh: every pair has `hidden` numbers of its own. They
    exist for one (32, 32) tile of pairs at a time.

    Args:
        q: (..., Tq, Dq).
        k: (..., Tk, Dk).
        query_weights: (Dq, hidden), learned.
        key_weights: (Dk, hidden), learned.
        vector: (hidden,), learned.

    Paper:
        Bahdanau, Cho, Bengio 2015, arXiv:1409.0473, appendix A.1.2.
    """
    q_hidden, k_hidden = np.matmul(q, query_weights), np.matmul(k, key_weights)
    scores = np.empty((*q.shape[:-1], k.shape[-2]), q_hidden.dtype)
    for first in range(0, q.shape[-2], BLOCK):
        rows = slice(first, first + BLOCK)
        _fill(scores[..., rows, :], q_hidden[..., rows, :], k_hidden, vector)
    return scores


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    query_weights: np.ndarray,
    key_weights: np.ndarray,
    vector: np.ndarray,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(`additive` scores · scale) v: Bahdanau's attention.

    Only the scores of 32 queries exist at a time, and of the numbers inside of tanh those of one
    (32, 32) tile: neither the (Tq, Tk) matrix nor the (Tq, Tk, hidden) array is made.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        query_weights: (D, hidden).
        key_weights: (D, hidden).
        vector: (hidden,).
        scale: Factor of the scores; 1 if not given, because `vector` sets their size.

    Returns:
        An infinity in q makes its tanh ±1.

    Memory:
        q and k projected, (..., Tq + Tk, hidden); the scores of a block (..., 32, Tk); one tile
        (..., 32, 32, hidden).

    Paper:
        Bahdanau, Cho, Bengio 2015, arXiv:1409.0473, section 3.1 and appendix A.1.2.
    """
    check_qkv("scoring.attention", q, k, v)
    causal = check_flag("scoring.attention", "causal", causal)
    _check_parameters(q.shape[-1], query_weights, key_weights, vector)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    vector = vector.astype(work) * work.type(check_scale("scoring.attention", scale))
    q_hidden, k_hidden = _project(q, query_weights, work), _project(k, key_weights, work)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for first in range(0, n_queries, BLOCK):
        rows = slice(first, min(first + BLOCK, n_queries))
        n_seen = max(rows.stop + n_keys - n_queries, 0) if causal else n_keys
        out[..., rows, :] = _attend(
            q_hidden[..., rows, :], k_hidden[..., :n_seen, :], v[..., :n_seen, :], vector, causal
        )
    return out


def random_parameters(
    width: int, hidden: int, *, seed: int = 0, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw query weights (D, hidden), key weights (D, hidden) and the vector (hidden,).

    Args:
        width: D.
        hidden: Numbers inside of tanh for each pair.
        seed: The same seed gives the same numbers, in any dtype.
        dtype: A NumPy floating dtype.
    """
    hidden = check_count("scoring.random_parameters", "hidden", hidden, least=1)
    generator = stream("scoring", seed)
    drawn = (generator.standard_normal(shape) for shape in ((width, hidden), (width, hidden)))
    query_weights, key_weights = (weights / width**0.5 for weights in drawn)
    parameters = (query_weights, key_weights, generator.standard_normal(hidden))
    return tuple(array.astype(np.float16).astype(dtype) for array in parameters)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    hidden: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The product with `vector` is counted; the hidden · Tq · Tk evaluations of tanh, which take most
    of the time, are no products.

    Args:
        hidden: Numbers inside of tanh for each pair.
    """
    hidden = check_count("scoring.cost", "hidden", hidden, least=1)
    causal = check_flag("scoring.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    widened = work_bytes != dtype_bytes
    pairs = loaded = 0
    for first in range(0, Tq, BLOCK):
        n_rows = min(BLOCK, Tq - first)
        n_seen = max(first + n_rows + Tk - Tq, 0) if causal else Tk
        pairs += n_rows * n_seen
        loaded += n_rows * hidden + n_seen * (hidden + D)
    n_rows, n_cols = min(BLOCK, Tq), min(BLOCK, Tk)
    projected = B * H * (Tq + Tk) * hidden * work_bytes
    tile = n_rows * n_cols * (hidden + 1)
    block = n_rows * Tk + max(tile, n_rows * D + Tk * D * widened)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=2 * B * H * (pairs * (hidden + D) + (Tq + Tk) * D * hidden),
        bytes_read=B * H * (loaded * work_bytes + (Tq + Tk) * D * dtype_bytes),
        bytes_written=out + projected,
        peak_bytes=out + projected + (B * H * block + NUMPY_BUFFER) * work_bytes,
    )


def _project(x: np.ndarray, weights: np.ndarray, work: np.dtype) -> np.ndarray:
    return np.matmul(x.astype(work, copy=False), weights.astype(work, copy=False))


def _attend(q_hidden, k_hidden, v, vector, causal) -> np.ndarray:
    """Return the output of one block; its scores are gone when it returns."""
    n_rows, n_seen = q_hidden.shape[-2], k_hidden.shape[-2]
    scores = np.empty((*q_hidden.shape[:-1], n_seen), q_hidden.dtype)  # (..., 32, seen)
    _fill(scores, q_hidden, k_hidden, vector)
    if causal:  # the block's last query sees the last key
        past = max(n_seen - n_rows, 0)
        future = ~np.tri(n_rows, n_seen - past, n_seen - n_rows - past, dtype=bool)
        np.copyto(scores[..., past:], -np.inf, where=future)
    return np.matmul(softmax_in_place(scores), v.astype(scores.dtype, copy=False))


def _fill(scores, q_hidden, k_hidden, vector) -> None:
    """Write the additive scores of a block, tile by tile."""
    for first in range(0, scores.shape[-1], BLOCK):
        keys = slice(first, first + BLOCK)
        tile = q_hidden[..., :, None, :] + k_hidden[..., None, keys, :]  # (..., 32, 32, hidden)
        np.tanh(tile, out=tile)
        scores[..., keys] = np.matmul(tile, vector)
        del tile  # before the next one is made


def _check_parameters(width: int, query_weights, key_weights, vector) -> None:
    hidden = np.shape(vector)[-1] if np.ndim(vector) else 0
    for name, array, shape in (
        ("vector", vector, (max(hidden, 1),)),
        ("query_weights", query_weights, (width, hidden)),
        ("key_weights", key_weights, (width, hidden)),
    ):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"scoring.attention: {name} must hold floating numbers, got {kind}")
        if array.shape != shape:
            raise ValueError(
                f"scoring.attention: {name} must have shape {shape}, got {array.shape}"
            )
