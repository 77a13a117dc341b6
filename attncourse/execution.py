"""Runs a notebook as the build does, and keeps of its outputs what is stored."""

from __future__ import annotations

import base64
import contextlib
import getpass
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ipykernel.kernelspec
import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from attncourse import pictures
from attncourse.sources import BuildError, Source

CELL_SECONDS = 120
IGNORING_TAGS = {"nbval-ignore-output", "nbval-skip"}
# JupyterLab would show a view without its kernel as an error, instead of the picture beside it.
_NOT_STORED = {"image/jpeg", "application/vnd.jupyter.widget-view+json"}


class _ThisPython(KernelSpecManager):
    """Knows one kernel, the running interpreter: a kernelspec may name a Python elsewhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**ipykernel.kernelspec.get_kernel_dict())


def kernel_manager() -> AsyncKernelManager:
    """Return a manager whose kernel runs in this interpreter."""
    return AsyncKernelManager(kernel_spec_manager=_ThisPython())


@contextlib.contextmanager
def kernel_for(
    notebook: NotebookNode, folder: Path, home: Path, seconds: float
) -> Iterator[NotebookClient]:
    """Start a kernel for a notebook's cells that knows nothing of who starts it, and end it.

    Args:
        notebook: its cells get the outputs.
        folder: the working directory.
        home: takes the place of the author's IPython profile, hints and passes.
        seconds: the most that a cell may take.
    """
    environment = {
        **os.environ,
        "ATTNCOURSE_HOME": str(home),
        "IPYTHONDIR": str(home),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
    }
    client = NotebookClient(
        notebook,
        km=kernel_manager(),
        timeout=seconds,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    # The kernel's own log is no output of a cell, and would only alarm.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with client.setup_kernel(cleanup_kc=True, env=environment, **quiet):
        yield client


def run(notebook: NotebookNode, source: Source, folder: Path) -> list[str]:
    """Run a notebook in place, and keep of its outputs what is stored.

    Args:
        notebook: an assembled notebook; its code cells get outputs and execution counts.
        source: where it comes from, for messages.
        folder: the working directory of its kernel, the folder in which it will lie.

    Returns:
        What a draft may show and a finished source may not: solutions that do not pass, too many
        outputs that are not compared.

    Raises:
        BuildError: a cell fails, or shows what must not be stored.
    """
    with tempfile.TemporaryDirectory() as home:
        with kernel_for(notebook, folder, Path(home), CELL_SECONDS) as client:
            for index, cell in enumerate(notebook.cells):
                _run_cell(client, index, cell, source)
    problems, unfinished = [], []
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for count, (index, cell) in enumerate(code, 1):
        if cell.metadata.get("attncourse", {}).get("role") == "check":
            unfinished += [f"{source.at(index)}: {says}" for says in _not_passed(cell)]
        cell.execution_count = count  # without it nbval compares nothing
        try:
            cell.outputs = [one for output in _joined(cell.outputs) for one in _stored(output)]
        except ValueError as error:
            problems.append(f"{source.at(index)}: {error}")
            continue
        if IGNORING_TAGS & set(cell.metadata.get("tags", ())):
            cell.outputs = pictures.with_words(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
        problems += [
            f"{source.at(index)}: its output {says}" for says in _leaks(cell.outputs, folder)
        ]
    if complaint := too_many_ignored(notebook):
        unfinished.append(f"{source.name}: {complaint}")
    if problems:
        raise BuildError(problems + unfinished)
    return unfinished


def _run_cell(client: NotebookClient, index: int, cell: NotebookNode, source: Source) -> None:
    try:
        # With history, as in JupyterLab and in our plugin's kernel: else `;` silences nothing.
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)
        line = re.findall(r"Cell In\[\d+\], line (\d+)", plain)
        raise BuildError(
            [f"{source.at(index, int(line[0]) if line else 1)}: {error.ename}: {error.evalue}"]
        ) from None
    except CellTimeoutError:
        raise BuildError([f"{source.at(index)}: ran for over {CELL_SECONDS} s"]) from None
    except DeadKernelError:
        raise BuildError([f"{source.at(index)}: the kernel died"]) from None


def _not_passed(cell: NotebookNode) -> Iterator[str]:
    """Tell unless the check cell shows that the solution passes."""
    verdicts = [
        output.metadata["attncourse"]
        for output in cell.outputs
        if "attncourse" in output.get("metadata", {})
    ]
    if len(verdicts) != 1:
        yield f"shows {len(verdicts)} verdicts instead of one"
    elif verdicts[0]["status"] != "passed":
        yield f"the solution {verdicts[0]['status']}: {verdicts[0].get('reason')}"


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs, printed text in one piece: where a kernel cuts it is a matter of time."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else NotebookNode()
        if output.output_type == "stream" and last.get("name") == output.name:
            joined[-1] = NotebookNode(output, text=last.text + output.text)
        else:
            joined.append(output)
    return joined


def _stored(output: NotebookNode) -> Iterator[NotebookNode]:
    """Yield what is stored of an output: its picture, then its text, without what changes by run.

    They are two outputs: of one, each reader would show the picture or the text.

    Raises:
        ValueError: a picture cannot be made small.
    """
    if "data" in output:
        data = {mime: v for mime, v in output.data.items() if mime not in _NOT_STORED}
        if png := data.pop(pictures.PNG, None):
            about = output.metadata.get(pictures.PNG, {})
            yield nbformat.v4.new_output(
                "display_data",
                data={pictures.PNG: pictures.encoded(pictures.small(base64.b64decode(png)))},
                metadata={pictures.PNG: about} if about else {},
            )
        if not data:
            return
        output = NotebookNode(output, data=data, metadata={})
    if output.output_type == "error":  # nbval compares name and value; the rest names files
        output = NotebookNode(output, traceback=[f"{output.ename}: {output.evalue}"])
    yield output


def _leaks(outputs: list[NotebookNode], folder: Path) -> Iterator[str]:
    """Tell what in the outputs belongs to this machine or to this run."""
    outputs = [one for one in outputs if pictures.PNG not in one.get("data", {})]
    text = json.dumps(outputs, ensure_ascii=False).replace("\\\\", "\\")
    for place in sorted({folder.parent, Path.home(), sys.prefix, tempfile.gettempdir()}, key=str):
        if re.search(re.escape(str(place)) + r"[/\\]", text):
            yield f"names a folder of this machine, {place}"
    # "root" is also a word of mathematics.
    for word in {platform.node(), getpass.getuser()} - {"", "root", "localhost"}:
        if re.search(rf"\b{re.escape(word)}\b", text):
            yield f"names this machine or its user, {word}"
    if re.search(r"\bat 0x[0-9a-f]{6,}", text):
        yield "holds a memory address, which changes with every run"
    if "image/svg+xml" in text:
        yield "holds an SVG picture, which nbval compares as text: show a PNG"


def too_many_ignored(notebook: NotebookNode) -> str | None:
    """Say so if more than a tenth of the cells with outputs are not compared by nbval."""
    ignored, total = ignored_outputs(notebook)
    if 10 * ignored > total:
        return (
            f"nbval ignores {ignored} of {total} cells with outputs; at most a tenth "
            f"({total // 10}) may be ignored"
        )
    return None


def ignored_outputs(notebook: NotebookNode) -> tuple[int, int]:
    """Count the cells with outputs that nbval does not compare, and all cells with outputs."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ignored = [bool(IGNORING_TAGS & set(cell.metadata.get("tags", ()))) for cell in code]
    shown = [skip or bool(cell.outputs) for cell, skip in zip(code, ignored, strict=True)]
    return sum(ignored), sum(shown)
