import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import masks
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, relative

TILES = {"block_q": 7, "block_k": 5}


def shaw(q, k, v, relative_keys, relative_values, causal, scale):
    """Shaw et al.'s equations 3 to 5, one pair at a time."""
    n_queries, n_keys = len(q), len(k)
    limit = len(relative_keys) // 2
    out = np.zeros((n_queries, v.shape[1]))
    for i in range(n_queries):
        position = i + n_keys - n_queries
        pairs = []
        for j in range(position + 1 if causal else n_keys):
            row = max(-limit, min(limit, j - position)) + limit
            score = scale * float(q[i] @ (k[j] + relative_keys[row]))
            pairs.append((math.exp(score), v[j] + relative_values[row]))
        total = math.fsum(weight for weight, _ in pairs)
        for weight, value in pairs:
            out[i] += weight / total * value
    return out


@pytest.mark.parametrize("sizes", [(1, 1), (9, 9), (5, 12), (12, 5)], ids=str)
@pytest.mark.parametrize("max_distance", [0, 1, 3, 40])
def test_agrees_with_plain_loops(sizes, max_distance):
    q, k, v = random_qkv(*sizes, width=4, value_width=3, dtype=np.float64)
    tables = relative.random_tables(max_distance, 4, 3, dtype=np.float64)
    named = dict(zip(("relative_keys", "relative_values"), tables, strict=True))
    for causal in (False, True):
        out = relative.attention(q, k, v, **named, causal=causal, scale=0.7)
        expected = shaw(q[0, 0], k[0, 0], v[0, 0], *tables, causal, 0.7)
        np.testing.assert_allclose(out[0, 0], expected, atol=1e-12)


