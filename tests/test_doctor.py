"""The doctor: what it finds on this machine, and what it would say of others."""

import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import venv
import warnings
from types import SimpleNamespace

import psutil
import pytest

from attncourse import cli, doctor
from attncourse.doctor import Finding

linux = pytest.mark.skipif(platform.system() != "Linux", reason="Triton is made for Linux")


def found(check, *args):
    return {finding.name: finding for finding in check(*args)}


def test_the_doctor_on_this_machine():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "attncourse.cli", "doctor", "--json"],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    seconds = time.perf_counter() - start
    findings = json.loads(done.stdout)
    by_name = {finding["name"]: finding for finding in findings}
    problems = [finding for finding in findings if finding["status"] == "problem"]
    assert (done.returncode, problems) == (0, [])
    assert by_name["kernel"]["found"].startswith("started and answered in")
    told = [finding["found"] for finding in findings if finding["name"] == "interpreter"]
    assert platform.system() != "Linux" or [found.split(" (")[0] for found in told] == [
        "tl.dot of float32 is right",
        "tl.dot of float16 is right",
        "tl.dot of bfloat16 is wrong",  # once this fails, tell the learners
    ]
    assert by_name["Python"]["found"].startswith(platform.python_version())
    for name in ("numpy", "torch", "jupyterlab", "memory", "disk", "grading", "Chromium"):
        assert name in by_name
    assert all(f["advice"] for f in findings if f["status"] != "ok")
    assert seconds < 60  # a few seconds on an idle machine; here others run beside it


@pytest.fixture
def kernelspec(tmp_path, monkeypatch):
    """Put a kernelspec where Jupyter looks first, with another Python; its kernel has to end."""

    def put(python, **environment):
        folder = tmp_path / "jupyter" / "kernels" / "python3"
        folder.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python", "env": environment}
        (folder / "kernel.json").write_text(json.dumps(spec))
        monkeypatch.setenv("JUPYTER_PATH", str(folder.parents[1]))
        return folder

    before = set(psutil.Process().children())  # other tests' fork server among them
    yield put
    assert set(psutil.Process().children()) <= before


