# %% [markdown]
# # 05 · Skip most pairs: sparse attention
#
# A window keeps the neighbours. What else may a query keep? Every 64th key, a few at random, a hub
# that everyone sees, whole blocks. You will count such patterns exactly, find out who hears from
# whom, and see why the pattern with the fewest pairs need not be the fastest.
#
# **Run a cell with Shift + Enter.** Sliders move with the mouse or the arrow keys.
#
# <!-- summary: strided, random, global, Sparse Transformer, Longformer, BigBird, blocks; counting
# connections exactly; who hears from whom after how many layers; a studio to combine patterns.
# -->

# %% role="setup"
import numpy as np

from attncourse import bench, claims, graph, masks, measure, plots, widgets
from attncourse.inputs import random_qkv
from attncourse.reference import bigbird, full, longformer, random_keys, window
from attncourse.units import format_bytes

# %% [markdown] covers="F30 Y1"
# ## Three questions
#
# A sparse pattern is a set $S(i)$ of keys for each query. The softmax runs over that set alone:
#
# $$ \text{out}_i = \sum_{j \in S(i)} \frac{e^{s_{ij}}}{\sum_{m \in S(i)} e^{s_{im}}}\, v_j $$
#
# Ask three questions of any pattern. How many pairs? Who hears from whom, after how many layers?
# And how long does it run?


# %%
def report(name, mask):
    needed, islands = graph.hops(mask), len(np.unique(graph.islands(mask)))
    joined = "never all" if (needed < 0).any() else f"all met after layer {needed.max()}"
    words = "island" if islands == 1 else "islands"
    print(f"{name:<30} {masks.density(mask):6.1%} of pairs, {islands:>2} {words}, {joined}")


report("full", np.ones((256, 256), dtype=bool))
report("window 8", window.mask(256, 256, window=8))

# %% [markdown] covers="F8 F11 F15 F26 F35 W2"
# An *island* is a group of tokens that no edge leaves. *Layers* count as in chapter 04: your
# neighbour has heard from its neighbour. This line comes again for each pattern.
#
# ## Every s-th key
#
# Strided attention keeps the keys whose distance is a multiple of the *stride* $s$: $n/s$ of them.
#
# $$ S(i) = \{\, j : (i - j) \bmod s = 0 \,\} $$
#
# 4096 tokens, $s = 64$: which keys does token 1024 see?

# %%
from attncourse.reference import strided

seen = np.flatnonzero(strided.mask(4096, 4096, stride=64)[1024])
print(len(seen), "keys:", *seen[:3], "...", seen[-1])

# %%
q, k, v = random_qkv(24, width=8)
every = strided.attention(q, k, v, stride=1)
np.testing.assert_allclose(every, full.attention(q, k, v), atol=1e-6)
print("stride 1 is full attention")

# %%
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(strided.mask(16, 16, stride=4), left, title="mask, stride 4")
plots.graph(strided.mask(16, 16, stride=4), right, title="graph")
plots.show(figure, "Parallel diagonals, 4 apart; each query reaches over to 4 far keys.")

# %% [markdown]
# It looks like a net over the whole text. Chapter E says that it spreads information fast. Before
# you run the next cell: after how many layers has every token heard from every other?

# %%
report("stride 8", strided.mask(256, 256, stride=8))
report("stride 64", strided.mask(256, 256, stride=64))

# %% [markdown]
# Never. A token only meets its own *residue class*, the tokens with the same $i \bmod s$. Strided
# attention reads $s$ texts that are woven into one another, and each of them apart. That is even
# how to compute it: cut the classes out, and there is nothing left to mask.

# %%
q, k, v = random_qkv(256)
woven = np.empty_like(v)
for start in range(8):
    woven[:, :, start::8] = full.attention(*(a[:, :, start::8] for a in (q, k, v)))
np.testing.assert_allclose(woven, strided.attention(q, k, v, stride=8), atol=1e-6)
print("8 short texts, each read alone, are strided attention")

# %% [markdown]
# Give it company, and it joins. Slide the layers and watch the picture fill; the curve says how
# many pairs have met.

# %%
joined = {"stride 16": strided.mask(128, 128, stride=16)}
joined["and window 4"] = joined["stride 16"] | window.mask(128, 128, window=4)
joined["and one global token"] = joined["stride 16"] | longformer.mask(
    128, 128, window=0, global_tokens=1
)
after = {name: [masks.reach(mask, step) for step in range(7)] for name, mask in joined.items()}
shares = {name: [masks.density(reached) for reached in steps] for name, steps in after.items()}

# %%
REACH = ("not reached", "reached")
figure, (left, right) = plots.figure(1, 2, height=3.8)
live_joined = plots.LiveHeatmap(joined["stride 16"], left, x="input", y="output")
plots.mask_legend(figure, REACH, loc="outside lower left")
words = {"x_label": "layers", "y_label": "share of all pairs that met", "high": 1}
live_hops = plots.LiveCurves(range(7), {"met": np.ones(7)}, right, **words)


# %%
def draw_joined(pattern, layers):
    share = shares[pattern][layers]
    live_joined.update(after[pattern][layers])
    live_hops.update({"met": shares[pattern]}, at=layers)
    return f"{pattern}, layers {layers}: {share:.1%} of all pairs have met."


widgets.explore(draw_joined, figure, pattern=list(joined), layers=(0, 6, 1, 0))

# %% [markdown] covers="F12 F15 F21 G16"
# ## Two patterns, one name
#
# Chapter V also has a "strided" pattern: a token's own block, and every $k$-th token of the text,
# the same ones for everybody. The Sparse Transformer calls this *fixed*. The keys of one are
# diagonals, those of the other are columns.

# %%
from attncourse.reference import sparse_transformer

fixed = sparse_transformer.mask(32, 32, stride=8, pattern="fixed")
woven_mask = strided.mask(32, 32, stride=8)
figure, (left, right) = plots.figure(1, 2, height=3.4)
plots.heatmap(woven_mask, left, title="chapter E: same residue")
plots.heatmap(fixed, right, title="chapter V: own block, every 8th")
plots.show(figure, "Left diagonals. Right squares on the diagonal, and four dark columns.")

# %%
report("chapter E: same residue", strided.mask(256, 256, stride=16))
fixed = sparse_transformer.mask(256, 256, stride=16, pattern="fixed")
report("chapter V: block, every 16th", fixed)

# %% [markdown] covers="F24-F26 F31 G16"
# Twice the keys, and a different world: the columns are read by all. A column's token sees only
# its block, though. It sums the block up, and the next layer fetches the summaries. So two layers
# join everything.
#
# ## Two factors
#
# The *Sparse Transformer* splits the work: one factor looks near, one looks far. They may be two
# heads, or two layers, or both in one head.
#
# $$ A_\text{near} = \{\, j : |i-j| \le l \,\}, \qquad
#    A_\text{far} = \{\, j : (i-j) \bmod l = 0 \,\} $$

