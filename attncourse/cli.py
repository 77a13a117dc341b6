"""The `attncourse` command. Each subcommand's module is imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import attncourse

# name: (the module with its parser, its line of help). A module offers `add_parsers(subparsers)`,
# and each parser sets `run`, a function from the parsed arguments to the exit status.
COMMANDS = {
    "start": ("attncourse.folder.commands", "lay out the course in a folder of your own"),
    "lab": ("attncourse.folder.commands", "open such a folder in JupyterLab"),
    "update": ("attncourse.folder.commands", "bring it to the installed release, answers kept"),
    "doctor": ("attncourse.doctor", "say what this machine has, and what to do where it lacks"),
    "grade": ("attncourse.grading.commands", "grade an exercise notebook, or a chapter's"),
    "hint": ("attncourse.grading.commands", "show the next hint for an exercise"),
    "progress": ("attncourse.grading.commands", "show what you have passed so far"),
    "reset": ("attncourse.grading.commands", "put back the exercises of a chapter as released"),
    "watch": ("attncourse.grading.commands", "grade a notebook each time it is saved"),
    "bench": ("attncourse.bench.command", "measure every mechanism on this machine"),
    "gpu-run": ("attncourse.gpu_run.command", "tests, bench, tiles and chapters on a GPU"),
    "build": ("attncourse.authoring", "build the notebooks from their text sources"),
    "new": ("attncourse.skeletons", "write the skeleton of a chapter or an exercise"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, without the program's name; None means those of the process.

    Returns:
        The exit status: 0 if all is well, 1 if not; wrong arguments exit with 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks ✓ shows ?, and goes on
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(
        prog="attncourse", description="Work through the course on memory-efficient attention."
    )
    parser.add_argument("--version", action="version", version=attncourse.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    module = COMMANDS[argv[0]][0] if argv and argv[0] in COMMANDS else None
    if module:
        importlib.import_module(module).add_parsers(subparsers)
    else:
        for name, (_, text) in COMMANDS.items():
            subparsers.add_parser(name, help=text)
    args = parser.parse_args(argv)
    try:
        status = args.run(args)
        print(end="", flush=True)  # here, not at the interpreter's end
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `| head`, which reads no more; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
