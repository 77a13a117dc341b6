"""Algorithms at work: a row seen block by block, arrays that come and go, kernels along a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from attncourse.plots.base import (
    INK,
    PALE,
    PAPER,
    SERIES,
    TILE_COLOURS,
    figure,
    freeze,
    in_unit,
    set_title,
    styled,
)

SEEN = ("not seen yet", "seen before", "this block")


class LiveRow:
    """One row of scores, met block by block, and the weights that it has given so far."""

    @styled
    def __init__(self, scores: np.ndarray, *, title: str = ""):
        """Draw a row of which nothing is seen; scores (keys,)."""
        self.figure, (upper, lower) = figure(2, 1, height=4.4, sharex=True)
        self.ax, self.weights_ax = upper, lower
        places = np.arange(len(scores))
        self.score_bars = upper.bar(places, scores, width=0.86, edgecolor=PALE, linewidth=0.5)
        self.weight_bars = lower.bar(places, 0 * scores, width=0.86, edgecolor=PALE, linewidth=0.5)
        self.line = upper.axhline(0, color=SERIES[1], linestyle="--", visible=False)
        self.words = upper.text(
            1, 0, "", ha="right", va="bottom", fontsize=9, transform=upper.get_yaxis_transform()
        )
        upper.set(ylabel="score")
        lower.set(xlabel="key j", ylabel="exp(score − maximum)", ylim=(0, 1.08))
        self.figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=PALE, label=word)
                for colour, word in zip(TILE_COLOURS[::-1], SEEN[::-1], strict=True)
            ],
            loc="outside lower center",
            ncols=3,
            fontsize=9,
            handlelength=1.0,
        )
        set_title(upper, title)
        self.update(scores, np.zeros(len(scores), int), None, 0 * scores)
        freeze(self.figure)

    def update(
        self,
        scores: np.ndarray,
        state: np.ndarray,
        running_max: float | None,
        weights: np.ndarray,
    ) -> None:
        """Show another moment.

        Args:
            scores: (keys,), finite.
            state: (keys,), 0 = not seen yet, 1 = seen before, 2 = in this block.
            running_max: The largest score seen, None if none was.
            weights: (keys,), exp(score - running_max) where seen, else 0.
        """
        for bar, weight_bar, score, kind, weight in zip(
            self.score_bars, self.weight_bars, scores, state, weights, strict=True
        ):
            bar.set_height(score)
            weight_bar.set_height(weight)
            bar.set_facecolor(TILE_COLOURS[int(kind)])
            weight_bar.set_facecolor(TILE_COLOURS[int(kind)])
        low, high = min(0.0, float(scores.min())), max(0.0, float(scores.max()))
        room = 0.12 * (high - low or 1.0)
        self.ax.set_ylim(low - room, high + 2 * room)
        self.line.set_visible(running_max is not None)
        self.words.set_text("" if running_max is None else f"running maximum {running_max:.2f}")
        if running_max is not None:
            self.line.set_ydata([running_max, running_max])
            self.words.set_y(running_max)


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
