from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.inputs import random_qkv
from attncourse.reference import full, performer


def in_log_space(q, k, v, directions, causal=False):
    """The definition with positive features in float64: no exponent is ever too large."""
    q, k = (x.astype(np.float64) * x.shape[-1] ** -0.25 for x in (q, k))
    exponents = [
        x @ directions.T.astype(np.float64) - (x**2).sum(-1)[..., None] / 2 for x in (q, k)
    ]
    logs = np.logaddexp.reduce(exponents[0][..., :, None, :] + exponents[1][..., None, :, :], -1)
    if causal:
        logs[..., ~full.mask(*logs.shape[-2:], causal=True)] = -np.inf
    weights = np.exp(logs - np.maximum(logs.max(-1, keepdims=True), -1e300))
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ v.astype(np.float64)


def by_feature_map(q, k, v, directions, causal=False, **settings):
    """The parallel form: the whole matrix φ(q) φ(k)ᵀ."""
    phi_q, phi_k = (performer.feature_map(x, directions, **settings) for x in (q, k))
    scores = phi_q @ phi_k.swapaxes(-1, -2)
    if causal:
        scores *= full.mask(*scores.shape[-2:], causal=True)
    total = scores.sum(-1, keepdims=True)
    return scores / np.where(total == 0, 1, total) @ v


# The algorithm against its definition


@pytest.mark.parametrize("sizes", [(1, 1), (63, 63), (37, 100), (100, 37)], ids=str)
@pytest.mark.parametrize("features", performer.FEATURES)
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_parallel_form(sizes, features, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=6, value_width=3, dtype=np.float64)
    directions = performer.draw_features(200, 6, seed=5)
    knobs = {"features": features, "scale": 0.1}
    expected = by_feature_map(q, k, v, directions, causal, **knobs)
    out = performer.attention(q, k, v, n_features=200, seed=5, causal=causal, **knobs)
    tolerance = 1e-12 if features == "positive" else 1e-9  # differences of large numbers
    np.testing.assert_allclose(out, expected, atol=tolerance)


@given(
    n_queries=st.integers(1, 70),
    n_keys=st.integers(1, 70),
    chunk=st.integers(1, 80),
    n_features=st.integers(1, 20),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_chunk_changes_nothing(n_queries, n_keys, chunk, n_features, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=4, dtype=np.float64)
    knobs = {"n_features": n_features, "causal": causal}
    out = performer.attention(q, k, v, chunk=chunk, **knobs)
    np.testing.assert_allclose(out, performer.attention(q, k, v, chunk=100, **knobs), atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [4, 64])
def test_large_exponents_neither_overflow_nor_vanish(causal, chunk):
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    growth = np.geomspace(0.1, 20, 40)[:, None]
    directions = performer.draw_features(16, 8)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for keys in (k * growth, k * growth[::-1], 30 * k):  # the largest comes late, early, always
            out = performer.attention(10 * q, keys, v, n_features=16, chunk=chunk, causal=causal)
            expected = in_log_space(10 * q, keys, v, directions, causal)
            np.testing.assert_allclose(out, expected, atol=1e-10)
            single = [array.astype(np.float32) for array in (10 * q, keys, v)]
            out = performer.attention(*single, n_features=16, chunk=chunk, causal=causal)
            assert np.all(np.isfinite(out)) and np.all(np.any(out != 0, axis=-1))
    with np.errstate(over="ignore", under="ignore"):
        plain = performer.feature_map((30 * k).astype(np.float32), directions)
    assert not np.all(np.isfinite(plain)) or np.any(plain.sum(-1) == 0)  # what is prevented


def test_subtracting_maxima_does_not_bias_the_quotient():
    q, k, v = random_qkv(50, width=8, dtype=np.float64)
    directions = performer.draw_features(32, 8, seed=3)
    out = performer.attention(q, k, v, n_features=32, seed=3)
    np.testing.assert_allclose(out, by_feature_map(q, k, v, directions), atol=1e-13)


def test_positive_features_give_averages_of_the_values():
    q, k, v = random_qkv(60, width=8)
    out = performer.attention(2 * q, 2 * k, v, n_features=8)
    assert np.all(out <= v.max(-2, keepdims=True) + 1e-6)
    assert np.all(out >= v.min(-2, keepdims=True) - 1e-6)
    v[...] = v[..., :1, :]
    np.testing.assert_allclose(performer.attention(q, k, v, n_features=8), v, rtol=1e-5)


@pytest.mark.parametrize("features", performer.FEATURES)
def test_later_keys_change_no_bit_of_earlier_outputs(features):
    q, k, v = random_qkv(50, width=8)
    knobs = {"n_features": 16, "features": features, "chunk": 16, "causal": True}
    before = performer.attention(q, k, v, **knobs)
    k[..., 29:, :] *= 5  # the largest exponent of all keys is another
    after = performer.attention(q, k, v, **knobs)
    np.testing.assert_array_equal(before[..., :29, :], after[..., :29, :])


def test_the_order_of_the_keys_does_not_matter():
    q, k, v = random_qkv(40, 50, width=4, dtype=np.float64)
    order = np.random.default_rng(0).permutation(50)
    out = performer.attention(q, k, v, n_features=16)
    moved = performer.attention(q, k[..., order, :], v[..., order, :], n_features=16)
    np.testing.assert_allclose(moved, out, atol=1e-12)


def test_scale_zero_averages_the_values():
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    out = performer.attention(q, k, v, n_features=8, scale=0)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(-2, keepdims=True), v.shape))


