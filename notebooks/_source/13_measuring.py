# %% [markdown]
# # 13 · Measure it: time, memory, error
#
# Every chapter before this one predicted first. Now the machine speaks. You will see how a
# stopwatch lies, put all mechanisms of the course on one picture, find the length from which each
# of them pays, and hold printed speed tables against all that.
#
# **Run a cell with Shift + Enter.** Timings are your machine's, so your pictures differ from ours.
#
# <!-- summary: how to time and weigh a call, and how not to; every mechanism on one plot with its
# prediction and the roofline; where each one overtakes; a form to try your own sizes. -->

# %% role="setup"
import functools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from attncourse import MECHANISMS, bench, claims, cost, masks, measure, plots, widgets
from attncourse.bench import records
from attncourse.inputs import random_qkv
from attncourse.reference import bigbird, full, linear, strided, window
from attncourse.units import format_bytes, format_seconds

# %% [markdown] covers="P8"
# ## A time is not a number
#
# The same function, the same input, forty calls in a row. How far apart will the fastest and the
# slowest be: 1 %, 10 %, or twice?

# %%
q, k, v = random_qkv(1024)
call = functools.partial(window.attention, q, k, v, window=128)
single = [measure.seconds(call, repeats=1, warmup=0).median for _ in range(40)]
axes = plots.distribution({"one call": single}, unit="s")
plots.show(axes, "Forty calls of one function, a dot each; a box from quartile to quartile.")

# %% [markdown]
# So a time is a distribution. This course states its **median** and its **quartiles**: half of the
# calls lie between them, in the box.

# %% tags=["nbval-ignore-output"]
print(f"the slowest of the forty took {max(single) / min(single):.1f} times as long as the fastest")
print(measure.seconds(call, repeats=15))
print(measure.machine())

# %% [markdown]
# Why the median, and not the mean? Other programs share the machine, and they only ever make a
# call slower. Below, twenty calls of about 10 ms. Some are disturbed and take eight times as long.
# How many does it take to move the median?

# %%
quiet = np.random.default_rng(0).uniform(9.5e-3, 10.5e-3, 20)
statistics = {"mean": np.mean, "median": np.median, "fastest": np.min}
live_statistics = plots.LiveBars(dict.fromkeys(statistics, 0.0), unit="s", high=0.06)


def draw_statistics(disturbed):
    calls = np.where(np.arange(20) < disturbed, 8 * quiet, quiet)
    found = {name: function(calls) for name, function in statistics.items()}
    live_statistics.update(found)
    words = ", ".join(f"{name} {format_seconds(x)}" for name, x in found.items())
    return f"{disturbed} of 20 calls disturbed: {words}."


widgets.explore(draw_statistics, live_statistics.figure, disturbed=(0, 20, 1, 3))

# %% [markdown] covers="O6 O8 P4 P8"
# The mean moves with the first one, the median holds until half of the calls are disturbed. The
# fastest call holds longest, and hides that there was anything to hide. **Exercise 13.1** builds
# the summary that this course uses.
#
# ## Three ways to stop the wrong thing
#
# **The first call** pays for what later ones find ready: compiled code, touched pages, a table.
# Here is a table that is made once for each length.


# %%
@functools.cache
def table(n):
    return bigbird.mask(n, n, block=64)


first = measure.seconds(table, 2048, repeats=1, warmup=0).median
later = measure.seconds(table, 2048, repeats=5).median
axes = plots.bars({"the first call": first, "the next": later}, unit="s")
plots.show(axes, "The first call makes the table. The next only looks it up.")

# %% [markdown]
# **A queue.** A GPU takes work and returns at once. A thread does the same, so it can play the GPU
# here. Stop the clock when the call returns, and you have timed the queue. What must be added to
# time the work?

# %%
q, k, v = random_qkv(2048)
gpu, queued, finished = ThreadPoolExecutor(1), [], []
for _ in range(5):
    start = time.perf_counter()
    result = gpu.submit(full.attention, q, k, v)
    queued.append(time.perf_counter() - start)
    result.result()  # wait for it: on a GPU, torch.cuda.synchronize()
    finished.append(time.perf_counter() - start)
clocks = {"when the call returns": np.median(queued), "when the work is done": np.median(finished)}
plots.show(plots.bars(clocks, unit="s"), "What the clock says when the call returns, and later.")

