import importlib.util

import pytest

if importlib.util.find_spec("triton"):
    import attncourse.kernels  # noqa: F401  before anything else imports triton: see its docstring


def pytest_collection_modifyitems(items):
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if wanted:
        import torch

        if not torch.cuda.is_available():
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
