"""The room of a key/value cache: two arrays that grow by doubling."""

from __future__ import annotations

import math

import numpy as np

from attncourse.inputs import check_count, check_flag, check_qkv, check_scale
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.softmax import nan_to_keys


class KVCache:
    """Keys and values of the tokens so far, in arrays with room to spare.

    When the room is used up, both arrays are made twice as long and the tokens copied: over n
    tokens less than one copy a token. Arrays that grow token by token cost n / 2 copies a token.

    Attributes:
        length: Tokens in the cache.
        tokens_copied: Tokens that growing has moved so far.
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Take the room: (..., G, capacity, D) and (..., G, capacity, Dv)."""
        self._arrays = [keys, values]
        self.length = self.tokens_copied = 0

    @property
    def keys(self) -> np.ndarray:
        """The keys so far, (..., G, length, D): a view."""
        return self._arrays[0][..., : self.length, :]

    @property
    def values(self) -> np.ndarray:
        """The values so far, (..., G, length, Dv): a view."""
        return self._arrays[1][..., : self.length, :]

    @property
    def bytes_held(self) -> int:
        """Bytes of both arrays, the spare room included."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def bytes_used(self) -> int:
        """Bytes of the tokens in the cache."""
        return self.keys.nbytes + self.values.nbytes

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Put new tokens at the end: k (..., G, T, D) and v (..., G, T, Dv)."""
        check_qkv("kv_cache.append", k, k, v)
        for name, new, room in zip(("k", "v"), (k, v), self._arrays, strict=True):
            fits = (*room.shape[:-2], new.shape[-2], room.shape[-1])
            if new.shape != fits or new.dtype != room.dtype:
                raise ValueError(
                    f"kv_cache.append: {name} must be {room.dtype} {fits}, "
                    f"got {new.dtype} {new.shape}"
                )
        k, v = nan_to_keys(k, v)
        end, capacity = self.length + k.shape[-2], self._arrays[0].shape[-2]
        if end > capacity:
            self._grow(max(end, 2 * capacity))
        for new, room in zip((k, v), self._arrays, strict=True):
            room[..., self.length : end, :] = new
        self.length = end

    def attend(self, q: np.ndarray, *, causal: bool, scale: float | None = None) -> np.ndarray:
        """Return attention of q (..., H, T, D); if causal, q are the cache's last T tokens."""
        causal = check_flag("kv_cache.attend", "causal", causal)
        scale = check_scale("kv_cache.attend", scale, q.shape[-1])
        keys, values = self.keys, self.values
        grouped.check_grouped("kv_cache.attend", q, keys, values)
        tokens, width = keys.shape[:-1], values.shape[-1]
        keys, values = pieces.of_array(keys), pieces.of_array(values)
        return pieces.attend(q, keys, values, tokens, width, causal, scale)

    def _grow(self, capacity: int) -> None:
        for which, filled in enumerate((self.keys, self.values)):
            room = np.empty((*filled.shape[:-2], capacity, filled.shape[-1]), filled.dtype)
            room[..., : self.length, :] = filled
            self._arrays[which] = room
        self.tokens_copied += self.length


def size_bytes(
    tokens: int, groups: int, width: int, *, layers: int = 1, batch: int = 1, dtype_bytes: int = 2
) -> int:
    """Return the bytes that the keys and values of so many tokens take in a whole model.

    Args:
        tokens: Tokens of each sequence.
        groups: G, key/value heads of a layer.
        width: D, numbers in one key and in one value.
        layers: Layers of the model.
        batch: Sequences.
        dtype_bytes: Bytes of one number.
    """
    sizes = {"tokens": tokens, "groups": groups, "width": width}
    sizes |= {"layers": layers, "batch": batch, "dtype_bytes": dtype_bytes}
    checked = (check_count("kv_cache.size_bytes", name, value) for name, value in sizes.items())
    return 2 * math.prod(checked)
