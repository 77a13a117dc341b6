"""Performer (FAVOR+) in Triton: a kernel for its features, then the scan of linear attention."""

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions.directions import draw_directions
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.linear_tiles import MAX_SLICES, slices_of
from attncourse.kernels._parts.tiles import (
    LOG2E,
    MAX_WIDTH,
    check_grid,
    check_no_grad,
    check_tensors,
    finite,
    load_tile,
    padded,
    store_tile,
)
from attncourse.kernels.linear import scan, scan_cost

FEATURES = ("positive", "trigonometric")


@in_grids(each=MAX_SLICES)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    n_features: int,
    features: str = "positive",
    orthogonal: bool = True,
    seed: int = 0,
    chunk: int = 64,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return φ(q) (φ(k)ᵀ v), rows divided by φ(q) · Σ φ(k), with φ(q) · φ(k) ≈ exp(q · k · scale).

    One kernel makes the features, each row divided by its own largest exponential, which for keys
    is kept as one number beside them. Then the kernels of `linear` sum keys into a state of fixed
    size, relative to the largest exponent so far: exp cannot overflow, no later key is looked at,
    and the (Tq, Tk) matrix is never made.

    Contract: `attncourse.kernels`; knobs: `reference.performer.attention`.
    n_features is at most 256, or 128 if trigonometric: a state of more does not fit on chip. `seed`
    draws the reference's directions, which stay for the next call. `chunk` as in `linear`.
    Gradients: none.
    Memory: the output; the features of all tokens, (B, H, Tq + Tk, m + 1) float32; at most
        16 states (B, H, m, Dv + 1) float32.
    """
    where = "performer.attention"
    check_tensors(where, q, k, v)
    chunk = check_count(where, "chunk", chunk, least=1)
    causal = check_flag(where, "causal", causal)
    factor = _factor(where, q.shape[-1], features, scale)
    n_features = check_count(where, "n_features", n_features, least=1)
    orthogonal = check_flag(where, "orthogonal", orthogonal)
    seed = check_count(where, "seed", seed)
    n_numbers = _n_numbers(where, n_features, features)
    check_no_grad(where, q, k, v)
    slices = slices_of(n_numbers, v.shape[-1], q.element_size(), fading=True)
    check_grid(where, {"heads × slices": q.shape[1] * slices, "batch": q.shape[0]})
    directions = _directions(n_features, q.shape[-1], orthogonal, seed, q.device)
    with torch.cuda.device_of(q):
        phi_q, _ = _features(q, directions, features, factor)
        phi_k, tops = _features(k, directions, features, factor)
        return scan(phi_q, phi_k, v, tops, chunk=chunk, causal=causal)


@triton.jit
def _performer_features_kernel(
    x_ptr, directions_ptr, phi_ptr, tops_ptr,
    x_strides, directions_strides, phi_strides, tops_strides,
    T, n_directions, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr,
    POSITIVE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the features of BLOCK tokens of one head.

    exp(w·x - |x|²/2) is taken relative to the row's largest, whose exponent goes to tops. With sin
    and cos only the common factor exp(|x|²/2) needs that. Exponents are to base 2: see LOG2E.
    """
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    x_ptr += batch * x_strides[0] + head * x_strides[1]
    phi_ptr += batch * phi_strides[0] + head * phi_strides[1]
    tops_ptr += batch * tops_strides[0] + head * tops_strides[1]
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.arange(0, BLOCK_M)
    projected = tl.zeros([BLOCK, BLOCK_M], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    for first in range(0, D, BLOCK_D):  # all directions do not fit on chip at full width
        cols = first + tl.arange(0, BLOCK_D)
        x = load_tile(x_ptr, tokens, cols, x_strides, T, D).to(tl.float32)
        w = load_tile(directions_ptr, rows, cols, directions_strides, n_directions, D)
        projected = tl.dot(x, tl.trans(w), projected, input_precision=PRECISION)  # [BLOCK, BLOCK_M]
        square += tl.sum(x * x, 1)
    projected *= tl.sqrt(scale)  # as if x had been scaled
    half_square = square * (scale * 0.5 * LOG2E)  # [BLOCK]
    if POSITIVE:
        exponents = projected * LOG2E
        exponents = tl.where((rows < n_directions)[None, :], exponents, float("-inf"))
        largest = tl.max(exponents, 1)  # [BLOCK]
        phi = tl.exp2(exponents - finite(largest)[:, None])  # [BLOCK, BLOCK_M]
        store_tile(phi_ptr, phi, tokens, rows, phi_strides, T, n_directions)
        tops = largest - half_square
    else:
        phi = tl.sin(projected)
        store_tile(phi_ptr, phi, tokens, rows, phi_strides, T, n_directions)
        phi_ptr += n_directions * phi_strides[3]  # cos stands beside sin
        phi = tl.cos(projected)
        store_tile(phi_ptr, phi, tokens, rows, phi_strides, T, n_directions)
        tops = half_square
    tl.store(tops_ptr + tokens * tops_strides[2], tops, mask=tokens < T)


def _features(x, directions, features, scale) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, H, T, m or 2m) and (B, H, T), float32: φ(x) is 2^tops times the first.

    Of a long x the features lie further apart than float16 reaches, and a query's small ones count
    where its keys' are large.
    """
    B, H, T, D = x.shape
    n_directions = len(directions)
    n_numbers = n_directions if features == "positive" else 2 * n_directions
    phi = x.new_empty(B, H, T, n_numbers, dtype=torch.float32)
    tops = x.new_empty(B, H, T, dtype=torch.float32)
    BLOCK, BLOCK_D, options = _feature_tiling(n_directions, x.element_size())
    # float16 and bfloat16 fit in TF32 exactly; three products keep the directions' other bits
    precision = "ieee" if x.dtype == torch.float32 else "tf32x3"
    _performer_features_kernel[(triton.cdiv(T, BLOCK), H, B)](
        x, directions, phi, tops,
        x.stride(), directions.stride(), phi.stride(), tops.stride(),
        T, n_directions, scale,
        D, BLOCK_D, padded(n_directions), BLOCK, features == "positive", precision, **options,
    )  # fmt: skip
    return phi, tops


def _feature_tiling(n_directions: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK, tokens of a program, BLOCK_D, numbers of x multiplied at a time, and options.

    As in `tiling`, nothing spills at these sizes.
    """
    BLOCK, num_warps = (32, 4) if n_directions <= 64 else (32, 8)
    return BLOCK, 16 if dtype_bytes == 4 else 32, {"num_warps": num_warps, "num_stages": 2}


