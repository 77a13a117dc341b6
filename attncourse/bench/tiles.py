"""Tiles that were tried: how fast a kernel is at each of several sizes, recorded or measured here.

A record, results/tiles-gpu-<date>.json, has three tables. "tiles": a kernel of ours at a tile of so
many rows (queries) and columns (keys), with so many warps and stages; for "linear" the rows are
tokens, the columns a slice of the values. "default": torch's attention, timed beside it. "bench":
the kernel as it is launched, and its peers, from the run of `attncourse bench` of the same hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import attncourse


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


def latest(folder: Path | None = None) -> dict[str, Any] | None:
    """Return the newest record of results/, or None; `folder` as of `bench.latest`."""
    places = [Path(attncourse.__file__).parents[1], Path.cwd(), *Path.cwd().parents]
    folders = [place / "results" for place in places] if folder is None else [folder]
    found = {file.name: file for place in folders for file in place.glob("tiles-gpu-*.json")}
    return json.loads(found[max(found)].read_text(encoding="utf-8")) if found else None


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
            clock of yours; or a tile gives another result than the first.
    """
    import torch
    import triton

    from attncourse import kernels
    from attncourse.kernels import flash

    if clock is None:
        if kernels.INTERPRETED:
            raise RuntimeError("tiles.measure: there is no GPU here; the interpreter tells no time")
        clock = _bench
    device = "cpu" if kernels.INTERPRETED else "cuda"
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, out = (
        torch.randn(1, heads, n, width, device=device, generator=generator).half() for _ in range(4)
    )
    lse, found, first = q.new_empty(1, heads, n, dtype=torch.float32), {}, None
    padded = triton.next_power_of_2(width)
    for tile in tiles:
        sizes = n, n, 1, width**-0.5, width, width, padded, padded, tile.rows, tile.columns, causal

        def call(tile=tile, sizes=sizes):
            flash._flash_fwd_kernel[(triton.cdiv(n, tile.rows), heads, 1)](
                q, k, v, out, lse,
                *(stride for x in (q, k, v, out, lse) for stride in x.stride()), *sizes,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip

        call()
        first = out.clone() if first is None else first
        if not torch.allclose(out, first, atol=1e-2):
            raise RuntimeError(f"tiles.measure: {tile} gives another result than the first tile")
        found[tile] = clock(call)
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _bench(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return do_bench(call, return_mode="median") / 1e3
