"""Compiles the kernels of the default bench, each process its part, into Triton's cache on disk.

`python -m attncourse.gpu_run.compiling 0 8` takes each eighth kernel, from the first. The bench
then finds them compiled.
"""

from __future__ import annotations

import contextlib
import sys

from attncourse.bench import jobs, measuring
from attncourse.bench.settings import DEFAULTS, Setting


def kernels(setting: Setting) -> list[jobs.Job]:
    """Return a job for each kernel that is compiled for itself, in the bench's order."""
    first: dict[tuple, jobs.Job] = {}
    for job in jobs.sweep(setting):
        if job.implementation == "Triton":
            point = job.point
            first.setdefault((job.mechanism, point.width, point.causal, point.mode), job)
    return list(first.values())


def compile_part(setting: Setting, worker: int, workers: int) -> int:
    """Call each kernel once that falls to this worker; return how many ran."""
    done = 0
    for job in kernels(setting)[worker::workers]:
        with contextlib.suppress(Exception):  # the bench tries it again, and records why it fails
            function, args, keywords = job.prepare()
            function(*args, **keywords)
            done += 1
        if measuring.is_lost():
            break
    return done


def main(setting: Setting, worker: str, workers: str) -> None:
    """Compile, and say how many kernels ran."""
    print(f"compiling, {worker} of {workers}:", compile_part(setting, int(worker), int(workers)))


if __name__ == "__main__":
    main(DEFAULTS["gpu"], *sys.argv[1:])
