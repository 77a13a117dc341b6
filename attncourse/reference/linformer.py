"""Linformer: keys and values are mixed down to `rank` of each before any query meets them."""

from __future__ import annotations

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference import full
from attncourse.reference._parts.block import BLOCK, attend, held_bytes

STRETCH = 256  # keys mixed together, so that float16 is converted piece by piece


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    key_projection: np.ndarray,
    value_projection: np.ndarray,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q (E k)ᵀ · scale) F v, E and F being the projections.

    E k and F v have `rank` rows. A query has that many scores, whatever Tk is, and the scores of
    one block of queries at a time exist.

    The projections are tied to Tk: a longer sequence needs new ones.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        key_projection: E (rank, Tk) floating, rank ≤ Tk; leading axes, if any, broadcast to k's.
        value_projection: F, of the same rank; may be the same array.
        causal: Must be False: each mixed key holds a part of every token, the future included.

    Raises:
        ValueError: A rank above Tk, ranks that differ, or causal.

    Memory:
        E k and F v (..., rank, D + Dv), and the scores (..., 64, rank) of one block.

    Paper:
        Wang, Li, Khabsa, Fang, Ma 2020, arXiv:2006.04768, section 4.
    """
    check_qkv("linformer.attention", q, k, v)
    if check_flag("linformer.attention", "causal", causal):
        raise ValueError("linformer.attention: cannot be causal: each mixed key holds the future")
    _check_projections(key_projection, value_projection, k)
    factor = check_scale("linformer.attention", scale, q.shape[-1])
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    mixed_k = _mix(key_projection, k, work)  # (..., rank, D)
    mixed_v = _mix(value_projection, v, work)  # (..., rank, Dv)
    for first in range(0, q.shape[-2], BLOCK):
        rows = slice(first, first + BLOCK)
        out[..., rows, :] = attend(q[..., rows, :], mixed_k, mixed_v, slice(None), None, factor)
    return out


def mean_pool(rank: int, n_keys: int) -> np.ndarray:
    """Return the projection (rank, Tk) that averages `rank` segments, equally long within one key.

    A rank of Tk or more gives the identity: there are no more keys than that.

    Args:
        rank: Segments.
    """
    starts, sizes = _segments("linformer.mean_pool", rank, n_keys)
    key = np.arange(n_keys)
    inside = (key >= starts[:, None]) & (key < (starts + sizes)[:, None])
    return inside / sizes[:, None]


def max_pool(x: np.ndarray, *, rank: int) -> np.ndarray:
    """Return the largest value per feature in each of `rank` segments of x, those of `mean_pool`.

    A maximum is not linear, so this is no matrix. Give its results to `full.attention`.

    Args:
        x: (..., Tk, D), keys or values.
        rank: Segments.

    Returns:
        (..., rank, D) in the dtype of x; Tk rows where Tk < rank.
    """
    starts, _ = _segments("linformer.max_pool", rank, x.shape[-2])
    return np.maximum.reduceat(x, starts, axis=-2)


def convolution(kernel: np.ndarray, n_keys: int) -> np.ndarray:
    """Return the projection (⌈Tk / K⌉, Tk) of a kernel of K numbers that moves by K keys a step.

    Args:
        kernel: (K,) floating. K numbers instead of rank · Tk; the last step may hang over the end.

    Raises:
        ValueError: A kernel that has no numbers, or more than one axis.
    """
    if np.ndim(kernel) != 1 or not len(kernel):
        raise ValueError(
            f"linformer.convolution: kernel must have shape (K,), K at least 1, "
            f"got {np.shape(kernel)}"
        )
    row, place = np.divmod(np.arange(n_keys), len(kernel))
    projection = np.zeros((-(-n_keys // len(kernel)), n_keys), np.result_type(kernel, np.float32))
    projection[row, np.arange(n_keys)] = np.asarray(kernel)[place]
    return projection


def fit(
    q: np.ndarray, k: np.ndarray, *, key_projection: np.ndarray, scale: float | None = None
) -> np.ndarray:
    """Return the value projection F that suits the data best, E being given.

    With P the full weights and W = softmax(q (E k)ᵀ · scale), F minimises ‖W F - P‖ over all
    examples at once: least squares, solved by the singular value decomposition of W.

    Args:
        q: (..., Tq, D) examples; the leading axes are pooled.
        key_projection: E (rank, Tk), such as `mean_pool(rank, Tk)`.

    Returns:
        (rank, Tk) float64; where W does not decide F, the smallest that fits.

    Memory:
        The full weights of all examples: fit once, on short data.
    """
    q, k, projection = (np.asarray(array, np.float64) for array in (q, k, key_projection))
    _check_projections(projection, projection, k, where="linformer.fit")
    weights = full.weights(q, k, scale=scale).reshape(-1, k.shape[-2])
    mixed = full.weights(q, np.matmul(projection, k), scale=scale)
    return np.linalg.lstsq(mixed.reshape(-1, projection.shape[-2]), weights, rcond=None)[0]


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    rank: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does with projections that all heads share.

    Arguments and rules as in `attncourse.reference`.

    Args:
        rank: Rows of the projections; more than Tk count as Tk, as in `mean_pool`.
        dtype_bytes: Bytes of one number of q, k, v, out and the projections.
    """
    rank = min(check_count("linformer.cost", "rank", rank, least=1), Tk)
    if check_flag("linformer.cost", "causal", causal):
        raise ValueError("linformer.cost: cannot be causal: each mixed key holds the future")
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    stretch, block = min(STRETCH, Tk), min(BLOCK, Tq)
    converted = work_bytes if work_bytes != dtype_bytes else 0
    out = B * H * Tq * D * dtype_bytes
    mixed = B * H * rank * D * work_bytes
    mixing = mixed + (rank * stretch + B * H * stretch * D) * converted
    attending = held_bytes(B * H, block, rank, D, work_bytes) + B * H * block * D * converted
    return Cost(
        flops=4 * B * H * rank * (Tk + Tq) * D,
        bytes_read=(2 * rank * Tk + B * H * (2 * Tk + Tq) * D) * dtype_bytes,
        bytes_written=2 * mixed + out,
        peak_bytes=out + 2 * mixed + max(mixing, attending),
    )


