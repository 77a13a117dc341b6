# %% [markdown]
# # 06 · Fewer keys: low rank
#
# $n$ tokens make a map of $n^2$ weights. Do they say that much? If not, $r$ mixed keys stand for
# all $n$, and the work falls to $n \cdot r$. You measure maps of a real model, mix keys before they
# meet a query, and find what mixtures cannot do. The [second part](06_pooling.ipynb) pools
# neighbours.
#
# <!-- summary: singular values of real maps, and what a copy asks for; Linformer, and three prices
# for one thing; which mixture finds what is there, who shares it, what it does to noise. -->

# %% role="setup"
import dataclasses

import numpy as np

from attncourse import claims, measure, model, plots, spectra, widgets
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, linformer
from attncourse.units import format_bytes

# %% [markdown] covers="J1"
# ## How much of a map is there
#
# Here are the weights of four tokens. The second row repeats the first, the last is the mean of
# first and third. Two rows say it all: the *rank* of a matrix is how few rows suffice to mix all
# others. A matrix of rank $r$ is a product of two thin ones:

# %%
map_of_four = np.array([[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 2, 2], [1, 1, 1, 1]]) / 4
mixtures = np.array([[1, 0], [1, 0], [0, 1], [0.5, 0.5]])
np.testing.assert_array_equal(mixtures @ map_of_four[[0, 2]], map_of_four)
print(mixtures, "times", map_of_four[[0, 2]], sep="\n")

# %% [markdown]
# That is $2nr$ numbers instead of $n^2$. And one may hope for it: the scores
# $\underbrace{Q}_{n \times D} \underbrace{K^\top}_{D \times n}$ of a head *are* such a product, so
# their rank is $D$ at most. Then the map should have rank $D$, too?

# %%
scores = np.outer([0, 1, 2], [0, 1, 2])  # rank 1: all rows are multiples of one
for name, matrix in (("scores", scores), ("e^scores", np.exp(scores))):
    print(f"{name} of rank {np.linalg.matrix_rank(matrix)}", np.round(matrix, 1), sep="\n")

# %% [markdown]
# No. The exponential works entry by entry, and makes three different rows out of multiples of one.
#
# So one has to look at the maps of a trained model. The course has one: four layers of four heads,
# $D = 32$. It reads 96 tokens of a page that it never saw, and then the same 96 once more.

# %%
small = model.load()
once = small.encode(model.page())[:96]
twice = np.concatenate([once, once])
maps = small.attention_maps(twice)  # (layers, heads, 192, 192), causal
ranks = np.linalg.matrix_rank(maps.astype(float))  # (layers, heads)
print(f"{(ranks > 150).sum()} of 16 maps have a rank above 150 of {len(twice)}")

# %% [markdown]
# But exact rank counts everything above rounding. The *singular value decomposition* (SVD) sorts a
# matrix by size. It writes any $A$ as a sum of matrices of rank 1, each with its *singular value*
# $\sigma$, the largest first:
#
# $$ A = \sum_{i=1}^{n} \sigma_i\, u_i v_i^\top, \qquad u_i \perp u_j,\; v_i \perp v_j $$

# %% [markdown]
# Stop after $r$ terms, and by Pythagoras the squares of what is left out add up:
#
# $$ \|A - A_r\|^2 = \sigma_{r+1}^2 + \dots + \sigma_n^2, \qquad
# \text{relative error}^2 = 1 - \frac{\sigma_1^2 + \dots + \sigma_r^2}{\sigma_1^2 + \dots +
# \sigma_n^2} $$
#
# The fraction is the share of the *energy*. No other matrix of rank $r$ comes closer (Eckart and
# Young, 1936). How many values hold 99 % of it, an error of a tenth, is the *effective rank* here.


# %% folded=true
def best_of_16():
    return int(spectra.effective_rank(maps).min())


widgets.guess(
    "192 tokens, 16 heads of a trained model: how many singular values hold 99 % of the energy, "
    "in the head that needs the fewest?",
    best_of_16,
    explain="A map of 36,864 numbers, nearly all of it in a few dozen: so far for the hope. The "
    "other heads come below.",
)

# %% [markdown]
# Now look at how the error falls, for two heads and for maps that nobody trained. Is a trained head
# nearer to noise, or to a plain mean of the past?

