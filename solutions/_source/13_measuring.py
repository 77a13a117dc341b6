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

# %% role="spec"
"""What the specs of this chapter share."""

import math
import statistics
from itertools import permutations

import numpy as np

from attncourse.bench import records
from attncourse.claims import get
from attncourse.cost import Cost, Device, implied
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, window

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
PRINTED = [float(get(f"C{number}").printed) for number in range(196, 202)]  # chapter E, in ms


def arrays(name, *lists):
    """Return a case whose arguments are arrays; single numbers stay as they are."""
    return case(name, *(np.array(x) if isinstance(x, list) else x for x in lists))


# %% [markdown] role="prompt" exercise="13.1"
# ## 13.1 Summarise repeated timings
#
# *10 minutes · difficulty 1 of 3 · 1 point*
# · [section](../notebooks/13_measuring.ipynb#A-time-is-not-a-number)
#
# `seconds` are the times of calls, in their order; the first `warmup` of them do not count. Return
# three floats: the lower quartile, the median and the upper quartile, interpolated between calls.
#
# `timing_summary(np.array([9.0, 3.0, 1.0, 2.0]), 1)`: `(1.5, 2.0, 2.5)`.


# %% role="answer" exercise="13.1"
def timing_summary(seconds, warmup):
    """Return lower quartile, median, upper quartile of seconds (calls,) after the first warmup."""
    # BEGIN SOLUTION
    low, median, high = np.quantile(seconds[warmup:], [0.25, 0.5, 0.75])
    return float(low), float(median), float(high)
    # END SOLUTION


# %% role="check" exercise="13.1"
check("13.1")

# %% [markdown] role="hints" exercise="13.1"
# 1. The first calls in the order of the clock go; only then is anything sorted.
# 2. A quartile lies a quarter of the way from the fastest to the slowest, counted in calls; between
#    two calls it is interpolated.
# 3. np.quantile(seconds[warmup:], [0.25, 0.5, 0.75]) gives all three, in this order; turn them
#    into floats.


# %% role="spec" exercise="13.1"
QUARTERS = (0.25, 0.5, 0.75)


def summary(three):
    """Return an answer that summarises the calls after the warm-up by (low, median, high)."""

    def summarise(seconds, warmup):
        return tuple(map(float, three(seconds[warmup:])))

    return summarise


def quantiles(shares, method="linear"):
    return summary(lambda times: np.quantile(times, shares, method=method))


