import collections
import gc
import importlib
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import covering
import other_machines
import pytest

DURATIONS = pathlib.Path(__file__).with_name("durations.json")
NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
FORKED = pathlib.Path(__file__).with_name("forked")
# Their fixtures start a server, a kernel or a build for the whole file, or find all claims.
TOGETHER = {
    f"tests/test_{name}.py"
    for name in (
        "authoring",
        "browser",
        "chapter_03",
        "claims",
        "distributed",
        "frontier",
        "model",
        "plugin",
        "printed_features",
        "widgets",
    )
}


def scope(nodeid):
    """Name what one worker runs in order: a notebook, a file that shares a fixture, a function."""
    path = nodeid.split("::")[0]
    return path if path.endswith(".ipynb") or path in TOGETHER else nodeid.split("[")[0]


def pytest_addoption(parser):
    parser.addoption(
        "--record-durations",
        action="store_true",
        help="write tests/durations.json, by which the workers begin with what takes longest",
    )


def pytest_configure(config):
    covering.NIGHTLY = covering.is_night(config.option.markexpr)
    collects = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if collects and importlib.util.find_spec("triton"):
        importlib.import_module("attncourse.kernels")  # before triton: see its docstring
    if not covering.NIGHTLY:
        # registered, since hooks of a conftest see its own folder only
        config.pluginmanager.register(KernelsOfTheDay())
        if sys.platform == "linux" and "ATTNCOURSE_FORKS" not in os.environ:
            start_forking(config)


def start_forking(config):
    """Start what kernels of the day are forked from."""
    folder = tempfile.TemporaryDirectory()
    address = os.environ["ATTNCOURSE_FORKS"] = f"{folder.name}/forks"  # workers inherit it
    server = subprocess.Popen(
        [sys.executable, FORKED / "server.py", address],
        stdin=subprocess.PIPE,
        cwd=folder.name,
        env=os.environ | other_machines.ARITHMETIC,
    )

    def stop():
        del os.environ["ATTNCOURSE_FORKS"]
        server.stdin.close()
        server.wait()
        folder.cleanup()

    config.add_cleanup(stop)


class KernelsOfTheDay:
    """By day notebooks run in forks of one process, as on another machine.

    To import torch, Triton and matplotlib takes longer than most chapters; builds and nights start
    each kernel anew, as JupyterLab does. The process has the arithmetic of an older machine, and
    chapters an erratic clock, as test_any_machine.py gives them at night. What a chapter prints is
    compared all the same: nothing that is stored may come from the clock or from a last digit.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        if item.path.suffix != ".ipynb":
            return (yield)
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            if item.path.parent == NOTEBOOKS:
                clock = other_machines.put("erratic", pathlib.Path(folder, "ipython"))
                patch.setenv("IPYTHONDIR", clock)
            fork_kernels(patch)
            return (yield)


def fork_kernels(patch):
    if "ATTNCOURSE_FORKS" in os.environ:
        patch.setenv("PYTHONPATH", str(FORKED), prepend=os.pathsep)


@pytest.fixture(scope="module")
def forked_kernels():
    """By day, kernels that a file's tests start are forks too."""
    with pytest.MonkeyPatch.context() as patch:
        fork_kernels(patch)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Thousands of tests stay till the end: looking for garbage among them costs seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope(nodeid)

    config.option.loadscopereorder = False  # the order is that of the durations
    return ByScope(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    skip_what_needs_a_gpu(items)
    if hasattr(config, "workerinput"):
        known = json.loads(DURATIONS.read_text(encoding="utf-8"))

        def seconds(item):
            unit = scope(item.nodeid)  # a notebook or file that nobody timed takes long
            return known.get(unit, 0 if "::" in unit else math.inf)

        items.sort(key=seconds, reverse=True)


def skip_what_needs_a_gpu(items):
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if wanted:
        try:
            import torch

            has_gpu = torch.cuda.is_available()
        except ModuleNotFoundError:  # the NumPy side is tested without it too
            has_gpu = False
        if not has_gpu:
            skip = pytest.mark.skip(reason="needs a CUDA device")
            for item in wanted:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter, config):
    """Print what tests measured and do not judge, and which files took longest."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(line)
    by_scope, by_file = collections.Counter(), collections.Counter()
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            seconds = getattr(report, "duration", None)
            if seconds is not None and hasattr(report, "when"):
                by_scope[scope(report.nodeid)] += seconds
                by_file[report.nodeid.split("::")[0]] += seconds
    if len(by_file) > 1:
        terminalreporter.section("slowest files")
        for path, seconds in by_file.most_common(15):
            terminalreporter.write_line(f"{seconds:7.1f} s  {path}")
    if config.getoption("record_durations"):
        lasting = {name: round(seconds, 1) for name, seconds in by_scope.items() if seconds >= 1}
        DURATIONS.write_text(json.dumps(lasting, indent=0, sort_keys=True) + "\n")


@pytest.fixture(autouse=True)
def own_progress_folder(tmp_path, monkeypatch):
    """No test reads or writes the learner's own progress."""
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path / "home"))


@pytest.fixture
def on_a_hopper(monkeypatch):
    """Kernels take the tiles that they take on an H200, in the interpreter too."""
    from attncourse.kernels._parts import tiles

    monkeypatch.setattr(tiles, "compute_capability", lambda: 90)


@pytest.fixture
def new_memory_is_full_of_nan():
    """torch.empty gives NaN, so that an element nobody wrote shows."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
