"""What several exercises of the chapter need: attention the expensive way, and slips of units."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from attncourse.softmax import softmax

METERED_N, METERED_D = 2048, 64
ROWS_BYTES = METERED_N * METERED_D * 4  # an array as large as q


def dense(q, k, v, visible, scale=None) -> np.ndarray:
    """Return attention under a mask as most people first write it: all scores, then the mask."""
    work = np.result_type(q.dtype, np.float32)
    scores = q.astype(work) @ k.swapaxes(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    return (softmax(scores, visible) @ v).astype(q.dtype)


def changed(function: Callable, change: Callable) -> Callable:
    """Return `function` with some entries of its dict replaced: change(result, *args) -> dict."""

    def result(*args) -> dict:
        whole = function(*args)
        return whole | change(whole, *args)

    return result
