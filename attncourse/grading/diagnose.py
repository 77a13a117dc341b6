"""Guess why a result is wrong, where no named mistake explains it.

Each function looks at one case and yields every guess that fits it, from the most telling to the
vaguest. Much fits one number by chance: `causes` shows only what all failing cases bear out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attncourse.grading.spec import Case


@dataclass(frozen=True)
class Guess:
    """A likely cause.

    Attributes:
        sign: What must be seen in every failing case: "times heads".
        cause: The same in words, with the numbers of this case.
        next: The next step.
        sure: Whether one case is enough; never so for a factor or an offset of one number or row.
    """

    sign: str
    cause: str
    next: str
    sure: bool = True


FLOAT32_ERROR = 3e-6  # relative; what float32 leaves of float64 after a few dozen roundings
NO_FACTOR = 1e-3  # so close to 1, a factor is what a few other wrong values look like
_IN_FLOAT32 = Guess(
    "float32",
    "right to about 7 digits of 16: something is computed in float32",
    "float64 in, float64 throughout: look for `np.float32` in a scale, an array or a cast",
)


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


def number(target: float, got: float, arguments: dict[str, Any]) -> Iterator[Guess]:
    """Guess why a number is wrong: precision, overflow, off by one, rounding, or a factor.

    Args:
        target: The right number.
        got: The answer's.
        arguments: Those of the case by name: a stray factor may be one of them.
    """
    if isinstance(target, int):
        if isinstance(got, float) and abs(target) >= 2**53:
            cause = "a float holds integers exactly only up to 2**53"
            yield Guess("float", cause, "stay with integers: `//` instead of `/`")
        if isinstance(got, int) and abs(got - target) == 1 and min(got, target) >= 0:
            step = "count the smallest case by hand, both ends included"
            yield Guess(f"off by {got - target}", "off by one", step, sure=False)
        if isinstance(got, int) and (got - target) % 2**32 == 0:
            cause = "an integer of 32 or 64 bits overflowed"
            yield Guess("overflow", cause, "use Python's own int, which cannot")
    elif isinstance(got, float):
        if got and abs(got - target) < FLOAT32_ERROR * abs(target):
            yield replace(_IN_FLOAT32, sure=False)
        for digits in range(7):
            if got == round(target, digits):
                cause = f"rounded to {digits} digits"
                yield Guess(cause, cause, "return the number as it is computed", sure=False)
    try:
        ratio = got / target
    except (ZeroDivisionError, OverflowError):
        return
    for name, value, factor in _known_factors(arguments):
        if math.isclose(ratio, factor, rel_tol=1e-9):
            cause = f"your value is the right one times {name}{value}"
            yield Guess(f"times {name}", cause, "look for a factor too many", sure=False)
        if math.isclose(ratio, 1 / factor, rel_tol=1e-9):
            cause = f"your value is the right one divided by {name}{value}"
            yield Guess(f"divided by {name}", cause, "look for a missing factor", sure=False)


def _known_factors(arguments: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield name, value in words and factor."""
    for name, value in arguments.items():
        if type(value) is int and 1 < value < 10**15:
            yield name, f" = {value}", float(value)
    yield from ((str(factor), "", float(factor)) for factor in (-1, 2, 3, 4, 8, 16, 32))
    for power, (binary, decimal) in enumerate((("KiB", "kB"), ("MiB", "MB"), ("GiB", "GB")), 1):
        yield (
            f"{1024**power / 1000**power:.4g}, which is {binary} / {decimal}",
            "",
            1.024**power,
        )
        yield f"1000^{power}", "", 1e3**power
        yield f"1024^{power}", "", 1024.0**power


def shape(asked: tuple[int, ...], got: tuple[int, ...]) -> str:
    """Guess the cause of a wrong shape."""
    if sorted(asked) == sorted(got):
        return "the axes are in another order"
    if math.prod(asked) == math.prod(got):
        return "the same numbers in another shape"
    if len(asked) != len(got):
        return f"{len(got)} axes where {len(asked)} are asked"
    return ""


def array(target: Target, got: np.ndarray, case: Case) -> Iterator[Guess]:
    """Guess why an array of finite numbers is wrong."""
    right = target.values
    rows = int(right.reshape(-1, right.shape[-1] if right.ndim else 1).any(axis=-1).sum())
    if not got.any() and right.any():
        step = "check that the result is written where it is returned"
        yield Guess("zero", "every value is zero", step, sure=rows > 1)
    if right.ndim >= 2 and _near(got, np.swapaxes(right, -1, -2), target.tolerance):
        cause = "your result is transposed: rows and columns are swapped"
        yield Guess("transposed", cause, "swap the last two axes")
    if _rounded(target, got):
        yield _IN_FLOAT32
    yield from _factor(target, got, case, sure=rows > 1)
    yield from _shift(right, got, target.tolerance, "check the first index")
    yield from _row_sums(right, got)


