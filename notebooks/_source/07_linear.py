# %% [markdown]
# # 07 · Move the brackets: linear attention
#
# Attention multiplies three matrices. Put the brackets elsewhere and the $n \times n$ matrix is
# gone: a text of any length leaves behind one small array. Only the softmax stands in the way. This
# part replaces it, and finds out what that costs; the [second part](07_performer.ipynb) brings it
# back, by throwing dice.
#
# <!-- summary: attention as a kernel, and what moving a bracket saves; causal as a recurrence, a
# scan, in chunks; what a small state forgets. -->

# %% role="setup"
import numpy as np

from attncourse import bench, claims, measure, plots, widgets
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, linear
from attncourse.units import format_bytes

# %% [markdown]
# ## Leave the softmax out
#
# Without the softmax, attention is $(Q K^\top) V$, and nothing forbids $Q\, (K^\top V)$ instead.
# So why not leave it out, and divide each row by its sum as before? One query, three keys, three
# values:

# %%
q, k, v = np.array([[1, 2]]), np.array([[2, 1], [-1, 1], [-1, -3]]), np.array([10, 20, 30])
scores = q @ k.T
weights = scores / scores.sum()
print("scores ", scores[0])
print("weights", weights[0], "sum to", weights.sum())
print("average", (weights @ v)[0])

# %% [markdown]
# An "average" of 10, 20 and 30 that is 75. Scores have both signs, so their sum may be 0. Weights
# must not be negative, and the exponential sees to that. But it stands *between* the products:
# $e^{QK^\top}$, entry by entry, is no product of something of $Q$ and something of $K$.
#
# Which functions are never negative, and come apart?

# %% [markdown] covers="I1"
# ## A weight is a similarity
#
# Write attention as an average in which a key counts as much as it resembles the query:
#
# $$
# \text{out}_i = \frac{\sum_j \text{sim}(q_i, k_j)\, v_j}{\sum_j \text{sim}(q_i, k_j)}
# $$
#
# With $\text{sim}(q, k) = e^{q \cdot k / \sqrt D}$ this is softmax attention. Any function that is
# never negative may take its place.

# %%
some_q, some_k, some_v = (array[0, 0] for array in random_qkv(6, width=8))
similarity = np.exp(some_q @ some_k.T / np.sqrt(8))
out = similarity @ some_v / similarity.sum(axis=1, keepdims=True)
np.testing.assert_allclose(out, full.attention(some_q, some_k, some_v), atol=1e-5)
print("exp(q·k/√D), each row divided by its sum: softmax attention")

# %% [markdown]
# Take the square, $(q \cdot k)^2$. Multiplied out for two numbers a token, it is a dot product
# again, of longer vectors:
#
# $$
# (q_1 k_1 + q_2 k_2)^2 = \phi(q) \cdot \phi(k), \qquad \phi(x) = (x_1^2,\; x_1 x_2,\; x_2 x_1,\;
# x_2^2)
# $$
#
# Such a $\phi$ is a *feature map*, and a similarity that has one is a *kernel*.


# %%
def pairs(x):
    return np.einsum("ta,tb->tab", x, x).reshape(len(x), -1)


print("φ(q)        ", pairs(q)[0])
print("φ(q) · φ(k) ", (pairs(q) @ pairs(k).T)[0])
print("(q · k)²    ", (scores**2)[0])

# %% [markdown]
# It comes apart, and it is never negative. A good similarity it is not: the key that points away
# from the query, with score −7, gets the largest weight. Better ones follow. But first: what do
# we gain?

# %% [markdown]
# A text of a million tokens has gone by. You know neither its length nor its keys any more; still,
# each later query shall get its *exact* answer. What must you have kept?

# %% folded=true
widgets.guess(
    "One head, similarities of 64 features, values of 64 numbers, float32, a million tokens: "
    "how many bytes must be kept for all later queries?",
    lambda: 4 * 64 * (64 + 1),
    unit="B",
    explain="64 × 64 numbers for the sums of features times values, 64 for the sums to divide by. "
    "Keys and values themselves would be 512 MB, the matrix of weights 4 TB.",
)

