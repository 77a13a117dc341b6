import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import spectra
from attncourse.inputs import random_qkv
from attncourse.reference import full, window


def test_energy_is_the_error_of_the_best_approximation():
    matrix = np.random.default_rng(0).standard_normal((2, 20, 30))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    curve = spectra.energy_curve(matrix)
    assert curve.shape == (2, 20)
    for rank in (1, 7, 20):
        best = (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
        left = np.square(matrix - best).sum((-1, -2)) / np.square(matrix).sum((-1, -2))
        np.testing.assert_allclose(1 - curve[..., rank - 1], left, atol=1e-12)


@given(rank=st.integers(1, 12), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_product_of_thin_matrices_has_their_rank(rank, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((15, rank)) @ generator.standard_normal((rank, 12))
    assert spectra.effective_rank(matrix, energy=1) == rank
    assert 1 <= spectra.entropy_rank(matrix) <= rank + 1e-9
    assert spectra.effective_rank(matrix, energy=0.5) <= spectra.effective_rank(matrix)


def test_ranks_of_matrices_that_are_known():
    n = 16
    assert spectra.effective_rank(np.eye(n)) == n
    assert spectra.effective_rank(np.eye(n), energy=0.5) == n // 2
    assert spectra.entropy_rank(np.eye(n)) == pytest.approx(n)
    uniform = np.full((n, n), 1 / n)
    assert spectra.effective_rank(uniform) == 1
    assert spectra.entropy_rank(uniform) == pytest.approx(1)
    nothing = np.zeros((3, n))
    assert spectra.effective_rank(nothing) == 1 and spectra.entropy_rank(nothing) == 0
    assert np.all(spectra.energy_curve(nothing) == 1)
    stacked = np.stack([np.eye(n), uniform]).astype(np.float32)
    assert spectra.effective_rank(stacked).tolist() == [n, 1]


def test_the_pattern_zoo_of_the_audit():
    """C240 (lesson 29) at n = 256 instead of 1024: smooth is low rank, copying is full rank."""
    n = 256
    position = np.arange(n)
    smooth = np.exp(-np.square((position[:, None] - position) / 32.0))
    smooth /= smooth.sum(-1, keepdims=True)
    copying = np.eye(n, k=-1) + 0.0
    copying[0, 0] = 1
    q, k, _ = random_qkv(n, width=64)
    scores = (q @ k.swapaxes(-1, -2))[0, 0] / 8
    ranks = [
        int(spectra.effective_rank(matrix))
        for matrix in (smooth, full.weights(q, k)[0, 0], copying)
    ]
    assert ranks[0] < 20 < ranks[1] < ranks[2] and ranks[2] >= 0.98 * n
    assert spectra.effective_rank(scores, energy=1) == 64  # the softmax lifts it to full rank
    assert spectra.effective_rank(full.weights(q, k)[0, 0], energy=1) == n


def test_locality_is_the_mass_inside_the_window():
    q, k, _ = random_qkv(20, 30, heads=2, width=4, dtype=np.float64)
    weights = full.weights(q, k)
    for radius in (0, 3, 100):
        inside = window.mask(20, 30, window=radius)
        expected = (weights * inside).sum(-1)
        np.testing.assert_allclose(spectra.locality(weights, radius=radius), expected, atol=1e-12)
    np.testing.assert_allclose(spectra.locality(weights, radius=30), 1)
    assert np.all(spectra.locality(np.eye(5), radius=0) == 1)


def test_entropy_of_rows_in_bits():
    weights = np.array([[0.25] * 4, [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    found = spectra.row_entropy(weights)
    np.testing.assert_allclose(found, [2, 1, 0, 0], atol=1e-15)
    assert not np.any(np.signbit(found))
    assert spectra.row_entropy(weights.astype(np.float16)).dtype == np.float64
    assert np.isnan(spectra.row_entropy(np.array([[np.nan, 0.5]]))).all()


@given(seed=st.integers(0, 50), sharpness=st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_sharper_scores_have_less_entropy(seed, sharpness):
    q, k, _ = random_qkv(6, 9, width=4, seed=seed, dtype=np.float64)
    entropy = spectra.row_entropy(full.weights(sharpness * q, k))
    assert np.all((entropy >= 0) & (entropy <= np.log2(9) + 1e-12))
    assert np.all(spectra.row_entropy(full.weights(2 * sharpness * q, k)) <= entropy + 1e-12)


def test_errors():
    with pytest.raises(
        ValueError, match=r"spectra\.effective_rank: energy must be above 0 .*got 0"
    ):
        spectra.effective_rank(np.eye(3), energy=0)
    with pytest.raises(ValueError, match=r"spectra\.effective_rank: energy must be .* got 1\.5"):
        spectra.effective_rank(np.eye(3), energy=1.5)
    with pytest.raises(ValueError, match=r"spectra\.energy_curve: matrix must have rows and"):
        spectra.energy_curve(np.ones(3))
    with pytest.raises(ValueError, match=r"spectra\.entropy_rank: matrix must have rows and col"):
        spectra.entropy_rank(np.ones((3, 0)))
    with pytest.raises(ValueError, match=r"spectra\.energy_curve: matrix must be finite"):
        spectra.energy_curve(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"spectra\.locality: radius must be at least 0, got -1"):
        spectra.locality(np.eye(3), radius=-1)
    with pytest.raises(TypeError, match=r"spectra\.locality: radius must be an integer"):
        spectra.locality(np.eye(3), radius=0.5)
