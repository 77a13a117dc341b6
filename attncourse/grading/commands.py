"""The commands grade, hint, progress, reset and watch.

Exit status of `grade`: 0 if nothing failed (what was not attempted has not failed), 1 if an
exercise failed, 2 if the file could not be graded. The other commands: 0, or 2 if they could not.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from attncourse import house
from attncourse.grading import submission
from attncourse.progress import Entry


class CommandError(Exception):
    """The command cannot be carried out; the message is one line for the learner."""


def add_parsers(subparsers) -> None:
    """Add the five commands to argparse's subparsers; each sets `run`."""
    parser = subparsers.add_parser(
        "grade",
        help="grade an exercise notebook, or a chapter's",
        description="Grade a notebook of exercises as it was last saved. The file is not changed.",
        epilog="Exit status: 0 nothing failed, 1 an exercise failed, 2 could not be graded.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("file", nargs="?", type=Path, help="exercises/04_window.ipynb")
    which.add_argument("--chapter", help="04: grades exercises/04_….ipynb, here or above")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report as JSON")
    parser.add_argument("--junit", type=Path, metavar="OUT", help="write the report as JUnit XML")
    parser.set_defaults(run=_told(_grade))

    parser = subparsers.add_parser("hint", help="show the next hint for an exercise")
    parser.add_argument("exercise", help="04.3")
    parser.set_defaults(run=_told(_hint))

    parser = subparsers.add_parser("progress", help="show what you have passed so far")
    parser.add_argument("--all", action="store_true", help="list every exercise")
    parser.set_defaults(run=_told(_progress))

    parser = subparsers.add_parser(
        "reset",
        help="put back the exercises of a chapter as released",
        description="Put back a chapter's notebook of exercises, or the answer cell of one of "
        "them, as released. Your file is kept beside it.",
    )
    parser.add_argument("chapter", help="04")
    parser.add_argument("--exercise", help="04.3: only this one")
    parser.set_defaults(run=_told(_reset))

    parser = subparsers.add_parser("watch", help="grade a notebook each time it is saved")
    parser.add_argument("file", type=Path, help="exercises/04_window.ipynb")
    parser.set_defaults(run=lambda args: watch(args.file))


def watch(path: Path, rounds: int | None = None, pause: float = 0.5) -> int:
    """Grade a notebook now and after each save, until Ctrl-C.

    A file that cannot be graded is reported and watched on: the next save may mend it.

    Args:
        path: the notebook.
        rounds: stop after so many gradings (None: never).
        pause: seconds between two looks at the file.
    """
    seen = None
    print(f"watching {path}: it is graded at each save; Ctrl-C ends", flush=True)
    try:
        while rounds is None or rounds > 0:
            stamp = _stamp(path)
            if stamp is None and seen is None:
                return _told(_show_grade)(path)
            if stamp in (None, seen):  # a save may take the file away for a moment
                time.sleep(pause)
                continue
            seen = stamp
            _told(_show_grade)(path)
            sys.stdout.flush()
            rounds = rounds and rounds - 1
    except KeyboardInterrupt:
        print("stopped watching")
    return 0


def _told(command: Callable) -> Callable:
    """The command with its expected errors told in one line on stderr, as exit status 2."""

    def run(argument) -> int:
        try:
            return command(argument)
        except (submission.CannotGradeError, CommandError) as error:
            print(error, file=sys.stderr)
        except OSError as error:
            print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2

    return run


def _grade(args: argparse.Namespace) -> int:
    path = args.file or _exercise_file(_stem(args.chapter))
    return _show_grade(path, json_out=args.json, junit_out=args.junit)


def _show_grade(path: Path, json_out: Path | None = None, junit_out: Path | None = None) -> int:
    from attncourse.grading import session

    submitted = submission.read(path)
    print(f"{path}, as saved at {submission.saved(path)} (save in JupyterLab first)", flush=True)
    report = session.grade(submitted)
    for result in report.results:
        if result.status in ("failed", "grader_error"):
            print(f"\n{result.text}")
    print(f"\n{report.text()}")
    for out, text in ((json_out, report.json), (junit_out, report.junit)):
        if out:
            out.write_text(text(), encoding="utf-8")
    return int(report.failed)


def _hint(args: argparse.Namespace) -> int:
    from attncourse.grading.check import find_exercise, show_hint

    try:
        exercise = find_exercise(args.exercise)
    except LookupError as error:
        raise CommandError(error) from None
    show_hint(exercise)
    return 0


def _progress(args: argparse.Namespace) -> int:
    from attncourse import progress
    from attncourse.grading import exercises
    from attncourse.grading.calibration import calibration

    recorded = progress.load()
    for note in recorded.notes:
        print(f"note: {note}")
    score = points = 0
    lines = []
    for chapter in exercises.chapters():
        listed = exercises.chapter_exercises(chapter)
        entries = {exercise.id: recorded.entry(exercise.id) for exercise in listed}
        to_do = [exercise for exercise in listed if not entries[exercise.id].passed]
        points += sum(exercise.points for exercise in listed)
        score += sum(exercise.points for exercise in listed if exercise not in to_do)
        if args.all:
            lines += [(f"{each.id} {each.title}", _state(entries[each.id])) for each in listed]
        else:
            done = f"{len(listed) - len(to_do)} of {len(listed)} passed"
            following = f", next {to_do[0].id} {to_do[0].title}" if to_do else ""
            lines.append((_stem(chapter), done + following))
    width = max((len(name) for name, _ in lines), default=0)
    for name, state in lines:
        print(f"{name:<{width}}  {state}")
    if said := calibration(recorded.guesses.values()):
        print(f"guessed so far: {said}")
    print(f"passed so far: {score}/{points} points (kept in {progress.path()})")
    return 0


def _state(entry: Entry) -> str:
    passed = f"passed {entry.passed}" if entry.passed else "open"
    hints = f", hints {entry.hints}" if entry.hints else ""
    moved = f", moved {entry.moved:.2f} times the least possible" if entry.moved else ""
    share = f", reached {entry.roofline:.0%} of the roofline" if entry.roofline else ""
    return passed + hints + moved + share


def _reset(args: argparse.Namespace) -> int:
    stem = _stem(args.chapter)
    path = _exercise_file(stem)
    original = submission.released(stem)
    submission.clear_verdicts(original)
    if args.exercise:
        fresh = submission.load(path)
        _put_back(fresh, original, _exercise_id(args.exercise))
    else:
        fresh = original
    text = json.dumps(fresh, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    kept = ""
    if path.exists() and path.read_text(encoding="utf-8") != text:
        backup = submission.backup_path(path)
        shutil.copy2(path, backup)
        kept = f"; your file is kept as {backup.name}"
    written = path.with_name(f".~{path.name}.{os.getpid()}")
    written.write_text(text, encoding="utf-8", newline="\n")
    written.replace(path)
    what = args.exercise or path.name
    print(
        f"{what} is as released{kept}. Is it open in JupyterLab? File > Reload Notebook from Disk"
    )
    return 0


def _put_back(notebook: dict, original: dict, exercise: str) -> None:
    """Put one exercise's cells back: answer and check as released, the others if missing."""
    cells, originals = notebook["cells"], original["cells"]
    found = submission.match(cells, originals)
    place = {j: cells[i] for j, i in found.items()}
    ours = [
        j
        for j, cell in enumerate(originals)
        if submission.course_metadata(cell).get("exercise") == exercise
    ]
    if not ours:
        ids = {submission.course_metadata(cell).get("exercise") for cell in originals} - {None}
        raise CommandError(f"there is no exercise {exercise}: the chapter has {_listed(ids)}")
    for j in ours:
        role = submission.course_metadata(originals[j]).get("role")
        if j in place:
            if role in ("answer", "check"):
                place[j].clear()
                place[j].update(originals[j])
            continue
        before = next((place[k] for k in range(j - 1, -1, -1) if k in place), None)
        at = next((i for i, cell in enumerate(cells) if cell is before), -1)
        cells.insert(at + 1, originals[j])
        place[j] = originals[j]


def _stem(chapter: str) -> str:
    """The stem of a chapter given as 04, 4 or 04_window."""
    stems = submission.released_stems()
    for stem in stems:
        if chapter == stem or chapter.zfill(2) == stem.partition("_")[0]:
            return stem
    raise CommandError(f"there is no chapter {chapter} with exercises: there are {_listed(stems)}")


def _exercise_id(name: str) -> str:
    chapter, _, number = name.partition(".")
    return f"{chapter.zfill(2)}.{number}"


def _exercise_file(stem: str) -> Path:
    """Where a chapter's exercises are: in `exercises`, here or above, else in the clone."""
    here = Path.cwd()
    places = [here / "exercises", here, *(above / "exercises" for above in here.parents)]
    if here.name in ("notebooks", "solutions"):  # whose notebooks have the same names
        places.remove(here)
    for folder in places:
        file = folder / f"{stem}.ipynb"
        if file.exists() or (folder.name == "exercises" and folder.is_dir()):
            return Path(os.path.relpath(file))
    if not house.is_installed() and (house.material() / "exercises").is_dir():
        return house.material() / "exercises" / f"{stem}.ipynb"
    raise CommandError(
        "there is no folder `exercises` here or above: go to the course's folder, "
        "or make one with `attncourse start FOLDER`"
    )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _listed(names) -> str:
    return ", ".join(sorted(names)) or "none yet"
