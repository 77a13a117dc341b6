# %% [markdown]
# # 12 Exercises: a token at a time
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("12.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Scores are q kᵀ / √D, with D the width of a query. H query heads share G heads of keys and values,
# and G divides H. `lse` is the logarithm of a row's sum of exp(score).

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import collections
import itertools
import math

import numpy as np

from attncourse.grading.spec import Case
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, grouped, kv_cache
from attncourse.softmax import softmax


def array_case(name, *shapes, rest=(), dtype=np.float32, shift=0.0):
    """Return a maker of a case of standard normal arrays, the first of them queries, then keys.

    With a `shift` the last number of each first query and of each key is that: the query's scores
    are far above those of the others, and overflow an exponential without a maximum of its own.
    """

    def make(rng):
        arrays = [rng.standard_normal(shape) for shape in shapes]
        if shift:
            arrays[0][..., 0, -1] = arrays[1][..., -1] = shift
        return Case(name, (*(array.astype(dtype) for array in arrays), *rest))

    return make


# %% [markdown] role="prompt" exercise="12.1"
# ## 12.1 A cache that grows
#
# *25 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/12_inference.ipynb#The-token-sees-itself)
#
# Steps bring one new token or more, each with its query. A token sees itself and all before it: the
# steps together give what one causal pass over the whole text gives.

# %% [markdown] role="prompt" exercise="12.1"
# `keys` `(room, D)` and `values` `(room, Dv)`, float32, have room to spare; `length` tokens are in
# them. Where a step does not fit, the room becomes twice as long, or as long as needed if that is
# more. Only then are tokens copied. It may begin with room for none.


# %% role="answer" exercise="12.1"
class GrowingCache:
    """Keys and values of the tokens so far."""

    def __init__(self, room, width, value_width):
        """Make `keys` (room, width), `values` (room, value_width) and `length`, which is 0."""
        # BEGIN SOLUTION
        self.keys = np.zeros((room, width), np.float32)
        self.values = np.zeros((room, value_width), np.float32)
        self.length = 0
        # END SOLUTION

    def step(self, q, k, v):
        """Take in tokens, q and k (T, D), v (T, Dv); return their attention (T, Dv), float32."""
        # BEGIN SOLUTION
        end = self.length + len(k)
        if end > len(self.keys):
            more = max(end, 2 * len(self.keys)) - len(self.keys)
            self.keys = np.pad(self.keys, ((0, more), (0, 0)))
            self.values = np.pad(self.values, ((0, more), (0, 0)))
        self.keys[self.length : end] = k
        self.values[self.length : end] = v
        scores = q @ self.keys[:end].T / q.shape[-1] ** 0.5
        own = self.length + np.arange(len(q))[:, None]
        scores[np.arange(end) > own] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        self.length = end
        return weights @ self.values[:end]
        # END SOLUTION


# %% role="check" exercise="12.1"
check("12.1")

# %% [markdown] role="hints" exercise="12.1"
# 1. In which order: attend and then write, or write and then attend? What does the very first token
#    attend to?
# 2. Write the new rows at `length`, then let the queries meet the first `length + T` keys. Of the
#    new tokens, hide from each query those that come after it.
# 3. The new room is max(end, 2 * room) rows with the old ones copied in. Key j is hidden from query
#    i if j > length + i, with the length before the step.


# %% role="spec" exercise="12.1"
class CacheByRows:
    """Takes the tokens of a step one by one, each with a softmax of its own."""

    def __init__(self, room, width, value_width):
        self.length, self.widths = 0, (width, value_width)
        self.keys, self.values = (np.empty((room, n), np.float32) for n in self.widths)

    def step(self, q, k, v):
        if (end := self.length + len(k)) > len(self.keys):
            room = max(end, 2 * len(self.keys))
            longer = [np.empty((room, n), np.float32) for n in self.widths]
            for new, old in zip(longer, (self.keys, self.values), strict=True):
                new[: self.length] = old[: self.length]
            self.keys, self.values = longer
        out = []
        for query, key, value in zip(q, k, v, strict=True):
            self.keys[self.length], self.values[self.length] = key, value
            self.length += 1
            scores = self.keys[: self.length] @ query / np.float32(math.sqrt(len(query)))
            weights = np.exp(scores - scores.max())
            out.append(weights @ self.values[: self.length] / weights.sum())
        return np.array(out)


class CacheOfPairs:
    """One array for keys and values, of which both are views."""

    def __init__(self, room, width, value_width):
        self.pairs, self.width, self.length = np.empty((room, width + value_width), "f"), width, 0

    keys = property(lambda self: self.pairs[:, : self.width])
    values = property(lambda self: self.pairs[:, self.width :])

    def step(self, q, k, v):
        old, end = self.pairs, self.length + len(q)
        if end > len(old):
            self.pairs = np.empty((max(end, len(old) * 2), old.shape[1]), old.dtype)
            self.pairs[: self.length] = old[: self.length]
        self.pairs[self.length : end] = np.concatenate([k, v], axis=1)
        self.length = end
        keys, values = np.ascontiguousarray(self.keys[:end]), self.values[:end].copy()
        return full.attention(q, keys, values, causal=True)


def drive_cache(answer, q, k, v, room, sizes):
    """Send the tokens in steps, and look how long the room is and whether it is another one."""
    cache, seen, start, moves = answer(room, k.shape[1], v.shape[1]), {}, 0, 0
    for number, size in enumerate(sizes, 1):
        place, rows = (len(cache.keys), cache.keys.ctypes.data), slice(start, start + size)
        seen[f"out of step {number}"] = cache.step(*(x[rows].copy() for x in (q, k, v)))
        seen[f"room after step {number}"] = len(cache.keys)
        moves += place != (len(cache.keys), cache.keys.ctypes.data)
        start += size
    return seen | {"moves to another room": moves}


def one_causal_pass(q, k, v, room, sizes):
    out, seen, start, moves = full.attention(q, k, v, causal=True), {}, 0, 0
    for number, size in enumerate(sizes, 1):
        start += size
        moves += start > room
        room = max(start, 2 * room) if start > room else room
        seen |= {f"out of step {number}": out[start - size : start]}
        seen |= {f"room after step {number}": room}
    return seen | {"moves to another room": moves}


def steps(room, sizes, width, **words):
    name = f"D = {width}, room for {room}, steps of {', '.join(map(str, sizes))}"
    name += "".join(f", {what} {value}" for what, value in words.items())
    return qkv(name, (sum(sizes), width), room, sizes, **words)


def random_steps(rng):
    sizes = tuple(int(x) for x in rng.integers(1, 7, rng.integers(5, 10)))
    return steps(int(rng.integers(9)), sizes, int(rng.integers(2, 9)))(rng)


Spec(
    kind="class",
    drive=drive_cache,
    reference=one_causal_pass,
    cases=[
        steps(1, (1,), 3),
        steps(5, (3,), 3),
        steps(4, (1, 1, 1), 5),
        steps(7, (3, 1, 2), 5),
        steps(2, (1, 1, 1, 1, 1), 3),
        steps(0, (1, 1, 1), 3),
        steps(2, (2, 9, 1), 7),
        steps(3, (1, 3, 2, 5, 1), 4, value_width=2),
        steps(4, (5, 1, 1), 8, longer=1000),
        steps(4, (7, 2, 4), 8, shift=17),
        random_steps,
        random_steps,
    ],
    mistakes=[
        edit("> own", ">= own",
             says="your tokens do not see themselves: the first has nothing to attend to",
             next="write the new keys and values first, then attend to all up to the own one"),
        edit("        scores[np.arange(end) > own] = -np.inf\n", "",
             says="your tokens see what comes after them in the same step",
             next="of a step with several tokens, hide from each query the later ones"),
        edit("self.length + np.arange(len(q))", "np.arange(len(q))",
             says="your queries count their positions from the step's first token",
             next="query i of a step stands at position length + i"),
        edit("self.keys[:end].T", "self.keys.T", "self.values[:end]", "self.values",
             "scores[np.arange(end) > own]",
             "places = np.arange(len(self.keys))\n"
             "        scores[(places > own) & (places < end)]",
             says="your queries attend to the room that is still empty, too",
             next="cut keys and values to the tokens that are in them: keys[:end]"),
        edit("self.keys[self.length : end] = k", "self.keys[: len(k)] = k",
             "self.values[self.length : end] = v", "self.values[: len(v)] = v",
             says="you write each step's tokens over the first ones",
             next="write at self.length : self.length + T"),
        edit("np.pad(self.keys, ((0, more), (0, 0)))",
             "np.zeros((len(self.keys) + more, q.shape[1]), np.float32)",
             "np.pad(self.values, ((0, more), (0, 0)))",
             "np.zeros((len(self.values) + more, v.shape[1]), np.float32)",
             says="your new room is empty: the tokens were left in the old one",
             next="copy the first `length` rows into the new arrays"),
        edit("max(end, 2 * len(self.keys))", "end",
             says="your room has no spare: each step copies all tokens again",
             next="make it twice as long, or as long as needed if that is more"),
        edit("max(end, 2 * len(self.keys))", "2 * end",
             says="your new room is twice what is needed now, not twice the old one",
             next="max(tokens needed, 2 * old room)"),
        edit("        if end > len(self.keys):\n"
             "            more = max(end, 2 * len(self.keys)) - len(self.keys)\n"
             "            self.keys = np.pad(self.keys, ((0, more), (0, 0)))\n"
             "            self.values = np.pad(self.values, ((0, more), (0, 0)))\n",
             "        short = end > len(self.keys)\n"
             "        more = (max(end, 2 * len(self.keys)) - len(self.keys)) * short\n"
             "        self.keys = np.pad(self.keys, ((0, more), (0, 0)))\n"
             "        self.values = np.pad(self.values, ((0, more), (0, 0)))\n",
             says="you copy the tokens in each step, also where the new ones fit",
             next="make new arrays only if length + T is more than the room"),
        edit("if end > len(self.keys)", "if end >= len(self.keys)",
             says="your room grows as soon as it is full, before anything lacks room",
             next="grow if length + T is more than the room, not if it is as much"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[CacheByRows, CacheOfPairs],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="12.2"
# ## 12.2 Bytes a token
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/12_inference.ipynb#Fewer-bits)
#
# What does one more token add to the cache of a model with `layers` layers of `heads` query heads
# of width d? Count `dtype_bytes` a number. Return a dict of five ways to keep it, in bytes.

# %% [markdown] role="prompt" exercise="12.2"
# - `mha`: a key and a value for each query head; `gqa`: for each of `groups` heads; `mqa`: for all;
# - `latent`: one vector of `rank` numbers and one key of `rotary`, for all heads;
# - `int8`: `gqa` in 1-byte numbers; float32 scales: each value vector has one, and so has each
#   channel of `span` key vectors.

# %% [markdown] role="prompt" exercise="12.2"
# `kept_bytes(1, 4, 2, 8, 16, 4, 2, 32)`: 128, 64, 32, 40 and 42.0.


# %% role="answer" exercise="12.2"
def kept_bytes(layers, heads, groups, d, rank, rotary, dtype_bytes, span):
    """Return the bytes a token, a dict with the keys mha, gqa, mqa, latent and int8."""
    # BEGIN SOLUTION
    pair = 2 * d * dtype_bytes * layers
    return {
        "mha": heads * pair,
        "gqa": groups * pair,
        "mqa": pair,
        "latent": (rank + rotary) * dtype_bytes * layers,
        "int8": groups * (2 * d + 4 + 4 * d / span) * layers,
    }
    # END SOLUTION


# %% role="check" exercise="12.2"
check("12.2")

# %% [markdown] role="hints" exercise="12.2"
# 1. Write down for one layer which arrays gain a row, and how many numbers it has.
# 2. Multi-head: 2·heads·d numbers a layer. The latent's row is one, neither doubled nor one a head.
#    For int8 count numbers (1 byte) and scales (4 bytes) apart.
# 3. mha 2·heads·d·bytes·layers; gqa and mqa with groups or 1 for heads; latent (rank + rotary)·
#    bytes·layers; int8 groups·(2·d + 4 + 4·d/span)·layers.


# %% role="spec" exercise="12.2"
def kept_by_shapes(layers, heads, groups, d, rank, rotary, dtype_bytes, span):
    rows = {"mha": [(heads, 2, d)], "gqa": [(groups, 2, d)], "mqa": [(1, 2, d)]}
    rows["latent"] = [(rank,), (rotary,)]
    kept = {
        name: layers * dtype_bytes * sum(map(math.prod, shapes)) for name, shapes in rows.items()
    }
    scales = 4 * layers * groups * (span + d)  # of `span` tokens
    return {"int8": kept["gqa"] // dtype_bytes + scales / span} | kept


def kept_by_size_bytes(layers, heads, groups, d, rank, rotary, dtype_bytes, span):
    sizes = {"mha": heads, "gqa": groups, "mqa": 1}
    words = {"layers": layers, "dtype_bytes": dtype_bytes}
    kept = {name: kv_cache.size_bytes(1, count, d, **words) for name, count in sizes.items()}
    single = kv_cache.size_bytes(1, 1, rank + rotary, **words) // 2
    numbers = kv_cache.size_bytes(1, groups, d, layers=layers, dtype_bytes=1)
    scales = kv_cache.size_bytes(1, groups, span + d, layers=layers, dtype_bytes=4) / 2 / span
    return kept | {"latent": single, "int8": numbers + scales}


def drawn_model(rng):
    groups, each = (int(x) for x in rng.integers(2, 12, 2))
    layers, d, rank, rotary, span = rng.integers((2, 5, 20, 3, 9), (90, 200, 900, 99, 99))
    return layers, groups * each, groups, d, rank, rotary, int(rng.choice([2, 4])), span


Spec(
    kind="number",
    cases=[
        case("1 layer, 1 head", 1, 1, 1, 1, 1, 1, 1, 1),
        case("1 layer, 4 heads, 2 groups", 1, 4, 2, 8, 16, 4, 2, 32),
        case("primes", 3, 35, 7, 11, 13, 5, 2, 17),
        case("no key of the position", 2, 6, 3, 8, 24, 0, 4, 32),
        case("all heads in one group", 5, 7, 1, 16, 9, 3, 2, 64),
        case("a group for each head, scales of one token", 3, 5, 5, 8, 12, 2, 4, 1),
        case("32 layers, 32 heads, 8 groups", 32, 32, 8, 128, 512, 64, 2, 32),
        case("60 layers, 128 heads, rank 512: DeepSeek-V2", 60, 128, 8, 128, 512, 64, 2, 32),
        *draws(4, drawn_model),
    ],
    mistakes=[
        edit("2 * d * dtype_bytes", "d * dtype_bytes", "2 * d + 4", "d + 4",
             says="you count the keys and leave out the values",
             next="a token has a key and a value: 2·d numbers a head"),
        edit(" * layers", "",
             says="your bytes are those of one layer",
             next="each layer keeps keys and values of its own"),
        edit("groups * pair", "heads // groups * pair",
             "groups * (2", "heads // groups * (2",
             says="you took the query heads of a group for the number of groups",
             next="there are `groups` heads of keys and values"),
        edit("(rank + rotary) *", "2 * (rank + rotary) *",
             says="your latent is kept twice, as key and as value",
             next="keys and values come from one vector: rank + rotary numbers"),
        edit("(rank + rotary) *", "heads * (rank + rotary) *",
             says="your latent is kept for each head",
             next="one vector serves all heads: that is the point"),
        edit("(rank + rotary)", "rank",
             says="your latent leaves out the key of the position",
             next="add its `rotary` numbers"),
        edit("(rank + rotary)", "(rank + heads * rotary)",
             says="your key of the position is kept for each head",
             next="it is shared too: rank + rotary numbers"),
        edit(" + 4 + 4 * d / span", "",
             says="your int8 leaves out the scales",
             next="add 4 bytes for the scale of the value, and 4·d/span for those of the keys"),
        edit(" + 4 + 4 * d / span", " + 4 + 4 * d",
             says="your keys have new scales for each token",
             next="`span` tokens share the scales of the channels: 4·d/span bytes a token"),
        edit(" + 4 + 4 * d / span", " + 4 + 4 / span",
             says="your keys have one scale, not one for each channel",
             next="d channels have a scale each: 4·d/span bytes a token"),
        edit(" + 4 + 4 * d / span", " + dtype_bytes + dtype_bytes * d / span",
             says="your scales have dtype_bytes each",
             next="scales are float32: 4 bytes"),
        edit("groups * (2 * d + 4 + 4 * d / span)", "(groups * 2 * d + 4 + 4 * d / span)",
             says="your scales are shared by all groups",
             next="each of the `groups` heads has scales of its own"),
    ],
    alternatives=[kept_by_shapes, kept_by_size_bytes],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="12.3"
# ## 12.3 Heads that share, no copies
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/12_inference.ipynb#Heads-that-share)
#
# Query head h reads head h // (H / G) of the keys and values: q is `(..., H, Tq, D)`, k
# `(..., G, Tk, D)` and v `(..., G, Tk, Dv)`.

# %% [markdown] role="prompt" exercise="12.3"
# Return softmax(q kᵀ / √D) v, `(..., H, Tq, Dv)`, dtype of q. With one key, for example, the query
# heads of a group all return their group's value.

# %% [markdown] role="prompt" exercise="12.3"
# **Memory limit** at 16 query heads over 2 heads of 4096 keys, one query each, D = 64, float32:
# four arrays of scores, 1 MiB, half as much as k. k for each query head takes 16 MiB.


# %% role="answer" exercise="12.3"
def shared_attention(q, k, v):
    """Return attention of H query heads over G heads of keys, (..., H, Tq, Dv)."""
    # BEGIN SOLUTION
    rows = q.reshape(*k.shape[:-2], -1, q.shape[-1])  # (..., G, H / G · Tq, D)
    scores = rows @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).reshape(*q.shape[:-1], v.shape[-1]).astype(q.dtype)
    # END SOLUTION


# %% role="check" exercise="12.3"
check("12.3")

# %% [markdown] role="hints" exercise="12.3"
# 1. The keys of a group meet the queries of H / G heads. What is one product for all of them?
# 2. The query heads of a group stand side by side in q: reshaped, their queries are rows of one
#    matrix, (..., G, H / G · Tq, D). Each row has a softmax of its own, whatever head it is of.
# 3. rows = q.reshape(*k.shape[:-2], -1, D); softmax(rows @ k.swapaxes(-1, -2) / √D) @ v; then
#    reshape to (*q.shape[:-1], Dv).


# %% role="spec" exercise="12.3"
def shared_by_heads(q, k, v):
    out, each = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), q.shape[-3] // k.shape[-3]
    for head in range(q.shape[-3]):
        keys, values = (x[..., head // each, :, :] for x in (k, v))
        out[..., head, :, :] = full.attention(q[..., head, :, :], keys, values)
    return out


def shared_by_broadcast(q, k, v):
    *lead, heads, n, width = q.shape
    fives = q.reshape(*lead, k.shape[-3], heads // k.shape[-3], n, width)
    scores = np.einsum("...ghqd,...gkd->...ghqk", fives, k) / np.sqrt(q.dtype.type(width))
    out = np.matmul(softmax(scores), v[..., None, :, :])
    return out.reshape(*lead, heads, n, -1)


def shared_by_repeating(q, k, v):
    k, v = (np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3) for x in (k, v))
    return full.attention(q, k, v)


def heads_dealt_out(q, k, v):
    """Give the first query heads one group each, and begin anew: h % G."""
    order = np.arange(q.shape[-3]) % k.shape[-3]
    return full.attention(q, k[..., order, :, :], v[..., order, :, :])


def group_means(q, k, v):
    each = q.shape[-3] // k.shape[-3]
    out = grouped.attention(q, k, v)
    parts = out.reshape(*k.shape[:-2], each, *out.shape[-2:])
    return np.repeat(parts.mean(axis=-3), each, axis=-3)


def one_softmax_a_group(q, k, v):
    each = q.shape[-3] // k.shape[-3]
    scores = q @ np.repeat(k, each, axis=-3).swapaxes(-1, -2) / q.shape[-1] ** 0.5
    rows = scores.reshape(*k.shape[:-2], 1, -1)
    weights = softmax(rows).reshape(scores.shape)
    return np.matmul(weights, np.repeat(v, each, axis=-3)).astype(q.dtype)


def shared_case(name, heads, groups, n_queries, n_keys, width, value_width=None, lead=(), **words):
    shapes = [(*lead, heads, n_queries, width), (*lead, groups, n_keys, width)]
    return array_case(name, *shapes, (*lead, groups, n_keys, value_width or width), **words)


def random_shared(rng):
    groups, each, n_queries, n_keys = (int(x) for x in rng.integers((2, 2, 1, 5), (5, 5, 9, 40)))
    name = f"random, {groups * each} heads, {groups} groups, {n_queries} queries, {n_keys} keys"
    return shared_case(name, groups * each, groups, n_queries, n_keys, 6)(rng)


Spec(
    kind="array",
    reference=grouped.attention,
    cases=[
        shared_case("1 head, 1 key", 1, 1, 1, 1, 3),
        shared_case("1 query, 1 head a group", 3, 3, 1, 5, 3),
        shared_case("1 query, 4 heads, 2 groups", 4, 2, 1, 5, 3),
        shared_case("3 queries, 6 heads, 2 groups", 6, 2, 3, 7, 5),
        shared_case("3 queries, 6 heads, 3 groups", 6, 3, 3, 7, 5),
        shared_case("1 group", 5, 1, 2, 7, 3),
        shared_case("11 queries, 3 keys, values wider", 4, 2, 11, 3, 4, value_width=7),
        shared_case("2 texts, 6 heads, 3 groups", 6, 3, 2, 5, 4, lead=(2,)),
        shared_case("float64", 6, 2, 3, 7, 5, dtype=np.float64),
        shared_case("float64, large scores", 6, 2, 3, 7, 5, dtype=np.float64, shift=40),
        shared_case("one query's scores far above the others", 6, 2, 3, 9, 8, shift=20),
        random_shared,
        random_shared,
    ],
    memory=Memory(
        shared_case("16 heads over 2 of 4096 keys", 16, 2, 1, 4096, 64),
        4 * 16 * 4096 * 4,
        "four arrays of scores, 4 · H · Tk · 4 bytes",
    ),
    mistakes=[
        Mistake(shared_by_repeating,
                says="your numbers are right, but keys and values are copied for each query head",
                next="put the queries of a group's heads into one matrix instead"),
        Mistake(heads_dealt_out,
                says="your query head h reads head h % G",
                next="heads of a group stand side by side: head h reads h // (H / G)"),
        edit("q.reshape(*k.shape[:-2], -1, q.shape[-1])",
             "q.swapaxes(-3, -2).reshape(*k.shape[:-2], -1, q.shape[-1])",
             says="your rows go through the heads of one query first, and tear groups apart",
             next="reshape q as it lies: (..., H, Tq, D) to (..., G, H / G · Tq, D)"),
        edit("q.reshape(*k.shape[:-2], -1, q.shape[-1])",
             "q.reshape(*k.shape[:-2], -1, *q.shape[-2:]).swapaxes(-3, -2)"
             ".reshape(*k.shape[:-2], -1, q.shape[-1])",
             says="your result has the heads and the queries of a group in each other's place",
             next="unfold the rows in the order in which they were folded: head, then query"),
        Mistake(group_means,
                says="your heads of a group all return their mean",
                next="they share keys and values; queries and outputs are their own"),
        Mistake(one_softmax_a_group,
                says="your softmax runs over all queries of a group at once",
                next="each row, one query of one head, has weights that sum to 1"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit("/ q.shape[-1] ** 0.5", "/ (q.shape[-1] * q.shape[-3] / k.shape[-3]) ** 0.5",
             says="your scores are divided by the root of D · H / G",
             next="a score is a product of D numbers, however many heads share the key"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("scores.max(axis=-1, keepdims=True)", "scores.max()",
             says="your rows share one maximum: where scores lie far below, all weights are 0",
             next="subtract from each row its own maximum: axis=-1, keepdims=True"),
    ],
    alternatives=[shared_by_heads, shared_by_broadcast],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="12.4"
# ## 12.4 Absorb the projection
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/12_inference.ipynb#One-small-vector-for-all-heads)
#
# Of each token `kept` holds [c | r]: a latent of R numbers, and the key of its position. Head h has
# the key [c `key_up[h]` | r] and the value c `value_up[h]`. Return each head's attention, and build
# neither keys nor values.

# %% [markdown] role="prompt" exercise="12.4"
# q is `(H, Tq, Dc + Dr)`, kept `(Tk, R + Dr)`, key_up `(H, R, Dc)`, value_up `(H, R, Dv)`. Return
# `(H, Tq, Dv)`, dtype of q. Scores are divided by √(Dc + Dr); Dr may be 0.

# %% [markdown] role="prompt" exercise="12.4"
# **Memory limit** at H = 16, Tk = 4096, Dc = Dv = 128, R = 16, Dr = 8, one query each: six arrays
# of scores, 1.5 MiB. All keys take 32 MiB, those of a single head 2 MiB.


# %% role="answer" exercise="12.4"
def latent_attention(q, kept, key_up, value_up):
    """Return attention to keys that are never built, (H, Tq, Dv)."""
    # BEGIN SOLUTION
    rank, content = key_up.shape[-2:]
    latents, turned = kept[:, :rank], kept[:, rank:]
    lowered = q[..., :content] @ key_up.swapaxes(-1, -2)  # (H, Tq, R)
    scores = lowered @ latents.T + q[..., content:] @ turned.T
    scores /= q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ latents @ value_up
    # END SOLUTION


# %% role="check" exercise="12.4"
check("12.4")

# %% [markdown] role="hints" exercise="12.4"
# 1. q (c U)ᵀ and (q Uᵀ) cᵀ are the same numbers. Which brackets make the smaller arrays? And which
#    for weights (c V)?
# 2. Take each head's content part of q down to R numbers, add its products with c to those of the
#    last Dr numbers with r. Mix the latents by the weights, and bring the mean up.
# 3. low = q[..., :Dc] @ key_up.swapaxes(-1, -2); scores = (low @ c.T + q[..., Dc:] @ r.T) /
#    √(Dc + Dr); softmax; (weights @ c) @ value_up.


# %% role="spec" exercise="12.4"
def latent_as_one_key(q, kept, key_up, value_up):
    rank, content = key_up.shape[-2:]
    lowered = np.einsum("hqd,hrd->hqr", q[..., :content], key_up)
    scores = np.concatenate([lowered, q[..., content:]], axis=-1) @ kept.T
    scores *= q.dtype.type(1 / math.sqrt(q.shape[-1]))
    return np.einsum("hqr,hrd->hqd", softmax(scores) @ kept[:, :rank], value_up)


def latent_by_heads(q, kept, key_up, value_up):
    out, (rank, content) = [], key_up.shape[-2:]
    for queries, down, up in zip(q, key_up, value_up, strict=True):
        lowered = np.hstack([queries[:, :content] @ down.T, queries[:, content:]])
        lowered *= q.dtype.type(math.sqrt(lowered.shape[1] / q.shape[-1]))
        out.append(full.attention(lowered, kept, kept[:, :rank]) @ up)
    return np.array(out)


def latent_by_keys(q, kept, key_up, value_up, heads_at_once=1):
    """The definition: keys and values of a head, or of all at once, and full attention."""
    out, rank = [], key_up.shape[-2]
    for first in range(0, len(q), heads_at_once):
        part = slice(first, first + heads_at_once)
        keys, turned = kept[:, :rank] @ key_up[part], kept[:, rank:]
        turned = np.broadcast_to(turned, (*keys.shape[:-1], turned.shape[-1]))
        values = kept[:, :rank] @ value_up[part]
        out.append(full.attention(q[part], np.concatenate([keys, turned], axis=-1), values))
    return np.concatenate(out)


def latent_by_all_keys(q, kept, key_up, value_up):
    return latent_by_keys(q, kept, key_up, value_up, len(q))


def latent_case(name, heads, n_queries, n_keys, content, rotary, rank, value_width, **words):
    shapes = [(heads, n_queries, content + rotary), (n_keys, rank + rotary)]
    shapes += [(heads, rank, content), (heads, rank, value_width)]

    def make(rng):
        made = array_case(name, *shapes, **words)(rng)
        q, kept, *ups = made.args
        return Case(name, (q, kept, *(up * up.dtype.type(rank**-0.5) for up in ups)))

    return make


def random_latent(rng):
    sizes = [int(x) for x in rng.integers((2, 1, 5, 3, 1, 3, 3), (6, 6, 40, 8, 6, 8, 8))]
    name = f"random, {sizes[0]} heads, {sizes[1]} queries, {sizes[2]} keys"
    return latent_case(name, *sizes)(rng)


Spec(
    kind="array",
    reference=latent_by_heads,
    exponents=lambda q, kept, *_: (
        np.linalg.norm(q, axis=-1).max() * np.linalg.norm(kept, axis=-1) / q.shape[-1] ** 0.5
    ),
    cases=[
        latent_case("1 head, 1 key", 1, 1, 1, 1, 1, 1, 1),
        latent_case("1 query, 5 keys", 1, 1, 5, 3, 2, 2, 4),
        latent_case("3 heads, 5 keys", 3, 1, 5, 7, 2, 3, 5),
        latent_case("no key of the position", 3, 2, 7, 5, 0, 2, 4),
        latent_case("latents wider than a head", 2, 3, 7, 3, 2, 11, 5),
        latent_case("as many of each", 2, 4, 7, 3, 3, 3, 3),
        latent_case("13 queries, 3 keys", 2, 13, 3, 5, 2, 4, 3),
        latent_case("float64", 3, 2, 7, 5, 2, 3, 4, dtype=np.float64),
        latent_case("float64, large scores", 3, 2, 7, 5, 2, 3, 4, dtype=np.float64, shift=40),
        latent_case("one query's scores far above the others", 4, 3, 9, 5, 4, 3, 5, shift=20),
        random_latent,
        random_latent,
    ],
    memory=Memory(
        latent_case("H = 16, Tk = 4096", 16, 1, 4096, 128, 8, 16, 128),
        6 * 16 * 4096 * 4,
        "six arrays of scores, 6 · H · Tk · 4 bytes",
    ),
    mistakes=[
        Mistake(latent_by_all_keys,
                says="your numbers are right, but keys and values of all heads are built",
                next="bring each query down to the latent instead of all latents up"),
        Mistake(latent_by_keys,
                says="your numbers are right, but each head's keys and values are built in turn",
                next="bring each query down to the latent instead of all latents up"),
        edit(" + q[..., content:] @ turned.T", "",
             says="your scores leave out the key of the position",
             next="add the products of the last Dr numbers of q with r"),
        edit("scores /= q.shape[-1] ** 0.5", "scores /= content ** 0.5",
             says="your scores are divided by √Dc",
             next="a score is a product of Dc + Dr numbers: divide by √(Dc + Dr)"),
        edit("scores /= q.shape[-1] ** 0.5", "scores /= kept.shape[-1] ** 0.5",
             says="your scores are divided by the root of what is kept, R + Dr",
             next="the scores are those of keys of Dc + Dr numbers, however they are computed"),
        edit("scores /= q.shape[-1] ** 0.5", "scores /= 1",
             says="your scores are not divided at all",
             next="divide by √(Dc + Dr) before the softmax"),
        edit("    scores /= q.shape[-1] ** 0.5\n", "",
             "lowered @ latents.T", "lowered @ latents.T / q.shape[-1] ** 0.5",
             says="you divide the scores of the latent, and not those of the position",
             next="add both parts, then divide by √(Dc + Dr)"),
        edit("kept[:, :rank], kept[:, rank:]", "kept[:, -rank:], kept[:, :-rank]",
             says="you took r for the first of what is kept",
             next="kept is [c | r]: the first R numbers are the latent"),
        edit("q[..., :content] @ key_up", "q[..., -content:] @ key_up",
             "q[..., content:] @ turned", "q[..., :-content] @ turned",
             says="you took the last Dc numbers of q for its content",
             next="q is [content | position]: the first Dc numbers meet the latent"),
        edit("@ value_up", "@ value_up[0]",
             says="your heads all use the value matrix of the first",
             next="head h has value_up[h]"),
        edit("key_up.swapaxes(-1, -2)", "key_up[0].T",
             says="your heads all use the key matrix of the first",
             next="head h has key_up[h]"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[latent_as_one_key, latent_by_heads],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="12.5"
# ## 12.5 Pages that nobody can corrupt
#
# *45 minutes · difficulty 3 of 3 · 5 points*
# · [section](../notebooks/12_serving.ipynb#Pages)
#
# Write the cache of many texts: `n_pages` pages with room for `page` rows each; a row is a token's
# key and value side by side. Random appends, forks and frees try it, beside a model made of lists.

# %% [markdown] role="prompt" exercise="12.5"
# A text holds as many pages as its rows need, and may begin with none. A fork shares all of them; a
# shared page is copied when a text writes to it, not before. Only where too few pages are free,
# `append` raises `MemoryError`, and nothing has changed. The caller overwrites what was appended,
# and what `read` has returned.

# %% [markdown] role="prompt" exercise="12.5"
# `bytes_per_token`: the bytes of all pages held, each once, over the rows of all texts, shared ones
# in each; 0.0 without rows. For 8 rows of width 3 in pages of 4 it is 12.0, forked once 6.0.
#
# **Memory limit** at 75 pages of 16 rows, width 64: the pages and three texts of 1200 rows,
# 1.2 MiB.


# %% role="answer" exercise="12.5"
class PageStore:
    """The rows of many texts, in pages that forks share until one of them writes."""

    def __init__(self, page, n_pages, width):
        """Make room for `n_pages` pages of `page` rows of `width` float32 numbers."""
        # BEGIN SOLUTION
        self.pages = np.zeros((n_pages, page, width), np.float32)
        self.owners = np.zeros(n_pages, int)  # how many texts hold each page
        self.tables, self.lengths = {}, {}
        # END SOLUTION

    def append(self, name, rows):
        """Put rows (T, width), T >= 0, at the end of a text, or begin it; or raise MemoryError."""
        # BEGIN SOLUTION
        table, length = self.tables.get(name, []), self.lengths.get(name, 0)
        page, end = self.pages.shape[1], length + len(rows)
        used = length % page  # rows in the last page, if it is not full
        copies = int(len(rows) > 0 and used > 0 and self.owners[table[-1]] > 1)
        free = np.flatnonzero(self.owners == 0).tolist()
        needed = -(-end // page) - len(table) + copies
        if needed > len(free):
            raise MemoryError(f"{needed} pages asked for, {len(free)} are free")
        fresh = free[:needed]
        self.owners[fresh] = 1
        if copies:
            shared, own = table[-1], fresh.pop(0)
            self.pages[own, :used] = self.pages[shared, :used]
            self.owners[shared] -= 1
            table = [*table[:-1], own]
        table = table + fresh
        for at, row in enumerate(rows, length):
            self.pages[table[at // page], at % page] = row
        self.tables[name], self.lengths[name] = table, end
        # END SOLUTION

    def fork(self, name, new):
        """Begin a text `new` with the rows of `name`."""
        # BEGIN SOLUTION
        self.tables[new], self.lengths[new] = list(self.tables[name]), self.lengths[name]
        self.owners[self.tables[name]] += 1
        # END SOLUTION

    def free(self, name):
        """Forget a text; its name may begin another one."""
        # BEGIN SOLUTION
        self.owners[self.tables.pop(name)] -= 1
        del self.lengths[name]
        # END SOLUTION

    def read(self, name):
        """Return the rows of a text in a new array (T, width)."""
        # BEGIN SOLUTION
        rows = self.pages[self.tables[name]].reshape(-1, self.pages.shape[-1])
        return rows[: self.lengths[name]]
        # END SOLUTION

    def bytes_per_token(self):
        """Return the bytes of the pages held over the rows of all texts."""
        # BEGIN SOLUTION
        held = np.count_nonzero(self.owners) * self.pages[:1].nbytes
        rows = sum(self.lengths.values())
        return held / rows if rows else 0.0
        # END SOLUTION


# %% role="check" exercise="12.5"
check("12.5")

# %% [markdown] role="hints" exercise="12.5"
# 1. Beside the pages keep a list of page numbers for each text, its length, and for each page how
#    many texts hold it. Which of these does a fork change, which does a free?
# 2. An append needs ceil(rows after / page) - pages so far, and one more if the last page is not
#    full, is held by another text too, and there is a row to write. Count before you change
#    anything.
# 3. For that copy: take a free page, copy the rows in use, take one owner off the old page, and put
#    the new number into this text's own list. A page is free when its count of owners is 0.


# %% role="spec" exercise="12.5"
class ListOfPages:
    """The plain model: a text is a list of pages, a page a tuple of rows that never changes."""

    kept = np.array

    def __init__(self, page, n_pages, width):
        self.page, self.n_pages, self.width, self.texts = page, n_pages, width, {}

    def held(self, texts):
        return len({id(page) for pages in texts.values() for page in pages})

    def append(self, name, rows):
        pages, rows = list(self.texts.get(name, [])), list(map(self.kept, rows))
        if rows and pages and len(pages[-1]) < self.page:
            rows = [*pages.pop(), *rows]
        pages += [tuple(rows[at : at + self.page]) for at in range(0, len(rows), self.page)]
        after = self.texts | {name: pages}
        if self.held(after) > self.n_pages:
            raise MemoryError
        self.texts = after

    def fork(self, name, new):
        self.texts[new] = list(self.texts[name])

    def free(self, name):
        del self.texts[name]

    def read(self, name):
        rows = [row for page in self.texts[name] for row in page]
        return np.array(rows, np.float32).reshape(-1, self.width)

    def bytes_per_token(self):
        rows = sum(len(page) for pages in self.texts.values() for page in pages)
        return self.held(self.texts) * self.page * self.width * 4 / rows if rows else 0.0


class CallersRows(ListOfPages):
    kept = np.asarray


class StoreOfArrays:
    """No pool: each page is an array of its own, and those who hold it hold the array."""

    def __init__(self, page, n_pages, width):
        self.shape, self.left, self.texts = (page, width), n_pages, {}
        self.holders = collections.Counter()

    def append(self, name, rows):
        pages, length = self.texts.get(name, ([], 0))
        end, place = length + len(rows), length % self.shape[0]
        moves = bool(len(rows) and place and self.holders[id(pages[-1])] > 1)
        needed = math.ceil(end / self.shape[0]) - len(pages) + moves
        if needed > self.left:
            raise MemoryError
        self.left -= needed
        new = [np.empty(self.shape, np.float32) for _ in range(needed)]
        self.holders.update(map(id, new))
        pages = list(pages)
        if moves:
            new[0][:place] = pages[-1][:place]
            self.holders[id(pages.pop())] -= 1
        pages += new
        for number in range(length, end):
            pages[number // self.shape[0]][number % self.shape[0]] = rows[number - length]
        self.texts[name] = pages, end

    def fork(self, name, new):
        pages, length = self.texts[name]
        self.texts[new] = list(pages), length
        self.holders.update(map(id, pages))

    def free(self, name):
        for page in self.texts.pop(name)[0]:
            self.holders[id(page)] -= 1
            if not self.holders[id(page)]:
                del self.holders[id(page)]
                self.left += 1

    def read(self, name):
        pages, length = self.texts[name]
        return np.concatenate([np.empty((0, self.shape[1]), np.float32), *pages])[:length]

    def bytes_per_token(self):
        rows = sum(length for _, length in self.texts.values())
        return 0.0 if not rows else len(self.holders) * math.prod(self.shape) * 4 / rows


class StoreWithoutCounts:
    """Keeps no counts: who holds a page is looked up in the tables."""

    def __init__(self, page, n_pages, width):
        self.rows, self.page = np.empty((n_pages * page, width), np.float32), page
        self.texts = {}  # name -> the place of each row in `rows`

    def taken(self, *names):
        places = [self.texts[name] for name in names or self.texts]
        return {place // self.page for place in itertools.chain(*places)}

    def append(self, name, rows):
        before = self.texts.get(name, [])
        pages = sorted(set(range(len(self.rows) // self.page)) - self.taken())
        others = self.taken(*{*self.texts} - {name}) if {*self.texts} - {name} else set()
        places, fresh = list(before), iter(pages)
        at = len(before) // self.page * self.page
        moved = places[at:]
        try:
            if len(rows) and moved and moved[0] // self.page in others:
                first = next(fresh) * self.page
                places[at:] = range(first, first + len(moved))
            for _ in rows:
                new = len(places) % self.page == 0
                places.append(next(fresh) * self.page if new else places[-1] + 1)
        except StopIteration:
            raise MemoryError from None
        self.rows[places[at : len(before)]] = self.rows[moved]
        self.rows[places[len(before) :]] = rows
        self.texts[name] = places

    def fork(self, name, new):
        self.texts[new] = self.texts[name].copy()

    def free(self, name):
        self.texts.pop(name)

    def read(self, name):
        return np.take(self.rows, np.array(self.texts[name], int), axis=0)

    def bytes_per_token(self):
        count = sum(map(len, self.texts.values()))
        return len(self.taken()) * self.rows[: self.page].nbytes / max(count, 1)


def use(store, step, rows):
    """Do a step, such as "append 3 to a" or "fork a to b", and say how it ended."""
    try:
        match step.split():
            case ["append", _, "to", name]:
                store.append(name, rows)
            case ["fork", name, "to", new]:
                store.fork(name, new)
            case ["free", name]:
                store.free(name)
    except MemoryError:
        return "MemoryError"
    return "done"


def numbered_rows(steps, width):
    """Yield the rows that each step appends, none if it appends nothing; no two are the same."""
    written = 0
    for step in steps:
        count = int(step.split()[1]) if step.startswith("append") else 0
        rows = np.zeros((count, width), np.float32) + np.linspace(0, 0.5, width, dtype="f")
        rows += np.arange(written, written + count, dtype="f")[:, None]
        written += count
        yield rows


def look(store, name, what=np.copy):
    """Return what is read, or the sum of it, and write over it as a caller may."""
    rows = store.read(name)
    if not isinstance(rows, np.ndarray):
        return rows
    seen = what(rows)
    if rows.flags.writeable:
        rows[...] = -1
    return seen


def total(rows):
    return float(rows.sum(dtype=np.float64))


def drive_pages(answer, steps, page, n_pages, width=3, beside=True):
    """Use a store and look after each step: at all texts, and at the bytes they cost.

    The plain model runs beside it and knows which texts there are; once a step ends otherwise than
    there, nothing more is tried. Without it a step's own text is looked at, and summed.
    """
    store = answer(page, n_pages, width)
    model = ListOfPages(page, n_pages, width) if beside else None
    seen, right = {}, True
    for number, rows in enumerate(numbered_rows(steps, width), 1):
        step, after = steps[number - 1], f"after step {number}"
        wanted = use(model, step, rows) if beside else "done"
        seen[f"step {number}"] = ended = use(store, step, rows) if right else None
        rows[...] = -1
        right = right and ended == wanted
        if beside:
            for name in model.texts:
                seen[f"{name} {after}"] = look(store, name) if right else None
        elif not step.startswith("free"):
            name = step.split()[-1]
            seen[f"sum of {name} {after}"] = look(store, name, total) if right else None
        seen[f"bytes per token {after}"] = store.bytes_per_token() if right else None
    return seen


def as_the_model_does(*arguments):
    return drive_pages(ListOfPages, *arguments)


def program(page, n_pages, *steps):
    told = ", ".join(f"{number} {step}" for number, step in enumerate(steps, 1))
    return case(f"pages of {page} rows, {n_pages} of them: {told}", steps, page, n_pages)


def random_program(length):
    def make(rng):
        page, n_pages = (int(x) for x in rng.integers((1, 4), (5, 10)))
        model, steps = ListOfPages(page, n_pages, 1), []
        while len(steps) < length:
            count = int(rng.integers(2 * page + 2))
            verb = rng.choice(["append", "append", "append", "fork", "free"])
            new = min(set("abcdef") - model.texts.keys(), default="")
            name = str(rng.choice([*model.texts] or ["a"]))
            if verb == "append" or not model.texts:
                name = new if new and rng.random() < 0.25 else name
                step = f"append {count} to {name}"
            else:
                step = f"fork {name} to {new}" if verb == "fork" and new else f"free {name}"
            use(model, step, np.zeros((count, 1)))
            steps.append(step)
        return program(page, n_pages, *steps)

    return make


FORKS = "bcdefghijklm"

Spec(
    kind="class",
    drive=drive_pages,
    reference=as_the_model_does,
    cases=[
        program(1, 1, "append 1 to a"),
        program(2, 2, "append 3 to a"),
        program(2, 3, "append 1 to a", "append 1 to a", "append 3 to a"),
        program(2, 2, "append 0 to a", "append 1 to a", "append 0 to a"),
        program(2, 2, "append 5 to a", "append 4 to a"),
        program(3, 2, "append 2 to a", "append 5 to a", "append 4 to a"),
        program(2, 2, "append 2 to a", "free a", "append 4 to b"),
        program(2, 2, "append 3 to a", "free a", "append 2 to a"),
        program(2, 4, "append 3 to a", "fork a to b", "append 1 to a", "append 2 to b"),
        program(2, 4, "append 3 to a", "fork a to b", "append 1 to b", "append 2 to a"),
        program(2, 3, "append 2 to a", "fork a to b", "append 1 to b", "append 1 to a"),
        program(2, 3, "append 3 to a", "fork a to b", "free a", "append 2 to c", "append 1 to b"),
        program(2, 2, "append 3 to a", "fork a to b", "append 0 to b", "append 1 to b", "free a",
                "append 1 to b"),
        program(4, 3, "append 2 to a", "fork a to b", "fork b to c", "append 1 to c",
                "append 1 to b", "append 1 to a", "free c", "append 5 to a"),
        *map(random_program, (4, 5, 6, 8, 10, 12, 16, 20, 24)),
    ],
    memory=Memory(
        lambda rng: case(
            "75 pages of 16 rows, width 64",
            (
                "append 1000 to a",
                *(f"fork a to {name}" for name in FORKS),
                *(f"append 5 to {name}" for name in FORKS),
                *(f"free {name}" for name in FORKS),
                "append 200 to a",
            ),
            16, 75, 64, False,
        ),
        (75 * 16 + 3 * 1200) * 64 * 4,
        "the pages and three texts of 1200 rows: (75 · 16 + 3 · 1200) · 64 · 4 bytes",
    ),
    mistakes=[
        edit("self.owners[table[-1]] > 1", "False",
             says="your forks write into pages that another text holds too",
             next="copy the last page first if it has more than one owner"),
        edit("list(self.tables[name])", "self.tables[name]",
             "table = [*table[:-1], own]", "table[-1] = own",
             "table = table + fresh", "table += fresh",
             says="your fork and its source share one list of page numbers",
             next="give the fork a list of its own: list(...)"),
        edit("self.owners[self.tables.pop(name)] -= 1", "self.owners[self.tables.pop(name)] = 0",
             says="your free gives back pages that another text still holds",
             next="take one owner off each page; free are those that have none left"),
        edit("            self.owners[shared] -= 1\n", "",
             says="your copy leaves its text an owner of the page that was copied",
             next="take one owner off the old page: nobody may ever free it otherwise"),
        edit("self.owners[self.tables.pop(name)] -= 1", "del self.tables[name]",
             says="your free gives no page back",
             next="take one owner off each of its pages"),
        edit("        del self.lengths[name]\n", "",
             says="your free forgets the pages of a text and not its length",
             next="a freed text has no rows: its name may begin another one"),
        edit("and used > 0 and self", "and length > 0 and self",
             "self.pages[own, :used] = self.pages[shared, :used]",
             "self.pages[own] = self.pages[shared]",
             says="your fork copies its last page though that is full",
             next="only a page that is written to has to be copied: not one without room"),
        edit("len(rows) > 0 and ", "",
             says="your append copies a page though there is no row to write",
             next="without rows nothing is written, so nothing is copied"),
        edit("self.owners[table[-1]] > 1", "True",
             says="your append copies its last page each time",
             next="if nobody else holds the page, write to it"),
        edit("        if needed > len(free):\n"
             '            raise MemoryError(f"{needed} pages asked for, {len(free)} are free")\n'
             "        fresh = free[:needed]\n"
             "        self.owners[fresh] = 1\n",
             "        fresh = free[:needed]\n"
             "        self.owners[fresh] = 1\n"
             "        if needed > len(free):\n"
             '            raise MemoryError(f"{needed} pages asked for, {len(free)} are free")\n',
             says="your append keeps the pages that it took before it ran out of them",
             next="count first, then take: on MemoryError nothing has changed"),
        edit("-(-end // page) - len(table) + copies", "-(-len(rows) // page) + copies",
             says="your append begins a new page each time, whatever room is left in the last one",
             next="pages needed: ceil(rows after / page), less those that the text has"),
        Mistake(CallersRows,
                says="your store keeps the caller's own rows, and the caller overwrites them",
                next="copy what is appended into the pages"),
        edit("self.pages[self.tables[name]].reshape(-1, self.pages.shape[-1])",
             "np.concatenate([self.pages[number] for number in self.tables[name]]) "
             "if len(self.tables[name]) > 1 else "
             "self.pages[sum(self.tables[name])]",
             says="your read returns a view of a page: who writes to it writes into the cache",
             next="return a new array: fancy indexing, np.concatenate or .copy()"),
        edit("self.tables[new], self.lengths[new] = list(self.tables[name]), self.lengths[name]",
             "self.append(new, self.read(name))",
             "        self.owners[self.tables[name]] += 1\n", "",
             says="your fork copies all rows instead of sharing pages",
             next="copy the list of page numbers, and count one owner more for each page"),
        edit("np.count_nonzero(self.owners)", "self.owners.sum()",
             says="your bytes count a shared page once for each text that holds it",
             next="count each page that has an owner once"),
        edit("np.count_nonzero(self.owners) * self.pages[:1].nbytes", "self.pages.nbytes",
             says="your bytes are those of all pages, also of the free ones",
             next="count the pages that have an owner"),
        edit("held = np.count_nonzero(self.owners) * self.pages[:1].nbytes",
             "held = sum(len({(t[i // self.pages.shape[1]], i % self.pages.shape[1]) "
             "for i in range(self.lengths[n])}) for n, t in self.tables.items()) "
             "* self.pages[0, :1].nbytes",
             says="your bytes are those of the rows, not of the pages that hold them",
             next="a page counts whole, its empty rows too"),
    ],
    alternatives=[ListOfPages, StoreOfArrays, StoreWithoutCounts],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what sharing is worth</summary>
#
# A row of 64 numbers takes 256 bytes, a prompt of 1000 rows in pages of 16 takes 258.0 bytes a row,
# since its last page is half empty. Continued in 12 ways, by five rows each: 23.5 bytes a row. Each
# continuation has copied one page of 63.
#
# </details>

# %% [markdown] role="prompt" exercise="12.6"
# ## 12.6 Split the keys
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/12_serving.ipynb#One-query,-many-keys)
#
# One new token has a query a head, q `(H, D)`; all heads share k `(Tk, D)` and v `(Tk, Dv)`. Cut
# the keys into `n_splits` stretches of ceil(Tk / n_splits), the last ones shorter or empty. Attend
# to each on its own, then merge.

# %% [markdown] role="prompt" exercise="12.6"
# Split s gives out_s `(H, Dv)` and lse_s `(H,)`, −∞ if it is empty. Merged, out is the sum of
# exp(lse_s − lse) out_s, where exp(lse) = Σ exp(lse_s). Return a tuple: out `(H, Dv)`, and all
# lse_s, `(n_splits, H)`, in the dtype of q.


# %% role="answer" exercise="12.6"
def split_attention(q, k, v, n_splits):
    """Return the merged output (H, Dv) and the logarithms of each split's sum, (n_splits, H)."""
    # BEGIN SOLUTION
    size = -(-len(k) // n_splits)
    outs = np.zeros((n_splits, len(q), v.shape[-1]), q.dtype)
    lses = np.full((n_splits, len(q)), -np.inf, q.dtype)
    for split, start in enumerate(range(0, len(k), size)):
        keys = slice(start, start + size)
        scores = q @ k[keys].T / q.shape[-1] ** 0.5
        row_max = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - row_max)
        total = weights.sum(axis=-1, keepdims=True)
        outs[split] = weights @ v[keys] / total
        lses[split] = (row_max + np.log(total))[:, 0]
    shares = np.exp(lses - lses.max(axis=0))
    shares /= shares.sum(axis=0)
    return (shares[..., None] * outs).sum(axis=0), lses
    # END SOLUTION


# %% role="check" exercise="12.6"
check("12.6")

# %% [markdown] role="hints" exercise="12.6"
# 1. Each split is attention to fewer keys. What must it tell beside its output, so that the outputs
#    can be weighted?
# 2. lse_s is the row's maximum plus log Σ exp(score − maximum). The shares of the splits are a
#    softmax of their lse, over the splits; an empty one has the share 0.
# 3. shares = np.exp(lses - lses.max(axis=0)); shares /= shares.sum(axis=0); out = (shares[...,
#    None] * outs).sum(axis=0), with outs of empty splits 0, as 0 · NaN is NaN.


# %% role="spec" exercise="12.6"
def split_by_arrays(q, k, v, n_splits):
    parts = [split_alone(q, k, v, n_splits, split) for split in range(n_splits)]
    lses = np.array([lse for _, lse in parts])
    lse = np.logaddexp.reduce(lses, axis=0)
    shares = np.exp(lses - lse)
    return np.einsum("sh,shd->hd", shares, np.array([out for out, _ in parts])), lses


def split_alone(q, k, v, n_splits, split):
    size = math.ceil(len(k) / n_splits)
    keys = slice(split * size, (split + 1) * size)
    scores = q @ k[keys].T / q.dtype.type(math.sqrt(q.shape[-1]))
    lse = np.logaddexp.reduce(scores, axis=-1, initial=-np.inf, dtype=q.dtype)
    return np.exp(scores - np.where(lse == -np.inf, 0, lse)[:, None]) @ v[keys], lse


def split_in_one_product(q, k, v, n_splits):
    """All splits at once, as on a GPU: padded, hidden, and merged at the end."""
    size = -(-len(k) // n_splits)
    pad = [(0, size * n_splits - len(k)), (0, 0)]
    keys, values = (np.pad(x, pad).reshape(n_splits, size, -1) for x in (k, v))
    scores = np.matmul(q, keys.swapaxes(-1, -2)) * q.dtype.type(q.shape[-1] ** -0.5)
    absent = np.arange(n_splits * size).reshape(n_splits, 1, size) >= len(k)
    scores += np.where(absent, -np.inf, 0).astype(q.dtype)
    top = scores.max(axis=-1)
    weights = np.exp(scores - np.maximum(top, np.finfo(q.dtype).min)[..., None])
    totals, sums = weights.sum(axis=-1), weights @ values
    fade = np.exp(top - top.max(axis=0))
    with np.errstate(divide="ignore"):
        lses = top + np.log(totals)
    return (fade[..., None] * sums).sum(axis=0) / (fade * totals).sum(axis=0)[:, None], lses


def whole_and_splits(q, k, v, n_splits):
    size, factor = -(-len(k) // n_splits), 1 / math.sqrt(q.shape[-1])
    scores = np.full((n_splits * size, len(q)), -np.inf, q.dtype)
    scores[: len(k)] = k @ q.T * factor
    lses = np.logaddexp.reduce(scores.reshape(n_splits, size, -1), axis=1)
    return full.attention(q, k, v), lses.astype(q.dtype)


def split_case(name, heads, n_keys, n_splits, width, value_width=None, **words):
    shapes = [(heads, width), (n_keys, width), (n_keys, value_width or width)]
    return array_case(name, *shapes, rest=(n_splits,), **words)


def random_split(rng):
    heads, n_keys, n_splits = (int(x) for x in rng.integers((2, 5, 2), (5, 60, 12)))
    name = f"random, {heads} heads, {n_keys} keys, {n_splits} splits"
    return split_case(name, heads, n_keys, n_splits, 6)(rng)


Spec(
    kind="array",
    reference=whole_and_splits,
    cases=[
        split_case("1 key", 1, 1, 1, 2),
        split_case("2 splits of 1 key", 1, 2, 2, 3),
        split_case("2 heads, 2 splits of 3", 2, 6, 2, 3),
        split_case("the last split is shorter", 3, 7, 3, 5),
        split_case("the last split is empty", 2, 9, 4, 5),
        split_case("more splits than keys", 2, 3, 7, 5),
        split_case("one split", 3, 8, 1, 5),
        split_case("values narrower than keys", 2, 11, 3, 5, value_width=2),
        split_case("float64", 2, 11, 3, 5, dtype=np.float64),
        split_case("float64, large scores", 2, 11, 3, 5, dtype=np.float64, shift=40),
        split_case("one head's scores far above the others", 3, 26, 4, 5, value_width=9, shift=18),
        random_split,
        random_split,
    ],
    mistakes=[
        edit("    shares = np.exp(lses - lses.max(axis=0))\n    shares /= shares.sum(axis=0)\n",
             "    shares = np.full_like(lses, 1 / n_splits)\n",
             says="your splits are averaged, as if each had the same share",
             next="weight out_s by exp(lse_s), over the sum of these"),
        edit("    shares = np.exp(lses - lses.max(axis=0))\n    shares /= shares.sum(axis=0)\n",
             "    sizes = [len(k[s * size : (s + 1) * size]) for s in range(n_splits)]\n"
             "    shares = np.repeat(np.array([sizes], q.dtype).T / len(k), len(q), axis=1)\n",
             says="your splits are weighted by their number of keys",
             next="a split's share is its sum of exp(score): exp(lse_s)"),
        edit("(row_max + np.log(total))", "np.log(total)",
             says="your lse leaves out the maximum that was subtracted",
             next="lse = row maximum + log of the sum"),
        edit("(row_max + np.log(total))", "(row_max + total)",
             says="your lse adds the sum itself, not its logarithm",
             next="lse = row maximum + np.log(sum)"),
        edit("lses - lses.max(axis=0)", "lses",
             says="your shares overflow, or are all 0: exp of the lse itself",
             next="subtract the largest lse of each head before np.exp"),
        edit("lses.max(axis=0)", "lses.max()",
             says="your heads share one maximum: where others lie far below, all shares are 0",
             next="subtract the largest lse of each head: max(axis=0)"),
        edit("lses.max(axis=0)", "lses.max(axis=1, keepdims=True)",
             "shares.sum(axis=0)", "shares.sum(axis=1, keepdims=True)",
             says="your shares sum to 1 over the heads",
             next="the splits of one head share: axis 0 of lses"),
        edit("weights @ v[keys] / total", "weights @ v[keys]",
             says="your splits are not divided by their own sums, which lse counts once more",
             next="out_s = weights @ v / sum: attention to the keys of the split"),
        edit("-(-len(k) // n_splits)", "max(1, len(k) // n_splits)",
             "range(0, len(k), size)", "range(0, min(len(k), n_splits * size), size)",
             says="your splits are rounded down, and the last keys left out",
             next="ceil(Tk / n_splits) keys a split: -(-len(k) // n_splits)"),
        edit("for split, start in enumerate(range(0, len(k), size))",
             "cuts = [i * len(k) // n_splits for i in range(n_splits + 1)]\n"
             "    for split, start in enumerate(cuts[:-1])",
             "slice(start, start + size)", "slice(start, cuts[split + 1])",
             "        scores =",
             "        if cuts[split] == cuts[split + 1]:\n            continue\n        scores =",
             says="your splits are as even as can be, not of ceil(Tk / n_splits) keys",
             next="split s begins at s · ceil(Tk / n_splits)"),
        edit("np.zeros((n_splits, len(q), v.shape[-1])", "np.full((n_splits, len(q), v.shape[-1])",
             "q.dtype)\n    lses", "np.nan, q.dtype)\n    lses",
             says="your empty splits have NaN as output, and 0 · NaN is NaN",
             next="give an empty split the output 0; its share is 0 too"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
    ],
    alternatives=[split_by_arrays, split_in_one_product],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/12_inference.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
