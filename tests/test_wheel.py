"""The wheel, installed and used as by somebody who has no clone. By night: it takes a minute."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from attncourse import house
from attncourse.grading.submission import content_id, course_metadata

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[1]
CHAPTER = "00_start.ipynb"


def built(tree, kind):
    """Build a wheel or an sdist of a tree, and return it."""
    pytest.importorskip("setuptools")
    code = f"import setuptools.build_meta as b; print(b.build_{kind}('../dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tree.parent / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture
def tree(tmp_path):
    """A copy of the repository without what is made in it."""
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "tests")
    return shutil.copytree(ROOT, tmp_path / "tree", ignore=leave_out)


@pytest.fixture
def installed(tmp_path):
    """Install a wheel into an environment that sees this one's packages, and give its commands."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run(
        [scripts / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    # A path alone: the editable install there, which its .pth files bring, stays out.
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(wheel):
        pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps"]
        subprocess.run([*pip, "--no-index", "--force-reinstall", "-q", wheel], check=True)

    def run(*arguments, cwd, status=0):
        clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [scripts / arguments[0], *arguments[1:]], cwd=cwd, capture_output=True,
            encoding="utf-8", timeout=300,
            env=clean | {"ATTNCOURSE_HOME": str(tmp_path / "home"), "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    install.run, install.packages = run, Path(packages)
    return install


def solve(course):
    """Write the solutions of a chapter into its exercises; return them."""
    path = course / "exercises" / CHAPTER
    exercises, solutions = (
        json.loads(p.read_text(encoding="utf-8")) for p in (path, course / "solutions" / CHAPTER)
    )
    answers = {}
    for cell in solutions["cells"]:
        ours = course_metadata(cell)
        if ours.get("role") == "answer":
            answers[ours["exercise"]] = ["# mine\n", *cell["source"]]
    for cell in exercises["cells"]:
        ours = course_metadata(cell)
        if ours.get("role") == "answer":
            cell["source"] = answers[ours["exercise"]]
    path.write_text(json.dumps(exercises), encoding="utf-8")
    return answers


def make_the_next_release(tree):
    """Another version, and in its first exercises a prompt that reads otherwise."""
    for name in ("pyproject.toml", "attncourse/__init__.py"):
        text = (tree / name).read_text(encoding="utf-8")
        text = re.sub(r'^(version|__version__) = ".*"', r'\1 = "99.0"', text, flags=re.MULTILINE)
        (tree / name).write_text(text, encoding="utf-8")
    for folder in ("exercises", "attncourse/grading/released"):
        path = tree / folder / CHAPTER
        notebook = json.loads(path.read_text(encoding="utf-8"))
        prompt = next(c for c in notebook["cells"] if course_metadata(c).get("role") == "prompt")
        prompt["source"] += ["\n\nThink of the heads."]
        prompt["id"] = content_id("markdown", "".join(prompt["source"]))
        notebook["metadata"]["attncourse"]["release"] = "99.0"
        path.write_text(json.dumps(notebook), encoding="utf-8")


def test_a_reader_with_a_wheel_alone_starts_solves_and_updates(tree, tmp_path, installed):
    with tarfile.open(built(tree, "sdist")) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("attncourse-*")
    wheel = built(unpacked, "wheel")
    names = set(zipfile.ZipFile(wheel).namelist())
    course = {f"attncourse/course/{path.as_posix()}" for path in house.shipped(ROOT)}
    assert course <= names and not [name for name in names if "_source" in name]
    assert wheel.stat().st_size < 20e6
    installed(wheel)
    for path in [*(installed.packages / "attncourse").rglob("*"), installed.packages]:
        path.chmod(0o555 if path.is_dir() else 0o444)  # as of a server's administrator

    run, folder = installed.run, tmp_path / "my course"
    said = run("attncourse", "start", folder, cwd=tmp_path)
    assert f"attncourse lab '{folder}'" in said or os.name == "nt"
    said = run("attncourse", "doctor", "--quick", cwd=folder)
    assert f"in {folder}" in said and "make " not in said.replace("make room", "")
    answers = solve(folder)
    assert "score 2/2 (2 passed)" in run("attncourse", "grade", "--chapter", "00", cwd=folder)
    assert "2 of 2 passed" in run("attncourse", "progress", cwd=folder)
    chapter = ("python", "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider")
    assert " passed" in run(*chapter, f"notebooks/{CHAPTER}", cwd=folder)
    where = "import attncourse; print(attncourse.__file__)"
    assert str(installed.packages) in run("python", "-c", where, cwd=folder)

    for path in [installed.packages, *(installed.packages / "attncourse").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    make_the_next_release(tree)
    installed(built(tree, "wheel"))
    assert "attncourse update brings it to 99.0" in run(
        "attncourse", "doctor", "--quick", cwd=folder
    )
    said = run("attncourse", "update", cwd=folder / "exercises")
    assert "is of release 99.0, before" in said and "2 of your cells kept" in said
    assert "00.1: the text has changed" in said and "backups" in said
    notebook = json.loads((folder / "exercises" / CHAPTER).read_text(encoding="utf-8"))
    assert "Think of the heads." in json.dumps(notebook)
    for cell in notebook["cells"]:
        ours = course_metadata(cell)
        assert ours.get("role") != "answer" or cell["source"] == answers[ours["exercise"]]
    said = run("attncourse", "grade", "--chapter", "00", cwd=folder)
    assert "score 2/2 (2 passed)" in said and "note:" not in said
    assert "nothing to do" in run("attncourse", "update", folder, cwd=tmp_path)
