import numpy as np
from matplotlib.colors import to_rgb

from attncourse import plots


def test_a_program_shows_its_tile_in_the_matrix_and_in_memory():
    live = plots.LiveProgram((7, 6), block=(4, 4))
    inside = np.zeros((4, 4), bool)
    inside[:, :2] = True
    live.update((0, 1), inside, "program (0, 1)")
    cells = live.matrix.get_array()
    assert cells.shape == (8, 8)
    assert (cells[:4, 4:6] == 2).all() and (cells[:4, 6:] == 1).all()
    assert (cells[4:7, :6] == 0).all() and cells.mask[7, 0] and cells.mask[4, 6]
    loaded = np.flatnonzero(live.memory.get_array()[0])
    assert loaded.tolist() == [4, 5, 10, 11, 16, 17, 22, 23]
    assert live.ax.get_title(loc="left") == "program (0, 1)"


def test_cells_bear_the_offsets_that_they_would_load_also_beyond_the_matrix():
    live = plots.LiveProgram((7, 6), block=(4, 4))
    live.update((0, 1), np.ones((4, 4), bool))
    shown = {text.get_position(): text for text in live.texts if text.get_visible()}
    assert shown[6, 0].get_text() == shown[0, 1].get_text() == "6"
    assert to_rgb(shown[4, 0].get_color()) == (1, 1, 1)  # readable on dark
    assert (6, 4) not in shown  # nobody's tile, and no element
