"""Clocks, heaps and arithmetic of other machines, for the kernels that chapters run in."""

import platform

# Run before the first cell, and leave no name that a cell may reuse. `slow` is a machine slowed
# to a tenth; on `erratic` from one look at the clock to the next anything from a microsecond to a
# second went by.
CLOCKS = {
    "slow": """
import time

time.perf_counter = lambda real=time.perf_counter: 10 * real()
""",
    "erratic": """
import itertools, random, time

def steps(luck=random.Random(0), count=itertools.count):
    return (10 ** luck.uniform(-6, 0) for _ in count())

time.perf_counter = itertools.accumulate(steps()).__next__
""",
}

# What a call holds differs by some KiB from process to process: a kernel's own threads send
# messages meanwhile, and Python and NumPy give small objects places that they have kept.
HEAP = """
import random, tracemalloc

def get_traced_memory(real=tracemalloc.get_traced_memory, luck=random.Random({seed!r})):
    now, peak = real()
    return now, peak + luck.choice((-6144, 6144))

tracemalloc.get_traced_memory = get_traced_memory
del random, tracemalloc, get_traced_memory
"""

# Without AVX-512: sums are added up in another order, so last digits differ from those of a machine
# that has it, as they do between a laptop and a server.
ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
if platform.machine() not in ("x86_64", "AMD64"):
    ARITHMETIC = {}


def put(clock, folder):
    """Make a folder that gives kernels a clock and another heap, if IPYTHONDIR names it."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-clock.py").write_text(CLOCKS.get(clock, ""), encoding="utf-8")
    (startup / "01-heap.py").write_text(HEAP.format(seed=clock), encoding="utf-8")
    return str(folder)
