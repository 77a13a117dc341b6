"""Exercise 07.3: causal linear attention whose memory does not grow with n, the arrays aside.

The limit at n = 4096, D = 64 in float32 is 8 MiB, eight arrays as large as q. Chunks, a loop over
tokens and states of one chunk fit. All states at once take n·D·(Dv + 1) numbers, 65 MiB; all
weights 64 MiB.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch07.shared import (
    ROWS_BYTES,
    elu_plus_one,
    metered_case,
    normalised,
)
from attncourse.grading.spec import TILE_SIZES, Case, Exercise, Memory, Mistake
from attncourse.reference import linear as reference

CHUNK = 32


def causal_linear(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return causal linear attention with elu + 1 for q, k (..., n, D) and v (..., n, Dv)."""
    return reference.attention(q, k, v, causal=True)


def _with_ones(v):
    return np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)


def _divided(seen):
    with np.errstate(divide="ignore", invalid="ignore"):
        return seen[..., :-1] / seen[..., -1:]


def _chunked(see: Callable, *, chunk: int = CHUNK, until: Callable = lambda n: n) -> Callable:
    """Make a chunked scan.

    Args:
        see: (phi_q, phi_k, values, state before, state after) -> (..., chunk, Dv + 1).
        chunk: Tokens handled together.
        until: The token at which the loop ends.
    """

    def attention(q, k, v):
        n = q.shape[-2]
        out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
        state = np.zeros((*q.shape[:-2], q.shape[-1], v.shape[-1] + 1), q.dtype)
        for start in range(0, until(n), chunk):
            rows = slice(start, start + chunk)
            phi_q, phi_k = elu_plus_one(q[..., rows, :]), elu_plus_one(k[..., rows, :])
            values = _with_ones(v[..., rows, :])
            after = state + phi_k.swapaxes(-1, -2) @ values
            out[..., rows, :] = _divided(see(phi_q, phi_k, values, state, after))
            state = after
        return out

    return attention


def _own(phi_q, phi_k, values, diagonal=0):
    scores = phi_q @ phi_k.swapaxes(-1, -2)
    return np.tril(scores, diagonal) @ values


def _right(phi_q, phi_k, values, before, after):
    return phi_q @ before + _own(phi_q, phi_k, values)


def _all_of_chunk(phi_q, phi_k, values, before, after):
    return phi_q @ after


def _chunk_twice(phi_q, phi_k, values, before, after):
    return phi_q @ after + _own(phi_q, phi_k, values)


def _without_own_key(phi_q, phi_k, values, before, after):
    return phi_q @ before + _own(phi_q, phi_k, values, diagonal=-1)


def _own_alone(phi_q, phi_k, values, before, after):
    return _own(phi_q, phi_k, values)


def _state_alone(phi_q, phi_k, values, before, after):
    return phi_q @ before


def _other_chunks(see: Callable) -> tuple[Callable, ...]:
    """Return a mistake in other chunks, two of which the cases fill."""
    return tuple(_chunked(see, chunk=chunk) for chunk in TILE_SIZES if chunk < 130)


def _by_tokens(q, k, v):
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    phi_q, phi_k, values = elu_plus_one(q), elu_plus_one(k), _with_ones(v)
    state = np.zeros((*q.shape[:-2], q.shape[-1], values.shape[-1]), np.float64)
    for i in range(q.shape[-2]):
        state += phi_k[..., i, :, None] * values[..., i, None, :]
        seen = (phi_q[..., i, None, :] @ state)[..., 0, :]
        out[..., i, :] = seen[..., :-1] / seen[..., -1:]
    return out


def _by_short_sums(q, k, v):
    """Hold all states of 16 tokens at a time."""
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = 0
    for start in range(0, q.shape[-2], 16):
        rows = slice(start, start + 16)
        phi_q, phi_k = elu_plus_one(q[..., rows, :]), elu_plus_one(k[..., rows, :])
        steps = phi_k[..., :, None] * _with_ones(v[..., rows, :])[..., None, :]
        states = state + np.cumsum(steps, axis=-3)
        out[..., rows, :] = _divided((phi_q[..., None, :] @ states)[..., 0, :])
        state = states[..., -1:, :, :]
    return out


def _all_states(q, k, v):
    steps = elu_plus_one(k)[..., :, None] * _with_ones(v)[..., None, :]
    states = np.cumsum(steps, axis=-3)
    return _divided((elu_plus_one(q)[..., None, :] @ states)[..., 0, :])


def _all_weights(q, k, v):
    return normalised(np.tril(elu_plus_one(q) @ elu_plus_one(k).swapaxes(-1, -2)), v)


