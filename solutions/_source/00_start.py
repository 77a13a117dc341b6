# %% [markdown]
# # 00 First exercises
#
# Each exercise has four parts: the task, a cell for your answer, a check, and three hints.
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("00.1")` in a new cell.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit

# %% [markdown] role="prompt" exercise="00.1"
# ## 00.1 Bytes of the scores
#
# *3 minutes · difficulty 1 of 3 · 1 point*
#
# How many **bytes** do all attention scores of a model take? Each head of each layer holds n × n
# numbers for each sequence of the batch.
#
# `score_bytes(n=3, heads=2, layers=5, batch=1, bytes_per_number=4)` is `360`.
#
# [Its section](../notebooks/00_start.ipynb#The-bill)


# %% role="answer" exercise="00.1"
def score_bytes(n, heads, layers, batch, bytes_per_number):
    """Return the bytes of all attention scores as an int."""
    # BEGIN SOLUTION
    return batch * layers * heads * n**2 * bytes_per_number
    # END SOLUTION


# %% role="check" exercise="00.1"
check("00.1")

# %% [markdown] role="hints" exercise="00.1"
# 1. Start with one head of one layer for one sequence: how many pairs of query and key?
# 2. n queries times n keys make n² numbers. Heads, layers and sequences each have their own.
# 3. Multiply all five: n appears squared, each of the others once.

# %% role="spec" exercise="00.1"
Spec(
    kind="number",
    cases=[
        case("1 token", 1, 1, 1, 1, 1),
        case("3 tokens, 2 bytes a number", 3, 1, 1, 1, 2),
        case("5 heads", 3, 5, 1, 1, 2),
        case("7 layers", 3, 5, 7, 1, 2),
        case("batch 11", 3, 5, 7, 11, 2),
        case("10¹² tokens", 10**12, 96, 80, 16, 2),
        *draws(4, lambda rng: rng.integers(2, 60, 5)),
    ],
    mistakes=[
        edit("n**2", "n",
             says="your number grows with n, not with n²",
             next="count pairs: each of n queries has a score for each of n keys"),
        edit("heads * ", "",
             says="your number is that of a single head",
             next="each head has its own n × n scores: multiply by heads"),
        edit("layers * ", "",
             says="your number is that of a single layer",
             next="each layer has its own scores: multiply by layers"),
        edit("batch * ", "",
             says="your number is that of a single sequence",
             next="each sequence of the batch has its own scores: multiply by batch"),
        edit(" * bytes_per_number", "",
             says="you counted numbers, not bytes",
             next="multiply by bytes_per_number"),
        edit("return ", "return 8 * ",
             says="your number is 8 times too large: it counts bits",
             next="bytes_per_number is already in bytes: do not multiply by 8"),
        edit("n**2", "(n * (n + 1) // 2)",
             says="you counted the lower triangle only, the pairs of a causal mask",
             next="all n² scores are stored, whether a mask hides them or not"),
        edit("bytes_per_number", "bytes_per_number / 1e6",
             says="your number is in MB",
             next="return bytes: leave out the division by 10⁶"),
    ],
    alternatives=[edit("n**2", "n * n"), lambda n, *sizes: math.prod((n, n, *sizes))],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="00.2"
# ## 00.2 Largest score of each query, without the matrix
#
# *5 minutes · difficulty 1 of 3 · 1 point*
#
# For q `(Tq, D)` and k `(Tk, D)` return the largest score q·k of each query, `(Tq,)`, unscaled.
#
# q = [[1, 0], [0, 1]], k = [[2, 3], [4, 1]] gives `[4, 3]`.
#
# [Its section](../notebooks/00_start.ipynb#Memory-is-graded)

# %% [markdown] role="prompt" exercise="00.2"
# **Memory limit** at n = 2048: 160 rows of scores at once, 160 · n · 4 bytes = 1.25 MiB. Your
# result counts, q and k do not.
#
# Try `return (q @ k.T).max(axis=1)` first, and read the verdict.


# %% role="answer" exercise="00.2"
def score_peaks(q, k):
    """Return the largest score of each query, (Tq,) in the dtype of q."""
    # BEGIN SOLUTION
    return np.array([(k @ row).max() for row in q])
    # END SOLUTION


# %% role="check" exercise="00.2"
check("00.2")

# %% [markdown] role="hints" exercise="00.2"
# 1. Which scores does the answer for one query need? Must the others exist at that time?
# 2. Loop over the queries: compute one row of scores, keep its maximum, forget the row.
# 3. One row is k @ q[i], of shape (Tk,). Collect its .max() for each i into an array.


# %% role="spec" exercise="00.2"
def peaks_by_blocks(q, k):
    blocks = [(q[start : start + 128] @ k.T).max(axis=1) for start in range(0, len(q), 128)]
    return np.concatenate(blocks)


def peaks_running(q, k, first=-np.inf):
    peaks = np.full(len(q), first, q.dtype)
    for start in range(0, len(k), 64):
        peaks = np.maximum(peaks, (q @ k[start : start + 64].T).max(axis=1))
    return peaks


def pair(name, n_queries, n_keys, width, dtype=np.float32, shift=0.0):
    def make(rng):
        q, k = (rng.standard_normal((n, width)) for n in (n_queries, n_keys))
        return case(name, q.astype(dtype), (k - shift * q.sum(axis=0)).astype(dtype))

    return make


Spec(
    kind="array",
    cases=[
        pair("1 query, 1 key", 1, 1, 1),
        pair("2 queries, 3 keys", 2, 3, 5),
        pair("1 query: all scores below 0", 1, 4, 8, shift=5.0),
        pair("more queries than keys", 7, 3, 5),
        pair("float64", 5, 5, 8, np.float64),
        pair("random, 63 queries, 100 keys", 63, 100, 16),
        pair("random, 100 queries, 63 keys", 100, 63, 64),
    ],
    memory=Memory(pair("n = 2048", 2048, 2048, 16), 160 * 2048 * 4,
                  "160 rows of scores at once: 160 · n · 4 bytes"),
    mistakes=[
        Mistake(lambda q, k: (q @ k.T).max(axis=1),
                says="your answer is right, but all n × n scores exist at once",
                next="take the queries one by one, or in blocks, and keep only the maxima"),
        Mistake(lambda q, k: (q @ k.T).max(axis=0),
                says="your maxima run over the queries: there is one for each key",
                next="each query wants the maximum over the keys, the last axis of the scores"),
        edit(".max()", ".max() / np.sqrt(row.size).astype(q.dtype)",
             says="your scores are divided by √D",
             next="here the score is the plain product q·k"),
        edit("(k @ row)", "abs(k @ row)",
             says="your output is the largest magnitude: negative scores count as positive",
             next="leave out the absolute value"),
        Mistake(lambda q, k: peaks_running(q, k, first=0),
                says="your running maximum starts at 0, so negative maxima are lost",
                next="start the maximum at -np.inf"),
        edit("(k @ row).max() for", "k[min(i, len(k) - 1)] @ row for i,", "in q", "in enumerate(q)",
             says="your output is each query's score with the key at its own position",
             next="take the maximum over all keys"),
        edit("k @ row", "k[:64] @ row",
             says="your maxima cover only the first 64 keys",
             next="carry the maximum on from block to block until the last key"),
    ],
    alternatives=[peaks_by_blocks, peaks_running],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/00_start.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. `attncourse progress` shows what you have passed so
# far.
