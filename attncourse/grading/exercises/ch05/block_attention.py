"""Exercise 05.3: block-sparse attention that holds one row of blocks.

The limit at n = 2048, D = 64, float32 is four arrays as large as q, 2 MiB: the result is one, and a
row of blocks with its scores and its copies of K and V is far below another. An n × n array takes
4 MiB even of booleans; the keys and values of all rows gathered at once take some 5 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch05.shared import METERED_D, METERED_N, ROWS_BYTES, dense
from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.reference import block_sparse as reference
from attncourse.softmax import softmax


def block_sparse_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, layout: np.ndarray, block: int
) -> np.ndarray:
    """Return attention over the listed blocks, for q, k (..., n, D) and v (..., n, Dv)."""
    return reference.attention(q, k, v, layout=layout, block=block)


def _mask_of(layout, block, n):
    at = np.arange(n) // block
    return layout[at[:, None], at]


def _by_tiles(q, k, v, layout, block, rescale=True, join=True):
    """Go tile by tile and join them by the online softmax; without `join`, average the tiles."""
    n, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for row, listed in enumerate(layout):
        rows = slice(row * block, min((row + 1) * block, n))
        running_max = np.full((*q[..., rows, :1].shape[:-1], 1), -np.inf, work)
        acc = np.zeros((*q.shape[:-2], running_max.shape[-2], v.shape[-1]), work)
        total = np.zeros_like(running_max)
        for column in np.flatnonzero(listed):
            keys = slice(column * block, min((column + 1) * block, n))
            scores = (q[..., rows, :] @ k[..., keys, :].swapaxes(-1, -2)).astype(work) * scale
            new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
            weights = np.exp(scores - new_max)
            fade = np.exp(running_max - new_max) if rescale else 1
            part = weights.sum(axis=-1, keepdims=True)
            if join:
                acc = acc * fade + weights @ v[..., keys, :]
                total = total * fade + part
            else:
                acc = acc + weights / part @ v[..., keys, :]
                total = total + 1
            running_max = new_max
        out[..., rows, :] = acc / np.where(total == 0, 1, total)
    return out


def _by_rows_of_blocks(listed_of: Callable = np.flatnonzero, empty=0.0) -> Callable:
    """Return the attention row of blocks by row of blocks.

    Args:
        listed_of: A row of the layout -> its blocks.
        empty: What a row without blocks gives.
    """

    def attention(q, k, v, layout, block):
        n, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
        out = np.full(q.shape[:-1] + v.shape[-1:], empty, q.dtype)
        for row in range(len(layout)):
            rows = slice(row * block, (row + 1) * block)
            keys = (listed_of(layout[row])[:, None] * block + np.arange(block)).ravel()
            keys = keys[keys < n]
            if len(keys):
                scores = q[..., rows, :] @ k[..., keys, :].swapaxes(-1, -2) * scale
                weights = softmax(scores.astype(np.result_type(q.dtype, np.float32)))
                out[..., rows, :] = weights @ v[..., keys, :]
        return out

    return attention


def _one_query_at_a_time(q, k, v, layout, block):
    n, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    at = np.arange(n) // block
    for i in range(n):
        keys = np.flatnonzero(layout[i // block][at])
        if len(keys):
            scores = (k[..., keys, :] @ q[..., i, :, None])[..., 0] * scale
            out[..., i, :] = (softmax(scores)[..., None, :] @ v[..., keys, :])[..., 0, :]
    return out


def _all_rows_gathered(q, k, v, layout, block):
    """Gather the keys of every row of blocks before the first is computed."""
    n = q.shape[-2]
    at = np.arange(n) // block
    lists = [np.flatnonzero(listed[at]) for listed in layout]
    gathered = [(k[..., keys, :], v[..., keys, :]) for keys in lists]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for row, (k_near, v_near) in enumerate(gathered):
        rows = slice(row * block, (row + 1) * block)
        if k_near.shape[-2]:
            out[..., rows, :] = dense(q[..., rows, :], k_near, v_near, None)
    return out


def _ragged_end_lost(q, k, v, layout, block):
    n = q.shape[-2]
    whole = n // block * block
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    cut = (a[..., :whole, :] for a in (q, k, v))
    tiles = n // block
    out[..., :whole, :] = block_sparse_attention(*cut, layout[:tiles, :tiles], block)
    return out


def _exp_of_zero(q, k, v, layout, block):
    """Multiply the scores by the mask: what is hidden keeps the weight exp(0)."""
    visible = _mask_of(layout, block, q.shape[-2])
    work = np.result_type(q.dtype, np.float32)
    scores = q.astype(work) @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) * visible
    return (softmax(scores) @ v).astype(q.dtype)


def _cases(generator: Generator) -> list[Case]:
    def case(name, shape, block, layout, *, dtype=np.float32, value_width=None, longer=1.0):
        q, k, v = (generator.standard_normal(shape) for _ in range(3))
        if value_width:
            v = generator.standard_normal((*shape[:-1], value_width))
        q[..., 0, :] *= longer
        layout = np.array(layout, dtype=bool)
        return Case(name, (q.astype(dtype), k.astype(dtype), v.astype(dtype), layout, block))

    def drawn(tiles):
        return generator.random((tiles, tiles)) < 0.4

    tiles, block = (int(x) for x in generator.integers((3, 4), (9, 20)))
    lower = np.tri(3)
    return [
        case("1 token", (1, 3), 1, [[1]]),
        case("1 token, nothing listed", (1, 3), 1, [[0]]),
        case("2 blocks of 2, each its own", (4, 3), 2, np.eye(2)),
        case("2 blocks of 2, each the other", (4, 3), 2, [[0, 1], [1, 0]]),
        case("all blocks", (6, 5), 2, np.ones((3, 3))),
        case("a row without blocks", (6, 5), 2, [[1, 1, 0], [0, 0, 0], [1, 0, 1]]),
        case("lower triangle of blocks", (9, 5), 3, lower),
        case("the last block is cut", (7, 5), 3, [[1, 0, 1], [1, 1, 0], [0, 1, 1]]),
        case("values narrower than keys", (8, 8), 4, [[1, 1], [0, 1]], value_width=3),
        case("batch of 2, 3 heads", (2, 3, 8, 5), 4, [[1, 0], [1, 1]]),
        case("one query 200 times longer than the others", (16, 8), 8, np.ones((2, 2)), longer=200),
        case("float64", (12, 8), 4, drawn(3), dtype=np.float64),
        case(f"random, {tiles} blocks of {block}", (tiles * block, 16), block, drawn(tiles)),
        case("random, 100 tokens in blocks of 16", (100, 16), 16, drawn(7)),
    ]


def _metered(generator: Generator) -> Case:
    q, k, v = generator.standard_normal((3, METERED_N, METERED_D), dtype=np.float32)
    tiles = METERED_N // 64
    layout = np.eye(tiles, dtype=bool)
    for row in layout:
        row[generator.permutation(tiles)[:4]] = True
    return Case(f"n = {METERED_N}, blocks of 64, 4 or 5 a row", (q, k, v, layout, 64))


BLOCK_ATTENTION = Exercise(
    id="05.3",
    chapter="05",
    title="Block-sparse attention, one row of blocks at a time",
    function="block_sparse_attention",
    kind="array",
    minutes=25,
    difficulty=3,
    points=4,
    hints=(
        "All queries of one block see the same keys. What is the smallest matrix that their "
        "scores need?",
        "Loop over the rows of the layout. Turn the listed blocks into token numbers, take those "
        "rows of k and v, and do plain attention. A row that lists nothing stays zero.",
        "keys = (np.flatnonzero(layout[row])[:, None] * block + np.arange(block)).ravel(), cut to "
        "keys < n; then softmax(q[..., rows, :] @ k[..., keys, :].T / √D) @ v[..., keys, :].",
    ),
    reference=block_sparse_attention,
    cases=_cases,
    memory=Memory(_metered, 4 * ROWS_BYTES, "four arrays as large as q: 4 · n · D · 4 bytes"),
    mistakes=(
        Mistake(
            "matrix and mask",
            lambda q, k, v, layout, block: dense(q, k, v, _mask_of(layout, block, q.shape[-2])),
            "your numbers are right, but all n × n scores are computed and most are thrown away",
            "take one row of blocks at a time, and of the keys only the listed blocks",
        ),
        Mistake(
            "all rows gathered",
            _all_rows_gathered,
            "your numbers are right, but the keys of all rows of blocks are copied before the "
            "first is used",
            "gather inside the loop, so that the next row reuses the memory",
        ),
        Mistake(
            "each block by itself",
            lambda q, k, v, layout, block: _by_tiles(q, k, v, layout, block, join=False),
            "your softmax runs over each block alone, and the results are averaged",
            "one softmax over all keys of the row: join the blocks before you normalise",
        ),
        Mistake(
            "no rescaling",
            lambda q, k, v, layout, block: _by_tiles(q, k, v, layout, block, rescale=False),
            "your running sum keeps old weights on an old maximum",
            "when the maximum rises, multiply what you have by exp(old - new)",
        ),
        Mistake(
            "no scale",
            lambda q, k, v, layout, block: block_sparse_attention(
                q * np.sqrt(q.shape[-1]).astype(q.dtype), k, v, layout, block
            ),
            "your output is what you get without 1/√D",
            "divide the scores by the square root of D before the softmax",
        ),
        Mistake(
            "layout transposed",
            lambda q, k, v, layout, block: block_sparse_attention(q, k, v, layout.T, block),
            "your layout is read by columns: its rows are the blocks of queries",
            "layout[a, b] lets query block a see key block b",
        ),
        Mistake(
            "hidden keys weigh exp(0)",
            _exp_of_zero,
            "your hidden scores are 0, and exp(0) = 1 is a weight",
            "leave the other blocks out, or set their scores to -inf before the softmax",
        ),
        Mistake(
            "end lost",
            _ragged_end_lost,
            "your last block is lost where n is no multiple of block",
            "the last block may be shorter: cut it at n",
        ),
        Mistake(
            "own block added",
            lambda q, k, v, layout, block: block_sparse_attention(
                q, k, v, layout | np.eye(len(layout), dtype=bool), block
            ),
            "your queries always see their own block",
            "only listed blocks count; an empty row gives zeros",
        ),
        Mistake(
            "NaN in empty rows",
            _by_rows_of_blocks(empty=np.nan),
            "your rows without blocks are NaN",
            "a query that sees nothing gives zeros: start from np.zeros",
        ),
    ),
    alternatives=(_by_rows_of_blocks(), _by_tiles, _one_query_at_a_time),
)
