"""Kernels: the tiles of scores that each program computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from attncourse.plots.base import (
    PALE,
    TILE_COLOURS,
    cell_ticks,
    figure,
    freeze,
    in_unit,
    set_title,
    styled,
)


class LiveTiles:
    """The tiles of scores that each program of a Triton kernel computes.

    Attributes:
        programs: How many there are, for a slider.
    """

    @styled
    def __init__(
        self,
        trace: Any,
        *,
        queries: str = "q",
        keys: str = "k",
        title: str = "",
        in_step: bool = False,
    ):
        """Lay out the scores between the queries' rows and the keys' columns.

        Args:
            trace: What `attncourse.trace.record` returned. If several kernels ran, the first one
                that loads both tensors is shown.
            queries: The tensor whose rows are the queries.
            keys: The tensor whose rows are the keys.
            title: In words.
            in_step: A tile of keys meets only the tile of queries that was loaded last, as in a
                scan; else each tile of keys meets all queries of its program.

        Raises:
            ValueError: No kernel of the trace loads both.
        """
        fitting = [run for run in trace.launches if {queries, keys} <= run.shapes.keys()]
        if not fitting:
            raise ValueError(f"plots.LiveTiles: no kernel of the trace has {queries} and {keys}")
        launch = fitting[0]
        self.queries, self.keys, self.title, self.in_step = queries, keys, title, in_step
        self.accesses: dict[tuple[int, int, int], list] = {}
        for access in trace.accesses:
            if access.kernel == launch.kernel:
                self.accesses.setdefault(access.program, []).append(access)
        self.places = sorted(self.accesses, key=lambda place: place[::-1])
        self.programs = len(self.places)
        shape = launch.shapes[queries][-2], launch.shapes[keys][-2]
        self.figure, axes = figure(
            2, 2, width=5.2, height=4.8, width_ratios=(1, 14), height_ratios=(1, 14)
        )
        (corner, above), (left, middle) = axes
        corner.remove()
        self.scores = self._image(middle, shape)
        self.key_strip = self._image(above, (1, shape[1]))
        self.query_strip = self._image(left, (shape[0], 1))
        middle.add_collection(
            LineCollection(
                [((-0.5, r - 0.5), (shape[1] - 0.5, r - 0.5)) for r in self._edges(queries)]
                + [((c - 0.5, -0.5), (c - 0.5, shape[0] - 0.5)) for c in self._edges(keys)],
                colors="white",
                linewidths=1.0,
            ),
            autolim=False,
        )
        middle.set(xticks=cell_ticks(shape[1]), yticks=[], xlabel="key j")
        above.set(xticks=[], yticks=[0], yticklabels=[keys])
        left.set(xticks=[0], xticklabels=[queries], yticks=cell_ticks(shape[0]), ylabel="query i")
        self.figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=PALE, label=word)
                for colour, word in zip(
                    TILE_COLOURS[::-1],
                    ("this program", "earlier ones", "never or later"),
                    strict=True,
                )
            ],
            loc="outside lower center",
            ncols=3,
            fontsize=9,
            handlelength=1.0,
        )
        self.ax = above
        self.update(0)
        freeze(self.figure)

    @staticmethod
    def _image(ax: Axes, shape: tuple[int, int]) -> Any:
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color(PALE)
        return ax.imshow(
            np.zeros(shape),
            cmap=ListedColormap(TILE_COLOURS),
            vmin=0,
            vmax=2,
            interpolation="nearest",
            aspect="auto",
        )

    def update(self, program: int) -> None:
        """Show the program with this number; they count from 0 in launch order."""
        here = self.places[program]
        scores = np.zeros(self.scores.get_array().shape)
        for place in self.places[: program + 1]:
            if place[1:] == here[1:]:  # the same head of the same text
                for rows, columns in self._pairs(place):
                    scores[slice(*rows), slice(*columns)] = 2 if place == here else 1
        self.scores.set_data(scores)
        self.key_strip.set_data(self._marked(here, self.keys, scores.shape[1])[None])
        self.query_strip.set_data(self._marked(here, self.queries, scores.shape[0])[:, None])
        set_title(self.ax, f"{self.title or 'Tiles'}: program {program} of {self.programs}")

    def draw(self, program: int) -> str:
        """Show a program and say what it does; made for `widgets.explore`."""
        self.update(program)
        accesses = self.accesses[self.places[program]]
        loads = [access for access in accesses if access.kind == "load"]
        read = in_unit(sum(access.bytes for access in loads), "bytes")
        written = in_unit(
            sum(access.bytes for access in accesses) - sum(a.bytes for a in loads), "bytes"
        )
        tiles = {name: 0 for name in dict.fromkeys(access.tensor for access in loads)}
        for access in loads:
            tiles[access.tensor] += 1
        counts = ", ".join(f"{number} of {name}" for name, number in tiles.items())
        return (
            f"Program {program} of {self.programs} loads {read} (tiles: {counts}) "
            f"and stores {written}."
        )

    def _edges(self, tensor: str) -> set[int]:
        """Return where the tiles of a tensor begin, if they are few enough to be seen."""
        edges = {rows[0] for place in self.places for rows in self._rows(place, tensor)}
        return edges if len(edges) <= 64 else set()

    def _pairs(self, place: tuple[int, int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return the (rows, columns) of the scores that a program computes."""
        if not self.in_step:
            return list(
                itertools.product(self._rows(place, self.queries), self._rows(place, self.keys))
            )
        pairs, rows = [], None
        for access in self.accesses[place]:
            if access.tensor == self.queries:
                rows = access.rows
            elif access.tensor == self.keys and rows and access.rows:
                pairs.append((rows, access.rows))
        return pairs

    def _rows(self, place: tuple[int, int, int], tensor: str) -> list[tuple[int, int]]:
        found = (access.rows for access in self.accesses[place] if access.tensor == tensor)
        return [rows for rows in found if rows is not None]

    def _marked(self, place: tuple[int, int, int], tensor: str, size: int) -> np.ndarray:
        marked = np.zeros(size)
        for rows in self._rows(place, tensor):
            marked[slice(*rows)] = 2
        return marked


@styled
def tiles(trace: Any, program: int = 0, **words: Any) -> Axes:
    """Draw the tiles of scores of one program; arguments as in `LiveTiles`."""
    live = LiveTiles(trace, **words)
    live.update(program)
    return live.ax
