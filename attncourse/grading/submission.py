"""Reads a submitted notebook and puts the released cells back: what is run when it is graded.

The learner's part of a notebook is the answers. Set-up and check cells are the course's: they are
taken from the released copy, wherever the submitted file has changed, copied, moved, marked or lost
them. Nothing here runs code, and nothing writes.
"""

import difflib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attncourse import house

RELEASED = Path(__file__).parent / "released"
GRADED = ("exercises", "solutions")
LOCKED = ("setup", "check")

_CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SKIP_COMMENT = re.compile(r"^\s*#+\s*NBVAL_\w+\s*$", re.MULTILINE)


class CannotGradeError(Exception):
    """The file cannot be graded; the message is one line for the learner."""


@dataclass(frozen=True)
class Step:
    """One cell to run. A check cell belongs to its exercise, a learner's cell to the next check."""

    role: str  # "setup", "check", or "learner"
    source: str
    exercise: str = ""
    expected: str | None = None  # what a check cell shows when the exercise is passed


@dataclass
class Submission:
    """A notebook ready to be graded.

    Attributes:
        path: the file, which is never written.
        kind: "exercises" or "solutions".
        stem: "04_window".
        steps: the cells to run, in order: set-up, then the learner's cells and the checks. Cells
            below the last check belong to no exercise and are not run.
        obstacles: exercise id -> why there is no answer to run ("its answer cell is missing").
        notes: what was put right, and what else the learner should know.
    """

    path: Path
    kind: str
    stem: str
    steps: list[Step] = field(default_factory=list)
    obstacles: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def exercises(self) -> list[str]:
        """The ids of the exercises, in the order in which they are run."""
        return [step.exercise for step in self.steps if step.role == "check"]


def released_stems() -> list[str]:
    """The stems of the chapters that have exercises: "00_start", "04_window"."""
    return sorted(file.stem for file in RELEASED.glob("*.ipynb"))


def released(stem: str) -> dict:
    """The released exercises of a chapter, as parsed JSON; their specs are left out."""
    notebook = _load_released(stem)
    course_metadata(notebook).pop("grading", None)
    return notebook


def clear_verdicts(notebook: dict) -> None:
    """Take the solutions' verdicts out of a released copy, as a learner is given it."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)


def grading_cells(stem: str) -> list[dict]:
    """The cells that the exercises of a chapter are made from, specs and solutions included."""
    cells = _load_released(stem)["metadata"]["attncourse"]["grading"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def _load_released(stem: str) -> dict:
    return json.loads((RELEASED / f"{stem}.ipynb").read_text(encoding="utf-8"))


def course_metadata(node: dict) -> dict:
    """What the course has noted in the metadata of a notebook or cell, empty if nothing."""
    metadata = node.get("metadata")
    ours = metadata.get("attncourse") if isinstance(metadata, dict) else None
    return ours if isinstance(ours, dict) else {}


def content_id(cell_type: str, source: str) -> str:
    """The id of a released cell: it comes from the content, and so tells whether that changed."""
    return hashlib.sha256(f"{cell_type}\n{source}".encode()).hexdigest()[:12]


def source_of(cell: dict) -> str:
    """A cell's source as one string; files store it as a string or as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def kind_of(path: Path) -> str | None:
    """The kind of a notebook of this course: chapter, exercises or solutions; None for any other.

    A file that cannot be read is taken for exercises if it is called like them.
    """
    try:
        return course_metadata(load(path)).get("kind")
    except CannotGradeError:
        return "exercises" if path.stem in released_stems() else None


def backup_path(path: Path) -> Path:
    """Where `attncourse reset` keeps the learner's file: beside it, JupyterLab can open it."""
    return path.with_name(f"{path.stem}.backup-{time.strftime('%Y%m%d-%H%M%S')}.ipynb")


