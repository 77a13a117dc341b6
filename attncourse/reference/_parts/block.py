"""Attention of one block of queries: the step that the sparse mechanisms repeat.

What a block needs is gone before the next block begins, so a mechanism holds one block at a time.
"""

from __future__ import annotations

import numpy as np

from attncourse.cost import NUMPY_BUFFER
from attncourse.softmax import exp_in_place, scaled

BLOCK = 64  # queries handled together: large enough for BLAS, small enough for the cache


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    keys: slice | np.ndarray,
    hidden: np.ndarray | None,
    factor: float,
) -> np.ndarray:
    """Return softmax(q k[keys]ᵀ · factor) v[keys] for queries that share their keys.

    Args:
        q: (..., block, D), the block.
        k: (..., Tk, D), all keys.
        v: (..., Tk, Dv), all values.
        keys: Which keys: a slice costs nothing, an int array copies them.
        hidden: bool (block, len(keys)); True = may not attend. None hides nothing.
        factor: Factor of the scores.

    Returns:
        (..., block, Dv), in float32 at least.

    Memory:
        The scores (..., block, len(keys)), and the copies of k and v, one after the other.
    """
    work = np.result_type(q.dtype, np.float32)
    scores = np.matmul(scaled(q, factor), _taken(k, keys, work).swapaxes(-1, -2))
    row_sum = _exp(scores, hidden)  # (..., block, 1), of scores (..., block, keys)
    out = np.matmul(scores, _taken(v, keys, work))  # (..., block, Dv)
    out /= row_sum  # after the product there is less to divide
    return out


def attend_each(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    keys: np.ndarray,
    hidden: np.ndarray | None,
    factor: float,
) -> np.ndarray:
    """Return softmax(q k[keys]ᵀ · factor) v[keys] for queries that have keys of their own.

    Args:
        q: (..., block, D), the block.
        k: (..., Tk, D), all keys.
        v: (..., Tk, Dv), all values.
        keys: int (block, count), the keys of each query.
        hidden: bool (block, count); True = may not attend. None hides nothing.
        factor: Factor of the scores.

    Returns:
        (..., block, Dv), in float32 at least.

    Memory:
        A copy of k or v (..., block, count, D): every query gathers its own.
    """
    work = np.result_type(q.dtype, np.float32)
    row = scaled(q, factor)[..., None, :]  # (..., block, 1, D)
    scores = np.matmul(row, _taken(k, keys, work).swapaxes(-1, -2))[..., 0, :]
    row_sum = _exp(scores, hidden)  # (..., block, 1), of scores (..., block, count)
    out = np.matmul(scores[..., None, :], _taken(v, keys, work))[..., 0, :]  # (..., block, Dv)
    out /= row_sum
    return out


def held_bytes(
    heads: int,
    queries: int,
    keys: int,
    D: int,
    dtype_bytes: int,
    *,
    gathered: bool = False,
    each: bool = False,
) -> int:
    """Return the most bytes that `attend` or `attend_each` holds, with Dv = D.

    Args:
        heads: B·H.
        queries: Queries in the block.
        keys: Keys of the block, or of each of its queries.
        dtype_bytes: Bytes of one number of q, k and v.
        gathered: `keys` was an int array, not a slice.
        each: It was `attend_each`.
    """
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = work_bytes if work_bytes != dtype_bytes else 0
    copied = keys * D * (queries if each else 1)
    scores = queries * keys * work_bytes
    copy = copied * (work_bytes if gathered or each else converted)
    original = copied * dtype_bytes if converted and (gathered or each) else 0
    most = copy + max(original, queries * D * work_bytes)  # with the scaled queries, or the result
    buffer = min(NUMPY_BUFFER, heads * queries * max(keys, D)) * work_bytes
    return heads * scores + max(heads * most, buffer)


def _taken(array: np.ndarray, keys: slice | np.ndarray, work: np.dtype) -> np.ndarray:
    return array[..., keys, :].astype(work, copy=False)


def _exp(scores: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """Turn scores into weights that are not yet divided by the row sums; return the latter."""
    if hidden is not None:
        np.copyto(scores, -np.inf, where=hidden)
    return exp_in_place(scores)
