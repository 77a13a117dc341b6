"""Compare a result with what was expected, and say where they differ."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from attncourse.grading import diagnose
from attncourse.grading.diagnose import Target, argument_names
from attncourse.grading.messages import Finding, name_of_type, number, plain
from attncourse.grading.spec import Case, Exercise
from attncourse.grading.values import cast, leaves, nudge, plain_dict, to_numpy

NUMBER_RTOL = 1e-9
SLACK = 64  # roundings an answer may be away, in units of what rounding does to the case
NUDGES = 3  # how often a case is tried with other last digits: one try may be lucky
MANY = 2**15  # numbers in a case that has rows enough for no luck
ROUNDING = float(np.finfo(np.float32).eps)
WIDEST = 24  # columns of a mask that are drawn
INTEGERS = (int, *(t for t in np.sctypeDict.values() if issubclass(t, np.integer)))
FLOATS = (float, *(t for t in np.sctypeDict.values() if issubclass(t, np.floating)))


def expected(exercise: Exercise, case: Case) -> Any:
    """Run the reference on a case; arrays in its result become `Target`s.

    The tolerance is `SLACK` times what rounding does to this case, the largest of: the error of the
    reference in float32 against float64; how far its result in float64 moves if the arguments move
    as much as rounding them would; an eighth of the largest exponent, since exp(score - lse) rounds
    a difference of two numbers of that size; and a 64th of the longest axis, since a sum that is
    added up one by one, as by np.logaddexp.reduce, loses some with each. It is taken in units of
    float32's epsilon, and applied to the dtype that is asked: a case in float64 catches what is no
    rounding.
    """
    result = exercise.reference(*cast(case.args), **cast(case.kwargs))
    if not any(isinstance(leaf, np.ndarray) for leaf in leaves(result)):
        return result
    every = [cast((case.args, case.kwargs), dtype) for dtype in (np.float64, np.float32)]
    if exercise.tolerance is None and sum(map(np.size, leaves((case.args, case.kwargs)))) < MANY:
        every += [nudge((case.args, case.kwargs), ROUNDING, draw) for draw in range(NUDGES)]
    with np.errstate(all="ignore"):
        exact, *inexact = (exercise.reference(*args, **kwargs) for args, kwargs in every)
        longest = max((n for x in leaves((case.args, case.kwargs)) for n in np.shape(x)), default=0)
        least = max(_largest_exponent(exercise, case) / 8, longest / 64)
    return _targets(result, exact, inexact, least, exercise.tolerance)


def _largest_exponent(exercise: Exercise, case: Case) -> float:
    """Return a bound of what exponentials are taken of: unless told, of q kᵀ / √D."""
    if exercise.exponents:
        return _largest(exercise.exponents(*cast(case.args), **cast(case.kwargs)))
    arguments = argument_names(exercise.reference, case)
    q, k = (to_numpy(arguments.get(name)) for name in "qk")
    if not all(isinstance(x, np.ndarray) and x.ndim >= 2 and x.size for x in (q, k)):
        return 0.0
    longest = (_largest(np.linalg.norm(x, axis=-1)) for x in (q, k))
    return math.prod(longest) / math.sqrt(q.shape[-1])


def _largest(array: Any) -> float:
    array = np.abs(array)
    return float(array[np.isfinite(array)].max(initial=0.0))


def _targets(
    result: Any, exact: Any, inexact: list[Any], least: float, tolerance: float | None
) -> Any:
    if isinstance(result, (dict, tuple, list)):
        keys = result if isinstance(result, dict) else range(len(result))
        parts = {
            key: _targets(
                result[key], exact[key], [each[key] for each in inexact], least, tolerance
            )
            for key in keys
        }
        return parts if isinstance(result, dict) else type(result)(parts.values())
    if not isinstance(result, np.ndarray):
        return result
    if not np.issubdtype(result.dtype, np.floating):
        return Target(result, result.dtype)
    if tolerance is not None:
        return Target(exact, result.dtype, tolerance, "set by the exercise")
    finite = np.isfinite(exact)
    scale = float(np.abs(exact[finite]).max(initial=0.0)) or 1.0
    errors = [np.abs(each[finite] - exact[finite]).max(initial=0.0) for each in inexact]
    units = np.nan_to_num(errors, nan=0.0, posinf=0.0) / (ROUNDING * scale)
    loss = float(np.clip(max(least, *units), 1.0, 1e3))
    allowed = SLACK * loss * float(np.finfo(result.dtype).eps) * scale
    return Target(exact, result.dtype, allowed, f"{SLACK} times the rounding of {result.dtype}")


def difference(target: Any, got: Any, case: Case, exercise: Exercise) -> Finding | None:
    """Return the first of the `differences`, None if there is none."""
    return next((found for _, found in differences(target, got, case, exercise)), None)


def differences(
    target: Any, got: Any, case: Case, exercise: Exercise, path: tuple = (), name: str = ""
) -> Iterator[tuple[tuple, Finding]]:
    """Yield what differs from what was expected, in each part of the result.

    Args:
        target: What `expected` returned, or a part of it.
        got: The answer's result, or the same part of it.
        case: The case, whose arguments help to guess the cause.
        exercise: The exercise.
        path: The keys that lead to this part.
        name: The same in words, for the message: "key 'window'".

    Yields:
        The path of a part, and what is wrong with it.
    """
    of = f"{name}: " if name else ""
    if isinstance(target, Target):
        found = None
        if exercise.kind == "kernel":
            if name_of_type(got) != "a torch tensor":
                found = _wrong_type(of, got, "a torch tensor")
            got = to_numpy(got)
        found = found or _array_difference(target, got, case, of)
    elif isinstance(target, (dict, tuple, list)):
        got = plain_dict(got)
        found = _container_difference(target, got, of)
        if not found:
            for key in target if isinstance(target, dict) else range(len(target)):
                part = part_name(key, target, exercise)
                part = f"{name}, {part}" if name else part
                yield from differences(target[key], got[key], case, exercise, (*path, key), part)
    else:
        found = _number_difference(target, got, case, exercise, of)
    if found:
        yield path, found


def part_name(key: Any, target: Any, exercise: Exercise) -> str:
    """Name a part of a result: "key 'window'", "value 1 of 3", if driven "out of step 2"."""
    if exercise.drive and isinstance(target, dict):
        return str(key)
    return f"key {key!r}" if isinstance(target, dict) else f"value {key + 1} of {len(target)}"


def same(a: Any, b: Any, target: Any = None) -> bool:
    """Whether two results agree: floats but for rounding, arrays within `target`'s tolerance."""
    a, b = (_plain_text(plain_dict(to_numpy(x))) for x in (a, b))
    if type(a) in INTEGERS and type(b) in INTEGERS:
        return bool(a == b)
    if type(a) in FLOATS and type(b) in FLOATS:
        return math.isclose(a, b, rel_tol=NUMBER_RTOL) or bool(a != a and b != b)
    if type(a) is not type(b):
        return False
    if type(a) is np.ndarray:
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype.kind != "f":
            return bool((a == b).all())
        allowed = target.tolerance if isinstance(target, Target) else 0.0
        return np.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True)
    if type(a) in (tuple, list):
        if len(a) != len(b):
            return False
        parts = target if type(target) is type(a) and len(target) == len(a) else [None] * len(a)
        return all(map(same, a, b, parts))
    if type(a) is dict:
        parts = target if type(target) is dict else {}
        return a.keys() == b.keys() and all(same(a[key], b[key], parts.get(key)) for key in a)
    # Objects of other types are wrong anyway; their own == is not to be trusted.
    return type(a) not in (bool, str, np.bool_) or a == b


