"""Measures what a record lacks, job after job, until the time is up."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from attncourse.bench import measuring, records
from attncourse.bench.jobs import Job
from attncourse.bench.settings import Setting
from attncourse.bench.store import write

KEPT_EVERY = 2.0  # seconds from one writing of a record to the next
_KEY = ("mechanism", "implementation", "n", "batch", "heads", "width", "causal", "mode")


def run(
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
            measured = measuring.measure_job(job, setting, measuring.expected_seconds(job, seconds))
            record["measurements"].append(measured)
            if "seconds" in measured:
                seconds[job.key] = measured["seconds"]["median"]
            print(measuring.in_words(measured), file=sys.stderr)
            status |= "failed" in measured
            if time.monotonic() - written > KEPT_EVERY:
                write(record, path)
                written = time.monotonic()
            if "failed" in measured and setting.device == "gpu" and measuring.is_lost():
                # After an illegal access no call on the GPU works in this process.
                print("the GPU refuses further calls: starting again", file=sys.stderr)
                write(record, path)
                _restart(deadline - time.monotonic())
        else:
            record["complete"] = True
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
        status = 130
    print(write(record, path))
    return int(status)


def _restart(seconds: float) -> None:
    """Start this command again in a new process, with the time that is left."""
    minutes = f"{max(0.0, seconds) / 60:.3f}"
    arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
    os.execv(
        sys.executable,
        [sys.executable, "-m", "attncourse.cli", *arguments, "--minutes", minutes],
    )


def _job_words(job: Job) -> str:
    point = job.point
    words = f"n = {point.n}, {job.mechanism}, {job.implementation}"
    if point.mode == "forward" and not point.causal:
        return words
    return f"{words}, {point.mode}" + (", causal" if point.causal else "")
