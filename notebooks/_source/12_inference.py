# %% [markdown]
# # 12 · A token at a time
#
# A model that writes reads its own text again for each token, unless it remembers. What it keeps is
# the cache of keys and values; soon that weighs more than the model. Here you build it, and make it
# smaller in four ways. [Part two](12_serving.ipynb) keeps many texts at once.
#
# <!-- summary: generation with and without a cache, and the off-by-one in it; prefill and decode on
# the roofline; heads that share keys, latents instead of keys, fewer bits, and forgetting, each
# with its bytes a token and with what a real model loses. -->

# %% [markdown]
# You need the softmax and causal masks of [chapter 02](02_attention.ipynb). Two cells let a model
# read long texts, some seconds each.

# %% role="setup"
import dataclasses
import os

# One thread: times then differ by the work, and not by who else wants the cores.
for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded

import numpy as np

from attncourse import claims, masks, measure, model, plots, widgets
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import full, grouped, kv_cache, latent, quantised_cache
from attncourse.reference.relative import rotate
from attncourse.units import format_bytes

# %% [markdown] covers="N1"
# ## Write it anew each time
#
# The course's model, four layers of four heads with $D = 32$, was trained on Python's standard
# library. Give it the beginning of a function that it never saw:

# %%
small = model.load()
source = model.held_out()[3]
prompt = source[source.index("quote(s):") - 400 :][:409]
print(prompt[-71:], small.generate(prompt, 30), sep="⟦…⟧")

# %% [markdown]
# Behind ⟦…⟧ are thirty tokens of its own. How does one get them? The obvious loop: read the whole
# text, take the likeliest next token, append it, read the whole text again. What is wrong with
# that? Look at the keys of the last layer before and after one more token came:

# %%
ids = small.encode(prompt)
before, after = (small.qkv(ids[:n])[-1][1] for n in (100, 101))  # (H, T, D)
print("keys", before.shape, "then", after.shape)
np.testing.assert_allclose(after[:, :100], before, atol=1e-5)
print("the first 100 are as they were")

# %% [markdown]
# Nothing has changed but rounding, even in the last layer. A causal model never looks ahead, so
# what it makes of a token is settled when the token is read. So keep each key and value. The
# *KV cache* of a text of $n$ tokens then has, for $L$ layers of $H$ heads,
#
# $$ \underbrace{2}_{k,\,v} \cdot\, L \cdot H \cdot n \cdot D \ \text{numbers} $$

# %%
sizes = {"groups": 4, "width": 32, "layers": 4, "dtype_bytes": 4}
for n in (1, 128, 512):
    print(f"{n:>3} tokens: {format_bytes(kv_cache.size_bytes(n, **sizes))} in float32")

# %% [markdown]
# And what does it save? Count FLOPs for a text of 128 tokens that the model writes from nothing.
# Reading a token takes two for each weight, and attention to those before it.


# %%
def flops(new, seen):
    """To read `new` tokens, the last of `seen`, and to score what comes after each."""
    weights = sum(array.size for array in small.weights.values() if array.ndim == 2)
    attention = grouped.cost(1, 4, new, seen, 32, causal=True).flops
    return 2 * new * weights + 4 * attention


def flops_of_writing(n, cache):
    return sum(flops(1 if cache else t, t) for t in range(1, n + 1))


# %% folded=true
widgets.guess(
    "A text of 128 tokens, written one by one: how many times as many FLOPs does it take without a "
    "cache?",
    lambda: flops_of_writing(128, False) / flops_of_writing(128, True),
    unit="times",
    explain="Token t costs t times as much without a cache, and the mean of 1 ... 128 is 64.5; "
    "attention adds a little.",
)

# %% [markdown]
# Prediction beside measurement. The dashed lines take the longest text without a cache and scale by
# FLOPs. The FLOPs say that a token from the cache should hardly cost more when the text is
# longer. Which points will lie far above their line?

