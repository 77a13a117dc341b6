import pytest

from attncourse.units import format_bytes, format_seconds


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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (2e-9, "2 ns"),
        (1.5e-5, "15 µs"),
        (0.00125, "1.25 ms"),
        (0.9999, "1 s"),
        (62.8, "62.8 s"),
        (1234, "1230 s"),
    ],
)
def test_seconds_are_written_with_their_unit(value, text):
    assert format_seconds(value) == text
