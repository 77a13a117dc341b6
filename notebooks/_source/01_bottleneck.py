# %% [markdown]
# # 01 · The bottleneck: where the bytes go
#
# Attention compares every token with every other. Here you count what that takes: bytes held,
# operations done, bytes moved, seconds passed. These are four different numbers. Most printed
# mistakes take one of them for another, or lose a factor on the way.
#
# **Run a cell with Shift + Enter.** Sliders move with the mouse or the arrow keys.
#
# <!-- summary: bytes held, operations, bytes moved and seconds, and the printed numbers that take
# one for another; what fits; the roofline; which times cannot be true. -->

# %% role="setup"
import itertools
import math

import numpy as np
import torch

from attncourse import MECHANISMS, claims, measure, plots, widgets
from attncourse.cost import DEVICES, implied, this_cpu
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, window
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="A1 A4-A6"
# ## What one head holds
#
# A head has a query, a key and a value for each of $n$ tokens, each $D$ numbers wide. Every query
# scores every key:
#
# $$ S = \tfrac{1}{\sqrt D}\, Q K^\top \in \mathbb R^{n \times n}, \qquad
#    P = \operatorname{softmax}(S), \qquad O = P V \in \mathbb R^{n \times D} $$
#
# Six arrays. For 1024 tokens of width 64, how many times larger than $Q$ is the largest?

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n, width=width))
scores = q @ k.T / np.sqrt(width, dtype=np.float32)
weights = softmax(scores)
out = weights @ v
arrays = {"q": q, "k": k, "v": v, "scores": scores, "weights": weights, "out": out}
for name, array in arrays.items():
    print(f"{name:<8} {array.shape!s:<13} {format_bytes(array.nbytes):>9}")