# %% [markdown] covers="I2 I5 Y10"
# ## Move the brackets
#
# Matrix products are associative. With $m$ features a token and values of $D_v$ numbers:
#
# $$
# \underbrace{\big(\phi(Q)\, \phi(K)^\top\big)}_{n \times n} V
# \;=\; \phi(Q) \underbrace{\big(\phi(K)^\top V\big)}_{m \times D_v}
# $$
#
# Both sides are the same numbers. Here are their brackets to scale, with values of 64. Slide the
# tokens and see which of the four rectangles does *not* change. Then find a setting at which moving
# the brackets does not pay.

# %% folded=true
live_brackets = plots.LiveBrackets(512, 64, 64, most=512)


def draw_brackets(tokens, features):
    live_brackets.update(tokens, features)
    ratio = 4 * tokens * features * 64 / (2 * tokens**2 * (features + 64))
    held = tokens**2 / (features * 64)
    return (
        f"{tokens} tokens, {features} features: the brackets on the left hold {held:.3g} times as "
        f"many numbers; the right-hand side takes {ratio:.2f} of the work."
    )


# %%
lengths, counts = widgets.choice([64, 128, 256, 512], 512), widgets.choice([16, 64, 256, 512], 64)
widgets.explore(draw_brackets, live_brackets.figure, tokens=lengths, features=counts)

# %% [markdown]
# The left takes $2n^2(m + D_v)$ operations, the right $4nmD_v$. If features are as wide as values,
# that is $n / m$ times less. Counted and weighed at 2048 tokens, with 64 features:


# %%
def brackets_left(phi_q, phi_k, v):
    return (phi_q @ phi_k.T) @ v


def brackets_right(phi_q, phi_k, v):
    return phi_q @ (phi_k.T @ v)


# %%
q, k, v = (array[0, 0] for array in random_qkv(2048))
phi_q, phi_k = np.exp(q / 4), np.exp(k / 4)  # some positive features
sums = brackets_left(phi_q, phi_k, v)
np.testing.assert_allclose(brackets_right(phi_q, phi_k, v), sums, atol=np.abs(sums).max() / 1e5)
for way in (brackets_left, brackets_right):
    flops = measure.count_flops(way, phi_q, phi_k, v)
    held = measure.peak_bytes(way, phi_q, phi_k, v) / 2**20
    print(f"{way.__name__:<15} {flops:>13,} FLOPs  {held:>4.1f} MiB held")

# %% [markdown]
# [Exercise 07.1](../exercises/07_linear.ipynb#07.1-Where-to-put-the-brackets) counts both sides for
# any sizes.

# %% [markdown] covers="I3 R4"
# ## Divide by the sum
#
# Three matrices multiplied are not yet attention: each row is still to be divided by the sum of its
# similarities. That sum has brackets to move, too, $\phi(q_i) \cdot \sum_j \phi(k_j)$. It is called
# the *normaliser*. A column of ones beside $V$ collects it in the same product:

# %%
state = phi_k.T @ np.column_stack([v, np.ones(len(v), v.dtype)])
seen = phi_q @ state
attended = seen[:, :-1] / seen[:, -1:]
expected = linear.attention(q, k, v, feature_map=lambda x: np.exp(x / 4))
np.testing.assert_allclose(attended, expected, atol=1e-5)
print(f"{len(v)} tokens leave a state {state.shape}; its last column is the normaliser's")
print(f"forgotten, a row's weights would sum to {seen[:, -1].min() / 1000:.0f} thousand and more")

# %% [markdown]
# Many programs add a small ε to the normaliser, against division by zero. Harmless? Features can
# be small themselves: $e^{x}$ is, for negative $x$. The picture shifts all inputs down, and shows
# what the weights of a row sum to. Which ε is safe up to a shift of 16?

# %% folded=true
shifts = np.arange(0, 17, 0.5, dtype=np.float32)
totals = [(np.exp(q[:64] - by) @ np.exp(k - by).sum(axis=0)).mean() for by in shifts]
words = {"x_label": "inputs shifted down by", "y_label": "sum of a row's weights", "high": 1}
live_epsilon = plots.LiveCurves(shifts, {"with ε": np.ones(len(shifts))}, **words)


