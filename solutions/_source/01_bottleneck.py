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

# %% [markdown] role="prompt" exercise="01.1"
# ## 01.1 The bill of training
#
# *12 minutes · difficulty 1 of 3 · 2 points*
#
# What does training a Transformer hold, if nothing is recomputed? A layer has 12·d² parameters.
# Adam keeps two moments for each, always in float32.

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

# %% [markdown] role="prompt" exercise="01.2"
# ## 01.2 Operations, forward and backward
#
# *10 minutes · difficulty 2 of 3 · 2 points*
#
# FLOPs of one head's products, the softmax aside. Return a dict: `forward`; `backward`, the
# gradients of q, k and v if the weights were kept; `recomputing`, if the scores are made again.
#
# `attention_flops(2, 3, 5, 4)`: 108, 216, 276.


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

# %% [markdown] role="prompt" exercise="01.3"
# ## 01.3 The longest text that fits
#
# *8 minutes · difficulty 1 of 3 · 1 point*
#
# Of `memory_bytes` some are used. What is the largest n whose n² scores in all heads, layers and
# texts of the batch fit into the rest? The answer is exact.
#
# `longest_text(100, 36, 1, 1, 1, 4)` is `4`.


# %% role="answer" exercise="01.3"
def longest_text(memory_bytes, used_bytes, heads, layers, batch, bytes_per_number):
    """Return the largest n as an int, 0 if nothing fits."""
    # BEGIN SOLUTION
    free = max(0, memory_bytes - used_bytes)
    return math.isqrt(free // (heads * layers * batch * bytes_per_number))
    # END SOLUTION


# %% role="check" exercise="01.3"
check("01.3")

# %% [markdown] role="prompt" exercise="01.4"
# ## 01.4 One square instead of three
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# softmax(q kᵀ / √D) v for one head: q and k `(n, D)`, v `(n, Dv)`, result `(n, Dv)` in the dtype of
# q. Written as one expression it holds several n × n arrays at once. Hold one.

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

# %% [markdown] role="prompt" exercise="01.5"
# ## 01.5 The roofline
#
# *10 minutes · difficulty 2 of 3 · 2 points*
#
# A work has FLOPs and bytes to move, a device a peak (FLOP/s) and a bandwidth (bytes/s). Both go on
# at the same time.

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

# %% [markdown] role="prompt" exercise="01.6"
# ## 01.6 Hunt a forged table
#
# *15 minutes · difficulty 3 of 3 · 3 points*
#
# A table gives the seconds of attention at rising lengths. Step i leads from row i to row i + 1;
# its exponent is the e in t₂ / t₁ = (n₂ / n₁)ᵉ.

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
