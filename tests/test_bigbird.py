"""BigBird attention, beside transformers' own module.

There the window is one block on each side, the global blocks are the first and the last, each head
draws its own random blocks, and only in training. Outside training the random blocks are all block
0, whose keys then count 1 + r times in the softmax.
"""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import graph, layouts, masks
from attncourse.inputs import random_qkv
from attncourse.reference import bigbird, block_sparse, full


@given(
    n_queries=st.integers(0, 80),
    n_keys=st.integers(0, 80),
    block=st.integers(1, 90),
    counts=st.tuples(*3 * [st.integers(0, 5)]),
    seed=st.integers(0, 2**40),
    causal=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(
    n_queries, n_keys, block, counts, seed, causal
):
    names = ("window_blocks", "random_blocks", "global_blocks")
    knobs = dict(zip(names, counts, strict=True))
    knobs |= {"block": block, "seed": seed, "causal": causal}
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    mask = bigbird.mask(n_queries, n_keys, **knobs)
    out = bigbird.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window_blocks", [0, 1, 2])
@pytest.mark.parametrize("global_blocks", [0, 2, (0, 11), np.array([5])])
def test_layout_is_window_and_global_blocks_and_so_many_random_ones(
    causal, window_blocks, global_blocks
):
    n = 12
    everywhere = range(global_blocks) if isinstance(global_blocks, int) else list(global_blocks)
    for random_blocks in (0, 2, 50):
        layout = bigbird.layout(
            4 * n - 1,  # the last block is short
            4 * n - 1,
            block=4,
            window_blocks=window_blocks,
            random_blocks=random_blocks,
            global_blocks=global_blocks,
            causal=causal,
        )
        assert layout.shape == (n, n)
        for i in range(n):
            past = range(i + 1 if causal else n)
            near = {j for j in past if abs(i - j) <= window_blocks}
            fixed = near | (set(past) if i in everywhere else set(past) & set(everywhere))
            seen = set(np.flatnonzero(layout[i]))
            assert fixed <= seen <= set(past)
            assert len(seen - fixed) == min(random_blocks, len(set(past) - fixed))


def test_the_seed_decides_the_random_blocks():
    draw = functools.partial(bigbird.layout, 320, 320, block=8)
    assert np.array_equal(draw(seed=1), draw(seed=1))
    assert not np.array_equal(draw(seed=1), draw(seed=2))
    assert np.array_equal(draw(seed=1, random_blocks=0), draw(seed=2, random_blocks=0))


def test_a_growing_sequence_keeps_its_past_blocks():
    knobs = {"block": 8, "seed": 3, "causal": True}
    whole = bigbird.mask(200, 200, **knobs)
    assert np.array_equal(whole[:150, :150], bigbird.mask(150, 150, **knobs))
    for last in (1, 30, 150):
        assert np.array_equal(whole[-last:], bigbird.mask(last, 200, **knobs))


def test_alone_its_parts_are_a_band_and_islands_of_hubs():
    band = bigbird.layout(80, 80, block=8, window_blocks=2, random_blocks=0, global_blocks=0)
    assert np.array_equal(band, layouts.band(80, 80, block=8, window_blocks=2))
    hub = bigbird.mask(80, 80, block=8, window_blocks=0, random_blocks=0, global_blocks=1)
    assert graph.hops(hub).max() == 2  # claim C227: one global token is enough


@pytest.mark.parametrize("causal", [False, True])
def test_more_blocks_than_there_are_is_full_attention(causal):
    q, k, v = random_qkv(50, width=4, dtype=np.float64)
    everything = full.attention(q, k, v, causal=causal)
    for knobs in (
        {"window_blocks": 13},
        {"window_blocks": 0, "global_blocks": 10**9},
        {"window_blocks": 0, "global_blocks": 0, "random_blocks": 13},
    ):
        out = bigbird.attention(q, k, v, block=4, causal=causal, **knobs)
        np.testing.assert_allclose(out, everything, atol=1e-12)


def test_density_of_the_released_settings():
    mask = bigbird.mask(
        4096, 4096, block=64, window_blocks=1, random_blocks=3, global_blocks=(0, 63)
    )
    assert round(100 * masks.density(mask), 1) == 15.2  # claim C233
    assert round(mask.sum() / 4096) == 622


class Peer:
    """transformers' BigBird attention, 3 heads, blocks of 4, 64 tokens."""

    n, heads, width, block = 64, 3, 8, 4

    def __init__(self, random_blocks, training):
        self.torch = torch = pytest.importorskip("torch")
        modeling = pytest.importorskip("transformers.models.big_bird.modeling_big_bird")
        from transformers import BigBirdConfig

        config = BigBirdConfig(
            hidden_size=self.heads * self.width,
            num_attention_heads=self.heads,
            block_size=self.block,
            num_random_blocks=random_blocks,
        )
        torch.manual_seed(0)
        self.module = modeling.BigBirdBlockSparseAttention(config, seed=0).double().train(training)
        self.masks = modeling.BigBirdModel.create_masks_for_block_sparse_attn
        self.hidden = torch.randn(2, self.n, self.heads * self.width, dtype=torch.float64)
        draw, self.plans = self.module._bigbird_block_rand_mask_with_head, []

        def remember(**sizes):
            self.plans.append(draw(**sizes))
            return self.plans[-1]

        self.module._bigbird_block_rand_mask_with_head = remember

    def out(self):
        bands = self.masks(self.torch.ones(2, self.n, dtype=self.torch.float64), self.block)
        names = ("from_blocked_mask", "band_mask", "from_mask", "to_mask")
        named = dict(zip(names, bands, strict=True))
        with self.torch.no_grad():
            out = self.module(self.hidden, to_blocked_mask=named["from_blocked_mask"], **named)[0]
        return out.unflatten(-1, (self.heads, self.width)).transpose(1, 2).numpy()

    def qkv(self):
        for linear in (self.module.query, self.module.key, self.module.value):
            heads = linear(self.hidden).unflatten(-1, (self.heads, self.width))
            yield heads.transpose(1, 2).detach().numpy()


def test_transformers_bigbird_in_training_at_the_blocks_that_it_draws():
    peer = Peer(random_blocks=2, training=True)
    theirs, (q, k, v) = peer.out(), peer.qkv()
    knobs = {"block": 4, "window_blocks": 1, "random_blocks": 0, "global_blocks": (0, 15)}
    for head, plan in enumerate(np.array(peer.plans[0])):
        layout = bigbird.layout(64, 64, **knobs)
        assert not np.take_along_axis(layout[1:-1], plan, axis=1).any()  # none is counted twice
        np.put_along_axis(layout[1:-1], plan, True, axis=1)
        ours = block_sparse.attention(q[:, head], k[:, head], v[:, head], layout=layout, block=4)
        np.testing.assert_allclose(ours, theirs[:, head], atol=1e-12)


def test_transformers_bigbird_outside_training_counts_its_first_block_again():
    peer = Peer(random_blocks=2, training=False)
    theirs, (q, k, v) = peer.out(), peer.qkv()
    mask = bigbird.mask(64, 64, block=4, window_blocks=1, random_blocks=0, global_blocks=(0, 15))
    again = np.zeros((64, 64))
    again[4:-4, :4] = np.log(3)  # three times the weight
    np.testing.assert_allclose(full.attention(q, k, v, mask=mask, bias=again), theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"block": 0}, ValueError, "block must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"global_blocks": (0, 2)}, ValueError, "global_blocks must lie in 0 ... 1, got 0 ... 2"),
        ({"global_blocks": "all"}, TypeError, "global_blocks must be an integer, got str 'all'"),
    ],
)
def test_wrong_knobs_are_refused_everywhere(knobs, error, words):
    knobs = {"block": 4} | knobs
    for name, call in {
        "attention": lambda: bigbird.attention(*random_qkv(8), **knobs),
        "layout": lambda: bigbird.layout(8, 8, **knobs),
        "mask": lambda: bigbird.mask(8, 8, **knobs),
        "cost": lambda: bigbird.cost(1, 1, 8, 8, 8, **knobs),
    }.items():
        with pytest.raises(error, match=f"bigbird.{name}: {words}"):
            call()