def test_a_kernel_of_another_python_is_told(kernelspec, tmp_path):
    venv.create(tmp_path / "other", with_pip=False)
    other = tmp_path / "other" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    folder = kernelspec(other, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    (problem,) = doctor._kernel()
    assert problem.status == "problem"
    assert str(tmp_path / "other") in problem.found and sys.prefix in problem.found
    assert str(folder) in problem.advice and "JUPYTER_PATH" in problem.advice


def test_a_kernel_that_does_not_start_is_told(kernelspec):
    folder = kernelspec("/nowhere/python")
    (problem,) = doctor._kernel()
    assert problem.status == "problem" and "/nowhere/python" in problem.found
    assert str(folder) in problem.advice


def test_a_kernel_that_cannot_import_the_course_is_told(kernelspec, tmp_path):
    (tmp_path / "attncourse.py").write_text("raise ImportError('half installed')")
    kernelspec(sys.executable, PYTHONPATH=str(tmp_path))
    (problem,) = doctor._kernel()
    assert problem.status == "problem" and "ImportError: half installed" in problem.found


NO_GPU = {"gpu": None, "cuda": None, "hip": None, "warnings": []}


def probe(errors=None, returncode=0, complaints="", **about_gpu):
    """A finished probe."""
    right = {"float32": 1e-7, "float16": 1e-7, "bfloat16": 1e9}
    output = json.dumps({**NO_GPU, **about_gpu, "errors": right | (errors or {})})
    return SimpleNamespace(communicate=lambda timeout: (output, complaints), returncode=returncode)


def statuses(findings):
    return [finding.status for finding in findings]


def test_what_the_probe_says_is_judged():
    judged = list(doctor._interpreter(probe()))
    assert statuses(judged) == ["note", "ok", "ok", "note"]
    assert "bfloat16 is wrong" in judged[-1].found
    assert statuses(doctor._interpreter(probe({"bfloat16": 1e-3}))) == ["note", "ok", "ok", "note"]
    assert statuses(doctor._interpreter(probe({"bfloat16": 1e-7}))) == ["note", "ok", "ok", "ok"]
    for wrong in (1.0, math.nan, "TypeError: only 0-dimensional arrays"):
        judged = list(doctor._interpreter(probe({"float32": wrong})))
        assert statuses(judged) == ["note", "problem", "ok", "note"]
        assert judged[1].advice


TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.parametrize(
    ("about_gpu", "card", "status", "says", "advises"),
    [
        ({"gpu": "Some GPU, 80 GiB"}, "Card", "ok", "Some GPU, 80 GiB", ""),
        ({}, None, "note", "none", "nothing to do"),
        ({"cuda": "13.0"}, None, "note", "none", "nothing to do"),
        ({"cuda": "13.0", "warnings": [TOO_OLD]}, "Card", "problem", TOO_OLD, "CUDA 13.0 or newer"),
        ({"cuda": "13.0", "warnings": [TOO_OLD]}, None, "problem", TOO_OLD, "CUDA 13.0 or newer"),
        ({"cuda": "13.0"}, "Card", "problem", "does not say why", "CUDA 13.0 or newer"),
        ({}, "Card", "note", "Card, but this torch is a build for the CPU", "--force-reinstall"),
        ({"hip": "6.4"}, "Card", "note", "none", "nothing to do"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch, about_gpu, card, status, says, advises):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor, "_nvidia_card", lambda: card)
    (gpu, *_) = doctor._interpreter(probe(**about_gpu))
    assert (gpu.name, gpu.status) == ("GPU", status)
    assert says in gpu.found and advises in gpu.advice


def test_a_hidden_gpu_is_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(doctor, "_nvidia_card", lambda: "Card")
    (gpu, *_) = doctor._interpreter(probe(cuda="13.0"))
    assert gpu.status == "note" and "hidden by CUDA_VISIBLE_DEVICES" in gpu.found


@linux
def test_the_probe_tells_what_torch_warns_of(monkeypatch, capsys):
    import torch

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as the probe does, for a process of its own
    from attncourse import interpreter_probe

    monkeypatch.setattr(torch.cuda, "is_available", lambda: warnings.warn(TOO_OLD, stacklevel=1))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(interpreter_probe, "error", lambda dtype: 0.0)
    interpreter_probe.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["gpu"], told["cuda"], told["warnings"]) == (None, "13.0", [TOO_OLD])


@linux
def test_a_card_is_found_by_its_tool_or_its_driver(tmp_path, monkeypatch):
    tool, driver = tmp_path / "nvidia-smi", tmp_path / "version"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", driver)
    assert doctor._nvidia_card() is None
    driver.touch()
    assert doctor._nvidia_card() == "an NVIDIA card"
    tool.write_text("#!/bin/sh\necho Some GPU\n")
    tool.chmod(0o755)
    assert doctor._nvidia_card() == "Some GPU"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert doctor._nvidia_card() == "an NVIDIA card"


def test_a_probe_that_dies_or_hangs_is_a_problem():
    dead = probe(returncode=1, complaints="Traceback\nImportError: libcuda.so.1: no such file\n")
    (problem,) = doctor._interpreter(dead)
    assert problem.status == "problem" and "libcuda.so.1" in problem.found
    (problem,) = doctor._interpreter(probe(returncode=-11))
    assert "no message" in problem.found

    def hang(timeout):
        raise subprocess.TimeoutExpired("probe", timeout)

    killed = []
    (problem,) = doctor._interpreter(
        SimpleNamespace(communicate=hang, kill=lambda: killed.append(True))
    )
    assert problem.status == "problem" and killed


def test_without_triton_the_course_goes_on(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor._start_probe() is None
    (note,) = doctor._interpreter(None)
    assert note.status == "note" and "no Triton" in note.found


@pytest.fixture
def versions(monkeypatch):
    """Set the versions that seem to be installed; None means missing."""

    def pretend(**pretended):
        real = importlib.metadata.version

        def version(name):
            if name not in pretended:
                return real(name)
            if pretended[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return pretended[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        return found(doctor._packages)

    return pretend


@pytest.mark.parametrize(
    ("package", "version", "status", "says"),
    [
        ("torch", "2.13.0+cpu", "ok", "2.13.0+cpu"),
        ("torch", "2.15.1", "ok", "2.15.1"),
        ("torch", "2.16.0", "note", "tested up to 2.15"),
        ("torch", "2.10.1", "problem", "needs >=2.11"),
        ("nbval", "0.10.0", "problem", "needs ==0.11.*"),
        ("jupyterlab", None, "problem", "missing"),
    ],
)
def test_versions_are_held_against_the_tested_range(versions, package, version, status, says):
    finding = versions(**{package: version})[package]
    assert finding.status == status and says in finding.found
    assert bool(finding.advice) == (status != "ok")


@linux
@pytest.mark.parametrize(
    ("triton", "numpy", "told"),
    [("3.6.0", "2.4.0", True), ("3.6.0", "2.3.9", False), ("3.7.1", "2.4.6", False)],
)
def test_the_pair_that_breaks_the_interpreter_is_told(versions, triton, numpy, told):
    findings = versions(triton=triton, numpy=numpy)
    assert ("triton with numpy" in findings) == told
    if told:
        assert findings["triton with numpy"].status == "problem"
        assert "numpy<2.4" in findings["triton with numpy"].advice


def test_a_python_out_of_range_is_told(monkeypatch):
    for version, status in (((3, 10, 9), "problem"), ((3, 13, 1), "ok"), ((3, 14, 0), "problem")):
        monkeypatch.setattr(sys, "version_info", version)
        (finding,) = doctor._python()
        assert finding.status == status
        assert ("3.11, 3.12 or 3.13" in finding.advice) == (status == "problem")


def test_outside_a_clone_no_advice_needs_one(monkeypatch, tmp_path, versions):
    """Neither make nor a file of the clone."""
    (tmp_path / "the package" / "course").mkdir(parents=True)
    monkeypatch.setattr(doctor.house, "PACKAGE", tmp_path / "the package")
    monkeypatch.setattr(doctor, "_nvidia_card", lambda: "Card")
    monkeypatch.chdir(tmp_path)
    broken = versions(torch="2.10.1", jupyterlab=None, triton="3.6.0", numpy="2.4.0")
    advice = [finding.advice for finding in broken.values()]
    advice += [versions(torch="2.16.0")["torch"].advice]
    findings = [*doctor._folder(), *doctor._interpreter(probe(returncode=1))]
    findings += [*doctor._interpreter(probe({"float32": 1.0})), *doctor._chromium()]
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    advice += [finding.advice for finding in (*findings, *doctor._python())]
    told = "\n".join(advice)
    assert not re.search(r"\bmake (clean|lab|test)|-e \.| constraints.txt", told)
    assert f"-c '{tmp_path}/the package/course/constraints.txt' attncourse" in told
    assert "attncourse start FOLDER" in told and "Chromium" not in told


def test_a_folder_of_another_release_is_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert list(doctor._folder()) == []  # a clone needs none
    (tmp_path / ".attncourse").mkdir()
    for release, status in (("0", "note"), (doctor.attncourse.__version__, "ok")):
        text = json.dumps({"release": release, "files": {}})
        (tmp_path / ".attncourse" / "folder.json").write_text(text)
        (finding,) = doctor._folder()
        assert finding.status == status and f"release {release} in {tmp_path}" in finding.found
        assert ("attncourse update" in finding.advice) == (status == "note")


def test_little_memory_and_disk_are_told(monkeypatch):
    for gib, status in ((0.5, "problem"), (2, "note"), (8, "ok")):
        free = SimpleNamespace(available=gib * 2**30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        assert found(doctor._memory)["memory"].status == status
    for gib, status in ((0.05, "problem"), (0.5, "note"), (50, "ok")):
        free = SimpleNamespace(free=gib * 2**30)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: free)
        assert found(doctor._memory)["disk"].status == status


def test_a_missing_grading_plugin_is_told(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: [])
    assert found(doctor._nbval)["grading"].status == "problem"


def test_chromium_is_optional(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert found(doctor._chromium)["Chromium"].status == "note"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert found(doctor._chromium)["Chromium"].status == "ok"


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def _kernel():
        raise ImportError("no module named zmq")
        yield

    monkeypatch.setattr(doctor, "_kernel", _kernel)
    monkeypatch.setattr(doctor, "_start_probe", lambda: None)
    finding = {f.name: f for f in doctor.examine()}["kernel"]
    assert (finding.status, finding.found) == ("problem", "ImportError: no module named zmq")


def test_a_quick_look_starts_no_process_and_says_what_it_left_out(monkeypatch, capsys):
    def start(*arguments, **options):
        raise AssertionError(f"the quick look starts {arguments}")

    monkeypatch.setattr(doctor.subprocess, "Popen", start)
    assert cli.main(["doctor", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "– kernel, torch, Triton  not tried" in said and "attncourse doctor tries them" in said
    assert "✓ torch " in said and said.endswith("Ready.\n")


def test_the_report_has_a_mark_words_and_advice_and_the_exit_status(monkeypatch, capsys):
    findings = [
        Finding("ok", "Python", "3.12.1"),
        Finding("note", "GPU", "none", "nothing to do"),
        Finding("problem", "kernel", "did not start", "install again"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda quick: findings)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✓ Python  3.12.1",
        "– GPU     none",
        "          → nothing to do",
        "✗ kernel  did not start",
        "          → install again",
        "1 to mend: see ✗ above",
    ]
    monkeypatch.setattr(doctor, "examine", lambda quick: findings[:2])
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Ready.\n")
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["advice"] == "nothing to do"
