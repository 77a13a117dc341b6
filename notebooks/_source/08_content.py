# %% [markdown]
# # 08 · Let the content decide
#
# A window, a stride, a random key: who looks at whom was settled before anyone had read a word.
# Here the words decide. The difficulty is to find the few keys that matter without comparing
# everything with everything; four ways to do that are built, counted and put to the test.
#
# <!-- summary: how few keys carry the weight; the best k as a yardstick, a learned guess, LSH
# attention step by step (directions, buckets, chunks, rounds), and blocks chosen by a glance, as
# models for long texts do it; what each finds, beside what it costs. -->

# %% role="setup"
import numpy as np

from attncourse import claims, model, plots, widgets
from attncourse.inputs import random_qkv, stream
from attncourse.reference import block_topk, flash, full, lsh, topk

# %% [markdown] covers="H1"
# ## A few keys carry the weight
#
# The course's small model (four layers of four heads) reads 512 tokens of a Python module that it
# never saw. Each of its rows of weights sums to 1. How many keys does it take to reach 0.9, the
# heaviest first?

# %%
small = model.load()
layers = small.qkv(small.encode(model.held_out()[0])[:512])
weights = np.stack([full.weights(q, k, causal=True) for q, k, _ in layers])
row = np.sort(weights[2, 1, -1])[::-1]
print("head 2.1, last token:", np.round(row[:6], 2), "… of", len(row))


def keys_needed(weights, share=0.9):
    """How many keys it takes, the heaviest first, to hold this share of each row's weight."""
    heaviest = -np.sort(-weights, axis=-1)
    return (heaviest.cumsum(axis=-1) < share).sum(axis=-1) + 1


# %% [markdown]
# Head 2.1 is the second head of the third layer: layers and heads are counted from 0. From here on
# we look at the last 256 tokens, which have at least 256 keys to choose from.


# %% folded=true
def needed_by_head():
    return keys_needed(weights[:, :, 256:]).mean(axis=-1)


def draw_needed(median):
    found = needed_by_head()
    names = [f"layer {i}" for i in range(4)], [f"head {i}" for i in range(4)]
    axes = plots.numbers(found, *names, title="keys for 90 % of the weight", form=".0f")
    plots.show(axes, f"From {found.min():.0f} to {found.max():.0f} keys, by layer and head.")


# %% folded=true
widgets.guess(
    "Of up to 512 keys, how many hold 90 % of a token's weight, on average, in the median of the "
    "16 heads?",
    lambda: float(np.median(needed_by_head())),
    unit="keys",
    explain=draw_needed,
)

# %% [markdown]
# Heads differ as much as words do. A head that looks up one word needs a key or two; those of
# layer 0, which blend everything, need most. So "attention is sparse" is a statement about a head,
# and it is no law: with random vectors it depends on how far their scores spread.

# %%
claims.check("C008")

# %% [markdown] covers="F23"
# ## Keep the best
#
# So keep the best few and drop the rest. *Top-k attention* lets each query keep its `keep` highest
# scores, and runs the softmax over these alone. What do two heads keep, in lines of a real page?

# %%
page = small.tokenizer.pieces(small.encode(model.page()))
for layer, head, token in ((3, 0, 97), (3, 1, 105)):
    q, k, _ = (array[head] for array in small.qkv(model.page())[layer])
    kept = topk.select(q, k, keep=4, causal=True)[token]
    line, best = "".join(page[token - 9 : token + 1]), ["".join(page[j - 1 : j + 1]) for j in kept]
    print(f"head {layer}.{head} reads {line!r}\n    and looks at the ends of {best}")

# %% [markdown]
# Having read *fun*, the first looks at what came after *fun* before: a *c*. The second, at the end
# of a line, looks at the ends of other lines. First the test that everything here has to pass:

# %%
q, k, v = (array[1] for array in layers[2])  # head 2.1 again, of the first text
everything = topk.attention(q, k, v, keep=512, causal=True)
np.testing.assert_allclose(everything, full.attention(q, k, v, causal=True), atol=1e-5)
print("keep as many as there are, and top-k is full attention")

# %% [markdown]
# Nobody who reads so few keys can hold more of the weight: top-k is the yardstick of this chapter.
# It is not yet a saving. To know the best keys, every score is needed:
#
# $$ \underbrace{2\,n^2 D}_{\text{all scores, to rank them}} +
#    \underbrace{4\,n \cdot \text{keep} \cdot D}_{\text{of the best: scores and values}}
#    \qquad\text{instead of}\qquad 4\,n^2 D $$

# %%
for n in (1024, 16_384):
    few, every = topk.cost(1, 1, n, n, 64, keep=32), full.cost(1, 1, n, n, 64)
    held = few.peak_bytes / every.peak_bytes
    print(f"n = {n:>6,}: {few.flops / every.flops:.0%} of the FLOPs, {held:.1%} of the memory")

# %% [markdown]
# The memory falls, since a row of scores is forgotten once its best are known. Of the work about
# half is left. [Exercise 08.1](../exercises/08_content.ipynb#08.1-The-best-keys,-no-n-×-n) asks for
# it with its memory graded; ours is [`reference/topk.py`](../attncourse/reference/topk.py).
#
# How many keys are enough? Slide, and watch who is served by eight and who never is.