# %%
lowest = np.unravel_index(spectra.effective_rank(maps).argmin(), (4, 4))
middle = np.unravel_index(np.argsort(spectra.effective_rank(maps), axis=None)[8], (4, 4))
noise = stream("noise", 0).standard_normal((2, 192, 32))
shown = {
    "the lowest head": maps[lowest],
    "one in the middle": maps[middle],
    "noise, causal": full.weights(*noise, causal=True),
    "the mean of the past": full.weights(*np.zeros((2, 192, 32)), causal=True),
}

# %% folded=true
errors = {name: np.sqrt(1 - spectra.energy_curve(one)) for name, one in shown.items()}
axes = plots.curves(
    np.arange(1, 193), errors, x_label="singular values kept, r", y_label="relative error"
)
left_out = ", ".join(f"{name} {error[15]:.2f}" for name, error in errors.items())
plots.show(axes, f"Relative error with 16 singular values: {left_out}.")

# %% [markdown]
# [Exercise 06.1](../exercises/06_low_rank.ipynb#06.1-How-many-singular-values) asks for the
# effective rank. The course's own is in [`spectra.py`](../attncourse/spectra.py).

# %% [markdown] covers="J11"
# ## What low rank cannot do
#
# A few dozen of 192: then let us give *every* head so many. The failure is worth doing by hand. A
# head that looks at the token before has a map with ones beside the diagonal (let the first token
# look at the last). Which rows can go?

# %%
copy = np.roll(np.eye(6), 1, axis=0)
print(copy.astype(int))
print("singular values", np.linalg.svd(copy, compute_uv=False).round(2))

# %% [markdown]
# None. No row is a mixture of others, and all singular values are equal: whichever you leave out,
# tokens lose their place to look at. A copy is a *permutation*, and a permutation has full rank, at
# any length.

# %% [markdown]
# Does the model have such heads? Two scores find them: the weight on the token before, and, the
# second time the text is read, the weight on what *followed* the same token the first time.

# %%
i = np.arange(97, 191)
scored = {
    "looks one back": maps[..., i, i - 1].mean(axis=-1),
    "copies": maps[..., i, i - 95].mean(axis=-1),
}
roles = {name: np.unravel_index(score.argmax(), (4, 4)) for name, score in scored.items()}
roles = {"of the lowest rank": lowest} | roles
for name, (layer, head) in list(roles.items())[1:]:
    print(f"{name}: layer {layer}, head {head}, mean weight {scored[name][layer, head]:.2f}")

# %%
factors = {name: np.linalg.svd(maps[place].astype(float)) for name, place in roles.items()}


def rebuilt(role, rank):
    """Return the best map of a rank, and the share of later tokens whose favourite key it keeps."""
    left, values, right = factors[role]
    likeness = left[:, :rank] * values[:rank] @ right[:rank]
    same = likeness[96:].argmax(axis=1) == maps[roles[role]][96:].argmax(axis=1)
    return likeness, same.mean()


# %% folded=true
widgets.guess(
    "The head that looks one back, 192 tokens. Rebuild its map from the first 32 singular values: "
    "for which share of the later 96 tokens is the largest weight still on the right key?",
    lambda: 100 * rebuilt("looks one back", 32)[1],
    unit="%",
    explain="32 of 192 singular values are a sixth. In a permutation none matters more than any "
    "other, so each carries its share of the tokens and no more.",
)

# %% [markdown]
# **Slide the rank.** Left the map, lighter where there is more weight; in the middle its best
# likeness; on the right the error. First the head of the lowest rank: from where on do you see no
# difference? Then a head that copies.

# %% folded=true
figure, (left, centre, right) = plots.figure(1, 3, width=9.6, height=3.3)
words = {"low": 0, "high": 1, "x": "key j", "y": "query i"}
live_map, live_low = (
    plots.LiveHeatmap(np.zeros((192, 192)), ax, title=" ", **words) for ax in (left, centre)
)
words = {"x_label": "rank r", "y_label": "error", "high": 1}
live_error = plots.LiveCurves(np.arange(1, 193), {"": np.ones(192)}, right, **words)
right.set_box_aspect(1)
for live in (live_map, live_low):
    live.image.colorbar.remove()  # it would take the room


