# %% [markdown]
# # 04 · Look only nearby: window attention
#
# Most of what a token needs stands close to it. Window attention takes that literally: a query
# sees the keys around it and nothing else. Here it is a mask, a graph, an algorithm and, at the
# end, a Triton kernel; only two of the four save memory.
#
# <!-- summary: window attention as a mask, a graph and an algorithm; the four meanings that
# papers give to w; why a mask saves nothing and blocks do; dilation, and how far layers see; what a
# Triton program is, and the window as a kernel, tile by tile. -->

# %% role="setup"
import contextlib
import os

# One thread: times then differ by the work, and not by who else wants the cores.
for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded

import numpy as np

from attncourse import bench, claims, masks, measure, plots, widgets
from attncourse.bench import records
from attncourse.inputs import random_qkv
from attncourse.reference import full, window
from attncourse.softmax import softmax

# %% [markdown] covers="F1 F2"
# ## One rule
#
# Query $i$ may attend to key $j$ only if they are at most $w$ steps apart. In this course the
# *window* $w$ is a radius: $w$ keys on each side, and the query's own position.
#
# $$ S(i) = \{\, j : |j - i| \le w \,\}, \qquad
#    \text{out}_i = \sum_{j \in S(i)} \frac{e^{s_{ij}}}{\sum_{l \in S(i)} e^{s_{il}}}\, v_j ,
#    \qquad s_{ij} = \frac{q_i \cdot k_j}{\sqrt D} $$
#
# Take a sentence of sixteen words and $w = 3$:

# %%
words = "The keys that the old man who lives by the sea lost in March were found".split()
mask = window.mask(16, 16, window=3)
for query in ("were", "The", "lives"):
    print(f"{query:>5} sees:", *np.array(words)[mask[words.index(query)]])

# %% [markdown]
# *were* sees *lost in March*, and never the *keys* that were found. That is the bargain, and this
# chapter is about both sides of it.
#
# How does a softmax leave keys out? Give them the score $-\infty$: since $e^{-\infty} = 0$, their
# weight is exactly zero, and the others share what is left.

# %%
scores = np.array([1.0, 2.0, 0.5, 1.5, 3.0])
near = np.abs(np.arange(5) - 1) <= 1  # what query 1 sees with w = 1
hidden = np.where(near, scores, -np.inf)
print("scores ", hidden)
print("weights", np.round(np.exp(hidden) / np.exp(hidden).sum(), 2))

# %% [markdown]
# The safest test there is comes first, as for every mechanism of this course: a window as wide as
# the sequence must be full attention.

# %%
q, k, v = random_qkv(12, width=8)
wide = window.attention(q, k, v, window=12)
np.testing.assert_allclose(wide, full.attention(q, k, v), atol=1e-6)
print("window 12 on 12 tokens is full attention")

# %% [markdown] covers="F2 W14"
# ## Three pictures of one thing
#
# A mask is a matrix of who may look at whom. It is also a graph with an edge for each True, and a
# list of keys for each query. Papers draw the first, proofs use the second, kernels loop over the
# third: inside a band, a list is just *from* and *to*.

# %% folded=true
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(window.mask(16, 16, window=2), left, title="mask")
plots.graph(window.mask(16, 16, window=2), right, title="graph")
plots.show(figure, "A band around the diagonal; and lines from each query to its neighbours.")

# %% [markdown]
# Move the window and watch the corners: there the band is cut off. Then tick *causal*: nobody may
# look ahead, and the window keeps only its left half.

# %% folded=true
live = plots.LiveMask(window.mask(48, 48, window=4))


def draw(window_, causal):
    mask = window.mask(48, 48, window=window_, causal=causal)
    live.update(mask)
    return f"{mask.sum()} of {mask.size} pairs may attend: density {masks.density(mask):.1%}."


widgets.explore(draw, live.figure, window_=(0, 47, 1, 4), causal=False)

# %% [markdown]
# *Density* is the share of pairs that may attend; *sparsity* is the rest.
# [Exercise 04.1](../exercises/04_window.ipynb#04.1-Window-mask) asks for this mask, with queries
# and keys of different number.

# %% [markdown] covers="F3"
# ## Four meanings of w
#
# Authors agree that a window has size $w$, and on nothing else. Some count both sides together,
# some each side; some count the query itself; some forget that the edges cut windows short. Two
# textbook chapters, V and E of [the four texts](00_start.ipynb#The-four-texts), use all of these
# for $w = 256$ and 1024 tokens:

