import numpy as np
import pytest

from attncourse import claims
from attncourse.claims.finders import measuring, performer, quality
from attncourse.inputs import random_qkv
from attncourse.reference import full, window


@pytest.mark.parametrize("lag", [16, 64, 256])
def test_the_plateau_begins_where_the_symbols_repeat(lag):
    assert quality._first_flat(lag) == lag


def test_a_needle_nearby_is_in_the_window_and_one_far_away_is_not():
    for kind, inside in (("a needle nearby", True), ("a needle far away", False)):
        q, k, _ = quality._data(kind)
        best = full.weights(q, k)[0, 0].argmax(axis=1)
        seen = window.mask(1024, 1024, window=128)[np.arange(1024), best]
        assert (seen.mean() > 0.95) if inside else (seen.mean() < 0.05)


def test_tiles_that_are_full_are_used_and_a_diagonal_uses_one_row_of_each():
    assert measuring._tiles_used(np.ones((64, 64), bool), 16) == 1
    assert measuring._tiles_used(np.eye(64, dtype=bool), 16) == 1 / 16


@pytest.mark.parametrize(("id", "words"), [("C140", "2-5 % lost"), ("C141", "2-4 % lost")])
def test_losses_are_what_the_kept_accuracy_leaves(id, words):
    assert claims.found(id).value.endswith(words)


def test_the_table_of_chapter_e_comes_out_as_its_own_code_gives_it():
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(array[0, 0]) for array in random_qkv(512))
    exact = torch.softmax(q @ k.T / 8, dim=-1) @ v
    errors, cosines = [], []
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        omega = torch.randn(64, 256, generator=draw) / 8
        phi_q, phi_k = (torch.exp(x @ omega) / 16 for x in (q, k))
        out = phi_q @ (phi_k.T @ v) / (phi_q @ phi_k.sum(0, keepdim=True).T + 1e-6)
        errors.append(float(((out - exact) ** 2).mean()))
        flat = (out.flatten(), exact.flatten())
        cosines.append(float(torch.nn.functional.cosine_similarity(*flat, dim=0)))
    at = performer.COUNTS.index(256)
    assert performer._table()["mse"][0, at] == pytest.approx(np.mean(errors), rel=0.05)
    assert performer._table()["cosine"][0, at] == pytest.approx(np.mean(cosines), rel=0.05)
