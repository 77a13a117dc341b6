# %% [markdown]
# # 11 Exercises: what a training step holds
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("11.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# A chain is L layers in a row, each with a weight (d, d); x is (n, d) with n ≫ d, so that weights
# take little beside activations. To be undone, a layer needs its input alone. The loss of a chain
# is half the sum of the squares of its output: the gradient there is the output itself.

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
             next="while layer i is undone, it holds both: kept[: i + 1]",
             also=[edit("kept[: i + 1]", "kept[:i]",
                        "max(held)", "max(*held, sum(kept) * bytes_per_number)")]),
        edit("max(held)", "max(sum(kept) * bytes_per_number, 4 * sum(parameters))",
             says="your peak is the larger end of the backward pass, and it may lie between",
             next="look at each layer while it is undone"),
        edit("parameters[i:]", "parameters[: i + 1]", "kept[: i + 1]", "kept[i:]",
             says="your backward pass begins at the first layer",
             next="it goes from the last layer to the first"),
        edit('"added_up": resting + 4 * sum(parameters)', '"added_up": resting',
             says="your sum leaves out the gradients",
             next="added up is everything: parameters, moments, gradients, activations"),
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
# <details><summary>After your answer: what is never there together</summary>
#
# 12 layers of 196,608 parameters that keep 2,097,152 numbers each, as in the cases: 28.3 MB at
# rest, 129.0 MB after the forward pass, 129.8 MB at the peak. Added up it is 138.4 MB: gradients
# come as activations go.
#
# </details>

# %% [markdown] role="prompt" exercise="11.2"
# ## 11.2 Keep every k-th
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/11_training.ipynb#Compute-it-twice)
#
# On the way forward keep the inputs of layers 0, `every`, 2·`every` … of the chain. Make the others
# again on the way back, a segment at a time; the last segment may be shorter.

# %% [markdown] role="prompt" exercise="11.2"
# Return a tuple: the gradient of x, and those of the weights `(L, d, d)`. `layer` and
# `layer_backward` stand above.
#
# **Memory limit** at L = 30, every = 5, x of 1024 × 16: 20 arrays as large as x, 1.25 MiB. All
# inputs alone take 30.


# %% role="answer" exercise="11.2"
def chain_gradients(x, weights, every):
    """Return the gradients of x (n, d) and of the weights (L, d, d), as a tuple."""
    # BEGIN SOLUTION
    n_layers, kept = len(weights), []
    for i in range(n_layers):
        if i % every == 0:
            kept.append(x)
        x = layer(x, weights[i])
    grad, grads = x, np.zeros_like(weights)
    for start in reversed(range(0, n_layers, every)):
        end = min(start + every, n_layers)
        inputs = [kept.pop()]
        for i in range(start, end - 1):
            inputs.append(layer(inputs[-1], weights[i]))
        for i in reversed(range(start, end)):
            grad, grads[i] = layer_backward(inputs.pop(), weights[i], grad)
    return grad, grads
    # END SOLUTION


# %% role="check" exercise="11.2"
check("11.2")

# %% [markdown] role="hints" exercise="11.2"
# 1. Write it with all inputs kept first: L inputs forward, then from the last layer to the first.
#    Which of them does a layer need to be undone, and when is each needed last?
# 2. Forward, append x to a list where i % every == 0, and overwrite x otherwise. Backward, take one
#    segment at a time, the last one first: run its layers from the kept input, then undo them.
# 3. For start in reversed(range(0, L, every)): end = min(start + every, L); inputs = [kept.pop()]
#    and one more for each layer in range(start, end - 1); then for i from end - 1 down to start:
#    grad, grads[i] = layer_backward(inputs.pop(), weights[i], grad).


# %% role="spec" exercise="11.2"
def all_kept(x, weights, every):
    layers, inputs = [Layer(weight) for weight in weights], [x]
    for each in layers:
        inputs.append(each.forward(inputs[-1]))
    grad, grads = inputs.pop(), []
    for each, own in zip(reversed(layers), reversed(inputs), strict=True):
        grad, new = each.backward(own, grad)
        grads.append(new)
    return grad, np.array(grads[::-1])


def by_segments(x, weights, every):
    """Cut into parts first; a part alone knows nothing of the others."""
    starts, layers = [], [Layer(weight) for weight in weights]
    parts = [layers[i : i + every] for i in range(0, len(layers), every)]
    for part in parts:
        starts.append(x)
        for each in part:
            x = each.forward(x)
    grad, found = x, []
    for part, start in zip(reversed(parts), reversed(starts), strict=True):
        inputs = [start]
        for each in part[:-1]:
            inputs.append(each.forward(inputs[-1]))
        for each in reversed(part):
            grad, new = each.backward(inputs.pop(), grad)
            found.append(new)
    return grad, np.stack(found[::-1])


def by_recursion(x, weights, every):
    """Let each segment call the next: what it was called with is what is kept."""
    grads = np.zeros(weights.shape, weights.dtype)

    def undo(start, h):
        if start >= len(weights):
            return h
        end, y = min(start + every, len(weights)), h
        for weight in weights[start:end]:
            y = Layer(weight).forward(y)
        grad = undo(end, y)
        del y
        inputs = [h]
        for weight in weights[start : end - 1]:
            inputs.append(Layer(weight).forward(inputs[-1]))
        for i in range(end - 1, start - 1, -1):
            grad, grads[i] = Layer(weights[i]).backward(inputs.pop(), grad)
        return grad

    return undo(0, x), grads