def _container_difference(target: Any, got: Any, of: str) -> Finding | None:
    """Find what is wrong with a container, whatever it holds."""
    kind = next(kind for kind in (dict, tuple, list) if isinstance(target, kind))
    if type(got) is not kind:
        return _wrong_type(of, got, _container_words(kind, target))
    if kind is not dict:
        if len(got) != len(target):
            return Finding(f"{of}returned {len(got)} values, expected {len(target)}")
        return None
    missing = [key for key in target if key not in got]
    extra = [key for key in got if key not in target]
    if not missing and not extra:
        return None
    words = [f"key {plain(repr(missing[0]))} is missing"] if missing else []
    words += [f"key {plain(repr(extra[0]))} is not asked for"] if extra else []
    return Finding(of + " and ".join(words), next=f"return the keys {list(target)}")


def _container_words(kind: type, target: Any) -> str:
    if not target:
        return f"an empty {kind.__name__}"
    if kind is not dict:
        return f"a {kind.__name__} of {len(target)}"
    *most, last = map(repr, target)
    if not most:
        return f"a dict with the key {last}"
    return f"a dict with the keys {', '.join(most)} and {last}"


def _wrong_type(of: str, got: Any, asked: str) -> Finding:
    cause, step = "", f"return {asked}"
    if got is None:
        cause = "a function without a `return` returns None"
    elif inspect.isgenerator(got):
        cause = "a function with `yield` in it returns a generator"
    elif name_of_type(got) == "a torch tensor":
        cause, step = "torch where NumPy is asked", "compute with NumPy, or end with `.numpy()`"
    elif type(got) is list and "array" in asked:
        cause, step = "a list is no array", "make the result with NumPy, or end with `np.array`"
    elif isinstance(got, np.ndarray):
        cause = "the function returns an array"
        if "array" in asked:
            cause, step = "a subclass of NumPy's array", "return a plain array: `np.asarray(...)`"
    return Finding(f"{of}returned {name_of_type(got)}, expected {asked}", cause=cause, next=step)


