"""Tries other tiles for the kernels whose tile is one function's choice: results/tiles-gpu-….json.

`python -m attncourse.gpu_run.tuning OUT` goes on until it is stopped, what is worth most first, and
writes the record after each tile. "tiles" is as in `attncourse.bench.tiles`, "launched" the kernel
at its own tile; other people's kernels are in the bench's record. A tile is timed only if it gives
what the kernel's own tile gives.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attncourse import measure
from attncourse.bench import store
from attncourse.bench.tiles import Tile, call_of, chosen, do_bench

HEADS = 16
FLASH = (
    Tile(128, 64, 4, 3), Tile(128, 64, 4, 4), Tile(128, 128, 8, 2), Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 3), Tile(64, 128, 4, 3), Tile(128, 64, 8, 3), Tile(128, 32, 4, 4),
)  # fmt: skip
# among these what they took before a measurement, and what an A100 takes
BACKWARD = (
    Tile(64, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 4, 3), Tile(128, 64, 4, 2),
    Tile(128, 64, 8, 2), Tile(64, 128, 8, 2),
)  # fmt: skip
WINDOW = (
    Tile(64, 32, 4, 3), Tile(64, 64, 8, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 3),
    Tile(64, 32, 4, 2),
)  # fmt: skip
LINEAR = (
    Tile(64, 64, 4, 3), Tile(64, 32, 4, 2), Tile(32, 32, 8, 2), Tile(64, 64, 4, 2),
    Tile(64, 32, 4, 3), Tile(128, 64, 8, 2),
)  # fmt: skip
# What, stem, knobs, tiles, whether backward; each at both widths, causal and not.
TRIED: tuple[tuple[str, str, dict[str, int], tuple[Tile, ...], bool], ...] = (
    ("flash fwd", "flash", {}, FLASH, False),
    ("flash bwd", "flash", {}, BACKWARD, True),
    ("window 128", "window", {"window": 128}, WINDOW, False),
    ("linear", "linear", {"chunk": 128}, LINEAR, False),  # rows are cut to the chunk
)
COLUMNS = {
    "tiles": ["what", "width", "causal", "n", "rows", "columns", "warps", "stages", "seconds"],
    "launched": ["what", "width", "causal", "n", "seconds"],
}


def tune(
    out: Path, lengths: tuple[int, ...] = (16384, 4096), widths: tuple[int, ...] = (64, 128),
    heads: int = HEADS, clock: Callable[[Callable[[], Any]], float] | None = None,
) -> Path:  # fmt: skip
    """Time every tile, and the kernel as it is launched; return the record's path.

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
        "columns": COLUMNS, "tiles": [], "launched": [], "left_out": [],
    }  # fmt: skip
    path = out / f"tiles-gpu-{now[:10]}.json"
    for n in lengths:
        for width in widths:
            for causal in (False, True):
                for what, stem, knobs, tiles, backward in TRIED:
                    setting = [what, width, causal, n]
                    call = call_of(stem, n, width, heads, causal, backward=backward, **knobs)
                    _time(record, path, setting, stem, tiles, call, clock or do_bench)
    record["complete"] = True
    store.write(record, path)
    return path


def _time(record, path, setting, stem, tiles, call, clock) -> None:
    """Time one setting at its own tile and at each of the others."""
    import torch

    right = call()
    record["launched"].append([*setting, clock(call)])
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


if __name__ == "__main__":
    print(tune(Path(sys.argv[1])))
