# %% [markdown]
# # 13 · Measure it: time, memory, error
#
# Every chapter before this one predicted first. Now the machine speaks. You will see how a
# stopwatch lies, put ten mechanisms of the course on one picture, find the length from which each
# of them pays, and hold printed speed tables against all that.
#
# <!-- summary: how to time and weigh a call, and how not to; ten mechanisms on one plot with their
# predictions and the roofline; where each one overtakes; a form to try your own sizes. -->

# %% [markdown]
# Timings are your machine's, so your pictures and some answers to the guesses differ from ours. One
# cell takes five seconds or more, and says so. On a laptop, plug it in first: some slow down on
# battery.

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
# The same function, the same input, forty calls in a row: attention on 1024 tokens within
# `window=128`, 128 tokens to each side.

# %%
q, k, v = random_qkv(1024)
call = functools.partial(window.attention, q, k, v, window=128)
single = [measure.seconds(call, repeats=1, warmup=0).median for _ in range(40)]


# %% folded=true
def forty_calls():
    axes = plots.distribution({"one call": single}, unit="s")
    plots.show(axes, "Forty calls of one function, a dot each; a box from quartile to quartile.")


widgets.guess(
    "How many times as long as the fastest of the forty calls did the slowest take?",
    lambda: max(single) / min(single),
    unit="times",
    explain=forty_calls,
)

# %% [markdown]
# So a time is a distribution. This course states its **median**, which half of the calls undercut,
# and its **quartiles**: half of the calls lie between them, in the box.

# %% tags=["nbval-ignore-output"]
print(measure.seconds(call, repeats=15))
print(measure.machine())

# %% [markdown]
# Why the median, and not the mean? Other programs share the machine, and they only ever make a
# call slower. Below, twenty calls of about 10 ms. Some are disturbed and take eight times as long.
# How many does it take to move the mean, the median, the fastest?

# %% folded=true
quiet = np.random.default_rng(0).uniform(9.5e-3, 10.5e-3, 20)
statistics = {"mean": np.mean, "median": np.median, "fastest": np.min}
live_statistics = plots.LiveBars(dict.fromkeys(statistics, 0.0), unit="s", high=0.09)


def draw_statistics(disturbed):
    calls = np.where(np.arange(20) < disturbed, 8 * quiet, quiet)
    found = {name: function(calls) for name, function in statistics.items()}
    live_statistics.update(found)
    words = ", ".join(f"{name} {format_seconds(x)}" for name, x in found.items())
    return f"{disturbed} of 20 calls disturbed: {words}."


widgets.explore(draw_statistics, live_statistics.figure, disturbed=(0, 20, 1, 3))

# %% [markdown]
# The mean moves with the first one; the median holds until half of the calls are disturbed. The
# fastest call holds longest, and hides that there was anything to hide.
# [Exercise 13.1](../exercises/13_measuring.ipynb#13.1-Summarise-repeated-timings) builds the
# summary that this course uses.

# %% [markdown] covers="P8"
# ## Three ways to stop the wrong thing
#
# **The first call** pays for what later ones find ready: compiled code, touched pages, a table.
# Here is a table that is made once for each length. So warm up, and say that you did.


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
# here. Stop the clock when the call returns, and you have timed the queue. To time the work, wait
# for its result, and only then look at the clock.

# %%
q, k, v = random_qkv(1024)
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
# **A warm cache.** Repeat a call, and its input is still near the processor. It matters where there
# are many bytes for little arithmetic, as for one new token against many keys. `flush=True` writes
# 64 MiB in between (256 MiB on a GPU), so that the input comes from memory again, unless the cache
# is larger.

# %%
decode = functools.partial(full.attention, *random_qkv(1, 8192))
ways = {
    "input still in the caches": measure.seconds(decode, repeats=7),
    "caches flushed": measure.seconds(decode, repeats=7, flush=True),
}
axes = plots.bars(ways, unit="s", title="one query, 8192 keys")
plots.show(axes, "The time of one query against 8192 keys, with warm caches and with flushed ones.")

# %% [markdown]
# Which of the two is right? The one that your program meets: a server with many readers finds cold
# caches, a loop over layers may find warm ones. Say which you took. `measure.seconds` warms up,
# waits, and with tensors on a GPU reads the GPU's own clock.
#
# [Exercise 13.2](../exercises/13_measuring.ipynb#13.2-Repair-a-benchmark-of-a-queue) hands you a
# benchmark of a queue to repair.

# %% [markdown] covers="P1"
# ## Whose bytes?
#
# Peak memory has the same traps. It is the most that is held *at once*: not the result, and not
# the sum of all that was ever made.

# %%
q, k, v = random_qkv(2048)
held = {
    "result": full.attention(q, k, v).nbytes,
    "peak, full": measure.peak_bytes(full.attention, q, k, v),
    "peak, window": measure.peak_bytes(window.attention, q, k, v, window=128),
}
for what, n_bytes in held.items():  # some KiB of Python's own objects come and go
    print(f"{what:<13} {n_bytes / 2**20:4.1f} MiB")

