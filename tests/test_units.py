import pytest

from attncourse.units import (
    format_bytes,
    format_difference,
    format_quantity,
    format_seconds,
    parse_quantity,
)


def test_units_are_powers_of_two_or_ten_as_they_say():
    assert format_bytes(67_108_864) == "64.0 MiB"
    assert format_bytes(67_108_864, decimal=True) == "67.1 MB"
    assert format_bytes(0) == "0 B"
    assert format_bytes(1023) == "1023 B"
    assert format_bytes(1000, decimal=True) == "1.0 kB"
    assert format_bytes(3 * 2**60) == "3072.0 PiB"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (0, "less than 1e-5"),
        (9.9e-6, "less than 1e-5"),
        (1e-5, "1e-5"),
        (0.00217, "0.002"),
        (0.000017, "2e-5"),
        (3, "3"),
        (float("nan"), "nan"),
    ],
)
def test_a_difference_is_said_only_where_it_is_more_than_rounding(difference, text):
    assert format_difference(difference, below=1e-5) == text


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
        (1234, "1,230 s"),
    ],
)
def test_seconds_are_written_with_their_unit(value, text):
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (67_108_864, "B", "64 MiB"),
        (0.25, "B", "0.25 B"),
        (2.5, "B", "2.5 B"),
        (8, "B", "8 B"),
        (0.00125, "s", "1.25 ms"),
        (40, "%", "40 %"),
        (1 / 3, "", "0.333"),
        (999.6, "", "1,000"),
        (9_999_999, "keys", "9,999,999 keys"),
        (34_359_738_368, "FLOPs", "34.4 billion FLOPs"),
        (1, "keys", "1 key"),
        (5e15, "FLOPs", "5,000 trillion FLOPs"),
    ],
)
def test_quantities_are_written_in_few_digits(value, unit, text):
    assert format_quantity(value, unit) == text
    assert parse_quantity(format_quantity(value, unit), unit) == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("4 MiB", "B", 2**22),
        ("4mib", "B", 2**22),
        ("4Mi", "B", 2**22),
        ("3 GB", "B", 3e9),
        ("4e6", "B", 4e6),
        ("2^20", "B", 2**20),
        ("2**10 KiB", "B", 2**20),
        ("4096 * 4096 × 4 bytes", "B", 2**26),
        ("3 ms", "s", 3e-3),
        ("3μs", "s", 3e-6),
        ("2 min", "s", 120),
        ("40%", "%", 40),
        ("1/3", "", 1 / 3),
        ("16x", "", 16),
        ("3 times", "times", 3),
        ("1 key", "keys", 1),
        ("3k keys", "keys", 3000),
        ("3 GFLOPs", "FLOPs", 3e9),
        ("~ 2.5 million", "keys", 2.5e6),
        ("4 000 000", "", 4e6),
        ("4,000", "", 4000),
        ("1'000_000", "", 1e6),
        ("4,5", "", 4.5),
        ("0,125", "", 0.125),
    ],
)
def test_numbers_are_read_as_people_write_them(text, unit, value):
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *(
            (text, "")
            for text in ("", "four", "-3", "nan", "40 %", "1.2.3", "4 5", "1/0", "10^999")
        ),
        *(("4 s", "B"), ("4 B", "s"), ("3 m", "s"), ("5 km", "keys")),
    ],
)
def test_what_is_no_number_in_the_unit_is_refused(text, unit):
    with pytest.raises(
        ValueError, match=r"units\.parse_quantity: .*" + repr(text).replace("^", r"\^")
    ):
        parse_quantity(text, unit)