# %% folded=true
late = -np.sort(-weights[:, :, 256:], axis=-1).cumsum(axis=-1).mean(axis=2)  # (4, 4, keys)
keeps = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
some = {"1.1": (1, 1), "2.1": (2, 1), "3.0": (3, 0), "0.0": (0, 0)}
by_keep = {f"head {name}": late[at][keeps - 1] for name, at in some.items()}
axis = {"x_label": "keys kept of each query", "y_label": "share of the weight", "log_x": True}
live_held = plots.LiveCurves(keeps, by_keep, **axis, high=1.0)


def draw_held(keep):
    live_held.update(by_keep, at=keep)
    shares = (f"{name} {late[some[name[5:]]][keep - 1]:.0%}" for name in by_keep)
    return f"The best {keep} keys hold: {', '.join(shares)}."


widgets.explore(draw_held, live_held.figure, keep=widgets.choice(keeps.tolist(), 8))

# %% [markdown] covers="F22 X1"
# ## Let a cheaper product guess
#
# Ranking needs no exact scores. Project queries and keys from $D$ to $r$ dimensions, and rank by
# the product there; only the winners get their true scores:
#
# $$ q \cdot k \;\approx\; (q A) \cdot (k B), \qquad
#    A, B \in \mathbb R^{D \times r}: \qquad
#    2\,n^2 D \;\to\; 2\,n^2 r \;+\; \text{projections} $$

# %% [markdown]
# $A$ and $B$ are learned from other texts. Of all pairs of this rank,
# [`fit_predictor`](../attncourse/reference/_parts/predictor.py) finds the one with the least
# squared error. We fit on one module of the standard library and test on another.

# %%
learned_from = small.qkv(small.encode(model.held_out()[1])[:512])
best = [topk.select(q, k, keep=32, causal=True) for q, k, _ in layers]


def found_by_rank(rank):
    """Of the 32 best keys of late tokens, the share that a predictor finds, by layer."""
    shares = []
    for (q, k, _), (old_q, old_k, _), wanted in zip(layers, learned_from, best, strict=True):
        learned = topk.fit_predictor(old_q, old_k, rank=rank)
        kept = topk.select(q, k, keep=32, causal=True, predictor=learned)
        shares.append(topk.recall(kept[:, 256:], wanted[:, 256:]))
    return np.array(shares)


assert np.all(found_by_rank(32) > 0.99)  # with all dimensions it is the ranking itself


# %% folded=true
def draw_ranks(answer):
    ranks = [1, 2, 4, 8, 16, 32]
    by_rank = np.array([found_by_rank(rank) for rank in ranks])  # (ranks, layers)
    curves = {f"layer {layer}": by_rank[:, layer] for layer in range(4)}
    words = {"x_label": "work of ranking, as a share of all scores", "y_label": "best keys found"}
    axes = plots.curves([rank / 32 for rank in ranks], curves, log_x=True, **words)
    quarter = ", ".join(f"{share:.0%}" for share in by_rank[3])
    luck = "By luck it would be 32 of some 384 keys, 8 %"
    plots.show(axes, f"{luck}. Found for a quarter of the work, by layer: {quarter}.")


# %% folded=true
widgets.guess(
    "A predictor with 8 of the 32 dimensions: which share of the 32 best keys does it find, on "
    "average over all heads?",
    lambda: 100 * found_by_rank(8).mean(),
    unit="%",
    explain=draw_ranks,
)

# %% [markdown]
# A cheap guess finds most of what matters, least in layer 0, whose heads look at everything. So who
# reads whom is *learned*. Better still, a scorer learns together with its model: DeepSeek-V3.2 has
# one beside its attention, its *indexer*.
#
# Yet it still compares each with each, at a smaller price. Can we find neighbours without comparing
# at all?

# %% [markdown] covers="H2 H3 W11"
# ## Hash by direction
#
# A dictionary finds a word without looking at the others: a hash says in which bucket it lies. For
# vectors we want a hash that sends *similar* ones to the same bucket. Draw a few random directions,
# and let each vector name the one it points along most, or against most:
#
# $$ h(x) = \operatorname{argmax}\,[\,xR,\; -xR\,], \qquad R \in \mathbb R^{D \times b/2},
#    \qquad h(x) \in \{0, \dots, b - 1\} $$

# %% [markdown]
# By hand, in the plane, with two directions and so four buckets:

# %%
R = np.array([[1.0, 0.5], [0.0, 1.0]])  # its columns are the directions (1, 0) and (0.5, 1)
for x in ([2.0, 0.5], [0.2, 0.4], [-1.0, -0.9]):
    along = x @ R
    both = np.concatenate([along, -along])
    print(f"x = {x}: [xR, -xR] = {np.round(both, 2)}, bucket {both.argmax()}")
assert np.array_equal(lsh.hash_vectors(np.array([x, x]) * [[1], [7]], R[None])[0], [3, 3])

