"""A product of three arrays, bracketed in two ways: every array a rectangle, all to one scale."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from attncourse.plots.base import INK, PALE, PAPER, figure, freeze, styled

GAP = 0.14  # between neighbours, in parts of the longest side


class LiveBrackets:
    """(φ(Q) φ(K)ᵀ) V on the left and φ(Q) (φ(K)ᵀ V) on the right.

    Shown is the moment when the brackets are done: dark is what they made, pale what it still has
    to be multiplied with. `update` exchanges the sizes.
    """

    @styled
    def __init__(self, n: int, m: int, width: int, ax: Axes | None = None, *, most: int):
        """Draw the first sizes.

        Args:
            n: Tokens.
            m: Features of a token.
            width: Numbers in a value.
            ax: Where; an own figure if not given.
            most: The longest side that will be shown.
        """
        if ax is None:
            _, ax = figure(height=3.9)
        self.ax, self.figure, self.width, self.most = ax, ax.get_figure(), width, most
        self.boxes = [
            ax.add_patch(Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=INK, linewidth=0.8))
            for colour in (INK, PAPER, PAPER, INK)
        ]
        names = ("φ(Q) φ(K)ᵀ", "V", "φ(Q)", "φ(K)ᵀ V")
        self.names = [ax.text(0, 0, name, ha="center", va="bottom") for name in names]
        self.right = most * (1.3 + 3 * GAP)
        self.sizes = [ax.text(x, -0.18 * most, "", fontsize=9.5) for x in (0, self.right)]
        ax.axvline(most * (1.3 + 2 * GAP), color=PALE, linewidth=1)
        ax.set_aspect("equal")
        ax.set(xlim=(-0.05 * most, most * (2.5 + 3 * GAP)), ylim=(1.03 * most, -0.32 * most))
        ax.axis("off")
        self.update(n, m)
        freeze(self.figure)

    def update(self, n: int, m: int) -> None:
        """Show other numbers of tokens and features; each must be at most `most`."""
        gap = GAP * self.most
        shapes = ((n, n), (n, self.width), (n, m), (m, self.width))
        lefts = (0, n + gap, self.right, self.right + m + gap)
        for box, name, left, (rows, columns) in zip(
            self.boxes, self.names, lefts, shapes, strict=True
        ):
            box.set_bounds(left, 0, columns, rows)
            name.set_position((left + columns / 2, -0.03 * self.most))
        self.sizes[0].set_text(f"brackets left make {n} × {n}")
        self.sizes[1].set_text(f"brackets right make {m} × {self.width}")
