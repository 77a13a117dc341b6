import subprocess
import sys
import time

import numpy as np
import pytest

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, window


def ones(*shape):
    return np.ones(shape, np.float32)


def test_seconds_finds_the_median_and_the_quartiles(monkeypatch):
    now = 0.0
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
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


def test_peak_bytes_counts_the_temporary_and_not_the_input():
    array = ones(1000, 1000)

    def call(x):
        y = x + 1
        z = y * 2
        del y
        return z.sum()

    assert measure.peak_bytes(call, array) == pytest.approx(2 * array.nbytes, rel=0.01)


def test_peak_bytes_counts_the_output():
    assert measure.peak_bytes(np.zeros, 10**6) == pytest.approx(8e6, rel=0.01)


def test_peak_bytes_leaves_tracing_as_it_was():
    import tracemalloc

    measure.peak_bytes(np.zeros, 10)
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        measure.peak_bytes(np.zeros, 10)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_peak_bytes_stops_tracing_when_the_call_fails():
    import tracemalloc

    with pytest.raises(ZeroDivisionError):
        measure.peak_bytes(lambda: 1 / 0)
    assert not tracemalloc.is_tracing()


def test_peak_bytes_of_torch_on_the_cpu():
    torch = pytest.importorskip("torch")
    q = torch.ones(1, 1, 512, 64)

    def unfused(q):
        return torch.softmax(q @ q.transpose(-1, -2), -1) @ q

    assert measure.peak_bytes(unfused, q) == pytest.approx(2 * 512 * 512 * 4, rel=0.01)
    assert measure.peak_bytes(torch.zeros_like, q) == q.numel() * 4  # no library start-up in it
    assert measure.peak_bytes(lambda x: None, q) == 0


def test_at_most_ends_the_repeats_but_one_is_always_made():
    calls = []
    timing = measure.seconds(lambda: (calls.append(1), time.sleep(0.02)), at_most=0.03, repeats=50)
    assert timing.repeats == 2 and len(calls) == 3  # and one to warm up
    assert measure.seconds(time.sleep, 0.01, at_most=0, repeats=50, warmup=0).repeats == 1
    assert measure.seconds(time.sleep, 0.01, at_least=3, at_most=0, repeats=50).repeats == 3


def test_flushing_fills_the_caches_before_each_call_and_outside_of_its_time(monkeypatch):
    order = []
    monkeypatch.setattr(
        measure, "_cpu_flusher", lambda: lambda: (order.append("flush"), time.sleep(0.05))
    )
    timing = measure.seconds(lambda: order.append("call"), flush=True, repeats=2, warmup=1)
    assert order == ["call", "flush", "call", "flush", "call"]
    assert timing.high < 0.05


def test_watch_measures_a_block():
    with measure.watch() as seen:
        kept = ones(1000, 1000)
        time.sleep(0.01)
        (kept + 1).sum()
    assert seen.seconds >= 0.01 and seen.cuda_peak_bytes is None
    assert seen.peak_bytes == pytest.approx(2 * kept.nbytes, rel=0.01)


def test_watch_survives_control_c_and_leaves_nothing_on():
    import tracemalloc

    with pytest.raises(KeyboardInterrupt), measure.watch() as seen:
        array = ones(1000, 1000)
        raise KeyboardInterrupt
    assert seen.peak_bytes == pytest.approx(array.nbytes, rel=0.01)
    assert not tracemalloc.is_tracing()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mark is Linux's")