def _number_difference(
    target: Any, got: Any, case: Case, exercise: Exercise, of: str
) -> Finding | None:
    if type(got) is np.ndarray and got.shape == ():
        got = got[()]
    got = _plain_text(got)
    if target is None or isinstance(target, (str, bool, np.bool_)):
        same_kind = type(got) in (type(target), *((bool, np.bool_) if _is_bool(target) else ()))
        if not same_kind:
            asked = "None" if target is None else name_of_type(target)
            return _wrong_type(of, got, asked)
        if target is None or got == target:
            return None
        return Finding(f"{of}wrong value", f"expected {target!r}, yours {plain(repr(got), 80)}")
    whole = isinstance(target, (int, np.integer))
    if type(got) not in INTEGERS + FLOATS:
        asked = "an int" if whole else "a number"
        found = _wrong_type(of, got, asked)
        if type(got) in (bool, np.bool_):
            found = Finding(
                found.reason, cause="True and False are no numbers here", next=found.next
            )
        return found
    target = int(target) if whole else float(target)
    got = int(got) if type(got) in INTEGERS else float(got)
    rtol = exercise.tolerance or (0.0 if whole else NUMBER_RTOL)
    if isinstance(got, float) and not math.isfinite(got):
        return Finding(f"{of}returned {got}", f"expected {number(target)}")
    try:
        right = got == target if not rtol else abs(got - target) <= rtol * abs(target)
    except OverflowError:  # an integer beyond every float
        right = False
    if right:
        return None
    allowed = f", relative error allowed {rtol:.0e}" if rtol else ""
    where = f"expected {number(target)}, yours {number(got)}{allowed}"
    guesses = diagnose.number(target, got, argument_names(exercise.reference, case))
    return Finding(f"{of}wrong value", where, guesses=tuple(guesses))


def _plain_text(value: Any) -> Any:
    """Return NumPy's string, as `np.where` chooses one, as Python's; anything else as it is."""
    return str(value) if type(value) is np.str_ else value


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _array_difference(target: Target, got: Any, case: Case, of: str) -> Finding | None:
    asked = f"a NumPy array of shape {target.values.shape}"
    if type(got) is not np.ndarray:
        return _wrong_type(of, got, asked)
    if got.shape != target.values.shape:
        cause = diagnose.shape(target.values.shape, got.shape)
        reason = f"{of}returned shape {got.shape}, expected {target.values.shape}"
        return Finding(reason, cause=cause, next="compare the shapes step by step")
    if got.dtype != target.dtype:
        reason = f"{of}returned dtype {got.dtype}, expected {target.dtype}"
        if target.dtype.kind == "b":
            cause = "numbers, where True or False is asked of each"
            return Finding(reason, cause=cause, next="end with a comparison: it gives a mask")
        cause = (
            "NumPy made it wider on the way" if got.dtype.itemsize > target.dtype.itemsize else ""
        )
        return Finding(reason, cause=cause, next=f"end with `.astype(np.{target.dtype.name})`")
    if target.dtype.kind != "f":
        wrong = got != target.values
        if not wrong.any():
            return None
        if target.dtype.kind == "b":
            return _mask_difference(target.values, got, wrong, of)
        guesses = tuple(diagnose.array(target, got.astype(float), case))
        return Finding(f"{of}wrong values", _where(target, got, wrong), guesses=guesses)
    wide = got.astype(np.float64)
    with np.errstate(all="ignore"):
        close = np.abs(wide - target.values) <= target.tolerance
    wrong = ~(close | (wide == target.values) | (np.isnan(wide) & np.isnan(target.values)))
    if not wrong.any():
        return None
    with np.errstate(all="ignore"):
        where = _where(target, wide, wrong)
        reason = of + ("returned NaN" if (np.isnan(wide) & wrong).any() else "wrong values")
        if (np.isfinite(target.values) & ~np.isfinite(wide)).any():
            return Finding(reason, where, *diagnose.not_finite(target, wide, case))
        return Finding(reason, where, guesses=tuple(diagnose.array(target, wide, case)))


