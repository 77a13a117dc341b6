"""Standard attention in three launches, each pass through memory as it is written in formulas."""

import math

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    check_no_grad,
    check_tensors,
    finite,
    load_tile,
    nonzero,
    numbers_of,
    padded,
    pass_infinity,
    room_for,
    store_tile,
    tiling,
)

MAX_KEYS = 2**20  # the most numbers of a tile in Triton
HIDDEN = tl.constexpr(float("inf"))  # the score of a key that a query may not see


@in_grids(mask=(-4, -3), bias=(-4, -3))
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale + bias) v.

    Three kernels: scores, softmax in place, product with v. Everything is stored in between: this
    is the baseline whose memory the other mechanisms avoid. A causal mask skips nothing. Mask and
    bias are read as they lie, broadcast by strides of 0.

    Contract: `attncourse.kernels`; knobs: `reference.full.attention`.
    At most 2²⁰ keys: the softmax of a row is one tile.
    Gradients: none.
    Memory: one (B, H, Tq, Tk) float32 tensor and the output.
    """
    where = "full.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    if Tk > MAX_KEYS:
        raise ValueError(
            f"{where}: k must have at most {MAX_KEYS} keys, for a row of scores is one tile, "
            f"got {Tk}; flash.attention has no such limit"
        )
    mask, bias = (
        _broadcast(where, *named, q, (B, H, Tq, Tk)) for named in (("mask", mask), ("bias", bias))
    )
    check_no_grad(where, q, k, v, bias)
    mask_strides, bias_strides = (
        (0, 0, 0, 0) if tensor is None else tensor.stride() for tensor in (mask, bias)
    )
    scale = check_scale(where, scale, D)
    BLOCK_Q, BLOCK_K, options = tiling(max(D, Dv), q.element_size())
    grid = (triton.cdiv(Tq, BLOCK_Q), H, B)
    n_bytes = 4 * B * H * Tq * Tk
    with room_for(where, "scores", n_bytes, lambda free: _fitting(free, B * H), q.device):
        scores = q.new_empty(B, H, Tq, Tk, dtype=torch.float32)
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        _full_scores_kernel[grid](
            q, k, mask, bias, scores,
            q.stride(), k.stride(), mask_strides, bias_strides, scores.stride(),
            Tq, Tk, scale, D, padded(D), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
        _full_softmax_kernel[(Tq, H, B)](
            scores, scores.stride(), Tk, triton.next_power_of_2(max(1, Tk))
        )
        _full_product_kernel[grid](
            scores, v, out,
            scores.stride(), v.stride(), out.stride(),
            Tq, Tk, Dv, padded(Dv), BLOCK_Q, BLOCK_K, causal or mask is not None, **options,
        )  # fmt: skip
    return out


def _fitting(free: int, heads: int) -> str:
    return f"n = {math.isqrt(free // (4 * max(1, heads)))}; flash.attention, which holds none,"


@triton.jit
def _full_scores_kernel(
    q_ptr, k_ptr, mask_ptr, bias_ptr, scores_ptr,
    q_strides, k_strides, mask_strides, bias_strides, scores_strides,
    Tq, Tk, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: the scores of BLOCK_Q queries with all keys.

    One that is infinite makes its row NaN, and -inf is a score of its own: hidden ones are HIDDEN.
    """
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    scores_ptr += batch * scores_strides[0] + head * scores_strides[1]
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    cols = tl.arange(0, BLOCK_D)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    for tile in range(0, tl.cdiv(Tk, BLOCK_K)):
        keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK_Q, BLOCK_K]
        if bias_ptr is not None:
            here = bias_ptr + batch * bias_strides[0] + head * bias_strides[1]
            scores += load_tile(here, queries, keys, bias_strides, Tq, Tk).to(tl.float32)
        scores = tl.where(scores == HIDDEN, float("nan"), scores)
        if mask_ptr is not None:
            here = mask_ptr + batch * mask_strides[0] + head * mask_strides[1]
            visible = load_tile(here, queries, keys, mask_strides, Tq, Tk)
            scores = tl.where(visible != 0, scores, HIDDEN)
        if CAUSAL:  # the future is computed too, then thrown away
            past = keys[None, :] <= queries[:, None] + (Tk - Tq)  # [BLOCK_Q, BLOCK_K]
            scores = tl.where(past, scores, HIDDEN)
        store_tile(scores_ptr, scores, queries, keys, scores_strides, Tq, Tk)


@triton.jit
def _full_softmax_kernel(
    scores_ptr,
    scores_strides,
    Tk,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: one row of scores becomes one row of weights, in place."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    scores_ptr += batch * scores_strides[0] + head * scores_strides[1] + row * scores_strides[2]
    keys = tl.arange(0, BLOCK_K)
    in_cols = keys < Tk
    scores = tl.load(scores_ptr + keys * scores_strides[3], mask=in_cols, other=HIDDEN)
    hidden = scores == HIDDEN
    scores = tl.where(hidden, float("-inf"), scores)
    weights = tl.exp(scores - finite(tl.max(scores, 0)))  # [BLOCK_K]
    weights /= nonzero(tl.sum(weights, 0))
    weights = tl.where(hidden, -1.0, weights)  # a visible key may have the weight 0, too
    tl.store(scores_ptr + keys * scores_strides[3], weights, mask=in_cols)


@triton.jit
def _full_product_kernel(
    weights_ptr, v_ptr, out_ptr,
    weights_strides, v_strides, out_strides,
    Tq, Tk,
    Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HIDES: tl.constexpr,
):  # fmt: skip
    """One program: the output of BLOCK_Q queries."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    weights_ptr += batch * weights_strides[0] + head * weights_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    cols = tl.arange(0, BLOCK_DV)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    for tile in range(0, tl.cdiv(Tk, BLOCK_K)):
        keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        weights = load_tile(weights_ptr, queries, keys, weights_strides, Tq, Tk)
        v = load_tile(v_ptr, keys, cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
        if HIDES:
            spoilt, v = numbers_of(v)
            weights = tl.where(weights < 0.0, 0.0, weights + spoilt[None, :])
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, acc, queries, cols, out_strides, Tq, Dv)


def _broadcast(where, name, tensor, q, shape) -> torch.Tensor | None:
    """Return mask or bias as a view of the scores' shape; nothing is copied."""
    if tensor is None:
        return None
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{where}: {name} must be a torch tensor, got {type(tensor).__name__}")
    if name == "mask" and tensor.dtype != torch.bool:
        raise TypeError(f"{where}: mask must be boolean, got {tensor.dtype}")
    if tensor.device != q.device:
        raise ValueError(f"{where}: {name} must be on {q.device}, as q, got {tensor.device}")
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{where}: {name} must broadcast to {shape}, got {tuple(tensor.shape)}"
        ) from None


@int_sizes
@counted_in_grids()
def cost(
    B: int, H: int, Tq: int, Tk: int, D: int, *, causal: bool = False, dtype_bytes: int = 4
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    There is neither mask nor bias, and causal changes nothing: the future is computed, then masked.
    """
    _ = check_flag("full.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, _ = tiling(D, dtype_bytes)
    q_tiles, kv_tiles = triton.cdiv(Tq, BLOCK_Q), triton.cdiv(Tk, BLOCK_K)
    score_bytes = B * H * Tq * Tk * 4
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=4 * B * H * q_tiles * kv_tiles * BLOCK_Q * BLOCK_K * padded(D),
        bytes_read=B * H * (Tq + 2 * q_tiles * Tk) * D * dtype_bytes + 2 * score_bytes,
        bytes_written=2 * score_bytes + out,
        peak_bytes=score_bytes + out,
    )
