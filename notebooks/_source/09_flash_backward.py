# %% [markdown]
# # 09 · FlashAttention, part two: backward, and in Triton
#
# [Part one](09_flash.ipynb) forgot each tile as soon as it was used. Training wants to know what
# the weights were. This part derives what it needs, finds that one number per query is enough, and
# then reads the algorithm line by line in two languages.
#
# <!-- summary: the log-sum-exp, and joining what was computed apart; the gradient of a softmax in
# three lines, and the backward pass by recomputation; NumPy and Triton side by side. -->

# %% role="setup"
import inspect
import math

import ipywidgets
import numpy as np
import torch

from attncourse import claims, measure, plots, side_by_side, widgets
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full
from attncourse.softmax import softmax

# %% [markdown]
# The same case as in part one: one head, and the weights as they would have to be kept.

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n))
P = softmax(q @ k.T / math.sqrt(width))
out = P @ v

# %% [markdown] covers="L3 L15"
# ## One number per row
#
# After the loop over the keys each query has its maximum $m$ and its sum $\ell$ of $e^{s - m}$.
# They melt into one number, the *log-sum-exp*. With it any weight can be made again, alone,
# without its row:
#
# $$ p_{ij} = \frac{e^{s_{ij} - m_i}}{\ell_i} = e^{s_{ij} - \mathrm{lse}_i}, \qquad
#    \mathrm{lse}_i = m_i + \log \ell_i = \log \sum_j e^{s_{ij}} $$

# %%
_, lse = flash.forward(q, k, v, block_q=64, block_k=64)
i, j = 700, 33
score = q[i] @ k[j] / math.sqrt(width)
np.testing.assert_allclose(np.exp(score - lse[i]), P[i, j], rtol=1e-4)
print("out", out.shape, " lse", lse.shape, " a weight made again from both:", i, j)

# %% [markdown]
# It also joins what was computed apart, on two sets of keys or on two machines. $e^{\mathrm{lse}}$
# is the sum by which a part was divided: multiply it back, add, and divide by the whole sum.
#
# $$ O = e^{\mathrm{lse}_a - \mathrm{lse}}\, O_a + e^{\mathrm{lse}_b - \mathrm{lse}}\, O_b,
#    \qquad \mathrm{lse} = \log\bigl(e^{\mathrm{lse}_a} + e^{\mathrm{lse}_b}\bigr) $$

# %%
parts = [
    flash.forward(q, k[s], v[s], block_q=64, block_k=64) for s in np.split(np.arange(n), [300])
]
joined, joined_lse = flash.merge(*parts[0], *parts[1])
np.testing.assert_allclose(joined, out, atol=1e-6)
np.testing.assert_allclose(joined_lse, lse, atol=1e-5)
print("keys 0 ... 299 and 300 ... 1023, joined: full attention")

# %% [markdown]
# Here is the sentence of part one again, each word scored by the letters that it shares with
# *attention*. Outlined: each part's own softmax. Filled: what is left of it in the whole. Is
# there a cut with which both parts weigh the same?

# %%
words = "still we drop each block and obtain the same row of attention".split()
scores = np.array([len(set("attention") & set(word)) for word in words], float)

# %% folded=true
figure, ax = plots.figure(height=3.0)
ax.set_xticks(range(12), words, rotation=40, ha="right", rotation_mode="anchor")
alone_bars = ax.bar(range(12), [0] * 12, fill=False, edgecolor=plots.INK, label="its part alone")
whole_bars = ax.bar(range(12), [0] * 12, color=plots.SERIES[1], label="both parts together")
ax.set(ylabel="weight", ylim=(0, 1))
ax.legend(loc="upper left")
edge = ax.axvline(0, color=plots.INK, linestyle="--")


# %% folded=true
def draw_merge(cut):
    sums = np.exp(scores[:cut]).sum(), np.exp(scores[cut:]).sum()
    alone = np.exp(scores) / np.repeat(sums, (cut, 12 - cut))
    for bars, heights in ((alone_bars, alone), (whole_bars, np.exp(scores) / sum(sums))):
        for bar, height in zip(bars, heights, strict=True):
            bar.set_height(height)
    edge.set_xdata([cut - 0.5, cut - 0.5])
    first = sums[0] / sum(sums)
    return f"Cut before '{words[cut]}': the parts weigh {first:.0%} and {1 - first:.0%}."


# %%
widgets.explore(draw_merge, figure, cut=(1, 11, 1, 7))