def draw_epsilon(power):
    kept = 1 / (1 + 10.0**power / np.array(totals, dtype=float))
    live_epsilon.update({"with ε": kept})
    half = f"half is lost from a shift of {shifts[np.argmax(kept < 0.5)]:g} on"
    return f"ε = 1e{power}: {half if kept[-1] < 0.5 else 'half is never lost'}."


# %%
widgets.explore(draw_epsilon, live_epsilon.figure, power=(-12, 0, 1, -6))

# %% [markdown]
# An ε pulls the answer towards zero without a word. The
# [reference](../attncourse/reference/linear.py) adds none: a normaliser that is exactly 0 gives
# zeros, all others are taken as they are.

# %% [markdown] covers="I4 I5"
# ## The state and its size
#
# What the keys leave behind is the *state*, $\phi(K)^\top [V, 1]$: $m\,(D_v + 1)$ numbers a head.
# Its size has no $n$ in it. It has the width of a *head* in it, mostly twice, and that is easily
# taken for the width of the model. [Chapter V](00_start.ipynb#The-four-texts) prints one such size
# three times:

# %%
for heads, width in ((12, 768), (12, 64)):
    size = heads * width * width * 4
    print(f"{heads} heads, {width} × {width} float32: {format_bytes(size, decimal=True)}")
claims.check("C478")

# %% [markdown]
# The check to take along: write the shape beside every number of bytes, and see whether it can be
# split into the heads again. The first printed size is 768 × 768 in each of 12 heads.
#
# Now cut the same 768 columns into more heads. Softmax attention takes the same work for any
# number of them.

# %% folded=true
widgets.guess(
    "768 columns as 12 heads of 64 instead of one of 768: how many times less work is "
    "linear attention?",
    lambda: linear.cost(1, 1, 4096, 4096, 768).flops / linear.cost(1, 12, 4096, 4096, 64).flops,
    unit="times",
    explain="One state of 768 × 769 becomes 12 of 64 × 65, a twelfth of the numbers, and each "
    "token meets each number twice. But a small state also holds less.",
)

# %% [markdown] covers="I6 V9"
# ## Another similarity
#
# The Linear Transformer takes $\phi(x) = \text{elu}(x) + 1$, entry by entry: $e^x$ below zero and
# $1 + x$ above. It is positive, cheap, has no more features than $x$ has numbers, and does not
# overflow. Chapter V calls the result a looser approximation of the softmax.

# %%
x = np.linspace(-3, 3, 61)
shapes = {"elu(x) + 1": linear.elu_plus_one(x), "exp(x)": np.exp(x)}
axes = plots.curves(x, shapes, x_label="x", y_label="φ(x)")
plots.show(axes, "The two agree below zero; above it exp(x) climbs away from the straight 1 + x.")

# %% [markdown]
# How far apart are two rows of weights? The *total variation* is half the sum of their absolute
# differences: the share of attention that lies on other keys. It depends on the *spread*, the
# standard deviation of the scores: how much a query prefers some keys. Take 512 random tokens, of
# normally distributed numbers. Their spread is 1.

# %%
tokens_q, tokens_k, _ = (array[0, 0] for array in random_qkv(512))


def elsewhere(spread, other=linear.weights):
    scaled = [x * np.float32(spread**0.5) for x in (tokens_q, tokens_k)]
    return np.abs(full.weights(*scaled) - other(*scaled)).sum(axis=1).mean() / 2


# %% folded=true
widgets.guess(
    "512 random tokens, spread 1: which share of the attention of elu + 1 lies on other keys "
    "than the softmax's?",
    lambda: 100 * elsewhere(1),
    unit="%",
    explain="And it grows with the spread: the numbers stand below the slider, and one to compare "
    "with.",
)

# %% [markdown]
# Now one query and eight keys. Slide the spread up, and look for the key that stands out on the
# right.

