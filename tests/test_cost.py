import numpy as np
import pytest

from attncourse import masks
from attncourse.cost import DEVICES, Cost, implied, this_cpu
from attncourse.reference import full, window


def test_time_is_the_larger_of_computing_and_moving():
    device = DEVICES["A100 40 GB"]
    computing = Cost(flops=312 * 10**12, bytes_read=0, bytes_written=0, peak_bytes=0)
    moving = Cost(flops=0, bytes_read=1_555_000_000_000, bytes_written=1, peak_bytes=0)
    assert computing.seconds(device) == 1
    assert moving.seconds(device) == pytest.approx(1)


def test_two_flops_per_multiply_add():
    assert full.cost(1, 1, 1024, 1024, 64).flops == 268_435_456  # claim C372 counts half of them


def test_large_sizes_of_numpy_do_not_overflow():
    n = np.int32(65_536)
    assert full.cost(1, 12, n, n, 64) == full.cost(1, 12, 65_536, 65_536, 64)
    n = np.int64(10**12)
    assert window.count(n, n, window=10**11) == window.count(10**12, 10**12, window=10**11)
    assert masks.causal(np.uint64(2), np.uint64(3)).tolist() == [[True, True, False], [True] * 3]
    assert masks.positions(np.uint8(3), np.uint8(1)).tolist() == [-2, -1, 0]


def test_intensity_of_nothing_is_nothing():
    assert Cost(0, 0, 0, 0).intensity == 0


def test_every_device_says_who_says_so():
    for device in DEVICES.values():
        assert device.source and device.memory_bytes >= 8e9


def test_peaks_are_kept_for_each_type_and_half_precision_is_the_default():
    for device in DEVICES.values():
        assert device.peak() == device.peak("float16") == device.flops_per_second
        assert device.peaks["float32"] <= device.peaks.get("tf32", 2e13) <= device.peak()
    assert DEVICES["A100 40 GB"].peak("tf32") == 156e12
    laptop = DEVICES["RTX 4060 Laptop"]
    assert laptop.peak("float32") == pytest.approx(2 * 3072 * 2.37e9, rel=1e-3)
    assert laptop.bytes_per_second == 128 / 8 * 16e9
    with pytest.raises(ValueError, match="must be one of float32, float16 on V100 16 GB, got 'b"):
        DEVICES["V100 16 GB"].peak("bfloat16")  # its tensor cores have no such type


def test_a_type_slows_the_computing_and_not_the_moving():
    device = DEVICES["A100 40 GB"]
    assert Cost(195 * 10**11, 0, 0, 0).seconds(device, "float32") == 1
    assert Cost(0, 1_555_000_000_000, 0, 0).seconds(device, "float32") == 1


def test_this_cpu_is_measured_once_and_says_where():
    device = this_cpu()
    assert this_cpu() is device
    assert device.peak() == device.peak("float32") > 1e8
    assert device.peak("float64") > 1e8 and device.bytes_per_second > 1e8
    assert device.memory_bytes > 1e8 and device.source.startswith("measured: ")


def test_printed_times_of_one_paper_cannot_both_be_true():
    """98 ms for 51.5 GFLOP on an A100, quoted beside its 312 TFLOP/s (claim C204)."""
    a100 = DEVICES["A100 40 GB"]
    slow = implied(98e-3, 4096, 64, heads=12, device=a100)
    assert slow.flops_per_second == pytest.approx(51.5e9 / 98e-3, rel=1e-3)
    assert slow.verdict == "absurdly low" and 0.0016 < slow.share < 0.0018
    assert implied(0.15e-3, 8192, 64, heads=12, device=a100).verdict == "above peak"
    assert implied(0.4e-3, 4096, 64, heads=12, device=a100).verdict == "plausible"
    assert str(slow) == "0.526 TFLOP/s, 0.257 GB/s, 0.17% of the limit by computing: absurdly low"


def test_what_is_implied_counts_every_factor():
    h100 = DEVICES["H100 80 GB"]
    one = implied(1.0, 1000, 64, device=h100)
    assert one.flops_per_second == 4 * 1000**2 * 64
    assert one.bytes_per_second == 4 * 1000 * 64 * 2
    more = implied(1.0, 1000, 64, heads=3, batch=5, layers=7, device=h100)
    assert more.flops_per_second == 105 * one.flops_per_second
    assert more.bytes_per_second == 105 * one.bytes_per_second
    assert implied(1.0, 1000, 64, causal=True, device=h100).flops_per_second == 2 * 1000**2 * 64
    wide = implied(1.0, 1000, 64, dtype="float32", device=h100)
    assert wide.bytes_per_second == 2 * one.bytes_per_second
    assert wide.least_seconds > one.least_seconds
    other = implied(1.0, 9, 9, device=h100, layers=2, cost=Cost(5, 6, 7, 0))
    assert (other.flops_per_second, other.bytes_per_second) == (10, 26)


def test_moving_can_be_the_limit_and_short_times_may_be_overhead():
    device = DEVICES["V100 16 GB"]
    assert implied(1e-3, 16, 64, heads=100_000, device=device).limit == "moving"
    assert implied(9e-5, 128, 64, device=device).verdict == "plausible"
    assert implied(2e-4, 128, 64, device=device).verdict == "absurdly low"


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"n": 0}, {"width": -1}, {"heads": 0}])
def test_what_implies_nothing_is_refused(wrong):
    given = {"seconds": 1.0, "n": 8, "width": 8} | wrong
    with pytest.raises(ValueError, match=rf"cost\.implied: {next(iter(wrong))} must be above 0"):
        implied(**given, device=DEVICES["H200"])
