"""Strided attention in Triton: the block-sparse kernels, with the residue classes put side by side.

In that order each class is a square of tiles on the diagonal, and attention to it is full: only
tiles that hold the end of one class and the beginning of the next need a mask.
"""

import functools

import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, int_sizes
from attncourse.kernels import block_sparse
from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.plan import Plan, plan_cost
from attncourse.kernels._parts.tiles import check_tensors, tiling


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    stride: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the keys with (i - j) mod stride = 0.

    Contract: `attncourse.kernels`; knobs: `reference.strided.attention`.
    Gradients: as `block_sparse`.
    Memory: the output, (B, H, Tq) float32 and the lists.
    """
    where = "strided.attention"
    check_tensors(where, q, k, v)
    stride = check_count(where, "stride", stride, least=1)
    causal = check_flag(where, "causal", causal)
    blocks = tiling(max(q.shape[3], v.shape[3]), q.element_size())[:2]
    plan = _plan(q.shape[2], k.shape[2], stride, causal, *blocks)
    return block_sparse.run(where, q, k, v, (plan,), scale)


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    stride: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `plan_cost`."""
    stride = check_count("strided.cost", "stride", stride, least=1)
    causal = check_flag("strided.cost", "causal", causal)
    plan = _plan(Tq, Tk, stride, causal, *tiling(D, dtype_bytes)[:2])
    return plan_cost((plan,), B, H, D, dtype_bytes)


@functools.lru_cache(maxsize=16)
def _plan(n_queries, n_keys, stride, causal, *blocks: int) -> Plan:
    """Return the plan of these knobs; the last few are kept."""
    everything = n_queries + n_keys
    stride = min(stride, max(1, everything))  # beyond both ends it changes nothing

    def visible(ahead):
        shown = ahead % stride == 0
        return shown & (ahead <= 0) if causal else shown

    reach = everything, 0 if causal else everything
    return planning.band((n_queries, n_keys), stride, reach, visible, blocks)
