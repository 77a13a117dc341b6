import itertools
import tracemalloc

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full

SIZES = [(1, 1), (9, 9), (7, 12), (12, 7), (3, 11)]
BLOCKS = [{"block_q": bq, "block_k": bk} for bq, bk in ((1, 1), (4, 3), (3, 8), (50, 50))]
TILES = {"block_q": 8, "block_k": 5}


@pytest.mark.parametrize(("sizes", "causal"), list(itertools.product(SIZES, (False, True))))
def test_agrees_with_plain_loops(sizes, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=4, value_width=3, dtype=np.float64)
    ahead = sizes[1] - sizes[0]
    expected = oracles.attention(q, k, v, lambda i, j: not causal or j <= i + ahead, scale=0.7)
    for blocks in BLOCKS:
        out = flash.attention(q, k, v, **blocks, causal=causal, scale=0.7)
        np.testing.assert_allclose(out, expected, atol=1e-12, err_msg=str(blocks))


sizes_and_blocks = given(
    n_queries=st.integers(1, 60),
    n_keys=st.integers(1, 60),
    block_q=st.integers(1, 70),
    block_k=st.integers(1, 70),
    causal=st.booleans(),
)


@sizes_and_blocks
@settings(max_examples=50, deadline=None)
def test_block_sizes_do_not_change_the_result(n_queries, n_keys, block_q, block_k, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    blocks = {"block_q": block_q, "block_k": block_k, "causal": causal}
    out, lse = flash.forward(q, k, v, **blocks)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)
    ahead = n_keys - n_queries
    for i in range(n_queries):
        seen = k[0, 0, : max(0, i + ahead + 1)] if causal else k[0, 0]
        total = np.exp(seen @ q[0, 0, i] / np.sqrt(5)).sum()
        assert lse[0, 0, i] == pytest.approx(np.log(total) if total else -np.inf)


