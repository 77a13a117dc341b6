"""Trains every mechanism on every task: `python -m attncourse.tasks`.

`results/tasks.json` is written after every run, and a command that was ended goes on with it:
runs[task][mechanism][seed] has accuracy, loss (of the last ten steps), steps and seconds of the
processor.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np

from attncourse import needed, resuming
from attncourse.measure import progress
from attncourse.tasks.questions import TASKS
from attncourse.tasks.training import LEARNED, MECHANISMS, ROWS, TESTED, train

RECORD = "tasks.json"
SEEDS = (1, 2, 3)


def main(arguments: list[str] | None = None) -> None:
    """Train what the record does not hold yet."""
    if not needed.has("torch"):
        raise needed.missing("torch", "attncourse.tasks", __name__)
    import torch

    parser = argparse.ArgumentParser(
        prog="python -m attncourse.tasks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=needed.workplace() / "results" / RECORD)
    options = parser.parse_args(arguments)
    needed.writable(options.out)
    torch.set_num_threads(options.threads)
    record = start(options.out)
    left = [
        (task, mechanism, seed)
        for seed in SEEDS
        for task in TASKS
        for mechanism in MECHANISMS
        if str(seed) not in record["runs"].setdefault(task, {}).setdefault(mechanism, {})
    ]
    for task, mechanism, seed in progress(left, "training"):
        result = train(task, mechanism, seed)
        record["runs"][task][mechanism][str(seed)] = {
            "accuracy": round(result.accuracy, 4),
            "loss": round(float(result.losses[-10:].mean()), 4),
            "steps": len(result.losses),
            "seconds": round(result.seconds, 1),
        }
        resuming.write(options.out, record)
    print(needed.written(options.out))


def settings() -> dict[str, Any]:
    """Return what the runs depend on."""
    return {
        "rows": ROWS,
        "rate": {name: task.rate for name, task in TASKS.items()},
        "learned": LEARNED,
        "tested": TESTED,
        "steps": {name: task.steps for name, task in TASKS.items()},
        "mechanisms": {name: [one.stem, one.knobs] for name, one in MECHANISMS.items()},
    }


def start(path: Path) -> dict[str, Any]:
    """Return the record at `path`, to go on with, or an empty one.

    Raises:
        SystemExit: It was made with other settings or another torch.
    """
    import torch

    record: dict[str, Any] = {
        "settings": settings(),
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
        "machine": platform.processor() or platform.machine(),
        "runs": {},
    }
    return resuming.resumed(path, record)


if __name__ == "__main__":
    main()
