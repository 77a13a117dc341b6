# %% [markdown]
# # 03 · Who stands where: positions and heads
#
# Attention sees a bag of words. This chapter gives it their order in four ways, asks what each does
# beyond the length it was trained for, and then opens a trained model: sixteen heads, what each of
# them looks at, and how little of that can be read off a picture alone.
#
# <!-- summary: why attention needs positions; absolute places, Shaw's distances, T5's buckets,
# ALiBi and RoPE; heat maps and how they mislead; what the sixteen heads of a trained model do, and
# which of them it misses. -->

# %% role="setup"
import math

import numpy as np

from attncourse import claims, measure, model, plots, widgets
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, longformer, relative, t5
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="B13 W10"
# ## Order is lost
#
# *dog bites man* and *man bites dog* are the same three words, and only the second is news.
# Attention should be able to tell them apart: after all, every word looks at every other. Give each
# word a vector, and let it attend:

# %%
drawn = stream("words", 0).standard_normal((3, 4))
vector = dict(zip(("dog", "bites", "man"), drawn, strict=True))
for sentence in ("dog bites man", "man bites dog"):
    words = sentence.split()
    x = np.stack([vector[word] for word in words])
    for word, out in zip(words, full.attention(x, x, x), strict=True):
        print(f"{word:>6} {out.round(2)}")

# %% [markdown]
# Each word ends with the same numbers in both. A sum does not know the order of its terms, and
# attention is a weighted sum. With $\Pi$ for any shuffle of the rows:
#
# $$ \mathrm{softmax}\bigl(\Pi Q (\Pi K)^\top\bigr)\,\Pi V
#    = \Pi\,\mathrm{softmax}(QK^\top)\,\underbrace{\Pi^\top \Pi}_{1} V $$
#
# Shuffle the words, and the same outputs come, shuffled. Where the order counts, someone has to
# bring it in.

# %% [markdown]
# (A causal mask does bring in some: the first word sees one word, the second two. Decoders without
# any positions learn from that, [Kazemnejad et al. 2023](https://arxiv.org/abs/2305.19466).)
#
# The first idea: give each *place* a vector too, learned as words are, and add the two. A table of
# 512 places has 512 rows.

# %%
places = stream("places", 0).standard_normal((512, 4))
for sentence in ("dog bites man", "man bites dog"):
    words = sentence.split()
    x = np.stack([vector[word] for word in words]) + places[:3]
    print(f"{sentence}: dog becomes", full.attention(x, x, x)[words.index("dog")].round(2))

# %% [markdown]
# Now they differ. What does the token at place 600 get? Nothing: there is no such row.

# %%
try:
    places[600]
except IndexError as error:
    print(error)
beyond = np.minimum([600, 700], 511)  # a repair: the last row for all that lies beyond
print("places 600 and 700 become", *beyond)

# %% [markdown]
# With the repair, order is lost again, from 511 on. And rows that do exist are not equal either.
# Every text has a first token, few have a 512th:


# %% folded=true
def first_to_last():
    """How often row 0 is trained for each time that the last row is."""
    lengths = np.arange(1, 513)
    return (lengths > 0).sum() / (lengths > 511).sum()


widgets.guess(
    "A table of 512 places, texts of 1 to 512 tokens, each length equally often: how many times "
    "as often is the first row trained as the last?",
    first_to_last,
    unit="times",
    explain="Row p is trained by the texts that are longer than p: 512 - p of 512 lengths.",
)

# %% [markdown]
# One can replace the table by a formula. The
# [first transformer](https://arxiv.org/abs/1706.03762) took sines, and those have a row for every
# place:
#
# $$ \text{place}_p[2i] = \sin\bigl(p \cdot 10000^{-2i/D}\bigr), \qquad
#    \text{place}_p[2i+1] = \cos\bigl(p \cdot 10000^{-2i/D}\bigr) $$
#
# A row for place 600, that is. Whether a model that never met it can use it is another question; we
# will ask a model. [Exercise 03.1](../exercises/03_positions.ipynb#03.1-Places-as-sines) computes
# these rows.

# %% [markdown] covers="B14 Y7"
# ## Distances instead of places
#
# "Look at the word before" is another pair of places for each word: (1, 0), (2, 1), … (511, 510).
# As a *distance* it is always the same, −1. [Shaw et al.](https://arxiv.org/abs/1803.02155) learn a
# vector for each distance $r = j - i$, and clip: what is further away than $c$ counts as $c$.

# %% [markdown]
# With scores $s$, their softmax $p$, and two vectors for each distance, $a^K_r$ and $a^V_r$:
#
# $$ s_{ij} = \frac{q_i \cdot (k_j + a^K_r)}{\sqrt D}, \qquad
#    \text{out}_i = \sum_j p_{ij}\,(v_j + a^V_r), \qquad
#    r = \mathrm{clip}(j - i,\ {-c},\ c) $$
#
# Two tables of $2c + 1$ rows: one joins the keys and moves the scores, the other joins the values
# and tells the output how far away it was found. Here are the rows for six tokens and $c = 2$; row
# 2 is one's own place:


# %%
def rows_of(n_queries, n_keys, clip):
    """Which row of the tables each pair takes: int (n_queries, n_keys)."""
    return np.clip(np.arange(n_keys) - np.arange(n_queries)[:, None], -clip, clip) + clip


print(rows_of(6, 6, clip=2))

