"""Exercise 07.2: linear attention with elu + 1, in memory that is linear in n.

The limit at n = 4096, D = 64 in float32 is 8 MiB, eight arrays as large as q: both feature arrays,
the result, and what `np.where` takes for two branches and a condition fit. A 4096 × 4096 array does
not, even of booleans (16 MiB).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch07.shared import (
    ROWS_BYTES,
    elu_plus_one,
    metered_case,
    normalised,
)
from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.reference import full
from attncourse.reference import linear as reference


def linear_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return linear attention with elu + 1 for q (..., Tq, D), k (..., Tk, D), v (..., Tk, Dv)."""
    return reference.attention(q, k, v)


def _by_sums(q, k, v, phi=elu_plus_one):
    phi_q, phi_k = phi(q), phi(k)
    seen = phi_q @ (phi_k.swapaxes(-1, -2) @ v)
    return seen / (phi_q @ phi_k.sum(axis=-2)[..., None])


def _by_ones(q, k, v):
    """Let a column of ones beside v collect the normaliser."""
    values = np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)
    state = np.einsum("...tf,...te->...fe", elu_plus_one(k), values, optimize=True)
    seen = np.einsum("...tf,...fe->...te", elu_plus_one(q), state, optimize=True)
    return seen[..., :-1] / seen[..., -1:]


def _by_blocks(q, k, v):
    """Add up a block of keys after the other, then read a block of queries after the other."""
    state = np.zeros((*k.shape[:-2], k.shape[-1], v.shape[-1]), np.float64)
    norm = np.zeros((*k.shape[:-2], k.shape[-1], 1), np.float64)
    for start in range(0, k.shape[-2], 50):
        phi = elu_plus_one(k[..., start : start + 50, :].astype(np.float64)).swapaxes(-1, -2)
        state += phi @ v[..., start : start + 50, :]
        norm += phi.sum(axis=-1, keepdims=True)
    out = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    for start in range(0, q.shape[-2], 50):
        phi = elu_plus_one(q[..., start : start + 50, :].astype(np.float64))
        out[..., start : start + 50, :] = (phi @ state) / (phi @ norm)
    return out


def _whole_matrix(q, k, v):
    return normalised(elu_plus_one(q) @ elu_plus_one(k).swapaxes(-1, -2), v)


def _without_normaliser(q, k, v):
    return elu_plus_one(q) @ (elu_plus_one(k).swapaxes(-1, -2) @ v)


def _divided_by_n(q, k, v):
    return _without_normaliser(q, k, v) / q.dtype.type(k.shape[-2])


def _with_epsilon(q, k, v):
    phi_q, phi_k = elu_plus_one(q), elu_plus_one(k)
    total = phi_q @ phi_k.sum(axis=-2)[..., None] + q.dtype.type(1e-6)
    return phi_q @ (phi_k.swapaxes(-1, -2) @ v) / total


def _normalised_by_queries(q, k, v):
    phi_q, phi_k = elu_plus_one(q), elu_plus_one(k)
    total = phi_k @ phi_q.sum(axis=-2)[..., None]  # for each key
    return phi_q @ (phi_k.swapaxes(-1, -2) @ (v / total))


def _scaled(q, k, v):
    factor = q.dtype.type(q.shape[-1] ** -0.25)
    return _by_sums(q * factor, k * factor, v)


def _elu(x):
    return elu_plus_one(x) - x.dtype.type(1)


def _relu(x):
    return np.maximum(x, 0) + x.dtype.type(1)


