# %% [markdown]
# # 05 · Skip most pairs: who hears from whom
#
# A window keeps the neighbours. What else may a query keep? Every eighth word, a few by chance, a
# hub that everyone sees. In this part you find out which words ever hear from each other, and
# after how many layers. What it costs is the [second part](05_sparse_tiles.ipynb).
#
# <!-- summary: patterns as graphs. Strided, doubled, random and global keys, Sparse Transformer,
# Longformer, BigBird: on a page of 64 words, who hears from whom after how many layers. -->

# %% [markdown]
# In a hurry, skip *Steps with a common divisor* and *Let the data choose*. No cell takes longer
# than some seconds.

# %% role="setup"
import numpy as np

from attncourse import claims, graph, masks, plots, widgets
from attncourse.inputs import random_qkv
from attncourse.reference import (
    bigbird,
    full,
    longformer,
    offsets,
    random_keys,
    sparse_transformer,
    strided,
    topk,
    window,
)

# %% [markdown] covers="F11 F15"
# ## A net over the text
#
# A story of 64 words, eight in a line. In its last line somebody turns *the key*. To know which
# key, that word has to hear from the *key* of the first line.

# %%
TEXT = """
Ada found a small key in the snow.
It fits no door in our street, and
nobody we asked had ever seen it before.
Her uncle keeps a box in the attic
that has been shut for twenty years now.
He says that there is nothing in it,
only old letters and dust. Today she climbed
up, knelt down, and turned the key twice.
""".split()
first, *_, last = (i for i, word in enumerate(TEXT) if word == "key")
print(f"{len(TEXT)} words; key is word {first} and word {last}, {last - first} words apart")

# %% [markdown]
# With a window of 4 keys on each side, a word hears 4 words farther in each layer
# ([chapter 04](04_window.ipynb#Layers-widen-the-view)), and the first line is many layers away. So
# spend the same keys differently: spread them over the whole text, one every 8 words. That is a
# *stride* of 8.

# %%
print(f"window 4: {-(-(last - first) // 4)} layers from key to key")


def heard(layers, query):
    """Return for each word the layer after which the query has heard it; -1 is never."""
    reached = [np.eye(64, dtype=bool), *graph.reach_through(layers)]
    rows = np.array([each[query] for each in reached])
    return np.where(rows[-1], (~rows).sum(axis=0), -1)


# %%
every_8th = strided.mask(64, 64, stride=8)
axes = plots.board(TEXT, 8, heard([every_8th], query=last))
plots.show(axes, "One layer of stride 8: the last key hears its column, up to the first line.")

# %% [markdown]
# It looks like a net over the whole text: one layer, and the last line hears from the first. Add
# layers, and the net should fill.

# %% folded=true
widgets.guess(
    "After 100 layers of stride 8, from how many of the 64 words has the last 'key' heard, "
    "itself included?",
    lambda: int((heard([every_8th] * 100, last) >= 0).sum()),
    unit="words",
    explain="A layer adds multiples of 8 to multiples of 8: the word never leaves its column.",
)

# %% [markdown] covers="F30 Y1"
# ## What a pattern is
#
# A *sparse pattern* is a set $S(i)$ of keys for each query $i$. The softmax runs over the scores
# $a_{ij}$ of that set alone. A stride $s$ keeps about $n/s$ of the $n$ keys:
#
# $$ \text{out}_i = \sum_{j \in S(i)} \frac{e^{a_{ij}}}{\sum_{m \in S(i)} e^{a_{im}}}\, v_j ,
# \qquad S(i) = \{\, j : (i - j) \bmod s = 0 \,\} $$

# %% [markdown]
# Back to the net. Read the column of each *key* from top to bottom, as the stride does:

# %%
for key in (last, first):
    print(f"word {key}:", *TEXT[key % 8 :: 8])

# %% [markdown]
# A stride of $s$ does not read one text. It reads $s$ texts that are woven into one another, each
# of them alone: the *residue classes*, words with the same $i \bmod s$. The two keys lie in
# different ones. No depth, no width and no training mends that.

