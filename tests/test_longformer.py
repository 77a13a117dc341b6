"""Longformer attention, beside transformers' own module.

There `attention_window` counts both sides together, so it is twice our radius; sequences are
multiples of it; the queries arrive unscaled and are divided by √D, as here; and global tokens see
through `query_global`, `key_global` and `value_global`, while all others see them through the plain
projections. Its softmax runs in float32 always.
"""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import graph
from attncourse.inputs import check_positions, random_qkv
from attncourse.reference import full, longformer, window

SIZES = (0, 1, 5, 63, 80)


def longformer_visible(n_queries, n_keys, radius, dilation, chosen, causal):
    near = oracles.window_visible(n_queries, n_keys, radius, dilation)

    def visible(i, j):
        position = i + n_keys - n_queries
        seen = near(i, j) or j in chosen or position in chosen
        return seen and (j <= position or not causal)

    return visible


@pytest.mark.parametrize(("n_queries", "n_keys"), list(itertools.product(SIZES, SIZES)))
def test_mask_follows_the_definition(n_queries, n_keys):
    for radius, dilation, count, causal in itertools.product((0, 7), (1, 3), (0, 2), (False, True)):
        visible = longformer_visible(n_queries, n_keys, radius, dilation, range(count), causal)
        mask = longformer.mask(
            n_queries, n_keys, window=radius, dilation=dilation, global_tokens=count, causal=causal
        )
        assert np.array_equal(mask, oracles.mask_of(visible, n_queries, n_keys))


