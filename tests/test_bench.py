import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import pytest

from attncourse import bench, cli, measure, units
from attncourse.bench import (
    jobs,
    measuring,
    notebook,
    peers,
    records,
    reports,
    runner,
    settings,
    store,
)
from attncourse.catalogue import MECHANISMS
from attncourse.cost import DEVICES
from attncourse.gpu_run import command

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="SDPA is torch's"
)


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """FlexAttention compiles for seconds at each length; test_peers tries it once."""
    kept = tuple(peer for peer in peers.PEERS if peer.name != "FlexAttention")
    monkeypatch.setattr(peers, "PEERS", kept)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """The GPU's whole run on this CPU: kernels in the interpreter, tensors that stay here."""
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    assert MECHANISMS["full"].kernel  # before anything else imports triton
    monkeypatch.setattr(jobs, "CUDA", "cpu")
    monkeypatch.setattr(measuring, "has_cuda", lambda: True)
    monkeypatch.setattr(measuring, "is_lost", lambda: False)
    monkeypatch.setattr(measure, "free_bytes", lambda device: 2**33)
    monkeypatch.setattr(measure.timing, "FLUSH_BYTES", 1024)
    monkeypatch.setattr(measure.hardware, "_gpu_name", lambda: "NVIDIA H100 80GB HBM3")
    kept = (p for p in peers.PEERS if not p.slow and ("cpu" in p.devices or p.absent))
    monkeypatch.setattr(peers, "PEERS", tuple(kept))


def gpu(folder, *arguments):
    return cli.main(["bench", "--gpu", "--repeats", "2", "--out", str(folder), *arguments])


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
            assert own["mode"] == "forward" and own["causal"] is False
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


def test_quick_is_small(tmp_path, monkeypatch):
    setting_of = []

    def stop(setting):
        setting_of.append(setting)
        return iter(())

    monkeypatch.setattr(jobs, "sweep", stop)
    assert cli.main(["bench", "--cpu", "--quick", "--out", str(tmp_path)]) == 0
    assert setting_of[0].lengths == settings.QUICK_LENGTHS
    assert record_in(tmp_path)["measurements"] == []


def test_control_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    original, calls = measuring.measure_job, []

    def interrupted(job, *rest):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(job, *rest)

    monkeypatch.setattr(measuring, "measure_job", interrupted)
    assert cli.main(["bench", "--cpu", "--n", "32", "--out", str(tmp_path)]) == 130
    record = record_in(tmp_path)
    assert not record["complete"] and len(record["measurements"]) == 1
    assert "what was measured is kept" in capsys.readouterr().err
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_short_calls_are_timed_often_and_long_ones_a_few_times(tmp_path, monkeypatch):
    asked, timed = [], measure.seconds

    def seconds(function, *args, **knobs):
        asked.append({name: knobs[name] for name in ("repeats", "at_least", "at_most", "flush")})
        return timed(function, *args, repeats=1)

    monkeypatch.setattr(measure, "seconds", seconds)
    assert cli.main(["bench", "--cpu", "--n", "32", "--out", str(tmp_path)]) == 0
    often = {"repeats": 50, "at_least": 5, "at_most": 0.2, "flush": False}
    assert asked and all(each == often for each in asked)
    limits = record_in(tmp_path)["limits"]
    assert limits["peaks"]["float32"] == limits["flops_per_second"] > 1e8


def test_what_does_not_fit_is_skipped_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "free_bytes", lambda device: 100_000)
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
    monkeypatch.setattr(measuring, "has_cuda", lambda: False)
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


def test_latest_passes_over_records_without_what_is_asked_for(tmp_path):
    def keep(day, heads, *stems):
        timed = {"implementation": "Triton", "n": 512, "seconds": {"median": 1.0}}
        rows = [{**timed, "mechanism": stem, "heads": heads} for stem in stems]
        record = {"date": f"2026-01-0{day}", "settings": {}, "measurements": rows}
        (tmp_path / f"bench-gpu-{day}.json").write_text(json.dumps(record))

    keep(1, 16, "full", "window")
    keep(2, 8, "full", "window")
    keep(3, 16, "full")
    ask = functools.partial(bench.latest, "gpu", tmp_path)
    assert ask()["date"] == ask(mechanisms=["full"], heads=16)["date"] == "2026-01-03"
    assert ask(mechanisms=["full", "window"], heads=16)["date"] == "2026-01-01"
    assert ask(mechanisms=["full", "window"])["date"] == "2026-01-02"
    assert ask(mechanisms=["flash"]) is None and ask(mechanisms=["full"], heads=4) is None


