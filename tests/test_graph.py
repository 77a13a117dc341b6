import numpy as np
import pytest

from attncourse import graph, masks
from attncourse.reference import random_keys, strided, window


def test_connections_and_density_count_the_pairs():
    mask = window.mask(1024, 1024, window=256)
    assert graph.connections(mask) == window.count(1024, 1024, window=256)
    assert graph.density(mask) == graph.connections(mask) / 1024**2
    assert graph.connections(np.zeros((0, 4), bool)) == 0 == graph.density(np.zeros((0, 4), bool))


def test_masks_hands_on_what_a_mask_can_do():
    assert (masks.density, masks.reach, masks.hops) == (graph.density, graph.reach, graph.hops)


def test_reach_is_the_set_of_paths():
    generator = np.random.default_rng(0)
    mask = generator.random((12, 12)) < 0.12
    seen = {i: {i} for i in range(12)}
    for layers in range(5):
        expected = [[j in seen[i] for j in range(12)] for i in range(12)]
        assert np.array_equal(graph.reach(mask, layers), expected)
        seen = {
            i: seen[i] | {j for middle in np.flatnonzero(mask[i]) for j in seen[middle]}
            for i in seen
        }


def test_reach_through_one_mask_again_and_again_is_reach():
    mask = window.mask(40, 40, window=3, causal=True)
    for layers, reached in enumerate(graph.reach_through([mask] * 5), start=1):
        assert np.array_equal(reached, graph.reach(mask, layers))
    assert graph.reach_through([]) == []


def test_dilation_that_doubles_reaches_everything_in_log_n_layers():
    n = 512
    plan = [window.mask(n, n, window=1, dilation=2**layer) for layer in range(9)]
    assert graph.reach_through(plan)[-1].all() and not graph.reach_through(plan[:-1])[-1].all()
    same = [window.mask(n, n, window=1)] * 9  # claim C350: the same dilation adds up linearly
    assert graph.density(graph.reach_through(same)[-1]) < 0.04


def test_the_order_of_the_layers_matters():
    first, second = np.zeros((2, 3, 3), dtype=bool)
    first[1, 0] = second[2, 1] = True  # 0 to 1 in one layer, 1 to 2 in the other
    assert graph.reach_through([first, second])[-1][2, 0]
    assert not graph.reach_through([second, first])[-1][2, 0]


def test_hops_is_the_first_layer_that_reaches():
    mask = random_keys.mask(60, 60, n_random=1, seed=2)
    hops = graph.hops(mask)
    for layers in range(hops.max() + 1):
        assert np.array_equal(graph.reach(mask, layers), (hops >= 0) & (hops <= layers))


def test_hop_curve_rises_to_what_can_be_reached():
    mask = random_keys.mask(60, 60, n_random=2, seed=2) | window.mask(60, 60, window=1)
    curve = graph.hop_curve(mask)
    expected = [graph.density(graph.reach(mask, layers)) for layers in range(len(curve))]
    np.testing.assert_allclose(curve, expected)
    assert curve[0] == 1 / 60 and curve[-1] == 1 and np.all(np.diff(curve) > 0)
    islands = graph.hop_curve(masks.blocks(12, 12, block=4))
    np.testing.assert_allclose(islands, [1 / 12, 1 / 3])
    assert graph.hop_curve(np.zeros((0, 0), bool)).tolist() == [1]


def test_strided_attention_alone_is_as_many_islands_as_the_stride():
    mask = strided.mask(2048, 2048, stride=64)  # claim C216: 64 components, 1.6 % of all pairs
    assert np.array_equal(graph.islands(mask), np.arange(2048) % 64)
    assert round(100 * graph.density(mask), 1) == 1.6
    joined = mask | window.mask(2048, 2048, window=32)
    assert not graph.islands(joined).any() and graph.reach(joined, 3).all()


def test_islands_ignore_the_direction_and_long_chains_hold_together():
    assert not graph.islands(window.mask(100, 100, window=1, causal=True)).any()
    assert graph.islands(np.zeros((3, 3), bool)).tolist() == [0, 1, 2]
    assert graph.islands(np.zeros((0, 0), bool)).tolist() == []
    order = np.random.default_rng(0).permutation(50)
    chain = np.zeros((50, 50), dtype=bool)
    chain[order[:-1], order[1:]] = True
    assert not graph.islands(chain).any()


@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.ones((2, 2)), np.ones(4, bool)])
def test_what_is_no_square_mask_is_refused(mask):
    for name, call in {
        "reach": lambda: graph.reach(mask, 1),
        "reach_through": lambda: graph.reach_through([mask]),
        "hops": lambda: graph.hops(mask),
        "islands": lambda: graph.islands(mask),
    }.items():
        with pytest.raises(ValueError, match=rf"graph\.{name}: mask must be a square boolean"):
            call()


def test_layers_of_different_sizes_and_negative_layers_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        graph.reach_through([np.eye(2, dtype=bool), np.eye(3, dtype=bool)])
    with pytest.raises(ValueError, match=r"graph\.reach: layers must be at least 0, got -1"):
        graph.reach(np.eye(2, dtype=bool), -1)
