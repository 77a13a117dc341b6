import numpy as np
import pytest

from attncourse import plots
from attncourse.reference._parts.sorted_chunks import sorted_chunks

WORDS = [f"w{i}" for i in range(12)]
BUCKETS = np.array([2, 0, 1, 2, 2, 0, 1, 1, 0, 2, 1, 0])


def test_the_table_holds_each_word_in_its_bucket_in_order():
    live = plots.LiveTable(WORDS, BUCKETS, 3, chunk=4)
    places = {text.get_text(): text.get_position() for text in live.texts}
    assert places["w1"] == (0, 0) and places["w5"] == (1, 0) and places["w9"] == (3, 2)
    live.update(4, title="four")
    shown = [text.get_text() for text in live.texts if text.get_visible()]
    assert shown == WORDS[:4] and live.ax.get_title(loc="left") == "four"
    assert live.cells.get_array().sum() == 4
    live.update(0)
    assert not live.cells.get_array().any() and not live.sorted.image.get_array().any()


def test_both_maps_show_who_looks_at_whom():
    live = plots.LiveTable(WORDS, BUCKETS, 3, chunk=4)
    order = np.argsort(BUCKETS, kind="stable")
    kinds, sorted_kinds = (np.asarray(one.image.get_array()) for one in (live.written, live.sorted))
    np.testing.assert_array_equal(kinds[np.ix_(order, order)], sorted_kinds)
    same = BUCKETS[:, None] == BUCKETS
    # directions that give these buckets, for the code of the mechanism itself
    rotation = np.eye(3, 2)[None] + [[0, 0], [0, 0], [-1, -1]]
    angles = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0]])[BUCKETS]
    seen = np.zeros((12, 12), dtype=bool)
    for i, j, hidden in sorted_chunks(angles, angles, rotation, 4, False, False):
        seen[i[:, None], j] |= ~hidden
    np.testing.assert_array_equal(kinds > 0, seen)
    np.testing.assert_array_equal(kinds == 2, seen & same)


def test_other_buckets_move_the_words():
    live = plots.LiveTable(WORDS, BUCKETS, 3, chunk=4)
    live.update(12, BUCKETS[::-1])
    places = {text.get_text(): text.get_position() for text in live.texts}
    assert places["w0"] == (0, 0)
    with pytest.raises(ValueError, match=r"plots\.LiveTable\.update: .* at most 4 tokens, got 12"):
        live.update(3, np.zeros(12, int))
    roomy = plots.LiveTable(WORDS, BUCKETS, 3, chunk=4, columns=12)
    roomy.update(12, np.zeros(12, int))
    assert roomy.cells.get_array()[0].all()


def test_sectors_wear_the_number_of_their_bucket():
    points = np.array([[1.0, 0], [0, 1], [-1, 0]])
    live = plots.LiveSectors(points, [0, 1, 2], np.eye(2))
    assert [text.get_text() for text in live.texts] == ["0", "1", "2"]
    assert len(live.rays.get_segments()) == 4
    live.update([0, 0, 1], np.array([[1.0], [0]]), "two")
    assert len(live.rays.get_segments()) == 2 and live.ax.get_title(loc="left") == "two"
