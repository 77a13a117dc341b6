"""The sparse patterns in Triton: in the interpreter where there is no GPU, on the GPU else."""

import dataclasses
import functools
import inspect
import itertools
import sys

import numpy as np
import oracles
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import layouts, trace
from attncourse.kernels import (
    INTERPRETED,
    bigbird,
    block_sparse,
    full,
    longformer,
    offsets,
    random_keys,
    sparse_transformer,
    strided,
    window,
)
from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.plan import FULL
from attncourse.reference import bigbird as bigbird_reference
from attncourse.reference import block_sparse as reference
from attncourse.reference import longformer as longformer_reference
from attncourse.reference import offsets as offsets_reference
from attncourse.reference import random_keys as random_reference
from attncourse.reference import sparse_transformer as sparse_reference

import torch  # isort: skip
from twins import (
    DEVICE,
    DTYPES,
    close,
    definition,
    each,
    each_dtype,
    each_layout,
    gradients,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def random_layout(n_queries, n_keys, block, seed=0, share=0.6):
    shape = tuple(map(len, layouts.grid(n_queries, n_keys, block=block)))
    return np.random.default_rng(seed).random(shape) < share


def check_values_and_gradients(attention, mask, sizes, dtype):
    """`attention` within the rounding of its dtype of masked attention, and its gradients."""
    mine = tensors(*sizes, heads=1 + (sizes[0] == 63), dtype=dtype, grad=True)
    out = attention(*mine)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    mask = torch.from_numpy(mask)
    exact = [tensor.detach().double().cpu() for tensor in mine]
    single = [tensor.detach().float().cpu() for tensor in mine]
    results = [definition(*run, mask).nan_to_num() for run in (exact, single)]
    close(out.detach().cpu(), dtype, *results)
    ways = zip(
        mine,
        gradients(*exact, mask, grad_out.double().cpu()),
        gradients(*single, mask, grad_out.float().cpu()),
        strict=True,
    )
    for tensor, twin, work in ways:
        close(tensor.grad.cpu(), dtype, twin.nan_to_num(), work.nan_to_num())


# (Tq, Tk, D, Dv, block, causal, what is asked of `visible`)
CASES = [
    (1, 1, 16, 16, 1, True, "nothing"),
    (63, 63, 20, 33, 32, True, "partial blocks"),
    (128, 128, 16, 16, 64, False, "nothing"),  # no ragged edge
    (100, 100, 64, 64, 7, True, "nothing"),  # several blocks share a tile
    (37, 130, 16, 8, 48, False, "all blocks"),
    (100, 37, 16, 16, 32, True, "nothing"),  # the first queries see nothing
    (70, 40, 16, 24, 100, False, "partial blocks"),
    (40, 40, 160, 256, 16, True, "nothing"),
    (5, 0, 16, 16, 16, False, "nothing"),
    (0, 5, 16, 16, 16, True, "nothing"),
]


@each_dtype(CASES)
def test_block_sparse_and_its_gradients_against_float64(case, dtype):
    Tq, Tk, D, Dv, block, causal, asked = case
    knobs = {"layout": random_layout(Tq, Tk, block), "block": block, "causal": causal}
    if asked != "nothing":
        knobs["visible"] = lambda i, j: (3 * i + j) % 5 > 1
    if asked == "partial blocks":
        knobs["partial"] = random_layout(Tq, Tk, block, seed=1)
    mask = reference.mask(Tq, Tk, **knobs)
    attention = functools.partial(block_sparse.attention, **knobs)
    check_values_and_gradients(attention, mask, (Tq, Tk, D, Dv), dtype)


def shared_out(Tq, Tk, layout, block, causal, longest):
    """A plan whose programs visit few tiles, so that short lists are shared out too."""
    plan = block_sparse.layout_plan(Tq, Tk, layout, block, causal, 32, 32)
    return dataclasses.replace(plan, longest=longest)


@each_dtype([1, 2])
def test_lists_that_are_shared_out_give_the_same(case, dtype):
    layout = random_layout(100, 120, 20, share=0.8)
    layout[1] = False  # a row of blocks without any
    plan = shared_out(100, 120, layout, 20, True, longest=case)
    assert len(plan.rows.shares) and len(plan.columns.shares)
    mask = reference.mask(100, 120, layout=layout, block=20, causal=True)

    def attention(q, k, v):
        return block_sparse.run("here", q, k, v, (plan,), None)

    check_values_and_gradients(attention, mask, (100, 120, 16, 20), dtype)
    if INTERPRETED:
        inputs = tensors(100, 120, 16, heads=2, dtype=dtype)
        check_cost(attention, inputs, planning.plan_cost((plan,), 1, 2, 16, dtype.itemsize))


def check_cost(attention, inputs, cost):
    traced = trace.record(attention, *inputs)
    counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
    assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
    assert not traced.out_of_bounds


@pytest.mark.parametrize("longest", [1, 2, 3, 100])
def test_lists_hold_each_tile_once_full_ones_first_and_cut_ones_by_their_picture(longest):
    sizes = itertools.product((40, 64, 100), (0, 50, 64, 90), (8, 20, 32), (False, True))
    for Tq, Tk, block, causal in sizes:
        layout = random_layout(Tq, Tk, block)
        plan = block_sparse.layout_plan(Tq, Tk, layout, block, causal, 32, 16)
        plan = dataclasses.replace(plan, longest=longest)
        mask = np.zeros((Tq + 1, Tk + 1), dtype=bool)  # the last ones stand for nobody
        mask[:Tq, :Tk] = reference.mask(Tq, Tk, layout=layout, block=block, causal=causal)
        found = np.zeros_like(mask)
        places = plan.places(0), plan.places(1)
        for lists, axis in ((plan.rows, 0), (plan.columns, 1)):
            visited = np.zeros(tuple(map(len, places)), dtype=int)
            items = np.concatenate([lists.whole, lists.shares])
            assert set(items[:, 0]) == set(range(len(places[axis])))  # also rows without any tile
            assert (items[:, 3] - items[:, 1] <= longest).all()
            for own, first, first_cut, end, share in items:
                n_of_row = np.count_nonzero(items[:, 0] == own)
                assert (share >= 0) == (n_of_row > 1)
                for entry in range(first, end):
                    other, picture = lists.entries[entry]
                    assert (picture == FULL) == (entry < first_cut)
                    row, column = (own, other) if axis == 0 else (other, own)
                    visited[row, column] += 1
                    words = np.full(32, -1) if picture == FULL else plan.pictures[picture]
                    bits = (words[:, None] >> np.arange(16)) & 1
                    tile = np.ix_(places[0][row], places[1][column])
                    assert mask[tile].any()  # an empty tile stands on no list
                    found[tile] |= bits.astype(bool)
            assert visited.max(initial=0) <= 1
        found[Tq] = False  # whatever the rows of nobody see
        assert np.array_equal(found, mask), (Tq, Tk, block, causal)


def test_equal_pictures_are_kept_once():
    layout = layouts.band(2048, 2048, block=64, window_blocks=1)
    plan = block_sparse.layout_plan(2048, 2048, layout, 64, True, 64, 64)
    assert len(plan.pictures) == 1  # the diagonal
    assert len(plan.rows.entries) == 32 + 31
    assert np.count_nonzero(plan.rows.entries[:, 1] != FULL) == 32
    # 63 entries, 32 programs and a picture: the lists are nothing beside a head of q
    assert plan.n_bytes == 63 * 8 + 32 * 20 + 64 * 8


def test_a_dense_layout_is_full_attention_and_a_band_of_small_blocks_a_window():
    inputs = tensors(70, 100, 16)
    for block, causal in ((64, False), (30, True)):
        layout = random_layout(70, 100, block, share=1.1)
        out = block_sparse.attention(*inputs, layout=layout, block=block, causal=causal)
        torch.testing.assert_close(out, full.attention(*inputs, causal=causal))
    layout = layouts.band(70, 100, block=1, window_blocks=9)
    out = block_sparse.attention(*inputs, layout=layout, block=1)
    torch.testing.assert_close(out, window.attention(*inputs, window=9))


def test_unlisted_blocks_are_not_even_read():
    """NaN in them would reach the result through a product with weight 0."""
    q, k, v = tensors(128, 128, 16)
    layout = random_layout(128, 128, 32)
    layout[:, 2] = False
    before = block_sparse.attention(q, k, v, layout=layout, block=32)
    k[..., 64:96, :], v[..., 64:96, :] = torch.nan, torch.nan
    assert torch.equal(before, block_sparse.attention(q, k, v, layout=layout, block=32))


def test_gradients_against_finite_differences():
    q, k, v = (t[0].cpu().double().numpy() for t in tensors(6, 5, 3, 4))
    twins = [torch.tensor(a[None], dtype=torch.float32, device=DEVICE) for a in (q, k, v)]
    for twin in twins:
        twin.requires_grad_()
    grad_out = np.random.default_rng(2).standard_normal((1, 6, 4))
    layout = random_layout(6, 5, 2)
    out = block_sparse.attention(*twins, layout=layout, block=2, causal=True, scale=0.7)
    out.backward(torch.tensor(grad_out[None], dtype=torch.float32, device=DEVICE))
    mask = reference.mask(6, 5, layout=layout, block=2, causal=True)

    def loss():
        return (oracles.attention(q, k, v, lambda i, j: mask[i, j], scale=0.7) * grad_out).sum()

    for array, twin in zip((q, k, v), twins, strict=True):
        expected = oracles.finite_differences(loss, array)
        np.testing.assert_allclose(twin.grad[0].cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(20, 40, 20, 24, heads=2, grad=True)
    views = [with_nan_margins(tensor, layout).requires_grad_() for tensor in whole]
    grad_out = torch.ones(()).to(DEVICE).expand(1, 2, 20, 24)  # stride 0 everywhere
    plan = shared_out(20, 40, random_layout(20, 40, 10, share=0.8), 10, True, longest=1)
    results = []
    for inputs in (whole, views):
        out = block_sparse.run("here", *inputs, (plan,), None)
        results.append([out, *torch.autograd.grad(out, inputs, grad_out)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_runs_give_the_same_bits():
    plan = shared_out(64, 64, random_layout(64, 64, 32, share=1.1), 32, False, longest=1)

    def run():
        mine = tensors(64, 64, 16, dtype=torch.float16, grad=True)
        out = block_sparse.run("here", *mine, (plan,), None)
        return [out, *torch.autograd.grad(out.float().square().sum(), mine)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_large_scores_do_not_overflow(scale):
    q, k, v = tensors(40, 40, 16, grad=True)
    plan = shared_out(40, 40, np.ones((3, 3), bool), 16, False, longest=1)
    out = block_sparse.run("here", q, k, v, (plan,), scale)
    out.sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in (q, k, v))
    mask = torch.ones(40, 40, dtype=torch.bool, device=DEVICE)
    exact = definition(q.double(), k.double(), v.double(), mask, scale=scale)
    assert (out - exact).abs().max() <= 1e-2  # scores of 1e5 carry roundings of 4e-3


def test_a_second_derivative_is_refused():
    mine = tensors(8, 8, 16, grad=True)
    out = block_sparse.attention(*mine, layout=np.ones((1, 1), bool), block=8)
    (grad,) = torch.autograd.grad(out.square().sum(), mine[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("sizes", "block", "causal"),
    [((100, 70, 24), 32, True), ((70, 100, 64), 20, False), ((40, 30, 130), 64, True)],
    ids=str,
)
def test_flops_and_traffic_are_what_cost_says(sizes, block, causal):
    Tq, Tk, D = sizes
    knobs = {"layout": random_layout(Tq, Tk, block), "block": block, "causal": causal}
    inputs = tensors(Tq, Tk, D, heads=2, dtype=torch.float16)
    cost = block_sparse.layout_cost(1, 2, *sizes, **knobs, dtype_bytes=2)
    check_cost(functools.partial(block_sparse.attention, **knobs), inputs, cost)


@pytest.mark.skipif(not INTERPRETED, reason="accesses are seen in the interpreter")
def test_the_backward_pass_stays_in_bounds():
    inputs = tensors(45, 70, 20, 24, heads=2, dtype=torch.float16, grad=True)
    plan = shared_out(45, 70, random_layout(45, 70, 20, share=0.9), 20, True, longest=1)
    with trace.recording() as traced:
        block_sparse.run("here", *inputs, (plan,), None).sum().backward()
    assert not traced.out_of_bounds
    kernels = [launch.kernel.removeprefix("block_sparse_") for launch in traced.launches]
    forward = ["fwd", "fwd", "join"]
    assert kernels == [*forward, "delta", "dq", "dq", "sum", "dkdv", "dkdv", "sum", "sum"]


def test_tiles_divide_the_block_where_they_can():
    for block, tile in ((64, 64), (128, 64), (192, 64), (32, 32), (96, 32), (1, 32), (16, 32)):
        assert block_sparse.tile_sizes(block, 64, 2) == (tile, tile)
    assert block_sparse.tile_sizes(20, 64, 2) == (32, 32)
    assert block_sparse.tile_sizes(100, 64, 2) == (64, 64)
    assert block_sparse.tile_sizes(128, 256, 2) == (64, 16)
    assert block_sparse.tile_sizes(128, 64, 4) == (32, 32)


def test_a_sparse_layout_costs_its_share():
    n, block = 16384, 64
    band = block_sparse.cost(1, 1, n, n, 64, block=block, window_blocks=2, dtype_bytes=2)
    dense = block_sparse.layout_cost(
        1, 1, n, n, 64, layout=np.ones((n // block,) * 2, bool), block=block, dtype_bytes=2
    )
    assert band.flops / dense.flops == pytest.approx(5 / (n // block), rel=0.01)


def test_long_lists_do_not_hold_up_the_others():
    layout = bigbird_reference.layout(16384, 16384, block=64)
    plan = block_sparse.layout_plan(16384, 16384, layout, 64, False, 64, 64)
    for lists in (plan.rows, plan.columns):
        programs = np.concatenate([lists.whole, lists.shares])
        visited = programs[:, 3] - programs[:, 1]
        assert visited.max() == 32 and len(lists.splits) == 2
        assert (np.diff(visited[: len(lists.whole)]) <= 0).all()


def bad_calls():
    q, k, v = tensors(8, 8, 16)
    grid = np.ones((2, 2), bool)
    yield TypeError, "q must be a torch tensor, got ndarray", (q.cpu().numpy(), k, v), {}
    yield ValueError, "D must be between 1 and 256, got 257", tensors(8, 8, 257, 16), {}
    yield ValueError, "one device", (q, k.to("meta"), v), {}
    yield ValueError, "block must be at least 1, got 0", (q, k, v), {"block": 0}
    yield TypeError, "block must be an integer, got float 4.0", (q, k, v), {"block": 4.0}
    yield ValueError, r"layout must have shape \(3, 3\), got \(2, 2\)", (q, k, v), {"block": 3}
    yield (
        TypeError,
        "layout must be a boolean array, got Tensor",
        (q, k, v),
        {"layout": q[0, 0] > 0},
    )
    yield ValueError, "partial blocks need visible, got None", (q, k, v), {"partial": grid}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, args, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^block_sparse\.attention: .*" + words):
        block_sparse.attention(*args, **{"layout": np.ones((2, 2), bool), "block": 4} | knobs)


# BigBird


@pytest.mark.parametrize("global_blocks", [0, (0, 4), np.array([2])], ids=str)
def test_bigbird_lists_its_global_blocks(global_blocks):
    knobs = {"block": 32, "random_blocks": 1, "global_blocks": global_blocks, "seed": 5}
    inputs = tensors(150, 150, 16)
    mask = bigbird_reference.mask(150, 150, **knobs)
    exact = definition(*(t.double() for t in inputs), torch.from_numpy(mask).to(DEVICE))
    out = bigbird.attention(*inputs, **knobs)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-5)


# Longformer


@pytest.mark.parametrize(
    ("sizes", "knobs"),
    [
        ((63, 63, 20, 33), {"window": 5, "dilation": 3, "global_tokens": [0, 17, 40]}),
        ((40, 90, 16, 16), {"window": 9, "global_tokens": np.array([3, 89]), "causal": True}),
        ((50, 30, 16, 16), {"window": 2**40, "dilation": 2**40, "global_tokens": 10**9}),
        ((70, 20, 16, 16), {"window": 1, "dilation": 2, "causal": True}),
    ],
    ids=str,
)
def test_longformer_and_its_gradients_against_float64(sizes, knobs):
    mask = longformer_reference.mask(*sizes[:2], **knobs)
    attention = functools.partial(longformer.attention, **knobs)
    check_values_and_gradients(attention, mask, sizes, torch.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_global_tokens_see_through_projections_of_their_own(causal):
    plain, own = tensors(50, 60, 16, 12, grad=True), tensors(50, 60, 16, 12, seed=1, grad=True)
    projections = dict(zip(("q_global", "k_global", "v_global"), own, strict=True))
    knobs = {"window": 4, "global_tokens": [3, 20, 59], "causal": causal}
    out = longformer.attention(*plain, **knobs, **projections)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, [*plain, *own], grad_out)
    mask = torch.from_numpy(longformer_reference.mask(50, 60, **knobs)).to(DEVICE)
    rows = torch.tensor([20 - 10, 59 - 10], device=DEVICE)  # the third stands before the queries
    near, far = ([t.detach().double().requires_grad_() for t in three] for three in (plain, own))
    exact = definition(*near, mask).index_copy(2, rows, definition(*far, mask)[:, :, rows])
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-5)
    expected = torch.autograd.grad(exact, [*near, *far], grad_out.double())
    for mine, twin in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine.double(), twin.nan_to_num(), rtol=0, atol=1e-5)
    one = longformer.attention(*plain, **knobs, k_global=own[1])
    exact = definition(near[0], far[1], near[2], mask)[:, :, rows]
    torch.testing.assert_close(one[:, :, rows].double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"global_tokens": [0, 6]}, ValueError, "must lie in 0 ... 5, got 0 ... 6"),
        ({"global_tokens": [0.5]}, TypeError, "integer or a row of integers"),
        ({"q_global": 3}, ValueError, "q_global must be shaped as q.*got int"),
        ({"k_global": torch.zeros(1, 1, 5, 8)}, ValueError, "k_global must be shaped as k"),
    ],
)
def test_wrong_global_tokens_are_refused(knobs, error, words):
    with pytest.raises(error, match=f"longformer.attention: .*{words}"):
        longformer.attention(*tensors(6, 6, 8), window=1, **knobs)


# Sparse Transformer and strided


@pytest.mark.parametrize(
    ("sizes", "knobs"),
    [
        ((63, 63, 16, 20), {"stride": 7}),
        ((40, 70, 16, 16), {"stride": 8, "causal": True}),
        ((63, 63, 16, 20), {"stride": 9, "pattern": "fixed", "summary": 2, "causal": True}),
        ((80, 50, 16, 16), {"stride": 16, "pattern": "fixed", "summary": 16}),
    ],
    ids=str,
)
def test_sparse_transformer_and_its_gradients_against_float64(sizes, knobs):
    mask = sparse_reference.mask(*sizes[:2], **knobs)
    attention = functools.partial(sparse_transformer.attention, **knobs)
    check_values_and_gradients(attention, mask, sizes, torch.float32)


def test_two_factors_cost_a_small_share_of_all_pairs():
    n = 16384
    dense = block_sparse.layout_cost(
        1, 1, n, n, 64, layout=np.ones((n // 64,) * 2, bool), block=64, dtype_bytes=2
    )
    for pattern, share in (("strided", 0.035), ("fixed", 0.025)):
        knobs = {"stride": 128, "pattern": pattern, "dtype_bytes": 2}
        cost = sparse_transformer.cost(1, 1, n, n, 64, **knobs)
        assert cost.flops < share * dense.flops


def test_random_keys_of_a_tile_are_in_nearly_every_block():
    drawn = random_keys._drawn("here", 16384, 16384, 32, 0, False)
    for tile in drawn.reshape(256, 64, 33)[::50]:
        assert len(np.unique(tile // 64)) > 250


def test_residue_classes_side_by_side_are_full_tiles():
    cost = strided.cost(1, 1, 4096, 4096, 64, stride=64, dtype_bytes=2)
    assert cost.flops == 4 * 64 * 64 * 64 * 64  # 64 classes, a tile each
    plan = strided._plan(4096, 4096, 64, False, 64, 64)
    assert not len(plan.pictures)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_other_residue_classes_are_not_even_read():
    q, k, v = tensors(128, 128, 16)
    before = strided.attention(q, k, v, stride=2)
    k[..., 1::2, :], v[..., 1::2, :] = torch.nan, torch.nan
    after = strided.attention(q, k, v, stride=2)
    assert torch.equal(before[..., ::2, :], after[..., ::2, :])


# Keys of one's own


def check_gathered(kernel, knobs, mask, cost, sizes, dtype):
    inputs = tensors(*sizes, dtype=dtype)
    out = kernel.attention(*inputs, **knobs)
    runs = [[t.to(d).cpu() for t in inputs] for d in (torch.float64, torch.float32)]
    close(
        out.cpu(), dtype, *(definition(*run, torch.from_numpy(mask)).nan_to_num() for run in runs)
    )
    if INTERPRETED:
        traced = trace.record(kernel.attention, *inputs, **knobs)
        assert not traced.out_of_bounds
        counted = traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.bytes_read, cost.bytes_written)


@each(sizes=[(40, 63, 20), (50, 30, 130)], causal=(False, True), dtype=DTYPES)
def test_random_keys_and_offsets_against_float64(sizes, causal, dtype):
    knobs = {"n_random": 4, "seed": 3, "causal": causal}
    mask = random_reference.mask(*sizes[:2], **knobs)
    cost = random_keys.cost(1, 1, *sizes, **knobs, dtype_bytes=dtype.itemsize)
    check_gathered(random_keys, knobs, mask, cost, sizes, dtype)
    knobs = {"offsets": offsets_reference.hierarchical(60, base=3), "causal": causal}
    mask = offsets_reference.mask(*sizes[:2], **knobs)
    cost = offsets.cost(1, 1, *sizes, **knobs, dtype_bytes=dtype.itemsize)
    check_gathered(offsets, knobs, mask, cost, sizes, dtype)


def test_offsets_share_the_signature_of_their_reference():
    for name in ("attention", "cost"):
        twins = [
            [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
            for function in (getattr(offsets, name), getattr(offsets_reference, name))
        ]
        assert twins[0] == twins[1]


@pytest.mark.parametrize(
    ("kernel", "knobs", "words"),
    [
        (random_keys, {"n_random": 2, "seed": -1}, "seed must be at least 0, got -1"),
        (offsets, {"offsets": [1, -2]}, "offset must be at least 0, got -2"),
        (random_keys, {"n_random": -1}, "n_random must be at least 0, got -1"),
        (strided, {"stride": 0}, "stride must be at least 1, got 0"),
        (sparse_transformer, {"stride": 4, "pattern": "other"}, 'must be "strided" or "fixed"'),
        (sparse_transformer, {"stride": 4, "summary": 2}, "summary must be at most 1"),
        (bigbird, {"block": 4, "global_blocks": [9]}, "must lie in 0 ... 1, got 9 ... 9"),
    ],
)
def test_wrong_knobs_are_refused(kernel, knobs, words):
    stem = kernel.__name__.rpartition(".")[2]
    with pytest.raises(ValueError, match=f"^{stem}.attention: .*{words}"):
        kernel.attention(*tensors(6, 6, 16), **knobs)


def test_gathers_have_no_gradient_and_say_so():
    inputs = tensors(6, 6, 16, grad=True)
    for kernel, knobs in ((random_keys, {"n_random": 2}), (offsets, {"offsets": [1]})):
        with pytest.raises(ValueError, match="must not require grad"):
            kernel.attention(*inputs, **knobs)


# Only a GPU proves these


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [16, 64, 128, 256])
def test_every_tile_gives_right_values(width, dtype):
    for block in (16, 32, 64, 100):
        layout = random_layout(200, 230, block)
        mask = reference.mask(200, 230, layout=layout, block=block, causal=True)
        attention = functools.partial(
            block_sparse.attention, layout=layout, block=block, causal=True
        )
        check_values_and_gradients(attention, mask, (200, 230, width, width), dtype)


@pytest.mark.gpu
def test_offsets_beyond_32_bits():
    room = torch.zeros(2**31 + 2**20, dtype=torch.float16, device="cuda")
    far = [
        room.as_strided((1, 1, 64, 16), (1, 1, 2**25, 1), start * 16).normal_().requires_grad_()
        for start in range(3)
    ]
    results = []
    for inputs in (far, [tensor.detach().contiguous().requires_grad_() for tensor in far]):
        out = longformer.attention(*inputs, window=9, dilation=3, global_tokens=[5, 40])
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
        with torch.no_grad():
            results[-1].append(random_keys.attention(*inputs, n_random=5))
            results[-1].append(offsets.attention(*inputs, offsets=[0, 1, 32]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    q, k, v = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    knobs = {"block": 64, "causal": causal}
    bigbird.attention(q, k, v, **knobs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    bigbird.attention(q, k, v, **knobs)
    peak = torch.cuda.max_memory_allocated() - before
    expected = bigbird.cost(1, 4, 4096, 4096, 64, **knobs, dtype_bytes=2)
    assert abs(peak - expected.peak_bytes) <= 0.02 * expected.peak_bytes
