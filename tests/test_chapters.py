"""The form of a chapter, read from its source: how long it is, what it may show, where it leads."""

import functools
import itertools
import re
from pathlib import Path

import pytest

from attncourse.sources import read

ROOT = Path(__file__).parents[1]
SOURCES = [
    f"{folder}/{path.stem}"
    for folder in ("notebooks", "solutions")
    for path in sorted((ROOT / folder / "_source").glob("[0-9][0-9]_*.py"))
]
CHAPTERS = [name for name in SOURCES if name.startswith("notebooks/")]
LESSONS = [name for name in CHAPTERS if name[10:12] not in ("00", "17")]  # not the frame
LINK = re.compile(r"\]\(([^()\s]+)\)")
NOT_WORDS = re.compile(r"\$\$.*?\$\$|<!--.*?-->", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@functools.cache  # not when it is imported: parsing all takes a second
def cells(name):
    folder, _, stem = name.partition("/")
    return read(ROOT / folder / "_source" / f"{stem}.py", ROOT).cells


def code(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "code"]


def prose(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "markdown"]


def anchors(name):
    """What JupyterLab calls the headings of a notebook."""
    return {
        title.strip().replace(" ", "-") for text in prose(name) for title in HEADING.findall(text)
    }


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_read_in_one_sitting(name):
    assert len(cells(name)) <= 120
    assert [text for text in prose(name) if len(NOT_WORDS.sub("", text).split()) > 120] == []


@pytest.mark.parametrize("name", LESSONS)
def test_at_most_three_cards_and_never_two_in_a_row(name):
    cards = ["claims.check(" in text for text in code(name)]
    assert sum(text.count("claims.check(") for text in code(name)) <= 3
    assert not any(one and two for one, two in itertools.pairwise(cards))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_for_three_to_five_guesses(name):
    assert 3 <= sum(text.count("widgets.guess(") for text in code(name)) <= 5


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_code_of_a_guess_is_folded_since_it_holds_the_answer(name):
    guesses = [cell for cell in cells(name) if "widgets.guess(" in cell.source]
    assert all(cell.metadata.get("folded") for cell in guesses)


@pytest.mark.parametrize("name", SOURCES)
def test_links_lead_to_a_file_and_to_a_heading_in_it(name):
    folder = Path(name).parent
    folders = [folder] if folder.name == "notebooks" else [folder, Path("exercises")]
    for text in prose(name):
        for link in LINK.findall(text):
            target, _, anchor = link.partition("#")
            if link.startswith("https://"):
                continue
            for start in folders:
                path = (ROOT / start / target).resolve() if target else ROOT / f"{name}.ipynb"
                assert path.exists() or path.suffix == ".ipynb", link
                if path.suffix == ".ipynb":
                    place = "notebooks" if path.parent.name == "notebooks" else "solutions"
                    assert f"{place}/{path.stem}" in SOURCES, link
                    assert not anchor or anchor in anchors(f"{place}/{path.stem}"), link


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("solutions/")])
def test_each_exercise_is_linked_from_its_chapter_and_links_back(name):
    number = name[10:12]
    parts = [chapter for chapter in CHAPTERS if chapter[10:12] == number]
    text = "\n".join(part for chapter in parts for part in prose(chapter))
    prompts = {}
    for cell in cells(name):
        if cell.metadata.get("role") == "prompt":
            prompts.setdefault(cell.metadata["exercise"], []).append(cell.source)
    for exercise, texts in prompts.items():
        linked = rf"\[[^\]]*\b{re.escape(exercise)}\b[^\]]*\]\(\.\./exercises/{number}_"
        assert re.search(linked, text), exercise
        assert f"](../notebooks/{number}_" in "".join(texts), exercise
