# %% [markdown]
# # 04 Exercises: window attention
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("04.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# `window` is a **radius**, as in the chapter: 2·window + 1 keys a query, window + 1 if causal. If
# Tq ≠ Tk, the last query stands at the last key: query i sits at key position i + Tk − Tq. A query
# that sees no key gets zeros. One multiply-add is 2 FLOPs.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 04.5

# %% [markdown] role="prompt" exercise="04.1"
# ## 04.1 Window mask
#
# *10 minutes · difficulty 1 of 3 · 2 points*
#
# Return the boolean mask `(n_queries, n_keys)`, True = may attend. The three numbers are integers,
# `causal` is a bool.
#
# `window_mask(2, 4, 1, False)` is
#
#     [[False,  True,  True,  True],
#      [False, False,  True,  True]]


# %% role="answer" exercise="04.1"
def window_mask(n_queries, n_keys, window, causal):
    """Return the bool mask (n_queries, n_keys) of window attention."""
    # BEGIN SOLUTION
    position = np.arange(n_queries)[:, None] + n_keys - n_queries
    offset = np.arange(n_keys) - position
    return (offset >= -window) & (offset <= (0 if causal else window))
    # END SOLUTION


# %% role="check" exercise="04.1"
check("04.1")

# %% [markdown] role="prompt" exercise="04.2"
# ## 04.2 Count the connections
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# How many True entries has the mask for n queries and n keys? Edges count exactly, `window` may
# exceed n, and n goes up to 10¹²: a loop or an array takes too long.
#
# `count_connections(5, 2, False)` is `19`; causal it is `12`.


# %% role="answer" exercise="04.2"
def count_connections(n, window, causal):
    """Return the number of pairs (query, key) as an exact int; n >= 1, window >= 0."""
    # BEGIN SOLUTION
    window = min(window, n - 1)
    corner = window * (window + 1) // 2  # pairs that one edge cuts off
    return n * (window + 1) - corner if causal else n * (2 * window + 1) - 2 * corner
    # END SOLUTION


# %% role="check" exercise="04.2"
check("04.2")

# %% [markdown] role="prompt" exercise="04.3"
# ## 04.3 Window attention in O(n·w) memory
#
# *25 minutes · difficulty 3 of 3 · 4 points*
#
# softmax(q kᵀ / √D) v over the window, for q and k `(..., n, D)` and v `(..., n, Dv)`; the axes
# before n are free. Result `(..., n, Dv)`, dtype of q. With window 0, for example, it is v.

# %% [markdown] role="prompt" exercise="04.3"
# **Memory limit** at n = 4096, window 24, D = 64, float32: six bands of n·(2w + 1) numbers and four
# arrays as large as q, 8.6 MiB. Blocks, rows, diagonals and views all fit. An n × n array does
# not, even of booleans (16 MiB), nor do the keys copied for each query, n·(2w + 1)·D (49 MiB).


# %% role="answer" exercise="04.3"
def window_attention(q, k, v, window):
    """Return window attention, (..., n, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    n, block = q.shape[-2], 64
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        near = slice(max(0, start - window), min(n, rows.stop + window))
        scores = q[..., rows, :] @ k[..., near, :].swapaxes(-1, -2) / q.shape[-1] ** 0.5
        distance = np.arange(n)[rows, None] - np.arange(n)[near]
        scores = np.where(np.abs(distance) <= window, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[..., rows, :] = weights @ v[..., near, :]
    return out
    # END SOLUTION


# %% role="check" exercise="04.3"
check("04.3")

# %% [markdown] role="prompt" exercise="04.4"
# ## 04.4 Layers to reach a token
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# How many layers until a token `distance` positions away can matter? Each layer uses the next of
# `dilations`, then the first again; dilation d reaches window·d positions, without gaps.
# `distance` may be 10¹².
#
# `layers_to_reach(7, 2, (1, 2))` is `3`: reach 2, 6, 8.


# %% role="answer" exercise="04.4"
def layers_to_reach(distance, window, dilations):
    """Return the smallest number of layers; distance >= 0, window >= 1, dilations a tuple."""
    # BEGIN SOLUTION
    cycles, left = divmod(distance, window * sum(dilations))
    layers = cycles * len(dilations)
    for dilation in dilations:
        if left > 0:
            left -= window * dilation
            layers += 1
    return layers
    # END SOLUTION


# %% role="check" exercise="04.4"
check("04.4")

# %% [markdown] role="prompt" exercise="04.5"
# ## 04.5 Tile bounds of a Triton kernel
#
# *20 minutes · difficulty 3 of 3 · 3 points*
#
# Which tiles of keys does a tile of queries need? Set `first_tile`, and `last_tile`, the first
# that is not needed; the rest of the kernel is given. q, k, v are contiguous `(n, D)` float32.

# %% [markdown] role="prompt" exercise="04.5"
# **Traffic limit**: K and V tiles with at least one visible key, each loaded once. Masking a tile
# is right, but its bytes have travelled.
#
# Example: BLOCK = 16, n = 80, window = 16; query tile 2 (rows 32 … 47) sees the keys 16 … 63, so
# its tiles are `range(1, 4)`.


# %% role="answer" exercise="04.5"
@triton.jit
def window_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, window, scale, D: tl.constexpr, BLOCK: tl.constexpr
):
    tile = tl.program_id(0)
    cols = tl.arange(0, D)
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    at_rows = rows[:, None] * D + cols[None, :]  # [BLOCK, D]
    in_rows = rows[:, None] < n
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    # BEGIN SOLUTION
    first_tile = tl.maximum(0, tile * BLOCK - window) // BLOCK
    last_tile = tl.cdiv(tl.minimum(n, (tile + 1) * BLOCK + window), BLOCK)
    # END SOLUTION
    for key_tile in range(first_tile, last_tile):
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        at_keys = keys[:, None] * D + cols[None, :]
        in_keys = keys[:, None] < n
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        visible = (keys[None, :] < n) & (tl.abs(rows[:, None] - keys[None, :]) <= window)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        pivot = tl.where(new_max == float("-inf"), 0.0, new_max)  # no visible key so far
        weights = tl.exp(scores - pivot[:, None])
        fade = tl.exp(running_max - pivot)
        running_sum = running_sum * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    total = tl.where(running_sum == 0.0, 1.0, running_sum)
    tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def launch_window(q, k, v, window):
    """Return window attention of one head, (n, D)."""
    BLOCK = 16
    n, D = q.shape
    out = torch.empty_like(q)
    window_kernel[(triton.cdiv(n, BLOCK),)](q, k, v, out, n, window, D**-0.5, D=D, BLOCK=BLOCK)
    return out


# %% role="check" exercise="04.5"
check("04.5")

# %% [markdown] role="prompt" exercise="04.6"
# ## 04.6 Find two bugs in a blocked window
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# One bug shows where Tq = Tk, the other only where they differ. Copy the code into the answer cell,
# repair it, keep the blocks: memory at n = 4096 is limited to four arrays as large as q, 4 MiB.

# %% role="prompt" exercise="04.6"
from attncourse.softmax import softmax


def broken_window(q, k, v, window, block=32):
    (n_queries, width), n_keys = q.shape, len(k)
    out = np.zeros((n_queries, v.shape[-1]), q.dtype)
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        first, last = max(0, start - window), min(n_keys, stop - 1 + window)
        position = np.arange(start, stop) + n_keys - n_queries  # of each query, among the keys
        visible = np.abs(position[:, None] - np.arange(first, last)) <= window
        weights = softmax(q[start:stop] @ k[first:last].T / width**0.5, visible)
        out[start:stop] = weights @ v[first:last]
    return out


# %% role="answer" exercise="04.6"
def repaired_window(q, k, v, window, block=32):
    """Return window attention for q (Tq, D), k (Tk, D), v (Tk, Dv): (Tq, Dv), dtype of q."""
    # BEGIN SOLUTION
    (n_queries, width), n_keys = q.shape, len(k)
    ahead = n_keys - n_queries
    out = np.zeros((n_queries, v.shape[-1]), q.dtype)
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        first = max(0, start + ahead - window)
        last = max(first, min(n_keys, stop + ahead + window))
        position = np.arange(start, stop) + ahead
        visible = np.abs(position[:, None] - np.arange(first, last)) <= window
        weights = softmax(q[start:stop] @ k[first:last].T / width**0.5, visible)
        out[start:stop] = weights @ v[first:last]
    return out
    # END SOLUTION


# %% role="check" exercise="04.6"
check("04.6")

# %% [markdown] role="prompt" exercise="04.V1"
# ## 04.V1 What a window saves, and a mask does not
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# A textbook's code multiplies all of q and k, masks, and prints a fourfold saving. Its w is a
# *total*: w // 2 keys on each side, and the query's own. What is saved, in one float32 head?

# %% [markdown] role="prompt" exercise="04.V1"
# Return a dict: `connections`, visible pairs, edges exact; `density`, their share of n²;
# `full_flops`; `masked_flops`, executed by the textbook's code; `window_flops`, of the visible
# pairs alone; `full_bytes`, `window_bytes`, of the scores. FLOPs count q kᵀ and weights·v.
#
# `window_savings(8, 4, 2)`: 34, 0.53125, 512, 512, 272, 256, 136.


# %% role="answer" exercise="04.V1"
def window_savings(n, width, d):
    """Return seven numbers for n tokens, a window of width // 2 keys a side, head width d."""
    # BEGIN SOLUTION
    side = min(width // 2, n - 1)
    connections = n * (2 * side + 1) - side * (side + 1)
    return {
        "connections": connections,
        "density": connections / n**2,
        "full_flops": 4 * n**2 * d,
        "masked_flops": 4 * n**2 * d,
        "window_flops": 4 * connections * d,
        "full_bytes": 4 * n**2,
        "window_bytes": 4 * connections,
    }
    # END SOLUTION


# %% role="check" exercise="04.V1"
check("04.V1")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 1024, w = 256, d = 64 it prints 33,554,432 FLOPs (C376), 262,144 weights (C377) and
# "sparsity 25 %" (C381). Its code executes 268,435,456, all pairs: the mask comes after the
# product. The mask has 246,656 entries, since edges see less: that is a *density* of 23.5 %.
#
# </details>

# %% [markdown] role="prompt" exercise="04.V7"
# ## 04.V7 Speed-up in theory and in tiles
#
# *15 minutes · difficulty 3 of 3 · 2 points*
#
# A textbook promises 8× for n = 1024, w = 128 (64 a side), d = 64, and reports 5–6× on a GPU. One
# reason can be computed: a GPU multiplies tile × tile pairs as soon as one is visible.

# %% [markdown] role="prompt" exercise="04.V7"
# Return a dict for one float32 head; `tile` divides n. `full_flops`; `local_flops`, of the visible
# pairs, edges exact; `tiled_flops`, of all tiles with a visible pair; `local_bytes` of the local
# scores; `speedup` and `tiled_speedup`, full FLOPs over those.
#
# `local_speedup(8, 4, 2, 2)`: 512, 272, 320, 136, 1.882…, 1.6.


# %% role="answer" exercise="04.V7"
def local_speedup(n, width, d, tile):
    """Return six numbers for n tokens, width // 2 keys a side, head width d, square tiles."""

    # BEGIN SOLUTION
    def band(length, side):
        side = min(side, length - 1)
        return length * (2 * side + 1) - side * (side + 1)

    pairs = band(n, width // 2)
    tiled_pairs = band(n // tile, -(-(width // 2) // tile)) * tile**2
    return {
        "full_flops": 4 * n**2 * d,
        "local_flops": 4 * pairs * d,
        "tiled_flops": 4 * tiled_pairs * d,
        "local_bytes": 4 * pairs,
        "speedup": n**2 / pairs,
        "tiled_speedup": n**2 / tiled_pairs,
    }
    # END SOLUTION


# %% role="check" exercise="04.V7"
check("04.V7")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# 16,777,216 FLOPs (C164) are n·w·d *multiply-adds* of both products; 131,072 elements (C167) ignore
# the edges: 127,936. Its 8× (C165) is 8.2× with exact edges. Tiles of 64 leave 5.6×, inside the
# reported 5–6× (C170), before any other overhead.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/04_window.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. Plain `pytest --nbval exercises/04_window.ipynb`
# gives the same verdicts.