def inputs_never_freed(x, weights, every):
    """Make the inputs of each segment again, into one list that grows to all of them."""
    kept = {}
    for i, weight in enumerate(weights):
        if i % every == 0:
            kept[i] = x
        x = Layer(weight).forward(x)
    grad, grads = x, np.empty_like(weights)
    for start in range((len(weights) - 1) // every * every, -1, -every):
        end = min(start + every, len(weights))
        for i in range(start, end - 1):
            kept[i + 1] = Layer(weights[i]).forward(kept[i])
        for i in reversed(range(start, end)):
            grad, grads[i] = Layer(weights[i]).backward(kept[i], grad)
    return grad, grads


def chain(name, n_layers, every, n=3, width=2, dtype=np.float32):
    def make(rng):
        x, weights = rng.standard_normal((n, width)), weights_of(rng, n_layers, width)
        return Case(name, (x.astype(dtype), weights.astype(dtype), every))

    return make


def random_chain(rng):
    n_layers, every, n, width = (int(size) for size in rng.integers((4, 2, 2, 2), (16, 7, 9, 6)))
    return chain(f"random, {n_layers} layers, every {every}", n_layers, every, n, width)(rng)


Spec(
    kind="array",
    cases=[
        chain("1 layer", 1, 1, 1, 2),
        chain("2 layers, every one", 2, 1),
        chain("2 layers, one segment", 2, 2),
        chain("4 layers, every second", 4, 2, 3, 3),
        chain("the last segment is shorter", 5, 3, 4, 3),
        chain("the last segment is one layer", 7, 3, 4, 3),
        chain("a segment longer than the chain", 3, 8, 4, 3),
        chain("every one of 6", 6, 1, 5, 2),
        chain("1 token", 5, 2, 1, 4),
        chain("float64", 6, 4, 3, 5, np.float64),
        random_chain,
        random_chain,
    ],
    memory=Memory(
        chain("L = 30, every = 5", 30, 5, 1024, 16),
        20 * 1024 * 16 * 4,
        "20 arrays as large as x: 20 · 1024 · 16 · 4 bytes",
    ),
    mistakes=[
        Mistake(all_kept,
                says="your step holds the inputs of all layers at once",
                next="keep x only where i % every == 0, and let go of what a segment made again "
                "once it is undone",
                variants=(inputs_never_freed,)),
        edit("        if i % every == 0:\n            kept.append(x)\n", "        kept.append(x)\n",
             "kept.pop()", "kept[start]",
             says="your way forward keeps all inputs, though the way back makes them again",
             next="keep x only where i % every == 0"),
        edit("reversed(range(0, n_layers, every))",
             "reversed(range(0, n_layers // every * every or n_layers, every))",
             "kept.pop()", "kept[start // every]",
             says="your last, shorter segment is never undone",
             next="segments start at range(0, L, every), and end at min(start + every, L)"),
        edit("reversed(range(0, n_layers, every))", "range(0, n_layers, every)",
             "kept.pop()", "kept.pop(0)",
             says="your segments are undone from the first to the last",
             next="the gradient comes from the output: begin with the last segment"),
        edit("in reversed(range(start, end)):", "in range(start, end):",
             "inputs.pop()", "inputs.pop(0)",
             says="your layers in a segment are undone from the first to the last",
             next="inside a segment, too, the last layer comes first"),
        edit("        for i in range(start, end - 1):\n"
             "            inputs.append(layer(inputs[-1], weights[i]))\n",
             "        inputs = inputs * (end - start)\n",
             says="your layers are all undone at their segment's first input",
             next="run the segment's layers again: each has an input of its own"),
        edit("layer(inputs[-1], weights[i])", "layer(inputs[-1], weights[end - 1])",
             says="your segment runs again with another layer's weight",
             next="the input of layer i + 1 is layer(input of i, weights[i])"),
        edit("range(start, end - 1)", "range(start, end)",
             "reversed(range(start, end)):",
             "reversed(range(start, end)):\n            at = inputs.pop()",
             "layer_backward(inputs.pop()", "layer_backward(at",
             says="your layers are undone at their outputs",
             next="a segment of k layers has k inputs: the kept one and k - 1 made again"),
        edit("grad, grads[i] = layer_backward", "_, grads[i] = layer_backward",
             says="your gradient is the output's at each layer",
             next="each layer's backward pass gives the gradient for the layer before it"),
        edit("grad, grads = x,", "grad, grads = np.ones_like(x),",
             says="your gradient starts with ones, as if the loss were the sum of the outputs",
             next="half the sum of squares has the output itself as gradient"),
    ],
    alternatives=[by_segments, by_recursion],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="11.3"
# ## 11.3 The best distance
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/11_training.ipynb#Compute-it-twice)
#
# L layers are cut into segments of `every`; the last may be shorter. Set aside room for each
# segment's input, and for what the layers of the longest keep, `per_layer` tensors each. The last
# segment runs once, unlike the chapter's: its tensors are there.

# %% [markdown] role="prompt" exercise="11.3"
# Return a dict: `held`, all tensors; `again`, layers that run twice; `times`, the work over that of
# a step that keeps everything, where a backward pass is twice a forward pass; `best`, the distance
# that holds least: of several the one with least `again`, then the smallest.
#
# `checkpoint_bill(12, 3, 1)`: 7, 9, 1.25, 4.


# %% role="answer" exercise="11.3"
def checkpoint_bill(n_layers, every, per_layer):
    """Return held, again and best, ints, and times, a float, as a dict."""

    # BEGIN SOLUTION
    def held(k):
        return -(-n_layers // k) + min(k, n_layers) * per_layer

    def again(k):
        return (-(-n_layers // k) - 1) * k

    return {
        "held": held(every),
        "again": again(every),
        "times": (3 * n_layers + again(every)) / (3 * n_layers),
        "best": min(range(1, n_layers + 1), key=lambda k: (held(k), again(k))),
    }
    # END SOLUTION


# %% role="check" exercise="11.3"
check("11.3")

# %% [markdown] role="hints" exercise="11.3"
# 1. Write down the segments of 7 layers, three at a time. How many are there, how long is the
#    longest, and which layers run again?
# 2. There are ceil(L / k) segments, and the longest has min(k, L) layers. All but the last one run
#    again, and those have k layers each. A step that keeps everything is 3 L forward passes of a
#    layer.
# 3. held = -(-L // k) + min(k, L) · per_layer; again = (-(-L // k) - 1) · k; times = (3 L + again)
#    / (3 L); best = min(range(1, L + 1), key=lambda k: (held of k, again of k)).


# %% role="spec" exercise="11.3"
def bill_by_segments(n_layers, every, per_layer):
    def cut(k):
        return [min(start + k, n_layers) - start for start in range(0, n_layers, k)]

    def held(k):
        return len(cut(k)) + max(cut(k)) * per_layer

    least = min(map(held, range(1, n_layers + 1)))
    candidates = [k for k in range(1, n_layers + 1) if held(k) == least]
    fewest = min(sum(cut(k)[:-1]) for k in candidates)
    again = sum(cut(every)[:-1])
    return {
        "held": held(every),
        "again": again,
        "times": 1 + again / (3 * n_layers),
        "best": next(k for k in candidates if sum(cut(k)[:-1]) == fewest),
    }


Spec(
    kind="number",
    cases=[
        case("1 layer", 1, 1, 1),
        case("2 layers, every second", 2, 2, 1),
        case("3 layers, every one", 3, 1, 2),
        case("12 layers, every third", 12, 3, 1),
        case("the last segment is shorter", 12, 5, 1),
        case("the last segment is one layer", 13, 4, 3),
        case("a segment as long as the chain", 7, 7, 2),
        case("a segment longer than the chain", 7, 20, 1),
        case("11 layers, every second", 11, 2, 1),
        case("100 layers, every tenth", 100, 10, 1),
        case("96 layers, every one", 96, 1, 1),
        case("12 layers that keep 21 tensors each", 12, 3, 21),
        case("two distances are equally good", 13, 5, 2),
        *draws(5, lambda rng: rng.integers((5, 2, 1), (200, 25, 9))),
    ],
    mistakes=[
        edit(" + min(k, n_layers) * per_layer", "",
             says="your room is for the segments' inputs alone",
             next="while a segment is undone, what its layers keep is there too"),
        edit("return (-(-n_layers // k) - 1) * k", "return n_layers",
             says="your last segment runs again, too",
             next="its tensors are still there: count the segments before it"),
        edit("(3 * n_layers + again(every)) / (3 * n_layers)",
             "(n_layers + again(every)) / n_layers",
             says="your step is a forward pass only",
             next="the backward pass is twice as much work, and is done once: a step is 3 L"),
        edit("min(range(1, n_layers + 1), key=lambda k: (held(k), again(k)))",
             "int(n_layers**0.5)",
             says="your best distance is √L, rounded down",
             next="try all distances: with whole segments √L is not always best, nor where a layer "
             "keeps more than one tensor"),
        edit("(held(k), again(k))", "held(k)",
             says="your best distance is the smallest of those that hold least",
             next="among equals take the one with the fewest layers again"),
        edit("range(1, n_layers + 1), key", "reversed(range(1, n_layers + 1)), key",
             says="your best distance is the largest of those that are equally good",
             next="where room and work are the same, take the smallest"),
        edit("return (-(-n_layers // k) - 1) * k", "return max(0, n_layers - k)",
             says="your last segment is as long as the others",
             next="only full segments run again: (number of segments - 1) · k layers"),
        edit("-(-n_layers // k) + min", "n_layers // k + min",
             says="your segments leave out the last, shorter one",
             next="round up: -(-L // k)"),
        edit("-(-n_layers // k) + min", "(n_layers // k + 1) + min",
             says="you count one segment too many where k divides L",
             next="round up: -(-L // k) adds one only if something is left"),
        edit("min(k, n_layers) *", "k *",
             says="your longest segment is longer than the chain",
             next="a segment has at most L layers: min(k, L)"),
        edit("(held(k), again(k))", "(again(k), held(k))",
             says="your best distance is the one that runs the fewest layers again",
             next="the room counts first; the work decides among equals"),
        edit("-(-n_layers // k) + min(k, n_layers) * per_layer",
             "(-(-n_layers // k) + min(k, n_layers)) * per_layer",
             says="your segments' inputs take per_layer tensors each",
             next="an input is one tensor: only the layers of one segment keep per_layer each"),
        edit(" * per_layer", "",
             says="your layers keep one tensor each",
             next="each layer of the segment keeps per_layer tensors"),
    ],
    alternatives=[
        bill_by_segments,
        edit("(3 * n_layers + again(every)) / (3 * n_layers)", "1 + again(every) / n_layers / 3",
             "return (-(-n_layers // k) - 1) * k", "return (n_layers - 1) // k * k"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: three times less?</summary>
#
# Chapter E keeps every third of 12 and divides the memory by three (C297): the four inputs alone.
# With the segment's three tensors it is 12 / 7 = 1.7 times less, for 1.25 times the work; every
# fourth holds as little for 1.22. With 21 tensors a layer, 1 is best.
#
# </details>

# %% [markdown] role="prompt" exercise="11.4"
# ## 11.4 Undo a block
#
# *25 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/11_training.ipynb#Compute-it-backwards)
#
# A reversible block makes y1 = x1 + F(x2) and y2 = x2 + G(y1). F and G are a `layer` each. Run
# blocks in a row; then compute the inputs back from the outputs, and the gradients on the way.

# %% [markdown] role="prompt" exercise="11.4"
# `backward` is called on a new object, which has seen no x: all that it needs is y1 and y2, and
# their gradients.
#
# **Memory limit** for a pass there and back through 16 blocks, halves of 1024 × 16: 20 arrays as
# large as a half, 1.25 MiB. The inputs of all blocks alone are 32.


# %% role="answer" exercise="11.4"
class Reversible:
    """Blocks in a row that keep no activations."""

    def __init__(self, f, g):
        """Take the weights of each block's F and G, (L, d, d) each."""
        # BEGIN SOLUTION
        self.f, self.g = f, g
        # END SOLUTION

    def forward(self, x1, x2):
        """Return y1, y2 of the last block, (n, d) each."""
        # BEGIN SOLUTION
        for f, g in zip(self.f, self.g, strict=True):
            x1 = x1 + layer(x2, f)
            x2 = x2 + layer(x1, g)
        return x1, x2
        # END SOLUTION

    def backward(self, y1, y2, grad1, grad2):
        """Return x1, x2, their gradients and those of f and g; grad1 is that of y1."""
        # BEGIN SOLUTION
        grad_f, grad_g = np.zeros_like(self.f), np.zeros_like(self.g)
        for i in reversed(range(len(self.f))):
            y2 = y2 - layer(y1, self.g[i])  # x2 of the block from here on
            part, grad_g[i] = layer_backward(y1, self.g[i], grad2)
            grad1 = grad1 + part
            y1 = y1 - layer(y2, self.f[i])
            part, grad_f[i] = layer_backward(y2, self.f[i], grad1)
            grad2 = grad2 + part
        return y1, y2, grad1, grad2, grad_f, grad_g
        # END SOLUTION


# %% role="check" exercise="11.4"
check("11.4")

# %% [markdown] role="hints" exercise="11.4"
# 1. One block first. Of y1 and y2, which tells you at once what was added to the other? And which
#    of the two gradients is complete from the start?
# 2. x2 = y2 - G(y1), then x1 = y1 - F(x2). The loss sees y1 in two ways, directly and through G: to
#    grad1 comes what `layer_backward` of G gives. Likewise x2, through F.
# 3. From the last block: y2 -= G(y1); part, grad_g[i] = layer_backward(y1, g[i], grad2); grad1 +=
#    part; y1 -= F(y2); part, grad_f[i] = layer_backward(y2, f[i], grad1); grad2 += part.


# %% role="spec" exercise="11.4"
class ReversibleByHalves:
    """Both halves in one list, and F and G by turns: each step changes one half by the other."""

    def __init__(self, f, g):
        self.weights = [w for pair in zip(f, g, strict=True) for w in pair]

    def forward(self, x1, x2):
        halves = [np.array(x1), np.array(x2)]
        for number, weight in enumerate(self.weights):
            halves[number % 2] += Layer(weight).forward(halves[1 - number % 2])
        return tuple(halves)

    def backward(self, y1, y2, grad1, grad2):
        halves, grads = [np.array(y1), np.array(y2)], [np.array(grad1), np.array(grad2)]
        found = [[], []]
        for number in reversed(range(len(self.weights))):
            changed, given = number % 2, 1 - number % 2
            one = Layer(self.weights[number])
            halves[changed] -= one.forward(halves[given])
            part, new = one.backward(halves[given], grads[changed])
            grads[given] += part
            found[changed].append(new)
        return (*halves, *grads, *(np.stack(part[::-1]) for part in found))


class ReversibleByPairs:
    """Lists of weights, the last taken first; F and G written out."""

    def __init__(self, f, g):
        self.pairs = list(zip(f, g, strict=True))

    def forward(self, x1, x2):
        for f, g in self.pairs:
            x1 = np.add(x1, np.dot(np.tanh(x2), f))
            x2 = np.add(x2, np.dot(np.tanh(x1), g))
        return x1, x2

    def backward(self, y1, y2, grad1, grad2):
        found = []
        for f, g in self.pairs[::-1]:
            active = np.tanh(y1)
            own_g = np.einsum("ni,nj->ij", active, grad2)
            y2 = y2 - active @ g
            grad1 = grad1 + (1 - active) * (1 + active) * np.dot(grad2, g.T)
            active = np.tanh(y2)
            y1 = y1 - active @ f
            found.append((np.einsum("ni,nj->ij", active, grad1), own_g))
            grad2 = grad2 + (1 - active) * (1 + active) * np.dot(grad1, f.T)
        grads = np.array(found[::-1])
        return y1, y2, grad1, grad2, grads[:, 0], grads[:, 1]


class InputsKept(ReversibleByHalves):
    """Keeps on its way what came into each block, as autograd would."""

    def forward(self, x1, x2):
        self.inputs = [(x1, x2)]
        for f, g in zip(self.weights[::2], self.weights[1::2], strict=True):
            x1 = x1 + Layer(f).forward(x2)
            self.inputs.append((x1, x2 + Layer(g).forward(x1)))
            x2 = self.inputs[-1][1]
        return x1.copy(), x2.copy()


class InputsFirst(InputsKept):
    """Computes the inputs of all blocks back before it takes the first gradient."""

    def forward(self, x1, x2):
        return ReversibleByHalves.forward(self, x1, x2)

    def backward(self, *outputs_and_gradients):
        back = ReversibleByHalves.backward(self, *outputs_and_gradients)
        InputsKept.forward(self, *back[:2])
        return back


def there_and_back(answer, x1, x2, f, g, grad1, grad2):
    """Go forward by one object and back by another, which has nothing but the outputs."""
    y1, y2 = answer(f, g).forward(x1, x2)
    seen = {"y1": y1, "y2": y2}
    names = ("x1 computed back", "x2 computed back", "gradient of x1", "gradient of x2")
    mine = [each.copy() for each in (y1, y2, grad1, grad2)]  # to be written to, if one likes
    found = answer(f, g).backward(*mine)
    names += ("gradients of f", "gradients of g")
    return seen | dict(zip(names, found, strict=True))


def blocks(name, n_blocks, n=3, width=2, dtype=np.float32):
    def make(rng):
        x1, x2, grad1, grad2 = rng.standard_normal((4, n, width))
        f, g = weights_of(rng, 2 * n_blocks, width).reshape(2, n_blocks, width, width)
        return Case(name, tuple(each.astype(dtype) for each in (x1, x2, f, g, grad1, grad2)))

    return make


def random_blocks(rng):
    sizes = [int(size) for size in rng.integers((2, 2, 2), (9, 9, 6))]
    return blocks("random, {} blocks of {} × {}".format(*sizes), *sizes)(rng)


Spec(
    kind="class",
    drive=there_and_back,
    cases=[
        blocks("1 block, 1 token", 1, 1, 3),
        blocks("1 block, 3 tokens", 1, 3, 2),
        blocks("2 blocks", 2, 3, 2),
        blocks("3 blocks, 1 token", 3, 1, 4),
        blocks("5 blocks, narrow", 5, 7, 2),
        blocks("12 blocks", 12, 5, 3),
        blocks("12 blocks in float64", 12, 5, 3, np.float64),
        random_blocks,
        random_blocks,
    ],
    memory=Memory(
        blocks("16 blocks", 16, 1024, 16),
        20 * 1024 * 16 * 4,
        "20 arrays as large as a half: 20 · 1024 · 16 · 4 bytes",
    ),
    mistakes=[
        edit("grad1 = grad1 + part", "grad1 = part",
             "grad2 = grad2 + part", "grad2 = part",
             says="your gradients lose what comes straight through the sum",
             next="y1 = x1 + F(x2): what arrives at y1 goes on to x1, and F's part comes on top"),
        edit("            grad1 = grad1 + part\n", "            late = part\n",
             "            grad2 = grad2 + part\n",
             "            grad2 = grad2 + part\n            grad1 = grad1 + late\n",
             says="your F gets its gradient before the part that comes through G is in it",
             next="grad1 + the part of G first, then F: y1 reaches the loss in two ways"),
        edit("y2 = y2 - layer(y1, self.g[i])  # x2 of the block from here on\n",
             "x1 = y1 - layer(y2, self.f[i])\n            y2 = y2 - layer(y1, self.g[i])\n",
             "y1 = y1 - layer(y2, self.f[i])", "y1 = x1",
             says="your x1 is computed back with F(y2)",
             next="F was added for x2, so x2 has to be there first: x1 = y1 - F(x2)"),
        edit("x2 = x2 + layer(x1, g)\n", "x2 = x2 + layer(x1 - layer(x2, f), g)\n",
             says="your G sees x1, not y1",
             next="y2 = x2 + G(y1): the half that has just changed"),
        Mistake(InputsKept,
                says="your pass holds the inputs of all blocks at once",
                next="undo a block, take its gradients, and forget its inputs before the next",
                variants=(InputsFirst,)),
        edit("in reversed(range(len(self.f)))", "in range(len(self.f))",
             says="your blocks are undone from the first to the last",
             next="the last block comes first: only its outputs are known"),
        edit("y2 = y2 - layer", "old, y2 = y2, y2 - layer",
             "layer_backward(y2, self.f[i], grad1)", "layer_backward(old, self.f[i], grad1)",
             says="your F is undone at y2",
             next="F's input was x2: subtract G(y1) from y2 first"),
        edit("            y1 = y1 - layer(y2, self.f[i])\n", "",
             "            part, grad_g[i] =",
             "            y1 = y1 - layer(y2, self.f[i])\n            part, grad_g[i] =",
             says="your G is undone at x1",
             next="G's input was y1: take its gradient before you subtract F(x2)"),
        edit("y2 = y2 - layer", "y2 = y2 + layer", "y1 = y1 - layer", "y1 = y1 + layer",
             says="your inverse adds once more what forward has added",
             next="x2 = y2 - G(y1), x1 = y1 - F(x2)"),
        edit("grad_f, grad_g\n", "grad_g, grad_f\n",
             says="your gradients of f and g are exchanged",
             next="return x1, x2, their gradients, then those of f, then those of g"),
    ],
    alternatives=[ReversibleByHalves, ReversibleByPairs],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="11.5"
# ## 11.5 A loss scale that moves
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/11_training.ipynb#Half-the-bits)
#
# A model computes in float16; masters, its weights in float32, take the updates. The loss is
# multiplied by `scale`, lest small gradients become 0. So `step` is given `scale` times the
# gradients, in float16.

# %% [markdown] role="prompt" exercise="11.5"
# A step subtracts `rate` times the gradient from the masters and rounds them to the weights. After
# `interval` such steps in a row `scale` doubles, and the row begins anew. If any number is infinite
# or NaN, nothing moves, `scale` is halved, though never below 1, and the row begins anew as well.


# %% role="answer" exercise="11.5"
class ScaledSteps:
    """Steps of a model in float16, with `masters` (float32), `weights` (float16) and `scale`."""

    def __init__(self, weights, rate, scale, interval):
        """Take float32 weights of any shape, the rate, the first scale and the interval."""
        # BEGIN SOLUTION
        self.masters = weights.astype(np.float32)
        self.weights = self.masters.astype(np.float16)
        self.rate, self.scale, self.interval = rate, scale, interval
        self.good = 0
        # END SOLUTION

    def step(self, scaled_grad):
        """Take a step with `scale` times the gradients, float16; return whether anything moved."""
        # BEGIN SOLUTION
        if not np.isfinite(scaled_grad).all():
            self.scale, self.good = max(self.scale / 2, 1.0), 0
            return False
        grad = scaled_grad.astype(np.float32) / self.scale
        self.masters -= self.rate * grad
        self.weights = self.masters.astype(np.float16)
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0
        return True
        # END SOLUTION


# %% role="check" exercise="11.5"
check("11.5")

# %% [markdown] role="hints" exercise="11.5"
# 1. In which of the two dtypes must the gradient be when it is divided by the scale? Try
#    np.float16(1e-4) / 2**14.
# 2. First look whether all numbers are finite. If not: halve, begin the row anew, return False. If
#    so: widen to float32, divide, subtract from the masters, round them, and only then count.
# 3. self.masters -= self.rate * (scaled_grad.astype(np.float32) / self.scale); self.weights =
#    self.masters.astype(np.float16); self.good += 1; at the interval double the scale and set good
#    to 0. np.isfinite(scaled_grad).all() says whether to step.


# %% role="spec" exercise="11.5"
class StepsByExponent:
    """The scale as a power of 2 beside the first one, and the row as a list."""

    def __init__(self, weights, rate, scale, interval):
        self.masters, self.rate = np.array(weights, np.float32), np.float32(rate)
        self.weights, self.row = np.float16(self.masters), []
        self.first, self.power, self.interval = scale, 0, interval

    @property
    def scale(self):
        return math.ldexp(self.first, self.power)

    def step(self, scaled_grad):
        wide = np.abs(scaled_grad, dtype=np.float32)
        if (moved := bool((wide < np.inf).all())) is False:
            self.power -= self.scale >= 2
            self.row.clear()
            return moved
        update = scaled_grad * np.float32(self.rate / self.scale)
        self.masters = np.subtract(self.masters, update)
        self.weights = np.float16(self.masters)
        self.row.append(update)
        if len(self.row) >= self.interval:
            self.row, self.power = [], self.power + 1
        return moved


class StepsByCountdown:
    """Counts down to the next doubling, and keeps the rate over the scale."""

    def __init__(self, weights, rate, scale, interval):
        self.masters = np.asarray(weights, dtype="f4").copy()
        self.rate, self.interval = rate, interval
        self.set(scale)
        self.round()

    def set(self, scale):
        self.scale, self.left = float(scale), self.interval

    def round(self):
        self.weights = self.masters.astype("f2")

    def step(self, scaled_grad):
        total = scaled_grad.astype(np.float64).sum()  # finite exactly if all numbers are
        if math.isnan(total) or math.isinf(total):
            self.set(self.scale / 2 if self.scale > 1 else 1)
            return False
        update = self.rate / self.scale * scaled_grad.astype("f8")
        self.masters = (self.masters - update).astype("f4")
        self.round()
        self.left -= 1
        if self.left == 0:
            self.set(2 * self.scale)
        return True


def take_steps(answer, weights, gradients, rate, scale, interval):
    """Take a step with each gradient, scaled and rounded as a float16 backward pass would."""
    made, seen = answer(weights, rate, scale, interval), {}
    for number, gradient in enumerate(gradients, 1):
        with np.errstate(over="ignore"):
            scaled = (gradient.astype(np.float64) * made.scale).astype(np.float16)
        seen[f"step {number} moved"] = made.step(scaled)
        seen[f"scale after step {number}"] = made.scale
        seen[f"masters after step {number}"] = made.masters.copy()
    rounded, new = made.masters.astype(np.float16), made.weights
    first = weights.astype(np.float16)
    words = "those of the start" if np.array_equal(new, first) else "other numbers"
    return seen | {
        "dtype of the weights": str(new.dtype),
        "weights": "the masters, rounded" if np.array_equal(new, rounded) else words,
    }


def descent(name, sizes, scale, interval, rate=0.5, weights=1.0, shape=(4,)):
    """Return a maker of a case with gradients of about these sizes, one or all not finite."""

    def make(rng):
        start = weights * rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape)
        gradients = rng.choice([-1, 1], (len(sizes), *shape)) * rng.uniform(0.5, 1, shape)
        for gradient, size in zip(gradients, sizes, strict=True):
            if math.isfinite(size):
                gradient *= size
            else:
                gradient.flat[-1] = size
        arrays = (each.astype(np.float32) for each in (start, gradients))
        return Case(name, (*arrays, rate, float(scale), interval))

    return make


def random_descent(rng):
    sizes = 10.0 ** rng.integers(-5, 2, 12)
    scale, interval = 2.0 ** rng.integers(9, 15), int(rng.integers(1, 4))
    name = f"random, scale {scale:g}, interval {interval}"
    return descent(name, sizes, scale, interval, rate=0.01, shape=(3, 2))(rng)


Spec(
    kind="class",
    drive=take_steps,
    cases=[
        descent("one step", (0.1,), 1, 9, shape=(1,)),
        descent("scale 2", (0.1,), 2, 9),
        descent("scale 2^14: divide in float32", (0.5,), 2**14, 9, 64, 0.01),
        descent("gradients of 10^-8", (1e-8, 2e-8), 2**14, 9, 64, 1e-5),
        descent("updates below float16's step", (3e-4,) * 6, 2**7, 9),
        descent("doubled after 2 steps", (0.1,) * 5, 8, 2),
        descent("doubled after each step", (0.1,) * 3, 8, 1),
        descent("overflow", (0.1, 10, 0.1), 2**14, 9),
        descent("one NaN", (0.1, np.nan, 0.1), 2**10, 9),
        descent("one minus infinity", (0.1, -np.inf, 0.1), 2**10, 9),
        descent("an overflow begins the row anew", (0.1, 0.1, np.inf, 0.1, 0.1, 0.1, 0.1), 64, 3),
        descent("never below 1", (np.inf, np.inf, 0.1), 2, 9),
        random_descent,
        random_descent,
    ],
    mistakes=[
        edit("scaled_grad.astype(np.float32) / self.scale",
             "scaled_grad / np.float16(min(self.scale, 65504))",
             says="your gradient is divided in float16, where small numbers become 0 once more",
             next="widen first: scaled_grad.astype(np.float32) / scale"),
        edit("        self.good += 1\n",
             "        self.masters = self.weights.astype(np.float32)\n        self.good += 1\n",
             says="your masters are rounded to 16 bits in each step, and small updates are lost",
             next="the weights come from the masters, never the other way round"),
        edit("        if not np.isfinite(scaled_grad).all():\n"
             "            self.scale, self.good = max(self.scale / 2, 1.0), 0\n"
             "            return False\n",
             "        finite = bool(np.isfinite(scaled_grad).all())\n"
             "        if not finite:\n"
             "            self.scale, self.good = max(self.scale / 2, 1.0), -1\n"
             "            scaled_grad = np.nan_to_num(scaled_grad, posinf=0, neginf=0)\n",
             "return True", "return finite",
             says="your step moves the finite ones when others overflow",
             next="if one number is not finite, skip the whole step"),
        edit("max(self.scale / 2, 1.0), 0", "max(self.scale / 2, 1.0), self.good",
             says="your row of good steps goes on after an overflow",
             next="a skipped step ends the row: begin to count at 0"),
        edit("self.scale * 2, 0", "self.scale * 2, self.good",
             "self.good == self.interval", "self.good >= self.interval",
             says="your scale doubles in each step once the interval is reached",
             next="begin to count at 0 again after a doubling"),
        edit("self.scale, self.good = max(self.scale / 2, 1.0), 0", "self.good = 0",
             says="your scale stays as it is after an overflow, and the next step overflows too",
             next="halve it"),
        edit("        self.good += 1\n        if self.good == self.interval:\n"
             "            self.scale, self.good = self.scale * 2, 0\n", "",
             "        grad =", "        self.good += 1\n        if self.good == self.interval:\n"
             "            self.scale, self.good = self.scale * 2, 0\n        grad =",
             says="your scale doubles before the gradient is divided by it",
             next="divide by the scale that the gradient came with; double at the end"),
        edit("max(self.scale / 2, 1.0)", "self.scale / 2",
             says="your scale falls below 1",
             next="halve it, but not below 1: max(scale / 2, 1.0)"),
        edit("np.isfinite(scaled_grad).all()", "not np.isinf(scaled_grad).any()",
             says="your step lets NaN through",
             next="np.isfinite is False for NaN as well as for both infinities"),
        edit("not np.isfinite(scaled_grad).all()", "not (scaled_grad < np.inf).all()",
             says="your step lets minus infinity through",
             next="np.isfinite is False for NaN as well as for both infinities"),
        edit(" / self.scale\n", "\n",
             says="your gradient is still scaled",
             next="divide it by the scale before the update"),
        edit("        self.weights = self.masters.astype(np.float16)\n        self.good",
             "        self.good",
             says="your weights stay as they were at the start",
             next="round the masters to float16 after each step"),
        edit("        self.weights = self.masters.astype(np.float16)\n        self.good",
             "        self.weights = (self.weights - self.rate * grad).astype(np.float16)\n"
             "        self.good",
             says="your weights take updates of their own, and small ones are lost",
             next="round the masters: self.masters.astype(np.float16)"),
        edit("self.rate * grad\n", "np.float16(self.rate) * scaled_grad / self.scale\n",
             says="your gradient is multiplied by the rate in float16, and may overflow",
             next="widen first: scaled_grad.astype(np.float32)"),
        edit("np.isfinite(scaled_grad).all()", "not np.isnan(scaled_grad).any()",
             says="your step lets infinity through",
             next="np.isfinite is False for NaN as well as for both infinities"),
        edit("weights.astype(np.float32)", "weights",
             says="your masters are the caller's own array, and you write to it",
             next="make a copy: weights.astype(np.float32)"),
        edit("max(self.scale / 2, 1.0)", "max(self.scale / 2, 1.0) if self.good else self.scale",
             says="your scale is halved only once if steps overflow in a row",
             next="halve it at each overflow"),
    ],
    alternatives=[StepsByExponent, StepsByCountdown],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: in torch</summary>
#
# `torch.amp.GradScaler` doubles and halves its scale likewise. It starts at 2^16, and doubles after
# 2000 good steps in a row.
#
# </details>

# %% [markdown] role="prompt" exercise="11.6"
# ## 11.6 A step within a budget
#
# *30 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/11_training.ipynb#All-on-one-table)
#
# Inputs of layers, x among them, may take up to `budget` bytes at a time: `room` inputs. Choose
# which to keep, so that as few layers as possible run again. An input made again needs room, too;
# that of a layer undone, none.

# %% [markdown] role="prompt" exercise="11.6"
# No layer runs forward more than twice: that can be done, as room · (room + 1) / 2 is at least L.
# `layers[i]` is a `Layer` such as this one.
#
# **Memory limit** at L = 36, room for 8, x of 1024 × 16: 20 arrays as large as x, 1.25 MiB.


# %% role="prompt" exercise="11.6"
class Layer:
    def __init__(self, weight):
        self.weight, self.runs = weight, 0

    def forward(self, x):
        self.runs += 1
        return layer(x, self.weight)

    def backward(self, x, grad):
        """Return the gradients of the layer's input x and of its weight."""
        return layer_backward(x, self.weight, grad)


# %% role="answer" exercise="11.6"
class BudgetedStep:
    """A training step whose inputs of layers take at most a budget of bytes."""

    def __init__(self, n_layers, input_bytes, budget):
        """Choose `kept`: the layers whose inputs are kept, a list of ints, 0 first, ascending."""
        # BEGIN SOLUTION
        room = budget // input_bytes
        end, self.kept = n_layers, []
        for number in reversed(range(min(room, n_layers))):  # so many are kept before this one
            end = max(number, end - (room - number))
            self.kept.insert(0, end)
        # END SOLUTION

    def gradients(self, layers, x):
        """Return the gradient of x (n, d) and a list of those of the weights."""
        # BEGIN SOLUTION
        inputs = []
        for i, each in enumerate(layers):
            if i in self.kept:
                inputs.append(x)
            x = each.forward(x)
        grad, grads = x, []
        ends = [*self.kept[1:], len(layers)]
        for start, end in zip(reversed(self.kept), reversed(ends), strict=True):
            for i in range(start, end - 1):
                inputs.append(layers[i].forward(inputs[-1]))
            for i in reversed(range(start, end)):
                grad, new = layers[i].backward(inputs.pop(), grad)
                grads.insert(0, new)
        return grad, grads
        # END SOLUTION


# %% role="check" exercise="11.6"
check("11.6")

# %% [markdown] role="hints" exercise="11.6"
# 1. Each input that was not kept costs one run, of the layer before it. So how many do you keep?
#    And how much room is left while the last segment is undone, and while the first one is?
# 2. Keep min(room, L) inputs, with room = budget // input_bytes. While segment j, counted from 0,
#    is undone, j + 1 kept ones are held: it may have up to room - j layers. So the first segment
#    may be the longest, and the last, if all room is used, is one layer.
# 3. From the end: for j in reversed(range(min(room, L))): end = max(j, end - (room - j)), and end
#    is the layer whose input is the j-th kept. Then run each segment again from its kept input, and
#    undo it, from the last segment to the first.


# %% role="spec" exercise="11.6"
class FromTheFront:
    """Gives the first segments all they may have, and the rest what is left."""

    def __init__(self, n_layers, input_bytes, budget):
        room = budget // input_bytes
        count = min(room, n_layers)
        sizes, left = [], n_layers
        for number in range(count):
            sizes.append(min(room - number, left - (count - number - 1)))
            left -= sizes[-1]
        self.kept = [0, *itertools.accumulate(sizes)][:-1]

    def gradients(self, layers, x):
        held = {}
        for i in range(len(layers)):
            if i in self.kept:
                held[i] = x
            x = layers[i].forward(x)
        grad, grads = x, [None] * len(layers)
        for i in reversed(range(len(layers))):
            for j in range(max(j for j in held if j <= i), i):
                held[j + 1] = layers[j].forward(held[j])
            grad, grads[i] = layers[i].backward(held.pop(i), grad)
        return grad, grads


class BySearch:
    """Tries the cuts one layer after the other, and goes back where the room does not last."""

    def __init__(self, n_layers, input_bytes, budget):
        room = int(budget / input_bytes)
        self.kept = self.search(n_layers, room, min(room, n_layers), 0)

    def search(self, n_layers, room, count, start):
        if count == 1:
            return [start] if n_layers - start <= room else None
        for size in range(1, room + 1):
            if n_layers - start - size <= (room - 1) * room // 2:
                rest = self.search(n_layers, room - 1, count - 1, start + size)
                if rest:
                    return [start, *rest]
        return None

    def gradients(self, layers, x):
        return self.undo(layers, x, 0)

    def undo(self, layers, x, number):
        """Undo all from a segment on; its input lives as long as the call."""
        if number == len(self.kept):
            return x, []
        start, end = (*self.kept, len(layers))[number : number + 2]
        y = x
        for each in layers[start:end]:
            y = each.forward(y)
        grad, grads = self.undo(layers, y, number + 1)
        del y
        inputs = [x]
        for each in layers[start : end - 1]:
            inputs.append(each.forward(inputs[-1]))
        for each in reversed(layers[start:end]):
            grad, new = each.backward(inputs.pop(), grad)
            grads = [new, *grads]
        return grad, grads


class MoreThanPlanned(FromTheFront):
    """Chooses well, and holds all inputs nevertheless, made again as if they had not been kept."""

    def gradients(self, layers, x):
        whole = [x]
        for each in layers:
            whole.append(each.forward(whole[-1]))
        for start, end in itertools.pairwise([*self.kept, len(layers)]):
            for i in range(start, end - 1):
                whole[i + 1] = layers[i].forward(whole[i])
        grad, grads = whole.pop(), []
        for each in reversed(layers):
            grad, new = each.backward(whole.pop(), grad)
            grads.append(new)
        return grad, grads[::-1]


class NothingAgain(FromTheFront):
    """Chooses well, and holds all inputs nevertheless."""

    def gradients(self, layers, x):
        inputs = [x]
        for each in layers:
            inputs.append(each.forward(inputs[-1]))
        grad, grads = inputs.pop(), []
        for each in reversed(layers):
            grad, new = each.backward(inputs.pop(), grad)
            grads.append(new)
        return grad, grads[::-1]


class FromTheStart(FromTheFront):
    """Keeps as planned, but runs each time from x."""

    def gradients(self, layers, x):
        out = x
        for each in layers:
            out = each.forward(out)
        grad, grads = out, []
        for i in reversed(range(len(layers))):
            own = x
            for each in layers[:i]:
                own = each.forward(own)
            grad, new = layers[i].backward(own, grad)
            grads.append(new)
        return grad, grads[::-1]


def without_room(kept, n_layers, room):
    """Return how many inputs, kept or made again, are held at a time beyond the room."""
    sizes = [end - start for start, end in itertools.pairwise([*kept, n_layers])]
    return max([0, *(number + size - room for number, size in enumerate(sizes))])


def run_step(answer, x, weights, room, spare):
    """Plan and run a step; say how many inputs are kept, and how often a layer runs."""
    layers = [Layer(weight) for weight in weights]
    step = answer(len(layers), x.nbytes, room * x.nbytes + spare)
    kept = [int(each) for each in step.kept]
    seen = {
        "inputs kept": len(kept),
        "kept begins with 0 and ascends": kept[:1] == [0] and kept == sorted({*kept}),
        "inputs without room": without_room(kept, len(layers), room),
    }
    grad, grads = step.gradients(layers, x)
    seen |= {"layers run forward": sum(each.runs for each in layers), "gradient of x": grad}
    return seen | {f"gradient of weight {i}": each for i, each in enumerate(grads)}


def budget(name, n_layers, room, n=3, width=2, dtype=np.float32, spare=0):
    def make(rng):
        x, weights = rng.standard_normal((n, width)), weights_of(rng, n_layers, width)
        return Case(name, (x.astype(dtype), weights.astype(dtype), room, spare))

    return make


def random_budget(least, most):
    def make(rng):
        room = int(rng.integers(least, most + 1))
        n_layers = int(rng.integers(room + 1, room * (room + 1) // 2 + 1))
        name = f"random, {n_layers} layers, room for {room}"
        return budget(name, n_layers, room, spare=int(rng.integers(24)))(rng)

    return make


Spec(
    kind="class",
    drive=run_step,
    cases=[
        budget("1 layer, room for 1", 1, 1, 1, 1),
        budget("2 layers, room for 2", 2, 2),
        budget("3 layers, room for 2", 3, 2),
        budget("4 layers, room for 3", 4, 3),
        budget("6 layers, room for 3: not one more fits", 6, 3),
        budget("12 layers, room for 7", 12, 7, 4, 3),
        budget("15 layers, room for 5: not one more fits", 15, 5, 4, 3),
        budget("room for 3, and for a part of one more", 5, 3, spare=23),
        budget("room for all", 5, 5),
        budget("room to spare", 4, 9),
        budget("float64", 9, 4, 4, 3, np.float64),
        random_budget(3, 4),
        random_budget(5, 6),
    ],
    memory=Memory(
        budget("L = 36, room for 8", 36, 8, 1024, 16),
        20 * 1024 * 16 * 4,
        "8 inputs and 12 arrays to compute with: 20 · 1024 · 16 · 4 bytes",
    ),
    mistakes=[
        edit("end, self.kept = n_layers, []\n",
             "every = next(k for k in range(1, n_layers + 1) if -(-n_layers // k) + k - 1 <= room "
             "or k * k >= n_layers)\n"
             "        end, self.kept = n_layers, [*range(0, n_layers, every)]\n",
             "range(min(room, n_layers))", "range(0)",
             says="your plan keeps every k-th input, and runs more layers again than it has to",
             next="where fewer kept ones are held, a segment may be longer: begin with long ones, "
             "and end with short ones"),
        edit("end, self.kept = n_layers, []\n", "end, self.kept = n_layers, [*range(n_layers)]\n",
             "range(min(room, n_layers))", "range(0)",
             says="your plan keeps every input, whatever the room is",
             next="keep min(room, L) of them"),
        edit("end, self.kept = n_layers, []\n", "end, self.kept = n_layers, [0]\n",
             "range(min(room, n_layers))", "range(0)",
             says="your plan keeps x alone, and runs all layers again",
             next="each input kept is a layer that does not run again: keep min(room, L)"),
        edit("end = max(number, end - (room - number))",
             "end = number * n_layers // min(room, n_layers)",
             says="your plan keeps as many as it may, in even distances: too many are held in the "
             "last segments",
             next="while segment j is undone, j + 1 kept inputs are held: it may have up to "
             "room - j layers"),
        edit("end = max(number, end - (room - number))", "end = number",
             says="your plan keeps the first inputs, and one long segment follows that does not "
             "fit",
             next="the last segment is undone while all kept inputs are held: make it short"),
        edit("end = max(number, end - (room - number))",
             "end = 0 if number == 0 else max(number, end - 1)",
             says="your plan keeps the last inputs, and one long segment comes before that does "
             "not fit",
             next="spread them: segment j, counted from 0, may have up to room - j layers"),
        edit("max(number, end - (room - number))", "max(0, end - (room - number))",
             says="your plan keeps the same input more than once",
             next="leave at least one layer for each segment before: max(j, …)"),
        Mistake(MoreThanPlanned,
                says="your step holds the inputs of all layers at once",
                next="keep those in `kept` alone, and forget each input when its layer is undone"),
        Mistake(NothingAgain,
                says="your step holds the inputs of all layers: none runs again",
                next="hold those in `kept` alone, and make the others again, a segment at a time"),
        Mistake(FromTheStart,
                says="your step runs from x again for each layer",
                next="run each segment again from its kept input, once, and hold what it gives"),
        edit("budget // input_bytes", "-(-budget // input_bytes)",
             says="your room counts an input that fits only in part",
             next="round down: budget // input_bytes"),
        edit("range(start, end - 1)", "range(start, end)",
             "            for i in reversed(range(start, end)):",
             "            inputs.pop()\n            for i in reversed(range(start, end)):",
             says="your segments run their last layer again, whose output nobody needs",
             next="a segment of k layers has k - 1 inputs to be made again"),
        edit("grads.insert(0, new)", "grads.append(new)",
             says="your gradients of the weights come from the last to the first",
             next="backward goes from the end: put each new one in front"),
    ],
    alternatives=[FromTheFront, BySearch],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: more than two runs</summary>
#
# With 8 inputs, 36 layers can be undone if each runs forward twice at most. Who allows more runs
# can undo far longer chains with the same room: Griewank (1992,
# [doi:10.1080/10556789208805505](https://doi.org/10.1080/10556789208805505)) lets room and runs
# both grow like log L.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/11_training.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
