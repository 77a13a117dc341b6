"""Probes: what full attention answers, what a mechanism cannot, and why."""

from types import SimpleNamespace

import numpy as np
import pytest

from attncourse.model import probes
from attncourse.model.attention import Attention
from attncourse.softmax import softmax

SMALL = {"n": 64, "width": 32}
ASKED = {
    "recall": lambda attend: probes.recall(attend, ask=16, **SMALL),
    "near duplicates": lambda attend: probes.near_duplicates(attend, ask=16, **SMALL),
    "needle": lambda attend: probes.needle(attend, **SMALL),
    "two needles": lambda attend: probes.two_needles(attend, **SMALL),
    "majority": lambda attend: probes.majority(attend, **SMALL),
}


def blind(q, k, v):
    return np.zeros_like(v)


def average(q, k, v):
    return v.cumsum(axis=-2) / np.arange(1, v.shape[-2] + 1, dtype=v.dtype)[:, None]


@pytest.mark.parametrize("name", ASKED)
def test_full_attention_answers_and_who_sees_nothing_guesses(name):
    assert ASKED[name](Attention.of("full")) == 1
    assert ASKED[name](blind) <= 0.2


def test_the_same_seed_asks_the_same():
    asked = [probes.recall(Attention.of("pooled", pool=2), ask=20, seed=s, n=64) for s in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize("window", [0, 9])
def test_a_window_finds_a_needle_within_its_reach_and_no_other(window):
    attend = Attention.of("window", window=window)
    n = 64
    found = [probes.needle(attend, place / (n - 2), n=n, draws=4) for place in range(n - 1)]
    within = n - 1 - np.arange(n - 1) <= window
    np.testing.assert_array_equal(np.round(found), within)


def test_a_second_needle_is_lost_with_the_first():
    near, far = 0.9, 0.3
    attend = Attention.of("window", window=20)
    assert probes.needle(attend, near, **SMALL) == 1
    assert probes.two_needles(attend, (near, 1.0), **SMALL) == 1
    assert probes.two_needles(attend, (far, near), **SMALL) < 0.2
    assert probes.two_needles(attend, (near, far), **SMALL) < 0.2


def test_who_averages_counts_votes_and_who_copies_does_not():
    best = Attention.of("topk", keep=1)
    assert probes.majority(average, **SMALL) == 1 > probes.majority(best, draws=64, n=64)
    assert probes.recall(best, ask=16, **SMALL) == 1 > probes.recall(average, ask=16, **SMALL)
    assert 0.4 < probes.majority(best, share=0.6, n=64, draws=64) < 0.8


def test_keys_of_a_family_agree_as_asked():
    seen = []

    def spy(q, k, v):
        seen.append(k)
        return v

    probes.near_duplicates(spy, likeness=0.8, family=4, ask=8, **SMALL)
    keys = seen[0] / np.linalg.norm(seen[0], axis=-1, keepdims=True)
    cosines = np.sort(keys @ keys.swapaxes(-1, -2), axis=-1)
    assert cosines[..., -4:-1].mean() == pytest.approx(0.8, abs=0.05)
    assert np.abs(cosines[..., :-8]).mean() < 0.2


def test_a_question_is_a_key_whose_score_stands_out():
    seen = []

    def spy(q, k, v):
        seen.append(softmax(q @ k.swapaxes(-1, -2) / 32**0.5))
        return v

    probes.recall(spy, ask=8, **SMALL)
    assert (seen[0][:, -8:].max(axis=-1) > 0.9).all()


def test_run_names_all():
    found = probes.run(Attention.of("window", window=64), n=128, width=32)
    assert [*found][:5] == ["recall", "near duplicates", "needle", "two needles", "majority"]
    assert found["needle at 0%"] == 0 and found["needle at 100%"] == 1
    assert found["needle"] == pytest.approx(
        np.mean([found[f"needle at {d}%"] for d in range(0, 101, 25)])
    )


def test_quotes_are_stretches_of_the_first_third_and_count_from_where_they_are_known():
    reader = SimpleNamespace(encode=np.asarray, row_losses=lambda rows: rows[:, 1:] * 1.0)
    text, sizes = np.arange(36), {"n": 36, "quotes": 3, "size": 4, "given": 1}
    page, asked = probes.quoted(reader, text, **sizes)
    assert page == np.arange(1, 36).mean()
    assert asked == np.mean([i for i in range(12) if i % 4])
    with pytest.raises(ValueError, match="4 quotes of 4 tokens, 1 of them given"):
        probes.quoted(reader, text, **sizes | {"quotes": 4})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: probes.recall(blind, n=10, ask=6), "ask must be at most half of n = 10, got 6"),
        (lambda: probes.recall(blind, n=0), "n must be at least 2"),
        (lambda: probes.needle(blind, 1.5), r"depth must be in 0 \.\.\. 1, got 1.5"),
        (lambda: probes.needle(blind, float("nan")), "got nan"),
        (lambda: probes.two_needles(blind, (0.5, 0.5)), "depths must be of two tokens"),
        (lambda: probes.near_duplicates(blind, likeness=1.0), "likeness must be in"),
        (lambda: probes.majority(blind, share=0.5), "share must be above 0.5"),
    ],
)
def test_what_cannot_be_asked_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call()