# %% [markdown]
# `measure.seconds` warms up first, and with tensors on a GPU it reads the GPU's own clock before
# and after the work.
#
# **A warm cache.** Repeat a call, and its input is still near the processor. One new token against
# a cache of keys is such a case: little arithmetic, many bytes. `flush=True` writes 256 MiB in
# between on a GPU, 64 MiB here.

# %%
one_query = random_qkv(1, 8192)
decode = functools.partial(full.attention, *one_query)
ways = {
    "input still in the caches": measure.seconds(decode, repeats=7),
    "caches flushed": measure.seconds(decode, repeats=7, flush=True),
}
axes = plots.bars(ways, unit="s", title="one query, 8192 keys")
plots.show(axes, "The time of one query against 8192 keys, with warm caches and with flushed ones.")

# %% [markdown] covers="P1"
# Which of the two is right? The one that your program meets. Say which you took.
#
# ## Whose bytes?
#
# Peak memory has the same traps. It is the most that is held *at once*: not the result, and not
# the sum of all that was ever made.

# %%
q, k, v = random_qkv(1024)
out = full.attention(q, k, v)
held = {
    "result": out.nbytes,
    "peak, full": measure.peak_bytes(full.attention, q, k, v),
    "peak, window": measure.peak_bytes(window.attention, q, k, v, window=128),
}
for what, n_bytes in held.items():  # Python's own objects come and go below the first decimal
    print(f"{what:<13} {n_bytes / 2**20:.1f} MiB")

# %% [markdown]
# NumPy tells Python's `tracemalloc` of each array. Torch does not. Predict what `tracemalloc`
# reports for the same attention in torch: 8 MiB, or nothing? (To import torch takes some seconds.)

# %%
import torch

tensors = [torch.from_numpy(array) for array in (q, k, v)]


def unfused(q, k, v):
    return torch.softmax(q @ k.mT / 8, dim=-1) @ v


unfused(*tensors)
with measure.watch() as seen:
    unfused(*tensors)
held = measure.peak_bytes(unfused, *tensors)
assert seen.peak_bytes < held / 100
print(f"torch held {format_bytes(held)}, tracemalloc saw less than a hundredth of it")

# %% [markdown]
# So a memory figure belongs to a meter. Three of them: Python's own, torch's allocator, and the
# pages that the system gave to the process, which no library can hide.

# %%
tensors = [torch.from_numpy(array) for array in random_qkv(2048)]
meters = {
    "tracemalloc": seen.peak_bytes,
    "torch's allocator": measure.peak_bytes(unfused, *tensors),
}
try:
    meters["the process"] = measure.resident_peak_bytes(unfused, *tensors)
except NotImplementedError as reason:  # not every system tells
    print(reason)
axes = plots.bars(meters, unit="bytes", title="unfused attention in torch, 2048 tokens")
plots.show(axes, "What three meters say of one call: tracemalloc sees next to nothing.")

# %% [markdown] covers="P1 P6 P14 P19 W4"
# **Exercise 13.2** hands you a benchmark that falls into three traps at once.
#
# ## Everything at once
#
# Now all mechanisms of the catalogue, on this machine: time, peak memory, and how far the output
# is from full attention's. Before you run it: which is fastest at 2048 tokens? Which holds least?
# Which are exact?

# %%
lengths = [256, 512, 1024, 2048]
chosen = ["full", "flash", "window", "strided", "linear", "linformer"]  # for close-ups below
always = {"limit": 0.25, "limit_from": 1024, "always": [*chosen, "performer"]}
record = bench.here(lengths, repeats=3, expect_seconds=10, **always)
assert record["complete"], "it was stopped: run this cell again before you go on"
limits = records.device_of(record) or cost.this_cpu()
rows = {(row["mechanism"], row["n"]): row for row in records.rows(record) if "seconds" in row}

# %% [markdown]
# A mechanism that should need over a quarter of a second at 1024 tokens, or at 2048, is skipped
# there: that is the rule, and the picture says so. A dot below is measured. A bar is predicted: the
# least time that this device needs for the mechanism's FLOPs and bytes, and the peak of its `cost`.
# The picture starts at 512 tokens, where all are measured. Move up to 2048.

# %%
live_all = plots.LiveComparison(record, limits, 512)


