import numpy as np
import pytest

from attncourse import plots


def test_a_timeline_stacks_its_kinds_and_forgets_the_last_step():
    live = plots.LiveTimeline(["low", "high"], high=100.0)
    for n in (5, 9):
        n_bytes = {"high": np.full(n, 30), "low": np.arange(n)}
        live.update(n_bytes, {"forward": 0, "backward": 3}, f"{n} operations")
    low, high = live.ax.collections
    assert high.get_paths()[0].vertices[:, 1].max() == 38
    assert low.get_paths()[0].vertices[:, 1].max() == 8
    assert live.ax.get_xlim() == (0, 8)
    words = [text.get_text() for text in live.ax.texts]
    assert words == ["38 B", "forward", "backward"]
    assert live.ax.get_title(loc="left") == "9 operations"


def test_a_timeline_of_a_kind_that_is_missing_says_so():
    with pytest.raises(KeyError, match="moments"):
        plots.LiveTimeline(["moments"], high=1.0).update({}, {"step": 0}, "")
