"""Exercise 05.6: two patterns in two passes, joined with two bugs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.exercises.ch05.shared import METERED_D, METERED_N, ROWS_BYTES, dense
from attncourse.grading.spec import Case, Exercise, Memory, Mistake
from attncourse.softmax import softmax


def repaired_union(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, n_global: int, block: int = 32
) -> np.ndarray:
    """Return attention to a window and to the first `n_global` keys, (n, Dv)."""
    n = len(q)
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros((n, v.shape[-1]), q.dtype)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        near = np.arange(max(n_global, start - window), min(n, rows[-1] + window + 1))
        keys = np.concatenate([np.arange(n_global), near])
        visible = (np.abs(rows[:, None] - keys) <= window) | (keys < n_global)
        scores = (q[rows] @ k[keys].T).astype(work) / np.sqrt(q.shape[-1]).astype(work)
        out[rows] = softmax(scores, visible) @ v[keys]
    return out


def _passes(
    overlap: bool,
    fade_sum: bool = True,
    fade_acc: bool = True,
    hide: bool = True,
    hubs: bool = True,
    scaled: bool = True,
) -> Callable:
    """Make the union in two passes, like the one in the exercise.

    Args:
        overlap: Whether global keys in the window count again.
        fade_sum: Whether the sum is brought to a new maximum.
        fade_acc: Whether the weighted values are.
        hide: Whether a query sees its own window only, not its block's whole stretch.
        hubs: Whether there is a second pass at all.
        scaled: Whether the scores are divided by √D.
    """

    def attention(q, k, v, window, n_global, block=32):
        n, width = q.shape
        out = np.zeros((n, v.shape[-1]), q.dtype)
        for start in range(0, n, block):
            rows = np.arange(start, min(start + block, n))
            near = np.arange(max(0, start - window), min(n, rows[-1] + window + 1))
            running_max, total, acc = -np.inf, 0.0, 0.0
            for keys in (near, np.arange(n_global if hubs else 0)):
                scores = q[rows] @ k[keys].T / np.sqrt(width if scaled else 1).astype(q.dtype)
                if keys is near:
                    hidden = np.abs(rows[:, None] - keys) > (window if hide else n)
                    if not overlap:
                        hidden |= keys < n_global
                    scores[hidden] = -np.inf
                top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
                new_max = np.maximum(running_max, top)
                pivot = np.where(new_max == -np.inf, 0, new_max)
                weights = np.exp(scores - pivot)
                fade = np.exp(running_max - pivot)
                total = total * (fade if fade_sum else 1) + weights.sum(axis=-1, keepdims=True)
                acc = acc * (fade if fade_acc else 1) + weights @ v[keys]
                running_max = new_max
            out[rows] = acc / total
        return out

    return attention


def _averaged(q, k, v, window, n_global, block=32):
    """Answer with the mean of two attentions."""
    n = len(q)
    near = np.abs(np.arange(n)[:, None] - np.arange(n)) <= window
    hubs = np.tile(np.arange(n) < n_global, (n, 1))
    both = [dense(q, k, v, mask) for mask in ((near, hubs) if n_global else (near,))]
    return (sum(both) / len(both)).astype(q.dtype)


def _by_mask(q, k, v, window, n_global, block=32):
    n = len(q)
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    return dense(q, k, v, (distance <= window) | (np.arange(n) < n_global))


def _cases(generator: Generator) -> list[Case]:
    def case(name, n, window, n_global, dtype=np.float32, longer=1.0):
        q, k, v = (generator.standard_normal((n, width)).astype(dtype) for width in (7, 7, 5))
        q[0] *= longer
        return Case(name, (2 * q, k, v, window, n_global))

    n, window, n_global = (int(x) for x in generator.integers((60, 1, 1), (150, 30, 12)))
    return [
        case("1 token, no global key", 1, 0, 0),
        case("1 token, global", 1, 0, 1),
        case("no global key", 9, 2, 0),
        case("window 0, 1 global key", 6, 0, 1),
        case("the global keys lie in the window", 5, 4, 2),
        case("all keys are global", 6, 1, 6),
        case("two blocks", 40, 3, 2),
        case("more global keys than a block", 80, 2, 40),
        case("one query 100 times longer than the others", 40, 9, 3, longer=100),
        case("float64", 70, 9, 3, np.float64),
        case(f"random, n = {n}, window {window}, {n_global} global", n, window, n_global),
    ]


def _metered(generator: Generator) -> Case:
    q, k, v = generator.standard_normal((3, METERED_N, METERED_D), dtype=np.float32)
    return Case(f"n = {METERED_N}, window 24, 8 global", (q, k, v, 24, 8))


REPAIRED_UNION = Exercise(
    id="05.6",
    chapter="05",
    title="Find two bugs in a union",
    function="repaired_union",
    kind="array",
    minutes=20,
    difficulty=3,
    points=3,
    hints=(
        "One bug needs a global key inside the window to show. The other needs the second pass to "
        "find a higher score than the first.",
        "A key of both patterns is one key: hide it in one of the passes. And weights that were "
        "made with an old maximum do not fit those made with a new one.",
        "In the first pass also hide keys < n_global. Before adding, multiply total and acc by "
        "np.exp(running_max - new_max); take care where the window holds global keys only.",
    ),
    reference=repaired_union,
    cases=_cases,
    memory=Memory(_metered, 4 * ROWS_BYTES, "four arrays as large as q: 4 · n · D · 4 bytes"),
    mistakes=(
        Mistake(
            "as given",
            _passes(overlap=True, fade_sum=False, fade_acc=False),
            "both bugs are still there: your output is that of the given code",
            "compare with a dense mask at n = 6: which rows differ, and what do they share?",
        ),
        Mistake(
            "only the overlap repaired",
            _passes(overlap=False, fade_sum=False, fade_acc=False),
            "one bug is left: the two passes use different maxima",
            "bring total and acc to the new maximum before you add: times exp(old - new)",
        ),
        Mistake(
            "only the rescaling repaired",
            _passes(overlap=True),
            "one bug is left: a global key inside the window counts twice",
            "a union has each key once: hide global keys in the first pass",
        ),
        Mistake(
            "sum rescaled, values not",
            _passes(overlap=False, fade_acc=False),
            "your sum is brought to the new maximum, your weighted values are not",
            "multiply acc by the same factor as total",
        ),
        Mistake(
            "values rescaled, sum not",
            _passes(overlap=False, fade_sum=False),
            "your weighted values are brought to the new maximum, your sum is not",
            "multiply total by the same factor as acc",
        ),
        Mistake(
            "two attentions averaged",
            _averaged,
            "your output is the mean of two attentions, each with a softmax of its own",
            "one softmax runs over the union: join sums and values, then divide once",
        ),
        Mistake(
            "global keys dropped",
            _passes(overlap=True, hubs=False),
            "your output is that of the window alone",
            "the second pass adds the first n_global keys for every query",
        ),
        Mistake(
            "no scale",
            _passes(overlap=False, scaled=False),
            "your output is what you get without 1/√D",
            "the scale was right in the given code",
        ),
        Mistake(
            "window not hidden",
            _passes(overlap=False, hide=False),
            "each query of a block sees all keys that the block needs together",
            "keep the mask of the window: only |i - j| <= window is visible",
        ),
        Mistake(
            "dense",
            _by_mask,
            "your numbers are right, but the blocks are gone: all n × n scores exist at once",
            "repair the lines inside the loop, and keep the loop",
        ),
    ),
    alternatives=(_passes(overlap=False), lambda *args: repaired_union(*args, block=7)),
)
