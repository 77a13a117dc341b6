import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import layouts, masks, measure
from attncourse.inputs import random_qkv
from attncourse.reference import block_sparse, full, random_keys, window

SHAPES = list(itertools.product((0, 1, 5, 63, 64), (0, 1, 7, 64), (1, 4, 10, 100)))


def random_layout(n_queries, n_keys, block, seed=0, share=0.4):
    shape = tuple(map(len, layouts.grid(n_queries, n_keys, block=block)))
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize(("n_queries", "n_keys", "block"), SHAPES)
def test_mask_follows_the_definition(n_queries, n_keys, block):
    layout = random_layout(n_queries, n_keys, block)
    first = (n_keys - n_queries) // block
    for causal in (False, True):

        def visible(i, j, causal=causal):
            position = i + n_keys - n_queries
            return layout[position // block - first, j // block] and (not causal or j <= position)

        mask = block_sparse.mask(n_queries, n_keys, layout=layout, block=block, causal=causal)
        assert np.array_equal(mask, oracles.mask_of(visible, n_queries, n_keys))


@given(
    n_queries=st.integers(0, 90),
    n_keys=st.integers(0, 90),
    block=st.integers(1, 100),
    seed=st.integers(0, 99),
    causal=st.booleans(),
    cut=st.sampled_from(["no", "everywhere", "in the partial blocks"]),
)
@settings(max_examples=80, deadline=None)
def test_any_layout_equals_full_attention_under_the_mask(
    n_queries, n_keys, block, seed, causal, cut
):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    layout = random_layout(n_queries, n_keys, block, seed)
    knobs = {"layout": layout, "block": block, "causal": causal}
    if cut != "no":
        shown = np.random.default_rng(seed + 1).random((n_queries, n_keys)) < 0.5
        knobs["visible"] = lambda i, j: shown[i, j]
    if cut == "in the partial blocks":
        knobs["partial"] = random_layout(n_queries, n_keys, block, seed + 2)
    mask = block_sparse.mask(n_queries, n_keys, **knobs)
    out = block_sparse.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


@given(
    n_queries=st.integers(1, 60),
    n_keys=st.integers(1, 60),
    block=st.integers(1, 70),
    share=st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_blocks_of_a_mask_compute_that_mask_whatever_the_block(n_queries, n_keys, block, share):
    shown = np.random.default_rng(0).random((n_queries, n_keys)) < share
    layout, partial = layouts.blocks_of(shown, block=block)
    knobs = {"layout": layout, "partial": partial, "block": block}
    knobs["visible"] = lambda i, j: shown[i, j]
    assert np.array_equal(block_sparse.mask(n_queries, n_keys, **knobs), shown)
    q, k, v = random_qkv(n_queries, n_keys, width=4, dtype=np.float64)
    out = block_sparse.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=shown), atol=1e-12)


def test_only_partial_blocks_are_masked():
    layout, partial = layouts.blocks_of(masks.causal(40, 40), block=8)
    assert np.array_equal(layout, np.tri(5, dtype=bool))
    assert np.array_equal(partial, np.eye(5, dtype=bool))  # a causal mask cuts its diagonal
    asked = []

    def visible(i, j):
        asked.append((i.shape, j.shape, np.unique(j // 8).tolist()))
        return j <= i

    q, k, v = random_qkv(40, width=4, dtype=np.float64)
    knobs = {"layout": layout, "partial": partial, "block": 8, "visible": visible}
    out = block_sparse.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=True), atol=1e-12)
    assert asked == [((8, 1), (1, 8), [row]) for row in range(5)]


@pytest.mark.parametrize("causal", [False, True])
def test_a_query_sees_the_same_alone_as_with_those_before_it(causal):
    layout = random_layout(50, 50, 8, share=0.6)
    whole = block_sparse.mask(50, 50, layout=layout, block=8, causal=causal)
    for last in (1, 3, 20, 49):
        rows = layout[(50 - last) // 8 :]
        part = block_sparse.mask(last, 50, layout=rows, block=8, causal=causal)
        assert np.array_equal(part, whole[-last:])


def test_band_of_single_tokens_is_a_window():
    q, k, v = random_qkv(30, 50, width=4)
    layout = layouts.band(30, 50, block=1, window_blocks=3)
    out = block_sparse.attention(q, k, v, layout=layout, block=1)
    np.testing.assert_allclose(out, window.attention(q, k, v, window=3), atol=1e-6)


def test_band_without_neighbours_is_islands():
    layout = layouts.band(20, 20, block=6, window_blocks=0)
    mask = block_sparse.mask(20, 20, layout=layout, block=6)
    assert np.array_equal(mask, masks.blocks(20, 20, block=6))


@pytest.mark.parametrize("causal", [False, True])
def test_band_with_neighbours_is_overlapping_blocks(causal):
    q, k, v = random_qkv(50, width=4, dtype=np.float64)
    layout = layouts.band(50, 50, block=6, window_blocks=2)
    out = block_sparse.attention(q, k, v, layout=layout, block=6, causal=causal)
    mask = masks.blocks(50, 50, block=6, overlap=12)
    expected = full.attention(q, k, v, mask=mask, causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_rounding_random_keys_up_to_blocks_covers_nearly_everything():
    mask = random_keys.mask(512, 512, n_random=16)
    layout, _ = layouts.blocks_of(mask, block=32)
    assert masks.density(mask) < 0.04 and masks.density(layout) > 0.8  # claim C144's over-coverage


@pytest.mark.parametrize("causal", [False, True])
def test_the_cost_of_a_layout(causal):
    layout = random_layout(1000, 1000, 64)
    q, k, v = random_qkv(1000, heads=2)
    knobs = {"layout": layout, "block": 64, "causal": causal}
    predicted = block_sparse.layout_cost(1, 2, 1000, 1000, 64, **knobs)
    assert measure.count_flops(block_sparse.attention, q, k, v, **knobs) == predicted.flops
    peak = measure.peak_bytes(block_sparse.attention, q, k, v, **knobs)
    assert peak == pytest.approx(predicted.peak_bytes, rel=0.1)


def test_an_unlisted_key_has_no_influence():
    q, k, v = random_qkv(40, width=4)
    layout = random_layout(40, 40, 8)
    layout[:, 2] = False
    before = block_sparse.attention(q, k, v, layout=layout, block=8)
    k[..., 16:24, :], v[..., 16:24, :] = np.nan, np.nan
    assert np.array_equal(before, block_sparse.attention(q, k, v, layout=layout, block=8))


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"block": 0}, ValueError, "block must be at least 1, got 0"),
        ({"block": 2.0}, TypeError, "block must be an integer"),
        ({"block": 3}, ValueError, r"layout must have shape \(3, 3\), got \(2, 2\)"),
        ({"layout": np.ones((2, 2))}, TypeError, "layout must be a boolean array, got float64"),
        ({"layout": [[True]]}, TypeError, "layout must be a boolean array, got list"),
        ({"layout": None}, TypeError, "layout must be a boolean array, got NoneType"),
        ({"partial": np.ones((1, 2), bool)}, ValueError, r"partial must have shape \(2, 2\)"),
        ({"partial": np.ones((2, 2), bool)}, ValueError, "partial blocks need visible"),
    ],
)
def test_wrong_grids_are_refused(knobs, error, words):
    knobs = {"layout": np.ones((2, 2), bool), "block": 4} | knobs
    with pytest.raises(error, match=f"block_sparse.attention: {words}"):
        block_sparse.attention(*random_qkv(8), **knobs)
    with pytest.raises(error, match=f"block_sparse.mask: {words}"):
        block_sparse.mask(8, 8, **knobs)
