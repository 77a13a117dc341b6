"""Tiles that were tried: how fast a kernel is at each of several sizes, recorded or measured here.

`python -m attncourse.bench.tiles 4096 64` measures on a GPU that is here: tokens, width of a head.

A record, results/tiles-gpu-<date>.json, has three tables. "tiles": a kernel of ours at a tile of so
many rows (queries) and columns (keys), with so many warps and stages; for "linear" the rows are
tokens, the columns a slice of the values. "default": torch's attention, timed beside it. "bench":
the kernel as it is launched, and its peers, from the run of `attncourse bench` of the same hour.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from attncourse import house
from attncourse.catalogue import MECHANISMS
from attncourse.units import format_seconds


class Tile(NamedTuple):
    """What a kernel is compiled for."""

    rows: int
    columns: int
    warps: int
    stages: int

    def __str__(self) -> str:
        """Return it as one says it."""
        return f"{self.rows} × {self.columns}, {self.warps} warps, {self.stages} stages"


TRIED = (  # of the flash kernel's forward pass
    Tile(128, 64, 8, 3), Tile(128, 64, 4, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 3),
    Tile(64, 128, 4, 3), Tile(128, 32, 4, 4),
)  # fmt: skip
CHOSEN_BY = {"flash": "tile_sizes", "window": "tile_sizes", "linear": "largest_block"}
TABLES = ("tiles", "default", "bench")


def latest(folder: Path | None = None) -> dict[str, Any] | None:
    """Return the newest record of results/ that has all three tables, or None.

    What `attncourse gpu-run` tries has tiles alone. `folder` as of `bench.latest`.
    """
    folders = house.results() if folder is None else [folder]
    files = {file.name: file for place in folders for file in place.glob("tiles-gpu-*.json")}
    for name in sorted(files, reverse=True):
        record = json.loads(files[name].read_text(encoding="utf-8"))
        if all(record.get(table) for table in TABLES):
            return record
    return None


def settings(record: dict[str, Any]) -> dict[str, tuple[str, int, bool, int]]:
    """Return what was tried: in words -> (what, width, causal, n)."""
    return {
        f"{what}, width {width}{', causal' if causal else ''}, n = {n}": (what, width, causal, n)
        for what, width, causal, n, *_ in record["tiles"]
    }


def tried(record: dict[str, Any], *setting: Any) -> dict[Tile, float]:
    """Return tile -> seconds in one of `settings`, fastest first."""
    rows = (row for row in record["tiles"] if tuple(row[:4]) == setting)
    return dict(sorted(((Tile(*row[4:8]), row[8]) for row in rows), key=lambda pair: pair[1]))


def peers(record: dict[str, Any], *setting: Any) -> dict[str, float]:
    """Return implementation -> seconds in the bench of the same hour; "Triton" is ours."""
    return {row[4]: row[5] for row in record["bench"] if tuple(row[:4]) == setting}


def measure(
    n: int,
    width: int = 64,
    *,
    causal: bool = False,
    tiles: Iterable[Tile] = TRIED,
    heads: int = 16,
    clock: Callable[[Callable[[], Any]], float] | None = None,
) -> dict[Tile, float]:
    """Time the flash kernel's forward pass on this GPU at several tiles, each of them checked.

    Args:
        n: Tokens.
        width: Of a head.
        causal: Whether a token sees those before it only.
        tiles: What to try.
        heads: How many.
        clock: Takes a call, returns seconds; the median of Triton's `do_bench` if not given.

    Returns:
        Tile -> seconds, fastest first.

    Raises:
        RuntimeError: Kernels run in the interpreter here, whose time means nothing, and there is no
            clock of yours; or a tile gives another result than the kernel's own.
    """
    import torch

    from attncourse import kernels

    if clock is None:
        if kernels.INTERPRETED:
            raise RuntimeError("tiles.measure: there is no GPU here; the interpreter tells no time")
        clock = do_bench
    call = call_of("flash", n, width, heads, causal)
    (right,), found = call(), {}
    for tile in tiles:
        with chosen("flash", tile):
            (out,) = call()
            if not torch.allclose(out, right, atol=1e-2):
                raise RuntimeError(
                    f"tiles.measure: {tile} gives another result than the kernel's own tile"
                )
            found[tile] = clock(call)
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


@contextlib.contextmanager
def chosen(stem: str, tile: Tile) -> Iterator[None]:
    """Let a kernel take this tile, whatever its width and dtype, in both passes."""
    owner, name = MECHANISMS[stem].kernel, CHOSEN_BY[stem]
    if stem == "linear":  # the choice is made in a part of the kernel's module
        owner = sys.modules[owner.tiles_for.__module__]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}

    def choice(*args, **kwargs):
        return tile.rows, tile.columns, options

    with mock.patch.object(owner, name, choice):
        yield


def call_of(
    stem: str, n: int, width: int, heads: int, causal: bool, *, backward: bool = False, **knobs: int
) -> Callable[[], tuple]:
    """Return a call of a mechanism's kernel in float16, or of its gradients; it gives a tuple."""
    import torch

    from attncourse import kernels

    device = "cpu" if kernels.INTERPRETED else "cuda"
    generator = torch.Generator(device).manual_seed(0)
    inputs = [
        torch.randn(1, heads, n, width, device=device, generator=generator).half() for _ in range(3)
    ]
    mechanism = MECHANISMS[stem]
    keywords = mechanism.tensors(n, n, width, width, inputs[0], **(mechanism.values | knobs))
    attention = functools.partial(mechanism.kernel.attention, causal=causal, **keywords)
    if not backward:
        return lambda: (attention(*inputs),)
    inputs = [x.requires_grad_() for x in inputs]
    out = attention(*inputs)
    gradient = torch.randn(out.shape, device=device, generator=generator).half()
    return lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True)


def _main(n: int, width: int) -> None:
    for tile, seconds in measure(n, width).items():
        print(f"{tile!s:<30} {format_seconds(seconds)}")


def do_bench(call: Callable[[], Any]) -> float:
    """Return the median seconds of a call on the GPU, by Triton's own clock."""
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=30, return_mode="median") / 1e3


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
