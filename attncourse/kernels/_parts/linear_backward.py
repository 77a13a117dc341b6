"""The backward pass of linear attention in Triton: three kernels that walk the chunks again."""

import triton
import triton.language as tl

from attncourse.kernels._parts.linear_tiles import (
    existing,
    features,
    features_backward,
    load_totals,
)
from attncourse.kernels._parts.tiles import load_tile, nonzero, store_tile


@triton.jit
def _linear_dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, total_ptr, delta_ptr, sums_ptr, norms_ptr, dq_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, total_strides, sums_strides,
    norms_strides, dq_strides,
    Tq, Tk, n_parts, lead,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PART: tl.constexpr, ELU: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dq of one part of the queries and a slice of D, with the state transposed."""
    part = tl.program_id(0)
    slices: tl.constexpr = (D + BLOCK_E - 1) // BLOCK_E
    cols = (tl.program_id(1) % slices) * BLOCK_E + tl.arange(0, BLOCK_E)
    head = (tl.program_id(1) // slices).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    total_ptr += batch * total_strides[0] + head * total_strides[1]
    delta_ptr += batch * total_strides[0] + head * total_strides[1]
    sums_ptr += batch * sums_strides[0] + head * sums_strides[1]
    norms_ptr += batch * norms_strides[0] + head * norms_strides[1]
    dq_ptr += batch * dq_strides[0] + head * dq_strides[1]

    v_cols = tl.arange(0, BLOCK_DV)
    state = tl.zeros([BLOCK_DV, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_E], tl.float32)
    for before in range(0, part + lead if CAUSAL else n_parts):
        here = sums_ptr + before * sums_strides[2]
        state += load_tile(here, v_cols, cols, (sums_strides[4], sums_strides[3]), Dv, D)
        here = norms_ptr + before * norms_strides[2]
        norm += tl.load(here + cols * norms_strides[3], mask=cols < D, other=0.0)

    start = part * PART
    for first in range(start, min(start + PART, Tq), BLOCK):
        queries = first + tl.arange(0, BLOCK)
        grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
        inverse, delta = load_totals(total_ptr, delta_ptr, queries, total_strides, Tq)  # [BLOCK]
        dphi = tl.dot(grad_out.to(tl.float32), state, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
        dphi -= delta[:, None] * norm[None, :]  # [BLOCK, BLOCK_E]
        if CAUSAL:
            keys = existing(queries + (Tk - Tq), Tk)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK, BLOCK_E]
            phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_E]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK, BLOCK_DV]
            dscores = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [BLOCK, BLOCK]
            visible = queries[None, :] <= queries[:, None]
            dscores = tl.where(visible, dscores - delta[:, None], 0.0)
            dphi = tl.dot(dscores, phi_k, dphi, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            v = tl.trans(v.to(tl.float32))
            state = tl.dot(v, phi_k, state, input_precision=PRECISION)  # [BLOCK_DV, BLOCK_E]
            norm += tl.sum(phi_k, 0)
        q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK, BLOCK_E]
        dq = features_backward(q, dphi * inverse[:, None], ELU)  # [BLOCK, BLOCK_E]
        store_tile(dq_ptr, dq, queries, cols, dq_strides, Tq, D)


@triton.jit
def _linear_dk_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, total_ptr, delta_ptr, sums_ptr, norms_ptr, dk_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, total_strides, sums_strides,
    norms_strides, dk_strides,
    Tq, Tk, n_parts, lead, offset,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PART: tl.constexpr, ELU: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dk of one part of the keys and a slice of D; causal queries from the back."""
    part = tl.program_id(0)
    slices: tl.constexpr = (D + BLOCK_E - 1) // BLOCK_E
    cols = (tl.program_id(1) % slices) * BLOCK_E + tl.arange(0, BLOCK_E)
    head = (tl.program_id(1) // slices).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    total_ptr += batch * total_strides[0] + head * total_strides[1]
    delta_ptr += batch * total_strides[0] + head * total_strides[1]
    sums_ptr += batch * sums_strides[0] + head * sums_strides[1]
    norms_ptr += batch * norms_strides[0] + head * norms_strides[1]
    dk_ptr += batch * dk_strides[0] + head * dk_strides[1]

    v_cols = tl.arange(0, BLOCK_DV)
    state = tl.zeros([BLOCK_DV, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_E], tl.float32)
    # the queries of these parts see all keys here
    for after in range(max(part - lead + 1, 0) if CAUSAL else 0, n_parts):
        here = sums_ptr + after * sums_strides[2]
        state += load_tile(here, v_cols, cols, (sums_strides[4], sums_strides[3]), Dv, D)
        here = norms_ptr + after * norms_strides[2]
        norm += tl.load(here + cols * norms_strides[3], mask=cols < D, other=0.0)

    start = offset + part * PART
    n_chunks = tl.cdiv(min(PART, Tk - start), BLOCK)
    for back in range(0, n_chunks):
        tokens = start + (n_chunks - 1 - back) * BLOCK + tl.arange(0, BLOCK)
        keys = existing(tokens, Tk)
        v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK, BLOCK_DV]
        dphi = tl.dot(v.to(tl.float32), state, input_precision=PRECISION) + norm[None, :]
        if CAUSAL:
            queries = existing(tokens - (Tk - Tq), Tq)
            q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK, BLOCK_E]
            phi_q = features(q, queries, cols, Tq, D, ELU, PRECISION)  # [BLOCK, BLOCK_E]
            inverse, delta = load_totals(total_ptr, delta_ptr, queries, total_strides, Tq)
            phi_q *= inverse[:, None]
            grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
            dscores = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # keys down
            visible = tokens[:, None] <= tokens[None, :]
            dscores = tl.where(visible, dscores - delta[None, :], 0.0)  # [BLOCK, BLOCK]
            dphi = tl.dot(dscores, phi_q, dphi, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            grad_out = tl.trans(grad_out.to(tl.float32))
            state = tl.dot(grad_out, phi_q, state, input_precision=PRECISION)  # [BLOCK_DV, BLOCK_E]
            norm -= tl.sum(phi_q * delta[:, None], 0)
        k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK, BLOCK_E]
        dk = features_backward(k, dphi, ELU)  # [BLOCK, BLOCK_E]
        store_tile(dk_ptr, dk, keys, cols, dk_strides, Tk, D)


