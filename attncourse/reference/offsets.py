"""Attention at chosen distances: query i sees the keys i ± offset, for a few offsets.

Where the offsets stand decides how far and how soon information spreads: powers of two reach every
distance in about log2 n steps, multiples of one stride never leave their residue class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.definitions.patterns import offset_steps
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import BLOCK, attend_each, held_bytes
from attncourse.softmax import nan_to_keys


def exponential(n: int) -> tuple[int, ...]:
    """Return the offsets 0, 1, 2, 4, 8 … below n: about log2 n keys on each side.

    Paper:
        Li et al. 2019, arXiv:1907.00235.
    """
    return hierarchical(n, base=2)


def hierarchical(n: int, *, base: int) -> tuple[int, ...]:
    """Return the offsets 0 and digit · base^level below n, with digit = 1 … base - 1.

    A pyramid: each level is a window whose steps are `base` times those of the level below. Base 2
    gives `exponential`, base n gives every offset.

    Args:
        n: Tokens.
        base: At least 2.
    """
    base = check_count("offsets.hierarchical", "base", base, least=2)
    steps = itertools.takewhile(lambda step: step < n, (base**level for level in itertools.count()))
    found = (digit * step for step in steps for digit in range(1, base))
    return (0, *(offset for offset in found if offset < n))


def multiples(n: int, *, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the offsets below n that are a multiple of any of the strides."""
    for stride in strides:
        stride = check_count("offsets.multiples", "stride", stride, least=1)
    return tuple(sorted({0}.union(*(range(0, n, stride) for stride in strides))))


def primes(n: int, *, strides: Sequence[int]) -> tuple[int, ...]:
    """Return `multiples` of the largest prime up to each stride: 32, 64, 128 become 31, 61, 127.

    Powers of two share all their factors, and two steps only meet multiples of the smallest. Primes
    share none: two steps meet every distance that is not too long.

    Args:
        n: Tokens.
        strides: At least 2 each.
    """
    for stride in strides:
        stride = check_count("offsets.primes", "stride", stride, least=2)
    return multiples(n, strides=[_prime_up_to(stride) for stride in strides])


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    offsets: Sequence[int],
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the keys at the given distances from each query.

    A block of queries gathers its keys; the (Tq, Tk) matrix is never made.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        offsets: Distances in tokens, 0 or more; repeated ones count once.
        causal: Only the keys before, at position minus offset.

    Raises:
        ValueError: An offset < 0.

    Memory:
        The gathered keys of one block: (..., 64, keys, D).

    Paper:
        None: `strided` at any distances. `exponential` names the source of its own.
    """
    check_qkv("offsets.attention", q, k, v)
    causal = check_flag("offsets.attention", "causal", causal)
    k, v = nan_to_keys(k, v)
    steps = offset_steps("offsets.attention", offsets, causal)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("offsets.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for first in range(0, n_queries if n_keys else 0, BLOCK):
        rows = slice(first, first + BLOCK)
        keys = masks.positions(n_queries, n_keys)[rows, None] + steps  # (64, steps)
        outside = (keys < 0) | (keys >= n_keys)
        keys[outside] = 0  # any key that exists: its score is hidden
        out[..., rows, :] = attend_each(q[..., rows, :], k, v, keys, outside, factor)
    return out


@int_sizes
def mask(
    n_queries: int, n_keys: int, *, offsets: Sequence[int], causal: bool = False
) -> np.ndarray:
    """Return the mask (Tq, Tk) of these distances; arguments as in `attncourse.reference`."""
    steps = offset_steps("offsets.mask", offsets, causal)
    return np.isin(np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None], steps)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    offsets: Sequence[int],
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; keys beyond the ends are multiplied too.

    Arguments and rules as in `attncourse.reference`.
    """
    steps = len(offset_steps("offsets.cost", offsets, causal))
    pairs, rows = B * H * Tq * steps * (Tk > 0), min(Tq, BLOCK)
    held = held_bytes(B * H, rows, steps, D, dtype_bytes, each=True) if pairs else 0
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * pairs * D,
        bytes_read=(B * H * Tq + 2 * pairs) * D * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + held + rows * steps * 9,  # 8 for `keys`, 1 for `outside`
    )


def _prime_up_to(stride: int) -> int:
    return next(p for p in range(stride, 1, -1) if all(p % d for d in range(2, math.isqrt(p) + 1)))
