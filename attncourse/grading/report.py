"""What a grading run says: a result an exercise, a report a notebook; text, JSON and JUnit."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from xml.etree import ElementTree

STATUS_WORDS = {
    "passed": "passed",
    "passed_with_help": "passed with help",
    "failed": "failed",
    "not_attempted": "not attempted",
    "not_verified_here": "not verified here",
    "grader_error": "grader error",
}
PASSED = ("passed", "passed_with_help")
FAILED = ("failed", "grader_error")

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_NOT_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Text without terminal colours and without the characters that XML forbids."""
    return _NOT_XML.sub("", _ANSI.sub("", text))


@dataclass
class Result:
    """The verdict on one exercise.

    Attributes:
        exercise: its id, "04.3".
        title: its title.
        status: one of `STATUS_WORDS`.
        score: points earned, at most `points`.
        points: points to be had.
        reason: why it did not pass, one line.
        cause: the likely cause.
        hint: the next step.
        seed: what fixes the random inputs, if there were any.
        text: the whole verdict as the check printed it.
        moved: the bytes that a right kernel moved over the least possible.
    """

    exercise: str
    title: str
    status: str
    score: float
    points: float
    reason: str = ""
    cause: str = ""
    hint: str = ""
    seed: int | None = None
    text: str = ""
    moved: float | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "cause", "hint", "text"):
            setattr(self, name, clean(str(getattr(self, name) or "")))
        self.reason = " ".join(self.reason.split())
        if not self.text:
            lines = [f"{self.exercise} {self.title}: {STATUS_WORDS[self.status]}"]
            self.text = "\n".join([*lines, *filter(None, (self.reason, self.cause, self.hint))])

    def line(self, width: int = 0) -> str:
        """One line: id, title padded to `width`, status, score, and why it did not pass."""
        title = self.title.ljust(width)
        score = f"{self.score:g}/{self.points:g}"
        line = f"{self.exercise:<6} {title}  {STATUS_WORDS[self.status]:<17} {score:>5}"
        # "not attempted" says it all, unless something stood in the way.
        return f"{line}  {self.reason}" if self.reason and self.status not in PASSED else line

    def as_dict(self) -> dict:
        """The exercise's part of the JSON report."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("title", "text") and (name, value) != ("moved", None)
        }


@dataclass
class Report:
    """The verdicts on one notebook, in its order, and remarks that concern all of it.

    Attributes:
        notebook: its path.
        results: the verdicts on the exercises that were run.
        notes: the remarks.
        exercises: how many exercises the notebook has; None if all were run.
    """

    notebook: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exercises: int | None = None

    def __post_init__(self) -> None:
        self.notes = [clean(note) for note in self.notes]

    @property
    def score(self) -> float:
        """Points earned."""
        return sum(result.score for result in self.results)

    @property
    def points(self) -> float:
        """Points to be had, those of exercises that cannot be verified here included."""
        return sum(result.points for result in self.results)

    @property
    def failed(self) -> bool:
        """Whether an exercise failed, or the grader failed on it."""
        return any(result.status in FAILED for result in self.results)

    def text(self) -> str:
        """The report for a terminal: a line an exercise, the notes, the score."""
        width = max((len(result.title) for result in self.results), default=0)
        counts = Counter(result.status for result in self.results)
        told = ", ".join(
            f"{counts[status]} {words}" for status, words in STATUS_WORDS.items() if counts[status]
        )
        score = f"{self.score:g}/{self.points:g} ({told})"
        whole = self.exercises in (None, len(self.results))
        return "\n".join(
            [
                *(result.line(width) for result in self.results),
                *(f"note: {note}" for note in self.notes),
                f"score {score}"
                if whole
                else f"{len(self.results)} of {self.exercises} exercises were run: {score}",
            ]
        )

    def as_dict(self) -> dict:
        """The report as data for JSON."""
        return {
            "score": self.score,
            "points": self.points,
            "exercises": [result.as_dict() for result in self.results],
            "notes": list(self.notes),
        }

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    def junit(self) -> str:
        """The report as JUnit XML: a test case an exercise; what was not judged is skipped."""
        statuses = [result.status for result in self.results]
        suite = ElementTree.Element(
            "testsuite",
            name=clean(self.notebook),
            tests=str(len(statuses)),
            failures=str(statuses.count("failed")),
            errors=str(statuses.count("grader_error")),
            skipped=str(sum(status not in (*PASSED, *FAILED) for status in statuses)),
        )
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in (("score", self.score), ("points", self.points)):
            ElementTree.SubElement(properties, "property", name=name, value=f"{value:g}")
        for result in self.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=clean(self.notebook),
                name=f"{result.exercise} {clean(result.title)}",
            )
            message = result.reason or STATUS_WORDS[result.status]
            if result.status in FAILED:
                tag = "failure" if result.status == "failed" else "error"
                ElementTree.SubElement(case, tag, message=message).text = result.text
            elif result.status not in PASSED:
                ElementTree.SubElement(case, "skipped", message=message)
        if self.notes:
            ElementTree.SubElement(suite, "system-out").text = "\n".join(self.notes)
        root = ElementTree.Element("testsuites")
        root.append(suite)
        ElementTree.indent(root)
        body = ElementTree.tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'
