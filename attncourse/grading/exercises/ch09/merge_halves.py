"""Exercise 09.4: join attention to two sets of keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import flash


def merge_halves(
    out_a: np.ndarray, lse_a: np.ndarray, out_b: np.ndarray, lse_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return output and log-sum-exp of both sets of keys together."""
    return flash.merge(out_a, lse_a, out_b, lse_b)


def _merge_by_larger(out_a, lse_a, out_b, lse_b):
    larger = np.maximum(lse_a, lse_b)
    pivot = np.where(np.isneginf(larger), 0, larger).astype(larger.dtype)
    a, b = np.exp(lse_a - pivot), np.exp(lse_b - pivot)
    total = np.where(a + b == 0, 1, a + b).astype(larger.dtype)
    out = (a[..., None] * out_a + b[..., None] * out_b) / total[..., None]
    return out.astype(out_a.dtype), larger + np.log(total)


def _merge_row_by_row(out_a, lse_a, out_b, lse_b):
    out, lse = np.zeros_like(out_a), np.full_like(lse_a, -np.inf)
    for place in np.ndindex(lse_a.shape):
        parts = [(lse_a[place], out_a[place]), (lse_b[place], out_b[place])]
        seen = [part for part in parts if part[0] > -np.inf]
        if seen:
            lse[place] = np.logaddexp.reduce([value for value, _ in seen])
            out[place] = sum(np.exp(value - lse[place]) * row for value, row in seen)
    return out, lse


def _weighed(weigh: Callable, join: Callable = np.logaddexp) -> Callable:
    """Make a merge with other weights, weigh(lse_a, lse_b) -> (a, b), or another lse."""

    def merge(out_a, lse_a, out_b, lse_b):
        with np.errstate(all="ignore"):
            a, b = weigh(lse_a, lse_b)
            out = a[..., None] * out_a + b[..., None] * out_b
            return out.astype(out_a.dtype), np.asarray(join(lse_a, lse_b), lse_a.dtype)

    return merge


def _shares(lse_a, lse_b):
    lse = np.logaddexp(lse_a, lse_b)
    pivot = np.where(lse == -np.inf, 0, lse)
    return np.exp(lse_a - pivot), np.exp(lse_b - pivot)


def _overflowing(lse_a, lse_b):
    a, b = np.exp(lse_a), np.exp(lse_b)
    return a / (a + b), b / (a + b)


def _without_pivot(lse_a, lse_b):
    lse = np.logaddexp(lse_a, lse_b)
    return np.exp(lse_a - lse), np.exp(lse_b - lse)


def _halves(lse_a, lse_b):
    return np.full_like(lse_a, 0.5), np.full_like(lse_b, 0.5)


def _cases(generator: Generator) -> list[Case]:
    def case(name, shape, *, dtype=np.float32, shift=(0.0, 0.0), blind=""):
        out_a, out_b = generator.standard_normal((2, *shape)).astype(dtype)
        lses = [
            (generator.standard_normal(shape[:-1]) + extra).astype(
                max(dtype, np.float32, key=_size)
            )
            for extra in shift
        ]
        for letter, out, lse in (("a", out_a, lses[0]), ("b", out_b, lses[1])):
            if letter in blind:  # every second query sees no key there
                lse[..., ::2], out[..., ::2, :] = -np.inf, 0
        return Case(name, (out_a, lses[0], out_b, lses[1]))

    queries, width = (int(x) for x in generator.integers((20, 4), (100, 64)))
    return [
        case("1 query", (1, 1)),
        case("2 queries", (2, 3)),
        case("the second set weighs far more", (3, 4), shift=(0, 30)),
        case("large lse", (3, 4), shift=(500, 501)),
        case("very small lse", (3, 4), shift=(-500, -501)),
        case("the first set is not seen", (4, 3), blind="a"),
        case("the second set is not seen", (4, 3), blind="b"),
        case("neither set is seen", (4, 3), blind="ab"),
        case("2 texts, 3 heads", (2, 3, 5, 4)),
        case("float64", (6, 8), dtype=np.float64),
        case("float16 outputs, float32 lse", (6, 8), dtype=np.float16),
        case(f"random, {queries} queries, width {width}", (queries, width), shift=(1, -1)),
    ]


def _size(dtype) -> int:
    return np.dtype(dtype).itemsize


MERGE_HALVES = Exercise(
    id="09.4",
    chapter="09",
    title="Join two halves",
    function="merge_halves",
    kind="array",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "exp(lse) is the sum by which each output was divided. Undo both divisions in your head.",
        "out = (exp(lse_a)·out_a + exp(lse_b)·out_b) / (exp(lse_a) + exp(lse_b)). Now keep the "
        "exponentials small: what may you subtract from both lse?",
        "lse = np.logaddexp(lse_a, lse_b); the weights are np.exp(lse_a - pivot) and np.exp(lse_b "
        "- pivot), with pivot = lse, or 0 where lse is -inf.",
    ),
    reference=merge_halves,
    cases=_cases,
    mistakes=(
        Mistake(
            "averaged",
            _weighed(_halves),
            "your output is the mean of the two: both sets weigh the same",
            "each set weighs as much as exp of its lse",
        ),
        Mistake(
            "added",
            _weighed(lambda a, b: (np.ones_like(a), np.ones_like(b))),
            "your output is the sum of the two: the weights sum to 2",
            "the weights of the two sets must sum to 1",
        ),
        Mistake(
            "swapped",
            _weighed(lambda a, b: _shares(b, a)),
            "your weights are swapped",
            "out_a is weighed by exp(lse_a - lse)",
        ),
        Mistake(
            "weighed by the lse itself",
            _weighed(lambda a, b: (a / (a + b), b / (a + b))),
            "your weights are the lse, not their exponentials",
            "exp(lse) is the sum of exponentials of a set",
        ),
        Mistake(
            "overflow",
            _weighed(_overflowing),
            "your exponentials overflow or vanish: exp(lse) is taken as it is",
            "subtract the joint lse before np.exp",
        ),
        Mistake(
            "nobody sees anything",
            _weighed(_without_pivot),
            "your rows that see no key in either set are NaN: -inf minus -inf",
            "subtract 0 where the joint lse is -inf",
        ),
        Mistake(
            "lse added",
            _weighed(_shares, np.add),
            "your lse is the sum of the two: the logarithm of a product",
            "add the exponentials, then take the logarithm: np.logaddexp",
        ),
        Mistake(
            "larger lse",
            _weighed(_shares, np.maximum),
            "your lse is the larger of the two: that of one set alone",
            "add the exponentials, then take the logarithm: np.logaddexp",
        ),
    ),
    alternatives=(_merge_by_larger, _merge_row_by_row),
)
