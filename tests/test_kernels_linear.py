"""The Triton twin of linear attention: in the interpreter, or on the GPU where there is one."""

import functools
import itertools
import sys

import numpy as np
import oracles
import pytest
from covering import by_day

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse.kernels import INTERPRETED, linear
from attncourse.kernels._parts import tiles as parts
from attncourse.reference import linear as reference

import torch  # isort: skip
from twins import DEVICE, DTYPES, each, each_layout, tensors, with_nan_margins

from attncourse import trace  # isort: skip


@pytest.fixture(autouse=True)
def new_memory_is_full_of_nan():
    """torch.empty gives NaN, so that an element nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def definition(q, k, v, causal, feature_map=linear.elu_plus_one):
    """The whole matrix of weights, in the dtype of q; rows without keys give zeros."""
    weights = feature_map(q) @ feature_map(k).mT
    if causal:
        Tq, Tk = weights.shape[-2:]
        weights = weights * torch.ones(Tq, Tk, device=q.device).tril(Tk - Tq)
    total = weights.sum(-1, keepdim=True)
    return weights @ v / total.where(total != 0, torch.ones_like(total))


def close(mine, dtype, exact, single):
    """Within twice what float32 loses against float64, and one rounding of inputs and result.

    Features, scores and states keep as many bits as the inputs have.
    """
    assert mine.dtype == dtype and mine.shape == exact.shape
    if exact.numel():
        error, work = ((run.double() - exact).abs().max().item() for run in (mine, single))
        size = max(1.0, exact.abs().max().item())
        eps = torch.finfo(dtype).eps
        assert error <= 2 * (work + 4 * torch.finfo(torch.float32).eps * size + eps * size)


# (Tq, Tk, D, Dv, chunk)
CASES = [
    (1, 1, 16, 16, 64),
    by_day((33, 33, 20, 33, 1), (63, 63, 20, 33, 1)),
    by_day((70, 70, 16, 16, 16), (150, 150, 16, 16, 16)),  # several parts
    by_day((70, 150, 16, 8, 32), (100, 300, 16, 8, 32)),  # the first queries see whole parts
    by_day((130, 50, 16, 16, 64), (200, 70, 16, 16, 64)),  # the first queries see nothing
    (1, 40, 100, 16, 1000),
    (20, 20, 160, 256, 64),
    (5, 0, 16, 16, 64),
    (0, 5, 16, 16, 64),
]


@each(case=CASES, causal=(False, True), dtype=DTYPES)
def test_values_and_gradients_against_float64(case, causal, dtype):
    check_values_and_gradients(case, causal, dtype)


def test_a_query_that_sees_no_key_gives_zeros_whatever_it_holds():
    q, k, v = tensors(9, 4, 16)
    q[..., 2, 3] = torch.nan
    out = linear.attention(q, k, v, causal=True)
    assert not out[:, :, :5].any() and out[:, :, 5:].isfinite().all()


# (Tq, Tk, D, Dv, chunk): several parts, and queries that see whole parts, or nothing
HOPPER_CASES = [(300, 300, 64, 64, 64), (100, 700, 33, 64, 64), (600, 70, 128, 100, 64)]


@pytest.mark.usefixtures("on_a_hopper")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", by_day(HOPPER_CASES[-1:], HOPPER_CASES), ids=str)
def test_the_tiles_of_a_hopper_give_the_same_values_and_gradients(case, causal):
    check_values_and_gradients(case, causal, torch.float16)


def check_values_and_gradients(case, causal, dtype):
    Tq, Tk, D, Dv, chunk = case
    mine = tensors(Tq, Tk, D, Dv, heads=1 + (D == 20), dtype=dtype, grad=True)
    out = linear.attention(*mine, chunk=chunk, causal=causal)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    runs = []
    for work in (torch.float64, torch.float32):
        twins = [tensor.detach().to(work).requires_grad_() for tensor in mine]
        result = definition(*twins, causal)
        result.backward(grad_out.to(work))
        runs.append([result.detach(), *(twin.grad for twin in twins)])
    for tensor, exact, single in zip([out.detach(), *(t.grad for t in mine)], *runs, strict=True):
        close(tensor, dtype, exact, single)


def test_equals_the_reference_and_its_gradients():
    q, k, v = tensors(90, 130, 16, 12, heads=2, grad=True)
    arrays = [tensor.detach().cpu().numpy().astype(np.float64) for tensor in (q, k, v)]
    grad_out = np.random.default_rng(0).standard_normal((1, 2, 90, 12))
    for causal in (False, True):
        out = linear.attention(q, k, v, causal=causal)
        grads = torch.autograd.grad(out, (q, k, v), torch.tensor(grad_out).to(out))
        expected = reference.attention(*arrays, causal=causal)
        np.testing.assert_allclose(out.detach().cpu().numpy(), expected, atol=1e-6)
        expected = reference.backward(grad_out, *arrays, causal=causal)
        for mine, theirs in zip(grads, expected, strict=True):
            np.testing.assert_allclose(mine.cpu().numpy(), theirs, atol=1e-5)


def test_gradients_against_finite_differences():
    q, k, v = (t[0].cpu().double().numpy() for t in tensors(6, 4, 3, 5))
    twins = [torch.tensor(a[None], dtype=torch.float32, device=DEVICE) for a in (q, k, v)]
    for twin in twins:
        twin.requires_grad_()
    grad_out = np.random.default_rng(2).standard_normal((1, 6, 5))
    out = linear.attention(*twins, causal=True)
    out.backward(torch.tensor(grad_out[None], dtype=torch.float32, device=DEVICE))

    def loss():
        return (reference.attention(q, k, v, causal=True) * grad_out).sum()

    for array, twin in zip((q, k, v), twins, strict=True):
        expected = oracles.finite_differences(loss, array)
        np.testing.assert_allclose(twin.grad[0].cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_rows_without_keys_give_zeros_and_zero_gradients():
    mine = tensors(90, 10, 16, grad=True)
    out = linear.attention(*mine, causal=True)
    out.sum().backward()
    assert not out[..., :80, :].any() and out[..., 80:, :].all()
    assert not mine[0].grad[..., :80, :].any()
    assert all(tensor.grad.isfinite().all() for tensor in mine)


def test_the_future_changes_nothing():
    q, k, v = tensors(150, 150, 16)
    before = linear.attention(q, k, v, chunk=32, causal=True)
    k[..., 100:, :] += 1
    v[..., 100:, :] -= 1
    after = linear.attention(q, k, v, chunk=32, causal=True)
    assert torch.equal(before[..., :100, :], after[..., :100, :])
    assert (before[..., 100:, :] != after[..., 100:, :]).any(-1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_another_feature_map_runs_before_the_kernels(causal):
    def twice_as_wide(x):
        return torch.cat([x.relu(), (-x).relu()], dim=-1)

    mine = tensors(70, 100, 10, 16, grad=True)
    twins = [tensor.detach().double().requires_grad_() for tensor in mine]
    out = linear.attention(*mine, feature_map=twice_as_wide, causal=causal)
    exact = definition(*twins, causal, twice_as_wide)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-6)
    out.square().sum().backward()
    exact.square().sum().backward()
    for tensor, twin in zip(mine, twins, strict=True):
        torch.testing.assert_close(tensor.grad.double(), twin.grad, rtol=0, atol=2e-5)


def test_the_slope_of_elu_plus_one_is_one_at_zero():
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0], requires_grad=True)
    linear.elu_plus_one(x).sum().backward()
    np.testing.assert_allclose(x.grad, [np.exp(-1), 1, 1, 1], rtol=1e-6)


def test_elu_plus_one_inside_the_kernels_is_the_one_outside():
    q, k, v = tensors(70, 100, 16)
    outside = linear.attention(q, k, v, feature_map=lambda x: linear.elu_plus_one(x), causal=True)
    torch.testing.assert_close(linear.attention(q, k, v, causal=True), outside)
    np.testing.assert_allclose(
        linear.elu_plus_one(q).cpu().numpy(), reference.elu_plus_one(q.cpu().numpy()), rtol=1e-6
    )


def test_the_chunk_changes_rounding_only():
    q, k, v = tensors(100, 100, 16)
    whole = linear.attention(q, k, v, causal=True)
    for chunk in (1, 17, 2**40):
        part = linear.attention(q, k, v, chunk=chunk, causal=True)
        torch.testing.assert_close(part, whole)


def test_states_larger_than_float16_holds():
    """Scores are 16 · 101², their sum over 100 keys 1.6e7; float16 ends at 65504."""
    q, k, v = (tensor.half() for tensor in tensors(100, 100, 16))
    q, k = q + 100, k + 100
    for causal in (False, True):
        q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
        out = linear.attention(q, k, v, causal=causal)
        out.float().sum().backward()
        exact = definition(q.double(), k.double(), v.double(), causal)
        assert (out - exact).abs().max() <= 4 * torch.finfo(torch.float16).eps * exact.abs().max()
        assert all(tensor.grad.isfinite().all() for tensor in (q, k, v))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_features_smaller_than_float16_holds(dtype):
    """exp(-20) is 2e-9, and float16 ends at 6e-8; all features of a key are as small."""
    q, k, v = tensors(40, 40, 16, dtype=dtype)
    for causal in (False, True):
        inputs = [x.detach().requires_grad_() for x in (q - 20, k - 20, v)]
        out = linear.attention(*inputs, causal=causal)
        out.float().sum().backward()
        exact = [x.detach().double().requires_grad_() for x in inputs]
        definition(*exact, causal).sum().backward()
        with torch.no_grad():
            single = definition(*(x.float() for x in inputs), causal)
            close(out, dtype, definition(*exact, causal), single)
        for mine, twin in zip(inputs, exact, strict=True):
            assert (mine.grad - twin.grad).abs().max() <= 4e-3 * twin.grad.abs().max()


@each_layout
def test_any_strides_give_the_same_values(layout):
    whole = tensors(20, 40, 20, 24, heads=2, batch=2, grad=True)
    views = [with_nan_margins(tensor, layout).requires_grad_() for tensor in whole]
    grad_out = torch.ones(()).to(DEVICE).expand(2, 2, 20, 24)  # stride 0 everywhere
    results = []
    for inputs in (whole, views):
        out = linear.attention(*inputs, causal=True)
        results.append([out, *torch.autograd.grad(out, inputs, grad_out)])
    for mine, theirs in zip(*results, strict=True):
        # other strides spread a tile over other threads, and so sum it in another order
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0 if INTERPRETED else 1e-6)


def test_two_runs_give_the_same_bits():
    def run():
        mine = tensors(100, 100, 16, dtype=torch.float16, grad=True)
        out = linear.attention(*mine, causal=True)
        return [out, *torch.autograd.grad(out.float().square().sum(), mine)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_a_second_derivative_is_refused():
    mine = tensors(8, 8, 16, grad=True)
    out = linear.attention(*mine)
    (grad,) = torch.autograd.grad(out.square().sum(), mine[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# What is read and multiplied


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(150, 150), (20, 300), (200, 70), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernels_do(sizes, causal):
    for width in (16, 100):
        check_cost(sizes, width, 32, causal)


def check_cost(sizes, width, chunk, causal):
    inputs = tensors(*sizes, width, dtype=torch.float16)
    traced = trace.record(linear.attention, *inputs, chunk=chunk, causal=causal)
    cost = linear.cost(1, 1, *sizes, width, chunk=chunk, causal=causal, dtype_bytes=2)
    assert not traced.out_of_bounds
    counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
    assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [64, 128])
def test_cost_is_what_the_kernels_do_on_a_hopper(width, causal, monkeypatch):
    before = linear.cost(1, 1, 150, 300, width, causal=causal, dtype_bytes=2)
    monkeypatch.setattr(parts, "compute_capability", lambda: 90)
    check_cost((150, 300), width, 64, causal)
    after = linear.cost(1, 1, 150, 300, width, causal=causal, dtype_bytes=2)
    assert after != before


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.usefixtures("on_a_hopper")
def test_only_the_forward_pass_has_the_tiles_of_a_hopper():
    inputs = tensors(150, 150, 64, dtype=torch.float16, grad=True)
    with trace.recording() as traced:
        linear.attention(*inputs, causal=True).sum().backward()
    slices = {launch.kernel: launch.grid[1] for launch in traced.launches}
    assert slices["linear_fwd"] == 1 and slices["linear_dq"] == slices["linear_dv"] == 2


@pytest.mark.parametrize("capability", [80, 90])
def test_both_passes_cut_parts_into_whole_chunks(capability, monkeypatch):
    monkeypatch.setattr(parts, "compute_capability", lambda: capability)
    for width, dtype_bytes, chunk in itertools.product(
        (16, 64, 100, 128, 256), (2, 4), (1, 32, 64)
    ):
        forward = linear.tiles_for(1, 4, 1000, 900, width, width, chunk, dtype_bytes)
        backward = linear.of_backward(forward, width, width, dtype_bytes)
        assert forward.PART == backward.PART
        assert not forward.PART % forward.BLOCK and not forward.PART % backward.BLOCK
        slices = linear.slices_of(width, width, dtype_bytes)
        assert slices * min(forward.SLICE, backward.SLICE) >= width


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
def test_no_future_key_is_loaded_and_no_gradient_out_of_bounds():
    q, k, v = tensors(150, 150, 16, grad=True)
    with trace.recording() as traced:
        linear.attention(q, k, v, chunk=16, causal=True).sum().backward()
    assert not traced.out_of_bounds
    for program, tiles in traced.tiles("k", "linear_fwd").items():
        queries = [rows for rows, _ in traced.tiles("q", "linear_fwd")[program]]
        assert [rows for rows, _ in tiles] == queries


def test_flops_grow_in_line_with_the_tokens():
    short, long = (linear.cost(1, 8, n, n, 64, causal=True, dtype_bytes=2) for n in (2**14, 2**17))
    assert 7.9 < long.flops / short.flops < 8.1
    states = long.peak_bytes - 8 * 2**17 * (64 * 2 + 4)
    assert 0 < states <= 16 * 8 * 64 * 65 * 4  # however long the sequence


# Errors


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    run = linear.attention
    yield TypeError, "q must be a torch tensor, got ndarray", run, (q.cpu().numpy(), k, v), {}
    yield ValueError, "same number of keys", run, (q, k, v[:, :, 1:]), {}
    yield ValueError, "chunk must be at least 1, got 0", run, (q, k, v), {"chunk": 0}
    yield TypeError, "chunk must be an integer, got float 2.5", run, (q, k, v), {"chunk": 2.5}
    wide = functools.partial(torch.repeat_interleave, repeats=17, dim=-1)
    yield ValueError, "D must be between 1 and 256, got 272", run, (q, k, v), {"feature_map": wide}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, function, args, kwargs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^linear\.attention: .*" + words):
        function(*args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    q, k, v = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    linear.attention(q, k, v, causal=causal)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    linear.attention(q, k, v, causal=causal)
    peak = torch.cuda.max_memory_allocated() - before
    expected = linear.cost(1, 4, 4096, 4096, 64, causal=causal, dtype_bytes=2).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected


@pytest.mark.gpu
def test_long_sequences_in_half_precision():
    for dtype in (torch.float16, torch.bfloat16):
        q, k, v = tensors(5000, 5000, 64, heads=2, dtype=dtype)
        exact = reference.attention(
            *(tensor.double().cpu().numpy() for tensor in (q, k, v)), causal=True
        )
        out = linear.attention(q, k, v, causal=True).double().cpu().numpy()
        assert np.abs(out - exact).max() <= 4 * torch.finfo(dtype).eps * np.abs(exact).max()
