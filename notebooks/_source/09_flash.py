# %% [markdown]
# # 09 · Nothing left out: FlashAttention
#
# Windows and sketches save memory by leaving something out. This chapter leaves out nothing: the
# same softmax, the same numbers, and the n × n matrix never exists. You will build it in NumPy,
# count the bytes that travel, and read it line by line beside its Triton twin.
#
# **Run a cell with Shift + Enter.** Sliders move with the mouse or the arrow keys.
#
# <!-- summary: the online softmax step by step; tiles and what they move; the backward pass by
# recomputation; NumPy and Triton side by side, line by line. -->

# %% role="setup"
import inspect
import itertools
import math

import numpy as np

from attncourse import bench, claims, measure, plots, side_by_side, widgets
from attncourse.bench import records
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import chunked, flash, full
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="A6 L18"
# ## Who asked for the matrix?
#
# Attention is three steps. Two of them leave an $n \times n$ array behind:
#
# $$ S = \tfrac{1}{\sqrt D}\, Q K^\top \in \mathbb R^{n \times n}, \qquad
#    P = \mathrm{softmax}(S) \in \mathbb R^{n \times n}, \qquad
#    O = P V \in \mathbb R^{n \times D} $$
#
# Which of the three does anyone want?

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n))
S = q @ k.T / math.sqrt(width)
P = softmax(S)
out = P @ v
for name, array in {"S": S, "P": P, "O": out}.items():
    print(f"{name} {array.shape!s:<13} {format_bytes(array.nbytes)}")

# %% [markdown]
# Only $O$. The other two are scaffolding. Draw how long each array lives:

# %%
alive = {"S": (0, 1, S.nbytes), "P": (1, 2, P.nbytes), "O": (2, 2, out.nbytes)}
axes = plots.lifetimes(alive, ["S = q kᵀ / √D", "P = softmax(S)", "O = P v"])
plots.show(axes, "S and P live for two steps each and are 16 times as large as the result O.")

# %% [markdown] covers="L7 L14 P19"
# S must be complete before the softmax, and P before the product: that is how the formulas read,
# and how textbooks state it. One of them adds that both *must* be stored. Keep that sentence in
# mind; it is checked at the end of the backward pass.
#
# ## Cut the queries
#
# A row of the softmax needs no other row. So take a *chunk* of $c$ queries, finish it, and reuse
# its memory. The largest array has $c \cdot n$ numbers:
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
# Predict: at $n = 4096$ with chunks of 256, by which factor does the memory for scores fall?

# %%
long_q, long_k, long_v = random_qkv(4096)
held = {
    "full": measure.peak_bytes(full.attention, long_q, long_k, long_v),
    "chunks of 256": measure.peak_bytes(chunked.attention, long_q, long_k, long_v, chunk=256),
}
predicted = chunked.cost(1, 1, 4096, 4096, 64, chunk=256).peak_bytes
assert abs(held["chunks of 256"] / predicted - 1) < 0.1
claims.check("C051", "16 for the scores alone", "forward only: training brings n² back, see below")

# %% [markdown]
# A small chunk holds little. But each chunk reads all of k and v anew. Slide the chunk and watch
# what you gain and what you pay.

# %%
live_chunk = plots.LiveBars({"held at once": 1, "read from memory": 1}, unit="bytes")


# %%
def draw_chunk(n, chunk):
    cost = chunked.cost(1, 1, n, n, 64, chunk=chunk)
    values = {"held at once": cost.peak_bytes, "read from memory": cost.bytes_read}
    live_chunk.update(values, f"n = {n}, chunks of {chunk}")
    words = [f"{name} {format_bytes(value)}" for name, value in values.items()]
    return f"Chunks of {chunk} at n = {n}: {', '.join(words)}."


# %%
lengths = widgets.choice([1024, 2048, 4096, 8192, 16384], 4096)
sizes = widgets.choice([2**power for power in range(12)], 256)
widgets.explore(draw_chunk, live_chunk.figure, n=lengths, chunk=sizes)

# %% [markdown] covers="L15"
# Chunks still hold whole rows of scores. For a text of a million tokens even one row is long. Can
# the keys be cut too?
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
# sum and still gives a weak half as much say as a strong one. Does it get better with more parts?


# %%
def in_parts(count, weigh):
    """Relative error if the softmax runs within each of `count` parts of the keys."""
    parts = [
        flash.forward(q, k_part, v_part, block_q=1024, block_k=1024)
        for k_part, v_part in zip(np.split(k, count), np.split(v, count), strict=True)
    ]
    outputs, lses = (np.array(each) for each in zip(*parts, strict=True))
    return np.abs((weigh(lses)[..., None] * outputs).sum(0) - out).max() / np.abs(out).max()


# %%
counts = [1, 2, 4, 8, 16, 32]
ways = {
    "averaged": lambda lses: np.full(lses.shape, 1 / len(lses)),
    "weighed by its own sum": lambda lses: softmax(lses.T).T,
}
errors = {name: [in_parts(count, weigh) for count in counts] for name, weigh in ways.items()}
assert max(errors["weighed by its own sum"]) < 1e-5 < errors["averaged"][1]
words = {"x_label": "parts of the keys", "y_label": "error over largest output"}
axes = plots.curves(counts, errors, **words, log_x=True)
plots.show(axes, "Averaged parts get worse with each cut; weighed parts stay exact.")

# %% [markdown]
# The second curve is exact. Each part has to remember one more thing: the sum that it divided by.
# A published recipe forgets this, and mixes the two cuts:

# %%
off = np.abs(sum(parts) - out).max() / np.abs(out).max()
why = "whole rows have nothing to accumulate; parts of rows need the rescaling of the next section"
claims.check("C050", f"two parts, added, are off by {off:.0%} of the largest output", why)

# %% [markdown] covers="L3 R2"
# ## The online softmax
#
# Walk along one row of scores and keep three things: the largest score so far $m$, the sum
# $\ell$ of $e^{s - m}$, and the values summed with these weights. A block with a larger score
# changes $m$. Everything kept is then too large by the same factor:
#
# $$ m' = \max(m, \max_j s_j), \quad r = e^{m - m'}, \quad
#    \ell' = r\,\ell + \sum_j e^{s_j - m'}, \quad
#    a' = r\,a + \sum_j e^{s_j - m'} v_j $$

# %% [markdown]
# $m$, $\ell$ and $a$ are `running_max`, `running_sum` and `acc` in all code of this course. In
# the end the output is $a / \ell$. Predict: what is $r$ in a block that brings no new maximum?

