"""Exercise 13.3: the exponent with which something grows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def growth_exponent(lengths: np.ndarray, values: np.ndarray) -> float:
    """Return the slope of the least-squares line through log(values) over log(lengths)."""
    slope, _ = _fit(np.log(lengths), np.log(values))
    return float(slope)


def _fit(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return slope, y.mean() - slope * x.mean()


def _exponent_by_polyfit(lengths, values):
    return float(np.polyfit(np.log2(lengths), np.log2(values), 1)[0])


def _exponent_by_lstsq(lengths, values):
    columns = np.stack([np.log10(lengths), np.ones(len(lengths))], axis=1)
    return float(np.linalg.lstsq(columns, np.log10(values), rcond=None)[0][0])


def _line_of(x: Callable, y: Callable, part: int = 0) -> Callable:
    """Return slope or intercept of a line through other numbers."""
    return lambda lengths, values: float(_fit(x(lengths), y(values))[part])


def _exponent_of_ends(lengths, values):
    return float(np.log(values[-1] / values[0]) / np.log(lengths[-1] / lengths[0]))


def _exponent_of_last(lengths, values):
    return float(np.log(values[-1] / values[-2]) / np.log(lengths[-1] / lengths[-2]))


def _mean_of_steps(lengths, values):
    return float(np.mean(np.diff(np.log(values)) / np.diff(np.log(lengths))))


def _exponent_through_origin(lengths, values):
    x, y = np.log(lengths), np.log(values)
    return float((x * y).sum() / (x * x).sum())


def _exponent_swapped(lengths, values):
    return float(_fit(np.log(values), np.log(lengths))[0])


def _exponent_rounded(lengths, values):
    return float(round(growth_exponent(lengths, values)))


def _exponent_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("a square at two lengths", [512, 1024], [3.0, 12.0]),
        ("a line at three lengths", [512, 1024, 2048], [5.0, 10.0, 20.0]),
        ("a square with a floor", [256, 512, 1024, 2048], [2.5, 3.0, 5.0, 13.0]),
        ("lengths that do not double", [100, 300, 1000], [1.0, 8.0, 70.0]),
        ("chapter E's times", [512, 1024, 2048, 4096, 8192, 16384], [8, 8, 12, 98, 190, 1500]),
        ("it falls", [64, 128, 512], [9.0, 4.0, 2.0]),
    ]
    for number in range(4):
        count = int(generator.integers(3, 8))
        lengths = np.sort(generator.choice(np.arange(64, 8192), count, replace=False))
        exponent = generator.uniform(0.5, 2.5)
        values = 1e-9 * lengths**exponent * generator.uniform(0.7, 1.4, count)
        fixed.append((f"random {number}, {count} lengths", lengths, values))
    return [
        Case(name, (np.asarray(lengths, np.int64), np.asarray(values, float)))
        for name, lengths, values in fixed
    ]


GROWTH_EXPONENT = Exercise(
    id="13.3",
    chapter="13",
    title="The exponent of growth",
    function="growth_exponent",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "If values = c · nᵃ, then log(values) = log(c) + a · log(n): a line with slope a.",
        "All points count, not only the ends: fit a line by least squares.",
        "np.polyfit(np.log(lengths), np.log(values), 1) returns slope and intercept; return the "
        "slope as a float.",
    ),
    reference=growth_exponent,
    cases=_exponent_cases,
    tolerance=1e-7,
    mistakes=(
        Mistake(
            "ends only",
            _exponent_of_ends,
            "your exponent is that of the first and the last point alone",
            "fit a line through all points",
        ),
        Mistake(
            "last doubling",
            _exponent_of_last,
            "your exponent is that of the last two points alone",
            "fit a line through all points",
        ),
        Mistake(
            "no logarithms",
            _line_of(lambda x: x, lambda y: y),
            "your slope is that of the values themselves, in units per token",
            "take the logarithm of both axes first",
        ),
        Mistake(
            "one logarithm",
            _line_of(lambda x: x, np.log),
            "your lengths are not on a logarithmic axis: that fits an exponential",
            "take the logarithm of the lengths too",
        ),
        Mistake(
            "logarithm of the lengths only",
            _line_of(np.log, lambda y: y),
            "your values are not on a logarithmic axis",
            "take the logarithm of the values too",
            (_line_of(np.log2, lambda y: y), _line_of(np.log10, lambda y: y)),
        ),
        Mistake(
            "mean of the steps",
            _mean_of_steps,
            "your exponent is the mean of the steps' exponents: close lengths count as far ones",
            "fit a line through all points",
        ),
        Mistake(
            "two bases",
            _line_of(np.log, np.log2),
            "your axes have two bases of the logarithm: your slope is off by a fixed factor",
            "use the same logarithm on both axes",
            tuple(_line_of(*logs) for logs in permutations((np.log, np.log2, np.log10), 2)),
        ),
        Mistake(
            "intercept",
            _line_of(np.log, np.log, 1),
            "your number is the intercept of the line, the logarithm of the factor c",
            "return the slope",
        ),
        Mistake(
            "axes swapped",
            _exponent_swapped,
            "your line has the lengths over the values",
            "put the lengths on the x axis",
        ),
        Mistake(
            "through the origin",
            _exponent_through_origin,
            "your line is forced through n = 1 with value 1",
            "fit an intercept too",
        ),
        Mistake(
            "rounded",
            _exponent_rounded,
            "your exponent is rounded to a whole number",
            "return the slope as it comes out",
        ),
    ),
    alternatives=(_exponent_by_polyfit, _exponent_by_lstsq),
)
