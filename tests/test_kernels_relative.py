"""The Triton twin of relative positions: in the interpreter, or on the GPU where there is one."""

import itertools
import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, relative
from attncourse.kernels._parts.tiles import key_tiles
from attncourse.reference import relative as reference

import torch  # isort: skip
from twins import (
    DEVICE,
    each_dtype,
    each_layout,
    equals_reference,
    peak_of,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def tables(max_distance, D, Dv=None, dtype=torch.float32):
    drawn = reference.random_tables(max_distance, D, Dv or D)
    names = "relative_keys", "relative_values"
    return {n: torch.from_numpy(t).to(DEVICE, dtype) for n, t in zip(names, drawn, strict=True)}


# (Tq, Tk, D, Dv, max_distance, causal)
CASES = [
    (1, 1, 16, 16, 0, True),
    (63, 63, 20, 33, 4, True),
    (128, 200, 16, 16, 3, False),  # far before, near and far past in one program
    (100, 63, 16, 16, 10, True),  # the first queries see nothing
    (40, 100, 64, 16, 200, False),  # no pair is clipped
    (150, 60, 16, 24, 0, False),
    (40, 30, 256, 200, 5, True),
    (5, 0, 16, 16, 2, False),
    (0, 5, 16, 16, 2, True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, max_distance, causal = case
    inputs = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    given = tables(max_distance, D, Dv, dtype)
    # the weights are rounded to the dtype, twice
    out = equals_reference(relative, reference, *inputs, roundings=4, causal=causal, **given)
    if causal and Tq > Tk:
        assert not out[..., : Tq - Tk, :].any()


def test_tables_of_zeros_are_flash():
    q, k, v = tensors(70, 100, 16)
    zeros = {name: torch.zeros_like(table) for name, table in tables(5, 16).items()}
    for causal in (False, True):
        out = relative.attention(q, k, v, causal=causal, **zeros)
        whole = flash.attention(q, k, v, block_q=64, block_k=64, causal=causal)
        torch.testing.assert_close(out, whole)


def test_the_stretches_hold_the_tiles_that_they_should():
    for Tq, Tk, most, BLOCK_Q, BLOCK_K, causal in itertools.product(
        (1, 5, 8), range(9), (0, 1, 3, 20), (4,), (2, 4), (False, True)
    ):
        for start in range(0, Tq, BLOCK_Q):
            positions = range(start + Tk - Tq, min(start + BLOCK_Q, Tq) + Tk - Tq)
            _, end = key_tiles.fn(start, Tq, Tk, BLOCK_Q, BLOCK_K, causal)
            near, past = relative.stretches.fn(end, start, Tq, Tk, most, BLOCK_Q, BLOCK_K)
            assert 0 <= near <= past <= end
            for tile in range(end):
                away = [
                    j - i for i in positions for j in range(tile * BLOCK_K, (tile + 1) * BLOCK_K)
                ]
                kind = [max(away) <= -most, min(away) >= most]
                if tile < near:
                    assert kind[0]
                elif tile >= past:
                    assert kind[1]
                else:  # nothing is near that need not be
                    assert not kind[0] or not most
                    assert not kind[1] or not most


def test_the_future_changes_nothing():
    q, k, v = tensors(100, 100, 16)
    given = tables(6, 16)
    before = relative.attention(q, k, v, causal=True, **given)
    k[..., 60:, :] += 1
    v[..., 60:, :] -= 1
    after = relative.attention(q, k, v, causal=True, **given)
    assert torch.equal(before[..., :60, :], after[..., :60, :])
    assert (before[..., 60:, :] != after[..., 60:, :]).any(-1).all()


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(10, 20, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    given = tables(5, 20, 24)
    turned = {
        name: with_nan_margins(table[None, None], layout)[0, 0] for name, table in given.items()
    }
    outs = [
        relative.attention(*x, **t) for x, t in ((whole, given), (views, turned), (views, turned))
    ]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(150, 200), (200, 63), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernel_does(sizes, causal):
    for width, most in ((16, 3), (100, 40)):
        inputs = tensors(*sizes, width, dtype=torch.float16)
        given = tables(most, width, dtype=torch.float16)
        traced = trace.record(relative.attention, *inputs, **given, causal=causal)
        cost = relative.cost(1, 1, *sizes, width, max_distance=most, causal=causal, dtype_bytes=2)
        assert not traced.out_of_bounds
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)


def test_far_tiles_cost_no_more_than_those_of_flash():
    n, D = 2**14, 64
    whole = flash.cost(1, 1, n, n, D, block_q=64, block_k=64, dtype_bytes=2)
    mine = relative.cost(1, 1, n, n, D, max_distance=16, dtype_bytes=2)
    assert mine.flops < 1.02 * whole.flops
    assert mine.peak_bytes == n * D * 2


def bad_calls():
    good = tables(3, 16)
    keys, values = good["relative_keys"], good["relative_values"]
    yield TypeError, "relative_keys must be a torch tensor", good | {"relative_keys": np.ones(3)}
    yield (
        ValueError,
        "relative_values must be torch.float32",
        good | {"relative_values": values.half()},
    )
    yield (
        ValueError,
        r"shape \(2·max_distance \+ 1, 16\), got \(6, 16\)",
        good | {"relative_keys": keys[1:]},
    )
    yield (
        ValueError,
        r"relative_values must have shape .* got \(7, 15\)",
        good | {"relative_values": values[:, 1:]},
    )
    yield ValueError, "as many rows, got 7 and 5", good | {"relative_values": values[2:]}
    yield (
        ValueError,
        "must not require grad",
        good | {"relative_values": values.clone().requires_grad_()},
    )


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^relative\.attention: .*" + words):
        relative.attention(*tensors(6, 6, 16), **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    peak = peak_of(
        relative.attention, *inputs, causal=causal, **tables(16, 64, dtype=torch.bfloat16)
    )
    cost = relative.cost(1, 4, 4096, 4096, 64, max_distance=16, causal=causal, dtype_bytes=2)
    assert abs(peak - cost.peak_bytes) <= 0.02 * cost.peak_bytes
