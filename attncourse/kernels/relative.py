"""Relative positions (Shaw) in Triton: relative keys and values meet the scores in the tile."""

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_beside,
    check_no_grad,
    check_tensors,
    finite,
    hide,
    key_tiles,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
    visible_keys,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    relative_keys: torch.Tensor,
    relative_values: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return Σⱼ wᵢⱼ (vⱼ + relative_values[r]) with scores qᵢ · (kⱼ + relative_keys[r]) · scale.

    r is the distance j - i, clipped to ±max_distance. A tile of queries and keys has only as many
    distances as rows and columns together: these many products with relative keys are made on chip
    and skewed, row i by i places, onto the scores; the weights are skewed back onto the relative
    values. A tile further away than max_distance has one r: there they cost next to nothing.

    Contract: `attncourse.kernels`; knobs: `reference.relative.attention`.
    Gradients: none.
    Memory: the output; nothing for each pair, nothing for each query and distance.
    """
    where = "relative.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    check_beside(where, q, relative_keys=relative_keys, relative_values=relative_values)
    _check_tables(where, relative_keys, relative_values, D, Dv)
    check_no_grad(where, q, k, v, relative_keys, relative_values)
    scale = check_scale(where, scale, D)
    BLOCK_Q, BLOCK_K, SPAN, options = _tiling(max(D, Dv), q.element_size())
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        _relative_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, relative_keys, relative_values, out,
            q.stride(), k.stride(), v.stride(),
            relative_keys.stride(), relative_values.stride(), out.stride(),
            Tq, Tk, len(relative_keys) // 2, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, SPAN, causal, **options,
        )  # fmt: skip
    return out


@triton.jit
def stretches(n_tiles, start, Tq, Tk, max_distance, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """Where the first n_tiles key tiles come near to the queries start ..., and where past them.

    Near are those in which not all pairs are max_distance or more away on the same side.
    """
    first, last = start + Tk - Tq, min(start + BLOCK_Q, Tq) - 1 + Tk - Tq  # their positions
    first_near = min(max(first - max_distance + 1, 0) // BLOCK_K, n_tiles)
    first_past = min((max(last + max_distance, 0) + BLOCK_K - 1) // BLOCK_K, n_tiles)
    return first_near, first_past


@triton.jit
def clip(x, low, high):
    """Keep x between low and high."""
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _load_row(ptr, row, cols, strides, n_cols):
    """One row of a table, in float32."""
    return tl.load(ptr + row * strides[0] + cols * strides[1], mask=cols < n_cols, other=0.0).to(
        tl.float32
    )


@triton.jit
def _relative_fwd_kernel(
    q_ptr, k_ptr, v_ptr, relative_k_ptr, relative_v_ptr, out_ptr,
    q_strides, k_strides, v_strides, relative_k_strides, relative_v_strides, out_strides,
    Tq, Tk, max_distance, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SPAN: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head. SPAN holds all distances within a tile."""
    start = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]

    rows, columns, span = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K), tl.arange(0, SPAN)
    queries = start + rows
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    n_rows = 2 * max_distance + 1  # of the tables
    before = _load_row(relative_k_ptr, 0, cols, relative_k_strides, D)  # [BLOCK_D]
    past = _load_row(relative_k_ptr, n_rows - 1, cols, relative_k_strides, D)  # [BLOCK_D]
    gain_before = tl.sum(q.to(tl.float32) * before[None, :], 1)  # [BLOCK_Q]
    gain_past = tl.sum(q.to(tl.float32) * past[None, :], 1)  # [BLOCK_Q]
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)
    sum_before = tl.zeros([BLOCK_Q], tl.float32)  # the part of keys far before the query
    sum_past = tl.zeros([BLOCK_Q], tl.float32)

    _, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    first_near, first_past = stretches(n_tiles, start, Tq, Tk, max_distance, BLOCK_Q, BLOCK_K)
    bounds = 0, first_near, first_past, n_tiles
    for stretch in tl.static_range(3):  # far before the queries, near, far past them
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + columns
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            if stretch == 0:
                scores += gain_before[:, None]
            elif stretch == 2:
                scores += gain_past[:, None]
            else:
                distances = tile * BLOCK_K - (start + Tk - Tq) - (BLOCK_Q - 1) + span  # [SPAN]
                table_rows = clip(distances, -max_distance, max_distance) + max_distance  # [SPAN]
                relative = load_tile(
                    relative_k_ptr, table_rows, cols, relative_k_strides, n_rows, D
                )  # [SPAN, BLOCK_D]
                gains = tl.dot(q, tl.trans(relative), input_precision="ieee")  # [BLOCK_Q, SPAN]
                # in row i, column c of the tile has its distance at place c - i of the span
                place = columns[None, :] - rows[:, None] + (BLOCK_Q - 1)  # [BLOCK_Q, BLOCK_K]
                scores += tl.gather(gains, place, 1)
            scores *= scale * LOG2E
            if stretch > 0:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores, v = hide(scores, v, visible)
            new_max = tl.maximum(running_max, tl.max(scores, 1))  # [BLOCK_Q]
            pivot = finite(new_max)
            weights = tl.exp2(scores - pivot[:, None])  # [BLOCK_Q, BLOCK_K]
            rescale = tl.exp2(running_max - pivot)  # [BLOCK_Q]
            total = tl.sum(weights, 1)  # [BLOCK_Q]
            running_sum = running_sum * rescale + total
            sum_before *= rescale
            sum_past *= rescale
            acc *= rescale[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [BLOCK_Q, BLOCK_DV]
            if stretch == 0:
                sum_before += total
            elif stretch == 2:
                sum_past += total
            else:
                column = span[None, :] + rows[:, None] - (BLOCK_Q - 1)  # [BLOCK_Q, SPAN]
                in_tile = (column >= 0) & (column < BLOCK_K)
                skewed = tl.gather(weights.to(v.dtype), clip(column, 0, BLOCK_K - 1), 1)
                by_distance = tl.where(in_tile, skewed, 0.0)  # [BLOCK_Q, SPAN]
                relative = load_tile(
                    relative_v_ptr, table_rows, v_cols, relative_v_strides, n_rows, Dv
                )  # [SPAN, BLOCK_DV]
                acc = tl.dot(by_distance, relative, acc, input_precision="ieee")
            running_max = new_max

    before = _load_row(relative_v_ptr, 0, v_cols, relative_v_strides, Dv)  # [BLOCK_DV]
    past = _load_row(relative_v_ptr, n_rows - 1, v_cols, relative_v_strides, Dv)  # [BLOCK_DV]
    acc += sum_before[:, None] * before[None, :] + sum_past[:, None] * past[None, :]
    acc /= nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, acc, queries, v_cols, out_strides, Tq, Dv)