def exact_at(n):
    return [stem for (stem, length), row in rows.items() if length == n and row["error"] < 1e-5]


def draw_all(n):
    live_all.update(n)
    scores, measured = format_bytes(4 * n * n), sum(length == n for _, length in rows)
    exact, skipped = len(exact_at(n)), len(live_all.stems) - measured
    return (
        f"{n} tokens: the scores alone take {scores}. "
        f"Measured: {measured}, of which exact: {exact}; skipped: {skipped}."
    )


# %%
widgets.explore(draw_all, live_all.figure, n=widgets.choice(lengths, 512))

# %% [markdown]
# Three things to read from it. The memory column follows its prediction. The time column lies to
# the right of its own, unless the machine was busy when its limits were measured: nobody beats
# them. And the error column falls into two worlds.

# %%
for (stem, n), row in rows.items():
    if n == 2048 and row["implementation"] == "NumPy":
        assert 0.8 < row["peak_bytes"] / row["predicted"]["peak_bytes"] < 1.25, stem
print("measured peaks at 2048 tokens are within a quarter of the predicted ones")
print(f"exact at 512 tokens, {len(exact_at(512))} of them:", *exact_at(512))
print("at 256 tokens also:", *sorted(set(exact_at(256)) - set(exact_at(512))))

# %% [markdown] covers="P2"
# This is the **drop-in test**: swap the attention, keep the input, compare the output. The first
# line passes it at any length, the second where the text is short: BigBird's blocks then cover
# everything, and Linformer's rank of 256 is the whole sequence. All others are a different
# function.
#
# ## Memory has a slope
#
# On logarithmic axes a power of $n$ is a line, and its slope is the exponent. Measure two lengths,
# one twice the other, and the slope is $\log_2$ of the ratio.


# %%
def slopes(stem, n=65536):
    mechanism = MECHANISMS[stem]
    small, large = (
        mechanism.reference.cost(1, 1, size, size, 64, **mechanism.values) for size in (n, 2 * n)
    )
    return np.log2(large.peak_bytes / small.peak_bytes), np.log2(large.flops / small.flops)


for stem in ("full", "flash", "synthesizer", "pooled", "window", "linear"):
    memory, work = slopes(stem)
    print(f"{stem:<12} memory like n to the {memory:.1f}, FLOPs like n to the {work:.1f}")

# %% [markdown] covers="P9 P13 P18 P19 W2"
# Two different exponents, and papers quote either. Flash attention, the Synthesizer and pooling
# hold little and still compute a square. Only a window or a kernel does less. **Exercise 13.3**
# fits slopes to measured points.
#
# ## What an error of 1 means
#
# The error is the root mean square of the difference, over that of the right output. An answer of
# zeros has error 1. How good is the laziest answer that is not zero: the mean of all values, for
# every query?

# %%
q, k, v = random_qkv(1024, dtype=np.float64)
exact = full.attention(q, k, v)


def error(out):
    return np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2))


print(f"zeros              {error(np.zeros_like(exact)):.2f}")
print(f"the mean of V      {error(np.broadcast_to(v.mean(-2, keepdims=True), v.shape)):.2f}")
print(f"linear attention   {error(linear.attention(q, k, v)):.2f}")
print(f"window 128         {error(window.attention(q, k, v, window=128)):.1f}")
print(f"every 64th key     {error(strided.attention(q, k, v, stride=64)):.1f}")

# %% [markdown]
# On random input linear attention is about as good as the mean, and the patterns are worse than
# zeros! Full attention averages 1024 random values here, and the average is small. Who averages
# fewer, gets more. So this column says *different*, and not *bad*. What it costs on real tasks is
# chapter 14.
#
# Make attention choosy: multiply the queries, and the softmax peaks. Who follows?

# %%
from attncourse.reference import topk

small = random_qkv(256, dtype=np.float64)
answers = {
    "mean of V": lambda q, k, v: np.broadcast_to(v.mean(-2, keepdims=True), v.shape),
    "linear": linear.attention,
    "window 32": functools.partial(window.attention, window=32),
    "best 16 keys": functools.partial(topk.attention, keep=16),
}
live_errors = plots.LiveBars(dict.fromkeys(answers, 0.0), high=3.0, title="error")


