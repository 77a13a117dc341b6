"""Scaled dot-product attention as it is defined: the whole (Tq, Tk) matrix is held."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_flag, check_qkv, check_scale, int_sizes
from attncourse.softmax import nan_to_keys, softmax_in_place


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale + bias) v.

    Everything is stored: this is the baseline whose memory the other mechanisms avoid.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        mask: bool, broadcast to (..., Tq, Tk); True = may attend.
        bias: Added to the scaled scores, broadcast to (..., Tq, Tk).

    Raises:
        TypeError: A mask that is not boolean.

    Memory:
        One (..., Tq, Tk) array.

    Paper:
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    """
    check_qkv("full.attention", q, k, v)
    k, v = nan_to_keys(k, v)
    scores = _scores("full.attention", q, k, mask, bias, causal, scale)
    weights = softmax_in_place(scores)  # (..., Tq, Tk), in the memory of the scores
    return np.matmul(weights, v.astype(weights.dtype, copy=False)).astype(q.dtype, copy=False)


def weights(
    q: np.ndarray,
    k: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return the attention weights softmax(q kᵀ · scale + bias).

    Args, Raises and Memory as in `attention`.

    Returns:
        (..., Tq, Tk) in the dtype of q; rows sum to 1, or to 0 where no key is visible.
    """
    check_qkv("full.weights", q, k, k)
    scores = _scores("full.weights", q, k, mask, bias, causal, scale)
    return softmax_in_place(scores).astype(q.dtype, copy=False)


def backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of a loss with respect to q, k and v.

    With P the weights, dP = dO vᵀ and dS = P (dP - rowsum(dP P)): dv = Pᵀ dO, dq = dS k · scale,
    dk = dSᵀ q · scale.

    Arguments and result as in `attncourse.reference`.

    Memory:
        P and dP: two (..., Tq, Tk) arrays at once.
    """
    check_qkv("full.backward", q, k, v)
    if grad_out.shape != q.shape[:-1] + v.shape[-1:]:
        raise ValueError(
            f"full.backward: grad_out must have shape {q.shape[:-1] + v.shape[-1:]}, "
            f"got {grad_out.shape}"
        )
    factor = check_scale("full.backward", scale, q.shape[-1])
    p = softmax_in_place(_scores("full.backward", q, k, mask, bias, causal, factor))
    q_, k_, v_, grad = (array.astype(p.dtype, copy=False) for array in (q, k, v, grad_out))
    dv = np.matmul(p.swapaxes(-1, -2), grad)  # (..., Tk, Dv)
    ds = np.matmul(grad, v_.swapaxes(-1, -2))  # (..., Tq, Tk)
    ds -= np.einsum("...ij,...ij->...i", ds, p)[..., None]
    ds *= p
    ds *= factor
    dq = np.matmul(ds, k_)  # (..., Tq, D)
    dk = np.matmul(ds.swapaxes(-1, -2), q_)  # (..., Tk, D)
    return tuple(grad.astype(q.dtype, copy=False) for grad in (dq, dk, dv))


@int_sizes
def mask(n_queries: int, n_keys: int, *, causal: bool = False) -> np.ndarray:
    """Return the mask (Tq, Tk), all True unless causal; arguments as in `attncourse.reference`."""
    causal = check_flag("full.mask", "causal", causal)
    return masks.causal(n_queries, n_keys) if causal else np.ones((n_queries, n_keys), dtype=bool)


@int_sizes
def cost(
    B: int, H: int, Tq: int, Tk: int, D: int, *, causal: bool = False, dtype_bytes: int = 4
) -> Cost:
    """Count what `attention` does without mask or bias.

    The causal half is computed too and then masked: no operation is saved, and the boolean mask
    adds to the peak. Scores and weights do not stay in cache, so traffic counts each pass over
    memory: q, k read, scores written; scores read, weights written; weights, v read, out written.

    Arguments and rules as in `attncourse.reference`.
    """
    causal = check_flag("full.cost", "causal", causal)
    pairs = B * H * Tq * Tk
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = B * H * (Tq + Tk) * D * work_bytes if work_bytes != dtype_bytes else 0
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * pairs * D,
        bytes_read=B * H * (Tq + 2 * Tk) * D * dtype_bytes + 2 * pairs * work_bytes,
        bytes_written=2 * pairs * work_bytes + out,
        peak_bytes=pairs * work_bytes + max(out + converted, Tq * Tk * causal),
    )


def _scores(where, q, k, mask, bias, causal, scale) -> np.ndarray:
    """Return the masked, scaled scores (..., Tq, Tk) in float32 or wider."""
    if mask is not None and np.asarray(mask).dtype != bool:
        raise TypeError(f"{where}: mask must be boolean, got {np.asarray(mask).dtype}")
    causal = check_flag(where, "causal", causal)
    factor = check_scale(where, scale, q.shape[-1])
    work = np.result_type(q.dtype, np.float32)
    scores = np.matmul(q.astype(work, copy=False), k.astype(work, copy=False).swapaxes(-1, -2))
    scores *= factor
    scores[np.isinf(q).any(axis=-1)] = np.nan  # else a row of -inf would pass for a masked one
    for name, array in (("mask", mask), ("bias", bias)):
        if array is not None and not _broadcasts(np.shape(array), scores.shape):
            raise ValueError(
                f"{where}: {name} must broadcast to {scores.shape}, got {np.shape(array)}"
            )
    if bias is not None:
        scores += bias
    if mask is not None:
        np.copyto(scores, -np.inf, where=~mask)
    if causal:
        n_queries, n_keys = scores.shape[-2:]
        future = np.arange(n_keys) > masks.positions(n_queries, n_keys)[:, None]
        np.copyto(scores, -np.inf, where=future)
    return scores


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    fits = all(size in (1, wanted) for size, wanted in zip(shape[::-1], target[::-1], strict=False))
    return len(shape) <= len(target) and fits
