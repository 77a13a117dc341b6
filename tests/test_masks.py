import numpy as np
import pytest

from attncourse import masks
from attncourse.reference import window


def test_the_last_query_is_aligned_with_the_last_key():
    assert masks.positions(2, 5).tolist() == [3, 4]
    assert masks.causal(2, 5).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert masks.causal(3, 1).tolist() == [[0], [0], [1]]


def test_blocks_without_overlap_are_islands():
    mask = masks.blocks(12, 12, block=4)
    assert mask.sum() == 3 * 16
    assert np.array_equal(masks.reach(mask, 50), mask)
    assert masks.reach(masks.blocks(12, 12, block=4, overlap=1), 3).all()


def test_density_of_nothing_is_nothing():
    assert masks.density(np.zeros((0, 5), bool)) == 0
    assert masks.density(masks.causal(2, 2)) == 0.75


@pytest.mark.parametrize(("radius", "layers"), [(64, 16), (128, 8), (256, 4)])
def test_a_window_of_radius_w_needs_n_over_w_layers(radius, layers):
    n = 1024
    mask = window.mask(n, n, window=radius)
    assert masks.reach(mask, layers).all()
    assert not masks.reach(mask, layers - 1).all()
    assert masks.hops(window.mask(129, 129, window=radius // 8)).max() == 128 // (radius // 8)


def test_hops_of_unconnected_tokens_is_minus_one():
    hops = masks.hops(masks.blocks(4, 4, block=2))
    assert hops.tolist() == [[0, 1, -1, -1], [1, 0, -1, -1], [-1, -1, 0, 1], [-1, -1, 1, 0]]


def test_reach_keeps_the_direction_of_a_causal_mask():
    assert np.array_equal(masks.reach(masks.causal(5, 5), 3), masks.causal(5, 5))


@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.ones((2, 2)), np.ones(4, bool)])
def test_reach_and_hops_refuse_what_is_no_square_mask(mask):
    for function in (lambda: masks.reach(mask, 1), lambda: masks.hops(mask)):
        with pytest.raises(ValueError, match="square boolean matrix"):
            function()


@pytest.mark.parametrize(
    ("knobs", "words"), [({"block": 0}, "block must be"), ({"block": 2, "overlap": -1}, "overlap")]
)
def test_blocks_refuses_wrong_knobs(knobs, words):
    with pytest.raises(ValueError, match=words):
        masks.blocks(4, 4, **knobs)


def test_blocks_may_be_as_large_as_integers_get():
    for sizes in ((6, 6), (3, 9), (9, 3), (0, 4), (4, 0), (0, 0)):
        wide = masks.blocks(*sizes, block=100, overlap=100)
        np.testing.assert_array_equal(
            wide, masks.blocks(*sizes, block=2**63 - 1, overlap=2**63 - 1)
        )
        islands = masks.blocks(*sizes, block=100)
        np.testing.assert_array_equal(islands, masks.blocks(*sizes, block=2**63 - 1))
