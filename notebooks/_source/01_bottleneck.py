# %% [markdown]
# # 01 · The bottleneck: where the bytes go
#
# Attention lets every word of a text look at every other. Here you count what that takes: bytes
# held, operations done, bytes moved, seconds passed. Four numbers; most wrong statements about
# attention confuse two of them.
#
# No cell takes more than seconds. On a first reading you may skip *What hardware likes*.
#
# <!-- summary: what attention computes, in one sentence of words; bytes held, operations, bytes
# moved and seconds; what fits into which memory; the roofline; which times cannot be true. -->

# %% role="setup"
import itertools
import math

import ipywidgets
import numpy as np
import torch

from attncourse import MECHANISMS, claims, measure, plots, widgets
from attncourse.claims.finders.bottleneck import saved_squares
from attncourse.cost import DEVICES, implied, this_cpu
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, window
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="A1"
# ## Who was tired?
#
# > The dog chased the ball until it was tired.
#
# The dog was. Let the last word be *flat*, and *it* is the ball. No dictionary says so: to know
# what *it* means one has to look at the other words, at some of them more than at others. That is
# attention.

# %% [markdown]
# A text is cut into *tokens*; here each word is one. A token has three rows of numbers: its *query*
# says what it looks for, its *key* what it offers, its *value* what it passes on. Training finds
# such numbers. These are written by hand, so that you can read them: four numbers, for thing,
# alive, deed and state.

# %%
words = "The dog chased the ball until it was tired".split()
queries, keys = np.zeros((9, 4)), np.zeros((9, 4))
keys[1], keys[4] = (1, 1, 0, 0), (1, -1, 0, 0)  # dog and ball: things, one alive, one not
keys[2], keys[8] = (0, 0, 1, 0), (0, 0, 0, 1)  # chased: a deed; tired: a state
queries[1] = queries[4] = 0, 0, 2, 0  # dog, ball: what is done?
queries[2] = 2, 0, 0, 0  # chased: by whom, and what?
queries[6] = 2, 2, 0, 0  # it: a thing that is alive

# %% [markdown]
# How well does a key fit a query? Multiply number by number and add up: *it* and *dog* score
# 2·1 + 2·1 = 4, *it* and *ball* 2·1 - 2·1 = 0. The *softmax* turns the scores of a row into
# *weights* that sum to 1: it takes exp of each and divides by their sum.

# %%
scores = queries @ keys.T
weights = softmax(scores)
print("it looks at", *(f"{word:>7}" for word in words))
print("score      ", *(f"{score:7.0f}" for score in scores[6]))
print("weight     ", *(f"{weight:7.2f}" for weight in weights[6]))
print(f"by hand: e⁴ / (e⁴ + 8) = {math.e**4 / (math.e**4 + 8):.2f} for the dog")

# %% [markdown]
# The result for *it* is the average of all values by these weights. Let the values be the same
# numbers as the keys.

# %%
values = keys
out = weights @ values
print("it, after attention: thing {:.2f}, alive {:.2f}, deed {:.2f}, state {:.2f}".format(*out[6]))

# %% [markdown]
# A thing, and alive: *it* has taken over what the dog had. Two tests show that nothing is hidden.
# The [reference](../attncourse/reference/full.py) gives the same; and where nobody looks for
# anything, all scores are 0 and each result is the plain average of the values.

# %%
plain = np.tile(values.mean(axis=0), (9, 1))
np.testing.assert_allclose(full.attention(queries, keys, values, scale=1), out)
np.testing.assert_allclose(full.attention(0 * queries, keys, values), plain)
print(len(words), "words,", scores.size, "scores")

# %% [markdown]
# Who looks at whom? Choose a word, and change the end of the sentence. Watch *it*, then *the*.

# %% folded=true
live_words = plots.LiveSentence(words, weights[6], 6, title=" ")


def draw_words(word, ends_with):
    asks = queries.copy()
    asks[6, 1] = 2 if ends_with == "tired" else -2  # flat: a thing that is not alive
    row = softmax(asks @ keys.T)[word]
    sentence = [*words[:-1], ends_with]
    live_words.update(sentence, row, word, "a bow is as thick as its weight")
    most = ", ".join(sentence[j] for j in np.flatnonzero(row > row.mean() + 0.01)) or "all alike"
    return f"… until it was {ends_with}. '{sentence[word]}' looks most at: {most}."


which = widgets.choice({f"{j + 1}: {word}": j for j, word in enumerate(words[:-1])}, 6)
widgets.explore(draw_words, live_words.figure, word=which, ends_with=["tired", "flat"])

# %% [markdown] covers="A1 A4 A6 P1"
# ## What one head holds
#
# One such look is a *head*. Its queries, keys and values are $D$ numbers wide, usually 64, and for
# $n$ tokens it computes
#
# $$ S = \tfrac{1}{\sqrt D}\, Q K^\top \in \mathbb R^{n \times n}, \qquad
#    P = \operatorname{softmax}(S), \qquad O = P V \in \mathbb R^{n \times D} $$
#
# The factor $1/\sqrt D$ keeps the scores of wide queries from growing with $D$. Six arrays, in
# float32, 4 bytes a number:

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n, width=width))
scores = q @ k.T / np.sqrt(width, dtype=np.float32)
weights = softmax(scores)
out = weights @ v
arrays = {"q": q, "k": k, "v": v, "scores": scores, "weights": weights, "out": out}
for name, array in arrays.items():
    print(f"{name:<8} {array.shape!s:<13} {format_bytes(array.nbytes):>9}")