# %% folded=true
def draw_rebuilt(rank, head):
    original, (likeness, kept) = maps[roles[head]], rebuilt(head, rank)
    peak = np.quantile(original, 0.995)  # what is larger is drawn alike
    live_map.update(np.clip(original / peak, 0, 1), "the head's map")
    live_low.update(np.clip(likeness / peak, 0, 1), f"rebuilt, rank {rank}")
    curve = np.sqrt(np.maximum(0, 1 - spectra.energy_curve(original)))
    live_error.update({"": curve}, at=rank)
    return (
        f"Rank {rank} of 192: error {curve[rank - 1]:.2f}; {kept:.0%} of the later tokens keep "
        "their favourite key."
    )


widgets.explore(draw_rebuilt, figure, rank=(1, 192, 1, 12), head=list(roles))

# %% [markdown]
# Texts name tasks that suffer from low rank: *coreference*, finding whom "he" means, and *parsing*,
# finding which word a word belongs to. Both are pointing, one token to one token: copies, in other
# words. Here are all 16 heads:

# %% folded=true
share = spectra.effective_rank(maps) / len(twice)
names = [f"layer {layer}" for layer in range(4)], [f"head {head}" for head in range(4)]
axes = plots.table(share, *names, x="", y="", label="of 192 singular values for 99 %")
full_ones = (share > 0.9).sum()
plots.show(axes, f"From {share.min():.0%} to {share.max():.0%}; {full_ones} need over nine tenths.")

# %% [markdown]
# Does the model miss what is left out? Give one layer at a time the best maps of rank 32, hide the
# future again, and let it read the 192 tokens. In a text that stands twice, the second time is easy
# for a model that copies: what it gains there is the measure.


# %%
def at_rank(rank):
    """Return an attention whose maps are the best of a rank."""

    def attend(q, k, v):
        left, values, right = np.linalg.svd(full.weights(q, k, causal=True), full_matrices=False)
        best = (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]
        return np.tril(best) @ v

    return attend


# %%
def told(name, changed):
    once_more = changed.losses(twice)  # of tokens 1 ... 191
    first, second = once_more[:95].mean(), once_more[96:].mean()
    print(f"{name:<18} {first:.2f} nats a token the first time, {second:.2f} the second")


told("full attention", small)
for layer in range(4):
    attention = list(small.attention)
    attention[layer] = at_rank(32)
    told(f"layer {layer} at rank 32", dataclasses.replace(small, attention=tuple(attention)))

# %% [markdown]
# Compare with the table: which layer has the heads that need all their singular values?

# %%
found = spectra.effective_rank(maps)
claims.check(
    "C240",
    f"{found.min()} to {found.max()} of 192",
    "With 99 % of the energy, in our model. A rank without its share of the energy, its length and "
    "its head says little: one layer may hold both ends.",
)

# %% [markdown]
# The check to keep: **ask which head, and which share.** A mean over heads hides the few that look
# at one token each, and a model may hang on them.

# %% [markdown] covers="J2 Y2"
# ## Linformer
#
# Let us keep to the heads of low rank. The SVD gives the best factors, but it needs the map first,
# and takes longer than attention itself. The factors must come from elsewhere, before any query has
# met any key.

# %% [markdown]
# If a map is $A \approx W F$, with $W$ of $n \times r$ and $F$ of $r \times n$, then
# $A v \approx W (F v)$: $r$ mixed values will do. And $W$ can be a softmax over $r$ mixed keys.
# That is [Linformer](https://arxiv.org/abs/2006.04768), with two matrices $E$ and $F$ that are
# learned with the model:

# %% [markdown]
# $$ \text{out} = \text{softmax}\Bigl(\tfrac{1}{\sqrt D}\,
# \underbrace{Q}_{n \times D}\,
# \bigl(\underbrace{E}_{r \times n} \underbrace{K}_{n \times D}\bigr)^\top \Bigr)\,
# \bigl(\underbrace{F}_{r \times n} \underbrace{V}_{n \times D}\bigr),
# \qquad \text{scores: } n \times r $$
#
# Four tokens by hand, each number its own key; $E = F$ takes means of two:

# %%
E = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
keys, values = np.array([[2.0], [2], [-1], [-1]]), np.array([[10.0], [20], [30], [40]])
query = np.ones((1, 1))
print("mixed keys", (E @ keys).ravel(), "and values", (E @ values).ravel())
print("Linformer", full.attention(query, E @ keys, E @ values).round(3))
print("full     ", full.attention(query, keys, values).round(3))

# %% [markdown]
# The same number, since both keys of a pair are equal. When they are not, something is lost. One
# case loses nothing at all: with $E = F = I$ there is a mixed key for each token.