# %%
n, w = 1024, 256
readings = {
    "i - w ... i + w       radius: this course, chapter E's text": window.count(n, n, window=w),
    "i - w/2 ... i + w/2   total: chapter V, chapter E's code": window.count(n, n, window=w // 2),
    "w keys for everyone   chapter E's exercises": n * w,
    "2w keys for everyone  chapter E's memory table": n * 2 * w,
}
for reading, pairs in readings.items():
    print(f"{pairs:>8,} pairs  {reading}")

# %% [markdown]
# They differ by a factor of two, and so does every saving that is computed from them. One chapter
# does not even agree with itself:

# %%
claims.check("C476", "the four counts above")

# %% [markdown]
# **So ask for the interval, never for the letter.** You can use that on the next paper you read:
# find the line of code, or the figure, that says which keys the first and the middle query see.

# %% [markdown] covers="F5"
# ## The edges
#
# An interior query has $2w + 1$ keys. Near an end the text stops first: row 0 loses $w$ keys, row 1
# loses $w - 1$, and so on to 1; the other end is the mirror image. Two triangles are missing:
#
# $$ \text{pairs} = n(2w+1) - 2\,(1 + 2 + \dots + w) = n(2w+1) - w(w+1), \qquad w < n $$

# %%
keys_of = window.mask(64, 64, window=8).sum(axis=1)
print("first rows ", keys_of[:10])
print("last rows  ", keys_of[-10:])
assert keys_of.sum() == 64 * (2 * 8 + 1) - 8 * (8 + 1)
for w in (8, 64, 256):
    surplus = 1024 * (2 * w + 1) / window.count(1024, 1024, window=w) - 1
    print(f"w = {w:>3} of 1024 tokens: n(2w + 1) is {surplus:.1%} too many")

# %% [markdown]
# Who forgets the edges is a little off while $w \ll n$, and not when $w$ is a quarter of the text.
# [Exercise 04.2](../exercises/04_window.ipynb#04.2-Count-the-connections) counts the pairs of texts
# far too long for a mask.

# %% [markdown]
# ### A picture that lies
#
# A textbook shows the mask of 1024 tokens with 128 keys on each side as a heat map of its top-left
# 256 × 256 corner, to let us see how sparse attention has become.


# %% folded=true
def corner_beside_whole():
    figure, (left, right) = plots.figure(1, 2)
    printed = window.mask(1024, 1024, window=128)
    plots.heatmap(printed[:256, :256], left, title="the printed corner")
    plots.heatmap(printed, right, title="the whole mask")
    plots.show(figure, f"The whole mask is {masks.density(printed):.0%} filled.")


widgets.guess(
    "How much of the printed corner is filled?",
    lambda: 100 * masks.density(window.mask(256, 256, window=128)),
    unit="%",
    explain=corner_beside_whole,
)

# %% [markdown]
# **Before you believe a picture of a mask, ask which part of it you see.**

# %% [markdown] covers="F36"
# ## A mask saves nothing
#
# Here is window attention as most tutorials write it: compute all scores, then hide most of them.
# The result is right. What does it cost? `count_flops` counts the matrix products that NumPy really
# executes; one multiply-add, or *MAC*, is 2 FLOPs.

# %%
n, radius = 1024, 128
q, k, v = random_qkv(n)
mask = window.mask(n, n, window=radius)
flops = {
    "full attention": measure.count_flops(full.attention, q, k, v),
    "full attention, masked": measure.count_flops(full.attention, q, k, v, mask=mask),
    "window attention": measure.count_flops(window.attention, q, k, v, window=radius),
}
for way, number in flops.items():
    print(f"{number:>12,} FLOPs  {way}")

# %% [markdown]
# The mask changed the answer and not the work: both products run over all $n^2$ pairs before anyone
# looks at the mask. A published solution is of the second kind, and states the savings of the
# third, in MACs:

# %%
multiply_adds = flops["full attention, masked"] // 2
claims.check("C376", multiply_adds, "its code computes both products whole; only a band would save")

# %% [markdown]
# **Count what the code executes, not what its mask lets through.** The same holds for memory and
# for time. First the memory, at 8192 tokens. Full attention holds $8192^2$ scores of four bytes,
# 256 MiB. The band alone would be $8192 \cdot 257$ scores, 8 MiB.

# %% folded=true
widgets.guess(
    "8192 tokens, one head of width 64, 128 keys on each side, float32: how much does window "
    "attention hold at most, besides its output?",
    lambda: measure.peak_bytes(window.attention, *random_qkv(8192), window=128) - 8192 * 64 * 4,
    unit="B",
    explain="Not the band: 64 queries at a time. 80 KiB of scores (64 × 320 × 4), 20 KiB of mask, "
    "and the block's working arrays. How, Blocks save shows, below.",
)

# %% [markdown]
# Now the time, of full attention and of two ways to the same window, at 2048 tokens on this
# machine, with one thread. Each is the fastest of five calls, made in turns, since other programs
# can only slow one:

# %% tags=["nbval-ignore-output"]
n = 2048
q, k, v = random_qkv(n)
mask = window.mask(n, n, window=radius)
ways = {
    "full": lambda: full.attention(q, k, v),
    "full, masked": lambda: full.attention(q, k, v, mask=mask),
    "window": lambda: window.attention(q, k, v, window=radius),
}
np.testing.assert_allclose(ways["window"](), ways["full, masked"](), atol=1e-6)
seconds = dict.fromkeys(ways, np.inf)
for way, call in 5 * list(ways.items()):
    seconds[way] = min(seconds[way], measure.seconds(call, repeats=1, warmup=0).median)
masked, windowed = (seconds[way] / seconds["full"] for way in ("full, masked", "window"))
alt = f"Masked it takes {masked:.2f} times as long as full attention, as a window {windowed:.2f}."
plots.show(plots.bars(seconds, unit="s"), alt)

# %% [markdown]
# The masked way executes every product of full attention, and the masking on top. Is that what your
# clock says? If not, other programs may have kept the machine busy: run the cell again.

# %% [markdown] covers="F2 F36"
# ## Blocks save
#
# Queries 512 … 575 together need only the keys from $512 - w$ to $575 + w$. That is one small
# matrix product. Do it for this block by hand; the next block can reuse its memory.
#
# $$ \underbrace{Q_{\text{block}}}_{64 \times D}\;
#    \underbrace{K_{\text{stretch}}^\top}_{D \times (64 + 2w)}
#    \in \mathbb R^{64 \times (64 + 2w)} $$

# %%
n, radius, block = 1024, 128, 64
q, k, v = (array[0, 0] for array in random_qkv(n))
rows, keys = slice(512, 512 + block), slice(512 - radius, 512 + block + radius)
scores = q[rows] @ k[keys].T / np.sqrt(64)
print("scores", scores.shape, "instead of", (n, n))

# %% [markdown]
# The corners of this block lie outside the band. They are computed and then hidden: the price of
# working in blocks.

# %%
mask = window.mask(n, n, window=radius)
out = softmax(scores, mask[rows, keys]) @ v[keys]
np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask)[rows], atol=1e-5)
print(f"{mask[rows, keys].mean():.0%} of this block counts, the rest is hidden")

