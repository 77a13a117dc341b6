"""`attncourse gpu-run`: tests, bench, tiles and chapters, one by one, each within its limit."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attncourse
from attncourse import house
from attncourse.gpu_run import chapter, summary, wheels
from attncourse.gpu_run.lines import add

ROOT = Path(attncourse.__file__).parents[1]
MINUTES = 9.0
# Seconds of nine minutes; without Jupyter's parts the chapters' go to the bench and the tiles. What
# a part leaves over, the next ones have. The tests estimate that bench and chapters fit.
LIMITS = {"tests": 120.0, "bench": 220.0, "tiles": 60.0, "chapters": 140.0}
LIMITS_WITHOUT_CHAPTERS = {"tests": 120.0, "bench": 300.0, "tiles": 120.0}
COMPILING = 60.0  # of the bench's seconds, at most: several processes compile its kernels before
BESIDE = 0.25  # the share of the chapters' time that is kept for those that time nothing
GRACE = 5.0  # seconds, within the limit, to end in good order
HEARD = 0.5  # seconds to begin to end on a Ctrl-C that came to all: a second one would disturb
LOST = 75  # the status of a worker to which the GPU no longer answers: the next begins anew


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse gpu-run` to a command line."""
    parser = subparsers.add_parser("gpu-run", help="tests, bench, tiles and chapters on a GPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"in all; {MINUTES:g}")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, help="these only, in this order")
    parser.add_argument("--workers", type=int, default=8, help="processes that test at once")
    parser.add_argument("--out", type=Path, help="folder of the results; gpu-run/ if not given")
    parser.add_argument("--notebooks", type=Path, help="folder of the chapters")
    parser.add_argument(
        "--rehearse", action="store_true",
        help="on the CPU, in Triton's interpreter, at tiny sizes: do all parts do their work here?",
    )  # fmt: skip
    parser.add_argument("--summary", action="store_true", help="only say what --out holds")
    parser.add_argument(
        "--wheels", type=Path, default=Path("gpu-wheels"), metavar="FOLDER",
        help="from which the run takes what the chapters need and this machine lacks; %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--pack", type=Path, metavar="FOLDER",
        help="only download these wheels, for --python on Linux; copy the folder to the machine",
    )  # fmt: skip
    parser.add_argument(
        "--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="X.Y",
        help="that machine's version; %(default)s",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the parts, and return the exit status.

    Returns:
        0 if each part ended well or ran out of its time, 1 if one failed or there is no GPU.

    Raises:
        KeyboardInterrupt: Ctrl-C, or a signal that asks the command to end; its processes ended.
    """
    with _ended_as_by_ctrl_c():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    out = (args.out or Path("gpu-run")).resolve()
    if args.summary:
        print(summary.of(out))
        return 0
    if args.pack:
        if not re.fullmatch(r"\d+\.\d+(\.\d+)?", args.python):
            print(f"gpu-run: --python must be like 3.12, got {args.python!r}", file=sys.stderr)
            return 2
        if not _made(args.pack):
            return 1
        try:
            print(wheels.pack(args.pack, args.python))
        except subprocess.CalledProcessError as error:
            print(f"gpu-run: {error.stderr.strip()}", file=sys.stderr)
            return 1
        return 0
    if not args.rehearse and not _has_cuda():
        print(
            "gpu-run: torch finds no CUDA device here. `attncourse gpu-run --rehearse` tries "
            "everything in Triton's interpreter instead.",
            file=sys.stderr,
        )
        return 1
    if not _made(out):
        return 1
    end = time.monotonic() + 60 * args.minutes
    missing, said = _missing(), ""
    if missing and "chapters" in (args.parts or LIMITS):
        said = wheels.install(args.wheels, out / "packages")
        print(f"wheels: {said}", file=sys.stderr)
        missing = _missing()
    limits = LIMITS_WITHOUT_CHAPTERS if missing else LIMITS
    chosen = [part for part in args.parts or limits if part in limits]
    for part in set(args.parts or LIMITS) - set(chosen):
        why = f"left out: it needs {', '.join(missing)}; {said}"
        add(out / "run.jsonl", part=part, ended=why)
    deadline, status = time.monotonic(), 0
    share = (end - deadline) / max(1.0, sum(limits[part] for part in chosen))
    for part in chosen:
        deadline += share * limits[part]
        began = time.monotonic()
        add(out / "run.jsonl", part=part, limit=round(deadline - began, 1))
        print(f"{part}: at most {deadline - began:.0f} s", file=sys.stderr)
        try:
            ended = PARTS[part](args, out, deadline)
        except Exception as error:  # one broken part must not cost the others their time
            ended = f"failed: {type(error).__name__}: {error}"
        status |= ended.startswith("failed")
        took = round(time.monotonic() - began, 1)
        add(out / "run.jsonl", part=part, ended=ended, seconds=took)
    text = summary.of(out)
    (out / "summary.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(status)


def _made(folder: Path) -> bool:
    """Make a folder if need be, or say why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"gpu-run: {folder} cannot be made a folder: {error.strerror}", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Let a kill or a closed terminal end the command as Ctrl-C does; nohup stays in force."""
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in filter(None, numbers):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _missing() -> list[str]:
    return [name for name in wheels.JUPYTER if importlib.util.find_spec(name) is None]


def test_files() -> list[Path]:
    """Return the files with tests of kernels, or with any that need a GPU."""
    return [
        path
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if path.name.startswith("test_kernels") or "mark.gpu" in path.read_text(encoding="utf-8")
    ]


def _tests(args: argparse.Namespace, out: Path, deadline: float) -> str:
    if args.rehearse:
        from attncourse.gpu_run import rehearsal

        paths = [ROOT / path for path in rehearsal.TESTS]
    else:
        paths = test_files()
    with tempfile.TemporaryDirectory() as claims:
        command = [
            sys.executable, "-m", "pytest", "-p", "attncourse.gpu_run.sharing",
            "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not nightly", "-q",
            "--continue-on-collection-errors",
            f"--rootdir={ROOT}", f"--results={out / 'tests.jsonl'}", f"--claims={claims}",
            *map(str, paths),
        ]  # fmt: skip
        # A worker whose process lost the GPU is followed by another, which goes on.
        return _within(
            deadline, out / "run.log", [command] * args.workers, args.workers, again=LOST
        )


def _bench(args: argparse.Namespace, out: Path, deadline: float) -> str:
    module, compiling, sizes = "attncourse.cli", ["attncourse.gpu_run.compiling"], []
    if args.rehearse:
        from attncourse.gpu_run import rehearsal

        module, sizes = "attncourse.gpu_run.rehearsal", rehearsal.BENCH
        compiling = [module, "compiling"]
    # One process would compile for minutes while the GPU waits.
    limit = COMPILING * (deadline - time.monotonic()) / LIMITS["bench"]
    commands = [
        [sys.executable, "-m", *compiling, str(worker), str(args.workers)]
        for worker in range(args.workers)
    ]
    compiled = _within(time.monotonic() + limit, out / "run.log", commands, args.workers)
    add(out / "run.jsonl", part="bench", compiling=compiled)
    minutes = max(0.0, deadline - GRACE - time.monotonic()) / 60
    command = [
        sys.executable, "-m", module, "bench", "--gpu", "--minutes", f"{minutes:.3f}",
        "--out", str(out), *sizes,
    ]  # fmt: skip
    return _within(deadline, out / "run.log", [command])


def _tiles(args: argparse.Namespace, out: Path, deadline: float) -> str:
    module = "attncourse.gpu_run.rehearsal" if args.rehearse else "attncourse.gpu_run.tuning"
    command = [sys.executable, "-m", module, *["tiles"] * args.rehearse, str(out)]
    return _within(deadline, out / "run.log", [command])


def _chapters(args: argparse.Namespace, out: Path, deadline: float) -> str:
    """Execute those that time a GPU one by one, then the rest, several at once."""
    folder = args.notebooks or house.material() / "notebooks"
    paths = sorted(folder.resolve().glob("*.ipynb"))
    if args.rehearse and not args.notebooks:
        from attncourse.gpu_run import rehearsal

        paths = [path for path in paths if path.stem in rehearsal.CHAPTERS]
    alone = [path for path in paths if chapter.times_a_gpu(path)]
    beside = [path for path in paths if path not in alone]
    add(out / "run.jsonl", part="chapters", chapters=[path.stem for path in (*alone, *beside)])
    kept = BESIDE * (deadline - time.monotonic()) if beside else 0.0
    ended = "done"
    for some, at_once, until in ((alone, 1, deadline - kept), (beside, args.workers, deadline)):
        commands = [
            [sys.executable, "-m", "attncourse.gpu_run.chapter", str(path), str(out)]
            for path in some
        ]
        said = _within(until, out / "run.log", commands, at_once)
        ended = said if said != "done" else ended
    return ended


PARTS: dict[str, Callable[[argparse.Namespace, Path, float], str]] = {
    "tests": _tests,
    "bench": _bench,
    "tiles": _tiles,
    "chapters": _chapters,
}


def _hear_interrupts() -> None:
    """In a command before it begins: what a script starts with `&` would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(processes: Iterable[subprocess.Popen], seconds: float) -> None:
    until = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))