# %%
lengths = [16, 64, 128]
ways = {"without a cache": False, "with a cache": True}
a_token, expected = {}, {}
for way, cache in measure.progress(ways.items(), "writing", expect_seconds=5):
    runs = [
        measure.seconds(small.generate, "", n, cache=cache, repeats=2, warmup=0, at_most=1)
        for n in lengths
    ]
    a_token[way] = [run.median / n for run, n in zip(runs, lengths, strict=True)]
    expected[way] = [flops_of_writing(n, cache) / n for n in lengths]
rate = expected["without a cache"][-1] / a_token["without a cache"][-1]
expected = {way: [each / rate for each in counts] for way, counts in expected.items()}

# %% folded=true
axes = plots.growth(lengths, a_token, expected, unit="s", title="time for one token")
axes.set_ylabel("time for one token")
plots.show(axes, "Seconds a token over the length of the text; dashed, what FLOPs predict.")

# %% [markdown]
# With a cache the clock stays far from its line, and short texts lie above theirs, too. One token
# alone gives each weight one multiplication; to fetch the weights, and to call NumPy, takes longer
# than to multiply. That is no flaw of this machine: [two sections on](#Prefill-and-decode) it is
# the law of writing.

# %% [markdown] covers="N2"
# ## The token sees itself
#
# At step $t$ the query of token $t$ attends to which keys? One of
# [the texts that this course checks](00_start.ipynb#The-four-texts) says $K_0 \dots K_{t-1}$: what
# was in the cache. Then comes the new key. Try that rule, in the whole model:


# %%
def attend_before(q, k, v):
    """Each token sees those before it, and not itself."""
    n = q.shape[-2]
    return full.attention(q, k, v, mask=np.tri(n, k=-1, dtype=bool))


blind = dataclasses.replace(small, attention=(attend_before,) * 4)
unseen = np.concatenate([small.encode(text)[:206] for text in model.held_out()])[: 2 * 512 + 1]
print("first row of weights", full.weights(*random_qkv(3)[:2], mask=np.tri(3, k=-1) > 0)[0, 0, 0])
print(f"on {len(unseen) - 1:,} tokens of unseen text:", end=" ")
print(f"loss {small.loss(unseen):.3f} nats a token, blinded {blind.loss(unseen):.3f}")

# %% [markdown]
# The first token attends to nothing, the others not to themselves. And the loss? A token also goes
# round attention, in the sum that each layer adds to. So a slip like this can hide behind a loss
# that looks like any other. **Do not look at the loss; compare.** The card compares one step:

# %%
claims.check("C037")

# %% [markdown]
# **The check to keep: step by step must give what one causal pass gives.** In this order: append,
# then attend.

# %%
q, k, v = random_qkv(40, heads=2, width=8, dtype=np.float64)
cache, outs = kv_cache.start(k, v), []
for t in range(40):
    token = [array[..., t : t + 1, :] for array in (q, k, v)]
    out, cache = kv_cache.step(cache, *token)
    outs.append(out)
np.testing.assert_allclose(np.concatenate(outs, axis=-2), full.attention(q, k, v, causal=True))
print("forty steps are one causal pass")

# %% [markdown]
# Often several tokens come at once: a prompt, or guesses of a smaller model to be checked. Then the
# *last* query belongs to the last key. Whoever lays the triangle into the other corner, as PyTorch
# does with `is_causal=True` for $T_q \ne T_k$, hides most of the cache:

# %% folded=true
figure, (left, right) = plots.figure(1, 2, height=2.3)
plots.heatmap(masks.causal(3, 8), left, title="3 new tokens after 5")
plots.heatmap(np.tri(3, 8, dtype=bool), right, title="aligned at the wrong end")
plots.show(figure, "Left, each new token sees the five in the cache and those up to itself.")

# %% [markdown]
# The room has to come from somewhere. An array that grows by one token at a time is copied at each
# step; one that doubles when it is full, seldom:

# %%
cache = kv_cache.start(k, v, capacity=1)
for t in range(40):
    cache.append(k[..., t : t + 1, :], v[..., t : t + 1, :])
print(f"40 tokens: {cache.tokens_copied} copied by doubling, {40 * 39 // 2} by growing each time")
used, held = format_bytes(cache.bytes_used), format_bytes(cache.bytes_held)
print(f"{used} are used, {held} are held: the price of spare room")

