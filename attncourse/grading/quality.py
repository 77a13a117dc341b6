"""How good a right kernel is: bytes moved over the least possible; on a GPU, its roofline's share.

No verdict depends on it. It is there so that one wants to try again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attncourse import cost
from attncourse.grading import guard
from attncourse.grading.messages import Verdict
from attncourse.grading.spec import Case, Exercise
from attncourse.grading.values import is_array, leaves, to_torch
from attncourse.progress import Entry


def least(exercise: Exercise, case: Case, result: Any) -> cost.Cost:
    """Return what any kernel must compute and move: each array once, if the exercise says no less.

    Args:
        exercise: What was asked, with a limit of traffic.
        case: The arguments.
        result: What the answer returned, in the shape and dtype that were asked for.
    """
    flops = exercise.traffic(case).flops
    if exercise.least:
        return cost.Cost(flops, exercise.least(case), 0, 0)
    read, written = (
        sum(part.nbytes for part in leaves(value) if is_array(part))
        for value in (case.args, result)
    )
    return cost.Cost(flops, read, written, 0)


def drawn(name: str) -> bool:
    """Whether a case is of other sizes each time, by its name: what it moves says little."""
    return name.startswith("random")


def roofline(exercise: Exercise, function: Callable) -> float | None:
    """Return the least time that the GPU can need for the large case over the one it needs.

    None if there is no such case, if nobody states what this GPU can do, or if the call fails.
    """
    device = _gpu()
    if exercise.timed is None or device is None:
        return None
    case = exercise.timed(np.random.default_rng(0))
    args = map(to_torch, case.args)
    outcome = guard.call(
        _timed, (function, *args), {}, seconds=3 * exercise.seconds, owner=function
    )
    if outcome.raised:
        return None
    result, seconds = outcome.value
    return least(exercise, case, result).seconds(device, "float32") / seconds


def _timed(function: Callable, *args: Any) -> tuple[Any, float]:
    from attncourse import measure

    timing = measure.seconds(function, *args, repeats=30, warmup=3, flush=True, at_most=2.0)
    return function(*args), timing.median


def _gpu() -> cost.Device | None:
    """Return the figures of this machine's GPU, None if there are none."""
    import torch

    if not torch.cuda.is_available():
        return None
    here = torch.cuda.get_device_name().replace(" GB", "GB")
    named = {device: device.name.replace(" GB", "GB").split() for device in cost.DEVICES.values()}
    return next((device for device, name in named.items() if all(x in here for x in name)), None)


def words(verdict: Verdict, before: Entry) -> str:
    """Say how good an answer is, and the best before it; empty if nothing was counted."""
    for now, then, said, number in (
        (verdict.moved, before.moved, "moved {} times the least possible", "{:.2f}"),
        (verdict.roofline, before.roofline, "reached {} of this GPU's roofline", "{:.0%}"),
    ):
        if now is not None:
            best = f"; your best before {number.format(then)}" if then else ""
            return said.format(number.format(now)) + best
    return ""
