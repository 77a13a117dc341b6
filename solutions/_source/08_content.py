# %% [markdown]
# # 08 Exercises: let the content decide
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("08.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Scores are q kᵀ / √D, arrays have no leading axes, and results have the dtype of q unless a prompt
# asks for integers or booleans. If Tq ≠ Tk, the last query stands at the last key: query i sits at
# position i + Tk − Tq.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share.

A choice jumps where two scores are nearly equal, and then rounding decides. So either all scores
are exact in any dtype and order, being sums of small integers, and ties are ties; or the draw is
repeated until no two scores between which a choice is made are close.
"""

import math

import numpy as np

from attncourse.grading.spec import Case
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, lsh, topk

CLEAR = 1e-4  # relative; rounding moves a score by some 1e-6


def whole(rng, *shape):
    """Return small integers as floats: dot products of them are exact, and often equal."""
    return rng.integers(-2, 3, shape).astype(np.float64)


def drawn(name, make, rest, is_clear=None, dtype=np.float32):
    """Return a maker of a case whose arrays are drawn again until they are clear."""

    def case_of(rng):
        arrays = make(rng)
        while is_clear and not is_clear(*arrays):
            arrays = make(rng)
        return Case(name, (*(x.astype(dtype) for x in arrays), *rest))

    return case_of


def gaps(scores, keep):
    """Return by how much the last score kept in a row exceeds the first one left out."""
    ranked = -np.sort(-scores, axis=-1)
    if keep >= scores.shape[-1]:
        return np.full(len(scores), np.inf)
    return (ranked[:, keep - 1] - ranked[:, keep]) / np.abs(scores).max(axis=-1)


# %% [markdown] role="prompt" exercise="08.1"
# ## 08.1 The best keys, no n × n
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/08_content.ipynb#Keep-the-best)
#
# Each query attends to the `keep` keys that score highest with it, and to no others. Of equal
# scores the first keys are kept. q is `(Tq, D)`, k `(Tk, D)`, v `(Tk, Dv)`; return `(Tq, Dv)`.

# %% [markdown] role="prompt" exercise="08.1"
# If there are no more than `keep` keys, that is full attention. With `keep = 1` each row is the
# value of one key.

# %% [markdown] role="prompt" exercise="08.1"
# **Memory limit** at n = 2048, D = 16, float32, keep 16: 4 MiB. The scores of 64 queries with their
# order fit; n × n scores take 16 MiB, and n × n booleans would leave no room for the result.


# %% role="answer" exercise="08.1"
def topk_attention(q, k, v, keep):
    """Return attention over the best keys of each query, (Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    block = 32
    out = np.zeros((len(q), v.shape[-1]), q.dtype)
    for start in range(0, len(q), block):
        rows = slice(start, start + block)
        scores = q[rows] @ k.T / q.shape[-1] ** 0.5
        best = np.argsort(-scores, axis=-1, kind="stable")[:, :keep]
        scores = np.take_along_axis(scores, best, axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[rows] = (weights[:, None, :] @ v[best])[:, 0]
    return out
    # END SOLUTION


# %% role="check" exercise="08.1"
check("08.1")

# %% [markdown] role="hints" exercise="08.1"
# 1. A query must see all its scores before it knows the best. But must it do so together with the
#    other queries?
# 2. Take a few dozen queries at a time. `np.argsort(-scores, axis=-1, kind="stable")` lists the
#    best keys first, and the earlier of two equal ones first; `v[best]` gathers their values.
# 3. For each block of rows: best = argsort(...)[:, :keep]; scores = np.take_along_axis(scores,
#    best, axis=-1); weights = softmax of those; (weights[:, None, :] @ v[best])[:, 0].


# %% role="spec" exercise="08.1"
def best_by_tiles(q, k, v, keep):
    """Keep the best so far of all queries, and let each tile of keys compete with them."""
    best = np.zeros((len(q), 0), np.int64)
    scores = np.zeros((len(q), 0), q.dtype)
    for start in range(0, len(k), 32):
        keys = np.arange(start, min(start + 32, len(k)))
        scores = np.concatenate([scores, q @ k[keys].T / math.sqrt(q.shape[-1])], axis=-1)
        best = np.concatenate([best, np.tile(keys, (len(q), 1))], axis=-1)
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :keep]
        scores, best = (np.take_along_axis(x, order, axis=-1) for x in (scores, best))
    weights = np.exp(scores - scores[:, :1])
    out = np.einsum("ij,ijd->id", weights, v[best]) / weights.sum(axis=-1, keepdims=True)
    return out.astype(q.dtype)


def best_by_rows(q, k, v, keep):
    """Scale q first, and look for the score that is just good enough."""
    out, q = [], q / q.dtype.type(math.sqrt(q.shape[-1]))
    for row in q:
        scores = k @ row
        least = np.sort(scores)[-keep] if keep < len(k) else -np.inf
        kept = scores > least
        kept[np.flatnonzero(scores == least)[: keep - kept.sum()]] = True
        weights = np.exp(scores[kept] - scores.max())
        out.append(weights @ v[kept] / weights.sum())
    return np.array(out, q.dtype)


def any_of_equal(q, k, v, keep):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    kept = np.argpartition(scores, -min(keep, len(k)), axis=-1)[:, -keep:]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, kept, True, axis=-1)
    return full.attention(q, k, v, mask=mask)


def topk_case(name, n_queries, n_keys, width, keep, value_width=None, longer=1.0, **words):
    def make(rng):
        q, k = whole(rng, n_queries, width), whole(rng, n_keys, width)
        q[0] *= longer
        return q, k, rng.standard_normal((n_keys, value_width or width))

    return drawn(name, make, (keep,), **words)


def no_ties(name, n_queries, n_keys, width, keep, **words):
    def make(rng):
        shapes = ((n_queries, width), (n_keys, width), (n_keys, width + 2))
        return tuple(rng.standard_normal(shape) for shape in shapes)

    return drawn(name, make, (keep,), lambda q, k, v: gaps(q @ k.T, keep).min() > CLEAR, **words)


def random_topk(rng):
    n_queries, n_keys, keep = (int(x) for x in rng.integers((4, 20, 2), (40, 70, 15)))
    name = f"random, {n_queries} queries, {n_keys} keys, keep {keep}"
    return no_ties(name, n_queries, n_keys, 7, keep)(rng)


Spec(
    kind="array",
    reference=lambda q, k, v, keep: topk.attention(q, k, v, keep=keep),
    cases=[
        topk_case("1 query, 1 key", 1, 1, 4, 1),
        no_ties("1 query, 5 keys, keep 2", 1, 5, 3, 2),
        no_ties("5 queries, 3 keys, keep 1", 5, 3, 7, 1),
        no_ties("3 queries, 11 keys, keep 5", 3, 11, 5, 5),
        topk_case("keep more than there are", 5, 7, 4, 50),
        topk_case("many equal scores", 7, 30, 4, 3),
        topk_case("all keys are equal", 5, 9, 4, 4, longer=0.0),
        topk_case("values narrower than keys", 9, 40, 16, 6, value_width=3),
        topk_case("float64", 13, 50, 4, 9, dtype=np.float64),
        topk_case("float64, a long query", 13, 50, 4, 9, dtype=np.float64, longer=1000),
        topk_case("one query 1000 times longer", 40, 60, 16, 10, longer=1000),
        random_topk,
        random_topk,
    ],
    memory=Memory(
        topk_case("n = 2048, keep 16", 2048, 2048, 16, 16),
        2048 * 2048,
        "as much as n × n booleans would fill: n · n bytes",
    ),
    mistakes=[
        edit("block = 32", "block = len(q)",
             says="your numbers are right, but all Tq × Tk scores exist at once",
             next="a query needs only its own row: take a few dozen queries at a time"),
        edit("np.argsort(-scores, axis=-1, kind=\"stable\")[:, :keep]",
             "np.argsort(scores, axis=-1, kind=\"stable\")[:, -keep:]",
             says="of equal scores you keep the later keys, or any",
             next="sort -scores with kind=\"stable\": then the first of equal ones come first"),
        Mistake(any_of_equal,
                says="of equal scores you keep whichever np.argpartition puts there",
                next="a partition leaves equal ones in any order: sort -scores, kind=\"stable\""),
        edit("scores = np.take_along_axis(scores, best, axis=-1)",
             "least = np.sort(scores, axis=-1)[:, -min(keep, len(k)), None]\n"
             "        scores = np.where(scores >= least, scores, -np.inf)",
             "(weights[:, None, :] @ v[best])[:, 0]", "weights @ v",
             says="you keep all keys that score as high as the last one kept: more than `keep`",
             next="of equal scores only the first are kept, until there are `keep`"),
        edit("scores = np.take_along_axis(scores, best, axis=-1)",
             "hidden = np.ones(scores.shape, bool)\n"
             "        np.put_along_axis(hidden, best, False, axis=-1)\n"
             "        scores[hidden] = 0",
             "(weights[:, None, :] @ v[best])[:, 0]", "weights @ v",
             says="your other scores are 0, and exp(0) = 1 is a weight",
             next="leave the other keys out, or set their scores to -inf before the softmax"),
        edit("        scores = np.take_along_axis(scores, best, axis=-1)\n", "",
             "(weights[:, None, :]", "(np.take_along_axis(weights, best, axis=-1)[:, None, :]",
             says="your weights do not sum to 1: the softmax ran over all keys",
             next="choose first, then take the softmax over what was chosen"),
        edit("np.argsort(-scores", "np.argsort(scores",
             says="you keep the keys that score lowest",
             next="np.argsort begins with the smallest: sort -scores"),
        edit("np.argsort(-scores", "np.argsort(-np.abs(scores)",
             says="you keep the largest absolute scores",
             next="a score far below zero means a small weight: rank the scores themselves"),
        edit("np.argsort(-scores", "np.argsort(np.zeros_like(scores) - scores.sum(0)",
             says="the queries of a block share their keys: you ranked the sum of their scores",
             next="each query keeps its own best keys: sort along the last axis"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit("weights = np.exp(scores - scores.max(axis=-1, keepdims=True))\n"
             "        weights /= weights.sum(axis=-1, keepdims=True)",
             "weights = np.ones_like(scores) / scores.shape[-1]",
             says="your best keys count alike: their values are averaged",
             next="take the softmax over the scores of the keys that are kept"),
        edit("scores - scores.max(axis=-1, keepdims=True)", "scores - scores.max()",
             says="the queries of a block share one maximum: far below it exp gives only zeros",
             next="subtract the maximum of each row: axis=-1, keepdims=True"),
        edit("scores - scores.max(axis=-1, keepdims=True)", "scores",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[best_by_tiles, best_by_rows],
    variants=[edit("block = 32", f"block = {size}") for size in (7, 64)],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="08.2"
# ## 08.2 Hash by direction
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/08_content.ipynb#Hash-by-direction)
#
# A round has b/2 random directions, the columns of its R `(D, b/2)`. The bucket of a token x is
# the place of the largest number in [x R, −x R], of equal ones the first. Return the buckets of
# all tokens in all rounds.

# %% [markdown] role="prompt" exercise="08.2"
# x is `(T, D)`, `rotations` `(rounds, D, b/2)`; the result is int64 `(rounds, T)`, each entry from
# 0 to b − 1. Take the directions as they are, whatever their lengths.
#
# If x = [[3, 1], [-3, 1]] and the only R is the identity, the result is [[0, 2]].

# %% [markdown] role="prompt" exercise="08.2"
# **Memory limit** at n = 4096, 16 rounds, 64 buckets, D = 16, float32: the result and five arrays
# of n · b numbers, 5.5 MiB. The products of all rounds take 8 MiB.


# %% role="answer" exercise="08.2"
def lsh_buckets(x, rotations):
    """Return the bucket of each token in each round, int64 (rounds, T)."""
    # BEGIN SOLUTION
    buckets = np.empty((len(rotations), len(x)), np.int64)
    for number, rotation in enumerate(rotations):
        along = x @ rotation  # (T, b/2)
        both = np.concatenate([along, -along], axis=-1)
        buckets[number] = both.argmax(axis=-1)
    return buckets
    # END SOLUTION


# %% role="check" exercise="08.2"
check("08.2")

# %% [markdown] role="hints" exercise="08.2"
# 1. One product tells how far a token reaches along each direction. How far does it reach along the
#    opposite ones?
# 2. `np.concatenate([along, -along], axis=-1)` has one column for each bucket; argmax along that
#    axis gives the bucket. Do one round at a time.
# 3. for number, rotation in enumerate(rotations): along = x @ rotation; buckets[number] =
#    np.concatenate([along, -along], axis=-1).argmax(axis=-1), with buckets an empty int64 array.


# %% role="spec" exercise="08.2"
def buckets_by_size(x, rotations):
    """Find the longest reach either way, then ask for its sign."""
    found = []
    for rotation in rotations:
        along = np.einsum("td,dh->th", x, rotation)
        best = np.abs(along).argmax(axis=-1)
        reach = np.take_along_axis(along, best[:, None], axis=-1)[:, 0]
        found.append(np.where(reach < 0, best + rotation.shape[1], best))
    return np.array(found, np.int64)


def buckets_by_stretches(x, rotations):
    """Hash a few tokens in all rounds at once."""
    both = np.concatenate([rotations, -rotations], axis=-1)
    parts = [np.matmul(x[i : i + 100], both).argmax(axis=-1) for i in range(0, len(x), 100)]
    return np.concatenate(parts, axis=-1)


def rounds_at_once(x, rotations):
    along = x @ rotations
    return np.concatenate([along, -along], axis=-1).argmax(axis=-1)


def buckets_by_signs(x, rotations):
    signs = np.array([x @ rotation > 0 for rotation in rotations])
    return (signs * 2 ** np.arange(signs.shape[-1])).sum(axis=-1)


def hash_case(name, n, width, rounds, half, zero=None, longer=1.0, **words):
    """Make tokens none of which lies between two buckets, but for one of zeros if asked for."""

    def make(rng):
        rotations = rng.standard_normal((rounds, width, half))
        x = rng.standard_normal((n + n // 4 + 20, width)) + 0.5
        along = x @ rotations
        both = np.sort(np.concatenate([along, -along], axis=-1), axis=-1)
        clear = both[..., -1] - both[..., -2] > CLEAR * both[..., -1]
        x = x[clear.all(axis=0)][:n]
        x[0] *= longer
        if zero is not None:
            x[zero] = 0
        return x, rotations

    return drawn(name, make, (), lambda x, rotations: len(x) == n, **words)


def random_tokens(rng):
    n, half, rounds = (int(x) for x in rng.integers((20, 2, 2), (60, 9, 6)))
    name = f"random, {n} tokens, {2 * half} buckets, {rounds} rounds"
    return hash_case(name, n, 6, rounds, half)(rng)


Spec(
    kind="array",
    cases=[
        hash_case("1 token, 2 buckets", 1, 3, 1, 1),
        hash_case("5 tokens, 2 buckets", 5, 3, 1, 1),
        hash_case("7 tokens, 8 buckets, 1 round", 7, 3, 1, 4),
        hash_case("5 tokens, 6 buckets, 2 rounds", 5, 4, 2, 3),
        hash_case("a token of zeros", 7, 5, 3, 4, zero=2),
        hash_case("as many rounds as tokens", 4, 7, 4, 5),
        hash_case("more buckets than tokens", 11, 5, 2, 17),
        hash_case("a token 1000 times longer", 13, 5, 3, 3, longer=1000),
        hash_case("float64", 17, 8, 2, 6, dtype=np.float64),
        random_tokens,
        random_tokens,
    ],
    memory=Memory(
        hash_case("n = 4096, 16 rounds, 64 buckets", 4096, 16, 16, 32),
        16 * 4096 * 8 + 5 * 4096 * 64 * 4,
        "the result and five arrays of n · b numbers",
    ),
    mistakes=[
        Mistake(rounds_at_once,
                says="your buckets are right, but the products of all rounds exist at once",
                next="hash one round after the other: for rotation in rotations"),
        edit("np.concatenate([along, -along], axis=-1)", "along",
             says="your buckets are the b/2 directions: their opposites are none",
             next="append -along: a token that points away from all directions needs a bucket too"),
        edit("np.concatenate([along, -along], axis=-1)", "np.abs(along)",
             says="a vector and its opposite share your bucket: you took absolute values",
             next="opposite directions are different buckets: [x R, -x R]"),
        edit("[along, -along]", "[-along, along]",
             says="you have the opposite bucket of each token",
             next="take the place of the largest number in [x R, -x R], in this order",
             also=[edit("argmax", "argmin")]),
        edit("np.concatenate([along, -along], axis=-1)",
             "np.stack([along, -along], axis=-1).reshape(len(x), -1)",
             says="your buckets alternate: each direction is followed by its opposite",
             next="first all of x R, then all of -x R"),
        Mistake(buckets_by_signs,
                says="your bucket is made of one sign for each direction, another kind of hash",
                next="look for the one direction, or opposite, that is nearest: argmax"),
        edit("x @ rotation", "x @ (rotation / np.linalg.norm(rotation, axis=0))",
             says="you gave all directions the same length",
             next="take R as it is: a long direction has a larger bucket"),
        edit("x @ rotation", "(x - x.mean(axis=0)) @ rotation",
             says="you took the mean of all tokens off first",
             next="hash each token as it is: no other token changes its bucket"),
        edit("enumerate(rotations)", "enumerate([rotations[0]] * len(rotations))",
             says="all your rounds use the directions of the first",
             next="each round has directions of its own: rotations[number]"),
        edit("both.argmax(axis=-1)", "both.argmax(axis=-1) + number * both.shape[1]",
             says="your rounds have buckets of their own: b is added for each round before",
             next="in each round the buckets are 0 to b - 1"),
    ],
    alternatives=[
        buckets_by_size,
        buckets_by_stretches,
        lsh.hash_vectors,
        edit("x @ rotation", "x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-30) @ rotation"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="08.3"
# ## 08.3 Sort, cut and put back
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/08_content.ipynb#Sort,-cut,-look-next-door)
#
# Sort the tokens by bucket, within a bucket in the order of the text. Cut them into chunks of
# `chunk`; the last may be shorter. A token looks at its own chunk and the one before; before the
# first comes the last.

# %% [markdown] role="prompt" exercise="08.3"
# Of the tokens there, it attends to those that stand before it in the text, and not to itself. If
# there are none, it gets its own value.
#
# q and k are `(n, D)`, v `(n, Dv)`, `buckets` int `(n,)`. Each token has one bucket, so Tq = Tk
# here. Return `(n, Dv)`, in the order of the text.

# %% [markdown] role="prompt" exercise="08.3"
# **Memory limit** at n = 2048, chunks of 32, D = 16, float32: five arrays of n · 2 · chunk numbers
# and four as large as q, 3 MiB. An n × n array takes 4 MiB even of booleans.


# %% role="answer" exercise="08.3"
def lsh_attention(q, k, v, buckets, chunk):
    """Return attention within chunks of the sorted tokens, (n, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    out = v.astype(q.dtype)
    order = np.argsort(buckets, kind="stable")
    chunks = [order[start : start + chunk] for start in range(0, len(q), chunk)]
    for number, own in enumerate(chunks):
        keys = np.concatenate([chunks[number - 1], own])  # before the first one comes chunks[-1]
        scores = q[own] @ k[keys].T / q.shape[-1] ** 0.5
        scores[keys >= own[:, None]] = -np.inf
        sees = (keys < own[:, None]).any(axis=-1)
        scores = scores[sees]
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[own[sees]] = weights @ v[keys]
    return out
    # END SOLUTION


# %% role="check" exercise="08.3"
check("08.3")

# %% [markdown] role="hints" exercise="08.3"
# 1. `order = np.argsort(buckets, kind="stable")` are positions in the text, sorted. What are the
#    positions of a chunk's queries, and of the keys that it sees?
# 2. Walk over the chunks own = order[start : start + chunk], and keys = the chunk before followed
#    by own. Compare positions, not places in the sorted order: hide keys >= own[:, None]. Writing
#    to out[own] undoes the sort.
# 3. out starts as a copy of v. For each chunk: scores = q[own] @ k[keys].T / √D, hidden ones -inf;
#    sees = (keys < own[:, None]).any(axis=-1); softmax of scores[sees]; out[own[sees]] = weights @
#    v[keys]. chunks[-1] is the one before the first.


# %% role="spec" exercise="08.3"
def chunks_side_by_side(q, k, v, buckets, chunk):
    """Fill up the last chunk, look at all chunks at once, and sort the results back."""
    n, count = len(q), -(-len(q) // chunk)
    order = np.lexsort([np.arange(n), buckets])
    position = np.append(order, np.full(count * chunk - n, n)).reshape(count, chunk)
    seen = np.concatenate([np.roll(position, 1, axis=0), position], axis=1)
    rows, keys = np.minimum(position, n - 1), np.minimum(seen, n - 1)
    scores = np.einsum("cid,cjd->cij", q[rows], k[keys], optimize=True) / math.sqrt(q.shape[-1])
    hidden = seen[:, None, :] >= position[:, :, None]
    scores = np.where(hidden, q.dtype.type(-1e30), scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * ~hidden
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    out = np.einsum("cij,cjd->cid", weights, v[keys], optimize=True)
    out += hidden.all(axis=-1)[..., None] * v[rows]
    return out.reshape(count * chunk, -1)[np.argsort(order)].astype(q.dtype)


def chunks_by_tokens(q, k, v, buckets, chunk):
    order = sorted(range(len(q)), key=lambda i: (buckets[i], i))
    last = (len(q) - 1) // chunk
    chunk_of = {token: place // chunk for place, token in enumerate(order)}
    out = np.array(v, q.dtype)
    for i in range(len(q)):
        near = {chunk_of[i], chunk_of[i] - 1 if chunk_of[i] else last}
        keys = [j for c in near for j in order[c * chunk : (c + 1) * chunk] if j < i]
        if keys:
            out[i] = full.attention(q[i : i + 1], k[keys], v[keys])[0]
    return out


def chunks_by_mask(q, k, v, buckets, chunk, same_bucket=False, by_place=False):
    n, count = len(q), -(-len(q) // chunk)
    place = np.argsort(np.argsort(buckets, kind="stable"))
    near = (place // chunk)[:, None] - place // chunk
    mask = (near == 0) | (near == 1) | (near == 1 - count)
    mask &= np.tri(n, k=-1, dtype=bool) if not by_place else place < place[:, None]
    if same_bucket:
        mask &= buckets[:, None] == buckets
    out = full.attention(q, k, v, mask=mask)
    return np.where(mask.any(axis=-1, keepdims=True), out, v).astype(q.dtype)


def lsh_case(name, n, width, chunk, n_buckets=3, buckets=None, longer=1, **words):
    def make(rng):
        q, k, v = qkv(name, (n, width), **words)(rng).args
        q[-1] *= longer  # the first token sees nobody
        hashed = rng.integers(0, n_buckets, n) if buckets is None else np.array(buckets)
        return Case(name, (q, k, v, hashed, chunk))

    return make


def random_chunks(rng):
    n, chunk, n_buckets = (int(x) for x in rng.integers((30, 2, 2), (70, 12, 6)))
    return lsh_case(f"random, {n} tokens in chunks of {chunk}", n, 8, chunk, n_buckets)(rng)


NEAR = "np.concatenate([chunks[number - 1], own])"

Spec(
    kind="array",
    cases=[
        lsh_case("1 token", 1, 3, 1),
        lsh_case("5 tokens in one chunk", 5, 3, 9),
        lsh_case("6 tokens in chunks of 2, one bucket", 6, 3, 2, buckets=[0] * 6),
        lsh_case("6 tokens in chunks of 3, two buckets", 6, 4, 3, buckets=[1, 0, 1, 0, 1, 0]),
        lsh_case("7 tokens in chunks of 3: one is left", 7, 5, 3, buckets=[2, 0, 1, 1, 0, 2, 2]),
        lsh_case("chunks of 1", 9, 4, 1),
        lsh_case("the last token first", 8, 4, 2, buckets=list(range(8, 0, -1))),
        lsh_case("values narrower than keys", 17, 8, 4, value_width=3),
        lsh_case("float64", 23, 8, 5, dtype=np.float64),
        lsh_case("float64, a long query", 23, 8, 5, dtype=np.float64, longer=1000),
        lsh_case("one query 1000 times longer", 40, 16, 6, longer=1000),
        lsh_case("99 tokens in one of two buckets", 99, 4, 7, n_buckets=2),
        random_chunks,
        random_chunks,
    ],
    memory=Memory(
        lsh_case("n = 2048, chunks of 32", 2048, 16, 32, 64),
        5 * 2048 * 64 * 4 + 4 * 2048 * 16 * 4,
        "five arrays of n · 2 · chunk numbers and four as large as q",
    ),
    mistakes=[
        Mistake(chunks_by_mask,
                says="your numbers are right, but n × n scores or booleans were made",
                next="walk over the chunks: a chunk needs only its own scores, chunk × 2 · chunk"),
        edit("own[sees]", "number * chunk + np.flatnonzero(sees)",
             "out = v.astype(q.dtype)", "out = v[np.argsort(buckets, kind=\"stable\")]",
             says="your rows are in the sorted order: the sort is not undone",
             next="row i belongs to token i: write the result of a chunk to out[own]"),
        edit("    return out", "    sorted_rows = out[order]\n    return sorted_rows[order]",
             says="you sorted once more instead of putting the rows back",
             next="the inverse of order is np.argsort(order); out[own] = … needs none"),
        Mistake(lambda *args: chunks_by_mask(*args, by_place=True),
                says="your tokens attend to what stands before them in the sorted order",
                next="hide by the position in the text: keys >= own[:, None]"),
        edit("range(0, len(q), chunk)", "range(0, max(1, len(q) // chunk) * chunk, chunk)",
             says="your last chunk is lost where it is shorter than the others",
             next="the last chunk holds what is left: order[start : start + chunk] may be shorter"),
        edit(NEAR, "own",
             says="your chunks see themselves only",
             next="add the chunk before: a bucket may begin there and end here"),
        edit("chunks[number - 1]", "chunks[(number + 1) % len(chunks)]",
             says="your chunks look at the chunk after them",
             next="each looks at the chunk before: chunks[number - 1]"),
        edit(NEAR, "np.concatenate([*chunks[max(number - 1, 0) : number], own])",
             says="your first chunk looks at itself only",
             next="the order is a ring: before the first chunk comes the last, chunks[-1]"),
        edit("keys >= own[:, None]", "keys > own[:, None]",
             "keys < own[:, None]", "keys <= own[:, None]",
             says="your tokens attend to themselves",
             next="a token's own key is hidden, unless nothing else is left"),
        edit("        scores[keys >= own[:, None]] = -np.inf\n",
             "        scores[keys == own[:, None]] = -np.inf\n",
             "(keys < own[:, None])", "(keys != own[:, None])",
             says="your tokens see what comes after them in the text",
             next="hide later positions as well: keys >= own[:, None]"),
        edit("out = v.astype(q.dtype)", "out = np.zeros_like(v)",
             says="your tokens that see nobody get zeros",
             next="here such a token gets its own value: start from a copy of v"),
        edit("= -np.inf", "= -1e9", "        scores = scores[sees]\n", "", "own[sees]", "own",
             says="your tokens that see nobody get the mean of what is hidden from them",
             next="such a token gets its own value: write only the rows that see somebody"),
        edit("out = v.astype(q.dtype)", "out = np.full_like(v, np.nan)",
             says="your tokens that see nobody are NaN",
             next="such a token gets its own value: leave its row out of the softmax"),
        Mistake(lambda *args: chunks_by_mask(*args, same_bucket=True),
                says="your tokens attend within their own bucket only",
                next="the bucket decides where a token is sorted to, no more: a chunk may mix two"),
        edit(", kind=\"stable\"", "",
             says="within a bucket your tokens stand in another order than in the text",
             next="np.argsort leaves the order of equal entries open: sort with kind=\"stable\"",
             also=[edit("np.argsort(buckets, kind=\"stable\")",
                        "np.lexsort([-np.arange(len(q)), buckets])")]),
        edit("np.argsort(buckets, kind=\"stable\")", "np.arange(len(q))",
             says="your tokens are cut into chunks without having been sorted",
             next="sort by bucket first: order = np.argsort(buckets, kind=\"stable\")"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit("scores.max(axis=-1, keepdims=True)", "scores.max(initial=-np.inf)",
             says="the queries of a chunk share one maximum: far below it exp gives only zeros",
             next="subtract the maximum of each row: axis=-1, keepdims=True"),
        edit("scores - scores.max(axis=-1, keepdims=True)", "scores",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
    ],
    alternatives=[chunks_side_by_side, chunks_by_tokens],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="08.4"
# ## 08.4 What b buckets save
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/08_content.ipynb#What-b-buckets-save)
#
# Bucket i holds `sizes[i]` tokens. Each token attends to all of its own bucket, itself included,
# and of bucket i − 1; before bucket 0 comes the last. How many times fewer multiply-adds does that
# take than full attention, hashing included?

# %% [markdown] role="prompt" exercise="08.4"
# A pair costs 2·D: its score, and its weight times its value. Each query and each key is
# hashed: its products with b/2 directions of D numbers. Sorting and softmax are not counted.

# %% [markdown] role="prompt" exercise="08.4"
# `sizes` is a list of an even number of ints. Some may be 0: an empty bucket is a neighbour like
# any other. `lsh_gain([1, 3])` is 16 / 20, and `lsh_gain([2, 2, 2, 2])` is 64 / 48.


# %% role="answer" exercise="08.4"
def lsh_gain(sizes):
    """Return multiply-adds of full attention over those of LSH attention, a float."""
    # BEGIN SOLUTION
    n, b = sum(sizes), len(sizes)
    pairs = sum(size * (size + sizes[i - 1]) for i, size in enumerate(sizes))
    hashing = n * b / 2  # 2 · n · D · b/2, in units of the 2 · D of a pair
    return n * n / (pairs + hashing)
    # END SOLUTION


# %% role="check" exercise="08.4"
check("08.4")

# %% [markdown] role="hints" exercise="08.4"
# 1. How many pairs does one bucket of s tokens make, if the one before it holds t? How many has
#    full attention?
# 2. A bucket of s tokens makes s · (s + t) pairs: large buckets have more queries *and* more keys.
#    In Python sizes[i - 1] is the last entry for i = 0. Every cost has a factor D.
# 3. n² · 2·D over pairs · 2·D + 2·n · D · b/2, with pairs = sum(size * (size + sizes[i - 1]) for i,
#    size in enumerate(sizes)); D cancels.


# %% role="spec" exercise="08.4"
def gain_by_operations(sizes):
    n, half, width = sum(sizes), len(sizes) // 2, 64
    before = [sizes[-1], *sizes[:-1]]
    scored = sum(own * (own + other) for own, other in zip(sizes, before, strict=True))
    return 2 * n * n * width / (2 * scored * width + 2 * n * width * half)


def gain_by_keys(sizes):
    """Divide by the keys that an average token sees, and half a key for each bucket."""
    share = [size / sum(sizes) for size in sizes]
    seen = sum(p * (sizes[i] + sizes[i - 1]) for i, p in enumerate(share))
    return sum(sizes) / (seen + len(sizes) / 2)


def random_sizes(rng, largest):
    b = 2 * int(rng.integers(3, 20))
    return ([int(size) for size in rng.integers(1, largest, b)],)


PAIRS = "sum(size * (size + sizes[i - 1]) for i, size in enumerate(sizes))"

Spec(
    kind="number",
    cases=[
        case("1 token, 2 buckets", [1, 0]),
        case("4 tokens, 2 buckets", [1, 3]),
        case("4 even buckets", [2, 2, 2, 2]),
        case("all in one bucket", [0, 0, 7, 0]),
        case("an empty one between two", [5, 0, 3, 2]),
        case("uneven", [11, 2, 5, 1, 7, 3]),
        case("the same, in another order", [11, 7, 5, 3, 2, 1]),
        case("n = 4096 in 8 even buckets", [512] * 8),
        case("n = 4096 in 512 even buckets", [8] * 512),
        case("10⁹ tokens", [10**8, 2 * 10**8, 3 * 10**8, 4 * 10**8]),
        *draws(2, lambda rng: random_sizes(rng, 30)),
        *draws(2, lambda rng: random_sizes(rng, 3000)),
    ],
    mistakes=[
        edit("n * n / (pairs + hashing)", "b / 2",
             says="your answer is b/2, which holds for even buckets and without hashing",
             next="count the pairs of the given sizes, then add the hashing"),
        edit(PAIRS, "n * 2 * n / b",
             says="your tokens all see 2·n/b keys: you took the average bucket for each token",
             next="more tokens sit in large buckets: add up size · (size + the one before)"),
        edit(PAIRS, "sum(size * size for size in sizes)",
             says="your tokens see their own bucket only",
             next="each also sees the bucket before its own: size * (size + sizes[i - 1])"),
        edit("sizes[i - 1]", "(sizes[i - 1] if i else 0)",
             says="your first bucket has none before it",
             next="the buckets form a ring: before bucket 0 comes the last, sizes[-1]"),
        edit("sizes[i - 1])", "sizes[i - 1] + sizes[(i + 1) % b])",
             says="your tokens see the buckets on both sides",
             next="only the own bucket and the one before it are seen"),
        edit("size * (size + sizes[i - 1])", "size * (size - 1 + sizes[i - 1])",
             says="your tokens do not see themselves",
             next="here a token counts among the keys of its own bucket"),
        edit("n, b = sum(sizes), len(sizes)",
             "b = len(sizes)\n    sizes = [size for size in sizes if size]\n    n = sum(sizes)",
             says="you left the empty buckets out: your neighbours are the next that hold a token",
             next="an empty bucket is a neighbour like any other: it gives no keys"),
        edit("n * n / (pairs + hashing)", "n * n / pairs",
             says="your hashing costs nothing",
             next="queries and keys are multiplied with b/2 directions: add 2·n · D · b/2"),
        edit("n * b / 2", "n * b / 4",
             says="your hashing is half: each token once, or a pair at 4·D",
             next="n queries and n keys, each with b/2 directions; a pair costs 2·D"),
        edit("n * b / 2", "n * b",
             says="your hashing is twice too dear: b directions, or a pair at D",
             next="each query and each key meets b/2 directions; a pair costs 2·D"),
        edit("n * b / 2", "b / 2",
             says="you hashed one token",
             next="all n queries and n keys are hashed: 2·n · D · b/2"),
        edit("n * n / (pairs + hashing)", "(pairs + hashing) / (n * n)",
             says="your ratio is upside down",
             next="full attention over LSH: above 1 where LSH saves"),
    ],
    alternatives=[gain_by_operations, gain_by_keys],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# It prints 8 times faster for 8 buckets (C362); n = 4096, evenly spread, gives 3.98. More buckets
# save more until hashing takes over: 2·n²/b + n·b/2 is least at b = 2·√n, here 128, which gives 32.
# 512 buckets give 15.1, as 32 do.
#
# </details>

# %% [markdown] role="prompt" exercise="08.5"
# ## 08.5 Merge the rounds
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/08_content.ipynb#More-rounds,-more-luck)
#
# `found[r, i]` lists the keys that query i found in round r, each once; −1 is nobody. Attend to
# all that any round has found. A key that several rounds have found counts once.

# %% [markdown] role="prompt" exercise="08.5"
# `found` is int `(rounds, Tq, m)`; q is `(Tq, D)`, k `(Tk, D)`, v `(Tk, Dv)`. Return `(Tq, Dv)`. A
# query for which no round has found anybody gets zeros.
#
# Two rounds that found the same keys give what one of them gives alone. So does a round beside one
# that found nobody.

# %% [markdown] role="prompt" exercise="08.5"
# **Memory limit** at 1024 queries, 4096 keys, 8 rounds of 8, D = 16, float32: seven times the
# gathered keys of one round, Tq · m · D · 4 bytes, 3.5 MiB. Those of all rounds take 4 MiB, as do
# Tq × Tk booleans.


# %% role="answer" exercise="08.5"
def merge_rounds(q, k, v, found):
    """Return attention over what all rounds have found, (Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    outs, lses = [], []
    for keys in found:
        rounds = sum((keys[:, :, None] == other[:, None, :]).any(axis=-1) for other in found)
        scores = np.einsum("id,ijd->ij", q, k[keys]) / q.shape[-1] ** 0.5 - np.log(rounds)
        scores[keys < 0] = -np.inf
        lse = np.logaddexp.reduce(scores, axis=-1)
        weights = np.exp(scores - np.where(np.isneginf(lse), 0, lse)[:, None])
        outs.append(np.einsum("ij,ijd->id", weights, v[keys]))
        lses.append(lse)
    lse = np.logaddexp.reduce(lses, axis=0)  # of all rounds
    shares = np.exp(lses - np.where(np.isneginf(lse), 0, lse))
    return np.einsum("ri,rid->id", shares, outs).astype(q.dtype)
    # END SOLUTION


# %% role="check" exercise="08.5"
check("08.5")

# %% [markdown] role="hints" exercise="08.5"
# 1. Each round alone is a softmax over m keys. What must you keep of it beside its output, so that
#    a round that found better keys gets more say?
# 2. Keep the log of the sum of exp, lse: a round's share is exp(its lse − the lse of all). A key
#    found in c rounds should bring 1/c of its weight to each: take log(c) off its score. Or gather
#    the lists of some queries, sort them, hide repeats, and take one softmax.
# 3. c = sum((keys[:, :, None] == other[:, None, :]).any(axis=-1) for other in found); scores =
#    q·k[keys] / √D − log(c), −inf where keys < 0; out = Σ exp(lse_r − lse) · out_r, and where lse
#    is −inf subtract 0.


# %% role="spec" exercise="08.5"
def merge_by_sorting(q, k, v, found):
    """Join the lists of a few queries and hide what is repeated: one softmax."""
    out = np.zeros((len(q), v.shape[-1]), q.dtype)
    for start in range(0, len(q), 32):
        rows = slice(start, start + 32)
        keys = np.sort(np.concatenate(list(found[:, rows]), axis=-1), axis=-1)
        fresh = np.diff(keys, axis=-1, prepend=-1) > 0
        scores = np.matmul(k[keys], q[rows, :, None])[..., 0] / math.sqrt(q.shape[-1])
        scores = np.where(fresh, scores, -1e30)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * fresh
        total = np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
        out[rows] = np.matmul((weights / total)[:, None, :], v[keys])[:, 0]
    return out


def merge_by_sets(q, k, v, found):
    out = np.zeros((len(q), v.shape[-1]), q.dtype)
    for i in range(len(q)):
        keys = sorted(set(found[:, i].ravel().tolist()) - {-1})
        if keys:
            out[i] = full.attention(q[i : i + 1], k[keys], v[keys])[0]
    return out


def merge_online(q, k, v, found):
    """Keep a running maximum and sum; a round brings only what the earlier ones had not found."""
    top, total = np.full((len(q), 1), -np.inf), np.zeros((len(q), 1))
    acc = np.zeros((len(q), v.shape[-1]))
    for number, keys in enumerate(found):
        hidden = keys < 0
        for other in found[:number]:
            hidden |= (keys[:, :, None] == other[:, None, :]).any(axis=-1)
        scores = (q[:, None, :] * k[keys]).sum(axis=-1) / math.sqrt(q.shape[-1])
        scores = np.where(hidden, -np.inf, scores)
        new_top = np.maximum(top, scores.max(axis=-1, keepdims=True))
        pivot = np.where(new_top == -np.inf, 0, new_top)
        weights, fade = np.exp(scores - pivot), np.exp(top - pivot)
        total = total * fade + weights.sum(axis=-1, keepdims=True)
        acc = acc * fade + np.einsum("ij,ijd->id", weights, v[keys])
        top = new_top
    return (acc / np.where(total > 0, total, 1)).astype(q.dtype)


def merge_by_mask(q, k, v, found):
    mask = np.zeros((len(q), len(k) + 1), bool)  # the last column takes the -1
    for keys in found:
        np.put_along_axis(mask, keys, True, axis=-1)
    return full.attention(q, k, v, mask=mask[:, :-1])


def found_case(
    name, n_queries, n_keys, rounds, m, width, missing=0.2, same=False, nobody=(), **words
):
    """Make lists; queries `nobody` find none, or those of one round if they are pairs."""

    def make(rng):
        q, k, v = qkv(name, (n_queries, width), keys=n_keys, **words)(rng).args
        found = rng.permuted(np.tile(np.arange(n_keys), (rounds, n_queries, 1)), axis=-1)[..., :m]
        found[rng.random(found.shape) < missing] = -1
        if same:
            found[:] = found[0]
        for one in nobody:
            found[one if isinstance(one, tuple) else (slice(None), one)] = -1
        return Case(name, (q, k, v, found))

    return make


def metered_rounds(rng):
    """Draw the lists near one place, so that rounds share keys; without n × n numbers."""
    q, k, v = qkv("", (1024, 16), keys=4096)(rng).args
    begin = rng.integers(0, 4096 - 40, 1024)
    found = begin[:, None] + np.sort(rng.random((8, 1024, 40)).argsort(axis=-1)[..., :8], axis=-1)
    return case("1024 queries, 4096 keys", q, k, v, found)


def random_rounds(rng):
    n_queries, n_keys, rounds, m = (int(x) for x in rng.integers((4, 9, 2, 2), (30, 40, 6, 8)))
    name = f"random, {n_queries} queries, {n_keys} keys, {rounds} rounds of {m}"
    return found_case(name, n_queries, n_keys, rounds, m, 8)(rng)


MERGE = 'np.einsum("ri,rid->id", shares, outs)'

Spec(
    kind="array",
    cases=[
        found_case("1 query, 1 key, 1 round", 1, 1, 1, 1, 3, missing=0),
        found_case("1 query, 5 keys, 1 round of 3", 1, 5, 1, 3, 4, missing=0),
        found_case("two rounds that found the same", 5, 7, 2, 3, 4, missing=0, same=True),
        found_case("a round that found nobody", 3, 11, 2, 5, 4, missing=0, nobody=[(1, 0), (1, 1)]),
        found_case("3 rounds of all keys", 5, 3, 3, 3, 7, missing=0),
        found_case("4 rounds of 2 from 5 keys", 7, 5, 4, 2, 3, missing=0),
        found_case("queries that found nobody", 7, 13, 3, 2, 5, nobody=[0, 4]),
        found_case("values narrower than keys", 9, 11, 3, 4, 8, value_width=3),
        found_case("float64", 9, 11, 4, 3, 8, dtype=np.float64),
        found_case("float64, a long query", 9, 11, 4, 3, 8, dtype=np.float64, longer=1000),
        found_case("one query 1000 times longer", 12, 30, 3, 9, 16, longer=1000),
        random_rounds,
        random_rounds,
    ],
    memory=Memory(
        metered_rounds,
        7 * 1024 * 8 * 16 * 4,
        "seven times the gathered keys of one round, Tq · m · D · 4 bytes",
    ),
    mistakes=[
        Mistake(merge_by_mask,
                says="your numbers are right, but a mask or the scores of all Tq × Tk pairs were "
                "made",
                next="score only what was found: q and k[keys] of one round at a time"),
        edit(" - np.log(rounds)", "",
             says="a key that several rounds have found counts several times",
             next="each pair counts once: take log(how many rounds found it) off its score",
             also=[edit("np.log(rounds)", "np.log(len(found))")]),
        edit("keys in found:", "keys in found[:1]:", "other in found", "other in found[:1]",
             says="only your first round counts",
             next="later rounds find keys that the first has missed: loop over all of found"),
        edit(MERGE, "np.mean(outs, axis=0)",
             says="your rounds count alike: you averaged their outputs",
             next="a round that found better keys counts more: weigh it by exp(its lse - all lse)",
             also=[edit(MERGE, "np.mean(outs, axis=0)", " - np.log(rounds)", "")]),
        edit("np.log(rounds)", "rounds",
             says="you took the number of rounds off the score, not its logarithm",
             next="e^(s − log c) is e^s / c"),
        edit("        scores[keys < 0] = -np.inf\n", "",
             says="your queries attend to key −1, which is NumPy's last key",
             next="−1 is nobody: set its score to -inf"),
        edit("scores[keys < 0]", "scores[keys <= 0]",
             says="you hide key 0",
             next="only −1 is nobody"),
        edit("np.isneginf(lse)", "np.isnan(lse)",
             says="your queries without keys are NaN: -inf - (-inf)",
             next="where lse is -inf subtract 0: exp(-inf) is 0, as it should be"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D, before you take log(rounds) off"),
        edit("np.exp(lses - np.where(np.isneginf(lse), 0, lse))", "np.exp(lses)",
             says="your shares do not sum to 1, and may overflow",
             next="a round's share is exp(its lse - the lse of all rounds)"),
    ],
    alternatives=[merge_by_sorting, merge_by_sets, merge_online],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="08.6"
# ## 08.6 Pick the blocks
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/08_content.ipynb#Blocks,-chosen-by-a-glance)
#
# A query reads `keep` blocks of `block` keys: the one it stands in, and those before it whose mean
# key has the largest product with the query; of equal ones the first. It never reads a later block.

# %% [markdown] role="prompt" exercise="08.6"
# q is `(Tq, D)`, k `(Tk, D)`; the last block may be shorter. Return bool `(Tq, blocks)`: True where
# query i reads block b. If there are no more than `keep` blocks, it reads all up to its own; if it
# stands before the first key, none.
#
# With `keep = 1` each query reads its own block alone.

# %% [markdown] role="prompt" exercise="08.6"
# **Memory limit** at n = 2048, blocks of 64, D = 16, float32: seven arrays of n · n / block numbers
# of 8 bytes, 3.5 MiB. An n × n array takes 4 MiB even of booleans.


# %% role="answer" exercise="08.6"
def pick_blocks(q, k, block, keep):
    """Return which blocks each query reads, bool (Tq, blocks)."""
    # BEGIN SOLUTION
    starts = np.arange(0, len(k), block)
    means = np.add.reduceat(k, starts) / np.diff(starts, append=len(k))[:, None]
    number = np.arange(len(starts))
    own = (np.arange(len(q))[:, None] + len(k) - len(q)) // block
    scores = np.where(number == own, np.inf, q @ means.T)
    scores[number > own] = -np.inf
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :keep]
    picked = np.zeros(scores.shape, bool)
    np.put_along_axis(picked, best, True, axis=-1)
    return picked & (number <= own)
    # END SOLUTION


# %% role="check" exercise="08.6"
check("08.6")

# %% [markdown] role="hints" exercise="08.6"
# 1. The mean of q · k over a block is q · (the mean of its keys). Which of the two is cheaper? And
#    which score makes sure that a block is picked, or that it is not?
# 2. Means by `np.add.reduceat`, or a loop over blocks. Query i stands in block (i + Tk − Tq) //
#    block. Set that block's score to +inf and those of later blocks to −inf, then sort.
# 3. best = np.argsort(-scores, axis=-1, kind="stable")[:, :keep]; np.put_along_axis(picked, best,
#    True, axis=-1); at last take off what is later than the own block.


# %% role="spec" exercise="08.6"
def picks_by_queries(q, k, block, keep):
    means = [k[i : i + block].mean(axis=0) for i in range(0, len(k), block)]
    picked = np.zeros((len(q), len(means)), bool)
    for i in range(max(0, len(q) - len(k)), len(q)):
        own = (i + len(k) - len(q)) // block
        scores = [float(q[i] @ mean) for mean in means[:own]]
        best = sorted(range(own), key=lambda b: (-scores[b], b))
        picked[i, [own, *best[: keep - 1]]] = True
    return picked


def picks_by_turns(q, k, block, keep):
    """Pick the best block that is left, again and again."""
    n_blocks = -(-len(k) // block)
    member = (np.arange(len(k)) // block == np.arange(n_blocks)[:, None]).astype(k.dtype)
    means = member @ k / member.sum(axis=1, keepdims=True)
    own = (np.arange(len(q)) + len(k) - len(q)) // block
    rows = np.flatnonzero(own >= 0)
    picked = np.zeros((len(q), n_blocks), bool)
    picked[rows, own[rows]] = True
    scores = np.where(np.arange(n_blocks) < own[:, None], q @ means.T, -np.inf)
    for _ in range(min(keep, n_blocks) - 1):
        best = scores.argmax(axis=-1)
        left = np.flatnonzero(scores.max(axis=-1, initial=-np.inf) > -np.inf)
        picked[left, best[left]] = True
        scores[left, best[left]] = -np.inf
    return picked


def picks_by_pooling(q, k, block, keep, pool=np.mean):
    """Score every key and pool the scores: for means the same numbers, from n × n of them."""
    scores = q @ k.T
    ends = range(0, len(k), block)
    pooled = np.stack([pool(scores[:, i : i + block], axis=-1) for i in ends], axis=-1)
    own = (np.arange(len(q))[:, None] + len(k) - len(q)) // block
    number = np.arange(pooled.shape[-1])
    pooled = np.where(number == own, np.inf, np.where(number > own, -np.inf, pooled))
    rank = np.argsort(np.argsort(-pooled, axis=-1, kind="stable"), axis=-1)
    return (rank < keep) & (number <= own)


def blocks_are_clear(block, keep):
    """Say whether rounding leaves all picks as they are."""

    def is_clear(q, k):
        ahead = len(k) - len(q)
        means = np.array([k[i : i + block].mean(axis=0) for i in range(0, len(k), block)])
        for i in range(max(0, -ahead), len(q)):
            earlier = (i + ahead) // block
            if keep > 1 and earlier and gaps(q[i : i + 1] @ means[:earlier].T, keep - 1) < CLEAR:
                return False
        return True

    return is_clear


def blocks_case(name, n_queries, n_keys, width, block, keep, ties=False, **words):
    """Make normal numbers whose picks are clear, or integers that tie in blocks of 2, 4, 8 …"""

    def make(rng):
        if ties:
            return whole(rng, n_queries, width), whole(rng, n_keys, width)
        return tuple(rng.standard_normal((n, width)) for n in (n_queries, n_keys))

    clear = None if ties else blocks_are_clear(block, keep)
    return drawn(name, make, (block, keep), clear, **words)


def random_blocks(rng):
    n_queries, n_keys, block, keep = (int(x) for x in rng.integers((20, 20, 2, 2), (50, 50, 7, 6)))
    name = f"random, {n_queries} queries, {n_keys} keys, blocks of {block}, keep {keep}"
    return blocks_case(name, n_queries, n_keys, 6, block, keep)(rng)


Spec(
    kind="mask",
    cases=[
        blocks_case("1 token", 1, 1, 3, 1, 1),
        blocks_case("5 tokens in blocks of 2, keep 1", 5, 5, 3, 2, 1),
        blocks_case("9 tokens in blocks of 2, keep 2", 9, 9, 3, 2, 2),
        blocks_case("13 tokens in blocks of 3, keep 3", 13, 13, 4, 3, 3),
        blocks_case("keep more than there are", 7, 7, 4, 3, 50),
        blocks_case("one block", 5, 5, 4, 50, 2),
        blocks_case("3 queries, 17 keys", 3, 17, 5, 4, 3),
        blocks_case("17 queries, 7 keys", 17, 7, 5, 2, 2),
        blocks_case("blocks of 1", 12, 12, 5, 1, 4),
        blocks_case("many equal scores", 40, 40, 2, 4, 3, ties=True),
        blocks_case("float64", 20, 26, 6, 3, 4, dtype=np.float64),
        random_blocks,
        random_blocks,
    ],
    memory=Memory(
        blocks_case("n = 2048, blocks of 64", 2048, 2048, 16, 64, 8, ties=True),
        7 * 2048 * 32 * 8,
        "seven arrays of n · n / block numbers of 8 bytes",
    ),
    mistakes=[
        Mistake(picks_by_pooling,
                says="your picks are right, but all Tq × Tk scores were made, and then averaged",
                next="average the keys first: their mean scores what their scores average to"),
        Mistake(lambda *args: picks_by_pooling(*args, pool=np.max),
                says="your blocks are scored by their best key",
                next="a glance is one product: that with the mean of the keys"),
        edit("np.add.reduceat(k, starts) / np.diff(starts, append=len(k))[:, None]",
             "np.maximum.reduceat(k, starts)",
             says="your blocks are scored by the largest number in each dimension",
             next="score a block by the mean of its keys"),
        edit("number = np.arange(len(starts))",
             "means = means / np.linalg.norm(means, axis=-1, keepdims=True)\n"
             "    number = np.arange(len(starts))",
             says="you gave the means the same length: you rank by the cosine",
             next="rank by the product of query and mean, as they are"),
        edit("np.where(number == own, np.inf, q @ means.T)", "q @ means.T",
             says="your own block has to compete: where its score is low, it is not read",
             next="give the own block the score +inf, so that it is always picked"),
        edit("picked & (number <= own)", "picked & (number < own) | (number == own)",
             "np.where(number == own, np.inf, q @ means.T)", "q @ means.T",
             "scores[number > own]", "scores[number >= own]",
             says="your own block comes on top of `keep` others",
             next="the own block is one of the `keep`"),
        edit("    scores[number > own] = -np.inf\n", "", "picked & (number <= own)", "picked",
             says="your queries read blocks that lie in their future",
             next="give later blocks the score -inf, and take them off at the end"),
        edit("    scores[number > own] = -np.inf\n", "",
             says="later blocks take part in the choice and are taken off afterwards: too few are "
             "left",
             next="hide later blocks before you sort"),
        edit("return picked & (number <= own)", "return picked",
             says="where there are fewer than `keep` blocks so far, you fill up with later ones",
             next="take off what is later than the own block: & (number <= own)"),
        edit(" + len(k) - len(q)) // block", ") // block",
             says="your query i stands at key i, which is right only for Tq = Tk",
             next="the last query stands at the last key: add Tk - Tq"),
        edit(") // block\n", ") // block\n    own = np.maximum(own, 0)\n",
             says="your queries before the first key read block 0",
             next="they stand in no block: i + Tk - Tq is negative, and they read nothing"),
        edit("np.argsort(-scores", "np.argsort(-np.where(np.isinf(scores), scores, -scores)",
             says="you pick the blocks with the smallest scores",
             next="np.argsort begins with the smallest: sort -scores"),
        edit("np.argsort(-scores, axis=-1, kind=\"stable\")[:, :keep]",
             "np.argsort(scores, axis=-1, kind=\"stable\")[:, -keep:]",
             says="of equal scores you pick the later blocks",
             next="sort -scores with kind=\"stable\": then the first of equal ones come first"),
        edit("q @ means.T", "np.abs(q @ means.T)",
             says="you rank the absolute scores",
             next="a product far below zero means small weights: rank the products themselves"),
    ],
    alternatives=[picks_by_queries, picks_by_turns],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/08_content.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
