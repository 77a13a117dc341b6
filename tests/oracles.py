"""Attention by plain Python loops in float64, independent of attncourse."""

import math

import numpy as np


def attention(q, k, v, visible=None, scale=None):
    """softmax(q kᵀ scale) v, one pair at a time; `visible(i, j)` says who may attend to whom."""
    *leading, n_queries, width = q.shape
    n_keys, value_width = v.shape[-2:]
    scale = 1 / math.sqrt(width) if scale is None else scale
    out = np.zeros((*leading, n_queries, value_width))
    for index in np.ndindex(*leading):
        for i in range(n_queries):
            keys = [j for j in range(n_keys) if visible is None or visible(i, j)]
            if not keys:
                continue
            scores = [
                scale
                * math.fsum(
                    float(a) * float(b) for a, b in zip(q[index][i], k[index][j], strict=True)
                )
                for j in keys
            ]
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            total = math.fsum(weights)
            for weight, j in zip(weights, keys, strict=True):
                out[index][i] += weight / total * v[index][j].astype(np.float64)
    return out


def window_visible(n_queries, n_keys, window, dilation=1, causal=False):
    """The window's definition, pair by pair."""

    def visible(i, j):
        steps, rest = divmod(j - (i + n_keys - n_queries), dilation)
        return rest == 0 and -window <= steps <= (0 if causal else window)

    return visible


def mask_of(visible, n_queries, n_keys):
    return np.array(
        [[visible(i, j) for j in range(n_keys)] for i in range(n_queries)], dtype=bool
    ).reshape(n_queries, n_keys)


def finite_differences(function, array, step=1e-6):
    """The gradient of a scalar function of a float64 array, by central differences."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(*array.shape):
        saved = array[index]
        array[index] = saved + step
        above = function()
        array[index] = saved - step
        below = function()
        array[index] = saved
        gradient[index] = (above - below) / (2 * step)
    return gradient


def tolerance(out, dtype, work_error=0.0):
    """Largest error allowed for `out` in `dtype`: rounding of the result, and of the work before.

    `work_error` is what a float32 NumPy run already loses against float64; a result may lose twice
    that plus one rounding of its own.
    """
    rounding = np.finfo(dtype).eps * max(1.0, float(np.abs(out).max(initial=0)))
    return 2 * (work_error + rounding)
