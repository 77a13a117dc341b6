"""Memory that is used again: an arena, two buffers in turn by out=, and the garbage collector."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attncourse.inputs import check_count

ALIGNMENT = 64  # bytes: a cache line, and enough for any vector instruction


class Arena:
    """One buffer that hands out tensors in a row and takes them back all at once.

    No search for a free place, no fragments; an allocation is an addition. Tensors from a frame
    must not be used after it: their bytes serve the next one.

    Attributes:
        used: Bytes handed out now.
        peak: The most bytes that were.
    """

    def __init__(self, n_bytes: int) -> None:
        """Reserve the buffer."""
        n_bytes = check_count("buffers.Arena", "n_bytes", n_bytes)
        self._buffer = torch.empty(n_bytes, dtype=torch.uint8)
        self.used = self.peak = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor in the arena; its numbers are whatever lay there.

        Raises:
            MemoryError: The arena is too full.
        """
        needed = math.prod(shape) * dtype.itemsize
        start = -(-self.used // ALIGNMENT) * ALIGNMENT
        if start + needed > len(self._buffer):
            raise MemoryError(
                f"buffers.Arena: {needed} bytes asked for, "
                f"{max(0, len(self._buffer) - start)} of {len(self._buffer)} free"
            )
        self.used = start + needed
        self.peak = max(self.peak, self.used)
        return self._buffer[start : self.used].view(dtype).view(shape)

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Give back at the end of the block what was handed out in it."""
        before = self.used
        try:
            yield
        finally:
            self.used = before


def chain(x: Tensor, weights: Sequence[Tensor], *, reuse: bool) -> Tensor:
    """Return tanh(... tanh(x W1) ... WL), without gradients.

    Args:
        x: (n, d), not changed.
        weights: L matrices (d, d).
        reuse: Write into two buffers in turn, by out=, instead of making two tensors a layer.

    Returns:
        (n, d).

    Memory:
        Two (n, d) with `reuse`; without it up to three: a layer's input, product and output.
    """
    if not reuse:
        for weight in weights:
            x = torch.tanh(x @ weight)
        return x
    buffers = torch.empty_like(x), torch.empty_like(x)
    for index, weight in enumerate(weights):
        out = buffers[index % 2]
        torch.matmul(x, weight, out=out)
        x = torch.tanh(out, out=out)
    return x


@dataclass(frozen=True)
class Churn:
    """What a loop of allocations took.

    Attributes:
        seconds: Its time.
        collections: How often the garbage collector ran.
        uncollected: Tensors that nothing can reach and that still hold their memory at the end.
        held_bytes: That memory.
    """

    seconds: float
    collections: int
    uncollected: int
    held_bytes: int


def churn(n_tensors: int, *, cycles: bool, collect: bool, tensor_bytes: int = 1024) -> Churn:
    """Make tensors, drop each at once, and see what the garbage collector has to do with it.

    Reference counting frees a tensor the moment nobody holds it. One that a cycle of references
    holds waits for the collector, and the collector counts Python objects, not the bytes of their
    tensors: with it off, such tensors stay until the end.

    Args:
        n_tensors: How many are made.
        cycles: Each hangs on a list that contains itself.
        collect: Whether the collector is on meanwhile.
        tensor_bytes: Of each.
    """
    n_tensors = check_count("buffers.churn", "n_tensors", n_tensors)
    tensor_bytes = check_count("buffers.churn", "tensor_bytes", tensor_bytes)
    runs, alive, was_on = [], weakref.WeakSet(), gc.isenabled()

    def count(phase: str, info: dict) -> None:
        runs.append(phase)

    gc.collect()
    gc.callbacks.append(count)
    (gc.enable if collect else gc.disable)()
    start = time.perf_counter()
    try:
        holder: list = []
        for _ in range(n_tensors):
            holder = [torch.empty(tensor_bytes, dtype=torch.uint8)]
            alive.add(holder[0])
            if cycles:
                holder.append(holder)
        del holder  # the last one
        seconds = time.perf_counter() - start
        uncollected, held = len(alive), sum(tensor.nbytes for tensor in alive)
    finally:
        gc.callbacks.remove(count)
        (gc.enable if was_on else gc.disable)()
    gc.collect()
    return Churn(seconds, runs.count("start"), uncollected, held)
