import numpy as np
import pytest

from attncourse import graph
from attncourse.claims.finders import content, sparse
from attncourse.inputs import random_qkv
from attncourse.reference import lsh, window


@pytest.mark.parametrize("dilations", [[1], [1, 1, 2, 2, 4], [1, 2, 4, 8, 16]])
def test_reaches_add_up_as_in_real_masks(dilations):
    n, radius = 257, 8
    layers = sparse._layers(n, dilations, radius)
    plan = [dilations[min(layer, len(dilations) - 1)] for layer in range(layers)]
    after = graph.reach_through([window.mask(n, n, window=radius, dilation=d) for d in plan])
    assert after[-1].all() and not after[-2].all()


def test_the_exercise_counts_each_pair_of_its_mask_once():
    rows, pairs = sparse._exercise()
    n, r, g = 4096, 64, 32
    assert rows == 1561600
    assert pairs == g * n + (n - g) * (g + r) + window.count(n - g, n - g, window=128)


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_keys_seen_are_those_of_own_and_next_bucket(common):
    n = 512
    _, k, v = (array[0, 0] for array in random_qkv(n))
    rotations = lsh.draw_rotations(64, n_buckets=content.BUCKETS, n_rounds=1)
    bucket = lsh.hash_vectors(k + common * v[0], rotations)[0]
    ahead = (bucket - bucket[:, None]) % content.BUCKETS
    assert content._seen(n, common) == pytest.approx((ahead <= 1).sum() / n)


def test_pairs_of_vectors_have_their_cosine():
    x, y = content._pair(0.8)
    assert np.linalg.norm(x) == np.linalg.norm(y) == pytest.approx(1)
    assert (x @ y.T).item() == pytest.approx(0.8)


def test_the_released_bigbird_has_these_blocks_and_one_plan_for_each_head(monkeypatch):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers.models.big_bird import modeling_big_bird

    config = transformers.BigBirdConfig()
    assert (config.block_size, config.num_random_blocks) == (64, 3)

    small = transformers.BigBirdConfig(hidden_size=24, num_attention_heads=12)
    layer = modeling_big_bird.BigBirdBlockSparseAttention(small).train()
    draw, drawn = layer._bigbird_block_rand_mask, []
    monkeypatch.setattr(
        layer,
        "_bigbird_block_rand_mask",
        lambda *args, **kwargs: drawn.append(draw(*args, **kwargs)) or drawn[-1],
    )
    n = 1024
    make = modeling_big_bird.BigBirdModel.create_masks_for_block_sparse_attn
    blocked, band, rows, columns = make(torch.ones(1, n), 64)
    layer(
        torch.randn(1, n, 24),
        band_mask=band,
        from_mask=rows,
        to_mask=columns,
        from_blocked_mask=blocked,
        to_blocked_mask=blocked,
    )
    assert len(drawn) == 12
    assert all(not np.array_equal(drawn[0], other) for other in drawn[1:])
