"""How tests are shared out to the workers."""

import json
import re
from pathlib import Path

import conftest
import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("notebooks/04_window.ipynb::Cell 0", "notebooks/04_window.ipynb"),
        ("notebooks/04_window.ipynb::Cell 12", "notebooks/04_window.ipynb"),
        ("tests/test_widgets.py::test_a[1]", "tests/test_widgets.py"),
        ("tests/test_flash.py::test_a[x::y[0]]", "tests/test_flash.py::test_a"),
        ("tests/test_flash.py::test_b", "tests/test_flash.py::test_b"),
    ],
)
def test_cells_stay_together_and_functions_do_not(nodeid, scope):
    assert conftest.scope(nodeid) == scope


def test_files_with_a_fixture_of_their_own_stay_together():
    shared = re.compile(r"fixture\(.*scope=\"(module|session)\"")
    having = {
        f"tests/{path.name}" for path in HERE.glob("test_*.py") if shared.search(path.read_text())
    }
    assert having == conftest.TOGETHER


def test_durations_are_seconds_of_scopes():
    for scope, seconds in json.loads(conftest.DURATIONS.read_text()).items():
        assert conftest.scope(scope) == scope and seconds >= 1


class Config:
    """As much of pytest's as the scheduler asks for."""

    class option:
        loadscopereorder = True

    def getvalue(self, name):
        return ["popen", "popen"] if name == "tx" else 0


def test_the_scheduler_gives_a_notebook_to_one_worker_in_the_order_of_the_items():
    pytest.importorskip("xdist")

    class Node:
        def __init__(self, name):
            self.gateway, self.sent, self.shutting_down = type("G", (), {"id": name}), [], False

        def send_runtest_some(self, indices):
            self.sent += indices

        def shutdown(self):
            self.shutting_down = True

    items = [f"notebooks/04_window.ipynb::Cell {n}" for n in range(9)]
    items += [f"tests/test_flash.py::test_{n}" for n in range(6)]
    scheduler = conftest.pytest_xdist_make_scheduler(Config(), None)
    nodes = [Node("one"), Node("two")]
    for node in nodes:
        scheduler.add_node(node)
    for node in nodes:
        scheduler.add_node_collection(node, items)
    scheduler.schedule()
    while any(node.sent for node in nodes):  # the second worker is quicker
        for node in reversed(nodes):
            done = node.sent[:]
            node.sent.clear()
            assert done == sorted(done)
            cells = [index for index in done if index < 9]
            assert cells in ([], list(range(9))), "a notebook was shared out"
            for index in done:
                scheduler.mark_test_complete(node, index)
