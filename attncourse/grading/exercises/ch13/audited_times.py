"""Exercise 13.6: which printed times can be true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.claims import get
from attncourse.cost import Cost, Device, implied
from attncourse.grading.spec import Case, Exercise, Mistake


def audited_times(
    n: np.ndarray, milliseconds: np.ndarray, heads: int, width: int, peak_tflops: float
) -> list[int]:
    """Return 1 where a time implies more than the peak, -1 where below 1 % of it, else 0."""
    device = Device("any", peak_tflops * 1e12, 1.0, 0, "the exercise")
    shares = [
        implied(
            ms / 1e3, 1, 1, device=device, cost=Cost(4 * heads * int(size) ** 2 * width, 0, 0, 0)
        ).share
        for size, ms in zip(n, milliseconds, strict=True)
    ]
    return [1 if share > 1 else -1 if share < 0.01 else 0 for share in shares]


def _audit_by_shares(n, milliseconds, heads, width, peak_tflops):
    share = (
        4.0 * heads * width * n.astype(float) ** 2 / (milliseconds / 1000) / (peak_tflops * 1e12)
    )
    return np.select([share > 1, share < 0.01], [1, -1], 0).tolist()


def _audit_by_times(n, milliseconds, heads, width, peak_tflops):
    verdicts = []
    for size, printed in zip(n.tolist(), milliseconds.tolist(), strict=True):
        least = 4 * heads * size**2 * width / (peak_tflops * 1e9)  # milliseconds
        verdicts.append(1 if printed < least else -1 if printed > 100 * least else 0)
    return verdicts


def _audit(
    factor: float = 4.0,
    power: int = 2,
    seconds: float = 1e-3,
    low: float = 0.01,
    with_heads: bool = True,
    signs: tuple[int, int] = (1, -1),
) -> Callable:
    """Return an audit with one thing changed."""

    def audit(n, milliseconds, heads, width, peak_tflops):
        flops = factor * (heads if with_heads else 1) * width * n.astype(float) ** power
        share = flops / (milliseconds * seconds) / (peak_tflops * 1e12)
        return np.select([share > 1, share < low], signs, 0).tolist()

    return audit


def _audit_by_growth(n, milliseconds, heads, width, peak_tflops):
    """Compare each time with the n² growth of the first one instead of with the device."""
    grown = milliseconds[0] * (n / n[0]) ** 2
    return np.select([milliseconds < grown / 2, milliseconds > grown * 2], [1, -1], 0).tolist()


def _audit_cases(generator: Generator) -> list[Case]:
    printed = [float(get(f"C{number}").printed) for number in range(196, 202)]
    lengths = [512, 1024, 2048, 4096, 8192, 16384]
    fixed = [
        ("one time that can be", [256], [1.0], 1, 16, 1.0),
        ("one time above the peak", [1024], [0.25], 2, 64, 1.0),
        ("one time that is absurdly long", [1024], [100.0], 2, 64, 1.0),
        ("chapter E, and chapter V's 0.15 ms", [*lengths, 8192], [*printed, 0.15], 12, 64, 312.0),
        ("one head", [256, 512, 4096], [0.001, 2.0, 4.0], 1, 32, 1.0),
    ]
    for number in range(5):
        count, heads = int(generator.integers(3, 9)), int(generator.integers(2, 33))
        width, peak = int(2 ** generator.integers(4, 8)), float(generator.choice([125, 989]))
        n = 2 ** generator.integers(8, 16, count)
        share = 10.0 ** generator.uniform(-3.5, 1.2, count)
        share[:3] = (1.6, 0.35, 0.006)  # one of each, near enough to catch a factor of 2 or 4
        times = 4.0 * heads * width * n.astype(float) ** 2 / (share * peak * 1e12) * 1e3
        fixed.append(
            (f"random {number}, {count} times, {heads} heads", n, times, heads, width, peak)
        )
    return [
        Case(name, (np.asarray(n, np.int64), np.asarray(ms, float), *rest))
        for name, n, ms, *rest in fixed
    ]


AUDITED_TIMES = Exercise(
    id="13.6",
    chapter="13",
    title="Audit a table of times",
    function="audited_times",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "Turn each time into a rate: FLOPs of the work over seconds. Compare it with the peak.",
        "Exact attention takes 4 · heads · n² · width FLOPs: two products, two FLOPs a "
        "multiply-add. A millisecond is 1e-3 s.",
        "share = 4.0 * heads * width * n.astype(float)**2 / (milliseconds * 1e-3) / (peak_tflops * "
        "1e12); then 1 where share > 1, -1 where share < 0.01, else 0, as a list.",
    ),
    reference=audited_times,
    cases=_audit_cases,
    mistakes=(
        Mistake(
            "multiply-adds",
            _audit(factor=2.0),
            "your FLOPs are half: multiply-adds, or one of the two products",
            "one multiply-add is 2 FLOPs, and q kᵀ and weights·v both count",
        ),
        Mistake(
            "one product in multiply-adds",
            _audit(factor=1.0),
            "your FLOPs are a quarter: multiply-adds of one product",
            "one multiply-add is 2 FLOPs, and q kᵀ and weights·v both count",
        ),
        Mistake(
            "one head",
            _audit(with_heads=False),
            "your FLOPs are those of one head",
            "multiply by the number of heads",
        ),
        Mistake(
            "seconds",
            _audit(seconds=1.0),
            "your times are taken for seconds",
            "divide milliseconds by 1000",
        ),
        Mistake(
            "microseconds",
            _audit(seconds=1e-6),
            "your times are taken for microseconds",
            "divide milliseconds by 1000",
        ),
        Mistake(
            "n, not n²",
            _audit(power=1),
            "your FLOPs grow with n",
            "every query meets every key: n²",
        ),
        Mistake(
            "signs swapped",
            _audit(signs=(-1, 1)),
            "your signs are swapped",
            "1 is a time too short to be true, -1 one that implies below 1 % of the peak",
        ),
        Mistake(
            "ten percent",
            _audit(low=0.1),
            "your lower threshold is 10 % of the peak",
            "use 1 %: 0.01",
        ),
        Mistake(
            "growth only",
            _audit_by_growth,
            "your audit compares the times with each other, not with the device",
            "turn each time into FLOP/s and compare with the peak",
        ),
    ),
    alternatives=(_audit_by_shares, _audit_by_times),
)
