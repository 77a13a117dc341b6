import numpy as np
import oracles
import pytest

from attncourse.inputs import random_qkv
from attncourse.reference import full
from attncourse.reference.softmax import softmax


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
