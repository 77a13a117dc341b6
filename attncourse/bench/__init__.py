"""`attncourse bench`: every mechanism of the catalogue on this machine, as JSON in results/.

Each mechanism is measured at each length beside what its `cost` predicts and beside its peers:
other people's implementations, torch's own among them. On a GPU that is the forward pass and,
where the kernel has one, the backward pass, causal and not, at two widths; and decoding for caches.
A run that was stopped, or ran out of its time, is taken up by the same command.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import attncourse
from attncourse import measure
from attncourse.bench import peers, records
from attncourse.bench.peers import Peer
from attncourse.catalogue import MECHANISMS, Mechanism
from attncourse.cost import NUMBER_BYTES, Cost, this_cpu
from attncourse.inputs import random_qkv
from attncourse.units import format_bytes, format_seconds


@dataclass(frozen=True)
class Setting:
    """What one run measures.

    Attributes:
        device: "cpu" or "gpu".
        lengths: Sequence lengths n.
        heads: H; the batch is 1.
        widths: D.
        repeats: Timed calls of each, at most.
        causal: Causal or not, or both.
        modes: Among `records.MODES`.
        dtype: float32 on the CPU; float16 on a GPU, as models run there.
        without: Names of peers to leave out.
    """

    device: str
    lengths: tuple[int, ...]
    heads: int
    widths: tuple[int, ...]
    repeats: int
    causal: tuple[bool, ...] = (False,)
    modes: tuple[str, ...] = ("forward",)
    dtype: str = "float32"
    without: tuple[str, ...] = ()


DEFAULTS = {
    "cpu": Setting("cpu", (512, 1024, 2048, 4096, 8192, 16384), 1, (64,), 50),
    "gpu": Setting(
        "gpu",
        tuple(2**power for power in range(9, 18)),
        16,
        (64, 128),
        20,
        (False, True),
        records.MODES,
        "float16",
    ),
}
QUICK_LENGTHS, QUICK_REPEATS = (256, 512), 2
CUDA = "cuda"
MINUTES = 8.0  # for one run on a GPU
MOST_SECONDS = 0.2  # for the timed calls of one measurement: then there are fewer repeats
LEAST_CALLS = {"cpu": 5, "gpu": 1}  # but not fewer than these
LONGEST_CALL = 0.5  # seconds, on a GPU: where a call should take longer, it is skipped
KEPT_EVERY = 5.0  # seconds from one writing of a record to the next
# The default run on a GPU: every length forward at the first width, these in the other modes, and
# two for peers that compile or prepare for seconds.
FEW_LENGTHS = (512, 4096, 16384, 131072)
SLOW_PEER_LENGTHS = (4096, 16384)
CHECKED_UP_TO = 4096  # tokens: to here a peer's result on a GPU is compared with ours
DECODE_BATCH, DECODE_HEADS, DECODE_GROUPS = 8, 32, 8
# Chapter E counts 512 keys on each side of a query.
CHAPTER_E_KNOBS = {"window": {"window": 512}, "longformer": {"window": 512}}


@dataclass(frozen=True)
class Point:
    """One setting of one measurement.

    Attributes:
        n: The sequence length; in decoding, of the cache.
        width: D.
        heads: H.
        batch: B.
        groups: G, heads of k and v; H if not given.
        causal: Whether later keys are hidden.
        mode: Among `records.MODES`.
        knobs: Values other than the catalogue's, by mechanism.
    """

    n: int
    width: int
    heads: int
    batch: int = 1
    groups: int | None = None
    causal: bool = False
    mode: str = "forward"
    knobs: Mapping[str, Mapping[str, int]] = field(default_factory=dict, hash=False)

    def values(self, mechanism: Mechanism) -> dict[str, int]:
        """The mechanism's knobs here."""
        return mechanism.values | dict(self.knobs.get(mechanism.stem, {}))


