"""Measures a training step with each technique: `python -m attncourse.training.table`.

A deeper copy of the course's model, one step after the other, some minutes of a core: most of them
in bfloat16, if the processor has no such arithmetic. The record is what chapter 11 shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

from attncourse import needed

if not needed.has("torch"):
    raise needed.missing("torch", "attncourse.training.table", __name__)

import torch

from attncourse import measure
from attncourse.inputs import stream
from attncourse.model.decoder import Shape
from attncourse.model.network import Network, causal
from attncourse.training import techniques, timeline

RECORD = "training.json"
LAYERS, ROWS, TOKENS, REPEATS = 12, 2, 512, 5
HALF = {"dtype": torch.bfloat16}
WAYS: dict[str, dict] = {
    "eager": {"attend": techniques.eager},
    "SDPA": {},
    "eager, checkpoint every layer": {"attend": techniques.eager, "every": 1},
    "checkpoint every layer": {"every": 1},
    "checkpoint every second": {"every": 2},
    "checkpoint every third": {"every": 3},
    "reversible": {"reverse": True},
    "bfloat16": HALF,
    "bfloat16, checkpoint every layer": HALF | {"every": 1},
}


def network(layers: int) -> Network:
    """Return a model of the course's sizes, with so many layers and fresh weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Network(Shape(n_layers=layers))


def batch(rows: int, tokens: int) -> torch.Tensor:
    """Return ids (rows, tokens + 1) that mean nothing: bytes and seconds do not depend on them."""
    ids = stream("training.table", 0).integers(256, 1024, (rows, tokens + 1))
    return torch.from_numpy(ids)


def measured(way: str, layers: int, rows: int, tokens: int, repeats: int) -> dict:
    """Return "step_bytes", "kept" at most, "peak" by kind, and "seconds" of one core of a step.

    Args:
        way: One of `WAYS`.
        layers: L.
        rows: B.
        tokens: n of each row.
        repeats: Timed runs, of which the shortest counts: what others do meanwhile only adds.
    """
    net, ids = network(layers), batch(rows, tokens)
    adam = timeline.Adam(net.parameters())

    def step() -> None:
        techniques.loss(net, ids, **{"attend": causal} | WAYS[way]).backward()
        adam.step()

    line = timeline.record(lambda: techniques.loss(net, ids, **WAYS[way]), adam)
    kept = int(line.bytes()["kept"].max())
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {
        "step_bytes": line.step_bytes,
        "kept": kept,
        "peak": line.peak(),
        "seconds": round(min(times), 3),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure each technique, and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m attncourse.training.table", description=__doc__
    )
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"default {LAYERS}")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default {ROWS}")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"default {TOKENS}")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    parser.add_argument("--out", type=Path, default=needed.workplace() / "results" / RECORD)
    options = parser.parse_args(arguments)
    needed.writable(options.out)
    torch.set_num_threads(1)
    sizes = options.layers, options.rows, options.tokens
    ways = {
        way: measured(way, *sizes, options.repeats) for way in measure.progress(WAYS, "training")
    }
    record = {
        "settings": dict(zip(("layers", "rows", "tokens"), sizes, strict=True)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "ways": ways,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(needed.written(options.out))


if __name__ == "__main__":
    main()
