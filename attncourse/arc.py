"""The course in one table: its chapters in order, what each is for, how long it takes.

Time is counted, not guessed: the words, cells, guesses and sliders of a chapter's notebooks, and
the minutes that the prompts of its exercises state.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from attncourse import house
from attncourse.grading import submission

WORDS_A_MINUTE = 150
CELLS_A_MINUTE = 2  # to run it, and to look at what it shows
TRIED = re.compile(r"\bwidgets\.(?:guess|explore|in_a_real_model|form)\(")  # a minute each
NOT_WORDS = re.compile(r"\$\$.*?\$\$|<!--.*?-->", re.DOTALL)
PROMPT = re.compile(r"^\*(\d+) minutes ·", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """One chapter, of one notebook or of two.

    Attributes:
        number: Two digits.
        part: Which part of the course it belongs to.
        title: Its first notebook's, up to the colon.
        afterwards: What one can do then.
        stems: Its notebooks.
        reading: Minutes for the notebooks.
        exercises: Minutes for the exercises; 0 where there are none.
    """

    number: str
    part: str
    title: str
    afterwards: str
    stems: tuple[str, ...]
    reading: float
    exercises: int


def chapters(root: Path | None = None) -> list[Chapter]:
    """Return the chapters that are there, in order.

    Args:
        root: The folder that holds notebooks/; None takes the course as released, so that what a
            learner changes or adds changes no time.
    """
    folder = (house.material() if root is None else root) / "notebooks"
    found = []
    with (house.PACKAGE / "data" / "arc.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            paths = sorted(folder.glob(f"{row['chapter']}_*.ipynb"))
            cells = [json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths]
            if not cells:
                continue
            heading = submission.source_of(cells[0][0]).partition("\n")[0]
            found.append(
                Chapter(
                    number=row["chapter"],
                    part=row["part"],
                    title=heading.partition(" · ")[2].partition(":")[0],
                    afterwards=row["afterwards"],
                    stems=tuple(path.stem for path in paths),
                    reading=sum(map(_reading, cells)),
                    exercises=_exercises(row["chapter"]),
                )
            )
    return found


def _reading(cells: Iterable[dict]) -> float:
    minutes = 0.0
    for cell in cells:
        if cell["cell_type"] == "markdown":
            words = NOT_WORDS.sub("", submission.source_of(cell)).split()
            minutes += len(words) / WORDS_A_MINUTE
        else:
            tried = len(TRIED.findall(submission.source_of(cell)))
            minutes += tried or 1 / CELLS_A_MINUTE
    return minutes


def _exercises(number: str) -> int:
    """Return the minutes that the prompts of a chapter's exercises state."""
    stems = [stem for stem in submission.released_stems() if stem.startswith(f"{number}_")]
    return sum(
        int(minutes)
        for stem in stems
        for cell in submission.released(stem)["cells"]
        if cell["cell_type"] == "markdown"
        for minutes in PROMPT.findall(submission.source_of(cell))
    )


class Map:
    """The table, for a notebook that lies beside the chapters'."""

    def __init__(self, here: str = "00", root: Path | None = None):
        """Count.

        Args:
            here: The chapter that shows the map. It has no time of its own there, since the time
                would depend on the notebook that it is part of.
            root: As in `chapters`.
        """
        self.here = here
        self.chapters = chapters(root)

    @property
    def sentence(self) -> str:
        """What the minutes are, and what they come to."""
        others = [one for one in self.chapters if one.number != self.here]
        read, do = (sum(getattr(one, what) for one in others) for what in ("reading", "exercises"))
        return (
            f"Minutes, to the nearest five: {WORDS_A_MINUTE} words, {CELLS_A_MINUTE} cells of "
            "code, a guess or a slider take one, exercises what they state. "
            f"Together {read / 60:.0f} hours of reading and {do / 60:.0f} of exercises."
        )

    def _minutes(self, one: Chapter) -> tuple[str, str]:
        read = "here" if one.number == self.here else str(5 * round(one.reading / 5))
        return read, str(5 * round(one.exercises / 5) or "–")

    def __repr__(self) -> str:
        lines = [f"{'read':>4} {'do':>4}  chapter, and what you can do then"]
        for one in self.chapters:
            read, do = self._minutes(one)
            lines.append(f"{read:>4} {do:>4}  {one.number} {one.title} – {one.afterwards}")
        return "\n".join([*lines, self.sentence])

    def _repr_html_(self) -> str:
        style = "text-align:left;vertical-align:top;line-height:1.2;padding:2px 10px 2px 0"
        head = ("", "chapter", "then you can", "read", "do")
        rows = []
        for part, group in groupby(self.chapters, key=lambda one: one.part):
            ours = list(group)
            for one in ours:
                cells = [_links(one), html.escape(one.afterwards), *self._minutes(one)]
                row = "".join(f'<td style="{style}">{cell}</td>' for cell in cells)
                if one is ours[0]:
                    about = f'scope="rowgroup" rowspan="{len(ours)}" style="{style}"'
                    row = f"<th {about}>{html.escape(part)}</th>{row}"
                rows.append(f"<tr>{row}</tr>")
        heads = "".join(f'<th scope="col" style="{style}">{name}</th>' for name in head)
        return (
            f'<table><caption style="text-align:left">{html.escape(self.sentence)}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )


def _links(one: Chapter) -> str:
    first, *more = (f'<a href="{stem}.ipynb">{{}}</a>' for stem in one.stems)
    name = f"{one.number} · {html.escape(one.title)}"
    return ", ".join([first.format(name), *(link.format("part 2") for link in more)])
