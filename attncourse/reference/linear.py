"""Linear attention: a feature map instead of the exponential, and so a sum that fits in a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_qkv
from attncourse.reference import masks

FeatureMap = Callable[[np.ndarray], np.ndarray]


def elu_plus_one(x: np.ndarray) -> np.ndarray:
    """Return elu(x) + 1 elementwise: 1 + x above zero, exp(x) below; never negative."""
    features = np.minimum(x, 0)
    np.exp(features, out=features)
    features += np.maximum(x, 0)
    return features


def elu_plus_one_backward(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return the gradient with respect to x, given the one with respect to elu(x) + 1."""
    return grad * np.exp(np.minimum(x, 0))


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

    Args:
        q: (..., Tq, D) floating.
        k: (..., Tk, D), dtype and leading axes as q.
        v: (..., Tk, Dv).
        feature_map: φ, from (..., T, D) to (..., T, features), the same for queries and keys.
        chunk: Tokens handled together; changes memory and speed, not the result.
        causal: No key after the query's own position i + Tk - Tq.

    Returns:
        (..., Tq, Dv) in the dtype of q; zeros where the normaliser φ(q) · Σ φ(k) is 0, so for a
        query that sees no key. Nothing is added to the normaliser.

    Raises:
        TypeError: No array, no floating numbers, or a chunk that is no integer.
        ValueError: Shapes or dtypes that do not fit, chunk < 1.

    Memory:
        The state (..., D, Dv + 1) and, if causal, the scores of one chunk (..., chunk, chunk),
        in float32 at least.

    Paper:
        Katharopoulos, Vyas, Pappas, Fleuret 2020, arXiv:2006.16236, sections 3.2 and 3.3.
    """
    check_qkv("linear.attention", q, k, v)
    check_count("linear.attention", "chunk", chunk, least=1)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = None
    for rows, keys in turns(n_queries, n_keys, chunk, _ahead(n_queries, n_keys, causal)):
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

    Args:
        state: (..., features, Dv + 1) from the step before; None at the start. Its last column is
            the normaliser Σ φ(k), the others are Σ φ(k) vᵀ.
        q: (..., T, D), one for each new key; or (..., 0, D) where only the state is wanted.
        k: (..., T, D) of the new tokens; generation has one at a time.
        v: (..., T, Dv).
        feature_map: φ.

    Returns:
        (..., T, Dv) in the dtype of q, and the new state; the old one is left alone.

    Raises:
        ValueError: Another number of queries, a state of another shape, and as in `attention`.
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
    out, state = _attend(state, q, k, v, feature_map)
    return out.astype(q.dtype, copy=False), state


def weights(
    q: np.ndarray,
    k: np.ndarray,
    *,
    feature_map: FeatureMap = elu_plus_one,
    causal: bool = False,
) -> np.ndarray:
    """Return the weights φ(q) φ(k)ᵀ with rows divided by their sums: the parallel form.

    weights @ v is `attention`; this is the definition, and holds the whole matrix.

    Returns:
        (..., Tq, Tk) in the dtype of q; rows sum to 1, or to 0 where no key is visible.
    """
    check_qkv("linear.weights", q, k, k)
    work = np.result_type(q.dtype, np.float32)
    phi_q, phi_k = (feature_map(x.astype(work, copy=False)) for x in (q, k))
    scores = np.matmul(phi_q, phi_k.swapaxes(-1, -2))
    if causal:
        np.copyto(scores, 0, where=~masks.causal(*scores.shape[-2:]))
    total = scores.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    scores /= total
    return scores.astype(q.dtype, copy=False)


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

    Args:
        grad_out: dO (..., Tq, Dv), the gradient of the loss with respect to the output.
        q: (..., Tq, D). The other arguments as in `attention`.
        k: (..., Tk, D).
        v: (..., Tk, Dv).
        feature_map: φ.
        feature_map_backward: From (x, gradient with respect to φ(x)) to that with respect to x.
        chunk: As in `attention`.
        causal: As in `attention`.

    Returns:
        (dq, dk, dv) in the shapes and dtypes of q, k and v.

    Memory:
        φ(q), φ(k), [v, 1], g and their gradients, linear in Tq and Tk; one state; one chunk.

    Paper:
        Katharopoulos et al. 2020, arXiv:2006.16236, section 3.3.1.
    """
    check_qkv("linear.backward", q, k, v)
    check_count("linear.backward", "chunk", chunk, least=1)
    if grad_out.shape != q.shape[:-1] + v.shape[-1:]:
        raise ValueError(
            f"linear.backward: grad_out must have shape {q.shape[:-1] + v.shape[-1:]}, "
            f"got {grad_out.shape}"
        )
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    q_, k_, grad = (array.astype(work, copy=False) for array in (q, k, grad_out))
    phi_q, phi_k, values = feature_map(q_), feature_map(k_), with_ones(v, work)
    ahead = _ahead(n_queries, n_keys, causal)
    g = _split_gradient(grad, _scan(phi_q, phi_k, values, chunk, ahead))
    dphi_q = _scan(g, values, phi_k, chunk, ahead)
    # read from the back, the first key is seen by the first query and all that follow it
    ahead = 0 if causal else n_queries
    values, g, phi_k, phi_q = (array[..., ::-1, :] for array in (values, g, phi_k, phi_q))
    dphi_k = _scan(values, g, phi_q, chunk, ahead)[..., ::-1, :]
    dv = _scan(phi_k, phi_q, g, chunk, ahead)[..., ::-1, :-1]
    dq, dk = feature_map_backward(q_, dphi_q), feature_map_backward(k_, dphi_k)
    return tuple(array.astype(q.dtype, copy=False) for array in (dq, dk, dv))


