"""Tunes the model to fewer key/value heads: `python -m attncourse.model.tune`.

Each group of heads gets the mean of their keys and of their values; then the whole model learns on
for some steps. With as many groups as heads nothing is lost, so what that run gains is what any
model gains by learning on. The record is what chapter 12 shows.

Paper:
    Ainslie et al. 2023, arXiv:2305.13245, section 2.1.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from attncourse import needed

if not needed.has("torch"):
    raise needed.missing("torch", "attncourse.model.tune", __name__)

import torch

from attncourse.measure import progress
from attncourse.model import corpus, weights
from attncourse.model.decoder import Model
from attncourse.model.network import Network
from attncourse.model.twins import twin

RECORD = "grouped_tuning.json"
STEPS, ROWS, RATE, SEED = 60, 4, 5e-4, 1
EVERY = 10  # steps between two measurements on held-out text
CONTEXTS = 8  # of held-out text, over which the loss is taken


def main(arguments: list[str] | None = None) -> None:
    """Tune with each number of groups, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m attncourse.model.tune", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=needed.workplace() / "results" / RECORD)
    options = parser.parse_args(arguments)
    needed.writable(options.out)
    torch.set_num_threads(options.threads)
    model = weights.load()
    ids = corpus.tokens(list(corpus.library().values()), model.tokenizer)
    heads = [n for n in range(model.shape.n_heads, 0, -1) if model.shape.n_heads % n == 0]
    runs = {}
    for groups in progress(heads, "tuning"):
        start = time.perf_counter()
        _, run = tune(model.swap("grouped", groups=groups), ids, options.steps)
        runs[groups] = {"seconds": round(time.perf_counter() - start, 1)} | run
    record = {
        "settings": {"steps": options.steps, "rows": ROWS, "rate": RATE, "seed": SEED},
        "training_tokens": len(ids),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "runs": runs,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(needed.written(options.out))


def tune(
    model: Model,
    ids: np.ndarray,
    steps: int,
    *,
    rows: int = ROWS,
    seed: int = SEED,
    every: int = EVERY,
) -> tuple[Model, dict[str, list]]:
    """Let a model learn on with the attention that it has.

    Args:
        model: As `Model.swap` gives it; it is left alone.
        ids: What it learns on, int (n,).
        steps: How many steps.
        rows: Contexts of a step.
        seed: Of the choice of contexts.
        every: Steps between two measurements on held-out text; 0: none.

    Returns:
        The model after it, and lists "step" and "held_out": its losses on held-out text in nats a
        token, the first from before the tuning.

    Raises:
        ValueError: A mechanism that has no twin in torch.
    """
    network = Network(model.shape)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in model.weights.items()})
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    attend, unseen = [twin(one) for one in model.attention], torch.from_numpy(held_out(model))
    found: dict[str, list] = {"step": [], "held_out": []}
    for step in range(steps + 1):
        if every and (step % every == 0 or step == steps):
            with torch.no_grad():
                loss = network.loss(unseen, attend).item()
            found["step"].append(step)
            found["held_out"].append(round(loss, 4))
        if step == steps:
            break
        texts = corpus.batch(
            ids, step=step, rows=rows, length=model.shape.context, repeats=0.25, seed=seed
        )
        network.loss(torch.from_numpy(texts), attend).backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 5, (steps - step) / (0.4 * steps))
        optimizer.step()
        optimizer.zero_grad()
    learned = {name: value.numpy() for name, value in network.state_dict().items()}
    return replace(model, weights=learned), found


def held_out(model: Model) -> np.ndarray:
    """Return some contexts of held-out text, with the token after each: int64 (rows, T + 1)."""
    size = model.shape.context
    share = CONTEXTS * size // len(corpus.HELD_OUT)
    unseen = np.concatenate([model.encode(text)[:share] for text in corpus.held_out()])
    whole = len(unseen) // (size + 1) * (size + 1)
    return unseen[:whole].astype(np.int64).reshape(-1, size + 1)


if __name__ == "__main__":
    main()