# %%
def draw_errors(sharpness):
    q, k, v = small[0] * sharpness, small[1], small[2]
    right = full.attention(q, k, v)
    found = {}
    for name, answer in answers.items():
        difference = answer(q, k, v) - right
        found[name] = np.sqrt(np.mean(difference**2) / np.mean(right**2))
    live_errors.update({name: round(value, 2) for name, value in found.items()})
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return f"Queries times {sharpness}: {words}."


widgets.explore(draw_errors, live_errors.figure, sharpness=[1, 2, 4, 8, 16])

# %% [markdown]
# **Exercise 13.4** asks for this error at 4096 tokens, without ever making a matrix of scores.
#
# Nothing about speed changed, and every error did. A benchmark that states only a speed, or an
# error without its data, says half.
#
# **Seeds.** What is drawn at random varies too. One Performer, sixteen draws of its features: state
# the mean *and* the spread, and let data and features have generators of their own: in this course
# each purpose draws other numbers at the same seed.

# %%
from attncourse.reference import performer

found = {}
for m in (64, 256, 1024):
    outs = (performer.attention(q, k, v, n_features=m, seed=seed) for seed in range(16))
    found[f"{m} features"] = [error(out) for out in outs]
    few, mean, most = (of(found[f"{m} features"]) for of in (np.min, np.mean, np.max))
    print(f"{m:>4} features, 16 seeds: mean error {mean:.1f}, from {few:.1f} to {most:.1f}")

# %%
axes = plots.distribution(found, title="error of one Performer, sixteen draws each")
plots.show(axes, "Draws of one size scatter: a single one can stand anywhere in its row.")

# %% [markdown] covers="L16 O6 P3 P4 S2 S5 W4 Y9"
# ## Under the roof
#
# Chapter 01's roofline says how fast a work can run: by the arithmetic, or by the bytes it moves.
# Divide the FLOPs of each mechanism by its measured time, and place it below the roof of *this*
# machine. Who comes closest? And why does the fastest mechanism not stand highest?


# %%
def placed(n):
    costs = {s: cost.Cost(**rows[s, n]["predicted"]) for s in chosen}
    reached = {s: c.flops / rows[s, n]["seconds"]["median"] for s, c in costs.items()}
    return {s: c.intensity for s, c in costs.items()}, reached


roof = limits.peak()
live_roof = plots.LiveRoofline(limits, *placed(512), low=roof / 1e4, high=4 * roof)


# %%
def draw_roof(n):
    intensity, reached = placed(n)
    live_roof.update(limits, intensity, reached, title=f"{n} tokens")
    words = ", ".join(f"{stem} {intensity[stem]:.0f}" for stem in ("full", "flash", "linear"))
    return f"{n} tokens, FLOPs per byte that is moved: {words}."


widgets.explore(draw_roof, live_roof.figure, n=widgets.choice(lengths, 512))

# %% [markdown]
# Two words for what you see. The **memory efficiency** is the useful FLOPs per byte moved, the
# horizontal axis. The **utilisation** is what was reached over what the roof allows: the gap
# between point and roof. A fast mechanism may stand low, because it has less to do.


# %%
def share_of_limit(row):
    return round(100 * records.least_seconds(row, limits) / row["seconds"]["median"])


shares = {stem: share_of_limit(rows[stem, 1024]) for stem in chosen}
axes = plots.bars(shares, unit="%", title="utilisation at 1024 tokens")
plots.show(axes, "How much of this device's limit six mechanisms reach at 1024 tokens.")

# %% [markdown]
# Each mechanism has its own share, and each length too. Chapter E gives one number for all of
# "standard attention", and breaks off:

# %%
claims.check("C272", why="no unit of what is utilised, no kernel, no length; see one's own above")

# %% [markdown]
# A kernel that does several steps while the numbers are on chip is *fused*: scores, softmax and
# values; or bias, dropout and layer norm. Libraries bring such kernels: xFormers for training,
# FasterTransformer and TensorRT for serving. `attncourse bench` measures peers where they are
# installed, and calls them absent where not.

# %% [markdown] covers="O8 P6 W5"
# ## The floor at short lengths
#
# A call has a price before it does anything: Python, a kernel's launch, small products. Where $n$
# is small, that is all there is, and the method with fewer steps wins.
#
# $$ t(n) = t_0 + \frac{\text{FLOPs}(n)}{R} $$

