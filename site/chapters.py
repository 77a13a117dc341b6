"""Runs each chapter once with the recorder, two at a time, and keeps what was recorded.

No Jupyter kernel is started: a chapter runs in a process forked from one that has imported torch,
matplotlib and the rest once for all chapters.

What was recorded stays until the chapter, the package, the records of measurements or the recorder
change: `recorded` finds it by their hash.
"""

from __future__ import annotations

import faulthandler
import functools
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import nbformat
import recorder
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from nbformat import NotebookNode
from traitlets.config import Config

from attncourse import claims

ROOT = Path(__file__).parents[1]
CACHE = Path(__file__).with_name("_build") / "recorded"
CELL_SECONDS = 600
# One thread: another chapter runs beside it. The seed is that of a build.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
AUDIT = "claims"  # finds all claims, beside the chapters
LONGEST_FIRST = (AUDIT, "17", "04", "14", "16", "15", "03", "12", "11", "13", "08", "06", "01")
IMPORTED_ONCE = (
    "torch",
    "triton",
    "seaborn",
    "nbformat",
    "attncourse.claims",
    "attncourse.widgets",
)


def record(stems: list[str], root: Path = ROOT) -> Iterator[tuple[str, float]]:
    """Record whatever the cache lacks, and yield each name with the seconds that it took."""
    CACHE.mkdir(parents=True, exist_ok=True)
    places = {name: _place(name, root) for name in (*stems, AUDIT)}
    order = {name: at for at, name in enumerate(LONGEST_FIRST)}
    missing = sorted(
        (name for name, place in places.items() if not place.exists()),
        key=lambda name: order.get(name, order.get(name[:2], len(order))),
    )
    jobs = defaultdict(list)  # what one process records: chapter 17 finds the claims of the audit
    for name in missing:
        jobs[AUDIT if name.startswith("17") else name].append((name, places[name]))
    os.environ |= ENVIRONMENT
    with ProcessPoolExecutor(2, mp_context=_processes(), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(_record, job, root) for job in jobs.values()]):
            yield from done.result()


def _processes() -> BaseContext:
    """Return what makes a fresh process for each chapter, by a fork where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(IMPORTED_ONCE)
    return processes


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


def _record(job: list[tuple[str, Path]], root: Path) -> list[tuple[str, float]]:
    """Record each name at its place, in this process, and return it with the seconds it took."""
    took = []
    for name, place in job:
        start = time.perf_counter()
        made = all_claims() if name == AUDIT else run(root / "notebooks" / f"{name}.ipynb")
        unfinished = place.with_suffix(".partial")
        unfinished.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(place)
        for older in CACHE.glob(f"{name}-*.json"):
            if older != place:
                older.unlink()
        took.append((name, time.perf_counter() - start))
    return took


def all_claims() -> list[dict[str, Any]]:
    """Return every claim as a row of the audit's table."""
    return [
        claims.row(claim) | {"note": claim.note, "topic": claim.topic, "chapter": claim.chapter}
        for claim in claims.LEDGER.values()
    ]


class _Displaying(DisplayHook):
    """Displays the value of a cell, as a kernel does; a terminal's hook would print it."""

    def __call__(self, result: Any = None) -> None:
        if result is not None and not self.quiet():
            display(result)


class _Shell(InteractiveShell):
    displayhook_class = _Displaying


def run(path: Path) -> list[list[tuple[int, dict[str, Any]]]]:
    """Run a notebook with the recorder, in this process, which is good for nothing else afterwards.

    Returns:
        For each cell its widgets, each with the number of pictures that the cell shows before it.

    Raises:
        RuntimeError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"ATTNCOURSE_HOME": home, "IPYTHONDIR": home}
        os.chdir(path.parent)
        settings = Config({"HistoryManager": {"enabled": False}})
        shell = _Shell.instance(config=settings)
        recorder.install()
        found = []
        for index, cell in enumerate(notebook.cells):
            found.append(_recorded(shell, cell, f"{path.name}: cell {index + 1}"))
    return found


def _recorded(
    shell: InteractiveShell, cell: NotebookNode, where: str
) -> list[tuple[int, dict[str, Any]]]:
    if cell.cell_type != "code":
        return []
    faulthandler.dump_traceback_later(CELL_SECONDS, exit=True)
    with capture_output() as shown:
        done = shell.run_cell(cell.source, store_history=True)
    faulthandler.cancel_dump_traceback_later()
    if error := done.error_before_exec or done.error_in_exec:
        raise RuntimeError(f"{where}: {type(error).__name__}: {error}")
    found = list(recorder.records({"data": output.data} for output in shown.outputs))
    for _, record in found:
        if record["kind"] == "error":
            raise RuntimeError(f"{where}: {record['says']}")
    return found
