# %% [markdown]
# # 07 · Features from dice: the Performer
#
# [The first part](07_linear.ipynb) gave up the softmax: weights came from features,
# $\phi(q) \cdot \phi(k)$, and a text left a state of fixed size. This part wants both, the state
# *and* the exponential. It is possible, on average. You derive features and error in a few lines
# each, and see what "on average" is worth.
#
# <!-- summary: the softmax's exponential as an average over random draws; positive features against
# sines and cosines, with both variances derived; error against m, and what it hides. -->

# %% role="setup"
import math

import numpy as np

from attncourse import bench, claims, measure, plots, widgets
from attncourse.claims import printed_features
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, performer

# %% [markdown]
# ## Two roads that end early
#
# Wanted: numbers $\phi(q)$ of the query and $\phi(k)$ of the key, with
# $\phi(q) \cdot \phi(k) = e^{q \cdot k}$. First try: the exponential is a sum of powers, and each
# comes apart into products of entries, as the square did.
#
# $$ e^x = 1 + x + \frac{x^2}{2} + \frac{x^3}{6} + \frac{x^4}{24} + \dots $$
#
# Stop after the fourth. With $D$ numbers in a query, $(q \cdot k)^p$ has $D^p$ features.

# %% folded=true
widgets.guess(
    "Heads of 64 numbers, all powers up to the fourth: how many features does each token get?",
    lambda: sum(64**power for power in range(5)),
    unit="features",
    explain="1 + 64 + 64² + 64³ + 64⁴. Those that are equal may share one, which leaves 814,385.",
)


# %%
def powers(x, last):
    return sum(x**power / math.factorial(power) for power in range(last + 1))


for x in (-4, -2, -1, 1, 2, 4):
    print(f"score {x:>2}: sum of powers over exp {powers(x, 4) / math.exp(x):>7.3g}")

# %% [markdown]
# Far too many features, and small weights come out hundreds of times too large. (With one power
# less they would even be negative.)

# %% [markdown]
# Second try: multiply queries and keys by a random matrix that makes them shorter. Their dot
# products survive that, roughly. But the exponential is still to be taken of *each* of them, and
# for that the $n \times n$ matrix must be there. The features have to give the exponential itself.

# %% [markdown] covers="Y3"
# ## An exponential is an average
#
# Draw a number $w$ from a standard normal distribution: its density is the bell curve
# $\frac{1}{\sqrt{2\pi}} e^{-w^2/2}$. What is $e^{wz}$ on average, for a fixed number $z$? Multiply
# and complete the square, $wz - \frac{w^2}{2} = \frac{z^2}{2} - \frac{(w - z)^2}{2}$:
#
# $$
# e^{wz} \cdot \tfrac{1}{\sqrt{2\pi}} e^{-w^2/2}
# \;=\; e^{z^2/2} \cdot \tfrac{1}{\sqrt{2\pi}} e^{-(w-z)^2/2}
# $$

# %% [markdown]
# Summed over all $w$, the left side is the average that we look for. On the right stands another
# bell curve, moved to $z$, and its area is 1 wherever it stands. So the average, written $\mathbb
# E$, is the factor before it:
#
# $$ \mathbb E\, e^{wz} = e^{z^2/2} $$

# %% [markdown]
# With $D$ numbers in $w$ and $z$, $e^{w \cdot z}$ is a product of $D$ such factors, each with its
# own $w_a$. Draws that know nothing of each other: the average of the product is the product of the
# averages, $e^{|z|^2/2}$.

# %%
w = np.linspace(-10, 14, 4801)
bell = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
for z in (0, 1, 2, 3):
    area = (np.exp(w * z) * bell).sum() * (w[1] - w[0])
    print(f"z = {z}: area {area:7.3f}, exp(z²/2) {np.exp(z**2 / 2):7.3f}")

# %% [markdown]
# Now the trick. Put $z = q + k$. Then $|z|^2 = |q|^2 + 2\, q \cdot k + |k|^2$ has the wanted $q
# \cdot k$ in the middle. Bring the squares of $q$ and $k$ to the other side, each to its own:
#
# $$
# e^{q \cdot k} = \mathbb E\Big[\; \underbrace{e^{w \cdot q - |q|^2/2}}_{\text{of } q \text{ alone}}
# \;\cdot\; \underbrace{e^{w \cdot k - |k|^2/2}}_{\text{of } k \text{ alone}} \;\Big]
# $$

