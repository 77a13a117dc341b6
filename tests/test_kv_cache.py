import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, kv_cache, window
from attncourse.reference.kv_cache import KVCache


def tokens_of(arrays, start, stop):
    return [array[..., start:stop, :] for array in arrays]


def generate(state, arrays, cuts):
    outs = []
    for start, stop in itertools.pairwise(cuts):
        out, state = kv_cache.step(state, *tokens_of(arrays, start, stop))
        outs.append(out)
    return np.concatenate(outs, axis=-2), state


@pytest.mark.parametrize("capacity", [0, 1, 5, 40])
def test_token_by_token_equals_full_causal_attention(capacity):
    arrays = random_qkv(40, heads=2, width=8, value_width=5, dtype=np.float64)
    state = kv_cache.start(*arrays[1:], capacity=capacity)
    out, _ = generate(state, arrays, range(41))
    np.testing.assert_allclose(out, full.attention(*arrays, causal=True), rtol=0, atol=2e-15)


@given(
    cuts=st.lists(st.integers(0, 30), max_size=6).map(lambda cuts: sorted({0, 30, *cuts})),
    capacity=st.integers(0, 40),
    shared=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=30, deadline=None)
def test_prefill_in_any_cuts_equals_one_pass(cuts, capacity, shared):
    q, k, v = random_qkv(30, heads=4, batch=2, width=4, dtype=np.float64)
    arrays = q, k[:, ::shared], v[:, ::shared]
    out, state = generate(kv_cache.start(*arrays[1:], capacity=capacity), arrays, cuts)
    repeated = [np.repeat(array, shared, axis=1) for array in arrays[1:]]
    np.testing.assert_allclose(out, full.attention(q, *repeated, causal=True), atol=1e-13)
    assert np.array_equal(state.keys, arrays[1]) and np.array_equal(state.values, arrays[2])


def test_a_prompt_needs_the_output_of_its_last_token_only():
    q, k, v = random_qkv(20, heads=2, width=8)
    out, _ = kv_cache.step(kv_cache.start(k, v), q[..., -1:, :], k, v)
    expected = full.attention(q, k, v, causal=True)
    np.testing.assert_allclose(out, expected[..., -1:, :], atol=1e-6)


def test_attending_before_appending_is_another_function():
    # Claim C037: "at step t the cache holds K_0 ... K_{t-1}, and q_t attends to it".
    arrays = random_qkv(8, width=4, dtype=np.float64)
    expected = full.attention(*arrays, causal=True)
    cache = kv_cache.start(*arrays[1:])
    off_by_one = np.zeros_like(expected)
    for t in range(8):
        q, k, v = tokens_of(arrays, t, t + 1)
        off_by_one[..., t : t + 1, :] = cache.attend(q, causal=False)
        cache.append(k, v)
    difference = np.abs(off_by_one - expected).max(axis=-1).ravel()
    assert np.all(off_by_one[..., 0, :] == 0)  # the first token has nothing to attend to
    assert difference.min() > 0.02 and difference[5] > 0.1
    # what it computes is attention without the diagonal
    mask = np.tri(8, k=-1, dtype=bool)
    np.testing.assert_allclose(off_by_one, full.attention(*arrays, mask=mask), atol=1e-15)
    right, _ = generate(kv_cache.start(*arrays[1:]), arrays, range(9))
    assert np.abs(right - expected).max() < 1e-15


def test_doubling_copies_less_than_one_token_a_token():
    arrays = random_qkv(1000, width=2)
    _, state = generate(kv_cache.start(*arrays[1:], capacity=1), arrays, range(1001))
    assert state.tokens_copied == 1023  # 1 + 2 + 4 + ... + 512
    assert state.bytes_held == 1024 / 1000 * state.bytes_used


def test_a_cache_with_enough_room_copies_nothing():
    arrays = random_qkv(50, width=2)
    _, state = generate(kv_cache.start(*arrays[1:]), arrays, range(51))
    assert state.tokens_copied == 0 and state.bytes_held == state.bytes_used


def test_bytes_are_those_of_the_formula():
    _, k, v = random_qkv(100, heads=3, batch=2, width=16, dtype=np.float16)
    cache = kv_cache.start(k, v, capacity=128)
    assert cache.bytes_held == kv_cache.size_bytes(128, 3, 16, batch=2) and cache.bytes_used == 0
    cache.append(k, v)
    assert cache.bytes_used == kv_cache.size_bytes(100, 3, 16, batch=2) == k.nbytes + v.nbytes


def test_a_step_holds_one_row_of_scores_beyond_the_cache():
    q, k, v = random_qkv(4096, heads=2)
    cache = kv_cache.start(k, v, capacity=4097)
    cache.append(k, v)
    peak = measure.peak_bytes(kv_cache.step, cache, *tokens_of((q, k, v), 0, 1))
    assert peak < 2 * 4096 * 4 + 8192


def test_a_float16_cache_is_never_held_in_float32():
    q, k, v = random_qkv(8192, heads=2, dtype=np.float16)
    cache = kv_cache.start(k, v)
    cache.append(k, v)
    peak = measure.peak_bytes(cache.attend, q[..., -1:, :], causal=True)
    assert peak < k.nbytes / 2  # keys in float32 would be 2 · k.nbytes