# %%
q, k, v = (array[0, 0] for array in random_qkv(40, width=16))
identity = {"key_projection": np.eye(40), "value_projection": np.eye(40)}
out = linformer.attention(q, k, v, **identity)
np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-6)
mean = linformer.mean_pool(8, 40).astype(np.float32)
by_hand = full.attention(q, mean @ k, mean @ v)
out = linformer.attention(q, k, v, key_projection=mean, value_projection=mean)
np.testing.assert_allclose(out, by_hand, atol=1e-6)
print("rank 40 with the identity: full attention; rank 8: attention with 8 mixed keys")

# %% [markdown]
# So on a GPU it is two plain matrix products and then any kernel for attention: ours calls the one
# of [chapter 09](09_flash_backward.ipynb) with $r$ keys
# ([`kernels/linformer.py`](../attncourse/kernels/linformer.py)). Triton's interpreter runs it here,
# and the kernel never sees the long $k$ and $v$.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import linformer as kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(256, width=32)]
    mixing = torch.from_numpy(linformer.mean_pool(16, 256).astype(np.float32))
    pair = {"key_projection": mixing, "value_projection": mixing}
    traced = trace.record(kernel.attention, *tensors, **pair)
    assert not traced.out_of_bounds
    print(f"{traced.bytes_loaded():,} bytes loaded: q has {256 * 32 * 4:,}, and mixed k and v")
    print(f"{2 * 16 * 32 * 4:,}, which each tile of queries loads anew")
except (ImportError, RuntimeError) as reason:
    print(reason)

# %% [markdown]
# [Exercise 06.2](../exercises/06_low_rank.ipynb#06.2-Linformer-in-the-memory-of-n-·-rank) asks for
# Linformer, with its memory graded: one pair of brackets decides. Ours is in
# [`reference/linformer.py`](../attncourse/reference/linformer.py).

# %% [markdown] covers="J7 J12 V2"
# ## Three prices for one thing
#
# What does it save? Full attention has two products, $Q K^\top$ and weights times $V$. Linformer
# has four. A product of sizes $a \times b$ and $b \times c$ takes $2abc$ FLOPs.


# %% folded=true
def linformer_gain():
    return full.cost(1, 1, *sizes).flops / linformer.cost(1, 1, *sizes, rank=256).flops


sizes = 4096, 4096, 64
widgets.guess(
    "4096 tokens, rank 256, one head: how many times fewer FLOPs does Linformer take than full "
    "attention?",
    linformer_gain,
    unit="times",
    explain="n / r would be 16. But keys and values must be mixed first, and that takes as much "
    "work again as all the rest.",
)

# %% [markdown]
# Three lines derive it:
#
# $$ \text{full} = 2 \cdot 2 n^2 D, \qquad
# \text{Linformer} = \underbrace{2 \cdot 2 r n D}_{E K,\; F V} +
# \underbrace{2 \cdot 2 n r D}_{\text{scores, output}} = 8 n r D, \qquad
# \frac{\text{full}}{\text{Linformer}} = \frac{n}{2r} $$
#
# The scores alone shrink by $n / r$. So memory and work fall by different factors, and with
# $r > n / 2$ there is no gain at all. Counted on what NumPy executes:

# %%
q, k, v = random_qkv(1024)
mean = linformer.mean_pool(64, 1024).astype(np.float32)
pair = {"key_projection": mean, "value_projection": mean}
counted = [
    measure.count_flops(full.attention, q, k, v),
    measure.count_flops(linformer.attention, q, k, v, **pair),
]
assert counted[1] == linformer.cost(1, 1, 1024, 1024, 64, rank=64).flops
ratio = counted[0] / counted[1]
print(f"1024 tokens, rank 64: {counted[0]:,} and {counted[1]:,} FLOPs, ratio {ratio}")
assert ratio == 1024 / (2 * 64)

# %% [markdown]
# [Two textbook chapters](00_start.ipynb#The-four-texts) print three gains for $n = 4096$ and
# $r = 256$: 5.4 (from rounded numbers), 8 and 16. All three are quotients of right numbers:

# %%
n, r = 4096, 256
print(f"one product of full attention over three of Linformer: {n / (3 * r):.1f}")
print(f"all over all:                                          {n / (2 * r):.1f}")
print(f"one over one, which is also the ratio of the scores:   {n / r:.1f}")
claims.check("C477")