# %% [markdown]
# How large should a block be? Small blocks hide little and start many products; large blocks hide
# more. Everything coloured is computed; only the dark band counts. At which block does about half
# of the work go to waste? And for a window half as wide?

# %% folded=true
live_blocks = plots.LiveHeatmap(
    np.zeros((256, 256)), title="computed and needed", words=("skipped", "hidden", "counts")
)


def draw_blocks(window_, block):
    band, keys = window.mask(256, 256, window=window_), np.arange(256)
    first = keys[:, None] // block * block  # of each query's block; its stretch of keys follows
    computed = (keys >= first - window_) & (keys < first + block + window_)
    live_blocks.update(computed.astype(int) + band)
    return f"Blocks of {block}: {band.sum() / computed.sum():.0%} of what is computed counts."


sizes = widgets.choice([4, 8, 16, 32, 64, 128], 32)
widgets.explore(draw_blocks, live_blocks.figure, window_=(0, 64, 1, 16), block=sizes)

# %% [markdown]
# In [exercise 04.3](../exercises/04_window.ipynb#04.3-Window-attention-in-the-memory-of-a-band) you
# write the loop over all blocks, and its memory is graded. [Exercise
# 04.V1](../exercises/04_window.ipynb#04.V1-What-a-window-saves,-and-a-mask-does-not) counts what
# the mask does not save. Afterwards read our loop,
# [`reference/window.py`](../attncourse/reference/window.py), beside yours.

# %% [markdown] covers="F2"
# ## Prediction beside measurement
#
# `cost` knows the bytes before anything runs. Full attention holds $n^2$ scores. The window holds
# the output and the scores of one block, however long the text is:
#
# $$ \text{peak} = 4\,n D_v + 4 \cdot 64\,(64 + 2w) + \dots \ \text{bytes in float32} $$

# %%
lengths = [512, 1024, 2048, 4096]
inputs = {n: random_qkv(n) for n in lengths}
calls = {"full": (full, {}), "window 128": (window, {"window": 128})}
measured, predicted = {}, {}
for name, (way, knobs) in calls.items():
    costs = [way.cost(1, 1, n, n, 64, **knobs) for n in lengths]
    predicted[name] = [cost.peak_bytes for cost in costs]
    measured[name] = [measure.peak_bytes(way.attention, *inputs[n], **knobs) for n in lengths]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %% folded=true
axes = plots.growth(lengths, measured, predicted, unit="bytes", title="peak memory")
plots.show(axes, "Peak bytes over n: full attention grows with n squared, the window with n.")

# %% [markdown]
# Doubling $n$ multiplies the upper curve by four; the lower one, once the output outgrows the
# block, by two. No prediction is off by a tenth, or the cell would have failed.
#
# And the time? The lines below scale one measured point, full attention at 2048, by the FLOPs of
# `cost`. Does the window lie above its line, or below?

# %%
often = {"repeats": 30, "at_least": 5, "at_most": 0.3}  # short calls more often than long ones
timings = {
    name: [measure.seconds(way.attention, *inputs[n], **knobs, **often) for n in lengths]
    for name, (way, knobs) in measure.progress(calls.items(), "timing", expect_seconds=3)
}

# %% folded=true
rate = full.cost(1, 1, 2048, 2048, 64).flops / timings["full"][2].median
expected = {
    name: [way.cost(1, 1, n, n, 64, **knobs).flops / rate for n in lengths]
    for name, (way, knobs) in calls.items()
}
axes = plots.growth(lengths, timings, expected, unit="s", title="time")
plots.show(axes, "Seconds over n, measured and as the operation count predicts.")

