"""Pooled attention: runs of neighbouring tokens become one key and one value each."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_qkv
from attncourse.reference.block import BLOCK
from attncourse.reference.softmax import softmax_in_place

KINDS = ("mean", "max", "learned", "adaptive")


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

    Args:
        q: (..., Tq, D) floating.
        k: (..., Tk, D), dtype and leading axes as q.
        v: (..., Tk, Dv).
        pool: Tokens in a run; the last run may be shorter. "adaptive": tokens in a run on average.
        kind: How a run becomes one row: its "mean", its "max" per feature, "learned": a mean with
            weights softmax(k · pooling_vector), or "adaptive": the mean over runs of `cuts`.
        pooling_vector: (D,) or (..., D) for kind "learned", and only for that.
        causal: As above, by the query's own position i + Tk - Tq. Not with kind "adaptive".
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (..., Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Raises:
        TypeError: No array, no floating numbers, or a pool that is no integer.
        ValueError: Shapes or dtypes that do not fit, pool < 1, an unknown kind, "adaptive" and
            causal.

    Memory:
        k̄ and v̄ (..., Tk / pool, D + Dv), and the scores (..., 64, Tk / pool) of one block, in
        float32 at least; while it pools, one head's tokens.

    Paper:
        Liu et al. 2018, arXiv:1801.10198, section 4.2.3 (compressed keys and values); Bolya et
        al. 2022, arXiv:2210.09461, section 3 (merging similar tokens, log size).
    """
    check_qkv("pooled.attention", q, k, v)
    _check_knobs("pooled.attention", pool, kind, pooling_vector, causal)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    ahead = k.shape[-2] - q.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    if pooling_vector is not None:
        pooling_vector = _each_head("pooled.attention", pooling_vector, k)
    pooled = pool_tokens(k, v, pool=pool, kind=kind, pooling_vector=pooling_vector)
    for rows, runs, own in _blocks(q.shape[-2], k.shape[-2], pool, causal):
        hidden = _hidden(rows, runs, own, ahead, pool) if causal else None
        past = tuple(array[..., : len(runs), :] for array in pooled)
        present = tuple(array[..., own.start : own.stop, :] for array in (k, v))
        block = slice(rows.start, rows.stop)
        out[..., block, :] = _attend(q[..., block, :], past, present, hidden, factor)
    return out


