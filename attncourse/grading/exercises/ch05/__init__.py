"""Chapter 05: masks, counts, blocks, depth and unions of sparse patterns."""

from attncourse.grading.exercises.ch05.bigbird_connections import BIGBIRD_CONNECTIONS
from attncourse.grading.exercises.ch05.block_attention import BLOCK_ATTENTION
from attncourse.grading.exercises.ch05.block_list import BLOCK_LIST
from attncourse.grading.exercises.ch05.combined_pattern import COMBINED_PATTERN
from attncourse.grading.exercises.ch05.layers_to_connect import LAYERS_TO_CONNECT
from attncourse.grading.exercises.ch05.longformer_connections import LONGFORMER_CONNECTIONS
from attncourse.grading.exercises.ch05.repaired_union import REPAIRED_UNION
from attncourse.grading.exercises.ch05.sparse_mask import SPARSE_MASK

EXERCISES = (
    SPARSE_MASK,
    LONGFORMER_CONNECTIONS,
    BLOCK_ATTENTION,
    LAYERS_TO_CONNECT,
    BLOCK_LIST,
    REPAIRED_UNION,
    BIGBIRD_CONNECTIONS,
    COMBINED_PATTERN,
)
