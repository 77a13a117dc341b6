"""Averages of random draws: where draws fall, and how far averages of many seeds lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.accuracy import COLOURS, decade
from attncourse.plots.base import INK, PALE, SERIES, figure, set_title, styled


class LiveDraws:
    """Two bell curves: where normal draws w fall, and where the average of exp(w·z) comes from.

    exp(wz) times the bell curve is the bell curve moved to z, times exp(z²/2). The curve that is
    moved is drawn without that factor, so that both have the area 1; a tick marks each draw.
    """

    @styled
    def __init__(self, z: float, draws: np.ndarray, ax: Axes | None = None, *, high: float = 6):
        """Draw the first z and its draws.

        Args:
            z: What w is multiplied by in the exponent, from 0 to `high`.
            draws: (m,), the values of w.
            ax: Where; an own figure if not given.
            high: The largest z that will be shown.
        """
        if ax is None:
            _, ax = figure(height=3.4)
        self.ax, self.figure = ax, ax.get_figure()
        self.w = np.linspace(-4, high + 3.5, 300)
        still = self._bell(0)
        ax.fill_between(self.w, still, color=PALE, linewidth=0)
        ax.plot(self.w, still, color=INK, label="where draws fall")
        (self.moved,) = ax.plot(
            self.w, still, "--", color=SERIES[1], label="where the average comes from"
        )
        self.ticks = LineCollection([], colors=[INK], linewidths=1.0)
        ax.add_collection(self.ticks, autolim=False)
        ax.set(xlabel="w, and a tick for each draw", yticks=[])
        ax.set(xlim=(self.w[0], self.w[-1]), ylim=(-0.08, 0.5))
        ax.spines["left"].set_visible(False)
        ax.legend(loc="upper right", ncols=2)
        self.update(z, draws)

    def update(self, z: float, draws: np.ndarray, title: str | None = None) -> None:
        """Show another z and other draws; their number may differ."""
        self.moved.set_ydata(self._bell(z))
        self.ticks.set_segments([((w, -0.06), (w, -0.01)) for w in draws])
        if title is not None:
            set_title(self.ax, title)

    def _bell(self, middle: float) -> np.ndarray:
        return np.exp(-np.square(self.w - middle) / 2) / np.sqrt(2 * np.pi)


@styled
def bands(
    x: Sequence[float],
    samples: Mapping[str, np.ndarray],
    predicted: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
    *,
    x_label: str,
    y_label: str,
    title: str = "",
) -> Axes:
    """Draw what was measured with several seeds, logarithmically, and what a formula predicts.

    A line is the mean over the seeds, its band reaches from the smallest to the largest; seaborn
    draws both. The formula, if there is one, is dashed.

    Args:
        x: Where the values stand.
        samples: For each label (seeds, x), above 0.
        predicted: For each of these labels (x,); nothing if not given.
        ax: Where; an own figure if not given.
        x_label: What x is.
        y_label: What the values are.
        title: In words.
    """
    import seaborn as sns

    if ax is None:
        _, ax = figure(height=3.8)
    for place, (label, rows) in enumerate(samples.items()):
        sns.lineplot(
            x=np.tile(x, len(rows)), y=np.ravel(rows), errorbar=("pi", 100), ax=ax,
            color=COLOURS[place], label=f"{label}: measured" if predicted else label,
            err_kws={"linewidth": 0},
        )  # fmt: skip
        if not predicted:
            continue
        style = {"color": COLOURS[place], "linestyle": (0, (5, 2)), "linewidth": 1.2}
        ax.plot(x, predicted[label], label=f"{label}: formula", **style)
    ax.set(yscale="log", xlabel=x_label, ylabel=y_label, xlim=(x[0], x[-1]))
    ax.yaxis.set_major_locator(LogLocator(base=10, numticks=12))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decade(value)))
    ax.grid(axis="both")
    set_title(ax, title)
    ax.legend(loc="best", fontsize=9)
    return ax
