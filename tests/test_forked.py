"""Kernels of the day are forks, and kernels all the same: they end when they should."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

FORKED = Path(__file__).with_name("forked")
forks = pytest.mark.skipif(
    "ATTNCOURSE_FORKS" not in os.environ, reason="kernels are started anew: a night, or no Linux"
)


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FORKED), prepend=os.pathsep)
    monkeypatch.setenv("TOLD", "by the one who asks")
    manager, client = start_new_kernel(kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def said(client, code):
    lines = []

    def note(message):
        content = message["content"]
        lines.append(content.get("text") or content.get("ename") or "")

    client.execute_interactive(code, output_hook=note, timeout=60)
    return "".join(lines).strip()


def ended(pid):
    for _ in range(100):
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.05)
    return False


@forks
def test_a_fork_knows_its_place_is_interrupted_and_ends_with_its_stand_in(kernel):
    manager, client = kernel
    code = "import os, sys; print(os.getpid(), 'torch' in sys.modules, os.environ['TOLD'])"
    pid, imported, told = said(client, code).split(" ", 2)
    assert (imported, told) == ("True", "by the one who asks")
    stand_in = manager.provisioner.pid
    assert int(pid) != stand_in
    client.execute("import time; time.sleep(60)", stop_on_error=False)
    time.sleep(0.3)
    manager.interrupt_kernel()
    assert said(client, "print(1)").endswith("1")  # long before the sleep would end
    os.kill(stand_in, signal.SIGKILL)
    assert ended(int(pid))


@forks
def test_a_stand_in_ends_as_its_kernel_does(kernel):
    manager, client = kernel
    client.execute("import os; os._exit(7)")
    assert manager.provisioner.process.wait(10) == 7
