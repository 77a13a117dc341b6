"""Exercise 05.5: the loop of a block-sparse Triton kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.cost import Cost
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import block_sparse as reference

KERNEL_BLOCK = 16  # rows of a tile in the given kernel


def launch_blocks(q: np.ndarray, k: np.ndarray, v: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Return block-sparse attention of one head (n, D)."""
    return reference.attention(q, k, v, layout=layout, block=KERNEL_BLOCK)


def kernel_traffic(case: Case) -> Cost:
    """Return the most that the kernel may load and store: each listed tile of K and V once."""
    q, layout = case.args[0], case.args[3]
    (n, width), size = q.shape, q.itemsize
    tokens = np.minimum(n - KERNEL_BLOCK * np.arange(len(layout)), KERNEL_BLOCK)
    keys = int((layout @ tokens).sum())
    lists = 4 * (2 * len(layout) + int(layout.sum()))  # two ends a row, and each entry: int32
    rows = n * width * size
    return Cost(
        flops=4 * KERNEL_BLOCK * keys * width,
        bytes_read=rows + 2 * keys * width * size + lists,
        bytes_written=rows,
        peak_bytes=rows,
    )


def _kernel(name: str) -> Callable:
    """Return a launcher from `launchers`, which is imported when it is called."""

    def launch(q, k, v, layout):
        import attncourse.kernels  # noqa: F401  before Triton: it switches the interpreter on
        from attncourse.grading.exercises.ch05 import launchers

        return getattr(launchers, name)(q, k, v, layout)

    return launch


def _cases(generator: Generator) -> list[Case]:
    def case(name, n, layout, width=16):
        q, k, v = generator.standard_normal((3, n, width), dtype=np.float32)
        return Case(name, (q, k, v, np.array(layout, dtype=bool)))

    def drawn(tiles):
        return (generator.random((tiles, tiles)) < 0.4) | np.eye(tiles, dtype=bool)

    n = int(generator.integers(70, 112))
    return [
        case("1 token", 1, [[1]]),
        case("two tiles, each the other", 32, [[0, 1], [1, 0]]),
        case("two tiles, all", 32, np.ones((2, 2))),
        case("three tiles, gaps", 48, [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        case("a row without tiles", 48, [[0, 1, 1], [0, 0, 0], [1, 0, 1]]),
        case("odd length", 40, [[1, 0, 1], [1, 1, 0], [0, 0, 1]]),
        case("D = 32", 48, drawn(3), width=32),
        case(f"random, n = {n}", n, drawn(-(-n // KERNEL_BLOCK))),
    ]


BLOCK_LIST = Exercise(
    id="05.5",
    chapter="05",
    title="A Triton kernel that walks a list",
    function="launch_blocks",
    kind="kernel",
    needs="triton",
    minutes=20,
    difficulty=3,
    points=3,
    hints=(
        "The lists of all rows stand one after another in `blocks`. Where does the list of this "
        "row begin, and where does that of the next one?",
        "starts has one entry more than there are rows: row `tile` owns the entries "
        "starts[tile] … starts[tile + 1] - 1 of blocks. Each entry is the number of a key tile.",
        "first = tl.load(starts_ptr + tile), last = tl.load(starts_ptr + tile + 1), and in the "
        "loop key_tile = tl.load(blocks_ptr + entry).",
    ),
    reference=launch_blocks,
    cases=_cases,
    traffic=kernel_traffic,
    seconds=20.0,
    mistakes=(
        Mistake(
            "all tiles, masked",
            _kernel("all_tiles_masked"),
            "your program loads every tile of K and V and masks those that are not listed",
            "let the loop run over the row's list, so that other tiles are never loaded",
        ),
        Mistake(
            "all tiles",
            _kernel("all_tiles"),
            "your loop runs over all key tiles: that is full attention",
            "loop over the entries of the row's list only",
        ),
        Mistake(
            "entry taken for a tile",
            _kernel("entry_as_tile"),
            "your key tile is the position in the list, not what stands there",
            "load blocks_ptr + entry: its value is the key tile",
        ),
        Mistake(
            "everybody reads the first list",
            _kernel("first_list"),
            "your rows all start at entry 0: they read the list of row 0",
            "row `tile` begins at starts[tile]",
        ),
        Mistake(
            "last entry left out",
            _kernel("last_left_out"),
            "your loop ends before the last entry of the row",
            "range leaves out its end: starts[tile + 1] is the first entry that is not yours",
        ),
        Mistake(
            "one entry too many",
            _kernel("one_too_many"),
            "your loop reads the first entry of the next row too",
            "range leaves out its end: no + 1 at starts[tile + 1]",
        ),
        Mistake(
            "from first to last tile",
            _kernel("whole_range"),
            "your loop takes every tile between the first and the last listed one",
            "a list may have gaps: load the number of each tile",
        ),
    ),
    alternatives=(_kernel("listed"), _kernel("listed_backwards")),
)
