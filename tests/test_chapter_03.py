"""Chapter 03: the examples of its prompts, and what its prose says of the model that ships."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_exercises import answer, exercise

from attncourse import model

ROOT = Path(__file__).parent.parent


def result(exercise_id, *arguments):
    return answer(exercise(exercise_id))(*arguments)


def test_the_examples_in_the_prompts_are_right():
    np.testing.assert_allclose(
        result("03.1", np.array([0, 1]), 2), [[0, 1], [0.841, 0.540]], atol=5e-4
    )
    assert result("03.V11", np.array([-9, -1, 0, 1, 9]), 8, 16).tolist() == [3, 1, 0, 5, 7]
    turned = result("03.4", np.array([[1.0, 0.0]]), np.array([1]), 10_000.0)
    np.testing.assert_allclose(turned, [[0.540, 0.841]], atol=5e-4)
    first = np.eye(3)[[0, 0, 0]]
    np.testing.assert_allclose(result("03.V13", first[None]), [[1 / 3, 1 / 3, 1]])
    looks_at_1 = np.zeros((1, 3, 3))
    looks_at_1[0, 2, 1] = 1
    assert result("03.5", np.array([7, 8, 7]), looks_at_1).tolist() == [1]
    assert result("03.6", first, 0, 0.9) == 2
    assert result("03.6", first, 1, 0.9) == 0


@pytest.fixture(scope="module")
def small():
    return model.load()


@pytest.fixture(scope="module")
def unseen(small):
    return np.concatenate([small.encode(text) for text in model.held_out()])


def test_the_model_has_heads_of_the_kinds_that_the_chapter_looks_for(small, unseen):
    habits = model.habits(small, model.page())
    assert (habits["spread"][0] > 100).all()  # the layer that looks at everything
    always = (habits["there"] > 0.5) & (habits["distance"] > 0)
    assert always.sum() == 2
    assert habits["distance"][always].min() == 1
    assert (model.induction(small, unseen, rows=2) > 0.3).sum() >= 1


def test_the_widest_layer_needs_its_width_least_and_pairs_copy(small, unseen):
    loss = small.loss(unseen[:1025])
    narrow = [small.swap("window", window=16, layers=i).loss(unseen[:1025]) / loss for i in (0, 2)]
    assert narrow[0] < 1.03 < narrow[1]
    habits = model.habits(small, model.page())
    one_back = np.unravel_index(np.argmax(habits["there"] * (habits["distance"] == 1)), (4, 4))
    before, after = (
        model.induction(one, unseen, rows=2).max() for one in (small, small.without(one_back))
    )
    assert after < 0.1 * before


def test_a_longer_text_than_was_trained_hurts_and_a_window_does_not(small, unseen):
    window = small.swap("window", window=256)
    for one, worse in ((small, True), (window, False)):
        losses = [
            one.row_losses(unseen[None, 8000 - n : 8128])[0, -128:].mean() for n in (384, 896)
        ]
        assert (losses[1] > losses[0] + 0.3) == worse


def test_the_training_without_repeats_is_what_the_chapter_says():
    def log(name):
        return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))

    shipped, without = log("model.json"), log("model-without-repeats.json")
    assert without["settings"] == shipped["settings"] | {"repeats": 0.0}
    formed = []
    for training in (shipped, without):
        assert np.max(training["log"][-1]["induction"]) > 0.4
        best = [np.max(row["induction"]) for row in training["log"]]
        formed.append(training["log"][int(np.argmax(np.array(best) > 0.2))]["step"])
    assert abs(formed[0] - formed[1]) <= 200
    gains = [
        run["log"][-1]["first_pass"] - run["log"][-1]["second_pass"] for run in (shipped, without)
    ]
    assert gains[0] > gains[1] > 2  # better at copying, not possible
    assert shipped["log"][-1]["held_out"] > without["log"][-1]["held_out"]
