"""A kernel played access by access: its programs, the tiles they touch, the bytes so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Patch, Rectangle

from attncourse.plots.base import (
    ACCENT,
    INK,
    PALE,
    PAPER,
    TILE_COLOURS,
    figure,
    freeze,
    in_unit,
    set_title,
    styled,
)

OTHERS, NOW, OURS = TILE_COLOURS[1], INK, ACCENT
KINDS = {"now": NOW, "this program, before": OURS, "others, before": OTHERS, "not yet": PAPER}
WIDE, HIGH = 12.0, 5.2  # of the stage, in its own units
VERBS = {"load": "loads", "store": "stores", "atomic": "adds to"}


class LiveRun:
    """The programs of a kernel at work, from a trace: who touches which tile, and what it costs.

    Left stands the grid of programs, beside it each tensor; below, the bytes that have moved, and
    a mark at the least possible: each tensor once.

    Attributes:
        steps: How many accesses the longest run has, for a slider.
    """

    @styled
    def __init__(self, runs: Mapping[str, Any]):
        """Draw the beginning of the first run.

        Args:
            runs: Name -> what `attncourse.trace.record` returned. Of each, the first kernel.

        Raises:
            ValueError: There is no run, or one without a kernel.
        """
        if not runs or not all(trace.launches for trace in runs.values()):
            raise ValueError(f"plots.LiveRun: each run needs a kernel, got {list(runs) or 'none'}")
        self.runs = {name: _Run(trace) for name, trace in runs.items()}
        self.steps = max(len(run.accesses) for run in self.runs.values())
        self.figure, (self.ax, self.below) = figure(
            2, 1, width=7.6, height=4.6, height_ratios=(6, 1)
        )
        for ax, high in ((self.ax, HIGH), (self.below, 1)):
            ax.set(xlim=(0, WIDE), ylim=(0, high), xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        self.below.add_patch(Rectangle((0, 0.1), WIDE, 0.36, facecolor=PAPER, edgecolor=PALE))
        self.bar = self.below.add_patch(Rectangle((0, 0.1), 0, 0.36, facecolor=ACCENT))
        (self.mark,) = self.below.plot([0, 0], [0, 0.6], color=INK, linewidth=2, clip_on=False)
        self.least = self.below.text(0, 0.66, "", va="bottom", fontsize=9)
        self.figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=PALE, label=word)
                for word, colour in KINDS.items()
            ],
            loc="outside lower center", ncols=4, fontsize=9, handlelength=1.0,
        )  # fmt: skip
        self.stage: _Stage | None = None
        self.update(next(iter(runs)), 0)
        freeze(self.figure)

    def update(self, name: str, step: int) -> None:
        """Show the moment after so many accesses of a run; more than it has are its end."""
        run = self.runs[name]
        if self.stage is None or self.stage.run is not run:
            if self.stage:
                self.stage.remove()
            self.stage = _Stage(self.ax, run)
        done = run.accesses[:step]
        self.stage.paint(done)
        moved, most = run.moved(done), max(run.moved(run.accesses), run.least)
        self.bar.set_width(WIDE * moved / most)
        at = WIDE * run.least / most
        self.mark.set_xdata([at, at])
        self.least.set(
            x=at, ha="right" if at > WIDE / 2 else "left",
            text=f" each tensor once: {in_unit(run.least, 'bytes')} ",
        )  # fmt: skip
        set_title(self.ax, f"{name}: step {len(done)} of {len(run.accesses)}")

    def draw(self, step: int, kernel: str = "") -> str:
        """Show a moment and say what it is; made for `widgets.explore`."""
        name = kernel or next(iter(self.runs))
        self.update(name, step)
        run = self.runs[name]
        done = run.accesses[:step]
        if not done:
            return f"{name}: {math.prod(run.grid)} programs, and nothing has moved."
        last, moved = done[-1], run.moved(done)
        place = run.place(last.program)
        said = f"Program {place} {VERBS[last.kind]} {last.tensor}, {in_unit(last.bytes, 'bytes')}."
        if len(done) == len(run.accesses):
            return f"{said} The end: {moved / run.least:.2f} times the least possible."
        return f"{said} So far {in_unit(moved, 'bytes')}."


class _Run:
    """What one kernel of a trace did."""

    def __init__(self, trace: Any):
        launch = trace.launches[0]
        self.grid = launch.grid
        self.accesses = [one for one in trace.accesses if one.kernel == launch.kernel]
        touched = dict.fromkeys(one.tensor for one in self.accesses)
        self.shapes = {name: launch.shapes[name] for name in touched if name in launch.shapes}
        once = {
            (one.tensor, way): one.bytes // one.elements * math.prod(self.shapes[one.tensor])
            for one in self.accesses
            if one.elements and one.tensor in self.shapes
            for way in _ways(one)
        }
        self.least = sum(once.values())

    @staticmethod
    def moved(accesses: list) -> int:
        return sum(one.bytes * len(_ways(one)) for one in accesses)

    def place(self, program: tuple[int, int, int]) -> str:
        """Return a program as its kernel knows it, by as many numbers as its grid has axes."""
        axes = max((i + 1 for i in range(3) if self.grid[i] > 1), default=1)
        return str(program[0]) if axes == 1 else str(tuple(program[:axes]))


def _ways(access: Any) -> tuple[str, ...]:
    return ("read", "written") if access.kind == "atomic" else (access.kind,)


class _Stage:
    """The grid and the tensors of one run."""

    def __init__(self, ax: Axes, run: _Run):
        self.ax, self.run, self.drawn, self.corner = ax, run, [], {}
        across, down = run.grid[1] * run.grid[2], run.grid[0]
        shapes = {"programs": (down, across)} | {
            name: (math.prod(shape[:-1]), shape[-1]) for name, shape in run.shapes.items()
        }
        room = WIDE / len(shapes)
        longest = max(max(shape) for name, shape in shapes.items() if name != "programs")
        for number, (name, (rows, columns)) in enumerate(shapes.items()):
            unit = (HIGH - 1.2) / max(longest, 1)
            wide, high = (
                (min(0.62 * room, 0.5 * columns), min(HIGH - 1.2, 0.5 * rows))
                if name == "programs"
                else (max(0.16, min(0.82 * room, unit * columns)), max(0.16, unit * rows))
            )
            if rows == 1 and name != "programs":  # a vector stands upright, as its programs do
                wide, high = 0.5, HIGH - 1.2
            left, top = number * room + (0.9 * room - wide) / 2, HIGH - 0.75
            self.corner[name] = (left, top, wide, high, rows, columns)
            face = self._add(Rectangle((left, top - high), wide, high, facecolor=PAPER, lw=0))
            face.set_zorder(0)
            size = "" if name == "programs" else "\n" + " × ".join(map(str, run.shapes[name]))
            self.drawn.append(
                ax.text(left + wide / 2, HIGH - 0.62, name + size, ha="center", fontsize=9)
            )
        self.layers = [PatchCollection([]) for _ in range(3)]
        for collection, colour in zip(self.layers, (OTHERS, OURS, NOW), strict=True):
            collection.set(facecolor=colour, edgecolor="white", linewidth=0.6)
            ax.add_collection(collection, autolim=False)
            self.drawn.append(collection)

    def _add(self, patch: Rectangle) -> Rectangle:
        self.drawn.append(self.ax.add_patch(patch))
        return patch

    def remove(self) -> None:
        for artist in self.drawn:
            artist.remove()

    def paint(self, done: list) -> None:
        ours = [one for one in done if one.program == done[-1].program]
        now = ours[-1:]
        for collection, accesses in zip(self.layers, (done, ours, now), strict=True):
            boxes = {self._box(one) for one in accesses}
            if accesses is not ours:
                boxes |= {self._square(one.program) for one in accesses}
            collection.set_paths([Rectangle((x, y), w, h) for x, y, w, h in boxes - {None}])

    def _square(self, program: tuple[int, int, int]) -> tuple[float, ...]:
        x, y, z = program
        column = y * self.run.grid[2] + z
        return self._part("programs", (x, x + 1), (column, column + 1))

    def _box(self, access: Any) -> tuple[float, ...] | None:
        if access.tensor not in self.corner or access.columns is None:
            return None
        rows = access.rows or (0, self.corner[access.tensor][4])
        return self._part(access.tensor, rows, access.columns)

    def _part(self, name: str, rows: tuple[int, int], columns: tuple[int, int]):
        left, top, wide, high, n_rows, n_columns = self.corner[name]
        if n_rows == 1 and name != "programs":
            rows, columns, n_rows, n_columns = columns, (0, 1), n_columns, 1
        (first, last), (start, stop) = rows, columns
        return (
            left + wide * start / n_columns,
            top - high * last / n_rows,
            wide * (stop - start) / n_columns,
            high * (last - first) / n_rows,
        )