# %% [markdown]
# Each draw $w$ gives a token *one* feature. By hand: one query $q = 1$, one key $k = 0.5$, and four
# draws. Wanted is $e^{0.5}$.

# %%
q, k, mean = 1.0, 0.5, 0.0
for m, w in enumerate(stream("one draw", 0).standard_normal(4).round(1), 1):
    of_q, of_k = np.exp(w * q - q**2 / 2), np.exp(w * k - k**2 / 2)
    mean += (of_q * of_k - mean) / m
    print(f"w = {w:4.1f}: {of_q:.2f} · {of_k:.2f} = {of_q * of_k:.2f}   mean of {m}: {mean:.2f}")
print(f"wanted: {np.exp(q * k):.2f}")

# %%
for m in (100, 10_000, 1_000_000):
    w = stream("many draws", 0).standard_normal(m)
    products = np.exp(w * q - q**2 / 2) * np.exp(w * k - k**2 / 2)
    print(f"mean of {m:>9,}: {products.mean():.2f}")

# %% [markdown] covers="I8 Y3"
# ## Positive features
#
# With $m$ draws, as rows of a matrix $W$ of $m \times D$, all draws together are a feature map. The
# mean becomes a dot product if each side takes $1/\sqrt m$:
#
# $$ \phi(x) = \tfrac{1}{\sqrt m}\; e^{Wx - |x|^2/2} \in \mathbb R^m $$
#
# All features are positive, as weights must be. This is the *Performer*, and its features are
# called FAVOR+.

# %% [markdown]
# Softmax attention wants $q \cdot k / \sqrt D$. So $q$ and $k$ come divided by $D^{1/4}$ each. The
# module's [feature_map](../attncourse/reference/performer.py) does just that. With ever more draws
# its attention must collapse to the softmax's:

# %%
q, k, v = (array[0, 0] / 2 for array in random_qkv(40, width=8))
exact = full.attention(q, k, v)
w = performer.draw_features(32, 8, orthogonal=False)
small = q / 8**0.25
phi = np.exp(small @ w.T - np.square(small).sum(axis=1, keepdims=True) / 2) / np.sqrt(32)
np.testing.assert_allclose(performer.feature_map(q, w), phi, rtol=1e-4)
for m in (16, 256, 4096, 65_536):
    off = np.abs(performer.attention(q, k, v, n_features=m) - exact).max()
    print(f"m = {m:>6}: largest difference from softmax {off:.2f}")

# %% [markdown]
# [Exercise 07.4](../exercises/07_linear.ipynb#07.4-Positive-random-features) asks for these
# features.
#
# From here on $q$ and $k$ are already divided by $D^{1/4}$, to keep the formulas short.

# %% [markdown] covers="I7 I11"
# ## Where draws fall
#
# Look once more at the two bell curves. Draws fall under the first. What the average is made of
# lies under the second, $|q + k|$ further to the right. Only the part of $w$ along $q + k$ matters,
# so one axis does for any $D$.

# %% [markdown]
# Slide $|q + k|$ up. When does the last tick lose sight of the dashed hill, and what becomes of the
# estimate?

# %% folded=true
all_draws = stream("ticks", 2).standard_normal(1024)
live_draws = plots.LiveDraws(1.5, all_draws[:64])


def draw_dice(length, draws):
    w = all_draws[:draws]
    live_draws.update(length, w, f"|q + k| = {length}, {draws} draws")
    share = np.exp(w * length - length**2 / 2).mean()
    near = (w > length - 1).sum()
    return (
        f"|q + k| = {length}: {near} of {draws} draws lie right of w = {length - 1:g}, where five "
        f"sixths of the average come from. The estimate is {share:.2f} of the exact value."
    )


# %%
counts = widgets.choice([4, 16, 64, 256, 1024], 64)
widgets.explore(draw_dice, live_draws.figure, length=(0.0, 6.0, 0.25, 1.5), draws=counts)

# %% [markdown]
# That is all there is to the Performer's error. If $q$ and $k$ are long and point the same way, the
# estimate is nearly always far too small. Once in a long while it is huge, which puts the average
# right. And these are the pairs with the *large* weights.

# %% [markdown] covers="I7 I8"
# ## What a draw is worth
#
# How large is the error? The *typical* one is the root of its mean square, here always over the
# exact value. Two vectors of moderate length, before the formula tells:

