# %% [markdown]
# # 07 · Move the brackets: linear attention and the Performer
#
# Attention multiplies three matrices. Put the brackets elsewhere and the $n \times n$ matrix is
# gone. One function stands in the way: the softmax. You will replace it twice, once by something
# else and once by dice; turn attention into a recurrence; and find out what a textbook's error
# table is worth.
#
# **Run a cell with Shift + Enter.** Sliders move with the mouse or the arrow keys.
#
# <!-- summary: attention as a kernel, and what moving a bracket saves; causal as a recurrence, a
# scan, in chunks; the Performer's features and their error against m. -->

# %% role="setup"
import numpy as np

from attncourse import bench, claims, measure, plots, widgets
from attncourse.claims import printed_features
from attncourse.inputs import random_qkv
from attncourse.reference import full, linear, performer
from attncourse.units import format_bytes

# %% [markdown] covers="I1"
# ## A weight is a similarity
#
# Attention averages the values. A key counts as much as it resembles the query:
#
# $$
# \text{out}_i = \frac{\sum_j \text{sim}(q_i, k_j)\, v_j}{\sum_j \text{sim}(q_i, k_j)},
# \qquad \text{sim}(q, k) = e^{q \cdot k / \sqrt D}
# $$
#
# This is softmax attention, written without the word softmax.

# %%
q, k, v = (array[0, 0] for array in random_qkv(6, width=8))
similarity = np.exp(q @ k.T / np.sqrt(8))
out = similarity @ v / similarity.sum(axis=1, keepdims=True)
np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-5)
print("similarity exp(q·k/√D), each row divided by its sum: softmax attention")

# %% [markdown]
# A similarity is a *kernel* if it is a dot product of features, $\text{sim}(q, k) = \phi(q) \cdot
# \phi(k)$. The function $\phi$ is its *feature map*. Take the square, $(q \cdot k)^2$. Which
# features have that as their dot product? All products of two entries:


# %%
def pairs(x):
    return np.einsum("ta,tb->tab", x, x).reshape(len(x), -1)


np.testing.assert_allclose(pairs(q) @ pairs(k).T, (q @ k.T) ** 2, atol=1e-5)
print(f"(q·k)² with {q.shape[1]} numbers a token is φ(q)·φ(k) with {pairs(q).shape[1]} features")

# %% [markdown] covers="I2 I5 Y10"
# The exponential is a sum of all powers, so its features never end. Two ways out follow: another
# similarity whose features are few, and features drawn at random that give the exponential *on
# average*. But first: what are features good for?
#
# ## Move the brackets
#
# Matrix products are associative. With $m$ features a token:
#
# $$
# \underbrace{\big(\phi(Q)\, \phi(K)^\top\big)}_{n \times n} V
# \;=\; \phi(Q) \underbrace{\big(\phi(K)^\top V\big)}_{m \times D_v}
# $$
#
# Same numbers. For 2048 tokens and 64 features: how much less work is the right-hand side?


# %%
def brackets_left(phi_q, phi_k, v):
    return (phi_q @ phi_k.T) @ v


def brackets_right(phi_q, phi_k, v):
    return phi_q @ (phi_k.T @ v)


# %%
q, k, v = (array[0, 0] for array in random_qkv(2048))
phi_q, phi_k = linear.elu_plus_one(q), linear.elu_plus_one(k)
sums = brackets_left(phi_q, phi_k, v)
np.testing.assert_allclose(brackets_right(phi_q, phi_k, v), sums, atol=np.abs(sums).max() / 1e5)

# %%
for way in (brackets_left, brackets_right):
    flops = measure.count_flops(way, phi_q, phi_k, v)
    held = measure.peak_bytes(way, phi_q, phi_k, v) / 2**20
    print(f"{way.__name__:<15} {flops:>13,} FLOPs  {held:>4.1f} MiB held")
print(f"n / m is {len(q) // phi_q.shape[1]}")

# %% [markdown]
# That quotient is what is saved. Slide the features up until moving the brackets no longer pays.

# %%
live_brackets = plots.LiveBars({"brackets left": 1, "brackets right": 1}, unit="GFLOP")


# %%
def draw_brackets(n, features):
    left, right = 2 * n * n * (features + 64) / 1e9, 4 * n * features * 64 / 1e9
    live_brackets.update({"brackets left": left, "brackets right": right})
    return (
        f"{n} tokens, {features} features, values 64 wide: the right-hand side takes "
        f"{right / left:.2f} of the work of the left."
    )


# %%
lengths = widgets.choice([2**e for e in range(6, 15)], 2048)
counts = widgets.choice([2**e for e in range(3, 12)], 64)
widgets.explore(draw_brackets, live_brackets.figure, n=lengths, features=counts)

# %% [markdown]
# Chapter V writes the new cost as $n d'^2$, with $d'$ features. Right only if values are as wide
# as features:

# %%
more_q, more_k = pairs(q)[:, :256], pairs(k)[:, :256]
work = {64: measure.count_flops(brackets_right, phi_q, phi_k, v)}
work[256] = measure.count_flops(brackets_right, more_q, more_k, v)
claims.check("C079", f"{work[256] // work[64]} times the work for 4 times the features, not 16")

# %% [markdown] covers="I3 R4"
# **Exercise 07.1** counts both sides for any sizes.
#
# ## The normaliser
#
# The product of three matrices is not yet attention: each row must be divided by the sum of its
# similarities. That sum has brackets to move, too: $\phi(q_i) \cdot \sum_j \phi(k_j)$. A survey
# says that softmax(QKᵀ)V "is replaced by" φ(Q)φ(K)ᵀV and stops there. How wrong is that?

# %%
total = phi_q @ phi_k.sum(axis=0)
attended = sums / total[:, None]
np.testing.assert_allclose(attended, linear.attention(q, k, v), atol=1e-5)
claims.check("C015", f"rows sum to {total.min():.2g} and more, where a softmax's sum to 1")

# %% [markdown]
# A column of ones beside $V$ does both sums in one product: the last column of $\phi(K)^\top [V,
# 1]$ is the normaliser. The course's modules keep it there.

# %%
state = phi_k.T @ np.column_stack([v, np.ones(len(v), v.dtype)])
seen = phi_q @ state
np.testing.assert_allclose(seen[:, :-1] / seen[:, -1:], attended, atol=1e-5)
print("state", state.shape, "for", len(v), "tokens")

# %% [markdown]
# Many programs add a small ε to the normaliser, against division by zero. Harmless? Features can
# be small: $\phi(x) = e^x$ for negative $x$. Shift all inputs down and watch what the weights of a
# row sum to.

# %%
shifts = np.arange(0, 17, 0.5)
totals = []
for shift in shifts.astype(np.float32):
    small_q, small_k = linear.elu_plus_one(q - shift), linear.elu_plus_one(k - shift)
    totals.append(small_q @ small_k.sum(axis=0))


# %%
totals = np.array(totals)  # (shifts, tokens)
live_epsilon = plots.LiveCurves(
    shifts,
    {"with ε": totals[:, 0]},
    x_label="inputs shifted down by",
    y_label="sum of a row's weights",
    high=1,
)


