"""FlashAttention: softmax attention itself, tile by tile, forward and backward.

The Triton twin uses the same names in the same order: `_query_tile` is what one of its programs
does. There a tile lies on chip; here it is an array small enough for the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.flash_backward import gradients
from attncourse.reference._parts.tiles import finite, hide_future, merge, tiles
from attncourse.softmax import nan_to_keys, scaled

__all__ = ["Bias", "attention", "backward", "cost", "forward", "merge"]

Bias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Called with the positions of the queries and keys of a tile, gives what their scores gain."""


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v with one tile of scores at a time.

    Each query keeps the largest score so far, the sum of exp(score - largest) and the values summed
    with these weights. A tile with a larger score rescales what is kept. So no row of scores is
    ever whole, and the (Tq, Tk) matrix is never made. Causal tiles above the diagonal are skipped.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        block_q: Queries of a tile; others call it B_r or BLOCK_M.
        block_k: Keys of a tile; others call it B_c or BLOCK_N.

    Raises:
        ValueError: block_q < 1, block_k < 1.

    Memory:
        One tile (..., block_q, block_k), a few (..., block_q, D), and one number per query.

    Paper:
        Dao 2023, arXiv:2307.08691, section 3.1; after Dao et al. 2022, arXiv:2205.14135. The
        online softmax: Milakov, Gimelshein 2018, arXiv:1805.02867.
    """
    knobs = _check("flash.attention", q, k, v, block_q, block_k, causal, scale)
    return _forward(q, k, v, *knobs)[0]


def forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
    scale: float | None = None,
    bias: Bias | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the output, and the logarithm of each query's softmax sum.

    With the latter any weight can be made again: exp(score - lse). It is all that the backward
    pass and `merge` need to know about a row. The other arguments as in `attention`.

    Args:
        bias: bias(queries, keys) is added to the scaled scores of a tile, and broadcast to
            (..., block_q, block_k). It gets key positions: query i sits at i + Tk - Tq.

    Returns:
        out (..., Tq, Dv), and lse (..., Tq) in float32 at least; -inf where no key is seen.
    """
    knobs = _check("flash.forward", q, k, v, block_q, block_k, causal, scale)
    return _forward(q, k, v, *knobs, bias)


def backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    out: np.ndarray | None = None,
    lse: np.ndarray | None = None,
    block_q: int,
    block_k: int,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of a loss with respect to q, k and v.

    As in `full.backward`, but each tile of weights is made again from q, k and lse, used for three
    gradients and dropped: five products a tile instead of the four that stored weights need.

    Arguments and result as in `attncourse.reference`.

    Args:
        out: What `forward` returned; computed here if it or lse is not given.
        lse: What `forward` returned.

    Memory:
        Two tiles, and one number per query.

    Paper:
        Dao 2023, arXiv:2307.08691, section 3.1.2.
    """
    knobs = _check("flash.backward", q, k, v, block_q, block_k, causal, scale)
    if out is None or lse is None:
        out, lse = _forward(q, k, v, *knobs)
    for name, array, shape in (("grad_out", grad_out, out.shape), ("lse", lse, q.shape[:-1])):
        if array.shape != shape:
            raise ValueError(f"flash.backward: {name} must have shape {shape}, got {array.shape}")
    return gradients(grad_out, q, k, v, out, lse, *knobs)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    q is read once; k and v once for each tile of queries, causal up to its last one. block_k has no
    effect on FLOPs and traffic.
    """
    block_q, block_k = _check_knobs("flash.cost", block_q, block_k)
    causal = check_flag("flash.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    pairs = loaded = 0
    for rows in tiles(0, Tq, block_q):
        n_rows = rows.stop - rows.start
        n_seen = max(rows.stop + Tk - Tq, 0) if causal else Tk
        pairs += n_rows * n_seen
        loaded += (n_rows + 2 * n_seen) * D
    n_rows, n_cols = min(block_q, Tq), min(block_k, Tk)
    numbers = n_rows * (n_cols + 2 * D + 6)  # the tile, q, acc; sums and maxima
    converted = 2 * n_cols * D if work_bytes != dtype_bytes else 0
    product = B * H * (n_rows * D + converted) * work_bytes
    masking = n_rows * n_cols * causal + NUMPY_BUFFER * work_bytes
    result = B * H * Tq * (D * dtype_bytes + work_bytes)
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=result,
        peak_bytes=result + B * H * numbers * work_bytes + max(product, masking),
    )


def _forward(q, k, v, block_q, block_k, causal, factor, bias=None):
    """Return out and lse: the grid of the Triton kernel, one program after the other."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    lse = np.full(q.shape[:-1], -np.inf, work)
    k, v = nan_to_keys(k, v)
    for rows in tiles(0, n_queries, block_q):
        q_tile = scaled(q[..., rows, :], factor)  # (..., block_q, D)
        out[..., rows, :], lse[..., rows] = _query_tile(
            q_tile, k, v, rows.start + n_keys - n_queries, block_k, causal, bias
        )
    return out, lse


def _query_tile(q, k, v, start, block_k, causal, bias):
    """Return out and lse of one tile of scaled queries; the first one sits at key `start`."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    acc = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)  # (..., block_q, Dv)
    running_max = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)  # (..., block_q, 1)
    running_sum = np.zeros_like(running_max)
    tile = np.empty((*q.shape[:-1], min(block_k, n_keys)), q.dtype)  # all scores there ever are
    last = start + n_queries if causal else n_keys  # the tiles above the diagonal are skipped
    for keys in tiles(0, last, block_k):
        k_tile = k[..., keys, :].astype(q.dtype, copy=False)  # (..., block_k, D)
        scores = np.matmul(q, k_tile.swapaxes(-1, -2), out=tile[..., : keys.stop - keys.start])
        if bias is not None:
            scores += bias(np.arange(start, start + n_queries), np.arange(keys.start, keys.stop))
        if causal:
            hide_future(scores, start - keys.start)
        new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))  # (..., block_q, 1)
        pivot = finite(new_max)
        scores -= pivot
        weights = np.exp(scores, out=scores)  # (..., block_q, block_k)
        rescale = np.exp(running_max - pivot)  # (..., block_q, 1)
        running_sum = running_sum * rescale + weights.sum(axis=-1, keepdims=True)
        acc *= rescale
        acc += np.matmul(weights, v[..., keys, :].astype(q.dtype, copy=False))
        running_max = new_max
    running_sum[running_sum == 0] = 1  # no key seen: 0 / 1, and log(1) leaves -inf
    acc /= running_sum
    return acc, (running_max + np.log(running_sum))[..., 0]


def _check(where, q, k, v, block_q, block_k, causal, scale) -> tuple[int, int, bool, float]:
    """Return block_q, block_k, causal and the factor of the scores."""
    check_qkv(where, q, k, v)
    blocks = _check_knobs(where, block_q, block_k)
    return *blocks, check_flag(where, "causal", causal), check_scale(where, scale, q.shape[-1])


def _check_knobs(where: str, block_q: int, block_k: int) -> tuple[int, int]:
    block_q = check_count(where, "block_q", block_q, least=1)
    return block_q, check_count(where, "block_k", block_k, least=1)
