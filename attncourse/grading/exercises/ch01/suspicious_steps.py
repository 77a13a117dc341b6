"""Exercise 01.6: hunt a forged table of timings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake

STEEP, DROP = 2.2, 0.3


def suspicious_steps(lengths: list, seconds: list) -> list:
    """Return the steps of a timing table that attention over n tokens cannot take."""
    found, largest = [], -math.inf
    for i in range(len(lengths) - 1):
        exponent = _exponent(lengths, seconds, i)
        if exponent > STEEP or exponent < largest - DROP:
            found.append(i)
        largest = max(largest, exponent)
    return found


def _exponent(lengths, seconds, i):
    return math.log(seconds[i + 1] / seconds[i]) / math.log(lengths[i + 1] / lengths[i])


def _by_lists(lengths, seconds):
    times = [math.log2(b) - math.log2(a) for a, b in itertools.pairwise(seconds)]
    sizes = [math.log2(b) - math.log2(a) for a, b in itertools.pairwise(lengths)]
    exponents = [t / s for t, s in zip(times, sizes, strict=True)]
    return [
        i
        for i, exponent in enumerate(exponents)
        if exponent > STEEP or any(earlier - DROP > exponent for earlier in exponents[:i])
    ]


def _by_arrays(lengths, seconds):
    import numpy as np

    exponents = np.diff(np.log(seconds)) / np.diff(np.log(lengths))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], exponents]))[:-1]
    return [int(i) for i in np.flatnonzero((exponents > STEEP) | (exponents < before - DROP))]


def _rule(suspicious: Callable) -> Callable:
    """Return a hunt with another rule: takes the exponents so far and the next one."""

    def hunt(lengths, seconds):
        exponents = [_exponent(lengths, seconds, i) for i in range(len(lengths) - 1)]
        return [i for i, e in enumerate(exponents) if suspicious(exponents[:i], e)]

    return hunt


def _trusting_flagged(lengths, seconds):
    found, largest = [], -math.inf
    for i in range(len(lengths) - 1):
        exponent = _exponent(lengths, seconds, i)
        if exponent > STEEP or exponent < largest - DROP:
            found.append(i)
        else:
            largest = max(largest, exponent)
    return found


def _doublings(lengths, seconds):
    largest, found = 0.0, []
    for i in range(len(lengths) - 1):
        ratio = seconds[i + 1] / seconds[i]
        if ratio > 2**STEEP or ratio < largest * 2**-DROP:
            found.append(i)
        largest = max(largest, ratio)
    return found


def _cases(generator: Generator) -> list[Case]:
    doubling = [512, 1024, 2048, 4096, 8192, 16384]

    def grown(exponents, lengths=doubling, first=0.01):
        seconds = [first]
        for exponent, a, b in zip(exponents, lengths, lengths[1:], strict=False):
            seconds.append(seconds[-1] * (b / a) ** exponent)
        return [float(f"{value:.6g}") for value in seconds]

    honest = grown([0.05, 0.6, 1.4, 1.9, 2.0])
    uneven = [100, 1000, 1500, 6000]
    cases = [
        Case("one length, no step", ([512], [0.008])),
        Case("quadratic", ([1, 2, 4], [1.0, 4.0, 16.0])),
        Case("too steep", ([1, 2], [1.0, 8.0])),
        Case("flat, then quadratic", (doubling, honest)),
        Case("flat after quadratic", ([1, 2, 4], [1.0, 4.0, 5.0])),
        Case("chapter E's table", (doubling, [0.008, 0.008, 0.012, 0.098, 0.19, 1.5])),
        Case("a slow slide back", (doubling, grown([2.0, 1.8, 1.6, 1.4, 1.2]))),
        Case("lengths that do not double", (uneven, grown([1.9, 2.0, 2.0], uneven))),
        Case("steep where lengths hardly grow", (uneven, grown([1.0, 2.6, 2.0], uneven))),
        Case("back to normal after a leap", (doubling, grown([2.0, 3.5, 2.0, 2.0, 2.0]))),
    ]
    for _ in range(4):
        exponents = [float(x) for x in generator.choice([0.0, 0.5, 1.0, 1.5, 2.0, 2.5], 5)]
        lengths = [int(x) for x in sorted(generator.choice(range(100, 9000), 6, replace=False))]
        cases.append(Case(f"random, exponents {exponents}", (lengths, grown(exponents, lengths))))
    return cases


SUSPICIOUS_STEPS = Exercise(
    id="01.6",
    chapter="01",
    title="Hunt a forged table",
    function="suspicious_steps",
    kind="number",
    minutes=15,
    difficulty=3,
    points=3,
    hints=(
        "What is the exponent of one step, from two lengths and two times? Logarithms turn powers "
        "into factors.",
        "exponent = log(t₂ / t₁) / log(n₂ / n₁). A step is steep above 2.2; it falls back if its "
        "exponent is more than 0.3 below the largest one before it.",
        "Keep the largest exponent of all earlier steps, suspicious ones included, and compare "
        "each new one with it before you update it.",
    ),
    reference=suspicious_steps,
    cases=_cases,
    mistakes=(
        Mistake(
            "steep only",
            _rule(lambda before, e: e > STEEP),
            "you look for steep steps only",
            "work that has become quadratic does not become linear again: look at falls too",
        ),
        Mistake(
            "falls only",
            _rule(lambda before, e: e < max(before, default=-math.inf) - DROP),
            "you look for falls only",
            "an exponent above 2.2 is suspicious as well",
        ),
        Mistake(
            "compared with the step before",
            _rule(lambda before, e: e > STEEP or (before and e < before[-1] - DROP)),
            "you compare with the step before only, so a slow slide escapes",
            "compare with the largest exponent of all earlier steps",
        ),
        Mistake(
            "doublings assumed",
            _doublings,
            "you look at ratios of times as if each length were twice the last",
            "divide by the logarithm of the ratio of the lengths",
        ),
        Mistake(
            "later row",
            lambda lengths, seconds: [i + 1 for i in suspicious_steps(lengths, seconds)],
            "your indices name the row after the step",
            "step i leads from row i to row i + 1: return i",
        ),
        Mistake(
            "suspicious ones left out",
            _trusting_flagged,
            "you compare with the largest exponent that was not suspicious",
            "the largest of all earlier steps counts, suspicious ones included",
        ),
        Mistake(
            "quadratic is steep",
            _rule(
                lambda before, e: e > 1.8 or e < max(before, default=-math.inf) - DROP,
            ),
            "honest quadratic steps are suspicious to you",
            "attention over n tokens grows with n²: an exponent of 2 is what to expect",
        ),
    ),
    alternatives=(_by_lists, _by_arrays),
)
