# %% [markdown]
# # 11 · What a training step holds
#
# To use a model takes its weights. To train it takes many times that, most of it forgotten within
# the same second. Here you watch the bytes of one step come and go, and then hold fewer: by
# computing twice, computing backwards, halving the bits, and using a piece of memory again.
#
# <!-- summary: a training step as a timeline of live tensors, by kind; which tensors a backward
# pass needs; checkpoints, reversible layers, 16 bits with loss scaling, each with its bytes and its
# price counted and measured; arenas, lazy pages, mapped weights, the collector. -->

# %% [markdown]
# You need softmax attention ([chapter 02](02_attention.ipynb)) and an idea of what a gradient is.
# The first cell loads torch, which takes some seconds.

# %% role="setup"
import os

for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # one thread; is read when NumPy and torch are loaded

import dataclasses
import functools

import numpy as np
import torch

from attncourse import claims, measure, model, plots, widgets
from attncourse.training import checkpointing_cost, reversible, table, techniques, timeline
from attncourse.units import format_bytes, format_difference

# %% [markdown] covers="A8 A9"
# ## Where the memory goes
#
# How much memory does training take? The usual answer counts parameters. Adam, the usual optimizer,
# keeps two running means for each of them, its *moments*; add the parameter and its gradient, four
# bytes each:

# %%
net = table.network(4)  # the sizes of the course's model, fresh weights
n_parameters = sum(parameter.numel() for parameter in net.parameters())
print(f"{n_parameters:,} parameters x 16 bytes: {format_bytes(16 * n_parameters)}")

# %% [markdown]
# That part is easy to count. A gradient is found from the end of the network to its beginning, by
# the *backward pass*, and that needs numbers from the *forward pass*: to differentiate $\tanh$ one
# needs its output, for a product its factors. These numbers, the *activations*, have to wait. See
# it in three lines: $n = 1000$ tokens, $d = 4$.

# %%
torch.manual_seed(0)
x, weights = torch.randn(1000, 4), [torch.randn(4, 4, requires_grad=True) for _ in range(2)]


def small_loss():
    return torch.tanh(torch.tanh(x @ weights[0]) @ weights[1]).sum()


line = timeline.record(small_loss, timeline.Adam(weights))
print("forward: ", *line.operations[: line.backward])
print("backward:", *line.operations[line.backward : line.update])

# %% [markdown]
# `timeline.record` takes one training step. It sees each operation of torch, the memory that its
# results lie in, and when that is given back (not what an operation needs inside itself). Here is
# each tensor of 16,000 bytes; which ones live from the way there to the way back?

# %% folded=true
large = [one for one in line.held if one.n_bytes == x.nbytes and one.operation != "t"]
acts = sorted({one.start for one in large} | {line.backward - 2})
places = {number: place for place, number in enumerate(acts)}
bars = {}
for one in large:
    last = max(number for number in acts if number < one.stop)
    name = f"{one.operation} {sum(key.startswith(one.operation + ' ') for key in bars) + 1}"
    bars[f"{name} ({one.kind})"] = (places[one.start], places[last], one.n_bytes)
words = [line.operations[number].replace("_backward", "\nbackward") for number in acts]
words[places[line.backward - 2]] = "sum"
kept = [one.kind == "kept" for one in large]
axes = plots.lifetimes(bars, words, title="two layers tanh(x W), there and back")
plots.show(axes, f"{sum(kept)} of {len(large)} tensors are kept for the backward pass.")

# %% [markdown]
# The outputs of $\tanh$ wait; the last one that was made is the first that may go. Every other
# tensor lives for a moment. Now the model that this course trained: four layers, SDPA (torch's
# fused attention), Adam, two rows of 512 tokens.


# %%
@functools.cache
def recorded_step(layers, rows, tokens, **ways):
    net, ids = table.network(layers), table.batch(rows, tokens)
    adam = timeline.Adam(net.parameters())
    return timeline.record(lambda: techniques.loss(net, ids, **ways), adam)


def step(layers=4, rows=2, tokens=512, **ways):
    """One training step of the model, recorded; `ways` are those of `techniques.loss`."""
    return recorded_step(layers, rows, tokens, **ways)


# %% folded=true
widgets.guess(
    "At the moment when most bytes are alive in that step: what share of them are activations that "
    "wait for the backward pass?",
    lambda: 100 * step().peak()["kept"] / step().peak_bytes,
    unit="%",
    explain=lambda: (
        f"{format_bytes(step().peak()['kept'])} of {format_bytes(step().peak_bytes)}; parameters "
        f"and moments are {format_bytes(12 * n_parameters)}."
    ),
)

# %% [markdown]
# **The step, drawn.** From left to right its operations, upwards what is alive. On the plinth of
# parameters and moments, the activations pile up to the loss and melt on the way back, while the
# gradients grow. Shorten the text: when is the mountain lower than its plinth?

# %% folded=true
live_step = plots.LiveTimeline(timeline.KINDS, high=1.2 * step().peak_bytes)


def draw(line, title):
    parts = {"forward": 0, "backward": line.backward, "Adam": line.update}
    live_step.update(line.bytes(), parts, title)
    peak = {kind: each for kind, each in line.peak().items() if each}
    said = ", ".join(f"{kind} {format_bytes(each)}" for kind, each in peak.items())
    return f"At most {format_bytes(line.peak_bytes)} are alive: {said}."


