"""How many programs of a kernel an SM runs at once, and in how many waves a grid is done.

An SM keeps the registers and the shared memory of all its programs at the same time. What runs out
first limits how many there are, and so how many warps can work while others wait for memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncourse.inputs import check_count

# The units of allocation are those of CUDA's cuda_occupancy.h.
WARP = 32  # threads
REGISTERS = 255  # of a thread, at most
REGISTER_UNIT = 256  # a warp gets a multiple of it
SHARED_UNIT = 128  # bytes
RESERVED = 1024  # bytes of shared memory that the system takes from each program


@dataclass(frozen=True)
class Multiprocessor:
    """What one SM of a GPU has for all its programs.

    Source: NVIDIA, CUDA C++ Programming Guide, technical specifications per compute capability;
    the number of SMs is the data sheets'.

    Attributes:
        gpu: Whose.
        count: How many SMs the GPU has.
        warps: How many can be resident.
        programs: How many can be.
        registers: Of 32 bits.
        shared_bytes: Shared memory.
    """

    gpu: str
    count: int
    warps: int
    programs: int
    registers: int
    shared_bytes: int


MULTIPROCESSORS = {
    sm.gpu: sm
    for sm in (
        Multiprocessor("H100", 132, 64, 32, 65_536, 228 * 1024),
        Multiprocessor("H200", 132, 64, 32, 65_536, 228 * 1024),
        Multiprocessor("A100", 108, 64, 32, 65_536, 164 * 1024),
        Multiprocessor("RTX 4090", 128, 48, 24, 65_536, 100 * 1024),
    )
}


def limits(
    registers: int, shared_bytes: int, num_warps: int, *, gpu: str = "H100"
) -> dict[str, int]:
    """Return how many programs an SM could hold if only one of its limits counted.

    Args:
        registers: Of a thread, 1 to 255.
        shared_bytes: Of a program.
        num_warps: Of a program, 32 threads each.
        gpu: One of `MULTIPROCESSORS`.

    Returns:
        By limit: "registers", "shared memory", "warps", "programs". The least of them holds; 0 if
        not even one program fits.

    Raises:
        ValueError: A number out of range, or a GPU that is not listed.
    """
    where = "occupancy.limits"
    registers = check_count(where, "registers", registers, least=1)
    shared_bytes = check_count(where, "shared_bytes", shared_bytes)
    num_warps = check_count(where, "num_warps", num_warps, least=1)
    if registers > REGISTERS:
        raise ValueError(f"{where}: registers must be at most {REGISTERS}, got {registers}")
    sm = _of(where, gpu)
    of_warp = _rounded(registers * WARP, REGISTER_UNIT)
    # an SM has four parts, each with its own registers
    warps = sm.registers // 4 // of_warp * 4
    of_program = _rounded(shared_bytes, SHARED_UNIT) + RESERVED
    return {
        "registers": warps // num_warps,
        "shared memory": sm.shared_bytes // of_program,
        "warps": sm.warps // num_warps,
        "programs": sm.programs,
    }


def occupancy(registers: int, shared_bytes: int, num_warps: int, *, gpu: str = "H100") -> float:
    """Return the resident warps of an SM as a share of what it can hold; arguments of `limits`."""
    programs = min(limits(registers, shared_bytes, num_warps, gpu=gpu).values())
    return programs * num_warps / MULTIPROCESSORS[gpu].warps


def waves(n_programs: int, per_sm: int, *, gpu: str = "H100") -> tuple[int, float]:
    """Return how often the SMs are filled until a grid is done, and which share of them works.

    Args:
        n_programs: Of the grid; each takes as long.
        per_sm: How many an SM runs at once, at least 1.
        gpu: One of `MULTIPROCESSORS`.

    Raises:
        ValueError: A number out of range, or a GPU that is not listed.
    """
    n_programs = check_count("occupancy.waves", "n_programs", n_programs)
    per_sm = check_count("occupancy.waves", "per_sm", per_sm, least=1)
    at_once = per_sm * _of("occupancy.waves", gpu).count
    count = -(-n_programs // at_once)
    return count, n_programs / (count * at_once) if count else 0.0


def _of(where: str, gpu: str) -> Multiprocessor:
    if gpu not in MULTIPROCESSORS:
        raise ValueError(f"{where}: gpu must be one of {', '.join(MULTIPROCESSORS)}, got {gpu!r}")
    return MULTIPROCESSORS[gpu]


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