# %% [markdown]
# <details><summary>The answer</summary>
#
# No cut makes them equal: the last word alone holds two thirds of the weight.
#
# </details>
#
# [Exercise 09.4](../exercises/09_flash.ipynb#09.4-Join-two-halves) asks for `merge`, with parts
# that see nothing.

# %% [markdown] covers="A5 A6"
# ## What a gradient asks for
#
# Let a loss $L$ depend on the output, and write $dX$ for the gradient $\partial L / \partial X$.
# Given $dO$, the two products of attention give theirs as every product does:
#
# $$ O = P V: \quad dV = P^\top dO, \quad dP = dO\, V^\top, \qquad
#    S = \tfrac{1}{\sqrt D} Q K^\top: \quad dQ = \tfrac{1}{\sqrt D}\, dS\, K, \quad
#    dK = \tfrac{1}{\sqrt D}\, dS^\top Q $$
#
# What is missing is the step from $dP$ to $dS$, through the softmax.

# %% [markdown]
# Take one row, $p_j = e^{s_j} / \sum_l e^{s_l}$. Three lines, with $[j = k]$ for 1 if both are
# equal and 0 if not:
#
# $$ \begin{aligned}
# \frac{\partial p_j}{\partial s_k} &= \frac{[j = k]\, e^{s_j}}{\sum_l e^{s_l}} -
#    \frac{e^{s_j} e^{s_k}}{(\sum_l e^{s_l})^2} = p_j \bigl([j = k] - p_k\bigr) \\
# ds_k &= \sum_j dp_j\; p_j \bigl([j = k] - p_k\bigr) = p_k\, dp_k - p_k \sum_j p_j\, dp_j \\
#      &= p_k\, (dp_k - \delta), \qquad \delta = \sum_j p_j\, dp_j
# \end{aligned} $$

# %% [markdown]
# By hand: two keys with scores $0$ and $\log 3$, so $p = (\frac14, \frac34)$; values 4 and 0; the
# loss is the output itself, $\frac14 \cdot 4 = 1$. Then $dO = 1$, $dp = (4, 0)$, $\delta = 1$, and
# $ds = (\frac14 \cdot 3, \frac34 \cdot (-1))$. Beside it *finite differences*: move a score a
# little up and down, and watch the loss.

# %%
s, values = np.array([0.0, math.log(3)]), np.array([4.0, 0.0])


def loss(s):
    return np.exp(s) / np.exp(s).sum() @ values


p, dp = np.exp(s) / np.exp(s).sum(), values
ds = p * (dp - p @ dp)
step = 1e-5 * np.eye(2)
measured = [(loss(s + h) - loss(s - h)) / 2e-5 for h in step]
print("ds by the formula:", ds.round(6), "  by finite differences:", np.round(measured, 6))

# %% [markdown]
# The two sum to 0, as they must: raising both scores alike changes no weight.
#
# ## Delta needs no row
#
# $\delta_i$ is a sum over the whole row $i$ of $P$ and $dP$, two $n \times n$ arrays. Does a tile
# have to wait for it? One line:
#
# $$ \delta_i = \sum_j p_{ij}\, dp_{ij} = \sum_j p_{ij}\; dO_i \cdot v_j
#    = dO_i \cdot \sum_j p_{ij}\, v_j = dO_i \cdot O_i $$

# %%
grad_out = random_qkv(n, seed=7)[0][0, 0]
dP = grad_out @ v.T
delta = (P * dP).sum(axis=-1)
np.testing.assert_allclose(delta, (out * grad_out).sum(axis=-1), atol=1e-4)
print("delta from two", P.shape, "arrays equals delta from two", out.shape, "arrays")

# %% [markdown] covers="L4 Y4"
# That was the last thing that needed a whole row. Now every entry of $dS$ follows from q, k, v,
# $dO$, lse and $\delta$ of its own row and column.
#
# ## Backward: make it again
#
# So do not keep $P$. Make each tile of it again from q, k and lse, use it for three gradients, and
# drop it:


