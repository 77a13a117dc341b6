"""In a real model: one page of text, and what a mechanism makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any

from ipywidgets import Dropdown

from attncourse import plots
from attncourse.widgets.explorer import Explorer, choice, explore

if TYPE_CHECKING:
    from attncourse.model import Trial

DARKEST = 4.0  # nats


def in_a_real_model(name: str, trials: Mapping[Any, Trial], start: Any = None) -> Explorer:
    """Show what each token of a page loses, and let the reader choose between trials.

    Args:
        name: What is chosen, such as "window".
        trials: Choice -> what `model.trials` or `model.compare` found. Numbers become a slider,
            words a list to choose from.
        start: The choice shown first; the first one if not given.
    """
    first = next(iter(trials)) if start is None else start
    page = plots.LivePage(
        trials[first].pieces,
        trials[first].excess,
        high=DARKEST,
        label="nats lost (white: none, or a gain)",
        title=None,
    )

    def draw(chosen: Any) -> str:
        page.update(trials[chosen].excess)
        return str(trials[chosen])

    numbers = all(isinstance(one, Number) for one in trials)
    control = (choice if numbers else Dropdown)(options=list(trials), value=first)
    control.description = name
    return explore(draw, page.figure, chosen=control)
