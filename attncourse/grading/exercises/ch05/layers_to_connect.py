"""Exercise 05.4: how many layers of a mask join every pair."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from attncourse import graph
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import longformer, random_keys, strided, window


def layers_to_connect(mask: np.ndarray) -> int:
    """Return after how many layers every output depends on every input; -1: never."""
    needed = graph.hops(mask)
    return -1 if (needed < 0).any() else int(needed.max())


def _layers_by_search(mask):
    """Walk outwards from each token, a layer at a time."""
    deepest = 0
    for token in range(len(mask)):
        seen = np.arange(len(mask)) == token
        layers = 0
        while not seen.all():
            wider = seen | mask[seen].any(axis=0)
            if (wider == seen).all():
                return -1
            seen, layers = wider, layers + 1
        deepest = max(deepest, layers)
    return deepest


def _layers_by_products(mask, residual=True, most=None):
    """Multiply by the mask until all is reached."""
    n = len(mask)
    step = (mask | np.eye(n, dtype=bool) if residual else mask).astype(float)
    reached = np.eye(n)
    for layers in range((n if most is None else most) + 1):
        if reached.all():
            return layers
        reached = (step @ reached > 0).astype(float)
    return -1


def _layers_by_squares(mask):
    reached, layers = mask | np.eye(len(mask), dtype=bool), 1
    while not reached.all():
        wider = (reached.astype(float) @ reached) > 0
        if (wider == reached).all():
            return -1
        reached, layers = wider, layers + 1
    return layers if len(mask) > 1 else 0


def _layers_of_first(mask):
    needed = graph.hops(mask)[0]
    return -1 if (needed < 0).any() else int(needed.max())


def _layers_some(mask):
    needed = graph.hops(mask)
    return int(needed.max())


def _layers_undirected(mask):
    return layers_to_connect(mask | mask.T)


def _cases(generator: Generator) -> list[Case]:
    def one_way(n):
        """A ring in which each token hears from the one before only."""
        return np.roll(np.eye(n, dtype=bool), -1, axis=1)

    late = one_way(7) | np.eye(7, dtype=bool)
    late[0] = True  # token 0 hears all at once; the others take their time
    fixed = [
        ("1 token", np.ones((1, 1), bool)),
        ("2 tokens that do not meet", np.eye(2, dtype=bool)),
        ("2 tokens, own keys hidden", ~np.eye(2, dtype=bool)),
        ("3 tokens, full", np.ones((3, 3), bool)),
        ("a window of 1", window.mask(6, 6, window=1)),
        ("a causal window: never", window.mask(6, 6, window=1, causal=True)),
        ("a one-way ring", one_way(6)),
        ("one token is quick", late),
        ("stride 3: islands", strided.mask(12, 12, stride=3)),
        ("a hub", longformer.mask(20, 20, window=1, global_tokens=[7])),
        ("a window of 3, 100 tokens", window.mask(100, 100, window=3)),
        ("one random key: never", random_keys.mask(60, 60, n_random=1, seed=0)),
    ]
    n, seed = int(generator.integers(30, 90)), int(generator.integers(1000))
    ring = one_way(n) | np.eye(n, dtype=bool)
    short_cuts = random_keys.mask(n, n, n_random=1, seed=seed)
    fixed += [
        (f"random, ring of {n} with short cuts", ring | short_cuts),
        (f"random, 3 random keys of {n}", random_keys.mask(n, n, n_random=3, seed=seed)),
    ]
    return [Case(name, (mask,)) for name, mask in fixed]


LAYERS_TO_CONNECT = Exercise(
    id="05.4",
    chapter="05",
    title="Layers until all have met",
    function="layers_to_connect",
    kind="number",
    minutes=15,
    difficulty=2,
    points=3,
    hints=(
        "Keep a matrix of who has heard from whom. What is it before the first layer, and what "
        "does one layer do to it?",
        "reached starts as the identity: each token knows itself. One layer: i hears all that its "
        "keys j have heard, and keeps what it had. That is a matrix product of booleans.",
        "step = mask | identity; count layers while not reached.all(); reached = (step @ reached) "
        "> 0 on integers; return -1 as soon as a layer adds nothing.",
    ),
    reference=layers_to_connect,
    cases=_cases,
    mistakes=(
        Mistake(
            "no residual",
            lambda mask: _layers_by_products(mask, residual=False, most=4 * len(mask)),
            "your tokens forget what they knew: the residual connection is missing",
            "add the identity to the mask: each layer keeps a token's own input",
        ),
        Mistake(
            "links both ways",
            _layers_undirected,
            "your links carry information both ways",
            "mask[i, j] lets i hear from j; j does not hear from i by that",
        ),
        Mistake(
            "squares counted as layers",
            _layers_by_squares,
            "your steps double: a squared matrix is two layers, squared again four",
            "multiply by the mask once per layer, or count 1, 2, 4, … and then search",
        ),
        Mistake(
            "first token only",
            _layers_of_first,
            "your answer holds for token 0 alone",
            "every token must have heard from every other",
        ),
        Mistake(
            "islands overlooked",
            _layers_some,
            "your answer is the longest path among pairs that do meet, though some never do",
            "return -1 if any pair is never joined",
        ),
        Mistake(
            "one layer too many",
            lambda mask: (found := layers_to_connect(mask)) + (found >= 0),
            "your count starts with 1 before any layer has run",
            "the identity is layer 0: with one token the answer is 0",
        ),
        Mistake(
            "never is n",
            lambda mask: len(mask) if layers_to_connect(mask) < 0 else layers_to_connect(mask),
            "your answer for islands is the number of tokens",
            "return -1 where no number of layers is enough",
        ),
    ),
    alternatives=(_layers_by_search, _layers_by_products),
)
