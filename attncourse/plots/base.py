"""What every picture shares: style, colours, ticks, units; and how a figure becomes a PNG."""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from attncourse.measure import Timing
from attncourse.units import format_bytes, format_seconds

DPI = 120  # one and a quarter pixels for each that a browser lays out: sharp, and still quick
CSS_DPI = 96  # a browser's pixels per inch

STYLE = {
    "font.size": 10,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
_viridis, _cividis = matplotlib.colormaps["viridis"], matplotlib.colormaps["cividis"]
SERIES = [_viridis(x) for x in (0.05, 0.5, 0.75, 0.28, 0.62, 0.88)]
MARKERS = "osD^vP"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
INK, PAPER, PALE = _cividis(0.0), "#f2f0e8", "#d9d6cc"
ACCENT = _viridis(0.55)
TILE_COLOURS = (PAPER, "#9ed9b0", INK)  # the middle one is viridis, half way to white
MASK_COLOURS = LinearSegmentedColormap.from_list("mask", [PAPER, _cividis(0.3), INK])


def spread_colours(count: int) -> list[tuple[float, ...]]:
    """Return so many colours of the map, as far apart as it has room for."""
    return [_viridis(x) for x in np.linspace(0.05, 0.88, count)]


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.5, height: float = 4.2, **grid: Any
) -> tuple[Figure, Any]:
    """Return a figure outside pyplot, and its Axes as `plt.subplots` does.

    Args:
        rows: Rows of Axes.
        columns: Columns of Axes.
        width: Inches; 7.5 are 720 pixels of a notebook.
        height: Inches.
        **grid: What `Figure.subplots` takes, such as `width_ratios`.
    """
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        return fig, fig.subplots(rows, columns, **grid)


def png(fig: Figure) -> bytes:
    """Return the figure as a PNG, as fast as it can be made."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()  # savefig would draw twice
    buffer = io.BytesIO()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def css_width(fig: Figure) -> int:
    """Return how wide a browser should show the figure, in its pixels."""
    return round(fig.get_figwidth() * CSS_DPI)


def caption(alt: str) -> dict[str, str]:
    """Return the words that stand below a picture, as plain text and as HTML."""
    style = "max-width:46em;color:var(--jp-ui-font-color2)"
    return {"text/plain": alt, "text/html": f'<p style="{style}">{html.escape(alt)}</p>'}


def show(picture: Figure | Axes, alt: str) -> None:
    """Display a figure and, below it, what it shows in words.

    JupyterLab gives a picture no alternative text, so the words stand under it for everyone. They
    are the output that nbval compares.

    Args:
        picture: A figure, or Axes of it.
        alt: One or two sentences: what a reader who sees the picture would take from it.
    """
    if get_ipython() is None:  # a terminal would print the bytes of the picture
        print(alt)
        return
    fig = picture.get_figure() if isinstance(picture, Axes) else picture
    metadata = {"image/png": {"alt": alt, "width": css_width(fig)}}
    display({"image/png": png(fig)}, metadata=metadata, raw=True)
    display(caption(alt), raw=True)


def styled(function: Callable) -> Callable:
    """Draw in this module's style and leave matplotlib's settings as they are."""

    @functools.wraps(function)
    def styled(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return styled


def freeze(fig: Figure) -> None:
    """Lay the figure out once and for all, so that a redraw need not."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")


def set_title(ax: Axes, text: str) -> None:
    """Put a title over the left edge, where reading begins."""
    ax.set_title(text, loc="left", fontsize=11, pad=8)


def cell_step(n: int, most: int = 6) -> int:
    """Return the power of two at which `n` cells get at most `most` ticks."""
    step = 1
    while n > most * step:
        step *= 2
    return step


def cell_ticks(n: int) -> np.ndarray:
    """Return where the axis over n cells has its ticks: multiples of a power of two."""
    return np.arange(0, n, cell_step(n))


def compact(number: float) -> str:
    """Return a length as people say it, with binary thousands: 512, 4 Ki, 1 Mi."""
    for factor, letter in ((2**20, "Mi"), (2**10, "Ki")):
        if number >= factor:
            return f"{number / factor:g} {letter}"
    return f"{number:g}"


def in_unit(value: float, unit: str) -> str:
    """Return a value with its unit, scaled to a readable size."""
    if unit == "s":
        return format_seconds(value)
    if unit == "bytes":
        return format_bytes(value).replace(".0 ", " ")
    digits = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
    return f"{digits} {unit}".strip()


def axis_words(unit: str) -> str:
    """Return what an axis in this unit shows."""
    return {"s": "time of one call", "bytes": "memory"}.get(unit, unit)


def unit_axis(ax: Axes, unit: str) -> None:
    """Put ticks on a logarithmic y axis: decades, or powers of 4 for bytes."""
    base = 4 if unit == "bytes" else 10
    ax.yaxis.set_major_locator(LogLocator(base=base, numticks=9))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))


def median_of(value: Timing | float) -> float:
    """Return the median of a `Timing`, or the number itself."""
    return value.median if isinstance(value, Timing) else value