# %% folded=true
figure, both_axes = plots.figure(1, 2, height=3.6)
names = [f"key {j}" for j in range(8)]
two_rows = [
    plots.LiveBars(dict.fromkeys(names, 0.0), axes, title=title, high=1)
    for axes, title in zip(both_axes, ("softmax", "elu + 1"), strict=True)
]
one_q, few_k = q[:1], k[:8]


# %% folded=true
def draw_rows(spread):
    factor = np.float32(spread**0.5)
    scaled = one_q * factor, few_k * factor
    both = full.weights(*scaled)[0], linear.weights(*scaled)[0]
    for row, values in zip(two_rows, both, strict=True):
        row.update({f"key {j}": round(float(value), 2) for j, value in enumerate(values)})
    largest = [f"{values.max():.0%}" for values in both]
    return f"Spread {spread}: the favourite key gets {largest[0]}, and {largest[1]} with elu + 1."


# %%
widgets.explore(draw_rows, figure, spread=(0.0, 4.0, 0.25, 1.0))

# %% [markdown]
# Back to the 512 tokens. Beside elu + 1 stands a row that does not look at the query at all:


# %%
def even(q, k):
    return np.full((len(q), len(k)), 1 / len(k))


for spread in (0.25, 0.5, 1, 2, 3):
    print(
        f"spread {spread:>4}: {elsewhere(spread):.0%} lies elsewhere; "
        f"with the same weight for every key {elsewhere(spread, even):.0%}"
    )
claims.check("C175")

# %% [markdown]
# A "typical" error is no number as long as the spread is missing. And it says little before you ask
# what *ignoring the query* would score: here, nearly the same. So elu + 1 approximates nothing. It
# is another attention, and a nearly even one. A model can be trained with it; it cannot be swapped
# in.

# %% [markdown]
# [Exercise 07.2](../exercises/07_linear.ipynb#07.2-Linear-attention) asks for it, with its memory
# graded, and [07.V9](../exercises/07_linear.ipynb#07.V9-Where-linear-and-softmax-attention-part)
# for the distance.

# %% [markdown] covers="I4"
# ## Causal and a recurrence
#
# Now no query may look ahead. A matrix would be set to zero above the diagonal; but then something
# stands between the products again, and the brackets cannot move. The sum $\phi(K)^\top V$ is of
# *all* keys. So query $i$ needs a sum of its own, one that grows by one key a token:

# %% [markdown]
# $$
# S_i = S_{i-1} + \phi(k_i)\, [v_i, 1]^\top \in \mathbb R^{m \times (D_v + 1)},
# \qquad [\text{out}_i \cdot t_i,\; t_i] = \phi(q_i)^\top S_i
# $$
#
# The number $t_i$ is the normaliser. Three tokens with one feature each, by hand:

# %%
state = np.zeros(2)
for phi_query, phi_key, value in ((1, 2, 10), (3, 1, 40), (2, 1, 0)):
    state = state + phi_key * np.array([value, 1])
    seen = phi_query * state
    print(f"state {state}, the query sees {seen}, out = {seen[0] / seen[1]:g}")

# %% [markdown]
# The second output is $(2 \cdot 10 + 1 \cdot 40) / 3$, as it must be. This is a network that reads
# token after token and keeps one state, a *recurrent neural network*. The same with features of 16
# numbers, beside the causal matrix:

# %%
q, k, v = (array[0, 0] for array in random_qkv(24, width=16))
state, outs, states = None, [], []
for i in range(24):
    out, state = linear.step(state, q[i : i + 1], k[i : i + 1], v[i : i + 1])
    outs.append(out)
    states.append(state)
parallel = linear.weights(q, k, causal=True) @ v
np.testing.assert_allclose(np.concatenate(outs), parallel, atol=1e-5)
print("24 steps with a state of", state.shape, "give the rows of the causal 24 × 24 matrix")

# %% [markdown]
# Step through the text. Every token is added on top of all the others, and nothing is ever taken
# out. Watch the last column, the normaliser: it only rises.

# %% folded=true
words = {"x": "column of [v, 1]", "y": "feature", "label": "sum so far", "low": -15, "high": 30}
live_state = plots.LiveHeatmap(states[0], **words)


