"""The house around the package: set-up, versions, import directions, what the README promises."""

import ast
import collections
import graphlib
import importlib.metadata
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

from attncourse import MECHANISMS, cli

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
DIRECT = [
    Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
]
SITE = [Requirement(line) for line in PROJECT["optional-dependencies"]["site"]]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
    for pin in [Requirement(line)]
}
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}


def pinned_version(name):
    (specifier,) = PINS[canonicalize_name(name)].specifier
    assert specifier.operator == "=="
    return specifier.version


# Versions


def test_constraints_are_exact_versions_from_the_index():
    for pin in PINS.values():
        assert pinned_version(pin.name), pin
        assert pin.url is None
    assert "--" not in re.sub(r"^#.*", "", (ROOT / "constraints.txt").read_text(), flags=re.M)


def test_constraints_pin_what_pyproject_asks_for():
    for requirement in DIRECT + SITE:
        assert requirement.specifier.contains(pinned_version(requirement.name)), requirement
    assert (pinned_version("torch"), pinned_version("triton")) == ("2.13.0", "3.7.1")
    assert PINS["triton"].marker and "linux" in str(PINS["triton"].marker)


def test_constraints_hold_the_whole_closure_and_one_torch():
    waiting, seen = [canonicalize_name(r.name) for r in DIRECT + SITE], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name in PINS, f"{name} is installed with the course, but constraints.txt lacks it"
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this system
        for requirement in map(Requirement, lines):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            if requirement.name == "torch":
                assert requirement.specifier.contains(pinned_version("torch")), (name, requirement)
            waiting.append(canonicalize_name(requirement.name))
    assert len(seen) > 80  # the walk did walk
    assert not {"pytorch", "pytorch-triton", "torchvision", "torchaudio"} & set(PINS)


def test_environment_yml_is_the_same_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = next(line.partition("=")[2] for line in conda if line.startswith("python="))
    assert Version(python) in Requirement(f"python{PROJECT['requires-python']}").specifier
    first, *pins, last = pip["pip"]
    assert (first, last) == ("-c constraints.txt", "-e .[test]")
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, pins)}
    assert pins.keys() == {canonicalize_name(requirement.name) for requirement in DIRECT}
    for name, pin in pins.items():
        assert (pin.specifier, pin.marker) == (PINS[name].specifier, PINS[name].marker)


def test_ci_installs_the_oldest_versions_that_pyproject_admits():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    runs = workflow["jobs"]["platforms"]["strategy"]["matrix"]["include"]
    assert {run["os"] for run in runs} == {"ubuntu-latest", "macos-latest", "windows-latest"}
    oldest = next(run for run in runs if run["versions"] == "oldest")
    for name in ("torch", "triton"):
        low = next(r for r in DIRECT if r.name == name).specifier
        assert f"{name}=={str(low).removeprefix('>=')}.*" in oldest["pip"]
    assert oldest["python"] == "3.11" and "numpy<2.4" in oldest["pip"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    # each night every kernel is compiled by them, all combinations, as by the pinned ones
    night = workflow["jobs"]["older-triton"]
    install, *compile_ = [step["run"] for step in night["steps"] if "run" in step]
    assert oldest["pip"] in install and night["env"] == {"TRITON_INTERPRET": "0"}
    assert compile_ == [
        "python tests/launches.py all",
        "python tests/compile_only.py 90",
        "python tests/compile_only.py 80",
    ]


# The Makefile, with stand-ins for Python and df

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="needs make")

PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    *version_info*) exit $VERSION;;
    *ensurepip*) exit $ENSUREPIP;;
    *--version) echo Python 3.12.1;;
    "-m venv"*) mkdir -p .venv/bin
        for name in python jupyter ruff mypy; do cp "$0" .venv/bin/$name; done;;
    *--dry-run*) echo "Would install torch-$TORCH";;
    "-c import torch") exit 1;;
    "-m pip install"*) exit $PIP;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Run make in a folder with the Makefile, where only the stand-ins are to be found."""
    course, tools = tmp_path / "the course", tmp_path / "tools"
    course.mkdir()
    tools.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, course)
    for tool in ("sh", "awk", "df", "touch", "mkdir", "cp", "id", "rm", "find", "uname"):
        (tools / tool).symlink_to(shutil.which(tool))
    log = tmp_path / "log"

    def run(*arguments, pythons=("python3",), version=0, ensurepip=0, pip=0, torch="2.0+cpu"):
        for name in ("python3", "python3.12"):
            (tools / name).unlink(missing_ok=True)
        for name in pythons:
            (tools / name).write_text(PYTHON)
            (tools / name).chmod(0o755)
        log.write_text("")
        environment = {
            "PATH": str(tools),
            "LOG": str(log),
            "VERSION": str(version),
            "ENSUREPIP": str(ensurepip),
            "PIP": str(pip),
            "TORCH": torch,
        }
        done = subprocess.run(
            [shutil.which("make"), *arguments],
            cwd=course,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        run.calls = log.read_text().splitlines()
        return done

    run.course, run.tools = course, tools
    return run


def installs(make):
    return [call for call in make.calls if "pip install" in call and "--dry-run" not in call]


def complaint(done):
    """The one line that says what is wrong; make itself adds that the target failed."""
    assert done.returncode
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    return line


@needs_make
def test_help_lists_every_target(make):
    done = make()
    listed = re.findall(r"^make ([\w-]+) +\S", done.stdout, re.MULTILINE)
    assert listed == TARGETS
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert phony.split() == TARGETS


@needs_make
def test_make_says_that_python_is_missing(make):
    said = complaint(make("lab", pythons=()))
    assert "needs Python 3.11, 3.12 or 3.13" in said and "PYTHON=" in said


@needs_make
def test_make_says_that_python_is_too_old(make):
    assert "needs Python 3.11" in complaint(make("lab", version=1))


@needs_make
def test_make_names_the_python_that_was_asked_for(make):
    assert "python3.99" in complaint(make("lab", "PYTHON=python3.99"))


@needs_make
def test_make_takes_a_python_that_fits_or_the_one_asked_for(make):
    assert make("lab", pythons=["python3.12"]).returncode == 0
    assert make("clean").returncode == 0
    done = make("lab", "PYTHON=python3.12", pythons=["python3", "python3.12"])
    assert done.returncode == 0


@needs_make
def test_make_says_that_the_venv_module_is_missing(make):
    said = complaint(make("test", ensurepip=1))
    assert "venv" in said and "python3-venv" in said
    assert not (make.course / ".venv").exists()


def free_disk(make, megabytes):
    df = make.tools / "df"
    df.unlink()
    blocks = megabytes * 1000 * 1000 // 1024 + 1
    df.write_text(f"#!/bin/sh\necho Filesystem blocks Used Available\necho disk 9 9 {blocks}\n")
    df.chmod(0o755)


@needs_make
def test_make_says_that_the_disk_is_full(make):
    free_disk(make, 200)
    said = complaint(make("lab"))
    assert "3000 MB" in said and "only 200 MB" in said
    assert not (make.course / ".venv").exists()


@needs_make
@pytest.mark.skipif(sys.platform != "linux", reason="pip picks the CUDA build on Linux alone")
def test_make_says_that_the_disk_is_too_small_for_the_build_of_torch_that_pip_picks(make):
    free_disk(make, 5000)
    said = complaint(make("lab", torch="2.0"))
    assert "6800 MB" in said and "CUDA build" in said and "only 5000 MB" in said
    assert not [call for call in make.calls if call.endswith("-e .")]
    assert make("lab", torch="2.0+cpu").returncode == 0
    assert make("clean").returncode == 0
    free_disk(make, 7000)
    assert make("lab", torch="2.0").returncode == 0


@needs_make
def test_make_goes_on_after_a_failed_install(make):
    assert "the install failed" in complaint(make("lab", pip=1))
    done = make("lab")
    assert done.returncode == 0
    assert not [call for call in make.calls if call.startswith("-m venv")]


@needs_make
def test_make_installs_once_and_again_when_versions_change(make):
    assert make("lab", "ARGS=--no-browser").returncode == 0
    (install,) = installs(make)
    assert install.endswith("-c constraints.txt -e .")
    assert "--no-browser" in make.calls[-1] and "00_start.ipynb" in make.calls[-1]
    assert make("lab").returncode == 0
    assert len(make.calls) == 1  # JupyterLab, and nothing before it
    later = (make.course / ".venv/.lab").stat().st_mtime + 5
    os.utime(make.course / "constraints.txt", (later, later))
    assert make("lab").returncode == 0
    assert installs(make)
    assert not [call for call in make.calls if call.startswith("-m venv")]


@needs_make
def test_make_test_is_one_pytest_run_with_the_test_tools(make):
    assert make("test").returncode == 0
    (install,) = installs(make)
    assert install.endswith("-e .[test]")
    (run,) = [call for call in make.calls if call.startswith("-m pytest")]
    assert "-n 2 --dist loadscope" in run and "-m nightly" not in run
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests", "notebooks", "solutions"]
    assert "--nbval --nbval-current-env" in options["addopts"]


# .ci/run

needs_bash = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="needs bash"
)


def ci(folder, tools):
    """Run .ci/run with stand-ins for what it calls."""
    assert os.access(ROOT / ".ci/run", os.X_OK)
    for name, text in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [ROOT / ".ci/run"], env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
def test_make_lint_checks_style_format_and_types(make):
    assert "mypy" in PYPROJECT["tool"] and "ruff" in PYPROJECT["tool"]
    assert make("lint").returncode == 0
    assert make.calls[-3:] == ["check .", "format --check .", ""]


@needs_bash
def test_ci_stops_where_style_or_types_are_wrong(tmp_path):
    tools = {"chromium": "", "make": 'echo "make $1"\n[ "$1" != lint ]\n'}
    done = ci(tmp_path, tools)
    assert (done.returncode, done.stdout) == (1, "make lint\n")


@needs_bash
@pytest.mark.parametrize("status", [0, 1])
def test_ci_ends_with_the_summary_of_pytest(tmp_path, status):
    tools = {
        "chromium": "",
        "make": '[ "$1" = lint ] && exit 0\n'
        "echo browser $ATTNCOURSE_REQUIRE_BROWSER\n"
        'echo "==== 1 failed, 3 passed in 2.50s ===="\n'
        f"[ {status} = 0 ] || echo 'make: *** [Makefile:9: test] Error {status}' >&2\n"
        f"exit {status}\n",
    }
    done = ci(tmp_path, tools)
    assert done.returncode == status
    assert "browser 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "==== 1 failed, 3 passed in 2.50s ===="


# The package


def test_import_is_light_and_quick():
    code = (
        "import sys, time; start = time.process_time(); import attncourse;"
        "print(time.process_time() - start);"
        "print(*({'torch', 'triton', 'matplotlib', 'jupytext', 'pytest'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(5):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split("\n")
        assert out[1] == ""
        seconds.append(float(out[0]))
    assert min(seconds) < 0.3  # a busy machine makes it more, never less


# What the modules on the left never import. The foundation stands on nothing above it.
ABOVE = ("attncourse.grading", "attncourse.plots", "attncourse.widgets", "attncourse.claims")
FOUNDATION = ("softmax", "masks", "graph", "spectra", "layouts", "definitions", "inputs", "cost")
BELOW_ALL = ("torch", "triton", "attncourse.reference", "attncourse.kernels", *ABOVE)
NEVER = {
    "attncourse.reference": ("torch", "triton", "matplotlib", "attncourse.kernels", *ABOVE),
    "attncourse.kernels": ("attncourse.reference", "matplotlib", *ABOVE),
    **{f"attncourse.{stem}": BELOW_ALL for stem in FOUNDATION},
    "attncourse.catalogue": ("torch", "triton", *ABOVE),
    "attncourse.plots": ("attncourse.widgets", "attncourse.grading", "matplotlib.pyplot"),
    "attncourse.widgets": ("attncourse.grading",),
    "attncourse.grading": ("attncourse.widgets", "attncourse.authoring"),
    "attncourse": ("tests", "solutions", "notebooks"),
}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def imports(module, text):
    """What a module's text imports, at any depth; not what only a type checker does."""
    waiting, found = [ast.parse(text)], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        waiting += ast.iter_child_nodes(node)
    return found


