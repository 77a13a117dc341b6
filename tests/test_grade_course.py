"""The course's own exercise notebooks, graded as a learner's."""

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_course
from covering import NIGHTLY, by_day

from attncourse import authoring
from attncourse.cli import main
from attncourse.grading import exercises, session, submission
from attncourse.sources import read

pytestmark = pytest.mark.usefixtures("forked_kernels")

ROOT = Path(__file__).parents[1]
STEMS = submission.released_stems()


def notebook(folder, stem):
    return json.loads((ROOT / folder / f"{stem}.ipynb").read_text(encoding="utf-8"))


def answers(stem):
    """The answer cells of the solutions by exercise id, in order."""
    found = {}
    for cell in notebook("solutions", stem)["cells"]:
        ours = submission.course_metadata(cell)
        if ours.get("role") == "answer":
            found[ours["exercise"]] = cell["source"]
    return found


def filled(stem, sources):
    """The exercises as released, which a learner's own copy may no longer be, with answers."""
    handed_in = copy.deepcopy(notebook("attncourse/grading/released", stem))
    for cell in handed_in["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        ours = submission.course_metadata(cell)
        if ours.get("role") == "answer" and ours["exercise"] in sources:
            cell["source"] = sources[ours["exercise"]]
    return handed_in


def grade(handed_in, folder, stem):
    path = toy_course.save(handed_in, folder / f"{stem}.ipynb")
    report = session.grade(submission.read(path))
    return report, {result.exercise: result for result in report.results}


def unverified(stem):
    """What cannot be verified here: kernels, where there is no Triton."""
    if importlib.util.find_spec("triton"):
        return {}
    ids = [each.id for each in exercises.chapter_exercises(stem[:2]) if each.needs != "numpy"]
    return dict.fromkeys(ids, "not_verified_here")


def test_every_chapter_with_exercises_is_released():
    assert [stem[:2] for stem in STEMS] == list(exercises.chapters())


@pytest.mark.parametrize("stem", STEMS)
def test_released_copies_have_all_exercises_and_their_passing_lines(tmp_path, stem):
    read = submission.read(toy_course.save(filled(stem, {}), tmp_path / f"{stem}.ipynb"))
    assert read.exercises == [each.id for each in exercises.chapter_exercises(stem[:2])]
    checks = [step for step in read.steps if step.role == "check"]
    for check in checks:
        spec = exercises.exercise(check.exercise)
        points = f"{spec.points}/{spec.points} points"
        assert check.expected == f"✓ {spec.id} {spec.title}: passed, {points}"


# By day one chapter with kernels and one without: the solutions of all of them run as notebooks.
@pytest.mark.parametrize("stem", by_day(["01_bottleneck", "05_sparse"], STEMS))
def test_a_fresh_learners_walk(tmp_path, stem):
    """The first exercise is solved: it passes, the rest are open.

    At night none, half and all are solved, and in chapter 04 one more each time.
    """
    solved = answers(stem)
    half, whole = max(1, len(solved) // 2), len(solved)
    by_night = range(whole + 1) if stem == "04_window" else [0, half, whole]
    for done in by_day([1], by_night):
        sources = dict(list(solved.items())[:done])
        report, results = grade(filled(stem, sources), tmp_path, stem)
        statuses = {exercise: result.status for exercise, result in results.items()}
        right = {e: "passed" if e in sources else "not_attempted" for e in solved}
        assert statuses == right | unverified(stem), report.text()
        passed = [e for e in sources if e not in unverified(stem)]
        assert report.score == sum(exercises.exercise(e).points for e in passed)


def test_plain_nbval_and_grade_agree_on_untouched_exercises(tmp_path):
    stems = by_day(["13_measuring"], STEMS)
    paths = [toy_course.save(filled(stem, {}), tmp_path / f"{stem}.ipynb") for stem in stems]
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-v"]
    run = subprocess.run(
        [*command, *paths], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout
    assert " failed" not in run.stdout and " passed" not in run.stdout.rpartition("=====")[0][-300:]
    exercises_of = sum(len(exercises.chapter_exercises(stem[:2])) for stem in stems)
    assert f"{exercises_of} skipped" in run.stdout
    reports = [session.grade(submission.read(path)) for path in paths]
    here = {r.exercise: r.status for report in reports for r in report.results}
    elsewhere = {e: status for stem in stems for e, status in unverified(stem).items()}
    assert here == dict.fromkeys(here, "not_attempted") | elsewhere


def test_bad_answers_of_chapter_04(tmp_path):
    stem = "04_window"
    sources = answers(stem)
    head = {e: "".join(source).partition(":\n")[0] + ":\n" for e, source in sources.items()}
    bodies = {
        "04.1": "    print('noise' * 1000)\n    raise SystemExit",
        "04.2": "    return n * (window + 1 if causal else 2 * window + 1)",
        "04.V1": "    import os; os._exit(0)",
    }
    bodies |= by_day(
        {},  # those of the toy course end likewise, in test_plugin.py
        {"04.4": "    while True: pass", "04.7": "    import ctypes; ctypes.string_at(0)"},
    )
    sources |= {e: head[e] + body for e, body in bodies.items()}
    sources["04.V7"] = head["04.V7"]
    if not NIGHTLY:
        sources = {e: sources[e] for e in (*bodies, "04.3", "04.V7")}
    report, results = grade(filled(stem, sources), tmp_path, stem)
    found = {e: (result.status, result.reason) for e, result in results.items()}
    assert found["04.1"] == ("failed", "called exit")
    assert found["04.2"][0] == "failed"
    assert results["04.2"].cause == "your count gives every row the keys of a middle row"
    assert results["04.2"].hint.startswith("rows near an edge")
    assert results["04.2"].seed is not None
    assert "Cause:" in results["04.2"].text
    assert found["04.3"][0] == "passed"
    if NIGHTLY:
        assert found["04.4"] == ("failed", "took longer than 5 s")
        assert found["04.6"][0] == unverified(stem).get("04.6", "passed")
    for exercise in by_day(["04.V1"], ["04.7", "04.V1"]):
        assert found[exercise][0] == "failed"
        assert "your function ended the Python kernel" in found[exercise][1]
    assert found["04.V7"][0] == "not_attempted"
    assert "SyntaxError" in found["04.V7"][1]
    assert "\x1b" not in report.json()


@pytest.mark.parametrize("stem", STEMS)
def test_a_reset_gives_the_file_that_was_built(stem, tmp_path, monkeypatch, capsys):
    (tmp_path / "exercises").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["reset", stem[:2]]) == 0
    source = read(ROOT / f"solutions/_source/{stem}.py", ROOT)
    built = authoring.as_text(authoring.assemble(source, "exercises"))
    assert (tmp_path / f"exercises/{stem}.ipynb").read_text(encoding="utf-8") == built