# %% [markdown]
# The squares are $n / D$ times as large as $Q$, so with twice the text they weigh twice as much
# against it. The reference holds one of them, because it writes the weights over the scores. It
# says so before it runs:

# %%
predicted = full.cost(1, 1, n, n, width).peak_bytes
measured = measure.peak_bytes(full.attention, q, k, v)
print(f"predicted: at most {predicted / 2**20:.2f} MiB besides q, k and v")
print("measured within a hundredth of that:", abs(measured / predicted - 1) < 0.01)

# %% folded=true
widgets.guess(
    "One head, float32. How many tokens do its scores need to fill 40 GB, a whole A100?",
    lambda: math.isqrt(DEVICES["A100 40 GB"].memory_bytes // 4),
    unit="tokens",
    explain="The root of 40 GB / 4 bytes: less than a book has. And this is one head of a model.",
)

# %% [markdown] covers="A3 A10 A20"
# ## Six factors
#
# One head is never the bill. A model has $h$ heads in each of $L$ layers and works on a batch of
# $B$ texts; a number has $b$ bytes:
#
# $$ \text{bytes} = n^2 \cdot b \cdot h \cdot L \cdot B $$
#
# $n$ counts twice: six factors. BERT-base, which will stay with us, has 12 heads in each of 12
# layers. Factor by factor, for 8 texts of 4096 tokens:

# %%
n_bytes = 4096**2
print(f"{'numbers of one square':<22} {n_bytes:>15,}")
for name, factor in {"bytes": 4, "heads": 12, "layers": 12, "texts": 8}.items():
    n_bytes *= factor
    print(f"{'× ' + str(factor) + ' ' + name:<22} {n_bytes:>15,}  {format_bytes(n_bytes)}")

# %% [markdown]
# ### To scale
#
# An area is a number of numbers. On the left one head, its scores beside its $q$, $k$ and $v$; on
# the right all of them, in the memory of a device. Make the text longer. What becomes of $q$, $k$
# and $v$, and when do the squares break the frame?

# %% folded=true
figure, (left, right) = plots.figure(1, 2, width=8.6, height=4.1)
live_one = plots.LiveScale(4096, 64, ax=left, title="one head")
live_all = plots.LiveScale(4096, 64, 144, 10**10, right, title=" ")
plots.scale_legend(figure)
parts = {"one head": 1, "12 heads, a layer": 12, "144 heads, BERT-base": 144}


def draw_scale(n, what, device, numbers):
    size, memory = np.dtype(numbers).itemsize, DEVICES[device].memory_bytes
    live_one.update(n, 64)
    live_all.update(n, 64, parts[what], memory / size, f"{what}, in the {device}")
    squares, rows = (parts[what] * n * each * size for each in (n, 3 * 64))
    both = f"scores {format_bytes(squares)}, q, k and v {format_bytes(rows)}"
    share = f"{(squares + rows) / memory:.2g} times the {device}"
    return f"{what}, {n:,} tokens: {both}; together {share}."


# %% folded=true
widgets.explore(
    draw_scale,
    figure,
    n=widgets.choice({f"{2**power:,}": 2**power for power in range(6, 18)}, 4096),
    what=widgets.choice(list(parts), "144 heads, BERT-base"),
    device=ipywidgets.Dropdown(options=list(DEVICES), value="A100 40 GB"),
    numbers=["float32", "float16"],
)

# %% [markdown]
# ### Which factor is missing?
#
# A number with the wrong factors looks like any other number. But one can ask which factor must
# have been left out for a printed value to come out:


# %%
def forgotten(printed, **factors):
    """Return the smallest sets of factors without which the product is `printed` within a tenth."""
    for size in range(len(factors)):
        found = [
            left
            for left in itertools.combinations(factors, size)
            if abs(math.prod(factors[f] for f in factors if f not in left) / printed - 1) < 0.1
        ]
        if found:
            return found
    return []


# %% [markdown]
# A [survey](00_start.ipynb#The-four-texts) says that 8192 tokens and 32 heads need "over 2 GB". A
# textbook chapter says 6.4 GB for BERT-base and 8 texts of 4096 tokens. Both in float32?

# %%
print("over 2 GB:", forgotten(2.0e9, queries=8192, keys=8192, bytes=4, heads=32))
bert = {"queries": 4096, "keys": 4096, "bytes": 4, "heads": 12, "layers": 12, "texts": 8}
print("6.4 GB:   ", forgotten(6.4e9, **bert))

# %% [markdown]
# The first forgets the bytes: it counts numbers. The second forgets the heads or the layers, both
# 12; its own words decide, "67 × 12 × 8", for 67 MB is one head. This card shows such a claim, as
# [the audit](17_audit.ipynb) does for all of them.

# %%
claims.check("C285", 4096**2 * 4 * 12 * 12 * 8 / 1e9)

# %% [markdown] covers="A8 A21"
# ### Bytes have units
#
# One score matrix of 4096 tokens in float32: one text says 64 MB, another 67 MB. Who is right?

# %%
matrix_bytes, elements = 4096**2 * 4, 3 * 4096 * 768
print(f"{matrix_bytes:,} bytes")
print(format_bytes(matrix_bytes), "in powers of 2 (1 MiB = 1024 · 1024 bytes)")
print(format_bytes(matrix_bytes, decimal=True), "in powers of 10")
print(f"all q, k, v of a layer: {elements:,} numbers = {elements * 4 / 1e6:.1f} MB")

# %% [markdown]
# Both, in two units that they call by one name. The larger slip is to count numbers and print
# bytes: one of them gives the last line as 9.4 MB. Put the unit into the name, `matrix_bytes`, and
# neither happens.

# %% [markdown] covers="A7 A8"
# ### 768 is not a head
#
# BERT-base is $d = 768$ numbers wide: 12 heads of 64. Textbooks do their sums with one head of
# 768, because it is simpler. Does it matter? Cut the same 768 into more and more heads. Which
# area stays?

# %% folded=true
live_heads = plots.LiveScale(1024, 64, 12, title=" ", room=(4 * 1300, 3.2 * 1024))
plots.scale_legend(live_heads.figure, memory=False)


def draw_heads(n, heads):
    title = f"one layer: {heads} heads of {768 // heads}"
    live_heads.update(n, 768 // heads, heads, None, title)
    squares, rows = format_bytes(heads * n**2 * 4), format_bytes(3 * n * 768 * 4)
    return f"{n} tokens, {title}: scores {squares}, q, k and v {rows}."


heads = widgets.choice([1, 2, 3, 4, 6, 8, 12], 12)
lengths = widgets.choice([256, 512, 768, 1024], 1024)
widgets.explore(draw_heads, live_heads.figure, n=lengths, heads=heads)

# %% [markdown]
# The heads share out $q$, $k$ and $v$, but each has a square of its own. "One head of 768" hides
# eleven squares of twelve.
#
# Now you: [Exercise 01.V2](../exercises/01_bottleneck.ipynb#01.V2-A-budget-of-standard-attention)
# mends a textbook's budget that made this slip.

# %% [markdown] covers="A11 A12 A18 N9 P2"
# ## Growth
#
# From 512 tokens to 8192 a text becomes 16 times longer. The matrix grows faster:

# %%
for n in (512, 1024, 2048, 4096, 8192, 16384):
    n_bytes = n**2 * 4
    print(f"n = {n:>5}: {format_bytes(n_bytes):>9} a head, {(n // 512) ** 2:>4} times 512's")

# %% [markdown]
# BERT stopped at 512 tokens, GPT-2 at 1024. Now look at what people want a model to read. Each
# length follows from an assumption that stands beside it.

# %%
inputs = {
    "BERT": 512,
    "GPT-2": 1024,
    "image, 1024 × 1024 in patches of 16 × 16": (1024 // 16) ** 2,
    "a minute of speech, 100 frames a second": 60 * 100,
    "a book of 100,000 words, 4 tokens for 3 words": 100_000 * 4 // 3,
    "a minute of video, 24 images of 14 × 14 patches a second": 60 * 24 * 14**2,
    "a stretch of genome, a million bases": 10**6,
}
for name, n in inputs.items():
    print(f"{n:>9,} tokens: {format_bytes(n**2 * 4):>9} a head  {name}")

# %% [markdown]
# All of it on one axis, with the memory of GPUs, of a phone and of a small computer that a robot
# might carry. Where does a single head leave the largest GPU?

# %% folded=true
axis = 2 ** np.arange(7, 22)
budgets = [(device.name, device.memory_bytes) for device in DEVICES.values()]
budgets += [("phone", 8 * 10**9), ("single-board computer", 10**9)]


def scores_bytes(heads, size):
    return {"scores of one layer": axis.astype(float) ** 2 * heads * size}


live_budget = plots.LiveBudget(axis, scores_bytes(1, 4), budgets, at=512, low=1e4, high=1e15)


# %% folded=true
def draw_budget(what, heads, numbers):
    n, size = inputs[what], np.dtype(numbers).itemsize
    live_budget.update(scores_bytes(heads, size), at=n)
    need = n**2 * heads * size
    fits = sum(memory >= need for _, memory in budgets)
    return f"{what}: {format_bytes(need)} a layer. It fits into {fits} of {len(budgets)} devices."


numbers = ["float32", "float16"]
widgets.explore(
    draw_budget, live_budget.figure, what=list(inputs), heads=(1, 32, 1, 1), numbers=numbers
)

# %% [markdown]
# No larger GPU will do: for ten times the text it would need a hundred times the memory.
# [Exercise 01.V6](../exercises/01_bottleneck.ipynb#01.V6-Three-methods,-three-lengths) asks what
# two other mechanisms hold at three lengths.

# %% [markdown] covers="A15 A19 N9"
# ## What fits needs a subtraction
#
# One layer of BERT-base, 4096 tokens: 805 MB. A batch of 32: 25.8 GB. All layers at 8192 tokens:
# 38.65 GB. A chapter prints 38.6, and says twice that it "exceeds" a card of 40 GB. Compare before
# you conclude:

# %%
for name, need in {
    "one layer, 4096 tokens": 4096**2 * 4 * 12,
    "32 texts of it": 4096**2 * 4 * 12 * 32,
    "12 layers, 8192 tokens": 8192**2 * 4 * 144,
}.items():
    print(f"{name:<22} {need / 1e9:6.2f} GB of 40 GB, {40 - need / 1e9:6.2f} GB are left")

# %%
claims.check("C194")

# %% [markdown]
# The scores fit, but little else. Subtract first what is there already. A layer has about $12 d^2$
# *parameters*, the numbers that training adjusts. For each, training holds the number, its
# *gradient*, which says how the error changes with it, and two *moments*, the optimizer Adam's
# averages of past gradients and of their squares: 16 bytes. The number of texts:
#
# $$ B = \left\lfloor
#    \frac{\text{memory} - 16 \cdot 12 d^2 L}{\text{bytes of one text}} \right\rfloor $$

# %% [markdown]
# One text brings q, k, v and out of each layer, and the weights of each head. While gradients are
# computed, in the *backward pass*, full attention needs two more squares a head in the layer at
# hand. Left out, here and in the bill below: what the rest of a layer keeps, and the parameters of
# the vocabulary.


# %%
def texts_that_fit(memory, n, layers=12, heads=12, d=768, size=4):
    left = memory - 16 * 12 * d**2 * layers
    rows = 4 * n * d * layers  # q, k, v and out
    near = window.count(n, n, window=128)
    kept = {"full": (layers + 2) * n * n, "window 128": layers * near, "flash": layers * n}
    return {
        name: max(0, left) // (size * (rows + heads * numbers)) for name, numbers in kept.items()
    }


# %% folded=true
widgets.guess(
    "Training BERT-base with full attention on an A100 of 40 GB, float32, counting parameters, "
    "attention weights, q, k, v and out: how many texts of 4096 tokens at once?",
    lambda: texts_that_fit(40 * 10**9, 4096)["full"],
    unit="texts",
    explain="Each text brings 144 squares of 64 MiB, and all of them wait for the backward pass.",
)

# %% folded=true
live_fit = plots.LiveBars(texts_that_fit(40 * 10**9, 512), unit="texts", title=" ")


def draw_fit(device, n, layers):
    counts = texts_that_fit(dict(budgets)[device], n, layers=layers)
    live_fit.update(counts, f"texts of {n} tokens in training, {layers} layers")
    words = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{device}: {words} texts at once."


sizes = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 512)
names = ipywidgets.Dropdown(options=[name for name, _ in budgets], value="A100 40 GB")
widgets.explore(draw_fit, live_fit.figure, device=names, n=sizes, layers=(1, 48, 1, 12))

# %% [markdown]
# Two methods of later chapters stand beside it: a [window](04_window.ipynb) keeps the scores near
# the diagonal, [flash attention](09_flash.ipynb) keeps one number a query. The other way round, the
# longest text that fits, is
# [Exercise 01.3](../exercises/01_bottleneck.ipynb#01.3-The-longest-text-that-fits).

# %% [markdown] covers="A5 A6"
# ## How long a square must live
#
# Training goes through the steps twice: forward to the output, then backward, to the gradient of
# each array. The backward pass needs some of what the forward pass had. PyTorch keeps that without
# being asked.


# %%
def attention_in_torch(q, k, v):
    return torch.softmax(q @ k.mT / 8, dim=-1) @ v


# %% folded=true
widgets.guess(
    "A product, a division, a softmax, a product: how many n × n arrays does PyTorch keep of that "
    "for the backward pass?",
    lambda: saved_squares(attention_in_torch),
    unit="arrays",
    explain="The weights alone: with q, k, v and the gradient of the output they give all others.",
)

# %%
fused = torch.nn.functional.scaled_dot_product_attention
print("PyTorch's own attention keeps", saved_squares(fused), "squares")
q, k, v = random_qkv(512)
for name, call, given in (
    ("forward", full.attention, (q, k, v)),
    ("backward", full.backward, (v, q, k, v)),
):
    print(
        f"{name}: {measure.peak_bytes(call, *given) / (512**2 * 4):.1f} squares at most, in NumPy"
    )

# %% [markdown]
# PyTorch's own attention needs none at all; [chapter 09](09_flash.ipynb) tells how. When does each
# array come and go? Look for a dark bar that crosses the line into the backward pass. Three squares
# meet at *gradient of scores*; NumPy's backward makes do with two, since it writes the gradient of
# the scores over that of the weights.

# %% folded=true
row, square = 512 * 64 * 4, 512**2 * 4
steps = "scores|softmax|out|gradient\nof weights|gradient\nof scores|gradients\nof q, k".split("|")
lives = {
    "q, k": (0, 5, 2 * row),
    "v": (0, 3, row),
    "scores": (0, 1, square),
    "weights": (1, 4, square),
    "out": (2, 3, row),
    "gradient of weights": (3, 4, square),
    "gradient of scores": (4, 5, square),
}
axes = plots.lifetimes(lives, steps, title="512 tokens: forward pass | backward pass")
axes.axvline(2.5, color="#777777", linestyle=":")
plots.show(axes, "Squares are dark. What lives on when the backward pass begins, has to be kept.")

# %% [markdown]
# How few squares can *you* do with? Written as one expression, NumPy holds several at once;
# [Exercise 01.4](../exercises/01_bottleneck.ipynb#01.4-One-square-instead-of-three) allows one, and
# measures it.

# %% [markdown] covers="A3 A7 A9"
# ### The bill of training
#
# Everything at once, for a model 768 wide. The parameters are held four times: themselves, their
# gradients, two moments. At which length do the squares overtake the model?


# %% folded=true
def training_bill(n, batch, layers, heads, d=768, size=4):
    model = 12 * d**2 * layers * size
    return {
        "parameters": model,
        "gradients": model,
        "Adam's moments": 2 * model,
        "q, k, v, out": 4 * n * d * layers * batch * size,
        "weights, kept": n**2 * heads * layers * batch * size,
        "two squares of backward": 2 * n**2 * heads * batch * size,
    }


live_bill = plots.LiveBars(training_bill(128, 8, 12, 12), unit="bytes", title=" ")


# %% folded=true
def draw_bill(n, batch, layers, heads):
    parts = training_bill(n, batch, layers, heads)
    live_bill.update(parts, f"training, {n} tokens")
    each = list(parts.values())
    model, squares = format_bytes(sum(each[:3])), format_bytes(sum(each[-2:]))
    return f"The model {model}, n × n matrices {squares}; together {format_bytes(sum(each))}."


sizes = widgets.choice([128, 256, 512, 1024, 2048, 4096, 8192], 128)
knobs = {"batch": (1, 64, 1, 8), "layers": (1, 48, 1, 12), "heads": (1, 48, 1, 12)}
widgets.explore(draw_bill, live_bill.figure, n=sizes, **knobs)

# %% [markdown]
# [Exercise 01.1](../exercises/01_bottleneck.ipynb#01.1-The-bill-of-training) is this bill as a
# function.

# %% [markdown] covers="A2 P5"
# ## Operations, counted
#
# Now the second number. A 2 × 3 matrix times a 3 × 2 matrix has 4 entries, each the sum of 3
# products: 12 multiply-adds (the first adds to 0). Data sheets count both parts, and so does the
# course: one multiply-add is 2 *FLOPs*, floating-point operations. Texts that count only one differ
# by a factor of 2.

# %% [markdown]
# `count_flops` counts the matrix products that NumPy executes; exp, sums and scaling it leaves out.

# %%
print(measure.count_flops(np.matmul, np.ones((2, 3)), np.ones((3, 2))), "FLOPs of one product")

# %% [markdown]
# Attention has two products of $n^2 D$ multiply-adds, and between them a softmax of about five
# operations a score: maximum, subtraction, exp, sum, division.
#
# $$ \text{FLOPs} = \underbrace{2 n^2 D}_{QK^\top} + \underbrace{\sim 5 n^2}_{\text{softmax}}
#    + \underbrace{2 n^2 D}_{PV} $$
#
# Going backward, each product has two gradients, one for either factor; and this backward pass
# makes the scores again.

# %%
q, k, v = random_qkv(128)
product = 2 * 128**2 * 64
forward = measure.count_flops(full.attention, q, k, v)
backward = measure.count_flops(full.backward, v, q, k, v)
print(f"forward {forward / product:.0f} products, backward {backward / product:.0f}")
print(f"softmax: {5 / (5 + 4 * 64):.1%} of the forward pass, whatever n is")
assert forward == full.cost(1, 1, 128, 128, 64).flops == 4 * 128**2 * 64

# %% [markdown]
# [Exercise 01.2](../exercises/01_bottleneck.ipynb#01.2-Operations,-forward-and-backward) counts
# them for any shapes.

# %% [markdown] covers="A13 A14 P2"
# ## Operations are not time
#
# If operations were time, the softmax would take 2 % of it. Here are the three steps, at 2048
# tokens, ready to be timed on your machine.

# %%
q, k, v = (array[0, 0] for array in random_qkv(2048))
scores = q @ k.T / 8
steps = {
    "q kᵀ": (np.matmul, q, k.T),
    "softmax": (softmax, scores),
    "weights · v": (np.matmul, softmax(scores), v),
}
step_times = {}  # as soon as you have guessed
inside = {"exp": (np.exp, scores), "a copy": (np.copy, scores)}  # of the softmax


def times_of(calls):
    return {name: measure.seconds(*call, repeats=5).median for name, call in calls.items()}


# %% folded=true
def softmax_share():
    step_times.update(times_of(steps))
    return 100 * step_times["softmax"] / sum(step_times.values())


def show_steps(share):
    plots.show(plots.bars(step_times, unit="s"), "The times of the three steps.")
    whole, exp, copy = (1e3 * t for t in (step_times["softmax"], *times_of(inside).values()))
    parts = f"Of its {whole:.1f} ms exp alone takes {exp:.1f}, a copy of the square {copy:.1f}."
    return f"{5 / (5 + 4 * 64):.1%} of the operations, {share:.0f} % of the time. {parts}"


question = "What share of the time of attention does the softmax take, here and now?"
widgets.guess(question, softmax_share, unit="%", explain=show_steps)

# %% [markdown]
# On a CPU it is mostly exp, which costs far more than one FLOP's time. On a GPU it is the traffic:
# the softmax fetches a square of numbers and puts another one back. Keep that in mind until the
# third number comes up.

# %% [markdown]
# Does the whole follow $n^2$, then? On paper whose axes are both logarithmic a power is a straight
# line, and its slope is the exponent. What a call costs before it computes anything bends the left
# end up. Other programs only ever make a call slower, so of twenty calls the shortest counts.


# %%
def shortest(call, *given, **knobs):
    once = {"repeats": 1, "warmup": 0}
    return min(measure.seconds(call, *given, **once, **knobs).median for _ in range(20))


lengths = [256, 512, 1024, 2048]
least_times = [shortest(full.attention, *random_qkv(n)) for n in lengths]

# %% tags=["nbval-ignore-output"]
print(f"slope {np.polyfit(np.log(lengths), np.log(least_times), 1)[0]:.2f}; n² has 2")

# %% [markdown]
# [Chapter E](00_start.ipynb#The-four-texts) prints six times of one mechanism on an A100. Here they
# are beside yours. Look at the steps, not at the heights: a faster machine shifts the line, and
# hardly bends it. Noise can lift a point, and so can a square too large for the cache; the law is
# the lower edge.

# %% folded=true
printed_n = np.array([512, 1024, 2048, 4096, 8192, 16384])
printed = np.array([float(claims.get(f"C{number}").printed) / 1e3 for number in range(196, 202)])
every_n = [256, *printed_n.tolist()]
law = {"n²": [printed[-1] * (n / 16384) ** 2 for n in every_n]}
shown = {"this machine": least_times + [np.nan] * 3, "chapter E: printed": [np.nan, *printed]}
axes = plots.growth(every_n, shown, law, unit="s")
plots.show(axes, "Printed: flat, then steep, flat and steep again. The law is a straight line.")

# %%
ratios = printed[1:] / printed[:-1]
print("twice the text takes", ", ".join(f"{ratio:.2f}" for ratio in ratios), "times as long")

# %% [markdown]
# A law asks for 4 each time. Start-up may explain the two small steps, but not a leap, a small step
# and a leap again. [Exercise 01.6](../exercises/01_bottleneck.ipynb#01.6-Hunt-a-forged-table) turns
# that look into a function.

# %% [markdown] covers="A14 O1 O2 O6 P3"
# ## Where a byte lives
#
# The third number: bytes *moved*. A GPU has two kinds of memory that matter here. On the chip,
# beside the arithmetic, lies a little of it, and fast; next to the chip lies the *main memory*,
# large and slow; in an A100 it is HBM, *high-bandwidth memory*. Their sizes:

# %%
a100 = DEVICES["A100 40 GB"]
levels = {"on chip": 108 * 192 * 1024, "main memory": a100.memory_bytes}  # NVIDIA A100 whitepaper
print(*(f"{name} {format_bytes(size)}" for name, size in levels.items()), sep=", ")

# %% folded=true
widgets.guess(
    "One float16 number, two bytes, comes from the main memory of an A100. How many float16 FLOPs "
    "can the A100 do, at its peak, in the time that this takes?",
    lambda: 2 * a100.flops_per_second / a100.bytes_per_second,
    unit="FLOPs",
    explain=lambda flops: (
        "A multiply-add is two, so who uses a number less than "
        f"{flops / 2:.0f} times leaves the arithmetic waiting."
    ),
)

# %% [markdown]
# So a device has a ratio of its own: the FLOPs that it can do while one byte arrives. It is called
# the *ridge*, for a reason that the next picture shows. A calculation has such a ratio too, the
# FLOPs that it does for each byte it moves: its *intensity*.
#
# $$ \text{ridge} = \frac{\text{peak FLOP/s}}{\text{bandwidth in bytes/s}} \qquad
#    \text{intensity} = \frac{\text{FLOPs}}{\text{bytes moved}} $$

# %% [markdown]
# The smallest case: add two vectors in float16. Each addition reads 4 bytes and writes 2, so its
# intensity is 1/6. Computing and moving go on at the same time, and the slower one decides:
#
# $$ \text{time} \ge \max\left(\frac{\text{FLOPs}}{\text{peak}},
#    \frac{\text{bytes moved}}{\text{bandwidth}}\right) $$

# %%
rates = {"on chip": 19e12, "main memory": a100.bytes_per_second}  # Dao et al. 2022, figure 1
for name, rate in rates.items():
    print(f"{name:<12} {rate / 1e12:5.2f} TB/s")
print(f"arithmetic, float16: {a100.peak('float16') / 1e12:.0f} TFLOP/s")
ridge = a100.flops_per_second / a100.bytes_per_second
print(f"ridge of the A100: {ridge:.0f} FLOPs per byte")
print(f"adding vectors can reach {1 / 6 / ridge:.2%} of its peak")

# %% [markdown] covers="A14 O9 P3"
# ### The intensity of attention
#
# Standard attention passes the square through the main memory four times: scores written, scores
# read, weights written, weights read. That is $4 b n^2$ bytes for $4 n^2 D$ FLOPs, an intensity of
# $D / b$: 32 in float16, 16 in float32, for heads of 64. It does not depend on $n$.


# %%
def standard(width, size=2, passes=4, n=4096):
    rows = 4 * n * width  # q, k, v read and out written, once
    return 4 * n * n * width / (size * (passes * n * n + rows))


print(f"float16, four passes: {standard(64):.1f} FLOPs per byte, with q, k, v and out counted too")
print(f"float32, four passes: {standard(64, size=4):.1f}")
print(f"float16, six passes:  {standard(64, passes=6):.1f}")
tiled = flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128, dtype_bytes=2)
print(f"float16, in tiles of 128 queries, no square written: {tiled.intensity:.1f}")
works = {"softmax alone": 5 / 4, "standard": standard(64), "in tiles": tiled.intensity}

# %% [markdown]
# The third line is for programs whose softmax is two steps, with the square written and read in
# between. You will meet all three: ask which type, and how many passes.
#
# The last line is [flash attention](09_flash.ipynb). It keeps a block of queries, a *tile*, on the
# chip while all keys pass by. Only its traffic differs, not its operations.

# %% [markdown] covers="A14 O3 O6 P4"
# ### The roofline
#
# Draw what a device can reach over the intensity: at first it rises with the bandwidth, then the
# peak of the arithmetic cuts it off. That is the *roofline*, and its edge is the ridge. Left of it
# a calculation is *memory-bound*, right of it *compute-bound*.

# %% [markdown]
# The softmax alone does 5 operations for 4 bytes. From how many queries a tile does attention in
# tiles cross the ridge?


# %% folded=true
live_roof = plots.LiveRoofline(a100, works, title=" ")


def draw_roof(device, width, block):
    tiled = flash.cost(1, 1, 4096, 4096, width, block_q=block, block_k=block, dtype_bytes=2)
    works.update({"standard": standard(width), "in tiles": tiled.intensity})
    live_roof.update(DEVICES[device], works, title=f"{device}, float16, heads of {width}")
    reached = {w: plots.attainable(DEVICES[device], x) for w, x in works.items()}
    words = ", ".join(f"{w} {r / DEVICES[device].flops_per_second:.0%}" for w, r in reached.items())
    return f"Of its peak the {device} can at most reach: {words}."


widths, blocks = (widgets.choice([16, 32, 64, 128, 256], start) for start in (64, 128))
names = ipywidgets.Dropdown(options=list(DEVICES), value="A100 40 GB")
widgets.explore(draw_roof, live_roof.figure, device=names, width=widths, block=blocks)

# %% [markdown]
# The softmax does 2 % of the operations, and stands at the far left: that is why it takes its
# time on a GPU. Does this machine have a roof too? A product of matrices and a copy of a large
# array show both its limits.

# %% tags=["nbval-ignore-output"]
cpu = this_cpu()
print(
    f"{cpu.flops_per_second / 1e9:.0f} GFLOP/s in float32, {cpu.bytes_per_second / 1e9:.0f} GB/s:"
)
print(f"the ridge of this machine is at {cpu.flops_per_second / cpu.bytes_per_second:.1f}")
reached = full.cost(1, 1, 2048, 2048, 64).flops / least_times[-1]
print(f"full attention reached {reached / cpu.flops_per_second:.0%} of its peak")

# %% [markdown]
# [Exercise 01.5](../exercises/01_bottleneck.ipynb#01.5-The-roofline) is the roofline as a function.

# %% [markdown] covers="O3 P4"
# ## A lie detector
#
# The fourth number, seconds, can be cross-examined. A time, a size and a device imply a throughput.
# Above the peak it is impossible; below one per cent of it, something else was measured, or a
# careless program. For 12 heads on an A100 chapter V gives 0.15 ms at 8192 tokens, chapter E 98 ms
# at 4096:

# %%
against = "against the float16 peak, least traffic"
print(against)
print("0.15 ms:", implied(0.15e-3, 8192, 64, heads=12, device=a100))
print("98 ms:  ", implied(98e-3, 4096, 64, heads=12, device=a100))

# %% [markdown]
# The peak asks for float16 on *tensor cores*, units for products of small matrices and for nothing
# else, and *least traffic* moves no square. Be generous: let the program use float32 without tensor
# cores, pass each square six times, and never compute while it moves.

# %%
flops, moved = 12 * 4 * 4096**2 * 64, 12 * 6 * 4096**2 * 4
careless = flops / a100.peak("float32") + moved / a100.bytes_per_second
print(f"a careless program: {careless * 1e3:.1f} ms; 98 ms is {98e-3 / careless:.0f} times that")

# %%
least = implied(0.15e-3, 8192, 64, heads=12, device=a100).least_seconds
claims.check("C137", f"{least * 1e3:.2f} ms at least, with nothing else to do")

# %% [markdown]
# Less than a quarter of what the arithmetic alone must take; and nobody sees it, because 0.15 ms
# sounds like a GPU. Now you: between which times is a claim about 4096 tokens believable? The dot
# stands where no square is moved; standard attention stands further left.

# %% folded=true
live_lie = plots.LiveRoofline(a100, {"this claim": 1000.0}, {"this claim": 1e12}, title=" ")


def draw_lie(milliseconds, n, device):
    found = implied(milliseconds / 1e3, n, 64, heads=12, device=DEVICES[device])
    intensity = found.flops_per_second / found.bytes_per_second
    speed, title = {"this claim": found.flops_per_second}, f"{device}, 12 heads of 64"
    live_lie.update(DEVICES[device], {"this claim": intensity}, speed, title)
    return f"{n} tokens in {milliseconds:g} ms on the {device}, {against}: {found}."


times = widgets.choice([0.02, 0.05, 0.1, 0.15, 0.3, 1.0, 3.0, 10.0, 30.0, 98.0, 390.0], 98.0)
sizes = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 4096)
names = ipywidgets.Dropdown(options=list(DEVICES), value="A100 40 GB")
widgets.explore(draw_lie, live_lie.figure, milliseconds=times, n=sizes, device=names)

