"""LSH attention against its own definition, the paper's formula and transformers' Reformer.

transformers draws its rotations per head, ours serve all heads; it adds a rounding guard of 1e-6
where it scales keys to length 1; its hidden scores are -1e9 and, for a token itself, -1e5. With
several rounds it chains them into one ring and counts a pair once for each round that finds it,
where the paper and we count it once: so hashes are compared for several rounds, attention for one.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, lsh


def found_in_round(q, k, rotation, chunk):
    """The definition for one head and one round, by sorting tuples; sets of keys per query."""
    n_queries, n_keys = len(q), len(k)

    def bucket(x):
        along = [float(x @ direction) for direction in rotation.T]
        both = along + [-a for a in along]
        return both.index(max(both))

    keys = sorted((bucket(k[j]), j) for j in range(n_keys))
    queries = sorted((bucket(q[i]), i + n_keys - n_queries) for i in range(n_queries))
    rows = math.ceil(chunk * n_queries / n_keys)
    sets = [set() for _ in range(n_queries)]
    for first in range(0, n_queries, rows):
        place = sum(key < queries[first] for key in keys)
        seen = {keys[(place - chunk + s) % n_keys][1] for s in range(min(2 * chunk, n_keys))}
        for _, position in queries[first : first + rows]:
            sets[position - n_keys + n_queries] = seen
    return sets


def rounds_of(q, k, knobs, causal=False, exclude_self=False):
    """Per round, per query: the keys found and not hidden."""
    rotations = lsh.draw_rotations(
        q.shape[-1], n_buckets=knobs["n_buckets"], n_rounds=knobs["n_rounds"], seed=knobs["seed"]
    )
    ahead = len(k) - len(q)
    for rotation in rotations:
        yield [
            {
                j
                for j in keys
                if not (causal and j > i + ahead) and not (exclude_self and j == i + ahead)
            }
            for i, keys in enumerate(found_in_round(q, k, rotation, knobs["chunk"]))
        ]


@given(
    n_queries=st.integers(1, 40),
    n_keys=st.integers(1, 40),
    half_buckets=st.integers(1, 6),
    n_rounds=st.integers(1, 3),
    chunk=st.integers(1, 24),
    seed=st.integers(0, 50),
    causal=st.booleans(),
    exclude_self=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_is_full_attention_to_the_keys_of_the_definition(
    n_queries, n_keys, half_buckets, n_rounds, chunk, seed, causal, exclude_self
):
    q, k, v = random_qkv(n_queries, n_keys, width=5, value_width=3, dtype=np.float64, seed=seed)
    knobs = {"n_buckets": 2 * half_buckets, "n_rounds": n_rounds, "chunk": chunk, "seed": seed}
    rules = {"causal": causal, "exclude_self": exclude_self}
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for sets in rounds_of(q[0, 0], k[0, 0], knobs, **rules):
        for i, keys in enumerate(sets):
            mask[i, list(keys)] = True
    for i in np.flatnonzero(~mask.any(axis=1)):
        if i + n_keys - n_queries >= 0:
            mask[i, i + n_keys - n_queries] = True
    assert np.array_equal(lsh.found(q, k, **knobs, **rules)[0, 0], mask)
    out = lsh.attention(q, k, v, **knobs, **rules)
    np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_rounds_are_combined_as_in_the_paper():
    """Each round is a softmax of its own with log N subtracted, N the rounds that find a pair."""
    q, k, v = random_qkv(30, width=6, dtype=np.float64)
    knobs = {"n_buckets": 6, "n_rounds": 4, "chunk": 4, "seed": 3}
    rounds = list(rounds_of(q[0, 0], k[0, 0], knobs))
    assert max(sum(17 in sets[i] for sets in rounds) for i in range(30)) > 1  # pairs do repeat
    expected = np.zeros((30, 6))
    for i in range(30):
        parts = []
        for sets in rounds:
            keys = sorted(sets[i])
            times = np.array([sum(j in other[i] for other in rounds) for j in keys])
            terms = np.exp(k[0, 0, keys] @ q[0, 0, i] / np.sqrt(6) - np.log(times))
            parts.append((np.log(terms.sum()), terms / terms.sum() @ v[0, 0, keys]))
        together = np.logaddexp.reduce([z for z, _ in parts])
        expected[i] = sum(np.exp(z - together) * part for z, part in parts)
    np.testing.assert_allclose(lsh.attention(q, k, v, **knobs)[0, 0], expected, atol=1e-12)


def test_a_round_that_finds_nothing_new_changes_nothing(monkeypatch):
    q, k, v = random_qkv(50, heads=2, width=8, dtype=np.float64)
    knobs = {"n_buckets": 8, "chunk": 5, "causal": True}
    once = lsh.attention(q, k, v, n_rounds=1, **knobs)
    draw = lsh.draw_rotations
    monkeypatch.setattr(lsh, "draw_rotations", lambda *a, **b: np.repeat(draw(*a, **b)[:1], 3, 0))
    np.testing.assert_allclose(lsh.attention(q, k, v, n_rounds=3, **knobs), once, atol=1e-15)


def reformer(n_hashes, rotations, monkeypatch, *, causal=False):
    """transformers' LSHSelfAttention with our rotations: 2 heads of width 8, chunks of 8."""
    import torch
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=16, num_attention_heads=2, attention_head_size=8, num_buckets=6,
        num_hashes=n_hashes, lsh_attn_chunk_length=8, is_decoder=causal, hash_seed=0,
    )  # fmt: skip
    torch.manual_seed(1)
    layer = LSHSelfAttention(config).double().eval()
    theirs = torch.from_numpy(np.stack([np.moveaxis(rotations, 0, 1)] * 2))
    monkeypatch.setattr(torch, "randn", lambda shape, **_: theirs.reshape(shape).clone())
    return layer


