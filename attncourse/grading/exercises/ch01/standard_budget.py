"""Exercise 01.V2: the standard part of a budget comparison, from document 002."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def standard_budget(n: int, d: int, heads: int) -> dict:
    """Return what standard attention of width d holds and computes, in float32."""
    scores, rows = heads * n**2, 3 * n * d
    return {
        "score_numbers": scores,
        "qkv_numbers": rows,
        "total_bytes": 4 * (scores + rows),
        "flops": 4 * n**2 * d,
        "scores_share": scores / (scores + rows),
    }


def _by_heads(n, d, heads):
    width = d // heads
    scores = sum(n * n for _ in range(heads))
    rows = sum(3 * n * width for _ in range(heads))
    flops = sum(2 * n * n * width + 2 * n * n * width for _ in range(heads))
    return {
        "score_numbers": scores,
        "qkv_numbers": rows,
        "total_bytes": scores * 4 + rows * 4,
        "flops": flops,
        "scores_share": scores * 4 / (scores * 4 + rows * 4),
    }


def _by_ratio(n, d, heads):
    rows = n * d + n * d + n * d
    scores = n * n * heads
    products = {"scores": 2 * d * n * n, "out": 2 * d * n * n}
    return {
        "score_numbers": scores,
        "qkv_numbers": rows,
        "total_bytes": (scores + rows) * 4,
        "flops": sum(products.values()),
        "scores_share": 1 / (1 + 3 * d / (n * heads)),
    }


def _changed(change: Callable) -> Callable:
    return lambda n, d, heads: standard_budget(n, d, heads) | change(n, d, heads)


def _one_head(n, d, heads):
    return standard_budget(n, d, 1)


def _cases(generator: Generator) -> list[Case]:
    cases = [
        Case("1 token, width 1, 1 head", (1, 1, 1)),
        Case("2 tokens, width 4, 1 head", (2, 4, 1)),
        Case("2 tokens, width 4, 2 heads", (2, 4, 2)),
        Case("the document's n = 4096, d = 768, one head", (4096, 768, 1)),
        Case("BERT-base's 12 heads", (4096, 768, 12)),
    ]
    for _ in range(4):
        n, width, heads = (int(x) for x in generator.integers((5, 1, 2), (500, 65, 17)))
        cases.append(Case(f"random {(n, width * heads, heads)}", (n, width * heads, heads)))
    return cases


STANDARD_BUDGET = Exercise(
    id="01.V2",
    chapter="01",
    title="A budget of standard attention",
    function="standard_budget",
    kind="number",
    minutes=8,
    difficulty=1,
    points=2,
    hints=(
        "Which of the numbers depend on heads at fixed d, and which do not?",
        "q, k and v are n × d each, for all heads together. Every head has n² scores. Both "
        "products together take 4·n²·(d / heads) FLOPs a head.",
        "score_numbers = heads·n², qkv_numbers = 3·n·d, flops = 4·n²·d; 4 bytes a number.",
    ),
    reference=standard_budget,
    cases=_cases,
    mistakes=(
        Mistake(
            "one head",
            _one_head,
            "your scores are those of a single head, as in the document",
            "each head has n² scores: multiply by heads",
        ),
        Mistake(
            "multiply-adds",
            _changed(lambda n, d, heads: {"flops": 2 * n**2 * d}),
            "your FLOPs are half: you counted multiply-adds, as the document does",
            "one multiply-add is 2 FLOPs, and there are two products",
        ),
        Mistake(
            "one product",
            _changed(lambda n, d, heads: {"flops": n**2 * d}),
            "your FLOPs are a quarter: multiply-adds of one product",
            "count q kᵀ and weights·v, at 2 FLOPs a multiply-add",
        ),
        Mistake(
            "FLOPs times heads",
            _changed(lambda n, d, heads: {"flops": 4 * n**2 * d * heads}),
            "your FLOPs take d for the width of one head",
            "d is the width of all heads: one head has d / heads",
        ),
        Mistake(
            "numbers, not bytes",
            _changed(lambda n, d, heads: {"total_bytes": heads * n**2 + 3 * n * d}),
            "your total counts numbers, not bytes",
            "float32 takes 4 bytes",
        ),
        Mistake(
            "q only",
            _changed(
                lambda n, d, heads: {
                    "qkv_numbers": n * d,
                    "total_bytes": 4 * (heads * n**2 + n * d),
                    "scores_share": heads * n**2 / (heads * n**2 + n * d),
                }
            ),
            "your rows are those of q alone",
            "q, k and v: three arrays of n × d",
        ),
        Mistake(
            "percent",
            _changed(
                lambda n, d, heads: {
                    "scores_share": 100 * standard_budget(n, d, heads)["scores_share"]
                }
            ),
            "your share is in percent",
            "return a share between 0 and 1",
        ),
    ),
    alternatives=(_by_heads, _by_ratio),
)
