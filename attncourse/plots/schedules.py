"""A batch over time: which text is in which slot, and for whom a slot only waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from attncourse.plots.base import PALE, SERIES, figure, set_title, styled
from attncourse.serving import Span


class LiveSchedule:
    """Slots of a batch over time, one picture above the other for each way to fill them.

    A bar is a text that is read and written; the pale end of it is a slot that its batch still
    computes though its text is done. What is white is empty.
    """

    @styled
    def __init__(self, ways: Sequence[str], seconds: float):
        """Draw no slots.

        Args:
            ways: Names of the ways.
            seconds: Where the axis of time ends.
        """
        self.figure, axes = figure(len(ways), 1, width=8.0, height=4.4, sharex=True)
        self.axes = dict(zip(ways, axes, strict=True))
        self.bars: dict[str, tuple[PolyCollection, PolyCollection]] = {}
        for name, ax in self.axes.items():
            busy = PolyCollection([], edgecolor="white", linewidth=0.4)
            idle = PolyCollection([], facecolor=PALE, edgecolor="white", linewidth=0.4)
            for parts in (busy, idle):
                ax.add_collection(parts, autolim=False)
            self.bars[name] = busy, idle
            ax.set(xlim=(0, seconds), yticks=[], ylabel="slots")
            set_title(ax, name)
        axes[-1].set_xlabel("seconds")
        said = {"a text is written": SERIES[1], "done, but its batch is not": PALE}
        handles = [Patch(facecolor=colour, label=word) for word, colour in said.items()]
        self.figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=9)

    @styled
    def update(self, spans: Mapping[str, Sequence[Span]], titles: Mapping[str, str]) -> None:
        """Show other spans and titles of the same ways."""
        slots = 1 + max((one.slot for each in spans.values() for one in each), default=0)
        for name, each in spans.items():
            self.axes[name].set_ylim(slots, 0)
            busy, idle = self.bars[name]
            busy.set_verts([_bar(one.slot, one.start, one.done) for one in each])
            busy.set_facecolor([SERIES[one.request % len(SERIES)] for one in each])
            idle.set_verts([_bar(one.slot, one.done, one.stop) for one in each])
            set_title(self.axes[name], titles[name])


def _bar(slot: int, start: float, stop: float) -> list[tuple[float, float]]:
    return [(start, slot + 0.08), (stop, slot + 0.08), (stop, slot + 0.92), (start, slot + 0.92)]
