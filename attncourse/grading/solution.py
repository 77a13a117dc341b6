"""The text of an answer cell: the solution stands in it between two markers."""

from __future__ import annotations

import re
from collections.abc import Iterable

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
_MARKER_LINE = re.compile(rf"^([ ]*(?:{BEGIN}|{END})\n?)", re.MULTILINE)


def without_markers(text: str) -> str:
    """Return an answer as the solutions show it."""
    return "\n".join(line for line in text.splitlines() if line.strip() not in (BEGIN, END))


def replaced(text: str, changes: Iterable[tuple[str, str]]) -> str:
    """Return an answer with its solution changed.

    Args:
        text: the cell; without markers all of it is the solution.
        changes: (old, new) pairs, one after the other; each `old` is replaced wherever it stands
            in the solution.

    Raises:
        ValueError: an `old` does not stand there.
    """
    for old, new in changes:
        parts, found, inside = [], 0, BEGIN not in text
        for part in _MARKER_LINE.split(text):
            if part.strip() in (BEGIN, END):
                inside = part.strip() == BEGIN
            elif inside:
                found += part.count(old)
                part = part.replace(old, new)
            parts.append(part)
        if not found:
            raise ValueError(f"{old!r} does not stand in the solution")
        text = "".join(parts)
    return text


def stub(text: str) -> str:
    """Cut the solutions out of an answer cell.

    Each run of lines from `# BEGIN SOLUTION` to `# END SOLUTION` becomes one
    `raise NotImplementedError` at the marker's indent.

    Raises:
        SyntaxError: if the markers do not pair up, or stand outside a function.
    """
    kept, begun = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        mark, indent = line.strip(), line[: len(line) - len(line.lstrip())]
        if mark == BEGIN:
            if begun:
                raise _misplaced(begun, f"`{BEGIN}` without `{END}`")
            if not indent:
                raise _misplaced(number, f"`{BEGIN}` must stand inside a function")
            begun = number
            kept.append(f"{indent}raise NotImplementedError")
        elif mark == END:
            if not begun:
                raise _misplaced(number, f"`{END}` without `{BEGIN}`")
            begun = 0
        elif not begun:
            kept.append(line)
    if begun:
        raise _misplaced(begun, f"`{BEGIN}` without `{END}`")
    return "\n".join(kept)


def _misplaced(line: int, says: str) -> SyntaxError:
    return SyntaxError(says, (None, line, None, None))
