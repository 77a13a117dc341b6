"""The gradient of linear attention: the gradient of a scan is a scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attncourse.inputs import check_count, check_flag, check_qkv
from attncourse.reference._parts.feature_maps import FeatureMap, elu_plus_one, elu_plus_one_backward
from attncourse.reference._parts.scan import ahead_of, scan, with_ones


def backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    feature_map: FeatureMap = elu_plus_one,
    feature_map_backward: Callable[[np.ndarray, np.ndarray], np.ndarray] = elu_plus_one_backward,
    chunk: int = 64,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of a loss with respect to q, k and v: the gradient of a scan is a scan.

    With [v, 1] the values and a column of ones, and g the gradient of φ(q) φ(k)ᵀ [v, 1] (numerator
    and normaliser): dφ(q) = g [v, 1]ᵀ φ(k) sums over the same pairs from the front, and
    dφ(k) = [v, 1] gᵀ φ(q) and d[v, 1] = φ(k) φ(q)ᵀ g from the back.

    Arguments and result as in `attncourse.reference`.

    Args:
        feature_map_backward: From (x, gradient with respect to φ(x)) to that with respect to x.

    Memory:
        φ(q), φ(k), [v, 1], g and their gradients, linear in Tq and Tk; one state; one chunk.

    Paper:
        Katharopoulos et al. 2020, arXiv:2006.16236, section 3.3.1.
    """
    check_qkv("linear.backward", q, k, v)
    chunk = check_count("linear.backward", "chunk", chunk, least=1)
    causal = check_flag("linear.backward", "causal", causal)
    if grad_out.shape != q.shape[:-1] + v.shape[-1:]:
        raise ValueError(
            f"linear.backward: grad_out must have shape {q.shape[:-1] + v.shape[-1:]}, "
            f"got {grad_out.shape}"
        )
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    q_, k_, grad = (array.astype(work, copy=False) for array in (q, k, grad_out))
    phi_q, phi_k, values = feature_map(q_), feature_map(k_), with_ones(v, work)
    ahead = ahead_of(n_queries, n_keys, causal)
    g = _split_gradient(grad, scan(phi_q, phi_k, values, chunk, ahead))  # (..., Tq, Dv + 1)
    dphi_q = scan(g, values, phi_k, chunk, ahead)  # (..., Tq, features)
    # read from the back, the first key is seen by the first query and all that follow it
    ahead = 0 if causal else n_queries
    values, g, phi_k, phi_q = (array[..., ::-1, :] for array in (values, g, phi_k, phi_q))
    dphi_k = scan(values, g, phi_q, chunk, ahead)[..., ::-1, :]  # (..., Tk, features)
    dv = scan(phi_k, phi_q, g, chunk, ahead)[..., ::-1, :-1]  # (..., Tk, Dv)
    dq, dk = feature_map_backward(q_, dphi_q), feature_map_backward(k_, dphi_k)
    return tuple(array.astype(q.dtype, copy=False) for array in (dq, dk, dv))


def _split_gradient(grad, seen) -> np.ndarray:
    """Return the gradient of [numerator, normaliser], given that of their quotient."""
    total = np.where(seen[..., -1:] == 0, 1, seen[..., -1:])
    out = seen[..., :-1] / total
    g = np.empty_like(seen)
    g[..., :-1] = grad
    g[..., -1] = -np.matmul(grad[..., None, :], out[..., None])[..., 0, 0]
    g /= total
    return g