# %% [markdown]
# Who holds the meter? Python has one of its own, `tracemalloc`, and NumPy reports each array to it.
# Torch has an allocator that counts, and the system knows the pages that a process holds. Take the
# same attention in torch, where two matrices of 16 MiB exist at once, and ask all three. (To import
# torch takes some seconds.)

# %%
import torch

tensors = [torch.from_numpy(array) for array in random_qkv(2048)]


def unfused(q, k, v):
    return torch.softmax(q @ k.mT / 8, dim=-1) @ v


# %%
unfused(*tensors)
with measure.watch() as seen:
    unfused(*tensors)
meters = {"torch's allocator": measure.peak_bytes(unfused, *tensors)}
try:
    meters["the process"] = measure.resident_peak_bytes(unfused, *tensors)
except NotImplementedError as reason:  # not every system tells
    print(reason)

# %% folded=true
assert seen.peak_bytes < meters["torch's allocator"] / 100


def three_meters():
    shown = {"tracemalloc": seen.peak_bytes, **meters}
    axes = plots.bars(shown, unit="bytes", title="unfused attention in torch, 2048 tokens")
    plots.show(axes, "Torch asks the system itself, and never tells Python.")


widgets.guess(
    "How many bytes of the 32 MiB does tracemalloc see? (Not quite none.)",
    lambda: max(seen.peak_bytes, 1),
    unit="B",
    explain=three_meters,
)

# %% [markdown]
# So a memory figure belongs to a meter. Ask which. Those of the process are pages that it did not
# have before: where it may use old ones again, as when the cell is rerun, it shows half or nothing.

# %% [markdown] covers="P14 P19"
# ## Everything at once
#
# Now ten mechanisms, exact and not, on this machine: time, peak memory, and how far the output is
# from full attention's. That *error* is the root mean square of the difference, over that of the
# right output. An exact answer has error 0, up to rounding; an answer of zeros has error 1.

# %% [markdown]
# Two of the ten are of [chapter 06](06_low_rank.ipynb): *Linformer* mixes the keys and values down
# to `rank` of each, and *pooled* attention averages runs of neighbours into one. Each gets seven
# calls, or as many as fit into 0.2 s, but at least five. The cell takes five seconds, on a busy
# machine three times as long.

# %%
lengths = [256, 512, 1024, 2048]
chosen = ["full", "flash", "window", "strided", "linear", "linformer"]  # for close-ups below
stems = [*chosen, "random_keys", "bigbird", "performer", "pooled"]
always = {"limit": 0.25, "limit_from": 1024, "always": [*chosen, "performer", "random_keys"]}
record = bench.here(lengths, stems=stems, repeats=7, expect_seconds=5, **always)
assert record["complete"], "it was stopped: run this cell again before you go on"
limits = records.device_of(record) or cost.this_cpu()
rows = {(row["mechanism"], row["n"]): row for row in records.rows(record) if "seconds" in row}

# %% [markdown]
# A dot below is a median, the line through it goes from quartile to quartile. A bar is predicted:
# the least time that this device needs for the FLOPs and bytes, and the peak of `cost`. From 1024
# tokens on, BigBird and pooled are skipped if too slow. Look for the fastest, the leanest, and the
# exact ones.

# %% folded=true
live_all = plots.LiveComparison(record, limits, 512)


def exact_at(n):
    return [stem for (stem, length), row in rows.items() if length == n and row["error"] < 1e-5]


def draw_all(n):
    live_all.update(n)
    scores, measured = format_bytes(4 * n * n), sum(length == n for _, length in rows)
    return (
        f"{n} tokens: the scores alone take {scores}. Measured: {measured}, of which exact: "
        f"{len(exact_at(n))}; skipped: {len(live_all.stems) - measured}."
    )


# %% folded=true
widgets.explore(draw_all, live_all.figure, n=widgets.choice(lengths, 512))

# %% folded=true tags=["nbval-ignore-output"]
wide = sum(row["seconds"]["high"] > 1.5 * row["seconds"]["low"] for row in rows.values())
print(f"{wide} of {len(rows)} upper quartiles are above 1.5 times the lower one:", end=" ")
if wide > len(rows) / 10:
    print("the machine looked busy.")
    print("Close what else runs, and run the big cell again before you compare times.")
else:
    print("the machine was quiet.")

# %% [markdown]
# The memory column follows its prediction, because arrays have the size that they have. The time
# column lies to the right of its own: nobody beats the limits of the device, unless it was busy
# when they were measured. And the error column falls into two worlds, exact and not.

# %%
for (stem, n), row in rows.items():
    if n == 2048 and row["implementation"] == "NumPy":
        assert 0.8 < row["peak_bytes"] / row["predicted"]["peak_bytes"] < 1.25, stem
print("measured peaks at 2048 tokens are within a quarter of the predicted ones")
print("exact at 512 tokens:", *exact_at(512))
print("at 256 tokens also: ", *sorted(set(exact_at(256)) - set(exact_at(512))))

# %% [markdown]
# This is the **drop-in test**: swap the attention, keep the input, compare the output. Who passes
# only where the text is short had blocks that covered all of it, or a rank of $n$ with the identity
# as its mixing. The others are another function. Sort the table yourself:


# %% folded=true
def as_table(found):
    return [
        {
            "mechanism": row["mechanism"].replace("_", " "),
            "median": format_seconds(row["seconds"]["median"]),
            "quartiles": " to ".join(format_seconds(row["seconds"][x]) for x in ("low", "high")),
            "peak memory": format_bytes(row["peak_bytes"]),
            "error": f"{row['error']:.1e}",
        }
        for row in found
    ]


# %% folded=true
KEYS = {
    "time": lambda row: row["seconds"]["median"],
    "memory": lambda row: row["peak_bytes"],
    "error": lambda row: row["error"],
}


def ranked(n, sort_by, show):
    found = [row for (_, length), row in rows.items() if length == n and row["error"] <= show]
    table = as_table(sorted(found, key=KEYS[sort_by]))
    return f"{len(table)} mechanisms at {n} tokens, by {sort_by}.", table


widgets.form(ranked, "Sort", n=lengths, sort_by=list(KEYS), show={"all": 1e9, "exact ones": 1e-5})

# %% [markdown] covers="P2"
# ## Memory has a slope
#
# A peak that grows like $c\,n^a$ is a line on logarithmic axes, with slope $a$. So two lengths, one
# twice the other, are enough to read the exponent:
#
# $$ \frac{c\,(2n)^a}{c\,n^a} = 2^a, \qquad a = \log_2 \frac{\text{peak}(2n)}{\text{peak}(n)} $$
#
# Six mechanisms, from their `cost`, which counts the output too. (The
# [Synthesizer](06_pooling.ipynb#Scores-that-no-key-wrote) makes its scores without any key.)


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

# %% [markdown]
# Two different exponents, and papers quote either. Flash attention, pooling and the Synthesizer
# hold little and still compute a square. Of these only the window and linear attention do less.
# [Exercise 13.3](../exercises/13_measuring.ipynb#13.3-The-exponent-of-growth) fits slopes to
# measured points.

# %% [markdown] covers="W2"
# ## What an error of 1 means
#
# An answer of zeros has error 1. Beside it now the laziest answer that is not zero, the mean of all
# values for every query, and what three mechanisms make of random input.

# %%
q, k, v = random_qkv(1024, dtype=np.float64)
exact = full.attention(q, k, v)


def error(out, right=exact):
    return np.sqrt(np.mean((out - right) ** 2) / np.mean(right**2))


print(f"zeros              {error(np.zeros_like(exact)):.2f}")
print(f"the mean of V      {error(np.broadcast_to(v.mean(-2, keepdims=True), v.shape)):.2f}")
print(f"linear attention   {error(linear.attention(q, k, v)):.2f}")
print(f"window 128         {error(window.attention(q, k, v, window=128)):.1f}")
print(f"every 64th key     {error(strided.attention(q, k, v, stride=64)):.1f}")

# %% [markdown]
# The patterns are worse than zeros! Full attention averages all 1024 values here, and an average of
# many is small; who averages fewer, gets more. So the error says *different*, not *bad*, and hangs
# on the data. Let each query prefer its neighbours: give near places near vectors, as queries and
# keys. Then compare a window with a stride.

# %%
speed = np.exp(np.random.default_rng(0).uniform(np.log(0.01), 0, 32))
turn = np.outer(np.arange(1024), speed)
place = 2 * np.concatenate([np.cos(turn), np.sin(turn)], axis=1)  # near places have near vectors
values = v[0, 0]
local = full.attention(place, place, values)
for name, out in {
    "32 to each side, 65 keys": window.attention(place, place, values, window=32),
    "every 16th, 64 keys": strided.attention(place, place, values, stride=16),
}.items():
    print(f"{name:<24} error {error(out, local):.2f}")

# %% [markdown]
# About as many keys, and one of the two is almost exact. Now random input again, but multiply the
# queries: the softmax peaks, and attention becomes choosy. One of the four below follows.

# %% folded=true
from attncourse.reference import topk

small = random_qkv(256, dtype=np.float64)
answers = {
    "mean of V": lambda q, k, v: np.broadcast_to(v.mean(-2, keepdims=True), v.shape),
    "linear": linear.attention,
    "window 32": functools.partial(window.attention, window=32),
    "best 16 keys": functools.partial(topk.attention, keep=16),
}
live_errors = plots.LiveBars(dict.fromkeys(answers, 0.0), high=3.0, title="error")


# %% folded=true
def draw_errors(sharpness):
    q, k, v = small[0] * sharpness, small[1], small[2]
    right = full.attention(q, k, v)
    found = {name: error(answer(q, k, v), right) for name, answer in answers.items()}
    live_errors.update({name: round(value, 2) for name, value in found.items()})
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return f"Queries times {sharpness}: {words}."


widgets.explore(draw_errors, live_errors.figure, sharpness=[1, 2, 4, 8, 16])

# %% [markdown]
# The best 16 keys follow: once few keys have all the weight, they are among them. Nothing about
# speed changed, and every error did. A benchmark that states only a speed, or an error without its
# data, says half. [Exercise
# 13.4](../exercises/13_measuring.ipynb#13.4-The-error,-without-the-scores) asks for this error at
# 4096 tokens, without ever making a matrix of scores.

