# %% [markdown]
# # 06 · Fewer keys, part two: runs, tables, levels
#
# [Part one](06_low_rank.ipynb) mixed all keys into a few, by matrices tied to one length. Here
# neighbours become one, in equal runs or where keys say so; scores are learned without any key;
# text is read on two levels or with memory. Which may a decoder use, that must not see the future?
#
# <!-- summary: pooling by means, maxima, learned weights and likeness; the Synthesizer; two levels
# and a memory; what is left from left to right. -->

# %% role="setup"
import numpy as np

from attncourse import claims, measure, model, plots, spectra, widgets
from attncourse.catalogue import MECHANISMS
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, linear, linformer, pooled, segment, synthesizer
from attncourse.units import format_bytes

# %% [markdown]
# Two kinds of data serve throughout. *Text*: queries, keys and values of one head of the course's
# model, which reads twelve pieces of text that it never saw; the head's causal mask is lifted.
# *Jumps*: a signal that stays flat, then jumps, at irregular places.

# %%
small = model.load()
unseen = np.concatenate([small.encode(text) for text in model.held_out()])
pieces = unseen[: 12 * 128].reshape(12, 128)
read = np.array([small.qkv(piece)[3] for piece in pieces], float)  # layer 3: (12, 3, heads, 128, D)
text = read[:, :, 1].swapaxes(0, 1)  # head 1: (3, 12, 128, 32)

# %%
drawn = stream("jumps", 0)
flat = drawn.multinomial(128 - 24, np.ones(24) / 24) + 1  # 24 stretches
jumps = np.repeat(drawn.standard_normal((3, 24, 32)), flat, axis=1)
data = {"text": text, "jumps": jumps}


def error(way, q, k, v, **knobs):
    """Return the relative error of a mechanism against full attention."""
    exact = full.attention(q, k, v)
    return np.linalg.norm(way.attention(q, k, v, **knobs) - exact) / np.linalg.norm(exact)


# %% [markdown] covers="K2 K3 K4"
# ## Pooling
#
# A projection of fixed size ties a model to one $n$. *Pooling* fixes the length of a run instead:
# every $p$ neighbours become one key and one value. A text twice as long has twice as many.
#
# The obvious way treats a run as one key. By hand, three equal keys in the first run, another in
# the last:

# %%
query = np.ones((1, 1))
keys, values = np.array([[1.0], [1], [1], [0]]), np.array([[10.0], [10], [10], [50]])
print("full              ", full.attention(query, keys, values).round(2))
pooled_keys, pooled_values, log_size = pooled.pool_tokens(keys, values, pool=3)
print("one key a run     ", full.attention(query, pooled_keys, pooled_values).round(2))
print("with log size     ", pooled.attention(query, keys, values, pool=3).round(2))
print("sizes of the runs ", np.exp(log_size).ravel().round())

# %% [markdown]
# A run of three has to count three times: $3\,e^s = e^{s + \log 3}$. So its score gets the
# logarithm of its size; where the tokens of a run are equal, pooling is exact then. With $p = 1$ it
# is full attention.

# %%
q, k, v = random_qkv(50, width=16)
np.testing.assert_allclose(pooled.attention(q, k, v, pool=1), full.attention(q, k, v), atol=1e-6)
print("pool 1 is full attention")

# %% [markdown]
# And where they are not equal? One key among 512 fits the query: its score is 8, all others have 0.
# Full attention gives it most of its weight. Now runs of 16, keys averaged, values averaged, sizes
# counted.


# %% folded=true
def needle_left():
    one = np.eye(512)[:, [200]]  # (512, 1)
    return 100 * pooled.attention(np.ones((1, 1)), 8 * one, one, pool=16).item()


widgets.guess(
    "One of 512 keys has score 8, the others 0; its value is 1, theirs 0. What comes out, in per "
    "cent, with means over runs of 16?",
    needle_left,
    unit="%",
    explain="In full it is e^8 of e^8 + 511, 85 %. The mean key of its run has score 1/2; the run "
    "gets 16 e^½ of 16 e^½ + 496, 5 %, and a sixteenth of that is the needle's.",
)

