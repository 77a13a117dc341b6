"""Pictures of random averages, and of a product whose brackets move."""

import numpy as np
import pytest

from attncourse import plots


def test_the_moved_bell_is_what_exp_makes_of_the_other():
    live = plots.LiveDraws(1.0, np.array([0.5, -1.0]))
    live.update(2.0, np.array([0.25, 1.0, -0.5]), "three draws")
    bell = np.exp(-np.square(live.w) / 2) / np.sqrt(2 * np.pi)
    product = np.exp(2 * live.w) * bell
    np.testing.assert_allclose(live.moved.get_ydata() * np.exp(2.0), product, rtol=1e-9)
    ticks = live.ticks.get_segments()
    assert [tick[0][0] for tick in ticks] == [0.25, 1.0, -0.5]
    assert live.ax.get_title(loc="left") == "three draws"


def test_a_band_holds_all_seeds_beside_the_formula():
    x, rows = [1, 2, 4], np.array([[1.0, 2.0, 8.0], [3.0, 4.0, 32.0]])
    ax = plots.bands(x, {"ours": rows}, {"ours": [2, 3, 20]}, x_label="m", y_label="error")
    mean, formula = ax.get_lines()[:2]
    np.testing.assert_allclose(mean.get_ydata(), [2, 3, 20])
    np.testing.assert_allclose(formula.get_ydata(), [2, 3, 20])
    [around] = ax.collections[0].get_paths()
    for at, column in zip(x, rows.T, strict=True):
        heights = around.vertices[around.vertices[:, 0] == at][:, 1]
        assert (heights.min(), heights.max()) == (column.min(), column.max())
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["ours: measured", "ours: formula"]


def test_bands_stand_without_a_formula():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    ax = plots.bands([1, 2], {"ours": rows, "theirs": rows}, x_label="m", y_label="error")
    assert [line.get_label() for line in ax.get_lines()] == ["ours", "theirs"]


@pytest.mark.parametrize(("n", "m"), [(512, 64), (64, 256), (1, 1)])
def test_brackets_are_drawn_to_scale_and_within_the_picture(n, m):
    live = plots.LiveBrackets(512, 64, 64, most=512)
    live.update(n, m)
    sides = [(box.get_height(), box.get_width()) for box in live.boxes]
    assert sides == [(n, n), (n, 64), (n, m), (m, 64)]
    right, bottom = live.ax.get_xlim()[1], live.ax.get_ylim()[0]
    assert all(box.get_x() + box.get_width() <= right for box in live.boxes)
    assert all(box.get_height() <= bottom for box in live.boxes)
    said = [text.get_text() for text in live.sizes]
    assert said == [f"brackets left make {n} × {n}", f"brackets right make {m} × 64"]
    assert live.ax.get_aspect() == 1
