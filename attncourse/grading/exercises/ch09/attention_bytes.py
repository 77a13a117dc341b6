"""Exercise 09.V2: the memory budget of document 002, with Flash in it."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import window

METHODS = ("standard", "linformer", "window", "flash")


def attention_bytes(
    n: int, d: int, heads: int, rank: int, width: int, bytes_per_number: int
) -> dict:
    """Return the bytes that four methods hold in one layer, and their order."""
    return _budget(
        n, d, heads, bytes_per_number,
        standard=heads * n * n,
        linformer=heads * n * rank + 2 * rank * d + 2 * n * rank,
        window=heads * window.count(n, n, window=width // 2),
        flash=heads * n,
    )  # fmt: skip


def _budget(n, d, heads, bytes_per_number, **extra):
    """Return the bytes of q, k, v and of what each method holds besides, and the order."""
    held = {name: (3 * n * d + number) * bytes_per_number for name, number in extra.items()}
    return held | {"order": tuple(sorted(held, key=held.get))}


def _bytes_by_arrays(n, d, heads, rank, width, bytes_per_number):
    """Add up the shape of each array."""

    def size(*shapes):
        total = 0
        for shape in [(n, d)] * 3 + list(shapes):
            numbers = 1
            for axis in shape:
                numbers *= axis
            total += numbers
        return total * bytes_per_number

    side = min(width // 2, n - 1)
    corners = side * (side + 1)
    result = {
        "standard": size((heads, n, n)),
        "linformer": size((heads, n, rank), (rank, d), (rank, d), (rank, n), (rank, n)),
        "window": size((heads, n, 2 * side + 1)) - heads * corners * bytes_per_number,
        "flash": size((heads, n)),
    }
    pairs = sorted((value, name) for name, value in result.items())
    result["order"] = tuple(name for _, name in pairs)
    return result


def _bytes_by_rows(n, d, heads, rank, width, bytes_per_number):
    side = width // 2
    seen = sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    numbers = dict.fromkeys(METHODS, 3 * n * d)
    for name, per_head in zip(METHODS, (n**2, n * rank, seen, n), strict=True):
        numbers[name] += heads * per_head
    numbers["linformer"] += 2 * rank * (n + d)
    found = {name: number * bytes_per_number for name, number in numbers.items()}
    return {**found, "order": tuple(sorted(METHODS, key=found.__getitem__))}


def _with(**changed: Callable) -> Callable:
    """Return `attention_bytes` with another number of numbers beside q, k and v for some method."""

    def result(n, d, heads, rank, width, bytes_per_number):
        found = attention_bytes(n, d, heads, rank, width, bytes_per_number)
        extra = {name: found[name] // bytes_per_number - 3 * n * d for name in METHODS}
        extra |= {name: count(n, d, heads, rank, width) for name, count in changed.items()}
        return _budget(n, d, heads, bytes_per_number, **extra)

    return result


def _reordered(order: Callable) -> Callable:
    def result(*arguments):
        found = attention_bytes(*arguments)
        return found | {"order": order(found)}

    return result


def _scores_alone(n, d, heads, rank, width, bytes_per_number):
    found = attention_bytes(n, d, heads, rank, width, bytes_per_number)
    inputs = 3 * n * d * bytes_per_number
    return {name: found[name] - inputs for name in METHODS} | {"order": found["order"]}


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("3 tokens", (3, 1, 1, 1, 2, 1)),
        ("7 tokens", (7, 5, 1, 3, 2, 4)),
        ("2 heads", (7, 10, 2, 3, 4, 4)),
        ("odd width 5", (10, 4, 2, 3, 5, 2)),
        ("a window of nearly everything", (6, 4, 2, 3, 9, 2)),
        ("rank larger than n: Linformer holds most", (8, 4, 2, 30, 4, 4)),
        ("the document's n = 4096, d = 768, as one head", (4096, 768, 1, 256, 512, 4)),
        ("the same with its 12 heads", (4096, 768, 12, 256, 512, 4)),
    ]
    random = []
    while len(random) < 5:
        n, head, heads, rank, width, size = (
            int(x) for x in generator.integers((20, 2, 2, 5, 6, 2), (2000, 65, 13, 60, 36, 9))
        )
        arguments = (n, head * heads, heads, rank, width, size)
        if len(set(attention_bytes(*arguments).values())) == 5:  # no two methods tie
            random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


ATTENTION_BYTES = Exercise(
    id="09.V2",
    chapter="09",
    title="A memory budget, with Flash in it",
    function="attention_bytes",
    kind="number",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "All four hold q, k and v, 3·n·d numbers for all heads. What does each hold besides?",
        "Per head: n² scores; n·rank scores; the pairs of the window; one number per query. "
        "Linformer also keeps K and V projected, 2·rank·d, and the two projections, 2·n·rank.",
        "side = min(width // 2, n - 1); the window has n·(2·side + 1) - side·(side + 1) pairs. "
        "order = tuple(sorted(names, key=bytes_of.get)).",
    ),
    reference=attention_bytes,
    cases=_cases,
    mistakes=(
        Mistake(
            "one matrix for all heads",
            _with(
                standard=lambda n, d, heads, rank, width: n * n,
                linformer=lambda n, d, heads, rank, width: n * rank + 2 * rank * (n + d),
                window=lambda n, d, heads, rank, width: window.count(n, n, window=width // 2),
                flash=lambda n, d, heads, rank, width: n,
            ),
            "your scores are those of one head, your q, k and v those of all heads",
            "each head has scores of its own: multiply by heads",
        ),
        Mistake(
            "projections forgotten",
            _with(linformer=lambda n, d, heads, rank, width: heads * n * rank + 2 * rank * d),
            "your Linformer leaves out its two projections, as the document does",
            "add E and F: 2·n·rank numbers, shared by the heads",
        ),
        Mistake(
            "projections per head",
            _with(
                linformer=lambda n, d, heads, rank, width: (
                    heads * (n * rank + 2 * n * rank) + 2 * rank * d
                )
            ),
            "your Linformer has a pair of projections for each head",
            "here all heads share E and F: 2·n·rank once",
        ),
        Mistake(
            "projected keys forgotten",
            _with(linformer=lambda n, d, heads, rank, width: heads * n * rank + 2 * n * rank),
            "your Linformer leaves out the projected K and V",
            "add 2·rank·d numbers",
        ),
        Mistake(
            "no edges",
            _with(window=lambda n, d, heads, rank, width: heads * n * (2 * (width // 2) + 1)),
            "your window gives every query the keys of one in the middle",
            "subtract the two triangles that the edges cut off",
        ),
        Mistake(
            "n times width",
            _with(window=lambda n, d, heads, rank, width: heads * n * width),
            "your window holds n·width numbers, the document's shorthand",
            "count width // 2 keys on each side and the query's own, edges exact",
        ),
        Mistake(
            "width per side",
            _with(window=lambda n, d, heads, rank, width: heads * window.count(n, n, window=width)),
            "your window has `width` keys on each side",
            "in this exercise width is the total: width // 2 on each side, and the own key",
        ),
        Mistake(
            "maximum and sum kept",
            _with(flash=lambda n, d, heads, rank, width: 2 * heads * n),
            "your Flash keeps two numbers per query",
            "after the loop maximum and sum become one number, the log-sum-exp",
        ),
        Mistake(
            "nothing kept",
            _with(flash=lambda n, d, heads, rank, width: 0),
            "your Flash keeps nothing beside q, k and v",
            "it keeps one number per query and head for the backward pass",
        ),
        Mistake(
            "largest first",
            _reordered(lambda found: found["order"][::-1]),
            "your order begins with the largest",
            "order goes from the fewest bytes to the most",
        ),
        Mistake(
            "order as listed",
            _reordered(lambda found: METHODS),
            "your order is the one in which the methods are named",
            "sort the names by their bytes",
        ),
        Mistake(
            "without q, k and v",
            _scores_alone,
            "your bytes leave out q, k and v",
            "each method holds 3·n·d numbers more",
        ),
    ),
    alternatives=(_bytes_by_arrays, _bytes_by_rows),
)