# %% folded=true
widgets.guess(
    "q and k of length 2 in the same direction, so that q·k = 4: how many features for a typical "
    "error of 10 %?",
    lambda: round(math.expm1(4**2) / 0.1**2),
    unit="features",
    explain="(e¹⁶ − 1) / 0.1². At a right angle |q + k|² is 8, and 298,000 features are enough; "
    "in opposite directions a single one is exact.",
)

# %% [markdown]
# Let $r = e^{w \cdot z - |z|^2/2}$ be one draw's estimate over the exact value, with $z = q + k$.
# Its mean is 1. Its square is $e^{2 w \cdot z - |z|^2}$, and that average we know: the same
# identity, with $2z$ in place of $z$.
#
# $$
# \mathbb E\, r^2 = e^{|2z|^2/2 - |z|^2} = e^{|z|^2}, \qquad
# \operatorname{Var} r = \mathbb E\, r^2 - 1 = e^{|q + k|^2} - 1
# $$

# %% [markdown]
# The mean of $m$ draws has $1/m$ of that variance. So the typical error of the estimate, over its
# exact value, is $\sqrt{(e^{|q+k|^2} - 1) / m}$.

# %% [markdown] covers="I7 R4"
# ## Sines and cosines
#
# There is an older way. The identity also holds for an imaginary $z = \mathrm i u$. The real part
# of $e^{\mathrm i\, w \cdot u}$ is a cosine:
#
# $$ \mathbb E \cos(w \cdot u) = e^{-|u|^2/2} $$
#
# Put $u = q - k$, so that $-|u|^2/2$ holds $+q \cdot k$. The squares now go with a plus sign:
#
# $$ e^{q \cdot k} = e^{|q|^2/2}\; e^{|k|^2/2}\;\; \mathbb E \cos\big(w \cdot (q - k)\big) $$

# %% [markdown]
# And $\cos(a - b) = \cos a \cos b + \sin a \sin b$ comes apart into two features a draw. They are
# called *trigonometric*, or random Fourier features. Their variance comes the same way. With $c =
# \cos(w \cdot u)$ and $c^2 = (1 + \cos(2 w \cdot u))/2$:
#
# $$
# \operatorname{Var} c = \frac{1 + e^{-2|u|^2}}{2} - e^{-|u|^2} = \frac{(1 - e^{-|u|^2})^2}{2}
# $$

# %% [markdown]
# The exact value belonging to $c$ is $e^{-|u|^2/2}$; over its square, the variance is $e^{|u|^2} (1
# - e^{-|u|^2})^2 / 2$. So both errors are known:
#
# $$
# \text{positive: } \frac{e^{|q+k|^2} - 1}{m} , \qquad
# \text{trigonometric: } \frac{e^{|q-k|^2} \big(1 - e^{-|q-k|^2}\big)^2}{2m}
# $$
#
# One looks at $q + k$, the other at $q - k$. The simulation turns $k$ away from $q$, from the same
# direction to the opposite one.

# %%
LENGTH, M = 1.25, 64
angles = np.linspace(4, 176, 22)
cosines = np.cos(np.radians(angles))
plus, minus = 2 * LENGTH**2 * (1 + cosines), 2 * LENGTH**2 * (1 - cosines)  # |q + k|², |q - k|²
formulas = {
    "positive": np.sqrt(np.expm1(plus) / M),
    "trigonometric": np.sqrt(np.exp(minus) * np.expm1(-minus) ** 2 / (2 * M)),
}


# %%
def simulated(seed, repeats=200):
    """Return the typical error of both estimates at each angle, from `repeats` times M draws."""
    w = stream("angles", seed).standard_normal((repeats, M, 2))
    errors = {"positive": [], "trigonometric": []}
    for angle in np.radians(angles):
        q, k = LENGTH * np.array([1, 0]), LENGTH * np.array([np.cos(angle), np.sin(angle)])
        z, u = q + k, q - k
        errors["positive"].append(np.exp(w @ z - z @ z / 2).mean(axis=1) - 1)
        errors["trigonometric"].append(np.cos(w @ u).mean(axis=1) * np.exp(u @ u / 2) - 1)
    return {name: np.sqrt(np.square(found).mean(axis=1)) for name, found in errors.items()}


# %%
seeds = [simulated(seed) for seed in range(10)]
samples = {name: np.array([found[name] for found in seeds]) for name in formulas}
words = {"x_label": "angle between q and k, degrees", "y_label": "typical error / exact value"}
axes = plots.bands(angles, samples, formulas, **words, title="|q| = |k| = 1.25, 64 draws")
plots.show(
    axes, "Positive features err most where q and k agree, sines and cosines where they oppose."
)