def _mix(projection: np.ndarray, x: np.ndarray, work: np.dtype) -> np.ndarray:
    """Return projection @ x, (..., rank, width), converting and adding one stretch at a time."""
    mixed = np.zeros((*x.shape[:-2], projection.shape[-2], x.shape[-1]), work)
    for first in range(0, x.shape[-2], STRETCH):
        keys = slice(first, first + STRETCH)
        mixed += np.matmul(
            projection[..., keys].astype(work, copy=False),
            x[..., keys, :].astype(work, copy=False),
        )
    return mixed


def _segments(where: str, rank: int, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each segment starts, and its number of keys."""
    rank = check_count(where, "rank", rank, least=1)
    n_keys = check_count(where, "n_keys", n_keys)
    edges = np.arange(min(rank, n_keys) + 1) * n_keys // max(1, min(rank, n_keys))
    return edges[:-1], np.diff(edges)


def _check_projections(
    key_projection: np.ndarray,
    value_projection: np.ndarray,
    k: np.ndarray,
    where: str = "linformer.attention",
) -> None:
    n_keys = k.shape[-2]
    for name, array in (("key_projection", key_projection), ("value_projection", value_projection)):
        got = getattr(array, "dtype", type(array).__name__)
        if not str(got).startswith("float") or not hasattr(array, "shape"):
            raise TypeError(f"{where}: {name} must be an array of floating numbers, got {got}")
        leading = array.shape[:-2]
        fits = array.ndim >= 2 and array.shape[-1] == n_keys and array.shape[-2] <= n_keys
        aligned = zip(leading[::-1], k.shape[-3::-1], strict=False)
        if not fits or array.ndim > k.ndim or any(a not in (1, b) for a, b in aligned):
            raise ValueError(
                f"{where}: {name} must have shape (rank, {n_keys}) with rank at most {n_keys}, "
                f"leading axes broadcasting to {k.shape[:-2]}, got {array.shape}"
            )
    if key_projection.shape[-2] != value_projection.shape[-2]:
        raise ValueError(
            f"{where}: key_projection and value_projection must have the same rank, "
            f"got {key_projection.shape[-2]} and {value_projection.shape[-2]}"
        )
