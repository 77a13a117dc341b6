"""Chapter E's Performer, as printed: its table (C416-C428) is no result of its code."""

import numpy as np
import pytest

from attncourse.claims import printed_features
from attncourse.inputs import random_qkv
from attncourse.reference import full

COUNTS = (32, 256, 1024)
SEEDS = 10
RECOMPUTED = {32: (0.00318, 0.00016), 256: (0.00288, 0.00009), 1024: (0.00284, 0.00009)}
COSINES = {32: (0.631, 0.031), 256: (0.676, 0.023), 1024: (0.682, 0.022)}


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.fixture(scope="module")
def measured():
    """Per seed and number of features: error and cosine to softmax, error to the map's own limit.

    The last entry of the first two is the answer that ignores the query: the mean of v.
    """
    errors, cosines = np.zeros((2, SEEDS, len(COUNTS) + 1))
    own, power = np.zeros((SEEDS, len(COUNTS))), np.zeros(SEEDS)
    for seed in range(SEEDS):
        q, k, v = random_qkv(512, seed=seed)
        exact, limit = full.attention(q, k, v), printed_features.limit(q, k, v)
        power[seed] = np.square(exact).mean()
        outs = [printed_features.attention(q, k, v, n_features=m, seed=1000 + seed) for m in COUNTS]
        own[seed] = [np.square(out - limit).mean() for out in outs]
        outs.append(np.broadcast_to(v.mean(-2, keepdims=True), exact.shape))
        errors[seed] = [np.square(out - exact).mean() for out in outs]
        cosines[seed] = [cosine(out, exact) for out in outs]
    return errors, cosines, own, power


def near(values, expected, spread):
    """Whether a mean is within three standard errors: ours, and that of 40 seeds before."""
    return abs(values.mean() - expected) < 3 * spread * np.sqrt(1 / len(values) + 1 / 40)


def test_more_features_change_nothing(measured):
    errors, cosines, _, _ = measured
    for column, m in enumerate(COUNTS):
        assert near(errors[:, column], *RECOMPUTED[m]), m
        assert near(cosines[:, column], *COSINES[m]), m
    assert near(errors[:, -1], 0.00334, 0.00009)  # the mean of v
    assert near(cosines[:, -1], 0.604, 0.023)
    slope, _ = np.polyfit(np.log(COUNTS), np.log(errors[:, :-1].mean(0)), 1)
    assert abs(slope + 0.029) < 0.01  # C414


def test_the_map_converges_to_another_attention(measured):
    _, _, own, _ = measured
    slope, _ = np.polyfit(np.log(COUNTS), np.log(own.mean(0)), 1)
    assert abs(slope + 0.93) < 0.05  # C414


def test_the_printed_pairs_betray_themselves(measured):
    printed = {0.0234: 0.9123, 0.0089: 0.9567, 0.0034: 0.9812, 0.0012: 0.9934, 0.0004: 0.9978}
    powers = [printed_features.implied_power(*pair) for pair in printed.items()]
    np.testing.assert_allclose(powers, [0.116, 0.096, 0.088, 0.090, 0.091], atol=0.001)  # C428
    power = measured[3].mean()
    assert abs(power - 0.0053) < 0.0003
    assert 4 < 0.0234 / power < 5


def test_the_kernel_is_that_of_the_limit():
    x, y, _ = random_qkv(4, 5, width=8, dtype=np.float64)
    drawn = []
    for seed in range(1500):
        directions = printed_features.draw_features(8, 8, seed=seed)
        phi_x, phi_y = (printed_features.feature_map(array, directions) for array in (x, y))
        drawn.append(phi_x @ phi_y.swapaxes(-1, -2))
    both = x[..., :, None, :] + y[..., None, :, :]
    expected = np.exp(np.square(both).sum(-1) / 16)
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert np.all(np.abs(np.mean(drawn, axis=0) - expected) < 5 * error)


@pytest.mark.parametrize("causal", [False, True])
def test_many_features_come_near_the_limit(causal):
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    limit = printed_features.limit(q, k, v, causal=causal)
    out = printed_features.attention(q, k, v, n_features=20_000, causal=causal)
    assert np.abs(out - limit).max() < 0.05


def test_the_power_behind_an_error_and_a_cosine():
    generator = np.random.default_rng(0)
    exact, noise = generator.standard_normal((2, 200_000)) * [[0.5], [0.2]]
    found = printed_features.implied_power(0.04, cosine(exact + noise, exact))
    assert abs(found - 0.25) < 0.01


def test_errors():
    with pytest.raises(ValueError, match=r"printed_features\.implied_power: cosine .* got 1"):
        printed_features.implied_power(0.1, 1)
    with pytest.raises(ValueError, match=r"printed_features\.draw_features: seed must be at least"):
        printed_features.draw_features(4, 4, seed=-1)
    with pytest.raises(ValueError, match=r"printed_features\.draw_features: n_features must be"):
        printed_features.draw_features(0, 4)
