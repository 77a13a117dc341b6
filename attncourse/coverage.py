"""Where the course handles each topic of its inventory, and shows claims of its ledger.

A heading of the text sources names the topics that its section handles, `covers="F2 F4-F6"`; an
exercise of the source documents handles the topic of its name. A chapter that leaves out one of its
topics cannot be built or checked. Claims are not tagged: that each is found and fits its verdict is
tested, and which of them a chapter shows is read from what it displayed when it ran. `attncourse
build` writes docs/coverage.md from both.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attncourse import claims
from attncourse.sources import HEADING, BuildError, Source, covered, marker_options

CARD = re.compile(r"(C\d{3}) · ")  # how a card begins, see `claims.card`


@dataclass(frozen=True)
class Topic:
    """One item of the inventory: something that the source documents mention.

    Attributes:
        id: A letter and a number, "F2".
        item: What it is, in few words.
        texts: Which texts mention it, or "implied".
        chapters: The chapters that have to handle it; one that is written is enough.
    """

    id: str
    item: str
    texts: tuple[str, ...]
    chapters: tuple[str, ...]


@functools.cache
def inventory() -> dict[str, Topic]:
    """Return the topics by their ids."""
    path = importlib.resources.files("attncourse") / "data" / "inventory.csv"
    with path.open(encoding="utf-8") as file:
        return {
            row["id"]: Topic(
                row["id"],
                row["item"],
                tuple(row["texts"].split(";")),
                tuple(row["chapters"].split(";")),
            )
            for row in csv.DictReader(file)
        }


def places(sources: Iterable[Source]) -> dict[str, list[str]]:
    """Return for each id where it is handled, as links from docs/ into the notebooks.

    Raises:
        BuildError: A source names an id that the inventory does not have.
    """
    found: dict[str, list[str]] = defaultdict(list)
    problems = []
    for source in sources:
        section = source.stem
        folder = "solutions" if source.kind == "solutions" else "notebooks"
        for index, cell in enumerate(source.cells):
            if cell.cell_type == "markdown" and (title := HEADING.search(cell.source)):
                section = title[1]
            options = marker_options(cell)
            ids = covered(options.get("covers", ""))
            if options.get("role") == "check" and ".V" in options["exercise"]:
                ids.append(options["exercise"].partition(".")[2])
            for id in ids:
                if id not in inventory():
                    problems.append(f"{source.at(index)}: there is no topic {id}")
                link = f"[{section}](../{folder}/{source.stem}.ipynb), cell {index + 1}"
                found[id].append(link)
    if problems:
        raise BuildError(problems)
    return found


def missing(sources: Iterable[Source]) -> list[str]:
    """Return a line for each topic of a written chapter that no cell handles."""
    sources = list(sources)
    found = places(sources)
    written = {source.stem[:2] for source in sources if source.kind == "chapter"}
    return [
        f"chapter {', '.join(written.intersection(topic.chapters))}: no cell covers topic "
        f"{topic.id}, {topic.item}"
        for topic in inventory().values()
        if written.intersection(topic.chapters) and topic.id not in found
    ]


def shown(notebook: Path) -> list[str]:
    """Return the claims that a built notebook showed when it ran, in its order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    return [card[1] for card in map(CARD.match, texts) if card]


def markdown(sources: Iterable[Source], root: Path) -> str:
    """Return docs/coverage.md: the topics with their cells, and the claims with their verdicts.

    Args:
        sources: The text sources.
        root: The course, where the notebooks built from them lie.
    """
    sources = list(sources)
    found = places(sources)
    stems = sorted(source.stem for source in sources if source.kind == "chapter")
    lines = [
        "# Where the course handles what",
        "",
        "Written by `attncourse build`. Topics are the items that the four source documents "
        "mention, with the sections of the written chapters that handle them.",
    ]
    for number, parts in itertools.groupby(stems, key=lambda stem: stem[:2]):
        topics = [topic for topic in inventory().values() if number in topic.chapters]
        if not topics:
            continue
        lines += ["", f"## {', '.join(parts)}", "", "| id | topic | where |", "| --- " * 3 + "|"]
        for topic in topics:
            where = "; ".join(dict.fromkeys(found.get(topic.id, ["nowhere"])))
            lines.append(f"| {topic.id} | {_plain(topic.item)} | {where} |")
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


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
