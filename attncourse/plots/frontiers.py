"""Quality against bytes: what each method costs, what it can do, and which of them nobody beats."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.plots.base import INK, MARKERS, SERIES, figure, in_unit, set_title, styled
from attncourse.plots.points import name_points


@dataclass(frozen=True)
class Gained:
    """A method in the plane of bytes and quality.

    Attributes:
        family: Methods of one family share a colour and a marker.
        n_bytes: What it holds.
        before: Its quality as it is put in.
        after: Its quality after tuning, one for each seed; none if it was not tuned.
    """

    family: str
    n_bytes: float
    before: float
    after: Sequence[float] = ()

    @property
    def middle(self) -> float:
        """The mean over the seeds, or what it was before."""
        return float(np.mean(self.after)) if len(self.after) else self.before


def unbeaten(points: Mapping[str, Gained], *, high: bool) -> list[str]:
    """Return the methods that no other beats: as good with fewer bytes, or better with as many.

    Args:
        points: By name.
        high: Whether more is better.
    """
    sign = 1 if high else -1
    worth = {name: (one.n_bytes, -sign * one.middle) for name, one in points.items()}
    return [
        name
        for name, mine in sorted(worth.items(), key=lambda pair: pair[1])
        if not any(
            other != mine and other[0] <= mine[0] and other[1] <= mine[1]
            for other in worth.values()
        )
    ]


def beaten_by(
    name: str, points: Mapping[str, Gained], others: Iterable[str], *, high: bool
) -> str | None:
    """Return the best of others that hold no more than a method and are as good, if there is one.

    Args:
        name: The method.
        points: By name, that method among them.
        others: Names of those that may beat it.
        high: Whether more is better.
    """
    sign = -1 if high else 1
    worth = {each: (sign * points[each].middle, points[each].n_bytes) for each in points}
    able = [
        each
        for each in others
        if all(a <= b for a, b in zip(worth[each], worth[name], strict=True))
        and worth[each] != worth[name]
    ]
    return min(able, key=worth.__getitem__, default=None)


class LiveFrontier:
    """A point for each method, an arrow from before the tuning to after, a bar over the seeds.

    The stairs go along those that nobody beats: what one can have for so many bytes.
    """

    @styled
    def __init__(
        self,
        points: Mapping[str, Gained],
        ax: Axes | None = None,
        *,
        y_label: str,
        high: bool,
        title: str = "",
        named: Collection[str] | None = None,
    ):
        """Draw the first points.

        Args:
            points: By name.
            ax: Where; an own figure if not given.
            y_label: What the quality is.
            high: Whether more is better.
            title: In words.
            named: Those whose names are written; all if not given.
        """
        if ax is None:
            _, ax = figure(width=8.6, height=4.3)
        self.ax, self.figure = ax, ax.get_figure()
        self.update(points, y_label=y_label, high=high, title=title, named=named)

    @styled
    def update(
        self,
        points: Mapping[str, Gained],
        *,
        y_label: str,
        high: bool,
        title: str = "",
        named: Collection[str] | None = None,
    ) -> None:
        """Show other points; arguments as before."""
        ax = self.ax
        ax.clear()
        families = list(dict.fromkeys(one.family for one in points.values()))
        for one in points.values():
            place = families.index(one.family)
            colour = SERIES[place % len(SERIES)]
            if len(one.after):
                ax.plot(one.n_bytes, one.before, "o", mfc="white", mec=colour, markersize=4)
                ends = (one.n_bytes, one.middle), (one.n_bytes, one.before)
                ax.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": colour, "lw": 0.9})
                spread = [min(one.after), max(one.after)]
                ax.plot(
                    [one.n_bytes] * 2,
                    spread,
                    color=colour,
                    linewidth=7,
                    alpha=0.35,
                    solid_capstyle="butt",
                )
            marker = MARKERS[place % len(MARKERS)]
            ax.plot(one.n_bytes, one.middle, marker, color=colour, markersize=6)
        x = np.array([one.n_bytes for one in points.values()])
        y = np.array([value for one in points.values() for value in (one.before, *one.after)])
        room = 0.06 * (y.max() - y.min() or 1)
        ax.set(
            xscale="log", xlim=(x.min() / 1.7, x.max() * 6), ylim=(y.min() - room, y.max() + room)
        )
        self._stairs([points[name] for name in unbeaten(points, high=high)])
        ax.set(xlabel="bytes that are held", ylabel=y_label)
        ax.xaxis.set_major_locator(LogLocator(base=4, numticks=9))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, "bytes")))
        ax.grid(axis="y")
        for place, family in enumerate(families):
            style = {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)]}
            ax.plot([], [], linestyle="", label=family, **style)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=6, fontsize=9)
        set_title(ax, title)
        shown = {name: (one.n_bytes, one.middle) for name, one in points.items()}
        name_points(ax, {name: shown[name] for name in (shown if named is None else named)})

    def _stairs(self, best: list[Gained]) -> None:
        x = [one.n_bytes for one in best] + [self.ax.get_xlim()[1]]
        y = [one.middle for one in best]
        self.ax.step(x, [*y, y[-1]], where="post", color=INK, linewidth=1, linestyle=":")
