import numpy as np
import pytest
from matplotlib.colors import to_hex

from attncourse import distributed, plots
from attncourse.plots.base import PAPER, TILE_COLOURS
from attncourse.plots.rings import NOW


def board(live, size):
    """Return the colour of each square, by queries and keys."""
    squares = live.board.patches[: size * size]
    return np.array([to_hex(one.get_facecolor()) for one in squares]).reshape(size, size)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_each_step_fills_a_square_in_every_row_and_column(size):
    live = plots.LiveRing(size)
    for step in range(size):
        live.update(size, step)
        now = board(live, size) == to_hex(NOW)
        assert (now.sum(0) == 1).all() and (now.sum(1) == 1).all()
        assert list(now.argmax(1)) == live.held(size, step)
        assert (board(live, size) == to_hex(TILE_COLOURS[1])).sum() == step * size
    assert not (board(live, size) == to_hex(PAPER)).any()


def test_no_keys_have_the_colour_of_the_squares_in_this_step():
    live = plots.LiveRing(8)
    keys = {to_hex(one.get_facecolor()) for one in live.board.patches[64:]}
    assert len(keys) == 8 and to_hex(NOW) not in keys


def test_a_ring_says_what_it_shows_and_stops_at_its_end():
    live = plots.LiveRing(4)
    assert live.draw(3, 0) == "Step 0: each of 3 processes attends to the keys it came with."
    assert "process 0 holds the keys of process 3; each has sent 1 of 3" in live.draw(4, 1)
    assert live.draw(4, 7) == live.draw(4, 3) and live.draw(4, 3).endswith("All scores are made.")
    held = [text.get_text() for text in live.ring.texts if text.get_text().startswith("k")]
    assert held == ["k1 v1", "k2 v2", "k3 v3", "k0 v0"]


def test_shares_are_the_pairs_that_each_process_has():
    live = plots.LiveShares(["contiguous", "zigzag"], 64)
    for size in (4, 2):
        owners = {way: np.empty(64, int) for way in live.axes}
        for way, owner in owners.items():
            for rank in range(size):
                owner[distributed.positions(64, rank, size, way)] = rank
        live.update(owners, size)
        for way, (_, bars) in live.axes.items():
            pairs = distributed.cost("ring", 64, size, causal=True, layout=way).pairs
            assert [bar.get_height() for bar in bars.patches] == list(pairs)
