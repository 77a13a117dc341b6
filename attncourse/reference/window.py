"""Window (local) attention: query i sees the keys i - window ... i + window, and nothing else."""

from __future__ import annotations

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.block import attend, held_bytes
from attncourse.reference._parts.window_backward import backward
from attncourse.reference._parts.window_blocks import blocks, check_window, outside
from attncourse.softmax import nan_to_keys

__all__ = ["attention", "backward", "blocks", "cost", "count", "dynamic_window", "mask", "outside"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the keys within `window` steps of each query.

    A block of queries needs one short stretch of keys. Only its scores exist, and the next block
    reuses their memory: the (Tq, Tk) matrix is never made.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        window: Radius in steps: 2·window + 1 keys for a query, window + 1 if causal.
        dilation: Tokens per step: the keys are `dilation` apart.

    Raises:
        ValueError: window < 0, dilation < 1.

    Memory:
        The scores of one block: (..., 64, 64 + 2·window).

    Paper:
        Beltagy, Peters, Cohan 2020, arXiv:2004.05150, section 3.1.
    """
    check_qkv("window.attention", q, k, v)
    causal = check_flag("window.attention", "causal", causal)
    window, dilation = check_window("window.attention", window, dilation)
    k, v = nan_to_keys(k, v)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    factor = check_scale("window.attention", scale, q.shape[-1])
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, keys in blocks(n_queries, n_keys, window, dilation, causal):
        row_part, key_part = (slice(part.start, part.stop, part.step) for part in (rows, keys))
        hidden = outside(rows, keys, n_queries, n_keys, window, dilation, causal)  # (block, keys)
        out[..., row_part, :] = attend(q[..., row_part, :], k, v, key_part, hidden, factor)
    return out


@int_sizes
def mask(
    n_queries: int, n_keys: int, *, window: int, dilation: int = 1, causal: bool = False
) -> np.ndarray:
    """Return the mask (Tq, Tk) of window attention; arguments as in `attncourse.reference`."""
    window, dilation = check_window("window.mask", window, dilation)
    causal = check_flag("window.mask", "causal", causal)
    offset = np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None]
    visible = (np.abs(offset) <= window * dilation) & (offset % dilation == 0)  # (Tq, Tk)
    return visible & (offset <= 0) if causal else visible


@int_sizes
def count(
    n_queries: int, n_keys: int, *, window: int, dilation: int = 1, causal: bool = False
) -> int:
    """Return the number of True entries of `mask` by formula: no mask is made.

    For Tq = Tk = n, dilation 1 and window < n these are n(2·window + 1) - window(window + 1)
    pairs: the interior rows have 2·window + 1 keys, and each edge cuts off a triangle.

    Arguments as in `attncourse.reference`.
    """
    window, dilation = check_window("window.count", window, dilation)
    causal = check_flag("window.count", "causal", causal)
    total = 0
    for start in range(min(dilation, n_queries)):  # queries of one residue class
        class_queries = -(-(n_queries - start) // dilation)
        ahead, key_start = divmod(start + n_keys - n_queries, dilation)
        class_keys = max(0, -(-(n_keys - key_start) // dilation))
        # steps from query to key: -window ... 0 or window; `ahead` moves the queries along
        total += _pairs_up_to(ahead + (0 if causal else window), class_queries, class_keys)
        total -= _pairs_up_to(ahead - window - 1, class_queries, class_keys)
    return total


def dynamic_window(weights: np.ndarray, *, mass: float) -> np.ndarray:
    """Return how wide each query's window must be to catch a given share of its attention.

    Args:
        weights: (..., Tq, Tk), rows summing to 1.
        mass: The share to catch, 0 to 1.

    Returns:
        int (..., Tq): the smallest radius r such that the keys within r of the query's position
        hold at least `mass`.

    Raises:
        ValueError: `mass` outside 0 ... 1.
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"window.dynamic_window: mass must be between 0 and 1, got {mass}")
    n_queries, n_keys = weights.shape[-2:]
    distance = np.abs(np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None])
    order = np.argsort(distance, axis=-1, kind="stable")
    nearest_first = np.take_along_axis(weights, np.broadcast_to(order, weights.shape), axis=-1)
    caught = np.cumsum(nearest_first, axis=-1, dtype=np.float64)  # (..., Tq, Tk)
    enough = caught >= mass - 1e-6  # float32 rows sum to 1 only to rounding
    first = np.where(enough.any(axis=-1), enough.argmax(axis=-1), n_keys - 1)
    ordered = np.take_along_axis(distance, order, axis=-1)
    return np.take_along_axis(np.broadcast_to(ordered, weights.shape), first[..., None], -1)[..., 0]


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    Of the FLOPs, 4·D·`count(...)` a head are those of the pairs that the window shows.
    """
    window, dilation = check_window("window.cost", window, dilation)
    causal = check_flag("window.cost", "causal", causal)
    pairs = loaded = largest = 0
    for rows, keys in blocks(Tq, Tk, window, dilation, causal):
        pairs += len(rows) * len(keys)
        loaded += (len(rows) + 2 * len(keys)) * D
        held = held_bytes(B * H, len(rows), len(keys), D, dtype_bytes)
        largest = max(largest, held + len(rows) * len(keys))  # and `hidden`
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * pairs * D,
        bytes_read=B * H * loaded * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + largest,
    )


def _pairs_up_to(step: int, n_queries: int, n_keys: int) -> int:
    """Return how many (i, j) have j - i <= step: a sum of min(max(i + step + 1, 0), n_keys)."""

    def ramp(top: int) -> int:  # the sum of min(max(u, 0), n_keys) over all u <= top
        inside = min(max(top, 0), n_keys)
        return inside * (inside + 1) // 2 + max(top - n_keys, 0) * n_keys

    return ramp(step + n_queries) - ramp(step)
