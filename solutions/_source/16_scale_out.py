# %% [markdown]
# # 16 Exercises: more than one machine
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("16.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# P processes hold a text together: each has the queries, keys and values of its own tokens. Here a
# process is called a *rank*, by its number, 0 to P − 1. Scores are q kᵀ / √D. No processes are
# started here: the check calls your function for each rank, and plays the others.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.reference import full

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full


def cut(x, sizes, axis=-2):
    """Return the tokens of each rank, so many each."""
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def around(rank, size, blocks):
    """Return `exchange`, as on a rank whose neighbours do all right, and a list of what it sent."""
    sent = []

    def exchange(k, v):
        due = (rank - len(sent)) % size
        owners = (due, *range(size))
        sent.append(next((i for i in owners if all(map(np.array_equal, (k, v), blocks[i]))), "?"))
        return tuple(x.copy() for x in blocks[(due - 1) % size])

    exchange.__qualname__ = "exchange"  # as errors call it
    return exchange, sent


def told(sent):
    return f"blocks {', '.join(map(str, sent))}" if sent else "nothing"


def all_sent(rank, size):
    return told([(rank - step) % size for step in range(size - 1)])


def said(words):
    """Name what a case has beside its sizes: "longer 1000, dtype float64"."""
    return "".join(f", {what} {getattr(value, '__name__', value)}" for what, value in words.items())


# %% [markdown] role="prompt" exercise="16.1"
# ## 16.1 Keys on a ring
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/16_scale_out.ipynb#Pass-the-keys-around)
#
# Write what each of P = `size` ranks runs. It has queries q `(Tq, D)` and a block of keys k
# `(Tk, D)` and values v `(Tk, Dv)`; it returns the attention `(Tq, Dv)`, in q's dtype, to the keys
# of all ranks.

# %% [markdown] role="prompt" exercise="16.1"
# `exchange(k, v)` sends a block to the right neighbour and returns the block that came from the
# left one. Each rank calls it P − 1 times: if one calls it less often, the others wait forever.
# Blocks may differ in length, and some may be empty.

# %% [markdown] role="prompt" exercise="16.1"
# Nobody may hold all blocks: with 16 ranks of 256 tokens, D = Dv = 64, float32, you have 1.5 MiB.
# All blocks are 2 MiB, and one rank's scores with all keys 4 MiB. It is enough for the scores of
# one block in q's dtype; in float64 they and what follows from them take 2 MiB.


# %% role="answer" exercise="16.1"
def ring_attention(q, k, v, size, exchange):
    """Return the attention (Tq, Dv) of this rank's queries to the keys of all `size` ranks."""
    # BEGIN SOLUTION
    out = np.zeros((len(q), v.shape[-1]), q.dtype)
    lse = np.full((len(q), 1), -np.inf, q.dtype)
    for step in range(size):
        if step > 0:
            k, v = exchange(k, v)
        if len(k) > 0:
            scores = q @ k.T / q.shape[-1] ** 0.5
            total = np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))
            out = np.exp(lse - total) * out + np.exp(scores - total) @ v
            lse = total
    return out
    # END SOLUTION


# %% role="check" exercise="16.1"
check("16.1")

# %% [markdown] role="hints" exercise="16.1"
# 1. A rank meets one block at a time. What must it remember of the blocks before, beside their
#    output, so that one more can join?
# 2. Keep out and lse, the logarithm of the sum of exp(score) so far. With a block, the sum becomes
#    exp(lse) + Σ exp(score): np.logaddexp adds without leaving the logarithms. Send what you have
#    just used.
# 3. total = np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True)); out =
#    np.exp(lse - total) * out + np.exp(scores - total) @ v; then lse = total. Before each step but
#    the first: k, v = exchange(k, v). Skip an empty block.


# %% role="spec" exercise="16.1"
def ring_by_maximum(q, k, v, size, exchange):
    """Keep maximum, sum and weighted values, and divide once, at the end."""
    top = np.full(len(q), -np.inf, q.dtype)
    total, out = np.zeros_like(top), np.zeros((len(q), v.shape[-1]), q.dtype)
    for left in reversed(range(size)):
        scores = np.einsum("qd,kd->qk", q, k, optimize=True)
        scores *= q.dtype.type(q.shape[-1] ** -0.5)
        higher = np.maximum(top, scores.max(axis=1, initial=np.finfo(q.dtype).min))
        weights, fade = np.exp(scores - higher[:, None]), np.exp(top - higher)
        total, top = fade * total + weights.sum(axis=1), higher
        out *= fade[:, None]
        out += weights @ v
        if left:
            k, v = exchange(k, v)
    return out / total[:, None]


def ring_by_halves(q, k, v, size, exchange):
    """Attend to each block alone, then join two results by their shares."""
    out, lse = alone(q, k, v)
    for _ in range(size - 1):
        k, v = exchange(k=k, v=v)
        other, more = alone(q, k, v)
        both = np.logaddexp(lse, more)
        with np.errstate(invalid="ignore"):
            shares = [np.nan_to_num(np.exp(x - both))[:, None] for x in (lse, more)]
        out, lse = shares[0] * out + shares[1] * other, both
    return out


def alone(q, k, v):
    scores = (q @ k.T) / np.sqrt(q.dtype.type(q.shape[1]))
    lse = np.logaddexp.reduce(scores, axis=1, initial=-np.inf, dtype=q.dtype)
    return np.exp(scores - lse[:, None]) @ v, lse


def all_blocks_at_once(q, k, v, size, exchange):
    blocks = [(k, v)]
    for _ in range(size - 1):
        blocks.append(exchange(*blocks[-1]))
    return full.attention(q, *map(np.concatenate, zip(*blocks, strict=True)))


def sums_of_exponentials(q, k, v, size, exchange):
    out = total = 0
    for step in range(size):
        k, v = exchange(k, v) if step else (k, v)
        weights = np.exp(q @ k.T / q.shape[-1] ** 0.5)
        out, total = out + weights @ v, total + weights.sum(axis=-1, keepdims=True)
    return out / total


