# %% [markdown]
# # 13 Exercises: measuring
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("13.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Times are in seconds unless their name says otherwise. One multiply-add is 2 FLOPs, and exact
# attention takes 4·n²·d of them a head. MB are powers of 10, MiB powers of 2.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% [markdown] role="prompt" exercise="13.1"
# ## 13.1 Summarise repeated timings
#
# *10 minutes · difficulty 1 of 3 · 1 point*
#
# `seconds` are the times of calls, in the order in which they were made; the first `warmup` of
# them do not count. Return a dict of floats: `median`, and the quartiles `low` and `high`,
# interpolated between calls.
#
# `timing_summary(np.array([9.0, 3.0, 1.0, 2.0]), 1)`: 2.0, 1.5, 2.5.


# %% role="answer" exercise="13.1"
def timing_summary(seconds, warmup):
    """Return a dict with median, low and high of seconds (calls,), without the first warmup."""
    # BEGIN SOLUTION
    low, median, high = np.quantile(seconds[warmup:], [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}
    # END SOLUTION


# %% role="check" exercise="13.1"
check("13.1")

# %% [markdown] role="prompt" exercise="13.2"
# ## 13.2 Repair a benchmark of a queue
#
# *15 minutes · difficulty 2 of 3 · 3 points*
#
# A device works on one call after the other, in order. Of each call the clock noted when it was
# `started`, when it `returned` to the program, and when the device had `finished` it. The code
# below has three bugs.

# %% [markdown] role="prompt" exercise="13.2"
# Return the median time that the device *works* on a call, as a float, without the first `warmup`
# calls. It begins with a call when that is started, or when the call before is finished, whichever
# is later.
#
# started 0, 1; returned 0.1, 1.1; finished 5, 8; no warm-up: it works 5 and 3, so `4.0`.


# %% role="prompt" exercise="13.2"
def broken_benchmark(started, returned, finished, warmup):
    return float(np.mean(returned - started))


# %% role="answer" exercise="13.2"
def work_seconds(started, returned, finished, warmup):
    """Return the median work of a call in seconds; three arrays (calls,), times of one clock."""
    # BEGIN SOLUTION
    begun = np.maximum(started, np.concatenate(([-np.inf], finished[:-1])))
    return float(np.median((finished - begun)[warmup:]))
    # END SOLUTION


# %% role="check" exercise="13.2"
check("13.2")

# %% [markdown] role="prompt" exercise="13.3"
# ## 13.3 The exponent of growth
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# If a quantity grows like c·nᵃ, its points lie on a line on logarithmic axes. Fit the line by
# least squares, on both axes logarithms, and return its slope a as a float.
#
# `growth_exponent(np.array([512, 1024]), np.array([3.0, 12.0]))` is `2.0`, up to rounding.


# %% role="answer" exercise="13.3"
def growth_exponent(lengths, values):
    """Return the exponent; lengths (points,) int, rising, values (points,) float, positive."""
    # BEGIN SOLUTION
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
    # END SOLUTION


# %% role="check" exercise="13.3"
check("13.3")

# %% [markdown]
# <details><summary>After your answer: chapter E's times of standard attention</summary>
#
# From 512 to 16384 tokens it prints 8, 8, 12, 98, 190 and 1500 ms (C196 to C201). Their exponent
# is 1.56. The work has exponent 2.
#
# </details>

# %% [markdown] role="prompt" exercise="13.4"
# ## 13.4 The error, without the scores
#
# *20 minutes · difficulty 3 of 3 · 4 points*
#
# How far is `out` from softmax(q kᵀ / √D) v? Return the root mean square of the difference over
# the root mean square of the right output, as a float. For an `out` of zeros it is `1.0`.

# %% [markdown] role="prompt" exercise="13.4"
# q is `(Tq, D)`, k `(Tk, D)`, v `(Tk, Dv)`, out `(Tq, Dv)`, all float64. **Memory limit** at n =
# 1024, D = 64: 256 rows of scores and three arrays as large as q, 3.5 MiB. A matrix of all scores
# takes 8 MiB.


# %% role="answer" exercise="13.4"
def attention_error(q, k, v, out):
    """Return the relative root mean square error of out as a float."""
    # BEGIN SOLUTION
    difference = total = 0.0
    for start in range(0, len(q), 64):
        rows = slice(start, start + 64)
        scores = q[rows] @ k.T / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        exact = weights / weights.sum(axis=-1, keepdims=True) @ v
        difference += np.sum((out[rows] - exact) ** 2)
        total += np.sum(exact**2)
    return float(np.sqrt(difference / total))
    # END SOLUTION


# %% role="check" exercise="13.4"
check("13.4")

# %% [markdown] role="prompt" exercise="13.5"
# ## 13.5 The crossover length
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# From which length on is `ours` faster than `theirs`: at that length, and at every longer one? NaN
# means not measured there: pass over it. Equal is not faster. Return the length as an int, or 0 if
# there is none.

# %% [markdown] role="prompt" exercise="13.5"
# `crossover_length` with lengths 256, 512, 1024, ours 3, 3, 4 and theirs 1, 4, 9 is `512`.


# %% role="answer" exercise="13.5"
def crossover_length(lengths, ours, theirs):
    """Return the crossover; lengths (points,) int, rising, two arrays of seconds (points,)."""
    # BEGIN SOLUTION
    found = 0
    for n, a, b in zip(lengths[::-1], ours[::-1], theirs[::-1], strict=True):
        if np.isnan(a) or np.isnan(b):
            continue
        if a >= b:
            break
        found = n
    return int(found)
    # END SOLUTION


# %% role="check" exercise="13.5"
check("13.5")

# %% [markdown] role="prompt" exercise="13.6"
# ## 13.6 Audit a table of times
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# A table prints `milliseconds` for exact attention over `n` tokens, `heads` of `width`. The device
# can do `peak_tflops` · 10¹² FLOP/s. Return a list of ints: 1 where a time implies more, -1 where
# below 1 % of it, else 0.

# %% [markdown] role="prompt" exercise="13.6"
# With 2 heads of 64 and a peak of 1 TFLOP/s, 1024 tokens need at least 0.54 ms: 0.25 ms gives 1, 1
# ms gives 0, 100 ms gives -1.


# %% role="answer" exercise="13.6"
def audited_times(n, milliseconds, heads, width, peak_tflops):
    """Return a list of 1, 0 or -1; n (rows,) int, milliseconds (rows,) float."""
    # BEGIN SOLUTION
    flops = 4.0 * heads * width * n.astype(float) ** 2
    share = flops / (milliseconds * 1e-3) / (peak_tflops * 1e12)
    return np.select([share > 1, share < 0.01], [1, -1], 0).tolist()
    # END SOLUTION


# %% role="check" exercise="13.6"
check("13.6")

# %% [markdown]
# <details><summary>After your answer: the printed tables</summary>
#
# With 12 heads of 64 and an A100's 312 TFLOP/s, every time that chapter E prints for standard
# attention (C196 to C201) implies below 1 % of the peak. Chapter V's 0.15 ms at 8192 tokens (C137)
# is above it.
#
# </details>

# %% [markdown] role="prompt" exercise="13.V7"
# ## 13.V7 From the theoretical to the observed speedup
#
# *15 minutes · difficulty 3 of 3 · 3 points*
#
# A textbook promises 8× for n = 1024, w = 128, d = 64, and reports 5 to 6× on a GPU. Two reasons
# can be computed: whole tiles, and a fixed time that each call pays, whatever it does.

# %% [markdown] role="prompt" exercise="13.V7"
# One head, width // 2 keys a side, edges exact; `tile` divides n. Return a dict: `theory`, n² over
# visible pairs; `tiled`, n² over the pairs of all tile × tile squares with a visible pair;
# `observed`, the ratio of both times; `fixed_share`, of the window's time.

# %% [markdown] role="prompt" exercise="13.V7"
# A time is `fixed` seconds plus 4·d FLOPs a pair over `rate` FLOP/s: all pairs for full attention,
# those of whole tiles for the window.
#
# `observed_speedup(8, 4, 2, 2, 1e3, 0.25)`: 1.882…, 1.6, 1.336…, 0.438….


# %% role="answer" exercise="13.V7"
def observed_speedup(n, width, d, tile, rate, fixed):
    """Return four numbers for n tokens, width // 2 keys a side, head width d, square tiles."""

    # BEGIN SOLUTION
    def band(length, side):
        side = min(side, length - 1)
        return length * (2 * side + 1) - side * (side + 1)

    pairs = band(n, width // 2)
    tiled = band(n // tile, -(-(width // 2) // tile)) * tile**2
    full_seconds = fixed + 4 * n**2 * d / rate
    local_seconds = fixed + 4 * tiled * d / rate
    return {
        "theory": n**2 / pairs,
        "tiled": n**2 / tiled,
        "observed": full_seconds / local_seconds,
        "fixed_share": fixed / local_seconds,
    }
    # END SOLUTION


# %% role="check" exercise="13.V7"
check("13.V7")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# 8× (C165) is 8.2× with exact edges. Tiles of 64 alone leave 5.6×, inside the printed 5 to 6
# (C170). At 10¹² FLOP/s a fixed time of 5 µs leaves 5.1×. The text names neither a GPU nor a type.
#
# </details>

# %% [markdown] role="prompt" exercise="13.V10"
# ## 13.V10 Five variants side by side
#
# *12 minutes · difficulty 2 of 3 · 2 points*
#
# What do five variants hold in float32, all heads together? `full`: the scores. `local`: `window`
# scores a row. `sparse`: `keys` scores a row. A row has at most n.

# %% [markdown] role="prompt" exercise="13.V10"
# `linear`: a (d, d) state and a sum of d numbers. `low_rank`: `rank` scores a row, and projected
# keys and values, (rank, d) each. Return a dict of their bytes, in this order, and `best`: which
# holds least, counted from 0, the first if equal.
#
# `five_variants(4, 1, 2, 2, 2, 1)`: 64, 32, 32, 24, 32, and best 3.


# %% role="answer" exercise="13.V10"
def five_variants(n, heads, d, window, keys, rank):
    """Return five numbers of bytes and the place of the smallest; all arguments are ints."""
    # BEGIN SOLUTION
    numbers = {
        "full": n * n,
        "local": n * min(window, n),
        "sparse": n * min(keys, n),
        "linear": d * d + d,
        "low_rank": n * rank + 2 * rank * d,
    }
    found = {name: 4 * heads * count for name, count in numbers.items()}
    sizes = list(found.values())
    return found | {"best": sizes.index(min(sizes))}
    # END SOLUTION


# %% role="check" exercise="13.V10"
check("13.V10")

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 8192, 12 heads of 64, w = 512, 90 keys (C177) and rank 256 it names sparse attention
# (C178). Sparse holds 35.4 MB. Linear holds 0.2 MB, whatever n is.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run `attncourse grade
# exercises/13_measuring.ipynb`. It runs a copy of the notebook from the top and prints the score;
# your file is not changed. Plain `pytest --nbval exercises/13_measuring.ipynb` gives the same
# verdicts.
