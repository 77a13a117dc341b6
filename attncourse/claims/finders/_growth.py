"""How a quantity grows with the length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attncourse.claims.finding import Found


def exponent(
    quantity: Callable[[int], float], lengths: Sequence[int] = (1024, 2048, 4096)
) -> float:
    """Return the slope of log quantity against log n: 2 if it quadruples per doubling.

    Args:
        quantity: Called with a length.
        lengths: Two or more.
    """
    sizes = [quantity(n) for n in lengths]
    slope = float(np.polyfit(np.log(lengths), np.log(sizes), 1)[0])
    return slope if abs(slope) > 1e-9 else 0.0  # no -0.00 for what does not grow


def law(powers: Mapping[str, tuple[float, float]], setting: str) -> Found:
    """Return exponents in words, and whether each is the printed one within 0.1.

    Args:
        powers: The printed and the fitted exponent of each growth, such as "FLOPs in n".
        setting: What they were fitted with.
    """
    words = ", ".join(f"{name} {fitted:.2f}" for name, (_, fitted) in powers.items())
    close = all(abs(fitted - printed) < 0.1 for printed, fitted in powers.values())
    return Found(f"exponents: {words}", setting, close)
