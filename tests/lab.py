"""A JupyterLab server on a copy of the notebooks, and a page of Chromium that shows it."""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUESS = ".attncourse-guess"
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing that asks the network, and no GPU, so that two runs draw the same pixels.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    # All cells are in the page, seen or not.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
IDLE_SECONDS = 300  # a server whose tests were killed ends by itself
OPEN = """async path => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
    await panel.context.ready;
    await panel.sessionContext.ready;
    app.shell.activateById(panel.id);
    return panel;
}"""
HAS_RUN = """panel => {
    const cells = [...panel.content.model.cells].filter(cell => cell.type === 'code');
    const all = list => Array.from({length: list.length}, (_, index) => list.get(index));
    const failed = cell => all(cell.outputs).some(one => one.type === 'error');
    return (cells.every(cell => cell.executionCount) || cells.some(failed))
        && panel.sessionContext.session.kernel.status === 'idle';
}"""
CELLS = """panel => [...panel.content.model.cells].map(cell => ({
    type: cell.type,
    source: cell.sharedModel.getSource(),
    metadata: cell.sharedModel.getMetadata(),
    outputs: cell.type === 'code' ? cell.outputs.toJSON() : [],
}))"""
ASK = """async (panel, code) => {
    const texts = [];
    const kernel = panel.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false});
    future.onIOPub = message => texts.push(message.content.text || '');
    await future.done;
    return texts.join('');
}"""
CLOSE = """async panel => {
    await panel.sessionContext.shutdown();
    await panel.context.revert();
    panel.context.model.dirty = false;  // whatever came since: ask nothing
    panel.close();
}"""


def chromium() -> str | None:
    """Return a Chromium of this machine; None leaves it to Playwright's own."""
    if named := os.environ.get("ATTNCOURSE_CHROMIUM"):
        return named
    return next(filter(None, map(shutil.which, NAMES)), None)


def without(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get("ATTNCOURSE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"ATTNCOURSE_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
    pytest.skip(f"{reason}: no browser tests")


@contextlib.contextmanager
def browser():
    """Start Chromium through Playwright."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        without("playwright is not installed")
    with sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        except Error as error:
            without(f"Chromium does not start ({str(error).splitlines()[0]})")
        with contextlib.closing(running):
            yield running


@contextlib.contextmanager
def server(folder: Path):
    """Run JupyterLab on a copy of the notebooks, with this Python as its kernel.

    Args:
        folder: Empty; takes the copies, and everything that Jupyter and the course write.

    Yields:
        The address of the page, with its token, and the folder of the copies.
    """
    course, own = folder / "course", folder / "own"
    for name in ("notebooks", "exercises"):
        shutil.copytree(ROOT / name, course / name, ignore=shutil.ignore_patterns("_*", ".*"))
    for name, settings in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    kernel = own / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    environment = {
        **os.environ,
        "ATTNCOURSE_HOME": str(own / "home"),
        "IPYTHONDIR": str(own / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_PATH": str(own),  # searched first: its kernel is the one that is found
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
    }
    port, token, log = _free_port(), secrets.token_hex(16), own / "log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"]
    options = {
        "LabApp.app_settings_dir": ROOT / "jupyter",
        "ServerApp.allow_root": True,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": course,
        "ServerApp.shutdown_no_activity_timeout": IDLE_SECONDS,
        "MappingKernelManager.cull_connected": True,
        "MappingKernelManager.cull_idle_timeout": IDLE_SECONDS,
        "IdentityProvider.token": token,
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the tests, and they end the server
        )
    try:
        _wait_for(process, port, log)
        yield f"http://127.0.0.1:{port}/lab?token={token}", course
    finally:
        process.terminate()  # ends the kernels too
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/api")
            connection.getresponse()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}", pytrace=False)


class Notebook:
    """A notebook open in JupyterLab.

    Attributes:
        page: Playwright's page.
        path: The file, from the server's folder.
        box: The notebook's place in the page.
    """

    def __init__(self, page, path: str):
        """Open a notebook and wait for its kernel."""
        self.page, self.path = page, path
        self.panel = page.evaluate_handle(OPEN, path)
        self.box = page.locator(f"[id='{self.panel.evaluate('panel => panel.id')}']")
        self.cell(0).wait_for()

    def run_all(self, seconds: float = 200) -> None:
        """Run all cells and wait until the kernel is idle, or a cell has failed."""
        self.page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
        )
        self.page.wait_for_function(HAS_RUN, arg=self.panel, timeout=seconds * 1000, polling=100)

    @property
    def cells(self) -> list[dict]:
        """Type, source, metadata and outputs of each cell, as a save would write them."""
        return self.panel.evaluate(CELLS)

    @property
    def explorers(self):
        """The places where an explorer stands: controls, picture and sentence."""
        told = self.box.locator(f".widget-vbox:not({GUESS})").filter(
            has=self.page.get_by_role("status")
        )
        return told.filter(has=self.page.locator("img"))  # a form has a status and no picture

    @property
    def pictures(self):
        """The pictures of all cells, stored or live."""
        return self.box.locator(".jp-OutputArea img")

    def cell(self, index: int):
        """Return the cell with this index in the page."""
        return self.box.locator(".jp-Cell").nth(index)

    def show(self, index: int) -> None:
        """Scroll to a cell: to its sliders and picture if it has some, else to its top."""
        box = self.cell(index).locator(".widget-vbox")
        shown = box.first if box.count() else self.cell(index)
        shown.evaluate("box => box.scrollIntoView({block: 'start'})")

    def ask(self, code: str) -> str:
        """Run code in the kernel, past the notebook, and return what it prints."""
        return self.panel.evaluate(ASK, code)

    def save(self) -> None:
        """Save the notebook."""
        self.panel.evaluate("panel => panel.context.save()")

    def close(self) -> None:
        """End the kernel and close the notebook without saving."""
        self.panel.evaluate(CLOSE)
