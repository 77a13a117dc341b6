"""Lays out a learner's folder."""

from __future__ import annotations

from pathlib import Path

import attncourse
from attncourse import house
from attncourse.folder import files
from attncourse.folder.files import FolderError


def start(folder: Path) -> list[str]:
    """Lay out the course in a folder, or go on with one that is not whole.

    A file that is there is never written over.

    Args:
        folder: new, empty but for hidden files, or laid out before.

    Returns:
        What was done, as lines.

    Raises:
        FolderError: it is none of these.
        OSError: it cannot be written.
    """
    folder = folder.absolute()
    _must_be_free(folder)
    contents = files.laid_out()
    mark = files.read_mark(folder)
    files.must_not_be_newer(folder, mark["release"])
    if mark["files"] and mark["release"] != attncourse.__version__:
        raise FolderError(
            f"{folder} is of release {mark['release']}: `attncourse update {folder}` brings it to "
            f"{attncourse.__version__}, with your answers"
        )
    missing = [name for name in contents if not (folder / name).is_file()]
    if not mark["files"]:  # noted first: who is ended half-way is known again
        there = {n: c for n, c in contents.items() if n in missing or files.holds(folder / n, c)}
        files.write_mark(folder, there)
    for name in missing:
        files.write(folder / name, contents[name])
    if not mark["files"]:
        chapters, exercises = (
            sum(name.startswith(f"{kind}/") for name in contents)
            for kind in ("notebooks", "exercises")
        )
        count = f"{chapters} notebooks, {exercises} of exercises with their solutions"
        return [f"the course is in {folder}: {count}"]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return [f"put back in {folder}: {', '.join(missing[:3])}{more}"]
    return [f"the course is in {folder} already, and whole"]


def _must_be_free(folder: Path) -> None:
    if (folder / house.MARK).is_file():
        return
    if (folder / "notebooks" / "_source").is_dir():
        raise FolderError(f"{folder} is a clone of the course, and ready as it is: open it there")
    for above in folder.resolve().parents:
        is_clone = (above / "notebooks" / "_source").is_dir()
        if is_clone or (above / house.MARK).is_file():
            what = "a clone of the course" if is_clone else "a folder of the course"
            raise FolderError(
                f"{folder} lies in {above}, which is {what} already: open it there, or name a "
                "folder elsewhere"
            )
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file: name a new folder")
    if folder.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        if others and others != ["lost+found"]:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise FolderError(
                f"{folder} has other files in it ({others[0]}{more}): name a new or empty folder"
            )
