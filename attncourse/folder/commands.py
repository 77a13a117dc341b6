"""The commands start, update and lab: the course in a folder of the learner's own.

Exit status: 0, or 2 with one line on stderr that says why it could not be done, or after an update
that had to leave a file as it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from attncourse import house
from attncourse.folder.files import FolderError

FIRST = "notebooks/00_start.ipynb"


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add the three commands; each sets `run`."""
    parser = subparsers.add_parser(
        "start",
        help="lay out the course in a folder",
        description="Lay out notebooks, exercises, solutions and records in a folder of your own.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or an empty folder")
    parser.set_defaults(run=_told(_start))

    parser = subparsers.add_parser(
        "update",
        help="bring a folder to the installed release, with your answers",
        description="Bring a folder to the installed release. Your answers, your own cells and "
        "your edits go along; what you changed is first copied to a new folder in backups/.",
    )
    _add_folder(parser)
    parser.set_defaults(run=_told(_update))

    parser = subparsers.add_parser(
        "lab",
        help="open a folder in JupyterLab",
        description="Open a folder in JupyterLab, at chapter 00.",
    )
    _add_folder(parser)
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--ip", help="listen on this address: 0.0.0.0 on a server")
    parser.add_argument("--port", type=int, help="and on this port")
    parser.set_defaults(run=_told(_lab))


def _add_folder(parser: argparse.ArgumentParser) -> None:
    text = "laid out by `attncourse start`; if not given, the one here or above"
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=text)


def _told(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command with its expected errors told in one line on stderr."""

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except FolderError as error:
            print(f"{error}", file=sys.stderr)
        except OSError as error:
            where = error.filename or args.folder or "the course's folder"
            print(f"{where}: {error.strerror or error}", file=sys.stderr)
        return 2

    return run


def _folder(args: argparse.Namespace) -> Path:
    if args.folder is not None:
        return args.folder
    if (found := house.folder()) is None:
        raise FolderError(
            "this is no course folder, nor is one above: name it, as FOLDER (a clone of the course "
            "needs none: there it is `git pull`, and `make lab`)"
        )
    return found


def _start(args: argparse.Namespace) -> int:
    from attncourse.folder.starting import start

    print(*start(args.folder), sep="\n")
    name = shlex.quote(str(args.folder))
    print(f"open it: attncourse lab {name}   (or, in that folder: jupyter lab {FIRST})")
    return 0


def _update(args: argparse.Namespace) -> int:
    from attncourse.folder.updating import update

    lines, left = update(_folder(args))
    print(*lines, sep="\n")
    return 2 if left else 0


def _lab(args: argparse.Namespace) -> int:
    folder = _folder(args)
    command, environment = lab_command(folder, args)
    os.chdir(folder)  # where JupyterLab opens terminals
    if os.name == "posix":  # Ctrl-C is JupyterLab's alone, which asks back
        os.execve(command[0], command, environment)
    return subprocess.run(command, env=environment, check=False).returncode


def lab_command(folder: Path, args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Return the command that opens a folder in JupyterLab, and its environment.

    The settings are those of `make lab`: no question about news, terminals that find `attncourse`.

    Raises:
        FolderError: there is no chapter 00 in it, or no JupyterLab here.
    """
    folder = folder.absolute()
    if not (folder / FIRST).is_file():
        raise FolderError(f"{folder} has no {FIRST}: `attncourse start FOLDER` lays the course out")
    if importlib.util.find_spec("jupyterlab") is None:
        raise FolderError("JupyterLab is not installed here: `attncourse doctor` says what to do")
    options: dict[str, object] = {
        "ServerApp.root_dir": folder,
        "LabApp.app_settings_dir": house.material() / "jupyter",
        "LabApp.default_url": f"/lab/tree/{FIRST}",
    }
    if os.name == "posix":
        shell = os.environ.get("SHELL", "sh")
        options["ServerApp.terminado_settings"] = {"shell_command": [shell]}
        if os.geteuid() == 0:  # in containers and on rented machines
            options["ServerApp.allow_root"] = True
    if args.no_browser:
        options["ServerApp.open_browser"] = False
    options |= {
        f"ServerApp.{name}": value for name in ("ip", "port") if (value := getattr(args, name))
    }
    command = [sys.executable, "-m", "jupyterlab"]
    command += [f"--{name}={value}" for name, value in options.items()]
    bin_folder = str(Path(sys.executable).parent)
    path = os.pathsep.join(filter(None, [bin_folder, os.environ.get("PATH")]))
    return command, {**os.environ, "PATH": path}
