# %% [markdown]
# # 07 Exercises: linear attention and the Performer
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("07.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# φ is a feature map, m its number of features. Softmax attention has the scores q·k/√D. One
# multiply-add is 2 FLOPs. Leading axes, written `...`, are free. Results have the dtype of q.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 07.5

# %% [markdown] role="prompt" exercise="07.1"
# ## 07.1 Where to put the brackets
#
# *10 minutes · difficulty 1 of 3 · 2 points*
#
# (φ(Q) φ(K)ᵀ) V or φ(Q) (φ(K)ᵀ V)? Q has `n_queries` rows, K and V have `n_keys`, φ gives
# `features` numbers, V is `value_width` wide. No normaliser; φ itself is free.

# %% [markdown] role="prompt" exercise="07.1"
# Return a dict of ints: `left_flops`, `right_flops`, of both products; `left_numbers`,
# `right_numbers`, the size of what stands in brackets; `crossover`, the smallest n with n queries
# and n keys for which right takes strictly fewer FLOPs, whatever the given lengths.
#
# `bracket_costs(3, 5, 2, 4)`: 180, 128, 15, 8, 3.


# %% role="answer" exercise="07.1"
def bracket_costs(n_queries, n_keys, features, value_width):
    """Return five ints for both ways to put the brackets."""
    # BEGIN SOLUTION
    m, width = features, value_width
    return {
        "left_flops": 2 * n_queries * n_keys * (m + width),
        "right_flops": 2 * m * width * (n_keys + n_queries),
        "left_numbers": n_queries * n_keys,
        "right_numbers": m * width,
        "crossover": 2 * m * width // (m + width) + 1,
    }
    # END SOLUTION


# %% role="check" exercise="07.1"
check("07.1")

# %% [markdown] role="prompt" exercise="07.2"
# ## 07.2 Linear attention
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# Row i is φ(q_i) Σ_j φ(k_j)ᵀ v_j, divided by φ(q_i) · Σ_j φ(k_j), with φ(x) = elu(x) + 1: exp(x)
# below 0, x + 1 above. q is `(..., Tq, D)`, k `(..., Tk, D)`, v `(..., Tk, Dv)`. Not causal; add
# nothing to the normaliser.

# %% [markdown] role="prompt" exercise="07.2"
# With one key, for example, every row of the result is its value.
#
# **Memory limit** at n = 4096, D = 64, float32: eight arrays as large as q, 8 MiB. A 4096 × 4096
# array does not fit, not even of booleans.


# %% role="answer" exercise="07.2"
def linear_attention(q, k, v):
    """Return linear attention with elu + 1, (..., Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    phi_q, phi_k = (np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q, k))
    seen = phi_q @ (phi_k.swapaxes(-1, -2) @ v)
    return seen / (phi_q @ phi_k.sum(axis=-2)[..., None])
    # END SOLUTION


# %% role="check" exercise="07.2"
check("07.2")

# %% [markdown] role="prompt" exercise="07.3"
# ## 07.3 Causal, with a state
#
# *25 minutes · difficulty 3 of 3 · 4 points*
#
# The same, causal: query i sees the keys 0 … i. q and k are `(..., n, D)`, v is `(..., n, Dv)`.
# Row 0 is always v_0.

# %% [markdown] role="prompt" exercise="07.3"
# **Memory limit** at n = 4096, D = 64, float32: eight arrays as large as q, 8 MiB. A loop over
# tokens fits, and so do chunks. The states of all tokens at once, n·D·(Dv + 1) numbers, take 65
# MiB; all weights 64 MiB.


# %% role="answer" exercise="07.3"
def causal_linear(q, k, v):
    """Return causal linear attention with elu + 1, (..., n, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = 0
    for start in range(0, q.shape[-2], 64):
        rows = slice(start, start + 64)
        phi_q, phi_k = (
            np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q[..., rows, :], k[..., rows, :])
        )
        values = np.concatenate([v[..., rows, :], np.ones_like(v[..., rows, :1])], axis=-1)
        seen = np.tril(phi_q @ phi_k.swapaxes(-1, -2)) @ values
        seen += 0 if start == 0 else phi_q @ state
        out[..., rows, :] = seen[..., :-1] / seen[..., -1:]
        state = state + phi_k.swapaxes(-1, -2) @ values
    return out
    # END SOLUTION


# %% role="check" exercise="07.3"
check("07.3")

# %% [markdown] role="prompt" exercise="07.4"
# ## 07.4 Positive random features
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# φ(x), one feature for each row w of `directions` `(m, D)`, so that over random directions φ(q) ·
# φ(k) is exp(q·k/√D) on average. x is `(..., T, D)`, the result `(..., T, m)`, in the dtype of x.

# %% [markdown] role="prompt" exercise="07.4"
# `positive_features(np.array([[2.0]]), np.array([[1.0], [0.0], [2.0], [-1.0]]))`, with D = 1, is
# `[[0.5, 0.067…, 3.694…, 0.009…]]`. Where the result is a fair number, nothing may overflow on the
# way to it.


# %% role="answer" exercise="07.4"
def positive_features(x, directions):
    """Return the positive random features of x, (..., T, m)."""
    # BEGIN SOLUTION
    m, width = directions.shape
    small = x / x.dtype.type(width**0.25)
    exponents = small @ directions.T - np.square(small).sum(axis=-1, keepdims=True) / 2
    return np.exp(exponents) / x.dtype.type(m**0.5)
    # END SOLUTION


# %% role="check" exercise="07.4"
check("07.4")

# %% [markdown] role="prompt" exercise="07.5"
# ## 07.5 The walk of a Triton kernel
#
# *25 minutes · difficulty 3 of 3 · 3 points*
#
# Causal linear attention: one program a head walks over the chunks. Compute `acc` `[BLOCK, D]` and
# `total` `[BLOCK]`, numerator and normaliser of the chunk's queries, and keep `state` and `norm`
# up to date. Inputs are `(H, n, D)` float32, contiguous: features already.

# %% [markdown] role="prompt" exercise="07.5"
# **Traffic limit**: each element of q, k and v loaded once, each of the result stored once. Write
# `input_precision="ieee"` in each `tl.dot`. Rows beyond n are zeros.
#
# Example: with one token, `acc` is (φ(q)·φ(k)) v, `total` is φ(q)·φ(k), and the result is v.


# %% role="answer" exercise="07.5"
@triton.jit
def scan_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D: tl.constexpr, BLOCK: tl.constexpr):
    head = tl.program_id(0)
    cols = tl.arange(0, D)
    state = tl.zeros((D, D), tl.float32)  # sum of φ(k) vᵀ
    norm = tl.zeros((D,), tl.float32)  # sum of φ(k)
    for first in range(0, n, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        at_rows = head * n * D + rows[:, None] * D + cols[None, :]  # [BLOCK, D]
        in_rows = rows[:, None] < n
        phi_q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
        phi_k = tl.load(k_ptr + at_rows, mask=in_rows, other=0.0)
        v = tl.load(v_ptr + at_rows, mask=in_rows, other=0.0)
        # BEGIN SOLUTION
        own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")  # [BLOCK, BLOCK]
        own = tl.where(rows[:, None] >= rows[None, :], own, 0.0)
        acc = tl.dot(phi_q, state, input_precision="ieee")
        acc += tl.dot(own, v, input_precision="ieee")
        total = tl.sum(phi_q * norm[None, :], 1) + tl.sum(own, 1)
        state += tl.dot(tl.trans(phi_k), v, input_precision="ieee")
        norm += tl.sum(phi_k, 0)
        # END SOLUTION
        total = tl.where(total == 0.0, 1.0, total)
        tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def launch_scan(phi_q, phi_k, v):
    """Return causal linear attention, (H, n, D)."""
    heads, n, D = phi_q.shape
    out = torch.empty_like(v)
    scan_kernel[(heads,)](phi_q, phi_k, v, out, n, D=D, BLOCK=16)
    return out


# %% role="check" exercise="07.5"
check("07.5")

# %% [markdown] role="prompt" exercise="07.6"
# ## 07.6 Find two bugs in a Performer
#
# *15 minutes · difficulty 3 of 3 · 3 points*
#
# It should estimate softmax attention with positive features, and not overflow for long vectors.
# One bug is in a division, the other in a maximum. Copy the code into the answer cell and repair
# it. Random directions come as `directions` `(m, D)`.


# %% role="prompt" exercise="07.6"
def broken_performer(q, k, v, directions):
    def exponents(x):
        x = x / x.dtype.type(x.shape[-1] ** 0.5)
        return x @ directions.T - np.square(x).sum(axis=-1, keepdims=True) / 2

    of_q, of_k = exponents(q), exponents(k)
    phi_q = np.exp(of_q - of_q.max(axis=-1, keepdims=True))
    phi_k = np.exp(of_k - of_k.max(axis=-1, keepdims=True))
    values = np.column_stack([v, np.ones(len(v), v.dtype)])
    seen = phi_q @ (phi_k.T @ values)
    return seen[:, :-1] / seen[:, -1:]


# %% role="answer" exercise="07.6"
def repaired_performer(q, k, v, directions):
    """Return attention with positive features for q (Tq, D), k (Tk, D), v (Tk, Dv): (Tq, Dv)."""

    # BEGIN SOLUTION
    def exponents(x):
        x = x / x.dtype.type(x.shape[-1] ** 0.25)
        return x @ directions.T - np.square(x).sum(axis=-1, keepdims=True) / 2

    of_q, of_k = exponents(q), exponents(k)
    phi_q = np.exp(of_q - of_q.max(axis=-1, keepdims=True))
    phi_k = np.exp(of_k - of_k.max())
    values = np.column_stack([v, np.ones(len(v), v.dtype)])
    seen = phi_q @ (phi_k.T @ values)
    return seen[:, :-1] / seen[:, -1:]
    # END SOLUTION


# %% role="check" exercise="07.6"
check("07.6")

# %% [markdown] role="prompt" exercise="07.V3"
# ## 07.V3 How good is a Performer?
#
# *20 minutes · difficulty 2 of 3 · 2 points*
#
# A textbook measures a Performer by three numbers, and prints a table of them. Do it with the
# right features, φ(x) as in 07.4, beside the answer that ignores the query. q, k and v are
# `(n, D)` float64, `directions` is `(m, D)`.

# %% [markdown] role="prompt" exercise="07.V3"
# Return a dict: `mse` against softmax attention; `relative`, mse over the mean square of the exact
# output; `cosine` of both outputs, each as one vector; `baseline_mse`, of the mean of v for every
# query; `full_flops`, `performer_flops`, of φ's projections and all other products, without
# normalisers; `speedup`, their ratio.

# %% [markdown] role="prompt" exercise="07.V3"
# With q = [[1.0], [0.0]], k = [[1.0], [-1.0]], v = [[1.0], [0.0]] and directions = [[0.0]]:
# 0.0725…, 0.1413…, 0.9640…, 0.0725…, 16, 16, 1.0. `attncourse.reference` may be used.


# %% role="answer" exercise="07.V3"
def performer_report(q, k, v, directions):
    """Return seven numbers for a Performer with the given directions."""
    # BEGIN SOLUTION
    from attncourse.reference import full, linear, performer

    (n, width), m = q.shape, len(directions)
    exact = full.attention(q, k, v)
    found = linear.attention(q, k, v, feature_map=lambda x: performer.feature_map(x, directions))
    mse = np.square(found - exact).mean()
    return {
        "mse": mse,
        "relative": mse / np.square(exact).mean(),
        "cosine": (found * exact).sum() / np.sqrt(np.square(found).sum() * np.square(exact).sum()),
        "baseline_mse": np.square(v.mean(axis=0) - exact).mean(),
        "full_flops": 4 * n * n * width,
        "performer_flops": 8 * n * m * width,
        "speedup": n / (2 * m),
    }
    # END SOLUTION


# %% role="check" exercise="07.V3"
check("07.V3")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 512, d = 64, m = 256: MSE 0.0012 (C422), cosine 0.9934 (C423). Its code gives 0.0029 and
# 0.67, the mean of v 0.0033 and 0.59. Its speedups of 2.0 (C432) and 16 at n = 4096 (C435) compare
# one product each; yours are 1.0 and 8.0.
#
# </details>

# %% [markdown] role="prompt" exercise="07.V9"
# ## 07.V9 Where linear and softmax attention part
#
# *15 minutes · difficulty 2 of 3 · 2 points*
#
# The *total variation* of two rows of weights is half the sum of their absolute differences. Return
# it for each query: softmax's row against that of φ(x) = elu(x) + 1. q is `(Tq, D)`, k `(Tk, D)`,
# the result `(Tq,)`.

# %% [markdown] role="prompt" exercise="07.V9"
# `row_distances(np.array([[1.0]]), np.array([[0.0], [2.0]]))` is `[0.1307…]`: softmax gives 0.119…
# and 0.880…, linear attention 0.25 and 0.75.


# %% role="answer" exercise="07.V9"
def row_distances(q, k):
    """Return the total variation of both rows of each query, (Tq,)."""
    # BEGIN SOLUTION
    scores = q @ k.T / q.dtype.type(q.shape[1] ** 0.5)
    softmax = np.exp(scores - scores.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    phi_q, phi_k = (np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q, k))
    linear = phi_q @ phi_k.T
    linear /= linear.sum(axis=1, keepdims=True)
    return np.abs(softmax - linear).sum(axis=1) / 2
    # END SOLUTION


# %% role="check" exercise="07.V9"
check("07.V9")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# "Typically 5–15 %" (C175). For random q and k of width 64 and 512 tokens the mean distance is 36
# %; if q and k are half as long, still 9 %, and then the softmax is nearly even itself.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run `attncourse grade
# exercises/07_linear.ipynb`. It runs a copy of the notebook from the top and prints the score;
# your file is not changed. Plain `pytest --nbval exercises/07_linear.ipynb` gives the same
# verdicts.
