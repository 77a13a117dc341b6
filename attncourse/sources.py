"""The text sources of the notebooks: how they are read, and the rules that they keep.

A source is a Python file in py:percent form. Options on a cell's marker say what the cell is for:

    # %% [markdown] covers="F2 F4-F6"           (a heading: what its section handles)
    # %% [markdown] points="P10"               (a heading: what its section leaves to another)
    # %% tags=["nbval-ignore-output"]
    # %% folded=true                           (code that only draws: shown by a click)
    # %% role="answer" exercise="04.3"

`authoring` builds the notebooks from them.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from attncourse.grading.solution import BEGIN, END, stub, without_markers

MAX_LINES = 15

_ROLES = ("setup", "prompt", "answer", "check", "hints", "spec")
_GRADERS = ("hints", "spec")  # roles that no notebook shows
_OPTIONS = ("tags", "role", "exercise", "covers", "points", "folded")
_MARKER = re.compile(r"^# %%(\s|$)")
_OPTION = re.compile(r' (\w+)=("[^"]*"|\[[^]]*\]|\w+)')
_HEAD = re.compile(rf"# %%(?: \[(\w+)\])?((?:{_OPTION.pattern})*)\s*")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|<!--.*?(-->|\Z)",
    re.MULTILINE | re.DOTALL,
)
_TOPICS = re.compile(r"([A-Z])([0-9]+)(?:-\1([0-9]+))?")
_FORBIDDEN = {
    "code": (
        (re.compile(r"^\s*(# )?(%%?[a-z]|![a-z])", re.MULTILINE), "a magic or a shell command"),
        (re.compile(r"\b(pip3?|conda|mamba|apt|apt-get)\s+install\b"), "an install command"),
        (re.compile(r"base64"), "base64 data"),
        (re.compile(r"#\s*NBVAL_"), "a comment for nbval: use a tag, which is counted"),
    ),
    "markdown": ((re.compile(r"data:\w+/"), "base64 data"),),
}


class BuildError(Exception):
    """A source breaks a rule, a cell fails, or a built file is not what its source says.

    Attributes:
        problems: one line each, beginning with the file and, in a source, the line.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Source:
    """A text source that keeps the rules.

    Attributes:
        name: the file, as messages name it: notebooks/_source/04_window.py.
        stem: 04_window.
        kind: "chapter" or "solutions".
        cells: those that a notebook shows; the options of a marker are a cell's metadata.
        grading: the cells that exercises are made from, each with role, exercise, cell_type and
            source; hints and specs stand nowhere else.
        markers: the line of each cell's marker.
        starts: the line where each cell's text begins, after blank lines.
    """

    name: str
    stem: str
    kind: str
    cells: list[NotebookNode]
    grading: list[dict]
    markers: list[int]
    starts: list[int]

    def at(self, index: int, line: int = 0) -> str:
        """Name a cell, counted from 1, and a line of it in the file; line 0 is its marker."""
        number = self.starts[index] + line - 1 if line else self.markers[index]
        return f"{self.name}:{number}: cell {index + 1}"


def read(path: Path, root: Path) -> Source:
    """Read a text source.

    Args:
        path: the source; its folder says whether it is a chapter or the solutions of one.
        root: the repository, for the names in messages.

    Raises:
        BuildError: with every broken rule.
    """
    name = path.relative_to(root).as_posix()
    kind = "solutions" if name.startswith("solutions/") else "chapter"
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    try:
        cells, markers = parsed(text)
    except ValueError as error:
        raise BuildError([f"{name}:{error}"]) from None
    starts = [
        next((n for n in range(marker + 1, len(lines) + 1) if lines[n - 1].strip()), marker)
        for marker in markers
    ]
    source = Source(name, path.stem, kind, cells, [], markers, starts)
    problems = [
        f"{source.at(index, line)}: {says}"
        for index, cell in enumerate(cells)
        for line, says in _complaints(cell, source)
    ]
    if kind == "solutions":
        problems += _unpaired(source)
    if problems:
        raise BuildError(problems)
    shown = [i for i, cell in enumerate(cells) if cell.metadata.get("role") not in _GRADERS]
    return Source(
        name,
        path.stem,
        kind,
        cells=[cells[i] for i in shown],
        grading=[_for_grading(cell) for cell in cells if cell.metadata.get("role")],
        markers=[markers[i] for i in shown],
        starts=[starts[i] for i in shown],
    )


def parsed(text: str) -> tuple[list[NotebookNode], list[int]]:
    """Return the cells of a source, and the line of each one's marker.

    They are those of jupytext, which takes a hundred times as long.

    Raises:
        ValueError: with the line, of text before the first marker or a marker that is none.
    """
    lines = text.splitlines()
    markers = [number for number, line in enumerate(lines, 1) if _MARKER.match(line)]
    if not markers or any(line.strip() for line in lines[: markers[0] - 1]):
        raise ValueError("1: a source begins with a cell marker, `# %%`")
    ends = [*(marker - 1 for marker in markers[1:]), len(lines)]
    return [
        _cell(marker, lines[marker - 1], lines[marker:end])
        for marker, end in zip(markers, ends, strict=True)
    ], markers