# %% [markdown]
# The last line says that length does not matter: seven times $x$ points the same way. Directions
# and their opposites cost one product instead of two. Slide: each number is the bucket of a point.
# When does a bucket stay empty?

# %% folded=true
turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
live_sectors = plots.LiveSectors(circle, np.zeros(40, int), R)


def draw_sectors(buckets, seed):
    rays = lsh.draw_rotations(2, n_buckets=buckets, n_rounds=1, seed=seed)
    hashes = lsh.hash_vectors(circle, rays)[0]
    live_sectors.update(hashes, rays[0])
    sizes = lsh.bucket_sizes(hashes, buckets)
    empty = (sizes == 0).sum()
    return f"{buckets} buckets, from {sizes.min()} to {sizes.max()} points; {empty} empty."


widgets.explore(draw_sectors, live_sectors.figure, buckets=(2, 12, 2, 6), seed=(0, 9, 1, 1))

# %% [markdown]
# A direction that is shorter than one beside it never wins. In 32 dimensions that is rare: random
# directions are almost at right angles there.
#
# How likely do two vectors share a bucket? Measure it, for pairs at many angles:

# %%
cosines = np.linspace(-0.5, 1, 31)
vectors = np.zeros((2, 31, 32))
vectors[0, :, 0], vectors[1, :, 0], vectors[1, :, 1] = 1, cosines, np.sqrt(1 - cosines**2)


def sharing(buckets, rounds=4000):
    """In which share of many random hashes both vectors of each pair share a bucket."""
    drawn = lsh.draw_rotations(32, n_buckets=buckets, n_rounds=rounds)
    return lsh.collision_rate(*vectors, drawn)


# %% folded=true
widgets.guess(
    "Two vectors at cosine 0.9 and 8 buckets: how often do they share one?",
    lambda: 100 * sharing(8)[28],
    unit="%",
    explain="A cosine of 0.9 is an angle of 26 degrees, and in high dimensions a bucket has many "
    "edges, each of which may lie between the two.",
)

# %% [markdown]
# With one direction, so two buckets, it is a line of geometry. Seen in their plane, the direction's
# dividing line parts two vectors if it falls into the angle $\theta$ between them, and it falls
# anywhere:
#
# $$ P(\text{same bucket of } 2) = 1 - \theta / \pi $$

# %%
two = 1 - np.arccos(cosines) / np.pi
print("2 buckets: the formula is off by at most", np.abs(sharing(2) - two).max().round(2))

# %% [markdown]
# More buckets, smaller ones: strangers part more often. And friends?

# %% folded=true
axes = plots.curves(
    cosines,
    {"2: formula": two} | {f"{b}: measured": sharing(b) for b in (2, 8, 32)},
    x_label="cosine of the angle between two vectors",
    y_label="share a bucket",
)
near, far = sharing(8)[28], sharing(8)[10]
plots.show(axes, f"8 buckets: {near:.0%} at cosine 0.9, {far:.0%} at right angles.")

# %% [markdown]
# This is what makes the hash *locality-sensitive*, LSH for short: the chance rises with the cosine.
# "Similar vectors share a bucket with high probability" is the usual sentence. Read the
# curve before you believe it.

# %%
claims.check("C359")

# %% [markdown]
# What is missed lies at the edges. A vector's *margin* is by how much its largest product beats the
# second. Hash 4000 vectors, each with a neighbour at cosine 0.95, and sort them by it:

# %%
rng = stream("chapter 08, edges", 0)
x, across = (lsh.unit_keys(rng.standard_normal((4000, 32))) for _ in range(2))
across = lsh.unit_keys(across - (across * x).sum(axis=1, keepdims=True) * x)
y = 0.95 * x + np.sqrt(1 - 0.95**2) * across
R = lsh.draw_rotations(32, n_buckets=8, n_rounds=1, seed=2)
largest = np.sort(np.abs(x @ R[0]), axis=1)
order = np.argsort(largest[:, -1] - largest[:, -2])
same = lsh.collision_rate(x, y, R)[order]
for name, part in zip(("smallest", "second", "third", "largest"), np.split(same, 4), strict=True):
    print(f"{name:>8} margins: {part.mean():.0%} of the neighbours share the bucket")

# %% [markdown]
# Who points clearly one way keeps the neighbours; at an edge it is a toss of a coin. Another hash
# has its edges elsewhere, which is what several rounds are for, below.
# [Exercise 08.2](../exercises/08_content.ipynb#08.2-Hash-by-direction) asks for the hash.

# %% [markdown] covers="H4 H5 H6 H7"
# ## Sort, cut, look next door
#
# Now use it. If each token looks at its own bucket, who is in it? Going through the tokens once for
# each would be $n^2$ again.

# %% [markdown]
# *Reformer* (Kitaev et al. 2020, arXiv:2001.04451) sorts instead: tokens of one bucket become
# neighbours, and neighbours are what a window can see.
#
# 1. **Hash** each token.
# 2. **Sort** by bucket, and by position within one.
# 3. **Cut** the sorted row into chunks of equal size.
# 4. **Look** at the own chunk and the one before.
# 5. **Undo** the sort.

