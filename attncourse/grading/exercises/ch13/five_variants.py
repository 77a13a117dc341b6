"""Exercise 13.V10: five variants side by side, from document 003."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake

NAMES = ("full", "local", "sparse", "linear", "low_rank")


def five_variants(n: int, heads: int, d: int, window: int, keys: int, rank: int) -> dict:
    """Return the float32 bytes that five variants hold, and which holds least, counted from 0."""
    return _with_best(
        {
            "full": n * n,
            "local": n * min(window, n),
            "sparse": n * min(keys, n),
            "linear": d * (d + 1),
            "low_rank": n * rank + 2 * rank * d,
        },
        heads,
    )


def _with_best(numbers: dict[str, int], heads: int, each: int = 4) -> dict:
    found = {name: heads * count * each for name, count in numbers.items()}
    return found | {"best": min(range(5), key=lambda i: found[NAMES[i]])}


def _variants_row_by_row(n, heads, d, window, keys, rank):
    rows = {"full": n, "local": min(window, n), "sparse": min(keys, n), "low_rank": rank}
    found = {name: 4 * heads * n * held for name, held in rows.items()}
    found["low_rank"] += 2 * 4 * heads * rank * d
    found["linear"] = 4 * heads * (d * d + d)
    ordered = [found[name] for name in NAMES]
    return dict(zip(NAMES, ordered, strict=True)) | {"best": ordered.index(min(ordered))}


def _variants_by_sorting(n, heads, d, window, keys, rank):
    sizes = (n * n, n * min(n, window), n * min(n, keys), d + d**2, rank * (n + d + d))
    found = {name: size * heads * 4 for name, size in zip(NAMES, sizes, strict=True)}
    return {**found, "best": sorted(range(5), key=lambda i: (sizes[i], i))[0]}


def _variants_with(**counts: Callable) -> Callable:
    """Return `five_variants` with other counts of numbers a head, and the winner that follows."""

    def variants(n, heads, d, window, keys, rank):
        right = five_variants(n, 1, d, window, keys, rank)
        numbers = {name: right[name] // 4 for name in NAMES}
        numbers |= {name: count(n, d, window, keys, rank) for name, count in counts.items()}
        return _with_best(numbers, heads)

    return variants


def _variants_changed(change: Callable) -> Callable:
    return lambda *arguments: change(five_variants(*arguments), *arguments)


def _scaled(divisor: int) -> Callable:
    return _variants_changed(
        lambda found, *_: {k: v if k == "best" else v // divisor for k, v in found.items()}
    )


def _one_head(n, heads, d, window, keys, rank):
    return five_variants(n, 1, d, window, keys, rank)


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("5 tokens", (5, 1, 7, 3, 2, 1)),
        ("1 token: a window longer than the text", (1, 2, 8, 16, 4, 2)),
        ("a short text: sparse holds least", (8, 1, 16, 4, 2, 6)),
        ("the window holds least", (16, 2, 64, 2, 8, 4)),
        ("low rank holds least", (64, 1, 64, 16, 50, 1)),
        ("full holds least", (2, 1, 32, 9, 9, 4)),
        ("the document's n = 8192, w = 512, 90 keys, rank 256", (8192, 12, 64, 512, 90, 256)),
    ]
    random = []
    for _ in range(4):
        arguments = tuple(
            int(x) for x in generator.integers((16, 2, 8, 1, 1, 1), (9000, 33, 129, 600, 200, 300))
        )
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


FIVE_VARIANTS = Exercise(
    id="13.V10",
    chapter="13",
    title="Five variants side by side",
    function="five_variants",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "Count the numbers that one head holds, then multiply by heads and by 4 bytes.",
        "Three of them hold scores, so many a row. Linear attention holds a (d, d) state and a sum "
        "of d; low rank holds scores and two (rank, d) arrays.",
        "low_rank = n·rank + 2·rank·d, linear = d·(d + 1), local = n·min(window, n); best is the "
        "position of the smallest, in the order full, local, sparse, linear, low_rank.",
    ),
    reference=five_variants,
    cases=_cases,
    mistakes=(
        Mistake(
            "one head",
            _one_head,
            "your bytes are those of one head",
            "multiply by the number of heads",
        ),
        Mistake(
            "elements",
            _scaled(4),
            "your numbers are elements, not bytes",
            "a float32 takes 4 bytes",
        ),
        Mistake(
            "float16",
            _scaled(2),
            "your bytes are half: 2 bytes for a number",
            "a float32 takes 4 bytes",
        ),
        Mistake(
            "no normaliser",
            _variants_with(linear=lambda n, d, *_: d * d),
            "your linear attention forgets the sum of its keys, by which it divides",
            "the state is (d, d), and the normaliser d more",
        ),
        Mistake(
            "features of every token",
            _variants_with(linear=lambda n, d, *_: n * d),
            "your linear attention keeps something for every token",
            "its state is (d, d + 1), however long the text is",
        ),
        Mistake(
            "projected keys forgotten",
            _variants_with(low_rank=lambda n, d, window, keys, rank: n * rank),
            "your low rank holds the scores only",
            "the projected keys and values are (rank, d) each",
        ),
        Mistake(
            "window longer than the text",
            _variants_with(
                local=lambda n, d, window, keys, rank: n * window,
                sparse=lambda n, d, window, keys, rank: n * keys,
            ),
            "your rows hold more scores than there are keys",
            "a row has at most n scores",
        ),
        Mistake(
            "sparse wins",
            _variants_changed(lambda found, *_: found | {"best": 2}),
            "your winner is always sparse attention, the document's",
            "compare the five numbers",
        ),
        Mistake(
            "largest",
            _variants_changed(
                lambda found, *_: found | {"best": max(range(5), key=lambda i: found[NAMES[i]])}
            ),
            "your best is the one that holds most",
            "take the smallest",
        ),
        Mistake(
            "counted from 1",
            _variants_changed(lambda found, *_: found | {"best": found["best"] + 1}),
            "your best is counted from 1",
            "full attention is 0",
        ),
    ),
    alternatives=(_variants_row_by_row, _variants_by_sorting),
)
