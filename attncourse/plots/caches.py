"""What a cache keeps: of one token, to scale, and of many texts, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from attncourse.plots.base import INK, PALE, PAPER, TILE_COLOURS, figure, set_title, styled

_cividis, _viridis = matplotlib.colormaps["cividis"], matplotlib.colormaps["viridis"]
KINDS = {
    "key": INK,
    "value": TILE_COLOURS[1],
    "latent": _cividis(0.72),
    "turned": _cividis(0.4),
}
Floor = Sequence[tuple[str, int]]  # what lies side by side: kind and width


class LiveKept:
    """What is kept of one token: a tower for each way, a floor for each head that has its own.

    All is drawn to one scale: an area is a number of numbers. `update` exchanges the towers.
    """

    @styled
    def __init__(self, towers: Mapping[str, tuple[int, Floor]], *, high: int, wide: int = 640):
        """Draw the first towers.

        Args:
            towers: Name -> (floors, what lies on each of them), of kinds "key", "value", "latent"
                and "turned".
            high: Floors of the highest tower that will be shown.
            wide: Numbers on the widest floor that will be shown.
        """
        self.figure, self.axes = figure(1, len(towers), width=8.4, height=4.2, sharey=True)
        self.parts: dict[str, PolyCollection] = {}
        for ax, name in zip(self.axes, towers, strict=True):
            self.parts[name] = PolyCollection([], linewidth=0)
            ax.add_collection(self.parts[name], autolim=False)
            ax.set(xlim=(0, wide), ylim=(-0.02 * high, 1.02 * high), xticks=[])
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0, labelleft=False)
            set_title(ax, name)
        said = {
            "key": "key",
            "value": "value",
            "latent": "latent",
            "turned": "key turned by position",
        }
        handles = [Patch(facecolor=KINDS[kind], label=word) for kind, word in said.items()]
        self.figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)
        self.update(towers)

    def update(self, towers: Mapping[str, tuple[int, Floor]]) -> None:
        """Show other towers of the same names."""
        for ax, (name, (floors, floor)) in zip(self.axes, towers.items(), strict=True):
            corners, colours = [], []
            gap = 0.12 if floors <= 48 else 0.0
            for level in range(floors):
                left = 0
                for kind, width in floor:
                    right, top = left + width, level + 1 - gap
                    corners.append([(left, level), (right, level), (right, top), (left, top)])
                    colours.append(KINDS[kind])
                    left = right
            self.parts[name].set_verts(corners)
            self.parts[name].set_facecolor(colours)
            numbers = floors * sum(width for _, width in floor)
            ax.set_xlabel(f"{numbers:,} numbers")


class LivePool:
    """A pool of pages and who has them; below, the same texts in one stretch each.

    A column is a page, a cell in it the room of one token. A page says its number; dark cells hold
    tokens, pale ones are room that the page's owner has not filled, white pages are free, hatched
    ones belong to several. On the left, the block table: the pages of each text in order.
    """

    @styled
    def __init__(self, n_pages: int, page: int, names: Sequence[str], *, reserved: int):
        """Draw an empty pool.

        Args:
            n_pages: Pages of the pool.
            page: Tokens in a page.
            names: Of the texts.
            reserved: Tokens that a stretch without pages reserves for each text.
        """
        self.n_pages, self.page, self.names, self.reserved = n_pages, page, list(names), reserved
        self.figure, grid = figure(
            2, 2, width=8.4, height=4.4, width_ratios=(3, 7), height_ratios=(3, 1)
        )
        (self.table, self.ax), (nothing, self.line) = grid
        nothing.axis("off")
        self.table.axis("off")
        colours = [_viridis(x) for x in np.linspace(0.1, 0.85, max(2, len(names)))]
        self.colours = {name: colours[place] for place, name in enumerate(names)}
        self.cells = PolyCollection([], edgecolor="white", linewidth=0.6)
        self.shared = PolyCollection([], facecolor="none", edgecolor=INK, linewidth=2.2)
        self.stretches = PolyCollection([], edgecolor="white", linewidth=0.3)
        for ax, parts in (
            (self.ax, self.cells),
            (self.ax, self.shared),
            (self.line, self.stretches),
        ):
            ax.add_collection(parts, autolim=False)
        self.ax.set(xlim=(-0.6, n_pages - 0.4), ylim=(page + 0.1, -1.1), xticks=[], yticks=[])
        self.numbers = [
            self.ax.text(number, -0.55, str(number), ha="center", va="center", fontsize=8.5)
            for number in range(n_pages)
        ]
        self.rows = [
            self.table.text(
                0.0, 0.86 - 0.17 * place, "", fontsize=9, transform=self.table.transAxes
            )
            for place in range(len(names))
        ]
        self.line.set(xlim=(0, reserved * len(names)), ylim=(1, 0), xticks=[], yticks=[])
        for ax in (self.ax, self.line):
            ax.spines[:].set_visible(False)
        set_title(self.table, "block table")
        set_title(self.ax, f"pool of {n_pages} pages, {page} tokens each")
        set_title(self.line, "without pages: each text reserves its longest")

    @styled
    def update(
        self, pages: Mapping[str, Sequence[int]], lengths: Mapping[str, int], title: str = ""
    ) -> None:
        """Show another moment.

        Args:
            pages: For each text that is there, its pages in order.
            lengths: Its tokens.
            title: What has just happened.
        """
        owner: dict[int, str] = {}
        filled = dict.fromkeys(range(self.n_pages), 0)
        holders = dict.fromkeys(range(self.n_pages), 0)
        for name, numbers in pages.items():
            for place, number in enumerate(numbers):
                owner.setdefault(number, name)
                holders[number] += 1
                there = min(self.page, lengths[name] - place * self.page)
                filled[number] = max(filled[number], there)
        corners, colours = [], []
        for number in range(self.n_pages):
            for slot in range(self.page):
                corners.append(_cell(number - 0.42, slot, 0.84, 1))
                colour = self.colours[owner[number]] if number in owner else "#ffffff"
                full = number in owner and slot < filled[number]
                colours.append(colour if full else PALE if number in owner else PAPER)
        self.cells.set_verts(corners)
        self.cells.set_facecolor(colours)
        several = [_cell(n - 0.45, -0.04, 0.9, self.page + 0.08) for n in holders if holders[n] > 1]
        self.shared.set_verts(several)
        for text, name in zip(self.rows, self.names, strict=True):
            numbers = pages.get(name)
            said = " ".join(map(str, numbers)) if numbers else "nothing"
            text.set_text(f"{name}: {said}" if numbers is not None else f"{name}: not here")
            text.set_color(self.colours[name] if numbers is not None else "#999999")
        stretches, shades = [], []
        for place, name in enumerate(self.names):
            used = lengths.get(name, 0)
            left = place * self.reserved
            stretches += [
                _cell(left, 0.1, used, 0.8),
                _cell(left + used, 0.1, self.reserved - used, 0.8),
            ]
            shades += [self.colours[name], PALE if name in lengths else PAPER]
        self.stretches.set_verts(stretches)
        self.stretches.set_facecolor(shades)
        if title:
            self.figure.suptitle(title, x=0.01, ha="left", fontsize=11)


def _cell(left: float, top: float, wide: float, high: float) -> list[tuple[float, float]]:
    return [(left, top), (left + wide, top), (left + wide, top + high), (left, top + high)]
