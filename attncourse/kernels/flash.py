"""FlashAttention in Triton: softmax attention itself, tile by tile, forward and backward.

The names and their order are those of `attncourse.reference.flash`. What its `_query_tile` does is
what one program does here: there a tile is a small array, here it lies on chip.
"""

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_tensors,
    finite,
    hide,
    is_hopper,
    key_tiles,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    row_delta,
    store_tile,
    visible_keys,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v with one tile of scores at a time.

    Each query keeps the largest score so far, the sum of exp(score - largest) and the values summed
    with these weights. A tile with a larger score rescales what is kept. So no row of scores is
    ever whole, and the (Tq, Tk) matrix is never made. Causal tiles above the diagonal are skipped.

    Contract: `attncourse.kernels`; knobs: `reference.flash.attention`.
    block_q and block_k are rounded to powers of two that fit on chip: see `tile_sizes`.
    Gradients: from scores that are computed again, with one number that is kept per query.
    Memory: the output and (B, H, Tq) float32.
    """
    where = "flash.attention"
    check_tensors(where, q, k, v)
    block_q = check_count(where, "block_q", block_q, least=1)
    block_k = check_count(where, "block_k", block_k, least=1)
    causal = check_flag(where, "causal", causal)
    scale = check_scale(where, scale, q.shape[-1])
    return attend(q, k, v, block_q, block_k, causal, scale)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    block_q: int,
    block_k: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """Return `attention` of tensors that are checked; k and v may have G heads, a divisor of H.

    Query head h reads key/value head h // (H / G), in the gradients too: see `grouped.attention`.
    """
    with torch.cuda.device_of(q):
        return _FlashAttention.apply(q, k, v, block_q, block_k, causal, scale)


def tile_sizes(
    block_q: int, block_k: int, width: int, dtype_bytes: int, *, backward: bool = False
) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK_Q and BLOCK_K, queries and keys of the kernels' tile, and launch options.

    A kernel is compiled for its tile, whose sides must be powers of two and at least 16. So the
    knobs, which others call BLOCK_M and BLOCK_N, are rounded up to such sizes, and cut to what fits
    on chip: see `tiling`. The backward pass keeps two sums there instead of one, and four operands
    instead of three; from 65 to 128 wide it takes twice the queries on a Hopper, where that was
    measured to be faster, though a few registers spill.
    """
    if dtype_bytes == 4:  # exact float32 has no tensor cores: operands sit in registers
        most = (32, 32, 8, 2) if width <= 64 else (16, 16, 8, 1)
    elif width <= 64:
        most = (64, 64, 4, 3) if backward else (128, 64, 4, 3)
    elif width <= 128:
        most = (64 if is_hopper() else 32, 64, 4, 2) if backward else (64, 64, 4, 3)
    else:
        most = (64, 16, 8, 2) if backward else (64, 16, 4, 2)
    most_q, most_k, num_warps, num_stages = most
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return min(padded(block_q), most_q), min(padded(block_k), most_k), options


