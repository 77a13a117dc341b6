from pathlib import Path

import pytest

from attncourse import bench
from attncourse.bench import records, reports
from attncourse.cost import DEVICES


def row(mechanism="flash", implementation="Triton", n=4096, seconds=1e-3, **more):
    timing = {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds, "repeats": 5}
    setting = {"batch": 1, "heads": 16, "width": 64, "causal": False, "mode": "forward"}
    measured = {"mechanism": mechanism, "implementation": implementation, "n": n, "knobs": {}}
    return {**setting, **measured, "seconds": timing, "peak_bytes": 2**20, **more}


def record(*rows, complete=True):
    return {
        "machine": {
            "gpu": "NVIDIA H100 80GB HBM3", "cpu": "a CPU", "driver": "570.1",
            "versions": {"torch": "2.13.0", "triton": None},
        },
        "settings": {"device": "gpu", "dtype": "float16"},
        "date": "2026-05-04T03:02:01+00:00", "commit": "0123456789abcdef", "complete": complete,
        "measurements": list(rows),
    }  # fmt: skip


def test_old_records_get_their_setting():
    old = record({"mechanism": "full", "implementation": "NumPy", "n": 8})
    old["settings"] |= {"heads": 4, "width": 32}
    (found,) = records.rows(old)
    assert found["heads"] == 4 and found["width"] == 32 and found["mode"] == "forward"
    assert not found["causal"] and found["batch"] == 1 and found["dtype"] == "float16"
    assert records.rows(old, width=64) == []


def test_the_recorded_run_can_be_read_and_says_what_to_mind():
    recorded = bench.latest("gpu", mechanisms=["full", "flash", "window"], **bench.SHOWN)
    assert records.device_of(recorded) is DEVICES["H200"]
    text = reports.tables(recorded)
    assert "NVIDIA H200" in text and recorded["commit"][:12] in text
    assert recorded["caveats"] and all(f"- {caveat}" in text for caveat in recorded["caveats"])
    crossed = {stem: words for stem, *words in records.crossovers(recorded, **bench.SHOWN)}
    assert crossed["window"][0] == "at every length here" and "linear" in crossed


def test_beside_each_speedup_stands_what_a_fused_baseline_gains():
    sdpa = row("full", "SDPA", seconds=0.5e-3)
    both = record(row("full", seconds=4e-3), sdpa, row(seconds=1e-3))
    words = "Over it torch's SDPA, which is fused, gains 8.0× at n = 4096."
    assert words in reports.tables(both) and "unfused" in reports.tables(both)
    assert records.fused_words(record(row("full"))) == "" == records.fused_words(record(sdpa))


def test_readme_sets_the_recorded_baseline_beside_sdpa():
    recorded = bench.latest("gpu", mechanisms=["full", "flash", "window"], **bench.SHOWN)
    took = {by: line[16384] for by, line in records.lines(recorded, **bench.SHOWN).items()
            if 16384 in line}  # fmt: skip
    said = [f"{1e3 * took[by]:.2g}" for by in (("full", "SDPA"), ("flash", "Triton"))]
    text = " ".join((Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert f"takes {said[0]} ms at n = 16384, our flash {said[1]} ms" in text
    assert f"our window {1e3 * took['window', 'Triton']:.2g} ms" in text
    assert recorded["date"][:10] in text


def test_a_setting_that_the_newest_run_lacks_is_found_in_an_older_one():
    older = bench.latest("gpu", mechanisms=["full", "flash"], n=1024, **bench.SHOWN)
    assert older["machine"]["gpu"] == "NVIDIA H100 80GB HBM3" and older["complete"]


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 80 GB"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("Tesla V100-SXM2-16GB", "V100 16 GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("NVIDIA A100-SXM4-80GB", None),  # another memory, other figures
        (None, None),
    ],
)
def test_the_device_of_a_gpu(gpu, name):
    device = records.device_of({"machine": {"gpu": gpu}})
    assert (device and device.name) == name


def test_rates_follow_from_the_work():
    device = DEVICES["H100 80 GB"]
    exact = 4 * 16 * 4096**2 * 64
    moved = 4 * 16 * 4096 * 64 * 2
    whole = {**row(), "dtype": "float16"}
    assert records.work(whole) == (exact, moved)
    assert records.work(whole, 7) == (exact, moved)  # what exact attention needs, whoever does it
    assert records.work(whole | {"causal": True}) == (exact / 2, moved)
    assert records.work(whole | {"mode": "backward"}) == (2.5 * exact, 2 * moved)
    assert records.work(whole | {"mechanism": "window"}, 7) == (7, moved)
    decode = whole | {"mode": "decode", "groups": 4}
    assert records.work(decode) == (4 * 16 * 4096 * 64, moved / 8)
    rate = records.rates(whole, device)
    assert rate["flops"] == exact / 1e-3 and rate["bytes"] == moved / 1e-3
    assert rate["share"] == pytest.approx(exact / 989e12 / 1e-3)
    assert "share" not in records.rates(whole, None)