# %%
def draw_step(rows, tokens):
    return draw(step(rows=rows, tokens=tokens), f"one step, {rows} × {tokens} tokens")


lengths = widgets.choice([32, 64, 128, 256, 512], 512)
widgets.explore(draw_step, live_step.figure, rows=widgets.choice([1, 2], 2), tokens=lengths)

# %% [markdown]
# Parameters, moments and gradients do not ask how long the text is; activations grow with each of
# its tokens. The gradients of all layers stand at the end, when most activations have gone, so the
# peak is not the sum of the two.
#
# [Exercise 11.1](../exercises/11_training.ipynb#11.1-The-bill-of-a-step) is the bill of such a
# step.

# %% [markdown] covers="M4"
# ## What the backward pass needs
#
# A layer reads $x$, of $B \cdot n \cdot d$ numbers, and hands on as many. One would think that it
# keeps about that, or twice. Take one layer away, and see what the mountain loses.

# %% folded=true
one = 2 * 512 * 128 * 4  # bytes of x


def layer_keeps():
    """Bytes that a layer keeps: what four layers keep, less what one does, over three."""
    return (step().peak()["kept"] - step(layers=1).peak()["kept"]) / 3


widgets.guess(
    "Attention by SDPA, an MLP four times as wide: what a layer keeps for its backward pass is how "
    "many times as large as the x that it reads?",
    lambda: layer_keeps() / one,
    unit="times",
    explain=lambda: f"{format_bytes(layer_keeps())}, and x has {format_bytes(one)}.",
)

# %% [markdown]
# And that with fused attention. *Eager* attention, written down as one reads it, keeps the weights
# of every head as well, $n^2$ numbers; SDPA keeps one number a row, and computes the weights again
# ([chapter 09](09_flash_backward.ipynb)). The same step, two mountains:

# %% folded=true
high = 1.15 * step(attend=techniques.eager).peak_bytes
figure, both = plots.figure(1, 2, width=8.2, height=3.2, sharey=True)
for ax, (name, ways) in zip(
    both, {"eager": {"attend": techniques.eager}, "SDPA": {}}.items(), strict=True
):
    live = plots.LiveTimeline(timeline.KINDS, high=high, ax=ax)
    live.update(step(**ways).bytes(), {"forward": 0, "backward": step(**ways).backward}, name)
both[1].set_ylabel("")
kept = [step(**ways).peak()["kept"] for ways in ({"attend": techniques.eager}, {})]
more = layer_keeps() / one + (kept[0] - kept[1]) / 4 / one
said = f"{more:.1f} times its input with eager attention, {layer_keeps() / one:.1f} times with SDPA"
plots.show(figure, f"A layer keeps {said}.")

# %% [markdown]
# So which tensors are they, with SDPA? In units of $x$, and with the FLOPs of matrix products that
# it takes to make each of them again, a token:

# %%
d, n = 128, 512
PIECES = {  # name: (units of x, FLOPs a token to make it from what stands before)
    "first norm": (2, 0),  # scaled, and times its gain
    "q k v": (3, 2 * d * 3 * d),
    "turned q k": (2, 0),  # by their positions
    "attended": (1, 4 * n * d / 2),  # causal
    "heads joined": (1, 0),  # a copy, in another order
    "first sum": (1, 2 * d * d),
    "second norm": (2, 0),
    "relu": (4, 2 * d * 4 * d),
    "its square": (4, 0),
    "second sum": (1, 2 * 4 * d * d),  # is the x of the next layer
}
print("counted", sum(units for units, _ in PIECES.values()), f"measured {layer_keeps() / one:.2f}")

# %% [markdown]
# (The rest is one number a row: of softmax, and of each norm.) Now choose. **Tick what is kept.**
# The others are made again when the backward pass comes to the layer. How much can go without one
# matrix product more?


# %% folded=true
def draw_kept(**ticked):
    kept = {name: PIECES[name][0] * one * ticked[name.replace(" ", "_")] for name in names}
    total = sum(kept.values()) + one
    again = sum(PIECES[name][1] for name in names if not kept[name])
    forward = sum(flops for _, flops in PIECES.values())
    live_kept.update(kept, f"kept by a layer: {format_bytes(total)}")
    return (
        f"{format_bytes(total)}, {total / (21 * one):.0%} of all, for {again / forward:.0%} of a "
        f"forward pass once more: the step takes {1 + again / forward / 3:.2f} times the FLOPs."
    )


# %% folded=true
names = list(PIECES)[:-1]  # the last is what checkpoints keep
start = {name: PIECES[name][0] * one for name in names}
live_kept = plots.LiveBars(start, unit="bytes", high=4 * one, title=" ")
ticks = {name.replace(" ", "_"): True for name in names}
widgets.explore(draw_kept, live_kept.figure, **ticks)

# %% [markdown]
# What is only scaled, turned, copied or squared costs no product: more than half of the bytes are
# nearly free. Libraries call this *selective* recomputation. (The sentence takes a backward pass as
# two forward passes, which the next section derives.) And if no box is ticked?

