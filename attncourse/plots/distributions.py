"""Many values of one thing: how they scatter, and what a table of them says. Drawn by seaborn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from attncourse.plots.base import INK, SERIES, axis_words, figure, in_unit, set_title, styled

CELLS = matplotlib.colormaps["viridis"]  # light is much, as in a heat map of numbers


@styled
def distribution(
    samples: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    unit: str = "",
    title: str = "",
) -> Axes:
    """Draw every value as a dot, and a box from quartile to quartile with a line at the median.

    Args:
        samples: For each name its values.
        ax: Where; an own figure if not given.
        unit: "s", "bytes" or any other word.
        title: In words.
    """
    import seaborn as sns  # takes most of a second, which other pictures need not wait for

    if ax is None:
        _, ax = figure(height=1.1 + 0.8 * len(samples))
    values = {name: np.asarray(sample, dtype=float) for name, sample in samples.items()}
    box = {"showfliers": False, "whis": 0, "showcaps": False, "width": 0.75}
    sns.boxplot(values, orient="h", ax=ax, color=SERIES[2], linecolor=INK, linewidth=1.3, **box)
    # in one line, each half transparent: a swarm warns where dots crowd, and jitter draws numbers
    sns.stripplot(values, orient="h", ax=ax, color=INK, size=6, alpha=0.4, jitter=False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
    ax.set(xlabel=axis_words(unit), ylabel="")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    set_title(ax, title)
    return ax


@styled
def table(
    shares: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    ax: Axes | None = None,
    *,
    x: str,
    y: str,
    label: str,
    title: str = "",
) -> Axes:
    """Draw shares as a heat map with each of them written into its cell.

    Args:
        shares: (rows, columns), from 0 to 1.
        rows: The name of each row.
        columns: The name of each column.
        ax: Where; an own figure if not given.
        x: What the columns are.
        y: What the rows are.
        label: What the shares are.
        title: In words.
    """
    import seaborn as sns

    if ax is None:
        _, ax = figure(width=8.2, height=1.4 + 0.45 * len(rows))
    sns.heatmap(
        shares, vmin=0, vmax=1, cmap=CELLS, annot=True, fmt=".0%", ax=ax, linewidths=1,
        xticklabels=columns, yticklabels=rows,
        cbar_kws={"label": label, "format": FuncFormatter(lambda value, _: f"{value:.0%}")},
    )  # fmt: skip
    for text, share in zip(ax.texts, np.ravel(shares), strict=True):
        text.set_color("white" if _luminance(CELLS(float(share))) < 0.18 else "black")
    ax.set(xlabel=x, ylabel=y)
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    set_title(ax, title)
    return ax


def _luminance(colour: Sequence[float]) -> float:
    """Return the relative luminance of an sRGB colour; on 0.18, black and white read equally well.

    Source: Web Content Accessibility Guidelines 2.1, "relative luminance".
    """
    rgb = np.array(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