# %%
near, far = sparse_transformer.factors(64, 64, stride=8)
figure, axes = plots.figure(1, 3, height=2.9)
for ax, mask, title in zip(
    axes, (near, far, near | far), ("head 1", "head 2", "both"), strict=True
):
    plots.heatmap(mask, ax, title=title)
plots.show(figure, "A band; diagonals 8 apart; and both together.")

# %% [markdown]
# Three plans for two layers: near and near, far and far, near and far. All cost about the same.
# Which of them joins every pair?

# %%
near, far = sparse_transformer.factors(256, 256, stride=16)
plans = {"near, near": (near, near), "far, far": (far, far), "near, far": (near, far)}
for plan, layers in plans.items():
    print(f"{plan:<11} {masks.density(graph.reach_through(layers)[-1]):7.1%} of all pairs")

# %% [markdown]
# Alternating wins: first the window carries a fact to the right residue class, then the stride
# carries it across the text. How long should $l$ be? The near factor grows with $l$, the far one
# with $n/l$:
#
# $$ l + \frac{n}{l} \;\ge\; 2\sqrt n, \qquad \text{and equal at } l = \sqrt n $$

# %%
l_tried = 2 ** np.arange(1, 14)
ones = {name: l_tried * 1.0 for name in ("both", "near: l", "far: n / l")}
per_query = plots.LiveCurves(
    l_tried, ones, x_label="stride l", y_label="keys of a query", log_x=True, high=1000
)


def draw_strides(n):
    sums = l_tried + n / l_tried
    per_query.update({"both": sums, "near: l": l_tried, "far: n / l": n / l_tried})
    return f"{n} tokens: {sums.min():.0f} keys, least at l = {l_tried[sums.argmin()]}."


widgets.explore(draw_strides, per_query.figure, n=widgets.choice([1024, 4096, 16384, 65536], 4096))

# %% [markdown]
# Chapter V says: about $\sqrt n = 64$ keys per token at $n = 4096$, hence 64 times faster. Count.

# %%
near, far = sparse_transformer.factors(4096, 4096, stride=64, causal=True)
keys = [mask.sum() / 4096 for mask in (near, far, near | far)]
claims.check("C070", f"{keys[0]:.1f} near and {keys[1]:.1f} far, {keys[2]:.1f} together (causal)")

# %%
both = sparse_transformer.cost(1, 1, 4096, 4096, 64, stride=64)
ratio = full.cost(1, 1, 4096, 4096, 64).flops / both.flops
why = "64 counts one factor and no block; and a ratio of operations is no speedup"
claims.check("C071", f"{ratio:.0f} times fewer FLOPs for both factors, computed in blocks", why)

# %% [markdown] covers="F13 F14 F16"
# **Exercise 05.1** builds a union of three patterns, causal, with queries and keys of different
# number.
#
# ## Where should the steps stand?
#
# Give a query eight keys on each side of it. It may take the eight nearest, or those at distance
# 1, 2, 4, 8 … The price is the same. Guess the layers for each, then run.

# %%
from attncourse.reference import offsets

steps = offsets.exponential(256)
print("distances", steps)
report("window 8", window.mask(256, 256, window=8))
report("exponential", offsets.mask(256, 256, offsets=steps))

# %% [markdown]
# Every distance is a sum of few powers of two: that is the binary system. Other bases work too. A
# *hierarchical* pattern is a pyramid of windows, each level with longer steps than the one below.

# %%
for base in (2, 4, 16, 256):
    steps = offsets.hierarchical(256, base=base)
    report(f"base {base}: {len(steps) - 1} keys a side", offsets.mask(256, 256, offsets=steps))

# %% [markdown]
# The levels may also be spread over the layers: layer $t$ takes steps of $b^t$, and each query has
# three keys only. With base 3 the cone covers 3, 9, 27 … tokens without a gap. What will base 4 do?

# %%
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

# %% [markdown] covers="F17"
# ## Primes do not share
#
# Three heads with strides 32, 64 and 128; or with the primes just below, 31, 61 and 127. Two
# layers add or subtract two steps. Which distances up to 4095 can they make?


# %%
def two_steps(steps, n):
    steps = np.array(steps)
    made = np.concatenate([np.add.outer(steps, steps), np.subtract.outer(steps, steps)], None)
    return np.isin(np.arange(n), np.abs(made))


for name, strides in (("powers", (32, 64, 128)), ("primes", (31, 61, 127))):
    share = two_steps(offsets.multiples(4096, strides=strides), 4096).mean()
    print(f"{name} {strides}: {share:.1%} of all distances in two steps")

# %% [markdown]
# Sums of multiples of 32 stay multiples of 32. In general two strides $a$ and $b$ only ever meet
# the multiples of their greatest common divisor. Try 12 and 18, then 12 and 17.

# %%
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

# %% [markdown] covers="F18"
# ## Let the data choose
#
# A stride can be *learned*. Take data with a period: each token attends to its own phase. For
# every stride, sum the attention that its keys catch. Which strides catch all of it?


# %%
def periodic(period, noise, n=240):
    distance = np.abs(np.arange(n) - np.arange(n)[:, None])
    weights = (distance % period == 0) + noise / period
    return weights / weights.sum(axis=1, keepdims=True), distance


weights, distance = periodic(24, noise=0.02)
print("stride that catches 90 %:", strided.learned_stride(weights, mass=0.9))

# %%
tried = np.arange(1, 49)
live_caught = plots.LiveCurves(
    tried, {"caught": tried / 48}, x_label="stride", y_label="attention caught", high=1
)


def draw_caught(period, noise):
    weights, distance = periodic(period, noise)
    live_caught.update({"caught": [weights[distance % s == 0].sum() / 240 for s in tried]})
    chosen = strided.learned_stride(weights, mass=0.8)
    return f"Period {period}, noise {noise}: the largest stride that catches 80 % is {chosen}."


noises = {"none": 0.0, "a little": 0.05, "much": 0.5}
widgets.explore(draw_caught, live_caught.figure, period=(2, 40, 1, 24), noise=noises)

# %% [markdown] covers="F19 G12"
# All divisors of the period catch everything; the largest is the cheapest. With much noise no
# stride is enough, and the search falls back to 1: full attention. Learned is only as good as what
# there is to learn.
#
# ## Keys by chance
#
# *Random attention* draws $r$ keys for each query, once, and keeps them. A survey says that this
# connects the whole text. Each query picks $r$ keys. How many tokens does nobody pick?
#
# $$ \text{nobody picks } j: \qquad \Bigl(1 - \frac{r}{n-1}\Bigr)^{n-1} \approx e^{-r} $$