def test_show_gpu_says_that_there_is_neither_gpu_nor_record(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "has_cuda", lambda: False)
    monkeypatch.setattr(store, "latest", lambda device, **wanted: None)
    bench.show_gpu("window")
    said = "no run on one is recorded yet\nthat has window forward, not causal, 16 heads of 64"
    assert said in capsys.readouterr().out


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
    monkeypatch.setattr(measuring, "has_cuda", lambda: False)
    monkeypatch.setattr(store, "latest", lambda device, **wanted: record)
    bench.show_gpu("window")
    text = capsys.readouterr().out
    assert "Some GPU, recorded on 2026-05-04, commit 0123456789ab" in text
    row = next(line for line in text.splitlines() if "window, Triton" in line)
    assert row.split() == "4096 window, Triton – 1 ms 50% – 1.0 MiB".split()
    assert "other" not in text and "does not hide the launch" in text
    assert "the peaks of this GPU are unknown" in text
    record["measurements"] = [
        measured | {"mode": "forward", "seconds": dict.fromkeys(("median", "low", "high"), 123e-6)
                    | {"repeats": 20}, "peak_bytes": 1000 * 2**20},
        {"mechanism": "full", "implementation": "SDPA", "n": 16384, "mode": "forward",
         "skipped": "too long"},
    ]  # fmt: skip
    bench.show_gpu("window")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "full, SDPA: skipped: too long (n = 16384)" in text
    assert "launch" not in text


def test_show_gpu_sets_time_and_memory_beside_what_cost_predicts(monkeypatch, capsys):
    cost = MECHANISMS["window"].reference.cost(1, 16, 4096, 4096, 64, window=64, dtype_bytes=2)
    row = {
        "mechanism": "window",
        "implementation": "FlashAttention-2, local",
        "n": 131072,
        "mode": "forward",
        "seconds": {"median": 0.0123, "low": 0.0123, "high": 0.0123, "repeats": 5},
        "peak_bytes": 1000 * 2**20,
    }
    own = row | {"implementation": "Triton", "predicted": dataclasses.asdict(cost)}
    skipped = {key: own[key] for key in own if key not in ("seconds", "peak_bytes")}
    record = {
        "machine": {"gpu": "NVIDIA H200"},
        "commit": "0" * 40,
        "date": "2026-05-04T03:02:01+00:00",
        "settings": {"heads": 16, "width": 64, "dtype": "float16"},
        "measurements": [row, own, skipped | {"mechanism": "full", "skipped": "too long"}],
    }
    monkeypatch.setattr(measuring, "has_cuda", lambda: False)
    monkeypatch.setattr(store, "latest", lambda device, **wanted: record)
    bench.show_gpu("window")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    least = units.format_seconds(cost.seconds(DEVICES["H200"], "float16"))
    predicted = f"{least} 12.3 ms 0% {units.format_bytes(cost.peak_bytes)} 1000.0 MiB"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"131072 window, Triton {predicted}" in lines
    assert "131072 window, FlashAttention-2, local – 12.3 ms 0% – 1000.0 MiB" in lines
    not_run = f"{least} – – {units.format_bytes(cost.peak_bytes)} –"
    assert f"131072 full, Triton {not_run}" in lines
    assert "the peaks of an H200" in text


