"""The frontier's record: what it measures, how it goes on, and that the one here is whole."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attncourse import model, plots  # noqa: E402
from attncourse.model import frontier, probes  # noqa: E402
from attncourse.model.attention import Attention  # noqa: E402

RECORD = Path(__file__).parents[1] / "results" / "frontier.json"
MEASURED = {"loss", "first", "second", "recall", "near duplicates", "needle"}


@pytest.fixture(scope="module")
def small():
    return model.load()


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize(
    ("stem", "knobs", "n", "kept"),
    [
        ("full", {}, 10, 10 * 2 * 8 * 2),
        ("topk", {"keep": 3}, 10, 10 * 2 * 8 * 2),
        ("window", {"window": 3, "dilation": 2}, 10, 6 * 2 * 8 * 2),
        ("window", {"window": 30}, 10, 10 * 2 * 8 * 2),
        ("longformer", {"window": 3, "global_tokens": 2}, 10, 5 * 2 * 8 * 2),
        ("segment", {"chunk": 4, "memory": 3}, 10, 5 * 2 * 8 * 2),
        ("pooled", {"pool": 4}, 10, (2 + 2) * 2 * 8 * 2),
        ("linear", {}, 10, 8 * 9 * 4),
        ("performer", {"n_features": 5}, 10, 5 * 9 * 4),
        ("grouped", {"groups": 1}, 10, 10 * 2 * 8 * 2 / 3),
        ("quantised_cache", {"group": 4}, 10, 8 * (16 + 4 + 8) + 2 * 2 * 8 * 2),
    ],
)
def test_what_generation_keeps_by_hand(stem, knobs, n, kept):
    attend = Attention.of(stem, **knobs)
    assert attend.kept(n, heads=3, width=8) == 3 * kept


def test_what_a_window_keeps_is_what_the_next_token_sees():
    attend = Attention.of("longformer", window=3, global_tokens=2)
    from attncourse.reference import longformer

    seen = longformer.mask(11, 11, causal=True, **attend.knobs)[-1, :-1].sum()
    assert attend.kept(10, heads=1, width=8) == seen * 2 * 8 * 2


def test_bytes_are_a_head_of_the_mean_layer(small):
    full, window = (
        frontier.bytes_of(one)["512"] for one in (small, small.swap("window", window=16))
    )
    half = frontier.bytes_of(small.swap("window", window=16, layers=[0, 1]))["512"]
    assert full["kept"] == 512 * 2 * 32 * 2 and window["kept"] == 16 * 2 * 32 * 2
    assert half["kept"] == (full["kept"] + window["kept"]) / 2
    assert half["peak"] == full["peak"] and half["flops"] == (full["flops"] + window["flops"]) / 2


def test_a_model_recalls_what_it_sees_and_nothing_else(small):
    ids = np.concatenate([small.encode(text) for text in model.held_out()])
    near = small.swap("window", window=16)
    assert probes.pairs(small, ids, rows=2) > 0.3 > 0.15 > probes.pairs(near, ids, rows=2)
    assert probes.hidden(near, ids, 0.5, n=100, rows=4) == 0
    with pytest.raises(ValueError, match=r"probes\.pairs: 96 pairs in families of 5"):
        probes.pairs(small, ids, family=5)
    with pytest.raises(ValueError, match="at least 480 tokens, got 9"):
        probes.hidden(small, ids[:9], 0.5)
    with pytest.raises(ValueError, match="depth must be in"):
        probes.hidden(small, ids, 1.5)


def test_a_command_that_was_ended_goes_on(small, tmp_path, monkeypatch):
    monkeypatch.setattr(frontier, "MECHANISMS", {"full": ("full", {})})
    monkeypatch.setattr(frontier, "HYBRIDS", {"w": ("window", {"window": 8}, [1])})
    monkeypatch.setattr(frontier, "measure", lambda model, unseen: {"loss": 1.0})
    monkeypatch.setattr(frontier, "tune", lambda model, *rest, **more: (model, {}))
    monkeypatch.setattr(frontier.probes, "run", lambda *rest, **more: {"recall": 0.5})
    ids, path = np.arange(600), tmp_path / "frontier.json"
    record = frontier.start(small, ids, path)
    left = frontier.jobs(small, ids, record)
    for part in left[:-2]:
        part()
    path.write_text(json.dumps(record))
    again = frontier.start(small, ids, path)
    rest = frontier.jobs(small, ids, again)
    assert len(rest) == 2
    for part in rest:
        part()
    assert not frontier.jobs(small, ids, again)
    assert [*again["mechanisms"]["full"]["after"]] == ["1", "2", "3"]
    assert again["hybrids"]["w"]["full"] == [1] and "probes" not in again["hybrids"]["w"]
    with pytest.raises(SystemExit, match="was measured with settings"):
        frontier.start(small, ids[1:], path)


def test_a_record_that_only_lacks_seeds_goes_on(small, tmp_path, monkeypatch):
    ids, path = np.arange(600), tmp_path / "frontier.json"
    monkeypatch.setattr(frontier, "HYBRID_SEEDS", (1,))
    path.write_text(json.dumps(frontier.start(small, ids, path) | {"seconds": 7.0}))
    monkeypatch.setattr(frontier, "HYBRID_SEEDS", (1, 2))
    more = frontier.start(small, ids, path)
    assert more["seconds"] == 7 and more["settings"]["hybrid_seeds"] == [1, 2]
    for others in ((2,), (2, 1), ()):
        monkeypatch.setattr(frontier, "HYBRID_SEEDS", others)
        with pytest.raises(SystemExit, match="was measured with settings"):
            frontier.start(small, ids, path)


def test_the_record_is_whole(record):
    assert record["mechanisms"].keys() == frontier.MECHANISMS.keys()
    assert record["hybrids"].keys() == frontier.HYBRIDS.keys()
    for part, seeds in (("mechanisms", frontier.SEEDS), ("hybrids", frontier.HYBRID_SEEDS)):
        for entry in record[part].values():
            assert [*entry["after"]] == [*map(str, seeds)]
            for found in (entry["before"], *entry["after"].values()):
                assert found.keys() == MEASURED and np.isfinite([*found.values()]).all()
            assert entry["bytes"].keys() == {"512", "16384"}
    assert [row["window"] for row in record["windows"]] == [*frontier.WINDOWS]
    assert len(record["layers"]) == 4 * len(frontier.LAYER_WINDOWS)


def test_hybrids_are_what_chapter_14_says_of_them(record):
    def points(part):
        copied = {
            name: [one["first"] - one["second"] for one in entry["after"].values()]
            for name, entry in record[part].items()
        }
        kept = {name: entry["bytes"]["512"]["kept"] for name, entry in record[part].items()}
        return {name: plots.Gained("", kept[name], 0.0, copied[name]) for name in copied}

    alone, mixed = points("mechanisms"), points("hybrids")
    both, whole = alone | mixed, alone["full"].middle
    beaten = [name for name in mixed if plots.beaten_by(name, both, alone, high=True)]
    assert len(mixed) / 2 < len(beaten) < len(mixed)
    low, high = alone["window 64"].n_bytes, alone["window 256"].n_bytes
    best = {
        part: max(one.middle for one in found.values() if low <= one.n_bytes < high) / whole
        for part, found in (("alone", alone), ("mixed", mixed))
    }
    assert best["alone"] < 0.2 and best["mixed"] > 0.8


def test_the_record_is_of_this_model_and_these_settings(record, small):
    settings = frontier.start(small, np.arange(9), Path("nowhere"))["settings"]
    assert settings | {"text": 0} == record["settings"] | {"text": 0}
    entry = record["mechanisms"]["window 16"]
    changed = small.swap(entry["stem"], **entry["knobs"])
    loss = changed.row_losses(frontier.held_out(changed)).mean()
    assert loss == pytest.approx(entry["before"]["loss"], abs=2e-3)
    assert frontier.bytes_of(changed) == entry["bytes"]
