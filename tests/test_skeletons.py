"""`attncourse new`: a chapter and an exercise that build from the first minute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attncourse import authoring, cli, skeletons
from attncourse.grading import assembly
from attncourse.grading.judging import judge
from attncourse.sources import BuildError, read

ROOT = Path(__file__).parents[1]
EXERCISE = """\
# %% [markdown] role="prompt" exercise="90.1"
# ## 90.1 The mask of a stream
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/90_streaming.ipynb)
#
# A cache of fixed size holds the first `sinks` keys, which many heads lean on, and the latest.
# Return the mask that its queries have, True = may attend: of the past, the first `sinks` keys,
# the `window` keys before the query, and its own. If Tq ≠ Tk, the last query stands at the last
# key. `streaming_mask(2, 5, 1, 1)` is
#
#     [[ True, False,  True,  True, False],
#      [ True, False, False,  True,  True]]


# %% role="answer" exercise="90.1"
def streaming_mask(n_queries, n_keys, sinks, window):
    \"\"\"Return the bool mask (n_queries, n_keys); sinks and window are at least 0.\"\"\"
    # BEGIN SOLUTION
    here = np.arange(n_queries)[:, None] + (n_keys - n_queries)
    key = np.arange(n_keys)
    held = (key < sinks) | (here - key <= window)
    return held & (key <= here)
    # END SOLUTION


# %% role="check" exercise="90.1"
check("90.1")

# %% [markdown] role="hints" exercise="90.1"
# 1. Write down at which key each query stands. Then ask of a pair: is the key held, is it past?
# 2. A column of places and a row of keys: "or" joins sinks and window, "and" bars the future.
# 3. here = np.arange(n_queries)[:, None] + (n_keys - n_queries). A key is held if key < sinks or
#    here - key <= window, and is seen if also key <= here.


# %% role="spec" exercise="90.1"
def row_by_row(n_queries, n_keys, sinks, window):
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for row, here in zip(mask, range(n_keys - n_queries, n_keys), strict=True):
        past = max(0, here + 1)
        row[: min(sinks, past)] = row[max(0, here - window) : past] = True
    return mask


Spec(
    kind="mask",
    cases=[
        case("1 token, nothing else held", 1, 1, 0, 0),
        case("1 sink, no window", 5, 5, 1, 0),
        case("no sinks, window 2", 7, 7, 0, 2),
        case("sinks and window meet", 7, 7, 3, 2),
        case("more sinks than keys", 3, 3, 5, 0),
        case("a step of decoding", 1, 13, 2, 3),
        case("more queries than keys: empty rows", 11, 3, 2, 1),
        *draws(5, lambda rng: rng.integers(1, (30, 30, 5, 9))),
    ],
    mistakes=[
        edit("key < sinks", "key <= sinks",
             says="your mask holds one key too many at the start", next="sinks are 0 … sinks - 1"),
        edit("<= window", "< window",
             says="your mask drops the key at distance exactly window", next="use <= there"),
        edit(" & (key <= here)", "",
             says="your mask shows held keys of the future", next="also ask for key <= here"),
        edit(" + (n_keys - n_queries)", "",
             says="your query i stands at key i", next="move it by n_keys - n_queries"),
        edit("(key < sinks) | ", "", says="your mask holds no sinks", next="or key < sinks"),
    ],
    alternatives=[row_by_row, edit("here - key <= window", "key >= here - window")],
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
    assert cli.main(["new", "chapter", "90", "streaming"]) == 0
    assert "before it is finished: notebooks/_source/90_streaming.py: " in capsys.readouterr().out
    assert cli.main(["new", "exercise", "90.1"]) == 0
    assert capsys.readouterr().out.startswith("solutions/_source/90_streaming.py\n")
    build = attncourse(course, "build", "90", "--draft")
    assert build.returncode == 0, build.stderr
    assert "draft: solutions/_source/90_streaming.py: exercise 90.1: three hints" in build.stdout
    assert "exercise 90.1: at least 5 mistakes are needed, got 1" in build.stdout
    strict = attncourse(course, "build", "90")
    assert strict.returncode == 1
    assert "exercise 90.1: at least 5 mistakes are needed, got 1" in strict.stderr
    assert "90_streaming.py: attncourse/data/arc.csv lacks a row `part,90," in strict.stderr
    assert "still says `1. TODO a nudge" in strict.stderr

    with (course / authoring.ARC).open("a", encoding="utf-8") as arc:
        arc.write("further,90,hold a few keys of an endless text\n")
    chapter = course / "notebooks/_source/90_streaming.py"
    chapter.write_text(chapter.read_text(encoding="utf-8").replace("TODO ", ""), encoding="utf-8")
    path = course / "solutions/_source/90_streaming.py"
    skeleton = path.read_text(encoding="utf-8")
    first = skeleton.index('# %% [markdown] role="prompt"')
    past = skeleton.index("# %% [markdown]\n# ## Your score")
    assert EXERCISE.count("\n") <= 80
    path.write_text(skeleton[:first] + EXERCISE + skeleton[past:], encoding="utf-8")
    build = attncourse(course, "build", "90")
    assert build.returncode == 0, build.stderr
    assert "draft" not in build.stdout

    [exercise] = assembly.exercises(read(path, course).grading)
    assert len(exercise.mistakes) >= 5 and len(exercise.alternatives) >= 2
    prompt = exercise.reference(2, 5, 1, 1).tolist()
    assert prompt == [[True, False, True, True, False], [True, False, False, True, True]]
    for seed in range(5):
        cases = exercise.cases(np.random.default_rng(seed))
        assert len({case.name for case in cases}) >= 7  # cases of one name would be one case
        for right in exercise.alternatives:
            assert judge(exercise, right, seed=seed).status == "passed"
        for mistake in exercise.mistakes:
            verdict = judge(exercise, mistake.function, seed=seed)
            assert verdict.status == "failed"
            assert mistake.says in str(verdict) and mistake.next in str(verdict), str(verdict)


@pytest.mark.nightly
def test_a_chapter_builds_before_it_has_an_exercise(course, capsys):
    path = skeletons.new_chapter(course, "90", "new_idea")[-1]
    says = "solutions/_source/90_new_idea.py: no exercise yet: attncourse new exercise 90.1"
    with pytest.raises(BuildError) as strict:
        authoring.build(course, path)
    assert says in strict.value.problems
    assert "solutions/90_new_idea.ipynb: 3 cells" in authoring.build(course, path, draft=True)
    assert f"draft: {says}\n" in capsys.readouterr().out


@pytest.mark.nightly
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
