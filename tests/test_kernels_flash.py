"""FlashAttention in Triton: in the interpreter where there is no GPU, on the GPU where there is."""

import functools
import itertools
import sys

import numpy as np
import oracles
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, full, window
from attncourse.kernels._parts.tiles import key_tiles

import torch  # isort: skip
from twins import (
    DEVICE,
    DTYPES,
    close,
    definition,
    each_dtype,
    each_layout,
    far_apart,
    gradients,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")
TILES = {"block_q": 32, "block_k": 16}


def past(Tq, Tk, causal):
    visible = torch.ones(Tq, Tk, dtype=torch.bool, device=DEVICE)
    return visible.tril(Tk - Tq) if causal else visible


def check_values_and_gradients(Tq, Tk, D, Dv, tiles, causal, dtype):
    mine = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype, grad=True)
    out = flash.attention(*mine, **tiles, causal=causal)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    mask = past(Tq, Tk, causal)
    exact = [tensor.detach().double() for tensor in mine]
    # on the CPU, as NumPy: a GPU's library may add in another order and lose less than its share
    single = [tensor.detach().float().cpu() for tensor in mine]
    results = definition(*exact, mask), definition(*single, mask.cpu())
    close(out.detach(), dtype, *(result.nan_to_num() for result in results))
    ways = zip(
        mine,
        gradients(*exact, mask, grad_out.double()),
        gradients(*single, mask.cpu(), grad_out.float().cpu()),
        strict=True,
    )
    for tensor, twin, work in ways:
        close(tensor.grad, dtype, twin, work)


# (Tq, Tk, D, Dv, block_q, block_k, causal)
CASES = [
    (1, 1, 16, 16, 1, 1, True),
    (63, 63, 20, 33, 100, 20, True),
    (100, 100, 64, 64, 64, 64, False),
    (128, 128, 16, 16, 32, 32, True),  # no ragged edge
    (128, 128, 16, 16, 128, 64, False),
    (37, 130, 16, 8, 16, 32, True),
    (100, 37, 16, 16, 32, 16, True),  # the first queries see nothing, the first tile sees nothing
    (130, 37, 16, 24, 32, 32, False),
    (1, 128, 100, 16, 64, 64, True),
    (70, 70, 128, 128, 128, 128, True),
    (40, 40, 160, 256, 128, 128, True),
    (5, 0, 16, 16, 16, 16, False),
    (0, 5, 16, 16, 16, 16, True),
]


@each_dtype(CASES)
def test_flash_and_its_gradients_against_float64(case, dtype):
    Tq, Tk, D, Dv, block_q, block_k, causal = case
    tiles = {"block_q": block_q, "block_k": block_k}
    check_values_and_gradients(Tq, Tk, D, Dv, tiles, causal, dtype)


@pytest.mark.usefixtures("on_a_hopper")
@pytest.mark.parametrize("case", [(70, 100, 128, 128, True), (100, 70, 80, 128, False)], ids=str)
def test_the_tile_of_a_hopper_gives_the_same_gradients(case):
    assert flash.tile_sizes(128, 64, 128, 2, backward=True)[:2] == (64, 64)
    *sizes, causal = case
    tiles = {"block_q": 128, "block_k": 64}
    check_values_and_gradients(*sizes, tiles, causal, torch.float16)


def test_the_loops_visit_the_tiles_that_are_seen_and_no_others():
    def tiles(size, block):
        return [range(first, min(first + block, size)) for first in range(0, size, block)]

    sizes = itertools.product(range(12), range(12), (1, 2, 4), (1, 2, 4), (False, True))
    for Tq, Tk, BLOCK_Q, BLOCK_K, causal in sizes:
        knobs = Tq, Tk, BLOCK_Q, BLOCK_K, causal
        columns, rows = tiles(Tk, BLOCK_K), tiles(Tq, BLOCK_Q)

        def sees(queries, keys, Tq=Tq, Tk=Tk, causal=causal):
            return [not causal or j <= i + Tk - Tq for i in queries for j in keys]

        for queries in rows:
            n_whole, n_tiles = key_tiles.fn(queries.start, *knobs)
            seen = [any(sees(queries, keys)) for keys in columns]
            assert seen == [tile < n_tiles for tile in range(len(columns))], knobs
            whole = [all(sees(queries, keys)) and len(keys) == BLOCK_K for keys in columns]
            assert whole == [tile < n_whole for tile in range(len(columns))], knobs
        for keys in columns:
            first_tile, first_whole = flash._query_tiles.fn(keys.start, *knobs)
            seen = [any(sees(queries, keys)) for queries in rows]
            assert seen == [tile >= first_tile for tile in range(len(rows))], knobs
            # a ragged last key tile counts as one that reaches to its full length
            full_length = range(keys.start, keys.start + BLOCK_K)
            whole = [all(sees(queries, full_length)) for queries in rows]
            assert whole == [tile >= first_whole for tile in range(len(rows))], knobs


