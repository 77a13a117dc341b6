"""A cache with room for some keys only: which of them are still there for each query."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count, check_qkv, check_scale
from attncourse.softmax import scaled, softmax_in_place


def survivors(
    q: np.ndarray, k: np.ndarray, *, room: int, recent: int, scale: float | None = None
) -> np.ndarray:
    """Return which keys each token finds if the least regarded one leaves a full cache.

    Each head adds up the weight that every key in its cache has received. A new token goes in, and
    attends; where there are more than `room` keys, the one with the smallest sum leaves for good,
    except that the newest `recent` stay. As mask of `full.attention` it is the attention that a
    model with such a cache computes.

    Args:
        q: (..., T, D), one query a token.
        k: (..., T, D).
        room: Keys that a token may find, itself among them.
        recent: How many of the newest keys cannot leave; less than `room`.
        scale: Factor of the scores; 1/√D if None.

    Returns:
        bool (..., T, T): True = may attend.

    Raises:
        ValueError: As many queries as keys are needed; or room < 1, or recent not below room.

    Memory:
        The mask, which a real cache does not have, and some numbers a token.

    Paper:
        Zhang et al. 2023, arXiv:2306.14048, section 4.
    """
    where = "kv_cache.survivors"
    check_qkv(where, q, k, k)
    room = check_count(where, "room", room, least=1)
    recent = check_count(where, "recent", recent)
    if recent >= room:
        raise ValueError(f"{where}: recent must be below the room of {room} keys, got {recent}")
    if q.shape != k.shape:
        raise ValueError(f"{where}: q and k must be of the same tokens, got {q.shape}, {k.shape}")
    q = scaled(q, check_scale(where, scale, q.shape[-1]))
    mask = np.zeros((*k.shape[:-1], k.shape[-2]), dtype=bool)
    received = np.zeros(k.shape[:-1], q.dtype)  # (..., T)
    there = np.zeros(k.shape[:-1], dtype=bool)
    for t in range(k.shape[-2]):
        there[..., t] = True
        mask[..., t, :] = there
        scores = np.matmul(k[..., : t + 1, :], q[..., t, :, None])[..., 0]  # (..., t + 1)
        scores = np.where(there[..., : t + 1], scores, -np.inf)
        received[..., : t + 1] += softmax_in_place(scores)
        if t + 1 >= room:
            old = there[..., : t + 1 - recent]
            sums = np.where(old, received[..., : t + 1 - recent], np.inf)
            np.put_along_axis(there, sums.argmin(axis=-1)[..., None], False, axis=-1)
    return mask
