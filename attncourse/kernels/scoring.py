"""Additive attention (Bahdanau) in Triton: the numbers inside of tanh exist in registers only."""

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
    hide,
    join_tile,
    key_tiles,
    load_tile,
    nonzero,
    padded,
    store_tile,
    tiling,
    visible_keys,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    query_weights: torch.Tensor,
    key_weights: torch.Tensor,
    vector: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(additive scores · scale) v, the scores tanh(q Wq + k Wk) · vector.

    One kernel projects queries and keys. Then a tile of scores is summed over `hidden`, one of its
    numbers at a time for all pairs of the tile, and joins an online softmax: neither the (Tq, Tk)
    matrix nor the (Tq, Tk, hidden) array is made, and no tile of the latter.

    Contract: `attncourse.kernels`; knobs: `reference.scoring.attention`.
    Gradients: none.
    Memory: q and k projected, (B, H, Tq + Tk, hidden) float32, and the output.
    """
    where = "scoring.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    parameters = {"query_weights": query_weights, "key_weights": key_weights, "vector": vector}
    check_beside(where, q, **parameters)
    _check_shapes(where, D, **parameters)
    check_no_grad(where, q, k, v, *parameters.values())
    scale = check_scale(where, scale)
    BLOCK_Q, BLOCK_K, options = _tiling(Dv, q.element_size())
    with torch.cuda.device_of(q):
        q_hidden, k_hidden = _project(q, query_weights), _project(k, key_weights)
        out = q.new_empty(B, H, Tq, Dv)
        _scoring_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q_hidden, k_hidden, vector, v, out,
            q_hidden.stride(), k_hidden.stride(), vector.stride(), v.stride(), out.stride(),
            Tq, Tk, len(vector), scale,
            Dv, padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
    return out


@triton.jit
def _scoring_project_kernel(
    x_ptr, w_ptr, hidden_ptr,
    x_strides, w_strides, hidden_strides,
    T, n_hidden,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: x · weights of BLOCK tokens of one head, in float32 and times 2 · log2 e.

    So tanh(x) = 1 - 2 / (1 + e²ˣ) needs no product for its exponent; see LOG2E.
    """
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    x_ptr += batch * x_strides[0] + head * x_strides[1]
    hidden_ptr += batch * hidden_strides[0] + head * hidden_strides[1]
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.arange(0, BLOCK_D)
    x = load_tile(x_ptr, tokens, rows, x_strides, T, D)  # [BLOCK, BLOCK_D]
    for first in range(0, n_hidden, BLOCK_H):
        cols = first + tl.arange(0, BLOCK_H)
        w = load_tile(w_ptr, rows, cols, w_strides, D, n_hidden)  # [BLOCK_D, BLOCK_H]
        hidden = tl.dot(x, w, input_precision="ieee") * (2 * LOG2E)  # [BLOCK, BLOCK_H]
        store_tile(hidden_ptr, hidden, tokens, cols, hidden_strides, T, n_hidden)


@triton.jit
def _load_number(ptr, number, tokens, strides, n_tokens):
    """One of the hidden numbers, of the given tokens."""
    here = ptr + number * strides[3]
    in_tokens = tokens < n_tokens
    return tl.load(here + tokens.to(tl.int64) * strides[2], mask=in_tokens, other=0.0)


