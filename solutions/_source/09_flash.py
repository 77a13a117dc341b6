# %% [markdown]
# # 09 Exercises: exact attention in tiles
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("09.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Scores are q kᵀ / √D. If there are fewer or more queries than keys, the last query stands at the
# last key: query i sits at key position i + n_keys − n_queries, and causal means that it sees the
# keys up to there. `lse` is the logarithm of a row's sum of exp(score).

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 09.5

# %% [markdown] role="prompt" exercise="09.1"
# ## 09.1 Bytes that travel
#
# *10 minutes · difficulty 1 of 3 · 2 points*
#
# What do the two ways move between HBM and the chip, for one head? *Standard* has three kernels;
# the scores are written and read, the weights written and read. *Tiled* keeps `block_q` queries on
# the chip while all keys and values pass by.

# %% [markdown] role="prompt" exercise="09.1"
# Return a dict of bytes: `standard` and `tiled`. q and the output have n_queries · d numbers, k and
# v n_keys · d each, all of `bytes_per_number` bytes; `lse` is not kept.
#
# `hbm_bytes(5, 4, 2, 2, 1)`: 116 and 68.


# %% role="answer" exercise="09.1"
def hbm_bytes(n_queries, n_keys, d, block_q, bytes_per_number):
    """Return the bytes read and written, a dict with the keys standard and tiled."""
    # BEGIN SOLUTION
    queries, keys, scores = n_queries * d, n_keys * d, n_queries * n_keys
    tiles = -(-n_queries // block_q)
    return {
        "standard": (2 * queries + 2 * keys + 4 * scores) * bytes_per_number,
        "tiled": (2 * queries + 2 * keys * tiles) * bytes_per_number,
    }
    # END SOLUTION


# %% role="check" exercise="09.1"
check("09.1")

# %% [markdown] role="prompt" exercise="09.2"
# ## 09.2 Tiles under a causal mask
#
# *15 minutes · difficulty 2 of 3 · 2 points*
#
# The matrix is cut into tiles of `block_q` × `block_k`; the last ones may be shorter. A causal
# kernel visits a tile if any pair in it is visible. It needs a mask there if any pair is hidden.

# %% [markdown] role="prompt" exercise="09.2"
# Return a dict: `visited`, the tiles visited; `masked`, those of them with a hidden pair.
#
# `count_tiles(8, 8, 2, 2)` is `{"visited": 10, "masked": 4}`.


# %% role="answer" exercise="09.2"
def count_tiles(n_queries, n_keys, block_q, block_k):
    """Return how many tiles are visited and how many of them are masked, as a dict of ints."""
    # BEGIN SOLUTION
    visited = masked = 0
    for i in range(0, n_queries, block_q):
        first = i + n_keys - n_queries  # the key position of the tile's first query
        last = min(i + block_q, n_queries) - 1 + n_keys - n_queries
        for j in range(0, min(last + 1, n_keys), block_k):
            visited += 1
            masked += min(j + block_k, n_keys) - 1 > first
    return {"visited": visited, "masked": masked}
    # END SOLUTION


# %% role="check" exercise="09.2"
check("09.2")

# %% [markdown] role="prompt" exercise="09.3"
# ## 09.3 Attention without a row of scores
#
# *25 minutes · difficulty 3 of 3 · 4 points*
#
# softmax(q kᵀ / √D) v for q `(..., Tq, D)`, k `(..., Tk, D)` and v `(..., Tk, Dv)`; the axes
# before are free. Result `(..., Tq, Dv)`, dtype of q. With one key, for example, each row is v.

# %% [markdown] role="prompt" exercise="09.3"
# **Memory limit** at 8 queries and 65536 keys, D = 8, float32: half a row of scores, 128 KiB. A
# whole row takes 256 KiB, too much even one at a time; a scaled copy of k takes 2 MiB. Slices of
# the keys fit.


# %% role="answer" exercise="09.3"
def tiled_attention(q, k, v):
    """Return attention, (..., Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    block = 256
    work = np.result_type(q.dtype, np.float32)
    running_max = np.full((*q.shape[:-1], 1), -np.inf, work)
    running_sum = np.zeros_like(running_max)
    acc = np.zeros(q.shape[:-1] + v.shape[-1:], work)
    q_scaled = q.astype(work) / work.type(q.shape[-1] ** 0.5)
    for start in range(0, k.shape[-2], block):
        keys = slice(start, start + block)
        scores = q_scaled @ k[..., keys, :].astype(work).swapaxes(-1, -2)
        new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
        weights = np.exp(scores - new_max)
        rescale = np.exp(running_max - new_max)
        running_sum = running_sum * rescale + weights.sum(axis=-1, keepdims=True)
        acc = acc * rescale + weights @ v[..., keys, :]
        running_max = new_max
    return (acc / running_sum).astype(q.dtype)
    # END SOLUTION


# %% role="check" exercise="09.3"
check("09.3")

# %% [markdown] role="prompt" exercise="09.4"
# ## 09.4 Join two halves
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# Two machines attended to two sets of keys. Each sends its output `(..., Tq, Dv)` and its lse
# `(..., Tq)`; a query that saw no key there has lse −inf and zeros. Return `(out, lse)` of both
# sets together, each in its own dtype.

# %% [markdown] role="prompt" exercise="09.4"
# The lse may be ±500, so that exp(lse) is no float. A query that no set has seen gets zeros and
# −inf.
#
# Outputs [[0.]] and [[3.]], lse [0.] and [log 2]: the output is [[2.]], the lse [log 3].


# %% role="answer" exercise="09.4"
def merge_halves(out_a, lse_a, out_b, lse_b):
    """Return output (..., Tq, Dv) and lse (..., Tq) of both sets of keys together."""
    # BEGIN SOLUTION
    lse = np.logaddexp(lse_a, lse_b)
    pivot = np.where(np.isneginf(lse), 0, lse).astype(lse.dtype)
    weight_a, weight_b = np.exp(lse_a - pivot), np.exp(lse_b - pivot)
    out = weight_a[..., None] * out_a + weight_b[..., None] * out_b
    return out.astype(out_a.dtype), lse
    # END SOLUTION


# %% role="check" exercise="09.4"
check("09.4")

# %% [markdown] role="prompt" exercise="09.5"
# ## 09.5 The loop of a Triton kernel
#
# *30 minutes · difficulty 3 of 3 · 4 points*
#
# Write the loop over the tiles of keys. It takes `q`, and leaves `running_sum` `[BLOCK]` and `acc`
# `[BLOCK, D]`; the rest of the kernel is given. q, k, v are contiguous `(Tq, D)` and `(Tk, D)`
# float32, without a mask.

# %% [markdown] role="prompt" exercise="09.5"
# **Traffic limit**: each program loads each element of k and v once, and q not again. Keys beyond
# the end are neither loaded nor attended to. Write `tl.dot(a, b, input_precision="ieee")`.
#
# Example: 16 queries, 37 keys, BLOCK = 16: one program, three turns, 2 · 37 · D numbers.


# %% role="answer" exercise="09.5"
@triton.jit
def flash_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n_queries, n_keys, scale, D: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, D)
    at_rows = rows[:, None] * D + cols[None, :]  # [BLOCK, D]
    in_rows = rows[:, None] < n_queries
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    # BEGIN SOLUTION
    for start in range(0, n_keys, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        at_keys = keys[:, None] * D + cols[None, :]
        in_keys = keys[:, None] < n_keys
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
        scores = tl.where(keys[None, :] < n_keys, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - new_max[:, None])
        rescale = tl.exp(running_max - new_max)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    # END SOLUTION
    tl.store(out_ptr + at_rows, acc / running_sum[:, None], mask=in_rows)


def launch_flash(q, k, v):
    """Return attention of one head, (Tq, D)."""
    BLOCK = 16
    n_queries, D = q.shape
    out = torch.empty_like(q)
    flash_kernel[(triton.cdiv(n_queries, BLOCK),)](
        q, k, v, out, n_queries, len(k), D**-0.5, D=D, BLOCK=BLOCK
    )
    return out


# %% role="check" exercise="09.5"
check("09.5")

# %% [markdown] role="prompt" exercise="09.6"
# ## 09.6 Find two bugs in a backward pass
#
# *20 minutes · difficulty 3 of 3 · 3 points*
#
# Causal attention, backward, tile by tile. One bug shows as soon as there are two tiles of keys,
# the other only where Tq and Tk differ. Copy the code into the answer cell and repair it.

# %% [markdown] role="prompt" exercise="09.6"
# Keep the tiles: memory at n = 1024 is limited to eight arrays as large as q, 2 MiB. `out` and
# `lse` come from the forward pass; lse is −inf where a query sees no key.


# %% role="prompt" exercise="09.6"
def broken_backward(grad_out, q, k, v, out, lse, block=64):
    dq, dk, dv = (np.zeros_like(array) for array in (q, k, v))
    factor, position = q.dtype.type(q.shape[-1] ** -0.5), np.arange(len(q))
    for i in range(0, len(q), block):
        for j in range(0, len(k), block):
            r, c = slice(i, i + block), slice(j, j + block)
            scores = q[r] @ k[c].T * factor
            visible = np.arange(len(k))[c] <= position[r, None]
            p = np.exp(scores - lse[r, None], out=np.zeros_like(scores), where=visible)
            dp = grad_out[r] @ v[c].T
            ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * factor
            dv[c] += p.T @ grad_out[r]
            dq[r] += ds @ k[c]
            dk[c] += ds.T @ q[r]
    return dq, dk, dv


# %% role="answer" exercise="09.6"
def repaired_backward(grad_out, q, k, v, out, lse, block=64):
    """Return (dq, dk, dv) of causal attention: q (Tq, D), k (Tk, D), v and grad_out (…, Dv)."""
    # BEGIN SOLUTION
    dq, dk, dv = (np.zeros_like(array) for array in (q, k, v))
    factor = q.dtype.type(q.shape[-1] ** -0.5)
    position = np.arange(len(q)) + len(k) - len(q)
    delta = (out * grad_out).sum(axis=-1, keepdims=True)  # of the whole row
    for i in range(0, len(q), block):
        for j in range(0, len(k), block):
            r, c = slice(i, i + block), slice(j, j + block)
            scores = q[r] @ k[c].T * factor
            visible = np.arange(len(k))[c] <= position[r, None]
            p = np.exp(scores - lse[r, None], out=np.zeros_like(scores), where=visible)
            dp = grad_out[r] @ v[c].T
            ds = p * (dp - delta[r]) * factor
            dv[c] += p.T @ grad_out[r]
            dq[r] += ds @ k[c]
            dk[c] += ds.T @ q[r]
    return dq, dk, dv
    # END SOLUTION


# %% role="check" exercise="09.6"
check("09.6")

# %% [markdown] role="prompt" exercise="09.V2"
# ## 09.V2 A memory budget, with Flash in it
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# A textbook compares the memory of one layer for n tokens of width d and recommends a method. All
# hold q, k and v, n · d numbers each. Besides, count the following, for `heads` heads.

# %% [markdown] role="prompt" exercise="09.V2"
# - `standard`: all scores.
# - `linformer`: n × rank scores; k and v projected to rank × d; two projections n × rank, shared by
#   the heads.
# - `window`: the scores of visible pairs, width // 2 keys a side and the own one, edges exact.
# - `flash`: one lse per query.

# %% [markdown] role="prompt" exercise="09.V2"
# Return a dict of bytes with these four keys, and `order`: a tuple of the four names, fewest bytes
# first. No two are equal.
#
# `attention_bytes(3, 1, 1, 1, 2, 1)`: 18, 20, 16, 12, and
# `("flash", "window", "standard", "linformer")`.


# %% role="answer" exercise="09.V2"
def attention_bytes(n, d, heads, rank, width, bytes_per_number):
    """Return the bytes of four methods in one layer, and their order."""
    # BEGIN SOLUTION
    side = min(width // 2, n - 1)
    besides = {
        "standard": heads * n * n,
        "linformer": heads * n * rank + 2 * rank * d + 2 * n * rank,
        "window": heads * (n * (2 * side + 1) - side * (side + 1)),
        "flash": heads * n,
    }
    held = {name: (3 * n * d + number) * bytes_per_number for name, number in besides.items()}
    return held | {"order": tuple(sorted(held, key=held.get))}
    # END SOLUTION


# %% role="check" exercise="09.V2"
check("09.V2")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# n = 4096, d = 768, rank 256, w = 512, *one* head, float32: standard 104.8 MB (C386), Linformer
# 43.5 (C396), window 46.1 (C399). With its projections Linformer takes 51.9 and falls behind
# (C407). Flash: 37.8. With 12 heads: standard 843.1, Linformer 98.0, window 135.5.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/09_flash.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. Plain `pytest --nbval exercises/09_flash.ipynb`
# gives the same verdicts.
