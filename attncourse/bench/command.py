"""`attncourse bench`: every mechanism of the catalogue on this machine, as JSON in results/.

A run that was stopped, or ran out of its time, is taken up by the same command.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from attncourse.bench import jobs, measuring, records, reports, runner, store
from attncourse.bench.settings import DEFAULTS, QUICK_LENGTHS, QUICK_REPEATS, Setting

MINUTES = 6.0  # for one run on a GPU


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
        return reports.report(Path("docs"))
    if args.device == "gpu" and not measuring.has_cuda():
        print(
            "bench: torch finds no CUDA device here. `attncourse bench --cpu` measures the NumPy "
            "references instead.",
            file=sys.stderr,
        )
        return 1
    setting = _setting(args)
    minutes = args.minutes or (MINUTES if args.device == "gpu" else math.inf)
    args.out.mkdir(parents=True, exist_ok=True)  # find out before measuring, not after
    record, path = (None, None) if args.fresh else store.unfinished(setting, args.out)
    if record is None:
        record = store.header(setting)
        path = store.path_of(record, args.out)
    else:
        print(f"going on with {path.name}", file=sys.stderr)
    deadline = time.monotonic() + 60 * minutes
    return runner.run(list(jobs.sweep(setting)), setting, record, path, deadline)


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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number
