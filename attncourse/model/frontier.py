"""Quality against bytes, of mechanisms in the model: `python -m attncourse.model.frontier`.

Each mechanism takes the place of all attention; the model is measured, then it learns on for some
steps and is measured again, once for each seed of the steps' texts. Measuring is done with the
NumPy references. `results/frontier.json` is written after every run, and a command that was ended
goes on with it. Read by chapter 14; all figures are of our one small model.

The record:

    settings, versions    what the figures depend on
    mechanisms[name]      stem, knobs
        bytes["512"]      of attention of one layer, a head, at so many tokens, 16 bits a number:
                          kept (what generation holds), peak, moved, flops (the last three of cost)
        probes            `probes.run` at n = 512 and the model's D: recall, near duplicates, …
        before, after[seed]   what `measure` returns
    layers                window in one layer, full in the others: window, layer, and `measure`
    hybrids[name]         some layers full, the others not: stem, knobs, full (layers), bytes,
                          before, after[seed]
    windows               window in all layers: window, and `measure`
"""

from __future__ import annotations

import argparse
import platform
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attncourse import needed

if not needed.has("torch"):
    raise needed.missing("torch", "attncourse.model.frontier", __name__)

import torch

from attncourse import resuming
from attncourse.measure import progress
from attncourse.model import corpus, probes, scores, weights
from attncourse.model.decoder import Model
from attncourse.model.trial import LENGTHS
from attncourse.model.tune import RATE, held_out, tune

RECORD = "frontier.json"
STEPS, ROWS, SEEDS = 60, 1, (1, 2, 3)
HYBRID_SEEDS = SEEDS
DEPTHS = (0.25, 0.5, 0.75)
HAY, HIDDEN, PAIRED, COPIES = 240, 12, 4, 8  # tokens of a needle's text; rows of each question
MECHANISMS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "window 16": ("window", {"window": 16}),
    "window 64": ("window", {"window": 64}),
    "window 256": ("window", {"window": 256}),
    "window 16 + 4 global": ("longformer", {"window": 16, "global_tokens": 4}),
    "16 near + every 16th": ("sparse_transformer", {"stride": 16}),
    "top-k 8": ("topk", {"keep": 8}),
    "top-k 32": ("topk", {"keep": 32}),
    "4 blocks of 16": ("block_topk", {"block": 16, "keep": 4, "choose_every": 1}),
    "LSH, 1 round": ("lsh", {"n_buckets": 16, "n_rounds": 1, "chunk": 32}),
    "LSH, 4 rounds": ("lsh", {"n_buckets": 16, "n_rounds": 4, "chunk": 32}),
    "pooled 4": ("pooled", {"pool": 4}),
    "pooled 16": ("pooled", {"pool": 16}),
    "linear": ("linear", {}),
    "Performer 64": ("performer", {"n_features": 64}),
    "Performer 256": ("performer", {"n_features": 256}),
    "int8": ("quantised_cache", {"group": 64}),
    "2 key/value heads": ("grouped", {"groups": 2}),
    "1 key/value head": ("grouped", {"groups": 1}),
}
"""By name: the mechanism and its knobs."""
LAYER_WINDOWS = (16, 64)
WINDOWS = (8, 16, 32, 64, 128, 256, 512)
HYBRIDS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    f"{name}, full in {' and '.join(map(str, full))}": (stem, knobs, full)
    for name, (stem, knobs) in {
        "window 16": ("window", {"window": 16}),
        "window 64": ("window", {"window": 64}),
        "linear": ("linear", {}),
    }.items()
    for full in ([0], [1], [2], [3], [2, 3])
}
"""By name: the mechanism of the other layers, its knobs, and the layers that stay full."""


def main(arguments: list[str] | None = None) -> None:
    """Measure what the record does not hold yet, and write it after each run."""
    parser = argparse.ArgumentParser(
        prog="python -m attncourse.model.frontier", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=needed.workplace() / "results" / RECORD)
    options = parser.parse_args(arguments)
    needed.writable(options.out)
    torch.set_num_threads(options.threads)
    model = weights.load()
    ids = corpus.tokens(list(corpus.library().values()), model.tokenizer)
    record = start(model, ids, options.out)
    for part in progress(jobs(model, ids, record), "measuring"):
        begun = time.perf_counter()
        part()
        record["seconds"] = round(record["seconds"] + time.perf_counter() - begun, 1)
        resuming.write(options.out, record)
    print(needed.written(options.out))


def start(model: Model, ids: np.ndarray, path: Path) -> dict[str, Any]:
    """Return the record at `path`, to go on with, or an empty one; seeds may have been added.

    Raises:
        SystemExit: It has other settings or was measured with another library or another text.
    """
    record: dict[str, Any] = {
        "settings": {
            "steps": STEPS,
            "rows": ROWS,
            "rate": RATE,
            "seeds": list(SEEDS),
            "depths": list(DEPTHS),
            "rows of questions": [HAY, HIDDEN, PAIRED, COPIES],
            "hybrid_seeds": list(HYBRID_SEEDS),
            "weights": zlib.crc32(b"".join(a.tobytes() for a in model.weights.values())),
            "text": zlib.crc32(ids.tobytes()),
        },
        "training_tokens": len(ids),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds": 0.0,
        "mechanisms": {},
        "hybrids": {},
        "layers": [],
        "windows": [],
    }
    return resuming.resumed(path, record, grows=("seeds", "hybrid_seeds"))


