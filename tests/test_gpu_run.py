"""`attncourse gpu-run`, rehearsed on the CPU: its limits, a kill, a machine that starts bare."""

import argparse
import base64
import contextlib
import functools
import heapq
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("triton")

from attncourse import cli
from attncourse.bench import jobs
from attncourse.bench.settings import DEFAULTS, Point
from attncourse.bench.tiles import chosen
from attncourse.gpu_run import (
    chapter,
    command,
    compiling,
    lines,
    rehearsal,
    summary,
    tuning,
    wheels,
)

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
    process = start(tmp_path, "--wheels", str(tmp_path / "none"), bare=True)
    said, complaints = process.communicate(timeout=250)
    assert process.returncode == 0, complaints + said
    out = tmp_path / "out"
    ended = {
        line["part"]: line["ended"] for line in lines.read(out / "run.jsonl") if "ended" in line
    }
    assert ended.pop("chapters").startswith("left out: it needs nbclient, nbformat")
    assert ended == {"tests": "done", "bench": "done", "tiles": "done"}
    told = list(lines.read(out / "run.jsonl"))
    assert [line["compiling"] for line in told if "compiling" in line] == ["done"]
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_the_command_alone_ends_what_it_started(tmp_path, name):
    pytest.importorskip("nbclient")
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        pytest.skip("these tests run under nohup")
    notebooks, told = tmp_path / "notebooks", tmp_path / "pids"
    notebooks.mkdir()
    cell = (
        f"import os, time\nopen({str(told)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}\\n')"
    )
    write_notebook(notebooks / "01_toy.ipynb", f"{cell}\ntime.sleep(50)")
    process = start(tmp_path, "--parts", "chapters", "--notebooks", str(notebooks))
    try:
        for _ in range(1200):
            if told.exists() and told.read_text().endswith("\n"):
                break
            time.sleep(0.05)
            assert process.poll() is None
        os.kill(process.pid, getattr(signal, name))
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 130 and said.endswith("stopped\n")
        assert "Traceback" not in said
        chapter_and_kernel = [int(pid) for pid in told.read_text().split()]
        until = time.monotonic() + 5
        while any(map(runs, chapter_and_kernel)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(runs, chapter_and_kernel))
    finally:
        with contextlib.suppress(ProcessLookupError):  # as it should be
            os.killpg(process.pid, signal.SIGKILL)


