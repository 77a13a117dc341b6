"""A Python kernel that is watched while it runs a cell.

nbval waits for a reply until its time is up, and does not notice that the kernel has died. This
kernel looks ten times a second whether the process lives, how much memory it holds and how long the
cell has run, and stops it when it must.
"""

import os
import re
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

import psutil
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel, start_new_kernel

from attncourse.units import format_bytes

LOOK_SECONDS = 0.1
INTERRUPT_SECONDS = 2.0  # what an interrupted cell gets to stop before its kernel is ended
MEMORY_BYTES = 4 * 2**30  # exercises need far less; beyond it the machine itself is in danger
KEPT_OUTPUTS = 20  # of a check cell; a loop that displays must not fill our memory

# exit() would stop the kernel a moment later, in the middle of another cell. It becomes the
# SystemExit that sys.exit() raises.
_PREPARE = """
def _exit():
    raise SystemExit("exit() was called")
get_ipython().ask_exit = _exit
del _exit
"""


@dataclass
class Outcome:
    """What running one cell came to.

    Attributes:
        outputs: (text/plain, metadata) of what it displayed, in order, at most `KEPT_OUTPUTS`.
        error: the exception that ended the cell, "SyntaxError: invalid syntax (line 3)".
        ended: why it was stopped: "died" (the kernel is gone), "time", "memory"; else None.
        limit: the limit that it went over, in words.
    """

    outputs: list[tuple[str, dict]] = field(default_factory=list)
    error: str | None = None
    ended: str | None = None
    limit: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether the cell did not run to its end."""
        return bool(self.error or self.ended)

    def what_went_wrong(self, who: str) -> str:
        """One line on why the cell did not finish; `who` is its subject."""
        return {
            None: f"{who} raised {self.error}",
            "died": f"{who} ended the Python kernel (os._exit, or a crash in native code)",
            "time": f"{who} did not end within {self.limit} (a loop without end?)",
            "memory": f"{who} took more than {self.limit} of memory and was stopped",
        }[self.ended]


class Kernel(RunningKernel):
    """nbval's kernel of the running Python, with a watch on it.

    Args:
        folder: its working directory.
        startup_seconds: how long it may take to start.
        interpret: run Triton's kernels in its interpreter, where their traffic can be counted, even
            if there is a GPU.
        hide_gpu: run as if there were none, as the build does.

    Raises:
        RuntimeError: it does not start.
    """

    def __init__(
        self,
        folder: Path,
        startup_seconds: float = 60,
        *,
        interpret: bool = False,
        hide_gpu: bool = False,
    ):
        # A cell that says hint("04.3") takes no hint when it is run again: progress is elsewhere.
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = {**os.environ, "ATTNCOURSE_HOME": self._home.name}
        if interpret:
            environment["TRITON_INTERPRET"] = "1"
        if hide_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.km, self.kc = start_new_kernel(
            startup_timeout=startup_seconds,
            kernel_name=CURRENT_ENV_KERNEL_NAME,
            stdout=subprocess.DEVNULL,  # os.system() in a cell would write on the terminal
            stderr=subprocess.DEVNULL,
            cwd=str(folder),
            env=environment,
            # Cells go through IPython's history (see execute_cell_input): not into the user's file.
            extra_arguments=["--HistoryManager.hist_file=:memory:"],
        )
        self._ensure_iopub_up()
        self._process = psutil.Process(self.km.provisioner.pid)
        self._memory_bytes = min(MEMORY_BYTES, psutil.virtual_memory().available * 3 // 4)
        self.run(_PREPARE, seconds=startup_seconds)

    def execute_cell_input(self, cell_input, allow_stdin=None):
        """Send a cell. With history, unlike nbval: without it IPython ignores a trailing `;`."""
        return self.kc.execute(
            cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
        )

    def await_reply(self, msg_id, timeout=None):
        """Wait for the reply as nbval does, but not for a kernel that has died."""
        end = time.monotonic() + (timeout or float("inf"))
        while True:
            try:
                return super().await_reply(msg_id, timeout=min(0.5, timeout or 0.5))
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died while it ran this cell") from None
                if time.monotonic() > end:
                    raise

    def run(self, source: str, seconds: float) -> Outcome:
        """Run one cell; afterwards the kernel is idle, or it is gone (`is_alive` says which)."""
        outcome = Outcome()
        msg_id = self.execute_cell_input(source, allow_stdin=False)
        end = time.monotonic() + seconds
        next_look = 0.0
        while True:
            try:
                message = self.get_message("iopub", timeout=LOOK_SECONDS)
            except Empty:
                message = None
            if message and message["parent_header"].get("msg_id") == msg_id:
                if message["content"].get("execution_state") == "idle":
                    return outcome
                _keep(message, outcome)
            if message and time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + LOOK_SECONDS
            if not self.is_alive():
                outcome.ended = outcome.ended or "died"
                return outcome
            if self._holds() > self._memory_bytes:
                outcome.ended, outcome.limit = "memory", format_bytes(self._memory_bytes)
                self.stop()
                return outcome
            if time.monotonic() > end:
                if outcome.ended == "time":
                    self.stop()
                    return outcome
                outcome.ended, outcome.limit = "time", f"{seconds:g} s"
                self.interrupt()
                end = time.monotonic() + INTERRUPT_SECONDS

    def stop(self):
        """End the kernel; doing it twice is no error."""
        if hasattr(self, "km"):
            started = self._started()
            super().stop()
            for process in started:
                with suppress(psutil.Error):
                    process.kill()
            self._home.cleanup()

    def _started(self) -> list[psutil.Process]:
        """What cells have started and not ended, in sessions of its own too.

        The kernel's children are known by their parent, those that have lost it by the environment
        that they were given: no other kernel has this home.
        """
        found = {}
        with suppress(psutil.Error):
            found = {process.pid: process for process in self._process.children(recursive=True)}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("ATTNCOURSE_HOME") == self._home.name:
                    found[process.pid] = process
        found.pop(self._process.pid, None)
        return list(found.values())

    def _holds(self) -> int:
        try:
            return self._process.memory_info().rss
        except psutil.Error:
            return 0


def _keep(message: dict, outcome: Outcome) -> None:
    content = message["content"]
    if message["msg_type"] == "error":
        # IPython names the file of the cell; the learner knows only its lines.
        value = re.sub(r"\((?:\S+\.py|<[^>]*>), line (\d+)\)", r"(line \1)", content["evalue"])
        # Python 3.13 has a private name for a cell that ends too early.
        name = content["ename"].replace("_IncompleteInputError", "SyntaxError")
        outcome.error = f"{name}: {value}".rstrip(": ")
    elif "data" in content and len(outcome.outputs) < KEPT_OUTPUTS:
        text = content["data"].get("text/plain", "")
        outcome.outputs.append((text, content.get("metadata", {})))