# %%
def draw_epsilon(power):
    sums = (totals / (totals + 10.0**power)).mean(axis=1)
    live_epsilon.update({"with ε": sums})
    half = shifts[np.argmax(sums < 0.5)] if sums[-1] < 0.5 else None
    lost = f"half of it is lost at a shift of {half:g}" if half else "half of it is never lost"
    return f"ε = 1e{power}: the weights of a row should sum to 1; {lost}."


# %%
widgets.explore(draw_epsilon, live_epsilon.figure, power=(-12, 0, 1, -6))

# %% [markdown] covers="I4 I5"
# An ε pulls the answer towards zero without a word. The references here add none: a normaliser
# that is exactly 0 gives zeros, all others are taken as they are.
#
# ## The state
#
# What the keys leave behind is $\phi(K)^\top [V, 1]$, the *state*: $m \cdot (D_v + 1)$ numbers,
# however long the text. For BERT-base, with 12 heads of width 64, how many megabytes in float32?

# %%
for n in (512, 4096, 16384):
    _, k, v = (array[0, 0] for array in random_qkv(n))
    state = linear.elu_plus_one(k).T @ linear.with_ones(v, v.dtype)
    print(f"n = {n:>5}: state {state.shape}, {format_bytes(state.nbytes)} a head")

# %%
claims.check("C083", f"{state[:, :-1].size} numbers at every n, without the normaliser's column")

# %% [markdown]
# The texts give three sizes for one state: 28.3 MB, 14 MB, 2.3 MB. Where do they come from? A
# matrix of 768 × 768 in each of 12 heads makes the first. But 768 is the width of the model. A
# head has 64.

# %%
print("12 · 768 · 768 · 4 bytes:", format_bytes(12 * 768 * 768 * 4, decimal=True))
claims.check("C084")
claims.check("C085")
claims.check("C478")

# %% [markdown]
# The same 768 columns, cut into more heads: guess what happens to the work of both kinds of
# attention. Then slide.

# %%
figure, (left, right) = plots.figure(1, 2, height=2.4)
attention_work = plots.LiveBars({"softmax": 1, "linear": 1}, left, title="work, GFLOP")
state_size = plots.LiveBars({"state": 1}, right, unit="bytes", title="state", high=2.5e6)


# %%
def draw_heads(heads):
    width, n = 768 // heads, 4096
    work = {"softmax": 4 * n * n * 768 / 1e9, "linear": 4 * n * width * 768 / 1e9}
    attention_work.update({name: round(number, 1) for name, number in work.items()})
    state_size.update({"state": 768 * width * 4})
    ratio = work["softmax"] / work["linear"]
    return f"{heads} heads of {width}: linear attention takes {ratio:.0f} times less work."


# %%
heads = widgets.choice([1, 2, 3, 4, 6, 8, 12, 16, 24], 12)
widgets.explore(draw_heads, figure, heads=heads)

# %% [markdown] covers="I6 V9"
# Softmax attention costs the same for any number of heads. Linear attention gets cheaper with
# each: its state shrinks. But a small state also holds less, as the end of this chapter shows.
#
# ## Another similarity: elu + 1
#
# The Linear Transformer takes $\phi(x) = \text{elu}(x) + 1$, entry by entry: $e^x$ below zero, $1
# + x$ above. Always positive, so all weights are. Is that "a looser approximation of the softmax",
# as chapter V has it?

# %%
x = np.linspace(-3, 3, 61)
shapes = {"elu(x) + 1": linear.elu_plus_one(x), "exp(x)": np.exp(x)}
axes = plots.curves(x, shapes, x_label="x", y_label="φ(x)")
plots.show(axes, "The two agree below zero; above it exp(x) climbs away from the straight 1 + x.")

# %% [markdown]
# One query, eight keys. *Spread* is the standard deviation of the scores $q \cdot k / \sqrt D$:
# how much the query prefers some keys. At which spread do the two rows look alike?

# %%
figure, both_axes = plots.figure(1, 2, height=4.4)
names = [f"key {j}" for j in range(8)]
two_rows = [
    plots.LiveBars(dict.fromkeys(names, 0.0), axes, title=title, high=1)
    for axes, title in zip(both_axes, ("softmax", "elu + 1"), strict=True)
]
one_q, few_k = q[:1], k[:8]


# %%
def draw_rows(spread):
    factor = np.float32(spread**0.5)
    scaled = one_q * factor, few_k * factor
    weights = full.weights(*scaled)[0], linear.weights(*scaled)[0]
    for row, values in zip(two_rows, weights, strict=True):
        row.update({f"key {j}": round(float(value), 3) for j, value in enumerate(values)})
    largest = [f"{values.max():.0%}" for values in weights]
    return f"Spread {spread}: the favourite key gets {largest[0]}, and {largest[1]} with elu + 1."


# %%
widgets.explore(draw_rows, figure, spread=(0.0, 4.0, 0.25, 1.0))

# %% [markdown]
# Nothing ever stands out on the right. In numbers: the *total variation* of two rows is half the
# sum of their absolute differences, the share of attention that lies on other keys. Chapter V says
# that weights differ by "5–15 %". Your guess at spread 1?

# %%
q, k, v = (array[0, 0] for array in random_qkv(512))


def variation(spread):
    scaled = q * np.float32(spread**0.5), k * np.float32(spread**0.5)
    difference = full.weights(*scaled) - linear.weights(*scaled)
    return np.abs(difference).sum(axis=1).mean() / 2


# %%
for spread in (0.5, 1, 2, 3):
    print(f"spread {spread:>3}: {variation(spread):.0%} of the attention lies elsewhere")

# %%
claims.check("C175", f"{variation(0.5):.0%} at spread 0.5, {variation(1):.0%} at 1")


# %%
largest = [weights(q, k).max(axis=1).mean() * 512 for weights in (full.weights, linear.weights)]
claims.check(
    "C088", f"the largest weight is {largest[0]:.0f} times the mean; {largest[1]:.1f} here"
)

# %% [markdown] covers="I4"
# It is not an approximation at all: it is another attention, and a nearly even one. A model can be
# *trained* with it and learn to live with that. What cannot be done is to swap it in. **Exercise
# 07.2** asks for it, with its memory graded; **07.V9** for the distance.
#
# ## Causal: a recurrence
#
# Now no query may look ahead. The sum over all keys becomes a running sum:
#
# $$
# S_i = S_{i-1} + \phi(k_i)\, [v_i, 1]^\top \in \mathbb R^{m \times (D_v + 1)},
# \qquad [\text{out}_i \cdot t_i,\; t_i] = \phi(q_i)^\top S_i
# $$
#
# A network that reads token after token and keeps one state: a recurrent neural network.

# %%
q, k, v = (array[0, 0] for array in random_qkv(24, width=16))
state, outs, states = None, [], []
for i in range(24):
    out, state = linear.step(state, q[i : i + 1], k[i : i + 1], v[i : i + 1])
    outs.append(out)
    states.append(state)


# %%
parallel = linear.weights(q, k, causal=True) @ v
np.testing.assert_allclose(np.concatenate(outs), parallel, atol=1e-5)
print("24 steps with a state of", state.shape, "give the rows of the causal 24 × 24 matrix")

# %% [markdown]
# Step through the text. The state never grows; every token is added on top of all the others, and
# nothing is ever taken out. Watch the last column, the normaliser: it only rises.

