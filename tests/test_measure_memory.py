import sys
import time

import numpy as np
import pytest

from attncourse import measure


def ones(*shape):
    return np.ones(shape, np.float32)


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
    monkeypatch.setattr(
        measure.memory, "Path", lambda path: tmp_path / "missing" / path.lstrip("/")
    )
    with pytest.raises(NotImplementedError, match="this system gives no peak to read"):
        measure.resident_peak_bytes(lambda: None)