def test_resident_peak_sees_what_torch_and_numpy_hold():
    size = 64 * 2**20
    grown = measure.resident_peak_bytes(lambda: np.ones(size // 8).sum())
    assert grown == pytest.approx(size, rel=0.1)
    torch = pytest.importorskip("torch")
    grown = measure.resident_peak_bytes(lambda: torch.ones(size // 4).sum())
    assert grown == pytest.approx(size, rel=0.1)
    assert measure.resident_peak_bytes(lambda: None) < 2**20


def test_resident_peak_says_where_it_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "Path", lambda path: tmp_path / "missing" / path.lstrip("/"))
    with pytest.raises(NotImplementedError, match="this system gives no peak to read"):
        measure.resident_peak_bytes(lambda: None)


def test_energy_needs_a_gpu():
    assert measure.energy(np.ones, 10) is None


class FakeCuda:
    """Tensors that say they lie on a GPU, and the few calls that `energy` makes."""

    class Tensor:
        device = type("Device", (), {"type": "cuda"})

    class cuda:
        synchronize = staticmethod(lambda: None)
        get_device_properties = staticmethod(lambda: type("P", (), {"uuid": "12"}))


@pytest.mark.parametrize("meter", ["counter", "power", "none"])
def test_energy_of_a_call_from_a_counter_or_from_power(monkeypatch, meter):
    monkeypatch.setitem(sys.modules, "torch", FakeCuda)
    calls, now = [], 0.0

    def call(tensor):
        nonlocal now
        calls.append(tensor)
        now += 0.01

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    counter = (lambda: 3.0 * len(calls)) if meter == "counter" else None
    monkeypatch.setattr(measure, "_energy_meter", lambda gpu: counter if gpu == "GPU-12" else 1 / 0)
    monkeypatch.setattr(measure, "_watts", lambda gpu: 300.0 if meter == "power" else None)
    joules = measure.energy(call, FakeCuda.Tensor(), at_least=0.5)
    assert joules == {"counter": 3.0, "power": pytest.approx(3.0), "none": None}[meter]
    assert 50 <= len(calls) <= 52


def test_progress_is_quiet_for_two_seconds_and_wipes_its_line(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
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


@pytest.mark.parametrize(
    ("call", "multiply_adds"),
    [
        (lambda: ones(3, 4) @ ones(4, 5), 3 * 4 * 5),
        (lambda: np.matmul(ones(3, 4), ones(4, 5)), 3 * 4 * 5),
        (lambda: np.matmul(ones(2, 1, 3, 4), ones(6, 4, 5)), 2 * 6 * 3 * 4 * 5),  # broadcast
        (lambda: ones(4) @ ones(4), 4),
        (lambda: ones(2, 3, 4) @ ones(4), 2 * 3 * 4),
        (lambda: ones(0, 4) @ ones(4, 5), 0),
        (lambda: np.matmul(ones(4, 3), ones(4, 5), axes=[(1, 0), (0, 1), (0, 1)]), 3 * 4 * 5),
        (lambda: np.matmul(ones(3, 4), ones(4, 5), out=ones(3, 5)) @ ones(5, 2), 60 + 30),
        (lambda: np.dot(ones(2, 3, 4), ones(5, 4, 6)), 2 * 3 * 5 * 6 * 4),
        (lambda: ones(3, 4).dot(ones(4, 5)), 3 * 4 * 5),
        (lambda: np.dot(ones(3, 4), 2.0), 0),
        (lambda: np.inner(ones(3, 4), ones(5, 4)), 3 * 5 * 4),
        (lambda: np.vdot(ones(3, 4), ones(3, 4)), 12),
        (lambda: np.vecdot(ones(3, 4), ones(3, 4)), 12),
        (lambda: np.tensordot(ones(3, 4, 5), ones(4, 5, 6)), 3 * 6 * 20),
        (lambda: np.tensordot(ones(3, 4), ones(5, 3), axes=([0], [1])), 4 * 5 * 3),
        (lambda: np.linalg.multi_dot([ones(3, 4), ones(4, 5), ones(5, 6)]), 60 + 90),
        (lambda: np.einsum("id,jd->ij", ones(3, 4), ones(5, 4)), 3 * 4 * 5),
        (lambda: np.einsum("id,jd->ij", ones(3, 4), ones(5, 4), optimize=True), 3 * 4 * 5),
        (lambda: np.einsum("...id,...jd->...ij", ones(2, 3, 4), ones(5, 4)), 2 * 3 * 4 * 5),
        (lambda: np.einsum("...id, ...jd", ones(2, 3, 4), ones(2, 5, 4)), 2 * 3 * 4 * 5),
        (lambda: np.einsum("...ij,...ij->...i", ones(3, 4), ones(3, 4)), 12),
        (lambda: np.einsum("ij->ji", ones(3, 4)), 0),
        (
            lambda: np.einsum("ij,jk,kl->il", ones(4, 5), ones(5, 6), ones(6, 3), optimize=True),
            5 * 6 * 3 + 4 * 5 * 3,
        ),
        (lambda: ones(3, 4) * ones(3, 4) + np.exp(ones(3, 4)), 0),
    ],
)
def test_count_flops_is_exact(call, multiply_adds):
    plain = call()
    assert measure.count_flops(call) == 2 * multiply_adds
    seen = []
    measure.count_flops(lambda: seen.append(call()))
    np.testing.assert_array_equal(seen[0], plain)


def test_count_flops_survives_what_drops_a_subclass():
    def call(q, k):
        k = np.asarray(k)
        near = np.lib.stride_tricks.sliding_window_view(k, 3, axis=0)
        strided = np.lib.stride_tricks.as_strided(k, (2, 4), k.strides)
        picked = np.where(k > 0, k, 0)[np.arange(5)].astype(np.float64).reshape(5, 4)
        acc = np.zeros((4, 4))
        acc += picked.T @ picked
        return near @ np.ones(3) @ acc, strided @ acc, np.concatenate([picked, picked]) @ acc

    expected = (3 * 4 * 3 + 3 * 4 * 4) + 2 * 4 * 4 + 10 * 4 * 4 + 4 * 5 * 4
    assert measure.count_flops(call, ones(3, 4), ones(5, 4)) == 2 * expected


def test_count_flops_sees_arrays_inside_containers_and_keywords():
    def call(pair, *, table):
        return pair[0] @ pair[1] @ table["v"]

    flops = measure.count_flops(call, (ones(2, 3), ones(3, 4)), table={"v": ones(4, 5)})
    assert flops == 2 * (2 * 3 * 4 + 2 * 4 * 5)


def test_count_flops_puts_numpy_back_even_after_an_error():
    before = {name: getattr(np, name) for name in measure._ARRAY_MAKERS}
    with pytest.raises(ValueError, match="matmul"):
        measure.count_flops(lambda: ones(3, 4) @ ones(3, 4))
    assert all(getattr(np, name) is function for name, function in before.items())


def test_count_flops_refuses_what_it_cannot_count():
    with pytest.raises(NotImplementedError, match=r"np\.einsum"):
        measure.count_flops(lambda: np.einsum(ones(2, 3), [0, 1], ones(3, 2), [1, 2]))


def test_counted_calls_change_nothing_for_the_references():
    q, k, v = random_qkv(100, 130, heads=2, width=8)
    for call in (
        lambda q, k, v: full.attention(q, k, v, causal=True),
        lambda q, k, v: window.attention(q, k, v, window=9, dilation=2),
    ):
        expected, seen = call(q, k, v), []
        measure.count_flops(lambda *args, call=call, seen=seen: seen.append(call(*args)), q, k, v)
        np.testing.assert_array_equal(np.asarray(seen[0]), expected)


def test_count_flops_of_full_attention_is_its_cost():
    q, k, v = random_qkv(60, 70, heads=3, batch=2, width=16)
    assert measure.count_flops(full.attention, q, k, v) == 4 * 2 * 3 * 60 * 70 * 16


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
