"""Longformer: a window for all tokens, and a few global tokens that see all and are seen by all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_flag, check_positions, check_qkv, check_scale, int_sizes
from attncourse.reference import window as local
from attncourse.reference._parts.block import BLOCK, attend, held_bytes
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    window: int,
    dilation: int = 1,
    global_tokens: int | Sequence[int] | np.ndarray = 0,
    q_global: np.ndarray | None = None,
    k_global: np.ndarray | None = None,
    v_global: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over each query's window and the global tokens.

    A block of queries gathers one short stretch of keys and the global ones; the global queries,
    which see everything, are a second pass over a few rows. The released model computes that pass
    with projections of its own; everybody else sees the global tokens through the plain k and v.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        window: Radius in steps; the released model's `attention_window` is twice this.
        dilation: Tokens per step.
        global_tokens: The first so many positions, or a row of positions; all, if there are fewer.
        q_global: Shaped as q: the queries of the global tokens; q if not given.
        k_global: Shaped as k: the keys that global tokens see; k if not given.
        v_global: Shaped as v: the values that global tokens see; v if not given.
        causal: Global tokens see no later key either.

    Raises:
        ValueError: window < 0, dilation < 1, or a position outside 0 ... Tk - 1.

    Memory:
        One block: its scores (..., 64, 64 + 2·window + g) and its keys or values. After the blocks,
        the scores of up to 64 global queries, (..., g, Tk).

    Paper:
        Beltagy, Peters, Cohan 2020, arXiv:2004.05150, section 3.1.
    """
    check_qkv("longformer.attention", q, k, v)
    causal = check_flag("longformer.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    knobs = (window, dilation, global_tokens)
    window, dilation, chosen = _check_knobs("longformer.attention", k.shape[-2], *knobs)
    own = {"q": (q, q_global), "k": (k, k_global), "v": (v, v_global)}
    every = [_own_or_plain(name, *arrays) for name, arrays in own.items()]
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("longformer.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, keys, hidden in _blocks(n_queries, n_keys, window, dilation, chosen, causal):
        part = slice(rows.start, rows.stop, rows.step)
        out[..., part, :] = attend(q[..., part, :], k, v, keys, hidden, factor)
    for rows in _global_rows(n_queries, n_keys, chosen):
        future = np.arange(n_keys) > (rows + n_keys - n_queries)[:, None] if causal else None
        few = every[0][..., rows, :]  # (..., g, D)
        out[..., rows, :] = attend(few, *every[1:], slice(None), future, factor)
    return out


@int_sizes
def mask(
    n_queries: int,
    n_keys: int,
    *,
    window: int,
    dilation: int = 1,
    global_tokens: int | Sequence[int] | np.ndarray = 0,
    causal: bool = False,
) -> np.ndarray:
    """Return the mask (Tq, Tk) of Longformer attention; arguments as in `attncourse.reference`."""
    knobs = (window, dilation, global_tokens)
    window, dilation, chosen = _check_knobs("longformer.mask", n_keys, *knobs)
    causal = check_flag("longformer.mask", "causal", causal)
    visible = local.mask(n_queries, n_keys, window=window, dilation=dilation)  # (Tq, Tk)
    visible[np.isin(masks.positions(n_queries, n_keys), chosen)] = True
    visible[:, chosen] = True
    return visible & masks.causal(n_queries, n_keys) if causal else visible


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    window: int,
    dilation: int = 1,
    global_tokens: int | Sequence[int] | np.ndarray = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The rows of the global tokens are computed twice: in their block, and with all keys. Projections
    of their own change nothing.
    """
    knobs = (window, dilation, global_tokens)
    window, dilation, chosen = _check_knobs("longformer.cost", Tk, *knobs)
    causal = check_flag("longformer.cost", "causal", causal)
    passes = [
        (len(rows), len(keys), True, 1)  # gathered, and masked
        for rows, keys, _ in _blocks(Tq, Tk, window, dilation, chosen, causal)
    ]
    passes += [(len(rows), Tk, False, causal) for rows in _global_rows(Tq, Tk, chosen)]
    pairs = loaded = largest = 0
    for rows, keys, gathered, masked in passes:
        pairs += rows * keys
        loaded += (rows + 2 * keys) * D
        held = held_bytes(B * H, rows, keys, D, dtype_bytes, gathered=gathered)
        largest = max(largest, held + rows * keys * masked + 8 * keys * gathered)
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def _blocks(
    n_queries: int, n_keys: int, window: int, dilation: int, chosen: np.ndarray, causal: bool
) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
    """Yield (queries, keys, hidden): the keys are those of the window's block, then the global."""
    for rows, keys in local.blocks(n_queries, n_keys, window, dilation, causal):
        outside = local.outside(rows, keys, n_queries, n_keys, window, dilation, causal)
        plain = np.isin(keys, chosen, invert=True)  # a global key in the window counts once
        future = chosen > (np.array(rows) + n_keys - n_queries)[:, None]
        hidden = np.concatenate([outside[:, plain], future & causal], axis=1)
        yield rows, np.concatenate([np.array(keys, dtype=int)[plain], chosen]), hidden


def _global_rows(n_queries: int, n_keys: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the queries that sit at global positions, up to BLOCK at a time."""
    rows = chosen - (n_keys - n_queries)
    rows = rows[rows >= 0]
    for first in range(0, len(rows), BLOCK):
        yield rows[first : first + BLOCK]


def _own_or_plain(name: str, plain: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    if own is None:
        return plain
    if (np.shape(own), getattr(own, "dtype", None)) != (plain.shape, plain.dtype):
        raise ValueError(
            f"longformer.attention: {name}_global must be shaped as {name}, {plain.dtype} "
            f"{plain.shape}, got {getattr(own, 'dtype', type(own).__name__)} {np.shape(own)}"
        )
    return own


def _check_knobs(where, n_keys, window, dilation, global_tokens) -> tuple[int, int, np.ndarray]:
    window, dilation = local.check_window(where, window, dilation)
    return window, dilation, check_positions(where, "global_tokens", global_tokens, n_keys)