def is_backup(path: Path) -> bool:
    """Whether `reset` or `update` has put a file aside; such files are not graded in passing."""
    return ".backup-" in path.name or any(
        place.name == house.BACKUPS and (place.parent / house.MARK).is_file()
        for place in path.parents
    )


def load(path: Path) -> dict:
    """Parse a notebook file.

    Raises:
        CannotGradeError: it is no notebook of format 4 with cells; says what it is instead.
    """
    if path.is_dir():
        example = path / f"{(released_stems() or ['04_window'])[-1]}.ipynb"
        raise CannotGradeError(f"{path} is a folder: name a notebook, such as {example}")
    if not path.exists():
        raise CannotGradeError(f"there is no file {path}{_similar(path)}")
    if path.suffix != ".ipynb":
        raise CannotGradeError(f"{path} is not a notebook: its name does not end in .ipynb")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CannotGradeError(f"{path} is not a notebook: it is not UTF-8 text") from None
    except OSError as error:
        raise CannotGradeError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise CannotGradeError(f"{path} is empty{_restore(path)}")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        if mark := _CONFLICT.search(text):
            line = text.count("\n", 0, mark.start()) + 1
            raise CannotGradeError(
                f"{path} has merge-conflict marks (line {line}): resolve them first{_restore(path)}"
            ) from None
        where = f"line {error.lineno}: {error.msg}" if hasattr(error, "lineno") else "too deep"
        raise CannotGradeError(f"{path} is not valid JSON ({where}){_restore(path)}") from None
    _check_format(path, notebook)
    return _as_text(notebook)


def _as_text(notebook: dict) -> dict:
    """The notebook with ? for each lone surrogate: JSON can hold one, UTF-8 and Python cannot."""
    text = json.dumps(notebook, ensure_ascii=False)
    return notebook if _SURROGATE.search(text) is None else json.loads(_SURROGATE.sub("?", text))


def read(path: Path) -> Submission:
    """Read a submitted notebook of exercises and put the released cells back.

    Raises:
        CannotGradeError: it cannot be read, or is not a notebook of exercises of this release.
    """
    notebook = load(path)
    submission = Submission(path, *_identify(path, notebook))
    original = released(submission.stem)
    theirs, ours = (course_metadata(nb).get("release") for nb in (notebook, original))
    if theirs != ours:
        submission.notes.append(
            f"the notebook is from release {theirs or 'unknown'} of the course; "
            f"it was graded with the checks of release {ours}"
        )
    _Repair(notebook["cells"], original["cells"], submission).run()
    if submission.kind == "exercises":
        submission.notes += _signs_of_unsaved_work(path, notebook, original)
    return submission


