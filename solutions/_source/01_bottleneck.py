# %% [markdown]
# # 01 Exercises: the bottleneck
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("01.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# One multiply-add is 2 FLOPs. A text has n tokens; a head is `width` numbers wide, and all heads
# together are d = heads · width wide. GB are powers of 10.

# %% role="setup"
import math

import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.grading.writing import Memory, Spec, case, draws, edit, qkv
from attncourse.reference import full as reference
from attncourse.softmax import softmax

# %% [markdown] role="prompt" exercise="01.1"
# ## 01.1 The bill of training
#
# *12 minutes · difficulty 1 of 3 · 2 points*
#
# What does training a Transformer hold, if nothing is recomputed? A layer has 12·d² parameters.
# Adam keeps two moments for each, always in float32.
#
# [Its section](../notebooks/01_bottleneck.ipynb#The-bill-of-training)

# %% [markdown] role="prompt" exercise="01.1"
# Return a dict of bytes: `parameters`; `gradients`, one for each; `moments`; `rows`: q, k, v and
# the output in all layers and texts; `weights`, the attention weights in all heads, layers and
# texts; `total`. All but the moments take `bytes_per_number`.
#
# `training_bytes(3, 1, 1, 2, 2, 2)`: 384, 384, 1536, 96, 36, 2436.


# %% role="answer" exercise="01.1"
def training_bytes(n, batch, layers, heads, width, bytes_per_number):
    """Return the bytes that training holds, part by part, for texts of n tokens."""
    # BEGIN SOLUTION
    d = heads * width
    parameters = 12 * d**2 * layers
    parts = {
        "parameters": parameters * bytes_per_number,
        "gradients": parameters * bytes_per_number,
        "moments": parameters * 2 * 4,
        "rows": 4 * n * d * layers * batch * bytes_per_number,
        "weights": n**2 * heads * layers * batch * bytes_per_number,
    }
    return parts | {"total": sum(parts.values())}
    # END SOLUTION


# %% role="check" exercise="01.1"
check("01.1")

# %% [markdown] role="hints" exercise="01.1"
# 1. Write down for each part which of n, batch, layers and heads it has to be multiplied by.
# 2. Parameters know neither n nor batch. Rows of q, k, v and out are heads · width numbers wide.
#    Only the weights have n².
# 3. parameters: 12·(heads·width)²·layers numbers; moments: 2·4 bytes for each of them, whatever
#    bytes_per_number is; rows: 4·n·heads·width·layers·batch numbers; weights:
#    n²·heads·layers·batch numbers.


# %% role="spec" exercise="01.1"
def bytes_by_layer(n, batch, layers, heads, width, bytes_per_number):
    block = 12 * (heads * width) ** 2
    layer = {
        "parameters": block * bytes_per_number,
        "gradients": block * bytes_per_number,
        "moments": block * 8,
        "rows": batch * 4 * n * heads * width * bytes_per_number,
        "weights": batch * heads * n * n * bytes_per_number,
    }
    return {name: layers * part for name, part in (layer | {"total": sum(layer.values())}).items()}


Spec(
    kind="number",
    cases=[
        case("1 of each", 1, 1, 1, 1, 1, 1),
        case("3 tokens, float32", 3, 1, 1, 1, 7, 4),
        case("5 heads, float16", 3, 1, 1, 5, 7, 2),
        case("11 layers", 3, 1, 11, 5, 7, 4),
        case("batch 13", 3, 13, 11, 5, 7, 4),
        case("BERT-base, 8 texts of 4096", 4096, 8, 12, 12, 64, 4),
        *draws(3, lambda rng: (*rng.integers(2, 40, 5), 2)),
    ],
    mistakes=[
        edit("n**2 * heads", "n**2",
             says="your weights are those of a single head",
             next="each head has a square of its own: multiply by heads"),
        edit("heads * width", "width",
             says="your d is the width of one head",
             next="d is that of the whole layer: heads · width"),
        edit("n * d", "n * width",
             says="your rows are as wide as one head",
             next="q, k, v and out of all heads are heads · width numbers wide"),
        edit("4 * n", "3 * n",
             says="your rows count q, k and v, but not the output",
             next="four arrays of rows are kept: q, k, v and out"),
        edit("2 * 4", "4",
             says="your optimizer keeps one number for each parameter",
             next="Adam keeps two: the mean of the gradients and the mean of their squares"),
        edit("2 * 4", "2 * bytes_per_number",
             says="your moments take bytes_per_number each",
             next="Adam's moments are float32 here, 4 bytes each, whatever the model's type is"),
        edit("layers * batch", "batch",
             says="your activations are those of one layer",
             next="training keeps them in all layers until the backward pass: multiply by layers"),
        edit("d**2 * layers", "d**2 * layers * batch",
             says="your model is held once for each text of the batch",
             next="all texts share the parameters, gradients and moments"),
        edit(" * bytes_per_number", "",
             says="you counted numbers, not bytes",
             next="multiply by bytes_per_number"),
    ],
    alternatives=[bytes_by_layer, edit("d**2", "d * d", "n**2", "n * n", "2 * 4", "8")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="01.2"
# ## 01.2 Operations, forward and backward
#
# *10 minutes · difficulty 2 of 3 · 2 points*
#
# FLOPs of one head's products, the softmax aside. Return a dict: `forward`; `backward`, the
# gradients of q, k and v if the weights were kept; `recomputing`, if the scores are made again.
#
# `attention_flops(2, 3, 5, 4)`: 108, 216, 276.
#
# [Its section](../notebooks/01_bottleneck.ipynb#Operations,-counted)


# %% role="answer" exercise="01.2"
def attention_flops(n_queries, n_keys, width, value_width):
    """Return the FLOPs of q (n_queries, width), k (n_keys, width), v (n_keys, value_width)."""
    # BEGIN SOLUTION
    scores = 2 * n_queries * n_keys * width
    out = 2 * n_queries * n_keys * value_width
    backward = 2 * scores + 2 * out  # each product has a gradient for either factor
    return {"forward": scores + out, "backward": backward, "recomputing": backward + scores}
    # END SOLUTION


# %% role="check" exercise="01.2"
check("01.2")

# %% [markdown] role="hints" exercise="01.2"
# 1. A product of (a, b) and (b, c) takes 2·a·b·c FLOPs. List the products and their shapes.
# 2. Forward: scores and output. Backward: each forward product has two gradients, one for each of
#    its factors, and each of those is a product of the same three sizes.
# 3. forward = 2·Tq·Tk·(D + Dv); backward is twice that; recomputing adds the scores once more,
#    2·Tq·Tk·D.


# %% role="spec" exercise="01.2"
def flops_by_products(n_queries, n_keys, width, value_width):
    scores, out = (n_queries, width, n_keys), (n_queries, n_keys, value_width)
    d_values, d_weights = (n_keys, n_queries, value_width), (n_queries, value_width, n_keys)
    d_queries, d_keys = (n_queries, n_keys, width), (n_keys, n_queries, width)
    parts = {"forward": [scores, out], "backward": [d_values, d_weights, d_queries, d_keys]}
    parts["recomputing"] = [scores, *parts["backward"]]
    return {name: sum(2 * math.prod(sizes) for sizes in part) for name, part in parts.items()}


Spec(
    kind="number",
    cases=[
        case("1 of each", 1, 1, 1, 1),
        case("2 queries, 3 keys", 2, 3, 1, 1),
        case("width 5", 2, 3, 5, 5),
        case("values wider than keys", 2, 3, 5, 7),
        case("4096 tokens, heads of 64", 4096, 4096, 64, 64),
        case("one query, 10⁹ keys", 1, 10**9, 128, 128),
        *draws(4, lambda rng: rng.integers(2, 300, 4)),
    ],
    mistakes=[
        edit("2 * scores + 2 * out", "scores + out",
             says="your backward pass is as long as the forward pass",
             next="each product has two factors, and each factor a gradient of its own"),
        edit("= 2 * n_queries", "= n_queries",
             says="your FLOPs are half: you counted multiply-adds",
             next="one multiply-add is 2 FLOPs"),
        edit("backward = ", "softmax = 5 * n_queries * n_keys\n    backward = softmax + ",
             "scores + out,", "scores + out + softmax,",
             says="you counted the softmax too",
             next="leave it out: these are the FLOPs of the matrix products"),
        edit("n_keys", "n_queries",
             says="your number has as many keys as queries",
             next="pairs are n_queries · n_keys"),
        edit("value_width", "width",
             says="your values are as wide as the keys",
             next="the output's product has value_width columns"),
        edit("2 * scores + 2 * out", "3 * scores + 3 * out",
             says="your backward pass contains the forward pass",
             next="count the four gradient products alone"),
        edit("backward + scores", "backward + scores + out",
             says="your recomputation makes the output again",
             next="only the weights are needed: the scores once more, not their product with v"),
    ],
    alternatives=[
        flops_by_products,
        edit("2 * scores + 2 * out", "4 * n_queries * n_keys * (width + value_width)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="01.3"
# ## 01.3 The longest text that fits
#
# *8 minutes · difficulty 1 of 3 · 1 point*
#
# Of `memory_bytes` some are used. What is the largest n whose n² scores in all heads, layers and
# texts of the batch fit into the rest? The answer is exact.
#
# `longest_text(100, 36, 1, 1, 1, 4)` is `4`.
#
# [Its section](../notebooks/01_bottleneck.ipynb#What-fits-needs-a-subtraction)


# %% role="answer" exercise="01.3"
def longest_text(memory_bytes, used_bytes, heads, layers, batch, bytes_per_number):
    """Return the largest n as an int, 0 if nothing fits."""
    # BEGIN SOLUTION
    free = max(0, memory_bytes - used_bytes)
    return math.isqrt(free // (heads * layers * batch * bytes_per_number))
    # END SOLUTION


# %% role="check" exercise="01.3"
check("01.3")

# %% [markdown] role="hints" exercise="01.3"
# 1. First subtract. Then ask how many squares of one byte would fit, and shrink from there.
# 2. n²·heads·layers·batch·bytes_per_number must be at most memory_bytes - used_bytes.
# 3. math.isqrt of the whole quotient gives the floor of the root exactly; if nothing is left, the
#    answer is 0.


# %% role="spec" exercise="01.3"
def longest_by_correction(memory_bytes, used_bytes, *factors):
    each, free = math.prod(factors), max(0, memory_bytes - used_bytes)
    n = int((free / each) ** 0.5)
    while n * n * each > free:
        n -= 1
    while (n + 1) ** 2 * each <= free:
        n += 1
    return n


def filled(lacking):
    def make(rng):
        n, used, *factors = rng.integers((2, 0, 2, 2, 2), (60, 10**6, 60, 60, 60)).tolist()
        free = n * n * math.prod(factors) * 4 - lacking
        name = f"random, {used} used, {n} {'lacks a byte' if lacking else 'fits exactly'}"
        return case(name, used + free, used, *factors, 4)

    return make


Spec(
    kind="number",
    cases=[
        case("nothing fits", 3, 0, 1, 1, 1, 4),
        case("one token fits exactly", 4, 0, 1, 1, 1, 4),
        case("15 bytes are too few for two", 15, 0, 1, 1, 1, 4),
        case("something is used", 100, 36, 1, 1, 1, 4),
        case("more is used than there is", 100, 200, 1, 1, 1, 4),
        case("2 heads, 3 layers, batch 5", 10**6, 0, 2, 3, 5, 2),
        case("40 GB, BERT-base", 40 * 10**9, 0, 12, 12, 1, 4),
        case("a square beyond 2⁵³", (10**15 + 1) ** 2 - 1, 0, 1, 1, 1, 1),
        *(filled(lacking) for lacking in (0, 1, 0, 1, 0, 1, 0, 1)),
    ],
    mistakes=[
        edit(" - used_bytes", "",
             says="your text may use all the memory, also what is used already",
             next="subtract used_bytes first"),
        edit("math.isqrt", "",
             says="your number is n², the entries of the matrix",
             next="take the root"),
        edit("heads * ", "",
             says="your text has one head",
             next="each head has its own square: divide by heads too"),
        edit("math.isqrt(free //", "round(math.sqrt(free /", "number))", "number)))",
             says="your number is rounded to the nearest, so sometimes it does not fit",
             next="round down"),
        edit("math.isqrt(free //", "int(math.sqrt(free /", "number))", "number)))",
             says="your root is right for small numbers only: a float holds 53 bits",
             next="stay with integers: math.isqrt"),
        edit("math", "max(0, math", "number))", "number)) - 1)",
             says="your number is one too small: what fits exactly fits",
             next="use ≤, not <"),
        edit("free //", "max(0, free - 1) //",
             says="your number is one too small where the scores fill the memory to the last byte",
             next="what fits exactly fits: use ≤, not <"),
        edit("memory_bytes", "memory_bytes * 2**30 // 10**9",
             says="you turned bytes into larger bytes: 2³⁰ instead of 10⁹",
             next="memory_bytes is in bytes already"),
    ],
    alternatives=[
        longest_by_correction,
        edit("(heads * layers * batch * bytes_per_number)",
             "heads // layers // batch // bytes_per_number"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="01.4"
# ## 01.4 One square instead of three
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# softmax(q kᵀ / √D) v for one head: q and k `(n, D)`, v `(n, Dv)`, result `(n, Dv)` in the dtype of
# q. Written as one expression it holds several n × n arrays at once. Hold one.
#
# [Its section](../notebooks/01_bottleneck.ipynb#How-long-a-square-must-live)

# %% [markdown] role="prompt" exercise="01.4"
# **Memory limit** at n = 2048, D = 64, float32: one n × n array and five arrays as large as q,
# 18.5 MiB. Leave q, k and v as they are.


# %% role="answer" exercise="01.4"
def lean_attention(q, k, v):
    """Return softmax attention of one head, (n, Dv)."""
    # BEGIN SOLUTION
    scores = q @ k.T
    scores /= math.sqrt(q.shape[1])
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    return scores @ v / scores.sum(axis=1, keepdims=True)
    # END SOLUTION


# %% role="check" exercise="01.4"
check("01.4")

# %% [markdown] role="hints" exercise="01.4"
# 1. Each arithmetic expression on the scores makes a new square. Which of them can be written into
#    the old one?
# 2. x *= 2 and np.exp(x, out=x) make no new array. The maximum and the sum of each row are small.
# 3. scores = q @ k.T, then scores /= …, scores -= scores.max(axis=1, keepdims=True),
#    np.exp(scores, out=scores); divide the product with v by the row sums, not the weights.


# %% role="spec" exercise="01.4"
def random_length(rng):
    n = int(rng.integers(20, 120))
    return qkv(f"random, n = {n}", (n, 32))(rng)


N, D = 2048, 64  # a square is 16 MiB; the softmax as one expression holds two, 32 MiB, or more

Spec(
    kind="array",
    reference=lambda q, k, v: reference.attention(q, k, v),
    cases=[
        qkv("1 token", (1, 5)),
        qkv("2 tokens", (2, 5)),
        qkv("7 tokens", (7, 5)),
        qkv("values narrower than keys", (5, 7), value_width=3),
        qkv("float64", (7, 8), dtype=np.float64),
        qkv("float64, a long query", (7, 8), dtype=np.float64, longer=1000),
        qkv("large scores, float64", (6, 64), value_width=4, dtype=np.float64, shift=80.0),
        qkv("scores far below 0", (6, 64), value_width=4, shift=-80.0),
        qkv("one query 200 times longer than the others", (40, 16), value_width=4, longer=200),
        qkv("63 tokens", (63, 16)),
        random_length,
    ],
    memory=Memory(qkv(f"n = {N}", (N, D)), N**2 * 4 + 5 * N * D * 4,
                  "one n × n array of float32 and five arrays as large as q"),
    mistakes=[
        edit("scores -= scores.max(axis=1, keepdims=True)",
             "scores = np.exp(scores - scores.max(axis=1, keepdims=True))",
             "np.exp(scores, out=scores)", "",
             says="your numbers are right, but the expressions of the softmax make new squares",
             next="change the scores in place: -=, /=, and np.exp with out="),
        edit("scores -= scores", "weights = scores - scores",
             "exp(scores, out=scores)", "exp(weights, out=weights)",
             "scores @ v / scores", "weights @ v / weights",
             says="your numbers are right, but scores and weights exist at the same time",
             next="subtract the maximum in place: scores -= …"),
        edit("scores = q @ k.T", "q /= math.sqrt(q.shape[1])",
             "scores /= math.sqrt(q.shape[1])", "scores = q @ k.T",
             says="your memory is fine, but q is divided in place: the caller's array changes",
             next="scale the scores, or a copy of q"),
        edit("scores /= math.sqrt(q.shape[1])", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit("math.sqrt(q.shape[1])", "q.shape[1]",
             says="your output is what you get with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
        edit("scores @ v / scores.sum(axis=1, keepdims=True)",
             "scores / scores.sum(axis=0, keepdims=True) @ v",
             says="your maxima are those of the rows, but your sums are those of the columns",
             next="sum over the keys of one query, too: axis=1"),
        edit("max(axis=1, keepdims=True)", "max()",
             says="your maximum is that of all scores: in a row far below it exp gives only zeros",
             next="subtract the maximum of each row: axis=1, keepdims=True"),
        edit("max(axis=1, keepdims=True)", "max(axis=1, keepdims=True, initial=0)",
             says="your maximum is never below 0: where all scores are, exp gives only zeros",
             next="take each row's own maximum, also where it is negative"),
        edit("max(axis=1", "max(axis=0", "scores @ v / scores.sum(axis=1, keepdims=True)",
             "scores / scores.sum(axis=0, keepdims=True) @ v",
             says="your columns sum to 1, not your rows",
             next="the softmax runs over the keys of one query: axis=1"),
        edit("scores -= scores.max(axis=1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row before np.exp"),
        edit(" / scores.sum(axis=1, keepdims=True)", "",
             says="your weights do not sum to 1",
             next="divide by the sum of each row of exponentials"),
    ],
    alternatives=[
        edit("q @ k.T", "q / math.sqrt(q.shape[1]) @ k.T", "scores /= math.sqrt(q.shape[1])", ""),
        lambda q, k, v: np.stack([softmax(k @ row / math.sqrt(row.size)) @ v for row in q]),
        lambda q, k, v: np.concatenate(
            [softmax(rows @ k.T / math.sqrt(q.shape[1])) @ v for rows in np.array_split(q, 4)]
        ),  # three squares of a quarter's size are less than one
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="01.5"
# ## 01.5 The roofline
#
# *10 minutes · difficulty 2 of 3 · 2 points*
#
# A work has FLOPs and bytes to move, a device a peak (FLOP/s) and a bandwidth (bytes/s). Both go on
# at the same time.
#
# [Its section](../notebooks/01_bottleneck.ipynb#The-roofline)

# %% [markdown] role="prompt" exercise="01.5"
# Return a dict: `seconds`, the least time; `memory_bound`, True if moving takes longer than
# computing; `intensity` of the work, FLOPs per byte; `ridge` of the device, the intensity at which
# both take the same time; `share_of_peak`, the FLOP/s in that least time over the peak.
#
# `roofline(8, 4, 8.0, 2.0)`: 2.0, True, 2.0, 4.0, 0.5.


# %% role="answer" exercise="01.5"
def roofline(flops, bytes_moved, peak_flops, bandwidth):
    """Return the least seconds of a work on a device, and where it stands on the roofline."""
    # BEGIN SOLUTION
    computing, moving = flops / peak_flops, bytes_moved / bandwidth
    return {
        "seconds": max(computing, moving),
        "memory_bound": moving > computing,
        "intensity": flops / bytes_moved,
        "ridge": peak_flops / bandwidth,
        "share_of_peak": computing / max(computing, moving),
    }
    # END SOLUTION


# %% role="check" exercise="01.5"
check("01.5")

# %% [markdown] role="hints" exercise="01.5"
# 1. Two clocks run at the same time: one for computing, one for moving. Which one ends last?
# 2. seconds = max(flops / peak_flops, bytes_moved / bandwidth). At the ridge both are equal.
# 3. intensity = flops / bytes_moved, ridge = peak_flops / bandwidth; memory_bound where the
#    intensity is below the ridge; share_of_peak = flops / seconds / peak_flops.


# %% role="spec" exercise="01.5"
def roofline_by_intensity(flops, bytes_moved, peak_flops, bandwidth):
    intensity, ridge = flops / bytes_moved, peak_flops / bandwidth
    rate = min(peak_flops, intensity * bandwidth)
    return {
        "seconds": flops / rate,
        "memory_bound": intensity < ridge,
        "intensity": intensity,
        "ridge": ridge,
        "share_of_peak": rate / peak_flops,
    }


def random_work(rng):
    flops, bytes_moved = (10 ** rng.uniform(6, 14, 2)).astype(int)
    return flops, bytes_moved, *10 ** rng.uniform((11, 10), (15, 13))


A100 = 312e12, 1555e9  # FLOP/s in float16, bytes/s

Spec(
    kind="number",
    cases=[
        case("limited by moving", 15, 7, 5.0, 2.0),
        case("limited by computing", 105, 7, 5.0, 2.0),
        case("exactly at the ridge", 35, 14, 5.0, 2.0),
        case("a copy, one operation for 8 bytes", 10**9, 8 * 10**9, *A100),
        case("standard attention, n = 4096, on an A100", 4 * 4096**2 * 64, 8 * 4096**2, *A100),
        case("a product of 4096², on an A100", 2 * 4096**3, 3 * 2 * 4096**2, *A100),
        *draws(4, random_work, name="work and device"),
    ],
    mistakes=[
        edit("max(computing, moving)", "(computing + moving)",
             says="your seconds add computing and moving, as if one waited for the other",
             next="both happen at once in the best case: take the larger"),
        edit("max", "min",
             says="your seconds are the smaller of both bounds",
             next="the work ends when the slower of both has ended"),
        edit("max(computing, moving)", "computing",
             says="your seconds know nothing of the memory",
             next="bytes_moved / bandwidth is a bound, too"),
        edit("flops / bytes_moved", "bytes_moved / flops",
             says="your intensity is upside down: bytes per FLOP",
             next="intensity is FLOPs per byte"),
        edit("peak_flops / bandwidth", "bandwidth / peak_flops",
             says="your ridge is upside down",
             next="the ridge is an intensity: FLOPs per second over bytes per second"),
        edit("moving > computing", "not moving > computing",
             says="your memory_bound says the opposite",
             next="left of the ridge, at few FLOPs per byte, the memory is the limit"),
        edit("moving > computing", "moving >= computing",
             says="at the ridge itself your work is memory-bound",
             next="memory_bound only where moving takes longer than computing"),
        edit(": computing /", ": 100 * computing /",
             says="your share is in percent",
             next="return a share between 0 and 1"),
    ],
    alternatives=[
        roofline_by_intensity,
        edit("moving > computing", "flops * bandwidth < bytes_moved * peak_flops",
             "computing / max(computing, moving)", "min(1.0, computing / moving)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="01.6"
# ## 01.6 Hunt a forged table
#
# *15 minutes · difficulty 3 of 3 · 3 points*
#
# A table gives the seconds of attention at rising lengths. Step i leads from row i to row i + 1;
# its exponent is the e in t₂ / t₁ = (n₂ / n₁)ᵉ.
#
# [Its section](../notebooks/01_bottleneck.ipynb#Operations-are-not-time)

# %% [markdown] role="prompt" exercise="01.6"
# Honest exponents start near 0, where starting the work takes longest, and rise to 2. Return the
# list of suspicious steps i, rising: those whose exponent is above 2.2, or more than 0.3 below the
# largest exponent of any earlier step, suspicious ones included.
#
# `suspicious_steps([1, 2, 4], [1.0, 4.0, 5.0])` is `[1]`: the exponents are 2 and 0.32.


# %% role="answer" exercise="01.6"
def suspicious_steps(lengths, seconds):
    """Return the indices of suspicious steps; lengths rise, seconds are above 0."""
    # BEGIN SOLUTION
    found, largest = [], -math.inf
    for i in range(len(lengths) - 1):
        exponent = math.log(seconds[i + 1] / seconds[i]) / math.log(lengths[i + 1] / lengths[i])
        if exponent > 2.2 or exponent < largest - 0.3:
            found.append(i)
        largest = max(largest, exponent)
    return found
    # END SOLUTION


# %% role="check" exercise="01.6"
check("01.6")

# %% [markdown] role="hints" exercise="01.6"
# 1. What is the exponent of one step, from two lengths and two times? Logarithms turn powers into
#    factors.
# 2. exponent = log(t₂ / t₁) / log(n₂ / n₁). A step is steep above 2.2; it falls back if its
#    exponent is more than 0.3 below the largest one before it.
# 3. Keep the largest exponent of all earlier steps, suspicious ones included, and compare each new
#    one with it before you update it.


# %% role="spec" exercise="01.6"
def steps_by_arrays(lengths, seconds):
    exponents = np.diff(np.log(seconds)) / np.diff(np.log(lengths))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], exponents]))[:-1]
    return [int(i) for i in np.flatnonzero((exponents > 2.2) | (exponents < before - 0.3))]


DOUBLING, UNEVEN = [512, 1024, 2048, 4096, 8192, 16384], [100, 1000, 1500, 6000]


def grown(name, exponents, lengths=DOUBLING):
    seconds = [0.01]
    for exponent, a, b in zip(exponents, lengths, lengths[1:], strict=False):
        seconds.append(seconds[-1] * (b / a) ** exponent)
    return case(name, lengths, [float(f"{value:.6g}") for value in seconds])


def random_table(rng):
    exponents = rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 2.5], 5).tolist()
    lengths = sorted(rng.choice(range(100, 9000), 6, replace=False).tolist())
    return grown(f"random, exponents {exponents} from n = {lengths[0]}", exponents, lengths)


Spec(
    kind="number",
    cases=[
        case("one length, no step", [512], [0.008]),
        case("quadratic", [1, 2, 4], [1.0, 4.0, 16.0]),
        case("too steep", [1, 2], [1.0, 8.0]),
        grown("flat, then quadratic", [0.05, 0.6, 1.4, 1.9, 2.0]),
        case("flat after quadratic", [1, 2, 4], [1.0, 4.0, 5.0]),
        case("chapter E's table", DOUBLING, [0.008, 0.008, 0.012, 0.098, 0.19, 1.5]),
        grown("a slow slide back", [2.0, 1.8, 1.6, 1.4, 1.2]),
        grown("lengths that do not double", [1.9, 2.0, 2.0], UNEVEN),
        grown("steep where lengths hardly grow", [1.0, 2.6, 2.0], UNEVEN),
        grown("back to normal after a leap", [2.0, 3.5, 2.0, 2.0, 2.0]),
        *[random_table] * 4,
    ],
    mistakes=[
        edit(" or exponent < largest - 0.3", "",
             says="you look for steep steps only",
             next="work that has become quadratic does not become linear again: look at falls too"),
        edit("exponent > 2.2 or ", "",
             says="you look for falls only",
             next="an exponent above 2.2 is suspicious as well"),
        edit("max(largest, exponent)", "exponent",
             says="you compare with the step before only, so a slow slide escapes",
             next="compare with the largest exponent of all earlier steps"),
        edit("lengths[i + 1] / lengths[i]", "2",
             says="you look at ratios of times as if each length were twice the last",
             next="divide by the logarithm of the ratio of the lengths"),
        edit("append(i)", "append(i + 1)",
             says="your indices name the row after the step",
             next="step i leads from row i to row i + 1: return i"),
        edit("found.append(i)", "found.append(i)\n            continue",
             says="you compare with the largest exponent that was not suspicious",
             next="the largest of all earlier steps counts, suspicious ones included"),
        edit("2.2", "1.8",
             says="honest quadratic steps are suspicious to you",
             next="attention over n tokens grows with n²: an exponent of 2 is what to expect"),
    ],
    alternatives=[
        steps_by_arrays,
        edit("math.log", "math.log2", "largest = max(largest, exponent)",
             "largest = exponent if exponent > largest else largest"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what it finds in chapter E's table</summary>
#
# Of its five steps (C205 to C209) the last three: a leap, a fall and a leap. The first two could be
# the floor at which a GPU starts its kernels; then the leap could not follow.
#
# </details>

# %% [markdown] role="prompt" exercise="01.V2"
# ## 01.V2 A budget of standard attention
#
# *8 minutes · difficulty 1 of 3 · 2 points*
#
# A textbook's budget for n = 4096 and d = 768 takes d for the width of a single head. Do it for any
# number of heads that share d, in float32.
#
# [Its section](../notebooks/01_bottleneck.ipynb#768-is-not-a-head)

# %% [markdown] role="prompt" exercise="01.V2"
# Return a dict: `score_numbers` of all heads; `qkv_numbers`, those of q, k and v; `total_bytes` of
# both; `flops` of both products in all heads; `scores_share`, the share of the scores in the total.
#
# `standard_budget(2, 4, 2)`: 8, 24, 128, 64, 0.25.


# %% role="answer" exercise="01.V2"
def standard_budget(n, d, heads):
    """Return five numbers for n tokens, width d in all, shared by `heads` heads."""
    # BEGIN SOLUTION
    scores, rows = heads * n**2, 3 * n * d
    return {
        "score_numbers": scores,
        "qkv_numbers": rows,
        "total_bytes": 4 * (scores + rows),
        "flops": 4 * n**2 * d,
        "scores_share": scores / (scores + rows),
    }
    # END SOLUTION


# %% role="check" exercise="01.V2"
check("01.V2")

# %% [markdown] role="hints" exercise="01.V2"
# 1. Which of the numbers depend on heads at fixed d, and which do not?
# 2. q, k and v are n × d each, for all heads together. Every head has n² scores. Both products
#    together take 4·n²·(d / heads) FLOPs a head.
# 3. score_numbers = heads·n², qkv_numbers = 3·n·d, flops = 4·n²·d; 4 bytes a number.


# %% role="spec" exercise="01.V2"
def random_heads(rng):
    n, width, heads = rng.integers((5, 1, 2), (500, 65, 17))
    return n, width * heads, heads


Spec(
    kind="number",
    cases=[
        case("1 token, width 1, 1 head", 1, 1, 1),
        case("5 tokens, width 7, 1 head", 5, 7, 1),
        case("5 tokens, 3 heads of 7", 5, 21, 3),
        case("the document's n = 4096, d = 768, one head", 4096, 768, 1),
        case("BERT-base's 12 heads", 4096, 768, 12),
        *draws(4, random_heads),
    ],
    mistakes=[
        edit("heads * n**2", "n**2",
             says="your scores are those of a single head, as in the document",
             next="each head has n² scores: multiply by heads"),
        edit("4 * n**2", "2 * n**2",
             says="your FLOPs are half: you counted multiply-adds, as the document does",
             next="one multiply-add is 2 FLOPs, and there are two products"),
        edit("4 * n**2", "n**2",
             says="your FLOPs are a quarter: multiply-adds of one product",
             next="count q kᵀ and weights·v, at 2 FLOPs a multiply-add"),
        edit("4 * n**2", "4 * heads * n**2",
             says="your FLOPs take d for the width of one head",
             next="d is the width of all heads: one head has d / heads"),
        edit("4 * (scores + rows)", "scores + rows",
             says="your total counts numbers, not bytes",
             next="float32 takes 4 bytes"),
        edit("3 * n", "n",
             says="your rows are those of q alone",
             next="q, k and v: three arrays of n × d"),
        edit("scores / (", "100 * scores / (",
             says="your share is in percent",
             next="return a share between 0 and 1"),
    ],
    alternatives=[
        edit("4 * n**2 * d", "heads * 2 * (2 * n * n * (d // heads))"),
        edit("scores / (scores + rows)", "1 / (1 + 3 * d / (n * heads))"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# 16,777,216 scores (C382), 9,437,184 numbers in q, k and v (C384), 104.8 MB (C386): right for one
# head of 768. Its 25.8 G "FLOPs" (C388) are multiply-adds: 51.5 G FLOPs. With BERT-base's 12 heads
# the total is 843 MB, and the scores are 96 % of it instead of 64 %.
#
# </details>

# %% [markdown] role="prompt" exercise="01.V6"
# ## 01.V6 Three methods, three lengths
#
# *8 minutes · difficulty 1 of 3 · 2 points*
#
# Full attention holds n² scores a head. A window holds `window` scores for each query, in total and
# never more than n; edges do not count here. Linear attention holds one width × width state.

# %% [markdown] role="prompt" exercise="01.V6"
# Return a dict: bytes `full`, `window`, `linear` of all heads; `window_saving`, `linear_saving`:
# the share of the full bytes that is saved, negative if more is held.
#
# `method_bytes(4, 3, 2, 2, 4)`: 192, 96, 48, 0.5, 0.75.
#
# [Its section](../notebooks/01_bottleneck.ipynb#Growth)


# %% role="answer" exercise="01.V6"
def method_bytes(n, heads, width, window, bytes_per_number):
    """Return the bytes of three methods for n tokens, and two savings."""
    # BEGIN SOLUTION
    full = heads * n**2 * bytes_per_number
    local = heads * n * min(window, n) * bytes_per_number
    linear = heads * width**2 * bytes_per_number
    return {
        "full": full,
        "window": local,
        "linear": linear,
        "window_saving": 1 - local / full,
        "linear_saving": 1 - linear / full,
    }
    # END SOLUTION


# %% role="check" exercise="01.V6"
check("01.V6")

# %% [markdown] role="hints" exercise="01.V6"
# 1. How many numbers does one head hold in each method?
# 2. n² scores; n·window scores, but never more than n for a query; a state of width × width.
# 3. Multiply each by heads · bytes_per_number; a saving is 1 - held / full, and may be negative.

# %% role="spec" exercise="01.V6"
Spec(
    kind="number",
    cases=[
        case("1 token", 1, 1, 1, 1, 1),
        case("5 tokens, 1 head, width 3", 5, 1, 3, 2, 2),
        case("7 heads", 5, 7, 3, 2, 4),
        case("window larger than n", 4, 2, 2, 9, 4),
        case("state larger than the matrix", 4, 2, 8, 2, 2),
        *(case(f"the document's n = {n}", n, 12, 64, 256, 2) for n in (512, 2048, 4096)),
        *draws(3, lambda rng: (*rng.integers((300, 2, 8, 10), (3000, 17, 129, 200)), 2)),
    ],
    mistakes=[
        edit("heads * width**2", "(heads * width) ** 2",
             says="your state is d × d for d = heads · width: one head as wide as the model",
             next="each head has a width × width state: heads · width²"),
        edit("heads * ", "",
             says="your bytes are those of one head",
             next="multiply by heads"),
        edit("width**2", "n * width",
             says="your state grows with n: those are the keys, not their sum",
             next="the state sums over all keys: width × width numbers, whatever n is"),
        edit("min(window, n)", "window",
             says="your window holds more keys than there are",
             next="a query sees at most n keys: min(window, n)"),
        edit("min(window, n)", "min(2 * window, n)",
             says="your window has `window` keys on each side",
             next="in this exercise it is the total"),
        edit("bytes_per_number", "4",
             says="your numbers take 4 bytes always",
             next="use bytes_per_number"),
        edit("1 - ", "",
             says="your savings are the shares that remain",
             next="a saving is 1 - held / full"),
        edit("1 - ", "100 - 100 * ",
             says="your savings are in percent",
             next="return shares"),
    ],
    alternatives=[
        edit("1 - local / full", "1 - min(window, n) / n", "1 - linear", "(full - linear)"),
        edit("min(window, n)", "(window if window < n else n)",
             "1 - linear / full", "1 - (width / n) ** 2"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For 12 heads of 64, float16, window 256: full and window come out as printed (C150 to C161). For
# linear attention it prints "about 14 MB for any n" (C162). The state takes 98,304 bytes.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/01_bottleneck.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. Plain `pytest --nbval exercises/01_bottleneck.ipynb`
# gives the same verdicts.
