"""Exercise 07.4: the positive random features of the Performer."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import performer as reference


def positive_features(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return φ(x) (..., T, m) with φ(q)·φ(k) = exp(q·k/√D) on average."""
    return reference.feature_map(x, directions)


def _features(x, directions, root=0.25, square=0.5, count=0.5):
    """Return exp(w·x / D^root - |x|² / 2 D^square) / m^count; most mistakes are other powers."""
    m, width = directions.shape
    exponent = x @ directions.T / x.dtype.type(width**root)
    if square is not None:
        exponent = exponent - (x * x).sum(axis=-1, keepdims=True) / x.dtype.type(2 * width**square)
    return np.exp(exponent) / x.dtype.type(m**count)


def _by_directions(x, directions):
    m, width = directions.shape
    small = x / x.dtype.type(width**0.25)
    half = np.square(small).sum(axis=-1) / 2
    columns = [np.exp((small * w).sum(axis=-1) - half) for w in directions]
    return np.stack(columns, axis=-1) / x.dtype.type(m**0.5)


def _by_distances(x, directions):
    """Complete the square: w·x - |x|²/2 is (|w|² - |w - x|²) / 2."""
    m, width = directions.shape
    small = (x / x.dtype.type(width**0.25)).astype(np.float64)
    apart = np.square(small[..., None, :] - directions.astype(np.float64)).sum(axis=-1)
    long = np.square(directions.astype(np.float64)).sum(axis=-1)
    return (np.exp((long - apart) / 2) / m**0.5).astype(x.dtype)


def _two_exponentials(x, directions):
    m, width = directions.shape
    small = x / x.dtype.type(width**0.25)
    with np.errstate(over="ignore", invalid="ignore"):
        factor = np.exp(-np.square(small).sum(axis=-1, keepdims=True) / 2)
        return np.exp(small @ directions.T) * factor / x.dtype.type(m**0.5)


def _growing(x, directions):
    return _features(x, directions, square=None) * np.exp(
        np.square(x).sum(axis=-1, keepdims=True) / x.dtype.type(2 * directions.shape[1] ** 0.5)
    )


def _waves(x, directions):
    return reference.feature_map(x, directions, features="trigonometric")


def _cosines(x, directions):
    return _waves(x, directions)[..., len(directions) :]


def _quietly(function):
    def quiet(x, directions):
        with np.errstate(over="ignore", invalid="ignore"):
            return function(x, directions)

    return quiet


def _feature_cases(generator: Generator) -> list[Case]:
    def case(name, n, width, m, lead=(), dtype=np.float32, factor=1.0):
        x = (factor * generator.standard_normal((*lead, n, width))).astype(dtype)
        return Case(name, (x, generator.standard_normal((m, width)).astype(dtype)))

    n, width, m = (int(number) for number in generator.integers(2, (40, 30, 50)))
    cancelling = np.array([[12.0]], np.float32), np.array([[12.0], [6.0]], np.float32)
    return [
        case("1 token, D = 1, 1 direction", 1, 1, 1),
        case("3 tokens, D = 4, 5 directions", 3, 4, 5),
        Case("x of length 12: two large exponents nearly cancel", cancelling),
        case("D = 16", 4, 16, 8),
        case("more directions than D", 4, 3, 20),
        case("2 batches, 3 heads", 5, 4, 6, lead=(2, 3)),
        case("short vectors", 6, 8, 12, factor=0.1),
        case("float64", 6, 8, 12, dtype=np.float64),
        case(f"random, {n} tokens, D = {width}, {m} directions", n, width, m),
    ]


POSITIVE_FEATURES = Exercise(
    id="07.4",
    chapter="07",
    title="Positive random features",
    function="positive_features",
    kind="array",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "Start from E exp(w·z) = exp(|z|²/2) with z = q + k. What must be taken off so that only "
        "q·k is left? And where does √D go?",
        "φ(x) = exp(w·x - |x|²/2) / √m gives exp(q·k). For exp(q·k/√D) put x / D^¼ for x, in both "
        "places.",
        "small = x / width**0.25; np.exp(small @ directions.T - (small**2).sum(-1, "
        "keepdims=True) / 2) / m**0.5: one exponential of the whole exponent.",
    ),
    reference=positive_features,
    cases=_feature_cases,
    mistakes=(
        Mistake(
            "as chapter E prints it",
            _quietly(lambda x, w: _features(x, w, root=0.5, square=None)),
            "your features are exp(w·x/√D) / √m, the textbook's: they lead to another attention",
            "divide x by D^¼ and multiply by exp(-|x|²/2)",
        ),
        Mistake(
            "no square",
            _quietly(lambda x, w: _features(x, w, square=None)),
            "your features lack the factor exp(-|x|²/2√D): long keys get a bonus",
            "subtract half the square of the divided x inside the exponential",
        ),
        Mistake(
            "square not divided",
            lambda x, w: _features(x, w, square=0),
            "your |x|²/2 is that of x before it was divided by D^¼",
            "divide x first, and use the divided x in both places",
        ),
        Mistake(
            "square by D",
            lambda x, w: _features(x, w, square=1),
            "your |x|²/2 is divided by D instead of √D",
            "x / D^¼ has the square |x|²/√D",
        ),
        Mistake(
            "divided by √D",
            lambda x, w: _features(x, w, root=0.5, square=1),
            "your x is divided by √D: q and k both are, so that the scores become q·k/D",
            "each of q and k takes half of 1/√D: divide x by D^¼",
        ),
        Mistake(
            "not divided",
            lambda x, w: _features(x, w, root=0, square=0),
            "your features estimate exp(q·k), without 1/√D",
            "divide x by D^¼ first",
        ),
        Mistake(
            "square added",
            _quietly(_growing),
            "your factor is exp(+|x|²/2), which belongs to sines and cosines",
            "positive features have exp(-|x|²/2)",
        ),
        Mistake(
            "no 1/√m",
            lambda x, w: _features(x, w, count=0),
            "your features lack 1/√m: their product is a sum over directions, not an average",
            "divide by the square root of the number of directions",
        ),
        Mistake(
            "1/m",
            lambda x, w: _features(x, w, count=1),
            "your features are divided by m: their product by m²",
            "each of the two factors takes 1/√m",
        ),
        Mistake(
            "two exponentials",
            _two_exponentials,
            "your two exponentials overflow and vanish, where their product is a fair number",
            "add the exponents first, then take one exponential",
        ),
        Mistake(
            "cosines",
            _quietly(_cosines),
            "your features are the cosine half of the trigonometric ones",
            "positive features are exponentials of w·x",
        ),
    ),
    alternatives=(_features, _by_directions, _by_distances),
)
