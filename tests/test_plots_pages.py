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


def test_letters_are_as_wide_as_their_cells():
    page = plots.LivePage(["abcdefghi "] * 8, np.ones(8), high=1)
    page.figure.canvas.draw()
    cells = page.ax.get_window_extent()
    for number, text in enumerate(page.ax.texts):
        box = text.get_window_extent()
        start = cells.x0 + cells.width * number / 8
        assert abs(box.x0 - start) < cells.width / 160  # half a letter
        assert abs(box.x1 - start - cells.width * 9 / 80) < cells.width / 80


def test_short_lines_do_not_grow_into_one_another():
    page = plots.LivePage(["defines_x", "\n", "return_x1"], np.ones(3), high=1)
    page.figure.canvas.draw()
    first, second = (text.get_window_extent() for text in page.ax.texts)
    assert second.y1 <= first.y0 + 1
    assert first.width == pytest.approx(page.ax.get_window_extent().width, rel=0.1)


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
