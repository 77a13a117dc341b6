"""Numbers in 8 bits or fewer: quantise, dequantise, and a store of keys and values that does."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attncourse.inputs import check_count, check_qkv, check_scale
from attncourse.softmax import nan_to_keys

LEVELS = 127  # int8 from -127 to 127: the same on both sides of 0


def quantise(array: np.ndarray, axis: int, *, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 numbers and their scales: x ≈ number · scale, wrong by half a scale at most.

    The scale is the largest magnitude along `axis` over 127. One outlier makes the scale coarse
    for all that share it, which is why the choice of the axis matters.

    Args:
        array: (..., T, D) floating.
        axis: -1: the D numbers of a token share a scale; -2: the T numbers of a channel do.
        bits: 2 to 8; with 4 the numbers are -7 to 7, and two of them would fit a byte. They are
            not packed here.

    Returns:
        int8 (..., T, D), and the scales with 1 along `axis`, in float32 at least.
    """
    bits = check_count("quantised_cache.quantise", "bits", bits, least=2)
    if bits > 8:
        raise ValueError(f"quantised_cache.quantise: bits must be at most 8, got {bits}")
    levels = 2 ** (bits - 1) - 1
    work = np.result_type(array.dtype, np.float32)
    largest = np.abs(array).max(axis=axis, keepdims=True, initial=0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite needs no number: its scale says so
        # in float64, so that a tie falls the same way in every dtype
        numbers = np.rint(array * np.float64(levels) / np.where(largest == 0, 1, largest))
        return numbers.astype(np.int8), (largest / levels).astype(work)


def dequantise(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return number · scale, in the dtype of the scales; not finite where the scale is not."""
    with np.errstate(invalid="ignore"):
        return numbers * scales


class QuantisedCache:
    """Keys in int8 with a scale for each channel and group of tokens, values with one a token.

    The newest tokens, up to `group` of them, stay as they came: a channel's scale can be known only
    when its group is full. They are quantised when the first token of the next group arrives.

    Attributes:
        group: Tokens whose keys share their scales.
        length: Tokens in the cache.
    """

    def __init__(self, k: np.ndarray, v: np.ndarray, group: int) -> None:
        """Make an empty cache for tokens like k (..., G, T, D) and v, with room for T."""
        self.group, self.length = group, 0
        self._full: list[tuple[tuple, tuple]] = []  # a group: keys and values, each with scales
        room = min(group, k.shape[-2])
        self._newest = [np.empty((*a.shape[:-2], room, a.shape[-1]), a.dtype) for a in (k, v)]

    @property
    def n_newest(self) -> int:
        """Tokens that are not quantised yet."""
        return self.length - len(self._full) * self.group

    @property
    def shapes(self) -> tuple[tuple[int, ...], int]:
        """(..., G, length), and Dv."""
        keys, values = self._newest
        return (*keys.shape[:-2], self.length), values.shape[-1]

    @property
    def bytes_held(self) -> int:
        """Bytes of the int8 numbers, their scales and the room of the newest tokens."""
        full = (
            array.nbytes for keys_values in self._full for pair in keys_values for array in pair
        )
        return sum(full) + sum(array.nbytes for array in self._newest)

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Put new tokens at the end: k (..., G, T, D) and v (..., G, T, Dv)."""
        check_qkv("quantised_cache.append", k, k, v)
        for name, new, room in zip(("k", "v"), (k, v), self._newest, strict=True):
            fits = (*room.shape[:-2], new.shape[-2], room.shape[-1])
            if new.shape != fits or new.dtype != room.dtype:
                raise ValueError(
                    f"quantised_cache.append: {name} must be {room.dtype} {fits}, "
                    f"got {new.dtype} {new.shape}"
                )
        k, v = nan_to_keys(k, v)
        done = 0
        while done < k.shape[-2]:
            if self.n_newest == self.group:
                keys, values = self._newest
                self._full.append((quantise(keys, axis=-2), quantise(values, axis=-1)))
            first = self.n_newest
            count = min(self.group - first, k.shape[-2] - done)
            if first + count > self._newest[0].shape[-2]:
                self._grow(first + count)
            for new, room in zip((k, v), self._newest, strict=True):
                room[..., first : first + count, :] = new[..., done : done + count, :]
            done += count
            self.length += count

    def keys(self, stop: int) -> Iterator[np.ndarray]:
        """Yield the first `stop` keys, group by group, as floating numbers."""
        return self._tokens(0, stop)

    def values(self, stop: int) -> Iterator[np.ndarray]:
        """Yield the first `stop` values, group by group, as floating numbers."""
        return self._tokens(1, stop)

    def _grow(self, tokens: int) -> None:
        """Make room for so many newest tokens or twice as many as now, but no more than a group."""
        for which, room in enumerate(self._newest):
            capacity = min(self.group, max(tokens, 2 * room.shape[-2]))
            grown = np.empty((*room.shape[:-2], capacity, room.shape[-1]), room.dtype)
            grown[..., : room.shape[-2], :] = room
            self._newest[which] = grown

    def _tokens(self, which: int, stop: int) -> Iterator[np.ndarray]:
        for index in range(-(-stop // self.group)):
            count = min(self.group, stop - index * self.group)
            if index < len(self._full):
                yield dequantise(*self._full[index][which])[..., :count, :]
            else:
                yield self._newest[which][..., :count, :]


def error_bound(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None
) -> np.ndarray:
    """Return how far quantised_cache.attention can be from exact attention, (..., Tq, 1).

    A key is off by max|k| / 254 in each channel, so a score by δ = scale · Σ |q| max|k| / 254, a
    weight by a factor between e^-2δ and e^2δ, and a value by max|v| / 254.

    Args:
        q: (..., Tq, D), the leading axes as in k.
    """
    factor = abs(check_scale("quantised_cache.error_bound", scale, q.shape[-1]))
    largest_key = np.abs(k).max(axis=-2, keepdims=True, initial=0)
    delta = factor * (np.abs(q) * largest_key).sum(axis=-1, keepdims=True) / (2 * LEVELS)
    largest_value = np.abs(v).max(axis=(-2, -1), keepdims=True, initial=0)
    return (np.expm1(2 * delta) + 1 / (2 * LEVELS)) * largest_value


def size_bytes(
    tokens: int, groups: int, width: int, *, group: int, layers: int = 1, batch: int = 1
) -> int:
    """Return the bytes of so many quantised tokens, scales in float32 included.

    Args:
        tokens: Tokens of each sequence, a multiple of `group`.
        groups: G, key/value heads of a layer.
        width: D, numbers in one key and in one value.
        group: Tokens whose keys share their scales.
        layers: Layers of the model.
        batch: Sequences.
    """
    where, sizes = "quantised_cache.size_bytes", {"tokens": tokens, "width": width}
    tokens, width = (check_count(where, name, value) for name, value in sizes.items())
    scales = tokens // check_count(where, "group", group, least=1) * width + tokens
    times = {"groups": groups, "layers": layers, "batch": batch}
    heads = math.prod(check_count(where, name, value) for name, value in times.items())
    return (2 * tokens * width + 4 * scales) * heads
