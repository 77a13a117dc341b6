"""Bytes as areas: the arrays of attention drawn to scale, in the memory of a device."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from attncourse.plots.base import INK, TILE_COLOURS, figure, set_title, styled

WORDS = {"scores, n × n": INK, "q, k and v": TILE_COLOURS[1]}
FRAME = {"fill": False, "edgecolor": "#777777", "linewidth": 2.5}


class LiveScale:
    """The scores of some heads, each beside its q, k and v; an area is a number of numbers.

    Heads lie in rows of equal length. The frame has their shape and the area of the memory: what
    lies within it fits.
    """

    @styled
    def __init__(
        self,
        n: int,
        width: int,
        count: int = 1,
        memory: float | None = None,
        ax: Axes | None = None,
        *,
        title: str = "",
        room: tuple[float, float] = (0, 0),
    ):
        """Draw the first heads.

        Args:
            n: Tokens.
            width: D, numbers in one query, key or value.
            count: How many heads there are.
            memory: How many numbers the frame holds; no frame if not given.
            ax: Where; an own figure if not given.
            title: In words.
            room: Numbers to the right and downwards that the picture shows at least.
        """
        if ax is None:
            _, ax = figure(height=4.4)
        self.ax, self.figure, self.room = ax, ax.get_figure(), room
        self.squares = PolyCollection([], facecolor=INK, edgecolor="white", linewidth=0.4)
        self.strips = PolyCollection([], facecolor=TILE_COLOURS[1], linewidth=0)
        for parts in (self.squares, self.strips):
            ax.add_collection(parts, autolim=False)
        self.frame = ax.add_patch(Rectangle((0, 0), 1, 1, **FRAME))
        self.frame.set_path_effects([withStroke(linewidth=5, foreground="white")])
        ax.set(aspect="equal", anchor="NW", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        self.update(n, width, count, memory, title)

    def update(
        self,
        n: int,
        width: int,
        count: int = 1,
        memory: float | None = None,
        title: str | None = None,
    ) -> None:
        """Show other heads, or another memory; arguments as for the first."""
        columns = math.ceil(math.sqrt(count))
        row, column = np.divmod(np.arange(count), columns)
        left, top, strip = column * (3 * width + n), row * n, 3 * width
        self.strips.set_verts(_rectangles(left, top, strip, n))
        self.squares.set_verts(_rectangles(left + strip, top, n, n))
        wide, high = columns * (strip + n), n * math.ceil(count / columns)
        self.frame.set_visible(memory is not None)
        if memory is not None:
            side = math.sqrt(memory / (count * n * (strip + n)))
            self.frame.set(width=wide * side, height=high * side)
            wide, high = max(1, side) * wide, max(1, side) * high
        wide, high = max(wide, self.room[0]), max(high, self.room[1])
        self.ax.set(xlim=(-0.01 * wide, 1.01 * wide), ylim=(1.01 * high, -0.01 * high))
        if title is not None:
            set_title(self.ax, title)


@styled
def scale_legend(fig: Figure, memory: bool = True) -> None:
    """Say under the pictures of a figure what its areas are.

    Args:
        fig: The figure.
        memory: Whether a frame is drawn.
    """
    handles = [Patch(facecolor=colour, label=word) for word, colour in WORDS.items()]
    if memory:
        handles.append(Patch(label="memory of the device", **FRAME))
    fig.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=9, handlelength=1.2)


def _rectangles(left: np.ndarray, top: np.ndarray, wide: float, high: float) -> np.ndarray:
    """Return the corners, (rectangles, 4, 2)."""
    x = np.stack([left, left + wide, left + wide, left], axis=-1)
    y = np.stack([top, top, top + high, top + high], axis=-1)
    return np.stack([x, y], axis=-1)
