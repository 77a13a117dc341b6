"""`attncourse gpu-run`, rehearsed on the CPU: its limits, a kill, a machine that starts bare."""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("triton")

from attncourse import cli
from attncourse.bench.tiles import chosen
from attncourse.gpu_run import chapter, command, lines, rehearsal, summary, tuning

# What a bare machine with torch, triton, numpy and pytest has not.
LACKING = (
    "IPython", "fla", "hypothesis", "ipykernel", "ipywidgets", "jsonschema", "jupyter_client",
    "jupytext", "linformer", "local_attention", "matplotlib", "nbclient", "nbformat", "nbval",
    "pandas", "performer_pytorch", "platformdirs", "psutil", "pytest_timeout", "scipy", "seaborn",
    "transformers", "xdist",
)  # fmt: skip
BARE = f"""
import functools
from importlib.machinery import PathFinder

def find_spec(name, path=None, target=None, real=PathFinder.find_spec):
    return None if name.partition(".")[0] in {LACKING!r} else real(name, path, target)

PathFinder.find_spec = functools.partial(find_spec)  # which no class turns into a method
"""


def start(folder, *arguments, bare=False):
    """Start a rehearsal in a process group of its own; its results go to folder / "out"."""
    environment = dict(os.environ)
    if bare:
        (folder / "sitecustomize.py").write_text(BARE)
        environment["PYTHONPATH"] = str(folder)
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from attncourse import cli; sys.exit(cli.main())",
         "gpu-run", "--rehearse", "--workers", "2", "--out", str(folder / "out"), *arguments],
        cwd=command.ROOT, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def record_in(folder, kind):
    (path,) = folder.glob(f"{kind}-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_no_tile_of_linear_attention_is_cut_to_a_shorter_chunk():
    from attncourse.kernels import linear

    ((knobs, tiles),) = (row[2:4] for row in tuning.TRIED if row[1] == "linear")
    for tile in tiles:
        with chosen("linear", tile):
            found = linear.tiles_for(1, 16, 4096, 4096, 64, 64, knobs["chunk"], 2)
            assert found.BLOCK == tile.rows


@pytest.mark.nightly  # by day the one that is killed midway
def test_a_rehearsal_does_every_part_with_nothing_but_torch_triton_numpy_and_pytest(tmp_path):
    process = start(tmp_path, bare=True)
    said, complaints = process.communicate(timeout=250)
    assert process.returncode == 0, complaints + said
    out = tmp_path / "out"
    ended = {
        line["part"]: line["ended"] for line in lines.read(out / "run.jsonl") if "ended" in line
    }
    assert ended.pop("chapters").startswith("left out: it needs nbclient, nbformat")
    assert ended == {"tests": "done", "bench": "done", "tiles": "done"}
    tests = list(lines.read(out / "tests.jsonl"))
    outcomes = [line for line in tests if "outcome" in line]
    assert len({line["test"] for line in outcomes}) == len(outcomes) > 20  # none was run twice
    assert {line["outcome"] for line in outcomes} == {"passed", "skipped"}
    bench = record_in(out, "bench")
    assert bench["complete"]
    assert {row["mechanism"] for row in bench["measurements"]} == set(rehearsal.STEMS)
    tiles = record_in(out, "tiles-gpu")
    assert tiles["complete"] and not tiles["left_out"]
    assert {row[0] for row in tiles["tiles"]} == {what for what, *_ in tuning.TRIED}
    assert "Bench: bench-gpu-" in said and said == (out / "summary.md").read_text(encoding="utf-8")


def test_a_kill_at_any_moment_leaves_what_was_found(tmp_path):
    process = start(tmp_path, "--parts", "tests", "bench")
    results = tmp_path / "out" / "tests.jsonl"
    try:
        for _ in range(2000):
            if any("outcome" in line for line in lines.read(results)):
                break
            time.sleep(0.05)
            assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    found = [line for line in lines.read(results) if "outcome" in line]
    assert found
    said = summary.of(tmp_path / "out")
    assert "- tests: begun, and not ended" in said and "begun and not ended" in said


def test_half_a_line_is_no_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(lines.read(path)) == []
    lines.add(path, a=1)
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    assert list(lines.read(path)) == [{"a": 1}]


def within(tmp_path, seconds, *codes, **how):
    commands = [[sys.executable, "-c", code] for code in codes]
    start = time.monotonic()
    said = command._within(start + seconds, tmp_path / "log", commands, **how)
    return said, time.monotonic() - start


@pytest.mark.nightly  # it waits for two limits
def test_a_part_is_interrupted_and_then_killed_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "GRACE", 8)  # a busy machine needs seconds to end a Python
    obeys = "import time; print('begun', flush=True); time.sleep(60)"
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # as in `attncourse gpu-run &` of a script
    try:
        said, took = within(tmp_path, 9, obeys, "print('never')")
    finally:
        signal.signal(signal.SIGINT, before)
    assert said == "out of time" and took < 9
    monkeypatch.setattr(command, "GRACE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    said, took = within(tmp_path, 3, deaf)
    assert said == "out of time, killed" and 3 <= took < 5
    assert "never" not in (tmp_path / "log").read_text()


def test_a_process_that_lost_the_gpu_is_followed_by_another(tmp_path):
    mark = tmp_path / "mark"
    code = (
        f"import pathlib, sys; mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists(): mark.touch(); sys.exit(75)"
    )
    assert within(tmp_path, 60, code, again=command.LOST)[0] == "done"
    assert within(tmp_path, 60, "import sys; sys.exit(3)")[0].startswith("failed: 1 processes")


def test_a_failing_part_does_not_stop_the_next(tmp_path, monkeypatch, capsys):
    def broken(args, out, deadline):
        raise OSError("no room")

    monkeypatch.setattr(
        command,
        "PARTS",
        {"tests": broken, "bench": lambda *_: "failed: 1 processes", "tiles": lambda *_: "done"},
    )
    arguments = [
        "gpu-run",
        "--rehearse",
        "--out",
        str(tmp_path),
        "--parts",
        "tests",
        "bench",
        "tiles",
    ]
    assert cli.main(arguments) == 1
    said = capsys.readouterr().out
    assert "- tests: failed: OSError: no room" in said and "- tiles: done" in said
    assert cli.main(["gpu-run", "--summary", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("limits", [command.LIMITS, command.LIMITS_WITHOUT_CHAPTERS])
def test_the_parts_fit_nine_minutes(limits):
    assert sum(limits.values()) == 60 * command.MINUTES == 540
    assert limits["tests"] == 120


def test_all_tests_of_kernels_and_all_that_need_a_gpu_are_tried():
    names = {path.stem for path in command.test_files()}
    assert {"test_kernels", "test_kernels_lsh", "test_kernels_far", "test_bench"} <= names
    assert "test_house" not in names and "test_gpu_run" not in names


def test_chapters_alone_need_jupyter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "JUPYTER", ("no_such_package",))
    arguments = ["gpu-run", "--rehearse", "--out", str(tmp_path), "--parts", "chapters"]
    assert cli.main(arguments) == 0
    assert "- chapters: left out: it needs no_such_package" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_has_cuda", lambda: False)
    assert cli.main(["gpu-run", "--out", str(tmp_path / "out")]) == 1
    assert "--rehearse" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_chapter_keeps_times_prints_and_pictures_of_cells_that_measure(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("matplotlib")
    picture = (
        "import matplotlib.pyplot as torch_times\n%matplotlib inline\n"
        "torch_times.plot([1, 2]); torch_times.show()"
    )
    cells = ["print('prose')", "import torch; print('measured')", picture, "measure.nothing", "1"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path = tmp_path / "04_toy.ipynb"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    assert chapter.run(path, tmp_path) == 1
    assert path.read_bytes() == before
    _, prose, measured, drawn, failed = lines.read(tmp_path / "chapters.jsonl")
    assert prose["seconds"] >= 0 and "text" not in prose and measured["text"] == "measured\n"
    assert base64.b64decode(drawn["pictures"][0]["image/png"]).startswith(b"\x89PNG")
    assert "NameError" in failed["failed"] and failed["cell"] == 3
    lines.add(tmp_path / "run.jsonl", part="chapters")
    assert "- 04_toy: cell 3 failed: NameError" in summary.of(tmp_path)
