import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, kv_cache, quantised_cache


def rounded(array, axis):
    return quantised_cache.dequantise(*quantised_cache.quantise(array, axis))


def by_definition(q, k, v, group, causal, scale=None):
    """Each query alone: the keys of its own group as they are, those of earlier groups rounded."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    k_hat, v_hat = k.copy(), v.copy()
    for start in range(0, n_keys - group + 1, group):
        part = slice(start, start + group)
        k_hat[..., part, :] = rounded(k[..., part, :], axis=-2)
        v_hat[..., part, :] = rounded(v[..., part, :], axis=-1)
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for i in range(n_queries):
        seen = i + 1 + n_keys - n_queries if causal else n_keys
        if seen <= 0:
            continue
        exact = (seen - 1) // group * group
        keys, values = (
            np.concatenate([hat[..., :exact, :], own[..., exact:seen, :]], axis=-2)
            for hat, own in ((k_hat, k), (v_hat, v))
        )
        out[..., i : i + 1, :] = full.attention(q[..., i : i + 1, :], keys, values, scale=scale)
    return out


# Rounding


@given(
    tokens=st.integers(1, 40),
    width=st.integers(1, 20),
    axis=st.sampled_from([-1, -2]),
    spread=st.floats(-8, 8),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_number_is_wrong_by_half_a_scale_at_most(tokens, width, axis, spread, seed):
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((2, tokens, width)) * 10.0 ** (spread * generator.random())
    numbers, scales = quantised_cache.quantise(array, axis)
    assert numbers.dtype == np.int8 and np.abs(numbers.astype(int)).max() == 127
    assert scales.shape == ((2, tokens, 1) if axis == -1 else (2, 1, width))
    error = np.abs(quantised_cache.dequantise(numbers, scales) - array)
    assert np.all(error <= scales / 2 * (1 + 1e-9))


def test_zeros_stay_zeros_and_nothing_is_quantised_to_nothing():
    numbers, scales = quantised_cache.quantise(np.zeros((3, 4), np.float32), axis=-1)
    assert not numbers.any() and not scales.any() and scales.dtype == np.float32
    assert quantised_cache.quantise(np.zeros((0, 4)), axis=-2)[0].shape == (0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_never_repaired(bad):
    array = np.ones((3, 4), np.float32)
    array[1, 2] = bad
    restored = rounded(array, axis=-1)
    assert not np.isfinite(restored[1]).any() and np.isfinite(restored[[0, 2]]).all()


def test_every_dtype_rounds_to_the_same_numbers():
    array = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float16)
    for axis in (-1, -2):
        numbers = [quantised_cache.quantise(array.astype(t), axis)[0] for t in ("f2", "f4", "f8")]
        assert np.array_equal(numbers[0], numbers[1]) and np.array_equal(numbers[0], numbers[2])


def test_an_outlier_channel_spoils_tokens_but_not_channels():
    # Why keys have a scale for each channel: their outliers sit in a few channels.
    keys = np.random.default_rng(0).standard_normal((64, 32))
    keys[:, 5] *= 100
    others = np.delete(np.arange(32), 5)
    by_token, by_channel = (
        np.abs(rounded(keys, axis) - keys)[:, others].max() for axis in (-1, -2)
    )
    assert by_token > 30 * by_channel


# Attention


@given(
    sizes=st.tuples(st.integers(0, 25), st.integers(0, 25)),
    group=st.integers(1, 30),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_definition_query_by_query(sizes, group, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=6, value_width=4, dtype=np.float64)
    out = quantised_cache.attention(q, k, v, group=group, causal=causal, scale=0.6)
    np.testing.assert_allclose(out, by_definition(q, k, v, group, causal, 0.6), atol=1e-13)


@pytest.mark.parametrize("group", [1, 4, 7, 64])
def test_any_cut_into_steps_gives_the_same(group):
    q, k, v = random_qkv(30, heads=2, width=6, dtype=np.float64)
    expected = quantised_cache.attention(q, k, v, group=group, causal=True)
    for cuts in (range(31), (0, 30), (0, 5, 5, 12, 29, 30)):
        state, outs = quantised_cache.start(k, v, group=group), []
        for start, stop in itertools.pairwise(cuts):
            new = (array[..., start:stop, :] for array in (q, k, v))
            out, state = quantised_cache.step(state, *new)
            outs.append(out)
        np.testing.assert_allclose(np.concatenate(outs, axis=-2), expected, atol=1e-13)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("causal", [False, True])
def test_the_error_stays_below_its_bound(causal, sharpness):
    q, k, v = random_qkv(60, heads=2, width=16, dtype=np.float64)
    q *= sharpness
    error = np.abs(
        quantised_cache.attention(q, k, v, group=8, causal=causal)
        - full.attention(q, k, v, causal=causal)
    )
    bound = quantised_cache.error_bound(q, k, v)
    assert bound.shape == (1, 2, 60, 1) and np.all(error <= bound)
    assert 1e-5 < error.max() < 0.05  # it is not exact, and far better than its bound


def test_the_bound_is_that_of_the_values_where_all_weights_are_equal():
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    bound = quantised_cache.error_bound(q, k, v, scale=0.0)
    np.testing.assert_allclose(bound, np.abs(v).max() / 254)


def test_groups_of_query_heads_share_the_cache():
    q, _, _ = random_qkv(20, heads=6, width=8, dtype=np.float64)
    _, k, v = random_qkv(20, heads=2, width=8, dtype=np.float64)
    out = quantised_cache.attention(q, k, v, group=8, causal=True)
    repeated = [np.repeat(array, 3, axis=1) for array in (k, v)]
    expected = quantised_cache.attention(q, *repeated, group=8, causal=True)
    np.testing.assert_allclose(out, expected, atol=1e-14)
    for causal in (False, True):
        knobs = {"group": 8, "causal": causal}
        counted = measure.count_flops(quantised_cache.attention, q, k, v, **knobs)
        assert counted == quantised_cache.cost(1, 6, 20, 20, 8, groups=2, **knobs).flops


# Bytes


def test_bytes_are_those_of_the_formula():
    _, k, v = random_qkv(65, heads=3, batch=2, width=32, dtype=np.float16)
    cache = quantised_cache.start(k, v, group=16)
    newest = kv_cache.size_bytes(16, 3, 32, batch=2)
    assert cache.bytes_held == newest and cache.n_newest == 0
    cache.append(k, v)
    quantised = quantised_cache.size_bytes(64, 3, 32, group=16, batch=2)
    assert cache.bytes_held == newest + quantised and cache.n_newest == 1
    assert quantised == 2 * 3 * 64 * (32 + 32 + 4 + 4 * 32 // 16)


def test_int8_halves_a_float16_cache_but_for_the_scales():
    model = {"tokens": 4096, "groups": 8, "width": 128, "layers": 32}
    ratio = kv_cache.size_bytes(**model) / quantised_cache.size_bytes(group=64, **model)
    assert 1.9 < ratio < 2
    coarse = quantised_cache.size_bytes(group=1, **model)  # a scale for every number of the keys
    assert coarse > kv_cache.size_bytes(**model)
    small = {name: np.int8(number % 100) for name, number in model.items()}  # products overflow
    plain = {name: int(number) for name, number in small.items()}
    assert kv_cache.size_bytes(**small) == kv_cache.size_bytes(**plain)
    sizes = (quantised_cache.size_bytes(group=4, **each) for each in (small, plain))
    assert len(set(sizes)) == 1


def test_attention_never_holds_the_whole_cache_in_floating_numbers():
    q, k, v = random_qkv(8192, heads=2)
    cache = quantised_cache.start(k, v, group=64)
    cache.append(k, v)
    peak = measure.peak_bytes(quantised_cache.step, cache, *(a[..., :1, :] for a in (q, k, v)))
    assert peak < k.nbytes / 8


# Errors


def test_tokens_that_do_not_fit_are_refused_and_nothing_is_written():
    q, k, v = random_qkv(5, heads=2, width=8)
    cache = quantised_cache.start(k, v, group=4)
    with pytest.raises(ValueError, match=r"^quantised_cache.append: k must be float32 .*float64"):
        cache.append(k.astype(float), v.astype(float))
    with pytest.raises(
        ValueError, match=r"^quantised_cache.append: v must be .*5, 8\), got .*5, 7"
    ):
        cache.append(k, v[..., :7])
    with pytest.raises(ValueError, match=r"^quantised_cache.step: q and k .* tokens, got 4 and 5"):
        quantised_cache.step(cache, q[..., :4, :], k, v)
    with pytest.raises(ValueError, match=r"^quantised_cache.start: group must be at least 1"):
        quantised_cache.start(k, v, group=0)
    assert cache.length == 0 and cache.n_newest == 0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("axis", [-1, -2])
def test_fewer_bits_are_off_by_half_of_their_scale_at_most(bits, axis):
    k = random_qkv(50, width=16, dtype=np.float64)[1]
    numbers, scales = quantised_cache.quantise(k, axis, bits=bits)
    assert np.abs(numbers).max() == 2 ** (bits - 1) - 1
    off = np.abs(quantised_cache.dequantise(numbers, scales) - k)
    assert (off <= scales / 2 + 1e-12).all() and off.max() > 0.4 * scales.max()


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_that_are_no_quantising_are_refused(bits):
    k = random_qkv(5, width=4)[1]
    with pytest.raises(ValueError, match=rf"quantised_cache\.quantise: bits must be .* got {bits}"):
        quantised_cache.quantise(k, -1, bits=bits)