# %% [markdown] covers="P18"
# ### Seeds
#
# What is drawn at random varies too. A Performer replaces the softmax by random features; here are
# eight draws of each size. State the mean *and* the spread, and let data and features have
# generators of their own: in this course each purpose draws other numbers at the same seed.

# %%
from attncourse.reference import performer

found = {}
for m in (32, 128, 512):
    outs = (performer.attention(q, k, v, n_features=m, seed=seed) for seed in range(8))
    found[f"{m} features"] = [error(out) for out in outs]
    few, mean, most = (of(found[f"{m} features"]) for of in (np.min, np.mean, np.max))
    print(f"{m:>4} features, 8 seeds: mean error {mean:.1f}, from {few:.1f} to {most:.1f}")

# %%
axes = plots.distribution(found, title="error of one Performer, eight draws each")
plots.show(axes, "Draws of one size scatter: a single one can stand anywhere in its row.")

# %% [markdown]
# Look at the size of these errors too: an answer of zeros has 1. Count the draws that are better
# than that. Then make queries and keys a quarter as long.

# %%
draws = np.concatenate(list(found.values()))
print(f"{(draws < 1).sum()} of {len(draws)} draws are better than an answer of zeros")
short = q / 4, k / 4, v
out = performer.attention(*short, n_features=512)
print(f"q and k a quarter as long, 512 features: error {error(out, full.attention(*short)):.2f}")

# %% [markdown]
# A small spread around a useless answer is still useless. These features estimate exponentials,
# and how many that takes grows exponentially with $|q + k|^2$:
# [chapter 07](07_performer.ipynb#How-many-features) counts them. More seeds would not have told.

# %% [markdown] covers="L16 P3 P4"
# ## Under the roof
#
# The [roofline](01_bottleneck.ipynb) of chapter 01 says how fast a work can run. Its *intensity*,
# the FLOPs per byte that it moves, which some texts call memory efficiency, decides whether the
# arithmetic or the bytes are the limit. Divide the FLOPs of each mechanism by its measured time,
# and place it below the roof of *this* machine.


# %% folded=true
def placed(n):
    costs = {s: cost.Cost(**rows[s, n]["predicted"]) for s in chosen}
    reached = {s: c.flops / rows[s, n]["seconds"]["median"] for s, c in costs.items()}
    return {s: c.intensity for s, c in costs.items()}, reached


roof = limits.peak()
live_roof = plots.LiveRoofline(limits, *placed(2048), low=roof / 1e4, high=4 * roof)


# %% folded=true
def draw_roof(n):
    intensity, reached = placed(n)
    live_roof.update(limits, intensity, reached, title=f"{n} tokens")
    words = ", ".join(f"{stem} {intensity[stem]:.0f}" for stem in ("full", "flash", "linear"))
    return f"{n} tokens, FLOPs per byte that is moved: {words}."


widgets.explore(draw_roof, live_roof.figure, n=widgets.choice(lengths, 2048))

# %% [markdown]
# The fastest need not stand high: it may have less to do. The *utilisation* is what was reached
# over what the roof allows, the gap between point and roof. It says how well the machine is used,
# not how soon you get your result. [Chapter E](00_start.ipynb#The-four-texts) prints 30 to 40 %
# without a length or a kernel: nobody can check that.

# %%
times = {stem: rows[stem, 1024]["seconds"]["median"] for stem in chosen}
least = {stem: records.least_seconds(rows[stem, 1024], limits) for stem in chosen}
shares = {stem: round(100 * least[stem] / times[stem]) for stem in chosen}
axes = plots.bars(shares, unit="%", title="utilisation at 1024 tokens")
plots.show(axes, "How much of this device's limit six mechanisms reach at 1024 tokens.")

# %% [markdown] covers="S2 S5 Y9"
# ### Fewer trips
#
# Each kernel reads its input from memory and writes its result back. In attention of three kernels
# the scores travel four times: written, read and written by the softmax, read for the product with
# $V$. A *fused* kernel does several steps on chip. Count what that saves at 4096 tokens, and for
# the small steps that follow.

# %%
n, d = 4096, 64
scores, tokens = 4 * n * n, 4 * n * d  # bytes in float32
moved = {
    "attention, 3 kernels": (2 * tokens + scores) + 2 * scores + (scores + tokens + tokens),
    "attention, fused": 4 * tokens,
    "bias, dropout, norm, 3 kernels": 3 * 2 * tokens,
    "bias, dropout, norm, fused": 2 * tokens,
}
for way, n_bytes in moved.items():
    print(f"{way:<31} moves {format_bytes(n_bytes)}")

# %% [markdown]
# Libraries bring such kernels: xFormers for training; FasterTransformer, TensorRT and their
# successors for serving. `attncourse bench` measures peers where they are installed, and calls them
# absent where not.

