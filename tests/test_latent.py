import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, grouped, latent
from attncourse.reference._parts import pieces


def drawn(n_queries, n_keys, *, batch=2, dtype=np.float64, **widths):
    """Return q, k and v as `attention` takes them, a latent for all heads; and the matrices."""
    widths = {"heads": 3, "rank": 6, "content": 4, "rotary": 2, "value": 5} | widths
    heads, rank, content, rotary, value = widths.values()
    sizes = {"batch": batch, "dtype": dtype}
    q, _, _ = random_qkv(n_queries, heads=heads, width=content + rotary, **sizes)
    _, k, _ = random_qkv(n_keys, width=rank + rotary, seed=1, **sizes)
    key_up, value_up = latent.random_matrices(heads, rank, content, value, dtype=dtype)
    return (q, k, k[..., :rank]), {"key_up": key_up, "value_up": value_up}


@given(
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    heads=st.integers(1, 5),
    rank=st.integers(1, 9),
    content=st.integers(1, 9),
    rotary=st.integers(0, 4),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_is_full_attention_to_the_keys_that_it_does_not_build(
    n_queries, n_keys, heads, rank, content, rotary, causal
):
    sizes = {"heads": heads, "rank": rank, "content": content, "rotary": rotary}
    (q, k, v), matrices = drawn(n_queries, n_keys, **sizes)
    keys, values = latent.unfolded(k, v, **matrices)
    assert keys.shape == (2, heads, n_keys, content + rotary)
    expected = full.attention(q, keys, values, causal=causal)
    np.testing.assert_allclose(
        latent.attention(q, k, v, **matrices, causal=causal), expected, atol=1e-11
    )


def test_equals_the_formula_written_out_for_one_pair_after_the_other():
    (q, k, v), m = drawn(4, 7, batch=1, heads=2)
    out = latent.attention(q, k, v, **m, scale=0.3)
    for h in range(2):
        for i in range(4):
            weights = [
                np.exp(0.3 * (q[0, h, i, :4] @ (c @ m["key_up"][h]) + q[0, h, i, 4:] @ r))
                for c, r in zip(v[0, 0], k[0, 0, :, 6:], strict=True)
            ]
            summed = sum(w * (c @ m["value_up"][h]) for w, c in zip(weights, v[0, 0], strict=True))
            np.testing.assert_allclose(out[0, h, i], summed / sum(weights), atol=1e-12)


def test_with_queries_lowered_by_hand_it_is_multi_query_attention():
    (q, k, v), m = drawn(9, 9)
    lowered = np.concatenate([q[..., :4] @ m["key_up"].swapaxes(-1, -2), q[..., 4:]], axis=-1)
    mixed = grouped.attention(lowered, k, v, causal=True, scale=1 / np.sqrt(6))
    out = latent.attention(q, k, v, **m, causal=True)
    np.testing.assert_allclose(mixed @ m["value_up"], out, atol=1e-12)


def test_groups_of_heads_may_have_a_latent_each():
    (q, _, _), m = drawn(9, 9, heads=4, batch=1)
    _, k, _ = random_qkv(9, heads=2, width=8, dtype=np.float64, seed=3)
    out = latent.attention(q, k, k[..., :6], **m)
    for h in range(4):
        one = slice(h // 2, h // 2 + 1)
        alone = {name: matrix[h : h + 1] for name, matrix in m.items()}
        expected = latent.attention(q[:, h : h + 1], k[:, one], k[:, one, :, :6], **alone)
        np.testing.assert_allclose(out[:, h : h + 1], expected, atol=1e-12)


def test_the_cut_into_blocks_and_pieces_changes_nothing(monkeypatch):
    (q, k, v), m = drawn(30, 50)
    expected = latent.attention(q, k, v, **m, causal=True)
    for block, piece in ((1, 1), (7, 3), (1000, 1000)):
        monkeypatch.setattr(pieces, "BLOCK", block)
        monkeypatch.setattr(pieces, "PIECE", piece)
        np.testing.assert_allclose(
            latent.attention(q, k, v, **m, causal=True), expected, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("causal", [False, True])
def test_cost_of_a_real_layer_is_exact_and_its_peak_close(dtype, causal):
    """As many heads to one latent as a test can wait for, and widths that all differ."""
    sizes = {"heads": 8, "rank": 96, "content": 32, "rotary": 16, "value": 48}
    (q, k, v), m = drawn(400, 1000, batch=1, dtype=dtype, **sizes)
    knobs = {"rank": 96, "rotary": 16, "groups": 1, "causal": causal}
    cost = latent.cost(1, 8, 400, 1000, 48, **knobs, dtype_bytes=np.dtype(dtype).itemsize)
    call = {**m, "causal": causal}
    assert measure.count_flops(latent.attention, q, k, v, **call) == cost.flops
    assert abs(measure.peak_bytes(latent.attention, q, k, v, **call) / cost.peak_bytes - 1) < 0.1


def test_peak_is_close_where_latents_are_wider_than_the_scores_of_a_row():
    sizes = {"heads": 3, "rank": 400, "content": 60, "rotary": 4, "value": 64}
    (q, k, v), m = drawn(301, 300, batch=1, dtype=np.float32, **sizes)
    cost = latent.cost(1, 3, 301, 300, 64, rank=400, rotary=4, groups=1)
    assert abs(measure.peak_bytes(latent.attention, q, k, v, **m) / cost.peak_bytes - 1) < 0.05


def test_no_key_and_no_value_is_built():
    sizes = {"heads": 16, "rank": 32, "content": 64, "rotary": 16, "value": 64}
    (q, k, v), m = drawn(1, 4000, batch=1, dtype=np.float32, **sizes)
    keys, values = latent.unfolded(k, v, **m)
    peak = measure.peak_bytes(latent.attention, q, k, v, **m)
    assert peak < (keys.nbytes + values.nbytes) / 60
    assert peak < 3 * 16 * 4000 * 4  # the scores of one query of each head


def test_what_is_kept_does_not_depend_on_the_heads():
    # DeepSeek-V2: a latent of 512 and a turned key of 64, where 128 heads of 128 would keep
    # 2 · 128 · 128: as much as 2.25 heads
    assert latent.size_bytes(1, 512, 64, dtype_bytes=1) == 2.25 * 2 * 128
    assert latent.size_bytes(10, 512, 64, layers=60, batch=3) == 10 * 576 * 60 * 3 * 2
    small = np.int8(100)  # whose products overflow
    assert latent.size_bytes(small, small, small, layers=small) == 4 * 10**6
    with pytest.raises(ValueError, match=r"latent\.size_bytes: rank must be at least 0, got -1"):
        latent.size_bytes(1, -1, 64)


def test_infinity_in_the_content_of_a_query_spoils_its_row_only():
    (q, k, v), m = drawn(5, 5)
    q[..., 2, 1] = np.inf
    with np.errstate(invalid="ignore"):
        out = latent.attention(q, k, v, **m)
    assert np.isnan(out[..., 2, :]).all() and np.isfinite(np.delete(out, 2, axis=-2)).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key_up": None}, TypeError, "key_up must be an array of floating numbers, got NoneType"),
        ({"value_up": np.ones((6, 5), int)}, TypeError, "value_up must .* floating .* got int64"),
        ({"key_up": np.ones(6)}, ValueError, r"key_up must have at least 2 axes, got \(6,\)"),
        (
            {"key_up": np.ones((3, 6, 3))},
            ValueError,
            "q must be 3 .* wide and k 6, .* 6 and 8",
        ),
        ({"value_up": np.ones((3, 5, 5))}, ValueError, "value_up must have 6 numbers of a latent"),
        ({"value_up": np.ones((2, 6, 5))}, ValueError, r"value_up .* broadcast to \(2, 3\)"),
        ({"key_up": np.ones((3, 6, 4), "f4")}, ValueError, "key_up must be float64 .* float32"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(change, error, message):
    (q, k, v), m = drawn(5, 5)
    with pytest.raises(error, match=rf"^latent\.attention: {message}"):
        latent.attention(q, k, v, **m | change)


def test_values_that_are_no_latents_are_refused():
    (q, k, _), m = drawn(5, 5)
    with pytest.raises(ValueError, match=r"latent\.attention: v must have 6 .*, got 8"):
        latent.attention(q, k, k, **m)
    with pytest.raises(TypeError, match=r"latent\.attention: q must be an array, got list"):
        latent.attention(q.tolist(), k, k[..., :6], **m)
    with pytest.raises(ValueError, match=r"latent\.attention: q must have a multiple of the heads"):
        latent.attention(q, np.repeat(k, 2, 1), np.repeat(k[..., :6], 2, 1), **m)
    with pytest.raises(ValueError, match=r"latent\.cost: rotary must be at most the width D = 8"):
        latent.cost(1, 1, 5, 5, 8, rotary=9)