# %% [markdown]
# What lies above its line is what the count leaves out: small products are slower per FLOP than
# large ones, each has to be started, and the corners have to be hidden. Printed speedups are often
# ratios of FLOPs; the clock has its own. [Exercise
# 04.V7](../exercises/04_window.ipynb#04.V7-Speed-up-in-theory-and-in-tiles) computes one reason,
# the tiles, and [chapter 13](13_measuring.ipynb) measures the others.

# %% [markdown] covers="F4"
# ## What the window changes: the softmax
#
# "Inside the window nothing changes." True? The softmax divides by the sum over what it sees. Hide
# some keys, and all others grow. Let $m_i$ be the share of its attention that query $i$ spends
# inside the window:
#
# $$ \tilde p_{ij} = \frac{e^{s_{ij}}}{\sum_{l \in S(i)} e^{s_{il}}}
#    = \frac{p_{ij}}{m_i}, \qquad m_i = \sum_{j \in S(i)} p_{ij} $$


# %% folded=true
def growth_of_weights(pull, n=1024, radius=128):
    """How many times larger the weights inside get, on average over the queries."""
    q, k, _ = (array[0, 0] for array in random_qkv(n))
    distance = np.abs(np.arange(n) - np.arange(n)[:, None])
    weights = full.weights(q, k, bias=-pull * distance / radius)
    return (1 / (weights * (distance <= radius)).sum(axis=-1)).mean()


# %% folded=true
widgets.guess(
    "1024 random tokens, 128 keys on each side: how many times larger do the weights inside get, "
    "on average over the queries?",
    lambda: growth_of_weights(pull=0),
    unit="times",
    explain=lambda: (
        "Random attention is nearly even, and a query sees some "
        f"{window.count(1024, 1024, window=128) / 1024:.0f} of 1024 keys: about a quarter stays "
        f"inside. Where near keys score higher, the factor can be {growth_of_weights(3):.2f}."
    ),
)

# %% [markdown]
# The window is nearly free only where the model already looks nearby. Slide the *pull*, a bonus on
# the scores of near keys: the solid line is what full attention does, the dashed one what the
# window makes of it. When do the two fall together?

# %% folded=true
steps = np.arange(-40, 41)
scores_row = random_qkv(81, width=1, seed=3)[0].ravel()
flat = {name: np.zeros(81) for name in ("full attention", "window")}
live_row = plots.LiveCurves(steps, flat, x_label="key minus query", y_label="weight")


# %% folded=true
def draw_row(radius, pull):
    scores = (scores_row - pull * np.abs(steps) / 40)[None]
    inside = np.abs(steps) <= radius
    rows = {"full attention": softmax(scores)[0], "window": softmax(scores, inside)[0]}
    live_row.update(rows)
    mass = rows["full attention"][inside].sum()
    return f"{mass:.0%} of the attention lies inside; the window multiplies it by {1 / mass:.2f}."


widgets.explore(draw_row, live_row.figure, radius=(0, 40, 1, 10), pull=(0, 20, 1, 0))

# %% [markdown] covers="F33 W1"
# ## What the window cannot see
#
# Hide one fact in a long text, and let the last token ask for it: a *needle*. The text is noise
# here, 1024 random directions, so that nothing but the needle answers the question. Value $j$ just
# says "$j$".

# %%
keys = random_qkv(1024, width=32, seed=1)[1][0, 0]
keys /= np.linalg.norm(keys, axis=1, keepdims=True)
values = np.eye(1024, dtype=np.float32)
for back in (1, 128, 129, 1000):
    asked = 40 * keys[None, 1023 - back]
    everywhere = full.attention(asked, keys, values, scale=1)
    nearby = window.attention(asked, keys, values, window=128, scale=1)
    found = [int(answer.argmax()) == 1023 - back for answer in (everywhere, nearby)]
    print(f"needle {back:>4} back: full {found[0]}, window {found[1]}, sure {nearby.max():.2f}")

# %% [markdown]
# The edge is sharp: 128 back is found, 129 is not. And the window does not fail loudly. Its weights
# sum to 1 whatever they point at. It puts more than half of its weight on one wrong key, and only
# the last column, 0.57 or 0.59 instead of 1.00, gives a hint.

# %% [markdown] covers="F4 F10 F34"
# ## How wide must it be?
#
# That depends on what is linked to what. In our sentence, draw an arc from each word to the one it
# depends on in grammar (marked by hand):

# %%
heads = [1, 15, 11, 5, 5, 11, 7, 5, 10, 10, 7, 1, 13, 11, 15, 15]  # of each word; the last is root
grammar = np.abs(np.arange(16) - heads)[:-1]
for radius in (1, 3, 6, 14):
    print(f"radius {radius:>2} catches {np.mean(grammar <= radius):4.0%} of the links")

# %% folded=true
figure, ax = plots.figure(height=2.6)
turn = np.linspace(0, np.pi, 40)
for word, head in enumerate(heads[:-1]):
    middle, reach = (word + head) / 2, abs(word - head) / 2
    line = {"color": plots.INK, "linestyle": "-" if reach <= 1.5 else "--"}
    ax.plot(middle + reach * np.cos(turn), np.sqrt(reach) * np.sin(turn), **line)
