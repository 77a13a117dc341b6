"""Exercise 04.6: a blocked window with two bugs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch04.shared import ROWS_BYTES, dense_window, metered_case
from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.reference import window as reference
from attncourse.softmax import softmax


def repaired_window(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, block: int = 32
) -> np.ndarray:
    """Return window attention for q (Tq, D), k (Tk, D) and v (Tk, Dv)."""
    return reference.attention(q, k, v, window=window)


def _blocked(keys_of_rows: Callable, visible: Callable) -> Callable:
    """Make a blocked window like the one in the exercise, with its two delicate lines replaced.

    Args:
        keys_of_rows: (start, stop, window, ahead, n_keys) -> the stretch (first, last) of keys.
        visible: (distance, window) -> bool, what of the stretch is seen.
    """

    def attention(q, k, v, window, block=32):
        n_queries, n_keys = len(q), len(k)
        ahead = n_keys - n_queries
        out = np.zeros((n_queries, v.shape[-1]), q.dtype)
        for start in range(0, n_queries, block):
            stop = min(start + block, n_queries)
            first, last = keys_of_rows(start, stop, window, ahead, n_keys)
            position, key = np.arange(start, stop)[:, None] + ahead, np.arange(first, last)
            scores = q[start:stop] @ k[first:last].T / np.sqrt(q.shape[-1])
            weights = softmax(scores, visible(np.abs(position - key), window))
            out[start:stop] = weights @ v[first:last]
        return out

    return attention


def _within(distance, window):
    return distance <= window


def _stretch(left: int = 0, right: int = 0, ahead_sign: int = 1) -> Callable:
    """Return the stretch of keys, moved by `left` and `right` keys where a bug wants it."""

    def keys_of_rows(start, stop, window, ahead, n_keys):
        first = max(0, start + ahead_sign * ahead - window + left)
        last = max(0, min(n_keys, stop + ahead_sign * ahead + window + right))
        return min(first, last), last

    return keys_of_rows


def _repaired_without_clipping(q, k, v, window, block=32):
    """Pad the keys on both sides instead of clipping the slices."""
    n_queries, n_keys = len(q), len(k)
    before = max(0, n_queries - n_keys) + window
    edges = [(before, window + block), (0, 0)]
    k_wide, v_wide = np.pad(k, edges), np.pad(v, edges)
    out = np.zeros((n_queries, v.shape[-1]), q.dtype)
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        position = np.arange(start, stop)[:, None] + n_keys - n_queries
        near = np.arange(position[0, 0] - window, position[-1, 0] + window + 1)
        stretch = slice(near[0] + before, near[-1] + before + 1)
        visible = (np.abs(position - near) <= window) & (near >= 0) & (near < n_keys)
        scores = q[start:stop] @ k_wide[stretch].T / np.sqrt(q.shape[-1])
        out[start:stop] = softmax(scores, visible) @ v_wide[stretch]
    return out


def _repair_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, window, dtype=np.float32, longer=1.0):
        q, k, v = (
            generator.standard_normal((n, width)).astype(dtype)
            for n, width in ((n_queries, 7), (n_keys, 7), (n_keys, 5))
        )
        q[0] *= longer
        return Case(name, (q, k, v, window))

    n_queries, n_keys, window = (int(x) for x in generator.integers(1, (150, 150, 40)))
    return [
        case("1 query, 1 key", 1, 1, 0),
        case("1 query, 4 keys", 1, 4, 1),
        case("4 queries, 1 key: empty rows", 4, 1, 1),
        case("window 0", 6, 6, 0),
        case("one full block", 32, 32, 3),
        case("two blocks, Tq = Tk", 40, 40, 3),
        case("window larger than n", 40, 40, 50),
        case("fewer queries than keys", 20, 70, 4),
        case("more queries than keys: whole blocks see nothing", 100, 10, 4),
        case("60 queries, 20 keys: blocks that end before the first key", 60, 20, 1),
        case("200 queries, 3 keys", 200, 3, 2),
        case("3 queries, 200 keys", 3, 200, 2),
        case("one query 100 times longer than the others", 40, 40, 9, longer=100),
        case("float64", 70, 70, 9, np.float64),
        case(
            f"random, {n_queries} queries, {n_keys} keys, window {window}",
            n_queries,
            n_keys,
            window,
        ),
        case("random, 130 queries, 100 keys, window 20", 130, 100, 20),
    ]


REPAIRED_WINDOW = Exercise(
    id="04.6",
    chapter="04",
    title="Find two bugs in a blocked window",
    function="repaired_window",
    kind="array",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "Both bugs are about which keys a block gets to see. Compare with the dense answer: which "
        "rows differ when Tq = Tk = 40? And when Tq and Tk differ?",
        "The mask is right. The slice of keys forgets that a slice leaves out its end, and that "
        "query i sits at key position i + ahead.",
        "first = max(0, start + ahead - window); last = max(0, min(n_keys, stop + ahead + window)) "
        "with an outer max for whole blocks that lie before the first key.",
    ),
    reference=repaired_window,
    cases=_repair_cases,
    memory=Memory(metered_case, 4 * ROWS_BYTES, "four arrays as large as q: 4 · n · D · 4 bytes"),
    mistakes=(
        Mistake(
            "as given",
            _blocked(
                lambda start, stop, window, ahead, n_keys: (
                    min(max(0, start - window), n_keys),
                    min(n_keys, stop - 1 + window),
                ),
                _within,
            ),
            "both bugs are still there: your output is that of the given code",
            "start with Tq = Tk = 40: which rows differ from dense attention, and which key is "
            "missing there?",
        ),
        Mistake(
            "only the last key repaired",
            _blocked(_stretch(ahead_sign=0), _within),
            "one bug is left: the slice of keys takes query i to sit at key i",
            "where Tq and Tk differ, both ends of the slice move by ahead",
        ),
        Mistake(
            "only the position repaired",
            _blocked(_stretch(right=-1), _within),
            "one bug is left: the last query of each block misses its farthest key",
            "a slice leaves out its end: the last key of query stop - 1 is stop - 1 + window",
        ),
        Mistake(
            "moved the wrong way",
            _blocked(_stretch(ahead_sign=-1), _within),
            "your slice moves against the queries",
            "query i sits at key position i + ahead, with ahead = n_keys - n_queries",
        ),
        Mistake(
            "end not clipped at 0",
            _blocked(
                lambda start, stop, window, ahead, n_keys: (
                    max(0, start + ahead - window),
                    min(n_keys, stop + ahead + window),
                ),
                _within,
            ),
            "your slice ends at a negative key for blocks before the first one: Python then counts "
            "from the end",
            "clip the end at 0 as well: max(0, min(n_keys, stop + ahead + window))",
        ),
        Mistake(
            "mask dropped",
            _blocked(_stretch(), lambda distance, window: distance >= 0),
            "each query of a block sees all keys that the block needs together",
            "keep the mask inside the tile: only |position - key| <= window is visible",
        ),
        Mistake(
            "mask widened",
            _blocked(_stretch(right=1), lambda distance, window: distance <= window + 1),
            "your window reaches one key too far",
            "the mask was right: change only the slice of keys",
        ),
        Mistake(
            "dense",
            lambda q, k, v, window, block=32: dense_window(q, k, v, window),
            "your numbers are right, but the blocks are gone: all Tq × Tk scores exist at once",
            "repair the two lines that cut the keys, and keep the loop",
        ),
    ),
    alternatives=(_blocked(_stretch(), _within), _repaired_without_clipping),
)
