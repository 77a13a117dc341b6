"""Where the course handles each topic of its inventory, and shows claims of its ledger.

A heading of the text sources names the topics that its section handles, `covers="F2 F4-F6"`; an
exercise of the source documents handles the topic of its name. What counts is what ran: a section
without a code cell that gave an output and without a link to an exercise handles nothing, unless a
sentence is all that its topics ask for. A warning is no output, and a link in a comment or in code
is no link. The card of a claim counts if the cell computed its number. Each chapter named for a
topic handles it itself; a heading that only says where a topic is handled has `points="P10"`. A
course that breaks one of these rules cannot be built or checked.

Claims are not tagged: that each is found and fits its verdict is tested, and which of them a
chapter shows is read from what it displayed when it ran. `attncourse build` writes docs/coverage.md
from both.
"""

from __future__ import annotations

import ast
import csv
import functools
import importlib.resources
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attncourse import claims
from attncourse.execution import IGNORING_TAGS
from attncourse.sources import BuildError, Source, covered, headings, without_fences

CARD = re.compile(r"(C\d{3}) · ")  # how a card begins, see `claims.card`
EXERCISE = re.compile(r"\]\(\.\./exercises/(\d\d_\w+)\.ipynb")  # a link to one
CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
# What a call shows that leaves only its sentence in a stored notebook.
WIDGETS = {
    "widgets.explore": "slider",
    "widgets.form": "form",
    "widgets.guess": "guess",
    "widgets.Table": "table",
}
# What shows something in the midst of a cell, and what as its last line shows nothing.
SHOWING = {"print", "display", "plots.show", "claims.check"}
SILENT = ("append", "extend", "add", "update", "sort")


@dataclass(frozen=True)
class Topic:
    """One item of the inventory: something that the source documents mention.

    Attributes:
        id: A letter and a number, "F2".
        item: What it is, in few words.
        learner_does: What the learner does or sees; it begins with "a sentence" where reading one
            is all.
        texts: Which texts mention it, or "implied".
        chapters: The chapters that have to handle it; each that is written does.
    """

    id: str
    item: str
    learner_does: str
    texts: tuple[str, ...]
    chapters: tuple[str, ...]

    @property
    def is_a_sentence(self) -> bool:
        """Whether text alone handles it."""
        return self.learner_does.startswith("a sentence")


@dataclass(frozen=True)
class Place:
    """A section or an exercise that names a topic.

    Attributes:
        chapter: Its chapter, as two digits.
        title: The section's heading.
        link: The section, as a link from docs/ into its notebook.
        at: Its marker, for messages.
        ran: What its cells showed when they ran, such as ("text", "picture").
        points: Whether it only says where the topic is handled.
    """

    chapter: str
    title: str
    link: str
    at: str
    ran: tuple[str, ...] = ()
    points: bool = False


@functools.cache
def inventory() -> dict[str, Topic]:
    """Return the topics by their ids."""
    path = importlib.resources.files("attncourse") / "data" / "inventory.csv"
    with path.open(encoding="utf-8") as file:
        return {
            row["id"]: Topic(
                row["id"],
                row["item"],
                row["learner_does"],
                tuple(row["texts"].split(";")),
                tuple(row["chapters"].split(";")),
            )
            for row in csv.DictReader(file)
        }


def places(sources: Iterable[Source], root: Path) -> dict[str, list[Place]]:
    """Return for each id the sections and exercises that name it.

    Args:
        sources: The text sources.
        root: The course, where the notebooks built from them lie.

    Raises:
        BuildError: A source names an id that the inventory does not have.
    """
    found: dict[str, list[Place]] = defaultdict(list)
    problems = []
    for source in sources:
        gave = _outputs(source, root)
        for index, cell in enumerate(source.cells):
            for id, place in _named(source, index, cell.metadata, gave, root):
                if id not in inventory():
                    problems.append(f"{source.at(index)}: there is no topic {id}")
                found[id].append(place)
    if problems:
        raise BuildError(problems)
    return found


