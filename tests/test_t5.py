import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import masks
from attncourse.inputs import random_qkv
from attncourse.reference import full, relative, t5


@given(
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    block=st.integers(1, 50),
    n_buckets=st.sampled_from([4, 8, 12]),
    max_distance=st.integers(7, 30),
    causal=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_is_full_attention_with_the_bias_of_all_pairs(
    n_queries, n_keys, block, n_buckets, max_distance, causal
):
    q, k, v = random_qkv(n_queries, n_keys, batch=2, heads=3, width=4, dtype=np.float64)
    table = t5.random_table(n_buckets, 3, dtype=np.float64)
    knobs = {"max_distance": max_distance, "causal": causal}
    places = masks.positions(n_queries, n_keys), np.arange(n_keys)
    bias = relative.t5_bias(*places, table, **knobs)
    expected = full.attention(q, k, v, bias=bias, causal=causal, scale=0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5, "BLOCK", block)
        out = t5.attention(q, k, v, table=table, scale=0.7, **knobs)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_is_the_attention_of_transformers():
    import torch

    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    from transformers import T5Config

    for decoder in (False, True):
        torch.manual_seed(0)
        config = T5Config(d_model=12, d_kv=4, num_heads=3, is_decoder=decoder)
        peer = modeling.T5Attention(config, has_relative_attention_bias=True).double().eval()
        x = torch.randn(1, 200, 12, dtype=torch.float64)
        future = torch.full((200, 200), -torch.inf).triu(1) if decoder else 0
        with torch.no_grad():
            theirs = peer(x, position_bias=peer.compute_bias(200, 200) + future)[0]
            heads = (
                w(x).view(1, 200, 3, 4).transpose(1, 2).numpy() for w in (peer.q, peer.k, peer.v)
            )
            table = peer.relative_attention_bias.weight.numpy()
            out = t5.attention(*heads, table=table, causal=decoder, scale=1)
            mine = peer.o(torch.from_numpy(np.moveaxis(out, 1, 2).reshape(1, 200, 12)))
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-12)


def test_one_head_needs_no_axis_of_heads_and_one_column_serves_all():
    q, k, v = random_qkv(30, heads=2, width=8, dtype=np.float64)
    table = t5.random_table(dtype=np.float64)
    whole = t5.attention(q, k, v, table=table)
    alone = t5.attention(q[0, 1], k[0, 1], v[0, 1], table=table)
    np.testing.assert_allclose(alone, whole[0, 1], atol=1e-12)


def test_the_same_number_for_all_distances_is_no_bias():
    q, k, v = random_qkv(300, 200, heads=2, width=8, dtype=np.float64)
    for causal in (False, True):
        out = t5.attention(q, k, v, table=np.full((32, 2), 3.0), causal=causal)
        np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)


def test_by_distance_ends_in_the_last_buckets():
    table = t5.random_table(32, 2, dtype=np.float64)
    both, past = (t5.by_distance(table, 128, causal) for causal in (False, True))
    assert both.shape == past.shape == (2, 257)
    np.testing.assert_array_equal(both[:, [0, 128, -1]], table[[15, 0, 31]].T)
    np.testing.assert_array_equal(past[:, [0, 128, -1]], table[[31, 0, 0]].T)


@pytest.mark.parametrize(
    ("table", "knobs", "error", "message"),
    [
        (None, {}, TypeError, "table must hold floating numbers, got NoneType"),
        (np.ones((32, 2), int), {}, TypeError, "table must hold floating numbers, got int64"),
        (np.ones((32, 3)), {}, ValueError, r"table must have shape \(n_buckets, 2\) or .* \(32, 3"),
        (np.ones(32), {}, ValueError, r"table must have shape .* got \(32,\)"),
        (np.ones((7, 2)), {}, ValueError, "n_buckets must be even, got 7"),
        (np.ones((2, 2)), {}, ValueError, "n_buckets must be at least 4, got 2"),
        (np.ones((32, 2)), {"max_distance": 8}, ValueError, "max_distance must be at least 9"),
        (
            np.ones((32, 2)),
            {"max_distance": 16, "causal": True},
            ValueError,
            ".*at least 17, got 16",
        ),
        (np.ones((32, 2)), {"max_distance": 9.5}, TypeError, "max_distance must be an integer"),
    ],
)
def test_refused(table, knobs, error, message):
    with pytest.raises(error, match=r"^t5\.attention: " + message):
        t5.attention(*random_qkv(6, heads=2, width=8), table=table, **knobs)


def test_random_table_is_the_same_numbers_in_any_dtype():
    low, high = (t5.random_table(dtype=dtype) for dtype in (np.float16, np.float64))
    assert np.array_equal(low, high)
