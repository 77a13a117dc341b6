"""A learner's folder: laid out, and brought to a newer release with the learner's part."""

import argparse
import collections
import contextlib
import copy
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from covering import by_day
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncourse import cli, house
from attncourse.folder import commands, files, starting, updating
from attncourse.folder.merging import HEADING, outputs_of
from attncourse.grading.submission import content_id, course_metadata, source_of

ROOT = Path(__file__).parents[1]

# Two releases of a small course


def cell(source, kind="code", output=None, **ours):
    made = {"cell_type": kind, "source": source, "metadata": {"attncourse": ours} if ours else {}}
    if kind == "code":
        shown = {"output_type": "stream", "name": "stdout", "text": [output]}
        made |= {"outputs": [shown] if output else [], "execution_count": 1 if output else None}
    return made


def exercise(number, function, title="Title", text="", stub=""):
    text = f"## {number} {title}\n\nWrite `{function}`. {text}"
    prompt = cell(text, "markdown", role="prompt", exercise=number)
    body = f'def {function}(x):\n    """{stub}"""\n    raise NotImplementedError'
    answer = cell(body, role="answer", exercise=number)
    return [prompt, answer, cell(f'check("{number}")', role="check", exercise=number)]


def notebook(stem, kind, cells):
    seen = collections.Counter()
    for each in cells:
        name = content_id(each["cell_type"], each["source"])
        seen[name] += 1
        each["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    ours = {"kind": kind, "stem": stem, "chapter": stem[:2], "release": "1"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"attncourse": ours}, "cells": cells}


def release(chapters, exercises):
    contents = {"README.md": b"read me", "results/model.json": b'{"log": 1}'}
    for kind, notebooks in (("notebooks", chapters), ("exercises", exercises)):
        for stem, cells in notebooks.items():
            made = notebook(stem, "chapter" if kind == "notebooks" else kind, cells)
            contents[f"{kind}/{stem}.ipynb"] = files.as_bytes(made)
    return contents


def setup(text="from attncourse.grading import check"):
    return cell(text, role="setup")


def old_release():
    one = [setup(), *exercise("01.1", "f"), *exercise("01.2", "g"), *exercise("01.3", "h")]
    one += [*exercise("01.4", "moving"), *exercise("01.5", "asked"), cell("the end", "markdown")]
    chapter = [cell(f"text {n}", "markdown") for n in range(4)]
    chapter += [cell("1 + 1", output="2"), cell("twice"), cell("twice"), cell("last", output="old")]
    other = [setup("import two"), *exercise("02.1", "k")]
    return release({"01_one": chapter}, {"01_one": one, "02_two": other})


def new_release():
    """01.1 reads otherwise, 01.2 is gone, 01.3 is 01.2 with another stub, 01.3 is new, and so on.

    01.4 is 02.2 now, 01.5 asks for another function, 02.1 has another title.
    """
    one = [setup(), *exercise("01.1", "f", text="More."), *exercise("01.2", "h", stub="Doc")]
    one += [*exercise("01.3", "fresh"), *exercise("01.5", "other"), cell("the end", "markdown")]
    two = [setup("import three"), *exercise("02.1", "k", title="Name"), *exercise("02.2", "moving")]
    chapter = [cell(f"text {n}", "markdown") for n in (0, 1, 5, 3)]
    chapter += [cell("1 + 1", output="2"), cell("twice"), cell("twice"), cell("last", output="new")]
    return release({"01_one": chapter, "03_new": [cell("hello")]}, {"01_one": one, "02_two": two})


OLD, NEW = old_release(), new_release()
RELEASED = {
    source_of(each)
    for contents in (OLD, NEW)
    for name, content in contents.items()
    if name.endswith(".ipynb")
    for each in json.loads(content)["cells"]
} | {HEADING}


class Folder:
    """A folder with the old release, in which one can work."""

    def __init__(self, path, patch):
        self.path, self._patch = path, patch
        self.install(OLD)
        self.said = starting.start(path)

    def install(self, contents):
        self._patch.setattr(files, "laid_out", lambda: dict(contents))

    def read(self, name):
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def save(self, name, notebook):
        (self.path / name).write_text(json.dumps(notebook), encoding="utf-8")

    def answer(self, function, text=None, stem="01_one"):
        """Write an answer into the cell of a function, and return its text."""
        made = self.read(f"exercises/{stem}.ipynb")
        text = text or f"def {function}(x):\n    return x  # mine"
        stub = next(c for c in made["cells"] if source_of(c).startswith(f"def {function}("))
        stub["source"] = text
        self.save(f"exercises/{stem}.ipynb", made)
        return text

    def update(self, contents=NEW):
        self.install(contents)
        lines, self.left = updating.update(self.path)
        self.said = "\n".join(lines)
        return self.said

    def texts(self, name):
        return [source_of(each) for each in self.read(name)["cells"]]

    def backups(self):
        return sorted((self.path / "backups").glob("*"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return Folder(tmp_path / "course", monkeypatch)


PROMPT_OF_G = "## 01.2 Title\n\nWrite `g`. "
ONE, TWO, CHAPTER = "exercises/01_one.ipynb", "exercises/02_two.ipynb", "notebooks/01_one.ipynb"


def test_untouched_files_become_those_of_the_release_without_a_backup(folder):
    said = folder.update()
    assert {name: (folder.path / name).read_bytes() for name in NEW} == NEW
    assert folder.backups() == []
    assert "notebooks/03_new.ipynb: is new" in said
    assert folder.update().endswith("nothing to do")


def test_answers_go_along_with_their_exercises(folder):
    mine = {name: folder.answer(name) for name in ("f", "h", "moving")}
    mine["k"] = folder.answer("k", stem="02_two")
    before = (folder.path / ONE).read_bytes()
    said = folder.update()
    cells = folder.read(ONE)["cells"] + folder.read(TWO)["cells"]
    found = {
        course_metadata(c).get("exercise"): source_of(c)
        for c in cells
        if course_metadata(c).get("role") == "answer"
    }
    assert (found["01.1"], found["01.2"]) == (mine["f"], mine["h"])
    assert (found["02.2"], found["02.1"]) == (mine["moving"], mine["k"])
    assert "fresh" in found["01.3"] and "NotImplementedError" in found["01.3"]
    (backup,) = folder.backups()
    assert (backup / ONE).read_bytes() == before
    for line in (
        "01.1: the text has changed",
        "01.3 is new: Title",
        "01.3 is now 01.2, and your answer went along",
        "01.2: the cell to fill in has changed; your answer stays in it",
        "01.4 is now 02.2, and your answer went along",
        "01.2 is no longer here",
        '02.1 is now called "Name", before "Title"',
        f"kept as it was in {backup.relative_to(folder.path)}",
    ):
        assert line in said
    for name in (ONE, TWO):
        nbformat.validate(nbformat.read(folder.path / name, as_version=4))


def test_the_answer_to_an_exercise_that_is_gone_stands_at_the_end_below_the_last_check(folder):
    mine = folder.answer("g")
    said = folder.update()
    assert folder.texts(ONE)[-4:] == ["the end", HEADING, PROMPT_OF_G, mine]
    assert "01.2 is no longer here; your answer stands at the end" in said
    folder.update(OLD)  # it comes back, and the answer with it
    answers = [c for c in folder.read(ONE)["cells"] if course_metadata(c).get("role") == "answer"]
    assert source_of(answers[1]) == mine
    texts = folder.texts(ONE)
    assert texts[-1] == "the end" and texts.count(mine) == 1 and texts.count(PROMPT_OF_G) == 1


def test_what_was_written_under_kept_stays_when_an_exercise_comes_back(folder):
    mine = folder.answer("g")
    folder.update()
    made = folder.read(ONE)
    made["cells"].append({**cell("a note below"), "id": "note"})
    folder.save(ONE, made)
    folder.answer("h")  # 01.2 now, which is gone from the next release but one
    folder.update(OLD)
    texts = folder.texts(ONE)
    assert "a note below" in texts and texts.count(mine) == 1


def test_an_answer_that_moved_and_comes_back_is_the_one_that_was_worked_on(folder):
    folder.answer("moving")
    folder.update()
    better = folder.answer("moving", "def moving(x):\n    return x  # better", stem="02_two")
    folder.update(OLD)
    found = [
        source_of(c) for c in folder.read(ONE)["cells"]
        if course_metadata(c).get("role") == "answer" and "moving" in source_of(c)
    ]  # fmt: skip
    assert found == [better]


def test_an_answer_to_another_question_stands_below_the_new_cell(folder):
    mine = folder.answer("asked")
    said = folder.update()
    texts = folder.texts(ONE)
    assert texts[texts.index(mine) - 1].startswith("def other(x)")
    assert "01.5 asks for `other` now: your answer stands below its cell" in said


def test_own_cells_stay_behind_the_cell_that_they_stood_behind(folder):
    made = folder.read(ONE)
    cells = made["cells"]
    behind = {}
    for n, where in enumerate((0, 3, 7, 16)):  # from the top: before all, after a stub, …
        own = {**cell(f"helper_{n} = {n}"), "id": f"own{n}"}
        behind[source_of(own)] = source_of(cells[where + n - 1]) if where else None
        cells.insert(where + n, own)
    folder.save(ONE, made)
    folder.update()
    texts = folder.texts(ONE)
    for own, before in behind.items():
        at = texts.index(own)
        assert at == 0 if before is None else texts[at - 1] == before


def test_a_chapter_keeps_edits_own_cells_and_deletions(folder):
    made = folder.read(CHAPTER)
    cells = made["cells"]
    cells[0]["source"] = "text 0, and a note of mine"
    cells[2]["source"] = "text 2, changed by me and by the release"
    cells.insert(5, {**cell("my = 'own'"), "id": "mine"})
    del cells[1]
    cells[4]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "by me"}]
    folder.save(CHAPTER, made)
    said = folder.update()
    assert folder.texts(CHAPTER) == [
        "text 0, and a note of mine", "text 2, changed by me and by the release", "text 5",
        "text 3", "1 + 1", "my = 'own'", "twice", "twice", "last",
    ]  # fmt: skip
    after = folder.read(CHAPTER)["cells"]
    assert after[-1]["outputs"][0]["text"] == ["new"]  # nobody had run it
    assert "1 cell is new or changed" in said and "3 of your cells kept" in said
    told = "the release has changed a cell that you had edited: yours stays above the new one"
    assert f'{told} ("text 2, ' in said and said.count("you had edited") == 1
    assert folder.update().endswith("nothing to do")


def test_outputs_of_the_learners_own_run_stay(folder):
    made = folder.read(CHAPTER)
    made["cells"][-1]["outputs"][0]["text"] = "mine\n"
    folder.save(CHAPTER, made)
    folder.update()
    assert folder.read(CHAPTER)["cells"][-1]["outputs"][0]["text"] == "mine\n"
    lines = {"outputs": [{"text": ["a\n", "b"]}], "cell_type": "code"}
    assert outputs_of(lines) == outputs_of({"outputs": [{"text": "a\nb"}], "cell_type": "code"})


def test_an_edited_cell_that_the_release_has_no_more_is_told(folder):
    made = folder.read(CHAPTER)
    made["cells"][2]["source"] = "text 2, by me\nand more"
    folder.save(CHAPTER, made)
    fewer = release({"01_one": [cell("text 0", "markdown")]}, {"01_one": [setup()]})
    said = folder.update(fewer)
    told = 'the release has dropped a cell that you had edited: yours stays ("text 2, by me")'
    assert told in said and "you had edited" not in folder.update(fewer)


BROKEN = {
    "marks": "<<<<<<< HEAD\n{}\n=======\n",
    "no JSON": '{"cells": [',
    "empty": "",
    "no notebook": "[1, 2]",
    "not UTF-8": b"\xff\xfe{",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_notebook_is_left_backed_up_and_told_in_one_line(folder, what):
    content = BROKEN[what] if isinstance(BROKEN[what], bytes) else BROKEN[what].encode()
    (folder.path / ONE).write_bytes(content)
    said = folder.update()
    (line,) = [line for line in said.splitlines() if line.startswith(ONE)]
    assert "stays as it is: mend it, and update again" in line and str(folder.path) not in line
    assert len(folder.left) == 1  # and the command ends with 2
    assert (folder.path / ONE).read_bytes() == content
    assert (folder.backups()[0] / ONE).read_bytes() == content
    assert (folder.path / TWO).read_bytes() == NEW[TWO]
    # Mended, it goes on from the release that it was of.
    (folder.path / ONE).write_bytes(OLD[ONE])
    folder.update()
    assert (folder.path / ONE).read_bytes() == NEW[ONE]


def test_other_files_are_replaced_but_records_and_own_notebooks_stay(folder):
    own = folder.path / "exercises/own.ipynb"
    own.write_bytes(OLD[ONE])
    (folder.path / "results/model.json").write_text("measured here")
    (folder.path / "README.md").write_text("my notes")
    said = folder.update(NEW | {"results/model.json": b"3", "README.md": b"4"})
    assert own.read_bytes() == OLD[ONE]
    assert (folder.path / "results/model.json").read_text() == "measured here"
    assert (folder.path / "README.md").read_bytes() == b"4"
    assert (folder.backups()[0] / "README.md").read_text() == "my notes"
    assert "results/model.json: is a record of your own, and stays" in said


def test_what_the_release_has_no_more_goes_unless_it_was_worked_on(folder):
    fewer = {name: content for name, content in NEW.items() if "01_one" not in name}
    mine = folder.answer("moving")
    before = (folder.path / ONE).read_bytes()
    said = folder.update(fewer)
    assert (folder.path / ONE).read_bytes() == before
    assert f"{ONE}: is no longer part of the course; you have changed it, so it stays" in said
    assert not (folder.path / CHAPTER).exists() and f"gone from the course: {CHAPTER}" in said
    assert mine in folder.texts(TWO)


def test_no_backup_is_written_over(folder, monkeypatch):
    monkeypatch.setattr(updating.time, "strftime", lambda form: "2026-01-01-000000")
    for n, contents in enumerate((NEW, OLD, NEW)):
        (folder.path / "README.md").write_text(f"notes {n}")
        folder.update(contents)
    kept = [(backup / "README.md").read_text() for backup in folder.backups()]
    assert kept == ["notes 0", "notes 1", "notes 2"]
    assert files.submission.is_backup(folder.backups()[0] / ONE)
    assert not files.submission.is_backup(folder.path / ONE)


def test_a_file_that_is_left_alone_is_backed_up_once_by_content(folder):
    (folder.path / ONE).write_text("<<<<<<< HEAD")
    first = folder.update()
    again = folder.update()
    assert len(folder.backups()) == 1
    line = f"what you had changed is kept as it was in backups/{folder.backups()[0].name}"
    assert line in first and line in again
    (folder.path / ONE).write_text("<<<<<<< mended badly")
    folder.update()
    assert len(folder.backups()) == 2


def test_many_missing_files_are_told_in_one_line(folder):
    folder.update()
    kept = folder.path / ONE
    for path in folder.path.glob("*/*.ipynb"):
        path.unlink()
    said = folder.update()
    assert "was missing" not in said
    assert f"4 files were missing, and are back: {ONE}, {TWO}, {CHAPTER} and 1 more" in said
    kept.unlink()
    assert f"{ONE}: was missing, and is back" in folder.update()


def run_update(folder, capsys, contents=NEW):
    folder.install(contents)
    return run(capsys, "update", folder.path)


@pytest.mark.parametrize("failing", ["backup", "write", "mark"])
def test_a_write_that_fails_says_what_is_done_and_that_one_can_go_on(
    folder, monkeypatch, capsys, failing
):
    mine = folder.answer("f")
    before = (folder.path / ONE).read_bytes()
    write, parts = files.write, {"backup": "backups", "write": "exercises", "mark": ".attncourse"}

    def full(path, content):
        if path.relative_to(folder.path).parts[0] == parts[failing]:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(files, "write", full)
    status, said = run_update(folder, capsys)
    assert status == 2 and said.count("\n") == 1 and "No space left on device" in said
    assert "safe to run again" in said
    if failing == "backup":
        assert "nothing of the course has been changed" in said
        assert (folder.path / ONE).read_bytes() == before
    else:
        done = {"write": 2, "mark": 4}[failing]
        assert f"{done} of 4 files are brought up to date" in said
        assert f"backups/{folder.backups()[0].name}" in said
    monkeypatch.setattr(files, "write", write)
    assert run_update(folder, capsys)[0] == 0
    assert mine in folder.texts(ONE)
    assert (folder.path / CHAPTER).read_bytes() == NEW[CHAPTER]


def test_a_failing_write_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "one.ipynb"
    path.write_bytes(b"old")

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as raised:
        files.write(path, b"new")
    assert raised.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["one.ipynb"]
    assert path.read_bytes() == b"old"


def test_drafts_of_a_write_that_was_killed_go_and_no_other_file(folder):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed, living, own = (
        folder.path / "notebooks" / f".~{name}"
        for name in (f"01_one.ipynb.{gone.pid}", f"01_one.ipynb.{os.getpid()}", "mine")
    )
    for file in (killed, living, own):
        file.write_text("half")
    updating.update(folder.path)
    assert (killed.exists(), living.exists(), own.exists()) == (False, True, True)


def test_an_older_release_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(updating.attncourse, "__version__", "0.10.0")
    assert run_update(folder, capsys)[0] == 0
    before = {name: (folder.path / name).read_bytes() for name in NEW}
    monkeypatch.setattr(updating.attncourse, "__version__", "0.9.1")
    for command in ("update", "start"):
        folder.install(OLD)
        status, said = run(capsys, command, folder.path)
        assert status == 2 and said.count("\n") == 1
        assert "is of release 0.10.0, and 0.9.1 is installed, which is older" in said
    assert {name: (folder.path / name).read_bytes() for name in NEW} == before
    assert folder.backups() == []


def test_a_file_that_is_saved_meanwhile_stays(folder, monkeypatch):
    folder.answer("f")
    back_up = updating._back_up

    def saved_meanwhile(*arguments):
        folder.answer("h", "saved = 'meanwhile'")
        return back_up(*arguments)

    monkeypatch.setattr(updating, "_back_up", saved_meanwhile)
    assert f"{ONE} was saved meanwhile, and stays: update again" in folder.update()
    monkeypatch.undo()
    folder._patch = monkeypatch
    folder.update()
    texts = folder.texts(ONE)
    assert "saved = 'meanwhile'" in texts and "def f(x):\n    return x  # mine" in texts


# The property: whatever was done to the notebooks, nothing of it is lost

DOINGS = (
    "edit", "answer", "add", "delete", "duplicate", "copy", "move", "lose id", "lose metadata",
    "output", "retype", "strange metadata",
)  # fmt: skip
NAMES, PLACES = st.sampled_from([ONE, TWO, CHAPTER]), st.integers(0, 30)
WORK = st.lists(st.tuples(st.sampled_from(DOINGS), NAMES, PLACES, PLACES), min_size=1, max_size=12)


def work(notebook, what, at, to, number):
    """Do to a notebook what learners do, and their programs."""
    cells = notebook["cells"]
    if not cells:
        return
    at, to = at % len(cells), to % len(cells)
    one = cells[at]
    if what == "edit":
        one["source"] = f"edited {number}"
    elif what == "answer":
        name = source_of(one).partition("(")[0].removeprefix("def ")
        one["source"] = f"def {name if name.isidentifier() else 'f'}(x):\n    return {number}"
    elif what == "add":
        cells.insert(at, {**cell(f"own {number}"), "id": f"own-{number}"})
    elif what == "delete" and len(cells) > 1:
        del cells[at]
    elif what in ("duplicate", "copy"):
        cells.insert(to, copy.deepcopy(one) | ({"id": f"copy{number}"} if what == "copy" else {}))
    elif what == "move":
        cells.insert(to, cells.pop(at))
    elif what == "lose id":
        one.pop("id", None)
    elif what == "lose metadata":
        one["metadata"] = {}
    elif what == "strange metadata":
        one["metadata"] = [None, {"attncourse": [1]}, {"attncourse": {"kept": 1}}][number % 3]
        one["id"] = [7, None, ""][number % 3]
    elif what == "output" and one["cell_type"] == "code":
        one["outputs"] = [{"output_type": "stream", "name": "stdout", "text": f"{number}"}]
    elif what == "retype":
        one["cell_type"] = "markdown"


def learners_texts(folder):
    """How often each text that is not the course's stands in the notebooks."""
    names = [name for name in (ONE, TWO, CHAPTER) if (folder.path / name).exists()]
    return collections.Counter(
        text for name in names for text in folder.texts(name) if text not in RELEASED
    )


class StopError(Exception):
    pass


@settings(
    max_examples=by_day(12, 400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(WORK, st.integers(0, 9))
def test_nothing_that_a_learner_wrote_is_lost(tmp_path_factory, done, stop):
    with pytest.MonkeyPatch.context() as patch:
        folder = Folder(tmp_path_factory.mktemp("course"), patch)
        for number, (what, name, at, to) in enumerate(done):
            made = folder.read(name)
            work(made, what, at, to, number)
            folder.save(name, made)
        before = {name: (folder.path / name).read_bytes() for name in OLD}
        wrote = learners_texts(folder)
        written, write = [], files.write

        def interrupted(path, content):
            if len(written) == stop:
                raise StopError
            written.append(path)
            write(path, content)

        patch.setattr(files, "write", interrupted)
        with contextlib.suppress(StopError):
            folder.update()
        patch.setattr(files, "write", write)
        assert learners_texts(folder) >= wrote
        folder.update()
        assert learners_texts(folder) >= wrote
        after = {name: (folder.path / name).read_bytes() for name in NEW}
        for name, content in before.items():
            kept = {(b / name).read_bytes() for b in folder.backups() if (b / name).exists()}
            assert content == OLD[name] or content == after[name] or content in kept
        for name in (ONE, TWO):
            ids = [each["id"] for each in folder.read(name)["cells"]]
            assert len(ids) == len(set(ids)) and all(ids)
            wanted = [each["id"] for each in json.loads(NEW[name])["cells"]]
            assert [each for each in ids if each in wanted] == wanted
        assert folder.update().endswith("nothing to do")
        assert {name: (folder.path / name).read_bytes() for name in NEW} == after
        folder.update(OLD)  # what was gone is back
        assert set(learners_texts(folder)) >= set(wrote)
        assert folder.update(OLD).endswith("nothing to do")


# What is laid out, and by what it is found


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as in a wheel, with one chapter."""
    package = tmp_path / "site-packages" / "attncourse"
    for name in ("course/notebooks/00_start.ipynb", "course/jupyter/overrides.json",
                 "course/results/model.json", "course/constraints.txt", "__init__.py",
                 "reference/__init__.py"):  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text('{"cells": []}')
    monkeypatch.setattr(house, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    return package


def test_a_clone_lays_out_its_notebooks_and_no_answers(monkeypatch, tmp_path):
    contents = files.laid_out()
    for kind in files.FOLDERS:
        there = {path.stem for path in (ROOT / kind).glob("[0-9]*.ipynb")}
        assert {Path(n).stem for n in contents if n.startswith(f"{kind}/")} >= there - {
            stem for stem in there if ".backup-" in stem
        }
    assert contents["README.md"].startswith(b"# ") and "docs/registers.md" in contents
    assert not [n for n in contents if n.startswith(("attncourse/", "jupyter/", "constraints"))]
    assert not [name for name in contents if "_source" in name]
    original = json.loads(contents["exercises/00_start.ipynb"])
    worked = copy.deepcopy(original)
    worked["cells"][-2]["source"] = "my answer"
    laid = files._without_answers("exercises/00_start.ipynb", files.as_bytes(worked))
    assert [c["source"] for c in json.loads(laid)["cells"]] == [
        c["source"] for c in original["cells"]
    ]


def test_each_released_cell_is_known_by_its_id():
    """The merge rests on it."""
    for path in sorted(ROOT.glob("exercises/[0-9][0-9]_*.ipynb")):
        for each in files.submission.released(path.stem)["cells"]:
            name = content_id(each["cell_type"], source_of(each))
            assert each["id"].partition("-")[0] == name, path


def test_a_wheel_lays_out_the_modules_to_read_without_a_package(installed):
    contents = files.laid_out()
    assert set(contents) == {
        "README.md", "notebooks/00_start.ipynb", "results/model.json",
        "attncourse/reference/__init__.py",
    }  # fmt: skip
    (installed / "course/notebooks/00_start.ipynb").unlink()
    with pytest.raises(files.FolderError, match="has no notebooks"):
        files.laid_out()


@pytest.fixture
def readme(installed, monkeypatch):
    monkeypatch.setattr(files, "README", ROOT / "attncourse/data/folder.md")


def run(capsys, *arguments):
    status = cli.main([str(each) for each in arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_start_refuses_a_folder_with_other_files_in_one_line(installed, readme, capsys, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").touch()
    (other / ".venv").mkdir()
    assert run(capsys, "start", other) == (
        2, f"{other} has other files in it (letter.txt): name a new or empty folder\n",
    )  # fmt: skip
    assert "is a file" in run(capsys, "start", other / "letter.txt")[1]
    (other / "letter.txt").unlink()
    status, said = run(capsys, "start", other)
    assert status == 0 and f"attncourse lab {other}" in said
    assert [path.name for path in other.glob("*")]
    assert "is a clone of the course" in run(capsys, "start", ROOT)[1]
    assert "is a clone of the course" in run(capsys, "update", ROOT)[1]


def test_a_start_within_a_course_does_nothing(installed, readme, capsys, tmp_path):
    course = tmp_path / "course"
    run(capsys, "start", course)
    for inside in (course / "notebooks", course / "mine/deep", ROOT / "mine"):
        there = inside.exists()
        status, said = run(capsys, "start", inside)
        assert status == 2 and said.count("\n") == 1
        assert f"{inside} lies in " in said and "name a folder elsewhere" in said
        assert inside.exists() == there
    assert "course is in" in run(capsys, "start", course)[1]


def test_a_start_goes_on_with_its_own_and_writes_over_nothing(folder, monkeypatch, capsys):
    mine = folder.answer("f")
    (folder.path / TWO).unlink()
    assert starting.start(folder.path) == [f"put back in {folder.path}: {TWO}"]
    assert mine in folder.texts(ONE)
    assert "already, and whole" in starting.start(folder.path)[0]
    # Ended half-way, and then another release was installed.
    half, write = folder.path.parent / "half", files.write

    def interrupted(path, content):
        if path.name == "02_two.ipynb":
            raise StopError
        write(path, content)

    monkeypatch.setattr(files, "write", interrupted)
    with pytest.raises(StopError):
        starting.start(half)
    monkeypatch.setattr(files, "write", write)
    folder.install(NEW)
    monkeypatch.setattr(starting.attncourse, "__version__", "9")
    assert run(capsys, "start", half)[0] == 2
    updating.update(half)
    assert {name: (half / name).read_bytes() for name in NEW} == NEW
    status, said = run(capsys, "start", folder.path)
    assert status == 2 and f"attncourse update {folder.path}" in said


def test_a_folder_is_found_from_below_and_records_of_ones_own_come_first(
    installed, readme, capsys, tmp_path, monkeypatch
):
    course = tmp_path / "course"
    assert run(capsys, "update")[1].startswith("this is no course folder")
    assert house.record("model.json") == {"cells": []} and house.record("none.json") is None
    assert run(capsys, "start", course)[0] == 0
    (course / "results/model.json").write_text('{"log": "own"}')
    monkeypatch.chdir(course / "notebooks")
    assert house.folder() == course
    assert house.record("model.json") == {"log": "own"}
    assert house.results()[:2] == [course / "results", installed / "course/results"]
    assert "results/model.json: is a record of your own" in run(capsys, "update")[1]
    (course / house.MARK).write_text("{")
    # Nobody knows any more that the first notebook is as it was given; a notebook it is not.
    status, said = run(capsys, "update")
    assert status == 2 and "is of release 0.1.0, before unknown" in said
    monkeypatch.setattr(files, "write", lambda *a: (_ for _ in ()).throw(OSError(28, "No space")))
    status, said = run(capsys, "update")
    assert status == 2 and said.startswith(f"{course}: No space. So far nothing")


def test_lab_opens_the_folder_with_the_settings_of_make_lab(installed, readme, capsys, tmp_path):
    course = tmp_path / "course"
    run(capsys, "start", course)
    asked = argparse.Namespace(no_browser=True, ip="0.0.0.0", port=None)
    command, environment = commands.lab_command(course, asked)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--LabApp.app_settings_dir={installed / 'course/jupyter'}" in command
    assert f"--ServerApp.root_dir={course}" in command
    assert "--ServerApp.open_browser=False" in command and "--ServerApp.ip=0.0.0.0" in command
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))
    with pytest.raises(files.FolderError, match="attncourse start"):
        commands.lab_command(tmp_path, asked)


def test_lab_opens_terminals_in_the_course(installed, readme, capsys, tmp_path, monkeypatch):
    course = tmp_path / "course"
    run(capsys, "start", course)
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(commands.os, "execve", lambda *_: begun.append(Path.cwd()))
    monkeypatch.setattr(
        commands.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=0)
    )
    run(capsys, "lab", course)
    assert begun == [course]


def test_the_build_takes_the_course_along(monkeypatch):
    distribution = pytest.importorskip("setuptools").Distribution
    monkeypatch.chdir(ROOT)
    about = {"packages": ["attncourse"], "script_name": "setup.py"}
    build = runpy.run_path("setup.py")["BuildCourse"](distribution(about))
    build.ensure_finalized()
    taken = {Path(source).as_posix() for source in build.course()}
    for kind in files.FOLDERS:
        there = {f"{kind}/{p.name}" for p in (ROOT / kind).glob("[0-9][0-9]_*.ipynb")}
        assert {name for name in taken if name.startswith(f"{kind}/")} == {
            name for name in there if ".backup-" not in name
        }
    assert taken >= {"constraints.txt", "jupyter/overrides.json", "docs/registers.md"}
    assert taken >= {f"results/{path.name}" for path in (ROOT / "results").glob("*.json")}
    assert not [name for name in taken if "_source" in name]
    assert all(
        Path(target).parts[-3 if "/" in source else -2] in ("course", "attncourse")
        for source, target in build.course().items()
    )
    assert set(build.course()) <= set(build.get_source_files())


def test_links_of_the_notebooks_lead_into_the_folder():
    """Beside notebooks: the modules, and one page of docs."""
    contents = files.laid_out()
    for name in (n for n in contents if n.endswith(".ipynb")):
        for each in json.loads(contents[name])["cells"]:
            if each["cell_type"] != "markdown":
                continue
            for target in re.findall(r"\]\(((?:\.\./)?[\w/.]+\.\w+)(?:#[^)]*)?\)", source_of(each)):
                file = Path(os.path.normpath(Path(name).parent / target)).as_posix()
                is_module = file.startswith("attncourse/") and (ROOT / file).is_file()
                assert file in contents or is_module, f"{name}: {target}"
                assert file != "attncourse/__init__.py"
