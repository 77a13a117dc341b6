"""Top-k attention: each query attends to its best keys only; a cheap predictor may choose them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import BLOCK, attend_each, held_bytes
from attncourse.reference._parts.predictor import Predictor, fit_predictor, ranked
from attncourse.softmax import nan_to_keys, scaled

__all__ = ["Predictor", "attention", "cost", "fit_predictor", "mask_of", "recall", "select"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    keep: int,
    predictor: Predictor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the `keep` highest scores of each query.

    Which keys are best is known only after all have been scored: the time stays quadratic, unless
    a predictor scores them in fewer dimensions. But the scores of one block of queries are all
    that exists; then each query gathers its few keys and values.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        keep: Keys of a query; all that it sees if there are no more. Of equal scores the first
            keys are kept; a score that is NaN counts as the highest, and makes its row NaN.
        predictor: From `fit_predictor`: its scores choose; the chosen get their true scores.

    Raises:
        ValueError: keep < 1.

    Memory:
        One head at a time: the scores (64, Tk) of one block, what it takes to rank them, and the
        gathered keys or values (64, keep, D).

    Paper:
        Gupta, Dar, Goodman, Ciprut, Berant 2021, arXiv:2106.06899.
    """
    check_qkv("topk.attention", q, k, v)
    keep = check_count("topk.attention", "keep", keep, least=1)
    causal = check_flag("topk.attention", "causal", causal)
    factor = check_scale("topk.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    ranked_q, ranked_k = ranked("topk.attention", q, k, predictor)
    for head in np.ndindex(q.shape[:-2]):
        q_, (k_, v_) = q[head], nan_to_keys(k[head], v[head])
        for rows, chosen in _choices(ranked_q[head], ranked_k[head], keep, causal, factor):
            # -1 takes the last key, which is as good as any: its score is hidden
            out[head][rows] = attend_each(q_[rows], k_, v_, chosen, chosen < 0, factor)
    return out


def select(
    q: np.ndarray,
    k: np.ndarray,
    *,
    keep: int,
    predictor: Predictor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return the keys that `attention` keeps.

    Args and Raises as in `attention`.

    Returns:
        int (..., Tq, min(keep, Tk)), in ascending order of position; -1 where no more are visible.
    """
    check_qkv("topk.select", q, k, k)
    keep = check_count("topk.select", "keep", keep, least=1)
    causal = check_flag("topk.select", "causal", causal)
    factor = check_scale("topk.select", scale, q.shape[-1])
    kept = np.full((*q.shape[:-1], min(keep, k.shape[-2])), -1)  # (..., Tq, keep)
    ranked_q, ranked_k = ranked("topk.select", q, k, predictor)
    for head in np.ndindex(q.shape[:-2]):
        for rows, chosen in _choices(ranked_q[head], ranked_k[head], keep, causal, factor):
            kept[head][rows, : chosen.shape[-1]] = chosen
    return kept


def mask_of(kept: np.ndarray, n_keys: int) -> np.ndarray:
    """Return the mask (..., Tq, Tk) of chosen keys (..., Tq, count); -1 is nobody."""
    visible = np.zeros((*kept.shape[:-1], n_keys + 1), dtype=bool)  # the last column takes the -1
    np.put_along_axis(visible, kept, True, axis=-1)
    return visible[..., :-1]


def recall(kept: np.ndarray, wanted: np.ndarray) -> float:
    """Return the share of the wanted keys that were kept.

    Args:
        kept: int (..., Tq, count) from `select`, say with a predictor.
        wanted: int (..., Tq, any count), say the true best; -1 is nobody.

    Returns:
        0 to 1; 1 if nobody was wanted.
    """
    if kept.shape[:-1] != wanted.shape[:-1]:
        raise ValueError(
            f"topk.recall: kept and wanted must have the same queries, "
            f"got {kept.shape} and {wanted.shape}"
        )
    span = 1 + max(kept.max(initial=0), wanted.max(initial=0))
    query = np.arange(math.prod(kept.shape[:-1])).reshape(*kept.shape[:-1], 1)
    pairs = [(query * span + keys)[keys >= 0] for keys in (kept, wanted)]
    return float(np.isin(pairs[1], pairs[0]).mean()) if pairs[1].size else 1.0


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    keep: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does without a predictor.

    Arguments and rules as in `attncourse.reference`.

    The peak is that of scores without ties; a row with more ties than room takes 9 bytes per key.
    """
    keep = check_count("topk.cost", "keep", keep, least=1)
    causal = check_flag("topk.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = Tk * D * work_bytes if work_bytes != dtype_bytes else 0
    scored = gathered = loaded = largest = 0
    for rows, seen in _blocks(Tq, Tk, causal):
        r, count = rows.stop - rows.start, min(keep, seen)
        scored += r * seen
        gathered += r * count
        loaded += (r + seen + 2 * r * count) * D
        ranking = r * seen * 2 * work_bytes + r * count * 8
        largest = max(largest, ranking, held_bytes(1, r, count, D, dtype_bytes, each=True))
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=2 * B * H * (scored + 2 * gathered) * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + converted + largest,
    )


def _blocks(n_queries: int, n_keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """Yield (queries, how many keys they may see); blocks that see none are left out."""
    for first in range(0, n_queries, BLOCK):
        last = min(first + BLOCK, n_queries)
        seen = last + n_keys - n_queries if causal else n_keys
        if seen > 0:
            yield slice(first, last), seen


def _choices(q, k, keep, causal, factor) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (queries, chosen keys) of one head, block by block."""
    work = np.result_type(q.dtype, np.float32)
    k = k.astype(work, copy=False)
    mantissa, exponent = math.frexp(factor)
    # a power of two ranks as the factor does and never rounds, unless it is out of all bounds
    power = math.ldexp(np.sign(mantissa), min(max(exponent, -30), 30))
    for rows, seen in _blocks(len(q), len(k), causal):
        own = rows.start + len(k) - len(q) if causal else seen  # the last key of the first query
        yield rows, _choose(scaled(q[rows], power), k[:seen], min(keep, seen), own)


def _choose(q, k, keep, own) -> np.ndarray:
    """Return the best keys int (block, keep) of one block, -1 where fewer are visible."""
    # matmul sums in an order that depends on the column: equal keys would get unequal scores
    scores = np.einsum("id,jd->ij", q, k)  # (block, seen)
    np.copyto(scores, np.inf, where=np.isnan(scores))
    np.copyto(scores, -np.inf, where=~np.tri(*scores.shape, own, dtype=bool))
    least = np.partition(scores, len(k) - keep, axis=-1)[:, len(k) - keep, None].copy()
    chosen = scores > least
    ties = scores == least
    room = keep - chosen.sum(axis=-1, keepdims=True)
    crowded = ties.sum(axis=-1) > room[:, 0]
    ties[crowded] &= np.cumsum(ties[crowded], axis=-1, dtype=np.int32) <= room[crowded]
    chosen |= ties
    positions = np.flatnonzero(chosen).reshape(-1, keep) % len(k)  # (block, keep)
    return np.where(np.take_along_axis(scores, positions, axis=-1) == -np.inf, -1, positions)
