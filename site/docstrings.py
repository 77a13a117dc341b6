"""Docstrings as Sphinx reads them: ours are plain text in Google's form, with code in backticks."""

from __future__ import annotations

import re
from typing import Any

OWN = ("Memory", "Paper")  # sections that Google's form does not have
SECTION = re.compile(rf"^(Args|Returns|Raises|Yields|Attributes|Examples|{'|'.join(OWN)}):\s*$")
CODE = re.compile(r"(`+[^`]+`+)")
MARKUP = re.compile(r"([*|]|(?<=\w)_(?=\W|$))")


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place: no character is markup, indented lines stay."""
    written: list[str] = []
    in_section, literal, before = False, False, ""
    in_list = False
    for line in lines:
        if SECTION.match(line):
            in_section = True
        elif in_section and line and not line.startswith(" "):
            in_section = False
        in_list = line.startswith("- ") or (in_list and line.startswith("  "))
        indented = not in_section and not in_list and line.startswith(" ")
        if indented and not literal and before and not before.endswith(":"):
            line = line.strip()  # goes on with a line that hangs
        elif indented and not literal:
            written += ["", "::", ""]
            literal = True
        elif literal and line and not indented:
            written.append("")
            literal = False
        written.append(line if literal else _escaped(line))
        before = line
    lines[:] = written


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # `dot`s
    return "".join(parts)