def draw_state(token):
    live_state.update(states[token], f"the state after token {token}")
    rise = states[token][:, -1].mean() / (token + 1)
    return f"After token {token}: 16 × 17 numbers; the last column rises by {rise:.1f} a token."


# %%
widgets.explore(draw_state, live_state.figure, token=(0, 23, 1, 5))

# %% [markdown]
# Generation likes this. Softmax attention must keep every key and value of the text in a *cache*,
# which grows with each token. The state does not grow. But it starts large.

# %% folded=true
widgets.guess(
    "One head, q, k and v of 64 numbers, elu + 1: after how many tokens is a cache of keys and "
    "values larger than the state?",
    lambda: 64 * 65 // (2 * 64) + 1,
    unit="tokens",
    explain="64 × 65 numbers are the keys and values of 32 and a half tokens.",
)

# %% [markdown] covers="I5"
# ## All at once as a scan
#
# Step by step is no way to fill a GPU. But a running sum is a *scan*, and addition is associative,
# too. So states may add up in pairs, then pairs of pairs. After $s$ rounds each holds the last
# $2^s$ tokens. How many rounds until all 32 states are complete?

# %% folded=true
words = {"x": "token j", "y": "state i", "words": ("not yet", "in the state")}
live_scan = plots.LiveHeatmap(np.eye(32, dtype=bool), **words)


def draw_scan(rounds):
    holds = np.eye(32, dtype=int)
    for step in range(rounds):
        holds[2**step :] += holds[: -(2**step)].copy()  # each state takes in one further back
    live_scan.update(holds > 0, f"after round {rounds}")
    done = (holds.sum(axis=1) == np.arange(1, 33)).sum()
    return f"After round {rounds}, {done} of 32 states are complete; none counts a token twice."


# %%
widgets.explore(draw_scan, live_scan.figure, rounds=(0, 5, 1, 2))

# %% [markdown]
# Few rounds, but all states exist at once: $n\, m\, (D_v + 1)$ numbers, and as many products that
# they are the sums of. At 1024 tokens, weighed beside the matrix that was to be avoided:


# %%
def all_states(q, k, v):
    phi_q, phi_k = linear.elu_plus_one(q), linear.elu_plus_one(k)
    states = np.cumsum(phi_k[:, :, None] * linear.with_ones(v, v.dtype)[:, None, :], axis=0)
    seen = np.matmul(phi_q[:, None, :], states)[:, 0]
    return seen[:, :-1] / seen[:, -1:]


def all_weights(q, k, v):
    return linear.weights(q, k, causal=True) @ v


# %%
q, k, v = (array[0, 0] for array in random_qkv(1024))
np.testing.assert_allclose(all_states(q, k, v), all_weights(q, k, v), atol=1e-4)
for way in (all_states, all_weights):
    print(f"{way.__name__:<12} {format_bytes(measure.peak_bytes(way, q, k, v)):>9} held")

# %% [markdown] covers="I5"
# ## In chunks
#
# What is really used lies between the two. Cut the text into chunks. All earlier chunks have
# become one state; inside its own chunk a query needs a small triangle of scores. With chunks of
# 64, and $\text{tril}$ for "zero above the diagonal":
#
# $$
# \underbrace{\phi(Q_c)\, S_{c-1}}_{\text{all before}} \;+\;
# \underbrace{\text{tril}\big(\phi(Q_c)\, \phi(K_c)^\top\big)}_{64 \times 64}\, [V_c, 1]
# $$

# %%
rows = slice(512, 576)
phi_q, phi_k = linear.elu_plus_one(q), linear.elu_plus_one(k)
values = linear.with_ones(v, v.dtype)
before = phi_k[:512].T @ values[:512]
own = np.tril(phi_q[rows] @ phi_k[rows].T)
seen = phi_q[rows] @ before + own @ values[rows]
np.testing.assert_allclose(seen[:, :-1] / seen[:, -1:], all_weights(q, k, v)[rows], atol=1e-4)
print("64 rows from a state", before.shape, "and a triangle", own.shape)

# %% [markdown]
# Chunks of one token are the recurrence. One chunk is the whole matrix. Slide from one to the
# other: what grows, what shrinks?

