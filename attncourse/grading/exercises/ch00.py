"""Chapter 00: two exercises to learn how exercises work."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Memory, Mistake

# 00.1 -------------------------------------------------------------------------------------------


def score_bytes(n: int, heads: int, layers: int, batch: int, bytes_per_number: int) -> int:
    """Return the bytes of all attention scores of a model."""
    return batch * layers * heads * n**2 * bytes_per_number


def _score_bytes_by_steps(n, heads, layers, batch, bytes_per_number):
    one_head = n * n * bytes_per_number
    one_layer = one_head * heads
    return one_layer * layers * batch


def _score_bytes_by_product(n, heads, layers, batch, bytes_per_number):
    return math.prod((n, n, heads, layers, batch, bytes_per_number))


def _score_bytes_cases(generator: Generator) -> list[Case]:
    random = [tuple(int(x) for x in generator.integers(2, 60, 5)) for _ in range(4)]
    return [
        Case("1 token", (1, 1, 1, 1, 1)),
        Case("3 tokens, 2 bytes a number", (3, 1, 1, 1, 2)),
        Case("2 heads", (3, 2, 1, 1, 4)),
        Case("5 layers", (3, 2, 5, 1, 4)),
        Case("batch 7", (3, 2, 5, 7, 4)),
        Case("10¹² tokens", (10**12, 96, 80, 16, 2)),
        *(Case(f"random sizes {sizes}", sizes) for sizes in random),
    ]


SCORE_BYTES = Exercise(
    id="00.1",
    chapter="00",
    title="Bytes of the scores",
    function="score_bytes",
    kind="number",
    minutes=3,
    difficulty=1,
    points=1,
    hints=(
        "Start with one head of one layer for one sequence: how many pairs of query and key?",
        "n queries times n keys make n² numbers. Heads, layers and sequences each have their own.",
        "Multiply all five: n appears squared, each of the others once.",
    ),
    reference=score_bytes,
    cases=_score_bytes_cases,
    mistakes=(
        Mistake(
            "linear in n",
            lambda n, heads, layers, batch, size: batch * layers * heads * n * size,
            "your number grows with n, not with n²",
            "count pairs: each of n queries has a score for each of n keys",
        ),
        Mistake(
            "heads forgotten",
            lambda n, heads, layers, batch, size: batch * layers * n**2 * size,
            "your number is that of a single head",
            "each head has its own n × n scores: multiply by heads",
        ),
        Mistake(
            "layers forgotten",
            lambda n, heads, layers, batch, size: batch * heads * n**2 * size,
            "your number is that of a single layer",
            "each layer has its own scores: multiply by layers",
        ),
        Mistake(
            "batch forgotten",
            lambda n, heads, layers, batch, size: layers * heads * n**2 * size,
            "your number is that of a single sequence",
            "each sequence of the batch has its own scores: multiply by batch",
        ),
        Mistake(
            "numbers instead of bytes",
            lambda n, heads, layers, batch, size: batch * layers * heads * n**2,
            "you counted numbers, not bytes",
            "multiply by bytes_per_number",
        ),
        Mistake(
            "bits instead of bytes",
            lambda n, heads, layers, batch, size: 8 * batch * layers * heads * n**2 * size,
            "your number is 8 times too large: it counts bits",
            "bytes_per_number is already in bytes: do not multiply by 8",
        ),
        Mistake(
            "causal half",
            lambda n, heads, layers, batch, size: batch * layers * heads * n * (n + 1) // 2 * size,
            "you counted the lower triangle only, the pairs of a causal mask",
            "all n² scores are stored, whether a mask hides them or not",
        ),
        Mistake(
            "megabytes",
            lambda n, heads, layers, batch, size: batch * layers * heads * n**2 * size / 1e6,
            "your number is in MB",
            "return bytes: leave out the division by 10⁶",
        ),
    ),
    alternatives=(_score_bytes_by_steps, _score_bytes_by_product),
)

# 00.2 -------------------------------------------------------------------------------------------

PEAKS_N, PEAKS_ROWS = 2048, 128  # the metered size; rows of scores that may exist at once


def score_peaks(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the largest score q·k of each query; one row of scores exists at a time."""
    return np.array([(k @ row).max() for row in q])


