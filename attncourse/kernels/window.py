"""Window attention in Triton: a program loops over the key tiles of its window, and no others."""

import numbers

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_grid,
    check_tensors,
    finite,
    hide,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    row_delta,
    store_tile,
    tiling,
)


def _classes(q, k, dilation=1, **knobs):
    """Return how many programs share a block of one head: one for each class of residues."""
    longest = q.shape[2] + k.shape[2]
    return min(dilation, longest) if isinstance(dilation, numbers.Integral) else 1


def _residues(Tq, Tk, *, dilation=1, **knobs):
    """Return what `_classes` does, given what `cost` is."""
    return min(dilation, Tq + Tk) if isinstance(dilation, numbers.Integral) else 1


@in_grids(each=_classes)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the keys within `window` steps of each query.

    A program visits the key tiles that overlap the window of its queries, and masks those on its
    edges. A dilated window is a plain one among the tokens of a residue class, a program's all.

    Contract: `attncourse.kernels`; knobs: `reference.window.attention`.
    Gradients: from scores that are computed again, with one number that is kept per query.
    Memory: the output and (B, H, Tq) float32; nothing of size Tq · Tk or Tq · window.
    """
    where = "window.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    Tq, Tk = q.shape[2], k.shape[2]
    # a window or a step beyond both ends changes nothing, and 32 bits hold it
    window = min(check_count(where, "window", window), Tq + Tk)
    dilation = min(check_count(where, "dilation", dilation, least=1), max(1, Tq + Tk))
    check_grid(where, {"heads × dilation": q.shape[1] * dilation, "batch": q.shape[0]})
    scale = check_scale(where, scale, q.shape[-1])
    with torch.cuda.device_of(q):
        return _WindowAttention.apply(q, k, v, window, dilation, causal, scale)


def tile_sizes(
    width: int, dtype_bytes: int, *, backward: bool = False
) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK_Q, BLOCK_K and the options of the launch, as `tiling` does.

    Few keys are in a window, and tiles of half as many, in programs of 4 warps, are faster than 8
    warps, as an H200 measured. The backward pass keeps more on chip, and its tile.
    """
    if not backward and dtype_bytes == 2 and 64 < width <= 128:
        return 64, 32, {"num_warps": 4, "num_stages": 3}
    return tiling(width, dtype_bytes)


@triton.jit
def _residue_class(residue, dilation, Tq, Tk):
    """The keys residue, residue + dilation, ... and the queries that see them.

    Within the class neighbours are one step apart: dilated attention is plain window attention.
    Query 0 of the class is token `first_query` and sits at key `offset` of the class.
    """
    ahead = Tk - Tq
    first_query = ((residue - ahead) % dilation + dilation) % dilation  # % may be negative
    n_queries = (Tq - first_query + dilation - 1) // dilation
    n_keys = (Tk - residue + dilation - 1) // dilation
    offset = (first_query + ahead - residue) // dilation  # without remainder
    return first_query, n_queries, n_keys, offset


@triton.jit
def _tile_range(start, stop, before, after, size, BLOCK: tl.constexpr):
    """The tiles of BLOCK that overlap start - before ... stop - 1 + after, within 0 ... size - 1.

    These bounds are the mechanism: tiles outside are neither loaded nor multiplied.
    """
    first_tile = max(start - before, 0) // BLOCK
    last_tile = (min(stop + after, size) + BLOCK - 1) // BLOCK
    return first_tile, last_tile


