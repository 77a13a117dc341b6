# %% [markdown]
# # 02 · Attention: from one dot product to a decoder
#
# A word asks, the others answer, and a dot product says how much each counts. You compute that by
# hand for three words, then go on to the block that writes one language while it reads another.
#
# <!-- summary: attention by hand; soft and hard; why 1/√d; an alignment map of two sentences; every
# mask and the row that sees nothing; a softmax that does not overflow; heads; four scores and what
# they cost; a decoder block, and where its norm belongs. -->

# %% role="setup"
import contextlib

import numpy as np

from attncourse import claims, masks, measure, plots, widgets
from attncourse.inputs import random_qkv, stream
from attncourse.reference import flash, full, scoring
from attncourse.softmax import softmax

# %% [markdown] covers="B1 B19"
# ## One dot product
#
# *The cat that chased two mice …* **was** hungry, or **were** hungry? To choose, look back for the
# subject. So let each word carry a *key*: what it is, in two numbers (a noun? a subject?). And a
# *value*: what it tells to whoever asks (how many?). The verb to come has a *query*: what it looks
# for.

# %%
words = ["cat", "chased", "mice"]
keys = np.array([[2.0, 1], [-1, 0], [2, -1]])  # a noun, a subject
values = np.array([[1.0], [0], [2]])  # how many
query = np.array([1.0, 1])  # wanted: a noun that is a subject
scores = keys @ query
print(dict(zip(words, scores.tolist(), strict=True)))

# %% [markdown]
# A *score* is the dot product of query and key: for *cat* $2 \cdot 1 + 1 \cdot 1 = 3$. The obvious
# step: take the word with the best score, and its value. That is *cat*, so *was*. Right!
#
# So what is wrong? Let the score of *mice* drift, as it may while a model learns, and follow the
# answer (dashed):

# %% folded=true
drift = np.linspace(-1, 7, 161)
rows = np.stack([np.full(161, 3.0), np.full(161, -1.0), drift], axis=1)
answers = {
    "all keys, by softmax": (softmax(rows) @ values)[:, 0],
    "the best key only": values[rows.argmax(axis=1), 0],
}
axis = {"x_label": "score of mice (that of cat is 3)", "y_label": "answer: how many"}
axes = plots.curves(drift, answers, **axis)
plots.show(axes, "The best key's answer is flat and jumps at 3; softmax's climbs from 1 to 2.")

# %% [markdown]
# Flat, then a jump. A model learns by small steps downhill, and here none changes anything. Nor
# could the best key say *both*: *the cat and the dog were*.
#
# So let all words answer, each with a *weight*. Weights should be positive, sum to 1, and grow with
# the score. The *softmax* does that: take $e^{\text{score}}$, divide by the sum.

# %%
powers = np.exp(scores)
weights = powers / powers.sum()
for word, score, power, weight in zip(words, scores, powers, weights, strict=True):
    print(f"{word:<7} score {score:4.1f}   e^score {power:6.2f}   weight {weight:.3f}")
print(f"answer: {weights @ values[:, 0]:.2f}, about one: was")

# %% [markdown]
# That is attention. For $T_q$ queries at once the dot products are one matrix product, and the
# weighted sums are another. Dividing by $\sqrt D$ is for later, [the next
# section](#Soft,-hard-and-the-square-root).
#
# $$ \mathrm{attention}(Q, K, V) = \mathrm{softmax}\Bigl(
#    \frac{\overbrace{Q}^{T_q \times D}\;\overbrace{K^\top}^{D \times T_k}}{\sqrt D} \Bigr)
#    \overbrace{V}^{T_k \times D_v} \;\in\; \mathbb R^{T_q \times D_v} $$

# %%
queries = np.array([[1.0, 1], [1, -1], [0, 0]])  # a subject, an object, anything
out = softmax(queries @ keys.T) @ values
np.testing.assert_allclose(out[0], weights @ values)
np.testing.assert_allclose(out, full.attention(queries, keys, values, scale=1))
print("how many? subject {:.2f}, object {:.2f}, anything {:.2f}".format(*out[:, 0]))

# %% [markdown]
# The last of the three is the collapse test: a query of zeros scores all keys alike, and attention
# becomes the plain mean.
#
# A weighted mean in which near things count more has an older name: *kernel smoothing* (Nadaraya
# and Watson, 1964). At the point $x$ it returns
#
# $$ \frac{\sum_j K(x, x_j)\, y_j}{\sum_j K(x, x_j)}, \qquad
#    \text{and attention is the case}\quad K(q, k) = e^{q \cdot k}. $$

# %% [markdown]
# If all keys are equally long, it is even the familiar bell curve. For
#
# $$ -\tfrac12 |q - k|^2 = q \cdot k - \tfrac12 |q|^2 - \tfrac12 |k|^2 , $$
#
# and what depends on $q$ alone cancels in the quotient, as does what all keys share.
#
# Let us smooth a text: Python's proverbs. A word's key is its place, as a point on a circle; its
# value is 1 if it is the word *better*.

# %%
with contextlib.redirect_stdout(None):
    import this
zen = "".join(this.d.get(letter, letter) for letter in this.s)


def smooth(text, word, sharpness):
    """How frequent a word is around each place of a text, by attention to places."""
    hits = np.array([[float(word == one.strip(".,!*-")) for one in text.lower().split()]]).T
    angle = np.linspace(0, np.pi / 2, len(hits))
    places = sharpness**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    bell = np.exp(-0.5 * ((places[:, None] - places) ** 2).sum(axis=-1))
    out = full.attention(places, places, hits, scale=1)
    np.testing.assert_allclose(out, bell @ hits / bell.sum(axis=1, keepdims=True))
    return out[:, 0]


