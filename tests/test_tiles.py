import json

import pytest

from attncourse.bench import tiles
from attncourse.bench.tiles import Tile

RECORD = tiles.latest()


def test_the_record_names_its_machine_and_has_what_the_chapter_asks_for():
    assert {"gpu", "driver", "versions"} <= RECORD["machine"].keys() and RECORD["commit"]
    for name, rows in ((name, RECORD[name]) for name in RECORD["columns"]):
        assert rows and {len(row) for row in rows} == {len(RECORD["columns"][name])}
    for setting in tiles.settings(RECORD).values():
        times = tiles.tried(RECORD, *setting)
        assert list(times.values()) == sorted(times.values())
    assert tiles.peers(RECORD, "flash fwd", 64, False, 16384).keys() >= {"Triton", "SDPA, cuDNN"}


def test_without_a_record_there_is_none(tmp_path):
    assert tiles.latest(tmp_path) is None


def test_a_newer_record_of_tiles_alone_leaves_the_chapter_its_own(tmp_path):
    for date, record in (
        ("2026-01-01", RECORD),
        ("2026-01-02", {"tiles": RECORD["tiles"], "launched": [], "left_out": []}),
    ):
        (tmp_path / f"tiles-gpu-{date}.json").write_text(json.dumps(record), encoding="utf-8")
    assert tiles.latest(tmp_path) == RECORD


def test_a_tile_is_said_in_words():
    assert str(Tile(128, 64, 8, 3)) == "128 × 64, 8 warps, 3 stages"


def test_each_tile_is_timed_and_checked():
    pytest.importorskip("triton")
    from attncourse import kernels

    if not kernels.INTERPRETED:
        pytest.skip("kernels run on a GPU here, which has its own clock")
    given = iter([3.0, 1.0])
    two = Tile(32, 16, 4, 2), Tile(16, 32, 4, 2)
    found = tiles.measure(40, 16, causal=True, tiles=two, heads=2, clock=lambda call: next(given))
    assert list(found.items()) == [(two[1], 1.0), (two[0], 3.0)]
    with pytest.raises(RuntimeError, match="no GPU here"):
        tiles.measure(40)


def test_a_tile_that_computes_something_else_is_named(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from attncourse import kernels

    if not kernels.INTERPRETED:
        pytest.skip("kernels run on a GPU here, which has its own clock")
    monkeypatch.setattr(torch, "allclose", lambda *args, **kwargs: False)
    with pytest.raises(RuntimeError, match="16 × 16, 4 warps, 2 stages gives another result"):
        tiles.measure(20, 16, tiles=[Tile(16, 16, 4, 2)], heads=1, clock=lambda call: 1.0)


def test_a_tile_that_is_chosen_is_the_one_that_is_launched():
    pytest.importorskip("triton")
    torch = pytest.importorskip("torch")
    from attncourse import kernels, trace
    from attncourse.kernels import flash, linear, window

    with tiles.chosen("flash", Tile(16, 32, 2, 1)):
        options = {"num_warps": 2, "num_stages": 1}
        assert flash.tile_sizes(64, 64, 64, 2, backward=True) == (16, 32, options)
    with tiles.chosen("window", Tile(16, 32, 2, 1)):
        assert window.tile_sizes(128, 2) == (16, 32, options)
        assert window.tile_sizes(128, 2, backward=True) == (16, 32, options)
        if kernels.INTERPRETED:  # and so in a launch
            inputs = [torch.ones(1, 1, 40, 16)] * 3
            traced = trace.record(window.attention, *inputs, window=4)
            assert traced.launches[0].grid == (3, 1, 1)
    with tiles.chosen("linear", Tile(16, 32, 2, 1)):
        found = linear.tiles_for(1, 1, 64, 64, 64, 64, 64, 2)
        assert (found.BLOCK, found.SLICE, found.options) == (16, 32, options)
        assert linear.of_backward(found, 64, 64, 2) == found
    assert flash.tile_sizes(64, 64, 64, 2)[0] == 64
