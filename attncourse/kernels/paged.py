"""Paged attention in Triton: split-KV, with a look into the block table for where each key lies."""

import torch
import triton

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_new_tokens, check_scale, int_sizes
from attncourse.kernels._parts import splits
from attncourse.kernels._parts.block_table import attend
from attncourse.kernels._parts.pages import PagedCache
from attncourse.kernels._parts.tiles import room_for, tiling
from attncourse.kernels.grouped import check_groups

__all__ = ["PagedCache", "attend", "attention", "cost", "start", "step"]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    page: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return grouped attention over keys and values that are put into pages first.

    One kernel scatters the tokens into pages, a second one attends: as in `kv_cache` a program
    takes one split of the keys, and it finds each key by its page in the block table. The sequence
    is never put together again.

    Contract: `attncourse.kernels`; knobs: `reference.paged.attention`.
    Gradients: none.
    Memory: the pages, less than one page beyond the tokens of each sequence; the rest as
        `kv_cache.attention`.
    """
    where = "paged.attention"
    splits.check(where, q, k, v)
    page = check_count(where, "page", page, least=1)
    causal = check_flag(where, "causal", causal)
    scale = check_scale(where, scale, q.shape[-1])
    cache = start(k, v, page=page)
    cache.append(k, v)
    return cache.attend(q, causal=causal, scale=scale)


def start(k: torch.Tensor, v: torch.Tensor, *, page: int, n_pages: int | None = None) -> PagedCache:
    """Return an empty cache for sequences like k (B, G, T, D) and v.

    Only shape, dtype and device of k and v count. The pool has n_pages, or enough for T tokens of
    each sequence.
    """
    B, G, T = k.shape[:3]
    page = check_count("paged.start", "page", page, least=1)
    n_pages = B * triton.cdiv(T, page) if n_pages is None else n_pages
    n_pages = check_count("paged.start", "n_pages", n_pages)
    each = G * page * (k.shape[-1] + v.shape[-1]) * k.element_size()
    asked = "paged.start", f"{n_pages} pages", n_pages * each
    with room_for(*asked, lambda free: f"{free // each} pages", k.device):
        pools = [a.new_empty(n_pages, G, page, a.shape[-1]) for a in (k, v)]
    return PagedCache(*pools, n_sequences=B)


def step(
    state: PagedCache,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, PagedCache]:
    """Append the new tokens, then let them attend, each sequence to itself.

    The cache is changed in place; fewer queries than keys are those of the last tokens.
    """
    splits.check("paged.step", q, k, v)
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
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    Filling the pages is counted too, and of the block table one entry of 4 bytes for each key that
    a program loads.
    """
    G = check_groups("paged.cost", H, groups)
    page = check_count("paged.cost", "page", page, least=1)
    causal = check_flag("paged.cost", "causal", causal)
    sizes = B, G, H // max(1, G), Tq, Tk, D, max(1, Tq), causal, dtype_bytes
    attending = splits.cost(*sizes, key_bytes=4, program_bytes=4)
    _, BLOCK_K, _ = tiling(D, dtype_bytes)
    tokens, n_pages = 2 * B * G * Tk * D * dtype_bytes, triton.cdiv(Tk, page)
    entries = 4 * B * G * (Tk + triton.cdiv(Tk, BLOCK_K))  # of the table, and lengths
    return Cost(
        flops=attending.flops,
        bytes_read=tokens + entries + attending.bytes_read,
        bytes_written=tokens + attending.bytes_written,
        peak_bytes=2 * B * G * n_pages * page * D * dtype_bytes
        + 4 * B * (n_pages + 1)  # the table and the lengths
        + attending.peak_bytes,
    )