# %% folded=true
words = ("not seen", "through the state", "scores of its own chunk")
live_chunks = plots.LiveHeatmap(np.zeros((128, 128)), title=" ", words=words)


def draw_chunks(chunk):
    i, j = np.ogrid[:128, :128]
    live_chunks.update(np.where(j > i, 0, 1 + (i // chunk == j // chunk)), f"chunks of {chunk}")
    cost = linear.cost(1, 1, 4096, 4096, 64, chunk=chunk, causal=True)
    return (
        f"Chunks of {chunk}: at 4096 tokens {-(-4096 // chunk)} steps one after another, "
        f"{cost.flops / 1e6:,.0f} MFLOP, and scores of {format_bytes(4 * chunk**2)} at a time."
    )


# %%
chunks = widgets.choice([2**e for e in range(8)], 16)
widgets.explore(draw_chunks, live_chunks.figure, chunk=chunks)

# %% [markdown]
# [Exercise 07.3](../exercises/07_linear.ipynb#07.3-Causal,-with-a-state) leaves the chunks to you,
# and grades their memory. The [reference](../attncourse/reference/linear.py) is the same loop; read
# it afterwards.

# %% [markdown] covers="I5"
# ## Prediction beside measurement
#
# What `cost` predicts, and what is measured, for two heads. Softmax attention holds $n^2$ scores.
# The others hold their output, one state, and at most one triangle.

# %%
lengths = [256, 512, 1024, 2048]
inputs = {n: random_qkv(n, heads=2) for n in lengths}
calls = {"softmax": (full, {}), "elu + 1": (linear, {}), "causal": (linear, {"causal": True})}
measured, predicted = {}, {}
for name, (module, knobs) in calls.items():
    measured[name] = [measure.peak_bytes(module.attention, *inputs[n], **knobs) for n in lengths]
    predicted[name] = [module.cost(1, 2, n, n, 64, **knobs).peak_bytes for n in lengths]
    np.testing.assert_allclose(measured[name], predicted[name], rtol=0.1)

# %%
axes = plots.growth(lengths, measured, predicted, unit="bytes", title="peak memory")
plots.show(
    axes, "Peak bytes over n: softmax grows with n squared, the other two with their output."
)

# %% [markdown]
# And time? The dashed lines stretch one measured point, softmax at 1024 tokens, by the count of
# operations.

# %%
often = {"repeats": 40, "at_least": 3, "at_most": 0.2}  # short calls more often than long ones
timings = {name: [] for name in calls}
for n in lengths:  # all three at one length, so that a busy minute meets them alike
    for name, (module, knobs) in calls.items():
        timings[name].append(measure.seconds(module.attention, *inputs[n], **often, **knobs))
rate = full.cost(1, 2, 1024, 1024, 64).flops / timings["softmax"][2].median
expected = {
    name: [module.cost(1, 2, n, n, 64, **knobs).flops / rate for n in lengths]
    for name, (module, knobs) in calls.items()
}

# %%
axes = plots.growth(lengths, timings, expected, unit="s", title="time")
plots.show(axes, "Seconds over n, measured and as the operation count predicts.")

# %% [markdown]
# Compare slopes first: they say how time grows. *Above* a line: small products do not fill the
# machine, and Python loops over the chunks. *Below*: softmax's 8 MiB of scores at 1024 tokens may
# not fit a cache where the half MiB at 256 did.
#
# Is causal faster, with twice the work? Then the machine was busy elsewhere: time again.

# %% [markdown] covers="I4 I5"
# ## The kernel tile by tile
#
# On a GPU two launches do it. The first adds up $\phi(k) v^\top$ for each part of the keys. In the
# second a *program*, one run of [the kernel](../attncourse/kernels/linear.py), takes a part of the
# queries, adds the states before it, and walks on chunk by chunk, its state in registers.
# ([Chapter 04](04_window.ipynb#A-kernel-in-twenty-lines) explains Triton.)

# %% [markdown]
# Triton's interpreter runs it here, in some seconds, and `trace` notes every access. Before the
# output: each of $q$, $k$, $v$ has 512 × 32 numbers, 64 KiB. How many times are they loaded?

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import linear as kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(512, width=32)]
    traced = trace.record(kernel.attention, *tensors, causal=True)
    predicted = kernel.cost(1, 1, 512, 512, 32, causal=True).bytes_read
    assert not traced.out_of_bounds and traced.bytes_loaded() == predicted
    print(traced, f"loaded as predicted: {predicted:,} bytes", sep="\n")
except (ImportError, RuntimeError) as reason:
    traced = None
    print(reason)

# %% [markdown]
# The queries once; keys and values once for the sums (but for the last part, whose sum nobody
# needs), and once more for the output.
#
# Slide through the programs of the second launch. Coloured are the scores that it makes: chunks on
# the diagonal, and nothing else. All the rest of the triangle comes through the states it loads.

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    tiles = plots.LiveTiles(traced, in_step=True)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 2)))

