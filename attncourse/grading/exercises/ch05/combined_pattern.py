"""Exercise 05.V8: a combined sparse pattern, from document 003."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch05.shared import changed
from attncourse.grading.spec import Case, Exercise, Mistake


def combined_pattern(n: int, local: int, stride: int, n_global: int) -> dict:
    """Return the connections of local, strided and global keys, added up and as a union."""
    side, at = local // 2, np.arange(n)
    left, right = at, n - 1 - at  # tokens before and after each
    near = np.minimum(left, side) + 1 + np.minimum(right, side)
    far = left // stride + 1 + right // stride
    both = np.minimum(left, side) // stride + 1 + np.minimum(right, side) // stride
    offset = at[:, None] - np.arange(min(n_global, n))
    fresh = (np.abs(offset) > side) & (offset % stride != 0)
    union = int((near + far - both).sum() + fresh.sum())
    added = int((near + far).sum()) + n * min(n_global, n)
    return _of(added, union, n)


def _of(added: int, union: int, n: int) -> dict:
    """Return both counts and what follows from the union."""
    return {
        "added": added,
        "union": union,
        "average": union / n,
        "density": union / n**2,
        "bytes": 4 * union,
    }


def _masks(n, local, stride, n_global):
    at = np.arange(n, dtype=np.int16)
    offset = at - at[:, None]
    near, far = np.abs(offset) <= local // 2, offset % stride == 0
    first = np.zeros((n, n), dtype=bool)
    first[:, :n_global] = True
    return near, far, first


def _by_masks(n, local, stride, n_global):
    near, far, first = _masks(n, local, stride, n_global)
    added = sum(int(mask.sum()) for mask in (near, far, first))
    return _of(added, int((near | far | first).sum()), n)


def _by_rows(n, local, stride, n_global):
    side, added, union = local // 2, 0, 0
    for i in range(n):
        near = set(range(max(0, i - side), min(n, i + side + 1)))
        far, first = set(range(i % stride, n, stride)), set(range(min(n_global, n)))
        added += len(near) + len(far) + len(first)
        union += len(near | far | first)
    return _of(added, union, n)


def _with_masks(count: Callable) -> Callable:
    """Return `combined_pattern` with another union: count(near, far, first) -> pairs."""

    def pattern(n, local, stride, n_global):
        whole = combined_pattern(n, local, stride, n_global)
        return _of(whole["added"], int(count(*_masks(n, local, stride, n_global))), n)

    return pattern


def _hub_rows(near, far, first):
    union = near | far | first
    union[: int(first[0].sum())] = True
    return union.sum()


def _same_columns(n, local, stride, n_global):
    near, _, first = _masks(n, local, stride, n_global)
    far = np.tile(np.arange(n) % stride == 0, (n, 1))
    added = sum(int(mask.sum()) for mask in (near, far, first))
    return _of(added, int((near | far | first).sum()), n)


def _per_side(n, local, stride, n_global):
    return combined_pattern(n, 2 * local, stride, n_global)


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 0, 1, 0)),
        ("6 tokens, own key only", (6, 0, 6, 0)),
        ("6 tokens, window", (6, 2, 6, 0)),
        ("6 tokens, stride", (6, 0, 2, 0)),
        ("6 tokens, all three", (6, 2, 3, 1)),
        ("12 tokens, odd window", (12, 5, 4, 2)),
        ("stride 1 is full", (8, 2, 1, 1)),
        ("window wider than the text", (8, 40, 3, 1)),
        ("the document's n = 4096, 64, 128, 1", (4096, 64, 128, 1)),
    ]
    random = []
    for _ in range(4):
        arguments = tuple(int(x) for x in generator.integers((40, 4, 2, 1), (300, 40, 30, 6)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


COMBINED_PATTERN = Exercise(
    id="05.V8",
    chapter="05",
    title="A union of three patterns",
    function="combined_pattern",
    kind="number",
    minutes=15,
    difficulty=2,
    points=2,
    hints=(
        "At these sizes you may simply build the masks. Which operator joins them, and what does "
        "adding their sums count?",
        "offset = key - query. Near: |offset| <= local // 2. Far: offset % stride == 0. First: "
        "key < n_global, for every query; no full rows.",
        "added is near.sum() + far.sum() + first.sum(); union is (near | far | first).sum(), and "
        "average, density and bytes are union/n, union/n² and 4·union.",
    ),
    reference=combined_pattern,
    cases=_cases,
    mistakes=(
        Mistake(
            "sum for union",
            changed(
                combined_pattern,
                lambda whole, n, *rest: _of(whole["added"], whole["added"], n),
            ),
            "your union is the sum of the three: shared pairs count more than once",
            "join the masks with | before you count",
        ),
        Mistake(
            "union of two",
            _with_masks(lambda near, far, first: (near | far).sum() + first.sum()),
            "your union adds the first tokens to the other two without looking for overlap",
            "a first token may lie in the window or on the stride: join all three with |",
        ),
        Mistake(
            "the textbook's 97",
            lambda n, local, stride, n_global: (
                (whole := combined_pattern(n, local, stride, n_global))
                | _of(whole["added"], n * (local + -(-n // stride) + n_global), n)
            ),
            "your union is n·(local + n/stride + n_global), the textbook's shorthand",
            "own keys, edges and overlaps count: build the masks",
        ),
        Mistake(
            "full rows for the first tokens",
            _with_masks(_hub_rows),
            "your first tokens also see everything",
            "in this exercise all queries see the first tokens, which see no more than others",
        ),
        Mistake(
            "the same columns for all",
            _same_columns,
            "your stride selects the keys 0, stride, 2·stride …, the same for every query",
            "count from the query: (key - query) % stride == 0",
        ),
        Mistake(
            "window per side",
            _per_side,
            "your window has `local` keys on each side",
            "in this exercise local is the total: local // 2 on each side, and the own key",
        ),
        Mistake(
            "percent",
            changed(combined_pattern, lambda whole, *args: {"density": 100 * whole["density"]}),
            "your density is in percent",
            "return a share between 0 and 1",
        ),
        Mistake(
            "float16",
            changed(combined_pattern, lambda whole, *args: {"bytes": whole["bytes"] // 2}),
            "your bytes are half: 2 bytes for a number",
            "float32 takes 4 bytes",
        ),
    ),
    alternatives=(_by_masks, _by_rows),
)
