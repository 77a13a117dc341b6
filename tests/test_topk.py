import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, topk


def best_by_loops(q, k, keep, causal=False, scale=1.0):
    """The kept keys, one row at a time: highest score first, of equal scores the earlier key."""
    n_queries, n_keys = len(q), len(k)
    rows = []
    for i in range(n_queries):
        seen = range(min(n_keys, i + n_keys - n_queries + 1) if causal else n_keys)
        scored = sorted((-scale * float(np.dot(q[i], k[j])), j) for j in seen)
        rows.append(sorted(j for _, j in scored[:keep]))
    return rows


@pytest.mark.parametrize("sizes", [(6, 6), (4, 9), (9, 4)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [1, 3, 20])
def test_agrees_with_plain_loops(sizes, causal, keep):
    q, k, v = random_qkv(*sizes, heads=2, width=3, value_width=4, dtype=np.float64)
    kept = topk.select(q, k, keep=keep, causal=causal)
    assert kept.shape == (1, 2, sizes[0], min(keep, sizes[1]))
    out = topk.attention(q, k, v, keep=keep, causal=causal)
    for head in np.ndindex(1, 2):
        rows = best_by_loops(q[head], k[head], keep, causal)
        assert [[j for j in row if j >= 0] for row in kept[head].tolist()] == rows
        expected = oracles.attention(
            q[head], k[head], v[head], lambda i, j, rows=rows: j in rows[i]
        )
        np.testing.assert_allclose(out[head], expected, atol=1e-13)


@given(
    n_queries=st.integers(1, 140),
    n_keys=st.integers(1, 140),
    keep=st.integers(1, 150),
    causal=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_equals_full_attention_under_its_mask(n_queries, n_keys, keep, causal):
    q, k, v = random_qkv(n_queries, n_keys, heads=2, width=4, value_width=3, dtype=np.float64)
    kept = topk.select(q, k, keep=keep, causal=causal)
    mask = topk.mask_of(kept, n_keys)
    visible = full.mask(n_queries, n_keys, causal=causal).sum(-1)
    assert np.array_equal(mask.sum(-1), np.broadcast_to(np.minimum(visible, keep), mask.shape[:-1]))
    out = topk.attention(q, k, v, keep=keep, causal=causal)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask, causal=causal), atol=1e-12)


def test_no_key_that_was_left_out_scores_higher():
    q, k, _ = random_qkv(90, width=8)
    scores = (q @ k.swapaxes(-1, -2))[0, 0]
    mask = topk.mask_of(topk.select(q, k, keep=7), 90)[0, 0]
    lowest_kept = np.where(mask, scores, np.inf).min(-1)
    assert np.all(lowest_kept >= np.where(mask, -np.inf, scores).max(-1) - 1e-5)


@pytest.mark.parametrize("keep", [1, 4, 9])
def test_of_equal_scores_the_first_keys_are_kept(keep):
    q, k, v = random_qkv(10, width=4)
    k[...] = k[..., :1, :]
    kept = topk.select(q, k, keep=keep)
    assert np.array_equal(kept, np.broadcast_to(np.arange(keep), kept.shape))
    out = topk.attention(q, k, v, keep=keep)
    expected = np.broadcast_to(v[..., :keep, :].mean(-2, keepdims=True), out.shape)
    np.testing.assert_allclose(out, expected, atol=1e-6)


SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "n_queries": st.integers(1, 80),
    "n_keys": st.integers(1, 130),
    "width": st.integers(1, 70),
    "keep": st.integers(1, 130),
    "causal": st.booleans(),
    "dtype": st.sampled_from([np.float16, np.float32, np.float64]),
}


@given(**SIZES, scale=st.sampled_from([None, 0.3, -1.7, 0.0]))
@settings(max_examples=150, deadline=None)
def test_ties_among_whole_numbers(seed, n_queries, n_keys, width, keep, causal, dtype, scale):
    generator = np.random.default_rng(seed)
    q, k = (generator.integers(-2, 3, (n, width)) for n in (n_queries, n_keys))
    kept = topk.select(q.astype(dtype), k.astype(dtype), keep=keep, causal=causal, scale=scale)
    rows = best_by_loops(q, k, keep, causal, scale=np.sign(1 if scale is None else scale))
    assert [[j for j in row if j >= 0] for row in kept.tolist()] == rows


