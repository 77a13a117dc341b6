"""Tries an exercise on the answers that its own spec holds: right ones, and named mistakes.

The tests do so with many seeds and with kernels; this is the little that a build can wait for.
"""

from __future__ import annotations

from collections.abc import Iterator

from attncourse.grading.judging import judge
from attncourse.grading.messages import Verdict
from attncourse.grading.spec import Exercise

SEED = 0


def misjudged(exercise: Exercise) -> Iterator[str]:
    """Tell which alternatives fail, and which mistakes pass or are taken for another.

    Kernels are left out, which take seconds in the interpreter.
    """
    if exercise.needs != "numpy":
        return
    for number, function in enumerate(exercise.alternatives, 1):
        verdict = judge(exercise, function, seed=SEED)
        if verdict.status == "grader_error":  # in whatever is judged
            yield f"it cannot be judged: {verdict.reason}"
            return
        if verdict.status != "passed":
            name = getattr(function, "__name__", "nameless")
            yield f"alternative {number}, {name}, is not right: {_why(verdict)}"
    for mistake in exercise.mistakes:
        verdict = judge(exercise, mistake.function, seed=SEED)
        which = f"the mistake of which you say `{mistake.says}`"
        if verdict.status != "failed":
            yield f"{which} is {verdict.status.replace('_', ' ')}"
        elif mistake.says not in str(verdict) or mistake.next not in str(verdict):
            yield f"{which} is told another cause: {verdict.cause or _why(verdict)}"


def _why(verdict: Verdict) -> str:
    return f"{verdict.reason} ({verdict.case})" if verdict.case else verdict.reason
