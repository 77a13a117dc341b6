import itertools
import re

import numpy as np
import pytest

from attncourse import plots

PIECES = ["def", " f", "(", "x):", "\n    ", "return", " x", "\n\n", "f"]


def test_each_letter_stands_on_the_colour_of_its_token():
    page = plots.LivePage(PIECES, np.arange(9.0), high=8, label="nats")
    shown = np.asarray(page.image.get_array())
    assert shown.shape == (4, len("    return x"))
    assert shown[0].tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 0, 0, 0]
    assert shown[1].tolist() == [4] * 4 + [5] * 6 + [6] * 2
    assert shown[2].tolist() == [0] * 12
    assert shown[3, 0] == 8
    page.update(np.zeros(9), title="nothing")
    assert not np.asarray(page.image.get_array()).any()
    assert page.ax.get_title(loc="left") == "nothing"


def test_a_page_that_ends_with_a_line_end_is_drawn():
    page = plots.LivePage(["ab", "\n"], np.ones(2), high=1)
    assert np.asarray(page.image.get_array()).tolist() == [[1, 1], [0, 0]]


def ink_of_cells(page):
    """The ink in each cell of the grid: (lines, columns)."""
    box, high = page.ax.get_window_extent(), page.ink.shape[0]
    lines, columns = page.grid.shape
    rows = np.linspace(high - box.y1, high - box.y0, lines + 1).round().astype(int)
    edges = np.linspace(box.x0, box.x1, columns + 1).round().astype(int)
    ink = page.ink[..., 3].astype(int)
    return np.array(
        [
            [ink[top:bottom, left:right].sum() for left, right in itertools.pairwise(edges)]
            for top, bottom in itertools.pairwise(rows)
        ]
    )


@pytest.mark.parametrize("text", ["MgW " * 20, "a\n\n y", "def f(x):\n    return $x$ ** y_1"])
def test_each_letter_stands_in_its_cell_and_nothing_in_the_others(text):
    pieces = re.findall(r"\S+|\s", text)
    page = plots.LivePage(pieces, np.zeros(len(pieces)), high=1)
    ink = ink_of_cells(page)
    assert ink.sum() > 0.97 * page.ink[..., 3].astype(int).sum()
    for row, line in enumerate(text.split("\n")):
        for column in range(ink.shape[1]):
            empty = column >= len(line) or line[column] == " "
            assert (ink[row, column] < 300) if empty else (ink[row, column] > 600), (row, column)


def test_the_text_is_drawn_once():
    page = plots.LivePage(PIECES, np.zeros(9), high=1)
    assert not page.ax.texts and len(page.figure.images) == 1


def test_one_token_can_be_framed():
    page = plots.LivePage(PIECES, np.zeros(9), high=1)
    box = page.ax.get_xlim(), page.ax.get_ylim()
    page.update(np.zeros(9), framed=3)  # "x):", behind "def f("
    x, y = page.frame.get_data()
    assert (min(x), max(x), min(y), max(y)) == (5.5, 8.5, -0.5, 0.5)
    page.update(np.zeros(9), framed=4)  # a line end, and the four spaces behind it
    x, y = page.frame.get_data()
    assert (min(x), max(x), min(y), max(y)) == (-0.5, 3.5, 0.5, 1.5)
    for nothing in (None, 7):
        page.update(np.zeros(9), framed=nothing)
        assert not len(page.frame.get_xdata())
    assert (page.ax.get_xlim(), page.ax.get_ylim()) == box


def test_values_for_other_tokens_are_refused():
    page = plots.LivePage(PIECES, np.zeros(9), high=1)
    with pytest.raises(ValueError):
        page.update(np.zeros(8))


def test_without_a_title_a_page_is_lower_and_still_whole():
    page = plots.LivePage(PIECES, np.zeros(9), high=1, title=None)
    titled = plots.LivePage(PIECES, np.zeros(9), high=1)
    assert page.figure.get_size_inches()[1] < titled.figure.get_size_inches()[1] - 0.2
    assert page.ax.get_position().y1 < 1
    assert not page.ink[:2, :, 3].any()  # no letter touches the edge
