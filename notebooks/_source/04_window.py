# %% [markdown]
# # 04 · Look only nearby: window attention
#
# Most of what a token needs stands close to it. Window attention takes that literally: a query
# sees the keys around it and nothing else. You will meet it as a mask, as a graph and as an
# algorithm; find out why only one of the three saves memory; and test what textbooks print.
#
# **Run a cell with Shift + Enter.** Sliders move with the mouse or the arrow keys.
#
# <!-- summary: window attention as a mask, a graph and an algorithm; the four meanings that
# papers give to w; why a mask saves nothing and blocks do; dilation, and how far layers see; the
# Triton kernel, tile by tile. -->

# %% role="setup"
import functools

import numpy as np

from attncourse import bench, claims, masks, measure, plots, widgets
from attncourse.bench import records
from attncourse.inputs import random_qkv
from attncourse.reference import full, window
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="F1 F2"
# ## One rule
#
# Query $i$ may attend to key $j$ only if they are at most $w$ steps apart. In this course the
# *window* $w$ is a radius: $w$ keys on each side, and the query's own position.
#
# $$
# \text{out}_i = \sum_{|j-i|\le w} \frac{e^{s_{ij}}}{\sum_{|m-i|\le w} e^{s_{im}}}\, v_j ,
# \qquad S = \tfrac{1}{\sqrt D}\, Q K^\top \in \mathbb R^{n \times n}
# $$
#
# Before you run the next cell: which keys does query 6 see with $w = 2$? And query 0?

# %%
mask = window.mask(12, 12, window=2)
for i in (6, 0):
    print(f"query {i} sees keys", np.flatnonzero(mask[i]))

# %% [markdown]
# The softmax runs over these keys alone. Everything else follows from that: the savings, and the
# loss. First the safest test there is: a window as wide as the sequence must be full attention.

# %%
q, k, v = random_qkv(12, width=8)
wide = window.attention(q, k, v, window=12)
np.testing.assert_allclose(wide, full.attention(q, k, v), atol=1e-6)
print("window 12 on 12 tokens is full attention")

# %% [markdown]
# That small test is worth keeping in mind. A text reports what a window costs BERT on GLUE, and
# states neither the lengths nor the window. BERT reads at most 512 tokens: had the window been the
# same text's 512 on each side, there would have been nothing to lose.

# %%
claims.check("C332")

# %% [markdown] covers="F2 W14"
# ## Three pictures of one thing
#
# A mask is a matrix of who may look at whom. It is also a graph, with an edge for each True. And
# it is a list of keys for each query. Learn to read all three: papers draw the first, proofs use
# the second, kernels loop over the third.

# %%
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(window.mask(16, 16, window=2), left, title="mask")
plots.graph(window.mask(16, 16, window=2), right, title="graph")
plots.show(figure, "A band around the diagonal; and lines from each query to its neighbours.")

# %% [markdown]
# Move the sliders. Watch the corners: there the band is cut off. Then tick *causal*: nobody may
# look ahead, and the window keeps only its left half.

# %%
live = plots.LiveMask(window.mask(48, 48, window=4))


def draw(window_, dilation, causal):
    mask = window.mask(48, 48, window=window_, dilation=dilation, causal=causal)
    live.update(mask)
    return f"{mask.sum()} of {mask.size} pairs may attend: density {masks.density(mask):.1%}."


widgets.explore(draw, live.figure, window_=(0, 47, 1, 4), dilation=(1, 8, 1, 1), causal=False)

# %% [markdown] covers="F3"
# **Exercise 04.1** asks for this mask, with queries and keys of different number.
#
# ## Four meanings of w
#
# Authors agree that a window has size $w$, and on nothing else. Some count both sides together,
# some each side; some count the query itself; some forget that the edges cut windows short. For
# 1024 tokens and $w = 256$, how far apart can their counts be? Guess a factor, then run.

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
# So always ask for the interval, never for the letter. The two textbook chapters do not agree,
# and one of them does not agree with itself:

# %%
claims.check("C476", "the four counts above")

# %%
claims.check("C057")

# %%
why = "257 keys in all, where the definition in the same chapter's text would give 513"
claims.check("C370", "w // 2 on each side", why)

# %% [markdown]
# Slide $w$ and switch the reading. The band doubles its width when nothing but the definition
# changes.