def forbidden_imports(module, text):
    """The imports of a module's text that the module's place forbids."""
    never = [other for place, others in NEVER.items() if within(module, place) for other in others]
    return [name for name in imports(module, text) for other in never if within(name, other)]


def private_imports(module, text):
    """The imports of other packages' private modules: only their own package uses them."""
    found = []
    for name in imports(module, text):
        package, private, _ = name.partition("._")
        if private and package.startswith("attncourse") and not within(module, package):
            found.append(name)
    return found


def circles(texts):
    """The modules of a circle of imports at any depth, the first that is found."""
    graph = {}
    for module, text in texts.items():
        named = imports(module, text)
        graph[module] = {
            name if name in texts else name.rpartition(".")[0] for name in named
        } & texts.keys()
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def modules():
    for path in sorted((ROOT / "attncourse").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path.read_text(encoding="utf-8")


def test_imports_go_one_way():
    found = {name: wrong for name, text in modules() if (wrong := forbidden_imports(name, text))}
    assert found == {}


def test_no_module_imports_itself_by_a_detour():
    assert circles(dict(modules())) == []


def test_private_parts_stay_in_their_package():
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in ("notebooks/_source", "solutions/_source")
        for path in (ROOT / folder).glob("*.py")
    }
    assert sources
    texts = dict(modules()) | sources
    assert {name: w for name, text in texts.items() if (w := private_imports(name, text))} == {}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("attncourse.reference.window", "import torch"),
        ("attncourse.reference.window", "def f():\n    from torch.nn import Linear"),
        ("attncourse.kernels.window", "from attncourse.reference import window"),
        ("attncourse.kernels.window", "from attncourse import reference"),
        ("attncourse.cost", "import attncourse.plots as plots"),
        ("attncourse.definitions.patterns", "from attncourse.reference import window"),
    ],
)
def test_a_wrong_import_is_found(module, text):
    assert forbidden_imports(module, text)


