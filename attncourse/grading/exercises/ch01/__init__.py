"""Chapter 01: bytes, operations, what fits, the roofline, and tables that cannot be true."""

from attncourse.grading.exercises.ch01.attention_flops import ATTENTION_FLOPS
from attncourse.grading.exercises.ch01.lean_attention import LEAN_ATTENTION
from attncourse.grading.exercises.ch01.longest_text import LONGEST_TEXT
from attncourse.grading.exercises.ch01.method_bytes import METHOD_BYTES
from attncourse.grading.exercises.ch01.roofline import ROOFLINE
from attncourse.grading.exercises.ch01.standard_budget import STANDARD_BUDGET
from attncourse.grading.exercises.ch01.suspicious_steps import SUSPICIOUS_STEPS
from attncourse.grading.exercises.ch01.training_bytes import TRAINING_BYTES

EXERCISES = (
    TRAINING_BYTES,
    ATTENTION_FLOPS,
    LONGEST_TEXT,
    LEAN_ATTENTION,
    ROOFLINE,
    SUSPICIOUS_STEPS,
    STANDARD_BUDGET,
    METHOD_BYTES,
)
