"""Brings notebooks to a newer release and keeps what the learner made of them.

A released cell's id is made from its content, so an id says what the cell was: one that no longer
has that content was edited. The new release's cells stand in the new release's order. What the
learner wrote stands in its place or, where the release has another cell there, right behind it; a
cell of the learner's own stays behind the cell that it stood behind; answers to exercises that are
no longer there go to the end, below the last check, where nothing of them is run.

Nothing here reads or writes a file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from attncourse.grading.submission import content_id, course_metadata, source_of

Cell = dict[str, Any]
Notebook = dict[str, Any]
Known = Mapping[str, Mapping[str, str]]  # stem -> released id -> what its outputs were

KEPT = "kept"  # in a cell's metadata: what a cell of the course was, which is now the learner's
HEADING = (
    "## Kept\n\nYour answers to exercises that are not in this chapter any more. Nothing below is "
    "graded, and you may delete it."
)
_DEFINES = re.compile(r"^(?:async def|def|class)\s+(\w+)", re.MULTILINE)
_TITLE = re.compile(r"^## (\S+) (.+)$", re.MULTILINE)


class Spot(NamedTuple):
    """A cell: its notebook's stem and its number."""

    stem: str
    number: int


@dataclass
class Merged:
    """A notebook of the new release with the learner's part in it.

    Attributes:
        notebook: what is to be written.
        changes: what is different now, a line each.
        kept: how many cells hold something of the learner's.
    """

    notebook: Notebook
    changes: list[str] = field(default_factory=list)
    kept: int = 0


def merge(mine: Mapping[str, Notebook], new: Mapping[str, Notebook], known: Known) -> dict:
    """Merge the notebooks of one folder: an answer may move from one to another.

    Args:
        mine: the learner's notebooks by stem, as parsed; those that are gone from the release too.
        new: the release's.
        known: what the learner was given, by stem: the id of each cell, and for it the outputs as
            `outputs_of` names them. It may be empty: then cells are known by their ids alone, a
            chapter's deleted cells come back, and no stored output is replaced.

    Returns:
        Stem -> `Merged`, for each stem of both. Merged again it is the same.
    """
    return _Merge(mine, new, known).run()


