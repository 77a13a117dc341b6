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

# %% [markdown] role="prompt" exercise="00.1"
# ## 00.1 Bytes of the scores
#
# *3 minutes · difficulty 1 of 3 · 1 point*
#
# How many **bytes** do all attention scores of a model take? Each head of each layer holds n × n
# numbers for each sequence of the batch.
#
# `score_bytes(n=3, heads=2, layers=5, batch=1, bytes_per_number=4)` is `360`.


# %% role="answer" exercise="00.1"
def score_bytes(n, heads, layers, batch, bytes_per_number):
    """Return the bytes of all attention scores as an int."""
    # BEGIN SOLUTION
    return batch * layers * heads * n**2 * bytes_per_number
    # END SOLUTION


# %% role="check" exercise="00.1"
check("00.1")

# %% [markdown] role="prompt" exercise="00.2"
# ## 00.2 Largest score of each query, without the matrix
#
# *5 minutes · difficulty 1 of 3 · 1 point*
#
# For q `(Tq, D)` and k `(Tk, D)` return the largest score q·k of each query, `(Tq,)`, unscaled.
#
# q = [[1, 0], [0, 1]], k = [[2, 3], [4, 1]] gives `[4, 3]`.

# %% [markdown] role="prompt" exercise="00.2"
# **Memory limit** at n = 2048: 128 rows of scores at once, 128 · n · 4 bytes = 1 MiB. Your result
# counts, q and k do not.
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

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/00_start.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. `attncourse progress` shows what you have passed so
# far.
