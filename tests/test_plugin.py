"""The grading plugin under pytest, in processes of their own, as a learner starts it."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import toy_course as toy
from covering import by_day

from attncourse.grading import session, submission


def run_pytest(folder, *arguments):
    """Run pytest in a folder; returns its exit status and what it printed."""
    environment = {**os.environ, "ATTNCOURSE_HOME": str(folder / "home"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def results_in(junit):
    """The results by exercise id, and the outcome of each test case by name."""
    results, outcomes = {}, {}
    for case in ElementTree.parse(junit).iter("testcase"):
        outcomes[case.get("name")] = next((e.tag for e in case if e.tag != "properties"), "passed")
        for entry in case.iter("property"):
            if entry.get("name") == "attncourse_result":
                *_, result = json.loads(entry.get("value"))
                results[result["exercise"]] = result
    return results, outcomes


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    toy.save(toy.released(), folder / "released" / f"{toy.STEM}.ipynb")
    (folder / "conftest.py").write_text(toy.conftest(folder / "released"), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def handed_in(course):
    path = toy.save(toy.handed_in(), course / "exercises" / f"{toy.STEM}.ipynb")
    os.utime(path, (1e9, 1e9))
    before = path.read_bytes(), path.stat()
    status, printed = run_pytest(course, "--nbval", "-v", "--junitxml=out.xml", str(path))
    results, outcomes = results_in(course / "out.xml")
    after = path.read_bytes(), path.stat()
    return dict(locals())


@pytest.mark.parametrize("number", toy.HANDED_IN)
def test_each_answer_gets_its_verdict(handed_in, number):
    _, status, reason = toy.HANDED_IN[number]
    result = handed_in["results"][f"90.{number}"]
    assert (result["status"], result["points"]) == (status, 2)
    assert result["score"] == 2 * (status == "passed")
    assert reason in result["reason"]
    assert "\n" not in result["reason"]
    outcome = {"passed": "passed", "failed": "failure", "not_attempted": "skipped"}[status]
    assert handed_in["outcomes"][f"exercise 90-{number}"] == outcome


def test_grading_changes_nothing_in_the_learners_file(handed_in):
    (bytes_before, before), (bytes_after, after) = handed_in["before"], handed_in["after"]
    assert bytes_before == bytes_after
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert [file.name for file in handed_in["path"].parent.iterdir()] == [f"{toy.STEM}.ipynb"]


def test_terminal_summary_has_a_line_an_exercise_and_the_score(handed_in):
    lines = handed_in["printed"].splitlines()
    start = next(i for i, line in enumerate(lines) if "attncourse: exercises/90_toy.ipynb" in line)
    table = lines[start + 1 :]
    for line, (number, (_, status, _)) in zip(table, toy.HANDED_IN.items(), strict=False):
        assert line.split()[0] == f"90.{number}"
        assert status.replace("_", " ") in line
    assert "score 10/40 (5 passed, 9 failed, 6 not attempted)" in table


def test_failures_are_verdicts_without_tracebacks_or_colours(handed_in):
    assert "\x1b[31m" not in handed_in["printed"]
    assert "\x1b" not in (handed_in["course"] / "out.xml").read_text(encoding="utf-8")
    assert "Traceback" not in handed_in["printed"]
    assert "exercises/90_toy.ipynb::exercise 90-7 FAILED" in handed_in["printed"]


def test_what_was_put_right_is_noted(handed_in):
    for note in (
        "from release 1.0 of the course; it was graded with the checks of release 2.0",
        "note: the set-up cell had been changed",
        "90.1: the check cell had been changed",
        "90.2: the check cell was missing",
        "90.3: the check cell was marked for nbval",
        "90.4: the check cell was marked for nbval",
        "90.11: the check cell had a copy",
        "90.99: the check cell is not in this release",
    ):
        assert note in handed_in["printed"]
    assert "90.12: the" not in handed_in["printed"]  # a new cell id alone is nobody's business


@pytest.mark.nightly
@pytest.mark.parametrize("run", ["others", "handed_in"])
def test_command_line_gives_the_same_verdicts(run, request, monkeypatch):
    run = request.getfixturevalue(run)
    toy.install(monkeypatch, run["course"] / "released")
    report = session.grade(submission.read(run["path"]))
    assert {result.exercise: vars(result) for result in report.results} == run["results"]


@pytest.fixture(scope="module")
def others(course):
    """One run over a folder with all kinds of notebooks, split over two workers."""
    folder = course / "folder"
    count = 4
    answers = {1: toy.right(1), 3: toy.right(3), 4: "def f4(x):\n    return helper(x)"}
    answers[2] = "def f2(x):\n    return x"
    mixed = toy.answered(toy.exercises(count), answers)
    mixed["cells"].insert(1, toy.code("def helper(x):\n    return x + 4", "scratch"))
    path = toy.save(mixed, folder / "mine.ipynb")
    toy.save(toy.exercises(), folder / "90_toy.backup-20250101-000000.ipynb")
    ran = {"execution_count": 1}
    chapter = toy.notebook(
        [
            toy.code("'quiet';", "a") | ran,
            toy.code("1 + 1", "b") | ran | {"outputs": [result("2")]},
            toy.code("object()", "c"),
            toy.code("1 + 2", "d") | ran | {"outputs": [result("4")]},
        ],
        kind="chapter",
        stem=toy.STEM,
    )
    chapter["cells"][2]["metadata"]["tags"] = ["nbval-ignore-output"]
    toy.save(chapter, folder / "chapter.ipynb")
    foreign = toy.notebook([toy.code("1 + 1", "a"), toy.code("1 / 0", "b")])
    foreign["metadata"]["kernelspec"]["name"] = "python3"
    toy.save(foreign, folder / "foreign.ipynb")
    arguments = ("--nbval", "-v", "-n2", "--junitxml=others.xml", "folder")
    status, printed = run_pytest(course, *arguments)
    results, outcomes = results_in(course / "others.xml")
    return dict(locals())


def result(text):
    return {
        "output_type": "execute_result",
        "execution_count": 1,
        "data": {"text/plain": text},
        "metadata": {},
    }


def cases_of(run, stem):
    cases = ElementTree.parse(run["course"] / "others.xml").iter("testcase")
    return sorted((c for c in cases if stem in c.get("classname")), key=lambda c: c.get("name"))


def test_under_xdist_exercises_of_one_notebook_may_go_to_several_workers(others):
    statuses = {exercise: found["status"] for exercise, found in others["results"].items()}
    # 90.5 and on are in the release, but not in this file.
    expected = {f"90.{n}": "not_attempted" for n in range(1, toy.COUNT + 1)}
    assert statuses == expected | dict.fromkeys(("90.1", "90.3", "90.4"), "passed") | {
        "90.2": "failed"
    }
    assert "score 6/40" in others["printed"]


def test_chapters_are_compared_cell_by_cell(others):
    chapter = cases_of(others, "chapter")
    assert [case.find("failure") is not None for case in chapter] == [False, False, False, True]


def test_foreign_notebooks_stay_with_nbval(others):
    foreign = cases_of(others, "foreign")
    assert [case.get("name") for case in foreign] == ["Cell 0", "Cell 1"]
    assert [case.find("failure") is not None for case in foreign] == [False, True]


def test_backups_are_not_graded_in_passing(others):
    assert "backup" not in others["printed"]


def test_one_exercise_may_be_run_alone(course, others):
    status, printed = run_pytest(course, "--nbval", "folder/mine.ipynb::exercise 90-4")
    assert status == 0
    assert "1 of 20 exercises were run: 2/2 (1 passed)" in printed
    assert "score" not in printed


@pytest.mark.nightly  # by day the test above: the words are the same
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-x",), "3 of 20 exercises were run: 2/6 (1 passed, 1 failed"),
        (("-k", "90-4"), "1 of 20"),
    ],
)
def test_a_part_of_the_exercises_is_called_a_part(course, handed_in, arguments, told):
    _, printed = run_pytest(course, "--nbval", *arguments, str(handed_in["path"]))
    assert told in printed
    assert "score" not in printed


def test_a_file_that_cannot_be_graded_is_one_line(course):
    folder = course / "bad"
    folder.mkdir()
    (folder / f"{toy.STEM}.ipynb").write_text("<<<<<<< HEAD\n{}\n=======\n", encoding="utf-8")
    status, printed = run_pytest(course, "--nbval", "bad")
    assert status == 2
    assert "90_toy.ipynb has merge-conflict marks (line 1)" in printed
    assert "Traceback" not in printed
    assert ".py:" not in printed


def test_without_nbval_the_plugin_does_nothing(course, others):
    (course / "test_plain.py").write_text("def test():\n    pass\n", encoding="utf-8")
    for arguments in by_day([("-p", "no:nbval")], [(), ("-p", "no:nbval")]):
        status, printed = run_pytest(course, *arguments, "test_plain.py", "folder")
        assert status == 0, printed
        assert "1 passed" in printed
        assert "attncourse:" not in printed


def test_the_plugin_is_cheap_to_import():
    code = "import attncourse.grading.plugin, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {"nbval", "nbformat", "jupyter_client", "torch", "triton", "matplotlib", "IPython"}
    assert not heavy & set(done.stdout.split())