# %% [markdown] covers="M1 M2 M3 W13"
# ## Compute it twice
#
# Then a layer keeps its input, and the backward pass begins by running it once more. That is
# *gradient checkpointing* ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)): the kept inputs
# are the checkpoints. Or keep only every $k$-th input. With few checkpoints, little waits. So the
# fewer the better?

# %% [markdown]
# Take $L$ layers that keep one tensor each. There wait $L / k$ checkpoints; then a segment of $k$
# layers is run again, and *all* its tensors are there at once:
#
# $$ \text{held} = \Bigl\lceil \frac{L}{k} \Bigr\rceil + k, \qquad
#    \frac{d}{dk}\Bigl(\frac{L}{k} + k\Bigr) = 1 - \frac{L}{k^2} = 0
#    \;\Longrightarrow\; k = \sqrt{L} $$
#
# Prediction beside measurement, with layers $\tanh(x W)$, by the peak of what torch allocates:

# %%
distances = [1, 2, 3, 6, 12]
seen = {k: checkpointing_cost.measured(12, k, tokens=4096, width=8) for k in distances}
for k, one_step in seen.items():
    held = checkpointing_cost.predict(12, k, 4096, 8).held
    print(f"k = {k:>2}: {held:>2} predicted, {one_step.held:>2} measured, of 12")

# %% [markdown]
# The ends are worst, the middle is best. One of
# [the texts](00_start.ipynb#The-four-texts) has it as a matter of $L / k$ alone:

# %%
claims.check("C297")

# %% [markdown]
# **The check to keep: ask for the peak, and not for what waits.** Now the real layers, twelve of
# them, on two rows of 512 tokens. Each keeps 21 tensors of the size of $x$, not one.

