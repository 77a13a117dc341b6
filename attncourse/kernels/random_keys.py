"""Random attention in Triton: each query gathers its own keys, one after the other.

The keys of neighbouring queries have nothing to do with each other. The 64 queries of a tile draw
2048 keys, at 32 each: of the 256 blocks of 16384 tokens nearly every one holds some of them, and a
list of blocks would leave out nothing. Whole random blocks are what `bigbird` draws instead.
"""

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_no_grad,
    check_tensors,
    finite,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    n_random: int,
    seed: int = 0,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over each query's own key and `n_random` others.

    The keys are those of `reference.random_keys.draw`, drawn once for each shape and kept. Every
    query loads rows of k and v of its own, which no other query of its tile can use. So this takes
    as long as reading (1 + n_random) · D numbers of k and of v for each query, mostly from cache.

    Contract: `attncourse.kernels`; knobs: `reference.random_keys.attention`.
    Gradients: none.
    Memory: the output and the drawn keys, int32 (Tq, 1 + n_random).
    """
    where = "random_keys.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    scale = check_scale(where, scale, q.shape[-1])
    check_no_grad(where, q, k, v)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    n_random = check_count(where, "n_random", n_random)
    seed = check_count(where, "seed", seed)
    drawn = torch.from_numpy(_drawn(where, Tq, Tk, n_random, seed, causal)).to(q.device)
    BLOCK_Q = queries_of_tile(max(D, Dv))
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        _random_keys_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, drawn, out,
            q.stride(), k.stride(), v.stride(), drawn.stride(), out.stride(),
            Tq, Tk, drawn.shape[1], scale, D, Dv, padded(D), padded(Dv), BLOCK_Q,
        )  # fmt: skip
    return out


def queries_of_tile(width: int) -> int:
    """Return BLOCK_Q: as many rows of this width as four warps hold of q, k, v and the output."""
    return max(16, 2048 // padded(width))


@functools.lru_cache(maxsize=8)
def _drawn(where, n_queries, n_keys, n_random, seed, causal) -> np.ndarray:
    drawn = patterns.random_keys(where, n_queries, n_keys, n_random, seed, causal)
    return drawn.astype(np.int32)


@triton.jit
def see_key(q, keys, acc, running_max, running_sum, k_ptr, v_ptr,
            k_strides, v_strides, Tk,
            D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax, in which each query sees one key of its own, or none."""
    exists = (keys >= 0) & (keys < Tk)
    rows = tl.where(exists, keys, Tk)  # beyond the end nothing is loaded
    k = load_tile(k_ptr, rows, tl.arange(0, BLOCK_D), k_strides, Tk, D)
    scores = tl.where(exists, tl.sum(q * k.to(tl.float32), 1), float("-inf"))  # [BLOCK_Q]
    new_max = tl.maximum(running_max, scores)
    pivot = finite(new_max)
    weights, rescale = tl.exp2(scores - pivot), tl.exp2(running_max - pivot)  # [BLOCK_Q]
    v = load_tile(v_ptr, rows, tl.arange(0, BLOCK_DV), v_strides, Tk, Dv)
    acc = acc * rescale[:, None] + v.to(tl.float32) * weights[:, None]  # [BLOCK_Q, BLOCK_DV]
    return acc, new_max, running_sum * rescale + weights


@triton.jit
def _random_keys_fwd_kernel(
    q_ptr, k_ptr, v_ptr, drawn_ptr, out_ptr,
    q_strides, k_strides, v_strides, drawn_strides, out_strides,
    Tq, Tk, n_drawn, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head, each with the next key on its list at a time."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    in_rows = queries < Tq
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    q = q.to(tl.float32) * (scale * LOG2E)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)
    list_ptr = drawn_ptr + queries.to(tl.int64) * drawn_strides[0]
    for number in range(n_drawn):
        keys = tl.load(list_ptr + number * drawn_strides[1], mask=in_rows, other=-1)  # [BLOCK_Q]
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
    n_random: int,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    No tiles are multiplied: the keys that there are count, fewer for the first causal queries, and
    a row of k and v is read each time. `seed` changes nothing but which keys are drawn.
    """
    where = "random_keys.cost"
    n_random = check_count(where, "n_random", n_random)
    seed = check_count(where, "seed", seed)
    causal = check_flag(where, "causal", causal)
    drawn = _drawn(where, Tq, Tk, n_random, seed, causal)
    pairs = B * H * int((drawn >= 0).sum())
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * pairs * D,
        bytes_read=(B * H * Tq + 2 * pairs) * D * dtype_bytes + B * H * drawn.size * 4,
        bytes_written=out,
        peak_bytes=out + drawn.size * 4,
    )
