"""Segment recurrence (Transformer-XL): each segment attends to itself and to a memory before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import attend, held_bytes
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    chunk: int,
    memory: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over a query's own segment and the `memory` keys before it.

    The tokens are cut into segments of `chunk` keys. Only the scores of one segment exist, and the
    next one reuses their memory: the (Tq, Tk) matrix is never made. Over layers, what a token knows
    moves on by `memory` keys a layer; the source also keeps the memory's gradients out.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        chunk: Tokens of a segment; segments begin at the keys 0, chunk, 2·chunk ..., and queries
            that sit before the first key belong to the first one.
        memory: Keys before the segment that it sees too.

    Raises:
        ValueError: chunk < 1, memory < 0.

    Memory:
        The scores of one segment: (..., chunk, chunk + memory).

    Paper:
        Dai et al. 2019, arXiv:1901.02860, section 3.2, without its relative positions.
    """
    check_qkv("segment.attention", q, k, v)
    causal = check_flag("segment.attention", "causal", causal)
    chunk, memory = _check_knobs("segment.attention", chunk, memory)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("segment.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, keys in _segments(n_queries, n_keys, chunk, memory):
        own = rows.start + n_keys - n_queries - keys.start  # where the first query sits
        hidden = ~np.tri(len(rows), len(keys), own, dtype=bool) if causal else None
        rows, keys = slice(rows.start, rows.stop), slice(keys.start, keys.stop)
        out[..., rows, :] = attend(q[..., rows, :], k, v, keys, hidden, factor)
    return out


@int_sizes
def mask(
    n_queries: int, n_keys: int, *, chunk: int, memory: int, causal: bool = False
) -> np.ndarray:
    """Return the mask (Tq, Tk) of segment recurrence; arguments as in `attncourse.reference`."""
    chunk, memory = _check_knobs("segment.mask", chunk, memory)
    causal = check_flag("segment.mask", "causal", causal)
    position = np.maximum(masks.positions(n_queries, n_keys), 0)[:, None]
    start = position // chunk * chunk
    key = np.arange(n_keys)
    visible = (key >= start - memory) & (key < start + chunk)  # (Tq, Tk)
    return visible & masks.causal(n_queries, n_keys) if causal else visible


@dataclass(frozen=True)
class State:
    """What generation keeps: the keys and values that later tokens may still see.

    Attributes:
        keys: (..., T, D), from the beginning of a segment on; T < chunk + memory + chunk.
        values: (..., T, Dv).
        chunk: Tokens of a segment.
        memory: Keys before the segment that it sees too.
    """

    keys: np.ndarray
    values: np.ndarray
    chunk: int
    memory: int


def start(k: np.ndarray, v: np.ndarray, *, chunk: int, memory: int) -> State:
    """Return the state before the first token, for keys and values shaped and typed as k and v."""
    check_qkv("segment.start", k, k, v)
    chunk, memory = _check_knobs("segment.start", chunk, memory)
    return State(k[..., :0, :], v[..., :0, :], chunk, memory)


def step(
    state: State, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None
) -> tuple[np.ndarray, State]:
    """Return what the next tokens see, and the state after them: causal attention, continued.

    The state does not grow with the tokens so far, and they may cross from segment to segment.

    Arguments and result as in `attncourse.reference`.

    Args:
        state: From `start` or the step before; left alone.
        q: A query for each new key, any number of them.
    """
    check_qkv("segment.step", q, k, v)
    if q.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"segment.step: q and k must have the same number of tokens, "
            f"got {q.shape[-2]} and {k.shape[-2]}"
        )
    scale = check_scale("segment.step", scale, q.shape[-1])
    keys = np.concatenate([state.keys, k], axis=-2)  # (..., kept + T, D)
    values = np.concatenate([state.values, v], axis=-2)
    chunk, memory = state.chunk, state.memory
    out = attention(q, keys, values, chunk=chunk, memory=memory, causal=True, scale=scale)
    reach = keys.shape[-2] // chunk * chunk - memory  # the first key that the next token sees
    past = max(reach, 0) // chunk * chunk  # whole segments: the others still begin where they did
    kept = (array[..., past:, :].copy() for array in (keys, values))  # a view would keep it all
    return out, State(*kept, chunk, memory)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    memory: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    Causal adds the boolean mask of a segment to the peak.
    """
    chunk, memory = _check_knobs("segment.cost", chunk, memory)
    causal = check_flag("segment.cost", "causal", causal)
    pairs = loaded = largest = 0
    for rows, keys in _segments(Tq, Tk, chunk, memory):
        pairs += len(rows) * len(keys)
        loaded += (len(rows) + 2 * len(keys)) * D
        held = held_bytes(B * H, len(rows), len(keys), D, dtype_bytes)
        largest = max(largest, held + len(rows) * len(keys) * causal)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def _segments(
    n_queries: int, n_keys: int, chunk: int, memory: int
) -> Iterator[tuple[range, range]]:
    """Yield (queries, keys): up to `chunk` queries of one segment, and all keys it may see."""
    ahead = n_keys - n_queries
    for begin in range(max(ahead, 0) // chunk * chunk, n_keys, chunk):
        end = min(begin + chunk, n_keys)
        keys = range(max(begin - memory, 0), end)
        first = begin - ahead if begin > max(ahead, 0) else 0
        for row in range(first, end - ahead, chunk):
            yield range(row, min(row + chunk, end - ahead)), keys


def _check_knobs(where: str, chunk: int, memory: int) -> tuple[int, int]:
    chunk = check_count(where, "chunk", chunk, least=1)
    return chunk, check_count(where, "memory", memory)
