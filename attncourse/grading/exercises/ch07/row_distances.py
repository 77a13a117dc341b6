"""Exercise 07.V9: where linear attention and softmax part, from document 003."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch07.shared import elu_plus_one
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import full, linear


def row_distances(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return for each query the total variation of its softmax and elu + 1 weights, (Tq,)."""
    return _distances(q, k)


def _softmax(q, k, scale=None):
    return full.weights(q, k, scale=scale)


def _linear(q, k, phi=elu_plus_one):
    return linear.weights(q, k, feature_map=phi)


def _distances(
    q, k,
    measure: Callable = lambda a, b: np.abs(a - b).sum(axis=-1) / 2,
    a: Callable = _softmax,
    b: Callable = _linear,
) -> np.ndarray:  # fmt: skip
    return measure(a(q, k), b(q, k)).astype(q.dtype)


def _by_excess(q, k):
    """Add up only what softmax has more: the two excesses are equal."""
    scores = (q @ k.T).astype(np.float64) / np.sqrt(q.shape[1])
    a = np.exp(scores - scores.max(axis=1, keepdims=True))
    a /= a.sum(axis=1, keepdims=True)
    b = elu_plus_one(q.astype(np.float64)) @ elu_plus_one(k.astype(np.float64)).T
    b /= b.sum(axis=1, keepdims=True)
    return np.maximum(a - b, 0).sum(axis=1).astype(q.dtype)


def _by_overlap(q, k):
    """1 minus what both have in common, query by query."""
    out = np.empty(len(q), q.dtype)
    for i in range(len(q)):
        both = np.minimum(_softmax(q[i : i + 1], k), _linear(q[i : i + 1], k))
        out[i] = 1 - both.sum(dtype=np.float64)
    return out


def _divergence(a, b):
    tiny = np.finfo(a.dtype).tiny
    return (a * np.log(np.maximum(a, tiny) / np.maximum(b, tiny))).sum(axis=-1)


def _unnormalised(q, k):
    return elu_plus_one(q) @ elu_plus_one(k).T


def _elu(x):
    return elu_plus_one(x) - x.dtype.type(1)


def _distance_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width, factor=1.0, dtype=np.float32):
        q, k = (generator.standard_normal((n, width)).astype(dtype) for n in (n_queries, n_keys))
        return Case(name, (dtype(factor) * q, dtype(factor) * k))

    n_queries, n_keys, width = (int(x) for x in generator.integers(2, (60, 60, 20)))
    return [
        case("1 query, 2 keys", 1, 2, 1),
        case("1 query, 1 key: no distance", 1, 1, 3),
        case("4 queries, 6 keys", 4, 6, 4),
        case("nearly even rows", 5, 7, 4, factor=0.1),
        case("peaked rows", 5, 7, 4, factor=4.0),
        case("long vectors", 5, 7, 4, factor=30.0),
        case("float64", 6, 9, 5, dtype=np.float64),
        case(f"random, {n_queries} queries, {n_keys} keys, D = {width}", n_queries, n_keys, width),
    ]


ROW_DISTANCES = Exercise(
    id="07.V9",
    chapter="07",
    title="Where linear and softmax attention part",
    function="row_distances",
    kind="array",
    minutes=15,
    difficulty=2,
    points=2,
    hints=(
        "Make both matrices of weights, (Tq, Tk), each with rows that sum to 1. Then compare them "
        "row by row.",
        "Softmax: exp(q·k/√D) over its row sum, with the row's maximum subtracted first. Linear: "
        "φ(q)·φ(k) over its row sum, with φ(x) = elu(x) + 1.",
        "np.abs(softmax_weights - linear_weights).sum(axis=1) / 2, in the dtype of q.",
    ),
    reference=row_distances,
    cases=_distance_cases,
    mistakes=(
        Mistake(
            "not halved",
            lambda q, k: _distances(q, k, lambda a, b: np.abs(a - b).sum(axis=-1)),
            "your distances are twice as large: what one row has too much the other has too little",
            "divide the sum of absolute differences by 2",
        ),
        Mistake(
            "mean difference",
            lambda q, k: _distances(q, k, lambda a, b: np.abs(a - b).mean(axis=-1)),
            "your distances are means over the keys, which shrink with their number",
            "sum the absolute differences of a row, and halve the sum",
        ),
        Mistake(
            "largest difference",
            lambda q, k: _distances(q, k, lambda a, b: np.abs(a - b).max(axis=-1)),
            "your distances look at the key that differs most",
            "sum the absolute differences of all keys, and halve the sum",
        ),
        Mistake(
            "root of squares",
            lambda q, k: _distances(q, k, lambda a, b: np.sqrt(np.square(a - b).sum(axis=-1))),
            "your distances are Euclidean",
            "total variation sums absolute differences, and halves the sum",
        ),
        Mistake(
            "divergence",
            lambda q, k: _distances(q, k, _divergence),
            "your distances are Kullback–Leibler divergences",
            "total variation is half the sum of absolute differences",
        ),
        Mistake(
            "linear not normalised",
            lambda q, k: _distances(q, k, b=_unnormalised),
            "your linear weights do not sum to 1",
            "divide each row of φ(q)·φ(k) by its sum",
        ),
        Mistake(
            "softmax without 1/√D",
            lambda q, k: _distances(q, k, a=lambda q, k: _softmax(q, k, scale=1)),
            "your softmax has scores q·k, without 1/√D",
            "divide the scores by √D",
        ),
        Mistake(
            "exponential features",
            lambda q, k: _distances(q, k, b=lambda q, k: _linear(q, k, lambda x: np.exp(x))),
            "your features are exp(x) above zero, too",
            "above zero elu(x) + 1 is x + 1",
        ),
        Mistake(
            "elu without 1",
            lambda q, k: _distances(q, k, b=lambda q, k: _linear(q, k, _elu)),
            "your features are elu(x), which goes down to -1: weights become negative",
            "add 1 to elu(x)",
        ),
        Mistake(
            "by keys",
            lambda q, k: _distances(q, k, lambda a, b: np.abs(a - b).sum(axis=0) / 2),
            "your sums run over the queries: one number for each key",
            "sum over the keys, the last axis: one number for each query",
        ),
    ),
    alternatives=(_by_excess, _by_overlap),
)
