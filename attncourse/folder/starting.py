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
    if mark["files"] and mark["release"] != attncourse.__version__:
        raise FolderError(
            f"{folder} is of release {mark['release']}: `attncourse update {folder}` brings it to "
            f"{attncourse.__version__}, with your answers"
        )
    if not (folder / house.MARK).exists():
        files.write_mark(folder, {})
    missing = [name for name in contents if _content(folder / name) is None]
    for name in missing:
        files.write(folder / name, contents[name])
    if not mark["files"]:
        same = {n: content for n, content in contents.items() if _content(folder / n) == content}
        files.write_mark(folder, same)
        chapters, exercises = (
            sum(name.startswith(f"{kind}/") for name in contents)
            for kind in ("notebooks", "exercises")
        )
        count = f"{chapters} notebooks, {exercises} of exercises with their solutions"
        return [f"the course is in {folder}: {count}"]
    if missing:
        return [f"put back in {folder}: {', '.join(missing)}"]
    return [f"the course is in {folder} already, and whole"]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _must_be_free(folder: Path) -> None:
    if (folder / house.MARK).is_file():
        return
    if (folder / "notebooks" / "_source").is_dir():
        raise FolderError(f"{folder} is a clone of the course, and ready as it is: open it there")
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file: name a new folder")
    if folder.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        if others and others != ["lost+found"]:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise FolderError(
                f"{folder} has other files in it ({others[0]}{more}): name a new or empty folder"
            )
