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
from attncourse.grading.stand_ins import tl, torch, triton  # for 04.5, 04.6

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from attncourse.cost import Cost
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import window as reference
from attncourse.softmax import softmax

N, W, D = 4096, 24, 64  # the call whose memory is graded
BAND_BYTES, ROWS_BYTES = N * (2 * W + 1) * 4, N * D * 4  # n·(2w + 1) numbers; an array like q


def dense(q, k, v, visible):
    """Attend under a mask the expensive way, in float32 at least."""
    scores = q.astype(np.result_type(q, np.float32)) @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return (softmax(scores, visible) @ v).astype(q.dtype)


def dense_window(q, k, v, window):
    return dense(q, k, v, reference.mask(q.shape[-2], k.shape[-2], window=window))


# %% [markdown] role="prompt" exercise="04.1"
# ## 04.1 Window mask
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/04_window.ipynb#Three-pictures-of-one-thing)
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

# %% [markdown] role="hints" exercise="04.1"
# 1. Compare two positions. Where does query i sit if the last query stands at the last key?
# 2. Make a column of query positions and a row of key positions; broadcasting gives every
#    difference at once.
# 3. offset = np.arange(n_keys) - (np.arange(n_queries)[:, None] + n_keys - n_queries). Keep
#    |offset| <= window, and if causal also offset <= 0.


# %% role="spec" exercise="04.1"
def mask_by_rows(n_queries, n_keys, window, causal):
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for i in range(n_queries):
        position = i + n_keys - n_queries
        last = position if causal else position + window
        mask[i, max(0, position - window) : max(0, last + 1)] = True
    return mask


def mask_by_diagonals(n_queries, n_keys, window, causal):
    ahead = n_keys - n_queries
    upper = np.tri(n_queries, n_keys, ahead + (0 if causal else window), dtype=bool)
    return upper & ~np.tri(n_queries, n_keys, ahead - window - 1, dtype=bool)