# %%
np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-6)
print("scores are", scores.nbytes // q.nbytes, "times q; the six arrays give full attention")

# %% [markdown]
# The ratio is $n / D$. Double the text and it doubles. The inputs hardly matter; the two square
# matrices do.
#
# How long does each array have to live? In inference the scores may go as soon as the weights are
# there. In training the weights stay until the backward pass has used them, and two more squares
# come to life.

# %%
steps = ["scores", "softmax", "out", "grad of weights", "grad of scores", "grads of q, k"]
spans = {"q, k": (0, 6), "v": (0, 4), "scores  n × n": (0, 2), "weights  n × n": (1, 5)}
spans |= {"out": (2, 4), "grad of weights  n × n": (3, 5), "grad of scores  n × n": (4, 6)}
axes = plots.figure(height=3.0)[1]
for row, (name, (born, gone)) in enumerate(spans.items()):
    square = "×" in name
    axes.barh(row, gone - born, left=born, height=0.8 if square else 0.15, color=plots.INK)
axes.set(yticks=range(len(spans)), yticklabels=spans, xticks=np.arange(6) + 0.5)
axes.set_xticklabels(steps, fontsize=8)
axes.axvline(3, color="#777777", linestyle=":")
axes.set_title("forward pass   |   backward pass", fontsize=9)
axes.invert_yaxis()
plots.show(axes, "Thick bars are squares. Only the weights bridge forward and backward pass.")

# %% [markdown] covers="A8 A21"
# ## Bytes have units
#
# One score matrix, 4096 tokens, float32. One text calls it 64 MB, another 67 MB. Who is right?

# %%
matrix_bytes = 4096**2 * 4
print(f"{matrix_bytes:,} bytes")
print(format_bytes(matrix_bytes), "in powers of 2 (1 MiB = 1024 · 1024 bytes)")
print(format_bytes(matrix_bytes, decimal=True), "in powers of 10")

# %%
why = "both are right; the texts mix powers of 2 and of 10 and call both MB"
claims.check("C480", f"{matrix_bytes / 2**20:.0f} MiB = {matrix_bytes / 1e6:.1f} MB", why)

# %% [markdown]
# The gap is small, and grows with the prefix. Then somebody multiplies the one and labels it with
# the other:

# %%
print(f"MiB is {2**20 / 1e6 - 1:.1%} more than MB, GiB {2**30 / 1e9 - 1:.1%} more than GB")
all_heads = 16384**2 * 4 * 144
why = "1074 MB times 144 heads is 154.7 GB; 151 divides by 1024 once"
claims.check("C313", all_heads / 1e9, why)
claims.check("C314")

# %% [markdown]
# The larger slip is to count numbers and print bytes. $Q$, $K$ and $V$ together hold $3nd$
# *elements*, $d$ being the width of all heads:

# %%
elements = 3 * 4096 * 768
claims.check(
    "C307",
    f"{elements / 1e6:.1f} million elements, {elements * 4 / 1e6:.1f} MB",
    "elements were called bytes; in float32 it is four times as much",
)

# %% [markdown] covers="A3 A10 A20"
# ## Six factors
#
# One matrix of one head is never the bill. A model has $h$ heads in each of $L$ layers and works on
# a batch of $B$ texts:
#
# $$ \text{bytes} = n^2 \cdot b \cdot h \cdot L \cdot B $$
#
# Here it is for BERT-base: 12 heads, 12 layers, $b = 4$ bytes a number, and 8 texts of 4096 tokens.
# Guess the last line.

# %%
n_bytes = 4096**2
print(f"{'entries of one matrix':<22} {n_bytes:>15,}")
for name, factor in {"bytes": 4, "heads": 12, "layers": 12, "batch": 8}.items():
    n_bytes *= factor
    print(f"{'× ' + str(factor) + ' ' + name:<22} {n_bytes:>15,}  {format_bytes(n_bytes)}")

# %% [markdown]
# A number with the wrong factors looks like any other number. But one can ask: *which* factor must
# be missing for the printed value to come out?


# %%
def forgotten(printed, **factors):
    """Return the smallest sets of factors without which the product is within 8 % of `printed`."""
    for size in range(len(factors)):
        found = [
            left
            for left in itertools.combinations(factors, size)
            if abs(math.prod(factors[f] for f in factors if f not in left) / printed - 1) < 0.08
        ]
        if found:
            return found
    return []


# %%
print("C285:", forgotten(6.4e9, n=4096, n_=4096, bytes=4, heads=12, layers=12, batch=8))
print("C002:", forgotten(2.0e9, n=8192, n_=8192, bytes=4, heads=32))

# %% [markdown]
# Two slips in the first line would explain it: the heads or the layers, both 12. The text's own
# words, "67 × 12 × 8", settle it: 67 MB is one head, so the heads are missing.

# %%
claims.check("C285", 4096**2 * 4 * 12 * 12 * 8 / 1e9, "67 MB is one head; 12 heads are forgotten")
entries = 8192**2 * 32
claims.check("C002", f"{entries / 1e9:.2f} billion entries; {entries * 2 / 1e9:.2f} in float16")

# %% [markdown]
# How many heads there are depends on the model; and queries may have more heads than keys and
# values, which chapter 12 uses:

# %%
claims.check("C004", "12 in BERT-base, the example of this chapter")

# %% [markdown] covers="A7 A8"
# **Exercise 01.1** is this bill with all its factors.
#
# ## 768 is not a head
#
# BERT-base is 768 wide and has 12 heads of 64. The texts know that, and still put 768 where 64
# belongs. Does it matter? Keep $d = h \cdot D = 768$ and change $h$. Which of the two bars moves?


# %%
def layer(n, heads):
    return {"scores of all heads": heads * n**2 * 4, "q, k, v and out": 4 * n * 768 * 4}


live_heads = plots.LiveBars(layer(1024, 12), unit="bytes", title=" ")


# %%
def draw_heads(n, heads):
    parts = layer(n, heads)
    live_heads.update(parts, f"{n} tokens, d = 768, {heads} heads of {768 // heads}")
    squares, inputs = parts.values()
    return f"{n} tokens, {heads} heads: the scores are {squares / inputs:.1f} times the rest."


n_choice = widgets.choice([128, 256, 512, 1024, 2048, 4096], 1024)
head_choice = widgets.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 32], 12)
widgets.explore(draw_heads, live_heads.figure, n=n_choice, heads=head_choice)

# %% [markdown]
# Every head has its own square. The inputs are shared out among the heads and stay the same.
# So "one head of width 768" hides eleven squares of twelve:

# %%
claims.check("C234", 768 // 12, "BERT-base has 12 heads of 64; a single one hides 11 squares")

# %% [markdown]
# The state of linear attention (chapter 07) is $h \cdot D \cdot D = d^2 / h$ numbers. There the
# same slip goes the other way. Three values stand in one chapter for this one quantity:

# %%
state = {dtype: 12 * 64 * 64 * size for dtype, size in {"float32": 4, "float16": 2}.items()}
claims.check("C162", f"{state['float16'] / 1e6:.3f}")
claims.check(
    "C118",
    f"{state['float32'] / 1e6:.3f}, and the same for every n",
    "the printed row grows with n: it is proportional to 144·n·4 bytes, which means nothing",
)

# %% [markdown] covers="P16"
# ## A table, recomputed
#
# Chapter V prints the memory of five methods at four lengths, for 12 heads in float32. Here is the
# whole table again. Cells that do not come out show the right value behind ✗. Before you run it:
# how many of 20 are wrong?

# %%
starts = {"full": 106, "local": 110, "sparse": 114, "linear": 118, "low rank": 122}
print(f"{'MB':<9}" + "".join(f"{n:>18}" for n in (512, 4096, 8192, 16384)))
for method, start in starts.items():
    row = f"{method:<9}"
    for number in range(start, start + 4):
        claim = claims.get(f"C{number}")
        right = claim.verdict == "holds"
        found = "" if right else f" ✗ {claims.recompute(claim.id):.3g}"
        row += f"{claim.printed + found:>18}"
    print(row)

# %%
wrong = [c for c in claims.find(topic="memory table") if c.verdict != "holds"]
print(len(wrong), "of 20 are wrong:", ", ".join(claim.id for claim in wrong))
claims.check("C114")

# %% [markdown]
# The row of linear attention is the slip from above. The conclusions drawn from it fall with it,
# and so do others that leave out the layers:

# %%
claims.check("C128", f"{40e9 / 9.4e6:,.0f} with the printed 9.4 MB, as many as that state fits")
one_layer = 12 * 16384 * 256 * 4 * 32 / 1e9
why = "one layer; training keeps the weights of all 12"
claims.check("C127", f"{one_layer:.1f} for one layer, {12 * one_layer:.0f} for 12", why)

# %% [markdown]
# Chapter E ranks memory by another such table. Its winner needs two projections that it does not
# count:

# %%
qkv = 3 * 4096 * 768
window_mb = (4096 * 512 + qkv) * 4 / 1e6
linformer_mb = (2 * 256 * 768 + 4096 * 256 + qkv) * 4 / 1e6
with_projections = linformer_mb + 2 * 256 * 4096 * 4 / 1e6
print(f"window {window_mb:.1f} MB, Linformer {linformer_mb:.1f} MB as printed")
claims.check("C407", f"{with_projections:.1f} with the projections, against {window_mb:.1f}")

# %% [markdown]
# Flash attention (chapter 09) keeps one number a query, not two:

# %%
kept = 16384 * 4 * 144 / 1e6
claims.check("C316", f"{2 * kept:.1f} for maximum and sum, {kept:.1f} for their log-sum-exp")

# %% [markdown] covers="A11 A12 A18 N9 O3 P2"
# ## Growth
#
# $$ \frac{\text{bytes}(a\,n)}{\text{bytes}(n)} = a^2 $$
#
# From 512 tokens to 8192 the text becomes 16 times longer. And the matrix? Decide, then run.

# %%
for n in (512, 1024, 2048, 4096, 8192, 16384):
    n_bytes = n**2 * 4
    print(f"n = {n:>5}: {format_bytes(n_bytes):>9} a head, {(n // 512) ** 2:>4} times 512's")

# %% [markdown]
# BERT stopped at 512 tokens and GPT-2 at 1024. Now look at what people want to read. The lengths
# below follow from stated assumptions, one for each kind of input.

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
# All of it on one axis, with the memory of real GPUs and of two small devices. The slider walks
# through the inputs. Where does a single head leave the largest GPU?

# %%
axis = 2 ** np.arange(7, 22)
budgets = [(device.name, device.memory_bytes) for device in DEVICES.values()]
budgets += [("phone", 8 * 10**9), ("single-board computer", 10**9)]


def scores_bytes(heads, size):
    return {"scores of one layer": axis.astype(float) ** 2 * heads * size}


live_budget = plots.LiveBudget(axis, scores_bytes(1, 4), budgets, at=512, low=1e4, high=1e15)


# %%
def draw_budget(what, heads, dtype):
    n, size = inputs[what], np.dtype(dtype).itemsize
    live_budget.update(scores_bytes(heads, size), at=n)
    need = n**2 * heads * size
    fits = sum(memory >= need for _, memory in budgets)
    return f"{what}: {format_bytes(need)} a layer. It fits into {fits} of {len(budgets)} devices."


dtypes = ["float32", "float16"]
widgets.explore(
    draw_budget, live_budget.figure, what=list(inputs), heads=(1, 32, 1, 1), dtype=dtypes
)

# %% [markdown] covers="A15 A19 N9"
# ## What fits needs a subtraction
#
# "38.6 GB exceeds a 40 GB card": says a chapter, twice. Compare before you multiply further, and
# subtract what is already there.

# %%
need = 8192**2 * 4 * 144
print(f"needed {need / 1e9:.2f} GB of 40 GB: {40 - need / 1e9:.2f} GB are left")
why = "it fits, and leaves no room for weights and activations: that should have been said"
claims.check("C194", f"{need / 40e9:.1%} of the card", why)
claims.check("C286", f"{need / 40e9:.1%} of the card", "the same sentence again")
nearly = 4096**2 * 4 * 144 / 16e9
claims.check("C187", f"{nearly:.0%} of the card", "two fifths are free")

# %%
for id, need in {"C056": 4096**2 * 12 * 4 * 32, "C126": 16384**2 * 12 * 4}.items():
    fits = [name for name, size in budgets if size >= need]
    claims.check(id, f"{need / 1e9:.1f}", f"it fits into: {', '.join(fits)}")

# %% [markdown]
# How many texts fit? The model comes first: a Transformer layer has about $12 d^2$ parameters, and
# training with Adam keeps 16 bytes for each. The rest is shared by the texts.
#
# $$ B = \left\lfloor
#    \frac{\text{memory} - 16 \cdot 12 d^2 L}{\text{bytes of one text}} \right\rfloor $$


# %%
def texts_that_fit(memory, n, layers=12, heads=12, d=768, size=4):
    left = memory - 16 * 12 * d**2 * layers
    inputs_and_out = 4 * n * d * layers * size
    squares = {"full": n * n, "window 128": window.count(n, n, window=128), "flash": n}
    return {
        name: max(0, left) // (inputs_and_out + kept * heads * layers * size)
        for name, kept in squares.items()
    }


# %%
live_fit = plots.LiveBars(texts_that_fit(40 * 10**9, 2048), unit="texts")


def draw_fit(device, n, layers):
    counts = texts_that_fit(dict(budgets)[device], n, layers=layers)
    live_fit.update(counts, f"texts of {n} tokens in training, {layers} layers")
    words = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{device}: {words} texts at once."


sizes = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 2048)
names = widgets.choice([name for name, _ in budgets], "A100 40 GB")
widgets.explore(draw_fit, live_fit.figure, device=names, n=sizes, layers=(1, 48, 1, 12))

