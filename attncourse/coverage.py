"""Where the course handles each topic of its inventory and each claim of its ledger.

A heading of the text sources names what its section handles, `covers="F2 C057"`; an exercise of
the source documents handles the topic of its name. `attncourse build` writes docs/coverage.md from
that, and a chapter that leaves out one of its topics or claims cannot be built or checked.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from attncourse import claims
from attncourse.sources import HEADING, BuildError, Source, covered, marker_options


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
        BuildError: A source names an id that neither the inventory nor the ledger has.
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
                if id not in inventory() and id not in claims.LEDGER:
                    problems.append(f"{source.at(index)}: there is no topic or claim {id}")
                link = f"[{section}](../{folder}/{source.stem}.ipynb), cell {index + 1}"
                found[id].append(link)
    if problems:
        raise BuildError(problems)
    return found


def missing(sources: Iterable[Source]) -> list[str]:
    """Return a line for each topic and claim of a written chapter that no cell handles."""
    sources = list(sources)
    found = places(sources)
    written = {source.stem[:2] for source in sources if source.kind == "chapter"}
    topics = [
        f"chapter {', '.join(written.intersection(topic.chapters))}: no cell covers topic "
        f"{topic.id}, {topic.item}"
        for topic in inventory().values()
        if written.intersection(topic.chapters) and topic.id not in found
    ]
    unchecked = [
        f"chapter {claim.chapter}: no cell covers claim {claim.id}, {claim.claim}"
        for claim in claims.LEDGER.values()
        if claim.chapter in written and claim.id not in found
    ]
    return topics + unchecked


def markdown(sources: Iterable[Source]) -> str:
    """Return docs/coverage.md: each topic and claim of the written chapters, with its cells."""
    sources = list(sources)
    found = places(sources)
    chapters = {source.stem[:2]: source.stem for source in sources if source.kind == "chapter"}
    lines = [
        "# Where the course handles what",
        "",
        "Written by `attncourse build` from the notebooks' sources. Topics are the items that the "
        "four source documents mention, claims are the ledger's; of both, those of the chapters "
        "that are written.",
    ]
    for number, stem in sorted(chapters.items()):
        topics = [topic for topic in inventory().values() if number in topic.chapters]
        checked = [claim for claim in claims.LEDGER.values() if claim.chapter == number]
        rows = [(topic.id, topic.item, "") for topic in topics]
        rows += [(claim.id, claim.claim, claim.verdict) for claim in checked]
        if not rows:
            continue
        lines += ["", f"## {stem}", "", "| id | what | verdict | where |", "| --- " * 4 + "|"]
        for id, what, verdict in rows:
            where = "; ".join(dict.fromkeys(found.get(id, ["nowhere"])))
            lines.append(f"| {id} | {_plain(what)} | {verdict} | {where} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