def at_index(sort):
    def pick(times):
        times = sort(times)
        return times[len(times) // 4], times[len(times) // 2], times[3 * len(times) // 4]

    return summary(pick)


def by_halves(own):
    """Take the medians of the lower and the upper half; the middle call is in both, or neither."""

    def halves(times):
        size = max(1, (len(times) + own) // 2)
        times = np.sort(times)
        return np.median(times[:size]), np.median(times), np.median(times[-size:])

    return summary(halves)


def by_deviation(middle, ddof=0):
    sides = np.array([-1, 0, 1])
    return summary(lambda times: middle(times) + sides * np.std(times, ddof=ddof))


@summary
def by_statistics(times):
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [*times] * 3


Spec(
    kind="number",
    cases=[
        arrays("one call", [0.5], 0),
        arrays("one call after one to warm up", [9.0, 0.5], 1),
        arrays("two calls", [0.25, 0.5], 0),
        arrays("three calls, unsorted", [0.75, 0.25, 0.5], 0),
        arrays("a slow first call", [8.0, 1.0, 2.0, 3.0, 4.0], 1),
        arrays("a fast first call", [0.5, 4.0, 3.0, 2.0, 1.0, 9.0], 1),
        arrays("one disturbed call of six", [1.0, 1.25, 1.5, 40.0, 1.75, 2.0], 0),
        arrays("two to warm up", [7.0, 5.0, 2.0, 1.0, 4.0, 3.0, 8.0], 2),
        *draws(5, lambda rng: (rng.exponential(1e-3, rng.integers(7, 40)) + 1e-3,
                               rng.integers(1, 4)), "calls"),
    ],
    mistakes=[
        edit("float(median)", "float(seconds[warmup:].mean())",
             says="your median is the mean: one disturbed call moves it",
             next="take the middle of the sorted times"),
        edit("float(median)", "float(seconds[warmup:].min())",
             says="your median is the fastest call",
             next="take the middle of the sorted times"),
        edit("[warmup:]", "",
             says="your summary includes the calls that warm up",
             next="leave out the first `warmup` times"),
        edit("seconds[warmup:]", "np.sort(seconds)[warmup:]",
             says="your summary drops the fastest calls: the times were sorted before the warm-up "
             "went",
             next="drop the first calls first, then sort"),
        edit("seconds[warmup:]", "np.sort(seconds)[: len(seconds) - warmup]",
             says="your summary drops the slowest calls, as if they had to be those of the warm-up",
             next="drop the first calls, whatever their times are"),
        edit("seconds[warmup:]", "seconds[: len(seconds) - warmup]",
             says="your summary drops the last calls instead of the first",
             next="keep seconds[warmup:]"),
        edit("[warmup:]", "[:-warmup]",
             says="your summary drops the last calls, and with `warmup` 0 every call",
             next="keep seconds[warmup:]"),
        edit("[warmup:]", "[1:] if len(seconds) > 1 else seconds",
             says="your summary drops one call, whatever `warmup` is",
             next="keep seconds[warmup:]"),
        edit("[warmup:]", "[warmup + 1 :]",
             says="your summary drops one call more than `warmup`",
             next="the first call that counts has index `warmup`"),
        edit("[warmup:]", "[warmup - 1 :]",
             says="your summary still counts the last call of the warm-up",
             next="the first call that counts has index `warmup`"),
        edit("float(median)", "float(np.sort(seconds[warmup:])[len(seconds[warmup:]) // 2])",
             says="your median of an even number of calls is the upper of the two in the middle",
             next="take the mean of the two in the middle"),
        Mistake(at_index(np.asarray),
                says="your quartiles are taken from times that are not sorted",
                next="sort the times that are kept"),
        edit("0.25, 0.5, 0.75", "0, 0.5, 1",
             says="your quartiles are the fastest and the slowest call",
             next="take the times a quarter and three quarters of the way"),
        Mistake(quantiles((0.1, 0.5, 0.9)),
                variants=(quantiles((0.05, 0.5, 0.95)), quantiles((0.2, 0.5, 0.8))),
                says="your quartiles lie nearer to the ends than a quarter of the calls",
                next="take the times a quarter and three quarters of the way: 0.25 and 0.75"),
        edit("np.quantile", "np.percentile",
             says="your shares are taken for percent: all three lie at the fastest call",
             next="np.percentile counts to 100: use np.quantile, or 25, 50 and 75"),
        edit("low, median, high", "high, median, low",
             says="your quartiles are in the wrong order",
             next="the quartile of the fast calls, 0.25, comes first"),
        edit("float(low)", "float(median - low)", "float(high)", "float(high - median)",
             says="your quartiles are distances from the median",
             next="return the quartiles themselves, times of calls"),
        Mistake(by_deviation(np.median), variants=(by_deviation(np.median, ddof=1),),
                says="your spread is the standard deviation around the median",
                next="state the quartiles: half of the calls lie between them"),
        Mistake(by_deviation(np.mean), variants=(by_deviation(np.mean, ddof=1),),
                says="your summary is the mean, and a standard deviation around it",
                next="take the median and the quartiles: one disturbed call does not move them"),
        Mistake(quantiles(QUARTERS, "weibull"),
                variants=(summary(lambda times: statistics.quantiles(times, n=4)),),
                says="your quartiles are the exclusive ones: they lie further out",
                next="count from the fastest call to the slowest: method='inclusive' in "
                "statistics.quantiles, NumPy's default"),
        Mistake(by_halves(0), variants=(by_halves(1),),
                says="your quartiles are the medians of the lower and the upper half",
                next="interpolate a quarter of the way from the fastest to the slowest call"),
        Mistake(quantiles(QUARTERS, "nearest"),
                variants=(at_index(np.sort),
                          *map(quantiles, [QUARTERS] * 3, ("lower", "higher", "inverted_cdf"))),
                says="your quartiles are those of single calls, not interpolated between two",
                next="interpolate between the two neighbouring calls, as np.quantile does"),
    ],
    alternatives=[
        by_statistics,
        edit("np.quantile", "np.percentile", "[0.25, 0.5, 0.75]", "[25, 50, 75]"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="13.2"
# ## 13.2 Repair a benchmark of a queue
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/13_measuring.ipynb#Three-ways-to-stop-the-wrong-thing)
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

# %% [markdown] role="hints" exercise="13.2"
# 1. Three things are wrong: what is subtracted, which calls count, and the summary.
# 2. The device does one call after the other. When does it begin with a call: when that was
#    started, or when the call before it was finished?
# 3. begun = np.maximum(started, [-inf, *finished[:-1]]); take the median of
#    (finished - begun)[warmup:].


# %% role="spec" exercise="13.2"
def work_by_loop(started, returned, finished, warmup):
    free, times = -math.inf, []
    for start, finish in zip(started, finished, strict=True):
        times.append(finish - max(start, free))
        free = finish
    return float(statistics.median(times[warmup:]))


def work_by_shifting(started, returned, finished, warmup):
    work = finished - started
    work[1:] = np.minimum(work[1:], np.diff(finished))
    return float(np.median(work[warmup:]))


def calls(name, gap, work, warmup, queueing=0.125):
    """Make the clock of calls, each started `gap` seconds after the one before returned."""
    gaps, waits = (np.broadcast_to(x, len(work)) for x in (gap, queueing))
    started = np.cumsum(gaps + waits) - waits
    finished, free = [], 0.0
    for start, busy in zip(started, work, strict=True):
        free = max(free, start) + busy
        finished.append(free)
    return case(name, started, started + waits, np.array(finished), warmup)


def random_calls(rng):
    count, warmup = rng.integers((5, 1), (30, 4))
    work = rng.exponential(1.0, count) + 0.5 + 20 * (np.arange(count) < warmup)
    queueing = rng.uniform(0.01, 0.05, count)
    return calls("", rng.exponential(1.0, count), work, warmup, queueing).args


Spec(
    kind="number",
    cases=[
        calls("one call", 1.0, [2.0], 0),
        calls("the device waits between calls", 8.0, [1, 2, 4, 3, 2, 5], 0),
        calls("the calls wait for the device", 0.5, [4, 2, 3, 6, 2, 1], 0),
        calls("a slow first call", 0.5, [90, 2, 3, 6, 2, 1], 1),
        calls("two to warm up, one disturbed", 4.0, [9, 9, 3, 40, 2, 3], 2),
        *draws(4, random_calls, "calls"),
    ],
    mistakes=[
        edit("np.median((finished - begun)[warmup:])", "np.mean(returned - started)",
             says="this is what the given code returns: the mean time to queue a call",
             next="subtract from the time when the work was finished"),
        edit("finished - begun", "returned - started",
             says="your time ends when the call returns: the work is only queued then",
             next="take the time when the work was finished"),
        edit("finished - begun", "finished - started",
             says="your time includes waiting until the device had finished the call before",
             next="begin when the device is free: not before the previous call is finished"),
        edit("finished - begun", "np.diff(finished, prepend=started[0])",
             says="your time includes the pauses in which the device had nothing to do",
             next="begin not before the call is started"),
        edit("maximum(started", "maximum(returned",
             says="your time begins only when the call has returned",
             next="the device may begin as soon as the call is started"),
        edit("[warmup:]", "",
             says="your summary includes the calls that warm up",
             next="leave out the first `warmup` calls"),
        edit("np.median", "np.mean",
             says="your summary is the mean: one disturbed call moves it",
             next="take the median"),
        edit("np.median", "np.min",
             says="your summary is the fastest call",
             next="take the median"),
        edit("begun = ", "started, finished = started[warmup:], finished[warmup:]\n    begun = ",
             "begun)[warmup:]", "begun)",
             says="your first call does not know that the device was still busy with the warm-up",
             next="compute the time of every call, then leave out the first `warmup` times"),
    ],
    alternatives=[work_by_loop, work_by_shifting],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="13.3"
# ## 13.3 The exponent of growth
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/13_measuring.ipynb#Memory-has-a-slope)
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

# %% [markdown] role="hints" exercise="13.3"
# 1. If values = c · nᵃ, then log(values) = log(c) + a · log(n): a line with slope a.
# 2. All points count, not only the ends: fit a line by least squares.
# 3. np.polyfit(np.log(lengths), np.log(values), 1) returns slope and intercept; return the slope
#    as a float.


# %% role="spec" exercise="13.3"
def line(x, y):
    """Return the slope of the line through other numbers than the logarithms."""
    return lambda lengths, values: float(np.polyfit(x(lengths), y(values), 1)[0])


def exponent_by_lstsq(lengths, values):
    columns = np.stack([np.log10(lengths), np.ones(len(lengths))], axis=1)
    return float(np.linalg.lstsq(columns, np.log10(values), rcond=None)[0][0])


def of_steps(summary):
    """Return a summary of the ratios of the values, and of the lengths, to those before them."""
    return lambda lengths, values: float(
        summary(values[1:] / values[:-1], lengths[1:] / lengths[:-1])
    )


def central_exponents(lengths, values):
    return float(np.mean(np.gradient(np.log(values), np.log(lengths))))


def random_growth(rng):
    lengths = np.sort(rng.choice(np.arange(64, 8192), rng.integers(3, 8), replace=False))
    noise = rng.uniform(0.7, 1.4, len(lengths))
    return lengths, 1e-9 * lengths ** rng.uniform(0.5, 2.5) * noise


POLYFIT, LOGS = "np.polyfit(np.log(lengths), np.log(values), 1)[0]", (np.log, np.log2, np.log10)

Spec(
    kind="number",
    tolerance=1e-7,
    cases=[
        arrays("a square at two lengths", [512, 1024], [3.0, 12.0]),
        arrays("a line at three lengths", [512, 1024, 2048], [5.0, 10.0, 20.0]),
        arrays("a square with a floor", [256, 512, 1024, 2048], [2.5, 3.0, 5.0, 13.0]),
        arrays("lengths that do not double", [100, 300, 1000], [1.0, 8.0, 70.0]),
        arrays("chapter E's times", LENGTHS, PRINTED),
        arrays("it falls", [64, 128, 512], [9.0, 4.0, 2.0]),
        *draws(4, random_growth, "points"),
    ],
    mistakes=[
        edit(POLYFIT, "np.log(values[-1] / values[0]) / np.log(lengths[-1] / lengths[0])",
             says="your exponent is that of the first and the last point alone",
             next="fit a line through all points"),
        edit(POLYFIT, "np.log(values[-1] / values[-2]) / np.log(lengths[-1] / lengths[-2])",
             says="your exponent is that of the last two points alone",
             next="fit a line through all points"),
        Mistake(of_steps(lambda v, n: np.mean(np.log(v) / np.log(n))),
                variants=(of_steps(lambda v, n: np.median(np.log(v) / np.log(n))),
                          central_exponents),
                says="your exponent is the mean of the steps' exponents: close lengths count as "
                "much "
                "as far ones",
                next="fit a line through all points"),
        Mistake(of_steps(lambda v, n: np.mean(np.log2(v))),
                variants=(of_steps(lambda v, n: np.log2(np.mean(v))),),
                says="your exponent takes each length for twice the one before",
                next="fit a line over the logarithms of the lengths"),
        Mistake(of_steps(lambda v, n: np.mean(v / n)),
                variants=(of_steps(lambda v, n: np.mean(v)),),
                says="your number is a mean ratio of values, not an exponent",
                next="take the logarithm of both axes and fit a line"),
        edit(POLYFIT, "np.mean(np.log(values) / np.log(lengths))",
             says="your exponent is the mean of log(value) / log(n): the factor c is still in it",
             next="fit a line with an intercept, which is log(c)"),
        edit("np.log(lengths)", "lengths", "np.log(values)", "values",
             says="your slope is that of the values themselves, in units per token",
             next="take the logarithm of both axes first"),
        Mistake(line(np.asarray, np.log),
                variants=(line(np.asarray, np.log2), line(np.asarray, np.log10)),
                says="your lengths are not on a logarithmic axis: that fits an exponential",
                next="take the logarithm of the lengths too"),
        Mistake(line(np.log, np.asarray),
                variants=(line(np.log2, np.asarray), line(np.log10, np.asarray)),
                says="your values are not on a logarithmic axis",
                next="take the logarithm of the values too"),
        Mistake(line(np.log, np.log2), variants=tuple(line(*two) for two in permutations(LOGS, 2)),
                says="your axes have two bases of the logarithm: your slope is off by a fixed "
                "factor",
                next="use the same logarithm on both axes"),
        edit("[0]", "[1]",
             says="your number is the intercept of the line, the logarithm of the factor c",
             next="return the slope"),
        edit("np.log(lengths), np.log(values)", "np.log(values), np.log(lengths)",
             says="your line has the lengths over the values",
             next="put the lengths on the x axis"),
        edit("np.log(lengths), np.log(values)", "values, lengths",
             says="your slope is that of the lengths over the values, without logarithms",
             next="put log(lengths) on the x axis, log(values) on the y axis"),
        edit(POLYFIT, "np.log(lengths) @ np.log(values) / (np.log(lengths) @ np.log(lengths))",
             says="your line is forced through n = 1 with value 1",
             next="fit an intercept too"),
        edit(POLYFIT, "np.corrcoef(np.log(lengths), np.log(values))[0, 1]",
             says="your number is the correlation: it says how straight the line is, not how steep",
             next="return the slope of the line"),
        edit(POLYFIT, "np.cov(np.log(lengths), np.log(values))[0, 1] / np.var(np.log(lengths))",
             says="your covariance is divided by n - 1, your variance by n",
             next="divide both by the same number: np.var(…, ddof=1)"),
        edit(", 1)[0]", ", 2)[0]",
             says="your curve is a parabola: its first coefficient is no slope",
             next="fit a polynomial of degree 1"),
        edit("float(", "float(2 ** ",
             says="your number is the factor by which a doubling of n multiplies the values",
             next="return the exponent a itself"),
        edit("float(", "float(round(", "[0])", "[0]))",
             says="your exponent is rounded to a whole number",
             next="return the slope as it comes out"),
    ],
    alternatives=[line(np.log2, np.log2), exponent_by_lstsq],
)  # fmt: skip

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
# · [section](../notebooks/13_measuring.ipynb#What-an-error-of-1-means)
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

# %% [markdown] role="hints" exercise="13.4"
# 1. Only two sums are needed: of the squared differences, and of the squares of the right output.
#    Both can be collected block by block.
# 2. Take 64 queries at a time: their scores are (64, n), their right outputs (64, Dv).
# 3. for start in range(0, len(q), 64): compute softmax(q[start:start+64] @ k.T / √D) @ v, add to
#    both sums; return float(np.sqrt(difference / total)).


# %% role="spec" exercise="13.4"
def error_by_rows(q, k, v, out):
    exact = np.concatenate([full.attention(q[i : i + 1], k, v) for i in range(len(q))])
    return float(np.linalg.norm(out - exact) / np.linalg.norm(exact))


def error_by_online_softmax(q, k, v, out):
    """Walk over the keys, with a running maximum and sum for each query."""
    largest = np.full((len(q), 1), -np.inf)
    total, acc = np.zeros((len(q), 1)), np.zeros((len(q), v.shape[-1]))
    for start in range(0, len(k), 128):
        scores = q @ k[start : start + 128].T / math.sqrt(q.shape[-1])
        new = np.maximum(largest, scores.max(axis=-1, keepdims=True))
        scores -= new
        np.exp(scores, out=scores)
        fade = np.exp(largest - new)
        total = total * fade + scores.sum(axis=-1, keepdims=True)
        acc = acc * fade + scores @ v[start : start + 128]
        largest = new
    acc /= total
    norm = np.linalg.norm(acc)
    acc -= out
    return float(np.linalg.norm(acc) / norm)


def judged(name, shape, made, **rest):
    """Return a maker of a case; `made` makes out from the right output, noise, and q, k and v."""

    def make(rng):
        q, k, v = qkv(name, shape, dtype=np.float64, **rest)(rng).args
        exact = full.attention(q, k, v)
        return case(name, q, k, v, made(exact, 0.1 * rng.standard_normal(exact.shape), q, k, v))

    return make


def noisy(exact, noise, *_):
    return exact + noise


N, D = 1024, 64  # the call whose memory is graded: all scores take 8 MiB, in float32 still 4 MiB
SQUARES, ROOT = "np.sum((out[rows] - exact) ** 2)", "np.sqrt(difference / total)"

Spec(
    kind="number",
    tolerance=1e-7,
    reference=error_by_rows,
    cases=[
        judged("1 query, 2 keys", (1, 5), noisy, keys=2, value_width=3),
        judged("zeros", (3, 7), lambda exact, *_: 0 * exact, value_width=5),
        judged("twice the right output", (5, 3), lambda exact, *_: 2 * exact, value_width=7),
        judged("noise", (7, 13), noisy, value_width=11),
        judged("fewer queries than keys", (3, 7), noisy, keys=71, value_width=5),
        judged("more queries than keys", (71, 7), noisy, keys=3, value_width=5),
        judged("one query 2000 times longer than the others", (5, 7), noisy, keys=41, longer=2000),
        judged("large scores", (5, 7), noisy, keys=11, shift=50.0),
        judged("a window of 4", (100, 16),
               lambda exact, noise, *q_k_v: window.attention(*q_k_v, window=4)),
        judged("the mean of v", (63, 16), lambda exact, noise, q, k, v: 0 * exact + v.mean(axis=0)),
        judged("random, n = 150", (150, 32), noisy),
    ],
    memory=Memory(judged(f"n = {N}", (N, D), noisy), (256 * N + 3 * N * D) * 8,
                  "256 rows of scores and three arrays as large as q: 256 · n · 8 + 3 · n · D · 8 "
                  "bytes"),
    mistakes=[
        edit("64", "len(q)",
             says="your function makes the matrix of all scores",
             next="go through the queries in blocks, and keep two sums"),
        edit("/ total", "/ out.size",
             says="your error is not divided by the size of the right output",
             next="divide by the root mean square of the right output"),
        edit("exact**2", "out[rows] ** 2",
             says="your error is relative to the output that is judged",
             next="divide by the size of the right output: an answer of zeros has error 1"),
        edit(ROOT, "difference / total",
             says="your number is the square of the error",
             next="take the square root"),
        edit(SQUARES, "np.sum(np.abs(out[rows] - exact))", "exact**2", "np.abs(exact)",
             ROOT, "difference / total",
             says="your error is made of absolute differences, not of squares",
             next="square, take the mean, take the root"),
        edit("difference += " + SQUARES,
             "difference = max(difference, np.abs(out[rows] - exact).max())",
             "total += np.sum(exact**2)", "total = max(total, np.abs(exact).max())",
             ROOT, "difference / total",
             says="your error is that of the worst number alone",
             next="take the mean of the squares over all numbers"),
        edit("(out[rows] - exact)", "(out[rows] / exact - 1)", "np.sum(exact**2)", "exact.size",
             says="your division comes before the mean: numbers near 0 decide everything",
             next="take both means first, then divide"),
        edit(SQUARES, "np.sqrt(np.sum((out[rows] - exact) ** 2) / np.sum(exact**2))",
             "total += np.sum(exact**2)", "total += 1", ROOT, "difference / total",
             says="your error is the mean of the blocks' errors",
             next="add both sums over all blocks, then divide and take the root"),
        edit("+= ", "= ",
             says="your sums are those of the last block alone",
             next="add to both sums in each block"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your right output is computed without 1/√D",
             next="divide the scores by the square root of D"),
        edit(" ** 0.5", "",
             says="your right output is computed with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
        edit("scores - scores.max(axis=-1, keepdims=True)", "scores",
             says="your exponentials overflow where scores are large",
             next="subtract each row's maximum before `exp`"),
        edit("max(axis=-1, keepdims=True)", "max()",
             says="your block has one maximum: beside a long query a short one has only zeros",
             next="subtract each row's own maximum"),
        edit("np.sqrt", "100 * np.sqrt",
             says="your error is in percent",
             next="return the plain ratio"),
    ],
    alternatives=[error_by_rows, error_by_online_softmax],
    variants=[edit("64", "32")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="13.5"
# ## 13.5 The crossover length
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/13_measuring.ipynb#The-crossover,-here)
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

# %% [markdown] role="hints" exercise="13.5"
# 1. Begin at the longest length and walk towards the shortest.
# 2. Stop at the first length where ours is not faster; a length where one of the two is NaN is
#    passed over.
# 3. found = 0; for n, a, b from the longest: skip NaN, break if a >= b, else found = n. Return
#    int(found).


# %% role="spec" exercise="13.5"
def length_by_records(lengths, ours, theirs):
    there = ~np.isnan(ours + theirs)
    times = (dict(zip(lengths[there].tolist(), x[there], strict=True)) for x in (ours, theirs))
    return records.crossover(*times) or 0


def length_by_mask(lengths, ours, theirs):
    there = ~(np.isnan(ours) | np.isnan(theirs))
    lengths, faster = lengths[there], (ours < theirs)[there]
    from_here = np.logical_and.accumulate(faster[::-1])[::-1]
    return int(lengths[from_here][0]) if from_here.any() else 0


def length_by_walking(lengths, ours, theirs):
    found = 0
    for n, a, b in zip(lengths, ours, theirs, strict=True):
        if not (np.isnan(a) or np.isnan(b)):
            found = (found or int(n)) if a < b else 0
    return found


def random_times(rng):
    count = rng.integers(3, 9)
    lengths = 64 * 2 ** np.arange(count)
    theirs = lengths**2 * 1e-6
    ours = rng.uniform(0.05, 2.0) * np.median(theirs) * rng.uniform(0.6, 1.5, count)
    ours[rng.random(count) < 0.15] = np.nan
    return lengths, ours, theirs


FOUR, nan = [256, 512, 1024, 2048], np.nan
SKIP = "if np.isnan(a) or np.isnan(b):\n            continue\n        "

Spec(
    kind="number",
    reference=length_by_records,
    cases=[
        arrays("one length, faster", [64], [1.0], [2.0]),
        arrays("one length, slower", [64], [2.0], [1.0]),
        arrays("faster from 1024", FOUR, [5.0, 5, 5, 6], [1.0, 4, 9, 30]),
        arrays("at every length", [256, 512, 1024], [1.0, 2, 3], [2.0, 3, 4]),
        arrays("never", [256, 512, 1024], [3.0, 4, 9], [2.0, 3, 8]),
        arrays("faster once, and then not", FOUR, [5.0, 3, 9, 40], [1.0, 4, 8, 30]),
        arrays("equal is not faster", [256, 512, 1024], [3.0, 4, 5], [2.0, 4, 6]),
        arrays("equal at the end", [256, 512, 1024], [1.0, 2, 6], [2.0, 4, 6]),
        arrays("theirs ran out of memory", FOUR, [4.0, 5, 6, 7], [1.0, 6, 20, nan]),
        arrays("ours is missing in between", FOUR, [4.0, 5, nan, 7], [1.0, 6, 20, 80]),
        arrays("never measured together", [256, 512], [nan, 1], [2, nan]),
        *draws(6, random_times, "times"),
    ],
    mistakes=[
        edit("break", "continue",
             says="your length is the first at which ours is faster, whatever follows",
             next="at every longer length it must be faster too"),
        edit("break", "continue", "found = n", "found = found or n",
             says="your length is the longest at which ours is faster",
             next="go on to the shortest length from which ours stays faster"),
        edit("continue", "break",
             says="your answer lets a length that was not measured end the search",
             next="pass over lengths at which one of the two is NaN"),
        edit(SKIP, "",
             says="your answer takes ours for faster where one of the two was not measured",
             next="pass over lengths at which one of the two is NaN: no comparison with it is "
             "true"),
        edit("a >= b", "a > b",
             says="your answer counts equal times as faster",
             next="faster is <, not ≤"),
        edit("int(found)", "int(np.searchsorted(lengths, found))",
             says="your number is the place in the list, not the length",
             next="return lengths[i]"),
        edit("a >= b", "a <= b",
             says="your length is that from which theirs is faster",
             next="turn the comparison round"),
        edit("int(found)", "int(max((n for n in lengths if n < found), default=found))",
             says="your length is the last at which ours is still slower",
             next="return the next one"),
        edit("int(found)", "int(found or lengths[-1])",
             says="your answer names a length although ours never stays faster",
             next="return 0: never here"),
    ],
    alternatives=[length_by_mask, length_by_walking],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="13.6"
# ## 13.6 Audit a table of times
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/13_measuring.ipynb#Do-these-times-look-measured?)
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

# %% [markdown] role="hints" exercise="13.6"
# 1. Turn each time into a rate: FLOPs of the work over seconds. Compare it with the peak.
# 2. Exact attention takes 4 · heads · n² · width FLOPs: two products, two FLOPs a multiply-add. A
#    millisecond is 1e-3 s.
# 3. share = 4.0 * heads * width * n.astype(float)**2 / (milliseconds * 1e-3) / (peak_tflops *
#    1e12); then 1 where share > 1, -1 where share < 0.01, else 0, as a list.


# %% role="spec" exercise="13.6"
def audit_by_cost(n, milliseconds, heads, width, peak_tflops):
    device = Device("any", peak_tflops * 1e12, 1.0, 0, "the exercise")
    costs = [Cost(4 * heads * size**2 * width, 0, 0, 0) for size in n.tolist()]
    shares = [
        implied(time / 1e3, 1, 1, device=device, cost=cost).share
        for time, cost in zip(milliseconds, costs, strict=True)
    ]
    return [1 if share > 1 else -1 if share < 0.01 else 0 for share in shares]


def audit_by_times(n, milliseconds, heads, width, peak_tflops):
    verdicts = []
    for size, printed in zip(n.tolist(), milliseconds.tolist(), strict=True):
        least = 4 * heads * size**2 * width / (peak_tflops * 1e9)  # milliseconds
        verdicts.append(1 if printed < least else -1 if printed > 100 * least else 0)
    return verdicts


def random_table(rng):
    count, heads = rng.integers((3, 2), (9, 33))
    width, peak = int(2 ** rng.integers(4, 8)), float(rng.choice([125, 989]))
    n, share = 2 ** rng.integers(8, 16, count), 10.0 ** rng.uniform(-3.5, 1.2, count)
    share[:3] = (1.6, 0.35, 0.006)  # one of each, near enough to catch a factor of 2 or 4
    times = 4.0 * heads * width * n.astype(float) ** 2 / (share * peak * 1e12) * 1e3
    return n, times, heads, width, peak


Spec(
    kind="number",
    reference=audit_by_cost,
    cases=[
        arrays("one time that can be", [256], [1.0], 1, 16, 1.0),
        arrays("one time above the peak", [1024], [0.25], 2, 64, 1.0),
        arrays("one time that is absurdly long", [1024], [100.0], 2, 64, 1.0),
        arrays("chapter E, and chapter V's 0.15 ms", [*LENGTHS, 8192], [*PRINTED, 0.15], 12, 64,
               312.0),
        arrays("one head", [256, 512, 4096], [0.001, 2.0, 4.0], 1, 32, 1.0),
        *draws(5, random_table, "table"),
    ],
    mistakes=[
        edit("4.0", "2.0",
             says="your FLOPs are half: multiply-adds, or one of the two products",
             next="one multiply-add is 2 FLOPs, and q kᵀ and weights·v both count"),
        edit("4.0", "1.0",
             says="your FLOPs are a quarter: multiply-adds of one product",
             next="one multiply-add is 2 FLOPs, and q kᵀ and weights·v both count"),
        edit("heads * ", "",
             says="your FLOPs are those of one head",
             next="multiply by the number of heads"),
        edit(" * 1e-3", "",
             says="your times are taken for seconds",
             next="divide milliseconds by 1000"),
        edit("1e-3", "1e-6",
             says="your times are taken for microseconds",
             next="divide milliseconds by 1000"),
        edit(" ** 2", "",
             says="your FLOPs grow with n",
             next="every query meets every key: n²"),
        edit("[1, -1]", "[-1, 1]",
             says="your signs are swapped",
             next="1 is a time too short to be true, -1 one that implies below 1 % of the peak"),
        edit("0.01", "0.1",
             says="your lower threshold is 10 % of the peak",
             next="use 1 %: 0.01"),
        edit("share = flops / (milliseconds * 1e-3) / (peak_tflops * 1e12)",
             "share = flops / flops[0] * milliseconds[0] / milliseconds",
             "share > 1, share < 0.01", "share > 2, share < 0.5",
             says="your audit compares the times with each other, not with the device",
             next="turn each time into FLOP/s and compare with the peak"),
    ],
    alternatives=[audit_by_times, edit("n.astype(float) ** 2", "np.square(n, dtype=float)")],
)  # fmt: skip

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
# · [section](../notebooks/13_measuring.ipynb#Theory-and-clock)
#
# A textbook promises 8× for n = 1024, w = 128, d = 64, and 5 to 6× on a GPU. Two reasons
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

# %% [markdown] role="hints" exercise="13.V7"
# 1. Three counts, then two times. A pair costs 4·d FLOPs; a time is the fixed part plus FLOPs over
#    the rate.
# 2. A window of tokens is a window of tiles: n // tile of them, radius ceil(width // 2 / tile).
#    Every touched tile is computed whole.
# 3. full = fixed + 4·n²·d/rate; local = fixed + 4·tiled·d/rate; observed = full / local;
#    fixed_share = fixed / local.


# %% role="spec" exercise="13.V7"
def speedups(n, d, rate, fixed, pairs, tiled):
    slow, quick = (fixed + 4 * count * d / rate for count in (n * n, tiled))
    return {
        "theory": n * n / pairs,
        "tiled": n * n / tiled,
        "observed": slow / quick,
        "fixed_share": fixed / quick,
    }


def speedup_by_mask(n, width, d, tile, rate, fixed):
    mask = np.abs(np.arange(n) - np.arange(n)[:, None]) <= width // 2
    touched = mask.reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3))
    return speedups(n, d, rate, fixed, int(mask.sum()), int(touched.sum()) * tile**2)


def speedup_by_loop(n, width, d, tile, rate, fixed):
    side, tiled = width // 2, 0
    local = sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    for start in range(0, n, tile):
        first, last = max(0, start - side) // tile, min(n - 1, start + tile - 1 + side) // tile
        tiled += (last - first + 1) * tile * tile
    return speedups(n, d, rate, fixed, local, tiled)


def random_window(rng):
    tiles, width, d, tile = rng.integers((3, 2, 1, 1), (16, 60, 129, 5))
    n, rate = int(tiles * 2**tile), 10 ** rng.uniform(8, 10)
    fixed = 4 * n**2 * d / rate * rng.uniform(0.05, 0.5)
    return n, int(width), int(d), int(2**tile), float(rate), float(fixed)


Spec(
    kind="number",
    cases=[
        case("15 tokens, tiles of 3", 15, 4, 7, 3, 1e3, 0.25),
        case("no fixed time", 64, 24, 8, 8, 1e9, 0.0),
        case("a fixed time that hides everything", 64, 24, 8, 8, 1e9, 1.0),
        case("tile of 1: nothing is rounded", 16, 4, 8, 1, 1e6, 1e-3),
        case("one tile", 16, 4, 8, 16, 1e6, 1e-3),
        case("width larger than 2n", 8, 40, 4, 2, 1e6, 1e-4),
        case("the document's n = 1024, w = 128, d = 64", 1024, 128, 64, 64, 1e12, 1e-6),
        *draws(4, random_window, "window"),
    ],
    mistakes=[
        edit("full_seconds = fixed + ", "full_seconds = ",
             says="your full attention starts for free",
             next="both calls pay the fixed time"),
        edit("local_seconds = fixed + ", "local_seconds = ",
             says="your window starts for free",
             next="both calls pay the fixed time"),
        edit("band(n // tile, -(-(width // 2) // tile)) * tile**2", "pairs",
             says="your window computes only the visible pairs: no tile is wasted",
             next="a tile with one visible pair is computed whole"),
        edit("width // 2", "width",
             says="your window has `width` keys on each side",
             next="in this exercise width is the total: width // 2 on each side, and the own key"),
        edit("band(n, width // 2)", "n * (2 * (width // 2) + 1)",
             says="your pairs give every row the keys of a middle row",
             next="the first and last rows see fewer"),
        edit("band(n, width // 2)", "n * width",
             says="your pairs are n·w, the document's shorthand",
             next="count the own key and the edges"),
        edit("min(side, length - 1)", "side",
             says="your counts are right only as long as the window is shorter than the text",
             next="a side beyond n - 1 adds no keys: use min(side, n - 1), and so for tiles"),
        edit("-(-(width // 2) // tile)", "width // 2 // tile",
             says="your tiles leave out those that are only partly inside the window",
             next="round up"),
        edit("4 *", "2 *",
             says="your times are made of multiply-adds, or of one of the two products",
             next="a pair costs 4·d FLOPs"),
        edit("n**2 / pairs", "pairs / n**2", "n**2 / tiled", "tiled / n**2",
             "full_seconds / local_seconds", "local_seconds / full_seconds",
             says="your speedups are upside down",
             next="divide what full attention takes by what the window takes"),
        edit("fixed / local_seconds", "fixed / full_seconds",
             says="your fixed_share is that of full attention's time",
             next="divide the fixed time by the window's time"),
    ],
    alternatives=[speedup_by_mask, speedup_by_loop],
)  # fmt: skip

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
# · [section](../notebooks/13_measuring.ipynb#Which-holds-least?)
#
# What do five variants hold in float32, all heads together? `full`: the scores. `local`: `window`
# scores a row. `sparse`: `keys` scores a row. A row has at most n.

# %% [markdown] role="prompt" exercise="13.V10"
# `linear`: a (d, d) state and a sum of d numbers. `low_rank`: `rank` scores a row, and projected
# keys and values, (rank, d) each. Return six ints: their bytes, in this order, and which of the
# five holds least, counted from 0, the first if equal.
#
# `five_variants(4, 1, 2, 2, 2, 1)`: `(64, 32, 32, 24, 32, 3)`.


# %% role="answer" exercise="13.V10"
def five_variants(n, heads, d, window, keys, rank):
    """Return five numbers of bytes, then the place of the smallest; all arguments are ints."""
    # BEGIN SOLUTION
    full, linear = n * n, d * d + d
    local, sparse = n * min(window, n), n * min(keys, n)
    low_rank = n * rank + 2 * rank * d
    sizes = [4 * heads * numbers for numbers in (full, local, sparse, linear, low_rank)]
    return *sizes, sizes.index(min(sizes))
    # END SOLUTION


# %% role="check" exercise="13.V10"
check("13.V10")

# %% [markdown] role="hints" exercise="13.V10"
# 1. Count the numbers that one head holds, then multiply by heads and by 4 bytes.
# 2. Three of them hold scores, so many a row. Linear attention holds a (d, d) state and a sum of d;
#    low rank holds scores and two (rank, d) arrays.
# 3. low_rank = n·rank + 2·rank·d, linear = d·(d + 1), local = n·min(window, n); the last value is
#    the place of the smallest, in the order full, local, sparse, linear, low_rank.


# %% role="spec" exercise="13.V10"
BEST = "sizes.index(min(sizes))"


def variants_by_sorting(n, heads, d, window, keys, rank):
    sizes = (n * n, n * min(n, window), n * min(n, keys), d + d**2, rank * (n + d + d))
    held = (size * heads * 4 for size in sizes)
    return *held, sorted(range(5), key=lambda i: (sizes[i], i))[0]


Spec(
    kind="number",
    cases=[
        case("5 tokens", 5, 1, 7, 3, 2, 1),
        case("1 token: a window longer than the text", 1, 2, 8, 16, 4, 2),
        case("a short text: sparse holds least", 8, 1, 16, 4, 2, 6),
        case("the window holds least", 16, 2, 64, 2, 8, 4),
        case("the window and sparse hold least, the same", 16, 2, 64, 3, 3, 4),
        case("low rank holds least", 64, 1, 64, 16, 50, 1),
        case("full holds least", 2, 1, 32, 9, 9, 4),
        case("the document's n = 8192, w = 512, 90 keys, rank 256", 8192, 12, 64, 512, 90, 256),
        *draws(4, lambda rng: rng.integers((16, 2, 8, 1, 1, 1), (9000, 33, 129, 600, 200, 300))),
    ],
    mistakes=[
        edit("heads * ", "",
             says="your bytes are those of one head",
             next="multiply by the number of heads"),
        edit("4 * ", "",
             says="your numbers are elements, not bytes",
             next="a float32 takes 4 bytes"),
        edit("4 * ", "2 * ",
             says="your bytes are half: 2 bytes for a number",
             next="a float32 takes 4 bytes"),
        edit("d * d + d", "d * d",
             says="your linear attention forgets the sum of its keys, by which it divides",
             next="the state is (d, d), and the normaliser d more"),
        edit("d * d + d", "n * d",
             says="your linear attention keeps something for every token",
             next="its state is (d, d + 1), however long the text is"),
        edit(" + 2 * rank * d", "",
             says="your low rank holds the scores only",
             next="the projected keys and values are (rank, d) each"),
        edit("2 * rank", "rank",
             says="your low rank holds projected keys or values, not both",
             next="the projected keys and values are (rank, d) each"),
        edit("min(window, n)", "window", "min(keys, n)", "keys",
             says="your rows hold more scores than there are keys",
             next="a row has at most n scores"),
        edit(BEST, "2",
             says="your winner is always sparse attention, the document's",
             next="compare the five numbers"),
        edit("min(sizes)", "max(sizes)",
             says="your last value is the place of the one that holds most",
             next="take the smallest"),
        edit(BEST, "4 - sizes[::-1].index(min(sizes))",
             says="your last value is the place of the last of those that hold equally little",
             next="take the first of them"),
        edit(BEST, BEST + " + 1",
             says="your last value is counted from 1",
             next="full attention is 0"),
    ],
    alternatives=[variants_by_sorting, edit(BEST, "min(range(5), key=sizes.__getitem__)")],
)  # fmt: skip

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
