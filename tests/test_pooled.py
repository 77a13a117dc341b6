"""Pooled attention against its own definition and torch's pooling.

torch's average of a last, shorter window divides by what is there, as we do; it has no log size,
which shifts all scores alike, and so does nothing, where every run is equally long.
"""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, pooled

VECTOR = np.random.default_rng(5).standard_normal(4)


def starts_of(k, pool, kind):
    """Where runs start, by the definition; k is (Tk, D)."""
    if kind != "adaptive":
        return list(range(0, len(k), pool))
    cosine = [
        a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(k[1:], k, strict=False)
    ]
    n_runs = -(-len(k) // pool)
    by_likeness = sorted(range(1, len(k)), key=lambda j: (cosine[j - 1], j))
    return [0, *sorted(by_likeness[: n_runs - 1])]


def row_of(tokens, keys, kind):
    if kind == "max":
        return tokens.max(axis=0)
    share = np.ones(len(tokens))
    if kind == "learned":
        share = np.exp(keys @ VECTOR)
    return (share / share.sum()) @ tokens


def loops(q, k, v, pool, kind="mean", causal=False):
    """One head, one query and one run at a time, each weighed by the tokens it stands for."""
    out = np.zeros((len(q), v.shape[-1]))
    starts = starts_of(k, pool, kind)
    runs = list(zip(starts, [*starts[1:], len(k)], strict=True))
    for i, query in enumerate(q):
        position = i + len(k) - len(q)
        terms = []
        for start, stop in runs:
            inside = slice(start, stop)
            if not causal or stop <= position // pool * pool:
                key, value = (row_of(x[inside], k[inside], kind) for x in (k, v))
                terms.append((stop - start, key, value))
            elif start <= position:
                terms += [(1, k[j], v[j]) for j in range(start, position + 1)]
        if terms:
            weights = np.array(
                [n * np.exp(query @ key / np.sqrt(len(query))) for n, key, _ in terms]
            )
            out[i] = weights / weights.sum() @ np.stack([value for *_, value in terms])
    return out


def vector_for(kind):
    return {"pooling_vector": VECTOR} if kind == "learned" else {}


@given(
    n_queries=st.integers(1, 90),
    n_keys=st.integers(1, 90),
    pool=st.integers(1, 100),
    kind=st.sampled_from(pooled.KINDS),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_follows_the_definition(n_queries, n_keys, pool, kind, causal):
    causal = causal and kind != "adaptive"
    q, k, v = random_qkv(n_queries, n_keys, width=4, value_width=3, dtype=np.float64)
    out = pooled.attention(q, k, v, pool=pool, kind=kind, causal=causal, **vector_for(kind))
    expected = loops(q[0, 0], k[0, 0], v[0, 0], pool, kind, causal)
    np.testing.assert_allclose(out[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("kind", pooled.KINDS)
def test_pool_1_is_full_attention(kind):
    q, k, v = random_qkv(30, 70, heads=2, width=4, dtype=np.float64)
    for causal in (False, True) if kind != "adaptive" else (False,):
        out = pooled.attention(q, k, v, pool=1, kind=kind, causal=causal, **vector_for(kind))
        np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["mean", "max", "learned"])
def test_runs_of_equal_tokens_give_full_attention(kind, causal):
    q, k, v = random_qkv(45, heads=2, width=4, dtype=np.float64)
    k, v = (np.repeat(x[..., :7, :], 7, axis=-2)[..., :45, :] for x in (k, v))  # the last run has 3
    out = pooled.attention(q, k, v, pool=7, kind=kind, causal=causal, **vector_for(kind))
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)


def test_adaptive_runs_find_the_equal_tokens_by_themselves():
    lengths = np.array([1, 9, 2, 5, 3])  # 20 tokens, 5 runs: pool 4
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    k, v = (np.repeat(x[..., :5, :], lengths, axis=-2) for x in (k, v))
    assert pooled.cuts(k[0, 0], 5).tolist() == [0, 1, 10, 12, 17]
    out = pooled.attention(q, k, v, pool=4, kind="adaptive")
    np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-12)
    fixed = pooled.attention(q, k, v, pool=4)
    assert np.abs(fixed - out).max() > 0.1


def test_torch_pools_the_same_way():
    import torch
    from torch.nn import functional

    q, k, v = random_qkv(11, 18, heads=2, width=4, dtype=np.float64)
    for n_keys in (18, 17):
        parts = [torch.from_numpy(x[0, :, :n_keys].swapaxes(-1, -2).copy()) for x in (k, v)]
        for kind, peer in (("mean", functional.avg_pool1d), ("max", functional.max_pool1d)):
            theirs = [peer(x, 3, ceil_mode=True).mT for x in parts]
            mine = pooled.pool_tokens(k[:, :, :n_keys], v[:, :, :n_keys], pool=3, kind=kind)
            for a, b in zip(mine, theirs, strict=False):
                np.testing.assert_allclose(a[0], b.numpy(), atol=1e-14)
            if n_keys == 18:
                expected = functional.scaled_dot_product_attention(torch.from_numpy(q[0]), *theirs)
                out = pooled.attention(q, k, v, pool=3, kind=kind)
                np.testing.assert_allclose(out[0], expected.numpy(), atol=1e-12)


def test_one_run_of_everything_is_its_mean():
    q, k, v = random_qkv(5, 12, width=4, dtype=np.float64)
    out = pooled.attention(q, k, v, pool=50)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=-2, keepdims=True), out.shape))


