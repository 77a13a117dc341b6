"""Runs a submission in a kernel and turns what its check cells show into results.

A check cell shows one verdict: the text for the learner, and the verdict as data in the output's
metadata. The notebook is run from top to bottom. A kernel that hangs or dies costs the exercise at
which it happened; a new one takes up what had run, and the rest is graded.
"""

import re
from dataclasses import replace

from attncourse import progress
from attncourse.grading import exercises
from attncourse.grading.kernel import Kernel, Outcome
from attncourse.grading.report import PASSED, STATUS_WORDS, Report, Result
from attncourse.grading.submission import (
    CannotGradeError,
    Step,
    Submission,
    course_metadata,
)

STUB = "raise NotImplementedError"  # what stands in an answer cell as released
LEARNER_SECONDS = 20.0  # for a learner's cell: a check has limits of its own, a bare loop has none
RELEASED_SECONDS = 60.0  # for a set-up or check cell: all cases together, a first `import torch`


def grade(submission: Submission) -> Report:
    """Grade all exercises of a submission.

    Raises:
        CannotGradeError: no kernel starts.
    """
    with Session(submission) as session:
        results = [session.grade(exercise) for exercise in submission.exercises]
        return Report(str(submission.path), results, submission.notes + session.notes)


class Session:
    """A submission and the kernel it runs in, which is started when it is first needed.

    Args:
        submission: what to run.
        seconds: a shorter limit for each cell, if given.

    Attributes:
        notes: what the learner should know beside the results.
    """

    def __init__(self, submission: Submission, seconds: float = float("inf")):
        self.submission = submission
        self.notes = progress.load().notes
        self._seconds = seconds
        self._kernel: Kernel | None = None
        self._next = 0  # the first step that has not run
        self._finished: list[Step] = []  # the learner's cells that a new kernel runs again
        self._trouble: dict[str, Outcome] = {}  # exercise -> the last of its cells that went wrong

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Stop the kernel."""
        if self._kernel:
            self._kernel.stop()

    def grade(self, exercise: str) -> Result:
        """Run what stands above the check of an exercise and has not run yet, then the check.

        Exercises may be asked for in any order: checks that are passed over are not run.
        """
        steps = self.submission.steps
        at = next(i for i, s in enumerate(steps) if (s.role, s.exercise) == ("check", exercise))
        for step in steps[self._next : at]:
            if step.role == "learner":
                self._run_learner(step)
        self._next = max(self._next, at + 1)
        # Some cell may have put another meaning on `np` or `check`: the set-up gives it back.
        for step in steps:
            if step.role == "setup" and (outcome := self._run(step)).unfinished:
                reason = outcome.what_went_wrong("the set-up cell")
                return _result(exercise, "grader_error", reason=reason)
        result = self._judge(steps[at], self._run(steps[at]))
        return self._with_progress(result)

    def _run_learner(self, step: Step) -> None:
        outcome = self._run(step)
        if outcome.unfinished:
            self._trouble[step.exercise] = outcome
        if not outcome.ended:
            self._finished.append(step)

    def _run(self, step: Step) -> Outcome:
        if self._kernel is None or not self._kernel.is_alive():
            self._start()
        return self._kernel.run(step.source, self._limit(step))

    def _start(self) -> None:
        """Start a kernel, or a new one that knows what the old one knew."""
        if self._kernel:
            self._kernel.stop()
        try:
            self._kernel = Kernel(self.submission.path.absolute().parent, interpret=True)
        except Exception as error:
            line = " ".join(str(error).split())
            raise CannotGradeError(
                f"the Python kernel does not start ({line}): see `attncourse doctor`"
            ) from error
        setup = [step for step in self.submission.steps if step.role == "setup"]
        for step in (*setup, *self._finished):
            self._kernel.run(step.source, self._limit(step))

    def _limit(self, step: Step) -> float:
        return min(LEARNER_SECONDS if step.role == "learner" else RELEASED_SECONDS, self._seconds)

    def _judge(self, check: Step, outcome: Outcome) -> Result:
        """Turn what the check cell showed into a result; it counts if it is one verdict, ours."""
        exercise = check.exercise
        shown = [
            (text, verdict)
            for text, metadata in outcome.outputs
            if (verdict := course_metadata({"metadata": metadata}))
        ]
        if outcome.ended:
            reason = outcome.what_went_wrong("your function")
            return _result(exercise, "failed", reason=reason)
        if outcome.error or not shown:
            reason = outcome.what_went_wrong("the check") if outcome.error else "no verdict shown"
            return _result(exercise, "failed" if shown else "grader_error", reason=reason)
        text, verdict = shown[0]
        if len(shown) > 1 or verdict.get("exercise") != exercise:
            reason = "the check showed a verdict that is not its own"
            return _result(exercise, "failed", reason=reason)
        status = verdict.get("status")
        if status not in STATUS_WORDS:
            return _result(exercise, "grader_error", reason=f"unknown status {status!r}")
        if status in PASSED and check.expected not in (None, text):
            reason = "the check did not show the line that the course's solution shows"
            return _result(exercise, "failed", reason=reason)
        if status == "not_attempted":
            return self._not_attempted(exercise, verdict)
        if status in PASSED and verdict.get("cause"):
            self.notes.append(f"{exercise}: {verdict['cause']}")
        parts = {name: verdict.get(name) for name in ("reason", "cause", "hint", "seed")}
        moved = verdict.get("moved")  # what a cell shows may be anything
        if isinstance(moved, float) and 0 < moved < float("inf"):
            parts["moved"] = moved
        return _result(exercise, status, text=text, **parts)

    def _not_attempted(self, exercise: str, verdict: dict) -> Result:
        """There was no answer: the stub was left, or something stood in the way."""
        function = exercises.exercise(exercise).function
        below = self._below(exercise, function)
        if not verdict.get("reason"):
            return _result(exercise, "not_attempted", reason=below)
        if trouble := self._trouble.get(exercise):
            gone = trouble.ended in ("died", "memory")
            reason = trouble.what_went_wrong("the cell above the check")
            return _result(exercise, "failed" if gone else "not_attempted", reason=reason)
        reason = self.submission.obstacles.get(exercise)
        reason = below or reason or f"no cell above the check defines `{function}`"
        return _result(exercise, "not_attempted", reason=reason)

    def _below(self, exercise: str, function: str) -> str:
        """Say that a cell below the check has the answer, empty if none has."""
        steps = self.submission.steps
        at = next(i for i, s in enumerate(steps) if (s.role, s.exercise) == ("check", exercise))
        defines = re.compile(rf"^(?:def {function}\b|{function}\s*=[^=])", re.MULTILINE)
        below = [step.source for step in steps[at:] if step.role == "learner"]
        if any(defines.search(source) and STUB not in source for source in below):
            return f"`{function}` is defined in a cell below this check: move it above"
        return ""

    def _with_progress(self, result: Result) -> Result:
        if self.submission.kind == "solutions" or result.status not in PASSED:
            return result
        if progress.load().helped(result.exercise):
            result = replace(result, status="passed_with_help")
        progress.record_pass(result.exercise)
        if result.moved is not None:
            progress.record_best(result.exercise, moved=result.moved)
        return result


def _result(exercise: str, status: str, **parts) -> Result:
    """A result with title and points from the exercise's spec; the grader gives all or nothing."""
    try:
        spec = exercises.exercise(exercise)
        title, points = spec.title, spec.points
    except LookupError as error:
        title, points, status = "?", 0, "grader_error"
        parts = {"reason": str(error)}
    score = points if status in PASSED else 0
    return Result(exercise, title, status, score, points, **parts)