def test_tiles_are_the_knobs_rounded_up_and_cut_to_what_fits():
    for width, dtype_bytes, backward in itertools.product(range(1, 257, 15), (2, 4), (False, True)):
        sizes = functools.partial(
            flash.tile_sizes, width=width, dtype_bytes=dtype_bytes, backward=backward
        )
        most_q, most_k, _ = sizes(10**6, 10**6)
        for block in (1, 15, 16, 17, 33, 64, 65, 128, 10**6):
            power = max(16, 1 << (block - 1).bit_length())
            assert sizes(block, 1)[:2] == (min(power, most_q), 16)
            assert sizes(1, block)[:2] == (16, min(power, most_k))
    assert flash.tile_sizes(128, 64, 64, 2)[:2] == (128, 64)
    assert flash.tile_sizes(32, 32, 64, 4)[:2] == (32, 32)


def test_tiles_do_not_change_the_result():
    q, k, v = tensors(100, 90, 16)
    for causal in (False, True):
        whole = full.attention(q, k, v, causal=causal)
        for block_q, block_k in [(16, 16), (16, 32), (32, 16), (100, 100)]:
            out = flash.attention(q, k, v, block_q=block_q, block_k=block_k, causal=causal)
            torch.testing.assert_close(out, whole)


def test_flash_is_window_attention_with_a_wide_window():
    inputs = tensors(70, 100, 16)
    for causal in (False, True):
        out = flash.attention(*inputs, block_q=32, block_k=32, causal=causal)
        torch.testing.assert_close(out, window.attention(*inputs, window=100, causal=causal))