# %% [markdown]
# Averages keep what neighbours share, and lose what stands alone. A *maximum* in each feature keeps
# what stands out, and invents tokens that nobody wrote. Both, on the data from above:

# %%
for name, qkv in data.items():
    for kind in ("mean", "max"):
        wrong = [error(pooled, *qkv, pool=p, kind=kind) for p in (2, 4, 16)]
        print(f"{name:<5} {kind:<4} runs of 2, 4, 16: error", *(f"{one:.2f}" for one in wrong))

# %% [markdown]
# [Exercise 06.3](../exercises/06_low_rank.ipynb#06.3-Pooling,-and-the-run-that-is-left) asks for
# pooled attention, and what becomes of the last, shorter run. The code is in
# [`reference/pooled.py`](../attncourse/reference/pooled.py).

# %% [markdown] covers="K7"
# ## What falls by p, and what by p²
#
# Pool keys and values, and each query has $n / p$ scores: the scores shrink by $p$. Pool the whole
# sequence, queries too, and they shrink by $p^2$, but then only $n / p$ tokens get an answer. And
# $q$, $k$, $v$ and the output? Move $p$ in both.

# %% folded=true
parts = dict.fromkeys(["q and out", "k and v", "scores"], 1.0)
live_pool = plots.LiveBars(parts, unit="bytes", high=2**26, title="4096 tokens, D = 64, float32")


def draw_pool(p, pooled_are):
    queries = 4096 // p if pooled_are == "all tokens" else 4096
    keys = 4096 // p
    counts = 2 * queries * 64, 2 * keys * 64, queries * keys
    live_pool.update({name: 4 * count for name, count in zip(parts, counts, strict=True)})
    return f"{queries} queries, {keys} keys: the scores are 1/{4096**2 // (queries * keys)} of all."


powers = widgets.choice([1, 2, 4, 8, 16], 4)
widgets.explore(draw_pool, live_pool.figure, p=powers, pooled_are=["keys and values", "all tokens"])

# %% [markdown]
# The peak of one call, predicted and held against the measured one. Unlike the picture, `attention`
# takes queries in blocks, so its scores are few at any $p$:

# %%
q, k, v = random_qkv(2048)
for p in (2, 8, 32):
    peak = measure.peak_bytes(pooled.attention, q, k, v, pool=p)
    predicted = pooled.cost(1, 1, 2048, 2048, 64, pool=p).peak_bytes
    np.testing.assert_allclose(peak, predicted, rtol=0.1)
    print(f"runs of {p:>2}: predicted {format_bytes(predicted)}, measured within a tenth of it")

# %% [markdown] covers="K5"
# ## Weights inside a run
#
# Why should a run's tokens count alike? Let a vector $w$ say what matters: inside a run, weights
# are softmax$(k \cdot w)$. In our data, queries want one token in each run of four, whose first
# feature is larger by 3. Learn $w$'s eight numbers by random steps, keeping what helps. Does $w$
# find the feature?