@pytest.mark.parametrize(
    "text",
    [
        "from attncourse.reference import _parts",
        "from attncourse.reference._parts import block",
        "import attncourse.reference._parts.block",
    ],
)
def test_a_private_import_is_found(text):
    for module in ("notebooks/_source/05_sparse.py", "attncourse.plots", "attncourse.kernels.full"):
        assert private_imports(module, text)
    assert private_imports("attncourse.reference.window", text) == []


def test_a_circle_is_found():
    texts = {
        "attncourse.a": "from attncourse.b import helper",
        "attncourse.b": "def f():\n    from attncourse import a",
        "attncourse.c": "from typing import Any",
    }
    assert set(circles(texts)) == {"attncourse.a", "attncourse.b"}
    assert (
        circles(texts | {"attncourse.b": "if TYPE_CHECKING:\n    from attncourse import a"}) == []
    )


# A folder of mechanisms shows its mechanisms and nothing else


def strangers(package, names):
    """What a folder holds beyond the stems of the catalogue and its parts, and what it lacks."""
    kernels = package == "kernels"
    stems = {
        stem
        for mechanism in MECHANISMS.values()
        if not kernels or "kernel" in mechanism.has
        for stem in (mechanism.stem, *mechanism.variants)
    }
    return stems ^ (names - {"__init__", "_parts", "__pycache__"})


@pytest.mark.parametrize("package", ["reference", "kernels"])
def test_a_folder_of_mechanisms_holds_one_stem_for_each_and_their_parts(package):
    names = {path.stem for path in (ROOT / "attncourse" / package).iterdir()}
    assert "_parts" in names and strangers(package, names) == set()
    assert strangers(package, names | {"helper"}) == {"helper"}
    assert strangers(package, names - {"window"}) == {"window"}


