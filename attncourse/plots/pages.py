"""A page of text, each token on a colour that says a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from attncourse.plots.base import ACCENT, INK, figure, set_title, styled

PAINT = LinearSegmentedColormap.from_list("page", ["white", ACCENT])
WIDTH, PAGE = 7.5, 0.88  # inches; the share of them that is text, beside the scale
LINE = 0.135  # inches from one line to the next: 36 lines and a slider fit a laptop's screen
COLUMN = 0.602 / 72  # inches of a letter in the typewriter face, for each point of its size
LARGEST = 8.6  # points: larger letters would not fit between two lines


class LivePage:
    """Text in a typewriter face; the darker a token's ground, the larger its number.

    Attributes:
        figure: The picture.
    """

    @styled
    def __init__(
        self,
        pieces: Sequence[str],
        values: np.ndarray,
        *,
        high: float,
        label: str = "",
        title: str = "",
    ):
        """Set the text and colour it.

        Args:
            pieces: The tokens, spaces and line ends among them.
            values: (tokens,): 0 and below is white.
            high: The value from which on a ground is darkest.
            label: What the values are, with their unit.
            title: In words.
        """
        lines = "".join(pieces).split("\n")
        columns = max(map(len, lines))
        self.places = _places(pieces)
        height = LINE * len(lines) + 0.35
        self.figure, (self.ax, scale) = figure(1, 2, width=WIDTH, height=height)
        self.figure.set_layout_engine("none")  # letters must fall on the cells of a grid
        scale.set_position((PAGE + 0.02, 0.1, 0.015, 0.7))
        size = min(WIDTH * PAGE / columns / COLUMN, LARGEST)
        width = columns * COLUMN * size / WIDTH  # less than a page, where all lines are short
        self.ax.set_position((0.005, 0.02, width, LINE * len(lines) / height))
        self.grid = np.zeros((len(lines), columns))
        self.image = self.ax.imshow(
            self.grid, cmap=PAINT, vmin=0, vmax=high, aspect="auto", interpolation="nearest"
        )
        face = {"family": "monospace", "fontsize": size, "va": "center_baseline", "color": "black"}
        for row, line in enumerate(lines):
            # Word by word: a renderer rounds the width of letters, and a whole line would drift.
            for word in re.finditer(r"\S+", line):
                self.ax.text(word.start() - 0.5, row, word[0], parse_math=False, **face)
        (self.frame,) = self.ax.plot([], [], color=INK, linewidth=1.5)
        self.ax.set(xticks=[], yticks=[])
        self.ax.spines[:].set_visible(False)
        self.figure.colorbar(self.image, cax=scale, label=label, extend="max")
        self.update(values, title)

    def update(
        self, values: np.ndarray, title: str | None = None, framed: int | None = None
    ) -> None:
        """Show other values, with a frame around one of the tokens if it is given."""
        self.grid[:] = 0
        for (rows, columns), value in zip(self.places, values, strict=True):
            self.grid[rows, columns] = value
        self.image.set_data(self.grid)
        rows, columns = ([], []) if framed is None else self.places[framed]
        if rows:  # a line end has no place
            left, right = columns[0] - 0.5, columns[rows.count(rows[0]) - 1] + 0.5
            top, bottom = rows[0] - 0.5, rows[0] + 0.5
            self.frame.set_data([left, right, right, left, left], [top, top, bottom, bottom, top])
        else:
            self.frame.set_data([], [])
        if title is not None:
            set_title(self.ax, title)


def _places(pieces: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Return rows and columns of the letters of each token; line ends have none."""
    places, row, column = [], 0, 0
    for piece in pieces:
        rows, columns = [], []
        for letter in piece:
            if letter == "\n":
                row, column = row + 1, 0
            else:
                rows.append(row)
                columns.append(column)
                column += 1
        places.append((rows, columns))
    return places
