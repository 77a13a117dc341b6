"""A training step over its operations: how many bytes are alive, and as what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from attncourse.plots.base import INK, PALE, figure, freeze, in_unit, set_title, styled

_viridis, _cividis = matplotlib.colormaps["viridis"], matplotlib.colormaps["cividis"]
COLOURS = (INK, _cividis(0.42), _viridis(0.35), _viridis(0.6), _viridis(0.85), PALE)


class LiveTimeline:
    """Bytes alive over the operations of a step, kind upon kind; `update` shows another step."""

    @styled
    def __init__(self, kinds: Sequence[str], *, high: float, ax: Axes | None = None):
        """Draw no step.

        Args:
            kinds: From the lowest layer up; at most six.
            high: Bytes at which the axis ends, so that steps can be compared.
            ax: Where; an own figure if not given.
        """
        own = ax is None
        if ax is None:
            fig, ax = figure(height=3.9)
            handles = [
                Patch(facecolor=colour, label=kind)
                for kind, colour in zip(kinds, COLOURS, strict=False)
            ]
            fig.legend(handles=handles, loc="outside lower center", ncols=len(kinds), fontsize=9)
        self.ax, self.figure, self.kinds, self.drawn = ax, ax.get_figure(), list(kinds), []
        ax.set(ylim=(0, high), xlim=(0, 1), xlabel="operations of the step", ylabel="bytes alive")
        ax.yaxis.set_major_locator(MultipleLocator(2 ** round(np.log2(high / 6))))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "bytes")))
        set_title(ax, " ")
        if own:
            freeze(self.figure)

    @styled
    def update(
        self, n_bytes: Mapping[str, np.ndarray], parts: Mapping[str, int], title: str
    ) -> None:
        """Show another step.

        Args:
            n_bytes: For each kind the bytes alive while each operation ran, (operations,).
            parts: Name of a part of the step -> the operation with which it begins.
            title: In words.
        """
        for artist in self.drawn:
            artist.remove()
        stack = np.cumsum([n_bytes[kind] for kind in self.kinds], axis=0)
        x, low = np.arange(stack.shape[1]), np.zeros(stack.shape[1])
        self.drawn = []
        for high, colour in zip(stack, COLOURS, strict=False):
            self.drawn.append(
                self.ax.fill_between(x, low, high, step="post", facecolor=colour, linewidth=0)
            )
            low = high
        peak, top = int(stack[-1].max()), self.ax.get_ylim()[1]
        self.drawn.append(self.ax.axhline(peak, color=INK, linestyle="--", linewidth=1.0))
        above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 9}
        self.drawn.append(self.ax.annotate(in_unit(peak, "bytes"), (x[-1], peak), **above))
        ends = [*list(parts.values())[1:], len(x)]
        for (name, start), end in zip(parts.items(), ends, strict=True):
            if start:
                self.drawn.append(self.ax.axvline(start, color=INK, linewidth=0.8, alpha=0.5))
            at = {"ha": "center", "va": "top", "fontsize": 9, "color": INK}
            self.drawn.append(self.ax.text((start + end) / 2, 0.985 * top, name, **at))
        self.ax.set_xlim(0, len(x) - 1)
        set_title(self.ax, title)
