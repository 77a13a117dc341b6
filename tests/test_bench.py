import importlib.util
import json
import subprocess

import pytest

from attncourse import bench, cli, measure, peers
from attncourse.catalogue import MECHANISMS

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="SDPA is torch's"
)


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """FlexAttention compiles for seconds at each length; test_peers tries it once."""
    kept = tuple(peer for peer in peers.PEERS if peer.name != "FlexAttention")
    monkeypatch.setattr(peers, "PEERS", kept)


def record_in(folder):
    (path,) = folder.glob("bench-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


@needs_torch
def test_every_mechanism_is_measured_beside_sdpa_and_its_prediction(tmp_path, capsys):
    arguments = ["bench", "--cpu", "--n", "64", "100", "--repeats", "3", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    record = record_in(tmp_path)
    assert record["complete"] and record["settings"]["lengths"] == [64, 100]
    assert record["machine"]["versions"]["numpy"] and record["date"].startswith("20")
    measured = {(m["mechanism"], m["implementation"], m["n"]): m for m in record["measurements"]}
    for n in (64, 100):
        assert ("full", "SDPA", n) in measured
        for stem, mechanism in MECHANISMS.items():
            own = measured[stem, "NumPy", n]
            assert own["knobs"] == mechanism.values
            assert 0 < own["seconds"]["low"] <= own["seconds"]["median"] <= own["seconds"]["high"]
            assert own["seconds"]["repeats"] == 3
            cost = mechanism.reference.cost(1, 1, n, n, 64, **mechanism.values)
            assert own["predicted"]["peak_bytes"] == cost.peak_bytes
            assert own["predicted"]["flops"] == cost.flops
            assert own["peak_bytes"] > 0
            if stem != "full" and "mask" in mechanism.has:
                assert (stem, "SDPA with a dense mask", n) in measured
    output = capsys.readouterr()
    assert output.out.strip().endswith(".json")
    assert "n = 64, window, NumPy: " in output.err


def test_peers_can_be_left_out_and_absent_ones_are_listed(tmp_path, monkeypatch):
    missing = peers.Peer("nobody", "no_such_package", lambda m: m.stem == "window", None)
    monkeypatch.setattr(peers, "PEERS", (*peers.PEERS, missing))
    arguments = ["--n", "32", "--repeats", "1", "--without", "SDPA", "--out", str(tmp_path)]
    assert cli.main(["bench", "--cpu", *arguments]) == 0
    measured = {m["implementation"]: m for m in record_in(tmp_path)["measurements"]}
    assert "SDPA" not in measured
    assert measured["nobody"]["absent"] == "no_such_package is not installed"


def test_quick_is_small(tmp_path):
    setting_of = []

    def stop(setting):
        setting_of.append(setting)
        return iter(())

    original, bench._jobs = bench._jobs, stop
    try:
        assert cli.main(["bench", "--cpu", "--quick", "--out", str(tmp_path)]) == 0
    finally:
        bench._jobs = original
    assert setting_of[0].lengths == bench.QUICK_LENGTHS
    assert record_in(tmp_path)["measurements"] == []


def test_control_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    original, calls = bench._measure, []

    def interrupted(job, setting):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(job, setting)

    monkeypatch.setattr(bench, "_measure", interrupted)
    assert cli.main(["bench", "--cpu", "--n", "32", "--out", str(tmp_path)]) == 130
    record = record_in(tmp_path)
    assert not record["complete"] and len(record["measurements"]) == 1
    assert "what was measured is kept" in capsys.readouterr().err
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_what_does_not_fit_is_skipped_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_free_bytes", lambda device: 100_000)
    assert cli.main(["bench", "--cpu", "--n", "256", "--repeats", "1", "--out", str(tmp_path)]) == 0
    (full,) = [
        m
        for m in record_in(tmp_path)["measurements"]
        if (m["mechanism"], m["implementation"]) == ("full", "NumPy")
    ]
    assert full["skipped"] == "needs 320.0 KiB, 97.7 KiB are free"
    assert "seconds" not in full and full["predicted"]["peak_bytes"] > 0


def test_a_mechanism_that_fails_is_named_and_the_rest_is_measured(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(MECHANISMS["full"].reference, "attention", broken)
    assert cli.main(["bench", "--cpu", "--n", "32", "--repeats", "1", "--out", str(tmp_path)]) == 1
    measured = {
        (m["mechanism"], m["implementation"]): m for m in record_in(tmp_path)["measurements"]
    }
    assert measured["full", "NumPy"]["failed"] == "RuntimeError: no such luck"
    assert measured["window", "NumPy"]["seconds"]


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_has_cuda", lambda: False)
    assert cli.main(["bench", "--gpu", "--out", str(tmp_path)]) == 1
    assert "no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--n", "0"], ["--repeats", "-1"], ["--heads", "x"], []])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *(["--cpu"] if wrong else []), *wrong])
    assert ended.value.code == 2


def test_latest_takes_the_newest_readable_record(tmp_path):
    for name, date in (("a", "2026-01-01"), ("b", "2026-03-01"), ("c", "2026-02-01")):
        (tmp_path / f"bench-gpu-{name}.json").write_text(json.dumps({"date": date}))
    (tmp_path / "bench-gpu-d.json").write_text("{")
    (tmp_path / "bench-cpu-e.json").write_text(json.dumps({"date": "2026-12-01"}))
    assert bench.latest("gpu", tmp_path) == {"date": "2026-03-01"}
    assert bench.latest("gpu", tmp_path / "none") is None


def test_show_gpu_says_that_there_is_neither_gpu_nor_record(monkeypatch, capsys):
    monkeypatch.setattr(bench, "_has_cuda", lambda: False)
    monkeypatch.setattr(bench, "latest", lambda device: None)
    bench.show_gpu("window")
    assert "no run on one is recorded yet" in capsys.readouterr().out


def test_show_gpu_shows_the_record_with_machine_and_date(monkeypatch, capsys):
    measured = {
        "mechanism": "window",
        "implementation": "Triton",
        "n": 4096,
        "seconds": {"median": 0.001, "low": 0.001, "high": 0.002, "repeats": 5},
        "peak_bytes": 2**20,
    }
    record = {
        "machine": {"gpu": "Some GPU"},
        "commit": "0123456789abcdef",
        "date": "2026-05-04T03:02:01+00:00",
        "settings": {"heads": 16, "width": 64, "dtype": "float16"},
        "measurements": [measured, measured | {"mechanism": "other"}],
    }
    monkeypatch.setattr(bench, "_has_cuda", lambda: False)
    monkeypatch.setattr(bench, "latest", lambda device: record)
    bench.show_gpu("window")
    text = capsys.readouterr().out
    assert "Some GPU, recorded on 2026-05-04, commit 0123456789ab" in text
    assert (
        "window, Triton" in text and "1 ms (quartiles 1 ms to 2 ms, 5 calls), peak 1.0 MiB" in text
    )
    assert "other" not in text


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(bench.attncourse, "__file__", str(tmp_path / "attncourse" / "__init__.py"))
    (tmp_path / "attncourse").mkdir()
    assert bench._commit() == "unknown"

    # A package inside somebody else's checkout, as in .venv, must not borrow its commit.
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    assert bench._commit() == "unknown"
    (tmp_path / "attncourse" / "__init__.py").touch()
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "y"], cwd=tmp_path, check=True)
    assert len(bench._commit()) == 40
    (tmp_path / "attncourse" / "__init__.py").write_text("changed")
    assert bench._commit().endswith("+")


@pytest.mark.gpu
def test_the_kernels_are_measured_on_a_gpu(tmp_path):
    if not bench._has_cuda():
        pytest.skip("needs a CUDA device")
    assert cli.main(["bench", "--gpu", "--quick", "--out", str(tmp_path)]) == 0
    record = record_in(tmp_path)
    assert record["machine"]["gpu"] and record["settings"]["dtype"] == "float16"
    assert {"Triton", "SDPA"} <= {m["implementation"] for m in record["measurements"]}
    assert measure.Timing(**record["measurements"][0]["seconds"]).median > 0


def test_report_draws_and_tabulates_the_latest_record(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    arguments = ["--n", "32", "64", "--repeats", "1", "--out", str(results)]
    assert cli.main(["bench", "--cpu", *arguments]) == 0
    capsys.readouterr()
    latest = bench.latest
    monkeypatch.setattr(bench, "latest", lambda device: latest(device, results))
    assert bench.report(tmp_path / "docs") == 0
    assert (tmp_path / "docs" / "bench-cpu.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "no run on a gpu is recorded yet" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| window | NumPy |")]
    assert len(rows) == 1 and rows[0].count("|") == 5


def test_the_picture_of_a_record_names_every_mechanism(tmp_path):
    from attncourse import plots

    measured = [
        {"mechanism": stem, "implementation": "NumPy", "n": n, "peak_bytes": n * 1000,
         "seconds": {"median": n / 1e6, "low": 0, "high": 0, "repeats": 1}}
        for stem in MECHANISMS for n in (512, 1024)
    ]  # fmt: skip
    measured.append({"mechanism": "full", "implementation": "NumPy", "n": 2048, "skipped": "big"})
    figure = plots.benchmark({"measurements": measured})
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == {s.replace("_", " ") for s in MECHANISMS}


def test_nothing_recorded_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "latest", lambda device: None)
    assert bench.report(tmp_path) == 1
    assert "no run on a cpu is recorded yet" in capsys.readouterr().out
