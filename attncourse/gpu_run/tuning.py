"""Tries other tiles for the kernels whose tile is one function's choice: results/tiles-gpu-….json.

`python -m attncourse.gpu_run.tuning OUT` goes on until it is stopped, what is worth most first, and
writes the record, in the form of `attncourse.bench.tiles`, after each tile. A tile is timed only if
it gives what the kernel's own tile gives.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from attncourse import MECHANISMS, measure
from attncourse.bench import store
from attncourse.bench.tiles import Tile

HEADS = 16
FLASH = (
    Tile(128, 64, 4, 3), Tile(128, 64, 4, 4), Tile(128, 128, 8, 2), Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 3), Tile(64, 128, 4, 3), Tile(128, 64, 8, 3), Tile(128, 32, 4, 4),
)  # fmt: skip
WINDOW = (Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(128, 64, 4, 3), Tile(64, 32, 4, 3))
LINEAR = (Tile(64, 64, 4, 3), Tile(128, 64, 8, 2), Tile(64, 32, 4, 2), Tile(64, 64, 4, 2))
# What, stem, knobs, tiles, whether backward; each at both widths, causal and not.
TRIED: tuple[tuple[str, str, dict[str, int], tuple[Tile, ...], bool], ...] = (
    ("flash fwd", "flash", {}, FLASH, False),
    ("flash bwd", "flash", {}, FLASH, True),
    ("window 128", "window", {"window": 128}, WINDOW, False),
    ("linear", "linear", {}, LINEAR, False),
)
CHOSEN_BY = {"flash": "tile_sizes", "window": "tiling", "linear": "largest_block"}
COLUMNS = {
    "tiles": ["what", "width", "causal", "n", "rows", "columns", "warps", "stages", "seconds"],
    "default": ["what", "width", "causal", "n", "seconds"],
}


def tune(
    out: Path, lengths: tuple[int, ...] = (16384, 4096), widths: tuple[int, ...] = (64, 128),
    heads: int = HEADS, clock: Callable[[Callable[[], Any]], float] | None = None,
) -> Path:  # fmt: skip
    """Time every tile, and the kernel as it is launched ("default"); return the record's path.

    Args:
        out: A folder.
        lengths: Tokens.
        widths: Of a head.
        heads: How many.
        clock: Takes a call, returns seconds; the median of Triton's `do_bench` if not given.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record: dict[str, Any] = {
        "machine": dict(measure.machine()), "commit": store.commit(), "date": now[:10],
        "setting": {"batch": 1, "heads": heads, "dtype": "float16"}, "complete": False,
        "columns": COLUMNS, "tiles": [], "default": [], "left_out": [],
    }  # fmt: skip
    path = out / f"tiles-gpu-{now[:10]}.json"
    for n in lengths:
        for width in widths:
            for causal in (False, True):
                for what, stem, knobs, tiles, backward in TRIED:
                    setting = [what, width, causal, n]
                    call = _call(stem, n, width, heads, causal, backward, knobs)
                    _time(record, path, setting, stem, tiles, call, clock or _bench)
    record["complete"] = True
    store.write(record, path)
    return path


def _time(record, path, setting, stem, tiles, call, clock) -> None:
    """Time one setting at its own tile and at each of the others."""
    import torch

    right = call()
    record["default"].append([*setting, clock(call)])
    store.write(record, path)
    for tile in tiles:
        try:
            with chosen(stem, tile):
                found = call()
                far = max((a - b).abs().max().item() for a, b in zip(found, right, strict=True))
                most = max(x.abs().max().item() for x in right)
                if not far <= 0.02 * most:
                    record["left_out"].append([*setting, *tile, f"differs by {far:.2g}"])
                else:
                    record["tiles"].append([*setting, *tile, clock(call)])
        except Exception as error:  # too much shared memory, say
            words = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            record["left_out"].append([*setting, *tile, words])
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # raises if the GPU is lost: then this process is done
        store.write(record, path)


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


def _call(stem, n, width, heads, causal, backward, knobs) -> Callable[[], tuple]:
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


def _bench(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=30, return_mode="median") / 1e3


if __name__ == "__main__":
    print(tune(Path(sys.argv[1])))
