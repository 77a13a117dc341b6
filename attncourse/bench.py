"""`attncourse bench`: every mechanism of the catalogue on this machine, as JSON in results/.

Each mechanism is measured at each length beside what its `cost` predicts and beside its peers:
other people's implementations, torch's own among them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import attncourse
from attncourse import measure, peers
from attncourse.catalogue import MECHANISMS, Mechanism
from attncourse.cost import Cost, format_bytes
from attncourse.inputs import random_qkv
from attncourse.peers import Peer


@dataclass(frozen=True)
class Setting:
    """What one sweep measures.

    Attributes:
        device: "cpu" or "gpu".
        lengths: Sequence lengths n.
        heads: H; the batch is 1.
        width: D.
        repeats: Timed calls of each.
        without: Names of peers to leave out.
    """

    device: str
    lengths: tuple[int, ...]
    heads: int
    width: int
    repeats: int
    without: tuple[str, ...] = ()

    @property
    def dtype(self) -> type:
        """float32 on the CPU; float16 on a GPU, as models run there."""
        return np.float16 if self.device == "gpu" else np.float32


DEFAULTS = {
    "cpu": Setting("cpu", (512, 1024, 2048, 4096, 8192, 16384), heads=1, width=64, repeats=5),
    "gpu": Setting("gpu", (1024, 2048, 4096, 8192, 16384), heads=16, width=64, repeats=20),
}
QUICK_LENGTHS, QUICK_REPEATS = (256, 512), 2


@dataclass(frozen=True)
class Job:
    """One call to measure.

    Attributes:
        mechanism: Its stem.
        implementation: "NumPy", "Triton", or the name of a peer.
        n: The sequence length.
        knobs: The mechanism's keyword arguments.
        prepare: Makes the call, inputs and all; nothing is allocated before.
        needs_bytes: The most it will hold at once, inputs aside, roughly.
        predicted: The mechanism's own cost, if the call is its own.
    """

    mechanism: str
    implementation: str
    n: int
    knobs: dict[str, int]
    prepare: Callable[[], tuple[Callable[..., Any], tuple, dict]]
    needs_bytes: int
    predicted: Cost | None


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse bench` to a command line."""
    parser = subparsers.add_parser("bench", help="measure every mechanism on this machine")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--cpu", dest="device", action="store_const", const="cpu")
    where.add_argument("--gpu", dest="device", action="store_const", const="gpu")
    where.add_argument("--report", action="store_true", help="draw the latest records into docs/")
    parser.add_argument("--n", type=_positive, nargs="+", metavar="N", help="sequence lengths")
    parser.add_argument("--heads", type=_positive, help="heads; the batch is 1")
    parser.add_argument("--width", type=_positive, help="numbers in one query or key")
    parser.add_argument("--repeats", type=_positive, help="timed calls of each")
    parser.add_argument(
        "--without", nargs="+", default=(), metavar="PEER",
        help="peers to leave out, such as FlexAttention, which compiles for seconds at each length",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small lengths, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write the JSON, and return the exit status.

    Returns:
        0 if all was measured or skipped for want of memory, 1 if a call failed or there is no
        GPU, 130 after Ctrl-C. What was measured until then is written.
    """
    if args.report:
        return report(Path("docs"))
    if args.device == "gpu" and not _has_cuda():
        print(
            "bench: torch finds no CUDA device here. `attncourse bench --cpu` measures the NumPy "
            "references instead.",
            file=sys.stderr,
        )
        return 1
    default = DEFAULTS[args.device]
    setting = Setting(
        args.device,
        tuple(args.n or (QUICK_LENGTHS if args.quick else default.lengths)),
        args.heads or default.heads,
        args.width or default.width,
        args.repeats or (QUICK_REPEATS if args.quick else default.repeats),
        tuple(args.without),
    )
    args.out.mkdir(parents=True, exist_ok=True)  # find out before measuring, not after
    record = _header(setting)
    status = 0
    jobs = list(_jobs(setting))
    try:
        for number, job in enumerate(jobs, 1):
            words = f"[{number}/{len(jobs)}] n = {job.n}, {job.mechanism}, {job.implementation}"
            print(words, end=": ", flush=True, file=sys.stderr)
            measured = _measure(job, setting)
            record["measurements"].append(measured)
            print(_in_words(measured), file=sys.stderr)
            status |= "failed" in measured
        record["complete"] = True
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
        status = 130
    print(_write(record, args.out))
    return int(status)


def latest(device: str, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the newest record of a device in results/, or None.

    Args:
        device: "cpu" or "gpu".
        folder: Where to look; if not given, results/ beside the package or above this folder.
    """
    places = [Path(attncourse.__file__).parents[1], Path.cwd(), *Path.cwd().parents]
    folders = [place / "results" for place in places] if folder is None else [folder]
    records = []
    for path in sorted(
        {file for place in folders for file in place.glob(f"bench-{device}-*.json")}
    ):
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return max(records, key=lambda record: record["date"], default=None)


def report(folder: Path) -> int:
    """Draw the latest record of each device as bench-<device>.png, and print it as a table.

    Args:
        folder: Where the pictures go.

    Returns:
        0, or 1 if nothing is recorded yet.
    """
    from attncourse import plots

    records = {device: latest(device) for device in DEFAULTS}
    for device, record in records.items():
        if record is None:
            print(f"no run on a {device} is recorded yet")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"bench-{device}.png"
        path.write_bytes(plots.png(plots.benchmark(record)))
        print(f"{path}: {record['date'][:10]}, commit {record['commit'][:12]}\n")
        print(table(record))
    return 0 if any(records.values()) else 1


def table(record: dict[str, Any]) -> str:
    """Return a record's times as a Markdown table: a row for each implementation, n across."""
    lengths = record["settings"]["lengths"]
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for measured in record["measurements"]:
        row = cells.setdefault((measured["mechanism"], measured["implementation"]), {})
        if "seconds" in measured:
            row[measured["n"]] = measure.format_seconds(measured["seconds"]["median"])
    lines = ["| mechanism | implementation | " + " | ".join(f"n = {n}" for n in lengths) + " |"]
    lines.append("| --- " * (2 + len(lengths)) + "|")
    for (mechanism, implementation), row in cells.items():
        times = " | ".join(row.get(n, "–") for n in lengths)
        lines.append(f"| {mechanism} | {implementation} | {times} |")
    return "\n".join(lines)


def show_gpu(stem: str, lengths: Iterable[int] = (1024, 4096, 16384)) -> None:
    """Print how fast a mechanism's kernel is on a GPU: measured now, else the latest record.

    Args:
        stem: A mechanism of the catalogue.
        lengths: What to measure if there is a GPU.
    """
    if _has_cuda():
        setting = Setting("gpu", tuple(lengths), heads=16, width=64, repeats=10)
        record = _header(setting)
        record["measurements"] = [_measure(job, setting) for job in _jobs(setting)]
        origin = "measured now"
    else:
        record = latest("gpu")
        if record is None:
            print(
                "There is no GPU here, and no run on one is recorded yet.\n"
                "`attncourse bench --gpu`, where there is one, records it in results/."
            )
            return
        origin = f"recorded on {record['date'][:10]}, commit {record['commit'][:12]}"
    settings = record["settings"]
    print(f"{record['machine']['gpu']}, {origin}")
    print(f"{settings['heads']} heads, width {settings['width']}, {settings['dtype']}")
    for measured in record["measurements"]:
        if measured["mechanism"] in (stem, "full"):
            name = f"{measured['mechanism']}, {measured['implementation']}"
            print(f"n = {measured['n']:>6}  {name:<32} {_in_words(measured)}")


def _jobs(setting: Setting) -> Iterator[Job]:
    for n in setting.lengths:
        for mechanism in MECHANISMS.values():
            own = _own_job(mechanism, n, setting)
            if own is None:
                continue
            yield own
            for peer in peers.of(mechanism):
                if peer.name not in setting.without:
                    yield _peer_job(mechanism, peer, n, setting)


def _own_job(mechanism: Mechanism, n: int, setting: Setting) -> Job | None:
    if setting.device == "gpu" and "kernel" not in mechanism.has:
        return None
    module = mechanism.kernel if setting.device == "gpu" else mechanism.reference
    shape, values = (1, setting.heads, n, n, setting.width), mechanism.values
    cost = module.cost(*shape, **values, dtype_bytes=np.dtype(setting.dtype).itemsize)

    def prepare():
        inputs = _inputs(n, setting, torch=setting.device == "gpu")
        sizes = n, n, setting.width, setting.width
        if setting.device == "gpu":
            return module.attention, inputs, mechanism.tensors(*sizes, inputs[0], **values)
        return module.attention, inputs, mechanism.keywords(*sizes, inputs[0].dtype, **values)

    implementation = "Triton" if setting.device == "gpu" else "NumPy"
    return Job(mechanism.stem, implementation, n, values, prepare, cost.peak_bytes, cost)


def _peer_job(mechanism: Mechanism, peer: Peer, n: int, setting: Setting) -> Job:
    def prepare():
        if peer.absent:
            raise ModuleNotFoundError(f"{peer.package} is not installed")
        arrays = _inputs(n, setting, torch=True)
        function, keywords = peer.prepare(mechanism, *arrays)
        return function, arrays, keywords

    needs = peer.n_squared_bytes * n * n
    return Job(mechanism.stem, peer.name, n, mechanism.values, prepare, needs, None)


def _inputs(n: int, setting: Setting, torch: bool) -> tuple:
    arrays = random_qkv(n, heads=setting.heads, width=setting.width, dtype=setting.dtype)
    if not torch:
        return arrays
    import torch as library

    device = "cuda" if setting.device == "gpu" else "cpu"
    return tuple(library.from_numpy(array).to(device) for array in arrays)


def _measure(job: Job, setting: Setting) -> dict[str, Any]:
    """Measure one call; what cannot be measured says why."""
    measured: dict[str, Any] = {
        "mechanism": job.mechanism,
        "implementation": job.implementation,
        "n": job.n,
        "knobs": job.knobs,
    }
    if job.predicted is not None:
        measured["predicted"] = asdict(job.predicted)
    longest = MECHANISMS[job.mechanism].longest
    if job.implementation == "NumPy" and longest is not None and job.n > longest:
        measured["skipped"] = f"takes minutes beyond n = {longest}"
        return measured
    free = _free_bytes(setting.device)
    if job.needs_bytes > 0.8 * free:
        measured["skipped"] = (
            f"needs {format_bytes(job.needs_bytes)}, {format_bytes(free)} are free"
        )
        return measured
    try:
        function, args, kwargs = job.prepare()
        peak = measure.peak_bytes(function, *args, **kwargs)
        call = functools.partial(function, **kwargs)
        timing = measure.seconds(call, *args, repeats=setting.repeats)
    except (ModuleNotFoundError, NotImplementedError) as error:
        measured["absent"] = str(error)
        return measured
    except Exception as error:  # one broken mechanism must not cost the others their figures
        measured["failed"] = f"{type(error).__name__}: {error}"
        return measured
    return measured | {"seconds": asdict(timing), "peak_bytes": peak}


def _header(setting: Setting) -> dict[str, Any]:
    settings = asdict(setting) | {"dtype": np.dtype(setting.dtype).name}
    if importlib.util.find_spec("torch") is not None:
        import torch

        settings["torch_threads"] = torch.get_num_threads()
    return {
        "machine": measure.machine(),
        "attncourse": attncourse.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        # More than a fraction here means that others worked on the machine at the same time.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "settings": settings,
        "complete": False,
        "measurements": [],
    }


def _in_words(measured: dict[str, Any]) -> str:
    for reason in ("absent", "skipped", "failed"):
        if reason in measured:
            return f"{reason}: {measured[reason]}"
    return f"{measure.Timing(**measured['seconds'])}, peak {format_bytes(measured['peak_bytes'])}"


def _write(record: dict[str, Any], folder: Path) -> Path:
    """Write a record in one step, so that there is never half a file."""
    stamp = record["date"].replace(":", "").partition("+")[0]
    path = folder / f"bench-{record['settings']['device']}-{stamp}.json"
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return draft.replace(path)


def _commit() -> str:
    """Return the commit of the package's own checkout, "+" if it has been changed, or "unknown"."""
    package = Path(attncourse.__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it lies in another checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _free_bytes(device: str) -> int:
    if device == "gpu":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    return psutil.virtual_memory().available


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number