# %%
row = q[5] @ k.T / math.sqrt(width)
running_max, running_sum, acc = -np.inf, 0.0, np.zeros(width)
for block in np.split(np.arange(n), 8):
    new_max = max(running_max, row[block].max())
    rescale = np.exp(running_max - new_max)
    weights = np.exp(row[block] - new_max)
    running_sum = running_sum * rescale + weights.sum()
    acc = acc * rescale + weights @ v[block]
    running_max = new_max
    print(f"keys to {block[-1]:>4}: maximum {running_max:.2f}, kept times {rescale:.2f}")
np.testing.assert_allclose(acc / running_sum, out[5], atol=1e-6)

# %% [markdown]
# It is 1: nothing is touched. And in the first block it is 0, because $e^{-\infty} = 0$: what was
# kept before the first key counts for nothing, whatever it was.
#
# Walk through a row yourself. Then sort it: in which order does the maximum never change?

# %%
scores_row = 1.6 * random_qkv(32, width=1, seed=4)[0].ravel()
orders = {"as it comes": scores_row, "rising": np.sort(scores_row)}
orders["falling"] = orders["rising"][::-1]
live_row = plots.LiveRow(scores_row)


# %%
def maxima(scores, block, steps):
    """Running maxima after 0, 1, 2 … blocks."""
    return [scores[: block * step].max(initial=-np.inf) for step in range(steps + 1)]