# %% [markdown]
# A band holds ten seeds, each with 200 estimates. Where errors are moderate it hugs the formula. At
# the left end it is wide, and its mean lies *below* the formula: not even 12,800 draws a seed have
# met the rare, huge values that the variance counts. A measured error is trustworthy only where the
# band is narrow.

# %% [markdown]
# So neither map is best everywhere. Positive features misjudge the few large weights, by a factor.
# Sines and cosines misjudge the many small ones, by more than their size and in both directions.
# A normaliser adds up all the small ones. For 512 tokens and 256 draws:


# %%
def mean_square(array):
    return np.square(array).mean()


for scale in (0.25, 0.5, 1.0):
    q, k, v = (array * np.float32(scale) for array in random_qkv(512))
    knobs = {"features": "trigonometric", "orthogonal": False, "seed": 1}
    exact, out = full.attention(q, k, v), performer.attention(q, k, v, n_features=256, **knobs)
    w = performer.draw_features(256, 64, orthogonal=False, seed=1)
    phi_q, phi_k = (performer.feature_map(x, w, features="trigonometric")[0, 0] for x in (q, k))
    error, below = mean_square(out - exact) / mean_square(exact), phi_q @ phi_k.sum(axis=0) <= 0
    print(f"inputs × {scale:<4}: {below.mean():.0%} of the normalisers below 0, ", end="")
    print("error", f"{error:.1g} of the output" if error < 10 else "over 10 times the output")

# %% [markdown]
# Two of [the four texts](00_start.ipynb#The-four-texts), the survey and chapter V, say that the
# Performer uses sines and cosines. Its authors name them to tell why they do *not*. For short
# vectors, as the first line shows, they are fine.

# %% [markdown] covers="I10 R5"
# ## Directions at right angles
#
# Independent directions crowd here and leave gaps there. One can draw them *orthogonal*: take from
# each what it has in common with those before it (*Gram–Schmidt*), then give it back the length of
# a normal vector. Each alone is as random as before, so each alone is still right on average.

# %%
drawn = stream("gram", 0).standard_normal((64, 64))
lengths, w = np.linalg.norm(drawn, axis=1), []
for row in drawn:
    rest = row - sum((row @ unit) * unit for unit in w)
    w.append(rest / np.linalg.norm(rest))
w = np.array(w) * lengths[:, None]
products = w @ w.T
print(f"largest |w · w'| of two: {np.abs(products - np.diag(np.diag(products))).max():.4f}")
for name, rows in (("independent", drawn), ("orthogonal", w)):
    print(f"{name:<12} condition number {np.linalg.cond(rows):6.1f}")

# %% [markdown]
# The *condition number* is the largest stretch of a vector over the smallest. Where it is large,
# the projection $Wx$ hardly sees some directions of $x$. The code in the module does the same by a
# QR decomposition, 64 directions at a time. Is it worth the trouble? With inputs × 1/4:


# %%
def relative_error(m, n=512, scale=0.25, seeds=5, **knobs):
    """Return the squared error over the squared output of the exact softmax."""
    errors = []
    for seed in range(seeds):
        q, k, v = (array * np.float32(scale) for array in random_qkv(n, seed=seed))
        exact = full.attention(q, k, v)
        out = performer.attention(q, k, v, n_features=m, seed=seed, **knobs)
        errors.append(mean_square(out - exact) / mean_square(exact))
    return np.mean(errors)


for m in (64, 256):
    gain = relative_error(m, orthogonal=False) / relative_error(m)
    print(f"m = {m:>3}: orthogonal directions have {gain:.1f} times less squared error")

# %% [markdown]
# To be worth twice as many directions, as [chapter E](00_start.ipynb#The-four-texts) has it, it
# would have to be 2.

# %% [markdown] covers="I10-I13 I16 V3"
# ## An error is nothing alone
#
# How good is the whole attention, against $m$? Two kinds of data: *random tokens*, as in textbooks,
# and *eight topics*, where each token looks for one topic's keys. The error is the mean squared
# error over the mean square of the exact output. Beside it stands a free answer: always the mean of
# $V$.


# %%
def random_tokens(seed):
    return random_qkv(512, seed=seed)


