"""The two factors of the Sparse Transformer: near keys, and far ones at every stride-th position.

As masks, as two heads would use them, and as passes over blocks for one head that uses both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse import masks
from attncourse.definitions.patterns import check_factors
from attncourse.inputs import check_flag
from attncourse.reference import strided, window
from attncourse.reference._parts.block import BLOCK

Pass = Iterator[tuple[slice, slice | np.ndarray, np.ndarray]]
"""Queries, their keys, and bool (queries, keys) of what is hidden, block by block."""


def factors(
    n_queries: int,
    n_keys: int,
    *,
    stride: int,
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks (Tq, Tk) of the near and of the far factor, as two heads would use them.

    One layer of the near factor and one of the far join every pair of tokens: near keys carry to
    the column or the summary from which the far ones fetch.
    """
    stride, summary = check_factors("sparse_transformer.factors", stride, pattern, summary)
    causal = check_flag("sparse_transformer.factors", "causal", causal)
    if pattern == "strided":
        near = window.mask(n_queries, n_keys, window=stride, causal=causal)
        return near, strided.mask(n_queries, n_keys, stride=stride, causal=causal)
    near = masks.blocks(n_queries, n_keys, block=stride)
    far = np.tile(np.arange(n_keys) % stride >= stride - summary, (n_queries, 1))
    past = masks.causal(n_queries, n_keys) if causal else True
    return near & past, far & past


def passes(
    n_queries: int, n_keys: int, stride: int, pattern: str, summary: int, causal: bool
) -> Pass:
    """Yield (queries, keys, hidden) of the near factor, then of the far one without the near."""
    if pattern == "strided":
        yield from _window(n_queries, n_keys, stride, causal)
        yield from _columns(n_queries, n_keys, stride, causal)
    else:
        yield from _own_blocks(n_queries, n_keys, stride, causal)
        yield from _summaries(n_queries, n_keys, stride, summary, causal)


def _window(n_queries: int, n_keys: int, stride: int, causal: bool) -> Pass:
    for rows, keys in window.blocks(n_queries, n_keys, stride, 1, causal):
        hidden = window.outside(rows, keys, n_queries, n_keys, stride, 1, causal)
        yield slice(rows.start, rows.stop), slice(keys.start, keys.stop), hidden


def _columns(n_queries: int, n_keys: int, stride: int, causal: bool) -> Pass:
    for rows, keys in strided.blocks(n_queries, n_keys, stride, causal):
        own = (rows.start + n_keys - n_queries) // stride  # the query's step in its column
        before = np.tri(len(rows), len(keys), own - 2, dtype=bool)  # own ± 1 are in the window
        after = ~np.tri(len(rows), len(keys), own + 1, dtype=bool)
        hidden = ~before if causal else ~(before | after)
        yield slice(rows.start, rows.stop, stride), slice(keys.start, keys.stop, stride), hidden


def _own_blocks(n_queries: int, n_keys: int, stride: int, causal: bool) -> Pass:
    ahead = n_keys - n_queries
    for start in range(0, n_keys, stride):
        end = min(start + stride, n_keys)
        for first in range(max(start - ahead, 0), end - ahead, BLOCK):
            last = min(first + BLOCK, end - ahead)
            seen = np.tri(last - first, end - start, first + ahead - start, dtype=bool)
            yield slice(first, last), slice(start, end), ~seen & causal


def _summaries(n_queries: int, n_keys: int, stride: int, summary: int, causal: bool) -> Pass:
    for first in range(0, n_queries, BLOCK):
        own = masks.positions(n_queries, n_keys)[first : first + BLOCK, None] // stride
        tokens = np.arange(max(own[-1, 0] * stride, 0) if causal else n_keys)
        tokens = tokens[tokens % stride >= stride - summary]
        hidden = tokens // stride >= own if causal else tokens // stride == own
        yield slice(first, first + len(own)), tokens, hidden