# %%
def draw_row(step, block, order):
    scores, key, step = orders[order], np.arange(32), min(step, 32 // block)
    found = maxima(scores, block, step)
    state = 1 * (key < step * block) + 1 * (key // block == step - 1)
    weights = np.where(state > 0, np.exp(scores - found[-1]), 0) if step else 0 * scores
    live_row.update(scores, state, found[-1] if step else None, weights)
    kept = np.exp(found[-2] - found[-1]) if step else 0
    return (
        f"Blocks of {block}, {order}, step {step}: running sum {weights.sum():.2f}; "
        f"what was kept is multiplied by {kept:.2f}."
    )


# %%
blocks = widgets.choice([1, 2, 4, 8, 16, 32], 4)
widgets.explore(draw_row, live_row.figure, step=(0, 32, 1, 3), block=blocks, order=list(orders))

# %% [markdown]
# Falling order is the lucky one. Real rows come in any order, and the result is the same.
#
# The maximum is not there for beauty. Make the scores 100 times larger and leave it out:

# %%
with np.errstate(over="ignore", invalid="ignore"):
    large = np.exp(100 * row)
    print("without a maximum:", (large / large.sum()).max())
online = flash.attention(100 * q, k, v, block_q=64, block_k=64)
print("online, tiles of 64: all finite", bool(np.isfinite(online).all()))

# %% [markdown]
# One trap is left. A row may see nothing at all in a block, or anywhere: its maximum is
# $-\infty$, and $-\infty - (-\infty)$ is NaN. So the code subtracts a *pivot*: the maximum, or 0
# where the maximum is $-\infty$.

# %%
with np.errstate(invalid="ignore"):
    print("-inf minus -inf:", np.exp(-np.inf - -np.inf))
pivot = np.where(np.isneginf(-np.inf), 0.0, -np.inf)
print("with a pivot:   ", np.exp(-np.inf - pivot))
empty = flash.attention(q[:3], k[:1], v[:1], block_q=2, block_k=1, causal=True)
assert not empty[:2].any() and np.isfinite(empty).all()

# %% [markdown]
# So "no intermediate results" is not quite right. Two numbers per query are kept, and its $D$ sums
# in the making:

# %%
claims.check("C013", "2 per row while it runs, 1 per row for the backward pass")

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

# %%
for block_q, block_k in ((1, 1), (64, 32), (100, 37), (2000, 2000)):
    tiled = flash.attention(q[:200], k[:300], v[:300], block_q=block_q, block_k=block_k)
    np.testing.assert_allclose(tiled, full.attention(q[:200], k[:300], v[:300]), atol=1e-6)
print("tiles of any shape give full attention")

# %% [markdown]
# Watch the tiles go by. Then tick *causal*: which tiles are never touched?


# %%
def walk(n_tiles, causal, keys_first=False):
    """The tiles (query tile, key tile) in the order of the two loops."""
    order = [(i, j) for i in range(n_tiles) for j in range(n_tiles) if j <= i or not causal]
    return sorted(order, key=lambda tile: tile[::-1]) if keys_first else order


# %%
said = {"x": "tile of keys", "y": "tile of queries"}
said["words"] = ("not yet, or never", "done and forgotten", "in memory now")
live_walk = plots.LiveHeatmap(np.zeros((8, 8)), title=" ", **said)


# %%
def draw_walk(step, block, causal):
    grid, tiles = np.zeros((256 // block, 256 // block)), walk(256 // block, causal)
    step = min(step, len(tiles) - 1)
    for tile in tiles[:step]:
        grid[tile] = 1
    grid[tiles[step]] = 2
    live_walk.update(grid, f"256 tokens, tiles of {block} × {block}")
    size = f"{format_bytes(4 * block**2)} of scores instead of {format_bytes(4 * 256**2)}"
    done = f"queries before {tiles[step][0] * block} are finished"
    return f"Tile {step + 1} of {len(tiles)} in memory: {size}; {done}."


# %%
blocks = widgets.choice([32, 64, 128, 256], 32)
widgets.explore(draw_walk, live_walk.figure, step=(0, 63, 1, 19), block=blocks, causal=False)

# %% [markdown] covers="L9 L10 P1 P2"
# The loop bounds are the mechanism: a causal tile above the diagonal is not masked, it is never
# visited. **Exercise 09.2** counts the tiles, and **09.3** asks for the whole algorithm, with its
# memory graded.
#
# ## Prediction beside measurement: memory
#
# Predict which of the three curves doubles when $n$ doubles, and which one quadruples.

# %%
lengths = [512, 1024, 2048, 4096]
inputs = {n: random_qkv(n) for n in lengths}
ways = {
    "full": (full, {}),
    "chunks of 256": (chunked, {"chunk": 256}),
    "tiles of 64 × 64": (flash, {"block_q": 64, "block_k": 64}),
}
measured, predicted = {}, {}
for name, (way, knobs) in ways.items():
    measured[name] = [measure.peak_bytes(way.attention, *inputs[n], **knobs) for n in lengths]
    predicted[name] = [way.cost(1, 1, n, n, 64, **knobs).peak_bytes for n in lengths]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %%
axes = plots.growth(
    lengths, measured, predicted, unit="bytes", title="peak memory, output included"
)
plots.show(axes, "Full attention quadruples per doubling of n; the tiled one is mostly its output.")

# %% [markdown]
# What tiles hold beyond the output does not depend on $n$, but for one number per query. "O(n)
# memory" speaks of exactly that, and forgets to say so:

# %%
beyond = [measured["tiles of 64 × 64"][i] - n * 64 * 4 for i, n in enumerate(lengths)]
per_query = (beyond[3] - beyond[0]) / (4096 - 512)
assert abs(per_query - 4) < 0.5  # one float32 number
claims.check("C267", "O(n) beyond inputs and output; together with them O(n·D)")

# %% [markdown]
# The same page compares megabytes. Before you run the cell: its 104.7 MB for standard attention
# are one matrix and all of q, k, v. What is missing if a layer has 12 heads?

# %%
for length in (4096, 16384):
    inputs_bytes = 3 * length * 768 * 4
    for heads in (1, 12):
        standard = heads * length**2 * 4 + inputs_bytes
        print(
            f"n = {length:>5}, {heads:>2} matrices: {standard / 1e6:8.1f} MB, "
            f"{standard / inputs_bytes:5.1f} × q, k, v"
        )

# %%
why = "one head's matrix, but the q, k, v of all 12 heads; with all matrices 22 and 86"
claims.check("C269", why=why)
claims.check("C271", why=why)

# %%
claims.check("C268")

# %% [markdown] covers="L9 P19"
# **Exercise 09.V2** draws up the memory budget of a textbook, with Flash in it.
#
# ## Exact, to rounding
#
# "Exact" means: the same real number. Sums in another order round differently, so the bits may
# differ. How large is the difference, and who is closer to the truth?


# %%
def error(attend, dtype, **knobs):
    """Largest difference from attention in the widest type, in roundings of the dtype."""
    q, k, v = (array.astype(dtype) for array in random_qkv(256, seed=2, dtype=np.float64))
    truth = full.attention(*(array.astype(np.longdouble) for array in (q, k, v)))
    unit = np.finfo(dtype).eps * np.abs(truth).max()
    return float(np.abs(attend(q, k, v, **knobs) - truth).max() / unit)


# %%
tiles = {"block_q": 64, "block_k": 64}
errors = [
    (error(full.attention, dtype), error(flash.attention, dtype, **tiles))
    for dtype in (np.float64, np.float32, np.float16)
]
assert np.max(errors) < 16
print("float64, float32, float16: full and tiled are within 16 roundings of the truth")

# %% [markdown]
# A few roundings, both. But look closer, and slide the tile. Which sizes come nearest to the truth,
# and why?

# %%
seeds = np.arange(12)
lines = {"full": 0.0 * seeds, "tiled": 0.0 * seeds}
words = {"x_label": "random input", "y_label": "largest error in roundings"}
live_error = plots.LiveCurves(seeds, lines, **words, high=6)


# %%
def largest_error(attend, seed, **knobs):
    q, k, v = random_qkv(96, width=32, seed=int(seed))
    truth = full.attention(*(array.astype(float) for array in (q, k, v)))
    unit = np.finfo(np.float32).eps * np.abs(truth).max()
    return np.abs(attend(q, k, v, **knobs) - truth).max() / unit


# %%
full_errors = [largest_error(full.attention, seed) for seed in seeds]
tiled_errors = {}
for block in (8, 16, 32, 64, 96):
    knobs = {"block_q": block, "block_k": block}
    tiled_errors[block] = [largest_error(flash.attention, seed, **knobs) for seed in seeds]


# %%
def draw_error(block):
    live_error.update({"full": full_errors, "tiled": tiled_errors[block]})
    within = max(*tiled_errors[block], *full_errors) < 16
    return f"Tiles of {block}: full and tiled both stay within 16 roundings: {within}."


# %%
widgets.explore(draw_error, live_error.figure, block=widgets.choice(list(tiled_errors), 16))

# %% [markdown]
# A short sum rounds less often than a long one, and tiles cut long sums into short ones. So small
# tiles are usually the more exact. The largest tile is one long sum again: that of full attention.

# %%
claims.check("C012", "a few roundings, as above")
claims.check("C413", "a few roundings, as above")

# %% [markdown] covers="L1-L3 L5 P19 S3"
# ## One algorithm in two languages
#
# On a GPU one *program* takes a tile of queries and walks over the tiles of keys, exactly as
# above. There a tile lies in the registers and the shared memory of the chip. NumPy and Triton
# use the same names in the same order, so that you can read them side by side.

# %%
numpy_code = inspect.getsource(flash._query_tile)
triton_code = side_by_side.function("kernels/flash.py", "_flash_fwd_kernel")
where_names_differ = {
    "last": "n_whole",
    "for keys": "for tile",
    "k_tile": "k",
    "if causal": "if stretch",
    "hide_future": "scores",
    "acc +=": "acc",
    "return": "lse",
}

# %%
steps = {
    "n_queries": "Who am I? A program finds its place by its number and by addresses.",
    "acc = np": "Nothing is seen yet.",
    "last =": "Which tiles of keys? The loop bounds are the mechanism.",
    "scores = np": "One tile of scores.",
    "new_max": "A larger score? Then what is kept must shrink.",
    "acc *=": "Shrink what is kept, add this tile's values.",
    "running_sum[": "The end: divide once, and keep one number per row.",
}

# %%
beside = {
    "q_ptr +=": "NumPy carries heads and batch along as leading axes: (..., Tq, D).",
    "positions": "Tq ≠ Tk: the last query stands at the last key.",
    "q = load_tile": "The caller has cut this tile, and scaled it.",
    "q = pass_inf": "The caller did so: infinity becomes NaN, and cannot look like a masked row.",
    "tile = np": "No array: a tile lives in registers.",
    "for stretch": "Two loops: below the diagonal no mask is needed at all.",
    "scores -=": "Inside exp2, below: nothing is written in between.",
    "v = load_tile": "The slice of v stands in the product, below.",
    "store_tile": "The caller writes what is returned. Only this leaves the chip.",
    "tl.store": "The caller writes it.",
}

# %%
titles = "NumPy: one call of flash._query_tile", "Triton: one program of the kernel"
names = {"same": where_names_differ, "steps": steps, "notes": beside}
side_by_side.SideBySide(numpy_code, triton_code, titles=titles, **names)

# %% [markdown]
# Two tricks are Triton's alone. The GPU has an instruction for $2^x$, not for $e^x$, so the
# factor $\log_2 e$ hides in the scale (`LOG2E`). And the tiles that need a mask come last, in a
# loop of their own, so that the others pay nothing for it.
#
# Same names, same numbers? Triton's interpreter runs the kernel here, without a GPU, and `trace`
# notes every access. That takes some seconds.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import flash as flash_kernel
    from attncourse.kernels import full as full_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(256, width=32)]
    tile = {"block_q": 32, "block_k": 32}
    traced = trace.record(flash_kernel.attention, *tensors, **tile, causal=True)
except (ImportError, RuntimeError) as reason:
    traced = None
    print(reason)

# %%
if traced:
    expected = flash.attention(*random_qkv(256, width=32), **tile, causal=True)
    np.testing.assert_allclose(traced.result.numpy(), expected, atol=1e-5)
    assert not traced.out_of_bounds

# %% [markdown]
# Slide through the programs of the causal kernel. The last one loads every tile, the first one
# only one.

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    tiles = plots.LiveTiles(traced)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 3)))