def drive_ring(answer, q, k, v, sizes, key_sizes, ranks):
    """Let some of the ranks attend, and note which blocks they send."""
    queries, seen = cut(q, sizes), {}
    blocks = list(zip(cut(k, key_sizes), cut(v, key_sizes), strict=True))
    for rank in ranks:
        exchange, sent = around(rank, len(sizes), blocks)
        seen[f"out of rank {rank}"] = answer(queries[rank], *blocks[rank], len(sizes), exchange)
        seen[f"sent by rank {rank}"] = told(sent)
    return seen


def ring_in_one(q, k, v, sizes, key_sizes, ranks):
    queries, seen = cut(q, sizes), {}
    for rank in ranks:
        seen[f"out of rank {rank}"] = full.attention(queries[rank], k, v)
        seen[f"sent by rank {rank}"] = all_sent(rank, len(sizes))
    return seen


def ring_case(sizes, width=3, key_sizes=None, **words):
    keys = key_sizes or sizes
    name = f"tokens of the ranks: {', '.join(map(str, keys))}"
    name += f", queries: {', '.join(map(str, sizes))}" if key_sizes else ""
    name += said(words)
    ranks = tuple(range(len(sizes)))
    return qkv(name, (sum(sizes), width), sizes, keys, ranks, keys=sum(keys), **words)


def random_ring(rng):
    sizes, keys = rng.integers(0, 7, (2, rng.integers(3, 6)))
    sizes[rng.integers(len(sizes))] += 1
    keys[rng.integers(len(sizes))] += 1
    return ring_case(tuple(map(int, sizes)), int(rng.integers(2, 6)), tuple(map(int, keys)))(rng)


