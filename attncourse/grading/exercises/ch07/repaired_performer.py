"""Exercise 07.6: a Performer with two bugs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def _performer(
    top_of_keys: Callable | None = lambda exponents: exponents.max(),
    *,
    root: float = 0.25,
    squares: Callable = lambda x: np.square(x).sum(axis=-1, keepdims=True) / 2,
    top_of_queries: Callable | None = lambda exponents: exponents.max(axis=-1, keepdims=True),
) -> Callable:
    """Make a Performer like the one in the exercise, with its delicate parts replaced.

    Args:
        top_of_keys: From the keys' exponents to what is subtracted from them; None is nothing.
        root: q and k are divided by D to this power.
        squares: From the divided x to what is subtracted in the exponent.
        top_of_queries: As top_of_keys, for queries.
    """

    def attention(q, k, v, directions):
        def exponents(x, top):
            x = x / x.dtype.type(x.shape[-1] ** root)
            found = x @ directions.T - squares(x)
            return found if top is None else found - top(found)

        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            phi_q, phi_k = np.exp(exponents(q, top_of_queries)), np.exp(exponents(k, top_of_keys))
            values = np.concatenate([v, np.ones_like(v[:, :1])], axis=1)
            seen = phi_q @ (phi_k.T @ values)
            return seen[:, :-1] / seen[:, -1:]

    return attention


def repaired_performer(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return attention with positive features for q (Tq, D), k (Tk, D) and v (Tk, Dv)."""
    return _performer()(q, k, v, directions)


def _in_logarithms(q, k, v, directions):
    """Add up exponents, key by key, as softmax would: exact whatever the range."""
    work = np.float64
    small_q, small_k = (x.astype(work) / q.shape[-1] ** 0.25 for x in (q, k))
    w = directions.astype(work)
    of_q = small_q @ w.T - np.square(small_q).sum(axis=-1, keepdims=True) / 2
    of_k = small_k @ w.T - np.square(small_k).sum(axis=-1, keepdims=True) / 2
    together = of_q[:, None, :] + of_k[None, :, :]
    top = together.max(axis=(1, 2), keepdims=True)
    weights = np.exp(together - top).sum(axis=-1)
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v.astype(work)).astype(q.dtype)


def _as_given(*, root=0.5, top=lambda exponents: exponents.max(axis=-1, keepdims=True)) -> Callable:
    return _performer(top, root=root)


def _repair_cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width, m, factor=1.0, dtype=np.float32):
        q, k, v = (
            generator.standard_normal((n, size)).astype(dtype)
            for n, size in ((n_queries, width), (n_keys, width), (n_keys, 5))
        )
        directions = generator.standard_normal((m, width)).astype(dtype)
        return Case(name, (dtype(factor) * q, dtype(factor) * k, v, directions))

    def lengths(name, of_q, of_k, width=4):
        """Give all one length, or each its own.

        In a long vector e^(w·x) cannot make up for e^(-|x|²/2).
        """
        q, k = (
            x * np.reshape(length, (-1, 1)) * width**0.25 / np.linalg.norm(x, axis=1, keepdims=True)
            for x, length in (
                (generator.standard_normal((6, width)), of_q),
                (generator.standard_normal((40, width)), of_k),
            )
        )
        v, directions = generator.standard_normal((40, 5)), generator.standard_normal((64, width))
        return Case(name, tuple(array.astype(np.float32) for array in (q, k, v, directions)))

    sizes = tuple(int(x) for x in generator.integers((5, 5, 3, 10), (60, 60, 12, 60)))
    return [
        case("1 query, 2 keys", 1, 2, 2, 3),
        case("4 queries, 4 keys", 4, 4, 4, 8),
        case("more queries than keys", 9, 3, 4, 16),
        case("short vectors", 8, 8, 4, 16, factor=0.1),
        lengths("long keys", 1, 24),
        lengths("long queries", 24, 1),
        lengths("one query 24 times longer than the others", [1, 24, 1, 1, 1, 1], 1),
        lengths("keys of all lengths", 1, np.linspace(0.1, 20, 40)),
        case("many queries, 2 keys", 200, 2, 5, 16),
        case("2 queries, many keys", 2, 200, 5, 16),
        case("D = 16", 20, 20, 16, 64),
        case("float64", 12, 12, 6, 30, dtype=np.float64),
        case(f"random, Tq, Tk, D, m = {sizes}", *sizes),
    ]


REPAIRED_PERFORMER = Exercise(
    id="07.6",
    chapter="07",
    title="Find two bugs in a Performer",
    function="repaired_performer",
    kind="array",
    minutes=15,
    difficulty=3,
    points=3,
    hints=(
        "One bug changes which exponential is estimated, the other which keys count. With keys of "
        "one length and many features, only the first would show.",
        "q and k are both divided, so that the scores are divided twice. And a maximum may be "
        "taken off only if it is the same for everything that is compared: whose weights are "
        "compared with whose?",
        "Divide by D^¼. Keep the maximum of each query; but keys are compared with each other, so "
        "subtract one maximum, `of_k.max()`, from all of them.",
    ),
    reference=repaired_performer,
    cases=_repair_cases,
    mistakes=(
        Mistake(
            "as given",
            _as_given(),
            "both bugs are still there: your output is that of the given code",
            "look at each division and each maximum, and ask what cancels",
        ),
        Mistake(
            "only the division repaired",
            _as_given(root=0.25),
            "one bug is left: each key's own maximum is subtracted, and changes its weight",
            "keys are compared with each other: subtract one number from all of them",
        ),
        Mistake(
            "only the maximum repaired",
            _as_given(root=0.5, top=lambda exponents: exponents.max()),
            "one bug is left: the scores are q·k/D instead of q·k/√D",
            "q and k each take half of 1/√D",
        ),
        Mistake(
            "no maximum of keys",
            _performer(None),
            "your keys' exponents are raised as they are: those of long vectors all vanish",
            "subtract the largest exponent of all keys",
        ),
        Mistake(
            "no maximum of queries",
            _performer(top_of_queries=None),
            "your queries' exponents are raised as they are: those of long vectors all vanish",
            "the maximum of each query was right: it cancels in the quotient",
        ),
        Mistake(
            "one maximum for all queries",
            _performer(top_of_queries=lambda exponents: exponents.max()),
            "your queries share one maximum: beside a short query a long one has only zeros, 0/0",
            "the maximum of each query was right: it cancels in the quotient",
        ),
        Mistake(
            "maximum of each feature",
            _performer(lambda exponents: exponents.max(axis=0, keepdims=True)),
            "your keys lose a maximum for each feature: features then count unlike",
            "subtract one number from all exponents of all keys",
        ),
        Mistake(
            "maximum of each feature over queries",
            _performer(top_of_queries=lambda exponents: exponents.max(axis=0, keepdims=True)),
            "your queries lose a maximum for each feature: features then count unlike",
            "the queries' maximum was right: over the features of one query",
        ),
        Mistake(
            "square dropped",
            _performer(squares=lambda x: 0 * x[:, :1]),
            "your exponents lack |x|²/2: long keys get a bonus",
            "the square was right: change the division and one maximum",
        ),
        Mistake(
            "square not halved",
            _performer(squares=lambda x: np.square(x).sum(axis=-1, keepdims=True)),
            "your exponents lose |x|² instead of |x|²/2",
            "the square was right: change the division and one maximum",
        ),
        Mistake(
            "not divided",
            _performer(root=0.0),
            "your scores are q·k, without 1/√D",
            "divide q and k by D^¼",
        ),
    ),
    alternatives=(_performer(), _in_logarithms),
)