def test_show_gpu_measures_now_what_does_not_compile_for_seconds(
    monkeypatch, pretended_gpu, capsys
):
    monkeypatch.setattr(notebook, "SHOWN", notebook.SHOWN | {"heads": 1})
    bench.show_gpu("window", lengths=[32])
    text = capsys.readouterr().out
    assert "H100 80GB HBM3, measured now" in text
    cost = MECHANISMS["window"].kernel.cost(
        1, 1, 32, 32, 64, **MECHANISMS["window"].values, dtype_bytes=2
    )
    row = next(line for line in text.splitlines() if "window, Triton" in line)
    least = units.format_seconds(cost.seconds(DEVICES["H100 80 GB"], "float16"))
    assert row.split()[3:5] == least.split()
    assert units.format_bytes(cost.peak_bytes) in row
    assert "dense mask" not in text and "full, SDPA" in text


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(store.attncourse, "__file__", str(tmp_path / "attncourse" / "__init__.py"))
    (tmp_path / "attncourse").mkdir()
    assert store.commit() == "unknown"

    # A package inside somebody else's checkout, as in .venv, must not borrow its commit.
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    assert store.commit() == "unknown"
    (tmp_path / "attncourse" / "__init__.py").touch()
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "y"], cwd=tmp_path, check=True)
    assert len(store.commit()) == 40
    (tmp_path / "attncourse" / "__init__.py").write_text("changed")
    assert store.commit().endswith("+")


@pytest.mark.gpu
def test_the_kernels_are_measured_on_a_gpu(tmp_path):
    if not measuring.has_cuda():
        pytest.skip("needs a CUDA device")
    assert cli.main(["bench", "--gpu", "--quick", "--out", str(tmp_path)]) == 0
    record = record_in(tmp_path)
    assert record["machine"]["gpu"] and record["settings"]["dtype"] == "float16"
    assert {"Triton", "SDPA"} <= {m["implementation"] for m in record["measurements"]}
    assert measure.Timing(**record["measurements"][0]["seconds"]).median > 0


def test_the_same_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    arguments = ["bench", "--cpu", "--n", "16", "--repeats", "1", "--without", "SDPA",
                 "SDPA with a dense mask", "--out", str(tmp_path)]  # fmt: skip
    clock = iter(range(1000))
    with monkeypatch.context() as stopped:
        stopped.setattr(runner.time, "monotonic", lambda: next(clock))
        assert cli.main([*arguments, "--minutes", "0.2"]) == 0
    first = record_in(tmp_path)
    assert not first["complete"] and 0 < len(first["measurements"]) < 20
    said = capsys.readouterr().err
    assert "out of time" in said and "are left for the same command" in said
    assert cli.main(arguments) == 0
    whole = record_in(tmp_path)  # one file still
    assert whole["complete"] and whole["date"] == first["date"]
    assert whole["measurements"][: len(first["measurements"])] == first["measurements"]
    names = [(m["mechanism"], m["implementation"]) for m in whole["measurements"]]
    assert len(names) == len(set(names)) and set(MECHANISMS) <= {stem for stem, _ in names}
    assert "going on with bench-cpu-" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["commit", "settings", "complete", "broken"])
def test_what_does_not_fit_is_not_gone_on_with(tmp_path, change):
    setting = settings.DEFAULTS["cpu"]
    record = json.loads(json.dumps(store.header(setting)))
    path = store.path_of(record, tmp_path)
    store.write(record, path)
    assert store.unfinished(setting, tmp_path) == (record, path)
    record |= {"commit": {"commit": "another"}, "settings": {"settings": {}},
               "complete": {"complete": True}, "broken": {}}[change]  # fmt: skip
    store.write(record, path)
    if change == "broken":
        path.write_text("{")
    assert store.unfinished(setting, tmp_path) == (None, None)


def test_a_gpu_run_measures_every_kernel_in_every_mode(tmp_path, monkeypatch, pretended_gpu):
    def once(function, *args, repeats, **rest):
        function(*args)
        return measure.Timing(2.0, 1.0, 3.0, repeats)

    monkeypatch.setattr(measure, "seconds", once)
    monkeypatch.setattr(measure, "peak_bytes", lambda function, *args, **rest: 7)
    arguments = ["--n", "64", "--heads", "1", "--width", "16", "--causal", "no"]
    assert gpu(tmp_path, *arguments, "--mode", "forward", "backward") == 0
    record = record_in(tmp_path)
    assert record["complete"] and record["settings"]["dtype"] == "float16"
    rows = records.rows(record)
    ours = {(r["mechanism"], r["mode"]): r for r in rows if r["implementation"] == "Triton"}
    for stem, mechanism in MECHANISMS.items():
        if "kernel" not in mechanism.has:
            assert not any(row["mechanism"] == stem for row in rows)
            continue
        row = ours[stem, "forward"]
        assert row["seconds"]["repeats"] == 2 and row["peak_bytes"] == 7
        expected = mechanism.kernel.cost(1, 1, 64, 64, 16, **mechanism.values, dtype_bytes=2)
        assert row["predicted"]["peak_bytes"] == expected.peak_bytes
        assert ((stem, "backward") in ours) == ("backward" in mechanism.has)
    theirs = [row for row in rows if row["implementation"] != "Triton"]
    assert not any("failed" in row or "differs" in row for row in theirs), theirs
    absent = {row["implementation"] for row in theirs if "absent" in row}
    assert "memory-efficient-attention" in absent