# %% [markdown]
# Two checks. With $s = 1$ it must be full attention. And if the classes are texts of their own, one
# may cut them out, read each with full attention, and weave the results together again: nothing is
# left to mask, and no $n \times n$ array is held. So does the
# [reference](../attncourse/reference/strided.py).

# %%
q, k, v = random_qkv(64, width=16)
every = strided.attention(q, k, v, stride=1)
np.testing.assert_allclose(every, full.attention(q, k, v), atol=1e-6)
woven = np.empty_like(v)
for start in range(8):
    woven[:, :, start::8] = full.attention(*(a[:, :, start::8] for a in (q, k, v)))
np.testing.assert_allclose(woven, strided.attention(q, k, v, stride=8), atol=1e-6)
print("stride 1 is full attention; eight texts read alone are stride 8")

# %% [markdown]
# Ask three questions of any pattern. What share of all pairs does it keep, its *density*? Into how
# many *islands* does the text fall, groups of tokens that no pair joins? And after how many layers
# has every token heard from every other?


# %%
def report(name, mask):
    needed, islands = graph.hops(mask), len(np.unique(graph.islands(mask)))
    joined = "never all met" if (needed < 0).any() else f"layers until all met: {needed.max()}"
    print(f"{name:<26} {masks.density(mask):6.1%} of pairs, islands: {islands}, {joined}")


report("full", np.ones((64, 64), dtype=bool))
report("window 4", window.mask(64, 64, window=4))
report("stride 8", every_8th)

# %% [markdown] covers="F24-F26 G16"
# ## A near step and a far step
#
# Where does the net tear? Word 4, the first *key*, stands two words beside word 6, *the*. And word
# 6 is in the column of the last *key*. So let one layer step to neighbours, and the next along the
# stride:

# %%
near, far = window.mask(64, 64, window=4), strided.mask(64, 64, stride=8)
print("layer 1:", TEXT[6], "hears", TEXT[4], "–", near[6, 4])
print("layer 2:", TEXT[62], "hears", TEXT[6], "–", far[62, 6])

# %% [markdown]
# Any distance is a multiple of 8 and a rest of at most 4. The far layer makes the multiple, the
# near layer the rest:
#
# $$ i - j = 8a + r, \qquad |r| \le 4 $$
#
# So two layers join nearly every pair, unless a step leads off the page. On a page as wide as the
# stride this is almost a rook: along the line, then along the column.

# %%
plans = {
    "near, then far": [near, far] * 3,
    "far only": [far] * 6,
    "near only": [near] * 6,
    "doubled steps": [offsets.mask(64, 64, offsets=offsets.exponential(64))] * 6,
    "by chance": [random_keys.mask(64, 64, n_random=4, seed=0)] * 6,
    "a hub": [longformer.mask(64, 64, window=2, global_tokens=1)] * 6,
}

# %% [markdown]
# This is the picture to remember. Six plans, each with few keys in a layer. Add one layer after
# the other, for the last *key*: which plan fills the page first, and which three have not filled it
# after six? Two of the three never will. Other queries differ a little. The last three plans
# are explained below.

# %% folded=true
import ipywidgets

live_board = plots.LiveBoard(TEXT, 8, heard([far], last))
plan = ipywidgets.Dropdown(options=list(plans))  # leaves room for the board on a small screen
reach = {"query": (0, 63, 1, last), "layers": (0, 6, 1, 1)}


# %% folded=true
def draw_board(plan, query, layers):
    after = heard(plans[plan][:layers], query)
    live_board.update(after)
    known = f"the first key {'is' if after[first] >= 0 else 'is not'} among them"
    words = f"{(after >= 0).sum()} of 64 words; {known}"
    return f"{plan}: after layer {layers}, word {query}, {TEXT[query]!r}, has heard {words}."


widgets.explore(draw_board, live_board.figure, plan=plan, **reach)

# %% [markdown]
# *Near, then far* is the *Sparse Transformer*. Its two *factors* may be two layers, as here, two
# heads of one layer, or one mask that joins both
# ([reference](../attncourse/reference/sparse_transformer.py)). Two layers of 256 tokens:

