"""Linear attention: a feature map instead of the exponential, and so a sum that fits in a state."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_flag, check_qkv, int_sizes
from attncourse.reference._parts.feature_maps import FeatureMap, elu_plus_one, elu_plus_one_backward
from attncourse.reference._parts.linear_backward import backward
from attncourse.reference._parts.scan import ahead_of, quotient, turn, turns, with_ones
from attncourse.softmax import nan_to_keys

__all__ = [
    "FeatureMap",
    "attention",
    "backward",
    "cost",
    "elu_plus_one",
    "elu_plus_one_backward",
    "recurrent",
    "step",
    "weights",
]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    feature_map: FeatureMap = elu_plus_one,
    chunk: int = 64,
    causal: bool = False,
) -> np.ndarray:
    """Return φ(q) (φ(k)ᵀ v), each row divided by φ(q) · Σ φ(k).

    The product is associative: φ(k)ᵀ v comes first and is a state of fixed size. Causal queries
    see the state of all earlier chunks, and within their own chunk a small triangle of scores:
    the (Tq, Tk) matrix is never made.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        feature_map: φ, from (..., T, D) to (..., T, features), the same for queries and keys.
        chunk: Tokens handled together; changes memory and speed, not the result.

    Returns:
        Zeros where the normaliser φ(q) · Σ φ(k) is 0: nothing is added to it. -inf in q has the
        feature 0.

    Raises:
        ValueError: chunk < 1.

    Memory:
        The state (..., D, Dv + 1) and, if causal, the scores of one chunk (..., chunk, chunk).

    Paper:
        Katharopoulos, Vyas, Pappas, Fleuret 2020, arXiv:2006.16236, sections 3.2 and 3.3.
    """
    check_qkv("linear.attention", q, k, v)
    chunk = check_count("linear.attention", "chunk", chunk, least=1)
    causal = check_flag("linear.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = None
    for rows, keys in turns(n_queries, n_keys, chunk, ahead_of(n_queries, n_keys, causal)):
        out[..., rows, :], state = _attend(
            state, q[..., rows, :], k[..., keys, :], v[..., keys, :], feature_map
        )
    return out


def recurrent(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, feature_map: FeatureMap = elu_plus_one
) -> np.ndarray:
    """Return causal linear attention token by token, as an RNN: a loop of `step`.

    Args and Returns as in `attention`.
    """
    check_qkv("linear.recurrent", q, k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = None
    for j in range(n_keys):
        i = j + n_queries - n_keys
        rows, key = slice(max(i, 0), max(i + 1, 0)), slice(j, j + 1)
        out[..., rows, :], state = step(
            state, q[..., rows, :], k[..., key, :], v[..., key, :], feature_map=feature_map
        )
    return out


def step(
    state: np.ndarray | None,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    feature_map: FeatureMap = elu_plus_one,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the next tokens see, and the state after them: causal attention, continued.

    Arguments and result as in `attncourse.reference`.

    Args:
        state: (..., features, Dv + 1) from the step before, left alone; None at the start. Its last
            column is the normaliser Σ φ(k), the others are Σ φ(k) vᵀ.
        q: A query for each new key, or none where only the state is wanted.

    Raises:
        ValueError: Another number of queries, a state of another shape.
    """
    check_qkv("linear.step", q, k, v)
    if q.shape[-2] not in (0, k.shape[-2]):
        raise ValueError(
            f"linear.step: q must have as many tokens as k or none, "
            f"got {q.shape[-2]} and {k.shape[-2]}"
        )
    n_features = feature_map(k[..., :0, :]).shape[-1]
    expected = (*k.shape[:-2], n_features, v.shape[-1] + 1)
    if state is not None and state.shape != expected:
        raise ValueError(f"linear.step: state must have shape {expected}, got {state.shape}")
    out, state = _attend(state, q, *nan_to_keys(k, v), feature_map)
    return out.astype(q.dtype, copy=False), state


def weights(
    q: np.ndarray, k: np.ndarray, *, feature_map: FeatureMap = elu_plus_one, causal: bool = False
) -> np.ndarray:
    """Return the weights φ(q) φ(k)ᵀ with rows divided by their sums: the parallel form.

    weights @ v is `attention`; this is the definition, and holds the whole matrix.

    Returns:
        (..., Tq, Tk) in the dtype of q; rows sum to 1, or to 0 where no key is visible.
    """
    check_qkv("linear.weights", q, k, k)
    causal = check_flag("linear.weights", "causal", causal)
    work = np.result_type(q.dtype, np.float32)
    phi_q, phi_k = (feature_map(x.astype(work, copy=False)) for x in (q, k))
    scores = np.matmul(phi_q, phi_k.swapaxes(-1, -2))  # (..., Tq, Tk)
    if causal:
        np.copyto(scores, 0, where=~masks.causal(*scores.shape[-2:]))
    total = scores.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    scores /= total
    return scores.astype(q.dtype, copy=False)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int = 64,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does with as many features as D, as elu(x) + 1 has.

    Arguments and rules as in `attncourse.reference`.
    """
    chunk = check_count("linear.cost", "chunk", chunk, least=1)
    causal = check_flag("linear.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    state = D * (D + 1)
    products = loaded = largest = 0
    for index, (rows, keys) in enumerate(turns(Tq, Tk, chunk, ahead_of(Tq, Tk, causal))):
        r, c = rows.stop - rows.start, keys.stop - keys.start
        products += r * c * (2 * D + 1) + c * state + (r * state if index else 0)
        loaded += (r + 2 * c) * D
        seen = r * (D + 1)
        features = (r + c) * D
        joining = B * H * (features + c * (D + 1) + r * c + 2 * seen + 2 * state)
        buffer = min(NUMPY_BUFFER, B * H * r * D)
        dividing = B * H * (features + seen + 2 * state) + 3 * buffer
        largest = max(largest, max(joining, dividing) * work_bytes)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=2 * B * H * products,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def _attend(state, q, k, v, feature_map) -> tuple[np.ndarray, np.ndarray]:
    """Return the output of one turn and the state after it."""
    work = np.result_type(q.dtype, np.float32)
    phi_q, phi_k = (feature_map(array.astype(work, copy=False)) for array in (q, k))
    seen, state = turn(state, phi_q, phi_k, with_ones(v, work))
    return quotient(seen), state
