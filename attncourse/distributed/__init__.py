"""Attention whose tokens lie on many processes, over `torch.distributed`.

    from attncourse.distributed import Workers, each, ring_attention, shard, unshard

    with Workers(4) as workers:
        parts = [[shard(x, rank, 4) for rank in range(4)] for x in (q, k, v)]
        outs = workers.run(ring_attention, *map(each, parts), causal=True)
    out = unshard(outs)

`ring_attention` passes keys round, `all_to_all_attention` swaps tokens for heads; both take and
give what `shard` gives a process, and have gradients. `cost` says before what each process sends,
computes and holds; `python -m attncourse.distributed` runs both under torchrun.

Where one goes on to, on GPUs: ring-flash-attention's `zigzag_ring_flash_attn_func` is this ring in
this layout, for (B, n/P, H, D); DeepSpeed-Ulysses' `deepspeed.sequence.layer.DistributedAttention`
is this all-to-all around any attention; torch's
`torch.distributed.tensor.experimental.context_parallel`, a prototype, puts a ring in the place of
`scaled_dot_product_attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attncourse.distributed.cost import LINKS, Link, Shares, cost
from attncourse.distributed.sharding import Layout, positions, runs, shard, unshard
from attncourse.distributed.workers import WorkerError, Workers, each

if TYPE_CHECKING:
    from attncourse.distributed.all_to_all import all_to_all_attention
    from attncourse.distributed.counting import count_sent
    from attncourse.distributed.measured import here
    from attncourse.distributed.ring import ring_attention
    from attncourse.distributed.wire import slow_link

__all__ = [
    "LINKS",
    "Layout",
    "Link",
    "Shares",
    "WorkerError",
    "Workers",
    "all_to_all_attention",
    "cost",
    "count_sent",
    "each",
    "here",
    "positions",
    "ring_attention",
    "runs",
    "shard",
    "slow_link",
    "unshard",
]

_IN_TORCH = {
    "all_to_all_attention": "all_to_all",
    "count_sent": "counting",
    "here": "measured",
    "ring_attention": "ring",
    "slow_link": "wire",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: to cut and count, nobody needs it."""
    if name not in _IN_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_IN_TORCH[name]}"), name)
