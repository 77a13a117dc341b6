"""The Triton twin of additive attention: in the interpreter, or on the GPU where there is one."""

import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, scoring
from attncourse.kernels._parts.tiles import key_tiles, tiling
from attncourse.reference import scoring as reference

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


def parameters(D, hidden, dtype=torch.float32):
    drawn = reference.random_parameters(D, hidden)
    names = "query_weights", "key_weights", "vector"
    return {n: torch.from_numpy(x).to(DEVICE, dtype) for n, x in zip(names, drawn, strict=True)}


# (Tq, Tk, D, Dv, hidden, causal)
CASES = [
    (1, 1, 16, 16, 1, True),
    (63, 100, 20, 33, 16, True),
    (128, 100, 64, 16, 5, False),
    (100, 63, 16, 16, 4, True),  # the first queries see nothing
    (20, 30, 256, 200, 70, False),
    (5, 0, 16, 16, 2, False),
    (0, 5, 16, 16, 2, True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, hidden, causal = case
    inputs = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    given = parameters(D, hidden, dtype)
    # the weights are rounded to the dtype; a sum of many terms loses about the root of their number
    rounded = {"roundings": 2 if dtype != torch.float32 else 8}
    out = equals_reference(scoring, reference, *inputs, **rounded, causal=causal, **given)
    if causal and Tq > Tk:
        assert not out[..., : Tq - Tk, :].any()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of the interpreter
def test_saturated_scores_do_not_overflow():
    q, k, v = tensors(40, 40, 16)
    given = parameters(16, 8)
    equals_reference(scoring, reference, q * 1e4, k, v, roundings=8, **given)
    out = scoring.attention(q, k, v, scale=1e4, **given)
    assert out.isfinite().all()


def test_the_future_changes_nothing():
    q, k, v = tensors(100, 100, 16)
    given = parameters(16, 4)
    before = scoring.attention(q, k, v, causal=True, **given)
    k[..., 60:, :] += 1
    v[..., 60:, :] -= 1
    after = scoring.attention(q, k, v, causal=True, **given)
    assert torch.equal(before[..., :60, :], after[..., :60, :])
    assert (before[..., 60:, :] != after[..., 60:, :]).any(-1).all()


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(10, 20, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    given = parameters(20, 3)
    turned = {
        name: x.repeat_interleave(2)[::2]
        if x.ndim == 1
        else with_nan_margins(x[None, None], layout)[0, 0]
        for name, x in given.items()
    }
    runs = (whole, given), (views, turned), (views, turned)
    outs = [scoring.attention(*inputs, causal=True, **x) for inputs, x in runs]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(100, 150), (150, 63), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernels_do(sizes, causal):
    for width, hidden in ((16, 4), (100, 17)):
        inputs = tensors(*sizes, width, dtype=torch.float16)
        given = parameters(width, hidden, torch.float16)
        traced = trace.record(scoring.attention, *inputs, causal=causal, **given)
        cost = scoring.cost(1, 1, *sizes, width, hidden=hidden, causal=causal, dtype_bytes=2)
        assert not traced.out_of_bounds
        assert (traced.bytes_loaded(), traced.bytes_stored()) == (
            cost.bytes_read,
            cost.bytes_written,
        )
        BLOCK_Q, BLOCK_K, _ = tiling(width, 2)
        tiles = sum(
            key_tiles.fn(start, *sizes, BLOCK_Q, BLOCK_K, causal)[1]
            for start in range(0, sizes[0], BLOCK_Q)
        )
        assert traced.flops == cost.flops - 2 * tiles * BLOCK_Q * BLOCK_K * hidden


def test_memory_is_linear_in_the_tokens():
    short, long = (scoring.cost(1, 8, n, n, 64, hidden=64) for n in (2**12, 2**15))
    assert long.peak_bytes == 8 * short.peak_bytes


def bad_calls():
    good = parameters(16, 4)
    yield TypeError, "vector must be a torch tensor, got ndarray", good | {"vector": np.ones(4)}
    yield ValueError, "vector must be torch.float32", good | {"vector": good["vector"].half()}
    yield (
        ValueError,
        r"vector must have shape \(1,\), got \(0,\)",
        good | {"vector": good["vector"][:0]},
    )
    yield (
        ValueError,
        r"query_weights must have shape \(16, 3\), got \(16, 4\)",
        good | {"vector": good["vector"][1:]},
    )
    yield (
        ValueError,
        r"key_weights must have shape \(16, 4\), got \(15, 4\)",
        good | {"key_weights": good["key_weights"][1:]},
    )
    yield (
        ValueError,
        "must not require grad",
        good | {"vector": good["vector"].clone().requires_grad_()},
    )


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^scoring\.attention: .*" + words):
        scoring.attention(*tensors(6, 6, 16), **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    peak = peak_of(scoring.attention, *inputs, causal=causal, **parameters(64, 16, torch.bfloat16))
    cost = scoring.cost(1, 4, 4096, 4096, 64, hidden=16, causal=causal, dtype_bytes=2)
    assert abs(peak - cost.peak_bytes) <= 0.02 * cost.peak_bytes
