from types import SimpleNamespace

import pytest
from matplotlib.colors import to_hex

from attncourse import plots
from attncourse.plots import runs


def access(program, kind, tensor, rows, columns, size, kernel="add"):
    place = (program, 0, 0)
    return SimpleNamespace(
        kernel=kernel, program=place, kind=kind, tensor=tensor, rows=rows, columns=columns,
        elements=size, bytes=4 * size, out_of_bounds=0,
    )  # fmt: skip


def trace(*accesses, grid=(2, 1, 1), kernel="add", **shapes):
    launch = SimpleNamespace(kernel=kernel, grid=grid, shapes=shapes)
    return SimpleNamespace(launches=[launch], accesses=list(accesses))


TWICE = trace(  # two programs that both read all of b
    access(0, "load", "b", (0, 4), (0, 2), 8), access(0, "store", "out", (0, 2), (0, 2), 4),
    access(1, "load", "b", (0, 4), (0, 2), 8), access(1, "store", "out", (2, 4), (0, 2), 4),
    b=(4, 2), out=(4, 2),
)  # fmt: skip
VECTOR = trace(access(0, "atomic", "x", None, (0, 3), 3), grid=(1, 1, 1), x=(3,))


def boxes(live, colour):
    for collection in live.stage.layers:
        if to_hex(collection.get_facecolor()[0]) == to_hex(colour):
            return [path.get_extents().bounds for path in collection.get_paths()]


def test_the_tile_of_now_is_dark_and_what_others_did_is_pale():
    live = plots.LiveRun({"twice": TWICE})
    assert live.steps == 4
    live.update("twice", 0)
    assert not boxes(live, runs.NOW) and not boxes(live, runs.OTHERS)
    live.update("twice", 3)
    assert len(boxes(live, runs.NOW)) == 2  # the program's square, and all of b
    assert len(boxes(live, runs.OTHERS)) == 4  # two squares, b, the upper half of out
    left, top, wide, high, *_ = live.stage.corner["out"]
    live.update("twice", 4)
    assert (left, top - high, wide, high / 2) in boxes(live, runs.NOW)
    assert len(boxes(live, runs.OURS)) == 2


def test_the_sentence_counts_bytes_beside_the_least_possible():
    live = plots.LiveRun({"twice": TWICE, "vector": VECTOR})
    assert live.draw(0) == "twice: 2 programs, and nothing has moved."
    assert live.draw(3, "twice") == "Program 1 loads b, 32 B. So far 80 B."
    assert live.draw(99, "twice") == "Program 1 stores out, 16 B. The end: 1.50 times the " + (
        "least possible."
    )
    assert live.draw(1, "vector") == "Program 0 adds to x, 12 B. The end: 1.00 times the " + (
        "least possible."
    )
    assert "x" in live.stage.corner and "b" not in live.stage.corner


def test_the_bar_ends_at_what_moved_and_the_mark_stands_at_the_least():
    live = plots.LiveRun({"twice": TWICE})
    live.update("twice", 4)
    assert live.bar.get_width() == runs.WIDE
    assert live.mark.get_xdata()[0] == pytest.approx(runs.WIDE * 64 / 96)
    assert live.ax.get_title(loc="left") == "twice: step 4 of 4"


def test_a_run_without_a_kernel_is_refused():
    with pytest.raises(ValueError, match="LiveRun: each run needs a kernel, got none"):
        plots.LiveRun({})
