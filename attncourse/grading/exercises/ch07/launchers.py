"""Launchers for exercise 07.5: one kernel, and the steps of its scan that learners write.

Importing this needs Triton, and `attncourse.kernels` before: it switches the interpreter on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

import attncourse.kernels  # noqa: F401  chooses the interpreter where there is no GPU

BLOCK = 16


@triton.jit
def _load(x_ptr, head, rows, n, D: tl.constexpr):
    cols = tl.arange(0, D)
    at = head * n * D + rows[:, None] * D + cols[None, :]
    return tl.load(x_ptr + at, mask=rows[:, None] < n, other=0.0)


@triton.jit
def _scan_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n,
    STEP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The kernel of the exercise; STEP returns acc, total and the new state and norm."""
    head = tl.program_id(0)
    cols = tl.arange(0, D)
    state = tl.zeros((D, D), tl.float32)
    norm = tl.zeros((D,), tl.float32)
    for first in range(0, n, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        phi_q = _load(q_ptr, head, rows, n, D)
        phi_k = _load(k_ptr, head, rows, n, D)
        v = _load(v_ptr, head, rows, n, D)
        acc, total, state, norm = STEP(phi_q, phi_k, v, state, norm, rows)
        out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        at = head * n * D + rows[:, None] * D + cols[None, :]
        tl.store(out_ptr + at, out, mask=rows[:, None] < n)


@triton.jit
def _looking_back_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """No state: each chunk of queries loads all chunks of keys up to its own."""
    head = tl.program_id(0)
    cols = tl.arange(0, D)
    for first in range(0, n, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        phi_q = _load(q_ptr, head, rows, n, D)
        acc = tl.zeros((BLOCK, D), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, first + BLOCK, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            phi_k = _load(k_ptr, head, keys, n, D)
            v = _load(v_ptr, head, keys, n, D)
            own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")
            own = tl.where(rows[:, None] >= keys[None, :], own, 0.0)
            acc += tl.dot(own, v, input_precision="ieee")
            total += tl.sum(own, 1)
        out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        at = head * n * D + rows[:, None] * D + cols[None, :]
        tl.store(out_ptr + at, out, mask=rows[:, None] < n)


def _launcher(step: Callable) -> Callable:
    def launch(phi_q, phi_k, v):
        heads, n, width = phi_q.shape
        out = torch.empty_like(v)
        _scan_fwd_kernel[(heads,)](phi_q, phi_k, v, out, n, STEP=step, D=width, BLOCK=BLOCK)
        return out

    return launch


@triton.jit
def _read(phi_q, state, norm):
    """What all earlier chunks give: numerator and normaliser."""
    return tl.dot(phi_q, state, input_precision="ieee"), tl.sum(phi_q * norm[None, :], 1)


@triton.jit
def _triangle(phi_q, phi_k, rows, FROM: tl.constexpr):
    """The scores of the own chunk, from FROM tokens before the query on."""
    own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")
    return tl.where(rows[:, None] >= rows[None, :] + FROM, own, 0.0)


@triton.jit
def _join(phi_k, v, state, norm):
    state += tl.dot(tl.trans(phi_k), v, input_precision="ieee")
    return state, norm + tl.sum(phi_k, 0)


@triton.jit
def _right(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


@triton.jit
def _by_difference(phi_q, phi_k, v, state, norm, rows):
    """Join first, then take off what lies ahead."""
    state, norm = _join(phi_k, v, state, norm)
    acc, total = _read(phi_q, state, norm)
    ahead = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")
    ahead = tl.where(rows[:, None] < rows[None, :], ahead, 0.0)
    acc -= tl.dot(ahead, v, input_precision="ieee")
    return acc, total - tl.sum(ahead, 1), state, norm


@triton.jit
def _by_weights(phi_q, phi_k, v, state, norm, rows):
    """Sum the normaliser from φ(q) @ norm as a product, and mask by multiplication."""
    visible = (rows[:, None] >= rows[None, :]).to(tl.float32)
    own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee") * visible
    total = tl.sum(own, 1) + tl.sum(phi_q * norm[None, :], 1)
    acc = tl.dot(phi_q, state, input_precision="ieee") + tl.dot(own, v, input_precision="ieee")
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


@triton.jit
def _joined_too_early(phi_q, phi_k, v, state, norm, rows):
    state, norm = _join(phi_k, v, state, norm)
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    return acc, total + tl.sum(own, 1), state, norm


@triton.jit
def _future_seen(phi_q, phi_k, v, state, norm, rows):
    state, norm = _join(phi_k, v, state, norm)
    acc, total = _read(phi_q, state, norm)
    return acc, total, state, norm


@triton.jit
def _own_key_missing(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 1)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


@triton.jit
def _state_forgotten(phi_q, phi_k, v, state, norm, rows):
    own = _triangle(phi_q, phi_k, rows, 0)
    acc = tl.dot(own, v, input_precision="ieee")
    return acc, tl.sum(own, 1), state, norm


@triton.jit
def _state_replaced(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    return acc, total, tl.dot(tl.trans(phi_k), v, input_precision="ieee"), tl.sum(phi_k, 0)


@triton.jit
def _normaliser_of_the_state(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


@triton.jit
def _transposed(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state += tl.dot(tl.trans(v), phi_k, input_precision="ieee")
    return acc, total, state, norm + tl.sum(phi_k, 0)


@triton.jit
def _mask_reversed(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")
    own = tl.where(rows[:, None] <= rows[None, :], own, 0.0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


@triton.jit
def _norm_forgotten(phi_q, phi_k, v, state, norm, rows):
    acc, _ = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    state, norm = _join(phi_k, v, state, norm)
    return acc, tl.sum(own, 1), state, norm


@triton.jit
def _keys_not_transposed(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = _triangle(phi_q, phi_k, rows, 0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state += tl.dot(phi_k, v, input_precision="ieee")
    return acc, total, state, norm + tl.sum(phi_k, 0)


@triton.jit
def _scores_not_transposed(phi_q, phi_k, v, state, norm, rows):
    acc, total = _read(phi_q, state, norm)
    own = tl.dot(phi_q, phi_k, input_precision="ieee")
    own = tl.where(rows[:, None] >= rows[None, :], own, 0.0)
    acc += tl.dot(own, v, input_precision="ieee")
    total += tl.sum(own, 1)
    state, norm = _join(phi_k, v, state, norm)
    return acc, total, state, norm


def looking_back(phi_q, phi_k, v):
    """Launch the kernel without a state."""
    heads, n, width = phi_q.shape
    out = torch.empty_like(v)
    _looking_back_kernel[(heads,)](phi_q, phi_k, v, out, n, D=width, BLOCK=BLOCK)
    return out


right = _launcher(_right)
by_difference = _launcher(_by_difference)
by_weights = _launcher(_by_weights)
joined_too_early = _launcher(_joined_too_early)
future_seen = _launcher(_future_seen)
own_key_missing = _launcher(_own_key_missing)
state_forgotten = _launcher(_state_forgotten)
state_replaced = _launcher(_state_replaced)
normaliser_of_the_state = _launcher(_normaliser_of_the_state)
transposed = _launcher(_transposed)
mask_reversed = _launcher(_mask_reversed)
norm_forgotten = _launcher(_norm_forgotten)
keys_not_transposed = _launcher(_keys_not_transposed)
scores_not_transposed = _launcher(_scores_not_transposed)
