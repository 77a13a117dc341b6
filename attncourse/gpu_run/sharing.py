"""A plugin of pytest: several processes share the tests, most telling first, and write as they go.

Each process collects all tests in the same order and runs those that nobody has claimed. A claim is
a file that only one process can create.
"""

from __future__ import annotations

import collections
import hashlib
import os
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from attncourse.gpu_run.command import LOST
from attncourse.gpu_run.lines import add

LATE = ("beyond_32_bits", "sanitizer", "measured_on_a_gpu")  # they take long, and rarely fail


def pytest_addoption(parser):
    """Ask where results and claims go."""
    parser.addoption("--results", type=Path, help="where a line for each test goes")
    parser.addoption("--claims", type=Path, help="a folder that the processes share")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Keep what needs a GPU and the kernels' tests; the first case of each function comes first."""
    kept = [item for item in items if _is_wanted(item)]
    cases: collections.Counter = collections.Counter()
    order = {}
    for item in kept:
        function = item.nodeid.split("[")[0]
        late = any(word in function for word in LATE)
        order[item] = late, cases[function], item.get_closest_marker("gpu") is None
        cases[function] += 1
    items[:] = sorted(kept, key=order.__getitem__)


def _is_wanted(item: pytest.Item) -> bool:
    return item.path.name.startswith("test_kernels") or bool(item.get_closest_marker("gpu"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test that nobody has claimed, and write what came of it."""
    results = item.config.option.results
    claim = item.config.option.claims / hashlib.sha1(item.nodeid.encode()).hexdigest()
    try:
        claim.open("x").close()
    except FileExistsError:
        return True
    add(results, test=item.nodeid, begins=True)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    # Torn down wholly, since nobody knows which test this process gets next.
    reports = runtestprotocol(item, nextitem=None)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    outcomes = {report.outcome for report in reports}
    outcome = next(word for word in ("failed", "skipped", "passed") if word in outcomes)
    why = "\n".join(report.longreprtext for report in reports if not report.passed)
    seconds = round(sum(report.duration for report in reports), 2)
    add(results, test=item.nodeid, outcome=outcome, seconds=seconds, why=why[-1500:])
    if outcome == "failed" and _is_lost():
        add(results, test=item.nodeid, lost="the GPU refuses further calls to this process")
        os._exit(LOST)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Tell of a file that cannot be read here, perhaps for want of a package."""
    report = yield
    if report.failed:
        why = report.longreprtext[-500:]
        add(collector.config.option.results, test=report.nodeid, outcome="not collected", why=why)
    return report


def _is_lost() -> bool:
    import torch

    from attncourse.bench import measuring

    return torch.cuda.is_available() and measuring.is_lost()
