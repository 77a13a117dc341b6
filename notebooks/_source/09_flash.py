# %% [markdown]
# # 09 · Nothing left out: FlashAttention
#
# Windows, hashes and mixed keys save memory by leaving something out. This chapter leaves out
# nothing: the same softmax, the same numbers, and the n × n matrix never exists. You build it in
# NumPy and count the bytes that travel. [Part two](09_flash_backward.ipynb) goes backward, and to
# Triton.
#
# <!-- summary: cut the queries, cut the keys; the online softmax step by step; tiles, what they
# hold and what they move between HBM and the chip. -->

# %% role="setup"
import itertools
import math

import numpy as np

from attncourse import bench, claims, measure, plots, widgets
from attncourse.bench import records
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.plots import Move
from attncourse.reference import chunked, flash, full
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="A6 L18"
# ## Who asked for the matrix?
#
# Attention of $n$ tokens, in one head of width $D$, is three steps. The *scores* $S$ and the
# *weights* $P$ are $n \times n$ arrays, the output $O$ is not:
#
# $$ S = \tfrac{1}{\sqrt D}\, Q K^\top, \qquad P = \mathrm{softmax}(S), \qquad
#    O = P V \in \mathbb R^{n \times D} $$
#
# Which of the three does anyone want? (Random numbers will do here: what follows holds for any.)

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n))
S = q @ k.T / math.sqrt(width)
P = softmax(S)
out = P @ v
for name, array in {"S": S, "P": P, "O": out}.items():
    print(f"{name} {array.shape!s:<13} {format_bytes(array.nbytes)}")

# %% [markdown] covers="L14"
# Only $O$. The other two are scaffolding: the formulas name them, but do not say that they must
# ever be whole.
#
# ## Cut the queries
#
# A row of the softmax needs no other row. So take a *chunk* of $c$ queries, finish it, and reuse
# its memory. Then the scores held at once are $c \cdot n$ numbers:
#
# $$ O_{\text{chunk}} = \mathrm{softmax}\bigl(\underbrace{Q_{\text{chunk}}}_{c \times D}
#    K^\top / \sqrt D\bigr)\, V $$

# %%
rows = slice(256, 320)
S_chunk = q[rows] @ k.T / math.sqrt(width)
np.testing.assert_allclose(softmax(S_chunk) @ v, out[rows], atol=1e-6)
print("scores held:", S_chunk.shape, "instead of", S.shape)

# %%
for chunk in (1, 64, 1000, 1024):
    np.testing.assert_allclose(chunked.attention(q, k, v, chunk=chunk), out, atol=1e-6)
print("any chunk gives full attention, also one that does not divide n")

# %% [markdown]
# At $n = 4096$ a chunk of 256 queries holds a sixteenth of the scores. And the whole call? (Both
# ways write P over S here: one array holds first the scores, then the weights.)

# %% folded=true
long_qkv = random_qkv(4096)


def chunking_gains():
    whole = measure.peak_bytes(full.attention, *long_qkv)
    return whole / measure.peak_bytes(chunked.attention, *long_qkv, chunk=256)


widgets.guess(
    "n = 4096, D = 64, float32, P written over S: by which factor does the peak memory fall with "
    "chunks of 256?",
    chunking_gains,
    unit="",
    explain="The output is held too: 1 MiB beside 4 MiB of scores, and a little for the rest.",
)

# %% [markdown]
# A smaller chunk holds less. But each chunk reads all of k and v anew:

# %%
for chunk in (64, 16, 4):
    cost = chunked.cost(1, 1, 4096, 4096, 64, chunk=chunk)
    held, moved = format_bytes(cost.peak_bytes), format_bytes(cost.bytes_read)
    print(f"chunks of {chunk:>2}: {held:>8} held, {moved:>9} read")

# %% [markdown] covers="L15"
# And a chunk still holds whole rows. For a text of a million tokens one row is 4 MB. Can the keys
# be cut too?
#
# ## Cut the keys: the tempting way
#
# Take the keys in two halves. Compute softmax times v for each, and add. What comes out?

# %%
halves = [(k[:512], v[:512]), (k[512:], v[512:])]
parts = [softmax(q @ k_part.T / 8) @ v_part for k_part, v_part in halves]
print("sum of the halves is off by more than a tenth:", np.abs(sum(parts) - out).max() > 0.1)
print("their mean is off by more than a hundredth:   ", np.abs(sum(parts) / 2 - out).max() > 0.01)