# %% [markdown]
# And on a real GPU? Time and memory beside what `cost` predicts of them, measured now if there is a
# GPU here, otherwise from the latest recorded run.

# %%
bench.show_gpu("linear")

# %% [markdown]
# [Exercise 07.5](../exercises/07_linear.ipynb#07.5-The-walk-of-a-Triton-kernel) leaves the walk of
# such a kernel to you, and counts its bytes.

# %% [markdown] covers="I5 I15"
# ## Where it fails
#
# A query that wants exactly one key: "the same name as before", "the bracket that I close". Its
# row of weights must be a spike. Take the keys of 512 random tokens, and ask for each by itself,
# three times as loud: $q_i = 3 k_i$. Softmax puts practically all weight on the right key.

# %% folded=true
widgets.guess(
    "512 random keys of 64 numbers, each query three times its key: which share of the weight "
    "does elu + 1 put on the right key?",
    lambda: 100 * np.diag(linear.weights(3 * tokens_k, tokens_k)).mean(),
    unit="%",
    explain="An even row would give it 0.2 %. To be three times as loud hardly helps: elu + 1 "
    "grows in proportion, and proportions are what a row divides away.",
)

# %% [markdown]
# And no feature map gets round another limit. To copy $N$ tokens exactly, the weights must be the
# identity, a matrix of rank $N$. (The *rank* is how many of its rows are no mixture of others.)
# $\phi(Q)\, \phi(K)^\top$ has rank $m$ at most. Hard decisions, exact copies, rare names, links of
# syntax ask for more.

# %%
for name, weights in (("softmax", full.weights), ("elu + 1", linear.weights)):
    rank = np.linalg.matrix_rank(weights(tokens_q.astype(float), tokens_k.astype(float)))
    print(f"{name:<8} 512 × 512 weights of rank {rank}")

# %% [markdown]
# Back to the spike. How loud must a query be?

# %%
sharpness = np.arange(0, 4.01, 0.25)
ways = {"softmax": full.weights, "elu + 1": linear.weights}
on_key = {
    name: [np.diag(weights(np.float32(s) * tokens_k, tokens_k)).mean() for s in sharpness]
    for name, weights in ways.items()
}
words = {"x_label": "query over its key", "y_label": "weight on the right key", "high": 1}
axes = plots.curves(sharpness, on_key, **words)
half = sharpness[np.argmax(np.array(on_key["softmax"]) > 0.5)]
plots.show(axes, f"Softmax gives the right key over half from {half:g} on; elu + 1 at no loudness.")

# %% [markdown] covers="I18 I19 X4"
# ## Features can be learned
#
# Within rank $m$ much depends on $\phi$. The smallest map that can be learned has one number, a
# power $p$: $\phi(x) = (\text{elu}(x) + 1)^p$ makes large features larger. Store $N$ facts, random
# keys with random values, in a state of 64 × 65 numbers. Ask for each by its key; the nearest value
# is the answer.


# %%
def recall(n_facts, seed, attend):
    """Return the share of facts that are found."""
    keys, values = stream("facts", seed, n_facts).standard_normal((2, n_facts, 64))
    out = attend(keys, keys, values)
    return ((out @ values.T).argmax(axis=1) == np.arange(n_facts)).mean()


