"""Which queries choose their blocks of keys together: what a reference and its kernel agree on."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count, check_flag


def check_knobs(
    where: str, block: int, keep: int, choose_every: int, bound: bool, causal: bool
) -> tuple[int, int, int, bool, bool]:
    """Return the knobs of `block_topk` as ints and bools, or refuse what it cannot use."""
    block = check_count(where, "block", block, least=1)
    keep = check_count(where, "keep", keep, least=1)
    choose_every = check_count(where, "choose_every", choose_every, least=1)
    bound = check_flag(where, "bound", bound)
    causal = check_flag(where, "causal", causal)
    return block, keep, choose_every, bound, causal


def groups(
    n_queries: int, n_keys: int, block: int, choose_every: int, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the groups of queries that share a choice begin, and the block of each.

    A query belongs to the block of its position i + Tk - Tq, and in each block a new group begins
    after every `choose_every` positions. Queries before all keys have blocks of negative numbers;
    causal leaves them out, since they see nothing.

    Returns:
        int (groups + 1,), with the number of queries at the end, and int (groups,).
    """
    queries = np.arange(max(n_queries - n_keys, 0) if causal else 0, n_queries)
    own, place = np.divmod(queries + (n_keys - n_queries), block)
    number = place // choose_every
    begins = np.ones(len(queries), dtype=bool)
    begins[1:] = (np.diff(own) != 0) | (np.diff(number) != 0)
    return np.append(queries[begins], n_queries), own[begins]