@triton.jit
def _whole_range(last_tile, start, stop, before, after, size, BLOCK: tl.constexpr):
    """Those tiles of `_tile_range` of which each of start ... stop - 1 sees every row.

    Between the two edges of the window they need no mask.
    """
    first_whole = min((max(stop - 1 - before, 0) + BLOCK - 1) // BLOCK, last_tile)
    last_whole = max(min(start + 1 + after, size) // BLOCK, first_whole)
    return first_whole, last_whole


@triton.jit
def _visible(positions, keys, n_keys, window, CAUSAL: tl.constexpr):
    """True where the query at key position `positions` may attend to `keys`."""
    after = 0 if CAUSAL else window
    return (keys - positions >= -window) & (keys - positions <= after) & (keys < n_keys)


@triton.jit
def _window_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    q_strides, k_strides, v_strides, out_strides, lse_strides,
    Tq, Tk, window, dilation, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one residue class of one head."""
    start = tl.program_id(0) * BLOCK_Q
    residue = tl.program_id(1) % dilation
    head = (tl.program_id(1) // dilation).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    first_query, n_queries, n_keys, offset = _residue_class(residue, dilation, Tq, Tk)
    if start >= n_queries:
        return
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + offset  # where the queries sit among the keys of the class
    q_tokens = first_query + dilation * queries
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, q_tokens, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    first, last = start + offset, min(start + BLOCK_Q, n_queries) + offset
    after = 0 if CAUSAL else window
    first_tile, last_tile = _tile_range(first, last, window, after, n_keys, BLOCK_K)
    first_whole, last_whole = _whole_range(last_tile, first, last, window, after, n_keys, BLOCK_K)
    bounds = first_tile, first_whole, last_whole, last_tile
    for stretch in tl.static_range(3):  # left edge of the window, inside, right edge
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            tokens = residue + dilation * keys
            k = load_tile(k_ptr, tokens, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, tokens, v_cols, v_strides, Tk, Dv)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            scores *= scale * LOG2E
            if stretch != 1:  # only the edges need a mask
                visible = _visible(positions[:, None], keys[None, :], n_keys, window, CAUSAL)
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
    out = acc / running_sum[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, out, q_tokens, v_cols, out_strides, Tq, Dv)
    lse = finite(running_max) + tl.log2(running_sum)  # to base 2, as the scores
    tl.store(lse_ptr + q_tokens * lse_strides[2], lse, mask=q_tokens < Tq)


@triton.jit
def _window_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dk_strides, dv_strides,
    Tq, Tk, window, dilation, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv of BLOCK_K keys, over the query tiles that see them.

    Scores are recomputed transposed, as in `flash`.
    """
    start = tl.program_id(0) * BLOCK_K
    residue = tl.program_id(1) % dilation
    head = (tl.program_id(1) // dilation).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    first_query, n_queries, n_keys, offset = _residue_class(residue, dilation, Tq, Tk)
    if start >= n_keys:
        return
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + head * lse_strides[1]
    dk_ptr += batch * dk_strides[0] + head * dk_strides[1]
    dv_ptr += batch * dv_strides[0] + head * dv_strides[1]

    keys = start + tl.arange(0, BLOCK_K)
    k_tokens = residue + dilation * keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    k = load_tile(k_ptr, k_tokens, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
    v = load_tile(v_ptr, k_tokens, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_DV], tl.float32)

    # the window seen from the key: what lies before a query lies after a key
    first, last = start - offset, min(start + BLOCK_K, n_keys) - offset
    before = 0 if CAUSAL else window
    first_tile, last_tile = _tile_range(first, last, before, window, n_queries, BLOCK_Q)
    for tile in range(first_tile, last_tile):
        queries = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
        tokens = first_query + dilation * queries
        in_rows = tokens < Tq
        q = load_tile(q_ptr, tokens, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
        grad_out = load_tile(grad_out_ptr, tokens, v_cols, grad_out_strides, Tq, Dv)
        lse = tl.load(lse_ptr + tokens * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
        delta = tl.load(delta_ptr + tokens * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
        scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
        scores = scores * (scale * LOG2E) - lse[None, :]
        positions = queries + offset
        visible = _visible(positions[None, :], keys[:, None], n_keys, window, CAUSAL)
        weights = tl.exp2(tl.where(visible, scores, float("-inf")))  # [BLOCK_K, BLOCK_Q]
        dv = tl.dot(weights.to(grad_out.dtype), grad_out, dv, input_precision="ieee")
        dweights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # [BLOCK_K, BLOCK_Q]
        dscores = weights * (dweights - delta[None, :])  # [BLOCK_K, BLOCK_Q]
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")  # [BLOCK_K, BLOCK_D]
    store_tile(dk_ptr, dk * scale, k_tokens, cols, dk_strides, Tk, D)
    store_tile(dv_ptr, dv, k_tokens, v_cols, dv_strides, Tk, Dv)


@triton.jit
def _window_dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_strides, k_strides, v_strides, grad_out_strides, lse_strides, dq_strides,
    Tq, Tk, window, dilation, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: dq of BLOCK_Q queries, over the key tiles of their window."""
    start = tl.program_id(0) * BLOCK_Q
    residue = tl.program_id(1) % dilation
    head = (tl.program_id(1) // dilation).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    first_query, n_queries, n_keys, offset = _residue_class(residue, dilation, Tq, Tk)
    if start >= n_queries:
        return
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * lse_strides[0] + head * lse_strides[1]
    dq_ptr += batch * dq_strides[0] + head * dq_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + offset
    q_tokens = first_query + dilation * queries
    in_rows = q_tokens < Tq
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, q_tokens, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    grad_out = load_tile(grad_out_ptr, q_tokens, v_cols, grad_out_strides, Tq, Dv)
    lse = tl.load(lse_ptr + q_tokens * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    delta = tl.load(delta_ptr + q_tokens * lse_strides[2], mask=in_rows, other=0.0)  # [BLOCK_Q]
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    first, last = start + offset, min(start + BLOCK_Q, n_queries) + offset
    after = 0 if CAUSAL else window
    first_tile, last_tile = _tile_range(first, last, window, after, n_keys, BLOCK_K)
    for tile in range(first_tile, last_tile):
        keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        tokens = residue + dilation * keys
        k = load_tile(k_ptr, tokens, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
        v = load_tile(v_ptr, tokens, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
        scores = scores * (scale * LOG2E) - lse[:, None]
        visible = _visible(positions[:, None], keys[None, :], n_keys, window, CAUSAL)
        weights = tl.exp2(tl.where(visible, scores, float("-inf")))  # [BLOCK_Q, BLOCK_K]
        dweights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
        dscores = weights * (dweights - delta[:, None])  # [BLOCK_Q, BLOCK_K]
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")  # [BLOCK_Q, BLOCK_D]
    store_tile(dq_ptr, dq * scale, q_tokens, cols, dq_strides, Tq, D)


class _WindowAttention(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, q, k, v, window, dilation, causal, scale):
        B, H, Tq, D = q.shape
        Tk, Dv = v.shape[2:]
        BLOCK_Q, BLOCK_K, options = tile_sizes(max(D, Dv), q.element_size())
        out = q.new_empty(B, H, Tq, Dv)
        lse = q.new_empty(B, H, Tq, dtype=torch.float32)
        grid = (_blocks(Tq, dilation, BLOCK_Q), H * dilation, B)
        _window_fwd_kernel[grid](
            q, k, v, out, lse,
            q.stride(), k.stride(), v.stride(), out.stride(), lse.stride(),
            Tq, Tk, window, dilation, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.knobs = window, dilation, causal, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, lse = ctx.saved_tensors
        window, dilation, causal, scale = ctx.knobs
        B, H, Tq, D = q.shape
        Tk, Dv = v.shape[2:]
        BLOCK_Q, BLOCK_K, options = tile_sizes(max(D, Dv), q.element_size(), backward=True)
        inputs = q, k, v, grad_out, lse, row_delta(out, grad_out)
        strides = [tensor.stride() for tensor in inputs[:5]]
        settings = (
            Tq, Tk, window, dilation, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, causal,
        )  # fmt: skip
        dq = dk = dv = None
        if any(ctx.needs_input_grad[1:3]):
            dk, dv = torch.empty_like(k), torch.empty_like(v)
            grid = (_blocks(Tk, dilation, BLOCK_K), H * dilation, B)
            _window_dkdv_kernel[grid](
                *inputs, dk, dv, *strides, dk.stride(), dv.stride(), *settings, **options
            )
        if ctx.needs_input_grad[0]:
            dq = torch.empty_like(q)
            grid = (_blocks(Tq, dilation, BLOCK_Q), H * dilation, B)
            _window_dq_kernel[grid](*inputs, dq, *strides, dq.stride(), *settings, **options)
        return dq, dk, dv, None, None, None, None


def _blocks(n_tokens: int, dilation: int, block: int) -> int:
    """Return how many tiles the largest residue class has."""
    return triton.cdiv(triton.cdiv(n_tokens, dilation), block)


@int_sizes
@counted_in_grids(each=_residues)
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`."""
    window = check_count("window.cost", "window", window)
    dilation = check_count("window.cost", "dilation", dilation, least=1)
    causal = check_flag("window.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, _ = tile_sizes(D, dtype_bytes)
    after = 0 if causal else window
    tiles = loaded = 0
    for residue in range(min(dilation, Tk)):  # the other classes hold no keys
        _, n_queries, n_keys, offset = _residue_class.fn(residue, dilation, Tq, Tk)
        for start in range(0, n_queries, BLOCK_Q):
            first, last = start + offset, min(start + BLOCK_Q, n_queries) + offset
            span = range(*_tile_range.fn(first, last, window, after, n_keys, BLOCK_K))
            tiles += len(span)
            loaded += max(0, min(span.stop * BLOCK_K, n_keys) - span.start * BLOCK_K)
    out = B * H * Tq * D * dtype_bytes
    lse = B * H * Tq * 4
    return Cost(
        flops=4 * B * H * tiles * BLOCK_Q * BLOCK_K * padded(D),
        bytes_read=B * H * (Tq + 2 * loaded) * D * dtype_bytes,
        bytes_written=out + lse,
        peak_bytes=out + lse,
    )
