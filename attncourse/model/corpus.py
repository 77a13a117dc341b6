"""The text of the model: Python's own standard library, which is on every learner's disk.

Five of its modules are kept out of training and shipped, since the library differs from version to
version. Its licence, the PSF's, lies beside them.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from attncourse.inputs import stream
from attncourse.model.tokenizer import START, Tokenizer

DATA = Path(__file__).parent / "data"
HELD_OUT = ("graphlib", "heapq", "sched", "shlex", "textwrap")
"""Modules that no training sees."""
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "encodings", "pydoc_data", "idlelib"}
"""Folders of tests, of other people's code and of tables."""


def held_out() -> list[str]:
    """Return the texts that the model has never seen, one for each of `HELD_OUT`."""
    return [(DATA / "held_out" / f"{name}.txt").read_text("utf-8") for name in HELD_OUT]


def library() -> dict[str, str]:
    """Return the sources of this Python's standard library that are trained on: path to text."""
    root = Path(sysconfig.get_path("stdlib"))
    sources: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if LEFT_OUT & set(name.parts) or name.as_posix() in {f"{m}.py" for m in HELD_OUT}:
            continue
        try:
            sources[name.as_posix()] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a few old modules are in other encodings
    return sources


def tokens(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """Return all texts as one int32 array, each after `START`."""
    parts = [part for text in texts for part in ([START], tokenizer.encode(text))]
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def batch(
    ids: np.ndarray, *, step: int, rows: int, length: int, repeats: float, seed: int
) -> np.ndarray:
    """Return the rows of one training step, int64 (rows, length + 1): slices of `ids`.

    In a share `repeats` of the rows a segment of 16 to length/2 tokens stands twice, as names and
    phrases do in longer texts. In every second of these its tokens are shuffled, so that what comes
    next can be known from the first time only.
    """
    rng = stream("model.corpus", seed, step)
    starts = rng.integers(0, len(ids) - length, rows)
    out = np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64)
    for row in out:
        if rng.random() < repeats:
            size = int(rng.integers(16, length // 2 + 1))
            first = int(rng.integers(0, length + 2 - 2 * size))
            second = int(rng.integers(first + size, length + 2 - size))
            if rng.random() < 0.5:
                rng.shuffle(row[first : first + size])
            row[second : second + size] = row[first : first + size]
    return out
