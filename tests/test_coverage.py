"""The inventory, and the table of the cells that handle it."""

import functools
import json
import re
from pathlib import Path

import pytest

from attncourse import claims, coverage
from attncourse.authoring import sources
from attncourse.sources import BuildError, Source, covered, read

ROOT = Path(__file__).parents[1]
SHOWN = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
}


@functools.cache
def written():
    return [read(path, ROOT) for path in sources(ROOT)]


def toy(text, stem="04_window", kind="chapter"):
    import jupytext

    cells = jupytext.reads(text, fmt="py:percent").cells
    lines = list(range(1, len(cells) + 1))
    return Source(f"notebooks/_source/{stem}.py", stem, kind, cells, [], lines, lines)


def test_the_inventory_is_whole():
    topics = coverage.inventory()
    assert len(topics) == 335
    for id, topic in topics.items():
        assert re.fullmatch(r"[A-Y]\d+", id) and topic.item
        assert topic.chapters and all(re.fullmatch(r"\d\d", chapter) for chapter in topic.chapters)
        assert set(topic.texts) <= {"survey", "notes", "chapter E", "chapter V", "implied"}


def test_written_chapters_leave_nothing_out():
    assert coverage.missing(written()) == []


def test_a_chapter_that_drops_a_topic_is_told():
    everything = coverage.missing([toy('# %% [markdown] covers="F1"\n# # One')])
    assert not any("topic F1," in line for line in everything)
    assert any(line.startswith("chapter 04: no cell covers topic F2, ") for line in everything)
    assert not any("chapter 05" in line for line in everything)


def test_an_unknown_id_is_refused():
    with pytest.raises(BuildError, match=r"04_window\.py:1: cell 1: there is no topic F99"):
        coverage.places([toy('# %% [markdown] covers="F99"\n# # One')])


def test_a_place_names_section_and_cell_and_links_to_the_notebook():
    text = '# %%\n1\n\n# %% [markdown] covers="F2 F4-F5"\n# ## Edges'
    link = "[Edges](../notebooks/04_window.ipynb), cell 2"
    assert coverage.places([toy(text)]) == {"F2": [link], "F4": [link], "F5": [link]}
    exercise = '# %% role="check" exercise="04.V1"\ncheck("04.V1")'
    found = coverage.places([toy(exercise, kind="solutions")])
    assert found == {"V1": ["[04_window](../solutions/04_window.ipynb), cell 1"]}


def test_ranges_are_spelt_out():
    assert covered("F2 F09-F11 V9-V10") == ["F2", "F09", "F10", "F11", "V9", "V10"]
    assert covered("") == []


def test_the_table_names_each_id_of_a_written_chapter_once():
    table = coverage.markdown(written(), ROOT)
    assert "nowhere" not in table
    for number in {source.stem[:2] for source in written()}:
        ids = [id for id, topic in coverage.inventory().items() if number in topic.chapters]
        if ids:
            [section] = re.findall(rf"^## {number}_\w+(?:, \w+)*\n(.*?)(?=^## |\Z)", table, re.S | re.M)
            assert [id for id in ids if section.count(f"\n| {id} | ") != 1] == []


def test_two_parts_of_a_chapter_share_its_topics():
    one = toy('# %% [markdown] covers="F2"\n# # One', "04_window")
    two = toy('# %% [markdown] covers="F4"\n# # Two', "04_window_tiles")
    table = coverage.markdown([one, two], ROOT)
    assert "\n## 04_window, 04_window_tiles\n" in table
    assert "[One](../notebooks/04_window.ipynb), cell 1" in table
    assert "[Two](../notebooks/04_window_tiles.ipynb), cell 1" in table


def test_each_claim_stands_with_the_notebooks_that_showed_its_card():
    table = coverage.markdown(written(), ROOT)
    for id in claims.LEDGER:
        [row] = re.findall(rf"^\| {id} \|.*$", table, re.M)
        assert (f"{id} · " in SHOWN["17_audit"]) is ("[17_audit]" in row)
    assert all(f"| [{stem}](" in table or f"; [{stem}](" in table for stem in SHOWN)


def test_only_what_a_run_displayed_counts(tmp_path):
    """A tag, a comment or a line of code that was never run shows nothing."""
    card = {"output_type": "display_data", "data": {"text/plain": ["C057 · chapter V · window"]}}
    cells = [
        {"source": 'claims.check("C001")', "outputs": []},
        {"source": "", "outputs": [card]},
        {"source": "# C002 · a comment"},
    ]
    path = tmp_path / "04_window.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert coverage.shown(path) == ["C057"]