def jobs(model: Model, ids: np.ndarray, record: dict[str, Any]) -> list[Callable[[], None]]:
    """Return what is left to do, each a function that adds to the record; all before any tuning."""
    unseen = np.concatenate([model.encode(text) for text in corpus.held_out()])
    left: list[Callable[[], None]] = []

    def before(entry: dict, changed: Model) -> None:
        entry["bytes"] = bytes_of(changed)
        if len({*map(str, changed.attention)}) == 1:
            width = model.shape.head_width
            found = probes.run(changed.attention[0], n=LENGTHS[0], width=width)
            entry["probes"] = {name: round(share, 4) for name, share in found.items()}
        entry["before"] = measure(changed, unseen)

    def after(entry: dict, changed: Model, seed: int) -> None:
        learned, _ = tune(changed, ids, STEPS, rows=ROWS, seed=seed, every=0)
        entry["after"][str(seed)] = measure(learned, unseen)

    def row(rows: list, named: dict[str, int], changed: Model) -> None:
        rows.append(named | measure(changed, unseen))

    changed: dict[tuple[str, str], tuple[Model, dict[str, Any]]] = {
        ("mechanisms", name): (model.swap(stem, **knobs), {"stem": stem, "knobs": knobs})
        for name, (stem, knobs) in MECHANISMS.items()
    }
    for name, (stem, knobs, full) in HYBRIDS.items():
        said: dict[str, Any] = {"stem": stem, "knobs": knobs, "full": full}
        changed["hybrids", name] = model.swap(stem, **knobs).swap("full", layers=full), said
    for (part, name), (one, said) in changed.items():
        entry = record[part].setdefault(name, said | {"after": {}})
        if "before" not in entry:
            left.append(partial(before, entry, one))
    for window in WINDOWS:
        named = {"window": window}
        if not _there(record["windows"], named):
            one = model.swap("window", window=window)
            left.append(partial(row, record["windows"], named, one))
    for window in LAYER_WINDOWS:
        for layer in range(model.shape.n_layers):
            named = {"window": window, "layer": layer}
            if not _there(record["layers"], named):
                one = model.swap("window", layers=layer, window=window)
                left.append(partial(row, record["layers"], named, one))
    for part, seeds in (("mechanisms", SEEDS), ("hybrids", HYBRID_SEEDS)):
        for seed in seeds:
            for name, entry in record[part].items():
                if str(seed) not in entry["after"]:
                    left.append(partial(after, entry, changed[part, name][0], seed))
    return left


def measure(model: Model, unseen: np.ndarray) -> dict[str, float]:
    """Return what a model can do.

    Args:
        model: With whatever attention.
        unseen: Held-out ids, from which all questions are made.

    Returns:
        "loss" on held-out text and "first", "second" of `scores.copying`, in nats a token;
        "recall" and "near duplicates", shares of `probes.pairs` alone and in families of 4;
        "needle", the mean share of `probes.hidden` over `DEPTHS`.
    """
    first, second = scores.copying(model, unseen, rows=COPIES)
    needles = [probes.hidden(model, unseen, depth, n=HAY, rows=HIDDEN) for depth in DEPTHS]
    found = {
        "loss": model.row_losses(held_out(model)).mean(),
        "first": first,
        "second": second,
        "recall": probes.pairs(model, unseen, rows=PAIRED),
        "near duplicates": probes.pairs(model, unseen, family=4, rows=PAIRED),
        "needle": np.mean(needles),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def bytes_of(model: Model) -> dict[str, dict[str, int]]:
    """Return what attention takes, a head on average over layers: tokens read -> name -> number.

    "kept" is what generation holds after them, "peak" the most that reading them holds in any
    layer, "moved" its traffic, all in bytes, 16 bits a number; "flops" its operations.
    """
    heads, found = model.shape.n_heads, {}
    sizes = {"heads": heads, "width": model.shape.head_width}
    for n in LENGTHS:
        costs = [attend.cost(n, **sizes) for attend in model.attention]
        kept = [attend.kept(n, **sizes) for attend in model.attention]
        all_heads = heads * len(costs)
        found[str(n)] = {
            "kept": sum(kept) // all_heads,
            "peak": max(cost.peak_bytes for cost in costs) // heads,
            "moved": sum(cost.bytes_read + cost.bytes_written for cost in costs) // all_heads,
            "flops": sum(cost.flops for cost in costs) // all_heads,
        }
    return found


def _there(rows: list[dict], named: dict[str, int]) -> bool:
    return any(named.items() <= row.items() for row in rows)


if __name__ == "__main__":
    main()
