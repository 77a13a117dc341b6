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

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.cost import Cost
from attncourse.grading.spec import TILE_SIZES
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import flash, full
from attncourse.softmax import softmax

# %% [markdown] role="prompt" exercise="09.1"
# ## 09.1 Bytes that travel
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/09_flash.ipynb#Count-the-traffic)
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

# %% [markdown] role="hints" exercise="09.1"
# 1. Write down every array that each step reads and writes. How many numbers has it?
# 2. Standard: q, k and v are read once, out is written once, and the n_queries × n_keys array
#    travels four times. Tiled: how often are k and v read?
# 3. standard = (2·Tq·d + 2·Tk·d + 4·Tq·Tk)·bytes; tiled = (2·Tq·d + 2·Tk·d·tiles)·bytes, with
#    tiles = -(-n_queries // block_q).


# %% role="spec" exercise="09.1"
def bytes_by_passes(n_queries, n_keys, d, block_q, bytes_per_number):
    scores, tiled = n_queries * n_keys, 0
    standard = n_queries * d + n_keys * d + scores  # q, k in, scores out
    standard += scores + scores  # scores in, weights out
    standard += scores + n_keys * d + n_queries * d  # weights, v in, out out
    for start in range(0, n_queries, block_q):
        tiled += 2 * min(block_q, n_queries - start) * d + 2 * n_keys * d
    return {"standard": standard * bytes_per_number, "tiled": tiled * bytes_per_number}