# %%
live_state = plots.LiveHeatmap(
    states[0], x="column of [v, 1]", y="feature", label="sum so far", low=-15, high=30
)


# %%
def draw_state(token):
    live_state.update(states[token], f"the state after token {token}")
    rise = states[token][:, -1].mean() / (token + 1)
    return f"After token {token}: 16 × 17 numbers; the last column rises by {rise:.1f} a token."


# %%
widgets.explore(draw_state, live_state.figure, token=(0, 23, 1, 5))

# %% [markdown]
# Generation likes this: softmax attention must keep every key and value, a cache that grows. After
# how many tokens is the cache the larger of the two?

# %%
width = 64
state_numbers = width * (width + 1)
crossing = next(n for n in range(1, 999) if 2 * n * width > state_numbers)
print(f"one head of {width}: state {state_numbers} numbers, cache {2 * width} a token")
print(f"the cache is larger from {crossing} tokens on")

# %% [markdown] covers="I4 I5"
# ## As a scan
#
# Step by step is no way to fill a GPU. But a running sum is a *scan*, and addition is associative.
# So tokens may add up in pairs, then pairs of pairs. After $s$ rounds each state holds the last
# $2^s$ tokens. How many rounds for 32 tokens?

# %%
live_scan = plots.LiveHeatmap(
    np.eye(32, dtype=bool), x="token j", y="state i", words=("not yet", "in the state")
)


# %%
def draw_scan(rounds):
    holds = np.eye(32, dtype=int)
    for step in range(rounds):
        holds[2**step :] += holds[: -(2**step)].copy()  # each state takes in one further back
    assert holds.max() == 1
    live_scan.update(holds > 0, f"after round {rounds}")
    done = (holds.sum(axis=1) == np.arange(1, 33)).sum()
    return f"After round {rounds}, {done} of 32 states are complete; none counts a token twice."


# %%
widgets.explore(draw_scan, live_scan.figure, rounds=(0, 5, 1, 2))

# %% [markdown]
# Few rounds, but all states exist at once: $n \cdot m \cdot (D_v + 1)$ numbers. That can be more
# than the matrix that was to be avoided. Predict which of the three holds least at 1024 tokens.


# %%
def by_cumsum(q, k, v):
    phi_q, phi_k = linear.elu_plus_one(q), linear.elu_plus_one(k)
    states = np.cumsum(phi_k[:, :, None] * linear.with_ones(v, v.dtype)[:, None, :], axis=0)
    seen = np.matmul(phi_q[:, None, :], states)[:, 0]
    return seen[:, :-1] / seen[:, -1:]


# %%
def by_matrix(q, k, v):
    return linear.weights(q, k, causal=True) @ v


# %%
q, k, v = (array[0, 0] for array in random_qkv(1024))
ways = {"all states": by_cumsum, "all weights": by_matrix, "chunks": linear.attention}
for name, way in ways.items():
    knobs = {"causal": True} if way is linear.attention else {}
    np.testing.assert_allclose(way(q, k, v, **knobs), by_matrix(q, k, v), atol=1e-4)
    held = measure.peak_bytes(way, q, k, v, **knobs) / 2**20
    print(f"{name:<12} {held:5.1f} MiB held")

# %% [markdown] covers="I4 I5"
# ## In chunks
#
# The third way is the one that is used. Cut the text into chunks. Earlier chunks have become a
# state; inside its own chunk a query needs a small triangle of scores:
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
np.testing.assert_allclose(seen[:, :-1] / seen[:, -1:], by_matrix(q, k, v)[rows], atol=1e-4)
print("64 rows from a state", before.shape, "and a triangle", own.shape)

# %% [markdown]
# Chunks of one token are the recurrence. One chunk is the whole matrix. Slide from one to the
# other: what grows, what shrinks?

# %%
words = ("not seen", "through the state", "scores of its own chunk")
live_chunks = plots.LiveHeatmap(np.zeros((128, 128)), title=" ", words=words)


# %%
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

# %% [markdown] covers="I5"
# **Exercise 07.3** leaves the chunks to you, and grades their memory. `reference/linear.py` is the
# same loop; read it afterwards.
#
# ## Prediction beside measurement
#
# What `cost` predicts, what is measured. Softmax attention holds $n^2$ scores. The others hold
# their output and one state.

# %%
lengths = [512, 1024, 2048, 4096]
inputs = {n: random_qkv(n, heads=2) for n in lengths}
calls = {
    "softmax": (full, {}),
    "elu + 1": (linear, {"causal": True}),
    "performer, 128": (performer, {"n_features": 128}),
}


# %%
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

# %%
often = {"repeats": 50, "at_least": 3, "at_most": 0.2}  # short calls more often than long ones
timings = {
    name: [measure.seconds(module.attention, *inputs[n], **often, **knobs) for n in lengths]
    for name, (module, knobs) in measure.progress(calls.items(), "timing", expect_seconds=3)
}


# %%
rate = full.cost(1, 2, 2048, 2048, 64).flops / timings["softmax"][2].median
expected = {
    name: [module.cost(1, 2, n, n, 64, **knobs).flops / rate for n in lengths]
    for name, (module, knobs) in calls.items()
}

# %%
axes = plots.growth(lengths, timings, expected, unit="s", title="time")
plots.show(axes, "Seconds over n, measured and as the operation count predicts.")

# %% [markdown] covers="I7 I8 R4 Y3"
# The dashed lines scale one measured point by FLOPs. What is linear lies above its line where
# products are small and loops are many.
#
# ## The softmax after all: features from dice
#
# Draw $w$ from a normal distribution in $D$ dimensions. Then $w \cdot z$ is normal with variance
# $|z|^2$, and so $\mathbb E\, e^{w \cdot z} = e^{|z|^2/2}$. Put $z = q + k$ and sort the terms:
#
# $$
# e^{q \cdot k} = \mathbb E_w\!\left[\, e^{w \cdot q - |q|^2/2} \cdot
#                                       e^{w \cdot k - |k|^2/2} \,\right]
# $$
#
# A product of a number of $q$ and a number of $k$. With $m$ draws: $\phi(x) = e^{Wx - |x|^2/2} /
# \sqrt m$.

# %%
generator = np.random.default_rng(0)
q_one, k_one = np.array([0.6, -0.3, 0.4]), np.array([0.5, 0.2, -0.7])
for m in (100, 10_000, 1_000_000):
    w = generator.standard_normal((m, 3))
    products = np.exp(w @ q_one - q_one @ q_one / 2) * np.exp(w @ k_one - k_one @ k_one / 2)
    print(f"{m:>9,} draws: {products.mean():.2f}, and exp(q·k) is {np.exp(q_one @ k_one):.2f}")

# %% [markdown]
# These are the *positive features* of the Performer (FAVOR+). Softmax wants $q \cdot k / \sqrt D$,
# so $q$ and $k$ each come divided by $D^{1/4}$. The module's `feature_map` does just this:

# %%
q, k, v = (array[0, 0] for array in random_qkv(8, width=16))
w = performer.draw_features(32, 16, orthogonal=False)
small = q / 16**0.25
phi = np.exp(small @ w.T - np.square(small).sum(axis=1, keepdims=True) / 2) / np.sqrt(32)
np.testing.assert_allclose(performer.feature_map(q, w), phi, rtol=1e-4)
print("32 positive features a token, the smallest above zero:", bool(phi.min() > 0))

