"""Arguments and results of any shape: tuples, lists and dicts of arrays, tensors and numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def leaves(value: Any) -> Iterator[Any]:
    """Yield what plain tuples and lists, and dicts of any class, hold, at any depth."""
    if isinstance(value, dict):
        value = list(plain_dict(value).values())
    elif type(value) not in (tuple, list):
        yield value
        return
    for each in value:
        yield from leaves(each)


def plain_dict(value: Any) -> Any:
    """Return a `Counter`, `defaultdict` or the like as a dict; anything else as it is."""
    # dict.items is never a method of the learner's, and looks up no missing key.
    return dict(dict.items(value)) if isinstance(value, dict) else value


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; torch is not loaded to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def to_torch(value: Any) -> Any:
    """Return an array as a tensor over its memory, or a copy on the GPU if kernels run there."""
    if not isinstance(value, np.ndarray):
        return value
    import torch

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    tensor = torch.from_numpy(value)
    return tensor.cuda() if torch.cuda.is_available() and not interpreted else tensor


def to_numpy(value: Any) -> Any:
    """Return a tensor as an array, bfloat16 widened; anything else as it is."""
    if not is_tensor(value):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def cast(value: Any, dtype: type | None = None) -> Any:
    """Copy arguments for the reference: NumPy arrays, floating ones in `dtype` if it is given."""
    return _copied(value, lambda array: array.copy() if dtype is None else array.astype(dtype))


def nudge(value: Any, step: float, draw: int) -> Any:
    """Copy arguments in float64 with each floating number moved by up to `step` of itself.

    Args:
        value: The arguments, of any shape.
        step: Relative, as the rounding of a dtype is.
        draw: Which of many ways to move them. What is equal stays so; whole numbers, which are not
            rounded, stay as they are.
    """

    def moved(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares = np.cos(array * 12345.678 + draw)
        moves = np.isfinite(array) & (array != np.rint(array))
        return np.where(moves, array * (1.0 + step * shares), array)

    return _copied(value, moved)


def _copied(value: Any, floats: Callable[[np.ndarray], np.ndarray]) -> Any:
    value = to_numpy(value)
    if isinstance(value, np.ndarray):
        return floats(value) if np.issubdtype(value.dtype, np.floating) else value.copy()
    if type(value) in (tuple, list):
        return type(value)(_copied(each, floats) for each in value)
    if isinstance(value, Mapping):
        return {key: _copied(each, floats) for key, each in value.items()}
    return value


def unchanged(before: Any, after: Any) -> bool:
    """Whether an argument is still the same, arrays bit for bit."""
    before, after = to_numpy(before), to_numpy(after)
    if isinstance(before, np.ndarray):
        same_form = before.shape == after.shape and before.dtype == after.dtype
        return same_form and before.tobytes() == after.tobytes()
    if type(before) in (tuple, list):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if isinstance(before, Mapping):
        if list(before) != list(after):
            return False
        return all(unchanged(before[key], after[key]) for key in before)
    return before is after or before == after
