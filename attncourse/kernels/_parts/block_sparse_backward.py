"""The gradients of block-sparse attention: dq along the lists, dk and dv along their transpose."""

import torch
import triton
import triton.language as tl

from attncourse.kernels._parts.block_sparse_tiles import (
    launch_options,
    picture_rows,
    program_of,
    rows_to_store,
    tokens_of,
)
from attncourse.kernels._parts.plan import Plan
from attncourse.kernels._parts.tiles import LOG2E, load_tile, padded, row_delta, store_tile


@triton.jit
def _block_sparse_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    items_ptr, entries_ptr, pictures_ptr, q_order_ptr, k_order_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dk_strides, dv_strides,
    Tq, Tk, n_rows, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv of BLOCK_K keys, along their list of query tiles or a share of it.

    Scores are recomputed transposed, as in `flash`. Rows without a query are zeros of q and
    grad_out, and add nothing.
    """
    column, first, first_cut, end, share = program_of(items_ptr)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + head * lse_strides[1]
    dk_ptr += batch * dk_strides[0] + head * dk_strides[1]
    dv_ptr += batch * dv_strides[0] + head * dv_strides[1]

    keys = tokens_of(k_order_ptr, column, BLOCK_K)
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
    v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_DV], tl.float32)

    bounds = first, first_cut, end
    for stretch in tl.static_range(2):  # full tiles, cut tiles
        for place in range(bounds[stretch], bounds[stretch + 1]):
            entry_ptr = entries_ptr + 2 * place
            queries = tokens_of(q_order_ptr, tl.load(entry_ptr), BLOCK_Q)
            in_rows = queries < Tq
            q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
            grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
            lse = tl.load(lse_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
            delta = tl.load(delta_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)
            scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
            scores = scores * (scale * LOG2E) - lse[None, :]
            if stretch == 1:
                words = picture_rows(pictures_ptr, entry_ptr, BLOCK_Q)  # [BLOCK_Q]
                visible = (words[None, :] >> tl.arange(0, BLOCK_K)[:, None]) & 1
                scores = tl.where(visible != 0, scores, float("-inf"))
            weights = tl.exp2(scores)  # [BLOCK_K, BLOCK_Q]
            dv = tl.dot(weights.to(grad_out.dtype), grad_out, dv, input_precision="ieee")
            dweights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
            dscores = weights * (dweights - delta[None, :])  # [BLOCK_K, BLOCK_Q]
            dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")  # [BLOCK_K, BLOCK_D]
    rows = rows_to_store(keys, share, BLOCK_K)
    store_tile(dk_ptr, dk * scale, rows, cols, dk_strides, n_rows, D)
    store_tile(dv_ptr, dv, rows, v_cols, dv_strides, n_rows, Dv)


@triton.jit
def _block_sparse_dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dq_ptr,
    items_ptr, entries_ptr, pictures_ptr, q_order_ptr, k_order_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dq_strides,
    Tq, Tk, n_rows, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: dq of BLOCK_Q queries, along their list of key tiles or a share of it."""
    row, first, first_cut, end, share = program_of(items_ptr)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + head * lse_strides[1]
    dq_ptr += batch * dq_strides[0] + head * dq_strides[1]

    queries = tokens_of(q_order_ptr, row, BLOCK_Q)
    in_rows = queries < Tq
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
    lse = tl.load(lse_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    delta = tl.load(delta_ptr + queries * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    bounds = first, first_cut, end
    for stretch in tl.static_range(2):  # full tiles, cut tiles
        for place in range(bounds[stretch], bounds[stretch + 1]):
            entry_ptr = entries_ptr + 2 * place
            keys = tokens_of(k_order_ptr, tl.load(entry_ptr), BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores = scores * (scale * LOG2E) - lse[:, None]
            if stretch == 1:
                words = picture_rows(pictures_ptr, entry_ptr, BLOCK_Q)  # [BLOCK_Q]
                visible = (words[:, None] >> tl.arange(0, BLOCK_K)[None, :]) & 1
                scores = tl.where(visible != 0, scores, float("-inf"))
            weights = tl.exp2(scores)  # [BLOCK_Q, BLOCK_K]
            dweights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            dscores = weights * (dweights - delta[:, None])  # [BLOCK_Q, BLOCK_K]
            dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")  # [BLOCK_Q, BLOCK_D]
    rows = rows_to_store(queries, share, BLOCK_Q)
    store_tile(dq_ptr, dq * scale, rows, cols, dq_strides, n_rows, D)


@triton.jit
def _block_sparse_sum_kernel(
    shares_ptr, grad_ptr, splits_ptr, order_ptr,
    shares_strides, grad_strides,
    n_tokens, n_rows,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: a gradient of BLOCK tokens, the sum of its shares in their order."""
    split = splits_ptr + 3 * tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    shares_ptr += batch * shares_strides[0] + head * shares_strides[1]
    grad_ptr += batch * grad_strides[0] + head * grad_strides[1]
    tokens = tokens_of(order_ptr, tl.load(split), BLOCK)
    cols = tl.arange(0, BLOCK_D)
    grad = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for share in range(tl.load(split + 1), tl.load(split + 2)):
        rows = share * BLOCK + tl.arange(0, BLOCK)
        grad += load_tile(shares_ptr, rows, cols, shares_strides, n_rows, D)
    store_tile(grad_ptr, grad, tokens, cols, grad_strides, n_tokens, D)


def gradients(q, k, v, out, lse, grad_out, plans: tuple[Plan, ...], scale: float, asked):
    """Return dq, dk, dv, the sum of what the pairs of each plan add; None if not asked for."""
    delta = row_delta(out, grad_out)
    total = None
    for plan in plans:
        added = _along(q, k, v, grad_out, lse, delta, plan, scale, asked)
        if total is None:
            total = added
        else:
            total = [a if b is None else a.add_(b) for a, b in zip(total, added, strict=True)]
    return total


def _along(
    q, k, v, grad_out, lse, delta, plan: Plan, scale: float, asked
) -> list[torch.Tensor | None]:
    """Return what the pairs of one plan add to dq, dk and dv."""
    inputs = q, k, v, grad_out, lse, delta
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    blocks = plan.BLOCK_Q, plan.BLOCK_K
    options = launch_options(max(D, Dv), q.element_size(), backward=True)
    strides = [tensor.stride() for tensor in inputs[:5]]
    widths = D, Dv, padded(D), padded(Dv), *blocks

    def walk(kernel, name, axis, like):
        """Launch a kernel along the rows or columns of the plan, then sum up the shares."""
        whole, shares, entries, splits, pictures, *orders = plan.on(q.device, name)

        def launch(items, results):
            kernel[(len(items), H, B)](
                *inputs, *results, items, entries, pictures, *orders, *strides,
                *(result.stride() for result in results),
                Tq, Tk, results[0].shape[2], scale, *widths, **options,
            )  # fmt: skip

        new = torch.empty_like if plan.has_all[axis] else torch.zeros_like
        grads = [new(tensor) for tensor in like]
        launch(whole, grads)
        if len(shares):
            rows = len(shares) * blocks[axis]
            parts = [g.new_empty(B, H, rows, g.shape[-1], dtype=torch.float32) for g in grads]
            launch(shares, parts)
            for part, grad in zip(parts, grads, strict=True):
                _block_sparse_sum_kernel[(len(splits), H, B)](
                    part, grad, splits, orders[axis], part.stride(), grad.stride(),
                    grad.shape[2], rows, grad.shape[-1], padded(grad.shape[-1]), blocks[axis],
                )  # fmt: skip
        return grads

    dq, dk, dv = None, None, None
    if asked[0]:
        (dq,) = walk(_block_sparse_dq_kernel, "rows", 0, (q,))
    if asked[1] or asked[2]:
        dk, dv = walk(_block_sparse_dkdv_kernel, "columns", 1, (k, v))
    return [dq, dk, dv]