@triton.jit
def _query_tiles(start, Tq, Tk, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr):
    """The first query tile that sees any of the keys start ..., and the first that sees all."""
    first_tile, first_whole = 0, 0
    if CAUSAL:
        first_tile = max(start - (Tk - Tq), 0) // BLOCK_Q
        first_whole = (max(start + BLOCK_K - 1 - (Tk - Tq), 0) + BLOCK_Q - 1) // BLOCK_Q
        first_whole = min(first_whole, (Tq + BLOCK_Q - 1) // BLOCK_Q)
    return first_tile, first_whole


@triton.jit
def _longest_first(Tq, BLOCK_Q: tl.constexpr, CAUSAL: tl.constexpr):
    """The number of this program's query tile: causal, the last see most keys, so they begin."""
    row = tl.program_id(0)
    return (Tq - 1) // BLOCK_Q - row if CAUSAL else row


@triton.jit
def _flash_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    q_strides, k_strides, v_strides, out_strides, lse_strides,
    Tq, Tk, shared, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head; `shared` heads read the same keys and values."""
    start = _longest_first(Tq, BLOCK_Q, CAUSAL) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head // shared * k_strides[1]
    v_ptr += batch * v_strides[0] + head // shared * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    n_whole, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    bounds = 0, n_whole, n_tiles
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores *= scale * LOG2E
            if stretch == 1:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores, v = hide(scores, v, visible)
            new_max = tl.maximum(running_max, tl.max(scores, 1))  # [BLOCK_Q]
            pivot = finite(new_max)
            weights = tl.exp2(scores - pivot[:, None])  # [BLOCK_Q, BLOCK_K]
            rescale = tl.exp2(running_max - pivot)  # [BLOCK_Q]
            running_sum = running_sum * rescale + tl.sum(weights, 1)  # [BLOCK_Q]
            acc *= rescale[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [BLOCK_Q, BLOCK_DV]
            running_max = new_max

    running_sum = nonzero(running_sum)
    acc /= running_sum[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, acc, queries, v_cols, out_strides, Tq, Dv)
    lse = finite(running_max) + tl.log2(running_sum)  # to base 2, as the scores
    tl.store(lse_ptr + queries * lse_strides[2], lse, mask=queries < Tq)


@triton.jit(do_not_specialize=["shared"])  # one version, whose registers suffice, for all groupings
def _flash_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dk_strides, dv_strides,
    Tq, Tk, shared, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv of BLOCK_K keys, over the query tiles that see them.

    The heads that share these keys come one after the other, so their gradients add up in
    registers: no atomics. Scores are recomputed transposed, keys down and queries across, so that
    no product has to be turned round in registers before it enters the next one. Rows beyond the
    end are zeros of q and grad_out, and add nothing.
    """
    start = tl.program_id(0) * BLOCK_K
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + group * shared * q_strides[1]
    k_ptr += batch * k_strides[0] + group * k_strides[1]
    v_ptr += batch * v_strides[0] + group * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + group * shared * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + group * shared * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + group * shared * lse_strides[1]
    dk_ptr += batch * dk_strides[0] + group * dk_strides[1]
    dv_ptr += batch * dv_strides[0] + group * dv_strides[1]

    keys = start + tl.arange(0, BLOCK_K)
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
    v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_DV], tl.float32)

    first_tile, first_whole = _query_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    bounds = first_tile, first_whole, tl.cdiv(Tq, BLOCK_Q)
    for stretch in tl.static_range(2):  # on the diagonal, below it
        n_tiles = bounds[stretch + 1] - bounds[stretch]
        for step in range(0, shared * n_tiles):  # one loop, head after head: two would spill
            head = (step // n_tiles).to(tl.int64)
            queries = (bounds[stretch] + step % n_tiles) * BLOCK_Q + tl.arange(0, BLOCK_Q)
            in_rows = queries < Tq
            q_here = q_ptr + head * q_strides[1]
            q = load_tile(q_here, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
            grad_out_here = grad_out_ptr + head * grad_out_strides[1]
            grad_out = load_tile(grad_out_here, queries, v_cols, grad_out_strides, Tq, Dv)
            row = head * lse_strides[1] + queries * lse_strides[2]
            lse = tl.load(lse_ptr + row, mask=in_rows, other=0.0)  # [BLOCK_Q]
            delta = tl.load(delta_ptr + row, mask=in_rows, other=0.0)  # [BLOCK_Q]
            scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
            scores = scores * (scale * LOG2E) - lse[None, :]
            if stretch == 0:
                positions = queries + (Tk - Tq)
                visible = visible_keys(positions[None, :], keys[:, None], Tk, CAUSAL)
                scores = tl.where(visible, scores, float("-inf"))
            weights = tl.exp2(scores)  # [BLOCK_K, BLOCK_Q]
            dv = tl.dot(weights.to(grad_out.dtype), grad_out, dv, input_precision="ieee")
            dweights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
            dscores = weights * (dweights - delta[None, :])  # [BLOCK_K, BLOCK_Q]
            dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")  # [BLOCK_K, BLOCK_D]
    store_tile(dk_ptr, dk * scale, keys, cols, dk_strides, Tk, D)
    store_tile(dv_ptr, dv, keys, v_cols, dv_strides, Tk, Dv)


@triton.jit
def _flash_dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dq_strides,
    Tq, Tk, shared, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dq of BLOCK_Q queries, over the key tiles that they see."""
    start = _longest_first(Tq, BLOCK_Q, CAUSAL) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head // shared * k_strides[1]
    v_ptr += batch * v_strides[0] + head // shared * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + head * lse_strides[1]
    dq_ptr += batch * dq_strides[0] + head * dq_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)
    in_rows = queries < Tq
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
    lse = tl.load(lse_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    delta = tl.load(delta_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    n_whole, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    bounds = 0, n_whole, n_tiles
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores = scores * (scale * LOG2E) - lse[:, None]
            if stretch == 1:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores = tl.where(visible, scores, float("-inf"))
            weights = tl.exp2(scores)  # [BLOCK_Q, BLOCK_K]
            dweights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            dscores = weights * (dweights - delta[:, None])  # [BLOCK_Q, BLOCK_K]
            dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")  # [BLOCK_Q, BLOCK_D]
    store_tile(dq_ptr, dq * scale, queries, cols, dq_strides, Tq, D)


class _FlashAttention(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, q, k, v, block_q, block_k, causal, scale):
        B, H, Tq, D = q.shape
        G, Tk, Dv = v.shape[1:]
        shared = H // max(1, G)
        BLOCK_Q, BLOCK_K, options = tile_sizes(block_q, block_k, max(D, Dv), q.element_size())
        out = q.new_empty(B, H, Tq, Dv)
        lse = q.new_empty(B, H, Tq, dtype=torch.float32)
        _flash_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, out, lse,
            q.stride(), k.stride(), v.stride(), out.stride(), lse.stride(),
            Tq, Tk, shared, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.knobs = block_q, block_k, causal, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, lse = ctx.saved_tensors
        block_q, block_k, causal, scale = ctx.knobs
        B, H, Tq, D = q.shape
        G, Tk, Dv = v.shape[1:]
        BLOCK_Q, BLOCK_K, options = tile_sizes(
            block_q, block_k, max(D, Dv), q.element_size(), backward=True
        )
        inputs = q, k, v, grad_out, lse, row_delta(out, grad_out)
        strides = [tensor.stride() for tensor in inputs[:5]]
        widths = D, Dv, padded(D), padded(Dv)
        sizes = Tq, Tk, H // max(1, G), scale, *widths, BLOCK_Q, BLOCK_K, causal
        dq = dk = dv = None
        if any(ctx.needs_input_grad[1:3]):
            dk, dv = torch.empty_like(k), torch.empty_like(v)
            _flash_dkdv_kernel[(triton.cdiv(Tk, BLOCK_K), G, B)](
                *inputs, dk, dv, *strides, dk.stride(), dv.stride(), *sizes, **options
            )
        if ctx.needs_input_grad[0]:
            dq = torch.empty_like(q)
            _flash_dq_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
                *inputs, dq, *strides, dq.stride(), *sizes, **options
            )
        return dq, dk, dv, None, None, None, None


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    The tile is that of `tile_sizes`.
    """
    block_q = check_count("flash.cost", "block_q", block_q, least=1)
    block_k = check_count("flash.cost", "block_k", block_k, least=1)
    causal = check_flag("flash.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, _ = tile_sizes(block_q, block_k, D, dtype_bytes)
    tiles = loaded = 0
    for start in range(0, Tq, BLOCK_Q):
        _, n_tiles = key_tiles.fn(start, Tq, Tk, BLOCK_Q, BLOCK_K, causal)
        tiles += n_tiles
        loaded += min(n_tiles * BLOCK_K, Tk)
    out = B * H * Tq * D * dtype_bytes
    lse = B * H * Tq * 4
    return Cost(
        flops=4 * B * H * tiles * BLOCK_Q * BLOCK_K * padded(D),
        bytes_read=B * H * (Tq + 2 * loaded) * D * dtype_bytes,
        bytes_written=out + lse,
        peak_bytes=out + lse,
    )