def test_transformers_hashes_alike(monkeypatch):
    import torch

    rotations = lsh.draw_rotations(8, n_buckets=6, n_rounds=3, seed=4)
    layer = reformer(3, rotations, monkeypatch)
    x = random_qkv(40, heads=2, width=8, dtype=np.float64)[0]
    theirs = layer._hash_vectors(torch.from_numpy(x), 3, None).reshape(1, 2, 3, 40).numpy()
    mine = np.moveaxis(lsh.hash_vectors(x, rotations), 0, 2)
    assert np.array_equal(theirs - 6 * np.arange(3)[:, None], mine)


@pytest.mark.parametrize("causal", [False, True])
def test_transformers_attends_alike_in_one_round(monkeypatch, causal):
    import torch

    layer = reformer(
        1, lsh.draw_rotations(8, n_buckets=6, n_rounds=1, seed=4), monkeypatch, causal=causal
    )
    hidden = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 40, 16)))
    with torch.no_grad():
        theirs = layer(hidden).hidden_states.numpy()
        q, v = (
            part(hidden).reshape(2, 40, 2, 8).transpose(1, 2).numpy()
            for part in (layer.query_key, layer.value)
        )
    out = lsh.attention(
        q, lsh.unit_keys(q), v, n_buckets=6, n_rounds=1, chunk=8, seed=4,
        exclude_self=True, causal=causal, scale=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(out.swapaxes(1, 2).reshape(2, 40, 16), theirs, atol=5e-6)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_one_chunk_of_everything_is_full_attention(exclude_self, causal):
    """With the self rule: full attention without the diagonal, but the first token sees itself."""
    q, k, v = random_qkv(37, heads=2, width=8, dtype=np.float64)
    mask = full.mask(37, 37, causal=causal) & ~(np.eye(37, dtype=bool) & exclude_self)
    mask[0, 0] |= causal
    for chunk in (19, 37, 500):  # two chunks of 19 hold 37 keys
        out = lsh.attention(
            q, k, v, n_buckets=10, n_rounds=2, chunk=chunk, exclude_self=exclude_self, causal=causal
        )
        np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def test_hashes_are_the_argmax_of_directions_and_their_opposites():
    x = random_qkv(300, heads=2, width=8, dtype=np.float64)[0]
    rotations = lsh.draw_rotations(8, n_buckets=10, n_rounds=3, seed=7)
    buckets = lsh.hash_vectors(x, rotations)
    both = np.concatenate([rotations, -rotations], axis=-1)
    assert np.array_equal(buckets, np.einsum("bhtd,rdn->rbhtn", x, both).argmax(axis=-1))
    assert np.array_equal(lsh.hash_vectors(3.7 * x, rotations), buckets)  # length does not count
    assert np.array_equal(lsh.hash_vectors(-x, rotations), (buckets + 5) % 10)
    more = lsh.draw_rotations(8, n_buckets=10, n_rounds=5, seed=7)
    assert np.array_equal(more[:3], rotations)
    sizes = lsh.bucket_sizes(buckets, 10)
    assert sizes.shape == (3, 1, 2, 10) and np.all(sizes.sum(axis=-1) == 300)
    assert sizes[2, 0, 1, 4] == (buckets[2, 0, 1] == 4).sum()


def test_two_buckets_collide_with_probability_1_minus_the_angle_over_pi():
    angles = np.array([0.0, 0.3, 1.0, math.pi / 2, 2.5, 3.0])
    x = np.tile([1.0, 0.0], (6, 1))
    y = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    rounds = 20_000
    rate = lsh.collision_rate(x, y, lsh.draw_rotations(2, n_buckets=2, n_rounds=rounds))
    expected = 1 - angles / math.pi
    assert np.all(np.abs(rate - expected) <= 5 * np.sqrt(expected * (1 - expected) / rounds))
    finer = lsh.collision_rate(x, y, lsh.draw_rotations(2, n_buckets=8, n_rounds=2000))
    assert np.all(np.diff(finer) <= 0.02) and finer[0] == 1  # the closer, the likelier


def clustered(n, clusters, seed=0):
    generator = np.random.default_rng(seed)
    centres = 3 * generator.standard_normal((clusters, 16))
    return centres[generator.integers(clusters, size=n)] + generator.standard_normal((n, 16))


def test_more_rounds_find_more_and_similar_tokens_are_found_first():
    q = clustered(256, 8)
    k = lsh.unit_keys(q)
    weights = full.weights(q, k, scale=4.0)
    masks = [lsh.found(q, k, n_buckets=8, n_rounds=r, chunk=16, seed=1) for r in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(masks):
        assert np.all(more | ~fewer)
    mass = [(weights * mask).sum(axis=-1).mean() for mask in masks]
    share = [mask.mean() for mask in masks]
    assert share[0] == 32 / 256
    assert mass[0] > 2 * share[0] and mass[-1] > 0.9


def test_work_is_fixed_however_uneven_the_buckets_are():
    knobs = {"n_buckets": 16, "n_rounds": 2, "chunk": 8}
    even, _, v = random_qkv(100, width=16, dtype=np.float64)
    skewed = even + 10  # all point nearly the same way
    for q in (even, skewed):
        flops = measure.count_flops(lsh.attention, q, q, v, **knobs)
        assert flops == lsh.cost(1, 1, 100, 100, 16, **knobs).flops
        assert np.all(lsh.found(q, q, **(knobs | {"n_rounds": 1})).sum(axis=-1) == 16)


def test_causal_queries_never_see_the_future_but_it_may_choose_for_them():
    q, k, v = random_qkv(60, width=8, dtype=np.float64)
    knobs = {"n_buckets": 8, "n_rounds": 1, "chunk": 4, "causal": True}
    before, chosen = lsh.attention(q, k, v, **knobs), lsh.found(q, k, **knobs)
    assert not np.any(chosen & ~full.mask(60, 60, causal=True))
    scaled = k.copy()
    scaled[..., 40:, :] *= 5  # other keys, the same hashes
    after = lsh.attention(q, scaled, v, **knobs)
    assert np.array_equal(before[..., :40, :], after[..., :40, :])
    turned = k.copy()
    turned[..., 40:, :] *= -1  # other hashes: chunks begin elsewhere, for earlier queries too
    assert np.any(lsh.found(q, turned, **knobs)[..., :40, :] != chosen[..., :40, :])


def test_a_token_that_finds_nobody_keeps_its_own_value():
    q, _, v = random_qkv(6, width=4, dtype=np.float64)
    k = lsh.unit_keys(q)
    out = lsh.attention(q, k, v, n_buckets=2, n_rounds=1, chunk=6, exclude_self=True, causal=True)
    np.testing.assert_allclose(out[..., 0, :], v[..., 0, :])
    alone = lsh.attention(
        *(x[..., :1, :] for x in (q, k, v)), n_buckets=2, n_rounds=3, chunk=1, exclude_self=True
    )
    np.testing.assert_allclose(alone, v[..., :1, :])


def test_unit_keys_have_length_1_and_the_hashes_of_their_queries():
    q = random_qkv(50, width=8, dtype=np.float64)[0]
    q[..., 3, :] = 0
    k = lsh.unit_keys(q)
    np.testing.assert_allclose(np.linalg.norm(np.delete(k, 3, axis=-2), axis=-1), 1)
    assert np.all(k[..., 3, :] == 0)
    rotations = lsh.draw_rotations(8, n_buckets=6, n_rounds=4)
    assert np.array_equal(lsh.hash_vectors(q, rotations), lsh.hash_vectors(k, rotations))
    assert lsh.unit_keys(q.astype(np.float16)).dtype == np.float16


def test_the_seed_decides_and_heads_share_their_hashes():
    q, k, v = (np.repeat(x, 2, axis=1) for x in random_qkv(80, width=8))
    knobs = {"n_buckets": 8, "n_rounds": 1, "chunk": 4}
    out = lsh.attention(q, k, v, **knobs)
    assert np.array_equal(out, lsh.attention(q, k, v, **knobs))
    assert np.array_equal(out[:, 0], out[:, 1])
    assert not np.allclose(out, lsh.attention(q, k, v, seed=1, **knobs))


def test_permuted_tokens_give_permuted_results_where_chunks_reach_everybody():
    q, k, v = random_qkv(30, width=8, dtype=np.float64)
    order = np.random.default_rng(0).permutation(30)
    knobs = {"n_buckets": 8, "n_rounds": 2, "chunk": 15}
    out = lsh.attention(q, k, v, **knobs)
    permuted = lsh.attention(*(x[..., order, :] for x in (q, k, v)), **knobs)
    np.testing.assert_allclose(permuted, out[..., order, :], atol=1e-12)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a, k: lsh.attention(*a, **(k | {"n_buckets": 7})), "n_buckets must be even, got 7"),
        (lambda a, k: lsh.attention(*a, **k, seed=-1), "seed must be at least 0, got -1"),
        (lambda a, k: lsh.found(*a[:2], **(k | {"chunk": 0})), "chunk must be at least 1, got 0"),
        (lambda a, k: lsh.cost(1, 1, 8, 8, 4, **(k | {"n_rounds": 0})), "n_rounds must be at le"),
        (lambda a, k: lsh.draw_rotations(4, n_buckets=3, n_rounds=1), "n_buckets must be even"),
    ],
)
def test_bad_knobs_are_refused(function, words):
    with pytest.raises(ValueError, match=rf"(lsh|hashing)\.\w+: {words}"):
        function(random_qkv(8, width=4), {"n_buckets": 4, "n_rounds": 1, "chunk": 2})