# %%
line = slice(82, 106)  # self.timefunc = timefunc, and the line after it
line_q, _, line_v = (array[0, line] for array in small.qkv(model.page())[0])  # head 0.0
words = [piece.strip() or "⏎" for piece in page[line]]
R = lsh.draw_rotations(32, n_buckets=4, n_rounds=1, seed=4)
buckets = lsh.hash_vectors(line_q, R)[0]
order = np.argsort(buckets, kind="stable")
print(*np.array(words)[order])
back = np.argsort(order)
assert np.array_equal(order[back], np.arange(24))  # sorted twice is as before

# %% [markdown]
# Slide through the tokens, and watch the table fill. On the left is who looks at whom, in the order
# of the text: no pattern that anyone would have planned. On the right are the same pairs, sorted.
# **Blocks along the diagonal: that is all that LSH attention is.**

# %% folded=true
live_table = plots.LiveTable(words, buckets, 4, chunk=6, columns=14)


def draw_table(token, seed):
    rays = lsh.draw_rotations(32, n_buckets=4, n_rounds=1, seed=seed)
    buckets = lsh.hash_vectors(line_q, rays)[0]
    live_table.update(token, buckets)
    sizes = np.bincount(buckets[:token], minlength=4)
    last = f"{words[token - 1]!r} goes to bucket {buckets[token - 1]}" if token else "It is empty"
    return f"{last}; the buckets hold {', '.join(map(str, sizes))} tokens."


widgets.explore(draw_table, live_table.figure, token=(0, 24, 1, 23), seed=(2, 9, 1, 4))

# %% [markdown]
# Chunks are cut by count, wherever a bucket ends; so a bucket may begin in the chunk before, and
# that is why one looks there. (The first chunk looks at the last: the order is a ring.) The bucket
# above in the table is no neighbour in direction; its number is only a name.


# %%
def one_round(q, k, v, buckets, chunk):
    """Attention within sorted chunks of tokens: the own chunk, and the one before."""
    order = np.argsort(buckets, kind="stable")
    chunks = np.split(order, range(chunk, len(order), chunk))
    out = np.empty_like(v)
    for before, own in zip([chunks[-1], *chunks], chunks, strict=False):
        look = np.concatenate([before, own])
        out[own] = full.attention(q[own], k[look], v[look])  # back at their places
    return out


keys = lsh.unit_keys(line_q)  # see below
mine = one_round(line_q, keys, line_v, buckets, chunk=6)
ours = lsh.attention(line_q, keys, line_v, n_buckets=4, n_rounds=1, chunk=6, seed=4)
np.testing.assert_allclose(mine, ours, atol=1e-5)

# %% [markdown]
# The undoing hides in `out[own] = …`. Where do `keys` come from? A token is hashed as a query and
# as a key. If both are trained apart, they land in different buckets, and a chunk of queries faces
# the keys of other tokens:

# %%
R = lsh.draw_rotations(32, n_buckets=8, n_rounds=1)
together = [
    (lsh.hash_vectors(q, R) == lsh.hash_vectors(k, R)).mean(axis=-1)[0] for q, k, _ in layers
]
least, most = np.min(together), np.max(together)
print(f"8 buckets: query and key of a token share one for {least:.0%} to {most:.0%} of the tokens")

# %% [markdown]
# By luck it would be an eighth. So Reformer is trained with *shared queries and keys*: a token's
# key is its query, at length 1, and hashes as it does. Then every token would like itself best, and
# looks at itself only if it finds nobody else.
#
# [Exercise 08.3](../exercises/08_content.ipynb#08.3-Sort,-cut-and-put-back) asks for the last four
# steps; ours is [`reference/lsh.py`](../attncourse/reference/lsh.py).

# %% [markdown] covers="H8"
# ## What b buckets save
#
# Of $n$ tokens a bucket holds $n/b$, if all are alike. What is saved?

# %% folded=true
widgets.guess(
    "4096 tokens in 8 even buckets. Each token looks at its own bucket and the one before: how "
    "many times fewer pairs than in full attention?",
    lambda: 4096 / (2 * 4096 / 8),
    unit="times",
    explain="A query sees 2n/b keys instead of n, and n / (2n/b) = b/2. Looking next door "
    "costs a factor of two.",
)

# %% [markdown]
# Are buckets even? The model's keys, beside random vectors:

# %% folded=true
real, even = layers[3][1][2], random_qkv(512, width=32)[1][0, 0]  # head 3.2
sizes = {
    name: lsh.bucket_sizes(lsh.hash_vectors(keys, R), 8)[0]
    for name, keys in {"keys of head 3.2": real, "random keys": even}.items()
}
figure, both = plots.figure(1, 2, height=3.2)
top = max(map(max, sizes.values()))
for ax, (name, found) in zip(both, sizes.items(), strict=True):
    filled = {f"bucket {b}": int(size) for b, size in enumerate(found)}
    plots.bars(filled, ax, title=name, high=top)
spans = [f"{name} {found.min()} to {found.max()}" for name, found in sizes.items()]
plots.show(figure, f"Tokens in a bucket, on average 64: {'; '.join(spans)}.")