# %% [markdown]
# There is an older way, from the same average with an imaginary $z = \mathrm i (q - k)$: sines and
# cosines. $e^{q \cdot k} = e^{|q|^2/2}\, e^{|k|^2/2}\; \mathbb E \cos\big(w \cdot (q - k)\big)$.
# It is right on average, too. Two texts say that the Performer uses it. Why did its authors not?

# %% [markdown]
# Look at the spread of one estimate, its variance over the squared value:
#
# $$
# \text{positive: } \frac{e^{|q+k|^2} - 1}{m} , \qquad
# \text{trigonometric: } \frac{e^{|q-k|^2} \big(1 - e^{-|q-k|^2}\big)^2}{2m}
# $$
#
# Turn $k$ away from $q$, at a given length of both. Where is each of them large?

# %%
angles = np.linspace(2, 178, 45)


# %%
def predicted_errors(length, m):
    """Typical error over exact value, for q and k of one length at each angle."""
    cosines = np.cos(np.radians(angles))
    plus, minus = 2 * length**2 * (1 + cosines), 2 * length**2 * (1 - cosines)
    positive = np.sqrt(np.expm1(plus) / m)
    waves = np.exp(minus / 2) * -np.expm1(-minus) / np.sqrt(2 * m)
    return {"positive": positive, "trigonometric": waves}


# %%
def measured_error(features, length, m):
    radians = np.radians(angles)[:, None]
    q_one = length * np.eye(8)[:1]
    k_one = length * (np.cos(radians) * np.eye(8)[0] + np.sin(radians) * np.eye(8)[1])
    exact, squares = np.exp(k_one @ q_one[0]), []
    for seed in range(200):
        w = performer.draw_features(m, 8, orthogonal=False, seed=seed)
        a, b = (performer.feature_map(x, w, features=features, scale=1) for x in (q_one, k_one))
        squares.append((b @ a[0] / exact - 1) ** 2)
    return np.sqrt(np.mean(squares, axis=0))


# %%
for features, expected in predicted_errors(0.7, 64).items():
    ratio = measured_error(features, 0.7, 64) / expected
    print(f"{features:<14} measured over predicted: {ratio.min():.1f} to {ratio.max():.1f}")

# %%
live_angle = plots.LiveErrors(
    angles,
    predicted_errors(1, 256),
    1,
    words=("no estimate: the error exceeds the value", "an estimate"),
    x_label="angle between q and k, degrees",
    y_label="typical error / exact value",
    low=1e-3,
    high=1e6,
    log_x=False,
)


# %%
def draw_angle(length, m):
    expected = predicted_errors(length, m)
    live_angle.update(expected, 1)
    across = {name: values[22] for name, values in expected.items()}
    return (
        f"|q| = |k| = {length}, m = {m}: at a right angle the error is "
        f"{across['positive']:.2g} of the value, trigonometric {across['trigonometric']:.2g}."
    )


# %%
counts = widgets.choice([16, 64, 256, 1024], 256)
widgets.explore(draw_angle, live_angle.figure, length=(0.25, 3.0, 0.25, 1.0), m=counts)

# %% [markdown]
# Each is bad at one end. Positive features misjudge the few large weights, by a factor; sines and
# cosines misjudge the many small ones, by more than their size, and so below zero. A normaliser
# adds up all small ones. In numbers, for 512 tokens and 256 directions:

# %%
scales = {"a quarter": 0.25, "half": 0.5, "unit": 1.0}
waves, negative = {}, {}
for name, scale in scales.items():
    q, k, v = (array * np.float32(scale) for array in random_qkv(512))
    knobs = {"features": "trigonometric", "seed": 1, "orthogonal": False}
    out, exact = performer.attention(q, k, v, n_features=256, **knobs), full.attention(q, k, v)
    waves[name] = np.square(out - exact).mean() / np.square(exact).mean()
    w = performer.draw_features(256, 64, orthogonal=False, seed=1)
    phi_q, phi_k = (performer.feature_map(x, w, features="trigonometric")[0, 0] for x in (q, k))
    negative[name] = (phi_q @ phi_k.sum(axis=0) <= 0).mean()
    error = f"{waves[name]:.1g}" if waves[name] < 10 else "more than 10"
    print(f"{name:>9} scale: error / output {error:>12}; normalisers below 0: {negative[name]:.1f}")

# %%
why = "right on average, and used before; the Performer's own features are positive"
found = "error over 10 times the output at unit scale, and normalisers below 0"
assert waves["unit"] > 10 and negative["unit"] > 0.1
claims.check("C016", found, why)
claims.check("C086", found, why)

# %% [markdown] covers="I10 R5"
# Look at the first line of that table again, too: for short vectors sines and cosines are fine. No
# feature map is best everywhere.
#
# **Exercise 07.4** asks for positive features.
#
# ## Directions at right angles
#
# Independent directions crowd here and leave gaps there. The Performer draws them *orthogonal*:
# $D$ at a time at right angles, each with the length that a normal vector would have. Each alone
# is still normal, so the average is still right.

# %%
figure, (left, right) = plots.figure(1, 2, height=3.8)
for axes, orthogonal, title in ((left, False, "independent"), (right, True, "orthogonal")):
    w = performer.draw_features(32, 32, orthogonal=orthogonal)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    words = {"x": "direction", "y": "direction", "label": "|cosine|", "low": 0, "high": 1}
    plots.heatmap(np.abs(w @ w.T), axes, title=title, **words)
plots.show(figure, "32 directions with each other: orthogonal ones have cosine 0, others do not.")

# %% [markdown]
# They are also *well-conditioned*. A projection that hardly sees some directions of its input
# loses what lies there. The *condition number* is the largest stretch over the smallest:

# %%
for name, orthogonal in (("independent", False), ("orthogonal", True)):
    w = performer.draw_features(64, 64, orthogonal=orthogonal)
    print(f"{name:<12} condition number {np.linalg.cond(w.astype(float)):6.1f}")

# %% [markdown] covers="I9 I12 I16 V3"
# Is the gain worth it? Chapter E says that 256 orthogonal features do what 512 others do. We come
# to that with everything else that it prints about the Performer's error.
#
# ## An error table
#
# Chapter E gives code for a Performer, and a table: the mean squared error (MSE) against softmax
# attention falls from 0.0234 at 32 features to 0.0001 at 1024, for 512 random tokens. Here is that
# feature map, $\phi(x) = e^{xW} / \sqrt m$ with $W$ divided by $\sqrt D$, as printed. What will
# come out?

# %%
COUNTS, SEEDS = [32, 64, 128, 256, 512, 1024], 10


def mean_square(array):
    return np.square(array).mean()


# %%
def cosine(a, b):
    return (a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum())


# %%
errors, cosines, own, power, baseline = [], [], [], [], []
for seed in range(SEEDS):
    q, k, v = random_qkv(512, seed=seed)
    exact, limit = full.attention(q, k, v), printed_features.limit(q, k, v)
    outs = [printed_features.attention(q, k, v, n_features=m, seed=seed) for m in COUNTS]
    errors.append([mean_square(out - exact) for out in outs])
    own.append([mean_square(out - limit) for out in outs])
    cosines.append([cosine(out, exact) for out in outs])
    power.append(mean_square(exact))
    flat = np.broadcast_to(v.mean(axis=-2, keepdims=True), exact.shape)
    baseline.append([mean_square(flat - exact), cosine(flat, exact)])

