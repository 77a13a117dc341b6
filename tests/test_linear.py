import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, linear

SIZES = [(0, 3), (3, 0), (1, 1), (63, 63), (100, 37), (37, 100)]


def by_loops(q, k, v, feature_map=linear.elu_plus_one, causal=False):
    """The definition, one pair at a time."""
    out = np.zeros(q.shape[:-1] + v.shape[-1:])
    ahead = k.shape[-2] - q.shape[-2]
    for index in np.ndindex(out.shape[:-1]):
        *leading, i = index
        leading = tuple(leading)
        total = 0.0
        for j in range(k.shape[-2]):
            if causal and j > i + ahead:
                break
            weight = float(feature_map(q[index]) @ feature_map(k[(*leading, j)]))
            out[index] += weight * v[(*leading, j)]
            total += weight
        if total:
            out[index] /= total
    return out


@pytest.mark.parametrize("sizes", [(6, 6), (4, 9), (9, 4)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_plain_loops(sizes, causal):
    q, k, v = random_qkv(*sizes, heads=2, width=3, value_width=4, dtype=np.float64)
    expected = by_loops(q, k, v, causal=causal)
    out = linear.attention(q, k, v, chunk=3, causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_recurrent_chunked_and_parallel_are_one(sizes):
    q, k, v = random_qkv(*sizes, heads=2, width=5, value_width=3, dtype=np.float64)
    parallel = np.matmul(linear.weights(q, k, causal=True), v)
    np.testing.assert_allclose(linear.attention(q, k, v, causal=True), parallel, atol=1e-12)
    np.testing.assert_allclose(linear.recurrent(q, k, v), parallel, atol=1e-12)
    both_ways = np.matmul(linear.weights(q, k), v)
    np.testing.assert_allclose(linear.attention(q, k, v), both_ways, atol=1e-12)


@given(
    n_queries=st.integers(1, 90),
    n_keys=st.integers(1, 90),
    chunk=st.integers(1, 100),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_chunk_changes_nothing(n_queries, n_keys, chunk, causal):
    q, k, v = random_qkv(n_queries, n_keys, width=4, dtype=np.float64)
    out = linear.attention(q, k, v, chunk=chunk, causal=causal)
    np.testing.assert_allclose(out, linear.weights(q, k, causal=causal) @ v, atol=1e-12)


@given(pieces=st.lists(st.integers(1, 20), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_split_and_resume(pieces):
    q, k, v = random_qkv(sum(pieces), heads=2, width=4, value_width=3, dtype=np.float64)
    state, parts, start = None, [], 0
    for size in pieces:
        new = (array[..., start : start + size, :] for array in (q, k, v))
        out, state = linear.step(state, *new)
        parts.append(out)
        start += size
    whole = linear.attention(q, k, v, causal=True)
    np.testing.assert_allclose(np.concatenate(parts, axis=-2), whole, atol=1e-12)


def test_step_leaves_the_old_state_alone_and_its_size_does_not_grow():
    q, k, v = random_qkv(30, width=4, value_width=3)
    _, state = linear.step(None, q, k, v)
    before = state.copy()
    _, after = linear.step(state, q[..., :1, :], k[..., :1, :], v[..., :1, :])
    np.testing.assert_array_equal(state, before)
    assert after.shape == state.shape == (1, 1, 4, 3 + 1)
    np.testing.assert_allclose(state[0, 0, :, -1], linear.elu_plus_one(k[0, 0]).sum(0), rtol=1e-6)


def test_a_step_without_queries_reads_a_prompt():
    q, k, v = random_qkv(9, width=4, dtype=np.float64)
    nothing, state = linear.step(None, q[..., :0, :], k[..., :8, :], v[..., :8, :])
    assert nothing.shape == (1, 1, 0, 4)
    out, _ = linear.step(state, *(array[..., 8:, :] for array in (q, k, v)))
    np.testing.assert_allclose(out, linear.attention(q, k, v, causal=True)[..., 8:, :], atol=1e-12)


@given(seed=st.integers(0, 99), causal=st.booleans())
@settings(max_examples=20, deadline=None)
def test_rows_of_weights_sum_to_one_and_are_never_negative(seed, causal):
    q, k, _ = random_qkv(8, 13, width=4, seed=seed, dtype=np.float64)
    weights = linear.weights(3 * q, k, causal=causal)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-12)
    assert weights.min() >= 0
    assert not causal or np.all(np.triu(weights[0, 0], 13 - 8 + 1) == 0)


def test_the_order_of_the_keys_does_not_matter_and_that_of_the_queries_is_kept():
    q, k, v = random_qkv(40, 50, width=4, dtype=np.float64)
    generator = np.random.default_rng(0)
    keys, queries = generator.permutation(50), generator.permutation(40)
    out = linear.attention(q, k, v)
    moved = linear.attention(q[..., queries, :], k[..., keys, :], v[..., keys, :])
    np.testing.assert_allclose(moved, out[..., queries, :], atol=1e-12)


def test_equal_values_come_back():
    q, k, v = random_qkv(70, width=4)
    v[...] = v[..., :1, :]
    for causal in (False, True):
        np.testing.assert_allclose(linear.attention(q, k, v, causal=causal), v, rtol=1e-5)


def test_elu_plus_one_follows_its_definition():
    x = np.array([-800.0, -2, -1e-9, 0, 1e-9, 3, 800])
    expected = [np.exp(-800), np.exp(-2), np.exp(-1e-9), 1, 1 + 1e-9, 4, 801]
    np.testing.assert_allclose(linear.elu_plus_one(x), expected, rtol=1e-15)
    assert np.isnan(linear.elu_plus_one(np.array([np.nan]))).all()


def test_features_that_vanish_give_zeros_instead_of_nan():
    q, k, v = random_qkv(5, width=4)
    out = linear.attention(q - 1000, k, v)  # exp(-1000) is 0
    assert np.all(out == 0)


def test_infinity_passes_through_to_its_row_only():
    q, k, v = random_qkv(30, width=8)
    q[..., 4, 2] = np.inf
    with np.errstate(invalid="ignore"):
        out = linear.attention(q, k, v)
    assert np.all(np.isnan(out[..., 4, :]))
    assert np.all(np.isfinite(np.delete(out, 4, axis=-2)))


# Another feature map


def cubic(x):
    return np.concatenate([x**2, np.abs(x) ** 3], axis=-1)


def cubic_backward(x, grad):
    first, second = np.split(grad, 2, axis=-1)
    return first * 2 * x + second * 3 * x * np.abs(x)


@pytest.mark.parametrize("causal", [False, True])
def test_a_feature_map_may_change_the_width(causal):
    q, k, v = random_qkv(7, 9, width=3, value_width=4, dtype=np.float64)
    expected = by_loops(q, k, v, cubic, causal)
    out = linear.attention(q, k, v, feature_map=cubic, chunk=4, causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    _, state = linear.step(None, k, k, v, feature_map=cubic)
    assert state.shape == (1, 1, 6, 5)


@pytest.mark.parametrize("sizes", [(6, 6), (4, 8), (8, 4)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_backward_of_another_feature_map_against_finite_differences(sizes, causal):
    q, k, v = random_qkv(*sizes, width=3, value_width=2, dtype=np.float64)
    grad_out = random_qkv(sizes[0], width=2, seed=1, dtype=np.float64)[0]
    knobs = {"feature_map": cubic, "chunk": 3, "causal": causal}
    gradients = linear.backward(grad_out, q, k, v, feature_map_backward=cubic_backward, **knobs)

    def loss():
        return float((linear.attention(q, k, v, **knobs) * grad_out).sum())

    for array, gradient in zip((q, k, v), gradients, strict=True):
        np.testing.assert_allclose(gradient, oracles.finite_differences(loss, array), atol=2e-7)


@pytest.mark.parametrize("causal", [False, True])
def test_backward_equals_autograd_of_the_parallel_form(causal):
    torch = pytest.importorskip("torch")
    q, k, v = random_qkv(70, 90, heads=2, width=8, value_width=6, dtype=np.float64)
    grad_out = random_qkv(70, heads=2, width=6, seed=1, dtype=np.float64)[0]
    twins = [torch.from_numpy(array).requires_grad_() for array in (q, k, v)]
    phi_q, phi_k = (torch.nn.functional.elu(twin) + 1 for twin in twins[:2])
    scores = phi_q @ phi_k.mT
    if causal:
        scores = scores.tril(90 - 70)
    out = scores / scores.sum(-1, keepdim=True) @ twins[2]
    out.backward(torch.from_numpy(grad_out))
    gradients = linear.backward(grad_out, q, k, v, chunk=16, causal=causal)
    for gradient, twin in zip(gradients, twins, strict=True):
        np.testing.assert_allclose(gradient, twin.grad.numpy(), atol=1e-13)


def test_backward_holds_no_square():
    def extra(n):
        q, k, v = random_qkv(n, width=16)
        return measure.peak_bytes(linear.backward, q, q, k, v, causal=True)

    assert extra(4096) < 4.2 * extra(1024)
    assert extra(4096) < 4096**2 / 2  # bytes


def test_memory_is_a_state_and_a_chunk_whatever_n_is():
    def extra(n):
        q, k, v = random_qkv(n)
        return measure.peak_bytes(linear.attention, q, k, v, causal=True) - q.nbytes

    assert extra(8192) < 1.05 * extra(1024)


# Peers


@pytest.mark.parametrize("form", ["recurrent", "chunk"])
def test_flash_linear_attention_agrees(form):
    """Its layout is [B, T, H, D] and it takes features, not q and k.

    It scales by 1/√D, which the quotient forgets; it divides only if normalize=True, and then adds
    1e-10 to the normaliser. It is causal and knows only Tq = Tk; its chunks need T % 64 == 0.
    """
    torch = pytest.importorskip("torch")
    naive = pytest.importorskip("fla.ops.linear_attn.naive")
    q, k, v = random_qkv(128, batch=2, heads=3, width=8, value_width=5, dtype=np.float32)
    theirs = getattr(naive, f"naive_{form}_linear_attn")
    features = [linear.elu_plus_one(array) for array in (q, k)]
    arrays = [torch.from_numpy(array.swapaxes(1, 2).copy()) for array in (*features, v)]
    out = theirs(*arrays, normalize=True)
    out = (out[0] if form == "recurrent" else out).numpy().swapaxes(1, 2)
    np.testing.assert_allclose(out, linear.attention(q, k, v, causal=True), atol=2e-6)
    if form == "recurrent":  # without the division it is the state's product, times the scale
        raw, state = theirs(*arrays, scale=1.0, output_final_state=True)
        _, mine = linear.step(None, q, k, v)
        np.testing.assert_allclose(state.numpy(), mine[..., :-1], atol=2e-5)
        total = (features[0] * features[1].cumsum(-2)).sum(-1, keepdims=True)
        raw = raw.numpy().swapaxes(1, 2)
        np.testing.assert_allclose(raw / total, out, atol=2e-6)


# What it is not


def test_it_is_no_approximation_of_softmax():
    """Claim C175 says that weights differ by 5-15 %; half the sum of |differences| says more."""
    q, k, _ = random_qkv(512, heads=4, width=64, dtype=np.float64)
    kernel = linear.weights
    found = {}
    for spread in (0.5, 1, 2, 3):  # standard deviation of the logits
        scaled = q * np.sqrt(spread), k * np.sqrt(spread)
        difference = full.weights(*scaled) - kernel(*scaled)
        found[spread] = np.abs(difference).sum(-1).mean() / 2
    for spread, share in {0.5: 0.19, 1: 0.36, 2: 0.65, 3: 0.82}.items():
        assert abs(found[spread] - share) < 0.03, found


def test_copying_one_token_is_beyond_it():
    generator = np.random.default_rng(0)
    keys = generator.standard_normal((512, 64))
    sharp = 8 * keys / np.linalg.norm(keys, axis=-1, keepdims=True) * np.sqrt(8)
    exact, kernel = full.weights(sharp, sharp), linear.weights(sharp, sharp)
    assert np.diag(exact).mean() > 0.99
    assert np.diag(kernel).mean() < 0.01


# Bad input


def test_errors_of_step_and_backward():
    q, k, v = random_qkv(6, width=8)
    with pytest.raises(ValueError, match=r"linear\.step: q must have as many .* got 3 and 6"):
        linear.step(None, q[..., :3, :], k, v)
    _, state = linear.step(None, q, k, v)
    with pytest.raises(ValueError, match=r"linear\.step: state must have shape \(1, 1, 8, 9\)"):
        linear.step(state[..., 1:], q, k, v)
    with pytest.raises(ValueError, match=r"linear\.backward: grad_out must have shape"):
        linear.backward(q[..., :5, :], q, k, v)
    with pytest.raises(ValueError, match=r"linear\.backward: chunk must be at least 1, got 0"):
        linear.backward(q, q, k, v, chunk=0)
    with pytest.raises(ValueError, match=r"linear\.cost: chunk must be at least 1, got 0"):
        linear.cost(1, 1, 4, 4, 8, chunk=0)
