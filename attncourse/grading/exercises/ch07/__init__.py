"""Chapter 07: brackets, linear attention, its causal scan, random features and their error."""

from attncourse.grading.exercises.ch07.bracket_costs import BRACKET_COSTS
from attncourse.grading.exercises.ch07.causal_linear import CAUSAL_LINEAR
from attncourse.grading.exercises.ch07.linear_attention import LINEAR_ATTENTION
from attncourse.grading.exercises.ch07.performer_report import PERFORMER_REPORT
from attncourse.grading.exercises.ch07.positive_features import POSITIVE_FEATURES
from attncourse.grading.exercises.ch07.repaired_performer import REPAIRED_PERFORMER
from attncourse.grading.exercises.ch07.row_distances import ROW_DISTANCES
from attncourse.grading.exercises.ch07.scan_kernel import SCAN_KERNEL

EXERCISES = (
    BRACKET_COSTS,
    LINEAR_ATTENTION,
    CAUSAL_LINEAR,
    POSITIVE_FEATURES,
    SCAN_KERNEL,
    REPAIRED_PERFORMER,
    PERFORMER_REPORT,
    ROW_DISTANCES,
)
