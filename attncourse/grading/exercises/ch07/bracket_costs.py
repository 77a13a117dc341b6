"""Exercise 07.1: what moving the brackets saves, and from which length on."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def bracket_costs(n_queries: int, n_keys: int, features: int, value_width: int) -> dict:
    """Return FLOPs and size of the intermediate result of both orders, and where they cross."""
    m, width = features, value_width
    return {
        "left_flops": 2 * n_queries * n_keys * (m + width),
        "right_flops": 2 * m * width * (n_queries + n_keys),
        "left_numbers": n_queries * n_keys,
        "right_numbers": m * width,
        "crossover": 2 * m * width // (m + width) + 1,
    }


def _costs_by_products(n_queries, n_keys, features, value_width):
    def product(a, b):  # shapes -> multiply-adds, shape
        return a[0] * a[1] * b[1], (a[0], b[1])

    phi_q, phi_k = (n_queries, features), (n_keys, features)
    v = (n_keys, value_width)
    first, scores = product(phi_q, phi_k[::-1])
    second, _ = product(scores, v)
    third, state = product(phi_k[::-1], v)
    fourth, _ = product(phi_q, state)
    n = features + value_width  # beyond the harmonic mean
    while n > 1 and (n - 1) * (features + value_width) > 2 * features * value_width:
        n -= 1
    return {
        "right_flops": 2 * (third + fourth),
        "left_flops": 2 * (first + second),
        "left_numbers": scores[0] * scores[1],
        "right_numbers": state[0] * state[1],
        "crossover": n,
    }


def _costs_by_search(n_queries, n_keys, features, value_width):
    def left(t, s):
        return 2 * (t * s * features + t * s * value_width)

    def right(t, s):
        return 2 * (s * features * value_width + t * features * value_width)

    low, high = 0, features + value_width  # left is not dearer at low, and is at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if left(middle, middle) > right(middle, middle) else (middle, high)
        )
    return {
        "left_flops": left(n_queries, n_keys),
        "right_flops": right(n_queries, n_keys),
        "left_numbers": n_queries * n_keys,
        "right_numbers": features * value_width,
        "crossover": high,
    }


def _with(**changed: Callable) -> Callable:
    """Return `bracket_costs` with some of its keys computed in another way."""

    def costs(n_queries, n_keys, features, value_width):
        right = bracket_costs(n_queries, n_keys, features, value_width)
        return right | {
            key: compute(n_queries, n_keys, features, value_width)
            for key, compute in changed.items()
        }

    return costs


def _multiply_adds(*arguments):
    costs = bracket_costs(*arguments)
    return costs | {key: costs[key] // 2 for key in ("left_flops", "right_flops")}


def _cost_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("all sizes 1", (1, 1, 1, 1)),
        ("1 query, 5 keys", (1, 5, 2, 3)),
        ("5 queries, 1 key", (5, 1, 2, 3)),
        ("features as wide as values", (8, 8, 4, 4)),
        ("more features than tokens", (3, 3, 64, 5)),
        ("values of one number", (6, 7, 8, 1)),
        ("n = 4096, 64 features", (4096, 4096, 64, 64)),
        ("n = 10⁹", (10**9, 10**9, 256, 64)),
    ]
    random = []
    for _ in range(5):
        arguments = tuple(int(x) for x in generator.integers(1, (500, 500, 300, 129)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


BRACKET_COSTS = Exercise(
    id="07.1",
    chapter="07",
    title="Where to put the brackets",
    function="bracket_costs",
    kind="number",
    minutes=10,
    difficulty=1,
    points=2,
    hints=(
        "A product of (a, b) and (b, c) takes a·b·c multiply-adds, and one is 2 FLOPs. Write the "
        "shapes of all four products.",
        "Left: (Tq, m)(m, Tk), then (Tq, Tk)(Tk, Dv). Right: (m, Tk)(Tk, Dv), then (Tq, m)(m, Dv).",
        "With n queries and n keys right is cheaper if 2·m·Dv < n·(m + Dv). The first such n is "
        "2·m·Dv // (m + Dv) + 1.",
    ),
    reference=bracket_costs,
    cases=_cost_cases,
    mistakes=(
        Mistake(
            "multiply-adds",
            _multiply_adds,
            "your FLOPs are half: you counted multiply-adds",
            "one multiply-add is 2 FLOPs",
        ),
        Mistake(
            "one product on the left",
            _with(left_flops=lambda t, s, m, width: 2 * t * s * m),
            "your left_flops have the scores only: the product with V is missing",
            "add 2·Tq·Tk·Dv for weights times values",
        ),
        Mistake(
            "one product on the right",
            _with(right_flops=lambda t, s, m, width: 2 * s * m * width),
            "your right_flops have the state only: each query must still read it",
            "add 2·Tq·m·Dv for φ(Q) times the state",
        ),
        Mistake(
            "queries counted as keys",
            _with(right_flops=lambda t, s, m, width: 4 * t * m * width),
            "your right_flops take as many keys as queries",
            "the state is a sum over keys, and is read once for each query",
        ),
        Mistake(
            "values as wide as features",
            _with(
                left_flops=lambda t, s, m, width: 4 * t * s * m,
                right_flops=lambda t, s, m, width: 2 * m * m * (t + s),
                right_numbers=lambda t, s, m, width: m * m,
                crossover=lambda t, s, m, width: m + 1,
            ),
            "your counts take values to be as wide as features: n·d'² is right only then",
            "use value_width wherever V takes part",
        ),
        Mistake(
            "one too early",
            _with(crossover=lambda t, s, m, width: -(-2 * m * width // (m + width))),
            "your crossover is where both cost the same or right is cheaper",
            "asked is the first n at which right is strictly cheaper",
        ),
        Mistake(
            "crossover at the features",
            _with(crossover=lambda t, s, m, width: m + 1),
            "your crossover is n = m + 1, which is right only if values are as wide as features",
            "solve 2·m·Dv·(n + n) < 2·n·n·(m + Dv) for n",
        ),
        Mistake(
            "state that depends on n",
            _with(right_numbers=lambda t, s, m, width: s * m + m * width),
            "your right_numbers count the features of all keys as well",
            "the intermediate result is φ(K)ᵀ V alone: its size does not depend on n",
        ),
        Mistake(
            "normaliser counted",
            _with(right_numbers=lambda t, s, m, width: m * (width + 1)),
            "your right_numbers have the column of the normaliser",
            "here only φ(K)ᵀ V is asked",
        ),
    ),
    alternatives=(_costs_by_products, _costs_by_search),
)