def mask(right: np.ndarray, got: np.ndarray) -> Iterator[Guess]:
    """Guess why a mask is wrong: inverted, transposed, shifted, too wide or too narrow."""
    if 0 < right.mean() < 1 and (got == ~right).all():
        step = "True means that query i may attend to key j"
        yield Guess("inverted", "the mask is inverted", step)
    if right.ndim >= 2 and _near(got, np.swapaxes(right, -1, -2), 0):
        step = "row i is the query, column j the key"
        yield Guess("transposed", "queries and keys are swapped", step)
    yield from _shift(right, got, 0, "query i sits at key position i + n_keys − n_queries")
    bounds = "look at the bounds: < or ≤?"
    if (got >= right).all():
        yield Guess("too much", "all that should be visible is, and more", bounds)
    if (got <= right).all():
        yield Guess("too little", "too little is visible", bounds)


def _near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays of one shape agree; booleans count as 0 and 1."""
    return a.shape == b.shape and bool((np.abs(a * 1.0 - b * 1.0) <= tolerance).all())


def not_finite(target: Target, got: np.ndarray, case: Case) -> tuple[str, str]:
    """Return the likely cause of NaN or ∞, and the next step."""
    halves = (str(getattr(value, "dtype", "")) for value in (*case.args, *case.kwargs.values()))
    if target.dtype == np.float16 or any(name.endswith("float16") for name in halves):
        cause = "float16 ends at 65504: something overflowed"
        return cause, "take each row's maximum off before `exp`, add up in float32"
    empty = (target.values == 0).all(axis=-1, keepdims=True)
    if np.isnan(got).any() and not (~np.isfinite(got) & ~empty).any():
        cause = "0/0 in rows where no key is visible"
        return cause, "such a row gives zeros: look at its maximum and at the division"
    cause = "NaN comes from 0/0, ∞ − ∞ or 0 · ∞; ∞ from `exp` of a large number"
    return cause, "take each row's maximum off before `exp`, and look for a division by 0"


def _rounded(target: Target, got: np.ndarray) -> bool:
    """Whether float64 is wrong by what float32 rounds off: a little, upwards and downwards."""
    right = target.values
    error, size = np.abs(got - right), np.abs(right).max(initial=0.0)
    wrong = error > target.tolerance
    if target.dtype != np.float64 or not 1e-10 * size < error.max() < FLOAT32_ERROR * size:
        return False
    outwards = (np.abs(got) > np.abs(right))[wrong]
    return bool(outwards.any() and not outwards.all())


def _factor(target: Target, got: np.ndarray, case: Case, *, sure: bool) -> Iterator[Guess]:
    """Recognise a constant factor, and name it if it is one of the usual ones."""
    right = target.values
    norm = float((right * right).sum())
    if right.size < 2 or not norm:
        return
    factor = float((got * right).sum()) / norm
    if abs(factor) < 1e-6 or abs(factor - 1) < NO_FACTOR:
        return
    if not _near(got, factor * right, target.tolerance * max(1, abs(factor))):
        return
    names = {"−1": -1.0, "2": 2.0, "1/2": 0.5}
    for width in {value.shape[-1] for value in case.args if getattr(value, "ndim", 0) >= 2}:
        root = math.sqrt(width)
        names |= {"D": width, "√D": root, "1/√D": 1 / root, "1/D": 1 / width}
    known = [name for name, value in names.items() if math.isclose(factor, value, rel_tol=1e-3)]
    for name in (*known, f"{factor:.6g}"):
        cause = f"your result is the right one times {name}"
        step = "look for a factor that is missing, or one too many"
        yield Guess(f"times {name}", cause, step, sure=sure)


def _shift(right: np.ndarray, got: np.ndarray, tolerance: float, step: str) -> Iterator[Guess]:
    for axis, word in ((-2, "row"), (-1, "column")):
        if right.ndim < -axis or right.shape[axis] < 3:
            continue
        mine, other = np.moveaxis(got, axis, 0), np.moveaxis(right, axis, 0)
        for way, same in (
            ("late", _near(mine[1:], other[:-1], tolerance)),
            ("early", _near(mine[:-1], other[1:], tolerance)),
        ):
            if same:
                cause = f"your result is shifted: one {word} too {way}"
                yield Guess(cause, cause, step)


def _row_sums(right: np.ndarray, got: np.ndarray) -> Iterator[Guess]:
    """If the rows of the right result are weights, look at the sums of the answer's."""
    if right.ndim < 2 or right.shape[-1] < 2:
        return
    sums, mine = right.sum(-1), got.sum(-1)
    if not sums.any() or (np.abs(sums[sums != 0] - 1) > 1e-2).any():
        return
    off = np.argwhere(np.abs(mine - sums) > 1e-2)
    if not len(off):
        return
    if (np.abs(got.sum(-2) - 1) <= 1e-2).all():
        cause = "the columns sum to 1, not the rows"
        yield Guess("column sums", cause, "normalise over the last axis")
    first = tuple(off[0])
    cause = f"row {first[-1]} sums to {mine[first]:.3g}, not to {sums[first]:.3g}"
    yield Guess("row sums", cause, "divide each row by its own sum")