def outputs_of(cell: Cell) -> str:
    """Return a short name of a cell's outputs, the same for the same outputs."""
    if cell["cell_type"] != "code":
        return ""
    plain = json.dumps(_joined(cell.get("outputs", [])), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def _joined(value: Any) -> Any:
    """Return outputs with each list of lines as one text: programs write them either way."""
    if isinstance(value, dict):
        return {name: _joined(each) for name, each in value.items() if name != "execution_count"}
    if isinstance(value, list):
        if value and all(isinstance(each, str) for each in value):
            return "".join(value)
        return [_joined(each) for each in value]
    return value


def _id_of_content(cell: Cell) -> str:
    return content_id(cell["cell_type"], source_of(cell))


def _is_kept(cell: Cell) -> bool:
    return KEPT in course_metadata(cell)


def _former(cell: Cell, name: str) -> str:
    former = course_metadata(cell).get(KEPT)
    return str(former.get(name, "")) if isinstance(former, dict) else ""


def _former_role(cell: Cell) -> str:
    return _former(cell, "role")


def _former_exercise(cell: Cell) -> str:
    return _former(cell, "exercise")


def _as_kept(cell: Cell) -> Cell:
    """Return a copy that is the learner's alone: the grader takes it for no cell of the course."""
    kept = copy.deepcopy(cell)
    ours = course_metadata(kept)
    if ours and KEPT not in ours:
        role = {name: ours[name] for name in ("role", "exercise") if name in ours}
        kept["metadata"]["attncourse"] = {KEPT: role}
    return kept


def _cells(notebooks: Mapping[str, Notebook]) -> dict[Spot, Cell]:
    return {
        Spot(stem, i): cell
        for stem, notebook in notebooks.items()
        for i, cell in enumerate(notebook["cells"])
    }


def _without_count(cell_id: str) -> str:
    """Return the content's part of a released id: the second cell of the same text has "-2"."""
    return cell_id.partition("-")[0]


def _role(cell: Cell) -> str:
    return str(course_metadata(cell).get("role", ""))


def _exercise(cell: Cell) -> str:
    return str(course_metadata(cell).get("exercise", ""))


def _names(cell: Cell) -> list[str]:
    """Return the functions and classes that a cell defines, in order, even if it is no Python."""
    return _DEFINES.findall(source_of(cell)) if cell["cell_type"] == "code" else []


class _Merge:
    def __init__(self, mine: Mapping[str, Notebook], new: Mapping[str, Notebook], known: Known):
        self.notebooks, self.new_notebooks, self.known = mine, new, known
        for notebook in mine.values():
            for cell in notebook["cells"]:
                if not isinstance(cell.get("metadata"), dict):
                    cell["metadata"] = {}
        self.mine = _cells(mine)
        self.new = _cells(new)
        self.origin: dict[Spot, str] = {}  # a cell of the learner's -> the released id it had
        for stem, notebook in mine.items():
            self._find_origins(stem, notebook["cells"])
        self.partner: dict[Spot, Spot] = {}  # new -> mine
        self.place: dict[Spot, Spot] = {}  # mine -> new, the inverse
        self.renamed: dict[tuple[str, str], tuple[str, str]] = {}  # exercises: old -> new
        self.displaced: set[Spot] = set()  # mine, whose partner has another text: both stay
        self.returned: set[Spot] = set()  # mine, kept when an exercise went that is here again

    def run(self) -> dict[str, Merged]:
        self._pair_by_id()
        self._pair_answers()
        self._pair_by_role()
        self._find_returned()
        return self._build()

    # Which cell of the learner's is which of the release

    def _find_origins(self, stem: str, cells: list[Cell]) -> None:
        """Tell released cells from the learner's own: by id, or by content where an id is lost."""
        known = dict.fromkeys(self.known.get(stem, ()))
        known |= dict.fromkeys(
            c["id"] for c in self.new_notebooks.get(stem, {"cells": []})["cells"]
        )
        taken = set()
        left = []
        for i, cell in enumerate(cells):
            if _is_kept(cell):
                continue
            name = str(cell.get("id", ""))
            is_released = name in known or _without_count(name) == _id_of_content(cell)
            if is_released and name not in taken:
                self.origin[Spot(stem, i)] = name
                taken.add(name)
            else:
                left.append(i)
        free = defaultdict(list)
        for name in known:
            if name not in taken:
                free[_without_count(name)].append(name)
        for i in left:
            if names := free[_id_of_content(cells[i])]:
                self.origin[Spot(stem, i)] = names.pop(0)

    def _is_edited(self, spot: Spot) -> bool:
        """Whether the learner wrote what a cell says."""
        origin = self.origin.get(spot)
        return origin is None or _without_count(origin) != _id_of_content(self.mine[spot])

    def _pair(self, new: Spot, mine: Spot) -> None:
        self.partner[new], self.place[mine] = mine, new

    def _pair_by_id(self) -> None:
        by_id = {(spot.stem, name): spot for spot, name in self.origin.items()}
        for spot, cell in self.new.items():
            if found := by_id.get((spot.stem, cell["id"])):
                self._pair(spot, found)

    def _pair_answers(self) -> None:
        """Find the answers of exercises whose stub is another now, or that are in another chapter.

        By the stub's id, by the function that it asks for, at last by the exercise's number.
        """
        wanted = [
            spot
            for spot, cell in self.new.items()
            if _role(cell) == "answer" and spot not in self.partner
        ]
        for fits in (self._same_stub, self._same_function, self._same_number):
            for spot in wanted:
                if spot in self.partner:
                    continue
                there = (other for other in self.mine if other not in self.place)
                # The learner's own chapter first, and there an answer cell before any other.
                found = [other for other in there if fits(spot, other)]
                if found:
                    best = min(found, key=lambda one: self._distance(spot, one))
                    self._pair(spot, best)
                    is_old = self.new[spot]["id"] in self.known.get(spot.stem, ())
                    if fits == self._same_number and self._is_edited(best) and not is_old:
                        self.displaced.add(best)
        for spot, mine in self.partner.items():
            if _role(self.new[spot]) == "answer":
                old = (mine.stem, _exercise(self.mine[mine]) or _exercise(self.new[spot]))
                self.renamed[old] = (spot.stem, _exercise(self.new[spot]))

    def _distance(self, new: Spot, mine: Spot) -> tuple[bool, bool, Spot]:
        return mine.stem != new.stem, _role(self.mine[mine]) != "answer", mine

    def _same_stub(self, new: Spot, mine: Spot) -> bool:
        return self.origin.get(mine) == self.new[new]["id"]

    def _same_function(self, new: Spot, mine: Spot) -> bool:
        cell = self.mine[mine]
        is_answer = "answer" in (_role(cell), _former_role(cell))
        if not is_answer and (mine.stem != new.stem or _role(cell)):
            return False
        return self._function(new) in _names(cell)

    def _same_number(self, new: Spot, mine: Spot) -> bool:
        cell, wanted = self.mine[mine], self.new[new]
        return (
            mine.stem == new.stem
            and _role(cell) == "answer"
            and _exercise(cell) == _exercise(wanted)
        )

    def _pair_by_role(self) -> None:
        """Find prompts, checks and set-up cells whose text is another now."""
        old_of = {now: old for old, now in self.renamed.items()}
        free = defaultdict(list)
        for spot, cell in self.mine.items():
            if spot not in self.place and _role(cell) not in ("", "answer"):
                free[spot.stem, _role(cell), _exercise(cell)].append(spot)
        for spot, cell in self.new.items():
            role, exercise = _role(cell), _exercise(cell)
            if spot in self.partner or role in ("", "answer"):
                continue
            now = (spot.stem, exercise)
            stem, number = old = old_of.get(now, now)
            if exercise and self.renamed.get(old, now) != now:
                continue  # the number was another exercise's
            if found := free[stem, role, number]:
                mine = found.pop(0)
                self._pair(spot, mine)
                if self._is_edited(mine):
                    self.displaced.add(mine)

    def _find_returned(self) -> None:
        """Find the copies of answers that come back to their chapter, and what is with them."""
        shown = defaultdict(set)
        for new, mine in self.partner.items():
            came = _is_kept(self.mine[mine]) or mine.stem != new.stem
            if came and _role(self.new[new]) == "answer" and mine not in self.displaced:
                shown[new.stem].add(_text(self.mine[mine]))
        asked = {source_of(cell) for cell in self.new.values() if _role(cell) == "prompt"}
        for stem, notebook in self.notebooks.items():
            kept = defaultdict(list)
            for i, cell in enumerate(notebook["cells"]):
                if _is_kept(cell):
                    kept[_former_role(cell)].append(Spot(stem, i))
            back = {spot for spot in kept["answer"] if _text(self.mine[spot]) in shown[stem]}
            others = {_former_exercise(self.mine[spot]) for spot in {*kept["answer"]} - back}
            numbers = {_former_exercise(self.mine[spot]) for spot in back} - others
            for spot in kept["prompt"]:
                cell = self.mine[spot]
                is_ours = _without_count(str(cell.get("id"))) == _id_of_content(cell)
                if _former_exercise(cell) in numbers and (is_ours or source_of(cell) in asked):
                    back.add(spot)
            if back and back.issuperset(
                s for role in kept.keys() - {"heading"} for s in kept[role]
            ):
                back |= {s for s in kept["heading"] if source_of(self.mine[s]) == HEADING}
            self.returned |= back

    def _function(self, new: Spot) -> str:
        return (_names(self.new[new]) or [""])[-1]

    # The new notebooks

    def _build(self) -> dict[str, Merged]:
        behind, tail = self._learners_own()
        built = {}
        for stem, notebook in self.new_notebooks.items():
            cells: list[Cell] = []
            own: list[Cell] = []
            for i in range(-1, len(notebook["cells"])):
                spot = Spot(stem, i)
                if i >= 0 and (shown := self._shown(spot)) is not None:
                    cells.append(shown)
                cells += behind[spot]
                own += behind[spot]
            if tail[stem]:
                has_heading = any(_former_role(cell) == "heading" for cell in own)
                rest = [*([] if has_heading else [_heading()]), *tail[stem]]
                cells += rest
                own += rest
            _name_cells(own, {cell["id"] for cell in notebook["cells"]})
            mine = self.notebooks.get(stem, {})
            merged = {**notebook, **mine, "cells": cells}
            about = mine.get("metadata")
            merged["metadata"] = {
                **notebook["metadata"],
                **(about if isinstance(about, dict) else {}),
                "attncourse": notebook["metadata"]["attncourse"],
            }
            minor = mine.get("nbformat_minor")  # below 5 cells have no ids
            merged["nbformat_minor"] = max(minor if isinstance(minor, int) else 0, 5)
            kept = sum(
                spot.stem == stem and self._is_edited(spot) and _former_role(cell) != "heading"
                for spot, cell in self.mine.items()
                if spot not in self.returned
            )
            built[stem] = Merged(merged, list(self._changes(stem)), kept)
        return built

    def _shown(self, spot: Spot) -> Cell | None:
        """Return the cell that stands in a place of the new release; None if it was deleted."""
        cell, mine = self.new[spot], self.partner.get(spot)
        if mine is None:
            is_chapter = course_metadata(self.new_notebooks[spot.stem]).get("kind") == "chapter"
            was_there = spot.stem in self.notebooks and cell["id"] in self.known.get(spot.stem, ())
            return None if is_chapter and was_there else copy.deepcopy(cell)
        theirs = self.mine[mine]
        is_edited = self._is_edited(mine)
        if mine in self.displaced or (not is_edited and _text(theirs) != _text(cell)):
            return copy.deepcopy(cell)
        shown = copy.deepcopy(theirs)
        shown["id"] = cell["id"]
        metadata = shown.setdefault("metadata", {})
        metadata.pop("attncourse", None)
        if ours := course_metadata(cell):
            metadata["attncourse"] = ours
        own = metadata.get("tags")
        if tags := [*cell["metadata"].get("tags", []), *(own if isinstance(own, list) else [])]:
            metadata["tags"] = list(dict.fromkeys(map(str, tags)))
        stored = self.known.get(mine.stem, {}).get(self.origin.get(mine, ""))
        if not is_edited and cell["cell_type"] == "code" and stored == outputs_of(theirs):
            shown |= {name: copy.deepcopy(cell[name]) for name in ("outputs", "execution_count")}
        return shown

    def _learners_own(self) -> tuple[dict[Spot, list[Cell]], dict[str, list[Cell]]]:
        """Return what stands behind each place of the new release, and at each notebook's end."""
        behind: dict[Spot, list[Cell]] = defaultdict(list)
        tail: dict[str, list[Cell]] = defaultdict(list)
        gone = self._gone()
        for stem, notebook in self.notebooks.items():
            where: Spot | None = Spot(stem, -1)  # None: at the end
            for i, cell in enumerate(notebook["cells"]):
                spot = Spot(stem, i)
                if spot in self.returned:
                    continue
                if spot in self.place and not _is_kept(cell):
                    where = self.place[spot]
                    if spot in self.displaced:
                        behind[where].append(_as_kept(cell))
                    if where.stem != stem and self._is_edited(spot):
                        tail[stem].append(_as_kept(cell))  # it has moved, and a copy stays
                    continue
                is_of_gone = (stem, _exercise(cell)) in gone and _role(cell) in ("prompt", "answer")
                if not self._is_edited(spot) and not is_of_gone:
                    continue  # the release's, which has it no more
                if is_of_gone:
                    where = None
                own = _as_kept(cell)
                if where is None or where.stem != stem:
                    tail[stem].append(own)
                if where is not None:
                    behind[where].append(copy.deepcopy(own))
        return behind, tail

    def _gone(self) -> set[tuple[str, str]]:
        """Return the exercises that the release has no more and that have an answer."""
        return {
            (spot.stem, _exercise(cell))
            for spot, cell in self.mine.items()
            if _role(cell) == "answer"
            and self._is_edited(spot)
            and (spot.stem, _exercise(cell)) not in self.renamed
        }

    # What is told

    def _changes(self, stem: str) -> Iterator[str]:
        here = [spot for spot in self.new if spot.stem == stem]
        fresh = [spot for spot in here if self._is_fresh(spot)]
        for spot in here:
            if _role(self.new[spot]) == "answer":
                yield from self._changes_of_exercise(spot, fresh)
        for number in sorted(
            {
                _exercise(cell)
                for spot, cell in self.mine.items()
                if spot.stem == stem
                and _role(cell) == "answer"
                and (stem, _exercise(cell)) not in self.renamed
            }
        ):
            where = '; your answer stands at the end, under "Kept"'
            yield f"{number} is no longer here{where if (stem, number) in self._gone() else ''}"
        others = [spot for spot in fresh if _role(self.new[spot]) in ("", "setup")]
        if others and stem in self.notebooks:
            yield f"{_counted(len(others), 'cell is', 'cells are')} new or changed"
        yield from self._edited_by_both(stem)
        edits = [
            spot
            for spot in self.displaced
            if spot.stem == stem and _role(self.mine[spot]) != "answer"
        ]
        if edits:
            says = _counted(
                len(edits), "cell that you had edited stands", "cells that you had edited stand"
            )
            yield f"{says} below the new text"

    def _edited_by_both(self, stem: str) -> Iterator[str]:
        """Tell of a chapter's cells that the learner edited and the release has no more."""
        known, where = self.known.get(stem, ()), -1
        for i, cell in enumerate(self.notebooks.get(stem, {"cells": []})["cells"]):
            spot = Spot(stem, i)
            if spot in self.place:
                where = self.place[spot].number if self.place[spot].stem == stem else where
            elif self.origin.get(spot) in known and self._is_edited(spot) and not _role(cell):
                below = (s for s in self.new if s.stem == stem and s.number > where)
                after = next((s for s in below if self._shown(s) is not None), None)
                is_rewritten = (
                    after is not None
                    and self._is_fresh(after)
                    and self.new[after]["cell_type"] == cell["cell_type"]
                )
                says = ("changed", " above the new one") if is_rewritten else ("dropped", "")
                text = source_of(cell).strip().partition("\n")[0] or "it is empty"
                text = text if len(text) <= 40 else f"{text[:39]}…"
                yield (
                    f"the release has {says[0]} a cell that you had edited: "
                    f'yours stays{says[1]} ("{text}")'
                )

    def _changes_of_exercise(self, spot: Spot, fresh: list[Spot]) -> Iterator[str]:
        cell = self.new[spot]
        number, mine = _exercise(cell), self.partner.get(spot)
        title = _titles(self.new_notebooks[spot.stem]).get(number, "")
        if mine is None:
            if spot.stem not in self.notebooks:
                return
            says = f"is new: {title}" if spot in fresh else "was missing, and is back"
            yield f"{number} {says}"
            return
        answered = self._is_edited(mine)
        here = (spot.stem, number)
        before = next((old for old, now in self.renamed.items() if now == here), here)
        if before != here:
            along = ", and your answer went along" if answered else ""
            yield f"{before[1]} is now {number}{along}"
        called = _titles(self.notebooks.get(before[0], {"cells": []})).get(before[1])
        prompts = [
            s for s in fresh if (_role(self.new[s]), _exercise(self.new[s])) == ("prompt", number)
        ]
        if called and called != title:
            yield f'{number} is now called "{title}", before "{called}"'
        elif prompts and before[1] == number:
            yield f"{number}: the text has changed"
        if mine in self.displaced:
            function = self._function(spot)
            yield f"{number} asks for `{function}` now: your answer stands below its cell"
        elif answered and spot in fresh and self.origin.get(mine) != cell["id"]:
            yield f"{number}: the cell to fill in has changed; your answer stays in it"

    def _is_fresh(self, spot: Spot) -> bool:
        """Whether a cell's text is not that of the learner's release."""
        name, mine = self.new[spot]["id"], self.partner.get(spot)
        was_known = name in self.known.get(spot.stem, ())
        return not was_known and (mine is None or self.origin.get(mine) != name)


def _text(cell: Cell) -> tuple[str, str]:
    return cell["cell_type"], source_of(cell)


def _titles(notebook: Notebook) -> dict[str, str]:
    """Return the titles of the exercises by number."""
    prompts = (source_of(cell) for cell in notebook["cells"] if _role(cell) == "prompt")
    return {found[1]: found[2] for text in prompts if (found := _TITLE.search(text))}


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _heading() -> Cell:
    metadata = {"attncourse": {KEPT: {"role": "heading"}}}
    return {"cell_type": "markdown", "id": KEPT, "metadata": metadata, "source": HEADING}


def _name_cells(own: Iterable[Cell], reserved: set[str]) -> None:
    """Give each cell of the learner's an id that no other cell has, and none of the release's."""
    names = set(reserved)
    for cell in own:
        name, number = str(cell.get("id") or ""), 0
        is_copy = not _is_kept(cell) and _without_count(name) == _id_of_content(cell)
        while not name or name in names or (is_copy and number == 0):
            text = f"{number}\n{source_of(cell)}"
            name = hashlib.sha256(text.encode()).hexdigest()[:8]  # no released id is as short
            number += 1
        names.add(name)
        cell["id"] = name
