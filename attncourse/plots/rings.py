"""Processes in a ring: who holds which keys at which step, and who has how much to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.patches import Circle, FancyArrowPatch, Patch, Rectangle

from attncourse.plots.base import (
    ACCENT,
    INK,
    PALE,
    PAPER,
    TILE_COLOURS,
    figure,
    freeze,
    set_title,
    styled,
)

_cividis = matplotlib.colormaps["cividis"]
NOW = ACCENT  # no colour of a process, all of which are of cividis


def _colours(size: int) -> list[tuple[float, float, float, float]]:
    """Return a colour for each process."""
    return [to_rgba(_cividis(x)) for x in np.linspace(0.05, 0.95, size)]


class LiveRing:
    """Processes in a circle with the keys that each holds now; beside it, which scores are made.

    On the board a row is the queries of a process, a column the keys that came from one.
    """

    @styled
    def __init__(self, size: int):
        """Draw the first step.

        Args:
            size: How many processes.
        """
        self.figure, (self.ring, self.board) = figure(
            1, 2, width=8.4, height=4.3, width_ratios=(1.25, 1)
        )
        kinds = {"not yet": PAPER, "done": TILE_COLOURS[1], "in this step": NOW}
        self.figure.legend(
            handles=[Patch(facecolor=colour, label=word) for word, colour in kinds.items()],
            loc="outside lower right", ncols=3, fontsize=9, handlelength=1.0,
        )  # fmt: skip
        for ax in (self.ring, self.board):
            ax.set(xticks=[], yticks=[])
            ax.set_aspect("equal")
            ax.spines[:].set_visible(False)
        self.update(size, 0)
        freeze(self.figure)

    @staticmethod
    def held(size: int, step: int) -> list[int]:
        """Return whose keys each process holds at a step."""
        return [(rank - step) % size for rank in range(size)]

    @styled
    def update(self, size: int, step: int) -> None:
        """Show a step, from 0, of so many processes; after the last one nothing moves."""
        step = min(step, size - 1)
        for ax in (self.ring, self.board):
            while ax.artists or ax.patches or ax.texts:
                for artist in (*ax.artists, *ax.patches, *ax.texts):
                    artist.remove()
        self._draw_ring(size, step)
        self._draw_board(size, step)

    def _draw_ring(self, size: int, step: int) -> None:
        ax, colours = self.ring, _colours(size)
        angles = np.pi / 2 - 2 * np.pi * np.arange(size) / size  # clockwise, the first one on top
        points = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        small = size > 5
        radius = 0.2 if small else 0.27
        for rank, whose in enumerate(self.held(size, step)):
            x, y = points[rank]
            if size > 1:
                moves = step < size - 1
                ax.add_patch(FancyArrowPatch(
                    points[rank], points[(rank + 1) % size], arrowstyle="-|>", mutation_scale=13,
                    connectionstyle="arc3,rad=-0.25", shrinkA=17 if small else 24,
                    shrinkB=17 if small else 30,
                    color=INK if moves else PALE, linewidth=1.4 if moves else 1.0,
                ))  # fmt: skip
            ax.add_patch(Circle((x, y), radius, facecolor=PAPER, edgecolor=INK, linewidth=0.8))
            ax.text(x, y, f"q{rank}", ha="center", va="center", fontsize=11)
            side = 0.15 if small else 0.19
            at = (1.5 if small else 1.62) * points[rank]
            ax.add_patch(
                Rectangle(at - (1.6 * side, side), 3.2 * side, 2 * side, facecolor=colours[whose])
            )
            ax.text(
                *at, f"k{whose} v{whose}", ha="center", va="center", fontsize=8.5 if small else 10,
                color="white" if whose < 0.6 * (size - 1) else "black",
            )  # fmt: skip
        ax.set(xlim=(-2.2, 2.2), ylim=(-1.9, 1.9))
        set_title(ax, f"{size} processes, step {step} of {size - 1}")

    def _draw_board(self, size: int, step: int) -> None:
        ax = self.board
        for rank in range(size):
            for column in range(size):
                when = (rank - column) % size
                kind = NOW if when == step else TILE_COLOURS[1] if when < step else PAPER
                ax.add_patch(
                    Rectangle((column, rank), 1, 1, facecolor=kind, edgecolor="white", linewidth=2)
                )
        for rank, colour in enumerate(_colours(size)):
            ax.add_patch(Rectangle((rank, -0.3), 1, 0.22, facecolor=colour, edgecolor="white"))
            ax.text(rank + 0.5, -0.4, f"k{rank}", ha="center", va="bottom", fontsize=9)
            ax.text(-0.15, rank + 0.5, f"q{rank}", ha="right", va="center", fontsize=9)
        ax.set(xlim=(-0.09 * size, size), ylim=(size, -0.35 - 0.11 * size))
        set_title(ax, "scores")

    def draw(self, processes: int, step: int) -> str:
        """Show a moment and say what it is; made for `widgets.explore`."""
        self.update(processes, step)
        now = min(step, processes - 1)
        if not now:
            return f"Step 0: each of {processes} processes attends to the keys it came with."
        end = " All scores are made." if now == processes - 1 else ""
        return (
            f"Step {now}: process 0 holds the keys of process {self.held(processes, now)[0]}; each "
            f"has sent {now} of {processes - 1} blocks and seen {now + 1} of {processes}.{end}"
        )


class LiveShares:
    """Who computes which rows of a causal mask, and how many pairs each has; one column a way."""

    @styled
    def __init__(self, ways: Sequence[str], n: int):
        """Draw empty squares.

        Args:
            ways: Names of the ways to share rows out.
            n: Tokens.
        """
        self.n = n
        self.figure, axes = figure(
            2, len(ways), width=8.0, height=4.6, height_ratios=(1.7, 1), squeeze=False
        )
        self.axes = {way: tuple(column) for way, column in zip(ways, axes.T, strict=True)}
        for way, (square, bars) in self.axes.items():
            square.set(xticks=[], yticks=[], xlim=(0, n), ylim=(n, 0), xlabel="keys")
            square.set_aspect("equal")
            set_title(square, way)
            bars.set(yticks=[])
        first_square, first_bars = axes[:, 0]
        first_square.set_ylabel("queries")
        first_bars.set_ylabel("pairs")

    @styled
    def update(self, owners: Mapping[str, np.ndarray], size: int) -> None:
        """Show other shares.

        Args:
            owners: Way -> which process has each query, int (n,).
            size: How many processes there are.
        """
        seen = np.tri(self.n, dtype=bool)
        all_pairs = {
            way: np.bincount(owner, weights=seen.sum(1), minlength=size)
            for way, owner in owners.items()
        }
        most = max(pairs.max() for pairs in all_pairs.values())
        colours = _colours(size)
        for way, (square, bars) in self.axes.items():
            for artist in (*square.images, *bars.patches, *bars.lines):
                artist.remove()
            shown = np.where(seen, owners[way][:, None], np.nan)
            square.imshow(
                shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=size - 0.5,
                interpolation="nearest", extent=(0, self.n, self.n, 0),
            )  # fmt: skip
            bars.bar(np.arange(size), all_pairs[way], color=colours, width=0.8)
            bars.axhline(all_pairs[way].mean(), color=INK, linestyle="--", linewidth=1)
            bars.set(xlim=(-0.6, size - 0.4), ylim=(0, 1.08 * most), xlabel="process")
            bars.set_xticks(np.arange(0, size, max(1, size // 8)))
