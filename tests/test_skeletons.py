"""`attncourse new`: a chapter and an exercise that build from the first minute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attncourse import authoring, cli, skeletons
from attncourse.sources import BuildError, read

ROOT = Path(__file__).parents[1]
FINISHED = """\
    mistakes=[
        edit("n * n", "2 * n", says="your number grows with n, not with n²", next="count pairs"),
        edit("n * n", "n", says="your number is n", next="each has n partners"),
        edit("n * n", "n * n // 2", says="you counted each pair once", next="count both ways"),
        edit("n * n", "n * (n - 1)", says="you left out the diagonal", next="include it"),
        edit("n * n", "n**3", says="your number grows with n³", next="two factors"),
    ],
    alternatives=[edit("n * n", "n**2"), lambda n: int(np.prod([n, n]))],
)  # fmt: skip
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A copy of the package in which a chapter can be added."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "attncourse", tmp_path / "attncourse", ignore=ignore)
    shutil.copy(ROOT / "README.md", tmp_path)
    for folder in ("notebooks", "solutions"):
        (tmp_path / folder / "_source").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attncourse(course, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "attncourse.cli", *arguments],
        cwd=course,
        env=os.environ | {"PYTHONPATH": str(course)},
        capture_output=True,
        text=True,
    )


@pytest.mark.nightly
def test_a_chapter_and_an_exercise_build_as_a_draft_and_then_for_good(course, capsys):
    assert cli.main(["new", "chapter", "90", "new_idea"]) == 0
    assert "before it is finished: notebooks/_source/90_new_idea.py: " in capsys.readouterr().out
    assert cli.main(["new", "exercise", "90.1"]) == 0
    assert capsys.readouterr().out.startswith("solutions/_source/90_new_idea.py\n")
    build = attncourse(course, "build", "90", "--draft")
    assert build.returncode == 0, build.stderr
    assert "draft: solutions/_source/90_new_idea.py: exercise 90.1: three hints" in build.stdout
    assert "exercise 90.1: at least 5 mistakes are needed, got 1" in build.stdout
    strict = attncourse(course, "build", "90")
    assert strict.returncode == 1
    assert "exercise 90.1: at least 5 mistakes are needed, got 1" in strict.stderr
    assert "90_new_idea.py: attncourse/data/arc.csv lacks a row `part,90," in strict.stderr

    with (course / "attncourse/data/arc.csv").open("a", encoding="utf-8") as arc:
        arc.write("further,90,say whether an idea is new\n")
    assert "still says `1. TODO a nudge" in strict.stderr

    chapter = course / "notebooks/_source/90_new_idea.py"
    chapter.write_text(chapter.read_text(encoding="utf-8").replace("TODO ", ""), encoding="utf-8")
    path = course / "solutions/_source/90_new_idea.py"
    text = path.read_text(encoding="utf-8")
    head, tail = text.split("    mistakes=[\n")
    head = head.replace("# 1. TODO a nudge;", "# 1. Count.\n# 2. Multiply.\n# 3. n * n:")
    head = head.replace("TODO ", "")
    text = head + FINISHED + tail.split("# fmt: skip\n", 1)[1]
    path.write_text(text, encoding="utf-8")
    build = attncourse(course, "build", "90")
    assert build.returncode == 0, build.stderr
    assert "draft" not in build.stdout
    code = """
import numpy as np
from attncourse.grading.exercises import exercise
for seed in range(5):  # cases of one name would be one case
    assert len({case.name for case in exercise("90.1").cases(np.random.default_rng(seed))}) >= 7
"""
    drawn = subprocess.run([sys.executable, "-c", code], cwd=course, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr
    first, last = text.index('role="prompt"'), text.index("## Your score")
    assert text[first:last].count("\n") <= 80


def test_a_chapter_builds_before_it_has_an_exercise(course, capsys):
    path = skeletons.new_chapter(course, "90", "new_idea")[-1]
    says = "solutions/_source/90_new_idea.py: no exercise yet: attncourse new exercise 90.1"
    with pytest.raises(BuildError) as strict:
        authoring.build(course, path)
    assert says in strict.value.problems
    assert "solutions/90_new_idea.ipynb: 3 cells" in authoring.build(course, path, draft=True)
    assert f"draft: {says}\n" in capsys.readouterr().out


def test_a_skeleton_s_own_words_are_not_taken_for_finished_ones(course, capsys):
    notebook, solutions = skeletons.new_chapter(course, "90", "new_idea")
    skeletons.new_exercise(course, "90.1")
    with (course / authoring.ARC).open("a", encoding="utf-8") as arc:
        arc.write("further,90,say whether an idea is new\n")
    left = [
        "2: still says `90 · TODO title: new idea`",
        "4: still says `TODO the question of this chapter, and what you can do after it.`",
        "6: still says `<!-- summary: TODO what the chapter is about, for README -->`",
        "15: still says `TODO a first idea, and where it fails`",
    ]
    left = [f"notebooks/_source/90_new_idea.py:{each}" for each in left]
    with pytest.raises(BuildError) as strict:
        authoring.build(course, notebook)
    assert strict.value.problems == left
    authoring.build(course, notebook, draft=True)
    assert capsys.readouterr().out == "".join(f"draft: {each}\n" for each in left)
    said = list(authoring.to_do(course, read(solutions, course)))
    for what in ("90.1 TODO title", "TODO what `answer", "1. TODO a nudge", '"""TODO return'):
        assert any(f": still says `{what}" in one for one in said), said
    assert len(said) == 4


def test_the_score_stays_the_last_cell_and_exercises_stay_in_order(course):
    skeletons.new_chapter(course, "90", "new_idea")
    for exercise in ("90.1", "90.2", "90.V3"):
        path = skeletons.new_exercise(course, exercise)
    source = read(path, course)
    ids = [cell["exercise"] for cell in source.grading if cell["role"] == "check"]
    assert ids == ["90.1", "90.2", "90.V3"]
    assert source.cells[-1].source.startswith("## Your score")
    assert authoring.assemble(source).cells[-1].source == source.cells[-1].source


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("chapter", "9", "new_idea"), "a chapter is named like `06 low_rank`, got `9 new_idea`"),
        (("chapter", "90", "New Idea"), "got `90 New Idea`"),
        (("exercise", "90.0"), "an exercise is named like 06.2"),
        (("exercise", "91.1"), "no source for 91"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_line(course, capsys, arguments, says):
    assert cli.main(["new", *arguments]) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(("there", "asked", "next"), [("", "90.2", 1), ("12", "90.4", 3)])
def test_exercises_are_counted_without_gaps(course, there, asked, next):
    skeletons.new_chapter(course, "90", "new_idea")
    skeletons.new_exercise(course, "90.V7")  # named by its topic in the inventory: no count
    for number in there:
        skeletons.new_exercise(course, f"90.{number}")
    before = {path: path.read_bytes() for path in course.glob("solutions/_source/*")}
    with pytest.raises(BuildError) as refused:
        skeletons.new_exercise(course, asked)
    says = f"solutions/_source/90_new_idea.py: the next exercise is 90.{next}, got {asked}"
    assert refused.value.problems == [says]
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_is_overwritten(course):
    skeletons.new_chapter(course, "90", "new_idea")
    skeletons.new_exercise(course, "90.1")
    with pytest.raises(BuildError, match="is there already"):
        skeletons.new_chapter(course, "90", "other")
    with pytest.raises(BuildError, match=r"has exercise 90\.1 already"):
        skeletons.new_exercise(course, "90.1")
