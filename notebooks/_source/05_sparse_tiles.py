# %% [markdown]
# # 05 · Skip most pairs: what a pattern costs
#
# [The first part](05_sparse.ipynb) asked who hears from whom. Here you get the bill. First in
# pairs, counted exactly: that is harder than adding. Then in *tiles*, which is what a processor
# computes; and a pattern with few pairs may turn out to touch them all.
#
# <!-- summary: counting connections exactly, without counting twice; tiles, the price of odd
# shapes; block-sparse attention; gathered keys against blocks, prediction beside measurement. -->

# %% [markdown]
# The first part is needed for the patterns' names only. *Block sizes that contradict each other*
# may be skipped. Two cells measure, some seconds each.

# %% role="setup"
import functools
import os

# One thread: times then differ by the work, and not by who else wants the cores.
for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded

import numpy as np

from attncourse import bench, claims, graph, layouts, masks, measure, plots, widgets
from attncourse.inputs import random_qkv
from attncourse.reference import bigbird, full, longformer, random_keys, strided, window
from attncourse.units import format_bytes

# %% [markdown] covers="F27 F30"
# ## Adding the parts
#
# *Chapter V*, one of
# [the texts that this course checks](00_start.ipynb#The-four-texts),
# joins three patterns for 4096 tokens: 64 local keys, every 128th, and the first token. It adds
# them up, 64 + 32 + 1 = 97 keys a token. What is wrong with that? Of 6 tokens, count how many
# parts claim each pair:


# %%
def three_parts(n, side, stride):
    """Return window, stride and first token, each bool (n, n)."""
    first = np.tile(np.arange(n) == 0, (n, 1))
    return window.mask(n, n, window=side), strided.mask(n, n, stride=stride), first


claimed = np.sum(three_parts(6, side=1, stride=3), axis=0)
print(claimed)
print(f"added up: {claimed.sum()} pairs; joined: {(claimed > 0).sum()}")

# %% [markdown]
# A 2 or a 3 is a pair that several parts have: adding counts it several times. Two more things are
# easy to forget. A query sees itself, one key beyond the 64; and at both ends of the text a window
# is cut. Now the real size:

# %%
parts = three_parts(4096, side=32, stride=128)
each = [masks.density(part) * 4096 for part in parts]
union = np.logical_or.reduce(parts).sum() / 4096
print("keys a token: {:.2f} + {:.2f} + {:.2f}".format(*each), end="")
print(f" = {sum(each):.2f} added up, {union:.2f} joined")

# %% [markdown]
# So 97 is nearly right, by luck: the forgotten own key makes up for the edges and for what is
# shared. *Density* is this number over $n$; *sparsity* is what is missing to 1.
#
# [Exercise 05.V8](../exercises/05_sparse.ipynb#05.V8-A-union-of-three-patterns) counts the union,
# and what follows from it.

# %% [markdown] covers="G7 G19"
# ## Rows, columns, and what is left
#
# For a Longformer there is a formula, because the mask falls into three parts that do not overlap:
# $g$ global rows, $g$ keys for each other row, and the other tokens among themselves, which is the
# plain window of [chapter 04](04_window.ipynb#The-edges):
#
# $$ \text{pairs} = g n + m g + \underbrace{m(2w + 1) - w(w + 1)}_{\text{window}},
#    \qquad m = n - g > w $$


# %%
def longformer_pairs(n, w, g):
    m = n - g
    return g * n + m * g + m * (2 * w + 1) - w * (w + 1)  # for w < m


for n, w, g in ((5, 1, 1), (300, 20, 3)):
    mask = longformer.mask(n, n, window=w, global_tokens=g)
    print(f"n = {n}, w = {w}, g = {g}: mask {mask.sum()}, formula {longformer_pairs(n, w, g)}")

# %% [markdown]
# A Longformer as large as BERT-base has 12 layers of 12 heads. It reads 4096 tokens, with 512 keys
# on each side and 2 global tokens. Suppose that a training run keeps all weights that are not
# hidden, in float32, for one text.

# %% folded=true
widgets.guess(
    "How many bytes do the kept attention weights of all 12 layers and 12 heads take?",
    lambda: 4 * 12 * 12 * longformer_pairs(4096, 512, 2),
    unit="B",
    explain=lambda kept: (
        f"All pairs would take {format_bytes(4 * 12 * 12 * 4096**2)}, "
        f"{4 * 144 * 4096**2 / kept:.1f} times as much: 1025 keys are a quarter of 4096."
    ),
)