# %% [markdown] covers="L5 L6 L17 L21"
# **Exercise 09.5** leaves the loop of such a kernel to you, and counts the bytes that you load.
#
# ## Where the bytes go
#
# A GPU has a large memory that is far away, *HBM*, and on the chip a small one beside each of its
# processors: an *SRAM* for each *SM*. Here are an A100's. Which bar is too short to be seen?

# %%
sms, sram = 108, 192 * 1024
a100 = DEVICES["A100 40 GB"]
room = {f"{sms} × SRAM": sms * sram, "HBM": a100.memory_bytes}
speed = {f"{sms} × SRAM": 19.0, "HBM": a100.bytes_per_second / 1e12}
figure, (upper, lower) = plots.figure(2, 1, height=2.8)
plots.bars(room, upper, title="room", unit="bytes")
plots.bars(speed, lower, title="speed", unit="TB/s")
more, slower = a100.memory_bytes / (sms * sram), 19e12 / a100.bytes_per_second
words = f"HBM has {more:.0f} times the room of all SRAM together, and is {slower:.0f} times slower."
plots.show(figure, words)

# %% [markdown]
# 192 KiB per SM, 108 SMs, 19 TB/s in sum (Dao et al. 2022, arXiv:2205.14135, section 2.1). One
# text gives each SM what all have together:

# %%
claims.check(
    "C263", f"{sram / 1024:.0f} KiB per SM; {sms * sram / 2**20:.2f} MiB is the sum of all"
)

# %% [markdown]
# A kernel reads from HBM, computes on the chip, and writes to HBM. What two kernels share must
# travel there and back. *Fusing* them saves that trip. Which stages does FlashAttention fuse?

# %%
stages = ["q, k, v = x W", "q kᵀ", "softmax", "· v", "· W_O"]
ways = {
    "standard": [[0], [1], [2], [3], [4]],
    "as one text has it": [[0], [1, 2, 3, 4]],
    "FlashAttention": [[0], [1, 2, 3], [4]],
}
axes = plots.launches(stages, ways)
plots.show(axes, "Three stages become one kernel; both projections stay outside.")

# %%
claims.check("C348", why="the product with v is fused; W_O mixes heads, and each program has one")

# %% [markdown] covers="L5 L7 L8 L17 P4"
# ## Count the traffic
#
# Standard attention writes S, reads it, writes P, reads it. Tiled attention reads k and v once
# per tile of queries, and never writes a score:
#
# $$ \text{standard} = (4n^2 + 4nD)\,b, \qquad
#    \text{tiled} = \Bigl(2nD + 2nD\,\Bigl\lceil \frac{n}{B_q} \Bigr\rceil\Bigr)\,b
#    \quad\text{bytes} $$


# %%
def standard_bytes(n, width, bytes_each=4):
    return (4 * n * n + 4 * n * width) * bytes_each


