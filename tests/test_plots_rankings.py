"""The ranking: what is taken, what is struck out, and why."""

from matplotlib.backends.backend_agg import FigureCanvasAgg

from attncourse import plots
from attncourse.plots import Ranked
from attncourse.plots.base import INK, PALE


def test_the_first_is_dark_and_a_reason_stands_behind_what_is_struck_out():
    rows = [Ranked("a", 1e-3, 1e6), Ranked("b", 2e-3, 1e7), Ranked("c", 1e-5, 1e3, "loses recall")]
    live = plots.LiveRanking(rows, 1e7, "H200")
    words = {text.get_text() for text in live.axes[0].texts}
    assert {"10 µs, loses recall", "1 ms"} <= words
    colours = [bar.get_facecolor() for bar in live.axes[0].patches]
    assert colours[0][:3] == INK[:3] and len(set(colours)) == 3
    live.update([Ranked("x", 1.0, 9.0, "holds 9 B")] * 3, 8.0)
    assert [label.get_text() for label in live.axes[0].get_yticklabels()] == ["x"] * 3
    assert len({bar.get_facecolor() for bar in live.axes[0].patches}) == 1
    assert PALE.startswith("#")


def test_words_end_within_their_axis():
    small, large = (
        Ranked("a", 5e-5, 2**20),
        Ranked("b", 2e6, 2**49, "loses copying, recall, near d"),
    )
    for rows in ([small, large], [small, small], [large, large]):
        live = plots.LiveRanking(rows, 1e12, "H200")
        canvas = FigureCanvasAgg(live.figure)
        canvas.draw()
        for ax in live.axes:
            edge = ax.get_window_extent().x1
            assert max(text.get_window_extent().x1 for text in ax.texts) <= edge


def test_the_line_of_the_memory_stands_within_its_axis():
    rows = [Ranked("a", 1.0, 2**20), Ranked("b", 2.0, 2**24)]
    for memory in (2**10, 2**22, 2**40):
        live = plots.LiveRanking(rows, memory, "H200")
        low, high = live.axes[1].get_xlim()
        assert low < memory < high
    plots.LiveRanking(rows, float("inf"), "any memory")