# %% [markdown]
# Sparse is not small. And ask for the interval, never for the letter: the released Longformer says
# 512 too, means 256 on each side, and has half the pairs.

# %%
for side in (512, 256):
    pairs = longformer_pairs(4096, side, 2)
    print(f"{side} a side: {pairs:,} pairs, {4096**2 / pairs:.2f} times fewer than full")

# %% [markdown]
# If nothing else changes, such a ratio is the most that a time can gain. Where a text prints more,
# something else did change: the kernel, the length, the machine. Here is one that does.

# %%
why = "a time cannot fall by more than the work unless something else changed too"
pairs = longformer_pairs(4096, 512, 2)
claims.check("C224", f"{4096**2 / pairs:.2f} times fewer pairs at most", why)

# %% [markdown]
# [Exercise 05.2](../exercises/05_sparse.ipynb#05.2-Count-a-Longformer) asks for the count up to
# $10^{12}$ tokens, where no mask helps.

# %% [markdown]
# ## Counted twice
#
# *Chapter E* counts a BigBird: $n = 4096$, 256 window keys in all, 64 random, 32 global. By rows:
# a regular token has 256 + 64 + 32 keys, a global one has all. Each row once, and done.

# %%
n, w, r, g = 4096, 256, 64, 32
rows = {"regular": (n - g) * (w + r + g), "global": g * n}
by_rows = sum(rows.values())
for kind, pairs in rows.items():
    print(f"{kind:<9} rows {pairs:>9,}")
print(f"together       {by_rows:>9,}")

# %% [markdown]
# The chapter goes on. It adds the "incoming" links from regular tokens to global ones, though the
# rows hold them already, and subtracts an overlap that is none. A real mask has even fewer than the
# rows say, since windows end at the edges:


