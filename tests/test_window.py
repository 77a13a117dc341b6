import itertools
import tracemalloc

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import masks, measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, window

SIZES = (0, 1, 2, 63, 100)
KNOBS = list(itertools.product((0, 1, 7, 200), (1, 2, 3, 150), (False, True)))


@pytest.mark.parametrize(("n_queries", "n_keys"), list(itertools.product(SIZES, SIZES)))
def test_mask_and_count_follow_the_definition(n_queries, n_keys):
    for radius, dilation, causal in KNOBS:
        knobs = {"window": radius, "dilation": dilation, "causal": causal}
        visible = oracles.window_visible(n_queries, n_keys, radius, dilation, causal)
        mask = window.mask(n_queries, n_keys, **knobs)
        assert np.array_equal(mask, oracles.mask_of(visible, n_queries, n_keys)), knobs
        assert window.count(n_queries, n_keys, **knobs) == mask.sum(), knobs


@given(
    n_queries=st.integers(1, 150),
    n_keys=st.integers(1, 150),
    radius=st.integers(0, 160),
    dilation=st.integers(1, 12),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_equals_full_attention_under_the_mask(
    n_queries, n_keys, radius, dilation, causal
):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64)
    knobs = {"window": radius, "dilation": dilation, "causal": causal}
    mask = window.mask(n_queries, n_keys, **knobs)
    out = window.attention(q, k, v, **knobs)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(150, 150), (70, 150), (150, 70)], ids=str)
def test_backward_equals_autograd_under_the_mask(sizes, causal):
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(*sizes, heads=2, width=8, value_width=6, dtype=np.float64)
    grad_out = random_qkv(sizes[0], heads=2, width=6, seed=1, dtype=np.float64)[0]
    for knobs in ({"window": 3}, {"window": 20, "dilation": 3}, {"window": 200}):
        twins = [torch.from_numpy(array).requires_grad_() for array in (q, k, v)]
        mask = torch.from_numpy(window.mask(*sizes, causal=causal, **knobs))
        scores = (twins[0] @ twins[1].mT / 8**0.5).masked_fill(~mask, -1e300)
        weights = scores.softmax(-1) * mask.any(-1, keepdim=True)
        (weights @ twins[2]).backward(torch.from_numpy(grad_out))
        for grad, twin in zip(
            window.backward(grad_out, q, k, v, causal=causal, **knobs), twins, strict=True
        ):
            np.testing.assert_allclose(grad, twin.grad.numpy(), atol=1e-13, err_msg=str(knobs))


def test_backward_holds_blocks_and_the_gradients():
    q, k, v = random_qkv(4096)
    peak = measure.peak_bytes(window.backward, q, q, k, v, window=64)
    block = 64 * (64 + 2 * 64) * 4
    assert peak < 3 * q.nbytes + 8 * block


def test_backward_refuses_a_gradient_of_another_shape():
    q, k, v = random_qkv(6, width=4)
    with pytest.raises(ValueError, match=r"window\.backward: grad_out must have shape .*6, 4"):
        window.backward(q[..., :3], q, k, v, window=1)
    with pytest.raises(ValueError, match=r"window\.backward: window must be at least 0, got -1"):
        window.backward(q, q, k, v, window=-1)


def test_window_zero_returns_the_values():
    q, k, v = random_qkv(70, width=4)
    np.testing.assert_allclose(window.attention(q, k, v, window=0), v, rtol=1e-6)


def test_count_is_exact_for_astronomic_lengths():
    n, radius = 10**12, 10**6
    assert window.count(n, n, window=radius) == n * (2 * radius + 1) - radius * (radius + 1)
    assert window.count(n, n, window=2 * n) == n * n
    assert window.count(n, n, window=2 * n, causal=True) == n * (n + 1) // 2


