"""Bytes on their way: what steps of a kernel read and write, and what has travelled so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
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

Tile = tuple[str, int, int]
ABSENT, THERE, MOVING = ("#ffffff00", TILE_COLOURS[1], INK)


@dataclass(frozen=True)
class Move:
    """One step of a kernel.

    Attributes:
        kernel: The number of the kernel, from 1.
        reads: The tiles, (array, row, column), that come from the large memory.
        writes: The tiles that go back.
        registers: What is computed or kept on chip meanwhile, in a few words.
    """

    kernel: int
    reads: Sequence[Tile]
    writes: Sequence[Tile]
    registers: str


class LiveMoves:
    """Two or more ways to compute the same, side by side: HBM, SRAM, registers and a counter.

    Attributes:
        steps: How many the longest way has, for a slider.
    """

    @styled
    def __init__(
        self,
        ways: Mapping[str, Sequence[Move]],
        arrays: Mapping[str, tuple[int, int]],
        tile_bytes: Mapping[str, int],
        *,
        given: Sequence[str],
    ) -> None:
        """Draw the beginning.

        Args:
            ways: Name -> its steps.
            arrays: Name -> its tiles, (rows, columns), in the order in which they are drawn.
            tile_bytes: Name -> bytes of one of its tiles.
            given: The arrays that lie in HBM from the start.
        """
        self.ways, self.tile_bytes, self.given = dict(ways), dict(tile_bytes), set(given)
        self.steps = max(map(len, ways.values()))
        self.most = max(self._moved(moves) for moves in ways.values())
        self.figure, axes = figure(1, len(ways), width=8.4, height=4.3)
        self.scenes = [
            _Scene(ax, arrays, {tile[0] for move in moves for tile in (*move.reads, *move.writes)})
            for ax, moves in zip(axes, ways.values(), strict=True)
        ]
        kinds = {"in HBM": THERE, "travels in this step": MOVING}
        self.figure.legend(
            handles=[Patch(facecolor=colour, label=word) for word, colour in kinds.items()],
            loc="outside lower right",
            ncols=2,
            fontsize=9,
            handlelength=1.0,
        )
        self.update(0)
        freeze(self.figure)

    def _bytes(self, tiles: Sequence[Tile]) -> int:
        return sum(self.tile_bytes[name] for name, _, _ in tiles)

    def _moved(self, moves: Sequence[Move]) -> int:
        return sum(self._bytes([*move.reads, *move.writes]) for move in moves)

    def update(self, step: int) -> None:
        """Show the moment after so many steps of each way."""
        for scene, (name, moves) in zip(self.scenes, self.ways.items(), strict=True):
            done = moves[:step]
            now = done[-1] if done and step <= len(moves) else None
            there = {tile for move in done for tile in move.writes}
            moving = {*now.reads, *now.writes} if now else set()
            scene.paint(
                lambda tile, there=there, moving=moving: (
                    MOVING
                    if tile in moving
                    else THERE
                    if tile in there or tile[0] in self.given
                    else ABSENT
                )
            )
            scene.say(
                self._title(name, moves, step),
                now,
                self._bytes(now.reads) if now else 0,
                self._bytes(now.writes) if now else 0,
                self._moved(done),
                self.most,
            )

    @staticmethod
    def _title(name: str, moves: Sequence[Move], step: int) -> str:
        if step > len(moves):
            return f"{name}: finished"
        kernels = moves[-1].kernel
        return f"{name}: kernel {moves[max(step, 1) - 1].kernel} of {kernels}"

    def draw(self, step: int) -> str:
        """Show a moment and say what it is; made for `widgets.explore`."""
        self.update(step)
        said = []
        for name, moves in self.ways.items():
            end = " and is finished" if step >= len(moves) else ""
            said.append(f"{name} has moved {in_unit(self._moved(moves[:step]), 'bytes')}{end}")
        return f"After {step} steps {', '.join(said)}."


class _Scene:
    """One way: arrays in HBM above, SRAM and registers below, a bar for what has travelled."""

    def __init__(self, ax: Axes, arrays: Mapping[str, tuple[int, int]], used: set[str]):
        self.ax, self.tiles = ax, []
        cell, x, patches = 0.44, 0.35, []
        ax.set(xlim=(0, 10), ylim=(0, 10), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        for name, low, high in (("HBM", 5.9, 10), ("SRAM", 3.75, 5.05), ("registers", 1.6, 2.9)):
            ax.add_patch(Rectangle((0, low), 10, high - low, facecolor=PAPER, edgecolor=PALE))
            ax.text(9.85, high - 0.1, name, ha="right", va="top", fontsize=9, weight="bold")
        for name, (rows, columns) in arrays.items():
            for row in range(rows):
                for column in range(columns):
                    corner = (x + column * cell, 8.6 - row * 0.62)
                    patches.append(Rectangle(corner, cell, 0.62))
                    self.tiles.append((name, row, column))
            middle = x + columns * cell / 2
            label = name if name in used else f"no {name}"
            ax.text(middle, 6.65, label, ha="center", va="top", fontsize=9)
            x += columns * cell + 0.38
        edges = ["#888888" if name in used else "#dcd8cc" for name, _, _ in self.tiles]
        self.patches = PatchCollection(patches, edgecolor=edges, linewidth=0.7)
        ax.add_collection(self.patches)
        arrow = {"ha": "center", "va": "center", "fontsize": 9}
        self.down = ax.text(3.2, 5.47, "", **arrow)
        self.inner = ax.text(3.2, 3.32, "", **arrow)
        self.up = ax.text(7.6, 3.32, "", **arrow)
        self.sram = ax.text(0.3, 4.3, "", va="center", fontsize=10)
        self.registers = ax.text(0.3, 2.15, "", va="center", fontsize=10)
        self.out = ax.text(7.6, 5.47, "", **arrow)
        self.bar = ax.add_patch(Rectangle((0, 0.15), 0, 0.55, facecolor=ACCENT))
        self.counter = ax.text(0, 0.8, "", va="bottom", fontsize=10)

    def paint(self, colour_of) -> None:
        self.patches.set_facecolor([to_rgba(colour_of(tile)) for tile in self.tiles])

    def say(
        self, title: str, move: Move | None, n_in: int, n_out: int, moved: int, most: int
    ) -> None:
        set_title(self.ax, title)
        reads = dict.fromkeys(_name(tile) for tile in move.reads) if move else ()
        self.sram.set_text("  ".join(reads))
        self.registers.set_text(move.registers if move else "")
        self.down.set_text(f"↓ {in_unit(n_in, 'bytes')}" if n_in else "")
        self.inner.set_text("↓" if n_in else "")
        self.out.set_text(f"↑ {in_unit(n_out, 'bytes')}" if n_out else "")
        self.up.set_text("↑" if n_out else "")
        self.bar.set_width(10 * moved / most)
        self.counter.set_text(f"moved so far: {in_unit(moved, 'bytes')}")


def _name(tile: Tile) -> str:
    """Return a tile's name as one says it: its array and its number, or both."""
    name, row, column = tile
    return f"{name}{row + 1}" + (f",{column + 1}" if name in "SP" else "")