# %%
drawn = random_keys.mask(1024, 1024, n_random=2, seed=1)
unpicked = (drawn.sum(axis=0) == 1).sum()  # each token picks itself
print(f"predicted {1024 * np.exp(-2):.0f} tokens, counted {unpicked}")

# %% [markdown]
# Such a token listens and is never heard: no number of layers carries its information on. Slide
# $r$. Where does the last unheard token vanish?

# %%
picks = np.arange(31)
factorials = np.cumsum(np.log(np.maximum(picks, 1)))
zeros = {"counted": np.zeros(31), "by chance": np.zeros(31)}
live_picks = plots.LiveCurves(
    picks, zeros, x_label="picked by so many queries", y_label="tokens of 1024"
)


# %%
def draw_picks(r, seed):
    picked = random_keys.mask(1024, 1024, n_random=r, seed=seed).sum(axis=0) - 1
    counted = np.bincount(picked, minlength=31)[:31]
    chance = 1024 * np.exp(picks * np.log(r) - r - factorials)
    live_picks.update({"counted": counted, "by chance": chance})
    return f"r = {r}, seed {seed}: {counted[0]} of 1024 tokens are heard by nobody."


widgets.explore(draw_picks, live_picks.figure, r=(1, 12, 1, 2), seed=(0, 9, 1, 1))

# %%
for r in (1, 3, 8, 32):
    report(f"{r} random keys", random_keys.mask(256, 256, n_random=r, seed=2))

# %%
unjoined = [
    sum((graph.hops(random_keys.mask(256, 256, n_random=r, seed=s)) < 0).any() for s in range(10))
    for r in (1, 3, 8, 32)
]
found = "of 10 draws each with r = 1, 3, 8, 32, not joined: {}, {}, {}, {}".format(*unjoined)
claims.check("C011", found)

# %% [markdown]
# A ring cures it. Let each token also see its two neighbours: then everybody is heard, and chance
# supplies the short cuts. How do the layers grow with $n$?


# %%
def ring_and_random(n, seed=0):
    return window.mask(n, n, window=1) | random_keys.mask(n, n, n_random=2, seed=seed)


lengths = [64, 128, 256, 512]
families = {
    "window 8": lambda n: window.mask(n, n, window=8),
    "exponential": lambda n: offsets.mask(n, n, offsets=offsets.exponential(n)),
    "window 1 and 2 random keys": ring_and_random,
    "window 1 and 1 global token": lambda n: longformer.mask(n, n, window=1, global_tokens=1),
}
layers = {name: [graph.hops(mask(n)).max() for n in lengths] for name, mask in families.items()}
for name, numbers in layers.items():
    print(f"{name:<28}", *(f"{number:>4}" for number in numbers))

# %%
axes = plots.curves(
    lengths, layers, x_label="tokens n", y_label="layers until all have met", log_x=True
)
plots.show(
    axes, "The window grows with n. Chance and powers of two grow slowly. The hub stays at 2."
)

# %% [markdown]
# Random links do give paths of about $\log n$ layers, as chapter E says. But look at the lowest
# line: with a single global token every path has length two. In BigBird it is not the random links
# that make paths short.

# %%
claims.check("C468", "window 1 and 2 random keys: " + ", ".join(map(str, layers[list(layers)[2]])))
claims.check("C227", "2 layers with one global token, at every n above")

# %% [markdown] covers="F20 F33 F35"
# **Exercise 05.4** asks how many layers a mask needs, or whether none are enough.
#
# ## Hubs
#
# A *global token* sees all and is seen by all: a full row and a full column. With $g$ of them
#
# $$ \text{pairs added} = 2ng - g^2 , $$
#
# since the corner where rows and columns cross must not count twice.

# %%
hubs = longformer.mask(4096, 4096, window=0, global_tokens=2)
added = (hubs & ~np.eye(4096, dtype=bool)).sum() + 2  # the two own keys lie on the diagonal
print(f"counted {added:,}, formula {2 * 4096 * 2 - 2**2:,}")

# %% [markdown]
# Layer one gathers: the hub hears from all. Layer two broadcasts: all hear from the hub. Choose who
# speaks, and follow the message.

# %%
hub = longformer.mask(48, 48, window=2, global_tokens=1)
heard = np.array([masks.reach(hub, step) for step in range(3)])
flow, axes = plots.figure(height=3.4)
live_flow = plots.LiveHeatmap(heard[:, :, 40], axes, x="token", y="after layer")
plots.mask_legend(flow, ("not yet", "has heard"), loc="outside lower center")


def draw_flow(speaker, layers):
    rows = heard[:, :, speaker] & (np.arange(3) <= layers)[:, None]
    live_flow.update(rows)
    who = np.flatnonzero(rows[layers])
    return f"Token {speaker} speaks; after layer {layers}, {len(who)} of 48 tokens have heard it."


widgets.explore(draw_flow, flow, speaker=(0, 47, 1, 40), layers=(0, 2, 1, 1))

# %% [markdown]
# Reached is not yet understood. Let all weights be equal. How much of a far token arrives through
# the hub, against one layer of full attention?

# %%
n = 256
hub = longformer.mask(n, n, window=8, global_tokens=1)
weights = hub / hub.sum(axis=1, keepdims=True)
through = (weights @ weights)[200, 50]
print(f"through the hub {through:.5f}, directly {1 / n:.5f}: {1 / n / through:.0f} times less")

# %% [markdown] covers="F20 F31 G1-G3 G7 G8"
# And whatever arrives has been mixed into one vector of the hub, with all the others. Training can
# sharpen both steps. It cannot make that vector wider. A hub is a short path and a narrow one.
#
# ## Longformer: a window and the tokens that matter
#
# Which tokens should be global? The task says it. For classification the first token, CLS, whose
# output is the answer; for questions about a text, the tokens of the question.

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

# %%
axes = plots.arcs(
    32, 16, {"window": range(12, 21), "global": [0]}, title="what token 16 of a Longformer sees"
)
plots.show(axes, "Nine neighbours by short arcs; token 0, the CLS token, by a long one.")

# %% [markdown]
# It collapses to what you know: without global tokens it is the window of chapter 04, and with a
# window as wide as the text it is full attention.

# %%
q, k, v = random_qkv(100, width=16)
local = longformer.attention(q, k, v, window=8)
np.testing.assert_allclose(local, window.attention(q, k, v, window=8), atol=1e-6)
wide = longformer.attention(q, k, v, window=100, global_tokens=2)
np.testing.assert_allclose(wide, full.attention(q, k, v), atol=1e-6)
print("no globals: the window; window 100: full attention")

