"""Results as lines of JSON, which several processes add and of which a kill costs at most one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add(path: Path, **line: Any) -> None:
    """Add a line in one write, so that no two processes' lines mix."""
    data = (json.dumps(line) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole; none if there is no such file."""
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue  # the line that was being written