# %% [markdown] covers="W5"
# ## The floor at short lengths
#
# A call has a price before it does anything: Python, a kernel's launch, small products. Where $n$
# is small, that is all there is, and the method with fewer steps wins. With a rate of $R$ FLOPs per
# second:
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
# Two such curves cross where $a\,n^2 = t_0 + b\,n$: at one positive $n$, since the square starts
# below and grows faster. Suppose that full attention starts for free, with $4n^2D$ FLOPs, and that
# linear attention has a fixed cost of 1 ms, with $4nD^2$. Both run at 20 GFLOP/s, and $D$ is 64.


# %% folded=true
def crossing(fixed_ms, slower=1, rate=20e9):
    """The n from which linear attention pays: where a n² = t0 + b n."""
    a, b = 4 * 64 / rate, slower * 4 * 64**2 / rate
    return np.ceil((b + np.sqrt(b * b + 4 * a * fixed_ms * 1e-3)) / (2 * a))


widgets.guess(
    "From how many tokens on does linear attention take less time than full, with these numbers?",
    lambda: crossing(1.0),
    unit="tokens",
    explain="From 64 on, the width, if starting cost nothing; the millisecond does the rest.",
)

# %% [markdown]
# Move the fixed cost; or let its steps be slower for each FLOP, as small products are. The one that
# takes clearly longer at the crossing moves it more. The sentence doubles one, then the other.

# %% folded=true
n_axis, ticks = np.geomspace(64, 8192, 200), 2 ** np.arange(6, 14)
equal = np.ones(len(n_axis))
pair = {"linear attention": equal, "full attention": equal}
words = {"x_label": "tokens n", "y_label": "time, full attention = 1", "log_x": True, "high": 3}
live_cross = plots.LiveCurves(n_axis, pair, **words)
live_cross.ax.set_xticks(ticks, ticks)
live_cross.ax.minorticks_off()


# %% folded=true
def draw_cross(fixed_ms, slower):
    full_seconds = 4 * n_axis**2 * 64 / 20e9
    other = fixed_ms * 1e-3 + slower * 4 * n_axis * 64**2 / 20e9
    live_cross.update({"linear attention": other / full_seconds, "full attention": equal})
    return (
        f"It pays from n = {crossing(fixed_ms, slower):.0f}; with twice the fixed cost from "
        f"{crossing(2 * fixed_ms, slower):.0f}, with steps twice as slow from "
        f"{crossing(fixed_ms, 2 * slower):.0f}."
    )


costs = {"fixed_ms": (0.0, 5.0, 0.1, 0.3), "slower": (1, 8, 1, 1)}
widgets.explore(draw_cross, live_cross.figure, **costs)

# %% [markdown] covers="W5"
# ## The crossover, here
#
# From the measured points: the length from which a mechanism beats another *at every longer length*
# measured. "Never here" is an answer too. Standard attention, unfused, is one measure: its scores
# go through memory. Flash attention, exact and lean, is the harder one. Look for mechanisms that do
# more for each pair: some may never beat either.

# %% tags=["nbval-ignore-output"]
print(f"{'':<20}{'faster than full':<24}faster than flash")
for stem, standard, lean in records.crossovers(record):
    print(f"{stem:<20}{standard:<24}{lean}")

# %% [markdown]
# [Exercise 13.5](../exercises/13_measuring.ipynb#13.5-The-crossover-length) finds crossovers from
# two series of timings.

# %% [markdown] covers="F31 O10 P6 W3 W4"
# ## Theory and clock
#
# The *theoretical* speedup is a ratio of pairs: all of them over those that are needed. The
# *realised* one is a ratio of times. A textbook says that sparse attention reaches 50 to 70 % of
# theory. Here are three patterns at 2048 tokens: a window, every 64th key, and random keys.

# %%
from attncourse.reference import random_keys

n = 2048
needed = {
    "window": window.count(n, n, window=128),
    "strided": int(strided.mask(n, n, stride=64).sum()),
    "random_keys": int(random_keys.mask(n, n, n_random=32).sum()),
}
theory = {stem: n * n / pairs for stem, pairs in needed.items()}
for stem, ratio in theory.items():
    print(f"{stem:<12} needs {1 / ratio:5.1%} of the pairs: {ratio:.1f}× in theory")

# %%
seconds = {stem: rows[stem, n]["seconds"]["median"] for stem in ("full", *theory)}
efficiency = {stem: seconds["full"] / seconds[stem] / ratio for stem, ratio in theory.items()}


# %% folded=true
def realised():
    percent = {stem: round(100 * share) for stem, share in efficiency.items()}
    axes = plots.bars(percent, unit="%", title="realised speedup, as a share of the theoretical")
    plots.show(axes, "The share of its theoretical speedup that each pattern reaches here.")


widgets.guess(
    "Which share of its theoretical speedup do random keys reach on this machine?",
    lambda: 100 * efficiency["random_keys"],
    unit="%",
    explain=realised,
)

# %% [markdown]
# So "sparse attention reaches" has no single number: it depends on the pattern, on a CPU as on a
# GPU. One reason can be counted without a clock. A processor multiplies whole tiles. Scattered keys
# touch many tiles, and use little of each.

# %%
scattered = random_keys.mask(1024, 1024, n_random=32)
blocked = bigbird.mask(1024, 1024, block=64)


