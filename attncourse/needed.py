"""What a command needs before it starts: a package, and a place to write to.

Each is one line where it is not there, before anything takes time, instead of a traceback after
minutes.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from attncourse import house


def has(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def missing(package: str, module: str, name: str) -> BaseException:
    """Return what a module raises that needs a package which is not there.

    Args:
        package: That cannot be imported.
        module: The module's own name.
        name: Its `__name__`: of a command it is another one, and a command ends with the line.
    """
    line = f"{module} needs {package}, which is not installed here: pip install {package}"
    return SystemExit(line) if name == "__main__" else ModuleNotFoundError(line, name=package)


def workplace() -> Path:
    """Return the folder in which a long command leaves what it made, unless told otherwise.

    It is the clone. Of an installed package it is the learner's folder, and outside of any the
    working directory: what was released is never written over.
    """
    if not house.is_installed():
        return house.material()
    return house.folder() or Path.cwd()


def writable(*files: Path) -> None:
    """Make the folders of some files, and end the command if one cannot be written to.

    Raises:
        SystemExit: With the folder, the reason and what to do.
    """
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            with tempfile.TemporaryFile(dir=file.parent):
                pass
        except OSError as error:
            raise SystemExit(
                f"{file} cannot be written: {error.strerror or error}. Name another place; --help "
                "says how"
            ) from None


def written(record: Path) -> str:
    """Return what a command says of a record that it wrote, and who reads it."""
    if record.absolute().parent in [
        place / "results" for place in (house.folder(), house.material()) if place
    ]:
        return f"{record} written, from where its chapter reads it"
    return f"{record} written; put it into results/ of your course folder, and its chapter reads it"
