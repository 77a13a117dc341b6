"""What long commands need before they start: torch, and a place to write to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attncourse import house, model, needed
from attncourse.model import weights

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "attncourse.model.train",
    "attncourse.model.tune",
    "attncourse.model.frontier",
    "attncourse.tasks",
    "attncourse.training.table",
    "attncourse.distributed",
)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """As if the package came from a wheel, seen from a folder of somebody's own."""
    monkeypatch.setattr(house, "is_installed", lambda: True)
    own = tmp_path / "somewhere"
    own.mkdir()
    monkeypatch.chdir(own)
    return own


@pytest.fixture
def locked(tmp_path):
    """A folder in which nobody can write, not even root: it is a file."""
    (tmp_path / "locked").write_text("")
    return tmp_path / "locked"


def main_of(module):
    pytest.importorskip("torch")
    name = f"{module}.__main__" if module in ("attncourse.tasks",) else module
    return __import__(name, fromlist=["main"])


def without_torch(code, folder):
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None\n{code}"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_without_torch_ends_with_one_line(module, tmp_path):
    run = f"sys.argv = ['command']; runpy.run_module({module!r}, run_name='__main__')"
    done = without_torch(f"import runpy; {run}", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"{module} needs torch, which is not installed here: pip install torch\n"
    )
    assert [*tmp_path.iterdir()] == []


def test_an_import_without_torch_says_the_same(tmp_path):
    done = without_torch("import attncourse.model.tune", tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: attncourse.model.tune needs torch, which is not installed here: "
        "pip install torch"
    )


@pytest.mark.parametrize("module", COMMANDS[:-1])
def test_a_place_that_cannot_be_written_to_ends_a_command_before_it_starts(
    module, locked, monkeypatch
):
    command = main_of(module)

    def started(*arguments, **named):
        raise AssertionError("it has begun")

    for name in ("Run", "tune", "start", "measured"):
        monkeypatch.setattr(command, name, started, raising=False)
    with pytest.raises(SystemExit) as stop:
        command.main(["--out", str(locked / "record.json")])
    assert "record.json cannot be written: " in stop.value.code and "\n" not in stop.value.code


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(SystemExit, match="cannot be written: it is a folder"):
        needed.writable(tmp_path)
    needed.writable(tmp_path / "new" / "record.json")
    assert [*tmp_path.rglob("*")] == [tmp_path / "new"]


def test_records_go_to_the_clone_or_to_a_folder_of_ones_own(wheel, monkeypatch):
    assert needed.workplace() == wheel
    assert "put it into results/ of your course folder" in needed.written(wheel / "results/a.json")
    (wheel / house.MARK).parent.mkdir()
    (wheel / house.MARK).write_text("{}")
    (wheel / "notebooks").mkdir()
    monkeypatch.chdir(wheel / "notebooks")
    assert needed.workplace() == wheel
    record = wheel / "results" / "a.json"
    needed.writable(record)
    record.write_text("{}")
    assert house.record("a.json") == {} and "reads it" in needed.written(record)
    monkeypatch.undo()
    assert needed.workplace() == ROOT


def test_an_installed_course_keeps_its_model(wheel, monkeypatch, capsys):
    train = main_of("attncourse.model.train")
    small, before = model.load(), weights.SHIPPED.read_bytes()
    arrays = {name: array.astype(np.float16) for name, array in small.weights.items()}
    arrays["merges"] = small.tokenizer.merges.astype(np.int16)

    def run(steps, repeats, seed, checkpoint):
        checkpoint.write_text("")
        return SimpleNamespace(
            train=lambda: None,
            arrays=lambda: arrays,
            record=lambda: {"log": []},
            network=SimpleNamespace(shape=small.shape),
            checkpoint=checkpoint,
        )

    monkeypatch.setattr(train, "Run", run)
    train.main([])
    assert weights.SHIPPED.read_bytes() == before
    assert json.loads((wheel / "results" / "model.json").read_text()) == {"log": []}
    assert model.load(wheel / "small.safetensors").shape == small.shape
    assert f"model.load({str(wheel / 'small.safetensors')!r}) reads it" in capsys.readouterr().out
    assert sorted(path.name for path in wheel.iterdir()) == ["results", "small.safetensors"]


def test_a_missing_model_is_named_with_what_helps(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"model\.train --out FILE` trains one"):
        model.load(tmp_path / "none.safetensors")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.train` makes the course's own"):
        model.load(weights.SHIPPED)
    monkeypatch.setattr(house, "is_installed", lambda: True)
    with pytest.raises(FileNotFoundError, match="install attncourse anew"):
        model.load(weights.SHIPPED)
