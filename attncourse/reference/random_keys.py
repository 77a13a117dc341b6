"""Random attention: each query sees itself and a few keys drawn at random, the same every time."""

from __future__ import annotations

import numpy as np

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import BLOCK, attend_each, held_bytes
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_random: int,
    seed: int = 0,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over each query's own key and `n_random` others.

    The keys are drawn once, by position and not by content, and all heads share them. A block of
    queries gathers its keys; the (Tq, Tk) matrix is never made.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        n_random: Keys drawn for each query; all there are, if there are fewer.
        seed: The same seed and sizes give the same keys.
        causal: Keys are drawn from what is before the query's own.

    Raises:
        ValueError: A negative knob.

    Memory:
        The drawn keys (Tq, 1 + n_random) and what one block gathers, (..., 64, 1 + n_random, D).

    Paper:
        Zaheer et al. 2020, arXiv:2007.14062, section 2: one of BigBird's three parts.
    """
    check_qkv("random_keys.attention", q, k, v)
    causal = check_flag("random_keys.attention", "causal", causal)
    n_random, seed = _check_knobs("random_keys.attention", n_random, seed)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("random_keys.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    drawn = draw(n_queries, n_keys, n_random=n_random, seed=seed, causal=causal)
    for first in range(0, n_queries if n_keys else 0, BLOCK):
        rows = slice(first, first + BLOCK)
        keys = drawn[rows]  # (64, 1 + n_random)
        # -1 takes the last key, which is as good as any: its score is hidden
        out[..., rows, :] = attend_each(q[..., rows, :], k, v, keys, keys < 0, factor)
    return out


def draw(
    n_queries: int, n_keys: int, *, n_random: int, seed: int = 0, causal: bool = False
) -> np.ndarray:
    """Return the keys of each query: its own first, then the drawn ones, none of them twice.

    Drawn without replacement by Floyd's method, for all queries at once: the t-th draw is among the
    first m - r + t + 1 candidates, and one that is taken already gives the last of these instead.
    Each position has its own stretch of the random stream: a causal draw does not change when the
    sequence grows. r is n_random, the arguments are those of `attention`.

    Returns:
        int (Tq, 1 + min(n_random, Tk)); -1 where there is no key.
    """
    return patterns.random_keys("random_keys.draw", n_queries, n_keys, n_random, seed, causal)


@int_sizes
def mask(
    n_queries: int, n_keys: int, *, n_random: int, seed: int = 0, causal: bool = False
) -> np.ndarray:
    """Return the mask (Tq, Tk) of random attention; arguments as in `attncourse.reference`."""
    n_random, seed = _check_knobs("random_keys.mask", n_random, seed)
    causal = check_flag("random_keys.mask", "causal", causal)
    drawn = draw(n_queries, n_keys, n_random=n_random, seed=seed, causal=causal)
    visible = np.zeros((n_queries, n_keys + 1), dtype=bool)  # the last column takes the -1
    np.put_along_axis(visible, drawn, True, axis=1)
    return visible[:, :-1]


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_random: int,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    Keys that are missing are multiplied too; seed and causal change nothing.
    """
    n_random, _ = _check_knobs("random_keys.cost", n_random, seed)
    causal = check_flag("random_keys.cost", "causal", causal)
    count, rows = 1 + min(n_random, Tk), min(Tq, BLOCK)
    pairs = B * H * Tq * count * (Tk > 0)
    held = held_bytes(B * H, rows, count, D, dtype_bytes, each=True) if pairs else 0
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * pairs * D,
        bytes_read=(B * H * Tq + 2 * pairs) * D * dtype_bytes + Tq * count * 8,
        bytes_written=out + Tq * count * 8,
        # `drawn`; with it `luck`, a comparison and six columns while drawing, or else one block
        peak_bytes=out + Tq * count * 8 + max(Tq * (9 * count + 40), held + rows * count),
    )


def _check_knobs(where: str, n_random: int, seed: int) -> tuple[int, int]:
    return check_count(where, "n_random", n_random), check_count(where, "seed", seed)