# %%
def marked(seed, n=256):
    """Return q, k, v (n, 8): one key in each run of four is marked, and queries want these."""
    rng = stream("marked", seed)
    q, k, v = rng.standard_normal((3, n, 8))
    chosen = np.arange(0, n, 4) + rng.integers(0, 4, n // 4)
    k[chosen, 0] += 3
    q += 2 * k[rng.choice(chosen, n)]  # each looks for one of them
    return q, k, v


# %%
def loss(w, seed):
    return error(pooled, *marked(seed), pool=4, kind="learned", pooling_vector=w)


w, rng = np.zeros(8), stream("steps", 0)
print(f"equal weights: error {loss(w, 0):.2f}, on new data {loss(w, 1):.2f}")
for _ in range(150):
    tried = w + rng.standard_normal(8)
    if loss(tried, 0) < loss(w, 0):
        w = tried
print(f"learned:       error {loss(w, 0):.2f}, on new data {loss(w, 1):.2f}")
print("w", w.round(1))

# %% [markdown] covers="K6"
# ## Runs that follow the text
#
# Equal runs cut wherever their length ends. *Adaptive* pooling lets the keys decide: compare each
# with the one before, by the cosine of the angle between them, and cut where they are least alike.
# The budget of runs is given, the cuts are found; neighbours that stay together become one.

# %% [markdown]
# Here on the page, by the keys of one head of the last layer; runs are pale and darker by turns.
# Make the budget smaller, and look at what is merged first.

# %% folded=true
page = small.encode(model.page())[:200]
page_keys = small.qkv(page)[3][1][1]  # of layer 3, head 1: (200, 32)
page_pieces = np.array(small.tokenizer.pieces(page))

# %% folded=true
live_runs = plots.LivePage(page_pieces, np.zeros(200), high=4)
live_runs.figure.axes[-1].remove()  # shades have no scale


def draw_runs(keep, cuts):
    equal = np.arange(keep) * 200 // keep
    starts = pooled.cuts(page_keys, keep) if cuts == "by likeness" else equal
    run = np.searchsorted(starts, np.arange(200), side="right")
    live_runs.update(0.2 + 1.3 * (run % 2))
    longest = "".join(page_pieces[run == np.bincount(run).argmax()]).split()
    return f"{keep} runs for 200 tokens; the longest reads: {' '.join(longest)}"


cuts = ["by likeness", "equally long"]
widgets.explore(draw_runs, live_runs.figure, keep=(10, 200, 10, 60), cuts=cuts)

# %% [markdown]
# Better than equal runs? On the signal with jumps it should be: each cut that falls on a jump is
# right. In the model's last layer it is a question for the data, head by head:

# %%
cases = data | {f"head {h}": read[:, :, h].swapaxes(0, 1) for h in (0, 2, 3)}
for name, qkv in cases.items():
    equal, alike = (error(pooled, *qkv, pool=8, kind=kind) for kind in ("mean", "adaptive"))
    print(f"{name:<6} 16 runs for 128 tokens: error {equal:.2f} equal, {alike:.2f} by likeness")

# %% [markdown]
# [Exercise 06.4](../exercises/06_low_rank.ipynb#06.4-Merge-what-is-alike) is the cut and the merge.

# %% [markdown] covers="K1"
# ## Scores that no key wrote
#
# A head that looks one back need not read the text: the position says it all. Then why compute
# $q \cdot k$? The [Synthesizer](https://arxiv.org/abs/2005.00743) drops it. Its *logits*, which the
# softmax gets as scores, are learned as numbers (*random*: they begin so), or made from the query
# alone by two layers (*dense*).

# %% [markdown]
# How much of our model could be written without reading? Average each head's map over eight texts,
# and see which share of its attention in another text lies elsewhere:

# %% folded=true
written = np.mean([small.attention_maps(piece) for piece in pieces[:8]], axis=0)
elsewhere = np.abs(small.attention_maps(pieces[8]) - written).sum(axis=-1).mean(axis=-1) / 2
names = [f"layer {layer}" for layer in range(4)], [f"head {head}" for head in range(4)]
axes = plots.table(elsewhere, *names, x="", y="", label="attention that lies elsewhere")
layer, head = np.unravel_index(elsewhere.argmin(), (4, 4))
plots.show(axes, f"Layer {layer}, head {head} hardly reads: {elsewhere.min():.0%} lies elsewhere.")

# %% [markdown]
# Such a head could be a table. So leave out the product of queries and keys. What is saved?


# %% folded=true
def saved_without_keys():
    left = synthesizer.cost(1, 1, 4096, 4096, 64, hidden=1, kind="random").flops
    return 100 - 100 * left / full.cost(1, 1, 4096, 4096, 64).flops


widgets.guess(
    "4096 tokens, D = 64, learned logits instead of q · k: which share of full attention's FLOPs "
    "is saved?",
    saved_without_keys,
    unit="%",
    explain="One of two products. The weights are still n × n, the softmax still runs over them, "
    "and the second product meets them all.",
)

# %%
q, k, v = (array[0, 0] for array in random_qkv(48, width=16))
as_numbers = synthesizer.random(q @ k.T / 4)  # √16 = 4
out = synthesizer.attention(q, k, v, logits=as_numbers)
np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-5)
print("with the logits of full attention it is full attention")
other = synthesizer.attention(q, 0 * k, v, logits=as_numbers)
print("with other keys it says the same:", np.array_equal(out, other))