def used(mask, tile):
    """The share of the multiplied pairs that the mask needs."""
    count = len(mask) // tile
    touched = mask.reshape(count, tile, count, tile).any(axis=(1, 3))
    return mask.sum() / (touched.sum() * tile**2)


for tile in (1, 16, 32, 64):
    of_random, of_blocks = used(scattered, tile), used(blocked, tile)
    print(f"tiles of {tile:>2}: random uses {of_random:.0%} of its own, blocks {of_blocks:.0%}")

# %% [markdown]
# Let there be few random keys and large tiles: nearly all that is multiplied is thrown away.

# %% folded=true
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
# [Exercise
# 13.V7](../exercises/13_measuring.ipynb#13.V7-From-the-theoretical-to-the-observed-speedup) puts
# theory, tiles and fixed costs together, and asks which of them explains a printed 5 to 6.

# %% [markdown] covers="P6 P7"
# ## A speedup above the theory
#
# Read printed times in the same way: printed speedup over operation ratio. Chapter E prints
# times, for an A100; the operations are counted here. For which BigBird, it does not say: take this
# course's blocks of 64, and the chapter's count of keys. What would a share above 100 % mean?

# %%
blocks_of_64 = bigbird.mask(4096, 4096, block=64).sum()
own_count = (4096 - 32) * 352 + 32 * 4096  # chapter E: 352 keys a row, and all of them in 32
printed = {
    "Longformer, 4096": (98 / 18, 4096 / (2 * 512)),  # 512 keys on each side, edges left out
    "BigBird, blocks of 64": (98 / 15, 4096**2 / blocks_of_64),  # 622 keys a row
    "BigBird, E's count": (98 / 15, 4096**2 / own_count),
    "Linformer, 4096": (98 / 20, 4096 / (2 * 256)),  # rank 256, and as much to project
    "Performer, 4096": (98 / 12, 4096 / (2 * 256)),  # 256 features, and as much to make them
    "Performer, 16384": (1500 / 48, 16384 / (2 * 256)),
}
share = {name: time / operations for name, (time, operations) in printed.items()}
for name, (ratio, operations) in printed.items():
    print(f"{name:<21} {ratio:4.1f}× printed, {operations:4.1f}× in theory: {share[name]:4.0%}")

# %% [markdown]
# BigBird's share hangs on that choice. Above 100 % the baseline did more than arithmetic. That can
# be: standard attention on a GPU waits for its scores to travel, and whoever avoids the scores
# gains more than the operations say. Then the figure measures the baseline.

# %%
why = "chapter V says sparse kernels reach 50 to 70 %; both cannot have the same baseline"
claims.check("C224", f"{share['Longformer, 4096']:.0%} of the operation ratio", why)

# %% [markdown]
# **Divide each printed speedup by its operation ratio, and ask: over what?**

# %% [markdown] covers="L11 P7 P8"
# ## Do these times look measured?
#
# Chapter E's times of standard attention, per layer. The work grows with $n^2$, so each doubling
# should multiply the time by four, or by less where $n$ is small.

# %%
lengths_e = [512, 1024, 2048, 4096, 8192, 16384]
times_e = [float(claims.get(f"C{number}").printed) for number in range(196, 202)]
for n, before, after in zip(lengths_e[1:], times_e, times_e[1:], strict=False):
    print(f"{n // 2:>5} to {n:>5}: {before:5.0f} ms to {after:5.0f} ms, {after / before:.1f} times")

# %% folded=true
everywhere = [256, *lengths_e]
here = {n: measure.Timing(**row["seconds"]) for (stem, n), row in rows.items() if stem == "full"}
nowhere = measure.Timing(np.nan, np.nan, np.nan, 1)
shown = {
    "this machine, 1 head": [here.get(n, nowhere) for n in everywhere],
    "chapter E's A100, 12 heads: printed": [np.nan, *(np.array(times_e) / 1e3)],
}
square = [1.5 * (n / 16384) ** 2 for n in everywhere]
axes = plots.growth(everywhere, shown, {"n²: through the last point": square})
plots.show(axes, "Printed times, flat and steep in turns; those measured here; and n squared.")

# %% [markdown]
# The ratios jump, as [chapter 01](01_bottleneck.ipynb#Operations-are-not-time) saw. Then there are
# four fast methods, timed at 4096 and at 16384 tokens. Each time, says the text (claim C412 of [the
# audit](17_audit.ipynb)), is the average of 100 runs.

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

# %% [markdown]
# The claim holds, too well. A printed 12 ms stands for 11.5 to 12.5, so four times it may be 46 to
# 50: to hit 48, and the like four times, is about one chance in $4^4$, even without fixed costs and
# noise. **What is measured has scatter; where there is none, ask how the numbers were made.**

# %% [markdown]
# A last check needs no second number at all. A time implies rates, and a device has limits. The
# 98 ms are those of 4096 tokens and 12 heads of width 64: $4 \cdot 12 \cdot 4096^2 \cdot 64$ FLOPs
# on a device that does up to 312 trillion a second in float16.

