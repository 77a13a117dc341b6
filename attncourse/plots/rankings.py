"""What can be chosen, as bars: seconds and bytes of each, and why some are struck out."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import ACCENT, INK, PALE, SERIES, figure, in_unit, set_title, styled

ROOM, REASON = 0.24, 0.52  # shares of an axis: of "512.0 GiB", and of a time with its reason


@dataclass(frozen=True)
class Ranked:
    """One row of a ranking.

    Attributes:
        name: What it is called.
        seconds: Its time.
        n_bytes: What it holds.
        out: Why it is struck out, or "".
    """

    name: str
    seconds: float
    n_bytes: float
    out: str = ""


class LiveRanking:
    """Rows of two bars, seconds and bytes; the dark one is taken, and the pale ones are struck out.

    The reason stands behind the bar, and a line marks the memory that there is.
    """

    @styled
    def __init__(self, rows: Sequence[Ranked], memory: float, title: str = ""):
        """Draw the first rows.

        Args:
            rows: The one that is taken first, unless it is struck out too.
            memory: Bytes there are.
            title: In words.
        """
        self.figure, self.axes = figure(
            1, 2, width=9.8, height=0.8 + 0.24 * len(rows), sharey=True, width_ratios=(1.5, 1)
        )
        self.update(rows, memory, title)

    @styled
    def update(self, rows: Sequence[Ranked], memory: float, title: str = "") -> None:
        """Show other rows, as many; arguments as before."""
        sizes = ("seconds", "s", "expected time"), ("n_bytes", "bytes", "memory that is held")
        for ax, (attribute, unit, words) in zip(self.axes, sizes, strict=True):
            values = [getattr(row, attribute) for row in rows]
            ax.clear()
            line = [memory] if unit == "bytes" and 0 < memory < math.inf else []
            low, high = min(values + line) / 3, max(values + line)
            taken = [bool(i == 0 and not row.out) for i, row in enumerate(rows)]
            colours = [
                PALE if row.out else INK if first else SERIES[1]
                for row, first in zip(rows, taken, strict=True)
            ]
            ax.barh(range(len(rows)), [x - low for x in values], left=low, color=colours)
            behind = ROOM if unit == "bytes" else REASON  # so wide are the words behind the bar
            ax.set(xscale="log", xlim=(low, low * (high / low) ** (1 / (1 - behind))))
            for i, value in enumerate(values):
                words_behind = in_unit(value, unit)
                if rows[i].out and unit == "s":
                    words_behind += f", {textwrap.shorten(rows[i].out, 36, placeholder=' …')}"
                ax.text(value * 1.15, i, words_behind, va="center", fontsize=8.5)
            ax.xaxis.set_major_locator(LogLocator(base=10 if unit == "s" else 16, numticks=5))
            ax.xaxis.set_minor_locator(NullLocator())

            # behind the bars stand words, and no numbers under them
            def words_of(x: float, _: int, unit: str = unit, ends: float = high) -> str:
                return in_unit(x, unit) if x <= ends else ""

            ax.xaxis.set_major_formatter(FuncFormatter(words_of))
            set_title(ax, title or words if unit == "s" else words)
        self.axes[1].axvline(memory, color=ACCENT, linestyle="--", linewidth=1)
        self.axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
        self.axes[0].set_ylim(len(rows) - 0.4, -0.6)
