"""Matrices: heat maps, masks with their counts, masks as graphs, reach over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from attncourse.catalogue import MECHANISMS
from attncourse.plots.base import (
    ACCENT,
    INK,
    LINES,
    MASK_COLOURS,
    PALE,
    PAPER,
    SERIES,
    TILE_COLOURS,
    cell_step,
    cell_ticks,
    figure,
    freeze,
    set_title,
    styled,
)

KIND_COLOURS = ListedColormap(TILE_COLOURS)


class LiveHeatmap:
    """A matrix as coloured cells; `update` exchanges the matrix.

    A boolean matrix shows True dark, whatever it means; where cells are smaller than pixels, the
    shade is their density.
    """

    @styled
    def __init__(
        self,
        matrix: np.ndarray,
        ax: Axes | None = None,
        *,
        title: str = "",
        x: str = "key j",
        y: str = "query i",
        label: str = "",
        low: float | None = None,
        high: float | None = None,
        words: tuple[str, ...] = ("masked", "may attend"),
    ):
        """Draw the first matrix.

        Args:
            matrix: (rows, columns), bool or numbers.
            ax: Where; an own figure if not given.
            title: In words.
            x: What the columns are.
            y: What the rows are.
            label: What the colour means; for numbers.
            low: Value of the darkest colour; the smallest number if not given.
            high: Value of the lightest colour.
            words: What False and True mean, or three words: what 0, 1 and 2 mean. They are a
                legend, under a matrix in its own figure.
        """
        matrix = np.asarray(matrix)
        is_mask, has_kinds = matrix.dtype == bool, len(words) == 3
        if has_kinds:
            low, high = 0, 2
        if ax is None:
            fig, ax = figure(width=5.2, height=4.8)
            if is_mask or has_kinds:
                mask_legend(fig, words, loc="outside lower center")
        self.ax, self.figure = ax, ax.get_figure()
        self.image = ax.imshow(
            _floats(matrix),
            cmap=MASK_COLOURS if is_mask else KIND_COLOURS if has_kinds else "viridis",
            vmin=0 if is_mask else low,
            vmax=1 if is_mask else high,
            interpolation="nearest" if has_kinds else "auto",
            interpolation_stage="data",
            aspect="auto",
        )
        self.lines = LineCollection([], colors="white", linewidths=1.0)
        ax.add_collection(self.lines, autolim=False)
        ax.set(xlabel=x, ylabel=y)
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color(PALE)
        set_title(ax, title)
        if not (is_mask or has_kinds):
            bar = self.figure.colorbar(self.image, ax=ax, label=label, shrink=0.85, pad=0.02)
            bar.outline.set_visible(False)
        # Other shapes come into the same box: what a slider moves must not jump.
        ax.set_box_aspect(float(np.clip(matrix.shape[0] / matrix.shape[1], 0.4, 1.6)))
        self.shape = ()
        self._resize(matrix.shape)

    def update(self, matrix: np.ndarray, title: str | None = None) -> None:
        """Show another matrix; its shape may differ."""
        matrix = np.asarray(matrix)
        self.image.set_data(_floats(matrix))
        self._resize(matrix.shape)
        if title is not None:
            set_title(self.ax, title)

    def _resize(self, shape: tuple[int, ...]) -> None:
        if shape == self.shape:
            return
        self.shape = shape
        rows, columns = shape
        self.image.set_extent((-0.5, columns - 0.5, rows - 0.5, -0.5))
        self.ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        self.ax.set_xticks(cell_ticks(columns))
        self.ax.set_yticks(cell_ticks(rows))
        edges = []
        if max(shape) <= 32:
            edges += [((c - 0.5, -0.5), (c - 0.5, rows - 0.5)) for c in range(1, columns)]
            edges += [((-0.5, r - 0.5), (columns - 0.5, r - 0.5)) for r in range(1, rows)]
        self.lines.set_segments(edges)


def heatmap(matrix: np.ndarray, ax: Axes | None = None, **words: Any) -> Axes:
    """Draw a matrix as coloured cells; arguments as in `LiveHeatmap`."""
    return LiveHeatmap(matrix, ax, **words).ax


@styled
def mask_legend(
    fig: Figure,
    words: tuple[str, ...] = ("masked", "may attend"),
    loc: str = "outside upper left",
) -> None:
    """Say beside the masks of a figure what light and dark mean.

    Args:
        fig: The figure.
        words: What False and True mean, or 0, 1 and 2.
        loc: Where, as in `Figure.legend`.
    """
    colours = TILE_COLOURS if len(words) == 3 else (PAPER, INK)
    fig.legend(
        handles=[
            Patch(facecolor=colour, edgecolor=PALE, label=word)
            for colour, word in zip(colours[::-1], words[::-1], strict=True)
        ],
        loc=loc,
        ncols=len(words),
        fontsize=9,
        handlelength=1.0,
    )


class LiveMask:
    """A mask, and beside it how many keys each query has."""

    @styled
    def __init__(self, mask: np.ndarray, *, title: str = ""):
        """Draw the first mask, bool (Tq, Tk)."""
        self.figure, (left, right) = figure(1, 2, height=4.4, width_ratios=(2.6, 1))
        self.heatmap = LiveHeatmap(mask, left, title=title)
        mask_legend(self.figure)
        self.counts = right
        rows, counts = self._outline(mask)
        self.area = right.fill_betweenx(rows, 0, counts, color=ACCENT, alpha=0.25, linewidth=0)
        (self.line,) = right.plot(counts, rows, color=SERIES[0], linewidth=1.5)
        right.set(xlabel="keys of query i", yticks=[])  # the rows are those of the mask
        right.grid(axis="x")
        self.update(mask, title)
        freeze(self.figure)

    def update(self, mask: np.ndarray, title: str | None = None) -> None:
        """Show another mask; its shape may differ."""
        self.heatmap.update(mask, title)
        rows, counts = self._outline(mask)
        self.line.set_data(counts, rows)
        self.area.set_data(rows, 0, counts)
        most = max(1, int(counts.max(initial=0)))
        self.counts.set(xlim=(0, 1.15 * most), ylim=(len(mask) - 0.5, -0.5))
        self.counts.set_xticks([0, most])

    @staticmethod
    def _outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of the counts: each query is as high as its row of cells."""
        counts = mask.sum(axis=1)
        edges = np.arange(len(mask))[:, None] + (-0.5, 0.5)
        return edges.ravel(), np.repeat(counts, 2)


