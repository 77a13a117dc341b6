"""The inventory, and the table of the cells that handle it."""

import functools
import json
import re
from pathlib import Path

import pytest

from attncourse import claims, coverage
from attncourse.authoring import sources
from attncourse.sources import BuildError, Source, covered, parsed, read

ROOT = Path(__file__).parents[1]
SHOWN = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
}


@functools.cache
def written():
    return [read(path, ROOT) for path in sources(ROOT)]


@functools.cache
def this_course():
    return coverage.markdown(written(), ROOT)


def toy(text, stem="04_window", kind="chapter"):
    cells = parsed(text)[0]
    lines = list(range(1, len(cells) + 1))
    return Source(f"notebooks/_source/{stem}.py", stem, kind, cells, [], lines, lines)


def build(folder, source, *shown):
    """Lay down the notebook of a source; its code cells showed these outputs, one list each."""
    lists = iter(shown)
    cells = [
        {"cell_type": cell.cell_type, "source": cell.source, "metadata": dict(cell.metadata)}
        | ({"execution_count": 1, "outputs": next(lists)} if cell.cell_type == "code" else {})
        for cell in source.cells
    ]
    path = folder / "notebooks" / f"{source.stem}.ipynb"
    path.parent.mkdir(exist_ok=True)
    solutions(folder)
    path.write_text(json.dumps({"cells": cells}))
    return source


def solutions(folder):
    """Lay down the source of an exercise that can be linked."""
    path = folder / "solutions" / "_source" / "04_window.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def text(*lines):
    return {"output_type": "stream", "name": "stdout", "text": list(lines)}


def data(plain, **more):
    return {"output_type": "display_data", "data": {"text/plain": plain, **more}}


IGNORED = '# %% tags=["nbval-ignore-output"]\n'
CARD = data("C057 · chapter V · window", **{"text/html": "<table></table>"})
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
PICTURE = data("A band.", **{"text/html": "<p>A band.</p>"})


def test_the_inventory_is_whole():
    topics = coverage.inventory()
    assert len(topics) == 350
    for id, topic in topics.items():
        assert re.fullmatch(r"[A-Y]\d+", id) and topic.item and topic.learner_does
        assert topic.chapters and all(re.fullmatch(r"\d\d", chapter) for chapter in topic.chapters)
        assert set(topic.texts) <= {"survey", "notes", "chapter E", "chapter V", "implied"}
    assert topics["G15"].is_a_sentence and not topics["F2"].is_a_sentence


def test_written_chapters_leave_nothing_out():
    assert coverage.missing(written(), ROOT) == []


def test_a_chapter_that_drops_a_topic_is_told(tmp_path):
    one = toy('# %% [markdown] covers="F1"\n# # One\n\n# %%\n1')
    everything = coverage.missing([build(tmp_path, one, [text("1")])], tmp_path)
    assert not any("topic F1," in line for line in everything)
    assert any(line.startswith("chapter 04: no section covers topic F2, ") for line in everything)
    assert not any("chapter 05" in line for line in everything)


def test_each_chapter_named_for_a_topic_handles_it_itself(tmp_path):
    """F13 is asked of 04 and of 05."""
    cells = '# %% [markdown] {}="F13"\n# # One\n\n# %%\n1'
    covers = build(tmp_path, toy(cells.format("covers"), "05_sparse"), [text("1")])
    points = build(tmp_path, toy(cells.format("points"), "04_window"), [text("1")])
    left_out = [line for line in coverage.missing([points, covers], tmp_path) if "F13" in line]
    assert left_out == ["chapter 04: no section covers topic F13, dilated windows; chapter 05 does"]
    table = coverage.markdown([points, covers], tmp_path)
    own, other = re.findall(r"^\| F13 \|.*$", table, re.M)
    assert "| nowhere | 04, [One](../notebooks/04_window.ipynb), cell 1 (points to it); 05, " in own
    assert "| [One](../notebooks/05_sparse.ipynb), cell 1 (text) | 04, " in other


