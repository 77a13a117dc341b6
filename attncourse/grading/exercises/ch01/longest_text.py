"""Exercise 01.3: the longest text that fits."""

from __future__ import annotations

import math

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def longest_text(
    memory_bytes: int, used_bytes: int, heads: int, layers: int, batch: int, bytes_per_number: int
) -> int:
    """Return the largest n whose scores fit into what is left of the memory."""
    free = max(0, memory_bytes - used_bytes)
    return math.isqrt(free // (heads * layers * batch * bytes_per_number))


def _by_bisection(memory_bytes, used_bytes, heads, layers, batch, bytes_per_number):
    def fits(n):
        return n * n * heads * layers * batch * bytes_per_number + used_bytes <= memory_bytes

    low, high = 0, 1
    while fits(high):
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _by_correction(memory_bytes, used_bytes, heads, layers, batch, bytes_per_number):
    each = heads * layers * batch * bytes_per_number
    free = memory_bytes - used_bytes
    if free < each:
        return 0
    n = int((free / each) ** 0.5)
    while n * n * each > free:
        n -= 1
    while (n + 1) ** 2 * each <= free:
        n += 1
    return n


def _cases(generator: Generator) -> list[Case]:
    random = []
    for _ in range(4):
        n, *factors = (int(x) for x in generator.integers(2, 60, 4))
        used = int(generator.integers(0, 10**6))
        need = n * n * math.prod(factors) * 4
        random.append((f"random, {n} fits exactly", (used + need, used, *factors, 4)))
        random.append((f"random, {n} lacks a byte", (used + need - 1, used, *factors, 4)))
    return [
        Case("nothing fits", (3, 0, 1, 1, 1, 4)),
        Case("one token fits exactly", (4, 0, 1, 1, 1, 4)),
        Case("15 bytes are too few for two", (15, 0, 1, 1, 1, 4)),
        Case("something is used", (100, 36, 1, 1, 1, 4)),
        Case("more is used than there is", (100, 200, 1, 1, 1, 4)),
        Case("2 heads, 3 layers, batch 5", (10**6, 0, 2, 3, 5, 2)),
        Case("40 GB, BERT-base", (40 * 10**9, 0, 12, 12, 1, 4)),
        Case("a square beyond 2⁵³", ((10**15 + 1) ** 2 - 1, 0, 1, 1, 1, 1)),
        *(Case(name, arguments) for name, arguments in random),
    ]


LONGEST_TEXT = Exercise(
    id="01.3",
    chapter="01",
    title="The longest text that fits",
    function="longest_text",
    kind="number",
    minutes=8,
    difficulty=1,
    points=1,
    hints=(
        "First subtract. Then ask how many squares of one byte would fit, and shrink from there.",
        "n²·heads·layers·batch·bytes_per_number must be at most memory_bytes - used_bytes.",
        "math.isqrt of the whole quotient gives the floor of the root exactly; if nothing is left, "
        "the answer is 0.",
    ),
    reference=longest_text,
    cases=_cases,
    mistakes=(
        Mistake(
            "no subtraction",
            lambda memory, used, *factors: longest_text(memory, 0, *factors),
            "your text may use all the memory, also what is used already",
            "subtract used_bytes first",
        ),
        Mistake(
            "no root",
            lambda memory, used, *factors: max(0, memory - used) // math.prod(factors),
            "your number is n², the entries of the matrix",
            "take the root",
        ),
        Mistake(
            "heads forgotten",
            lambda memory, used, heads, *factors: longest_text(memory, used, 1, *factors),
            "your text has one head",
            "each head has its own square: divide by heads too",
        ),
        Mistake(
            "rounded",
            lambda memory, used, *factors: round(
                math.sqrt(max(0, memory - used) / math.prod(factors))
            ),
            "your number is rounded to the nearest, so sometimes it does not fit",
            "round down",
        ),
        Mistake(
            "floating point",
            lambda memory, used, *factors: int(
                math.sqrt(max(0, memory - used) / math.prod(factors))
            ),
            "your root is right for small numbers only: a float holds 53 bits",
            "stay with integers: math.isqrt",
        ),
        Mistake(
            "one less",
            lambda *arguments: max(0, longest_text(*arguments) - 1),
            "your number is one too small: what fits exactly fits",
            "use ≤, not <",
        ),
        Mistake(
            "gigabytes of 2³⁰",
            lambda memory, used, *factors: longest_text(
                int(memory * 2**30 / 10**9), used, *factors
            ),
            "you turned bytes into larger bytes: 2³⁰ instead of 10⁹",
            "memory_bytes is in bytes already",
        ),
    ),
    alternatives=(_by_bisection, _by_correction),
)
