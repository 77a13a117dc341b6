"""The Triton twin of Performer: in the interpreter, or on the GPU where there is one."""

import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, performer
from attncourse.reference import performer as reference

import torch  # isort: skip
from twins import (
    DTYPES,
    close,
    each_dtype,
    each_layout,
    equals_reference,
    peak_of,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")

# (Tq, Tk, D, Dv, n_features, features, causal)
CASES = [
    (1, 1, 16, 16, 256, "positive", True),
    (63, 63, 20, 33, 16, "positive", True),
    (100, 128, 64, 16, 50, "positive", False),
    (100, 63, 16, 16, 20, "positive", True),  # the first queries see nothing
    (40, 40, 256, 200, 7, "positive", True),
    (63, 100, 20, 16, 100, "trigonometric", True),
    (128, 40, 16, 16, 128, "trigonometric", False),
    (5, 0, 16, 16, 8, "positive", False),
    (0, 5, 16, 16, 8, "trigonometric", True),
]


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("number", [-np.inf, np.inf])
def test_an_infinite_key_weighs_what_it_does_in_the_reference(number):
    q, k, v = tensors(6, 6, 4)
    k[..., 2, 1] = number
    knobs = {"n_features": 1, "seed": 3}
    out = performer.attention(q, k, v, **knobs).cpu().numpy()
    expected = reference.attention(*(x.cpu().numpy() for x in (q, k, v)), **knobs)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, n_features, features, causal = case
    q, k, v = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    if features == "trigonometric":
        q, k = q / 2, k / 2  # or the normaliser may come near 0
    knobs = {"n_features": n_features, "features": features, "seed": 3, "causal": causal}
    # features are rounded to the dtype, for queries and for keys
    equals_reference(performer, reference, q, k, v, roundings=4, chunk=16, **knobs)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_directions_are_those_of_the_reference(orthogonal):
    mine = performer._directions(40, 24, orthogonal, 5, torch.device("cpu"))
    theirs = reference.draw_features(40, 24, orthogonal=orthogonal, seed=5)
    assert np.array_equal(mine.numpy(), theirs)
    q, k, v = tensors(20, 20, 24)
    knobs = {"n_features": 40, "orthogonal": orthogonal, "seed": 5}
    equals_reference(performer, reference, q, k, v, roundings=4, **knobs)


def test_features_times_their_factor_are_those_of_the_reference():
    (x, _, _) = tensors(50, 50, 24)
    directions = performer._directions(40, 24, True, 0, x.device)
    for features in performer.FEATURES:
        phi, tops = performer._features(x, directions, features, 0.2)
        mine = (phi * torch.exp2(tops)[..., None] / 40**0.5).cpu().numpy()
        theirs = reference.feature_map(
            x.cpu().numpy(), directions.cpu().numpy(), features=features, scale=0.2
        )
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_exponents_beyond_every_number(dtype):
    """Of a key of length 40, exp(-|k|²/2 · scale) is exp(-200): no float32, no float16."""
    q, k, v = tensors(150, 150, 16, dtype=dtype)
    k = k * torch.linspace(0.1, 10, 150, device=k.device, dtype=dtype)[:, None]
    for rows in (k, k.flip(2)):  # the state fades for ever; it stays, and keys fade
        for causal in (False, True):
            knobs = {"n_features": 64, "chunk": 16, "causal": causal}
            # an exponent of 200 carries 2⁷ more roundings than one of 1
            equals_reference(performer, reference, q, rows, v, roundings=256, **knobs)


def test_features_further_apart_than_float16_reaches():
    """Of a query and a key that point apart, both of length 14, the products of features count."""
    q, k, v = tensors(64, 64, 16, dtype=torch.float16)
    q, k = (14 * x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    for causal in (False, True):
        knobs = {"n_features": 64, "chunk": 16, "scale": 1.0, "causal": causal}
        equals_reference(performer, reference, q, k, v, roundings=16, **knobs)


def test_parts_are_merged_at_their_own_exponents():
    q, k, v = tensors(1, 600, 16, 8, dtype=torch.float16)
    k[..., 300:, :] *= 6
    directions = performer._directions(8, 16, True, 0, k.device)
    _, tops = performer._features(k, directions, "positive", 1.0)
    assert tops.amax() - tops.amin() > 100  # powers of two
    for causal in (False, True):
        knobs = {"n_features": 8, "chunk": 16, "scale": 1.0, "causal": causal}
        equals_reference(performer, reference, q, k, v, roundings=256, **knobs)


def test_the_future_changes_nothing():
    q, k, v = tensors(150, 150, 16)
    knobs = {"n_features": 32, "chunk": 32, "causal": True}
    before = performer.attention(q, k, v, **knobs)
    k[..., 100:, :] *= 20
    v[..., 100:, :] -= 1
    after = performer.attention(q, k, v, **knobs)
    assert torch.equal(before[..., :100, :], after[..., :100, :])
    assert (before[..., 100:, :] != after[..., 100:, :]).any(-1).all()


def test_rows_without_keys_give_zeros():
    out = performer.attention(*tensors(90, 10, 16), n_features=16, causal=True)
    assert not out[..., :80, :].any() and out[..., 80:, :].all()


@each_layout
def test_any_strides_give_the_same_values(layout):
    whole = tensors(10, 20, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    knobs = {"n_features": 24, "causal": True}
    mine, theirs = (performer.attention(*inputs, **knobs) for inputs in (views, whole))
    # other strides spread a tile over other threads, and so sum it in another order
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0 if INTERPRETED else 1e-6)
    again = performer.attention(*views, **knobs)
    assert torch.equal(mine, again)


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(100, 128), (20, 300), (63, 40), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernels_do(sizes, causal):
    for D, m in ((16, 100), (40, 16)):
        inputs = tensors(*sizes, D, dtype=torch.float16)
        knobs = {"n_features": m, "chunk": 32, "causal": causal}
        traced = trace.record(performer.attention, *inputs, **knobs)
        cost = performer.cost(1, 1, *sizes, D, **knobs, dtype_bytes=2)
        assert not traced.out_of_bounds
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)


def test_flops_grow_in_line_with_the_tokens():
    short, long = (
        performer.cost(1, 8, n, n, 64, n_features=256, causal=True, dtype_bytes=2)
        for n in (2**14, 2**17)
    )
    assert 7.9 < long.flops / short.flops < 8.1
    assert long.peak_bytes < 8 * short.peak_bytes  # the states do not grow


def bad_calls():
    inputs = tensors(6, 6, 16)
    few = {"n_features": 8}
    yield ValueError, "n_features must be at least 1, got 0", inputs, {"n_features": 0}
    yield TypeError, "n_features must be an integer, got float", inputs, {"n_features": 2.5}
    yield ValueError, "at most 256 with positive.*on chip, got 257", inputs, {"n_features": 257}
    yield (
        ValueError,
        "at most 128 with trigonometric.*, got 129",
        inputs,
        {"n_features": 129, "features": "trigonometric"},
    )
    yield ValueError, "features must be one of", inputs, few | {"features": "negative"}
    yield ValueError, "scale must be at least 0, got -1", inputs, few | {"scale": -1}
    yield ValueError, "chunk must be at least 1, got 0", inputs, few | {"chunk": 0}
    yield ValueError, "seed must be at least 0, got -1", inputs, few | {"seed": -1}
    yield ValueError, "must not require grad", tensors(6, 6, 16, grad=True), few
    yield ValueError, "D must be between 1 and 256, got 257", tensors(2, 2, 257, 16), few


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, inputs, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^performer\.attention: .*" + words):
        performer.attention(*inputs, **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    knobs = {"n_features": 256, "causal": causal}
    peak = peak_of(performer.attention, *inputs, **knobs)
    expected = performer.cost(1, 4, 4096, 4096, 64, **knobs, dtype_bytes=2).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected


@pytest.mark.gpu
def test_long_sequences_in_half_precision():
    for dtype in (torch.float16, torch.bfloat16):
        q, k, v = tensors(5000, 5000, 64, heads=2, dtype=dtype)
        knobs = {"n_features": 256, "causal": True}
        out = performer.attention(q, k, v, **knobs)
        exact = reference.attention(*(t.double().cpu().numpy() for t in (q, k, v)), **knobs)
        exact = torch.from_numpy(exact).to(out.device)
        close(out, dtype, exact, exact, roundings=4)