# %%
near, far = sparse_transformer.factors(256, 256, stride=16)
pairs = {"near, near": (near, near), "far, far": (far, far), "near, far": (near, far)}
for plan, layers in pairs.items():
    print(f"{plan:<11} {masks.density(graph.reach_through(layers)[-1]):6.1%} of all pairs have met")

# %% [markdown]
# How long should the stride $l$ be? A causal query has at most $l$ near keys besides its own, and
# $n/l$ far ones: deep in the text it pays their sum. A square is never negative, so
#
# $$ \Bigl(\sqrt l - \sqrt{n/l}\Bigr)^2 \ge 0 \quad\Rightarrow\quad l + \frac nl \ge 2\sqrt n ,
# \qquad \text{equal at } l = \sqrt n . $$

# %%
for stride in (8, 64, 512):
    each = 4096 // stride
    print(f"n = 4096, l = {stride:>3}: {stride} near + {each} far = {stride + each} keys")

# %% [markdown]
# So all tokens together keep $O(n\sqrt n)$ pairs. *Chapter V*, one of
# [the texts that this course checks](00_start.ipynb#The-four-texts),
# says "about $\sqrt n$" keys a token. Before you repeat such a number, build the mask: both
# factors, own key, edges, causal. At the start of the text little is far, so that the far keys are
# half of $n/l$ on average.

# %%
causal = sparse_transformer.factors(4096, 4096, stride=64, causal=True)
keys = [mask.sum() / 4096 for mask in (*causal, causal[0] | causal[1])]
claims.check("C070", f"{keys[0]:.1f} near and {keys[1]:.1f} far, {keys[2]:.1f} together (causal)")

# %% [markdown] covers="F12 F21"
# ## Two patterns, one name
#
# Chapter V has another "strided" pattern: a token's own block, and every $k$-th token of the text,
# the same ones for everybody. The Sparse Transformer calls it *fixed*. One has diagonals, the other
# columns:

# %%
figure, (left, right) = plots.figure(1, 2, height=3.2)
plots.heatmap(strided.mask(32, 32, stride=8), left, title="every 8th from the query")
fixed = sparse_transformer.mask(32, 32, stride=8, pattern="fixed")
plots.heatmap(fixed, right, title="own block, every 8th of the text")
plots.show(figure, "Left diagonals, 8 apart. Right blocks on the diagonal, and four columns.")

# %%
report("diagonals", strided.mask(64, 64, stride=8))
report("blocks and columns", sparse_transformer.mask(64, 64, stride=8, pattern="fixed"))

# %% [markdown]
# Twice the keys, and another world. A column's token sees its own block and sums it up; in the next
# layer everybody reads the summaries. Ask for the set of keys, never for the name.
#
# [Exercise 05.1](../exercises/05_sparse.ipynb#05.1-Window,-stride-and-hubs-in-one-mask) builds the
# mask of a union: window, stride and hubs.

# %% [markdown] covers="F13 F14 F16"
# ## Where should the steps stand?
#
# Give a query of 256 tokens eight keys on each side. It may take the eight nearest; or those at
# distances 1, 2, 4, 8 … 128. The price is the same, and all layers are alike.

# %%
doubled = offsets.mask(256, 256, offsets=offsets.exponential(256))
near = window.mask(256, 256, window=8)
print("inner query:", doubled[128].sum(), "keys doubled,", near[128].sum(), "keys nearest")
print("nearest: all have met after", graph.hops(near).max(), "layers")

# %% folded=true
widgets.guess(
    "Eight keys a side at distances 1, 2, 4 … 128: after how many layers have all 256 tokens met?",
    lambda: int(graph.hops(doubled).max()),
    unit="layers",
    explain="Any distance is a sum of few powers of two, some taken backwards. 120 takes two: "
    "128 - 8; 171 takes five: 128 + 32 + 8 + 4 - 1.",
)

# %% [markdown]
# That is the binary system. Larger bases make a *hierarchical* pattern: windows of windows, each
# level with longer steps. They take more keys and fewer layers, up to full attention:

