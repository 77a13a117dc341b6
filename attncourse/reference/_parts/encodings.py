"""Relative positions that attention itself need not know: T5's bias, ALiBi and RoPE.

A bias is made for one tile at a time, so that it need not be stored for all pairs; `t5` does so for
T5's, and any other goes the same way:

    flash.forward(q, k, v, bias=lambda i, j: alibi_bias(i, j, slopes), ...)

RoPE turns q and k before attention begins; after that any mechanism will do.
"""

from __future__ import annotations

import numpy as np

from attncourse.definitions.buckets import t5_bucket
from attncourse.inputs import check_count


def t5_bias(
    queries: np.ndarray,
    keys: np.ndarray,
    table: np.ndarray,
    *,
    max_distance: int = 128,
    causal: bool = False,
) -> np.ndarray:
    """Return the bias (H, Tq, Tk) that T5 adds to the scores; T5 takes scale=1.

    Args:
        queries: int (Tq,): key positions at which the queries sit.
        keys: int (Tk,): positions of the keys.
        table: (n_buckets, H), learned.
        max_distance: As in `t5_bucket`.
        causal: As in `t5_bucket`.
    """
    bucket = t5_bucket(
        keys - queries[:, None], n_buckets=len(table), max_distance=max_distance, causal=causal
    )
    return np.moveaxis(table[bucket], -1, 0)


def alibi_slopes(heads: int) -> np.ndarray:
    """Return the slope of each head (H,): 2^(-8/H), 2^(-16/H) ... 2^-8 if H is a power of two.

    Other numbers of heads take the slopes of the power of two below, and every second one of twice
    that power, as the authors' code does.

    Paper:
        Press, Smith, Lewis 2022, arXiv:2108.12409, section 3.
    """
    heads = check_count("relative.alibi_slopes", "heads", heads, least=1)
    power = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between[: heads - power]])


def alibi_bias(queries: np.ndarray, keys: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Return the bias (H, Tq, Tk) of ALiBi: minus the distance, times the slope of the head.

    The source is causal; here later keys are further away too, as far as they are later.

    Args:
        queries: int (Tq,): key positions at which the queries sit.
        keys: int (Tk,): positions of the keys.
        slopes: (H,), such as `alibi_slopes` gives; their dtype is that of the bias.
    """
    distance = np.abs(keys - queries[:, None])
    return -slopes[:, None, None] * distance.astype(slopes.dtype)


def rotate(
    x: np.ndarray, positions: np.ndarray | None = None, *, base: float = 10_000.0
) -> np.ndarray:
    """Return q or k with each pair of its numbers turned by an angle that grows with the position.

    Pair i, the numbers 2i and 2i + 1, turns by position · base^(-2i/D). The product of a query and
    a key so turned depends on their distance alone. GPT-J pairs its numbers in this way; Llama
    pairs i with i + D/2, which is the same after sorting the even columns before the odd ones.

    Args:
        x: (..., T, D) floating, D even.
        positions: (T,); 0 ... T - 1 if not given.
        base: Sets the slowest turn: one of about 2π·base tokens.

    Returns:
        (..., T, D) in the dtype of x.

    Raises:
        ValueError: D odd, or another number of positions.

    Paper:
        Su et al. 2021, arXiv:2104.09864, section 3.2.2.
    """
    *_, n_tokens, width = x.shape
    positions = np.arange(n_tokens) if positions is None else positions
    if width % 2:
        raise ValueError(f"relative.rotate: the width D must be even, got {width}")
    if positions.shape != (n_tokens,):
        raise ValueError(
            f"relative.rotate: positions must have shape ({n_tokens},), got {positions.shape}"
        )
    work = np.result_type(x.dtype, np.float32)
    angle = positions[:, None] * base ** (-np.arange(0, width, 2) / width)  # (T, D/2), float64
    cos, sin = np.cos(angle).astype(work), np.sin(angle).astype(work)
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out