def _named(
    source: Source, index: int, options: dict, gave: list[set[str]], root: Path
) -> Iterator[tuple[str, Place]]:
    """Yield the ids that a cell names, each with its place."""
    folder = "solutions" if source.kind == "solutions" else "notebooks"

    def place(title: str, ran: Iterable[str], points: bool = False) -> Place:
        link = f"[{title}](../{folder}/{source.stem}.ipynb), cell {index + 1}"
        at = source.at(index)
        return Place(source.stem[:2], title, link, at, tuple(sorted(ran)), points)

    if options.get("role") == "check" and ".V" in options["exercise"]:
        above = (c.source for c in source.cells[index::-1] if c.cell_type == "markdown")
        title = next((found[1] for text in above for found in headings(text)), source.stem)
        yield options["exercise"].partition(".")[2], place(title, ["graded exercise"])
    for option in ("covers", "points"):
        if ids := covered(options.get(option, "")):
            title, text, code = _section(source, index)
            ran = set().union(*(gave[number] for number in code))
            linked = EXERCISE.findall(CODE_SPAN.sub("", text))
            if any((root / "solutions" / "_source" / f"{stem}.py").exists() for stem in linked):
                ran.add("linked exercise")
            for id in ids:
                yield id, place(title, ran, points=option == "points")


def _section(source: Source, index: int) -> tuple[str, str, list[int]]:
    """Return title, text without fences and comments, and code cells of a section.

    It begins at the first heading of a cell, and ends before the next one as high as its own; a
    chapter's title ends at any section.
    """

    def level(heading: re.Match) -> int:
        return len(heading[0]) - len(heading[0].lstrip("#"))

    first = next(headings(source.cells[index].source))
    depth = max(2, level(first))
    text, code, start = "", [], first.end()
    for number, cell in enumerate(source.cells[index:], index):
        if cell.cell_type == "code":
            code.append(number)
            continue
        found = headings(cell.source, start)
        end = next((heading.start() for heading in found if level(heading) <= depth), None)
        text += without_fences(cell.source)[start:end]
        start = 0
        if end is not None:
            break
    return first[1], text, code


def _outputs(source: Source, root: Path) -> list[set[str]]:
    """Return for each cell of a source what it showed when its notebook was built.

    A cell that has been changed since has shown nothing.
    """
    folder = "solutions" if source.kind == "solutions" else "notebooks"
    built = root / folder / f"{source.stem}.ipynb"
    ran: dict[str, list[dict]] = defaultdict(list)
    for cell in _cells(built) if built.exists() else []:
        ran[_squeezed("".join(cell["source"]))].append(cell)
    return [
        _shown_by(cells.pop(0))
        if cell.cell_type == "code" and (cells := ran[_squeezed(cell.source)])
        else set()
        for cell in source.cells
    ]


def _squeezed(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.strip())


def _shown_by(cell: dict) -> set[str]:
    """Return the kinds of a built cell's outputs."""
    code = "".join(cell["source"])
    if cell.get("execution_count") is None:
        return set()
    body = ast.parse(code).body
    if IGNORING_TAGS & set(cell["metadata"].get("tags", ())):  # its outputs are not stored
        return {"what varies by the run"} if _shows(body) else set()
    calls = [node for node in map(ast.walk, body) for node in node if isinstance(node, ast.Call)]
    kinds = set()
    for output in cell["outputs"]:
        data = output.get("data", {})
        printed = output.get("name") == "stdout" and "".join(output["text"]).strip()
        if not data and not printed:
            continue
        page = "".join(data.get("text/html", ""))
        if CARD.match("".join(data.get("text/plain", ""))):
            if any(map(_checks_its_own, calls)):
                kinds.add("checked claim")
        elif "image/png" in data or page.startswith("<p"):
            kinds.add("picture")
        else:
            kinds.add("table" if page else "text")
    widgets = {WIDGETS[name] for call in calls if (name := ast.unparse(call.func)) in WIDGETS}
    # a stored notebook has the sentence of a widget
    return kinds - {"text"} | widgets if kinds and widgets else kinds


def _checks_its_own(call: ast.Call) -> bool:
    """Whether this is `claims.check(id, value)`: the value is the cell's, not the audit's."""
    values = [*call.args[1:2], *(each.value for each in call.keywords if each.arg == "value")]
    return ast.unparse(call.func) == "claims.check" and any(
        not (isinstance(value, ast.Constant) and value.value is None) for value in values
    )


def _shows(body: list[ast.stmt]) -> bool:
    """Whether the statements of a cell show something when it runs, as far as code can tell."""
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    if isinstance(last, ast.Call) and isinstance(last.func, ast.Attribute):
        last = None if last.func.attr in SILENT else last
    ran = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = [node for node in map(ast.walk, ran) for node in node if isinstance(node, ast.Call)]
    return (last is not None and not isinstance(last, ast.Constant)) or any(
        ast.unparse(call.func) in SHOWING for call in calls
    )


