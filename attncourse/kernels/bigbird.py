"""BigBird in Triton: the block-sparse kernels along a layout of window, random and global blocks.

The rows of global blocks list everything. Their lists are shared out among several programs, so
that no row keeps all others waiting.
"""

from collections.abc import Sequence

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import int_sizes
from attncourse.kernels import block_sparse
from attncourse.kernels._parts import layout_plan
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.plan import Plan, plan_cost
from attncourse.kernels._parts.tiles import check_tensors


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over window, random and global blocks of keys.

    The layout is that of `reference.bigbird.layout`. It is drawn once for each shape and kept.

    Contract: `attncourse.kernels`; knobs: `reference.bigbird.attention`.
    `block` is best a multiple of 64: see `layout_plan.tile_sizes`.
    Gradients: as `block_sparse`.
    Memory: the output, (B, H, Tq) float32, the lists, and (B, H, block, Dv) float32 for each share
        of a global row.
    """
    where = "bigbird.attention"
    check_tensors(where, q, k, v)
    knobs = block, window_blocks, random_blocks, global_blocks, seed, causal
    width = max(q.shape[3], v.shape[3])
    plan = _plan(where, q.shape[2], k.shape[2], width, q.element_size(), *knobs)
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
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `plan_cost`."""
    knobs = block, window_blocks, random_blocks, global_blocks, seed, causal
    plan = _plan("bigbird.cost", Tq, Tk, D, dtype_bytes, *knobs)
    return plan_cost((plan,), B, H, D, dtype_bytes)


def _plan(where, n_queries, n_keys, width, dtype_bytes, block, *knobs) -> Plan:
    layout = patterns.bigbird(where, n_queries, n_keys, block, *knobs)
    block = int(block)
    BLOCK_Q, BLOCK_K = layout_plan.tile_sizes(block, width, dtype_bytes)
    return layout_plan.layout_plan(n_queries, n_keys, layout, block, knobs[-1], BLOCK_Q, BLOCK_K)
