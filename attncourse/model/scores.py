"""What a model and its heads do, as numbers.

Heads are judged on text in which a segment of shuffled tokens stands twice: what follows cannot be
guessed from the language, only from the first time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse.inputs import stream
from attncourse.model.decoder import Model, Text


def repeated(
    model: Model, text: Text, *, n: int = 128, rows: int = 8, shuffled: bool = True, seed: int = 0
) -> np.ndarray:
    """Return ids in which n tokens stand twice, one after the other: int64 (rows, 2n).

    Args:
        model: Whose ids.
        text: Where the segments are taken from, at places drawn.
        n: Tokens of a segment.
        rows: How many segments.
        shuffled: Shuffle the tokens of a segment first.
        seed: Of places and shuffles.

    Raises:
        ValueError: The text has fewer than n tokens.
    """
    ids = model.encode(text)
    if len(ids) < n:
        raise ValueError(f"model.repeated: text must have at least {n} tokens, got {len(ids)}")
    rng = stream("model.repeated", seed)
    starts = rng.integers(0, len(ids) - n + 1, rows)
    segments = np.stack([ids[start : start + n] for start in starts]).astype(np.int64)
    if shuffled:
        segments = rng.permuted(segments, axis=1)
    return np.concatenate([segments, segments], axis=1)


def copying(model: Model, text: Text, **settings: Any) -> tuple[float, float]:
    """Return the mean loss of a segment the first time and the second, in nats a token.

    A model that copies falls to nearly nothing. The arguments are those of `repeated`. The first
    token of either is left out: nothing says that the segment begins again.
    """
    rows = repeated(model, text, **settings)
    losses = model.row_losses(rows)  # (rows, 2n - 1), of tokens 1 ... 2n - 1
    n = rows.shape[1] // 2
    return float(losses[:, : n - 1].mean()), float(losses[:, n:].mean())


def induction(model: Model, text: Text, **settings: Any) -> np.ndarray:
    """Return each head's mean weight on the token after the one like it: (n_layers, H).

    Taken over the second time of a segment, where that token is the right next one. Arguments of
    `repeated`.
    """
    rows = repeated(model, text, **settings)
    n = rows.shape[1] // 2
    return np.mean([_diagonal(model, row, n - 1, n) for row in rows], axis=0)


def previous(model: Model, text: Text, **settings: Any) -> np.ndarray:
    """Return each head's mean weight on the token before: (n_layers, H). As `induction`."""
    rows = repeated(model, text, **settings)
    return np.mean([_diagonal(model, row, 1, 1) for row in rows], axis=0)


def _diagonal(model: Model, ids: np.ndarray, distance: int, start: int) -> np.ndarray:
    """Return the mean weight of queries from `start` on the key `distance` before each."""
    maps = model.attention_maps(ids)  # (n_layers, H, T, T)
    queries = np.arange(start, len(ids))
    return maps[..., queries, queries - distance].mean(axis=-1, dtype=np.float64)
