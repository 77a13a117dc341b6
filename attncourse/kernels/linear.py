"""Linear attention in Triton: the state stays in registers while a program walks its chunks."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.linear_backward import (
    _linear_dk_kernel,
    _linear_dq_kernel,
    _linear_dv_kernel,
)
from attncourse.kernels._parts.linear_tiles import (
    MAX_SLICES,
    all_strides,
    cut,
    existing,
    features,
    load_tops,
    load_totals,
    of_backward,
    precision,
    relative,
    row_strides,
    slice_of_dv,
    slices_of,
    tiles_for,
)
from attncourse.kernels._parts.tiles import (
    check_grid,
    check_tensors,
    load_tile,
    nonzero,
    numbers_of,
    padded,
    row_delta,
    store_tile,
)

FeatureMap = Callable[[torch.Tensor], torch.Tensor]


def elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    """Return elu(x) + 1 elementwise: 1 + x above zero, exp(x) below; never negative."""
    return x.clamp(max=0).exp() + x.relu()  # clamp(min=0) has a slope at 0, too


@in_grids(each=MAX_SLICES)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    feature_map: FeatureMap = elu_plus_one,
    chunk: int = 64,
    causal: bool = False,
) -> torch.Tensor:
    """Return φ(q) (φ(k)ᵀ v), each row divided by φ(q) · Σ φ(k).

    The tokens are cut into a few long parts. One kernel adds up φ(k)ᵀ v for each part of the
    keys. Then the program of a part of the queries adds up the states before it and walks on from
    there, chunk by chunk, with its state in registers. Features and normaliser are computed on
    the way; scores live in one chunk.

    Contract: `attncourse.kernels`; knobs: `reference.linear.attention`.
    `elu_plus_one` is part of the kernels; another feature_map is called on q and on k and may
    return up to 256 features, which are then stored. `chunk` is raised to a power of two of at
    least 16, and no more than fit on chip; it changes speed, not the result.
    Gradients: three more kernels, which walk the chunks again.
    Memory: the output, (B, H, Tq) float32, and at most 16 states (B, H, D, Dv + 1) float32.
    """
    where = "linear.attention"
    check_tensors(where, q, k, v)
    chunk = check_count(where, "chunk", chunk, least=1)
    causal = check_flag(where, "causal", causal)
    in_kernel = feature_map is elu_plus_one
    if not in_kernel:
        q, k = feature_map(q), feature_map(k)
        check_tensors(where, q, k, v)
    slices = slices_of(q.shape[-1], v.shape[-1], q.element_size())
    check_grid(where, {"heads × slices": q.shape[1] * slices, "batch": q.shape[0]})
    with torch.cuda.device_of(q):
        return _LinearAttention.apply(q, k, v, chunk, causal, in_kernel)


@triton.jit
def _linear_sums_kernel(
    k_ptr, v_ptr, tops_ptr, total_ptr, delta_ptr, sums_ptr, norms_ptr, part_tops_ptr,
    k_strides, v_strides, tops_strides, total_strides, sums_strides, norms_strides,
    part_tops_strides,
    Tk, offset,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PART: tl.constexpr, ELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the sums of φ(k) vᵀ and of φ(k) over one part, for a slice of v's columns.

    The backward pass sums over queries: q is k, and the gradient of the numerator is v.
    """
    part = tl.program_id(0)
    slices: tl.constexpr = (Dv + BLOCK_E - 1) // BLOCK_E
    slice = tl.program_id(1) % slices
    head = (tl.program_id(1) // slices).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    sums_ptr += batch * sums_strides[0] + head * sums_strides[1] + part * sums_strides[2]
    norms_ptr += batch * norms_strides[0] + head * norms_strides[1] + part * norms_strides[2]

    cols = tl.arange(0, BLOCK_D)
    v_cols = slice * BLOCK_E + tl.arange(0, BLOCK_E)
    state = tl.zeros([BLOCK_D, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_D], tl.float32)
    top = float("-inf")
    start = offset + part * PART
    begin = start + max(-start, 0) // BLOCK * BLOCK  # no chunk that ends before key 0
    for first in range(begin, min(start + PART, Tk), BLOCK):
        keys = existing(first + tl.arange(0, BLOCK), Tk)
        k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK, BLOCK_D]
        phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
        v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK, BLOCK_E]
        if tops_ptr is not None:
            here = tops_ptr + batch * tops_strides[0] + head * tops_strides[1]
            tops = load_tops(here, keys, tops_strides, Tk)  # [BLOCK]
            new_top = tl.maximum(top, tl.max(tops, 0))
            fade = relative(top, new_top)
            top = new_top
            phi_k *= relative(tops, top)[:, None]
            state, norm = state * fade, norm * fade + tl.sum(phi_k, 0)
        elif total_ptr is not None:
            here = batch * total_strides[0] + head * total_strides[1]
            inverse, delta = load_totals(
                total_ptr + here, delta_ptr + here, keys, total_strides, Tk
            )
            phi_k *= inverse[:, None]
            norm -= tl.sum(phi_k * delta[:, None], 0)
        else:
            norm += tl.sum(phi_k, 0)  # [BLOCK_D]
        v = v.to(tl.float32)
        state = tl.dot(tl.trans(phi_k), v, state, input_precision=PRECISION)  # [BLOCK_D, BLOCK_E]
    store_tile(sums_ptr, state, cols, v_cols, sums_strides, D, Dv)
    if slice == 0:
        tl.store(norms_ptr + cols * norms_strides[3], norm, mask=cols < D)
        if tops_ptr is not None:
            here = part_tops_ptr + batch * part_tops_strides[0] + head * part_tops_strides[1]
            tl.store(here + part * part_tops_strides[2], top)


