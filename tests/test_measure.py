import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

from attncourse import measure


def test_seconds_finds_the_median_and_the_quartiles(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    delays = iter([500.0, 4.0, 1.0, 2.0, 3.0, 5.0])  # the first one is the warm-up

    def call():
        nonlocal now
        now += next(delays)

    timing = measure.seconds(call, repeats=5, warmup=1)
    assert timing == measure.Timing(median=3.0, low=2.0, high=4.0, repeats=5)


def test_seconds_calls_warmup_and_repeats_and_nothing_more():
    calls = []
    timing = measure.seconds(calls.append, 7, repeats=1, warmup=2)
    assert calls == [7, 7, 7]
    assert timing.low == timing.median == timing.high > 0
    assert measure.seconds(time.sleep, 0.01).median >= 0.01


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warmup": -1}])
def test_seconds_refuses_counts_that_measure_nothing(wrong):
    with pytest.raises(ValueError, match=r"measure\.seconds: repeats must be at least 1"):
        measure.seconds(print, **wrong)


def test_timing_reads_as_a_sentence():
    timing = measure.Timing(0.002, 0.001, 0.003, 5)
    assert str(timing) == "2 ms (quartiles 1 ms to 3 ms, 5 calls)"


def test_at_most_ends_the_repeats_but_one_is_always_made(monkeypatch):
    ticks = itertools.count(step=0.02)  # each call takes 20 ms
    monkeypatch.setattr(measure.timing.time, "perf_counter", ticks.__next__)
    calls = []
    timing = measure.seconds(calls.append, 1, at_most=0.03, repeats=50)
    assert timing.repeats == 2 and len(calls) == 3  # and one to warm up
    assert measure.seconds(len, (), at_most=0, repeats=50, warmup=0).repeats == 1
    assert measure.seconds(len, (), at_least=3, at_most=0, repeats=50).repeats == 3


def test_flushing_fills_the_caches_before_each_call_and_outside_of_its_time(monkeypatch):
    order = []
    monkeypatch.setattr(
        measure.timing, "_flusher", lambda device: lambda: (order.append("flush"), time.sleep(0.05))
    )
    timing = measure.seconds(lambda: order.append("call"), flush=True, repeats=2, warmup=1)
    assert order == ["call", "flush", "call", "flush", "call"]
    assert timing.high < 0.05


def test_energy_needs_a_gpu():
    assert measure.energy(np.ones, 10) is None


class FakeCuda:
    """Tensors that say they lie on a GPU, and the few calls that `energy` makes."""

    class Tensor:
        device = type("Device", (), {"type": "cuda"})

    class cuda:
        synchronize = staticmethod(lambda device: None)
        get_device_properties = staticmethod(lambda device: type("P", (), {"uuid": "12"}))


@pytest.mark.parametrize("meter", ["counter", "power", "none"])
def test_energy_of_a_call_from_a_counter_or_from_power(monkeypatch, meter):
    monkeypatch.setitem(sys.modules, "torch", FakeCuda)
    calls, now = [], 0.0

    def call(tensor):
        nonlocal now
        calls.append(tensor)
        now += 0.01

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    counter = (lambda: 3.0 * len(calls)) if meter == "counter" else None
    meters = {"GPU-12": counter}
    monkeypatch.setattr(measure.joules, "_energy_meter", meters.__getitem__)
    monkeypatch.setattr(measure.joules, "_watts", lambda gpu: 300.0 if meter == "power" else None)
    joules = measure.energy(call, FakeCuda.Tensor(), at_least=0.5)
    assert joules == {"counter": 3.0, "power": pytest.approx(3.0), "none": None}[meter]
    assert 50 <= len(calls) <= 52


def test_progress_is_quiet_for_two_seconds_and_wipes_its_line(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for _ in measure.progress(range(4), "sweep", show=True):
        now += 0.4
    assert capsys.readouterr().err == ""
    for item in measure.progress(iter("abcd"), "sweep", total=4, show=True):
        now += 2
        assert item in "abcd"
    lines = capsys.readouterr().err.split("\r")
    assert lines[1:4] == [
        "sweep: 2 of 4, 4 s gone, about 4 s left",
        "sweep: 3 of 4, 6 s gone, about 2 s left",
        " " * len(lines[1]),
    ]
    for _ in measure.progress(range(9), "sweep"):  # no terminal here
        now += 2
    assert capsys.readouterr().err == ""


def test_progress_says_beforehand_how_long_it_takes(monkeypatch, capsys):
    for _ in measure.progress(range(2), "sweep", expect_seconds=40, show=True):
        assert capsys.readouterr().err in ("\rsweep: about 40 s", "")
    assert capsys.readouterr().err == f"\r{'':<17}\r"
    list(measure.progress(range(2), "sweep", expect_seconds=1.5, show=True))
    assert capsys.readouterr().err == ""


def test_progress_writes_one_line_for_loops_inside_each_other(capsys):
    for _ in measure.progress(range(2), "outer", expect_seconds=9, show=True):
        list(measure.progress(range(2), "inner", expect_seconds=9, show=True))
    with pytest.raises(KeyboardInterrupt):
        for _ in measure.progress(range(2), "stopped", expect_seconds=9, show=True):
            raise KeyboardInterrupt
    list(measure.progress(range(2), "later", expect_seconds=9, show=True))
    said = capsys.readouterr().err
    assert "inner" not in said and "later: about 9 s" in said


def test_progress_writes_seldom_however_short_the_steps(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for _ in measure.progress(range(10_000), "sweep", show=True):
        now += 0.001
    assert 20 < capsys.readouterr().err.count("\rsweep") <= 41


class Shown:
    """What IPython's display was given."""

    def __init__(self):
        self.lines = []

    def __call__(self, data, **how):
        assert how.pop("raw") and how in ({}, {"display_id": True})
        self.lines.append(data["text/plain"])
        return self

    update = __call__


@pytest.mark.parametrize("runner", ["a person", "nbval", "the build"])
def test_progress_shows_below_the_cell_to_a_person_only(monkeypatch, capsys, runner):
    shown = Shown()
    monkeypatch.setattr("IPython.display.display", shown)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if runner != "the build":
        monkeypatch.setenv("JPY_SESSION_NAME", "13_measuring.ipynb")
    if runner == "nbval":
        monkeypatch.setenv("PYTEST_CURRENT_TEST", "13_measuring.ipynb::Cell 3 (setup)")
    assert list(measure.progress("ab", "sweep", expect_seconds=40)) == ["a", "b"]
    assert shown.lines == (["sweep: about 40 s", ""] if runner == "a person" else [])
    assert capsys.readouterr() == ("", "")


@pytest.mark.gpu
def test_cuda_peak_and_seconds():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x = torch.ones(1024, 1024, device="cuda")
    assert measure.peak_bytes(lambda x: (x + 1) * 2, x) == 2 * x.numel() * 4
    small = measure.seconds(torch.matmul, x, x)
    large = measure.seconds(torch.matmul, *(torch.ones(8192, 8192, device="cuda"),) * 2)
    assert large.median > 20 * small.median  # 512 times the work: the wait is in the figure
    assert measure.seconds(torch.matmul, x, x, flush=True).median > 0
    assert (joules := measure.energy(torch.matmul, x, x)) is None or 0 < joules < 10
    with measure.watch() as seen:
        x + 1
    assert seen.cuda_peak_bytes == x.numel() * 4


def test_machine_names_what_a_measurement_depends_on():
    facts = measure.machine()
    assert facts["cpu"] and facts["cores"] >= 1
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["cpu"] in str(facts) and "numpy" in str(facts)


def test_measuring_numpy_imports_no_torch():
    code = (
        "import sys; from attncourse import measure; measure.machine(); "
        "measure.seconds(sum, [1]); measure.peak_bytes(sum, [1]); "
        "assert not {'torch', 'triton', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