# %% [markdown]
# Each half normalised its own weights to 1, so that together they sum to 2. The mean repairs the
# sum and still gives a weak half as much say as a strong one. One of
# [the texts that this course checks](00_start.ipynb#The-four-texts) makes this mistake:

# %%
claims.check("C050")

# %% [markdown]
# The check to keep: **do it with two parts and compare**. What would repair it? Let each part
# remember the sum $\sum_j e^{s_j}$ that it divided by, and weigh it by that. With more and more
# parts:


# %%
def in_parts(count, weigh):
    """Relative error if the softmax runs within each of `count` parts of the keys."""
    parts = [
        flash.forward(q, k_part, v_part, block_q=1024, block_k=1024)
        for k_part, v_part in zip(np.split(k, count), np.split(v, count), strict=True)
    ]
    outputs, logs = (np.array(each) for each in zip(*parts, strict=True))  # logs of the sums
    return np.abs((weigh(logs)[..., None] * outputs).sum(0) - out).max() / np.abs(out).max()


# %% folded=true
counts = [1, 2, 4, 8, 16, 32]
ways = {
    "averaged": lambda logs: np.full(logs.shape, 1 / len(logs)),
    "weighed by its own sum": lambda logs: softmax(logs.T).T,
}
errors = {name: [in_parts(count, weigh) for count in counts] for name, weigh in ways.items()}
assert max(errors["weighed by its own sum"]) < 1e-5 < errors["averaged"][1]
axis = {"x_label": "parts of the keys", "y_label": "error over largest output", "log_x": True}
axes = plots.curves(counts, errors, **axis)
plots.show(axes, "Averaged parts get worse with each cut; weighed parts stay exact.")

# %% [markdown]
# So one number more for each part is enough. The online softmax keeps it while it walks.

# %% [markdown] covers="L3 R2"
# ## The online softmax
#
# Walk along one row of scores, block by block, and keep three things: the largest score so far,
# $m$; the sum $\ell$ of $e^{s - m}$; and $a$, the values summed with these weights. In the code of
# this course they are `running_max`, `running_sum` and `acc`.

# %% [markdown]
# A block with a larger score changes $m$ to $m'$. Everything kept is then too large by the same
# factor, since $e^{s - m'} = e^{s - m} \cdot e^{m - m'}$. So shrink it, and add the block:
#
# $$ r = e^{m - m'}, \qquad \ell' = r\,\ell + \sum_j e^{s_j - m'}, \qquad
#    a' = r\,a + \sum_j e^{s_j - m'} v_j $$
#
# In the end the output is $a / \ell$.

# %% [markdown]
# The smallest case, to follow by hand. The keys are words; a word's score is the number of letters
# that it shares with *attention*, its value is its length. So the output is a mean length.

# %%
words = "still we drop each block and obtain the same row of attention".split()
scores = np.array([len(set("attention") & set(word)) for word in words], float)
lengths = np.array([len(word) for word in words])
print(" ".join(f"{word}:{score:.0f}" for word, score in zip(words, scores, strict=True)))

# %%
running_max, running_sum, acc = -np.inf, 0.0, 0.0
for block in np.split(np.arange(12), 4):
    new_max = max(running_max, scores[block].max())
    rescale = np.exp(running_max - new_max)
    weights = np.exp(scores[block] - new_max)
    running_sum = running_sum * rescale + weights.sum()
    acc = acc * rescale + weights @ lengths[block]
    running_max = new_max
    kept = f"maximum {running_max:.0f}, kept times {rescale:.2f}"
    print(f"{' '.join(words[j] for j in block):<16} {kept}; sum {running_sum:.3f}, acc {acc:5.2f}")
np.testing.assert_allclose(acc / running_sum, softmax(scores[None])[0] @ lengths)

# %% [markdown]
# A block without a larger score shrinks nothing: $r = 1$. And before the first block $r = 0$,
# because $e^{-\infty} = 0$: what was kept counts for nothing, whatever it was.

# %% [markdown]
# **Slide, and watch both sums collapse at `obtain`.** Dashed is how high they stood a moment
# before; each colour is what one block has added. Then choose an order in which nothing ever
# shrinks.

# %% folded=true
orders = {"as written": np.arange(12), "rising": np.argsort(scores, kind="stable")}
orders["falling"] = orders["rising"][::-1]


def sums(order, block, known, added):
    """What each block has added to both sums, once the maximum of `known` blocks is known."""
    s, values, at = scores[orders[order]], lengths[orders[order]], np.arange(12) // block
    top = s[at < known].max(initial=-np.inf)
    weights = np.exp(np.where(at < added, s - top, -np.inf)) if added else 0.0 * s
    return top, np.bincount(at, weights), np.bincount(at, weights * values)


