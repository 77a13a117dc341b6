"""Named points in a plane, such as the operations and the memory of each mechanism."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import INK, axis_words, figure, in_unit, set_title, styled, unit_axis


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
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 3},
        )


def _places(ax: Axes, names: list[str], x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Return where each name starts, in fractions of the axes: beside its point, or next to it."""
    to_axes = ax.transData.transform(np.column_stack([x, y]))
    points = ax.transAxes.inverted().transform(to_axes)
    width, height = 7.2 / (ax.figure.get_figwidth() * 72), 11 / (ax.figure.get_figheight() * 72)
    taken = [(px - 0.01, py, px + 0.01) for px, py in points]  # left, middle, right
    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(names)
    for index in np.argsort(-y, kind="stable"):
        left, middle = points[index] + (0.02, 0.0)
        right = left + width * len(names[index])

        def free(at: float, left: float = left, right: float = right) -> bool:
            return 0.03 < at < 0.97 and all(
                abs(at - m) > height or right < a or b < left for a, m, b in taken
            )

        steps = sorted(range(-30, 31), key=abs)
        middle = next((m for k in steps if free(m := middle + k * height / 2)), middle)
        taken.append((left, middle, right))
        places[index] = left, middle
    return places
