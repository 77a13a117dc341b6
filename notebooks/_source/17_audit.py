# %% [markdown]
# # 17 · The audit
#
# Four texts about efficient attention go round without author: a **survey** article, a page of
# **notes**, and two textbook chapters, **chapter E** ("Efficient Transformers") and **chapter V**
# ("Attention Variants and Mechanisms"). This course grew out of reading them with a calculator.
# Here are 483 statements, each with what comes out, or why nothing can.
#
# <!-- summary: 483 printed statements, computed, counted or measured again wherever their texts say
# enough for it, each with a verdict and its reason; ten of them as scenes, and a search over all.
# -->

# %% role="setup"
import numpy as np

from attncourse import claims, graph, masks, measure, plots, widgets
from attncourse.claims import printed_features
from attncourse.cost import DEVICES
from attncourse.reference import full, window

# %% [markdown]
# ## All of them at once
#
# A claim has a *finder*, if it says enough for one: its formula, or a few lines that count a real
# mask, run the printed code, draw an error curve or read a recorded measurement. The next cell runs
# all of them, in fifteen seconds, or a minute on a busy machine.

# %%
ledger = claims.LEDGER.values()
for claim in measure.progress(ledger, f"{len(ledger)} claims", expect_seconds=15):
    claims.found(claim.id)  # kept: the cells below only look it up
counts = {verdict: len(claims.find(verdict=verdict)) for verdict in claims.VERDICTS}
for verdict, (sign, meaning) in claims.VERDICTS.items():
    print(f"{counts[verdict]:>4} {sign} {verdict:<18} {meaning}")
shown = sum(claims.found(claim.id) is not None for claim in ledger)
print(f"{shown} of {len(ledger)} have a number to show")

# %% [markdown]
# A number *holds* if it agrees to the last digit printed. Zeros at the end of a whole number are
# taken as rounding: 3200 may stand for 3221, not for 3400. What is *inconsistent* names the place
# that it contradicts. A test fails if a verdict does not fit what its finder finds.

# %% [markdown]
# Statements are of seven kinds. *Arithmetic* follows from a formula, *complexity* is growth such as
# $O(n^2)$, *timing* a time or a speed. A *definition* says what something is or how it works, a
# *hardware-fact* what a device has or can hold. *Empirical-quality* is what a model achieves, an
# *experiment* what printed code or a trial shows.

# %% folded=true
experiments = [claim for claim in ledger if claim.kind == "experiment"]
kinds = sorted({claim.kind for claim in ledger})
table_of_kinds = np.array(
    [[sum((c.kind, c.verdict) == (kind, v) for c in ledger) for v in counts] for kind in kinds]
)
shares = table_of_kinds / table_of_kinds.sum(axis=1, keepdims=True)
wrong = dict(zip(kinds, shares[:, list(counts).index("wrong")], strict=True))
assert max(wrong, key=wrong.get) == "experiment"


# %% folded=true
def kinds_and_verdicts():
    labels = {"x": "verdict", "y": "kind of statement", "label": "share of the kind"}
    axes = plots.table(shares, kinds, list(counts), **labels)
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right", rotation_mode="anchor")
    plots.show(axes, "Kinds and verdicts. Most often wrong: experiments, and anybody can run them.")


# %% folded=true
widgets.guess(
    f"Of the {len(experiments)} experiments, how many per cent are wrong?",
    lambda: 100 * wrong["experiment"],
    unit="%",
    explain=kinds_and_verdicts,
)

# %% [markdown]
# ## Look something up
#
# Choose a verdict, a text or a topic, or type a word such as *window*, and press the button.
# `claims.check("C057")` shows one claim with its setting and its reason.


# %%
def chosen(**wanted):
    rows = [claims.row(claim) for claim in claims.find(**wanted)]
    return f"{len(rows)} of {len(claims.LEDGER)} claims.", rows


widgets.form(
    chosen,
    "Show",
    verdict={"any": ""} | {word: word for word in claims.VERDICTS},
    text={"any": ""} | {word: word for word in claims.TEXTS.values()},
    topic={"any": ""} | {word: word for word in sorted({claim.topic for claim in ledger})},
    words="",
)

# %% [markdown]
# ## Ten that teach
#
# Each scene is one wrong or doubtful number, what it takes to see that, and the check that you can
# use on the next paper you read.

# %% [markdown]
# ### 1. Which prefix?
#
# What do the scores of 4096 tokens take? For one head in float32 the notes print 64 MB and chapter
# E 67 MB; for twelve heads in float16, half the bytes a number, chapter V prints 384 MB. Are they
# at odds?