@given(
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    block=st.integers(1, 50),
    max_distance=st.integers(0, 50),
    causal=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_tiles_do_not_change_the_result(n_queries, n_keys, block, max_distance, causal):
    q, k, v = random_qkv(n_queries, n_keys, heads=2, width=4, value_width=3, dtype=np.float64)
    keys, values = relative.random_tables(max_distance, 4, 3, dtype=np.float64)
    distance = np.arange(n_keys) - masks.positions(n_queries, n_keys)[:, None]
    row = np.clip(distance, -max_distance, max_distance) + max_distance
    bias = np.einsum("bhid,ijd->bhij", q, keys[row]) / 2
    weights = full.weights(q, k, bias=bias, causal=causal)
    expected = weights @ v + np.einsum("bhij,ijd->bhid", weights, values[row])
    named = {"relative_keys": keys, "relative_values": values, "causal": causal}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relative, "BLOCK", block)
        np.testing.assert_allclose(relative.attention(q, k, v, **named), expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_tables_of_zeros_are_plain_attention(causal):
    q, k, v = random_qkv(200, 300, heads=2, width=8, dtype=np.float64)
    zeros = np.zeros((9, 8))
    named = {"relative_keys": zeros, "relative_values": zeros, "causal": causal}
    expected = full.attention(q, k, v, causal=causal)
    np.testing.assert_allclose(relative.attention(q, k, v, **named), expected, atol=1e-12)


def test_a_shift_of_all_relative_values_shifts_the_output():
    q, k, v = random_qkv(150, width=8, dtype=np.float64)
    keys, values = relative.random_tables(5, 8, 8, dtype=np.float64)
    out = relative.attention(q, k, v, relative_keys=keys, relative_values=values)
    moved = relative.attention(q, k, v, relative_keys=keys, relative_values=values + 3)
    np.testing.assert_allclose(moved, out + 3, atol=1e-12)


def test_beyond_the_clipping_distance_all_places_look_alike():
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    keys, values = relative.random_tables(4, 8, 8, dtype=np.float64)
    named = {"relative_keys": keys, "relative_values": values}
    order = np.r_[np.random.default_rng(0).permutation(30), 30:40]
    out = relative.attention(q, k[..., order, :], v[..., order, :], **named)
    expected = relative.attention(q, k, v, **named)
    np.testing.assert_allclose(out[..., 34:, :], expected[..., 34:, :], atol=1e-12)
    assert not np.allclose(out[..., :30, :], expected[..., :30, :])


def test_memory_does_not_grow_with_the_sequence():
    def beyond_out(n):
        q, k, v = random_qkv(n, width=16)
        keys, values = relative.random_tables(8, 16, 16)
        tracemalloc.start()
        try:
            relative.attention(q, k, v, relative_keys=keys, relative_values=values, causal=True)
            return tracemalloc.get_traced_memory()[1] - q.nbytes
        finally:
            tracemalloc.stop()

    assert beyond_out(4096) < 1.05 * beyond_out(1024)


@pytest.mark.parametrize(
    ("keys", "values", "error", "message"),
    [
        ((4, 8), (4, 3), ValueError, r"relative_keys must have shape \(2·max_distance \+ 1, 8\)"),
        ((5, 7), (5, 3), ValueError, r"relative_keys must have shape .* got \(5, 7\)"),
        ((5, 8), (5, 8), ValueError, r"relative_values must have shape .*, 3\), got \(5, 8\)"),
        ((5, 8), (7, 3), ValueError, r"as many rows, got 5 and 7"),
        ((5, 8, 1), (5, 3), ValueError, r"relative_keys"),
        (None, (5, 3), TypeError, r"relative_keys must hold floating numbers, got NoneType"),
    ],
)
def test_tables_that_do_not_fit(keys, values, error, message):
    q, k, v = random_qkv(6, width=8, value_width=3)
    keys, values = (None if shape is None else np.zeros(shape) for shape in (keys, values))
    with pytest.raises(error, match=r"relative\.attention: .*" + message):
        relative.attention(q, k, v, relative_keys=keys, relative_values=values)


# T5


def t5():
    return pytest.importorskip("transformers.models.t5.modeling_t5")


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (32, 256), (16, 64), (8, 20)])
@pytest.mark.parametrize("causal", [False, True])
def test_t5_buckets_are_those_of_transformers(n_buckets, max_distance, causal):
    import torch

    distance = np.arange(-3000, 3001)
    theirs = t5().T5Attention._relative_position_bucket(
        torch.from_numpy(distance), not causal, n_buckets, max_distance
    )
    mine = relative.t5_bucket(
        distance, n_buckets=n_buckets, max_distance=max_distance, causal=causal
    )
    np.testing.assert_array_equal(mine, theirs.numpy())


def test_t5_has_a_dead_bucket_and_saturates_before_its_maximal_distance():
    bucket = relative.t5_bucket(np.arange(-500, 501))
    assert set(range(32)) - set(bucket.tolist()) == {16}
    assert bucket[500 - 90] < 15 and np.all(bucket[: 500 - 90] == 15)
    causal = relative.t5_bucket(np.arange(-500, 501), causal=True)
    assert set(causal.tolist()) == set(range(32)) and np.all(causal[500:] == 0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"n_buckets": 2}, "n_buckets must be at least 4, got 2"),
        ({"n_buckets": 0, "causal": True}, "n_buckets must be at least 2, got 0"),
        ({"n_buckets": 7}, "n_buckets must be even, got 7"),
        ({"max_distance": 8}, "max_distance must be at least 9, got 8"),
    ],
)
def test_t5_knobs_without_a_meaning(knobs, message):
    with pytest.raises(ValueError, match=rf"relative\.t5_bucket: {message}"):
        relative.t5_bucket(np.arange(3), **knobs)


# ALiBi


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 16])
def test_alibi_is_that_of_bloom_up_to_a_shift_of_each_row(heads):
    # Bloom adds slope · j instead of -slope · (i - j): the same after the softmax
    import torch

    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).numpy()
    mine = relative.alibi_bias(np.arange(9), np.arange(9), relative.alibi_slopes(heads))
    past = np.tri(9, dtype=bool)
    shifted = mine - mine[:, :, :1]
    np.testing.assert_allclose(shifted[:, past], np.broadcast_to(theirs, mine.shape)[:, past], 1e-6)