# %%
radius_of = {"w is a radius": lambda w: w, "w is the total width": lambda w: w // 2}
live_reading = plots.LiveMask(window.mask(64, 64, window=16))


def draw_reading(w, reading):
    mask = window.mask(64, 64, window=radius_of[reading](w))
    live_reading.update(mask)
    return f"w = {w}, {reading}: query 32 sees {mask[32].sum()} keys, all together {mask.sum()}."


widgets.explore(draw_reading, live_reading.figure, w=(0, 48, 1, 16), reading=list(radius_of))

# %% [markdown] covers="F5"
# ## The edges
#
# An interior query has $2w + 1$ keys. Near an end the sequence stops first: row $i$ loses
# $w - i$ keys, and so does its mirror image at the other end. Two triangles are missing:
#
# $$ \text{pairs} = n(2w+1) - w(w+1), \qquad w < n $$

# %%
keys_of = window.mask(64, 64, window=8).sum(axis=1)
print("first rows ", keys_of[:10])
print("last rows  ", keys_of[-10:])
assert keys_of.sum() == 64 * (2 * 8 + 1) - 8 * (8 + 1)

# %%
axes = plots.curves(np.arange(64), {"w = 8": keys_of}, x_label="query i", y_label="keys it sees")
plots.show(axes, "Keys per query: 17 in the middle, falling to 9 at both ends.")

# %% [markdown]
# Forgotten edges are a small error while $w \ll n$, and a large one when $w/n$ is a quarter. Two
# printed figures for comparison:

# %%
row_counts = window.mask(1024, 1024, window=128).sum(axis=1)
claims.check(
    "C374",
    f"{row_counts.max()} inside, {row_counts.min()} at the ends, "
    f"{row_counts.mean():.1f} on average",
    why="the query itself counts, and edges cut",
)

# %%
megabytes = window.count(1024, 1024, window=256) * 4 / 1e6
claims.check("C309", round(megabytes, 2))

# %% [markdown]
# **Exercise 04.2** counts the pairs for sequences far too long for any mask. With the edges or
# without, the next number comes out. The two after it do too, each by its own rule; but one means
# 512 keys on each side and the other 512 in all, so they contradict each other:

# %%
pairs = window.count(4096, 4096, window=256)
claims.check("C213", f"{4096 / (2 * 256 + 1):.2f} without edges, {4096**2 / pairs:.2f} with edges")

# %%
claims.check("C310")

# %%
claims.check("C398", why="here 512 is the total; elsewhere it is 512 on each side, 16.8 MB")

# %% [markdown] covers="F30"
# ## Density, sparsity, and a picture that lies
#
# *Density* is the share of pairs that may attend; *sparsity* is the rest. Mix them up and 75
# becomes 25.

# %%
printed = window.mask(1024, 1024, window=128)
density = masks.density(printed)
claims.check("C381", f"density {density:.1%}, sparsity {1 - density:.1%}, edges included")

# %% [markdown]
# Chapter E shows this very mask as a heat map of its top-left 256 × 256 corner, to let us see how
# sparse it is. What share of that corner is filled? Decide before you run the cell.

# %%
corner = printed[:256, :256]
figure, (left, right) = plots.figure(1, 2)
plots.heatmap(corner, left, title="the printed corner")
plots.heatmap(printed, right, title="the whole mask")
plots.show(figure, f"The corner is {masks.density(corner):.0%} filled, the whole {density:.0%}.")

# %%
why = "near the diagonal every window looks full; show the whole matrix, or a smaller w/n"
claims.check("C408", f"{masks.density(corner):.1%} filled", why)

# %%
live_crop = plots.LiveHeatmap(corner, title="a crop of the mask")


def draw_crop(size):
    crop = printed[:size, :size]
    live_crop.update(crop)
    return f"The first {size} tokens: {masks.density(crop):.0%} filled. All 1024: {density:.0%}."


widgets.explore(draw_crop, live_crop.figure, size=(64, 1024, 64, 256))

# %% [markdown] covers="F36 O10 W4"
# ## A mask saves nothing
#
# Here is window attention as most tutorials write it: compute all scores, then hide most of them.
# The result is right. What does it cost? `count_flops` counts the multiply-adds that NumPy really
# performs (2 FLOPs each).

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
# The mask changed the answer and not the work. The published solution is of the second kind, and
# states the savings of the third:

# %%
scores_macs = flops["full attention, masked"] // 2 // 2  # one of two products, 2 FLOPs each
claims.check("C375", scores_macs)

# %%
why = "both products are computed densely; only a banded algorithm saves"
claims.check("C376", flops["full attention, masked"] // 2, why)

# %% [markdown]
# Its "FLOPs" are multiply-adds, by the way: half of what the same chapter calls FLOPs elsewhere.
# In this course one multiply-add is always 2 FLOPs.

# %%
claims.check("C371", flops["full attention"] // 2)
claims.check("C372", flops["full attention"])
claims.check("C163", flops["full attention"])

# %%
band_flops = 4 * 64 * window.count(1024, 1024, window=64)
claims.check("C164", band_flops, why="multiply-adds again, and the query and the edges forgotten")

# %% [markdown]
# Now the clock and the memory, on this machine, at 4096 tokens. Three ways to the same numbers.

# %%
n = 4096
q, k, v = random_qkv(n)
mask = window.mask(n, n, window=radius)
ways = {
    "full": lambda: full.attention(q, k, v),
    "full, masked": lambda: full.attention(q, k, v, mask=mask),
    "window": lambda: window.attention(q, k, v, window=radius),
}
seconds = {way: measure.seconds(call, repeats=3) for way, call in ways.items()}
peaks = {way: measure.peak_bytes(call) for way, call in ways.items()}
np.testing.assert_allclose(ways["window"](), ways["full, masked"](), atol=1e-6)
assert peaks["window"] < peaks["full"] / 50

# %%
figure, (upper, lower) = plots.figure(2, 1, height=3.4)
plots.bars(seconds, upper, unit="s", title="time")
plots.bars(peaks, lower, unit="bytes", title="peak memory")
plots.show(figure, "Time and peak memory. The window holds less than a fiftieth of the others.")

# %% tags=["nbval-ignore-output"]
for way in ways:
    print(f"{way:<13} {seconds[way].median * 1e3:7.1f} ms  {format_bytes(peaks[way]):>10}")
speedup = {way: seconds["full"].median / seconds[way].median for way in ways}
claims.check("C059", f"window {speedup['window']:.1f}×, masked {speedup['full, masked']:.2f}×")

# %% [markdown]
# The masked version does the work of no mask at all, and the masking on top. Does your clock agree?
# Printed speedups are usually ratios of operation counts. These two are:

# %%
claims.check("C380")

# %%
claims.check(
    "C377",
    f"{window.count(1024, 1024, window=128):,} weights if only the band is kept; "
    f"{1024 * 1024:,} floats and a mask as the code does it",
)

# %%
claims.check("C379")

# %% [markdown] covers="F36 W3"
# ## Blocks save
#
# Queries 64 … 127 together need only the keys from $64 - w$ to $127 + w$. That is one small
# matrix product. Do it for one block by hand; the next block can reuse the memory of this one.
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
# The corners of this block lie outside the band. They are computed and then hidden: the price for
# working in blocks.

# %%
mask = window.mask(n, n, window=radius)
out = softmax(scores, mask[rows, keys]) @ v[keys]
np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask)[rows], atol=1e-5)
print(f"{mask[rows, keys].mean():.0%} of this block counts, the rest is hidden")

# %% [markdown]
# How large should a block be? Small blocks hide little and start many products; large blocks hide
# more. Everything coloured is computed; only the dark band counts.

# %%
live_blocks = plots.LiveHeatmap(
    np.zeros((256, 256)), title="computed and needed", words=("skipped", "hidden", "counts")
)


def draw_blocks(window_, block):
    band, reach = window.mask(256, 256, window=window_), -(-window_ // block)
    block_of = np.arange(256) // block
    computed = np.abs(block_of - block_of[:, None]) <= reach
    live_blocks.update(computed.astype(int) + band)
    return f"Blocks of {block}: {band.sum() / computed.sum():.0%} of what is computed counts."


sizes = widgets.choice([4, 8, 16, 32, 64, 128], 32)
widgets.explore(draw_blocks, live_blocks.figure, window_=(0, 64, 1, 16), block=sizes)

# %% [markdown] covers="A13 F2 P2"
# The loop over all blocks is `attncourse/reference/window.py`: read it after you have written
# your own in **exercise 04.3**, where memory is graded too. **V1** and **V7** go over the numbers
# of the two textbook exercises.
#
# ## Prediction beside measurement
#
# `cost` knows the bytes before anything runs. Full attention holds $n^2$ scores. The window holds
# the output and the scores of one block, however long the text is:
#
# $$ \text{peak} = 4\,n D_v + 4 \cdot 64\,(64 + 2w) + \dots \ \text{bytes in float32} $$

# %%
lengths = [512, 1024, 2048, 4096]
inputs = {n: random_qkv(n) for n in lengths}
measured = {
    "full": [measure.peak_bytes(full.attention, *inputs[n]) for n in lengths],
    "window 128": [measure.peak_bytes(window.attention, *inputs[n], window=128) for n in lengths],
}
predicted = {
    "full": [full.cost(1, 1, n, n, 64).peak_bytes for n in lengths],
    "window 128": [window.cost(1, 1, n, n, 64, window=128).peak_bytes for n in lengths],
}
for name in measured:
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %%
axes = plots.growth(lengths, measured, predicted, unit="bytes", title="peak memory")
plots.show(
    axes, "Peak bytes over n: full attention grows with n squared, the window more and more with n."
)

# %% [markdown]
# Doubling $n$ multiplies the upper curve by four. The lower one starts with the scores of a block
# and then grows with its output alone, by two. If a prediction were wrong by more than a tenth, the
# cell above would fail. And the time?

# %%
often = {"repeats": 50, "at_least": 3, "at_most": 0.2}  # short calls more often than long ones
calls = {"full": full.attention, "window 128": functools.partial(window.attention, window=128)}
timings = {
    name: [measure.seconds(attend, *inputs[n], **often) for n in lengths]
    for name, attend in measure.progress(calls.items(), "timing", expect_seconds=3)
}
rate = full.cost(1, 1, 2048, 2048, 64).flops / timings["full"][2].median
expected = {
    "full": [full.cost(1, 1, n, n, 64).flops / rate for n in lengths],
    "window 128": [window.cost(1, 1, n, n, 64, window=128).flops / rate for n in lengths],
}
axes = plots.growth(lengths, timings, expected, unit="s", title="time")
plots.show(axes, "Seconds over n, measured and as the operation count predicts.")

# %% [markdown]
# The dashed lines take one measured point, full attention at 2048, and scale it by FLOPs. Where the
# window's points lie above its line, the small products and the masking cost what the count leaves
# out. That is the usual gap between an operation ratio and a speedup. Chapter V puts it at 5 to 6
# of 8 on a GPU, without saying which. Will one number do? The latest recorded run, on the GPU that
# the last section names:

# %% tags=["nbval-ignore-output"]
recorded = bench.latest("gpu", mechanisms=["full", "window"], **bench.SHOWN)
gains = records.speedups(recorded, "full", "window", **bench.SHOWN)
why = "radius 128, over our standard attention: it depends on n"
claims.check("C170", records.speedup_words(gains), why)

# %% [markdown] covers="F4 W6"
# ## What the window changes: the softmax
#
# "A window makes no error where the context is local": true or false? The softmax divides by the
# sum over what it sees. Hide some keys, and all the others grow:
#
# $$ \tilde p_{ij} = p_{ij} / m_i , \qquad m_i = \textstyle\sum_{|j-i|\le w} p_{ij} $$
#
# $m_i$ is the share of its attention that query $i$ spends inside the window.

# %%
n, radius = 1024, 128
q, k, _ = (array[0, 0] for array in random_qkv(n))
mask = window.mask(n, n, window=radius)
inflation = {}
for name, pull in (("no preference", 0.0), ("pulled to neighbours", 3.0)):
    distance = np.abs(np.arange(n) - np.arange(n)[:, None])
    weights = full.weights(q, k, bias=-pull * distance / radius)
    inflation[name] = 1 / (weights * mask).sum(axis=-1).mean()
    print(f"{name:<21} inside weights grow {inflation[name]:.2f}-fold")

# %%
claims.check(
    "C406",
    f"{inflation['no preference']:.1f}-fold weights on random data, "
    f"{inflation['pulled to neighbours']:.2f}-fold where attention is local",
)

# %% [markdown]
# Only when the model already looks nearby is the window nearly free. Slide the pull: the
# solid line is what full attention does, the dashed one what the window makes of it.

# %%
offsets = np.arange(-40, 41)
scores_row = random_qkv(81, width=1, seed=3)[0].ravel()
names = ("full attention", "window")
live_row = plots.LiveCurves(
    offsets, {n: np.zeros(81) for n in names}, x_label="key minus query", y_label="weight"
)


# %%
def draw_row(radius, pull):
    scores = (scores_row - pull * np.abs(offsets) / 40)[None]
    inside = np.abs(offsets) <= radius
    rows = {"full attention": softmax(scores)[0], "window": softmax(scores, inside)[0]}
    live_row.update(rows)
    mass = rows["full attention"][inside].sum()
    return f"{mass:.0%} of the attention lies inside; the window multiplies it by {1 / mass:.2f}."


widgets.explore(draw_row, live_row.figure, radius=(0, 40, 1, 10), pull=(0, 20, 1, 0))

# %% [markdown] covers="F33 W1"
# ## What the window cannot see
#
# Hide one fact in a long text, and let the last token ask for it: a needle. Full attention finds
# it anywhere. How far back does a window of 128 find it?

# %%
keys = random_qkv(1024, width=32, seed=1)[1][0, 0]
keys /= np.linalg.norm(keys, axis=1, keepdims=True)
values = np.eye(1024, dtype=np.float32)  # value j says "j"
found = {}
for back in (1, 50, 128, 129, 500, 1000):
    asked = 40 * keys[None, 1023 - back]
    answers = (
        full.attention(asked, keys, values, scale=1),
        window.attention(asked, keys, values, window=128, scale=1),
    )
    found[back] = [int(answer.argmax()) == 1023 - back for answer in answers]
    print(f"needle {back:>4} back: full {found[back][0]}, window {found[back][1]}")

# %% [markdown]
# The edge is sharp: 128 is seen and 129 is not. The claim says so too, and holds. Note that the
# window did not fail loudly: it returned a confident average of the wrong keys.

# %%
claims.check("C062", "with radius 128 the needle 129 back is out of sight")

# %% [markdown] covers="F4 F7 F10 F34 X3"
# ## How wide must it be?
#
# That depends on the data. Two toy languages: in the first a word depends on one of its last four
# words; in the second every closing bracket depends on its opening one. Which radius catches
# 99 % of the links?

# %%
generator = np.random.default_rng(0)
phrase_links = generator.integers(1, 5, size=4000)
bracket_links, opened, text_length = [], [], 0
for step in generator.random(8000):
    if step < 0.5 or not opened:
        opened.append(text_length)
    else:
        bracket_links.append(text_length - opened.pop())
    text_length += 1
for name, links in (("phrases", phrase_links), ("brackets", bracket_links)):
    print(f"{name:<9} 99 % within {np.quantile(links, 0.99):.0f} tokens, all within {max(links)}")

# %%
radii = 2 ** np.arange(13)
caught = {
    name: [np.mean(np.asarray(links) <= radius) for radius in radii]
    for name, links in (("phrases", phrase_links), ("brackets", bracket_links))
}
axes = plots.curves(
    radii, caught, x_label="window radius", y_label="share of links caught", log_x=True
)
share = caught["brackets"][2]
plots.show(axes, f"A radius of 4 catches all links of phrases and {share:.0%} of the brackets.")

# %% [markdown]
# Speech, audio and most of a sentence's grammar look like the first curve; code and legal
# documents like the second. A third way out is to let each query choose: the smallest radius that
# catches a given share of *its* attention.

# %%
q, k, _ = (array[0, 0] for array in random_qkv(512, width=16))
near = np.abs(np.arange(512) - np.arange(512)[:, None])
sharpness = np.where(np.arange(512) < 256, 0.5, 0.02)[:, None]  # first half local, second not
weights = full.weights(q, k, bias=-sharpness * near)
widths = window.dynamic_window(weights, mass=0.95)
live_widths = plots.LiveCurves(
    np.arange(512), {"radius": widths}, x_label="query i", y_label="radius it needs", high=500
)


# %%
def draw_widths(percent):
    widths = window.dynamic_window(weights, mass=percent / 100)
    live_widths.update({"radius": widths})
    return (
        f"To catch {percent} %: median radius {np.median(widths[:256]):.0f} in the first half, "
        f"{np.median(widths[256:]):.0f} in the second; one width for all is {widths.max()}."
    )


widgets.explore(draw_widths, live_widths.figure, percent=(50, 99, 1, 95))

# %% [markdown] covers="F6 F8"
# The catch: to know the radius you need the weights, and those are what you wanted not to
# compute. Chapter 08 comes back to cheaper guesses.
#
# ## Blocks without overlap are islands
#
# The simplest local pattern cuts the text into blocks that only see themselves. It looks like a
# window and is none: nothing ever crosses an edge, in any number of layers.

# %%
islands = masks.reach(masks.blocks(48, 48, block=8), layers=50)
bridged = masks.reach(masks.blocks(48, 48, block=8, overlap=2), layers=5)
print("50 layers without overlap reach", f"{masks.density(islands):.0%} of all pairs")
print(" 5 layers with an overlap of 2 reach", f"{masks.density(bridged):.0%}")

# %%
REACH = ("not reached", "reached")
live_overlap = plots.LiveHeatmap(
    masks.blocks(48, 48, block=8), x="input", y="output", words=REACH, title=" "
)


def draw_overlap(overlap, layers):
    reached = masks.reach(masks.blocks(48, 48, block=8, overlap=overlap), layers)
    live_overlap.update(reached, f"what reaches what, layers: {layers}")
    return f"Overlap {overlap}, layers {layers}: {masks.density(reached):.0%} of all pairs."


widgets.explore(draw_overlap, live_overlap.figure, overlap=(0, 8, 1, 0), layers=(1, 8, 1, 1))

# %% [markdown] covers="F8 F9"
# ## Layers widen the view
#
# Your neighbour has seen its neighbour. After $L$ layers a token has heard from everything within
# $L \cdot w$, so it takes $\lceil (n-1)/w \rceil$ layers until the ends have met. `reach`
# multiplies the mask with itself, as a graph search would.

# %%
mask = window.mask(128, 128, window=16)
for layers in (1, 4, 7, 8):
    share = masks.density(masks.reach(mask, layers))
    print(f"{layers} layers: {share:.0%} of all pairs connected")
assert -(-127 // 16) == 8

# %%
live_reach = plots.LiveHeatmap(
    mask, title="which inputs an output depends on", x="input", y="output", words=REACH
)


def draw_reach(window_, layers):
    reached = masks.reach(window.mask(128, 128, window=window_), layers)
    live_reach.update(reached)
    middle = np.flatnonzero(reached[64])
    return f"Layers {layers}: token 64 has heard from tokens {middle[0]} to {middle[-1]}."


widgets.explore(draw_reach, live_reach.figure, window_=(1, 32, 1, 8), layers=(1, 12, 1, 3))

# %%
claims.check(
    "C214",
    f"{masks.hops(window.mask(513, 513, window=64)).max()} layers for 513 tokens "
    f"and w = 64, which is ceil(512 / 64) = {-(-512 // 64)}",
)

# %% [markdown] covers="F8 F9 F13"
# Reaching is not attending well: each hop is a mixture of mixtures. But without reach there is
# nothing to mix.
#
# ## Dilation: the same price, a wider view
#
# Take every $d$-th key. The number of keys stays, the radius in tokens grows to $d \cdot w$:
#
# $$ j \in \{\, i + t d \;:\; |t| \le w \,\} $$

# %%
for dilation in (1, 2, 4):
    seen = np.flatnonzero(window.mask(33, 33, window=3, dilation=dilation)[16])
    print(f"dilation {dilation}: {len(seen)} keys, from {seen[0]:>2} to {seen[-1]}: {seen}")

# %% [markdown]
# There is a trap. With dilation 4 in *every* layer, token 16 only ever hears from tokens 0, 4, 8
# …: four separate worlds. The same trap waits in strided attention, which one chapter praises for
# spreading information fast:

# %%
dilated = masks.reach(window.mask(256, 256, window=8, dilation=4), layers=50)
mixed = masks.reach(window.mask(256, 256, window=1), 4) @ dilated
print(f"dilation 4 in 50 layers: {masks.density(dilated):.0%} of all pairs")
print(f"with four plain layers of window 1 before them: {masks.density(mixed):.0%}")

# %%
stride = np.arange(2048) % 64 == np.arange(2048)[:, None] % 64  # i - j is a multiple of 64
claims.check(
    "C216",
    f"{masks.density(masks.reach(stride, 3)):.2%} of all pairs after three layers, "
    f"{masks.density(stride):.2%} after one",
)

# %% [markdown]
# So plans mix dilations over the layers. Doubling it in each layer grows the view like $2^L$.
# Choose a plan and watch the cone. **Exercise 04.4** asks for the number of layers.

# %%
plans = {"1 1 1 1": [1, 1, 1, 1], "1 2 4 8": [1, 2, 4, 8], "4 4 4 4": [4, 4, 4, 4]}
live_cone = plots.LiveReach(np.eye(129, dtype=bool)[[64] * 5])


def draw_cone(window_, plan):
    rows, seen = [np.eye(129, dtype=bool)[64]], np.eye(129, dtype=bool)[64]
    for dilation in plans[plan]:
        seen = seen @ window.mask(129, 129, window=window_, dilation=dilation)
        rows.append(seen)
    live_cone.update(np.array(rows))
    return f"Window {window_}, dilations {plan}: four layers down it sees {seen.sum()} tokens."


widgets.explore(draw_cone, live_cone.figure, window_=(1, 8, 1, 2), plan=list(plans))

# %% [markdown] covers="F32 F34"
# ## Near in what sense?
#
# A window is near in *position*. For an image read line by line, the pixel below is a whole row
# away. Near in two dimensions is another mask, at the same price. Genomes with a period, code
# with indentation: each has its own nearness.

# %%
row, column = np.divmod(np.arange(144), 12)  # a 12 × 12 image
near_rows, near_columns = (np.abs(a - a[:, None]) <= 1 for a in (row, column))
patch = near_rows & near_columns
line = window.mask(144, 144, window=4)
print("keys of a pixel:", patch[66].sum(), "in a 3 × 3 patch,", line[66].sum(), "in a line")

# %%
figure, (left, right) = plots.figure(1, 2)
plots.heatmap(patch[66].reshape(12, 12), left, title="window in 2-D", x="column", y="row")
plots.heatmap(line[66].reshape(12, 12), right, title="window in 1-D", x="column", y="row")
plots.show(figure, "Nine pixels around one pixel: a square patch; or a stretch of its own line.")

# %% [markdown] covers="F2 F36 P4"
# ## The kernel, tile by tile
#
# On a GPU one *program* takes a tile of queries and walks over the tiles of keys that its window
# touches. **The loop bounds are the mechanism**: a tile outside the window is never loaded. Without
# a GPU, Triton's interpreter runs the same kernel here, and `trace` notes every access. That takes
# some seconds.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import window as window_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(512, width=32)]
    traced = trace.record(window_kernel.attention, *tensors, window=64)
    assert not traced.out_of_bounds
except (ImportError, RuntimeError) as reason:
    traced = None
    print(reason)

# %% [markdown]
# Slide through the programs. Each takes one tile of queries and loads the few tiles of keys that
# its window touches, as many in the middle of a long text as of a short one. That is why the cost
# grows with $n$ and not with $n^2$.

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    tiles = plots.LiveTiles(traced)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 5)))