def tiled_bytes(n, width, block_q, bytes_each=4):
    return (2 * n * width + 2 * n * width * -(-n // block_q)) * bytes_each


# %%
cost = full.cost(1, 1, 4096, 4096, 64)
assert standard_bytes(4096, 64) == cost.bytes_read + cost.bytes_written
cost = flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128)
lse_bytes = 4096 * 4  # one more number per row
assert tiled_bytes(4096, 64, 128) == cost.bytes_read + cost.bytes_written - lse_bytes

# %% [markdown]
# Neither formula contains $B_k$. Why? And by what factor does tiling win at $n = 4096$, $D = 64$,
# $B_q = 128$? Guess 2, 4 or 16.

# %%
for name, moved in (
    ("standard", standard_bytes(4096, 64)),
    ("tiled, 128 queries", tiled_bytes(4096, 64, 128)),
    ("tiled, 32 queries", tiled_bytes(4096, 64, 32)),
):
    print(f"{name:<19} {moved / 1e6:6.1f} MB, {standard_bytes(4096, 64) / moved:.1f} × less")

# %% [markdown]
# $B_k$ only says in which portions k and v arrive. $B_q$ says how often. Now the printed figure
# for $n = 2048$: which passes does it count?

# %%
six_passes = (6 * 2048**2 + 4 * 2048 * 64) * 4 / 1e6
why = f"the four passes that are listed; {six_passes:.0f} MB needs six, with two more softmax reads"
claims.check("C265", f"{standard_bytes(2048, 64) / 1e6:.0f} MB", why)

# %% [markdown]
# Slide the tile and the head width. At some width the curves cross, and tiling moves *more* than
# the standard way. Find the rule: how does that width depend on $B_q$?

# %%
widths = np.arange(16, 1025, 8)
lines = {"standard": 1.0 * widths, "tiled": 1.0 * widths}
words = {"x_label": "head width D", "y_label": "MB moved"}
live_traffic = plots.LiveCurves(widths, lines, **words)


# %%
def draw_traffic(n, block_q, bytes_each):
    standard = standard_bytes(n, widths, bytes_each) / 1e6
    tiled = tiled_bytes(n, widths, block_q, bytes_each) / 1e6
    title = f"n = {n}, tiles of {block_q} queries, {bytes_each} bytes a number"
    live_traffic.update({"standard": standard, "tiled": tiled}, title)
    worse = widths[tiled > standard]
    crossing = f"above width {worse[0] - 8} it moves more" if len(worse) else "it always wins here"
    gain = standard[6] / tiled[6]
    return f"{title}: at width 64 tiling moves {gain:.1f} times less; {crossing}."


# %%
tile_heights = widgets.choice([16, 32, 64, 128, 256], 128)
sliders = {"n": widgets.choice([1024, 4096, 16384], 4096), "bytes_each": [2, 4]}
widgets.explore(draw_traffic, live_traffic.figure, block_q=tile_heights, **sliders)

# %% [markdown]
# The rule, for long texts: $4n^2 = 2n^2 D / B_q$, so the crossing lies at $D = 2 B_q$. Whoever
# wants wide heads needs tall tiles. But a tile must fit on the chip:
#
# $$ (4\,B\,D + B^2)\,b \;\le\; 192\ \text{KiB} \qquad \text{for } B_q = B_k = B $$
#
# for the tiles of q, k, v, of the output, and the scores.


# %%
def on_chip(block, width, bytes_each):
    names = ("q", "k", "v", "out")
    parts = {name: block * width * bytes_each for name in names}
    return parts | {"scores": block * block * bytes_each}


# %%
live_chip = plots.LiveBars(on_chip(128, 64, 2), unit="bytes")


# %%
def draw_chip(block, width, bytes_each):
    parts = on_chip(block, width, bytes_each)
    live_chip.update(parts, f"tiles of {block} × {block}, width {width}")
    needed = sum(parts.values())
    fits = "they fit" if needed <= sram else "they do NOT fit"
    return f"Together {needed / 1024:.0f} KiB of {sram / 1024:.0f}: {fits}."


# %%
sizes = widgets.choice([16, 32, 64, 128, 256], 128)
width_choice = widgets.choice([32, 64, 128, 256, 768], 64)
widgets.explore(draw_chip, live_chip.figure, block=sizes, width=width_choice, bytes_each=[2, 4])

# %% [markdown]
# A chapter prints tiles of 128 and takes $D = 768$, the width of all twelve heads at once. Set
# the sliders to that. Then see what it would mean for the traffic:

# %%
needed = sum(on_chip(128, 768, 4).values()) / 1024
moved = tiled_bytes(4096, 768, 128) / 1e6
why = (
    f"tiles of 128 fit at width 64 in float16. At width 768 they would even move more: "
    f"{moved:.0f} MB, where standard attention moves {standard_bytes(4096, 768) / 1e6:.0f} MB"
)
claims.check("C266", f"{needed:.0f} KiB of 192", why)

# %% [markdown]
# Take the largest tile that fits, for each width. Wide heads get hit twice: each key is larger,
# *and* fewer queries share it. So the traffic grows with $D^2$. Where does it cross the standard
# line? Real heads have 64 to 128.


# %%
def largest_block(width, bytes_each):
    room = sram // bytes_each
    return math.isqrt(4 * width * width + room) - 2 * width  # B² + 4BD = room


# %%
narrow = np.arange(16, 321, 8)
moved = {"standard": standard_bytes(4096, narrow, 2) / 1e6}
blocks = [largest_block(int(width), 2) for width in narrow]
moved["tiled, largest tile"] = np.array(
    [tiled_bytes(4096, w, b, 2) / 1e6 for w, b in zip(narrow, blocks, strict=True)]
)
crossing = narrow[moved["tiled, largest tile"] > moved["standard"]][0]
axes = plots.curves(narrow, moved, x_label="head width D", y_label="MB moved")
plots.show(axes, f"float16, n = 4096: tiling wins up to a head width of about {crossing}.")

# %% [markdown]
# That is the paper's theorem: about $n^2 D^2 / M$ bytes for an SRAM of size $M$ (section 3.2).
# A real GPU softens the edge, since tiles of k and v are found again in its L2 cache.
# **Exercise 09.1** is this calculation, exactly.
#
# Prediction beside measurement: what the kernels' `cost` says, and what the trace counted, access
# by access. No cache helps in this count.

# %% tags=["nbval-ignore-output"]
if traced:
    fused = trace.record(flash_kernel.attention, *tensors, **tile)
    unfused = trace.record(full_kernel.attention, *tensors)
    costs = (full_kernel.cost(1, 1, 256, 256, 32), flash_kernel.cost(1, 1, 256, 256, 32, **tile))
    counted = [seen.bytes_loaded() + seen.bytes_stored() for seen in (unfused, fused)]
    for name, cost, number in zip(("full", "flash"), costs, counted, strict=True):
        predicted = cost.bytes_read + cost.bytes_written
        print(f"{name:<6} predicted {predicted:>9,} bytes, counted {number:>9,}")
        assert number == predicted
    print("difference:", counted[0] - counted[1], "= 4 n² numbers - one lse per query")
    assert counted[0] - counted[1] == (4 * 256**2 - 256) * 4

# %% [markdown] covers="L12"
# ## Does the matrix fit in a cache?
#
# The A100 has 40 MB of L2 cache between HBM and the SMs. A text explains its timings with it: the
# matrix fits at $n = 1024$ and no longer at 2048. Compute both, for one head and for twelve.

# %%
for length in (1024, 2048):
    one_head = length**2 * 4 / 1e6
    print(f"n = {length}: one head {one_head:5.1f} MB, 12 heads {12 * one_head:6.1f} MB, L2 40 MB")

# %%
claims.check("C283")
claims.check("C284")

# %% [markdown] covers="A14 L11 L12 L16 L17 P4"
# ## Why it is faster with the same arithmetic
#
# Tiling saves no product: forward it multiplies exactly as much. Time is the larger of computing
# and moving. So compare the *intensity*, FLOPs per byte, with what the device can feed:

# %%
h100 = DEVICES["H100 80 GB"]
print(f"H100 is busy above {h100.flops_per_second / h100.bytes_per_second:.0f} FLOPs per byte")
for name, cost in (
    ("standard", full.cost(1, 1, 4096, 4096, 64, dtype_bytes=2)),
    ("tiled", flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128, dtype_bytes=2)),
):
    print(f"{name:<9} {cost.flops / 1e9:.1f} GFLOP, {cost.intensity:5.1f} FLOPs per byte")

# %% [markdown]
# There is a third limit, which one text calls negligible. Each score needs an exponential, and the
# tensor cores, which multiply matrices, have none. An H100 does 989 TFLOP/s of products and 3.9
# TFLOP/s of special functions such as exp (Shah et al. 2024, arXiv:2407.08608).

# %%
pairs = 4096**2
for head_width in (64, 128):
    products = 4 * pairs * head_width / h100.flops_per_second
    exponentials = pairs / 3.9e12
    share = exponentials / products
    print(f"width {head_width:>3}: exponentials take {share:.0%} of the products' time")

