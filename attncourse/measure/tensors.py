"""Where the tensors of a call lie, without importing torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


def home_of(*values: Any) -> str:
    """Return "cuda", "cpu" or, where no tensor is among the values, "numpy"."""
    torch = sys.modules.get("torch")
    homes = {
        value.device.type
        for value in leaves(values)
        if torch is not None and isinstance(value, torch.Tensor)
    }
    return "cuda" if "cuda" in homes else "cpu" if homes else "numpy"


def leaves(value: Any) -> Iterator[Any]:
    """Yield what lies in tuples, lists and dicts, however deep."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for part in value:
        yield from leaves(part)
