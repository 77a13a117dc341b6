"""Exercise 09.3: attention that never holds a row of scores.

The metered call has few queries and so many keys that one row of scores takes 256 KiB; half of that
is allowed. Whole rows fail, even one at a time. Tiles of keys fit with the online softmax, with two
passes over the keys, or with parts that are merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import TILE_SIZES, Case, Exercise, Memory, Mistake
from attncourse.reference import flash
from attncourse.softmax import softmax

METERED_QUERIES, METERED_KEYS, METERED_D = 8, 2**16, 8
ROW_BYTES = METERED_KEYS * 4


def tiled_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return attention for q (..., Tq, D), k (..., Tk, D) and v (..., Tk, Dv)."""
    return flash.attention(q, k, v, block_q=64, block_k=512)


def _parts(k, v, size=512):
    """Yield the keys and values in tiles."""
    for start in range(0, k.shape[-2], size):
        yield k[..., start : start + size, :], v[..., start : start + size, :]


def _scores(q, k, scale=None):
    work = np.result_type(q.dtype, np.float32)
    scores = q.astype(work) @ k.astype(work).swapaxes(-1, -2)
    return scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def _attention_by_merging(q, k, v):
    out = lse = None
    for k_part, v_part in _parts(k, v):
        part = flash.forward(q, k_part, v_part, block_q=64, block_k=512)
        out, lse = part if out is None else flash.merge(out, lse, *part)
    return out


def _attention_in_two_passes(q, k, v):
    """Find each row's maximum first, then sum: the scores are computed twice."""
    row_max = np.max([_scores(q, part).max(axis=-1) for part, _ in _parts(k, v)], axis=0)[..., None]
    row_sum, acc = 0.0, 0.0
    for k_part, v_part in _parts(k, v):
        weights = np.exp(_scores(q, k_part) - row_max)
        row_sum = row_sum + weights.sum(axis=-1, keepdims=True)
        acc = acc + weights @ v_part
    return (acc / row_sum).astype(q.dtype)


def _attention_in_tiny_tiles(q, k, v):
    work = np.result_type(q.dtype, np.float32)
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for i in range(0, q.shape[-2], 4):
        rows = q[..., i : i + 4, :]
        best = np.full((*rows.shape[:-1], 1), -np.inf, work)
        total, acc = np.zeros_like(best), np.zeros(rows.shape[:-1] + v.shape[-1:], work)
        for k_part, v_part in _parts(k, v, 100):
            scores = _scores(rows, k_part)
            higher = np.maximum(best, scores.max(axis=-1, keepdims=True))
            weights, fade = np.exp(scores - higher), np.exp(best - higher)
            total, acc, best = total * fade + weights.sum(-1)[..., None], acc * fade, higher
            acc += weights @ v_part
        out[..., i : i + 4, :] = acc / total
    return out


def _online(step: Callable, scale=None, first: float = -np.inf, size: int = 16) -> Callable:
    """Make an online softmax whose update is `step(old_max, new_max, scores)` -> factors.

    The factors are those of the kept sum, of the kept values, and what is subtracted.
    """

    def attention(q, k, v):
        work = np.result_type(q.dtype, np.float32)
        running_max = np.full((*q.shape[:-1], 1), first, work)
        running_sum, acc = np.zeros_like(running_max), np.zeros(q.shape[:-1] + v.shape[-1:], work)
        with np.errstate(all="ignore"):
            for k_part, v_part in _parts(k, v, size):
                scores = _scores(q, k_part, scale)
                new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
                keep_sum, keep_acc, shift = step(running_max, new_max)
                weights = np.exp(scores - shift)
                running_sum = running_sum * keep_sum + weights.sum(axis=-1, keepdims=True)
                acc = acc * keep_acc + weights @ v_part
                running_max = new_max
            return (acc / running_sum).astype(q.dtype)

    return attention


def _right(old, new):
    return np.exp(old - new), np.exp(old - new), new


def _keeping_values(old, new):
    return np.exp(old - new), 1.0, new


def _keeping_sum(old, new):
    return 1.0, np.exp(old - new), new


def _keeping_both(old, new):
    return 1.0, 1.0, new


def _of_all_sizes(make: Callable) -> tuple[Callable, ...]:
    """Return a mistake in the sizes of tile that learners choose."""
    return tuple(make(size) for size in TILE_SIZES)


def _joined(join: Callable) -> Callable:
    """Make a mistake for each size of tile: (size) -> the outputs of the tiles, joined."""

    def of_size(size):
        return lambda q, k, v: join(_softmax_of_parts(q, k, v, size), axis=0).astype(q.dtype)

    return of_size


def _whole_matrix(q, k, v):
    return (softmax(_scores(q, k)) @ v).astype(q.dtype)


def _row_by_row(q, k, v):
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for i in range(q.shape[-2]):
        out[..., i : i + 1, :] = softmax(_scores(q[..., i : i + 1, :], k)) @ v
    return out


def _softmax_of_parts(q, k, v, size):
    return [softmax(_scores(q, k_part)) @ v_part for k_part, v_part in _parts(k, v, size)]