# %%
def bigbird_pairs(n, w, r, g):
    return g * n + (n - g) * (g + r) + window.count(n - g, n - g, window=w // 2)


small = bigbird.mask(512, 512, block=1, window_blocks=8, random_blocks=6, global_blocks=3)
assert small.sum() == bigbird_pairs(512, 16, 6, 3)
printed = by_rows + (n - g) * g - g * g
print(f"printed {printed:,}, rows {by_rows:,}, mask {bigbird_pairs(n, w, r, g):,}")

# %%
claims.check("C458", by_rows)

# %% [markdown]
# Sparsity, megabytes and speedups that are worked out from a wrong total are wrong with it: [the
# audit](17_audit.ipynb) has them all. [Exercise
# 05.V4](../exercises/05_sparse.ipynb#05.V4-BigBird-without-counting-twice) counts this pattern,
# part by part.

# %% [markdown] covers="G13"
# ## Block sizes that contradict each other
#
# Recommendations can be checked the same way. Chapter E wants a window of 3 blocks, "typically
# 256–512" tokens, and 2 global blocks, "typically 32–64". How large is a block, then?

# %%
for part, blocks, low, high in (("window", 3, 256, 512), ("global", 2, 32, 64)):
    print(f"{part}: blocks of {-(-low // blocks)} to {high // blocks} tokens")

# %% [markdown]
# No block is both. The released model takes blocks of 64, and so 192 and 128 tokens: neither fits.

# %% [markdown] covers="F28 F31"
# ## Tiles: the price of odd shapes
#
# Keep one pair in a hundred, drawn by chance, and attention should take a hundredth of the work.
# But a processor multiplies *tiles*, blocks of 16 × 16 pairs or more, in one go. A tile with one
# visible pair costs as much as a full one.

# %%
loose = random_keys.mask(1024, 1024, n_random=9, seed=0)
print(f"{loose.sum():,} of {loose.size:,} pairs: {masks.density(loose):.2%}")


# %%
def touched(mask, tile):
    """Return which tiles hold at least one visible pair."""
    return layouts.blocks_of(mask, block=tile)[0]


# %% folded=true
widgets.guess(
    "Tiles of 32 × 32: what share of all tiles holds at least one of these pairs?",
    lambda: 100 * touched(loose, 32).mean(),
    unit="%",
    explain="A tile has 1024 pairs, and is spared only if chance leaves out every one of them.",
)

# %% [markdown]
# Choose a pattern, and make the tiles larger: which pattern keeps its promise, which loses first?

# %%
kinds = {
    "by chance": random_keys.mask(256, 256, n_random=8, seed=0),
    "stride 16": strided.mask(256, 256, stride=16),
    "longformer": longformer.mask(256, 256, window=8, global_tokens=4),
    "bigbird, blocks of 16": bigbird.mask(256, 256, block=16, random_blocks=1, global_blocks=1),
}
for name, mask in kinds.items():
    print(f"{name:<22} {masks.density(mask):6.1%} of the pairs of 256 tokens")


def computed(mask, tile):
    """Return for each pair 0 if its tile is skipped, 1 if it is computed and hidden, 2 if seen."""
    return np.kron(touched(mask, tile), np.ones((tile, tile), dtype=int)) + mask


# %% folded=true
words = ("skipped", "hidden", "counts")
figure, ax = plots.figure(width=5.2, height=4.2)
live_tiles = plots.LiveHeatmap(np.zeros((256, 256)), ax, words=words)
plots.mask_legend(figure, words, loc="outside lower center")


# %% folded=true
def draw_tiles(pattern, tile):
    cells = computed(kinds[pattern], tile)
    live_tiles.update(cells, f"{pattern}, tiles of {tile}")
    done, used = (cells > 0).mean(), (cells == 2).sum() / (cells > 0).sum()
    return f"{pattern}, tiles of {tile}: {done:.0%} computed; {used:.0%} of that counts."


tile = widgets.choice([1, 2, 4, 8, 16, 32, 64], 4)
widgets.explore(draw_tiles, live_tiles.figure, pattern=list(kinds), tile=tile)

# %% [markdown]
# Chance can be predicted. With density $p$ and tiles of $b \times b$, all $b^2$ pairs of a tile
# must be hidden to spare it:
#
# $$ \text{touched} = 1 - (1 - p)^{b^2} $$

# %%
for tile in (1, 4, 8):
    chance = 1 - (1 - masks.density(loose)) ** tile**2
    found = masks.density(touched(loose, tile))
    print(f"tiles of {tile}: predicted {chance:5.1%}, counted {found:5.1%}")

# %% [markdown]
# Counted is a little less, since one key of each query is not drawn: its own. These crowd into the
# few tiles of the diagonal, and leave less to chance. Still, with large tiles a hundredth of the
# pairs has the price of full attention. That is why BigBird draws whole blocks.

# %% [markdown] covers="F28 F36"
# ## Block-sparse attention
#
# So give the tiles the first word. A *layout* is a small boolean grid: which block of keys does a
# block of queries see? For the others nothing is computed. One row of blocks takes one product:
#
# $$ \underbrace{Q_\text{block}}_{b \times D}\;
#    \underbrace{[K_{j_1} \dots K_{j_m}]^\top}_{D \times m b} \in \mathbb R^{b \times m b} $$

# %%
from attncourse.reference import block_sparse

n, block = 512, 64
layout = layouts.band(n, n, block=block, window_blocks=0)
layout[:, 0] = layout[0] = True
print(layout.astype(int))

# %% [markdown]
# Take the fourth row of blocks by hand. It sees two of eight blocks, so its scores are 64 × 128
# instead of 64 × 512, and the next row reuses their memory:

# %%
q, k, v = random_qkv(n)
rows, keys = slice(192, 256), np.r_[0:64, 192:256]  # block 3 sees the blocks 0 and 3
scores = q[0, 0, rows] @ k[0, 0, keys].T / np.sqrt(64)
weights = np.exp(scores - scores.max(axis=1, keepdims=True))
by_hand = weights / weights.sum(axis=1, keepdims=True) @ v[0, 0, keys]
out = block_sparse.attention(q, k, v, layout=layout, block=block)
np.testing.assert_allclose(out[0, 0, rows], by_hand, atol=1e-6)
everything = block_sparse.attention(q, k, v, layout=np.ones_like(layout), block=block)
np.testing.assert_allclose(everything, full.attention(q, k, v), atol=1e-6)
print("scores", scores.shape, "give the same row; with all blocks it is full attention")

# %% [markdown]
# Any mask can go this way. *Full* blocks need no mask; *partial* ones are computed, and a function
# says which pairs count. So an odd pattern is exact too, at the price of its tiles
# ([reference](../attncourse/reference/block_sparse.py)):

# %%
mask = longformer.mask(n, n, window=100, global_tokens=3)
layout, partial = layouts.blocks_of(mask, block=block)
odd = block_sparse.attention(
    q, k, v, layout=layout, block=block, partial=partial, visible=lambda i, j: mask[i, j]
)
np.testing.assert_allclose(odd, full.attention(q, k, v, mask=mask), atol=1e-6)
print(f"{layout.sum()} of {layout.size} blocks, {partial.sum()} of them partial: the same result")

# %% [markdown]
# A block may also take its keys in two passes, a window and then the hubs, with *one* softmax. If
# the second pass brings a larger maximum, the weights made with the old one are too large: multiply
# what they sum to by $e^{\text{old} - \text{new}}$. That is the
# [online softmax](09_flash.ipynb#The-online-softmax).

# %% [markdown]
# [Exercise
# 05.3](../exercises/05_sparse.ipynb#05.3-Block-sparse-attention,-one-row-of-blocks-at-a-time) is
# this algorithm, with its memory graded. In [exercise
# 05.6](../exercises/05_sparse.ipynb#05.6-Find-two-bugs-in-a-union) you find two bugs in a union of
# two patterns.

# %% [markdown] covers="F29 F31 S4"
# ## Gather or block
#
# Now the clock, at 2048 tokens and with one thread. Each sparse way keeps a sixteenth of the pairs.
# *Gathering* computes exactly the wanted ones: it copies each query's keys from all over the
# memory. On a GPU such reads do not *coalesce*: neighbouring threads fetch from far places.
# cuSPARSE has that problem too.

# %%
q, k, v = random_qkv(2048)
bird = bigbird.layout(2048, 2048, block=64, window_blocks=0, random_blocks=1, global_blocks=0)
spread = random_keys.mask(2048, 2048, n_random=127)
ways = {
    "full": lambda: full.attention(q, k, v),
    "random keys, masked": lambda: full.attention(q, k, v, mask=spread),
    "random keys, gathered": lambda: random_keys.attention(q, k, v, n_random=127),
    "random blocks": lambda: block_sparse.attention(q, k, v, layout=bird, block=64),
    "window": lambda: window.attention(q, k, v, window=64),
}
steady = {"repeats": 20, "at_least": 5, "at_most": 0.3}
seconds = functools.cache(lambda way: measure.seconds(ways[way], **steady).median)
print(f"{spread.mean():.4f} and {bird.mean():.4f} of all pairs; 1 / 16 is {1 / 16:.4f}")

# %% folded=true
widgets.guess(
    "A sixteenth of the pairs: how many times as fast as full attention are gathered random keys?",
    lambda: seconds("full") / seconds("random keys, gathered"),
    unit="times",
    explain="Measured on this machine just now, with one thread. 16 is what the pairs promise; "
    "below 1 is a loss.",
)

# %%
peaks = {way: measure.peak_bytes(call) for way, call in ways.items()}
assert peaks["random blocks"] < peaks["random keys, gathered"] < peaks["full"]
assert peaks["full"] < peaks["random keys, masked"]
figure, (upper, lower) = plots.figure(2, 1, height=4.6)
plots.bars({way: seconds(way) for way in ways}, upper, unit="s", title="time")
plots.bars(peaks, lower, unit="bytes", title="peak memory")
plots.show(figure, "Time and memory of five ways. Blocks hold less than gathered keys, masks most.")

# %% [markdown]
# How much of the theory does each way realise? Divide the measured speedup by the promised one, 16.
# *Chapter V* prints such shares for GPUs without naming one; yours are here:

# %% tags=["nbval-ignore-output"]
for way in sorted(ways, key=seconds):
    print(f"{way:<22} {seconds('full') / seconds(way):5.2g} times as fast as full attention")
winner, loser = sorted(("random blocks", "random keys, gathered"), key=seconds)
print(f"{winner} beat {loser}: {seconds(loser) / seconds(winner):.2g} times as fast")
share = seconds("full") / seconds("random keys, gathered") / 16
claims.check("C143", f"gathered random keys: {share:.0%} of 16x on this CPU, one thread")

# %% [markdown]
# Even experts meet this. Longformer's paper calls its own CUDA kernel "as fast as the highly
# optimized full self-attention" (appendix A), though it computes fewer pairs. It saved memory, not
# time.

# %% [markdown]
# ## Prediction beside measurement
#
# Each mechanism states its peak before it runs. What will each do when $n$ doubles?

# %%
lengths = [512, 1024, 2048]
inputs = [random_qkv(n) for n in lengths]
named = {
    "longformer": (longformer, {"window": 64, "global_tokens": 2}),
    "bigbird": (bigbird, {"block": 64}),
    "strided": (strided, {"stride": 16}),
    "random": (random_keys, {"n_random": 64}),
}
measured = {"full": [measure.peak_bytes(full.attention, *x) for x in inputs]}
predicted = {"full": [full.cost(1, 1, n, n, 64).peak_bytes for n in lengths]}
for name, (module, knobs) in named.items():
    measured[name] = [measure.peak_bytes(module.attention, *x, **knobs) for x in inputs]
    predicted[name] = [module.cost(1, 1, n, n, 64, **knobs).peak_bytes for n in lengths]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1, atol=2**13)
