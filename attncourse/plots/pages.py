"""A page of text, each token on a colour that says a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
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
        ink: The text in it: uint8 (height, width, 4), black where it is not transparent.
    """

    @styled
    def __init__(
        self,
        pieces: Sequence[str],
        values: np.ndarray,
        *,
        high: float,
        label: str = "",
        title: str | None = "",
    ):
        """Set the text and colour it.

        Args:
            pieces: The tokens, spaces and line ends among them.
            values: (tokens,): 0 and below is white.
            high: The value from which on a ground is darkest.
            label: What the values are, with their unit.
            title: In words; None leaves no room for one.
        """
        lines = "".join(pieces).split("\n")
        columns = max(map(len, lines))
        self.places = _places(pieces)
        height = LINE * len(lines) + (0.13 if title is None else 0.35)
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
        self.ax.set(xticks=[], yticks=[])
        self.ax.spines[:].set_visible(False)
        self._print(lines, size)
        (self.frame,) = self.ax.plot([], [], color=INK, linewidth=1.5)
        self.figure.colorbar(self.image, cax=scale, label=label, extend="max")
        self.update(values, title)

    def _print(self, lines: Sequence[str], size: float) -> None:
        """Lay the text over the grid as one picture, made once: to set it for each colour is slow.

        Letter by letter: a renderer rounds their widths, and a line would drift off its cells.
        """
        face = {"family": "monospace", "fontsize": size, "ha": "center", "va": "center_baseline"}
        letters = [
            self.ax.text(column, row, letter, parse_math=False, color="black", **face)
            for row, line in enumerate(lines)
            for column, letter in enumerate(line)
            if letter.strip()
        ]
        canvas, (_, scale) = FigureCanvasAgg(self.figure), self.figure.axes
        scale.set_visible(False)
        canvas.draw()
        scale.set_visible(True)
        self.ink = np.zeros_like(canvas.buffer_rgba())
        self.ink[..., 3] = 255 - np.asarray(canvas.buffer_rgba())[..., 0]  # it is black on white
        self.figure.figimage(self.ink, zorder=5)
        for letter in letters:
            letter.remove()

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