@functools.lru_cache(maxsize=32)
def _drawn(n_features, width, orthogonal, seed) -> np.ndarray:
    return draw_directions("performer.attention", n_features, width, orthogonal, seed)


def _directions(n_features, width, orthogonal, seed, device) -> torch.Tensor:
    """Return the reference's directions (m, D) float32; they are drawn once, and copied anew."""
    return torch.from_numpy(_drawn(n_features, width, orthogonal, seed)).to(device)


def _factor(where: str, width: int, features: str, scale: float | None) -> float:
    """Return the scale, and refuse what has no feature map."""
    if features not in FEATURES:
        raise ValueError(f"{where}: features must be one of {FEATURES}, got {features!r}")
    factor = check_scale(where, scale, width)
    if not factor >= 0:
        raise ValueError(f"{where}: scale must be at least 0, got {scale}")
    return factor


def _n_numbers(where: str, n_features: int, features: str) -> int:
    """Return the numbers in one row of features, and refuse more than a state can have."""
    n_features = check_count(where, "n_features", n_features, least=1)
    each = 1 if features == "positive" else 2
    if each * n_features > MAX_WIDTH:
        raise ValueError(
            f"{where}: n_features must be at most {MAX_WIDTH // each} with {features} features, "
            f"whose state must fit on chip, got {n_features}"
        )
    return each * n_features


@int_sizes
@counted_in_grids(each=MAX_SLICES)
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_features: int,
    chunk: int = 64,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    The features are positive. What comes after them counts as in `linear.cost`; each program that
    makes features reads all directions.
    """
    m = _n_numbers("performer.cost", n_features, "positive")
    chunk = check_count("performer.cost", "chunk", chunk, least=1)
    causal = check_flag("performer.cost", "causal", causal)
    BLOCK, BLOCK_D, _ = _feature_tiling(m, dtype_bytes)
    programs = triton.cdiv(Tq, BLOCK) + triton.cdiv(Tk, BLOCK)
    made = B * H * (Tq + Tk) * (m + 1) * 4
    scanned = scan_cost(B, H, Tq, Tk, m, D, chunk, causal, dtype_bytes, fading=True)
    return Cost(
        flops=2 * B * H * programs * BLOCK * padded(m) * triton.cdiv(D, BLOCK_D) * BLOCK_D
        + scanned.flops,
        bytes_read=B * H * ((Tq + Tk) * D * dtype_bytes + programs * m * D * 4)
        + scanned.bytes_read,
        bytes_written=made + scanned.bytes_written,
        peak_bytes=made + scanned.peak_bytes,
    )
