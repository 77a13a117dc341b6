"""Records of long commands: written whole after each part, and gone on with by the next run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


def resumed(path: Path, record: dict[str, Any], grows: Collection[str] = ()) -> dict[str, Any]:
    """Return the record at `path`, to go on with, or the given one, which is empty.

    Args:
        path: Where the record lies, if there is one.
        record: As a first run begins it.
        grows: Settings that are lists, to which the record may lack the last ones: it gets them.

    Raises:
        SystemExit: It was measured with other "settings" or "versions", or is no such record.
    """
    if not path.exists():
        return record
    old: Any = None
    try:
        old = json.loads(path.read_text())
        whole = record.keys() <= old.keys() and isinstance(old["settings"], dict)
    except (ValueError, AttributeError):  # half a record, or a list
        whole = False
    if not whole:
        raise SystemExit(f"{path} is no whole record of this command: remove it to start anew")
    for name in grows:
        had, wanted = old["settings"].get(name), record["settings"][name]
        if had and had == wanted[: len(had)]:
            old["settings"][name] = wanted
    for name in ("settings", "versions"):
        if old.get(name) != record[name]:
            raise SystemExit(
                f"{path} was measured with {name} {old.get(name)}, not {record[name]}: remove it "
                "to start anew"
            )
    return old


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record; a command that is ended meanwhile leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(path)
