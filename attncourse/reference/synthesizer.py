"""Synthesizer: the logits are learned, or made from the query alone; no query meets a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from attncourse.cost import NUMPY_BUFFER, Cost
from attncourse.inputs import check_count, check_qkv
from attncourse.reference import masks
from attncourse.reference.block import BLOCK
from attncourse.reference.softmax import softmax_in_place

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

    Args:
        q: (..., Tq, D) floating.
        k: (..., Tk, D), dtype and leading axes as q.
        v: (..., Tk, Dv).
        logits: Takes q's rows (..., block, D) and their slice of 0 ... Tq - 1, returns new logits
            (..., block, Tk). They are not scaled by 1/√D: what is learned has its own size.
        causal: Query i sees keys up to its own position i + Tk - Tq.

    Returns:
        (..., Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Raises:
        TypeError: No array, no floating numbers, or logits that cannot be called.
        ValueError: Shapes or dtypes that do not fit, q and k or logits and (Tq, Tk).

    Memory:
        The logits of one block (..., 64, Tk), and v, in float32 at least.

    Paper:
        Tay et al. 2020, arXiv:2005.00743, section 3.
    """
    check_qkv("synthesizer.attention", q, k, v)
    if not callable(logits):
        raise TypeError(
            "synthesizer.attention: logits must be a function, such as random(...) returns, "
            f"got {type(logits).__name__}"
        )
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    values = v.astype(work, copy=False)
    for rows, last_key in _blocks(n_queries, n_keys, causal):
        out[..., rows, :] = _attend(
            q[..., rows, :].astype(work, copy=False), values, logits, rows, last_key, n_queries
        )
    return out
