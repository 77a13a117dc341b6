"""In a real model: a mechanism in place of its attention, on the same page for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncourse.cost import Cost
from attncourse.measure.loops import progress
from attncourse.model.corpus import HELD_OUT, held_out
from attncourse.model.decoder import Model
from attncourse.model.scores import copying

LENGTHS = (512, 16_384)  # what the model was trained to read, and what one would like it to
CONTEXTS = 4  # of unseen text, over which the loss is taken


@dataclass(frozen=True)
class Trial:
    """What a model does with another mechanism in place of its attention.

    Attributes:
        model: The model so changed.
        loss: Its loss on unseen text, in nats a token.
        full_loss: That of the model it comes from.
        copied: What the second time of a shuffled segment gains, as a share of what it gains the
            model it comes from; NaN if that gains less than 0.1 nats and so does not copy.
        pieces: The tokens of the page.
        excess: What each of them loses against the model it comes from, in nats; 0 for the first.
        costs: Attention of all layers together: number of tokens read -> cost, in float16. A
            silent head costs nothing: nobody would compute what is not heard.
        full_costs: That of the model it comes from.
    """

    model: Model
    loss: float
    full_loss: float
    copied: float
    pieces: list[str]
    excess: np.ndarray
    costs: Mapping[int, Cost]
    full_costs: Mapping[int, Cost]

    def __str__(self) -> str:
        """Return loss, copying and cost in two sentences."""
        read = f"{CONTEXTS * self.model.shape.context:,} tokens of other unseen text"
        said = f"On {read} {self.loss:.2f} nats a token instead of {self.full_loss:.2f}"
        if np.isnan(self.copied):
            said += "; there was no copying to lose."
        else:
            copied = f"{min(1.0, self.copied):.0%}" if self.copied > 0.1 else "hardly any"
            said += f"; {copied} of the copying is left."
        same = self.costs == self.full_costs
        flops = " and ".join(
            f"{cost.flops / n / 1e6:.3g} "
            + ("" if same else f"instead of {self.full_costs[n].flops / n / 1e6:.3g} ")
            + f"at n = {n:,}"
            for n, cost in self.costs.items()
        )
        return f"{said} Million FLOPs of attention a token: {flops}{', as before' * same}."


def page() -> str:
    """Return the page that every mechanism reads: part of a module that no training saw."""
    text = held_out()[HELD_OUT.index("sched")]
    return text[text.index("class scheduler:") : text.index("    def cancel(")]


def trial(model: Model, stem: str, *, layers: Any = None, **knobs: Any) -> Trial:
    """Try a mechanism in a model; arguments and errors as of `Model.swap`."""
    return compare(model, {"": model.swap(stem, layers=layers, **knobs)})[""]


def trials(model: Model, stem: str, *, layers: Any = None, **knobs: Any) -> dict[Any, Trial]:
    """Try a mechanism at several values of one knob.

    Args:
        model: As trained.
        stem: The mechanism.
        layers: Where it goes; everywhere if not given.
        **knobs: As of `Model.swap`, one of them a list, of which each value is tried.

    Returns:
        The trial of each of these values.

    Raises:
        ValueError: Not exactly one knob is a list; or as of `Model.swap`.
    """
    lists = [name for name, value in knobs.items() if isinstance(value, list)]
    if len(lists) != 1:
        raise ValueError(f"model.trials: one knob must be a list of values, got {lists or 'none'}")
    (name,) = lists
    changed = {
        value: model.swap(stem, layers=layers, **knobs | {name: value}) for value in knobs[name]
    }
    return compare(model, changed)


def compare(model: Model, changed: Mapping[Any, Model]) -> dict[Any, Trial]:
    """Measure models made from one by `swap`, `without` or tuning, against it.

    Raises:
        ValueError: One has another vocabulary.
    """
    for name, one in changed.items():
        if not np.array_equal(one.tokenizer.merges, model.tokenizer.merges):
            raise ValueError(f"model.compare: {name!r} has another vocabulary than the model")
    size = CONTEXTS * model.shape.context + 1
    texts = held_out()  # as much of each
    unseen = np.concatenate([model.encode(text)[: -(-size // len(texts))] for text in texts])[:size]
    ids = model.encode(page())

    def measured(one: Model) -> tuple[float, float, np.ndarray]:
        first, second = copying(one, unseen, rows=4)
        return one.loss(unseen), first - second, one.losses(ids)

    full_loss, full_gain, full_losses = measured(model)
    found = {}
    expected = 0.5 * len(changed)  # some three times as long for the slowest references
    for name, one in progress(changed.items(), "trying", expect_seconds=expected):
        loss, gain, losses = measured(one)
        found[name] = Trial(
            model=one,
            loss=loss,
            full_loss=full_loss,
            copied=gain / full_gain if full_gain > 0.1 else np.nan,
            pieces=model.tokenizer.pieces(ids),
            excess=np.concatenate([[0.0], losses - full_losses]),
            costs={n: _cost(one, n) for n in LENGTHS},
            full_costs={n: _cost(model, n) for n in LENGTHS},
        )
    return found


def _cost(model: Model, n: int) -> Cost:
    """Return what attention takes to read n tokens, all layers together; the peak is of one."""
    heads, width = model.shape.n_heads, model.shape.head_width
    layers = []
    for number, attend in enumerate(model.attention):
        one = attend.cost(n, heads=heads, width=width)
        heard = heads - sum(layer == number for layer, _ in model.silent)
        parts = (one.flops, one.bytes_read, one.bytes_written, one.peak_bytes)
        layers.append([part * heard // heads for part in parts])
    flops, read, written, peaks = zip(*layers, strict=True)
    return Cost(
        flops=sum(flops), bytes_read=sum(read), bytes_written=sum(written), peak_bytes=max(peaks)
    )