# The contract of the kernels stands once, in the docstring of their package


def repeats_of_the_contract(stem, text):
    """What of a kernel module says again what holds for all, or does not say what is its own."""
    texts = {
        node.name: ast.get_docstring(node)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    contract = f"Contract: `attncourse.kernels`; knobs: `reference.{stem}.attention`."
    own = (contract, "Gradients: ", "Memory: ")
    text = texts["attention"]
    found = [f"attention: no {start!r}" for start in own if f"\n{start}" not in text]
    if not re.search("`(attncourse.kernels|plan_cost)`", texts["cost"]):
        found.append("cost: no pointer to what is counted")
    for name, part in itertools.product(("attention", "cost"), ("Args:", "Returns:", "Raises:")):
        if part in texts[name]:
            found.append(f"{name}: {part}")
    return found


def test_kernels_say_what_is_special_to_them():
    paths = [p for p in sorted((ROOT / "attncourse/kernels").glob("*.py")) if p.stem != "__init__"]
    assert len(paths) > 20
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    found = {stem: w for stem, text in texts.items() if (w := repeats_of_the_contract(stem, text))}
    assert found == {}


def test_no_paragraph_of_the_kernels_stands_twice():
    paths = sorted((ROOT / "attncourse/kernels").rglob("*.py"))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    paragraphs = collections.Counter(
        paragraph
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, owners)
        for paragraph in (ast.get_docstring(node) or "").split("\n\n")
        if paragraph.count("\n") and not paragraph.startswith("Args:")
    )
    assert len(paragraphs) > 50
    assert [paragraph for paragraph, times in paragraphs.items() if times > 1] == []


def test_a_repeated_contract_is_found():
    good = (
        'def attention(q):\n    """Attend.\n\n'
        "    Contract: `attncourse.kernels`; knobs: `reference.toy.attention`.\n"
        '    Gradients: none.\n    Memory: the output.\n    """\n'
        'def cost(B):\n    """Count: see `attncourse.kernels`."""\n'
    )
    assert repeats_of_the_contract("toy", good) == []
    for old, new in (
        ("reference.toy", "reference.other"),
        ("Gradients: none.\n    ", ""),
        ("Memory: ", "It holds "),
        ("see `attncourse.kernels`", "all"),
        ("the output.", "the output.\n\n    Args:\n        q: Queries."),
        ('kernels`."', 'kernels`.\n\n    Args:\n        B: Batch.\n    "'),
    ):
        assert old in good
        assert len(repeats_of_the_contract("toy", good.replace(old, new))) == 1, old


# References and training code can be read in one sitting: lines of code, the long docstrings aside
READABLE = ("reference/**/*", "training/*", "definitions/*", *FOUNDATION[:-2])
FILE_LINES, FUNCTION_LINES, ALL_LINES = 150, 30, 260


def code_lines(text):
    """The tree of a text, and the numbers of its lines that hold code: no docstring, no comment."""
    tree = ast.parse(text)
    places = (ast.Module, ast.ClassDef, ast.FunctionDef)
    owners = [n for n in ast.walk(tree) if isinstance(n, places) and ast.get_docstring(n)]
    prose = {line for n in owners for line in range(n.body[0].lineno, n.body[0].end_lineno + 1)}
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    held = [t for t in tokens if t.type not in blank and t.string]
    return tree, {line for t in held for line in range(t.start[0], t.end[0] + 1)} - prose


def too_long(text):
    """What of a module is longer than it may be, a function's signature aside."""
    tree, code = code_lines(text)
    found = []
    if len(code) > FILE_LINES or len(text.splitlines()) > ALL_LINES:
        found.append(f"{len(code)} lines of code, {len(text.splitlines())} in all")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = [line for line in code if node.body[0].lineno <= line <= node.end_lineno]
            if len(body) > FUNCTION_LINES:
                found.append(f"{node.name}: {len(body)} lines of code")
    return found