def _normalised_by_all(q, k, v):
    total = elu_plus_one(q) @ elu_plus_one(k).sum(axis=-2)[..., None]
    return np.tril(elu_plus_one(q) @ elu_plus_one(k).swapaxes(-1, -2)) @ v / total


def _causal_cases(generator: Generator) -> list[Case]:
    def case(name, n, width, lead=(), value_width=None, dtype=np.float32, shift=0):
        shapes = ((n, width), (n, width), (n, value_width or width))
        q, k, v = (generator.standard_normal((*lead, *shape)).astype(dtype) for shape in shapes)
        return Case(name, (q - dtype(shift), k - dtype(shift), v))

    n, width = (int(x) for x in generator.integers((130, 2), (200, 20)))
    return [
        case("1 token", 1, 3),
        case("2 tokens", 2, 3),
        case("17 tokens", 17, 5),
        case("Dv ≠ D", 9, 5, value_width=7),
        case("128 tokens", 128, 8),
        case("131 tokens", 131, 8),
        case("2 batches, 3 heads", 70, 5, lead=(2, 3)),
        case("inputs shifted down by 12", 40, 4, shift=12),
        case("float64", 100, 5, dtype=np.float64),
        case(f"random, n = {n}, D = {width}", n, width),
    ]


CAUSAL_LINEAR = Exercise(
    id="07.3",
    chapter="07",
    title="Causal, with a state",
    function="causal_linear",
    kind="array",
    minutes=25,
    difficulty=3,
    points=4,
    hints=(
        "Query i needs Σ φ(k_j) [v_j, 1]ᵀ over j ≤ i. Keep that sum while you walk, and never keep "
        "more than one of it.",
        "Walk in chunks. A query sees the state of all earlier chunks, and in its own chunk the "
        "lower triangle of scores, its own key included. Then the chunk joins the state.",
        "seen = phi_q @ state + np.tril(phi_q @ phi_k.swapaxes(-1, -2)) @ values, with values "
        "= [v, 1]; then state = state + phi_k.swapaxes(-1, -2) @ values; divide by seen[..., -1:].",
    ),
    reference=causal_linear,
    cases=_causal_cases,
    memory=Memory(metered_case, 8 * ROWS_BYTES, "eight arrays as large as q: 8 · n · D · 4 bytes"),
    mistakes=(
        Mistake(
            "all states",
            _all_states,
            "your numbers are right, but a cumulative sum holds the state of every token: "
            "n·D·(Dv + 1) numbers",
            "keep one state, and add to it while you walk",
        ),
        Mistake(
            "all weights",
            _all_weights,
            "your numbers are right, but the whole n × n matrix exists at once",
            "make the triangle of one chunk at a time; what is before it comes from the state",
        ),
        Mistake(
            "not causal",
            lambda q, k, v: reference.attention(q, k, v),
            "your queries see all keys, later ones too",
            "query i sees keys 0 … i",
        ),
        Mistake(
            "normaliser of all keys",
            _normalised_by_all,
            "your normaliser sums over all keys, the later ones too",
            "numerator and normaliser sum over the same keys: a column of ones in v does both",
        ),
        Mistake(
            "future of the chunk",
            _chunked(_all_of_chunk),
            "your queries see all of their own chunk, later keys too",
            "in its own chunk a query sees the lower triangle only",
            _other_chunks(_all_of_chunk),
        ),
        Mistake(
            "chunk twice",
            _chunked(_chunk_twice),
            "your chunk joins the state before its queries read it, and is counted twice",
            "read the state first, then add the chunk to it",
            _other_chunks(_chunk_twice),
        ),
        Mistake(
            "own key missing",
            _chunked(_without_own_key),
            "your queries do not see their own key: the first one sees nothing",
            "the diagonal belongs to the triangle",
        ),
        Mistake(
            "state forgotten",
            _chunked(_own_alone),
            "your queries see their own chunk only",
            "add φ(q) @ state, the sum over all earlier chunks",
            _other_chunks(_own_alone),
        ),
        Mistake(
            "own chunk forgotten",
            _chunked(_state_alone),
            "your queries see the earlier chunks only, and those of the first chunk nothing",
            "add the lower triangle of the own chunk's scores times its values",
            _other_chunks(_state_alone),
        ),
        Mistake(
            "last chunk dropped",
            _chunked(_right, until=lambda n: n // CHUNK * CHUNK),
            "your loop ends with the last full chunk: the rest stays zero",
            "let the last chunk be shorter: slices may end beyond n",
        ),
    ),
    alternatives=(_chunked(_right), _by_tokens, _by_short_sums),
)
