"""Exercise 05.V4: the connections of BigBird, from document 002."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.exercises.ch05.shared import changed
from attncourse.grading.spec import Case, Exercise, Mistake


def bigbird_connections(n: int, window: int, n_random: int, n_global: int) -> dict:
    """Return the connections of BigBird by parts, each row of the mask counted once."""
    rows = n - n_global
    parts = {
        "window_pairs": rows * window,
        "random_pairs": rows * n_random,
        "to_global": rows * n_global,
        "from_global": n_global * n,
    }
    return parts | _of(sum(parts.values()), n)


def _of(total: int, n: int) -> dict:
    """Return a total and what follows from it."""
    return {"total": total, "average": total / n, "density": total / n**2, "bytes": 4 * total}


def _by_rows(n, window, n_random, n_global):
    """Walk through the tokens and add up what each sees."""
    seen = {"window_pairs": 0, "random_pairs": 0, "to_global": 0, "from_global": 0}
    for token in range(n):
        if token < n_global:
            seen["from_global"] += n
        else:
            seen["window_pairs"] += window
            seen["random_pairs"] += n_random
            seen["to_global"] += n_global
    total = sum(seen.values())
    return seen | {
        "total": total, "average": total / n, "density": total / (n * n), "bytes": total * 4,
    }  # fmt: skip


def _by_products(n, window, n_random, n_global):
    regular, per_regular = n - n_global, window + n_random + n_global
    total = regular * per_regular + n_global * n
    return {
        "total": total,
        "average": (regular * per_regular) / n + n_global,
        "density": total / n / n,
        "bytes": total * 4,
        "from_global": n_global * n,
        "to_global": regular * n_global,
        "random_pairs": regular * n_random,
        "window_pairs": regular * window,
    }


def _with_total(total_of: Callable) -> Callable:
    """Return `bigbird_connections` with another total: total_of(whole, *args) -> pairs."""
    return changed(bigbird_connections, lambda whole, *args: _of(total_of(whole, *args), args[0]))


def _all_rows(n, window, n_random, n_global):
    parts = {
        "window_pairs": n * window,
        "random_pairs": n * n_random,
        "to_global": n * n_global,
        "from_global": n_global * n,
    }
    return parts | _of(sum(parts.values()), n)


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("8 tokens, no hub", (8, 2, 1, 0)),
        ("8 tokens, 1 hub", (8, 2, 1, 1)),
        ("8 tokens, no random keys", (8, 3, 0, 2)),
        ("100 tokens", (100, 10, 5, 4)),
        ("the document's n = 4096", (4096, 256, 64, 32)),
        ("its w on each side", (4096, 512, 64, 32)),
        ("n = 16384", (16384, 256, 64, 32)),
    ]
    random = []
    for _ in range(4):
        n = int(generator.integers(60, 3000))
        others = (int(x) for x in generator.integers((1, 0, 1), (20, 20, 19)))
        arguments = (n, *others)
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


BIGBIRD_CONNECTIONS = Exercise(
    id="05.V4",
    chapter="05",
    title="BigBird without counting twice",
    function="bigbird_connections",
    kind="number",
    minutes=15,
    difficulty=2,
    points=2,
    hints=(
        "The mask has two kinds of rows. How many are there of each, and how long is each?",
        "A regular row has window + n_random + n_global keys, a global row has n. Every pair is in "
        "exactly one row: nothing is left to add or to take off.",
        "rows = n - n_global; the parts are rows·window, rows·n_random, rows·n_global and "
        "n_global·n; total is their sum, average total/n, density total/n², bytes 4·total.",
    ),
    reference=bigbird_connections,
    cases=_cases,
    mistakes=(
        Mistake(
            "incoming added again",
            _with_total(
                lambda whole, n, window, n_random, n_global: (
                    whole["total"] + (n - n_global) * n_global - n_global**2
                )
            ),
            "your total is the textbook's: links to global tokens are added again, and an overlap "
            "is taken off",
            "the regular rows hold those links already: the four parts just add up",
        ),
        Mistake(
            "incoming added again, no overlap",
            _with_total(
                lambda whole, n, window, n_random, n_global: (
                    whole["total"] + (n - n_global) * n_global
                )
            ),
            "your total has the links to global tokens twice",
            "the regular rows hold those links already: the four parts just add up",
        ),
        Mistake(
            "hubs counted as regular too",
            _all_rows,
            "your regular parts have n rows: the global tokens count among them too",
            "n - n_global rows are regular",
        ),
        Mistake(
            "window per side",
            lambda n, window, n_random, n_global: bigbird_connections(
                n, 2 * window, n_random, n_global
            ),
            "your window has that many keys on each side",
            "here window is the total number of keys in the window",
        ),
        Mistake(
            "hubs like others",
            changed(
                bigbird_connections,
                lambda whole, n, window, n_random, n_global: (
                    {"from_global": n_global * (window + n_random + n_global)}
                    | _of(n * (window + n_random + n_global), n)
                ),
            ),
            "your global tokens see no more than the others",
            "a global token sees all n keys",
        ),
        Mistake(
            "sparsity",
            changed(bigbird_connections, lambda whole, *args: {"density": 1 - whole["density"]}),
            "your density is the sparsity: the share of pairs that are left out",
            "density is the share that is kept; sparsity is 1 - density",
        ),
        Mistake(
            "percent",
            changed(bigbird_connections, lambda whole, *args: {"density": 100 * whole["density"]}),
            "your density is in percent",
            "return a share between 0 and 1",
        ),
        Mistake(
            "float16",
            changed(bigbird_connections, lambda whole, *args: {"bytes": whole["bytes"] // 2}),
            "your bytes are half: 2 bytes for a number",
            "float32 takes 4 bytes",
        ),
        Mistake(
            "average of two kinds",
            changed(
                bigbird_connections,
                lambda whole, n, window, n_random, n_global: {
                    "average": (window + n_random + n_global + n) / 2
                },
            ),
            "your average takes both kinds of tokens to be equally many",
            "divide the total by n",
        ),
    ),
    alternatives=(_by_rows, _by_products),
)