@given(
    n_queries=st.integers(0, 100),
    n_keys=st.integers(1, 100),
    radius=st.integers(0, 110),
    dilation=st.integers(1, 8),
    chosen=st.one_of(st.integers(0, 120), st.lists(st.integers(0, 99), max_size=70)),
    causal=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(
    n_queries, n_keys, radius, dilation, chosen, causal
):
    if not isinstance(chosen, int):
        chosen = np.array([token for token in chosen if token < n_keys], dtype=int)
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    knobs = {"window": radius, "dilation": dilation, "global_tokens": chosen, "causal": causal}
    mask = longformer.mask(n_queries, n_keys, **knobs)
    out = longformer.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_without_global_tokens_it_is_a_window_and_with_all_of_them_full_attention(causal):
    q, k, v = random_qkv(70, width=4, dtype=np.float64)
    near = window.attention(q, k, v, window=9, dilation=2, causal=causal)
    out = longformer.attention(q, k, v, window=9, dilation=2, causal=causal)
    np.testing.assert_allclose(out, near, atol=1e-12)
    everything = full.attention(q, k, v, causal=causal)
    for tokens in (70, 71, 10**9, np.arange(70)):  # more global tokens than tokens
        out = longformer.attention(q, k, v, window=0, global_tokens=tokens, causal=causal)
        np.testing.assert_allclose(out, everything, atol=1e-12)


def test_the_order_of_the_positions_does_not_matter_and_each_counts_once():
    q, k, v = random_qkv(40, width=4)
    outs = [
        longformer.attention(q, k, v, window=2, global_tokens=tokens)
        for tokens in ([0, 1, 2], np.array([2, 0, 1, 1]), 3)
    ]
    assert np.array_equal(outs[0], outs[1]) and np.array_equal(outs[0], outs[2])


def test_global_tokens_see_through_projections_of_their_own():
    q, k, v = random_qkv(50, heads=2, width=4, dtype=np.float64)
    other = random_qkv(50, heads=2, width=4, seed=1, dtype=np.float64)
    own = dict(zip(("q_global", "k_global", "v_global"), other, strict=True))
    chosen = np.array([3, 20])
    knobs = {"window": 4, "global_tokens": chosen}
    plain = longformer.attention(q, k, v, **knobs)
    out = longformer.attention(q, k, v, **knobs, **own)
    others = np.setdiff1d(np.arange(50), chosen)
    assert np.array_equal(out[..., others, :], plain[..., others, :])
    seen = full.attention(*own.values())
    np.testing.assert_allclose(out[..., chosen, :], seen[..., chosen, :], atol=1e-12)
    only_queries = longformer.attention(q, k, v, **knobs, q_global=own["q_global"])
    seen = full.attention(own["q_global"], k, v)
    np.testing.assert_allclose(only_queries[..., chosen, :], seen[..., chosen, :], atol=1e-12)


def test_one_global_token_joins_everything_in_two_layers():
    mask = longformer.mask(200, 200, window=3, global_tokens=1)
    assert graph.hops(mask).max() == 2
    assert graph.hops(longformer.mask(200, 200, window=3)).max() == 67


def test_counts_of_the_published_example():
    mask = longformer.mask(4096, 4096, window=512, global_tokens=2)
    assert graph.connections(mask) == 3_950_074  # claim C219 prints 4.2 million


@pytest.mark.parametrize("chosen", [(), (0,), (0, 1, 17, 40)])
def test_transformers_longformer(chosen):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    from transformers import LongformerConfig

    n, heads, width, radius = 64, 3, 8, 4
    config = LongformerConfig(
        hidden_size=heads * width,
        num_attention_heads=heads,
        attention_window=[2 * radius],
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    peer = modeling.LongformerSelfAttention(config, layer_id=0).double().eval()
    for weights in peer.parameters():
        torch.nn.init.normal_(weights)
    hidden = torch.randn(2, n, heads * width, dtype=torch.float64) / 4
    is_global = torch.zeros(2, n, dtype=torch.bool)
    is_global[:, list(chosen)] = True

    def heads_of(linear):
        return linear(hidden).unflatten(-1, (heads, width)).transpose(1, 2).detach().numpy()

    with torch.no_grad():
        theirs = peer(
            hidden,
            attention_mask=is_global * 10000.0,  # positive = global
            is_index_masked=torch.zeros_like(is_global),
            is_index_global_attn=is_global,
            is_global_attn=bool(chosen),
        )[0]
    names = ("query", "key", "value")
    ours = longformer.attention(
        *(heads_of(getattr(peer, name)) for name in names),
        window=radius,
        global_tokens=np.array(chosen, dtype=int),
        **{f"{name[0]}_global": heads_of(getattr(peer, f"{name}_global")) for name in names},
    )
    theirs = theirs.unflatten(-1, (heads, width)).transpose(1, 2).numpy()
    # its softmax runs in float32, whatever the weights are
    assert np.abs(ours - theirs).max() <= 4 * np.finfo(np.float32).eps * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"global_tokens": np.array([0, 6])}, ValueError, "must lie in 0 ... 5, got 0 ... 6"),
        ({"global_tokens": [-1]}, ValueError, "must lie in 0 ... 5, got -1 ... -1"),
        ({"global_tokens": np.array([0.5])}, TypeError, "integer or a row of integers.*float64"),
        ({"global_tokens": np.ones((2, 2), int)}, TypeError, r"row of integers.*\(2, 2\)"),
        ({"global_tokens": np.ones(6, bool)}, TypeError, "row of integers.*bool"),
        ({"k_global": np.zeros((1, 1, 5, 8), np.float32)}, ValueError, "k_global must be shaped"),
        ({"v_global": np.zeros((1, 1, 6, 8))}, ValueError, "v_global must be.*float64"),
        ({"q_global": 3}, ValueError, "q_global must be shaped as q.*got int"),
    ],
)
def test_wrong_global_tokens_are_refused(knobs, error, words):
    with pytest.raises(error, match=f"longformer.attention: .*{words}"):
        longformer.attention(*random_qkv(6, width=8), window=1, **knobs)


def test_positions_may_be_none_at_all():
    assert check_positions("f", "x", [], 5).tolist() == []
    assert check_positions("f", "x", 9, 5).tolist() == [0, 1, 2, 3, 4]
    assert check_positions("f", "x", np.array([3, 1, 3], np.uint8), 5).tolist() == [1, 3]
