"""What pages of tokens waste, and what padding does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attncourse.inputs import check_count


def waste(lengths: Sequence[int], page: int) -> np.ndarray:
    """Return how many tokens of room the last page of each sequence leaves empty: below `page`."""
    page = check_count("paged.waste", "page", page, least=1)
    return -np.asarray(lengths, dtype=np.int64) % page


def utilisation(lengths: Sequence[int], page: int) -> float:
    """Return the share of the allocated room that holds tokens, 0 to 1.

    Padding every sequence to the longest is the same with one page as long as that.
    """
    tokens = int(np.sum(lengths, dtype=np.int64))
    return tokens / max(1, tokens + int(waste(lengths, page).sum()))
