import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import graph, masks
from attncourse.inputs import random_qkv
from attncourse.reference import full, random_keys

SHAPES = {
    "n_queries": st.integers(0, 70),
    "n_keys": st.integers(0, 70),
    "n_random": st.integers(0, 80),
    "seed": st.integers(0, 2**40),
    "causal": st.booleans(),
}


@given(**SHAPES)
@settings(max_examples=80, deadline=None)
def test_each_query_draws_that_many_different_keys_beside_its_own(
    n_queries, n_keys, n_random, seed, causal
):
    drawn = random_keys.draw(n_queries, n_keys, n_random=n_random, seed=seed, causal=causal)
    assert drawn.shape == (n_queries, 1 + min(n_random, n_keys))
    for own, keys in zip(masks.positions(n_queries, n_keys), drawn.tolist(), strict=True):
        assert keys[0] == max(own, -1)
        others = [key for key in keys[1:] if key >= 0]
        candidates = set(range(max(own, 0) if causal else n_keys)) - {own}
        assert len(others) == len(set(others)) == min(n_random, len(candidates))
        assert set(others) <= candidates


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(n_queries, n_keys, n_random, seed, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    knobs = {"n_random": n_random, "seed": seed, "causal": causal}
    mask = random_keys.mask(n_queries, n_keys, **knobs)
    out = random_keys.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_the_seed_decides_and_nothing_else():
    first = random_keys.draw(90, 90, n_random=5, seed=3)
    assert np.array_equal(first, random_keys.draw(90, 90, n_random=5, seed=3))
    assert not np.array_equal(first, random_keys.draw(90, 90, n_random=5, seed=4))
    q, k, v = random_qkv(90, heads=2, width=4)
    out = random_keys.attention(q, k, v, n_random=5, seed=3)
    alone = random_keys.attention(q[:, 1], k[:, 1], v[:, 1], n_random=5, seed=3)
    np.testing.assert_allclose(out[:, 1], alone, atol=1e-6)  # all heads share the keys


def test_a_growing_sequence_keeps_its_past_draws():
    whole = random_keys.mask(80, 80, n_random=6, seed=1, causal=True)
    assert np.array_equal(
        whole[:50, :50], random_keys.mask(50, 50, n_random=6, seed=1, causal=True)
    )
    assert np.array_equal(whole[-1:], random_keys.mask(1, 80, n_random=6, seed=1, causal=True))
    both_ways = random_keys.mask(80, 80, n_random=6, seed=1)
    assert np.array_equal(both_ways[-7:], random_keys.mask(7, 80, n_random=6, seed=1))


@pytest.mark.parametrize("causal", [False, True])
def test_every_key_is_as_likely_as_any_other(causal):
    n, n_random, seeds = 12, 3, 1500
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts += random_keys.mask(n, n, n_random=n_random, seed=seed, causal=causal)
    for i in range(n):
        others = np.delete(counts[i, : i if causal else n], [] if causal else i)
        if len(others) > n_random:
            share = n_random / len(others)
            spread = np.sqrt(seeds * share * (1 - share))
            assert np.all(np.abs(others - seeds * share) < 4.5 * spread)
        else:
            assert np.all(others == seeds)


def test_no_random_key_returns_the_values():
    q, k, v = random_qkv(70, width=4)
    np.testing.assert_allclose(random_keys.attention(q, k, v, n_random=0), v, rtol=1e-6)


@pytest.mark.parametrize("n_random", [19, 20, 1000])
@pytest.mark.parametrize("causal", [False, True])
def test_more_keys_than_there_are_is_full_attention(n_random, causal):
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    out = random_keys.attention(q, k, v, n_random=n_random, causal=causal)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)


def test_few_random_keys_join_all_tokens_in_few_layers_and_fewer_leave_some_out():
    ring = np.eye(256, k=1, dtype=bool) | np.eye(256, k=-255, dtype=bool)
    ring |= ring.T
    for seed in range(3):  # claim C227: logarithmic, about 7 layers at n = 256
        mask = random_keys.mask(256, 256, n_random=2, seed=seed)
        assert 6 <= graph.hops(mask | ring).max() <= 8
        assert graph.hops(random_keys.mask(256, 256, n_random=1, seed=seed)).min() == -1  # C011


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"n_random": 2, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"n_random": -2}, ValueError, "n_random must be at least 0, got -2"),
        ({"n_random": 2, "seed": 0.5}, TypeError, "seed must be an integer, got float 0.5"),
    ],
)
def test_wrong_knobs_are_refused_everywhere(knobs, error, words):
    for name, call in {
        "attention": lambda: random_keys.attention(*random_qkv(4), **knobs),
        "draw": lambda: random_keys.draw(4, 4, **knobs),
        "mask": lambda: random_keys.mask(4, 4, **knobs),
        "cost": lambda: random_keys.cost(1, 1, 4, 4, 8, **knobs),
    }.items():
        with pytest.raises(error, match=f"random_keys.{name}: {words}"):
            call()