# %%
printed_errors = [0.0234, 0.0089, 0.0034, 0.0012, 0.0004, 0.0001]
for m, said, mse, cos in zip(
    COUNTS, printed_errors, np.mean(errors, 0), np.mean(cosines, 0), strict=True
):
    print(f"m = {m:>4}: MSE printed {said:.4f}, found {mse:.4f}; cosine found {cos:.2f}")


# %%
mse, cos = np.mean(baseline, 0)
print(f"the mean of V, for every query: MSE {mse:.4f}; cosine {cos:.2f}")

# %% [markdown]
# More features change almost nothing. And look at the last line: it is the answer of someone who
# never read the query. The method is barely better. A cosine of two thirds sounds like much; the
# mean of $V$ has six tenths. **Always print what ignoring the query would score.**

# %%
why = f"the same at every m; the mean of V has {mse:.4f}"
ids = ("C416", "C418", "C420", "C422", "C424", "C426")
for claim, mean, spread in zip(ids, np.mean(errors, 0), np.std(errors, 0), strict=True):
    claims.check(claim, f"{mean:.5f} ± {spread:.5f} over {SEEDS} seeds", why)

# %%
why = f"the same at every m; the mean of V has {cos:.2f}"
ids = ("C417", "C419", "C421", "C423", "C425", "C427")
for claim, mean in zip(ids, np.mean(cosines, 0), strict=True):
    claims.check(claim, f"{mean:.2f} over {SEEDS} seeds", why)

# %% [markdown]
# One seed for data *and* projection, 42: the projection is made of the very numbers of $Q$.
# Printed as $D \times m$, they stand in another order, and no harm is done. Drawn as $m \times D$,
# each direction *is* a query. Guess: does that make the error larger or smaller?

# %%
q, k, v = random_qkv(512, seed=42)
exact, same = full.attention(q, k, v), np.random.default_rng(42)
numbers = same.standard_normal(64 * 256).astype(np.float32) / np.float32(8)
np.testing.assert_allclose(numbers.reshape(256, 64) * 8, q[0, 0, :256], rtol=1e-5)


# %%
projections = {
    "other numbers": printed_features.draw_features(256, 64, seed=42).astype(np.float32),
    "the same, D × m": numbers.reshape(64, 256).T,
    "the same, m × D": numbers.reshape(256, 64),
}
shared = {}
for name, w in projections.items():
    out = linear.attention(q, k, v, feature_map=lambda x, w=w: printed_features.feature_map(x, w))
    shared[name] = f"{mean_square(out - exact):.4f}"
    print(f"{name:<16} MSE {shared[name]}")

# %% [markdown]
# Half the error, for a bad reason: a direction that equals a query makes that query's own feature
# huge. It would not happen to new queries. Leaks of this kind look like good results.

# %%
claims.check("C415", f"MSE {shared['the same, D × m']} as printed, {shared['other numbers']} else")

# %% [markdown] covers="I16"
# ## The table betrays itself
#
# You need no code to doubt it. If an error is independent of the output, cosine and MSE are tied
# by the *power* $P$ of the output, its mean square: $\cos^2 = P / (P + \text{MSE})$. So each
# printed pair implies a $P$. Choose a row: which output would fit?

# %%
printed_cosines = [0.9123, 0.9567, 0.9812, 0.9934, 0.9978, 0.9995]
implied = [
    printed_features.implied_power(*pair)
    for pair in zip(printed_errors, printed_cosines, strict=True)
]


# %%
bar_names = ("implied", "real outputs", "printed MSE")
live_power = plots.LiveBars(dict.fromkeys(bar_names, 1), high=0.12)


# %%
def draw_row(m):
    row = COUNTS.index(m)
    values = (implied[row], np.mean(power), printed_errors[row])
    values = [round(float(value), 4) for value in values]
    live_power.update(dict(zip(bar_names, values, strict=True)))
    return f"m = {m}: the pair implies {implied[row] / np.mean(power):.0f} times the real power."


# %%
widgets.explore(draw_row, live_power.figure, m=COUNTS)

# %%
claims.check(
    "C428",
    f"implied {min(implied):.3f} to {max(implied):.3f}, real {np.mean(power):.4f}; the first MSE "
    f"is {printed_errors[0] / np.mean(power):.1f} times the whole output",
)

# %% [markdown] covers="I9"
# ## What the printed map computes
#
# Work out its average as above: $\mathbb E\, \phi(q) \cdot \phi(k) = e^{|q+k|^2/2D}$. The scores
# become $q \cdot k / D + |k|^2 / 2D$: eight times too flat at $D = 64$, and with a bonus for long
# keys. It does converge, to another attention:

# %%
for name, values in (("against softmax", errors), ("against its own limit", own)):
    slope = np.polyfit(np.log(COUNTS), np.log(np.mean(values, 0)), 1)[0]
    print(f"MSE {name:<22} falls as m^{slope:+.2f}")

# %%
slope = np.polyfit(np.log(COUNTS), np.log(np.mean(errors, 0)), 1)[0]
claims.check("C414", f"MSE against softmax falls as m^{slope:+.2f}: it does not converge")

# %% [markdown]
# Three repairs: $x / D^{1/4}$; $W$ not divided; the factor $e^{-|x|^2/2}$. The averages are known,
# so no dice are needed: here is the attention that each repair leads to, and the share of it that
# lies on other keys than softmax's. Does every repair help?

# %%
q, k, v = (array[0, 0] for array in random_qkv(512))
wanted, squares = full.weights(q, k), np.square(k).sum(axis=1)
limits = {  # factor of q·k, factor of |k|²
    "as printed": (1 / 64, 1 / 128),
    "x / D^¼": (1 / 512, 1 / 1024),
    "and W not divided": (1 / 8, 1 / 16),
    "and exp(-|x|²/2)": (1 / 8, 0),
}


# %%
for name, (scale, bonus) in limits.items():
    reached = full.weights(q, k, scale=scale, bias=bonus * squares)
    elsewhere = np.abs(reached - wanted).sum(axis=1).mean() / 2
    print(f"{name:<18} q·k · {scale:.4f} + |k|² · {bonus:.4f}: {elsewhere:.0%} lies elsewhere")

# %% [markdown] covers="I9 I10-I13 I16 V3"
# Only all three together lead to softmax, and the first alone leads further away. A repair that
# makes an error larger need not be wrong.
#
# ## The picture of this chapter
#
# Now all maps in one picture: printed, and right with independent or orthogonal directions. The
# error is divided by the output's power. The dashed line is the answer that ignores the query, the
# mean of $V$. A band reaches from the best of ten seeds to the worst, a line is their mean; chapter
# E's own table stands with the data that it was made for.


# %%
def random_tokens(seed):
    return random_qkv(512, seed=seed)


# %%
def topics(seed):
    """Each token belongs to one of eight topics; a query looks for the keys of its own."""
    generator = np.random.default_rng(seed)
    topic, meaning = generator.standard_normal((2, 8, 64)).astype(np.float32)
    asks, answers = generator.integers(8, size=(2, 512))
    return tuple(a[None, None] for a in (topic[asks], topic[answers], meaning[answers]))


