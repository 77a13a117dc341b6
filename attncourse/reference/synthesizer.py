"""Synthesizer: the logits are learned, or made from the query alone; no query meets a key."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_flag, check_qkv, int_sizes
from attncourse.reference._parts.block import BLOCK
from attncourse.softmax import softmax_in_place, spoiled

KINDS = ("dense", "random", "factorised")
Logits = Callable[[np.ndarray, slice], np.ndarray]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    logits: Logits,
    causal: bool = False,
) -> np.ndarray:
    """Return softmax(logits) v, the logits made by `random`, `dense` or `factorised`.

    k gives the number of keys and is not read. The rows of one block of queries are made, used
    and dropped: unless they are given whole, no (Tq, Tk) matrix is held. There are as many
    products as in full attention, less those of q with k.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        logits: Takes q's rows (..., block, D), in float32 at least, and their slice of the Tq;
            returns a new array (..., block, Tk) of q's dtype. Nothing is scaled by 1/√D: what is
            learned has its own size.

    Raises:
        TypeError: Logits that cannot be called.
        ValueError: Logits that do not broadcast to (..., block, Tk).

    Memory:
        The logits of one block (..., 64, Tk), and v.

    Paper:
        Tay et al. 2020, arXiv:2005.00743, section 3.
    """
    check_qkv("synthesizer.attention", q, k, v)
    causal = check_flag("synthesizer.attention", "causal", causal)
    if not callable(logits):
        raise TypeError(
            "synthesizer.attention: logits must be a function, such as random(...) returns, "
            f"got {type(logits).__name__}"
        )
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    bad = spoiled(v)  # there are no keys to hide it with: the scores take it
    values = v.astype(work, copy=False) if bad is None else np.where(bad[..., None], 0, v)
    for first in range(0, n_queries, BLOCK):
        rows = slice(first, min(first + BLOCK, n_queries))
        future = _future(rows, n_queries, n_keys) if causal else None
        scores = logits(q[..., rows, :].astype(work, copy=False), rows)  # (..., block, Tk)
        _check_rows(scores, q.shape[:-2], rows.stop - rows.start, n_keys)
        if bad is not None:
            scores = np.where(bad[..., None, :], scores.dtype.type(np.nan), scores)
        if causal:
            np.copyto(scores, -np.inf, where=future)
        out[..., rows, :] = np.matmul(softmax_in_place(scores), values)
        del scores  # or it would outlive the making of the next block's
    return out


def random(logits: np.ndarray) -> Logits:
    """Return the function for given logits: learned, or drawn once, and the same for every input.

    Args:
        logits: (Tq, Tk), or with leading axes that broadcast to those of q: one map per head. It
            is n² numbers by itself; `factorised` is not. Rows beyond Tq are left unused.
    """
    _check_matrices("synthesizer.random", logits=logits)
    return lambda q, rows: logits[..., rows, :].astype(q.dtype)


def dense(
    first: np.ndarray,
    second: np.ndarray,
    *,
    first_bias: np.ndarray | None = None,
    second_bias: np.ndarray | None = None,
) -> Logits:
    """Return the function that maps each query to its logits by two layers.

    logits = relu(q first + first_bias) second + second_bias.

    Args:
        first: (D, hidden); leading axes, if any, broadcast to those of q.
        second: (hidden, Tk): the map is tied to the number of keys.
        first_bias: (hidden,); none if not given.
        second_bias: (Tk,); none if not given.

    Raises:
        TypeError: No array or no floating numbers.
        ValueError: Shapes that do not fit each other or, when called, q's width.
    """
    _check_matrices("synthesizer.dense", first=first, second=second)
    if first.shape[-1] != second.shape[-2]:
        raise ValueError(
            f"synthesizer.dense: first (D, hidden) and second (hidden, Tk) must share hidden, "
            f"got {first.shape} and {second.shape}"
        )

    def rows_of(q: np.ndarray, rows: slice) -> np.ndarray:
        if q.shape[-1] != first.shape[-2]:
            raise ValueError(
                f"synthesizer.dense: first must have {q.shape[-1]} rows, the width of q, "
                f"got {first.shape}"
            )
        layer = _affine(q, first, first_bias)  # (..., block, hidden)
        np.maximum(layer, 0, out=layer)
        return _affine(layer, second, second_bias)

    return rows_of


def factorised(left: np.ndarray, right: np.ndarray) -> Logits:
    """Return the function for the logits left rightᵀ: learned as `random`, but 2·n·rank numbers.

    Args:
        left: (Tq, rank); leading axes, if any, broadcast to those of q.
        right: (Tk, rank).

    Raises:
        TypeError: No array or no floating numbers.
        ValueError: Ranks that differ.
    """
    _check_matrices("synthesizer.factorised", left=left, right=right)
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"synthesizer.factorised: left (Tq, rank) and right (Tk, rank) must share rank, "
            f"got {left.shape} and {right.shape}"
        )
    return lambda q, rows: _affine(
        left[..., rows, :].astype(q.dtype, copy=False), right.swapaxes(-1, -2), None
    )


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    hidden: int,
    kind: str = "dense",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does with no bias, and weights that all heads share.

    Causal adds a mask for one block; what is hidden is computed too.

    Arguments and rules as in `attncourse.reference`.

    Args:
        hidden: Width of the dense map, or rank of the factors; nothing to "random".
        kind: "dense", "random" or "factorised".
        dtype_bytes: Bytes of one number of q, k, v, out and the weights.
    """
    hidden = check_count("synthesizer.cost", "hidden", hidden, least=1)
    causal = check_flag("synthesizer.cost", "causal", causal)
    if kind not in KINDS:
        raise ValueError(f"synthesizer.cost: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = work_bytes if work_bytes != dtype_bytes else 0
    block, heads = min(BLOCK, Tq), B * H
    maps = heads if kind == "dense" else 1  # logits without q are the same for all heads
    making = {"dense": D * hidden + hidden * Tk, "random": 0, "factorised": hidden * Tk}[kind]
    weights = {"dense": (D + Tk) * hidden, "random": Tq * Tk, "factorised": (Tq + Tk) * hidden}
    logits = maps * block * Tk * work_bytes
    layer = maps * block * hidden * (work_bytes if kind == "dense" else converted)
    while_making = layer + hidden * Tk * converted if kind != "random" else 0
    using = heads * block * D * work_bytes + causal * block * Tk + NUMPY_BUFFER * work_bytes
    out = heads * Tq * D * dtype_bytes
    return Cost(
        flops=2 * maps * Tq * making + 2 * heads * Tq * Tk * D,
        bytes_read=(heads * (Tq * (kind == "dense") + Tk) * D + weights[kind]) * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + heads * (Tk + block) * D * converted + logits + max(while_making, using),
    )


def _affine(x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    product = np.matmul(x, weights.astype(x.dtype, copy=False))
    if bias is not None:
        product += bias
    return product


def _future(rows: slice, n_queries: int, n_keys: int) -> np.ndarray:
    return ~np.tri(rows.stop - rows.start, n_keys, rows.start + n_keys - n_queries, dtype=bool)


def _check_rows(rows: np.ndarray, leading: tuple[int, ...], n_rows: int, n_keys: int) -> None:
    surplus = rows.ndim - 2 > len(leading)
    fits = all(a in (1, b) for a, b in zip(rows.shape[-3::-1], leading[::-1], strict=False))
    if rows.shape[-2:] != (n_rows, n_keys) or surplus or not fits:
        raise ValueError(
            f"synthesizer.attention: logits must broadcast to {(*leading, n_rows, n_keys)} "
            f"for {n_rows} queries, got {rows.shape}"
        )


def _check_matrices(where: str, **matrices: np.ndarray) -> None:
    for name, matrix in matrices.items():
        got = getattr(matrix, "dtype", type(matrix).__name__)
        if not hasattr(matrix, "shape") or not str(got).startswith("float"):
            raise TypeError(f"{where}: {name} must be an array of floating numbers, got {got}")
        if matrix.ndim < 2:
            raise ValueError(f"{where}: {name} must have at least 2 axes, got {matrix.shape}")
