"""FlashAttention's backward pass: weights are made again tile by tile, used and dropped."""

from __future__ import annotations

import numpy as np

from attncourse.reference._parts.tiles import finite, hide_future, tiles


def gradients(grad_out, q, k, v, out, lse, block_q, block_k, causal, factor):
    """Return dq, dk and dv, given what the forward pass returned; see `flash.backward`."""
    delta = np.einsum("...d,...d->...", out, grad_out, dtype=lse.dtype)  # rowsum(P dP), (..., Tq)
    dq, dk, dv = (np.zeros(array.shape, lse.dtype) for array in (q, k, v))
    ahead = k.shape[-2] - q.shape[-2]
    for keys in tiles(0, k.shape[-2], block_k):
        first = max(keys.start - ahead, 0) if causal else 0  # the queries before it see no key here
        for rows in tiles(first // block_q * block_q, q.shape[-2], block_q):
            diagonal = rows.start + ahead - keys.start if causal else None
            inputs = (grad_out[..., rows, :], q[..., rows, :], k[..., keys, :], v[..., keys, :])
            grads = _tile_gradients(*inputs, lse[..., rows], delta[..., rows], diagonal, factor)
            for total, part, grad in zip((dq, dk, dv), (rows, keys, keys), grads, strict=True):
                total[..., part, :] += grad
    return tuple(grad.astype(q.dtype, copy=False) for grad in (dq, dk, dv))


def _tile_gradients(grad_out, q, k, v, lse, delta, diagonal, factor):
    """Return what one tile adds to dq, dk and dv; its weights are made again and dropped."""
    work = lse.dtype
    grad_out, q, k, v = (array.astype(work, copy=False) for array in (grad_out, q, k, v))
    scores = np.matmul(q, k.swapaxes(-1, -2))  # (..., block_q, block_k)
    scores *= factor
    if diagonal is not None:
        hide_future(scores, diagonal)
    scores -= finite(lse)[..., None]
    p = np.exp(scores, out=scores)
    dv = np.matmul(p.swapaxes(-1, -2), grad_out)  # (..., block_k, Dv)
    ds = np.matmul(grad_out, v.swapaxes(-1, -2))  # (..., block_q, block_k)
    ds -= delta[..., None]
    ds *= p
    ds *= factor
    return np.matmul(ds, k), np.matmul(ds.swapaxes(-1, -2), q), dv
