"""Exercise 09.1: the bytes that standard and tiled attention move."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import flash, full


def hbm_bytes(n_queries: int, n_keys: int, d: int, block_q: int, bytes_per_number: int) -> dict:
    """Return the bytes that standard and tiled attention move, of one head."""
    rows, keys = n_queries * d, n_keys * d
    tiles = -(-n_queries // block_q)
    return {
        "standard": (2 * rows + 2 * keys + 4 * n_queries * n_keys) * bytes_per_number,
        "tiled": (2 * rows + 2 * keys * tiles) * bytes_per_number,
    }


def _bytes_by_passes(n_queries, n_keys, d, block_q, bytes_per_number):
    scores = n_queries * n_keys
    standard = [
        n_queries * d + n_keys * d + scores,  # q, k in, scores out
        scores + scores,  # scores in, weights out
        scores + n_keys * d + n_queries * d,  # weights, v in, out out
    ]
    tiled = 0
    for start in range(0, n_queries, block_q):
        in_tile = min(block_q, n_queries - start)
        tiled += in_tile * d + n_keys * d + n_keys * d + in_tile * d
    return {"standard": sum(standard) * bytes_per_number, "tiled": tiled * bytes_per_number}


def _bytes_by_costs(n_queries, n_keys, d, block_q, bytes_per_number):
    sizes = (1, 1, n_queries, n_keys, d)
    standard = full.cost(*sizes, dtype_bytes=4)
    tiled = flash.cost(*sizes, block_q=block_q, block_k=1, dtype_bytes=4)
    without_lse = tiled.bytes_written - 4 * n_queries
    return {
        "standard": (standard.bytes_read + standard.bytes_written) * bytes_per_number // 4,
        "tiled": (tiled.bytes_read + without_lse) * bytes_per_number // 4,
    }


def _bytes_with(standard: Callable | None = None, tiled: Callable | None = None) -> Callable:
    """Return `hbm_bytes` with another count of numbers for one of the two."""

    def result(n_queries, n_keys, d, block_q, bytes_per_number):
        found = hbm_bytes(n_queries, n_keys, d, block_q, bytes_per_number)
        for name, count in (("standard", standard), ("tiled", tiled)):
            if count:
                found[name] = count(n_queries, n_keys, d, block_q) * bytes_per_number
        return found

    return result


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 query, 1 key", (1, 1, 1, 1, 1)),
        ("one tile", (5, 7, 3, 11, 2)),
        ("two tiles", (4, 4, 2, 2, 4)),
        ("the last tile is shorter", (5, 4, 2, 2, 4)),
        ("a tile longer than the text", (5, 7, 3, 64, 2)),
        ("one query at a time", (6, 6, 8, 1, 4)),
        ("fewer queries than keys", (3, 50, 16, 2, 2)),
        ("n = 4096, D = 64, tiles of 128, float32", (4096, 4096, 64, 128, 4)),
        ("D = 768: tiling moves more", (4096, 4096, 768, 128, 4)),
    ]
    random = []
    for _ in range(4):
        arguments = tuple(
            int(x) for x in generator.integers((2, 2, 2, 2, 2), (5000, 5000, 300, 300, 9))
        )
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


HBM_BYTES = Exercise(
    id="09.1",
    chapter="09",
    title="Bytes that travel",
    function="hbm_bytes",
    kind="number",
    minutes=10,
    difficulty=1,
    points=2,
    hints=(
        "Write down every array that each step reads and writes. How many numbers has it?",
        "Standard: q, k and v are read once, out is written once, and the n_queries × n_keys array "
        "travels four times. Tiled: how often are k and v read?",
        "standard = (2·Tq·d + 2·Tk·d + 4·Tq·Tk)·bytes; tiled = (2·Tq·d + 2·Tk·d·tiles)·bytes, with "
        "tiles = -(-n_queries // block_q).",
    ),
    reference=hbm_bytes,
    cases=_cases,
    mistakes=(
        Mistake(
            "k and v once",
            _bytes_with(tiled=lambda tq, tk, d, block: 2 * tq * d + 2 * tk * d),
            "your tiled bytes read k and v only once",
            "each tile of queries walks over all keys again: multiply by the number of tiles",
        ),
        Mistake(
            "tiles rounded down",
            _bytes_with(tiled=lambda tq, tk, d, block: 2 * tq * d + 2 * tk * d * (tq // block)),
            "your tiles leave out the last, shorter one",
            "round up: -(-n_queries // block_q)",
        ),
        Mistake(
            "tiles as a fraction",
            lambda tq, tk, d, block, size: {
                "standard": hbm_bytes(tq, tk, d, block, size)["standard"],
                "tiled": (2 * tq * d + 2 * tk * d * tq / block) * size,
            },
            "your number of tiles is a fraction",
            "a shorter tile reads all keys too: round up",
        ),
        Mistake(
            "q once per tile of keys",
            _bytes_with(tiled=lambda tq, tk, d, block: 2 * tk * d + 2 * tq * d * -(-tk // block)),
            "your loops are the other way round: q and out travel once per tile of keys",
            "here a tile of queries stays on the chip while the keys pass by",
        ),
        Mistake(
            "q again for each tile of keys",
            _bytes_with(
                tiled=lambda tq, tk, d, block: (
                    tq * d * (1 + -(-tk // block)) + 2 * tk * d * -(-tq // block)
                )
            ),
            "your tiled bytes read q again for each tile of keys",
            "a tile of queries is read once, before the loop over the keys",
        ),
        Mistake(
            "scores only",
            _bytes_with(standard=lambda tq, tk, d, block: 4 * tq * tk),
            "your standard bytes leave out q, k, v and the output",
            "add 2·Tq·d + 2·Tk·d numbers",
        ),
        Mistake(
            "two passes",
            _bytes_with(standard=lambda tq, tk, d, block: 2 * tq * d + 2 * tk * d + 2 * tq * tk),
            "your scores travel twice",
            "scores out, scores in, weights out, weights in: four times",
        ),
        Mistake(
            "output forgotten",
            _bytes_with(
                lambda tq, tk, d, block: tq * d + 2 * tk * d + 4 * tq * tk,
                lambda tq, tk, d, block: tq * d + 2 * tk * d * -(-tq // block),
            ),
            "your bytes leave out the output",
            "out has Tq·d numbers, and is written once in both",
        ),
        Mistake(
            "numbers instead of bytes",
            lambda tq, tk, d, block, size: hbm_bytes(tq, tk, d, block, 1),
            "you counted numbers, not bytes",
            "multiply by bytes_per_number",
        ),
    ),
    alternatives=(_bytes_by_passes, _bytes_by_costs),
)
