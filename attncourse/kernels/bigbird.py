"""BigBird in Triton: the block-sparse kernels along a layout of window, random and global blocks.

The rows of global blocks list everything. Their lists are shared out among several programs, so
that no row keeps all others waiting.
"""

from collections.abc import Sequence

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.kernels import block_sparse
from attncourse.kernels._parts import layout_plan
from attncourse.kernels._parts.plan import Plan, plan_cost
from attncourse.kernels._parts.tiles import check_tensors


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

    Args:
        q: (B, H, Tq, D) float32, float16 or bfloat16, any strides, D ≤ 256.
        k: (B, H, Tk, D).
        v: (B, H, Tk, Dv), Dv ≤ 256.
        block: Tokens in a block, best a multiple of 64: see `layout_plan.tile_sizes`.
        window_blocks: Radius in blocks: 2·window_blocks + 1 of them, window_blocks + 1 if causal.
        random_blocks: Blocks drawn for each block of queries among those it would not see.
        global_blocks: The first so many blocks, or a row of block numbers; all, if there are fewer.
        seed: The same seed and sizes give the same blocks; all heads share them.
        causal: No key after the query's own position i + Tk - Tq; random blocks are in the past.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (B, H, Tq, Dv) in the dtype of q; a query that sees no key gets zeros. Differentiable.

    Raises:
        TypeError: No tensors, a dtype without a kernel, or a knob that is no integer.
        ValueError: Shapes, dtypes or devices that do not fit, a knob that is too small.

    Memory:
        The output, (B, H, Tq) float32, the lists, and (B, H, block, Dv) float32 for each share of
        a global row.

    Paper:
        Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D (the blocks).
    """
    where = "bigbird.attention"
    check_tensors(where, q, k, v)
    knobs = block, window_blocks, random_blocks, global_blocks, seed, causal
    width = max(q.shape[3], v.shape[3])
    plan = _plan(where, q.shape[2], k.shape[2], width, q.element_size(), *knobs)
    return block_sparse.run(where, q, k, v, (plan,), scale)


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
    """Count what the kernels of `attention` do, with Dv = D: see `plan_cost`.

    Args:
        B: Batch.
        H: Heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        block: Tokens in a block.
        window_blocks: Radius in blocks.
        random_blocks: Blocks drawn for each block of queries.
        global_blocks: The first so many blocks, or a row of block numbers.
        seed: Of the random streams.
        causal: No key after the query's own position.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    knobs = block, window_blocks, random_blocks, global_blocks, seed, causal
    plan = _plan("bigbird.cost", Tq, Tk, D, dtype_bytes, *knobs)
    return plan_cost((plan,), B, H, D, dtype_bytes)


def _plan(where, n_queries, n_keys, width, dtype_bytes, block, *knobs) -> Plan:
    layout = patterns.bigbird(where, n_queries, n_keys, block, *knobs)
    BLOCK_Q, BLOCK_KV = layout_plan.tile_sizes(block, width, dtype_bytes)
    return layout_plan.layout_plan(n_queries, n_keys, layout, block, knobs[-1], BLOCK_Q, BLOCK_KV)