# %% [markdown] covers="A3 A7-A9"
# **Exercise 01.3** turns this round: the longest text that fits.
#
# ## The bill of training
#
# Parameters have gradients, and Adam keeps two moments for each. A survey says that gradients
# double the memory of the learnable part. What comes out with Adam?

# %%
parameters, gradients, moments = 1, 1, 2
claims.check("C007", (parameters + gradients + moments) / parameters)

# %% [markdown]
# Now everything at once. At which length do the squares overtake the model?


# %%
def training_bill(n, batch, layers, heads, d, size=4):
    model = 12 * d**2 * layers * size
    return {
        "parameters": model,
        "gradients": model,
        "Adam's moments": 2 * model,
        "q, k, v, out": 4 * n * d * layers * batch * size,
        "weights, kept": n**2 * heads * layers * batch * size,
        "two squares of backward": 2 * n**2 * heads * batch * size,
    }


# %%
live_bill = plots.LiveBars(training_bill(1024, 8, 12, 12, 768), unit="bytes", title=" ")


def draw_bill(n, batch, layers, heads):
    parts = training_bill(n, batch, layers, heads, 768)
    live_bill.update(parts, f"training, n = {n}, d = 768")
    total, squares = sum(parts.values()), sum(list(parts.values())[-2:])
    return f"Together {format_bytes(total)}; {squares / total:.0%} of it are n × n matrices."


sizes = widgets.choice([128, 256, 512, 1024, 2048, 4096, 8192], 512)
knobs = {"batch": (1, 64, 1, 8), "layers": (1, 48, 1, 12), "heads": (1, 48, 1, 12)}
widgets.explore(draw_bill, live_bill.figure, n=sizes, **knobs)

# %% [markdown] covers="A5 P5"
# ## What the backward pass really keeps
#
# "The forward pass keeps one n × n matrix per head, the backward pass adds further ones": no need
# to believe that. PyTorch tells which tensors it saves. How many squares will it be?


# %%
def saved_squares(attention, n=256):
    """Return how many different (n, n) tensors autograd keeps for the backward pass."""
    tensors = [torch.from_numpy(a).requires_grad_() for a in random_qkv(n)]
    kept = set()

    def keep(tensor):
        if tensor.shape[-2:] == (n, n):
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = attention(*tensors)
    return len(kept) if out.requires_grad else None


# %%
def attention_in_torch(q, k, v):
    return torch.softmax(q @ k.mT / 8, dim=-1) @ v


squares = saved_squares(attention_in_torch)
q, k, v = random_qkv(512)
forward = measure.peak_bytes(full.attention, q, k, v) / (512**2 * 4)
backward = measure.peak_bytes(full.backward, q, q, k, v) / (512**2 * 4)
print(f"PyTorch keeps {squares} square between forward and backward pass")
print(f"our NumPy code holds {forward:.1f} at most going forward, {backward:.1f} going back")

# %%
claims.check(
    "C005",
    f"{squares} kept; {round(forward)} at most in the forward pass, {round(backward)} in the other",
    "the weights are kept; the gradients of weights and scores come later",
)

# %% [markdown]
# Must it be kept at all? Chapter E says so, and refutes itself some pages later. Ask PyTorch's
# fused kernel the same question:

# %%
fused = saved_squares(torch.nn.functional.scaled_dot_product_attention)
claims.check("C183", f"{fused} squares kept by a fused kernel", "chapter 09 shows how that works")