# %% [markdown]
# [Exercise 12.1](../exercises/12_inference.ipynb#12.1-A-cache-that-grows) is this cache, with
# several tokens at a time. Ours is [`reference/kv_cache.py`](../attncourse/reference/kv_cache.py).
# Room that is reserved and not used is what [part two](12_serving.ipynb) is about.

# %% [markdown] covers="N1"
# ## Prefill and decode
#
# Reading a prompt, *prefill*, and writing, *decode*, run the same model and have nothing in common
# for the hardware. What matters is the *intensity*, FLOPs for each byte that is fetched
# ([chapter 01](01_bottleneck.ipynb)).

# %% [markdown]
# Take 32 layers of 32 heads of 128, about $12 \cdot 32 \cdot 4096^2$ weights, 6.4 billion, in 16
# bits. For $N$ weights, and for the cache, the intensity is
#
# $$ \text{weights: } \frac{2 N \cdot \text{tokens at once}}{2 N} = \text{tokens at once},
#    \qquad \text{cache: } \frac{4 H n D}{2 \cdot 2\, G n D} = \frac{H}{G} $$
#
# where $G$ is how many heads of keys and values there are: here $G = H$.


# %%
def work(batch, context, groups, layers=32, heads=32, width=128):
    """(FLOPs, bytes) of three works; what is not a weight or in the cache is left out."""
    weights = 12 * layers * (heads * width) ** 2
    one = grouped.cost(batch, heads, 1, context, width, groups=groups, dtype_bytes=2)
    kept = kv_cache.size_bytes(context, groups, width, layers=layers, batch=batch)
    reading = 2 * weights * context + layers * 2 * context**2 * heads * width
    return {
        "prefill, one text": (reading, 2 * weights + kept // batch),
        "decode, weights": (2 * weights * batch, 2 * weights),
        "decode, cache": (layers * one.flops, kept),
    }


# %%
def step_seconds(device, batch, context, groups):
    """The least time for one more token of each text: both parts of decode, one after the other."""
    parts = list(work(batch, context, groups).values())[1:]
    limits = device.flops_per_second, device.bytes_per_second
    return sum(max(f / limits[0], moved / limits[1]) for f, moved in parts)


# %% folded=true
h100 = DEVICES["H100 80 GB"]
widgets.guess(
    "Such a model on an H100, one text of 4096 tokens: how many tokens a second can it write, at "
    "most?",
    lambda: 1 / step_seconds(h100, 1, 4096, 32),
    unit="tokens",
    explain=lambda: (
        f"Each token fetches {format_bytes(2 * 12 * 32 * 4096**2, decimal=True)} of weights and "
        f"{format_bytes(kv_cache.size_bytes(4096, 32, 128, layers=32), decimal=True)} of cache, at "
        f"3350 GB/s. The products of the weights would take "
        f"{2 * 12 * 32 * 4096**2 / h100.flops_per_second / step_seconds(h100, 1, 4096, 32):.1%} "
        "of that time."
    ),
)

# %% [markdown]
# **Raise the batch, then the context: which point climbs with which, and which one with neither?**
# Weights are fetched once for all texts of a batch, but each text has its own cache. Then lower
# the groups.

# %% folded=true
start = {name: f / moved for name, (f, moved) in work(8, 4096, 32).items()}
live_roof = plots.LiveRoofline(h100, start, low=1e11, high=3e15)


def draw_roof(batch, context, groups):
    works = work(batch, context, groups)
    title = f"H100, {batch} texts of {context} tokens, G = {groups}"
    live_roof.update(h100, {name: f / moved for name, (f, moved) in works.items()}, title=title)
    kept, taken = works["decode, cache"][1], step_seconds(h100, batch, context, groups)
    fits = "fits" if kept <= h100.memory_bytes - works["decode, weights"][1] else "does NOT fit"
    return (
        f"A cache of {format_bytes(kept, decimal=True)} {fits} beside the weights. At most "
        f"{batch / taken:,.0f} tokens a second together, {1 / taken:,.0f} for each text."
    )


# %%
batches = widgets.choice([2**i for i in range(9)], 8)
contexts = widgets.choice([512, 1024, 2048, 4096, 8192, 16384, 32768], 4096)
some = widgets.choice([32, 8, 1], 32)
widgets.explore(draw_roof, live_roof.figure, batch=batches, context=contexts, groups=some)

# %% [markdown]
# Batching repairs the weights. The cache it does not repair: it only grows, until it is what decode
# spends its time on, and what ends the batch. So everything that follows makes it smaller.

# %% [markdown] covers="N10"
# ## Heads that share
#
# The point of the cache lies at $H / G$. So let query heads share keys and values. *Multi-query
# attention* (MQA) has $G = 1$, *grouped-query attention* (GQA) a few; with $G = H$ it is plain
# *multi-head attention* (MHA). Query head $h$ reads
#
# $$ g(h) = \lfloor h \,/\, (H / G) \rfloor, \qquad
#    \text{numbers a token} = 2 \cdot L \cdot G \cdot D $$
#
# Repeating each key head gives the definition; the same numbers must come out without a copy:

# %%
q, _, _ = random_qkv(6, heads=4, width=8, dtype=np.float64)
_, k, v = random_qkv(6, heads=2, width=8, dtype=np.float64)
repeated = full.attention(q, np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1), causal=True)
np.testing.assert_allclose(grouped.attention(q, k, v, causal=True), repeated, atol=1e-12)
print("query head h reads key head", np.arange(4) // 2)

# %% [markdown]
# A copy for each head would bring all bytes back. Instead, the queries of a group are rows of one
# matrix, and one product serves them all:

# %%
q, k, v = random_qkv(1, 4096, heads=32)
k, v = k[:, :2], v[:, :2]
copies = 2 * np.repeat(k, 16, axis=1).nbytes
peak = measure.peak_bytes(grouped.attention, q, k, v)
assert copies > 100 * peak
print(f"copies for 32 heads: {format_bytes(copies)}; as rows: under {format_bytes(copies / 100)}")

# %% [markdown]
# [Exercise 12.3](../exercises/12_inference.ipynb#12.3-Heads-that-share,-no-copies) asks for that
# product, with its memory graded.
#
# Does a model bear it? Take the trained one, and put in the place of each group's keys the mean of
# them, and so with the values. Nothing is learned anew:

# %%
for groups in (4, 2, 1):
    loss = small.swap("grouped", groups=groups).loss(unseen)
    kept = kv_cache.size_bytes(1, groups, 32, layers=4)
    print(f"G = {groups}: {kept:>5,} bytes a token in 16 bits, loss {loss:.2f} nats")

# %% [markdown]
# Heads that learned different things have no common mean. But a mean is a place to go on learning
# from: the authors of GQA tune for a twentieth of the first training
# ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)). Sixty steps of ours, a sixtieth, are
# recorded: `python -m attncourse.model.tune` makes the record anew, some minutes of a core.

# %% folded=true
from attncourse import house

tuned = house.record("grouped_tuning.json")

# %% folded=true
if tuned:
    runs = tuned["runs"]
    losses = {f"G = {groups}": run["held_out"] for groups, run in runs.items()}
    steps, axis = runs["4"]["step"], {"x_label": "steps of tuning", "y_label": "nats a token"}
    axes = plots.curves(steps, losses, **axis)
    axes.set_ylim(bottom=min(map(min, losses.values())) - 0.2)
    said = [f"{name} goes from {run[0]:.2f} to {run[-1]:.2f}" for name, run in losses.items()]
    plots.show(axes, f"On more unseen text than above, {'; '.join(said)} nats.")
else:
    print("No tuning is recorded here; the command above makes the record.")

# %% [markdown]
# $G = 4$ is the control: it shows what learning on does to a model from which nothing was taken.
# How much of what the mean destroyed has come back, and at how many bytes a token would you stop?

# %% [markdown] covers="N11"
# ## One small vector for all heads
#
# Sharing heads throws keys away. Could one keep something *smaller than keys*, from which all keys
# can be made? A first idea: keep what the layer reads, $x$. Our layer makes $2 H D = 256$ numbers
# out of 128, so $x$ is half the cache and nothing is lost. What does that cost?


# %%
def flops_of_a_step(n, wide=128, made=256):
    """Make keys and values of n tokens out of x; attend to them with one query of each head."""
    return 2 * n * wide * made, 4 * 4 * n * 32


making, attending = flops_of_a_step(512)
print(
    f"each step makes all keys anew: {making / attending:.0f} times the FLOPs of attending to them"
)

# %% [markdown]
# *Latent attention* (MLA, [DeepSeek-V2](https://arxiv.org/abs/2405.04434)) keeps a small vector
# $c_j$ of $R$ numbers a token, made by one matrix; head $h$ has $k_j = c_j U_h$ and
# $v_j = c_j W_h$. The trick is where one puts the bracket:
#
# $$ q \cdot (c_j U_h) \;=\; (q\, U_h^\top) \cdot c_j, \qquad
#    \sum_j p_j\, (c_j W_h) \;=\; \Bigl(\sum_j p_j\, c_j\Bigr)\, W_h $$
#
# Instead of all latents up to keys, one query goes down: the projection is *absorbed*. For latents
# of 64 and keys of 128:

# %%
rng = np.random.default_rng(12)
c, up, q = rng.standard_normal((4096, 64)), rng.standard_normal((64, 128)), rng.standard_normal(128)
keys = c @ up  # (4096, 128): what we do not want
np.testing.assert_allclose(keys @ q, c @ (up @ q))
print(
    f"up first {2 * 4096 * 64 * 128 + 2 * 4096 * 128:>10,} FLOPs and {keys.nbytes:,} bytes of keys"
)
print(f"down first {2 * 64 * 128 + 2 * 4096 * 64:>8,} FLOPs and none")

# %% [markdown]
# One thing stands in the way. Keys are turned by their position, as
# [chapter 03](03_positions.ipynb) says, and so are ours. Then a turn stands between $q$ and $U$,
# another one for each distance, and there is no one matrix to absorb:

# %%
up, q = rng.standard_normal((8, 32)), rng.standard_normal((1, 32))
at = {j: rotate(q, np.array([9])) @ rotate(np.eye(32), np.full(32, j)).T for j in (9, 8, 2)}
absorbed = {j: turned @ up.T for j, turned in at.items()}
for j in (8, 2):
    print(f"key {j}: the lowered query differs by {np.abs(absorbed[j] - absorbed[9]).max():.1f}")

# %% [markdown]
# So MLA lets the positions go apart: a key is $[\,c_j U_h \,|\, r_j\,]$, where the short $r_j$ is
# turned, and is the same for all heads. What is kept is $[\,c_j \,|\, r_j\,]$, however many heads
# there are. The reference against full attention to the keys that it never builds:

# %%
heads, rank, content, rotary = 16, 64, 32, 16
q, _, _ = random_qkv(1, heads=heads, width=content + rotary)
_, kept, _ = random_qkv(4096, width=rank + rotary)
key_up, value_up = latent.random_matrices(heads, rank, content, content)
latents = kept[..., :rank]  # a view
out = latent.attention(q, kept, latents, key_up=key_up, value_up=value_up)
keys, values = latent.unfolded(kept, latents, key_up=key_up, value_up=value_up)
np.testing.assert_allclose(out, full.attention(q, keys, values), atol=1e-5)
print("kept", kept.shape, format_bytes(kept.nbytes), "- never built", keys.shape, values.shape)
print(format_bytes(keys.nbytes + values.nbytes), "of keys and values")

# %% [markdown]
# [Exercise 12.4](../exercises/12_inference.ipynb#12.4-Absorb-the-projection) asks for it, with the
# memory graded: no keys. Ours is [`reference/latent.py`](../attncourse/reference/latent.py).
#
# DeepSeek-V2 has 128 heads of 128, $R = 512$, and a turned key of 64.

# %% folded=true
widgets.guess(
    "How many times as many numbers would ordinary heads keep for each token and layer?",
    lambda: 2 * 128 * 128 / latent.size_bytes(1, 512, 64, dtype_bytes=1),
    unit="times",
    explain="2 · 128 · 128 = 32,768 against 512 + 64 = 576: as much as 2.25 of its heads.",
)

# %% [markdown]
# **What is kept of one token, to scale.** A floor is a head that has its own keys and values.
# Change the heads: which tower follows, and which do not? How many groups weigh as much as the
# latent?


# %%
def towers(heads, groups, rank, width=128):
    """For each way its floors, and what lies on each."""
    floor = [("key", width), ("value", width)]
    ways = {"MHA": (heads, floor), "GQA": (min(groups, heads), floor), "MQA": (1, floor)}
    return ways | {"MLA": (1, [("latent", rank), ("turned", width // 2)])}


# %% folded=true
live_kept = plots.LiveKept(towers(64, 8, 512), high=64)


def draw_kept(heads, groups, rank):
    ways = towers(heads, groups, rank)
    live_kept.update(ways)
    numbers = {way: floors * sum(w for _, w in floor) for way, (floors, floor) in ways.items()}
    whole = numbers.pop("MHA")
    said = ", ".join(f"{way} {whole / n:.3g} times less" for way, n in numbers.items())
    return f"{heads} heads of 128 keep {whole:,} numbers a token and layer; {said}."


# %%
some = widgets.choice([8, 16, 32, 64], 64)
sizes = {"groups": widgets.choice([1, 2, 4, 8], 8), "rank": widgets.choice([128, 256, 512], 512)}
widgets.explore(draw_kept, live_kept.figure, heads=some, **sizes)

# %% [markdown]
# And would our model bear it? Keys and values of a layer come from one matrix, $256 \times 128$.
# Cut it to rank $R$ by its singular values: then all keys and values of a token are made of $R$
# numbers, with nothing learned anew. At which rank do you expect it to break?


# %%
def of_rank(rank):
    weights = dict(small.weights)
    for layer in range(4):
        both = weights[f"layers.{layer}.qkv"].copy()
        left, sizes, right = np.linalg.svd(both[128:], full_matrices=False)  # keys and values
        both[128:] = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        weights[f"layers.{layer}.qkv"] = both
    return dataclasses.replace(small, weights=weights)


# %% folded=true
ranks = [16, 32, 48, 64, 96, 128]
by_rank = [of_rank(rank).loss(unseen) for rank in ranks]
axis = {"x_label": "rank R: numbers from which keys and values are made", "y_label": "nats a token"}
axes = plots.curves(ranks, {"loss": by_rank}, **axis)
axes.set_ylim(bottom=min(by_rank) - 0.1)
said = f"{by_rank[ranks.index(64)]:.2f} at 64, {by_rank[ranks.index(96)]:.2f} at 96"
plots.show(
    axes, f"The loss is {by_rank[0]:.2f} at rank 16, {said}, and {by_rank[-1]:.2f} as trained."
)

# %% [markdown]
# Compare 64 numbers here with the 64 of $G = 1$ above, before its tuning. The heads differ, but
# what they are made of they have in common. (Our keys are turned as a whole, so this model could
# not absorb; one has to train for it.)

# %% [markdown] covers="N12"
# ## Fewer bits
#
# Fewer numbers, or smaller ones. *Quantising* keeps $x \approx s \cdot z$ with a small integer $z$
# and one *scale* $s$ for a run of numbers: with $b$ bits, $|z| \le 2^{b-1} - 1$, and the largest
# number of the run decides.

# %%
row = np.array([[0.11, -0.42, 0.38, 7.0, -0.25]])
for bits in (8, 4):
    numbers, scale = quantised_cache.quantise(row, axis=-1, bits=bits)
    print(f"{bits} bits, scale {scale[0, 0]:.3f}:", numbers[0], np.round(numbers[0] * scale[0], 2))

# %% [markdown]
# One outlier, and in four bits the rest is gone. So: who shares a scale? Here are keys of the
# model, as magnitudes. Are its large numbers in rows, some tokens, or in columns, some channels?

# %%
keys = np.abs(small.qkv(unseen[:64])[1][1][1])  # layer 1, head 1: (T, D)
axes = plots.heatmap(keys, title="size of each number in 64 keys", x="channel", y="token")
spread = {name: keys.max(axis) for name, axis in (("channels", 0), ("tokens", 1))}
said = [f"{name} {size.max() / np.median(size):.1f}" for name, size in spread.items()]
plots.show(axes, f"Largest over median of the maxima: {', '.join(said)}.")

# %% [markdown]
# Where columns are large, a scale for each channel fits keys better than one for each token: so
# found [KIVI](https://arxiv.org/abs/2402.02750) in large models, for keys and not for values. Does
# it matter in ours, and from how many bits on? Every key and value is rounded; 32 numbers share a
# scale both ways.


# %%
def in_bits(bits, axis):
    """Attention to rounded keys and values; keys share a scale along `axis`."""

    def rounded(x, axis):
        runs = x.reshape(*x.shape[:-2], -1, 32, x.shape[-1])
        return quantised_cache.dequantise(*quantised_cache.quantise(runs, axis, bits=bits)).reshape(
            x.shape
        )

    def attend(q, k, v):
        return full.attention(q, rounded(k, axis), rounded(v, -1), causal=True)

    return dataclasses.replace(small, attention=(attend,) * 4)


# %% folded=true
widgets.guess(
    "Four bits instead of 32 for each number, and a scale for each channel of the keys: by how "
    "many nats a token does the loss grow?",
    lambda: in_bits(4, -2).loss(unseen) - small.loss(unseen),
    unit="nats",
    explain=lambda grown: f"From {small.loss(unseen):.3f} nats: {grown / small.loss(unseen):.1%}.",
)

# %%
bits = [2, 3, 4, 8]
shared = {"keys: a scale for each channel": -2, "keys: a scale for each token": -1}
losses = {name: [in_bits(b, axis).loss(unseen) for b in bits] for name, axis in shared.items()}
axes = plots.curves(bits, losses, x_label="bits of a number", y_label="nats a token")
axes.set_ylim(bottom=small.loss(unseen) - 0.2)
said = [f"{line[0]:.2f} with 2 and {line[-1]:.3f} with 8" for line in losses.values()]
plots.show(axes, f"In float32 {small.loss(unseen):.3f}; bits, in this order: {'; '.join(said)}.")

# %% [markdown]
# A scale is a number too: with one of 16 bits for 32 numbers, 4 bits cost 4.5. A shorter run is
# more exact and pays more. The reference,
# [`quantised_cache`](../attncourse/reference/quantised_cache.py), keeps the newest run as it came,
# because a channel's scale is known only when its run is full, and bounds its own error:

# %%
q, k, v = random_qkv(1, 500)
off = np.abs(quantised_cache.attention(q, k, v, group=64) - full.attention(q, k, v)).max()
bound = quantised_cache.error_bound(q, k, v).max()
print(f"int8 against exact: off by {off:.4f}, at most {bound:.2f} by the bound")

# %% [markdown]
# The bound is for the worst case, where all roundings push one way.
# [Exercise 12.2](../exercises/12_inference.ipynb#12.2-Bytes-a-token) counts the bytes of all these
# caches.

# %% [markdown] covers="N13"
# ## Forget
#
# The last way is to keep fewer tokens. Room for a fixed number of them ends the growth. But whom to
# forget? The oldest: that is a window. The one that received the least weight so far, which sounds
# cleverer ([H2O](https://arxiv.org/abs/2306.14048)). Or the oldest, but never the first few.

# %% [markdown]
# Why the first? The weights of a softmax sum to 1, and a head that looks for nothing has to put
# them somewhere. In many large models that is the first token, the *attention sink*; a window that
# loses it breaks down, and with four of the first tokens kept it recovers
# ([Xiao et al. 2023](https://arxiv.org/abs/2309.17453)). Does ours have one?

# %%
maps = small.attention_maps(unseen[:512])  # (layers, H, T, T)
first = maps[..., 256:, 0].mean()
even = (1 / np.arange(257, 513)).mean()
sink = "a sink" if first > 10 * even else "no sink"
print(f"weight on the first token {first:.2%}, if all were equal {even:.2%}: {sink}")

# %% [markdown]
# Our model learned from pieces that begin anywhere, so no token is always first. Three ways to
# forget, with room for few tokens. Which one loses least, in this model?


# %%
def by_weight(room):
    """Half of the room is for the newest; else the one with the least weight so far leaves."""

    def attend(q, k, v):
        return full.attention(q, k, v, mask=kv_cache.survivors(q, k, room=room, recent=room // 2))

    return dataclasses.replace(small, attention=(attend,) * 4)


def oldest(room, first=0):
    return small.swap("longformer", window=room - 1 - first, global_tokens=first)


# %%
rooms = [32, 64, 128]
ways = {"the oldest": oldest, "the oldest, never the first 4": lambda room: oldest(room, 4)}
ways["the least regarded"] = by_weight
lost = {name: [] for name in ways}
for room in measure.progress(rooms, "forgetting", expect_seconds=4):
    for name, way in ways.items():
        lost[name].append(way(room).loss(unseen))

# %% folded=true
axes = plots.curves(
    rooms, lost, x_label="tokens that have room", y_label="nats a token", log_x=True
)
axes.set_ylim(bottom=small.loss(unseen) - 0.1)
best = {room: min(lost, key=lambda name: lost[name][at]) for at, room in enumerate(rooms)}
said = ", ".join(f"{room}: {name}" for room, name in best.items())
plots.show(
    axes, f"All kept, {small.loss(unseen):.2f} nats, as above. Who leaves, to lose least: {said}."
)

# %% [markdown]
# Did the cleverer rule win? It needs heads whose past weights tell whom they will want. **Try a
# rule for forgetting in the model that it is for**, and on its texts: a mean says nothing about a
# name needed once.
#
# Now a text three times as long as any in training. Full attention keeps everything, the window 256
# tokens.

# %%
long = small.encode(model.held_out()[1])[:1537][None]
read = {"all kept": small, "the newest 256": oldest(256)}
losses = {name: one.row_losses(long)[0] for name, one in read.items()}
in_parts = {name: line.reshape(6, 256).mean(axis=1) for name, line in losses.items()}

# %% folded=true
axis = {"x_label": "position in the text", "y_label": "nats a token"}
axes = plots.curves(np.arange(128, 1536, 256), in_parts, **axis)
axes.set_ylim(bottom=min(part.min() for part in in_parts.values()) - 0.2)
ends = [f"{name} {part[-3:].mean():.2f}" for name, part in in_parts.items()]
plots.show(axes, f"Mean loss over the second half of the text: {', '.join(ends)}.")

# %% [markdown]
# Who remembers more reads worse? Where the curves part, the distances begin that no training ever
# showed. There a token that is forgotten is better than one that is misread. A window that slides
# keeps all distances short, and its cache never grows.

# %% [markdown]
# ## In a real model
#
# A page that the model never saw, with heads that share by their mean and nothing tuned. A token is
# dark if it has become less probable. Which words survive when two heads look with one pair of
# eyes?

# %% folded=true
tried = model.trials(small, "grouped", groups=[2, 1])
widgets.in_a_real_model("groups", tried, start=2)

# %%
for groups, one in tried.items():
    kept = format_bytes(kv_cache.size_bytes(16_384, groups, 32, layers=4))
    print(f"G = {groups}: {kept} for 16,384 tokens, {max(0, one.copied):.0%} of the copying")

# %% [markdown]
# Heads that copy look for exactly one thing, and the mean of two such heads looks for neither. A
# model that is to share its heads is better trained, or at least tuned, with shared heads. (What
# is shared are bytes: fewer FLOPs are counted only because `grouped` passes over blocks that the
# mask hides, whatever $G$ is.)

# %% [markdown]
# ## Try it on a text of your own
#
# Put in the sizes of a model that you use; its card says how many layers, key/value heads and how
# wide. How long may a text be before its cache weighs as much as the weights? Then go on to
# [part two](12_serving.ipynb), where many texts want that memory at once.

# %%
layers, groups, width, billions = 32, 8, 128, 8.0  # a common shape of eight billion weights
one_token = kv_cache.size_bytes(1, groups, width, layers=layers)
print(f"{format_bytes(one_token)} a token in 16 bits")
print(f"as heavy as the weights at {2e9 * billions / one_token:,.0f} tokens, all texts together")
