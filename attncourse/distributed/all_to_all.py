"""Sequence parallelism by all-to-all: swap tokens for heads, attend, swap back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from attncourse.distributed import sharding, tiles, wire
from attncourse.distributed.sharding import Layout


def all_to_all_attention(
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
) -> Tensor:
    """Return softmax(q kᵀ · scale) v of this process's queries over the keys of all processes.

    Each process comes with n/P tokens of all heads, and gives tokens for heads: with all tokens of
    H/P heads it attends as one process alone would, tile by tile, and gives the results back for
    its own tokens. Each process of the group must call it, and, for gradients, call backward, in
    which gradients go the same ways back.

    Args:
        q: (B, H, n/P, D), the queries that `shard` gives this process; P divides H.
        k: (B, Hkv, n/P, D); H is a multiple of Hkv, and P divides Hkv.
        v: (B, Hkv, n/P, Dv).
        causal: As in `ring_attention`.
        scale: As in `ring_attention`.
        group: As in `ring_attention`.
        layout: As in `ring_attention`; here it makes no difference to the work.
        n_queries: As in `ring_attention`.
        n_keys: As in `ring_attention`.

    Returns:
        (B, H, n/P, Dv) in the type of q.

    Raises:
        RuntimeError: torch.distributed has no process group, or lost a process of it.
        TypeError: Anything but floating tensors of one type.
        ValueError: Heads that P does not divide, and what `ring_attention` refuses.

    Memory:
        q, k, v and out of H/P heads with all tokens; copies of what is swapped; a tile of scores.

    Paper:
        Jacobs et al. 2023, arXiv:2309.14509.
    """
    where = "all_to_all_attention"
    plan = wire.plan(
        where, q, k, v, causal=causal, scale=scale, group=group, layout=layout,
        n_queries=n_queries, n_keys=n_keys,
    )  # fmt: skip
    for name, x in (("q", q), ("k and v", k)):
        if x.shape[1] % plan.size:
            raise ValueError(
                f"{where}: the number of processes must divide the heads, got {x.shape[1]} heads "
                f"of {name} and {plan.size} processes"
            )
    whole = (_Swap.apply(x, plan, n) for x, n in (
        (q, plan.n_queries), (k, plan.n_keys), (v, plan.n_keys),
    ))  # fmt: skip
    return _SwapBack.apply(_Tiled.apply(*whole, plan), plan, plan.n_queries)


def to_heads(x: Tensor, plan: wire.Plan, n: int) -> Tensor:
    """Give tokens for heads: (B, H, n/P, D) here becomes (B, H/P, n, D)."""
    each = x.unflatten(1, (plan.size, -1)).transpose(0, 1)  # (P, B, H/P, n/P, D)
    batch, heads, width = each.shape[1], each.shape[2], x.shape[-1]
    places = _places(plan, n)
    counts = [batch * heads * width * tokens for tokens, _ in places]
    received = _exchange(each.flatten(), [each[0].numel()] * plan.size, counts, plan)
    whole = x.new_empty((batch, heads, n, width))
    for part, (tokens, slices) in zip(received.split(counts), places, strict=True):
        part = part.view(batch, heads, tokens, width)
        for here, there in slices:
            whole[..., there, :] = part[..., here, :]
    return whole


def to_tokens(x: Tensor, plan: wire.Plan, n: int) -> Tensor:
    """Give heads for tokens: (B, H/P, n, D) here becomes (B, H, n/P, D)."""
    batch, heads, _, width = x.shape
    places = _places(plan, n)
    counts = [batch * heads * width * tokens for tokens, _ in places]
    sent = x.new_empty(sum(counts))
    for part, (tokens, slices) in zip(sent.split(counts), places, strict=True):
        part = part.view(batch, heads, tokens, width)
        for here, there in slices:
            part[..., here, :] = x[..., there, :]
    own = places[plan.rank][0]
    received = _exchange(sent, counts, [counts[plan.rank]] * plan.size, plan)
    return received.view(plan.size, batch, heads, own, width).transpose(0, 1).flatten(1, 2)


def _places(plan: wire.Plan, n: int) -> list[tuple[int, list[tuple[slice, slice]]]]:
    """Return of each process how many tokens it holds, and where its runs lie there and in all."""
    places = []
    for rank in range(plan.size):
        tokens, slices = 0, []
        for run in sharding.runs(n, rank, plan.size, plan.layout):
            slices.append((slice(tokens, tokens + len(run)), slice(run.start, run.stop)))
            tokens += len(run)
        places.append((tokens, slices))
    return places


def _exchange(sent: Tensor, going: list[int], coming: list[int], plan: wire.Plan) -> Tensor:
    """Send so many numbers to each process, and return what comes from each, in order of rank."""
    received = sent.new_empty(sum(coming))
    through = wire.due((sum(going) - going[plan.rank]) * sent.element_size())
    dist.all_to_all_single(received, sent.contiguous(), coming, going, group=plan.group)
    wire.wait_until(through)
    return received


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, plan, n):
        ctx.rest = plan, n
        return to_heads(x, plan, n)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return to_tokens(grad, *ctx.rest), None, None


class _SwapBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, plan, n):
        ctx.rest = plan, n
        return to_tokens(x, plan, n)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return to_heads(grad, *ctx.rest), None, None


class _Tiled(torch.autograd.Function):
    """Attention of one process to all tokens, without the square of scores."""

    @staticmethod
    def forward(ctx, q, k, v, plan):
        queries = wire.grouped(q, k.shape[1])
        out, lse = tiles.start(queries, v.shape[-1])
        ctx.places = {
            "queries": [range(plan.n_keys - plan.n_queries, plan.n_keys)],
            "keys": [range(plan.n_keys)],
            "causal": plan.causal,
            "factor": plan.factor,
        }
        tiles.attend(queries, k, v, out, lse, **ctx.places)
        out = out.to(q.dtype).flatten(1, 2)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        queries, grad, out = (wire.grouped(x, k.shape[1]) for x in (q, grad, out))
        delta = (grad.to(lse.dtype) * out).sum(-1)
        dq = torch.zeros_like(queries, dtype=lse.dtype)
        dk, dv = tiles.gradients(grad, delta, queries, k, v, lse, dq, **ctx.places)
        return dq.flatten(1, 2).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None
