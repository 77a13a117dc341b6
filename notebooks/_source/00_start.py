# %% [markdown]
# # 00 · Start here
#
# Attention compares every token of a text with every other. That is its strength and its bill. In
# this chapter you see the bill, make your first guess, move your first slider, and have your first
# answer graded. Ten minutes.
#
# **Run a cell with Shift + Enter**, from top to bottom. A click on the dots opens a folded cell.
#
# <!-- summary: what attention costs, in one picture and one slider; how to guess, run, check, ask
# for a hint and be graded; which texts the course checks. -->

# %% role="setup"
import os

import numpy as np

from attncourse import claims, measure, plots, widgets
from attncourse.cost import DEVICES
from attncourse.grading import check
from attncourse.inputs import random_qkv
from attncourse.reference import full, window
from attncourse.units import format_bytes

# %% [markdown] covers="A1 S7"
# ## What is stored
#
# A *token* is a piece of text, often a word. For each token attention asks: which tokens matter to
# it? The *query* of the one scores the *key* of the other, and the *softmax* turns each row of
# scores into weights that sum to 1. Sixteen tokens make a 16 × 16 matrix; these are random. A light
# square is a key that counts.

# %%
q, k, v = random_qkv(16, width=8)
weights = full.weights(q, k)[0, 0]
axes = plots.heatmap(weights, title="weights of 16 tokens", label="weight")
plots.show(axes, f"{weights.size} weights in 16 rows; each row sums to 1.")

# %% [markdown]
# ## Guess first
#
# Before the course tells you a number, it asks for yours: type it, then press Enter. To be wrong by
# a factor of a hundred is normal, and the reason to ask. Your guesses stay on this computer.

# %% folded=true
widgets.guess(
    "BERT-base, a language model, is a file of 440 MB. How many bytes are all attention scores "
    "that it would compute for one text of 4096 tokens, in float32, if it could read that much?",
    lambda: 4096**2 * 12 * 12 * 4,
    unit="B",
    explain="One text takes over twenty times the model: 12 heads in each of 12 layers score it.",
)

# %% [markdown] covers="A1 A3 A10"
# ## The bill
#
# For $n$ tokens each *head* computes $n \times n$ scores. A model has several heads in each of
# several layers, works on a batch of texts, and to be trained it must keep all of them:
#
# $$ \text{bytes} = n^2 \cdot \text{heads} \cdot \text{layers} \cdot \text{batch} \cdot
#    \text{bytes per number} $$
#
# BERT-base read 512 tokens at most:

# %%
n_bytes = 512**2 * 12 * 12 * 1 * 4
print("a text of 512 tokens:", format_bytes(n_bytes), "or", format_bytes(n_bytes, decimal=True))

# %% [markdown] covers="A1 A3 A7 A11 A12 O3"
# Two units for one number: MiB and GiB are powers of 2, MB and GB powers of 10. The course always
# prints which.
#
# ## The bill as a picture
#
# Grey lines mark where the memory of real GPUs ends. The second curve keeps only the scores within
# 128 tokens, the subject of [chapter 04](04_window.ipynb). Move the sliders until the full curve
# leaves the last GPU. Which factor gets you there fastest?

# %% folded=true
lengths = 2 ** np.arange(7, 20)
numbers = {"float32": 4, "float16": 2}
gpus = [(device.name, device.memory_bytes) for device in DEVICES.values()]


def bill(heads, layers, batch, bytes_each):
    factor = heads * layers * batch * bytes_each
    near = np.array([window.count(int(n), int(n), window=128) for n in lengths])
    return {"all pairs": lengths.astype(float) ** 2 * factor, "window 128": near * factor}


live = plots.LiveBudget(lengths, bill(12, 12, 1, 4), gpus, at=512, low=1e6, high=1e16)


# %% folded=true
def draw(n, heads, layers, batch, dtype):
    curves = bill(heads, layers, batch, numbers[dtype])
    live.update(curves, at=n)
    here = n**2 * heads * layers * batch * numbers[dtype]
    fits = [name for name, size in gpus if size >= here]
    both = f"{format_bytes(here)}, or {format_bytes(here, decimal=True)}"
    return f"{n} tokens: {both}. Fits: {', '.join(fits) or 'none of them'}."