@dataclass(frozen=True)
class Job:
    """One call to measure.

    Attributes:
        mechanism: Its stem.
        implementation: "NumPy", "Triton", or the name of a peer.
        point: The setting.
        knobs: The mechanism's keyword arguments.
        prepare: Makes the call, inputs and all; nothing is allocated before.
        needs_bytes: Works out the most it will hold at once, inputs aside, roughly.
        predict: Works out the mechanism's own cost, if the call is its own: where tiles are
            counted one by one, that takes seconds at the longest lengths.
        check: Makes a call whose result should be the same, if there is one.
    """

    mechanism: str
    implementation: str
    point: Point
    knobs: dict[str, int]
    prepare: Callable[[], tuple[Callable[..., Any], tuple, dict]]
    needs_bytes: Callable[[], int]
    predict: Callable[[], Cost] | None
    check: Callable[[], tuple[Callable[..., Any], tuple, dict]] | None = None

    @property
    def key(self) -> tuple:
        """What tells this measurement from all others of a run."""
        point = self.point
        return (
            self.mechanism, self.implementation, point.n, point.batch, point.heads, point.width,
            point.causal, point.mode,
        )  # fmt: skip


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse bench` to a command line."""
    parser = subparsers.add_parser("bench", help="measure every mechanism on this machine")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--cpu", dest="device", action="store_const", const="cpu")
    where.add_argument("--gpu", dest="device", action="store_const", const="gpu")
    where.add_argument("--report", action="store_true", help="draw the latest records into docs/")
    parser.add_argument("--n", type=_positive, nargs="+", metavar="N", help="sequence lengths")
    parser.add_argument("--heads", type=_positive, help="heads; the batch is 1")
    parser.add_argument("--width", type=_positive, nargs="+", help="numbers in one query or key")
    parser.add_argument("--causal", choices=("no", "yes", "both"), help="hide later keys")
    parser.add_argument("--mode", choices=records.MODES, nargs="+", help="what is measured")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="on a GPU")
    parser.add_argument("--repeats", type=_positive, help="timed calls of each, at most")
    parser.add_argument(
        "--without", nargs="+", default=(), metavar="PEER",
        help="peers to leave out, such as FlexAttention, which compiles for seconds at each length",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float,
        help=f"stop after so many; on a GPU {MINUTES:g}. The same command goes on with the rest",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on")
    parser.add_argument("--quick", action="store_true", help="small lengths, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write the JSON, and return the exit status.

    Returns:
        0 if all was measured, skipped for want of memory, or left for the next run, 1 if a call
        failed or there is no GPU, 130 after Ctrl-C. What was measured until then is written.
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
    setting = _setting(args)
    minutes = args.minutes or (MINUTES if args.device == "gpu" else math.inf)
    args.out.mkdir(parents=True, exist_ok=True)  # find out before measuring, not after
    record, path = (None, None) if args.fresh else _unfinished(setting, args.out)
    if record is None:
        record = _header(setting)
        path = _path(record, args.out)
    else:
        print(f"going on with {path.name}", file=sys.stderr)
    return _run(list(_jobs(setting)), setting, record, path, time.monotonic() + 60 * minutes)


def _setting(args: argparse.Namespace) -> Setting:
    default = DEFAULTS[args.device]
    causal = {"no": (False,), "yes": (True,), "both": (False, True), None: default.causal}
    return Setting(
        args.device,
        tuple(args.n or (QUICK_LENGTHS if args.quick else default.lengths)),
        args.heads or default.heads,
        tuple(args.width or default.widths),
        args.repeats or (QUICK_REPEATS if args.quick else default.repeats),
        causal[args.causal],
        tuple(args.mode or default.modes),
        (args.dtype or default.dtype) if args.device == "gpu" else default.dtype,
        tuple(args.without),
    )


def _run(
    jobs: list[Job], setting: Setting, record: dict[str, Any], path: Path, deadline: float
) -> int:
    """Measure what a record lacks until the deadline; write it, and return the exit status."""
    rows = records.rows(record)
    done = {tuple(row[key] for key in _KEY) for row in rows}
    seconds = {
        tuple(row[key] for key in _KEY): row["seconds"]["median"]
        for row in rows
        if "seconds" in row
    }
    status, written = 0, time.monotonic()
    left = [job for job in jobs if job.key not in done]
    try:
        for number, job in enumerate(left):
            if time.monotonic() > deadline:
                print(
                    f"out of time; {len(left) - number} of {len(jobs)} are left for the same "
                    "command",
                    file=sys.stderr,
                )
                break
            place = len(jobs) - len(left) + number + 1
            print(f"[{place}/{len(jobs)}] {_job_words(job)}", end=": ", flush=True, file=sys.stderr)
            measured = _measure(job, setting, _expected(job, seconds))
            record["measurements"].append(measured)
            if "seconds" in measured:
                seconds[job.key] = measured["seconds"]["median"]
            print(_in_words(measured), file=sys.stderr)
            status |= "failed" in measured
            if time.monotonic() - written > KEPT_EVERY:
                _write(record, path)
                written = time.monotonic()
            if "failed" in measured and setting.device == "gpu" and _is_lost():
                # After an illegal access no call on the GPU works in this process.
                print("the GPU refuses further calls: starting again", file=sys.stderr)
                _write(record, path)
                _restart(deadline - time.monotonic())
        else:
            record["complete"] = True
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
        status = 130
    print(_write(record, path))
    return int(status)


_KEY = ("mechanism", "implementation", "n", "batch", "heads", "width", "causal", "mode")


def _expected(job: Job, seconds: Mapping[tuple, float]) -> float:
    """Return how long a call may take, from shorter lengths: n² from one, their slope from two."""
    name, point = job.key[:2], job.key[3:]
    known = sorted(
        (key[2], value)
        for key, value in seconds.items()
        if key[:2] == name and key[3:] == point and key[2] < job.point.n
    )
    if not known:
        return 0.0
    (n, last), slope = known[-1], 2.0
    if len(known) > 1:
        before, earlier = known[-2]
        slope = min(2.0, max(1.0, math.log(last / earlier) / math.log(n / before)))
    return last * (job.point.n / n) ** slope


def _unfinished(setting: Setting, folder: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Return the newest record that this run would go on with: same code, machine and setting."""
    fresh = _header(setting)
    same = ("machine", "attncourse", "commit", "settings")
    for path in sorted(folder.glob(f"bench-{setting.device}-*.json"), reverse=True):
        with contextlib.suppress(json.JSONDecodeError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            plain = json.loads(json.dumps(fresh))  # as read: lists for tuples
            if not record["complete"] and all(record[key] == plain[key] for key in same):
                return record, path
    return None, None


def _restart(seconds: float) -> None:
    """Start this command again in a new process, with the time that is left."""
    minutes = f"{max(0.0, seconds) / 60:.3f}"
    arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
    os.execv(
        sys.executable,
        [sys.executable, "-m", "attncourse.cli", *arguments, "--minutes", minutes],
    )


def here(
    lengths: Iterable[int],
    *,
    stems: Iterable[str] | None = None,
    always: Iterable[str] = (),
    heads: int = 1,
    batch: int = 1,
    width: int = 64,
    dtype: str = "float32",
    causal: bool = False,
    repeats: int = 3,
    limit: float = 0.5,
    device: str | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Measure our own implementations now, and how far each is from full attention.

    The shortest length comes first. A mechanism of which one call at the next length should take
    over `limit` seconds, judging from the lengths before, is skipped there and says so. Ctrl-C ends
    it with what is measured.

    Args:
        lengths: Sequence lengths n.
        stems: Which mechanisms; all that run here if not given.
        always: Mechanisms that are measured at each length, whatever `limit` says.
        heads: H.
        batch: B.
        width: D.
        dtype: A NumPy floating type; on a GPU "float16", "bfloat16" or "float32".
        causal: Whether later keys are hidden.
        repeats: Timed calls of each.
        limit: Seconds that one call may take.
        device: "cpu" or "gpu"; the GPU if there is one, if not given.
        show_progress: Whether to write how far it is; only on a terminal, if not given.

    Returns:
        A record as `attncourse bench` writes it. Each measurement has `error` too: the root mean
        square of the difference from full attention's output, over that of the output itself. Full
        attention in float64 is the measure, masked if `causal`.
    """
    device = device or ("gpu" if _has_cuda() else "cpu")
    setting = Setting(device, tuple(lengths), heads, (width,), repeats, (causal,), dtype=dtype)
    record = _header(setting)
    chosen = [MECHANISMS[stem] for stem in (MECHANISMS if stems is None else stems)]
    points = [Point(n, width, heads, batch, causal=causal) for n in sorted(setting.lengths)]
    jobs = [
        job
        for point in points
        for mechanism in chosen
        if (job := _own_job(mechanism, point, setting))
    ]
    seconds: dict[tuple, float] = {}
    exact: dict[int, np.ndarray] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for job in measure.progress(jobs, "measuring", show=show_progress):
            n = job.point.n
            expected = 0.0 if job.mechanism in always else _expected(job, seconds)
            measured = _measure(job, setting, expected, limit)
            if "seconds" in measured:
                seconds[job.key] = measured["seconds"]["median"]
                if n not in exact:
                    exact = {n: _exact(job.point, setting)}  # one length's at a time
                measured["error"] = _error(job, exact[n])
            record["measurements"].append(measured)
        record["complete"] = True
    return record


def _exact(point: Point, setting: Setting) -> np.ndarray:
    """Return full attention's output in float64 for the inputs of a point."""
    from attncourse.reference import chunked

    q, k, v = (_as_float64(x) for x in _inputs(point, setting, torch=setting.device == "gpu"))
    return chunked.attention(q, k, v, chunk=128, causal=point.causal)


def _error(job: Job, exact: np.ndarray) -> float:
    function, args, kwargs = job.prepare()
    difference = _as_float64(function(*args, **kwargs)) - exact
    return float(np.sqrt(np.mean(difference**2) / np.mean(exact**2)))


def _as_float64(array: Any) -> np.ndarray:
    return np.asarray(array.cpu().double() if hasattr(array, "cpu") else array, np.float64)


def latest(device: str, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the newest record of a device in results/, or None.

    Args:
        device: "cpu" or "gpu".
        folder: Where to look; if not given, results/ beside the package or above this folder.
    """
    places = [Path(attncourse.__file__).parents[1], Path.cwd(), *Path.cwd().parents]
    folders = [place / "results" for place in places] if folder is None else [folder]
    found = []
    for path in sorted(
        {file for place in folders for file in place.glob(f"bench-{device}-*.json")}
    ):
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return max(found, key=lambda record: record["date"], default=None)


def report(folder: Path) -> int:
    """Draw the latest record of each device and write its tables; print them too.

    Args:
        folder: Where bench-<device>.md and bench-<device>-<setting>.png go.

    Returns:
        0, or 1 if nothing is recorded yet.
    """
    from attncourse import plots

    found = {device: latest(device) for device in DEFAULTS}
    for device, record in found.items():
        if record is None:
            print(f"no run on a {device} is recorded yet")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        text = f"# Measured: {device.upper()}\n\n{records.report(record)}\n"
        (folder / f"bench-{device}.md").write_text(text, encoding="utf-8")
        (folder / f"bench-{device}.png").write_bytes(plots.png(plots.benchmark(record)))
        for setting in records.settings_of(record):
            if setting["mode"] != "decode" and len(records.settings_of(record)) > 1:
                causal = "-causal" if setting["causal"] else ""
                name = f"bench-{device}-{setting['mode']}{causal}-{setting['width']}"
                if setting["heads"] == records.CHAPTER_E["heads"]:
                    name += "-chapter-e"
                picture = plots.benchmark(record, setting)
                (folder / f"{name}.png").write_bytes(plots.png(picture))
        print(text)
    return 0 if any(found.values()) else 1


def show_gpu(stem: str, lengths: Iterable[int] = (1024, 4096, 16384)) -> None:
    """Print how fast a mechanism's kernel is on a GPU: measured now, else the latest record.

    Args:
        stem: A mechanism of the catalogue.
        lengths: What to measure if there is a GPU.
    """
    if _has_cuda():
        setting = Setting("gpu", tuple(lengths), 16, (64,), 10, dtype="float16")
        record = _header(setting)
        jobs = (job for job in _jobs(setting) if job.mechanism in (stem, "full"))
        record["measurements"] = [_measure(job, setting) for job in jobs]
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
    print(f"{record['machine']['gpu']}, {origin}")
    chosen = records.rows(record, batch=1, heads=16, width=64, causal=False, mode="forward")
    print(f"16 heads, width 64, {record['settings']['dtype']}")
    for measured in sorted(chosen, key=lambda row: row["n"]):
        if measured["mechanism"] in (stem, "full"):
            name = f"{measured['mechanism']}, {measured['implementation']}"
            print(f"n = {measured['n']:>6}  {name:<32} {_in_words(measured)}")


def _jobs(setting: Setting) -> Iterator[Job]:
    """Yield what to measure, what is worth most first; nothing twice."""
    seen = set()
    for points, slow in _stages(setting):
        for point in points:
            for mechanism in MECHANISMS.values():
                for job in _jobs_at(point, mechanism, setting, slow=slow):
                    if job.key not in seen:
                        seen.add(job.key)
                        yield job


def _stages(setting: Setting) -> Iterator[tuple[list[Point], bool | None]]:
    """Yield points, and which peers to measure there: the slow ones, the others, or (None) all.

    The default run on a GPU: chapter E's own setting; four lengths in every mode; decoding; the
    slow peers; then every other length forward, for the crossovers.
    """
    if setting.device == "cpu":
        yield _points(setting, setting.lengths), None
        return
    default = dataclasses.replace(setting, without=()) == DEFAULTS["gpu"]
    if default:
        yield (
            [Point(n, **_CHAPTER_E, knobs=CHAPTER_E_KNOBS) for n in records.CHAPTER_E_SPEEDUPS],
            False,
        )
    yield _points(setting, FEW_LENGTHS if default else setting.lengths), False
    if "decode" in setting.modes:
        yield (
            [
                Point(
                    n, width, DECODE_HEADS, DECODE_BATCH, DECODE_GROUPS, causal=True, mode="decode"
                )
                for width in setting.widths
                for n in setting.lengths
                if n >= 8192 or n == max(setting.lengths)
            ],
            None,
        )
    if not default:
        yield _points(setting, setting.lengths), True
        return
    forward = dataclasses.replace(setting, widths=setting.widths[:1], modes=("forward",))
    plain = dataclasses.replace(forward, causal=setting.causal[:1])
    yield _points(plain, SLOW_PEER_LENGTHS), True
    yield _points(forward, setting.lengths), False


_CHAPTER_E = records.CHAPTER_E


def _points(setting: Setting, lengths: Iterable[int]) -> list[Point]:
    return [
        Point(n, width, setting.heads, causal=causal, mode=mode)
        for mode in setting.modes
        if mode != "decode"
        for width in setting.widths
        for causal in setting.causal
        for n in lengths
    ]


def _jobs_at(
    point: Point, mechanism: Mechanism, setting: Setting, *, slow: bool | None
) -> Iterator[Job]:
    """Yield our own implementation, if there is one, and its peers."""
    if point.mode == "decode":
        own = _decode_job(mechanism, point, setting)
    else:
        own = _own_job(mechanism, point, setting)
    if own is None:
        return
    if not slow:
        yield own
    if point.mode == "decode":
        theirs = [peer for peer in peers.DECODING if peer.fits(mechanism)]
    else:
        theirs = peers.of(mechanism, setting.device)
    if point.mode == "backward":
        theirs = [peer for peer in theirs if peer.backward]
    for peer in theirs:
        if peer.name not in setting.without and (slow is None or peer.slow == slow):
            yield _peer_job(mechanism, peer, point, setting, own)


def _own_job(mechanism: Mechanism, point: Point, setting: Setting) -> Job | None:
    on_gpu = setting.device == "gpu"
    if on_gpu and "kernel" not in mechanism.has:
        return None
    if (point.causal and not mechanism.causal) or (
        point.mode == "backward" and not (on_gpu and "backward" in mechanism.has)
    ):
        return None
    module = mechanism.kernel if on_gpu else mechanism.reference
    values, n = point.values(mechanism), point.n
    sizes = (point.batch, point.heads, n, n, point.width)
    knobs = values | {"causal": point.causal, "dtype_bytes": NUMBER_BYTES[setting.dtype]}
    cost = functools.cache(functools.partial(module.cost, *sizes, **knobs))

    def prepare():
        inputs = _inputs(point, setting, torch=on_gpu)
        sizes = n, n, point.width, point.width
        if on_gpu:
            keywords = mechanism.tensors(*sizes, inputs[0], **values)
        else:
            keywords = mechanism.keywords(*sizes, inputs[0].dtype, **values)
        keywords["causal"] = point.causal
        return _in_mode(module.attention, inputs, keywords, point.mode)

    backward = point.mode == "backward"

    def needs():
        return (5 if backward else 1) * cost().peak_bytes

    predict = None if backward else cost
    implementation = "Triton" if on_gpu else "NumPy"
    return Job(mechanism.stem, implementation, point, values, prepare, needs, predict)


def _decode_job(mechanism: Mechanism, point: Point, setting: Setting) -> Job | None:
    """One new token against a filled cache: what `step` does, without the writing of the token."""
    if setting.device != "gpu" or not {"kernel", "step"} <= mechanism.has:
        return None
    if mechanism.family != "inference":
        return None
    values = mechanism.values

    def prepare():
        q, k, v = _inputs(point, setting, torch=True)
        module = mechanism.kernel
        named = inspect.signature(module.start).parameters
        cache = module.start(k, v, **{name: x for name, x in values.items() if name in named})
        cache.append(k, v)
        return functools.partial(_attend, cache), (q,), {}

    cache_bytes = (
        2 * point.batch * point.groups * point.n * point.width * NUMBER_BYTES[setting.dtype]
    )
    return Job(mechanism.stem, "Triton", point, values, prepare, lambda: 2 * cache_bytes, None)


def _attend(cache: Any, q: Any) -> Any:
    return cache.attend(q, causal=True)


def _peer_job(mechanism: Mechanism, peer: Peer, point: Point, setting: Setting, own: Job) -> Job:
    values = point.values(mechanism)

    def prepare():
        if peer.absent:
            raise ModuleNotFoundError(f"{peer.package} is not installed")
        arrays = _inputs(point, setting, torch=True)
        function, keywords = peer.prepare(mechanism, values, *arrays, point.causal)
        return _in_mode(function, arrays, keywords, point.mode)

    exact = not peer.estimate and point.mode == "forward" and setting.device == "gpu"

    check = own.prepare if exact and point.n <= CHECKED_UP_TO else None
    return Job(
        mechanism.stem,
        peer.name,
        point,
        values,
        prepare,
        lambda: peer.n_squared_bytes * point.n**2,
        None,
        check,
    )


def _in_mode(function: Callable[..., Any], inputs: tuple, keywords: dict, mode: str) -> tuple:
    """Return the call to measure: the function itself, or its backward pass alone."""
    if mode != "backward":
        return function, inputs, keywords
    import torch

    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    out = function(*inputs, **keywords)
    gradient = torch.randn_like(out)

    def backward(*inputs):
        return torch.autograd.grad(out, inputs, gradient, retain_graph=True)

    return backward, inputs, {}


def _inputs(point: Point, setting: Setting, torch: bool) -> tuple:
    groups = point.groups or point.heads
    n_queries = 1 if point.mode == "decode" else point.n
    if setting.device == "cpu":
        arrays = random_qkv(
            point.n, heads=point.heads, batch=point.batch, width=point.width, dtype=setting.dtype
        )
        if not torch:
            return arrays
        import torch as library

        return tuple(library.from_numpy(array) for array in arrays)
    import torch as library

    generator = library.Generator(CUDA).manual_seed(0)
    sizes = ((point.heads, n_queries), (groups, point.n), (groups, point.n))
    return tuple(
        library.randn(
            point.batch, *size, point.width, generator=generator, device=CUDA,
            dtype=getattr(library, setting.dtype),
        )
        for size in sizes
    )  # fmt: skip


def _measure(
    job: Job, setting: Setting, expected: float = 0.0, limit: float | None = None
) -> dict[str, Any]:
    """Measure one call; what cannot be measured says why.

    Args:
        job: What to measure.
        setting: The run's.
        expected: Seconds that the call may take, judging from shorter lengths.
        limit: Seconds that it may take; if not given, `LONGEST_CALL` on a GPU.
    """
    point, on_gpu = job.point, setting.device == "gpu"
    measured: dict[str, Any] = {
        "mechanism": job.mechanism,
        "implementation": job.implementation,
        "n": point.n,
        "batch": point.batch,
        "heads": point.heads,
        "width": point.width,
        "causal": point.causal,
        "mode": point.mode,
        "knobs": job.knobs,
    }
    if point.groups:
        measured["groups"] = point.groups
    longest = MECHANISMS[job.mechanism].longest
    if job.implementation == "NumPy" and longest is not None and point.n > longest:
        measured["skipped"] = f"takes minutes beyond n = {longest}"
        return measured
    limit = (LONGEST_CALL if on_gpu else math.inf) if limit is None else limit
    if expected > limit:
        about = format_seconds(float(f"{expected:.1g}"))
        measured["skipped"] = f"a call would take {about} or so"
        return measured
    if job.predict is not None:
        measured["predicted"] = asdict(job.predict())
    needs, free = job.needs_bytes(), measure.free_bytes(on_gpu)
    if needs > 0.8 * free:
        measured["skipped"] = f"needs {format_bytes(needs)}, {format_bytes(free)} are free"
        return measured
    try:
        function, args, kwargs = job.prepare()
        peak = measure.peak_bytes(function, *args, **kwargs)
        if job.check is not None and (differs := _difference(job, function, args, kwargs)):
            measured["differs"] = differs
        call = functools.partial(function, **kwargs)
        limits = {"at_least": LEAST_CALLS[setting.device], "at_most": MOST_SECONDS}
        timing = measure.seconds(call, *args, repeats=setting.repeats, flush=on_gpu, **limits)
    except (ModuleNotFoundError, NotImplementedError) as error:
        measured["absent"] = _first_line(error)
        return measured
    except Exception as error:  # one broken mechanism must not cost the others their figures
        if type(error).__name__ == "OutOfMemoryError":
            measured["skipped"] = "out of memory"
            sys.modules["torch"].cuda.empty_cache()
        else:
            measured["failed"] = f"{type(error).__name__}: {_first_line(error)}"
        return measured
    return measured | {"seconds": asdict(timing), "peak_bytes": peak}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _difference(job: Job, function: Callable[..., Any], args: tuple, kwargs: dict) -> str:
    """Say so if a peer's result is not ours, within what half precision leaves open."""
    ours, ours_args, ours_kwargs = job.check()
    mine = ours(*ours_args, **ours_kwargs).detach().float()
    error = (function(*args, **kwargs).detach().float() - mine).abs().max()
    share = (error / mine.abs().max()).item()
    return "" if share < 0.02 else f"by {share:.1%} of the largest value from our kernel's result"


def _is_lost() -> bool:
    """Whether an error has made the GPU useless to this process."""
    import torch

    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def _header(setting: Setting) -> dict[str, Any]:
    settings = asdict(setting)
    if importlib.util.find_spec("torch") is not None:
        import torch

        settings["torch_threads"] = torch.get_num_threads()
    limits = {"limits": asdict(this_cpu())} if setting.device == "cpu" else {}
    return {
        "machine": dict(measure.machine()),
        "attncourse": attncourse.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        # More than a fraction here means that others worked on the machine at the same time.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "settings": settings,
        **limits,
        "complete": False,
        "measurements": [],
    }


def _in_words(measured: dict[str, Any]) -> str:
    for reason in ("absent", "skipped", "failed"):
        if reason in measured:
            return f"{reason}: {measured[reason]}"
    return f"{measure.Timing(**measured['seconds'])}, peak {format_bytes(measured['peak_bytes'])}"


def _job_words(job: Job) -> str:
    point = job.point
    words = f"n = {point.n}, {job.mechanism}, {job.implementation}"
    if point.mode == "forward" and not point.causal:
        return words
    return f"{words}, {point.mode}" + (", causal" if point.causal else "")


def _path(record: dict[str, Any], folder: Path) -> Path:
    stamp = record["date"].replace(":", "").partition("+")[0]
    return folder / f"bench-{record['settings']['device']}-{stamp}.json"


def _write(record: dict[str, Any], path: Path) -> Path:
    """Write a record in one step, so that there is never half a file."""
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
