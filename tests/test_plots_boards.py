import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from attncourse import plots
from attncourse.plots import boards

WORDS = "one two three four five six".split()


def colours(live, columns):
    """The colour of each cell as drawn, near a corner: away from the word."""
    image = np.asarray(Image.open(io.BytesIO(plots.png(live.figure))).convert("RGB"))
    found = []
    for place in range(len(live.words)):
        row, column = divmod(place, columns)
        x, y = live.ax.transData.transform((column - 0.42, row + 0.42))
        found.append(image[image.shape[0] - 1 - int(y), int(x)])
    return np.array(found) / 255


def test_a_board_shows_the_layer_of_each_word_by_colour_and_number():
    live = plots.LiveBoard(WORDS, 3, np.array([0, 1, 2, -1, 12, 1]))
    assert [text.get_text() for text in live.texts] == [
        "one",
        "two ¹",
        "three ²",
        "four",
        "five ¹²",
        "six ¹",
    ]
    wanted = [boards.COLOURS[place] for place in (1, 2, 3, 0, 5, 2)]  # 12 shares the last colour
    np.testing.assert_allclose(
        colours(live, 3), matplotlib.colors.to_rgba_array(wanted)[:, :3], atol=0.01
    )
    live.update(np.full(6, -1), "nobody")
    assert [text.get_text() for text in live.texts] == WORDS
    assert live.ax.get_title(loc="left") == "nobody"
    assert np.ptp(colours(live, 3), axis=0).max() == 0


def test_the_legend_of_a_board_is_in_words():
    [legend] = plots.board(WORDS, 2, np.zeros(6, int)).get_figure().legends
    assert [text.get_text() for text in legend.get_texts()] == boards.WORDS
    assert len(boards.WORDS) == len(boards.COLOURS)


def test_words_that_do_not_fill_the_board_are_refused():
    with pytest.raises(
        ValueError, match=r"plots\.LiveBoard: words must fill rows of 4, got 6 words"
    ):
        plots.board(WORDS, 4, np.zeros(6, int))