# %%
n_bytes = 4096**2 * 4
print(f"{n_bytes / 2**20:.0f} MiB = {n_bytes / 1e6:.0f} MB a head in float32")
print(f"{12 * n_bytes / 2 / 2**20:.0f} MiB = {12 * n_bytes / 2 / 1e6:.0f} MB for 12 in float16")
claims.check("C480")

# %% [markdown]
# The bytes agree; the unit does not: 64 and 384 are MiB, 67 is MB, and all three are printed as MB,
# which is why the card says inconsistent. **Before you call two sizes a contradiction,
# divide one by the other: 1.049 is MiB against MB, 1.074 is GiB against GB.**

# %% [markdown]
# ### 2. Multiply back up
#
# An A100 has 108 *streaming multiprocessors* (SMs), each with fast memory of its own (SRAM).
# Chapter E says: 20 MB each; by Dao et al. 2022, section 2.1, it is 192 KiB each. What would the
# whole chip have, by either?

# %%
processors = 108
print(f"108 × 20 MB = {processors * 20e6 / 1e9:.1f} GB of SRAM on one chip")
print(f"108 × 192 KiB = {processors * 192 / 1024:.2f} MiB")
claims.check("C263")

# %% [markdown]
# The 20 MB are those of the whole chip. **A part times the number of parts must be the whole.**

# %% [markdown]
# ### 3. Width of the model, or of a head?
#
# Linear attention keeps a *state* in place of the scores: for each head a matrix of $D \times D$,
# where $D$ is the width of a head. BERT-base is 768 wide and has 12 heads. Chapter V prints three
# values for all its states: 28.3, 14 and 2.3 MB.

