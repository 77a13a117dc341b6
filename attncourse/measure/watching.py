"""The seconds and the peak bytes of a `with` block, once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from attncourse.measure.marks import alone, cuda_marked, python_marked
from attncourse.measure.tensors import cuda_in_use


@dataclass
class Seen:
    """What `watch` saw.

    Attributes:
        seconds: From entering to leaving.
        peak_bytes: The most bytes in NumPy arrays and Python objects, beyond those at the start.
        cuda_peak_bytes: The same in tensors on the current GPU; None where torch uses no GPU.
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

    Raises:
        RuntimeError: At the end, if another thread worked at the same time. Memory is counted for
            the process.

    Examples:
        >>> with watch() as seen:
        ...     zeros = np.zeros(10**6)
        >>> seen.peak_bytes >= zeros.nbytes
        True
    """
    seen = Seen()
    cuda = cuda_in_use()
    gpu_marked = cuda_marked(cuda, cuda.current_device()) if cuda else nullcontext()
    try:
        with alone("measure.watch"), python_marked() as python, gpu_marked as gpu:
            start = time.perf_counter()
            try:
                yield seen
            finally:
                if cuda:
                    cuda.synchronize()
                seen.seconds = time.perf_counter() - start
    finally:
        seen.peak_bytes = python.bytes
        if gpu:
            seen.cuda_peak_bytes = gpu.bytes
