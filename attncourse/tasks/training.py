"""Trains a model of two layers on a task, with any mechanism that has a twin in torch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from attncourse.inputs import check_count
from attncourse.model.attention import Attention
from attncourse.model.decoder import Shape
from attncourse.tasks.questions import N_IDS, TASKS, make

SHAPE = Shape(n_ids=N_IDS, n_layers=2, n_heads=4, width=64, hidden=128, context=48)
ROWS = 32
LEARNED = 0.02  # nats a question, over ten steps, with which training ends
TESTED = 256  # rows that no step sees
MECHANISMS: dict[str, Attention] = {
    name: Attention.of(stem, **knobs)
    for name, (stem, knobs) in {
        "full": ("full", {}),
        "window 4": ("window", {"window": 4}),
        "4 near + every 4th": ("sparse_transformer", {"stride": 4}),
        "pooled 4": ("pooled", {"pool": 4}),
        "linear": ("linear", {}),
    }.items()
}


@dataclass(frozen=True)
class Result:
    """What a model learned.

    Attributes:
        accuracy: Share of the questions of unseen rows to which the likeliest id is the answer.
        losses: Of each step, in nats a question; fewer steps, if it had learned before.
        by_place: Accuracy by the token after which was asked, (T,); NaN where nothing was.
        seconds: Of the processor, in training: with one thread what an idle machine takes.
    """

    accuracy: float
    losses: np.ndarray
    by_place: np.ndarray
    seconds: float


def train(
    name: str,
    mechanism: str | Attention,
    seed: int = 0,
    *,
    steps: int | None = None,
    rows: int = ROWS,
) -> Result:
    """Train a model of two layers on a task.

    Args:
        name: One of `TASKS`.
        mechanism: One of `MECHANISMS`, or any that `model.twins.twin` knows.
        seed: Of the weights and of what is learned from.
        steps: At most; those of the task if not given.
        rows: Of each step; all are new.

    Raises:
        ValueError: An unknown name or mechanism.
    """
    import torch
    from torch.nn import functional

    from attncourse.model.muon import Muon
    from attncourse.model.network import Network
    from attncourse.model.twins import twin

    attend, rate = twin(_known(name, mechanism)), TASKS[name].rate
    steps = check_count("tasks.train", "steps", steps or TASKS[name].steps, least=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_count("tasks.train", "seed", seed))
        network = Network(SHAPE)
    inner = [p for p in network.layers.parameters() if p.ndim == 2]
    rest = [p for p in network.parameters() if not any(p is q for q in inner)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inner, lr=rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    losses, begun = [], time.process_time()
    for step in range(steps):
        drawn = make(name, rows, seed=seed, part=step + 1)
        asked, wanted = (torch.from_numpy(x) for x in (drawn.asked, drawn.wanted))
        logits = network(torch.from_numpy(drawn.ids), attend)[asked]
        loss = functional.cross_entropy(logits, wanted[asked])
        loss.backward()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * min(
                1.0, (step + 1) / 20, 3 * (1 - step / steps)
            )
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step >= 20 and np.mean(losses[-10:]) < LEARNED:
            break
    seconds = time.process_time() - begun
    unseen = make(name, TESTED, seed=seed)
    with torch.no_grad():
        best = network(torch.from_numpy(unseen.ids), attend).argmax(-1).numpy()
    right = np.where(unseen.asked, best == unseen.wanted, np.nan)
    asked_at = unseen.asked.sum(axis=0)
    by_place = np.nansum(right, axis=0) / np.where(asked_at, asked_at, np.nan)
    return Result(float(np.nanmean(right)), np.array(losses), by_place, seconds)


def _known(name: str, mechanism: str | Attention) -> Attention:
    if name not in TASKS:
        raise ValueError(f"tasks.train: {name!r} is none of {', '.join(TASKS)}")
    if isinstance(mechanism, Attention):
        return mechanism
    if mechanism not in MECHANISMS:
        raise ValueError(f"tasks.train: {mechanism!r} is none of {', '.join(MECHANISMS)}")
    return MECHANISMS[mechanism]
