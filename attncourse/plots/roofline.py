"""The roofline of a device: what it can compute, by how often it uses each byte it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from attncourse.cost import Device
from attncourse.plots.base import INK, MARKERS, PALE, SERIES, figure, set_title, styled

LOW, HIGH = 0.1, 10_000  # FLOPs per byte
BESIDE = 3  # names that have room beside their points; more stand in a legend


class LiveRoofline:
    """FLOP/s over FLOPs per byte: the roof of a device, and works placed below it.

    A work stands at the FLOPs per byte that it needs. On the slope the memory is the limit, on the
    flat part the arithmetic.
    """

    @styled
    def __init__(
        self,
        device: Device,
        intensity: Mapping[str, float],
        measured: Mapping[str, float] | None = None,
        ax: Axes | None = None,
        *,
        title: str = "",
        low: float = 1e9,
        high: float = 3e15,
    ):
        """Draw the first device and works.

        Args:
            device: Whose roof.
            intensity: For each work its FLOPs per byte of main memory.
            measured: FLOP/s that some of the works reached; a work that has none stands on the
                roof, as high as it can come.
            ax: Where; an own figure if not given.
            title: In words.
            low: The axis starts at this many FLOP/s.
            high: The axis ends there.
        """
        if ax is None:
            _, ax = figure(height=4.0)
        self.ax, self.figure = ax, ax.get_figure()
        self.x = np.geomspace(LOW, HIGH, 200)
        (self.roof,) = ax.plot(self.x, np.ones_like(self.x), color=INK, linewidth=2.2)
        self.ridge = ax.axvline(1, color="#999999", linestyle=":", linewidth=1)
        self.ridge_text = ax.annotate(
            "", (1, low), (5, 8), textcoords="offset points", fontsize=8.5, color="#444444"
        )
        self.drops, self.points, self.texts = {}, {}, {}
        for place, name in enumerate(intensity):
            colour = SERIES[place % len(SERIES)]
            (self.drops[name],) = ax.plot([], [], color=PALE, linewidth=1, zorder=0)
            marker = MARKERS[place % len(MARKERS)]
            (self.points[name],) = ax.plot([], [], marker, color=colour, markersize=8, label=name)
            if len(intensity) <= BESIDE:
                self.texts[name] = ax.annotate(
                    "", (1, 1), (9, -13), textcoords="offset points", fontsize=9, color="#222222"
                )
        if not self.texts:
            ax.legend(loc="lower right", fontsize=8.5)
        ax.set(xscale="log", yscale="log", xlim=(LOW, HIGH), ylim=(low, high))
        ax.set(xlabel="FLOPs per byte moved", ylabel="FLOPs per second")
        ax.yaxis.set_major_locator(LogLocator(base=10, numticks=9))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_major_formatter(FuncFormatter(_rate))
        ax.grid(axis="both")
        set_title(ax, title)
        self.update(device, intensity, measured)

    def update(
        self,
        device: Device,
        intensity: Mapping[str, float],
        measured: Mapping[str, float] | None = None,
        title: str | None = None,
    ) -> None:
        """Show another device, or the same works at another place."""
        self.roof.set_ydata(attainable(device, self.x))
        ridge = device.flops_per_second / device.bytes_per_second
        self.ridge.set_xdata([ridge, ridge])
        self.ridge_text.xy = (ridge, self.ridge_text.xy[1])
        self.ridge_text.set_text(f"ridge: {ridge:.3g}")
        for name, x in intensity.items():
            top = float(attainable(device, x))
            y = (measured or {}).get(name, top)
            self.points[name].set_data([x], [y])
            self.drops[name].set_data([x, x], [y, top])
            if name in self.texts:
                self.texts[name].xy = (x, y)
                self.texts[name].set_text(name)
        if title is not None:
            set_title(self.ax, title)


def attainable(device: Device, intensity: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the most FLOP/s that a device can reach at so many FLOPs per byte."""
    return np.minimum(device.flops_per_second, np.asarray(intensity) * device.bytes_per_second)


def roofline(
    device: Device,
    intensity: Mapping[str, float],
    measured: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    **words: Any,
) -> Axes:
    """Draw a device's roof and works below it; arguments as in `LiveRoofline`."""
    return LiveRoofline(device, intensity, measured, ax, **words).ax


def _rate(value: float, _: int) -> str:
    for factor, unit in ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} FLOP/s"
