"""Exercise 01.4: attention that holds one square instead of two or three.

The limit at n = 2048, D = 64 in float32 is 18.5 MiB: one n × n array, 16 MiB, and five arrays as
large as q. The softmax written as one expression holds two squares, 32 MiB.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.reference import full as reference

METERED_N, METERED_D = 2048, 64


def lean_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return softmax attention of one head, q (n, D), k (n, D), v (n, Dv)."""
    return reference.attention(q, k, v)


def _scaled_copy(q, k, v):
    scores = (q / np.asarray(math.sqrt(q.shape[-1]), q.dtype)) @ k.T
    np.subtract(scores, scores.max(axis=1, keepdims=True), out=scores)
    np.exp(scores, out=scores)
    return scores @ v / scores.sum(axis=1, keepdims=True)


def _rows(q, k, v):
    out = np.empty((len(q), v.shape[1]), q.dtype)
    for i, query in enumerate(q):
        row = k @ query
        row /= math.sqrt(len(query))
        row = np.exp(row - row.max())
        out[i] = row @ v / row.sum()
    return out


def _quarters(q, k, v):
    """A quarter of the queries at a time: three squares of a quarter's size are less than one."""
    parts = np.array_split(q, 4)
    return np.concatenate([_one_expression(part, k, v) for part in parts if len(part)])


def _softmax(scores, axis=1):
    scores = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return scores / scores.sum(axis=axis, keepdims=True)


def _one_expression(q, k, v):
    return (_softmax(q @ k.T / math.sqrt(q.shape[-1])) @ v).astype(q.dtype)


def _scores_kept(q, k, v):
    scores = q @ k.T
    scores /= math.sqrt(q.shape[-1])
    weights = scores - scores.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    return weights @ v / weights.sum(axis=1, keepdims=True)


def _divides_q(q, k, v):
    q /= math.sqrt(q.shape[-1])
    scores = q @ k.T
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    return scores @ v / scores.sum(axis=1, keepdims=True)


def _no_maximum(q, k, v):
    scores = q @ k.T
    scores /= math.sqrt(q.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        np.exp(scores, out=scores)
        return scores @ v / scores.sum(axis=1, keepdims=True)


def _no_division(q, k, v):
    scores = q @ k.T
    scores /= math.sqrt(q.shape[-1])
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    return scores @ v


def _sum_over_queries(q, k, v):
    scores = q @ k.T / q.dtype.type(math.sqrt(q.shape[-1]))
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=0, keepdims=True) @ v


def _one_maximum(q, k, v):
    scores = q @ k.T
    scores /= math.sqrt(q.shape[-1])
    scores -= scores.max()
    np.exp(scores, out=scores)
    with np.errstate(invalid="ignore"):
        return scores @ v / scores.sum(axis=1, keepdims=True)


def _cases(generator: Generator) -> list[Case]:
    def case(name, n, width, value_width, dtype=np.float32, shift=0.0, longer=1.0):
        q, k = (generator.standard_normal((n, width)) for _ in range(2))
        v = generator.standard_normal((n, value_width))
        if shift:  # adds shift² / √D to each score: exp overflows unless the maximum is subtracted
            q[:, -1] = k[:, -1] = shift
        q[0] *= longer
        return Case(name, tuple(array.astype(dtype) for array in (q, k, v)))

    n = int(generator.integers(20, 120))
    return [
        case("1 token", 1, 5, 5),
        case("2 tokens", 2, 5, 5),
        case("7 tokens", 7, 5, 5),
        case("values narrower than keys", 5, 7, 3),
        case("float64", 7, 8, 8, np.float64),
        case("large scores, float64", 6, 64, 4, np.float64, shift=80.0),
        case("one query 200 times longer than the others", 40, 16, 4, longer=200),
        case("63 tokens", 63, 16, 16),
        case(f"random, n = {n}", n, 32, 32),
    ]


def _metered(generator: Generator) -> Case:
    arrays = generator.standard_normal((3, METERED_N, METERED_D), dtype=np.float32)
    return Case(f"n = {METERED_N}", tuple(arrays))


LEAN_ATTENTION = Exercise(
    id="01.4",
    chapter="01",
    title="One square instead of three",
    function="lean_attention",
    kind="array",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "Each arithmetic expression on the scores makes a new square. Which of them can be written "
        "into the old one?",
        "x *= 2 and np.exp(x, out=x) make no new array. The maximum and the sum of each row are "
        "small.",
        "scores = q @ k.T, then scores /= …, scores -= scores.max(axis=1, keepdims=True), "
        "np.exp(scores, out=scores); divide the product with v by the row sums, not the weights.",
    ),
    reference=lean_attention,
    cases=_cases,
    memory=Memory(
        _metered,
        METERED_N**2 * 4 + 5 * METERED_N * METERED_D * 4,
        "one n × n array of float32 and five arrays as large as q",
    ),
    mistakes=(
        Mistake(
            "one expression",
            _one_expression,
            "your numbers are right, but the expressions of the softmax make new squares",
            "change the scores in place: -=, /=, and np.exp with out=",
        ),
        Mistake(
            "scores kept",
            _scores_kept,
            "your numbers are right, but scores and weights exist at the same time",
            "subtract the maximum in place: scores -= …",
        ),
        Mistake(
            "argument changed",
            _divides_q,
            "your memory is fine, but q is divided in place: the caller's array changes",
            "scale the scores, or a copy of q",
        ),
        Mistake(
            "no scale",
            lambda q, k, v: reference.attention(q, k, v, scale=1.0),
            "your output is what you get without 1/√D",
            "divide the scores by the square root of D before the softmax",
        ),
        Mistake(
            "scale 1/D",
            lambda q, k, v: reference.attention(q, k, v, scale=1 / q.shape[-1]),
            "your output is what you get with 1/D instead of 1/√D",
            "divide the scores by the square root of D",
        ),
        Mistake(
            "sum over queries",
            _sum_over_queries,
            "your maxima are those of the rows, but your sums are those of the columns",
            "sum over the keys of one query, too: axis=1",
        ),
        Mistake(
            "one maximum",
            _one_maximum,
            "your maximum is that of all scores: in a row far below it exp gives only zeros",
            "subtract the maximum of each row: axis=1, keepdims=True",
        ),
        Mistake(
            "softmax over queries",
            lambda q, k, v: (_softmax(q @ k.T / math.sqrt(q.shape[-1]), axis=0) @ v).astype(
                q.dtype
            ),
            "your columns sum to 1, not your rows",
            "the softmax runs over the keys of one query: axis=1",
        ),
        Mistake(
            "unstable softmax",
            _no_maximum,
            "your exponentials overflow: the row maximum is not subtracted",
            "subtract the maximum of each row before np.exp",
        ),
        Mistake(
            "not normalised",
            _no_division,
            "your weights do not sum to 1",
            "divide by the sum of each row of exponentials",
        ),
    ),
    alternatives=(_scaled_copy, _rows, _quarters),
)