# %% [markdown]
# Two kinds of data: random tokens, as chapter E uses, and tokens of eight topics, where a query
# has something to find. Predict: for which of them, and for which size of the inputs, does the
# Performer beat the dashed line?


# %%
def independent(q, k, v, **knobs):
    return performer.attention(q, k, v, orthogonal=False, **knobs)


# %%
MAPS = {
    "printed map": printed_features.attention,
    "positive, independent": independent,
    "positive, orthogonal": performer.attention,
}
DATA = {"random tokens": random_tokens, "eight topics": topics}
SCALES = {"1/4": 0.25, "1/2": 0.5, "1": 1.0}


# %%
def relative_errors(make, scale):
    """Error over power for each map, (seeds, counts), and that of the mean of V."""
    found, flat = {name: np.empty((SEEDS, len(COUNTS))) for name in MAPS}, []
    for seed in range(SEEDS):
        q, k, v = make(seed)
        q, k = q * np.float32(scale), k * np.float32(scale)
        exact = full.attention(q, k, v)
        flat.append(mean_square(v.mean(axis=-2, keepdims=True) - exact) / mean_square(exact))
        for name, attend in MAPS.items():
            for at, m in enumerate(COUNTS):
                out = attend(q, k, v, n_features=m, seed=seed)
                found[name][seed, at] = mean_square(out - exact) / mean_square(exact)
    return found, np.mean(flat)


# %%
settings = [(data, inputs) for data in DATA for inputs in SCALES]
results = {}
for data, inputs in measure.progress(settings, "1080 attentions", expect_seconds=10):
    results[data, inputs] = relative_errors(DATA[data], SCALES[inputs])


# %%
TABLE = "chapter E's table"
for setting, (found, _) in results.items():
    found[TABLE] = np.full((1, len(COUNTS)), np.nan)
    if setting == ("random tokens", "1"):
        found[TABLE] = np.array([printed_errors]) / np.mean(power)


# %%
def slopes(found):
    return {
        name: np.polyfit(np.log(COUNTS), np.log(values.mean(axis=0)), 1)[0]
        for name, values in found.items()
        if np.isfinite(values).all()
    }


# %%
def first_better(values, bar):
    below = [m for m, error in zip(COUNTS, values.mean(axis=0), strict=True) if error < bar]
    return f"better from m = {below[0]} on" if below else "worse at every m"


# %%
live_errors = plots.LiveErrors(
    COUNTS,
    *results["random tokens", "1"],
    words=("worse than the mean of V, which ignores the query", "better"),
    x_label="features m",
    y_label="squared error / squared output",
    low=3e-4,
    high=60,
    title=" ",
)


# %%
def draw_errors(data, inputs):
    found, bar = results[data, inputs]
    notes = {name: f"$m^{{{slope:.2f}}}$" for name, slope in slopes(found).items()}
    live_errors.update(found, bar, f"{data}, inputs × {inputs}", notes)
    said = f"orthogonal features are {first_better(found['positive, orthogonal'], bar)}"
    return f"{data}, inputs × {inputs}: the error of the mean of V is {bar:.2g}; {said}."


# %%
sizes = widgets.choice(list(SCALES), "1")
widgets.explore(draw_errors, live_errors.figure, data=list(DATA), inputs=sizes)

# %% [markdown]
# Take your time with this one. On random tokens of full size the *right* features are far worse
# than ignoring the query, and more of them hardly help. With inputs a quarter as long the error
# falls as it should. Yet it passes the dashed line late: there the mean of $V$ is nearly right
# anyway.
#
# With topics all changes: the same features beat the line by far.

# %%
for data in DATA:
    for inputs in ("1/4", "1/2", "1"):
        found, bar = results[data, inputs]
        right = found["positive, independent"].mean(axis=0)[COUNTS.index(256)]
        print(f"{data:<14} × {inputs:<3}  m = 256: {right:<8.2g} mean of V: {bar:.2g}")

# %%
found, bar = results["random tokens", "1/4"]
at_256 = found["positive, independent"].mean(axis=0)[COUNTS.index(256)]
claims.check(
    "C436",
    f"cosine {np.mean(cosines, 0)[COUNTS.index(256)]:.0%} with the printed map",
    f"with right features and inputs × 1/4 it is {1 / np.sqrt(1 + at_256):.1%}, but then the mean "
    f"of V has {1 / np.sqrt(1 + bar):.1%}",
)

# %% [markdown] covers="I10 I13"
# ## Rates
#
# An average of $m$ draws has a squared error that falls as $1/m$; its root falls as $1/\sqrt m$.
# The text promises $1/\sqrt m$, its table of *squared* errors falls much faster, and a map with a
# wrong limit does not fall at all. Which slope does each have?

# %%
fitted = {inputs: slopes(results["random tokens", inputs][0]) for inputs in ("1/4", "1/2", "1")}
for inputs, of in fitted.items():
    print(f"inputs × {inputs:<3}", *(f"  {name} {slope:+.1f}" for name, slope in of.items()))


# %%
right = {inputs: of["positive, independent"] for inputs, of in fitted.items()}
claims.check(
    "C437",
    f"the table {fitted['1'][TABLE]:+.2f}; its map {fitted['1']['printed map']:+.2f}; right "
    f"features {right['1/4']:+.1f} with inputs × 1/4, and at full size {right['1']:+.1f}",
)

# %% [markdown]
# Why so slow at full size? Remember the variance, $(e^{|q+k|^2} - 1) / m$. Such an average is
# carried by rare, huge draws, and 1024 draws have not met them yet. *Right on average* is a
# promise about infinitely many.
#
# And orthogonal directions? The claim: 256 of them are worth 512 others.

# %%
found = {}
for inputs in ("1/4", "1/2", "1"):
    errors_at = results["random tokens", inputs][0]
    other = errors_at["positive, independent"].mean(axis=0)
    orthogonal = errors_at["positive, orthogonal"].mean(axis=0)[COUNTS.index(256)]
    found[inputs] = orthogonal / other[COUNTS.index(512)]
    gain = other[COUNTS.index(256)] / orthogonal
    print(f"inputs × {inputs:<3} gain at m = 256: {gain:.1f}; the claim needs 2.0")


# %%
ratios = ", ".join(f"{ratio:.1f} (× {inputs})" for inputs, ratio in found.items())
claims.check("C254", f"error of 256 orthogonal over that of 512 independent: {ratios}")

# %% [markdown] covers="I14 W8"
# ## How many features?
#
# Chapter E recommends $m = O(\sqrt n)$. Nothing in that variance speaks of $n$. Guess: four times
# the tokens, the same features. What happens to the error?

# %%
for n in (128, 512, 2048):
    errors_at_n = []
    for seed in range(6):
        q, k, v = (array * np.float32(0.25) for array in random_qkv(n, seed=seed))
        exact = full.attention(q, k, v)
        out = performer.attention(q, k, v, n_features=64, seed=seed)
        errors_at_n.append(mean_square(out - exact) / mean_square(exact))
    print(f"n = {n:>4}, m = 64: error / output {np.mean(errors_at_n):.3f}")


# %%
claims.check("C438", "the same error at every n: m follows |q + k|², not n")

