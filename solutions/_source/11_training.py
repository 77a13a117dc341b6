# %% [markdown]
# # 11 Exercises: what a training step holds
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("11.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# All is NumPy. A chain is L layers in a row, each with a weight (d, d); x is (n, d) with n ≫ d, so
# that weights weigh nothing beside activations. The layer below needs its input, and nothing else,
# to be undone.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint


def layer(x, weight):
    """Return the output of a layer, (n, d)."""
    return np.tanh(x) @ weight


def layer_backward(x, weight, grad):
    """Return the gradients of x and of weight, from that of the output."""
    active = np.tanh(x)
    return grad @ weight.T * (1 - active**2), active.T @ grad


# %% role="spec"
"""What the specs of this chapter share."""

import itertools
import math

import numpy as np

from attncourse.grading.spec import Case
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit


class Layer:
    """A layer tanh(x) W that counts how often it runs forward."""

    def __init__(self, weight):
        self.weight, self.runs = weight, 0

    def forward(self, x):
        self.runs += 1
        return np.tanh(x) @ self.weight

    def backward(self, x, grad):
        active = np.tanh(x)
        return (grad @ self.weight.T) * (1 - active**2), active.T @ grad


def backprop(layers, x, grad=None):
    """Return the gradients of x and of the weights, with all inputs kept."""
    inputs = [x]
    for each in layers:
        inputs.append(each.forward(inputs[-1]))
    grad, grads = inputs.pop() if grad is None else grad, []
    for each, own in zip(reversed(layers), reversed(inputs[: len(layers)]), strict=True):
        grad, new = each.backward(own, grad)
        grads.insert(0, new)
    return grad, np.array(grads)


def weights_of(rng, n_layers, width):
    """Draw weights under which activations neither grow nor vanish."""
    return 1.3 * rng.standard_normal((n_layers, width, width)) / width**0.5


# %% [markdown] role="prompt" exercise="11.1"
# ## 11.1 The bill of a step
#
# *12 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/11_training.ipynb#Where-the-memory-goes)
#
# Layer i has `parameters[i]` parameters and keeps `kept[i]` numbers, of `bytes_per_number` each,
# for its backward pass. That pass first makes the gradients of its parameters, then frees what the
# layer kept. Parameters, gradients and Adam's two moments are float32.

# %% [markdown] role="prompt" exercise="11.1"
# Return a dict of bytes: `resting`, before a step, without gradients; `after_forward`;
# `after_backward`, all gradients made; `peak`, the most at any moment; `added_up`, as if everything
# were held at once. Scratch aside.
#
# `step_bytes((2, 3), (5, 7), 4)`: 60, 108, 80, 120, 128.


# %% role="answer" exercise="11.1"
def step_bytes(parameters, kept, bytes_per_number):
    """Return what a training step holds, in bytes, a dict; two tuples, a number for each layer."""
    # BEGIN SOLUTION
    resting = (4 + 8) * sum(parameters)
    held = []  # beside that, while layer i is undone
    for i in range(len(parameters)):
        activations = sum(kept[: i + 1]) * bytes_per_number
        gradients = 4 * sum(parameters[i:])
        held.append(activations + gradients)
    return {
        "resting": resting,
        "after_forward": resting + sum(kept) * bytes_per_number,
        "after_backward": resting + 4 * sum(parameters),
        "peak": resting + max(held),
        "added_up": resting + 4 * sum(parameters) + sum(kept) * bytes_per_number,
    }
    # END SOLUTION


# %% role="check" exercise="11.1"
check("11.1")

# %% [markdown] role="hints" exercise="11.1"
# 1. Draw the step as a line of time. What is there from the first moment to the last, what grows
#    while the pass goes forward, and what grows while it goes back?
# 2. A parameter takes 4 bytes, its moments 8, its gradient 4. Backward goes from the last layer to
#    the first: while layer i is undone, which layers still keep their numbers, and which have
#    their gradients?
# 3. While layer i is undone: sum(kept[: i + 1]) · bytes_per_number + 4 · sum(parameters[i:]),
#    beside 12 · sum(parameters). The peak is the largest of these over i.


# %% role="spec" exercise="11.1"
def bytes_by_events(parameters, kept, bytes_per_number):
    """Walk through the step, and note what is held after each event."""
    now = resting = sum(12 * each for each in parameters)
    seen = []
    for each in kept:
        now += each * bytes_per_number
    after_forward = now
    for own, numbers in zip(parameters[::-1], kept[::-1], strict=True):
        now += 4 * own
        seen.append(now)
        now -= numbers * bytes_per_number
    return {
        "resting": resting,
        "after_forward": after_forward,
        "after_backward": now,
        "peak": max(seen),
        "added_up": now + after_forward - resting,
    }


def bytes_by_cumsum(parameters, kept, bytes_per_number):
    made = 4 * np.cumsum(np.array(parameters, object)[::-1])[::-1]
    still = bytes_per_number * np.cumsum(np.array(kept, object))
    resting = 3 * made[0]
    parts = [resting, resting + still[-1], 4 * made[0], resting + max(made + still)]
    names = ("resting", "after_forward", "after_backward", "peak", "added_up")
    return dict(zip(names, map(int, [*parts, parts[2] + still[-1]]), strict=True))


def drawn_layers(rng):
    count = int(rng.integers(2, 9))
    sizes = rng.integers(1, 900, (2, count))
    return (*(tuple(int(x) for x in row) for row in sizes), int(rng.choice([2, 4])))


Spec(
    kind="number",
    cases=[
        case("1 layer", (1,), (1,), 1),
        case("1 layer, primes", (3,), (7,), 5),
        case("2 layers", (2, 3), (5, 7), 4),
        case("the first layer has most parameters", (50, 3, 2), (7, 5, 11), 4),
        case("the last layer has most parameters", (2, 3, 50), (7, 5, 11), 4),
        case("the peak is in the middle", (3, 100, 5, 7), (11, 90, 80, 70), 2),
        case("few activations: the gradients are the peak", (50, 60, 70), (1, 2, 3), 2),
        case("a layer without parameters", (3, 0, 5), (7, 11, 2), 4),
        case("12 layers of d = 128, 2 texts of 512", (196_608,) * 12, (2_097_152,) * 12, 4),
        case("the same in 16 bits", (196_608,) * 12, (2_097_152,) * 12, 2),
        *draws(4, drawn_layers),
    ],
    mistakes=[
        edit("max(held)", "4 * sum(parameters) + sum(kept) * bytes_per_number",
             says="your peak adds up what is never held at once",
             next="the first layers' gradients are made when the last layers have freed theirs"),
        edit("max(held)", "sum(kept) * bytes_per_number",
             says="your peak is what the forward pass leaves, without a gradient",
             next="the last layer's gradients are made before anything is freed"),
        edit("kept[: i + 1]", "kept[:i]",
             says="your layers free what they kept before their gradients are made",
             next="while layer i is undone, it holds both: kept[: i + 1]"),
        edit("max(held)", "max(sum(kept) * bytes_per_number, 4 * sum(parameters))",
             says="your peak is the larger end of the backward pass, and it may lie between",
             next="look at each layer while it is undone"),
        edit("parameters[i:]", "parameters[: i + 1]", "kept[: i + 1]", "kept[i:]",
             says="your backward pass begins at the first layer",
             next="it goes from the last layer to the first"),
        edit("(4 + 8)", "4",
             says="your model rests without Adam's moments",
             next="they stay from step to step: 8 bytes a parameter beside the 4 of its own"),
        edit("(4 + 8)", "(4 + 4)",
             says="your optimizer keeps one moment",
             next="Adam has two, 4 bytes each"),
        edit("(4 + 8)", "(4 + 4 + 8)", "4 * sum(parameters)", "0",
             says="your gradients are there before the step",
             next="before a step there are parameters and moments: 12 bytes a parameter"),
        edit("4 * sum(parameters", "bytes_per_number * sum(parameters",
             says="your gradients have bytes_per_number each",
             next="gradients are float32: 4 bytes, whatever the activations are"),
        edit(" * bytes_per_number", " * 4",
             says="your activations are float32",
             next="what a layer keeps has bytes_per_number each"),
        edit(" * bytes_per_number", "",
             says="your activations are counted in numbers, not bytes",
             next="multiply by bytes_per_number"),
    ],
    alternatives=[bytes_by_events, bytes_by_cumsum],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/11_training.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
