"""What a learner has done: hints taken, exercises passed, answers guessed, in one small JSON file.

The file is written as a whole and moved into place, under a lock, so that a notebook and a
grading run may write at the same time. A pass is recorded once and never undone, and of a question
only the first guess is. A file that cannot be read is set aside under another name and progress
starts afresh: it never stops a check.
"""

import json
import math
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

HINT_LEVELS = 3
LOCK_SECONDS = 5.0  # a lock older than this was left behind by a process that died


@dataclass
class Entry:
    """What is recorded of one exercise; dates are ISO strings, None until it happens."""

    hints: int = 0
    passed: str | None = None
    helped: bool = False


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
    file = path()
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return Progress(
            {name: _entry(found) for name, found in stored["exercises"].items()},
            guesses={name: _guess(found) for name, found in stored.get("guesses", {}).items()},
        )
    except FileNotFoundError:
        return Progress()
    except OSError as error:
        return Progress(notes=[f"progress cannot be read ({error.strerror}): {file}"])
    except (ValueError, TypeError, KeyError, AttributeError):
        aside = file.with_name(f"progress.broken-{time.strftime('%Y%m%d-%H%M%S')}.json")
        try:
            file.replace(aside)
        except OSError:
            return Progress(notes=[f"the progress file is damaged and was ignored: {file}"])
        return Progress(notes=[f"the progress file was damaged; it is kept as {aside}"])


def _entry(stored: dict) -> Entry:
    """The entry as stored; TypeError, KeyError or AttributeError if it is not one of ours."""
    entry = Entry(stored["hints"], stored["passed"], stored["helped"])
    if type(entry.hints) is not int or not isinstance(entry.passed, str | None):
        raise TypeError(entry)
    return entry


def _guess(stored: dict) -> Guess:
    """The guess as stored; TypeError, KeyError or ValueError if it is not one of ours."""
    guess = Guess(stored["guess"], stored["answer"])
    if not all(0 < number < math.inf for number in asdict(guess).values()):
        raise ValueError(guess)
    return guess


def record_hint(exercise: str) -> int:
    """Record that the next hint was shown; returns its level, 1 to 3 (3 again after the last)."""
    with _changed() as progress:
        entry = progress.entries.setdefault(exercise, Entry())
        entry.hints = min(entry.hints + 1, HINT_LEVELS)
        return entry.hints


def record_pass(exercise: str) -> None:
    """Record a first pass with today's date; later passes and failures change nothing."""
    if load().entry(exercise).passed:
        return
    with _changed() as progress:
        entry = progress.entries.setdefault(exercise, Entry())
        if entry.passed is None:
            entry.helped = entry.hints > 0
            entry.passed = date.today().isoformat()


def record_guess(question: str, guess: float, answer: float) -> Guess:
    """Record the first guess of an answer; returns the one that counts, this or an earlier one."""
    with _changed() as progress:
        return progress.guesses.setdefault(question, Guess(float(guess), float(answer)))


@contextmanager
def _changed():
    """Give the progress as stored and store what the caller makes of it.

    A folder that cannot be written loses the record, not the grade: that error is dropped.
    """
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield load()
        return
    with _lock(file.with_name("progress.lock")):
        progress = load()
        yield progress
        stored = {
            "exercises": {name: asdict(entry) for name, entry in sorted(progress.entries.items())},
            "guesses": {name: asdict(guess) for name, guess in sorted(progress.guesses.items())},
        }
        fresh = file.with_name(f"progress.{os.getpid()}.tmp")
        try:
            fresh.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
            fresh.replace(file)
        except OSError:
            fresh.unlink(missing_ok=True)


@contextmanager
def _lock(file: Path):
    """Hold a lock file. A stale one is taken over; where none can be made, go on without."""
    held, give_up = False, time.monotonic() + 2 * LOCK_SECONDS
    while not held and time.monotonic() < give_up:
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL))
            held = True
        except FileExistsError:
            with suppress(OSError):  # its owner may remove it at this moment
                if time.time() - file.stat().st_mtime > LOCK_SECONDS:
                    file.unlink()
            time.sleep(0.01)
        except OSError:
            break
    try:
        yield
    finally:
        if held:
            file.unlink(missing_ok=True)