def _cases(generator: Generator) -> list[Case]:
    def case(name, shape, keys, *, dtype=np.float32, value_width=None, shift=0.0, longer=1.0):
        *lead, _, width = shape
        q = generator.standard_normal(shape)
        k = generator.standard_normal((*lead, keys, width))
        v = generator.standard_normal((*lead, keys, value_width or width))
        if shift:  # adds shift · |shift| / √D to each score
            q[..., -1], k[..., -1] = abs(shift), shift
        q[..., 0, :] *= longer
        return Case(name, (q.astype(dtype), k.astype(dtype), v.astype(dtype)))

    queries, keys = (int(x) for x in generator.integers((20, 600), (120, 1200)))
    return [
        case("1 query, 1 key", (1, 3), 1),
        case("1 query, 5 keys", (1, 3), 5),
        case("5 queries, 1 key", (5, 3), 1),
        case("values narrower than keys", (6, 7), 20, value_width=3),
        case("2 heads", (2, 5, 3), 40),
        case("batch of 2, 3 heads", (2, 3, 7, 5), 33),
        case("float64", (9, 7), 50, dtype=np.float64),
        case("float16", (9, 7), 40, dtype=np.float16),
        case("large scores", (6, 64), 40, shift=40.0),
        case("all scores far below 0", (6, 64), 40, shift=-40.0),
        case("one query 200 times longer than the others", (5, 16), 60, longer=200),
        case("200 queries, 3 keys", (200, 8), 3),
        case("65 queries, 129 keys", (65, 16), 129),
        case(f"random, {queries} queries, {keys} keys", (queries, 32), keys),
    ]


def _metered(generator: Generator) -> Case:
    q = generator.standard_normal((METERED_QUERIES, METERED_D), dtype=np.float32)
    k, v = generator.standard_normal((2, METERED_KEYS, METERED_D), dtype=np.float32)
    return Case(f"{METERED_QUERIES} queries, {METERED_KEYS} keys", (q, k, v))


TILED_ATTENTION = Exercise(
    id="09.3",
    chapter="09",
    title="Attention without a row of scores",
    function="tiled_attention",
    kind="array",
    minutes=25,
    difficulty=3,
    points=4,
    hints=(
        "Which numbers per query let you forget the keys that you have seen?",
        "Loop over slices of k and v. Keep the maximum, the sum and the summed values of each "
        "query. Before you add a slice, multiply what is kept by exp(old maximum - new maximum).",
        "new_max = np.maximum(running_max, scores.max(-1, keepdims=True)); weights = np.exp(scores "
        "- new_max); rescale = np.exp(running_max - new_max); both sums: old * rescale + new.",
    ),
    reference=tiled_attention,
    cases=_cases,
    memory=Memory(
        _metered, ROW_BYTES // 2, "half a row of scores: Tk / 2 · 4 bytes, the output included"
    ),
    mistakes=(
        Mistake(
            "whole matrix",
            _whole_matrix,
            "your numbers are right, but all Tq × Tk scores exist at once",
            "take the keys in slices of a few hundred and keep maximum and sum of each query",
        ),
        Mistake(
            "row by row",
            _row_by_row,
            "your numbers are right, but a whole row of scores exists at once",
            "one row is too long here: take the keys in slices, too",
        ),
        Mistake(
            "parts added",
            _joined(np.sum)(16),
            "you added the softmax outputs of the slices: their weights sum to more than 1",
            "carry maximum and sum from slice to slice, and divide once at the end",
            _of_all_sizes(_joined(np.sum)),
        ),
        Mistake(
            "parts averaged",
            _joined(np.mean)(16),
            "you averaged the softmax outputs of the slices: a weak slice counts as a strong one",
            "each slice weighs as much as its sum of exponentials",
            _of_all_sizes(_joined(np.mean)),
        ),
        Mistake(
            "values not rescaled",
            _online(_keeping_values),
            "a new maximum shrinks your sum, but not the values summed so far",
            "multiply acc by exp(old maximum - new maximum) as well",
            _of_all_sizes(lambda size: _online(_keeping_values, size=size)),
        ),
        Mistake(
            "sum not rescaled",
            _online(_keeping_sum),
            "a new maximum shrinks your summed values, but not the sum",
            "multiply running_sum by exp(old maximum - new maximum) as well",
            _of_all_sizes(lambda size: _online(_keeping_sum, size=size)),
        ),
        Mistake(
            "nothing rescaled",
            _online(_keeping_both),
            "a new maximum changes nothing of what you kept",
            "multiply both sums by exp(old maximum - new maximum)",
            _of_all_sizes(lambda size: _online(_keeping_both, size=size)),
        ),
        Mistake(
            "maximum starts at 0",
            _online(_right, first=0.0),
            "your running maximum starts at 0: far below it exp gives only zeros",
            "start the maximum at -np.inf",
        ),
        Mistake(
            "no maximum",
            _online(lambda old, new: (1.0, 1.0, 0.0)),
            "your exponentials overflow: no maximum is subtracted",
            "subtract the running maximum before np.exp",
        ),
        Mistake(
            "no scale",
            _online(_right, scale=1.0),
            "your output is what you get without 1/√D",
            "divide the scores by the square root of D before the softmax",
        ),
    ),
    alternatives=(_attention_by_merging, _attention_in_two_passes, _attention_in_tiny_tiles),
)
