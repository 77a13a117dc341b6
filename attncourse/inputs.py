"""What goes into attention: make it, and refuse what cannot be right.

The checks read `shape`, `ndim` and `dtype` only, so NumPy arrays and torch tensors both pass
through them.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np


def random_qkv(
    n_queries: int,
    n_keys: int | None = None,
    *,
    heads: int = 1,
    batch: int = 1,
    width: int = 64,
    value_width: int | None = None,
    seed: int = 0,
    dtype: Any = np.float32,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw q, k and v from a standard normal distribution.

    Args:
        n_queries: Tq.
        n_keys: Tk; the same as `n_queries` if not given.
        heads: H.
        batch: B.
        width: D, numbers in one query or key.
        value_width: Dv, numbers in one value; the same as `width` if not given.
        seed: The same seed gives the same arrays, those of `numpy.random.default_rng(seed)`.
        dtype: A NumPy floating dtype.

    Returns:
        q (B, H, Tq, D), k (B, H, Tk, D), v (B, H, Tk, Dv).
    """
    n_keys = n_queries if n_keys is None else n_keys
    value_width = width if value_width is None else value_width
    generator = np.random.default_rng(seed)
    shapes = ((n_queries, width), (n_keys, width), (n_keys, value_width))
    q, k, v = (generator.standard_normal((batch, heads, *s)).astype(dtype) for s in shapes)
    return q, k, v


def stream(purpose: str, seed: int, *part: int) -> np.random.Generator:
    """Return a generator of random numbers for one purpose.

    Directions that are the very numbers of the queries look good for no reason. So each purpose has
    numbers of its own at a given seed, and none has those of `random_qkv`.

    Args:
        purpose: What is drawn, such as "performer".
        seed: At least 0.
        *part: Which part of it, each at least 0, where parts are drawn on their own.
    """
    key = (*purpose.encode(), *part)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


LARGEST = 2**63 - 1  # of NumPy's integers; beyond, it raises errors of its own


def check_count(where: str, name: str, value: Any, least: int = 0) -> int:
    """Return `value` as an int, or say what is wrong with it.

    Work with what is returned: a NumPy integer has 8, 16 ... bits, and overflows in silence.

    Args:
        where: The function that asks, such as "window.attention".
        name: The argument's name.
        value: What the caller passed; an array or a tensor without axes stands for its number.
        least: The smallest allowed value.

    Raises:
        TypeError: `value` is no integer. True and False count as none.
        ValueError: `value` is below `least`, or above 2⁶³ - 1.
    """
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{where}: {name} must be an integer, got {type(value).__name__} {value!r}")
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {number}")
    if number > LARGEST:
        raise ValueError(f"{where}: {name} must be at most {LARGEST}, got {number}")
    return number


_SIZES = {"B", "H", "Tq", "Tk", "D", "dtype_bytes", "n_queries", "n_keys"}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def int_sizes(function: _Function) -> _Function:
    """Decorate a function that counts by sizes: it gets them as `check_count` returns them.

    Sizes are the arguments called B, H, Tq, Tk, D, dtype_bytes, n_queries and n_keys.
    """
    where = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    names = tuple(inspect.signature(function).parameters)

    def checked(name: str, value: Any) -> Any:
        return check_count(where, name, value) if name in _SIZES else value

    @functools.wraps(function)
    def with_int_sizes(*args, **kwargs):
        by_place = (*map(checked, names, args), *args[len(names) :])
        return function(*by_place, **{name: checked(name, kwargs[name]) for name in kwargs})

    return cast(_Function, with_int_sizes)


def check_flag(where: str, name: str, value: Any) -> bool:
    """Return `value`, True or False, as a bool; 0 and 1 are numbers, and refused.

    Args:
        where: The function that asks, such as "window.attention".
        name: The argument's name.
        value: What the caller passed; NumPy's booleans are as good as Python's.

    Raises:
        TypeError: `value` is neither True nor False.
    """
    flag = _number(value)
    if not isinstance(flag, bool):
        raise TypeError(
            f"{where}: {name} must be True or False, got {type(value).__name__} {value!r}"
        )
    return flag


