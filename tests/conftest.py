import importlib.util

import pytest

if importlib.util.find_spec("triton"):
    import attncourse.kernels  # noqa: F401  before anything else imports triton: see its docstring


def pytest_collection_modifyitems(items):
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


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured and do not judge."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def own_progress_folder(tmp_path, monkeypatch):
    """No test reads or writes the learner's own progress."""
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path / "home"))


@pytest.fixture
def new_memory_is_full_of_nan():
    """torch.empty gives NaN, so that an element nobody wrote shows."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