def missing(sources: Iterable[Source], root: Path) -> list[str]:
    """Return a line for each section that handles nothing, and for each topic left out.

    Args:
        sources: The text sources.
        root: The course, where the notebooks built from them lie.

    Raises:
        BuildError: A source names an id that the inventory does not have.
    """
    sources = list(sources)
    found = places(sources, root)
    empty: dict[str, list[str]] = defaultdict(list)
    left_out = []
    written = {source.stem[:2] for source in sources if source.kind == "chapter"}
    for id, topic in inventory().items():
        handled = [place for place in found.get(id, []) if not place.points]
        for place in handled:
            if not place.ran and not topic.is_a_sentence:
                empty[f'{place.at}: in "{place.title}"'].append(id)
        there = {place.chapter for place in handled}
        for number in topic.chapters:
            if number in written and number not in there:
                elsewhere = f"; chapter {', '.join(sorted(there))} does" if there else ""
                left_out.append(
                    f"chapter {number}: no section covers topic {id}, {topic.item}{elsewhere}"
                )
    return [
        f"{section} no code cell gave an output when it was built, and no exercise is linked: it "
        f"does not cover {', '.join(ids)}. If it only says which page does, write `points=`"
        for section, ids in empty.items()
    ] + left_out


def shown(notebook: Path) -> list[str]:
    """Return the claims that a built notebook showed when it ran, in its order."""
    outputs = [output for cell in _cells(notebook) for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    return [card[1] for card in map(CARD.match, texts) if card]


def markdown(sources: Iterable[Source], root: Path) -> str:
    """Return docs/coverage.md: the topics with their cells, and the claims with their verdicts.

    Args:
        sources: The text sources.
        root: The course, where the notebooks built from them lie.
    """
    sources = list(sources)
    found = places(sources, root)
    stems = sorted(source.stem for source in sources if source.kind == "chapter")
    lines = [
        "# Where the course handles what",
        "",
        "Written by `attncourse build`. Topics are the items that the four source documents "
        "mention. Each written chapter has those that it has to handle: what the learner does, the "
        "sections that do it, and in brackets what their cells showed when they ran.",
    ]
    for number, parts in itertools.groupby(stems, key=lambda stem: stem[:2]):
        topics = [topic for topic in inventory().values() if number in topic.chapters]
        if not topics:
            continue
        lines += ["", f"## {', '.join(parts)}", ""]
        lines += ["| id | topic | the learner | where | elsewhere |", "| --- " * 5 + "|"]
        for topic in topics:
            own, others = _where(found.get(topic.id, []), number)
            lines.append(f"{_row(topic)} | {own or 'nowhere'} | {others} |")
    written = {stem[:2] for stem in stems}
    unwritten = []
    for topic in inventory().values():
        if planned := [number for number in topic.chapters if number not in written]:
            _, others = _where(found.get(topic.id, []), "")
            unwritten.append(f"{_row(topic)} | {', '.join(planned)} | {others} |")
    if unwritten:
        lines += [
            "",
            "## Planned",
            "",
            "What chapters that are not written yet have to handle, and which pages touch it "
            "already.",
            "",
            "| id | topic | the learner | chapter | so far |",
            "| --- " * 5 + "|",
            *unwritten,
        ]
    places_of = defaultdict(list)
    for stem in stems:
        notebook = root / "notebooks" / f"{stem}.ipynb"
        for id in dict.fromkeys(shown(notebook) if notebook.exists() else []):
            places_of[id].append(f"[{stem}](../notebooks/{stem}.ipynb)")
    lines += [
        "",
        "## Claims",
        "",
        "All of them are found anew in `17_audit`, and `tests/test_claims.py` holds each verdict "
        "to what is found. Named here are the notebooks that showed a claim's card when they ran.",
        "",
        "| id | claim | verdict | card |",
        "| --- " * 4 + "|",
    ]
    for claim in claims.LEDGER.values():
        cards = "; ".join(places_of[claim.id])
        lines.append(f"| {claim.id} | {_plain(claim.claim)} | {claim.verdict} | {cards} |")
    return "\n".join(lines) + "\n"


def _row(topic: Topic) -> str:
    """Return the columns with which each row about a topic begins."""
    return f"| {topic.id} | {_plain(topic.item)} | {_plain(topic.learner_does)}"


def _where(named: list[Place], chapter: str) -> tuple[str, str]:
    """Return the places of a chapter with what they rest on, and those of others."""
    own = [
        f"{place.link} ({', '.join(place.ran) or 'a sentence'})"
        for place in named
        if place.chapter == chapter and not place.points
    ]
    others = [
        f"{place.chapter}, {place.link}" + (" (points to it)" if place.points else "")
        for place in named
        if place.chapter != chapter or place.points
    ]
    return "; ".join(own), "; ".join(others)


def _cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
