"""Exercise 13.2: a benchmark that times the queue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def work_seconds(
    started: np.ndarray, returned: np.ndarray, finished: np.ndarray, warmup: int
) -> float:
    """Return the median time that the device works on a call, warm-up aside."""
    begun = np.maximum(started, np.concatenate(([-np.inf], finished[:-1])))
    return float(np.median((finished - begun)[warmup:]))


def _work_by_loop(started, returned, finished, warmup):
    free, times = float("-inf"), []
    for start, finish in zip(started, finished, strict=True):
        times.append(finish - max(start, free))
        free = finish
    kept = sorted(times[warmup:])
    half = len(kept) // 2
    middle = kept[half] if len(kept) % 2 else (kept[half - 1] + kept[half]) / 2
    return float(middle)


def _work_by_shifting(started, returned, finished, warmup):
    work = finished - started
    work[1:] = np.minimum(work[1:], np.diff(finished))
    return float(np.median(work[warmup:]))


def _median_of(times: Callable, summary: Callable = np.median) -> Callable:
    """Return an answer that summarises other times of the calls than those of the work."""

    def seconds(started, returned, finished, warmup):
        return float(summary(times(started, returned, finished)[warmup:]))

    return seconds


def _work(started, returned, finished):
    return finished - np.maximum(started, np.concatenate(([-np.inf], finished[:-1])))


def _work_since_last(started, returned, finished):
    return np.diff(finished, prepend=started[0])


def _work_cut_first(started, returned, finished, warmup):
    return work_seconds(started[warmup:], returned[warmup:], finished[warmup:], 0)


def _work_cases(generator: Generator) -> list[Case]:
    def calls(name, gaps, queueing, work, warmup):
        """Make the clock of calls, each started `gaps` seconds after the one before returned."""
        started, returned, finished, now, free = [], [], [], 0.0, 0.0
        for gap, wait, busy in zip(gaps, queueing, work, strict=True):
            now += gap
            started.append(now)
            now += wait
            returned.append(now)
            free = max(free, started[-1]) + busy
            finished.append(free)
        return Case(name, (*map(np.array, (started, returned, finished)), warmup))

    eighth = [0.125] * 6
    fixed = [
        calls("one call", [1.0], [0.125], [2.0], 0),
        calls("the device waits between calls", [8.0] * 6, eighth, [1, 2, 4, 3, 2, 5], 0),
        calls("the calls wait for the device", [0.5] * 6, eighth, [4, 2, 3, 6, 2, 1], 0),
        calls("a slow first call", [0.5] * 6, eighth, [90, 2, 3, 6, 2, 1], 1),
        calls("two to warm up, one disturbed", [4.0] * 6, eighth, [9, 9, 3, 40, 2, 3], 2),
    ]
    for number in range(4):
        count, warmup = int(generator.integers(5, 30)), int(generator.integers(1, 4))
        gaps, work = generator.exponential(1.0, count), generator.exponential(1.0, count) + 0.5
        work[:warmup] += 20
        queueing = generator.uniform(0.01, 0.05, count)
        fixed.append(calls(f"random {number}, {count} calls", gaps, queueing, work, warmup))
    return fixed


WORK_SECONDS = Exercise(
    id="13.2",
    chapter="13",
    title="Repair a benchmark of a queue",
    function="work_seconds",
    kind="number",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "Three things are wrong: what is subtracted, which calls count, and the summary.",
        "The device does one call after the other. When does it begin with a call: when that was "
        "started, or when the call before it was finished?",
        "begun = np.maximum(started, [-inf, *finished[:-1]]); take the median of "
        "(finished - begun)[warmup:].",
    ),
    reference=work_seconds,
    cases=_work_cases,
    mistakes=(
        Mistake(
            "as given",
            lambda started, returned, finished, warmup: float(np.mean(returned - started)),
            "this is what the given code returns: the mean time to queue a call",
            "subtract from the time when the work was finished",
        ),
        Mistake(
            "queue",
            _median_of(lambda started, returned, finished: returned - started),
            "your time ends when the call returns: the work is only queued then",
            "take the time when the work was finished",
        ),
        Mistake(
            "waiting counted",
            _median_of(lambda started, returned, finished: finished - started),
            "your time includes waiting until the device had finished the call before",
            "begin when the device is free: not before the previous call is finished",
        ),
        Mistake(
            "from finish to finish",
            _median_of(_work_since_last),
            "your time includes the pauses in which the device had nothing to do",
            "begin not before the call is started",
        ),
        Mistake(
            "warm-up counted",
            lambda *args: work_seconds(*args[:3], 0),
            "your summary includes the calls that warm up",
            "leave out the first `warmup` calls",
        ),
        Mistake(
            "mean",
            _median_of(_work, np.mean),
            "your summary is the mean: one disturbed call moves it",
            "take the median",
        ),
        Mistake(
            "fastest",
            _median_of(_work, np.min),
            "your summary is the fastest call",
            "take the median",
        ),
        Mistake(
            "cut too early",
            _work_cut_first,
            "your first call does not know that the device was still busy with the warm-up",
            "compute the time of every call, then leave out the first `warmup` times",
        ),
    ),
    alternatives=(_work_by_loop, _work_by_shifting),
)
