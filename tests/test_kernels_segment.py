"""The Triton twin of segment recurrence: in the interpreter, or on the GPU where there is one."""

import itertools
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, segment
from attncourse.reference import segment as reference

import torch  # isort: skip
from twins import (
    DEVICE,
    close,
    definition,
    each_dtype,
    each_layout,
    gradients,
    peak_of,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")

# (Tq, Tk, D, Dv, chunk, memory, causal)
CASES = [
    (1, 1, 16, 16, 4, 2, True),
    (63, 63, 20, 33, 16, 20, True),  # memory over more than one segment, and a ragged end
    (128, 128, 16, 16, 32, 32, False),
    (37, 100, 16, 8, 16, 5, True),  # the first query sits within a segment
    (100, 37, 16, 24, 16, 16, True),  # the first queries see nothing
    (100, 37, 16, 16, 100, 7, False),
    (20, 40, 256, 200, 10, 0, True),
    (5, 0, 16, 16, 3, 2, False),
    (0, 5, 16, 16, 3, 2, True),
]


@each_dtype(CASES)
def test_values_and_gradients_against_float64(case, dtype):
    Tq, Tk, D, Dv, chunk, memory, causal = case
    knobs = {"chunk": chunk, "memory": memory, "causal": causal}
    mine = tensors(
        Tq, Tk, D, Dv, heads=1 + (Tq == 63), batch=1 + (Tq == 37), dtype=dtype, grad=True
    )
    out = segment.attention(*mine, **knobs)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    mask = torch.from_numpy(reference.mask(Tq, Tk, **knobs)).to(DEVICE)
    runs = []
    for work in (torch.float64, torch.float32):
        twins = [tensor.detach().to(work) for tensor in mine]
        grads = gradients(*twins, mask, grad_out.to(work))
        runs.append([definition(*twins, mask), *grads])
    for tensor, exact, single in zip([out.detach(), *(t.grad for t in mine)], *runs, strict=True):
        # each segment that sees a key rounds its part of the key's gradient to the dtype
        close(tensor, dtype, exact.nan_to_num(), single.nan_to_num(), roundings=4)


def test_segments_that_are_alike_go_in_one_launch():
    sizes = itertools.product(range(20), range(20), (1, 3, 8, 30), (0, 1, 3, 5, 30))
    for Tq, Tk, chunk, memory in sizes:
        one_by_one = []
        launches = list(segment._launches(Tq, Tk, chunk, memory))
        for rows, keys, count in launches:
            for step in range(0, count * chunk, chunk):
                shifted = [range(x.start + step, x.stop + step) for x in (rows, keys)]
                one_by_one.append(shifted)
        mask = reference.mask(Tq, Tk, chunk=chunk, memory=memory)
        for rows, keys in one_by_one:
            assert mask[rows.start : rows.stop, keys.start : keys.stop].all()
            mask[rows.start : rows.stop, keys.start : keys.stop] = False
        assert not mask.any()
        assert len(launches) <= 3 + -(-memory // chunk)


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
def test_a_batch_goes_in_one_launch():
    """Where heads of all sequences are evenly apart, as those of contiguous tensors are."""
    inputs = tensors(40, 40, 16, heads=2, batch=3)
    knobs = {"chunk": 10, "memory": 10}
    traced = trace.record(segment.attention, *inputs, **knobs)
    assert len(traced.launches) == len(list(segment._launches(40, 40, 10, 10)))
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    outs = [segment.attention(*x, **knobs) for x in (inputs, apart)]
    assert torch.equal(*outs)


def test_the_future_changes_nothing():
    q, k, v = tensors(100, 100, 16)
    knobs = {"chunk": 16, "memory": 8, "causal": True}
    before = segment.attention(q, k, v, **knobs)
    k[..., 60:, :] += 1
    v[..., 60:, :] -= 1
    after = segment.attention(q, k, v, **knobs)
    assert torch.equal(before[..., :60, :], after[..., :60, :])
    assert (before[..., 60:, :] != after[..., 60:, :]).any(-1).all()


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(20, 30, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    outs = [segment.attention(*x, chunk=10, memory=4) for x in (whole, views, views)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(100, 150), (150, 63), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernels_and_copies_do(sizes, causal):
    knobs = {"chunk": 30, "memory": 40, "causal": causal}
    traced = trace.record(segment.attention, *tensors(*sizes, 40, dtype=torch.float16), **knobs)
    cost, apart = (
        f(1, 1, *sizes, 40, **knobs, dtype_bytes=2) for f in (segment.cost, segment.torch_cost)
    )
    assert not traced.out_of_bounds
    assert traced.flops == cost.flops
    assert traced.bytes_loaded() == cost.bytes_read - apart.bytes_read
    assert traced.bytes_stored() == cost.bytes_written - apart.bytes_written


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    good = {"chunk": 2, "memory": 1}
    yield ValueError, "chunk must be at least 1, got 0", (q, k, v), good | {"chunk": 0}
    yield TypeError, "chunk must be an integer, got float", (q, k, v), good | {"chunk": 2.5}
    yield ValueError, "memory must be at least 0, got -1", (q, k, v), good | {"memory": -1}
    yield ValueError, "same number of keys", (q, k, v[:, :, 1:]), good


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, inputs, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^segment\.attention: .*" + words):
        segment.attention(*inputs, **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    knobs = {"chunk": 128, "memory": 128, "causal": causal}
    peak = peak_of(segment.attention, *inputs, **knobs)
    expected = segment.cost(1, 4, 4096, 4096, 64, **knobs, dtype_bytes=2).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected
