import numpy as np
from matplotlib.colors import to_rgba

from attncourse import plots


def test_parts_of_both_sums_stand_on_each_other_under_what_they_were():
    live = plots.LiveOnline(["a", "b", "c", "d"], most=(3, 9), y=(0, 4))
    scores, block_of = np.array([1.0, 0.0, 3.0, 2.0]), np.array([0, 0, 1, 1])
    parts = np.array([0.2, 1.4]), np.array([0.6, 5.0])
    live.update(scores, block_of, 1, 3.0, parts, (1.4, 4.0), "block 2", ["d", "c", "b", "a"])
    (bars, was, text), (acc_bars, _, _) = live.sums
    assert [(round(bar.get_y(), 6), round(bar.get_height(), 6)) for bar in bars[:2]] == [
        (0, 0.2),
        (0.2, 1.4),
    ]
    assert [bar.get_height() for bar in bars[2:]] == [0, 0] and acc_bars[1].get_height() == 5
    assert list(was.get_ydata()) == [1.4, 1.4] and text.get_text() == "1.60"
    faces = [bar.get_facecolor() for bar in live.bars]
    assert faces[0] == faces[1] == bars[0].get_facecolor()  # a block and its part: one colour
    assert faces[2] == faces[3] == to_rgba(plots.PAPER)  # not seen yet
    assert live.label.get_text() == "maximum 3" and live.line.get_ydata() == [3.0, 3.0]
    assert [label.get_text() for label in live.ax.get_xticklabels()] == ["d", "c", "b", "a"]
    live.update(scores, block_of, 0, -np.inf, (0 * parts[0],) * 2, (0, 0), "", list("abcd"))
    assert not live.line.get_visible() and not live.label.get_text()


def test_lifetimes_show_from_when_to_when_and_how_much():
    arrays = {"P": (0, 2, 4 << 20), "out": (2, 2, 1 << 10)}
    ax = plots.lifetimes(arrays, ["first", "second", "third"], title="alive")
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert [(round(low), round(high)) for low, high in spans] == [(0, 2), (2, 2)]
    assert [text.get_text() for text in ax.texts] == ["4 MiB", "1 KiB"]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
    ax = plots.lifetimes(arrays, ["first", "second", "third"], large=8 << 20)
    assert len({bar.get_facecolor() for bar in ax.patches}) == 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["P", "out"]


def test_launches_draw_a_box_for_each_kernel():
    ax = plots.launches(["a", "b", "c"], {"apart": [[0], [1], [2]], "fused": [[0, 1], [2]]})
    assert len(ax.patches) == 5
    words = [text.get_text() for text in ax.texts]
    assert words.count("HBM") == 3 and words.count("b") == 2
