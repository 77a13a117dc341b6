"""Strided attention and attention at chosen offsets."""

import itertools
import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import graph, measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, offsets, strided, window

SIZES = (0, 1, 2, 63, 100)


def strided_visible(n_queries, n_keys, stride, causal):
    def visible(i, j):
        distance = i + n_keys - n_queries - j
        return distance % stride == 0 and (distance >= 0 or not causal)

    return visible


@pytest.mark.parametrize(("n_queries", "n_keys"), list(itertools.product(SIZES, SIZES)))
def test_mask_follows_the_definition(n_queries, n_keys):
    for stride, causal in itertools.product((1, 2, 7, 200), (False, True)):
        visible = strided_visible(n_queries, n_keys, stride, causal)
        mask = strided.mask(n_queries, n_keys, stride=stride, causal=causal)
        assert np.array_equal(mask, oracles.mask_of(visible, n_queries, n_keys))


@given(
    n_queries=st.integers(0, 150),
    n_keys=st.integers(0, 150),
    stride=st.integers(1, 170),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(n_queries, n_keys, stride, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    mask = strided.mask(n_queries, n_keys, stride=stride, causal=causal)
    out = strided.attention(q, k, v, stride=stride, causal=causal)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_each_residue_class_is_full_attention_on_a_short_sequence(causal):
    q, k, v = random_qkv(90, width=4)
    out = strided.attention(q, k, v, stride=7, causal=causal)
    for start in range(7):
        part = full.attention(*(a[..., start::7, :] for a in (q, k, v)), causal=causal)
        np.testing.assert_allclose(out[..., start::7, :], part, atol=1e-6)


def test_it_is_a_dilated_window_without_an_end():
    q, k, v = random_qkv(50, 90, width=4)
    endless = window.attention(q, k, v, window=90, dilation=6)
    np.testing.assert_allclose(strided.attention(q, k, v, stride=6), endless, atol=1e-6)


def test_a_stride_beyond_the_last_key_leaves_the_query_alone():
    q, k, v = random_qkv(70, width=4)
    np.testing.assert_allclose(strided.attention(q, k, v, stride=70), v, rtol=1e-6)


def test_the_published_example():
    mask = strided.mask(4096, 4096, stride=64)  # claim C215
    assert np.flatnonzero(mask[1024]).tolist() == list(range(0, 4096, 64))


@pytest.mark.parametrize("period", [1, 6, 12])
def test_learned_stride_finds_the_period_of_the_data(period):
    n = 60
    phase = np.arange(n) % period
    weights = (phase[:, None] == phase) + 0.0005  # a little attention everywhere
    weights /= weights.sum(axis=-1, keepdims=True)
    assert strided.learned_stride(weights, mass=0.9) == period


def test_learned_stride_is_the_largest_that_catches_the_mass():
    q, k, _ = random_qkv(20, 30, heads=3, width=8, dtype=np.float64)
    weights = full.weights(3 * q, k)
    for mass in (0.05, 0.3, 0.6):
        found = strided.learned_stride(weights, mass=mass)
        assert found.shape == (1, 3)
        for head in range(3):
            caught = [
                (weights[0, head] * strided.mask(20, 30, stride=s)).sum() / 20 for s in range(1, 31)
            ]
            assert found[0, head] == max(s for s in range(1, 31) if caught[s - 1] >= mass)


def test_learned_stride_of_all_the_mass_is_one_and_of_self_attention_everything():
    weights = full.weights(*random_qkv(12, width=4)[:2])[0, 0]
    assert strided.learned_stride(weights, mass=1.0) == 1
    assert strided.learned_stride(np.eye(12), mass=1.0) == 12


@pytest.mark.parametrize("mass", [-0.1, 1.1, float("nan")])
def test_learned_stride_refuses_a_mass_outside_0_to_1(mass):
    with pytest.raises(ValueError, match=r"strided\.learned_stride: mass must be between 0 and 1"):
        strided.learned_stride(np.eye(3), mass=mass)


def test_learned_stride_refuses_an_empty_matrix():
    with pytest.raises(ValueError, match="at least 1 key"):
        strided.learned_stride(np.zeros((3, 0)), mass=0.5)


# Offsets


def test_exponential_offsets_double():
    assert offsets.exponential(17) == (0, 1, 2, 4, 8, 16)
    assert offsets.exponential(1) == offsets.exponential(0) == (0,)


@pytest.mark.parametrize("base", [2, 3, 4, 10, 50])
def test_hierarchical_offsets_are_digits_times_powers(base):
    n = 50
    expected = {d * base**e for d in range(1, base) for e in range(6) if d * base**e < n}
    assert set(offsets.hierarchical(n, base=base)) == {0} | expected
    levels = math.ceil(math.log(n, base))
    # as many digits as n has: every distance is a sum of one offset per level
    assert (
        graph.hops(offsets.mask(n, n, offsets=offsets.hierarchical(n, base=base))).max() <= levels
    )


def test_primes_reach_in_two_hops_what_powers_of_two_never_do():
    n = 4096  # claim C010: two-hop coverage of all distances
    covered = {}
    for name in (offsets.multiples, offsets.primes):
        steps = np.array(name(n, strides=(32, 64, 128)))
        both = np.concatenate([steps, -steps])
        covered[name.__name__] = np.unique(np.abs(np.add.outer(both, both)))
    share = {name: (distances < n).sum() / n for name, distances in covered.items()}
    assert share["multiples"] == 1 / 32 and share["primes"] == 1
    assert offsets.primes(200, strides=(64,)) == (0, 61, 122, 183)


@given(
    n_queries=st.integers(0, 90),
    n_keys=st.integers(0, 90),
    chosen=st.lists(st.integers(0, 120), max_size=6),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_offsets_equal_full_attention_under_their_mask(n_queries, n_keys, chosen, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    knobs = {"offsets": tuple(chosen), "causal": causal}
    mask = offsets.mask(n_queries, n_keys, **knobs)

    def visible(i, j):
        distance = i + n_keys - n_queries - j
        return distance in chosen or (not causal and -distance in chosen)

    assert np.array_equal(mask, oracles.mask_of(visible, n_queries, n_keys))
    out = offsets.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)
    counted = measure.count_flops(offsets.attention, q, k, v, **knobs)
    assert offsets.cost(1, 1, n_queries, n_keys, 5, **knobs).flops * 8 == counted * 10  # Dv is 3


def test_offsets_collapse_to_strided_window_and_full_attention():
    q, k, v = random_qkv(40, 70, width=4)
    for chosen, expected in (
        (offsets.multiples(70, strides=[5]), strided.attention(q, k, v, stride=5)),
        (range(4), window.attention(q, k, v, window=3)),
        (range(70), full.attention(q, k, v)),
    ):
        np.testing.assert_allclose(offsets.attention(q, k, v, offsets=chosen), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("causal", [False, True])
def test_the_cost_of_offsets_predicts_the_peak_within_a_tenth(dtype, causal):
    for n in (1024, 4096):
        knobs = {"offsets": offsets.exponential(n), "causal": causal}
        q, k, v = random_qkv(n, heads=2, dtype=dtype)
        predicted = offsets.cost(1, 2, n, n, 64, dtype_bytes=q.itemsize, **knobs).peak_bytes
        assert measure.peak_bytes(offsets.attention, q, k, v, **knobs) == pytest.approx(
            predicted, rel=0.1
        )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: offsets.mask(4, 4, offsets=(0, -1)), ValueError, r"offsets\.mask: offset must be"),
        (lambda: offsets.mask(4, 4, offsets=(0.5,)), TypeError, r"offsets\.mask: offset must be"),
        (lambda: offsets.hierarchical(9, base=1), ValueError, "base must be at least 2, got 1"),
        (lambda: offsets.multiples(9, strides=[0]), ValueError, "stride must be at least 1, got 0"),
        (lambda: offsets.primes(9, strides=[1]), ValueError, "stride must be at least 2, got 1"),
        (lambda: offsets.attention(1, 2, 3, offsets=()), TypeError, "q must be an array, got int"),
    ],
)
def test_wrong_offsets_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