# %%
model, heads = 768, 12
state = heads * (model // heads) ** 2 * 4
print(f"12 heads of 64 × 64: {state / 1e6:.3f} MB")
print(f"12 heads of 768 × 768: {heads * model**2 * 4 / 1e6:.1f} MB, as if each head were the model")
print(f"the same in float16: {heads * model**2 * 2 / 1e6:.1f} MB, printed as 14")
claims.check("C478")

# %% [markdown]
# The third, 2.3 MB, stands in a row of a table that grows with $n$. A state does not. **Write the
# shape down before the product.**

# %% [markdown]
# ### 4. Count both sides the same way
#
# Attention is two products: queries with keys, weights with values. Linformer first mixes 4096 keys
# into 256, and so the values: two products more, the *projections*. By what factor do the
# operations fall? The texts say 5.4 (12.9 G over a rounded 2.4 G), 8 and 16.

# %%
n, k, d = 4096, 256, 768
both_products = 2 * n * n * d
low_rank = {"two products": 2 * n * k * d, "projections of K and V": 2 * n * k * d}
print(f"two products over all four: {both_products / sum(low_rank.values()):.1f}")
print(f"one product over three of the four: {n * n * d / (3 * n * k * d):.1f}")
print(f"two over two, projections left out: {both_products / low_rank['two products']:.0f}")
claims.check("C477")

# %% [markdown]
# **Count the same things above and below the line.**

# %% [markdown]
# ### 5. A time implies a rate
#
# Chapter E prints milliseconds for one layer of standard attention on an A100. Work that grows as
# $n^2$ takes four times as long for twice the length. Look at the steps, then at the rate.

# %%
printed = {512: 8, 1024: 8, 2048: 12, 4096: 98, 8192: 190, 16384: 1500}
peak = DEVICES["A100 40 GB"].peak("float16")
before = None
for n, milliseconds in printed.items():
    rate = full.cost(1, 12, n, n, 64).flops / (milliseconds / 1e3)
    step = f"× {milliseconds / before:.1f}" if before else ""
    print(f"n = {n:>6}: {milliseconds:>5} ms {step:<6} {rate / peak:7.3%} of the peak")
    before = milliseconds

# %%
claims.check("C475")

# %% [markdown]
# What it takes to start a program on the GPU may hide the shortest lengths; steps of 1.9 and 8 for
# the longest it cannot. And elsewhere the same layer, at 8192 tokens, takes 0.15 or 390 ms.
# **Divide the operations by the time, and the rate by the device.**

# %% [markdown]
# ### 6. "Exceeds"
#
# A word can be computed too. Chapter E: 38.6 GB "exceeds" an A100 with 40 GB. Does it?

# %%
need = 8192**2 * 4 * 12 * 12
print(f"{need / 1e9:.1f} GB on a card of 40 GB: {need / 40e9:.1%}")
claims.check("C194")

# %% [markdown]
# It fits, with 1.35 GB to spare (more if GB means GiB): too little for most models' other
# activations. That would have been the sentence. **Put the number beside the word.**

# %% [markdown]
# ### 7. Twice in the sum
#
# Let 32 of BigBird's 4096 tokens be *global*: their rows hold all keys. Any other row holds 352:
# 256 near, 64 random, and the 32. An exercise of chapter E adds up all rows, then the columns of
# the global tokens. What has it counted twice?

# %%
n, w, r, g = 4096, 256, 64, 32
rows = (n - g) * (w + r + g) + g * n
again = (n - g) * g - g * g  # the columns below those rows, less the corner
print(f"by rows {rows:,}; with the columns once more {rows + again:,}, as printed")
claims.check("C458")

# %% [markdown]
# The 32 global keys in each of the other rows; and chapter E takes off the 32 × 32 corner once
# more, although these rows do not hold it. **Count rows, or columns, never both; and add up every
# table that shows its total.**

# %% [markdown]
# ### 8. A picture of the corner
#
# A picture in chapter E is meant to show how sparse a window of 256 keys is, 128 on each side. It
# shows the first 256 of 1024 tokens.

# %%
mask = window.mask(1024, 1024, window=128)
corner = mask[:256, :256]
figure, (left, right) = plots.figure(1, 2, width=7, height=3.4)
plots.heatmap(corner, left, title=f"the corner: {masks.density(corner):.0%} filled")
plots.heatmap(mask, right, title=f"the mask: {masks.density(mask):.0%} filled")
plots.mask_legend(figure)
times = masks.density(corner) / masks.density(mask)
plots.show(figure, f"One mask. Its corner is {times:.1f} times as full as the whole.")
claims.check("C408")

# %% [markdown]
# **Ask what was cut away from a picture.**

# %% [markdown]
# ### 9. Two columns that know of each other
#
# A table compares softmax attention with an average over $m$ random features, by mean squared
# error and cosine; here are four of its six rows. If the error does not depend on the output, both
# together fix that output's mean square, its *power*: one output, so one number.

# %%
table = {32: (0.0234, 0.9123), 128: (0.0034, 0.9812), 512: (0.0004, 0.9978), 1024: (0.0001, 0.9995)}
for m, (error, cosine) in table.items():
    power = printed_features.implied_power(error, cosine)
    print(f"m = {m:>4}: error {error:.4f} and cosine {cosine:.4f} need a power of {power:.3f}")
slope = np.polyfit(np.log(list(table)), np.log([error for error, _ in table.values()]), 1)[0]
print(f"the error falls as m^{slope:.2f}; that of an average of m draws falls as m^-1")
claims.check("C428")

# %% [markdown]
# The last two errors have one digit, so their powers are rough: the contradiction rests on the
# first two. Nor does the printed code give these numbers: see C416 to C427 below. **Ask two columns
# the same question.**

# %% [markdown]
# ### 10. Logarithms need doubling
#
# A window of *dilation* 2 takes every second key, and reaches twice as far. With a fixed plan of
# dilations, says chapter E, information crosses the sequence in $O(\log n)$ layers. How many does
# it take with a window alone, and how many if the dilation doubles with each layer?

# %%
for n in (257, 513, 1025):
    near = [window.mask(n, n, window=32)] * 40
    doubled = [window.mask(n, n, window=32, dilation=2**layer) for layer in range(6)]
    needed = [
        next(i for i, seen in enumerate(graph.reach_through(plan), 1) if seen.all())
        for plan in (near, doubled)
    ]
    print(f"{n:>5} tokens: {needed[0]:>2} layers of one window, {needed[1]} if dilation doubles")
claims.check("C350")

# %% [markdown]
# **Where a logarithm is claimed, look for what doubles.**
#
# ## The ledger, text by text
#
# The ledger is the list of all of them: each statement with what is printed, what comes out on this
# machine, and the verdict. Each list scrolls in its box. The reasons are in `claims.check`. A
# statement about several texts stands under each of them.

# %%
survey = claims.find(text="survey")
widgets.Table([claims.row(claim) for claim in survey], f"The survey: {len(survey)} claims.")

# %%
notes = claims.find(text="notes")
widgets.Table([claims.row(claim) for claim in notes], f"The notes: {len(notes)} claims.")

# %%
chapter_v = claims.find(text="chapter V")
widgets.Table([claims.row(claim) for claim in chapter_v], f"Chapter V: {len(chapter_v)} claims.")

# %%
chapter_e = claims.find(text="chapter E")
widgets.Table([claims.row(claim) for claim in chapter_e], f"Chapter E: {len(chapter_e)} claims.")

# %% [markdown]
# ## Now yours
#
# Take the numbers of a paper that you like, and ask them the ten questions. What share holds, and
# what share only nearly?