def turns(n_queries: int, n_keys: int, chunk: int, ahead: int) -> Iterator[tuple[slice, slice]]:
    """Yield (queries, keys) of each turn of the scan; either may be empty.

    In a turn the queries see the state, which holds the keys of all turns before, and of this
    turn's keys those up to their own; then the keys join the state.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        chunk: Tokens in a turn.
        ahead: Query i sits at key position i + ahead; n_keys or more if it sees all keys.
    """
    alone = min(max(ahead, 0), n_keys)  # keys that every query sees
    for first in range(0, alone, chunk):
        yield slice(0, 0), slice(first, min(first + chunk, alone))
    for first in range(max(-ahead, 0), n_queries, chunk):
        last = min(first + chunk, n_queries)
        yield slice(first, last), slice(min(first + ahead, n_keys), min(last + ahead, n_keys))


def with_ones(v: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return [v, 1]: with a column of ones, the state's last column is the normaliser."""
    values = np.ones((*v.shape[:-1], v.shape[-1] + 1), dtype)
    values[..., :-1] = v
    return values


def quotient(seen: np.ndarray) -> np.ndarray:
    """Return numerator / normaliser of (..., T, Dv + 1), in place; 0 / 0 is 0."""
    total = seen[..., -1:].copy()  # seen and a view of it in one division would copy both
    total[total == 0] = 1
    seen[..., :-1] /= total
    return seen[..., :-1]


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
    """Count what `attention` does with as many features as D, as elu(x) + 1 has, and Dv = D.

    Args:
        B: Batch.
        H: Heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        chunk: Tokens handled together.
        causal: No key after the query's own position.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    check_count("linear.cost", "chunk", chunk, least=1)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    state = D * (D + 1)
    products = loaded = largest = 0
    for turn, (rows, keys) in enumerate(turns(Tq, Tk, chunk, _ahead(Tq, Tk, causal))):
        r, c = rows.stop - rows.start, keys.stop - keys.start
        products += r * c * (2 * D + 1) + c * state + (r * state if turn else 0)
        loaded += (r + 2 * c) * D
        seen = r * (D + 1)
        features = (r + c) * D
        joining = B * H * (features + c * (D + 1) + r * c + 2 * seen + 2 * state)
        dividing = B * H * (features + seen + 2 * state) + 3 * NUMPY_BUFFER
        largest = max(largest, max(joining, dividing) * work_bytes)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=2 * B * H * products,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def _ahead(n_queries: int, n_keys: int, causal: bool) -> int:
    return n_keys - n_queries if causal else n_keys


def _attend(state, q, k, v, feature_map) -> tuple[np.ndarray, np.ndarray]:
    """Return the output of one turn and the state after it."""
    work = np.result_type(q.dtype, np.float32)
    phi_q, phi_k = (feature_map(array.astype(work, copy=False)) for array in (q, k))
    seen, state = _turn(state, phi_q, phi_k, with_ones(v, work))
    return quotient(seen), state


def _turn(state, a, b, c) -> tuple[np.ndarray, np.ndarray]:
    """Return a state + (a bᵀ, lower triangle) c, and state + bᵀ c."""
    scores = np.matmul(a, b.swapaxes(-1, -2))  # (..., chunk, chunk)
    np.copyto(scores, 0, where=~np.tri(*scores.shape[-2:], dtype=bool))
    seen = np.matmul(scores, c)
    joined = np.matmul(b.swapaxes(-1, -2), c)
    if state is not None:
        seen += np.matmul(a, state)
        joined += state
    return seen, joined


def _scan(a, b, c, chunk, ahead) -> np.ndarray:
    """Return the sum of (a_i · b_j) c_j over the keys j that query i sees, for all i."""
    out = np.zeros((*a.shape[:-1], c.shape[-1]), c.dtype)
    state = None
    for rows, keys in turns(a.shape[-2], b.shape[-2], chunk, ahead):
        out[..., rows, :], state = _turn(state, a[..., rows, :], b[..., keys, :], c[..., keys, :])
    return out


def _split_gradient(grad, seen) -> np.ndarray:
    """Return the gradient of [numerator, normaliser], given that of their quotient."""
    total = np.where(seen[..., -1:] == 0, 1, seen[..., -1:])
    out = seen[..., :-1] / total
    g = np.empty_like(seen)
    g[..., :-1] = grad
    g[..., -1] = -np.matmul(grad[..., None, :], out[..., None])[..., 0, 0]
    g /= total
    return g