# %% [markdown]
# The table has $n^2$ numbers to learn for each head, and fits one length. *Factorised*, it is the
# product $L R^\top$ with $2 n r$ numbers. Is that enough for a copy, of full rank? The logits are
# not the map; between them stands the exponential, as in part one. Put the positions on a circle,
# two numbers a token:

# %%
angle = 2 * np.pi * np.arange(64) / 64
circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (64, 2)
one_on = np.roll(circle, -1, axis=0)  # key j stands where query j + 1 does
copy = full.weights(2000 * circle, one_on, scale=1)
assert (copy.argmax(axis=1) == (np.arange(64) - 1) % 64).all()
print("logits of rank", np.linalg.matrix_rank(circle @ one_on.T))
print("map of effective rank", spectra.effective_rank(copy), "of 64")

# %% [markdown]
# Logits of rank 2, and a map that copies: $\cos(\alpha - \beta)$ is largest where angles meet.
# **Low rank before the softmax is cheap and strong; after it, it is weak.** Real heads do as much
# with their $D$ numbers a token. What is *not* saved is the map itself. Here are the numbers
# learned beside the projections, and the FLOPs:

# %%
q, k, v = random_qkv(1024)
L, R = stream("factors", 0).standard_normal((2, 1024, 4)).astype(np.float32)
ways = {"a table": synthesizer.random(L @ R.T), "factors": synthesizer.factorised(L, R)}
print(f"full     {0:>9,} learned numbers {measure.count_flops(full.attention, q, k, v):>11,} FLOPs")
for (name, logits), learned in zip(ways.items(), (1024**2, L.size + R.size), strict=True):
    flops = measure.count_flops(synthesizer.attention, q, k, v, logits=logits)
    print(f"{name:<8} {learned:>9,} learned numbers {flops:>11,} FLOPs")

# %%
claims.check("C017")

# %% [markdown]
# The check to keep: **where something is left out, ask what came in its place.** Here it is numbers
# to learn and to hold, and they are tied to one length again.
#
# [Exercise 06.5](../exercises/06_low_rank.ipynb#06.5-Learned-scores,-in-factors) asks for the
# factors, in the memory of a few rows: the code is in
# [`reference/synthesizer.py`](../attncourse/reference/synthesizer.py).

# %% [markdown] covers="K9"
# ## Two levels
#
# A reader weighs words within a sentence, then sentences, but not every word of a book against
# every other. *Hierarchical* attention does the same. Level one: full attention inside chunks of
# $c$ tokens, and each chunk's mean stands for it. Level two: the $n / c$ means attend to one
# another. Each token adds what its chunk has heard.