def bytes_by_costs(n_queries, n_keys, d, block_q, bytes_per_number):
    sizes = (1, 1, n_queries, n_keys, d)
    standard = full.cost(*sizes, dtype_bytes=4)
    tiled = flash.cost(*sizes, block_q=block_q, block_k=1, dtype_bytes=4)
    moved = {
        "standard": standard.bytes_read + standard.bytes_written,
        "tiled": tiled.bytes_read + tiled.bytes_written - 4 * n_queries,  # without lse
    }
    return {name: number * bytes_per_number // 4 for name, number in moved.items()}


Spec(
    kind="number",
    cases=[
        case("1 query, 1 key", 1, 1, 3, 2, 5),
        case("one tile", 5, 7, 3, 11, 2),
        case("two tiles", 4, 5, 3, 2, 7),
        case("the last tile is shorter", 5, 7, 3, 2, 4),
        case("a tile longer than the text", 5, 7, 3, 64, 2),
        case("one query at a time", 6, 6, 8, 1, 4),
        case("fewer queries than keys", 3, 50, 16, 2, 2),
        case("more queries than keys", 50, 3, 16, 7, 2),
        case("n = 4096, D = 64, tiles of 128, float32", 4096, 4096, 64, 128, 4),
        case("D = 768: tiling moves more", 4096, 4096, 768, 128, 4),
        *draws(4, lambda rng: rng.integers(2, (5000, 5000, 300, 300, 9))),
    ],
    mistakes=[
        edit("2 * keys * tiles", "2 * keys",
             says="your tiled bytes read k and v only once",
             next="each tile of queries walks over all keys again: multiply by the number of "
             "tiles"),
        edit("-(-n_queries // block_q)", "n_queries // block_q",
             says="your tiles leave out the last, shorter one",
             next="round up: -(-n_queries // block_q)"),
        edit("-(-n_queries // block_q)", "(n_queries // block_q + 1)",
             says="you count one tile more where block_q divides n_queries",
             next="round up: -(-n_queries // block_q) adds one only where something is left"),
        edit("-(-n_queries // block_q)", "n_queries / block_q",
             says="your number of tiles is a fraction",
             next="a shorter tile reads all keys too: round up"),
        edit("2 * queries + 2 * keys * tiles", "2 * keys + 2 * queries * -(-n_keys // block_q)",
             says="your loops are the other way round: q and out travel once per tile of keys",
             next="here a tile of queries stays on the chip while the keys pass by"),
        edit("2 * queries + 2 * keys * tiles",
             "queries * (1 + -(-n_keys // block_q)) + 2 * keys * tiles",
             says="your tiled bytes read q again for each tile of keys",
             next="a tile of queries is read once, before the loop over the keys"),
        edit("2 * queries + 2 * keys + 4", "4",
             says="your standard bytes leave out q, k, v and the output",
             next="add 2·Tq·d + 2·Tk·d numbers"),
        edit("4 * scores", "2 * scores",
             says="your scores travel twice",
             next="scores out, scores in, weights out, weights in: four times"),
        edit("2 * queries", "queries",
             says="your bytes leave out the output",
             next="out has Tq·d numbers, and is written once in both"),
        edit(" * bytes_per_number", "",
             says="you counted numbers, not bytes",
             next="multiply by bytes_per_number"),
    ],
    alternatives=[bytes_by_passes, bytes_by_costs],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.2"
# ## 09.2 Tiles under a causal mask
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/09_flash.ipynb#Tiles)
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

# %% [markdown] role="hints" exercise="09.2"
# 1. Draw 8 tokens in tiles of 2 × 2. Which tiles hold a visible pair? Which of those also hold a
#    hidden one?
# 2. A tile is visited if its last query sees its first key. It needs a mask if its first query
#    does not see its last key. Query i sits at key position i + n_keys - n_queries.
# 3. For each tile that starts at (i, j): visited if j <= min(i + block_q, n_queries) - 1 + ahead;
#    masked if also min(j + block_k, n_keys) - 1 > i + ahead.


# %% role="spec" exercise="09.2"
def tiles_by_mask(n_queries, n_keys, block_q, block_k):
    mask = np.arange(n_keys) <= np.arange(n_queries)[:, None] + n_keys - n_queries
    visited = masked = 0
    for i in range(0, n_queries, block_q):
        for j in range(0, n_keys, block_k):
            tile = mask[i : i + block_q, j : j + block_k]
            visited += int(tile.any())
            masked += int(tile.any() and not tile.all())
    return {"visited": visited, "masked": masked}


def tiles_by_division(n_queries, n_keys, block_q, block_k):
    ahead, visited, free = n_keys - n_queries, 0, 0
    for start in range(0, n_queries, block_q):
        seen_by_last = max(min(start + block_q, n_queries) + ahead, 0)
        seen_by_first = max(start + 1 + ahead, 0)
        visited += -(-seen_by_last // block_k)
        free += -(-n_keys // block_k) if seen_by_first >= n_keys else seen_by_first // block_k
    return {"visited": visited, "masked": visited - free}


Spec(
    kind="number",
    cases=[
        case("1 query, 1 key", 1, 1, 1, 1),
        case("one tile", 3, 5, 11, 7),
        case("4 × 4 tiles", 8, 8, 2, 2),
        case("tiles of one pair: nothing is hidden inside", 6, 6, 1, 1),
        case("tall tiles", 16, 16, 8, 2),
        case("wide tiles", 16, 16, 2, 8),
        case("the last tiles are shorter", 10, 10, 4, 3),
        case("fewer queries than keys", 3, 11, 2, 4),
        case("1 query, 100 keys: all is visible", 1, 100, 16, 16),
        case("more queries than keys: some see nothing", 11, 3, 2, 2),
        case("60 queries, 20 keys", 60, 20, 7, 3),
        case("20 queries, 60 keys", 20, 60, 7, 3),
        case("tiles larger than the text", 5, 7, 64, 64),
        case("n = 4096, tiles of 128 × 64", 4096, 4096, 128, 64),
        *draws(6, lambda rng: rng.integers(2, (90, 90, 20, 20))),
    ],
    mistakes=[
        edit("min(last + 1, n_keys)", "n_keys",
             says="you visit every tile: the ones above the diagonal too",
             next="a tile whose last query does not see its first key is never touched"),
        edit('return {"visited": visited, "masked": masked}',
             'rows = -(-n_queries // block_q)\n'
             '    return {"visited": rows * -(-n_keys // block_k) // 2, "masked": rows}',
             says="you took half of all tiles, and one masked tile in each row of tiles",
             next="the tiles on the diagonal count in full; count them one by one"),
        edit(" + n_keys - n_queries", "",
             says="your query i sits at key i, which is right only for n_queries = n_keys",
             next="add n_keys - n_queries to the position of each query"),
        edit("min(last + 1", "min(first + 1",
             says="you visit a tile only if its first query sees its first key",
             next="the last query of a tile sees most: it decides whether the tile is visited"),
        edit("> first", "> last",
             says="your masked tiles are those whose last query misses a key",
             next="the first query of a tile sees least: it decides whether a mask is needed"),
        edit("min(last + 1", "min(last", "> first", ">= first",
             says="your queries do not see their own key",
             next="key position <= query position is visible"),
        edit("min(j + block_k, n_keys) - 1 > first", "1",
             says="you count every visited tile as masked",
             next="below the diagonal all pairs are visible, and no mask is needed"),
        edit("min(i + block_q, n_queries)", "i + block_q",
             "min(j + block_k, n_keys)", "j + block_k",
             says="you count the last, shorter tiles as if they were whole",
             next="end each tile at min(start + block, n)"),
    ],
    alternatives=[tiles_by_mask, tiles_by_division],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.3"
# ## 09.3 Attention without a row of scores
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/09_flash.ipynb#Tiles)
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

# %% [markdown] role="hints" exercise="09.3"
# 1. Which numbers per query let you forget the keys that you have seen?
# 2. Loop over slices of k and v. Keep the maximum, the sum and the summed values of each query.
#    Before you add a slice, multiply what is kept by exp(old maximum - new maximum).
# 3. new_max = np.maximum(running_max, scores.max(-1, keepdims=True)); weights = np.exp(scores -
#    new_max); rescale = np.exp(running_max - new_max); both sums: old * rescale + new.


# %% role="spec" exercise="09.3"
def scores_of(q, k):
    work = np.result_type(q.dtype, np.float32)
    return q.astype(work) @ k.astype(work).swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]))


def slices(k, v):
    for start in range(0, k.shape[-2], 512):
        yield k[..., start : start + 512, :], v[..., start : start + 512, :]


def attention_by_merging(q, k, v):
    out = lse = None
    for k_part, v_part in slices(k, v):
        part = flash.forward(q, k_part, v_part, block_q=64, block_k=512)
        out, lse = part if out is None else flash.merge(out, lse, *part)
    return out


def attention_in_two_passes(q, k, v):
    row_max = np.max([scores_of(q, part).max(axis=-1) for part, _ in slices(k, v)], axis=0)
    row_sum, acc = 0.0, 0.0
    for k_part, v_part in slices(k, v):
        weights = np.exp(scores_of(q, k_part) - row_max[..., None])
        row_sum = row_sum + weights.sum(axis=-1, keepdims=True)
        acc = acc + weights @ v_part
    return (acc / row_sum).astype(q.dtype)


def whole_matrix(q, k, v):
    return (softmax(scores_of(q, k)) @ v).astype(q.dtype)


def row_by_row(q, k, v):
    rows = [whole_matrix(q[..., i : i + 1, :], k, v) for i in range(q.shape[-2])]
    return np.concatenate(rows, axis=-2)


def random_lengths(rng):
    queries, keys = (int(x) for x in rng.integers((20, 600), (120, 1200)))
    return qkv(f"random, {queries} queries, {keys} keys", (queries, 32), keys=keys)(rng)


NEW_MAX = "np.maximum(running_max, scores.max(axis=-1, keepdims=True))"
SLICE_BY_SLICE = (NEW_MAX, "scores.max(axis=-1, keepdims=True)",
                  "np.exp(running_max - new_max)", "1",
                  "+ weights @", "+ weights / weights.sum(axis=-1, keepdims=True) @")  # fmt: skip

Spec(
    kind="array",
    reference=lambda q, k, v: flash.attention(q, k, v, block_q=64, block_k=512),
    cases=[
        qkv("1 query, 1 key", (1, 3), keys=1),
        qkv("1 query, 5 keys", (1, 3), keys=5),
        qkv("5 queries, 1 key", (5, 3), keys=1),
        qkv("values narrower than keys", (6, 7), keys=20, value_width=3),
        qkv("2 heads", (2, 5, 3), keys=40),
        qkv("batch of 2, 3 heads", (2, 3, 7, 5), keys=33),
        qkv("float64", (9, 7), keys=50, dtype=np.float64),
        qkv("float64, a long query", (9, 7), keys=50, dtype=np.float64, longer=1000),
        qkv("float16", (9, 7), keys=40, dtype=np.float16),
        qkv("large scores", (6, 64), keys=40, shift=40.0),
        qkv("all scores far below 0", (6, 64), keys=40, shift=-40.0),
        qkv("one query 200 times longer than the others", (5, 16), keys=60, longer=200),
        qkv("200 queries, 3 keys", (200, 8), keys=3),
        qkv("65 queries, 129 keys", (65, 16), keys=129),
        qkv("5 queries, 1301 keys", (5, 11), keys=1301),
        random_lengths,
    ],
    # A row of scores takes 256 KiB: whole rows fail, even one at a time. Slices of the keys fit,
    # with the online softmax, with two passes over the keys, or with parts that are merged.
    memory=Memory(
        qkv("8 queries, 65536 keys", (8, 8), keys=2**16),
        2**16 * 4 // 2,
        "half a row of scores: Tk / 2 · 4 bytes, the output included",
    ),
    mistakes=[
        Mistake(whole_matrix,
                says="your numbers are right, but all Tq × Tk scores exist at once",
                next="take the keys in slices of a few hundred and keep maximum and sum of each "
                "query"),
        Mistake(row_by_row,
                says="your numbers are right, but a whole row of scores exists at once",
                next="one row is too long here: take the keys in slices, too"),
        edit(*SLICE_BY_SLICE, "acc / running_sum", "acc",
             says="you added the softmax outputs of the slices: their weights sum to more than 1",
             next="carry maximum and sum from slice to slice, and divide once at the end"),
        edit(*SLICE_BY_SLICE, "acc / running_sum", "acc / -(-k.shape[-2] // block)",
             says="you averaged the softmax outputs of the slices: a weak slice counts as a strong "
             "one",
             next="each slice weighs as much as its sum of exponentials"),
        edit("acc * rescale", "acc",
             says="a new maximum shrinks your sum, but not the values summed so far",
             next="multiply acc by exp(old maximum - new maximum) as well"),
        edit("running_sum * rescale", "running_sum",
             says="a new maximum shrinks your summed values, but not the sum",
             next="multiply running_sum by exp(old maximum - new maximum) as well"),
        edit(" * rescale", "",
             says="a new maximum changes nothing of what you kept",
             next="multiply both sums by exp(old maximum - new maximum)"),
        edit("acc * rescale + weights", "acc * rescale + weights / weights.sum(-1, keepdims=True)",
             says="your values are normalised in each slice, and again at the end",
             next="add up weights @ v as they are, and divide once, after the last slice"),
        edit("k.shape[-2], block)", "k.shape[-2] // block * block, block)",
             "acc / running_sum", "acc / np.where(running_sum == 0, 1, running_sum)",
             says="your loop ends with the last full slice of keys: the rest is never seen",
             next="let the last slice be shorter: slices may end beyond the last key"),
        edit("-np.inf", "0",
             says="your running maximum starts at 0: far below it exp gives only zeros",
             next="start the maximum at -np.inf"),
        edit("scores.max(axis=-1, keepdims=True)", "scores.max()",
             says="your queries share one maximum: beside a long one the others have only zeros",
             next="take the maximum of each row: scores.max(axis=-1, keepdims=True)"),
        edit(NEW_MAX, "np.zeros_like(running_max)",
             says="your exponentials overflow: no maximum is subtracted",
             next="subtract the running maximum before np.exp"),
        edit(" / work.type(q.shape[-1] ** 0.5)", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit(" ** 0.5", "",
             says="your output is what you get with 1/D instead of 1/√D",
             next="divide the scores by the square root of D"),
    ],
    alternatives=[attention_by_merging, attention_in_two_passes],
    variants=[edit("256", str(size)) for size in TILE_SIZES if size != 256],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.4"
# ## 09.4 Join two halves
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/09_flash_backward.ipynb#One-number-per-row)
#
# Two machines attended to two sets of keys. Each sends its output `(..., Tq, Dv)` and its lse
# `(..., Tq)`; a query that saw no key there has lse −inf and zeros. Return `(out, lse)` of both
# together, each in its own dtype.

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

# %% [markdown] role="hints" exercise="09.4"
# 1. exp(lse) is the sum by which each output was divided. Undo both divisions in your head.
# 2. out = (exp(lse_a)·out_a + exp(lse_b)·out_b) / (exp(lse_a) + exp(lse_b)). Now keep the
#    exponentials small: what may you subtract from both lse?
# 3. lse = np.logaddexp(lse_a, lse_b); the weights are np.exp(lse_a - pivot) and np.exp(lse_b -
#    pivot), with pivot = lse, or 0 where lse is -inf.


# %% role="spec" exercise="09.4"
def merge_by_larger(out_a, lse_a, out_b, lse_b):
    larger = np.maximum(lse_a, lse_b)
    pivot = np.where(np.isneginf(larger), 0, larger).astype(larger.dtype)
    a, b = np.exp(lse_a - pivot), np.exp(lse_b - pivot)
    total = np.where(a + b == 0, 1, a + b).astype(larger.dtype)
    out = (a[..., None] * out_a + b[..., None] * out_b) / total[..., None]
    return out.astype(out_a.dtype), larger + np.log(total)


def merge_row_by_row(out_a, lse_a, out_b, lse_b):
    out, lse = np.zeros_like(out_a), np.full_like(lse_a, -np.inf)
    for at in np.ndindex(lse_a.shape):
        parts = [(lse_a[at], out_a[at]), (lse_b[at], out_b[at])]
        seen = [part for part in parts if part[0] > -np.inf]
        if seen:
            lse[at] = np.logaddexp.reduce([value for value, _ in seen])
            out[at] = sum(np.exp(value - lse[at]) * row for value, row in seen)
    return out, lse


def halves(name, shape, *, dtype=np.float32, shift=(0, 0), blind=""):
    """Make a case; every second query sees no key in the sets of `blind`."""

    def make(rng):
        args = []
        for letter, extra in zip("ab", shift, strict=True):
            out, lse = rng.standard_normal(shape), rng.standard_normal(shape[:-1]) + extra
            if letter in blind:
                out[..., ::2, :], lse[..., ::2] = 0, -np.inf
            args += [out.astype(dtype), lse.astype(np.result_type(dtype, np.float32))]
        return case(name, *args)

    return make


WEIGHTS = "np.exp(lse_a - pivot), np.exp(lse_b - pivot)"

Spec(
    kind="array",
    reference=lambda out_a, lse_a, out_b, lse_b: flash.merge(out_a, lse_a, out_b, lse_b),
    cases=[
        halves("1 query", (1, 3)),
        halves("2 queries", (2, 5)),
        halves("the second set weighs far more", (3, 4), shift=(0, 30)),
        halves("large lse", (3, 4), shift=(500, 501)),
        halves("very small lse", (3, 4), shift=(-500, -501)),
        halves("the first set is not seen", (4, 3), blind="a"),
        halves("the second set is not seen", (4, 3), blind="b"),
        halves("neither set is seen", (4, 3), blind="ab"),
        halves("2 texts, 3 heads", (2, 3, 5, 4)),
        halves("float64", (6, 8), dtype=np.float64),
        halves("float16 outputs, float32 lse", (6, 8), dtype=np.float16),
        halves("61 queries, width 37", (61, 37), shift=(1, -1)),
    ],
    mistakes=[
        edit(WEIGHTS, "np.full_like(lse_a, 0.5), np.full_like(lse_b, 0.5)",
             says="your output is the mean of the two: both sets weigh the same",
             next="each set weighs as much as exp of its lse"),
        edit(WEIGHTS, "np.ones_like(lse_a), np.ones_like(lse_b)",
             says="your output is the sum of the two: the weights sum to 2",
             next="the weights of the two sets must sum to 1"),
        edit("weight_a, weight_b =", "weight_b, weight_a =",
             says="your weights are swapped",
             next="out_a is weighed by exp(lse_a - lse)"),
        edit(WEIGHTS, "lse_a / (lse_a + lse_b), lse_b / (lse_a + lse_b)",
             says="your weights are the lse, not their exponentials",
             next="exp(lse) is the sum of exponentials of a set"),
        edit(WEIGHTS, "np.exp([lse_a, lse_b]) / np.exp([lse_a, lse_b]).sum(axis=0)",
             says="your exponentials overflow or vanish: exp(lse) is taken as it is",
             next="subtract the joint lse before np.exp"),
        edit("np.logaddexp(lse_a, lse_b)", "np.log(np.exp(lse_a) + np.exp(lse_b))",
             says="your joint lse overflows or vanishes: exp(lse) is taken before the logarithm",
             next="np.logaddexp, or take the larger lse off before np.exp and add it again"),
        edit("np.where(np.isneginf(lse), 0, lse)", "lse",
             says="your rows that see no key in either set are NaN: -inf minus -inf",
             next="subtract 0 where the joint lse is -inf"),
        edit("out_a.dtype), lse", "out_a.dtype), lse_a + lse_b",
             says="your lse is the sum of the two: the logarithm of a product",
             next="add the exponentials, then take the logarithm: np.logaddexp"),
        edit("out_a.dtype), lse", "out_a.dtype), np.maximum(lse_a, lse_b)",
             says="your lse is the larger of the two: that of one set alone",
             next="add the exponentials, then take the logarithm: np.logaddexp"),
    ],
    alternatives=[merge_by_larger, merge_row_by_row],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.5"
# ## 09.5 The loop of a Triton kernel
#
# *30 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/09_flash_backward.ipynb#One-algorithm-in-two-languages)
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

# %% [markdown] role="hints" exercise="09.5"
# 1. The loop is the one of the NumPy column in the chapter. What does a program need of k and v in
#    one turn, and what may it keep?
# 2. Load a tile of k and one of v, with a mask. Scores of keys beyond the end become -inf. Then
#    new_max, weights, rescale; both sums; running_max = new_max.
# 3. rescale = tl.exp(running_max - new_max); running_sum = running_sum * rescale +
#    tl.sum(weights, 1); acc = acc * rescale[:, None] + tl.dot(weights, v, input_precision="ieee").


# %% role="spec" exercise="09.5"
def kernel_traffic(case):
    """Return the most that the kernel may move: q and out once, k and v once per query tile."""
    q, k, _ = case.args
    tiles, key_tiles = -(-len(q) // 16), -(-len(k) // 16)
    flops = 4 * tiles * 16 * key_tiles * 16 * q.shape[1]
    return Cost(flops, q.nbytes + 2 * k.nbytes * tiles, q.nbytes, q.nbytes)


def random_tiles(rng):
    n_queries, n_keys = (int(x) for x in rng.integers(17, 40, 2))
    return qkv(f"random, {n_queries} queries, {n_keys} keys", (n_queries, 16), keys=n_keys)(rng)


LOOP = "for start in range(0, n_keys, BLOCK):\n"
FIRST_PASS = """        keys = start + tl.arange(0, BLOCK)
        in_keys = keys[:, None] < n_keys
        k = tl.load(k_ptr + keys[:, None] * D + cols[None, :], mask=in_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(keys[None, :] < n_keys, scores, float("-inf"))
        running_max = tl.maximum(running_max, tl.max(scores, 1))
    """
NO_RESCALE = (" * rescale[:, None]", "", " * rescale", "")

Spec(
    kind="kernel",
    reference=lambda q, k, v: full.attention(q, k, v),
    cases=[
        qkv("1 query, 1 key", (1, 16)),
        qkv("one tile", (16, 16)),
        qkv("two tiles of keys", (16, 16), keys=32),
        qkv("two tiles of queries", (32, 16), keys=16),
        qkv("the last tile of keys is shorter", (16, 16), keys=37),
        qkv("one key in the last tile", (20, 16), keys=33),
        qkv("D = 32", (16, 32), keys=32),
        qkv("large scores", (16, 16), keys=40, shift=25.0),
        qkv("one query 100 times longer", (5, 16), keys=40, longer=100),
        qkv("50 queries, 3 keys", (50, 16), keys=3),
        qkv("3 queries, 50 keys", (3, 16), keys=50),
        random_tiles,
    ],
    traffic=kernel_traffic,
    timed=qkv("n = 16384, D = 64", (16384, 64)),
    seconds=20.0,
    mistakes=[
        edit(LOOP, LOOP + FIRST_PASS + LOOP,
             says="your program loads k twice: once for the maximum, once for the weights",
             next="carry the maximum along, and rescale what is kept when it grows"),
        edit(LOOP, LOOP + "        q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)\n",
             says="your program loads q again for each tile of keys",
             next="q stays on the chip: it is loaded once, before the loop"),
        edit("acc * rescale[:, None]", "acc",
             says="a new maximum shrinks your running_sum, but not acc",
             next="multiply acc by rescale[:, None]"),
        edit("running_sum * rescale", "running_sum",
             says="a new maximum shrinks your acc, but not running_sum",
             next="multiply running_sum by rescale"),
        edit("scores - new_max[:, None]", "scores", *NO_RESCALE,
             says="your exponentials overflow: no maximum is subtracted",
             next="subtract new_max[:, None] from the scores before tl.exp"),
        edit("tl.exp(running_max - new_max)", "tl.exp(new_max - running_max)",
             says="your rescale is exp(new maximum - old maximum): it grows what must shrink",
             next="rescale = tl.exp(running_max - new_max)"),
        edit(*NO_RESCALE,
             says="a new maximum changes nothing of what you kept",
             next="multiply running_sum and acc by tl.exp(running_max - new_max)"),
        edit("        running_max = new_max\n", "",
             says="your running_max stays at -inf: each tile forgets the ones before",
             next="end the turn with running_max = new_max"),
        edit(" * scale", "",
             says="your output is what you get without 1/√D",
             next="multiply the scores by `scale`"),
        edit('tl.where(keys[None, :] < n_keys, scores, float("-inf"))', "scores",
             says="keys beyond the end take part: a masked load gives zeros, and exp(0) is 1",
             next="set their scores to -inf: tl.where(keys[None, :] < n_keys, scores, "
             "float('-inf'))"),
        edit("(0, n_keys,", "(0, n_keys // BLOCK * BLOCK,",
             says="your loop leaves out the last, shorter tile of keys",
             next="run over range(0, n_keys, BLOCK)"),
        edit(", mask=in_keys, other=0.0", "",
             says="your loads run past the end of k and v",
             next="give tl.load mask= and other=0.0"),
        edit("tl.trans(k)", "k",
             says="your scores are q k instead of q kᵀ, which has a shape only because D is BLOCK",
             next="transpose the tile of keys: tl.dot(q, tl.trans(k), …)"),
    ],
    alternatives=[
        edit("* scale", "* (scale * 1.4426950408889634)", "tl.exp(", "tl.exp2("),
        edit("tl.dot(q, tl.trans(k)", "tl.dot(k, tl.trans(q)",  # keys down, queries across
             "keys[None, :] < n_keys", "keys[:, None] < n_keys", "new_max[:, None]",
             "new_max[None, :]", "(scores, 1)", "(scores, 0)", "(weights, 1)", "(weights, 0)",
             "tl.dot(weights, v", "tl.dot(tl.trans(weights), v"),
        edit("new_max = tl.maximum(running_max, tl.max(scores, 1))",  # the lse as the maximum
             "top = tl.maximum(running_max, tl.max(scores, 1))\n"
             "        weights = tl.exp(scores - top[:, None])\n"
             "        new_max = top + tl.log(tl.exp(running_max - top) + tl.sum(weights, 1))"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.6"
# ## 09.6 Find two bugs in a backward pass
#
# *20 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/09_flash_backward.ipynb#Backward:-make-it-again)
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

# %% [markdown] role="hints" exercise="09.6"
# 1. One bug shows as soon as there are two tiles of keys, the other only where n_queries and n_keys
#    differ. Which quantity belongs to a whole row?
# 2. delta is a sum over all keys of a row. Inside the loop only one tile of them is at hand. And
#    query i sits at key position i + n_keys - n_queries.
# 3. Before the loops: delta = (out * grad_out).sum(-1, keepdims=True), and position =
#    np.arange(n_queries) + n_keys - n_queries; in the tile delta[r] and position[r].


# %% role="spec" exercise="09.6"
def backward_by_rows(grad_out, q, k, v, out, lse, block=64):
    ahead, factor = len(k) - len(q), q.shape[-1] ** -0.5
    dq, dk, dv = (np.zeros(array.shape, lse.dtype) for array in (q, k, v))
    for i in range(max(0, -ahead), len(q)):
        seen = slice(0, i + ahead + 1)
        p = np.exp(k[seen] @ q[i] * factor - lse[i])
        dp = v[seen] @ grad_out[i]
        ds = p * (dp - p @ dp) * factor
        dq[i] = ds @ k[seen]
        dk[seen] += ds[:, None] * q[i]
        dv[seen] += p[:, None] * grad_out[i]
    return tuple(array.astype(q.dtype, copy=False) for array in (dq, dk, dv))


def backward_of(name, n_queries, n_keys, width=7, value_width=5, **how):
    """Make a case (grad_out, q, k, v, out, lse)."""

    def make(rng):
        inputs = qkv("", (n_queries, width), keys=n_keys, value_width=value_width, **how)(rng).args
        out, lse = flash.forward(*inputs, block_q=64, block_k=64, causal=True)
        return case(name, rng.standard_normal(out.shape).astype(out.dtype), *inputs, out, lse)

    return make


def random_backward(rng):
    n_queries, n_keys = (int(x) for x in rng.integers(70, 200, 2))
    return backward_of(f"random, {n_queries} queries, {n_keys} keys", n_queries, n_keys)(rng)


def flash_backward(grad_out, q, k, v, out, lse, block=64):
    sizes = {"block_q": block, "block_k": block}
    return flash.backward(grad_out, q, k, v, out=out, lse=lse, causal=True, **sizes)


AHEAD = " + len(k) - len(q)"
OF_TILE = ("delta[r]", "(p * dp).sum(axis=-1, keepdims=True)")

Spec(
    kind="array",
    reference=flash_backward,
    tolerance=5e-4,  # P · (dP − delta) cancels: what it loses varies with the order of the sums
    cases=[
        backward_of("2 queries, 2 keys", 2, 2), backward_of("1 query, 6 keys", 1, 6),
        backward_of("6 queries, 2 keys: empty rows", 6, 2), backward_of("one tile", 32, 32),
        backward_of("two tiles of keys", 100, 100),
        backward_of("fewer queries than keys", 40, 150),
        backward_of("more queries than keys", 150, 40),
        backward_of("200 queries, 3 keys", 200, 3), backward_of("3 queries, 200 keys", 3, 200),
        backward_of("large scores", 30, 90, shift=17.0),
        backward_of("one query 4 times longer", 40, 90, longer=4),
        backward_of("float64", 130, 130, dtype=np.float64),
        random_backward,
    ],
    memory=Memory(
        backward_of("n = 1024", 1024, 1024, 64, 64),
        8 * 1024 * 64 * 4,
        "the three gradients and five arrays more: 8 · n · D · 4 bytes",
    ),
    mistakes=[
        edit(AHEAD, "", *OF_TILE,
             says="both bugs are still there: your gradients are those of the given code",
             next="compare with a single tile, block = 1000: which gradients change, and why?"),
        edit(AHEAD, "",
             says="one bug is left: query i is taken to sit at key i",
             next="the last query sits at the last key: add n_keys - n_queries"),
        edit(*OF_TILE,
             says="one bug is left: delta is summed over one tile of keys instead of the whole row",
             next="rowsum(p · dp) equals rowsum(out · grad_out): take that, before the loops"),
        edit(AHEAD, " + len(q) - len(k)",
             says="your positions move against the keys",
             next="query i sits at key position i + n_keys - n_queries"),
        edit("(dp - delta[r])", "dp",
             says="your dS is P · dP: the softmax's own derivative is missing",
             next="subtract delta from dP before you multiply by P"),
        edit("dp - delta", "dp + delta",
             says="your delta has the wrong sign: it is added to dP",
             next="subtract delta from dP before you multiply by P"),
        edit(", where=visible", "",
             says="your queries see the future",
             next="keep the mask: key position <= query position"),
        edit("ds.T @ q[r]", "ds.T @ q[r] / factor",
             says="your dk lacks the factor 1/√D",
             next="the factor was right in the given code: dq and dk both have it"),
        edit("ds @ k[c]", "ds @ k[c] / factor",
             says="your dq lacks the factor 1/√D",
             next="the factor was right in the given code: dq and dk both have it"),
        edit("scores - lse[r, None]", "scores",
             says="your weights are not normalised: exp(scores) without lse",
             next="a weight is exp(score - lse of its row)"),
        edit("np.exp(scores - lse[r, None], out=np.zeros_like(scores), where=visible)",
             "np.where(visible, np.exp(scores) / np.exp(lse[r, None]), 0).astype(q.dtype)",
             says="your weights are exp(score) / exp(lse): both overflow",
             next="subtract lse before np.exp: exp(score - lse)"),
        Mistake(lambda grad_out, q, k, v, *_, **__: full.backward(grad_out, q, k, v, causal=True),
                says="your numbers are right, but the tiles are gone: whole n × n arrays exist at "
                "once",
                next="repair the two lines, and keep the loops"),
    ],
    alternatives=[
        backward_by_rows,
        edit("for i in range(0, len(q), block):", "for j in range(0, len(k), block):",
             "    for j in range(0, len(k), block):\n            r,",
             "    for i in range(0, len(q), block):\n            r,"),
    ],
    variants=[edit("dq, dk, dv = (", f"block = {size}\n    dq, dk, dv = (")
              for size in (16, 32, 100, 128)],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="09.V2"
# ## 09.V2 A memory budget, with Flash in it
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/09_flash.ipynb#Memory:-prediction-beside-measurement)
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

# %% [markdown] role="hints" exercise="09.V2"
# 1. All four hold q, k and v, 3·n·d numbers for all heads. What does each hold besides?
# 2. Per head: n² scores; n·rank scores; the pairs of the window; one number per query. Linformer
#    also keeps K and V projected, 2·rank·d, and the two projections, 2·n·rank.
# 3. side = min(width // 2, n - 1); the window has n·(2·side + 1) - side·(side + 1) pairs. order =
#    tuple(sorted(names, key=bytes_of.get)).


# %% role="spec" exercise="09.V2"
def bytes_by_arrays(n, d, heads, rank, width, bytes_per_number):
    side = min(width // 2, n - 1)
    shapes = {
        "standard": [(heads, n, n)],
        "linformer": [(heads, n, rank), (rank, d), (rank, d), (rank, n), (rank, n)],
        "window": [(heads, n, 2 * side + 1), (-heads, side, side + 1)],
        "flash": [(heads, n)],
    }
    found = {
        name: sum(math.prod(shape) for shape in [(n, d)] * 3 + more) * bytes_per_number
        for name, more in shapes.items()
    }
    return found | {"order": tuple(name for _, name in sorted((b, a) for a, b in found.items()))}


def bytes_by_rows(n, d, heads, rank, width, bytes_per_number):
    side, names = width // 2, ("standard", "linformer", "window", "flash")
    seen = sum(min(n - 1, i + side) - max(0, i - side) + 1 for i in range(n))
    per_head = dict(zip(names, (n**2, n * rank, seen, n), strict=True))
    numbers = {name: 3 * n * d + heads * count for name, count in per_head.items()}
    numbers["linformer"] += 2 * rank * (n + d)
    order = tuple(sorted(names, key=numbers.__getitem__))
    return {name: count * bytes_per_number for name, count in numbers.items()} | {"order": order}


def draw_budget(rng):
    while True:
        n, head, heads, *rest = (
            int(x) for x in rng.integers((20, 2, 2, 5, 6, 2), (2000, 65, 13, 60, 36, 9))
        )
        arguments = (n, head * heads, heads, *rest)
        if len(set(attention_bytes(*arguments).values())) == 5:  # no two methods tie
            return arguments


Spec(
    kind="number",
    cases=[
        case("3 tokens", 3, 1, 1, 1, 2, 1),
        case("7 tokens", 7, 5, 1, 3, 2, 4),
        case("2 heads", 7, 10, 2, 3, 4, 4),
        case("odd width 5", 10, 4, 2, 3, 5, 2),
        case("a window of nearly everything", 6, 4, 2, 3, 9, 2),
        case("rank larger than n: Linformer holds most", 8, 4, 2, 30, 4, 4),
        case("the document's n = 4096, d = 768, as one head", 4096, 768, 1, 256, 512, 4),
        case("the same with its 12 heads", 4096, 768, 12, 256, 512, 4),
        *draws(5, draw_budget),
    ],
    mistakes=[
        edit("heads * ", "",
             says="your scores are those of one head, your q, k and v those of all heads",
             next="each head has scores of its own: multiply by heads"),
        edit(" + 2 * n * rank", "",
             says="your Linformer leaves out its two projections, as the document does",
             next="add E and F: 2·n·rank numbers, shared by the heads"),
        edit("2 * n * rank", "heads * 2 * n * rank",
             says="your Linformer has a pair of projections for each head",
             next="here all heads share E and F: 2·n·rank once"),
        edit(" + 2 * rank * d", "",
             says="your Linformer leaves out the projected K and V",
             next="add 2·rank·d numbers"),
        edit("min(width // 2, n - 1)", "width // 2", " - side * (side + 1)", "",
             says="your window gives every query the keys of one in the middle",
             next="subtract the two triangles that the edges cut off"),
        edit("(n * (2 * side + 1) - side * (side + 1))", "n * width",
             says="your window holds n·width numbers, the document's shorthand",
             next="count width // 2 keys on each side and the query's own, edges exact"),
        edit("width // 2", "width",
             says="your window has `width` keys on each side",
             next="in this exercise width is the total: width // 2 on each side, and the own key"),
        edit('"flash": heads', '"flash": 2 * heads',
             says="your Flash keeps two numbers per query",
             next="after the loop maximum and sum become one number, the log-sum-exp"),
        edit('"flash": heads * n', '"flash": 0',
             says="your Flash keeps nothing beside q, k and v",
             next="it keeps one number per query and head for the backward pass"),
        edit("key=held.get", "key=held.get, reverse=True",
             says="your order begins with the largest",
             next="order goes from the fewest bytes to the most"),
        edit("sorted(held, key=held.get)", "held",
             says="your order is the one in which the methods are named",
             next="sort the names by their bytes"),
        edit("3 * n * d + number", "number",
             says="your bytes leave out q, k and v",
             next="each method holds 3·n·d numbers more"),
    ],
    alternatives=[bytes_by_arrays, bytes_by_rows],
)  # fmt: skip

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
