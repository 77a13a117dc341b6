"""Algorithms at work: a row seen block by block, arrays that come and go, kernels along a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from attncourse.plots.base import (
    INK,
    PALE,
    PAPER,
    TILE_COLOURS,
    figure,
    freeze,
    in_unit,
    set_title,
    styled,
)

BLOCKS = matplotlib.colormaps["viridis"]


class LiveOnline:
    """The online softmax at work: a row of scores, and the two sums, whose parts shrink.

    Each part of a sum is what one block added, in the block's colour. A dashed line says how high
    the sum stood a moment before.
    """

    @styled
    def __init__(
        self, words: Sequence[str], *, most: tuple[float, float], y: tuple[float, float]
    ) -> None:
        """Draw an empty scene.

        Args:
            words: What each key is.
            most: Where the axes of running_sum and acc end.
            y: Where the axis of the scores begins and ends.
        """
        self.figure, axes = figure(1, 3, width=8.4, height=3.6, width_ratios=(6, 1.1, 1.1))
        self.ax, places = axes[0], np.arange(len(words))
        self.bars = self.ax.bar(places, 0 * places, width=0.86, edgecolor=PALE, linewidth=0.5)
        self.line = self.ax.axhline(0, color=INK, linestyle="--", linewidth=1.4)
        self.label = self.ax.text(0, 0, "", ha="left", va="bottom", fontsize=9)
        self.ax.set_xticks(places, words, rotation=40, ha="right", rotation_mode="anchor")
        self.ax.set(ylabel="score", ylim=y, xlim=(-0.6, len(words) - 0.4))
        self.sums = []
        for ax, name, high in zip(axes[1:], ("running_sum", "acc"), most, strict=True):
            parts = ax.bar(
                [0] * len(words), [0] * len(words), width=0.7, edgecolor="white", linewidth=0.5
            )
            (ghost,) = ax.plot([-0.5, 0.5], [0, 0], color=INK, linestyle="--", linewidth=1.4)
            text = ax.text(0, 0, "", ha="center", va="bottom", fontsize=9)
            ax.set(xticks=[], ylim=(0, 1.12 * high), xlim=(-0.55, 0.55))
            ax.set_xlabel(name)
            self.sums.append((parts, ghost, text))
        set_title(self.ax, " ")
        freeze(self.figure)

    def update(
        self,
        scores: np.ndarray,
        block_of: np.ndarray,
        seen: int,
        running_max: float,
        parts: Sequence[np.ndarray],
        before: Sequence[float],
        title: str,
        words: Sequence[str],
    ) -> None:
        """Show another moment.

        Args:
            scores: (keys,), finite.
            block_of: (keys,), the number of each key's block.
            seen: How many blocks have been seen.
            running_max: The largest score seen; -inf if none was.
            parts: For running_sum and for acc, (blocks,): what each block has added, as it counts
                now.
            before: How high both sums stood a moment before.
            title: What happens now.
            words: What each key is, in this order.
        """
        self.ax.set_xticklabels(words)
        n_blocks = int(block_of[-1]) + 1
        colours = [BLOCKS(0.12 + 0.76 * b / max(1, n_blocks - 1)) for b in range(n_blocks)]
        for bar, score, block in zip(self.bars, scores, block_of, strict=True):
            bar.set_height(score)
            bar.set_facecolor(colours[block] if block < seen else PAPER)
            bar.set_hatch("//" if block == seen - 1 else "")
        self.line.set_visible(np.isfinite(running_max))
        if np.isfinite(running_max):
            self.line.set_ydata([running_max, running_max])
            self.label.set_position((-0.5, running_max))
        self.label.set_text(f"maximum {running_max:g}" if np.isfinite(running_max) else "")
        for (bars, ghost, text), heights, was in zip(self.sums, parts, before, strict=True):
            tops = np.cumsum(heights)
            for block, bar in enumerate(bars):
                inside = block < n_blocks
                bar.set_height(heights[block] if inside else 0)
                bar.set_y(tops[block] - heights[block] if inside else 0)
                bar.set_facecolor(colours[min(block, n_blocks - 1)])
            ghost.set_ydata([was, was])
            text.set_y(tops[-1])
            text.set_text(f"{tops[-1]:.2f}")
        set_title(self.ax, title)


@styled
def lifetimes(
    arrays: Mapping[str, tuple[int, int, float]],
    steps: Sequence[str],
    ax: Axes | None = None,
    *,
    title: str = "",
    large: float | None = None,
) -> Axes:
    """Draw from which step to which each array lives; large ones are dark.

    Args:
        arrays: Name -> (first step, last step, bytes).
        steps: What happens at each step, in a few words.
        ax: Where; an own figure if not given.
        title: In words.
        large: From how many bytes on an array is large; the size of the largest if not given.
    """
    if ax is None:
        _, ax = figure(height=1.1 + 0.36 * len(arrays))
    large = max(size for _, _, size in arrays.values()) if large is None else large
    for row, (first, last, size) in enumerate(arrays.values()):
        dark = size >= large
        ax.barh(
            row,
            last - first + 0.92,
            left=first - 0.46,
            height=0.68,
            color=INK if dark else TILE_COLOURS[1],
            edgecolor=PALE,
        )
        ax.text(
            (first + last) / 2,
            row,
            in_unit(size, "bytes"),
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if dark else "black",
        )
    ax.set_yticks(range(len(arrays)), list(arrays))
    ax.set_xticks(range(len(steps)), list(steps))
    ax.set(xlim=(-0.55, len(steps) - 0.45), ylim=(len(arrays) - 0.45, -0.55))
    ax.tick_params(length=0)
    for edge in np.arange(len(steps) - 1) + 0.5:
        ax.axvline(edge, color=PALE, linewidth=0.8, zorder=0)
    set_title(ax, title)
    return ax


@styled
def launches(
    stages: Sequence[str],
    ways: Mapping[str, Sequence[Sequence[int]]],
    ax: Axes | None = None,
    *,
    between: str = "HBM",
) -> Axes:
    """Draw which stages of a chain run in one kernel, a row for each way to cut it.

    Args:
        stages: What is computed, in order.
        ways: Name of a way -> its kernels, each the numbers of its stages.
        ax: Where; an own figure if not given.
        between: What carries the results from one kernel to the next.
    """
    if ax is None:
        _, ax = figure(width=8.2, height=0.6 + 0.95 * len(ways))
    for row, kernels in enumerate(ways.values()):
        for number, kernel in enumerate(kernels):
            first, last = kernel[0], kernel[-1]
            ax.add_patch(
                FancyBboxPatch(
                    (first - 0.36, row - 0.30),
                    last - first + 0.72,
                    0.60,
                    boxstyle="round,pad=0.02,rounding_size=0.08",
                    facecolor=TILE_COLOURS[1] if len(kernel) > 1 else PAPER,
                    edgecolor=INK,
                    linewidth=1.4,
                )
            )
            if number + 1 < len(kernels):
                ax.plot([last + 0.39, last + 0.61], [row, row], color=INK, linewidth=1.4)
                ax.text(last + 0.5, row - 0.1, between, ha="center", va="bottom", fontsize=7.5)
        for place, stage in enumerate(stages):
            ax.text(place, row, stage, ha="center", va="center", fontsize=9)
    ax.set_yticks(range(len(ways)), list(ways))
    ax.set(xlim=(-0.5, len(stages) - 0.5), ylim=(len(ways) - 0.5, -0.5), xticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
