"""Kernels: the addresses of one program, in the matrix and in memory."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from attncourse.plots.base import INK, PALE, TILE_COLOURS, figure, freeze, set_title, styled

WORDS = ("in memory", "asked for, masked away", "loaded by this program")


class LiveProgram:
    """The tile of a matrix that one program of a kernel loads: in the matrix, and in memory.

    Each cell bears its offset in memory, `row * n_cols + column`. A tile that overruns the matrix
    shows the offsets that it would load without a mask: they belong to other rows.
    """

    @styled
    def __init__(self, shape: tuple[int, int], block: tuple[int, int]):
        """Lay out the matrix and its memory.

        Args:
            shape: Rows and columns of the matrix, which lies in memory row by row.
            block: Rows and columns of a tile.
        """
        self.shape, self.block = shape, block
        grid = [-(-size // step) * step for size, step in zip(shape, block, strict=True)]
        self.figure, (self.ax, below) = figure(2, 1, width=6.4, height=5.2, height_ratios=(9, 1))
        self.matrix = self._image(self.ax, tuple(grid))
        self.memory = self._image(below, (1, shape[0] * shape[1]))
        rows, cols = np.indices(grid)
        self.offsets = rows * shape[1] + cols
        self.texts = [
            self.ax.text(col, row, str(offset), ha="center", va="center", fontsize=9)
            for (row, col), offset in np.ndenumerate(self.offsets)
        ]
        self.ax.set(xticks=range(grid[1]), yticks=range(grid[0]), xlabel="column", ylabel="row")
        starts = np.arange(shape[0]) * shape[1]
        below.set(yticks=[], xticks=starts, xlabel="offset in memory, where rows begin")
        for ax, wide, high in ((self.ax, block[1], block[0]), (below, shape[1], 1)):
            right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]
            ax.vlines(np.arange(wide, right, wide) - 0.5, -0.5, bottom, color=INK, linewidth=1.0)
            ax.hlines(np.arange(high, bottom, high) - 0.5, -0.5, right, color=INK, linewidth=1.0)
        self.figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=PALE, label=word)
                for colour, word in zip(TILE_COLOURS, WORDS, strict=True)
            ],
            loc="outside lower center",
            ncols=3,
            fontsize=9,
            handlelength=1.0,
        )
        self.update((0, 0), np.zeros(block, bool), " ")  # leaves room for a title
        freeze(self.figure)

    @staticmethod
    def _image(ax, shape):
        colours = ListedColormap(TILE_COLOURS).with_extremes(bad="white")
        return ax.imshow(
            np.zeros(shape), cmap=colours, vmin=0, vmax=2, interpolation="nearest", aspect="auto"
        )

    def update(self, program: tuple[int, int], inside: np.ndarray, title: str = "") -> None:
        """Show another program.

        Args:
            program: Its place in the grid, down and across.
            inside: bool, the shape of a tile: what it loads; the rest is masked away.
            title: In words.
        """
        tile = tuple(
            slice(step * place, step * (place + 1))
            for place, step in zip(program, self.block, strict=True)
        )
        cells = np.full(self.offsets.shape, np.nan)
        cells[: self.shape[0], : self.shape[1]] = 0
        cells[tile] = 1 + inside
        self.matrix.set_data(np.ma.masked_invalid(cells))
        for text, cell in zip(self.texts, cells.ravel(), strict=True):
            text.set(color="white" if cell == 2 else "#333333", visible=not np.isnan(cell))
        held = np.zeros((1, self.shape[0] * self.shape[1]))
        held[0, self.offsets[tile][inside]] = 2
        self.memory.set_data(held)
        set_title(self.ax, title)
