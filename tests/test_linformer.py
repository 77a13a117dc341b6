"""Linformer against its own definition, torch's convolution and the linformer package.

The package keeps its projections as (Tk, rank), ours are (rank, Tk); it has them learned and
shared by all heads.
"""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.inputs import random_qkv
from attncourse.reference import full, linformer


def project(projection, x):
    """projection @ x by plain loops."""
    mixed = np.zeros((*x.shape[:-2], len(projection), x.shape[-1]))
    for row, j in np.ndindex(*projection.shape):
        mixed[..., row, :] += float(projection[row, j]) * x[..., j, :].astype(np.float64)
    return mixed


def random_projections(rank, n_keys, seed=0):
    return np.random.default_rng(seed).standard_normal((2, rank, n_keys)) / np.sqrt(rank)


@pytest.mark.parametrize(("n_queries", "n_keys", "rank"), [(7, 13, 4), (13, 7, 7), (1, 300, 1)])
def test_agrees_with_plain_loops(n_queries, n_keys, rank):
    q, k, v = random_qkv(n_queries, n_keys, heads=2, width=4, value_width=3, dtype=np.float64)
    e, f = random_projections(rank, n_keys)
    out = linformer.attention(q, k, v, key_projection=e, value_projection=f, scale=0.3)
    expected = oracles.attention(q, project(e, k), project(f, v), scale=0.3)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_the_identity_at_rank_tk_is_full_attention():
    q, k, v = random_qkv(20, 33, heads=2, width=8, dtype=np.float64)
    out = linformer.attention(q, k, v, key_projection=np.eye(33), value_projection=np.eye(33))
    np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-13)
    assert np.array_equal(linformer.mean_pool(33, 33), np.eye(33))
    assert np.array_equal(linformer.mean_pool(99, 33), np.eye(33))