# %% [markdown]
# **Put the same things above and below the line**: before you believe a gain, write the products of
# both sides in a list. Move rank and length. Where do the four lower bars together outgrow the
# upper one?

# %% folded=true
products = ["full: both products", "E K", "F V", "scores", "weights times F V"]
live_work = plots.LiveBars(dict.fromkeys(products, 1.0), unit="MFLOP", title="one head, D = 64")


def draw_work(tokens, rank):
    each = 2 * tokens * min(rank, tokens) * 64 / 1e6
    live_work.update(dict(zip(products, [4 * tokens**2 * 64 / 1e6, *[each] * 4], strict=True)))
    ratio = tokens / (2 * min(rank, tokens))
    return f"{tokens} tokens, rank {rank}: full attention takes {ratio:.3g} times as much."


some_lengths = widgets.choice([256, 512, 1024, 2048, 4096], 1024)
widgets.explore(draw_work, live_work.figure, tokens=some_lengths, rank=(32, 512, 32, 128))

# %% [markdown]
# [Exercise
# 06.V2](../exercises/06_low_rank.ipynb#06.V2-What-Linformer-saves,-with-everything-counted) counts
# all of it, beside a window.

# %% [markdown] covers="J3 J4 J5 J8"
# ## Which mixture
#
# Which $E$ and $F$? Three kinds are in use. *Means* of segments need nothing learned. A
# *convolution* has a kernel of few numbers, which slides along by its own length: the same mixture
# in each segment, so its weights can be learned and still do not depend on $n$. And a *learned*
# matrix is free in every entry.

# %%
print("means     ", linformer.mean_pool(3, 7).round(2), sep="\n")
print("convolution", linformer.convolution(np.array([0.25, 0.5, 0.25]), 7), sep="\n")
uniform = linformer.convolution(np.full(5, 0.2), 40)
np.testing.assert_allclose(uniform, linformer.mean_pool(8, 40), atol=1e-7)
print("a convolution with equal weights is the means")

# %% [markdown]
# Maxima of segments are a fourth kind; they are no mixture, so no matrix does it.

# %% [markdown]
# With $E$ given, the best $F$ for some examples is a problem of *least squares*: $W$ is known, find
# the $F$ that brings $W F$ closest to the true maps. `linformer.fit` solves it. We fit on four
# examples and judge on eight others, of two kinds: the model's own queries and keys, their causal
# mask lifted, and a smooth signal.


# %%
def cut_texts(count, n=128):
    """Return that many pieces of unseen text, n tokens each."""
    ids = np.concatenate([small.encode(text) for text in model.held_out()])
    return [ids[n * piece : n * (piece + 1)] for piece in range(count)]


def smooth(seed, n=128, width=32, reach=16):
    """Return q, k, v in which each token resembles its neighbours."""
    drawn = stream("smooth", seed).standard_normal((3, n + reach, width)).cumsum(axis=1)
    return (drawn[:, reach:] - drawn[:, :-reach]) * np.float32(1.5 / reach**0.5)


# %%
read = [small.qkv(piece)[lowest[0]] for piece in cut_texts(12)]
data = {  # (texts, q k v, tokens, D)
    "text": np.array([[x[lowest[1]] for x in layer] for layer in read], float),
    "smooth signal": np.array([smooth(seed) for seed in range(12)]),
}


# %%
kinds = ["means", "fitted F", "maxima", "the best map"]


def errors_at(rank, qkv, F):
    """Return the relative error of each kind on one example; F is the fitted one."""
    q, k, v = qkv
    mean, exact = linformer.mean_pool(rank, 128), full.attention(q, k, v)
    left, values, right = np.linalg.svd(full.weights(q, k))
    best = (left[:, :rank] * values[:rank]) @ (right[:rank] @ v)
    outs = [full.attention(q, mean @ k, way @ v) for way in (mean, F)]
    outs += [full.attention(q, *(linformer.max_pool(x, rank=rank) for x in (k, v))), best]
    return [np.linalg.norm(out - exact) / np.linalg.norm(exact) for out in outs]


# %%
some_ranks = [1, 2, 4, 8, 16, 32, 64]
error = {}  # (kind, text, rank)
for name, examples in data.items():
    rows = []
    for rank in some_ranks:
        q, k, _ = examples[:4].swapaxes(0, 1)
        F = linformer.fit(q, k, key_projection=linformer.mean_pool(rank, 128))
        rows.append([errors_at(rank, qkv, F) for qkv in examples[4:]])
    error[name] = np.array(rows).transpose(2, 1, 0)