# %%
norms = np.linspace(0.25, 3, 45)
live_needed = plots.LiveErrors(
    norms,
    {"features needed": np.ones(45)},
    4096,
    words=("more than 4096 features", "fewer"),
    x_label="length of q and k after division by D^¼",
    y_label="features m",
    low=1,
    high=1e9,
    log_x=False,
)


# %%
def draw_needed(error, angle):
    squares = 2 * norms**2 * (1 + np.cos(np.radians(angle)))  # |q + k|²
    needed = np.maximum(np.expm1(squares) / (error / 100) ** 2, 1)
    live_needed.update({"features needed": needed}, 4096)
    at = np.interp(2.0, norms, np.log10(needed))
    return f"{error} % error, {angle}° apart: vectors of length 2 need about 10^{at:.1f} features."


# %%
widgets.explore(draw_needed, live_needed.figure, error=(5, 100, 5, 30), angle=(0, 180, 10, 90))

# %% [markdown] covers="I11"
# Random tokens of width 64 have a length of about 8; divided by $64^{1/4}$ it is the right end of
# this picture. For one such pair no usable number of features is enough.
#
# ## Unbiased kernel, biased attention
#
# "An unbiased approximation of attention", says chapter E twice. The estimate of $e^{q \cdot k}$
# is unbiased. But attention is a quotient of two estimates. Average 2000 draws: does the error
# vanish?


# %%
q, k, v = (array[0, 0] for array in random_qkv(64, width=16))
exact, kernel = full.attention(q, k, v), np.exp(q @ k.T / 4)


# %%
def many_draws(m, draws):
    """Return the mean kernel, the mean output, and the variance of one output."""
    kernels, outs, squares = 0, 0, 0
    for seed in range(draws):
        w = performer.draw_features(m, 16, orthogonal=False, seed=seed)
        estimate = performer.feature_map(q, w) @ performer.feature_map(k, w).T
        out = estimate @ v / estimate.sum(axis=1, keepdims=True)
        kernels, outs, squares = kernels + estimate, outs + out, squares + np.square(out)
    mean = outs / draws
    return kernels / draws, mean, (squares / draws - mean**2).mean()


# %%
DRAWS, shares = 2000, []
for m in measure.progress((16, 64, 256), "6000 draws", expect_seconds=3):
    mean_kernel, mean_out, variance = many_draws(m, DRAWS)
    bias = mean_square(mean_out - exact)
    ratio = np.median(mean_kernel / kernel)
    shares.append(f"{bias:.3f} at m = {m}")
    assert bias > 20 * variance / DRAWS  # what chance alone would leave
    print(
        f"m = {m:>3}: kernel, estimate over exact {ratio:.1f}; attention, squared bias {bias:.3f}"
    )

# %%
why = "the kernel is unbiased; the quotient is not, and its bias is no chance"
claims.check("C252", "squared bias " + ", ".join(shares), why)
claims.check("C439", "squared bias " + ", ".join(shares), why)

# %% [markdown] covers="I17 R3"
# More draws do not remove the bias; more features do. It is a small part of the error, and the
# part that an average over seeds would hide.
#
# ## Large exponents
#
# Exponentials of long vectors leave the range of numbers. In which direction? A query's features
# are $e^{w \cdot q - |q|^2/2}$; the cosine ones have $e^{+|q|^2/2}$.

# %%
directions = performer.draw_features(64, 64)
for factor in (1, 3, 6):
    q = factor * random_qkv(64)[0][0, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        phi = performer.feature_map(q, directions)
        waves = performer.feature_map(q, directions, features="trigonometric")
    gone = (phi.sum(axis=1) == 0).mean()
    wild = (~np.isfinite(waves)).any(axis=1).mean()
    print(
        f"inputs × {factor}: all features 0 in {gone:.1f} of the queries, cosines inf in {wild:.1f}"
    )

# %% [markdown]
# All zero means 0 / 0. The cure is softmax's own: subtract a maximum before the exponential. But
# not any. A factor that all features of *one query* share cancels in the quotient. Keys must share
# *one* factor among all of them: a factor for each key would change their weights. **Exercise
# 07.6** hides that bug.

# %%
q, k, v = (6 * array for array in random_qkv(256))
out = performer.attention(q, k, v, n_features=64)
small = performer.attention(q / 6, k / 6, v, n_features=64, scale=36 / 8)
np.testing.assert_allclose(out, small, atol=1e-2)
print("finite everywhere:", bool(np.isfinite(out).all()))

# %% [markdown] covers="I15"
# A causal scan cannot look at later keys. So the reference keeps the largest exponent *so far*,
# and lets its state fade when that grows, as flash attention does with its running maximum.
#
# ## Where it fails: copying
#
# A query that wants exactly one key, such as the previous token: attention must be a spike. Keys
# are random, and each query is its own key times a sharpness. How much weight does the right key
# get?

# %%
_, keys, _ = (array[0, 0] for array in random_qkv(512))
one_hot = np.eye(512, dtype=np.float32)  # value j says "j", so outputs are weights
sharpness = np.arange(0, 4.01, 0.25)
weight_on = {name: [] for name in ("softmax", "performer, 256", "elu + 1")}


# %%
for sharp in sharpness.astype(np.float32):
    asked = sharp * keys
    outs = (
        full.weights(asked, keys),
        performer.attention(asked, keys, one_hot, n_features=256),
        linear.weights(asked, keys),
    )
    for name, out in zip(weight_on, outs, strict=True):
        weight_on[name].append(np.diag(out).mean())

# %%
words = {"x_label": "sharpness of the query", "y_label": "weight on the right key"}
axes = plots.curves(sharpness, weight_on, **words, high=1)
ends = ", ".join(f"{name} at {values[-1]:.1%}" for name, values in weight_on.items())
plots.show(axes, f"The sharpest queries put on the right key: {ends}.")

# %%
at_3 = {name: values[list(sharpness).index(3)] for name, values in weight_on.items()}
claims.check(
    "C176",
    f"at sharpness 3 softmax puts {at_3['softmax']:.2%} on the right key, 256 positive features "
    f"{at_3['performer, 256']:.0%}, elu + 1 {at_3['elu + 1']:.1%}",
)

# %% [markdown] covers="I5 I15 W8"
# ## Where it fails: remembering
#
# A state of $m \times D_v$ numbers must hold all facts at once. Store $N$ pairs of random key and
# random value; ask for each by its key; take the nearest value as the answer. Where do the curves
# leave 1? Look for $m$ and for $D_v = 64$.

# %%
FACTS = [4, 8, 16, 32, 64, 128, 256, 512]


# %%
def recall(n_facts, sharpness, m):
    """Share of facts that are found by softmax, by m random features, and by elu + 1."""
    keys, values = np.random.default_rng(n_facts).standard_normal((2, n_facts, 64))
    keys, values = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (keys, values))
    q = np.sqrt(sharpness) * keys
    outs = (
        full.attention(q, q, values, scale=1),
        performer.attention(q, q, values, n_features=m, scale=1),
        linear.attention(q, q, values),
    )
    return [((out @ values.T).argmax(axis=1) == np.arange(n_facts)).mean() for out in outs]