# %%
for base in (4, 16, 256):
    steps = offsets.hierarchical(256, base=base)
    report(f"base {base}, {len(steps) - 1} keys a side", offsets.mask(256, 256, offsets=steps))

# %% [markdown]
# Or give each layer one level: layer $t$ takes steps of $b^t$, a
# [dilated](04_window.ipynb#Dilation:-the-same-price,-a-wider-view) window, and each query has three
# keys only. Base 3 covers 3, 9, 27 … tokens without a gap. What will base 4 do?

# %% folded=true
live_pyramid = plots.LiveReach(np.eye(243, dtype=bool)[[121] * 6])


def draw_pyramid(base, layers):
    seen = np.eye(243, dtype=bool)[121]
    rows = [seen]
    for level in range(layers):
        seen = seen @ window.mask(243, 243, window=1, dilation=base**level)
        rows.append(seen)
    live_pyramid.update(np.array(rows))
    span = np.flatnonzero(seen)
    return f"Steps of {base}^layer: {seen.sum()} tokens seen of {span[-1] - span[0] + 1} spanned."


widgets.explore(draw_pyramid, live_pyramid.figure, base=(2, 6, 1, 3), layers=(1, 5, 1, 4))

# %% [markdown]
# With base 4 the gaps stay for ever: three keys make three places, and a step of 4 leaves one out.

# %% [markdown] covers="F17"
# ## Steps with a common divisor
#
# Steps of $a$ and $b$ only ever add up to multiples of their greatest common divisor. It is the
# torn net again, whenever both share a factor. Try 12 and 18, then 12 and 17.

# %% folded=true
live_steps = plots.LiveReach(np.eye(257, dtype=bool)[[128] * 4])


def draw_steps(a, b):
    steps = offsets.mask(257, 257, offsets=offsets.multiples(257, strides=(a, b)))
    rows = [np.eye(257, dtype=bool)[128]]
    for _ in range(3):
        rows.append(rows[-1] @ steps)
    live_steps.update(np.array(rows))
    common = np.gcd(a, b)
    return f"Strides {a} and {b}, common divisor {common}: {rows[2].mean():.0%} after two layers."


widgets.explore(draw_steps, live_steps.figure, a=(4, 32, 1, 12), b=(4, 32, 1, 18))

# %% [markdown]
# So a survey advises prime strides for the heads of a layer. Three heads with strides 32, 64, 128,
# or with the primes just below: which distances can two layers make?


# %%
def two_layers(steps, n):
    steps = np.array(steps)
    made = np.concatenate([np.add.outer(steps, steps), np.subtract.outer(steps, steps)], None)
    return np.isin(np.arange(n), np.abs(made))


for strides in ((32, 64, 128), (31, 61, 127)):
    share = two_layers(offsets.multiples(4096, strides=strides), 4096).mean()
    print(f"strides {strides}: {share:.1%} of all distances below 4096")

# %% [markdown] covers="F18"
# ## Let the data choose
#
# A stride can be *learned*. Data with a period of 24 attends to its own phase, and a little to
# everything else. Try every stride: how much of the attention do its keys catch?


# %%
def periodic(noise):
    weights = (distance % 24 == 0) + noise / 24
    return weights / weights.sum(axis=1, keepdims=True)


distance = np.abs(np.arange(240) - np.arange(240)[:, None])
weights = periodic(noise=0.02)
caught = {s: weights[distance % s == 0].sum() / weights.sum() for s in (48, 24, 12, 11, 6, 5)}
print(", ".join(f"stride {s}: {share:.0%}" for s, share in caught.items()))
for noise in (0.02, 2.0):
    stride = strided.learned_stride(periodic(noise), mass=0.8)
    print(f"noise {noise}: the longest stride that catches 80 % is {stride}")

# %% [markdown]
# All divisors of the period catch it; the longest is the cheapest. In much noise no stride is
# enough, and the search falls back to 1, full attention. One learns only what is there to learn.

# %% [markdown] covers="F19 G12"
# ## Keys by chance
#
# *Random attention* draws $r$ keys for each query, once, and keeps them. Nothing is regular, so no
# classes can form: a survey says that this alone connects the whole text.

