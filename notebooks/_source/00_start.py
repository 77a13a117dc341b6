# %% [markdown]
# # 00 · Start here
#
# Attention compares every token of a text with every other: its strength and its bill. Here you see
# the bill, make a guess, move a slider, and have an answer graded, in a quarter of an hour.
#
# **Shift + Enter runs a cell.** A click on its dots opens a folded one; sliders move with the mouse
# or the arrow keys.
#
# <!-- summary: what attention costs, in one picture and one slider; how to guess, run, check, ask
# for a hint and be graded; which texts the course checks. -->

# %% role="setup"
import os

import numpy as np

from attncourse import arc, claims, measure, plots, widgets
from attncourse.cost import DEVICES
from attncourse.grading import check
from attncourse.inputs import random_qkv
from attncourse.reference import full, window
from attncourse.units import format_bytes

# %% [markdown]
# ## The way
#
# Chapters go in twos and threes: from the bill to ways of lowering it, and on to choosing among
# them. Follow that way, or begin where you like: what builds on another chapter links to it.

# %%
arc.Map()

# %% [markdown]
# ## What is stored
#
# A *token* is a piece of text, often a word. For each token attention asks: which tokens matter to
# it? Its *query* gives the *key* of each of them a *score*, and the *softmax* turns a row of scores
# into *weights* that sum to 1.

# %% [markdown]
# So the scores of a text fill a square, with a row and a column for each token. One such square is
# a *head*. A model has several heads in each of several *layers*, one after another.

# %% [markdown]
# ## Guess first
#
# Before the course tells you a number, it asks for yours: type it, then press Enter. To be wrong by
# a factor of a hundred is normal, and the reason to ask. Your guesses stay on this computer.

# %% folded=true
widgets.guess(
    "BERT-base, a language model, is a file of 440 MB, with 12 heads in each of 12 layers. How "
    "many bytes are all scores that it would compute for one text of 4096 tokens, in float32, "
    "4 bytes a number, if it could read that much?",
    lambda: 4096**2 * 12 * 12 * 4,
    unit="B",
    explain="One text takes over twenty times the model: 144 squares of 4096 × 4096 scores.",
)

# %% [markdown] covers="A1 S7"
# ## One head
#
# Here are the weights of sixteen tokens, 16 × 16 of them, for queries and keys drawn at random;
# light is much.

# %%
q, k, v = random_qkv(16, width=8)
weights = full.weights(q, k)[0, 0]
axes = plots.heatmap(weights, title="weights of 16 tokens", label="weight")
plots.show(axes, f"{weights.size} weights in 16 rows; each row sums to 1.")

# %% [markdown] covers="A1 A3 A10"
# ## The bill
#
# For $n$ tokens each head computes $n \times n$ scores. A model works on a *batch* of texts at
# once, and while it is trained it keeps the scores of all heads and layers:
#
# $$ \text{bytes} = n^2 \cdot \text{heads} \cdot \text{layers} \cdot \text{batch} \cdot
#    \text{bytes per number} $$
#
# BERT-base reads 512 tokens at most:

# %%
n_bytes = 512**2 * 12 * 12 * 1 * 4
print("a text of 512 tokens:", format_bytes(n_bytes), "or", format_bytes(n_bytes, decimal=True))

# %% [markdown]
# Two units for one number: MiB and GiB are powers of 2, MB and GB powers of 10. The course always
# prints which.

# %% [markdown] covers="A1 A3 A7 A11 A12 O3"
# ## The bill as a picture
#
# Grey lines mark where the memory of real GPUs ends. The second curve keeps only the scores of keys
# at most 128 tokens away, the subject of [chapter 04](04_window.ipynb). Move one control at a time,
# and put it back. Which of them takes the curve of all pairs past the last GPU alone?

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

# %% [markdown]
# Twice the heads, twice the bill. Twice the text, four times the bill: only its length gets there
# alone. That is the reason for this course.

# %% [markdown] covers="A1 P1"
# ## Prediction meets measurement
#
# A *mechanism* is a way to compute attention, or something near it. Each one here states its memory
# *before* it runs. Then it runs, and the most that it held at once, its *peak*, stands beside the
# prediction.

# %%
q, k, v = random_qkv(1024, heads=4)
predicted = full.cost(1, 4, 1024, 1024, 64).peak_bytes
measured = measure.peak_bytes(full.attention, q, k, v)
print("all pairs: predicted", format_bytes(predicted))
print(f"measured: {measured / predicted:.1f} times that")

# %%
predicted = window.cost(1, 4, 1024, 1024, 64, window=128).peak_bytes
measured = measure.peak_bytes(window.attention, q, k, v, window=128)
print("window 128: predicted", format_bytes(predicted))
print(f"measured: {measured / predicted:.1f} times that")

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
# Each chapter but the audit has exercises, in a notebook of their own. A check says whether your
# answer is right, and for some, whether it stays within its memory. Let us provoke it, with a wrong
# answer to [exercise 00.1](../exercises/00_start.ipynb#00.1-Bytes-of-the-scores):


# %%
def score_bytes(n, heads, layers, batch, bytes_per_number):
    return n * n * heads * batch * bytes_per_number


os.environ["ATTNCOURSE_SEED"] = "1"  # random cases are fresh in each check; here they stay fixed
check("00.1")

# %% [markdown]
# It names the smallest case that fails, what came out, and, since this mistake is a known one,
# what you forgot. Now the right way round:

# %% [markdown]
# 1. Open [the exercises](../exercises/00_start.ipynb). 00.1 is this one.
# 2. Fill in the answer, run the cell, run its check.
# 3. Stuck? `hint("00.1")` gives three hints, one at a time.
# 4. Then the memory is graded too:
#    [00.2](../exercises/00_start.ipynb#00.2-Largest-score-of-each-query,-without-the-matrix).
# 5. Save, then grade in a terminal: `attncourse grade --chapter 00`.

# %% [markdown]
# A number with a V, such as [02.V5](../exercises/02_attention.ipynb#02.V5-A-cross-attention-module)
# or [14.V12](../exercises/14_quality.ipynb#14.V12-The-window-that-suffices), is an exercise that
# the four texts set, put right. These are counted through all chapters; the others anew in each.

# %% [markdown]
# ## What this machine can do
#
# Everything runs without a GPU. With one, the same cells use it. The doctor looks at what is here
# and says what to do about what is not. Below it stands your progress: what you passed, what you
# guessed. It is kept on this computer, and a later attempt never undoes it.

# %% tags=["nbval-ignore-output"]
from attncourse.cli import main

_ = main(["doctor", "--quick"])
print()
_ = main(["progress"])

# %% [markdown]
# ## What is here
#
# Each mechanism is a NumPy module, most of them with a program for GPUs beside it, written in
# Triton. Some only choose pairs: a *mask* says which query may attend to which key. Below, a dark
# square is such a pair.
#
# Besides full attention: in which does some token see all others, and all others see it?

# %%
plots.show(plots.gallery(), "Full attention fills the square; the others leave pairs out.")

# %% [markdown]
# In Longformer and BigBird: a full row is a token that sees all, a full column one that all see.
# [Chapter 05](05_sparse.ipynb) asks what such *global* tokens are good for.

# %% [markdown]
# Next: [chapter 01](01_bottleneck.ipynb) counts where the bytes go, and after it comes
# [the way](#The-way). Only [13](13_measuring.ipynb), [14](14_quality.ipynb),
# [15](15_choosing.ipynb) and [17](17_audit.ipynb) look back on all other chapters.