def _peaks_by_blocks(q, k):
    peaks = np.empty(len(q), q.dtype)
    for start in range(0, len(q), 64):
        (q[start : start + 64] @ k.T).max(axis=1, out=peaks[start : start + 64])
    return peaks


def _peaks_running(q, k):
    peaks = np.full(len(q), -np.inf, q.dtype)
    for start in range(0, len(k), 64):
        peaks = np.maximum(peaks, (q @ k[start : start + 64].T).max(axis=1))
    return peaks


def _peaks_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width, dtype=np.float32, shift=0.0):
        q, k = (generator.standard_normal((n, width)) for n in (n_queries, n_keys))
        return Case(name, (q.astype(dtype), (k - shift * q.sum(axis=0)).astype(dtype)))

    return [
        case("1 query, 1 key", 1, 1, 1),
        case("2 queries, 3 keys", 2, 3, 4),
        case("1 query: all scores below 0", 1, 4, 8, shift=5.0),
        case("more queries than keys", 7, 3, 5),
        case("float64", 5, 5, 8, np.float64),
        case("random, 63 queries, 100 keys", 63, 100, 16),
        case("random, 100 queries, 63 keys", 100, 63, 64),
    ]


def _peaks_metered(generator: Generator) -> Case:
    q, k = generator.standard_normal((2, PEAKS_N, 16), dtype=np.float32)
    return Case(f"n = {PEAKS_N}", (q, k))


SCORE_PEAKS = Exercise(
    id="00.2",
    chapter="00",
    title="Largest score of each query, without the matrix",
    function="score_peaks",
    kind="array",
    minutes=5,
    difficulty=1,
    points=1,
    hints=(
        "Which scores does the answer for one query need? Must the others exist at that time?",
        "Loop over the queries: compute one row of scores, keep its maximum, forget the row.",
        "One row is k @ q[i], of shape (Tk,). Collect its .max() for each i into an array.",
    ),
    reference=score_peaks,
    cases=_peaks_cases,
    memory=Memory(
        _peaks_metered,
        PEAKS_ROWS * PEAKS_N * 4,
        f"{PEAKS_ROWS} rows of scores at once: {PEAKS_ROWS} · n · 4 bytes",
    ),
    mistakes=(
        Mistake(
            "whole matrix",
            lambda q, k: (q @ k.T).max(axis=1),
            "your answer is right, but all n × n scores exist at once",
            "take the queries one by one, or in blocks, and keep only the maxima",
        ),
        Mistake(
            "per key",
            lambda q, k: (q @ k.T).max(axis=0),
            "your maxima run over the queries: there is one for each key",
            "each query wants the maximum over the keys, the last axis of the scores",
        ),
        Mistake(
            "scaled",
            lambda q, k: (q @ k.T).max(axis=1) / np.sqrt(q.shape[-1]).astype(q.dtype),
            "your scores are divided by √D",
            "here the score is the plain product q·k",
        ),
        Mistake(
            "magnitude",
            lambda q, k: np.abs(q @ k.T).max(axis=1),
            "your output is the largest magnitude: negative scores count as positive",
            "leave out the absolute value",
        ),
        Mistake(
            "starts at zero",
            lambda q, k: np.maximum(0, (q @ k.T).max(axis=1)),
            "your running maximum starts at 0, so negative maxima are lost",
            "start the maximum at -np.inf",
        ),
        Mistake(
            "own key",
            lambda q, k: np.array([k[min(i, len(k) - 1)] @ row for i, row in enumerate(q)]),
            "your output is each query's score with the key at its own position",
            "take the maximum over all keys",
        ),
        Mistake(
            "first block only",
            lambda q, k: (q @ k[:64].T).max(axis=1),
            "your maxima cover only the first 64 keys",
            "carry the maximum on from block to block until the last key",
        ),
    ),
    alternatives=(_peaks_by_blocks, _peaks_running),
)

EXERCISES = (SCORE_BYTES, SCORE_PEAKS)
