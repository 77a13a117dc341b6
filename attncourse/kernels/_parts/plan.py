"""What the block-sparse kernels walk along: for each tile of queries, the tiles of keys to visit.

A tile of pairs is full (all of them may attend), cut (some may) or empty. Empty ones stand on no
list, full ones need no mask, and cut ones name a picture, True = may attend. Equal pictures are
kept once: a long band has the same few edges everywhere. Plans are made on the CPU with NumPy, once
for each shape.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.kernels._parts.tiles import padded

LONGEST = 32  # tiles that one program visits at most: longer lists are shared out among several
CHUNK = 256  # tiles whose pictures are made together
FULL = -1
HELD = 4  # plans whose copies stay on a device


_held: collections.deque[Plan] = collections.deque()


@dataclass(frozen=True, eq=False)
class Lists:
    """The tiles to visit, for each row of tiles (or, transposed, each column).

    Attributes:
        whole: int32 (n, 5), one program each: its row, where its full tiles and its cut tiles
            begin in `entries` and where they end, and -1.
        shares: The same of rows too long for one program, with the number of the share at the end.
        entries: int32 (n, 2): the tile to visit, and its picture or FULL.
        splits: int32 (n, 3): a row that was shared out, its first share and one past its last.
    """

    whole: np.ndarray
    shares: np.ndarray
    entries: np.ndarray
    splits: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a launch has to know of a pattern.

    Attributes:
        n_queries: Tq.
        n_keys: Tk.
        BLOCK_Q: Queries of a tile.
        BLOCK_K: Keys of a tile.
        q_order: int32 (tiles · BLOCK_Q,), which query stands at each place of the tiles, n_queries
            where none does; None if they stand in their own order.
        k_order: The same of the keys.
        tiles: int (n, 3): row, column and picture of each tile that is not empty.
        pictures: int64 (n, BLOCK_Q), a word for each query, whose bit x stands for key x.
        longest: Tiles that one program visits at most.
    """

    n_queries: int
    n_keys: int
    BLOCK_Q: int
    BLOCK_K: int
    q_order: np.ndarray | None
    k_order: np.ndarray | None
    tiles: np.ndarray
    pictures: np.ndarray
    longest: int = LONGEST

    @functools.cached_property
    def rows(self) -> Lists:
        """For each tile of queries the tiles of keys."""
        row, column, picture = self.tiles.T
        return _lists(len(self.places(0)), row, column, picture, self.longest)

    @functools.cached_property
    def columns(self) -> Lists:
        """For each tile of keys the tiles of queries."""
        row, column, picture = self.tiles.T
        return _lists(len(self.places(1)), column, row, picture, self.longest)

    def places(self, axis: int) -> np.ndarray:
        """Return the tokens of each tile (tiles, BLOCK): queries for axis 0, keys for axis 1."""
        order, size, block = (
            (self.q_order, self.n_queries, self.BLOCK_Q),
            (self.k_order, self.n_keys, self.BLOCK_K),
        )[axis]
        if order is None:
            order = whole_tiles(np.arange(size), block, size)
        return order.reshape(-1, block)

    @functools.cached_property
    def has_all(self) -> tuple[bool, bool]:
        """Whether every query, and whether every key, stands in a tile."""
        sizes = self.n_queries, self.n_keys
        return tuple(int(np.sum(self.places(x) < sizes[x])) == sizes[x] for x in (0, 1))

    @functools.cached_property
    def _on(self) -> dict:
        return {}

    def on(self, device: torch.device, name: str) -> tuple[torch.Tensor | None, ...]:
        """Return `rows` or `columns`, then pictures and both orders, on a device.

        They are copied once, and again when `HELD` other plans have been copied since.
        """
        if (device, name) not in self._on:
            if self not in _held:
                _held.append(self)
            if len(_held) > HELD:
                _held.popleft()._on.clear()
            arrays = *vars(getattr(self, name)).values(), self.pictures, self.q_order, self.k_order
            self._on[device, name] = tuple(
                None if array is None else torch.from_numpy(array).to(device) for array in arrays
            )
        return self._on[device, name]

    @property
    def n_bytes(self) -> int:
        """What the forward pass holds of it."""
        arrays = *vars(self.rows).values(), self.pictures, self.q_order, self.k_order
        return sum(array.nbytes for array in arrays if array is not None)