# %%
axes = plots.growth(
    lengths,
    {
        stem: [measure.Timing(**rows[stem, n]["seconds"]) for n in lengths]
        for stem in ("full", "window", "linear", "performer")
    },
)
plots.show(axes, "Time over n. Full attention's work grows with n squared, the others' with n.")

# %% [markdown]
# Two such lines cross at most once. Move the fixed costs of linear attention. How long must a text
# be before it pays, if full attention starts for free?

# %%
n_axis = 2 ** np.arange(6, 14)
rate = 20e9  # FLOPs per second, for both
both = {"linear attention": np.ones(8), "full attention": np.ones(8)}
words = {"x_label": "tokens n", "y_label": "time, full attention = 1", "log_x": True, "high": 3}
live_cross = plots.LiveCurves(n_axis, both, **words)
live_cross.ax.set_xticks(n_axis, n_axis)
live_cross.ax.minorticks_off()


# %%
def draw_cross(fixed_ms, slower):
    full_seconds = 4 * n_axis**2 * 64 / rate
    other = fixed_ms * 1e-3 + slower * 4 * n_axis * 64**2 / rate
    live_cross.update({"linear attention": other / full_seconds, "full attention": np.ones(8)})
    # full takes a n², linear t0 + b n: one positive n makes them equal
    a, b = 4 * 64 / rate, slower * 4 * 64**2 / rate
    crossing = (b + np.sqrt(b * b + 4 * a * fixed_ms * 1e-3)) / (2 * a)
    return f"It pays from n = {np.ceil(crossing):.0f}."


costs = {"fixed_ms": (0.0, 5.0, 0.1, 1.0), "slower": (1, 8, 1, 1)}
widgets.explore(draw_cross, live_cross.figure, **costs)

# %% [markdown] covers="P6 P7 W5"
# ## The crossover, here
#
# From the measured points: the length from which a mechanism beats another *at every longer
# length* measured. "Never here" is an answer too. Standard attention is one measure. Flash
# attention, which is exact and lean, is the harder one. Which mechanisms will never beat either of
# them here? Think of those that do more for each pair.

# %% tags=["nbval-ignore-output"]
print(f"{'':<20}{'faster than full':<24}faster than flash")
for stem, standard, lean in records.crossovers(record):
    print(f"{stem:<20}{standard:<24}{lean}")

# %% [markdown] covers="F31 O10 P6 W3 W4"
# **Exercise 13.5** finds crossovers from two series of timings.
#
# ## Theory and clock
#
# The *theoretical* speedup is a ratio of pairs: all of them over those that are needed. The
# *realised* one is a ratio of times. Chapter V says that sparse attention reaches 50 to 70 % of
# theory. Guess for this machine: a window, blocks, and random keys.

# %%
from attncourse.reference import random_keys

n = 2048
needed = {
    "window": window.count(n, n, window=128),
    "strided": int(strided.mask(n, n, stride=64).sum()),
    "random_keys": int(random_keys.mask(n, n, n_random=32).sum()),
    "bigbird": int(bigbird.mask(n, n, **MECHANISMS["bigbird"].values).sum()),
}
theory = {stem: n * n / pairs for stem, pairs in needed.items()}
for stem, ratio in theory.items():
    print(f"{stem:<12} needs {1 / ratio:5.1%} of the pairs: {ratio:.1f}× in theory")

# %%
seconds = {stem: row["seconds"]["median"] for (stem, size), row in rows.items() if size == n}
efficiency = {
    stem: seconds["full"] / seconds[stem] / ratio
    for stem, ratio in theory.items()
    if stem in seconds  # a slow machine has skipped some
}
percent = {stem.replace("_", " "): round(100 * share) for stem, share in efficiency.items()}
axes = plots.bars(percent, unit="%", title="realised speedup, as a share of the theoretical")
plots.show(axes, "The share of its theoretical speedup that each sparse pattern reaches here.")

# %% tags=["nbval-ignore-output"]
skipped = "over a quarter of a second here, and skipped"
found = {stem: f"{efficiency[stem]:.0%} here" if stem in efficiency else skipped for stem in theory}
claims.check("C077", f"{min(efficiency.values()):.0%} to {max(efficiency.values()):.0%} here")
claims.check("C143", f"random keys: {found['random_keys']}")
claims.check("C144", f"blocks: {found['bigbird']}")