@triton.jit
def _scoring_fwd_kernel(
    q_hidden_ptr, k_hidden_ptr, vector_ptr, v_ptr, out_ptr,
    q_hidden_strides, k_hidden_strides, vector_strides, v_strides, out_strides,
    Tq, Tk, n_hidden, scale,
    Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head.

    Of tanh's two terms the 1 adds the same to all scores of all queries: softmax does not see it.
    """
    start = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_hidden_ptr += batch * q_hidden_strides[0] + head * q_hidden_strides[1]
    k_hidden_ptr += batch * k_hidden_strides[0] + head * k_hidden_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    v_cols = tl.arange(0, BLOCK_DV)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    n_whole, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    bounds = 0, n_whole, n_tiles
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            scores = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
            for number in range(0, n_hidden):
                q = _load_number(q_hidden_ptr, number, queries, q_hidden_strides, Tq)
                k = _load_number(k_hidden_ptr, number, keys, k_hidden_strides, Tk)
                weight = tl.load(vector_ptr + number * vector_strides[0]).to(tl.float32)
                scores -= 2 * weight / (1 + tl.exp2(q[:, None] + k[None, :]))
            scores *= scale * LOG2E
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            if stretch == 1:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores, v = hide(scores, v, visible)
            acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

    out = acc / nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, out, queries, v_cols, out_strides, Tq, Dv)


def _project(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return a view (B, H, T, hidden) of float32, in which the tokens of one number are neighbours.

    The kernel loads them so, number by number. torch would round the product to the dtype of x.
    """
    B, H, T, D = x.shape
    n_hidden = weights.shape[1]
    BLOCK, BLOCK_H, options = _project_tiling(D, n_hidden, x.element_size())
    hidden = x.new_empty(B, H, n_hidden, T, dtype=torch.float32).mT
    _scoring_project_kernel[(triton.cdiv(T, BLOCK), H, B)](
        x, weights, hidden,
        x.stride(), weights.stride(), hidden.stride(),
        T, n_hidden, D, padded(D), BLOCK_H, BLOCK, **options,
    )  # fmt: skip
    return hidden


def _tiling(width: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return what `tiling` does, with a tile's scores, which stay for long, on more threads."""
    BLOCK_Q, BLOCK_K, options = tiling(width, dtype_bytes)
    return BLOCK_Q, BLOCK_K, options | {"num_warps": 8}


def _project_tiling(width: int, n_hidden: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK, tokens of a program, BLOCK_H, hidden numbers at a time, and the options."""
    BLOCK = 64 if dtype_bytes < 4 else 32 if width <= 64 else 16
    return BLOCK, min(padded(n_hidden), BLOCK), {"num_warps": 4, "num_stages": 1}


def _check_shapes(where: str, width: int, query_weights, key_weights, vector) -> None:
    hidden = vector.shape[-1] if vector.ndim else 0
    for name, tensor, shape in (
        ("vector", vector, (max(hidden, 1),)),
        ("query_weights", query_weights, (width, hidden)),
        ("key_weights", key_weights, (width, hidden)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{where}: {name} must have shape {shape}, got {tuple(tensor.shape)}")


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    hidden: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    The product with `vector` is among the FLOPs, although no `tl.dot` makes it; the exponentials,
    which take most of the time, are no products. Each tile reads the hidden numbers of its queries
    anew.
    """
    hidden = check_count("scoring.cost", "hidden", hidden, least=1)
    causal = check_flag("scoring.cost", "causal", causal)
    BLOCK_Q, BLOCK_K, _ = _tiling(D, dtype_bytes)
    tiles = loaded = rows = 0
    for start in range(0, Tq, BLOCK_Q):
        _, n_tiles = key_tiles.fn(start, Tq, Tk, BLOCK_Q, BLOCK_K, causal)
        tiles += n_tiles
        loaded += min(n_tiles * BLOCK_K, Tk)
        rows += n_tiles * min(BLOCK_Q, Tq - start)
    BLOCK, BLOCK_H, _ = _project_tiling(D, hidden, dtype_bytes)
    programs = triton.cdiv(Tq, BLOCK) + triton.cdiv(Tk, BLOCK)
    projecting = programs * BLOCK * triton.cdiv(hidden, BLOCK_H) * BLOCK_H * padded(D)
    out, projected = B * H * Tq * D * dtype_bytes, B * H * (Tq + Tk) * hidden * 4
    read = (Tq + Tk + programs * hidden) * D + tiles * hidden + loaded * D
    return Cost(
        flops=2 * B * H * (projecting + tiles * BLOCK_Q * BLOCK_K * (hidden + padded(D))),
        bytes_read=B * H * (read * dtype_bytes + (rows + loaded) * hidden * 4),
        bytes_written=out + projected,
        peak_bytes=out + projected,
    )
