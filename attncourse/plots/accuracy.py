"""Errors: what an approximation misses, over what it costs, and against the cheapest answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import (
    INK,
    LINES,
    MARKERS,
    PALE,
    SERIES,
    figure,
    in_unit,
    set_title,
    styled,
)
from attncourse.plots.lines import apart

# neighbours in this order, whose bands overlap, are far apart on the map
COLOURS = [SERIES[place] for place in (0, 3, 2, 1, 5, 4)]


class LiveErrors:
    """Errors of several methods on a logarithmic axis: a line for the mean, a band for the seeds.

    The band reaches from the best seed to the worst. A dashed line marks the error of an answer
    that costs nothing; above it, in the shade, a method is worse than that answer.
    """

    @styled
    def __init__(
        self,
        x: Sequence[float],
        errors: Mapping[str, np.ndarray],
        bar: float,
        ax: Axes | None = None,
        *,
        words: tuple[str, str],
        x_label: str,
        y_label: str,
        low: float,
        high: float,
        title: str = "",
        log_x: bool = True,
    ):
        """Draw the first errors.

        Args:
            x: Where the errors stand.
            errors: For each label (seeds, x); NaN leaves a point out.
            bar: The error of the answer that costs nothing.
            ax: Where; an own figure if not given.
            words: What it means to lie above the bar, and below it.
            x_label: What x is.
            y_label: What the errors are.
            low: The y axis starts here.
            high: The y axis ends here.
            title: In words.
            log_x: Logarithmic x, a tick at each value.
        """
        if ax is None:
            _, ax = figure(width=7.8, height=4.7)
        self.ax, self.figure, self.x = ax, ax.get_figure(), np.asarray(x, dtype=float)
        self.low, self.high = low, high
        self.shade = Rectangle(
            (0, bar), 1, high - bar, transform=ax.get_yaxis_transform(), zorder=0, linewidth=0
        )
        self.shade.set(facecolor=PALE, alpha=0.6)
        ax.add_patch(self.shade)
        self.bar = ax.axhline(bar, color=INK, linewidth=1.2, linestyle=(0, (6, 2)), zorder=1)
        above, below = words
        look = {"transform": ax.transAxes, "fontsize": 9, "color": INK}
        paper = {"facecolor": "white", "linewidth": 0, "alpha": 0.75, "pad": 1.5}
        self.words = (
            ax.text(0, 0.97, above, va="top", bbox=paper, zorder=4, **look),
            ax.text(0, 0.03, below, bbox=paper, zorder=4, **look),
        )
        self.means, self.bands, self.names = {}, {}, {}
        for place, label in enumerate(errors):
            colour = COLOURS[place % len(COLOURS)]
            if len(errors) > 1:
                self.names[label] = ax.text(1.02, 0.5, label, va="center", **look)
            band = PolyCollection([], facecolors=[colour], linewidths=0, alpha=0.25, zorder=2)
            ax.add_collection(band, autolim=False)
            self.bands[label] = band
            (self.means[label],) = ax.plot(
                [], [], color=colour, linestyle=LINES[place % 4], zorder=3, label=label,
                marker=MARKERS[place % len(MARKERS)] if log_x else "", markersize=6,
            )  # fmt: skip
        ax.set(yscale="log", ylim=(low, high), xlabel=x_label, ylabel=y_label)
        ax.yaxis.set_major_locator(LogLocator(base=10, numticks=12))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decade(value)))
        if log_x:
            ax.set_xscale("log", base=2)
            ax.set_xlim(self.x[0] / 1.15, self.x[-1] * 1.15)
            ax.xaxis.set_major_locator(FixedLocator(self.x))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "")))
        else:
            ax.set_xlim(self.x[0], self.x[-1])
        ax.grid(axis="both")
        set_title(ax, title)
        self.update(errors, bar)

    def update(
        self,
        errors: Mapping[str, np.ndarray],
        bar: float,
        title: str | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Show other errors of the same labels.

        Args:
            errors: For each label (seeds, x).
            bar: The error of the answer that costs nothing.
            title: In words.
            notes: For each label what stands below it, such as its slope.
        """
        seeds = []
        for label, values in errors.items():
            rows = np.atleast_2d(values)
            edges = np.concatenate([rows.min(axis=0), rows.max(axis=0)[::-1]])
            around = np.stack([np.concatenate([self.x, self.x[::-1]]), edges], -1)
            self.bands[label].set_verts([around] if len(rows) > 1 else [])
            self.means[label].set_data(self.x, rows.mean(axis=0))
            seeds.append(rows)
            if label in self.names:
                note = notes and notes.get(label)
                self.names[label].set_text(f"{label}\n{note}" if note else label)
        self.shade.set(y=bar, height=self.high - bar)
        self.bar.set_ydata([bar, bar])
        self._place_words(np.concatenate(seeds))
        if title is not None:
            set_title(self.ax, title)

    def _heights(self, values: np.ndarray) -> np.ndarray:
        """Return how high values stand in the axes, from 0 to 1."""
        inside = np.clip(values, self.low, self.high)
        return np.log(inside / self.low) / np.log(self.high / self.low)

    def _place_words(self, rows: np.ndarray) -> None:
        """Move the words above and below the bar to where no curve is, and each name to its end."""
        heights = self._heights(rows)
        at = self.ax.transLimits.transform(
            self.ax.transScale.transform(np.stack([self.x, self.x], -1))
        )[:, 0]
        for text, room in zip(self.words, (1 - heights, heights), strict=True):
            spots = {
                "left": (0.015, at < 0.55),
                "right": (0.985, at > 0.45),
                "center": (0.5, abs(at - 0.5) < 0.28),
            }
            free = {
                side: np.min(room[:, near], initial=1, where=np.isfinite(room[:, near]))
                for side, (_, near) in spots.items()
            }
            side = max(free, key=free.get)
            text.set(x=spots[side][0], ha=side)
        ends = {name: self._heights(self.means[name].get_ydata()[-1]) for name in self.names}
        shown = sorted((name for name in ends if np.isfinite(ends[name])), key=ends.get)
        for name, text in self.names.items():
            text.set_visible(name in shown)
        if shown:
            lines = max(1 + self.names[name].get_text().count("\n") for name in shown)
            places = apart(np.array([ends[name] for name in shown]), 0.06 * lines)
            for name, place in zip(shown, places, strict=True):
                self.names[name].set_y(place)


def decade(value: float) -> str:
    """Return a power of ten as people write it; mathtext would take ten times as long to draw."""
    power = round(math.log10(value))
    if -4 < power < 5:
        return f"{value:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def errors(x: Sequence[float], errors: Mapping[str, np.ndarray], bar: float, **words: Any) -> Axes:
    """Draw errors over x against a bar; arguments as in `LiveErrors`."""
    return LiveErrors(x, errors, bar, **words).ax