def _cell(number: int, marker: str, lines: list[str]) -> NotebookNode:
    head = _HEAD.fullmatch(marker)
    try:
        if head is None:
            raise ValueError
        options = {name: json.loads(value) for name, value in _OPTION.findall(head[2])}
    except ValueError:
        says = f'a marker is like `# %% name="value"`, got `{marker}`'
        raise ValueError(f"{number}: {says}") from None
    cell_type = head[1] or "code"
    if cell_type == "markdown":
        lines = [re.sub("^# ?", "", line) for line in lines]
    text = "\n".join(lines).rstrip("\n")
    return NotebookNode(cell_type=cell_type, metadata=NotebookNode(options), source=text)


def _for_grading(cell: NotebookNode) -> dict:
    options = cell.metadata
    return {
        "role": options["role"],
        "exercise": options.get("exercise"),
        "cell_type": cell.cell_type,
        "source": cell.source,
    }


def _complaints(cell: NotebookNode, source: Source) -> Iterator[tuple[int, str]]:
    """Tell which rules a cell breaks, each with the line of the cell."""
    options = cell.metadata
    if unknown := options.keys() - _OPTIONS:
        yield 0, f"unknown option {', '.join(sorted(unknown))}; there are {', '.join(_OPTIONS)}"
    if cell.cell_type not in ("code", "markdown"):
        yield 0, f"a {cell.cell_type} cell; only code and markdown are used"
        return
    for pattern, what in _FORBIDDEN[cell.cell_type]:
        if found := pattern.search(cell.source):
            yield 1 + cell.source.count("\n", 0, found.start()), f"holds {what}"
    is_heading = cell.cell_type == "markdown" and any(headings(cell.source))
    for option in ("covers", "points"):
        if option in options and not is_heading:
            yield 0, f"`{option}` stands on a heading, and holds for its section"
    for says in _topic_complaints(options):
        yield 0, says
    if "folded" in options and (cell.cell_type != "code" or options["folded"] is not True):
        yield 0, "`folded=true` stands on a code cell"
    role, exercise = options.get("role"), options.get("exercise")
    if cell.cell_type == "code":
        yield from _code_complaints(cell.source, role)
    if source.kind == "chapter":
        if role not in (None, "setup") or exercise:
            yield 0, "exercises belong in solutions/_source; a chapter has no role but setup"
        return
    if role not in _ROLES and (role or cell.cell_type == "code"):
        yield 0, f"role must be one of {', '.join(_ROLES)}, got {role!r}"
    chapter = source.stem[:2]
    if (exercise or role in ("prompt", "answer", "check", "hints")) and not str(
        exercise
    ).startswith(f"{chapter}."):
        yield 0, f'exercise must be of chapter {chapter}, like "{chapter}.1", got {exercise!r}'
    if role == "check" and f'check("{exercise}")' not in cell.source:
        yield 1, f'a check cell holds `check("{exercise}")`'


def _code_complaints(text: str, role: str | None) -> Iterator[tuple[int, str]]:
    length = len(without_markers(text).splitlines())
    if role not in ("answer", "spec") and length > MAX_LINES:
        yield 1, f"{length} lines; at most {MAX_LINES} may stand in one cell"
    if (BEGIN in text or END in text) != (role == "answer"):
        yield 1, f"`{BEGIN}` stands in answer cells, and in each of them"
        return
    try:
        ast.parse(text)
        ast.parse(stub(text))
    except SyntaxError as error:
        yield error.lineno or 1, error.msg


def _unpaired(source: Source) -> Iterator[str]:
    """Tell which exercises lack one of their cells."""
    options = [cell.metadata for cell in source.cells]
    seen = Counter((cell.get("role"), cell.get("exercise")) for cell in options)
    for exercise in sorted({exercise for _, exercise in seen if exercise}):
        for role in ("answer", "check", "hints", "spec"):
            if (count := seen[role, exercise]) != 1:
                yield f"{source.name}: exercise {exercise} needs one {role} cell, got {count}"


def without_fences(text: str) -> str:
    """Return markdown with its code fences and comments blank, each other letter in its place."""
    return _FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def headings(text: str, start: int = 0) -> Iterator[re.Match]:
    """Yield the headings of a markdown cell from a letter on; group 1 is the title."""
    yield from _HEADING.finditer(without_fences(text), start)


def covered(text: str) -> list[str]:
    """Return the topics that `covers="F2 F4-F6"` names, ranges spelt out.

    Raises:
        ValueError: naming the word that is no topic and no range of them.
    """
    ids = []
    for word in text.split():
        found = _TOPICS.fullmatch(word)
        low, high = (int(found[2]), int(found[3] or found[2])) if found else (1, 0)
        if not found or low > high:
            raise ValueError(word)
        ids += [f"{found[1]}{number:0{len(found[2])}}" for number in range(low, high + 1)]
    return ids


def _topic_complaints(options: dict) -> Iterator[str]:
    """Tell what is wrong with the topics that a heading's marker names."""
    named: list[str] = []
    for option in ("covers", "points"):
        try:
            named += covered(str(options[option]) or "nothing") if option in options else []
        except ValueError as error:
            yield f'`{option}` names topics as in "F2 F4-F6", got {error}'
    if twice := [id for id, count in Counter(named).items() if count > 1]:
        yield f"names {', '.join(twice)} more than once"
