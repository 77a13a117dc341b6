"""Exercise 01.5: the least time of a piece of work, and what limits it."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def roofline(flops: int, bytes_moved: int, peak_flops: float, bandwidth: float) -> dict:
    """Return the least seconds of a work on a device, and where it stands on the roofline."""
    computing, moving = flops / peak_flops, bytes_moved / bandwidth
    return {
        "seconds": max(computing, moving),
        "memory_bound": moving > computing,
        "intensity": flops / bytes_moved,
        "ridge": peak_flops / bandwidth,
        "share_of_peak": computing / max(computing, moving),
    }


def _by_intensity(flops, bytes_moved, peak_flops, bandwidth):
    intensity, ridge = flops / bytes_moved, peak_flops / bandwidth
    rate = min(peak_flops, intensity * bandwidth)
    return {
        "seconds": flops / rate,
        "memory_bound": intensity < ridge,
        "intensity": intensity,
        "ridge": ridge,
        "share_of_peak": rate / peak_flops,
    }


def _by_cases(flops, bytes_moved, peak_flops, bandwidth):
    result = {"intensity": flops / bytes_moved, "ridge": peak_flops / bandwidth}
    if flops * bandwidth < bytes_moved * peak_flops:
        result |= {"seconds": bytes_moved / bandwidth, "memory_bound": True}
    else:
        result |= {"seconds": flops / peak_flops, "memory_bound": False}
    result["share_of_peak"] = flops / result["seconds"] / peak_flops
    return result


def _changed(name: str, value: Callable) -> Callable:
    return lambda *numbers: roofline(*numbers) | {name: value(*numbers)}


def _seconds_as(value: Callable) -> Callable:
    """Return `roofline` with other seconds; the share of the peak follows."""

    def changed(flops, bytes_moved, peak_flops, bandwidth):
        seconds = value(flops / peak_flops, bytes_moved / bandwidth)
        result = roofline(flops, bytes_moved, peak_flops, bandwidth)
        share = flops / peak_flops / seconds
        return result | {"seconds": seconds, "share_of_peak": share}

    return changed


def _cases(generator: Generator) -> list[Case]:
    a100 = (312e12, 1555e9)
    cases = [
        Case("limited by moving", (8, 4, 8.0, 2.0)),
        Case("limited by computing", (64, 4, 8.0, 2.0)),
        Case("exactly at the ridge", (16, 4, 8.0, 2.0)),
        Case("a copy, one operation for 8 bytes", (10**9, 8 * 10**9, *a100)),
        Case("standard attention, n = 4096, on an A100", (4 * 4096**2 * 64, 12 * 4096**2, *a100)),
        Case("a product of 4096², on an A100", (2 * 4096**3, 3 * 2 * 4096**2, *a100)),
    ]
    for _ in range(4):
        flops, moved = (int(x) for x in 10 ** generator.uniform(6, 14, 2))
        device = (float(10 ** generator.uniform(11, 15)), float(10 ** generator.uniform(10, 13)))
        cases.append(Case(f"random, {flops:.0e} FLOPs, {moved:.0e} bytes", (flops, moved, *device)))
    return cases


ROOFLINE = Exercise(
    id="01.5",
    chapter="01",
    title="The roofline",
    function="roofline",
    kind="number",
    minutes=10,
    difficulty=2,
    points=2,
    hints=(
        "Two clocks run at the same time: one for computing, one for moving. Which one ends last?",
        "seconds = max(flops / peak_flops, bytes_moved / bandwidth). At the ridge both are equal.",
        "intensity = flops / bytes_moved, ridge = peak_flops / bandwidth; memory_bound where the "
        "intensity is below the ridge; share_of_peak = flops / seconds / peak_flops.",
    ),
    reference=roofline,
    cases=_cases,
    mistakes=(
        Mistake(
            "sum",
            _seconds_as(lambda computing, moving: computing + moving),
            "your seconds add computing and moving, as if one waited for the other",
            "both happen at once in the best case: take the larger",
        ),
        Mistake(
            "faster of both",
            _seconds_as(min),
            "your seconds are the smaller of both bounds",
            "the work ends when the slower of both has ended",
        ),
        Mistake(
            "arithmetic only",
            _seconds_as(lambda computing, moving: computing),
            "your seconds know nothing of the memory",
            "bytes_moved / bandwidth is a bound, too",
        ),
        Mistake(
            "bytes per FLOP",
            _changed("intensity", lambda flops, moved, *_: moved / flops),
            "your intensity is upside down: bytes per FLOP",
            "intensity is FLOPs per byte",
        ),
        Mistake(
            "ridge upside down",
            _changed("ridge", lambda flops, moved, peak, bandwidth: bandwidth / peak),
            "your ridge is upside down",
            "the ridge is an intensity: FLOPs per second over bytes per second",
        ),
        Mistake(
            "other side",
            _changed("memory_bound", lambda *numbers: not roofline(*numbers)["memory_bound"]),
            "your memory_bound says the opposite",
            "left of the ridge, at few FLOPs per byte, the memory is the limit",
        ),
        Mistake(
            "at the ridge",
            _changed(
                "memory_bound",
                lambda *numbers: roofline(*numbers)["intensity"] <= roofline(*numbers)["ridge"],
            ),
            "at the ridge itself your work is memory-bound",
            "memory_bound only where moving takes longer than computing",
        ),
        Mistake(
            "percent",
            _changed("share_of_peak", lambda *numbers: 100 * roofline(*numbers)["share_of_peak"]),
            "your share is in percent",
            "return a share between 0 and 1",
        ),
    ),
    alternatives=(_by_intensity, _by_cases),
)
