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
    stride_qb, stride_qh, stride_qt, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    stride_vb, stride_vh, stride_vt, stride_vd,
    stride_gb, stride_gh, stride_gt, stride_gd,
    stride_tb, stride_th, stride_tt,
    stride_sb, stride_sh, stride_sp, stride_sf, stride_sd,
    stride_nb, stride_nh, stride_np, stride_nd,
    stride_dqb, stride_dqh, stride_dqt, stride_dqd,
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
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    grad_out_ptr += batch * stride_gb + head * stride_gh
    total_ptr += batch * stride_tb + head * stride_th
    delta_ptr += batch * stride_tb + head * stride_th
    sums_ptr += batch * stride_sb + head * stride_sh
    norms_ptr += batch * stride_nb + head * stride_nh
    dq_ptr += batch * stride_dqb + head * stride_dqh

    v_cols = tl.arange(0, BLOCK_DV)
    state = tl.zeros([BLOCK_DV, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_E], tl.float32)
    for before in range(0, part + lead if CAUSAL else n_parts):
        here = sums_ptr + before * stride_sp
        state += load_tile(here, v_cols, cols, stride_sd, stride_sf, Dv, D)
        here = norms_ptr + before * stride_np
        norm += tl.load(here + cols * stride_nd, mask=cols < D, other=0.0)

    start = part * PART
    for first in range(start, min(start + PART, Tq), BLOCK):
        queries = first + tl.arange(0, BLOCK)
        grad_out = load_tile(grad_out_ptr, queries, v_cols, stride_gt, stride_gd, Tq, Dv)
        inverse, delta = load_totals(total_ptr, delta_ptr, queries, stride_tt, Tq)  # [BLOCK]
        dphi = tl.dot(grad_out.to(tl.float32), state, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
        dphi -= delta[:, None] * norm[None, :]  # [BLOCK, BLOCK_E]
        if CAUSAL:
            keys = existing(queries + (Tk - Tq), Tk)
            k = load_tile(k_ptr, keys, cols, stride_kt, stride_kd, Tk, D)  # [BLOCK, BLOCK_E]
            phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_E]
            v = load_tile(v_ptr, keys, v_cols, stride_vt, stride_vd, Tk, Dv)  # [BLOCK, BLOCK_DV]
            dscores = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [BLOCK, BLOCK]
            visible = queries[None, :] <= queries[:, None]
            dscores = tl.where(visible, dscores - delta[:, None], 0.0)
            dphi = tl.dot(dscores, phi_k, dphi, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            v = tl.trans(v.to(tl.float32))
            state = tl.dot(v, phi_k, state, input_precision=PRECISION)  # [BLOCK_DV, BLOCK_E]
            norm += tl.sum(phi_k, 0)
        q = load_tile(q_ptr, queries, cols, stride_qt, stride_qd, Tq, D)  # [BLOCK, BLOCK_E]
        dq = features_backward(q, dphi * inverse[:, None], ELU)  # [BLOCK, BLOCK_E]
        store_tile(dq_ptr, dq, queries, cols, stride_dqt, stride_dqd, Tq, D)


@triton.jit
def _linear_dk_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, total_ptr, delta_ptr, sums_ptr, norms_ptr, dk_ptr,
    stride_qb, stride_qh, stride_qt, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    stride_vb, stride_vh, stride_vt, stride_vd,
    stride_gb, stride_gh, stride_gt, stride_gd,
    stride_tb, stride_th, stride_tt,
    stride_sb, stride_sh, stride_sp, stride_sf, stride_sd,
    stride_nb, stride_nh, stride_np, stride_nd,
    stride_dkb, stride_dkh, stride_dkt, stride_dkd,
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
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    grad_out_ptr += batch * stride_gb + head * stride_gh
    total_ptr += batch * stride_tb + head * stride_th
    delta_ptr += batch * stride_tb + head * stride_th
    sums_ptr += batch * stride_sb + head * stride_sh
    norms_ptr += batch * stride_nb + head * stride_nh
    dk_ptr += batch * stride_dkb + head * stride_dkh

    v_cols = tl.arange(0, BLOCK_DV)
    state = tl.zeros([BLOCK_DV, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_E], tl.float32)
    # the queries of these parts see all keys here
    for after in range(max(part - lead + 1, 0) if CAUSAL else 0, n_parts):
        here = sums_ptr + after * stride_sp
        state += load_tile(here, v_cols, cols, stride_sd, stride_sf, Dv, D)
        here = norms_ptr + after * stride_np
        norm += tl.load(here + cols * stride_nd, mask=cols < D, other=0.0)

    start = offset + part * PART
    n_chunks = tl.cdiv(min(PART, Tk - start), BLOCK)
    for back in range(0, n_chunks):
        tokens = start + (n_chunks - 1 - back) * BLOCK + tl.arange(0, BLOCK)
        keys = existing(tokens, Tk)
        v = load_tile(v_ptr, keys, v_cols, stride_vt, stride_vd, Tk, Dv)  # [BLOCK, BLOCK_DV]
        dphi = tl.dot(v.to(tl.float32), state, input_precision=PRECISION) + norm[None, :]
        if CAUSAL:
            queries = existing(tokens - (Tk - Tq), Tq)
            q = load_tile(q_ptr, queries, cols, stride_qt, stride_qd, Tq, D)  # [BLOCK, BLOCK_E]
            phi_q = features(q, queries, cols, Tq, D, ELU, PRECISION)  # [BLOCK, BLOCK_E]
            inverse, delta = load_totals(total_ptr, delta_ptr, queries, stride_tt, Tq)  # [BLOCK]
            phi_q *= inverse[:, None]
            grad_out = load_tile(grad_out_ptr, queries, v_cols, stride_gt, stride_gd, Tq, Dv)
            dscores = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # keys down
            visible = tokens[:, None] <= tokens[None, :]
            dscores = tl.where(visible, dscores - delta[None, :], 0.0)  # [BLOCK, BLOCK]
            dphi = tl.dot(dscores, phi_q, dphi, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            grad_out = tl.trans(grad_out.to(tl.float32))
            state = tl.dot(grad_out, phi_q, state, input_precision=PRECISION)  # [BLOCK_DV, BLOCK_E]
            norm -= tl.sum(phi_q * delta[:, None], 0)
        k = load_tile(k_ptr, keys, cols, stride_kt, stride_kd, Tk, D)  # [BLOCK, BLOCK_E]
        dk = features_backward(k, dphi, ELU)  # [BLOCK, BLOCK_E]
        store_tile(dk_ptr, dk, keys, cols, stride_dkt, stride_dkd, Tk, D)


@triton.jit
def _linear_dv_kernel(
    q_ptr, k_ptr, grad_out_ptr, total_ptr, sums_ptr, dv_ptr,
    stride_qb, stride_qh, stride_qt, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    stride_gb, stride_gh, stride_gt, stride_gd,
    stride_tb, stride_th, stride_tt,
    stride_sb, stride_sh, stride_sp, stride_sf, stride_sd,
    stride_dvb, stride_dvh, stride_dvt, stride_dvd,
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
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr += batch * stride_kb + head * stride_kh
    grad_out_ptr += batch * stride_gb + head * stride_gh
    total_ptr += batch * stride_tb + head * stride_th
    sums_ptr += batch * stride_sb + head * stride_sh
    dv_ptr += batch * stride_dvb + head * stride_dvh

    cols = tl.arange(0, BLOCK_D)
    state = tl.zeros([BLOCK_D, BLOCK_E], tl.float32)
    for after in range(max(part - lead + 1, 0) if CAUSAL else 0, n_parts):
        here = sums_ptr + after * stride_sp
        state += load_tile(here, cols, v_cols, stride_sf, stride_sd, D, Dv)

    start = offset + part * PART
    n_chunks = tl.cdiv(min(PART, Tk - start), BLOCK)
    for back in range(0, n_chunks):
        tokens = start + (n_chunks - 1 - back) * BLOCK + tl.arange(0, BLOCK)
        keys = existing(tokens, Tk)
        k = load_tile(k_ptr, keys, cols, stride_kt, stride_kd, Tk, D)  # [BLOCK, BLOCK_D]
        phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
        if CAUSAL:
            queries = existing(tokens - (Tk - Tq), Tq)
            q = load_tile(q_ptr, queries, cols, stride_qt, stride_qd, Tq, D)  # [BLOCK, BLOCK_D]
            phi_q = features(q, queries, cols, Tq, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
            total = tl.load(total_ptr + queries * stride_tt, mask=queries < Tq, other=1.0)
            inverse = 1.0 / nonzero(total)  # [BLOCK]
            scores = tl.dot(phi_k, tl.trans(phi_q), input_precision=PRECISION)  # keys down
        dv = tl.dot(phi_k, state, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
        if CAUSAL:
            grad_out = load_tile(grad_out_ptr, queries, v_cols, stride_gt, stride_gd, Tq, Dv)
            grad_out = grad_out.to(tl.float32) * inverse[:, None]  # [BLOCK, BLOCK_E]
            visible = tokens[:, None] <= tokens[None, :]
            scores = tl.where(visible, scores, 0.0)  # [BLOCK, BLOCK]
            dv = tl.dot(scores, grad_out, dv, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            phi_q = tl.trans(phi_q)
            state = tl.dot(phi_q, grad_out, state, input_precision=PRECISION)  # [BLOCK_D, BLOCK_E]
        store_tile(dv_ptr, dv, keys, v_cols, stride_dvt, stride_dvd, Tk, Dv)