# %%
def gradients(grad_out, q, k, v, out, lse, block=128):
    dq, dk, dv = (np.zeros_like(array) for array in (q, k, v))
    delta = (out * grad_out).sum(axis=-1, keepdims=True)
    factor = 1 / math.sqrt(q.shape[-1])
    for r in np.split(np.arange(len(q)), len(q) // block):
        for c in np.split(np.arange(len(k)), len(k) // block):
            p = np.exp(q[r] @ k[c].T * factor - lse[r, None])  # made again, for this tile
            dv[c] += p.T @ grad_out[r]
            ds = p * (grad_out[r] @ v[c].T - delta[r]) * factor
            dq[r] += ds @ k[c]
            dk[c] += ds.T @ q[r]
    return dq, dk, dv


# %%
expected = full.backward(grad_out, q, k, v)
library = flash.backward(grad_out, q, k, v, out=out, lse=lse, block_q=64, block_k=64)
for block in (1024, 128):  # one tile, 64 tiles
    mine = gradients(grad_out, q, k, v, out, lse, block)
    for theirs, ours, these in zip(expected, library, mine, strict=True):
        np.testing.assert_allclose(these, theirs, atol=1e-4)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
print("dq, dk, dv: as from whole matrices")

# %% [markdown]
# And against finite differences, which know no formula? Moving one number of k changes the loss
# $\sum dO \odot O$ as its gradient says. In float64, for five numbers:


# %%
exact_q, exact_k, exact_v, weigh = (array.astype(float) for array in (q[:64], k, v, grad_out[:64]))


def loss_of(k):
    return (weigh * full.attention(exact_q, k, exact_v)).sum()


# %%
dk = full.backward(weigh, exact_q, exact_k, exact_v)[1]
for row, column in ((0, 0), (3, 60), (64, 5), (500, 31), (1023, 63)):
    h = np.zeros_like(exact_k)
    h[row, column] = 1e-4
    slope = (loss_of(exact_k + h) - loss_of(exact_k - h)) / 2e-4
    np.testing.assert_allclose(slope, dk[row, column], rtol=1e-4, atol=1e-6)
print("dk: as finite differences say")

# %% [markdown]
# ## What waits in between
#
# Between a layer's forward and its backward pass all other layers run. Whatever the backward pass
# needs has to wait that long, in every layer and head at once. Standard attention keeps $P$; at
# $n = 16384$, for 12 layers of 12 heads in float16, that is 77 GB.

# %% folded=true
widgets.guess(
    "n = 16384, 12 layers of 12 heads: how many bytes is lse, in float32?",
    lambda: 16384 * 4 * 12 * 12,
    unit="B",
    explain="One number for each query and head: n times fewer than weights.",
)

# %% [markdown]
# Here is one head with $n = 1024$, in float32. The dark bars are $n \times n$:

# %% folded=true
square, row_bytes = n * n * 4, n * 64 * 4
events = ["forward", "other layers", "dV, dP", "dS", "dQ, dK"]
figure, (upper, lower) = plots.figure(2, 1, height=4.2)
stored = {"P": (0, 3, square), "dP, then dS": (2, 4, square), "O": (0, 2, row_bytes)}
plots.lifetimes(stored, events, upper, title="standard: P waits", large=square)
again = {"lse": (0, 4, n * 4), "O": (0, 2, row_bytes), "delta": (2, 4, n * 4)}
again["tiles of P, dP, dS"] = (2, 4, 3 * 64 * 64 * 4)
plots.lifetimes(again, events, lower, title="tiled: P is made again", large=square)
plots.show(
    figure, "Standard keeps P through all other layers; tiled keeps lse, 1024 times smaller."
)

# %% [markdown]
# $dS$ is written over $dP$. Prediction beside measurement: how many $n \times n$ arrays exist at
# once in each backward pass?

# %%
knobs = {"block_q": 64, "block_k": 64}
peaks = {
    "standard": measure.peak_bytes(full.backward, grad_out, q, k, v),
    "tiled": measure.peak_bytes(flash.backward, grad_out, q, k, v, out=out, lse=lse, **knobs),
}
for name, peak in peaks.items():
    print(f"{name:<9} {(peak - 3 * row_bytes) / square:.1f} n × n arrays beyond the gradients")

# %% [markdown]
# ## The price
#
# The scores are computed once more. A training step is a forward and a backward pass. Count the
# products of a tile in the code above, and in part one, before you commit:


# %% folded=true
def stored_backward(grad_out, q, k, v, p, delta):
    """The gradients when the weights were kept."""
    dv = p.T @ grad_out
    ds = p * (grad_out @ v.T - delta[:, None]) / 8
    return ds @ k, ds.T @ q, dv


def more_products():
    flops = measure.count_flops
    forward = flops(full.attention, q, k, v)
    kept = flops(stored_backward, grad_out, q, k, v, P, delta)
    again = flops(flash.backward, grad_out, q, k, v, out=out, lse=lse, **knobs)
    return 100 * ((forward + again) / (forward + kept) - 1)


# %% folded=true
widgets.guess(
    "By how many percent do attention's products in a training step grow when P is made again?",
    more_products,
    unit="%",
    explain="Two products forward, four backward with P kept, five without: 7 instead of 6.",
)

# %% [markdown]
# It is cheap, because moving P would cost more than making it. Do not mix it up with
# *checkpointing* a whole layer, where the whole forward pass runs again: a third of the step. The
# check to keep, wherever a method is said to compute more: **count its products, forward and
# backward apart**.

# %% [markdown]
# [Exercise 09.6](../exercises/09_flash.ipynb#09.6-Find-two-bugs-in-a-backward-pass) hides two bugs
# in such a backward pass.

# %% [markdown] covers="L20"
# ## The batch that fits
#
# In training each layer keeps q, k, v and O, and standard attention P as well. Suppose attention
# had a GPU to itself. How many more texts fit into it?


# %%
def kept_bytes(n, layers, heads, standard):
    """Bytes kept for one text, in float16 with heads of 64; lse in float32."""
    rows = 4 * n * 64 * 2  # q, k, v and O of one head
    return layers * heads * (rows + (2 * n * n if standard else 4 * n))


# %% folded=true
widgets.guess(
    "n = 32768, heads of 64, in float16, with q, k, v and O kept in both: how many times as many "
    "texts fit if lse is kept in place of P?",
    lambda: kept_bytes(32768, 12, 12, True) / kept_bytes(32768, 12, 12, False),
    unit="",
    explain="A row of P has 32768 numbers; q, k, v and O together 256. Layers and heads cancel.",
)

# %% folded=true
kept = ("P is kept", "lse is kept")
live_batch = plots.LiveBars(dict.fromkeys(kept, 1), unit="texts")


def draw_batch(n, layers, device):
    memory = DEVICES[device].memory_bytes
    fits = [memory // kept_bytes(n, layers, 12, way) for way in (True, False)]
    live_batch.update(dict(zip(kept, fits, strict=True)), f"{device}, n = {n}")
    return f"n = {n} on {device}: {fits[0]} texts if P is kept, {fits[1]} if only lse is kept."


# %%
lengths = widgets.choice([2**power for power in range(9, 17)], 8192)
gpus = ipywidgets.Dropdown(options=list(DEVICES), value="A100 40 GB")
widgets.explore(draw_batch, live_batch.figure, n=lengths, layers=(1, 96, 1, 12), device=gpus)

# %% [markdown]
# The factor is about $n / 4D$. It depends on the length and the head, and on what else the GPU
# must hold. A printed factor without them says nothing. The check to keep: **ask for the budget**.

# %%
claims.check("C449")

# %% [markdown] covers="L5 S3"
# ## One algorithm in two languages
#
# On a GPU one *program* does what `query_tile` did in part one: it takes a tile of queries, walks
# over the tiles of keys, and writes one tile of the output. Thousands of them run at once. What is
# an array in NumPy is a tile in registers there.

# %% [markdown]
# If pointers, offsets and masks are new to you, read
# [a kernel in twenty lines](04_window.ipynb#A-kernel-in-twenty-lines) first.

# %% [markdown]
# The idea in seven steps, each in its colour below: (1) find your place; (2) begin with nothing
# seen; (3) compute which tiles of keys to visit; then for each of them (4) make a tile of scores,
# (5) take its maximum and its weights, and (6) shrink what is kept and add; at the end (7) divide
# once.

# %% [markdown]
# Both use the same names in the same order, and the same sizes of a tile: `block_q` × `block_k`,
# in Triton in capitals, since they are fixed when the kernel is compiled. Nine small helpers hide
# what would distract. This is what they do:

# %%
numpy_code = inspect.getsource(flash._query_tile)
triton_code = side_by_side.function("kernels/flash.py", "_flash_fwd_kernel")
for path in ("kernels/flash.py", "kernels/_parts/tiles.py"):
    for name, says in side_by_side.helpers(triton_code, path).items():
        print(f"{name}\n    {says}")

# %% [markdown]
# NumPy has twins of three: `tiles` for `key_tiles`, `hide_future` for `visible_keys`, and its own
# `finite`. Now read across: lines with the same background do the same.

# %% folded=true
where_names_differ = {
    "last": "n_whole",
    "for keys": "for tile",
    "k_tile": "k",
    "if causal": "if stretch",
    "hide_future": "scores",
    "acc +=": "acc",
    "return": "lse",
}
steps = {
    "n_queries": "Who am I? A program finds its place by its number and by addresses. Causal: the "
    "longest rows first, so that no long program begins last.",
    "acc = np": "Nothing is seen yet.",
    "last =": "Which tiles of keys? The loop bounds are the mechanism.",
}

# %% folded=true
steps |= {
    "scores = np": "One tile of scores.",
    "new_max": "A larger score? Then what is kept must shrink.",
    "acc *=": "Shrink what is kept, add this tile's values.",
    "running_sum[": "The end: divide once, and keep one number per row.",
}
beside = {
    "q_ptr +=": "NumPy carries heads and batch along as leading axes: (..., Tq, D).",
    "positions": "Tq ≠ Tk: the last query stands at the last key.",
    "q = load_tile": "The caller has cut this tile, and scaled it.",
    "q = pass_inf": "The caller did so: infinity becomes NaN, and cannot look like a masked row.",
    "tile = np": "No array: a tile lives in registers.",
    "for stretch": "Two loops: below the diagonal no mask is needed at all.",
}

# %% folded=true
beside |= {
    "if bias": "Other mechanisms add to the scores here; this kernel has nothing to add.",
    "scores -=": "Inside exp2, below: nothing is written in between.",
    "v = load_tile": "The slice of v stands in the product, below.",
    "store_tile": "The caller writes what is returned. Only this leaves the chip.",
    "tl.store": "The caller writes it.",
}
names = {"same": where_names_differ, "steps": steps, "notes": beside}

# %%
titles = "NumPy: one call of flash._query_tile", "Triton: one program of the kernel"
side_by_side.SideBySide(numpy_code, triton_code, titles=titles, **names)

# %% [markdown]
# Two tricks are Triton's alone. The GPU has an instruction for $2^x$, not for $e^x$, so the
# factor $\log_2 e$ hides in the scale (`LOG2E`), and lse is to base 2. And the tiles that need a
# mask come last, in a loop of their own, so that the others pay nothing for it.

# %% [markdown]
# The whole files: [NumPy](../attncourse/reference/flash.py),
# [Triton](../attncourse/kernels/flash.py), with the backward pass too.

# %% [markdown]
# Same names, same numbers? Triton's interpreter runs the kernel here, without a GPU, and `trace`
# notes every access.

# %% tags=["nbval-ignore-output"]
traced = None
try:
    from attncourse import trace
    from attncourse.kernels import flash as flash_kernel
    from attncourse.kernels import full as full_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(96, width=16)]
    tile = {"block_q": 16, "block_k": 16}
    traced = trace.record(flash_kernel.attention, *tensors, **tile, causal=True)
    print(traced)
except (ImportError, RuntimeError) as reason:
    print(reason)

# %%
if traced:
    expected = flash.attention(*random_qkv(96, width=16), **tile, causal=True)
    np.testing.assert_allclose(traced.result.numpy(), expected, atol=1e-5)
    assert not traced.out_of_bounds
    sizes, tensors = (1, 1, 64, 64, 16), [tensor[:, :, :64] for tensor in tensors]
    tile = {"block_q": 32, "block_k": 32}  # as our kernel of full attention has them
    costs = full_kernel.cost(*sizes), flash_kernel.cost(*sizes, **tile)
    predicted = [cost.bytes_read + cost.bytes_written for cost in costs]
    seen = [trace.record(full_kernel.attention, *tensors)]
    seen += [trace.record(flash_kernel.attention, *tensors, **tile)]
    counted = [one.bytes_loaded() + one.bytes_stored() for one in seen]
    assert counted == predicted and counted[0] - counted[1] == 4 * 64**2 * 4 - 64 * 4

# %% [markdown]
# It does, and no access leaves its tensor. The bytes, as predicted by `cost` and as counted access
# by access, for 64 tokens without a mask and the same tiles: standard attention moves more by four
# trips of $n^2$ numbers, S and P, less one lse per query.

# %% [markdown]
# Slide through the programs of the causal kernel: how many tiles does the first one load, how many
# the last? (The programs begin with the last queries, which see most keys.)

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    for name, *numbers in zip(("full", "flash"), predicted, counted, strict=True):
        print("{:<6} predicted {:>7,} bytes, counted {:>7,}".format(name, *numbers))
    tiles = plots.LiveTiles(traced)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 3)))