# The directions


@pytest.mark.parametrize("n_features", [1, 5, 8, 20])
def test_orthogonal_directions_are_so_block_by_block(n_features):
    directions = performer.draw_features(n_features, 8).astype(np.float64)
    assert directions.shape == (n_features, 8)
    for start in range(0, n_features, 8):
        block = directions[start : start + 8]
        gram = block @ block.T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_each_direction_is_normal(orthogonal):
    drawn = np.stack(
        [performer.draw_features(4, 4, orthogonal=orthogonal, seed=seed) for seed in range(2000)]
    ).astype(np.float64)
    for row in range(4):
        numbers = drawn[:, row]
        np.testing.assert_allclose(numbers.mean(0), 0, atol=5 / np.sqrt(2000))
        np.testing.assert_allclose(np.cov(numbers.T), np.eye(4), atol=5 * np.sqrt(2 / 2000))
        squares = (numbers**2).sum(-1)  # chi squared: mean 4, variance 8
        assert abs(squares.mean() - 4) < 5 * np.sqrt(8 / 2000)


def test_another_seed_draws_other_directions_and_the_same_seed_the_same():
    q, k, v = random_qkv(20, width=8)
    first, again, other = (
        performer.attention(q, k, v, n_features=16, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


# Random features as an estimate (lessons of the audit: C252, C254, C436, C437)


@pytest.mark.parametrize("features", performer.FEATURES)
@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_kernel_is_unbiased(features, orthogonal):
    q, k, _ = random_qkv(5, 6, width=8, dtype=np.float64)
    q, k = q / 2, k / 2  # for long vectors the mean is that of rare, huge draws
    drawn = []
    for seed in range(1500):
        directions = performer.draw_features(8, 8, orthogonal=orthogonal, seed=seed)
        phi_q, phi_k = (performer.feature_map(x, directions, features=features) for x in (q, k))
        drawn.append(phi_q @ phi_k.swapaxes(-1, -2))
    exact = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(8))
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert np.all(np.abs(np.mean(drawn, axis=0) - exact) < 5 * error)
    assert np.all(error < 0.05 * exact)


def test_the_quotient_is_biased():
    q, k, v = random_qkv(64, width=16, dtype=np.float64)
    drawn = np.stack(
        [
            performer.attention(q, k, v, n_features=16, seed=seed, orthogonal=False)
            for seed in range(800)
        ]
    )
    exact = full.attention(q, k, v)
    variance = drawn.var(axis=0).mean()
    squared_bias = np.square(drawn.mean(axis=0) - exact).mean() - variance / len(drawn)
    error = np.square(drawn - exact).mean()
    assert 0.05 < squared_bias / error < 0.3  # C252: 0.0101 of 0.0706


def mean_squared_errors(scale, counts, seeds, **knobs):
    errors = np.zeros((seeds, len(counts)))
    for seed in range(seeds):
        q, k, v = random_qkv(256, seed=seed)
        q *= scale
        k *= scale
        exact = full.attention(q, k, v)
        for column, n_features in enumerate(counts):
            out = performer.attention(q, k, v, n_features=n_features, seed=1000 + seed, **knobs)
            errors[seed, column] = np.square(out - exact).mean()
    return errors.mean(0)


def test_error_falls_as_one_over_m_where_inputs_are_small():
    counts = (32, 64, 128, 256, 512, 1024)
    errors = mean_squared_errors(1 / 4, counts, seeds=40, orthogonal=False)
    slope, _ = np.polyfit(np.log(counts), np.log(errors), 1)
    assert abs(slope + 1) < 0.1, (slope, errors)
    orthogonal = mean_squared_errors(1 / 4, (256,), seeds=10)
    assert errors[4] < orthogonal[0] < errors[3]  # C254: better, yet not as good as twice the m


def test_at_unit_scale_more_features_hardly_help():
    counts = (32, 256)
    errors = mean_squared_errors(1, counts, seeds=8, orthogonal=False)
    slope, _ = np.polyfit(np.log(counts), np.log(errors), 1)
    assert slope > -0.4, (slope, errors)
    q, k, v = random_qkv(256)
    signal = np.square(full.attention(q, k, v)).mean()
    assert errors[1] > 4 * signal  # C436: worse than answering zero


def test_trigonometric_features_explode_at_unit_scale_and_not_at_a_quarter():
    errors = {}
    for scale in (1 / 4, 1):
        q, k, v = random_qkv(256)
        exact = full.attention(scale * q, scale * k, v)
        knobs = {"n_features": 128, "features": "trigonometric"}
        errors[scale] = np.median(
            [
                np.square(
                    performer.attention(scale * q, scale * k, v, seed=seed, **knobs) - exact
                ).mean()
                for seed in range(5)
            ]
        )
    assert errors[1 / 4] < 1e-4 and errors[1] > 10, errors  # C436


# Peer


@pytest.mark.parametrize("causal", [False, True])
def test_performer_pytorch_agrees_on_the_same_directions(causal, monkeypatch):
    """It adds 1e-4 to each feature, and 1e-6 to the sums if causal; both are set to 0 here.

    It subtracts the maximum over all keys, in the causal form as well: ours looks at no later key.
    """
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("performer_pytorch.performer_pytorch")
    q, k, v = random_qkv(70, batch=2, heads=3, width=16, value_width=16)
    module = peer.FastAttention(dim_heads=16, nb_features=40, causal=causal)
    directions = performer.draw_features(40, 16, seed=7)
    module.projection_matrix.copy_(torch.from_numpy(directions))
    ours = performer.attention(q, k, v, n_features=40, seed=7, causal=causal)
    tensors = [torch.from_numpy(array) for array in (q, k, v)]
    shifted = module(*tensors).numpy()
    assert np.abs(shifted - ours).max() > 1e-3  # what they do

    def without(data, **settings):
        return softmax_kernel(data, **(settings | {"eps": 0.0}))

    softmax_kernel = peer.softmax_kernel
    monkeypatch.setattr(peer, "softmax_kernel", without)
    if causal:
        module.causal_linear_fn = partial(peer.causal_linear_attention_noncuda, eps=0.0)
    np.testing.assert_allclose(module(*tensors).numpy(), ours, atol=5e-6)


# Bad input


def test_errors():
    q, k, v = random_qkv(6, width=8)
    call = performer.attention
    with pytest.raises(ValueError, match=r"performer\.attention: features must be one of .*'sine'"):
        call(q, k, v, n_features=4, features="sine")
    with pytest.raises(ValueError, match=r"performer\.attention: seed must be at least 0, got -1"):
        call(q, k, v, n_features=4, seed=-1)
    with pytest.raises(ValueError, match=r"performer\.attention: scale must be at least 0, got -1"):
        call(q, k, v, n_features=4, scale=-1)
    with pytest.raises(ValueError, match=r"performer\.draw_features: n_features must be at least"):
        performer.draw_features(0, 8)
    with pytest.raises(ValueError, match=r"performer\.draw_features: width must be at least 1"):
        performer.draw_features(8, 0)
    with pytest.raises(ValueError, match=r"performer\.cost: n_features must be at least 1, got 0"):
        performer.cost(1, 1, 4, 4, 8, n_features=0)


def test_trigonometric_features_of_no_keys_give_zeros():
    q, k, v = random_qkv(3, 0, width=8)
    assert np.all(performer.attention(q, k, v, n_features=4, features="trigonometric") == 0)
