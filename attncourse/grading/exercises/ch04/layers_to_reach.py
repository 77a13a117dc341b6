"""Exercise 04.4: how deep a network must be."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def layers_to_reach(distance: int, window: int, dilations: tuple[int, ...]) -> int:
    """Return how many layers it takes until a token `distance` away can matter."""
    cycles, left = divmod(distance, window * sum(dilations))
    layers = cycles * len(dilations)
    for dilation in dilations:
        if left <= 0:
            break
        left -= window * dilation
        layers += 1
    return layers


def _layers_by_bisection(distance, window, dilations):
    ends = [window * reach for reach in accumulate(dilations, initial=0)]
    cycles, left = divmod(distance, ends[-1])
    return cycles * len(dilations) + bisect_left(ends, left)


def _layers_by_search(distance, window, dilations):
    def reach(layers):
        cycles, rest = divmod(layers, len(dilations))
        return window * (cycles * sum(dilations) + sum(dilations[:rest]))

    low, high = 0, distance  # each layer reaches at least one further
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle) >= distance else (middle + 1, high)
    return low


def _layers_past_the_edge(distance, window, dilations):
    return layers_to_reach(distance + 1, window, dilations)


def _layers_without_cycle(distance, window, dilations):
    for layer, reach in enumerate(accumulate(dilations), 1):
        if window * reach >= distance > 0:
            return layer
    return len(dilations) if distance else 0


def _layers_by_product(distance, window, dilations):
    reach, layers = 1, 0
    while reach <= distance:
        reach *= max(2, window * dilations[layers % len(dilations)])
        layers += 1
    return layers


def _layers_cases(generator: Generator) -> list[Case]:
    fixed = [
        ("distance 0", (0, 1, (1,))),
        ("next token", (1, 1, (1,))),
        ("exactly one window", (4, 4, (1,))),
        ("one beyond the window", (5, 4, (1,))),
        ("no dilation, exact multiple", (12, 4, (1,))),
        ("dilations 1, 2", (6, 2, (1, 2))),
        ("dilations 1, 2, one beyond", (7, 2, (1, 2))),
        ("second cycle", (50, 2, (1, 2, 4))),
        ("repeated dilation", (10, 2, (1, 1, 2))),
        ("n = 2048, window 64", (2047, 64, (1,))),
        ("distance 10¹²", (10**12, 256, (1, 2, 4, 8))),
    ]
    random = []
    for top in (30, 3000, 10**12):
        for dilations in ((1,), (1, 2, 4, 8), (1, 3, 9)):
            arguments = (int(generator.integers(top)), int(generator.integers(1, 60)), dilations)
            random.append((f"random {arguments}", arguments))
    return [Case(name, arguments) for name, arguments in fixed + random]


LAYERS_TO_REACH = Exercise(
    id="04.4",
    chapter="04",
    title="Layers to reach a token",
    function="layers_to_reach",
    kind="number",
    minutes=12,
    difficulty=2,
    points=2,
    hints=(
        "How far back can one layer look? How far can two, the second standing on the first?",
        "Reaches add up: after some layers the reach is window times the sum of their dilations. "
        "One whole cycle of dilations adds window · sum(dilations).",
        "cycles, left = divmod(distance, window * sum(dilations)); then walk through dilations, "
        "subtracting window * dilation, while left > 0.",
    ),
    reference=layers_to_reach,
    cases=_layers_cases,
    mistakes=(
        Mistake(
            "dilations ignored",
            lambda distance, window, dilations: -(-distance // window),
            "your layers all reach `window` tokens: the dilations are not used",
            "a layer with dilation d reaches window · d tokens",
        ),
        Mistake(
            "largest dilation everywhere",
            lambda distance, window, dilations: -(-distance // (window * max(dilations))),
            "your layers all use the largest dilation",
            "take the dilations in turn, layer by layer",
        ),
        Mistake(
            "both sides",
            lambda distance, window, dilations: layers_to_reach(distance, 2 * window, dilations),
            "your layers reach 2·window: both sides are added up",
            "towards one token only one side helps: window per layer",
        ),
        Mistake(
            "keys instead of steps",
            lambda distance, window, dilations: layers_to_reach(
                distance, 2 * window + 1, dilations
            ),
            "your layers reach 2·window + 1, the number of keys",
            "count how far the farthest key lies, not how many keys there are",
        ),
        Mistake(
            "one layer too many",
            _layers_past_the_edge,
            "your count needs one layer more where the distance is met exactly",
            "a key at distance exactly the reach is reached: >= is enough",
        ),
        Mistake(
            "no second cycle",
            _layers_without_cycle,
            "your layers stop at the end of dilations",
            "after the last dilation the first one comes again",
        ),
        Mistake(
            "reaches multiplied",
            _layers_by_product,
            "your reaches multiply from layer to layer",
            "layers stand on each other: their reaches add",
        ),
        Mistake(
            "gap plus one",
            lambda distance, window, dilations: layers_to_reach(
                distance, window, tuple(dilation + 1 for dilation in dilations)
            ),
            "your dilation counts the skipped keys: dilation 1 already skips one",
            "dilation 1 is the plain window: neighbouring keys lie `dilation` apart",
        ),
    ),
    alternatives=(_layers_by_bisection, _layers_by_search),
)