# %% folded=true
a100 = cost.DEVICES["A100 40 GB"]
widgets.guess(
    "Which share of the A100's peak would standard attention have reached in 98 ms?",
    lambda: 100 * cost.implied(98e-3, 4096, 64, heads=12, device=a100).share,
    unit="%",
    explain="It can happen only if the A100 did nearly nothing but wait.",
)

# %% [markdown]
# Enter a time, a length and a device, and see whether it can be true. Lower the time until an A100
# could not have done it, then look for a device that could, and for a time that is beyond them all.

# %% folded=true
devices = {name: device for name, device in cost.DEVICES.items() if "Laptop" not in name}
milliseconds = [0.01, 0.03, 0.1, 0.15, 0.3, 1, 3, 8, 25, 98, 190, 390, 1500]
both = {"implied": 0.0, "peak": 0.0}
live_implied = plots.LiveBars(both, unit="TFLOP/s", high=1000, title=" ")
choices = {
    "printed_ms": widgets.choice(milliseconds, 25),
    "n": widgets.choice(lengths_e, 8192),
    "device": widgets.choice(list(devices), "A100 40 GB"),
}


# %% folded=true
def draw_implied(printed_ms, n, device):
    found = cost.implied(printed_ms / 1e3, n, 64, heads=12, device=devices[device])
    shown = min(found.flops_per_second, 1e15) / 1e12
    values = {"implied": shown, "peak": devices[device].peak() / 1e12}
    cut = ", bar cut off" if shown < found.flops_per_second / 1e12 else ""
    live_implied.update(values, f"{n} tokens, 12 heads, on {device}{cut}")
    return f"{printed_ms:g} ms for {n} tokens on {device}: {found}."


widgets.explore(draw_implied, live_implied.figure, **choices)

# %% [markdown]
# [Exercise 13.6](../exercises/13_measuring.ipynb#13.6-Audit-a-table-of-times) audits a whole table
# in this way.

# %% [markdown] covers="L11 P6 P7"
# ## On a GPU
#
# Flash attention's time and memory beside their predictions, measured now if there is a GPU here,
# else from the latest record; then the record as a picture, medians with broad bars from quartile
# to quartile, and chapter E's speedups in its own setting. To start a kernel costs time before it
# does any work: the *launch*.

# %%
setting = bench.SHOWN
bench.show_gpu("flash")
recorded = bench.latest("gpu", mechanisms=["full", "flash"], **setting)
if recorded:
    figure = plots.benchmark(recorded, setting, mechanisms=["full", "flash", "window", "lsh"])
    plots.show(figure, "Time and peak memory of the kernels on a GPU, over n, as recorded.")

# %% tags=["nbval-ignore-output"]
printed_e = records.chapter_e(recorded) if recorded else []
for n, stem, said, found in printed_e:
    print(f"n = {n:>5}  {stem:<11} {said:g}× printed, {found:.1f}× measured")
if not printed_e:
    print("chapter E's own setting, 12 heads of 64, has not been measured yet")
if recorded:
    print(records.fused_words(recorded, **setting | (records.CHAPTER_E if printed_e else {})))
for base in ("full", "flash"):
    gains = records.speedups(recorded, base, "window", **setting)
    print(f"window over {base}: {records.speedup_words(gains)}")
    for n in list(gains)[-1:]:
        fewer = n * n / window.count(n, n, window=128)
        print(f"  {'more' if gains[n] > fewer else 'less'} than its {fewer:.0f} times fewer pairs")

# %% [markdown]
# At the shortest length such a ratio compares launches. At the longest, compare it with the pairs:
# a baseline that waits for its scores to travel makes the gain larger than the work saved, a lean
# one lets the window's own overhead show. So ask of each speedup: over what?

# %% [markdown] covers="V10 P1"
# ## Which holds least?
#
# Chapter V's last question: of five variants at 8192 tokens and 12 heads in float32, which needs
# least memory? It names sparse attention, 90 keys a query. Its rivals: the full scores, a window
# of 512 keys in all, linear attention, and a rank of 256. Count what each holds beside its output,
# equal for all.

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
ratio = held["sparse scores, 90 a row"] / held["linear: state and normaliser"]
claims.check("C178", f"linear, {ratio:.0f} times less than sparse")
assert 46 * 90 < d * (d + 1) < 47 * 90

# %% [markdown]
# A state that does not grow with $n$ beats, from some length on, whatever keeps a row for each
# token: here 90 a row from 47 tokens on. (The slope of 1 above was linear attention's output, which
# nobody avoids.)
# [Exercise 13.V10](../exercises/13_measuring.ipynb#13.V10-Five-variants-side-by-side) asks for this
# table at any size.

# %% [markdown] covers="P9 P11 P17"
# ## What this chapter does not measure
#
# Quality, which is [chapter 14](14_quality.ipynb). "Accuracy retained" cannot be repeated without
# its task, data and model. Three words to know: *perplexity*, the exponential of the loss a token,
# which hangs on what a token is; *bits per character*, the loss a character to base 2; and
# *sparsity*, the share of pairs left out.

# %%
loss = 0.9  # nats for each character, of a model whose tokens are characters
print(f"perplexity {np.exp(loss):.2f} per character, {loss / np.log(2):.2f} bits per character")
kept = masks.density(window.mask(4096, 4096, window=128))
print(f"a window of 128 at 4096 tokens: density {kept:.1%}, sparsity {1 - kept:.1%}")

