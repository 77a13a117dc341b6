"""Attention over pages that lie anywhere in a pool; a block table says whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attncourse.inputs import check_flag, check_scale
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.reference._parts.pages import PagePool, PageTable


def attend(
    q: np.ndarray,
    key_pages: np.ndarray,
    value_pages: np.ndarray,
    table: np.ndarray,
    lengths: np.ndarray,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return the attention of each sequence over its own pages.

    Args:
        q: (S, H, Tq, D), S sequences.
        key_pages: (n_pages, G, page, D), the pool.
        value_pages: (n_pages, G, page, Dv).
        table: int (S, max_pages): the pages of each sequence in order; entries beyond its length
            are not looked at.
        lengths: int (S,): tokens of each sequence.
        causal: The queries are the last Tq tokens of each sequence, and see no later one.

    Returns:
        (S, H, Tq, Dv) in the dtype of q.

    Raises:
        TypeError: A table or lengths that hold no integers.
        ValueError: Shapes or dtypes that do not fit, a sequence longer than its pages, or a table
            that points outside the pool.
    """
    _check(q, key_pages, value_pages, table, lengths)
    causal = check_flag("paged.attend", "causal", causal)
    factor = check_scale("paged.attend", scale, q.shape[-1])
    n_groups, page = key_pages.shape[1:3]
    value_width = value_pages.shape[-1]
    out = np.empty((*q.shape[:-1], value_width), q.dtype)
    for one, rows, numbers, length in zip(out, q, table, lengths.tolist(), strict=True):
        keys, values = (of_pages(store, numbers, page) for store in (key_pages, value_pages))
        seen = (n_groups, length)
        one[...] = pieces.attend(rows, keys, values, seen, value_width, causal, factor)
    return out


def of_pages(store: np.ndarray, numbers: np.ndarray, page: int) -> pieces.Pieces:
    """Return the tokens of one sequence as pieces: a view of each page, cut to its tokens."""
    return lambda stop: (
        store[number, :, : min(page, stop - i * page)]
        for i, number in enumerate(numbers[: -(-stop // page)])
    )


def as_arrays(tables: Sequence[PageTable]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tables as `attend` takes them: int (S, max_pages), unused -1, and lengths (S,)."""
    longest = max((len(table.pages) for table in tables), default=0)
    numbers = np.full((len(tables), longest), -1, dtype=np.int64)
    for row, table in zip(numbers, tables, strict=True):
        row[: len(table.pages)] = table.pages
    return numbers, np.array([table.length for table in tables], dtype=np.int64)


class PagedCache:
    """A batch of sequences over one pool of pages.

    Attributes:
        pool: Where all pages lie.
        tables: One for each sequence, in the order of the leading axes.
    """

    def __init__(self, pool: PagePool, tables: Sequence[PageTable]) -> None:
        self.pool, self.tables = pool, list(tables)

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Put new tokens at the end of each sequence: k (..., G, T, D) and v (..., G, T, Dv).

        Raises:
            MemoryError: Too few free pages; no sequence has grown.
        """
        lengths = [table.length for table in self.tables]
        try:
            for table, index in zip(self.tables, np.ndindex(k.shape[:-3]), strict=True):
                table.append(k[index], v[index])
        except MemoryError:
            for table, length in zip(self.tables, lengths, strict=True):
                table.truncate(length)
            raise

    def attend(self, q: np.ndarray, *, causal: bool, scale: float | None = None) -> np.ndarray:
        """Return attention of q (..., H, T, D); if causal, q are each sequence's last T tokens."""
        keys, values = self.pool.keys, self.pool.values
        sequences = q.reshape(len(self.tables), *q.shape[-3:])
        out = attend(sequences, keys, values, *as_arrays(self.tables), causal=causal, scale=scale)
        return out.reshape(*q.shape[:-1], values.shape[-1])


def _check(q, key_pages, value_pages, table, lengths) -> None:
    where = "paged.attend"
    for name, array in (("q", q), ("key_pages", key_pages), ("value_pages", value_pages)):
        if np.ndim(array) != 4:
            raise ValueError(f"{where}: {name} must have 4 axes, got shape {np.shape(array)}")
    if len(q) and len(key_pages) and len(value_pages):
        grouped.check_grouped(where, q[0], key_pages[0], value_pages[0])
    for name, array, shape in (("table", table, (len(q), -1)), ("lengths", lengths, (len(q),))):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            raise TypeError(f"{where}: {name} must be an array of integers, got {array!r}")
        if array.ndim != len(shape) or len(array) != len(q):
            raise ValueError(f"{where}: {name} must have a row for each of {len(q)} sequences")
    n_pages, _, page, _ = key_pages.shape
    for i, (numbers, length) in enumerate(zip(table, lengths.tolist(), strict=True)):
        if not 0 <= length <= len(numbers) * page:
            raise ValueError(
                f"{where}: sequence {i} has {length} tokens, its {len(numbers)} pages hold "
                f"{len(numbers) * page}"
            )
        used = numbers[: -(-length // page)]
        outside = used[(used < 0) | (used >= n_pages)]
        if len(outside):
            raise ValueError(
                f"{where}: table must point to pages 0 ... {n_pages - 1}, "
                f"got {outside[0]} for sequence {i}"
            )