class LiveGraph:
    """A mask as a graph: queries above, keys below, a line for each pair that may attend."""

    @styled
    def __init__(self, mask: np.ndarray, ax: Axes | None = None, *, title: str = ""):
        """Draw the first mask, bool (Tq, Tk); up to 64 tokens stay readable."""
        if ax is None:
            _, ax = figure(height=2.6)
        self.ax, self.figure = ax, ax.get_figure()
        self.edges = LineCollection([], colors=[INK], linewidths=1.0, zorder=1)
        ax.add_collection(self.edges, autolim=False)
        self.nodes = ax.scatter([], [], s=[], zorder=2, linewidths=1.0)
        ax.set(ylim=(-0.15, 1.15), yticks=[0, 1], yticklabels=["keys j", "queries i"])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        set_title(ax, title)
        self.update(mask)

    def update(self, mask: np.ndarray, query: int | None = None, title: str | None = None) -> None:
        """Show another mask, with the keys of one query picked out if it is given."""
        n_queries, n_keys = mask.shape
        # The last query stands above the last key.
        query_x = np.arange(n_queries) + (n_keys - n_queries)
        i, j = np.nonzero(mask)
        chosen = np.ones(len(i), dtype=bool) if query is None else i == query
        order = np.argsort(chosen, kind="stable")  # what is picked out lies on top
        i, j, chosen = i[order], j[order], chosen[order]
        self.edges.set_segments(
            np.stack([np.stack([query_x[i], np.ones(len(i))], -1), np.stack([j, 0 * j], -1)], 1)
        )
        strength = 1.0 if query is not None else float(np.clip(6 * n_keys / (len(i) + 1), 0.25, 1))
        self.edges.set_color([(*INK[:3], strength) if one else (*INK[:3], 0.13) for one in chosen])
        seen = np.zeros(n_keys, dtype=bool) if query is None else mask[query]
        asks = np.arange(n_queries) == query
        self.nodes.set_offsets(
            np.concatenate(
                [
                    np.stack([query_x, np.ones(n_queries)], -1),
                    np.stack([np.arange(n_keys), np.zeros(n_keys)], -1),
                ]
            )
        )
        self.nodes.set_sizes([float(np.clip(2400 / max(mask.shape), 12, 110))])
        self.nodes.set_facecolor([INK if on else PAPER for on in (*asks, *seen)])
        self.nodes.set_edgecolor([INK])
        first = min(0, n_keys - n_queries)
        self.ax.set_xlim(first - 0.7, n_keys - 0.3)
        self.ax.set_xticks(cell_ticks(n_keys))
        if title is not None:
            set_title(self.ax, title)