def test_the_pooling_vector_zero_is_the_mean_and_a_long_one_picks_a_token():
    q, k, v = random_qkv(9, 21, heads=2, width=4, dtype=np.float64)
    out = pooled.attention(q, k, v, pool=5, kind="learned", pooling_vector=np.zeros(4))
    np.testing.assert_allclose(out, pooled.attention(q, k, v, pool=5), atol=1e-13)
    picked, _, _ = pooled.pool_tokens(k, v, pool=5, kind="learned", pooling_vector=1e6 * VECTOR)
    best = k[0, 0, :5][np.argmax(k[0, 0, :5] @ VECTOR)]
    np.testing.assert_allclose(picked[0, 0, 0], best)
    each = np.stack([VECTOR, -VECTOR])
    out = pooled.attention(q, k, v, pool=5, kind="learned", pooling_vector=each)
    for head in range(2):
        parts = (x[:, head] for x in (q, k, v))
        alone = pooled.attention(*parts, pool=5, kind="learned", pooling_vector=each[head])
        np.testing.assert_allclose(out[:, head], alone, atol=1e-13)


@pytest.mark.parametrize("kind", ["mean", "max", "learned"])
def test_a_changed_future_never_changes_the_past(kind):
    q, k, v = random_qkv(50, width=4, dtype=np.float64)
    knobs = {"pool": 8, "kind": kind, "causal": True} | vector_for(kind)
    before = pooled.attention(q, k, v, **knobs)
    k[..., 30:, :] += 1
    v[..., 30:, :] -= 1
    after = pooled.attention(q, k, v, **knobs)
    assert np.array_equal(before[..., :30, :], after[..., :30, :])


def test_tokens_of_one_run_may_change_places():
    q, k, v = random_qkv(6, 24, width=4, dtype=np.float64)
    order = np.arange(24).reshape(4, 6)[:, ::-1].ravel()
    out = pooled.attention(q, k[..., order, :], v[..., order, :], pool=6)
    np.testing.assert_allclose(out, pooled.attention(q, k, v, pool=6), atol=1e-13)


@pytest.mark.parametrize("kind", pooled.KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
def test_cost_is_right_for_every_kind(kind, dtype):
    q, k, v = random_qkv(1024, heads=2, dtype=dtype)
    vector = {"pooling_vector": np.ones(64, dtype)} if kind == "learned" else {}
    knobs = {"pool": 4, "kind": kind}
    cost = pooled.cost(1, 2, 1024, 1024, 64, dtype_bytes=q.itemsize, **knobs)
    assert measure.count_flops(pooled.attention, q, k, v, **knobs, **vector) == cost.flops
    peak = measure.peak_bytes(pooled.attention, q, k, v, **knobs, **vector)
    assert abs(peak / cost.peak_bytes - 1) <= 0.1, (peak, cost.peak_bytes)


def test_similar_keys_are_merged_first_and_ties_are_cut_from_the_left():
    k = np.array([[1.0, 0], [2, 0], [0, 1], [0, 3], [0, 0], [0, 0]])
    assert pooled.cuts(k, 1).tolist() == [0]
    assert pooled.cuts(k, 2).tolist() == [0, 2]
    assert pooled.cuts(k, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert pooled.cuts(np.ones((4, 2)), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "median"}, "kind must be one of mean, max, learned, adaptive, got 'median'"),
        ({"kind": "learned"}, "kind 'learned' needs pooling_vector"),
        ({"pooling_vector": np.ones(4)}, "kind 'mean' takes no pooling_vector"),
        (
            {"kind": "learned", "pooling_vector": np.ones(5)},
            r"pooling_vector must broadcast to \(1, 1, 4\), got \(5,\)",
        ),
        ({"kind": "adaptive", "causal": True}, "cannot be causal: adaptive cuts depend on later"),
    ],
)
def test_bad_kinds_are_refused(changes, words):
    q, k, v = random_qkv(6, 8, width=4)
    with pytest.raises(ValueError, match=rf"pooled\.attention: {words}"):
        pooled.attention(q, k, v, **({"pool": 2} | changes))


def test_weights_of_a_constant_value_sum_to_1():
    q, k, v = random_qkv(40, width=4)
    for causal in (False, True):
        out = pooled.attention(q, k, np.ones_like(v), pool=7, causal=causal)
        assert np.abs(out - 1).max() <= oracles.tolerance(out, np.float32, 1e-6)
