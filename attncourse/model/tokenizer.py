"""Byte-pair encoding: text to the numbers that the model reads, and back.

Ids 0 ... 255 are bytes; id 256 + r stands for the two ids of merge r, side by side. Text is first
cut into chunks (a word with the space before it, a line's indentation, a run of signs), and no id
crosses from one chunk to the next.

Paper:
    Sennrich, Haddow, Birch 2016, arXiv:1508.07909, section 3.2; over bytes as in GPT-2.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

CHUNK = re.compile(r"\n[ \t]*| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|[ \t]+|\s")
"""What is encoded by itself; every character of a text is in exactly one chunk."""

START = 0
"""The id before each document: the byte 0, which hardly any text holds."""


class Tokenizer:
    """Turns text into ids and ids into text.

    Args:
        merges: int (n_merges, 2): the two ids that id 256 + r stands for, in the order learned.
    """

    def __init__(self, merges: np.ndarray) -> None:
        self.merges = np.asarray(merges, dtype=np.int32).reshape(-1, 2)
        self._rank = {(int(a), int(b)): r for r, (a, b) in enumerate(self.merges)}
        self._bytes = [bytes([i]) for i in range(256)]
        for a, b in self._rank:
            self._bytes.append(self._bytes[a] + self._bytes[b])
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self._bytes)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text: int32 (T,)."""
        return np.array([i for chunk in CHUNK.findall(text) for i in self._chunk(chunk)], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some ids; bytes that are no UTF-8 become �."""
        return b"".join(self._bytes[int(i)] for i in ids).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id by itself, as pictures label it."""
        return [self.decode([i]) for i in ids]

    def _chunk(self, chunk: str) -> list[int]:
        """Return the ids of one chunk: its bytes, after the merges in the order learned."""
        if chunk not in self._known:
            ids = list(chunk.encode("utf-8", "replace"))  # half of a pair has no bytes
            while len(ids) > 1:
                pair = min(pairwise(ids), key=lambda p: self._rank.get(p, len(self._rank)))
                if pair not in self._rank:
                    break
                ids = merge(ids, pair, 256 + self._rank[pair])
            self._known[chunk] = ids
        return self._known[chunk]


def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Return `ids` with each `pair` in it replaced by `new`, from the left."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def learn(text: str, n_ids: int) -> Tokenizer:
    """Return the tokenizer that merges the most frequent pair of `text`, again and again.

    Of equally frequent pairs the smaller ids come first, so the same text gives the same merges.

    Args:
        text: Any text.
        n_ids: How many ids there shall be, 256 of them bytes.
    """
    counted = Counter(CHUNK.findall(text))
    chunks = [list(chunk.encode()) for chunk in counted]
    times = list(counted.values())
    total: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for number, ids in enumerate(chunks):
        for pair in pairwise(ids):
            total[pair] += times[number]
            holders[pair].add(number)
    merges: list[tuple[int, int]] = []
    while len(merges) < n_ids - 256 and total:
        best = min(total, key=lambda pair: (-total[pair], pair))
        for number in holders.pop(best):
            before = chunks[number]
            after = merge(before, best, 256 + len(merges))
            for pair in pairwise(before):
                total[pair] -= times[number]
            for pair in pairwise(after):
                total[pair] += times[number]
                holders[pair].add(number)
            chunks[number] = after
        del total[best]
        merges.append(best)
    return Tokenizer(np.array(merges))