@given(**SIZES, turned=st.booleans())
@settings(max_examples=150, deadline=None)
def test_of_keys_that_are_equal_the_first_are_kept(
    seed, n_queries, n_keys, width, keep, causal, dtype, turned
):
    generator = np.random.default_rng(seed)
    q = generator.standard_normal((n_queries, width)).astype(dtype)
    some = generator.standard_normal((max(1, n_keys // 6), width)).astype(dtype)
    which = generator.integers(0, len(some), n_keys)
    k = np.asfortranarray(some[which]) if turned else some[which]
    kept = topk.mask_of(topk.select(q, k, keep=keep, causal=causal), n_keys)
    visible = full.mask(n_queries, n_keys, causal=causal)
    for key in range(len(some)):
        row = np.where(visible, kept, False)[:, which == key]
        assert np.all(row[:, 1:] <= row[:, :-1]), key


def test_a_negative_scale_keeps_the_lowest_products():
    q, k, _ = random_qkv(20, width=4, dtype=np.float64)
    kept = topk.select(q, k, keep=3, scale=-1)
    assert kept[0, 0].tolist() == best_by_loops(q[0, 0], k[0, 0], 3, scale=-1.0)


def test_shifting_the_scores_of_a_query_changes_nothing():
    q, k, v = random_qkv(30, width=4, dtype=np.float64)
    longer = [np.concatenate([array, np.full((1, 1, 30, 1), 2.0)], -1) for array in (q, k)]
    np.testing.assert_allclose(
        topk.attention(*longer, v, keep=5, scale=0.5),
        topk.attention(q, k, v, keep=5, scale=0.5),
        atol=1e-12,
    )


def test_the_order_of_the_keys_does_not_matter():
    q, k, v = random_qkv(40, 50, width=4, dtype=np.float64)
    order = np.random.default_rng(0).permutation(50)
    out = topk.attention(q, k, v, keep=6)
    moved = topk.attention(q, k[..., order, :], v[..., order, :], keep=6)
    np.testing.assert_allclose(moved, out, atol=1e-12)


def test_keys_that_are_not_kept_have_no_influence():
    q, k, v = random_qkv(1, 50, width=4)
    kept = topk.select(q, k, keep=6)[0, 0, 0]
    out = topk.attention(q, k, v, keep=6)
    others = np.setdiff1d(np.arange(50), kept)
    v[..., others, :] = np.nan
    np.testing.assert_array_equal(topk.attention(q, k, v, keep=6), out)


def test_nan_counts_as_the_highest_score_and_is_not_repaired():
    q, k, v = random_qkv(70, width=4)
    k[..., 9, 0] = np.nan
    assert np.all(np.any(topk.select(q, k, keep=3) == 9, axis=-1))
    out = topk.attention(q, k, v, keep=3)
    assert np.all(np.isnan(out))
    out = topk.attention(q, k, v, keep=3, causal=True)
    assert np.all(np.isfinite(out[..., :9, :])) and np.all(np.isnan(out[..., 9:, :]))
    k[...] = np.nan  # more of them than are kept
    assert np.all(np.isnan(topk.attention(q, k, v, keep=3)))


def test_memory_is_one_block_of_scores():
    def extra(n):
        q, k, v = random_qkv(n, heads=2, width=16)
        return measure.peak_bytes(topk.attention, q, k, v, keep=8) - q.nbytes

    assert extra(4096) < 4.2 * extra(1024)
    assert extra(4096) < 4096**2 / 4  # bytes


# The predictor


def clustered(n, seed=0, width=32, inner=4):
    """Queries and keys that differ in a few directions much, and a little in all."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((2, width, width)))[0][..., :inner]
    q, k = (
        generator.standard_normal((n, inner)) @ part.T + 0.1 * generator.standard_normal((n, width))
        for part in basis
    )
    return q, k + 3.0


def test_a_predictor_of_full_rank_ranks_as_the_scores_do():
    q, k, v = random_qkv(60, heads=2, width=6, value_width=4, dtype=np.float64)
    predictor = topk.fit_predictor(q, k + 5, rank=6)
    assert predictor[0].shape == predictor[1].shape == (1, 2, 6, 6)
    exact, chosen = topk.select(q, k, keep=5), topk.select(q, k, keep=5, predictor=predictor)
    assert np.array_equal(exact, chosen)
    np.testing.assert_allclose(
        topk.attention(q, k, v, keep=5, predictor=predictor),
        topk.attention(q, k, v, keep=5),
        atol=1e-12,
    )


def test_the_chosen_keys_get_their_true_scores():
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    predictor = topk.fit_predictor(q, k, rank=2)
    mask = topk.mask_of(topk.select(q, k, keep=5, predictor=predictor, causal=True), 40)
    out = topk.attention(q, k, v, keep=5, predictor=predictor, causal=True)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_recall_grows_with_the_rank_and_cheap_scores_are_enough_for_structured_keys():
    fit, test = clustered(400), clustered(300)
    wanted = topk.select(*test, keep=10)
    recalls = [
        topk.recall(
            topk.select(*test, keep=10, predictor=topk.fit_predictor(*fit, rank=rank)), wanted
        )
        for rank in (1, 2, 4, 32)
    ]
    assert recalls == sorted(recalls) and recalls[-1] > 0.999
    assert recalls[2] > 0.4  # 4 of 32 dimensions; by chance it would be 10 / 300
    generator = np.random.default_rng(1)
    q, k = generator.standard_normal((2, 300, 32))  # no structure: nothing to learn
    predictor = topk.fit_predictor(q, k, rank=4)
    found = topk.recall(topk.select(q, k, keep=10, predictor=predictor), topk.select(q, k, keep=10))
    assert found < 0.3 < recalls[2]


def test_no_other_predictor_of_its_rank_has_a_smaller_error():
    q, k = clustered(200, width=8, inner=5)
    centred = k - k.mean(0)

    def error(a, b):
        return np.square(q @ centred.T - (q @ a) @ (centred @ b).T).mean()

    a, b = topk.fit_predictor(q, k, rank=3)
    least = error(a, b)
    exact = np.linalg.svd(q @ centred.T, compute_uv=False)
    np.testing.assert_allclose(least, np.square(exact[3:]).sum() / q.shape[0] / k.shape[0])
    generator = np.random.default_rng(0)
    for size in (1e-3, 1e-1):
        moved = (matrix + size * generator.standard_normal(matrix.shape) for matrix in (a, b))
        assert error(*moved) > least


def test_a_predictor_for_all_heads_or_for_each():
    q, k, v = random_qkv(30, heads=3, width=4, dtype=np.float64)
    shared = topk.fit_predictor(q.reshape(-1, 4), k.reshape(-1, 4), rank=2)
    own = topk.fit_predictor(q, k, rank=2)
    outs = [topk.attention(q, k, v, keep=4, predictor=predictor) for predictor in (shared, own)]
    assert outs[0].shape == outs[1].shape == v.shape
    alone = topk.attention(
        q[0, 1], k[0, 1], v[0, 1], keep=4, predictor=tuple(matrix[0, 1] for matrix in own)
    )
    np.testing.assert_allclose(outs[1][0, 1], alone, atol=1e-12)


def test_a_predictor_survives_keys_that_do_not_vary():
    q, k, v = random_qkv(20, width=4, dtype=np.float64)
    k[..., 1:] = 1
    predictor = topk.fit_predictor(q, k, rank=1)
    assert np.all(np.isfinite(predictor[0])) and np.all(np.isfinite(predictor[1]))
    assert topk.recall(
        topk.select(q, k, keep=3, predictor=predictor), topk.select(q, k, keep=3)
    ) == pytest.approx(1)
    k[...] = 1
    predictor = topk.fit_predictor(q, k, rank=1)
    assert np.all(predictor[1] == 0)
    assert np.all(np.isfinite(topk.attention(q, k, v, keep=3, predictor=predictor)))


def test_recall_counts_wanted_keys():
    kept, wanted = np.array([[0, 1], [3, -1]]), np.array([[1, 2, 5], [3, -1, -1]])
    assert topk.recall(kept, wanted) == 0.5
    assert topk.recall(kept, kept) == 1
    assert topk.recall(kept, np.full((2, 1), -1)) == 1


# Bad input


def test_errors():
    q, k, v = random_qkv(6, width=8)
    with pytest.raises(ValueError, match=r"topk\.select: keep must be at least 1, got 0"):
        topk.select(q, k, keep=0)
    with pytest.raises(ValueError, match=r"topk\.cost: keep must be at least 1, got 0"):
        topk.cost(1, 1, 4, 4, 8, keep=0)
    with pytest.raises(ValueError, match=r"topk\.fit_predictor: rank must be at most .* 8, got 9"):
        topk.fit_predictor(q, k, rank=9)
    predictor = topk.fit_predictor(q[..., :7], k[..., :7], rank=2)
    message = r"topk\.attention: predictor must be two arrays \(\.\.\., 8, rank\), got A .*7, 2"
    with pytest.raises(ValueError, match=message):
        topk.attention(q, k, v, keep=2, predictor=predictor)
    with pytest.raises(ValueError, match=r"topk\.recall: kept and wanted must have the same"):
        topk.recall(np.zeros((2, 1), int), np.zeros((3, 1), int))