# %% [markdown]
# Along each diagonal one number: the distance decides alone. The formula, line by line, and two
# tests: it is what [`reference/relative.py`](../attncourse/reference/relative.py) computes, and
# with tables of zeros it is full attention.


# %%
def shaw_scores(q, k, relative_keys):
    """Shaw's scores (Tq, Tk), as the formula says: a key of its own for each pair."""
    rows = rows_of(len(q), len(k), len(relative_keys) // 2)
    return (q[:, None] * (k + relative_keys[rows])).sum(-1) / math.sqrt(q.shape[-1])


# %%
q, k, v = (array[0, 0] for array in random_qkv(40, width=8))
keys, values = relative.random_tables(2, 8, 8)  # a^K and a^V for c = 2
p = softmax(shaw_scores(q, k, keys))
by_hand = p @ v + (p[..., None] * values[rows_of(40, 40, 2)]).sum(axis=1)
ours = relative.attention(q, k, v, relative_keys=keys, relative_values=values)
np.testing.assert_allclose(ours, by_hand, atol=1e-5)
zeros = relative.attention(q, k, v, relative_keys=0 * keys, relative_values=0 * values)
np.testing.assert_allclose(zeros, full.attention(q, k, v), atol=1e-6)
print("both hold")

# %% [markdown]
# What does that buy? Make the row of distance $-1$ agree with every query and leave the others at
# zero. One row, set once, and the token before is found at every place, also where no text of the
# training ever reached:

# %%
look_back = np.zeros((5, 8))
look_back[1] = 2.5  # distance -1, for c = 2
for n in (6, 101, 512, 701):
    one = np.ones((n, 8))
    p = softmax(shaw_scores(one, 0 * one, look_back))
    print(f"token {n - 1} of {n} looks at {p[-1].argmax()}, with weight {p[-1].max():.2f}")

# %% [markdown]
# The weights fall as the text grows: many others get a little each. The distance is known at any
# length; how much attention it gets is not.
#
# And beyond the clip all distances look alike, so order is lost once more. Shuffle what is more
# than two tokens away from the last one of our 40, and it notices nothing:

# %%
shuffled = np.concatenate([stream("far", 0).permutation(37), [37, 38, 39]])
both = {"relative_keys": keys, "relative_values": values}
again = relative.attention(q, k[shuffled], v[shuffled], **both)[-1]
print("largest change in the last output:", np.abs(again - ours[-1]).max().round(5))

# %% [markdown] covers="B15"
# ### Fewer parameters?
#
# Distances are said to need fewer *parameters*, numbers that are learned. A table of 512 places of
# a model of width 768 stands once, at the entrance. Shaw's two tables stand in each of its twelve
# layers, $(2c + 1) \cdot 64$ numbers each, if the heads share them.

# %% folded=true
clips = np.arange(1, 257)
shaw_numbers = 2 * (2 * clips + 1) * 64 * 12
sizes = {"places": np.full(256, 512 * 768), "distances": shaw_numbers}
axes = plots.curves(clips, sizes, x_label="clipping distance c", y_label="parameters")
plots.show(axes, "The table of places does not grow with c; those of distances do.")

# %% [markdown]
# So "more efficient" is a statement about $c$. A textbook
# ([chapter V](00_start.ipynb#The-four-texts)) makes it without one; [the audit](17_audit.ipynb) has
# all it says. **When a method is said to need less, ask which of its sizes was chosen for that.**

# %%
print("c = 16:", 512 * 768, "parameters for places,", shaw_numbers[15], "for distances")
claims.check("C042", 512 * 768 / shaw_numbers[15])

# %% [markdown]
# ### A vector for each pair?
#
# Our `shaw_scores` is the formula and a trap: `k + relative_keys[rows]` is an array of $n \times n
# \times D$ numbers, $D$ times the scores. At 4096 tokens and $D = 64$ it would be 4 GiB in float32.
# The way out is to multiply first, and look up afterwards:
#
# $$ q_i \cdot (k_j + a_r) = \underbrace{q_i \cdot k_j}_{n \times n}
#    + \underbrace{q_i \cdot a_r}_{n \times (2c+1)} $$


# %%
def looked_up(q, k, relative_keys):
    """The same scores, from the product of each query with each row of the table."""
    gains = q @ relative_keys.T  # (Tq, 2c + 1)
    rows = rows_of(len(q), len(k), len(relative_keys) // 2)
    return (q @ k.T + np.take_along_axis(gains, rows, axis=1)) / math.sqrt(q.shape[-1])


# %% tags=["nbval-ignore-output"]
wide_q, wide_k = (array[0, 0] for array in random_qkv(256)[:2])
table = relative.random_tables(16, 64, 64)[0]
np.testing.assert_allclose(
    looked_up(wide_q, wide_k, table), shaw_scores(wide_q, wide_k, table), atol=1e-5
)
for way in (shaw_scores, looked_up):
    print(f"{way.__name__:<12} {format_bytes(measure.peak_bytes(way, wide_q, wide_k, table))}")

# %% [markdown]
# [Exercise
# 03.2](../exercises/03_positions.ipynb#03.2-Relative-values-without-a-vector-for-each-pair)
# asks for the other half, the values, in as little memory. The reference also cuts both into tiles,
# so that not even $n \times n$ numbers exist.

# %% [markdown] covers="B16 B17"
# ## Buckets
#
# Does a distance need a vector? [T5](https://arxiv.org/abs/1910.10683) learns one number for it in
# each head, a *bias*, and adds it to the score, which it does not divide by $\sqrt D$:
#
# $$ s_{ij} = q_i \cdot k_j + b_{\text{bucket}(j - i)} $$

# %% [markdown]
# And distances share: near ones have a *bucket* each, far ones a wide bucket together. Is it 900
# tokens away or 905? Who cares. Here are sixteen buckets for two directions, and a `max_distance`
# of 16: from there on, at the latest, all distances share the last.

# %%
steps = np.arange(18)
print("distance", *(f"{step:>2}" for step in steps))
for name, distance in {"  before": -steps, "   after": steps}.items():
    buckets = relative.t5_bucket(distance, n_buckets=16, max_distance=16)
    print(name, *(f"{bucket:>2}" for bucket in buckets))

# %% [markdown]
# Of the $h$ buckets of one direction half hold one distance each, $d = 0 \dots e - 1$ with
# $e = h/2$. From $e$ on they grow with the distance, up to $m$, `max_distance`:
#
# $$ \text{bucket}(d) = e + \Bigl\lfloor (h - e)\, \frac{\ln (d / e)}{\ln (m / e)} \Bigr\rfloor ,
#    \qquad \text{at most } h - 1 $$
#
# In the row *after*, look for number 8. Distance 0 is counted to those before, so one bucket is
# kept and never used:

# %%
distances = np.arange(-1000, 1001)
used = np.unique(relative.t5_bucket(distances, n_buckets=32, max_distance=128))
print("T5's 32 buckets; never used:", *set(range(32)) - set(used.tolist()))


# %% [markdown]
# T5 sets `max_distance` to 128.


# %% folded=true
def all_one():
    """From which distance on all share the last bucket."""
    buckets = relative.t5_bucket(np.arange(1000)) - 16
    return np.flatnonzero(buckets < 15).max() + 1


def draw_buckets():
    some = np.arange(-128, 129)
    labels = {"x_label": "key minus query", "y_label": "bucket"}
    axes = plots.curves(some, {"bucket": relative.t5_bucket(some)}, **labels)
    plots.show(axes, "Near distances have a step each; then the steps grow wider.")


# %% folded=true
widgets.guess(
    "T5 has 32 buckets for both directions and max_distance 128: from which distance on do all "
    "later keys share one bucket?",
    all_one,
    unit="tokens",
    explain=draw_buckets,
)

# %% [markdown]
# The bias depends on the distance alone: one number along each diagonal, which is called a
# *Toeplitz* matrix. Slide `max_distance` down, and the far stripes grow thin until all that lies
# beyond them is one colour; slide it up, and they grow wide. The biases are drawn at random here,
# as before any training.

# %% folded=true
bias_table, at = t5.random_table(32, 1), np.arange(96)
first_bias = relative.t5_bias(at, at, bias_table)[0]
live_bias = plots.LiveHeatmap(first_bias, label="added to the score", low=-2, high=2)


# %% folded=true
def draw_bias(max_distance, causal):
    bias = relative.t5_bias(at, at, bias_table, max_distance=max_distance, causal=causal)[0]
    assert (bias[1:, 1:] == bias[:-1, :-1]).all()  # Toeplitz
    seen = np.tri(96, dtype=bool) if causal else np.ones((96, 96), dtype=bool)
    live_bias.update(np.where(seen, bias, np.nan))
    numbers = f"{96 if causal else 191} distances, {len(np.unique(bias[seen]))} different numbers"
    return f"max_distance {max_distance}: {seen.sum()} pairs, {numbers}."


reaches = widgets.choice([17, 24, 32, 64, 128, 256], 32)
widgets.explore(draw_bias, live_bias.figure, max_distance=reaches, causal=False)

# %% [markdown]
# So few numbers need no $n \times n$ array. A tile of 64 queries and 64 keys has 127 distances, and
# each of its rows is 64 of them, each time moved on by one.
# [`reference/t5.py`](../attncourse/reference/t5.py) makes the bias of one tile at a time, inside
# the online softmax of [chapter 09](09_flash.ipynb#The-online-softmax):

# %% tags=["nbval-ignore-output"]
n, heads = 1024, 4
q4, k4, v4 = (array[0] for array in random_qkv(n, heads=heads, width=32))
four = t5.random_table(32, heads)


def whole_bias(q, k, v, table):
    bias = relative.t5_bias(np.arange(n), np.arange(n), table)  # (H, n, n)
    return full.attention(q, k, v, bias=bias)


whole = whole_bias(q4, k4, v4, four)
np.testing.assert_allclose(t5.attention(q4, k4, v4, table=four), whole, atol=1e-5)
print("whole bias:", format_bytes(measure.peak_bytes(whole_bias, q4, k4, v4, four)))
print("by tiles:  ", format_bytes(measure.peak_bytes(t5.attention, q4, k4, v4, table=four)))

# %% [markdown]
# [Exercise 03.V11](../exercises/03_positions.ipynb#03.V11-T5's-buckets) asks for the buckets, and
# [03.3](../exercises/03_positions.ipynb#03.3-T5's-bias,-a-tile-at-a-time) for the attention that
# never holds the bias.

# %% [markdown]
# ## Slopes and turns
#
# Two ways need no table. [ALiBi](https://arxiv.org/abs/2108.12409) learns nothing at all: each head
# has a fixed *slope* $m_h$, and a key loses $m_h$ for each token that it is further away. Since
# $e^{-m d}$ halves every $\ln 2 / m$ tokens, the slopes are half-lives:

# %%
slopes = relative.alibi_slopes(8)
print("halved every", *(f"{math.log(2) / slope:.1f}" for slope in slopes), "tokens")

# %% folded=true
back = np.arange(128)
random_bias = relative.t5_bias(np.array([127]), np.arange(128), t5.random_table(32, 1))[0, 0]
weights = {f"ALiBi, head {head}": np.exp(-slopes[head] * back) for head in (2, 4, 6)}
weights["T5, before training"] = np.exp(random_bias[::-1]) / np.exp(random_bias.max())
labels = {"x_label": "tokens back", "y_label": "factor on the weight, largest 1"}
axes = plots.curves(back, weights, **labels)
plots.show(
    axes, "ALiBi's factors fall with the distance; T5's may rise and fall as training likes."
)

# %% [markdown]
# ALiBi falls with the distance because it was built to. T5's biases are free: training may favour
# what is far away. A textbook says of T5 what is true of ALiBi. **To check "it decays", look at
# each step between neighbours**, not at the two ends:

# %%
rises = (np.diff(random_bias[::-1]) > 0).sum()
print(f"steps at which the bias of the curve above rises with the distance: {rises}")
claims.check("C179")

# %% [markdown]
# ### Turn them
#
# The fourth way adds nothing to the scores. [RoPE](https://arxiv.org/abs/2104.09864) takes the
# numbers of a query or key in pairs. Each pair is a hand of a clock, and place $i$ turns it by the
# angle $i\theta$. With $R_i$ for that turn:
#
# $$ (R_i q) \cdot (R_j k) = q^\top R_i^\top R_j\, k = q^\top R_{-i}\, R_j\, k
#    = q^\top R_{j-i}\, k $$
#
# Back by $i$ and forward by $j$ is $j - i$: places go in, a distance comes out.

# %%
q_hand, k_hand = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]])
for i, j in ((3, 0), (103, 100), (600, 597), (600, 0)):
    turned_q, turned_k = (
        relative.rotate(x, np.array([place])) for x, place in ((q_hand, i), (k_hand, j))
    )
    print(f"query at {i:>3}, key at {j:>3}: product {(turned_q @ turned_k.T).item():+.6f}")