def pool_tokens(
    k: np.ndarray,
    v: np.ndarray,
    *,
    pool: int,
    kind: str = "mean",
    pooling_vector: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return k̄ (..., runs, D), v̄ (..., runs, Dv) and log size (..., runs, 1) of ⌈Tk / pool⌉ runs.

    Args and Raises as in `attention`. The results are in float32 at least.
    """
    _check_knobs("pooled.pool_tokens", pool, kind, pooling_vector, causal=False)
    *leading, n_keys, width = k.shape
    n_runs = -(-n_keys // pool)
    work = np.result_type(k.dtype, np.float32)
    pooled_k, pooled_v, log_size = (
        np.empty((*leading, n_runs, last), work) for last in (width, v.shape[-1], 1)
    )
    if kind == "learned":
        pooling_vector = _each_head("pooled.pool_tokens", pooling_vector, k)
    for head in np.ndindex(*leading):
        starts = cuts(k[head], n_runs) if kind == "adaptive" else np.arange(0, n_keys, pool)
        size = np.diff(starts, append=n_keys)
        share = _shares(k[head], starts, size, pooling_vector[head]) if kind == "learned" else None
        pooled_k[head] = _reduce(k[head], starts, size, share, kind, work)
        pooled_v[head] = _reduce(v[head], starts, size, share, kind, work)
        log_size[head] = np.log(size, dtype=work)[:, None]
    return pooled_k, pooled_v, log_size


def cuts(k: np.ndarray, n_runs: int) -> np.ndarray:
    """Return where `n_runs` runs start, such that the most similar neighbours stay together.

    The sequence is cut before the n_runs - 1 tokens that are least like the one before them, by
    the cosine of their keys; of equal ones the first is cut.

    Args:
        k: (Tk, D), the keys of one head.
        n_runs: From 1 to Tk.

    Returns:
        int (n_runs,), rising from 0.
    """
    work = np.result_type(k.dtype, np.float32)
    length = np.sqrt(np.square(k, dtype=work).sum(axis=-1))
    length[length == 0] = 1
    cosine = np.multiply(k[1:], k[:-1], dtype=work).sum(axis=-1)
    cosine /= length[1:] * length[:-1]
    loosest = np.argsort(cosine, kind="stable")[: max(0, n_runs - 1)]
    return np.concatenate([np.arange(min(1, n_runs)), np.sort(loosest) + 1])


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
    """Count what `attention` does, with Dv = D.

    Pooling itself is sums, not products, except for "learned", which scores each key once.

    Args:
        B: Batch.
        H: Heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        pool: Tokens in a run.
        kind: As in `attention`.
        causal: Queries see the past pooled and their own run in full.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    _check_knobs("pooled.cost", pool, kind, () if kind == "learned" else None, causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = work_bytes if work_bytes != dtype_bytes else 0
    pairs = loaded = largest = 0
    for rows, runs, own in _blocks(Tq, Tk, pool, causal):
        keys = len(runs) + len(own)
        pairs += len(rows) * keys
        loaded += 2 * len(own) * D * dtype_bytes + 2 * len(runs) * D * work_bytes
        result = len(rows) * D * work_bytes * (2 if own else 1)
        copies = (len(rows) + 2 * len(own)) * D * converted
        held = B * H * (len(rows) * keys * work_bytes + result + copies)
        largest = max(largest, held + causal * len(rows) * keys + NUMPY_BUFFER * work_bytes)
    n_runs = -(-Tk // pool)
    pooled = B * H * n_runs * (2 * D + 1) * work_bytes
    pooling = Tk * D * work_bytes if kind in ("learned", "adaptive") else Tk * D * converted
    if kind == "max":
        pooling = n_runs * D * dtype_bytes
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
    q_, own_k, own_v = (array.astype(work, copy=False) for array in (q, *present))
    scores = np.empty((*q.shape[:-1], n_runs + own_k.shape[-2]), work)
    np.matmul(q_, pooled_k.swapaxes(-1, -2), out=scores[..., :n_runs])
    np.matmul(q_, own_k.swapaxes(-1, -2), out=scores[..., n_runs:])
    scores *= factor
    scores[..., :n_runs] += log_size.swapaxes(-1, -2)
    if hidden is not None:
        np.copyto(scores, -np.inf, where=hidden)
    weights = softmax_in_place(scores)
    out = np.matmul(weights[..., :n_runs], pooled_v)
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


def _shares(k, starts, size, vector) -> np.ndarray:
    """Return softmax(k · vector) within each run, (Tk, 1)."""
    work = np.result_type(k.dtype, np.float32)
    scores = np.matmul(k.astype(work, copy=False), vector.astype(work, copy=False))
    scores -= np.repeat(np.maximum.reduceat(scores, starts), size)
    np.exp(scores, out=scores)
    scores /= np.repeat(np.add.reduceat(scores, starts), size)
    return scores[:, None]


def _reduce(x, starts, size, share, kind, work) -> np.ndarray:
    """Return one row per run, (runs, width)."""
    if kind == "max":
        return np.maximum.reduceat(x, starts, axis=0)
    if kind == "learned":
        return np.add.reduceat(x * share, starts, axis=0)
    total = np.add.reduceat(x, starts, axis=0, dtype=work)
    total /= size[:, None]
    return total


def _each_head(where: str, vector: np.ndarray, k: np.ndarray) -> np.ndarray:
    shape = k.shape[:-2] + k.shape[-1:]
    try:
        return np.broadcast_to(vector, shape)
    except ValueError:
        raise ValueError(
            f"{where}: pooling_vector must broadcast to {shape}, got {np.shape(vector)}"
        ) from None


def _check_knobs(where: str, pool: int, kind: str, pooling_vector, causal: bool) -> None:
    check_count(where, "pool", pool, least=1)
    if kind not in KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if (kind == "learned") != (pooling_vector is not None):
        needs = "needs" if kind == "learned" else "takes no"
        raise ValueError(f"{where}: kind {kind!r} {needs} pooling_vector")
    if causal and kind == "adaptive":
        raise ValueError(f"{where}: cannot be causal: adaptive cuts depend on later tokens")
