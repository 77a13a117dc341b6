"""Attention at chosen distances in Triton: exponential, prime and hierarchical strides."""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions.patterns import offset_steps
from attncourse.inputs import check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_no_grad,
    check_tensors,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
)
from attncourse.kernels.random_keys import queries_of_tile, see_key


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    offsets: Sequence[int],
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the keys at the given distances from each query.

    Neighbouring queries see neighbouring keys at each distance: a step of the loop moves one tile
    of k and of v, row by row under the queries. `reference.offsets` makes the distances.

    Contract: `attncourse.kernels`; knobs: `reference.offsets.attention`.
    Gradients: none.
    Memory: the output.
    """
    where = "offsets.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    check_no_grad(where, q, k, v)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    steps = torch.from_numpy(_steps(where, offsets, causal, Tq, Tk)).to(q.device)
    scale = check_scale(where, scale, D)
    BLOCK_Q = queries_of_tile(max(D, Dv))
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        _offsets_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, steps, out,
            q.stride(), k.stride(), v.stride(), out.stride(),
            Tq, Tk, len(steps), scale, D, Dv, padded(D), padded(Dv), BLOCK_Q,
        )  # fmt: skip
    return out


def _steps(where, offsets, causal, n_queries, n_keys) -> np.ndarray:
    """Return j - i for every key that any query may have, as int32."""
    steps = offset_steps(where, offsets, causal)
    return steps[np.abs(steps) <= n_queries + n_keys].astype(np.int32)


@triton.jit
def _offsets_fwd_kernel(
    q_ptr, k_ptr, v_ptr, steps_ptr, out_ptr,
    q_strides, k_strides, v_strides, out_strides,
    Tq, Tk, n_steps, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head, all of which go to the next distance together."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    q = q.to(tl.float32) * (scale * LOG2E)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)
    for number in range(n_steps):
        keys = tl.where(queries < Tq, positions + tl.load(steps_ptr + number), -1)  # [BLOCK_Q]
        acc, running_max, running_sum = see_key(
            q, keys, acc, running_max, running_sum, k_ptr, v_ptr,
            k_strides, v_strides, Tk, D, Dv, BLOCK_D, BLOCK_DV,
        )  # fmt: skip
    acc /= nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, acc, queries, v_cols, out_strides, Tq, Dv)


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    offsets: Sequence[int],
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    No tiles are multiplied: pairs count, and those beyond the ends are not loaded.
    """
    steps = _steps("offsets.cost", offsets, causal, Tq, Tk).astype(int)
    first = Tk - Tq + steps  # the key that the first query sees at each distance
    seen = np.maximum(np.minimum(first + Tq, Tk) - np.maximum(first, 0), 0)
    pairs, out = B * H * int(seen.sum()), B * H * Tq * D * dtype_bytes
    programs = B * H * triton.cdiv(Tq, queries_of_tile(D))
    return Cost(
        flops=4 * pairs * D,
        bytes_read=(B * H * Tq + 2 * pairs) * D * dtype_bytes + programs * len(steps) * 4,
        bytes_written=out,
        peak_bytes=out + len(steps) * 4,
    )
