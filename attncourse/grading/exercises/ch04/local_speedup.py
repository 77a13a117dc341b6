"""Exercise 04.V7: speed-up in theory and in tiles, from document 003."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch04.shared import band, rescaled
from attncourse.grading.spec import Case, Exercise, Mistake


def local_speedup(n: int, width: int, d: int, tile: int) -> dict:
    """Return the FLOPs of full, local and tiled local attention of one head, and two speed-ups."""
    connections = band(n, width // 2)
    tiles = band(n // tile, -(-(width // 2) // tile))
    return {
        "full_flops": 4 * n**2 * d,
        "local_flops": 4 * connections * d,
        "tiled_flops": 4 * tiles * tile**2 * d,
        "local_bytes": 4 * connections,
        "speedup": n**2 / connections,
        "tiled_speedup": n**2 / (tiles * tile**2),
    }


def _speedup_by_mask(n, width, d, tile):
    mask = np.abs(np.arange(n) - np.arange(n)[:, None]) <= width // 2
    needed = mask.reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3))
    pairs = {"full": n * n, "local": int(mask.sum()), "tiled": int(needed.sum()) * tile * tile}
    return {f"{name}_flops": 4 * d * count for name, count in pairs.items()} | {
        "local_bytes": 4 * pairs["local"],
        "speedup": pairs["full"] / pairs["local"],
        "tiled_speedup": pairs["full"] / pairs["tiled"],
    }


def _speedup_by_loop(n, width, d, tile):
    side = width // 2
    local = sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    tiled = 0
    for start in range(0, n, tile):
        first, last = max(0, start - side) // tile, min(n - 1, start + tile - 1 + side) // tile
        tiled += (last - first + 1) * tile * tile
    return {
        "full_flops": 4 * n * n * d,
        "local_flops": 4 * local * d,
        "tiled_flops": 4 * tiled * d,
        "local_bytes": 4 * local,
        "speedup": n * n / local,
        "tiled_speedup": n * n / tiled,
    }


def _speedup_with(local: Callable | None = None, tiles: Callable | None = None) -> Callable:
    """Return `local_speedup` with another count of connections or of tiles."""

    def speedup(n, width, d, tile):
        result = local_speedup(n, width, d, tile)
        if local:
            pairs = local(n, width)
            result |= {
                "local_flops": 4 * pairs * d,
                "local_bytes": 4 * pairs,
                "speedup": n**2 / pairs,
            }
        if tiles:
            pairs = tiles(n, width, tile) * tile**2
            result |= {"tiled_flops": 4 * pairs * d, "tiled_speedup": n**2 / pairs}
        return result

    return speedup


def _speedup_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 2, 1, 1)),
        ("10 tokens, tiles of 2", (10, 4, 7, 2)),
        ("tile of 1: nothing is rounded", (8, 4, 2, 1)),
        ("one tile", (16, 4, 8, 16)),
        ("half a window is no whole tile", (64, 24, 8, 8)),
        ("width larger than 2n", (8, 40, 4, 2)),
        ("the document's n = 1024, w = 128, d = 64", (1024, 128, 64, 64)),
    ]
    random = []
    for _ in range(4):
        tiles, width, d = (int(x) for x in generator.integers((2, 2, 1), (20, 90, 129)))
        tile = int(2 ** generator.integers(5))
        random.append((f"random {(tiles * tile, width, d, tile)}", (tiles * tile, width, d, tile)))
    return [Case(name, arguments) for name, arguments in fixed + random]


LOCAL_SPEEDUP = Exercise(
    id="04.V7",
    chapter="04",
    title="Speed-up in theory and in tiles",
    function="local_speedup",
    kind="number",
    minutes=15,
    difficulty=3,
    points=2,
    hints=(
        "Count pairs first. Then count whole tiles of tile × tile pairs with at least one visible "
        "pair: a matrix product computes a tile wholly or not at all.",
        "Tiles behave like tokens of a shorter sequence: n // tile of them, and a radius of "
        "width // 2 keys touches ceil(width / 2 / tile) neighbours on each side.",
        "side = min(width // 2, n - 1) gives n(2·side + 1) - side(side + 1) pairs. Put n // tile "
        "and -(-(width // 2) // tile) into the same formula for the tiles.",
    ),
    reference=local_speedup,
    cases=_speedup_cases,
    mistakes=(
        Mistake(
            "multiply-adds",
            rescaled(local_speedup, "_flops", 2),
            "your FLOPs are half: you counted multiply-adds, or only one of the two products",
            "one multiply-add is 2 FLOPs, and both products count: 4·d per pair",
        ),
        Mistake(
            "n times width",
            _speedup_with(local=lambda n, width: n * width),
            "your local pairs are n·w, the document's shorthand",
            "count own key and edges: n(w + 1) - (w/2)(w/2 + 1) for an even w below n",
        ),
        Mistake(
            "width per side",
            _speedup_with(
                lambda n, width: band(n, width),
                lambda n, width, tile: band(n // tile, -(-width // tile)),
            ),
            "your window has `width` keys on each side",
            "in this exercise width is the total: width // 2 on each side, and the own key",
        ),
        Mistake(
            "no edges",
            _speedup_with(
                lambda n, width: n * (2 * (width // 2) + 1),
                lambda n, width, tile: n // tile * (2 * -(-(width // 2) // tile) + 1),
            ),
            "your counts give every row the keys of a middle row",
            "the first and last rows, of tokens and of tiles, see fewer",
        ),
        Mistake(
            "tiles rounded down",
            _speedup_with(tiles=lambda n, width, tile: band(n // tile, width // 2 // tile)),
            "your tiles leave out those that are only partly inside the window",
            "round up: a tile with a single visible pair is computed",
        ),
        Mistake(
            "tiles as pairs",
            _speedup_with(tiles=lambda n, width, tile: -(-band(n, width // 2) // tile**2)),
            "your tiles are the connections divided by tile²: as if the band were packed densely",
            "count the tiles of the grid that the band touches",
        ),
        Mistake(
            "upside down",
            lambda *args: (
                (result := local_speedup(*args))
                | {key: 1 / result[key] for key in ("speedup", "tiled_speedup")}
            ),
            "your speed-ups are upside down",
            "divide the full FLOPs by the local ones",
        ),
        Mistake(
            "float16",
            rescaled(local_speedup, "_bytes", 2),
            "your bytes are half: 2 bytes for a number",
            "float32 takes 4 bytes",
        ),
    ),
    alternatives=(_speedup_by_mask, _speedup_by_loop),
)