# %% [markdown] covers="O4 O5 O11"
# ## What hardware likes
#
# Few bytes are not its only wish. It wants *many numbers at once*: a CPU through its vector
# instructions, a GPU through tensor cores, a TPU through a grid of 128 × 128 multipliers. It is
# built for products of matrices, and models for it. One dot product of 2000 numbers, in a Python
# loop and in NumPy:

# %%
x, y = random_qkv(1, 2000, width=2000)[1][0, 0, :2]


def loop():
    return sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))


times = {"Python loop": measure.seconds(loop), "NumPy": measure.seconds(np.dot, x, y)}
np.testing.assert_allclose(loop(), np.dot(x, y), rtol=1e-3)
plots.show(plots.bars(times, unit="s"), "One dot product of 2000 numbers, by a loop and by NumPy.")

# %% [markdown] covers="A16 A17 W6"
# ## Is all of it needed?
#
# *it* looked at the dog, and hardly at the eight other words. If rows were always like that, most
# of the square could be left out. Draw random scores with a given spread: what share of 4096 keys
# carries 90 % of the attention?

# %% folded=true
normal = np.random.default_rng(0).standard_normal(4096)
ranks = np.arange(1, 4097) / 4096
live_mass = plots.LiveCurves(
    ranks, {"mass": ranks}, x_label="share of the keys", y_label="share of the attention", high=1.0
)