def test_the_linformer_package_with_the_same_weights():
    import torch
    from linformer import LinformerSelfAttention

    torch.manual_seed(0)
    peer = LinformerSelfAttention(dim=24, seq_len=50, k=7, heads=3).double()
    x = torch.randn(2, 50, 24, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = (
            layer(x).reshape(2, 50, 3, 8).transpose(1, 2).numpy()
            for layer in (peer.to_q, peer.to_k, peer.to_v)
        )
        out = linformer.attention(
            q, k, v, key_projection=peer.proj_k.numpy().T, value_projection=peer.proj_v.numpy().T
        )
        joined = peer.to_out(torch.from_numpy(out.swapaxes(1, 2).reshape(2, 50, 24)))
        np.testing.assert_allclose(joined.numpy(), peer(x).numpy(), atol=1e-12)


def test_convolution_is_torchs_with_stride_and_kernel_alike():
    import torch

    _, k, _ = random_qkv(1, 23, width=3, dtype=np.float64)
    kernel = np.array([0.5, -1.0, 2.0, 0.25, 1.0])
    mixed = linformer.convolution(kernel, 23) @ k[0, 0]
    padded = torch.from_numpy(np.pad(k[0, 0], ((0, 2), (0, 0)))).T[:, None]
    expected = torch.nn.functional.conv1d(padded, torch.from_numpy(kernel)[None, None], stride=5)
    np.testing.assert_allclose(mixed, expected[:, 0].T.numpy(), atol=1e-14)


@given(rank=st.integers(1, 60), n_keys=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_segments_cover_every_key_once_and_are_equally_long(rank, n_keys):
    pool = linformer.mean_pool(rank, n_keys)
    assert pool.shape == (min(rank, n_keys), n_keys)
    assert np.array_equal((pool > 0).sum(axis=0), np.ones(n_keys))
    sizes = (pool > 0).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_allclose(pool.sum(axis=1), 1)
    x = np.random.default_rng(n_keys).standard_normal((2, n_keys, 3))
    largest = [x[:, row > 0].max(axis=1) for row in pool]
    assert np.array_equal(linformer.max_pool(x, rank=rank), np.stack(largest, axis=1))


def test_mean_pool_is_a_convolution_where_the_segments_are_equal():
    np.testing.assert_allclose(
        linformer.mean_pool(8, 24), linformer.convolution(np.full(3, 1 / 3), 24), atol=1e-15
    )


@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_permuted_tokens_with_permuted_projections_change_nothing(seed):
    q, k, v = random_qkv(9, 17, width=4, dtype=np.float64, seed=seed)
    e, f = random_projections(5, 17, seed)
    order = np.random.default_rng(seed).permutation(17)
    out = linformer.attention(q, k, v, key_projection=e, value_projection=f)
    permuted = linformer.attention(
        q, k[..., order, :], v[..., order, :],
        key_projection=e[:, order], value_projection=f[:, order],
    )  # fmt: skip
    np.testing.assert_allclose(permuted, out, atol=1e-12)


def test_a_key_that_no_projection_takes_has_no_influence():
    q, k, v = random_qkv(9, 17, width=4, dtype=np.float64)
    e, f = random_projections(5, 17)
    e[:, 3] = f[:, 3] = 0
    before = linformer.attention(q, k, v, key_projection=e, value_projection=f)
    k[..., 3, :] += 100
    v[..., 3, :] -= 100
    after = linformer.attention(q, k, v, key_projection=e, value_projection=f)
    assert np.array_equal(before, after)


def test_a_projection_for_each_head():
    q, k, v = random_qkv(9, 17, heads=3, batch=2, width=4, dtype=np.float64)
    each = np.random.default_rng(1).standard_normal((3, 5, 17))
    out = linformer.attention(q, k, v, key_projection=each, value_projection=each)
    for head in range(3):
        part = linformer.attention(
            *(a[:, head] for a in (q, k, v)),
            key_projection=each[head], value_projection=each[head],
        )  # fmt: skip
        np.testing.assert_allclose(out[:, head], part, atol=1e-13)


def smooth_tokens(n, width, seed):
    steps = np.random.default_rng(seed).standard_normal((n + 24, width))
    return np.stack([steps[i : i + 24].sum(axis=0) for i in range(n)]) / np.sqrt(24)


def test_fit_beats_plain_averages_and_gets_exact_at_full_rank():
    x = smooth_tokens(96, 16, seed=0)
    whole = full.weights(x, x)
    errors = []
    for rank in (6, 24, 96):
        e = linformer.mean_pool(rank, 96)
        mixed = full.weights(x, e @ x)
        fitted = linformer.fit(x, x, key_projection=e)
        error = np.linalg.norm(mixed @ fitted - whole)
        assert rank == 96 or error < 0.95 * np.linalg.norm(mixed @ e - whole)
        # no matrix of this rank can do better than the truncated SVD
        assert error >= np.sqrt((np.linalg.svd(whole, compute_uv=False)[rank:] ** 2).sum()) - 1e-9
        errors.append(error)
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-9


def test_fit_pools_heads_and_examples():
    q, k, _ = random_qkv(12, 10, heads=2, batch=2, width=4)
    e = linformer.mean_pool(4, 10)
    stacked = linformer.fit(q, k, key_projection=e)
    mixed = full.weights(*(a.astype(np.float64) for a in (q, e @ k)))
    residual = mixed @ stacked - full.weights(q.astype(np.float64), k.astype(np.float64))
    gradient = mixed.reshape(-1, 4).T @ residual.reshape(-1, 10)  # zero where the sum is least
    assert np.abs(gradient).max() < 1e-10


def call(**changes):
    q, k, v = random_qkv(6, 8, heads=2, width=4)
    keywords = {"key_projection": np.ones((3, 8)), "value_projection": np.ones((3, 8))}
    return linformer.attention(q, k, v, **(keywords | changes))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"key_projection": np.ones((3, 7))}, ValueError, r"key_projection .*\(rank, 8\).*\(3, 7"),
        ({"value_projection": np.ones((9, 8))}, ValueError, "value_projection .*at most 8"),
        ({"key_projection": np.ones(8)}, ValueError, r"key_projection .*got \(8,\)"),
        ({"key_projection": np.ones((3, 3, 8))}, ValueError, r"broadcasting to \(1, 2\)"),
        ({"value_projection": np.ones((2, 8))}, ValueError, "same rank, got 3 and 2"),
        ({"key_projection": np.ones((3, 8), int)}, TypeError, "floating numbers, got int64"),
        ({"key_projection": [[1.0] * 8]}, TypeError, "key_projection .*got list"),
        ({"causal": True}, ValueError, "cannot be causal"),
    ],
)
def test_bad_projections_are_refused(changes, error, words):
    with pytest.raises(error, match=rf"linformer\.attention: .*{words}"):
        call(**changes)


@pytest.mark.parametrize(
    "function",
    [
        lambda: linformer.mean_pool(0, 8),
        lambda: linformer.mean_pool(True, 8),
        lambda: linformer.max_pool(np.ones((8, 2)), rank=-1),
        lambda: linformer.convolution(np.ones(0), 8),
        lambda: linformer.convolution(np.ones((2, 2)), 8),
        lambda: linformer.cost(1, 1, 8, 8, 4, rank=0),
        lambda: linformer.cost(1, 1, 8, 8, 4, rank=2, causal=True),
    ],
)
def test_bad_ranks_and_kernels_are_refused(function):
    with pytest.raises((TypeError, ValueError), match=r"linformer\.\w+: "):
        function()
