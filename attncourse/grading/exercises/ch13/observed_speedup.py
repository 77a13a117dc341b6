"""Exercise 13.V7: why 8× in theory is 5 to 6× on the clock, from document 003."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window as reference


def observed_speedup(n: int, width: int, d: int, tile: int, rate: float, fixed: float) -> dict:
    """Return the speedups by pairs, by whole tiles, and on the clock with a fixed time each."""
    return _speedups(n, d, rate, fixed, _pairs(n, width // 2), _tiles(n, width // 2, tile))


def _pairs(n: int, side: int) -> int:
    return reference.count(n, n, window=side)


def _tiles(n: int, side: int, tile: int) -> int:
    return reference.count(n // tile, n // tile, window=-(-side // tile)) * tile**2


def _speedups(n, d, rate, fixed, pairs, tiled, *, full_fixed=None, local_fixed=None, factor=4):
    full_seconds = (fixed if full_fixed is None else full_fixed) + factor * n**2 * d / rate
    local_seconds = (fixed if local_fixed is None else local_fixed) + factor * tiled * d / rate
    return {
        "theory": n**2 / pairs,
        "tiled": n**2 / tiled,
        "observed": full_seconds / local_seconds,
        "fixed_share": fixed / local_seconds,
    }


def _speedup_by_mask(n, width, d, tile, rate, fixed):
    mask = np.abs(np.arange(n) - np.arange(n)[:, None]) <= width // 2
    touched = int(mask.reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3)).sum()) * tile**2
    seconds = {name: fixed + 4 * d * count / rate for name, count in
               {"full": n * n, "local": touched}.items()}  # fmt: skip
    return {
        "theory": n * n / int(mask.sum()),
        "tiled": n * n / touched,
        "observed": seconds["full"] / seconds["local"],
        "fixed_share": fixed / seconds["local"],
    }


def _speedup_by_loop(n, width, d, tile, rate, fixed):
    side, local, tiled = width // 2, 0, 0
    for i in range(n):
        local += min(n - 1, i + side) - max(0, i - side) + 1
    for start in range(0, n, tile):
        first, last = max(0, start - side) // tile, min(n - 1, start + tile - 1 + side) // tile
        tiled += (last - first + 1) * tile * tile
    slow = fixed + n * n * d * 4 / rate
    quick = fixed + tiled * d * 4 / rate
    return {
        "theory": n**2 / local,
        "tiled": n**2 / tiled,
        "observed": slow / quick,
        "fixed_share": fixed / quick,
    }


def _speedup_with(
    pairs: Callable | None = None, tiles: Callable | None = None, **changes
) -> Callable:
    """Return `observed_speedup` with another count, or another use of the fixed time."""

    def speedup(n, width, d, tile, rate, fixed):
        visible = pairs(n, width) if pairs else _pairs(n, width // 2)
        touched = tiles(n, width, tile) if tiles else _tiles(n, width // 2, tile)
        return _speedups(n, d, rate, fixed, visible, touched, **changes)

    return speedup


def _speedup_upside_down(*arguments):
    result = observed_speedup(*arguments)
    return result | {key: 1 / result[key] for key in ("theory", "tiled", "observed")}


def _speedup_share_of_full(n, width, d, tile, rate, fixed):
    result = observed_speedup(n, width, d, tile, rate, fixed)
    return result | {"fixed_share": fixed / (fixed + 4 * n**2 * d / rate)}


def _speedup_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("8 tokens, tiles of 2", (8, 4, 2, 2, 1e3, 0.25)),
        ("no fixed time", (64, 24, 8, 8, 1e9, 0.0)),
        ("a fixed time that hides everything", (64, 24, 8, 8, 1e9, 1.0)),
        ("tile of 1: nothing is rounded", (16, 4, 8, 1, 1e6, 1e-3)),
        ("one tile", (16, 4, 8, 16, 1e6, 1e-3)),
        ("width larger than 2n", (8, 40, 4, 2, 1e6, 1e-4)),
        ("the document's n = 1024, w = 128, d = 64", (1024, 128, 64, 64, 1e12, 1e-6)),
    ]
    random = []
    for number in range(4):
        tiles, width, d = (int(x) for x in generator.integers((3, 2, 1), (16, 60, 129)))
        tile = int(2 ** generator.integers(1, 5))
        rate = float(10 ** generator.uniform(8, 10))
        seconds = float(4 * (tiles * tile) ** 2 * d / rate * generator.uniform(0.05, 0.5))
        arguments = (tiles * tile, width, d, tile, rate, seconds)
        random.append(
            (f"random {number}, n = {tiles * tile}, width {width}, tile {tile}", arguments)
        )
    return [Case(name, arguments) for name, arguments in fixed + random]


OBSERVED_SPEEDUP = Exercise(
    id="13.V7",
    chapter="13",
    title="From the theoretical to the observed speedup",
    function="observed_speedup",
    kind="number",
    minutes=15,
    difficulty=3,
    points=3,
    hints=(
        "Three counts, then two times. A pair costs 4·d FLOPs; a time is the fixed part plus FLOPs "
        "over the rate.",
        "A window of tokens is a window of tiles: n // tile of them, radius ceil(width // 2 / "
        "tile). Every touched tile is computed whole.",
        "full = fixed + 4·n²·d/rate; local = fixed + 4·tiled·d/rate; observed = full / local; "
        "fixed_share = fixed / local.",
    ),
    reference=observed_speedup,
    cases=_speedup_cases,
    mistakes=(
        Mistake(
            "fixed time only in the window",
            _speedup_with(full_fixed=0.0),
            "your full attention starts for free",
            "both calls pay the fixed time",
        ),
        Mistake(
            "fixed time only in full",
            _speedup_with(local_fixed=0.0),
            "your window starts for free",
            "both calls pay the fixed time",
        ),
        Mistake(
            "visible pairs timed",
            _speedup_with(tiles=lambda n, width, tile: _pairs(n, width // 2)),
            "your window computes only the visible pairs: no tile is wasted",
            "a tile with one visible pair is computed whole",
        ),
        Mistake(
            "width per side",
            _speedup_with(
                lambda n, width: _pairs(n, width), lambda n, width, tile: _tiles(n, width, tile)
            ),
            "your window has `width` keys on each side",
            "in this exercise width is the total: width // 2 on each side, and the own key",
        ),
        Mistake(
            "no edges",
            _speedup_with(lambda n, width: n * (2 * (width // 2) + 1)),
            "your pairs give every row the keys of a middle row",
            "the first and last rows see fewer",
        ),
        Mistake(
            "n times width",
            _speedup_with(lambda n, width: n * width),
            "your pairs are n·w, the document's shorthand",
            "count the own key and the edges",
        ),
        Mistake(
            "tiles rounded down",
            _speedup_with(
                tiles=lambda n, width, tile: (
                    reference.count(n // tile, n // tile, window=width // 2 // tile) * tile**2
                )
            ),
            "your tiles leave out those that are only partly inside the window",
            "round up",
        ),
        Mistake(
            "multiply-adds",
            _speedup_with(factor=2),
            "your times are made of multiply-adds, or of one of the two products",
            "a pair costs 4·d FLOPs",
        ),
        Mistake(
            "upside down",
            _speedup_upside_down,
            "your speedups are upside down",
            "divide what full attention takes by what the window takes",
        ),
        Mistake(
            "share of full",
            _speedup_share_of_full,
            "your fixed_share is that of full attention's time",
            "divide the fixed time by the window's time",
        ),
    ),
    alternatives=(_speedup_by_mask, _speedup_by_loop),
)
