import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import masks, measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, grouped, kv_cache
from attncourse.reference._parts import pieces


def grouped_qkv(heads, groups, n_queries, n_keys, *, batch=2, dtype=np.float64):
    q, _, _ = random_qkv(n_queries, n_keys, heads=heads, batch=batch, width=8, dtype=dtype)
    _, k, v = random_qkv(
        n_queries, n_keys, heads=groups, batch=batch, width=8, value_width=5, dtype=dtype, seed=1
    )
    return q, k, v


def repeated(array, times):
    return np.repeat(array, times, axis=-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "groups"), [(6, 6), (6, 3), (6, 2), (6, 1)])
def test_equals_plain_loops_over_heads_that_look_up_their_group(heads, groups, causal):
    q, k, v = grouped_qkv(heads, groups, 5, 9, batch=1)
    out = grouped.attention(q, k, v, causal=causal)
    for h in range(heads):
        g = h * groups // heads
        expected = oracles.attention(
            q[:, h], k[:, g], v[:, g], lambda i, j: not causal or j <= i + 4
        )
        np.testing.assert_allclose(out[:, h], expected, atol=1e-12)


@given(
    groups=st.integers(1, 3),
    shared=st.integers(1, 70),
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    causal=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_equals_full_attention_with_repeated_keys(groups, shared, n_queries, n_keys, causal):
    q, k, v = grouped_qkv(groups * shared, groups, n_queries, n_keys)
    out = grouped.attention(q, k, v, causal=causal)
    expected = full.attention(q, repeated(k, shared), repeated(v, shared), causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_the_cut_into_blocks_and_pieces_changes_nothing(monkeypatch):
    q, k, v = grouped_qkv(4, 2, 30, 50)
    expected = grouped.attention(q, k, v, causal=True, scale=0.7)
    for block, piece in ((1, 1), (7, 3), (1000, 1000)):
        monkeypatch.setattr(pieces, "BLOCK", block)
        monkeypatch.setattr(pieces, "PIECE", piece)
        out = grouped.attention(q, k, v, causal=True, scale=0.7)
        np.testing.assert_allclose(out, expected, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [8, 2, 1])
def test_agrees_with_torch_sdpa(groups, dtype):
    torch = pytest.importorskip("torch")
    q, k, v = grouped_qkv(8, groups, 33, 33, dtype=dtype)
    for causal in (False, True):
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.from_numpy, (q, k, v)), is_causal=causal, enable_gqa=True
        )
        mine = grouped.attention(q, k, v, causal=causal)
        np.testing.assert_allclose(mine, theirs, atol=20 * np.finfo(dtype).eps)


def test_torch_aligns_the_first_query_with_the_first_key_and_we_the_last_with_the_last():
    torch = pytest.importorskip("torch")
    q, k, v = grouped_qkv(4, 2, 3, 7)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    tensors = [torch.from_numpy(array) for array in (q, k, v)]
    mine = grouped.attention(q, k, v, causal=True)
    theirs = sdpa(*tensors, is_causal=True, enable_gqa=True)
    first = grouped.attention(q, k[..., :3, :], v[..., :3, :], causal=True)
    np.testing.assert_allclose(theirs, first, atol=1e-14)
    mask = torch.from_numpy(masks.causal(3, 7))
    np.testing.assert_allclose(mine, sdpa(*tensors, attn_mask=mask, enable_gqa=True), atol=1e-14)


def test_a_group_costs_the_flops_of_all_heads_and_the_traffic_of_one():
    for groups in (8, 4, 1):
        q, k, v = grouped_qkv(8, groups, 30, 300, batch=1)
        counted = measure.count_flops(grouped.attention, q[..., :5], k[..., :5], v)
        assert counted == grouped.cost(1, 8, 30, 300, 5, groups=groups).flops
    decode = [grouped.cost(1, 32, 1, 4096, 128, groups=g, dtype_bytes=2) for g in (32, 8, 1)]
    assert decode[0].flops == decode[1].flops == decode[2].flops
    ratio = decode[0].bytes_read / decode[1].bytes_read
    assert 3.9 < ratio < 4
    assert decode[2].intensity > 15 * decode[0].intensity


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("groups", [1, 2])
def test_keys_are_never_repeated(groups, dtype):
    n, heads = 2048, 16
    q, _, _ = random_qkv(n, heads=heads, dtype=dtype)
    _, k, v = random_qkv(n, heads=groups, dtype=dtype)
    predicted = grouped.cost(
        1, heads, n, n, 64, groups=groups, causal=True, dtype_bytes=q.itemsize
    ).peak_bytes
    peak = measure.peak_bytes(grouped.attention, q, k, v, causal=True)
    assert abs(peak / predicted - 1) <= 0.1
    repeated_keys = 2 * heads // groups * k.nbytes
    if groups == 1:
        assert peak - q.nbytes < repeated_keys / 2  # out is as large as q


def test_the_cache_of_a_model_shrinks_with_its_groups():
    llama = {"tokens": 4096, "width": 128, "layers": 32, "dtype_bytes": 2}
    assert kv_cache.size_bytes(groups=32, **llama) == 2 * 2**30
    assert kv_cache.size_bytes(groups=8, **llama) == 2**29


@pytest.mark.parametrize(
    ("heads", "groups", "words"),
    [(6, 4, "multiple of the heads of k and v, got 6 and 4"), (2, 6, "got 2 and 6")],
)
def test_heads_that_groups_do_not_divide_are_refused(heads, groups, words):
    with pytest.raises(ValueError, match=f"^grouped.attention: q must have a .*{words}"):
        grouped.attention(*grouped_qkv(heads, groups, 3, 3))
    with pytest.raises(ValueError, match=f"grouped.cost: groups must divide .* got {groups}"):
        grouped.cost(1, heads, 3, 3, 8, groups=groups)


def test_keys_and_values_must_have_the_same_groups():
    q, k, v = grouped_qkv(6, 3, 4, 4)
    with pytest.raises(ValueError, match=r"grouped.attention: .*same leading axes"):
        grouped.attention(q, k, v[:, :1])
    with pytest.raises(ValueError, match=r"grouped.attention: .*same leading axes"):
        grouped.attention(q, k[:1], v[:1])


def test_no_heads_and_no_batch_give_empty_outputs():
    q, k, v = grouped_qkv(4, 2, 3, 3, batch=0)
    assert grouped.attention(q, k, v).shape == (0, 4, 3, 5)
    q, k, v = grouped_qkv(0, 0, 3, 3)
    assert grouped.attention(q, k, v).shape == (2, 0, 3, 5)
