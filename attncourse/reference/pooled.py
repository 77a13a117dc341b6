"""Pooled attention: runs of neighbouring tokens become one key and one value each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import BLOCK
from attncourse.reference._parts.pooling import KINDS, check_pooling, cuts, each_head, pool_tokens
from attncourse.softmax import nan_to_keys, scaled, softmax_in_place

__all__ = ["KINDS", "attention", "cost", "cuts", "pool_tokens"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    pool: int,
    kind: str = "mean",
    pooling_vector: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q k̄ᵀ · scale + log size) v̄ over ⌈Tk / pool⌉ runs of tokens.

    k̄ and v̄ hold one row per run, so a query has Tk / pool scores, and those of one block of
    queries exist. log size lets a run of several tokens count as often as they would: where the
    tokens of a run are equal, the result is that of full attention.

    Causal: a query sees the runs before its own pooled, and its own run token by token up to
    itself; a pooled key that held a later token would tell the future.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        pool: Tokens in a run; the last run may be shorter. "adaptive": tokens in a run on average.
        kind: How a run becomes one row: its "mean", its "max" per feature, "learned": a mean with
            weights softmax(k · pooling_vector), or "adaptive": the mean over runs of `cuts`.
        pooling_vector: (D,) or (..., D) for kind "learned", and only for that.
        causal: As above. Not with kind "adaptive".

    Raises:
        ValueError: pool < 1, an unknown kind, "adaptive" and causal, or a pooling_vector where none
            belongs.

    Memory:
        k̄ and v̄ (..., Tk / pool, D + Dv), and the scores (..., 64, Tk / pool) of one block; while
        it pools, one head's tokens.

    Paper:
        Liu et al. 2018, arXiv:1801.10198, section 4.2.4 (compressed keys and values); Bolya et
        al. 2022, arXiv:2210.09461 (merging similar tokens, log size).
    """
    check_qkv("pooled.attention", q, k, v)
    causal = check_flag("pooled.attention", "causal", causal)
    pool = check_pooling("pooled.attention", pool, kind, pooling_vector, causal)
    factor = check_scale("pooled.attention", scale, q.shape[-1])
    k, v = nan_to_keys(k, v)
    ahead = k.shape[-2] - q.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    if pooling_vector is not None:
        pooling_vector = each_head("pooled.attention", pooling_vector, k)
    *pooled, log_size = pool_tokens(k, v, pool=pool, kind=kind, pooling_vector=pooling_vector)
    pooled = (*nan_to_keys(*pooled), log_size)
    for rows, runs, own in _blocks(q.shape[-2], k.shape[-2], pool, causal):
        hidden = _hidden(rows, runs, own, ahead, pool) if causal else None
        past = tuple(array[..., : len(runs), :] for array in pooled)
        present = tuple(array[..., own.start : own.stop, :] for array in (k, v))
        block = slice(rows.start, rows.stop)
        out[..., block, :] = _attend(q[..., block, :], past, present, hidden, factor)
    return out


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    pool: int,
    kind: str = "mean",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    Pooling itself is sums, not products, except for "learned", which scores each key once.
    """
    causal = check_flag("pooled.cost", "causal", causal)
    pool = check_pooling("pooled.cost", pool, kind, () if kind == "learned" else None, causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = work_bytes if work_bytes != dtype_bytes else 0
    pairs = loaded = largest = 0
    for rows, runs, own in _blocks(Tq, Tk, pool, causal):
        keys = len(runs) + len(own)
        pairs += len(rows) * keys
        loaded += 2 * len(own) * D * dtype_bytes + 2 * len(runs) * D * work_bytes
        result = len(rows) * D * work_bytes * (2 if own else 1)
        copies = len(rows) * D * work_bytes + 2 * len(own) * D * converted
        held = B * H * (len(rows) * keys * work_bytes + result + copies)
        largest = max(largest, held + causal * len(rows) * keys + NUMPY_BUFFER * work_bytes)
    n_runs = -(-Tk // pool)
    pooled = B * H * n_runs * (2 * D + 1) * work_bytes
    pooling = Tk * D * (work_bytes if kind in ("learned", "adaptive") else converted)
    pooling = (0 if kind == "max" else pooling) + n_runs * D * work_bytes
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D + 2 * B * H * Tk * D * (kind == "learned"),
        bytes_read=B * H * ((Tq + 2 * Tk) * D * dtype_bytes + loaded),
        bytes_written=pooled + out,
        peak_bytes=out + pooled + max(largest, pooling),
    )


def _attend(q, past, present, hidden, factor) -> np.ndarray:
    """Return the output of one block: pooled keys and the tokens of its own runs, one softmax."""
    pooled_k, pooled_v, log_size = past
    work, n_runs = pooled_k.dtype, pooled_k.shape[-2]
    q, (own_k, own_v) = scaled(q, factor), (x.astype(work, copy=False) for x in present)
    scores = np.empty((*q.shape[:-1], n_runs + own_k.shape[-2]), work)  # (..., block, runs + own)
    np.matmul(q, pooled_k.swapaxes(-1, -2), out=scores[..., :n_runs])
    np.matmul(q, own_k.swapaxes(-1, -2), out=scores[..., n_runs:])
    scores[..., :n_runs] += log_size.swapaxes(-1, -2)
    if hidden is not None:
        np.copyto(scores, -np.inf, where=hidden)
    weights = softmax_in_place(scores)
    out = np.matmul(weights[..., :n_runs], pooled_v)  # (..., block, Dv)
    if own_k.shape[-2]:
        out += np.matmul(weights[..., n_runs:], own_v)
    return out


def _blocks(
    n_queries: int, n_keys: int, pool: int, causal: bool
) -> Iterator[tuple[range, range, range]]:
    """Yield (queries, pooled runs, tokens): BLOCK queries and all that they may see."""
    ahead = n_keys - n_queries
    for first in range(0, n_queries, BLOCK):
        rows = range(first, min(first + BLOCK, n_queries))
        if not causal:
            yield rows, range(-(-n_keys // pool)), range(0)
        elif rows[-1] + ahead >= 0:
            runs = range((rows[-1] + ahead) // pool)
            yield rows, runs, range(max(0, first + ahead) // pool * pool, rows[-1] + ahead + 1)


def _hidden(rows: range, runs: range, own: range, ahead: int, pool: int) -> np.ndarray:
    """Return what a causal block may not see: runs that are not over, tokens of other runs."""
    position = np.arange(rows.start, rows.stop)[:, None] + ahead
    run, token = np.arange(len(runs)), np.arange(own.start, own.stop)
    other = (token // pool != position // pool) | (token > position)
    return np.concatenate([run >= position // pool, other], axis=1)
