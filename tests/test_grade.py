"""What is graded, and the commands grade, hint, progress, reset and watch."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import types
from xml.etree import ElementTree

import psutil
import pytest
import toy_course as toy
from covering import by_day

from attncourse import cli, progress
from attncourse.grading import chapters, commands, kernel, session, submission
from attncourse.grading.report import Report, Result

COUNT = 3


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder with the notebook of three exercises as handed out; the working directory."""
    toy.save(toy.released(COUNT), tmp_path / "released" / f"{toy.STEM}.ipynb")
    toy.install(monkeypatch, tmp_path / "released")
    toy.save(toy.exercises(COUNT), tmp_path / "exercises" / f"{toy.STEM}.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mine(course):
    return course / "exercises" / f"{toy.STEM}.ipynb"


@pytest.fixture
def run(course, capsys):
    """Run the command line; returns exit status, stdout and stderr."""

    def attncourse(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return attncourse


def order(path):
    return [(step.role, step.exercise) for step in submission.read(path).steps]


AS_RELEASED = [
    ("setup", ""),
    *((role, f"90.{n}") for n in range(1, COUNT + 1) for role in ("learner", "check")),
]


# Files that cannot be graded


BAD_FILES = {
    "empty": (b"", "is empty; `attncourse reset 90` restores it, your file is kept"),
    "blanks": (b" \n", "is empty"),
    "not JSON": (b"# notes", "is not valid JSON (line 1"),
    "cut short": (b'{"cells": [', "is not valid JSON (line 1"),
    "binary": (b"\x89PNG\xff", "it is not UTF-8 text"),
    "merge conflict": (b'{\n<<<<<<< HEAD\n"a": 1\n', "has merge-conflict marks (line 2)"),
    "too deep": (b"[" * 100_000, "is not valid JSON"),
    "a list": (b"[1, 2]", "is JSON, but not a notebook"),
    "other JSON": (b'{"a": 1}', "is JSON, but not a notebook"),
    "format 3": (b'{"nbformat": 3, "worksheets": []}', "of format 3, expected 4"),
    "no cells": (b'{"nbformat": 4, "cells": []}', "has no cells"),
    "broken cell": (b'{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "damaged at cell 1"),
    "cell is a number": (b'{"nbformat": 4, "cells": [7]}', "damaged at cell 1"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_notebook(run, mine, name):
    content, message = BAD_FILES[name]
    mine.write_bytes(content)
    status, out, err = run("grade", mine)
    assert (status, out) == (2, "")
    assert err.startswith(str(mine)) and message in err
    assert err.count("\n") == 1
    assert mine.read_bytes() == content


def test_a_path_that_is_wrong(run, mine, course):
    for path, message in (
        ("exercises/90_toys.ipynb", "there is no file exercises/90_toys.ipynb; did you mean"),
        ("exercises", "exercises is a folder: name a notebook, such as exercises/90_toy.ipynb"),
        ("nowhere/at/all.ipynb", "there is no file nowhere/at/all.ipynb\n"),
        ("exercises/90_toy.py", "there is no file"),
    ):
        status, out, err = run("grade", path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err
    (course / "answers.py").write_text("x = 1")
    assert "its name does not end in .ipynb" in run("grade", "answers.py")[2]


def test_a_file_that_may_not_be_read(run, mine, monkeypatch):
    def refuse(path, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(mine), "read_text", refuse)
    assert run("grade", mine) == (2, "", f"{mine} cannot be read: Permission denied\n")


def other(**ours):
    return toy.notebook([toy.code("1", "a")], **ours)


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        (
            other(kind="chapter", stem=toy.STEM),
            "is the chapter, which is not graded: grade exercises/90_toy.ipynb",
        ),
        (
            other(kind="exercises", stem="91_other"),
            "holds exercises of 91_other, which this release of the course does not have",
        ),
        (other(), "is not a notebook of exercises; there are 90_toy, 92_second"),
        (
            other(kind="exercises", stem="92_second"),
            "holds the exercises of 92_second, not those of 90_toy",
        ),
    ],
)
def test_a_notebook_of_something_else(run, course, mine, notebook, message):
    toy.save(toy.released(1), course / "released" / "92_second.ipynb")
    toy.save(notebook, mine)
    status, out, err = run("grade", mine)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


# What is run: the released cells are back in their places


def test_untouched_notebook_runs_as_released(mine):
    read = submission.read(mine)
    assert order(mine) == AS_RELEASED
    assert read.exercises == ["90.1", "90.2", "90.3"]
    assert read.notes == [
        "the file has no answer in it yet; if you have written one, save it in JupyterLab"
    ]


def test_cells_are_known_by_their_metadata_when_ids_are_new_or_missing(mine):
    for change in (lambda c: c.update(id="new-" + c["id"]), lambda c: c.pop("id")):
        notebook = toy.exercises(COUNT)
        for cell in notebook["cells"]:
            change(cell)
        toy.save(notebook, mine)
        assert order(mine) == AS_RELEASED
        assert len(submission.read(mine).notes) == 1


def test_cells_are_known_by_their_ids_when_metadata_is_lost(mine):
    notebook = toy.answered(toy.exercises(COUNT), {1: toy.right(1)})
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    toy.save(notebook, mine)
    assert order(mine) == AS_RELEASED
    assert submission.read(mine).obstacles == {}


def test_a_tool_dropped_the_metadata_of_the_notebook(mine):
    toy.save(toy.exercises(COUNT) | {"metadata": {}}, mine)
    assert order(mine) == AS_RELEASED


def test_a_renamed_file_is_the_same_notebook(mine):
    renamed = mine.rename(mine.with_name("my own window.ipynb"))
    assert order(renamed) == AS_RELEASED


def test_sources_may_be_lists_and_the_file_may_start_with_a_mark(mine):
    notebook = toy.exercises(COUNT)
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        cell["metadata"]["tags"] = []
    mine.write_text(json.dumps(notebook), encoding="utf-8-sig")
    assert order(mine) == AS_RELEASED
    assert len(submission.read(mine).notes) == 1


def test_lost_checks_come_after_what_stood_before_them(mine):
    notebook = toy.exercises(COUNT)
    notebook["cells"] = [
        cell for cell in notebook["cells"] if cell["id"].startswith(("prompt", "answer"))
    ]
    toy.save(notebook, mine)
    assert order(mine) == AS_RELEASED
    assert sum("was missing" in note for note in submission.read(mine).notes) == COUNT + 1


def test_only_strange_cells_are_left(mine):
    toy.save(toy.exercises(COUNT) | {"cells": [toy.code("x = 1", "x")]}, mine)
    checks = [("check", f"90.{n}") for n in range(1, COUNT + 1)]
    assert order(mine) == [("setup", ""), *checks, ("learner", "")]


def test_an_answer_below_its_check_is_run_before_it(mine):
    notebook = toy.exercises(COUNT)
    cells = notebook["cells"]
    answer = toy.cell(notebook, "answer-1")
    cells.remove(answer)
    cells.insert(toy.position(notebook, "check-2") + 1, answer)
    toy.save(notebook, mine)
    steps = submission.read(mine).steps
    at = next(i for i, step in enumerate(steps) if "def f1" in step.source)
    assert (steps[at + 1].role, steps[at + 1].exercise) == ("check", "90.1")


def test_a_copy_of_an_answer_below_the_check_stays_there(mine):
    notebook = toy.answered(toy.exercises(COUNT), {1: toy.right(1)})
    stub = toy.code("def f1(x): raise NotImplementedError", "z", role="answer", exercise="90.1")
    notebook["cells"].insert(toy.position(notebook, "check-1") + 1, stub)
    toy.save(notebook, mine)
    steps = submission.read(mine).steps
    assert [step.role for step in steps[:4]] == ["setup", "learner", "check", "learner"]
    assert steps[1].source == toy.right(1)


def test_the_set_up_runs_first_wherever_it_stands(mine):
    notebook = toy.exercises(COUNT)
    notebook["cells"].append(notebook["cells"].pop(0))
    toy.save(notebook, mine)
    assert order(mine) == AS_RELEASED


# Signs of work that was not saved


def test_the_time_of_the_last_save_is_told(run, mine):
    toy.save(toy.answered(toy.exercises(COUNT), {1: toy.right(1)}), mine)
    moment = time.mktime((2024, 5, 6, 14, 2, 11, 0, 0, -1))
    os.utime(mine, (moment, moment))
    status, out, _ = run("grade", mine)
    assert "as saved at 2024-05-06 14:02:11 (save in JupyterLab first)" in out
    assert "no answer in it yet" not in out
    assert status == 0  # two exercises are open: that is no failure
    mine.touch()
    assert re.fullmatch(r"\d\d:\d\d:\d\d", submission.saved(mine))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f".ipynb_checkpoints/{toy.STEM}-checkpoint.ipynb", "checkpoint is newer than the file"),
        (f".~{toy.STEM}.ipynb", "a save seems to have been cut short"),
    ],
)
def test_newer_copies_beside_the_file_are_told(mine, name, words):
    copied = toy.save(toy.exercises(COUNT), mine.parent / name)
    os.utime(mine, (1e9, 1e9))
    assert any(words in note for note in submission.read(mine).notes)
    os.utime(copied, (1e9, 1e9))
    assert not any(words in note for note in submission.read(mine).notes)


# Verdicts (those on bad answers are in test_plugin.py)


def grade(notebook, path):
    report = session.grade(submission.read(toy.save(notebook, path)))
    return report, {result.exercise: result for result in report.results}


def test_a_hint_before_the_first_pass_is_help_for_good(mine):
    solved = toy.answered(toy.exercises(COUNT), {1: toy.right(1), 2: toy.right(2)})
    progress.record_hint("90.1")
    _, results = grade(solved, mine)
    assert (results["90.1"].status, results["90.1"].score) == ("passed_with_help", 2)
    assert results["90.2"].status == "passed"
    progress.record_hint("90.2")
    _, results = grade(solved, mine)
    assert results["90.2"].status == "passed"
    grade(toy.exercises(COUNT), mine)
    assert progress.load().entry("90.2").passed, "a later failure does not undo a pass"


def test_solutions_and_hints_inside_notebooks_are_not_the_learners_progress(mine):
    notebook = toy.answered(toy.exercises(COUNT), {1: toy.right(1)})
    notebook["metadata"]["attncourse"]["kind"] = "solutions"
    take = "from attncourse import progress\nprogress.record_hint('90.2')"
    notebook["cells"].append(toy.code(take, "hint"))
    notebook["cells"].insert(1, toy.code(take, "hint"))
    _, results = grade(notebook, mine)
    assert results["90.1"].status == "passed"
    assert progress.load().entries == {}


def test_a_name_that_no_cell_defines(mine):
    renamed = toy.answered(toy.exercises(COUNT), {1: "def add_one(x):\n    return x + 1"})
    _, results = grade(renamed, mine)
    assert results["90.1"].status == "not_attempted"
    assert results["90.1"].reason == "no cell above the check defines `f1`"
    assert results["90.2"].reason == ""


@pytest.mark.parametrize(
    ("place", "stub"),
    by_day(
        [("check-1", True), (f"check-{COUNT}", False)],
        itertools.product(["check-1", "check-2", f"check-{COUNT}"], [True, False]),
    ),
)
def test_an_answer_in_a_new_cell_below_its_check_is_pointed_out(mine, place, stub):
    notebook = toy.exercises(COUNT)
    if not stub:
        toy.cell(notebook, "answer-1")["source"] = "# below"
    notebook["cells"].insert(toy.position(notebook, place) + 1, toy.code(toy.right(1), "new"))
    _, results = grade(notebook, mine)
    assert results["90.1"].status == "not_attempted"
    assert results["90.1"].reason == "`f1` is defined in a cell below this check: move it above"
    assert results["90.2"].reason == ""


def test_a_lone_surrogate_is_no_traceback(run, mine):
    odd = "def f1(x):\n    print('\ud800')\n    return x + 1  # \udfff"
    notebook = toy.answered(toy.exercises(COUNT), {1: odd, 2: "def f2(x): \ud800"})
    notebook["metadata"]["mine"] = "\ud800"
    mine.write_text(json.dumps(notebook), encoding="utf-8")
    status, out, err = run("grade", mine, "--json", "a.json", "--junit", "a.xml")
    assert (status, err) == (0, "")
    assert "score 2/6 (1 passed, 2 not attempted)" in out
    assert "SyntaxError" in out
    assert run("reset", "90", "--exercise", "90.1")[0] == 0


def test_what_a_cell_has_started_ends_with_the_grading(mine, course):
    begin = "import subprocess, sys, os, pathlib\n" + toy.right(1) + "\n"
    program = "import os, time; os.fork() or time.sleep(60)"
    begin += (
        "for own in (True, False):\n"
        f"    p = subprocess.Popen([sys.executable, '-c', {program!r}], start_new_session=own)\n"
        "    print(p.pid, file=open('pids', 'a'))\n"
        # This one loses its parent at once.
        f"subprocess.run(['sh', '-c', 'sleep 60 & echo $! >> pids'], start_new_session=True)\n"
    )
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        _, results = grade(toy.answered(toy.exercises(COUNT), {1: begin}), mine)
        assert results["90.1"].status == "passed"
        pids = [int(pid) for pid in (mine.parent / "pids").read_text().split()]
        assert len(pids) == 3
        deadline = time.monotonic() + 5
        while any(map(running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(running, pids))
        assert running(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_kernel_can_be_interrupted_where_the_signal_is_ignored(course):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `make test &` of a script
    try:
        watched = kernel.Kernel(course)
        outcome = watched.run("import time\ntime.sleep(30)", seconds=0.5)
        assert (outcome.ended, outcome.error) == ("time", "KeyboardInterrupt")
        assert watched.is_alive()
        watched.stop()
    finally:
        signal.signal(signal.SIGINT, before)


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_pass_must_show_the_released_line(mine, course):
    released = toy.released(COUNT)
    toy.cell(released, "check-1")["outputs"][0]["data"]["text/plain"] = "✓ something else"
    toy.save(released, course / "released" / f"{toy.STEM}.ipynb")
    _, results = grade(toy.answered(toy.exercises(COUNT), {1: toy.right(1)}), mine)
    assert results["90.1"].status == "failed"
    assert "did not show the line that the course's solution shows" in results["90.1"].reason


def test_the_best_kernel_of_a_grading_is_the_learners(mine, course):
    moved = {1: "1.5", 2: "'much'", 3: "float('nan')"}  # what a cell shows may be anything
    answers = {n: f"{toy.right(n)}\nf{n}.moved = {number}" for n, number in moved.items()}
    report, results = grade(toy.answered(toy.exercises(COUNT), answers), mine)
    assert [results[f"90.{n}"].status for n in moved] == ["passed"] * 3, report.text()
    assert progress.load().entry("90.1").moved == 1.5
    assert [progress.load().entry(f"90.{n}").moved for n in (2, 3)] == [None, None]
    assert json.loads(report.json())["exercises"][0]["moved"] == 1.5


def test_a_fault_of_the_course_is_never_the_learners(mine, course):
    released = toy.released(COUNT)
    toy.cell(released, "check-1")["source"] = "pass"
    toy.cell(released, "check-2")["source"] = "1 / 0"
    toy.cell(released, "check-3")["source"] = "show('90.3', 'unheard of')"
    toy.save(released, course / "released" / f"{toy.STEM}.ipynb")
    report, results = grade(toy.exercises(COUNT), mine)
    assert [result.status for result in report.results] == ["grader_error"] * 3
    assert results["90.1"].reason == "no verdict shown"
    assert "ZeroDivisionError" in results["90.2"].reason
    count = by_day(2, COUNT)  # a kernel is started for each
    released = toy.released(count)
    toy.cell(released, "setup")["source"] = "import os; os._exit(1)"
    toy.save(released, course / "released" / f"{toy.STEM}.ipynb")
    report, results = grade(toy.exercises(count), mine)
    assert [result.status for result in report.results] == ["grader_error"] * count
    assert "the set-up cell ended the Python kernel" in results[f"90.{count}"].reason


def test_a_kernel_that_does_not_start(run, mine, monkeypatch):
    def fail(**kwargs):
        raise RuntimeError("Kernel died\nbefore replying")

    monkeypatch.setattr(kernel, "start_new_kernel", fail)
    status, _, err = run("grade", mine)
    assert status == 2
    assert "the Python kernel does not start (Kernel died before replying)" in err


def test_the_damaged_progress_file_is_noted(mine):
    progress.path().parent.mkdir()
    progress.path().write_text("{")
    report, _ = grade(toy.exercises(1), mine)
    assert any("the progress file was damaged" in note for note in report.notes)


# Reports


REPORT = Report(
    "exercises/90_toy.ipynb",
    [
        Result("90.1", "Add <1> & √", "passed", 2, 2, seed=5),
        Result(
            "90.2", "Add 2", "failed", 0, 3, "\x1b[31mred\x1b[0m\x00 <&>\nand", text="\x1b[1mfull"
        ),
        Result("90.3", "Add 3", "not_attempted", 0, 1),
        Result("90.4", "Add 4", "not_verified_here", 0, 1, "needs a GPU"),
        Result("90.5", "Add 5", "grader_error", 0, 1, "reference missing \ud800"),
        Result("90.6", "Add 6", "passed_with_help", 1, 1),
    ],
    ["a note \x1b[0m"],
)


def test_report_as_json():
    data = json.loads(REPORT.json())
    assert list(data) == ["score", "points", "exercises", "notes"]
    assert (data["score"], data["points"], data["notes"]) == (3, 9, ["a note "])
    keys = ["exercise", "status", "score", "points", "reason", "cause", "hint", "seed"]
    assert [list(entry) for entry in data["exercises"]] == [keys] * 6
    assert data["exercises"][0]["seed"] == 5
    assert data["exercises"][1]["reason"] == "red <&> and"


def test_report_as_junit():
    suite = ElementTree.fromstring(REPORT.junit().encode()).find("testsuite")
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "1", "skipped": "2"}
    tags = [[child.tag for child in case] for case in suite.iter("testcase")]
    assert tags == [[], ["failure"], ["skipped"], ["skipped"], ["error"], []]
    assert suite.find("testcase/failure").get("message") == "red <&> and"
    assert "\x1b" not in REPORT.junit()


def test_report_as_text():
    lines = REPORT.text().splitlines()
    assert len(lines) == 8
    assert lines[1].endswith("failed              0/3  red <&> and")
    assert lines[5].split()[-4:] == ["passed", "with", "help", "1/1"]
    assert lines[-1] == (
        "score 3/9 (1 passed, 1 passed with help, 1 failed, 1 not attempted, "
        "1 not verified here, 1 grader error)"
    )


# Commands


def test_grade_writes_reports_and_its_status_says_whether_something_failed(run, mine, course):
    toy.save(toy.answered(toy.exercises(COUNT), {1: toy.right(1), 2: "def f2(x): pass"}), mine)
    before = mine.read_bytes(), mine.stat().st_mtime_ns
    status, out, err = run("grade", "--chapter", "90", "--json", "a.json", "--junit", "a.xml")
    assert (status, err) == (1, "")
    assert out.startswith("exercises/90_toy.ipynb, as saved at ")
    assert "score 2/6 (1 passed, 1 failed, 1 not attempted)" in out
    data = json.loads((course / "a.json").read_text(encoding="utf-8"))
    assert [e["status"] for e in data["exercises"]] == ["passed", "failed", "not_attempted"]
    assert len(list(ElementTree.parse(course / "a.xml").iter("testcase"))) == 3
    assert (mine.read_bytes(), mine.stat().st_mtime_ns) == before


def test_a_report_that_cannot_be_written_is_told_after_the_grade(run, mine):
    status, out, err = run("grade", mine, "--json", "nowhere/out.json")
    assert status == 2
    assert "score 0/6" in out
    assert err == "nowhere/out.json: No such file or directory\n"


def test_a_chapter_is_found_from_any_folder_of_the_course(mine, course, monkeypatch):
    for folder in (course, mine.parent, course / "deep" / "down", course / "solutions"):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.name == "solutions":
            shutil.copy(mine, folder)
        monkeypatch.chdir(folder)
        for name in ("90", toy.STEM):
            assert commands._exercise_file(commands._stem(name)).resolve() == mine.resolve()


def test_unknown_chapters_and_exercises_say_what_there_is(run, course):
    there = "there is no chapter 17 with exercises: there are 90_toy\n"
    assert run("grade", "--chapter", "17") == (2, "", there)
    assert run("reset", "17") == (2, "", there)
    assert run("hint", "90.77") == (2, "", "no exercise '90.77': chapter 90 has 90.1 to 90.20\n")
    gone = "there is no exercise 90.77: the chapter has 90.1, 90.2, 90.3\n"
    assert run("reset", "90", "--exercise", "90.77") == (2, "", gone)


def test_hints_come_one_after_the_other_and_are_recorded(run):
    for level, text in enumerate(("Think.", "Add.", "Add 1."), 1):
        status, out, _ = run("hint", "90.1")
        assert (status, out) == (0, f"90.1 Add 1: hint {level} of 3\n{text}\n")
    last = "90.1 Add 1: hint 3 of 3, the last: there are no more\nAdd 1.\n"
    assert run("hint", "90.1") == (0, last, "")
    assert progress.load().helped("90.1")


def test_progress_has_a_line_a_chapter(run):
    progress.record_pass("90.1")
    _, out, _ = run("progress")
    chapter, total = out.splitlines()
    assert chapter == "90_toy  1 of 20 passed, next 90.2 Add 2"
    assert total.startswith("passed so far: 2/40 points")
    for n in range(2, toy.COUNT + 1):
        progress.record_pass(f"90.{n}")
    assert run("progress")[1].splitlines()[0] == "90_toy  20 of 20 passed"


def test_progress_says_how_guesses_met_their_answers(run):
    assert "guessed so far" not in run("progress")[1]
    progress.record_guess("How many?", 3, 4)
    said = "guessed so far: within a factor of two in 1 of 1 guesses"
    assert run("progress")[1].splitlines()[1] == said


def test_progress_lists_every_exercise(run, monkeypatch):
    monkeypatch.setattr(toy, "TITLES", {3: "Add 3 and say in many words what came of it"})
    progress.record_hint("90.1")
    progress.record_pass("90.1")
    progress.record_hint("90.2")
    progress.record_best("90.3", moved=1.25, roofline=0.5)
    status, out, _ = run("progress", "--all")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == toy.COUNT + 1
    assert f"passed {time.strftime('%Y-%m-%d')}, hints 1" in lines[0]
    assert lines[1].endswith("open, hints 1")
    good = "open, moved 1.25 times the least possible, reached 50% of the roofline"
    assert lines[2].endswith(good)
    assert len({line.index("open") for line in lines[1:-1]}) == 1
    assert lines[-1].startswith("passed so far: 2/40 points")


def backups(mine):
    return sorted(mine.parent.glob("*.backup-*.ipynb"))


def test_reset_puts_a_chapter_back_and_keeps_the_learners_file(run, mine):
    mine.write_bytes(b"<<<<<<< HEAD")
    status, out, _ = run("reset", "90")
    assert status == 0
    assert json.loads(mine.read_text(encoding="utf-8")) == toy.exercises(COUNT)
    (kept,) = backups(mine)
    assert kept.read_bytes() == b"<<<<<<< HEAD"
    assert kept.name in out
    assert len(list(mine.parent.iterdir())) == 2
    assert submission.is_backup(kept)


def test_reset_of_an_untouched_file_changes_and_keeps_nothing(run, mine):
    assert run("reset", "90")[0] == 0
    for backup in backups(mine):
        backup.unlink()
    before = mine.read_bytes()
    status, out, _ = run("reset", "90")
    assert status == 0 and "kept" not in out
    assert mine.read_bytes() == before and backups(mine) == []


def test_reset_makes_a_file_that_is_gone(run, mine):
    mine.unlink()
    status, _, _ = run("reset", "90")
    assert status == 0
    assert json.loads(mine.read_text(encoding="utf-8")) == toy.exercises(COUNT)
    assert backups(mine) == []


def test_reset_of_one_exercise_leaves_the_others(run, mine):
    solved = toy.answered(toy.exercises(COUNT), {n: toy.right(n) for n in (1, 2, 3)})
    solved["metadata"]["mine"] = "√"
    toy.save(solved, mine)
    assert run("reset", "90", "--exercise", "90.2")[0] == 0
    expected = toy.answered(toy.exercises(COUNT), {1: toy.right(1), 3: toy.right(3)})
    expected["metadata"]["mine"] = "√"
    assert json.loads(mine.read_text(encoding="utf-8")) == expected
    (kept,) = backups(mine)
    assert json.loads(kept.read_text(encoding="utf-8")) == solved


def test_reset_of_one_exercise_brings_lost_cells_back_to_their_place(run, mine):
    solved = toy.answered(toy.exercises(COUNT), {1: toy.right(1)})
    whole = [cell["id"] for cell in solved["cells"]]
    solved["cells"] = [cell for cell in solved["cells"] if not cell["id"].endswith("-2")]
    toy.save(solved, mine)
    assert run("reset", "90", "--exercise", "90.2")[0] == 0
    cells = json.loads(mine.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells] == whole


def test_reset_of_one_exercise_of_a_broken_file_changes_nothing(run, mine):
    mine.write_bytes(b"{")
    status, _, err = run("reset", "90", "--exercise", "90.2")
    assert status == 2
    assert "is not valid JSON" in err
    assert mine.read_bytes() == b"{"
    assert backups(mine) == []


def test_watch_grades_at_each_save_and_survives_a_bad_one(mine, capsys):
    saved = iter(
        [
            json.dumps(toy.answered(toy.exercises(COUNT), {1: toy.right(1)})),
            "",
            json.dumps(toy.answered(toy.exercises(COUNT), {1: toy.right(1), 2: toy.right(2)})),
        ]
    )

    def save_again():
        # Each save waits until the one before was seen.
        for number, text in enumerate(saved, 1):
            while len(seen) < number:
                time.sleep(0.02)
            fresh = mine.with_suffix(".new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(mine)  # a file that is half written would be a save of its own

    seen = []
    stamps = commands._told

    def told(command):
        def run(argument):
            status = stamps(command)(argument)
            seen.append(status)
            return status

        return run

    writer = threading.Thread(target=save_again, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "_told", told)
        writer.start()
        assert commands.watch(mine, rounds=4, pause=0.01) == 0
    assert seen == [0, 0, 2, 0]
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("score")] == [
        "score 0/6 (3 not attempted)",
        "score 2/6 (1 passed, 2 not attempted)",
        "score 4/6 (2 passed, 1 not attempted)",
    ]
    assert "is empty" in err


def test_watch_ends_with_ctrl_c_and_needs_a_file(mine, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_show_grade", lambda path: 0)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", interrupt)
    assert commands.watch(mine) == 0
    assert capsys.readouterr().out.endswith("stopped watching\n")
    monkeypatch.undo()
    assert commands.watch(mine.with_name("none.ipynb")) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("interpret", [True, False])
def test_answers_are_graded_in_tritons_interpreter_even_beside_a_gpu(
    tmp_path, monkeypatch, interpret
):
    """Only there can a kernel's traffic be counted."""
    seen = {}

    def start(**options):
        seen.update(options["env"])
        raise RuntimeError("far enough")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernel, "start_new_kernel", start)
    with pytest.raises(RuntimeError, match="far enough"):
        kernel.Kernel(tmp_path, interpret=interpret)
    assert (seen.get("TRITON_INTERPRET") == "1") is interpret


def test_chapters_are_compared_without_a_gpu_as_they_were_built(tmp_path, monkeypatch):
    seen = {}

    def start(**options):
        seen.update(options["env"])
        raise RuntimeError("far enough")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(kernel, "start_new_kernel", start)
    with pytest.raises(RuntimeError, match="far enough"):
        kernel.Kernel(tmp_path)
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"
    option = types.SimpleNamespace(nbval_kernel_startup_timeout=60)
    config = types.SimpleNamespace(option=option)
    chapter = types.SimpleNamespace(path=tmp_path / "04_window.ipynb", config=config)
    with pytest.raises(RuntimeError, match="far enough"):
        chapters.ChapterFile.setup(chapter)
    assert seen["CUDA_VISIBLE_DEVICES"] == ""


def test_the_grading_session_asks_for_the_interpreter(mine, monkeypatch):
    asked = {}

    def start(folder, **options):
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "Kernel", start)
    with pytest.raises(KeyboardInterrupt):
        session.grade(submission.read(mine))
    assert asked == {"interpret": True}