def test_a_wrong_peer_is_measured_and_told(tmp_path, monkeypatch, pretended_gpu):
    wrong = peers.Peer(
        "wrong", "torch", lambda m: m.stem == "full", lambda *a: (lambda q, k, v: v + 1, {})
    )
    monkeypatch.setattr(peers, "PEERS", (wrong,))
    monkeypatch.setattr(jobs, "MECHANISMS", {"full": MECHANISMS["full"]})
    gpu(tmp_path, "--n", "64", "--heads", "1", "--width", "16", "--mode", "forward",
        "--causal", "no")  # fmt: skip
    (row,) = records.rows(record_in(tmp_path), implementation="wrong")
    assert row["differs"].endswith("of the largest value from our kernel's result")
    assert "differs: by" in reports.tables(record_in(tmp_path))


def test_a_lost_gpu_starts_the_command_again(tmp_path, monkeypatch, pretended_gpu):
    def lost(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    started = []
    monkeypatch.setattr(MECHANISMS["full"].kernel, "attention", lost)
    monkeypatch.setattr(measuring, "is_lost", lambda: True)
    monkeypatch.setattr(runner.os, "execv", lambda *given: started.append(given) or 1 / 0)
    monkeypatch.setattr(
        runner.sys, "argv", ["attncourse", "bench", "--gpu", "--fresh", "--n", "64"]
    )
    with pytest.raises(ZeroDivisionError):
        gpu(tmp_path, "--n", "64", "--heads", "1", "--width", "16", "--minutes", "5")
    ((_, command),) = started
    assert command[1:7] == ["-m", "attncourse.cli", "bench", "--gpu", "--n", "64"]
    assert command[7] == "--minutes" and 4 < float(command[8]) <= 5
    (row,) = record_in(tmp_path)["measurements"]  # kept, so that it is not tried again
    assert row["failed"] == "RuntimeError: CUDA error: an illegal memory access was encountered"


def test_what_would_take_too_long_is_skipped(tmp_path, monkeypatch, pretended_gpu):
    monkeypatch.setattr(measuring, "LONGEST_CALL", 0.0)
    monkeypatch.setattr(jobs, "MECHANISMS", {"full": MECHANISMS["full"]})
    gpu(tmp_path, "--n", "32", "64", "--heads", "1", "--width", "16", "--mode", "forward",
        "--causal", "no")  # fmt: skip
    first, second = records.rows(record_in(tmp_path), implementation="Triton")
    assert "seconds" in first and second["skipped"].startswith("a call would take ")


def test_how_long_a_call_may_take_follows_from_shorter_ones():
    job = jobs.Job("window", "Triton", settings.Point(4096, 64, 16), {}, None, int, None)
    rest = (1, 16, 64, False, "forward")
    assert measuring.expected_seconds(job, {}) == 0
    assert measuring.expected_seconds(job, {("window", "Triton", 1024, *rest): 1.0}) == 16
    two = {("window", "Triton", n, *rest): n / 1024 for n in (1024, 2048)}
    assert measuring.expected_seconds(job, two) == pytest.approx(4)
    other = {("window", "Triton", 2048, 1, 16, 128, False, "forward"): 9.0}
    assert measuring.expected_seconds(job, other | {("full", "Triton", 2048, *rest): 9.0}) == 0


def test_the_default_run_on_a_gpu_begins_with_what_is_worth_most():
    found = list(jobs.sweep(settings.DEFAULTS["gpu"]))
    assert len({job.key for job in found}) == len(found)
    first = found[0].point
    assert (first.n, first.heads, first.batch, first.width) == (4096, 12, 1, 64)
    window = next(job for job in found if job.mechanism == "window")
    assert window.knobs["window"] == 512  # as chapter E counts
    assert not any(job.implementation == "FlexAttention" for job in found)  # the fixture above

    def first_of(**wanted):
        return next(
            number
            for number, job in enumerate(found)
            if all(getattr(job.point, key) == value for key, value in wanted.items())
        )

    # Each mechanism and mode with its strongest peer; decoding; the second width; other lengths.
    chapter_e = sum(job.point.heads == 12 for job in found)
    start, stop = chapter_e, first_of(mode="decode")
    main = found[start:stop]
    assert {job.point.n for job in main} == {4096, 16384}
    ours = {(j.mechanism, j.point.mode, j.point.causal) for j in main}
    assert ours == {
        (job.mechanism, job.point.mode, job.point.causal)
        for job in found
        if job.point.mode != "decode"
    }
    theirs = {(job.mechanism, job.implementation) for job in main} - {
        (job.mechanism, "Triton") for job in main
    }
    assert len(theirs) == len({stem for stem, _ in theirs})
    assert {("flash", "SDPA, cuDNN"), ("window", "FlashAttention-2, local")} <= theirs
    wide = first_of(width=128, mode="backward")
    assert stop < wide < first_of(n=1024)
    points = {(j.point.n, j.point.width, j.point.causal, j.point.mode) for j in found}
    for n in jobs.MAIN_LENGTHS:
        for width in (64, 128):
            assert {(n, width, causal, mode) for causal in (False, True)
                    for mode in ("forward", "backward")} <= points  # fmt: skip
    forward = {n for n, width, _, mode in points if (width, mode) == (64, "forward")}
    assert forward == set(settings.DEFAULTS["gpu"].lengths)


def test_the_default_run_on_a_gpu_fits_its_minutes():
    """By a run on an H200, where 695 measurements with 107 compiled kernels took 360 s.

    It timed calls for twice as long, and compiled one kernel after the other, at 1.7 s each; now
    eight processes compile beforehand, which count as four. A minute is left to the peers that
    compile for seconds.
    """
    found = list(jobs.sweep(settings.DEFAULTS["gpu"]))
    compiled = {
        (j.mechanism, j.point.width, j.point.causal, j.point.mode)
        for j in found
        if j.implementation == "Triton"
    }
    assert 0.15 * len(found) + 1.7 / 4 * len(compiled) + 60 < command.LIMITS["bench"]


def test_caches_are_measured_decoding(tmp_path, monkeypatch, pretended_gpu):
    """With the NumPy cache in the kernel's place: whoever has start, append and attend."""
    import torch

    class Cache:
        def append(self, k, v):
            self.k, self.v = k, v

        def attend(self, q, *, causal):
            assert causal and q.shape[-2] == 1
            return torch.nn.functional.scaled_dot_product_attention(
                q, self.k, self.v, enable_gqa=True
            )

    class Kernel:
        @staticmethod
        def start(k, v, *, page):
            assert page == 64 and k.shape == (8, 8, 100, 16)
            return Cache()

        cost = staticmethod(MECHANISMS["paged"].reference.cost)
        attention = None

    paged = dataclasses.replace(
        MECHANISMS["paged"], has=frozenset({"kernel", "step"}), kernel_module="fake_paged"
    )
    monkeypatch.setitem(sys.modules, "fake_paged", Kernel)
    monkeypatch.setattr(jobs, "MECHANISMS", {"paged": paged})
    assert gpu(tmp_path, "--n", "100", "--width", "16", "--mode", "decode") == 0
    row, xformers = record_in(tmp_path)["measurements"]
    assert row["mode"] == "decode" and row["groups"] == 8 and row["seconds"]["median"] > 0
    assert xformers["absent"] == "xformers is not installed"
    assert "decode, causal, batch 8, 32 heads of 16" in reports.tables(record_in(tmp_path))


def test_the_caches_of_the_kernels_are_measured_decoding(tmp_path, monkeypatch, pretended_gpu):
    for name, few in {"BATCH": 1, "HEADS": 4, "GROUPS": 2}.items():
        monkeypatch.setattr(jobs, f"DECODE_{name}", few)
    assert gpu(tmp_path, "--n", "64", "--width", "16", "--mode", "decode", "--repeats", "1") == 0
    rows = records.rows(record_in(tmp_path))
    measured = {row["mechanism"] for row in rows if "seconds" in row}
    assert measured >= {
        stem
        for stem, mechanism in MECHANISMS.items()
        if mechanism.family == "inference" and {"kernel", "step"} <= mechanism.has
    }


def test_report_draws_and_tabulates_the_latest_record(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    arguments = ["--n", "32", "64", "--repeats", "1", "--out", str(results)]
    assert cli.main(["bench", "--cpu", *arguments]) == 0
    capsys.readouterr()
    latest = store.latest
    monkeypatch.setattr(store, "latest", lambda device: latest(device, results))
    assert bench.report(tmp_path / "docs") == 0
    assert (tmp_path / "docs" / "bench-cpu.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert (tmp_path / "docs" / "bench-cpu.md").read_text(encoding="utf-8") in printed
    assert "no run on a gpu is recorded yet" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| window | NumPy |")]
    assert len(rows) == 2 and rows[0].count("|") == 5  # times, rates
    assert "| window | " in printed and "faster than flash" in printed


def test_the_picture_of_a_record_names_every_mechanism(tmp_path):
    from attncourse import plots

    measured = [
        {"mechanism": stem, "implementation": "NumPy", "n": n, "peak_bytes": n * 1000,
         "seconds": {"median": n / 1e6, "low": 0, "high": 0, "repeats": 1}}
        for stem in MECHANISMS for n in (512, 1024)
    ]  # fmt: skip
    measured.append({"mechanism": "full", "implementation": "NumPy", "n": 2048, "skipped": "big"})
    figure = plots.benchmark({"settings": {}, "measurements": measured})
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == {s.replace("_", " ") for s in MECHANISMS}


def test_nothing_recorded_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "latest", lambda device: None)
    assert bench.report(tmp_path) == 1
    assert "no run on a cpu is recorded yet" in capsys.readouterr().out


def test_here_measures_time_memory_and_error_of_every_mechanism():
    record = bench.here([32, 64], repeats=1, device="cpu")
    rows = {(row["mechanism"], row["n"]): row for row in records.rows(record)}
    assert record["complete"] and set(rows) == {(stem, n) for stem in MECHANISMS for n in (32, 64)}
    for stem in ("full", "chunked", "flash", "grouped", "kv_cache", "paged"):
        assert rows[stem, 64]["error"] < 1e-6
    assert rows["window", 64]["error"] < 1e-6 < 0.1 < rows["strided", 64]["error"]
    assert rows["linear", 64]["error"] > 0.1


def test_here_is_causal_in_any_type_and_leaves_out_what_cannot_be():
    record = bench.here(
        [48], repeats=1, device="cpu", dtype="float64", causal=True, heads=2, batch=3, width=8
    )
    rows = {row["mechanism"]: row for row in records.rows(record)}
    assert "linformer" not in rows and rows["flash"]["error"] < 1e-14
    assert (rows["flash"]["heads"], rows["flash"]["batch"]) == (2, 3)


def test_here_skips_what_would_take_too_long_and_keeps_what_control_c_left(monkeypatch):
    record = bench.here([64, 512], stems=["full"], repeats=1, device="cpu", limit=0)
    first, second = record["measurements"]
    assert first["seconds"] and second["skipped"].startswith("a call would take ")
    always = {"repeats": 1, "device": "cpu", "limit": 0, "always": ["full"]}
    record = bench.here([64, 512], stems=["full"], **always)
    assert all(row["seconds"] for row in record["measurements"])
    record = bench.here(
        [64, 128, 512], stems=["full"], repeats=1, device="cpu", limit=0, limit_from=512
    )
    assert ["skipped" in row for row in record["measurements"]] == [False, False, True]
    original = notebook._error

    def interrupted(job, exact):
        if job.mechanism == "flash":
            raise KeyboardInterrupt
        return original(job, exact)

    monkeypatch.setattr(notebook, "_error", interrupted)
    record = bench.here([64], stems=["full", "flash", "window"], repeats=1, device="cpu")
    assert not record["complete"] and len(record["measurements"]) == 1


def test_here_runs_kernels_on_a_gpu(pretended_gpu):
    record = bench.here([64], stems=["window", "topk"], repeats=1, width=16, dtype="float16")
    (row,) = record["measurements"]  # topk has no kernel
    assert row["implementation"] == "Triton" and row["error"] < 1e-2