def test_rates_are_said_in_a_unit_that_fits():
    said = [reports._per_second(rate, "FLOP") for rate in (375.4e12, 1e12, 999.9e9, 67.1e9, 4.32e8)]
    assert said == ["375 TFLOP/s", "1 TFLOP/s", "1 TFLOP/s", "67.1 GFLOP/s", "432 MFLOP/s"]


def test_shares_of_a_cpu_are_of_what_it_reached_when_the_run_began():
    limits = {"name": "this CPU", "flops_per_second": 2e11, "bytes_per_second": 2e10}
    limits |= {"memory_bytes": 0, "source": "measured: a CPU", "peaks": {"float32": 2e11}}
    measured = row("full", "NumPy", n=1024, seconds=0.1)
    on_cpu = record(measured) | {"settings": {"device": "cpu", "dtype": "float32"}}
    assert records.device_of(on_cpu) is None and ", 21%" not in reports.tables(on_cpu)
    on_cpu["limits"] = limits
    text = reports.tables(on_cpu)
    assert "Shares are of this CPU: 200 GFLOP/s and 20 GB/s (measured: a CPU)." in text
    assert f", {4 * 16 * 1024**2 * 64 / 2e11 / 0.1:.0%}" in text


@pytest.mark.parametrize(
    ("ours", "theirs", "found", "words"),
    [
        ({1: 5, 2: 5, 4: 5}, {1: 1, 2: 6, 4: 9}, 2, "from n = 2"),
        ({1: 5, 2: 5, 4: 9}, {1: 6, 2: 6, 4: 8}, None, "never here"),  # only the longest counts
        ({1: 1, 2: 1}, {1: 2, 2: 2, 4: 3}, 1, "at every length here"),
        ({1: 2, 2: 1}, {1: 1, 2: 1}, None, "never here"),
        ({1: 1}, {2: 2}, None, "not measured"),
    ],
)
def test_crossover(ours, theirs, found, words):
    assert records.crossover(ours, theirs) == found
    assert records.crossover_words(ours, theirs) == words


def test_speedups_are_of_our_own_where_both_are_timed():
    found = record(
        row("full", n=512, seconds=4e-3), row("full", n=1024, seconds=9e-3), row("window", n=1024),
        row("window", n=2048), row("full", "SDPA", n=1024, seconds=1.0),
        row("full", n=2048, heads=8),
    )  # fmt: skip
    setting = {"heads": 16, "mode": "forward"}
    assert records.times(found, "full", **setting) == {512: 4e-3, 1024: 9e-3}
    gains = records.speedups(found, "full", "window", **setting)
    assert gains == {1024: 9.0} and records.speedup_words(gains) == "9.0× at n = 1024"
    assert records.speedup_words({1: 2.0, 2: 3.0, 4: 8.0}) == "2.0× at n = 1, 8.0× at n = 4"
    assert records.times(None, "full") == records.speedups(found, "full", "topk") == {}
    assert records.speedup_words({}) == "no such run is recorded"


def test_chapter_e_is_compared_in_its_own_setting():
    e = {"heads": 12}
    measured = record(
        row("full", seconds=8e-3, **e), row("flash", seconds=1e-3, **e),
        row("performer", seconds=2e-3, **e), row("full", seconds=1.0),
        row("full", "SDPA", seconds=1e-6, **e),
    )  # fmt: skip
    assert records.chapter_e(measured) == [(4096, "performer", 8.2, 4.0), (4096, "flash", 3.9, 8.0)]
    text = reports.tables(measured)
    assert "| 4096 | performer | 8.2× | 4.0× | no |" in text
    assert "| 4096 | flash | 3.9× | 8.0× | yes |" in text


def test_the_report_names_what_was_not_measured_and_estimates_nothing():
    measured = record(
        row("full", seconds=8e-3), row(predicted={"flops": 5, "peak_bytes": 2**20}),
        row("window", n=512, seconds=1e-4), row("full", n=512, seconds=2e-4),
        {**row("full", n=131072), "skipped": "needs 512.0 GiB"},
        {**row(implementation="cuDNN"), "absent": "no cuDNN"}, complete=False,
    )  # fmt: skip
    for unmeasured in measured["measurements"][-2:]:
        del unmeasured["seconds"]
    text = reports.tables(measured)
    assert "driver 570.1" in text and "not complete: the same command goes on" in text
    assert "| flash | Triton | – | 1 ms ±10% | – |" in text
    assert "1.0 MiB (1.00 of predicted)" in text
    assert "- full, Triton at n = 131072: skipped: needs 512.0 GiB" in text
    assert "- flash, cuDNN: absent: no cuDNN" in text
    assert "| flash | at every length here | not measured |" not in text
    assert "| window | at every length here | not measured |" in text