def topics(seed):
    generator = stream("topics", seed)
    topic, meaning = generator.standard_normal((2, 8, 64)).astype(np.float32)
    asks, answers = generator.integers(8, size=(2, 512))
    return tuple(a[None, None] for a in (topic[asks], topic[answers], meaning[answers]))


# %%
COUNTS, SEEDS = [16, 64, 256, 1024], 5
DATA, SCALES = {"random tokens": random_tokens, "eight topics": topics}, (0.25, 0.5, 1.0)


def free_answer(v, exact):
    return mean_square(v.mean(axis=-2, keepdims=True) - exact) / mean_square(exact)


# %%
def errors_against_m(make, scale):
    """Return the errors for each kind of directions, (seeds, m), and that of the mean of V."""
    found, free = {"independent": [], "orthogonal": []}, []
    for seed in range(SEEDS):
        q, k, v = make(seed)
        q, k = q * np.float32(scale), k * np.float32(scale)
        exact = full.attention(q, k, v)
        for name, rows in found.items():
            knobs = {"orthogonal": name == "orthogonal", "seed": seed}
            outs = [performer.attention(q, k, v, n_features=m, **knobs) for m in COUNTS]
            rows.append([mean_square(out - exact) / mean_square(exact) for out in outs])
        free.append(free_answer(v, exact))
    return {name: np.array(rows) for name, rows in found.items()}, np.mean(free)


# %%
results = {
    (data, scale): errors_against_m(make, scale) for data, make in DATA.items() for scale in SCALES
}

# %% folded=true
widgets.guess(
    "Random tokens at full size, 1024 orthogonal features: squared error over squared output? "
    f"(The mean of V has {results['random tokens', 1.0][1]:.2f}.)",
    lambda: results["random tokens", 1.0][0]["orthogonal"][:, -1].mean(),
    unit="times",
    explain="Each such vector has length 8, and 2.8 after the division by D^¼. Two of them at a "
    "right angle have |q + k|² = 16: you know how many features that takes.",
)

# %% [markdown]
# Now choose. For which data, and for which size of the inputs, does the Performer beat the dashed
# line?

# %% folded=true
live_errors = plots.LiveErrors(
    COUNTS,
    *results["random tokens", 0.25],
    words=("worse than the mean of V, which ignores the query", "better"),
    x_label="features m",
    y_label="squared error / squared output",
    low=3e-4,
    high=60,
    title=" ",
)


def slope(values):
    return np.polyfit(np.log(COUNTS), np.log(values.mean(axis=0)), 1)[0]


# %% folded=true
def draw_errors(data, inputs):
    found, free = results[data, inputs]
    notes = {name: f"like $m^{{{slope(values):.2f}}}$" for name, values in found.items()}
    live_errors.update(found, free, f"{data}, inputs × {inputs:g}", notes)
    means = found["orthogonal"].mean(axis=0)
    below = [m for m, error in zip(COUNTS, means, strict=True) if error < free]
    said = f"better from m = {below[0]} on" if below else "worse at every m"
    return f"{data}, inputs × {inputs:g}: orthogonal features are {said} than the mean of V."


# %%
widgets.explore(draw_errors, live_errors.figure, data=list(DATA), inputs=list(SCALES))

# %% [markdown]
# Take your time with this one. With short random vectors the error falls as it should, and passes
# the dashed line late: there the mean of $V$ is nearly right anyway. With topics, where the query
# matters, the same features beat the line by far.
#
# **Before you believe an error, ask what ignoring the query would score.**

# %% [markdown] covers="I13"
# ## Rates
#
# A mean of $m$ draws has a *squared* error that falls as $1/m$, so its root, with half the slope,
# falls as $1/\sqrt m$. A straight line through the logarithms tells which it is: its slope is the
# power of $m$. Chapter E promises $1/\sqrt m$, and prints a table of squared errors:

# %%
table = {32: 0.0234, 64: 0.0089, 128: 0.0034, 256: 0.0012, 512: 0.0004, 1024: 0.0001}
printed = np.polyfit(np.log(list(table)), np.log(list(table.values())), 1)[0]
print(f"printed table              m^{printed:.2f}")
for scale in SCALES:
    found, _ = results["random tokens", scale]
    print(f"independent, inputs × {scale:<4} m^{slope(found['independent']):.2f}")

# %% [markdown]
# No average of independent draws falls faster than $1/m$. And at full size, where the rare huge
# draws have not come yet, it hardly falls at all: *right on average* is a promise about infinitely
# many.

