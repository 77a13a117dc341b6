"""What several exercises of the chapter need."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case

METERED_N, METERED_D = 4096, 64
ROWS_BYTES = METERED_N * METERED_D * 4  # an array as large as q


def metered_case(generator: Generator) -> Case:
    """Return the call whose memory is graded: (q, k, v), one head in float32."""
    q, k, v = generator.standard_normal((3, METERED_N, METERED_D), dtype=np.float32)
    return Case(f"n = {METERED_N}", (q, k, v))


def elu_plus_one(x: np.ndarray) -> np.ndarray:
    """Return elu(x) + 1 without overflow."""
    return np.exp(np.minimum(x, 0)) + np.maximum(x, 0)


def normalised(scores: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the average of v with whole rows of scores; a row of zeros gives zeros."""
    total = scores.sum(axis=-1, keepdims=True)
    return (scores / np.where(total == 0, 1, total)) @ v
