"""The gradient of window attention: block by block, as the forward pass."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_flag, check_qkv, check_scale
from attncourse.reference._parts.window_blocks import blocks, check_window, outside
from attncourse.softmax import scaled, softmax_in_place


def backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of a loss with respect to q, k and v.

    As in `full.backward`, but the weights of one block are made again, used for three gradients
    and dropped: nothing is kept from the forward pass. A key adds up what its blocks give it.

    Arguments and result as in `attncourse.reference`.

    Memory:
        The gradients, and the weights of one block with their gradient: two
        (..., 64, 64 + 2·window), in float32 at least.
    """
    check_qkv("window.backward", q, k, v)
    causal = check_flag("window.backward", "causal", causal)
    window, dilation = check_window("window.backward", window, dilation)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    if grad_out.shape != q.shape[:-1] + v.shape[-1:]:
        raise ValueError(
            f"window.backward: grad_out must have shape {q.shape[:-1] + v.shape[-1:]}, "
            f"got {grad_out.shape}"
        )
    factor = check_scale("window.backward", scale, q.shape[-1])
    dq, dk, dv = (np.zeros(x.shape, np.result_type(q.dtype, np.float32)) for x in (q, k, v))
    for rows, keys in blocks(n_queries, n_keys, window, dilation, causal):
        row_part, key_part = (slice(part.start, part.stop, part.step) for part in (rows, keys))
        hidden = outside(rows, keys, n_queries, n_keys, window, dilation, causal)  # (block, keys)
        inputs = (grad_out[..., row_part, :], q[..., row_part, :])
        inputs += (k[..., key_part, :], v[..., key_part, :])
        grads = _block_gradients(*inputs, hidden, factor)
        for total, part, grad in zip((dq, dk, dv), (row_part, *[key_part] * 2), grads, strict=True):
            total[..., part, :] += grad
    return tuple(grad.astype(q.dtype, copy=False) for grad in (dq, dk, dv))


def _block_gradients(grad_out, q, k, v, hidden, factor):
    """Return what one block adds to dq, dk and dv; its weights are made again and dropped."""
    work = np.result_type(q.dtype, np.float32)
    grad_out, k, v = (array.astype(work, copy=False) for array in (grad_out, k, v))
    q = scaled(q, factor)
    scores = np.matmul(q, k.swapaxes(-1, -2))  # (..., block, keys)
    np.copyto(scores, -np.inf, where=hidden)
    p = softmax_in_place(scores)
    dv = np.matmul(p.swapaxes(-1, -2), grad_out)  # (..., keys, Dv)
    ds = np.matmul(grad_out, v.swapaxes(-1, -2))  # (..., block, keys)
    ds -= np.einsum("...ij,...ij->...i", ds, p)[..., None]
    ds *= p
    dq = np.matmul(ds, k)  # (..., block, D)
    dq *= factor
    return dq, np.matmul(ds.swapaxes(-1, -2), q), dv  # q holds the factor already