# %% [markdown]
# The first three are three tokens apart. Values are not turned, nothing is stored for a pair, and
# whatever comes after, a window, a cache, FlashAttention, takes the turned q and k as if nothing
# had happened. Many models of today do it this way, all of Llama's among them.
# [Exercise 03.4](../exercises/03_positions.ipynb#03.4-Turn-the-pairs) writes it.

# %% [markdown]
# One hand alone would soon come round and see far as near. So each pair has its own speed,
# $\theta_t = \text{base}^{-2t/D}$ for pair $t$: second, minute and hour hand. Here are four of
# sixteen. Slide the query: all hands run, and the angle between query and key stays. Set the base
# to 1: which distance looks like 0?

# %% folded=true
figure, dials = plots.figure(1, 4, height=2.6)
hands, turn = [], np.linspace(0, 2 * np.pi, 60)
for number, ax in zip((0, 4, 8, 12), dials, strict=True):
    ax.plot(np.cos(turn), np.sin(turn), color=plots.PALE)
    ax.set(xticks=[], yticks=[], title=f"pair {number}", aspect="equal")
    ax.spines[:].set_visible(False)
    styles = {"query": (plots.SERIES[0], "-"), "key": (plots.SERIES[2], "--")}
    for label, (color, line) in styles.items():
        hands += ax.plot([], [], line, color=color, linewidth=3, label=label)