# %% [markdown]
# [Exercise 09.5](../exercises/09_flash.ipynb#09.5-The-loop-of-a-Triton-kernel) leaves the loop of
# such a kernel to you, and counts the bytes that you load.

# %% [markdown] covers="L13"
# ## What FlashAttention-2 changed
#
# All this is the second version (Dao 2023, arXiv:2307.08691). The first one was as exact, but in
# its paper the loops stand the other way round: keys outside, queries inside. So the output of
# every query goes to HBM and back for each tile of keys.

# %%
n_tiles, rows = 4096 // 128, 4096 * 64 * 2  # q, k, v or out of one head, in float16
first_version = 2 * rows + n_tiles * 3 * rows  # k, v once; per key tile: q in, out in, out out
second_version = 2 * rows + n_tiles * 2 * rows  # q, out once; per query tile: k in, v in
print(f"first {first_version / 1e6:.1f} MB, second {second_version / 1e6:.1f} MB per head")

# %% [markdown]
# Compare the two walks at step 19. Which one has finished some queries?

# %% folded=true
said = {"x": "tile of keys", "y": "tile of queries"}
said["words"] = ("not yet", "done and forgotten", "in memory now")
live_order = plots.LiveHeatmap(np.zeros((8, 8)), title=" ", **said)


def draw_order(step, loops):
    grid, keys_first = np.zeros((8, 8)), loops == "keys outside"
    for at in range(step + 1):
        tile = divmod(at, 8)[::-1] if keys_first else divmod(at, 8)
        grid[tile] = 2 if at == step else 1
    live_order.update(grid, f"{loops}: version {1 if keys_first else 2}")
    return (
        f"With {loops}, step {step}: {(grid[:, -1] == 1).sum()} of 8 tiles of queries are finished."
    )