# %% [markdown]
# Keys of a trained head share a common part, and lean the same way. On average a bucket has $n/b$
# tokens, but the average token sits in a large one. Chunks of equal size keep the *work* even; what
# suffers is the finding, when a bucket is longer than two chunks.
#
# How many pairs, then, with chunks of $n/b$?

# %%
q, k, _ = (array[0, 0] for array in random_qkv(4096))
seen = lsh.found(q, k, n_buckets=8, n_rounds=1, chunk=512)
print(f"a query sees {seen.sum(axis=-1).mean():.0f} of {len(k)} keys")
claims.check("C362", len(k) / seen.sum(axis=-1).mean())

# %% [markdown]
# **Count what one query sees, and divide.** The check takes a line and needs no trust. If buckets
# themselves are looked at instead of even chunks, uneven ones save less: a bucket of $s_i$ tokens
# makes $s_i (s_i + s_{i-1})$ pairs, its many tokens times their many keys.

# %%
for name, found in sizes.items():
    pairs = int((found * (found + np.roll(found, 1))).sum())
    print(f"{name:<16} {found.sum() ** 2 / pairs:.1f} times fewer pairs, of 8 / 2 promised")

# %% [markdown]
# [Exercise 08.4](../exercises/08_content.ipynb#08.4-What-b-buckets-save) does this sum, with the
# hashing counted.
#
# More buckets, then? Hashing costs too: each query and key meets $b/2$ directions. With chunks of
# $n/b$ and one round, in FLOPs,
#
# $$ \underbrace{2\,n b D}_{\text{hashing}} + \underbrace{8\,n^2 D / b}_{\text{two chunks}}
#    \;\ge\; 8\,n^{3/2} D, \qquad\text{least where both are equal: } b = 2\sqrt n . $$

# %% folded=true
powers = [2**i for i in range(1, 12)]
parts = {"hashing": powers, "looking": powers, "both": powers}
axis = {"x_label": "buckets b", "y_label": "FLOPs, as a share of full attention", "log_x": True}
live_cost = plots.LiveCurves(powers, parts, **axis, high=1.0)
lengths = widgets.choice([256, 1024, 4096, 16_384, 65_536], 4096)