# %% [markdown]
# Count it. The first $g$ tokens are global; the other $n - g$ are an ordinary window among
# themselves. The three parts do not overlap, so they add up:
#
# $$ \text{pairs} = \underbrace{g n}_{\text{rows}} + \underbrace{(n-g)\, g}_{\text{columns}}
#    + \underbrace{\text{band}(n - g,\, w)}_{\text{chapter 04}} $$


# %%
def longformer_pairs(n, w, g):
    return g * n + (n - g) * g + window.count(n - g, n - g, window=w)


pairs = longformer_pairs(4096, 512, 2)
assert pairs == longformer.mask(4096, 4096, window=512, global_tokens=2).sum()
printed = (4096 - 2) * (2 * 512 + 2) + 2 * 4096
print(f"chapter E: {printed:,} pairs, {4096**2 / printed:.2f} times fewer than full")
print(f"exactly:   {pairs:,} pairs, {4096**2 / pairs:.2f} times fewer")

# %%
claims.check("C218", 2 * 512 + 1)
claims.check("C356", printed * 4 * 144 * 8 / 1e9, "2.4 GB is one text, in 12 layers and 12 heads")

# %%
why = "a time cannot fall by more than the work unless something else changed too"
claims.check("C224", f"{4096**2 / pairs:.2f} times fewer pairs at most", why)

# %% [markdown]
# That is close. But is it the model? The released one is configured with `attention_window: 512`,
# and its code uses `attention_window // 2` on each side.

# %%
released = longformer_pairs(4096, 256, 2)
claims.check(
    "C347",
    f"{2 * 256 + 1} keys; {released:,} pairs, {4096**2 / released:.1f} times fewer than full",
)

# %% [markdown] covers="F13 G4-G6"
# **Exercise 05.2** asks for this count up to $10^{12}$ tokens.
#
# ## How fast does a Longformer see?
#
# Chapter E: no dilation in the first layers, 2 in the middle, 4 or 8 in the highest, and so
# "information crosses the text in $O(\log n)$ layers". Reaches add. So how many layers does each
# plan need for 4096 tokens?

# %%
plans = {
    "256 a side, no dilation": 256 * np.ones(24),
    "512 a side, no dilation": 512 * np.ones(24),
    "512 a side, dilation 1-2-8": 512 * np.repeat([1, 2, 8], 4),
    "8 a side, doubled in each layer": 8 * 2 ** np.arange(12),
}
needed = {plan: int((np.cumsum(reach) < 4095).sum()) + 1 for plan, reach in plans.items()}
for plan, layers in needed.items():
    print(f"{plan:<32} {layers:>3} layers")

# %%
claims.check("C350")
why = "512 a side span 1024 before any dilation; the released model has none (paper, section 5)"
claims.check("C349", f"{2 * 512} positions without dilation, {2 * 512 * 2} with dilation 2", why)

# %%
depth = np.arange(1, 13)
dilations = {
    "no dilation": np.ones(12),
    "1-2-8 by thirds": np.repeat([1, 2, 8], 4),
    "doubled": 2.0 ** np.arange(12),
}
live_plan = plots.LiveCurves(
    depth, dilations, x_label="layer", y_label="farthest token heard", high=4096
)


# %%
def draw_plan(window_):
    seen = {p: np.minimum(4095, np.cumsum(window_ * d)) for p, d in dilations.items()}
    live_plan.update(seen)
    far = ", ".join(f"{plan} {reach[-1]:.0f}" for plan, reach in seen.items())
    return f"Window {window_}: farthest token heard after 12 layers: {far}."


widgets.explore(draw_plan, live_plan.figure, window_=(8, 512, 8, 64))

# %% [markdown]
# The paper itself reports that dilation on a few heads *hurt* when starting from RoBERTa's weights
# (section 5, footnote). It trained the long model from that checkpoint, at its full length from the
# start. Growing the length in stages belongs to its character models.

# %%
claims.check(
    "C352",
    "one length, 4096, for the model that starts from RoBERTa (paper, section 5)",
    "its character models grow in five stages (appendix B)",
)

# %% [markdown]
# RoBERTa knows 512 positions. The new ones are copies of the old, eight blocks in a row. Which
# tokens does a model find confusing on the first day?

