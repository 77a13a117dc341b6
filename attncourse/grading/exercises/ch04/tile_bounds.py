"""Exercise 04.5: the loop bounds of a Triton kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.cost import Cost
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window as reference

KERNEL_BLOCK = 16  # rows of a tile in the given kernel


def launch_window(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> np.ndarray:
    """Return window attention of one head (n, D)."""
    return reference.attention(q, k, v, window=window)


def tile_range(tile: int, n: int, window: int) -> tuple[int, int]:
    """Return the first key tile that a query tile needs, and the one after the last."""
    first_key = max(0, tile * KERNEL_BLOCK - window)
    past_key = min(n, (tile + 1) * KERNEL_BLOCK + window)
    return first_key // KERNEL_BLOCK, -(-past_key // KERNEL_BLOCK)


def kernel_traffic(case: Case) -> Cost:
    """Return the most that the kernel may load and store: each needed tile of K and V once."""
    q, window = case.args[0], case.args[3]
    (n, width), size = q.shape, q.itemsize
    keys = 0
    for tile in range(-(-n // KERNEL_BLOCK)):
        first, past = tile_range(tile, n, window)
        keys += min(n, past * KERNEL_BLOCK) - first * KERNEL_BLOCK
    rows = n * width * size
    return Cost(
        flops=4 * KERNEL_BLOCK * keys * width,
        bytes_read=rows + 2 * keys * width * size,
        bytes_written=rows,
        peak_bytes=rows,
    )


def _kernel(name: str) -> Callable:
    """Return a launcher from `launchers`, which is imported when it is called."""

    def launch(q, k, v, window):
        import attncourse.kernels  # noqa: F401  before Triton: it switches the interpreter on
        from attncourse.grading.exercises.ch04 import launchers

        return getattr(launchers, name)(q, k, v, window)

    return launch


def _kernel_cases(generator: Generator) -> list[Case]:
    def case(name, n, width, window):
        q, k, v = generator.standard_normal((3, n, width), dtype=np.float32)
        return Case(name, (q, k, v, window))

    length, window = (int(x) for x in generator.integers((60, 1), (120, 30)))
    return [
        case("1 token", 1, 16, 0),
        case("one tile, window 0", 16, 16, 0),
        case("two tiles, window 0", 32, 16, 0),
        case("two tiles, window 1", 32, 16, 1),
        case("odd length", 63, 16, 5),
        case("window of exactly one tile", 80, 16, 16),
        case("window one longer than a tile", 80, 16, 17),
        case("window larger than n", 40, 16, 100),
        case("D = 32", 50, 32, 8),
        case(f"random, n = {length}, window {window}", length, 16, window),
    ]


TILE_BOUNDS = Exercise(
    id="04.5",
    chapter="04",
    title="Tile bounds of a Triton kernel",
    function="launch_window",
    kind="kernel",
    needs="triton",
    minutes=20,
    difficulty=3,
    points=3,
    hints=(
        "Draw the mask as tiles. For query tile 3, which key tiles contain a visible pair?",
        "The tile's first query sees back to key tile·BLOCK - window, its last query on to "
        "(tile + 1)·BLOCK - 1 + window. Clip both to 0 … n - 1, then turn keys into tiles.",
        "first_tile = tl.maximum(0, tile * BLOCK - window) // BLOCK; last_tile is the ceiling of "
        "tl.minimum(n, (tile + 1) * BLOCK + window) / BLOCK: see tl.cdiv.",
    ),
    reference=launch_window,
    cases=_kernel_cases,
    traffic=kernel_traffic,
    seconds=20.0,
    mistakes=(
        Mistake(
            "all tiles",
            _kernel("all_tiles"),
            "your program loads every tile of K and V and masks most of them away",
            "start the loop at the first tile that holds a visible key and stop after the last one",
        ),
        Mistake(
            "one tile more on each side",
            _kernel("one_tile_more"),
            "your program loads one more tile on each side than the window needs",
            "round the first key down and the last key up to tiles, and add nothing for safety",
        ),
        Mistake(
            "from the start",
            _kernel("from_the_start"),
            "your loop starts at tile 0: the tiles before the window are loaded and masked",
            "compute first_tile from the tile's first query",
        ),
        Mistake(
            "to the end",
            _kernel("to_the_end"),
            "your loop runs to the last tile: those after the window are loaded and masked",
            "compute last_tile from the tile's last query",
        ),
        Mistake(
            "own tile only",
            _kernel("own_tile_only"),
            "your program looks only at the keys of its own tile",
            "the window reaches into neighbouring tiles on both sides",
        ),
        Mistake(
            "nothing to the right",
            _kernel("nothing_to_the_right"),
            "your loop ends with the query's own tile: later keys are missing",
            "the window reaches to the right as well",
        ),
        Mistake(
            "window rounded down",
            _kernel("window_rounded_down"),
            "your program goes window // BLOCK tiles to each side: a part of a tile counts as none",
            "round up: a tile with one visible key must be loaded",
        ),
        Mistake(
            "last tile excluded",
            _kernel("last_tile_excluded"),
            "your loop stops one tile early: range leaves out its end",
            "last_tile is the first tile that is not needed",
        ),
        Mistake(
            "not clipped at 0",
            _kernel("not_clipped_at_zero"),
            "your first tile is negative for the first queries: the program reads before K",
            "clip the first key at 0 before you divide",
        ),
    ),
    alternatives=(_kernel("by_radius_in_tiles"), _kernel("by_last_key")),
)
