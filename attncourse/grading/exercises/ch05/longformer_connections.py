"""Exercise 05.2: the entries of a Longformer's mask, by formula."""

from __future__ import annotations

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window as local


def longformer_connections(n: int, window: int, n_global: int) -> int:
    """Return the number of True entries, the first `n_global` tokens being global."""
    n_global = min(n_global, n)
    others = n - n_global
    return n_global * n + others * n_global + local.count(others, others, window=window)


def _band(n, window):
    """Return the pairs of a plain window."""
    window = min(window, max(n - 1, 0))
    return n * (2 * window + 1) - window * (window + 1)


def _count_by_overlap(n, window, n_global):
    """Add hubs and window, then take off what both have."""
    g = min(n_global, n)
    hubs = 2 * n * g - g * g
    return hubs + _band(n, window) - (_band(n, window) - _band(n - g, window))


def _count_by_what_is_missing(n, window, n_global):
    """Take the pairs that nobody has off the square: two triangles among regular tokens."""
    side = max(0, n - min(n_global, n) - window - 1)
    return n * n - side * (side + 1)


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 0, 0)),
        ("1 token, global", (1, 0, 1)),
        ("window 0, no hub", (5, 0, 0)),
        ("window 1, no hub", (5, 1, 0)),
        ("window 0, 1 hub", (5, 0, 1)),
        ("window 1, 2 hubs", (6, 1, 2)),
        ("all tokens global", (6, 1, 6)),
        ("more hubs than tokens", (6, 1, 9)),
        ("window wider than the rest", (8, 5, 4)),
        ("window wider than the text", (8, 50, 2)),
        ("chapter E: n = 4096, window 512, 2 hubs", (4096, 512, 2)),
        ("n = 10¹², window 512, 64 hubs", (10**12, 512, 64)),
        ("n = 10¹², window 10¹¹, 10⁶ hubs", (10**12, 10**11, 10**6)),
    ]
    random = []
    for top in (20, 200, 10**12):
        for _ in range(2):
            arguments = tuple(int(x) for x in generator.integers((3, 1, 1), (top, top, top // 3)))
            random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


LONGFORMER_CONNECTIONS = Exercise(
    id="05.2",
    chapter="05",
    title="Count a Longformer",
    function="longformer_connections",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "Split the mask into parts that do not overlap. Whose rows are simple?",
        "A global row has n keys. A regular row has all g global keys, and of the other n - g "
        "tokens it sees a plain window.",
        "g·n + (n - g)·g + m(2w + 1) - w(w + 1) with g = min(n_global, n), m = n - g and w = "
        "min(window, m - 1), at least 0.",
    ),
    reference=longformer_connections,
    cases=_cases,
    mistakes=(
        Mistake(
            "the textbook's formula",
            lambda n, window, n_global: (
                (n - min(n_global, n)) * (2 * window + min(n_global, n)) + min(n_global, n) * n
            ),
            "your count is the textbook's: no own key, no edges, no overlap",
            "count the parts of the mask exactly; a small mask and .sum() shows where you differ",
        ),
        Mistake(
            "overlap counted twice",
            lambda n, window, n_global: (
                2 * n * min(n_global, n) - min(n_global, n) ** 2 + _band(n, window)
            ),
            "your count adds the window of all n tokens to the rows and columns of the hubs: "
            "pairs near a hub count twice",
            "take the window among the n - g regular tokens only",
        ),
        Mistake(
            "corner counted twice",
            lambda n, window, n_global: (
                2 * n * min(n_global, n) + _band(n - min(n_global, n), window)
            ),
            "your count has the g² pairs of hubs with hubs twice",
            "rows and columns cross: 2·n·g - g²",
        ),
        Mistake(
            "columns only",
            lambda n, window, n_global: n * min(n_global, n) + _band(n - min(n_global, n), window),
            "your hubs have only their rows or only their columns",
            "a global token sees all, and all see it",
        ),
        Mistake(
            "no edges",
            lambda n, window, n_global: (
                2 * n * min(n_global, n)
                - min(n_global, n) ** 2
                + (n - min(n_global, n)) * (2 * window + 1)
            ),
            "your count gives every regular row a whole window",
            "at both ends of the regular tokens the window is cut: subtract w(w + 1)",
        ),
        Mistake(
            "own key missing",
            lambda n, window, n_global: (
                longformer_connections(n, window, n_global) - (n - min(n_global, n))
            ),
            "your regular tokens do not see themselves",
            "a radius of w means 2w + 1 keys, the query's own included",
        ),
        Mistake(
            "window as total",
            lambda n, window, n_global: longformer_connections(n, window // 2, n_global),
            "your window is the total: window // 2 keys on each side",
            "here window is a radius",
        ),
        Mistake(
            "hubs not clipped",
            lambda n, window, n_global: (
                2 * n * n_global - n_global**2 + _band(max(n - n_global, 0), window)
            ),
            "your formula is right only as long as there are no more hubs than tokens",
            "use min(n_global, n)",
        ),
        Mistake(
            "rounded",
            lambda n, window, n_global: float(longformer_connections(n, window, n_global)),
            "your count is a float: above 2⁵³ it is no longer exact",
            "stay with Python integers: // instead of /",
        ),
    ),
    alternatives=(_count_by_overlap, _count_by_what_is_missing),
)