def build(
    sizes: tuple[int, int],
    orders: tuple[np.ndarray, np.ndarray],
    blocks: tuple[int, int],
    candidates: tuple[np.ndarray, np.ndarray],
    visible: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    sure: np.ndarray | None = None,
    longest: int = LONGEST,
) -> Plan:
    """Make a plan: look at every tile that may hold a visible pair.

    Args:
        sizes: Tq and Tk.
        orders: Which query, and which key, stands at each place of the tiles; Tq or Tk for none.
        blocks: BLOCK_Q and BLOCK_K.
        candidates: Rows and columns of the tiles to look at; no other holds a visible pair.
        visible: A function of queries i (tiles, BLOCK_Q, 1) and keys j (tiles, 1, BLOCK_K).
        sure: bool, the candidates that are known to be full.
        longest: Tiles that one program visits at most.
    """
    n_queries, n_keys = sizes
    q_tiles, k_tiles = (order.reshape(-1, b) for order, b in zip(orders, blocks, strict=True))
    row, column = candidates
    picture = np.full(len(row), FULL)
    kept, pictures, known = np.ones(len(row), dtype=bool), [], {}
    asked = np.arange(len(row)) if sure is None else np.flatnonzero(~sure)
    for begin in range(0, len(asked), CHUNK):
        some = asked[begin : begin + CHUNK]
        i, j = q_tiles[row[some]][:, :, None], k_tiles[column[some]][:, None, :]
        shown = visible(np.minimum(i, n_queries - 1), np.minimum(j, n_keys - 1)) & (j < n_keys)
        shown = np.broadcast_to(shown, (len(some), *blocks))
        kept[some] = np.any(shown & (i < n_queries), axis=(1, 2))
        shown = shown | (i == n_queries)  # what nobody sees needs no mask
        for tile, seen in zip(some, shown, strict=True):
            if kept[tile] and not seen.all():
                words = words_of(seen)
                picture[tile] = known.setdefault(words.tobytes(), len(known))
                if len(pictures) < len(known):
                    pictures.append(words)
    return Plan(
        *sizes,
        *blocks,
        *(
            None if np.array_equal(order[:size], np.arange(size)) else order.astype(np.int32)
            for order, size in zip(orders, sizes, strict=True)
        ),
        np.stack([row, column, picture], axis=1)[kept],
        np.array(pictures, dtype=np.int64).reshape(-1, blocks[0]),
        longest,
    )


def words_of(seen: np.ndarray) -> np.ndarray:
    """Return each row of up to 64 booleans as an integer, the first one as its lowest bit."""
    octets = np.packbits(seen, axis=1, bitorder="little")
    return np.pad(octets, ((0, 0), (0, 8 - octets.shape[1]))).view("<i8")[:, 0].astype(np.int64)


def whole_tiles(tokens: np.ndarray, block: int, nobody: int) -> np.ndarray:
    """Return the tokens, filled up to whole tiles with `nobody`."""
    return np.concatenate([tokens, np.full(-len(tokens) % block, nobody, dtype=int)])


def band(
    sizes: tuple[int, int],
    step: int,
    span: tuple[int, int],
    visible: Callable[[np.ndarray], np.ndarray],
    blocks: tuple[int, int],
) -> Plan:
    """Make the plan of a pattern in which only the distance counts.

    Args:
        sizes: Tq and Tk.
        step: No query sees a key that is not a multiple of it away.
        span: How far back and how far ahead a query may see, in tokens.
        visible: A function of the distance, key minus query.
        blocks: BLOCK_Q and BLOCK_K.
    """
    n_queries, n_keys = sizes
    positions, keys = np.arange(n_queries) + n_keys - n_queries, np.arange(n_keys)
    queries, keys = by_class(np.arange(n_queries), positions, step), by_class(keys, keys, step)
    orders = (
        whole_tiles(tokens, block, size)
        for tokens, block, size in zip((queries, keys), blocks, sizes, strict=True)
    )
    places = candidates(*reach(positions[queries], keys, step, *span), *blocks)
    return build(sizes, tuple(orders), blocks, places, lambda i, j: visible(j - positions[i]))


def by_class(tokens: np.ndarray, positions: np.ndarray, step: int) -> np.ndarray:
    """Return the tokens sorted by the residue class of their position, then by position.

    What is `step` apart becomes neighbours: dilated and strided patterns turn into bands.
    """
    return tokens[np.lexsort((positions, positions % step))]


