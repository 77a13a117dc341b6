"""Measure a call: its seconds, its peak bytes, its floating-point operations; and the machine.

Torch is imported only to ask a GPU for its free memory. Where a call uses tensors it is there
already, and the measurement follows them, wherever the call holds them: CUDA events and the CUDA
allocator for tensors on a GPU, torch's allocator events for tensors on the CPU, `tracemalloc` for
NumPy.
"""

from attncourse.measure.flops import count_flops
from attncourse.measure.hardware import Machine, machine
from attncourse.measure.joules import energy
from attncourse.measure.loops import progress
from attncourse.measure.memory import free_bytes, peak_bytes, resident_peak_bytes
from attncourse.measure.timing import Timing, seconds
from attncourse.measure.watching import Seen, watch

__all__ = [
    "Machine",
    "Seen",
    "Timing",
    "count_flops",
    "energy",
    "free_bytes",
    "machine",
    "peak_bytes",
    "progress",
    "resident_peak_bytes",
    "seconds",
    "watch",
]
