"""Chapter 13: summaries, queues, slopes, errors, crossovers and audits of measurements."""

from attncourse.grading.exercises.ch13.attention_error import ATTENTION_ERROR
from attncourse.grading.exercises.ch13.audited_times import AUDITED_TIMES
from attncourse.grading.exercises.ch13.crossover_length import CROSSOVER_LENGTH
from attncourse.grading.exercises.ch13.five_variants import FIVE_VARIANTS
from attncourse.grading.exercises.ch13.growth_exponent import GROWTH_EXPONENT
from attncourse.grading.exercises.ch13.observed_speedup import OBSERVED_SPEEDUP
from attncourse.grading.exercises.ch13.timing_summary import TIMING_SUMMARY
from attncourse.grading.exercises.ch13.work_seconds import WORK_SECONDS

EXERCISES = (
    TIMING_SUMMARY,
    WORK_SECONDS,
    GROWTH_EXPONENT,
    ATTENTION_ERROR,
    CROSSOVER_LENGTH,
    AUDITED_TIMES,
    OBSERVED_SPEEDUP,
    FIVE_VARIANTS,
)
