"""Exact attention over keys and values that come in pieces, wherever the pieces lie.

A piece is a page, a group of quantised tokens, or simply the next keys of one array. The caches
attend with this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from attncourse.cost import Cost
from attncourse.softmax import scaled, softmax_in_place

BLOCK = 128  # rows of scores made together: some queries of all heads of a group
PIECE = 1024  # keys of an array that make one piece

Pieces = Callable[[int], Iterable[np.ndarray]]
"""Called with `stop`, yields the first `stop` keys (or values) in order, (..., G, t, D) each."""


def attend(
    q: np.ndarray,
    keys: Pieces,
    values: Pieces,
    groups_and_keys: tuple[int, ...],
    value_width: int,
    causal: bool,
    factor: float,
) -> np.ndarray:
    """Return softmax(q kᵀ · factor) v; several query heads may share one key/value head.

    The queries of a group are rows of one matrix, so one product serves all its heads: nothing is
    repeated. The scores of one block of rows exist at a time, and one piece in float32.

    Args:
        q: (..., H, Tq, D), or (Tq, D).
        keys: The keys, in pieces.
        values: The values, in pieces.
        groups_and_keys: (..., G, Tk) with G a divisor of H, or (Tk,).
        value_width: Dv.
        causal: Query i sees keys up to its own position i + Tk - Tq.
        factor: Of the scores.

    Returns:
        (..., H, Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Memory:
        The scores of one block: (..., G, 128, Tk), in float32 at least.
    """
    *groups, n_keys = groups_and_keys
    n_queries, width = q.shape[-2:]
    shared = q.shape[-3] // max(1, groups[-1]) if groups else 1  # query heads in a group
    out = np.zeros((*q.shape[:-1], value_width), q.dtype)
    for rows, stop in blocks(n_queries, n_keys, shared, causal):
        block = scaled(q[..., rows, :], factor)  # (..., H, queries, D)
        by_group = block.reshape(*groups, shared * block.shape[-2], width)  # (..., G, rows, D)
        position = rows.start + n_keys - n_queries if causal else n_keys
        weights = _weights(by_group, keys(stop), stop, block.shape[-2], position)
        summed = _sum_of_values(weights, values(stop), value_width)  # (..., G, rows, Dv)
        del weights  # before the next block makes its own
        out[..., rows, :] = summed.reshape(*block.shape[:-1], value_width)
    return out


def of_array(array: np.ndarray) -> Pieces:
    """Return views of (..., G, Tk, D), `PIECE` keys each, as pieces."""
    return lambda stop: (
        array[..., start : min(start + PIECE, stop), :] for start in range(0, stop, PIECE)
    )


def blocks(n_queries: int, n_keys: int, shared: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """Yield (queries, keys they need): about `BLOCK` rows at a time, none that see no key.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        shared: Query heads in a group.
        causal: Keys after the last query of the block are not needed.
    """
    step = max(1, BLOCK // max(1, shared))
    for first in range(0, n_queries, step):
        last = min(first + step, n_queries) - 1
        stop = min(last + n_keys - n_queries + 1, n_keys) if causal else n_keys
        if stop > 0:
            yield slice(first, last + 1), stop


def cost(
    B: int, H: int, Tq: int, Tk: int, D: int, G: int, piece: int, causal: bool, dtype_bytes: int
) -> Cost:
    """Count what `attend` does with G key/value heads and pieces of `piece` keys, with Dv = D.

    Keys and values are read once for each block of rows; the block's scores stay in cache.
    """
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    pairs = read = largest = 0
    for rows, stop in blocks(Tq, Tk, H // G, causal):
        n_rows = H // G * (rows.stop - rows.start)
        converted = min(piece, stop) * D if work_bytes != dtype_bytes else 0
        pairs += n_rows * stop
        read += (n_rows + 2 * stop) * D
        largest = max(largest, n_rows * stop + 3 * n_rows * D + converted)  # q, sum, product
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * G * pairs * D,
        bytes_read=B * G * read * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + B * G * largest * work_bytes,
    )


def _weights(
    rows: np.ndarray, keys: Iterable[np.ndarray], n_keys: int, n_queries: int, position: int
) -> np.ndarray:
    """Return the weights of scaled rows (..., G, rows, D); the first query sits at `position`."""
    scores = np.empty((*rows.shape[:-1], n_keys), rows.dtype)  # (..., G, rows, keys)
    start = 0
    for piece in keys:
        part = scores[..., start : start + piece.shape[-2]]
        np.matmul(rows, piece.astype(rows.dtype, copy=False).swapaxes(-1, -2), out=part)
        start += piece.shape[-2]
    seen = min(max(position, 0), n_keys)  # keys that all rows see
    by_head = scores.reshape(*rows.shape[:-2], scores.shape[-2] // n_queries, n_queries, n_keys)
    future = ~np.tri(n_queries, n_keys - seen, position - seen, dtype=bool)
    np.copyto(by_head[..., seen:], -np.inf, where=future)
    return softmax_in_place(scores)


def _sum_of_values(
    weights: np.ndarray, values: Iterable[np.ndarray], value_width: int
) -> np.ndarray:
    total = np.zeros((*weights.shape[:-1], value_width), weights.dtype)  # (..., G, rows, Dv)
    start = 0
    for piece in values:
        part = weights[..., start : start + piece.shape[-2]]
        total += np.matmul(part, piece.astype(weights.dtype, copy=False))
        start += piece.shape[-2]
    return total