def runs(pid):
    """Whether a process is there, and is not one that only waits to be cleared away."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_reader_that_leaves_is_no_error(tmp_path):
    process = start(tmp_path, "--summary")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--pack", "{file}"], 1, "{file} cannot be made a folder: File exists"),
        (["--pack", "{file}/x"], 1, "{file}/x cannot be made a folder: Not a directory"),
        (["--rehearse", "--out", "{file}"], 1, "{file} cannot be made a folder: File exists"),
        (["--pack", "x", "--python", "banana"], 2, "--python must be like 3.12, got 'banana'"),
    ],
)
def test_what_cannot_be_packed_is_told_in_a_line(tmp_path, capsys, arguments, status, says):
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["gpu-run", *(word.format(file=file) for word in arguments)]) == status
    assert capsys.readouterr().err == f"gpu-run: {says.format(file=file)}\n"


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


def write_notebook(path, *cells):
    """Write a notebook of code cells, as the build does."""
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.nightly
def test_chapters_are_executed_what_times_a_gpu_first_and_alone(tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write_notebook(notebooks / "01_plain.ipynb", "print('no clock')")
    timed = "print('bench.show_gpu(' + str(2 * 3))"  # enough to be taken for one that does
    write_notebook(notebooks / "02_timed.ipynb", timed, "1")
    process = start(tmp_path, "--parts", "chapters", "--notebooks", str(notebooks))
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints + said
    found = list(lines.read(tmp_path / "out" / "chapters.jsonl"))
    names = [line["chapter"] for line in found]
    assert names == ["02_timed"] * 4 + ["01_plain"] * 3
    assert found[1]["text"] == "bench.show_gpu(6\n" and "text" not in found[2]
    assert "- 02_timed: " in said and "had no turn" not in said


def test_chapters_that_had_no_turn_are_named(tmp_path, monkeypatch):
    for name in ("01_plain", "02_timed"):
        write_notebook(tmp_path / f"{name}.ipynb", f"'{name}'; bench.show_gpu('flash')")
    arguments = argparse.Namespace(rehearse=False, notebooks=tmp_path, workers=2)
    monkeypatch.setattr(command, "_within", lambda *_: "out of time")
    assert command._chapters(arguments, tmp_path, time.monotonic()) == "out of time"
    assert summary.of(tmp_path).endswith("- had no turn: 01_plain, 02_timed")
    lines.add(tmp_path / "chapters.jsonl", chapter="01_plain", begins=True)
    assert summary.of(tmp_path).endswith("- had no turn: 02_timed")


def names_of_timed():
    """Return the stems of the chapters whose sources time a GPU."""
    sources = (command.ROOT / "notebooks" / "_source").glob("*.py")
    code = {
        path.stem: "".join(line for line in path.open(encoding="utf-8") if line[0] != "#")
        for path in sources
    }
    return {stem for stem, text in code.items() if chapter.TIMES_A_GPU.search(text)}


def test_which_chapters_time_a_gpu_follows_from_their_cells():
    built = (command.ROOT / "notebooks").glob("*.ipynb")
    timed = {path.stem for path in built if chapter.times_a_gpu(path)}
    assert timed == names_of_timed() >= {"05_sparse_tiles", "07_linear", "09_flash"}
    assert {stem[:2] for stem in timed} >= {"04", "07", "09", "13"}


# Seconds on a GPU's host, by a run on an H200: a measurement, and a kernel that is compiled first.
MEASURING, COMPILING = 0.15, 1.7
STARTING = 10  # seconds until a process has torch, and the GPU has it


def test_all_chapters_fit_their_limit():
    """By tests/durations.json, of a machine of two cores; one with a GPU takes about half of that.

    Chapter 13 compiles its ten kernels anew, in float32; those of the others the bench compiled.
    """
    known = json.loads((command.ROOT / "tests" / "durations.json").read_text(encoding="utf-8"))
    seconds = {
        path.removeprefix("notebooks/").removesuffix(".ipynb"): lasts / 2
        for path, lasts in known.items()
        if path.startswith("notebooks/")
    }
    timed, limit = names_of_timed(), command.LIMITS["chapters"]
    assert timed < set(seconds)
    measured = 15 * len(timed) + 40  # a table's calls; ten mechanisms at four lengths
    alone = sum(seconds[name] for name in timed) + MEASURING * measured + COMPILING * 10
    assert alone < (1 - command.BESIDE) * limit - command.GRACE
    workers = [0.0] * 8
    for name in sorted(set(seconds) - timed):
        heapq.heapreplace(workers, workers[0] + seconds[name])
    assert max(workers) < command.BESIDE * limit - command.GRACE


@pytest.mark.parametrize("limits", [command.LIMITS, command.LIMITS_WITHOUT_CHAPTERS])
def test_the_whole_bench_fits_its_limit(limits):
    """A minute is left to peers that compile for seconds, as in tests/test_bench.py."""
    measurements = len(list(jobs.sweep(DEFAULTS["gpu"])))
    each_compiles = COMPILING * -(-len(compiling.kernels(DEFAULTS["gpu"])) // 8)
    assert STARTING + each_compiles < command.COMPILING - command.GRACE
    bench = STARTING + each_compiles + STARTING + MEASURING * measurements + 60
    assert bench < limits["bench"] - command.GRACE


def test_each_kernel_of_the_bench_is_compiled_by_one_worker(monkeypatch):
    compiled = []

    def pretended(setting):
        for width in (64, 128):
            for name in ("flash", "window", "flash"):
                point = Point(4096, width, 16)
                call = functools.partial(compiled.append, (name, width))
                prepare = functools.partial(broken if name == "window" else tuple, (call, (), {}))
                yield jobs.Job(name, "Triton", point, {}, prepare, int, None)
                yield jobs.Job(name, "a peer", point, {}, broken, int, None)

    def broken(*_):
        raise RuntimeError("does not compile")

    monkeypatch.setattr(compiling.jobs, "sweep", pretended)
    monkeypatch.setattr(compiling.measuring, "is_lost", lambda: False)
    assert [compiling.compile_part(DEFAULTS["gpu"], worker, 3) for worker in range(3)] == [1, 0, 1]
    assert compiled == [("flash", 64), ("flash", 128)]


@pytest.mark.parametrize("limits", [command.LIMITS, command.LIMITS_WITHOUT_CHAPTERS])
def test_the_parts_fit_nine_minutes(limits):
    assert sum(limits.values()) == 60 * command.MINUTES == 540
    assert limits["tests"] == 120


def test_all_tests_of_kernels_and_all_that_need_a_gpu_are_tried():
    names = {path.stem for path in command.test_files()}
    assert {"test_kernels", "test_kernels_lsh", "test_kernels_far", "test_bench"} <= names
    assert "test_house" not in names and "test_gpu_run" not in names


def test_a_rehearsal_plays_two_chapters_and_a_run_all(tmp_path, monkeypatch):
    played = []

    def within(deadline, log, commands, at_once=1, again=None):
        played.extend(Path(command[3]).stem for command in commands)
        return "done"

    monkeypatch.setattr(command, "_within", within)
    parser = argparse.ArgumentParser()
    command.add_parsers(parser.add_subparsers())
    for options, expected in (
        (["--rehearse"], {*rehearsal.CHAPTERS}),
        ([], {path.stem for path in Path("notebooks").glob("*.ipynb")}),
    ):
        played.clear()
        args = parser.parse_args(["gpu-run", *options])
        assert command._chapters(args, tmp_path, time.monotonic() + 60) == "done"
        assert {*played} == expected


@pytest.mark.nightly
def test_a_cell_that_takes_too_long_is_said_in_a_line(tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.setattr(chapter, "CELL_SECONDS", 1)
    path = write_notebook(tmp_path / "04_toy.ipynb", "import time; time.sleep(600)")
    assert chapter.run(path, tmp_path) == 1
    lines.add(tmp_path / "run.jsonl", part="chapters")
    said = "- 04_toy: cell 0 failed: CellTimeoutError: took more than 1 seconds"
    assert said in summary.of(tmp_path)


def test_chapters_alone_need_jupyter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wheels, "JUPYTER", ("no_such_package",))
    arguments = ["gpu-run", "--rehearse", "--out", str(tmp_path), "--parts", "chapters"]
    assert cli.main([*arguments, "--wheels", "nowhere"]) == 0
    said = capsys.readouterr().out
    why = "there is no folder of wheels nowhere, which `attncourse gpu-run --pack nowhere` makes"
    assert f"- chapters: left out: it needs no_such_package; {why}" in said


def write_wheel(folder, name):
    """Write a wheel of one empty module."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/RECORD,,\n")


