"""The Triton twin of T5's bias: in the interpreter, or on the GPU where there is one."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, t5
from attncourse.reference import t5 as reference

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


def random_table(n_buckets=32, heads=1, dtype=torch.float32):
    return torch.from_numpy(reference.random_table(n_buckets, heads)).to(DEVICE, dtype)


# (Tq, Tk, D, Dv, n_buckets, max_distance, causal)
CASES = [
    (1, 1, 16, 16, 4, 2, False),
    (63, 63, 20, 33, 8, 9, True),
    (200, 300, 16, 16, 8, 20, False),  # far before, near and far past in one program
    (100, 63, 16, 16, 8, 20, True),  # the first queries see nothing
    (40, 100, 64, 16, 32, 200, False),  # no pair is beyond
    (40, 30, 256, 200, 4, 3, True),
    (5, 0, 16, 16, 32, 128, False),
    (0, 5, 16, 16, 32, 128, True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, n_buckets, max_distance, causal = case
    heads = 1 + (Tq == 63)
    inputs = tensors(Tq, Tk, D, Dv, heads=heads, dtype=dtype)
    knobs = {"table": random_table(n_buckets, heads, dtype), "max_distance": max_distance}
    # the weights are rounded to the dtype
    out = equals_reference(t5, reference, *inputs, roundings=2, causal=causal, **knobs)
    if causal and Tq > Tk:
        assert not out[..., : Tq - Tk, :].any()


def test_a_table_of_zeros_is_flash():
    q, k, v = tensors(70, 100, 16, heads=2)
    for causal in (False, True):
        out = t5.attention(q, k, v, table=torch.zeros(32, 2, device=DEVICE), causal=causal)
        whole = flash.attention(q, k, v, block_q=64, block_k=64, causal=causal)
        torch.testing.assert_close(out, whole)


def test_one_column_serves_all_heads():
    q, k, v = tensors(50, 50, 16, heads=3)
    table = random_table()
    out = t5.attention(q, k, v, table=table)
    assert torch.equal(out, t5.attention(q, k, v, table=table.expand(-1, 3)))


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(10, 20, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    table = random_table(32, 2)
    turned = with_nan_margins(table[None, None], layout)[0, 0]
    outs = [t5.attention(*x, table=t) for x, t in ((whole, table), (views, turned))]
    assert torch.equal(*outs)


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(150, 300), (300, 63), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernel_does(sizes, causal):
    for width, most in ((16, 17), (100, 40)):
        inputs = tensors(*sizes, width, dtype=torch.float16)
        knobs = {"max_distance": most, "causal": causal}
        table = random_table(dtype=torch.float16)
        traced = trace.record(t5.attention, *inputs, table=table, **knobs)
        cost = t5.cost(1, 1, *sizes, width, **knobs, dtype_bytes=2)
        assert not traced.out_of_bounds
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)


def test_far_tiles_read_no_more_than_those_of_flash():
    n, D = 2**14, 64
    whole = flash.cost(1, 1, n, n, D, block_q=64, block_k=64, dtype_bytes=2)
    mine = t5.cost(1, 1, n, n, D, dtype_bytes=2)
    assert mine.flops == whole.flops
    assert mine.peak_bytes < 1.001 * n * D * 2


def bad_calls():
    table = random_table(32, 2)
    yield TypeError, "table must be a torch tensor, got list", {"table": table.tolist()}
    yield ValueError, "table must be torch.float32 on", {"table": table.half()}
    yield ValueError, r"table must have shape \(n_buckets, 2\)", {"table": table.expand(4, 32, 2)}
    yield ValueError, "n_buckets must be even, got 31", {"table": table[1:]}
    yield ValueError, "max_distance must be at least 9", {"table": table, "max_distance": 8}
    yield TypeError, "max_distance must be an integer", {"table": table, "max_distance": 9.5}
    yield ValueError, "must not require grad", {"table": table.clone().requires_grad_()}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^t5\.attention: .*" + words):
        t5.attention(*tensors(6, 6, 16, heads=2), **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    table = random_table(32, 4, torch.bfloat16)
    peak = peak_of(t5.attention, *inputs, table=table, causal=causal)
    cost = t5.cost(1, 4, 4096, 4096, 64, causal=causal, dtype_bytes=2)
    assert abs(peak - cost.peak_bytes) <= 0.02 * cost.peak_bytes