# %%
slower = h100.flops_per_second / 3.9e12
why = (
    f"{1 / (4 * 64):.2%} of the operations, by units {slower:.0f} times slower than tensor cores; "
    "unfused, its traffic comes on top"
)
found = f"{slower / (4 * 64):.1f} of the products' time at head width 64, on an H100"
claims.check("C440", found, why)

# %% [markdown]
# The tiled intensity is nearly $B_q$, whatever the width: wider heads multiply more and read more.
# Which limit binds? Each bar is a lower bound of the time on an H100, with float16 inputs
# and the scores in float32, as our kernels have them.

# %%
limits = ("products", "exponentials", "moving, tiled", "moving, standard")
live_bounds = plots.LiveBars(dict.fromkeys(limits, 1.0), unit="s")


def moving(cost):
    return (cost.bytes_read + cost.bytes_written) / h100.bytes_per_second


# %%
def draw_bounds(n, heads, width):
    standard = full.cost(1, heads, n, n, width, dtype_bytes=2)
    tiled = flash.cost(1, heads, n, n, width, block_q=128, block_k=64, dtype_bytes=2)
    products, exponentials = standard.flops / h100.flops_per_second, heads * n * n / 3.9e12
    bounds = (products, exponentials, moving(tiled), moving(standard))
    live_bounds.update(dict(zip(limits, bounds, strict=True)), f"n = {n}, width {width}")
    kinds, either = ("products", "exponentials", "moving"), (moving(tiled), moving(standard))
    binding = [kinds[np.argmax((products, exponentials, moved))] for moved in either]
    said = f"tiled attention is bound by {binding[0]}, standard by {binding[1]}"
    return f"{heads} heads of width {width}, n = {n}: {said}."


# %%
head_widths = widgets.choice([32, 64, 128, 256], 64)
sliders = {"n": widgets.choice([1024, 4096, 16384], 4096), "heads": (1, 64, 1, 16)}
widgets.explore(draw_bounds, live_bounds.figure, width=head_widths, **sliders)

# %% [markdown]
# Counted like this, even tiled attention waits for memory, at every width. On a real GPU the L2
# cache answers most of the repeated reads of k and v. Then products and exponentials bind.
#
# And the clock? The next cell measures on a GPU if there is one. If not, it shows the latest
# recorded run, or says that there is none. A text promises a gain of 2 to 4, twice.

# %%
setting = bench.SHOWN
recorded = bench.latest("gpu", mechanisms=["full", "flash"], **setting)
gains = records.speedups(recorded, "full", "flash", **setting)
found = records.speedup_words(gains)

# %% tags=["nbval-ignore-output"]
bench.show_gpu("flash")
claims.check("C052", found, "recorded: our standard kernel over our flash kernel; it depends on n")

# %% [markdown]
# The recorded run as shares of the GPU's peak, counting only what must travel at least. Which of
# the two keeps the memory busy, and which the tensor cores?

# %% tags=["nbval-ignore-output"]
device, heads = records.device_of(recorded) if recorded else None, setting["heads"]
if device is None:
    print("no run on a GPU whose peaks are listed is recorded")
for name, length in itertools.product(("full", "flash"), gains if device else ()):
    work = full.cost(1, heads, length, length, setting["width"], dtype_bytes=2)
    moved = work.bytes_read + work.bytes_written
    if name == "flash":  # q, k, v and out, once each
        moved = 4 * heads * length * setting["width"] * 2
    took = records.times(recorded, name, **setting)[length]
    rates = moved / took / device.bytes_per_second, work.flops / took / device.peak("float16")
    print(
        f"{name:<6} n = {length:>5}: memory {rates[0]:4.0%} of its peak, products {rates[1]:4.0%}"
    )

# %% [markdown]
# Printed times can be tested without a GPU. A layer of width 768 takes $4n^2 \cdot 768$ FLOPs. What
# do the printed milliseconds imply? And by what factor should they grow per doubling?

# %%
printed = {1024: 3, 2048: 3.5, 4096: 25, 8192: 55, 16384: 220}
before = None
for length, milliseconds in printed.items():
    rate = 4 * length**2 * 768 / (milliseconds / 1e3) / 1e12
    growth = f"grows {milliseconds / before:.1f}-fold" if before else ""
    print(f"n = {length:>5}: {milliseconds:>5} ms, {rate:4.1f} TFLOP/s  {growth}")
    before = milliseconds

# %%
ideal = {n: 4 * n**2 * 768 / (0.4 * a100.flops_per_second) * 1e3 for n in printed}
axes = plots.growth(
    list(printed),
    {"printed": [ms / 1e3 for ms in printed.values()]},
    {"40 % of an A100's peak": [ms / 1e3 for ms in ideal.values()]},
)
ratios = [printed[n] / ideal[n] for n in printed]
words = f"{min(ratios):.0f} to {max(ratios):.0f} times above the line"
axes.legend(("40 % of an A100's peak", "printed"), loc="upper left")
plots.show(axes, f"The printed times lie {words}, and do not run along it.")

# %%
why = "no GPU of ours ran this layer; per doubling of n the time should grow fourfold"
for claim, ratio in zip(("C273", "C274", "C275", "C276", "C277"), ratios, strict=True):
    claims.check(claim, f"{ratio:.0f} times what 40 % of the peak takes", why)

# %% [markdown]
# Their quotients hold, as divisions. They say nothing about a GPU:

# %%
standard_ms = {1024: 8, 2048: 12, 4096: 98, 8192: 190, 16384: 1500}
for claim, length in zip(("C278", "C279", "C280", "C281", "C282"), printed, strict=True):
    quotient = standard_ms[length] / printed[length]
    assert abs(quotient - claims.recompute(claim)) < 1e-9
    print(
        f"{claim}: {standard_ms[length]:>4} / {printed[length]:>3} = {quotient:.1f} at n = {length}"
    )

# %% [markdown]
# Does it pay on your CPU too? NumPy writes each array to memory as well, and a small tile stays
# in the cache. Predict, then run.

# %% tags=["nbval-ignore-output"]
q4, k4, v4 = random_qkv(4096)
for name, attend, knobs in (
    ("full", full.attention, {}),
    ("tiles of 256", flash.attention, {"block_q": 256, "block_k": 256}),
    ("tiles of 16", flash.attention, {"block_q": 16, "block_k": 256}),
):
    print(f"{name:<13} {measure.seconds(attend, q4, k4, v4, repeats=3, **knobs)}")

