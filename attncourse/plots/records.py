"""Measurements: time, peak memory and error of every mechanism, at one n and over n."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from attncourse.bench import records
from attncourse.catalogue import MECHANISMS
from attncourse.cost import Device
from attncourse.plots.base import (
    INK,
    LINES,
    SERIES,
    figure,
    in_unit,
    set_title,
    styled,
    unit_axis,
)
from attncourse.plots.lines import apart

FEW = 4  # lines whose colours are told apart
FAMILIES = ("dense", "exact tiled", "pattern", "content", "kernel", "low rank")


@styled
def benchmark(
    record: Mapping[str, Any],
    setting: Mapping[str, Any] | None = None,
    *,
    mechanisms: Collection[str] | None = None,
) -> Figure:
    """Draw one record of `attncourse bench`: our implementations, a line each.

    Args:
        record: As read from results/.
        setting: One of `records.settings_of(record)`; if not given, the one with the most lengths,
            the first of them.
        mechanisms: Those that are drawn; all that were measured if not given.

    Returns:
        Two Axes side by side: seconds of one call with their quartiles, and peak bytes, over n.
    """
    if setting is None:
        settings = records.settings_of(record)
        setting = max(settings, key=lambda one: len({r["n"] for r in records.rows(record, **one)}))
    rows = records.rows(record, **setting)
    if mechanisms is not None:
        rows = [row for row in rows if row["mechanism"] in mechanisms]
    n_lines = len({row["mechanism"] for row in rows})
    fig, axes = figure(1, 2, width=11, height=max(5.0, 1.2 + 0.25 * n_lines))
    for ax, unit, of in zip(axes, ("s", "bytes"), (_seconds, _peak), strict=True):
        _panel(ax, rows, unit, of)
    set_title(axes[0], f"time of one call: {records.setting_words(setting)}")
    set_title(axes[1], "peak memory, inputs aside")
    return fig


class LiveComparison:
    """Each mechanism a row: its time, its peak memory and its error; `update` shows another n.

    A dot is measured, a line through it goes from quartile to quartile. A bar beside it is
    predicted: the least time that the device needs for the FLOPs and the traffic of the mechanism's
    `cost`, and the peak bytes of its `cost`.
    """

    @styled
    def __init__(self, record: Mapping[str, Any], device: Device, n: int):
        """Draw one length.

        Args:
            record: From `bench.here`: each measurement has `error` and `predicted`.
            device: Whose limits the predicted time is for.
            n: Which of the record's lengths.
        """
        self.record, self.device = record, device
        rows = records.rows(record)
        self.stems = list(dict.fromkeys(row["mechanism"] for row in rows))
        self.figure, axes = figure(
            1, 3, width=9.6, height=1.5 + 0.24 * len(self.stems), sharey=True
        )
        titles = ("time of one call", "peak memory, inputs aside", "error against full attention")
        self.dots, self.bars = [], []
        words = {"color": INK, "linewidth": 1.8, "label": "from quartile to quartile"}
        (self.quartiles,) = axes[0].plot([], [], **words)
        measured = [row for row in rows if "seconds" in row]
        for ax, unit, title, of in zip(
            axes, ("s", "bytes", ""), titles, self._values(), strict=True
        ):
            self.dots.append(ax.plot([], [], "o", color=INK, markersize=6, label="measured")[0])
            self.bars.append(
                ax.plot([], [], "|", color=SERIES[1], markersize=13, mew=2.5, label="predicted")[0]
            )
            values = [x for row in measured for x in of(row) if x is not None and x > 0]
            ax.set(xscale="log", xlim=(min(values) / 2, 2 * max(values)))
            # fixed ticks: to find them anew takes a third of a redraw
            ticks = _decades(*ax.get_xlim(), base=8 if unit == "bytes" else 10)
            ax.set_xticks(ticks, [_short(tick, unit) for tick in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="both")
            set_title(ax, title)
        axes[0].set_yticks(range(len(self.stems)), [stem.replace("_", " ") for stem in self.stems])
        axes[0].set_ylim(len(self.stems) - 0.5, -0.5)
        handles = [self.dots[0], self.quartiles, self.bars[0]]
        self.figure.legend(handles=handles, loc="outside lower center", ncols=3)
        self.whys = [
            ax.text(
                0.5, row, "", transform=ax.get_yaxis_transform(), ha="center", va="center",
                fontsize=8, color="#444444",
                bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
            )
            for ax in axes
            for row in range(len(self.stems))
        ]  # fmt: skip
        self.update(n)

    def _values(self):
        """What each panel shows of a row: (measured, predicted)."""
        return (
            lambda row: (row["seconds"]["median"], records.least_seconds(row, self.device)),
            lambda row: (row["peak_bytes"], row["predicted"]["peak_bytes"]),
            lambda row: (row["error"], None),
        )

    def update(self, n: int) -> None:
        """Show another length; where a mechanism was not measured, a word says so."""
        every = records.rows(self.record, n=n)
        rows = [row for row in every if "seconds" in row]
        words = dict.fromkeys(self.stems, "not measured")
        for row in every:
            reasons = [key for key in ("skipped", "absent", "failed") if key in row]
            words[row["mechanism"]] = "" if row in rows else ", ".join(reasons)
        for text, word in zip(self.whys, 3 * list(words.values()), strict=True):
            text.set_text(word)
        places = [self.stems.index(row["mechanism"]) for row in rows]
        # one line for all rows; a NaN lifts the pen
        low_high = [x for row in rows for x in (*_quartiles(row), np.nan)]
        self.quartiles.set_data(low_high, np.repeat(places, 3))
        for dots, bars, of in zip(self.dots, self.bars, self._values(), strict=True):
            measured, predicted = zip(*map(of, rows), strict=True) if rows else ((), ())
            dots.set_data(measured, places)
            there = [(x, y) for x, y in zip(predicted, places, strict=True) if x is not None]
            bars.set_data(*zip(*there, strict=True) if there else ([], []))


def _decades(low: float, high: float, base: int) -> list[float]:
    """Return at most four powers of `base` between two numbers."""
    first = int(np.ceil(np.log(low) / np.log(base)))
    last = int(np.floor(np.log(high) / np.log(base)))
    step = -(-(last - first + 1) // 4)
    return [float(base) ** power for power in range(first, last + 1, step)]


def _short(value: float, unit: str) -> str:
    return in_unit(value, unit) if unit else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _seconds(measured: Mapping[str, Any]) -> float:
    return measured["seconds"]["median"]


def _quartiles(measured: Mapping[str, Any]) -> tuple[float, float]:
    return measured["seconds"]["low"], measured["seconds"]["high"]


def _peak(measured: Mapping[str, Any]) -> float:
    return measured["peak_bytes"]


def _panel(ax: Axes, rows: list[records.Row], unit: str, of: Any) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    spread: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row["n"]):
        if row["implementation"] in records.OURS and "seconds" in row:
            lines.setdefault(row["mechanism"], []).append((row["n"], of(row)))
            spread.setdefault(row["mechanism"], []).append(_quartiles(row))
    for number, (stem, points) in enumerate(lines.items()):
        family = MECHANISMS[stem].family if stem in MECHANISMS else ""
        place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
        if len(lines) <= FEW:  # each its own colour; many share that of their family
            place = number
        colour, line = SERIES[place % len(SERIES)], LINES[place % len(LINES)]
        n, values = zip(*points, strict=True)
        ax.plot(n, values, linewidth=1.3, marker=".", color=colour, linestyle=line)
        if unit == "s":
            ax.vlines(n, *zip(*spread[stem], strict=True), color=colour, linewidth=4, alpha=0.5)
    lengths = sorted({n for points in lines.values() for n, _ in points})
    ax.set(xscale="log", yscale="log", xlabel="tokens n")
    ax.xaxis.set_major_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "")))
    unit_axis(ax, unit)
    ax.grid(axis="both")
    _name_lines(ax, lines)


def _name_lines(ax: Axes, lines: Mapping[str, list[tuple[int, float]]]) -> None:
    """Write each line's name beside its end, moved apart where lines end close together."""
    if not lines:
        return
    low, high = np.log(ax.get_ylim())
    longest = max(points[-1][0] for points in lines.values())
    for stem, points in lines.items():
        if points[-1][0] < longest:  # its line ends within the picture, and so does its name
            ax.annotate(
                stem.replace("_", " "), points[-1], (4, 4), textcoords="offset points", fontsize=8.5
            )
    whole = {stem: points for stem, points in lines.items() if points[-1][0] == longest}
    ends = sorted((np.log(points[-1][1]), stem) for stem, points in whole.items())
    heights = np.array([(value - low) / (high - low) for value, _ in ends])
    gap = 0.2 / ax.figure.get_figheight()
    for (_, stem), height, place in zip(ends, heights, apart(heights, gap=gap), strict=True):
        beside = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([1, 1.03], [height, place], color="#aaaaaa", linewidth=0.6, **beside)
        ax.text(1.04, place, stem.replace("_", " "), va="center", fontsize=8.5, **beside)
