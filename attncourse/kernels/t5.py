"""T5's relative position bias in Triton: flash's tiles, with a number for each distance."""

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions.buckets import check_table, rows_by_distance
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_beside,
    check_no_grad,
    check_tensors,
    hide,
    join_tile,
    key_tiles,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
    tiling,
    visible_keys,
)
from attncourse.kernels.relative import clip, stretches


@in_grids(table=(None, -1))
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    table: torch.Tensor,
    max_distance: int = 128,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale + bias) v, where bias[h, i, j] = table[bucket(j - i), h].

    The bias of each distance is put in a row once, 2·max_distance + 1 numbers a head. A tile near
    the diagonal takes from it what its pairs need; in a tile further away than max_distance all
    pairs have the same. The bias is never an array of pairs.

    Contract: `attncourse.kernels`; knobs: `reference.t5.attention`.
    Gradients: none.
    Memory: the output, and (H, 2·max_distance + 1) float32; nothing for each pair.
    """
    where = "t5.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    check_beside(where, q, table=table)
    max_distance = check_table(where, table, H, max_distance, causal)
    check_no_grad(where, q, k, v, table)
    scale = check_scale(where, scale, D)
    BLOCK_Q, BLOCK_K, options = _tiling(max(D, Dv), q.element_size())
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        rows = torch.from_numpy(_rows(len(table), max_distance, causal)).to(q.device)
        biases = (table.float() * LOG2E.value).T[:, rows].expand(H, -1)  # to base 2, as the scores
        _t5_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, biases, out,
            q.stride(), k.stride(), v.stride(), biases.stride(), out.stride(),
            Tq, Tk, max_distance, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
    return out


def _tiling(width: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return the tile and the options of the launch: those of `tiling`, in float32 more threads.

    Where each pair reads its bias takes registers beside the scores; so nothing spills.
    """
    BLOCK_Q, BLOCK_K, options = tiling(width, dtype_bytes)
    return BLOCK_Q, BLOCK_K, options | ({"num_warps": 8} if dtype_bytes == 4 else {})


@functools.lru_cache(maxsize=8)
def _rows(n_buckets: int, max_distance: int, causal: bool) -> np.ndarray:
    """Return the row of the table for each distance from -max_distance to max_distance."""
    return rows_by_distance(n_buckets, max_distance, causal)


@triton.jit
def _t5_fwd_kernel(
    q_ptr, k_ptr, v_ptr, biases_ptr, out_ptr,
    q_strides, k_strides, v_strides, biases_strides, out_strides,
    Tq, Tk, max_distance, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head."""
    start = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    biases_ptr += head * biases_strides[0]
    out_ptr += batch * out_strides[0] + head * out_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    before = tl.load(biases_ptr)  # of all keys max_distance or more before their query
    past = tl.load(biases_ptr + 2 * max_distance * biases_strides[1])
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    _, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    first_near, first_past = stretches(n_tiles, start, Tq, Tk, max_distance, BLOCK_Q, BLOCK_K)
    bounds = 0, first_near, first_past, n_tiles
    for stretch in tl.static_range(3):  # far before the queries, near, far past them
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores *= scale * LOG2E
            if stretch == 0:
                scores += before
            elif stretch == 2:
                scores += past
            else:
                distances = keys[None, :] - positions[:, None]  # [BLOCK_Q, BLOCK_K]
                rows = clip(distances, -max_distance, max_distance) + max_distance
                scores += tl.load(biases_ptr + rows * biases_strides[1])
            if stretch > 0:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores, v = hide(scores, v, visible)
            acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

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
    max_distance: int = 128,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    Near tiles read a bias for each pair. What the few numbers of the table cost before the kernel
    starts is left out.
    """
    max_distance = check_count("t5.cost", "max_distance", max_distance, least=1)
    causal = check_flag("t5.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, _ = _tiling(D, dtype_bytes)
    tiles = near = loaded = programs = 0
    for start in range(0, Tq, BLOCK_Q):
        _, n_tiles = key_tiles.fn(start, Tq, Tk, BLOCK_Q, BLOCK_K, causal)
        first_near, first_past = stretches.fn(
            n_tiles, start, Tq, Tk, max_distance, BLOCK_Q, BLOCK_K
        )
        tiles += n_tiles
        near += first_past - first_near
        loaded += min(n_tiles * BLOCK_K, Tk)
        programs += 1
    out = B * H * Tq * D * dtype_bytes
    biases = near * BLOCK_Q * BLOCK_K + 2 * programs
    return Cost(
        flops=4 * B * H * tiles * BLOCK_Q * BLOCK_K * padded(D),
        bytes_read=B * H * ((Tq + 2 * loaded) * D * dtype_bytes + 4 * biases),
        bytes_written=out,
        peak_bytes=out + H * (2 * max_distance + 1) * 4,
    )
