import itertools
import tracemalloc

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import masks
from attncourse.inputs import random_qkv
from attncourse.reference import full, segment

SIZES = (0, 1, 2, 13, 20)


def visible(n_queries, n_keys, chunk, memory, causal):
    """The definition: cut the keys into segments; look where the query sits."""
    segments = [range(a, min(a + chunk, n_keys)) for a in range(0, n_keys, chunk)]

    def sees(i, j):
        position = i + n_keys - n_queries
        own = next(s for s in segments if max(position, 0) in s)
        return own.start - memory <= j <= own[-1] and (not causal or j <= position)

    return sees


@pytest.mark.parametrize(("n_queries", "n_keys"), list(itertools.product(SIZES, SIZES)))
def test_mask_follows_the_definition(n_queries, n_keys):
    for chunk, memory, causal in itertools.product((1, 4, 50), (0, 3, 9, 50), (False, True)):
        mask = segment.mask(n_queries, n_keys, chunk=chunk, memory=memory, causal=causal)
        expected = visible(n_queries, n_keys, chunk, memory, causal)
        assert np.array_equal(mask, oracles.mask_of(expected, n_queries, n_keys))


@given(
    n_queries=st.integers(1, 60),
    n_keys=st.integers(1, 60),
    chunk=st.integers(1, 70),
    memory=st.integers(0, 70),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(n_queries, n_keys, chunk, memory, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    knobs = {"chunk": chunk, "memory": memory, "causal": causal}
    mask = segment.mask(n_queries, n_keys, **knobs)
    out = segment.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_without_memory_the_segments_are_islands():
    assert np.array_equal(segment.mask(20, 20, chunk=6, memory=0), masks.blocks(20, 20, block=6))
    reached = masks.reach(segment.mask(20, 20, chunk=6, memory=0), layers=9)
    assert not reached[6:, :6].any()


def test_the_memory_carries_one_segment_further_with_each_layer():
    mask = segment.mask(40, 40, chunk=5, memory=5, causal=True)
    for layers in range(1, 6):
        assert masks.reach(mask, layers)[39].sum() == 5 * (layers + 1)


def test_a_memory_of_everything_is_causal_attention():
    q, k, v = random_qkv(30, width=8, dtype=np.float64)
    out = segment.attention(q, k, v, chunk=4, memory=30, causal=True)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=True), atol=1e-12)


@given(
    chunk=st.integers(1, 12),
    memory=st.integers(0, 15),
    cuts=st.sets(st.integers(1, 39), max_size=12),
)
@settings(max_examples=40, deadline=None)
def test_steps_of_any_size_equal_the_whole(chunk, memory, cuts):
    q, k, v = random_qkv(40, heads=2, width=4, value_width=3, dtype=np.float64)
    state = segment.start(k, v, chunk=chunk, memory=memory)
    outs = []
    for first, last in itertools.pairwise([0, *sorted(cuts), 40]):
        new = (a[..., first:last, :] for a in (q, k, v))
        out, state = segment.step(state, *new)
        outs.append(out)
        needed = min(last, last % chunk + memory)  # by the next token
        assert needed <= state.keys.shape[-2] == state.values.shape[-2] < needed + chunk
    whole = segment.attention(q, k, v, chunk=chunk, memory=memory, causal=True)
    np.testing.assert_allclose(np.concatenate(outs, axis=-2), whole, atol=1e-12)


def test_a_step_leaves_the_old_state_alone():
    q, k, v = random_qkv(6, width=4)
    before = segment.start(k, v, chunk=4, memory=2)
    _, first = segment.step(before, q, k, v)
    kept = first.keys.copy()
    segment.step(first, q, k, v)
    assert before.keys.shape[-2] == 0
    np.testing.assert_array_equal(first.keys, kept)
    assert first.keys.base is None  # no view that holds on to all keys so far


def test_memory_does_not_grow_with_the_sequence():
    def beyond_out(n):
        q, k, v = random_qkv(n, width=16)
        tracemalloc.start()
        try:
            segment.attention(q, k, v, chunk=64, memory=64, causal=True)
            return tracemalloc.get_traced_memory()[1] - q.nbytes
        finally:
            tracemalloc.stop()

    assert beyond_out(8192) < 1.05 * beyond_out(1024)


def test_bad_input():
    q, k, v = random_qkv(6, width=4)
    state = segment.start(k, v, chunk=4, memory=2)
    with pytest.raises(ValueError, match=r"segment\.step: q and k must have the same number"):
        segment.step(state, q[..., :2, :], k, v)
    with pytest.raises(ValueError, match=r"segment\.start: memory must be at least 0, got -1"):
        segment.start(k, v, chunk=4, memory=-1)