@triton.jit
def _linear_fwd_kernel(
    q_ptr, k_ptr, v_ptr, tops_ptr, sums_ptr, norms_ptr, part_tops_ptr, out_ptr, total_ptr,
    q_strides, k_strides, v_strides, tops_strides, sums_strides, norms_strides,
    part_tops_strides, out_strides, total_strides,
    Tq, Tk, n_parts, lead,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PART: tl.constexpr, ELU: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: one part of the queries, and a slice of the columns of v and out."""
    part = tl.program_id(0)
    slices: tl.constexpr = (Dv + BLOCK_E - 1) // BLOCK_E
    slice = tl.program_id(1) % slices
    head = (tl.program_id(1) // slices).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    sums_ptr += batch * sums_strides[0] + head * sums_strides[1]
    norms_ptr += batch * norms_strides[0] + head * norms_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    total_ptr += batch * total_strides[0] + head * total_strides[1]

    cols = tl.arange(0, BLOCK_D)
    v_cols = slice * BLOCK_E + tl.arange(0, BLOCK_E)
    state = tl.zeros([BLOCK_D, BLOCK_E], tl.float32)
    norm = tl.zeros([BLOCK_D], tl.float32)
    top = float("-inf")
    # all queries here see the keys of these parts, whole; no other part is loaded
    for before in range(0, part + lead if CAUSAL else n_parts):
        here = sums_ptr + before * sums_strides[2]
        part_state = load_tile(here, cols, v_cols, sums_strides, D, Dv)
        here = norms_ptr + before * norms_strides[2]
        part_norm = tl.load(here + cols * norms_strides[3], mask=cols < D, other=0.0)  # [BLOCK_D]
        if tops_ptr is not None:
            here = part_tops_ptr + batch * part_tops_strides[0] + head * part_tops_strides[1]
            part_top = tl.load(here + before * part_tops_strides[2])
            new_top = tl.maximum(top, part_top)
            fade, part_fade = relative(top, new_top), relative(part_top, new_top)
            top = new_top
            state, norm = state * fade, norm * fade
            part_state, part_norm = part_state * part_fade, part_norm * part_fade
        state += part_state
        norm += part_norm

    start = part * PART
    for first in range(start, min(start + PART, Tq), BLOCK):
        queries = first + tl.arange(0, BLOCK)
        seeing = tl.where(queries < Tq - Tk, Tq, queries) if CAUSAL else queries
        q = load_tile(q_ptr, seeing, cols, q_strides, Tq, D)  # [BLOCK, BLOCK_D]
        phi_q = features(q, seeing, cols, Tq, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
        acc = tl.dot(phi_q, state, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
        total = tl.sum(phi_q * norm[None, :], 1)  # [BLOCK]
        if CAUSAL:
            keys = existing(queries + (Tk - Tq), Tk)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK, BLOCK_E]
            spoilt, v = numbers_of(v.to(tl.float32))
            k += spoilt[:, None].to(k.dtype)  # so the mask, or who sees the key, decides
            phi_k = features(k, keys, cols, Tk, D, ELU, PRECISION)  # [BLOCK, BLOCK_D]
            scores = tl.dot(phi_q, tl.trans(phi_k), input_precision=PRECISION)  # [BLOCK, BLOCK]
            visible = queries[None, :] <= queries[:, None]
            if tops_ptr is not None:  # each query relative to the largest that it sees
                here = tops_ptr + batch * tops_strides[0] + head * tops_strides[1]
                tops = load_tops(here, keys, tops_strides, Tk)  # [BLOCK]
                seen = tl.where(visible, tops[None, :], float("-inf"))  # [BLOCK, BLOCK]
                largest = tl.maximum(top, tl.max(seen, 1))  # [BLOCK]
                scores *= relative(seen, largest[:, None])
                fades = relative(top, largest)
                acc, total = acc * fades[:, None], total * fades
            scores = tl.where(visible, scores, 0.0)
            total += tl.sum(scores, 1)
            acc = tl.dot(scores, v, acc, input_precision=PRECISION)  # [BLOCK, BLOCK_E]
            if tops_ptr is not None:
                new_top = tl.maximum(top, tl.max(tops, 0))
                fade = relative(top, new_top)
                top = new_top
                phi_k *= relative(tops, top)[:, None]
                state, norm = state * fade, norm * fade
            state = tl.dot(tl.trans(phi_k), v, state, input_precision=PRECISION)
            norm += tl.sum(phi_k, 0)
        out = acc / nonzero(total)[:, None]  # [BLOCK, BLOCK_E]
        store_tile(out_ptr, out, queries, v_cols, out_strides, Tq, Dv)
        if slice == 0:
            tl.store(total_ptr + queries * total_strides[2], total, mask=queries < Tq)


class _LinearAttention(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, q, k, v, chunk, causal, in_kernel):
        tiles = tiles_for(*q.shape[:3], k.shape[2], q.shape[3], v.shape[3], chunk, q.element_size())
        flags = in_kernel, precision(q)
        out, total, *sums = _forward(q, k, v, None, tiles, flags, causal)
        ctx.save_for_backward(q, k, v, out, total, *sums)
        ctx.knobs = tiles, causal, flags
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, total, *sums = ctx.saved_tensors
        tiles, causal, flags = ctx.knobs
        B, H, Tq, D = q.shape
        Tk, Dv = v.shape[2:]
        tiles = of_backward(tiles, D, Dv, q.element_size())
        BLOCK, PART = tiles.BLOCK, tiles.PART
        lead, offset, n_parts = cut(Tq, Tk, PART, causal)
        n_query_parts = triton.cdiv(Tq, PART)
        n_key_parts = triton.cdiv(Tk - offset, PART)
        delta = row_delta(out, grad_out)
        needed = ctx.needs_input_grad
        if any(needed[1:3]):
            query_sums = _sums(q, grad_out, None, total, delta, 0, n_query_parts, tiles, flags)[:2]
        inputs = q, k, v, grad_out, total, delta
        strides = all_strides(*inputs[:5])
        dq, dk, dv = (
            torch.empty_like(x) if asked else None
            for x, asked in zip((q, k, v), needed, strict=False)
        )

        BLOCK_E = min(tiles.SLICE, padded(D))
        slices = H * triton.cdiv(D, BLOCK_E)
        settings = D, Dv, padded(Dv), BLOCK_E, BLOCK, PART, *flags, causal
        if needed[0]:
            _linear_dq_kernel[(n_query_parts, slices, B)](
                *inputs, *sums, dq, *strides, *all_strides(*sums, dq),
                Tq, Tk, n_parts, lead, *settings, **tiles.options,
            )  # fmt: skip
        if needed[1]:
            _linear_dk_kernel[(n_key_parts, slices, B)](
                *inputs, *query_sums, dk, *strides, *all_strides(*query_sums, dk),
                Tq, Tk, n_query_parts, lead, offset, *settings, **tiles.options,
            )  # fmt: skip
        if not needed[2]:
            return dq, dk, None, None, None, None
        BLOCK_E = slice_of_dv(tiles.SLICE, Dv, q.element_size())
        slices = H * triton.cdiv(Dv, BLOCK_E)
        settings = D, Dv, padded(D), BLOCK_E, BLOCK, PART, *flags, causal
        tensors = q, k, grad_out, total, query_sums[0], dv
        _linear_dv_kernel[(n_key_parts, slices, B)](
            *tensors, *all_strides(*tensors),
            Tq, Tk, n_query_parts, lead, offset, *settings, **tiles.options,
        )  # fmt: skip
        return dq, dk, dv, None, None, None


def scan(
    phi_q: torch.Tensor,
    phi_k: torch.Tensor,
    v: torch.Tensor,
    tops: torch.Tensor,
    *,
    chunk: int,
    causal: bool,
) -> torch.Tensor:
    """Return φ(q) (φ(k)ᵀ v), rows divided by φ(q) · Σ φ(k), φ(k) being 2^tops times `phi_k`.

    So features may be exponentials that no number holds: what is summed is kept relative to the
    largest exponent so far, and fades when that grows, as in online softmax.

    Args:
        phi_q: (B, H, Tq, m) float32, m ≤ 256; a factor of a query's row leaves the quotient alone.
        phi_k: (B, H, Tk, m) float32.
        v: (B, H, Tk, Dv), in the dtype of the result.
        tops: (B, H, Tk) float32.
        chunk: As in `attention`.
        causal: As in `attention`.
    """
    sizes = *phi_q.shape[:3], phi_k.shape[2], phi_q.shape[3], v.shape[3]
    tiles = tiles_for(*sizes, chunk, v.element_size(), fading=True)
    return _forward(phi_q, phi_k, v, tops, tiles, (False, precision(v)), causal)[0]


def _forward(q, k, v, tops, tiles, flags, causal) -> tuple[torch.Tensor, ...]:
    """Return out, the normaliser (B, H, Tq), and the sums of all parts as `_sums` does."""
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    lead, offset, n_parts = cut(Tq, Tk, tiles.PART, causal)
    sums, norms, part_tops = _sums(k, v, tops, None, None, offset, n_parts, tiles, flags)
    out = v.new_empty(B, H, Tq, Dv)
    total = q.new_empty(B, H, Tq, dtype=torch.float32)
    BLOCK_E = min(tiles.SLICE, padded(Dv))
    grid = (triton.cdiv(Tq, tiles.PART), H * triton.cdiv(Dv, BLOCK_E), B)
    _linear_fwd_kernel[grid](
        q, k, v, tops, sums, norms, part_tops, out, total,
        *all_strides(q, k, v), row_strides(tops),
        *all_strides(sums, norms), row_strides(part_tops), *all_strides(out, total),
        Tq, Tk, n_parts, lead,
        D, Dv, padded(D), BLOCK_E, tiles.BLOCK, tiles.PART, *flags, causal, **tiles.options,
    )  # fmt: skip
    return out, total, sums, norms


def _sums(
    k, v, tops, total, delta, offset, n_parts, tiles, flags
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return (B, H, parts, D, Dv), (B, H, parts, D) and, given tops, (B, H, parts).

    They are what `_linear_sums_kernel` adds up, and to which exponents it is relative.
    """
    B, H, Tk, D = k.shape
    Dv = v.shape[-1]
    sums = k.new_empty(B, H, n_parts, D, Dv, dtype=torch.float32)
    norms = k.new_empty(B, H, n_parts, D, dtype=torch.float32)
    part_tops = None if tops is None else k.new_empty(B, H, n_parts, dtype=torch.float32)
    BLOCK_E = min(tiles.SLICE, padded(Dv))
    _linear_sums_kernel[(n_parts, H * triton.cdiv(Dv, BLOCK_E), B)](
        k, v, tops, total, delta, sums, norms, part_tops,
        *all_strides(k, v), row_strides(tops), row_strides(total),
        *all_strides(sums, norms), row_strides(part_tops),
        Tk, offset,
        D, Dv, padded(D), BLOCK_E, tiles.BLOCK, tiles.PART, *flags, **tiles.options,
    )  # fmt: skip
    return sums, norms, part_tops


@int_sizes
@counted_in_grids(each=MAX_SLICES)
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int = 64,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    The features are elu(x) + 1. Every slice of v's columns reads q and k anew, and the states
    before a part are read by each part; of a chunk's scores the masked half is multiplied too.
    """
    chunk = check_count("linear.cost", "chunk", chunk, least=1)
    causal = check_flag("linear.cost", "causal", causal)
    return scan_cost(B, H, Tq, Tk, D, D, chunk, causal, dtype_bytes, fading=False)


def scan_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    Dv: int,
    chunk: int,
    causal: bool,
    dtype_bytes: int,
    *,
    fading: bool,
) -> Cost:
    """Count what the kernels of `attention`, or of `scan` if `fading`, do with D features."""
    BLOCK, PART, SLICE, _ = tiles_for(B, H, Tq, Tk, D, Dv, chunk, dtype_bytes, fading=fading)
    lead, offset, n_parts = cut(Tq, Tk, PART, causal)
    BLOCK_E = min(SLICE, padded(Dv))
    slices = triton.cdiv(Dv, BLOCK_E)
    summed = sum_chunks = read_states = 0
    for part in range(n_parts):
        start = offset + part * PART
        stop = min(start + PART, Tk)
        summed += stop - max(start, 0)
        sum_chunks += triton.cdiv(stop - start - max(-start, 0) // BLOCK * BLOCK, BLOCK)
    for part in range(triton.cdiv(Tq, PART)):
        read_states += max(0, part + lead) if causal else n_parts
    seen = min(Tq, Tk) if causal else 0
    chunks = triton.cdiv(Tq, BLOCK)
    joining = BLOCK * padded(D) * BLOCK_E  # multiply-adds of a chunk with a state
    within = joining + BLOCK * BLOCK * (padded(D) + BLOCK_E) if causal else 0
    out, total = B * H * Tq * Dv * dtype_bytes, B * H * Tq * 4
    states = B * H * n_parts * (D * Dv + D + fading) * 4
    number_bytes = 4 if fading else dtype_bytes  # of a feature
    queries = seen if causal else Tq  # one that sees no key is not loaded
    tokens_read = (queries + seen + summed) * slices * D * number_bytes
    tokens_read += (seen + summed) * Dv * dtype_bytes
    states_read = read_states * (D * Dv + slices * (D + fading)) * 4
    tops_read = (seen + summed) * slices * 4 * fading
    return Cost(
        flops=2 * B * H * slices * (sum_chunks * joining + chunks * (joining + within)),
        bytes_read=B * H * (tokens_read + states_read + tops_read),
        bytes_written=states + out + total,
        peak_bytes=states + out + total,
    )
