"""Exercise 07.V3: how good a Performer is, and what it costs, from document 002."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import full, linear, performer


def performer_report(q: np.ndarray, k: np.ndarray, v: np.ndarray, directions: np.ndarray) -> dict:
    """Return three errors of a Performer, that of the mean of v, and the FLOPs of both methods."""
    return _report(q, k, v, directions)


def _positive(q, k, v, directions):
    return linear.attention(q, k, v, feature_map=lambda x: performer.feature_map(x, directions))


def _report(
    q, k, v, directions,
    approximate: Callable = _positive,
    exactly: Callable = lambda q, k, v: full.attention(q, k, v),
    ignore: Callable = lambda v: v.mean(axis=0),
) -> dict:  # fmt: skip
    exact, found = exactly(q, k, v), approximate(q, k, v, directions)
    mse = np.mean((found - exact) ** 2)
    lengths = np.sqrt(np.sum(exact**2) * np.sum(found**2))
    n, width, m = len(q), q.shape[1], len(directions)
    return {
        "mse": float(mse),
        "relative": float(mse / np.mean(exact**2)),
        "cosine": float(np.sum(exact * found) / lengths),
        "baseline_mse": float(np.mean((ignore(v) - exact) ** 2)),
        "full_flops": 4 * n * n * width,
        "performer_flops": 8 * n * m * width,
        "speedup": n / (2 * m),
    }


def _report_by_matrices(q, k, v, directions):
    n, width, m = *q.shape, len(directions)

    def weights(scores):
        return scores / scores.sum(axis=1, keepdims=True)

    def phi(x):
        small = x / width**0.25
        return np.exp(small @ directions.T - (small**2).sum(axis=1, keepdims=True) / 2)

    scores = q @ k.T / np.sqrt(width)
    exact = weights(np.exp(scores - scores.max(axis=1, keepdims=True))) @ v
    found = weights(phi(q) @ phi(k).T) @ v
    products = {"full": [(n, width, n), (n, n, width)], "performer": [(n, width, m)] * 2}
    products["performer"] += [(m, n, width), (n, m, width)]
    flops = {name: 2 * sum(a * b * c for a, b, c in each) for name, each in products.items()}
    return {
        "speedup": flops["full"] / flops["performer"],
        **{f"{name}_flops": number for name, number in flops.items()},
        "mse": ((found - exact) ** 2).mean(),
        "relative": ((found - exact) ** 2).sum() / (exact**2).sum(),
        "cosine": exact.ravel() @ found.ravel() / np.linalg.norm(exact) / np.linalg.norm(found),
        "baseline_mse": ((v.mean(axis=0, keepdims=True) - exact) ** 2).mean(),
    }


def _report_by_rows(q, k, v, directions):
    width, squares, ignoring, dots, ours, theirs = q.shape[1], 0.0, 0.0, 0.0, 0.0, 0.0
    phi_k = performer.feature_map(k, directions)
    for i in range(len(q)):
        exact = full.attention(q[i : i + 1], k, v)[0]
        weights = phi_k @ performer.feature_map(q[i : i + 1], directions)[0]
        found = weights @ v / weights.sum()
        squares += float(np.sum((found - exact) ** 2))
        ignoring += float(np.sum((v.mean(axis=0) - exact) ** 2))
        dots += float(found @ exact)
        ours += float(found @ found)
        theirs += float(exact @ exact)
    n, m = len(q), len(directions)
    return {
        "mse": squares / (n * width),
        "relative": squares / theirs,
        "cosine": dots / (ours * theirs) ** 0.5,
        "baseline_mse": ignoring / (n * width),
        "full_flops": 2 * 2 * n * n * width,
        "performer_flops": 4 * 2 * n * m * width,
        "speedup": n / m / 2,
    }


def _printed(q, k, v, directions):
    """The feature map as document 002 prints it."""
    m, width = directions.shape
    root = np.sqrt(width)
    return linear.attention(
        q, k, v, feature_map=lambda x: np.exp(x @ directions.T / root) / np.sqrt(m)
    )


def _unnormalised(q, k, v, directions):
    phi_q, phi_k = (performer.feature_map(x, directions) for x in (q, k))
    return phi_q @ (phi_k.T @ v)


def _with(**changed: Callable) -> Callable:
    """Return the report with some keys computed from it in another way."""

    def report(q, k, v, directions):
        right = _report(q, k, v, directions)
        return right | {key: change(right, q, k, v, directions) for key, change in changed.items()}

    return report


def _row_cosines(right, q, k, v, directions):
    exact, found = full.attention(q, k, v), _positive(q, k, v, directions)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    return float(np.mean((exact * found).sum(axis=1) / lengths))


def _report_cases(generator: Generator) -> list[Case]:
    def case(name, n, width, m, factor=1.0):
        q, k, v = generator.standard_normal((3, n, width))
        return Case(name, (factor * q, factor * k, v, generator.standard_normal((m, width))))

    n, width, m = (int(x) for x in generator.integers((20, 3, 5), (60, 16, 40)))
    return [
        case("2 tokens, D = 2, 1 direction", 2, 2, 1),
        case("5 tokens", 5, 3, 4),
        case("more directions than tokens", 6, 4, 32),
        case("inputs × 1/4", 40, 8, 16, factor=0.25),
        case("D = 1", 8, 1, 6),
        case("the document's d = 64, at n = 128 and m = 64", 128, 64, 64),
        case(f"random, {n} tokens, D = {width}, m = {m}", n, width, m),
    ]


PERFORMER_REPORT = Exercise(
    id="07.V3",
    chapter="07",
    title="How good is a Performer?",
    function="performer_report",
    kind="number",
    minutes=20,
    difficulty=2,
    points=2,
    hints=(
        "Compute both outputs first: softmax attention, and linear attention with the positive "
        "features of the given directions. All errors compare these two arrays as a whole.",
        "relative is the mse over the mean square of the exact output. The baseline answers every "
        "query with v.mean(axis=0). FLOPs: two products of 2·n²·D, or four of 2·n·m·D.",
        "performer.feature_map(x, directions) and linear.attention(q, k, v, feature_map=...) do "
        "the work; cosine = sum(a·b) / sqrt(sum(a²)·sum(b²)); the speedup is n / 2m.",
    ),
    reference=performer_report,
    cases=_report_cases,
    mistakes=(
        Mistake(
            "printed feature map",
            lambda *args: _report(*args, approximate=_printed),
            "your feature map is the textbook's exp(w·x/√D) / √m, which leads elsewhere",
            "use exp(w·x - |x|²/2) / √m with x divided by D^¼",
        ),
        Mistake(
            "no normaliser",
            lambda *args: _report(*args, approximate=_unnormalised),
            "your Performer's rows are not divided by their normaliser",
            "divide row i by φ(q_i) · Σ_j φ(k_j)",
        ),
        Mistake(
            "softmax without 1/√D",
            lambda *args: _report(*args, exactly=lambda q, k, v: full.attention(q, k, v, scale=1)),
            "your exact attention has scores q·k, without 1/√D",
            "divide the scores by √D before the softmax",
        ),
        Mistake(
            "baseline of zeros",
            lambda *args: _report(*args, ignore=lambda v: 0 * v[0]),
            "your baseline answers with zeros",
            "the baseline is the mean of v over the keys, for every query",
        ),
        Mistake(
            "root",
            _with(mse=lambda right, *_: right["mse"] ** 0.5),
            "your mse is its own square root",
            "take the mean of the squared differences",
        ),
        Mistake(
            "relative as a ratio of lengths",
            _with(relative=lambda right, *_: right["relative"] ** 0.5),
            "your relative error is a ratio of lengths, not of squares",
            "divide the mse by the mean square of the exact output",
        ),
        Mistake(
            "cosine by rows",
            _with(cosine=_row_cosines),
            "your cosine is the mean of one cosine for each row",
            "take all numbers of each output as one long vector",
        ),
        Mistake(
            "one product each",
            _with(
                full_flops=lambda right, *_: right["full_flops"] // 2,
                performer_flops=lambda right, *_: right["performer_flops"] // 4,
                speedup=lambda right, *_: right["speedup"] * 2,
            ),
            "your FLOPs count one product of each method: the textbook's speedup n/m",
            "softmax attention has two products, the Performer four",
        ),
        Mistake(
            "multiply-adds",
            _with(
                full_flops=lambda right, *_: right["full_flops"] // 2,
                performer_flops=lambda right, *_: right["performer_flops"] // 2,
            ),
            "your FLOPs are half: you counted multiply-adds",
            "one multiply-add is 2 FLOPs",
        ),
        Mistake(
            "upside down",
            _with(speedup=lambda right, *_: 1 / right["speedup"]),
            "your speedup is upside down",
            "divide the FLOPs of softmax attention by the Performer's",
        ),
    ),
    alternatives=(_report_by_matrices, _report_by_rows),
)
