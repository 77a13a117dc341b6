"""What the learner reads: one line for a pass, five parts for a failure, always plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attncourse.grading.spec import Exercise

if TYPE_CHECKING:
    from attncourse.grading.diagnose import Guess

MARKS = {
    "passed": "✓",
    "passed_with_help": "✓",
    "failed": "✗",
    "not_attempted": "○",
    "not_verified_here": "–",
    "grader_error": "!",
}
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*(\x07|\x1b\\)|.)")
_CONTROLS = re.compile(  # and lone surrogates, which no output can hold
    r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True)
class Finding:
    """What is wrong with one call.

    Attributes:
        reason: The verdict in a few words: "wrong values".
        where: Row and column, line, or the pictures of a mask; may have several lines.
        cause: The likely cause.
        next: The next step.
        guesses: What the numbers of this case alone suggest; other cases must bear it out.
    """

    reason: str
    where: str = ""
    cause: str = ""
    next: str = ""
    guesses: tuple[Guess, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The judgement of one exercise.

    Attributes:
        exercise: Its id.
        title: Its title.
        status: "passed", "failed", "not_attempted", "not_verified_here" or "grader_error".
        score: Points reached: all or none.
        points: Points there are.
        reason: One line; empty for a pass.
        case: The smallest failing case.
        where: Where in its result, or on which line.
        cause: The likely cause; on a pass, a remark about where the function comes from.
        hint: The next step.
        seed: Repeats the random cases: `ATTNCOURSE_SEED`.
        printed: What the answer printed and warned about in the failing case.
        moved: The bytes that a right kernel moved over the least possible.
        roofline: The share of the GPU's roofline that it reached.
    """

    exercise: str
    title: str
    status: str
    score: int
    points: int
    reason: str = ""
    case: str = ""
    where: str = ""
    cause: str = ""
    hint: str = ""
    seed: int | None = None
    printed: str = ""
    moved: float | None = None
    roofline: float | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The verdict as it travels in the metadata of the output and into the JSON report."""
        names = ("exercise", "status", "score", "points", "reason", "cause", "hint", "seed")
        good = {"moved": self.moved} if self.moved is not None else {}
        return {name: getattr(self, name) for name in names} | good

    def __str__(self) -> str:
        head = f"{MARKS[self.status]} {self.exercise} {self.title}: "
        if self.status in ("passed", "passed_with_help"):
            return f"{head}passed, {self.score}/{self.points} points"
        if self.status == "not_attempted":
            return f"{head}not attempted" + (f" ({self.reason})" if self.reason else "")
        if self.status == "not_verified_here":
            return f"{head}not verified here ({self.reason})"
        if self.status == "grader_error":
            return f"{head}the grader failed, not your answer ({self.reason})"
        seed = f"{self.seed}; ATTNCOURSE_SEED={self.seed} repeats these cases"
        parts = {
            "Case": self.case,
            "Where": self.where,
            "Cause": self.cause,
            "Next": self.hint,
            "Output": self.printed,
            "Seed": "" if self.seed is None else seed,
        }
        lines = [f"{head}failed, {self.score}/{self.points} points: {self.reason}"]
        lines += [_part(name, text) for name, text in parts.items() if text]
        return "\n".join(lines)


def _part(name: str, text: str) -> str:
    return f"  {name + ':':<8}" + text.replace("\n", "\n" + 10 * " ")


def verdict(exercise: Exercise, status: str, **parts: Any) -> Verdict:
    """Make the verdict on an exercise; it scores all points if the status is "passed"."""
    score = exercise.points if status == "passed" else 0
    return Verdict(exercise.id, exercise.title, status, score, exercise.points, **parts)


def plain(value: Any, limit: int = 300) -> str:
    """Return text from the learner's side without escapes and control characters, cut to length.

    Whatever `str` does on a hostile object, this returns.
    """
    try:
        text = str(value)
        text = text if type(text) is str else str.__str__(text)
    except BaseException:
        return "(cannot be shown)"
    text = _CONTROLS.sub("", _ESCAPES.sub("", text[: 4 * limit])).strip()
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def error_words(error: BaseException) -> str:
    """Write an exception as its type and message."""
    return plain(f"{type(error).__name__}: {plain(error)}")


def name_of_type(value: Any) -> str:
    """Return the type of a result in words: "a list", "a torch tensor", "None"."""
    if value is None:
        return "None"
    kind = type(value)
    module, name = (
        plain(getattr(kind, "__module__", "")),
        plain(getattr(kind, "__name__", "object")),
    )
    if module.startswith("torch"):
        return f"a torch {name}" if name != "Tensor" else "a torch tensor"
    if module == "numpy" and name == "ndarray":
        return "a NumPy array"
    shown = name if module == "builtins" else f"{module}.{name}"
    return f"{'an' if shown[0] in 'aeio' else 'a'} {shown}"


def number(value: Any) -> str:
    """Write a number short enough to read, exact if it is an integer of sensible length."""
    if type(value) is int and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, float) and type(value) is not bool:
        return f"{value:.6g}"
    return plain(repr(value), 80)


def signature(case: Any) -> str:
    """Write the arguments of a case: shapes and dtypes for arrays, values for the rest."""
    shown = [_argument(value) for value in case.args]
    shown += [f"{name}={_argument(value)}" for name, value in case.kwargs.items()]
    return f"({', '.join(shown)})"


def _argument(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return number(value)
