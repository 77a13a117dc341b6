"""Exercise 04.1: the mask of a window."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window as reference


def window_mask(n_queries: int, n_keys: int, window: int, causal: bool) -> np.ndarray:
    """Return the mask (Tq, Tk) of window attention."""
    return reference.mask(n_queries, n_keys, window=window, causal=causal)


def _offset(n_queries, n_keys):
    """Return how far key j lies after query i, (Tq, Tk)."""
    return np.arange(n_keys) - np.arange(n_queries)[:, None] - (n_keys - n_queries)


def _mask_by_rows(n_queries, n_keys, window, causal):
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for i in range(n_queries):
        position = i + n_keys - n_queries
        last = position if causal else position + window
        mask[i, max(0, position - window) : max(0, last + 1)] = True
    return mask


def _mask_by_diagonals(n_queries, n_keys, window, causal):
    ahead = n_keys - n_queries
    upper = np.tri(n_queries, n_keys, ahead + (0 if causal else window), dtype=bool)
    return upper & ~np.tri(n_queries, n_keys, ahead - window - 1, dtype=bool)


def _mask_half(n_queries, n_keys, window, causal):
    return window_mask(n_queries, n_keys, window // 2, causal)


def _mask_strict(n_queries, n_keys, window, causal):
    offset = _offset(n_queries, n_keys)
    return (np.abs(offset) < window) & ((offset <= 0) | (not causal))


def _mask_first_aligned(n_queries, n_keys, window, causal):
    offset = np.arange(n_keys) - np.arange(n_queries)[:, None]
    return (np.abs(offset) <= window) & ((offset <= 0) | (not causal))


def _mask_never_causal(n_queries, n_keys, window, causal):
    return window_mask(n_queries, n_keys, window, False)


def _mask_future(n_queries, n_keys, window, causal):
    offset = _offset(n_queries, n_keys)
    return (np.abs(offset) <= window) & ((offset >= 0) | (not causal))


def _mask_without_self(n_queries, n_keys, window, causal):
    offset = _offset(n_queries, n_keys)
    return (np.abs(offset) <= window) & ((offset < 0) | (not causal))


def _mask_inverted(n_queries, n_keys, window, causal):
    return ~window_mask(n_queries, n_keys, window, causal)


def _mask_transposed(n_queries, n_keys, window, causal):
    return window_mask(n_queries, n_keys, window, causal).T


def _mask_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token, window 0", (1, 1, 0, False)),
        ("1 token, window 3, causal", (1, 1, 3, True)),
        ("window 0", (4, 4, 0, False)),
        ("window 1", (4, 4, 1, False)),
        ("window 1, causal", (4, 4, 1, True)),
        ("window larger than n", (4, 4, 9, False)),
        ("1 query, 5 keys", (1, 5, 2, False)),
        ("fewer queries than keys", (3, 7, 2, False)),
        ("fewer queries than keys, causal", (3, 7, 2, True)),
        ("more queries than keys: empty rows", (7, 3, 1, False)),
        ("more queries than keys, causal", (7, 3, 1, True)),
        ("60 queries, 20 keys", (60, 20, 1, False)),
        ("20 queries, 60 keys", (20, 60, 3, False)),
        ("60 queries, 20 keys, causal", (60, 20, 3, True)),
    ]
    random = []
    for _ in range(6):
        *sizes, window = (int(x) for x in generator.integers(1, (40, 40, 15)))
        arguments = (*sizes, window, bool(generator.integers(2)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


WINDOW_MASK = Exercise(
    id="04.1",
    chapter="04",
    title="Window mask",
    function="window_mask",
    kind="mask",
    minutes=10,
    difficulty=1,
    points=2,
    hints=(
        "Compare two positions. Where does query i sit if the last query stands at the last key?",
        "Make a column of query positions and a row of key positions; broadcasting gives every "
        "difference at once.",
        "offset = np.arange(n_keys) - (np.arange(n_queries)[:, None] + n_keys - n_queries). "
        "Keep |offset| <= window, and if causal also offset <= 0.",
    ),
    reference=window_mask,
    cases=_mask_cases,
    mistakes=(
        Mistake(
            "window as total",
            _mask_half,
            "your window is the total: window // 2 keys on each side",
            "here window is a radius: that many keys on each side",
        ),
        Mistake(
            "strictly less",
            _mask_strict,
            "your mask leaves out the keys at distance exactly window",
            "use <= for the distance, not <",
        ),
        Mistake(
            "aligned at the start",
            _mask_first_aligned,
            "your mask puts query i at key i, which is right only for Tq = Tk",
            "add n_keys - n_queries to the position of each query",
        ),
        Mistake(
            "causal ignored",
            _mask_never_causal,
            "your mask shows future keys although causal is True",
            "if causal, also ask for key position <= query position",
        ),
        Mistake(
            "causal backwards",
            _mask_future,
            "your causal mask keeps the future and hides the past",
            "turn the comparison of the two positions round",
        ),
        Mistake(
            "causal without self",
            _mask_without_self,
            "your causal mask hides each query's own key",
            "use <= against the query's own position, not <",
        ),
        Mistake(
            "inverted",
            _mask_inverted,
            "your mask is inverted: True where nothing may be seen",
            "True means: may attend",
        ),
        Mistake(
            "transposed",
            _mask_transposed,
            "your mask is transposed: rows are keys, columns are queries",
            "put queries in rows: shape (n_queries, n_keys)",
        ),
    ),
    alternatives=(_mask_by_rows, _mask_by_diagonals),
)