Spec(
    kind="array",
    drive=drive_ring,
    reference=ring_in_one,
    cases=[
        ring_case((1,), 2),
        ring_case((1, 1)),
        ring_case((3, 3), 5),
        ring_case((2, 2, 2), 5),
        ring_case((4, 1, 3, 2), 5, value_width=2),
        ring_case((3, 0, 2)),
        ring_case((1, 4, 2), 5, (3, 1, 5)),
        ring_case((2, 1, 2), 3, (0, 4, 3)),
        ring_case((3, 0, 2, 1), 5, (0, 0, 1, 0)),
        ring_case((4, 5, 3), 5, shift=17),
        ring_case((3, 2, 4), 5, longer=1000),
        ring_case((3, 2, 3), 5, longer=1000, dtype=np.float64),
        ring_case((2, 3, 3), 5, shift=-17),
        random_ring,
        random_ring,
    ],
    memory=Memory(
        qkv("16 ranks of 256 tokens", (4096, 64), (256,) * 16, (256,) * 16, (5,)),
        3 * 2**19,
        "four tiles of scores, 256 × 256, two blocks and four outputs",
    ),
    mistakes=[
        edit("    for step", "    own = k, v\n    for step", "exchange(k, v)", "exchange(*own)",
             says="your rank sends its own block each time: the others never see its neighbours'",
             next="send on what came: k, v = exchange(k, v)"),
        edit("        if step > 0:\n            k, v = exchange(k, v)\n", "",
             says="your rank attends to its own keys, and sends nothing",
             next="call exchange(k, v) before each step but the first"),
        edit("if step > 0", "if step >= 0",
             says="you send once too often: the last time brings each block home again",
             next="P blocks are P steps, but a block moves between two of them: P - 1 times"),
        edit("range(size)", "range(size - 1)",
             says="your ring ends a step early: the right neighbour's block never arrives",
             next="there are `size` blocks, your own included"),
        edit("k, v = exchange(k, v)", "k, _ = exchange(k, v)",
             says="your values stay while the keys go round",
             next="take both from exchange: k, v = exchange(k, v)"),
        edit("np.exp(lse - total) * out", "out",
             says="your earlier output keeps its weight when a block joins it",
             next="its share shrinks to exp(lse - total)"),
        edit("np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))",
             "np.logaddexp.reduce(scores, axis=-1, keepdims=True)",
             says="your total is that of the last block alone",
             next="add the sum so far: np.logaddexp(lse, …)"),
        edit("np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))",
             "np.logaddexp.reduce(scores, axis=-1, keepdims=True)",
             "np.exp(lse - total) * out + np.exp(scores - total) @ v",
             "out + np.exp(scores - total) @ v / size",
             says="your blocks all have the same share",
             next="weight a block by its part of the sum of exp(score)"),
        edit("            lse = total\n", "",
             says="your lse never learns of the blocks before",
             next="after each block: lse = total"),
        edit("if len(k) > 0", "if True",
             says="your merge makes NaN of an empty block that comes first: −∞ − (−∞)",
             next="skip a block without keys"),
        edit("np.logaddexp.reduce(scores, axis=-1, keepdims=True)",
             "scores.max(axis=-1, keepdims=True) + np.log(np.exp(scores - scores.max("
             "axis=-1, keepdims=True)).sum(axis=-1, keepdims=True))", "if len(k) > 0", "if True",
             says="your maximum is that of an empty block, which has none",
             next="skip a block without keys"),
        edit("        if len(k) > 0", "        if len(k) == 0:\n            break\n        if True",
             says="your ring ends at an empty block: others wait for what you do not pass on",
             next="skip only the computing; an empty block is passed on, too"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        Mistake(sums_of_exponentials,
                says="your exponentials overflow: exp of the scores themselves",
                next="np.exp(scores - total), with total from np.logaddexp"),
        Mistake(all_blocks_at_once,
                says="your rank keeps every block: it then holds all keys, and a score for each",
                next="let a block go once it is merged into out and lse"),
    ],
    alternatives=[ring_by_maximum, ring_by_halves],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: let all ranks do it</summary>
#
#     q, k, v = np.random.default_rng(0).standard_normal((3, 4, 6, 8))  # of 4 ranks
#     for rank in range(4):
#         coming = iter([(k[rank - step], v[rank - step]) for step in (1, 2, 3)])
#         out = ring_attention(q[rank], k[rank], v[rank], 4, lambda *block: next(coming))
#         whole = full.attention(q[rank], k.reshape(24, 8), v.reshape(24, 8))
#         print(abs(out - whole).max())
#
# </details>

# %% [markdown] role="prompt" exercise="16.2"
# ## 16.2 A fair share
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/16_scale_out.ipynb#Causal-is-unfair)
#
# Cut n tokens into 2P runs. If n does not divide evenly, the first runs have one token more. With
# "zigzag", rank r holds run r and, after it, run 2P − 1 − r; P is `size`.

# %% [markdown] role="prompt" exercise="16.2"
# In a causal ring, rank r meets in step s the keys of rank r − s; below 0, count from the end.
# Return its positions, and how many (query, key) pairs it computes in each step: none whose key
# comes after the query.
#
# `zigzag_share(8, 0, 2)`: the arrays `[0, 1, 6, 7]` and `[10, 8]`.


# %% role="answer" exercise="16.2"
def zigzag_share(n, rank, size):
    """Return the positions (n/P,) of a rank, and the pairs (size,) of each step: two arrays."""
    # BEGIN SOLUTION
    runs = np.array_split(np.arange(n), 2 * size)
    held = [np.concatenate([runs[r], runs[-1 - r]]) for r in range(size)]
    pairs = [(held[rank - s] <= held[rank][:, None]).sum() for s in range(size)]
    return held[rank], np.array(pairs)
    # END SOLUTION


# %% role="check" exercise="16.2"
check("16.2")

# %% [markdown] role="hints" exercise="16.2"
# 1. Which keys does the query at position p see? Then take only those that the rank of the step
#    holds.
# 2. np.array_split(np.arange(n), 2 * size) cuts as asked. A pair counts if the key's position is at
#    most the query's: compare the two ranks' positions, each with each.
# 3. held = [np.concatenate([runs[r], runs[-1 - r]]) for r in range(size)]; step s has
#    (held[rank - s] <= held[rank][:, None]).sum() pairs.


# %% role="spec" exercise="16.2"
def share_by_search(n, rank, size):
    """Sorted positions need no table: how many keys lie up to each query."""
    mine = places_of_runs(n, rank, size)
    pairs = np.zeros(size, int)
    for other in range(size):
        up_to = np.searchsorted(places_of_runs(n, other, size), mine, side="right")
        pairs[(rank - other) % size] = up_to.sum()
    return mine, pairs


def places_of_runs(n, rank, size):
    short, longer = divmod(n, 2 * size)
    starts = [run * short + min(run, longer) for run in range(2 * size + 1)]
    runs = [range(starts[run], starts[run + 1]) for run in (rank, 2 * size - 1 - rank)]
    return np.array([*runs[0], *runs[1]], int)


def share_by_owner(n, rank, size):
    """Ask of each token who holds it, and of each query which owners lie behind it."""
    runs = np.repeat(np.arange(2 * size), [len(x) for x in np.array_split(range(n), 2 * size)])
    owner = np.minimum(runs, 2 * size - 1 - runs)
    mine = np.flatnonzero(owner == rank)
    pairs = sum((np.bincount(owner[: p + 1], minlength=size) for p in mine), np.zeros(size, int))
    return mine, pairs[(rank - np.arange(size)) % size]


def rows_of(held):
    """Return the answer to a case from the positions of each rank: a mistake in who holds what."""

    def share(n, rank, size):
        places = [np.array(held(n, r, size), int) for r in range(size)]
        met = [places[rank - s] <= places[rank][:, None] for s in range(size)]
        return places[rank], np.array([seen.sum() for seen in met])

    return share


def contiguous(n, rank, size):
    return np.array_split(np.arange(n), size)[rank]


def striped(n, rank, size):
    return np.arange(rank, n, size)


def rounded_down(n, rank, size):
    run = n // (2 * size)
    starts = [i * run for i in range(2 * size)] + [n]
    return [i for r in (rank, 2 * size - 1 - rank) for i in range(starts[r], starts[r + 1])]


def random_share(rng):
    size = rng.integers(3, 8)
    return rng.integers(20, 90), rng.integers(size), size


RUNS = "np.array_split(np.arange(n), 2 * size)"
LAST_LONGER = "[n - 1 - run[::-1] for run in np.array_split(np.arange(n), 2 * size)[::-1]]"

Spec(
    kind="array",
    cases=[
        case("one token, one rank", 1, 0, 1),
        case("4 tokens, rank 0 of 2", 4, 0, 2),
        case("4 tokens, rank 1 of 2", 4, 1, 2),
        case("12 tokens, rank 1 of 3", 12, 1, 3),
        case("13 tokens, rank 0 of 3", 13, 0, 3),
        case("16 tokens, rank 2 of 3", 16, 2, 3),
        case("3 tokens, rank 3 of 5: none is left for it", 3, 3, 5),
        case("23 tokens, rank 2 of 5", 23, 2, 5),
        case("100 tokens, rank 6 of 7", 100, 6, 7),
        *draws(4, random_share),
    ],
    mistakes=[
        Mistake(rows_of(contiguous),
                says="your ranks hold one run each, in order: the last has nearly all to do",
                next="cut into 2P runs, and give rank r an early and a late one"),
        Mistake(rows_of(striped),
                says="your ranks hold every P-th token",
                next="the tokens of a run are neighbours: runs r and 2P - 1 - r"),
        Mistake(rows_of(rounded_down),
                says="your runs are rounded down, and the last takes the rest",
                next="the first runs have one token more: np.array_split does that"),
        edit(RUNS, LAST_LONGER,
             says="your last runs have one token more, not the first ones",
             next="the first runs have one token more: np.array_split does that"),
        edit("runs[-1 - r]", "runs[size + r]",
             says="your second run is P runs after the first, not as far from the end",
             next="rank r holds run r from the start and run r from the end: 2P - 1 - r"),
        edit("[runs[r], runs[-1 - r]]", "[runs[-1 - r], runs[r]]",
             says="your rank holds the late run before the early one",
             next="run r comes first, then run 2P - 1 - r"),
        edit("<= held", "< held",
             says="your queries do not see themselves",
             next="a key at the query's own position counts"),
        edit("<= held", ">= held",
             says="your queries see what comes after them, and not what came before",
             next="the key's position is at most the query's"),
        edit("rank - s]", "(rank + s) % size]",
             says="your blocks come from the right neighbour",
             next="in step s the keys are those of rank r - s"),
        edit("(held[rank - s] <= held[rank][:, None]).sum()",
             "len(held[rank - s]) * len(held[rank])",
             says="your pairs include those that the mask hides",
             next="count the pairs whose key is not after the query"),
        edit("(held[rank - s] <= held[rank][:, None]).sum()",
             "-(-len(held[rank - s]) * len(held[rank]) // 2)",
             says="your pairs are half of all, as if each block were cut along its diagonal",
             next="a late block of keys is seen by late queries only: compare the positions"),
        edit("(held[rank - s] <= held[rank][:, None]).sum()",
             "(np.arange(len(held[rank - s])) <= np.arange(len(held[rank]))[:, None]).sum()",
             says="your mask compares places within the shards, not positions in the text",
             next="a shard's i-th token is at held[rank][i]"),
    ],
    alternatives=[share_by_search, share_by_owner],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: how fair it is</summary>
#
#     for rank in range(4):
#         print(zigzag_share(4096, rank, 4)[1])
#
# All ranks have the same to do, in each step: 2 · 512² = 524,288 pairs, and 512 more in the first.
# That matters in a ring, where everyone waits for the slowest in every step.
#
# </details>

# %% [markdown] role="prompt" exercise="16.3"
# ## 16.3 Tokens for heads
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/16_scale_out.ipynb#Swap-tokens-for-heads)
#
# Each of P = `size` ranks comes with all H heads of its own T tokens: q and k `(H, T, D)`, v
# `(H, T, Dv)`. Rank 0 has the first tokens, rank 1 the next, not always as many. P divides H.

# %% [markdown] role="prompt" exercise="16.3"
# `all_to_all(parts)` takes a list of P arrays, sends part j to rank j, and returns what each rank
# sent here, in order of rank. Swap: rank r gets all n tokens of the r-th H/P heads. Attend with
# `full.attention(q, k, v, causal=True)`, and swap back.

# %% [markdown] role="prompt" exercise="16.3"
# Return this rank's tokens of all heads, `(H, T, Dv)`. What a rank sends to the others is counted:
# nothing may travel that is not needed.


# %% role="answer" exercise="16.3"
def swapped_attention(q, k, v, size, all_to_all):
    """Return the causal attention (H, T, Dv) of this rank's tokens, all heads."""
    # BEGIN SOLUTION
    parts = [all_to_all(np.split(x, size)) for x in (q, k, v)]
    ends = np.cumsum([part.shape[1] for part in parts[0]])
    out = full.attention(*(np.concatenate(part, axis=1) for part in parts), causal=True)
    return np.concatenate(all_to_all(np.split(out, ends[:-1], axis=1)))
    # END SOLUTION


# %% role="check" exercise="16.3"
check("16.3")

# %% [markdown] role="hints" exercise="16.3"
# 1. Write down the shape of one part on the way there and of one on the way back. Which axis is
#    cut, and which one grows?
# 2. There: cut the heads into P, join what comes along the tokens. Back: cut the tokens as they
#    came, join along the heads. The lengths of the parts of q tell how many tokens each rank has.
# 3. parts = all_to_all(np.split(q, size)), joined with axis=1, for q, k and v. Back:
#    all_to_all(np.split(out, ends[:-1], axis=1)), where ends are the np.cumsum of the parts'
#    lengths, joined with axis=0.


# %% role="spec" exercise="16.3"
class Waits(BaseException):
    """A rank has sent, and waits for what the others send."""


def together(program, size):
    """Run `program(rank, all_to_all)` on each rank; return the results, and the bytes each sent.

    One rank after the other: who waits is begun anew once all have sent.
    """
    replies, n_bytes = [[] for _ in range(size)], [0] * size
    while True:
        results, sent = [], []
        for rank in range(size):
            coming = iter(replies[rank])

            def all_to_all(parts, coming=coming, sent=sent):
                if (reply := next(coming, None)) is not None:
                    return [part.copy() for part in reply]
                if len(parts) != size:
                    raise ValueError(f"all_to_all: parts must be {size}, got {len(parts)}")
                sent.append([np.array(part) for part in parts])
                raise Waits

            try:
                results.append(program(rank, all_to_all))
            except Waits:
                parts = sent[-1]
                n_bytes[rank] += sum(part.nbytes for part in parts) - parts[rank].nbytes
        if not sent:
            return results, n_bytes
        if results:
            raise RuntimeError(f"{len(results)} of {size} ranks are done, the others wait for them")
        for rank in range(size):
            replies[rank].append([parts[rank] for parts in sent])


def drive_swap(answer, q, k, v, sizes):
    shards = list(zip(*(cut(x, sizes) for x in (q, k, v)), strict=True))

    def program(rank, all_to_all):
        return answer(*(x.copy() for x in shards[rank]), len(sizes), all_to_all)

    return named(*together(program, len(sizes)))


def named(outs, n_bytes):
    seen = {f"out of rank {rank}": out for rank, out in enumerate(outs)}
    return seen | {f"bytes sent by rank {rank}": sent for rank, sent in enumerate(n_bytes)}


def whole_and_bytes(q, k, v, sizes):
    heads, n, size = len(q), q.shape[1], len(sizes)
    kept, back = heads // size, v.itemsize * v.shape[-1]
    there = 2 * q.itemsize * q.shape[-1] + back
    sent = [(heads - kept) * own * there + kept * (n - own) * back for own in sizes]
    return named(cut(full.attention(q, k, v, causal=True), sizes), sent)


def swap_in_one_call(q, k, v, size, all_to_all):
    """Queries, keys and values in one parcel."""
    width = q.shape[-1]
    come = all_to_all(np.array_split(np.concatenate([q, k, v], axis=-1), size))
    whole = full.attention(*np.split(np.hstack(come), [width, 2 * width], axis=-1), causal=True)
    back, start = [], 0
    for part in come:
        back.append(whole[:, start : (start := start + part.shape[1])])
    return np.vstack(all_to_all(back))


def swap_every_pth_head(q, k, v, size, all_to_all):
    """Rank r attends to the heads r, r + P, r + 2P, …"""
    v_shape = v.shape
    q, k, v = ([x[rank::size] for rank in range(size)] for x in (q, k, v))
    v, k, q = all_to_all(v), all_to_all(k), all_to_all(q)
    out = full.attention(*(np.concatenate(x, axis=-2) for x in (q, k, v)), causal=True)
    cuts = np.cumsum([part.shape[-2] for part in k])[:-1]
    mine = all_to_all(np.split(out, cuts, axis=-2))
    return np.stack(mine, axis=1).reshape(v_shape)


def own_tokens_only(q, k, v, size, all_to_all):
    return full.attention(q, k, v, causal=True)


def attend(q, k, v):
    """Attend as a rank does, to parts that are joined along the tokens."""
    return full.attention(*(np.concatenate(x, axis=1) for x in (q, k, v)), causal=True)


def own_rows(out, queries, q):
    """Cut this rank's tokens out of all: where its queries are, of all heads or of some."""
    own = q.shape[1]
    [at, *_] = [
        i
        for i in range(queries.shape[1] - own + 1)
        for heads in np.split(q, len(q) // len(queries))
        if np.array_equal(queries[:, i : i + own], heads)
    ]
    return out[:, at : at + own]


def all_outputs_to_all(q, k, v, size, all_to_all):
    parts = [all_to_all(np.split(x, size)) for x in (q, k, v)]
    heads = np.concatenate(all_to_all([attend(*parts)] * size))
    return own_rows(heads, np.concatenate(parts[0], axis=1), q)


def all_gathered(q, k, v, size, all_to_all):
    parts = [all_to_all([x] * size) for x in (q, k, v)]
    return own_rows(attend(*parts), np.concatenate(parts[0], axis=1), q)


def swap_case(sizes, heads, width=3, **words):
    name = f"{heads} head{'s' * (heads > 1)}, tokens of the ranks: {', '.join(map(str, sizes))}"
    name += said(words)
    return qkv(name, (heads, sum(sizes), width), sizes, **words)


def random_swap(rng):
    sizes = rng.integers(0, 6, rng.integers(3, 5))
    sizes[rng.integers(len(sizes))] += 1
    return swap_case(tuple(map(int, sizes)), len(sizes) * int(rng.integers(1, 4)), 4)(rng)


Spec(
    kind="array",
    drive=drive_swap,
    reference=whole_and_bytes,
    cases=[
        swap_case((1,), 1, 2),
        swap_case((2,), 3),
        swap_case((1, 1), 2),
        swap_case((2, 2), 4, 5),
        swap_case((3, 3, 3), 3),
        swap_case((2, 2, 2), 6, 5, value_width=3),
        swap_case((4, 1, 3), 6, 5),
        swap_case((0, 3, 2), 3),
        swap_case((2, 3), 4, 5, value_width=1),
        swap_case((3, 1, 0, 2), 8, 5),
        swap_case((2, 1, 3), 6, 5, longer=1000, dtype=np.float64),
        random_swap,
        random_swap,
    ],
    mistakes=[
        edit("return np.concatenate(all_to_all(np.split(out, ends[:-1], axis=1)))", "return out",
             says="your rank returns all tokens of a few heads: it has not swapped back",
             next="a second all_to_all brings each token home"),
        edit("np.split(x, size)) for", "[x[r::size] for r in range(size)]) for",
             says="your heads come back in another order: rank r attended to every P-th one",
             next="send neighbouring heads to one rank: np.split(x, size)"),
        edit("np.concatenate(part, axis=1)", "np.concatenate(part[::-1], axis=1)",
             says="your tokens are joined in the wrong order, and causal means another past",
             next="join the parts in order of rank"),
        edit("np.split(out, ends[:-1], axis=1)", "np.array_split(out, size, axis=1)",
             says="your way back gives each rank as many tokens, whatever it came with",
             next="cut at the ends of the parts that came: np.cumsum of their lengths"),
        edit("np.split(out, ends[:-1], axis=1)", "[np.array_split(out, size, axis=1)[0]] * size",
             says="your way back gives each rank the first tokens",
             next="part j of the way back holds the tokens of rank j"),
        edit("return np.concatenate(all_to_all(np.split(out, ends[:-1], axis=1)))",
             "come = all_to_all(np.split(out, ends[:-1], axis=1))\n"
             "    return np.stack(come, axis=1).reshape(-1, *come[0].shape[1:])",
             says="your heads are dealt out by turns on the way back",
             next="rank r sends the r-th H/P heads: join the parts along the heads"),
        edit("parts = [all_to_all(np.split(x, size)) for x in (q, k, v)]",
             "parts = [all_to_all([x[: len(x) // size]] * size) for x in (q, k, v)]",
             says="your ranks all attend to the first heads",
             next="part j of the way there holds the j-th H/P heads"),
        edit(", causal=True", "",
             says="your queries see what comes after them",
             next="full.attention(q, k, v, causal=True)"),
        Mistake(own_tokens_only,
                says="your rank attends to its own tokens alone",
                next="swap first: each rank needs all tokens of its heads"),
        Mistake(all_outputs_to_all,
                says="your way back sends all tokens to everyone",
                next="part j of the way back holds the tokens of rank j, and no others"),
        Mistake(all_gathered,
                says="your ranks send all heads to everyone: P times what is needed",
                next="send rank j the j-th H/P heads, and no others"),
    ],
    alternatives=[swap_in_one_call, swap_every_pth_head],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="16.4"
# ## 16.4 Bytes on the wire
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/16_scale_out.ipynb#The-way-back)
#
# P = `size` ranks share n tokens evenly. Queries and outputs have `heads` heads, keys and values
# `kv_heads`; each has `width` numbers of `dtype_bytes`. Return the bytes that one rank sends, a
# dict of (forward, backward).

# %% [markdown] role="prompt" exercise="16.4"
# - `ring`: a block of k and v moves P − 1 times; backward it does so again, and its dk and dv as
#   often, the last time home.
# - `gather`: a rank sends its block to each other; backward, to each the dk and dv that it has for
#   it.
#
# In both, dk and dv travel in float32.

# %% [markdown] role="prompt" exercise="16.4"
# - `all_to_all`: q, k and v swap tokens for heads, and the output swaps back; a rank keeps its own
#   part. Backward, the gradients, of `dtype_bytes`, go the same ways back. `None` unless P divides
#   `kv_heads`.
#
# `wire_bytes(6, 2, 4, 2, 5, 2)`: (120, 360), (120, 240) and (180, 180).


# %% role="answer" exercise="16.4"
def wire_bytes(n, size, heads, kv_heads, width, dtype_bytes):
    """Return {"ring": (forward, backward), "gather": …, "all_to_all": …} in bytes of a rank."""
    # BEGIN SOLUTION
    own, others = n // size, size - 1
    block = own * 2 * kv_heads * width * dtype_bytes
    grads = own * 2 * kv_heads * width * 4
    swaps = None
    if kv_heads % size == 0:
        swapped = own * others * 2 * (heads + kv_heads) // size * width * dtype_bytes
        swaps = (swapped, swapped)
    return {
        "ring": (others * block, others * (block + grads)),
        "gather": (others * block, others * grads),
        "all_to_all": swaps,
    }
    # END SOLUTION


# %% role="check" exercise="16.4"
check("16.4")

# %% [markdown] role="hints" exercise="16.4"
# 1. How many numbers does a block hold? How often does a rank send one, and what else travels on
#    the way back?
# 2. A block is n/P · 2 · kv_heads · width numbers, dk and dv are as many, of 4 bytes. Swapping, a
#    rank keeps 1/P of what it has: of q, k, v and the output, n/P · (2·heads + 2·kv_heads) · width.
# 3. ring: (P − 1)·block, (P − 1)·(block + grads); gather: (P − 1)·block, (P − 1)·grads; all_to_all:
#    n/P · (P − 1)/P · 2·(heads + kv_heads)·width·dtype_bytes, both ways.


# %% role="spec" exercise="16.4"
def wire_by_shapes(n, size, heads, kv_heads, width, dtype_bytes):
    """Add up every array that leaves a rank."""
    shape, others = (n // size, kv_heads, width), range(1, size)
    keys = [2 * math.prod(shape) * dtype_bytes for _ in others]
    grads = [2 * math.prod(shape) * 4 for _ in others]
    sent = {
        "ring": (sum(keys), sum(keys + grads)),
        "gather": (sum(keys), sum(grads)),
        "all_to_all": None,
    }
    if not kv_heads % size:
        queries, keys = ((n // size, count // size, width) for count in (heads, kv_heads))
        parts = [math.prod(each) for each in (queries, keys, keys, queries) for _ in others]
        sent["all_to_all"] = (sum(parts) * dtype_bytes,) * 2
    return sent


def wire_by_fractions(n, size, heads, kv_heads, width, dtype_bytes):
    whole = n * kv_heads * width * 2  # keys and values of all
    leaving = whole - whole // size
    sent = {"ring": (leaving * dtype_bytes, leaving * (dtype_bytes + 4))}
    sent["gather"] = (leaving * dtype_bytes, leaving * 4)
    numbers = (whole + n * heads * width * 2) // size
    each = (numbers - numbers // size) * dtype_bytes
    return sent | {"all_to_all": None if kv_heads % size else (each, each)}


def random_wire(rng):
    size, groups, each = (int(x) for x in rng.integers((2, 1, 1), (9, 5, 5)))
    kv_heads = groups * size if rng.integers(2) else groups
    own, width = (int(x) for x in rng.integers((2, 2), (99, 65)))
    return own * size, size, kv_heads * each, kv_heads, width, int(rng.choice([2, 4]))


Spec(
    kind="number",
    cases=[
        case("one rank sends nothing", 1, 1, 1, 1, 1, 4),
        case("2 ranks, 2 heads", 6, 2, 2, 2, 5, 4),
        case("3 ranks, 3 heads", 21, 3, 3, 3, 5, 4),
        case("float16", 21, 3, 3, 3, 5, 2),
        case("float8", 21, 3, 3, 3, 5, 1),
        case("10 heads, 5 of keys", 35, 5, 10, 5, 3, 4),
        case("more ranks than heads of keys", 30, 6, 12, 3, 7, 2),
        case("heads of keys that do not divide", 36, 4, 12, 6, 5, 2),
        case("1,048,576 tokens, 64 ranks", 2**20, 64, 64, 8, 128, 2),
        *draws(5, random_wire),
    ],
    mistakes=[
        edit("others = n // size, size - 1", "others = n // size, size",
             says="your rank sends to P others, itself included",
             next="P - 1 blocks leave a rank"),
        edit("block = own * 2 * kv_heads", "block = own * 2 * heads",
             "grads = own * 2 * kv_heads", "grads = own * 2 * heads",
             says="your blocks hold a key and a value for each query head",
             next="keys and values have kv_heads heads, and only these travel"),
        edit("own * 2 * kv_heads", "own * kv_heads",
             says="your blocks hold keys alone",
             next="keys and values: twice as many numbers"),
        edit("block = own *", "block = n *", "grads = own *", "grads = n *",
             says="your blocks hold all n tokens",
             next="a rank's block holds n // size of them"),
        edit("width * 4", "width * dtype_bytes",
             says="your dk and dv travel in the dtype of the keys",
             next="in ring and gather they are sums, and travel in float32: 4 bytes"),
        edit("others * (block + grads)", "others * 2 * block",
             says="your dk and dv go round the ring in the dtype of the keys",
             next="in ring and gather they are sums, and travel in float32: 4 bytes"),
        edit("others * (block + grads)", "others * grads",
             says="your ring sends only dk and dv backward: it meets no keys",
             next="backward the blocks go round once more, too"),
        edit("others * (block + grads)", "others * block + size * grads",
             says="your dk and dv move P times",
             next="a rank's own share need not travel: P - 1 moves, the last one home"),
        edit("others * (block + grads)", "others * block + (others - 1) * grads",
             says="your dk and dv never come home",
             next="they move P - 1 times: the last move is the one home"),
        edit('"gather": (others * block, others * grads)',
             '"gather": (others * block, others * (block + grads))',
             says="your gather asks for the keys again backward: each rank has kept them",
             next="only dk and dv travel back"),
        edit('"gather": (others * block, others * grads)', '"gather": (others * block, grads)',
             says="your gather sends dk and dv of one block back",
             next="each rank has a share of dk and dv for every other: P - 1 of them"),
        edit("own * others * 2 * (heads + kv_heads) // size", "own * 2 * (heads + kv_heads)",
             says="your swap sends all heads away, also those that stay",
             next="a rank keeps its own 1/P of each: times (P - 1)/P"),
        edit("own * others * 2 * (heads + kv_heads) // size",
             "own * others * 2 * (heads + kv_heads)",
             says="your swap sends everything to everyone",
             next="rank j gets the j-th H/P heads only: divide by P"),
        edit("2 * (heads + kv_heads)", "(heads + 2 * kv_heads)",
             says="your output does not swap back",
             next="q, k and v go there, the output comes back: 2 · (heads + kv_heads)"),
        edit("2 * (heads + kv_heads)", "4 * heads",
             says="your swap moves a key and a value for each query head",
             next="k and v have kv_heads heads: 2 · (heads + kv_heads)"),
        edit("if kv_heads % size", "if heads % size",
             says="your swap has more ranks than it has heads of keys to give",
             next="P has to divide kv_heads, too"),
        edit("swaps = (swapped, swapped)",
             "swaps = (swapped, swapped // dtype_bytes * 4)",
             says="your swapped gradients travel in float32",
             next="they are not added up on the way: dtype_bytes"),
    ],
    alternatives=[wire_by_shapes, wire_by_fractions],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: more ranks</summary>
#
# 2²⁰ tokens, 64 heads, D = 128, 2 bytes: on 8 ranks each sends 30.1 GB in a ring and 7.5 swapping;
# on 64 ranks 33.8 and 1.06. With 8 heads of keys at most 8 ranks can swap, and there the ring sends
# less: 3.8 GB against 4.2.
#
# </details>

# %% [markdown] role="prompt" exercise="16.5"
# ## 16.5 A ring that is nearly right
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/16_scale_out.ipynb#Causal-is-unfair)
#
# A causal ring, as each rank runs it. On two ranks it is right. From three on, one bug gives wrong
# numbers, and the other lets neighbours wait forever: on contiguous shards, say.

# %% [markdown] role="prompt" exercise="16.5"
# `positions[r]` are those that rank r holds, in any layout: queries and keys have the same. Each
# rank holds at least one. `exchange` is that of 16.1: it sends a block to the right and returns the
# one from the left. Copy the code into the answer cell and repair it.


# %% role="prompt" exercise="16.5"
def broken_ring(q, k, v, rank, positions, exchange):
    size, mine = len(positions), positions[rank][:, None]
    out, lse = np.zeros((len(q), v.shape[-1]), q.dtype), np.full_like(q[:, :1], -np.inf)
    for step in range(size):
        if step > 0:
            k, v = exchange(k, v)
        theirs = positions[(rank + step) % size]
        if theirs.min() > mine.max():
            break  # they lie in the future, all of them
        scores = np.where(theirs <= mine, q @ k.T / q.shape[-1] ** 0.5, -np.inf)
        total = np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))
        out = np.exp(lse - total) * out + np.exp(scores - total) @ v
        lse = total
    return out


# %% role="answer" exercise="16.5"
def mended_ring(q, k, v, rank, positions, exchange):
    """Return the causal attention (T, Dv) of this rank's queries to the keys of all ranks."""
    # BEGIN SOLUTION
    size, mine = len(positions), positions[rank][:, None]
    out, lse = np.zeros((len(q), v.shape[-1]), q.dtype), np.full_like(q[:, :1], -np.inf)
    for step in range(size):
        if step > 0:
            k, v = exchange(k, v)
        theirs = positions[(rank - step) % size]
        if theirs.min() > mine.max():
            continue  # they lie in the future, all of them
        scores = np.where(theirs <= mine, q @ k.T / q.shape[-1] ** 0.5, -np.inf)
        total = np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))
        out = np.exp(lse - total) * out + np.exp(scores - total) @ v
        lse = total
    return out
    # END SOLUTION


# %% role="check" exercise="16.5"
check("16.5")

# %% [markdown] role="hints" exercise="16.5"
# 1. Why are two ranks always right? Ask of each line in the loop what it does in the last step, and
#    in one before it.
# 2. Whose keys arrive in step s, if all send to the right? And who still needs a block that you do
#    not?
# 3. In step s the keys are those of rank - step. What lies in the future is skipped, not the end of
#    the loop: `continue` goes on to the next exchange.


# %% role="spec" exercise="16.5"
def ring_that_starts_anew(q, k, v, rank, positions, exchange):
    """Compute first, send afterwards; what is hidden is computed too, and weighs nothing."""
    n_left, owner, top, total, out = len(positions), rank, -np.inf, 0.0, 0.0
    while True:
        scores = q @ k.T / np.sqrt(q.dtype.type(q.shape[-1]))
        scores[positions[owner][None, :] > positions[rank][:, None]] = -np.inf
        higher = np.maximum(top, scores.max(axis=1, keepdims=True))
        weights, fade = np.exp(scores - higher), np.exp(top - higher)
        total = fade * total + weights.sum(axis=1, keepdims=True)
        out, top = fade * out + weights @ v, higher
        n_left -= 1
        if n_left == 0:
            return out / total
        (k, v), owner = exchange(k, v), owner - 1


def ring_row_by_row(q, k, v, rank, positions, exchange):
    """A query takes the keys that it sees, as many as there are."""
    kept = [[] for _ in q]
    for step in range(len(positions)):
        for row, (query, at) in enumerate(zip(q, positions[rank], strict=True)):
            seen = positions[rank - step] <= at
            kept[row].append((k[seen] @ query / math.sqrt(len(query)), v[seen]))
        if step + 1 < len(positions):
            k, v = exchange(k, v)
    out = np.empty((len(q), v.shape[1]), q.dtype)
    for row, parts in enumerate(kept):
        scores, values = map(np.concatenate, zip(*parts, strict=True))
        weights = np.exp(scores - scores.max())
        out[row] = weights @ values / weights.sum()
    return out


def drive_causal(answer, q, k, v, owners):
    """Let each rank attend, and note which blocks it sends."""
    positions = held_by(owners)
    blocks, seen = [(k[held], v[held]) for held in positions], {}
    for rank, held in enumerate(positions):
        exchange, sent = around(rank, len(positions), blocks)
        block = (x.copy() for x in blocks[rank])
        out = answer(q[held], *block, rank, held_by(owners), exchange)
        seen |= {f"out of rank {rank}": out, f"sent by rank {rank}": told(sent)}
    return seen


def held_by(owners):
    return [np.flatnonzero(owners == rank) for rank in range(owners.max() + 1)]


def causal_in_one(q, k, v, owners):
    out, positions, seen = full.attention(q, k, v, causal=True), held_by(owners), {}
    for rank, held in enumerate(positions):
        sent = all_sent(rank, len(positions))
        seen |= {f"out of rank {rank}": out[held], f"sent by rank {rank}": sent}
    return seen


def causal_case(n, size, layout, width=5, **words):
    order = [*range(size), *reversed(range(size))] if layout == "zigzag" else range(size)
    lengths = map(len, np.array_split(np.arange(n), len(order)))
    name = f"{n} tokens, {size} rank{'s' * (size > 1)}, {layout}"
    name += said(words)
    return qkv(name, (n, width), np.repeat(order, list(lengths)), **words)


def random_causal(rng):
    size, layout = int(rng.integers(3, 6)), ("zigzag", "contiguous")[rng.integers(2)]
    return causal_case(int(rng.integers(size, 30)), size, layout)(rng)


def dealt_out(rng):
    owners = rng.permutation(np.arange(13) % 4)
    return qkv("13 tokens, 4 ranks, dealt out at random", (13, 5), owners)(rng)


OWNER = "(rank - step) % size", "(rank + step) % size"
GOES_ON = "continue", "break"

Spec(
    kind="array",
    drive=drive_causal,
    reference=causal_in_one,
    cases=[
        causal_case(1, 1, "zigzag", 2),
        causal_case(2, 2, "contiguous", 3),
        causal_case(4, 2, "zigzag", 3),
        causal_case(6, 2, "contiguous"),
        causal_case(3, 3, "contiguous"),
        causal_case(6, 3, "zigzag"),
        causal_case(12, 3, "contiguous", value_width=2),
        causal_case(16, 4, "zigzag", value_width=7),
        causal_case(9, 3, "contiguous", shift=17),
        causal_case(10, 4, "contiguous"),
        causal_case(11, 4, "zigzag"),
        dealt_out,
        random_causal,
        random_causal,
        causal_case(9, 3, "contiguous", longer=1000, dtype=np.float64),
    ],
    mistakes=[
        edit(*OWNER, *GOES_ON,
             says="both bugs are still there: your ring is the given one",
             next="follow rank 0 of 3: whose keys come in step 1, and who needs them next?"),
        edit(*OWNER,
             says="one bug is left: your mask takes the blocks to come from the right",
             next="all send to the right, so step s brings the keys of rank - step"),
        edit(*GOES_ON,
             says="one bug is left: at the first block that you need not, you send no more",
             next="skip the computing alone: others still need what passes through you"),
        edit("        if step > 0:\n            k, v = exchange(k, v)\n", "",
             "        scores =", "        if step > 0:\n            k, v = exchange(k, v)\n"
             "        scores =",
             says="your exchange comes after the skip: a hidden block neither comes nor goes",
             next="exchange first, in every step but step 0"),
        edit("theirs.min() > mine.max()", "theirs.max() > mine.max()",
             says="you skip blocks that are hidden only in part",
             next="skip if the first of their positions lies behind the last of yours"),
        edit("theirs.min() > mine.max()", "theirs.min() > mine.min()",
             says="you skip blocks that your later queries see",
             next="skip if the first of their positions lies behind the last of yours"),
        edit("theirs <= mine", "np.arange(len(k)) <= np.arange(len(q))[:, None]",
             says="your mask compares places within the shards",
             next="compare positions in the text: theirs <= mine"),
        edit("theirs <= mine", "theirs < np.maximum(mine, 1)",
             says="your queries do not see themselves",
             next="a key at the query's own position counts: <="),
        edit("theirs <= mine", "theirs < theirs + 1",
             says="your queries see all of a block that is hidden in part",
             next="keep the mask: theirs <= mine"),
        edit("size, mine = len(positions)", "ends = np.cumsum([0, *map(len, positions)])\n"
             "    positions = [np.arange(a, b) for a, b in zip(ends[:-1], ends[1:])]\n"
             "    size, mine = len(positions)",
             says="your positions are those of contiguous shards, whatever the layout is",
             next="take them from `positions`"),
        edit("(rank - step) % size", "rank",
             says="your mask is that of your own block in every step",
             next="theirs are the positions of the rank whose block has come"),
        edit("np.exp(lse - total) * out", "out",
             says="your earlier output keeps its weight when a block joins it",
             next="the merge was right in the given code: exp(lse - total) * out"),
        edit("np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))",
             "np.log(np.exp(lse) + np.exp(scores).sum(axis=-1, keepdims=True))",
             says="your exponentials overflow: exp of the scores themselves",
             next="np.logaddexp stays in the logarithms"),
    ],
    alternatives=[ring_that_starts_anew, ring_row_by_row],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/16_scale_out.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
