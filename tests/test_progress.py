import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from attncourse import progress


def take_hints_and_pass(number):
    for _ in range(3):
        progress.record_hint("04.1")
    progress.record_pass(f"04.{number}")


def test_nothing_is_recorded_at_first():
    recorded = progress.load()
    assert recorded == progress.Progress()
    assert recorded.entry("04.1") == progress.Entry()
    assert not progress.path().exists()


def test_hints_count_to_three_and_stay_there():
    assert [progress.record_hint("04.1") for _ in range(5)] == [1, 2, 3, 3, 3]
    assert progress.load().entry("04.1").hints == 3


def test_a_pass_is_dated_and_keeps_its_first_date():
    progress.record_pass("04.1")
    first = progress.load()
    assert first.entry("04.1").passed == time.strftime("%Y-%m-%d")
    file = progress.path()
    file.write_text(file.read_text().replace(first.entry("04.1").passed, "2020-02-02"))
    progress.record_pass("04.1")
    assert progress.load().entry("04.1").passed == "2020-02-02"


@pytest.mark.parametrize("hint_first", [True, False])
def test_help_is_a_hint_before_the_first_pass(hint_first):
    if hint_first:
        progress.record_hint("04.1")
        assert progress.load().helped("04.1")
    progress.record_pass("04.1")
    progress.record_hint("04.1")
    progress.record_pass("04.1")
    assert progress.load().helped("04.1") is hint_first


def test_the_best_kernel_is_kept_and_the_one_before_it_told():
    def best(**how):
        before = progress.record_best("04.5", **how)
        return before.moved, before.roofline

    assert best(moved=1.5) == (None, None)
    assert best(moved=1.25) == (1.5, None)
    assert best(moved=2.0) == (1.25, None)
    assert best(roofline=0.25) == (1.25, None)
    assert best(roofline=0.5) == (1.25, 0.25)
    assert best(roofline=0.125) == (1.25, 0.5)
    progress.record_pass("04.5")
    entry = progress.load().entry("04.5")
    assert (entry.moved, entry.roofline) == (1.25, 0.5) and entry.passed


def test_the_first_guess_of_a_question_counts():
    assert progress.record_guess("How many?", 3, 4) == progress.Guess(3, 4)
    assert progress.record_guess("How many?", 4, 4) == progress.Guess(3, 4)
    progress.record_guess("How few?", 1, 2)
    progress.record_hint("04.1")
    recorded = progress.load()
    assert recorded.guesses == {"How few?": progress.Guess(1, 2), "How many?": progress.Guess(3, 4)}
    assert recorded.entry("04.1").hints == 1


def test_a_file_from_before_there_were_guesses_is_read():
    progress.record_pass("04.1")
    stored = json.loads(progress.path().read_text())
    del stored["guesses"]
    progress.path().write_text(json.dumps(stored))
    assert progress.load().entry("04.1").passed and progress.load().notes == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"exercises": 3}',
        b'{"exercises": {"04.1": 3}}',
        b'{"exercises": {"04.1": {"hints": 1}}}',
        b'{"exercises": {"04.1": {"hints": "many", "passed": null, "helped": false}}}',
        b'{"exercises": {"04.1": {"hints": 1, "passed": null, "helped": false, "moved": "1"}}}',
        b'{"exercises": {"04.1": {"hints": 1, "passed": null, "helped": false, "moved": NaN}}}',
        b'{"exercises": {}, "guesses": []}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": 3}}}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": 3, "answer": 0}}}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": "3", "answer": 3}}}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": NaN, "answer": 3}}}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": true, "answer": 3}}}',
        b'{"exercises": {}, "guesses": {"How many?": {"guess": 1'
        + b"0" * 400
        + b', "answer": 3}}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_set_aside_with_a_note(content):
    file = progress.path()
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    recorded = progress.load()
    assert recorded.entries == {}
    (note,) = recorded.notes
    (aside,) = file.parent.iterdir()
    assert aside.name in note
    assert aside.read_bytes() == content
    assert progress.record_hint("04.1") == 1
    assert progress.load().notes == []


def test_files_broken_within_a_second_are_all_kept():
    progress.path().parent.mkdir(parents=True)
    for content in ("one", "two"):
        progress.path().write_text(content)
        progress.load()
    assert {file.read_text() for file in progress.path().parent.iterdir()} == {"one", "two"}


