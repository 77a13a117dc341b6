"""The map of the course in chapter 00: all chapters, counted minutes, links that lead somewhere."""

import csv
import json
import re
from pathlib import Path

import pytest

from attncourse import arc
from attncourse.grading import exercises

ROOT = Path(__file__).parents[1]


def notebook(path, *cells):
    made = [{"cell_type": kind, "source": text, "metadata": {}} for kind, text in cells]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": made}))


def test_each_chapter_has_one_row_in_order():
    with (ROOT / "attncourse/data/arc.csv").open(newline="") as file:
        rows = [row["chapter"] for row in csv.DictReader(file)]
    assert rows == sorted({path.name[:2] for path in (ROOT / "notebooks/_source").glob("*.py")})


def test_reading_is_counted(tmp_path):
    text = f"# 04 · Window: near\n{'word ' * 295}<!-- summary: not read -->\n$$ not \\ a \\ word $$"
    notebook(tmp_path / "notebooks/04_window.ipynb", ("markdown", text), ("code", "1"))
    notebook(tmp_path / "notebooks/04_window_tiles.ipynb", ("markdown", "# 04 · B"), ("code", "2"))
    [one] = arc.chapters(tmp_path)
    assert (one.number, one.title) == ("04", "Window")
    assert one.stems == ("04_window", "04_window_tiles")
    assert one.reading == pytest.approx((295 + 5 + 4) / 150 + 2 * 0.5)


def test_a_guess_and_a_slider_take_a_minute_each(tmp_path):
    code = [
        ("code", "plain()"),
        ("code", 'widgets.guess("How many?", 1)'),
        ("code", "one = widgets.explore(draw, figure)\nwidgets.choice([])"),
        ("code", "widgets.in_a_real_model(a)\nwidgets.form(b)"),
    ]
    notebook(tmp_path / "notebooks/04_window.ipynb", ("markdown", "# 04 · Window"), *code)
    [one] = arc.chapters(tmp_path)
    assert one.reading == pytest.approx(4 / 150 + 0.5 + 1 + 1 + 2)


@pytest.mark.parametrize("number", ["00", "04"])
def test_exercises_take_what_their_prompts_say(number):
    [one] = [one for one in arc.chapters(ROOT) if one.number == number]
    assert one.exercises == sum(each.minutes for each in exercises.chapter_exercises(number))


def test_the_map_does_not_depend_on_the_notebook_that_shows_it(tmp_path):
    shown = []
    for words in ("one", "one " * 5000):
        notebook(tmp_path / "notebooks/00_start.ipynb", ("markdown", "# 00 · Start\n" + words))
        notebook(tmp_path / "notebooks/01_cost.ipynb", ("markdown", "# 01 · Cost"))
        shown.append((repr(arc.Map(root=tmp_path)), arc.Map(root=tmp_path)._repr_html_()))
    assert shown[0] == shown[1]


def test_its_links_lead_to_the_notebooks():
    page = arc.Map()._repr_html_()
    links = re.findall(r'href="([^"]+)"', page)
    assert links == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_a_row_is_a_line_and_the_map_a_screen():
    chapters = arc.chapters()
    assert len(chapters) <= 20
    assert all(0 < len(one.afterwards) <= 65 and len(one.title) <= 30 for one in chapters)
