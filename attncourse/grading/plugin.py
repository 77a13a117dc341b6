"""pytest plugin: `pytest --nbval exercises/04_window.ipynb` grades, one item an exercise.

Notebooks of exercises and solutions are collected here instead of by nbval; chapters stay nbval's,
on a kernel that is watched; other notebooks, and runs without `--nbval`, are left alone.

Results travel in the reports' `user_properties`, so that the summary is whole under pytest-xdist.
"""

import json
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest

RESULT = "attncourse_result"
NOTES = "attncourse_notes"


class NotPassedError(Exception):
    """An exercise failed; the message is its verdict."""


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector):
    """Take the course's own notebooks over from nbval."""
    collectors = yield
    option = parent.config.option
    nbval_is_on = getattr(option, "nbval", False) or getattr(option, "nbval_lax", False)
    if file_path.suffix != ".ipynb" or not nbval_is_on:
        return collectors
    from attncourse.grading.submission import GRADED, is_backup, kind_of

    if is_backup(file_path):
        return []
    kind = kind_of(file_path)
    if kind in GRADED:
        return [ExerciseFile.from_parent(parent, path=file_path)]
    if kind == "chapter":
        from attncourse.grading.chapters import ChapterFile

        return [ChapterFile.from_parent(parent, path=file_path)]
    return collectors


class ExerciseFile(pytest.File):
    """A submitted notebook: its exercises are the items, one kernel serves them all."""

    def collect(self):
        """Yield an item for each exercise; a file that cannot be graded is a collection error."""
        from attncourse.grading.submission import CannotGradeError, read

        try:
            self.submission = read(self.path)
        except CannotGradeError as error:
            raise self.CollectError(str(error)) from None
        for exercise in self.submission.exercises:
            # pytest takes a dot for the border between a class and its method
            name = f"exercise {exercise.replace('.', '-')}"
            yield ExerciseItem.from_parent(self, name=name, exercise=exercise)

    def setup(self):
        """Open the session; its kernel starts with the first exercise."""
        from attncourse.grading.session import Session

        self.session = Session(self.submission, seconds=self.config.option.nbval_cell_timeout)

    def teardown(self):
        """Stop the kernel."""
        self.session.close()


class ExerciseItem(pytest.Item):
    """One exercise of a submitted notebook."""

    def __init__(self, *, exercise: str, **kwargs):
        super().__init__(**kwargs)
        self.exercise = exercise

    def runtest(self):
        """Grade: passes, fails with the verdict, or is skipped where there is nothing to judge."""
        from attncourse.grading.report import FAILED, PASSED, STATUS_WORDS

        file = self.parent
        result = file.session.grade(self.exercise)
        exercises = file.submission.exercises
        place = [self.nodeid.partition("::")[0], exercises.index(self.exercise), len(exercises)]
        self.user_properties += [
            (RESULT, json.dumps([*place, vars(result)])),
            (NOTES, json.dumps(file.submission.notes + file.session.notes)),
        ]
        if result.status in FAILED:
            raise NotPassedError(result.text)
        if result.status not in PASSED:
            words = STATUS_WORDS[result.status]
            pytest.skip(f"{words}: {result.reason}" if result.reason else words)

    def repr_failure(self, excinfo):
        """The verdict alone; a traceback would show the grader."""
        from attncourse.grading.submission import CannotGradeError

        if excinfo.errisinstance((NotPassedError, CannotGradeError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        """Where the item stands, for pytest's listing."""
        return self.path, None, self.name


def pytest_terminal_summary(terminalreporter):
    """Print a line for each exercise, and the score of each notebook."""
    results: dict[str, dict[int, dict]] = defaultdict(dict)
    notes: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for report in chain.from_iterable(terminalreporter.stats.values()):
        found = dict(getattr(report, "user_properties", ()))
        if RESULT in found and report.when == "call":
            notebook, place, counts[notebook], result = json.loads(found[RESULT])
            results[notebook][place] = result
            notes[notebook] = json.loads(found[NOTES])
    if not results:
        return
    from attncourse.grading.report import Report, Result

    for notebook, found in sorted(results.items()):
        parts = [Result(**found[place]) for place in sorted(found)]
        terminalreporter.section(f"attncourse: {notebook}")
        report = Report(notebook, parts, notes[notebook], counts[notebook])
        terminalreporter.write_line(report.text())
