"""What one worker of this machine computes and sends, measured while all others do the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from attncourse.cost import Device
from attncourse.distributed import tiles
from attncourse.distributed.cost import Link
from attncourse.distributed.workers import Workers

TOKENS = 512  # queries and keys of the attention that is timed
MESSAGE = 2**22  # bytes


def here(workers: Workers, *, heads: int = 4, width: int = 32) -> tuple[Device, Link]:
    """Measure what a worker computes and sends while all of them do: a second or so.

    Computing is attention itself, tile by tile, and counts the FLOPs of its products, so that the
    exponentials in between are in the figure. Sending is to the right while a message comes from
    the left. A machine with fewer cores than workers shares them, and that is in both.

    Args:
        workers: At least two.
        heads: Of the attention that is timed.
        width: D, likewise.

    Raises:
        ValueError: Fewer than two workers.
    """
    if workers.n < 2:
        raise ValueError(f"here: needs at least 2 workers, got {workers.n}")
    found = workers.run(_measure, heads, width)
    flops, copied, sent = (min(figures) for figures in zip(*found, strict=True))
    where = f"measured: the slowest of {workers.n} workers"
    return (
        Device("one worker here", flops, copied, 0, where, {"float32": flops}),
        Link("loopback here", sent, where),
    )


def _measure(heads: int, width: int) -> tuple[float, float, float]:
    """Return FLOPs and bytes copied a second, and bytes sent a second, of this worker."""
    q = torch.ones(1, heads, 1, TOKENS, width)
    places = {"queries": [range(TOKENS)], "keys": [range(TOKENS)]}

    def attend() -> None:
        out, lse = tiles.start(q, width)
        tiles.attend(q, q[:, :, 0], q[:, :, 0], out, lse, causal=False, factor=1.0, **places)

    source = torch.ones(2**22)
    target = torch.empty_like(source)
    message, received = torch.ones(MESSAGE // 4), torch.empty(MESSAGE // 4)
    rank, size = dist.get_rank(), dist.get_world_size()

    def send() -> None:
        moves = [
            dist.P2POp(dist.isend, message, (rank + 1) % size),
            dist.P2POp(dist.irecv, received, (rank - 1) % size),
        ]
        for work in dist.batch_isend_irecv(moves):
            work.wait()

    flops = 4 * heads * TOKENS * TOKENS * width / _seconds(attend)
    copied = 2 * source.nbytes / _seconds(lambda: target.copy_(source))
    return flops, copied, MESSAGE / _seconds(send)


def _seconds(call: Callable[[], object], repeats: int = 8) -> float:
    """Return the median of some calls, which all workers begin together."""
    call()
    spent = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return sorted(spent)[repeats // 2]