@pytest.mark.parametrize(
    ("section", "shown", "ran"),
    [
        ("# %%\nprint(1)", [[text("1")]], ("text",)),
        ("# %%\n1", [[text("1"), PICTURE]], ("picture", "text")),
        ("# %%\n1", [[data("a", **{"image/png": "aGk="})]], ("picture",)),
        ("# %%\nwidgets.explore(draw)", [[data("Window 3.")]], ("slider",)),
        ("# %% [markdown]\n# ### Below\n\n# %%\n1", [[text("1")]], ("text",)),
        (IGNORED + "if a:\n    print(a)", [[]], ("what varies by the run",)),
        (IGNORED + "for one in a:\n    pass\none", [[]], ("what varies by the run",)),
        (
            "# %% [markdown]\n# [Exercise 04.3](../exercises/04_window.ipynb)",
            [],
            ("linked exercise",),
        ),
        ('# %%\nclaims.check("C057", 12 * n)', [[CARD]], ("checked claim",)),
        ("# %%\npass", [[]], ()),
        (IGNORED + "pass", [[]], ()),
        (IGNORED + "a.append(measure.seconds(f))", [[]], ()),
        (IGNORED + "def f():\n    print(1)", [[]], ()),
        ("# %%\nprint()", [[text("\n")]], ()),
        ("# %%\nf()", [[text("old") | {"name": "stderr"}]], ()),
        (
            "# %%\nf()",
            [[ERROR]],
            (),
        ),
        ("# %%\n1  # widgets.explore(", [[text("1")]], ("text",)),
        ('# %%\nclaims.check("C057")', [[CARD]], ()),
        ('# %%\nclaims.check("C057", None)', [[CARD]], ()),
        ('# %%\nclaims.check("C057", value=None)', [[CARD]], ()),
        ("# %% [markdown]\n# [None](../exercises/99_none.ipynb)", [], ()),
        ("# %% [markdown]\n# `[Link](../exercises/04_window.ipynb)`", [], ()),
        ("# %% [markdown]\n# <!-- [Link](../exercises/04_window.ipynb) -->", [], ()),
        ("# %% [markdown]\n# ```\n# # no heading\n# ```\n\n# %%\n1", [[text("1")]], ("text",)),
        ("# %% [markdown]\n# Only words about `exercises/04_window.ipynb`.", [], ()),
        ("# %% [markdown]\n# ## The next section\n\n# %%\n1", [[text("1")]], ()),
        ("# %% [markdown]\n# # A part\n\n# %%\n1", [[text("1")]], ()),
    ],
)
def test_a_section_rests_on_what_its_cells_showed(tmp_path, section, shown, ran):
    source = toy(f'# %% [markdown] covers="F2 G15"\n# ## Edges\n\n{section}')
    build(tmp_path, source, *shown)
    assert {place.ran for (place,) in coverage.places([source], tmp_path).values()} == {ran}
    empty = [line for line in coverage.missing([source], tmp_path) if "Edges" in line]
    assert len(empty) == (not ran)
    if empty:  # G15 asks for a sentence
        assert empty[0].startswith('notebooks/_source/04_window.py:1: cell 1: in "Edges" no code')
        assert "does not cover F2. If it only says which page does, write `points=`" in empty[0]


def test_a_title_covers_what_stands_before_the_first_section(tmp_path):
    cells = '# %% [markdown] covers="F1 F2"\n# # All\n\n# %% [markdown]\n# ## One\n\n# %%\n1'
    source = build(tmp_path, toy(cells), [text("1")])
    assert any("does not cover F1, F2." in line for line in coverage.missing([source], tmp_path))


def test_an_exercise_named_above_a_heading_belongs_to_the_section_before(tmp_path):
    link = "[Exercise 04.3](../exercises/04_window.ipynb)"
    cells = f"""\
# %% [markdown] covers="F1"
# ## One

# %% [markdown] covers="F2"
# {link} is about that.
#
# ## Two
"""
    solutions(tmp_path)
    found = coverage.places([toy(cells)], tmp_path)
    assert found["F1"][0].ran == ("linked exercise",) and found["F2"][0].ran == ()