def reach(
    positions: np.ndarray, keys: np.ndarray, step: int, before: int, after: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places first ... end - 1 of the keys that each position reaches in its class.

    Args:
        positions: int, of the queries.
        keys: int, as `by_class` sorts them.
        step: What is a multiple of it apart is one class.
        before: How far back, in tokens.
        after: How far ahead.
    """
    far = 1 + sum(int(np.abs(array).max(initial=0)) for array in (positions, keys))
    apart = 4 * far  # further than any reach, so that classes do not touch
    own, sorted_keys = (x % step * apart + x for x in (positions, keys))
    first = np.searchsorted(sorted_keys, own - min(before, far))
    return first, np.searchsorted(sorted_keys, own + min(after, far), side="right")


def candidates(
    first: np.ndarray, end: np.ndarray, block_q: int, block_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the tiles that hold places first ... end - 1 of any query.

    Args:
        first: int (places of queries,), the first place among the keys that the query may see.
        end: One past its last; not above `first` where it sees none.
        block_q: Queries of a tile.
        block_k: Keys of a tile.
    """
    place = np.flatnonzero(end > first)
    spans = np.stack([place // block_q, first[place] // block_k, (end[place] - 1) // block_k])
    row, low, high = np.unique(spans, axis=1)  # neighbours have the same few tiles
    count = high - low + 1
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - low, count)
    return union((np.repeat(row, count), column))


def rectangle(rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
    """Return all (row, column) of a rectangle of tiles."""
    row, column = np.meshgrid(np.array(rows, dtype=int), np.array(columns, dtype=int))
    return row.ravel(), column.ravel()


def union(*pairs: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return all (row, column) of several, each once."""
    row, column = np.unique(np.concatenate([np.stack(pair) for pair in pairs], axis=1), axis=1)
    return row, column


def plan_cost(plans: tuple[Plan, ...], B: int, H: int, D: int, dtype_bytes: int) -> Cost:
    """Count what the kernels do along these plans: see `attncourse.kernels`.

    Lists and pictures are traffic too.
    """
    n_queries, BLOCK_Q = plans[0].n_queries, plans[0].BLOCK_Q
    out_row, share_row = D * dtype_bytes + 4, (D + 1) * 4  # with its lse
    flops = read = written = 0
    held = B * H * n_queries * out_row
    for plan in plans:
        rows = plan.rows
        queries, keys = (
            np.sum(plan.places(axis) < size, axis=1)
            for axis, size in ((0, plan.n_queries), (1, plan.n_keys))
        )
        programs = np.concatenate([rows.whole, rows.shares])[:, 0]
        visited, picture = rows.entries.T
        n_cut, n_splits = np.count_nonzero(picture != FULL), len(rows.splits)
        shares = len(rows.shares) * BLOCK_Q * share_row
        flops += 4 * len(visited) * BLOCK_Q * plan.BLOCK_K * padded(D)
        read += 20 * len(programs) + 4 * len(visited) + n_cut * (4 + 8 * BLOCK_Q)
        read += (queries[programs].sum() + 2 * keys[visited].sum()) * D * dtype_bytes
        read += 4 * BLOCK_Q * (len(programs) + n_splits) * (plan.q_order is not None)
        read += 4 * plan.BLOCK_K * len(visited) * (plan.k_order is not None)
        read += queries[rows.shares[:, 0]].sum() * share_row + 12 * n_splits
        written += shares + queries.sum() * (out_row if len(plans) == 1 else share_row)
        held += plan.n_bytes + B * H * shares
    if len(plans) > 1:  # they are joined
        n_tiles = -(-n_queries // BLOCK_Q)
        rows_of_shares = len(plans) * n_tiles * BLOCK_Q
        read += 12 * n_tiles + len(plans) * n_queries * share_row
        written += n_queries * out_row
        held += B * H * rows_of_shares * share_row + 12 * n_tiles
    return Cost(*(int(B * H * count) for count in (flops, read, written)), int(held))


def _lists(n_rows: int, row, column, picture, longest: int) -> Lists:
    order = np.lexsort((column, picture != FULL, row))  # full tiles first, then cut ones
    entries = np.stack([column, picture], axis=1)[order]
    begin = np.searchsorted(row[order], np.arange(n_rows + 1))
    first_cut = begin[:-1] + np.bincount(row[picture == FULL], minlength=n_rows)
    n_shares = np.maximum(-(-np.diff(begin) // longest), 1)
    owner = np.repeat(np.arange(n_rows), n_shares)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(n_shares) - n_shares, n_shares)
    first = begin[owner] + number * longest
    end = np.minimum(first + longest, begin[owner + 1])
    cut = np.clip(first_cut[owner], first, end)
    shared = n_shares[owner] > 1
    part = np.where(shared, np.cumsum(shared) - 1, -1)
    items = np.stack([owner, first, cut, end, part], axis=1)
    whole = items[~shared]
    # the longest first, so that no long one begins when the others are done
    whole = whole[np.argsort(whole[:, 1] - whole[:, 3], kind="stable")]
    long = np.flatnonzero(n_shares > 1)
    last = np.cumsum(n_shares[long])
    splits = np.stack([long, last - n_shares[long], last], axis=1)
    return Lists(*(array.astype(np.int32) for array in (whole, items[shared], entries, splits)))
