# %% [markdown]
# # 02 Exercises: attention, from one dot product to a decoder
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("02.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Scores are q kᵀ / √D. In a mask True means: may attend. If Tq ≠ Tk, the last query stands at the
# last key: query i sits at key position i + Tk − Tq. A query that sees no key gets zeros. Leading
# axes, written `...`, are free.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse import masks
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, scoring
from attncourse.softmax import softmax


def arrays(name, *shapes, rest=(), dtype=np.float32, change=lambda *made: made):
    """Return a maker of a case of standard normal arrays, which `change` may alter as float64."""

    def make(rng):
        made = change(*(rng.standard_normal(shape) for shape in shapes))
        return case(name, *(array.astype(dtype) for array in made), *rest)

    return make


# %% [markdown] role="prompt" exercise="02.1"
# ## 02.1 Attention in ten lines
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/02_attention.ipynb#One-dot-product)
#
# softmax(q kᵀ / √D) v under a mask, for q `(..., Tq, D)`, k `(..., Tk, D)` and v `(..., Tk, Dv)`:
# `(..., Tq, Dv)` in the dtype of q. Where only one key is visible, the result is its value.

# %% [markdown] role="prompt" exercise="02.1"
# Leading axes broadcast, those of the mask `(..., Tq, Tk)` too: q `(8, 5, 4)`, for example, is
# eight heads, all reading the same k `(7, 4)`. Scores may be ±1000, and a hidden key may have the
# largest.


# %% role="answer" exercise="02.1"
def masked_attention(q, k, v, mask):
    """Return attention under a bool mask, (..., Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    scores = np.where(mask, scores, -np.inf)
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), 0, row_max)  # a row without a visible key
    weights = np.exp(scores - row_max)
    row_sum = weights.sum(axis=-1, keepdims=True)
    return weights @ v / np.where(row_sum == 0, 1, row_sum)
    # END SOLUTION


# %% role="check" exercise="02.1"
check("02.1")

# %% [markdown] role="hints" exercise="02.1"
# 1. Three steps: a score for each pair, a softmax over the keys of each query, an average of the
#    values. At which step must a hidden key disappear?
# 2. Set hidden scores to -inf before you take the maximum of each row. A row of nothing but -inf
#    needs a finite maximum, and a sum that you can divide by.
# 3. scores = np.where(mask, q @ k.swapaxes(-1, -2) / D**0.5, -np.inf); subtract the row maximum, or
#    0 where it is -inf; weights @ v / sum, with 1 for a sum of 0.


# %% role="spec" exercise="02.1"
def by_full(q, k, v, mask):
    shape = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2], mask.shape[:-2])
    q, k, v = (np.broadcast_to(array, shape + array.shape[-2:]) for array in (q, k, v))
    return full.attention(q, k, v, mask=mask)


def by_einsum(q, k, v, mask):
    scores = np.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(mask, scores, np.finfo(scores.dtype).min)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * mask
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(weights / weights.sum(axis=-1, keepdims=True))
    return np.einsum("...qk,...kd->...qd", weights, v)


def by_loops(q, k, v, mask):
    """Average the visible values of one query after the other, in float64."""
    shape = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2], mask.shape[:-2])
    q, k, v, mask = (np.broadcast_to(x, shape + x.shape[-2:]) for x in (q, k, v, mask))
    out = np.zeros((*shape, q.shape[-2], v.shape[-1]), q.dtype)
    for *lead, i in np.ndindex(out.shape[:-1]):
        at = tuple(lead)
        seen = np.flatnonzero(np.broadcast_to(mask[at], (q.shape[-2], k.shape[-2]))[i])
        if len(seen):
            scores = [float(q[at][i] @ k[at][j]) / math.sqrt(q.shape[-1]) for j in seen]
            kernel = [math.exp(score - max(scores)) for score in scores]
            out[at][i] = sum(w * v[at][j] for w, j in zip(kernel, seen, strict=True)) / sum(kernel)
    return out


def by_logarithm(q, k, v, mask):
    """Subtract the logarithm of the sum: scores are rounded once more."""
    scores = np.where(mask, q @ k.swapaxes(-1, -2) / q.dtype.type(math.sqrt(q.shape[-1])), -np.inf)
    lse = np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    return np.exp(scores - np.where(np.isneginf(lse), 0, lse)) @ v


def shared(name, mask):
    """Make a case of two texts in three heads, all of which read the same keys and values."""
    return arrays(name, (2, 3, 5, 4), (2, 1, 7, 4), (7, 2), rest=(mask,))


def random_mask(rng):
    n_queries, n_keys = (int(x) for x in rng.integers(5, 40, 2))
    mask = rng.random((2, n_queries, n_keys)) < 0.3
    name = f"random, {n_queries} queries, {n_keys} keys"
    return qkv(name, (2, n_queries, 8), mask, keys=n_keys, value_width=5)(rng)


def all_of(n_queries, n_keys):
    return np.ones((n_queries, n_keys), bool)


ROW_MAX = "scores.max(axis=-1, keepdims=True)"
HIDE = "scores = np.where(mask, scores, -np.inf)"
NOT_THE_FIRST = np.tile(np.arange(9) > 0, (6, 1))  # hides the key whose score is far above the rest

Spec(
    kind="array",
    reference=by_full,
    cases=[
        qkv("1 query, 1 key", (1, 2), all_of(1, 1)),
        qkv("1 query, 3 keys", (1, 2), all_of(1, 3), keys=3),
        qkv("5 queries, 3 keys, values of 2", (5, 7), all_of(5, 3), keys=3, value_width=2),
        qkv("each query sees one key", (5, 3), np.eye(5, dtype=bool)),
        qkv("causal", (6, 3), masks.causal(6, 6)),
        qkv("causal, 3 queries, 7 keys", (3, 5), masks.causal(3, 7), keys=7, value_width=2),
        qkv("causal, 7 queries, 3 keys: empty rows", (7, 5), masks.causal(7, 3), keys=3),
        shared("heads share keys and values", all_of(5, 7)),
        shared("2 texts, the second padded", (np.arange(7) < [[7], [4]])[:, None, None]),
        qkv("large scores", (6, 16), masks.causal(6, 6), shift=50.0),
        qkv("scores far below 0", (6, 16), masks.causal(6, 6), shift=-50.0),
        arrays("the hidden key has the largest score", (6, 4), (9, 4), (9, 2),
               rest=(NOT_THE_FIRST,),
               change=lambda q, k, v: (q + 20, k + 20 * (np.arange(9) == 0)[:, None], v)),
        qkv("one query 200 times longer", (9, 16), masks.causal(9, 9), longer=200),
        qkv("float64", (9, 5), masks.causal(9, 9), dtype=np.float64),
        qkv("float64, a long query", (9, 5), masks.causal(9, 9), dtype=np.float64, longer=1000),
        random_mask,
    ],
    mistakes=[
        edit(HIDE, "",
             says="your mask is not used: every query sees every key",
             next="set the scores to -inf where the mask is False"),
        edit("(mask, scores, -np.inf)", "(mask, -np.inf, scores)",
             says="your mask is inverted: queries see what they may not",
             next="True means: may attend"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit(" ** 0.5", "",
             says="your output is what you get with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
        edit("q.shape[-1] **", "k.shape[-2] **",
             says="your scores are divided by the square root of the number of keys",
             next="D is the width of a query: q.shape[-1]"),
        edit("q.shape[-1] **", "v.shape[-1] **",
             says="your scores are divided by the square root of the width of a value",
             next="D is the width of a query: q.shape[-1]"),
        edit("np.exp(scores - row_max)", "((scores == row_max) & mask).astype(q.dtype)",
             says="your queries take the value of their best key alone",
             next="weigh each value by exp(score), divided by the sum of the row"),
        edit(f"row_max = {ROW_MAX}", "", HIDE, f"row_max = {ROW_MAX}\n    {HIDE}",
             says="your row maximum may be that of a hidden key: beside it exp gives only zeros",
             next="hide first, then take the maximum of what is left"),
        edit(HIDE, "", "weights @ v", "np.where(mask, weights, 0) @ v",
             says="your weights are cut off after the softmax: a row no longer sums to 1",
             next="mask before the softmax, so that the visible keys share all of the weight"),
        edit(HIDE, "scores = np.where(mask, scores, 0)",
             says="your hidden scores are 0, and exp(0) = 1 is a weight",
             next="set hidden scores to -inf"),
        edit("-np.inf)", "-1e9)",
             also=[edit("-np.inf)", "-1e4)"), edit("-np.inf)", "np.finfo(scores.dtype).min)")],
             says="a row without a visible key has equal scores in your answer: it averages all "
             "values",
             next="such a row must give zeros: use -inf, and guard its maximum and its sum"),
        edit("np.where(np.isneginf(row_max), 0, row_max)", "row_max",
             also=[edit("np.where(row_sum == 0, 1, row_sum)", "row_sum")],
             says="a row without a visible key is NaN in your answer",
             next="subtract 0 where the maximum is -inf, and divide by 1 where the sum is 0"),
        edit(ROW_MAX, "scores.max()",
             says="your maximum is that of all scores: in a row far below it exp gives only zeros",
             next="subtract the maximum of each row: axis=-1, keepdims=True"),
        edit("np.exp(scores - row_max)", "np.exp(scores)",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("sum(axis=-1", "sum(axis=-2", "weights @ v / np.where(row_sum == 0, 1, row_sum)",
             "weights / np.where(row_sum == 0, 1, row_sum) @ v",
             says="your weights sum to 1 over the queries, not over the keys",
             next="sum over the keys of one query: axis=-1"),
    ],
    alternatives=[by_einsum, by_loops, by_logarithm],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.2"
# ## 02.2 The future and the padding
#
# *12 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/02_attention.ipynb#What-a-token-may-see)
#
# A batch holds texts of different `lengths`, an int array `(B,)`; what follows a text is padding.
# Return a bool mask `(B, 1, n_queries, n_keys)`: nobody sees the future, nobody sees padding. The 1
# lets all heads share it.

# %% [markdown] role="prompt" exercise="02.2"
# Queries in the padding follow the same rule. No loop is needed.
#
# `batch_mask(np.array([3, 1]), 2, 3)` is, without the axes of one,
#
#     [[[ True,  True, False],
#       [ True,  True,  True]],
#      [[ True, False, False],
#       [ True, False, False]]]


# %% role="answer" exercise="02.2"
def batch_mask(lengths, n_queries, n_keys):
    """Return the bool mask (B, 1, n_queries, n_keys) of a padded batch, causal."""
    # BEGIN SOLUTION
    key = np.arange(n_keys)
    position = np.arange(n_queries)[:, None] + n_keys - n_queries
    return (key < lengths[:, None, None, None]) & (key <= position)
    # END SOLUTION


# %% role="check" exercise="02.2"
check("02.2")

# %% [markdown] role="hints" exercise="02.2"
# 1. There are two masks, and a pair is visible only where both allow it. On which of the four axes
#    does each depend?
# 2. Causal depends on query and key, (n_queries, n_keys). Padding depends on text and key,
#    (B, 1, 1, n_keys). Broadcasting joins them.
# 3. key = np.arange(n_keys); causal: key <= np.arange(n_queries)[:, None] + n_keys - n_queries;
#    padding: key < lengths[:, None, None, None]; join them with &.


# %% role="spec" exercise="02.2"
def mask_by_loops(lengths, n_queries, n_keys):
    mask = np.zeros((len(lengths), 1, n_queries, n_keys), bool)
    for text, length in enumerate(lengths):
        for i in range(n_queries):
            mask[text, 0, i, : max(0, min(length, i + n_keys - n_queries + 1))] = True
    return mask


def mask_by_limit(lengths, n_queries, n_keys):
    """Let each row end where its text or its past ends, whichever comes first."""
    past = np.arange(n_queries) + n_keys - n_queries + 1
    end = np.minimum.outer(lengths, past)
    return (np.arange(n_keys) < end[..., None])[:, None]


def draw_batch(rng):
    n_queries, n_keys = rng.integers(2, 20, 2)
    return rng.integers(0, n_keys + 1, 3), n_queries, n_keys


IS_TOKEN, IS_PAST = "(key < lengths[:, None, None, None])", "(key <= position)"

Spec(
    kind="mask",
    cases=[
        case("1 text of 1 token", np.array([1]), 1, 1),
        case("2 texts, one padded", np.array([3, 1]), 3, 3),
        case("no padding", np.array([4, 4]), 4, 4),
        case("a text of no tokens: its rows are empty", np.array([0, 4, 2]), 4, 4),
        case("2 queries, 5 keys", np.array([5, 2]), 2, 5),
        case("5 queries, 2 keys: empty rows", np.array([2, 1, 1]), 5, 2),
        case("1 query, 6 keys", np.array([6, 3, 1, 5]), 1, 6),
        case("6 queries, 1 key", np.array([1, 1]), 6, 1),
        case("7 texts of 7 tokens", np.arange(1, 8), 7, 7),
        *draws(4, draw_batch, name="batch"),
    ],
    mistakes=[
        edit(f"{IS_TOKEN} & {IS_PAST}",
             f"np.broadcast_to({IS_TOKEN}, (len(lengths), 1, n_queries, n_keys)).copy()",
             says="your queries see the future: the mask is that of the padding alone",
             next="join it with the causal mask by &"),
        edit(f"{IS_TOKEN} & {IS_PAST}",
             f"np.broadcast_to({IS_PAST}, (len(lengths), 1, n_queries, n_keys)).copy()",
             says="your queries see padding: the mask is causal alone",
             next="join it with key < length by &"),
        edit(") & (", ") | (",
             says="your mask shows what either rule allows",
             next="a pair is visible only if both rules allow it: & instead of |"),
        edit(" + n_keys - n_queries", "",
             says="your mask puts query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("key <= position", "key < position",
             says="your causal mask hides each query's own key",
             next="use <= against the query's own position, not <"),
        edit("key < lengths", "key <= lengths",
             says="your texts are one token too long",
             next="the keys of a text of 3 tokens are 0, 1 and 2: key < length"),
        edit("key < lengths", "key >= n_keys - lengths",
             says="your padding stands before the texts",
             next="here it follows them: key < length"),
        edit("(key < lengths", "(position < lengths",
             also=[edit(IS_PAST, f"{IS_PAST} & (position - n_keys + n_queries < "
                        "lengths[:, None, None, None])")],
             says="your mask empties the rows of queries in the padding",
             next="compare keys with the lengths: those queries still see the text before them"),
        edit("key <= position", "key >= position",
             says="your causal mask keeps the future and hides the past",
             next="turn the comparison of the two positions round"),
        edit("return ", "return ~(", IS_PAST, IS_PAST + ")",
             says="your mask is inverted: True where nothing may be seen",
             next="True means: may attend"),
        edit("[:, None, None, None]", "[:, None, None]",
             says="your mask has no axis for the heads: beside scores (B, heads, Tq, Tk) its texts "
             "would be taken for heads",
             next="return (B, 1, n_queries, n_keys)"),
    ],
    alternatives=[mask_by_loops, mask_by_limit],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.3"
# ## 02.3 A softmax that does not overflow
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/02_attention.ipynb#Softmax-that-does-not-overflow)
#
# The softmax along any `axis`, in the dtype of `scores`: float16, float32 or float64. Scores may be
# as large as the dtype allows, or −inf. Where a whole line along the axis is −inf, return zeros.

# %% [markdown] role="prompt" exercise="02.3"
# In float16 exponentiate and add up in float32: to a sum of 1 in float16, even thousands of weights
# of 0.0002 add nothing.
#
# `stable_softmax(np.array([1000.0, 1000.0, -np.inf]), 0)` is `[0.5, 0.5, 0]`.


# %% role="answer" exercise="02.3"
def stable_softmax(scores, axis):
    """Return the softmax along `axis`, shaped and typed as scores."""
    # BEGIN SOLUTION
    work = scores.astype(np.result_type(scores, np.float32))
    top = work.max(axis=axis, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(work - top)
    total = weights.sum(axis=axis, keepdims=True)
    return (weights / np.where(total == 0, 1, total)).astype(scores.dtype)
    # END SOLUTION


# %% role="check" exercise="02.3"
check("02.3")

# %% [markdown] role="hints" exercise="02.3"
# 1. exp(s - c) / Σ exp(s - c) is the same for every c. Which c keeps all exponentials at 1 or
#    below, and one of them at 1?
# 2. Widen to float32, subtract the maximum along `axis` with keepdims=True, exponentiate, divide by
#    the sum, go back to the dtype. -inf minus -inf is NaN: what do you subtract there?
# 3. top = work.max(axis=axis, keepdims=True), replaced by 0 where it is -inf; weights =
#    np.exp(work - top); divide by the sum along axis, or by 1 where the sum is 0.


# %% role="spec" exercise="02.3"
def softmax_by_logarithm(scores, axis):
    work = scores.astype(np.float64)
    top = work.max(axis=axis, keepdims=True)
    finite = np.maximum(top, np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        lse = finite + np.log(np.exp(work - finite).sum(axis=axis, keepdims=True))
    return np.exp(work - np.where(np.isneginf(lse), 0, lse)).astype(scores.dtype)


def softmax_by_lines(scores, axis):
    def line(values):
        values = values.astype(np.float64)
        if values.max() == -np.inf:
            return np.zeros_like(values)
        kernel = [math.exp(value - values.max()) for value in values]
        return np.array(kernel) / math.fsum(kernel)

    return np.apply_along_axis(line, axis, scores).astype(scores.dtype)


def softmax_of_last(scores, axis):
    wide = scores.astype(np.result_type(scores, np.float32))
    weights = np.moveaxis(softmax(np.moveaxis(wide, axis, -1).copy()), -1, axis)
    return weights.astype(scores.dtype)


def scored(name, shape, axis, *, dtype=np.float32, change=lambda scores: scores):
    def make(rng):
        scores = change(rng.standard_normal(shape))
        return case(name, scores.astype(dtype), axis)

    return make


def hidden(*where):
    """Return a function that sets the given parts of the scores to -inf."""

    def hide(scores):
        for part in where:
            scores[part] = -np.inf
        return scores

    return hide


def random_scores(rng):
    shape = tuple(int(x) for x in rng.integers(2, 9, 3))
    axis = int(rng.integers(-3, 3))
    return scored(f"random, {shape} along axis {axis}", shape, axis, change=lambda x: 40 * x)(rng)


TOP = "top = work.max(axis=axis, keepdims=True)"

Spec(
    kind="array",
    cases=[
        scored("1 number", (1,), 0),
        scored("5 numbers", (5,), 0),
        scored("3 rows of 5, along the rows", (3, 5), 1),
        scored("3 rows of 5, along the columns", (3, 5), 0),
        scored("4 × 4, along the columns", (4, 4), 0),
        scored("the middle one of 3 axes", (2, 3, 4), 1),
        scored("the axis counted from the end", (2, 3, 4), -2),
        scored("some scores are -inf", (3, 5), -1, change=hidden(np.s_[0, 1:], np.s_[1, ::2])),
        scored("a whole line is -inf", (3, 5), 1, change=hidden(np.s_[1])),
        scored("a whole line is -inf, along axis 0", (3, 5), 0, change=hidden(np.s_[:, 2])),
        scored("scores near 1000", (3, 5), 1, change=lambda x: x + 1000),
        scored("scores near -1000", (3, 5), 1, change=lambda x: x - 1000),
        scored("one row far above the others", (3, 5), 1,
               change=lambda x: x + np.array([[500], [0], [-500]])),
        scored("float64, far apart", (3, 5), 0, dtype=np.float64, change=lambda x: 300 * x),
        scored("float16, near 12", (3, 5), 1, dtype=np.float16, change=lambda x: x + 12),
        scored("float16, up to 60000", (3, 5), 0, dtype=np.float16,
               change=lambda x: 60000 * np.sign(x)),
        scored("float16, one score far above 5000 others", (5001, 2), 0, dtype=np.float16,
               change=lambda x: x / 100 - 8.5 * (np.arange(5001) > 0)[:, None]),
        random_scores,
    ],
    tolerance=5e-3,  # right too: s - max in float16, or exp(s - lse), near 1000 rounded by 3e-5
    mistakes=[
        edit("axis=axis", "axis=-1",
             says="your softmax runs along the last axis, whatever `axis` is",
             next="take maximum and sum along `axis`, with keepdims=True"),
        edit("np.exp(work - top)", "np.exp(work)",
             says="your exponentials overflow: no maximum is subtracted",
             next="subtract the maximum along the axis before np.exp"),
        edit("axis=axis, keepdims=True)\n    top", "axis=axis, keepdims=True).max()\n    top",
             says="your maximum is that of all scores: in a line far below it exp gives only zeros",
             next="each line has a maximum of its own: axis=axis, keepdims=True"),
        edit("max(axis=axis, keepdims=True)", "max(axis=axis, keepdims=True, initial=0)",
             says="your maximum is never below 0: where all scores are, exp gives only zeros",
             next="take each line's own maximum, also where it is negative"),
        edit(TOP, "work, top = np.clip(work, -80, 80), 0 * work[..., :1]",
             says="your scores are clipped: beyond the limit all weigh the same",
             next="subtract the maximum along the axis instead"),
        edit(TOP, "top = work.mean(axis=axis, keepdims=True)",
             says="your softmax subtracts the mean: what lies far above it still overflows",
             next="subtract the maximum: no exponent is then above 0"),
        edit("np.where(np.isneginf(top), 0, top)", "top",
             also=[edit("np.where(total == 0, 1, total)", "total")],
             says="a line of -inf is NaN in your answer: -inf minus -inf, or 0/0",
             next="subtract 0 where the maximum is -inf, and divide by 1 where the sum is 0"),
        edit("np.float32))", "np.float32))\n    work = np.maximum(work, np.finfo(work.dtype).min)",
             also=[edit("np.float32))", f"np.float32))\n    work = np.maximum(work, {least})")
                   for least in (-1e9, -1e5)],
             says="a line of -inf weighs everything alike in your answer",
             next="such a line must give zeros: keep -inf, and guard its maximum and its sum"),
        edit("scores.astype(np.result_type(scores, np.float32))", "scores",
             says="your sums are in float16: to 1 it adds nothing below 0.0005",
             next="widen the scores to float32 before you exponentiate and add up"),
        edit("(weights / np.where(total == 0, 1, total))", "weights",
             says="your weights are not divided by their sum",
             next="divide by the sum of the exponentials along the axis"),
        edit("weights / np.where(total == 0, 1, total)", "np.where(total == 0, 1, total) * weights",
             says="your weights are multiplied by their sum",
             next="divide by the sum of the exponentials along the axis"),
        edit("work = scores.astype(np.result_type(scores, np.float32))",
             f"{TOP.replace('work', 'scores')}\n    scores -= np.where(np.isneginf(top), 0, top)\n"
             "    work = scores.astype(np.result_type(scores, np.float32))",
             says="your numbers are right, but the scores of the caller are changed in place",
             next="work on a copy: scores - top makes a new array"),
    ],
    alternatives=[softmax_by_logarithm, softmax_by_lines, softmax_of_last],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.4"
# ## 02.4 Many heads, few keys
#
# *20 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/02_attention.ipynb#Many-heads)
#
# q `(Tq, heads·D)` comes from its projection: head h owns the columns h·D … (h + 1)·D. k and v
# have fewer heads, `groups`: `(Tk, groups·D)`. Each serves heads / groups neighbouring heads of q,
# group 0 the first.

# %% [markdown] role="prompt" exercise="02.4"
# Return two arrays, as torch's module does: the output `(Tq, heads·D)`, heads side by side, and the
# weights, averaged over the heads, `(Tq, Tk)`.
#
# **Memory limit** for 16 heads, 2 groups, D = 64, 4 queries, 4096 keys: 8 MiB. Scores take 1 MiB, k
# and v 2 MiB each; repeated for every head, 16 MiB.


# %% role="answer" exercise="02.4"
def grouped_heads(q, k, v, heads, groups):
    """Return the output (Tq, heads·D) and the mean weights (Tq, Tk), in the dtype of q."""
    # BEGIN SOLUTION
    per_group, width = heads // groups, q.shape[1] // heads
    q = q.reshape(-1, groups, per_group, width).transpose(1, 2, 0, 3)  # (groups, per_group, Tq, D)
    k = k.reshape(-1, groups, 1, width).transpose(1, 2, 3, 0)  # (groups, 1, D, Tk)
    v = v.reshape(-1, groups, 1, width).transpose(1, 2, 0, 3)  # (groups, 1, Tk, D)
    scores = q @ k / width**0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = (weights @ v).transpose(2, 0, 1, 3)
    return out.reshape(len(out), heads * width), weights.mean(axis=(0, 1))
    # END SOLUTION


# %% role="check" exercise="02.4"
check("02.4")

# %% [markdown] role="hints" exercise="02.4"
# 1. How wide is one head? Which columns of q belong to head 5, and which columns of k does that
#    head read?
# 2. Give q the axes (groups, heads // groups, Tq, D), k and v (groups, 1, Tk, D): reshape splits
#    the columns, transpose brings the heads to the front. The axis of 1 broadcasts; nothing is
#    copied.
# 3. q.reshape(-1, groups, heads // groups, D).transpose(1, 2, 0, 3); k and v alike with 1 in place
#    of heads // groups. At the end (weights @ v).transpose(2, 0, 1, 3).reshape(Tq, heads * D).


# %% role="spec" exercise="02.4"
def one_head(q, k, v):
    weights = softmax(q @ k.T / q.dtype.type(math.sqrt(q.shape[1])))
    return weights @ v, weights


def head_by_head(q, k, v, heads, groups):
    width = q.shape[1] // heads
    out, mean = np.empty_like(q), np.zeros((len(q), len(k)), q.dtype)
    for head in range(heads):
        group = head * groups // heads
        own, read = (slice(at * width, (at + 1) * width) for at in (head, group))
        out[:, own], weights = one_head(q[:, own], k[:, read], v[:, read])
        mean += weights / heads
    return out, mean


def rows_of_a_group(q, k, v, heads, groups):
    """Let the queries of all heads of a group be rows of one matrix."""
    n_queries, width = len(q), q.shape[1] // heads
    keys, values = (array.reshape(len(array), groups, width) for array in (k, v))
    queries = q.reshape(n_queries, groups, -1, width)
    parts = [
        one_head(queries[:, g].reshape(-1, width), keys[:, g], values[:, g]) for g in range(groups)
    ]
    out = np.stack([out.reshape(n_queries, -1) for out, _ in parts], axis=1)
    every = np.stack([weights.reshape(n_queries, -1, len(k)) for _, weights in parts])
    return out.reshape(n_queries, -1), every.mean(axis=(0, 2))


def heads_by_einsum(q, k, v, heads, groups):
    width = q.shape[1] // heads
    queries = q.reshape(len(q), groups, -1, width)
    keys, values = (array.reshape(len(array), groups, width) for array in (k, v))
    scores = np.einsum("qghd,kgd->ghqk", queries, keys) / width**0.5
    weights = softmax(scores)
    out = np.einsum("ghqk,kgd->qghd", weights, values)
    return out.reshape(q.shape), weights.sum(axis=(0, 1)) / heads


def repeated(q, k, v, heads, groups):
    """Give each head of q keys and values of its own: copies."""
    width = q.shape[1] // heads
    k, v = (
        np.repeat(array.reshape(-1, groups, width), heads // groups, axis=1) for array in (k, v)
    )
    return heads_by_einsum(q, k.reshape(len(k), -1), v.reshape(len(v), -1), heads, heads)


def one_repeated_at_a_time(q, k, v, heads, groups):
    width = q.shape[1] // heads

    def own(array):
        array = array.reshape(-1, groups, width).swapaxes(0, 1)
        return np.repeat(array, heads // groups, axis=0)

    queries = q.reshape(-1, heads, width).swapaxes(0, 1)
    weights = softmax(queries @ own(k).swapaxes(-1, -2) / q.dtype.type(math.sqrt(width)))
    out = weights @ own(v)
    return out.swapaxes(0, 1).reshape(q.shape), weights.mean(axis=0)


def split(name, n_queries, n_keys, width, heads, groups, *, factor=1.0, dtype=np.float32):
    shapes = (n_queries, heads * width), (n_keys, groups * width), (n_keys, groups * width)
    return arrays(name, *shapes, rest=(heads, groups), dtype=dtype,
                  change=lambda q, k, v: (factor * q, k, v))  # fmt: skip


def random_heads(rng):
    n_queries, n_keys, width, groups, per_group = (
        int(x) for x in rng.integers(2, (9, 20, 7, 4, 4))
    )
    heads = groups * per_group
    name = f"random, {heads} heads, {groups} groups, {n_queries} queries, {n_keys} keys"
    return split(name, n_queries, n_keys, width, heads, groups)(rng)


QUERIES = "q.reshape(-1, groups, per_group, width).transpose(1, 2, 0, 3)"
KEYS, VALUES = ".transpose(1, 2, 3, 0)", "v.reshape(-1, groups, 1, width).transpose(1, 2, 0, 3)"

Spec(
    kind="array",
    reference=head_by_head,
    cases=[
        split("1 head, 1 query, 1 key", 1, 1, 2, 1, 1),
        split("1 head", 3, 5, 4, 1, 1),
        split("2 heads, 2 groups: nothing is shared", 3, 5, 2, 2, 2),
        split("2 heads share one group", 3, 5, 2, 2, 1),
        split("6 heads, 2 groups", 3, 5, 2, 6, 2),
        split("6 heads, 3 groups", 5, 3, 2, 6, 3),
        split("4 heads, 2 groups, 4 queries, 4 keys, D = 4", 4, 4, 4, 4, 2),
        split("D = 1", 3, 5, 1, 4, 2),
        split("1 query, 50 keys", 1, 50, 3, 6, 3),
        split("50 queries, 1 key", 50, 1, 3, 6, 3),
        split("large scores", 3, 5, 16, 4, 2, factor=200.0),
        split("float64", 3, 5, 4, 6, 2, dtype=np.float64),
        split("float64, large scores", 3, 5, 4, 6, 2, factor=900.0, dtype=np.float64),
        split("12 heads of 64 in 768 columns", 3, 5, 64, 12, 4),
        random_heads,
    ],
    memory=Memory(
        split("16 heads, 2 groups, 4 queries, 4096 keys", 4, 4096, 64, 16, 2),
        2**23,
        "four arrays of scores, heads · Tq · Tk · 4 bytes each, and one copy of k and of v",
    ),
    mistakes=[
        Mistake(repeated,
                says="your numbers are right, but each head of q gets its own copy of k and v",
                next="give k and v an axis of 1 where q has heads / groups, and let it broadcast"),
        Mistake(one_repeated_at_a_time,
                says="your numbers are right, but k is copied for each head of q, then v",
                next="give k and v an axis of 1 where q has heads / groups, and let it broadcast"),
        edit("width**0.5", "(heads * width) ** 0.5",
             says="your scores are divided by the square root of all columns: 768 instead of 64",
             next="D is the width of one head: q.shape[1] // heads"),
        edit(" / width**0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of the width of a head"),
        edit(QUERIES, "q.reshape(groups, per_group, -1, width)",
             says="your heads of q are cut across the tokens: reshape alone splits rows, not "
             "columns",
             next="split the columns first, (Tq, groups, heads // groups, D), then transpose"),
        edit(QUERIES, "q.reshape(groups, per_group, -1, width)",
             "k.reshape(-1, groups, 1, width)" + KEYS,
             "k.reshape(groups, 1, -1, width).swapaxes(-1, -2)",
             VALUES, "v.reshape(groups, 1, -1, width)",
             says="your heads of q, k and v are cut across the tokens: reshape alone splits rows",
             next="split the columns first, (T, heads, D), then transpose"),
        edit(".transpose(2, 0, 1, 3)", ".reshape(-1, 1, 1, heads * width)",
             says="your heads are merged without a transpose: rows of one head lie side by side",
             next="bring Tq to the front before you reshape: .transpose(2, 0, 1, 3)"),
        edit("groups, per_group, width).transpose(1, 2, 0, 3)",
             "per_group, groups, width).transpose(2, 1, 0, 3)",
             ".transpose(2, 0, 1, 3)", ".transpose(2, 1, 0, 3)",
             says="your head h reads group h % groups: the groups take turns",
             next="heads in a row share a group: head h reads group h // (heads // groups)"),
        edit("= k.reshape(-1, groups, 1, width)", "= k.reshape(-1, groups, 1, width)[:, :1]",
             "= v.reshape(-1, groups, 1, width)", "= v.reshape(-1, groups, 1, width)[:, :1]",
             says="your heads all read group 0",
             next="each group of k and v serves heads // groups heads of its own"),
        edit("weights.mean(axis=(0, 1))", "weights.sum(axis=(0, 1))",
             says="your weights are summed over the heads: their rows sum to the number of heads",
             next="average them: .mean over the axes of the heads"),
        edit("weights.mean(axis=(0, 1))", "weights[0, 0].copy()",
             says="your weights are those of the first head alone",
             next="average them over all heads"),
        edit("np.exp(scores - scores.max(axis=-1, keepdims=True))", "np.exp(scores)",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("weights.sum(axis=-1", "weights.sum(axis=(0, 1, -1)",
             says="your weights sum to 1 over all heads together",
             next="each head has a softmax of its own: sum over the keys alone"),
        Mistake(lambda q, k, v, heads, groups: one_head(
                    q, *(np.tile(array, heads // groups) for array in (k, v))),
                says="your heads are one head as wide as all of them",
                next="split the columns: each head has scores and a softmax of its own"),
    ],
    alternatives=[head_by_head, rows_of_a_group, heads_by_einsum],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.5"
# ## 02.5 Additive scores in tiles
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/02_attention.ipynb#Four-ways-to-score)
#
# Query i and key j have the score vector · tanh(q_i w_q + k_j w_k + bias). q is `(Tq, Dq)`, w_q
# `(Dq, hidden)`, k `(Tk, Dk)`, w_k `(Dk, hidden)`; bias and vector are `(hidden,)`. Return
# `(Tq, Tk)` in the dtype of q.

# %% [markdown] role="prompt" exercise="02.5"
# **Memory limit** for 256 queries, 256 keys, hidden 32, float32: 3 MiB. The numbers inside of tanh
# take 8 MiB, if all exist at once; the scores take 0.25 MiB.
#
# If vector is zero, for example, so is every score.


# %% role="answer" exercise="02.5"
def additive_scores(q, k, w_q, w_k, bias, vector):
    """Return the additive scores of all pairs, (Tq, Tk)."""
    # BEGIN SOLUTION
    block = 8
    q_hidden, k_hidden = q @ w_q + bias, k @ w_k
    scores = np.empty((len(q), len(k)), q.dtype)
    for start in range(0, len(q), block):
        rows = slice(start, start + block)
        inside = q_hidden[rows, None, :] + k_hidden[None, :, :]  # (block, Tk, hidden)
        scores[rows] = np.tanh(inside) @ vector
    return scores
    # END SOLUTION


# %% role="check" exercise="02.5"
check("02.5")

# %% [markdown] role="hints" exercise="02.5"
# 1. q w_q has no pairs in it yet, nor has k w_k. Which part of the formula is the first that needs
#    numbers for each pair?
# 2. Project all queries and all keys once. Then walk over the queries, one or a few at a time, and
#    keep only their scores.
# 3. For each i: scores[i] = np.tanh(q_hidden[i] + k_hidden) @ vector, where q_hidden = q @ w_q +
#    bias and k_hidden = k @ w_k.


# %% role="spec" exercise="02.5"
def all_at_once(q, k, w_q, w_k, bias, vector):
    return np.tanh((q @ w_q)[:, None] + (k @ w_k)[None] + bias) @ vector


def by_hidden_numbers(q, k, w_q, w_k, bias, vector):
    """Add up the scores of one hidden number after the other."""
    q_hidden, k_hidden, scores = q @ w_q, k @ w_k + bias, 0
    for at, weight in enumerate(vector):
        scores = scores + weight * np.tanh(q_hidden[:, None, at] + k_hidden[:, at])
    return scores


def by_package(q, k, w_q, w_k, bias, vector):
    """Let one number more, which is always 1, bring the bias."""
    q, w_q = np.concatenate([q, np.ones_like(q[:, :1])], axis=1), np.concatenate([w_q, bias[None]])
    return scoring.additive(q, k, w_q, w_k, vector)


def additive(name, n_queries, n_keys, q_width, k_width, hidden, *, factor=0.5, dtype=np.float32):
    """Return a maker of a case whose hidden numbers are some `factor` in size."""

    def change(q, k, w_q, w_k, bias, vector):
        w_q, w_k = factor * w_q / q_width**0.5, factor * w_k / k_width**0.5
        return q, k, w_q, w_k, factor * bias, vector

    shapes = (n_queries, q_width), (n_keys, k_width), (q_width, hidden), (k_width, hidden)
    return arrays(name, *shapes, (hidden,), (hidden,), dtype=dtype, change=change)


def random_additive(rng):
    sizes = tuple(int(x) for x in rng.integers(2, (40, 40, 9, 9, 20)))
    return additive(f"random, Tq, Tk, Dq, Dk, hidden = {sizes}", *sizes)(rng)


INSIDE, BIASED = "np.tanh(inside) @ vector", "q @ w_q + bias, k @ w_k"

Spec(
    kind="array",
    reference=all_at_once,
    cases=[
        additive("1 query, 1 key, 1 hidden number", 1, 1, 1, 1, 1),
        additive("1 query, 1 key", 1, 1, 2, 3, 5),
        additive("2 queries, 3 keys", 2, 3, 5, 7, 11),
        additive("4 queries, 4 keys, all widths 4", 4, 4, 4, 4, 4),
        additive("1 query, 9 keys", 1, 9, 2, 3, 4),
        additive("9 queries, 1 key", 9, 1, 2, 3, 4),
        additive("1 hidden number", 5, 3, 2, 3, 1),
        additive("tanh at its limits", 5, 7, 4, 3, 6, factor=20.0),
        additive("float64", 5, 7, 4, 3, 6, dtype=np.float64),
        additive("200 queries, 2 keys", 200, 2, 3, 2, 4),
        additive("2 queries, 200 keys", 2, 200, 3, 2, 4),
        additive("67 queries, 131 keys", 67, 131, 5, 3, 7),
        random_additive,
    ],
    memory=Memory(
        additive("256 queries, 256 keys, hidden 32", 256, 256, 16, 16, 32),
        3 * 2**20,
        "twelve arrays as large as the scores: 12 · Tq · Tk · 4 bytes",
    ),
    mistakes=[
        Mistake(all_at_once,
                says="your numbers are right, but the hidden numbers of all pairs exist at once",
                next="take the queries one by one, or a few at a time, and keep only the scores"),
        edit(" + bias", "",
             says="your scores leave out the bias",
             next="add it inside of tanh: q @ w_q + bias"),
        edit(" + bias", "", "np.tanh(inside)", "(np.tanh(inside) + bias)",
             says="your bias is added after tanh",
             next="tanh comes last: tanh(q w_q + k w_k + bias)"),
        edit(BIASED, "q @ w_q + bias, k @ w_k + bias",
             says="your bias counts twice, with the query and with the key",
             next="add it once"),
        edit("np.tanh(inside)", "inside",
             says="your scores have no tanh: a sum of a number of the query and one of the key",
             next="np.tanh of the sum, before the product with vector"),
        edit(INSIDE, "np.tanh(inside @ vector)",
             says="your tanh comes after the product with vector",
             next="take np.tanh of each hidden number, then the product"),
        edit(BIASED, "np.tanh(q @ w_q + bias), np.tanh(k @ w_k)", "np.tanh(inside)", "inside",
             says="your tanh is taken of query and key apart, before they meet",
             next="add first: tanh(a + b) is not tanh(a) + tanh(b)"),
        edit("[rows, None, :] + k", "[rows, None, :] * k",
             says="your hidden numbers of query and key are multiplied",
             next="additive scores add them"),
        edit(INSIDE, "np.tanh(inside).sum(axis=-1)",
             says="your hidden numbers are added up as they are: vector is not used",
             next="weigh them with vector: np.tanh(…) @ vector"),
        edit(INSIDE, f"{INSIDE} / q.dtype.type(len(vector) ** 0.5)",
             says="your scores are divided by the square root of hidden",
             next="additive scores are not scaled: vector is learned, and sets their size"),
        edit("np.empty((", "np.zeros((", "range(0, len(q), block)",
             "range(0, len(q) // block * block, block)",
             says="your loop ends with the last full block of queries: the rest is never computed",
             next="let the last block be shorter: a slice may end beyond the last query"),
        edit("np.tanh(inside)", "np.maximum(inside, 0)",
             says="your scores use max(x, 0) in place of tanh",
             next="np.tanh, which keeps each hidden number between -1 and 1"),
    ],
    alternatives=[by_hidden_numbers, by_package],
    variants=[edit("block = 8", f"block = {size}") for size in (10, 16)],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.6"
# ## 02.6 A decoder block
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/02_attention.ipynb#A-decoder-block)
#
# Three steps, each added to what comes in: causal self-attention, cross-attention to `source`, MLP.
# Pre-norm: each step reads the norm of x, never x itself; source is used as it is. x is `(T, d)`,
# source `(S, d)`, the result `(T, d)`.

# %% [markdown] role="prompt" exercise="02.6"
# One head. `self_weights` and `cross_weights`, `(4, d, d)`, hold the matrices of query, key, value
# and output, used as x @ W. The MLP is max(x @ up, 0) @ down. The norm gives each token mean 0 and
# divides by √(variance + 1e-5).
#
# `full.attention(q, k, v, causal=True)` is at hand:

# %% role="prompt" exercise="02.6"
from attncourse.reference import full


# %% role="answer" exercise="02.6"
def decoder_block(x, source, self_weights, cross_weights, up, down):
    """Return the output of a pre-norm decoder block, (T, d) in the dtype of x."""

    # BEGIN SOLUTION
    def norm(x):
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)

    def attend(x, source, weights, causal):
        query, key, value, output = weights
        return full.attention(x @ query, source @ key, source @ value, causal=causal) @ output

    seen = norm(x)
    x = x + attend(seen, seen, self_weights, causal=True)
    x = x + attend(norm(x), source, cross_weights, causal=False)
    return x + np.maximum(norm(x) @ up, 0) @ down
    # END SOLUTION


# %% role="check" exercise="02.6"
check("02.6")

# %% [markdown] role="hints" exercise="02.6"
# 1. Write norm and attend as functions of their own. Each step then is one line, and all three look
#    alike: x = x + step(norm(x)).
# 2. In self-attention queries, keys and values come from norm(x). In cross-attention the queries
#    come from the norm of the new x, keys and values from source, and nothing is hidden.
# 3. y = norm(x); x = x + attend(y, y, self_weights, True); x = x + attend(norm(x), source,
#    cross_weights, False); return x + np.maximum(norm(x) @ up, 0) @ down.


# %% role="spec" exercise="02.6"
def block_by_hand(x, source, self_weights, cross_weights, up, down):
    """Write out all steps, in float64."""
    dtype = x.dtype
    x, source = x.astype(np.float64), source.astype(np.float64)

    def norm(x):
        return (x - x.mean(1)[:, None]) / np.sqrt(x.var(1) + 1e-5)[:, None]

    def weights_of(q, k, mask):
        return softmax(q @ k.T / math.sqrt(q.shape[1]), mask)

    y, (query, key, value, output) = norm(x), self_weights
    x = x + weights_of(y @ query, y @ key, np.tri(len(x), dtype=bool)) @ (y @ value) @ output
    y, (query, key, value, output) = norm(x), cross_weights
    x = x + weights_of(y @ query, source @ key, None) @ (source @ value) @ output
    hidden = norm(x) @ up
    return (x + np.where(hidden > 0, hidden, 0) @ down).astype(dtype)


def block_token_by_token(x, source, self_weights, cross_weights, up, down):
    """Let one token after the other pass through the whole block, as if it were being written."""

    def norm(token):
        centred = token - token.mean()
        return centred / np.sqrt(centred @ centred / len(token) + 1e-5)

    def attend(token, source, weights):
        query, key, value, output = weights
        scores = source @ key @ (token @ query) / math.sqrt(len(token))
        return softmax(scores) @ (source @ value) @ output

    seen, out = [], []
    for token in x.astype(np.float64):
        seen.append(norm(token))
        token = token + attend(seen[-1], np.stack(seen), self_weights)
        token = token + attend(norm(token), source, cross_weights)
        out.append(token + np.maximum(norm(token) @ up, 0) @ down)
    return np.stack(out).astype(x.dtype)


def blocks(name, n_tokens, n_source, d, hidden, *, dtype=np.float32, change=lambda x: x):
    """Return a maker of a case; `change` may alter x."""

    def scaled(x, source, self_weights, cross_weights, up, down):
        weights = (self_weights, cross_weights, up, down)
        return change(x), 2 * source, *(2 * array / d**0.5 for array in weights)

    shapes = (n_tokens, d), (n_source, d), (4, d, d), (4, d, d), (d, hidden), (hidden, d)
    return arrays(name, *shapes, dtype=dtype, change=scaled)


def random_block(rng):
    sizes = tuple(int(x) for x in rng.integers((2, 2, 3, 3), (12, 12, 9, 20)))
    return blocks(f"random, T, S, d, hidden = {sizes}", *sizes)(rng)


def last_of_equal_numbers(x):
    x[-1] = 3.0
    return x


CENTRED = "x = x - x.mean(axis=-1, keepdims=True)"
SELF = "attend(seen, seen, self_weights, causal=True)"
CROSS = "attend(norm(x), source, cross_weights, causal=False)"
MLP = "np.maximum(norm(x) @ up, 0) @ down"

Spec(
    kind="array",
    reference=block_by_hand,
    tolerance=1e-3,  # a norm divides by what may be small, and enlarges what rounding has left
    cases=[
        blocks("1 token, 1 source token", 1, 1, 3, 2),
        blocks("1 token, 4 source tokens", 1, 4, 3, 5),
        blocks("4 tokens, 1 source token", 4, 1, 3, 5),
        blocks("4 tokens, 4 source tokens, all widths 4", 4, 4, 4, 4),
        blocks("5 tokens, 3 source tokens", 5, 3, 6, 7),
        blocks("3 tokens, 7 source tokens", 3, 7, 6, 11),
        blocks("tokens far from 0", 5, 3, 6, 7, change=lambda x: 4 * x + 10),
        blocks("tokens near 0", 5, 3, 6, 7, change=lambda x: x / 200),
        blocks("a token of equal numbers", 5, 3, 6, 7, change=last_of_equal_numbers),
        blocks("float64", 5, 3, 6, 7, dtype=np.float64),
        blocks("20 tokens, 2 source tokens", 20, 2, 6, 7),
        random_block,
    ],
    mistakes=[
        edit("seen = norm(x)", "seen = x", f"x = x + {SELF}", f"x = norm(x + {SELF})",
             f"x = x + {CROSS}", f"x = norm(x + {CROSS.replace('norm(x)', 'x')})",
             f"x + {MLP}", f"norm(x + {MLP.replace('norm(x)', 'x')})",
             says="your block is post-norm: it normalises each sum, not what a step reads",
             next="x = x + step(norm(x)): the sum itself is left alone"),
        edit("seen = norm(x)", "seen = x", CROSS, CROSS.replace("norm(x)", "x"),
             MLP, MLP.replace("norm(x)", "x"),
             says="your block has no norm at all",
             next="let each of the three steps read norm(x)"),
        edit("seen = norm(x)", "seen = x = norm(x)",
             says="your self-attention is added to the norm of x, not to x",
             next="keep x for the sum: seen = norm(x), then x = x + attend(seen, seen, …)"),
        edit("attend(seen, seen,", "attend(seen, x,",
             says="your self-attention takes keys and values from x without a norm",
             next="queries, keys and values all come from norm(x)"),
        edit("seen, self_weights, causal=True", "seen, self_weights, causal=False",
             says="your tokens see the future of their own text",
             next="self-attention is causal"),
        edit("cross_weights, causal=False", "cross_weights, causal=True",
             says="your cross-attention is causal: some of source is hidden",
             next="source is known as a whole: every token may see all of it"),
        edit("source, cross_weights", "norm(source), cross_weights",
             says="your block normalises source",
             next="use source as it is: whoever made it has normalised it"),
        edit(CROSS, CROSS.replace("norm(x)", "seen"),
             says="your cross-attention reads what self-attention read: the norm of the old x",
             next="take the norm of x again, after self-attention was added"),
        edit("attend(norm(x), source, cross", "attend(norm(x), norm(x), cross",
             says="your cross-attention looks at x once more: source is not used",
             next="keys and values come from source"),
        edit(CROSS, "attend(source, norm(x), cross_weights, causal=False)",
             says="your cross-attention is turned round: queries from source, keys from x",
             next="each token of x asks, and source answers: attend(norm(x), source, …)"),
        edit(f"    x = x + {SELF}\n    x = x + {CROSS}\n    return x + {MLP}",
             f"    return x + {SELF} + attend(seen, source, cross_weights, False) + "
             f"{MLP.replace('norm(x)', 'seen')}",
             says="your steps all read the same norm: they stand beside each other",
             next="each step reads the norm of the sum so far"),
        edit(f"return x + {MLP}", f"return norm(x + {MLP})",
             says="your block normalises its output",
             next="return the sum itself; the next block begins with a norm"),
        edit(f"x = x + {CROSS}", "pass",
             says="your block leaves out cross-attention",
             next="between self-attention and the MLP comes a step that reads source"),
        edit(f"    x = x + {SELF}\n    x = x + {CROSS}",
             f"    x = x + {CROSS}\n    seen = norm(x)\n    x = x + {SELF}",
             says="your cross-attention comes before self-attention",
             next="first self-attention, then cross-attention, then the MLP"),
        edit(f"x = x + {SELF}", f"x = {SELF}", f"x = x + {CROSS}", f"x = {CROSS}",
             f"x + {MLP}", MLP,
             says="your steps replace x: the sums are missing",
             next="add what each step returns to x"),
        edit(f"x + {MLP}", MLP,
             says="your MLP replaces x instead of being added to it",
             next="x + np.maximum(norm(x) @ up, 0) @ down"),
        edit(MLP, MLP.replace("norm(x)", "x"),
             says="your MLP reads x without a norm",
             next="it reads norm(x), as the other steps do"),
        edit("np.maximum(norm(x) @ up, 0)", "(norm(x) @ up)",
             says="your MLP is linear: negative numbers pass",
             next="np.maximum(…, 0) between up and down"),
        edit("axis=-1", "axis=0",
             says="your norm runs over the tokens: it even sees the future",
             next="each token is normalised by itself: axis=-1"),
        edit(CENTRED, "pass",
             says="your norm does not subtract the mean",
             next="take each token's mean off before you divide"),
        edit("x**2).mean(axis=-1, keepdims=True)", "x**2).sum(axis=-1, keepdims=True) / "
             "(x.shape[-1] - 1)",
             says="your variance is divided by d - 1",
             next="divide by d: the mean of the squares"),
        edit("(x**2).mean(axis=-1, keepdims=True) + 1e-5", "(x**2).mean(axis=-1, keepdims=True)",
             says="your norm adds nothing to the variance: a token of equal numbers is 0/0",
             next="add 1e-5 inside of the root"),
        edit("np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)",
             "(np.sqrt((x**2).mean(axis=-1, keepdims=True)) + 1e-5)",
             says="your 1e-5 is added to the root, not to the variance",
             next="np.sqrt(variance + 1e-5)"),
        edit(" @ output", "",
             says="your attention leaves out the output matrix",
             next="multiply what attention returns by the fourth matrix"),
        edit("output = weights", "output = weights.swapaxes(1, 2)",
             says="your matrices of attention are transposed: x @ W.T",
             next="they are used as x @ W, with no transpose"),
        edit("query, key, value, output = weights", "key, query, value, output = weights",
             says="your matrices of query and key are swapped",
             next="the order is query, key, value, output"),
    ],
    alternatives=[block_by_hand, block_token_by_token],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="02.V5"
# ## 02.V5 A cross-attention module
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/02_attention.ipynb#Two-sentences)
#
# x `(B, Tq, d)` asks, source `(B, Tk, e)` answers. Make queries with `w_q` `(d, d)`, keys and
# values with `w_k` and `w_v` `(e, d)`. Split the d columns into `heads`, attend in each, join them
# side by side, multiply by `w_o` `(d, d)`.

# %% [markdown] role="prompt" exercise="02.V5"
# Return the output, `(B, Tq, d)`, and the weights of each head, `(B, heads, Tq, Tk)`, without a
# mask.
#
# A textbook's case is d = 128, 4 heads, 7 tokens of a decoder, 10 of an encoder, one text. Which
# two shapes do you expect?


# %% role="answer" exercise="02.V5"
def cross_attention(x, source, w_q, w_k, w_v, w_o, heads):
    """Return the output (B, Tq, d) and the weights (B, heads, Tq, Tk), in the dtype of x."""

    # BEGIN SOLUTION
    def split(projected):  # (B, T, d) -> (B, heads, T, D)
        return projected.reshape(*projected.shape[:2], heads, -1).swapaxes(1, 2)

    q, k, v = split(x @ w_q), split(source @ w_k), split(source @ w_v)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    joined = (weights @ v).swapaxes(1, 2).reshape(x.shape)
    return joined @ w_o, weights
    # END SOLUTION


# %% role="check" exercise="02.V5"
check("02.V5")

# %% [markdown] role="hints" exercise="02.V5"
# 1. Write down the shape after each step. Which of the two lengths, Tq or Tk, do keys have, and
#    values, weights, the output?
# 2. Project, then split (B, T, d) into (B, T, heads, D) and bring the heads before the tokens.
#    Scores are (B, heads, Tq, Tk). Undo the split after the product with the values.
# 3. split = lambda y: y.reshape(*y.shape[:2], heads, -1).swapaxes(1, 2); q = split(x @ w_q), k and
#    v from source; out = (weights @ v).swapaxes(1, 2).reshape(x.shape) @ w_o.


# %% role="spec" exercise="02.V5"
def cross_by_heads(x, source, w_q, w_k, w_v, w_o, heads):
    """Cut the matrices, not what they make: one head after the other."""
    width, out, every = x.shape[-1] // heads, 0, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = x @ w_q[:, own], source @ w_k[:, own], source @ w_v[:, own]
        every.append(full.weights(q, k))
        out = out + every[-1] @ v @ w_o[own]
    return out, np.stack(every, axis=1)


def cross_by_logarithm(x, source, w_q, w_k, w_v, w_o, heads):
    q, k, v = (
        np.stack(np.split(tokens @ w, heads, axis=-1), axis=1)
        for tokens, w in ((x, w_q), (source, w_k), (source, w_v))
    )
    scores = q @ k.swapaxes(-1, -2) / x.dtype.type(math.sqrt(q.shape[-1]))
    weights = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
    return np.concatenate(np.moveaxis(weights @ v, 1, 0), axis=-1) @ w_o, weights


def cross_by_einsum(x, source, w_q, w_k, w_v, w_o, heads):
    d = x.shape[-1]
    w_q, w_k, w_v = (w.reshape(len(w), heads, d // heads) for w in (w_q, w_k, w_v))
    q, k, v = (
        np.einsum("btd,dhw->bthw", tokens, w)
        for tokens, w in ((x, w_q), (source, w_k), (source, w_v))
    )
    weights = softmax(np.einsum("bthw,bshw->bhts", q, k) / math.sqrt(d // heads))
    out = np.einsum("bhts,bshw->bthw", weights, v)
    return (out.reshape(x.shape) @ w_o).astype(x.dtype), weights.astype(x.dtype)


def modules(name, batch, n_queries, n_keys, width, e, heads, *, factor=1.0, dtype=np.float32):
    """Return a maker of a case of `heads` heads, `width` wide; `factor` makes scores larger."""
    d = heads * width

    def change(x, source, w_q, *matrices):
        return x, source, *(w / len(w) ** 0.5 for w in (factor * w_q, *matrices))

    shapes = (batch, n_queries, d), (batch, n_keys, e), (d, d), (e, d), (e, d), (d, d)
    return arrays(name, *shapes, rest=(heads,), dtype=dtype, change=change)


def random_module(rng):
    sizes = tuple(int(x) for x in rng.integers(2, (4, 9, 9, 5, 9, 5)))
    return modules(f"random, B, Tq, Tk, D, e, heads = {sizes}", *sizes)(rng)


QUERY_SPLIT, JOIN = "split(x @ w_q)", ".swapaxes(1, 2).reshape(x.shape)"
SPLIT = "projected.reshape(*projected.shape[:2], heads, -1).swapaxes(1, 2)"

Spec(
    kind="array",
    reference=cross_by_heads,
    exponents=lambda x, source, w_q, w_k, *_: (x @ w_q) @ (source @ w_k).swapaxes(-1, -2),
    cases=[
        modules("1 query, 1 key, 1 head", 1, 1, 1, 1, 1, 1),
        modules("1 head", 1, 2, 3, 5, 4, 1),
        modules("2 heads", 1, 2, 3, 5, 4, 2),
        modules("2 texts, 3 heads", 2, 3, 5, 2, 7, 3),
        modules("4 texts, 4 heads, 4 queries, 4 keys, D = 4, e = 16", 4, 4, 4, 4, 16, 4),
        modules("1 query, 9 keys", 2, 1, 9, 3, 4, 2),
        modules("9 queries, 1 key", 2, 9, 1, 3, 4, 2),
        modules("heads of width 1", 1, 3, 5, 1, 4, 6),
        modules("large scores", 1, 4, 5, 8, 6, 2, factor=300.0),
        modules("float64", 2, 4, 5, 3, 7, 2, dtype=np.float64),
        modules("float64, large scores", 2, 4, 5, 3, 7, 2, factor=900.0, dtype=np.float64),
        modules("the document's d = 128, 4 heads, 7 and 10 tokens", 1, 7, 10, 32, 128, 4),
        random_module,
    ],
    mistakes=[
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of the width of a head"),
        edit("q.shape[-1] **", "x.shape[-1] **",
             says="your scores are divided by √d, the width of all heads together",
             next="D is the width of one head, d / heads"),
        edit(SPLIT, "projected.reshape(len(projected), heads, projected.shape[1], -1)",
             JOIN, ".reshape(x.shape)",
             says="your heads are cut across the tokens: reshape alone splits rows, not columns",
             next="split the columns first, (B, T, heads, D), then swap axes 1 and 2"),
        edit(SPLIT, "projected.reshape(len(projected), heads, projected.shape[1], -1)",
             says="your heads are cut across the tokens, and joined along the columns",
             next="split the columns first, (B, T, heads, D), then swap axes 1 and 2"),
        edit(JOIN, ".reshape(x.shape)",
             says="your heads are joined without bringing the tokens to the front",
             next="swap axes 1 and 2 back before you reshape"),
        edit("heads, -1).swapaxes(1, 2)", "-1, heads).transpose(0, 3, 1, 2)",
             JOIN, ".transpose(0, 2, 3, 1).reshape(x.shape)",
             says="your heads take columns in turn: head 0 has columns 0, heads, 2·heads …",
             next="a head owns D columns side by side: reshape to (B, T, heads, D)"),
        edit("joined @ w_o", "joined",
             says="your output is not multiplied by w_o",
             next="w_o mixes the heads: joined @ w_o"),
        edit("@ w_o", "@ w_o.T",
             says="your w_o is transposed",
             next="joined @ w_o, with no transpose"),
        edit("split(source @ w_v)", "split(source @ w_k)",
             says="your values are the keys",
             next="values have a matrix of their own: source @ w_v"),
        edit("return joined @ w_o, weights", "return joined @ w_o, scores",
             says="your second result are the scores, before the softmax",
             next="return the weights: rows that sum to 1"),
        edit("return joined @ w_o, weights", "return joined @ w_o, weights.mean(axis=1)",
             says="your weights are averaged over the heads",
             next="return those of each head: (B, heads, Tq, Tk)"),
        edit("return joined @ w_o, weights",
             "return joined @ w_o, weights.swapaxes(-1, -2).copy()",
             says="your weights are transposed: (…, Tk, Tq)",
             next="queries are rows, keys columns"),
        edit("sum(axis=-1", "sum(axis=-2",
             says="your weights sum to 1 over the queries",
             next="each query shares out its weight among the keys: axis=-1"),
        edit("np.exp(scores - scores.max(axis=-1, keepdims=True))", "np.exp(scores)",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("scores = q @ k.swapaxes(-1, -2)", "scores = np.tril(q @ k.swapaxes(-1, -2))",
             "weights = np.exp(", "scores[..., ~np.tri(*scores.shape[-2:], dtype=bool)] = -np.inf\n"
             "    weights = np.exp(",
             says="your cross-attention is causal: keys of source are hidden",
             next="source is known as a whole: no mask"),
    ],
    alternatives=[cross_by_heads, cross_by_einsum, cross_by_logarithm],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# Weights of shape (1, 4, 7, 10) and an output of shape (1, 7, 128) (C149): right, 280 weights. The
# output is as long as x and the weights are Tq × Tk (C039), however long source is.
#
# </details>

# %% [markdown] role="prompt" exercise="02.V14"
# ## 02.V14 What a pair costs
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/02_attention.ipynb#Four-ways-to-score)
#
# A textbook finds the scaled dot product the most efficient at every length, and calls what
# additive scores take beyond it constant. A constant, or a factor? Count the FLOPs of all scores,
# before scale and softmax.

# %% [markdown] role="prompt" exercise="02.V14"
# Additive: two projections, d × hidden; for each pair and hidden number a sum, a tanh that costs as
# much as `tanh_flops` FLOPs, and a multiply-add with vector.
#
# Return a dict: `dot`, `additive`, and `limit`, what additive / dot tends to if both lengths grow
# without end.
#
# `score_costs(3, 5, 2, 4, 10)`: 60, 908, 13.0.


# %% role="answer" exercise="02.V14"
def score_costs(n_queries, n_keys, d, hidden, tanh_flops):
    """Return the FLOPs of both kinds of scores, and what their ratio tends to."""
    # BEGIN SOLUTION
    pairs = n_queries * n_keys
    projections = 2 * (n_queries + n_keys) * d * hidden
    per_pair = hidden * (1 + tanh_flops + 2)
    return {
        "dot": 2 * pairs * d,
        "additive": projections + pairs * per_pair,
        "limit": per_pair / (2 * d),
    }
    # END SOLUTION


# %% role="check" exercise="02.V14"
check("02.V14")

# %% [markdown] role="hints" exercise="02.V14"
# 1. What is done once for each token, and what once for each pair? Only one of the two matters in
#    the end.
# 2. A multiply-add is 2 FLOPs. A dot product takes 2·d for each pair; an additive score takes
#    hidden times (a sum + a tanh + 2).
# 3. additive = 2·(Tq + Tk)·d·hidden + Tq·Tk·hidden·(3 + tanh_flops); for long texts only the second
#    term counts, so limit = hidden·(3 + tanh_flops) / (2·d).


# %% role="spec" exercise="02.V14"
def costs_by_shapes(n_queries, n_keys, d, hidden, tanh_flops):
    products = [(n_queries, d, hidden), (n_keys, d, hidden), (n_queries, n_keys, hidden)]
    every = n_queries * n_keys * hidden
    additive_flops = sum(2 * math.prod(sizes) for sizes in products) + every + every * tanh_flops
    limit = hidden * tanh_flops / d / 2 + 1.5 * hidden / d
    return {"dot": 2 * n_queries * d * n_keys, "additive": additive_flops, "limit": limit}


def costs_of_one_more_key(n_queries, n_keys, d, hidden, tanh_flops):
    """Let each query pay for one key after the other."""
    pair = hidden + hidden * tanh_flops + 2 * hidden
    token = 2 * d * hidden
    query = token + n_keys * pair
    return {
        "dot": n_queries * (n_keys * 2 * d),
        "additive": n_queries * query + n_keys * token,
        "limit": pair / d / 2,
    }


PER_PAIR, PROJECTIONS = "hidden * (1 + tanh_flops + 2)", "2 * (n_queries + n_keys) * d * hidden"

Spec(
    kind="number",
    cases=[
        case("1 query, 1 key, all widths 1", 1, 1, 1, 1, 1),
        case("3 queries, 5 keys", 3, 5, 2, 7, 11),
        case("1 query, 50 keys", 1, 50, 3, 5, 7),
        case("50 queries, 1 key", 50, 1, 3, 5, 7),
        case("a tanh for nothing", 6, 7, 5, 3, 0),
        case("one hidden number", 6, 7, 5, 1, 20),
        case("d = 64, 16 hidden numbers, n = 64", 64, 64, 64, 16, 20),
        case("the same, n = 10⁶", 10**6, 10**6, 64, 16, 20),
        *draws(4, lambda rng: rng.integers(2, (3000, 3000, 200, 100, 40))),
    ],
    mistakes=[
        edit(f"projections = {PROJECTIONS}", "projections = 0",
             says="your additive scores leave out the projections",
             next="each query and each key is multiplied by a d × hidden matrix: 2·d·hidden"),
        edit(PROJECTIONS, "4 * n_queries * d * hidden",
             says="your projections take as many keys as queries",
             next="2·d·hidden for each of Tq queries and of Tk keys"),
        edit(PROJECTIONS, "2 * pairs * d * hidden",
             says="your projections are done again for each pair",
             next="project each query and each key once: Tq + Tk times, not Tq · Tk"),
        edit("2 * (n_queries", "(n_queries", "tanh_flops + 2", "tanh_flops + 1",
             "2 * pairs * d", "pairs * d", "(2 * d)", "d",
             says="your multiply-adds count as one FLOP",
             next="one multiply-add is 2 FLOPs"),
        edit("(1 + tanh_flops + 2)", "(tanh_flops + 2)",
             says="your pairs leave out the sum inside of tanh",
             next="for each hidden number: a sum, a tanh, a multiply-add"),
        edit("(1 + tanh_flops + 2)", "(1 + tanh_flops)",
             says="your pairs leave out the product with vector",
             next="for each hidden number: a sum, a tanh, a multiply-add of 2 FLOPs"),
        edit(PER_PAIR, "3 * hidden + tanh_flops",
             says="your pairs take one tanh each",
             next="each pair takes `hidden` of them"),
        edit("(1 + tanh_flops + 2)", "(1 + 2)",
             says="your tanh is free",
             next="each tanh costs tanh_flops"),
        edit("per_pair / (2 * d)", "(projections + pairs * per_pair) / (2 * pairs * d)",
             says="your limit is the ratio at the given lengths",
             next="let both lengths grow: what is done once a token no longer counts"),
        edit("per_pair / (2 * d)", "2 * d / per_pair",
             says="your limit is upside down",
             next="additive over dot"),
        edit("per_pair / (2 * d)", "0.0",
             says="your limit is 0, as if the pairs of the dot product grew faster",
             next="both grow with Tq · Tk: what is left is the ratio of what a pair costs"),
        edit("per_pair / (2 * d)", "1.0",
             says="your limit is 1, as if the difference were a constant",
             next="both grow with Tq · Tk: what is left is the ratio of what a pair costs"),
    ],
    alternatives=[costs_by_shapes, costs_of_one_more_key],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: a constant, or a factor?</summary>
#
# A factor (C482): each pair has its own `hidden` tanh. With d = 64, hidden = 16 and a tanh of 20
# FLOPs it tends to 2.875. With a tanh of one FLOP it tends to 0.5; yet a clock prefers the dot
# product (C481): products are what machines do fast.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/02_attention.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed. Plain `pytest --nbval exercises/02_attention.ipynb`
# gives the same verdicts.
