"""Attention with a key/value cache: each token's key and value are computed once and kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_new_tokens, check_scale, int_sizes
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.reference._parts.evicting import survivors
from attncourse.reference._parts.growing import KVCache, size_bytes

__all__ = ["KVCache", "attention", "cost", "replay", "size_bytes", "start", "step", "survivors"]


def start(k: np.ndarray, v: np.ndarray, *, capacity: int | None = None) -> KVCache:
    """Return an empty cache for tokens like k (..., G, T, D) and v, with room for T of them.

    Args:
        capacity: Room for so many tokens instead of T.
    """
    room = k.shape[-2] if capacity is None else check_count("kv_cache.start", "capacity", capacity)
    return KVCache(*(np.empty((*a.shape[:-2], room, a.shape[-1]), a.dtype) for a in (k, v)))


def step(
    state: KVCache, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None
) -> tuple[np.ndarray, KVCache]:
    """Append the new tokens, then let them attend: in this order, so that a token sees itself.

    Arguments and result as in `attncourse.reference`.

    Args:
        state: The cache; it is changed in place.
        q: One query in generation, more in prefill; fewer than keys are those of the last tokens.
    """
    grouped.check_grouped("kv_cache.step", q, k, v)
    scale = check_scale("kv_cache.step", scale, q.shape[-1])
    check_new_tokens("kv_cache.step", q, k)
    state.append(k, v)
    return state.attend(q, causal=True, scale=scale), state


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    chunk: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return grouped attention, computed as generation does: through a cache, chunk by chunk.

    Causal: the keys before the first query are the prompt; then each step brings `chunk` tokens.
    Not causal: all keys are in the cache before the first query, as in cross-attention.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        chunk: Tokens a step: 1 is generation, more is prefill in chunks; no effect on values.

    Raises:
        ValueError: chunk < 1.

    Memory:
        The cache: (..., G, Tk, D + Dv) in the dtype of k, and the scores of one block of 128 rows.

    Paper:
        Shazeer 2019, arXiv:1911.02150, section 2.4.
    """
    grouped.check_grouped("kv_cache.attention", q, k, v)
    chunk = check_count("kv_cache.attention", "chunk", chunk, least=1)
    causal = check_flag("kv_cache.attention", "causal", causal)
    scale = check_scale("kv_cache.attention", scale, q.shape[-1])
    return replay(start(k, v), q, k, v, chunk=chunk, causal=causal, scale=scale)


def replay(
    cache: Any,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    chunk: int,
    causal: bool,
    scale: float | None,
) -> np.ndarray:
    """Send q, k and v through any cache that can `append` and `attend`, as `attention` says."""
    ahead = k.shape[-2] - q.shape[-2]
    prompt = max(ahead, 0) if causal else k.shape[-2]
    cache.append(k[..., :prompt, :], v[..., :prompt, :])
    out = np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)  # (..., H, Tq, Dv)
    for first in range(max(-ahead, 0) if causal else 0, q.shape[-2], chunk):
        rows = slice(first, first + chunk)
        if causal:
            new = slice(first + ahead, first + ahead + chunk)
            cache.append(k[..., new, :], v[..., new, :])
        out[..., rows, :] = cache.attend(q[..., rows, :], causal=causal, scale=scale)
    return out


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does: the writing of the cache, and each step.

    Arguments and rules as in `attncourse.reference`.
    """
    G = grouped.check_groups("kv_cache.cost", H, groups)
    chunk = check_count("kv_cache.cost", "chunk", chunk, least=1)
    causal = check_flag("kv_cache.cost", "causal", causal)
    sizes = pieces.PIECE, causal, dtype_bytes
    steps = []
    for first in range(max(Tq - Tk, 0) if causal else 0, Tq, chunk):
        n = min(chunk, Tq - first)
        seen = first + n + Tk - Tq if causal else Tk
        steps.append(pieces.cost(B, H, n, seen, D, G, *sizes))
    cache = size_bytes(Tk, G, D, batch=B, dtype_bytes=dtype_bytes)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=sum(one.flops for one in steps),
        bytes_read=cache + sum(one.bytes_read for one in steps),
        bytes_written=cache + sum(one.bytes_written for one in steps),
        peak_bytes=cache + out + max((one.peak_bytes for one in steps), default=0),
    )