# %% folded=true
figure, both_axes = plots.figure(1, 2, width=9.2, height=3.8)
for ax, (name, found) in zip(both_axes, error.items(), strict=True):
    samples = dict(zip(kinds, found, strict=True))
    plots.bands(some_ranks, samples, ax=ax, x_label="rank", y_label="error", title=name)
    ax.set_xscale("log", base=2)
at_16 = {name: found.mean(axis=1)[:, 4] for name, found in error.items()}
ends = "; ".join(
    f"{name} {each[0]:.2f}, the best map {each[3]:.2f}" for name, each in at_16.items()
)
plots.show(figure, f"Error at rank 16, means of 8 keys: {ends}.")

# %% [markdown]
# Bands reach over the eight unseen examples. Move the rank, and compare *means* with *the best map*
# in both kinds of data.

# %% folded=true
words = {"x_label": "rank", "y_label": "error", "log_x": True, "high": 1.5}
drawn = ["means", "fitted F", "the best map"]
live_rank = plots.LiveCurves(some_ranks, {kind: np.ones(7) for kind in drawn}, **words)


def draw_rank(rank, data):
    curves = dict(zip(kinds, error[data].mean(axis=1), strict=True))
    live_rank.update({kind: curves[kind] for kind in drawn}, data, at=rank)
    here = ", ".join(
        f"{kind} {curve[some_ranks.index(rank)]:.2f}" for kind, curve in curves.items()
    )
    return f"{data}, rank {rank} of 128: {here}. Work: 1/{64 / rank:g} of full attention."


widgets.explore(draw_rank, live_rank.figure, rank=widgets.choice(some_ranks, 16), data=list(error))

# %% [markdown]
# Both kinds of map have low rank: *the best map* falls at once. Means come near it where neighbours
# are alike. In a text they are not, and which tokens belong together changes from text to text,
# while $E$ and $F$ stay. See how far off they are there, the fitted $F$ too, which knows four texts
# by heart.

# %% [markdown]
# **Low rank is a promise that a good mixture exists, not that a fixed one is it.** Linformer is
# trained with its mixture from the start, so that its keys can learn to survive it. It cannot be
# put into a model that was trained without.

# %% [markdown] covers="J6 W7"
# ## Who shares them
#
# $E$ and $F$ have $r \cdot n$ numbers each. How many pairs does a model need? The paper tries all:
# one for each head, one for each layer, one matrix for both keys and values, one for the whole
# model. Here are 12 layers of 12 heads, in float32. Move who shares, and watch the length.

# %% folded=true
sharing = {"each head": 288, "each layer": 24, "each layer, E = F": 12, "all, E = F": 1}
others = {"all else in BERT base": 110.0}
live_shared = plots.LiveBars({"projections": 1.0} | others, unit="million", title="parameters")


def draw_shared(one_for, tokens, rank):
    count = sharing[one_for] * tokens * rank
    live_shared.update({"projections": count / 1e6} | others)
    size = format_bytes(4 * count, decimal=True)
    return f"{sharing[one_for]} × {rank} × {tokens} = {count:,} parameters, {size}."


# %%
widgets.explore(
    draw_shared, live_shared.figure, one_for=list(sharing),
    tokens=widgets.choice([512, 1024, 2048, 4096], 4096), rank=(64, 512, 64, 256),
)  # fmt: skip

# %% [markdown]
# [Chapter V](00_start.ipynb#The-four-texts) counts $2 r n$ parameters *per layer* and calls them
# small, where it has just let all layers share one pair. **Per what?** is the check: $2 r n$ is one
# pair, to be multiplied by the number of pairs.

# %% [markdown] covers="J10 R5"
# ## Conditioning
#
# Is any $E$ with $r$ different rows as good as another? A small one:

# %%
E = np.diag([1, 0.01])
signal, noise = np.array([0, 1.0]), np.array([0.01, 0])
for when, mix in (("before", np.eye(2)), ("after ", E)):
    share = np.linalg.norm(mix @ noise) / np.linalg.norm(mix @ signal)
    print(when, "mixing: signal", mix @ signal, "and noise", mix @ noise, f"of {share:.0%}")

