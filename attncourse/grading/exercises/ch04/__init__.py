"""Chapter 04: masks, counts, memory, depth and tiles of window attention."""

from attncourse.grading.exercises.ch04.count_connections import COUNT_CONNECTIONS
from attncourse.grading.exercises.ch04.layers_to_reach import LAYERS_TO_REACH
from attncourse.grading.exercises.ch04.local_speedup import LOCAL_SPEEDUP
from attncourse.grading.exercises.ch04.repaired_window import REPAIRED_WINDOW
from attncourse.grading.exercises.ch04.tile_bounds import TILE_BOUNDS
from attncourse.grading.exercises.ch04.window_attention import WINDOW_ATTENTION
from attncourse.grading.exercises.ch04.window_mask import WINDOW_MASK
from attncourse.grading.exercises.ch04.window_savings import WINDOW_SAVINGS

EXERCISES = (
    WINDOW_MASK,
    COUNT_CONNECTIONS,
    WINDOW_ATTENTION,
    LAYERS_TO_REACH,
    TILE_BOUNDS,
    REPAIRED_WINDOW,
    WINDOW_SAVINGS,
    LOCAL_SPEEDUP,
)