# %% [markdown]
# ## In a real model
#
# Error on random input says little about words. The course's [small
# model](02_attention.ipynb#In-a-real-model) reads a page that it never saw, with other mechanisms
# in place of its attention, and nothing trained again. The darker a token, the less probable it has
# become. Each is allowed about 64 keys a query, or that much memory.

# %% folded=true
from attncourse import model

trained = model.load()
changed = {
    "window 63": trained.swap("window", window=63),
    "every 8th key": trained.swap("strided", stride=8),
    "top 64 keys": trained.swap("topk", keep=64),
    "LSH, 8 buckets, 2 rounds": trained.swap("lsh", n_buckets=8, n_rounds=2, chunk=64),
    "pooled by 8": trained.swap("pooled", pool=8),
    "linear": trained.swap("linear"),
    "Performer, 64 features": trained.swap("performer", n_features=64),
}

# %% folded=true
heads_of_all = [(layer, head) for layer in range(4) for head in range(4)]
changed["no attention at all"] = trained.without(*heads_of_all)
tried = model.compare(trained, changed)
widgets.in_a_real_model("mechanism", tried)

# %% [markdown]
# Now in numbers, as in [chapter 02](02_attention.ipynb#In-a-real-model): the loss in *nats*, the
# mean of $-\ln p$ of each token, and *copying*, what the model gains on shuffled tokens that it
# sees a second time. Beside them the error on noise: 512 random tokens, also masked.

# %%
by_loss = sorted(tried, key=lambda name: tried[name].loss)
noise_in = random_qkv(512, seed=1)
noise_out = full.attention(*noise_in, causal=True)
noise = {name: error(one.attention[0](*noise_in), noise_out) for name, one in changed.items()}
noise["no attention at all"] = 1.0  # an answer of zeros

# %%
print(f"{'':<26} nats  copying  on noise")
print(f"{'unchanged':<26} {tried[by_loss[0]].full_loss:.2f}     100%      0.00")
for name in by_loss:
    one = tried[name]
    kept = np.clip(one.copied, 0, 1)
    print(f"{name:<26} {one.loss:.2f}  {kept:>7.0%}  {noise[name]:>8.2f}")
more = tried["linear"].loss - tried["window 63"].loss
by_noise = f"{noise['linear']:.2f} against {noise['window 63']:.2f}"
print(f"linear against the window: {by_noise} on noise, and {more:.2f} nats more on text")

# %% folded=true
loss = {name: one.loss for name, one in tried.items()}
assert noise["linear"] < noise["window 63"] and more > 1
assert loss["every 8th key"] > loss["no attention at all"] - 0.5
lsh = tried["LSH, 8 buckets, 2 rounds"]
assert lsh.copied > 0.5 and lsh.loss > loss["window 63"]

# %% [markdown]
# Linear attention came closer on noise than the window, and loses far more on text. Every 8th key
# is hardly better than none: the stride misses the neighbours, and neighbours are most of what this
# model uses. LSH copies, since it finds equal tokens far away, yet loses more than the window,
# since it misses some neighbours.

# %% [markdown] covers="P8 P19"
# ## Your case
#
# Pick the length, heads, batch and type of what *you* run, and the error that you accept on random
# input. The button measures the catalogue here, from 256 tokens up to your length, and lists those
# within your tolerance, fastest first. Write the result down as a benchmark should: median,
# quartiles, machine, type, sizes, what was warm.

# %% [markdown]
# Expect half a minute at 1024 tokens and one head, minutes with more of anything; the stop button
# ends it. A call is skipped if it should take over half a second, or over four fifths of the free
# memory: at 4096 tokens, 12 heads and batch 4, full attention's scores take 3 GiB.


# %% folded=true
offered = [256, 512, 1024, 2048, 4096]


def measured_here(n, heads, batch, dtype, tolerance, causal):
    setting = {"heads": heads, "batch": batch, "dtype": dtype, "causal": causal}
    shorter = [size for size in offered if size <= n]  # they say what to skip
    record = bench.here(shorter, repeats=9, limit=0.5, **setting)
    tried = records.rows(record, n=n)
    timed = [row for row in tried if "seconds" in row]
    fitting = [row for row in timed if row["error"] <= tolerance]
    said = f"{len(fitting)} of {len(timed)} measured are within {tolerance:g}; "
    left_out = len(tried) - len(timed)
    said += f"{left_out} were skipped or cannot run so." if left_out else "none was skipped."
    said += "" if record["complete"] else " Stopped early."
    return said, as_table(sorted(fitting, key=KEYS["time"]))


# %% folded=true
widgets.form(
    measured_here,
    n=offered,
    heads=[1, 4, 12],
    batch=[1, 4],
    dtype=["float32", "float64"],
    tolerance={"exact (1e-5)": 1e-5, "1 %": 1e-2, "any": 1e9},
    causal={"no": False, "yes": True},
)

# %% [markdown]
# Next: [chapter 14](14_quality.ipynb) measures what no clock shows: what an approximation loses.
