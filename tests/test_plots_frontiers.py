"""Quality against bytes: who is beaten, and what is drawn."""

import numpy as np
import pytest

from attncourse import plots
from attncourse.plots import Gained


def test_who_is_as_good_with_fewer_bytes_or_better_with_as_many_is_unbeaten():
    points = {
        "cheap": Gained("a", 1, 0.2),
        "beaten": Gained("a", 2, 0.1),
        "middle": Gained("b", 2, 0.5),
        "its twin": Gained("b", 2, 0.5),
        "dear": Gained("b", 9, 0.5),
        "best": Gained("b", 10, 0.9),
    }
    assert plots.unbeaten(points, high=True) == ["cheap", "middle", "its twin", "best"]
    assert plots.unbeaten(points, high=False) == ["cheap", "beaten"]


def test_who_beats_a_method_is_the_best_that_holds_no_more():
    points = {
        "mine": Gained("a", 4, 0.5),
        "less": Gained("a", 2, 0.5),
        "best": Gained("b", 3, 0.9),
        "as good, later": Gained("b", 4, 0.9),
        "dearer": Gained("b", 5, 1.0),
    }
    assert plots.beaten_by("mine", points, points, high=True) == "best"
    assert plots.beaten_by("mine", points, ["less", "dearer"], high=True) == "less"
    assert plots.beaten_by("mine", points, ["less"], high=False) == "less"
    assert plots.beaten_by("mine", points, ["best", "dearer"], high=False) is None
    assert plots.beaten_by("less", points, points, high=True) is None


def test_after_tuning_the_mean_over_the_seeds_counts():
    tuned = Gained("a", 1, 5.0, [1.0, 2.0, 3.0])
    assert tuned.middle == 2.0
    assert plots.unbeaten({"tuned": tuned, "not": Gained("a", 1, 2.5)}, high=False) == ["tuned"]


def test_update_shows_other_points_under_their_names():
    live = plots.LiveFrontier({"one": Gained("a", 64, 1.0)}, y_label="nats", high=False)
    points = {"two": Gained("a", 64, 2.0, [1.0, 1.5]), "three": Gained("b", 640, 3.0)}
    live.update(points, y_label="share", high=True, title="n = 512")
    said = {text.get_text() for text in live.ax.texts} - {""}
    assert said == {"two", "three"}
    assert live.ax.get_ylabel() == "share"
    low, high = live.ax.get_ylim()
    assert low < 1.0 and high > 3.0


def test_where_points_are_many_some_are_named():
    points = {name: Gained("a", 64, y) for y, name in enumerate(("one", "two", "three"))}
    live = plots.LiveFrontier(points, y_label="nats", high=False)
    live.update(points, y_label="nats", high=False, named=["two"])
    assert {text.get_text() for text in live.ax.texts} - {""} == {"two"}
    assert sum([*line.get_xdata()] == [64] for line in live.ax.lines) == 3
    live.update(points, y_label="nats", high=False, named=[])
    assert not any(text.get_text() for text in live.ax.texts)


@pytest.mark.parametrize("n_bytes", [64, 10_000])
def test_the_stairs_pass_through_those_that_nobody_beats(n_bytes):
    points = {"one": Gained("a", 64, 1.0), "two": Gained("a", n_bytes, 2.0)}
    live = plots.LiveFrontier(points, y_label="", high=True)
    stairs = next(line for line in live.ax.lines if line.get_drawstyle() == "steps-post")
    best = [(one.n_bytes, one.before) for one in map(points.get, plots.unbeaten(points, high=True))]
    np.testing.assert_array_equal(np.stack(stairs.get_data(), axis=1)[:-1], best)


def test_names_of_a_crowded_column_keep_its_order_and_stay_beside_it():
    points = {"far": Gained("a", 1, 9.0)}
    points |= {str(place): Gained("a", 64, 0.01 * place) for place in range(6)}
    live = plots.LiveFrontier(points, y_label="", high=True)
    live.figure.draw_without_rendering()
    heights = [text.xyann[1] for text in live.ax.texts if text.get_text() in "012345"]
    gaps = np.diff(heights)
    assert (gaps > 0).all() and gaps.max() == pytest.approx(gaps.min())
    assert heights[0] < 0.06 and heights[-1] < 0.3