@sizes_and_blocks
@settings(max_examples=30, deadline=None)
def test_gradients_are_those_of_the_definition(n_queries, n_keys, block_q, block_k, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    grad_out = random_qkv(n_queries, width=3, seed=1, dtype=np.float64)[0]
    blocks = {"block_q": block_q, "block_k": block_k, "causal": causal}
    out, lse = flash.forward(q, k, v, scale=0.6, **blocks)
    expected = full.backward(grad_out, q, k, v, causal=causal, scale=0.6)
    for saved in ({}, {"out": out, "lse": lse}):
        found = flash.backward(grad_out, q, k, v, **saved, scale=0.6, **blocks)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch_forward_and_backward(causal):
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(100, heads=2, width=16, dtype=np.float64)
    grad_out = random_qkv(100, heads=2, width=16, seed=1, dtype=np.float64)[0]
    peers = [torch.from_numpy(a).requires_grad_() for a in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*peers, is_causal=causal)
    theirs.backward(torch.from_numpy(grad_out))
    blocks = {"block_q": 32, "block_k": 24, "causal": causal}
    out, lse = flash.forward(q, k, v, **blocks)
    gradients = flash.backward(grad_out, q, k, v, out=out, lse=lse, **blocks)
    np.testing.assert_allclose(out, theirs.detach().numpy(), atol=1e-13)
    for mine, peer in zip(gradients, peers, strict=True):
        np.testing.assert_allclose(mine, peer.grad.numpy(), atol=1e-12)


@given(cuts=st.sets(st.integers(1, 29), max_size=5), order=st.permutations(range(6)))
@settings(max_examples=30, deadline=None)
def test_merging_any_parts_of_the_keys_in_any_order_gives_the_whole(cuts, order):
    q, k, v = random_qkv(6, 30, heads=2, width=4, dtype=np.float64)
    edges = [0, *sorted(cuts), 30]
    parts = [
        flash.forward(q, k[..., a:b, :], v[..., a:b, :], **TILES)
        for a, b in itertools.pairwise(edges)
    ]
    chosen = [parts[place] for place in order if place < len(parts)]
    merged = chosen[0]
    for part in chosen[1:]:
        merged = flash.merge(*merged, *part)
    for mine, whole in zip(merged, flash.forward(q, k, v, **TILES), strict=True):
        np.testing.assert_allclose(mine, whole, atol=1e-12)


def test_merging_nothing_changes_nothing():
    q, k, v = random_qkv(6, 9, width=4)
    out, lse = flash.forward(q, k, v, **TILES)
    empty = flash.forward(q, k[..., :0, :], v[..., :0, :], **TILES)
    assert np.all(empty[0] == 0) and np.all(empty[1] == -np.inf)
    for merged in (flash.merge(out, lse, *empty), flash.merge(*empty, out, lse)):
        np.testing.assert_array_equal(merged[0], out)
        np.testing.assert_array_equal(merged[1], lse)
    both = flash.merge(*empty, *empty)
    assert np.all(both[0] == 0) and np.all(both[1] == -np.inf)


def test_merge_keeps_float16_and_its_lse_in_float32():
    q, k, v = random_qkv(6, 9, width=4, dtype=np.float16)
    part = flash.forward(q, k, v, **TILES)
    assert [a.dtype for a in part] == [np.float16, np.float32]
    assert [a.dtype for a in flash.merge(*part, *part)] == [np.float16, np.float32]


def test_merge_refuses_parts_that_do_not_fit():
    out, lse = np.zeros((2, 5, 4)), np.zeros((2, 5))
    with pytest.raises(ValueError, match=r"flash\.merge: .*\(2, 4\)"):
        flash.merge(out, lse, out, lse[:, :4])
    with pytest.raises(ValueError, match=r"flash\.merge: "):
        flash.merge(out, lse[..., None], out, lse[..., None])


def test_backward_refuses_what_does_not_fit():
    q, k, v = random_qkv(6, width=4)
    out, lse = flash.forward(q, k, v, **TILES)
    with pytest.raises(ValueError, match=r"flash\.backward: grad_out must have shape .*, got"):
        flash.backward(out[..., :3], q, k, v, **TILES)
    with pytest.raises(ValueError, match=r"flash\.backward: lse must have shape \(1, 1, 6\)"):
        flash.backward(out, q, k, v, out=out, lse=lse[..., None], **TILES)
    with pytest.raises(ValueError, match=r"flash\.backward: block_k must be at least 1"):
        flash.backward(out, q, k, v, block_q=1, block_k=0)


def test_shifting_all_scores_moves_lse_and_nothing_else():
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    out, lse = flash.forward(q, k, v, **TILES)
    shifted, moved = flash.forward(q, k, v, **TILES, bias=lambda queries, keys: np.array(700.0))
    np.testing.assert_allclose(shifted, out, atol=1e-12)
    np.testing.assert_allclose(moved, lse + 700, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_bias_is_asked_for_tile_by_tile_at_key_positions(causal):
    q, k, v = random_qkv(20, 33, heads=2, width=4, dtype=np.float64)
    whole = np.random.default_rng(0).standard_normal((2, 33, 33))
    largest = []

    def bias(queries, keys):
        largest.append(queries.size * keys.size)
        return whole[:, queries[:, None], keys]

    out, _ = flash.forward(q, k, v, **TILES, causal=causal, bias=bias)
    expected = full.attention(q, k, v, bias=whole[:, 13:], causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    assert max(largest) == 8 * 5


def test_masked_keys_have_no_influence_even_if_they_are_nan():
    q, k, v = random_qkv(20, width=4)
    before = flash.attention(q, k, v, **TILES, causal=True)
    k[..., 12:, :] = np.nan
    after = flash.attention(q, k, v, **TILES, causal=True)
    np.testing.assert_array_equal(before[..., :12, :], after[..., :12, :])


def test_large_scores_do_not_overflow():
    q, k, v = random_qkv(40, width=8)
    out = flash.attention(1e4 * q, k, v, **TILES, causal=True)
    assert np.all(np.isfinite(out)) and np.abs(out).max() <= np.abs(v).max()


def test_causal_skips_the_tiles_above_the_diagonal():
    q, k, v = random_qkv(400, width=8)
    blocks = {"block_q": 20, "block_k": 20}
    for function, arrays in ((flash.attention, (q, k, v)), (flash.backward, (q, q, k, v))):
        saved = dict(zip(("out", "lse"), flash.forward(q, k, v, **blocks), strict=True))
        knobs = blocks | (saved if function is flash.backward else {})
        everything = measure.count_flops(function, *arrays, **knobs)
        assert measure.count_flops(function, *arrays, **knobs, causal=True) < 0.53 * everything


def test_backward_takes_five_products_a_tile():
    q, k, v = random_qkv(64, width=16)
    out, lse = flash.forward(q, k, v, **TILES)
    knobs = TILES | {"out": out, "lse": lse}
    delta = 2 * 64 * 16
    assert measure.count_flops(flash.backward, q, q, k, v, **knobs) == 5 * 2 * 64**2 * 16 + delta


def test_memory_is_one_tile_and_grows_with_n_only_as_out_does():
    def beyond_out(function, n, n_outs, *more):
        arrays = random_qkv(n, width=16)
        tracemalloc.start()
        try:
            function(*more, *arrays, block_q=64, block_k=64)
            return tracemalloc.get_traced_memory()[1] - n_outs * arrays[0].nbytes
        finally:
            tracemalloc.stop()

    def backward(*arrays, **blocks):
        return flash.backward(arrays[0], *arrays, **blocks)

    few = 4096  # bytes of small Python objects
    growth = beyond_out(flash.attention, 4096, 1) - beyond_out(flash.attention, 1024, 1)
    assert growth < 3072 * 4 + few  # lse
    growth = beyond_out(backward, 2048, 4) - beyond_out(backward, 1024, 4)
    assert growth < 1024 * 8 + few  # lse and delta