@contextlib.contextmanager
def _ending(running: Iterable[subprocess.Popen]) -> Iterator[None]:
    """On Ctrl-C interrupt what runs, and kill what does not end within `GRACE` seconds."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            _wait(running, HEARD)
            for process in running:
                process.send_signal(signal.SIGINT)
            _wait(running, GRACE)
        finally:  # a second Ctrl-C, too
            for process in running:
                process.kill()
                process.wait()
        raise


def _within(
    deadline: float,
    log: Path,
    commands: Iterable[Sequence[str]],
    at_once: int = 1,
    again: int | None = None,
) -> str:
    """Run commands, so many at once, until the deadline; say how they ended.

    Args:
        deadline: By `time.monotonic`. `GRACE` seconds before it what still runs is interrupted, as
            by Ctrl-C; at the deadline it is killed.
        log: Where all that they print goes.
        commands: What to run.
        at_once: How many at the same time.
        again: A status with which a command asks to be started again.
    """
    waiting, running = list(commands), dict[subprocess.Popen, Sequence[str]]()
    interrupted, failed = False, 0
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the same tests whatever is installed beside pytest
    }
    with log.open("ab") as into, _ending(running):
        while waiting or running:
            while waiting and len(running) < at_once and not interrupted:
                command = waiting.pop(0)
                started = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=into, stderr=into,
                    cwd=ROOT, env=environment, preexec_fn=_hear_interrupts,
                )  # fmt: skip
                running[started] = command
            time.sleep(0.05)
            now = time.monotonic()
            if now > deadline - GRACE and not interrupted:
                interrupted, waiting = True, []
                for process in running:
                    process.send_signal(signal.SIGINT)
            if now > deadline:
                for process in running:
                    process.kill()
                    process.wait()
                return "out of time, killed" if running else "out of time"
            for process in [process for process in running if process.poll() is not None]:
                command = running.pop(process)
                if process.returncode == again and not interrupted:
                    waiting.append(command)
                elif process.returncode not in (0, 5) and not interrupted:  # 5: no tests were left
                    failed += 1
    if interrupted:
        return "out of time"
    return f"failed: {failed} processes, see {log.name}" if failed else "done"


def _has_cuda() -> bool:
    from attncourse.bench import measuring

    return measuring.has_cuda()