# %%
drawn = random_keys.mask(1024, 1024, n_random=2, seed=1)
print("keys of the first queries:", *(np.flatnonzero(row).tolist() for row in drawn[:3]))

# %% folded=true
widgets.guess(
    "1024 tokens each draw 2 keys besides themselves, and some are drawn by no other. How many?",
    lambda: int((drawn.sum(axis=0) == 1).sum()),
    unit="tokens",
    explain="They hear others and are never heard, in any number of layers.",
)

# %% [markdown]
# Such a token is an empty column. Look for one before you believe that a graph is connected. Here
# are ten draws of 256 tokens for each $r$:

# %%
unjoined = [
    sum((random_keys.mask(256, 256, n_random=r, seed=s).sum(axis=0) == 1).any() for s in range(10))
    for r in (1, 3, 8, 32)
]
found = "of 10 draws with r = 1, 3, 8, 32, some token unheard in {}, {}, {}, {}".format(*unjoined)
claims.check("C011", found)

# %% [markdown]
# How many are they? A query draws $r$ of the $n - 1$ others, so it misses token $j$ with
# probability $1 - \frac{r}{n-1}$; all $n - 1$ must:
#
# $$ \text{nobody draws } j: \qquad \Bigl(1 - \frac{r}{n-1}\Bigr)^{n-1} \approx e^{-r} $$

# %%
for r in (1, 4, 8):
    picked = random_keys.mask(1024, 1024, n_random=r, seed=1).sum(axis=0) - 1
    print(f"r = {r}: predicted {1024 * np.exp(-r):5.1f} tokens unheard, counted {sum(picked == 0)}")

# %% [markdown]
# A *ring* cures it: let each token also see its two neighbours. Then everybody is heard, and chance
# supplies the short cuts. How do the layers grow with $n$?

# %%
lengths = [64, 128, 256, 512]
families = {
    "window 8": lambda n: window.mask(n, n, window=8),
    "doubled steps": lambda n: offsets.mask(n, n, offsets=offsets.exponential(n)),
    "ring, 2 by chance": lambda n: (
        window.mask(n, n, window=1) | random_keys.mask(n, n, n_random=2, seed=0)
    ),
    "ring, one hub": lambda n: longformer.mask(n, n, window=1, global_tokens=1),
}
layers = {name: [graph.hops(mask(n)).max() for n in lengths] for name, mask in families.items()}

# %%
words = {"x_label": "tokens n", "y_label": "layers until all have met", "log_x": True}
axes = plots.curves(lengths, layers, **words)
plots.show(axes, "The window grows with n, doubled steps and chance like log n; the hub stays low.")

# %% [markdown]
# Chance gives paths of about $\log n$ layers. But look at the lowest line.

# %% [markdown] covers="F20 F35"
# ## A hub
#
# A *global token* sees all and is seen by all: a full row and a full column of the mask. Layer one
# *gathers*: the hub hears from everybody. Layer two *broadcasts*: everybody hears from the hub.
# Two layers, at any $n$. Who has heard from token 200?

# %%
hub = longformer.mask(256, 256, window=8, global_tokens=1)
for layers_ in (0, 1, 2):
    who = np.flatnonzero(masks.reach(hub, layers_)[:, 200])
    print(f"after layer {layers_}: {len(who):>3} tokens, from {who[0]} to {who[-1]}")

# %% [markdown]
# Reached is not yet understood. Let all keys of a query weigh the same. In full attention, each
# token then gets $1/256$ of every other in one layer. And by way of the hub, in two? Let the window
# be narrower now, 5.

# %%
narrow = longformer.mask(256, 256, window=5, global_tokens=1)
equal = narrow / narrow.sum(axis=1, keepdims=True)  # every key of a query gets the same weight


# %% folded=true
widgets.guess(
    "Equal weights, window 5: how many times less of token 50 reaches token 200 by the hub than in "
    "full attention?",
    lambda: float(1 / 256 / (equal @ equal)[200, 50]),
    unit="times",
    explain="Token 200 gives the hub one of its 12 shares, and of that the hub gave token 50 one "
    "in 256.",
)