def graph(mask: np.ndarray, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw a mask bool (Tq, Tk) as a graph: queries above, keys below."""
    return LiveGraph(mask, ax, title=title).ax


@styled
def arcs(
    n: int,
    query: int,
    parts: Mapping[str, Sequence[int]],
    ax: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """Draw n tokens in a row, and an arc from one query to each of its keys.

    Args:
        n: Tokens; up to 64 stay readable.
        query: Whose keys are drawn.
        parts: For each part of the pattern its keys; a key of two parts gets two arcs. A part
            without keys keeps its style from the next, so that two pictures can share styles.
        ax: Where; an own figure if not given.
        title: In words.
    """
    if ax is None:
        _, ax = figure(height=2.6)
    turn = np.linspace(0, np.pi, 40)
    for place, (part, keys) in enumerate(parts.items()):
        style = {"color": SERIES[place], "linestyle": LINES[place], "linewidth": 1.5}
        for number, key in enumerate(keys):
            middle, radius = (query + key) / 2, abs(query - key) / 2
            height = np.sqrt(radius * n) / 2 * np.sin(turn)  # near keys stay visible
            label = part if number == 0 else None
            ax.plot(middle + radius * np.cos(turn), height, label=label, **style)
    seen = {query}.union(*parts.values())
    ax.scatter(
        np.arange(n), np.zeros(n), s=float(np.clip(2400 / n, 12, 110)), zorder=3, linewidths=1.0,
        color=[INK if token in seen else PAPER for token in range(n)], edgecolor=[INK],
    )  # fmt: skip
    ax.annotate(
        "query", (query, 0), (0, -9), textcoords="offset points", ha="center", va="top", fontsize=9
    )
    ax.set(xlim=(-0.7, n - 0.3), ylim=(-0.08 * n, None), yticks=[], xlabel="key j")
    ax.set_xticks(cell_ticks(n))
    ax.spines[:].set_visible(False)
    set_title(ax, title)
    ax.legend(loc="upper right", ncols=len(parts), fontsize=9)
    return ax


class LiveReach:
    """Which tokens reach one query after 0, 1, 2 … layers: a row for each layer."""

    @styled
    def __init__(self, reached: np.ndarray, ax: Axes | None = None, *, title: str = ""):
        """Draw the first reach, bool (layers + 1, tokens); row 0 is the token itself."""
        if ax is None:
            fig, ax = figure(height=3.2)
            mask_legend(fig, ("not yet", "reaches the query"), loc="outside lower center")
        self.heatmap = LiveHeatmap(reached, ax, title=title, x="token j", y="after layer")
        self.ax, self.figure = ax, ax.get_figure()
        self.heatmap.image.set_interpolation("nearest")
        ax.set_box_aspect(None)
        self.counts: list = []
        self.update(reached)

    def update(self, reached: np.ndarray, title: str | None = None) -> None:
        """Show another reach; layers and tokens may differ."""
        self.heatmap.update(reached, title)
        self.ax.set_ylim(-0.5, len(reached) - 0.5)  # layers are stacked upwards
        for text in self.counts:
            text.remove()
        tokens = reached.shape[1]
        step = cell_step(len(reached), 12)
        self.counts = [
            self.ax.annotate(
                f"{reached[layer].sum()} of {tokens}",
                (1, layer),
                (6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
            for layer in range(0, len(reached), step)
        ]


def reach(reached: np.ndarray, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw which tokens reach a query after each layer, bool (layers + 1, tokens)."""
    return LiveReach(reached, ax, title=title).ax


@styled
def heads(maps: np.ndarray, titles: Mapping[tuple[int, int], str]) -> Figure:
    """Draw the attention map of every head, a row of pictures for each layer, all on one scale.

    The colour follows the square root of the weight: on an even scale one weight of 1 would leave
    all that is below a tenth equally dark.

    Args:
        maps: (n_layers, H, T, T), weights from 0 to 1.
        titles: For each (layer, head) what stands above it.
    """
    rows, columns = maps.shape[:2]
    fig, axes = figure(rows, columns, width=7.5, height=0.4 + 1.35 * rows, squeeze=False)
    norm = PowerNorm(0.5, 0, 1)
    for place, ax in np.ndenumerate(axes):
        image = ax.imshow(maps[place], norm=norm, cmap="viridis", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(titles[place], loc="left", fontsize=9, pad=3)
        ax.spines[:].set_visible(False)
    bar = fig.colorbar(image, ax=axes, label="weight", shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1], labels=["0", "0.01", "0.1", "0.25", "0.5", "1"])
    fig.supxlabel("key j", fontsize=10)
    fig.supylabel("query i", fontsize=10)
    return fig


def gallery(n: int = 64) -> Figure:
    """Draw the masks of the catalogue at n tokens: full attention's, and all that hide pairs."""
    drawn = {}
    for mechanism in (one for one in MECHANISMS.values() if "mask" in one.has):
        knobs = {}
        for knob in mechanism.knobs:  # small: there are eight blocks at most
            most = 1 if knob.name.endswith("_blocks") else n // 8
            knobs[knob.name] = max(knob.low, min(knob.value, most))
        mask = mechanism.reference.mask(n, n, **knobs)
        if mechanism.stem == "full" or not mask.all():
            drawn[mechanism.title.partition(" (")[0]] = mask
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    fig, axes = figure(rows, columns, width=2.3 * columns, height=2.75 * rows, squeeze=False)
    for ax in axes.flat[len(drawn) :]:
        ax.remove()
    for (title, mask), ax in zip(drawn.items(), axes.flat, strict=False):
        heatmap(mask, ax)
        ax.set_title(title, loc="left", fontsize=9)
        ax.label_outer()
    mask_legend(fig, loc="outside lower center")
    return fig


def _floats(matrix: np.ndarray) -> np.ndarray:
    """Return what imshow can blend: a mask as 0 and 1."""
    return matrix.astype(np.float32) if matrix.dtype == bool else matrix
