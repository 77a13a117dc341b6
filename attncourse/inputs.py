"""What goes into attention: make it, and refuse what cannot be right.

The checks read `shape`, `ndim` and `dtype` only, so NumPy arrays and torch tensors both pass
through them.
"""

from __future__ import annotations

import operator
from typing import Any

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
        seed: The same seed gives the same arrays.
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


def check_count(where: str, name: str, value: Any, least: int = 0) -> int:
    """Return `value` as an int, or say what is wrong with it.

    Args:
        where: The function that asks, such as "window.attention".
        name: The argument's name.
        value: What the caller passed.
        least: The smallest allowed value.

    Raises:
        TypeError: `value` is no integer. True and False count as none.
        ValueError: `value` is below `least`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{where}: {name} must be an integer, got {type(value).__name__} {value!r}"
        ) from None
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {number}")
    return number


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
    return positions
