import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, scoring
from attncourse.softmax import softmax


def named(parameters):
    return dict(zip(("query_weights", "key_weights", "vector"), parameters, strict=True))


def additive_loops(q, k, query_weights, key_weights, vector):
    """Bahdanau's score, one pair and one hidden number at a time."""
    scores = np.zeros((len(q), len(k)))
    for i, j in itertools.product(range(len(q)), range(len(k))):
        for h in range(len(vector)):
            inside = sum(q[i, d] * query_weights[d, h] for d in range(q.shape[1]))
            inside += sum(k[j, d] * key_weights[d, h] for d in range(k.shape[1]))
            scores[i, j] += vector[h] * math.tanh(inside)
    return scores


def test_products_agree_with_plain_loops():
    q, _, k = random_qkv(4, 6, width=3, value_width=5, dtype=np.float64)  # k is wider than q
    weight = np.random.default_rng(1).standard_normal((3, 5))
    expected = np.zeros((4, 6))
    for i, j, a, b in itertools.product(range(4), range(6), range(3), range(5)):
        expected[i, j] += q[0, 0, i, a] * weight[a, b] * k[0, 0, j, b]
    np.testing.assert_allclose(scoring.multiplicative(q, k, weight)[0, 0], expected, atol=1e-12)
    left, right = np.linalg.qr(weight)
    np.testing.assert_allclose(scoring.bilinear(q, k, left, right.T)[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1, 1), (5, 5), (3, 7), (7, 3)], ids=str)
def test_additive_agrees_with_plain_loops(sizes):
    q, k, v = random_qkv(*sizes, width=3, value_width=2, dtype=np.float64)
    parameters = scoring.random_parameters(3, 4, dtype=np.float64)
    expected = additive_loops(q[0, 0], k[0, 0], *parameters)
    np.testing.assert_allclose(scoring.additive(q, k, *parameters)[0, 0], expected, atol=1e-12)
    seen = np.tri(*sizes, sizes[1] - sizes[0], dtype=bool)
    for causal, mask in ((False, None), (True, seen)):
        out = scoring.attention(q, k, v, **named(parameters), causal=causal, scale=0.7)
        weights = softmax(0.7 * expected, mask)
        np.testing.assert_allclose(out[0, 0], weights @ v[0, 0], atol=1e-12)


@given(
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    block=st.integers(1, 50),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_tiles_do_not_change_the_result(n_queries, n_keys, block, causal):
    q, k, v = random_qkv(n_queries, n_keys, heads=2, width=4, value_width=3, dtype=np.float64)
    parameters = scoring.random_parameters(4, 5, dtype=np.float64)
    hidden = (q @ parameters[0])[..., :, None, :] + (k @ parameters[1])[..., None, :, :]
    seen = np.tri(n_queries, n_keys, n_keys - n_queries if causal else n_keys, dtype=bool)
    expected = softmax(np.tanh(hidden) @ parameters[2], seen) @ v
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK", block)
        out = scoring.attention(q, k, v, **named(parameters), causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_additive_agrees_with_torch():
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(40, 50, heads=2, width=8, dtype=np.float64)
    parameters = scoring.random_parameters(8, 6, dtype=np.float64)
    left, right, vector = map(torch.from_numpy, parameters)
    tq, tk, tv = map(torch.from_numpy, (q, k, v))
    inside = torch.tanh((tq @ left)[..., :, None, :] + (tk @ right)[..., None, :, :])
    theirs = torch.softmax(torch.nn.functional.linear(inside, vector), dim=-1) @ tv
    mine = scoring.attention(q, k, v, **named(parameters))
    np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-13)


def test_the_identity_makes_multiplicative_the_dot_product():
    q, k, _ = random_qkv(9, 7, width=4, dtype=np.float64)
    dot = scoring.dot(q, k)
    np.testing.assert_array_equal(scoring.multiplicative(q, k, np.eye(4)), dot)
    np.testing.assert_array_equal(scoring.bilinear(q, k, np.eye(4), np.eye(4)), dot)
    weights = full.weights(q, k)
    np.testing.assert_allclose(softmax(scoring.dot(q, k, scale=0.5)), weights, atol=1e-12)


def test_multiplicative_attention_is_any_attention_to_projected_queries():
    q, k, v = random_qkv(30, width=8, dtype=np.float64)
    weight = np.random.default_rng(1).standard_normal((8, 8))
    expected = softmax(scoring.multiplicative(q, k, weight)) @ v
    out = flash.attention(q @ weight, k, v, block_q=8, block_k=8, scale=1)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_without_query_weights_every_query_sees_the_same():
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    query_weights, key_weights, vector = scoring.random_parameters(8, 5, dtype=np.float64)
    out = scoring.attention(q, k, v, **named((0 * query_weights, key_weights, vector)))
    np.testing.assert_allclose(out, np.broadcast_to(out[..., :1, :], out.shape), atol=1e-12)
    mean = scoring.attention(q, k, v, **named((query_weights, key_weights, 0 * vector)))
    expected = np.broadcast_to(v.mean(axis=-2, keepdims=True), v.shape)
    np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_memory_never_holds_the_hidden_numbers_of_all_pairs():
    q, k, v = random_qkv(1000, width=8)
    parameters = scoring.random_parameters(8, 32)

    def peak(function, *arrays, **keywords):
        tracemalloc.start()
        try:
            function(*arrays, **keywords)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    pairs = 4 * 1000 * 1000  # bytes of one (n, n) array; the hidden numbers would be 32 of them
    assert peak(scoring.additive, q, k, *parameters) < 1.2 * pairs
    assert peak(scoring.attention, q, k, v, **named(parameters)) < 0.2 * pairs


def test_causal_leaves_out_half_of_the_products():
    q, k, v = random_qkv(320, width=8)
    parameters = named(scoring.random_parameters(8, 32))
    everything = measure.count_flops(scoring.attention, q, k, v, **parameters)
    causal = measure.count_flops(scoring.attention, q, k, v, **parameters, causal=True)
    assert causal < 0.6 * everything


@pytest.mark.parametrize(
    ("name", "wrong", "error", "message"),
    [
        ("vector", np.ones((4, 1)), ValueError, r"vector must have shape"),
        ("vector", np.ones(0), ValueError, r"vector must have shape \(1,\), got \(0,\)"),
        ("vector", [1.0, 2.0], TypeError, r"vector must hold floating numbers, got list"),
        ("query_weights", np.ones((3, 4)), ValueError, r"query_weights .*\(8, 4\), got \(3, 4\)"),
        ("key_weights", np.ones((8, 5)), ValueError, r"key_weights .*\(8, 4\), got \(8, 5\)"),
        ("key_weights", np.ones((8, 4), int), TypeError, r"key_weights .* got int64"),
    ],
)
def test_parameters_that_do_not_fit(name, wrong, error, message):
    q, k, v = random_qkv(6, width=8)
    parameters = named(scoring.random_parameters(8, 4)) | {name: wrong}
    with pytest.raises(error, match=r"scoring\.attention: " + message):
        scoring.attention(q, k, v, **parameters)


def test_a_hidden_layer_of_nothing():
    for function in (scoring.cost, scoring.random_parameters):
        sizes = (1, 1, 4, 4, 8) if function is scoring.cost else (8,)
        with pytest.raises(ValueError, match=r"scoring\..*: hidden must be at least 1, got 0"):
            function(*sizes, hidden=0)
