"""Numbers: bars, curves, growth over n, and where the memory of devices ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
)

from attncourse.measure import Timing
from attncourse.plots.base import (
    INK,
    LINES,
    MARKERS,
    PALE,
    SERIES,
    axis_words,
    compact,
    figure,
    in_unit,
    median_of,
    set_title,
    spread_colours,
    styled,
    unit_axis,
)

# Predictions stay dashed, each in its own way: two colours may be much alike.
DASHES = ("--", "-.", ":", (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


class LiveBars:
    """Horizontal bars with their values written out; `update` exchanges the values."""

    @styled
    def __init__(
        self,
        values: Mapping[str, float],
        ax: Axes | None = None,
        *,
        unit: str = "",
        title: str = "",
        high: float | None = None,
    ):
        """Draw the first values.

        Args:
            values: A number or a `Timing` for each name.
            ax: Where; an own figure if not given.
            unit: "s", "bytes" or any other word.
            title: In words.
            high: The axis ends here; at the largest value if not given.
        """
        if ax is None:
            _, ax = figure(height=0.8 + 0.42 * len(values))
        self.ax, self.figure, self.unit, self.high = ax, ax.get_figure(), unit, high
        self.bars = ax.barh(range(len(values)), [0] * len(values), height=0.62, color=SERIES[1])
        self.texts = [
            ax.annotate("", (0, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
            for row in range(len(values))
        ]
        ax.set_yticks(range(len(values)), list(values))
        ax.invert_yaxis()
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
        if unit != "bytes":
            ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        set_title(ax, title)
        self.update(values)

    def update(self, values: Mapping[str, float], title: str | None = None) -> None:
        """Show other values of the same names."""
        numbers = [median_of(value) for value in values.values()]
        for bar, text, number in zip(self.bars, self.texts, numbers, strict=True):
            bar.set_width(number)
            text.set_text(in_unit(number, self.unit))
            text.xy = (number, text.xy[1])
        end = 1.18 * (self.high or max([*numbers, 1e-300]))
        self.ax.set_xlim(0, end)
        if self.unit == "bytes":
            self.ax.xaxis.set_major_locator(MultipleLocator(2 ** np.ceil(np.log2(end / 4))))
        if title is not None:
            set_title(self.ax, title)


def bars(values: Mapping[str, float], ax: Axes | None = None, **words: Any) -> Axes:
    """Draw horizontal bars with their values written out; arguments as in `LiveBars`."""
    return LiveBars(values, ax, **words).ax


@styled
def growth(
    n: Sequence[int],
    measured: Mapping[str, Sequence[Timing | float]],
    predicted: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
    *,
    unit: str = "s",
    title: str = "",
    x: str = "tokens n",
) -> Axes:
    """Draw what was measured against what was predicted, over n, both axes logarithmic.

    Args:
        n: The sizes.
        measured: For each label a `Timing`, drawn with its quartiles, or a number for each n.
            NaN leaves a point out. Beside predictions the legend calls it measured unless the
            label says, after a colon, what else it is: "chapter E: printed".
        predicted: For each label a number for each n; a label of `measured` shares its colour and
            its place in the legend. Others are called predicted unless they say otherwise.
        ax: Where; an own figure if not given.
        unit: "s", "bytes" or any other word.
        title: In words.
        x: What n is.
    """
    if ax is None:
        _, ax = figure()
    n = np.asarray(n)
    predicted = predicted or {}
    labels = list(dict.fromkeys([*measured, *predicted]))
    colours = SERIES if len(labels) < 5 else spread_colours(len(labels))
    drawn: dict[str, list] = {label: [] for label in labels}
    ends = {}
    for label, values in predicted.items():
        place = labels.index(label)
        style = {"color": colours[place], "linestyle": DASHES[place % len(DASHES)]}
        drawn[label] += ax.plot(n, values, alpha=0.8, **style)
        ends[label] = values[-1]
    for label, values in measured.items():
        place = labels.index(label)
        middle = np.array([median_of(value) for value in values], dtype=float)
        spread = np.array(
            [
                (v.median - v.low, v.high - v.median) if isinstance(v, Timing) else (0, 0)
                for v in values
            ]
        )
        points = ax.errorbar(
            n,
            middle,
            yerr=spread.T,
            color=colours[place],
            marker=MARKERS[place % len(MARKERS)],
            markersize=6,
            capsize=3,
            linewidth=0 if label in predicted else 1.2,
            elinewidth=1.5,
        )
        drawn[label].append(points)
        ends[label] = max(middle[np.isfinite(middle)][-1:], default=0.0)
    ax.set(xscale="log", yscale="log", xlabel=x, ylabel=axis_words(unit))
    ax.xaxis.set_major_locator(FixedLocator(n))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "")))
    unit_axis(ax, unit)
    ax.grid(axis="both")
    set_title(ax, title)
    both = measured.keys() & predicted.keys()
    title = "points: measured\nlines: predicted" if both else None
    names = {
        label: label if ":" in label or label in both or not predicted
        else f"{label}: {'measured' if label in measured else 'predicted'}"
        for label in sorted(labels, key=ends.__getitem__, reverse=True)  # as the curves end
    }  # fmt: skip
    handles = [tuple(drawn[label]) for label in names]
    look = {"fontsize": 9, "title_fontsize": 9, "alignment": "left", "handlelength": 3.0}
    ax.legend(handles, names.values(), title=title, loc="upper left", bbox_to_anchor=(1, 1), **look)
    return ax


class LiveBudget:
    """Bytes over n, with a line where the memory of each device ends."""

    @styled
    def __init__(
        self,
        n: Sequence[int],
        n_bytes: Mapping[str, Sequence[float]],
        devices: Sequence[tuple[str, int]],
        *,
        at: int | None = None,
        ax: Axes | None = None,
        title: str = "",
        low: float | None = None,
        high: float | None = None,
    ):
        """Draw the first curves.

        Args:
            n: Sequence lengths, rising.
            n_bytes: For each label the bytes at each n.
            devices: (name, memory in bytes) of each.
            at: The length that is picked out.
            ax: Where; an own figure if not given.
            title: In words.
            low: The axis starts at this number of bytes.
            high: The axis ends at this number of bytes.
        """
        if ax is None:
            _, ax = figure(width=8.2, height=4.6)
        self.ax, self.figure, self.n = ax, ax.get_figure(), np.asarray(n)
        largest = max(size for _, size in devices)
        curves = np.array(list(n_bytes.values()), dtype=float)
        low = curves.min() / 2 if low is None else low
        high = 8 * max(largest, curves.max()) if high is None else high
        self.curves = {
            label: ax.plot(
                self.n, values, color=SERIES[place], linestyle=LINES[place], label=label
            )[0]
            for place, (label, values) in enumerate(n_bytes.items())
        }
        ordered = sorted(devices, key=lambda device: device[1])
        sizes = np.array([size for _, size in ordered], dtype=float)
        heights = np.log(sizes / low) / np.log(high / low)
        for (name, size), height, place in zip(ordered, heights, apart(heights), strict=True):
            ax.axhline(size, color="#888888", linewidth=0.9, zorder=0)
            beside = {"transform": ax.transAxes, "clip_on": False}
            # a plain line: an annotation's arrow takes ten times as long to draw
            ax.plot([1, 1.025], [height, place], color="#aaaaaa", linewidth=0.7, **beside)
            label = name if "GB" in name else f"{name} {size / 1e9:.0f} GB"
            ax.text(1.03, place, label, va="center", fontsize=8.5, color="#444444", **beside)
        ax.axhspan(largest, high, color=PALE, alpha=0.5, zorder=0, linewidth=0)
        ax.annotate(
            "more than any of them",
            (0, largest),
            (6, 5),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=9,
        )
        self.here = ax.axvline(self.n[0], color=INK, linewidth=0.9, linestyle=":")
        self.points = ax.scatter([], [], s=50, color=[INK], zorder=5)
        self.text = ax.annotate(
            "", (1, 1), (7, -9), textcoords="offset points", fontsize=9.5, weight="bold"
        )
        ax.set(xscale="log", yscale="log", xlabel="tokens n", ylabel="memory")
        ax.set(xlim=(self.n[0], self.n[-1]), ylim=(low, high))
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        unit_axis(ax, "bytes")
        ax.yaxis.set_major_locator(LogLocator(base=1024))  # labels take most of a redraw
        ax.grid(axis="x")
        set_title(ax, title)
        self.legend = None
        if len(n_bytes) > 1:  # in a box, for the dotted line may come behind it
            box = {"frameon": True, "framealpha": 1, "facecolor": "white", "edgecolor": "white"}
            self.legend = ax.legend(loc="upper left", **box)
        self.update(n_bytes, at)

    def update(
        self,
        n_bytes: Mapping[str, Sequence[float]],
        at: int | None = None,
        title: str | None = None,
    ) -> None:
        """Show other curves of the same labels, and pick out the length `at`.

        Its bytes stand beside the point of a single curve, in the legend of several.
        """
        points = []
        for place, (label, values) in enumerate(n_bytes.items()):
            self.curves[label].set_ydata(values)
            words = ""
            if at is not None:
                value = np.exp(np.interp(np.log(at), np.log(self.n), np.log(values)))
                points.append((at, value))
                words = in_unit(value, "bytes")
            if self.legend is None:
                self.text.xy = points[-1] if points else (1, 1)
                self.text.set_text(words)
            else:
                named = f"{label}: {words}" if words else label
                self.legend.get_texts()[place].set_text(named)
        self.points.set_offsets(points or np.empty((0, 2)))
        self.here.set_visible(at is not None)
        if at is not None:
            self.here.set_xdata([at, at])
        if title is not None:
            set_title(self.ax, title)


def budget(
    n: Sequence[int],
    n_bytes: Mapping[str, Sequence[float]],
    devices: Sequence[tuple[str, int]],
    **words: Any,
) -> Axes:
    """Draw bytes over n and where devices end; arguments as in `LiveBudget`."""
    return LiveBudget(n, n_bytes, devices, **words).ax


class LiveCurves:
    """Curves over one axis; `update` exchanges their values."""

    @styled
    def __init__(
        self,
        x: Sequence[float],
        curves: Mapping[str, Sequence[float]],
        ax: Axes | None = None,
        *,
        x_label: str,
        y_label: str,
        title: str = "",
        log_x: bool = False,
        log_y: bool = False,
        high: float | None = None,
        measured: Mapping[str, Sequence[float]] | None = None,
    ):
        """Draw the first curves.

        Args:
            x: Where the values stand.
            curves: For each label one value for each x.
            ax: Where; an own figure if not given.
            x_label: What x is.
            y_label: What the values are.
            title: In words.
            log_x: Logarithmic x.
            log_y: Logarithmic y, so that equal ratios are equally far apart; values above 0.
            high: The y axis ends here; at the largest value if not given.
            measured: Values of the same labels, drawn as hollow marks beside the curves.
        """
        if ax is None:
            _, ax = figure(height=3.4)
        self.ax, self.figure, self.high = ax, ax.get_figure(), high
        self.lines = {
            label: ax.plot(
                x,
                values,
                color=SERIES[place],
                linestyle=("-", "--", ":", "-.")[place % 4],
                label=label,
            )[0]
            for place, (label, values) in enumerate(curves.items())
        }
        self.marks = {
            label: ax.plot(
                x,
                values,
                MARKERS[place],
                color=self.lines[label].get_color(),
                fillstyle="none",
                markersize=9,
                markeredgewidth=1.8,
                label=f"{label}, measured",
            )[0]
            for place, (label, values) in enumerate((measured or {}).items())
        }
        self.x = np.asarray(x, dtype=float)
        (self.dots,) = ax.plot([], [], "o", color=INK, markersize=8, zorder=3)
        ax.set(xlabel=x_label, ylabel=y_label)
        if log_x:
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "")))
        if log_y:
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "")))
        ax.grid(axis="y")
        set_title(ax, title)
        if len(curves) > 1:
            ax.legend(loc="best")
        self.update(curves, measured=measured)

    def update(
        self,
        curves: Mapping[str, Sequence[float]],
        title: str | None = None,
        at: float | None = None,
        measured: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Show other values of the same labels, with a dot on each where x is `at`, if given."""
        measured = measured or {}
        for label, values in curves.items():
            self.lines[label].set_ydata(values)
        for label, values in measured.items():
            self.marks[label].set_ydata(values)
        heights = [] if at is None else [np.interp(at, self.x, y) for y in curves.values()]
        self.dots.set_data([at] * len(heights), heights)
        shown = (*curves.values(), *measured.values())
        most = max(float(np.nanmax(values)) for values in shown)
        low = 0.0
        if self.ax.get_yscale() == "log":
            low = min(float(np.nanmin(values)) for values in shown) / 1.1
        self.ax.set_ylim(low, 1.1 * (self.high or most or 1.0))
        if title is not None:
            set_title(self.ax, title)


def curves(
    x: Sequence[float], values: Mapping[str, Sequence[float]], ax: Axes | None = None, **words: Any
) -> Axes:
    """Draw curves over one axis; arguments as in `LiveCurves`."""
    return LiveCurves(x, values, ax, **words).ax


def apart(heights: np.ndarray, gap: float = 0.055) -> np.ndarray:
    """Return rising heights moved as little as it takes to stand at least `gap` apart, below 1.

    Heights without their gaps must not fall. Where they do, neighbours share their mean.
    """
    gaps = gap * np.arange(len(heights))
    runs: list[list[float]] = []  # neighbours that touch: the sum of their heights, their number
    for height in heights - gaps:
        runs.append([height, 1])
        while len(runs) > 1 and runs[-2][0] / runs[-2][1] > runs[-1][0] / runs[-1][1]:
            total, count = runs.pop()
            runs[-1][0] += total
            runs[-1][1] += count
    means = np.concatenate([np.full(int(count), total / count) for total, count in runs])
    return np.minimum(means, 1 - gaps[-1]) + gaps
