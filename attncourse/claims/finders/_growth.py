"""How a quantity grows with the length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def exponent(
    quantity: Callable[[int], float], lengths: Sequence[int] = (1024, 2048, 4096)
) -> float:
    """Return the slope of log quantity against log n: 2 if it quadruples per doubling.

    Args:
        quantity: Called with a length.
        lengths: Two or more.
    """
    sizes = [quantity(n) for n in lengths]
    return float(np.polyfit(np.log(lengths), np.log(sizes), 1)[0])
