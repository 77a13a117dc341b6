"""Executes one chapter as it stands, and keeps what its cells show of a GPU.

`python -m attncourse.gpu_run.chapter notebooks/04_window.ipynb OUT` adds to OUT/chapters.jsonl, for
each cell, its seconds, and of cells that measure, or read a record, what they printed and drew.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attncourse.gpu_run.lines import add

CELL_SECONDS = 60
MEASURES = re.compile(r"\bbench\.|\bshow_gpu\b|\brecorded\b|\bcuda\b|\bkernels\b|\bmeasure\.|torch")
TIMES_A_GPU = re.compile(r"\bshow_gpu\(|\bbench\.here\(")  # both measure on a GPU where one is


def times_a_gpu(path: Path) -> bool:
    """Whether a notebook's cells time kernels on a GPU: then nothing else should run there."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return any(
        cell["cell_type"] == "code" and TIMES_A_GPU.search("".join(cell["source"]))
        for cell in cells
    )


def run(path: Path, out: Path) -> int:
    """Execute a notebook, unedited; return 0, or 1 if a cell failed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from attncourse.execution import kernel_manager

    notebook = nbformat.read(path, as_version=4)
    keeps_pictures = times_a_gpu(path)
    lines, began = out / "chapters.jsonl", time.monotonic()
    add(lines, chapter=path.stem, begins=True)
    with tempfile.TemporaryDirectory() as home:
        client = NotebookClient(
            notebook, km=kernel_manager(), timeout=CELL_SECONDS, store_widget_state=False,
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        environment = {**os.environ, "ATTNCOURSE_HOME": home, "IPYTHONDIR": home}
        with client.setup_kernel(cleanup_kc=True, env=environment):
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                start = time.monotonic()
                try:
                    client.execute_cell(cell, index)
                    failed = ""
                except CellTimeoutError:
                    failed = f"CellTimeoutError: took more than {CELL_SECONDS} seconds"
                except (CellExecutionError, DeadKernelError) as error:
                    failed = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
                shown = _shown(cell.outputs)
                if not MEASURES.search(cell.source) and not failed:
                    kept = ("pictures",) if keeps_pictures else ()
                    shown = {name: shown[name] for name in kept if name in shown}
                seconds = round(time.monotonic() - start, 3)
                add(
                    lines, chapter=path.stem, cell=index, seconds=seconds, **shown,
                    **({"failed": failed[-1500:]} if failed else {}),
                )  # fmt: skip
                if failed:
                    return 1
    add(lines, chapter=path.stem, ends=True, seconds=round(time.monotonic() - began, 1))
    return 0


def _shown(outputs: list[Any]) -> dict[str, Any]:
    """Return what a cell printed, and its pictures as they are stored: SVG, or PNG in base 64."""
    text, pictures = [], []
    for output in outputs:
        data = output.get("data", {})
        text.append(output.get("text") or data.get("text/plain", ""))
        pictures += [{kind: data[kind]} for kind in ("image/svg+xml", "image/png") if kind in data]
    found: dict[str, Any] = {"text": "".join(text)[-4000:]}
    return found | ({"pictures": pictures} if pictures else {})


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
