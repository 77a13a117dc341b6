import numpy as np

from attncourse import plots


def test_a_row_shows_what_is_seen_and_its_maximum():
    scores = np.array([1.0, 3.0, -2.0, 0.5])
    live = plots.LiveRow(scores)
    live.update(scores, np.array([1, 2, 2, 0]), 3.0, np.exp([-2.0, 0.0, -5.0, -np.inf]))
    faces = [bar.get_facecolor()[:3] for bar in live.score_bars]
    assert len(set(faces)) == 3 and faces[1] == faces[2]
    assert live.weight_bars[1].get_height() == 1 and live.weight_bars[3].get_height() == 0
    assert live.words.get_text() == "running maximum 3.00" and live.line.get_ydata() == [3.0, 3.0]
    assert not plots.LiveRow(scores).line.get_visible()


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
