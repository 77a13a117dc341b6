"""Says what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import attncourse
from attncourse import house

# Newer ones may work, but nobody has tried; what is too old, pyproject.toml says.
NEWEST_TESTED = {"torch": "2.15", "triton": "3.9"}
PACKAGES = ("numpy", "torch", "triton", "jupyterlab", "ipywidgets", "matplotlib", "nbval", "pytest")
# float32 and float16 products are summed in float32: 64 terms lose far less than this.
LARGEST_ERROR = 1e-5
MARKS = {"ok": "✓", "note": "–", "problem": "✗"}
GIB = 2**30
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# What torch's CUDA build takes beyond the CPU build on Linux, with the libraries that it brings.
CUDA_BUILD_GB = 3.8


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: "ok", "note" (the course works, but something is missing or unusual) or "problem".
        name: what was looked at.
        found: what is there.
        advice: what to do about it; empty if nothing.
    """

    status: str
    name: str
    found: str
    advice: str = ""


def examine(*, quick: bool = False) -> list[Finding]:
    """Look at everything, in the order of the report.

    Args:
        quick: Leave out what takes seconds: a kernel of its own, torch and Triton.
    """
    checks: list[Callable[[], Iterator[Finding]]]
    if quick:
        checks = [_python, _packages, _memory, _folder, _nbval, _chromium, _not_tried]
    else:
        probe = _start_probe()  # takes seconds: the other checks run beside it
        checks = [_python, _packages, _memory, _folder, _nbval, _kernel, _chromium]
        checks.append(lambda: _interpreter(probe))
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation can fail anywhere, and is a finding
            name = getattr(check, "__name__", "check").strip("_")
            findings.append(
                Finding("problem", name, f"{type(error).__name__}: {error}", _reinstall())
            )
    return findings


def _constraints() -> str:
    """Name the file with the tested versions: in a clone the one there, else the installed one."""
    return (
        shlex.quote(str(house.material() / "constraints.txt"))
        if house.is_installed()
        else ("constraints.txt")
    )


def _reinstall() -> str:
    if house.is_installed():
        return f"install again: pip install -c {_constraints()} attncourse"
    again = f'pip install -c {_constraints()} -e ".[test]"'
    return f"install again: {again}, or make clean and make lab"


def _python() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    anew = (
        "make an environment with one of them, and install the course there"
        if house.is_installed()
        else "make clean, then make lab PYTHON=python3.12"
    )
    advice = f"the course needs Python 3.11, 3.12 or 3.13: {anew}"
    yield Finding(
        "ok" if fits else "problem",
        "Python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if fits else advice,
    )


def _packages() -> Iterator[Finding]:
    """Compare the installed versions with those that pyproject.toml asks for."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    asked = {}
    for line in importlib.metadata.requires("attncourse") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            asked[requirement.name] = requirement.specifier
    installed = {}
    for name in PACKAGES:
        if name not in asked:
            yield Finding(
                "note",
                name,
                "not made for this system",
                "nothing to do: the cells that need it say so",
            )
            continue
        try:
            version = installed[name] = Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", name, "missing", _reinstall())
            continue
        newest = NEWEST_TESTED.get(name)
        if not asked[name].contains(version, prereleases=True):
            yield Finding(
                "problem", name, f"{version}; the course needs {asked[name]}", _reinstall()
            )
        elif newest and version.release[:2] > Version(newest).release:
            advice = f"if something fails, install the versions of {_constraints()}"
            yield Finding("note", name, f"{version}; tested up to {newest}", advice)
        else:
            yield Finding("ok", name, str(version))
    # https://github.com/triton-lang/triton/issues/9171
    old_triton = "triton" in installed and installed["triton"] < Version("3.7")
    if old_triton and installed.get("numpy", Version("0")) >= Version("2.4"):
        yield Finding(
            "problem",
            "triton with numpy",
            "Triton before 3.7 fails in its interpreter with NumPy 2.4 and newer",
            f'pip install "numpy<2.4", or the versions of {_constraints()}',
        )


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available / GIB
    status, advice = _enough(free, 1, 4, "close other programs; long sequences may not fit")
    yield Finding(status, "memory", f"{free:.1f} GiB available", advice)
    free = shutil.disk_usage(Path.cwd()).free / GIB
    status, advice = _enough(free, 0.1, 1, "make room: notebooks and results are saved here")
    yield Finding(status, "disk", f"{free:.1f} GiB free", advice)


def _enough(value: float, least: float, good: float, advice: str) -> tuple[str, str]:
    if value >= good:
        return "ok", ""
    return ("note" if value >= least else "problem"), advice


def _folder() -> Iterator[Finding]:
    """Tell which learner's folder this is, and whether it is of this release."""
    if folder := house.folder():
        from attncourse.folder.files import FolderError, must_not_be_newer, read_mark

        release = read_mark(folder)["release"]
        same = release == attncourse.__version__
        advice = "" if same else f"attncourse update brings it to {attncourse.__version__}"
        try:
            must_not_be_newer(folder, release)
        except FolderError:
            advice = f"install {release} or a later one: {attncourse.__version__} is older"
        yield Finding("ok" if same else "note", "course", f"release {release} in {folder}", advice)
    elif house.is_installed():
        advice = "go to the folder of your course, or attncourse start FOLDER lays one out"
        yield Finding("note", "course", "not in this folder, nor above", advice)


