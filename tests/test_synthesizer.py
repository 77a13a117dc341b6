"""Synthesizer against plain loops, torch's layers, and full attention given the same scores."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, synthesizer


def loops(logits, v, causal=False):
    """softmax(logits) v for (..., Tq, Tk), one row at a time."""
    out = np.zeros((*logits.shape[:-1], v.shape[-1]))
    n_queries, n_keys = logits.shape[-2:]
    for *head, i in np.ndindex(*logits.shape[:-1]):
        last = i + n_keys - n_queries + 1 if causal else n_keys
        row = [math.exp(logits[*head, i, j]) for j in range(max(0, last))]
        for j, weight in enumerate(row):
            out[*head, i] += weight / math.fsum(row) * v[*head, j]
    return out


def drawn(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


def kinds(n_queries, n_keys, width, hidden=3, seed=0):
    """For each kind its function, and the logits that it stands for given q."""
    table, left, right, first, second, b1, b2 = drawn(
        (n_queries, n_keys), (n_queries, hidden), (n_keys, hidden),
        (width, hidden), (hidden, n_keys), (hidden,), (n_keys,), seed=seed,
    )  # fmt: skip
    shared = np.broadcast_to
    lead = (1, 2)
    return {
        "random": (synthesizer.random(table), lambda q: shared(table, (*lead, *table.shape))),
        "factorised": (
            synthesizer.factorised(left, right),
            lambda q: shared(left @ right.T, (*lead, *table.shape)),
        ),
        "dense": (
            synthesizer.dense(first, second),
            lambda q: np.maximum(q @ first, 0) @ second,
        ),
        "dense with biases": (
            synthesizer.dense(first, second, first_bias=b1, second_bias=b2),
            lambda q: np.maximum(q @ first + b1, 0) @ second + b2,
        ),
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(9, 13), (13, 9), (1, 1), (70, 70)], ids=str)
def test_agrees_with_plain_loops(sizes, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=4, value_width=3, dtype=np.float64)
    for name, (logits, whole) in kinds(*sizes, 4).items():
        out = synthesizer.attention(q, k, v, logits=logits, causal=causal)
        np.testing.assert_allclose(out, loops(whole(q), v, causal), atol=1e-12, err_msg=name)


def test_dense_is_torchs_two_linear_layers():
    import torch

    q, k, v = random_qkv(20, 30, heads=2, width=8, dtype=np.float64)
    torch.manual_seed(0)
    one, two = torch.nn.Linear(8, 5).double(), torch.nn.Linear(5, 30).double()
    with torch.no_grad():
        weights = two(one(torch.from_numpy(q)).relu()).softmax(dim=-1)
        expected = (weights @ torch.from_numpy(v)).numpy()
        logits = synthesizer.dense(
            one.weight.numpy().T, two.weight.numpy().T,
            first_bias=one.bias.numpy(), second_bias=two.bias.numpy(),
        )  # fmt: skip
    out = synthesizer.attention(q, k, v, logits=logits)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_with_the_scores_of_full_attention_it_is_full_attention(causal):
    q, k, v = random_qkv(33, 50, heads=2, width=8, dtype=np.float64)
    expected = full.attention(q, k, v, causal=causal)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(8)
    for logits in (synthesizer.random(scores), synthesizer.factorised(q / math.sqrt(8), k)):
        out = synthesizer.attention(q, k, v, logits=logits, causal=causal)
        np.testing.assert_allclose(out, expected, atol=1e-13)


@given(seed=st.integers(0, 100), shift=st.floats(-50, 50), causal=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_a_row_of_logits_changes_nothing(seed, shift, causal):
    q, k, v = random_qkv(70, 12, width=4, dtype=np.float64, seed=seed)
    (table,) = drawn((70, 12), seed=seed)
    rows = np.random.default_rng(seed).random((70, 1)) * shift
    outs = [
        synthesizer.attention(q, k, v, logits=synthesizer.random(x), causal=causal)
        for x in (table, table + rows)
    ]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-11)


def test_the_keys_are_not_read_and_random_logits_ignore_the_queries():
    q, k, v = random_qkv(20, 20, heads=2, width=4, dtype=np.float64)
    for name, (logits, _) in kinds(20, 20, 4).items():
        out = synthesizer.attention(q, k, v, logits=logits)
        assert np.array_equal(out, synthesizer.attention(q, k + np.nan, v, logits=logits))
        other = synthesizer.attention(-q, k, v, logits=logits)
        assert np.array_equal(out, other) == (name in ("random", "factorised"))


def test_it_cannot_look_up_what_full_attention_finds_by_content():
    """Two tokens change places: full attention follows the content, random logits the place."""
    q, k, v = random_qkv(12, width=8, dtype=np.float64)
    swapped = np.r_[5, 1:5, 0, 6:12]
    logits = kinds(12, 12, 8)["random"][0]
    moved = k[..., swapped, :], v[..., swapped, :]
    np.testing.assert_allclose(full.attention(q, *moved), full.attention(q, k, v), atol=1e-12)
    before = synthesizer.attention(q, k, v, logits=logits)
    assert np.abs(synthesizer.attention(q, *moved, logits=logits) - before).max() > 0.01


def test_weights_for_each_head_equal_one_head_at_a_time():
    q, k, v = random_qkv(10, 14, heads=3, batch=2, width=4, dtype=np.float64)
    first, second, left, right = drawn((3, 4, 5), (3, 5, 14), (3, 10, 2), (3, 14, 2))
    pairs = ((synthesizer.dense, first, second), (synthesizer.factorised, left, right))
    for make, one, two in pairs:
        out = synthesizer.attention(q, k, v, logits=make(one, two))
        for head in range(3):
            parts = (x[:, head] for x in (q, k, v))
            alone = synthesizer.attention(*parts, logits=make(one[head], two[head]))
            np.testing.assert_allclose(out[:, head], alone, atol=1e-13)


def test_a_value_that_is_no_number_spoils_rows_of_its_head_only():
    q, k, v = random_qkv(3, heads=2, width=2)
    v[..., 0, 1, 0] = np.nan
    logits = synthesizer.random(np.zeros((3, 3)))
    out = synthesizer.attention(q, k, v, logits=logits, causal=True)
    assert np.isnan(out).any(-1)[..., 0, :].ravel().tolist() == [False, True, True]
    assert np.isfinite(out[..., 1, :, :]).all()


def test_given_logits_stay_as_they_were():
    q, k, v = random_qkv(10, width=4)
    (table,) = drawn((10, 10))
    table = table.astype(np.float32)
    before = table.copy()
    synthesizer.attention(q, k, v, logits=synthesizer.random(table), causal=True)
    assert np.array_equal(table, before)


@pytest.mark.parametrize(
    ("kind", "dtype", "causal"),
    list(itertools.product(synthesizer.KINDS, (np.float16, np.float32), (False, True))),
)
def test_cost_is_right_for_every_kind(kind, dtype, causal):
    q, k, v = random_qkv(1024, heads=2, dtype=dtype)
    table, tall, wide = (a.astype(dtype) for a in drawn((1024, 1024), (1024, 32), (64, 32)))
    counts = []
    cost = synthesizer.cost(
        1, 2, 1024, 1024, 64, hidden=32, kind=kind, causal=causal, dtype_bytes=q.itemsize
    )

    def call(q, k, v, table, tall, wide):  # count_flops sees the weights as arguments
        make = {
            "random": lambda: synthesizer.random(table),
            "factorised": lambda: synthesizer.factorised(tall, tall),
            "dense": lambda: synthesizer.dense(wide, tall.T),
        }
        counts.append(synthesizer.attention(q, k, v, logits=make[kind](), causal=causal).shape)

    arrays = (q, k, v, table, tall, wide)
    assert measure.count_flops(call, *arrays) == cost.flops
    peak = measure.peak_bytes(call, *arrays)
    assert abs(peak / cost.peak_bytes - 1) <= 0.1, (peak, cost.peak_bytes)


def call(logits):
    q, k, v = random_qkv(6, 8, heads=2, width=4)
    return synthesizer.attention(q, k, v, logits=logits)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda: call(np.ones((6, 8))), TypeError, "attention: logits must be a function, .*ndarr"),
        (
            lambda: call(synthesizer.random(np.ones((6, 9)))),
            ValueError,
            r"attention: logits must broadcast to \(1, 2, 6, 8\) for 6 queries, got \(6, 9\)",
        ),
        (
            lambda: call(synthesizer.random(np.ones((3, 6, 8)))),
            ValueError,
            r"attention: logits must broadcast to \(1, 2, 6, 8\)",
        ),
        (lambda: synthesizer.random(np.ones(8)), ValueError, "random: logits must have at least 2"),
        (lambda: synthesizer.random(np.ones((6, 8), int)), TypeError, "random: logits .* int64"),
        (lambda: synthesizer.random([[1.0]]), TypeError, "random: logits .* got list"),
        (
            lambda: synthesizer.dense(np.ones((4, 3)), np.ones((2, 8))),
            ValueError,
            r"dense: first \(D, hidden\) and second .*\(4, 3\) and \(2, 8\)",
        ),
        (
            lambda: call(synthesizer.dense(np.ones((5, 3)), np.ones((3, 8)))),
            ValueError,
            r"dense: first must have 4 rows, the width of q, got \(5, 3\)",
        ),
        (
            lambda: synthesizer.factorised(np.ones((6, 3)), np.ones((8, 2))),
            ValueError,
            "factorised: left .* must share rank",
        ),
        (lambda: synthesizer.cost(1, 1, 6, 8, 4, hidden=0), ValueError, "cost: hidden must be at"),
        (
            lambda: synthesizer.cost(1, 1, 6, 8, 4, hidden=2, kind="sparse"),
            ValueError,
            "cost: kind must be one of dense, random, factorised, got 'sparse'",
        ),
    ],
)
def test_bad_input_is_refused(function, error, words):
    with pytest.raises(error, match=rf"synthesizer\.{words}"):
        function()