print("every peak is within a tenth and 8 KiB of its prediction")

# %%
axes = plots.growth(lengths, measured, predicted, unit="bytes", title="peak memory")
plots.show(axes, "Full attention grows with n squared, the four sparse patterns about with n.")

# %% [markdown]
# The points lie on the lines. Random attention starts highest: what it holds are the copies of the
# gathered keys.
#
# Now the time. One measured point, full attention at 2048 tokens, scaled by FLOPs, predicts all
# others. Which mechanism will miss its prediction most? Remember how each gets its keys.

# %%
brief = {"repeats": 20, "at_least": 3, "at_most": 0.1}  # short calls more often than long ones
timings = {"full": [measure.seconds(full.attention, *x, **brief) for x in inputs]}
rate = full.cost(1, 1, 2048, 2048, 64).flops / timings["full"][-1].median
expected = {"full": [full.cost(1, 1, n, n, 64).flops / rate for n in lengths]}
for name, (module, knobs) in measure.progress(named.items(), "timing", expect_seconds=3):
    timings[name] = [measure.seconds(module.attention, *x, **brief, **knobs) for x in inputs]
    expected[name] = [module.cost(1, 1, n, n, 64, **knobs).flops / rate for n in lengths]
above = {name: timings[name][-1].median / expected[name][-1] for name in named}