legend = figure.legend(*dials[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


# %% folded=true
def draw_hands(query, distance, base):
    places = np.array([query, query - distance])
    turned = relative.rotate(np.tile([1.0, 0.0], (2, 16)), places, base=base)  # all start alike
    for number, hand in enumerate(hands):
        pair, who = 4 * (number // 2), number % 2
        x, y = turned[who, 2 * pair : 2 * pair + 2]
        hand.set_data([0, x], [0, y])
    product = turned[0] @ turned[1] / 16
    return f"Query at {query}, key {distance} before it: product {product:+.2f}, at most 1."


ranges = {"query": (0, 1000, 1, 100), "distance": (0, 100, 1, 6)}
bases = widgets.choice([1, 10, 100, 1000, 10_000], 10_000)
widgets.explore(draw_hands, figure, **ranges, base=bases)

# %% [markdown]
# Does a model see all that its clock can show? One that was trained on texts of 512 tokens, with
# heads of width 32, has sixteen hands. A hand that has gone round was seen at every angle; the
# others have angles left that appear in longer texts only.


# %% folded=true
def never_round():
    """Hands that do not finish a turn in 512 tokens."""
    turn = 2 * np.pi * 10_000.0 ** (np.arange(16) / 16)
    return (turn > 512).sum()


widgets.guess(
    "Sixteen hands, base 10000: how many do not go round once within 512 tokens?",
    never_round,
    unit="hands",
    explain="A turn takes 2π · 10000^(t/16) tokens: 6 for hand 0, 353 for hand 7, 628 for hand 8.",
)

# %% [markdown]
# ## Beyond the trained length
#
# One such model comes with the course: a decoder of four layers with four heads each,
# [trained](../attncourse/model/train.py) on Python's standard library, 512 tokens at a time, with
# RoPE. What happens at token 600? Texts differ, so we ask for the same tokens each time, and let
# more and more of their text stand before them.

# %%
small = model.load()
unseen = np.concatenate([small.encode(text) for text in model.held_out()])  # never trained on
befores, starts = np.array([64, 256, 384, 512, 640, 896]), (8000, 16_000, 24_000)


def loss_of_the_same(one):
    """Nats a token for the same 3 · 128 tokens, after so many others."""
    texts = [np.stack([unseen[s - b : s + 128] for s in starts]) for b in befores]
    return [one.row_losses(text)[:, -128:].mean() for text in texts]


# %% [markdown]
# Beside it stands the same model with a window in place of full attention: no distance is ever
# larger than 256, so no hand shows an angle that was not trained.

# %%
tried = {"all that stands before": small, "a window of 256": small.swap("window", window=256)}
found = {name: loss_of_the_same(one) for name, one in tried.items()}

# %% folded=true
labels = {"x_label": "tokens read, the asked ones included", "y_label": "nats a token"}
axes = plots.curves(befores + 128, found, **labels)
axes.axvline(512, color=plots.INK, linewidth=1, linestyle=":")
axes.annotate("trained to here", (512, 0.3), (6, 0), textcoords="offset points", fontsize=9)
full_loss, near_loss = found.values()
plots.show(
    axes,
    f"Full: {min(full_loss):.2f} nats at best, {full_loss[-1]:.2f} in the longest text; "
    f"with the window {min(near_loss):.2f} and {near_loss[-1]:.2f}.",
)

# %% [markdown]
# More text helps as long as its distances were trained, and then it hurts. The window never meets
# another distance. So a formula with a row for place 600 is not yet a model that can read it: that
# takes training on longer texts, or hands that run slower
# ([Chen et al. 2023](https://arxiv.org/abs/2306.15595) squeeze all places into the trained range).

# %% [markdown] covers="E1"
# ## Reading a heat map
#
# Before we open that model, a sentence whose attention we make ourselves. Each word is of a kind,
# and asks for another: an article for its noun, a noun for its verb, a verb and a preposition for a
# noun. A slope of ALiBi lets the nearer one win.

# %%
words = "The cat sat on the mat".split()
kinds = np.eye(4)[[0, 1, 2, 3, 0, 1]]  # article, noun, verb, preposition
asks = np.eye(4)[[1, 2, 1, 1, 1, 2]]
near = relative.alibi_bias(np.arange(6), np.arange(6), np.array([0.5]))[0]
weights = full.weights(3 * asks, kinds, scale=1, bias=near)

# %%
axes = plots.table(weights, words, words, x="key j", y="query i", label="weight of the key")
cat = words.index("cat")
row, column = weights[words.index("sat")], weights[:, cat]
says = f"Row sat: {row[cat]:.0%} to cat; the row sums to {row.sum():.0%}, column cat to"
plots.show(axes, f"{says} {column.sum():.0%}.")

# %% [markdown]
# **One row is one distribution.** Row *sat* says how *sat* divides its attention. A bright cell
# (i, j) says that i takes much from j. It says nothing about what j takes from i, and a column
# sums to anything.

# %% [markdown] covers="E2 E3 E9"
# ### Patterns and what makes them
#
# Four patterns come back in most models: a *diagonal*, words that look at themselves; the same one
# lower, at the word before; a *column*, one loud key that agrees with every query; and what depends
# on the words. Choose, then tick *causal*. What can row 0 still tell?

# %% folded=true
live_map = plots.LiveHeatmap(np.zeros((6, 6)), label="weight", low=0, high=1)
live_map.ax.set_xticks(range(6), words)
live_map.ax.set_yticks(range(6), words)
content = 3 * asks @ kinds.T + near
patterns = {
    "what each asks for": content,
    "itself": 5 * np.eye(6),
    "the word before": 5 * np.eye(6, k=-1),
    "one loud key": content + 4 * (np.arange(6) == cat),
}


# %% folded=true
def draw_pattern(pattern, causal):
    seen = np.tri(6, dtype=bool) if causal else np.ones((6, 6), dtype=bool)
    shown = softmax(patterns[pattern], seen)
    live_map.update(shown)
    return f"{pattern}: row sat gives {shown[2, 1]:.0%} to cat, {shown[2, 5]:.0%} to mat."


widgets.explore(draw_pattern, live_map.figure, pattern=list(patterns), causal=False)

# %% [markdown]
# A causal mask makes *every* map a triangle: that shape says nothing about the head. And in row 0
# all heads look alike, since the first word has only itself.

# %% [markdown] covers="E4"
# ### "Symmetric" patterns
#
# If *cat* looks at *sat*, does *sat* look at *cat*, as much? Let queries be the keys, so that each
# pair has one score, whichever way round:

# %%
x = 2 * kinds + 0.3 * stream("words", 1).standard_normal((6, 4))
scores, mutual = x @ x.T / 2, full.weights(x, x)
print("cat and sat: scores", scores[1, 2].round(2), scores[2, 1].round(2))
print("             weights", mutual[1, 2].round(3), mutual[2, 1].round(3))
claims.check("C048")

# %% [markdown]
# Each row divides by its own sum, $p_{ij} / p_{ji} = Z_j / Z_i$ with $Z_i = \sum_l e^{s_{il}}$, and
# a word with many good matches has less for each. **Compare a matrix with its transpose before you
# call it symmetric**; the eye is generous.

# %% [markdown]
# ### A head that does nothing
#
# What do you see in the left map: does this head like the beginning of the text?

# %% folded=true
even = np.tri(64) / np.arange(1, 65)[:, None]
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(even, left, title="a head", label="weight", low=0, high=0.2)
plots.heatmap(
    even * np.arange(1, 65)[:, None], right, title="its weight over an even one", low=0, high=2
)
plots.show(
    figure, "Left, weights bright in the upper corner; right, the same head: even everywhere."
)

# %% [markdown]
# It gives all that it may see the same. The first rows are bright because few keys share there.
# **Before you read a picture, draw the head that does nothing**, on the same scale.

# %% [markdown]
# ### What a scale hides
#
# Beside one weight of 1, all below 0.1 looks like 0. So one *clips*: the scale ends at a
# percentile, as with seaborn's `robust=True`. Or colours follow the logarithm. One head of our
# model, three scales: on which has it a few points, on which columns, and on which does it seem to
# look at everything?

# %% folded=true
from matplotlib.colors import LogNorm, Normalize

lower = np.tri(96, dtype=bool)
one_map = small.attention_maps(small.encode(model.page())[:96])[1, 3]
seen_weights, live_scaled = one_map[lower], plots.LiveHeatmap(one_map, label="weight")
live_scaled.update(np.where(lower, one_map, np.nan))  # the future is no weight of 0
most, end = seen_weights.max(), np.percentile(seen_weights, 99)
norms = {
    "full": Normalize(0, most),
    "clipped at the 99th percentile": Normalize(0, end),
    "logarithmic": LogNorm(1e-4, 1),
}
same = {"full": seen_weights < most / 10, "logarithmic": seen_weights < 0.01}
same["clipped at the 99th percentile"] = seen_weights > end


# %% folded=true
def draw_scale(scale):
    live_scaled.image.set_norm(norms[scale])
    cells, weight = same[scale].mean(), seen_weights[same[scale]].sum() / seen_weights.sum()
    share = f"{cells:.0%} of the cells, with {weight:.0%} of the weight"
    return {
        "full": f"Hides {share}: all are within the darkest tenth of the colours.",
        "logarithmic": f"Hides who matters: half its colours are for {share}, each below 0.01.",
    }.get(scale, f"Hides {share}: from {end:.2f} to {most:.2f} all have the last colour.")


draw_scale("logarithmic")
plots.freeze(live_scaled.figure)  # with room for the widest numbers beside the bar
widgets.explore(draw_scale, live_scaled.figure, scale=list(norms))

# %% [markdown]
# None is wrong, and each hides something. **Say under a map where its scale ends, and how much lies
# beyond**: that is one line to compute.
#
# [Exercise 03.V13](../exercises/03_positions.ipynb#03.V13-What-a-head-looks-at) reads the patterns
# of this section off maps as numbers.

# %% [markdown] covers="E5 E6"
# ## What the heads of a real model do
#
# Now the sixteen heads of our model, a row for each layer, on two small functions that it never
# saw. Colours show the root of the weight, so that small ones are visible. Find heads that do
# nothing, two that always look equally far back, columns, and stripes far from the diagonal.

# %%
text = '''def area(width, height):
    """Return the area of a box."""
    return width * height


def volume(width, height, depth):
    """Return the volume of a box."""
    return area(width, height) * depth
'''

# %% folded=true
places = [(layer, head) for layer in range(4) for head in range(4)]
titles = {place: f"layer {place[0]}, head {place[1]}" for place in places}
figure = plots.heads(small.attention_maps(text), titles)
plots.show(figure, "Sixteen triangles: even ones, thin diagonals, columns, and stripes far away.")

# %% [markdown]
# The stripes are the best part. In the second function, *width* looks at what came after *width* in
# the first: the head searches for an earlier copy of the token that is read, and takes what
# followed it there. That is how a model copies. It is called an *induction head*
# ([Olsson et al. 2022](https://arxiv.org/abs/2209.11895)).

# %% [markdown]
# Eyes find what they look for. So measure. On shuffled tokens, repeated: the weight on the token
# after the copy. On a page of 415 tokens: how far back a head looks most, how much lies there, and
# how many tokens share its attention, $e$ to the entropy: 1 is one token, an even head has half the
# page.

# %%
copies = model.induction(small, unseen, rows=4)
habits = model.habits(small, model.page())


def kind(place):
    """What a head does, by what was measured."""
    if copies[place] > 0.3:
        return "finds the token after an earlier copy"
    if habits["there"][place] > 0.5:
        return f"looks {habits['distance'][place]} back, always"
    if habits["spread"][place] > 100:
        return "looks at everything, nearly evenly"
    return "looks near" if habits["near"][place] > 0.5 else "something else"


# %%
groups = {}
for place in places:
    groups.setdefault(kind(place), []).append(f"{place[0]}.{place[1]}")
for name, members in groups.items():
    print(f"{name:<38} {', '.join(members)}")

# %% [markdown]
# (2.1 is head 1 of layer 2; both count from 0.) A textbook names four kinds of head, local syntax,
# long range, part of speech, semantics, without saying in which model or how they were told apart.
# Our groups come with their measure, and "something else" is the honest rest.
# [Exercise 03.5](../exercises/03_positions.ipynb#03.5-Find-the-induction-head) finds the copiers.

# %% [markdown]
# What does a head read? Choose one, and slide to a token of the page: it is framed, and what it
# looks at is coloured. Below, a head that copies reads a name that was there before.

# %% folded=true
page_ids = small.encode(model.page())
page_maps, pieces = small.attention_maps(page_ids), small.tokenizer.pieces(page_ids)
live_page = plots.LivePage(pieces, page_maps[0, 0, -1], high=0.5, label="weight")


def draw_looks(head, token):
    row = page_maps[head][token]
    live_page.update(row, framed=token)
    before, best = "".join(pieces[max(0, token - 3) : token]), int(row.argmax())
    where = f"{token - best} back" if best < token else "itself"
    most = f"looks most at {pieces[best]!r}, {where}, with {row[best]:.0%}"
    return f"After {before!r}, the token {pieces[token]!r} {most}."


# %% folded=true
copier = tuple(int(x) for x in np.unravel_index(copies.argmax(), copies.shape))
by_name = {f"layer {layer}, head {head}": (layer, head) for layer, head in places}
again = [i for i in range(200, 415) if len(pieces[i]) > 3 and pieces[i] in pieces[: i - 20]]
sure = max(again, key=lambda i: page_maps[copier][i].max())  # a copy that it is sure of
chosen = widgets.choice(by_name, copier)
widgets.explore(draw_looks, live_page.figure, head=chosen, token=(0, 414, 1, sure))

# %% [markdown]
# ## A map is not importance
#
# Which of these heads does the model need? The bright ones, one would say. To know, *silence* each:
# let it give zeros, leave all others as they are, and see how much worse the model predicts.

# %%
loss = small.loss(unseen[:1025])
lost = {place: small.without(place).loss(unseen[:1025]) - loss for place in places}
print(f"loss {loss:.2f} on 1,024 tokens of unseen text; with one head silent it grows by")
for layer in range(4):
    print(f"layer {layer}:", *(f"{lost[layer, head]:+.2f}" for head in range(4)))

# %% folded=true
points = {f"{a}.{b}": (habits["spread"][a, b], max(lost[a, b], 1e-3)) for a, b in places}
axes = plots.scatter(points, x_unit="tokens", y_unit="nats")
named = axes.set(xlabel="tokens that share its attention", ylabel="lost without it")
worst = max(lost, key=lost.get)
wide = max(places, key=lambda place: habits["spread"][place])
plots.show(
    axes,
    f"The model misses head {worst[0]}.{worst[1]} most, {lost[worst]:.2f} nats; the one that "
    f"looks at most tokens, {wide[0]}.{wide[1]}, {lost[wide]:.2f}.",
)

# %% [markdown]
# Nor does a wide view mean that the width is needed. In one layer all heads look at more than a
# hundred tokens, evenly. What if they see the token itself and sixteen before it?


# %% folded=true
widest = int(habits["spread"].mean(axis=1).argmax())


def layer_loss(layer):
    """By how many per cent the loss grows if one layer sees 16 tokens back."""
    changed = small.swap("window", window=16, layers=layer)
    return max(0.01, 100 * (changed.loss(unseen[:1025]) / loss - 1))


def draw_layers():
    grown = {f"layer {layer}": layer_loss(layer) for layer in range(4)}
    axes = plots.bars(grown, unit="%", title="growth of the loss, a window of 16 in one layer")
    plots.show(axes, f"Layer {widest}, which looks at most tokens: {layer_loss(widest):.1f} %.")


# %% folded=true
widgets.guess(
    "The layer that looks at everything gets a window of 16 tokens back, the other three stay: by "
    "how much does the loss grow?",
    lambda: layer_loss(widest),
    unit="%",
    explain=draw_layers,
)

# %% [markdown]
# A mean over a hundred tokens seems not to miss most of them. What the model can spare least is a
# thin diagonal on its map. And heads work in pairs: an induction head searches for "a token that
# came after *width*". Who told that token what came before it?

# %% folded=true
one_back = max(places, key=lambda place: habits["there"][place] * (habits["distance"][place] == 1))


def left_of_copying():
    silent = model.induction(small.without(one_back), unseen, rows=4)
    return max(0.01, 100 * silent[copier] / copies[copier])


# %% folded=true
widgets.guess(
    "Silence the head that looks one token back. How much is left of the weight that the best "
    "induction head had on the right token, after the earlier copy?",
    left_of_copying,
    unit="%",
    explain="The head that looks back writes into each token what came before it; that is what the "
    "induction head searches for. Neither copies alone.",
)

# %% [markdown]
# The induction head's map changed although nothing was done to it: a map shows the *outcome* of all
# layers below. Others exchanged maps and got the same predictions
# ([Jain and Wallace 2019](https://arxiv.org/abs/1902.10186)), or removed heads that nobody missed
# ([Michel et al. 2019](https://arxiv.org/abs/1905.10650)). **To learn what a head is for, take it
# away.**

# %% [markdown]
# Did we plant that head? In a quarter of the rows that our model learned from, a segment stands
# twice, and what follows can only be copied. So it was trained once more without, all else alike:

# %% folded=true
from attncourse import house

trainings = {"with": "model.json", "without": "model-without-repeats.json"}
records = {f"{word} repeats": house.record(name) for word, name in trainings.items()}

# %% folded=true
if all(records.values()):
    falls, of_text = {}, {"training text": "train", "unseen text": "held_out"}
    for name, record in records.items():
        for what, key in of_text.items():
            falls[f"{name}, {what}"] = [row[key] for row in record["log"]]
    at_steps = [row["step"] for row in records["with repeats"]["log"]]
    axes = plots.curves(at_steps, falls, x_label="steps of training", y_label="nats a token")
    ends = ", ".join(f"{name} {losses[-1]:.2f}" for name, losses in falls.items())
    plots.show(axes, f"The loss falls fast, then slowly. At the end: {ends}.")

# %% [markdown]
# What is learned from some modules helps less with others: that gap stays. (Training text is
# averaged over 200 steps, so it starts higher.) Where do the curves show the smaller steps of the
# end? Could you tell from them when a head begins to copy? The head itself tells, on shuffled
# tokens:

# %% folded=true
if all(records.values()):
    learned = {name: record["log"] for name, record in records.items()}
    best = {name: [np.max(row["induction"]) for row in log] for name, log in learned.items()}
    steps, axis = [row["step"] for row in learned["with repeats"]], {"x_label": "steps of training"}
    axes = plots.curves(steps, best, y_label="best head's weight on the copy", **axis)
    ends = [f"{name} {weights[-1]:.2f}" for name, weights in best.items()]
    plots.show(axes, f"It forms either way, at about the same step. At the end: {', '.join(ends)}.")
else:
    print("No training is recorded here; `python -m attncourse.model.train` makes such a log.")

# %% [markdown]
# Python repeats names by itself, and a head that copies names pays off. The planted segments made
# it better at copying, not possible; they also cost a little of the loss on ordinary text.

# %% [markdown] covers="E7 E8"
# ## Choosing a pattern from maps
#
# A common plan: train with full attention, look at the maps, and keep what is bright: a window of
# $w$ tokens back, and $g$ *global* tokens at the start that all may see. Left the full map, right
# what remains, each row divided by its new sum, on one scale. When do both look alike?

# %% folded=true
figure, (left, right) = plots.figure(1, 2, height=3.6)
first_128 = page_maps[:, :, :128, :128]
scale = {"low": 0, "high": 1, "label": "root of the weight"}
live_full = plots.LiveHeatmap(first_128[0, 0], left, title="full", **scale)
live_cut = plots.LiveHeatmap(first_128[0, 0], right, title="window, global tokens", **scale)


# %% folded=true
def draw_cut(head, w, g):
    whole = first_128[head]
    inside = whole * longformer.mask(128, 128, window=w, global_tokens=g, causal=True)
    live_full.update(np.sqrt(whole))
    live_cut.update(np.sqrt(inside / np.maximum(inside.sum(axis=1, keepdims=True), 1e-9)))
    return f"w = {w}, g = {g}: {inside.sum() / whole.sum():.0%} of this head's weight is kept."


chosen_cut = widgets.choice(by_name, copier)
widgets.explore(draw_cut, figure, head=chosen_cut, w=(0, 127, 1, 16), g=(0, 16, 1, 2))

# %% [markdown]
# How wide must the window be to keep nine tenths of the weight, over all heads and the whole page?
# And what goes with the last tenth? Predict, then measure with the pattern in the model, which is
# not trained again. Under *copying* stand its losses on 128 shuffled tokens that it reads twice.


# %%
def kept(w, g):
    """The share of all weight on the page that a pattern keeps."""
    visible = longformer.mask(415, 415, window=w, global_tokens=g, causal=True)
    return (page_maps * visible).sum() / page_maps.sum()


print("  w  g  weight kept  loss  copying: first and second time")
for w, g in ((16, 0), (16, 8), (64, 0), (126, 0), (127, 0), (192, 0), (512, 0)):
    changed = small.swap("longformer", window=w, global_tokens=g)
    first, second = model.copying(changed, unseen, rows=2)
    lost_there = changed.loss(unseen[:1025])
    print(f"{w:>3} {g:>2} {kept(w, g):>12.0%} {lost_there:>5.2f} {first:>6.2f} {second:.2f}")

# %% [markdown]
# The last row is the model as it is. The loss follows the weight only roughly, and copying not at
# all: it comes back with the one token that followed the copy, 127 back. A share of the weight
# counts heads that hardly matter like those that do. **Take a map as a question, and the loss as
# the answer.**

# %% [markdown]
# [Exercise 03.6](../exercises/03_positions.ipynb#03.6-A-window-for-a-map) chooses $w$ from a map,
# and [chapter 05](05_sparse.ipynb) is about such patterns.

# %% [markdown]
# ## In a real model
#
# Here is what single heads do for a reader. The model reads a page that it never saw, without the
# head or the whole layer that you choose, and without its FLOPs. A token is dark if it has become
# less probable, in nats. Which head is missed in every line, and which only where a name comes
# back?

# %% folded=true
pair = {f"{layer}.{head}": small.without((layer, head)) for layer, head in (one_back, copier)}
whole = {f"layer {layer}": small.without(*[(layer, i) for i in range(4)]) for layer in (0, 3)}
widgets.in_a_real_model("silent", model.compare(small, pair | whole))

# %% [markdown]
# ## Try it on your own text
#
# Each token is the darker, the more it cost the model. In the last line *width* was made *length*,
# while the copier pointed elsewhere. Put in code of your own, up to some 500 tokens. What is dark
# the first time and pale from then on? Which repeated word stays dark?

# %%
own = text.replace("area(width, height) * depth", "area(length, height) * depth")
own_pieces = small.tokenizer.pieces(small.encode(own))
costs = np.concatenate([[0], small.losses(own)])  # nothing stands before the first token
page = plots.LivePage(own_pieces, costs, high=6, label="nats")
plots.show(page.figure, f"{costs.sum():.0f} nats; {own_pieces[costs.argmax()]!r} cost most.")

# %% [markdown]
# Next: [chapter 04](04_window.ipynb) takes the commonest of these patterns, *look nearby*, and lets
# it save memory.
