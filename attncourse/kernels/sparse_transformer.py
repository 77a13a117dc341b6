"""The Sparse Transformer in Triton: the block-sparse kernels along its two factors.

"fixed" is one plan, in which the last tokens of each block stand behind all others. "strided"
needs two orders of the queries, one for the near keys and one for the columns, and so two plans.
"""

import functools

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import check_flag, int_sizes
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
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the union of both factors.

    Keys that are `stride` apart lie in different tiles, so tiles of neighbours would be nearly
    empty and yet all be visited. In the order of their columns they are neighbours.

    Contract: `attncourse.kernels`; knobs: `reference.sparse_transformer.attention`.
    Gradients: as `block_sparse`.
    Memory: the output, (B, H, Tq) float32 and the lists; if "strided", what both factors give,
        2 · (B, H, Tq, Dv + 1) float32.
    """
    where = "sparse_transformer.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    stride, summary = patterns.check_factors(where, stride, pattern, summary)
    blocks = tiling(max(q.shape[3], v.shape[3]), q.element_size())[:2]
    knobs = stride, pattern, summary, causal
    return block_sparse.run(where, q, k, v, _plans(q.shape[2], k.shape[2], *knobs, *blocks), scale)


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
    pattern: str = "strided",
    summary: int = 1,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `plan_cost`."""
    stride, summary = patterns.check_factors("sparse_transformer.cost", stride, pattern, summary)
    causal = check_flag("sparse_transformer.cost", "causal", causal)
    knobs = stride, pattern, summary, causal
    plans = _plans(Tq, Tk, *knobs, *tiling(D, dtype_bytes)[:2])
    return plan_cost(plans, B, H, D, dtype_bytes)


@functools.lru_cache(maxsize=16)
def _plans(n_queries, n_keys, stride, pattern, summary, causal, *blocks: int) -> tuple[Plan, ...]:
    """Return the plans of these knobs; the last few are kept."""
    if pattern == "fixed":
        return (_fixed(n_queries, n_keys, stride, summary, causal, blocks),)
    stride = min(stride, max(1, n_queries + n_keys))  # beyond both ends it changes nothing
    return tuple(_factor(n_queries, n_keys, stride, far, causal, blocks) for far in (False, True))


def _factor(n_queries, n_keys, stride: int, far: bool, causal: bool, blocks) -> Plan:
    """Return the plan of the keys within `stride`, or of those in the column that are not."""
    step, span = (stride, n_queries + n_keys) if far else (1, stride)

    def visible(ahead):
        near = np.abs(ahead) <= stride
        shown = (ahead % stride == 0) & ~near if far else near
        return shown & (ahead <= 0) if causal else shown

    reach = span, 0 if causal else span
    return planning.band((n_queries, n_keys), step, reach, visible, blocks)


def _fixed(n_queries, n_keys, stride: int, summary: int, causal: bool, blocks) -> Plan:
    """Return the plan of each block's own keys, and of the last ones of all blocks."""
    positions, keys = np.arange(n_queries) + n_keys - n_queries, np.arange(n_keys)
    last = keys % stride >= stride - summary
    inner, outer = keys[~last], keys[last]
    own = positions // stride * stride
    end = np.minimum(own + stride, positions + 1) if causal else own + stride
    first_outer = len(planning.whole_tiles(inner, blocks[1], n_keys))
    seen = np.searchsorted(outer, positions, side="right") if causal else len(outer)
    candidates = planning.union(
        planning.candidates(np.searchsorted(inner, own), np.searchsorted(inner, end), *blocks),
        planning.candidates(
            np.full(n_queries, first_outer), np.full(n_queries, first_outer) + seen, *blocks
        ),
    )

    def visible(i, j):
        shown = (j // stride == positions[i] // stride) | (j % stride >= stride - summary)
        return shown & (j <= positions[i]) if causal else shown

    sizes = n_queries, n_keys
    orders = (
        planning.whole_tiles(np.arange(n_queries), blocks[0], n_queries),
        np.concatenate([planning.whole_tiles(part, blocks[1], n_keys) for part in (inner, outer)]),
    )
    return planning.build(sizes, orders, blocks, candidates, visible)