# %% folded=true
def times_beside_lines():
    axes = plots.growth(lengths, timings, expected, unit="s", title="time")
    plots.show(axes, "Seconds over n, measured and, dashed, as the operation count predicts.")
    return ", ".join(f"{name} {times:.2g}" for name, times in above.items()) + " times."


widgets.guess(
    "At 2048 tokens, how many times its predicted time does the mechanism take that exceeds it "
    "most?",
    lambda: max(above.values()),
    unit="times",
    explain=times_beside_lines,
)

# %% [markdown]
# What lies between prediction and clock is not in the count of FLOPs: copies, Python's loop over
# blocks, and at short lengths the start of each call. A count says what a pattern cannot beat,
# never what it will take.

# %% [markdown] covers="F28 F29"
# ## The kernel
#
# One Triton kernel serves the block patterns. Triton itself is explained in
# [chapter 04](04_window.ipynb#A-kernel-in-twenty-lines). Each *program* takes one block of queries;
# which blocks of keys it visits stands in a list. All lists lie one behind the other, and `starts`
# says where each begins.

# %%
layout = bigbird.layout(128, 128, block=32, window_blocks=0, random_blocks=1, global_blocks=1)
starts, blocks = np.r_[0, layout.sum(axis=1).cumsum()], np.nonzero(layout)[1]
print(layout.astype(int))
print("starts", starts, " blocks", blocks)
for row in range(4):
    print(f"program {row} visits the key blocks", blocks[starts[row] : starts[row + 1]])

# %% [markdown]
# The list is the loop: what it lacks is neither loaded nor computed. The package's kernel reads two
# arrays. `items` is our `starts`, five numbers a program: row, start of its full blocks, start of
# its partial ones, end, and a mark for shared lists. `entries` is our `blocks`: one number for a
# full block, two for a partial one.

# %% [markdown]
# `trace` notes what each program touches, in Triton's interpreter if there is no GPU; that takes
# some seconds.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import bigbird as bigbird_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(128, width=16)]
    knobs = {"block": 32, "window_blocks": 0, "random_blocks": 1, "global_blocks": 1}
    tiles = plots.LiveTiles(trace.record(bigbird_kernel.attention, *tensors, **knobs))
    shown = widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 2))
except (ImportError, RuntimeError) as reason:
    shown = reason
shown

# %% [markdown]
# On a GPU the next cell measures the kernels. Without one it shows the latest recorded run, or says
# that there is none.

# %%
bench.show_gpu("bigbird")

# %% [markdown]
# [Exercise 05.5](../exercises/05_sparse.ipynb#05.5-A-Triton-kernel-that-walks-a-list) is such a
# kernel: it walks a list.

