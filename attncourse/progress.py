"""What a learner has done: hints, passes, best kernels and guesses, in one small JSON file.

The file is written as a whole and moved into place, under a lock, so that a notebook and a
grading run may write at the same time. A pass is recorded once and never undone, and of a question
only the first guess is. A file that cannot be read is set aside under another name and progress
starts afresh: it never stops a check.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HINT_LEVELS = 3
LOCK_SECONDS = 5.0  # a lock older than this was left behind by a process that died
ATTEMPTS = 5  # a lock that is lost each time cannot be kept on this disk
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass
class Entry:
    """What is recorded of one exercise; dates are ISO strings, None until it happens.

    Of a kernel the best is kept: the fewest bytes moved, over the least possible, and the largest
    share of a GPU's roofline.
    """

    hints: int = 0
    passed: str | None = None
    helped: bool = False
    moved: float | None = None
    roofline: float | None = None


@dataclass
class Guess:
    """The first guess of an answer and the answer, both above 0 and in the unit of the question."""

    guess: float
    answer: float


@dataclass
class Progress:
    """All entries by exercise id, guesses by question, and what the reader has to be told."""

    entries: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    guesses: dict[str, Guess] = field(default_factory=dict)

    def entry(self, exercise: str) -> Entry:
        """The entry of an exercise, empty if nothing is recorded of it."""
        return self.entries.get(exercise, Entry())

    def helped(self, exercise: str) -> bool:
        """Whether a hint was taken before the exercise was first passed."""
        entry = self.entry(exercise)
        return entry.helped if entry.passed else entry.hints > 0


def path() -> Path:
    """Where progress is kept: `ATTNCOURSE_HOME`, else the platform's folder for user data."""
    if home := os.environ.get("ATTNCOURSE_HOME"):
        return Path(home).expanduser() / "progress.json"
    import platformdirs

    return platformdirs.user_data_path("attncourse", appauthor=False) / "progress.json"


def load() -> Progress:
    """Read the progress file; a missing one is empty, a broken one is set aside with a note."""
    file = _file()
    try:
        return _read(file)
    except _DAMAGE:
        with _lock(file.with_name("progress.lock")):  # it may be another's and good by now
            return _read_or_set_aside(file)


def _file() -> Path:
    """Where the file itself lies, if there is a link in its place."""
    return Path(os.path.realpath(path()))


def _read(file: Path) -> Progress:
    """Read the progress file; one of `_DAMAGE` if it is not as it was written."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Progress()
    except OSError as error:
        return Progress(notes=[f"progress cannot be read ({error.strerror}): {file}"])
    return Progress(
        {name: _entry(found) for name, found in stored["exercises"].items()},
        guesses={name: _guess(found) for name, found in stored.get("guesses", {}).items()},
    )


def _read_or_set_aside(file: Path) -> Progress:
    """Read the progress file or set it aside; whoever calls this holds the lock."""
    try:
        return _read(file)
    except _DAMAGE:
        aside = file.with_name(f"progress.broken-{datetime.now():%Y%m%d-%H%M%S-%f}.json")
        try:
            file.replace(aside)
        except OSError:
            return Progress(notes=[f"the progress file is damaged and was ignored: {file}"])
        return Progress(notes=[f"the progress file was damaged; it is kept as {aside}"])


def _entry(stored: dict) -> Entry:
    """The entry as stored; TypeError, KeyError or AttributeError if it is not one of ours."""
    best = (stored.get("moved"), stored.get("roofline"))  # both are newer than the file may be
    entry = Entry(stored["hints"], stored["passed"], stored["helped"], *best)
    if type(entry.hints) is not int or not isinstance(entry.passed, str | None):
        raise TypeError(entry)
    if not all(each is None or (isinstance(each, float) and each > 0) for each in best):
        raise TypeError(entry)
    return entry


def _guess(stored: dict) -> Guess:
    """The guess as stored; TypeError, KeyError or ValueError if it is not one of ours."""
    guess = Guess(stored["guess"], stored["answer"])
    for number in asdict(guess).values():
        if isinstance(number, bool) or not 0 < number <= sys.float_info.max:
            raise ValueError(guess)
    return guess


def record_hint(exercise: str) -> int:
    """Record that the next hint was shown; returns its level, 1 to 3 (3 again after the last)."""

    def change(progress: Progress) -> int:
        entry = progress.entries.setdefault(exercise, Entry())
        entry.hints = min(entry.hints + 1, HINT_LEVELS)
        return entry.hints

    return _change(change)


def record_pass(exercise: str) -> None:
    """Record a first pass with today's date; later passes and failures change nothing."""

    def change(progress: Progress) -> None:
        entry = progress.entries.setdefault(exercise, Entry())
        if entry.passed is None:
            entry.helped = entry.hints > 0
            entry.passed = date.today().isoformat()

    if not load().entry(exercise).passed:
        _change(change)


