"""Hashing by direction: sectors of a circle, and a table that fills while its map is sorted."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap

from attncourse.plots.base import INK, TILE_COLOURS, figure, set_title, styled
from attncourse.plots.matrices import LiveHeatmap, mask_legend

WORDS = ("not looked at", "looked at", "looked at, and of the same bucket")
_cividis = matplotlib.colormaps["cividis"]


class LiveSectors:
    """Points of a plane, numbered and coloured by bucket, and the directions that hash them."""

    @styled
    def __init__(
        self,
        points: np.ndarray,
        buckets: np.ndarray,
        directions: np.ndarray,
        ax: Axes | None = None,
    ):
        """Draw the first hash.

        Args:
            points: (n, 2), near the unit circle.
            buckets: int (n,).
            directions: (2, any), each of which hashes together with its opposite.
            ax: Where; an own figure if not given.
        """
        if ax is None:
            _, ax = figure(width=4.2, height=4.2)
        self.ax, self.figure, self.points = ax, ax.get_figure(), np.asarray(points)
        self.dots = ax.scatter(*self.points.T, s=70, zorder=2, linewidths=0)
        self.rays = LineCollection([], colors=INK, linewidths=2.2, zorder=1)
        ax.add_collection(self.rays, autolim=False)
        self.texts = [
            ax.text(*point, "", ha="center", va="center", fontsize=7, zorder=3)
            for point in self.points
        ]
        ax.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        self.update(buckets, directions)

    def update(self, buckets: np.ndarray, directions: np.ndarray, title: str | None = None) -> None:
        """Show another hash of the same points."""
        buckets, half = np.asarray(buckets), np.shape(directions)[1]
        shades = (buckets + 0.5) / (2 * half)
        self.dots.set_color(_cividis(shades))
        for text, bucket, shade in zip(self.texts, buckets, shades, strict=True):
            text.set_text(str(bucket))
            text.set_color("white" if shade < 0.55 else "black")
        # a longer direction wins over a shorter one beside it
        ends = 0.85 * directions / np.linalg.norm(directions, axis=0).max()
        self.rays.set_segments([[(0, 0), end] for end in np.concatenate([ends, -ends], axis=1).T])
        if title is not None:
            set_title(self.ax, title)


class LiveTable:
    """A hash table that fills, and who looks at whom: as written, and sorted by bucket.

    The maps hold what has been hashed so far. A chunk of sorted tokens looks at itself and at the
    chunk before; the first looks at the last.
    """

    @styled
    def __init__(
        self,
        words: Sequence[str],
        buckets: np.ndarray,
        n_buckets: int,
        chunk: int,
        columns: int | None = None,
    ):
        """Draw the full table.

        Args:
            words: One for each token; some six letters fit.
            buckets: int (words,).
            n_buckets: Rows of the table.
            chunk: Tokens in a chunk.
            columns: Cells of a row, for the fullest bucket that `update` may bring; as many as the
                fullest one holds now if not given.
        """
        n = len(words)
        self.figure, grid = figure(2, 2, height=4.9, height_ratios=[n_buckets, 9])
        for ax in grid[0]:
            ax.remove()
        self.ax = self.figure.add_subplot(grid[0, 0].get_gridspec()[0, :])
        self.words, self.buckets, self.chunk = list(words), np.asarray(buckets), chunk
        self.n_buckets = n_buckets
        most = columns or int(np.bincount(self.buckets).max())
        self.cells = self.ax.imshow(
            np.zeros((n_buckets, most)), cmap=ListedColormap(TILE_COLOURS[:2]), vmin=0, vmax=1,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        self.ax.set_yticks(range(n_buckets), [f"bucket {b}" for b in range(n_buckets)])
        self.ax.set_xticks([])
        self.ax.tick_params(axis="y", length=0)
        self.ax.spines[:].set_visible(False)
        edges = [((c - 0.5, -0.5), (c - 0.5, n_buckets - 0.5)) for c in range(1, most)]
        edges += [((-0.5, r - 0.5), (most - 0.5, r - 0.5)) for r in range(1, n_buckets)]
        self.ax.add_collection(LineCollection(edges, colors="white", linewidths=1.5), autolim=False)
        self.texts = [
            self.ax.text(0, 0, word, ha="center", va="center", fontsize=8.5) for word in words
        ]
        maps = [
            LiveHeatmap(np.zeros((n, n)), ax, title=title, x="key", y="query", words=WORDS)
            for ax, title in zip(grid[1], ("as written", "sorted by bucket"), strict=True)
        ]
        self.written, self.sorted = maps
        mask_legend(self.figure, WORDS, loc="outside lower center")
        self.update(n)

    def update(
        self, step: int, buckets: np.ndarray | None = None, title: str | None = None
    ) -> None:
        """Show the table after so many tokens; with other buckets if they are given.

        Raises:
            ValueError: A bucket holds more tokens than the table has columns.
        """
        if buckets is not None:
            self.buckets = np.asarray(buckets)
        most, columns = np.bincount(self.buckets).max(), self.cells.get_array().shape[1]
        if most > columns:
            raise ValueError(
                f"plots.LiveTable.update: a bucket must hold at most {columns} tokens, got {most}"
            )
        known, n = self.buckets[:step], len(self.words)
        filled, place = np.zeros(self.cells.get_array().shape), np.zeros(self.n_buckets, int)
        for token, text in enumerate(self.texts):
            text.set_visible(token < step)
            if token < step:
                bucket = known[token]
                text.set_position((place[bucket], bucket))
                text.set_weight("bold" if token == step - 1 else "normal")
                filled[bucket, place[bucket]] = 1
                place[bucket] += 1
        self.cells.set_data(filled)
        order = np.argsort(known, kind="stable")
        kinds = np.zeros((n, n))
        of_chunk = np.arange(step) // self.chunk
        n_chunks = max(1, -(-step // self.chunk))
        back = (of_chunk[:, None] - of_chunk) % n_chunks
        same = known[order][:, None] == known[order]
        kinds[:step, :step] = np.where(back <= 1, 1 + same, 0)
        self.sorted.update(kinds)
        written = np.zeros((n, n))
        written[np.ix_(order, order)] = kinds[:step, :step]
        self.written.update(written)
        if title is not None:
            set_title(self.ax, title)