def _attention_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width, lead=(), value_width=None, dtype=np.float32, shift=0):
        shapes = ((n_queries, width), (n_keys, width), (n_keys, value_width or width))
        q, k, v = (generator.standard_normal((*lead, *shape)).astype(dtype) for shape in shapes)
        return Case(name, (q - dtype(shift), k - dtype(shift), v))

    n_queries, n_keys, width = (int(x) for x in generator.integers(2, (90, 90, 20)))
    return [
        case("1 query, 2 keys, D = 1", 1, 2, 1),
        case("7 tokens", 7, 7, 3),
        case("fewer queries than keys", 3, 11, 5),
        case("more queries than keys", 11, 3, 5),
        case("Dv ≠ D", 6, 6, 5, value_width=7),
        case("2 batches, 3 heads", 7, 11, 5, lead=(2, 3)),
        case("inputs shifted down by 12", 6, 6, 4, shift=12),
        case("inputs shifted up by 200", 6, 6, 4, shift=-200),
        case("float64", 11, 12, 5, dtype=np.float64),
        case("200 queries, 2 keys", 200, 2, 5),
        case("2 queries, 200 keys", 2, 200, 5),
        case("100 tokens", 100, 100, 16),
        case(f"random, {n_queries} queries, {n_keys} keys, D = {width}", n_queries, n_keys, width),
    ]


LINEAR_ATTENTION = Exercise(
    id="07.2",
    chapter="07",
    title="Linear attention",
    function="linear_attention",
    kind="array",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "φ(x) = elu(x) + 1 is exp(x) below zero and x + 1 above. Apply it to q and to k; then two "
        "products, with the brackets on the right.",
        "The normaliser of query i is φ(q_i) · Σ_j φ(k_j): sum φ(k) over the keys first.",
        "phi_q @ (phi_k.swapaxes(-1, -2) @ v) / (phi_q @ phi_k.sum(axis=-2)[..., None]), with "
        "phi = np.exp(np.minimum(x, 0)) + np.maximum(x, 0).",
    ),
    reference=linear_attention,
    cases=_attention_cases,
    memory=Memory(metered_case, 8 * ROWS_BYTES, "eight arrays as large as q: 8 · n · D · 4 bytes"),
    mistakes=(
        Mistake(
            "whole matrix",
            _whole_matrix,
            "your numbers are right, but all n × n similarities exist at once",
            "multiply φ(k)ᵀ and v first: their product has D × Dv numbers",
        ),
        Mistake(
            "no normaliser",
            _without_normaliser,
            "your rows are not divided by their normaliser",
            "divide row i by φ(q_i) · Σ_j φ(k_j)",
        ),
        Mistake(
            "divided by n",
            _divided_by_n,
            "your rows are divided by the number of keys",
            "the weights of a row sum to φ(q_i) · Σ_j φ(k_j), not to n",
        ),
        Mistake(
            "normalised over queries",
            _normalised_by_queries,
            "your weights sum to 1 over the queries, not over the keys",
            "sum φ(k) over the keys, and divide each query's row",
        ),
        Mistake(
            "epsilon",
            _with_epsilon,
            "your normaliser has 1e-6 added: where features are small, the output shrinks",
            "divide by the sum as it is",
        ),
        Mistake(
            "elu without 1",
            lambda q, k, v: _by_sums(q, k, v, _elu),
            "your features are elu(x), which goes down to -1: weights become negative",
            "add 1: elu(x) + 1 is exp(x) below zero",
        ),
        Mistake(
            "relu + 1",
            lambda q, k, v: _by_sums(q, k, v, _relu),
            "your features are 1 for all negative inputs",
            "below zero elu(x) + 1 is exp(x)",
        ),
        Mistake(
            "relu",
            lambda q, k, v: _by_sums(q, k, v, lambda x: np.maximum(x, 0)),
            "your features are max(x, 0)",
            "elu(x) + 1 is exp(x) below zero and x + 1 above",
        ),
        Mistake(
            "exponential",
            lambda q, k, v: _by_sums(q, k, v, np.exp),
            "your features are exp(x) above zero, too",
            "above zero elu(x) + 1 is x + 1",
        ),
        Mistake(
            "inputs scaled",
            _scaled,
            "your q and k are divided by D^¼, as for a softmax",
            "elu + 1 is applied to q and k as they are",
        ),
        Mistake(
            "softmax",
            lambda q, k, v: full.attention(q, k, v),
            "your output is that of softmax attention",
            "replace exp(q·k/√D) by φ(q)·φ(k)",
        ),
    ),
    alternatives=(_by_sums, _by_ones, _by_blocks),
)
