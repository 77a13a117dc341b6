"""Guess why a result is wrong, where no named mistake explains it.

A guess is (likely cause, next step); both are empty if nothing fits.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncourse.grading.spec import Case

Guess = tuple[str, str]
NOTHING: Guess = ("", "")


@dataclass(frozen=True)
class Target:
    """An expected array.

    Attributes:
        values: In float64 if floats are asked.
        dtype: The dtype asked of the answer.
        tolerance: Largest absolute error allowed.
        why: How the tolerance came about.
    """

    values: np.ndarray
    dtype: np.dtype
    tolerance: float = 0.0
    why: str = ""


def argument_names(function: Callable, case: Case) -> dict[str, Any]:
    """Bind a case's arguments to the names of a function's parameters."""
    try:
        return dict(inspect.signature(function).bind(*case.args, **case.kwargs).arguments)
    except (TypeError, ValueError):
        return {f"argument {i + 1}": value for i, value in enumerate(case.args)} | dict(case.kwargs)


def number(target: float, got: float, arguments: dict[str, Any]) -> Guess:
    """Guess why a number is wrong: precision, overflow, off by one, rounding, or a factor.

    Args:
        target: The right number.
        got: The answer's.
        arguments: Those of the case by name: a stray factor may be one of them.
    """
    if isinstance(target, int):
        if isinstance(got, float) and abs(target) >= 2**53:
            cause = "a float holds integers exactly only up to 2**53"
            return cause, "stay with integers: `//` instead of `/`"
        if isinstance(got, int) and abs(got - target) == 1:
            return "off by one", "count the smallest case by hand, both ends included"
        if isinstance(got, int) and (got - target) % 2**32 == 0:
            return "an integer of 32 or 64 bits overflowed", "use Python's own int, which cannot"
    elif isinstance(got, float):
        for digits in range(7):
            if got == round(target, digits):
                return f"rounded to {digits} digits", "return the number as it is computed"
    try:
        ratio = got / target
    except (ZeroDivisionError, OverflowError):
        return NOTHING
    for name, factor in _known_factors(arguments):
        if math.isclose(ratio, factor, rel_tol=1e-9):
            return f"your value is the right one times {name}", "look for a factor too many"
        if math.isclose(ratio, 1 / factor, rel_tol=1e-9):
            return f"your value is the right one divided by {name}", "look for a missing factor"
    return NOTHING


def _known_factors(arguments: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in arguments.items():
        if type(value) is int and 1 < value < 10**15:
            yield f"{name} = {value}", float(value)
    yield from ((str(factor), float(factor)) for factor in (-1, 2, 3, 4, 8, 16, 32))
    for power, (binary, decimal) in enumerate((("KiB", "kB"), ("MiB", "MB"), ("GiB", "GB")), 1):
        yield f"{1024**power / 1000**power:.4g}, which is {binary} / {decimal}", 1.024**power
        yield f"1000^{power}", 1e3**power
        yield f"1024^{power}", 1024.0**power


def shape(asked: tuple[int, ...], got: tuple[int, ...]) -> str:
    """Guess the cause of a wrong shape."""
    if sorted(asked) == sorted(got):
        return "the axes are in another order"
    if math.prod(asked) == math.prod(got):
        return "the same numbers in another shape"
    if len(asked) != len(got):
        return f"{len(got)} axes where {len(asked)} are asked"
    return ""


def array(target: Target, got: np.ndarray, case: Case) -> Guess:
    """Guess why an array is wrong, from the most telling sign to the vaguest."""
    right = target.values
    if (np.isfinite(right) & ~np.isfinite(got)).any():
        return _not_finite(target, got, case)
    if not got.any() and right.any():
        return "every value is zero", "check that the result is written where it is returned"
    if right.ndim >= 2 and _near(got, np.swapaxes(right, -1, -2), target.tolerance):
        return "your result is transposed: rows and columns are swapped", "swap the last two axes"
    return (
        _factor(target, got, case)
        or _shift(right, got, target.tolerance)
        or _row_sums(right, got)
        or NOTHING
    )


def mask(right: np.ndarray, got: np.ndarray) -> Guess:
    """Guess why a mask is wrong: inverted, transposed, shifted, too wide or too narrow."""
    if 0 < right.mean() < 1 and (got == ~right).all():
        return "the mask is inverted", "True means that query i may attend to key j"
    if right.ndim >= 2 and _near(got, np.swapaxes(right, -1, -2), 0):
        return "queries and keys are swapped", "row i is the query, column j the key"
    if shifted := _shift(right, got, 0):
        return shifted[0], "query i sits at key position i + n_keys − n_queries"
    if (got >= right).all():
        return "all that should be visible is, and more", "look at the bounds: < or ≤?"
    if (got <= right).all():
        return "too little is visible", "look at the bounds: < or ≤?"
    return NOTHING


def _near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays of one shape agree; booleans count as 0 and 1."""
    return a.shape == b.shape and bool((np.abs(a * 1.0 - b * 1.0) <= tolerance).all())


