import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import attncourse
from attncourse.claims import printed_features
from attncourse.inputs import check_count, random_qkv, stream
from attncourse.reference import lsh, performer, relative, scoring, t5


def test_shapes_dtype_and_seed():
    q, k, v = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, dtype=np.float16)
    assert (q.shape, k.shape, v.shape) == ((4, 2, 3, 6), (4, 2, 5, 6), (4, 2, 5, 7))
    assert q.dtype == k.dtype == v.dtype == np.float16
    again, _, _ = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, dtype=np.float16)
    other, _, _ = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, seed=1)
    assert np.array_equal(q, again) and not np.array_equal(q, other)


def test_numpy_integers_count():
    assert check_count("here", "window", np.int32(4)) == 4


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.bool_(True), [1]])
def test_what_is_no_integer_is_named(value):
    with pytest.raises(TypeError, match="here: window must be an integer, got"):
        check_count("here", "window", value)


def test_the_bound_is_named():
    with pytest.raises(ValueError, match=r"window\.attention: window must be at least 0, got -3"):
        check_count("window.attention", "window", -3)


def drawn(purpose, seed):
    """The numbers that are drawn for a purpose, flat."""
    if purpose == "performer":
        return performer.draw_features(256, 64, orthogonal=False, seed=seed).ravel()
    if purpose == "lsh":
        return lsh.draw_rotations(64, n_buckets=32, n_rounds=16, seed=seed).ravel()
    if purpose == "printed features":
        return printed_features.draw_features(256, 64, seed=seed).ravel()
    if purpose == "relative":
        return np.concatenate([table.ravel() for table in relative.random_tables(64, 64, 64)])
    if purpose == "t5":
        return t5.random_table(64, 64, seed=seed).ravel()
    return scoring.random_parameters(64, 64, seed=seed)[0].ravel()


PURPOSES = ("performer", "lsh", "printed features", "relative", "t5", "scoring")


def test_what_is_drawn_at_one_seed_is_unlike_for_two_purposes():
    numbers = {"random_qkv": random_qkv(64)[0].ravel(), **{p: drawn(p, 0) for p in PURPOSES}}
    for (one, a), (other, b) in itertools.combinations(numbers.items(), 2):
        n = min(len(a), len(b))
        assert abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 5 / np.sqrt(n), (one, other)


def test_directions_are_no_queries():
    q = random_qkv(512)[0][0, 0]
    directions = performer.draw_features(256, 64, orthogonal=False)
    cosines = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ directions.T
    cosines /= np.linalg.norm(directions, axis=1)
    assert np.abs(cosines).max() < 0.7  # 131,072 random ones reach 0.6; a copy has 1


def test_parts_are_drawn_on_their_own():
    draws = [stream("a", 0), stream("a", 1), stream("a", 0, 0), stream("a", 0, 1), stream("b", 0)]
    assert len({generator.integers(2**62) for generator in draws}) == len(draws)
    assert stream("a", 3, 1).integers(2**62) == stream("a", 3, 1).integers(2**62)


def test_nothing_else_makes_generators():
    """A second `default_rng(seed)` would draw the numbers of `random_qkv` once more."""
    package = Path(attncourse.__file__).parent
    making = re.compile(r"default_rng\(|PCG64\(|SeedSequence\(|RandomState\(")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if making.search(path.read_text(encoding="utf-8"))
    }
    # a grader's cases are a learner's input; one claim is about a seed that two draws share
    graders = {"grading/judging.py", "grading/quality.py", "grading/spec.py"}
    assert found == {"inputs.py", "claims/finders/performer.py"} | graders
