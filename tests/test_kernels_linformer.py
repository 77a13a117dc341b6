"""The Triton twin of Linformer: in the interpreter, or on the GPU where there is one."""

import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, linformer
from attncourse.reference import linformer as reference

import torch  # isort: skip
from twins import (
    DEVICE,
    DTYPES,
    close,
    definition,
    each_dtype,
    each_layout,
    equals_reference,
    peak_of,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def projections(rank, n_keys, *leading, dtype=torch.float32, seed=7):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*leading, rank, n_keys, generator=generator) / n_keys**0.5 for _ in "EF"]
    names = "key_projection", "value_projection"
    return {n: d.to(DEVICE, dtype) for n, d in zip(names, drawn, strict=True)}


def exact(q, k, v, *, key_projection, value_projection):
    everything = torch.ones(q.shape[-2], key_projection.shape[-2], dtype=torch.bool, device=DEVICE)
    return definition(q, key_projection @ k, value_projection @ v, everything)


# (Tq, Tk, D, Dv, rank, leading axes of the projections)
CASES = [
    (1, 1, 16, 16, 1, ()),
    (63, 100, 20, 33, 40, ()),
    (100, 63, 64, 16, 63, (2,)),
    (128, 128, 16, 100, 128, (1, 1)),
    (5, 130, 256, 200, 20, (1, 2)),
    (5, 0, 16, 16, 0, ()),
    (0, 5, 16, 16, 2, ()),
]


@each_dtype(CASES)
def test_values_and_gradients_against_float64(case, dtype):
    Tq, Tk, D, Dv, rank, leading = case
    heads = leading[-1] if leading else 1
    inputs = tensors(Tq, Tk, D, Dv, heads=heads, dtype=dtype, grad=True)
    given = projections(rank, Tk, *leading, dtype=dtype)
    everything = [*inputs, *(given[name].requires_grad_() for name in given)]
    out = linformer.attention(*inputs, **given)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    runs = []
    for work in (torch.float64, torch.float32):
        twins = [tensor.detach().to(work).requires_grad_() for tensor in everything]
        result = exact(*twins[:3], **dict(zip(given, twins[3:], strict=True)))
        result.backward(grad_out.to(work))
        runs.append([result.detach(), *(twin.grad for twin in twins)])
    results = [out.detach(), *(tensor.grad for tensor in everything)]
    for mine, true, single in zip(results, *runs, strict=True):
        if mine.numel():  # mixed keys and values are rounded to the dtype, and so their gradients
            close(mine, dtype, true, single, roundings=8)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_sums_of_keys_beyond_float16(dtype):
    """3000 keys of 50 are 150,000, and float16 ends at 65,504."""
    q, k, v = tensors(8, 3000, 16, dtype=dtype)
    k = torch.full_like(k, 50)
    given = projections(4, 3000, dtype=dtype) | {"key_projection": q.new_ones(4, 3000)}
    equals_reference(linformer, reference, q, k, v, roundings=2, **given)


def test_a_projection_that_keeps_all_keys_is_flash():
    inputs = tensors(40, 50, 16)
    identity = torch.eye(50, device=DEVICE)
    out = linformer.attention(*inputs, key_projection=identity, value_projection=identity)
    assert torch.equal(out, flash.attention(*inputs, **linformer.TILES))


@each_layout
def test_any_strides_give_the_same_values(layout):
    whole = tensors(20, 40, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    given = projections(10, 40, 2, 2)
    turned = {name: with_nan_margins(tensor, layout) for name, tensor in given.items()}
    out = linformer.attention(*views, **turned)
    torch.testing.assert_close(out, linformer.attention(*whole, **given), rtol=0, atol=1e-6)
    assert torch.equal(out, linformer.attention(*views, **turned))


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("sizes", [(150, 300), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_kernel_and_products_do(sizes):
    for width, rank in ((16, 100), (100, 8)):
        rank = min(rank, sizes[1])
        given = projections(rank, sizes[1], dtype=torch.float16)
        inputs = tensors(*sizes, width, dtype=torch.float16)
        traced = trace.record(linformer.attention, *inputs, **given)
        knobs = {"rank": max(rank, 1), "dtype_bytes": 2}
        whole, apart = (
            f(1, 1, *sizes, width, **knobs) for f in (linformer.cost, linformer.torch_cost)
        )
        assert not traced.out_of_bounds
        assert traced.flops == whole.flops - apart.flops
        assert traced.bytes_loaded() == whole.bytes_read - apart.bytes_read
        assert traced.bytes_stored() == whole.bytes_written - apart.bytes_written


def test_the_products_are_counted_as_those_of_the_reference():
    mine = linformer.torch_cost(2, 3, 100, 200, 64, rank=50)
    theirs = reference.cost(2, 3, 100, 200, 64, rank=50)
    assert mine.flops == theirs.flops - 4 * 6 * 100 * 50 * 64
    assert mine.bytes_written == theirs.bytes_written - 6 * 100 * 64 * 4


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    good = projections(3, 6)
    yield ValueError, "cannot be causal", (q, k, v), good | {"causal": True}
    half = good["key_projection"].half()
    yield (
        ValueError,
        "key_projection must be torch.float32 on",
        (q, k, v),
        good | {"key_projection": half},
    )
    array = np.ones((3, 6))
    yield (
        TypeError,
        "value_projection must be a torch tensor, got ndarray",
        (q, k, v),
        good | {"value_projection": array},
    )
    yield (
        ValueError,
        r"shape \(rank, 6\) with rank at most 6.*got \(7, 6\)",
        (q, k, v),
        projections(7, 6),
    )
    yield ValueError, r"broadcasting to \(1, 1\), got \(2, 3, 6\)", (q, k, v), projections(3, 6, 2)
    yield ValueError, r"got \(3, 5\)", (q, k, v), projections(3, 5)
    other = {"value_projection": projections(4, 6)["value_projection"]}
    yield ValueError, "must have the same rank, got 3 and 4", (q, k, v), good | other


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, inputs, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^linformer\.attention: .*" + words):
        linformer.attention(*inputs, **knobs)


@pytest.mark.gpu
def test_extra_memory_is_what_cost_says():
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    given = projections(256, 4096, dtype=torch.bfloat16)
    peak = peak_of(linformer.attention, *inputs, **given)
    expected = linformer.cost(1, 4, 4096, 4096, 64, rank=256, dtype_bytes=2).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected
