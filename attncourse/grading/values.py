"""Arguments and results of any shape: tuples, lists and dicts of arrays, tensors and numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
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
    value = to_numpy(value)
    if isinstance(value, np.ndarray):
        floating = dtype is not None and np.issubdtype(value.dtype, np.floating)
        return value.astype(dtype) if floating else value.copy()
    if type(value) in (tuple, list):
        return type(value)(cast(each, dtype) for each in value)
    if isinstance(value, Mapping):
        return {key: cast(each, dtype) for key, each in value.items()}
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