def test_references_and_training_code_can_be_read_in_one_sitting():
    package = ROOT / "attncourse"
    paths = [path for pattern in READABLE for path in sorted(package.glob(f"{pattern}.py"))]
    assert len(paths) > 40
    texts = {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in paths}
    assert {name: long for name, text in texts.items() if (long := too_long(text))} == {}


def test_code_that_is_too_long_is_found():
    body = (
        'def f(\n    a,\n    b,\n):\n    """Do.\n\n    Much.\n    """\n    # why\n\n'
        + "    a\n" * 30
    )
    assert code_lines(body)[1] == {1, 2, 3, 4, *range(11, 41)}
    assert too_long(body) == []
    assert too_long(body + "    b\n") == ["f: 31 lines of code"]
    assert too_long("a = 1\n" * 150) == []
    assert too_long("a = 1\n" * 151) == ["151 lines of code, 151 in all"]
    assert too_long("# why\n" * 261) == ["0 lines of code, 261 in all"]


def test_no_block_pointers():
    # Gone from Triton 3.9.
    folders = ("attncourse", "notebooks", "solutions", "exercises")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    using = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in (".py", ".ipynb") and "make_block_ptr" in path.read_text(encoding="utf-8")
    ]
    assert using == []


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: attncourse {command}" in capsys.readouterr().out


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import contextlib, sys; from attncourse import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "print(sorted({'numpy', 'torch', 'nbformat', 'attncourse.doctor'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert out.endswith("[]\n")
    for command, (_, text) in cli.COMMANDS.items():
        assert re.search(rf"^    {command} +{re.escape(text)}$", out, re.MULTILINE)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["grde"])
    assert stop.value.code == 2
    assert "grade" in capsys.readouterr().err


@needs_make
def test_make_test_all_leaves_nothing_to_the_night(make):
    assert make("test-all").returncode == 0
    (run,) = [call for call in make.calls if call.startswith("-m pytest")]
    assert "-m nightly or not nightly" in run


# What README and CONTRIBUTING promise


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_the_text_exist(name):
    text = TEXTS[name]
    makes = re.findall(r"^ +make ([\w-]+)|`make ([\w-]+)", text, re.MULTILINE)
    commands = re.findall(r"^ +attncourse ([\w-]+)|[`/]attncourse ([\w-]+)", text, re.MULTILINE)
    assert makes and commands
    assert {a or b for a, b in makes} <= set(TARGETS)
    assert {a or b for a, b in commands} <= set(cli.COMMANDS)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)#]+)\)", TEXTS[name]):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_jupyterlab_is_always_started_with_the_course_s_settings():
    texts = {**TEXTS, "Makefile": "", "environment.yml": ""}
    starts = [
        line
        for name in texts
        for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines()
        if re.search(r"jupyter lab\b", line)
    ]
    assert len(starts) == 4
    assert [line for line in starts if "--LabApp.app_settings_dir=" not in line] == []
    assert (ROOT / "jupyter/overrides.json").exists()


def test_the_first_screen_is_two_commands_and_a_film():
    first = TEXTS["README.md"].split("\n## ")[0]
    assert re.findall(r"^    make (\w+)", first, re.MULTILINE) == ["lab", "test"]
    assert re.search(r"!\[[^]]{20,}\]\(docs/grader\.gif\)", first)
    film = ROOT / "docs/grader.gif"
    with Image.open(film) as opened:
        assert opened.n_frames > 3
        # At the 890 pixels of GitHub's column, below heading, promise and commands, above the fold.
        assert 890 * opened.height / opened.width < 800 - 320
    assert len(re.findall(r"\w+", first.split("    make")[0])) < 90
    assert film.stat().st_size < 2e6


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == PROJECT["version"]


def test_python_in_the_readme_runs(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert names["out"].shape == names["q"].shape == (1, 1, 4096, 64)
    first, second = capsys.readouterr().out.splitlines()
    assert "peak_bytes" in first
    full, near = map(float, second.split())
    assert full < near
