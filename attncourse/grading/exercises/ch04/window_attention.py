"""Exercise 04.3: window attention whose memory really is O(n·w).

The limit at n = 4096, w = 24, D = 64 in float32 is 8.6 MiB: six bands of n·(2w + 1) numbers, which
is what a vectorised band with its mask, its int64 indices and its softmax holds, and four arrays as
large as q for padded copies and the result. Blocks, rows, diagonals and views fit. An n × n array
of booleans takes 16 MiB, keys copied for each query n·(2w + 1)·D numbers, 49 MiB. Only memory is
graded: a loop over rows that computes all n scores of a row and masks them passes.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator

from attncourse.grading.exercises.ch04.shared import (
    BAND_BYTES,
    ROWS_BYTES,
    dense,
    dense_window,
    metered_case,
)
from attncourse.grading.spec import TILE_SIZES, Case, Exercise, Memory, Mistake
from attncourse.reference import window as reference
from attncourse.softmax import softmax


def window_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> np.ndarray:
    """Return window attention for q, k (..., n, D) and v (..., n, Dv)."""
    return reference.attention(q, k, v, window=window)


def _square(q, window):
    return reference.mask(q.shape[-2], q.shape[-2], window=window)


def _attention_by_rows(q, k, v, window):
    n, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for i in range(n):
        near = slice(max(0, i - window), i + window + 1)
        scores = (k[..., near, :] @ q[..., i, :, None])[..., 0] * scale
        out[..., i, :] = (softmax(scores)[..., None, :] @ v[..., near, :])[..., 0, :]
    return out


def _attention_by_diagonals(q, k, v, window):
    """Hold the band (..., n, 2w+1) and fill it one diagonal at a time."""
    n, work = q.shape[-2], np.result_type(q.dtype, np.float32)
    window = min(window, n - 1)
    pairs = [  # (column of the band, rows that have such a key, their keys)
        (
            offset + window,
            slice(max(0, -offset), n - max(0, offset)),
            slice(max(0, offset), n + min(0, offset)),
        )
        for offset in range(-window, window + 1)
    ]
    band = np.full((*q.shape[:-1], 2 * window + 1), -np.inf, work)
    for column, rows, keys in pairs:
        band[..., rows, column] = (q[..., rows, :] * k[..., keys, :]).sum(-1, dtype=work)
    weights = softmax(band / math.sqrt(q.shape[-1]))
    out = np.zeros(q.shape[:-1] + v.shape[-1:], work)
    for column, rows, keys in pairs:
        out[..., rows, :] += weights[..., rows, column, None] * v[..., keys, :]
    return out.astype(q.dtype)


def _attention_by_views(q, k, v, window):
    """Pad K and V, look at them through sliding windows: views, so that nothing is copied."""
    n, work = q.shape[-2], np.result_type(q.dtype, np.float32)
    window = min(window, n - 1)
    edges = [(0, 0)] * (q.ndim - 2) + [(window, window), (0, 0)]
    k_near, v_near = (
        sliding_window_view(np.pad(x.astype(work), edges), 2 * window + 1, axis=-2) for x in (k, v)
    )  # (..., n, D, 2w+1)
    key = np.arange(n)[:, None] + np.arange(-window, window + 1)
    scores = np.matmul(q[..., None, :].astype(work), k_near)[..., 0, :] / math.sqrt(q.shape[-1])
    weights = softmax(scores, (key >= 0) & (key < n))
    return np.matmul(v_near, weights[..., None])[..., 0].astype(q.dtype)


def _near_keys(n, window):
    """Return the keys of each query, (n, 2w+1), and which of them exist."""
    key = np.arange(n)[:, None] + np.arange(-window, window + 1)
    return key.clip(0, n - 1), (key >= 0) & (key < n)


def _attention_by_gathering(q, k, v, window):
    """Copy the 2w+1 keys of every query, then the values: n·(2w+1)·D numbers at a time."""
    key, inside = _near_keys(q.shape[-2], window)
    scores = np.einsum("...nd,...nwd->...nw", q, k[..., key, :]) / math.sqrt(q.shape[-1])
    weights = softmax(scores.astype(np.float64), inside)
    return np.einsum("...nw,...nwd->...nd", weights, v[..., key, :]).astype(q.dtype)


def _attention_by_gathering_both(q, k, v, window):
    key, inside = _near_keys(q.shape[-2], window)
    k_near, v_near = k[..., key, :], v[..., key, :]
    scores = np.einsum("...nd,...nwd->...nw", q, k_near) / math.sqrt(q.shape[-1])
    weights = softmax(scores.astype(np.float64), inside)
    return np.einsum("...nw,...nwd->...nd", weights, v_near).astype(q.dtype)


def _attention_unstable(q, k, v, window):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp(scores) * _square(q, window)
        return (weights / weights.sum(axis=-1, keepdims=True) @ v).astype(q.dtype)


def _attention_not_renormalised(q, k, v, window):
    weights = softmax((q @ k.swapaxes(-1, -2)).astype(np.float64) / math.sqrt(q.shape[-1]))
    return (np.where(_square(q, window), weights, 0) @ v).astype(q.dtype)


def _attention_with_padding(q, k, v, window):
    n = q.shape[-2]
    edges = [(0, 0)] * (q.ndim - 2) + [(window, window), (0, 0)]
    offset = np.arange(n + 2 * window) - np.arange(n)[:, None]
    visible = (offset >= 0) & (offset <= 2 * window)
    return dense(q, np.pad(k, edges), np.pad(v, edges), visible)


def _attention_in_islands(q, k, v, window, size=None):
    block = np.arange(q.shape[-2]) // (size or window + 1)
    visible = block == block[:, None]
    return dense(q, k, v, visible & _square(q, window) if size else visible)


def _attention_causal(q, k, v, window):
    n = q.shape[-2]
    return dense(q, k, v, reference.mask(n, n, window=window, causal=True))


def _attention_strict(q, k, v, window):
    return dense(q, k, v, _square(q, max(0, window - 1)))


def _attention_cases(generator: Generator) -> list[Case]:
    def case(name, shape, window, *, dtype=np.float32, value_width=None, shift=0.0, longer=1.0):
        q, k, v = (generator.standard_normal(shape) for _ in range(3))
        if value_width:
            v = generator.standard_normal((*shape[:-1], value_width))
        if shift:  # adds shift² / √D to each score: exp overflows unless the maximum is subtracted
            q[..., -1] = k[..., -1] = shift
        q[..., 0, :] *= longer
        return Case(name, (q.astype(dtype), k.astype(dtype), v.astype(dtype), window))

    length, window = (int(x) for x in generator.integers((80, 1), (200, 40)))
    return [
        case("1 token, window 0", (1, 3), 0),
        case("1 token, window 3", (1, 3), 3),
        case("window 0", (5, 3), 0),
        case("window 1", (5, 3), 1),
        case("window 2", (7, 3), 2),
        case("window larger than n", (5, 3), 9),
        case("values narrower than keys", (6, 7), 2, value_width=3),
        case("2 heads", (2, 5, 3), 1),
        case("batch of 2, 3 heads", (2, 3, 7, 5), 2),
        case("float64", (9, 7), 2, dtype=np.float64),
        case("float16", (9, 7), 2, dtype=np.float16),
        case("large scores, float64", (6, 64), 2, dtype=np.float64, shift=80.0),
        case("one query 200 times longer than the others", (40, 16), 9, longer=200),
        case("63 tokens, window 100", (63, 16), 100),
        case(f"random, n = {length}, window {window}", (length, 32), window),
        case(f"random, 2 heads, n = {length}, window {window}", (2, length, 32), window),
    ]


WINDOW_ATTENTION = Exercise(
    id="04.3",
    chapter="04",
    title="Window attention in O(n·w) memory",
    function="window_attention",
    kind="array",
    minutes=25,
    difficulty=3,
    points=4,
    hints=(
        "Which keys does a block of neighbouring queries need? All others can stay untouched.",
        "Loop over blocks of queries. Queries start … stop need only the keys start - window … "
        "stop + window: slice those, mask inside the small tile, apply softmax, multiply by v.",
        "near = slice(max(0, start - window), min(n, stop + window)); scores of q[..., start:stop, "
        ":] with k[..., near, :]; set |i - j| > window to -inf before the softmax.",
    ),
    reference=window_attention,
    cases=_attention_cases,
    memory=Memory(
        metered_case,
        6 * BAND_BYTES + 4 * ROWS_BYTES,
        "six bands of n·(2w + 1) float32 numbers and four arrays as large as q",
    ),
    mistakes=(
        Mistake(
            "matrix and mask",
            dense_window,
            "your numbers are right, but all n × n scores are computed and most are thrown away",
            "work on blocks of queries and slice the few keys that they can see",
        ),
        Mistake(
            "keys gathered",
            _attention_by_gathering,
            "your numbers are right, but k[…] with an index copies 2w + 1 keys of width D for "
            "every query: n·w·D numbers, not n·w",
            "let neighbouring queries share one slice of k, or use a view such as "
            "sliding_window_view",
        ),
        Mistake(
            "keys and values gathered",
            _attention_by_gathering_both,
            "your numbers are right, but k[…] and v[…] with an index copy 2w + 1 rows of width D "
            "for every query: twice n·w·D numbers, not n·w",
            "let neighbouring queries share one slice of k and of v",
        ),
        Mistake(
            "no scale",
            lambda q, k, v, window: dense(q, k, v, _square(q, window), 1.0),
            "your output is what you get without 1/√D",
            "divide the scores by the square root of D before the softmax",
        ),
        Mistake(
            "scale 1/D",
            lambda q, k, v, window: dense(q, k, v, _square(q, window), 1 / q.shape[-1]),
            "your output is what you get with 1/D instead of 1/√D",
            "divide the scores by the square root of D",
        ),
        Mistake(
            "window as total",
            lambda q, k, v, window: dense(q, k, v, _square(q, window // 2)),
            "your window is the total: window // 2 keys on each side",
            "here window is a radius: 2·window + 1 keys",
        ),
        Mistake(
            "strictly less",
            _attention_strict,
            "your window leaves out the keys at distance exactly window",
            "the last key of a slice is excluded: end it at i + window + 1",
        ),
        Mistake(
            "causal",
            _attention_causal,
            "your queries see nothing after themselves: that is causal attention",
            "the window reaches to both sides",
        ),
        Mistake(
            "islands",
            _attention_in_islands,
            "your queries see only keys of their own block",
            "let the slice of keys reach window beyond both ends of the block of queries",
            tuple(partial(_attention_in_islands, size=size) for size in TILE_SIZES),
        ),
        Mistake(
            "padding attended",
            _attention_with_padding,
            "your rows near the edges also attend to the zeros of the padding",
            "a padded key has score 0, not -inf: mask it before the softmax",
        ),
        Mistake(
            "not renormalised",
            _attention_not_renormalised,
            "your weights come from a softmax over all keys, cut off afterwards",
            "mask first, then softmax: each row of weights must sum to 1 inside the window",
        ),
        Mistake(
            "unstable softmax",
            _attention_unstable,
            "your exponentials overflow: the row maximum is not subtracted",
            "subtract the maximum of each row of scores before np.exp",
        ),
    ),
    alternatives=(_attention_by_rows, _attention_by_diagonals, _attention_by_views),
)