# %% [markdown]
# Prediction beside measurement once more, this time in bytes: what the kernel's `cost` says it
# loads and stores, and what the trace counted, access by access.

# %% tags=["nbval-ignore-output"]
if traced:
    kernel_cost = window_kernel.cost(1, 1, 512, 512, 32, window=64)
    print("bytes loaded: predicted", kernel_cost.bytes_read, "counted", traced.bytes_loaded())
    print("bytes stored: predicted", kernel_cost.bytes_written, "counted", traced.bytes_stored())
    assert kernel_cost.bytes_read == traced.bytes_loaded()

# %% [markdown]
# And the time on a real GPU? The next cell measures it if there is one. If not, it shows the
# latest recorded run, or says that there is none.

# %% tags=["nbval-ignore-output"]
bench.show_gpu("window")

# %% [markdown]
# **Exercise 04.5** leaves the tile bounds of such a kernel to you, and counts the bytes you load.
# **Exercise 04.6** hides two bugs in a blocked window in NumPy.
#
# ## What has no evidence
#
# Some printed sentences cannot be recomputed: they name no task, no metric and no source. The
# course does not repeat such figures as facts.

# %%
claims.check("C063")

# %%
claims.check("C064")

# %% [markdown]
# ## What you take with you
#
# - A window is an interval. Ask which one before you compare two numbers.
# - A mask changes the answer; only loop bounds change the cost.
# - What is held is one block of scores, whatever $n$ is.
# - Inside the window weights grow, outside they vanish; how much that hurts is a matter of data.
# - Layers widen the view by $w$ each, dilation plans faster.
#
# Now open `exercises/04_window.ipynb`. Six exercises, V1 and V7; each is checked and graded, and
# one of them by its memory.