# %% [markdown] covers="I16 V3"
# ## A table that betrays itself
#
# The table has a second column, the cosine between approximate and exact outputs. If an error $e$
# knows nothing of the output $o$, then on average $(o + e) \cdot o$ is $|o|^2$, and $|o + e|^2$ is
# $|o|^2 + |e|^2$. So with $P$ for the outputs' mean square
#
# $$ \cos^2 = \frac{P}{P + \text{MSE}} $$
#
# and each printed pair gives away its $P$:

# %%
cosines = [0.9123, 0.9567, 0.9812, 0.9934, 0.9978, 0.9995]
for (m, error), cosine in zip(table.items(), cosines, strict=True):
    power = printed_features.implied_power(error, cosine)
    print(f"m = {m:>4}: MSE {error:.4f} and cosine {cosine:.4f} imply P = {power:.3f}")
exact = [full.attention(*random_qkv(512, seed=seed)) for seed in range(SEEDS)]
print(f"outputs for 512 random tokens have P = {np.mean([mean_square(out) for out in exact]):.4f}")
claims.check("C428")

# %% [markdown] covers="I9 I12 I16"
# ## What the printed map computes
#
# Two columns of a table are two views of one experiment: derive one from the other before you
# believe either. And what does the printed code give? Its feature map is $e^{Wx} / \sqrt m$, with
# $W$ divided by $\sqrt D$. The last line is for the answer that ignores the query.


# %%
def cosine(a, b):
    return (a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum())


q, k, v = random_qkv(512)
exact, free = full.attention(q, k, v), np.broadcast_to(v.mean(axis=-2, keepdims=True), v.shape)
outs = {f"{m} features": printed_features.attention(q, k, v, n_features=m) for m in (32, 256, 1024)}
for name, out in (outs | {"mean of V": free}).items():
    print(f"{name:<13} MSE {mean_square(out - exact):.4f}, cosine {cosine(out, exact):.2f}")

# %% [markdown]
# More features change nothing, and the method is barely better than the mean of $V$. It converges
# elsewhere. Where, the identity tells: $\mathbb E\, \phi(q) \cdot
# \phi(k) = e^{|q + k|^2 / 2D}$, and
#
# $$
# \frac{|q + k|^2}{2D} = \frac{q \cdot k}{D} + \frac{|k|^2}{2D} + (\text{the same for all keys})
# $$
#
# The scores are $\sqrt D$ times too flat, and long keys get a bonus. Three repairs are known. So
# are their averages: no dice needed. Does every repair help?

# %%
q, k, v = (array[0, 0] for array in random_qkv(512))
limits = {  # factor of q·k, factor of |k|²
    "as printed": (1 / 64, 1 / 128),
    "x divided by D^¼": (1 / 512, 1 / 1024),
    "and W not by √D": (1 / 8, 1 / 16),
    "and times e^(-|x|²/2)": (1 / 8, 0),
}
for name, (scale, bonus) in limits.items():
    reached = full.weights(q, k, scale=scale, bias=bonus * np.square(k).sum(axis=1))
    elsewhere = np.abs(reached - full.weights(q, k)).sum(axis=1).mean() / 2
    print(f"{name:<22} {elsewhere:.0%} of the attention lies on other keys than softmax's")

# %% [markdown]
# Only all three together lead to the softmax, and the first alone leads further away. A repair
# that makes an error larger need not be wrong.

# %% [markdown] covers="I14 W8"
# ## How many features
#
# A rule that is printed: $m$ should grow as $\sqrt n$. Guess what a Performer with 64 features says
# to it.

# %% folded=true
widgets.guess(
    "Inputs × 1/4, 64 features. A text 16 times as long, 2048 tokens instead of 128: by which "
    "factor does the squared error over the squared output change?",
    lambda: relative_error(64, n=2048, seeds=16) / relative_error(64, n=128, seeds=16),
    explain="The variance has |q + k|² in it, and no n. What is more or less than 1 is chance.",
)

# %% [markdown]
# What $m$ must follow is the length of the vectors, exponentially. For a typical error of 30 %,
# and pairs at a right angle:

# %%
for length in (0.5, 1, 1.5, 2, 2.8):
    needed = math.expm1(2 * length**2) / 0.3**2
    print(f"|q| = |k| = {length}: {needed:>14,.0f} features")

