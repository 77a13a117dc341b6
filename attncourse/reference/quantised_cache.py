"""Attention with a key/value cache in int8: a quarter of float32's bytes, half of float16's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.reference._parts.int8 import (
    QuantisedCache,
    dequantise,
    error_bound,
    quantise,
    size_bytes,
)

__all__ = [
    "QuantisedCache",
    "attention",
    "cost",
    "dequantise",
    "error_bound",
    "quantise",
    "start",
    "step",
]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    group: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return grouped attention over keys and values of which all but the newest are in int8.

    Keys have a scale for each channel and `group` tokens, values one for each token. Query i sees
    the keys of its own group as they came and those of the groups before in int8, as in
    generation; where not causal, the last group is the newest. One group is dequantised at a time.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        group: Tokens whose keys share their scales.

    Returns:
        Off from exact attention by `error_bound` at most.

    Raises:
        ValueError: group < 1.

    Memory:
        The cache: one byte a number, 4·D / group + 4 bytes of scales a token, and `group` tokens in
        the dtype of k; and the scores of one block of 128 rows.

    Paper:
        Liu et al. 2024, arXiv:2402.02750 (there in 2 bits).
    """
    where = "quantised_cache.attention"
    grouped.check_grouped(where, q, k, v)
    group = check_count(where, "group", group, least=1)
    causal = check_flag(where, "causal", causal)
    factor = check_scale(where, scale, q.shape[-1])
    ahead = k.shape[-2] - q.shape[-2]
    cache, prompt = start(k, v, group=group), max(ahead, 0) if causal else k.shape[-2]
    cache.append(k[..., :prompt, :], v[..., :prompt, :])
    if not causal:
        return _attend(cache, q, causal, factor)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    rows = slice(max(-ahead, 0), None)
    queries, keys, values = q[..., rows, :], k[..., prompt:, :], v[..., prompt:, :]
    _steps(cache, queries, keys, values, out[..., rows, :], factor)
    return out


def start(k: np.ndarray, v: np.ndarray, *, group: int) -> QuantisedCache:
    """Return an empty cache for tokens like k (..., G, T, D) and v."""
    return QuantisedCache(k, v, check_count("quantised_cache.start", "group", group, least=1))


def step(
    state: QuantisedCache,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float | None = None,
) -> tuple[np.ndarray, QuantisedCache]:
    """Append the new tokens and let them attend; many at once give what one by one would.

    Arguments and result as in `attncourse.reference`.

    Args:
        state: The cache; it is changed in place.
        q: A query for each new key.
    """
    grouped.check_grouped("quantised_cache.step", q, k, v)
    if q.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"quantised_cache.step: q and k must have the same number of tokens, "
            f"got {q.shape[-2]} and {k.shape[-2]}"
        )
    factor = check_scale("quantised_cache.step", scale, q.shape[-1])
    out = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    _steps(state, q, k, v, out, factor)
    return out, state


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    group: int,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`."""
    G = grouped.check_groups("quantised_cache.cost", H, groups)
    group = check_count("quantised_cache.cost", "group", group, least=1)
    causal = check_flag("quantised_cache.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # scales, scores and dequantised groups
    out, newest = B * H * Tq * D * dtype_bytes, 2 * B * G * min(group, Tk) * D * dtype_bytes
    flops = read = peak = 0
    for n_queries, seen in _parts(Tq, Tk, group) if causal else [(Tq, Tk)]:
        one = pieces.cost(B, H, n_queries, seen, D, G, group, causal, dtype_bytes)
        full = size_bytes(_n_full(seen, group) * group, G, D, group=group, batch=B)
        exact = 2 * B * G * (seen - _n_full(seen, group) * group) * D * dtype_bytes
        n_blocks = len(list(pieces.blocks(n_queries, seen, H // G, causal)))
        flops += one.flops
        read += B * H * n_queries * D * dtype_bytes + n_blocks * (full + exact)
        peak = max(peak, full + one.peak_bytes)
    tokens = 2 * B * G * Tk * D * dtype_bytes
    written = newest + size_bytes(_n_full(Tk, group) * group, G, D, group=group, batch=B)
    dequantised = 2 * B * G * min(group, Tk) * D * work_bytes  # one in use, the next in the making
    return Cost(
        flops=flops,
        bytes_read=tokens + read,
        bytes_written=written + out,
        peak_bytes=newest + peak + dequantised + (out if causal else 0),
    )


def _attend(cache: QuantisedCache, q: np.ndarray, causal: bool, factor: float) -> np.ndarray:
    return pieces.attend(q, cache.keys, cache.values, *cache.shapes, causal, factor)


def _steps(cache, q, k, v, out, factor) -> None:
    """Write into `out` what each query sees; the queries of one group go together."""
    start = 0
    while start < q.shape[-2]:
        stop = start + cache.group - cache.length % cache.group
        part = slice(start, stop)
        cache.append(k[..., part, :], v[..., part, :])
        out[..., part, :] = _attend(cache, q[..., part, :], True, factor)
        start = stop


def _parts(n_queries: int, n_keys: int, group: int) -> Iterator[tuple[int, int]]:
    """Yield (queries, keys in the cache) of each part that `_steps` takes at once."""
    seen = max(n_keys - n_queries, 0)
    while seen < n_keys:
        stop = min(seen // group * group + group, n_keys)
        yield stop - seen, stop
        seen = stop


def _n_full(tokens: int, group: int) -> int:
    """Return how many groups are in int8 when the cache has so many tokens."""
    return max(-(-tokens // group) - 1, 0)