# %% [markdown]
# And whatever arrives was mixed into one vector of the hub, with all the others. Training can
# sharpen both steps; it cannot make that vector wider. A hub is a short path, and a narrow one.
#
# [Exercise 05.4](../exercises/05_sparse.ipynb#05.4-Layers-until-all-have-met) asks how many layers
# a mask needs, or whether none are enough.

# %% [markdown] covers="F20 G1 G2 G8"
# ## Longformer: a window and the tokens that matter
#
# Which tokens should be global? The task says it. For classification the first token, CLS, whose
# output is the answer; for questions about a text, the tokens of the question; for long documents
# perhaps the separators.

# %%
choices = {
    "classification": longformer.mask(32, 32, window=3, global_tokens=1),
    "question of 6 tokens": longformer.mask(32, 32, window=3, global_tokens=6),
    "separators": longformer.mask(32, 32, window=3, global_tokens=[0, 11, 22]),
}
figure, axes = plots.figure(1, 3, height=2.9)
for ax, (title, mask) in zip(axes, choices.items(), strict=True):
    plots.heatmap(mask, ax, title=title)
plots.show(figure, "A band in each; one full row and column, six of them, or three scattered ones.")

# %% [markdown]
# It collapses to what you know: without global tokens it is the window, and with a window as wide
# as the text it is full attention ([reference](../attncourse/reference/longformer.py)).

# %%
q, k, v = random_qkv(100, width=16)
local = longformer.attention(q, k, v, window=8)
np.testing.assert_allclose(local, window.attention(q, k, v, window=8), atol=1e-6)
wide = longformer.attention(q, k, v, window=100, global_tokens=2)
np.testing.assert_allclose(wide, full.attention(q, k, v), atol=1e-6)
print("no globals: the window; window 100: full attention")

# %% [markdown] covers="F13 G4-G6"
# ## Reaches add
#
# *Chapter E* plans a Longformer's dilation by depth: none at first, 2 in the middle, 4 or 8 at the
# top; so "information crosses the text in $O(\log n)$ layers". With a global token it takes two. By
# windows alone, a layer of window $w$ and dilation $d$ takes a word $wd$ tokens farther. So add:

# %%
dilations = {
    "none": np.ones(200),
    "1, 2, then 8": np.repeat([1, 2, 8], (4, 4, 192)),
    "doubled each layer": 2.0 ** np.arange(16),
}
lengths = np.array([4096, 16384, 65536])
print(f"{'dilation, 512 a side':<24}", *(f"{n:>8} tokens" for n in lengths))
for plan, dilation in dilations.items():
    needed = 1 + (np.cumsum(512 * dilation)[:, None] < lengths - 1).sum(axis=0)
    print(f"{plan:<24}", *(f"{layers:>8} layers" for layers in needed))

# %%
claims.check("C350")

# %% [markdown]
# Whenever a text gets longer, ask what adds up and what multiplies. A fixed plan adds; only steps
# that double with each layer multiply. The released model has no dilation at all. It starts from
# RoBERTa, which knows 512 positions: the 4096 new ones are copies of the old, eight times over
# (paper, section 5).