def test_alibi_in_tiles():
    q, k, v = random_qkv(20, 33, heads=4, width=4, dtype=np.float64)
    slopes = relative.alibi_slopes(4)
    np.testing.assert_array_equal(slopes, [1 / 4, 1 / 16, 1 / 64, 1 / 256])
    whole = relative.alibi_bias(masks.positions(20, 33), np.arange(33), slopes)
    for causal in (False, True):
        out, _ = flash.forward(
            q, k, v, **TILES, causal=causal, bias=lambda i, j: relative.alibi_bias(i, j, slopes)
        )
        expected = full.attention(q, k, v, bias=whole, causal=causal)
        np.testing.assert_allclose(out, expected, atol=1e-12)


# RoPE


def test_rotate_is_that_of_gpt_j():
    import torch

    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    x = random_qkv(11, heads=2, width=8, dtype=np.float64)[0]
    sin, cos = np.split(gptj.create_sinusoidal_positions(11, 8).numpy(), 2, axis=-1)
    theirs = gptj.apply_rotary_pos_emb(
        torch.from_numpy(np.moveaxis(x, 1, 2)), *(torch.from_numpy(a)[None] for a in (sin, cos))
    )
    np.testing.assert_allclose(relative.rotate(x), np.moveaxis(theirs.numpy(), 1, 2), atol=1e-5)


def test_rotate_is_that_of_llama_after_sorting_the_columns():
    # Llama pairs column i with i + D/2, we pair 2i with 2i + 1
    import torch

    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    x = random_qkv(11, heads=2, width=8, dtype=np.float64)[0]
    order = np.r_[0:8:2, 1:8:2]
    angle = np.tile(np.arange(11)[:, None] * 10_000.0 ** (-np.arange(0, 8, 2) / 8), 2)
    cos, sin = (torch.from_numpy(f(angle))[None] for f in (np.cos, np.sin))
    halves = torch.from_numpy(x[..., order])
    theirs, _ = llama.apply_rotary_pos_emb(halves, halves, cos, sin)
    np.testing.assert_allclose(relative.rotate(x)[..., order], theirs.numpy(), atol=1e-13)


def test_rotated_products_depend_on_the_distance_alone():
    q, k, _ = random_qkv(20, width=8, dtype=np.float64)
    near = relative.rotate(q) @ relative.rotate(k).mT
    there = np.arange(20) + 1000
    far = relative.rotate(q, there) @ relative.rotate(k, there).mT
    np.testing.assert_allclose(near, far, atol=1e-10)
    assert not np.allclose(near, q @ k.mT)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rotate_keeps_lengths_dtype_and_its_argument(dtype):
    x = random_qkv(30, width=8, dtype=dtype)[0]
    before = x.copy()
    turned = relative.rotate(x, np.arange(30) * 1000)
    assert turned.dtype == dtype and np.array_equal(x, before)
    lengths = [np.linalg.norm(a.astype(np.float64), axis=-1) for a in (turned, x)]
    np.testing.assert_allclose(*lengths, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(turned[..., 0, :], x[..., 0, :])


def test_rotate_refuses_what_has_no_pairs_or_places():
    with pytest.raises(ValueError, match=r"relative\.rotate: the width D must be even, got 7"):
        relative.rotate(np.zeros((3, 7)))
    with pytest.raises(ValueError, match=r"relative\.rotate: positions must have shape \(3,\)"):
        relative.rotate(np.zeros((3, 8)), np.arange(4))


def test_random_tables_are_the_same_numbers_in_any_dtype():
    drawn = [relative.random_tables(3, 4, 5, dtype=d) for d in (np.float16, np.float64)]
    for low, high in itertools.pairwise(drawn):
        assert all(np.array_equal(a, b) for a, b in zip(low, high, strict=True))
