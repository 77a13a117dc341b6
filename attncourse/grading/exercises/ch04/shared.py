"""What several exercises of the chapter need."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case
from attncourse.reference import window as reference
from attncourse.softmax import softmax

METERED_N, METERED_WINDOW, METERED_D = 4096, 24, 64
BAND_BYTES = METERED_N * (2 * METERED_WINDOW + 1) * 4  # n·(2w + 1) float32 numbers
ROWS_BYTES = METERED_N * METERED_D * 4  # an array as large as q


def metered_case(generator: Generator) -> Case:
    """Return the call whose memory is graded: (q, k, v, window), one head in float32."""
    q, k, v = generator.standard_normal((3, METERED_N, METERED_D), dtype=np.float32)
    return Case(f"n = {METERED_N}, window {METERED_WINDOW}", (q, k, v, METERED_WINDOW))


def dense(q, k, v, visible, scale=None) -> np.ndarray:
    """Return attention under a mask the expensive way; most mistakes are this with a wrong mask."""
    work = np.result_type(q.dtype, np.float32)
    scores = q.astype(work) @ k.swapaxes(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    return (softmax(scores, visible) @ v).astype(q.dtype)


def dense_window(q, k, v, window) -> np.ndarray:
    """Return window attention as most people first write it: a matrix, and a mask over it."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    position = np.arange(n_queries)[:, None] + n_keys - n_queries
    return dense(q, k, v, np.abs(position - np.arange(n_keys)) <= window)


def band(n: int, side: int) -> int:
    """Return the connections of a window with `side` keys on each side of n tokens."""
    return reference.count(n, n, window=side)


def rescaled(function: Callable, ending: str, divisor: int) -> Callable:
    """Return `function` with the integers whose key has this ending divided."""

    def result(*args) -> dict:
        return {
            key: value // divisor if key.endswith(ending) else value
            for key, value in function(*args).items()
        }

    return result
