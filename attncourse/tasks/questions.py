"""The tasks: rows of ids and what is asked about them, drawn by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attncourse.inputs import check_count, stream

N_IDS = 256
MARK, BITS = 1, (2, 3)
KEYS, VALUES = np.arange(16, 48), np.arange(48, 64)
PAIRS, N_VALUES = 64, 4  # the first token that says a key's value, and how many values a key has
WORDS = np.arange(192, 208)
NOTHING = -1  # where nothing is asked


@dataclass(frozen=True)
class Rows:
    """Examples of a task.

    Attributes:
        ids: What is read, int64 (rows, T).
        wanted: After which tokens which id should come, int64 (rows, T); `NOTHING` where nothing is
            asked.
    """

    ids: np.ndarray
    wanted: np.ndarray

    @property
    def asked(self) -> np.ndarray:
        """Where something is asked: bool (rows, T)."""
        return self.wanted != NOTHING


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: As `make` takes it.
        asks: What is asked, in a sentence.
        guess: The share that is right by guessing among the answers that a row leaves possible.
        n_tokens: T.
        steps: Of training, at most.
        rate: Of learning; with 0.02 some seeds never learned to copy.
        row: Draws one row: ids and wanted, each int (T,).
    """

    name: str
    asks: str
    guess: float
    n_tokens: int
    steps: int
    rate: float
    row: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def make(name: str, rows: int, *, seed: int = 0, part: int = 0) -> Rows:
    """Draw examples of a task.

    Args:
        name: One of `TASKS`.
        rows: How many.
        seed: Of the drawing.
        part: Another part draws others of the same seed; training takes its steps as parts.

    Raises:
        ValueError: An unknown name, or a count below 1.
    """
    if name not in TASKS:
        raise ValueError(f"tasks.make: {name!r} is none of {', '.join(TASKS)}")
    rows = check_count("tasks.make", "rows", rows, least=1)
    rng = stream(f"tasks.{name}", seed, part)
    drawn = [TASKS[name].row(rng) for _ in range(rows)]
    ids, wanted = (np.stack(arrays).astype(np.int64) for arrays in zip(*drawn, strict=True))
    return Rows(ids, wanted)


def _pairs(rng: np.random.Generator, n_asked: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """One token for each of 32 keys that says its value; then half of the keys."""
    n, chosen = len(KEYS), rng.integers(0, N_VALUES, len(KEYS))
    said = PAIRS + np.arange(n) * N_VALUES + chosen
    asked = rng.permutation(n)[:n_asked]
    ids = np.concatenate([rng.permutation(said), KEYS[asked]])
    return ids, np.concatenate([np.full(n, NOTHING), VALUES[chosen[asked]]])


def _needle(rng: np.random.Generator, n: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Words; somewhere a mark and a value, and at the end the mark again."""
    ids, wanted = rng.choice(WORDS, n), np.full(n, NOTHING)
    place = rng.integers(0, n - 2)
    ids[place : place + 2] = MARK, rng.choice(VALUES)
    ids[-1], wanted[-1] = MARK, ids[place + 1]
    return ids, wanted


def _copy(rng: np.random.Generator, n: int = 32, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Words, of which a stretch stands twice, at places drawn."""
    ids, wanted = rng.choice(WORDS, n), np.full(n, NOTHING)
    first = rng.integers(0, n + 1 - 2 * size)
    second = rng.integers(first + size, n + 1 - size)
    ids[first : first + size] = rng.permutation(WORDS)[:size]
    ids[second : second + size] = ids[first : first + size]
    wanted[second : second + size - 1] = ids[second + 1 : second + size]
    return ids, wanted


def _periodic(
    rng: np.random.Generator, n: int = 36, period: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Four words in an order that comes again every `period` tokens: each stands in it often."""
    ids = np.resize(rng.choice(WORDS[:4], period), n)
    wanted = np.full(n, NOTHING)
    wanted[period:-1] = ids[period + 1 :]
    return ids, wanted


def _parity(rng: np.random.Generator, n: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Bits; after each, whether the number of ones so far is odd."""
    bits = rng.integers(0, 2, n)
    return np.asarray(BITS)[bits], VALUES[bits.cumsum() % 2]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("pairs", "the values of 32 keys", 1 / 4, 48, 250, 0.02, _pairs),
        Task("needle", "the one value that a mark stood before", 1 / 16, 32, 200, 0.02, _needle),
        Task(
            "copy",
            "what came next when this stretch stood here before",
            1 / 12,
            32,
            500,
            0.01,
            _copy,
        ),
        Task("periodic", "the word of 12 tokens before the next", 1 / 4, 36, 300, 0.02, _periodic),
        Task("parity", "whether the ones so far are odd", 1 / 2, 16, 150, 0.02, _parity),
    )
}
"""By name."""