def saved(path: Path) -> str:
    """When the file was last saved: "14:02:11", with the date if that was not today."""
    moment = time.localtime(path.stat().st_mtime)
    today = time.localtime()[:3] == moment[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", moment)


def match(cells: list[dict], originals: list[dict]) -> dict[int, int]:
    """Which submitted cell is which released one: released index -> submitted index.

    By cell id; what is left by the role and exercise in its metadata, which a copy made in
    JupyterLab keeps while it gets a new id.
    """
    by_id = {cell.get("id"): i for i, cell in reversed(list(enumerate(cells))) if cell.get("id")}
    found = {j: by_id[cell["id"]] for j, cell in enumerate(originals) if cell.get("id") in by_id}
    free = [i for i in range(len(cells)) if i not in set(found.values())]
    for j, original in enumerate(originals):
        key = _key(original)
        if j in found or not key[0]:
            continue
        for i in free:
            if _key(cells[i]) == key:
                found[j] = i
                free.remove(i)
                break
    return found


def _key(cell: dict) -> tuple[str, str]:
    ours = course_metadata(cell)
    return str(ours.get("role", "")), str(ours.get("exercise", ""))


def _tags(cell: dict) -> list:
    return (cell.get("metadata") or {}).get("tags", [])


def _check_format(path: Path, notebook: object) -> None:
    if not isinstance(notebook, dict) or "nbformat" not in notebook:
        raise CannotGradeError(f"{path} is JSON, but not a notebook{_restore(path)}")
    if notebook["nbformat"] != 4:
        raise CannotGradeError(
            f"{path} is a notebook of format {notebook['nbformat']}, expected 4: "
            "open it in JupyterLab and save it"
        )
    cells = notebook.get("cells")
    if not cells:
        raise CannotGradeError(f"{path} has no cells{_restore(path)}")
    for number, cell in enumerate(cells, 1):
        cell = cell if isinstance(cell, dict) else {}
        source = cell.get("source")
        lines = source if isinstance(source, list) else [source]
        if "cell_type" not in cell or not all(isinstance(line, str) for line in lines):
            raise CannotGradeError(f"{path} is damaged at cell {number}{_restore(path)}")


def _identify(path: Path, notebook: dict) -> tuple[str, str]:
    """The kind and stem of the notebook, or a CannotGradeError that says what it is instead."""
    ours = course_metadata(notebook)
    kind, stem = ours.get("kind"), ours.get("stem")
    stems = released_stems()
    if not ours and path.stem in stems and any(_key(cell)[0] for cell in notebook["cells"]):
        kind, stem = "exercises", path.stem  # a tool has dropped the notebook's metadata
    if kind == "chapter":
        raise CannotGradeError(
            f"{path} is the chapter, which is not graded: grade exercises/{stem}.ipynb"
        )
    if kind not in GRADED:
        raise CannotGradeError(
            f"{path} is not a notebook of exercises; there are {', '.join(stems) or 'none yet'}"
        )
    if stem not in stems:
        raise CannotGradeError(
            f"{path} holds exercises of {stem}, which this release of the course does not have"
        )
    if path.stem in stems and path.stem != stem:
        raise CannotGradeError(
            f"{path} holds the exercises of {stem}, not those of {path.stem}{_restore(path)}"
        )
    return kind, stem


def _restore(path: Path) -> str:
    known = path.stem in released_stems()
    return f"; `attncourse reset {path.stem[:2]}` restores it, your file is kept" if known else ""


def _similar(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*.ipynb")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _signs_of_unsaved_work(path: Path, notebook: dict, original: dict) -> Iterator[str]:
    """What a file can show of work that was not saved: JupyterLab keeps the rest in the browser."""
    answers = [i for i, cell in enumerate(original["cells"]) if _key(cell)[0] == "answer"]
    found = match(notebook["cells"], original["cells"])
    if answers and all(
        i in found and source_of(notebook["cells"][found[i]]) == source_of(original["cells"][i])
        for i in answers
    ):
        yield "the file has no answer in it yet; if you have written one, save it in JupyterLab"
    checkpoint = path.parent / ".ipynb_checkpoints" / f"{path.stem}-checkpoint.ipynb"
    for other, words in (
        (checkpoint, "JupyterLab's checkpoint is newer than the file"),
        (path.with_name(f".~{path.name}"), "a save seems to have been cut short"),
    ):
        if other.exists() and other.stat().st_mtime > path.stat().st_mtime + 1:
            yield f"{words}: compare with {other}"


class _Repair:
    """Builds the steps of a submission from its cells and the released ones."""

    def __init__(self, cells: list[dict], originals: list[dict], submission: Submission):
        self.cells, self.originals, self.submission = cells, originals, submission
        self.found = match(cells, originals)
        self.answer_of = {i: _key(c)[1] for i, c in enumerate(cells) if _key(c)[0] == "answer"}
        for j, original in enumerate(originals):
            if j in self.found and _key(original)[0] == "answer":
                self.answer_of[self.found[j]] = _key(original)[1]

    def run(self) -> None:
        setups = [cell for cell in self.originals if _key(cell)[0] == "setup"]
        # Set-up goes first wherever it stood: it depends on nothing, and all else on it.
        self.submission.steps = [Step("setup", source_of(cell)) for cell in setups]
        locked = self._locked()
        checks_after = self._places()
        self._add_checks(checks_after.get(-1, ()), [])
        pending: list[str] = []
        for i, cell in enumerate(self.cells):
            if i not in locked and cell["cell_type"] == "code" and source_of(cell).strip():
                pending.append(source_of(cell))
            if i in checks_after:
                self._add_checks(checks_after[i], pending)
                pending = []
        self._add_checks((), pending)
        self._find_obstacles()

    def _add_checks(self, checks: Sequence[int], sources: list[str]) -> None:
        """Add the learner's cells that come before these released checks, then the checks."""
        first = _key(self.originals[checks[0]])[1] if checks else ""
        self.submission.steps += [Step("learner", source, first) for source in sources]
        for check in (self.originals[j] for j in checks):
            exercise = _key(check)[1]
            step = Step("check", source_of(check), exercise, _passing_text(check))
            self.submission.steps.append(step)

    def _locked(self) -> set[int]:
        """The submitted cells that are not run, since released ones take their place; notes why."""
        locked = set()
        for j, original in enumerate(self.originals):
            if _key(original)[0] in LOCKED:
                if j in self.found:
                    locked.add(self.found[j])
                    self._compare(original, self.cells[self.found[j]])
                else:
                    self._note(original, "was missing: the released one was used")
        for i, cell in enumerate(self.cells):
            if i not in locked and i not in self.answer_of and _key(cell)[0] in LOCKED:
                locked.add(i)
                known = any(_key(original) == _key(cell) for original in self.originals)
                words = "had a copy, which was ignored" if known else "is not in this release"
                self._note(cell, words)
        return locked

    def _compare(self, original: dict, cell: dict) -> None:
        source = source_of(cell)
        if _SKIP_COMMENT.search(source) or _tags(cell) != _tags(original):
            self._note(original, "was marked for nbval: the mark was ignored")
        if (
            cell["cell_type"] != "code"
            or _SKIP_COMMENT.sub("", source).strip() != source_of(original).strip()
        ):
            self._note(original, "had been changed: the released one was used")

    def _places(self) -> dict[int, list[int]]:
        """After which submitted cell (-1: before all) which released checks are run."""
        after: dict[int, list[int]] = {}
        for j, original in enumerate(self.originals):
            role, exercise = _key(original)
            if role != "check":
                continue
            place = self.found.get(j)
            if place is None:
                place = max((self.found.get(k, -1) for k in range(j)), default=-1)
            answers = [i for i, e in self.answer_of.items() if e == exercise]
            if answers and min(answers) > place:
                place = min(answers)  # the answer was moved below its check
            after.setdefault(place, []).append(j)
        return after

    def _find_obstacles(self) -> None:
        for exercise in self.submission.exercises:
            types = {self.cells[i]["cell_type"] for i, e in self.answer_of.items() if e == exercise}
            if not types:
                obstacle = (
                    f"its answer cell is missing; `attncourse reset {self.submission.stem[:2]} "
                    f"--exercise {exercise}` puts it back"
                )
            elif "code" not in types:
                obstacle = "its answer cell is not a code cell: select it and press Esc, Y"
            else:
                continue
            self.submission.obstacles[exercise] = obstacle

    def _note(self, cell: dict, words: str) -> None:
        role, exercise = _key(cell)
        name = {"setup": "the set-up cell", "check": "the check cell"}[role]
        where = f"{exercise}: " if exercise else ""
        self.submission.notes.append(f"{where}{name} {words}")


def _passing_text(check: dict) -> str | None:
    """The line that a released check cell stores: the verdict on the course's solution."""
    for output in check.get("outputs", ()):
        if text := output.get("data", {}).get("text/plain"):
            return text if isinstance(text, str) else "".join(text)
    return None
