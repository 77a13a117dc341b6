# %% [markdown]
# # 05 Exercises: sparse attention
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("05.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# `window` is a **radius**, as in the chapter. *Global* tokens are the first `n_global` positions.
# If Tq ≠ Tk, the last query stands at the last key: query i sits at key position i + Tk − Tq. A
# query that sees no key gets zeros. V4 and V8 keep the textbooks' meaning of a window: the total.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 05.5

# %% [markdown] role="prompt" exercise="05.1"
# ## 05.1 Window, stride and hubs in one mask
#
# *12 minutes · difficulty 1 of 3 · 2 points*
#
# Return the mask `(n_queries, n_keys)`, True = may attend, of a union: within `window`; at a
# multiple of `stride`; and global tokens, which see all and are seen by all. `causal` hides every
# later key, in all parts.

# %% [markdown] role="prompt" exercise="05.1"
# All numbers are integers, `stride` is at least 1, and `causal` is a bool.
#
# `sparse_mask(2, 4, 0, 3, 1, False)` is
#
#     [[ True, False,  True, False],
#      [ True, False, False,  True]]
#
# The queries sit at 2 and 3. Both see themselves and the global token 0, which is no query here.


# %% role="answer" exercise="05.1"
def sparse_mask(n_queries, n_keys, window, stride, n_global, causal):
    """Return the bool mask (n_queries, n_keys) of window, stride and global tokens."""
    # BEGIN SOLUTION
    own = np.arange(n_queries)[:, None] + n_keys - n_queries
    key = np.arange(n_keys)
    mask = (np.abs(key - own) <= window) | ((key - own) % stride == 0)
    mask |= (key < n_global) | ((own >= 0) & (own < n_global))
    return mask & (key <= own) if causal else mask
    # END SOLUTION


# %% role="check" exercise="05.1"
check("05.1")

# %% [markdown] role="prompt" exercise="05.2"
# ## 05.2 Count a Longformer
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# How many True entries has the mask of a window and `n_global` global tokens, n × n and not causal?
# Edges and overlaps count exactly. Both may exceed n; n goes up to 10¹².
#
# `longformer_connections(5, 1, 1)` is `19`; without global tokens it is `13`.


# %% role="answer" exercise="05.2"
def longformer_connections(n, window, n_global):
    """Return the number of pairs (query, key) as an exact int; n >= 1, others >= 0."""
    # BEGIN SOLUTION
    n_global = min(n_global, n)
    others = n - n_global  # a plain window among themselves
    window = min(window, max(others - 1, 0))
    band = others * (2 * window + 1) - window * (window + 1)
    return n_global * n + others * n_global + band
    # END SOLUTION


# %% role="check" exercise="05.2"
check("05.2")

# %% [markdown] role="prompt" exercise="05.3"
# ## 05.3 Block-sparse attention, one row of blocks at a time
#
# *25 minutes · difficulty 3 of 3 · 4 points*
#
# softmax(q kᵀ / √D) v for q and k `(..., n, D)`, v `(..., n, Dv)`. Query block a sees key block b
# if the bool `layout[a, b]`. Blocks have `block` tokens, the last may be shorter.

# %% [markdown] role="prompt" exercise="05.3"
# Return `(..., n, Dv)`, dtype of q; a block that sees nothing gets zeros. With `block = 1` and
# `layout = np.eye(n, dtype=bool)` the result is v.

# %% [markdown] role="prompt" exercise="05.3"
# **Memory limit** at n = 2048, blocks of 64, some 5 in a row, D = 64, float32: four arrays as large
# as q, 2 MiB. One row of blocks fits easily; an n × n array does not, even of booleans (4 MiB).


# %% role="answer" exercise="05.3"
def block_sparse_attention(q, k, v, layout, block):
    """Return attention over the listed blocks, (..., n, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    n = q.shape[-2]
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for row, listed in enumerate(layout):
        rows = slice(row * block, min((row + 1) * block, n))
        keys = (np.flatnonzero(listed)[:, None] * block + np.arange(block)).ravel()
        keys = keys[keys < n]
        if len(keys):
            scores = q[..., rows, :] @ k[..., keys, :].swapaxes(-1, -2) / q.shape[-1] ** 0.5
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[..., rows, :] = weights @ v[..., keys, :]
    return out
    # END SOLUTION


# %% role="check" exercise="05.3"
check("05.3")

# %% [markdown] role="prompt" exercise="05.4"
# ## 05.4 Layers until all have met
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# After how many layers of this mask does every output depend on every input? `mask[i, j]` lets i
# hear from j in one layer, and not j from i. Return `-1` if no number of layers is enough.

# %% [markdown] role="prompt" exercise="05.4"
# A token also keeps what it knows, whether or not it sees itself: the residual connection.
#
# A window of radius 1 over 6 tokens needs `5` layers. One token alone needs `0`. The mask is bool
# `(n, n)`, n up to 100.


# %% role="answer" exercise="05.4"
def layers_to_connect(mask):
    """Return the least number of layers that join every pair, or -1."""
    # BEGIN SOLUTION
    step = mask | np.eye(len(mask), dtype=bool)
    reached, layers = np.eye(len(mask), dtype=bool), 0
    while not reached.all():
        wider = step.astype(int) @ reached > 0
        if (wider == reached).all():
            return -1
        reached, layers = wider, layers + 1
    return layers
    # END SOLUTION


# %% role="check" exercise="05.4"
check("05.4")

# %% [markdown] role="prompt" exercise="05.5"
# ## 05.5 A Triton kernel that walks a list
#
# *20 minutes · difficulty 3 of 3 · 3 points*
#
# `blocks` lists the key tiles of all rows, one row after another; row t owns the entries
# `starts[t]` … `starts[t + 1] - 1`. Set `first`, `last` and `key_tile`; the rest is given. q, k, v
# are contiguous `(n, D)` float32.

# %% [markdown] role="prompt" exercise="05.5"
# **Traffic limit**: each listed tile of K and V once, and the lists. Example: rows that see the
# tiles {0, 2} and {1} give starts = [0, 2, 3] and blocks = [0, 2, 1].


# %% role="answer" exercise="05.5"
@triton.jit
def block_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, starts_ptr, blocks_ptr, n, scale,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
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
    first = tl.load(starts_ptr + tile)
    last = tl.load(starts_ptr + tile + 1)
    # END SOLUTION
    for entry in range(first, last):
        # BEGIN SOLUTION
        key_tile = tl.load(blocks_ptr + entry)
        # END SOLUTION
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        at_keys = keys[:, None] * D + cols[None, :]
        in_keys = keys[:, None] < n
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
        scores = tl.where(keys[None, :] < n, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - new_max[:, None])
        fade = tl.exp(running_max - new_max)
        running_sum = running_sum * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    total = tl.where(running_sum == 0.0, 1.0, running_sum)
    tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def launch_blocks(q, k, v, layout):
    """Return block-sparse attention of one head, (n, D); layout bool, tiles of 16 tokens."""
    BLOCK = 16
    n, D = q.shape
    out = torch.empty_like(q)
    starts = torch.zeros(len(layout) + 1, dtype=torch.int32, device=q.device)
    starts[1:] = layout.sum(1).cumsum(0)
    blocks = layout.nonzero()[:, 1].int()
    block_kernel[(triton.cdiv(n, BLOCK),)](
        q, k, v, out, starts, blocks, n, D**-0.5, D=D, BLOCK=BLOCK
    )  # fmt: skip
    return out


# %% role="check" exercise="05.5"
check("05.5")

# %% [markdown] role="prompt" exercise="05.6"
# ## 05.6 Find two bugs in a union
#
# *20 minutes · difficulty 3 of 3 · 3 points*
#
# Each query sees its window and the first `n_global` keys, with one softmax; no full rows. Copy the
# code, repair it, keep the blocks: memory at n = 2048 is limited to four arrays as large as q,
# 2 MiB.


# %% role="prompt" exercise="05.6"
def broken_union(q, k, v, window, n_global, block=32):
    (n, width), out = q.shape, np.zeros((len(q), v.shape[-1]), q.dtype)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        near = np.arange(max(0, start - window), min(n, rows[-1] + window + 1))
        running_max, total, acc = -np.inf, 0.0, 0.0
        for keys in (near, np.arange(n_global)):
            visible = (np.abs(rows[:, None] - keys) <= window) | (keys is not near)
            scores = np.where(visible, q[rows] @ k[keys].T / width**0.5, -np.inf)
            running_max = np.maximum(running_max, scores.max(-1, keepdims=True, initial=-np.inf))
            weights = np.exp(scores - running_max)
            total, acc = total + weights.sum(-1, keepdims=True), acc + weights @ v[keys]
        out[rows] = acc / total
    return out


# %% role="answer" exercise="05.6"
def repaired_union(q, k, v, window, n_global, block=32):
    """Return the union's attention for q, k (n, D), v (n, Dv): (n, Dv), dtype of q."""
    # BEGIN SOLUTION
    (n, width), out = q.shape, np.zeros((len(q), v.shape[-1]), q.dtype)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        near = np.arange(max(n_global, start - window), min(n, rows[-1] + window + 1))
        running_max, total, acc = -np.inf, 0.0, 0.0
        for keys in (np.arange(n_global), near):  # each key once
            visible = (np.abs(rows[:, None] - keys) <= window) | (keys is not near)
            scores = np.where(visible, q[rows] @ k[keys].T / width**0.5, -np.inf)
            new_max = np.maximum(running_max, scores.max(-1, keepdims=True, initial=-np.inf))
            pivot = np.where(new_max == -np.inf, 0, new_max)  # no visible key so far
            weights, fade = np.exp(scores - pivot), np.exp(running_max - pivot)
            total = total * fade + weights.sum(-1, keepdims=True)
            acc = acc * fade + weights @ v[keys]
            running_max = new_max
        out[rows] = acc / total
    return out
    # END SOLUTION


# %% role="check" exercise="05.6"
check("05.6")

# %% [markdown] role="prompt" exercise="05.V4"
# ## 05.V4 BigBird without counting twice
#
# *15 minutes · difficulty 2 of 3 · 2 points*
#
# A regular token has `window` keys in all (the textbook's w is a total), `n_random` and `n_global`
# others, all different. A global token has all n. What does one float32 head connect, and in which
# part of the pattern?

# %% [markdown] role="prompt" exercise="05.V4"
# Return a dict. Parts, in pairs: `window_pairs`, `random_pairs` and `to_global` of the regular
# tokens, `from_global` of the global ones. Then their `total`; `average` keys a token; `density`,
# the share of n²; `bytes` of the scores.
#
# `bigbird_connections(8, 2, 1, 1)`: 14, 7, 7, 8, 36, 4.5, 0.5625, 144.


# %% role="answer" exercise="05.V4"
def bigbird_connections(n, window, n_random, n_global):
    """Return eight numbers for n tokens; window, n_random and n_global are keys of a token."""
    # BEGIN SOLUTION
    regular = n - n_global
    parts = {
        "window_pairs": regular * window,
        "random_pairs": regular * n_random,
        "to_global": regular * n_global,
        "from_global": n_global * n,
    }
    total = sum(parts.values())
    return {
        **parts,
        "total": total,
        "average": total / n,
        "density": total / n**2,
        "bytes": 4 * total,
    }
    # END SOLUTION


# %% role="check" exercise="05.V4"
check("05.V4")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 4096, w = 256, r = 64, g = 32 it prints 1,690,624 connections (C458), 6.8 MB (C461) and
# 89.92 % sparsity (C459). It adds global keys to rows that have them. The rows give
# 1,561,600: 6.25 MB and 90.69 %; its table adds up to 1,570,816 (C463).
#
# </details>

# %% [markdown] role="prompt" exercise="05.V8"
# ## 05.V8 A union of three patterns
#
# *15 minutes · difficulty 2 of 3 · 2 points*
#
# A textbook adds 64 local keys, every 128th and 1 global token: 97. Count exactly: keys at most
# `local` // 2 away; keys a multiple of `stride` away; the first `n_global` keys, for every query.
# No full rows, not causal.

# %% [markdown] role="prompt" exercise="05.V8"
# Return a dict for one float32 head: `added`, the pairs of the three patterns added up; `union`,
# those that any of them has; and of the union `average` keys a token, `density`, `bytes`. n is at
# most 4096.
#
# `combined_pattern(6, 2, 3, 1)`: 34, 25, 4.166…, 0.6944…, 100.


# %% role="answer" exercise="05.V8"
def combined_pattern(n, local, stride, n_global):
    """Return five numbers for n tokens, local // 2 keys a side, a stride and global keys."""
    # BEGIN SOLUTION
    key = np.arange(n)
    offset = key - key[:, None]
    near, far = np.abs(offset) <= local // 2, offset % stride == 0
    first = np.tile(key < n_global, (n, 1))
    union = int((near | far | first).sum())
    return {
        "added": int(near.sum() + far.sum() + first.sum()),
        "union": union,
        "average": union / n,
        "density": union / n**2,
        "bytes": 4 * union,
    }
    # END SOLUTION


# %% role="check" exercise="05.V8"
check("05.V8")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 4096 it prints 97 keys (C173) and 2.37 % (C174). The masks give 97.74 added up, own keys
# included, and 96.73 in the union: 2.361 %. If the first token also sees everything, its row adds
# nearly 4096 pairs more.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/05_sparse.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. Plain `pytest --nbval exercises/05_sparse.ipynb`
# gives the same verdicts.
