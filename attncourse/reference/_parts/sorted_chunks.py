"""Where each chunk of hashed queries looks, and what it may not see there: the sorting of LSH."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attncourse.reference._parts.hashing import hash_vectors


def sorted_chunks(q, k, rotations, chunk, exclude_self, causal) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield queries i, keys j and what is hidden (len(i), len(j)), chunk by chunk, all rounds."""
    if not len(q) or not len(k):
        return
    stretch, rows = np.arange(min(2 * chunk, len(k))), min(-(-chunk * len(q) // len(k)), len(q))
    earlier = []  # of each round: where each query's stretch starts, and each key's place
    for rotation in rotations:
        q_order, k_order, starts = _sort(q, k, rotation, rows, chunk)
        for first, start in zip(range(0, len(q), rows), starts, strict=True):
            i, j = q_order[first : first + rows], k_order[(start + stretch) % len(k)]
            hidden = np.zeros((len(i), len(j)), dtype=bool)  # (rows, stretch)
            own = i[:, None] + len(k) - len(q)
            if causal:
                hidden |= j > own
            if exclude_self:
                hidden |= j == own
            for their_start, place in earlier:
                hidden |= (place[j] - their_start[i][:, None]) % len(k) < len(j)
            yield i, j, hidden
        their_start, place = np.empty(len(q), np.int32), np.empty(len(k), np.int32)
        their_start[q_order], place[k_order] = np.repeat(starts, rows)[: len(q)], np.arange(len(k))
        earlier.append((their_start, place))


def _sort(q, k, rotation, rows, chunk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return queries and keys by bucket, and where in the keys' order each chunk starts to look."""
    q_bucket, k_bucket = (hash_vectors(x, rotation[None])[0] for x in (q, k))
    q_order, k_order = (np.argsort(b, kind="stable") for b in (q_bucket, k_bucket))
    leader = q_order[::rows]
    # the place of (bucket, position) among the keys; positions run from Tk - Tq to Tk - 1
    span = len(q) + len(k)
    codes = k_bucket[k_order] * span + k_order + len(q)
    places = np.searchsorted(codes, q_bucket[leader] * span + leader + len(k))
    return q_order, k_order, (places - chunk) % len(k)
