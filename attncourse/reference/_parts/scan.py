"""The chunked scan that linear attention, its gradient and the Performer share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def turns(n_queries: int, n_keys: int, chunk: int, ahead: int) -> Iterator[tuple[slice, slice]]:
    """Yield (queries, keys) of each turn of the scan; either may be empty.

    In a turn the queries see the state, which holds the keys of all turns before, and of this
    turn's keys those up to their own; then the keys join the state.

    Args:
        chunk: Tokens in a turn.
        ahead: Query i sits at key position i + ahead; n_keys or more if it sees all keys.
    """
    alone = min(max(ahead, 0), n_keys)  # keys that every query sees
    for first in range(0, alone, chunk):
        yield slice(0, 0), slice(first, min(first + chunk, alone))
    for first in range(max(-ahead, 0), n_queries, chunk):
        last = min(first + chunk, n_queries)
        yield slice(first, last), slice(min(first + ahead, n_keys), min(last + ahead, n_keys))


def ahead_of(n_queries: int, n_keys: int, causal: bool) -> int:
    """Return the key position of the first query, or all keys if none is hidden from it."""
    return n_keys - n_queries if causal else n_keys


def turn(state, a, b, c) -> tuple[np.ndarray, np.ndarray]:
    """Return a state + (a bᵀ, lower triangle) c, and state + bᵀ c."""
    scores = np.matmul(a, b.swapaxes(-1, -2))  # (..., queries, keys)
    np.copyto(scores, 0, where=~np.tri(*scores.shape[-2:], dtype=bool))
    seen = np.matmul(scores, c)  # (..., queries, width)
    joined = np.matmul(b.swapaxes(-1, -2), c)  # (..., features, width)
    if state is not None:
        seen += np.matmul(a, state)
        joined += state
    return seen, joined


def scan(a, b, c, chunk, ahead) -> np.ndarray:
    """Return the sum of (a_i · b_j) c_j over the keys j that query i sees, for all i."""
    out = np.zeros((*a.shape[:-1], c.shape[-1]), c.dtype)
    state = None
    for rows, keys in turns(a.shape[-2], b.shape[-2], chunk, ahead):
        out[..., rows, :], state = turn(state, a[..., rows, :], b[..., keys, :], c[..., keys, :])
    return out


def with_ones(v: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return [v, 1]: with a column of ones, the state's last column is the normaliser."""
    values = np.ones((*v.shape[:-1], v.shape[-1] + 1), dtype)  # (..., T, Dv + 1)
    values[..., :-1] = v
    return values


def quotient(seen: np.ndarray) -> np.ndarray:
    """Return numerator / normaliser of (..., T, Dv + 1), in place; 0 / 0 is 0."""
    total = seen[..., -1:].copy()  # seen and a view of it in one division would copy both
    total[total == 0] = 1
    seen[..., :-1] /= total
    return seen[..., :-1]
