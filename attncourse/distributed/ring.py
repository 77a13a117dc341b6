"""Ring attention: queries stay, keys and values go round until each process saw all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from attncourse.distributed import tiles, wire
from attncourse.distributed.sharding import Layout


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    group: Any = None,
    layout: Layout = "zigzag",
    n_queries: int | None = None,
    n_keys: int | None = None,
    overlap: bool = True,
) -> Tensor:
    """Return softmax(q kᵀ · scale) v of this process's queries over the keys of all processes.

    In P − 1 steps every block of keys and values visits every process; the next block is received
    while this one is computed. What the blocks give is joined by the log-sum-exp, so nobody holds
    all keys, nor more scores than a tile. Causally, tiles that the mask hides wholly are skipped,
    and "zigzag" gives each process the same work. Each process of the group must call it, and, for
    gradients, call backward: there dk and dv travel round behind their blocks, and are home at the
    end.

    Args:
        q: (B, H, n/P, D), the queries that `shard` gives this process.
        k: (B, Hkv, n/P, D); H is a multiple of Hkv, and only Hkv heads travel.
        v: (B, Hkv, n/P, Dv).
        causal: Query i sits at key i + Tk − Tq of the whole, and sees no later one.
        scale: Factor of the scores; 1/√D if not given.
        group: torch's process group; all processes if not given.
        layout: Who holds which tokens, as in `shard`.
        n_queries: Queries of the whole, Tq; P times this process's if not given. To be given, on
            each process, where they do not divide evenly.
        n_keys: Keys of the whole, Tk; likewise.
        overlap: False waits for the next block before it computes with this one, to compare.

    Returns:
        (B, H, n/P, Dv) in the type of q; zeros for a query that sees no key.

    Raises:
        RuntimeError: torch.distributed has no process group, or lost a process of it.
        TypeError: Anything but floating tensors of one type.
        ValueError: Shapes that do not fit, or other tokens than the layout gives this process.

    Memory:
        The block in use, the one that arrives, out in float32 at least, and a tile of scores.

    Paper:
        Liu, Zaharia, Abbeel 2023, arXiv:2310.01889.
    """
    plan = wire.plan(
        "ring_attention", q, k, v, causal=causal, scale=scale, group=group, layout=layout,
        n_queries=n_queries, n_keys=n_keys, overlap=overlap,
    )  # fmt: skip
    return _Ring.apply(q, k, v, plan)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, plan):
        queries = wire.grouped(q, k.shape[1])
        out, lse = tiles.start(queries, v.shape[-1])
        for step, block in _blocks(plan, k, v):
            tiles.attend(queries, *block, out, lse, **_places(plan, step))
            del block  # while the next one arrives, this is the memory of the one after
        out = out.to(q.dtype).flatten(1, 2)
        ctx.plan = plan
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        plan = ctx.plan
        queries, grad, out = (wire.grouped(x, k.shape[1]) for x in (q, grad, out))
        delta = (grad.to(lse.dtype) * out).sum(-1)
        dq = torch.zeros_like(queries, dtype=lse.dtype)
        home = ()
        parcel = None  # dk and dv of the block to come, on their way here
        for step, block in _blocks(plan, k, v):
            places = _places(plan, step)
            here = tiles.gradients(grad, delta, queries, *block, lse, dq, **places)
            del block
            if step == 0:
                home = here  # the block's own process adds its share when dk and dv come back
                continue
            if parcel is not None:
                _add(here, parcel.wait())
            parcel = _Parcel(plan, here, tokens=_tokens(plan, plan.rank - step - 1))
        if parcel is not None:
            _add(home, parcel.wait())
        return dq.flatten(1, 2).to(q.dtype), home[0].to(k.dtype), home[1].to(v.dtype), None


def _places(plan, step):
    """Where the queries and the keys of a step sit: at step s here is the block of rank − s."""
    return {
        "queries": plan.queries(),
        "keys": plan.keys(plan.rank - step),
        "causal": plan.causal,
        "factor": plan.factor,
    }


def _blocks(plan, k, v):
    """Yield each step and its block, (k, v), the next one under way meanwhile."""
    block = k.contiguous(), v.contiguous()
    for step in range(plan.size):
        parcel = None
        if step < plan.size - 1:
            parcel = _Parcel(plan, block, tokens=_tokens(plan, plan.rank - step - 1))
            if not plan.overlap:
                parcel.wait()
        yield step, block
        if parcel is not None:
            block = parcel.wait()


def _tokens(plan, rank):
    return sum(map(len, plan.keys(rank)))


def _add(tensors, others):
    for tensor, other in zip(tensors, others, strict=True):
        tensor += other


class _Parcel:
    """Tensors on their way to the right neighbour, and those that come from the left.

    Args:
        plan: The call.
        tensors: What goes; a block without tokens is not sent.
        tokens: How many tokens come.
    """

    def __init__(self, plan, tensors, *, tokens):
        self._going = tensors  # held until they are sent
        self._coming = tuple(wire.whole_like(x, tokens=tokens) for x in tensors)
        left, right = plan.peer(plan.rank - 1), plan.peer(plan.rank + 1)
        moves = [dist.P2POp(dist.isend, x, right, plan.group) for x in tensors if x.numel()]
        moves += [dist.P2POp(dist.irecv, x, left, plan.group) for x in self._coming if x.numel()]
        self._works = dist.batch_isend_irecv(moves) if moves else []
        self._through = wire.due(sum(x.nbytes for x in tensors))

    def wait(self):
        """Return what came, once both are done."""
        for work in self._works:
            work.wait()
        wire.wait_until(self._through)
        self._going, self._works = (), []
        return self._coming