# %% [markdown]
# So "sparse attention reaches" has no single number: it depends on the pattern. One reason can be
# counted without a clock. A processor multiplies whole tiles. Scattered keys touch many tiles, and
# use little of each. How much of the tiles does a random pattern use?

# %%
scattered = random_keys.mask(1024, 1024, n_random=32)
blocked = bigbird.mask(1024, 1024, block=64)


def used(mask, tile):
    count = len(mask) // tile
    touched = mask.reshape(count, tile, count, tile).any(axis=(1, 3))
    return mask.sum() / (touched.sum() * tile**2)


for tile in (1, 16, 32, 64):
    of_random, of_blocks = used(scattered, tile), used(blocked, tile)
    print(f"tiles of {tile:>2}: random uses {of_random:.0%} of its own, blocks {of_blocks:.0%}")

# %%
live_tiles = plots.LiveHeatmap(
    np.zeros((256, 256)), title="multiplied and needed", words=("skipped", "wasted", "needed")
)


def draw_tiles(keys, tile):
    mask = random_keys.mask(256, 256, n_random=keys)
    count = 256 // tile
    touched = mask.reshape(count, tile, count, tile).any(axis=(1, 3))
    live_tiles.update(np.kron(touched, np.ones((tile, tile), int)) + mask)
    return f"{keys} random keys, tiles of {tile}: {used(mask, tile):.0%} of the work is needed."


sizes = widgets.choice([1, 2, 4, 8, 16, 32], 8)
widgets.explore(draw_tiles, live_tiles.figure, keys=(1, 32, 1, 4), tile=sizes)

# %% [markdown]
# The same count decides between a mask and an algorithm. Masked full attention multiplies every
# tile, so on a CPU too it gains nothing:

# %%
q, k, v = random_qkv(2048)
mask = window.mask(2048, 2048, window=128)
ways = {
    "full": measure.seconds(full.attention, q, k, v, repeats=3),
    "full, masked": measure.seconds(full.attention, q, k, v, mask=mask, repeats=3),
    "window": measure.seconds(window.attention, q, k, v, window=128, repeats=3),
}
axes = plots.bars(ways, unit="s", title="2048 tokens")
plots.show(axes, "Full attention, full attention with a window as its mask, window attention.")

# %% [markdown]
# **V7** puts theory, tiles and fixed costs together, and asks which of them explains a printed 5
# to 6.
#
# ## A speedup above the theory
#
# Now read what chapter E prints, in the same way: printed speedup over operation ratio. What would
# a value above 100 % mean?

# %%
bigbird_pairs = bigbird.mask(4096, 4096, block=64).sum()
printed = {
    "Longformer, 4096": (98 / 18, 4096 / (2 * 512)),
    "BigBird, 4096": (98 / 15, 4096**2 / bigbird_pairs),
    "Linformer, 4096": (98 / 20, 4096 / (2 * 256)),
    "Performer, 4096": (98 / 12, 4096 / (2 * 256)),
    "Performer, 16384": (1500 / 48, 16384 / (2 * 256)),
}
share = {name: time / operations for name, (time, operations) in printed.items()}
for name, (ratio, operations) in printed.items():
    print(f"{name:<17} {ratio:4.1f}× printed, {operations:4.1f}× in theory: {share[name]:4.0%}")

# %% [markdown]
# Above 100 % the baseline did more than arithmetic. That can be: standard attention on a GPU waits
# for its scores to travel, and whoever avoids the scores gains more than the operations say. Then
# the figure measures the baseline. Look for such a case in the recorded run below, and for what is
# left of it against a baseline that does not wait.

# %%
why = "chapter V says sparse kernels reach 50 to 70 %; both cannot have the same baseline"
claims.check("C224", f"{share['Longformer, 4096']:.0%} of the operation ratio", why)
claims.check("C235", f"{share['BigBird, 4096']:.0%} of the operation ratio")

# %%
claims.check("C250", f"{share['Linformer, 4096']:.0%} of the operation ratio 8")
claims.check("C260", f"{share['Performer, 4096']:.0%} of the operation ratio 8")
claims.check("C261", f"{share['Performer, 16384']:.0%} of the operation ratio 32")

# %% [markdown] covers="L11 P4 P7 P8"
# ## Timings that cannot be timings
#
# Chapter E's times of standard attention, per layer. The work grows with $n^2$, so each doubling
# should multiply the time by four. Look at the ratios before you look at the picture.