# %% [markdown]
# The signal lies where $E$ is weak, the noise where it is strong. In general, with the largest and
# smallest singular values of $E$,
#
# $$ \frac{\|E\,\text{noise}\|}{\|E\,\text{signal}\|} \;\le\; \frac{\sigma_1}{\sigma_r} \cdot
# \frac{\|\text{noise}\|}{\|\text{signal}\|} $$
#
# for signals that are mixtures of $E$'s rows. The factor is the *condition number* $\kappa$. It is
# 1 for means of equal segments, whose rows are orthogonal and equally long.

# %% [markdown]
# Now projections of $16 \times 64$ with a condition number of our choice, and 1 % of noise in 200
# random directions. The dashed line is the bound. How close does the unlucky signal come to it, and
# how much less does one suffer that is spread over all directions?


# %%
def conditioned(kappa, rng, rank=16, n=64):
    """Return a projection (rank, n) whose singular values fall from 1 to 1 / kappa, and its rows.

    The rows are orthogonal directions of input, from the strongest to the weakest.
    """
    left, rows = (np.linalg.qr(rng.standard_normal((m, rank)))[0].T for m in (rank, n))
    return left * np.geomspace(1, 1 / kappa, rank) @ rows, rows


# %%
def amplified(kappa):
    """Return what 1 % of noise becomes beside the weakest signal, and beside a spread one."""
    rng = stream("condition", 0)
    E, rows = conditioned(kappa, rng)
    noise = rng.standard_normal((200, 16)) @ rows
    noise *= 0.01 / np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = np.linalg.norm(noise @ E.T, axis=1).max()
    return [mixed / np.linalg.norm(E @ signal) for signal in (rows[-1], rows.sum(axis=0) / 4)]


# %% folded=true
kappas = [1, 10, 100, 1000]
weakest, spread = zip(*(amplified(kappa) for kappa in kappas), strict=True)
measured = {"weakest direction": weakest, "spread signal": spread}
bound = {"weakest direction": [0.01 * kappa for kappa in kappas]}
words = {"unit": "", "x": "condition number", "title": "noise over signal, after mixing"}
axes = plots.growth(kappas, measured, bound, **words)
alt = f"At condition 1000: {weakest[-1]:.1f} for the weakest direction, {spread[-1]:.3f} spread."
plots.show(axes, alt)

# %% [markdown]
# Does it bite in practice? The fitted $F$ divides by what its examples show little of. Fit it on
# one and on four, beside means and random numbers. Does the error on unseen text follow the
# condition number?

# %%
rank = 16
mean = linformer.mean_pool(rank, 128)
mixtures = {"means": mean, "random numbers": stream("E", 0).standard_normal((rank, 128)) / 4}
for count in (1, 4):
    q, k, _ = data["text"][:count].swapaxes(0, 1)
    mixtures[f"F fitted on {count}"] = linformer.fit(q, k, key_projection=mean)
for name, F in mixtures.items():
    wrong = np.mean([errors_at(rank, qkv, F)[1] for qkv in data["text"][4:]])
    print(f"{name:<15} condition {np.linalg.cond(F):>5.1f}, error on unseen text {wrong:.2f}")

# %% [markdown]
# Between the two fits it does. But random numbers, nearly as well conditioned as means, err most:
# they mix everything with everything. **A large condition number is a warning; a small one promises
# nothing**, except that noise stays small. So start a learned projection with rows equally long and
# orthogonal, and look at the number again when training is done.

# %% [markdown]
# ## Your own text
#
# Put a text of yours in place of these lines, prose or code, up to 512 tokens. How many singular
# values does each head need now? Then let it stand twice in a row: which heads change?

# %%
text = """A small ship left the harbour in the early morning, and an old man on the pier counted
the boxes on her deck. He had counted them every day since spring. Nobody had ever asked him why."""
own_maps = small.attention_maps(text)
own = spectra.effective_rank(own_maps) / own_maps.shape[-1]
axes = plots.table(own, *names, x="", y="", label="of all singular values for 99 %")
plots.show(
    axes, f"{own_maps.shape[-1]} tokens: heads need from {own.min():.0%} to {own.max():.0%}."
)

# %% [markdown]
# What a fixed mixture loses, the next part takes up: [runs of neighbours](06_pooling.ipynb), equal
# or cut by likeness, scores without keys, and what is left of all this for a decoder.
