"""Exercise 04.V1: what a window saves, from document 002."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch04.shared import band, rescaled
from attncourse.grading.spec import Case, Exercise, Mistake


def window_savings(n: int, width: int, d: int) -> dict:
    """Return what a window of `width` // 2 keys on each side saves, in one head and float32."""
    connections = band(n, width // 2)
    return {
        "connections": connections,
        "density": connections / n**2,
        "full_flops": 4 * n**2 * d,
        "masked_flops": 4 * n**2 * d,
        "window_flops": 4 * connections * d,
        "full_bytes": 4 * n**2,
        "window_bytes": 4 * connections,
    }


def _savings_by_mask(n, width, d):
    offset = np.abs(np.arange(n) - np.arange(n)[:, None])
    connections = int((offset <= width // 2).sum())
    full, window = n * n, connections
    return {
        "connections": connections,
        "density": connections / full,
        "full_flops": 2 * (2 * full * d),
        "masked_flops": 2 * (2 * full * d),
        "window_flops": 2 * (2 * window * d),
        "full_bytes": full * 4,
        "window_bytes": window * 4,
    }


def _savings_by_rows(n, width, d):
    side = width // 2
    rows = (min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    connections = sum(rows)
    per_pair = {"flops": 4 * d, "bytes": 4}
    return {
        "connections": connections,
        "density": connections / n**2,
        "masked_flops": n**2 * per_pair["flops"],
        **{f"full_{unit}": n**2 * size for unit, size in per_pair.items()},
        **{f"window_{unit}": connections * size for unit, size in per_pair.items()},
    }


def _savings_of(connections: Callable) -> Callable:
    """Return `window_savings` with another count of connections."""

    def savings(n, width, d):
        pairs = connections(n, width)
        return window_savings(n, width, d) | {
            "connections": pairs,
            "density": pairs / n**2,
            "window_flops": 4 * pairs * d,
            "window_bytes": 4 * pairs,
        }

    return savings


def _savings_masked_is_window(n, width, d):
    savings = window_savings(n, width, d)
    return savings | {"masked_flops": savings["window_flops"]}


def _savings_sparsity(n, width, d):
    savings = window_savings(n, width, d)
    return savings | {"density": 1 - savings["density"]}


def _savings_percent(n, width, d):
    savings = window_savings(n, width, d)
    return savings | {"density": 100 * savings["density"]}


def _savings_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 2, 1)),
        ("11 tokens, width 4", (11, 4, 3)),
        ("odd width 5", (11, 5, 3)),
        ("width larger than 2n", (4, 20, 8)),
        ("the document's n = 1024, w = 256, d = 64", (1024, 256, 64)),
    ]
    random = []
    for _ in range(4):
        arguments = tuple(int(x) for x in generator.integers((2, 1, 1), (400, 200, 129)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


WINDOW_SAVINGS = Exercise(
    id="04.V1",
    chapter="04",
    title="What a window saves, and a mask does not",
    function="window_savings",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "All follows from two numbers: the pairs of the full matrix and those in the window.",
        "A pair costs 2·d FLOPs for its score and 2·d for its value, and 4 bytes for its score. "
        "A dense product with a mask afterwards computes every pair.",
        "side = min(width // 2, n - 1); connections = n·(2·side + 1) - side·(side + 1); FLOPs are "
        "4·d times the pairs; masked_flops equals full_flops.",
    ),
    reference=window_savings,
    cases=_savings_cases,
    mistakes=(
        Mistake(
            "masked counted as window",
            _savings_masked_is_window,
            "your masked_flops are those of the window: the mask comes after the product",
            "q @ k.T computes all n² scores before any mask is looked at",
        ),
        Mistake(
            "multiply-adds",
            rescaled(window_savings, "_flops", 2),
            "your FLOPs are half: you counted multiply-adds, or only one of the two products",
            "one multiply-add is 2 FLOPs, and both q @ k.T and weights @ v count: 4·d per pair",
        ),
        Mistake(
            "multiply-adds of one product",
            rescaled(window_savings, "_flops", 4),
            "your FLOPs are a quarter: multiply-adds of one product",
            "one multiply-add is 2 FLOPs, and both q @ k.T and weights @ v count: 4·d per pair",
        ),
        Mistake(
            "width per side",
            _savings_of(lambda n, width: band(n, width)),
            "your window has `width` keys on each side",
            "in this exercise width is the total: width // 2 on each side, and the own key",
        ),
        Mistake(
            "no edges",
            _savings_of(lambda n, width: n * (2 * (width // 2) + 1)),
            "your connections give every row the keys of a middle row",
            "subtract the two triangles that the edges cut off",
        ),
        Mistake(
            "n times width",
            _savings_of(lambda n, width: n * width),
            "your connections are n·w, the document's shorthand",
            "count the True entries of the mask: own key and edges included",
        ),
        Mistake(
            "float16",
            rescaled(window_savings, "_bytes", 2),
            "your bytes are half: 2 bytes for a number",
            "float32 takes 4 bytes",
        ),
        Mistake(
            "sparsity",
            _savings_sparsity,
            "your density is the sparsity: the share of pairs that are left out",
            "density is the share that is kept; sparsity is 1 - density",
        ),
        Mistake(
            "percent",
            _savings_percent,
            "your density is in percent",
            "return a share between 0 and 1",
        ),
    ),
    alternatives=(_savings_by_mask, _savings_by_rows),
)
