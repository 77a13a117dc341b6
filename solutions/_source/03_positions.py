# %% [markdown]
# # 03 Exercises: positions and heads
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("03.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# A distance is **key position minus query position**: negative behind the query. If Tq ≠ Tk, the
# last query stands at the last key: query i sits at key position i + Tk − Tq.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.reference.relative import t5_bucket  # for 03.3

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, relative, t5
from attncourse.reference.relative import t5_bucket
from attncourse.softmax import softmax

AHEAD = " + n_keys - n_queries"


def random_map(rng, n_queries, n_keys, heads=(), dtype=np.float64, causal=True):
    """Draw weights (*heads, Tq, Tk) of attention, their rows of very different sharpness."""
    scores = (
        3 * rng.random((*heads, n_queries, 1)) * rng.standard_normal((*heads, n_queries, n_keys))
    )
    visible = np.tri(n_queries, n_keys, n_keys - n_queries, dtype=bool) if causal else None
    return softmax(scores, visible).astype(dtype)


# %% [markdown] role="prompt" exercise="03.1"
# ## 03.1 Places as sines
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/03_positions.ipynb#Order-is-lost)
#
# Return the vectors of some places, `(len(places), width)` in float32. `places` are integers up to
# 10⁷, `width` is even.
#
#     column 2i:      sin(p · 10000^(−2i / width))
#     column 2i + 1:  cos(p · 10000^(−2i / width))
#
# `sines(np.array([0, 1]), 2)` is `[[0, 1], [0.841, 0.540]]`.


# %% role="answer" exercise="03.1"
def sines(places, width):
    """Return float32 (len(places), width): sines in even columns, cosines in odd ones."""
    # BEGIN SOLUTION
    speed = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angle = places[:, None] * speed
    out = np.empty((len(places), width), np.float32)
    out[:, 0::2] = np.sin(angle)
    out[:, 1::2] = np.cos(angle)
    return out
    # END SOLUTION


# %% role="check" exercise="03.1"
check("03.1")

# %% [markdown] role="hints" exercise="03.1"
# 1. Make all angles first: a column of places times a row of width / 2 speeds.
# 2. speed = 10000 ** (-np.arange(0, width, 2) / width). Slices with a step, out[:, 0::2] and
#    out[:, 1::2], take every second column.
# 3. Compute the angles in float64: float32 has 24 bits, and an angle of 10⁷ needs most of them for
#    its whole turns. Round the sines to float32, not the angles.


# %% role="spec" exercise="03.1"
def sines_by_place(places, width):
    rows = [
        [
            (math.sin, math.cos)[column % 2](p * 10_000.0 ** (-(column // 2 * 2) / width))
            for column in range(width)
        ]
        for p in places.tolist()
    ]
    return np.array(rows, np.float32).reshape(len(places), width)


def sines_as_shifted(places, width):
    column = np.arange(width)
    angle = places[:, None] / 10_000.0 ** (column // 2 * 2 / width)
    return np.sin(angle + column % 2 * math.pi / 2).astype(np.float32)


Spec(
    kind="array",
    cases=[
        case("place 0", np.array([0]), 2),
        case("places 0 and 1, width 2", np.array([0, 1]), 2),
        case("width 4", np.array([0, 1, 2]), 4),
        case("width 6", np.array([5, 3]), 6),
        case("no place", np.array([], dtype=np.int64), 4),
        case("place 600, beyond any table", np.array([511, 512, 600]), 10),
        case("places up to 10⁷", np.array([10**5, 10**6 + 7, 10**7 - 1]), 14),
        *draws(3, lambda rng: (rng.integers(0, 1000, 5), 2 * int(rng.integers(2, 12))), "places"),
    ],
    tolerance=1e-5,
    mistakes=[
        edit("np.sin(angle)", "np.cos(angle)", "1::2] = np.cos(angle)", "1::2] = np.sin(angle)",
             says="your sines and cosines have changed places",
             next="even columns are sines, odd ones cosines"),
        edit("[:, 0::2]", "[:, : width // 2]", "[:, 1::2]", "[:, width // 2 :]",
             says="your sines come all before your cosines",
             next="sine and cosine of one angle stand side by side: columns 2i and 2i + 1"),
        edit("np.arange(0, width, 2) / width", "np.arange(width // 2) / width",
             says="your exponent is i / width",
             next="column 2i has the exponent 2i / width"),
        edit("np.arange(0, width, 2) / width", "np.arange(0, width, 2) / (width - 2)",
             says="your slowest speed is 1 / 10000",
             next="divide by width: the slowest pair is a little faster than that"),
        edit("** (-np", "** (np",
             says="your speeds grow from pair to pair",
             next="the exponent is negative: pair 0 is the fastest"),
        edit("angle = places[:, None] * speed",
             "angle = places[:, None].astype(np.float32) * speed.astype(np.float32)",
             says="your angles are float32: for large places whole tenths of a turn are rounded "
             "away",
             next="compute angles in float64, and round only the sines"),
        edit("places[:, None]", "np.arange(len(places))[:, None]",
             says="your rows are those of places 0, 1, 2 …, whatever is asked for",
             next="multiply the given places by the speeds"),
    ],
    alternatives=[sines_by_place, sines_as_shifted],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="03.2"
# ## 03.2 Relative values without a vector for each pair
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#A-vector-for-each-pair?)
#
# Shaw's output (Tq, Dv) from weights `p` (Tq, Tk), values `v` (Tk, Dv) and `relative_values`
# (2c + 1, Dv), all of one dtype; r is the distance, clipped to ±c, plus c.
#
#     out_i = Σ_j p_ij (v_j + relative_values[r])

# %% [markdown] role="prompt" exercise="03.2"
# **Memory limit** at 320 tokens, Dv = 64: eight arrays of n × n float32 numbers, 3.1 MiB. A vector
# for each pair is 64 of them.


# %% role="answer" exercise="03.2"
def relative_output(p, v, relative_values):
    """Return (Tq, Dv): the values and the relative values, weighed by p."""
    # BEGIN SOLUTION
    (n_queries, n_keys), clip = p.shape, len(relative_values) // 2
    position = np.arange(n_queries)[:, None] + n_keys - n_queries
    rows = np.clip(np.arange(n_keys) - position, -clip, clip) + clip
    sums = np.zeros((n_queries, 2 * clip + 1), p.dtype)  # the weight of each distance
    np.add.at(sums, (np.arange(n_queries)[:, None], rows), p)
    return p @ v + sums @ relative_values
    # END SOLUTION


# %% role="check" exercise="03.2"
check("03.2")

# %% [markdown] role="hints" exercise="03.2"
# 1. A query meets many keys and only 2c + 1 different relative values. How often does each count?
# 2. Split the sum: p @ v, and for each distance r the sum of all weights of that distance, times
#    relative_values[r]. The sums are (Tq, 2c + 1).
# 3. `sums[i, rows] += p` keeps only one of several keys with the same row; np.add.at adds all. Or
#    loop over the 2c + 1 rows: sums[:, r] = (p * (rows == r)).sum(axis=1).


# %% role="spec" exercise="03.2"
def output_by_rows(p, v, relative_values):
    clip, ahead = len(relative_values) // 2, p.shape[1] - p.shape[0]
    out = np.empty((len(p), v.shape[1]), v.dtype)
    for i, weights in enumerate(p):
        rows = np.clip(np.arange(len(v)) - i - ahead, -clip, clip) + clip
        out[i] = weights @ (v + relative_values[rows])
    return out


def output_by_distance(p, v, relative_values):
    clip, ahead = len(relative_values) // 2, p.shape[1] - p.shape[0]
    distance = np.arange(len(v)) - np.arange(len(p))[:, None] - ahead
    out = p @ v
    for r in range(-clip, clip + 1):
        same = distance <= r if r == -clip else distance == r
        same = distance >= r if r == clip else same
        same = np.ones_like(same) if clip == 0 else same
        out += np.where(same, p, 0).sum(axis=1)[:, None] * relative_values[r + clip]
    return out


def output_for_each_pair(p, v, relative_values):
    clip, ahead = len(relative_values) // 2, p.shape[1] - p.shape[0]
    distance = np.arange(len(v)) - np.arange(len(p))[:, None] - ahead
    vectors = v + relative_values[np.clip(distance, -clip, clip) + clip]
    return (p[:, None] @ vectors)[:, 0]


def values_case(name, n_queries, n_keys, clip, width=3, dtype=np.float32, causal=True):
    def make(rng):
        p = random_map(rng, n_queries, n_keys, dtype=dtype, causal=causal)
        v = rng.standard_normal((n_keys, width)).astype(dtype)
        return case(name, p, v, rng.standard_normal((2 * clip + 1, width)).astype(dtype))

    return make


Spec(
    kind="array",
    reference=output_by_rows,
    cases=[
        values_case("1 token", 1, 1, 1), values_case("3 tokens, c = 1", 3, 3, 1, causal=False),
        values_case("c = 0: one vector for all", 4, 4, 0, causal=False),
        values_case("c larger than n", 4, 4, 9, causal=False),
        values_case("7 tokens, c = 2", 7, 7, 2, width=5, causal=False),
        values_case("causal", 7, 7, 2), values_case("2 queries, 9 keys", 2, 9, 3),
        values_case("9 queries, 4 keys: empty rows", 9, 4, 2),
        values_case("float64", 11, 11, 3, dtype=np.float64, causal=False),
        values_case("41 queries, 30 keys", 41, 30, 6, causal=False),
    ],
    memory=Memory(
        values_case("n = 320", 320, 320, 8, width=64),
        8 * 320**2 * 4,
        "eight n × n float32 arrays: 8 · n² · 4 bytes",
    ),
    mistakes=[
        Mistake(output_for_each_pair,
                says="your numbers are right, but each pair gets a vector of its own: n × n × Dv "
                "numbers",
                next="add up the weights of each distance first, then multiply by the table"),
        edit("np.add.at(sums, (np.arange(n_queries)[:, None], rows), p)",
             "sums[np.arange(n_queries)[:, None], rows] += p",
             says="your sums keep one of the keys that share a clipped distance",
             next="`sums[i, rows] += p` writes each place once; np.add.at adds every time"),
        edit(AHEAD, "",
             says="your distances put query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("np.arange(n_keys) - position", "position - np.arange(n_keys)",
             says="your distance is query minus key: the table is read from its wrong end",
             next="distance is key position minus query position"),
        edit("p @ v + ", "",
             says="your output has the relative values alone",
             next="add p @ v"),
        edit("return p @ v + sums", "return p @ v + np.sign(sums)",
             says="your relative values are not weighed",
             next="multiply each by the sum of the weights at that distance"),
        edit("np.clip(np.arange(n_keys) - position, -clip, clip) + clip",
             "np.clip(np.arange(n_keys) - position + clip, 0, 2 * clip - (clip > 0))",
             says="your last row of the table is never read",
             next="the table has 2c + 1 rows: clip to -c … c, then add c"),
    ],
    alternatives=[output_by_rows, output_by_distance],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="03.V11"
# ## 03.V11 T5's buckets
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#Buckets)
#
# Return the bucket of each distance d, integers in the shape of `distance`. h = n_buckets / 2 are
# for d ≤ 0; h more, from number h on, for d > 0. In each half, with s = |d|, e = h // 2:
#
#     s < e:  s
#     s ≥ e:  e + ⌊(h − e) · ln(s / e) / ln(max_distance / e)⌋, at most h − 1

# %% [markdown] role="prompt" exercise="03.V11"
# `buckets(np.array([-9, -1, 0, 1, 9]), 8, 16)` is `[3, 1, 0, 5, 7]`.


# %% role="answer" exercise="03.V11"
def buckets(distance, n_buckets, max_distance):
    """Return int, shaped as distance: 0 ... n_buckets - 1."""
    # BEGIN SOLUTION
    half = n_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    share = np.log(np.maximum(size, exact) / exact) / np.log(max_distance / exact)
    wide = np.minimum(exact + ((half - exact) * share).astype(int), half - 1)
    return np.where(size < exact, size, wide) + half * (distance > 0)
    # END SOLUTION


# %% role="check" exercise="03.V11"
check("03.V11")

# %% [markdown] role="hints" exercise="03.V11"
# 1. Work with |d| in 0 … h − 1 first, and add h for the keys after the query at the end.
# 2. np.where computes both sides for all: keep the logarithm from seeing 0 by
#    np.maximum(size, exact). astype(int) rounds down what is positive.
# 3. wide = np.minimum(exact + ((half - exact) * share).astype(int), half - 1), then
#    np.where(size < exact, size, wide) + half * (distance > 0).


# %% role="spec" exercise="03.V11"
def buckets_one_by_one(distance, n_buckets, max_distance):
    half, out = n_buckets // 2, np.empty(distance.shape, int)
    exact = half // 2
    for place, d in np.ndenumerate(distance):
        size, bucket = abs(int(d)), abs(int(d))
        if size >= exact:
            share = math.log(size / exact) / math.log(max_distance / exact)
            bucket = min(half - 1, exact + int((half - exact) * share))
        out[place] = bucket + (half if d > 0 else 0)
    return out


def buckets_by_edges(distance, n_buckets, max_distance):
    """Look each distance up among the first ones of all buckets."""
    half = n_buckets // 2
    exact = half // 2
    every = np.arange(exact, max(max_distance, exact) + 2)
    grown = exact + (half - exact) * np.log(every / exact) / np.log(max_distance / exact)
    first = [every[np.argmax(grown >= b)] for b in range(exact + 1, half)]
    edges = [*range(1, exact + 1), *first]
    return np.searchsorted(edges, np.abs(distance), side="right") + half * (distance > 0)


AROUND = np.arange(-12, 13)

Spec(
    kind="array",
    reference=lambda d, n_buckets, max_distance: relative.t5_bucket(
        d, n_buckets=n_buckets, max_distance=max_distance
    ),
    cases=[
        case("distance 0", np.array([0]), 8, 16),
        case("the example", np.array([-9, -1, 0, 1, 9]), 8, 16),
        case("8 buckets, distances -12 … 12", AROUND, 8, 11),
        case("12 buckets: an odd half of a half", AROUND, 12, 30),
        case("4 buckets", AROUND, 4, 7),
        case("T5's own, all distances up to 200", np.arange(-200, 201), 32, 127),
        case("far beyond max_distance", np.array([-(10**6), -131, 131, 10**6]), 32, 130),
        case("a table of distances", AROUND[:5] - AROUND[:7, None], 20, 50),
        *draws(2, lambda rng: (rng.integers(-300, 300, (4, 6)), 28, 211), "distances"),
    ],
    mistakes=[
        edit("(distance > 0)", "(distance < 0)",
             says="your buckets of the two directions have changed places",
             next="the upper half is for keys after the query, d > 0"),
        edit("(distance > 0)", "(distance >= 0)",
             says="your distance 0 is counted to the keys after the query",
             next="T5 counts it to those before: add h only for d > 0"),
        edit(" + half * (distance > 0)", "",
             says="your buckets do not tell before from after",
             next="keys after the query have the upper half of the buckets"),
        edit("half // 2", "half",
             "((half - exact) * share).astype(int)", "0 * size", "share = ", "share = 0 * size  #",
             says="your buckets all hold one distance, up to the last",
             next="only the first half of a direction's buckets do; then they grow"),
        edit("((half - exact) * share).astype(int)", "np.rint((half - exact) * share).astype(int)",
             says="your wide buckets are rounded to the nearest number",
             next="round down: ⌊ ⌋"),
        edit("(half - exact) * share", "(half - exact) * np.minimum(size / max_distance, 1)",
             says="your wide buckets are all equally wide",
             next="they grow with the distance: take logarithms"),
        edit("np.log(max_distance / exact)", "np.log(max_distance)",
             says="your logarithm does not start at e",
             next="divide both by e: ln(s / e) / ln(max_distance / e)"),
        edit(".astype(int), half - 1)", ".astype(int), half)",
             says="your last bucket of one direction is the first of the other",
             next="at most h − 1"),
        edit("n_buckets // 2", "n_buckets",
             says="your buckets are those of one direction alone",
             next="each direction has half of them"),
    ],
    alternatives=[buckets_one_by_one, buckets_by_edges],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what distance does</summary>
#
# A textbook says that T5's scores fall with the distance. Your buckets say something else: what
# grows is how many distances share a number, from 1 to 27 with T5's sizes, and all the rest in the
# last. Whether the numbers fall is up to training.
#
# </details>

# %% [markdown] role="prompt" exercise="03.3"
# ## 03.3 T5's bias, a tile at a time
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/03_positions.ipynb#Buckets)
#
# q (H, Tq, D), k (H, Tk, D), v (H, Tk, Dv), table (n_buckets, H). Result (H, Tq, Dv), dtype of q.
# T5 does not divide by √D. With the bucket of each pair's distance:
#
#     out = softmax(q kᵀ + bias) v,  bias[h, i, j] = table[bucket, h]
#     bucket = t5_bucket(distance, n_buckets=len(table), max_distance=max_distance)

# %% [markdown] role="prompt" exercise="03.3"
# **Memory limit** at 4 heads and n = 768: 6.75 MiB, three quarters of the whole bias.


# %% role="answer" exercise="03.3"
def t5_attention(q, k, v, table, max_distance):
    """Return (H, Tq, Dv): attention with T5's bias, for both directions."""
    # BEGIN SOLUTION
    n_queries, n_keys, block = q.shape[1], k.shape[1], 32
    out = np.empty((*q.shape[:2], v.shape[2]), q.dtype)
    for start in range(0, n_queries, block):
        rows = slice(start, min(start + block, n_queries))
        position = np.arange(rows.start, rows.stop)[:, None] + n_keys - n_queries
        distance = np.arange(n_keys) - position
        bucket = t5_bucket(distance, n_buckets=len(table), max_distance=max_distance)
        scores = q[:, rows] @ k.swapaxes(1, 2) + np.moveaxis(table[bucket], 2, 0)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        out[:, rows] = weights @ v
    return out
    # END SOLUTION


# %% role="check" exercise="03.3"
check("03.3")

# %% [markdown] role="hints" exercise="03.3"
# 1. A row of the softmax needs no other row. So which part of the bias must be there at once?
# 2. Loop over blocks of queries. For each make its distances (block, Tk), their buckets, and
#    table[bucket], which is (block, Tk, H): move the last axis to the front.
# 3. distance = np.arange(Tk) - (np.arange(start, stop)[:, None] + Tk - Tq); scores = q[:, rows] @
#    k.swapaxes(1, 2) + np.moveaxis(table[bucket], 2, 0); then a stable softmax, times v.


# %% role="spec" exercise="03.3"
def whole_t5(q, k, v, table, max_distance):
    distance = np.arange(k.shape[1]) - np.arange(q.shape[1])[:, None] - k.shape[1] + q.shape[1]
    bucket = t5_bucket(distance, n_buckets=len(table), max_distance=max_distance)
    return full.attention(q, k, v, bias=np.moveaxis(table[bucket], 2, 0), scale=1.0)


def t5_by_rows(q, k, v, table, max_distance):
    n_queries, n_keys = q.shape[1], k.shape[1]
    reach = np.arange(-n_queries - n_keys, n_queries + n_keys + 1)
    biases = table[t5_bucket(reach, n_buckets=len(table), max_distance=max_distance)].T
    out = np.empty((*q.shape[:2], v.shape[2]), q.dtype)
    for i in range(n_queries):
        first = n_queries + n_keys - (i + n_keys - n_queries)
        scores = (k @ q[:, i, :, None])[..., 0] + biases[:, first : first + n_keys]
        out[:, i] = (softmax(scores)[:, None] @ v)[:, 0]
    return out


def t5_case(name, shape, n_buckets, max_distance, **how):
    def make(rng):
        inputs = qkv("", shape, **how)(rng).args
        table = 2 * rng.standard_normal((n_buckets, shape[0]))
        return case(name, *inputs, table.astype(inputs[0].dtype), max_distance)

    return make


Spec(
    kind="array",
    exponents=lambda q, k, v, table, _: q @ k.swapaxes(-1, -2),
    reference=lambda q, k, v, table, max_distance: t5.attention(
        q, k, v, table=table, max_distance=max_distance, scale=1.0
    ),
    cases=[
        t5_case("1 token", (1, 1, 2), 4, 3), t5_case("3 tokens", (1, 3, 2), 4, 3),
        t5_case("2 heads", (2, 5, 4), 8, 6), t5_case("2 queries, 9 keys", (3, 2, 4), 8, 5, keys=9),
        t5_case("9 queries, 2 keys", (2, 9, 4), 8, 5, keys=2),
        t5_case("values narrower than keys", (2, 6, 5), 12, 9, value_width=3),
        t5_case("float64", (2, 7, 4), 8, 6, dtype=np.float64),
        t5_case("float64, large scores", (2, 7, 4), 8, 6, dtype=np.float64, shift=40.0),
        t5_case("large scores", (2, 6, 4), 8, 6, shift=12.0),
        t5_case("3 heads, 70 tokens", (3, 70, 4), 32, 40),
        t5_case("45 queries, 80 keys", (2, 45, 4), 32, 60, keys=80),
    ],
    memory=Memory(
        t5_case("n = 768", (4, 768, 16), 32, 128),
        3 * 768**2 * 4,
        "three quarters of the bias (H, n, n): 3 · n² · 4 bytes for 4 heads",
    ),
    mistakes=[
        Mistake(whole_t5,
                says="your numbers are right, but the bias of all pairs exists at once",
                next="loop over blocks of queries and make the bias of each block alone"),
        edit("q[:, rows] @", "q[:, rows] / q.shape[2] ** 0.5 @",
             says="your scores are divided by √D",
             next="T5 leaves that out"),
        edit(AHEAD, "",
             says="your distances put query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("np.arange(n_keys) - position", "position - np.arange(n_keys)",
             says="your distance is query minus key",
             next="distance is key position minus query position"),
        edit("np.arange(rows.start, rows.stop)", "np.arange(rows.stop - rows.start)",
             says="your positions begin at 0 in each block",
             next="the first query of a block sits `start` further on"),
        edit(" + np.moveaxis(table[bucket], 2, 0)", "",
             says="your scores have no bias",
             next="add table[bucket], its heads moved to the front"),
        edit("np.moveaxis(table[bucket], 2, 0)", "table[bucket][..., 0]",
             says="your heads all have the bias of head 0",
             next="each head has a column of the table"),
        edit("np.moveaxis(table[bucket], 2, 0)", "np.moveaxis(table[::-1][bucket], 2, 0)",
             says="your table is read from its last row on",
             next="bucket 0 is row 0"),
        edit("scores - scores.max(axis=2, keepdims=True)", "scores",
             says="your softmax overflows: e to the power of a large score",
             next="subtract each row's maximum first"),
    ],
    alternatives=[t5_by_rows, edit("np.moveaxis(table[bucket], 2, 0)", "table.T[:, bucket]")],
    variants=[edit("block = q.shape[1], k.shape[1], 32", f"block = q.shape[1], k.shape[1], {size}")
              for size in (16, 64)],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="03.4"
# ## 03.4 Turn the pairs
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#Turn-them)
#
# RoPE: turn each pair of numbers of `x` (..., T, D), columns 2i and 2i + 1, by an angle t. A token
# at position p, an entry of `positions` (T,) up to 10⁷, has
#
#     t = p · base^(−2i / D)
#     (a, b) -> (a cos t − b sin t, a sin t + b cos t)
#
# Result in the shape and dtype of x.

# %% [markdown] role="prompt" exercise="03.4"
# `turn(np.array([[1.0, 0.0]]), np.array([1]), 10_000.0)` is `[[0.540, 0.841]]`.


# %% role="answer" exercise="03.4"
def turn(x, positions, base):
    """Return x (..., T, D), each pair of its numbers turned by its position."""
    # BEGIN SOLUTION
    width = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, width, 2) / width)  # (T, D/2), float64
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out
    # END SOLUTION


# %% role="check" exercise="03.4"
check("03.4")

# %% [markdown] role="hints" exercise="03.4"
# 1. Angles first: a column of positions times a row of D / 2 speeds. They serve every head and
#    batch.
# 2. even, odd = x[..., 0::2], x[..., 1::2]. Both results need both of them: do not overwrite one
#    before the other is computed.
# 3. out[..., 0::2] = even * cos - odd * sin and out[..., 1::2] = even * sin + odd * cos, with
#    angles in float64.


# %% role="spec" exercise="03.4"
def turn_as_complex(x, positions, base):
    width = x.shape[-1]
    pairs = x[..., 0::2] + 1j * x[..., 1::2].astype(np.float64)
    angle = positions[:, None] * base ** (-np.arange(width // 2) * 2 / width)
    turned = pairs * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape).astype(x.dtype)


def turn_by_matrices(x, positions, base):
    out = np.empty_like(x)
    for t, position in enumerate(positions.tolist()):
        for i in range(0, x.shape[-1], 2):
            angle = position * base ** (-i / x.shape[-1])
            c, s = math.cos(angle), math.sin(angle)
            out[..., t, i : i + 2] = x[..., t, i : i + 2] @ np.array([[c, s], [-s, c]])
    return out


def turn_by_halves(x, positions, base):
    width = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, width, 2) / width)
    cos, sin = np.repeat(np.cos(angle), 2, axis=-1), np.repeat(np.sin(angle), 2, axis=-1)
    first, second = np.split(x, 2, axis=-1)
    return (x * cos + np.concatenate([-second, first], axis=-1) * sin).astype(x.dtype)


def turn_case(name, shape, positions=None, base=10_000.0, dtype=np.float32):
    def make(rng):
        places = np.arange(shape[-2]) if positions is None else np.array(positions)
        return case(name, rng.standard_normal(shape).astype(dtype), places, base)

    return make


Spec(
    kind="array",
    reference=lambda x, positions, base: relative.rotate(x, positions, base=base),
    cases=[
        turn_case("position 0", (1, 2), base=5.0), turn_case("2 tokens, one pair", (2, 2)),
        turn_case("3 tokens, two pairs", (3, 4)), turn_case("another base", (3, 6), base=50.0),
        turn_case("positions 7, 3, 600", (3, 6), [7, 3, 600]),
        turn_case("2 heads", (2, 4, 6)), turn_case("batch of 2, 3 heads", (2, 3, 5, 4)),
        turn_case("float64", (4, 10), dtype=np.float64),
        turn_case("positions up to 10⁷", (3, 12), [10**5, 10**6 + 7, 10**7 - 1]),
        turn_case("41 tokens, width 22", (41, 22)),
    ],
    tolerance=1e-5,
    mistakes=[
        edit("x[..., 0::2], x[..., 1::2]", "np.split(x, 2, axis=-1)",
             "out[..., 0::2]", "out[..., : width // 2]", "out[..., 1::2]", "out[..., width // 2 :]",
             says="your pairs are i and i + D/2, as in Llama",
             next="here a pair is two neighbours, columns 2i and 2i + 1"),
        Mistake(turn_by_halves,
                says="your angles are those of neighbours, your pairs are i and i + D/2",
                next="turn columns 2i and 2i + 1 together, both by angle i"),
        edit("cos - odd", "cos + odd", "sin + odd", "-sin + odd",
             says="your pairs turn backwards",
             next="check the signs: (a cos t − b sin t, a sin t + b cos t)"),
        edit("np.arange(0, width, 2) / width", "np.arange(width // 2) / width",
             says="your exponent is i / D",
             next="pair i has the exponent 2i / D"),
        edit("** (-np", "** (np",
             says="your speeds grow from pair to pair",
             next="the exponent is negative: pair 0 is the fastest"),
        edit("positions[:, None]", "np.arange(len(positions))[:, None]",
             says="your tokens stand at 0, 1, 2 …, whatever their positions are",
             next="multiply the given positions by the speeds"),
        edit("positions[:, None] *", "positions[:, None].astype(np.float32) *",
             "(-np.arange(0, width, 2) / width)",
             "(-np.arange(0, width, 2, dtype=np.float32) / np.float32(width))",
             "astype(np.float32) * base", "astype(np.float32) * np.float32(base)",
             says="your angles are float32: at large positions they are rounded away",
             next="compute angles in float64, and round cosine and sine only"),
        edit("= even * sin", "= out[..., 0::2] * sin",
             says="your second number is made from the first one already turned",
             next="both need the old pair: keep it until both are computed"),
        edit("base **", "10_000.0 **",
             says="your base is always 10000",
             next="use the argument"),
    ],
    alternatives=[turn_as_complex, turn_by_matrices],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="03.V13"
# ## 03.V13 What a head looks at
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#Reading-a-heat-map)
#
# Read three means over all Tq queries off each map of `maps` (H, Tq, Tk): the weight on the own
# token; on the token before; and, of all keys, the largest mean weight that one gets.

# %% [markdown] role="prompt" exercise="03.V13"
# A token that does not exist gets 0. Result (H, 3), dtype of maps.
#
# Three tokens that each look at the first alone: `[[1/3, 1/3, 1]]`.


# %% role="answer" exercise="03.V13"
def looks(maps):
    """Return (H, 3): mean weight on oneself, on the token before, on the key that gets most."""
    # BEGIN SOLUTION
    n_queries, n_keys = maps.shape[-2:]
    position = np.arange(n_queries) + n_keys - n_queries
    out = np.empty((len(maps), 3), maps.dtype)
    for column, back in enumerate((0, 1)):
        there = position - back >= 0
        weights = maps[:, np.flatnonzero(there), position[there] - back]
        out[:, column] = weights.sum(axis=1) / n_queries
    out[:, 2] = maps.mean(axis=1).max(axis=1)
    return out
    # END SOLUTION


# %% role="check" exercise="03.V13"
check("03.V13")

# %% [markdown] role="hints" exercise="03.V13"
# 1. Own tokens lie on a diagonal of the map, the tokens before on the one below it. Which diagonal,
#    if Tq ≠ Tk?
# 2. np.diagonal(maps, offset, 1, 2) takes one; Tk − Tq is the own token's. A mean over queries
#    divides by Tq, however long the diagonal is.
# 3. own = np.diagonal(maps, Tk - Tq, 1, 2).sum(axis=1) / Tq; before: offset Tk - Tq - 1; loudest:
#    maps.mean(axis=1).max(axis=1).


# %% role="spec" exercise="03.V13"
def looks_by_diagonals(maps):
    _, n_queries, n_keys = maps.shape
    ahead = n_keys - n_queries
    found = [
        np.diagonal(maps, offset, 1, 2).sum(axis=1) / n_queries
        if -n_queries < offset < n_keys
        else np.zeros(len(maps))
        for offset in (ahead, ahead - 1)
    ]
    return np.stack([*found, maps.mean(axis=1).max(axis=1)], axis=1).astype(maps.dtype)


def looks_by_masks(maps):
    _, n_queries, n_keys = maps.shape
    distance = np.arange(n_keys) - np.arange(n_queries)[:, None] - n_keys + n_queries
    masked = [np.where(distance == d, maps, 0).sum(axis=(1, 2)) / n_queries for d in (0, -1)]
    return np.stack([*masked, (maps.sum(axis=1) / n_queries).max(axis=1)], axis=1).astype(
        maps.dtype
    )


def map_case(name, heads, n_queries, n_keys, dtype=np.float64, causal=True):
    return lambda rng: case(
        name, random_map(rng, n_queries, n_keys, (heads,), dtype=dtype, causal=causal)
    )


Spec(
    kind="array",
    cases=[
        case("1 token", np.ones((1, 1, 1))),
        case("all look at the first", np.eye(3)[[[0, 0, 0]]]),
        case("all look at themselves", np.eye(3)[[[0, 1, 2]]]),
        case("all look at the token before", np.eye(4)[[[0, 0, 1, 2]]]),
        map_case("2 heads, causal", 2, 5, 5), map_case("2 heads", 2, 5, 5, causal=False),
        map_case("3 queries, 7 keys", 2, 3, 7), map_case("7 queries, 3 keys: empty rows", 3, 7, 3),
        map_case("float32", 2, 6, 6, dtype=np.float32), map_case("4 heads, 23 tokens", 4, 23, 23),
    ],
    mistakes=[
        edit(AHEAD, "",
             says="your maps have query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("weights.sum(axis=1) / n_queries", "weights.mean(axis=1)",
             says="your means leave out the queries that have no such token",
             next="a token that does not exist gets 0: divide by Tq"),
        edit("maps.mean(axis=1).max(axis=1)", "maps.max(axis=1).max(axis=1)",
             says="your third number is the brightest cell",
             next="take the mean of each column first, then the largest of these"),
        edit("maps.mean(axis=1).max(axis=1)", "maps.max(axis=1).mean(axis=1)",
             says="your third number is the mean of each key's brightest cell",
             next="take the mean of each column first, then the largest of these"),
        edit("maps.mean(axis=1).max(axis=1)", "maps.max(axis=2).mean(axis=1)",
             says="your third number lets each query choose its own key",
             next="one key for all queries: means of columns, then the largest"),
        edit("(0, 1)", "(0, -1)", "there = position - back >= 0",
             "there = (position - back >= 0) & (position - back < n_keys)",
             says="your second number is about the token after",
             next="the token before lies one column to the left of the diagonal"),
        edit("there = position - back >= 0", "there = position >= 0",
             says="your first query looks round the corner: index -1 is the last key",
             next="leave out what has no token before"),
    ],
    alternatives=[looks_by_diagonals, looks_by_masks],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: which linguistic patterns?</summary>
#
# A textbook expects subject and verb, article and noun. Three numbers a head tell you where it
# looks, not what for: to find grammar in a map, one needs sentences whose grammar is marked, and a
# base line, such as "always the token before". [Clark et al.
# 2019](https://arxiv.org/abs/1906.04341) did that for BERT.
#
# </details>

# %% [markdown] role="prompt" exercise="03.5"
# ## 03.5 Find the induction head
#
# *20 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#What-the-heads-of-a-real-model-do)
#
# An induction head attends to what came after an earlier copy of the token it reads. Query i
# *matches* key j ≤ i if token j − 1 is token i: in 7 8 7, query 2 matches key 1.

# %% [markdown] role="prompt" exercise="03.5"
# For `ids` (T,) and `maps` (H, T, T), return each head's weight on all matches of a query, averaged
# over the queries that have one; zeros if none has. Result (H,), dtype of maps.


# %% role="answer" exercise="03.5"
def induction_score(ids, maps):
    """Return the mean weight on tokens that follow an earlier copy: (H,)."""
    # BEGIN SOLUTION
    same = ids[:, None] == ids[None, :]  # query, key
    match = np.zeros(same.shape, bool)
    match[:, 1:] = same[:, :-1]
    match &= np.tri(len(ids), dtype=bool)
    weights = np.where(match, maps, 0).sum(axis=2)  # (H, T)
    asks = match.any(axis=1)
    return weights[:, asks].mean(axis=1) if asks.any() else np.zeros(len(maps), maps.dtype)
    # END SOLUTION


# %% role="check" exercise="03.5"
check("03.5")

# %% [markdown] role="hints" exercise="03.5"
# 1. Compare all tokens with all: a T × T array says which are copies. Where is the token *after* a
#    copy?
# 2. Move that array one column to the right: match[:, 1:] = same[:, :-1]. Then keep what is not in
#    the future, np.tri.
# 3. weights = (maps * match).sum(axis=2); average over the queries where match.any(axis=1); if
#    there are none, return zeros.


# %% role="spec" exercise="03.5"
def score_by_search(ids, maps):
    total, count = np.zeros(len(maps)), 0
    for i in range(len(ids)):
        after = [j for j in range(1, i + 1) if ids[j - 1] == ids[i]]
        if after:
            total += maps[:, i, after].sum(axis=-1, dtype=np.float64)
            count += 1
    return (total / max(count, 1)).astype(maps.dtype)


def score_by_products(ids, maps):
    known = np.unique(ids)
    one_hot = (ids[:, None] == known).astype(np.float64)
    before = np.concatenate([np.zeros((1, len(known))), one_hot[:-1]])
    match = np.tril(one_hot @ before.T)
    asks = match.sum(axis=1) > 0
    found = np.einsum("hij,ij->h", maps.astype(np.float64), match)
    return (found / max(asks.sum(), 1)).astype(maps.dtype)


def induction_case(name, ids, heads=(1,), dtype=np.float32):
    return lambda rng: case(
        name, np.array(ids), random_map(rng, len(ids), len(ids), heads, dtype=dtype)
    )


def random_induction(kinds):
    return lambda rng: induction_case(
        f"random, 30 tokens of {kinds} kinds", rng.integers(0, kinds, 30), (3,)
    )(rng)


Spec(
    kind="array",
    cases=[
        induction_case("1 token", [3]), induction_case("no token twice", [3, 1, 2], (2,)),
        induction_case("7 8 7", [7, 8, 7]), induction_case("7 7", [7, 7], (2,)),
        induction_case("2 heads", [1, 2, 3, 1, 2, 3], (2,)),
        induction_case("three copies", [5, 1, 5, 2, 5, 3, 5], (4,)),
        induction_case("float64", [4, 4, 1, 4, 0], (3,), np.float64),
        random_induction(9), random_induction(40),
    ],
    mistakes=[
        edit("match[:, 1:] = same[:, :-1]", "match[:] = same",
             says="your heads are scored for looking at the copy itself",
             next="an induction head looks at the token after it: one column further right"),
        edit("match[:, 1:] = same[:, :-1]", "match[:, :-1] = same[:, 1:]",
             says="your matches are the tokens before a copy",
             next="shift to the right: match[:, 1:] = same[:, :-1]"),
        edit("match &= np.tri(len(ids), dtype=bool)", "",
             says="your matches include copies that are yet to come",
             next="keep j <= i only, or queries without an earlier copy are counted too"),
        edit("np.tri(len(ids), dtype=bool)", "np.tri(len(ids), k=-1, dtype=bool)",
             says="your matches leave out a copy right before the query",
             next="j = i counts: the token after the copy is then the query's own"),
        edit("weights[:, asks].mean(axis=1)", "weights.mean(axis=1)",
             says="your mean is over all queries, also those that have no copy",
             next="average over the queries with a match"),
        edit("weights[:, asks].mean(axis=1)",
             "(weights[:, asks] / match.sum(axis=1)[asks]).mean(axis=1)",
             says="your weight is a mean over the matches of a query",
             next="add the weights of all its matches"),
        edit("match &= np.tri(len(ids), dtype=bool)",
             "match &= np.tri(len(ids), dtype=bool)\n"
             "    match &= np.cumsum(match[:, ::-1], axis=1)[:, ::-1] == 1",
             says="your weight is that on the latest match alone",
             next="add the weights of all its matches"),
        edit("if asks.any() else np.zeros(len(maps), maps.dtype)", "",
             says="your score is NaN where no token comes twice",
             next="return zeros then"),
    ],
    alternatives=[score_by_search, score_by_products],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="03.6"
# ## 03.6 A window for a map
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/03_positions.ipynb#Choosing-a-pattern-from-maps)
#
# A pattern shows each query its own key, the w before it and the first g. Return the smallest
# w ≥ 0 that keeps at least `share` < 1 of all weight in a causal map `weights` (Tq, Tk); 0 for
# zeros.

# %% [markdown] role="prompt" exercise="03.6"
# Three tokens that all look at the first: with g = 0 and share 0.9 it is 2; with g = 1 it is 0.


# %% role="answer" exercise="03.6"
def smallest_window(weights, g, share):
    """Return the smallest window, an int, that keeps at least `share` of the weight."""
    # BEGIN SOLUTION
    n_queries, n_keys = weights.shape
    back = np.arange(n_queries)[:, None] + n_keys - n_queries - np.arange(n_keys)
    back = np.where(np.arange(n_keys) < g, 0, np.maximum(back, 0))
    at = np.bincount(back.ravel(), weights.ravel())  # the weight at each distance
    return int(np.argmax(np.cumsum(at) >= share * weights.sum()))
    # END SOLUTION


# %% role="check" exercise="03.6"
check("03.6")

# %% [markdown] role="hints" exercise="03.6"
# 1. How much weight lies exactly d tokens back, for each d? The first g keys need no window.
# 2. Add these up from d = 0 on. The answer is the first place where the sum reaches share times
#    all the weight.
# 3. back = i + Tk − Tq − j, and 0 for the first g keys; np.bincount(back.ravel(), weights.ravel())
#    adds up the weight at each distance; np.argmax(np.cumsum(…) >= share * weights.sum()).


# %% role="spec" exercise="03.6"
def window_by_trying(weights, g, share):
    n_queries, n_keys = weights.shape
    back = np.arange(n_queries)[:, None] + n_keys - n_queries - np.arange(n_keys)
    w = 0
    while weights[(back <= w) | (np.arange(n_keys) < g)].sum() < share * weights.sum():
        w += 1
    return w


def window_by_diagonals(weights, g, share):
    rest, ahead = np.where(np.arange(weights.shape[1]) < g, 0, weights), np.diff(weights.shape)[0]
    kept, w = weights[:, :g].sum() + np.trace(rest, ahead), 0
    while kept < share * weights.sum():
        w += 1
        kept += np.trace(rest, ahead - w)
    return w


def window_case(name, n_queries, n_keys, g, share):
    return lambda rng: case(name, random_map(rng, n_queries, n_keys), g, share)


FIRST = np.eye(3)[[0, 0, 0]]

Spec(
    kind="number",
    cases=[
        window_case("1 token", 1, 1, 0, 0.9),
        case("all look at the first, g = 0", FIRST, 0, 0.9),
        case("all look at the first, g = 1", FIRST, 1, 0.9),
        case("half look at the first", np.eye(6)[[0, 0, 0, 3, 4, 5]], 0, 0.7),
        case("a map of zeros", np.zeros((3, 3)), 0, 0.9),
        case("exactly the share", np.eye(4)[[0, 0, 0, 0]], 0, 0.5),
        window_case("9 tokens, g = 0", 9, 9, 0, 0.9),
        window_case("9 tokens, g = 2", 9, 9, 2, 0.9), window_case("g larger than n", 4, 4, 7, 0.9),
        window_case("3 queries, 12 keys", 3, 12, 1, 0.8),
        window_case("12 queries, 5 keys: empty rows", 12, 5, 0, 0.8),
        window_case("50 tokens, half of the weight", 50, 50, 2, 0.5),
        window_case("50 tokens, nearly all of it", 50, 50, 0, 0.99),
    ],
    mistakes=[
        edit("np.where(np.arange(n_keys) < g, 0, np.maximum(back, 0))", "np.maximum(back, 0)",
             says="your pattern has no global keys",
             next="the first g keys are seen from everywhere: they need no window"),
        edit("np.arange(n_keys) < g", "np.arange(n_keys) <= g",
             says="your pattern has one global key too many",
             next="the first g keys are 0 … g − 1"),
        edit(AHEAD, "",
             says="your distances put query i at key i, which is right only for Tq = Tk",
             next="add n_keys - n_queries to the position of each query"),
        edit("share * weights.sum()", "share * n_queries",
             says="your share is one of the number of queries",
             next="empty rows have no weight: take share times weights.sum()"),
        edit(">= share", "> share",
             says="your pattern keeps more than the share where exactly the share is enough",
             next="at least: >="),
        edit("int(np.argmax(", "int(1 + np.argmax(",
             says="your window is one too wide: it counts the own token",
             next="w = 0 is the own token alone"),
        edit("np.cumsum(at)", "at",
             says="your window is the first distance that has the share alone",
             next="a window has all distances up to w: add them up"),
        edit("return int(np.argmax(np.cumsum(at) >= share * weights.sum()))",
             "each = range(n_keys + n_queries)\n"
             "    inside = [np.where(back <= w, weights, 0).sum(axis=1) for w in each]\n"
             "    enough = [(kept >= share * weights.sum(axis=1)).all() for kept in inside]\n"
             "    return int(np.argmax(enough))",
             says="your window keeps the share in every single row",
             next="it is the share of all the weight in the map"),
    ],
    alternatives=[window_by_trying, window_by_diagonals],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/03_positions.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