def power(p):
    return lambda *qkv: linear.attention(*qkv, feature_map=lambda x: linear.elu_plus_one(x) ** p)


# %%
facts = [2, 4, 8, 16, 32, 64, 128, 256]
attends = {"softmax": full.attention} | {f"p = {p}": power(p) for p in (1, 4, 16)}
found = {
    name: np.mean([[recall(n, seed, attend) for n in facts] for seed in range(5)], axis=0)
    for name, attend in attends.items()
}
words = {"x_label": "facts stored", "y_label": "share found", "high": 1, "log_x": True}
axes = plots.curves(facts, found, **words)
ends = ", ".join(f"{name} {values[5]:.0%}" for name, values in found.items())
plots.show(axes, f"Of 64 facts, mean over 5 seeds: {ends}.")

# %% [markdown]
# Neither the smallest nor the largest here; which $p$ is best depends on the data, and so it has to
# be fitted. A model does that with many numbers at once, for instance $\phi(x) = e^{Wx}$ with a
# learned matrix $W$.

# %% [markdown]
# And some tasks forgive much. The summary of a book, or of a film, needs no exact copy of word 31,
# and the book is too long for a matrix:

# %%
for what, n in (("a page", 500), ("a book", 130_000)):
    ratio = full.cost(1, 1, n, n, 64).flops / linear.cost(1, 1, n, n, 64).flops
    print(f"{what}, {n:>7,} tokens: {ratio:>7,.0f} times the work with softmax", end=", ")
    print(f"weights of {format_bytes(4 * n * n, decimal=True)} a head, state of 16.6 kB")

# %% [markdown]
# ## In a real model
#
# The course's small model (four layers of four heads, trained on Python's standard library) reads a
# page that it never saw, with linear attention in the layers you choose. The darker a token, the
# less probable it has become.

# %% [markdown]
# The last choice ignores the query: with the feature $\phi = 1$ each gets the mean of the past.
# (Its FLOPs are shown as those of elu + 1; it needs fewer.)

# %% folded=true
from attncourse import model

small = model.load()
where = {"layer 0": 0, "layer 3": 3, "layers 0 and 1": [0, 1], "all four": None}
changed = {name: small.swap("linear", layers=layers) for name, layers in where.items()}
ones = lambda x: np.ones_like(x[..., :1])  # noqa: E731
changed["the mean, all four"] = small.swap("linear", feature_map=ones)
tried = model.compare(small, changed)
widgets.in_a_real_model("elu + 1 in", tried)

# %%
for name in ("all four", "the mean, all four"):
    print(f"{name:<18} {tried[name].loss:.2f} nats a token; as trained {tried[name].full_loss:.2f}")

# %% [markdown]
# In all layers elu + 1 is worth hardly more than attention that ignores the query. Queries and keys
# were trained for $e^{q \cdot k}$, which picks; another kernel reads other things out of them.
# Linear attention is trained from the start, or a model is tuned to it afterwards.

# %% [markdown]
# ## Your own text
#
# Which word comes after this one? Each word gets a random vector; the key of a place is its word,
# the value the next word. A word that comes twice has two right answers, so even softmax misses
# some. Put a text of yours here, then a longer one: when does the state forget?


# %%
def next_words(text, attend):
    words = text.lower().split()
    names = {word: number for number, word in enumerate(dict.fromkeys(words))}
    vectors = stream("words", 0).standard_normal((len(names), 64))
    places = [names[word] for word in words]
    keys, values = vectors[places[:-1]], vectors[places[1:]]
    best = (attend(keys, keys, values) @ vectors.T).argmax(axis=1)
    return (best == places[1:]).mean()


text = """A small ship left the harbour in the early morning, and an old man on the pier counted
the boxes on her deck. He had counted them every day since spring. Nobody had ever asked him why."""
for name, attend in attends.items():
    print(f"{name:<8} {next_words(text, attend):.0%} of the next words")

# %% [markdown]
# The other way out of the softmax keeps its exponential, and pays with chance:
# [the second part](07_performer.ipynb).