def _nbval() -> Iterator[Finding]:
    """Import what grades, as pytest will."""
    import nbval.plugin  # noqa: F401  (the import is the test)

    plugins = importlib.metadata.entry_points(group="pytest11", name="attncourse")
    if not plugins:
        yield Finding(
            "problem", "grading", "pytest does not know the course's plugin", _reinstall()
        )
        return
    for plugin in plugins:
        plugin.load()
    yield Finding("ok", "grading", "nbval and the course's plugin load")


def _kernel() -> Iterator[Finding]:
    """Start the kernel that Jupyter would start, and compare its Python with this one."""
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    manager = AsyncKernelManager(kernel_name="python3")  # as the notebooks name it
    spec = manager.kernel_spec
    instead = f"Jupyter finds this kernel first: remove or rename the folder {spec.resource_dir}"
    if os.environ.get("JUPYTER_PATH"):
        instead += ", or unset JUPYTER_PATH"
    cells = ["import sys; print(sys.prefix)", "import numpy, attncourse; print(40 + 2)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    start = time.perf_counter()
    client = NotebookClient(notebook, km=manager, timeout=30, startup_timeout=30, allow_errors=True)
    try:
        client.execute(cleanup_kc=True, stderr=subprocess.DEVNULL)
    except (OSError, RuntimeError, DeadKernelError) as error:
        found = f"{spec.argv[0]} does not start: {type(error).__name__}: {error}"
        yield Finding("problem", "kernel", found, f"{instead}; otherwise {_reinstall()}")
        return
    seconds = time.perf_counter() - start
    prefix, answer = ("".join(map(_shown, cell.outputs)).strip() for cell in notebook.cells)
    if Path(prefix) != Path(sys.prefix):
        found = f"Jupyter starts the Python of {prefix}, not this one, of {sys.prefix}"
        yield Finding("problem", "kernel", found, instead)
    elif answer == "42":
        yield Finding("ok", "kernel", f"started and answered in {seconds:.1f} s")
    else:
        yield Finding("problem", "kernel", f"started, but answered {answer}", _reinstall())


def _shown(output: dict) -> str:
    return output.get("text") or f"{output.get('ename')}: {output.get('evalue')}"


def _chromium() -> Iterator[Finding]:
    if house.is_installed():
        return  # the tests stay in the clone
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path:
        yield Finding("ok", "Chromium", "there, for the tests that drive JupyterLab")
    else:
        advice = "nothing to do: only the tests that drive JupyterLab need it, and they are skipped"
        yield Finding("note", "Chromium", "not found", advice)


def _not_tried() -> Iterator[Finding]:
    advice = "in a terminal, attncourse doctor tries them, and says which GPU there is"
    yield Finding("note", "kernel, torch, Triton", "not tried: this was the quick look", advice)


def _start_probe() -> subprocess.Popen | None:
    if importlib.util.find_spec("triton") is None:
        return None
    command = [sys.executable, "-m", "attncourse.interpreter_probe"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def _interpreter(probe: subprocess.Popen | None) -> Iterator[Finding]:
    """Tell where kernels run, and whether Triton's interpreter computes rightly."""
    if probe is None:
        advice = "on Windows use WSL for the kernel chapters; everything in NumPy works without"
        yield Finding(
            "note", "GPU and Triton", "no Triton here, so that kernels do not run", advice
        )
        return
    try:
        output, complaints = probe.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        probe.kill()
        yield Finding("problem", "interpreter", "no answer from Triton within 60 s", _reinstall())
        return
    if probe.returncode:
        last = (complaints.strip().splitlines() or ["no message"])[-1]
        yield Finding("problem", "interpreter", f"torch or Triton fails: {last}", _reinstall())
        return
    findings = json.loads(output)
    yield _gpu(findings)
    for dtype in ("float32", "float16"):
        error = findings["errors"][dtype]
        if isinstance(error, float) and error < LARGEST_ERROR:
            found = f"tl.dot of {dtype} is right (error {error:.0e})"
            yield Finding("ok", "interpreter", found)
        else:
            found = f"tl.dot of {dtype} is wrong ({_printed(error)})"
            yield Finding("problem", "interpreter", found, _reinstall())
    error = findings["errors"]["bfloat16"]
    if isinstance(error, float) and error < LARGEST_ERROR:
        yield Finding("ok", "interpreter", "tl.dot of bfloat16 is right")
    else:
        advice = "nothing to do: known of Triton 3.4 to 3.9; the course refuses it there"
        found = f"tl.dot of bfloat16 is wrong ({_printed(error)})"
        yield Finding("note", "interpreter", found, advice)


def _gpu(findings: dict) -> Finding:
    """Tell which GPU torch uses, or why it uses none although there may be one."""
    if findings["gpu"]:
        return Finding("ok", "GPU", findings["gpu"])
    card, cuda = _nvidia_card(), findings["cuda"]
    if card and cuda and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        found = f"{card}, hidden by CUDA_VISIBLE_DEVICES"
        return Finding("note", "GPU", found, "unset CUDA_VISIBLE_DEVICES to use it")
    if cuda and (card or findings["warnings"]):
        said = " ".join(findings["warnings"]) or "torch does not say why"
        found = f"{card or 'not usable'}: torch for CUDA {cuda} cannot use it: {said}"
        advice = (
            f"install an NVIDIA driver made for CUDA {cuda} or newer, or mend what torch names; "
            "until then all runs on the CPU"
        )
        return Finding("problem", "GPU", found, advice)
    if card and not findings["hip"]:
        found = f"{card}, but this torch is a build for the CPU"
        advice = (
            f"to use it install torch's CUDA build, {CUDA_BUILD_GB} GB larger: "
            f"pip install --isolated --force-reinstall -c {_constraints()} torch"
        )
        return Finding("note", "GPU", found, advice)
    advice = "nothing to do: kernels run in Triton's interpreter, slowly, and timings are the CPU's"
    return Finding("note", "GPU", "none", advice)


def _nvidia_card() -> str | None:
    """Return the first NVIDIA card of this machine, as its driver names it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            encoding="utf-8",
            timeout=20,
            check=True,
        ).stdout.splitlines()
        if listed:
            return listed[0]
    return "an NVIDIA card" if NVIDIA_DRIVER.exists() else None


def _printed(error: float | str) -> str:
    return error if isinstance(error, str) else f"error {error:.0e}"


def report(findings: list[Finding]) -> str:
    """Return the findings as lines, each with its advice below it, and a closing line."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.status]} {finding.name:{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"  {'':{width}}  → {finding.advice}")
    problems = sum(finding.status == "problem" for finding in findings)
    closing = f"{problems} to mend: see ✗ above" if problems else "Ready."
    return "\n".join([*lines, closing])


def _main(as_json: bool, quick: bool) -> int:
    findings = examine(quick=quick)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print(report(findings))
    return int(any(finding.status == "problem" for finding in findings))


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse doctor`."""
    parser = subparsers.add_parser("doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    parser.set_defaults(run=lambda args: _main(args.json, args.quick))
