import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.inputs import random_qkv
from attncourse.reference import full
from attncourse.softmax import softmax


def test_equals_torch():
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(33, 50, batch=2, heads=3, width=16, dtype=np.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)))
    np.testing.assert_allclose(full.attention(q, k, v), expected.numpy(), atol=1e-12)


def test_mask_and_bias_are_applied_as_defined():
    q, k, v = random_qkv(6, 9, width=4, dtype=np.float64)
    generator = np.random.default_rng(1)
    mask = generator.random((6, 9)) < 0.5
    mask[2] = False
    bias = generator.standard_normal((6, 9))
    scores = q @ k.swapaxes(-1, -2) / 2 + bias
    expected = softmax(scores, mask) @ v
    np.testing.assert_allclose(full.attention(q, k, v, mask=mask, bias=bias), expected, atol=1e-12)
    assert np.all(full.attention(q, k, v, mask=mask)[..., 2, :] == 0)


arrays = given(
    n_queries=st.integers(1, 20),
    n_keys=st.integers(1, 20),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)


@arrays
@settings(max_examples=40, deadline=None)
def test_rows_of_weights_sum_to_one_and_a_shift_of_the_scores_changes_none(
    n_queries, n_keys, causal, seed
):
    q, k, _ = random_qkv(n_queries, n_keys, width=4, seed=seed, dtype=np.float64)
    weights = full.weights(q, k, causal=causal)
    visible = full.mask(n_queries, n_keys, causal=causal)
    np.testing.assert_allclose(weights.sum(-1)[0, 0], visible.any(-1), atol=1e-14)
    assert np.all(weights >= 0) and np.all(weights[..., ~visible] == 0)
    shift = 10 * np.random.default_rng(seed).standard_normal((n_queries, 1))
    shifted = full.weights(q, k, bias=shift, causal=causal)
    np.testing.assert_allclose(shifted, weights, atol=1e-13)


@arrays
@settings(max_examples=40, deadline=None)
def test_permuting_queries_permutes_rows_and_permuting_keys_changes_nothing(
    n_queries, n_keys, causal, seed
):
    q, k, v = random_qkv(n_queries, n_keys, width=4, seed=seed, dtype=np.float64)
    mask = full.mask(n_queries, n_keys, causal=causal)
    generator = np.random.default_rng(seed)
    rows, keys = generator.permutation(n_queries), generator.permutation(n_keys)
    out = full.attention(q, k, v, mask=mask)
    mixed = [q[..., rows, :], k[..., keys, :], v[..., keys, :]]
    mixed_out = full.attention(*mixed, mask=mask[rows][:, keys])
    np.testing.assert_allclose(mixed_out, out[..., rows, :], atol=1e-13)


def test_weights_rows_sum_to_one_or_zero():
    q, k, _ = random_qkv(7, 4, width=4)
    rows = full.weights(q, k, causal=True).sum(axis=-1)
    np.testing.assert_allclose(rows[..., :3], 0)
    np.testing.assert_allclose(rows[..., 3:], 1, atol=1e-6)


def test_a_constant_added_to_the_scores_changes_nothing():
    q, k, v = random_qkv(8, width=4, dtype=np.float64)
    shifted = full.attention(q, k, v, bias=np.full((8, 1), 300.0))
    np.testing.assert_allclose(shifted, full.attention(q, k, v), atol=1e-10)


def test_large_scores_do_not_overflow():
    q, k, v = random_qkv(8, width=4)
    assert np.all(np.isfinite(full.attention(q * 1e4, k * 1e4, v)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mask": np.ones((5, 5))}, "mask must be boolean, got float64"),
        ({"mask": np.ones((5, 4), bool)}, "mask must broadcast to"),
        ({"bias": np.ones((2, 1, 1, 5, 5))}, "bias must broadcast to"),
    ],
)
def test_wrong_masks_and_biases_are_named(wrong, words):
    q, k, v = random_qkv(5, width=4)
    with pytest.raises((TypeError, ValueError), match=words):
        full.attention(q, k, v, **wrong)


def test_backward_refuses_a_gradient_of_another_shape():
    q, k, v = random_qkv(5, width=4)
    with pytest.raises(ValueError, match="grad_out must have shape"):
        full.backward(q[..., :2], q, k, v)


def test_backward_with_mask_bias_and_empty_row():
    q, k, v = random_qkv(4, 5, width=3, dtype=np.float64)
    generator = np.random.default_rng(0)
    knobs = {"mask": generator.random((4, 5)) < 0.6, "bias": generator.standard_normal((4, 5))}
    knobs["mask"][1] = False
    grad_out = generator.standard_normal(q.shape)
    gradients = full.backward(grad_out, q, k, v, **knobs)
    for array, gradient in zip((q, k, v), gradients, strict=True):
        numeric = oracles.finite_differences(
            lambda: float((full.attention(q, k, v, **knobs) * grad_out).sum()), array
        )
        np.testing.assert_allclose(gradient, numeric, atol=1e-7)
