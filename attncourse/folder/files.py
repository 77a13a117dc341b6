"""What a learner's folder holds of the course, and how it is written: whole files, each at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from packaging.version import InvalidVersion, Version

import attncourse
from attncourse import house
from attncourse.folder.merging import Notebook, outputs_of
from attncourse.grading import submission

FOLDERS = ("notebooks", "exercises", "solutions")
NOT_LAID_OUT = ("jupyter", "constraints.txt")  # used where they are installed
README = house.PACKAGE / "data" / "folder.md"


class FolderError(Exception):
    """The command cannot be carried out; the message is one line for the learner."""


def laid_out() -> dict[str, bytes]:
    """Return what this release lays out: each file's path in the folder, and its content.

    The package's modules are there to be read: chapters link to them. Without the first
    `__init__.py` Python does not take them for the package. Those of a clone are read in the clone.
    """
    root = house.material()
    found = {
        path.as_posix(): root / path
        for path in house.shipped(root)
        if path.parts[0] not in NOT_LAID_OUT
    }
    if house.is_installed():
        for path in sorted(house.PACKAGE.rglob("*.py")):
            name = path.relative_to(house.PACKAGE.parent).as_posix()
            if name != "attncourse/__init__.py":
                found[name] = path
    found["README.md"] = README
    if not any(name.startswith("notebooks/") for name in found):
        raise FolderError(f"this installation has no notebooks (none in {root}): install it again")
    contents = {name: path.read_bytes() for name, path in found.items()}
    for name in contents:
        if name.startswith("exercises/") and not house.is_installed():
            contents[name] = _without_answers(name, contents[name])
    return contents


def _without_answers(name: str, content: bytes) -> bytes:
    """Return the exercises of a clone, as released where somebody has worked on them."""
    original = submission.released(Path(name).stem)
    cells = json.loads(content)["cells"]
    if list(map(submission.source_of, cells)) == [*map(submission.source_of, original["cells"])]:
        return content
    submission.clear_verdicts(original)
    return as_bytes(original)


def is_notebook(name: str) -> bool:
    """Whether a file of the folder is merged by cells."""
    return name.partition("/")[0] in FOLDERS


def as_bytes(notebook: Notebook) -> bytes:
    """Return a notebook as it is written."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def digest(content: bytes) -> str:
    """Return the name of a content."""
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write a file; whoever is ended meanwhile leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".~{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names none, other errors the draft
        raise


def sweep(folder: Path) -> None:
    """Remove the drafts of writes that were killed."""
    for draft in folder.rglob(".~*"):
        writer = draft.name.rpartition(".")[2]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            with contextlib.suppress(OSError):
                draft.unlink()


def holds(path: Path, content: bytes) -> bool:
    """Whether a file is there with this content."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def must_not_be_newer(folder: Path, release: str) -> None:
    """Refuse a folder of a later release than the installed one.

    Raises:
        FolderError: it is later, with how to go on.
    """
    ours = attncourse.__version__
    try:
        is_newer = Version(release) > Version(ours)
    except InvalidVersion:
        return
    if is_newer:
        raise FolderError(
            f"{folder} is of release {release}, and {ours} is installed, which is older: install "
            f"{release} or a later one to go on there, or start a new folder for {ours}"
        )


def read_mark(folder: Path) -> dict[str, Any]:
    """Return what the folder was given: release, and by file its digest and its cells.

    A mark that cannot be read is one of nothing: each file is then compared by itself.
    """
    empty = {"release": "unknown", "files": {}}
    try:
        mark = json.loads((folder / house.MARK).read_text(encoding="utf-8"))
        files = {
            str(name): {"sha256": str(given["sha256"]), "cells": dict(given.get("cells", {}))}
            for name, given in mark["files"].items()
        }
        return {"release": str(mark["release"]), "files": files}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return empty


def write_mark(
    folder: Path, contents: Mapping[str, bytes], given: Mapping[str, dict] | None = None
) -> None:
    """Note what the folder is given, and what `given` says that it was given before."""
    files = dict(given or {})
    for name, content in contents.items():
        files[name] = {"sha256": digest(content)}
        if is_notebook(name):
            cells = json.loads(content)["cells"]
            files[name]["cells"] = {cell["id"]: outputs_of(cell) for cell in cells}
    mark = {"release": attncourse.__version__, "files": files}
    write(folder / house.MARK, (json.dumps(mark, indent=0, sort_keys=True) + "\n").encode())