def test_a_good_file_that_replaced_a_broken_one_meanwhile_is_not_set_aside(monkeypatch):
    file, lock = progress.path(), progress._lock
    file.parent.mkdir(parents=True)
    file.write_text("damaged")

    def another_comes_first(*given):
        monkeypatch.setattr(progress, "_lock", lock)
        progress.record_pass("04.1")
        return lock(*given)

    monkeypatch.setattr(progress, "_lock", another_comes_first)
    assert progress.load().entry("04.1").passed
    assert progress.load().entry("04.1").passed


def test_a_byte_order_mark_does_no_harm():
    progress.record_pass("04.1")
    progress.path().write_bytes(b"\xef\xbb\xbf" + progress.path().read_bytes())
    assert progress.load().entry("04.1").passed


def test_a_link_stays_one(tmp_path):
    real = tmp_path / "elsewhere" / "mine.json"
    real.parent.mkdir()
    progress.path().parent.mkdir(parents=True)
    try:
        progress.path().symlink_to(real)
    except OSError:
        pytest.skip("links cannot be made here")
    progress.record_pass("04.1")
    assert progress.path().is_symlink() and "04.1" in real.read_text()


def test_a_folder_that_cannot_be_written_stops_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path / "file" / "below"))
    assert progress.record_hint("04.1") == 1
    progress.record_pass("04.1")
    assert progress.record_guess("How many?", 3, 4) == progress.Guess(3, 4)
    assert progress.load().entries == progress.load().guesses == {}


def test_several_processes_may_write_at_once():
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    writers = [context.Process(target=take_hints_and_pass, args=(n,)) for n in range(2, 8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    recorded = progress.load()
    assert recorded.entry("04.1").hints == 3
    assert all(recorded.entry(f"04.{n}").passed for n in range(2, 8))
    assert [file.name for file in progress.path().parent.iterdir()] == ["progress.json"]


@pytest.mark.parametrize("written", [1e9, 1e10])  # the clock may have been set back since
def test_a_lock_left_behind_is_taken_over(written):
    lock = progress.path().with_name("progress.lock")
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (written, written))
    started = time.monotonic()
    assert progress.record_hint("04.1") == 1
    assert time.monotonic() - started < progress.LOCK_SECONDS
    assert not lock.exists()


def test_a_lock_that_cannot_be_removed_is_not_waited_for():
    lock = progress.path().with_name("progress.lock")
    lock.mkdir(parents=True)
    os.utime(lock, (1e9, 1e9))
    started = time.monotonic()
    assert [progress.record_hint("04.1") for _ in range(2)] == [1, 2]
    assert time.monotonic() - started < progress.LOCK_SECONDS


def test_who_loses_its_lock_changes_what_others_stored_and_leaves_them_theirs(monkeypatch):
    monkeypatch.setattr(progress, "LOCK_SECONDS", 0.3)
    lock, as_text = progress.path().with_name("progress.lock"), progress._as_text

    def stopped(recorded):
        monkeypatch.setattr(progress, "_as_text", as_text)
        os.utime(lock, (1e9, 1e9))
        progress.record_hint("04.2")
        lock.write_text("of a third one")
        return as_text(recorded)

    monkeypatch.setattr(progress, "_as_text", stopped)
    started = time.monotonic()
    assert progress.record_hint("04.1") == 1
    assert time.monotonic() - started > 0.2  # it waited for the third one's
    assert {name: entry.hints for name, entry in progress.load().entries.items()} == {
        "04.1": 1,
        "04.2": 1,
    }
    assert [file.name for file in progress.path().parent.iterdir()] == ["progress.json"]


def test_a_write_is_whole_or_not_at_all(monkeypatch):
    progress.record_pass("04.1")

    def fill_the_disk(self, text, **kwargs):
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill_the_disk)
        progress.record_pass("04.2")
    assert list(progress.load().entries) == ["04.1"]
    assert [file.name for file in progress.path().parent.iterdir()] == ["progress.json"]


def test_the_platforms_folder_is_used_without_attncourse_home(monkeypatch, tmp_path):
    monkeypatch.delenv("ATTNCOURSE_HOME")
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert progress.path().name == "progress.json"
    assert "attncourse" in progress.path().parts


def test_the_file_is_plain_json():
    progress.record_hint("04.V7")
    progress.record_guess("How many?", 3, 4)
    assert json.loads(progress.path().read_text()) == {
        "exercises": {"04.V7": {"hints": 1, "passed": None, "helped": False}},
        "guesses": {"How many?": {"guess": 3, "answer": 4}},
    }