# %%
table = np.random.default_rng(0).standard_normal((512, 16))
positions = np.tile(table, (4096 // 512, 1))
same = np.flatnonzero((positions == positions[100]).all(axis=1))
print(positions.shape, "tokens with the position of token 100:", same)

# %% [markdown]
# Inside a block all is as before, so local attention works at once. Across a border the positions
# jump from 511 back to 0; training has to mend that. What task scores came out, only the papers can
# tell:

# %%
why = "Longformer's own table 7 compares with RoBERTa, cut into pieces; no number is printed here"
claims.check("C169", "nothing to compute", why)

# %% [markdown] covers="G9 G14"
# ## BigBird: chance in blocks
#
# *BigBird* takes all three: a window, global tokens and random keys, in whole blocks of tokens.

# %%
axes = plots.arcs(
    48,
    24,
    {"window": range(20, 29), "random": [8, 9, 40, 41], "global": [0, 1]},
    title="what token 24 sees, blocks of 2",
)
plots.show(axes, "Neighbours by short arcs, two random pairs and the first pair by long ones.")

# %%
parts = {
    "window": {"random_blocks": 0, "global_blocks": 0},
    "and global": {"random_blocks": 0, "global_blocks": 1},
    "and random": {"random_blocks": 2, "global_blocks": 1},
}
figure, axes = plots.figure(1, 3, height=2.9)
for ax, (title, knobs) in zip(axes, parts.items(), strict=True):
    plots.heatmap(bigbird.mask(128, 128, block=8, **knobs), ax, title=title)
plots.show(figure, "Squares along the diagonal; then the first blocks' row and column; then dots.")

# %%
live_bird = plots.LiveMask(bigbird.mask(128, 128, block=8))


def draw_bird(block, window_blocks, random_blocks, global_blocks, seed):
    knobs = {"window_blocks": window_blocks, "random_blocks": random_blocks, "seed": seed}
    mask = bigbird.mask(128, 128, block=block, global_blocks=global_blocks, **knobs)
    live_bird.update(mask)
    return f"Blocks of {block}: {masks.density(mask):.1%} of all pairs, seed {seed}."


low_high = {"window_blocks": (0, 4, 1, 1), "random_blocks": (0, 4, 1, 2)}
more = {"global_blocks": (0, 4, 1, 1), "seed": (0, 9, 1, 0)}
sizes = widgets.choice([1, 2, 4, 8, 16], 8)
widgets.explore(draw_bird, live_bird.figure, block=sizes, **low_high, **more)

# %% [markdown] covers="G19"
# ## Counted twice
#
# Chapter E's exercise: $n = 4096$, window 256, 64 random keys, 32 global tokens. A regular token
# has 256 + 64 + 32 = 352 keys, a global token all 4096. Write down your total before you go on.

# %%
n, w, r, g = 4096, 256, 64, 32
regular = (n - g) * (w + r + g)
print(f"{n - g} regular rows {regular:>9,}")
print(f"{g:>4} global rows  {g * n:>9,}")
total = regular + g * n
print(f"     together     {total:>9,}")

# %% [markdown]
# Two kinds of rows, each row counted once: done. The chapter goes on. It adds "incoming", the
# regular tokens' links to the global ones, though the 352 hold them already; and it subtracts an
# overlap that is none. What does a real mask say?

# %%
mask = bigbird.mask(n, n, block=1, window_blocks=w // 2, random_blocks=r, global_blocks=g)
counted = int(mask.sum())
assert counted == g * n + (n - g) * (g + r) + window.count(n - g, n - g, window=w // 2)
incoming, overlap = (n - g) * g, g * g
wrong_total = total + incoming - overlap
print(f"printed {wrong_total:,}   rows {total:,}   mask {counted:,}")

# %%
table = n * w + n * r + g * n + incoming - overlap
totals = {
    "printed total": wrong_total,
    "the table's own rows": table,
    "each row once": total,
    "a real mask": counted,
    "n (w + r + g)": n * (w + r + g),
}
axes = plots.bars(totals, title="one pattern, five counts of its pairs")
plots.show(axes, "The printed total is the largest; a real mask has some 8 % less.")

# %%
claims.check("C456", 0)
claims.check("C457", 0)
claims.check("C458", total, f"counted twice; a mask has {counted:,}: windows end at the edges")

# %% [markdown]
# Everything that follows from the total is off by as much, and the table beside it does not add
# up to it either:

# %%
sparse = 1 - total / n**2
claims.check("C459", f"{sparse:.2%} by rows, {1 - counted / n**2:.2%} in the mask")
claims.check("C460", f"{total / n**2:.2%} by rows, {counted / n**2:.2%} in the mask")
claims.check("C461", f"{total * 4 / 1e6:.2f} MB by rows, {counted * 4 / 1e6:.2f} MB in the mask")
claims.check("C462", f"{sparse:.1%}")

# %%
claims.check("C463", table)
claims.check("C464", f"{table * 4 / 1e6:.2f} MB")
claims.check("C467", n * (w + r + g) * 4 / 1e6)
claims.check("C466", n * 256 * 4 / 1e6)

# %% [markdown]
# And the chapter's own text counts the window on each side, so that the same letters mean 608 keys:

# %%
wide = bigbird.mask(n, n, block=1, window_blocks=w, random_blocks=r, global_blocks=g)
claims.check("C452", w + r + g)
claims.check("C226", f"at most {2 * w + 1 + r + g}; on average {wide.sum() / n:.0f} in a real mask")
per_head = ((n - g) * (2 * w + r + g) + g * n) * 4
print(f"{n / 608:.1f} times fewer keys, {per_head / 1e6:.1f} MB a head", end=", ")
print(f"{per_head * 144 / 1e9:.1f} GB in BERT-base: 12 layers, 12 heads")

# %%
why = "its own table has 6.5 times at 4096 tokens and 13 at 8192; 10 is 1 / the wrong 10.08 %"
claims.check("C469", f"{n**2 / total:.1f} times fewer pairs; no time is measured by that", why)

# %% [markdown] covers="G10"
# **V4** asks for all these numbers, without the double count.
#
# ## The same keys for all heads?
#
# Chapter E fixes one random set for all heads. The common implementation draws one for each. Twelve
# heads with 64 of 4096 keys each: what share of all keys does the layer see?
#
# $$ \text{shared: } \frac rn , \qquad \text{per head: } 1 - \Bigl(1 - \frac rn\Bigr)^h $$

# %%
sets = [random_keys.draw(64, 4096, n_random=64, seed=head)[:, 1:] for head in range(12)]
union = np.mean([len(np.unique(row)) for row in np.concatenate(sets, axis=1)]) / 4096
print(f"counted {union:.1%}, formula {1 - (1 - 64 / 4096) ** 12:.1%}, shared {64 / 4096:.1%}")

# %%
claims.check("C225", f"12 heads see {union:.1%} of the keys, and {64 / 4096:.1%} if they share")

# %%
heads = np.arange(1, 33)
ones = {name: np.ones(32) for name in ("per head", "shared", "with these heads")}
live_cover = plots.LiveCurves(heads, ones, x_label="heads", y_label="share of keys seen", high=1)


def draw_cover(r, heads_):
    share = 1 - (1 - r / 4096) ** heads
    flat = {"shared": r / 4096, "with these heads": share[heads_ - 1]}
    live_cover.update({"per head": share} | {name: np.full(32, s) for name, s in flat.items()})
    return f"{heads_} heads, r = {r}: {share[heads_ - 1]:.1%} per head, {r / 4096:.1%} shared."


widgets.explore(draw_cover, live_cover.figure, r=(16, 512, 16, 64), heads_=(1, 32, 1, 12))

# %% [markdown] covers="G13"
# ## Settings that contradict each other
#
# Chapter E recommends: window of 3 blocks, "typically 256–512"; random a quarter of the window;
# global 2 blocks, "typically 32–64". How large is a block, then? Solve for it.

# %%
claims.check("C472", f"blocks of {256 / 3:.0f} to {512 / 3:.0f}; with 64 it is {3 * 64}")
claims.check("C474", f"blocks of {32 // 2} to {64 // 2}; with 64 it is {2 * 64}")
claims.check("C473", f"{256 // 4}; the released model has 3 blocks, {3 * 64}")

# %%
settings = {"block": 64, "window_blocks": 1, "random_blocks": 3, "global_blocks": (0, 63)}
layout = bigbird.layout(4096, 4096, **settings)
per_token = layout.mean() * 4096
claims.check("C233", f"3 · 64, 3 · 64, 2 · 64 tokens; {per_token:.0f} keys on average in a mask")

# %% [markdown]
# No block size fits both ranges. Slide it and see which promise breaks.

# %%
live_block = plots.LiveBars(
    {"window": 192, "random": 192, "global": 128}, unit="tokens", title=" ", high=768
)


def draw_block(block):
    sizes = {"window": 3 * block, "random": 3 * block, "global": 2 * block}
    live_block.update(sizes, f"blocks of {block}")
    kept = ["window"] * (256 <= sizes["window"] <= 512) + ["global"] * (32 <= sizes["global"] <= 64)
    return f"Blocks of {block}: in the recommended range: {' and '.join(kept) or 'nothing'}."


widgets.explore(draw_block, live_block.figure, block=(8, 256, 8, 64))

# %% [markdown] covers="G11 G15"
# ## What the theorem says
#
# BigBird's paper proves that its pattern can approximate any continuous function on sequences, as
# full attention can. Its abstract credits a constant number of *global* tokens. It is an existence
# proof: it names no width, no depth, and no accuracy. The paper tests question answering,
# summarisation and genomics.

# %%
why = "the paper's abstract credits O(1) global tokens; the proof was not checked here"
claims.check("C228", "one global token joins all in 2 layers, random keys alone may never", why)

# %% [markdown] covers="F27 F30"
# ## A union is not a sum
#
# Chapter V combines 64 local keys, stride 128 and the first token: 64 + 32 + 1 = 97. Tick the parts
# on and off. When is the union smaller than the sum?

# %%
sets = {
    "local": window.mask(256, 256, window=8),
    "strided": strided.mask(256, 256, stride=16),
    "first": np.tile(np.arange(256) == 0, (256, 1)),
}
live_union = plots.LiveMask(sets["local"])


# %%
def draw_union(**ticked):
    chosen = [mask for name, mask in sets.items() if ticked[name]]
    union = np.any([np.zeros((256, 256), dtype=bool), *chosen], axis=0)
    live_union.update(union)
    added = sum(mask.sum() for mask in chosen) / 256
    return f"Keys of a query: {added:.2f} added up, {union.sum() / 256:.2f} in the union."


widgets.explore(draw_union, live_union.figure, local=True, strided=True, first=True)

# %%
near, far = window.mask(4096, 4096, window=32), strided.mask(4096, 4096, stride=128)
first = np.tile(np.arange(4096) == 0, (4096, 1))
union = near | far | first
print(f"{near.sum() / 4096:.2f} + {far.sum() / 4096:.2f} + 1 keys, union {union.sum() / 4096:.2f}")

# %%
claims.check("C171", int(near[2048].sum()))
claims.check("C173", f"{union.sum() / 4096:.2f}")
claims.check("C174", f"{100 * masks.density(union):.3f} %", "the union above over all pairs")

# %% [markdown] covers="F28 F31 W3 W9"
# The sum is nearly right, by luck: the forgotten own key makes up for the edges. Let the first
# token be truly global, and its row adds nearly 4096 pairs more. **V8** counts all of this.
#
# ## Tiles: the price of odd shapes
#
# A processor multiplies *tiles*, blocks of 16 × 16 pairs or more. A tile with one visible pair
# costs as much as a full one. Take random attention with 1 % of all pairs, in tiles of 32. What
# share of the tiles is touched?

# %%
from attncourse import layouts

n = 2048
loose = random_keys.mask(n, n, n_random=n // 100, seed=0)
for block in (1, 4, 16, 32):
    touched, _ = layouts.blocks_of(loose, block=block)
    chance = 1 - (1 - masks.density(loose)) ** block**2
    print(f"tiles of {block:>2}: {masks.density(touched):7.1%} touched, predicted {chance:.1%}")

# %% [markdown]
# All of them: 1 % of the pairs at the price of full attention. That is why BigBird draws whole
# blocks. Choose a pattern and a tile, and see what is computed for nothing.

# %%
n = 256
kinds = {
    "random": random_keys.mask(n, n, n_random=8, seed=0),
    "strided": strided.mask(n, n, stride=16),
    "longformer": longformer.mask(n, n, window=8, global_tokens=4),
    "bigbird, blocks of 16": bigbird.mask(n, n, block=16, random_blocks=1, global_blocks=1),
}
words = ("skipped", "hidden", "counts")
live_tiles = plots.LiveHeatmap(np.zeros((n, n)), title="computed and needed", words=words)


# %%
def draw_tiles(pattern, tile):
    mask = kinds[pattern]
    touched, _ = layouts.blocks_of(mask, block=tile)
    computed = np.kron(touched, np.ones((tile, tile), dtype=bool))
    live_tiles.update(computed.astype(int) + mask)
    return f"{pattern}, tiles of {tile}: {mask.sum() / computed.sum():.0%} of the work counts."


tile = widgets.choice([1, 2, 4, 8, 16, 32, 64], 4)
widgets.explore(draw_tiles, live_tiles.figure, pattern=list(kinds), tile=tile)

# %% [markdown] covers="F28 F36"
# ## Block-sparse attention
#
# So give the tiles the first word. A *layout* is a small boolean grid: which block of keys does a
# block of queries see? Nothing is computed for the others. A block row takes
#
# $$ \underbrace{Q_\text{block}}_{b \times D}\;
#    \underbrace{[K_{j_1} \dots K_{j_m}]^\top}_{D \times m b} \in \mathbb R^{b \times m b} $$

# %%
from attncourse.reference import block_sparse

n, block = 512, 64
q, k, v = random_qkv(n)
layout = layouts.band(n, n, block=block, window_blocks=0)
layout[:, 0] = layout[0] = True
print(layout.astype(int))

# %%
out = block_sparse.attention(q, k, v, layout=layout, block=block)
by_mask = full.attention(q, k, v, mask=block_sparse.mask(n, n, layout=layout, block=block))
np.testing.assert_allclose(out, by_mask, atol=1e-6)
print(f"{layout.sum()} of {layout.size} blocks computed: the same result as with a mask")

# %% [markdown]
# Any mask can go through it. Blocks that are wholly visible are *full* and need no mask; *partial*
# ones ask a function. So even an odd pattern is exact, at the price of its tiles.

# %%
mask = longformer.mask(n, n, window=40, global_tokens=3)
layout, partial = layouts.blocks_of(mask, block=block)
odd = block_sparse.attention(
    q, k, v, layout=layout, block=block, partial=partial, visible=lambda i, j: mask[i, j]
)
np.testing.assert_allclose(odd, full.attention(q, k, v, mask=mask), atol=1e-6)
print(f"{layout.sum()} of {layout.size} blocks, {partial.sum()} of them partial: the same result")

# %% [markdown] covers="F29 F31 S4"
# **Exercise 05.3** is this algorithm, with its memory graded; **05.5** its Triton kernel.
#
# ## Gather or block
#
# Now the clock. Five ways to attend to the same *number* of pairs, a sixteenth of all, at 2048
# tokens. *Gathering* copies each query's keys from all over the memory. On a GPU such reads do not
# *coalesce*: neighbouring threads fetch from far places. Sparse-matrix libraries such as
# cuSPARSE have the same problem. Rank the five first.

# %%
n = 2048
q, k, v = random_qkv(n)
pairs_of = bigbird.layout(n, n, block=64, window_blocks=0, random_blocks=1, global_blocks=0)
spread = random_keys.mask(n, n, n_random=127)
ways = {
    "full": lambda: full.attention(q, k, v),
    "random keys, masked": lambda: full.attention(q, k, v, mask=spread),
    "random keys, gathered": lambda: random_keys.attention(q, k, v, n_random=127),
    "random blocks": lambda: block_sparse.attention(q, k, v, layout=pairs_of, block=64),
    "window": lambda: window.attention(q, k, v, window=64),
}
assert spread.mean() == pairs_of.mean() == 1 / 16

# %%
seconds = {way: measure.seconds(call, repeats=3) for way, call in ways.items()}
peaks = {way: measure.peak_bytes(call) for way, call in ways.items()}
assert peaks["random blocks"] < peaks["random keys, gathered"] < peaks["full"]
assert peaks["full"] < peaks["random keys, masked"]
figure, (upper, lower) = plots.figure(2, 1, height=4.6)
plots.bars(seconds, upper, unit="s", title="time, a sixteenth of all pairs")
plots.bars(peaks, lower, unit="bytes", title="peak memory")
plots.show(figure, "Time and memory of five ways. Blocks hold less than gathered keys, masks most.")

# %% tags=["nbval-ignore-output"]
won = {way: seconds["full"].median / timing.median for way, timing in seconds.items()}
for way, times in won.items():
    print(f"{way:<22} {times:5.1f} times as fast as full attention; 16 in theory")
blocked = won["window"] / won["random keys, masked"]
claims.check("C067", f"on this CPU, blocks against a mask: {blocked:.0f}x")
claims.check("C143", f"gathered random keys: {won['random keys, gathered'] / 16:.0%} of 16x here")
claims.check("C144", f"random blocks: {won['random blocks'] / 16:.0%} of 16x here")

# %% [markdown] covers="F20 F25 G7"
# Equally many pairs, and yet other times: gathering can lose even to full attention, which computes
# sixteen times as many. Even experts meet this. Longformer's paper calls its own CUDA kernel "as
# fast as the highly optimized full self-attention" (appendix A), though it computes fewer pairs.
# It saved memory, not time.
#
# ## Prediction beside measurement
#
# Each mechanism of this chapter states its peak before it runs. What will each do when $n$ doubles?

# %%
lengths = [1024, 2048, 4096]
inputs = [random_qkv(n) for n in lengths]
named = {
    "longformer": (longformer, {"window": 64, "global_tokens": 2}),
    "bigbird": (bigbird, {"block": 64}),
    "strided": (strided, {"stride": 16}),
    "random": (random_keys, {"n_random": 64}),
}
measured = {"full": [measure.peak_bytes(full.attention, *x) for x in inputs]}
predicted = {"full": [full.cost(1, 1, n, n, 64).peak_bytes for n in lengths]}
for name, (module, knobs) in named.items():
    measured[name] = [measure.peak_bytes(module.attention, *x, **knobs) for x in inputs]
    predicted[name] = [module.cost(1, 1, n, n, 64, **knobs).peak_bytes for n in lengths]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %%
axes = plots.growth(lengths, measured, predicted, unit="bytes", title="peak memory")
plots.show(axes, "Full attention grows with n squared and leaves all sparse patterns far below.")

# %% [markdown]
# The points lie on the lines; the cell above would have failed at a tenth of difference. The
# output alone doubles with $n$. BigBird and Longformer add the scores of their global rows, which
# grow with $n$ too. Strided attention holds $64 \cdot n/s$ scores, and random attention its list of
# drawn keys.

# %%
often = {"repeats": 50, "at_least": 3, "at_most": 0.2}  # short calls more often than long ones
timings = {"full": [measure.seconds(full.attention, *x, **often) for x in inputs]}
rate = full.cost(1, 1, 2048, 2048, 64).flops / timings["full"][1].median
expected = {"full": [full.cost(1, 1, n, n, 64).flops / rate for n in lengths]}
for name, (module, knobs) in measure.progress(named.items(), "timing", expect_seconds=4):
    timings[name] = [measure.seconds(module.attention, *x, **often, **knobs) for x in inputs]
    expected[name] = [module.cost(1, 1, n, n, 64, **knobs).flops / rate for n in lengths]
axes = plots.growth(lengths, timings, expected, unit="s", title="time")
plots.show(axes, "Seconds over n, measured and as the operation count predicts.")

# %% [markdown] covers="F22 F23 F32 F33 G3"
# The dashed lines scale one measured point by FLOPs. Look for the mechanism whose points lie
# farthest above its line, and remember how it gets its keys.
#
# ## A pattern for each kind of data
#
# A pattern is a bet on where the links are. Four toy data sets with links by construction: words
# and a title; names that are defined somewhere; a period; a picture read line by line. Each
# pattern may spend about 17 keys. Bet first.

# %%
n, generator = 256, np.random.default_rng(0)
distance = np.abs(np.arange(n) - np.arange(n)[:, None])
row, column = np.divmod(np.arange(n), 16)
near_rows, near_columns = (np.abs(a - a[:, None]) <= 1 for a in (row, column))
defined = np.eye(n)[generator.integers(0, n, n)]
near = np.exp(-distance / 2)
links = {
    "text": near + 2 * (np.arange(n) < 2),
    "code": near + 4 * defined,
    "genome": near + 2 * (distance % 16 == 0),
    "image": 1.0 * (near_rows & near_columns),
}

# %%
bets = {
    "window": window.mask(n, n, window=8),
    "window\n+ global": longformer.mask(n, n, window=7, global_tokens=2),
    "window\n+ random": window.mask(n, n, window=4) | random_keys.mask(n, n, n_random=8),
    "strided": strided.mask(n, n, stride=16),
    "sparse\nTransformer": window.mask(n, n, window=1) | strided.mask(n, n, stride=16),
    "2-D patch": near_rows & near_columns,
}
caught = np.array([[(w * m).sum() / w.sum() for m in bets.values()] for w in links.values()])


# %%
def winners(row):
    """Name the patterns with the most links; some tie in whole percent."""
    tied = [name for name, share in zip(bets, row, strict=True) if share > row.max() - 0.005]
    return f"{' and '.join(tied)} ({row.max():.0%})".replace("\n", " ")


# %%
words = {"x": "pattern", "y": "data", "label": "share of the links"}
axes = plots.table(caught, list(links), list(bets), title="links caught", **words)
found = (f"in {name} by {winners(row)}" for name, row in zip(links, caught, strict=True))
plots.show(axes, f"Most links are caught {'; '.join(found)}.")

# %% [markdown]
# No column wins everywhere, and nobody wins at code. Chapter E advises random links there, but a
# name's definition may be anywhere, and chance finds it only by luck. One must look at the content.
# Top-k attention does: each query keeps its best keys. But it scores them all first, so a cheap
# predictor has to guess.

# %%
from attncourse.reference import topk

q, k, _ = (array[0, 0] for array in random_qkv(1024, width=64, seed=3))
q, k = q * np.linspace(2, 0.1, 64), k * np.linspace(2, 0.1, 64)  # few directions matter
best = topk.select(q, k, keep=32)
guessed = topk.select(q, k, keep=32, predictor=topk.fit_predictor(q, k, rank=16))
by_chance = random_keys.draw(1024, 1024, n_random=31)
print(f"of the 32 best keys: predictor of rank 16 {topk.recall(guessed, best):.0%}", end=", ")
print(f"random {topk.recall(by_chance, best):.0%}")

# %% [markdown] covers="F28 F30 F31 G3 G17 G18"
# Chapter 08 takes that road, and so does Reformer, which finds near keys by hashing. Linformer and
# Synthesizer (06), Linear Transformer and Performer (07) leave the idea of a mask. Here patterns
# stay known before the text is.
#
# ## The mask studio
#
# Now build your own. The mask of 256 tokens and its hop curve; the graph of 20 tokens; and the time
# of 512 tokens, as its tiles of 64 predict and as this machine measures it now. Can you join all
# pairs in two layers with less than 10 % of them?


# %%
def pattern(n, window_, stride, random, hubs):
    mask = longformer.mask(n, n, window=window_, global_tokens=hubs)
    mask |= random_keys.mask(n, n, n_random=random)
    return mask | strided.mask(n, n, stride=stride) if stride else mask


shape, studio_qkv = (1, 1, 512, 512, 64), random_qkv(512)
whole = measure.seconds(full.attention, *studio_qkv, repeats=5).median
rate, measured_before = full.cost(*shape).flops / whole, {}


# %%
def run(knobs):
    mask = pattern(512, **knobs)
    tiles = mask.reshape(8, 64, 8, 64)
    layout, whole_tiles = tiles.any(axis=(1, 3)), tiles.all(axis=(1, 3))
    extra = {"partial": layout & ~whole_tiles, "visible": lambda i, j: mask[i[:, 0]][:, j[0]]}
    if (key := tuple(knobs.values())) not in measured_before:  # the same setting, the same time
        call = (block_sparse.attention, *studio_qkv)
        timing = measure.seconds(*call, repeats=3, layout=layout, block=64, **extra)
        peak = measure.peak_bytes(*call, layout=layout, block=64, **extra)
        measured_before[key] = timing.median, peak
    return block_sparse.layout_cost(*shape, layout=layout, block=64), *measured_before[key]


# %%
first = {"window_": 4, "stride": 0, "random": 0, "hubs": 0}
studio, ((a, b), (c, d)) = plots.figure(2, 2, width=8.4, height=5.6, width_ratios=(1, 1.3))
live_mask = plots.LiveHeatmap(pattern(256, **first), a, title="mask, 256 tokens")
live_curve = plots.LiveCurves(
    range(9), {"pairs that met": np.ones(9)}, b, x_label="layers", y_label="share", high=1
)
live_graph = plots.LiveGraph(pattern(20, **first), c, title="graph, 20 tokens")
times = {"full": whole, "predicted": whole, "measured": whole}
live_times = plots.LiveBars(times, d, unit="s", title="time, 512 tokens")
a.set(xticks=[], yticks=[])
b.set(xticks=range(9), yticks=[0, 1])
c.xaxis.set_visible(False)
d.xaxis.set_visible(False)  # fewer words to draw: a slider step stays short


# %% tags=["nbval-ignore-output"]
def draw_studio(**knobs):
    mask, small, (cost, time, peak) = pattern(256, **knobs), pattern(20, **knobs), run(knobs)
    met = [1 / 256, *map(masks.density, graph.reach_through([mask] * 8))]
    live_mask.update(mask)
    live_graph.update(small, query=12)
    live_curve.update({"pairs that met": met})
    live_times.update({"full": whole, "predicted": cost.flops / rate, "measured": time})
    held = f"{format_bytes(cost.peak_bytes)} predicted, {format_bytes(peak)} held"
    deep = next((f"all met after {step} layers" for step, m in enumerate(met) if m == 1), "not all")
    return f"{masks.density(mask):.1%} of pairs, {deep}; {held}; {time * 1e3:.1f} ms measured."


knob_ranges = {"window_": (0, 32, 1, 4), "stride": (0, 64, 1, 0), "random": (0, 16, 1, 0)}
widgets.explore(draw_studio, studio, **knob_ranges, hubs=(0, 8, 1, 0))

# %% [markdown] covers="F28 F29 F31"
# One random key a query, and every tile is touched: look at time and memory. One hub costs a row
# and a column of tiles, and cuts the depth to two. What lies between the two bars is not in the
# count: masks, copies and Python's loop.
#
# ## The kernel
#
# One Triton kernel serves the block patterns. Each program takes a block of queries and walks over
# the list of its key blocks: the list is the loop. `trace` notes what it loads, in Triton's
# interpreter if there is no GPU; that takes some seconds.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import bigbird as bigbird_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(256, width=32)]
    bird = {"block": 32, "random_blocks": 1, "global_blocks": 1}
    traced = trace.record(bigbird_kernel.attention, *tensors, **bird)
    assert not traced.out_of_bounds
except (ImportError, RuntimeError) as reason:
    traced = None
    print(reason)

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    tiles = plots.LiveTiles(traced)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 3)))

# %% [markdown]
# The next cell measures the kernels on a GPU if there is one. If not, it shows the latest recorded
# run, or says that there is none.

# %% tags=["nbval-ignore-output"]
bench.show_gpu("bigbird")

# %% [markdown]
# **Exercise 05.6** hides two bugs in an attention that joins two patterns.
#
# ## What has no evidence
#
# Some printed sentences name no task, no metric and no source. The course does not repeat such
# figures as facts.

# %%
claims.check("C074")

# %%
claims.check("C075", why="the paper counts in bits per byte and per dimension, not in perplexity")

# %%
claims.check("C471", why="another page of the same chapter says 0.5 to 1.5")

# %% [markdown]
# ## What you take with you
#
# - A stride alone is several texts, read apart. Near and far together join everything.
# - One hub makes every path two layers long, and very narrow.
# - Count with a mask, row by row. A union is not a sum.
# - A processor computes tiles: scattered keys pay for all of them.
# - A pattern is a bet on where the links are.
#
# Now open `exercises/05_sparse.ipynb`. Six exercises, V4 and V8; each is checked and graded, and
# one of them by its memory.