sliders = {"heads": (1, 96, 1, 12), "layers": (1, 96, 1, 12), "batch": (1, 64, 1, 1)}
sizes = widgets.choice({f"{n:,}": int(n) for n in lengths}, 512)
widgets.explore(draw, live.figure, n=sizes, **sliders, dtype=list(numbers))

# %% [markdown] covers="A1 P1"
# Twice the heads, twice the bill. Twice the text, four times the bill. That is the reason for this
# course.
#
# ## Prediction meets measurement
#
# Every mechanism here states its memory *before* it runs. Then it runs, and the measured peak
# stands beside the prediction.

# %%
q, k, v = random_qkv(1024, heads=4)
predicted = full.cost(1, 4, 1024, 1024, 64).peak_bytes
measured = measure.peak_bytes(full.attention, q, k, v)
print("all pairs: predicted", format_bytes(predicted))
print("measured within a hundredth:", abs(measured / predicted - 1) < 0.01)

# %%
predicted = window.cost(1, 4, 1024, 1024, 64, window=128).peak_bytes
measured = measure.peak_bytes(window.attention, q, k, v, window=128)
print("window 128: predicted", format_bytes(predicted))
print("measured within a tenth:", abs(measured / predicted - 1) < 0.1)

# %% [markdown] covers="A20"
# ## The four texts
#
# The course grew from four texts that circulate without an author: a survey article (*the survey*),
# a page of notes (*the notes*), and two textbook chapters, "Efficient Transformers" (*chapter E*)
# and "Attention Variants and Mechanisms" (*chapter V*). They are full of numbers. The course
# recomputes every one that says enough; [the audit](17_audit.ipynb) shows them all.

# %% [markdown]
# Here is one. The survey says that 8192 tokens and 32 heads need "over 2 GB". Is that so?

# %%
entries = 8192**2 * 32
claims.check(
    "C002", f"{entries * 2 / 1e9:.2f} GB in float16, {entries * 4 / 1e9:.2f} GB in float32"
)

# %% [markdown]
# The numbers were counted, and called bytes. So it goes with many claims, and the reasons teach
# more than the claims:

# %%
print(len(claims.LEDGER), "claims in four texts:")
for verdict in claims.VERDICTS:
    print(f"{len(claims.find(verdict=verdict)):>4}  {verdict:<18} {claims.VERDICTS[verdict][1]}")

# %% [markdown]
# ## Memory is graded
#
# Each chapter has exercises, in a notebook of its own. A check says whether your answer is right,
# and for some, whether it stays within its memory. Let us provoke it, with a wrong answer to
# [exercise 00.1](../exercises/00_start.ipynb#00.1-Bytes-of-the-scores):


# %%
def score_bytes(n, heads, layers, batch, bytes_per_number):
    return n * n * heads * batch * bytes_per_number


os.environ["ATTNCOURSE_SEED"] = "1"  # random cases are fresh in each check; here they stay fixed
check("00.1")

# %% [markdown]
# It names the smallest case that fails, what came out, and, since this mistake is a known one,
# what you forgot. Now the right way round:
#
# 1. Open [the exercises](../exercises/00_start.ipynb). 00.1 is this one.
# 2. Fill in the answer, run the cell, run its check.
# 3. Stuck? `hint("00.1")` gives three hints, one at a time.
# 4. Then the memory is graded too:
#    [00.2](../exercises/00_start.ipynb#00.2-Largest-score-of-each-query,-without-the-matrix).
# 5. Save, then grade in a terminal: `attncourse grade --chapter 00`.

# %% [markdown]
# ## What this machine can do
#
# Everything runs without a GPU. With one, the same cells use it. `doctor` looks at what is here and
# says what to do about what is not. Below it stands your progress: what you passed, what you
# guessed. It is kept on this computer, and a later attempt never undoes it.

# %% tags=["nbval-ignore-output"]
from attncourse.cli import main

_ = main(["doctor"])
_ = main(["progress"])

# %% [markdown]
# ## What is here
#
# Each mechanism is a NumPy module, most of them with a Triton kernel of the same signature. These
# are the ones that a mask describes; the others keep something else than pairs. Which of them could
# you tell apart by their count of pairs alone?

# %%
plots.show(plots.gallery(), "Full attention fills the square; the others leave pairs out.")

# %% [markdown]
# Next: [chapter 01](01_bottleneck.ipynb) counts where the bytes go. After it, the chapters can be
# read in any order.
