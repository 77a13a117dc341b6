"""Named points in a plane, such as the operations and the memory of each mechanism."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import INK, axis_words, figure, in_unit, set_title, styled, unit_axis
from attncourse.plots.lines import apart


@styled
def scatter(
    points: Mapping[str, tuple[float, float]],
    ax: Axes | None = None,
    *,
    x_unit: str,
    y_unit: str,
    title: str = "",
) -> Axes:
    """Draw named points, both axes logarithmic, each name beside its point.

    Args:
        points: For each name (x, y), both above 0.
        ax: Where; an own figure if not given.
        x_unit: "s", "bytes" or any other word.
        y_unit: Likewise.
        title: In words.
    """
    if ax is None:
        _, ax = figure(width=8.2, height=4.8)
    x, y = (np.array(values, dtype=float) for values in zip(*points.values(), strict=True))
    ax.plot(x, y, "o", color=INK, markersize=6)
    ax.set(xscale="log", yscale="log", xlabel=axis_words(x_unit), ylabel=axis_words(y_unit))
    ax.set(xlim=(x.min() / 2, x.max() * 4), ylim=(y.min() / 2, y.max() * 2))
    ax.xaxis.set_major_locator(LogLocator(base=4 if x_unit == "bytes" else 10, numticks=7))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, x_unit)))
    unit_axis(ax, y_unit)
    ax.grid(axis="both")
    set_title(ax, title)
    name_points(ax, points)
    return ax


def name_points(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name beside its point, where there is room; the limits must be set before."""
    if not points:
        return
    x, y = (np.array(values, dtype=float) for values in zip(*points.values(), strict=True))
    for place, (name, point) in zip(_places(ax, list(points), x, y), points.items(), strict=True):
        ax.annotate(
            name.replace("_", " "),
            point,
            place,
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # no line strikes a name
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 3},
        )


def _places(ax: Axes, names: list[str], x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Return where each name starts, in fractions of the axes: beside its point, or next to it.

    Points above one another get their names in the same order, the fullest such column first.
    """
    to_axes = ax.transData.transform(np.column_stack([x, y]))
    points = ax.transAxes.inverted().transform(to_axes)
    width, height = 5.6 / (ax.figure.get_figwidth() * 72), 13 / (ax.figure.get_figheight() * 72)
    taken = [(px - 0.01, py, px + 0.01) for px, py in points]  # left, middle, right

    def free(left: float, middle: float, right: float) -> bool:
        return 0.03 < middle < 0.97 and all(
            abs(middle - m) > 0.99 * height or right < a or b < left for a, m, b in taken
        )

    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(names)
    columns: dict[float, list[int]] = {}
    for index in np.argsort(points[:, 1], kind="stable"):
        columns.setdefault(round(points[index, 0], 2), []).append(index)
    for column in sorted(columns.values(), key=lambda column: (-len(column), -y[column[-1]])):
        floor = 0.04 + height * np.arange(len(column))
        lefts = points[column, 0] + 0.02
        rights = lefts + width * np.array([len(names[index]) for index in column])
        best: list[tuple[float, float, float]] = []
        for step in sorted(range(-30, 31), key=abs):
            moved = apart(points[column, 1] + step * height / 2, height)
            heights = np.minimum(np.maximum(moved, floor), 1 - floor[::-1])
            boxes = list(zip(lefts, heights, rights, strict=True))
            best = best or boxes
            if all(free(*box) for box in boxes):
                best = boxes
                break
        taken += best
        for index, (left, middle, _) in zip(column, best, strict=True):
            places[index] = left, middle
    return places