# %%
lengths_e = [512, 1024, 2048, 4096, 8192, 16384]
times_e = [float(claims.get(f"C{number}").printed) for number in range(196, 202)]
for n, before, after in zip(lengths_e[1:], times_e, times_e[1:], strict=False):
    print(f"{n // 2:>5} to {n:>5}: {before:5.0f} ms to {after:5.0f} ms, {after / before:.1f} times")

# %%
everywhere = [256, *lengths_e]
here = {n: measure.Timing(**row["seconds"]) for (stem, n), row in rows.items() if stem == "full"}
nowhere = measure.Timing(np.nan, np.nan, np.nan, 1)
shown = {
    "this machine, 1 head": [here.get(n, nowhere) for n in everywhere],
    "chapter E's A100, 12 heads: printed": [np.nan, *(np.array(times_e) / 1e3)],
}
axes = plots.growth(everywhere, shown, {"n²": [1.5 * (n / 16384) ** 2 for n in everywhere]})
plots.show(axes, "Printed times, flat and steep in turns; those measured here; and n squared.")

# %% [markdown]
# Then there are the four fast methods, timed at 4096 and at 16384. All four grew by the same
# factor:

# %%
pairs_e = {
    "Longformer": (18, 72),
    "BigBird": (15, 60),
    "Linformer": (20, 80),
    "Performer": (12, 48),
}
for name, (at_4096, at_16384) in pairs_e.items():
    print(f"{name:<11} {at_16384 / at_4096:.2f} times")
claims.check("C331", why="exactly 4.00 four times over: repeated timings have spread")

# %%
claims.check(
    "C412", why="no type, no spread, no versions: nobody can repeat it, and see the factors"
)

# %% [markdown]
# Two more speedups rest on a time that the same chapter prints in two versions, and one time that
# both chapters print:

# %%
why = "the same chapter prints both times"
claims.check("C236", f"390 ms gives {390 / 30:.0f}×, 190 ms gives {190 / 30:.1f}×", why)
claims.check("C251", f"390 ms gives {390 / 40:.1f}×, 190 ms gives {190 / 40:.1f}×", why)
claims.check("C475", f"{390 / 0.15:,.0f} times apart")

# %% [markdown]
# A time implies rates, and a device has limits. Enter one, and see whether it can be true. Start
# with the printed 98 ms at 4096 tokens; then find a time that an A100 could have needed.

# %%
devices = {name: device for name, device in cost.DEVICES.items() if "Laptop" not in name}
milliseconds = [0.01, 0.03, 0.1, 0.15, 0.3, 1, 3, 8, 25, 98, 190, 390, 1500]
live_implied = plots.LiveBars({"implied": 0.0, "peak": 0.0}, unit="TFLOP/s", high=1000)
choices = {
    "printed_ms": widgets.choice(milliseconds, 98),
    "n": widgets.choice(lengths_e, 4096),
    "device": widgets.choice(list(devices), "A100 40 GB"),
}


# %%
def draw_implied(printed_ms, n, device):
    found = cost.implied(printed_ms / 1e3, n, 64, heads=12, device=devices[device])
    shown = min(found.flops_per_second, 1e15) / 1e12
    live_implied.update({"implied": shown, "peak": devices[device].peak() / 1e12})
    return f"{printed_ms:g} ms for {n} tokens on {device}: {found}."


widgets.explore(draw_implied, live_implied.figure, **choices)

# %% [markdown] covers="L11 P6 P7 W5"
# **Exercise 13.6** audits a whole table in this way.
#
# ## On a GPU
#
# The next cell draws the latest recorded run of the Triton kernels, and the one below it compares
# with chapter E's speedups: in its own setting, if that has been measured. Without a record they
# say so.

# %%
setting = bench.SHOWN
recorded = bench.latest("gpu", mechanisms=["full", "flash"], **setting)
if recorded:
    figure = plots.benchmark(recorded)
    plots.show(figure, "Time and peak memory of the kernels on a GPU, over n, as recorded.")
else:
    print("No run on a GPU is recorded: `attncourse bench --gpu`, where there is one, records it.")

# %% tags=["nbval-ignore-output"]
printed_e = records.chapter_e(recorded) if recorded else []
for n, stem, said, found in printed_e:
    print(f"n = {n:>5}  {stem:<11} {said:g}× printed, {found:.1f}× measured")