# %% [markdown]
# And the operations? Two products forward, and backward two for each of them, besides those that
# are made again.

# %%
q, k, v = random_qkv(128)
forward_flops = measure.count_flops(full.attention, q, k, v)
backward_flops = measure.count_flops(full.backward, q, q, k, v)
print("forward ", forward_flops, "FLOPs =", forward_flops // (2 * 128**2 * 64), "products")
print("backward", backward_flops, "FLOPs: the scores again, and four more products")
assert backward_flops * 2 > 4 * forward_flops

# %% [markdown] covers="A2 P5"
# ## Operations, counted
#
# A multiply-add is two operations, in this course as in the data sheets of GPUs. Attention has two
# products of $n^2 D$ multiply-adds, and between them a softmax of about five operations a score:
#
# $$ \text{FLOPs} = \underbrace{2 n^2 D}_{QK^\top} + \underbrace{\sim 5 n^2}_{\text{softmax}}
#    + \underbrace{2 n^2 D}_{PV} $$

# %%
n, width = 1024, 64
q, k, v = (array[0, 0] for array in random_qkv(n, width=width))
products = {
    "q kᵀ": measure.count_flops(np.matmul, q, k.T),
    "weights · v": measure.count_flops(np.matmul, full.weights(q, k), v),
}
print(products, "together", measure.count_flops(full.attention, q, k, v))
assert sum(products.values()) == full.cost(1, 1, n, n, width).flops == 4 * n * n * width

# %%
live_parts = plots.LiveBars({"q kᵀ": 1.0, "softmax": 1.0, "weights · v": 1.0}, unit="GFLOPs")


def draw_parts(n, width):
    each = {"q kᵀ": 2 * width, "softmax": 5, "weights · v": 2 * width}
    parts = {name: n * n * number / 1e9 for name, number in each.items()}
    live_parts.update(parts, "operations of one head")
    share = parts["softmax"] / sum(parts.values())
    total = sum(parts.values())
    return f"n = {n}, D = {width}: {total:.3f} GFLOPs, of which the softmax is {share:.1%}."


sizes = widgets.choice([128, 256, 512, 1024, 2048, 4096], 1024)
widgets.explore(draw_parts, live_parts.figure, n=sizes, width=(8, 256, 8, 64))

# %% [markdown]
# The softmax looks negligible, whatever $n$ is. Remember that when its traffic comes up.
#
# Now three sentences about 4096 tokens. They take 12 heads for one, multiply-adds for operations,
# and one product for two:

# %%
per_head = measure.count_flops(np.matmul, q, k.T) * (4096 // 1024) ** 2
claims.check(
    "C080",
    f"{per_head / 2 / 1e9:.2f} G multiply-adds a head and product; "
    f"{12 * 2 * per_head / 1e9:.1f} G FLOPs for all heads and both products",
)
claims.check("C081", f"{12 * 4096 * 64**2 / 1e9:.2f} G multiply-adds a product")
claims.check("C082", 4096 / 64, "n / D with heads of 64; 768 was taken for the width of a head")

# %% [markdown]
# One paragraph of chapter V gives operation counts for 8192 tokens. Try every convention on the
# first of them, 48.3 G:

# %%
one_product = 8192**2 * 768
ways = {"one product, multiply-adds": 1, "both products, multiply-adds": 2, "both, FLOPs": 4}
for way, factor in ways.items():
    print(f"{factor * one_product / 1e9:6.1f} G  {way}")
claims.check("C129", 4 * one_product / 1e9, "no way of counting gives 48.3")

# %%
n, w, r = 8192, 256, 256
ratios = {
    "C131 local": n / w,
    "C133 sparse, √n": n / math.sqrt(n),
    "C134 linear": n / 64,
    "C135 low rank": n / r,
}
for name, ratio in ratios.items():
    id, _, method = name.partition(" ")
    print(f"{method:<12} printed {claims.get(id).printed:>4}×, by its own formula {ratio:6.1f}×")

# %%
for id in ("C130", "C132", "C134", "C135"):
    claims.check(id)

# %% [markdown] covers="A13 P2"
# **Exercise 01.2** counts operations forward and backward. **V2** goes over chapter E's standard
# case, **V6** over chapter V's exercise with three lengths.
#
# ## Operations are not time
#
# Does time follow $n^2$? Measure it. The slope of a line on doubly logarithmic paper is the
# exponent; what a call costs before it computes anything makes it smaller.

# %%
lengths = [256, 512, 1024, 2048]
often = {"repeats": 50, "at_least": 3, "at_most": 0.2}  # short calls more often than long ones
timings = [measure.seconds(full.attention, *random_qkv(n), **often) for n in lengths]
medians = [timing.median for timing in timings]
slope = np.polyfit(np.log(lengths), np.log(medians), 1)[0]

# %% tags=["nbval-ignore-output"]
for n, timing in zip(lengths, timings, strict=True):
    print(f"n = {n:>4}: {timing}")
print(f"slope {slope:.2f}")

# %% [markdown]
# Chapter E prints six times for the same mechanism on an A100. Here they are beside the points
# from above. Look at the steps, not at the heights: another machine may be faster, but it cannot
# bend the law.

# %%
printed_n = np.array([512, 1024, 2048, 4096, 8192, 16384])
printed = np.array([float(claims.get(f"C{number}").printed) / 1e3 for number in range(196, 202)])
every_n = [256, *printed_n.tolist()]
law = {"n²": [printed[-1] * (n / 16384) ** 2 for n in every_n]}
shown = {
    "this machine": medians + [np.nan] * 3,
    "chapter E's A100: printed": [np.nan, *printed],
}
axes = plots.growth(every_n, shown, law, unit="s")
plots.show(axes, "Printed: flat, then steep, flat and steep again. The law is a straight line.")

# %%
for i, number in enumerate(range(205, 210)):
    ratio = printed[i + 1] / printed[i]
    claim = claims.get(f"C{number}")
    step = f"{printed_n[i]:>5} to {printed_n[i + 1]:>5}"
    print(f"{claim.id}  {step}: {ratio:4.2f}-fold; n² asks for 4")
    assert abs(ratio - float(claim.printed)) < 0.01

# %%
claims.check("C203", f"{(4096 / 512) ** 2:.0f}", "eight times the length is 64 times the work")
claims.check("C202", 4 * 98, "four times the 98 ms at 4096; the table has 190 ms for it")
least = {n: claims.recompute(f"C{196 + i}") for i, n in enumerate((512, 1024, 2048, 4096))}
claims.check("C196", f"{least[512]:.2f} ms even unfused, in float32 and without tensor cores")

# %% [markdown]
# So the printed times are many times what even a careless program would need, and not by one
# constant factor. **Exercise 01.6** lets you hunt such tables.

# %%
for number, ms in zip(range(196, 202), printed * 1e3, strict=True):
    careless = claims.recompute(f"C{number}")
    times = ms / careless
    print(f"C{number}: printed {ms:6.0f} ms, careless {careless:5.2f} ms: {times:3.0f} times")

# %% [markdown] covers="A14 O1-O3 O6 O9 P3 P4"
# ## Where a byte lives
#
# A GPU has two kinds of memory that matter here. The one beside the arithmetic is small and fast,
# the other large and slow:

# %%
sram_bytes, multiprocessors = 192 * 1024, 108  # NVIDIA A100 whitepaper
a100 = DEVICES["A100 40 GB"]
levels = {
    "on chip, all multiprocessors": (sram_bytes * multiprocessors, 19e12),  # Dao et al. 2022
    "main memory (HBM)": (a100.memory_bytes, a100.bytes_per_second),
}
for name, (size, rate) in levels.items():
    print(f"{name:<29} {format_bytes(size):>9} at {rate / 1e12:5.2f} TB/s")
print(f"an A100 computes {a100.peak('float16') / 1e12:.0f} TFLOP/s in float16")

# %%
claims.check("C263", sram_bytes / 2**20, "192 KiB each; 20 MiB are those of all 108 together")

# %% [markdown]
# A calculation has to bring its numbers to the arithmetic. What counts is how often it uses each
# byte: its *intensity*, in FLOPs per byte moved. One text calls this "memory efficiency" and leaves
# out the unit.
#
# $$ \text{time} \ge \max\left(\frac{\text{FLOPs}}{\text{peak}},
#    \frac{\text{bytes moved}}{\text{bandwidth}}\right) $$

# %%
claims.check("C021", "with units: FLOPs per byte moved, or peak bytes over the bytes that must be")

# %% [markdown]
# Standard attention writes the scores, reads them for the softmax, writes the weights and reads
# them again; careful counting of its passes gives six. Each pass moves $2 n^2$ bytes in float16,
# for $4 n^2 D$ FLOPs in all. So its intensity does not depend on $n$. On which side of an A100's
# ridge does it stand?

# %%
unfused = 4 * 64 / (6 * 2)
ridge = a100.flops_per_second / a100.bytes_per_second
print(f"standard attention {unfused:.1f} FLOPs per byte, the A100's ridge at {ridge:.0f}")
tiled = flash.cost(1, 1, 4096, 4096, 64, block_q=128, block_k=128, dtype_bytes=2)
print(f"in tiles of 128 queries, nothing written between: {tiled.intensity:.0f}")

# %% [markdown]
# Left of the ridge memory is the limit, right of it arithmetic. That is the *roofline*. Choose a
# device, a head width and a tile. When does tiled attention cross the ridge?


# %%
def intensities(width, block):
    tiled = flash.cost(1, 1, 4096, 4096, width, block_q=block, block_k=block, dtype_bytes=2)
    return {"softmax alone": 5 / 4, "standard": 4 * width / 12, "in tiles": tiled.intensity}


live_roof = plots.LiveRoofline(a100, intensities(64, 128), title=" ")


# %%
def draw_roof(device, width, block):
    works, chosen = intensities(width, block), DEVICES[device]
    live_roof.update(chosen, works, title=f"{device}, float16, heads of {width}")
    peak = chosen.flops_per_second
    words = ", ".join(f"{w} {plots.attainable(chosen, x) / peak:.0%}" for w, x in works.items())
    return f"Of its peak the {device} can at most reach: {words}."


widths, blocks = widgets.choice([16, 32, 64, 128, 256], 64), [128, 16, 32, 64, 256]
names = widgets.choice(list(DEVICES), "A100 40 GB")
widgets.explore(draw_roof, live_roof.figure, device=names, width=widths, block=blocks)

# %% [markdown]
# The operations are the same in both cases; only the traffic differs. That is why "FLOPs" predicts
# so little. The softmax, so few of the operations, causes most of the traffic.
#
# And this machine? Two small measurements give its own roof: a product of matrices, and a copy.

# %% tags=["nbval-ignore-output"]
cpu = this_cpu()
print(f"{cpu.flops_per_second / 1e9:.0f} GFLOP/s in float32, {cpu.bytes_per_second / 1e9:.0f} GB/s")
reached = full.cost(1, 1, 2048, 2048, 64).flops / medians[-1]
share = reached / cpu.flops_per_second
print(f"full attention at 2048 reached {reached / 1e9:.0f} GFLOP/s, {share:.0%} of the peak")

# %% [markdown] covers="O3 P4"
# **Exercise 01.5** is the roofline as a function.
#
# ## A lie detector
#
# A time, a size and a device imply a throughput. Above the peak it is impossible. Far below one
# per cent of it, something else was measured. Take the printed 98 ms:

# %%
verdict = implied(0.098, 4096, 64, heads=12, device=a100)
print(verdict)
claims.check("C204", f"{verdict.flops_per_second / 1e12:.2f}", "0.17 % of what the A100 can do")

# %%
verdict = implied(0.15e-3, 8192, 64, heads=12, device=a100)
print(verdict)
claims.check("C137", f"{verdict.share:.1f} times the A100's peak would be needed")
claims.check("C138", "FLOPs over peak, as if nothing had to be moved or started")

# %% [markdown]
# One chapter gives 0.15 ms, the other 190 and 390 ms for the same work. Now you: which times are
# believable for 4096 tokens?

# %%
live_lie = plots.LiveRoofline(a100, {"this claim": 1000.0}, {"this claim": 1e12}, title=" ")


# %%
def draw_lie(milliseconds, n, device):
    found = implied(milliseconds / 1e3, n, 64, heads=12, device=DEVICES[device])
    intensity = found.flops_per_second / found.bytes_per_second
    speed, title = {"this claim": found.flops_per_second}, f"{device}, 12 heads of 64"
    live_lie.update(DEVICES[device], {"this claim": intensity}, speed, title)
    return f"{n} tokens in {milliseconds:g} ms on the {device}: {found}."


# %%
times = widgets.choice([0.02, 0.05, 0.1, 0.15, 0.3, 1.0, 3.0, 10.0, 30.0, 98.0, 390.0], 98.0)
sizes = widgets.choice([512, 1024, 2048, 4096, 8192, 16384], 4096)
names = widgets.choice(list(DEVICES), "A100 40 GB")
widgets.explore(draw_lie, live_lie.figure, milliseconds=times, n=sizes, device=names)

# %% [markdown] covers="O4 O5 O7 O11"
# ## What hardware likes
#
# Hardware has two more wishes. It wants *many numbers at once*: a CPU through its vector
# instructions, a GPU through tensor cores, a TPU through a grid of 128 × 128 multipliers. Here is
# one dot product, in a Python loop and in NumPy. Guess the factor.

# %%
x, y = random_qkv(1, 2000, width=2000)[1][0, 0, :2]


def loop():
    return sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))