# %%
loops = ["queries outside", "keys outside"]
widgets.explore(draw_order, live_order.figure, step=(0, 63, 1, 19), loops=loops)

# %% [markdown]
# A query tile that nobody else touches is a job of its own. So version 2 starts one program per
# *query tile*, version 1 one per *head*. An A100 has 108 processors (SMs), and with long texts the
# batch is small. Who keeps them busy?

# %% folded=true
busy_names = ("one program a head", "one program a query tile")
live_busy = plots.LiveBars(dict.fromkeys(busy_names, 1), unit="SMs", high=108)


def draw_busy(batch, heads, n):
    programs = (batch * heads, batch * heads * -(-n // 128))
    busy = [min(108, number) for number in programs]
    live_busy.update(dict(enumerate(busy)), f"batch {batch}, {heads} heads, n = {n}")
    return f"{programs[0]} programs keep {busy[0]} SMs busy, {programs[1]} keep {busy[1]}."


# %%
lengths = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 8192)
widgets.explore(draw_busy, live_busy.figure, batch=(1, 16, 1, 1), heads=(1, 32, 1, 12), n=lengths)

# %% [markdown]
# Two more changes. The output is divided once, at the end, and not after every tile: work that no
# tensor core can do. And inside a program the *warps*, groups of 32 threads, split the queries
# instead of the keys, so that they need not exchange results.

# %% [markdown] covers="L19 P19 S2 W12"
# ## In the frameworks
#
# You need not write it. PyTorch has it behind `scaled_dot_product_attention`, xFormers as
# `memory_efficient_attention`. Each kind of chip needs a kernel of its own; where there is none,
# PyTorch falls back to plain attention, and the n × n matrix is there again; xFormers refuses. Swap
# it in and compare before and after, gradients too:

# %%
tensors = [torch.from_numpy(array).requires_grad_() for array in random_qkv(256, heads=4)]
theirs = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
theirs.sum().backward()
inputs, tile = random_qkv(256, heads=4), {"block_q": 64, "block_k": 64, "causal": True}
ours = flash.attention(*inputs, **tile)
np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)
for tensor, grad in zip(tensors, flash.backward(np.ones_like(ours), *inputs, **tile), strict=True):
    np.testing.assert_allclose(grad, tensor.grad.numpy(), atol=1e-4)
print("torch's and ours agree to rounding, forward and backward")

# %% [markdown]
# ## Try it
#
# Take a loss of your own, such as the square of one output, and a `gradients` with a mistake of
# your own: leave out `- delta[r]`, or take `delta` of a tile. Which of dq, dk and dv stay right?
# Then open [the exercises](../exercises/09_flash.ipynb): three are graded by memory or traffic.

# %% [markdown]
# Next: [chapter 10](10_triton.ipynb) writes such kernels from the first line.
