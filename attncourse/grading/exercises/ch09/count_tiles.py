"""Exercise 09.2: how many tiles a causal kernel visits, and how many of them need a mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def count_tiles(n_queries: int, n_keys: int, block_q: int, block_k: int) -> dict:
    """Return how many tiles of causal attention are visited, and how many of them hide a pair."""
    ahead, visited, masked = n_keys - n_queries, 0, 0
    for start in range(0, n_queries, block_q):
        stop = min(start + block_q, n_queries)
        seen = max(stop + ahead, 0)  # keys that the last query sees
        whole = max(start + 1 + ahead, 0)  # keys that the first one sees, and so all
        tiles = -(-seen // block_k)
        free = n_keys // block_k + (n_keys % block_k > 0) if whole >= n_keys else whole // block_k
        visited += tiles
        masked += tiles - min(free, tiles)
    return {"visited": visited, "masked": masked}


def _tiles_by_mask(n_queries, n_keys, block_q, block_k):
    position = np.arange(n_queries)[:, None] + n_keys - n_queries
    mask = np.arange(n_keys) <= position
    visited = masked = 0
    for i in range(0, n_queries, block_q):
        for j in range(0, n_keys, block_k):
            tile = mask[i : i + block_q, j : j + block_k]
            visited += int(tile.any())
            masked += int(tile.any() and not tile.all())
    return {"visited": visited, "masked": masked}


def _tiles_by_corners(n_queries, n_keys, block_q, block_k):
    """Look at two corners of each tile: its last query's first key, its first query's last key."""
    ahead, counts = n_keys - n_queries, [0, 0]
    for i in range(0, n_queries, block_q):
        for j in range(0, n_keys, block_k):
            last_query = min(i + block_q, n_queries) - 1 + ahead
            last_key = min(j + block_k, n_keys) - 1
            if j <= last_query:
                counts[0] += 1
                counts[1] += last_key > i + ahead
    return {"visited": counts[0], "masked": counts[1]}


def _tiles_where(visit: Callable, mask: Callable) -> Callable:
    """Return a count by two conditions on (first query, last query, first key, last key)."""

    def count(n_queries, n_keys, block_q, block_k, ahead=None):
        ahead = n_keys - n_queries if ahead is None else ahead
        visited = masked = 0
        for i in range(0, n_queries, block_q):
            for j in range(0, n_keys, block_k):
                rows = (i + ahead, min(i + block_q, n_queries) - 1 + ahead)
                keys = (j, min(j + block_k, n_keys) - 1)
                visited += bool(visit(*rows, *keys))
                masked += bool(visit(*rows, *keys) and mask(*rows, *keys))
        return {"visited": visited, "masked": masked}

    return count


def _seen(first, last, first_key, last_key):
    return first_key <= last


def _hides(first, last, first_key, last_key):
    return last_key > first


_right = _tiles_where(_seen, _hides)


def _all_tiles(n_queries, n_keys, block_q, block_k):
    found = _right(n_queries, n_keys, block_q, block_k)
    tiles = -(-n_queries // block_q) * -(-n_keys // block_k)
    return {"visited": tiles, "masked": found["masked"] + tiles - found["visited"]}


def _half(n_queries, n_keys, block_q, block_k):
    rows, columns = -(-n_queries // block_q), -(-n_keys // block_k)
    return {"visited": rows * columns // 2, "masked": rows}


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 query, 1 key", (1, 1, 1, 1)),
        ("one tile", (4, 4, 4, 4)),
        ("4 × 4 tiles", (8, 8, 2, 2)),
        ("tiles of one pair: nothing is hidden inside", (6, 6, 1, 1)),
        ("tall tiles", (16, 16, 8, 2)),
        ("wide tiles", (16, 16, 2, 8)),
        ("the last tiles are shorter", (10, 10, 4, 3)),
        ("fewer queries than keys", (3, 11, 2, 4)),
        ("1 query, 100 keys: all is visible", (1, 100, 16, 16)),
        ("more queries than keys: some see nothing", (11, 3, 2, 2)),
        ("60 queries, 20 keys", (60, 20, 7, 3)),
        ("20 queries, 60 keys", (20, 60, 7, 3)),
        ("tiles larger than the text", (5, 7, 64, 64)),
        ("n = 4096, tiles of 128 × 64", (4096, 4096, 128, 64)),
    ]
    random = []
    for _ in range(6):
        arguments = tuple(int(x) for x in generator.integers((2, 2, 2, 2), (90, 90, 20, 20)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


COUNT_TILES = Exercise(
    id="09.2",
    chapter="09",
    title="Tiles under a causal mask",
    function="count_tiles",
    kind="number",
    minutes=15,
    difficulty=2,
    points=2,
    hints=(
        "Draw 8 tokens in tiles of 2 × 2. Which tiles hold a visible pair? Which of those also "
        "hold a hidden one?",
        "A tile is visited if its last query sees its first key. It needs a mask if its first "
        "query does not see its last key. Query i sits at key position i + n_keys - n_queries.",
        "For each tile that starts at (i, j): visited if j <= min(i + block_q, n_queries) - 1 + "
        "ahead; masked if also min(j + block_k, n_keys) - 1 > i + ahead.",
    ),
    reference=count_tiles,
    cases=_cases,
    mistakes=(
        Mistake(
            "all tiles",
            _all_tiles,
            "you visit every tile: the ones above the diagonal too",
            "a tile whose last query does not see its first key is never touched",
        ),
        Mistake(
            "half of all",
            _half,
            "you took half of all tiles, and one masked tile in each row of tiles",
            "the tiles on the diagonal count in full; count them one by one",
        ),
        Mistake(
            "aligned at the start",
            lambda *args: _right(*args, ahead=0),
            "your query i sits at key i, which is right only for n_queries = n_keys",
            "add n_keys - n_queries to the position of each query",
        ),
        Mistake(
            "first query decides",
            _tiles_where(lambda first, last, first_key, last_key: first_key <= first, _hides),
            "you visit a tile only if its first query sees its first key",
            "the last query of a tile sees most: it decides whether the tile is visited",
        ),
        Mistake(
            "masked by the last query",
            _tiles_where(_seen, lambda first, last, first_key, last_key: last_key > last),
            "your masked tiles are those whose last query misses a key",
            "the first query of a tile sees least: it decides whether a mask is needed",
        ),
        Mistake(
            "own key hidden",
            _tiles_where(
                lambda first, last, first_key, last_key: first_key < last,
                lambda first, last, first_key, last_key: last_key >= first,
            ),
            "your queries do not see their own key",
            "key position <= query position is visible",
        ),
        Mistake(
            "every visited tile masked",
            _tiles_where(_seen, lambda *_: True),
            "you count every visited tile as masked",
            "below the diagonal all pairs are visible, and no mask is needed",
        ),
        Mistake(
            "shorter tiles as whole ones",
            lambda n_queries, n_keys, block_q, block_k: _tiles_where(_seen, _hides)(
                -(-n_queries // block_q) * block_q,
                -(-n_keys // block_k) * block_k,
                block_q,
                block_k,
                n_keys - n_queries,
            ),
            "you count the last, shorter tiles as if they were whole",
            "end each tile at min(start + block, n)",
        ),
    ),
    alternatives=(_tiles_by_mask, _tiles_by_corners),
)
