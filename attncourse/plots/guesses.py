"""A guess and its answer on one logarithmic axis."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import INK, SERIES, figure, styled
from attncourse.units import format_quantity

LEAST_DECADES = 0.9  # on each side, so that there are ticks however near the two are


@styled
def guess(
    said: float,
    answer: float,
    ax: Axes | None = None,
    *,
    unit: str = "",
    decimal: bool = False,
    between: str = "",
) -> Axes:
    """Draw a guess and the answer on one axis, and how far it is from one to the other.

    Args:
        said: The guess, above 0.
        answer: The answer, above 0.
        ax: Where; an own figure if not given.
        unit: As in `units.format_quantity`.
        decimal: Bytes in powers of 10.
        between: What stands at the arrow from guess to answer, if there is room.
    """
    if ax is None:
        _, ax = figure(height=1.75)

    def in_words(value: float, unit: str) -> str:
        return format_quantity(value, unit, decimal=decimal)

    symbol = unit if unit in ("B", "s", "%") else ""  # a word at every tick would fill the axis
    low, high = sorted(map(math.log10, (said, answer)))
    room = max(LEAST_DECADES, 0.18 * (high - low))
    apart = (high - low) / (high - low + 2 * room)
    ax.set(xscale="log", xlim=(10 ** (low - room), 10 ** (high + room)), ylim=(-1, 1), yticks=[])
    ax.xaxis.set_major_locator(LogLocator(4 if unit == "B" and not decimal else 10, numticks=7))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_words(value, symbol)))
    ax.spines["left"].set_visible(False)
    ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    if apart > 0.06:
        arrow = {"arrowstyle": "->", "shrinkA": 8, "shrinkB": 8}
        ax.annotate("", (answer, 0), (said, 0), arrowprops=arrow)
    if apart > 0.3:
        middle = math.sqrt(said) * math.sqrt(answer)
        ax.text(middle, 0.08, between, ha="center", va="bottom", fontsize=9)
    ring = {"color": "white", "markeredgecolor": SERIES[1], "markeredgewidth": 2.2}
    ax.plot(said, 0, "o", markersize=11, **ring)
    ax.plot(answer, 0, "D", markersize=10, color=INK)
    bold = {"ha": "center", "weight": "bold", "color": INK}
    ax.text(said, 0.38, f"your guess: {in_words(said, unit)}", va="bottom", **bold)
    ax.text(answer, -0.38, f"answer: {in_words(answer, unit)}", va="top", **bold)
    return ax