# %% [markdown] covers="L3 L15 L18"
# The products take most of a CPU's time. So tiles can gain little of it, and small ones lose some
# to Python's loop. What they save everywhere is memory.
#
# ## One number per row
#
# After the loop, maximum and sum melt into one number per query: the *log-sum-exp*. With it any
# weight can be made again, alone, without its row:
#
# $$ \mathrm{lse}_i = m_i + \log \ell_i = \log \sum_j e^{s_{ij}}, \qquad
#    p_{ij} = e^{s_{ij} - \mathrm{lse}_i} $$

# %%
_, lse = flash.forward(q, k, v, block_q=64, block_k=64)
print("out", out.shape, " lse", lse.shape)
i, j = 700, 33
score = q[i] @ k[j] / math.sqrt(width)
np.testing.assert_allclose(np.exp(score - lse[i]), P[i, j], rtol=1e-4)

# %% [markdown]
# It also joins what was computed apart, on two halves of the keys or on two machines. Each part
# weighs as much as its lse says:
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
# Slide the cut. Dashed and dotted: each part's own softmax. Solid: what is left of it in the
# whole.

# %%
names = ("together", "first part alone", "second part alone")
lines = {name: np.zeros(32) for name in names}
live_merge = plots.LiveCurves(np.arange(32), lines, x_label="key j", y_label="weight", high=0.6)


# %%
def draw_merge(cut, order):
    scores = orders[order]
    alone = [softmax(part[None])[0] for part in (scores[:cut], scores[cut:])]
    first, second = np.append(alone[0], 0 * scores[cut:]), np.append(0 * scores[:cut], alone[1])
    total = np.exp(scores).sum()
    weight = np.exp(scores[:cut]).sum() / total
    whole = weight * first + (1 - weight) * second
    live_merge.update(dict(zip(names, (whole, first, second), strict=True)))
    return f"Cut at key {cut}: the first part weighs {weight:.0%}, the second {1 - weight:.0%}."


# %%
widgets.explore(draw_merge, live_merge.figure, cut=(1, 31, 1, 12), order=list(orders))

# %% [markdown] covers="A5 A6 L4 Y4"
# **Exercise 09.4** asks for `merge`, with parts that see nothing. Chapter 12 splits long caches
# with it, chapter 16 whole machines.
#
# ## Backward: make it again
#
# The gradients need the weights. With $dO$ the gradient of the output:
#
# $$ dV = P^\top dO, \quad dP = dO\, V^\top, \quad
#    dS = P \odot (dP - \delta), \quad dQ = \tfrac{1}{\sqrt D} dS\,K, \quad
#    dK = \tfrac{1}{\sqrt D} dS^\top Q $$
#
# $P$, $dP$, $dS$ are three $n \times n$ arrays. $\delta$ is a row's sum of $P \odot dP$.

# %%
grad_out = random_qkv(n, seed=7)[0][0, 0]
dP = grad_out @ v.T
delta = (P * dP).sum(axis=-1)
np.testing.assert_allclose(delta, (out * grad_out).sum(axis=-1), atol=1e-4)
print("delta from n × n arrays equals rowsum(O · dO), from n × D arrays")