# %% folded=true
widgets.guess(
    "And for these: a checkpoint at every k-th of the twelve layers. Which k holds least?",
    lambda: min(range(1, 13), key=lambda k: -(-12 // k) + 21 * k),
    explain="With m tensors a layer, L / k + m k is least at the root of L / m, here below 1. The "
    "root of L is for layers that keep no more than their input.",
)

# %% [markdown]
# **Move the distance.** Four layers, so that each tooth can be seen: a tooth is a segment that is
# made again. What grows with $k$, and what shrinks?


# %%
def draw_distance(every):
    line = step(every=every)
    said = draw(line, f"k = {every}, of 4 layers" if every else "all kept")
    return f"{said} Before the update {format_bytes(line.step_bytes)} beyond the model's own."


every = widgets.choice({"1": 1, "2": 2, "3": 3, "4": 4, "no checkpoint": None}, 1)
widgets.explore(draw_distance, live_step.figure, every=every)

# %% [markdown]
# The teeth are alike; by a little the last one is the highest, at the *end* of the way back. The
# checkpoints have gone by then, and the gradients have come. With $c$ bytes of an input, $m =
# 21\,c$ of a layer, $g > c$ of its gradients, and some scratch $s$, that tooth decides:
#
# $$ (L - k)\, g + k\, m + s $$

# %% [markdown]
# Scratch is read from $L = 4$, $k = 1$. Does the rest foretell another $L$ and another $k$?

# %%
LAYER = 196_864 * 4  # bytes of a layer's gradients: g
s = step(every=1).step_bytes - (3 * LAYER + 21 * one)


def predicted(layers, every):
    return (layers - every) * LAYER + every * 21 * one + s


found = step(layers=6, every=2).step_bytes
print(f"L = 6, k = 2: {format_bytes(predicted(6, 2))} predicted, {format_bytes(found)} measured")

# %% [markdown]
# And the price? A layer is $y = x W$. Its forward pass is one product, $x W$; its backward pass
# two, $\partial x = \partial y\, W^\top$ and $\partial W = x^\top \partial y$. Computing it twice:
#
# $$ \frac{1 + 1 + 2}{1 + 2} = \frac43 $$
#
# A third more, and not twice as much, which two of the texts say. Count the products with weights:

# %%
products = {
    name: step(**ways).operations.count("mm") for name, ways in (("plain", {}), ("k", {"every": 1}))
}
print(products, f"{products['k'] / products['plain']:.3f} times")

# %% [markdown]
# A little less than 4/3: the last product, from which the logits come, is in no segment. Times lie
# in [the table below](#All-on-one-table).
#
# One could do with less: the last segment runs again right after it ran. Who keeps its tensors
# instead runs $L - k$ layers twice, if $k$ divides $L$, and holds as much, the loss aside.

# %% [markdown]
# [Exercise 11.2](../exercises/11_training.ipynb#11.2-Keep-every-k-th) is the segment that is made
# again, with its memory graded, and [Exercise
# 11.3](../exercises/11_training.ipynb#11.3-The-best-distance) the bill for any $L$ and $k$, if the
# last segment runs once. Ours is
# [`training/checkpointing.py`](../attncourse/training/checkpointing.py).

# %% [markdown] covers="M6 M7 M8 M11 Y5"
# ## Compute it backwards
#
# Why keep an input if one could compute it from the output? A layer $y = x + F(x)$ cannot be
# undone: to subtract $F(x)$ one needs $x$. Split the stream into halves, and let each see only the
# other ([Gomez et al. 2017](https://arxiv.org/abs/1707.04585)):
#
# $$ \begin{aligned} y_1 &= x_1 + F(x_2) & \qquad x_2 &= y_2 - G(y_1) \\
#    y_2 &= x_2 + G(y_1) & x_1 &= y_1 - F(x_2) \end{aligned} $$
#
# Left forward, right backward: each line uses only what is there by then.


# %%
def ahead(x1, x2, f, g):
    y1 = x1 + f(x2)
    return y1, x2 + g(y1)


def back(y1, y2, f, g):
    x2 = y2 - g(y1)
    return y1 - f(x2), x2


x1, x2 = np.array([0.5]), np.array([-1.25])
y1, y2 = ahead(x1, x2, np.exp, np.sin)
print("there", y1, y2, "and back", *back(y1, y2, np.exp, np.sin))

# %% [markdown]
# $F$ and $G$ need no inverse, any function will do. So let $F$ be attention and $G$ the MLP. On
# paper nothing is lost. Twelve blocks there and back, in numbers of 16 bits of which the largest is
# about 4:

# %% folded=true
widgets.guess(
    "By how much is the worst of the numbers off, in float16, after twelve blocks there and back?",
    lambda: reversible.reconstruction_error(torch.float16),
    explain="A rounding of float16 near 4 is 0.002. Each block adds some, and each block back "
    "carries the errors of those behind it further.",
)

# %% folded=true
depths = [1, 3, 12, 48]
dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
dtypes["float64"] = torch.float64
off = {
    name: [reversible.reconstruction_error(dtype, n_blocks=depth) for depth in depths]
    for name, dtype in dtypes.items()
}
axes = plots.curves(depths, off, x_label="blocks there and back", y_label="largest error")
axes.set(yscale="log", ylim=(1e-16, 30), xscale="log", xticks=depths)
axes.set_xticks(depths, map(str, depths))
axes.minorticks_off()
least = min(line[-1] / line[0] for line in off.values())
said = f"more than {10 ** int(np.log10(least))} times in every dtype"
plots.show(axes, f"From 1 to 48 blocks the error grows {said}.")

# %%
claims.check("C294")

# %% [markdown]
# **The check to keep: "exact" is a statement about a dtype.** In float32 the error is far below
# what a gradient needs; in bfloat16 deep networks compute gradients where they never were.
#
# What is held? `reversible.forward` keeps the last two halves, whatever $L$. The model with 1, 2
# and 4 layers, narrower (32) and on 512 tokens, to be quick:


# %%
@functools.cache
def narrow_step(layers, tokens, **ways):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        shape = model.Shape(n_ids=256, n_layers=layers, width=32, hidden=128, context=tokens)
        net = table.Network(shape)
    ids = table.batch(1, tokens) % 256
    adam = timeline.Adam(net.parameters())
    return timeline.record(lambda: techniques.loss(net, ids, **ways), adam)


# %% folded=true
WAYS = {"all kept": {}, "checkpoint each": {"every": 1}, "reversible": {"reverse": True}}
depths = [1, 2, 4]
waiting = {
    name: [narrow_step(layers, 512, **ways).bytes()["kept"].max() / 2**20 for layers in depths]
    for name, ways in WAYS.items()
}
axes = plots.curves(depths, waiting, x_label="layers", y_label="MiB kept for the backward pass")
axes.set_xticks(depths)
said = ", ".join(f"{line[-1] / line[0]:.2f} ({name})" for name, line in waiting.items())
plots.show(axes, f"What waits with four layers over that with one: {said}.")

# %% [markdown]
# What does not grow is mostly the loss. So of what the layers leave waiting it saves a factor of
# $L$, as the texts say. The price: $F$ and $G$ run once more, so $4/3$ again. Then should it not
# beat checkpoints, of which $L$ wait? Compare the peak of a whole step, with more and more tokens.

# %% folded=true
counts = [128, 256, 512]
peaks = {
    name: [narrow_step(4, tokens, **WAYS[name]).step_bytes / 2**20 for tokens in counts]
    for name in ("checkpoint each", "reversible")
}
axis = {"x_label": "tokens", "y_label": "MiB at the peak", "log_x": True}
axes = plots.curves(counts, peaks, **axis)
axes.set_xticks(counts, map(str, counts))
less = [1 - b / a for a, b in zip(*peaks.values(), strict=True)]
said = ", ".join(f"{saved:.0%} at {tokens}" for saved, tokens in zip(less, counts, strict=True))
plots.show(axes, f"Four layers, width 32: reversible layers take less by {said} tokens.")

# %% [markdown]
# They save little, and slowly more. You saw why: when the way back ends, the checkpoints have gone
# and the gradients have come. A layer has $c = 4Bnd$ bytes of checkpoint and
# $g \approx 4 \cdot 12 d^2$ of gradients. While $c < g$, checkpoints fit into the room that
# gradients need later anyway:
#
# $$ B\, n < 12\, d $$
#
# Here that is up to 384 tokens.

# %% [markdown]
# Below that, the saving comes from making half a layer again, not a whole one. (Checkpoints could,
# too.) It pays for long texts and many layers, where Reformer used it ([Kitaev et al.
# 2020](https://arxiv.org/abs/2001.04451)): $F$ is attention within buckets of a hash ([chapter
# 08](08_content.ipynb)), $G$ the MLP. But a hash draws random directions. What if the second run
# draws others?


# %%
class Hashed(torch.nn.Module):
    def forward(self, x):
        at = x @ torch.randn(8, 4, dtype=x.dtype)
        bucket = torch.cat([at, -at], dim=-1).argmax(-1)
        apart = bucket[:, None] != bucket
        return (x @ x.mT).masked_fill(apart, -torch.inf).softmax(-1) @ x


block, halves = reversible.Block(Hashed(), torch.nn.Tanh()), torch.randn(2, 64, 8).double()
for name, seed in {"same directions": 3, "new directions": 4}.items():
    torch.manual_seed(3)
    there = block(*halves)
    torch.manual_seed(seed)
    off = (torch.stack(block.inverse(*there)) - halves).abs().max()
    print(f"{name}: inputs computed back are off by {format_difference(off, below=1e-12)}")

# %% [markdown]
# With other buckets the way back leads elsewhere, and nothing complains. Whatever is run twice must
# find the same dice: [`replay`](../attncourse/training/replay.py) keeps their state, for
# checkpoints and dropout as well.
#
# [Exercise 11.4](../exercises/11_training.ipynb#11.4-Undo-a-block) is a block with its inverse and
# its backward pass, with memory graded.

# %% [markdown] covers="M9 M10"
# ## Half the bits
#
# A third way: the same tensors, with 16 bits a number instead of 32. There are two kinds, and they
# fail differently:

# %%
from attncourse.training import mixed_precision

for name in ("float16", "bfloat16", "float32"):
    of = torch.finfo(getattr(torch, name))
    least = of.smallest_normal * of.eps  # with a single bit left
    print(f"{name:>8}: up to {of.max:.3g}, down to {least:.1e}; gap next to 1: {of.eps:.1e}")
one_weight = torch.ones(3).to(torch.float16)
for _ in range(1000):
    one_weight += 1e-4
print("1 and a thousand times 0.0001, in float16:", one_weight[0].item())

# %% [markdown]
# The thousand small steps are gone: each is less than half the gap next to 1. So a *master* copy of
# each weight stays in float32, and the optimizer updates that. Where coarse numbers do little harm
# is in activations. Attention of the trained model, its softmax included, in 16 bits:

# %%
small = model.load()
ids = small.encode(model.page())[:257]
q, k, v = (torch.from_numpy(array) for array in small.qkv(ids[:256])[1])
exact = techniques.eager(q, k, v)
for dtype in (torch.float16, torch.bfloat16):
    rough = techniques.eager(q.to(dtype), k.to(dtype), v.to(dtype)).float()
    print(dtype, f"off by {(rough - exact).abs().max() / exact.abs().max():.1e} of the largest")

# %% [markdown]
# And gradients? They are small: the loss is a mean, so each of 256 tokens adds a 256th of its own.
# Below half of the smallest number of float16, which is about $6 \cdot 10^{-8}$, they *underflow*:
# they are rounded to zero. These are the gradients of the trained model, by size.

# %%
net = table.Network(small.shape)
net.load_state_dict({name: torch.from_numpy(a) for name, a in small.weights.items()})
net.loss(torch.from_numpy(ids[None].astype(np.int64))).backward()
grads = [parameter.grad for parameter in net.parameters()]
sizes = torch.cat([grad.flatten().abs() for grad in grads])
powers = np.floor(np.log2(sizes[sizes > 0].numpy())).astype(int).clip(-40, 24)

# %% [markdown]
# A gradient is linear in the loss. So multiply the loss by a large number before the backward pass,
# and divide the gradients by it afterwards, in float32. **Move the scale.** How far can it go?


# %% folded=true
def draw_scale(scale):
    ax_scale.clear()
    shown = exponents + int(scale)
    kinds = np.select([shown < -25, shown > 15], ["lost", "overflow"], "held")
    for kind, colour in colours.items():
        here = kinds == kind
        ax_scale.bar(shown[here], heights[here], 0.9, color=colour, edgecolor="grey")
    ax_scale.axvline(-25.5, color=plots.INK, linestyle="--")
    ax_scale.axvline(15.5, color=plots.INK, linestyle="--")
    ax_scale.set(xlim=(-45, 26), xlabel="gradient times scale, as a power of 2", ylabel="share")
    ax_scale.legend(handles=handles, loc="upper left", frameon=False)
    lost = mixed_precision.underflow(grads, torch.float16, scale=2.0**scale)
    over = "some overflow" if (sizes * 2.0**scale >= 65520).any() else "none overflows"
    return f"Scale 2^{scale}: {lost:.2%} become zero, {over}."


# %% folded=true
from matplotlib.patches import Patch

figure_scale, ax_scale = plots.figure(height=3.0)
exponents = np.arange(-40, 25)
heights = np.bincount(powers + 40, minlength=65) / len(powers)
colours = {"lost": plots.PALE, "held": plots.SERIES[1], "overflow": plots.INK}
handles = [Patch(facecolor=c, edgecolor="grey", label=kind) for kind, c in colours.items()]
widgets.explore(draw_scale, figure_scale, scale=(0, 24, 1, 0))

# %% [markdown]
# No one knows the right scale, and it changes as the model learns. So try: if a gradient overflows,
# skip the step and halve the scale; after a while without, double it. Here from much too high, one
# weight matrix in float16, master in float32:

# %%
torch.manual_seed(1)
layer, inputs = torch.nn.Linear(16, 1, bias=False), torch.randn(64, 16).half()
scaler = mixed_precision.LossScaler(2.0**24, interval=3)
mixed = mixed_precision.MixedPrecision(
    layer, lambda masters: timeline.Adam(masters, lr=0.01), scaler=scaler
)
for _ in range(14):
    done = mixed.step(mixed.model(inputs).float().square().mean())
    print(f"2^{np.log2(scaler.scale):.0f}{'' if done else ' skipped'}", end="; ")

# %% [markdown]
# It finds its height and keeps knocking at the ceiling. bfloat16 has float32's range and needs none
# of it; it pays with digits: 8 bits instead of 11.
#
# [Exercise 11.5](../exercises/11_training.ipynb#11.5-A-loss-scale-that-moves) is the scale that
# moves. Then what does it bring? Half the bits, half the bytes:

# %% folded=true
SHORT = {"layers": 2, "rows": 1, "tokens": 256}
HALF = SHORT | {"dtype": torch.bfloat16}

widgets.guess(
    "Two layers of the model under torch's autocast to bfloat16, 256 tokens: by how much does "
    "what is kept for the backward pass shrink?",
    lambda: 100 * (1 - step(**HALF).peak()["kept"] / step(**SHORT).peak()["kept"]),
    unit="%",
    explain="Autocast rounds what enters a product. Sums, norms, positions and the loss stay in "
    "float32, and each weight gets a copy in 16 bits that waits, too.",
)

# %% [markdown]
# And on top of checkpoints? What waits there are sums, which stay in float32:

# %%
for name, ways in {"float32": SHORT, "bfloat16": HALF}.items():
    line = step(**ways, every=1)
    waits = format_bytes(line.bytes()["kept"].max())
    print(f"{name:>8}, checkpoint each: {waits} wait, {format_bytes(line.step_bytes)} at the peak")

# %% [markdown]
# The saving is in the segment that is made again. What waits is not smaller: no checkpoint shrinks,
# and the rounded weights of the last product join them. Who wants the checkpoints in 16 bits has to
# turn the whole stream to 16 bits, and live with its digits.

# %% [markdown]
# The parameters' own bill does not change at all. With masters: 2 bytes for the weight, 2 for its
# gradient, 4 for the master, 8 for two moments. That is 16 again.

# %% [markdown]
# ## All on one table
#
# Twelve layers, 2 × 512 tokens, float32 unless it says otherwise. Prediction: what a step of *four*
# layers (or of two) takes, and for each further layer what it adds. That is 21 tensors, or 34½ with
# $n^2$ weights (and a mask), if all is kept; otherwise a layer's gradients.

# %%
eager = {"attend": techniques.eager}
foretold = {
    "eager": step(**eager).step_bytes + 8 * 34.5 * one,
    "SDPA": step().step_bytes + 8 * 21 * one,
    "eager, checkpoint every layer": step(2, **eager, every=1).step_bytes + 10 * LAYER,
    "reversible": step(2, reverse=True).step_bytes + 10 * LAYER,
}
foretold |= {
    f"checkpoint every {word}": predicted(12, k)
    for k, word in enumerate(("layer", "second", "third"), start=1)
}

# %% [markdown]
# Measured once, with `python -m attncourse.training.table`, which takes some minutes; run it, and
# your machine's numbers replace ours. Seconds are of one core, the best of five.

# %% folded=true
from attncourse import house

record = house.record("training.json") or {"settings": {}}

# %% folded=true
fits = record["settings"] == {"layers": 12, "rows": 2, "tokens": 512}
measured = record["ways"] if fits else {}
print(f"{'':<33}{'predicted':>10}{'measured':>10}{'seconds':>9}")
for way in table.WAYS:
    said = format_bytes(foretold[way]) if way in foretold else "-"
    row = measured.get(way)
    found = (format_bytes(row["step_bytes"]), f"{row['seconds']:.2f}") if row else ("-", "-")
    print(f"{way:<33}{said:>10}{found[0]:>10}{found[1]:>9}")

# %% [markdown]
# The three lines with a checkpoint every $k$-th layer do the same work, since each layer runs twice
# whatever $k$ is. So how far may one trust the last column?

# %%
products = [step(every=k).operations.count("mm") for k in (1, 2, 3)]
print("products of four layers at k = 1, 2, 3:", *products)
if fits:
    words = ("layer", "second", "third")
    times = [measured[f"checkpoint every {word}"]["seconds"] for word in words]
    noise = max(times) / min(times) - 1
    print(f"seconds {times}: {noise:.0%} from the least to the most is noise of the clock")

# %% [markdown]
# Which way is beaten by another in both columns, by more than that noise? How near to a third
# is the price of the checkpoints? Is bfloat16 slow in yours? A processor without such arithmetic
# imitates it: half the bits buy memory with time.
#
# [Exercise 11.6](../exercises/11_training.ipynb#11.6-A-step-within-a-budget) gives you a budget in
# bytes, and counts how many layers you run again.

# %% [markdown] covers="M5 N5"
# ## Memory that is used again
#
# The next step makes the same tensors as this one, and gives them back as well. How many?

# %%
made = [one.n_bytes for one in step().held if one.operation]  # the rest was there before
print(f"{len(made)} tensors, {format_bytes(sum(made))} in all; ", end="")
print(f"{format_bytes(step().step_bytes)} at a time")

# %% [markdown]
# One can reserve one buffer and hand out pieces of it in a row: an *arena*. An allocation is an
# addition, and all pieces are given back at once, at the end of a *frame*.

# %%
from attncourse.training import buffers

arena, places = buffers.Arena(4096), set()
for _layer in range(3):
    with arena.frame():
        scores, out = arena.empty(16, 16), arena.empty(16, 8)
        places.add(scores.data_ptr())
each = scores.nbytes + out.nbytes
print(f"three layers of {each:,} bytes: {arena.peak:,} at most, scores in {len(places)} place")

# %% [markdown]
# Each layer's scores lie where those of the last one lay. A tensor that is read after its frame
# holds another layer's numbers. That is the price: the arena cannot know.
#
# Without an arena, let results be written into what is there, by `out=`. Heads of attention, one
# after the other, need one matrix between them:


# %%
def each_head(q, k, v, scores=None):
    """Heads in turn; with `scores` (n, n), all of them write there."""
    out = np.empty_like(q)
    for head in range(len(q)):
        p = np.matmul(q[head], k[head].T, out=scores)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        np.matmul(p, v[head], out=out[head])
    return out


def one_buffer(q, k, v):
    return each_head(q, k, v, np.empty((q.shape[1],) * 2, q.dtype))


# %%
def all_heads(q, k, v):
    p = np.exp(q @ k.swapaxes(1, 2))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ v


# %%
rng = np.random.default_rng(11)
q, k, v = rng.standard_normal((3, 8, 512, 32)).astype(np.float32) / 4
peaks = {"a new matrix a head": measure.peak_bytes(each_head, q, k, v)}
peaks["one for all heads"] = measure.peak_bytes(one_buffer, q, k, v)
peaks["all heads at once"] = measure.peak_bytes(all_heads, q, k, v)
for name, peak in peaks.items():
    print(f"{name:<20} {peak / (512 * 512 * 4):4.1f} matrices of n x n at most")

layers, rows = [torch.randn(16, 16) / 4 for _ in range(12)], torch.randn(4096, 16)
for reuse in (False, True):
    peak = measure.peak_bytes(buffers.chain, rows, layers, reuse=reuse)
    print(f"12 layers, reuse {reuse!s:>5}: {format_bytes(peak)} at most, ", end="")
    print(f"{peak / rows.nbytes:.0f} tensors")

# %% [markdown]
# In the first two lines half a matrix is the result. Did you expect 1.5 in the first, too? A name
# that is bound anew lets go of the old matrix only *after* the new one has been made. Across layers
# it is the same: with two buffers in turn, by `out=`, the third tensor is not needed.

# %% [markdown]
# But not in training: what waits for the backward pass must not be written over. torch notices:

# %%
output = torch.tanh(rows @ layers[0].requires_grad_())  # its backward pass needs it
torch.tanh(rows, out=output.detach())  # the same memory, for another output
try:
    output.sum().backward()
except RuntimeError as error:
    print(str(error).partition(": ")[0])

# %% [markdown] covers="N6 N7"
# ## Pages nobody touched
#
# All bytes so far were those that were asked for. The system hands out *pages*, mostly of 4 KiB,
# and only when one is written. What is reserved and never touched costs nothing. 64 MiB, of which a
# part is written:

# %% tags=["nbval-ignore-output"]
from attncourse.training import resident

size = 64 * 2**20
for share in (0.0, 0.25, 1.0):
    reserved, written = resident.lazy(size, share)
    print(f"reserved {format_bytes(size)}: grown by {format_bytes(reserved)}; ", end="")
    print(f"{share:.0%} written: by {format_bytes(written)} more")

# %% [markdown]
# So "it did allocate" does not mean "it fits": the machine may end the program later, in the middle
# of a loop, at the first write. And a first pass over new memory is slow, which is why one warms up
# before one measures ([chapter 13](13_measuring.ipynb)).

# %% [markdown]
# The same for files. Weights that are *mapped* are read when they are touched, page by page, and
# two programs share them. A file of 32 MiB; one reads its first tenth:

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "weights.f32"
    np.zeros((64, 131_072), np.float32).tofile(path)
    grown, mapped = resident.resident_growth(lambda: resident.map_weights(path, (64, 131_072)))
    print(f"{format_bytes(mapped.nbytes)} mapped: grown by {format_bytes(max(0, grown))}")
    grown, _ = resident.resident_growth(lambda: mapped[:6].sum())
    print(f"{format_bytes(mapped[:6].nbytes)} read: by {format_bytes(max(0, grown))} more")
    mapped = None  # some systems delete no file that is mapped

# %% [markdown]
# It may be more than asked for, as a system reads ahead. This is how a model larger than memory
# starts at once. And then it reads a layer from the disk each time that layer is needed.

# %% [markdown] covers="N8"
# ## The collector
#
# Python frees a tensor the moment that nobody holds it, by counting references. Two objects that
# hold each other never get to zero; for them the *collector* goes round now and then. It counts
# objects, and a tensor of a gigabyte is one object. Two thousand tensors of 64 KiB, each dropped at
# once:

# %% tags=["nbval-ignore-output"]
import gc

gc.freeze()  # the collector passes over what there is by now
for cycles, collect in ((False, True), (True, True), (True, False)):
    run = buffers.churn(2000, tensor_bytes=2**16, cycles=cycles, collect=collect)
    print(f"cycles {cycles!s:>5}, collector {collect!s:>5}: {run.seconds * 1e3:5.1f} ms, ", end="")
    print(f"{run.collections} collections, {format_bytes(run.held_bytes)} still held")
gc.unfreeze()

# %% [markdown]
# With cycles and the collector off, all of them still hold their memory at the end. If that row is
# the slowest, it is for its memory: nothing is freed, so each tensor needs [pages that nobody
# touched](#Pages-nobody-touched), where the others get back what was just dropped. (With
# `tensor_bytes=64` see it vanish.)

# %% [markdown]
# Without cycles the collector has nothing to do. Who trains large models often turns it off and
# calls `gc.collect()` between steps, so that all machines pause together. Look at your own numbers:
# is that worth it here?

# %% [markdown]
# ## In a real model
#
# The trained model goes on learning, three steps, each technique from the same weights on the same
# text. How near are the losses to those of plain, eager training?

# %%
text = np.concatenate([small.encode(one_text)[:65] for one_text in model.held_out()[:3]])
batches = torch.from_numpy(text.astype(np.int64).reshape(3, 1, 65))


def losses(**ways):
    net = table.Network(small.shape)
    net.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in small.weights.items()})
    adam = timeline.Adam(net.parameters())
    for ids in batches:
        loss = techniques.loss(net, ids, **ways)
        loss.backward()
        adam.step()
        yield loss.item()