# %% folded=true
narrow, wide = smooth(zen, "better", 1000), smooth(zen, "better", 50)
axis = {"x_label": "word of the text", "y_label": "share of “better” nearby"}
shown = {"sharp: long keys": narrow, "wide: short keys": wide}
axes = plots.curves(np.arange(len(wide)), shown, **axis)
lines = zen.count(" is better than ")
alt = f"{lines} lines say X is better than Y: where they crowd, one word in {1 / wide.max():.0f}."
plots.show(axes, alt)

# %% [markdown]
# The assert compared attention with the bell curve. The view pays off elsewhere: choose a kernel
# that is a product of features of $q$ and features of $k$, and the sums over $j$ need be made only
# once, for all queries. That is [chapter 07](07_linear.ipynb).
#
# [Exercise 02.1](../exercises/02_attention.ipynb#02.1-Attention-in-ten-lines) asks for attention in
# ten lines, with batches and masks. Ours is [`reference/full.py`](../attncourse/reference/full.py).

# %% [markdown] covers="B7"
# ## Soft, hard and the square root
#
# How much does the best key get? That depends on all the others.

# %% folded=true
widgets.guess(
    "One key of 1000 scores 5 more than each of the others, which are equal. Which share of the "
    "attention does it get?",
    lambda: 100 * softmax(np.array([5.0] + 999 * [0.0]))[0],
    unit="%",
    explain="e^5 is 148, against 999 times e^0: a lead must grow like the logarithm of n.",
)

# %% [markdown]
# So it matters how large scores are. Divide all of them by a *temperature* $\tau$. When $\tau$
# grows, all differences vanish and each word counts the same. When it falls towards 0, the best
# word takes all: that is *hard* attention, reached without a jump.
#
# Slide it: from which temperature on does *cat* get less than half of the attention?

# %% folded=true
sentence = "The cat that chased two mice was".split()
all_keys = np.array([[-1.0, 0], [2, 1], [0, 1], [-1, 0], [0, -1], [2, -1], [-1, 0]])
live = plots.LiveSentence(sentence, softmax(all_keys @ query), query=6)


def draw(temperature):
    shares = softmax(all_keys @ query / temperature)
    live.update(sentence, shares, query=6)
    heard = 1 / (shares**2).sum()
    return f"Temperature {temperature}: cat gets {shares[1]:.0%}; as if {heard:.1f} words counted."


# %%
widgets.explore(draw, live.figure, temperature=widgets.choice([0.1, 0.2, 0.5, 1, 2, 5, 20], 1))

# %% [markdown]
# The last number is $1 / \sum_j w_j^2$: if $m$ words have equal weights and the others none, it is
# $m$. We call it the *words heard*. (In some models hard attention draws one word, with the weights
# as chances: [Xu et al. 2015](https://arxiv.org/abs/1502.03044).)

# %% [markdown]
# A temperature is also hidden in the width $D$. Let the entries of $q$ and $k$ be independent, with
# mean 0 and variance 1. Then
#
# $$ \mathrm E[q_i k_i] = 0, \qquad \mathrm{Var}[q_i k_i] = \mathrm E[q_i^2]\,\mathrm E[k_i^2] = 1,
#    \qquad \mathrm{Var}\Bigl[\sum_{i=1}^{D} q_i k_i\Bigr] = D . $$
#
# Scores spread like $\sqrt D$. What does that do to the softmax?


# %% folded=true
def heard(width, scale):
    """How many of 1000 random keys count, on average over 200 queries."""
    q, k, _ = random_qkv(200, 1000, width=width, seed=2)
    return (1 / (full.weights(q, k, scale=scale) ** 2).sum(axis=-1)).mean()


# %% folded=true
widgets.guess(
    "1000 random keys, width D = 64, scores not divided by anything: how many keys does a query "
    "hear, on average?",
    lambda: heard(64, 1),
    unit="keys",
    explain=lambda: (
        f"Divided by 8 it hears {heard(64, 1 / 8):.0f}. Scores that spread by 8 leave the second "
        "best key far behind: chance decided, before anything was learned."
    ),
)

# %%
widths = 2 ** np.arange(0, 10, 2)
for width in widths:
    q, k, _ = random_qkv(200, 1000, width=int(width), seed=2)
    print(f"D = {width:>3}: variance of q·k {(q @ k.mT).var():6.2f}")

# %% folded=true
kept = {
    "divided by the square root of D": [heard(int(D), D**-0.5) for D in widths],
    "not divided": [heard(int(D), 1) for D in widths],
}
axis = {"x_label": "width D", "y_label": "keys heard, of 1000", "log_x": True}
axes = plots.curves(widths, kept, **axis)
left = [counts[-1] for counts in kept.values()]
plots.show(axes, f"At D = 256 a query hears {left[0]:.0f} keys if divided, {left[1]:.1f} if not.")

# %% [markdown]
# Dividing by $\sqrt D$ makes the variance 1 for every width: wide heads start as undecided as
# narrow ones. And undecided is good to learn from. The derivative of a weight $w$ by its own score
# is $w(1 - w)$: nothing at $w = 0$, nothing at $w = 1$. A softmax that is sure no longer learns.

# %% [markdown] covers="B2 B3 B4 Y6"
# ## Two sentences
#
# Where do queries come from, and where do keys? If one sentence asks itself, it is
# *self-attention*. If a *decoder* writes French while it looks at an English sentence that an
# *encoder* has read, the queries are French and the keys and values English: *cross-attention*. The
# function is the same.

# %% [markdown]
# Which English word helps to write *Le*? One would say: the word of the same place. That works for
# *Le chat* and *The cat*. But English says *The black cat is asleep*, French *Le chat noir dort*.
# Places do not match, nor do numbers. So ask for meaning. Four features made by hand: article,
# animal, colour, sleep.

# %%
english, french = "The black cat is asleep".split(), "Le chat noir dort".split()
source = np.array([[3.0, 0, 0, 0], [0, 0, 3, 0], [0, 3, 0, 0], [0, 0, 0, 2.5], [0, 0, 0, 3]])
target = np.array([[2.6, 1.7, 0, 0], [0, 3, 0, 0], [0, 1.4, 2.8, 0], [0, 0, 0, 3]])
alignment = full.weights(target, source)
for word, row in zip(french[:2], alignment, strict=False):
    print(f"{word:<5}", dict(zip(english, np.round(row, 2).tolist(), strict=True)))