@pytest.mark.parametrize("chunk", [1, 6, 100])
@pytest.mark.parametrize("sizes", [(9, 13), (13, 9), (0, 5), (5, 0)], ids=str)
def test_attention_by_steps_with_other_lengths(sizes, chunk):
    q, k, v = random_qkv(*sizes, heads=2, width=8, dtype=np.float64)
    for causal in (False, True):
        out = kv_cache.attention(q, k, v, chunk=chunk, causal=causal, scale=0.4)
        expected = full.attention(q, k, v, causal=causal, scale=0.4)
        np.testing.assert_allclose(out, expected, atol=1e-14)


def test_groups_count_in_the_cost():
    for causal in (False, True):
        q, _, _ = random_qkv(20, heads=6, width=16)
        _, k, v = random_qkv(20, heads=2, width=16)
        knobs = {"chunk": 8, "causal": causal}
        counted = measure.count_flops(kv_cache.attention, q, k, v, **knobs)
        assert counted == kv_cache.cost(1, 6, 20, 20, 16, groups=2, **knobs).flops


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k, v: (k[:, :1], v[:, :1]), r"k must be float32 \(1, 2, 5, 8\), got .*1, 1, 5, 8"),
        (lambda k, v: (k[..., :7], v), r"k must be .*5, 8\), got float32 \(1, 2, 5, 7\)"),
        (lambda k, v: (k, v[..., :7]), r"v must be .*5, 8\), got float32 \(1, 2, 5, 7\)"),
        (lambda k, v: (k.astype(float), v.astype(float)), "k must be float32 .*got float64"),
        (lambda k, v: (k, v[..., :4, :]), "k and v must have the same number of keys"),
    ],
)
def test_tokens_that_do_not_fit_the_cache_are_refused_and_nothing_is_written(change, words):
    _, k, v = random_qkv(5, heads=2, width=8)
    cache = kv_cache.start(k, v)
    with pytest.raises(ValueError, match=f"^kv_cache.append: {words}"):
        cache.append(*change(k, v))
    assert cache.length == 0


def test_a_step_that_fails_leaves_the_cache_as_it_was():
    q, k, v = random_qkv(5, heads=2, width=8)
    cache = kv_cache.start(k, v)
    with pytest.raises(ValueError, match=r"^kv_cache.step: q and k must have the same width"):
        kv_cache.step(cache, q[..., :7], k, v)
    assert cache.length == 0


def test_an_unlikely_capacity_is_refused():
    _, k, v = random_qkv(5)
    with pytest.raises(ValueError, match=r"kv_cache.start: capacity must be at least 0, got -1"):
        kv_cache.start(k, v, capacity=-1)


def test_the_cache_takes_its_room_as_it_is():
    room = np.full((4, 2), 7, dtype=np.float32)
    cache = KVCache(room, room.copy())
    assert cache.length == 0 and cache.keys.shape == (0, 2)


@pytest.mark.parametrize("room", [1, 2, 5, 30])
def test_where_only_the_oldest_can_leave_what_survives_is_a_window(room):
    q, k, _ = random_qkv(20, heads=2, width=8, dtype=np.float64)
    mask = kv_cache.survivors(q, k, room=room, recent=room - 1)
    expected = window.mask(20, 20, window=room - 1, causal=True)
    assert mask.shape == (1, 2, 20, 20) and (mask == expected).all()


def test_the_least_regarded_key_leaves_and_never_returns():
    """Step by step, in plain loops: what an eviction by received weight does."""
    q, k, _ = random_qkv(25, width=4, dtype=np.float64)
    mask = kv_cache.survivors(q, k, room=6, recent=2, scale=0.9)[0, 0]
    there, received = [], dict.fromkeys(range(25), 0.0)
    for t in range(25):
        there.append(t)
        assert np.flatnonzero(mask[t]).tolist() == there
        weights = np.exp(0.9 * k[0, 0, there] @ q[0, 0, t])
        for key, weight in zip(there, weights / weights.sum(), strict=True):
            received[key] += weight
        if len(there) == 6:
            there.remove(min(there[:-2], key=received.get))


def test_a_head_evicts_for_itself():
    q, k, _ = random_qkv(30, heads=3, batch=2, width=4, dtype=np.float64)
    mask = kv_cache.survivors(q, k, room=7, recent=3)
    for batch, head in np.ndindex(2, 3):
        alone = kv_cache.survivors(q[batch, head], k[batch, head], room=7, recent=3)
        np.testing.assert_array_equal(mask[batch, head], alone)
    assert (mask.sum(axis=-1) == np.minimum(np.arange(1, 31), 7)).all()


def test_a_room_that_cannot_be_is_refused():
    q, k, _ = random_qkv(5, width=4)
    with pytest.raises(ValueError, match=r"kv_cache\.survivors: room must be at least 1, got 0"):
        kv_cache.survivors(q, k, room=0, recent=0)
    with pytest.raises(
        ValueError, match=r"kv_cache\.survivors: recent must be below the room of 3"
    ):
        kv_cache.survivors(q, k, room=3, recent=3)
    with pytest.raises(
        ValueError, match=r"kv_cache\.survivors: q and k must be of the same tokens"
    ):
        kv_cache.survivors(q[..., 1:, :], k, room=3, recent=1)
