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
from pathlib import Path

import numpy as np
import torch

from attncourse.measure import progress
from attncourse.model import corpus, weights
from attncourse.model.decoder import Model
from attncourse.model.network import Attend, Network, causal

RECORD = Path("results/grouped_tuning.json")
STEPS, ROWS, RATE, SEED = 60, 4, 5e-4, 1
EVERY = 10  # steps between two measurements on held-out text
CONTEXTS = 8  # of held-out text, over which the loss is taken


def main(arguments: list[str] | None = None) -> None:
    """Tune with each number of groups, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m attncourse.model.tune", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = weights.load()
    ids = corpus.tokens(list(corpus.library().values()), model.tokenizer)
    heads = [n for n in range(model.shape.n_heads, 0, -1) if model.shape.n_heads % n == 0]
    runs = {groups: tune(model, ids, groups, options.steps) for groups in progress(heads, "tuning")}
    record = {
        "settings": {"steps": options.steps, "rows": ROWS, "rate": RATE, "seed": SEED},
        "training_tokens": len(ids),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{options.out} written")


def tune(model: Model, ids: np.ndarray, groups: int, steps: int) -> dict:
    """Return held-out losses, in nats a token, while a model learns with so many groups.

    Args:
        model: As trained; it is left alone.
        ids: What it learns on, int (n,).
        groups: Key/value heads that are left, each the mean of those it stands for.
        steps: How many steps of `ROWS` contexts.

    Returns:
        "seconds", and lists "step" and "held_out", whose first entries are from before the tuning.
    """
    network = Network(model.shape)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in model.weights.items()})
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    attend, size = in_groups(groups), model.shape.context
    texts = [
        model.encode(text)[: CONTEXTS * size // len(corpus.HELD_OUT)] for text in corpus.held_out()
    ]
    unseen = np.concatenate(texts)
    unseen = torch.from_numpy(unseen[: len(unseen) // (size + 1) * (size + 1)].astype(np.int64))
    unseen = unseen.reshape(-1, size + 1)
    start = time.perf_counter()
    found: dict[str, list] = {"step": [], "held_out": []}
    for step in range(steps + 1):
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                loss = network.loss(unseen, attend).item()
            found["step"].append(step)
            found["held_out"].append(round(loss, 4))
        if step == steps:
            break
        rows = corpus.batch(ids, step=step, rows=ROWS, length=size, repeats=0.25, seed=SEED)
        network.loss(torch.from_numpy(rows), attend).backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 5, (steps - step) / (0.4 * steps))
        optimizer.step()
        optimizer.zero_grad()
    return {"seconds": round(time.perf_counter() - start, 1)} | found


def in_groups(groups: int) -> Attend:
    """Return causal attention to `groups` heads of keys and values, each the mean of several."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shared = k.shape[1] // groups
        k, v = (
            x.unflatten(1, (groups, shared)).mean(2).repeat_interleave(shared, 1) for x in (k, v)
        )
        return causal(q, k, v)

    return attend


if __name__ == "__main__":
    main()
