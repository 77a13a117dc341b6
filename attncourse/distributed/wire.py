"""What both algorithms ask first: who is in the group, and which tokens each process holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attncourse.distributed import sharding
from attncourse.inputs import check_count, check_flag, check_scale


@dataclass(frozen=True)
class Plan:
    """One call, as all processes of its group see it.

    Attributes:
        group: torch's process group; None for all.
        rank: This process in the group.
        size: Processes in the group, P.
        n_queries: Queries of the whole sequence.
        n_keys: Keys of the whole sequence.
        layout: Who holds which of them.
        causal: Whether a query sees only keys up to its own position.
        factor: Of the scores.
        overlap: Whether a ring computes while it waits for the next block.
    """

    group: Any
    rank: int
    size: int
    n_queries: int
    n_keys: int
    layout: sharding.Layout
    causal: bool
    factor: float
    overlap: bool = True

    def queries(self) -> list[range]:
        """Return where this process's queries sit among the keys: query i at i + Tk − Tq."""
        shift = self.n_keys - self.n_queries
        held = sharding.runs(self.n_queries, self.rank, self.size, self.layout)
        return [range(run.start + shift, run.stop + shift) for run in held]

    def keys(self, rank: int) -> list[range]:
        """Return the positions of the keys that a process holds."""
        return sharding.runs(self.n_keys, rank % self.size, self.size, self.layout)

    def peer(self, rank: int) -> int:
        """Return how torch calls the process of this rank in the group."""
        rank %= self.size
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


def plan(
    where: str,
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool,
    scale: float | None,
    group: Any,
    layout: sharding.Layout,
    n_queries: int | None,
    n_keys: int | None,
    overlap: bool = True,
) -> Plan:
    """Check the arguments of `where` and return what follows from them.

    Raises:
        RuntimeError: torch.distributed has no process group.
        TypeError: Anything but floating tensors of one type; a flag or number of the wrong type.
        ValueError: Shapes that do not fit, or not the tokens that the layout gives this process.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            f"{where}: torch.distributed has no process group here; call it by "
            "Workers(n).run(…), or under torchrun after torch.distributed.init_process_group()"
        )
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise ValueError(f"{where}: process {dist.get_rank()} is not in this group")
    _check_tensors(where, q, k, v)
    whole = {}
    for name, held, n in (("n_queries", q, n_queries), ("n_keys", k, n_keys)):
        own = held.shape[-2]
        n = own * size if n is None else check_count(where, name, n)
        expected = sharding.count(n, rank, size, layout)
        if own != expected:
            raise ValueError(
                f"{where}: of {name}={n}, process {rank} of {size} must hold {expected} "
                f"({layout}), got {own}"
            )
        whole[name] = n
    return Plan(
        group, rank, size, **whole, layout=layout, causal=check_flag(where, "causal", causal),
        factor=check_scale(where, scale, q.shape[-1]),
        overlap=check_flag(where, "overlap", overlap),
    )  # fmt: skip


_speed: float | None = None  # bytes per second, in `slow_link`


@contextmanager
def slow_link(bytes_per_second: float) -> Iterator[None]:
    """Let this process wait, in a block, as if it sent no faster: a slow network to try things on.

    What `ring_attention` or `all_to_all_attention` sends counts as sent when so many bytes would be
    through. The process sleeps meanwhile if it has nothing else to do, as with a real one.

    Args:
        bytes_per_second: Above 0; more than the real link's makes no difference.

    Raises:
        ValueError: Not above 0.
    """
    global _speed
    if not bytes_per_second > 0:
        raise ValueError(f"slow_link: bytes_per_second must be above 0, got {bytes_per_second}")
    before, _speed = _speed, bytes_per_second
    try:
        yield
    finally:
        _speed = before


def due(n_bytes: int) -> float:
    """Return the time at which so many bytes would be through, sent from now on; 0 if at once."""
    return 0.0 if _speed is None else time.monotonic() + n_bytes / _speed


_through = 0.0  # until then a slow link has something under way


def wait_until(due: float) -> None:
    """Sleep until then."""
    global _through
    if due and (left := due - time.monotonic()) > 0:
        _through = due
        time.sleep(left)


def is_sending() -> bool:
    """Whether this process waits for a slow link, told to another of its threads."""
    return time.monotonic() < _through


def _check_tensors(where: str, q: Any, k: Any, v: Any) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{where}: {name} must be a floating-point tensor, got {kind}")
        if x.ndim != 4:
            raise ValueError(f"{where}: {name} must be (B, H, n/P, D), got {tuple(x.shape)}")
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise TypeError(
                f"{where}: q, k and v must have one type and device, got {q.dtype} on {q.device} "
                f"and {name} {x.dtype} on {x.device}"
            )
    shapes = f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
    if k.shape[:-1] != v.shape[:-1] or q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"{where}: q, k, v must be (B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, Dv), {shapes}"
        )
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"{where}: the heads of q must be a multiple of k's and v's, {shapes}")


def grouped(q: Tensor, kv_heads: int) -> Tensor:
    """Return (B, H, T, D) as (B, Hkv, G, T, D)."""
    return q.unflatten(1, (kv_heads, -1))


def whole_like(x: Tensor, *, tokens: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty tensor like x (…, T, D) with as many tokens."""
    return x.new_empty((*x.shape[:-2], tokens, x.shape[-1]), dtype=dtype or x.dtype)
