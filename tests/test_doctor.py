"""The doctor: what it finds on this machine, and what it would say of others."""

import importlib.metadata
import json
import math
import platform
import subprocess
import sys
import time
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
    assert by_name["Python"]["found"].startswith(platform.python_version())
    for name in ("numpy", "torch", "jupyterlab", "memory", "disk", "grading", "Chromium"):
        assert name in by_name
    assert all(f["advice"] for f in findings if f["status"] != "ok")
    assert seconds < 60  # a few seconds on an idle machine; here others run beside it


@linux
def test_the_probe_computes_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "attncourse.interpreter_probe"], capture_output=True, check=True
    )
    errors = json.loads(done.stdout)["errors"]
    assert errors["float32"] < doctor.LARGEST_ERROR and errors["float16"] < doctor.LARGEST_ERROR
    assert not errors["bfloat16"] < doctor.LARGEST_ERROR  # once this fails, tell the learners


def probe(errors=None, gpu=None, returncode=0, complaints=""):
    """A finished probe."""
    right = {"float32": 1e-7, "float16": 1e-7, "bfloat16": 1e9}
    output = json.dumps({"gpu": gpu, "errors": right | (errors or {})})
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
    (gpu, *_) = doctor._interpreter(probe(gpu="Some GPU, 80 GiB"))
    assert (gpu.status, gpu.found) == ("ok", "Some GPU, 80 GiB")


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


def test_the_report_has_a_mark_words_and_advice_and_the_exit_status(monkeypatch, capsys):
    findings = [
        Finding("ok", "Python", "3.12.1"),
        Finding("note", "GPU", "none", "nothing to do"),
        Finding("problem", "kernel", "did not start", "install again"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✓ Python  3.12.1",
        "– GPU     none",
        "          → nothing to do",
        "✗ kernel  did not start",
        "          → install again",
        "1 to mend: see ✗ above",
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings[:2])
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Ready.\n")
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["advice"] == "nothing to do"