@triton.jit
def _linear_dv_kernel(
    q_ptr, k_ptr, grad_out_ptr, total_ptr, sums_ptr, dv_ptr,
    q_strides, k_strides, grad_out_strides, total_strides, sums_strides, dv_strides,
    Tq, Tk, n_parts, lead, offset,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PART: tl.constexpr, ELU: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dv of one part of the keys and a slice of Dv; causal queries from the back."""
    part = tl.program_id(0)
    slices: tl.constexpr = (Dv + BLOCK_E - 1) // BLOCK_E
    v_cols = (tl.program_id(1) % slices) * BLOCK_E + tl.arange(0, BLOCK_E)
    head = (tl.program_id(1) // slices).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    total_ptr += batch * total_strides[0] + head * total_strides[1]
    sums_ptr += batch * sums_strides[0] + head * sums_strides[1]
    dv_ptr += batch * dv_strides[0] + head * dv_strides[1]

    cols = tl.arange(0, BLOCK_D)
    state = tl.zeros([BLOCK_D, BLOCK_E], tl.float32)
    for after in range(max(part - lead + 1, 0) if CAUSAL else 0, n_parts):
        here = sums_ptr + after * sums_strides[2]
        state += load_tile(here, cols, v_cols, sums_strides, D, Dv)

    start = offset + part * PART
    n_chunks = tl.cdiv(min(PART, Tk - start), BLOCK)
    for back in range(0, n_chunks):
        tokens = start + (n_chunks - 1 - back) * BLOCK + tl.arange(0, BLOCK)
        keys = existing(tokens, Tk)
        k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK, BLOCK_D]
        phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
        if CAUSAL:
            queries = existing(tokens - (Tk - Tq), Tq)
            q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK, BLOCK_D]
            phi_q = features(q, queries, cols, Tq, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
            total = tl.load(total_ptr + queries * total_strides[2], mask=queries < Tq, other=1.0)
            inverse = 1.0 / nonzero(total)  # [BLOCK]
            scores = tl.dot(phi_k, tl.trans(phi_q), input_precision=PRECISION)  # keys down
        dv = tl.dot(phi_k, state, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
        if CAUSAL:
            grad_out = load_tile(grad_out_ptr, queries, v_cols, grad_out_strides, Tq, Dv)
            grad_out = grad_out.to(tl.float32) * inverse[:, None]  # [BLOCK, BLOCK_E]
            visible = tokens[:, None] <= tokens[None, :]
            scores = tl.where(visible, scores, 0.0)  # [BLOCK, BLOCK]
            dv = tl.dot(scores, grad_out, dv, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            phi_q = tl.trans(phi_q)
            state = tl.dot(phi_q, grad_out, state, input_precision=PRECISION)  # [BLOCK_D, BLOCK_E]
        store_tile(dv_ptr, dv, keys, v_cols, dv_strides, Tk, Dv)
