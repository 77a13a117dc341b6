"""Chapter 09: traffic, tiles, memory, merging, a kernel and a backward pass of exact attention."""

from attncourse.grading.exercises.ch09.attention_bytes import ATTENTION_BYTES
from attncourse.grading.exercises.ch09.count_tiles import COUNT_TILES
from attncourse.grading.exercises.ch09.flash_kernel import FLASH_KERNEL
from attncourse.grading.exercises.ch09.hbm_bytes import HBM_BYTES
from attncourse.grading.exercises.ch09.merge_halves import MERGE_HALVES
from attncourse.grading.exercises.ch09.repaired_backward import REPAIRED_BACKWARD
from attncourse.grading.exercises.ch09.tiled_attention import TILED_ATTENTION

EXERCISES = (
    HBM_BYTES,
    COUNT_TILES,
    TILED_ATTENTION,
    MERGE_HALVES,
    FLASH_KERNEL,
    REPAIRED_BACKWARD,
    ATTENTION_BYTES,
)