ax.set(yticks=[], ylim=(0, 2.8))
ax.set_xticks(range(16), words, rotation=35, ha="right")
ax.spines[:].set_visible(False)
plots.show(figure, "Links up to 3 words, solid, and longer ones, dashed: grammar is mostly local.")

# %% [markdown]
# Grammar is mostly local; that is the assumption behind every window. Other links are not. Take a
# whole text, Python's own nineteen proverbs, and ask how far back the same word stood last, which a
# model that copies or refers back has to find. And take a sound, whose wave looks back one period:

# %%
with contextlib.redirect_stdout(None):
    import this
zen = "".join(this.d.get(letter, letter) for letter in this.s)


def repeats(text):
    """How many words back each repeated word stood before."""
    last, distances = {}, []
    for place, word in enumerate(text.lower().split()):
        if word in last:
            distances.append(place - last[word])
        last[word] = place
    return distances


# %%
radii = 2 ** np.arange(9)
links = {"grammar": grammar, "the same word": repeats(zen), "a sound of period 100": [100] * 50}
caught = {
    name: [np.mean(np.asarray(lengths) <= radius) for radius in radii]
    for name, lengths in links.items()
}
words_of_axes = {"x_label": "window radius", "y_label": "share of links caught"}
axes = plots.curves(radii, caught, **words_of_axes, log_x=True)
part = caught["the same word"][3]
plots.show(axes, f"A radius of 8 catches {part:.0%} of the repeated words, and none of the sound.")

# %% [markdown]
# So a window suits the grammar of a sentence, and a sound once it spans a period: speech models cut
# it into frames first, each of which holds several. Code, contracts and long periods ask for more.

# %% [markdown] covers="F7"
# ### Let each query choose
#
# Could each query take the smallest radius that holds a given share of *its* attention? Here the
# first half of the queries look nearby and the second half far. How many times too wide is one
# radius for all, and does a smaller share help?

# %%
q, k, _ = (array[0, 0] for array in random_qkv(512, width=16))
near = np.abs(np.arange(512) - np.arange(512)[:, None])
sharpness = np.where(np.arange(512) < 256, 0.5, 0.02)[:, None]
weights = full.weights(q, k, bias=-sharpness * near)
widths = window.dynamic_window(weights, mass=0.95)

# %% folded=true
labels = {"x_label": "query i", "y_label": "radius it needs", "high": 500}
live_widths = plots.LiveCurves(np.arange(512), {"radius": widths}, **labels)


def draw_widths(percent):
    widths = window.dynamic_window(weights, mass=percent / 100)
    live_widths.update({"radius": widths})
    return (
        f"To catch {percent} %: median radius {np.median(widths[:256]):.0f} in the first half, "
        f"{np.median(widths[256:]):.0f} in the second; one radius for all is {widths.max()}, "
        f"{widths.max() / widths.mean():.1f} times their mean."
    )


widgets.explore(draw_widths, live_widths.figure, percent=(50, 99, 1, 95))

# %% [markdown]
# The catch: to know the radius you need the weights, and those are what you wanted not to compute.
# It takes a cheaper guess of where attention will go.

# %% [markdown] covers="F6"
# ## Blocks without overlap are islands
#
# Here is a simpler idea: cut the text into blocks, and let each see itself. No corners, no bounds
# to get wrong. What is lost? Stack the layers and look: `reach` follows the edges of the mask,
# layer after layer.

# %% folded=true
REACH = ("not reached", "reached")
live_overlap = plots.LiveHeatmap(
    masks.blocks(48, 48, block=8), x="input", y="output", words=REACH, title=" "
)


def draw_overlap(overlap, layers):
    reached = masks.reach(masks.blocks(48, 48, block=8, overlap=overlap), layers)
    live_overlap.update(reached, f"what reaches what, layers: {layers}")
    return f"Overlap {overlap}, layers {layers}: {masks.density(reached):.0%} of all pairs."


widgets.explore(draw_overlap, live_overlap.figure, overlap=(0, 8, 1, 0), layers=(1, 8, 1, 3))

# %% [markdown]
# Without overlap nothing ever crosses an edge, in any number of layers. One token of overlap opens
# the bridge. A window is the pattern in which every token's block overlaps all of its neighbours'.

# %% [markdown] covers="F8 F9"
# ## Layers widen the view
#
# Your neighbour has heard its neighbour. After $L$ layers a token has heard from everything within
# $L \cdot w$, so the two ends of a text meet after
#
# $$ L = \Bigl\lceil \frac{n - 1}{w} \Bigr\rceil \ \text{layers.} $$

# %%
mask = window.mask(128, 128, window=16)
for layers in (1, 4, 7, 8):
    share = masks.density(masks.reach(mask, layers))
    print(f"layers {layers}: {share:.0%} of all pairs connected")
