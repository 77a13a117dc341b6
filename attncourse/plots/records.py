"""Recorded benchmarks: time and peak memory of every mechanism over n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from attncourse import records
from attncourse.catalogue import MECHANISMS
from attncourse.plots.base import LINES, SERIES, figure, in_unit, set_title, styled, unit_axis
from attncourse.plots.lines import apart

FAMILIES = ("dense", "exact tiled", "pattern", "content", "kernel", "low rank")


@styled
def benchmark(record: Mapping[str, Any], setting: Mapping[str, Any] | None = None) -> Figure:
    """Draw one record of `attncourse bench`: our implementations, a line each.

    Args:
        record: As read from results/.
        setting: One of `records.settings_of(record)`; if not given, the one with the most lengths,
            the first of them.

    Returns:
        Two Axes side by side: seconds of one call, and peak bytes, over n.
    """
    if setting is None:
        settings = records.settings_of(record)
        setting = max(settings, key=lambda one: len({r["n"] for r in records.rows(record, **one)}))
    rows = records.rows(record, **setting)
    fig, axes = figure(1, 2, width=11, height=6.2)
    for ax, unit, of in zip(axes, ("s", "bytes"), (_seconds, _peak), strict=True):
        _panel(ax, rows, unit, of)
    set_title(axes[0], f"time of one call: {records.setting_words(setting)}")
    set_title(axes[1], "peak memory, inputs aside")
    return fig


def _seconds(measured: Mapping[str, Any]) -> float:
    return measured["seconds"]["median"]


def _peak(measured: Mapping[str, Any]) -> float:
    return measured["peak_bytes"]


def _panel(ax: Axes, rows: list[records.Row], unit: str, of: Any) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row["n"]):
        if row["implementation"] in records.OURS and "seconds" in row:
            lines.setdefault(row["mechanism"], []).append((row["n"], of(row)))
    for stem, points in lines.items():
        family = MECHANISMS[stem].family if stem in MECHANISMS else ""
        place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
        style = {"color": SERIES[place % len(SERIES)], "linestyle": LINES[place % len(LINES)]}
        ax.plot(*zip(*points, strict=True), linewidth=1.3, marker=".", **style)
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
    low, high = np.log(ax.get_ylim())
    ends = sorted((np.log(points[-1][1]), stem) for stem, points in lines.items())
    heights = np.array([(value - low) / (high - low) for value, _ in ends])
    for (_, stem), height, place in zip(ends, heights, apart(heights, gap=0.036), strict=True):
        beside = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([1, 1.03], [height, place], color="#aaaaaa", linewidth=0.6, **beside)
        ax.text(1.04, place, stem.replace("_", " "), va="center", fontsize=8.5, **beside)
