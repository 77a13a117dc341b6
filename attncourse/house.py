"""Where the course's files lie: in a clone, in an installed package, in a learner's folder.

A wheel holds the notebooks, the records and what belongs to them under `attncourse/course/`; in a
clone, and so under an editable install, they are those of the clone. setup.py runs this file while
there is no package yet, so it imports nothing of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).absolute().parent
INSTALLED = "course"  # the folder in the package of a wheel
MARK = Path(".attncourse", "folder.json")  # what `attncourse start` leaves in a learner's folder
BACKUPS = "backups"  # in such a folder: what `attncourse update` found changed
SHIPPED = (
    "notebooks/[0-9][0-9]_*.ipynb",
    "exercises/[0-9][0-9]_*.ipynb",
    "solutions/[0-9][0-9]_*.ipynb",
    "results/*.json",
    "results/*.md",
    "docs/registers.md",
    "jupyter/overrides.json",
    "constraints.txt",
)


def is_installed() -> bool:
    """Whether the package comes from a wheel; else it lies in a clone."""
    return (PACKAGE / INSTALLED).is_dir()


def material() -> Path:
    """Return the folder that holds notebooks/, exercises/, solutions/ and results/ as released."""
    return PACKAGE / INSTALLED if is_installed() else PACKAGE.parent


def shipped(root: Path) -> list[Path]:
    """Return the files of a clone that belong to the course, as paths from its root."""
    return sorted(
        path.relative_to(root)
        for pattern in SHIPPED
        for path in root.glob(pattern)
        if ".backup-" not in path.name  # a learner's, beside the clone's own
    )


def folder(start: Path | None = None) -> Path | None:
    """Return the learner's folder that `start`, or the working directory, is or lies in."""
    here = Path.cwd() if start is None else start.absolute()
    return next((place for place in (here, *here.parents) if (place / MARK).is_file()), None)


def results() -> list[Path]:
    """Return the folders in which records are looked for, the learner's own first."""
    own = folder()
    places = [*([own] if own else []), material(), Path.cwd(), *Path.cwd().parents]
    return [place / "results" for place in dict.fromkeys(places)]


def record(name: str) -> dict[str, Any] | None:
    """Return a record by its file's name, such as "training.json", or None where there is none.

    One that was made anew in the learner's folder comes before the one that was released.
    """
    own = folder()
    for place in (*([own] if own else []), material()):
        file = place / "results" / name
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
    return None