# %%
first = list(losses(attend=techniques.eager))
print("eager:", *(f"{loss:.2f}" for loss in first))
tried = {"SDPA": {}, "checkpoint each": {"every": 1}, "bfloat16": {"dtype": torch.bfloat16}}
for name, ways in (tried | {"reversible": {"reverse": True}}).items():
    off = max(abs(a - b) for a, b in zip(losses(**ways), first, strict=True))
    print(f"{name:<16} within", next(bound for bound in (1e-4, 0.01, 10) if off <= bound))

# %% [markdown]
# SDPA and checkpoints change a rounding, bfloat16 a little. The reversible line is another model:
# with weights that were trained for one stream, two halves read nonsense. One has to begin with it.

# %% [markdown]
# How few bits would do, when the model only reads? Weights, queries, keys and values, rounded to so
# many bits of *significand* (float16 has 11, bfloat16 8, the 8-bit formats 4 or 3). **Which words
# go first?**


# %%
from attncourse.model.attention import Attention


def rounded(x, bits):
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.round(fraction * 2.0**bits), exponent - bits).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class InBits(Attention):
    bits: int = 8

    def __call__(self, *qkv):
        return super().__call__(*(rounded(array, self.bits) for array in qkv))


# %% folded=true
def in_bits(bits):
    weights = {name: rounded(array, bits) for name, array in small.weights.items()}
    return dataclasses.replace(small, weights=weights, attention=(InBits(bits=bits),) * 4)