def record_best(
    exercise: str, *, moved: float | None = None, roofline: float | None = None
) -> Entry:
    """Record how good a kernel is, if none was better; returns what was recorded before."""

    def change(progress: Progress) -> Entry:
        entry = progress.entries.setdefault(exercise, Entry())
        before = replace(entry)
        if moved is not None and (entry.moved is None or moved < entry.moved):
            entry.moved = moved
        if roofline is not None and (entry.roofline is None or roofline > entry.roofline):
            entry.roofline = roofline
        return before

    return _change(change)


def record_guess(question: str, guess: float, answer: float) -> Guess:
    """Record the first guess of an answer; returns the one that counts, this or an earlier one."""
    new = Guess(float(guess), float(answer))
    return _change(lambda progress: progress.guesses.setdefault(question, new))


def _change(change: Callable[[Progress], T]) -> T:
    """Change the progress as stored and store it; returns what `change` does.

    Who was stopped for so long that another took the lock over changes what that one stored. A
    folder that cannot be written loses the record, not the grade: that error is dropped.
    """
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return change(load())
    fresh = file.with_name(f"progress.{os.getpid()}.tmp")
    attempt = 0
    while True:
        attempt += 1
        with _lock(file.with_name("progress.lock")) as is_ours:
            progress = _read_or_set_aside(file)
            result = change(progress)
            try:
                fresh.write_text(_as_text(progress), encoding="utf-8")
                if not is_ours() and attempt < ATTEMPTS:
                    continue
                fresh.replace(file)
            except OSError:
                fresh.unlink(missing_ok=True)
            return result


def _as_text(progress: Progress) -> str:
    stored = {
        "exercises": {name: _as_dict(entry) for name, entry in sorted(progress.entries.items())},
        "guesses": {name: asdict(guess) for name, guess in sorted(progress.guesses.items())},
    }
    return json.dumps(stored, indent=1) + "\n"


def _as_dict(entry: Entry) -> dict:
    best = ("moved", "roofline")  # of kernels only
    return {name: x for name, x in asdict(entry).items() if name not in best or x is not None}


@contextmanager
def _lock(file: Path) -> Iterator[Callable[[], bool]]:
    """Hold a lock file, and tell when asked whether nobody has taken it over.

    A stale one is taken over; where none can be made or removed, go on without.
    """
    token = f"{os.getpid()} {secrets.token_hex(8)}".encode()
    made = held = False
    give_up = time.monotonic() + 2 * LOCK_SECONDS
    while not held and time.monotonic() < give_up:
        try:
            with file.open("xb") as lock:
                made = True
                lock.write(token)
            held = True
        except FileExistsError:
            try:
                if abs(time.time() - file.lstat().st_mtime) > LOCK_SECONDS:
                    file.unlink()
            except FileNotFoundError:
                continue  # its owner has removed it
            except OSError:
                break
            time.sleep(0.01)
        except OSError:
            if made:  # on a disk without room for a word
                file.unlink(missing_ok=True)
            break

    def is_ours() -> bool:
        try:
            return not held or file.read_bytes() == token
        except OSError:
            return False

    try:
        yield is_ours
    finally:
        if held and is_ours():
            file.unlink(missing_ok=True)