@pytest.mark.parametrize("cell", ["# ## One\n#\n# ## Two", "# ## One\n#\n# # Two"])
def test_a_second_heading_in_the_cell_ends_the_section(tmp_path, cell):
    source = toy(f'# %% [markdown] covers="F2"\n{cell}\n\n# %%\n1')
    build(tmp_path, source, [text("1")])
    assert coverage.places([source], tmp_path)["F2"][0].ran == ()


def test_a_cell_that_changed_since_the_build_has_not_run(tmp_path):
    cells = '# %% [markdown] covers="F2"\n# ## Edges\n\n# %%\nprint({})'
    build(tmp_path, toy(cells.format(1)), [text("1")])
    assert coverage.places([toy(cells.format(1))], tmp_path)["F2"][0].ran == ("text",)
    assert coverage.places([toy(cells.format(2))], tmp_path)["F2"][0].ran == ()


@pytest.mark.parametrize("option", ["covers", "points"])
def test_an_unknown_id_is_refused(option):
    with pytest.raises(BuildError, match=r"04_window\.py:1: cell 1: there is no topic F99"):
        coverage.places([toy(f'# %% [markdown] {option}="F99"\n# # One')], ROOT)


def test_a_place_names_section_and_cell_and_links_to_the_notebook():
    text = '# %%\n1\n\n# %% [markdown] covers="F2 F4-F5"\n# ## Edges'
    link = "[Edges](../notebooks/04_window.ipynb), cell 2"
    found = coverage.places([toy(text)], ROOT)
    assert {id: place.link for id, (place,) in found.items()} == dict.fromkeys(
        ["F2", "F4", "F5"], link
    )
    exercise = '# %% [markdown]\n# ## 04.V1 Mask\n\n# %% role="check" exercise="04.V1"\n1'
    [place] = coverage.places([toy(exercise, kind="solutions")], ROOT)["V1"]
    assert place.link == "[04.V1 Mask](../solutions/04_window.ipynb), cell 2"
    assert place.chapter == "04" and place.ran == ("graded exercise",)


def test_ranges_are_spelt_out():
    assert covered("F2 F09-F11 V9-V10") == ["F2", "F09", "F10", "F11", "V9", "V10"]
    assert covered("") == []


def test_the_table_names_each_id_of_a_written_chapter_once():
    page = this_course()
    assert "nowhere" not in page
    for number in {source.stem[:2] for source in written()}:
        ids = [id for id, topic in coverage.inventory().items() if number in topic.chapters]
        if ids:
            [section] = re.findall(
                rf"^## {number}_\w+(?:, \w+)*\n(.*?)(?=^## |\Z)", page, re.S | re.M
            )
            assert [id for id in ids if section.count(f"\n| {id} | ") != 1] == []


def test_two_parts_of_a_chapter_share_its_topics():
    one = toy('# %% [markdown] covers="F2"\n# # One', "04_window")
    two = toy('# %% [markdown] covers="F4"\n# # Two', "04_window_tiles")
    table = coverage.markdown([one, two], ROOT)
    assert "\n## 04_window, 04_window_tiles\n" in table
    assert "[One](../notebooks/04_window.ipynb), cell 1" in table
    assert "[Two](../notebooks/04_window_tiles.ipynb), cell 1" in table


def test_a_topic_of_an_unwritten_chapter_is_planned():
    page = coverage.markdown([toy('# %% [markdown] covers="F2"\n# # One', "04_window")], ROOT)
    planned = page.split("\n## Planned\n")[1].split("\n## ")[0]
    for id, topic in coverage.inventory().items():
        assert planned.count(f"\n| {id} | ") == (topic.chapters != ("04",)), id


def test_a_course_that_is_whole_plans_nothing():
    assert "## Planned" not in this_course()


def test_each_claim_stands_with_the_notebooks_that_showed_its_card():
    page = this_course()
    for id in claims.LEDGER:
        [row] = re.findall(rf"^\| {id} \|.*$", page, re.M)
        assert (f"{id} · " in SHOWN["17_audit"]) is ("[17_audit]" in row)
    with_cards = [s for s, text in SHOWN.items() if any(f"{id} · " in text for id in claims.LEDGER)]
    assert len(with_cards) > 10
    assert all(f"| [{stem}](" in page or f"; [{stem}](" in page for stem in with_cards)


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
