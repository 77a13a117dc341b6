"""Exercise 13.5: from which length on something is faster."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse.bench.records import crossover
from attncourse.grading.spec import Case, Exercise, Mistake


def crossover_length(lengths: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> int:
    """Return the length from which ours is faster at every longer one, or 0 if never."""
    pairs = zip(lengths.tolist(), ours.tolist(), theirs.tolist(), strict=True)
    both = [(n, a, b) for n, a, b in pairs if not (np.isnan(a) or np.isnan(b))]
    return crossover({n: a for n, a, _ in both}, {n: b for n, _, b in both}) or 0


def _length_by_mask(lengths, ours, theirs):
    there = ~(np.isnan(ours) | np.isnan(theirs))
    lengths, faster = lengths[there], (ours < theirs)[there]
    from_here = np.logical_and.accumulate(faster[::-1])[::-1]
    return int(lengths[from_here][0]) if from_here.any() else 0


def _length_by_walking(lengths, ours, theirs):
    found = 0
    for n, a, b in zip(lengths, ours, theirs, strict=True):
        if np.isnan(a) or np.isnan(b):
            continue
        if a < b:
            found = found or int(n)
        else:
            found = 0
    return found


def _faster(ours, theirs):
    return ours < theirs  # NaN is never faster


def _length_first(lengths, ours, theirs):
    faster = _faster(ours, theirs)
    return int(lengths[faster][0]) if faster.any() else 0


def _length_last(lengths, ours, theirs):
    faster = _faster(ours, theirs)
    return int(lengths[faster][-1]) if faster.any() else 0


def _length_missing_is_slower(lengths, ours, theirs):
    from_here = np.logical_and.accumulate(_faster(ours, theirs)[::-1])[::-1]
    return int(lengths[from_here][0]) if from_here.any() else 0


def _length_equal_counts(lengths, ours, theirs):
    return _length_by_walking(lengths, ours, np.nextafter(theirs, np.inf))


def _length_index(lengths, ours, theirs):
    found = crossover_length(lengths, ours, theirs)
    return int(np.flatnonzero(lengths == found)[0]) if found else 0


def _length_theirs(lengths, ours, theirs):
    return crossover_length(lengths, theirs, ours)


def _length_before(lengths, ours, theirs):
    found = crossover_length(lengths, ours, theirs)
    slower = lengths[lengths < found]
    return int(slower[-1]) if len(slower) else found


def _length_never_is_last(lengths, ours, theirs):
    return crossover_length(lengths, ours, theirs) or int(lengths[-1])


def _crossover_cases(generator: Generator) -> list[Case]:
    nan = np.nan
    fixed = [
        ("one length, faster", [64], [1.0], [2.0]),
        ("one length, slower", [64], [2.0], [1.0]),
        ("faster from 1024", [256, 512, 1024, 2048], [5, 5, 5, 6], [1, 4, 9, 30]),
        ("at every length", [256, 512, 1024], [1, 2, 3], [2, 3, 4]),
        ("never", [256, 512, 1024], [3, 4, 9], [2, 3, 8]),
        ("faster once, and then not", [256, 512, 1024, 2048], [5, 3, 9, 40], [1, 4, 8, 30]),
        ("equal is not faster", [256, 512, 1024], [3, 4, 5], [2, 4, 6]),
        ("equal at the end", [256, 512, 1024], [1, 2, 6], [2, 4, 6]),
        ("theirs ran out of memory", [256, 512, 1024, 2048], [4, 5, 6, 7], [1, 6, 20, nan]),
        ("ours is missing in between", [256, 512, 1024, 2048], [4, 5, nan, 7], [1, 6, 20, 80]),
        ("never measured together", [256, 512], [nan, 1], [2, nan]),
    ]
    for number in range(6):
        count = int(generator.integers(3, 9))
        lengths = 64 * 2 ** np.arange(count)
        theirs = lengths**2 * 1e-6
        ours = generator.uniform(0.05, 2.0) * np.median(theirs) * generator.uniform(0.6, 1.5, count)
        ours[generator.random(count) < 0.15] = nan
        fixed.append((f"random {number}, {count} lengths", lengths, ours, theirs))
    return [
        Case(name, (np.asarray(n, np.int64), np.asarray(a, float), np.asarray(b, float)))
        for name, n, a, b in fixed
    ]


CROSSOVER_LENGTH = Exercise(
    id="13.5",
    chapter="13",
    title="The crossover length",
    function="crossover_length",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "Begin at the longest length and walk towards the shortest.",
        "Stop at the first length where ours is not faster; a length where one of the two is NaN "
        "is passed over.",
        "found = 0; for n, a, b from the longest: skip NaN, break if a >= b, else found = n. "
        "Return int(found).",
    ),
    reference=crossover_length,
    cases=_crossover_cases,
    mistakes=(
        Mistake(
            "first faster",
            _length_first,
            "your length is the first at which ours is faster, whatever follows",
            "at every longer length it must be faster too",
        ),
        Mistake(
            "last faster",
            _length_last,
            "your length is the longest at which ours is faster",
            "go on to the shortest length from which ours stays faster",
        ),
        Mistake(
            "missing counts as slower",
            _length_missing_is_slower,
            "your answer lets a length that was not measured end the search",
            "pass over lengths at which one of the two is NaN",
        ),
        Mistake(
            "equal counts",
            _length_equal_counts,
            "your answer counts equal times as faster",
            "faster is <, not ≤",
        ),
        Mistake(
            "index",
            _length_index,
            "your number is the place in the list, not the length",
            "return lengths[i]",
        ),
        Mistake(
            "theirs",
            _length_theirs,
            "your length is that from which theirs is faster",
            "turn the comparison round",
        ),
        Mistake(
            "last slower",
            _length_before,
            "your length is the last at which ours is still slower",
            "return the next one",
        ),
        Mistake(
            "never is the last length",
            _length_never_is_last,
            "your answer names a length although ours never stays faster",
            "return 0: never here",
        ),
    ),
    alternatives=(_length_by_mask, _length_by_walking),
)