# %% [markdown]
# These are the $\alpha_{1,j}$ and $\alpha_{2,j}$ of [chapter V](00_start.ipynb#The-four-texts),
# whose example is *Le chat*:
#
# $$ \alpha_{i,j} = \frac{e^{q_i \cdot k_j / \sqrt D}}{\sum_l e^{q_i \cdot k_l / \sqrt D}}, \qquad
#    \text{out}_i = \sum_j \alpha_{i,j} v_j $$
#
# Now the whole map. Where does it leave the diagonal, and which word needs two?

# %% folded=true
axes = plots.table(alignment, french, english, x="reads", y="writes", label="weight")
two = f"is {alignment[3, 3]:.0%}, asleep {alignment[3, 4]:.0%}"
plots.show(
    axes, f"Le reads The, and cat a little; chat and noir cross over; dort reads two: {two}."
)

# %% [markdown]
# *Chat noir* against *black cat*: the map crosses over. *Dort* takes two words. And *Le* glances at
# *cat*: without the noun, nobody knows whether it is *le* or *la*. A learned model finds such maps
# by itself ([Bahdanau et al. 2015](https://arxiv.org/abs/1409.0473), figure 3).

# %% [markdown]
# The map is no square. For $m$ queries and $n$ keys:
#
# $$ \underbrace{\mathrm{softmax}(QK^\top)}_{m \times n}\;\underbrace{V}_{n \times d_v}
#    \;\in\; \mathbb R^{m \times d_v} $$
#
# Cover the next cell and say both shapes aloud: 7 French and 10 English words, batch of 1, 4 heads
# of width 32 whose values are 48 wide.

# %%
q, k, v = random_qkv(7, 10, heads=4, width=32, value_width=48)
weights, out = full.weights(q, k), full.attention(q, k, v)
print("weights", weights.shape, " output", out.shape)
print("self-attention with the same function:", full.weights(k, k).shape)

# %% [markdown]
# The output is as long as the *queries* and as wide as the *values*; the keys' number is summed
# away, their width multiplied away. [Exercise
# 02.V5](../exercises/02_attention.ipynb#02.V5-A-cross-attention-module) builds the module around
# it, projections and heads included.

# %% [markdown] covers="C1-C9 Y8"
# ## What a token may see
#
# A model that learns to write the next word must not look at it. So position $i$ may see positions
# $j \le i$ only: a *causal* mask. The same three words without and with it: a line says that the
# token above may read the one below; those running down to the right are gone.

# %% folded=true
three = "cats chase mice".split()
figure, boxes = plots.figure(2, 2, height=4.6, width_ratios=(1.2, 1))
numbers = np.array([[2.0, 1.5, 0.5], [1.8, 0.4, 1.9], [0.6, 1.4, 2.2]])
for row, causal, title in zip(boxes, (False, True), ("all see all", "causal"), strict=True):
    seen = full.mask(3, 3, causal=causal)
    plots.graph(seen, row[0], title=title)
    row[0].set_xticks(range(3), three)
    plots.numbers(np.where(seen, numbers, -np.inf), three, three, row[1], x="reads", y="scores of")
plots.show(
    figure, "Causal: of nine lines six are left, and the triangle above holds minus infinity."
)

# %% [markdown]
# Beware of arrows. Ours would run from who asks to who is asked; chapter V draws them the other
# way, along the flow of information. Both draw the same mask.
#
# How does one hide a key? The first idea: multiply the finished weights of hidden keys by 0. Here
# the fourth key is hidden, and its score is large:

# %%
row, seen = np.array([3.0, 1, -1, 8]), np.array([True, True, True, False])
ways = {
    "times 0, afterwards": lambda row, seen: softmax(row) * seen,
    "score -1e9": lambda row, seen: softmax(np.where(seen, row, -1e9)),
    "score -inf": lambda row, seen: softmax(np.where(seen, row, -np.inf)),
}
for name, way in ways.items():
    one, none = way(row, seen), way(row, np.zeros(4, bool))
    print(f"{name:<20} {one.round(3)} sum {one.sum():.3f}   all hidden: {none.round(2)}")
with np.errstate(over="ignore"):
    print("-1e9 in float16 is", np.float16(-1e9))

# %% [markdown]
# Multiplied afterwards, the hidden key has already taken its share: the visible ones sum to almost
# nothing, and how little depends on what was to be hidden. Minus infinity is exact, since
# $e^{-\infty} = 0$. $-10^9$ looks the same (in float16 it *is* minus infinity) until a row has
# nothing to see: then it attends evenly to all that is hidden.

# %% [markdown]
# Minus infinity makes such a row $0 / 0$. Most code returns NaN there, which spreads to all after
# it; this course returns zeros: who hears nobody, says nothing.
#
# In a *batch* all texts have one length, so short ones are filled with *padding* that nobody may
# read. The *padding mask*, one row a text, meets the causal square by broadcasting:

# %%
lines = ["Simple is better than complex", "Readability counts"]
lengths = np.array([len(line.split()) for line in lines])
causal = masks.causal(5, 5)  # (5, 5)
padding = (np.arange(5) < lengths[:, None])[:, None, :]  # (2, 1, 5)
both = causal & padding
print(
    causal.shape, "and", padding.shape, "give", both.shape, "with", both.sum(axis=(1, 2)), "pairs"
)

# %% folded=true
figure, boxes = plots.figure(1, 2, height=3.9)
for line, mask, ax in zip(lines, both, boxes, strict=True):
    tokens = (line.split() + 3 * ["·"])[:5]
    plots.heatmap(mask, ax, title=line, x="reads", y="")
    ax.set_xticks(range(5), tokens, rotation=40)
    ax.set_yticks(range(5), tokens)