# %% [markdown] covers="I11"
# ## Unbiased kernel and biased attention
#
# The estimate of $e^{q \cdot k}$ is *unbiased*, right on average. But attention is a quotient of
# two estimates, and an average of quotients is not the quotient of averages. Do errors cancel over
# many draws? Take the mean output of 1000 Performers. If they do, the squared error left is one
# variance over 1000.

# %%
q, k, v = (array[0, 0] for array in random_qkv(64, width=16))
exact, kernel = full.attention(q, k, v), np.exp(q @ k.T / 4)
for m in (16, 64):
    kernels, outs = [], []
    for seed in range(1000):
        w = performer.draw_features(m, 16, orthogonal=False, seed=seed)
        estimate = performer.feature_map(q, w) @ performer.feature_map(k, w).T
        kernels.append(estimate)
        outs.append(estimate @ v / estimate.sum(axis=1, keepdims=True))
    bias, chance = mean_square(np.mean(outs, axis=0) - exact), np.var(outs, axis=0).mean() / 1000
    assert bias > 20 * chance
    print(f"m = {m}: squared bias {bias:.3f}, chance would leave {chance:.0e}; ", end="")
    print(f"kernel, mean over exact {np.median(np.mean(kernels, axis=0) / kernel):.1f}")

# %%
claims.check("C252")

# %% [markdown]
# The check to take along: average many runs, and compare what is left with what chance would leave.
# More runs do not remove a bias; here, more features do.

# %% [markdown] covers="I17 R3"
# ## Large exponents
#
# Exponentials of long vectors leave the range of float32, and each map in its own direction: a
# query's positive features have $e^{w \cdot q - |q|^2/2}$, sines and cosines $e^{+|q|^2/2}$.

# %%
directions = performer.draw_features(64, 64)
for factor in (1, 3, 6):
    q = factor * random_qkv(64)[0][0, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        phi = performer.feature_map(q, directions)
        waves = performer.feature_map(q, directions, features="trigonometric")
    gone, wild = (phi.sum(axis=1) == 0).mean(), (~np.isfinite(waves)).any(axis=1).mean()
    print(f"inputs × {factor}: all features 0 in {gone:.1f} of the queries, ", end="")
    print(f"cosines infinite in {wild:.1f}")

# %% [markdown]
# All zero means 0 / 0. The cure is the softmax's own: subtract a maximum before the exponential.
# But not any. A factor that all features of *one query* share cancels in its quotient. Keys are
# compared with each other, so they must share *one* factor among them all.

# %%
q, k, v = (6 * array for array in random_qkv(256))
out = performer.attention(q, k, v, n_features=64)
small = performer.attention(q / 6, k / 6, v, n_features=64, scale=36 / 8)
np.testing.assert_allclose(out, small, atol=1e-2)
print("finite everywhere:", bool(np.isfinite(out).all()))

# %% [markdown]
# A causal scan cannot look at later keys. So the
# [reference](../attncourse/reference/performer.py) keeps the largest exponent *so far*, and lets
# its state fade when that grows, as flash attention does with its running maximum.
#
# [Exercise 07.6](../exercises/07_linear.ipynb#07.6-Find-two-bugs-in-a-Performer) hides a wrong
# maximum.

# %% [markdown] covers="I15 W8"
# ## Where it fails
#
# As in the first part, store $N$ facts and ask for each by its key. Queries and keys have length 2
# and are equal, so $q \cdot k = 4$: large weights, just where positive features err. And whatever
# the luck, $m$ features make weights of rank $m$ at most. Where does each curve leave 1?


# %%
def recall(n_facts, seed, attend):
    keys, values = stream("facts", seed, n_facts).standard_normal((2, n_facts, 64))
    keys, values = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (keys, values))
    out = attend(2 * keys, 2 * keys, values)  # q · k = 4 for the right key
    return ((out @ values.T).argmax(axis=1) == np.arange(n_facts)).mean()


def with_features(m):
    return lambda *qkv: performer.attention(*qkv, n_features=m, scale=1)


# %%
facts = [4, 8, 16, 32, 64, 128, 256]
attends = {"softmax": lambda *qkv: full.attention(*qkv, scale=1)}
attends |= {f"m = {m}": with_features(m) for m in (64, 256, 1024)}
shares = {
    name: np.mean([[recall(n, seed, attend) for n in facts] for seed in range(3)], axis=0)
    for name, attend in attends.items()
}
words = {"x_label": "facts stored", "y_label": "share found", "high": 1, "log_x": True}
axes = plots.curves(facts, shares, **words)
ends = ", ".join(f"{name} {values[5]:.0%}" for name, values in shares.items())
plots.show(axes, f"Of 128 facts, mean over 3 seeds: {ends}.")

