"""Launchers for exercise 09.5: one kernel, and the loops that learners write.

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
def _flash_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n_queries, n_keys, scale, last,
    LOOP: tl.constexpr, STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The kernel of the exercise; LOOP gives the running sum and the summed values.

    STEP updates the maximum; without HIDE keys beyond the end are seen, without MASK they are read.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    cols = tl.arange(0, D)
    in_rows = rows[:, None] < n_queries
    at_rows = rows[:, None] * D + cols[None, :]  # [BLOCK, D]
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_sum, acc = LOOP(
        q, q_ptr + at_rows, in_rows, k_ptr, v_ptr, n_keys, scale, last, STEP, HIDE, MASK, D, BLOCK
    )
    tl.store(out_ptr + at_rows, acc / running_sum[:, None], mask=in_rows)


@triton.jit
def _tile(ptr, start, n_keys, D: tl.constexpr, BLOCK: tl.constexpr):
    keys = start + tl.arange(0, BLOCK)
    at_keys = keys[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(ptr + at_keys, mask=keys[:, None] < n_keys, other=0.0)  # [BLOCK, D]


@triton.jit
def _scores(q, k, start, n_keys, scale, BLOCK: tl.constexpr):
    keys = start + tl.arange(0, BLOCK)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
    return tl.where(keys[None, :] < n_keys, scores, float("-inf"))


@triton.jit
def _online(
    q, q_at, in_rows, k_ptr, v_ptr, n_keys, scale, last,
    STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The online softmax with another STEP, with padding that is seen, or without masks."""
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, last, BLOCK):
        k = _tile(k_ptr, start, n_keys if MASK else start + BLOCK, D, BLOCK)
        v = _tile(v_ptr, start, n_keys if MASK else start + BLOCK, D, BLOCK)
        scores = _scores(q, k, start, n_keys if HIDE else start + BLOCK, scale, BLOCK)
        new_max, shift, keep_sum, keep_acc = STEP(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - shift[:, None])
        running_sum = running_sum * keep_sum + tl.sum(weights, 1)
        acc = acc * keep_acc[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    return running_sum, acc


@triton.jit
def _right(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    rescale = tl.exp(running_max - new_max)
    return new_max, new_max, rescale, rescale


@triton.jit
def _keeping_values(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    return new_max, new_max, tl.exp(running_max - new_max), tl.full(tile_max.shape, 1.0, tl.float32)


@triton.jit
def _keeping_sum(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    return new_max, new_max, tl.full(tile_max.shape, 1.0, tl.float32), tl.exp(running_max - new_max)


@triton.jit
def _upwards(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    rescale = tl.where(running_max == float("-inf"), 0.0, tl.exp(new_max - running_max))
    return new_max, new_max, rescale, rescale


@triton.jit
def _keeping_both(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    rescale = tl.where(running_max == float("-inf"), 0.0, 1.0)
    return new_max, new_max, rescale, rescale


@triton.jit
def _not_updated(running_max, tile_max):
    new_max = tl.maximum(running_max, tile_max)
    rescale = tl.exp(running_max - new_max)
    return running_max, new_max, rescale, rescale


@triton.jit
def _none(running_max, tile_max):
    one = tl.full(tile_max.shape, 1.0, tl.float32)
    return tile_max, 0.0 * one, one, one


@triton.jit
def _two_passes(
    q, q_at, in_rows, k_ptr, v_ptr, n_keys, scale, last,
    STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, n_keys, BLOCK):
        k = _tile(k_ptr, start, n_keys, D, BLOCK)
        row_max = tl.maximum(row_max, tl.max(_scores(q, k, start, n_keys, scale, BLOCK), 1))
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, n_keys, BLOCK):
        k = _tile(k_ptr, start, n_keys, D, BLOCK)
        weights = tl.exp(_scores(q, k, start, n_keys, scale, BLOCK) - row_max[:, None])
        running_sum += tl.sum(weights, 1)
        v = _tile(v_ptr, start, n_keys, D, BLOCK)
        acc += tl.dot(weights, v, input_precision="ieee")
    return running_sum, acc


@triton.jit
def _q_again(
    q, q_at, in_rows, k_ptr, v_ptr, n_keys, scale, last,
    STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, n_keys, BLOCK):
        q = tl.load(q_at, mask=in_rows, other=0.0)
        scores = _scores(q, _tile(k_ptr, start, n_keys, D, BLOCK), start, n_keys, scale, BLOCK)
        new_max, shift, rescale, _ = _right(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - shift[:, None])
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        v = _tile(v_ptr, start, n_keys, D, BLOCK)
        acc = acc * rescale[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    return running_sum, acc


@triton.jit
def _with_exp2(
    q, q_at, in_rows, k_ptr, v_ptr, n_keys, scale, last,
    STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Powers of two, scores transposed, values before keys."""
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, n_keys, BLOCK):
        v = _tile(v_ptr, start, n_keys, D, BLOCK)
        k = _tile(k_ptr, start, n_keys, D, BLOCK)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * 1.4426950408889634)
        visible = (start + tl.arange(0, BLOCK))[:, None] < n_keys
        scores = tl.where(visible, scores, float("-inf"))  # keys down, queries across
        new_max = tl.maximum(running_max, tl.max(scores, 0))
        weights = tl.exp2(scores - new_max[None, :])
        rescale = tl.exp2(running_max - new_max)
        running_sum = running_sum * rescale + tl.sum(weights, 0)
        acc = acc * rescale[:, None] + tl.dot(tl.trans(weights), v, input_precision="ieee")
        running_max = new_max
    return running_sum, acc


@triton.jit
def _with_lse(
    q, q_at, in_rows, k_ptr, v_ptr, n_keys, scale, last,
    STEP: tl.constexpr, HIDE: tl.constexpr, MASK: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep normalised values and one log-sum-exp, as the first FlashAttention did."""
    lse = tl.full((BLOCK,), float("-inf"), tl.float32)
    out = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, n_keys, BLOCK):
        k = _tile(k_ptr, start, n_keys, D, BLOCK)
        v = _tile(v_ptr, start, n_keys, D, BLOCK)
        scores = _scores(q, k, start, n_keys, scale, BLOCK)
        highest = tl.maximum(lse, tl.max(scores, 1))
        total = tl.exp(lse - highest) + tl.sum(tl.exp(scores - highest[:, None]), 1)
        new_lse = highest + tl.log(total)
        out *= tl.exp(lse - new_lse)[:, None]
        out += tl.dot(tl.exp(scores - new_lse[:, None]), v, input_precision="ieee")
        lse = new_lse
    return tl.full((BLOCK,), 1.0, tl.float32), out


def _launcher(
    step: Callable = _right,
    loop: Callable = _online,
    *,
    hide: bool = True,
    mask: bool = True,
    scaled: bool = True,
    whole: bool = True,
) -> Callable:
    """Return a launcher; without `whole` it leaves out the last, shorter tile of keys."""

    def launch(q, k, v):
        n_queries, width = q.shape
        out = torch.empty_like(q)
        _flash_fwd_kernel[(triton.cdiv(n_queries, BLOCK),)](
            q, k, v, out, n_queries, len(k), 1 / math.sqrt(width) if scaled else 1.0,
            len(k) if whole else len(k) // BLOCK * BLOCK,
            LOOP=loop, STEP=step, HIDE=hide, MASK=mask, D=width, BLOCK=BLOCK,
        )  # fmt: skip
        return out

    return launch


with_exp2 = _launcher(loop=_with_exp2)
with_lse = _launcher(loop=_with_lse)
two_passes = _launcher(loop=_two_passes)
q_in_the_loop = _launcher(loop=_q_again)
values_not_rescaled = _launcher(_keeping_values)
sum_not_rescaled = _launcher(_keeping_sum)
nothing_rescaled = _launcher(_keeping_both)
rescaled_upwards = _launcher(_upwards)
maximum_kept = _launcher(_not_updated)
no_maximum = _launcher(_none)
no_scale = _launcher(scaled=False)
padding_attended = _launcher(hide=False)
last_tile_left_out = _launcher(whole=False)
loads_not_masked = _launcher(mask=False)
