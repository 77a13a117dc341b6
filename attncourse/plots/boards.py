"""A text laid out on a board, a word in each cell: who has been heard after how many layers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from attncourse.plots.base import INK, PALE, PAPER, figure, set_title, styled

MOST = 4  # layers that have a colour of their own; later ones share the last
_viridis = matplotlib.colormaps["viridis"]
COLOURS = [PAPER, INK, *(_viridis(0.38 + 0.18 * layer) for layer in range(MOST))]
WORDS = ["not heard", "the query itself", *(f"layer {n}" for n in range(1, MOST)), "later"]
SMALL = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class LiveBoard:
    """Words in the cells of a board; `update` exchanges the layers after which they were heard.

    Cells are read like a page: a step down is as many words as a row has.
    """

    @styled
    def __init__(
        self, words: Sequence[str], columns: int, heard: np.ndarray, ax: Axes | None = None
    ):
        """Draw the first board.

        Args:
            words: One for each cell, row by row; some eight letters fit.
            columns: Words in a row.
            heard: int (words,): the layer after which the query has heard each word; 0 is the
                query itself, -1 never.
            ax: Where; an own figure if not given.

        Raises:
            ValueError: The words do not fill whole rows.
        """
        if len(words) % columns:
            raise ValueError(
                f"plots.LiveBoard: words must fill rows of {columns}, got {len(words)} words"
            )
        rows = len(words) // columns
        if ax is None:
            fig, ax = figure(height=0.8 + 0.36 * rows)
            patches = [
                Patch(facecolor=colour, edgecolor=PALE, label=word)
                for colour, word in zip(COLOURS, WORDS, strict=True)
            ]
            fig.legend(handles=patches, loc="outside lower center", ncols=len(WORDS), fontsize=9)
        self.ax, self.figure, self.words = ax, ax.get_figure(), list(words)
        self.image = ax.imshow(
            np.zeros((rows, columns)), cmap=ListedColormap(COLOURS), aspect="auto",
            vmin=-1, vmax=MOST, interpolation="nearest",
        )  # fmt: skip
        edges = [((c - 0.5, -0.5), (c - 0.5, rows - 0.5)) for c in range(1, columns)]
        edges += [((-0.5, r - 0.5), (columns - 0.5, r - 0.5)) for r in range(1, rows)]
        ax.add_collection(LineCollection(edges, colors="white", linewidths=1.5), autolim=False)
        self.texts = [
            ax.text(i % columns, i // columns, "", ha="center", va="center", fontsize=9.5)
            for i in range(len(words))
        ]
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        self.update(heard)

    def update(self, heard: np.ndarray, title: str | None = None) -> None:
        """Show other layers, int (words,); a word wears its layer as a small number."""
        heard = np.asarray(heard)
        self.image.set_data(np.minimum(heard, MOST).reshape(self.image.get_array().shape))
        for text, word, layer in zip(self.texts, self.words, heard, strict=True):
            text.set_text(f"{word} {str(layer).translate(SMALL)}" if layer > 0 else word)
            text.set_color("white" if layer in (0, 1) else "black")
            text.set_weight("bold" if layer == 0 else "normal")
        if title is not None:
            set_title(self.ax, title)


def board(words: Sequence[str], columns: int, heard: np.ndarray, ax: Axes | None = None) -> Axes:
    """Draw a text on a board; arguments as in `LiveBoard`."""
    return LiveBoard(words, columns, heard, ax).ax