assert -(-127 // 16) == masks.hops(mask).max() == 8

# %% [markdown]
# So our sentence's *were* hears of the *keys* in layer five, through words in between. Reaching is
# not attending well: each hop is a mixture of mixtures. But without reach there is nothing to mix.

# %% [markdown] covers="F8 F13"
# ## Dilation: the same price, a wider view
#
# Take every $d$-th key. The number of keys stays, the radius in tokens grows to $d \cdot w$:
#
# $$ S(i) = \{\, i + t d \;:\; |t| \le w \,\} $$

# %%
for dilation in (1, 2, 4):
    seen = np.flatnonzero(window.mask(33, 33, window=3, dilation=dilation)[16])
    print(f"dilation {dilation}: {len(seen)} keys, from {seen[0]:>2} to {seen[-1]}: {seen}")

# %% [markdown]
# There is a trap. With dilation 4 in *every* layer, token 16 only ever hears from tokens 0, 4, 8
# …: four separate worlds.

# %%
dilated = masks.reach(window.mask(256, 256, window=8, dilation=4), layers=50)
mixed = masks.reach(window.mask(256, 256, window=1), 4) @ dilated
print(f"dilation 4 in 50 layers: {masks.density(dilated):.0%} of all pairs")
print(f"with four plain layers of window 1 before them: {masks.density(mixed):.0%}")

# %% [markdown]
# So plans change the dilation from layer to layer. Choose one and watch the cone above token 64:
# which plan sees farthest, and which has holes?

# %% folded=true
plans = {"1 1 1 1": [1, 1, 1, 1], "1 2 4 8": [1, 2, 4, 8], "4 4 4 4": [4, 4, 4, 4]}
live_cone = plots.LiveReach(np.eye(129, dtype=bool)[[64] * 5])


def draw_cone(window_, plan):
    rows, seen = [np.eye(129, dtype=bool)[64]], np.eye(129, dtype=bool)[64]
    for dilation in plans[plan]:
        seen = seen @ window.mask(129, 129, window=window_, dilation=dilation)
        rows.append(seen)
    live_cone.update(np.array(rows))
    return f"Window {window_}, dilations {plan}: four layers up it has heard {seen.sum()} tokens."


widgets.explore(draw_cone, live_cone.figure, window_=(1, 8, 1, 2), plan=list(plans))

# %% [markdown]
# A plan reaches $w$ times the sum of its dilations. [Exercise
# 04.4](../exercises/04_window.ipynb#04.4-Layers-to-reach-a-token) asks for the number of layers.
# Guess one first:

# %% folded=true
widgets.guess(
    "Two keys on each side, dilations 1, 2, 4, 8 …: after how many layers does a token hear "
    "from one that stands 100,000 tokens away?",
    lambda: np.ceil(np.log2(100_000 / 2 + 1)),
    unit="layers",
    explain="L layers reach 2 (1 + 2 + 4 + …) = 2 (2^L - 1). Without dilation it takes 50,000.",
)

# %% [markdown] covers="F32 F34"
# ## Near in what sense?
#
# A window is near in *position*. For an image read line by line, the pixel below is a whole row
# away. And in a signal that repeats, such as the helix of a genome, what is like you stands one
# period away.

# %%
row, column = np.divmod(np.arange(144), 12)  # a 12 × 12 image
near_rows, near_columns = (np.abs(a - a[:, None]) <= 1 for a in (row, column))
patch = near_rows & near_columns
line = window.mask(144, 144, window=4)
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(patch[66].reshape(12, 12), left, title="window in 2-D", x="column", y="row")
plots.heatmap(line[66].reshape(12, 12), right, title="window in 1-D", x="column", y="row")
plots.show(figure, "Nine pixels around one pixel: a square patch; or a stretch of its own line.")

# %%
turn = 2 * np.pi * np.arange(120) / 10  # a signal of period 10
signal = 3 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
attention = full.weights(signal, signal, scale=1)
step = np.abs(np.arange(120) - np.arange(120)[:, None])
patterns = {"5 on each side": step <= 5, "every 10th": step % 10 == 0}
for name, pattern in patterns.items():
    caught = (attention * pattern).sum(axis=1).mean()
    print(f"{name:<15} {pattern[60].sum():>2} keys catch {caught:.0%} of the attention")

# %% [markdown]
# About as many keys, chosen by what the data is like. [Chapter 05](05_sparse.ipynb) is about
# strides and other patterns. Here we stay with the window, and take it to the GPU.

# %% [markdown] covers="F2"
# ## A kernel in twenty lines
#
# On a GPU nobody hands you rows. A *kernel* is a function that runs many times at once, and each
# run, a *program*, must find its own part of the work. In *Triton* it is written in Python, on
# whole tiles of numbers. Six words will do: program, pointer, offset, mask, load and store, dot.

# %% [markdown]
# Without a GPU, Triton's interpreter runs the same kernels here, one program after the other.
# Triton is made for Linux; elsewhere read on, the pictures do not need it.

# %%
from attncourse.grading.stand_ins import tl, torch, triton

device = "cuda" if torch and torch.cuda.is_available() else "cpu"

# %% [markdown]
# **Program.** Take a matrix of 7 × 6 and tiles of 4 × 4: a *grid* of 2 × 2 programs. Each asks who
# it is, `tl.program_id`, and computes which rows and columns are its own.

# %% [markdown]
# **Pointer and offset.** A *pointer* is where the matrix begins in memory. Rows lie one after the
# other, so element (row, column) is found `row * 6 + column` numbers later: its *offset*. By hand,
# for program (0, 1), whose tile lies at the top right:

# %%
rows = 0 * 4 + np.arange(4)
cols = 1 * 4 + np.arange(4)
offsets = rows[:, None] * 6 + cols[None, :]
inside = (rows < 7)[:, None] & (cols < 6)[None, :]
print(offsets)
print(inside)

# %% [markdown]
# **Mask.** Two columns of this tile do not exist. But their offsets do: 6 is the *next row's* first
# element. So each load and store carries a mask that says which offsets are meant; where it is
# False, a load gives `other` and a store does nothing. Here is the whole kernel; it multiplies a
# matrix by a factor.


# %%
@triton.jit
def scale_kernel(x_ptr, out_ptr, n_rows, n_cols, factor, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = rows[:, None] * n_cols + cols[None, :]  # [BLOCK, BLOCK]
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    tl.store(out_ptr + offsets, x * factor, mask=inside)


# %% [markdown]
# It is launched with its grid in square brackets. Sizes that must be known when the kernel is
# compiled are `tl.constexpr`, and tiles are powers of two. Where the interpreter runs,
# `trace.record` writes down what each program touches.


# %%
def scaled(x, factor):
    """Return x · factor."""
    out = torch.empty_like(x)
    grid = (triton.cdiv(x.shape[0], 4), triton.cdiv(x.shape[1], 4))
    scale_kernel[grid](x, out, *x.shape, factor, BLOCK=4)
    return out


# %% tags=["nbval-ignore-output"]
traced = None
try:
    from attncourse import trace

    x = torch.arange(42.0, device=device).reshape(7, 6)
    traced = trace.record(scaled, x, 10.0)
    assert torch.equal(traced.result, 10 * x)
    print(traced)
except (ImportError, RuntimeError) as reason:
    print(reason)

# %% [markdown]
# Slide through the four programs. Dark is loaded, light green was asked for and masked away, and
# each cell bears its offset. Below lies the same matrix as memory has it. In how many stretches
# does a tile arrive? And which element would (0, 1) have loaded as column 6 of row 2?

# %% folded=true
live_program = plots.LiveProgram((7, 6), block=(4, 4))


def spans(place):
    """The rows and columns that a program loads: as traced, else as its mask says."""
    if traced:
        return traced.tiles("x")[(*place, 0)][0]
    return tuple((4 * p, min(4 * p + 4, size)) for p, size in zip(place, (7, 6), strict=True))


# %% folded=true
def draw_program(program):
    place = divmod(program, 2)
    (top, bottom), (first, last) = spans(place)
    inside = np.zeros((4, 4), bool)
    inside[: bottom - top, : last - first] = True
    live_program.update(place, inside, f"program {place}")
    stretches = f"{bottom - top} stretches of {last - first}"
    return f"Program {place} asks for 16 numbers and loads {inside.sum()}, in {stretches}."


widgets.explore(draw_program, live_program.figure, program=(0, 3, 1, 1))

# %% [markdown]
# **Dot.** `tl.dot` multiplies two tiles, which is what a GPU is best at; the side that they share
# is at least 16 (before Triton 3.7, every side). That completes a program that makes one tile of
# attention's scores: load a tile of q, load a tile of k, multiply, store.


# %%
@triton.jit
def scores_kernel(q_ptr, k_ptr, out_ptr, n, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keys = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, D)
    in_rows, in_keys = rows[:, None] < n, keys[:, None] < n
    q = tl.load(q_ptr + rows[:, None] * D + cols[None, :], mask=in_rows, other=0.0)
    k = tl.load(k_ptr + keys[:, None] * D + cols[None, :], mask=in_keys, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
    inside = in_rows & (keys[None, :] < n)
    tl.store(out_ptr + rows[:, None] * n + keys[None, :], scores, mask=inside)


# %%
if torch:
    q, k = (torch.from_numpy(array[0, 0]).to(device) for array in random_qkv(37, width=16)[:2])
    out = torch.empty(37, 37, device=device)
    scores_kernel[(3, 3)](q, k, out, 37, 0.25, D=16, BLOCK=16)
    assert torch.allclose(out, q @ k.T / 4, atol=1e-5)

# %% [markdown]
# 37 is no multiple of 16, and the masks take care of it. (`input_precision="ieee"` asks for full
# float32; a GPU's default for `tl.dot` rounds its inputs.) Your turn:
# [exercise 04.5](../exercises/04_window.ipynb#04.5-A-kernel-of-your-own:-row-sums) is a kernel of
# this size, the sums of a matrix's rows.

# %% [markdown] covers="F2 F36"
# ## The window as a kernel
#
# In [`kernels/window.py`](../attncourse/kernels/window.py) one program takes a tile of queries and
# walks over the tiles of keys that its window touches. **The loop bounds are the mechanism**: a
# tile outside the window is never loaded. Masking happens only at the two edges.

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    from attncourse.kernels import window as window_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(512, width=32)]
    walked = trace.record(window_kernel.attention, *tensors, window=64)
    assert not walked.out_of_bounds
    cost = window_kernel.cost(1, 1, 512, 512, 32, window=64)
    print("bytes loaded: predicted", cost.bytes_read, "counted", walked.bytes_loaded())
    print("bytes stored: predicted", cost.bytes_written, "counted", walked.bytes_stored())
    assert cost.bytes_read == walked.bytes_loaded()
    tiles = plots.LiveTiles(walked)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 5)))