# %% folded=true
def draw_row(step, block, order):
    step = min(step, 2 * (12 // block))
    known, added = -(-step // 2), step // 2
    top, *parts = sums(order, block, known, added)
    was, *before = sums(order, block, -(-max(step - 1, 0) // 2), max(step - 1, 0) // 2)
    kept = math.exp(was - top) if known > 1 else 1.0
    said = f"block {known} is added" if step % 2 == 0 else f"block {known}: kept times {kept:.2f}"
    said = said if step else "nothing is seen"
    before = [part.sum() for part in before]
    shown = scores[orders[order]], np.arange(12) // block, known, top, parts, before
    live_row.update(*shown, said, [words[j] for j in orders[order]])
    return f"Step {step}, {said}: sum {parts[0].sum():.3f}, acc {parts[1].sum():.2f}."


# %%
live_row = plots.LiveOnline(words, most=(7, lengths.sum() / 2), y=(0, scores.max() + 1))
sizes = widgets.choice([1, 2, 3, 4, 6, 12], 3)
widgets.explore(draw_row, live_row.figure, step=(0, 24, 1, 5), block=sizes, order=list(orders))

# %% [markdown]
# Falling order is the lucky one. How lucky is a real row, whose scores come in any order?


# %% folded=true
def new_maxima(n_keys=1000, rows=500):
    """How often, on average, a key beats all before it in a row of random scores."""
    drawn = np.random.default_rng(9).standard_normal((rows, n_keys))
    best = np.maximum.accumulate(drawn, axis=1)
    return 1 + (np.diff(best, axis=1) > 0).sum() / rows


widgets.guess(
    "1000 keys in random order, one at a time: how many, the first included, are the largest so "
    "far?",
    new_maxima,
    unit="",
    explain="Key j is the largest of the first j with chance 1/j, and 1 + 1/2 + … + 1/1000 = 7.5.",
)

# %% [markdown]
# The maximum is not there for beauty. Make the scores 100 times larger and leave it out:

# %%
with np.errstate(over="ignore", invalid="ignore"):
    large = np.exp(100 * S[5])
    print("without a maximum:", (large / large.sum()).max())
online = flash.attention(100 * q, k, v, block_q=64, block_k=64)
print("online, tiles of 64: all finite", bool(np.isfinite(online).all()))

# %% [markdown]
# One trap is left. A row may see nothing at all, in a block or anywhere: its maximum is
# $-\infty$, and $-\infty - (-\infty)$ is NaN. So the code subtracts a *pivot*: the maximum, or 0
# where that is $-\infty$.

# %%
with np.errstate(invalid="ignore"):
    print("-inf minus -inf:", np.exp(-np.inf - -np.inf))
print("with a pivot:   ", np.exp(-np.inf - 0.0))
empty = flash.attention(q[:3], k[:1], v[:1], block_q=2, block_k=1, causal=True)
assert not empty[:2].any() and np.isfinite(empty).all()

# %% [markdown] covers="L1 L2"
# ## Tiles
#
# Cut the queries *and* the keys. What exists of the scores is one *tile*: $B_q$ queries by $B_k$
# keys. Two loops walk over the tiles; the inner one is the online softmax, for $B_q$ rows at
# once.
#
# $$ S_{ij} = \underbrace{Q_i}_{B_q \times D}\; \underbrace{K_j^\top}_{D \times B_k} / \sqrt D
#    \;\in\; \mathbb R^{B_q \times B_k} $$


# %%
def query_tile(q, k, v, block_k):
    """One tile of queries against all keys, a tile of keys at a time."""
    acc, running_sum = np.zeros_like(q), np.zeros((len(q), 1))
    running_max = np.full((len(q), 1), -np.inf)
    for start in range(0, len(k), block_k):
        scores = q @ k[start : start + block_k].T / math.sqrt(q.shape[-1])
        new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
        weights, rescale = np.exp(scores - new_max), np.exp(running_max - new_max)
        running_sum = running_sum * rescale + weights.sum(axis=-1, keepdims=True)
        acc = acc * rescale + weights @ v[start : start + block_k]
        running_max = new_max
    return acc / running_sum


# %%
np.testing.assert_allclose(query_tile(q[128:192], k, v, block_k=48), out[128:192], atol=1e-6)
for block_q, block_k in ((1, 1), (16, 8), (20, 7), (500, 500)):
    tiled = flash.attention(q[:40], k[:50], v[:50], block_q=block_q, block_k=block_k)
    np.testing.assert_allclose(tiled, full.attention(q[:40], k[:50], v[:50]), atol=1e-6)
print("tiles of any shape give full attention")

# %% [markdown]
# The course's own code is this, with heads, masks and checks:
# [`reference/flash.py`](../attncourse/reference/flash.py).
#
# Watch the tiles go by. Then tick *causal*: which tiles are never touched?


# %%
def walk(n_tiles, causal):
    """The tiles (query tile, key tile) in the order of the two loops."""
    return [(i, j) for i in range(n_tiles) for j in range(n_tiles) if j <= i or not causal]


# %% folded=true
said = {"x": "tile of keys", "y": "tile of queries"}
said["words"] = ("not yet, or never", "done and forgotten", "in memory now")
live_walk = plots.LiveHeatmap(np.zeros((8, 8)), title=" ", **said)


def draw_walk(step, causal):
    grid, tiles = np.zeros((8, 8)), walk(8, causal)
    step = min(step, len(tiles) - 1)
    for tile in tiles[:step]:
        grid[tile] = 1
    grid[tiles[step]] = 2
    live_walk.update(grid, "256 tokens, tiles of 32 × 32")
    size = f"{format_bytes(4 * 32**2)} of scores instead of {format_bytes(4 * 256**2)}"
    return f"Tile {step + 1} of {len(tiles)}: {size}; {tiles[step][0]} rows of tiles are finished."


# %%
widgets.explore(draw_walk, live_walk.figure, step=(0, 63, 1, 19), causal=False)

# %% [markdown]
# The loop bounds are the mechanism: a causal tile above the diagonal is not masked, it is never
# visited. [Exercise 09.2](../exercises/09_flash.ipynb#09.2-Tiles-under-a-causal-mask)
# counts the tiles, and [09.3](../exercises/09_flash.ipynb#09.3-Attention-without-a-row-of-scores)
# asks for the whole algorithm, with its memory graded.

# %% [markdown] covers="L9 L10 P1 P2"
# ## Memory: prediction beside measurement
#
# Predict which of the three curves doubles when $n$ doubles, and which one quadruples.

# %%
some = [512, 1024, 2048]
inputs = {n: random_qkv(n) for n in some}
ways = {
    "full": (full, {}),
    "chunks of 256": (chunked, {"chunk": 256}),
    "tiles of 64 × 64": (flash, {"block_q": 64, "block_k": 64}),
}
measured, predicted = {}, {}
for name, (way, knobs) in ways.items():
    measured[name] = [measure.peak_bytes(way.attention, *inputs[n], **knobs) for n in some]
    predicted[name] = [way.cost(1, 1, n, n, 64, **knobs).peak_bytes for n in some]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %%
axes = plots.growth(some, measured, predicted, unit="bytes", title="peak memory, output included")
plots.show(axes, "Full attention quadruples per doubling of n; the tiled one is mostly its output.")

# %% [markdown]
# What tiles hold beyond the output does not depend on $n$, but for one number per query.
# "$O(n)$ memory" speaks of exactly that; with the output it is $O(nD)$.


# %%
def beyond_output(n):  # beside 512 keys, which come tile by tile, however many they are
    tile = {"block_q": 256, "block_k": 256}
    return measure.peak_bytes(flash.attention, *random_qkv(n, 512, width=16), **tile) - n * 16 * 4


per_query = (beyond_output(65_536) - beyond_output(512)) / (65_536 - 512)
assert abs(per_query - 4) < 0.5
print(f"one query more takes {per_query:.0f} bytes beyond its output: one float32 number")

# %% [markdown]
# One of [the texts](00_start.ipynb#The-four-texts) compares megabytes, of one layer with 12 heads.
# Count its numerator and its denominator: how many heads are in each?

# %%
qkv = 3 * 4096 * 768 * 4  # of all 12 heads
for heads, said in ((1, "1 matrix:"), (12, "12 matrices:")):
    whole = heads * 4096**2 * 4 + qkv
    print(f"with {said:<12} {whole / 1e6:5.1f} MB, {whole / qkv:4.1f} times q, k and v")
claims.check("C269")

# %% [markdown]
# [Exercise 09.V2](../exercises/09_flash.ipynb#09.V2-A-memory-budget,-with-Flash-in-it) draws up
# such a budget, with all heads on both sides.

# %% [markdown]
# Memory is settled. But is a result that was summed up in tiles still *the* result?

# %% [markdown]
# ## Exact, to rounding
#
# "Exact" means: the same real number. Sums in another order round differently. By how many
# *roundings*, steps between neighbouring float32 numbers at the largest output, is each off?


# %%
def roundings(attend, seed, **knobs):
    """Largest difference from attention in float64, in roundings of float32."""
    q, k, v = random_qkv(96, width=32, seed=seed)
    truth = full.attention(*(array.astype(float) for array in (q, k, v)))
    unit = np.spacing(np.float32(np.abs(truth).max()))
    return np.abs(attend(q, k, v, **knobs) - truth).max() / unit


# %%
ways = {"full": (full.attention, {})}
for block in (32, 8):
    ways[f"tiles of {block}"] = (flash.attention, {"block_q": block, "block_k": block})
errors = {
    name: [roundings(attend, seed, **knobs) for seed in range(12)]
    for name, (attend, knobs) in ways.items()
}
assert max(map(max, errors.values())) < 16
axes = plots.distribution(errors, unit="roundings")
plots.show(axes, "Twelve random inputs: each way stays within a few roundings of the truth.")

# %% [markdown]
# A few roundings, all of them. Tiles are no approximation, and small ones are often the more
# exact: a short sum rounds less often than a long one.

# %% [markdown] covers="L5 L6 L17 L21"
# ## Where the bytes go
#
# Why would this be *faster*? A GPU has a large memory far away, *HBM*, and on the chip a small one
# beside each processor, an *SRAM* for each *SM*. Nearest are the *registers*, where arithmetic
# happens. An A100 has 192 KiB of SRAM in each of 108 SMs (Dao et al. 2022, arXiv:2205.14135,
# section 2.1):

# %% folded=true
sms, sram, a100 = 108, 192 * 1024, DEVICES["A100 40 GB"]
room = {f"{sms} × SRAM": sms * sram, "HBM": a100.memory_bytes}
speed = {f"{sms} × SRAM": 19.0, "HBM": a100.bytes_per_second / 1e12}
figure, (upper, lower) = plots.figure(2, 1, height=2.6)
plots.bars(room, upper, title="room", unit="bytes")
plots.bars(speed, lower, title="speed", unit="TB/s")
more, slower = a100.memory_bytes / (sms * sram), 19e12 / a100.bytes_per_second
alt = f"HBM has {more:.0f} times the room of all SRAM together, and is {slower:.0f} times slower."
plots.show(figure, alt)

# %% [markdown]
# A *kernel*, one program for all SMs, reads from HBM, computes on the chip, and writes to HBM.
# What two kernels share must travel there and back. *Fusing* them into one saves that trip. Which
# stages does FlashAttention fuse?

# %% folded=true
stages = ["q, k, v = x W", "q kᵀ", "softmax", "· v", "· W_O"]
ways = {"standard": [[0], [1], [2], [3], [4]], "FlashAttention": [[0], [1, 2, 3], [4]]}
axes = plots.launches(stages, ways)
plots.show(axes, "Three stages become one kernel; both projections stay outside.")

# %% [markdown]
# The last projection, $W_O$, mixes all heads, and a program has only one; so it stays a kernel of
# its own. And the two trips saved: are they much? To favour standard attention, let its products
# read q, k and v only once, as if a cache held them; tiled attention gets no such help.


# %% folded=true
def traffic_gain():
    case, knobs = (1, 1, 4096, 4096, 64), {"block_q": 128, "block_k": 128}
    costs = full.cost(*case), flash.cost(*case, **knobs)
    standard, tiled = (cost.bytes_read + cost.bytes_written for cost in costs)
    return standard / tiled


widgets.guess(
    "n = 4096, D = 64, float32, tiles of 128 queries: by which factor does tiled attention move "
    "less?",
    traffic_gain,
    unit="",
    explain="S is 64 times as large as q. But tiled attention reads k and v again for each of its "
    "32 tiles of queries.",
)

# %% [markdown]
# Now both ways as loops over tiles. A step names what it reads from HBM and what it writes there.


# %%
def standard(tiles):
    for i, j in itertools.product(range(tiles), repeat=2):  # S = q kᵀ
        yield Move(1, [("q", i, 0)] * (j == 0) + [("k", j, 0)], [("S", i, j)], "q, scores")
    for i in range(tiles):  # P = softmax(S)
        yield Move(2, *([(name, i, j) for j in range(tiles)] for name in "SP"), "rows of scores")
    for i, j in itertools.product(range(tiles), repeat=2):  # O = P v
        yield Move(3, [("P", i, j), ("v", j, 0)], [("O", i, 0)] * (j == tiles - 1), "acc")


# %%
def tiled(tiles):
    for i, j in itertools.product(range(tiles), repeat=2):
        reads = [("q", i, 0)] * (j == 0) + [("k", j, 0), ("v", j, 0)]
        yield Move(1, reads, [("O", i, 0)] * (j == tiles - 1), "q, scores, max, sum, acc")


# %% [markdown]
# Here are 512 tokens in tiles of 128, all in float16. **Slide to step 16.** Tiled attention has its
# output. What has standard attention by then, and what do its next two kernels carry?

# %% folded=true
tall, square = 128 * 64 * 2, 128 * 128 * 2
sizes = {name: square if name in "SP" else tall for name in "qkvSPO"}
shapes = {name: (4, 4 if name in "SP" else 1) for name in "qkvSPO"}
ways = {"standard": list(standard(4)), "tiled": list(tiled(4))}
live_moves = plots.LiveMoves(ways, shapes, sizes, given="qkv")
widgets.explore(live_moves.draw, live_moves.figure, step=(0, live_moves.steps, 1, 6))

# %% [markdown] covers="L5 L7 L8 L17"
# The whole difference is S and P: written, read, written, read. Each number of the matrix travels
# four times.
#
# ## Count the traffic
#
# Now for any length, by the rule of the guess: standard attention reads q, k and v only once.

# %% [markdown]
# With $b$ bytes a number, those of S and P too:
#
# $$ \text{standard} = (\underbrace{4n^2}_{S,\,S,\,P,\,P} + 4nD)\,b, \qquad
#    \text{tiled} = \Bigl(\underbrace{2nD}_{q,\,O} + 2nD\,\Bigl\lceil \frac{n}{B_q} \Bigr\rceil
#    \Bigr)\,b $$
#
# $B_k$ is in neither: it only says in which portions k and v arrive. $B_q$ says how often.


# %%
def standard_bytes(n, width, bytes_each=4):
    return (4 * n * n + 4 * n * width) * bytes_each


def tiled_bytes(n, width, block_q, bytes_each=4):
    return (2 * n * width + 2 * n * width * -(-n // block_q)) * bytes_each


# %%
cost = full.cost(1, 1, 4096, 4096, 64)
assert standard_bytes(4096, 64) == cost.bytes_read + cost.bytes_written
cost = flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128)
assert tiled_bytes(4096, 64, 128) == cost.bytes_read + cost.bytes_written - 4096 * 4
print("the same as the course's cost, which adds one number per query")

# %% [markdown]
# Slide the tile. At some head width the curves cross, and tiling moves *more* than the standard
# way. Find the rule: how does that width depend on $B_q$?

# %% folded=true
head_widths = np.arange(16, 1025, 8)
lines = {"standard": 1.0 * head_widths, "tiled": 1.0 * head_widths}
live_traffic = plots.LiveCurves(head_widths, lines, x_label="head width D", y_label="MB moved")


def draw_traffic(n, block_q):
    standard = standard_bytes(n, head_widths) / 1e6
    tiled = tiled_bytes(n, head_widths, block_q) / 1e6
    live_traffic.update({"standard": standard, "tiled": tiled}, f"n = {n}, tiles of {block_q}")
    worse = head_widths[tiled > standard]
    crossing = f"above width {worse[0] - 8} it moves more" if len(worse) else "it always wins here"
    gain = standard[6] / tiled[6]
    return f"Tiles of {block_q} at n = {n}: at width 64, {gain:.1f} times less; {crossing}."


# %%
heights, some = (
    widgets.choice([16, 32, 64, 128, 256], 32),
    widgets.choice([1024, 4096, 16384], 4096),
)
widgets.explore(draw_traffic, live_traffic.figure, block_q=heights, n=some)

# %% [markdown]
# For long texts $4n^2 = 2n^2 D / B_q$, so the crossing lies at $D = 2 B_q$. Whoever wants wide
# heads needs tall tiles. But tiles of q, k, v, the output and the scores must fit on the chip:
#
# $$ (4\,B\,D + B^2)\,b \;\le\; 192\ \text{KiB} \qquad \text{for } B_q = B_k = B $$


# %%
def on_chip(block, width, bytes_each):
    parts = {name: block * width * bytes_each for name in ("q", "k", "v", "out")}
    return parts | {"scores": block * block * bytes_each}


# %% folded=true
live_chip = plots.LiveBars(on_chip(128, 64, 2), unit="bytes")


def draw_chip(block, width, bytes_each):
    parts = on_chip(block, width, bytes_each)
    live_chip.update(parts, f"tiles of {block} × {block}, width {width}")
    needed = sum(parts.values())
    fits = "they fit" if needed <= sram else "they do NOT fit"
    return f"Together {needed / 1024:.0f} KiB of {sram / 1024:.0f}: {fits}."


# %%
sizes = widgets.choice([16, 32, 64, 128, 256], 128)
some = widgets.choice([32, 64, 128, 256, 768], 64)
widgets.explore(draw_chip, live_chip.figure, block=sizes, width=some, bytes_each=[2, 4])

# %% [markdown]
# The same text prints tiles of 128 and takes $D = 768$, the width of all twelve heads at once. Set
# the sliders to that; then read its claim. The check to keep: **multiply out what must fit**.

# %%
claims.check("C266")

# %% [markdown]
# Wide heads get hit twice: each key is larger, *and* fewer queries share it. With the largest tile
# that fits, $B \approx M / 4Db$ for an SRAM of $M$ bytes, the traffic is about $n^2 D^2 / M$ up to
# a constant: the theorem of the paper (Dao et al. 2022, section 3.2). Real heads have 64 to 128.

# %% [markdown]
# [Exercise 09.1](../exercises/09_flash.ipynb#09.1-Bytes-that-travel) is this calculation, exactly.

# %% [markdown] covers="L12"
# ## Does the matrix fit in a cache?
#
# Between HBM and the SMs of an A100 lie 40 MB of L2 cache. The same text explains its timings
# with it: the matrix, 4.2 MB, fits at $n = 1024$; at 2048, with 16.8 MB, no longer. Which heads
# does it count each time, and in which type?

# %%
for dtype, length in itertools.product(("float32", "float16"), (1024, 2048)):
    one = length**2 * np.dtype(dtype).itemsize / 1e6
    print(f"{dtype}, n = {length}: one head {one:4.1f} MB, 12 heads {12 * one:5.1f}; L2 cache 40")

# %% [markdown]
# In float32, whose sizes the text prints, one head fits at both lengths and twelve at neither: no
# step. In float16 all 12 heads would give it. The check to keep: **the same heads and type at both
# ends**.

# %% [markdown] covers="A14 L11 L12 L16 L17 P4"
# ## Faster, with the same arithmetic
#
# Tiling saves no product. But time is the larger of computing and moving. So compare the
# *intensity*, FLOPs per byte, with what the device can feed ([chapter 01](01_bottleneck.ipynb)):

# %%
h100 = DEVICES["H100 80 GB"]
print(f"an H100 is busy above {h100.flops_per_second / h100.bytes_per_second:.0f} FLOPs per byte")
ours = full.cost(1, 1, 4096, 4096, 64, dtype_bytes=2)
tiles = flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128, dtype_bytes=2)
for name, flops, intensity in (
    ("standard, all in float16", ours.flops, ours.flops / standard_bytes(4096, 64, 2)),
    ("standard, S and P in float32", ours.flops, ours.intensity),
    ("tiled", tiles.flops, tiles.intensity),
):
    print(f"{name:<28} {flops / 1e9:.1f} GFLOP, {intensity:5.1f} FLOPs per byte")

# %% [markdown]
# The first line is the formula's, and chapter 01's. The second is our kernel's, which computes the
# scores in float32 and writes them so: they weigh double, and tiling gains nearly twice as much.

# %% [markdown]
# There is a third limit. Each score needs one exponential, beside 256 operations of its two
# products at $D = 64$. But the tensor cores, which do products, have no exponential. An H100 does
# 989 TFLOP/s of products and 3.9 TFLOP/s of special functions such as exp (Shah et al. 2024,
# arXiv:2407.08608).

# %% folded=true
widgets.guess(
    "H100, heads of 64: how long do the exponentials take, in percent of the products' time?",
    lambda: 100 * (1 / 3.9e12) / (4 * 64 / h100.flops_per_second),
    unit="%",
    explain="One operation in 257, by units that are 254 times slower.",
)

# %% [markdown]
# Three limits, then. Each bar is the time that this limit alone would take on an H100, moving
# without any cache; inputs in float16, S and P in float32, as our kernel keeps them. Which limit
# binds for standard attention, and which for tiled?

# %% folded=true
limits = ("products", "exponentials", "moving, tiled", "moving, standard")
live_bounds = plots.LiveBars(dict.fromkeys(limits, 1.0), unit="s")


def draw_bounds(n, width):
    costs = (
        flash.cost(1, 16, n, n, width, block_q=128, block_k=64, dtype_bytes=2),
        full.cost(1, 16, n, n, width, dtype_bytes=2),
    )
    moving = [(cost.bytes_read + cost.bytes_written) / h100.bytes_per_second for cost in costs]
    bounds = (costs[1].flops / h100.flops_per_second, 16 * n * n / 3.9e12, *moving)
    live_bounds.update(dict(zip(limits, bounds, strict=True)), f"16 heads of {width}, n = {n}")
    kinds = ("products", "exponentials", "moving")
    tiled, standard = (kinds[np.argmax((*bounds[:2], moved))] for moved in moving)
    return f"Width {width}, n = {n}: tiled attention is bound by {tiled}, standard by {standard}."


# %%
some, widths = widgets.choice([1024, 4096, 16384], 4096), widgets.choice([32, 64, 128, 256], 128)
widgets.explore(draw_bounds, live_bounds.figure, width=widths, n=some)

# %% [markdown]
# Counted like this, without any cache, even tiled attention waits for memory. On a real GPU the L2
# cache answers most of the repeated reads of k and v; then products and exponentials bind.

# %% [markdown]
# And the clock? The next cell measures time and memory on a GPU, if there is one, beside their
# predictions. If not, it shows the latest recorded run, or says that there is none. The *least*
# time counts every read; what the L2 cache answers needs less.

# %%
setting = bench.SHOWN
recorded = bench.latest("gpu", mechanisms=["full", "flash"], **setting)
bench.show_gpu("flash")

# %% [markdown]
# Mind the spread (±) of the short calls. A kernel that is done within microseconds may be timed
# with its launch, which takes longer and varies. Then a text can even seem slower than one twice as
# long.

# %% [markdown]
# The recorded run as shares of the GPU's peak, counting only what must travel at least. Which of
# the two keeps the memory busy, and which the tensor cores?

# %%
device, heads = records.device_of(recorded) if recorded else None, setting["heads"]
gains = records.speedups(recorded, "full", "flash", **setting) if device else ()
for name, length in itertools.product(("full", "flash"), gains):
    work = full.cost(1, heads, length, length, setting["width"], dtype_bytes=2)
    moved = work.bytes_read + work.bytes_written
    if name == "flash":  # q, k, v and out, once each
        moved = 4 * heads * length * setting["width"] * 2
    took = records.times(recorded, name, **setting)[length]
    rates = moved / took / device.bytes_per_second, work.flops / took / device.peak("float16")
    print(f"{name:<6} n = {length:>5}: memory {rates[0]:4.0%}, products {rates[1]:4.0%} of peak")

# %% [markdown]
# Printed times can be tested without a GPU: a layer of width 768 takes $4n^2 \cdot 768$ FLOPs, so
# time should grow fourfold per doubling. These are the same text's, for an A100, whose peak it
# gives as 312 TFLOP/s, in float16:

# %%
printed, before = {1024: 3, 2048: 3.5, 4096: 25, 8192: 55, 16384: 220}, None
for length, milliseconds in printed.items():
    rate = 4 * length**2 * 768 / (milliseconds / 1e3) / 1e12
    growth = f", grows {milliseconds / before:.1f}-fold" if before else ""
    print(f"n = {length:>5}: {milliseconds:>5} ms, {rate:4.1f} TFLOP/s{growth}")
    before = milliseconds

# %% [markdown]
# They do not grow so, and stay below an eightieth of the peak: whatever was timed, it was not this
# kernel at work. [The audit](17_audit.ipynb) has all such figures.

# %% [markdown]
# ## In a real model
#
# The course's small model (four layers of four heads, trained on Python's standard library) reads a
# page that it never saw, with FlashAttention in every layer. A token would be dark if it had become
# less probable. Take any tile.

# %% folded=true
from attncourse import model

small = model.load()
tried = model.trials(small, "flash", block_q=[32, 256], block_k=64)
widgets.in_a_real_model("block_q", tried)

# %%
print("A layer holds, beyond q, k and v:")
for n, whole in tried[32].full_costs.items():
    held = [f"{format_bytes(one.costs[n].peak_bytes)} ({tile})" for tile, one in tried.items()]
    print(f"n = {n:>6,}: {', '.join(held)}, instead of {format_bytes(whole.peak_bytes)}")

# %% [markdown]
# An exact algorithm loses no word; a mechanism that leaves something out has dark ones. And it
# takes about half the FLOPs, because causal tiles above the diagonal are never visited; full
# attention computes and hides them.

# %% [markdown]
# ## Try it
#
# Put twelve words of your own into `words` above, and a word of your own for *attention*; run the
# cells down to the slider. In which place of your sentence do the sums collapse? Then go on to
# [part two](09_flash_backward.ipynb): what does training need of all that was forgotten?
