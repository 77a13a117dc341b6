"""Exercise 05.1: the mask of a union of three patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import longformer, strided


def sparse_mask(
    n_queries: int, n_keys: int, window: int, stride: int, n_global: int, causal: bool
) -> np.ndarray:
    """Return the mask (Tq, Tk) of window, stride and global tokens together."""
    knobs = {"window": window, "global_tokens": n_global, "causal": causal}
    near = longformer.mask(n_queries, n_keys, **knobs)
    return near | strided.mask(n_queries, n_keys, stride=stride, causal=causal)


def _mask_by_rows(n_queries, n_keys, window, stride, n_global, causal):
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for i in range(n_queries):
        own = i + n_keys - n_queries
        mask[i, own % stride :: stride] = True
        mask[i, max(0, own - window) : max(0, own + window + 1)] = True
        mask[i, :n_global] = True
        if 0 <= own < n_global:
            mask[i] = True
        if causal:
            mask[i, max(0, own + 1) :] = False
    return mask


def _mask_of(**change: Callable) -> Callable:
    """Return a mask by broadcasting, with some of its conditions replaced.

    Each condition takes a dict of the arguments, of `own`, the query positions (Tq, 1), and of
    `key`, the key positions (1, Tk); `join` takes the conditions' masks.
    """
    rules = {
        "own": lambda a: np.arange(a["n_queries"])[:, None] + a["n_keys"] - a["n_queries"],
        "near": lambda a: np.abs(a["key"] - a["own"]) <= a["window"],
        "far": lambda a: (a["key"] - a["own"]) % a["stride"] == 0,
        "row": lambda a: (a["own"] >= 0) & (a["own"] < a["n_global"]) & (a["key"] >= 0),
        "column": lambda a: (a["key"] < a["n_global"]) & (a["own"] == a["own"]),
        "past": lambda a: (a["key"] <= a["own"]) | (not a["causal"]),
        "join": lambda near, far, row, column, past: (near | far | row | column) & past,
    } | change

    def mask(n_queries, n_keys, window, stride, n_global, causal):
        a = {
            "n_queries": n_queries, "n_keys": n_keys, "window": window, "stride": stride,
            "n_global": n_global, "causal": causal, "key": np.arange(n_keys)[None],
        }  # fmt: skip
        a["own"] = rules["own"](a)
        parts = (rules[name](a) for name in ("near", "far", "row", "column", "past"))
        return rules["join"](*parts)

    return mask


def _cases(generator: Generator) -> list[Case]:
    fixed = [
        ("1 token", (1, 1, 0, 1, 0, False)),
        ("window alone", (6, 6, 1, 9, 0, False)),
        ("stride alone", (7, 7, 0, 3, 0, False)),
        ("1 global token", (6, 6, 0, 9, 1, False)),
        ("all three", (9, 9, 1, 4, 2, False)),
        ("all three, causal", (9, 9, 1, 4, 2, True)),
        ("fewer queries than keys", (3, 9, 1, 4, 1, False)),
        ("fewer queries than keys, causal", (3, 9, 1, 4, 7, True)),
        ("more queries than keys", (9, 4, 1, 3, 2, False)),
        ("more queries than keys, causal: empty rows", (9, 4, 1, 3, 2, True)),
        ("more global tokens than keys", (4, 4, 0, 3, 9, False)),
        ("60 queries, 20 keys", (60, 20, 3, 7, 2, False)),
        ("20 queries, 60 keys, causal", (20, 60, 3, 7, 2, True)),
    ]
    random = []
    for _ in range(6):
        sizes = (int(x) for x in generator.integers((2, 2, 0, 2, 0), (40, 40, 6, 12, 5)))
        arguments = (*sizes, bool(generator.integers(2)))
        random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


SPARSE_MASK = Exercise(
    id="05.1",
    chapter="05",
    title="Window, stride and hubs in one mask",
    function="sparse_mask",
    kind="mask",
    minutes=12,
    difficulty=1,
    points=2,
    hints=(
        "Write each of the patterns as a question about two positions, then join them. Which "
        "operator joins sets?",
        "With positions own (a column) and key (a row): near is |key - own| <= window, far is "
        "(key - own) % stride == 0. A global token has a full column and a full row.",
        "(near | far | (key < n_global) | ((own >= 0) & (own < n_global))) & (key <= own), the "
        "last only if causal; own = np.arange(n_queries)[:, None] + n_keys - n_queries.",
    ),
    reference=sparse_mask,
    cases=_cases,
    mistakes=(
        Mistake(
            "intersection",
            _mask_of(join=lambda near, far, row, column, past: near & (far | row | column) & past),
            "your mask asks for window and another pattern at once: an intersection",
            "a pair may attend if any of the patterns allows it: use |",
        ),
        Mistake(
            "no rows of the hubs",
            _mask_of(row=lambda a: a["key"] < 0),
            "your global tokens are seen by all, but do not see all themselves",
            "give each global token its full row as well",
        ),
        Mistake(
            "no columns of the hubs",
            _mask_of(column=lambda a: a["key"] < 0),
            "your global tokens see all, but are not seen by all",
            "give each global token its full column as well",
        ),
        Mistake(
            "stride of the keys",
            _mask_of(far=lambda a: (a["key"] % a["stride"] == 0) & (a["own"] == a["own"])),
            "your stride selects the keys 0, stride, 2·stride …, the same for every query",
            "count from the query: (key - own) % stride == 0",
        ),
        Mistake(
            "causal for the window only",
            _mask_of(join=lambda near, far, row, column, past: (near & past) | far | row | column),
            "your causal mask cuts the window and leaves the other patterns",
            "cut the future off after the union",
        ),
        Mistake(
            "hubs exempt from causal",
            _mask_of(
                join=lambda near, far, row, column, past: ((near | far) & past) | row | column
            ),
            "your global tokens look into the future, or are seen from the past, though causal",
            "causal holds for global tokens too: cut after the union",
        ),
        Mistake(
            "causal ignored",
            _mask_of(past=lambda a: a["key"] >= 0),
            "your mask shows future keys although causal is True",
            "if causal, also ask for key position <= query position",
        ),
        Mistake(
            "aligned at the start",
            _mask_of(own=lambda a: np.arange(a["n_queries"])[:, None]),
            "your mask puts query i at key i, which is right only for Tq = Tk",
            "add n_keys - n_queries to the position of each query",
        ),
        Mistake(
            "negative positions are hubs",
            _mask_of(row=lambda a: (a["own"] < a["n_global"]) & (a["key"] >= 0)),
            "your queries before the first key count as global tokens",
            "a global query sits at a position from 0 to n_global - 1",
        ),
        Mistake(
            "rows by index",
            _mask_of(
                row=lambda a: (np.arange(a["n_queries"])[:, None] < a["n_global"]) & (a["key"] >= 0)
            ),
            "your global rows are the first n_global queries, wherever they sit",
            "a query is global by its position, i + n_keys - n_queries",
        ),
        Mistake(
            "strictly less",
            _mask_of(near=lambda a: np.abs(a["key"] - a["own"]) < a["window"]),
            "your window leaves out the keys at distance exactly window",
            "use <= for the distance, not <",
        ),
    ),
    alternatives=(_mask_by_rows, _mask_of()),
)
