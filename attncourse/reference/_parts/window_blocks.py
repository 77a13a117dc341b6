"""The blocks of window attention: a few queries, the short stretch of keys that they may see."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from attncourse.inputs import check_count
from attncourse.reference._parts.block import BLOCK


def blocks(
    n_queries: int, n_keys: int, window: int, dilation: int, causal: bool
) -> Iterator[tuple[range, range]]:
    """Yield (queries, keys): up to BLOCK queries of one residue class and all keys they may see."""
    ahead = n_keys - n_queries
    for start in range(min(dilation, n_queries)):
        for first in range(start, n_queries, BLOCK * dilation):
            rows = range(first, min(first + BLOCK * dilation, n_queries), dilation)
            left = first + ahead - window * dilation
            left = max(left, left % dilation)  # the first key of this residue class, or later
            right = rows[-1] + ahead + (0 if causal else window * dilation)
            yield rows, range(left, max(left, min(right + 1, n_keys)), dilation)


def outside(
    rows: range, keys: range, n_queries: int, n_keys: int, window: int, dilation: int, causal: bool
) -> np.ndarray:
    """Return which pairs of a block from `blocks` the window hides, bool (queries, keys)."""
    own = (rows.start + n_keys - n_queries - keys.start) // dilation  # where the first query sits
    # a band beyond the corners hides no more, and 64 bits hold it
    first, last = max(own - window, -len(rows)), min(own + (0 if causal else window), len(keys))
    return _outside(len(rows), len(keys), first, last)


@functools.lru_cache(maxsize=1)  # blocks between the edges share theirs, one after the other
def _outside(n_rows: int, n_columns: int, first: int, last: int) -> np.ndarray:
    """Return True beside a diagonal band, which in row 0 runs from column `first` to `last`."""
    hidden = ~np.tri(n_rows, n_columns, last, dtype=bool)
    hidden |= np.tri(n_rows, n_columns, first - 1, dtype=bool)
    hidden.flags.writeable = False
    return hidden


def check_window(where: str, window: int, dilation: int) -> tuple[int, int]:
    """Return window and dilation as ints, or refuse what is no count."""
    window = check_count(where, "window", window)
    return window, check_count(where, "dilation", dilation, least=1)
