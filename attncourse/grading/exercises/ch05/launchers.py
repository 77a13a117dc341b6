"""Launchers for exercise 05.5: one kernel, and the ways to walk a list that learners write.

Importing this needs Triton, and `attncourse.kernels` before: it switches the interpreter on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl

import attncourse.kernels  # noqa: F401  chooses the interpreter where there is no GPU

BLOCK = 16


@triton.jit
def _block_list_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, starts_ptr, blocks_ptr, layout_ptr, n, n_tiles, scale,
    ENDS: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The kernel of the exercise; ENDS gives the loop, TILE the key tile and whether it counts."""
    tile = tl.program_id(0)
    rows = tile * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    in_rows = rows[:, None] < n
    at_rows = rows[:, None] * D + tl.arange(0, D)[None, :]  # [BLOCK, D]
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    first, last = ENDS(tile, n_tiles, starts_ptr, blocks_ptr)
    for entry in range(first, last):
        key_tile, counts = TILE(entry, tile, n_tiles, first, last, blocks_ptr, layout_ptr)
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        in_keys = keys[:, None] < n
        at_keys = keys[:, None] * D + tl.arange(0, D)[None, :]
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((keys[None, :] < n) & counts, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        pivot = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp(scores - pivot[:, None])
        fade = tl.exp(running_max - pivot)
        running_sum = running_sum * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    total = tl.where(running_sum == 0.0, 1.0, running_sum)
    tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def _launcher(ends: Callable, tile: Callable) -> Callable:
    def launch(q, k, v, layout):
        n, width = q.shape
        out = torch.empty_like(q)
        starts = torch.zeros(len(layout) + 1, dtype=torch.int32, device=q.device)
        starts[1:] = layout.sum(1).cumsum(0)
        blocks = layout.nonzero()[:, 1].int()
        n_tiles = triton.cdiv(n, BLOCK)
        _block_list_fwd_kernel[(n_tiles,)](
            q, k, v, out, starts, blocks, layout.int(), n, n_tiles, 1 / math.sqrt(width),
            ENDS=ends, TILE=tile, D=width, BLOCK=BLOCK,
        )  # fmt: skip
        return out

    return launch


@triton.jit
def _own_list(tile, n_tiles, starts_ptr, blocks_ptr):
    return tl.load(starts_ptr + tile), tl.load(starts_ptr + tile + 1)


@triton.jit
def _every_tile(tile, n_tiles, starts_ptr, blocks_ptr):
    return 0, n_tiles


@triton.jit
def _from_zero(tile, n_tiles, starts_ptr, blocks_ptr):
    first, last = _own_list(tile, n_tiles, starts_ptr, blocks_ptr)
    return 0, last - first


@triton.jit
def _without_last(tile, n_tiles, starts_ptr, blocks_ptr):
    first, last = _own_list(tile, n_tiles, starts_ptr, blocks_ptr)
    return first, last - 1


@triton.jit
def _with_next(tile, n_tiles, starts_ptr, blocks_ptr):
    first, last = _own_list(tile, n_tiles, starts_ptr, blocks_ptr)
    return first, last + 1


@triton.jit
def _first_to_last(tile, n_tiles, starts_ptr, blocks_ptr):
    first, last = _own_list(tile, n_tiles, starts_ptr, blocks_ptr)
    some = last > first
    first_tile = tl.load(blocks_ptr + first, mask=some, other=0)
    return first_tile, tl.load(blocks_ptr + last - 1, mask=some, other=-1) + 1


@triton.jit
def _listed(entry, tile, n_tiles, first, last, blocks_ptr, layout_ptr):
    return tl.load(blocks_ptr + entry), True


@triton.jit
def _from_behind(entry, tile, n_tiles, first, last, blocks_ptr, layout_ptr):
    return tl.load(blocks_ptr + first + last - 1 - entry), True


@triton.jit
def _itself(entry, tile, n_tiles, first, last, blocks_ptr, layout_ptr):
    return entry, True


@triton.jit
def _masked(entry, tile, n_tiles, first, last, blocks_ptr, layout_ptr):
    return entry, tl.load(layout_ptr + tile * n_tiles + entry) != 0


listed = _launcher(_own_list, _listed)
listed_backwards = _launcher(_own_list, _from_behind)
all_tiles_masked = _launcher(_every_tile, _masked)
all_tiles = _launcher(_every_tile, _itself)
entry_as_tile = _launcher(_own_list, _itself)
first_list = _launcher(_from_zero, _listed)
last_left_out = _launcher(_without_last, _listed)
one_too_many = _launcher(_with_next, _listed)
whole_range = _launcher(_first_to_last, _itself)
