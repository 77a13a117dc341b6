import itertools

import covering
import pytest
from covering import is_night, pairwise, product

AXES = [
    {"sizes": range(7), "knobs": range(3), "causal": (False, True)},
    {"sizes": "abcd", "dtype": (16, 32), "knobs": range(3), "causal": (False, True)},
    {"sizes": range(7), "knobs": range(3), "causal": (False,)},
    {"one": range(3), "two": range(2)},
    {"only": range(5)},
    {"sizes": range(7), "none": ()},
]


def pairs(rows):
    return {pair for row in rows for pair in itertools.combinations(row.items(), 2)}


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_every_two_values_meet(axes, monkeypatch):
    monkeypatch.setattr(covering, "NIGHTLY", False)
    rows = pairwise(**axes)
    assert pairs(rows) == pairs(product(**axes))
    assert {value for row in rows for value in row.items()} == {
        value for row in product(**axes) for value in row.items()
    }
    assert len({tuple(row.items()) for row in rows}) == len(rows)
    assert rows == pairwise(**axes)


def test_they_are_few(monkeypatch):
    monkeypatch.setattr(covering, "NIGHTLY", False)
    assert len(pairwise(**AXES[0])) == 7 * 3  # no two axes need more
    assert len(pairwise(**AXES[1])) <= 4 * 3 + 2
    many = {letter: range(3) for letter in "abcdef"}
    assert len(pairwise(**many)) <= 18 < 3**6


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_at_night_all_combinations_are_tried(axes, monkeypatch):
    monkeypatch.setattr(covering, "NIGHTLY", True)
    assert pairwise(**axes) == product(**axes)


@pytest.mark.parametrize(
    ("markers", "night"),
    [
        ("not nightly", False),
        ("", True),
        ("nightly", True),
        ("nightly or not nightly", True),
        ("gpu", False),
        ("gpu and not nightly", False),
    ],
)
def test_a_night_is_a_run_that_lets_nightly_tests_in(markers, night):
    assert is_night(markers) == night