def _not_finite(target: Target, got: np.ndarray, case: Case) -> Guess:
    halves = (str(getattr(value, "dtype", "")) for value in (*case.args, *case.kwargs.values()))
    if target.dtype == np.float16 or any(name.endswith("float16") for name in halves):
        cause = "float16 ends at 65504: something overflowed"
        return cause, "take each row's maximum off before `exp`, add up in float32"
    empty = (target.values == 0).all(axis=-1, keepdims=True)
    if np.isnan(got).any() and not (~np.isfinite(got) & ~empty).any():
        cause = "0/0 in rows where no key is visible"
        return cause, "such a row gives zeros: look at its maximum and at the division"
    cause = "NaN comes from 0/0, ∞ − ∞ or 0 · ∞; ∞ from `exp` of a large number"
    return cause, "take each row's maximum off before `exp`"


def _factor(target: Target, got: np.ndarray, case: Case) -> Guess | None:
    """Recognise a constant factor, and name it if it is one of the usual ones."""
    right = target.values
    norm = float((right * right).sum())
    if right.size < 2 or not norm:
        return None
    factor = float((got * right).sum()) / norm
    if abs(factor) < 1e-6 or not _near(got, factor * right, target.tolerance * max(1, abs(factor))):
        return None
    names = {"−1": -1.0, "2": 2.0, "1/2": 0.5}
    for width in {value.shape[-1] for value in case.args if getattr(value, "ndim", 0) >= 2}:
        root = math.sqrt(width)
        names |= {"D": width, "√D": root, "1/√D": 1 / root, "1/D": 1 / width}
    known = (name for name, value in names.items() if math.isclose(factor, value, rel_tol=1e-3))
    words = f"your result is the right one times {next(known, f'{factor:.6g}')}"
    return words, "look for a factor that is missing, or one too many"


def _shift(right: np.ndarray, got: np.ndarray, tolerance: float) -> Guess | None:
    for axis, word in ((-2, "row"), (-1, "column")):
        if right.ndim < -axis or right.shape[axis] < 3:
            continue
        mine, other = np.moveaxis(got, axis, 0), np.moveaxis(right, axis, 0)
        if _near(mine[1:], other[:-1], tolerance):
            return f"your result is shifted: one {word} too late", "check the first index"
        if _near(mine[:-1], other[1:], tolerance):
            return f"your result is shifted: one {word} too early", "check the first index"
    return None


def _row_sums(right: np.ndarray, got: np.ndarray) -> Guess | None:
    """If the rows of the right result are weights, look at the sums of the answer's."""
    if right.ndim < 2 or right.shape[-1] < 2:
        return None
    sums, mine = right.sum(-1), got.sum(-1)
    if not sums.any() or (np.abs(sums[sums != 0] - 1) > 1e-2).any():
        return None
    off = np.argwhere(np.abs(mine - sums) > 1e-2)
    if not len(off):
        return None
    if (np.abs(got.sum(-2) - 1) <= 1e-2).all():
        return "the columns sum to 1, not the rows", "normalise over the last axis"
    first = tuple(off[0])
    words = f"row {first[-1]} sums to {mine[first]:.3g}, not to {sums[first]:.3g}"
    return words, "divide each row by its own sum"
