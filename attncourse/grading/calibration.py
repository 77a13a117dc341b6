"""How well guesses meet their answers, in a sentence."""

import math
import statistics
from collections.abc import Collection

from attncourse.progress import Guess

CLEAR = 0.05  # a tendency that coin tosses show less often than this is one
RIGHT = math.log(1.1)  # an error that `widgets.guess` calls right within a tenth


def calibration(guesses: Collection[Guess]) -> str:
    """Say how often guesses were near, how far off they are, and which way if that is clear.

    Args:
        guesses: The first guess of each question.

    Returns:
        A sentence, empty if there are no guesses.
    """
    if not guesses:
        return ""
    # The logarithm of guess / answer, which itself may be too large for a float.
    errors = [math.log(each.guess) - math.log(each.answer) for each in guesses]
    near = sum(abs(error) <= math.log(2) + 1e-9 for error in errors)
    said = [f"within a factor of two in {near} of {len(errors)} guesses"]
    if len(errors) > 2:
        middle = math.exp(min(statistics.median(map(abs, errors)), 700))
        said.append(f"half of them within a factor of {float(f'{middle:.2g}'):g}")  # 100, not 1e+02
    low, high = (sum(way * error > RIGHT for error in errors) for way in (-1, 1))
    for way, wrong in (("low", low), ("high", high)):
        if _is_clear(wrong, low + high):
            said.append(f"you tend to guess too {way} ({wrong} of {len(errors)})")
    return "; ".join(said)


def _is_clear(heads: int, tosses: int) -> bool:
    """Whether so many heads or more are rare among tosses of a fair coin."""
    rare = sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / 2**tosses
    return tosses > 0 and rare < CLEAR
