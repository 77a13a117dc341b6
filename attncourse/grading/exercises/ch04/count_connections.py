"""Exercise 04.2: the entries of the mask, by formula."""

from __future__ import annotations

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window as reference


def count_connections(n: int, window: int, causal: bool) -> int:
    """Return the number of True entries of the window mask (n, n), without making it."""
    return reference.count(n, n, window=window, causal=causal)


def _count_by_triangles(n, window, causal):
    window = min(window, n - 1)
    corner = window * (window + 1) // 2  # what one edge cuts off
    return n * (window + 1) - corner if causal else n * (2 * window + 1) - 2 * corner


def _count_by_outside(n, window, causal):
    outside = max(0, n - window - 1)  # rows of the triangle beyond the window
    triangle = outside * (outside + 1) // 2
    return n * (n + 1) // 2 - triangle if causal else n * n - 2 * triangle


def _count_by_distance(n, window, causal):
    window = min(window, n - 1)
    one_side = window * n - window * (window + 1) // 2  # n - d pairs lie d apart
    return n + one_side * (1 if causal else 2)


def _count_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 0, False)),
        ("1 token, window 5, causal", (1, 5, True)),
        ("2 tokens, window 1", (2, 1, False)),
        ("2 tokens, window 1, causal", (2, 1, True)),
        ("window 0", (5, 0, False)),
        ("window 2", (5, 2, False)),
        ("window 2, causal", (5, 2, True)),
        ("window n - 1", (6, 5, False)),
        ("window n", (6, 6, False)),
        ("window larger than n, causal", (6, 100, True)),
        ("n = 1024, window 256", (1024, 256, False)),
        ("n = 10¹², window 512", (10**12, 512, False)),
        ("n = 10¹², window 10¹¹, causal", (10**12, 10**11, True)),
        ("n = 10¹², window 10¹³", (10**12, 10**13, False)),
    ]
    random = []
    for top in (20, 200, 10**12):
        n, window = (int(x) for x in generator.integers(1, (top, top // 2)))
        for causal in (False, True):
            random.append((f"random {n, window, causal}", (n, window, causal)))
    return [Case(name, arguments) for name, arguments in fixed + random]


COUNT_CONNECTIONS = Exercise(
    id="04.2",
    chapter="04",
    title="Count the connections",
    function="count_connections",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "A row in the middle is easy. How many keys does row 0 miss, row 1, row 2 …?",
        "Without edges there are n(2w + 1) pairs. Each edge cuts off a triangle of "
        "1 + 2 + … + w pairs; causal attention has only one such edge, and only w + 1 keys a row.",
        "With w = min(window, n - 1): n(2w + 1) - w(w + 1), or n(w + 1) - w(w + 1)/2 if causal; "
        "divide with //.",
    ),
    reference=count_connections,
    cases=_count_cases,
    mistakes=(
        Mistake(
            "no edges",
            lambda n, window, causal: n * (window + 1 if causal else 2 * window + 1),
            "your count gives every row the keys of a middle row",
            "rows near an edge see fewer keys: subtract a triangle for each edge",
        ),
        Mistake(
            "n times window",
            lambda n, window, causal: n * window,
            "your count is n·window, the textbook shorthand",
            "count both sides and the query's own key, then the edges",
        ),
        Mistake(
            "wide window not clipped",
            lambda n, window, causal: (
                n * (window + 1) - window * (window + 1) // 2
                if causal
                else n * (2 * window + 1) - window * (window + 1)
            ),
            "your formula is right only as long as window < n",
            "a window beyond n - 1 adds no keys: use min(window, n - 1)",
        ),
        Mistake(
            "one edge",
            lambda n, window, causal: (
                _count_by_triangles(n, window, True) + (0 if causal else n * min(window, n - 1))
            ),
            "your count subtracts the edge at the start only",
            "without causal, the last rows miss keys as well",
        ),
        Mistake(
            "causal as half",
            lambda n, window, causal: _count_by_triangles(n, window, False) // (2 if causal else 1),
            "your causal count is half of the other one: the diagonal is halved too",
            "each query's own key belongs to the causal half in full",
        ),
        Mistake(
            "causal ignored",
            lambda n, window, causal: _count_by_triangles(n, window, False),
            "your causal count has the keys after each query as well",
            "if causal, a query has window keys before it and its own: window + 1",
        ),
        Mistake(
            "own key missing",
            lambda n, window, causal: _count_by_triangles(n, window, causal) - n,
            "your count is n too small: each query's own key is missing",
            "a radius of w means 2w + 1 keys, the query's own included",
        ),
        Mistake(
            "window as total",
            lambda n, window, causal: _count_by_triangles(n, window // 2, causal),
            "your window is the total: window // 2 keys on each side",
            "here window is a radius",
        ),
        Mistake(
            "rounded",
            lambda n, window, causal: float(_count_by_triangles(n, window, causal)),
            "your count is a float: above 2⁵³ it is no longer exact",
            "stay with Python integers: // instead of /",
        ),
    ),
    alternatives=(_count_by_triangles, _count_by_outside, _count_by_distance),
)