Spec(
    kind="mask",
    cases=[
        case("1 token, window 0", 1, 1, 0, False),
        case("1 token, window 3, causal", 1, 1, 3, True),
        case("window 0", 4, 4, 0, False),
        case("window 1", 4, 4, 1, False),
        case("window 1, causal", 4, 4, 1, True),
        case("window larger than n", 4, 4, 9, False),
        case("1 query, 5 keys", 1, 5, 2, False),
        case("fewer queries than keys", 3, 7, 2, False),
        case("fewer queries than keys, causal", 3, 7, 2, True),
        case("more queries than keys: empty rows", 7, 3, 1, False),
        case("more queries than keys, causal", 7, 3, 1, True),
        case("60 queries, 20 keys", 60, 20, 1, False),
        case("20 queries, 60 keys", 20, 60, 3, False),
        case("60 queries, 20 keys, causal", 60, 20, 3, True),
        *draws(6, lambda rng: (*rng.integers(1, (40, 40, 15)), bool(rng.integers(2)))),
    ],
    mistakes=[
        edit("window)", "window // 2)", "-window", "-(window // 2)",
             says="your window is the total: window // 2 keys on each side",
             next="here window is a radius: that many keys on each side"),
        edit(">= -window", "> -window",
             "<= (0 if causal else window)", "< (1 if causal else window)",
             says="your mask leaves out the keys at distance exactly window",
             next="use <= for the distance, not <"),
        edit(" + n_keys - n_queries", "",
             says="your mask puts query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("(0 if causal else window)", "window",
             says="your mask shows future keys although causal is True",
             next="if causal, also ask for key position <= query position"),
        edit("-window", "(0 if causal else -window)", "(0 if causal else window)", "window",
             says="your causal mask keeps the future and hides the past",
             next="turn the comparison of the two positions round"),
        edit("0 if causal", "-1 if causal",
             says="your causal mask hides each query's own key",
             next="use <= against the query's own position, not <"),
        edit("return ", "return ~(", "window))", "window)))",
             says="your mask is inverted: True where nothing may be seen",
             next="True means: may attend"),
        Mistake(lambda *args: mask_by_rows(*args).T,
                says="your mask is transposed: rows are keys, columns are queries",
                next="put queries in rows: shape (n_queries, n_keys)"),
    ],
    alternatives=[mask_by_rows, mask_by_diagonals],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.2"
# ## 04.2 Count the connections
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/04_window.ipynb#The-edges)
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

# %% [markdown] role="hints" exercise="04.2"
# 1. A row in the middle is easy. How many keys does row 0 miss, row 1, row 2 …?
# 2. Without edges there are n(2w + 1) pairs. Each edge cuts off a triangle of 1 + 2 + … + w pairs;
#    causal attention has only one such edge, and only w + 1 keys a row.
# 3. With w = min(window, n - 1): n(2w + 1) - w(w + 1), or n(w + 1) - w(w + 1)/2 if causal; divide
#    with //.


# %% role="spec" exercise="04.2"
def count_by_outside(n, window, causal):
    outside = max(0, n - window - 1)  # rows of the triangle beyond the window
    triangle = outside * (outside + 1) // 2
    return n * (n + 1) // 2 - triangle if causal else n * n - 2 * triangle


def count_by_distance(n, window, causal):
    window = min(window, n - 1)
    one_side = window * n - window * (window + 1) // 2  # n - d pairs lie d apart
    return n + one_side * (1 if causal else 2)


Spec(
    kind="number",
    reference=lambda n, window, causal: reference.count(n, n, window=window, causal=causal),
    cases=[
        case("1 token", 1, 0, False),
        case("1 token, window 5, causal", 1, 5, True),
        case("2 tokens, window 1", 2, 1, False),
        case("2 tokens, window 1, causal", 2, 1, True),
        case("window 0", 5, 0, False),
        case("window 2", 5, 2, False),
        case("window 2, causal", 5, 2, True),
        case("window n - 1", 6, 5, False),
        case("window n", 6, 6, False),
        case("window larger than n, causal", 6, 100, True),
        case("n = 1024, window 256", 1024, 256, False),
        case("n = 10¹², window 512", 10**12, 512, False),
        case("n = 10¹², window 10¹¹, causal", 10**12, 10**11, True),
        case("n = 10¹², window 10¹³", 10**12, 10**13, False),
        *draws(2, lambda rng: (*rng.integers(1, (20, 10)), False)),
        *draws(2, lambda rng: (*rng.integers(1, (200, 100)), True)),
        *draws(2, lambda rng: (*rng.integers(1, (10**12, 10**11)), bool(rng.integers(2)))),
    ],
    mistakes=[
        edit("- corner", "", "- 2 * corner", "", "min(window, n - 1)", "window",
             says="your count gives every row the keys of a middle row",
             next="rows near an edge see fewer keys: subtract a triangle for each edge"),
        Mistake(lambda n, window, causal: n * window,
                says="your count is n·window, the textbook shorthand",
                next="count both sides and the query's own key, then the edges"),
        edit("min(window, n - 1)", "window",
             says="your formula is right only as long as window < n",
             next="a window beyond n - 1 adds no keys: use min(window, n - 1)"),
        edit("2 * corner", "corner",
             says="your count subtracts the edge at the start only",
             next="without causal, the last rows miss keys as well"),
        edit("n * (window + 1) - corner if", "(n * (2 * window + 1) - 2 * corner) // 2 if",
             says="your causal count is half of the other one: the diagonal is halved too",
             next="each query's own key belongs to the causal half in full"),
        edit("n * (window + 1) - corner if causal else ", "",
             says="your causal count has the keys after each query as well",
             next="if causal, a query has window keys before it and its own: window + 1"),
        edit("window + 1) -", "window) -",
             says="your count is n too small: each query's own key is missing",
             next="a radius of w means 2w + 1 keys, the query's own included"),
        edit("min(window,", "min(window // 2,",
             says="your window is the total: window // 2 keys on each side",
             next="here window is a radius"),
        edit("// 2  #", "/ 2  #",
             says="your count is a float: above 2⁵³ it is no longer exact",
             next="stay with Python integers: // instead of /"),
    ],
    alternatives=[count_by_outside, count_by_distance],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.3"
# ## 04.3 Window attention in the memory of a band
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/04_window.ipynb#Blocks-save)
#
# softmax(q kᵀ / √D) v over the window, for q and k `(..., n, D)` and v `(..., n, Dv)`; the axes
# before n are free. Result `(..., n, Dv)`, dtype of q. With window 0 it is v.

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

# %% [markdown] role="hints" exercise="04.3"
# 1. Which keys does a block of neighbouring queries need? All others can stay untouched.
# 2. Loop over blocks of queries. Queries start … stop need only the keys start - window … stop +
#    window: slice those, mask inside the small tile, apply softmax, multiply by v.
# 3. near = slice(max(0, start - window), min(n, stop + window)); scores of q[..., start:stop, :]
#    with k[..., near, :]; set |i - j| > window to -inf before the softmax.


# %% role="spec" exercise="04.3"
def attention_by_rows(q, k, v, window):
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for i in range(q.shape[-2]):
        near = slice(max(0, i - window), i + window + 1)
        scores = (k[..., near, :] @ q[..., i, :, None])[..., 0] / math.sqrt(q.shape[-1])
        out[..., i, :] = (softmax(scores)[..., None, :] @ v[..., near, :])[..., 0, :]
    return out


def attention_by_diagonals(q, k, v, window):
    """Hold the band (..., n, 2w+1) and fill it one diagonal at a time."""
    n, work = q.shape[-2], np.result_type(q.dtype, np.float32)
    window = min(window, n - 1)
    stretches = [
        (
            side + window,
            slice(max(0, -side), n - max(0, side)),
            slice(max(0, side), n + min(0, side)),
        )
        for side in range(-window, window + 1)
    ]  # (column of the band, rows that have such a key, their keys)
    band = np.full((*q.shape[:-1], 2 * window + 1), -np.inf, work)
    for column, rows, keys in stretches:
        band[..., rows, column] = (q[..., rows, :] * k[..., keys, :]).sum(-1, dtype=work)
    weights = softmax(band / math.sqrt(q.shape[-1]))
    out = np.zeros(q.shape[:-1] + v.shape[-1:], work)
    for column, rows, keys in stretches:
        out[..., rows, :] += weights[..., rows, column, None] * v[..., keys, :]
    return out.astype(q.dtype)


def attention_by_views(q, k, v, window):
    """Pad K and V, look at them through sliding windows: views, so that nothing is copied."""
    n, work = q.shape[-2], np.result_type(q.dtype, np.float32)
    window = min(window, n - 1)
    edges = [(0, 0)] * (q.ndim - 2) + [(window, window), (0, 0)]
    k_near, v_near = (
        sliding_window_view(np.pad(x.astype(work), edges), 2 * window + 1, axis=-2) for x in (k, v)
    )  # (..., n, D, 2w+1)
    scores = np.matmul(q[..., None, :].astype(work), k_near)[..., 0, :] / math.sqrt(q.shape[-1])
    weights = softmax(scores, near_keys(n, window)[1])
    return np.matmul(v_near, weights[..., None])[..., 0].astype(q.dtype)


def near_keys(n, window):
    """Return the keys of each query, (n, 2w+1), and which of them exist."""
    key = np.arange(n)[:, None] + np.arange(-window, window + 1)
    return key.clip(0, n - 1), (key >= 0) & (key < n)


def gathered(both):
    """Copy the 2w+1 keys of every query, n·(2w+1)·D numbers, and the values then or with them."""

    def attention(q, k, v, window):
        key, inside = near_keys(q.shape[-2], window)
        k_near, v_near = k[..., key, :], v[..., key, :] if both else None
        scores = np.einsum("...nd,...nwd->...nw", q, k_near) / math.sqrt(q.shape[-1])
        if not both:
            del k_near
            v_near = v[..., key, :]
        weights = softmax(scores.astype(np.float64), inside)
        return np.einsum("...nw,...nwd->...nd", weights, v_near).astype(q.dtype)

    return attention


def attention_with_padding(q, k, v, window):
    n, edges = q.shape[-2], [(0, 0)] * (q.ndim - 2) + [(window, window), (0, 0)]
    offset = np.arange(n + 2 * window) - np.arange(n)[:, None]
    return dense(q, np.pad(k, edges), np.pad(v, edges), (offset >= 0) & (offset <= 2 * window))


def random_attention(lead):
    def make(rng):
        n, window = (int(x) for x in rng.integers((80, 1), (200, 40)))
        return qkv(f"random, {lead or 1} heads, n = {n}, window {window}", (*lead, n, 32), window)(
            rng
        )

    return make


Spec(
    kind="array",
    reference=lambda q, k, v, window: reference.attention(q, k, v, window=window),
    cases=[
        qkv("1 token, window 0", (1, 4), 0),
        qkv("1 token, window 3", (1, 4), 3),
        qkv("window 0", (5, 4), 0),
        qkv("window 1", (5, 4), 1),
        qkv("window 2", (7, 4), 2),
        qkv("window larger than n", (5, 4), 9),
        qkv("values narrower than keys", (6, 8), 2, value_width=3),
        qkv("2 heads", (2, 6, 4), 1),
        qkv("batch of 2, 3 heads", (2, 3, 7, 4), 2),
        qkv("float64", (9, 8), 2, dtype=np.float64),
        qkv("float64, a long query", (9, 8), 2, dtype=np.float64, longer=1000),
        qkv("float16", (9, 8), 2, dtype=np.float16),
        qkv("large scores, float64", (6, 64), 2, dtype=np.float64, shift=80.0),
        qkv("one query 200 times longer than the others", (40, 16), 9, longer=200),
        qkv("63 tokens, window 100", (63, 16), 100),
        random_attention(()),
        random_attention((2,)),
    ],
    memory=Memory(
        qkv(f"n = {N}, window {W}", (N, D), W),
        6 * BAND_BYTES + 4 * ROWS_BYTES,
        "six bands of n·(2w + 1) float32 numbers and four arrays as large as q",
    ),
    mistakes=[
        Mistake(dense_window,
                says="your numbers are right, but all n × n scores are computed and most are "
                "thrown away",
                next="work on blocks of queries and slice the few keys that they can see"),
        Mistake(gathered(both=False),
                says="your numbers are right, but k[…] with an index copies 2w + 1 keys of width D "
                "for "
                "every query: n·w·D numbers, not n·w",
                next="let neighbouring queries share one slice of k, or use a view such as "
                "sliding_window_view"),
        Mistake(gathered(both=True),
                says="your numbers are right, but k[…] and v[…] with an index copy 2w + 1 rows of "
                "width D for every query: twice n·w·D numbers, not n·w",
                next="let neighbouring queries share one slice of k and of v"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit(" ** 0.5", "",
             says="your output is what you get with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
        edit("window", "(window // 2)",
             says="your window is the total: window // 2 keys on each side",
             next="here window is a radius: 2·window + 1 keys"),
        edit("<= window", "< window",
             also=[edit("<= window", "<= max(0, window - 1)")],  # sees itself even at window 0
             says="your window leaves out the keys at distance exactly window",
             next="the distance may be window itself: <=, and a slice ends at i + window + 1"),
        edit("scores, -np.inf)", "scores, 0)",
             says="your hidden scores are 0, and exp(0) = 1 is a weight",
             next="set the scores outside of the window to -inf before the softmax"),
        edit("np.abs(distance) <= window", "(distance >= 0) & (distance <= window)",
             says="your queries see nothing after themselves: that is causal attention",
             next="the window reaches to both sides"),
        edit("64\n", "window + 1\n",
             "slice(max(0, start - window), min(n, rows.stop + window))", "rows",
             says="your queries see only keys of their own block",
             next="let the slice of keys reach window beyond both ends of the block of queries"),
        Mistake(attention_with_padding,
                says="your rows near the edges also attend to the zeros of the padding",
                next="a padded key has score 0, not -inf: mask it before the softmax"),
        edit("slice(max(0, start - window), min(n, rows.stop + window))", "slice(0, n)",
             "scores = np.where(np.abs(distance) <= window, scores, -np.inf)", "pass",
             "= weights @", "= np.where(np.abs(distance) <= window, weights, 0) @",
             says="your weights come from a softmax over all keys, cut off afterwards",
             next="mask first, then softmax: each row of weights must sum to 1 inside the window"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[attention_by_rows, attention_by_diagonals, attention_by_views],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.4"
# ## 04.4 Layers to reach a token
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/04_window.ipynb#Dilation:-the-same-price,-a-wider-view)
#
# How many layers until a token `distance` positions away can matter? The layers take `dilations`
# in turn, over and over; dilation d reaches window·d positions, no gaps. `distance` may be 10¹².
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

# %% [markdown] role="hints" exercise="04.4"
# 1. How far back can one layer look? How far can two, the second standing on the first?
# 2. Reaches add up: after some layers the reach is window times the sum of their dilations. One
#    whole cycle of dilations adds window · sum(dilations).
# 3. cycles, left = divmod(distance, window * sum(dilations)); then walk through dilations,
#    subtracting window * dilation, while left > 0.

# %% role="spec" exercise="04.4"
from bisect import bisect_left
from itertools import accumulate


def layers_by_bisection(distance, window, dilations):
    ends = [window * reach for reach in accumulate(dilations, initial=0)]
    cycles, left = divmod(distance, ends[-1])
    return cycles * len(dilations) + bisect_left(ends, left)


def layers_by_search(distance, window, dilations):
    def reach(layers):
        cycles, rest = divmod(layers, len(dilations))
        return window * (cycles * sum(dilations) + sum(dilations[:rest]))

    low, high = 0, distance  # each layer reaches at least one further
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle) >= distance else (middle + 1, high)
    return low


def layers_by_product(distance, window, dilations):
    reach, layers = 1, 0
    while reach <= distance:
        reach *= max(2, window * dilations[layers % len(dilations)])
        layers += 1
    return layers


Spec(
    kind="number",
    cases=[
        case("distance 0", 0, 1, (1,)),
        case("next token", 1, 1, (1,)),
        case("exactly one window", 4, 4, (1,)),
        case("one beyond the window", 5, 4, (1,)),
        case("no dilation, exact multiple", 12, 4, (1,)),
        case("dilations 1, 2", 6, 2, (1, 2)),
        case("dilations 1, 2, one beyond", 7, 2, (1, 2)),
        case("second cycle", 50, 2, (1, 2, 4)),
        case("repeated dilation", 10, 2, (1, 1, 2)),
        case("n = 2048, window 64", 2047, 64, (1,)),
        case("distance 10¹²", 10**12, 256, (1, 2, 4, 8)),
        *draws(3, lambda rng: (*rng.integers((0, 1), (30, 60)), (1, 2, 4, 8))),
        *draws(3, lambda rng: (*rng.integers((0, 1), (3000, 60)), (1, 3, 9))),
        *draws(3, lambda rng: (*rng.integers((0, 1), (10**12, 60)), (1, 2, 4, 8))),
    ],
    mistakes=[
        Mistake(lambda distance, window, dilations: -(-distance // window),
                says="your layers all reach `window` tokens: the dilations are not used",
                next="a layer with dilation d reaches window · d tokens"),
        Mistake(lambda distance, window, dilations: -(-distance // (window * max(dilations))),
                says="your layers all use the largest dilation",
                next="take the dilations in turn, layer by layer"),
        edit("window", "(2 * window)",
             says="your layers reach 2·window: both sides are added up",
             next="towards one token only one side helps: window per layer"),
        edit("window", "(2 * window + 1)",
             says="your layers reach 2·window + 1, the number of keys",
             next="count how far the farthest key lies, not how many keys there are"),
        edit("divmod(distance,", "divmod(distance + 1,",
             says="your count needs one layer more where the distance is met exactly",
             next="a key at distance exactly the reach is reached: >= is enough"),
        edit("divmod(distance, window * sum(dilations))", "(0, distance)",
             says="your layers stop at the end of dilations",
             next="after the last dilation the first one comes again"),
        Mistake(layers_by_product,
                says="your reaches multiply from layer to layer",
                next="layers stand on each other: their reaches add"),
        edit("sum(dilations)", "(sum(dilations) + len(dilations))",
             "window * dilation", "window * (dilation + 1)",
             says="your dilation counts the skipped keys: dilation 1 already skips one",
             next="dilation 1 is the plain window: neighbouring keys lie `dilation` apart"),
    ],
    alternatives=[layers_by_bisection, layers_by_search],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.5"
# ## 04.5 A kernel of your own: row sums
#
# *15 minutes · difficulty 1 of 3 · 3 points*
# · [section](../notebooks/04_window.ipynb#A-kernel-in-twenty-lines)
#
# Write the body of a kernel that stores the sum of each row of x, contiguous float32
# `(n_rows, n_cols)`, in out, `(n_rows,)`. A program takes `BLOCK_ROWS` rows and all columns;
# `BLOCK_COLS` is `n_cols`, rounded up to a power of two.

# %% [markdown] role="prompt" exercise="04.5"
# You need `tl.program_id(0)`, `tl.arange(0, BLOCK_ROWS)`, `tl.load(pointers, mask=…, other=…)`,
# `tl.sum(x, 1)`, the sum along the rows of a tile, and `tl.store(pointers, values, mask=…)`.
#
# **Traffic limit**: each number is loaded once and each sum stored once, nothing else.


# %% role="answer" exercise="04.5"
@triton.jit
def row_sums_kernel(
    x_ptr, out_ptr, n_rows, n_cols, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    # BEGIN SOLUTION
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_COLS)
    offsets = rows[:, None] * n_cols + cols[None, :]  # [BLOCK_ROWS, BLOCK_COLS]
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    tl.store(out_ptr + rows, tl.sum(x, 1), mask=rows < n_rows)
    # END SOLUTION


def row_sums(x):
    """Return the sum of each row, (n_rows,)."""
    BLOCK_ROWS = 4
    n_rows, n_cols = x.shape
    out = x.new_full((n_rows,), float("nan"))  # what no program stores stays NaN
    row_sums_kernel[(triton.cdiv(n_rows, BLOCK_ROWS),)](
        x, out, n_rows, n_cols, BLOCK_ROWS, triton.next_power_of_2(n_cols)
    )
    return out


# %% role="check" exercise="04.5"
check("04.5")

# %% [markdown] role="hints" exercise="04.5"
# 1. The kernel of the chapter has all the parts. Which rows are those of program 3 if BLOCK_ROWS is
#    4? Which columns does it take?
# 2. rows from program_id and arange; cols from arange alone; an offset is row times n_cols plus
#    column. A row or a column beyond the end must be masked, and count as 0 in the sum.
# 3. inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]; load with mask=inside, other=0.0;
#    tl.store(out_ptr + rows, tl.sum(x, 1), mask=rows < n_rows).


# %% role="spec" exercise="04.5"
def matrix(name, n_rows, n_cols):
    """Return a maker of a case: one matrix of standard normal numbers."""

    def make(generator):
        return case(name, generator.standard_normal((n_rows, n_cols)).astype(np.float32))

    return make


def random_matrix(rng):
    n_rows, n_cols = (int(x) for x in rng.integers(2, (40, 70)))
    return matrix(f"random, {n_rows} × {n_cols}", n_rows, n_cols)(rng)


OFFSETS = "rows[:, None] * n_cols + cols[None, :]"
INSIDE = "(rows < n_rows)[:, None] & (cols < n_cols)[None, :]"

Spec(
    kind="kernel",
    reference=lambda x: x.sum(axis=1),
    cases=[
        matrix("1 × 1", 1, 1),
        matrix("one whole tile, 4 × 8", 4, 8),
        matrix("two tiles, 8 × 16", 8, 16),
        matrix("a last tile of one row, 5 × 8", 5, 8),
        matrix("columns that are no power of two, 4 × 7", 4, 7),
        matrix("neither fits, 7 × 13", 7, 13),
        matrix("one column, 11 × 1", 11, 1),
        matrix("one long row, 1 × 1000", 1, 1000),
        matrix("63 × 100", 63, 100),
        random_matrix,
    ],
    traffic=lambda case: Cost(0, case.args[0].nbytes, 4 * len(case.args[0]), 0),
    timed=matrix("65536 × 1000", 65536, 1000),
    seconds=20.0,
    mistakes=[
        edit("tl.program_id(0) * BLOCK_ROWS + ", "",
             says="every program sums the first BLOCK_ROWS rows: yours does not ask who it is",
             next="add tl.program_id(0) * BLOCK_ROWS to the rows"),
        edit("tl.program_id(0) * BLOCK_ROWS", "tl.program_id(0)",
             says="your programs overlap: each begins one row after the one before it",
             next="program p begins at row p * BLOCK_ROWS"),
        edit(OFFSETS, "rows[:, None] * BLOCK_COLS + cols[None, :]",
             says="your rows lie BLOCK_COLS apart, but in memory they lie n_cols apart",
             next="the next row begins n_cols numbers later, however wide the tile is"),
        edit(OFFSETS, "cols[None, :] * n_rows + rows[:, None]",
             says="your offsets are those of the transposed matrix",
             next="rows lie one after the other: row * n_cols + column"),
        edit(INSIDE, "(rows < n_rows)[:, None]",
             says="your mask lets columns beyond the end through: they are the next row's numbers",
             next="mask the columns too: & (cols < n_cols)[None, :]"),
        edit(INSIDE, "(cols < n_cols)[None, :]",
             says="your mask lets rows beyond the end through: the last program reads past x",
             next="mask the rows too: (rows < n_rows)[:, None] &"),
        edit(", mask=rows < n_rows", "",
             says="your store has no mask: the last program writes past out",
             next="tl.store takes a mask as well: rows < n_rows"),
        edit("other=0.0", "other=1.0",
             says="what is masked away counts as 1 in your sums",
             next="load it as 0: other=0.0"),
        edit("tl.sum(x, 1)", "tl.max(x, 1)",
             says="your kernel stores the largest number of each row",
             next="sum along the rows of the tile: tl.sum(x, 1)"),
    ],
    alternatives=[
        edit("other=0.0)", "other=5.0)\n    x = tl.where(inside, x, 0.0)"),
        edit("tl.load(x_ptr + offsets, mask=inside, other=0.0)",
             "tl.load(x_ptr + rows[:, None] * n_cols + cols, mask=inside, other=0.0)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.6"
# ## 04.6 Tile bounds of a Triton kernel
#
# *20 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/04_window.ipynb#The-window-as-a-kernel)
#
# Which tiles of keys does a tile of queries need? Set `first_tile`, and `last_tile`, the first
# that is not needed; the rest of the kernel is given. q, k, v are contiguous `(n, D)` float32.

# %% [markdown] role="prompt" exercise="04.6"
# **Traffic limit**: K and V tiles with at least one visible key, each loaded once. Masking a tile
# is right, but its bytes have travelled.
#
# Example: BLOCK = 16, n = 80, window = 16; query tile 2 (rows 32 … 47) sees the keys 16 … 63, so
# its tiles are `range(1, 4)`.


# %% role="answer" exercise="04.6"
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


# %% role="check" exercise="04.6"
check("04.6")

# %% [markdown] role="hints" exercise="04.6"
# 1. Draw the mask as tiles. For query tile 3, which key tiles contain a visible pair?
# 2. The tile's first query sees back to key tile·BLOCK - window, its last query on to
#    (tile + 1)·BLOCK - 1 + window. Clip both to 0 … n - 1, then turn keys into tiles.
# 3. first_tile = tl.maximum(0, tile * BLOCK - window) // BLOCK; last_tile is the ceiling of
#    tl.minimum(n, (tile + 1) * BLOCK + window) / BLOCK: see tl.cdiv.

# %% role="spec" exercise="04.6"
BLOCK = 16  # rows of a tile in the given kernel
FIRST = "tl.maximum(0, tile * BLOCK - window) // BLOCK"
LAST = "tl.cdiv(tl.minimum(n, (tile + 1) * BLOCK + window), BLOCK)"


def tile_range(tile, n, window):
    """Return the first key tile that a query tile needs, and the one after the last."""
    first_key, past_key = max(0, tile * BLOCK - window), min(n, (tile + 1) * BLOCK + window)
    return first_key // BLOCK, -(-past_key // BLOCK)


def kernel_traffic(case):
    """Return the most that the kernel may load and store: each needed tile of K and V once."""
    q, window = case.args[0], case.args[3]
    (n, width), keys = q.shape, 0
    for tile in range(-(-n // BLOCK)):
        first, past = tile_range(tile, n, window)
        keys += min(n, past * BLOCK) - first * BLOCK
    return Cost(4 * BLOCK * keys * width, q.nbytes + 2 * keys * width * 4, q.nbytes, q.nbytes)


def random_tiles(rng):
    n, window = (int(x) for x in rng.integers((60, 1), (120, 30)))
    return qkv(f"random, n = {n}, window {window}", (n, 16), window)(rng)


Spec(
    kind="kernel",
    reference=lambda q, k, v, window: reference.attention(q, k, v, window=window),
    cases=[
        qkv("1 token", (1, 16), 0),
        qkv("one tile, window 0", (16, 16), 0),
        qkv("two tiles, window 0", (32, 16), 0),
        qkv("two tiles, window 1", (32, 16), 1),
        qkv("odd length", (63, 16), 5),
        qkv("window of exactly one tile", (80, 16), 16),
        qkv("window one longer than a tile", (80, 16), 17),
        qkv("window larger than n", (40, 16), 100),
        qkv("D = 32", (50, 32), 8),
        random_tiles,
    ],
    traffic=kernel_traffic,
    timed=qkv("n = 65536, window 256", (65536, 64), 256),
    seconds=20.0,
    mistakes=[
        edit(FIRST, "0", LAST, "tl.cdiv(n, BLOCK)",
             says="your program loads every tile of K and V and masks most of them away",
             next="start the loop at the first tile that holds a visible key and stop after the "
             "last one"),
        edit(FIRST, f"tl.maximum(0, {FIRST} - 1)", LAST, LAST + " + 1",
             says="your program loads one more tile on each side than the window needs",
             next="round the first key down and the last key up to tiles, and add nothing for "
             "safety"),
        edit(FIRST, "0",
             says="your loop starts at tile 0: the tiles before the window are loaded and masked",
             next="compute first_tile from the tile's first query"),
        edit(LAST, "tl.cdiv(n, BLOCK)",
             says="your loop runs to the last tile: those after the window are loaded and masked",
             next="compute last_tile from the tile's last query"),
        edit(FIRST, "tile", LAST, "tile + 1",
             says="your program looks only at the keys of its own tile",
             next="the window reaches into neighbouring tiles on both sides"),
        edit(LAST, "tile + 1",
             says="your loop ends with the query's own tile: later keys are missing",
             next="the window reaches to the right as well"),
        edit(FIRST, "tl.maximum(0, tile - window // BLOCK)",
             LAST, "tl.minimum(tl.cdiv(n, BLOCK), tile + window // BLOCK + 1)",
             says="your program goes window // BLOCK tiles to each side: a part of a tile counts "
             "as none",
             next="round up: a tile with one visible key must be loaded"),
        edit(LAST, LAST + " - 1",
             says="your loop stops one tile early: range leaves out its end",
             next="last_tile is the first tile that is not needed"),
        edit(FIRST, "tile - tl.cdiv(window, BLOCK)",
             says="your first tile is negative for the first queries: the program reads before K",
             next="clip the first key at 0 before you divide"),
    ],
    alternatives=[
        edit(FIRST, "tl.maximum(0, tile - tl.cdiv(window, BLOCK))",
             LAST, "tl.minimum(tl.cdiv(n, BLOCK), tile + tl.cdiv(window, BLOCK) + 1)"),
        edit(LAST, "tl.minimum(n - 1, tile * BLOCK + BLOCK - 1 + window) // BLOCK + 1"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.7"
# ## 04.7 Find two bugs in a blocked window
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/04_window.ipynb#Blocks-save)
#
# One bug shows where Tq = Tk, the other only where they differ. Copy the code into the answer cell,
# repair it, keep the blocks: memory at n = 4096 is limited to four arrays like q, 4 MiB.

# %% role="prompt" exercise="04.7"
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


# %% role="answer" exercise="04.7"
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


# %% role="check" exercise="04.7"
check("04.7")

# %% [markdown] role="hints" exercise="04.7"
# 1. Both bugs are about which keys a block gets to see. Compare with the dense answer: which rows
#    differ when Tq = Tk = 40? And when Tq and Tk differ?
# 2. The mask is right. The slice of keys forgets that a slice leaves out its end, and that query i
#    sits at key position i + ahead.
# 3. first = max(0, start + ahead - window); last = max(0, min(n_keys, stop + ahead + window)) with
#    an outer max for whole blocks that lie before the first key.


# %% role="spec" exercise="04.7"
def repaired_without_clipping(q, k, v, window, block=32):
    """Pad the keys on both sides instead of clipping the slices."""
    n_queries, n_keys = len(q), len(k)
    before = max(0, n_queries - n_keys) + window
    edges = [(before, window + block), (0, 0)]
    k_wide, v_wide = np.pad(k, edges), np.pad(v, edges)
    out = np.zeros((n_queries, v.shape[-1]), q.dtype)
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        position = np.arange(start, stop)[:, None] + n_keys - n_queries
        near = np.arange(position[0, 0] - window, position[-1, 0] + window + 1)
        stretch = slice(near[0] + before, near[-1] + before + 1)
        visible = (np.abs(position - near) <= window) & (near >= 0) & (near < n_keys)
        scores = q[start:stop] @ k_wide[stretch].T / np.sqrt(q.shape[-1])
        out[start:stop] = softmax(scores, visible) @ v_wide[stretch]
    return out


def random_repair(rng):
    n_queries, n_keys, window = (int(x) for x in rng.integers(1, (150, 150, 40)))
    name = f"random, {n_queries} queries, {n_keys} keys, window {window}"
    return qkv(name, (n_queries, 8), window, keys=n_keys, value_width=5)(rng)


Spec(
    kind="array",
    reference=lambda q, k, v, window, block=32: reference.attention(q, k, v, window=window),
    cases=[
        qkv("1 query, 1 key", (1, 8), 0, value_width=5),
        qkv("1 query, 4 keys", (1, 8), 1, keys=4, value_width=5),
        qkv("4 queries, 1 key: empty rows", (4, 8), 1, keys=1, value_width=5),
        qkv("window 0", (6, 8), 0, value_width=5),
        qkv("one full block", (32, 8), 3, value_width=5),
        qkv("two blocks, Tq = Tk", (40, 8), 3, value_width=5),
        qkv("window larger than n", (40, 8), 50, value_width=5),
        qkv("fewer queries than keys", (20, 8), 4, keys=70, value_width=5),
        qkv("many queries: whole blocks see nothing", (100, 8), 4, keys=10, value_width=5),
        qkv("three times as many queries as keys, window 1", (60, 8), 1, keys=20, value_width=5),
        qkv("200 queries, 3 keys", (200, 8), 2, keys=3, value_width=5),
        qkv("3 queries, 200 keys", (3, 8), 2, keys=200, value_width=5),
        qkv("one query 100 times longer", (40, 8), 9, value_width=5, longer=100),
        qkv("float64", (70, 8), 9, value_width=5, dtype=np.float64),
        qkv("float64, a long query", (70, 8), 9, value_width=5, dtype=np.float64, longer=1000),
        random_repair,
        qkv("random, 130 queries, 100 keys, window 20", (130, 8), 20, keys=100, value_width=5),
    ],
    memory=Memory(
        qkv(f"n = {N}, window {W}", (N, D), W),
        4 * ROWS_BYTES,
        "four arrays as large as q: 4 · n · D · 4 bytes",
    ),
    mistakes=[
        edit("max(0, start + ahead - window)", "max(0, start - window)",
             "max(first, min(n_keys, stop + ahead + window))", "min(n_keys, stop - 1 + window)",
             says="both bugs are still there: your output is that of the given code",
             next="start with Tq = Tk = 40: which rows differ from dense attention, and which key "
             "is "
             "missing there?"),
        edit("start + ahead - window", "start - window", "stop + ahead + window", "stop + window",
             says="one bug is left: the slice of keys takes query i to sit at key i",
             next="where Tq and Tk differ, both ends of the slice move by ahead"),
        edit("stop + ahead + window", "stop + ahead - 1 + window",
             says="one bug is left: the last query of each block misses its farthest key",
             next="a slice leaves out its end: the last key of query stop - 1 is stop - 1 + "
             "window"),
        edit("max(first, min(n_keys, stop + ahead + window))", "min(n_keys, stop + ahead + window)",
             says="for blocks that lie before the first key your slice ends at a negative index, "
             "which "
             "counts from the end of k",
             next="keep the end of the slice at first or later"),
        edit("start + ahead - window", "start - ahead - window", "stop + ahead +", "stop - ahead +",
             says="your slice moves against the queries",
             next="query i sits at key position i + ahead, with ahead = n_keys - n_queries"),
        edit("<= window", ">= 0",
             says="each query of a block sees all keys that the block needs together",
             next="keep the mask inside the tile: only |position - key| <= window is visible"),
        edit("stop + ahead + window", "stop + ahead + window + 1", "<= window", "<= window + 1",
             says="your window reaches one key too far",
             next="the mask was right: change only the slice of keys"),
        Mistake(lambda q, k, v, window, block=32: dense_window(q, k, v, window),
                says="your numbers are right, but the blocks are gone: all Tq × Tk scores exist at "
                "once",
                next="repair the two lines that cut the keys, and keep the loop"),
    ],
    alternatives=[
        repaired_without_clipping,
        edit("last = max(first, min(n_keys, stop + ahead + window))",
             "last = min(n_keys, stop + ahead + window)\n"
             "        if last <= first:\n            continue"),
    ],
    variants=[edit("n_keys = q.shape, len(k)", "n_keys, block = q.shape, len(k), 16")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="04.V1"
# ## 04.V1 What a window saves, and a mask does not
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/04_window.ipynb#A-mask-saves-nothing)
#
# A textbook multiplies all of q and k, masks, and prints a fourfold saving. Its w is a
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

# %% [markdown] role="hints" exercise="04.V1"
# 1. All follows from two numbers: the pairs of the full matrix and those in the window.
# 2. A pair costs 2·d FLOPs for its score and 2·d for its value, and 4 bytes for its score. A dense
#    product with a mask afterwards computes every pair.
# 3. side = min(width // 2, n - 1); connections = n·(2·side + 1) - side·(side + 1); FLOPs are 4·d
#    times the pairs; masked_flops equals full_flops.


# %% role="spec" exercise="04.V1"
def savings_of(n, connections, d):
    return {
        "connections": connections,
        "density": connections / n**2,
        **{f"{name}_flops": 2 * (2 * n * n * d) for name in ("full", "masked")},
        "window_flops": 2 * (2 * connections * d),
        "full_bytes": n * n * 4,
        "window_bytes": connections * 4,
    }


def savings_by_mask(n, width, d):
    offset = np.abs(np.arange(n) - np.arange(n)[:, None])
    return savings_of(n, int((offset <= width // 2).sum()), d)


def savings_by_rows(n, width, d):
    side = width // 2
    return savings_of(n, sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n)), d)


Spec(
    kind="number",
    cases=[
        case("1 token", 1, 2, 1),
        case("8 tokens, width 4", 8, 4, 2),
        case("odd width 5", 8, 5, 2),
        case("width larger than 2n", 4, 20, 8),
        case("the document's n = 1024, w = 256, d = 64", 1024, 256, 64),
        *draws(4, lambda rng: rng.integers((2, 1, 1), (400, 200, 129))),
    ],
    mistakes=[
        edit('"masked_flops": 4 * n**2 * d', '"masked_flops": 4 * connections * d',
             says="your masked_flops are those of the window: the mask comes after the product",
             next="q @ k.T computes all n² scores before any mask is looked at"),
        edit("4 * n**2 * d", "2 * n**2 * d", "4 * connections * d", "2 * connections * d",
             says="your FLOPs are half: you counted multiply-adds, or only one of the two products",
             next="one multiply-add is 2 FLOPs, and both q @ k.T and weights @ v count: 4·d per "
             "pair"),
        edit("4 * n**2 * d", "n**2 * d", "4 * connections * d", "connections * d",
             says="your FLOPs are a quarter: multiply-adds of one product",
             next="one multiply-add is 2 FLOPs, and both q @ k.T and weights @ v count: 4·d per "
             "pair"),
        edit("min(width // 2,", "min(width,",
             says="your window has `width` keys on each side",
             next="in this exercise width is the total: width // 2 on each side, and the own key"),
        edit("min(width // 2, n - 1)", "width // 2", " - side * (side + 1)", "",
             says="your connections give every row the keys of a middle row",
             next="subtract the two triangles that the edges cut off"),
        edit("n * (2 * side + 1) - side * (side + 1)", "n * width",
             says="your connections are n·w, the document's shorthand",
             next="count the True entries of the mask: own key and edges included"),
        edit("4 * n**2,", "2 * n**2,", "4 * connections,", "2 * connections,",
             says="your bytes are half: 2 bytes for a number",
             next="float32 takes 4 bytes"),
        edit("connections / n**2", "1 - connections / n**2",
             says="your density is the sparsity: the share of pairs that are left out",
             next="density is the share that is kept; sparsity is 1 - density"),
        edit("connections / n**2", "100 * connections / n**2",
             says="your density is in percent",
             next="return a share between 0 and 1"),
    ],
    alternatives=[savings_by_mask, savings_by_rows],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# For n = 1024, w = 256, d = 64: 33,554,432 "FLOPs" (C376), n·w·d multiply-adds for each product;
# its code makes 134,217,728 (268,435,456 FLOPs): all pairs. It prints 262,144 weights (C377) and
# "sparsity 25 %" (C381): edges see less, and the mask has 246,656 entries, a *density* of 23.5 %.
#
# </details>

# %% [markdown] role="prompt" exercise="04.V7"
# ## 04.V7 Speed-up in theory and in tiles
#
# *15 minutes · difficulty 3 of 3 · 2 points*
# · [section](../notebooks/04_window.ipynb#Prediction-beside-measurement)
#
# A textbook promises 8× for n = 1024, w = 128 (64 a side), d = 64, and 5–6× on a GPU. One
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

# %% [markdown] role="hints" exercise="04.V7"
# 1. Count pairs first. Then count whole tiles of tile × tile pairs with at least one visible pair:
#    a matrix product computes a tile wholly or not at all.
# 2. Tiles behave like tokens of a shorter sequence: n // tile of them, and a radius of width // 2
#    keys touches ceil(width / 2 / tile) neighbours on each side.
# 3. side = min(width // 2, n - 1) gives n(2·side + 1) - side(side + 1) pairs. Put n // tile and
#    -(-(width // 2) // tile) into the same formula for the tiles.


# %% role="spec" exercise="04.V7"
def speedups_of(n, d, local, tiled):
    return {
        "full_flops": 4 * n * n * d,
        "local_flops": 4 * local * d,
        "tiled_flops": 4 * tiled * d,
        "local_bytes": 4 * local,
        "speedup": n * n / local,
        "tiled_speedup": n * n / tiled,
    }


def speedup_by_mask(n, width, d, tile):
    mask = np.abs(np.arange(n) - np.arange(n)[:, None]) <= width // 2
    needed = mask.reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3))
    return speedups_of(n, d, int(mask.sum()), int(needed.sum()) * tile * tile)


def speedup_by_loop(n, width, d, tile):
    side, tiled = width // 2, 0
    for start in range(0, n, tile):
        first, last = max(0, start - side) // tile, min(n - 1, start + tile - 1 + side) // tile
        tiled += (last - first + 1) * tile * tile
    local = sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    return speedups_of(n, d, local, tiled)


def draw_tiles(rng):
    tiles, width, d = rng.integers((2, 2, 1), (20, 90, 129))
    tile = 2 ** rng.integers(5)
    return tiles * tile, width, d, tile


TILES = "band(n // tile, -(-(width // 2) // tile))"

Spec(
    kind="number",
    cases=[
        case("1 token", 1, 2, 1, 1),
        case("8 tokens, tiles of 2", 8, 4, 2, 2),
        case("tile of 1: nothing is rounded", 8, 4, 2, 1),
        case("one tile", 16, 4, 8, 16),
        case("half a window is no whole tile", 64, 24, 8, 8),
        case("width larger than 2n", 8, 40, 4, 2),
        case("the document's n = 1024, w = 128, d = 64", 1024, 128, 64, 64),
        *draws(4, draw_tiles),
    ],
    mistakes=[
        edit("4 * n**2 * d", "2 * n**2 * d", "4 * pairs * d", "2 * pairs * d",
             "4 * tiled_pairs * d", "2 * tiled_pairs * d",
             says="your FLOPs are half: you counted multiply-adds, or only one of the two products",
             next="one multiply-add is 2 FLOPs, and both products count: 4·d per pair"),
        edit("band(n, width // 2)", "n * width",
             says="your local pairs are n·w, the document's shorthand",
             next="count own key and edges: n(w + 1) - (w/2)(w/2 + 1) for an even w below n"),
        edit("width // 2", "width",
             says="your window has `width` keys on each side",
             next="in this exercise width is the total: width // 2 on each side, and the own key"),
        edit("side = min(side, length - 1)", "pass", " - side * (side + 1)", "",
             says="your counts give every row the keys of a middle row",
             next="the first and last rows, of tokens and of tiles, see fewer"),
        edit("-(-(width // 2) // tile)", "width // 2 // tile",
             says="your tiles leave out those that are only partly inside the window",
             next="round up: a tile with a single visible pair is computed"),
        edit(TILES, "-(-pairs // tile**2)",
             says="your tiles are the connections divided by tile²: as if the band were packed "
             "densely",
             next="count the tiles of the grid that the band touches"),
        edit("n**2 / pairs", "pairs / n**2", "n**2 / tiled_pairs", "tiled_pairs / n**2",
             says="your speed-ups are upside down",
             next="divide the full FLOPs by the local ones"),
        edit('"local_bytes": 4 *', '"local_bytes": 2 *',
             says="your bytes are half: 2 bytes for a number",
             next="float32 takes 4 bytes"),
    ],
    alternatives=[speedup_by_mask, speedup_by_loop],
)  # fmt: skip

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