times = {"Python loop": measure.seconds(loop), "NumPy": measure.seconds(np.dot, x, y)}
np.testing.assert_allclose(loop(), np.dot(x, y), rtol=1e-3)

# %%
plots.show(plots.bars(times, unit="s"), "One dot product of 2000 numbers, by a loop and by NumPy.")

# %% [markdown]
# Algorithms are built for such hardware, and hardware for such algorithms: tensor cores exist since
# products of matrices are what models do. And hardware wants *sizes that fill its tiles*. What does
# a side of 65 pay for, in tiles of 64?

# %%
for size in (64, 65, 80, 96, 128):
    paid = {tile: -(-size // tile) * tile for tile in (8, 16, 64)}
    print(f"side {size:>3}:", ", ".join(f"tiles of {t:>2} pay for {p:>3}" for t, p in paid.items()))
claims.check("C142")

# %% [markdown] covers="A16 A17 W6"
# ## Is all of it needed?
#
# Every later chapter lives on one hope: that most weights do not matter. Is that so? Draw random
# scores with a given spread and sort the weights of a row. What share of the keys carries 90 % of
# the attention?

# %%
generator = np.random.default_rng(0)
normal = generator.standard_normal(4096)
ranks = np.arange(1, 4097) / 4096
live_mass = plots.LiveCurves(
    ranks, {"share of the attention": ranks}, x_label="share of the keys", y_label="", high=1.0
)


# %%
def draw_mass(spread):
    mass = np.cumsum(np.sort(softmax(spread * normal[None])[0])[::-1])
    live_mass.update({"share of the attention": mass}, f"scores spread by {spread:g}")
    needed = np.searchsorted(mass, 0.9) + 1
    return f"Spread {spread:g}: {needed / 4096:.1%} of the keys carry 90 % of the attention."


widgets.explore(draw_mass, live_mass.figure, spread=(0.0, 6.0, 0.5, 1.0))

# %% [markdown]
# It depends on the scores alone. At spread 1, what random inputs give, most keys are needed; at
# spread 4 hardly any. Trained heads are of many kinds. Five of them, made by hand: which chapter
# would you want for each?

# %%
i, j = np.ogrid[:32, :32]
kinds = {
    "neighbours": -np.abs(i - j) / 1.5,
    "the token before": -8.0 * (i - 1 != j),
    "one special token": np.where(j == 0, 6.0, 0.0) + 0 * i,
    "a few keys each": 3.0 * generator.standard_normal((32, 32)),
    "everything": 0.3 * generator.standard_normal((32, 32)),
}

# %%
fig, axes = plots.figure(1, 5, width=8.8, height=2.1)
for ax, (name, logits) in zip(axes, kinds.items(), strict=True):
    ax.imshow(softmax(logits), cmap="viridis", vmin=0)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=9)
plots.show(
    fig, "A band; a line beside the diagonal; one column; scattered cells; something everywhere."
)

# %%
for name, logits in kinds.items():
    ordered = np.sort(softmax(logits), axis=1)[:, ::-1].cumsum(axis=1)
    needed = (ordered < 0.9).sum(axis=1).mean() + 1
    print(f"{name:<18} {needed:4.0f} of 32 keys carry 90 %")

# %% [markdown] covers="P1 P6 Q1"
# Windows (chapter 04) for the first two, global tokens (05) for the third, content (08) for the
# fourth. For the last only exact attention will do: tiled, so that it fits (09).
#
# ## All mechanisms on one picture
#
# Operations against memory, for 4096 tokens, as each mechanism predicts them. Down and left is
# cheaper. Nothing here is measured yet: that is chapter 13.

# %%
points = {}
for mechanism in MECHANISMS.values():
    predicted = mechanism.reference.cost(1, 1, 4096, 4096, 64, **mechanism.values)
    points[mechanism.stem] = predicted.flops / 1e9, predicted.peak_bytes
axes = plots.scatter(points, x_unit="GFLOPs", y_unit="bytes", title="4096 tokens, one head")
cheapest = min(points, key=lambda stem: points[stem][0])
plots.show(axes, f"Full attention is at the upper right; {cheapest} has the fewest operations.")

# %% [markdown]
# Fewer operations promise a speedup; what arrives is less. A window of 128 needs a fraction of the
# operations of full attention at 2048 tokens. And of the time?

# %%
q, k, v = random_qkv(2048)
sizes = 1, 1, 2048, 2048, 64
promised = full.cost(*sizes).flops / window.cost(*sizes, window=128).flops
arrived = medians[-1] / measure.seconds(window.attention, q, k, v, window=128, repeats=3).median
print(f"promised: {promised:.1f} times faster")

# %% tags=["nbval-ignore-output"]
print(f"arrived: {arrived:.1f} times faster on this machine")

# %% [markdown]
# ## What you take with you
#
# - Bytes held, operations, bytes moved and seconds are four numbers. Say which one you mean.
# - Six factors: $n^2$, bytes, heads, layers, batch, and how many squares live at once.
# - A claim of time implies a throughput. Compute it before you believe it.
# - Standard attention is limited by traffic, not by arithmetic: fewer bytes can beat fewer FLOPs.
#
# Now open `exercises/01_bottleneck.ipynb`: six exercises, V2 and V6; one of them grades memory.
