"""Exercise 13.1: median and quartiles of repeated calls, warm-up aside."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def timing_summary(seconds: np.ndarray, warmup: int) -> dict:
    """Return median, lower and upper quartile of the calls after the first `warmup`."""
    low, median, high = np.quantile(seconds[warmup:], [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def _summary_by_statistics(seconds, warmup):
    kept = list(map(float, seconds[warmup:]))
    if len(kept) == 1:
        return dict.fromkeys(("median", "low", "high"), kept[0])
    low, median, high = statistics.quantiles(kept, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def _summary_by_hand(seconds, warmup):
    ordered = sorted(float(value) for value in seconds[warmup:])

    def at(share):
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return {"median": at(0.5), "low": at(0.25), "high": at(0.75)}


def _with(function: Callable) -> Callable:
    """Return a summary made from the times that are kept, (low, median, high) of them."""

    def summary(seconds, warmup):
        low, median, high = function(np.asarray(seconds)[warmup:])
        return {"median": float(median), "low": float(low), "high": float(high)}

    return summary


def _quantiles(times, **method):
    return np.quantile(times, [0.25, 0.5, 0.75], **method)


def _summary_mean(times):
    low, _, high = _quantiles(times)
    return low, times.mean(), high


def _summary_fastest(times):
    low, _, high = _quantiles(times)
    return low, times.min(), high


def _summary_upper_middle(times):
    low, _, high = _quantiles(times)
    return low, np.sort(times)[len(times) // 2], high


def _quartiles_by_index(times):
    ordered = np.sort(times)
    return ordered[len(ordered) // 4], np.median(ordered), ordered[3 * len(ordered) // 4]


def _summary_deviation(times):
    middle = np.median(times)
    return middle - times.std(), middle, middle + times.std()


def _summary_sorted_first(seconds, warmup):
    return timing_summary(np.sort(seconds), warmup)


def _summary_with_warmup(seconds, warmup):
    return timing_summary(seconds, 0)


def _summary_last_dropped(seconds, warmup):
    return timing_summary(seconds[: len(seconds) - warmup], 0)


def _summary_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("one call", ([0.5], 0)),
        ("one call after one to warm up", ([9.0, 0.5], 1)),
        ("two calls", ([0.25, 0.5], 0)),
        ("three calls, unsorted", ([0.75, 0.25, 0.5], 0)),
        ("a slow first call", ([8.0, 1.0, 2.0, 3.0, 4.0], 1)),
        ("a fast first call", ([0.5, 4.0, 3.0, 2.0, 1.0, 9.0], 1)),
        ("one disturbed call of six", ([1.0, 1.25, 1.5, 40.0, 1.75, 2.0], 0)),
        ("two to warm up", ([7.0, 5.0, 2.0, 1.0, 4.0, 3.0, 8.0], 2)),
    ]
    random = []
    for number in range(5):
        length, warmup = int(generator.integers(4, 40)), int(generator.integers(1, 4))
        times = generator.exponential(1e-3, length + warmup) + 1e-3
        random.append((f"random {number}, {length} calls, {warmup} to warm up", (times, warmup)))
    return [Case(name, (np.asarray(times), warmup)) for name, (times, warmup) in fixed + random]


TIMING_SUMMARY = Exercise(
    id="13.1",
    chapter="13",
    title="Summarise repeated timings",
    function="timing_summary",
    kind="number",
    minutes=10,
    difficulty=1,
    points=1,
    hints=(
        "The first calls in the order of the clock go; only then is anything sorted.",
        "A quartile lies a quarter of the way from the fastest to the slowest, counted in calls; "
        "between two calls it is interpolated.",
        "np.quantile(seconds[warmup:], [0.25, 0.5, 0.75]) gives low, median, high; turn them into "
        "floats.",
    ),
    reference=timing_summary,
    cases=_summary_cases,
    mistakes=(
        Mistake(
            "mean",
            _with(_summary_mean),
            "your median is the mean: one disturbed call moves it",
            "take the middle of the sorted times",
        ),
        Mistake(
            "fastest",
            _with(_summary_fastest),
            "your median is the fastest call",
            "take the middle of the sorted times",
        ),
        Mistake(
            "warm-up counted",
            _summary_with_warmup,
            "your summary includes the calls that warm up",
            "leave out the first `warmup` times",
        ),
        Mistake(
            "sorted before the warm-up goes",
            _summary_sorted_first,
            "your summary drops the fastest calls: the times were sorted before the warm-up went",
            "drop the first calls first, then sort",
        ),
        Mistake(
            "last calls dropped",
            _summary_last_dropped,
            "your summary drops the last calls instead of the first",
            "keep seconds[warmup:]",
        ),
        Mistake(
            "upper middle",
            _with(_summary_upper_middle),
            "your median of an even number of calls is the upper of the two in the middle",
            "take the mean of the two in the middle",
        ),
        Mistake(
            "fastest and slowest",
            _with(lambda times: (times.min(), np.median(times), times.max())),
            "your quartiles are the fastest and the slowest call",
            "take the times a quarter and three quarters of the way",
        ),
        Mistake(
            "tenths",
            _with(lambda times: np.quantile(times, [0.1, 0.5, 0.9])),
            "your quartiles lie a tenth from the ends, not a quarter",
            "take the times a quarter and three quarters of the way: 0.25 and 0.75",
        ),
        Mistake(
            "low and high swapped",
            _with(lambda times: _quantiles(times)[::-1]),
            "your low is the upper quartile, your high the lower one",
            "low is the quartile of the fast calls: 0.25",
        ),
        Mistake(
            "standard deviation",
            _with(_summary_deviation),
            "your spread is the standard deviation around the median",
            "state the quartiles: half of the calls lie between them",
        ),
        Mistake(
            "quartiles without interpolation",
            _with(lambda times: _quantiles(times, method="nearest")),
            "your quartiles are those of single calls, not interpolated between two",
            "interpolate between the two neighbouring calls, as np.quantile does",
            (
                _with(_quartiles_by_index),
                *(
                    _with(lambda times, method=method: _quantiles(times, method=method))
                    for method in ("lower", "higher", "inverted_cdf")
                ),
            ),
        ),
    ),
    alternatives=(_summary_by_statistics, _summary_by_hand),
)