tried = model.compare(small, {bits: in_bits(bits) for bits in (11, 8, 4, 3, 2)})
widgets.in_a_real_model("bits", tried, start=3)

# %% [markdown]
# And the bytes that wait for each token, if the text grows? Predicted from the tensors that you
# counted, for our four layers; with checkpoints, one layer is made again on top:

# %%
for n in (512, 16_384):
    squares = 4 * 4 * (n + n / 16)  # four heads' weights and a mask, in each row
    token = 4 * 128 * 4 * 21
    print(f"n = {n:>6,}: eager {format_bytes(token - 4 * 128 * 4 * 3 + 4 * squares)}, ", end="")
    print(f"SDPA {format_bytes(token)}, checkpoints {format_bytes(4 * 128 * 4)} a token")

# %% [markdown]
# ## Try it on your own model
#
# `timeline.record` takes any loss and parameters of torch. Put in a model of yours and find its
# largest tensor at the peak: is it one that a tick could remove? Then go on to [the
# exercises](../exercises/11_training.ipynb), or to [chapter 12](12_inference.ipynb), where nothing
# waits for a backward pass and the memory fills all the same.

# %%
yours = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
batch = torch.randn(512, 64)
line = timeline.record(lambda: yours(batch).square().mean(), timeline.Adam(yours.parameters()))
at = int(line.total().argmax())
there = [one_piece for one_piece in line.held if one_piece.start <= at < one_piece.stop]
largest = max(there, key=lambda one_piece: one_piece.n_bytes)
print(f"{format_bytes(line.peak_bytes)} at the peak; the largest is {largest.kind}: ", end="")
print(f"{largest.operation}, {format_bytes(largest.n_bytes)}")
