"""The seconds and the peak bytes of a `with` block, once."""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Seen:
    """What `watch` saw.

    Attributes:
        seconds: From entering to leaving.
        peak_bytes: The most bytes in NumPy arrays and Python objects, beyond those at the start.
        cuda_peak_bytes: The same in tensors on the GPU; None where torch uses no GPU.
    """

    seconds: float = math.nan
    peak_bytes: int = 0
    cuda_peak_bytes: int | None = None


@contextmanager
def watch() -> Iterator[Seen]:
    """Measure the seconds and the peak bytes of a `with` block, once.

    Watching allocations slows code that makes many small objects. For a time to quote use
    `seconds`, which warms up, repeats and shows the spread.

    Yields:
        A record that is filled when the block ends, by an error or Ctrl-C too.

    Examples:
        >>> with watch() as seen:
        ...     zeros = np.zeros(10**6)
        >>> seen.peak_bytes >= zeros.nbytes
        True
    """
    seen = Seen()
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch is not None and torch.cuda.is_initialized() else None
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        cuda_before = cuda.memory_allocated()
    start = time.perf_counter()
    try:
        yield seen
    finally:
        if cuda:
            cuda.synchronize()
            seen.cuda_peak_bytes = cuda.max_memory_allocated() - cuda_before
        seen.seconds = time.perf_counter() - start
        seen.peak_bytes = max(0, tracemalloc.get_traced_memory()[1] - before)
        if not was_tracing:
            tracemalloc.stop()