def test_counts_of_the_published_examples():
    assert window.count(1024, 1024, window=256) == 459_520  # claim C374's neighbour: |i-j| <= 256
    assert window.count(1024, 1024, window=128) == 246_656  # claim C377: w // 2 on each side
    assert window.count(4096, 4096, window=256) == 2_035_456  # claim C213


def test_a_dilated_window_is_a_window_on_each_residue_class():
    q, k, v = random_qkv(90, width=4)
    out = window.attention(q, k, v, window=5, dilation=3)
    for start in range(3):
        part = window.attention(*(a[..., start::3, :] for a in (q, k, v)), window=5)
        np.testing.assert_allclose(out[..., start::3, :], part, atol=1e-6)


def test_memory_grows_with_n_times_window_and_never_with_n_squared():
    def extra(n, radius):
        q, k, v = random_qkv(n)
        tracemalloc.start()
        try:
            window.attention(q, k, v, window=radius)
            return tracemalloc.get_traced_memory()[1] - q.nbytes  # out is as large as q
        finally:
            tracemalloc.stop()

    assert extra(16384, 128) < 1.1 * extra(4096, 128)  # one block, whatever n is
    assert extra(4096, 512) < 4.5 * extra(4096, 128)
    assert extra(16384, 128) < 16384**2 / 500  # bytes


def test_transformers_longformer_counts_its_window_on_both_sides_together():
    # Longformer's attention_window=2w is our radius w: 2w + 1 keys for an interior query.
    assert window.mask(100, 100, window=16)[50].sum() == 2 * 16 + 1
    assert window.mask(100, 100, window=16, causal=True)[50].sum() == 16 + 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_local_attention_means_blocks_by_its_window_unless_it_is_exact(causal, exact):
    """Its window_size is the length of a block, and it sees the blocks beside its own whole."""
    torch, peer = pytest.importorskip("torch"), pytest.importorskip("local_attention")
    q, k, v = random_qkv(64, heads=2, width=8, dtype=np.float64)
    beside = {"look_backward": 1, "look_forward": 0 if causal else 1}
    module = peer.LocalAttention(
        window_size=8, causal=causal, exact_windowsize=exact, use_rotary_pos_emb=False, **beside
    )
    theirs = module(*(torch.from_numpy(a) for a in (q, k, v))).numpy()
    if exact:
        ours = window.attention(q, k, v, window=8, causal=causal)
    else:
        overlapping = masks.blocks(64, 64, block=8, overlap=8)
        ours = full.attention(q, k, v, mask=overlapping, causal=causal)
    np.testing.assert_allclose(ours, theirs, atol=1e-14)


def test_dynamic_window_is_the_smallest_radius_that_catches_the_mass():
    q, k, _ = random_qkv(40, 60, heads=2, width=8, dtype=np.float64)
    weights = full.weights(3 * q, k)
    radii = window.dynamic_window(weights, mass=0.9)
    assert radii.shape == (1, 2, 40)
    distance = np.abs(np.arange(60) - (np.arange(40) + 20)[:, None])
    for head, i in itertools.product(range(2), range(40)):
        row, radius = weights[0, head, i], radii[0, head, i]
        assert row[distance[i] <= radius].sum() >= 0.9 - 1e-6
        assert row[distance[i] < radius].sum() < 0.9


@pytest.mark.parametrize("mass", [-0.1, 1.1, float("nan")])
def test_dynamic_window_refuses_a_mass_outside_0_to_1(mass):
    with pytest.raises(ValueError, match=r"window\.dynamic_window: mass must be between 0 and 1"):
        window.dynamic_window(np.ones((2, 2)) / 2, mass=mass)


def test_dynamic_window_of_all_the_mass_reaches_the_last_key_that_has_some():
    weights = np.zeros((1, 10))
    weights[0, 3] = 1
    assert window.dynamic_window(weights, mass=1.0) == 6  # the query sits at position 9
    assert window.dynamic_window(weights.astype(np.float32) * 0.9999999, mass=1.0) == 6
