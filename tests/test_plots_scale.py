import numpy as np
import pytest

from attncourse import plots


def areas(parts):
    return np.array([np.prod(np.ptp(path.vertices, axis=0)) for path in parts.get_paths()])


@pytest.mark.parametrize(("n", "width", "count"), [(512, 64, 1), (100, 64, 12), (63, 5, 144)])
def test_areas_are_numbers_and_what_lies_in_the_frame_fits(n, width, count):
    live = plots.LiveScale(7, 3)
    need = count * n * (n + 3 * width)
    for memory in (0.5 * need, 2 * need):
        live.update(n, width, count, memory)
        squares, strips = areas(live.squares), areas(live.strips)
        assert len(squares) == len(strips) == count
        np.testing.assert_allclose(squares, n * n)
        np.testing.assert_allclose(strips, 3 * n * width)
        frame = live.frame.get_width() * live.frame.get_height()
        assert frame == pytest.approx(memory) and live.frame.get_visible()
        right, bottom = np.max([path.vertices.max(axis=0) for path in live.squares.get_paths()], 0)
        inside = right <= live.frame.get_width() and bottom <= live.frame.get_height()
        assert inside == (memory > need)


def test_without_a_memory_there_is_no_frame_and_room_is_kept():
    live = plots.LiveScale(10, 2, room=(500, 400), title="one head")
    assert not live.frame.get_visible()
    assert live.ax.get_xlim()[1] > 500 and live.ax.get_ylim()[0] > 400
    live.update(1000, 2)
    assert live.ax.get_xlim()[1] > 1006 and live.ax.get_title(loc="left") == "one head"


def test_the_legend_names_what_is_drawn():
    for memory, words in ((True, 3), (False, 2)):
        live = plots.LiveScale(10, 2)
        plots.scale_legend(live.figure, memory)
        (legend,) = live.figure.legends
        assert len(legend.get_texts()) == words


def test_a_sentence_shows_who_asks_and_what_each_word_gets():
    live = plots.LiveSentence(["it", "was", "tired"], np.array([0.0, 0.25, 0.75]), 0)
    shown = [bow.get_visible() for bow in live.bows]
    assert shown == [False, True, True]
    assert live.bows[2].get_linewidth() == 3 * live.bows[1].get_linewidth()
    assert [text.get_text() for text in live.shares] == ["0%", "25%", "75%"]
    assert [text.get_weight() for text in live.words] == ["bold", "normal", "normal"]
    live.update(["it", "was", "flat"], np.array([0.0, 1.0, 0.0]), 2, "flat asks")
    assert live.words[2].get_text() == "flat" and live.words[2].get_weight() == "bold"
    assert live.ax.get_title(loc="left") == "flat asks"
    top = max(bow.get_ydata().max() for bow in live.bows if bow.get_visible())
    assert top < live.ax.get_ylim()[1]


def test_one_word_alone():
    live = plots.LiveSentence(["it"], np.array([1.0]), 0)
    assert np.isfinite(live.bows[0].get_ydata()).all()