def test_gradients_against_finite_differences():
    q, k, v = (t[0].cpu().double().numpy() for t in tensors(6, 5, 3, 4))
    twins = [torch.tensor(a[None], dtype=torch.float32, device=DEVICE) for a in (q, k, v)]
    for twin in twins:
        twin.requires_grad_()
    grad_out = np.random.default_rng(2).standard_normal((1, 6, 4))
    out = flash.attention(*twins, **TILES, causal=True, scale=0.7)
    out.backward(torch.tensor(grad_out[None], dtype=torch.float32, device=DEVICE))

    def loss():
        return (oracles.attention(q, k, v, lambda i, j: j <= i - 1, scale=0.7) * grad_out).sum()

    for array, twin in zip((q, k, v), twins, strict=True):
        expected = oracles.finite_differences(loss, array)
        np.testing.assert_allclose(twin.grad[0].cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_rows_without_keys_give_zeros_and_zero_gradients():
    mine = tensors(90, 10, 16, grad=True)
    out = flash.attention(*mine, **TILES, causal=True)
    out.sum().backward()
    assert not out[..., :80, :].any() and out[..., 80:, :].all()
    assert not mine[0].grad[..., :80, :].any()
    assert all(tensor.grad.isfinite().all() for tensor in mine)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_tiles_of_the_future_are_not_even_read():
    """NaN in them would reach the result through a product with weight 0."""
    q, k, v = tensors(128, 128, 16)
    before = flash.attention(q, k, v, **TILES, causal=True)
    k[..., 64:, :], v[..., 64:, :] = torch.nan, torch.nan
    after = flash.attention(q, k, v, **TILES, causal=True)
    assert torch.equal(before[..., :64, :], after[..., :64, :])


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(20, 40, 20, 24, heads=2, batch=2, grad=True)
    views = [with_nan_margins(tensor, layout).requires_grad_() for tensor in whole]
    grad_out = torch.ones(()).to(DEVICE).expand(2, 2, 20, 24)  # stride 0 everywhere
    results = []
    for inputs in (whole, views):
        out = flash.attention(*inputs, **TILES, causal=True)
        results.append([out, *torch.autograd.grad(out, inputs, grad_out)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_runs_give_the_same_bits():
    def run():
        mine = tensors(100, 100, 16, dtype=torch.float16, grad=True)
        out = flash.attention(*mine, **TILES)
        return [out, *torch.autograd.grad(out.float().square().sum(), mine)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_large_scores_do_not_overflow(scale):
    q, k, v = tensors(40, 40, 16, grad=True)
    out = flash.attention(q, k, v, **TILES, scale=scale)
    out.sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in (q, k, v))
    exact = definition(q.double(), k.double(), v.double(), past(40, 40, False), scale=scale)
    assert (out - exact).abs().max() <= 1e-2  # scores of 1e5 carry roundings of 4e-3


def test_a_second_derivative_is_refused():
    mine = tensors(8, 8, 16, grad=True)
    out = flash.attention(*mine, **TILES)
    (grad,) = torch.autograd.grad(out.square().sum(), mine[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# What the chapter counts


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(100, 70, 24), (70, 100, 64), (130, 30, 130)], ids=str)
def test_flops_and_traffic_are_what_cost_says(sizes, dtype):
    Tq, Tk, D = sizes
    q, k, v = tensors(Tq, Tk, D, heads=2, dtype=dtype)
    for causal in (False, True):
        traced = trace.record(flash.attention, q, k, v, block_q=64, block_k=32, causal=causal)
        cost = flash.cost(
            1, 2, *sizes, block_q=64, block_k=32, causal=causal, dtype_bytes=q.itemsize
        )
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
        assert not traced.out_of_bounds


@pytest.mark.skipif(not INTERPRETED, reason="accesses are seen in the interpreter")
def test_the_backward_pass_stays_in_bounds():
    inputs = tensors(45, 70, 20, 24, heads=2, dtype=torch.float16, grad=True)
    for causal in (False, True):
        with trace.recording() as traced:
            flash.attention(*inputs, **TILES, causal=causal).sum().backward()
        assert not traced.out_of_bounds
        kernels = [launch.kernel for launch in traced.launches]
        assert kernels == ["flash_fwd", "delta", "flash_dkdv", "flash_dq"]


def test_a_larger_query_tile_reads_less_and_causal_reads_half():
    knobs = {"block_k": 64, "dtype_bytes": 2}
    small, large = (flash.cost(1, 1, 4096, 4096, 64, block_q=b, **knobs) for b in (32, 128))
    kv_bytes = 2 * 4096 * 64 * 2
    assert small.bytes_read - large.bytes_read == kv_bytes * (4096 // 32 - 4096 // 128)
    causal = flash.cost(1, 1, 4096, 4096, 64, block_q=128, causal=True, **knobs)
    assert 0.5 < causal.flops / large.flops < 0.53
    assert 0.5 < causal.bytes_read / large.bytes_read < 0.53


# What cannot run is refused before anything is written


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    wide = tensors(2, 2, 257, 16)
    yield TypeError, "q must be a torch tensor, got ndarray", (q.cpu().numpy(), k, v), {}
    yield ValueError, "q and k must have the same width", (q, k[..., 1:], v), {}
    yield ValueError, "D must be between 1 and 256, got 257", wide, {}
    yield ValueError, "one dtype", (q, k.half(), v), {}
    yield ValueError, "one device", (q, k.to("meta"), v), {}
    yield ValueError, "block_q must be at least 1, got 0", (q, k, v), {"block_q": 0}
    yield TypeError, "block_k must be an integer, got float 16.0", (q, k, v), {"block_k": 16.0}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, args, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^flash\.attention: .*" + words):
        flash.attention(*args, **TILES | knobs)


# Only a GPU proves these


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [64, 128, 256])
def test_every_tile_gives_right_values(width, dtype):
    tiles = {
        flash.tile_sizes(block_q, block_k, width, dtype.itemsize)[:2]
        for block_q, block_k in itertools.product((16, 32, 64, 128), (16, 32, 64))
    }
    for block_q, block_k in sorted(tiles):
        knobs = {"block_q": block_q, "block_k": block_k}
        check_values_and_gradients(200, 230, width, width, knobs, True, dtype)


@pytest.mark.gpu
def test_offsets_beyond_32_bits():
    far = [tensor.requires_grad_() for tensor in far_apart()]
    results = []
    for inputs in (far, [tensor.detach().contiguous().requires_grad_() for tensor in far]):
        out = flash.attention(*inputs, **TILES, causal=True)
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    q, k, v = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    knobs = {"block_q": 128, "block_k": 64, "causal": causal}
    flash.attention(q, k, v, **knobs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    flash.attention(q, k, v, **knobs)
    peak = torch.cuda.max_memory_allocated() - before
    expected = flash.cost(1, 4, 4096, 4096, 64, **knobs, dtype_bytes=2)
    assert abs(peak - expected.peak_bytes) <= 0.02 * expected.peak_bytes


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
def test_causal_programs_begin_with_the_longest_rows():
    with trace.recording() as traced:
        q, k, v = tensors(70, 100, 16, grad=True)
        flash.attention(q, k, v, **TILES, causal=True).sum().backward()
    for kernel in ("flash_fwd", "flash_dq"):
        n_tiles = [len(tiles) for _, tiles in sorted(traced.tiles("k", kernel).items())]
        assert n_tiles == sorted(n_tiles, reverse=True) and n_tiles[0] > n_tiles[-1]