# %%
table = np.random.default_rng(0).standard_normal((512, 16))
positions = np.tile(table, (4096 // 512, 1))
same = np.flatnonzero((positions == positions[100]).all(axis=1))
print("tokens with the position of token 100:", *same)

# %% [markdown]
# Inside a copy all is as before, so the window works from the first day. Where two copies meet, the
# positions jump from 511 to 0; that training has to mend.

# %% [markdown] covers="G9-G11 G14 G15"
# ## BigBird: all three, in blocks
#
# *BigBird* joins a window, global tokens and random keys, in whole blocks of tokens. Beside it a
# Longformer, both as one query sees them:

# %%
figure, (upper, lower) = plots.figure(2, 1, height=4.4)
seen = {"window": range(20, 29), "random": [], "global": [0]}
plots.arcs(48, 24, seen, upper, title="Longformer")
seen = {"window": range(22, 28), "random": [10, 11, 32, 33], "global": [0, 1]}
plots.arcs(48, 24, seen, lower, title="BigBird, blocks of 2")
plots.show(figure, "Neighbours by short arcs, the global tokens and random blocks by long ones.")

# %% folded=true
live_bird = plots.LiveMask(bigbird.mask(128, 128, block=8))


def draw_bird(block, window_blocks, random_blocks, global_blocks):
    counts = {"window_blocks": window_blocks, "random_blocks": random_blocks}
    mask = bigbird.mask(128, 128, block=block, global_blocks=global_blocks, **counts)
    live_bird.update(mask)
    return f"Blocks of {block}: {masks.density(mask):.1%} of all pairs."


blocks = {"window_blocks": (0, 4, 1, 1), "random_blocks": (0, 4, 1, 2)}
sizes = widgets.choice([1, 2, 4, 8, 16], 8)
widgets.explore(draw_bird, live_bird.figure, block=sizes, **blocks, global_blocks=(0, 4, 1, 1))

# %% [markdown]
# Should all heads draw the same random keys? Chapter E says yes; the common implementation draws
# anew for each head. Twelve heads with 64 of 4096 keys then see many more together:
#
# $$ \text{shared: } \frac rn , \qquad \text{per head: } 1 - \Bigl(1 - \frac rn\Bigr)^{12} $$

# %%
sets = [random_keys.draw(64, 4096, n_random=64, seed=head)[:, 1:] for head in range(12)]
union = np.mean([len(np.unique(row)) for row in np.concatenate(sets, axis=1)]) / 4096
print(f"counted {union:.1%}, formula {1 - (1 - 64 / 4096) ** 12:.1%}, shared {64 / 4096:.1%}")

# %% [markdown]
# BigBird's paper proves that such a pattern can approximate any continuous function on sequences,
# as full attention can, and credits the global tokens. It is an existence proof: it names no width,
# no depth, no accuracy. Tested were question answering, summaries of articles, and genomics.

# %% [markdown] covers="F22 F23 F32 F33 G3 G17 G18"
# ## A bet on where the links are
#
# A pattern is a bet. Four toy data sets with links by construction: words and a title; names that
# are defined somewhere; a period of 16; a picture of 16 × 16, read line by line. Six patterns
# bet. How much of the links does each catch?

# %%
n, generator = 256, np.random.default_rng(0)
distance = np.abs(np.arange(n) - np.arange(n)[:, None])
row, column = np.divmod(np.arange(n), 16)
near_rows, near_columns = (np.abs(a - a[:, None]) <= 1 for a in (row, column))
nearby = np.exp(-distance / 2)
links = {
    "text": nearby + 2 * (np.arange(n) < 2),
    "code": nearby + 4 * np.eye(n)[generator.integers(0, n, n)],
    "period": nearby + 2 * (distance % 16 == 0),
    "picture": 1.0 * (near_rows & near_columns),
}

# %%
bets = {
    "window": window.mask(n, n, window=8),
    "window\n+ global": longformer.mask(n, n, window=7, global_tokens=2),
    "window\n+ random": window.mask(n, n, window=4) | random_keys.mask(n, n, n_random=8),
    "strided": strided.mask(n, n, stride=16),
    "near\n+ far": window.mask(n, n, window=1) | strided.mask(n, n, stride=16),
    "2-D patch": near_rows & near_columns,
}
caught = np.array([[(w * m).sum() / w.sum() for m in bets.values()] for w in links.values()])

# %% folded=true
widgets.guess(
    "Of the links of code, what share does the best of the six patterns catch?",
    lambda: 100 * caught[list(links).index("code")].max(),
    unit="%",
    explain="These are mostly the neighbours. Nearly all the rest goes to definitions, which may "
    "stand anywhere.",
)

# %% [markdown]
# A bet has a price. These spend about the same, but for the patch, which has at most nine keys:

# %%
for bet, mask in bets.items():
    print(f"{bet.replace(chr(10), ' '):<16} {mask.sum() / n:4.1f} keys a query")

# %% folded=true
words = {"x": "pattern", "y": "data", "label": "share of the links"}
axes = plots.table(caught, list(links), list(bets), title="links caught", **words)
best = [f"{list(bets)[row.argmax()]} {row.max():.0%}".replace("\n", " ") for row in caught]
found = "; ".join(f"{name}: {bet}" for name, bet in zip(links, best, strict=True))
plots.show(axes, f"The share of the links that each pattern catches. Most of {found}.")

# %% [markdown]
# The picture's links are built as the patch, so its 100 % are no discovery. Nobody wins at code,
# where a definition may stand anywhere. One has to look at the content. *Top-k* attention does: it
# scores all keys and keeps the best. To save the scores, a cheap predictor guesses them, from a few
# directions of $q$ and $k$:

# %%
q, k, _ = (array[0, 0] for array in random_qkv(1024, width=64, seed=3))
q, k = q * np.linspace(2, 0.1, 64), k * np.linspace(2, 0.1, 64)  # few directions matter
best = topk.select(q, k, keep=32)
guessed = topk.select(q, k, keep=32, predictor=topk.fit_predictor(q, k, rank=16))
by_chance = random_keys.draw(1024, 1024, n_random=31)
for way, found in {"predictor of rank 16": guessed, "chance": by_chance}.items():
    print(f"of the 32 best keys, {topk.recall(found, best):.0%} found by {way}")

# %% [markdown]
# Reformer ([chapter 08](08_content.ipynb)) takes that road and finds near keys by hashing. Others
# leave the idea of a mask: Linformer and Synthesizer ([06](06_low_rank.ipynb)), Linear
# Transformer and Performer ([07](07_linear.ipynb)).

# %% [markdown]
# ## In a real model
#
# The course's small model (four layers of four heads, trained on Python's standard library) reads a
# page that it never saw. Each pattern below takes the place of its attention in every layer, and
# shows a token 26 to 31 keys, averaged over the page. The darker a token, the less probable it has
# become.

# %% folded=true
from attncourse import model

small = model.load()
patterns = {
    "the last 32": small.swap("window", window=31),
    "every 8th": small.swap("strided", stride=8),
    "31 at random": small.swap("random_keys", n_random=31),
    "near and every 22nd": small.swap("sparse_transformer", stride=22),
    "BigBird": small.swap("bigbird", block=8, window_blocks=1, random_blocks=1, global_blocks=1),
}
tried = model.compare(small, patterns)
widgets.in_a_real_model("keys", tried)

# %% [markdown]
# Which pattern wins, and which lose most? *Copying* is measured on another text: 128 shuffled
# tokens, then the same once more, to be looked up 127 tokens back.

# %%
length = len(tried["BigBird"].pieces)
three = {"window_blocks": 1, "random_blocks": 1, "global_blocks": 1}
shown = {
    "the last 32": window.mask(length, length, window=31, causal=True),
    "every 8th": strided.mask(length, length, stride=8, causal=True),
    "31 at random": random_keys.mask(length, length, n_random=31, causal=True),
    "near and every 22nd": sparse_transformer.mask(length, length, stride=22, causal=True),
    "BigBird": bigbird.mask(length, length, block=8, causal=True, **three),
}

# %%
print(f"with all keys: {tried['BigBird'].full_loss:.2f} nats a token")
for name, found in tried.items():
    copied, keys = max(0, found.copied), shown[name].sum() / length
    print(f"{name:<19} {keys:4.1f} keys, {found.loss:.2f} nats, {copied:3.0%} of the copying")

# %% [markdown]
# The plain window wins: this model needs its neighbours first, and stride and chance leave them
# out. Copying is all but gone in all five. A pattern that reaches everything in two steps could
# carry a word from anywhere, but this model never learned that. Patterns are for training with;
# what a trained model needs is found in
# [its maps](03_positions.ipynb#Choosing-a-pattern-from-maps).

# %% [markdown]
# ## With a text of your own
#
# Put 64 words of your own into `TEXT`, with one that is named early and needed late; name it in
# place of *key*, and run the notebook again. Which plan carries it there in two layers? Then go on
# to [what a pattern costs](05_sparse_tiles.ipynb). [The audit](17_audit.ipynb) has all that is
# printed about patterns.