def test_wheels_that_travelled_along_bring_the_chapters(tmp_path, monkeypatch):
    pytest.importorskip("pip")
    folder, out = tmp_path / "wheels", tmp_path / "out"
    write_wheel(folder, "tiny_wheel")
    write_wheel(folder, "pytest")  # the machine has its own
    seen = []

    def chapters(args, out, deadline):
        code = "import tiny_wheel, pytest; print(tiny_wheel.__file__, pytest.__version__)"
        assert command._within(deadline, out / "log", [[sys.executable, "-c", code]]) == "done"
        seen.extend((out / "log").read_text().split())
        return "done"

    monkeypatch.setattr(wheels, "JUPYTER", ("tiny_wheel",))
    monkeypatch.setattr(command, "PARTS", {"chapters": chapters})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    arguments = ["gpu-run", "--rehearse", "--out", str(out), "--parts", "chapters"]
    assert cli.main([*arguments, "--wheels", str(folder)]) == 0
    assert seen == [str(out / "packages" / "tiny_wheel.py"), pytest.__version__]
    assert not (out / "packages" / "pytest.py").exists()


def test_wheels_that_do_not_fit_are_told(tmp_path):
    pytest.importorskip("pip")
    write_wheel(tmp_path / "wheels", "tiny_wheel")
    (wheel,) = (tmp_path / "wheels").iterdir()
    wheel.rename(wheel.with_name("tiny_wheel-1.0-cp27-cp27m-win32.whl"))
    said = wheels.install(tmp_path / "wheels", tmp_path / "packages")
    assert "do not fit here: " in said and "tiny_wheel" in said.partition("here: ")[2]
    assert str(tmp_path / "packages") not in sys.path


def test_packing_asks_for_the_machine_and_leaves_out_what_it_has(tmp_path, monkeypatch, capsys):
    asked = []

    def pip(command, **how):
        asked.extend(command)
        write_wheel(tmp_path, "numpy")
        write_wheel(tmp_path, "tiny_wheel")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    assert cli.main(["gpu-run", "--pack", str(tmp_path), "--python", "3.13"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_wheel-1.0-py3-none-any.whl"]
    assert asked[asked.index("--python-version") + 1] == "3.13"
    assert {*wheels.JUPYTER, "hypothesis", "--only-binary=:all:", "--constraint"} <= set(asked)
    assert "1 wheels for Python 3.13, 0 MiB" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_has_cuda", lambda: False)
    assert cli.main(["gpu-run", "--out", str(tmp_path / "out")]) == 1
    assert "--rehearse" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_chapter_keeps_times_all_pictures_and_what_cells_that_measure_print(tmp_path):
    pytest.importorskip("matplotlib")
    picture = (
        "import matplotlib.pyplot as plt\n%matplotlib inline\n"
        "print('drawn'); plt.plot([1, 2]); plt.show()"
    )
    cells = ["print('prose')", "import torch; print('measured')", picture, "show_gpu('flash')", "1"]
    path = write_notebook(tmp_path / "04_toy.ipynb", *cells)
    before = path.read_bytes()
    assert chapter.run(path, tmp_path) == 1
    assert path.read_bytes() == before
    _, prose, measured, drawn, failed = lines.read(tmp_path / "chapters.jsonl")
    assert prose["seconds"] >= 0 and "text" not in prose and measured["text"] == "measured\n"
    assert base64.b64decode(drawn["pictures"][0]["image/png"]).startswith(b"\x89PNG")
    assert "text" not in drawn
    assert "NameError" in failed["failed"] and failed["cell"] == 3
    lines.add(tmp_path / "run.jsonl", part="chapters")
    assert "- 04_toy: cell 3 failed: NameError" in summary.of(tmp_path)
