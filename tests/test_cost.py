import pytest

from attncourse.cost import DEVICES, Cost, format_bytes
from attncourse.reference import full


def test_units_are_powers_of_two_or_ten_as_they_say():
    assert format_bytes(67_108_864) == "64.0 MiB"
    assert format_bytes(67_108_864, decimal=True) == "67.1 MB"
    assert format_bytes(0) == "0 B"
    assert format_bytes(1023) == "1023 B"
    assert format_bytes(1000, decimal=True) == "1.0 kB"
    assert format_bytes(3 * 2**60) == "3072.0 PiB"


def test_rounding_never_shows_a_thousand_of_the_smaller_unit():
    assert format_bytes(999_999, decimal=True) == "1.0 MB"
    assert format_bytes(2**20 - 1) == "1.0 MiB"


def test_time_is_the_larger_of_computing_and_moving():
    device = DEVICES["A100 40 GB"]
    computing = Cost(flops=312 * 10**12, bytes_read=0, bytes_written=0, peak_bytes=0)
    moving = Cost(flops=0, bytes_read=1_555_000_000_000, bytes_written=1, peak_bytes=0)
    assert computing.seconds(device) == 1
    assert moving.seconds(device) == pytest.approx(1)


def test_two_flops_per_multiply_add():
    assert full.cost(1, 1, 1024, 1024, 64).flops == 268_435_456  # claim C372 counts half of them


def test_intensity_of_nothing_is_nothing():
    assert Cost(0, 0, 0, 0).intensity == 0


def test_every_device_says_who_says_so():
    for device in DEVICES.values():
        assert device.source and device.memory_bytes >= 16e9
