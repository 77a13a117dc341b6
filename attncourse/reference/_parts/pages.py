"""Pages of tokens: a pool that hands them out, tables that string them together, their waste."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attncourse.inputs import check_count, check_qkv
from attncourse.softmax import nan_to_keys


class PagePool:
    """A fixed number of pages. A page has room for the keys and values of `page` tokens.

    Attributes:
        keys: (n_pages, G, page, D).
        values: (n_pages, G, page, Dv).
        owners: int (n_pages,): how many tables hold each page; 0 means free.
    """

    def __init__(
        self,
        n_pages: int,
        page: int,
        heads: int,
        width: int,
        value_width: int | None = None,
        dtype: Any = np.float32,
    ) -> None:
        """Make room for n_pages · page tokens of G = `heads`, D = `width` and Dv."""
        n_pages = check_count("paged.PagePool", "n_pages", n_pages)
        page = check_count("paged.PagePool", "page", page, least=1)
        value_width = width if value_width is None else value_width
        self.keys = np.empty((n_pages, heads, page, width), dtype)
        self.values = np.empty((n_pages, heads, page, value_width), dtype)
        self.owners = np.zeros(n_pages, dtype=np.int64)
        self._free = list(range(n_pages))[::-1]  # the next page is the last of the list

    @property
    def page(self) -> int:
        """Tokens in a page."""
        return self.keys.shape[-2]

    @property
    def n_free(self) -> int:
        """Pages that no table holds."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Return the numbers of so many free pages, now held once.

        Raises:
            MemoryError: Fewer are free; none is taken.
        """
        if count > self.n_free:
            raise MemoryError(
                f"paged.allocate: {count} pages asked for, {self.n_free} of {len(self.owners)} free"
            )
        pages = [self._free.pop() for _ in range(count)]
        self.owners[pages] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Let one more table hold these pages."""
        self.owners[list(pages)] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Let one table less hold these pages; those that nobody holds are free.

        Raises:
            ValueError: A page that is free already.
        """
        for number in pages:
            if self.owners[number] == 0:
                raise ValueError(f"paged.release: page {number} is free already")
            self.owners[number] -= 1
            if self.owners[number] == 0:
                self._free.append(number)


class PageTable:
    """The pages of one sequence, in the order of its tokens; the pages may lie anywhere.

    Attributes:
        pool: Where the pages lie.
        pages: Their numbers.
        length: Tokens in the sequence.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool, self.pages, self.length = pool, [], 0

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Put new tokens at the end: k (G, T, D) and v (G, T, Dv).

        Copy on write: if another table holds the last page and there is room left in it, its
        tokens move to an own page first.

        Raises:
            ValueError: Tokens of another shape or dtype than the pool's.
            MemoryError: Too few free pages; nothing is written.
        """
        pool, page = self.pool, self.pool.page
        self._check(k, v)
        k, v = nan_to_keys(k, v)
        end = self.length + k.shape[-2]
        used = self.length % page
        copies = int(end > self.length and used > 0 and pool.owners[self.pages[-1]] > 1)
        fresh = pool.allocate(-(-end // page) - len(self.pages) + copies)
        if copies:
            shared, own = self.pages[-1], fresh.pop(0)
            for store in (pool.keys, pool.values):
                store[own, :, :used] = store[shared, :, :used]
            pool.release([shared])
            self.pages[-1] = own
        self.pages += fresh
        for store, tokens in ((pool.keys, k), (pool.values, v)):
            for start in range(self.length // page * page, end, page):
                first, last = max(start, self.length), min(start + page, end)
                room = store[self.pages[start // page], :, first - start : last - start]
                room[...] = tokens[:, first - self.length : last - self.length]
        self.length = end

    def fork(self) -> PageTable:
        """Return a second table with the same tokens; they are shared, not copied."""
        twin = PageTable(self.pool)
        twin.pages, twin.length = list(self.pages), self.length
        self.pool.share(self.pages)
        return twin

    def truncate(self, length: int = 0) -> None:
        """Drop the tokens from `length` on and give back the pages that are no longer needed."""
        if check_count("paged.truncate", "length", length) > self.length:
            raise ValueError(f"paged.truncate: {length} tokens to keep, there are {self.length}")
        needed = -(-length // self.pool.page)
        self.pool.release(self.pages[needed:])
        del self.pages[needed:]
        self.length = length

    def _check(self, k: np.ndarray, v: np.ndarray) -> None:
        check_qkv("paged.append", k, k, v)
        for name, new, store in (("k", k, self.pool.keys), ("v", v, self.pool.values)):
            fits = (store.shape[1], new.shape[-2], store.shape[-1])
            if new.shape != fits or new.dtype != store.dtype:
                raise ValueError(
                    f"paged.append: {name} must be {store.dtype} {fits}, "
                    f"got {new.dtype} {new.shape}"
                )
