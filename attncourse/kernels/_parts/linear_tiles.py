"""What the kernels of linear attention share: features of a tile, and how the work is cut."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from attncourse.kernels._parts.tiles import finite, is_hopper, nonzero, padded

PROGRAMS = 512  # enough to keep the 132 multiprocessors of an H100 busy
MAX_SLICES = 16  # of one head: 256 columns, the most that there are, in slices of 16
MAX_PARTS = 16  # a program adds up the states of all parts before its own


@triton.jit
def features(x, rows, cols, n_rows, n_cols, ELU: tl.constexpr, PRECISION: tl.constexpr):
    """φ of a tile in float32, for exp(x) leaves the range of float16 at x = -17.

    Zeros outside of the matrix, where φ(0) = 1 would join the sums.
    """
    phi = x.to(tl.float32)
    if ELU:
        inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
        phi = tl.where(phi < 0.0, tl.exp(tl.minimum(phi, 0.0)), phi + 1.0)  # NaN stays
        phi = tl.where(inside, phi, 0.0)
    if PRECISION == "tf32":  # drop what products would drop, so that the normaliser drops it too
        phi = (phi.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return phi


@triton.jit
def features_backward(x, grad, ELU: tl.constexpr):
    """The gradient with respect to x, given the one with respect to φ(x)."""
    return grad * tl.exp(tl.minimum(x.to(tl.float32), 0.0)) if ELU else grad


@triton.jit
def existing(tokens, n_tokens):
    """Token numbers, those below 0 moved beyond the end, where nothing is loaded or stored."""
    return tl.where(tokens < 0, n_tokens, tokens)


@triton.jit
def load_totals(total_ptr, delta_ptr, rows, strides, n_rows):
    """1 / normaliser, and minus what its gradient is, of the given queries."""
    in_rows = rows < n_rows
    total = tl.load(total_ptr + rows * strides[-1], mask=in_rows, other=1.0)  # [BLOCK]
    delta = tl.load(delta_ptr + rows * strides[-1], mask=in_rows, other=0.0)  # [BLOCK]
    return 1.0 / nonzero(total), delta


@triton.jit
def load_tops(tops_ptr, keys, strides, n_keys):
    """The exponents, to base 2, that the features of these keys came without; see `scan`."""
    return tl.load(tops_ptr + keys * strides[-1], mask=keys < n_keys, other=float("-inf"))


@triton.jit
def relative(tops, largest):
    """2^tops relative to 2^largest, so at most 1; 0 where there is no key."""
    return tl.exp2(tops - finite(largest))


def row_strides(tensor: torch.Tensor | None) -> tuple[int, ...]:
    """Return the strides of (B, H, T), or zeros where there is no tensor."""
    return (0, 0, 0) if tensor is None else tensor.stride()


def all_strides(*tensors: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the strides of each of these tensors."""
    return [tensor.stride() for tensor in tensors]


def precision(q: torch.Tensor) -> str:
    """Return how float32 is multiplied: exactly for float32 inputs, else to ten bits.

    States and scores outgrow the range of float16; TF32 has its bits and the range of float32.
    """
    return "ieee" if q.dtype == torch.float32 else "tf32"


class Tiles(NamedTuple):
    """How the work is cut: BLOCK tokens of a chunk, PART tokens and SLICE columns of a program."""

    BLOCK: int
    PART: int
    SLICE: int
    options: dict[str, int]


def tiles_for(B, H, Tq, Tk, D, Dv, chunk, dtype_bytes, *, fading=False) -> Tiles:
    """Return the sizes for q, k and v of these; `fading` for `scan`.

    Parts are as short as keeps the GPU busy, but long enough that tokens outweigh the states.
    """
    BLOCK, SLICE, options = largest_block(max(D, Dv), dtype_bytes, fading)
    BLOCK = min(BLOCK, padded(min(chunk, BLOCK)))
    chunks = triton.cdiv(max(Tq, Tk), BLOCK)
    programs = max(1, B * H * triton.cdiv(Dv, SLICE))
    parts = min(MAX_PARTS, triton.cdiv(PROGRAMS, programs))
    least = triton.cdiv(4 * padded(max(D, Dv)), BLOCK)
    return Tiles(BLOCK, BLOCK * max(least, triton.cdiv(chunks, parts)), SLICE, options)


def of_backward(forward: Tiles, D: int, Dv: int, dtype_bytes: int) -> Tiles:
    """Return the sizes of the backward pass: the same parts, for it reads the states of each."""
    BLOCK, SLICE, options = largest_block(max(D, Dv), dtype_bytes, False, backward=True)
    return Tiles(min(BLOCK, forward.BLOCK), forward.PART, SLICE, options)


def largest_block(
    width: int, dtype_bytes: int, fading: bool, *, backward: bool = False
) -> tuple[int, int, dict[str, int]]:
    """Return the most tokens of a chunk, the columns of a slice, and the options of the launch.

    As in `tiling`, nothing spills at these sizes, but for float32 wider than 128, or than 64 if
    `fading`, which keeps the exponents of a chunk beside its scores. On a Hopper the forward pass
    takes what was measured to be faster; causal and wider than 64 it spills too.
    """
    timed = is_hopper() and dtype_bytes == 2 and not fading and not backward
    if dtype_bytes == 4:
        sizes = (32, 32, 8, 1) if width <= 64 and not fading else (16, 16, 8, 1)
    elif timed and width <= 128:
        sizes = (64, 64, 4, 3) if width <= 64 else (64, 32, 4, 2)
    elif width <= 64:
        sizes = (32 if fading else 64, 32, 4, 2)
    elif width <= 128:
        sizes = (32, 32, 8, 2)
    else:
        sizes = (16, 16, 8, 1)
    BLOCK, SLICE, num_warps, num_stages = sizes
    return BLOCK, SLICE, {"num_warps": num_warps, "num_stages": num_stages}


def slice_of_dv(SLICE: int, Dv: int, dtype_bytes: int) -> int:
    """Return BLOCK_E of the kernel for dv, which in float32 would spill at a whole slice."""
    return 16 if dtype_bytes == 4 else min(SLICE, padded(Dv))


def slices_of(D: int, Dv: int, dtype_bytes: int, *, fading: bool = False) -> int:
    """Return the most programs that share a part of one head: slices of D or Dv columns."""
    width = max(D, Dv)
    SLICE = min(
        largest_block(width, dtype_bytes, fading, backward=backward)[1]
        for backward in (False, True)
    )
    return triton.cdiv(width, slice_of_dv(SLICE, width, dtype_bytes))


def cut(Tq: int, Tk: int, PART: int, causal: bool) -> tuple[int, int, int]:
    """Return lead, offset and n_parts: how keys are cut, so that parts end where queries' do.

    Part p holds the keys from offset + p · PART, and if causal, part s of the queries sits at the
    keys of part s + lead and sees those of the first s + lead parts whole. Summed up are n_parts:
    the last one's own sum nobody needs.
    """
    if not causal:
        return 0, 0, triton.cdiv(Tk, PART)
    ahead = Tk - Tq
    lead = -(-ahead // PART)
    return lead, ahead - lead * PART, max(0, triton.cdiv(Tq, PART) + lead - 1)