plots.mask_legend(figure, loc="outside lower center")
plots.show(figure, "A triangle; and a triangle cut off after two keys, where the padding begins.")

# %% [markdown]
# The strictest mask wins. In terms of *may attend* that is an *and*, in terms of *blocked* an *or*.
# Look up which one a library means: to PyTorch's `scaled_dot_product_attention` True is *may
# attend*, to its `MultiheadAttention` True is *blocked*.
#
# Padding may also stand on the left, so that all texts end together. Find the setting in which rows
# see nothing:

# %% folded=true
live_mask = plots.LiveMask(masks.causal(12, 12))


def draw_mask(real_tokens, causal, padding):
    place = np.arange(12)
    real = place < real_tokens if padding == "right" else place >= 12 - real_tokens
    mask = np.broadcast_to(real, (12, 12)) & full.mask(12, 12, causal=causal)
    live_mask.update(mask)
    empty = 12 - mask.any(axis=1).sum()
    return f"{mask.sum()} of 144 pairs; {empty} rows see nothing."


sides = ["right", "left"]
widgets.explore(draw_mask, live_mask.figure, real_tokens=(0, 12, 1, 7), causal=True, padding=sides)

# %% [markdown]
# Chapter V combines the two masks and leaves such rows out:

# %%
claims.check("C045")

# %% [markdown]
# **So ask of each mask: does a row see nothing, and what comes out of it?**
#
# Masks are often built in loops with clipped bounds. Comparing two ranges does the same, and a
# formula counts the entries. With $r$ real tokens out of $n$, padding right, the first $r$ rows are
# a triangle and the others full up to $r$:
#
# $$ \text{pairs} = \frac{r(r+1)}{2} + (n - r)\,r $$

# %%
n, r = 300, 120
looped = np.zeros((n, n), dtype=bool)
for i in range(n):
    for j in range(min(i + 1, r)):
        looped[i, j] = True
place = np.arange(n)
compared = (place <= place[:, None]) & (place < r)
assert (looped == compared).all() and compared.sum() == r * (r + 1) // 2 + (n - r) * r
print(f"{compared.sum():,} pairs, by loops, by arrays and by the formula")

# %% [markdown]
# And what do masks save?

# %% folded=true
eight = np.array([4096, 300, 250, 200, 150, 100, 80, 60])
widgets.guess(
    "Eight texts of 4096, 300, 250, 200, 150, 100, 80 and 60 tokens, padded to one batch, causal: "
    "which share of all scores belongs to a real token that reads itself or an earlier one?",
    lambda: 100 * (eight * (eight + 1) / 2).sum() / (8 * 4096**2),
    unit="%",
    explain="One text makes the batch long, and causal halves the rest. All else is computed, and "
    "hidden.",
)

# %%
q, k, v = random_qkv(1024)
seen = masks.causal(1024, 1024)
flops = {
    "no mask": measure.count_flops(full.attention, q, k, v),
    "masked": measure.count_flops(full.attention, q, k, v, mask=seen),
    "tiles": measure.count_flops(flash.attention, q, k, v, block_q=64, block_k=64, causal=True),
}
for name, count in flops.items():
    print(f"{name:<8} {count / 1e6:5.1f} MFLOP")

# %% [markdown]
# A mask that hides half of the pairs saves nothing: the products are made before it is looked at.
# Only code that leaves out blocks saves, as [chapter 04](04_window.ipynb) does for windows and
# [chapter 09](09_flash.ipynb) for causal tiles. As a Triton kernel it stops at the diagonal too;
# where there is Triton, its interpreter counts what is loaded:

# %% tags=["nbval-ignore-output"]
try:
    from attncourse import trace
    from attncourse.grading.stand_ins import torch
    from attncourse.kernels import flash as kernel

    tensors = [torch.from_numpy(array[..., :256, :]) for array in (q, k, v)]
    tile = {"block_q": 32, "block_k": 32}
    seen = [trace.record(kernel.attention, *tensors, **tile, causal=c) for c in (False, True)]
    expected = full.attention(*(tensor.numpy() for tensor in tensors), causal=True)
    np.testing.assert_allclose(seen[1].result.numpy(), expected, atol=1e-5)
    share = seen[1].bytes_loaded() / seen[0].bytes_loaded()
    print(f"causal, the kernel loads {share:.0%} of the bytes")
except (ImportError, RuntimeError) as reason:
    print(reason)

# %% [markdown] covers="R1 R6"
# [Exercise 02.2](../exercises/02_attention.ipynb#02.2-The-future-and-the-padding) asks for the
# combined mask of a batch.
#
# ## Softmax that does not overflow
#
# Type the formula as it stands, and it works, until scores get large. How large is too large? As
# soon as $e^s$ exceeds the largest number of the type, at the logarithm of that number:

# %%
for dtype in ("float16", "float32"):
    limit = np.log(np.float64(np.finfo(dtype).max))
    row = np.array([limit - 0.1, limit + 0.1, 0], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(row)
        print(f"{dtype}: limit {limit:5.2f}, powers", *(f"{power:.1e}" for power in powers), end="")
        print(", weights", powers / powers.sum())

# %% [markdown]
# In float16 a score of 12 is enough. The way out costs nothing: subtract from all scores the
# largest one, $m$. Numerator and denominator shrink by the same factor,
#
# $$ \frac{e^{s_i - m}}{\sum_j e^{s_j - m}} = \frac{e^{-m} e^{s_i}}{e^{-m} \sum_j e^{s_j}}
#    = \frac{e^{s_i}}{\sum_j e^{s_j}}, $$
#
# and no exponent is above 0: the largest power is 1, the sum at least 1.

# %%
row = np.array([50_000, 49_999, 0], np.float32)
print(
    "stable:", softmax(row).round(3), "  shifted by 1000, the same:", softmax(row - 1000).round(3)
)
small = np.exp(np.array([-10.0, -14, -18, -22], np.float16))
print("powers in float16:", *(f"{power:.0e}" for power in small))

# %% [markdown]
# What is far below the maximum becomes 0, and that is harmless: it counted for nothing. Is float16
# safe now? There is still the sum.

# %% folded=true
widgets.guess(
    "You add 1 a hundred thousand times, one by one, in float16. What is the sum?",
    lambda: float(np.add.accumulate(np.ones(100_000, np.float16))[-1]),
    explain="From 2048 on, neighbouring float16 numbers are 2 apart: 2048 + 1 is rounded to 2048.",
)

# %% [markdown]
# For attention that means: a row of 4096 equal scores, summed one by one in float16, gets a sum
# that is too small, so that its weights are too large. Let us see by how much:

# %%
for n in (1024, 2048, 4096, 16384):
    powers = np.ones(n, np.float16)
    one_by_one = powers.cumsum()[-1]
    weights = powers / one_by_one
    print(f"{n:>5} keys: sum {one_by_one:.0f}, weights sum to {weights.sum(dtype=np.float32):.0f}")

# %% [markdown]
# So kernels keep inputs in float16 and *accumulate* scores and sums in float32; ours all do.
# (NumPy's `sum` does so only along the last axis, and returns float16.) What remains is rounding at
# both ends, around a softmax that no large score can break.
#
# [Exercise 02.3](../exercises/02_attention.ipynb#02.3-A-softmax-that-does-not-overflow) asks for
# such a softmax. [Chapter 09](09_flash.ipynb) needs it before all keys are known.

# %% [markdown] covers="B12 S1"
# ## Many heads
#
# Who chased whom? Now one query has to find *cat* and *mice* both. Asking for nouns finds both, and
# returns their mean:

# %%
keys = np.array([[2.0, 1], [-1, 0], [2, -1]])  # cat, chased, mice: a noun, a subject
values = np.array([[1.0], [0], [2]])  # how many
asks = {"nouns": [1.0, 0], "a subject": [1.0, 1], "an object": [1.0, -1]}
for what, wanted in asks.items():
    out = full.attention(3 * np.array([wanted]), keys, values, scale=1)
    print(f"asked for {what:<9}: {out.item():.2f}")

# %% [markdown]
# One softmax, one mean: *one and a half animals*. Two queries side by side keep the answers apart.
# That is what *heads* are for. A token's vector of $d = 768$ numbers is cut into 12 pieces of 64;
# each piece attends on its own, with its own softmax, and the 12 answers of 64 are put together
# again.
#
# $$ (n, 768) \;\to\; (n, 12, 64) \;\to\; (12, n, 64) $$

# %% [markdown]
# The last step looks like a detail. Why not reshape to $(12, n, 64)$ at once? Try it with four
# words of six numbers, and three heads. What does head 0 get?

# %%
vectors = np.array([[f"{word}{i}" for i in range(6)] for word in "the cat sat down".split()])
right = vectors.reshape(4, 3, 2).swapaxes(0, 1)
wrong = vectors.reshape(3, 4, 2)
print("head 0, with swapaxes:   ", *map("+".join, right[0]))
print("head 0, reshaped at once:", *map("+".join, wrong[0]))

# %% [markdown]
# Reshaped at once, head 0 gets three pieces of *the* and one of *cat*, and never hears of *sat* and
# *down*. Every shape is right, and nothing warns. **Test a reshape with names, not with shapes.**


# %%
def split(x, heads):
    """(n, d) -> (heads, n, d / heads)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def merge(x):
    """(heads, n, D) -> (n, heads · D)."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def multi_head(x, memory, weights, heads):
    """Attend from x (m, d) to memory (n, d); weights: of q, k, v and the output, (d, d) each."""
    of_q, of_k, of_v, of_out = weights
    q, k, v = split(x @ of_q, heads), split(memory @ of_k, heads), split(memory @ of_v, heads)
    return merge(full.attention(q, k, v)) @ of_out


# %% [markdown]
# Four matrices of $d \times d$, whatever the number of heads. With a framework's module we share
# the weights, and compare.

# %%
import torch

torch.manual_seed(0)
module = torch.nn.MultiheadAttention(768, 12, bias=False, batch_first=True)
x, memory = stream("heads", 0).standard_normal((2, 20, 768)).astype(np.float32)
with torch.no_grad():
    theirs, _ = module(*(torch.from_numpy(a)[None] for a in (x[:7], memory, memory)))
    weights = [w.T.numpy() for w in (*module.in_proj_weight.chunk(3), module.out_proj.weight)]
np.testing.assert_allclose(multi_head(x[:7], memory, weights, 12), theirs[0].numpy(), atol=1e-5)
print("the same output", tuple(theirs.shape), "from", sum(w.size for w in weights), "parameters")

# %% [markdown]
# PyTorch's module wants the whole width, 768. Keras' `MultiHeadAttention(num_heads, key_dim)` wants
# the width of *one head*, 64. Who passes 768 there gets twelve heads of 768. The same slip occurs
# on paper: chapters E and V both count one head of 768 where a model of twelve is meant. What is
# right then, and what is not?

# %%
n = 4096
sizes = {"12 heads of 64": (12, 64), "1 head of 768": (1, 768), "12 heads of 768": (12, 768)}
for name, (heads, width) in sizes.items():
    flops, scores = full.cost(1, heads, n, n, width).flops, heads * n * n
    print(f"{name:<15} {flops / 1e9:6.1f} GFLOP, {scores / 1e6:6.1f} M scores, √D {width**0.5:.1f}")

# %% [markdown]
# One head of 768 has the FLOPs of twelve heads, but a twelfth of their scores, and would divide by
# the wrong root. **A head's width decides what a score costs, the number of heads how many there
# are.**
#
# Keys and values can be shared by several heads. [Exercise
# 02.4](../exercises/02_attention.ipynb#02.4-Many-heads,-few-keys) does that without copying them,
# and its memory is graded.

# %% [markdown] covers="B8-B11"
# ## Four ways to score
#
# The dot product asks: do they point the same way? So with $Q = K = X$ it is symmetric: *black*
# scores for *cat* what *cat* scores for *black*. But an adjective needs its noun more than the noun
# needs it. A learned matrix in between breaks the symmetry, and lets the widths differ:

# %% [markdown]
# | score | formula | learned |
# |---|---|---|
# | dot | $q \cdot k$ | nothing |
# | scaled dot | $q \cdot k / \sqrt D$ | nothing |
# | general, bilinear (Luong) | $q^\top W k$ | $W$ |
# | additive (Bahdanau) | $u \cdot \tanh(W_q q + W_k k)$ | $W_q, W_k, u$ |

# %%
x = np.array([[1.0, 0.2], [0.3, 1.0]])  # black, cat: a colour, an animal
W = np.array([[0.0, 2], [0.5, 0]])  # colours look for animals, more than animals for colours
for name, scores in {"dot": scoring.dot(x, x), "general": scoring.multiplicative(x, x, W)}.items():
    print(f"{name:<8} black asks cat {scores[0, 1]:.2f}, cat asks black {scores[1, 0]:.2f}")
of_q, of_k = np.array([[1.0], [-1]]), np.array([[2.0], [1]])
low = scoring.bilinear(x, x, of_q, of_k)
np.testing.assert_allclose(low, scoring.multiplicative(x, x, of_q @ of_k.T), atol=1e-12)

# %% [markdown]
# The assert shows where the matrix went in a Transformer: $x^\top W y = (W_q x)\cdot(W_k y)$ with
# $W = W_q^\top W_k$. Its projections *are* the general score, of a rank no larger than the head.
#
# The additive score came first. Why the tanh? Leave it out, and see what is left:

# %%
q, k, _ = (array[0, 0] for array in random_qkv(4, 6, width=8))
of_q, of_k, vector = scoring.random_parameters(8, 16)
added = (q @ of_q)[:, None] + (k @ of_k)[None]  # (4, 6, 16): one vector for each pair
without, with_tanh = softmax(added @ vector), softmax(np.tanh(added) @ vector)
np.testing.assert_allclose(
    with_tanh, softmax(scoring.additive(q, k, of_q, of_k, vector)), atol=1e-6
)
for name, weights in {"without tanh": without, "with tanh": with_tanh}.items():
    print(f"{name:<13} rows 0 and 1:", weights[0].round(2), weights[1].round(2))

# %% [markdown]
# All queries get the same weights! Without tanh the score is $a(q) + b(k)$, and the softmax cancels
# $a(q)$, as it cancels everything that all keys share. A sum can match nothing; it takes a bend.
#
# And the price of the bend: no matrix product makes it. Each pair has a vector of its own:

# %%
D, hidden = 64, 16
table = {
    "dot": (0, 2 * D, 0),
    "general": (D * D, 2 * D, 0),
    "additive": (2 * D * hidden + hidden, 3 * hidden, hidden),  # a sum, and u · tanh of it
}
for name, (learned, flops, tanh) in table.items():
    print(f"{name:<9} {learned:>5} parameters; a pair takes {flops:>3} FLOPs and {tanh:>2} tanh")

# %% [markdown]
# Counted in FLOPs, additive scores with 16 hidden numbers take little more than a third of what dot
# products of width 64 take. Would you bet on the clock to agree? The dashed lines scale the time of
# 1024 dot-product queries by the FLOPs.

# %%
lengths = [4, 64, 1024]
of_q, of_k, vector = scoring.random_parameters(D, hidden)
W = of_q @ of_k.T
score = {
    "dot": lambda q, k: scoring.dot(q, k, scale=D**-0.5),
    "general": lambda q, k: scoring.multiplicative(q, k, W),
    "additive": lambda q, k: scoring.additive(q, k, of_q, of_k, vector),
}
inputs = {n: random_qkv(n)[:2] for n in lengths}
often = {"repeats": 9, "at_least": 3, "at_most": 0.15}
timings = {
    name: [measure.seconds(way, *inputs[n], **often) for n in lengths]
    for name, way in measure.progress(score.items(), "timing", expect_seconds=1)
}

# %% folded=true
rate = 2 * D * 1024**2 / timings["dot"][-1].median
added = {"dot": 0, "general": 2 * D * D, "additive": 4 * D * hidden}  # for each token
expected = {
    name: [(flops * n * n + added[name] * n) / rate for n in lengths]
    for name, (_, flops, _) in table.items()
}
axes = plots.growth(lengths, timings, expected, title="time of all scores")
plots.show(axes, "Points are measured, dashed lines foretold. Which scores leave their line?")

# %% tags=["nbval-ignore-output"]
ratios = [
    slow.low / fast.low for slow, fast in zip(timings["additive"], timings["dot"], strict=True)
]
said = ", ".join(f"{ratio:.0f} at n = {n}" for ratio, n in zip(ratios, lengths, strict=True))
print(f"additive over dot, in time: {said}")

# %%
claims.check("C481", f"additive over dot, in FLOPs: {3 * hidden / (2 * D):.2f}; time is above")

# %% [markdown]
# Keep two checks. **FLOPs compare only what runs at the same rate**: matrix products are fast
# everywhere, a tanh is not. And **"at all lengths" is tested at the short end** too, where the call
# itself takes longer than its numbers.
#
# [Exercise 02.5](../exercises/02_attention.ipynb#02.5-Additive-scores-in-tiles) makes additive
# scores in little memory; [02.V14](../exercises/02_attention.ipynb#02.V14-What-a-pair-costs) counts
# what a pair costs. All four are in [`reference/scoring.py`](../attncourse/reference/scoring.py).

# %% [markdown] covers="B5 B6 B18 D1-D4 Y8"
# ## A decoder block
#
# Everything is there to write French while reading English. A decoder block has three parts.
# *Masked self-attention*: $Q, K, V$ from the French so far. *Cross-attention*: $Q$ from the French,
# $K, V$ from the English. And an *MLP*, two matrices with a bend in between, the *ReLU*
# $\max(0, x)$, for each token alone:
#
# $$ \mathrm{mlp}(x) = W_2 \max(0, W_1 x), \qquad W_1 : d \to 4d, \quad W_2 : 4d \to d $$

# %%
d = 16
draw_weights = stream("decoder", 0).standard_normal
own = [draw_weights((d, d)) / d**0.5 for _ in range(4)]
cross = [draw_weights((d, d)) / d**0.5 for _ in range(4)]
up, down = draw_weights((d, 4 * d)) / d**0.5, draw_weights((4 * d, d)) / (4 * d) ** 0.5


def attend(x, memory, weights, mask=None):
    """One head, to be short: queries from x (m, d), keys and values from memory (n, d)."""
    q, k, v = x @ weights[0], memory @ weights[1], memory @ weights[2]
    return full.attention(q, k, v, mask=mask) @ weights[3]


# %%
parts = {
    "masked self-attention": lambda x, src: attend(x, x, own, masks.causal(len(x), len(x))),
    "cross-attention": lambda x, src: attend(x, src, cross),
    "MLP": lambda x, src: np.maximum(x @ up, 0) @ down,
}

# %% [markdown]
# Which word hears which? Do not read the formulas; ask the functions. Change one word's vector, and
# see which outputs move. (The vectors are random: who *can* hear whom does not depend on them.)
# Draw the three patterns on paper first: rows are the four French words, columns the four French
# and then the five English ones.


# %%
def hears(part, x, src):
    """Bool (m, m + n): which outputs change with which of the m + n input words."""
    before, columns = part(x, src), []
    for word in range(len(x) + len(src)):
        changed = np.concatenate([x, src])
        changed[word] += 1
        after = part(changed[: len(x)], changed[len(x) :])
        columns.append(np.abs(after - before).max(axis=1) > 1e-9)
    return np.stack(columns, axis=1)


# %% folded=true
x, src = draw_weights((4, d)), draw_weights((5, d))
figure, boxes = plots.figure(1, 3, width=8.2, height=2.8)
for (name, part), ax in zip(parts.items(), boxes, strict=True):
    plots.heatmap(hears(part, x, src), ax, title=name, x="", y="")
    ax.set_xticks(range(9), french + english, rotation=90, fontsize=8.5)
    ax.set_yticks(range(4), french if ax is boxes[0] else 4 * [""])
    ax.axvline(3.5, color="#888888", linewidth=2)
plots.mask_legend(figure, ("not heard", "heard"), loc="outside lower center")
plots.show(figure, "A triangle of French; all of English, and each word itself; a diagonal.")

# %% [markdown]
# **A triangle, a rectangle, a diagonal**: that is a decoder block. In the MLP no token hears
# another, which is why it is called *position-wise*, and not attention. Chapter V lists all three:

# %%
claims.check("C040")

# %% [markdown]
# How much of the block is attention? In parameters it is half: $4d^2$ in each attention, $8d^2$ in
# the MLP. In FLOPs it depends. All these weights take the same for each token, whatever $n$ is; the
# pairs, $QK^\top$ and weights times $V$ in both attentions, take more in a longer text. (Count full
# squares: a mask saves nothing.)


# %% folded=true
def even_length(d=768):
    """The first length at which the pairs take as many FLOPs as the weights."""
    weights = 32 * d * d
    return next(
        n for n in range(1, 10**6) if 2 * full.cost(1, 12, n, n, d // 12).flops >= weights * n
    )


widgets.guess(
    "A decoder block of width 768, source and target equally long: from which length on do the "
    "n × n pairs take more FLOPs than all weights together?",
    even_length,
    unit="tokens",
    explain="Weights take 2 · 16d² FLOPs a token, pairs 2 · 4nd. Long texts are paid for in pairs.",
)

# %% [markdown]
# Now to stack blocks. The plain way: each takes what the last one returned. Do it with attention
# alone, and watch how far words stay apart:

# %%
words = random_qkv(64, width=32, seed=4)[0][0, 0].astype(float)
plain, added = words, words
for layer in range(1, 13):
    plain = full.attention(plain, plain, plain)
    added = added + full.attention(added, added, added)
    if layer in (1, 4, 12):
        apart = [np.std(one - one.mean(axis=0)) / np.std(one) for one in (plain, added)]
        print(f"after {layer:>2} layers: apart {apart[0]:4.0%}, with a residual {apart[1]:.0%}")

# %% [markdown]
# Means of means of means: after twelve layers all words are one. So each part only *adds* to what
# is there: $x + \mathrm{part}(x)$, the *residual* path. Now the numbers grow instead, and a *layer
# norm* holds them: each token minus its mean, over its standard deviation. Where does it go?
#
# $$ \text{post-norm: } \mathrm{norm}\bigl(x + \mathrm{part}(x)\bigr) \qquad
#    \text{pre-norm: } x + \mathrm{part}\bigl(\mathrm{norm}(x)\bigr) $$


# %%
def norm(x):
    return (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)


def post_norm_block(x, src):
    """The block of the first Transformer: the norm comes after each sum."""
    for part in parts.values():
        x = norm(x + part(x, src))
    return x


seen = hears(post_norm_block, x, src)
assert (seen[:, :4] == masks.causal(4, 4)).all() and seen[:, 4:].all()
print("the whole block: a triangle of French, all of English; each output's std", end=" ")
print(post_norm_block(x, src).std(axis=1).round(3))

# %% [markdown]
# One line differs. Chapter V says that pre-norm makes "easier gradient flow" and "more stable
# training". Let us train both to spell the proverbs: small stacks of 2 and 20 blocks, 25 steps of
# Adam, full steps from the first (in [`training/norms.py`](../attncourse/training/norms.py), in
# torch). This takes seconds. The loss is $-\ln p$ of the right letter, in *nats*, on average.

# %%
from attncourse.training import norms

settings = [(depth, pre) for depth in (2, 20) for pre in (False, True)]
trained = {
    (depth, pre): norms.train(zen, depth=depth, pre=pre)
    for depth, pre in measure.progress(settings, "training", expect_seconds=4)
}

# %% tags=["nbval-ignore-output"]
letters = np.array([zen.count(letter) for letter in sorted(set(zen))]) / len(zen)
print(f"knowing only how frequent each letter is: {-(letters @ np.log(letters)):.2f} nats a letter")
for depth in (2, 20):
    post, pre = (np.mean(trained[depth, pre].losses[-5:]) for pre in (False, True))
    print(f"{depth:>2} blocks: post-norm {post:.2f}, pre-norm {pre:.2f}")

# %% [markdown]
# Compare the two while they are shallow, and then: does the deep post-norm stack know more than how
# frequent letters are? To see why, follow the gradient from the last block down to the first,
# before training and after its 25 steps:

# %% folded=true
figure, boxes = plots.figure(1, 2, height=3.3, sharey=True)
for ax, when in zip(boxes, ("before", "after"), strict=True):
    for pre, style in ((True, "-"), (False, "--")):
        line = getattr(trained[20, pre], when)
        colour = plots.SERIES[0 if pre else 1]
        ax.plot(range(1, 21), line, style, color=colour, label="pre-norm" if pre else "post-norm")
    ax.set_title("before training" if when == "before" else "after 25 steps", loc="left")
    ax.set(yscale="log", xlabel="block", xticks=[1, 5, 10, 15, 20])
    ax.grid(axis="y")
boxes[0].set_ylabel("gradient, over that of block 20")
boxes[0].legend(loc="lower right", frameon=False)
assert trained[20, False].after[0] < 0.01 and trained[20, True].after[0] > 0.5
plots.show(figure, "Alike before training; after it, post-norm's gradient dies on the way down.")

# %% [markdown]
# Training makes the difference: as parts grow, so does the sum, and the norm after it divides
# everything, the path included. Two parts in each of 20 blocks (no cross-attention here): forty
# factors below 1 multiply, for the gradient and for what tells words apart. Pre-norm never divides
# the path. Hence post-norm's *warm-up*, small first steps
# ([Xiong et al. 2020](https://arxiv.org/abs/2002.04745)).

# %% [markdown]
# Last, *dropout*: in training, each weight is set to 0 with chance $p$, typically 0.1, and the
# others are divided by $1 - p$. A kept weight counts $w_j / (1 - p)$, with chance $1 - p$: on
# average nothing changes. But the sum of a row is no longer 1:
#
# $$ \mathrm E\Bigl[\sum_j \tilde w_j\Bigr] = 1, \qquad
#    \mathrm{Var}\Bigl[\sum_j \tilde w_j\Bigr] = \frac{p}{1 - p} \sum_j w_j^2 $$

# %%
p = 0.1
for n in (16, 64, 512):
    q, k, _ = random_qkv(n, heads=8192 // n)
    weights = full.weights(q, k)
    sums = (weights * (stream("dropout", 0).random(weights.shape) >= p) / (1 - p)).sum(axis=-1)
    formula = np.sqrt(p / (1 - p) * (weights**2).sum(axis=-1).mean())
    print(f"{n:>3} keys: mean {sums.mean():.3f}, spread {sums.std():.3f}, formula {formula:.3f}")

# %% [markdown]
# There is $\sum w^2$ again, one over the keys heard: a row that hears many hardly notices, a row
# that hears one loses everything in one case of ten.
#
# [Exercise 02.6](../exercises/02_attention.ipynb#02.6-A-decoder-block) asks for the pre-norm block,
# in NumPy.

# %% [markdown]
# ## In a real model
#
# The course brings a decoder: four layers of masked self-attention, four heads each, and an MLP;
# pre-norm, 0.92 million numbers, [trained by us](../attncourse/model/train.py) on Python's standard
# library. [`model/decoder.py`](../attncourse/model/decoder.py) is this chapter in NumPy, with three
# changes: q and k are turned by their position ([chapter 03](03_positions.ipynb)), the norm leaves
# out the mean, the ReLU is squared.

# %%
from attncourse import model

small = model.load()
print(small.generate("    def close(self):\n", 40, temperature=0.7, seed=1))

# %% [markdown]
# No poet, but it has seen Python. Now it reads a page that it never saw, while attention is
# silenced where you choose, which saves its FLOPs. A token is dark if it became less probable: by
# how many nats $-\ln p$ grew. *Copying* is the model's gain on 128 shuffled tokens that it sees a
# second time.

# %% folded=true
everywhere = [(layer, head) for layer in range(4) for head in range(4)]
silent = {
    f"layer {i}": small.without(*[one for one in everywhere if one[0] == i]) for i in range(4)
}
tried = model.compare(small, silent | {"all layers": small.without(*everywhere)})
widgets.in_a_real_model("silent", tried)

# %% [markdown]
# Without attention no token hears another: all that is left is which token often follows *this*
# one. The difference is what this course is about, and later chapters end on this page, with their
# mechanism in place.

# %% [markdown]
# ## Try it on your own text
#
# Paste a mail, a chapter, a page of code instead of the proverbs, and choose a word that you use
# too often. Where does it pile up? Try a sharpness of 10 and of 10,000: which of the two tells
# more, and why does neither extreme? You are choosing a temperature.

# %%
text, word = zen, "is"
curve = smooth(text, word, sharpness=300)
peak = int(curve.argmax())
print(f"{word!r} is densest around word {peak} of {len(curve)}: one word in {1 / curve[peak]:.0f}")
print("…", *text.split()[max(0, peak - 6) : peak + 7], "…")

# %% [markdown]
# Next: nothing here knew the order of the words. [Chapter 03](03_positions.ipynb) brings it in, and
# opens the heads of a trained model.
