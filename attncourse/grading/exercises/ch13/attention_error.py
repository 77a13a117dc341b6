"""Exercise 13.4: how far an output is from full attention's, without a matrix of scores.

The limit at n = 1024, D = 64 in float64 is 3.5 MiB: 256 rows of scores and three arrays as large
as q. A matrix of scores takes 8 MiB, in float32 still 4 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.reference import chunked, full, window
from attncourse.softmax import softmax

METERED_N, METERED_D = 1024, 64
ROWS_BYTES = METERED_N * METERED_D * 8  # an array as large as q


def attention_error(q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray) -> float:
    """Return the root mean square of out - attention(q, k, v), over that of the attention."""
    return _relative(out, chunked.attention(q, k, v, chunk=64))


def _relative(out, exact) -> float:
    return float(np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2)))


def _error_by_rows(q, k, v, out):
    difference = total = 0.0
    for i in range(len(q)):
        exact = softmax(k @ q[i] / math.sqrt(q.shape[-1])) @ v
        difference += float(((out[i] - exact) ** 2).sum())
        total += float((exact**2).sum())
    return math.sqrt(difference / total)


def _error_by_online_softmax(q, k, v, out, block=128):
    """Walk over the keys, with a running maximum and sum for each query."""
    largest = np.full((len(q), 1), -np.inf)
    total, acc = np.zeros((len(q), 1)), np.zeros((len(q), v.shape[-1]))
    for start in range(0, len(k), block):
        scores = q @ k[start : start + block].T / math.sqrt(q.shape[-1])
        new = np.maximum(largest, scores.max(axis=-1, keepdims=True))
        scores -= new
        np.exp(scores, out=scores)
        fade = np.exp(largest - new)
        total = total * fade + scores.sum(axis=-1, keepdims=True)
        acc = acc * fade + scores @ v[start : start + block]
        largest = new
    acc /= total
    norm = np.linalg.norm(acc)
    acc -= out
    return float(np.linalg.norm(acc) / norm)


def _with(summary: Callable, **knobs) -> Callable:
    """Return another summary of the output and the right one."""
    return lambda q, k, v, out: float(summary(out, chunked.attention(q, k, v, chunk=64, **knobs)))


def _error_dense(q, k, v, out):
    return _relative(out, full.attention(q, k, v))


def _root_mean_square(x):
    return np.sqrt(np.mean(x**2))


def _error_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width, value_width, make, longer=1.0):
        shapes = ((n_queries, width), (n_keys, width), (n_keys, value_width))
        q, k, v = (generator.standard_normal(shape) for shape in shapes)
        q[0] *= longer
        return Case(name, (q, k, v, make(q, k, v)))

    def noisy(q, k, v):
        exact = full.attention(q, k, v)
        return exact + 0.1 * generator.standard_normal(exact.shape)

    def near(q, k, v):
        return window.attention(q, k, v, window=4)

    return [
        case("1 query, 2 keys", 1, 2, 4, 3, noisy),
        case("zeros", 4, 4, 8, 8, lambda q, k, v: np.zeros_like(v)),
        case("twice the right output", 5, 5, 4, 4, lambda q, k, v: 2 * full.attention(q, k, v)),
        case("noise", 6, 6, 16, 16, noisy),
        case("fewer queries than keys", 3, 70, 8, 5, noisy),
        case("one query 2000 times longer than the others", 5, 40, 8, 5, noisy, longer=2000),
        case("a window of 4", 100, 100, 16, 16, near),
        case("the mean of v", 63, 63, 16, 16, lambda q, k, v: np.tile(v.mean(0), (63, 1))),
        case("random, n = 150", 150, 150, 32, 32, noisy),
    ]


def _metered_case(generator: Generator) -> Case:
    q, k, v, out = generator.standard_normal((4, METERED_N, METERED_D))
    return Case(f"n = {METERED_N}", (q, k, v, out))


ATTENTION_ERROR = Exercise(
    id="13.4",
    chapter="13",
    title="The error, without the scores",
    function="attention_error",
    kind="number",
    minutes=20,
    difficulty=3,
    points=4,
    hints=(
        "Only two sums are needed: of the squared differences, and of the squares of the right "
        "output. Both can be collected block by block.",
        "Take 64 queries at a time: their scores are (64, n), their right outputs (64, Dv).",
        "for start in range(0, len(q), 64): compute softmax(q[start:start+64] @ k.T / √D) @ v, add "
        "to both sums; return float(np.sqrt(difference / total)).",
    ),
    reference=attention_error,
    cases=_error_cases,
    memory=Memory(
        _metered_case,
        256 * METERED_N * 8 + 3 * ROWS_BYTES,
        "256 rows of scores and three arrays as large as q: 256 · n · 8 + 3 · n · D · 8 bytes",
    ),
    tolerance=1e-7,
    mistakes=(
        Mistake(
            "all scores",
            _error_dense,
            "your function makes the matrix of all scores",
            "go through the queries in blocks, and keep two sums",
        ),
        Mistake(
            "not relative",
            _with(lambda out, exact: _root_mean_square(out - exact)),
            "your error is not divided by the size of the right output",
            "divide by the root mean square of the right output",
        ),
        Mistake(
            "relative to out",
            _with(
                lambda out, exact: _root_mean_square(out - exact) / (_root_mean_square(out) or 1)
            ),
            "your error is relative to the output that is judged",
            "divide by the size of the right output: an answer of zeros has error 1",
        ),
        Mistake(
            "no root",
            _with(lambda out, exact: np.mean((out - exact) ** 2) / np.mean(exact**2)),
            "your number is the square of the error",
            "take the square root",
        ),
        Mistake(
            "absolute differences",
            _with(lambda out, exact: np.abs(out - exact).mean() / np.abs(exact).mean()),
            "your error is made of absolute differences, not of squares",
            "square, take the mean, take the root",
        ),
        Mistake(
            "largest difference",
            _with(lambda out, exact: np.abs(out - exact).max() / np.abs(exact).max()),
            "your error is that of the worst number alone",
            "take the mean of the squares over all numbers",
        ),
        Mistake(
            "element by element",
            _with(lambda out, exact: np.sqrt(np.mean(((out - exact) / exact) ** 2))),
            "your division comes before the mean: numbers near 0 decide everything",
            "take both means first, then divide",
        ),
        Mistake(
            "no scaling",
            _with(_relative, scale=1.0),
            "your right output is computed without 1/√D",
            "divide the scores by the square root of D",
        ),
        Mistake(
            "percent",
            _with(lambda out, exact: 100 * _relative(out, exact)),
            "your error is in percent",
            "return the plain ratio",
        ),
    ),
    alternatives=(_error_by_rows, _error_by_online_softmax),
)