def draw_mass(spread):
    mass = np.cumsum(np.sort(softmax(spread * normal[None])[0])[::-1])
    live_mass.update({"mass": mass}, f"scores spread by {spread:g}")
    needed = np.searchsorted(mass, 0.9) + 1
    return f"Spread {spread:g}: {needed / 4096:.1%} of the keys carry 90 % of the attention."


widgets.explore(draw_mass, live_mass.figure, spread=(0.0, 6.0, 0.5, 1.0))

# %% [markdown]
# It depends on the scores: at spread 1, what random queries and keys give, most keys are needed; at
# spread 4 hardly any. Trained heads are of several kinds. Here are five, made by hand, and below
# them the keys that a row needs for 90 %.

# %% folded=true
i, j = np.ogrid[:32, :32]
noise = np.random.default_rng(1).standard_normal((2, 32, 32))
kinds = {
    "neighbours": -np.abs(i - j) / 1.5,
    "the token before": -8.0 * (i - 1 != j),
    "one special token": np.where(j == 0, 6.0, 0.0) + 0 * i,
    "a few keys each": 3.0 * noise[0],
    "everything": 0.3 * noise[1],
}
fig, axes = plots.figure(1, 5, width=8.8, height=2.1)
for ax, (name, logits) in zip(axes, kinds.items(), strict=True):
    ax.imshow(softmax(logits), cmap="viridis", vmin=0)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=9)