# %% [markdown]
# Prediction beside measurement once more, access by access. Slide through the programs: away from
# the ends, each loads equally many tiles, wherever it stands. A longer text adds programs and no
# tiles to any of them. That is why the cost grows with $n$ and not with $n^2$.

# %% [markdown]
# [Exercise 04.6](../exercises/04_window.ipynb#04.6-Tile-bounds-of-a-Triton-kernel) leaves the
# bounds of such a loop to you, and counts the bytes you load. [Exercise
# 04.7](../exercises/04_window.ipynb#04.7-Find-two-bugs-in-a-blocked-window) hides two bugs in a
# blocked window.
#
# And on a real GPU? Time and memory beside their predictions, measured here if there is one, else
# recorded. The picture, of the record, adds torch's full attention (SDPA) and other windows.

# %%
bench.show_gpu("window")

# %% folded=true
recorded = bench.latest("gpu", mechanisms=["full", "window"], **bench.SHOWN)
lines = records.lines(recorded, **bench.SHOWN) if recorded else {}
shown = {f"{stem}: {by}": line for (stem, by), line in lines.items() if stem in ("full", "window")}
if shown:
    lengths = sorted(set().union(*shown.values()))
    over_n = {name: [line.get(n, np.nan) for n in lengths] for name, line in shown.items()}
    title = f"{recorded['machine']['gpu']}: {records.setting_words(bench.SHOWN)}"
    axes = plots.growth(lengths, over_n, title=title)
    ours, others = shown["window: Triton"], ("full: Triton", "full: SDPA")
    won = [records.crossover_words(ours, shown.get(name, {})) for name in others]
    plots.show(axes, f"Our window beats our full attention {won[0]}, torch's {won[1]}.")

