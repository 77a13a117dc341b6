"""Exercise 01.2: the operations of attention, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def attention_flops(n_queries: int, n_keys: int, width: int, value_width: int) -> dict:
    """Return the FLOPs of the matrix products of one head."""
    pairs = n_queries * n_keys
    return {
        "forward": 2 * pairs * (width + value_width),
        "backward": 4 * pairs * (width + value_width),
        "recomputing": 4 * pairs * (width + value_width) + 2 * pairs * width,
    }


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _by_products(n_queries, n_keys, width, value_width):
    scores = _product(n_queries, width, n_keys)
    out = _product(n_queries, n_keys, value_width)
    d_values = _product(n_keys, n_queries, value_width)
    d_weights = _product(n_queries, value_width, n_keys)
    d_queries = _product(n_queries, n_keys, width)
    d_keys = _product(n_keys, n_queries, width)
    backward = d_values + d_weights + d_queries + d_keys
    return {"forward": scores + out, "backward": backward, "recomputing": backward + scores}


def _by_factors(n_queries, n_keys, width, value_width):
    forward = 2 * n_queries * n_keys * width + 2 * n_queries * n_keys * value_width
    again = 2 * n_queries * n_keys * width
    return {"forward": forward, "backward": 2 * forward, "recomputing": 2 * forward + again}


def _scaled(factor: Callable[[int], int]) -> Callable:
    return lambda *sizes: {name: factor(flops) for name, flops in attention_flops(*sizes).items()}


def _changed(name: str, value: Callable) -> Callable:
    return lambda *sizes: attention_flops(*sizes) | {name: value(*sizes)}


def _softmax_counted(n_queries, n_keys, width, value_width):
    flops = attention_flops(n_queries, n_keys, width, value_width)
    return {name: number + 5 * n_queries * n_keys for name, number in flops.items()}


def _cases(generator: Generator) -> list[Case]:
    random = [tuple(int(x) for x in generator.integers(2, 300, 4)) for _ in range(4)]
    return [
        Case("1 of each", (1, 1, 1, 1)),
        Case("2 queries, 3 keys", (2, 3, 1, 1)),
        Case("width 5", (2, 3, 5, 5)),
        Case("values wider than keys", (2, 3, 5, 7)),
        Case("4096 tokens, heads of 64", (4096, 4096, 64, 64)),
        Case("one query, 10⁹ keys", (1, 10**9, 128, 128)),
        *(Case(f"random sizes {sizes}", sizes) for sizes in random),
    ]


ATTENTION_FLOPS = Exercise(
    id="01.2",
    chapter="01",
    title="Operations, forward and backward",
    function="attention_flops",
    kind="number",
    minutes=10,
    difficulty=2,
    points=2,
    hints=(
        "A product of (a, b) and (b, c) takes 2·a·b·c FLOPs. List the products and their shapes.",
        "Forward: scores and output. Backward: each forward product has two gradients, one for "
        "each of its factors, and each of those is a product of the same three sizes.",
        "forward = 2·Tq·Tk·(D + Dv); backward is twice that; recomputing adds the scores once "
        "more, 2·Tq·Tk·D.",
    ),
    reference=attention_flops,
    cases=_cases,
    mistakes=(
        Mistake(
            "multiply-adds",
            _scaled(lambda flops: flops // 2),
            "your FLOPs are half: you counted multiply-adds",
            "one multiply-add is 2 FLOPs",
        ),
        Mistake(
            "softmax counted",
            _softmax_counted,
            "you counted the softmax too",
            "leave it out: these are the FLOPs of the matrix products",
        ),
        Mistake(
            "square",
            lambda n_queries, n_keys, *widths: attention_flops(n_queries, n_queries, *widths),
            "your number has as many keys as queries",
            "pairs are n_queries · n_keys",
        ),
        Mistake(
            "one width",
            lambda n_queries, n_keys, width, value_width: attention_flops(
                n_queries, n_keys, width, width
            ),
            "your values are as wide as the keys",
            "the output's product has value_width columns",
        ),
        Mistake(
            "backward as forward",
            _changed("backward", lambda *sizes: attention_flops(*sizes)["forward"]),
            "your backward pass is as long as the forward pass",
            "each product has two factors, and each factor a gradient of its own",
        ),
        Mistake(
            "backward with forward",
            _changed("backward", lambda *sizes: 3 * attention_flops(*sizes)["forward"]),
            "your backward pass contains the forward pass",
            "count the four gradient products alone",
        ),
        Mistake(
            "all of forward again",
            _changed("recomputing", lambda *sizes: 3 * attention_flops(*sizes)["forward"]),
            "your recomputation makes the output again",
            "only the weights are needed: the scores once more, not their product with v",
        ),
    ),
    alternatives=(_by_products, _by_factors),
)
