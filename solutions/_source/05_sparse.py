# %% [markdown]
# # 05 Exercises: sparse attention
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("05.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# They go with both parts of the chapter, [who hears from whom](../notebooks/05_sparse.ipynb) and
# [what a pattern costs](../notebooks/05_sparse_tiles.ipynb). *Global* tokens are the first
# `n_global` positions. `window` is a **radius**; V4 and V8 keep the textbooks' meaning, the total.

# %% [markdown]
# If Tq ≠ Tk, the last query stands at the last key: query i sits at key position i + Tk − Tq. A
# query that sees no key gets zeros.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 05.5

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse import graph
from attncourse.cost import Cost
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv, rewrite
from attncourse.reference import block_sparse, longformer, random_keys, strided
from attncourse.reference import window as local
from attncourse.softmax import softmax

N, D = 2048, 64  # the calls whose memory is graded
ROWS_BYTES = N * D * 4  # an array as large as q


def dense(q, k, v, visible):
    """Attend under a mask the expensive way, in float32 at least."""
    scores = q.astype(np.result_type(q, np.float32)) @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return (softmax(scores, visible) @ v).astype(q.dtype)


def tiles(*rows):
    """Return a layout: tiles("10", "11") is the lower triangle of two blocks."""
    return np.array([[digit == "1" for digit in row] for row in rows])


# %% [markdown] role="prompt" exercise="05.1"
# ## 05.1 Window, stride and hubs in one mask
#
# *12 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/05_sparse.ipynb#Two-patterns,-one-name)
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
    near, far = np.abs(key - own) <= window, (key - own) % stride == 0
    hubs = (key < n_global) | ((own >= 0) & (own < n_global))
    mask = near | far | hubs
    return mask & (key <= own) if causal else mask
    # END SOLUTION


# %% role="check" exercise="05.1"
check("05.1")

# %% [markdown] role="hints" exercise="05.1"
# 1. Write each of the patterns as a question about two positions, then join them. Which operator
#    joins sets?
# 2. With positions own (a column) and key (a row): near is |key - own| <= window, far is
#    (key - own) % stride == 0. A global token has a full column and a full row.
# 3. (near | far | (key < n_global) | ((own >= 0) & (own < n_global))) & (key <= own), the last only
#    if causal; own = np.arange(n_queries)[:, None] + n_keys - n_queries.


# %% role="spec" exercise="05.1"
def package_mask(n_queries, n_keys, window, stride, n_global, causal):
    near = longformer.mask(n_queries, n_keys, window=window, global_tokens=n_global, causal=causal)
    return near | strided.mask(n_queries, n_keys, stride=stride, causal=causal)


def mask_by_rows(n_queries, n_keys, window, stride, n_global, causal):
    mask = np.zeros((n_queries, n_keys), dtype=bool)
    for i in range(n_queries):
        own = i + n_keys - n_queries
        mask[i, own % stride :: stride] = True
        mask[i, max(0, own - window) : max(0, own + window + 1)] = True
        mask[i, : n_keys if 0 <= own < n_global else n_global] = True
        if causal:
            mask[i, max(0, own + 1) :] = False
    return mask


Spec(
    kind="mask",
    reference=package_mask,
    cases=[
        case("1 token", 1, 1, 0, 1, 0, False),
        case("window alone", 6, 6, 1, 9, 0, False),
        case("stride alone", 7, 7, 0, 3, 0, False),
        case("1 global token", 6, 6, 0, 9, 1, False),
        case("all three", 9, 9, 1, 4, 2, False),
        case("all three, causal", 9, 9, 1, 4, 2, True),
        case("fewer queries than keys", 3, 9, 1, 4, 1, False),
        case("fewer queries than keys, causal", 3, 9, 1, 4, 7, True),
        case("more queries than keys", 9, 4, 1, 3, 2, False),
        case("more queries than keys, causal: empty rows", 9, 4, 1, 3, 2, True),
        case("more global tokens than keys", 4, 4, 0, 3, 9, False),
        case("60 queries, 20 keys", 60, 20, 3, 7, 2, False),
        case("20 queries, 60 keys, causal", 20, 60, 3, 7, 2, True),
        case("3 queries, 200 keys", 3, 200, 5, 17, 199, False),
        case("200 queries, 3 keys, causal", 200, 3, 5, 17, 2, True),
        *draws(3, lambda rng: (*rng.integers((2, 2, 0, 2, 0), (40, 40, 6, 12, 5)), False)),
        *draws(3, lambda rng: (*rng.integers((2, 2, 0, 2, 0), (40, 40, 6, 12, 5)), True)),
    ],
    mistakes=[
        edit("near | far | hubs", "near & (far | hubs)",
             says="your mask asks for window and another pattern at once: an intersection",
             next="a pair may attend if any of the patterns allows it: use |"),
        edit(" | ((own >= 0) & (own < n_global))", "",
             says="your global tokens are seen by all, but do not see all themselves",
             next="give each global token its full row as well"),
        edit("(key < n_global) | ", "",
             says="your global tokens see all, but are not seen by all",
             next="give each global token its full column as well"),
        edit("(key - own) % stride", "key % stride",
             says="your stride selects the keys 0, stride, 2·stride …, the same for every query",
             next="count from the query: (key - own) % stride == 0"),
        edit("mask & (key <= own)", "(near & (key <= own)) | far | hubs",
             says="your causal mask cuts the window and leaves the other patterns",
             next="cut the future off after the union"),
        edit("mask & (key <= own)", "((near | far) & (key <= own)) | hubs",
             says="your global tokens look into the future, or are seen from the past, though "
             "causal",
             next="causal holds for global tokens too: cut after the union"),
        edit("mask & (key <= own) if causal else mask", "mask",
             says="your mask shows future keys although causal is True",
             next="if causal, also ask for key position <= query position"),
        edit(" + n_keys - n_queries", "",
             says="your mask puts query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("(own >= 0) & ", "",
             says="your queries before the first key count as global tokens",
             next="a global query sits at a position from 0 to n_global - 1"),
        edit("((own >= 0) & (own < n_global))", "(np.arange(n_queries)[:, None] < n_global)",
             says="your global rows are the first n_global queries, wherever they sit",
             next="a query is global by its position, i + n_keys - n_queries"),
        edit("<= window", "< window",
             says="your window leaves out the keys at distance exactly window",
             next="use <= for the distance, not <"),
    ],
    alternatives=[mask_by_rows, edit("(key - own) % stride == 0", "key % stride == own % stride")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.2"
# ## 05.2 Count a Longformer
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/05_sparse_tiles.ipynb#Rows,-columns,-and-what-is-left)
#
# How many True entries has the mask of a window and `n_global` global tokens, n × n, not causal?
# Edges and overlaps count. Both may exceed n; n is up to 10¹².
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

# %% [markdown] role="hints" exercise="05.2"
# 1. Split the mask into parts that do not overlap. Whose rows are simple?
# 2. A global row has n keys. A regular row has all g global keys, and of the other n - g tokens it
#    sees a plain window.
# 3. g·n + (n - g)·g + m(2w + 1) - w(w + 1) with g = min(n_global, n), m = n - g and
#    w = min(window, m - 1), at least 0.


# %% role="spec" exercise="05.2"
def count_by_what_is_missing(n, window, n_global):
    """Take the pairs that nobody has off the square: two triangles among regular tokens."""
    side = max(0, n - min(n_global, n) - window - 1)
    return n * n - side * (side + 1)


Spec(
    kind="number",
    cases=[
        case("1 token", 1, 0, 0),
        case("1 token, global", 1, 0, 1),
        case("window 0, no hub", 5, 0, 0),
        case("window 1, no hub", 5, 1, 0),
        case("window 0, 1 hub", 5, 0, 1),
        case("window 1, 2 hubs", 7, 1, 2),
        case("all tokens global", 6, 1, 6),
        case("more hubs than tokens", 6, 1, 9),
        case("window wider than the rest", 8, 5, 4),
        case("window wider than the text", 8, 50, 2),
        case("chapter E: n = 4096, window 512, 2 hubs", 4096, 512, 2),
        case("n = 10¹², window 512, 64 hubs", 10**12, 512, 64),
        case("n = 10¹², window 10¹¹, 10⁶ hubs", 10**12, 10**11, 10**6),
        *draws(2, lambda rng: rng.integers((3, 1, 1), (20, 20, 6))),
        *draws(2, lambda rng: rng.integers((3, 1, 1), (200, 200, 66))),
        *draws(2, lambda rng: rng.integers((3, 1, 1), (10**12, 10**12, 10**12 // 3))),
    ],
    mistakes=[
        edit("(2 * window + 1) - window * (window + 1)", "2 * window",
             "min(window, max(others - 1, 0))", "window",
             says="your count is the textbook's: no own key, no edges, no overlap",
             next="count the parts of the mask exactly; a small mask and .sum() shows where you "
             "differ"),
        edit("band = others", "band = n", "max(others - 1, 0)", "n - 1",
             says="your count adds the window of all n tokens to the rows and columns of the hubs: "
             "pairs near a hub count twice",
             next="take the window among the n - g regular tokens only"),
        edit("+ others * n_global", "+ n * n_global",
             says="your count has the g² pairs of hubs with hubs twice",
             next="rows and columns cross: 2·n·g - g²"),
        edit(" + others * n_global", "",
             says="your hubs have only their rows or only their columns",
             next="a global token sees all, and all see it"),
        edit(" - window * (window + 1)", "", "min(window, max(others - 1, 0))", "window",
             says="your count gives every regular row a whole window",
             next="at both ends of the regular tokens the window is cut: subtract w(w + 1)"),
        edit("(2 * window + 1)", "2 * window",
             says="your regular tokens do not see themselves",
             next="a radius of w means 2w + 1 keys, the query's own included"),
        edit("min(window,", "min(window // 2,",
             says="your window is the total: window // 2 keys on each side",
             next="here window is a radius"),
        edit("min(window, max(others - 1, 0))", "window",
             says="your formula is right only as long as the window is smaller than n - g",
             next="a window beyond the regular tokens adds no keys: use min(window, n - g - 1)"),
        edit("min(n_global, n)", "n_global",
             says="your formula is right only as long as there are no more hubs than tokens",
             next="use min(n_global, n)"),
        edit("n_global * n + others * n_global + band",
             "float(n_global * n + others * n_global + band)",
             says="your count is a float: above 2⁵³ it is no longer exact",
             next="stay with Python integers: // instead of /"),
    ],
    alternatives=[
        count_by_what_is_missing,
        edit("n_global * n + others * n_global", "2 * n * n_global - n_global**2"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.3"
# ## 05.3 Block-sparse attention, one row of blocks at a time
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/05_sparse_tiles.ipynb#Block-sparse-attention)
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

# %% [markdown] role="hints" exercise="05.3"
# 1. All queries of one block see the same keys. What is the smallest matrix that their scores need?
# 2. Loop over the rows of the layout. Turn the listed blocks into token numbers, take those rows of
#    k and v, and do plain attention. A row that lists nothing stays zero.
# 3. keys = (np.flatnonzero(layout[row])[:, None] * block + np.arange(block)).ravel(), cut to
#    keys < n; then softmax(q[..., rows, :] @ k[..., keys, :].T / √D) @ v[..., keys, :].


# %% role="spec" exercise="05.3"
def attention_by_tiles(q, k, v, layout, block, rescale=True, join=True):
    """Go tile by tile and join them by the online softmax; without `join`, average the tiles."""
    n, out = q.shape[-2], np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for row, listed in enumerate(layout):
        rows = slice(row * block, min((row + 1) * block, n))
        running_max, total, acc = -np.inf, 0.0, 0.0
        for column in np.flatnonzero(listed):
            keys = slice(column * block, min((column + 1) * block, n))
            scores = q[..., rows, :] @ k[..., keys, :].swapaxes(-1, -2) / math.sqrt(q.shape[-1])
            new_max = np.maximum(running_max, scores.max(axis=-1, keepdims=True))
            weights, fade = np.exp(scores - new_max), np.exp(running_max - new_max)
            part = weights.sum(axis=-1, keepdims=True)
            if join:
                fade = fade if rescale else 1
                acc, total = acc * fade + weights @ v[..., keys, :], total * fade + part
            else:
                acc, total = acc + weights / part @ v[..., keys, :], total + 1
            running_max = new_max
        if listed.any():
            out[..., rows, :] = acc / total
    return out


def attention_by_mask(q, k, v, layout, block):
    n = q.shape[-2]
    return dense(q, k, v, layout.repeat(block, 0).repeat(block, 1)[:n, :n])


def random_blocks(rng):
    count, block = (int(x) for x in rng.integers((3, 4), (9, 20)))
    n, layout = count * block - int(rng.integers(block)), rng.random((count, count)) < 0.4
    return *rng.standard_normal((3, n, 16), dtype=np.float32), layout, block


def metered(rng):
    q, k, v = rng.standard_normal((3, N, D), dtype=np.float32)
    layout = np.eye(N // 64, dtype=bool)
    for row in layout:
        row[rng.permutation(len(layout))[:4]] = True
    return case(f"n = {N}, blocks of 64, 4 or 5 a row", q, k, v, layout, 64)


Spec(
    kind="array",
    reference=lambda q, k, v, layout, block: block_sparse.attention(
        q, k, v, layout=layout, block=block
    ),
    cases=[
        qkv("1 token", (1, 7), tiles("1"), 1),
        qkv("1 token, nothing listed", (1, 7), tiles("0"), 1),
        qkv("2 blocks of 2, each its own", (4, 7), tiles("10", "01"), 2),
        qkv("2 blocks of 2, each the other", (4, 7), tiles("01", "10"), 2),
        qkv("all blocks", (6, 5), tiles("111", "111", "111"), 2),
        qkv("a row without blocks", (6, 5), tiles("110", "000", "101"), 2),
        qkv("lower triangle of blocks", (9, 5), tiles("100", "110", "111"), 3),
        qkv("the last block is cut", (7, 5), tiles("101", "110", "011"), 3),
        qkv("values narrower than keys", (8, 7), tiles("11", "01"), 4, value_width=3),
        qkv("batch of 2, 3 heads", (2, 3, 8, 5), tiles("10", "11"), 4),
        qkv("one query 200 times longer", (16, 8), tiles("11", "11"), 8, longer=200),
        qkv("float64", (12, 8), tiles("101", "110", "011"), 4, dtype=np.float64),
        qkv("float64, a long query", (12, 8), tiles("101", "110", "011"), 4, dtype=np.float64,
            longer=1000),
        *draws(2, random_blocks, "blocks"),
    ],
    # The result is one such array, a row of blocks with its keys is far below another. An n × n
    # array takes 4 MiB even of booleans, the keys and values of all rows at once some 5 MiB.
    memory=Memory(metered, 4 * ROWS_BYTES, "four arrays as large as q: 4 · n · D · 4 bytes"),
    mistakes=[
        Mistake(attention_by_mask,
                says="your numbers are right, but all n × n scores are computed and most are "
                "thrown away",
                next="take one row of blocks at a time, and of the keys only the listed blocks"),
        edit("k[..., keys, :]", "gathered[row][0]", "v[..., keys, :]", "gathered[row][1]",
             "    for row, listed", "    lists = [np.flatnonzero(listed[np.arange(n) // block]) "
             "for listed in layout]\n"
             "    gathered = [(k[..., keys, :], v[..., keys, :]) for keys in lists]\n"
             "    for row, listed",
             says="your numbers are right, but the keys of all rows of blocks are copied before "
             "the first is used",
             next="gather inside the loop, so that the next row reuses the memory"),
        Mistake(lambda *args: attention_by_tiles(*args, join=False),
                says="your softmax runs over each block alone, and the results are averaged",
                next="one softmax over all keys of the row: join the blocks before you normalise"),
        Mistake(lambda *args: attention_by_tiles(*args, rescale=False),
                says="your running sum keeps old weights on an old maximum",
                next="when the maximum rises, multiply what you have by exp(old - new)"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit(" ** 0.5", "",
             says="your output is what you get with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
        edit("enumerate(layout)", "enumerate(layout.T)",
             says="your layout is read by columns: its rows are the blocks of queries",
             next="layout[a, b] lets query block a see key block b"),
        edit("keys = keys[keys < n]", "keys, listed = np.arange(n), np.isin(np.arange(n), keys)",
             " / q.shape[-1] ** 0.5", " / q.shape[-1] ** 0.5 * listed",
             says="your hidden scores are 0, and exp(0) = 1 is a weight",
             next="leave the other blocks out, or set their scores to -inf before the softmax"),
        edit("keys = keys[keys < n]", "keys = np.minimum(keys, n - 1)",
             says="your last block repeats the last key up to its full length",
             next="a key beyond n does not exist: leave it out instead of cutting its index"),
        edit("enumerate(layout)", "enumerate(layout[: n // block, : n // block])",
             says="your last block is lost where n is no multiple of block",
             next="the last block may be shorter: cut it at n"),
        edit("flatnonzero(listed)", "flatnonzero(listed | (np.arange(len(layout)) == row))",
             says="your queries always see their own block",
             next="only listed blocks count; an empty row gives zeros"),
        edit("out = np.zeros(", "out = np.nan + np.zeros(",
             says="your rows without blocks are NaN",
             next="a query that sees nothing gives zeros: start from np.zeros"),
        edit(".max(axis=-1, keepdims=True)", ".max()",
             says="your queries share one maximum: in a row far below it exp gives only zeros",
             next="subtract the maximum of each row: axis=-1, keepdims=True"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[
        attention_by_tiles,
        edit("(np.flatnonzero(listed)[:, None] * block + np.arange(block)).ravel()",
             "np.flatnonzero(listed[np.arange(n) // block])", "keys = keys[keys < n]", "pass"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.4"
# ## 05.4 Layers until all have met
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/05_sparse.ipynb#A-hub)
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

# %% [markdown] role="hints" exercise="05.4"
# 1. Keep a matrix of who has heard from whom. What is it before the first layer, and what does one
#    layer do to it?
# 2. reached starts as the identity: each token knows itself. One layer: i hears all that its keys j
#    have heard, and keeps what it had. That is a matrix product of booleans.
# 3. step = mask | identity; count layers while not reached.all(); reached = (step @ reached) > 0 on
#    integers; return -1 as soon as a layer adds nothing.


# %% role="spec" exercise="05.4"
def layers_by_hops(mask):
    needed = graph.hops(mask)
    return -1 if (needed < 0).any() else int(needed.max())


def layers_by_search(mask):
    """Walk outwards from each token, a layer at a time."""
    deepest = 0
    for token in range(len(mask)):
        seen, layers = np.arange(len(mask)) == token, 0
        while not seen.all():
            wider = seen | mask[seen].any(axis=0)
            if (wider == seen).all():
                return -1
            seen, layers = wider, layers + 1
        deepest = max(deepest, layers)
    return deepest


def one_way(n):
    """Return a ring in which each token hears from the next one only."""
    return np.roll(np.eye(n, dtype=bool), 1, axis=1)


def random_links(rng, n, n_random):
    n, seed = int(n), int(rng.integers(1000))
    return random_keys.mask(n, n, n_random=n_random, seed=seed)


late = one_way(7) | np.eye(7, dtype=bool)
late[0] = True  # token 0 hears all at once; the others take their time

Spec(
    kind="number",
    reference=layers_by_hops,
    cases=[
        case("1 token", np.ones((1, 1), bool)),
        case("2 tokens that do not meet", np.eye(2, dtype=bool)),
        case("2 tokens, own keys hidden", ~np.eye(2, dtype=bool)),
        case("3 tokens, full", np.ones((3, 3), bool)),
        case("a window of 1", local.mask(6, 6, window=1)),
        case("a causal window: never", local.mask(6, 6, window=1, causal=True)),
        case("a one-way ring", one_way(6)),
        case("one token is quick", late),
        case("stride 3: islands", strided.mask(12, 12, stride=3)),
        case("a hub", longformer.mask(20, 20, window=1, global_tokens=[7])),
        case("a window of 3, 100 tokens", local.mask(100, 100, window=3)),
        case("one random key: never", random_keys.mask(60, 60, n_random=1, seed=0)),
        *draws(1, lambda rng: (one_way(60).T | random_links(rng, 60, 1),), "ring with short cuts"),
        *draws(1, lambda rng: (random_links(rng, rng.integers(30, 90), 3),), "keys, 3 a query"),
    ],
    mistakes=[
        edit("mask | np.eye(len(mask), dtype=bool)", "mask",
             "(wider == reached).all()", "layers > 4 * len(mask)",
             says="your tokens forget what they knew: the residual connection is missing",
             next="add the identity to the mask: each layer keeps a token's own input"),
        edit("mask | np.eye", "mask | mask.T | np.eye",
             says="your links carry information both ways",
             next="mask[i, j] lets i hear from j; j does not hear from i by that"),
        edit("np.eye(len(mask), dtype=bool), 0", "step, min(1, len(mask) - 1)",
             "step.astype(int) @", "reached.astype(int) @",
             says="your steps double: a squared matrix is two layers, squared again four",
             next="multiply by the mask once per layer, or count 1, 2, 4, … and then search"),
        edit("reached.all()", "reached[0].all()", "(wider == reached)", "(wider == reached)[0]",
             says="your answer holds for token 0 alone",
             next="every token must have heard from every other"),
        edit("return -1", "return layers",
             says="your answer is the longest path among pairs that do meet, though some never do",
             next="return -1 if any pair is never joined"),
        edit("dtype=bool), 0", "dtype=bool), 1",
             says="your count starts with 1 before any layer has run",
             next="the identity is layer 0: with one token the answer is 0"),
        edit("return -1", "return 0",
             says="your answer is 0 where some pairs never meet",
             next="0 layers are enough for one token alone; return -1 where no number is"),
        edit("return -1", "return len(mask)",
             says="your answer for islands is the number of tokens",
             next="return -1 where no number of layers is enough"),
    ],
    alternatives=[layers_by_search, edit("(wider == reached).all()", "layers > len(mask)")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.5"
# ## 05.5 A Triton kernel that walks a list
#
# *20 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/05_sparse_tiles.ipynb#The-kernel)
#
# `blocks` lists the key tiles of all rows, row after row; row t owns entries
# `starts[t]` … `starts[t + 1] - 1`. Set `first`, `last` and `key_tile`; all else is given. q, k, v
# are contiguous float32 `(n, D)`.

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

# %% [markdown] role="hints" exercise="05.5"
# 1. The lists of all rows stand one after another in `blocks`. Where does the list of this row
#    begin, and where does that of the next one?
# 2. starts has one entry more than there are rows: row `tile` owns the entries starts[tile] …
#    starts[tile + 1] - 1 of blocks. Each entry is the number of a key tile.
# 3. first = tl.load(starts_ptr + tile), last = tl.load(starts_ptr + tile + 1), and in the loop
#    key_tile = tl.load(blocks_ptr + entry).


# %% role="spec" exercise="05.5"
BLOCK = 16  # rows of a tile in the given kernel
FIRST, LAST = "tl.load(starts_ptr + tile)", "tl.load(starts_ptr + tile + 1)"
ENTRY = "tl.load(blocks_ptr + entry)"
ALL_TILES_MASKED = """
@triton.jit
def block_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, layout_ptr, n, n_tiles, scale,
    D: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
):
    tile = tl.program_id(0)
    cols, key = tl.arange(0, D)[None, :], tl.arange(0, KEYS)
    rows, keys = tile * BLOCK + tl.arange(0, BLOCK)[:, None], key[:, None]
    q = tl.load(q_ptr + rows * D + cols, mask=rows < n, other=0.0)
    k = tl.load(k_ptr + keys * D + cols, mask=keys < n, other=0.0)
    v = tl.load(v_ptr + keys * D + cols, mask=keys < n, other=0.0)
    listed = tl.load(layout_ptr + tile * n_tiles + key // BLOCK, mask=key < n, other=0)[None, :]
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(listed != 0, scores, float("-inf"))
    weights = tl.exp(scores - tl.maximum(tl.max(scores, 1), -1e30)[:, None])
    acc = tl.dot(weights, v, input_precision="ieee")
    total = tl.maximum(tl.sum(weights, 1), 1e-30)[:, None]
    tl.store(out_ptr + rows * D + cols, acc / total, mask=rows < n)


def launch_blocks(q, k, v, layout):
    (n, D), BLOCK, out = q.shape, 16, torch.empty_like(q)
    sizes = {"D": D, "BLOCK": BLOCK, "KEYS": triton.next_power_of_2(max(n, 16))}
    block_kernel[(len(layout),)](q, k, v, out, layout, n, len(layout), D**-0.5, **sizes)
    return out
"""


def kernel_traffic(case):
    """Return the most that the kernel may load and store: each listed tile of K and V once."""
    q, layout = case.args[0], case.args[3]
    (n, width), at = q.shape, np.arange(len(layout))
    keys = int((layout @ np.minimum(n - BLOCK * at, BLOCK)).sum())
    lists = 4 * (2 * len(layout) + int(layout.sum()))  # two ends a row, and each entry: int32
    read = q.nbytes + 2 * keys * width * 4 + lists
    return Cost(4 * BLOCK * keys * width, read, q.nbytes, q.nbytes)


def kernel_least(case):
    """Return the bytes of what is listed, each once: tiles of q, of k and v, the lists; and out."""
    q, layout = case.args[0], case.args[3]
    rows = np.minimum(len(q) - BLOCK * np.arange(len(layout)), BLOCK)
    tokens = rows @ layout.any(axis=1) + 2 * (rows @ layout.any(axis=0))
    lists = len(layout) + 1 + int(layout.sum())
    return q.nbytes + 4 * (int(tokens) * q.shape[1] + lists)


def three_tiles_a_row(rng):
    row = np.arange(1024)
    layout = np.abs(row[:, None] - row) <= 1
    return qkv("1024 tiles, three a row", (1024 * BLOCK, 64), layout)(rng)


def random_tiles(rng):
    n = int(rng.integers(70, 112))
    layout = rng.random((-(-n // BLOCK),) * 2) < 0.4
    qkv_of = rng.standard_normal((3, n, 16), dtype=np.float32)
    return *qkv_of, layout | np.eye(len(layout), dtype=bool)


Spec(
    kind="kernel",
    reference=lambda q, k, v, layout: block_sparse.attention(q, k, v, layout=layout, block=BLOCK),
    cases=[
        qkv("1 token", (1, 16), tiles("1")),
        qkv("two tiles, each the other", (32, 16), tiles("01", "10")),
        qkv("two tiles, all", (32, 16), tiles("11", "11")),
        qkv("three tiles, gaps", (48, 16), tiles("101", "010", "101")),
        qkv("a row without tiles", (48, 16), tiles("011", "000", "101")),
        qkv("odd length", (40, 16), tiles("101", "110", "001")),
        qkv("D = 32", (48, 32), tiles("100", "111", "011")),
        *draws(1, random_tiles, "tiles"),
    ],
    traffic=kernel_traffic,
    least=kernel_least,
    timed=three_tiles_a_row,
    seconds=20.0,
    mistakes=[
        rewrite(ALL_TILES_MASKED,
                says="your program loads every tile of K and V and masks those that are not listed",
                next="let the loop run over the row's list, so that other tiles are never loaded"),
        edit(FIRST, "0", LAST, "tl.cdiv(n, BLOCK)", ENTRY, "entry",
             says="your loop runs over all key tiles: that is full attention",
             next="loop over the entries of the row's list only"),
        edit(ENTRY, "entry",
             says="your key tile is the position in the list, not what stands there",
             next="load blocks_ptr + entry: its value is the key tile"),
        edit(LAST, f"{LAST} - {FIRST}", "first = " + FIRST, "first = 0",
             says="your rows all start at entry 0: they read the list of row 0",
             next="row `tile` begins at starts[tile]"),
        edit(LAST, LAST + " - 1",
             says="your loop ends before the last entry of the row",
             next="range leaves out its end: starts[tile + 1] is the first entry that is not "
             "yours"),
        edit(LAST, LAST + " + 1",
             says="your loop reads the first entry of the next row too",
             next="range leaves out its end: no + 1 at starts[tile + 1]"),
        edit(FIRST, f"tl.load(blocks_ptr + {FIRST})",
             LAST, f"tl.load(blocks_ptr + {LAST} - 1) + 1", ENTRY, "entry",
             says="your loop takes every tile between the first and the last listed one",
             next="a list may have gaps: load the number of each tile"),
    ],
    alternatives=[
        edit("blocks_ptr + entry", "blocks_ptr + first + last - 1 - entry"),  # backwards
        edit("first = " + FIRST, f"begin = {FIRST}\n    first = 0", LAST, LAST + " - begin",
             "blocks_ptr + entry", "blocks_ptr + begin + entry"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.6"
# ## 05.6 Find two bugs in a union
#
# *20 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/05_sparse_tiles.ipynb#Block-sparse-attention)
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
        for keys in (near, np.arange(n_global)):
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

# %% [markdown] role="hints" exercise="05.6"
# 1. One bug needs a global key inside the window to show. The other needs the second pass to find a
#    higher score than the first.
# 2. A key of both patterns is one key: hide it in one of the passes. And weights that were made
#    with an old maximum do not fit those made with a new one.
# 3. In the first pass also hide keys < n_global. Before adding, multiply total and acc by
#    np.exp(running_max - new_max); take care where the window holds global keys only.


# %% role="spec" exercise="05.6"
def union_by_mask(q, k, v, window, n_global, block=32):
    key = np.arange(len(q))
    return dense(q, k, v, (np.abs(key[:, None] - key) <= window) | (key < n_global))


def union_in_one_softmax(q, k, v, window, n_global, block=32):
    n, out = len(q), np.zeros((len(q), v.shape[-1]), q.dtype)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        near = np.arange(max(n_global, start - window), min(n, rows[-1] + window + 1))
        keys = np.concatenate([np.arange(n_global), near])
        visible = (np.abs(rows[:, None] - keys) <= window) | (keys < n_global)
        out[rows] = dense(q[rows], k[keys], v[keys], visible)
    return out


def random_union(rng):
    n, window, n_global = (int(x) for x in rng.integers((60, 1, 1), (150, 30, 12)))
    name = f"random, n = {n}, window {window}, {n_global} global"
    return qkv(name, (n, 7), window, n_global, value_width=5)(rng)


Spec(
    kind="array",
    cases=[
        qkv("1 token, no global key", (1, 7), 0, 0, value_width=5),
        qkv("1 token, global", (1, 7), 0, 1, value_width=5),
        qkv("no global key", (9, 7), 2, 0, value_width=5),
        qkv("window 0, 1 global key", (6, 7), 0, 1, value_width=5),
        qkv("the global keys lie in the window", (5, 7), 4, 2, value_width=5),
        qkv("all keys are global", (6, 7), 1, 6, value_width=5),
        qkv("two blocks", (40, 7), 3, 2, value_width=5),
        qkv("more global keys than a block", (80, 7), 2, 40, value_width=5),
        qkv("one query 100 times longer than the others", (40, 7), 9, 3, value_width=5, longer=100),
        qkv("float64", (70, 7), 9, 3, value_width=5, dtype=np.float64),
        qkv("float64, a long query", (70, 7), 9, 3, value_width=5, dtype=np.float64, longer=1000),
        random_union,
    ],
    memory=Memory(
        qkv(f"n = {N}, window 24, 8 global", (N, D), 24, 8),
        4 * ROWS_BYTES,
        "four arrays as large as q: 4 · n · D · 4 bytes",
    ),
    mistakes=[
        edit("max(n_global, start", "max(0, start", "total * fade", "total", "acc * fade", "acc",
             says="both bugs are still there: your output is that of the given code",
             next="compare with a dense mask at n = 6: which rows differ, and what do they share?"),
        edit("total * fade", "total", "acc * fade", "acc",
             says="one bug is left: the two passes use different maxima",
             next="bring total and acc to the new maximum before you add: times exp(old - new)"),
        edit("max(n_global, start", "max(0, start",
             says="one bug is left: a global key inside the window counts twice",
             next="a union has each key once: hide global keys in the first pass"),
        edit("acc * fade", "acc",
             says="your sum is brought to the new maximum, your weighted values are not",
             next="multiply acc by the same factor as total"),
        edit("total * fade", "total",
             says="your weighted values are brought to the new maximum, your sum is not",
             next="multiply total by the same factor as acc"),
        edit("max(n_global, start", "max(0, start", "total * fade + weights.sum(-1, keepdims=True)",
             "total + (len(keys) > 0)", "acc * fade + weights",
             "acc + weights / weights.sum(-1, keepdims=True)",
             says="your output is the mean of two attentions, each with a softmax of its own",
             next="one softmax runs over the union: join sums and values, then divide once"),
        edit("max(n_global, start", "max(0, start", "(near, np.arange(n_global))", "(near,)",
             says="your output is that of the window alone",
             next="the second pass adds the first n_global keys for every query"),
        edit("np.where(new_max == -np.inf, 0, new_max)", "new_max",
             says="your rows whose window holds global keys only are NaN: -inf - (-inf)",
             next="where no key is visible so far, subtract 0 instead of the maximum"),
        edit(" / width**0.5", "",
             says="your output is what you get without 1/√D",
             next="the scale was right in the given code"),
        edit("np.abs(rows[:, None] - keys) <= window", "rows[:, None] >= 0",
             says="each query of a block sees all keys that the block needs together",
             next="keep the mask of the window: only |i - j| <= window is visible"),
        Mistake(union_by_mask,
                says="your numbers are right, but the blocks are gone: all n × n scores exist at "
                "once",
                next="repair the lines inside the loop, and keep the loop"),
    ],
    alternatives=[
        union_in_one_softmax,
        edit("max(n_global, start", "max(0, start",
             "<= window)", "<= window) & (keys >= n_global)"),
    ],
    variants=[edit("width), out = q.shape,", "width), block, out = q.shape, 7,")],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="05.V4"
# ## 05.V4 BigBird without counting twice
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/05_sparse_tiles.ipynb#Counted-twice)
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

# %% [markdown] role="hints" exercise="05.V4"
# 1. The mask has two kinds of rows. How many are there of each, and how long is each?
# 2. A regular row has window + n_random + n_global keys, a global row has n. Every pair is in
#    exactly one row: nothing is left to add or to take off.
# 3. rows = n - n_global; the parts are rows·window, rows·n_random, rows·n_global and n_global·n;
#    total is their sum, average total/n, density total/n², bytes 4·total.


# %% role="spec" exercise="05.V4"
Spec(
    kind="number",
    cases=[
        case("8 tokens, no hub", 8, 2, 1, 0),
        case("8 tokens, 1 hub", 8, 2, 1, 1),
        case("8 tokens, no random keys", 8, 3, 0, 2),
        case("101 tokens", 101, 11, 5, 3),
        case("the document's n = 4096", 4096, 256, 64, 32),
        case("its w on each side", 4096, 512, 64, 32),
        case("n = 16384", 16384, 256, 64, 32),
        *draws(4, lambda rng: rng.integers((60, 1, 0, 1), (3000, 20, 20, 19))),
    ],
    mistakes=[
        edit("sum(parts.values())", "sum(parts.values()) + regular * n_global - n_global**2",
             says="your total is the textbook's: links to global tokens are added again, and an "
             "overlap is taken off",
             next="the regular rows hold those links already: the four parts just add up"),
        edit("sum(parts.values())", "sum(parts.values()) + regular * n_global",
             says="your total has the links to global tokens twice",
             next="the regular rows hold those links already: the four parts just add up"),
        edit("regular = n - n_global", "regular = n",
             says="your regular parts have n rows: the global tokens count among them too",
             next="n - n_global rows are regular"),
        edit("regular * window", "regular * 2 * window",
             says="your window has that many keys on each side",
             next="here window is the total number of keys in the window"),
        edit("n_global * n,", "n_global * (window + n_random + n_global),",
             says="your global tokens see no more than the others",
             next="a global token sees all n keys"),
        edit("total / n**2", "1 - total / n**2",
             says="your density is the sparsity: the share of pairs that are left out",
             next="density is the share that is kept; sparsity is 1 - density"),
        edit("total / n**2", "100 * total / n**2",
             says="your density is in percent",
             next="return a share between 0 and 1"),
        edit("4 * total", "2 * total",
             says="your bytes are half: 2 bytes for a number",
             next="float32 takes 4 bytes"),
        edit("total / n,", "(window + n_random + n_global + n) / 2,",
             says="your average takes both kinds of tokens to be equally many",
             next="divide the total by n"),
    ],
    alternatives=[
        edit("sum(parts.values())", "regular * (window + n_random + n_global) + n_global * n"),
        edit("total / n,", "regular * (window + n_random + n_global) / n + n_global,"),
    ],
)  # fmt: skip

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
# · [section](../notebooks/05_sparse_tiles.ipynb#Adding-the-parts)
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

# %% [markdown] role="hints" exercise="05.V8"
# 1. At these sizes you may simply build the masks. Which operator joins them, and what does adding
#    their sums count?
# 2. offset = key - query. Near: |offset| <= local // 2. Far: offset % stride == 0. First:
#    key < n_global, for every query; no full rows.
# 3. added is near.sum() + far.sum() + first.sum(); union is (near | far | first).sum(), and
#    average, density and bytes are union/n, union/n² and 4·union.


# %% role="spec" exercise="05.V8"
def pattern_by_rows(n, local, stride, n_global):
    side, added, union = local // 2, 0, 0
    for i in range(n):
        near = set(range(max(0, i - side), min(n, i + side + 1)))
        far, first = set(range(i % stride, n, stride)), set(range(min(n_global, n)))
        added += len(near) + len(far) + len(first)
        union += len(near | far | first)
    of_union = {"average": union / n, "density": union / n**2, "bytes": 4 * union}
    return {"added": added, "union": union, **of_union}


UNION = "int((near | far | first).sum())"

Spec(
    kind="number",
    cases=[
        case("1 token", 1, 0, 1, 0),
        case("6 tokens, own key only", 6, 0, 6, 0),
        case("6 tokens, window", 6, 2, 6, 0),
        case("6 tokens, stride", 6, 0, 2, 0),
        case("6 tokens, all three", 6, 2, 3, 1),
        case("12 tokens, odd window", 12, 5, 4, 2),
        case("stride 1 is full", 8, 2, 1, 1),
        case("window wider than the text", 8, 40, 3, 1),
        case("the document's n = 4096, 64, 128, 1", 4096, 64, 128, 1),
        *draws(4, lambda rng: rng.integers((40, 4, 2, 1), (300, 40, 30, 6))),
    ],
    mistakes=[
        edit(UNION, "int(near.sum() + far.sum() + first.sum())",
             says="your union is the sum of the three: shared pairs count more than once",
             next="join the masks with | before you count"),
        edit(UNION, "int((near | far).sum() + first.sum())",
             says="your union adds the first tokens to the other two without looking for overlap",
             next="a first token may lie in the window or on the stride: join all three with |"),
        edit(UNION, "n * (local + -(-n // stride) + n_global)",
             says="your union is n·(local + n/stride + n_global), the textbook's shorthand",
             next="own keys, edges and overlaps count: build the masks"),
        edit("near | far | first", "near | far | first | (key[:, None] < n_global)",
             says="your first tokens also see everything",
             next="in this exercise all queries see the first tokens, which see no more than "
             "others"),
        edit("offset % stride == 0", "np.tile(key % stride == 0, (n, 1))",
             says="your stride selects the keys 0, stride, 2·stride …, the same for every query",
             next="count from the query: (key - query) % stride == 0"),
        edit("local // 2", "local",
             says="your window has `local` keys on each side",
             next="in this exercise local is the total: local // 2 on each side, and the own key"),
        edit("union / n**2", "100 * union / n**2",
             says="your density is in percent",
             next="return a share between 0 and 1"),
        edit("4 * union", "2 * union",
             says="your bytes are half: 2 bytes for a number",
             next="float32 takes 4 bytes"),
    ],
    alternatives=[
        pattern_by_rows,
        edit("np.tile(key < n_global, (n, 1))", "np.broadcast_to(key < n_global, (n, n))"),
    ],
)  # fmt: skip

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
