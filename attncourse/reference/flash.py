"""FlashAttention: softmax attention itself, tile by tile, forward and backward.

The Triton twin uses the same names in the same order: `_query_tile` is what one of its programs
does. There a tile lies on chip; here it is an array small enough for the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_qkv

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

    Args:
        q: (..., Tq, D) floating.
        k: (..., Tk, D), dtype and leading axes as q.
        v: (..., Tk, Dv).
        block_q: Queries of a tile; others call it B_r or BLOCK_M.
        block_k: Keys of a tile; others call it B_c or BLOCK_N.
        causal: Query i sees keys up to its own position i + Tk - Tq.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (..., Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Raises:
        TypeError: No array, no floating numbers, or a knob that is no integer.
        ValueError: Shapes or dtypes that do not fit, block_q < 1, block_k < 1.

    Memory:
        One tile (..., block_q, block_k), a few (..., block_q, D), and one number per query, in
        float32 at least.

    Paper:
        Dao 2023, arXiv:2307.08691, section 3.1; after Dao et al. 2022, arXiv:2205.14135. The
        online softmax: Milakov, Gimelshein 2018, arXiv:1805.02867.
    """
    _check("flash.attention", q, k, v, block_q, block_k)
    return _forward(q, k, v, block_q, block_k, causal, scale)[0]


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
    pass and `merge` need to know about a row.

    Args:
        q: (..., Tq, D). The other arguments as in `attention`.
        k: (..., Tk, D).
        v: (..., Tk, Dv).
        block_q: Queries of a tile.
        block_k: Keys of a tile.
        causal: As in `attention`.
        scale: As in `attention`.
        bias: bias(queries, keys) is added to the scaled scores of a tile, and broadcast to
            (..., block_q, block_k). It gets key positions: query i sits at i + Tk - Tq.

    Returns:
        out (..., Tq, Dv), and lse (..., Tq) in float32 at least; -inf where no key is seen.
    """
    _check("flash.forward", q, k, v, block_q, block_k)
    return _forward(q, k, v, block_q, block_k, causal, scale, bias)


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

    Args:
        grad_out: dO (..., Tq, Dv), the gradient of the loss with respect to the output.
        q: (..., Tq, D). The other arguments as in `attention`.
        k: (..., Tk, D).
        v: (..., Tk, Dv).
        out: What `forward` returned; computed here if it or lse is not given.
        lse: What `forward` returned.
        block_q: Queries of a tile.
        block_k: Keys of a tile.
        causal: As in `attention`.
        scale: As in `attention`.

    Returns:
        (dq, dk, dv) in the shapes and dtypes of q, k and v.

    Memory:
        Two tiles, and one number per query.

    Paper:
        Dao 2023, arXiv:2307.08691, section 3.1.2.
    """
    _check("flash.backward", q, k, v, block_q, block_k)
    if out is None or lse is None:
        out, lse = _forward(q, k, v, block_q, block_k, causal, scale)
    for name, array, shape in (("grad_out", grad_out, out.shape), ("lse", lse, q.shape[:-1])):
        if array.shape != shape:
            raise ValueError(f"flash.backward: {name} must have shape {shape}, got {array.shape}")
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    delta = np.einsum("...d,...d->...", out, grad_out, dtype=lse.dtype)  # rowsum(P dP)
    dq, dk, dv = (np.zeros(array.shape, lse.dtype) for array in (q, k, v))
    ahead = k.shape[-2] - q.shape[-2]
    for keys in _tiles(0, k.shape[-2], block_k):
        first = max(keys.start - ahead, 0) if causal else 0  # the queries before it see no key here
        for rows in _tiles(first // block_q * block_q, q.shape[-2], block_q):
            diagonal = rows.start + ahead - keys.start if causal else None
            tiles = (grad_out[..., rows, :], q[..., rows, :], k[..., keys, :], v[..., keys, :])
            grads = _tile_gradients(*tiles, lse[..., rows], delta[..., rows], diagonal, factor)
            for total, part, grad in zip((dq, dk, dv), (rows, keys, keys), grads, strict=True):
                total[..., part, :] += grad
    return tuple(grad.astype(q.dtype, copy=False) for grad in (dq, dk, dv))


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
    pivot = _finite(lse)
    out = out_a * np.exp(lse_a - pivot)[..., None] + out_b * np.exp(lse_b - pivot)[..., None]
    return out.astype(out_a.dtype, copy=False), lse


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
    """Count what `attention` does, with Dv = D.

    Causal FLOPs are those of the tiles as they are multiplied, the masked corners included. q is
    read once; k and v once for each tile of queries.

    Args:
        B: Batch.
        H: Heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        block_q: Queries of a tile.
        block_k: Keys of a tile; no effect on FLOPs and traffic.
        causal: Leaves out the keys after each tile of queries.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    _check_knobs("flash.cost", block_q, block_k)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    pairs = loaded = 0
    for rows in _tiles(0, Tq, block_q):
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


def _forward(q, k, v, block_q, block_k, causal, scale, bias=None):
    """Return out and lse: the grid of the Triton kernel, one program after the other."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    lse = np.full(q.shape[:-1], -np.inf, work)
    for rows in _tiles(0, n_queries, block_q):
        q_tile = q[..., rows, :].astype(work)
        q_tile *= factor
        out[..., rows, :], lse[..., rows] = _query_tile(
            q_tile, k, v, rows.start + n_keys - n_queries, block_k, causal, bias
        )
    return out, lse


def _query_tile(q, k, v, start, block_k, causal, bias):
    """Return out and lse of one tile of scaled queries; the first one sits at key `start`."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    acc = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)  # (..., block_q, Dv)
    running_max = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)
    running_sum = np.zeros_like(running_max)
    tile = np.empty((*q.shape[:-1], min(block_k, n_keys)), q.dtype)  # all scores there ever are
    last = start + n_queries if causal else n_keys  # the tiles above the diagonal are skipped
    for keys in _tiles(0, last, block_k):
        k_tile = k[..., keys, :].astype(q.dtype, copy=False)
        scores = np.matmul(q, k_tile.swapaxes(-1, -2), out=tile[..., : keys.stop - keys.start])
        if bias is not None:
            scores += bias(np.arange(start, start + n_queries), np.arange(keys.start, keys.stop))
        if causal:
            _hide_future(scores, start - keys.start)
        new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
        pivot = _finite(new_max)
        scores -= pivot
        weights = np.exp(scores, out=scores)
        rescale = np.exp(running_max - pivot)
        running_sum = running_sum * rescale + weights.sum(axis=-1, keepdims=True)
        acc *= rescale
        acc += np.matmul(weights, v[..., keys, :].astype(q.dtype, copy=False))
        running_max = new_max
    running_sum[running_sum == 0] = 1  # no key seen: 0 / 1, and log(1) leaves -inf
    acc /= running_sum
    return acc, (running_max + np.log(running_sum))[..., 0]


def _tile_gradients(grad_out, q, k, v, lse, delta, diagonal, factor):
    """Return what one tile adds to dq, dk and dv; its weights are made again and dropped."""
    work = lse.dtype
    grad_out, q, k, v = (array.astype(work, copy=False) for array in (grad_out, q, k, v))
    scores = np.matmul(q, k.swapaxes(-1, -2))
    scores *= factor
    if diagonal is not None:
        _hide_future(scores, diagonal)
    scores -= _finite(lse)[..., None]
    p = np.exp(scores, out=scores)
    dv = np.matmul(p.swapaxes(-1, -2), grad_out)
    ds = np.matmul(grad_out, v.swapaxes(-1, -2))
    ds -= delta[..., None]
    ds *= p
    ds *= factor
    return np.matmul(ds, k), np.matmul(ds.swapaxes(-1, -2), q), dv


def _hide_future(scores: np.ndarray, diagonal: int) -> None:
    """Set the scores of later keys to -inf; the first query sits at key `diagonal` of the tile."""
    n_rows, n_cols = scores.shape[-2:]
    if diagonal < n_cols - 1:  # else the tile lies below the diagonal
        np.copyto(scores, -np.inf, where=~np.tri(n_rows, n_cols, diagonal, dtype=bool))


def _finite(maximum: np.ndarray) -> np.ndarray:
    """Replace -inf, the maximum of a row without visible keys, by 0: -inf - -inf would be NaN."""
    return np.where(maximum == -np.inf, maximum.dtype.type(0), maximum)


def _tiles(first: int, last: int, block: int) -> Iterator[slice]:
    """Yield first ... last - 1 in slices of `block`, the last one shorter."""
    for start in range(first, last, block):
        yield slice(start, min(start + block, last))


def _check(where, q, k, v, block_q, block_k) -> None:
    check_qkv(where, q, k, v)
    _check_knobs(where, block_q, block_k)


def _check_knobs(where: str, block_q: int, block_k: int) -> None:
    check_count(where, "block_q", block_q, least=1)
    check_count(where, "block_k", block_k, least=1)