# %% [markdown]
# ## A pattern of your own
#
# Now join patterns yourself: 256 tokens, tiles of 8; stride 0 is none. Without hubs, can you let
# all pairs meet in two layers, and compute less than half of the tiles? Less than two fifths? What
# does one hub save? Then add one random key a query, and look at the tiles.


# %% folded=true
def joined(window_, stride, random, hubs):
    mask = longformer.mask(256, 256, window=window_, global_tokens=hubs)
    mask |= random_keys.mask(256, 256, n_random=random, seed=0)
    return mask | strided.mask(256, 256, stride=stride or 256)


def draw_own(**knobs):
    mask = joined(**knobs)
    cells, met = computed(mask, 8), [masks.density(m) for m in graph.reach_through([mask] * 8)]
    live_own.update(cells)
    layers = next((f"all met after {at + 1} layers" for at, m in enumerate(met) if m == 1), "")
    layers = layers or f"{met[-1]:.0%} met after 8 layers"
    return f"{mask.mean():.1%} of pairs, {(cells > 0).mean():.1%} in computed tiles; {layers}."


# %% folded=true
figure, ax = plots.figure(width=5.2, height=4.2)
live_own = plots.LiveHeatmap(np.zeros((256, 256)), ax, words=words)
plots.mask_legend(figure, words, loc="outside lower center")
ranges = {"window_": (0, 32, 1, 4), "stride": (0, 64, 1, 0), "random": (0, 16, 1, 0)}
widgets.explore(draw_own, live_own.figure, **ranges, hubs=(0, 8, 1, 0))

# %% [markdown]
# ## In a real model
#
# Blocks please the processor. Do they please a model? The course's small one (four layers of four
# heads, trained on Python's standard library) reads a page that it never saw. Four patterns take
# the place of its attention, each with about 24 keys a token. The darker a token, the less probable
# it has become.

# %% folded=true
from attncourse import model

none = {"block": 16, "window_blocks": 0, "random_blocks": 0, "global_blocks": 0}
four = {
    "23 single keys by chance": (random_keys, {"n_random": 23}),
    "own block, one by chance": (bigbird, none | {"random_blocks": 1}),
    "own block, the one before": (bigbird, none | {"window_blocks": 1}),
    "the last 25": (window, {"window": 24}),
}
trained = model.load()
stem = lambda module: module.__name__.rpartition(".")[2]  # noqa: E731
swapped = {name: trained.swap(stem(module), **knobs) for name, (module, knobs) in four.items()}
tried = model.compare(trained, swapped)
widgets.in_a_real_model("keys", tried)

# %%
n = len(tried["the last 25"].pieces)
triangle = touched(np.tri(n, dtype=bool), 16).sum()
print(f"with all keys, {tried['the last 25'].full_loss:.2f} nats a token")
for name, (module, knobs) in four.items():
    mask = module.mask(n, n, causal=True, **knobs)
    tiles = touched(mask, 16).sum() / triangle
    print(f"{name:<26} {mask.sum() / n:.0f} keys, {tiles:4.0%} of the tiles", end=", ")
    print(f"{tried[name].loss:.2f} nats, {max(0, tried[name].copied):3.0%} of the copying")

# %% folded=true
lost = {name: one.loss for name, one in tried.items()}
assert lost["own block, one by chance"] < lost["23 single keys by chance"] - 0.5
assert abs(lost["own block, the one before"] - lost["the last 25"]) < 0.1

# %% [markdown]
# The block before does for this model what a window does, in fewer tiles. Single keys by chance
# touch every tile and lose most: they leave out the neighbours, which a token's own block brings
# along. A block by chance even keeps some of the copying, where it happens to hold the first time.
# [The first part](05_sparse.ipynb#In-a-real-model) tried other patterns.

# %% [markdown]
# ## With data of your own
#
# The order of the tokens is yours to choose. The woven texts of the first part touch every tile.
# Sort the tokens by text, and the same pairs fill a sixteenth of the tiles:

# %%
woven, order = kinds["stride 16"], np.argsort(np.arange(256) % 16, kind="stable")
for name, mask in {"woven": woven, "sorted": woven[order][:, order]}.items():
    print(f"{name:<6} {mask.sum()} pairs, {touched(mask, 16).mean():.1%} of the tiles")

# %% [markdown]
# You know which positions of your data belong together: columns of a table, frames of a film, calls
# of a function. Build their mask, bool `(n, n)`, and try two orders. Which one has fewer tiles?
#
# Next: [chapter 06](06_low_rank.ipynb) leaves no key out, and mixes all of them into a few.
