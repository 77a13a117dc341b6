"""Chapters on other machines: with another clock or arithmetic, and with other records or none.

A chapter that asserts a time, needs a measurement that a time limit may have dropped, stores a
sentence that depends on either or on a last digit, or looks up what a record need not have, fails
here. What Markdown says no test can hold: there, outcomes are asked for, and never told.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from other_machines import ARITHMETIC, CLOCKS, HEAP, put

from attncourse import house
from attncourse.sources import read

ROOT = Path(__file__).parents[1]
SOURCES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks" / "_source").glob("[0-9][0-9]_*.py"))
}
FINDS = re.compile(r"(bench|tiles)\.latest|show_gpu|machine_code\.table|house\.record\(")
READERS = [stem for stem, text in SOURCES.items() if FINDS.search(text)]
READS = re.compile(rf"{FINDS.pattern}|\brecorded\b")


def run(chapter, folder, compare, clock=None, arithmetic=None):
    """Run a chapter with nbval, in a folder with the package and its own results/, or none.

    Args:
        chapter: Its stem.
        folder: Empty, or with results/ in it.
        compare: Whether outputs must be those that are stored.
        clock: The kernel's, one of CLOCKS, or the true one.
        arithmetic: Variables that choose it, or this machine's.
    """
    ipython = put(clock, folder / "ipython")
    (folder / "notebooks").mkdir()
    notebook = shutil.copy(ROOT / "notebooks" / f"{chapter}.ipynb", folder / "notebooks")
    others = [path for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem != chapter]
    for path in (*others, *map(ROOT.joinpath, ("attncourse", "exercises"))):  # 00 counts all
        (folder / path.relative_to(ROOT)).symlink_to(path)
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval" if compare else "--nbval-lax",
         "--nbval-current-env", "-q", "-x", "-p", "no:cacheprovider", notebook],
        cwd=folder, capture_output=True, text=True,
        env=os.environ | (arithmetic or {}) | {"IPYTHONDIR": ipython, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-4000:]


def test_on_another_heap_each_peak_is_some_kib_off(monkeypatch):
    monkeypatch.setattr(tracemalloc, "get_traced_memory", lambda: (0, 10**6))
    exec(HEAP.format(seed=None), {})
    seen = {tracemalloc.get_traced_memory()[1] - 10**6 for _ in range(20)}
    assert seen == {-6144, 6144}


# Each run takes as long as its chapter, so these wait for the night. By day the chapters
# themselves are run with an erratic clock and the older arithmetic: see conftest.py.
@pytest.mark.nightly
@pytest.mark.parametrize("chapter", SOURCES)
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_chapter_says_the_same_whatever_the_clock_says(chapter, clock, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    run(chapter, tmp_path, compare=True, clock=clock)


@pytest.mark.nightly
@pytest.mark.parametrize("chapter", SOURCES)
def test_a_chapter_says_the_same_with_other_last_digits(chapter, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    run(chapter, tmp_path, compare=True, arithmetic=ARITHMETIC)


def other_gpu_run(folder):
    """Write the record of a run on another GPU, with other heads and at other lengths."""
    ours = max((ROOT / "results").glob("bench-gpu-*.json"))
    record = json.loads(ours.read_text(encoding="utf-8"))
    record["date"] = "2999-01-01T00:00:00+00:00"
    record["machine"]["gpu"] = "A GPU of next year"
    record["settings"] |= {"heads": 5, "widths": [40]}
    record["settings"].pop("width", None)
    for row in record["measurements"]:
        row |= {"heads": 5, "width": 40, "n": row["n"] + 88}
    folder.mkdir()
    (folder / "bench-gpu-2999-01-01T000000.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.nightly
@pytest.mark.parametrize("chapter", READERS)
@pytest.mark.parametrize("found", ["none", "another"])
def test_a_chapter_runs_with_any_records(chapter, found, tmp_path):
    if found == "another":
        other_gpu_run(tmp_path / "results")
    run(chapter, tmp_path, compare=False)


@pytest.mark.parametrize("chapter", READERS)
@pytest.mark.parametrize("found", ["none", "another"])
def test_cells_that_read_records_run_with_any(chapter, found, tmp_path, monkeypatch):
    """By day they alone are run, after the imports with which their chapter begins."""
    source = read(ROOT / f"notebooks/_source/{chapter}.py", ROOT)
    imports, *cells = [cell.source for cell in source.cells if cell.cell_type == "code"]
    names = {}
    exec(imports, names)
    monkeypatch.setattr(house, "PACKAGE", tmp_path / "attncourse")
    monkeypatch.chdir(tmp_path)
    if found == "another":
        other_gpu_run(tmp_path / "results")
    for cell in cells:
        if READS.search(cell):
            exec(cell, names)
