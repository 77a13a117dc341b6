"""Paged attention: the cache of each sequence is a table of pages, and the pages lie anywhere."""

from __future__ import annotations

import math

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_new_tokens, check_scale, int_sizes
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.reference._parts.block_table import PagedCache, attend
from attncourse.reference._parts.fragmentation import utilisation, waste
from attncourse.reference._parts.pages import PagePool, PageTable

__all__ = [
    "PagePool",
    "PageTable",
    "PagedCache",
    "attend",
    "attention",
    "cost",
    "start",
    "step",
    "utilisation",
    "waste",
]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    page: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return grouped attention over keys and values that are put into pages first.

    A page is multiplied where it lies: the sequence is never put together again.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        page: Tokens in a page; no effect on values.

    Raises:
        ValueError: page < 1.

    Memory:
        The pages: less than one page beyond the tokens of each sequence; and for one sequence at a
        time its out and the scores of one block, (G, 128, Tk).

    Paper:
        Kwon et al. 2023, arXiv:2309.06180, section 4.1.
    """
    grouped.check_grouped("paged.attention", q, k, v)
    page = check_count("paged.attention", "page", page, least=1)
    causal = check_flag("paged.attention", "causal", causal)
    scale = check_scale("paged.attention", scale, q.shape[-1])
    if q.ndim == 2:
        heads = (array[None] for array in (q, k, v))
        return attention(*heads, page=page, causal=causal, scale=scale)[0]
    cache = start(k, v, page=page)
    cache.append(k, v)
    return cache.attend(q, causal=causal, scale=scale)


def start(k: np.ndarray, v: np.ndarray, *, page: int, n_pages: int | None = None) -> PagedCache:
    """Return an empty cache for sequences like k (..., G, T, D) and v.

    Args:
        n_pages: Pages of the pool; enough for T tokens of each sequence if not given.
    """
    *batch, heads, tokens, width = k.shape
    page = check_count("paged.start", "page", page, least=1)
    n_pages = math.prod(batch) * -(-tokens // page) if n_pages is None else n_pages
    pool = PagePool(n_pages, page, heads, width, v.shape[-1], k.dtype)
    return PagedCache(pool, [PageTable(pool) for _ in np.ndindex(*batch)])


def step(
    state: PagedCache, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None
) -> tuple[np.ndarray, PagedCache]:
    """Append the new tokens, then let them attend, each sequence to itself.

    Arguments and result as in `attncourse.reference`.

    Args:
        state: The cache; it is changed in place.
        q: If fewer than keys, those of the last tokens.
    """
    grouped.check_grouped("paged.step", q, k, v)
    scale = check_scale("paged.step", scale, q.shape[-1])
    check_new_tokens("paged.step", q, k)
    state.append(k, v)
    return state.attend(q, causal=True, scale=scale), state


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    page: int,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does: the writing of the pages, and attention over them.

    Arguments and rules as in `attncourse.reference`.

    Pages after a causal block's last query are not read.
    """
    G = grouped.check_groups("paged.cost", H, groups)
    page = check_count("paged.cost", "page", page, least=1)
    causal = check_flag("paged.cost", "causal", causal)
    one = pieces.cost(1, H, Tq, Tk, D, G, page, causal, dtype_bytes)
    tokens = 2 * B * G * Tk * D * dtype_bytes
    room = 2 * B * G * -(-Tk // page) * page * D * dtype_bytes
    return Cost(
        flops=B * one.flops,
        bytes_read=tokens + B * one.bytes_read,
        bytes_written=tokens + B * one.bytes_written,
        peak_bytes=room + B * one.bytes_written + one.peak_bytes,
    )