if not printed_e:
    print("chapter E's own setting, 12 heads of 64, has not been measured yet")
for stem, standard, lean in records.crossovers(recorded, **setting) if recorded else ():
    for base, since in (("full", standard), ("flash", lean)):
        if stem != base:
            gains = records.speedups(recorded, base, stem, **setting)
            print(f"{stem} over {base}: {records.speedup_words(gains)}; faster {since}")
for n in list(records.times(recorded, "window", **setting))[-1:]:
    needed = n * n / window.count(n, n, window=128)
    print(f"a window of 128 needs 1/{needed:.0f} of the pairs at n = {n}")

# %% [markdown] covers="V10"
# Compare the window's two ratios with its share of the pairs. Against which of the two does it gain
# more than it leaves out, and against which far less? So ask of each speedup: over what?
#
# ## Which holds least?
#
# Chapter V's last question: five variants side by side at 8192 tokens and 12 heads in float32, and
# which needs least memory? It names a winner. Name yours first: window of 512, 90 strided keys,
# linear, rank 256.

# %%
n, heads, d = 8192, 12, 64
held = {
    "full scores": n * n,
    "window scores, 512 a row": n * 512,
    "sparse scores, 90 a row": n * 90,
    "linear: state and normaliser": d * (d + 1),
    "low rank scores, 256 a row": n * 256,
}
for name, numbers in held.items():
    print(f"{name:<30} {format_bytes(heads * numbers * 4, decimal=True):>9}")

# %%
ratio = held["sparse scores, 90 a row"] / held["linear: state and normaliser"]
claims.check("C178", f"linear, {ratio:.0f} times less than sparse")

# %% [markdown] covers="P1 P6 P19"
# **V10** asks for this table at any size, and for the winner.
#
# ## Your case
#
# Pick a length, heads, batch, a type and how much error you accept on random input. The button
# measures every mechanism here, and lists those within your tolerance, fastest first.


# %%
def measured_here(n, heads, batch, dtype, tolerance, causal):
    chosen = bench.here([n], heads=heads, batch=batch, dtype=dtype, causal=causal, limit=2.0)
    fitting = [r for r in chosen["measurements"] if r.get("error", np.inf) <= tolerance]
    fitting.sort(key=lambda row: row["seconds"]["median"])
    table = [
        {
            "mechanism": MECHANISMS[row["mechanism"]].title,
            "time": format_seconds(row["seconds"]["median"]),
            "peak memory": format_bytes(row["peak_bytes"]),
            "error": f"{row['error']:.1e}",
        }
        for row in fitting
    ]
    return f"{len(fitting)} of {len(chosen['measurements'])} are within {tolerance:g}.", table


# %%
widgets.form(
    measured_here,
    n=[256, 512, 1024, 2048, 4096],
    heads=[1, 4, 12],
    batch=[1, 4],
    dtype=["float32", "float64"],
    tolerance={"exact (1e-5)": 1e-5, "1 %": 1e-2, "any": 1e9},
    causal={"no": False, "yes": True},
)

# %% [markdown] covers="P9 P11 P17" points="P10 P12 P13 P15 P16"
# ## What this chapter does not measure
#
# Quality. A percentage of "accuracy retained" without its task cannot be repeated. Perplexity over
# window widths and bits per character, which is perplexity's logarithm, need a trained model:
# chapter 14. Sentences of GLUE are too short for any of this. The tables that choose a method by
# length, memory and task are recomputed in chapter 15.

# %%
loss = 0.9  # nats for each character, as a trained model would report
print(f"perplexity {np.exp(loss):.2f}, bits per character {loss / np.log(2):.2f}")
kept = masks.density(window.mask(4096, 4096, window=128))
print(f"density {kept:.1%}, sparsity {1 - kept:.1%}")

# %% [markdown]
# ## What you take with you
#
# - State median and quartiles, machine, type, sizes, and what was warm.
# - Peak memory belongs to a meter; ask which.
# - An error says different, not bad; and it depends on the data.
# - Speedups are realised in tiles, above a floor. "Never here" is a result.
# - A time implies rates. Compare them with the device before you believe it.
#
# Now open `exercises/13_measuring.ipynb`. Six exercises, V7 and V10.
