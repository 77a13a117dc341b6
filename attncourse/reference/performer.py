"""Performer (FAVOR+): linear attention whose features estimate the softmax's exponential."""

from __future__ import annotations

import math

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.definitions.directions import draw_directions
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.scan import quotient, turns, with_ones
from attncourse.softmax import nan_to_keys

FEATURES = ("positive", "trigonometric")


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_features: int,
    features: str = "positive",
    orthogonal: bool = True,
    seed: int = 0,
    chunk: int = 64,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return φ(q) (φ(k)ᵀ v), rows divided by φ(q) · Σ φ(k), with φ(q) · φ(k) ≈ exp(q · k · scale).

    Keys go into a state of fixed size, a chunk at a time: neither the (Tq, Tk) matrix is made nor
    the features of all tokens. A factor that all features of a query share leaves the quotient
    alone, and so does one that all keys share. So each query's largest exponent is subtracted,
    and of the keys the largest so far: exp cannot overflow, and no later key is looked at.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        n_features: m, the random directions, the same for all heads.
        features: "positive", exp(w·x - |x|²/2), or "trigonometric", exp(|x|²/2) times sin and cos
            of w·x: two numbers per direction, and a normaliser that may come near 0 or below.
        orthogonal: Directions at right angles, D at a time, instead of independent ones.
        seed: Another seed draws other directions.
        chunk: Tokens handled together; changes memory and speed, not the result.
        scale: Not negative.

    Raises:
        ValueError: n_features or chunk < 1, seed < 0, scale < 0, or features of another name.

    Memory:
        The directions (m, D), the state (..., m, Dv + 1), and the features (..., chunk, m) of one
        chunk's queries and keys.

    Paper:
        Choromanski et al. 2021, arXiv:2009.14794, sections 2.3 and 2.4.
    """
    check_qkv("performer.attention", q, k, v)
    n_features = check_count("performer.attention", "n_features", n_features, least=1)
    chunk = check_count("performer.attention", "chunk", chunk, least=1)
    causal = check_flag("performer.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    factor = _factor("performer.attention", q.shape[-1], features, scale)
    directions = draw_directions("performer.attention", n_features, q.shape[-1], orthogonal, seed)
    work = np.result_type(q.dtype, np.float32)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    n_numbers = n_features if features == "positive" else 2 * n_features
    state = np.zeros((*q.shape[:-2], n_numbers, v.shape[-1] + 1), work)  # (..., m, Dv + 1)
    top = np.full((*q.shape[:-2], 1, 1), np.finfo(work).min, work)  # (..., 1, 1)
    for rows, keys in turns(n_queries, n_keys, chunk, n_keys - n_queries if causal else n_keys):
        parts = q[..., rows, :], k[..., keys, :], v[..., keys, :]
        out[..., rows, :], top = _attend(state, top, *parts, directions, features, factor)
    return out


def draw_features(
    n_features: int, width: int, *, orthogonal: bool = True, seed: int = 0
) -> np.ndarray:
    """Draw the random directions w, each distributed as D standard normal numbers.

    Orthogonal ones keep the length that a normal vector has, so that each alone is still normal;
    beyond D of them the next D begin.

    Args:
        n_features: m.
        width: D.
        orthogonal: Blocks of D directions at right angles.
        seed: At least 0.

    Returns:
        float32 (m, D).

    Paper:
        Choromanski et al. 2021, arXiv:2009.14794, section 2.4.
    """
    width = check_count("performer.draw_features", "width", width, least=1)
    return draw_directions("performer.draw_features", n_features, width, orthogonal, seed)


def feature_map(
    x: np.ndarray, directions: np.ndarray, *, features: str = "positive", scale: float | None = None
) -> np.ndarray:
    """Return φ(x): over random directions, φ(q) · φ(k) is exp(q · k · scale) on average.

    Nothing is subtracted from the exponents here: long vectors overflow.

    Args:
        x: (..., T, D) floating, queries or keys.
        directions: (m, D) from `draw_features`.
        features: As in `attention`.

    Returns:
        (..., T, m), or (..., T, 2m) if trigonometric, in float32 at least.
    """
    check_qkv("performer.feature_map", x, x, x)
    factor = _factor("performer.feature_map", x.shape[-1], features, scale)
    phi = _raise(*_exponents(x, directions, features, factor))
    phi /= math.sqrt(len(directions))
    return phi


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_features: int,
    chunk: int = 64,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does with positive, orthogonal features.

    Arguments and rules as in `attncourse.reference`.
    """
    m = check_count("performer.cost", "n_features", n_features, least=1)
    chunk = check_count("performer.cost", "chunk", chunk, least=1)
    causal = check_flag("performer.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    state = m * (D + 1)
    products = loaded = largest = 0
    for rows, keys in turns(Tq, Tk, chunk, Tk - Tq if causal else Tk):
        r, c = rows.stop - rows.start, keys.stop - keys.start
        products += (r + c) * m * D + r * c * (m + D + 1) + (r + c) * state
        loaded += (r + 2 * c) * D
        held = (r + c) * m + (r + c) * (D + 1) + r * c + state
        joining, dividing = B * H * (held + state), B * H * held + 3 * NUMPY_BUFFER
        largest = max(largest, max(joining if c else 0, dividing) * work_bytes)
    out = B * H * Tq * D * dtype_bytes
    drawing = (5 * -(-m // D) * D * D + NUMPY_BUFFER) * 8
    return Cost(
        flops=2 * B * H * products,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=max(drawing, out + 4 * m * D + largest),
    )


def _exponents(x, directions, features, factor) -> tuple[np.ndarray, np.ndarray | None]:
    """Return e and u such that the features of x are u exp(e); no u if it is 1."""
    work = np.result_type(x.dtype, np.float32)
    x = x.astype(work, copy=False)
    projected = np.matmul(x, directions.T.astype(work, copy=False))  # (..., chunk, m)
    projected *= math.sqrt(factor)
    half_square = np.square(x).sum(axis=-1, keepdims=True)
    half_square *= factor / 2
    if features == "trigonometric":
        return half_square, np.concatenate([np.sin(projected), np.cos(projected)], axis=-1)
    projected -= half_square
    return projected, None


def _raise(exponent, wave) -> np.ndarray:
    """Return wave · exp(exponent); both arrays are used up."""
    np.exp(exponent, out=exponent)
    if wave is None:
        return exponent
    wave *= exponent
    return wave


def _attend(state, top, q, k, v, directions, features, factor) -> tuple[np.ndarray, np.ndarray]:
    """Return the output of one turn and the new top; the turn's keys join the state in place.

    The state is kept relative to exp(top), the largest exponent of a key so far, and fades when
    that grows, as in online softmax; each key is kept relative to the largest up to itself.
    """
    exponent, wave = _exponents(q, directions, features, factor)
    exponent -= exponent.max(axis=-1, keepdims=True)
    phi_q = _raise(exponent, wave)  # (..., queries, m)
    if not k.shape[-2]:
        return quotient(np.matmul(phi_q, state)), top
    exponent, wave = _exponents(k, directions, features, factor)
    tops = np.maximum(np.maximum.accumulate(exponent.max(axis=-1, keepdims=True), axis=-2), top)
    exponent -= tops
    phi_k, values = _raise(exponent, wave), with_ones(v, phi_q.dtype)
    own = tops[..., k.shape[-2] - q.shape[-2] :, :]  # those of the queries, if there are any
    scores = np.matmul(phi_q, phi_k.swapaxes(-1, -2))  # (..., queries, keys)
    scores *= np.exp(np.minimum(tops.swapaxes(-1, -2) - own, 0))
    np.copyto(scores, 0, where=~np.tri(*scores.shape[-2:], dtype=bool))
    seen = np.matmul(phi_q, state)  # (..., queries, Dv + 1)
    seen *= np.exp(top - own)
    seen += np.matmul(scores, values)
    last = tops[..., -1:, :]
    values *= np.exp(tops - last)
    state *= np.exp(top - last)
    state += np.matmul(phi_k.swapaxes(-1, -2), values)
    return quotient(seen), last


def _factor(where, width, features, scale) -> float:
    """Return the scale, and refuse what has no feature map."""
    if features not in FEATURES:
        raise ValueError(f"{where}: features must be one of {FEATURES}, got {features!r}")
    factor = check_scale(where, scale, width)
    if factor < 0:
        raise ValueError(f"{where}: scale must be at least 0, got {scale}")
    return factor