plots.show(fig, "A band; a line beside the diagonal; one column; scattered cells; all cells.")

# %%
for name, logits in kinds.items():
    ordered = np.sort(softmax(logits), axis=1)[:, ::-1].cumsum(axis=1)
    needed = np.median((ordered < 0.9).sum(axis=1) + 1)  # the first token has none before it
    print(f"{name:<18} {needed:4.0f} of 32 keys carry 90 %")

# %% [markdown]
# A [window](04_window.ipynb) suits the first two, a [global token](05_sparse.ipynb) the third. The
# fourth needs few keys, but they have to be chosen by content. The last needs most of the square:
# there only its storage can be saved, by [tiles](09_flash.ipynb). What an approximation costs
# depends on which heads a task needs.

# %% [markdown] covers="P1 P6 Q1"
# ## All mechanisms on one picture
#
# What the course will offer: operations against memory at 4096 tokens, as each mechanism predicts
# them. Down and left is cheaper. Which ones save memory, but no operations?

# %% folded=true
points = {}
for mechanism in MECHANISMS.values():
    predicted = mechanism.reference.cost(1, 1, 4096, 4096, 64, **mechanism.values)
    points[mechanism.stem] = predicted.flops / 1e9, predicted.peak_bytes
axes = plots.scatter(points, x_unit="GFLOPs", y_unit="bytes", title="4096 tokens, one head")
cheapest = min(points, key=lambda stem: points[stem][0]).replace("_", " ")
plots.show(axes, f"Full attention is at the upper right; {cheapest} has the fewest operations.")

