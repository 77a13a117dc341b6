"""Pictures of how values scatter, and tables with their numbers in the cells."""

import matplotlib
import numpy as np

from attncourse import plots
from attncourse.plots import distributions


def test_every_value_is_a_dot_and_the_box_ends_at_the_quartiles():
    values = [1.0, 2.0, 3.0, 4.0, 9.0]
    ax = plots.distribution({"one": values, "other": [2.0, 2.5]}, unit="s", title="times")
    dots = ax.collections
    assert sorted(dots[0].get_offsets()[:, 0]) == values and len(dots[1].get_offsets()) == 2
    box = ax.patches[0].get_path().vertices
    assert (box[:, 0].min(), box[:, 0].max()) == (2.0, 4.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "other"]
    assert ax.get_xlabel() == "time of one call" and ax.get_title(loc="left") == "times"


def test_dots_that_crowd_are_drawn_without_a_warning(recwarn):
    plots.distribution({"one": [1e-6] * 80 + [1.0]}, unit="s")
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_a_table_says_each_share_in_its_cell():
    shares = np.array([[0.0, 0.25, 1.0], [0.5, 0.126, 0.75]])
    ax = plots.table(shares, ["a", "b"], ["x", "y", "z"], x="pattern", y="data", label="share")
    assert [text.get_text() for text in ax.texts] == ["0%", "25%", "100%", "50%", "13%", "75%"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "pattern" and ax.get_ylabel() == "data"


def test_a_matrix_says_each_number_in_its_cell_and_minus_infinity_as_such():
    scores = np.array([[1.25, -np.inf], [0.0, -3.0]])
    ax = plots.numbers(scores, ["a", "b"], ["x", "y"], x="key", title="scores", form=".2f")
    assert [text.get_text() for text in ax.texts] == ["1.25", "−∞", "0.00", "−3.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]
    colours = ax.images[0].get_array()
    assert np.allclose(colours[0, 1], matplotlib.colors.to_rgba(plots.PAPER))
    inks = [text.get_color() for text in ax.texts]
    assert inks[0] == inks[1] == "black" and inks[3] == "white"  # light is much, as in all maps


def test_a_matrix_of_equal_numbers_is_drawn():
    ax = plots.numbers(np.full((1, 3), 0.5), ["a"], list("xyz"), form=".0%")
    assert [text.get_text() for text in ax.texts] == ["50%"] * 3


def test_figures_stay_out_of_pyplot_and_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    plots.distribution({"one": [1.0, 2.0]})
    plots.table(np.eye(2), "ab", "xy", x="", y="", label="")
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
    assert {key for key in before if before[key] != matplotlib.rcParams[key]} <= {"backend"}


def test_each_share_of_a_table_can_be_read_on_its_cell():
    shares = np.linspace(0, 1, 101)[None]
    ax = plots.table(shares, ["a"], [""] * 101, x="", y="", label="")

    def luminance(colour):
        return distributions._luminance(matplotlib.colors.to_rgb(colour))

    assert (luminance("white"), luminance("black")) == (1.0, 0.0)
    cells = ax.collections[0].get_facecolors()
    for text, cell in zip(ax.texts, cells, strict=True):
        low, high = sorted((luminance(text.get_color()), luminance(cell[:3])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, text.get_text()