# %% [markdown]
# While a text is short, all of full attention's tiles run at once, and a well-made kernel for all
# pairs is hard to beat: **the window can save only what took time.** How does the picture go on at
# twice the length?

# %% [markdown]
# ## In a real model
#
# One comes with the course: a decoder of four layers of four heads,
# [trained](../attncourse/model/train.py) on Python's standard library. Below, a window replaces its
# attention in every layer, without new training, and it reads a page that it never saw. A token is
# dark if it became less probable, in *nats*: by how much $-\ln p$ grew.

# %% folded=true
from attncourse import model

small = model.load()
tried = model.trials(small, "window", window=[16, 32, 64, 128, 256])
widgets.in_a_real_model("window", tried, start=32)

# %% [markdown]
# Find the dark words that stood once before, further up than the window reaches: the names of
# arguments, a line written twice. A mean over all tokens hides what happens to them.

# %% [markdown]
# *Copying* is measured on another text: 128 shuffled tokens, then the same 128 again. What comes
# next cannot be guessed there, only looked up, 127 tokens back. At which window does it return?
# Four layers of 32 reach 128 back; why is that not [enough](#Layers-widen-the-view)?

# %%
some = [[0, 1, 2, 3], [0, 1, 2], [0, 1], [2], [3]]  # the layers that get a window
in_layers = {str(at): small.swap("window", window=32, layers=at) for at in some}
tried_in = {}  # as soon as you have guessed


def show_layers():
    for at, found in tried_in.items():
        copied = max(0, found.copied)
        print(f"window 32 in {at:<12} {found.loss:.2f} nats, {copied:4.0%} of the copying")


# %% folded=true
def copied_with_two():
    tried_in.update(model.compare(small, in_layers))
    return 100 * tried_in["[0, 1]"].copied


widgets.guess(
    "A window of 32 in the two lower layers, all keys in the two upper ones: how much of the "
    "copying is left?",
    copied_with_two,
    unit="%",
    explain=lambda: (
        show_layers()
        or "The far look is one look, in the layers 2 and 3; those below can do with a window."
    ),
)

# %% [markdown]
# To copy is to see that a token stood once before, and what followed it. Models for long texts mix
# both kinds of layers, in turns ([Gemma 2](https://arxiv.org/abs/2408.00118), section 2).

# %% [markdown] covers="F10 W14"
# ## Try it on your own text
#
# Paste something that you know well instead of the proverbs: a mail, a chapter, a page of code. How
# wide must a window be to catch nine of ten repeated words? How many pairs does it save at that
# width? If the answer is "almost none", you know what this kind of text needs.

# %%
text = zen
back = repeats(text)
n_words, radius = len(text.split()), int(np.ceil(np.quantile(back, 0.9)))
print(f"{n_words} words, {len(back)} of them seen before")
print(f"nine of ten stood at most {radius} words back: a window of {radius} shows")
print(f"{window.count(n_words, n_words, window=radius) / n_words**2:.0%} of all pairs")

# %% [markdown]
# Next: [chapter 05](05_sparse.ipynb) asks which keys a query may keep other than its neighbours.
