"""Block-sparse attention in Triton: a program walks along its list of key tiles, and no others.

The lists are a `Plan`, made on the CPU. The same kernels serve every pattern that can be written
as one: see `bigbird`, `longformer` and `sparse_transformer`.
"""

from collections.abc import Callable

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.block_sparse_backward import gradients
from attncourse.kernels._parts.block_sparse_tiles import (
    launch_options,
    picture_rows,
    program_of,
    rows_to_store,
    tokens_of,
)
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.layout_plan import layout_plan, of_layout, tile_sizes
from attncourse.kernels._parts.plan import Plan
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_tensors,
    finite,
    hide,
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
    layout: np.ndarray,
    block: int,
    partial: np.ndarray | None = None,
    visible: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the blocks of keys that the layout lists.

    Each tile of queries has an int32 list of the key tiles that it sees whole, and one of those
    that it sees in part. Only the latter run mask code; a tile on no list is neither loaded nor
    multiplied. A list much longer than the others would keep one program busy while the rest of
    the GPU waits: it is shared out among several, whose results are joined by their softmax sums.

    Contract: `attncourse.kernels`; knobs: `reference.block_sparse.attention`.
    layout and partial are NumPy arrays here too, and `visible` is a NumPy function of queries i
    (..., rows, 1) and keys j (..., 1, keys), asked anew in each call. `block` is best a multiple of
    64: see `layout_plan.tile_sizes`.
    Gradients: along the same lists, and along their transpose.
    Memory: the output, (B, H, Tq) float32 and the lists; for a long list (B, H, tile, Dv) float32
        for each of its shares. Nothing of size Tq · Tk.
    Paper: full and partial blocks as in Dong et al. 2024, arXiv:2412.05496, section 3.
    """
    where = "block_sparse.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    Tq, Tk = q.shape[2], k.shape[2]
    block = patterns.check_grids(where, Tq, Tk, layout, block, partial, visible)
    BLOCK_Q, BLOCK_K = tile_sizes(block, max(q.shape[3], v.shape[3]), q.element_size())
    if visible is None:
        plan = layout_plan(Tq, Tk, layout, block, causal, BLOCK_Q, BLOCK_K)
    else:
        plan = of_layout(Tq, Tk, layout, block, causal, BLOCK_Q, BLOCK_K, partial, visible)
    return run(where, q, k, v, (plan,), scale)


def run(
    where: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plans: tuple[Plan, ...],
    scale: float | None,
) -> torch.Tensor:
    """Return attention over the pairs that the plans list; no pair may stand in two of them.

    Where one order of the queries does not suit all keys, there is a plan for each order. Their
    results are joined as those of shares are. q, k and v are checked, the scale is not.
    """
    scale = check_scale(where, scale, q.shape[-1])
    with torch.cuda.device_of(q):
        return _BlockSparseAttention.apply(q, k, v, plans, scale)


@triton.jit
def _block_sparse_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    items_ptr, entries_ptr, pictures_ptr, q_order_ptr, k_order_ptr,
    q_strides, k_strides, v_strides, out_strides, lse_strides, entries_strides,
    Tq, Tk, n_rows, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head, along their list of key tiles or a share of it.

    Lists are as long in all heads; what they name is the same where the strides of entries are 0.
    """
    row, first, first_cut, end, share = program_of(items_ptr)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    entries_ptr += batch * entries_strides[0] + head * entries_strides[1]

    queries = tokens_of(q_order_ptr, row, BLOCK_Q)
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    bounds = first, first_cut, end
    for stretch in tl.static_range(2):  # full tiles, cut tiles
        for place in range(bounds[stretch], bounds[stretch + 1]):
            entry_ptr = entries_ptr + 2 * place
            keys = tokens_of(k_order_ptr, tl.load(entry_ptr), BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores *= scale * LOG2E
            if stretch == 1:
                words = picture_rows(pictures_ptr, entry_ptr, BLOCK_Q)  # [BLOCK_Q]
                visible = (words[:, None] >> tl.arange(0, BLOCK_K)[None, :]) & 1
                scores, v = hide(scores, v, visible != 0)
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
    rows = rows_to_store(queries, share, BLOCK_Q)
    store_tile(out_ptr, acc, rows, v_cols, out_strides, n_rows, Dv)
    lse = running_max + tl.log2(running_sum)  # to base 2, as the scores; -inf without keys
    tl.store(lse_ptr + rows * lse_strides[2], lse, mask=rows < n_rows)


@triton.jit
def _block_sparse_join_kernel(
    shares_ptr, shares_lse_ptr, out_ptr, lse_ptr, splits_ptr, order_ptr,
    shares_strides, shares_lse_strides, out_strides, lse_strides,
    Tq, n_rows, step,
    Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries, whose shares are joined as the online softmax joins tiles.

    2^lse is the softmax sum of a share. The shares of a row stand `step` tiles apart.
    """
    split = splits_ptr + 3 * tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    shares_ptr += batch * shares_strides[0] + head * shares_strides[1]
    shares_lse_ptr += batch * shares_lse_strides[0] + head * shares_lse_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    queries = tokens_of(order_ptr, tl.load(split), BLOCK_Q)
    in_rows = queries < Tq
    cols = tl.arange(0, BLOCK_DV)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)
    for share in range(tl.load(split + 1), tl.load(split + 2), step):
        rows = tl.where(in_rows, share * BLOCK_Q + tl.arange(0, BLOCK_Q), n_rows)
        lse = tl.load(shares_lse_ptr + rows * shares_lse_strides[2], mask=in_rows, other=0.0)
        part = load_tile(shares_ptr, rows, cols, shares_strides, n_rows, Dv)
        new_max = tl.maximum(running_max, lse)
        pivot = finite(new_max)
        weight, rescale = tl.exp2(lse - pivot), tl.exp2(running_max - pivot)  # [BLOCK_Q]
        running_sum = running_sum * rescale + weight
        acc = acc * rescale[:, None] + part * weight[:, None]  # [BLOCK_Q, BLOCK_DV]
        running_max = new_max
    running_sum = nonzero(running_sum)
    acc /= running_sum[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, acc, queries, cols, out_strides, Tq, Dv)
    lse = running_max + tl.log2(running_sum)
    tl.store(lse_ptr + queries * lse_strides[2], lse, mask=in_rows)


class _BlockSparseAttention(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, q, k, v, plans, scale):
        B, H, Tq, _ = q.shape
        out = (q.new_empty if plans[0].has_all[0] else q.new_zeros)(B, H, Tq, v.shape[-1])
        lse = q.new_empty(B, H, Tq, dtype=torch.float32)
        if len(plans) == 1:
            _along(q, k, v, plans[0], scale, out, lse)
        else:  # each pass is a share of all rows
            BLOCK_Q = plans[0].BLOCK_Q
            n_tiles = triton.cdiv(Tq, BLOCK_Q)
            shares, shares_lse = _new_shares(out, len(plans) * n_tiles, BLOCK_Q)
            for number, plan in enumerate(plans):
                rows = slice(number * n_tiles * BLOCK_Q, number * n_tiles * BLOCK_Q + Tq)
                _along(q, k, v, plan, scale, shares[:, :, rows], shares_lse[:, :, rows])
            row = torch.arange(n_tiles, dtype=torch.int32, device=q.device)
            splits = torch.stack([row, row, torch.full_like(row, len(plans) * n_tiles)], dim=1)
            _join(shares, shares_lse, out, lse, splits, None, n_tiles, BLOCK_Q)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.knobs = plans, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        asked = ctx.needs_input_grad
        return *gradients(*ctx.saved_tensors, grad_out, *ctx.knobs, asked), None, None


def _along(q, k, v, plan: Plan, scale, out, lse) -> None:
    """Write attention along one plan into out and lse."""
    whole, shares, entries, splits, pictures, *orders = plan.on(q.device, "rows")
    lists, blocks = (entries, pictures, *orders), (plan.BLOCK_Q, plan.BLOCK_K)
    walk(q, k, v, whole, lists, blocks, scale, out, lse)
    if len(shares):
        parts = _new_shares(out, len(shares), plan.BLOCK_Q)
        walk(q, k, v, shares, lists, blocks, scale, *parts)
        _join(*parts, out, lse, splits, orders[0], 1, plan.BLOCK_Q)


def walk(q, k, v, items, lists, blocks, scale, out, lse) -> None:
    """Write attention along lists of key tiles into out and lse, one program an item and head.

    Args:
        q: (B, H, Tq, D), checked, as are k and v.
        k: (B, H, Tk, D).
        v: (B, H, Tk, Dv).
        items: int32 (n, 5), as of `Lists`.
        lists: Entries, pictures and both orders, as of `Lists` and `Plan`; entries may also be
            (B, H, n, 2), of each head its own.
        blocks: BLOCK_Q and BLOCK_K.
        scale: Factor of the scores.
        out: (B, H, rows, Dv), rows being queries, or those of shares.
        lse: (B, H, rows) float32.
    """
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    of_heads = lists[0].stride()[:2] if lists[0].ndim == 4 else (0, 0)
    options = launch_options(max(D, Dv), q.element_size())
    _block_sparse_fwd_kernel[(len(items), H, B)](
        q, k, v, out, lse, items, *lists,
        q.stride(), k.stride(), v.stride(), out.stride(), lse.stride(), of_heads,
        Tq, Tk, out.shape[2], scale, D, Dv, padded(D), padded(Dv), *blocks, **options,
    )  # fmt: skip


def _new_shares(out, n_shares: int, BLOCK_Q: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for so many shares of a row of tiles, and for their lse."""
    B, H, _, Dv = out.shape
    shares = out.new_empty(B, H, n_shares * BLOCK_Q, Dv, dtype=torch.float32)
    return shares, shares.new_empty(shares.shape[:3])


def _join(shares, shares_lse, out, lse, splits, order, step: int, BLOCK_Q: int) -> None:
    """Write the rows that were shared out into out and lse."""
    B, H, Tq, Dv = out.shape
    _block_sparse_join_kernel[(len(splits), H, B)](
        shares, shares_lse, out, lse, splits, order,
        shares.stride(), shares_lse.stride(), out.stride(), lse.stride(),
        Tq, shares.shape[2], step, Dv, padded(Dv), BLOCK_Q,
    )  # fmt: skip


@int_sizes
def layout_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    layout: np.ndarray,
    block: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do at this layout: see `plan_cost`.

    Causal drops the tiles of the future and masks those on the diagonal.
    """
    block = patterns.check_grids("block_sparse.layout_cost", Tq, Tk, layout, block)
    causal = check_flag("block_sparse.layout_cost", "causal", causal)
    BLOCK_Q, BLOCK_K = tile_sizes(block, D, dtype_bytes)
    plan = layout_plan(Tq, Tk, layout, block, causal, BLOCK_Q, BLOCK_K)
    return planning.plan_cost((plan,), B, H, D, dtype_bytes)


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
    window_blocks: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what a band of blocks takes, which the catalogue's sliders set: see `plan_cost`."""
    block = check_count("block_sparse.cost", "block", block, least=1)
    window_blocks = check_count("block_sparse.cost", "window_blocks", window_blocks)
    causal = check_flag("block_sparse.cost", "causal", causal)
    layout = patterns.band(Tq, Tk, block=block, window_blocks=window_blocks)
    sizes = {"block": block, "causal": causal, "dtype_bytes": dtype_bytes}
    return layout_cost(B, H, Tq, Tk, D, layout=layout, **sizes)