# %% [markdown]
# That identity is the key. $\delta$ was the last thing that needed a whole row. Now every entry
# of $dS$ follows from q, k, v, $dO$, lse and $\delta$ of its own row and column: tile by tile.


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
for theirs, mine, ours in zip(
    expected, gradients(grad_out, q, k, v, out, lse), library, strict=True
):
    np.testing.assert_allclose(mine, theirs, atol=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
print("dq, dk, dv: as from whole matrices")

# %% [markdown]
# What has to live from forward to backward, besides q, k and v? The dark bars are $n \times n$.

# %%
square, row_bytes = n * n * 4, n * 64 * 4
events = ["forward", "other layers", "dV, dP", "dS", "dQ, dK"]
figure, (upper, lower) = plots.figure(2, 1, height=4.4)
stored = {"P": (0, 3, square), "dP": (2, 3, square), "dS": (3, 4, square), "O": (0, 2, row_bytes)}
plots.lifetimes(stored, events, upper, title="standard: P waits", large=square)
again = {"lse": (0, 4, n * 4), "O": (0, 2, row_bytes), "delta": (2, 4, n * 4)}
again["tiles of P, dP, dS"] = (2, 4, 3 * 64 * 64 * 4)
plots.lifetimes(again, events, lower, title="tiled: P is made again", large=square)
plots.show(
    figure, "Standard keeps P through all other layers; tiled keeps lse, 1024 times smaller."
)

# %% [markdown]
# Count the n × n arrays that exist at once in the backward pass. Predict: how many for the standard
# one, how many for the tiled one?

# %%
knobs = {"block_q": 64, "block_k": 64}
peaks = {
    "standard": measure.peak_bytes(full.backward, grad_out, q, k, v),
    "tiled": measure.peak_bytes(flash.backward, grad_out, q, k, v, out=out, lse=lse, **knobs),
}
outputs = 3 * row_bytes  # dq, dk, dv
for name, peak in peaks.items():
    print(f"{name:<9} {(peak - outputs) / square:.1f} n × n arrays beyond the gradients")

# %% [markdown]
# The price: the scores are computed once more. `count_flops` counts what NumPy multiplies. How
# many products does a training step take each way?


# %%
def stored_backward(grad_out, q, k, v, p, delta):
    """The gradients when the weights were kept."""
    dv = p.T @ grad_out
    ds = p * (grad_out @ v.T - delta[:, None]) / 8
    return ds @ k, ds.T @ q, dv


# %%
one_product = 2 * n * n * 64
forward = measure.count_flops(full.attention, q, k, v) // one_product
kept = measure.count_flops(stored_backward, grad_out, q, k, v, P, delta) // one_product
count = measure.count_flops(flash.backward, grad_out, q, k, v, out=out, lse=lse, **knobs)
remade = round(count / one_product)
print(f"weights kept: {forward} + {kept} products; made again: {forward} + {remade}")

# %%
claims.check("C034", f"{forward + remade} products instead of {forward + kept}: forward no more")

# %% [markdown]
# One product in six or seven. It is cheap because moving P would cost more than making it. Do not
# mix it up with *checkpointing* a whole layer (chapter 11): there the whole forward pass runs
# again, 4/3 of the step. And now the sentence from the beginning:

# %%
claims.check(
    "C183", f"{peaks['tiled'] / square:.1f} of one n × n array suffices, gradients included"
)
claims.check("C316", f"{16384 * 4 * 144 / 1e6:.1f} MB of lse for 144 heads at n = 16384")

# %% [markdown] covers="L20"
# **Exercise 09.6** hides two bugs in such a backward pass.
#
# ## The batch that fits
#
# In training each layer keeps q, k, v and O, and standard attention P as well. How many texts fit
# into one GPU, if attention had it to itself? Predict for $n = 8192$: twice as many, ten times, a
# hundred?


# %%
def kept_bytes(n, layers, heads, bytes_each, standard):
    rows = 4 * n * 64 * bytes_each  # q, k, v and O of one head
    own = n * n * bytes_each if standard else n * 4  # P, or lse in float32
    return layers * heads * (rows + own)


# %%
for length in (1024, 8192, 32768):
    fit = [a100.memory_bytes // kept_bytes(length, 12, 12, 2, way) for way in (True, False)]
    print(f"n = {length:>5}: {fit[0]:>3} texts with P, {fit[1]:>3} with lse, in 40 GB, float16")

# %%
kept = ("P is kept", "lse is kept")
live_batch = plots.LiveBars(dict.fromkeys(kept, 1), unit="texts")


# %%
def draw_batch(n, layers, heads, device):
    memory = DEVICES[device].memory_bytes
    fits = [memory // kept_bytes(n, layers, heads, 2, way) for way in (True, False)]
    live_batch.update(dict(zip(kept, fits, strict=True)), f"{device}, n = {n}")
    return f"n = {n} on {device}: {fits[0]} texts if P is kept, {fits[1]} if only lse is kept."


# %%
lengths = widgets.choice([2**power for power in range(9, 17)], 8192)
gpus = widgets.choice({name.removeprefix("RTX "): name for name in DEVICES}, "A100 40 GB")
sliders = {"layers": (1, 96, 1, 12), "heads": (1, 96, 1, 12), "device": gpus}
widgets.explore(draw_batch, live_batch.figure, n=lengths, **sliders)

# %% [markdown]
# The factor depends on $n / D$ and on what else the GPU must hold. Without those a printed factor
# cannot be tested:

# %%
factors = [kept_bytes(n, 1, 1, 2, True) / kept_bytes(n, 1, 1, 2, False) for n in (512, 1024, 8192)]
words = "{:.0f}, {:.0f} and {:.0f} times at n = 512, 1024, 8192".format(*factors)
claims.check("C449", words)
claims.check("C450")

# %% [markdown] covers="L13"
# ## What FlashAttention-2 changed
#
# Everything above is the second version (Dao 2023, arXiv:2307.08691). The first one was as exact.
# In its paper the loops stand the other way round: keys outside, queries inside. So the output of
# every query goes to HBM and back for each tile of keys.

# %%
n_tiles = 4096 // 128
rows = 4096 * 64 * 2  # q, k, v or out in float16
first_version = 2 * rows + n_tiles * 3 * rows  # k, v once; per key tile: q in, out in, out out
second_version = 2 * rows + n_tiles * 2 * rows  # q, out once; per query tile: k in, v in
print(f"first {first_version / 1e6:.1f} MB, second {second_version / 1e6:.1f} MB per head")

# %% [markdown]
# Compare the two walks. Which one has finished queries early on?

# %%
live_order = plots.LiveHeatmap(np.zeros((8, 8)), title=" ", **said)
versions = {"queries outside": False, "keys outside": True}


# %%
def draw_order(step, version):
    grid, tiles = np.zeros((8, 8)), walk(8, False, keys_first=versions[version])
    for tile in tiles[:step]:
        grid[tile] = 1
    grid[tiles[step]] = 2
    live_order.update(grid, f"{version}: version {1 if versions[version] else 2}")
    finished = int((grid[:, -1] == 1).sum())
    return f"With {version}, step {step}: {finished} of 8 tiles of queries are finished."


# %%
widgets.explore(draw_order, live_order.figure, step=(0, 63, 1, 19), version=list(versions))

# %% [markdown]
# A query tile that nobody else touches is a job of its own. So version 2 starts one program per
# *query tile*, version 1 one per *head*. An A100 has 108 SMs. With long texts the batch is small:
# who keeps them busy?

# %%
live_busy = plots.LiveBars(
    {"one program a head": 1, "one program a query tile": 1}, unit="SMs", high=sms
)


# %%
def draw_busy(batch, heads, n):
    programs = (batch * heads, batch * heads * -(-n // 128))
    busy = [min(sms, number) for number in programs]
    live_busy.update(dict(enumerate(busy)), f"batch {batch}, {heads} heads, n = {n}")
    return f"{programs[0]} programs keep {busy[0]} SMs busy, {programs[1]} keep {busy[1]}."


# %%
lengths = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 8192)
widgets.explore(draw_busy, live_busy.figure, batch=(1, 16, 1, 1), heads=(1, 32, 1, 12), n=lengths)

# %% [markdown]
# Two more changes. The output is divided once, at the end, and not after every tile: work that no
# tensor core can do. And inside a program the *warps*, groups of 32 threads, split the queries
# instead of the keys, so that they need not exchange results.

# %%
divisions = {"version 1": n_tiles * 4096 * 64, "version 2": 4096 * 64}
for name, number in divisions.items():
    print(f"{name}: {number / 1e6:4.1f} million divisions per head at n = 4096")

# %%
claims.check("C289")

# %% [markdown] covers="L19 P19 S2 W12"
# ## In the frameworks
#
# You need not write it. PyTorch has it behind `scaled_dot_product_attention`, xFormers as
# `memory_efficient_attention`. Each kind of chip needs a kernel of its own; where there is none,
# they fall back to plain attention, and the n × n matrix is there again. Swap it in and compare
# before and after: the difference must be rounding.

# %% tags=["nbval-ignore-output"]
try:
    import torch.nn.functional as F

    tensors = [torch.from_numpy(array) for array in random_qkv(512, heads=4)]
    theirs = F.scaled_dot_product_attention(*tensors, is_causal=True).numpy()
    ours = flash.attention(*random_qkv(512, heads=4), block_q=64, block_k=64, causal=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    print("torch's and ours agree to rounding")
except ImportError as reason:
    print(reason)

# %% [markdown]
# ## What you take with you
#
# - The matrix was scaffolding. Only the output was asked for.
# - Cut queries and nothing changes. Cut keys and you must carry maximum and sum.
# - A rescaled sum is exact: the same real number, other roundings.
# - Tiles win by bytes, not by FLOPs, as long as heads are narrower than about twice the tile.
# - One number per row is enough to make any weight again, to join parts, and to go backward.
#
# Now open `exercises/09_flash.ipynb`. Six exercises and V2; three graded by memory or traffic.
