import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import block_topk, full, topk


def chosen_by_loops(q, k, block, keep, choose_every, bound, causal):
    """The blocks of each query, one query at a time."""
    ahead, n_blocks, rows = len(k) - len(q), -(-len(k) // block), []
    parts = [k[b * block : (b + 1) * block] for b in range(n_blocks)]
    for i in range(len(q)):
        own, place = divmod(i + ahead, block)
        chooser = max(i - place % choose_every, 0)
        scored = []
        for b, keys in enumerate(parts):
            if bound:
                score = np.maximum(q[chooser] * keys.max(0), q[chooser] * keys.min(0)).sum()
            else:
                score = float(q[chooser] @ keys.mean(0))
            if not (causal and b > own):
                scored.append((-np.inf if b == own else -score, b))
        rows.append(sorted(b for _, b in sorted(scored)[:keep]))
    return rows


KNOBS = {
    "block": st.integers(1, 20),
    "keep": st.integers(1, 6),
    "choose_every": st.integers(1, 9),
    "bound": st.booleans(),
    "causal": st.booleans(),
}


@given(n_queries=st.integers(1, 60), n_keys=st.integers(1, 60), **KNOBS)
@settings(max_examples=60, deadline=None)
def test_agrees_with_plain_loops(n_queries, n_keys, **knobs):
    q, k, v = random_qkv(n_queries, n_keys, width=4, value_width=3, dtype=np.float64)
    rows = chosen_by_loops(q[0, 0], k[0, 0], **knobs)
    chosen = block_topk.select(q, k, **knobs)
    if knobs["causal"]:  # those before all keys choose nothing
        rows = [row if i + n_keys >= n_queries else [] for i, row in enumerate(rows)]
    assert [[b for b in row if b >= 0] for row in chosen[0, 0].tolist()] == rows
    out = block_topk.attention(q, k, v, **knobs)

    def may(i, j):
        return j // knobs["block"] in rows[i] and not (
            knobs["causal"] and j > i + n_keys - n_queries
        )

    np.testing.assert_allclose(out[0, 0], oracles.attention(q[0, 0], k[0, 0], v[0, 0], may))
    mask = block_topk.mask_of(chosen, n_keys, block=knobs["block"], causal=knobs["causal"])
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_blocks_of_one_key_are_top_k_with_the_own_key():
    q, k, v = random_qkv(50, heads=2, width=8, dtype=np.float64)
    chosen = block_topk.select(q, k, block=1, keep=7)
    best = topk.mask_of(topk.select(q, k, keep=6), 50)
    mask = block_topk.mask_of(chosen, 50, block=1)
    own = np.eye(50, dtype=bool)
    assert np.all(mask[..., own]) and np.all(mask | ~best)  # all of the six best, and itself
    out = block_topk.attention(q, k, v, block=1, keep=7)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_no_key_exceeds_the_bound_of_its_block():
    q, k, _ = random_qkv(40, 50, width=6, dtype=np.float64)
    seen = block_topk.summaries(k, block=8, bound=True)  # (1, 1, 7, 12)
    both = np.concatenate([np.maximum(q, 0), np.minimum(q, 0)], axis=-1)
    bounds, scores = both @ seen.swapaxes(-1, -2), q @ k.swapaxes(-1, -2)
    assert np.all(scores <= bounds[..., np.arange(50) // 8] + 1e-12)
    mean = block_topk.summaries(k, block=8)
    np.testing.assert_allclose(mean[0, 0, 6], k[0, 0, 48:].mean(0))


def test_a_needle_is_hidden_by_the_mean_and_found_by_the_bound():
    q, k, _ = random_qkv(1, 64, width=16)
    k[...] = -q
    k[..., 8:16, :] = -9 * q  # the worst block on average, with the best key in it
    k[..., 11, :] = 2 * q[..., 0, :]
    found = [block_topk.select(q, k, block=8, keep=2, bound=bound) for bound in (False, True)]
    assert 1 not in found[0] and 1 in found[1]


def test_who_shares_a_choice_sees_what_the_first_has_chosen():
    q, k, _ = random_qkv(64, width=8, dtype=np.float64)
    knobs = {"block": 16, "keep": 2, "causal": True}
    shared = block_topk.select(q, k, choose_every=6, **knobs)[0, 0]
    alone = block_topk.select(q, k, **knobs)[0, 0]
    for first in (0, 6, 12, 16, 22, 28, 32, 60):  # a block of 16 begins a new group
        assert np.array_equal(shared[first], alone[first])
    assert np.array_equal(shared[22:28], np.repeat(alone[22:23], 6, axis=0))
    assert np.array_equal(shared[60:], np.repeat(alone[60:61], 4, axis=0))


def test_equal_blocks_are_taken_from_the_first_on():
    q, k, _ = random_qkv(40, width=4)
    k[...] = k[..., :1, :]
    chosen = block_topk.select(q, k, block=8, keep=3)[0, 0]
    assert chosen[39].tolist() == [0, 1, 4] and chosen[0].tolist() == [0, 1, 2]


def test_a_negative_scale_turns_the_choice_around():
    q, k, v = random_qkv(40, width=4, dtype=np.float64)
    knobs = {"block": 8, "keep": 3, "causal": True}
    turned = block_topk.attention(q, k, v, scale=-0.5, **knobs)
    np.testing.assert_allclose(turned, block_topk.attention(-q, k, v, scale=0.5, **knobs))


def test_memory_grows_with_the_blocks_not_with_the_pairs():
    def extra(n, **knobs):
        q, k, v = random_qkv(n, width=16)
        return (
            measure.peak_bytes(block_topk.attention, q, k, v, block=32, keep=4, **knobs) - q.nbytes
        )

    assert extra(8192) < 3 * extra(2048) and extra(8192) < 8192**2 / 64
    assert extra(4096, choose_every=32, bound=True) < 2 * extra(4096)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "knobs",
    [{"block": 1, "keep": 9}, {"block": 2, "keep": 2, "choose_every": 2}, {"block": 7, "keep": 3}],
    ids=lambda knobs: f"blocks of {knobs['block']}",
)
def test_cost_predicts_the_peak_of_small_blocks(knobs, dtype):
    """Their scores are the most that is held: in float32, no wider, and once."""
    q, k, v = random_qkv(2048, width=32, dtype=dtype)
    size = np.dtype(dtype).itemsize
    predicted = block_topk.cost(1, 1, 2048, 2048, 32, dtype_bytes=size, **knobs).peak_bytes
    peak = measure.peak_bytes(block_topk.attention, q, k, v, **knobs)
    assert abs(peak / predicted - 1) <= 0.1, (peak, predicted)


def test_equal_blocks_look_equal_whatever_their_place_in_memory():
    q, k, _ = random_qkv(60, width=7)
    k[...] = np.tile(k[..., :3, :], (20, 1))  # 20 blocks of 3, of odd lengths in bytes
    for bound in (False, True):
        chosen = block_topk.select(q, k, block=3, keep=4, bound=bound)[0, 0]
        assert chosen[-1].tolist() == [0, 1, 2, 19]


def test_errors():
    q, k, _ = random_qkv(6, width=8)
    with pytest.raises(ValueError, match=r"block_topk\.select: keep must be at least 1, got 0"):
        block_topk.select(q, k, block=2, keep=0)
    with pytest.raises(
        TypeError, match=r"block_topk\.select: bound must be True or False, got int 1"
    ):
        block_topk.select(q, k, block=2, keep=1, bound=1)
    with pytest.raises(ValueError, match=r"block_topk\.summaries: block must be at least 1, got 0"):
        block_topk.summaries(k, block=0)