# %%
n, c = 96, 12
q, k, v = text[:, 4, :n]
q1, k1, v1 = (x.reshape(n // c, c, 32) for x in (q, k, v))
inside = full.weights(q1, k1)  # (8, 12, 12)
words_out = inside @ v1
q2, k2, v2 = (x.mean(axis=1) for x in (q1, k1, words_out))
between = full.weights(q2, k2)  # (8, 8)
out = words_out + (between @ v2)[:, None]
print("scores:", inside.size, "inside and", between.size, "between, instead of", n * n)

# %%
figure, (left, right) = plots.figure(1, 2, height=3.4)
whole = np.zeros((n, n))
for chunk in range(n // c):
    whole[chunk * c :, chunk * c :][:c, :c] = inside[chunk]
plots.heatmap(whole, left, title="level one: tokens", low=0, high=0.3)
plots.heatmap(between, right, title="level two: chunks", x="chunk", y="chunk", low=0)
plots.show(figure, "Squares along the diagonal, and a small map of who hears which chunk.")

# %% [markdown]
# That is $n c + (n / c)^2$ scores. A small $c$ makes the second term large, a large one the first;
# they balance near $c = (2n)^{1/3}$, where all of it grows as $n^{4/3}$:

# %%
for n_tokens in (1000, 100_000):
    chunks = np.arange(1, n_tokens)
    scores = n_tokens * chunks + np.ceil(n_tokens / chunks) ** 2
    best, formula = chunks[scores.argmin()], (2 * n_tokens) ** (1 / 3)
    print(
        f"{n_tokens:>7,} tokens: the best chunk is {best}, by the formula {formula:.0f};", end=" "
    )
    print(f"{n_tokens**2 / scores.min():,.0f} times fewer scores")

# %% [markdown] covers="K8"
# ## A state from chunk to chunk
#
# From left to right, the past can be *carried*
# ([Dai et al. 2019](https://arxiv.org/abs/1901.02860)): each chunk sees itself and a *memory*, the
# tokens before it. Its length is fixed, so any text takes the same space. Far tokens come through
# layers, a memory at a time. Find sizes that let token 95 hear token 0.

# %% folded=true
live_carried = plots.LiveReach(np.eye(96, dtype=bool)[[95] * 5])


def draw_carried(chunk, memory):
    mask = segment.mask(96, 96, chunk=chunk, memory=memory, causal=True)
    rows = [np.eye(96, dtype=bool)[95]]
    for _ in range(4):
        rows.append(rows[-1] @ mask)
    live_carried.update(np.array(rows))
    heard = rows[-1].sum()
    return f"Chunks of {chunk}, memory {memory}: in four layers token 95 hears {heard} of 96."


widgets.explore(draw_carried, live_carried.figure, chunk=(4, 32, 4, 12), memory=(0, 48, 4, 12))

# %%
q, k, v = (array[0, 0] for array in random_qkv(50, width=16))
state, outs = segment.start(k, v, chunk=8, memory=8), []
for at in range(0, 50, 7):  # steps of any length
    now = slice(at, at + 7)
    out, state = segment.step(state, q[now], k[now], v[now])
    outs.append(out)
whole = segment.attention(q, k, v, chunk=8, memory=8, causal=True)
np.testing.assert_allclose(np.concatenate(outs), whole, atol=1e-6)
print("step by step gives the whole; the state holds", len(state.keys), "of 50 keys")

# %% [markdown] covers="K10"
# ## Five families
#
# A textbook sorts efficient attention into five families: sparse, linear, low rank, kernel and
# recurrent. Do they exclude each other? Ask each mechanism what it *does*, at 48 tokens: does a
# mask describe it, do features of 8 numbers make its map, is the map's rank at most half, does it
# go on from a fixed-size state?

# %%
q, k, v = (array[0, 0].astype(float) for array in random_qkv(48, width=8))
one = np.eye(48)  # as values, it makes the map the output
mean = linformer.mean_pool(8, 48)
pair = {"key_projection": mean, "value_projection": mean}
maps = {
    "window": MECHANISMS["window"].reference.attention(q, k, one, window=6),
    "linear": linear.attention(q, k, one),
    "linformer": linformer.attention(q, k, one, **pair),
    "pooled": pooled.attention(q, k, one, pool=6),
    "segment": segment.attention(q, k, one, chunk=8, memory=8),
}

# %%
does = [
    ["mask" in has, stem == "linear", np.linalg.matrix_rank(found) <= 24, "step" in has]
    for stem, found in maps.items()
    for has in [MECHANISMS[stem].has]
]

# %% folded=true
columns = ["sparse", "linear =\nkernel", "low rank", "recurrent"]
axes = plots.heatmap(np.array(does), x="", y="", words=("no", "yes"))
axes.set_xticks(range(4), columns)
axes.set_yticks(range(5), list(maps))
several = [stem for stem, each in zip(maps, does, strict=True) if sum(each) > 1]
plots.show(axes, f"In more than one family: {', '.join(several)}.")

# %% [markdown]
# *Linear* and *kernel* are one drawer: a feature map is what makes attention linear
# ([chapter 07](07_linear.ipynb)). Its map has the rank of its features, and from left to right it
# is a recurrence. Families are questions to ask of a mechanism, not shelves to put it on.

# %% [markdown] covers="J9"
# ## From left to right
#
# Two limits are left, both of Linformer. First, its length: $E$ has a column for each token.

# %%
try:
    linformer.attention(q[:47], k[:47], v[:47], **pair)
except ValueError as reason:
    print(reason)

# %% [markdown]
# A shorter text can be padded; a longer one needs columns that nobody trained. Second, a decoder
# must not see the future, and a mixed key *is* the future, in part. Change the last token, and see
# which outputs notice:

# %%
changed = v.copy()
changed[-1] += 1


def first_to_notice(way, **knobs):
    """Return the first output that differs when the last value does."""
    differ = way.attention(q, k, v, **knobs) - way.attention(q, k, changed, **knobs)
    return np.flatnonzero(differ.any(axis=1))[0]


print("Linformer: output", first_to_notice(linformer, **pair), "of 48 is the first that notices")
print("causal:    output", first_to_notice(full, causal=True))

# %% [markdown]
# The first output knows the last token. A mask cannot help: it hides whole columns of the $r$ mixed
# scores, and a mixed key that holds one future token holds past ones, too. A mixture of its own for
# each query would be right, and makes $n$ times $r$ mixed keys: more than full attention has.

# %% [markdown]
# What works is pooling, in its order: a run is mixed only once it is *over*. A query sees the runs
# before its own as means, and its own run token by token up to itself. How few keys can that be?


# %% folded=true
def fewest_keys(n=10_000):
    place = np.arange(n)
    return min((place // run + place % run + 1).max() for run in range(50, 200))


widgets.guess(
    "A text of 10,000 tokens, runs as long as suits best: how many keys, means and tokens "
    "together, does the query with the most of them have?",
    fewest_keys,
    unit="keys",
    explain="Runs of p: at the end of the last one, n / p - 1 means and p tokens. The sum is "
    "smallest at p = √n = 100: 99 and 100.",
)

# %% [markdown]
# Move the run at 96 tokens. Which one gives the fullest query the fewest keys?

# %% folded=true
live_causal = plots.LiveHeatmap(
    np.zeros((96, 96)), title=" ", words=("not seen", "through a mean", "token by token")
)


def draw_causal(run):
    i, j = np.ogrid[:96, :96]
    own = (i // run == j // run) & (j <= i)
    live_causal.update(np.where(own, 2, j // run < i // run), f"runs of {run}")
    means, tokens = i[:, 0] // run, i[:, 0] % run + 1
    most = (means + tokens).argmax()
    return f"Runs of {run}: query {most} sees most, {means[most]} means and {tokens[most]} tokens."


widgets.explore(draw_causal, live_causal.figure, run=(1, 48, 1, 8))

# %%
print("pooled: output", first_to_notice(pooled, pool=8, causal=True), "is the first that notices")
for pool in (1, 48):
    out = pooled.attention(q, k, v, pool=pool, causal=True)
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=True), atol=1e-9)
print("runs of 1, or one run of all: causal attention")

# %% [markdown]
# With $p = \sqrt n$ the work is $n \sqrt n$: less than $n^2$, and more than the $n$ of Linformer.
# The near past stays sharp and the far past is blurred, which is often what one wants of a past. A
# copy from far away is gone.
#
# [Exercise 06.6](../exercises/06_low_rank.ipynb#06.6-Pooled,-and-nothing-of-the-future) asks for
# it.

# %% [markdown]
# ## In a real model
#
# The model reads a page that it never saw, with pooled keys in every layer: the run of a token in
# full, all earlier ones as means. The darker a token, the less probable it has become. At which
# pool is the last copy lost? And from there on, why do longer runs cost *less*?

# %% folded=true
tried = model.trials(small, "pooled", pool=[1, 2, 4, 8, 16])
widgets.in_a_real_model("pool", tried, start=4)

# %% [markdown]
# ## Your own text
#
# Put a text of yours here, and see what the model's keys hold together. (A token is a piece of a
# word, so words are cut as well.) Make the budget smaller. Does it cut where you would?

# %%
text = """A small ship left the harbour in the early morning, and an old man on the pier counted
the boxes on her deck. He had counted them every day since spring. Nobody had ever asked him why."""
ids = small.encode(text)
starts = pooled.cuts(small.qkv(ids)[3][1][1], len(ids) // 3)
own_runs = np.split(np.array(small.tokenizer.pieces(ids)), starts[1:])
print(" | ".join("".join(run).replace("\n", " ").strip() for run in own_runs))

# %% [markdown]
# Next: [chapter 07](07_linear.ipynb) gives up the softmax, and a text of any length becomes one
# small array.
