import itertools
import tracemalloc

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import chunked, full

SIZES = [(1, 1), (9, 9), (7, 12), (12, 7), (3, 11)]


@pytest.mark.parametrize(("sizes", "causal"), list(itertools.product(SIZES, (False, True))))
def test_agrees_with_plain_loops(sizes, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=4, value_width=3, dtype=np.float64)
    ahead = sizes[1] - sizes[0]
    expected = oracles.attention(q, k, v, lambda i, j: not causal or j <= i + ahead, scale=0.7)
    for chunk in (1, 4, 100):
        out = chunked.attention(q, k, v, chunk=chunk, causal=causal, scale=0.7)
        np.testing.assert_allclose(out, expected, atol=1e-12)


@given(
    n_queries=st.integers(1, 80),
    n_keys=st.integers(1, 80),
    chunk=st.integers(1, 90),
    causal=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_the_chunk_does_not_change_the_result(n_queries, n_keys, chunk, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    out = chunked.attention(q, k, v, chunk=chunk, causal=causal)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)


def test_permuting_the_tokens_permutes_the_output():
    q, k, v = random_qkv(40, width=8, dtype=np.float64)
    order = np.random.default_rng(0).permutation(40)
    out = chunked.attention(*(a[..., order, :] for a in (q, k, v)), chunk=7)
    expected = chunked.attention(q, k, v, chunk=7)[..., order, :]
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_large_scores_do_not_overflow():
    q, k, v = random_qkv(40, width=8)
    out = chunked.attention(1e4 * q, k, v, chunk=16, causal=True)
    assert np.all(np.isfinite(out)) and np.abs(out).max() <= np.abs(v).max()


def test_causal_slices_the_keys_to_the_diagonal():
    q, k, v = random_qkv(1000, width=16)
    everything = measure.count_flops(chunked.attention, q, k, v, chunk=10)
    causal = measure.count_flops(chunked.attention, q, k, v, chunk=10, causal=True)
    assert causal / everything == pytest.approx(0.505)  # n (n + chunk) / 2 of n² pairs


def test_memory_grows_with_n_times_chunk():
    def extra(n, chunk):
        q, k, v = random_qkv(n)
        tracemalloc.start()
        try:
            chunked.attention(q, k, v, chunk=chunk)
            return tracemalloc.get_traced_memory()[1] - q.nbytes  # out is as large as q
        finally:
            tracemalloc.stop()

    assert extra(4096, 64) == pytest.approx(2 * extra(2048, 64), rel=0.1)
    assert extra(2048, 256) == pytest.approx(4 * extra(2048, 64), rel=0.1)


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(100, heads=2, width=16, dtype=np.float64)
    peer = torch.nn.functional.scaled_dot_product_attention
    for causal in (False, True):
        theirs = peer(*map(torch.from_numpy, (q, k, v)), is_causal=causal)
        mine = chunked.attention(q, k, v, chunk=32, causal=causal)
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-13)


def test_cost_refuses_a_chunk_of_nothing():
    with pytest.raises(ValueError, match=r"chunked\.cost: chunk must be at least 1, got 0"):
        chunked.cost(1, 1, 8, 8, 4, chunk=0)