# %% [markdown]
# Fewer operations promise a speedup. You know by now why it need not arrive. A window of 128 at
# 2048 tokens, promised and measured:

# %%
sizes = 1, 1, 2048, 2048, 64
promised = full.cost(*sizes).flops / window.cost(*sizes, window=128).flops
q, k, v = random_qkv(2048)
arrived = least_times[-1] / shortest(window.attention, q, k, v, window=128)
print(f"promised: {promised:.1f} times faster")

# %% tags=["nbval-ignore-output"]
print(f"arrived: {arrived:.1f} times faster on this machine")

# %% [markdown]
# [Chapter 13](13_measuring.ipynb) measures ten of them.
#
# ## Your own text
#
# Put a text of yours between the quotes: a letter, a chapter, a log file. How much would BERT-base
# hold for it, if it had no limit of 512 tokens; and into which device would that go?

# %%
text = """The dog chased the ball until it was tired."""

n = math.ceil(len(text.split()) * 4 / 3)  # some 4 tokens for 3 words of English
need = n**2 * 4 * 144
fits = [name for name, memory in budgets if memory >= need]
print(f"about {n:,} tokens, {format_bytes(need)} of scores; fits into:")
print(", ".join(fits) or "nothing here")

# %% [markdown]
# Next: [chapter 02](02_attention.ipynb) takes attention apart, from one dot product to a decoder.
# In a hurry to save? [Chapter 04](04_window.ipynb) keeps the scores near the diagonal; [chapter
# 09](09_flash.ipynb) computes all of them, and stores no square.
