"""Paged attention in Triton: split-KV, with a look into the block table for where each key lies."""

import torch
import triton

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_new_tokens, check_scale
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

    Args:
        q: (B, H, Tq, D) float32, float16 or bfloat16, any strides, D ≤ 256.
        k: (B, G, Tk, D); G divides H.
        v: (B, G, Tk, Dv), Dv ≤ 256.
        page: Tokens in a page, any number; no effect on values.
        causal: Query i sees keys up to its own position i + Tk - Tq.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (B, H, Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Raises:
        TypeError: No tensors, a dtype without a kernel, or a page that is no integer.
        ValueError: Shapes, dtypes or devices that do not fit, page < 1, or a gradient is asked for.

    Memory:
        The pages: less than one page beyond the tokens of each sequence; the output and one
        float32 for each of its rows and splits; where there is more than one split, also their
        partial outputs in float32.

    Paper:
        Kwon et al. 2023, arXiv:2309.06180, section 4.1.
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

    Args:
        k: Its shape, dtype and device count, its numbers do not.
        v: The same.
        page: Tokens in a page.
        n_pages: Pages of the pool; enough for T tokens of each sequence if not given.
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

    Args:
        state: The cache; it is changed in place.
        q: (B, H, T, D). If fewer than keys, those of the last tokens.
        k: (B, G, T, D); G divides H.
        v: (B, G, T, Dv).
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        out (B, H, T, Dv), and the state.

    Raises:
        ValueError: More queries than new keys, or shapes or dtypes that do not fit.
    """
    splits.check("paged.step", q, k, v)
    scale = check_scale("paged.step", scale, q.shape[-1])
    check_new_tokens("paged.step", q, k)
    state.append(k, v)
    return state.attend(q, causal=True, scale=scale), state


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
    """Count what the kernels of `attention` do, with Dv = D: filling the pages, and attention.

    A program reads one entry of the block table, in 4 bytes, for each key that it loads.

    Args:
        B: Batch.
        H: Query heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        page: Tokens in a page.
        groups: G, key/value heads; H if not given.
        causal: Leaves out the tiles of the future.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    G = check_groups("paged.cost", H, groups)
    page = check_count("paged.cost", "page", page, least=1)
    causal = check_flag("paged.cost", "causal", causal)
    sizes = B, G, H // max(1, G), Tq, Tk, D, max(1, Tq), causal, dtype_bytes
    attending = splits.cost(*sizes, key_bytes=4, program_bytes=4)
    _, BLOCK_KV, _ = tiling(D, dtype_bytes)
    tokens, n_pages = 2 * B * G * Tk * D * dtype_bytes, triton.cdiv(Tk, page)
    entries = 4 * B * G * (Tk + triton.cdiv(Tk, BLOCK_KV))  # of the table, and lengths
    return Cost(
        flops=attending.flops,
        bytes_read=tokens + entries + attending.bytes_read,
        bytes_written=tokens + attending.bytes_written,
        peak_bytes=2 * B * G * n_pages * page * D * dtype_bytes
        + 4 * B * (n_pages + 1)  # the table and the lengths
        + attending.peak_bytes,
    )
