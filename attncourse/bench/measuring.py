"""One call measured, or the reason why it cannot be."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from attncourse import measure
from attncourse.bench.jobs import CUDA, Job
from attncourse.bench.settings import Setting
from attncourse.catalogue import MECHANISMS
from attncourse.units import format_bytes, format_seconds

# For the timed calls of one measurement: then there are fewer repeats.
MOST_SECONDS = {"cpu": 0.2, "gpu": 0.1}
LEAST_CALLS = {"cpu": 5, "gpu": 1}  # but not fewer than these
LONGEST_CALL = 0.5  # seconds, on a GPU: where a call should take longer, it is skipped


def measure_job(
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
    needs, free = job.needs_bytes(), measure.free_bytes(CUDA if on_gpu else None)
    if needs > 0.8 * free:
        measured["skipped"] = f"needs {format_bytes(needs)}, {format_bytes(free)} are free"
        return measured
    try:
        function, args, kwargs = job.prepare()
        peak = measure.peak_bytes(function, *args, **kwargs)
        if job.check is not None and (differs := _difference(job, function, args, kwargs)):
            measured["differs"] = differs
        call = functools.partial(function, **kwargs)
        limits = {"at_least": LEAST_CALLS[setting.device], "at_most": MOST_SECONDS[setting.device]}
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


def expected_seconds(job: Job, seconds: Mapping[tuple, float]) -> float:
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _difference(job: Job, function: Callable[..., Any], args: tuple, kwargs: dict) -> str:
    """Say so if a peer's result is not ours, within what half precision leaves open."""
    ours, ours_args, ours_kwargs = job.check()
    mine = ours(*ours_args, **ours_kwargs).detach().float()
    error = (function(*args, **kwargs).detach().float() - mine).abs().max()
    share = (error / mine.abs().max()).item()
    return "" if share < 0.02 else f"by {share:.1%} of the largest value from our kernel's result"


def in_words(measured: dict[str, Any]) -> str:
    """Say what was measured, or why not, in one line."""
    for reason in ("absent", "skipped", "failed"):
        if reason in measured:
            return f"{reason}: {measured[reason]}"
    return f"{measure.Timing(**measured['seconds'])}, peak {format_bytes(measured['peak_bytes'])}"


def has_cuda() -> bool:
    """Whether torch is installed and finds a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def is_lost() -> bool:
    """Whether an error has made the GPU useless to this process."""
    import torch

    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False
