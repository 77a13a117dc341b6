import pytest

from attncourse import occupancy
from attncourse.occupancy import MULTIPROCESSORS, limits


def test_what_runs_out_first_limits():
    assert limits(32, 0, 4) == {
        "registers": 16, "shared memory": 228, "warps": 16, "programs": 32,
    }  # fmt: skip
    assert occupancy.occupancy(32, 0, 4) == 1.0
    assert limits(128, 48 * 1024, 4)["registers"] == 4  # 65,536 / (128 · 128)
    assert limits(128, 48 * 1024, 4)["shared memory"] == 4  # 228 // (48 + 1)
    assert occupancy.occupancy(128, 48 * 1024, 4) == 16 / 64
    assert limits(16, 0, 1)["programs"] == 32  # small programs: neither warps nor registers


def test_registers_come_in_units_and_the_system_takes_its_kibibyte():
    assert limits(255, 0, 8)["registers"] == limits(256 - 8 + 1, 0, 8)["registers"] == 1
    assert limits(33, 0, 1)["registers"] == limits(40, 0, 1)["registers"] == 48  # 12 a part
    assert limits(32, 227 * 1024, 4)["shared memory"] == 1
    assert limits(32, 227 * 1024 + 1, 4)["shared memory"] == 0  # does not fit at all
    assert limits(32, 113 * 1024, 4)["shared memory"] == 2


def test_one_program_more_than_fits_costs_a_whole_wave():
    assert occupancy.waves(132, 1) == (1, 1.0)
    assert occupancy.waves(133, 1) == (2, 133 / 264)
    assert occupancy.waves(0, 1) == (0, 0.0)
    assert occupancy.waves(216, 2, gpu="A100") == (1, 1.0)


def test_a_smaller_gpu_holds_fewer():
    assert min(limits(64, 99 * 1024, 4, gpu="RTX 4090").values()) == 1
    assert limits(32, 0, 4, gpu="RTX 4090")["warps"] == 12
    assert set(MULTIPROCESSORS) == {"H100", "H200", "A100", "RTX 4090"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((256, 0, 4), "registers must be at most 255, got 256"),
        ((0, 0, 4), "registers must be at least 1, got 0"),
        ((32, -1, 4), "shared_bytes must be at least 0, got -1"),
        ((32, 0, 0), "num_warps must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"occupancy.limits: {message}"):
        limits(*arguments)


def test_a_gpu_that_is_not_listed_is_named():
    with pytest.raises(ValueError, match=r"gpu must be one of H100, .*got 'H300'"):
        limits(32, 0, 4, gpu="H300")


def test_waves_of_programs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"occupancy.waves: per_sm must be at least 1, got 0"):
        occupancy.waves(132, 0)
    with pytest.raises(ValueError, match=r"gpu must be one of H100"):
        occupancy.waves(132, 1, gpu="H300")
