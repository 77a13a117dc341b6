"""Grouped-query attention: each key/value head serves a group of query heads."""

from __future__ import annotations

import numpy as np

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts import pieces
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v, where query head h reads key/value head h // (H / G).

    G = H is multi-head attention, G = 1 multi-query attention. The queries of a group's H / G
    heads are rows of one matrix: one product serves them all, and k and v are never repeated. A
    causal block of queries skips the keys after its last one.

    Standard arguments, result and errors as in `attncourse.reference`.

    Raises:
        ValueError: G does not divide H.

    Memory:
        The scores of one block: (..., G, 128, Tk).

    Paper:
        Ainslie et al. 2023, arXiv:2305.13245, section 2.2; for G = 1 Shazeer 2019,
        arXiv:1911.02150, section 3.
    """
    check_grouped("grouped.attention", q, k, v)
    causal = check_flag("grouped.attention", "causal", causal)
    factor = check_scale("grouped.attention", scale, q.shape[-1])
    k, v = nan_to_keys(k, v)
    keys, values = pieces.of_array(k), pieces.of_array(v)
    return pieces.attend(q, keys, values, k.shape[:-1], v.shape[-1], causal, factor)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    k and v are read once for each block of rows.
    """
    G = check_groups("grouped.cost", H, groups)
    causal = check_flag("grouped.cost", "causal", causal)
    return pieces.cost(B, H, Tq, Tk, D, G, pieces.PIECE, causal, dtype_bytes)


def check_groups(where: str, heads: int, groups: int | None) -> int:
    """Return G, or say why so many key/value heads cannot serve this many query heads."""
    groups = heads if groups is None else check_count(where, "groups", groups, least=1)
    if groups and heads % groups:
        raise ValueError(f"{where}: groups must divide the {heads} query heads, got {groups}")
    return groups


def check_grouped(where: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Refuse what `check_qkv` refuses, but let q have a multiple of the heads of k and v."""
    if all(getattr(array, "ndim", 0) > 2 for array in (q, k, v)) and q.shape[:-3] == k.shape[:-3]:
        heads, groups = q.shape[-3], k.shape[-3]
        if heads != groups and (groups == 0 or heads % groups):
            raise ValueError(
                f"{where}: q must have a multiple of the heads of k and v, got {heads} and {groups}"
            )
        q = q[..., :groups, :, :]
    check_qkv(where, q, k, v)
