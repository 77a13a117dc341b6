"""Towers of what is kept, pools of pages, and slots over time: what is drawn is what was given."""

import numpy as np
import pytest

from attncourse import plots
from attncourse.serving import Span

FLOOR = [("key", 8), ("value", 8)]


def areas(parts):
    """The area of each rectangle."""
    return [np.ptp(path.vertices, axis=0).prod() for path in parts.get_paths()]


def test_towers_have_areas_in_the_ratio_of_their_numbers():
    towers = {"many": (64, FLOOR), "one": (1, [("latent", 24), ("turned", 8)])}
    live = plots.LiveKept(towers, high=64)
    assert [len(areas(parts)) for parts in live.parts.values()] == [128, 2]
    assert sum(areas(live.parts["many"])) == 64 * 16
    assert sum(areas(live.parts["one"])) == pytest.approx(32 * 0.88)  # floors are a little apart
    live.update({"many": (2, FLOOR), "one": (1, FLOOR)})
    assert [ax.get_xlabel() for ax in live.axes] == ["32 numbers", "16 numbers"]


def test_a_pool_shows_who_holds_a_page_how_full_it_is_and_what_is_shared():
    live = plots.LivePool(6, 4, ["A", "B"], reserved=12)
    live.update({"A": [0, 2], "B": [0, 5]}, {"A": 7, "B": 5}, "B is a copy of A")
    cells = np.array(live.cells.get_facecolor()).reshape(6, 4, 4)
    a, b = (np.array(live.colours[name]) for name in "AB")
    own = {(n, s): tuple(cells[n, s]) for n, s in np.ndindex(6, 4)}
    assert sum(colour == tuple(a) for colour in own.values()) == 4 + 3
    assert sum(colour == tuple(b) for colour in own.values()) == 1
    assert len(live.shared.get_paths()) == 1
    assert [text.get_text() for text in live.rows] == ["A: 0 2", "B: 0 5"]
    assert [np.ptp(path.vertices[:, 0]) for path in live.stretches.get_paths()] == [7, 5, 5, 7]
    live.update({"A": [0, 2]}, {"A": 7})
    assert not live.shared.get_paths()
    assert live.rows[1].get_text().startswith("B: not here")


def test_a_schedule_draws_who_is_written_and_for_whom_a_slot_waits():
    live = plots.LiveSchedule(["batches", "joining"], 9.0)
    spans = [Span(0, 0.0, 4.0, 4.0, 0), Span(1, 1.0, 2.0, 4.0, 1)]
    live.update({"batches": spans, "joining": []}, {"batches": "slow", "joining": "none"})
    busy, idle = live.bars["batches"]
    assert [np.ptp(path.vertices[:, 0]) for path in busy.get_paths()] == [4, 1]
    assert [np.ptp(path.vertices[:, 0]) for path in idle.get_paths()] == [0, 2]
    assert live.axes["batches"].get_title(loc="left") == "slow"
    assert not live.bars["joining"][0].get_paths()
    assert [ax.get_ylim() for ax in live.axes.values()] == [(2, 0), (2, 0)]
