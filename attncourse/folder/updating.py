"""Brings a learner's folder to the installed release; what was there is kept beside it first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attncourse
from attncourse import house
from attncourse.folder import files, merging
from attncourse.folder.files import FolderError
from attncourse.grading import submission

MISSING = "was missing, and is back"


@dataclass
class Plan:
    """What an update would do.

    Attributes:
        before: the content of each file of the course that is there.
        writes: the files that get another content.
        removes: those that the release has no more, untouched by the learner.
        says: what is told, as lines by file.
        left: files that cannot be read as notebooks, which stay; they are backed up too.
    """

    before: dict[str, bytes]
    writes: dict[str, bytes] = field(default_factory=dict)
    removes: list[str] = field(default_factory=list)
    says: dict[str, list[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def say(self, name: str, line: str) -> None:
        """Add a line about a file."""
        self.says.setdefault(name, []).append(line)


def update(folder: Path) -> tuple[list[str], list[str]]:
    """Bring a folder to the installed release.

    All that is to be written is made first, then each file that the learner changed is copied to a
    new folder under backups/, then the files are replaced one by one. Run again, an update that was
    ended goes on.

    Returns:
        What was done, as lines, and the names of files that stay as they were.

    Raises:
        FolderError: it is no learner's folder, or one of a later release, or it cannot be written.
        OSError: it cannot be read.
    """
    folder = folder.absolute()
    if not (folder / house.MARK).is_file():
        raise FolderError(_no_folder(folder))
    mark = files.read_mark(folder)
    files.must_not_be_newer(folder, mark["release"])
    files.sweep(folder)
    new = files.laid_out()
    plan = _plan(folder, new, mark["files"])
    touched = [name for name in (*plan.writes, *plan.removes, *plan.left) if name in plan.before]
    given = mark["files"]
    changed = [
        name
        for name in touched
        if files.digest(plan.before[name]) != given.get(name, {}).get("sha256")
    ]
    backups: list[str] = []
    done: list[str] = []
    try:
        backups += _back_up(folder, {name: plan.before[name] for name in changed})
        skipped = _carry_out(folder, plan, done)
        if not skipped:
            # A file that was left has the cells that it was given then.
            left = {name: given[name] for name in plan.left if name in given}
            files.write_mark(folder, {n: c for n, c in new.items() if n not in plan.left}, left)
    except OSError as error:
        raise FolderError(_unfinished(folder, plan, error, backups, done)) from error
    return list(_report(folder, plan, mark["release"], backups, skipped)), [*plan.left, *skipped]


def _unfinished(
    folder: Path, plan: Plan, error: OSError, backups: list[str], done: list[str]
) -> str:
    """Say in one line what a write that failed has left."""
    count = len(plan.writes) + len(plan.removes)
    state = (
        f"{len(done)} of {count} files are brought up to date, any other is as it was"
        if done
        else "nothing of the course has been changed"
    )
    kept = f"; what you had changed is in {', '.join(backups)}" if backups else ""
    return (
        f"{error.filename or folder}: {error.strerror or error}. So far {state}{kept}. Once it can "
        "be written, the update is safe to run again, and goes on from here"
    )


def _no_folder(folder: Path) -> str:
    if (folder / "notebooks" / "_source").is_dir():
        return f"{folder} is a clone of the course: `git pull` brings the newer one (see README.md)"
    return f"{folder} is no folder that `attncourse start` has laid out"


def _plan(folder: Path, new: Mapping[str, bytes], given: Mapping[str, Any]) -> Plan:
    names = dict.fromkeys((*new, *given))
    plan = Plan({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()})
    for name in names:
        if not files.is_notebook(name):
            _plan_file(plan, name, new.get(name), given.get(name, {}).get("sha256"))
    for kind in files.FOLDERS:
        _plan_notebooks(plan, folder, kind, new, given)
    return plan


def _plan_file(plan: Plan, name: str, content: bytes | None, given: str | None) -> None:
    """Plan what becomes of one file that is written or left as a whole."""
    before = plan.before.get(name)
    if before == content:
        return
    is_theirs = before is not None and files.digest(before) != given
    if content is None:
        if is_theirs:
            plan.say(name, "is no longer part of the course; you have changed it, so it stays")
        else:
            plan.removes.append(name)
    elif is_theirs and name.startswith("results/"):
        plan.say(name, "is a record of your own, and stays")
    else:
        plan.writes[name] = content
        if is_theirs:
            plan.say(name, "had been changed here: the new one took its place")


def _plan_notebooks(
    plan: Plan, folder: Path, kind: str, new: Mapping[str, bytes], given: Mapping[str, Any]
) -> None:
    """Plan the notebooks of one folder, together: answers may move from one to another."""
    of = {name: Path(name).stem for name in (*new, *given) if name.startswith(f"{kind}/")}
    mine, released = {}, {}
    for name, stem in of.items():
        before, content = plan.before.get(name), new.get(name)
        if before is not None:
            try:
                mine[stem] = submission.load(folder / name)
            except submission.CannotGradeError as error:
                says = str(error).partition("; ")[0].removeprefix(f"{folder / name} ")
                plan.left.append(name)
                plan.say(name, f"{says}. It stays as it is: mend it, and update again")
                continue
        if content is not None:
            released[stem] = json.loads(content)
    known = {stem: given.get(name, {}).get("cells", {}) for name, stem in of.items()}
    merged = merging.merge(mine, released, known)
    for name, stem in of.items():
        before, content = plan.before.get(name), new.get(name)
        if name in plan.left:
            continue
        was_given = given.get(name, {}).get("sha256")
        if content is None:
            _plan_file(plan, name, None, was_given)
            continue
        result = merged[stem]
        if before is None:
            plan.say(name, MISSING if name in given else "is new")
        elif before == content:
            continue
        if before is None or files.digest(before) == was_given:
            is_plain = _texts(result.notebook) == _texts(released[stem])
            plan.writes[name] = content if is_plain else files.as_bytes(result.notebook)
        elif result.notebook != mine[stem]:
            plan.writes[name] = files.as_bytes(result.notebook)
        if name in plan.writes and result.kept:
            plan.say(name, f"{result.kept} of your cells kept")
        for line in result.changes:
            plan.say(name, line)


def _texts(notebook: dict[str, Any]) -> list[str]:
    return [submission.source_of(cell) for cell in notebook["cells"]]


def _back_up(folder: Path, contents: Mapping[str, bytes]) -> list[str]:
    """Copy to a new folder, named after the time, what none of the older ones holds.

    Returns:
        The folders that hold the contents, as seen from the course.
    """
    holding, left = set(), {}
    older = sorted(path for path in (folder / house.BACKUPS).glob("*") if path.is_dir())
    for name, content in contents.items():
        there = (backup for backup in reversed(older) if files.holds(backup / name, content))
        if found := next(there, None):
            holding.add(found)
        else:
            left[name] = content
    if left:
        backup = _new_backup(folder)
        for name, content in left.items():
            files.write(backup / name, content)
        holding.add(backup)
    return [path.relative_to(folder).as_posix() for path in sorted(holding)]


def _new_backup(folder: Path) -> Path:
    name = time.strftime("%Y-%m-%d-%H%M%S")
    for number in range(2, 100):
        backup = folder / house.BACKUPS / name
        try:
            backup.mkdir(parents=True)
        except FileExistsError:
            name = f"{name[:17]}-{number}"
            continue
        return backup
    raise FolderError(f"{folder / house.BACKUPS} has a hundred backups of this second")


def _carry_out(folder: Path, plan: Plan, done: list[str]) -> list[str]:
    """Replace the files, note them in `done`, and return those saved since they were read."""
    skipped = []
    for name in (*plan.writes, *plan.removes):
        path = folder / name
        if (path.read_bytes() if path.is_file() else None) != plan.before.get(name):
            skipped.append(name)
            continue
        if name in plan.writes:
            files.write(path, plan.writes[name])
        else:
            path.unlink(missing_ok=True)
        done.append(name)
    return skipped


def _report(
    folder: Path, plan: Plan, release: str, backups: list[str], skipped: list[str]
) -> Iterator[str]:
    changes = len(plan.writes) + len(plan.removes)
    if not (changes or plan.says):
        yield f"{folder} is of release {attncourse.__version__} already: nothing to do"
        return
    was = "" if release == attncourse.__version__ else f", before {release}"
    yield f"{folder} is of release {attncourse.__version__}{was}"
    missing = sorted(name for name, lines in plan.says.items() if lines == [MISSING])
    if len(missing) > 1:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield f"{len(missing)} files were missing, and are back: {', '.join(missing[:3])}{more}"
    for name, lines in sorted(plan.says.items()):
        if len(missing) > 1 and name in missing:
            continue
        if len(lines) == 1:
            yield f"{name}: {lines[0]}"
        else:
            yield name
            yield from (f"    {line}" for line in lines)
    if others := len([name for name in plan.writes if name not in plan.says]):
        yield f"{others} other {'file' if others == 1 else 'files'} brought up to date"
    if plan.removes:
        yield f"gone from the course: {', '.join(sorted(plan.removes))}"
    for name in skipped:
        yield f"{name} was saved meanwhile, and stays: update again"
    if backups:
        yield f"what you had changed is kept as it was in {', '.join(backups)}"
    if changes:
        yield "Is one open in JupyterLab? File > Reload Notebook from Disk, before you save it"
