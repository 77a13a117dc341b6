"""Memory that is really occupied: pages that come only when touched, weights mapped from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor


def resident_bytes() -> int:
    """Return the memory that this process occupies now, in bytes."""
    return psutil.Process().memory_info().rss


def resident_growth(function: Callable[[], object]) -> tuple[int, object]:
    """Return by how much resident memory grew over a call, in bytes, and what it returned."""
    before = resident_bytes()
    result = function()
    return resident_bytes() - before, result


def lazy(n_bytes: int, share: float) -> tuple[int, int]:
    """Return the growth of resident memory when bytes are reserved, and when a share is written.

    Args:
        n_bytes: A few MiB at least, so that the system and not a free list provides them.
        share: The share written, 0 to 1.
    """
    reserved, buffer = resident_growth(lambda: torch.empty(n_bytes, dtype=torch.uint8))
    written, _ = resident_growth(lambda: buffer[: int(share * n_bytes)].fill_(1))
    return reserved, written


def map_weights(path: Path, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the numbers of a file as a tensor; a page is read when it is first touched.

    Args:
        path: Raw numbers, as `tensor.numpy().tofile(path)` writes them.
        shape: Shape of the tensor.
        dtype: What the numbers are.

    Raises:
        ValueError: A file of another size.
    """
    path, size = Path(path), math.prod(shape)
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(
            f"buffers.map_weights: {path.name} must have {size * dtype.itemsize} bytes for "
            f"{tuple(shape)}, got {path.stat().st_size}"
        )
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(*shape)
