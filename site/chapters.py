"""Runs each chapter once with the recorder, two at a time, and keeps what was recorded.

What was recorded stays until the chapter, the package, the records of measurements or the recorder
change: `recorded` finds it by their hash.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
import recorder
from nbclient.exceptions import CellExecutionError

from attncourse import claims
from attncourse.execution import kernel_for

ROOT = Path(__file__).parents[1]
CACHE = Path(__file__).with_name("_build") / "recorded"
CELL_SECONDS = 600
AUDIT = "claims"  # the job that finds all claims, beside the chapters
LONGEST_FIRST = (
    AUDIT,
    "16",
    "14",
    "09",
    "08",
    "10",
    "03",
    "11",
    "01",
    "13",
    "04",
    "06",
    "02",
    "07",
)
STARTUP = f"""exec('''
import sys
sys.path.append({str(Path(__file__).parent)!r})
import recorder
recorder.install()
''', {{}})
"""


def record(stems: list[str], root: Path = ROOT) -> Iterator[tuple[str, float]]:
    """Record whatever the cache lacks, and yield each name with the seconds that it took."""
    CACHE.mkdir(parents=True, exist_ok=True)
    names = [name for name in (*stems, AUDIT) if not _place(name, root).exists()]
    order = {name: at for at, name in enumerate(LONGEST_FIRST)}
    names.sort(key=lambda name: order.get(name, order.get(name[:2], len(order))))
    with ProcessPoolExecutor(2) as pool:
        waiting = {pool.submit(_record, name, root): name for name in names}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def recorded(name: str, root: Path = ROOT) -> Any:
    """Return what was recorded: of a chapter, for each of its cells a list of its widgets."""
    return json.loads(_place(name, root).read_text(encoding="utf-8"))


def _place(name: str, root: Path) -> Path:
    digest = _course(root).copy()
    if name != AUDIT:
        digest.update((root / "notebooks" / f"{name}.ipynb").read_bytes())
    return CACHE / f"{name}-{digest.hexdigest()[:16]}.json"


@functools.cache
def _course(root: Path) -> Any:
    """Return the hash of all that a chapter may show a picture of."""
    digest = hashlib.sha256()
    files = [
        *(root / "attncourse").rglob("*"),
        *(root / "results").glob("*"),
        Path(__file__),
        Path(recorder.__file__),
    ]
    for path in sorted(files):
        if path.is_file() and path.suffix in (".py", ".csv", ".json", ".safetensors", ".txt"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest


def _record(name: str, root: Path) -> float:
    start = time.perf_counter()
    made = all_claims() if name == AUDIT else run(root / "notebooks" / f"{name}.ipynb")
    place = _place(name, root)
    unfinished = place.with_suffix(".partial")
    unfinished.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    unfinished.replace(place)
    for older in CACHE.glob(f"{name}-*.json"):
        if older != place:
            older.unlink()
    return time.perf_counter() - start


def all_claims() -> list[dict[str, Any]]:
    """Return every claim as a row of the audit's table."""
    return [
        claims.row(claim) | {"note": claim.note, "topic": claim.topic, "chapter": claim.chapter}
        for claim in claims.LEDGER.values()
    ]


def run(path: Path) -> list[list[tuple[int, dict[str, Any]]]]:
    """Run a notebook with the recorder.

    Returns:
        For each cell its widgets, each with the number of pictures that the cell shows before it.

    Raises:
        RuntimeError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as home:
        startup = Path(home, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "00-recorder.py").write_text(STARTUP, encoding="utf-8")
        found = []
        # One thread: another chapter runs beside it.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with kernel_for(notebook, path.parent, Path(home), CELL_SECONDS, **one_thread) as client:
            for index, cell in enumerate(notebook.cells):
                try:
                    client.execute_cell(cell, index)
                except CellExecutionError as error:
                    raise RuntimeError(f"{path.name}: cell {index + 1}: {error}") from None
                found.append(list(recorder.records(cell.get("outputs", ()))))
                for _, record in found[-1]:
                    if record["kind"] == "error":
                        raise RuntimeError(f"{path.name}: cell {index + 1}: {record['says']}")
    return found