def check_scale(where: str, scale: Any, width: int = 1) -> float:
    """Return the factor of the scores: `scale`, or 1/√width where it is None.

    Args:
        where: The function that asks, such as "window.attention".
        scale: What the caller passed.
        width: D.

    Raises:
        TypeError: `scale` is no real number. True and False count as none.
        ValueError: `scale` is infinite or NaN.
    """
    if scale is None:
        return 1 / math.sqrt(width)
    number = _number(scale)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{where}: scale must be a number, got {type(scale).__name__} {scale!r}")
    if not abs(number) < math.inf or abs(number) > sys.float_info.max:
        raise ValueError(f"{where}: scale must be finite, got {scale}")
    return float(number)


def _number(value: Any) -> Any:
    """Return Python's number for NumPy's, and for an array or a tensor without axes."""
    return value.item() if getattr(value, "shape", None) == () else value


def check_qkv(where: str, q: Any, k: Any, v: Any) -> None:
    """Refuse q, k and v whose types or shapes do not belong together.

    Args:
        where: The function that asks, such as "window.attention".
        q: (..., Tq, D).
        k: (..., Tk, D).
        v: (..., Tk, Dv).

    Raises:
        TypeError: Something without a shape, or without floating numbers.
        ValueError: Shapes that do not fit, or dtypes that differ.
    """
    for name, array in (("q", q), ("k", k), ("v", v)):
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise TypeError(f"{where}: {name} must be an array, got {type(array).__name__}")
        if not str(array.dtype).removeprefix("torch.").startswith(("float", "bfloat")):
            raise TypeError(f"{where}: {name} must hold floating numbers, got {array.dtype}")
        if array.ndim < 2:
            raise ValueError(
                f"{where}: {name} must have at least 2 axes (tokens, width), "
                f"got shape {tuple(array.shape)}"
            )
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"{where}: q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"{where}: q and k must have the same width D, got {shapes}")
    if q.shape[-1] == 0:
        raise ValueError(f"{where}: the width D must be at least 1, got {shapes}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{where}: k and v must have the same number of keys, got {shapes}")
    if not tuple(q.shape[:-2]) == tuple(k.shape[:-2]) == tuple(v.shape[:-2]):
        raise ValueError(f"{where}: q, k and v must have the same leading axes, got {shapes}")


def check_new_tokens(where: str, q: Any, k: Any) -> None:
    """Refuse a step with more queries than new keys: whose tokens would the others be?

    Args:
        where: The function that asks, such as "kv_cache.step".
        q: (..., T, D); fewer than keys belong to the last of them.
        k: (..., T, D).

    Raises:
        ValueError: More queries than keys.
    """
    if q.shape[-2] > k.shape[-2]:
        raise ValueError(
            f"{where}: q must have at most as many tokens as k, got {q.shape[-2]} and {k.shape[-2]}"
        )


def check_positions(where: str, name: str, value: Any, size: int) -> np.ndarray:
    """Return which of `size` positions are meant: the first few, or those in a list.

    Args:
        where: The function that asks, such as "longformer.attention".
        name: The argument's name.
        value: A count, which may exceed `size` and then means all, or a sequence of positions.
        size: How many positions there are.

    Returns:
        int (count,): sorted, each once.

    Raises:
        TypeError: Neither an integer nor a sequence of integers.
        ValueError: A negative count, or a position outside 0 ... size - 1.
    """
    if np.ndim(value) == 0:
        return np.arange(min(check_count(where, name, value), size))
    positions = np.unique(value) if np.size(value) else np.arange(0)
    if np.ndim(value) != 1 or positions.dtype.kind not in "iu":
        raise TypeError(
            f"{where}: {name} must be an integer or a row of integers, "
            f"got {np.asarray(value).dtype} {np.shape(value)}"
        )
    if len(positions) and not 0 <= positions[0] <= positions[-1] < size:
        raise ValueError(
            f"{where}: {name} must lie in 0 ... {size - 1}, got {positions[0]} ... {positions[-1]}"
        )
    return positions.astype(int, copy=False)
