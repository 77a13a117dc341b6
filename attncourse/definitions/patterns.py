"""Which keys a sparse pattern lists: what the references and their Triton twins must agree on.

Numbers of blocks and tokens only, nothing of the content.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attncourse.inputs import check_count, check_flag, check_positions, stream


def grid(n_queries: int, n_keys: int, *, block: int) -> tuple[range, range]:
    """Return the numbers of the query blocks and of the key blocks, as a layout lists them.

    A query belongs to the block of its position i + Tk - Tq. With fewer queries than keys the first
    query block may be cut, with more queries its number is negative; what a query sees is the
    same whether it comes alone or with those before it.
    """
    block = check_count("layouts.grid", "block", block, least=1)
    first, end = (n_keys - n_queries) // block, -(-n_keys // block)
    return range(first, end if n_queries else first), range(end)


def band(n_queries: int, n_keys: int, *, block: int, window_blocks: int) -> np.ndarray:
    """Return the layout of a window of blocks.

    Args:
        n_queries: Tq.
        n_keys: Tk.
        block: Tokens in a block.
        window_blocks: Radius in blocks: each sees itself and as many on each side.
    """
    window_blocks = check_count("layouts.band", "window_blocks", window_blocks)
    own, keys = grid(n_queries, n_keys, block=block)
    return np.abs(np.arange(len(keys)) - np.array(own, dtype=int)[:, None]) <= window_blocks


def check_grids(
    where: str,
    n_queries: int,
    n_keys: int,
    layout: Any,
    block: Any,
    partial: Any = None,
    visible: Callable | None = None,
) -> int:
    """Return the block as an int; refuse a layout or partial blocks that do not fit the tokens."""
    block = check_count(where, "block", block, least=1)
    shape = tuple(map(len, grid(n_queries, n_keys, block=block)))
    for name, array in (("layout", layout), ("partial", partial)):
        if array is None and name == "partial":
            continue
        if not isinstance(array, np.ndarray) or array.dtype != bool:
            came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{where}: {name} must be a boolean array, got {came}")
        if array.shape != shape:
            raise ValueError(f"{where}: {name} must have shape {shape}, got {array.shape}")
    if partial is not None and visible is None:
        raise ValueError(f"{where}: partial blocks need visible, got None")
    return block


def bigbird(
    where: str,
    n_queries: int,
    n_keys: int,
    block: int,
    window_blocks: int,
    random_blocks: int,
    global_blocks: int | Sequence[int] | np.ndarray,
    seed: int,
    causal: bool,
) -> np.ndarray:
    """Return BigBird's layout: see `reference.bigbird.layout`."""
    block = check_count(where, "block", block, least=1)
    window_blocks = check_count(where, "window_blocks", window_blocks)
    random_blocks = check_count(where, "random_blocks", random_blocks)
    seed = check_count(where, "seed", seed)
    causal = check_flag(where, "causal", causal)
    _, keys = grid(n_queries, n_keys, block=block)
    everywhere = check_positions(where, "global_blocks", global_blocks, len(keys))
    knobs = window_blocks, random_blocks, tuple(everywhere.tolist()), seed
    return _bigbird(n_queries, n_keys, block, *knobs, causal).copy()


@functools.lru_cache(maxsize=16)  # a stream for each row of blocks takes milliseconds
def _bigbird(
    n_queries, n_keys, block, window_blocks, random_blocks, everywhere, seed, causal
) -> np.ndarray:
    own, _ = grid(n_queries, n_keys, block=block)
    listed = band(n_queries, n_keys, block=block, window_blocks=window_blocks)
    listed[np.isin(own, everywhere)] = True
    listed[:, everywhere] = True
    for row, number in zip(listed, own, strict=True):
        free = np.flatnonzero(~row[: max(number, 0)] if causal else ~row)
        generator = stream("bigbird", seed, max(number, 0))
        row[generator.permutation(free)[:random_blocks]] = True
        if causal:
            row[max(number + 1, 0) :] = False
    return listed


def random_keys(
    where: str, n_queries: int, n_keys: int, n_random: int, seed: int, causal: bool
) -> np.ndarray:
    """Return the random keys of each query: see `reference.random_keys.draw`."""
    n_random = min(check_count(where, "n_random", n_random), n_keys)
    seed = check_count(where, "seed", seed)
    causal = check_flag(where, "causal", causal)
    own = np.arange(n_queries) + (n_keys - n_queries)
    if causal:
        candidates = np.maximum(own, 0)
    else:
        candidates = n_keys - (own >= 0)
    generator = stream("random keys", seed)
    earlier = max(n_keys - n_queries, 0) * n_random
    generator.bit_generator.advance(earlier)  # what earlier positions draw
    luck = generator.random((n_queries, n_random))
    drawn = np.full((n_queries, 1 + n_random), -1)  # (Tq, 1 + n_random)
    for t in range(n_random):
        last = candidates - n_random + t  # the last candidate of this draw; negative: none is left
        key = (luck[:, t] * (last + 1)).astype(int)
        taken = np.any(drawn[:, 1 : 1 + t] == key[:, None], axis=1)
        drawn[:, 1 + t] = np.where(last < 0, -1, np.where(taken, last, key))
    if not causal:
        skipped = np.where(own < 0, n_keys, own)  # the candidates leave out the query's own key
        drawn += drawn >= skipped[:, None]
    drawn[:, 0] = np.maximum(own, -1)
    return drawn


def offset_steps(where: str, offsets: Sequence[int], causal: bool) -> np.ndarray:
    """Return j - i for every key of a query that sees the given distances."""
    causal = check_flag(where, "causal", causal)
    away = {check_count(where, "offset", offset) for offset in offsets}
    return np.array(sorted({-step for step in away} | (set() if causal else away)), dtype=int)


def check_factors(where: str, stride: int, pattern: str, summary: int) -> tuple[int, int]:
    """Return stride and summary as ints; refuse no counts, another pattern, a summary too large."""
    stride = check_count(where, "stride", stride, least=1)
    summary = check_count(where, "summary", summary, least=1)
    if pattern not in ("strided", "fixed"):
        raise ValueError(f'{where}: pattern must be "strided" or "fixed", got {pattern!r}')
    most = stride if pattern == "fixed" else 1
    if summary > most:
        raise ValueError(
            f"{where}: summary must be at most {most} at stride {stride} and pattern "
            f"{pattern!r}, got {summary}"
        )
    return stride, summary
