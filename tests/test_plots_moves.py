from matplotlib.colors import to_hex

from attncourse import plots
from attncourse.plots import Move

ARRAYS = {"q": (2, 1), "S": (2, 2), "O": (2, 1)}
BYTES = {"q": 64, "S": 256, "O": 64}
LONG = [
    Move(1, [("q", 0, 0)], [("S", 0, 0), ("S", 0, 1)], "scores"),
    Move(2, [("S", 0, 0)], [("O", 0, 0)], "acc"),
]
SHORT = [Move(1, [("q", 0, 0)], [("O", 0, 0)], "all at once")]


def scene():
    return plots.LiveMoves({"long": LONG, "short": SHORT}, ARRAYS, BYTES, given="q")


def colours(live, number):
    scene = live.scenes[number]
    return {
        tile: to_hex(colour, keep_alpha=True)
        for tile, colour in zip(scene.tiles, scene.patches.get_facecolor(), strict=True)
    }


def test_a_counter_adds_what_each_way_has_read_and_written():
    live = scene()
    assert live.steps == 2
    assert live.draw(0) == "After 0 steps long has moved 0 B, short has moved 0 B."
    assert live.draw(1) == (
        "After 1 steps long has moved 576 B, short has moved 128 B and is finished."
    )
    assert "long has moved 896 B and is finished" in live.draw(2)
    widths = [scene.bar.get_width() for scene in live.scenes]
    assert widths == [10, 10 * 128 / 896]


def test_tiles_are_absent_there_or_on_their_way():
    live = scene()
    live.update(0)
    before = colours(live, 0)
    assert before["q", 0, 0] == before["q", 1, 0] != before["S", 0, 0] == before["O", 0, 0]
    live.update(1)
    during = colours(live, 0)
    assert during["q", 0, 0] == during["S", 0, 0] != before["q", 0, 0] == during["q", 1, 0]
    live.update(2)
    after = colours(live, 0)
    assert after["S", 0, 1] == before["q", 0, 0] and after["O", 1, 0] == before["O", 1, 0]
    assert colours(live, 1)["O", 0, 0] == before["q", 0, 0]  # finished: it rests in HBM


def test_what_is_on_chip_is_said_and_what_never_exists_too():
    live = scene()
    live.update(1)
    long, short = live.scenes
    assert long.ax.get_title(loc="left") == "long: kernel 1 of 2"
    assert (long.sram.get_text(), long.registers.get_text()) == ("q1", "scores")
    assert (long.down.get_text(), long.out.get_text()) == ("↓ 64 B", "↑ 512 B")
    live.update(2)
    assert long.sram.get_text() == "S1,1"
    assert short.ax.get_title(loc="left") == "short: finished" and not short.sram.get_text()
    assert "no S" in [text.get_text() for text in short.ax.texts]
