"""Launchers for exercise 04.5: one kernel, and the tile bounds that learners write.

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
def _window_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, window, scale,
    BOUNDS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The kernel of the exercise; BOUNDS(tile, n, window, BLOCK) gives its first and last tile."""
    tile = tl.program_id(0)
    rows = tile * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    in_rows = rows[:, None] < n
    at_rows = rows[:, None] * D + tl.arange(0, D)[None, :]  # [BLOCK, D]
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    first_tile, last_tile = BOUNDS(tile, n, window, BLOCK)
    for key_tile in range(first_tile, last_tile):
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        in_keys = keys[:, None] < n
        at_keys = keys[:, None] * D + tl.arange(0, D)[None, :]
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        visible = (keys[None, :] < n) & (tl.abs(rows[:, None] - keys[None, :]) <= window)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        pivot = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp(scores - pivot[:, None])
        fade = tl.exp(running_max - pivot)
        running_sum = running_sum * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    total = tl.where(running_sum == 0.0, 1.0, running_sum)
    tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def _launcher(bounds: Callable) -> Callable:
    def launch(q, k, v, window):
        n, width = q.shape
        out = torch.empty_like(q)
        _window_fwd_kernel[(triton.cdiv(n, BLOCK),)](
            q, k, v, out, n, window, 1 / math.sqrt(width), BOUNDS=bounds, D=width, BLOCK=BLOCK
        )
        return out

    return launch


@triton.jit
def _right(tile, n, window, BLOCK: tl.constexpr):
    first_tile = tl.maximum(0, tile * BLOCK - window) // BLOCK
    return first_tile, tl.cdiv(tl.minimum(n, (tile + 1) * BLOCK + window), BLOCK)


@triton.jit
def _by_radius_in_tiles(tile, n, window, BLOCK: tl.constexpr):
    radius = tl.cdiv(window, BLOCK)
    return tl.maximum(0, tile - radius), tl.minimum(tl.cdiv(n, BLOCK), tile + radius + 1)


@triton.jit
def _by_last_key(tile, n, window, BLOCK: tl.constexpr):
    last_key = tl.minimum(n - 1, tile * BLOCK + BLOCK - 1 + window)
    return tl.maximum(0, tile * BLOCK - window) // BLOCK, last_key // BLOCK + 1


@triton.jit
def _all_tiles(tile, n, window, BLOCK: tl.constexpr):
    return 0, tl.cdiv(n, BLOCK)


@triton.jit
def _one_tile_more(tile, n, window, BLOCK: tl.constexpr):
    first_tile, last_tile = _right(tile, n, window, BLOCK)
    return tl.maximum(0, first_tile - 1), last_tile + 1


@triton.jit
def _from_the_start(tile, n, window, BLOCK: tl.constexpr):
    return 0, _right(tile, n, window, BLOCK)[1]


@triton.jit
def _to_the_end(tile, n, window, BLOCK: tl.constexpr):
    return _right(tile, n, window, BLOCK)[0], tl.cdiv(n, BLOCK)


@triton.jit
def _own_tile_only(tile, n, window, BLOCK: tl.constexpr):
    return tile, tile + 1


@triton.jit
def _nothing_to_the_right(tile, n, window, BLOCK: tl.constexpr):
    return _right(tile, n, window, BLOCK)[0], tile + 1


@triton.jit
def _window_rounded_down(tile, n, window, BLOCK: tl.constexpr):
    radius = window // BLOCK
    return tl.maximum(0, tile - radius), tl.minimum(tl.cdiv(n, BLOCK), tile + radius + 1)


@triton.jit
def _last_tile_excluded(tile, n, window, BLOCK: tl.constexpr):
    first_tile, last_tile = _right(tile, n, window, BLOCK)
    return first_tile, last_tile - 1


@triton.jit
def _not_clipped_at_zero(tile, n, window, BLOCK: tl.constexpr):
    return tile - tl.cdiv(window, BLOCK), _right(tile, n, window, BLOCK)[1]


by_radius_in_tiles = _launcher(_by_radius_in_tiles)
by_last_key = _launcher(_by_last_key)
all_tiles = _launcher(_all_tiles)
one_tile_more = _launcher(_one_tile_more)
from_the_start = _launcher(_from_the_start)
to_the_end = _launcher(_to_the_end)
own_tile_only = _launcher(_own_tile_only)
nothing_to_the_right = _launcher(_nothing_to_the_right)
window_rounded_down = _launcher(_window_rounded_down)
last_tile_excluded = _launcher(_last_tile_excluded)
not_clipped_at_zero = _launcher(_not_clipped_at_zero)