def _position(index: tuple[int, ...]) -> str:
    if len(index) < 2:
        return f"position {index[0]}" if index else "the value"
    lead = f"[{', '.join(map(str, index[:-2]))}] " if any(index[:-2]) else ""
    return f"{lead}row {index[-2]}, column {index[-1]}"


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()


def _where(target: Target, got: np.ndarray, wrong: np.ndarray) -> str:
    first = _first(wrong)
    error = np.abs(got[wrong] - target.values[wrong]).max()
    text = (
        f"{_position(first)}: expected {target.values[first]:.6g}, yours {got[first]:.6g}\n"
        f"{wrong.sum()} of {wrong.size} values differ{_rows(wrong)}, largest error {error:.2g}"
    )
    return text + (f", allowed {target.tolerance:.2g} ({target.why})" if target.why else "")


def _rows(wrong: np.ndarray) -> str:
    """Name the rows that are wrong, if they are one run that is not everything."""
    if wrong.ndim < 2:
        return ""
    rows = np.flatnonzero(wrong.any(axis=-1).reshape(-1, wrong.shape[-2]).any(axis=0))
    if len(rows) in (0, wrong.shape[-2]) or rows[-1] - rows[0] + 1 != len(rows):
        return ""
    return f", all in row {rows[0]}" if len(rows) == 1 else f", all in rows {rows[0]} to {rows[-1]}"


def _mask_difference(right: np.ndarray, got: np.ndarray, wrong: np.ndarray, of: str) -> Finding:
    extra, missing = int((got & ~right).sum()), int((right & ~got).sum())
    counts = [f"{extra} too many"] * bool(extra) + [f"{missing} missing"] * bool(missing)
    where = f"{_position(_first(wrong))}: {' and '.join(counts)} of {right.size}"
    if right.ndim >= 1:
        where += "\n" + _picture(right, got)
    return Finding(f"{of}wrong mask", where, guesses=tuple(diagnose.mask(right, got)))


def _picture(right: np.ndarray, got: np.ndarray) -> str:
    """Draw expected, yours and difference side by side, cut to where the first difference is."""
    if right.ndim == 1:
        right, got = right[None], got[None]
    lead = _first(right != got)[:-2]
    right, got = right[lead], got[lead]
    row, column = _first(right != got)
    top, left = (max(0, at - WIDEST + 4) for at in (row, column))
    cut = np.s_[top : top + WIDEST, left : left + WIDEST]
    right, got = right[cut], got[cut]
    width = max(right.shape[1], 10)
    lines = [f"{'expected':<{width}}  {'yours':<{width}}  difference"]
    for expected_row, got_row in zip(right, got, strict=True):
        pair = list(zip(expected_row, got_row, strict=True))
        marks = "".join("·" if a == b else "+" if b else "−" for a, b in pair)
        lines.append(f"{_blocks(expected_row):<{width}}  {_blocks(got_row):<{width}}  {marks}")
    if top or left:
        lines.append(f"(from row {top} and column {left} on)")
    return "\n".join(lines) + "\n█ may attend, + too many, − missing"


def _blocks(row: np.ndarray) -> str:
    return "".join("█" if visible else "·" for visible in row)