# %% folded=true
def draw_cost(n, buckets):
    every = full.cost(1, 1, n, n, 64).flops
    knobs = [{"n_buckets": b, "n_rounds": 1, "chunk": max(1, n // b)} for b in powers]
    both = [lsh.cost(1, 1, n, n, 64, **one).flops / every for one in knobs]
    hashing = [2 * n * b * 64 / every for b in powers]
    looking = [total - part for total, part in zip(both, hashing, strict=True)]
    curves = {"hashing": hashing, "looking": looking, "both": both}
    live_cost.update(curves, f"n = {n:,}", at=buckets)
    share, least = both[powers.index(buckets)], powers[int(np.argmin(both))]
    return f"n = {n:,}, {buckets} buckets: {share:.1%} of full attention; least at {least} buckets."


widgets.explore(draw_cost, live_cost.figure, n=lengths, buckets=widgets.choice(powers, 8))

# %% [markdown]
# While $b$ stays, the cost is quadratic, with a smaller factor. Only if $b$ grows with the text
# does the *order* fall, to $n^{3/2}$ at best. With more buckets still, such as $b = n / 64$,
# looking is linear and hashing quadratic. [The audit](17_audit.ipynb) has what the texts say of it.

# %% [markdown] covers="H9"
# ## More rounds, more luck
#
# One hash misses whoever sits across an edge. So hash again with other directions: if one round
# finds a key with chance $p$, then $r$ rounds miss it with $(1 - p)^r$.
#
# How many of the 32 best keys do eight rounds find: of keys as trained, or shared with the queries,
# as Reformer trains them?


# %% folded=true
rounds = list(range(1, 9))


def hashed(q, k, b):
    """What late tokens find after each round: of the 32 best keys, and of all the pairs."""
    best = topk.mask_of(topk.select(q, k, keep=32, causal=True), 512)[256:]
    knobs = {"n_buckets": b, "chunk": 512 // b, "causal": True}
    seen = [lsh.found(q, k, n_rounds=r, **knobs)[256:] for r in rounds]
    visible = full.mask(512, 512, causal=True)[256:].sum()
    return [(one & best).sum() / best.sum() for one in seen], [one.sum() / visible for one in seen]


# %% folded=true
q, k, _ = (array[3] for array in layers[2])  # head 2.3
shared = lsh.unit_keys(q)
luck = {
    (name, b): hashed(q, one, b)
    for name, one in {"as trained": k, "shared": shared}.items()
    for b in (8, 16, 32)
}

# %% folded=true
figure, (left, right) = plots.figure(1, 2, height=3.4)
start = {f"{b} buckets": luck["as trained", b][0] for b in (8, 16, 32)}
axis = {"x_label": "rounds", "high": 1.0}
live_found = plots.LiveCurves(rounds, start, left, y_label="best keys found", **axis)
live_pairs = plots.LiveCurves(rounds, start, right, y_label="pairs looked at", **axis)


# %% folded=true
def draw_rounds(rounds, keys):
    for place, live in enumerate((live_found, live_pairs)):
        live.update({f"{b} buckets": luck[keys, b][place] for b in (8, 16, 32)}, at=rounds)
    at = {b: [part[rounds - 1] for part in luck[keys, b]] for b in (8, 16, 32)}
    said = (f"{b} buckets find {best:.0%} for {cost:.0%}" for b, (best, cost) in at.items())
    return f"Keys {keys}, rounds: {rounds}. {'; '.join(said)} of the pairs."


controls = {"rounds": (1, 8, 1, 1), "keys": ["as trained", "shared"]}
widgets.explore(draw_rounds, figure, **controls)

# %%
found, pairs = (np.array(part) for part in luck["as trained", 16])
for r in (1, 4):
    print(f"rounds: {r}; found {found[r - 1]:.0%} of the best in {pairs[r - 1]:.0%} of the pairs")
cosine = np.sort(lsh.unit_keys(q) @ lsh.unit_keys(k).T, axis=-1)[256:, -32:].mean()
print(f"mean cosine of a query and its 32 nearest keys: {cosine:.2f}")

# %% [markdown]
# By how much is that better than chance, which finds as many of the best as of the pairs? The best
# keys of a head trained with full attention are not *near* its queries: at such cosines the curve
# above is still low. And a large product may come from a long key, which no direction tells.

# %% [markdown]
# ### How rounds are merged
#
# Each round gives an output, already divided by its own softmax sum. What if we average them? Four
# tokens and two rounds, by hand: the first finds keys 0 and 1, the second keys 1 and 3.

# %%
scores, values = np.array([2.0, 1.0, 0.0, 3.0]), np.array([10.0, 20.0, 30.0, 40.0])


def round_of(*keys):
    """Output and log of the softmax sum of some keys, as arrays of one query."""
    sums = np.exp(scores[list(keys)])
    return np.array([[sums @ values[list(keys)] / sums.sum()]]), np.log([sums.sum()])


wanted = round_of(0, 1, 3)[0].item()
first, again, other = round_of(0, 1), round_of(1, 3), round_of(3)
print(f"keys 0, 1 and 3 at once      {wanted:.2f}")
print(f"mean of the rounds           {(first[0] + again[0]).item() / 2:.2f}")
print(f"weighed by their sums        {flash.merge(*first, *again)[0].item():.2f}")
print(f"the same, key 1 counted once {flash.merge(*first, *other)[0].item():.2f}")

# %% [markdown]
# The mean gives a round of dull keys as much say as one that struck gold. Weighing each by its sum
# $e^{\mathrm{lse}}$ is right, as for the parts of
# [FlashAttention](09_flash.ipynb#Cut-the-keys:-the-tempting-way):
#
# $$ \text{out} = \sum_r \frac{e^{\,\mathrm{lse}_r}}{\sum_s e^{\,\mathrm{lse}_s}}\;\text{out}_r,
#    \qquad \mathrm{lse}_r = \log \sum_{j \in \text{round } r} e^{\,s_j} $$
#
# But a key that two rounds find counts twice. Reformer's paper lowers its score by the logarithm of
# how often it is found; we hide it from the later round.

# %%
q, k, v = (array[1] for array in layers[2])
knobs = {"n_buckets": 16, "chunk": 32, "causal": True}
union = lsh.found(q, k, n_rounds=4, **knobs)
merged = lsh.attention(q, k, v, n_rounds=4, **knobs)
np.testing.assert_allclose(merged, full.attention(q, k, v, mask=union), atol=1e-5)
print("four merged rounds: full attention over what any of them has found")

# %% [markdown]
# [Exercise 08.5](../exercises/08_content.ipynb#08.5-Merge-the-rounds) merges rounds whose keys
# overlap.

# %% [markdown] covers="X3 H10"
# ## Blocks, chosen by a glance
#
# Single keys, scattered over memory, are what a GPU likes least, and sorting everything is next.
# Models for long texts do something simpler. Keep the keys where they are, in blocks of neighbours.
# Take *one* vector for each block, the mean of its keys. Score the blocks by it, and read the best
# ones whole:
#
# $$ \bar k_B = \frac1{|B|} \sum_{j \in B} k_j, \qquad
#    q \cdot \bar k_B = \operatorname*{mean}_{j \in B} \; q \cdot k_j $$

# %% [markdown]
# A query scores $n$ / block means, not $n$ keys. The own block is always read, since a text's last
# words matter; later blocks never. This is MoBA (Lu et al. 2025, arXiv:2502.13189); NSA
# (arXiv:2502.11089) and Quest (arXiv:2406.10774) differ in how they look. By hand, for the last
# query of a text of 512 tokens and blocks of 64:

# %%
q, k, v = (array[1] for array in layers[2])  # head 2.1
means = k.reshape(8, 64, 32).mean(axis=1)
looks = q[-1] @ means.T
looks[7] = np.inf  # its own
chosen = np.sort(np.argsort(-looks, kind="stable")[:3])
print("scores", np.round(looks, 1), "blocks", chosen)
keys = (chosen[:, None] * 64 + np.arange(64)).ravel()
by_hand = full.attention(q[-1:], k[keys], v[keys])
ours = block_topk.attention(q, k, v, block=64, keep=3, causal=True)
np.testing.assert_allclose(ours[-1:], by_hand, atol=1e-5)
everything = block_topk.attention(q, k, v, block=64, keep=8, causal=True)
np.testing.assert_allclose(everything, full.attention(q, k, v, causal=True), atol=1e-5)
print("that is block_topk; and all blocks are full attention")

# %% [markdown]
# Who reads what is now decided anew for each input: *dynamic* sparsity. Choose a head, and fewer or
# larger blocks. Dark is what holds more than 2 % of a row's weight and is not read. Which heads
# need no glance, since their own block would do?

# %% folded=true
names = ("not read", "read", "weight that is missed")
axis = {"x": "keys, in fours", "y": "queries, in fours", "title": " "}
live_blocks = plots.LiveHeatmap(np.zeros((128, 128)), words=names, **axis)
heads_by_name = {f"head {layer}.{head}": (layer, head) for layer in range(4) for head in range(4)}
head = widgets.choice(heads_by_name, (2, 1))


# %% folded=true
def draw_blocks(head, block, keep):
    layer, number = head
    q, k, _ = (array[number] for array in layers[layer])
    chosen = block_topk.select(q, k, block=block, keep=keep, causal=True)
    read = block_topk.mask_of(chosen, 512, block=block, causal=True)
    rows = weights[layer, number]
    kinds = np.where(~read & (rows > 0.02), 2, read)  # what is missed: over 2 % of a row
    live_blocks.update(kinds.reshape(128, 4, 128, 4).max(axis=(1, 3)), f"head {layer}.{number}")
    caught, most = (rows * read)[256:].sum(axis=-1).mean(), min(512, keep * block)
    return f"Up to {most} keys a token hold {caught:.0%} of the weight of the last 256 tokens."


controls = {"block": widgets.choice([4, 8, 16, 32, 64], 16), "keep": (1, 16, 1, 8)}
widgets.explore(draw_blocks, live_blocks.figure, head=head, **controls)

# %% [markdown]
# ### What a mean hides
#
# Let one key of a block be the query itself, of length 1, and the others random, with products of
# deviation $1/\sqrt{D}$. In a mean of $B$ keys the needle is $1/B$, the noise
# $\sqrt{B}/(B\sqrt{D})$:
#
# $$ \frac{\text{signal}}{\text{noise}} = \frac{1/B}{1/\sqrt{B D}} = \sqrt{D / B} $$
#
# Small blocks see sharply, and cost more glances. A *recall probe* tests it: 512 keys, each wanted
# by one query.


# %%
def probe(attend, cosine=None, n=512, width=64):
    """Share of queries whose output is the value of the key that they look for."""
    rng = stream("chapter 08, recall", 0)
    k = lsh.unit_keys(rng.standard_normal((n, width)))
    if cosine:  # each key of the second half is nearly one of the first half
        k[n // 2 :] = cosine * k[: n // 2] + np.sqrt(1 - cosine**2) * k[n // 2 :]
        k = lsh.unit_keys(k)
    wanted, values = rng.permutation(n), rng.choice([-1.0, 1.0], (n, width))
    q = k[wanted] + 0.3 * rng.standard_normal((n, width)) / np.sqrt(width)
    out = attend(64 * q, k, values)
    return ((out @ values.T).argmax(axis=-1) == wanted).mean()


# %%
def blocks(block, keep, **knobs):
    return lambda *qkv: block_topk.attention(*qkv, block=block, keep=keep, **knobs)


def rounds_of(n_rounds):
    return lambda *qkv: lsh.attention(*qkv, n_buckets=16, n_rounds=n_rounds, chunk=32)


# %%
ways = {
    "full attention": full.attention,
    "top 8": lambda *qkv: topk.attention(*qkv, keep=8),
    "LSH, 1 round": rounds_of(1),
    "LSH, 4 rounds": rounds_of(4),
    "blocks of 64, 2 read": blocks(64, 2),
    "blocks of 16, 8 read": blocks(16, 8),
    "blocks of 4, 32 read": blocks(4, 32),
}

# %% folded=true
shares = np.array([[probe(way), probe(way, 0.9)] for way in ways.values()])
labels = ["single keys", "near-duplicates"]
axes = plots.table(
    shares, list(ways), labels, title="found", x="keys", y="", label="share of the queries"
)
said = (f"{way} {one:.0%} and {two:.0%}" for way, (one, two) in zip(ways, shares, strict=True))
plots.show(axes, f"Found among single keys and among near-duplicates: {'; '.join(said)}.")

# %% [markdown]
# Each line of blocks reads 128 keys, each round of LSH 64. A near-duplicate's block looks almost as
# good, and takes a place.
#
# Another glance keeps each dimension's largest and smallest number, and adds up what is best for
# the query. No key of the block can score above this *bound*, so no needle is diluted. Is that
# better?

# %%
bounds = [probe(blocks(block, keep, bound=True)) for block, keep in ((64, 2), (16, 8), (4, 32))]
for block, mean, bound in zip((64, 16, 4), shares[4:, 0], bounds, strict=True):
    print(f"blocks of {block:>2}: {mean:4.0%} found by the mean, {bound:4.0%} by the bound")

# %% [markdown]
# For keys like these it is not. A block of many random keys promises much to everyone, and what
# everyone promises tells nothing. A bound pays where few dimensions decide. **A glance is a guess:
# test it on keys of your own.**

# %% [markdown]
# ### The glance as a kernel
#
# A list of blocks is all that the block-sparse kernel of [chapter 05](05_sparse_tiles.ipynb) needs.
# So [`kernels/block_topk.py`](../attncourse/kernels/block_topk.py) has none of its own: it glances,
# chooses, and hands over a list for each head. But a tile of queries walks along one list, so they
# share a choice: `choose_every=16` lets the first of 16 choose for all.

# %%
q, k, v = layers[2]
for every in (1, 16):
    knobs = {"block": 16, "keep": 8, "choose_every": every, "causal": True}
    chosen = block_topk.select(q, k, **knobs)
    read = block_topk.mask_of(chosen, 512, block=16, causal=True)
    held = (weights[2] * read)[:, 256:].sum(axis=-1).mean()
    print(f"a choice every {every:>2} queries: {held:.0%} of the weight in layer 2")

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import block_topk as block_topk_kernel

    tensors = [torch.from_numpy(array[None, :1, :64]) for array in layers[2]]
    sizes, knobs = (1, 1, 64, 64, 32), {"block": 16, "keep": 2, "choose_every": 16}
    walked = trace.record(block_topk_kernel.attention, *tensors, **knobs, causal=True)
    counts = (block_topk_kernel.cost, block_topk_kernel.torch_cost)
    whole, apart = (count(*sizes, **knobs, causal=True).bytes_read for count in counts)
    print("bytes loaded by the kernel: predicted", whole - apart, "counted", walked.bytes_loaded())
    assert whole - apart == walked.bytes_loaded()
except (ImportError, RuntimeError) as reason:
    print(reason)

# %% [markdown]
# The count does not depend on what was chosen: everyone reads as many blocks. [Exercise
# 08.6](../exercises/08_content.ipynb#08.6-Pick-the-blocks) asks for the choice, without ever making
# an n × n array; ours is [`reference/block_topk.py`](../attncourse/reference/block_topk.py).

# %% [markdown]
# ## In a real model
#
# The same small model reads a page that it never saw, with blocks of 16 tokens in every layer;
# nothing is trained again. A token is dark if it has become less probable, in *nats*: by how much
# $-\ln p$ grew. With how many blocks do words come back that a line further up used?

# %% folded=true
swapped = {
    keep: small.swap("block_topk", keep=keep, block=16, choose_every=1) for keep in (2, 4, 8)
}
swapped |= {
    "best 32 keys": small.swap("topk", keep=32),
    "the last 128 keys": small.swap("window", window=127),
    "the last 127 keys": small.swap("window", window=126),
    "LSH, two chunks of 64": small.swap("lsh", n_buckets=8, n_rounds=1, chunk=64),
}
tried = model.compare(small, swapped)
widgets.in_a_real_model("keep", {keep: tried[keep] for keep in (2, 4, 8)}, start=2)

# %% [markdown]
# And the others? *Copying* is what a model gains when it reads 128 shuffled tokens a second time.
# The first reads 32 keys a token, the next two up to 128. So does LSH, but for those that lie in
# the future and are hidden. And what is one key worth?

# %%
for way in ("best 32 keys", 8, "the last 128 keys", "the last 127 keys", "LSH, two chunks of 64"):
    found, name = tried[way], "8 blocks of 16" if way == 8 else way
    copied = min(1, max(0, found.copied))
    print(f"{name:<22} {found.loss:.2f} nats, {copied:4.0%} of the copying")
print(f"{'full attention':<22} {found.full_loss:.2f} nats")

# %% [markdown]
# A window finds by place: what is copied stands 127 tokens back; 126 are not enough. Content finds
# it at any distance. On other text, most of what helps is near.
#
# None was trained in its place. LSH has the hardest time: nobody asked queries and keys to share a
# direction. Models that hash, or choose blocks, train for it.

# %% [markdown]
# ## Try it on your own text
#
# Paste something of your own: code, minutes, a poem. For each head: how many of the keys does it
# need? If almost all need few, your text repeats itself; if the heads of the last layers need many,
# a glance will miss something.

# %%
text = model.page()
maps = small.attention_maps(small.encode(text)[:512])
needed = keys_needed(maps)[:, :, maps.shape[2] // 2 :].mean(axis=-1)
print(f"{maps.shape[2]} tokens; keys for 90 % of the weight, by layer and head:")
print(np.round(needed).astype(int))

# %% [markdown]
# Next: [chapter 09](09_flash.ipynb) leaves out no key, and holds no square either.