def _tiling(width: int, dtype_bytes: int) -> tuple[int, int, int, dict[str, int]]:
    """Return BLOCK_Q, BLOCK_K, SPAN and the options of the launch.

    A tile has BLOCK_Q + BLOCK_K - 1 distances, and SPAN is the next power of two. What is skewed
    sits in registers twice, so tiles are smaller than those of `tiling`; then nothing spills, but
    for float32 wider than 64.
    """
    if dtype_bytes == 4:
        sizes = (16, 16, 8, 1)
    elif width <= 64:
        sizes = (32, 32, 4, 2)
    elif width <= 128:
        sizes = (32, 32, 8, 1)
    else:
        sizes = (16, 16, 4, 1)
    BLOCK_Q, BLOCK_K, num_warps, num_stages = sizes
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return BLOCK_Q, BLOCK_K, padded(BLOCK_Q + BLOCK_K - 1), options


def _check_tables(where, relative_keys, relative_values, width: int, value_width: int) -> None:
    for name, table, n_cols in (
        ("relative_keys", relative_keys, width),
        ("relative_values", relative_values, value_width),
    ):
        if table.ndim != 2 or table.shape[0] % 2 == 0 or table.shape[1] != n_cols:
            raise ValueError(
                f"{where}: {name} must have shape (2·max_distance + 1, {n_cols}), "
                f"got {tuple(table.shape)}"
            )
    if len(relative_keys) != len(relative_values):
        raise ValueError(
            f"{where}: relative_keys and relative_values must have as many rows, "
            f"got {len(relative_keys)} and {len(relative_values)}"
        )


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    max_distance: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    Near tiles read the rows of the tables anew.
    """
    max_distance = check_count("relative.cost", "max_distance", max_distance)
    causal = check_flag("relative.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, SPAN, _ = _tiling(D, dtype_bytes)
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
    tables = 2 * near * SPAN + 4 * programs  # rows
    return Cost(
        flops=4 * B * H * BLOCK_Q * (tiles * BLOCK_K + near * SPAN) * padded(D),
        bytes_read=B * H * (Tq + 2 * loaded + tables) * D * dtype_bytes,
        bytes_written=out,
        peak_bytes=out,
    )
