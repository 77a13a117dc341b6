"""Sparse Transformer: near keys and every stride-th key, two factors that together join everything.

"strided": within `stride` steps, and at multiples of `stride`. For data with a period: images.
"fixed": in the same block of `stride` tokens, and the last tokens of each block. For text.
"""

from __future__ import annotations

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.definitions.patterns import check_factors
from attncourse.inputs import check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import held_bytes
from attncourse.reference._parts.factors import factors, passes
from attncourse.softmax import nan_to_keys, scaled

__all__ = ["attention", "cost", "factors", "mask"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    stride: int,
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the union of both factors.

    Near keys share a block of neighbouring queries, far ones a block of queries that are `stride`
    apart. So each factor is a pass of its own, and the online softmax joins them: a query keeps its
    largest score, its sum and its weighted values from the first pass to the second.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        stride: The paper's l, in tokens; near √Tk both factors are equally long.
        pattern: "strided" or "fixed".
        summary: The paper's c: how many tokens at the end of a block everybody sees; "fixed" only.
        causal: The paper has no other case.

    Raises:
        ValueError: stride < 1, another pattern, summary outside 1 ... stride, or
            above 1 where "strided".

    Memory:
        One block of scores, (..., 64, 64 + 2·stride) or (..., 64, Tk · summary / stride), and the
        output with two numbers per query.

    Paper:
        Child, Gray, Radford, Sutskever 2019, arXiv:1904.10509, section 4.3.
    """
    check_qkv("sparse_transformer.attention", q, k, v)
    causal = check_flag("sparse_transformer.attention", "causal", causal)
    stride, summary = check_factors("sparse_transformer.attention", stride, pattern, summary)
    k, v = nan_to_keys(k, v)
    work = np.result_type(q.dtype, np.float32)
    factor = check_scale("sparse_transformer.attention", scale, q.shape[-1])
    acc = np.zeros(q.shape[:-1] + v.shape[-1:], work)  # (..., Tq, Dv)
    running_max = np.full((*q.shape[:-1], 1), -np.inf, work)  # (..., Tq, 1)
    running_sum = np.zeros((*q.shape[:-1], 1), work)
    for rows, keys, hidden in passes(q.shape[-2], k.shape[-2], stride, pattern, summary, causal):
        kept = (array[..., rows, :] for array in (acc, running_max, running_sum))
        _add(*kept, q[..., rows, :], k, v, keys, hidden, factor)
    running_sum[running_sum == 0] = 1
    acc /= running_sum
    return acc.astype(q.dtype, copy=False)


@int_sizes
def mask(
    n_queries: int,
    n_keys: int,
    *,
    stride: int,
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
) -> np.ndarray:
    """Return the mask (Tq, Tk), the union of both factors; see `attncourse.reference`."""
    stride, summary = check_factors("sparse_transformer.mask", stride, pattern, summary)
    causal = check_flag("sparse_transformer.mask", "causal", causal)
    knobs = {"stride": stride, "pattern": pattern, "summary": summary, "causal": causal}
    near, far = factors(n_queries, n_keys, **knobs)
    return near | far


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    stride: int,
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; `acc` is read and written once for each pass.

    Arguments and rules as in `attncourse.reference`.
    """
    stride, summary = check_factors("sparse_transformer.cost", stride, pattern, summary)
    causal = check_flag("sparse_transformer.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    pairs = loaded = largest = 0
    for _, keys, hidden in passes(Tq, Tk, stride, pattern, summary, causal):
        n_rows, n_keys = hidden.shape
        pairs += hidden.size
        loaded += (n_rows + 2 * n_keys) * D
        gathered = not isinstance(keys, slice)
        held = held_bytes(B * H, n_rows, n_keys, D, dtype_bytes, gathered=gathered)
        buffer = min(NUMPY_BUFFER, B * H * n_rows * D)
        rescaling = (B * H * hidden.size + 3 * buffer) * work_bytes
        largest = max(largest, max(held, rescaling) + hidden.size)
    acc = B * H * Tq * D * work_bytes
    out = B * H * Tq * D * dtype_bytes
    converted = out if work_bytes != dtype_bytes else 0
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes + 2 * acc,
        bytes_written=2 * acc + out,
        peak_bytes=acc + 2 * B * H * Tq * work_bytes + max(largest, converted),
    )


def _add(acc, running_max, running_sum, q, k, v, keys, hidden, factor) -> None:
    """Add these keys to what the queries keep, in place."""
    k_taken = k[..., keys, :].astype(acc.dtype, copy=False)
    scores = np.matmul(scaled(q, factor), k_taken.swapaxes(-1, -2))  # (..., block, keys)
    del k_taken  # before v takes as much
    np.copyto(scores, -np.inf, where=hidden)
    new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True, initial=-np.inf))
    pivot = np.where(new_max == -np.inf, 0, new_max)  # nothing seen yet: exp(-inf - 0) = 0
    scores -= pivot
    np.exp(scores, out=scores)
    rescale = np.exp(running_max - pivot)  # (..., block, 1)
    acc *= rescale
    acc += np.matmul(scores, v[..., keys, :].astype(acc.dtype, copy=False))
    running_sum *= rescale
    running_sum += scores.sum(axis=-1, keepdims=True)
    running_max[...] = new_max