# %% [markdown] covers="I5 V3"
# ## What it costs
#
# Softmax attention is two products of $2n^2D$ operations each. The Performer makes $\phi(Q)$ and
# $\phi(K)$, and two more products, each of $2nmD$. Chapter E compares *one* of the four with *one*
# of the two.

# %% folded=true
a_page = random_qkv(512)
widgets.guess(
    "512 tokens, heads of 64, 256 features: what is the softmax's number of operations over the "
    "Performer's?",
    lambda: (
        measure.count_flops(full.attention, *a_page)
        / measure.count_flops(performer.attention, *a_page, n_features=256)
    ),
    explain="None are saved: 4 n² D over 8 n m D is n / 2m, and 512 is 2 · 256. The missing 0.8 % "
    "are the column of the normaliser.",
)

# %%
for n in (4096, 32_768):
    cost = performer.cost(1, 1, n, n, 64, n_features=256)
    ratio = full.cost(1, 1, n, n, 64).flops / cost.flops
    print(f"n = {n:>6}: {ratio:>5.1f} times fewer operations; n / 2m is {n / 512:g}")

# %% [markdown]
# And the clock? The [Triton kernel](../attncourse/kernels/performer.py) on a GPU: time and memory
# beside their predictions, measured now if there is a GPU here, else from the latest record. How
# far is each time from the least that its operations and bytes allow?

# %%
bench.show_gpu("performer")

# %% [markdown]
# [Exercise 07.V3](../exercises/07_linear.ipynb#07.V3-How-good-is-a-Performer?) asks for all of
# these numbers, with the baseline.

# %% [markdown]
# ## In a real model
#
# The Performer promises the softmax itself, so it may take its place without any training. The
# course's small model (four layers of four heads, trained on Python's standard library) reads a
# page that it never saw. The darker a token, the less probable it has become.

# %% folded=true
from attncourse import model

small = model.load()
tried = model.trials(small, "performer", n_features=[16, 64, 256, 1024])
widgets.in_a_real_model("features", tried)

# %%
ones = lambda x: np.ones_like(x[..., :1])  # noqa: E731
past = model.compare(small, {"": small.swap("linear", feature_map=ones)})[""]
work = [cost.flops / tried[1024].full_costs[n].flops for n, cost in tried[1024].costs.items()]
print(f"1024 features: {work[0]:.1f} times the FLOPs at n = 512, {work[1]:.2f} at n = 16,384")
print(f"loss {tried[1024].loss:.2f}; with full attention {past.full_loss:.2f}, ", end="")
print(f"with the mean of the past, which ignores the query, {past.loss:.2f}")

# %% [markdown]
# The queries and keys of this model say why. What the formula of this page gives for their typical
# error, layer by layer:

# %%
for layer, (q, k, _) in enumerate(small.qkv(model.page())):
    squares = np.square(q[:, :, None] + k[:, None]).sum(axis=-1) / q.shape[-1] ** 0.5  # |q + k|²
    squares = squares[..., np.tri(squares.shape[-1], dtype=bool)]  # no future keys
    share = (squares < math.log1p(256 * 0.3**2)).mean()
    print(f"layer {layer}: |q + k|² typically {np.median(squares):.0f};", end=" ")
    print(f"256 features get {share:.0%} of the pairs to within 30 %")

# %% [markdown]
# ## Your own vectors
#
# Whether a Performer suits a model is decided by its queries and keys, and by nothing else. Put
# some of yours here. The function says for what share of pairs $m$ features have a typical error
# below 30 %, by the formula of this page.


# %%
def share_below(q, k, m, error=0.3):
    small_q, small_k = (x / x.shape[-1] ** 0.25 for x in (q, k))
    squares = np.square(small_q[:, None] + small_k[None]).sum(axis=-1)  # |q + k|²
    return (squares < math.log1p(m * error**2)).mean()


for scale in (0.25, 0.5, 1.0):
    q, k, _ = (scale * array[0, 0] for array in random_qkv(128))
    shares = [f"{share_below(q, k, m):.0%} with {m}" for m in (64, 256, 1024)]
    print(f"random tokens × {scale:<4}: {', '.join(shares)}")

# %% [markdown]
# Next: [chapter 08](08_content.ipynb) keeps the softmax, and lets the words decide which keys it
# sees.