# %%
memory = {
    (m, sharp): np.array([recall(n, sharp, m) for n in FACTS]).T
    for m in (64, 256, 1024)
    for sharp in (2, 4, 8)
}


# %%
curve_names = ("softmax", "random features", "elu + 1")
words = {"x_label": "facts stored", "y_label": "share found", "log_x": True}
live_memory = plots.LiveCurves(FACTS, dict.fromkeys(curve_names, np.ones(8)), **words, high=1)


# %%
def draw_memory(features, sharpness):
    found = memory[features, sharpness]
    live_memory.update(dict(zip(curve_names, found, strict=True)))
    return (
        f"{features} features, sharpness {sharpness}: of 128 facts softmax finds "
        f"{found[0][5]:.0%}, random features {found[1][5]:.0%}, elu + 1 {found[2][5]:.0%}."
    )


# %%
counts = widgets.choice([64, 256, 1024], 256)
widgets.explore(draw_memory, live_memory.figure, features=counts, sharpness=[2, 4, 8])

# %% [markdown] covers="I5 W8"
# These keys are random and φ is untrained: the worst case. But one limit no training lifts. Exact
# copying of $N$ keys needs weights that are the identity, of rank $N$, and $\phi(Q) \phi(K)^\top$
# has rank $m$ at most. Hard decisions, exact copies, rare names, links of syntax ask for such
# weights.
#
# ## What it costs
#
# FLOPs once more, with $m$ features: $\phi(Q)$, $\phi(K)$, and the two products each take $2nmD$.
# Softmax attention has two products of $2n^2D$. So the Performer is cheaper from $n = 2m$ on.
# Chapter E compares *one* of its four products with one of softmax's two.

# %%
n, m = 512, 256
q, k, v = random_qkv(n)
softmax_flops = measure.count_flops(full.attention, q, k, v)
performer_flops = measure.count_flops(performer.attention, q, k, v, n_features=m)
print(f"n = {n}, m = {m}: softmax {softmax_flops:,} FLOPs, Performer {performer_flops:,}")

# %%
ratio = softmax_flops / performer_flops
claims.check("C431")
claims.check("C432", round(ratio, 1))

# %%
n = 4096
ratio = full.cost(1, 1, n, n, 64).flops / performer.cost(1, 1, n, n, 64, n_features=m).flops
claims.check("C435", round(ratio, 1))
claims.check("C256", round(ratio, 1))

# %% [markdown]
# Three printed speedups, and none is right: each compares unlike parts. The counts here include
# the normaliser's column, so that they come out a little below. The printed memory has one feature
# matrix and forgets the other:

# %%
n, m, width = 4096, 256, 768
one, both = n * m + m * width, 2 * n * m + m * width
claims.check("C257", f"{one / 1e6:.3f} M with one feature matrix, {both / 1e6:.2f} M with both")
claims.check("C258", f"{4 * one / 1e6:.2f} MB with one, {4 * both / 1e6:.1f} MB with both")

# %% [markdown]
# Neither is needed: features can be made a chunk at a time, as the reference does. Slide $m$ and
# $n$. Remember what $m$ does to the error before you make it small.

# %%
live_cost = plots.LiveBars({"softmax": 1, "performer": 1, "elu + 1": 1}, unit="GFLOP")


# %%
def draw_cost(n, m):
    flops = {
        "softmax": full.cost(1, 1, n, n, 64).flops,
        "performer": performer.cost(1, 1, n, n, 64, n_features=m).flops,
        "elu + 1": linear.cost(1, 1, n, n, 64).flops,
    }
    live_cost.update({name: number / 1e9 for name, number in flops.items()})
    ratio = flops["softmax"] / flops["performer"]
    return f"n = {n}, m = {m}: the Performer takes {1 / ratio:.2f} of softmax's operations."


# %%
lengths = widgets.choice([2**e for e in range(7, 15)], 4096)
counts = widgets.choice([2**e for e in range(4, 12)], 256)
widgets.explore(draw_cost, live_cost.figure, n=lengths, m=counts)

# %% [markdown]
# Another saving hides in the exponentials: $n^2$ of them for softmax, $2nm$ for the Performer.
# Chapter E calls them negligible. By number they are. But a GPU has few units for them; the ledger
# reckons with 16 a clock, against 1024 multiply-adds:

# %%
share = (1 / 16) / (2 * 64 / 1024)  # clocks for one exponential, over those for its two products
assert share == claims.recompute("C440")
claims.check("C440", f"{1 / (4 * 64):.1%} of the FLOPs with heads of 64, but {share} of their time")

# %% [markdown] covers="I4 I5"
# ## The kernel, tile by tile
#
# Two launches. The first adds up $\phi(k) v^\top$ for each part of the keys. In the second a
# program takes a part of the queries, adds the states before it, and walks on chunk by chunk, its
# state in registers. Triton's interpreter runs it here, in some seconds, and `trace` notes every
# access.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import linear as linear_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(512, width=32)]
    traced = trace.record(linear_kernel.attention, *tensors, causal=True)
    assert not traced.out_of_bounds
    print(traced)
except (ImportError, RuntimeError) as reason:
    traced = None
    print(reason)

# %% [markdown]
# Slide through the programs of the second launch. Coloured are the scores that it makes: chunks on
# the diagonal, and nothing else. All the rest of the triangle comes through the states it loads.

# %% tags=["nbval-ignore-output"]
if traced:
    from IPython.display import display

    tiles = plots.LiveTiles(traced, in_step=True)
    display(widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 2)))

# %% [markdown]
# Bytes once more: what the kernel's `cost` predicts, and what the trace counted.

# %% tags=["nbval-ignore-output"]
if traced:
    kernel_cost = linear_kernel.cost(1, 1, 512, 512, 32, causal=True)
    print("bytes loaded: predicted", kernel_cost.bytes_read, "counted", traced.bytes_loaded())
    print("bytes stored: predicted", kernel_cost.bytes_written, "counted", traced.bytes_stored())
    assert kernel_cost.bytes_read == traced.bytes_loaded()

# %% [markdown]
# And the time on a real GPU? Measured if there is one here, otherwise the latest recorded run.

# %% tags=["nbval-ignore-output"]
bench.show_gpu("linear")

# %% [markdown] covers="I18 I19 X4"
# **Exercise 07.5** leaves the walk of such a kernel to you, and counts its bytes.
#
# ## Where it is used all the same
#
# Feature maps can be *learned*: a small network in place of elu + 1, trained so that its attention
# comes near softmax's, or simply with the model. And some tasks forgive much. A book or a film is
# too long for $n^2$; a summary of it needs no exact copy of word 31.

# %%
claims.check("C089")

# %% [markdown]
# "95–98 % of the accuracy" names no task, no model and no source. What a swapped-in attention
# costs a trained model, chapter 14 measures.

# %% [markdown]
# ## What you take with you
#
# - If a similarity is a dot product of features, the brackets move and the state has a fixed size.
# - Causal: a recurrence, a scan or chunks; three orders of one sum.
# - elu + 1 is another attention, not a softmax.
# - Random features are right on average. What one draw is worth depends on $e^{|q+k|^2}$.
# - Before you believe an error, ask what ignoring the query would score.
#
# Now open `exercises/07_linear.ipynb`. Six exercises, V3 and V9; each is checked and graded, two
# of them by their memory.
