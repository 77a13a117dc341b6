"""Pooling: runs of neighbouring tokens become one key and one value each."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count

KINDS = ("mean", "max", "learned", "adaptive")


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
    pool = check_pooling("pooled.pool_tokens", pool, kind, pooling_vector, causal=False)
    *leading, n_keys, width = k.shape
    n_runs = -(-n_keys // pool)
    work = np.result_type(k.dtype, np.float32)
    pooled_k, pooled_v, log_size = (
        np.empty((*leading, n_runs, last), work) for last in (width, v.shape[-1], 1)
    )
    if kind == "learned":
        pooling_vector = each_head("pooled.pool_tokens", pooling_vector, k)
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


def each_head(where: str, vector: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the pooling vector of each head, (..., D)."""
    shape = k.shape[:-2] + k.shape[-1:]
    try:
        return np.broadcast_to(vector, shape)
    except ValueError:
        raise ValueError(
            f"{where}: pooling_vector must broadcast to {shape}, got {np.shape(vector)}"
        ) from None


def check_pooling(where: str, pool: int, kind: str, pooling_vector, causal: bool) -> int:
    """Return the pool as an int; refuse what pooled attention cannot use."""
    pool = check_count(where, "pool", pool, least=1)
    if kind not in KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if (kind == "learned") != (pooling_vector is not None):
        needs = "needs" if kind == "learned" else "takes no"
        raise ValueError(f"{where}: kind {kind!r} {needs} pooling_vector")
    if causal and kind == "adaptive":
        raise ValueError(f"{where}: cannot be causal: adaptive cuts depend on later tokens")
    return pool


def _shares(k, starts, size, vector) -> np.ndarray:
    """Return softmax(k · vector) within each run, (Tk, 1)."""
    work = np.result_type(k.dtype, np.float32)
    scores = np.matmul(k.astype(work, copy=False), vector.astype(work, copy=False))  # (Tk,)
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
    total = np.add.reduceat(x, starts, axis=0, dtype=work)  # (runs, width)
    total /= size[:, None].astype(work)  # integers would have all of it converted, in buffers
    return total
