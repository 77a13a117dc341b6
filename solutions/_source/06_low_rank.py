# %% [markdown]
# # 06 Exercises: fewer keys
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("06.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# A *run* is a stretch of neighbouring tokens that become one: run 0 holds the tokens 0 … pool − 1,
# run 1 the next, and the last run holds what is left. Scores are q kᵀ / √D. If there are fewer or
# more queries than keys, the last query stands at the last key.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import itertools
import math

import numpy as np

from attncourse.grading.spec import Case
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, linformer, pooled, synthesizer, window
from attncourse.softmax import softmax


def array_case(name, *shapes, rest=(), dtype=np.float32, longer=1.0):
    """Return a maker of a case of standard normal arrays; the first is `longer` times as large."""

    def make(rng):
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        arrays[0] *= dtype(longer)
        return Case(name, (*arrays, *rest))

    return make


def flat_softmax(scores):
    """Softmax over the queries instead of the keys."""
    return softmax(scores.swapaxes(-1, -2)).swapaxes(-1, -2)


# %% [markdown] role="prompt" exercise="06.1"
# ## 06.1 How many singular values
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/06_low_rank.ipynb#How-much-of-a-map-is-there)
#
# The energy of a matrix is the sum of its squared singular values. How many of them, the largest
# first, hold at least the given `share` of it?

# %% [markdown] role="prompt" exercise="06.1"
# A matrix of zeros needs 1. Of `np.diag([3.0, 2.0, 1.0])` the first singular value holds 9/14 of
# the energy, the first two 13/14: `rank_for(np.diag([3.0, 2.0, 1.0]), 0.9)` is `2`.


# %% role="answer" exercise="06.1"
def rank_for(matrix, share):
    """Return the smallest rank, an int, for a matrix (Tq, Tk) and a share above 0, at most 1."""
    # BEGIN SOLUTION
    values = np.linalg.svd(matrix, compute_uv=False)
    energy = np.cumsum(values**2)
    needed = share * energy[-1] * (1 - 1e-12)  # sums are rounded
    return int(np.argmax(energy >= needed)) + 1
    # END SOLUTION


# %% role="check" exercise="06.1"
check("06.1")

# %% [markdown] role="hints" exercise="06.1"
# 1. `np.linalg.svd(matrix, compute_uv=False)` gives the singular values, largest first. Which sums
#    of them do you need?
# 2. `np.cumsum(values**2)` is the energy of the first 1, 2, 3 … values; its last entry is all of
#    it. Look for the first entry that is large enough.
# 3. int(np.argmax(energy >= share * energy[-1])) + 1: argmax finds the first True, and place 0
#    means rank 1.


# %% role="spec" exercise="06.1"
def rank_by_gram(matrix, share):
    eigenvalues = np.linalg.eigvalsh(matrix.T @ matrix if len(matrix) > 9 else matrix @ matrix.T)
    left = eigenvalues.sum() * (1 - share) + 1e-12
    rest, rank = 0.0, len(eigenvalues)
    for value in eigenvalues:  # the smallest first
        rest += value
        if rest > left:
            break
        rank -= 1
    return max(rank, 1)


def rank_by_rebuilding(matrix, share):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    whole = np.square(matrix).sum()
    for rank in range(1, len(values) + 1):
        rebuilt = left[:, :rank] * values[:rank] @ right[:rank]
        if np.square(matrix - rebuilt).sum() <= (1 - share) * whole + 1e-12:
            return rank
    return len(values)


def map_of(n_queries, n_keys, spread=1.0, causal=False):
    rng = np.random.default_rng(n_queries * n_keys)
    q, k = (spread * rng.standard_normal((n, 5)) for n in (n_queries, n_keys))
    return full.weights(q, k, causal=causal)


def drawn_map(rng):
    sizes = (int(x) for x in rng.integers(3, 30, 2))
    return map_of(*sizes, spread=2.0), float(rng.uniform(0.5, 0.99))


Spec(
    kind="number",
    cases=[
        case("1 × 1", np.array([[2.0]]), 0.9),
        case("diagonal 3, 2, 1", np.diag([3.0, 2.0, 1.0]), 0.9),
        case("zeros", np.zeros((3, 4)), 0.99),
        case("all entries 1: rank 1", np.ones((5, 7)), 0.99),
        case("a copy of the token before", np.eye(8, k=-1), 0.8),
        case("a permutation", np.eye(11)[::-1], 0.99),
        case("numbers of both signs", np.diag([3.0, -2.0, 1.0, -0.5]), 0.9),
        case("exactly the share", np.diag([2.0, 2.0, 2.0, 2.0]), 0.75),
        case("3 queries, 9 keys", map_of(3, 9), 0.9),
        case("23 queries, 5 keys", map_of(23, 5, 2.0), 0.95),
        case("17 tokens, causal", map_of(17, 17, 2.0, True), 0.99),
        *draws(5, drawn_map, "map and share"),
    ],
    mistakes=[
        edit("values**2", "values",
             says="your sums are of the singular values, not of their squares",
             next="energy is the sum of squares"),
        edit("+ 1\n", "\n",
             says="your rank is the place in the list, which begins with 0",
             next="the first singular value alone is rank 1: add 1"),
        edit("(1 - 1e-12)", "(1 + 1e-12)",
             says="your values hold more than the share where exactly the share is enough",
             next="at least: >="),
        edit("share *", "(1 - (1 - share) ** 2) *",
             says="your share is one of the error, not of its square",
             next="1 - share is what is left of the energy: compare squares with squares"),
        edit("energy >= needed", "values**2 <= (1 - share) * values[0] ** 2",
             says="you look for the first value that is small, not for a sum that is large",
             next="many small values may hold a lot: add them up"),
        edit("np.linalg.svd(matrix, compute_uv=False)",
             "np.linalg.svd(matrix, compute_uv=False)[::-1]",
             says="you begin with the smallest singular value",
             next="the best matrix of rank r keeps the largest r values"),
        edit("np.linalg.svd(matrix, compute_uv=False)",
             "np.linalg.svd(matrix - matrix.mean(axis=0), compute_uv=False)",
             says="you took the mean row away first, as a principal component analysis does",
             next="take the singular values of the map as it is"),
        Mistake(lambda matrix, share: max(1, int(np.linalg.matrix_rank(matrix))),
                says="your number is the exact rank, for which every value above rounding counts",
                next="count only the values that are needed for the given share of the energy"),
    ],
    alternatives=[rank_by_gram, rank_by_rebuilding],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.2"
# ## 06.2 Linformer in the memory of n · rank
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/06_low_rank.ipynb#Linformer)
#
# softmax(q (E k)ᵀ / √D) (F v) for q `(..., Tq, D)`, k `(..., Tk, D)`, v `(..., Tk, Dv)` and two
# projections E and F `(rank, Tk)` that all heads share.

# %% [markdown] role="prompt" exercise="06.2"
# Result `(..., Tq, Dv)`, dtype of q. With projections of ones that have one row, for example, each
# row is the sum of v.
#
# **Memory limit** at n = 2048, rank 32, D = 16, float32: six arrays of n · rank numbers and four
# as large as q, 2 MiB. The n × n scores take 16 MiB.


# %% role="answer" exercise="06.2"
def linformer_attention(q, k, v, E, F):
    """Return Linformer's attention, (..., Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    mixed_k, mixed_v = E @ k, F @ v  # (..., rank, D), (..., rank, Dv)
    scores = q @ mixed_k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ mixed_v).astype(q.dtype)
    # END SOLUTION


# %% role="check" exercise="06.2"
check("06.2")

# %% [markdown] role="hints" exercise="06.2"
# 1. q (E k)ᵀ and (q kᵀ) Eᵀ are the same numbers. Which brackets make the smaller array?
# 2. Mix keys and values first; what is left is attention with `rank` keys.
# 3. k2, v2 = E @ k, F @ v; scores = q @ k2.swapaxes(-1, -2) / √D; subtract each row's maximum, exp,
#    divide by the row's sum; weights @ v2.


# %% role="spec" exercise="06.2"
def linformer_by_blocks(q, k, v, E, F):
    k, v, out = np.matmul(E, k), np.matmul(F, v), np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    for start in range(0, q.shape[-2], 50):
        rows = slice(start, start + 50)
        out[..., rows, :] = full.attention(q[..., rows, :], k, v)
    return out


def linformer_by_einsum(q, k, v, E, F):
    k, v = (np.einsum("rn,...nd->...rd", P, x, optimize=True) for P, x in ((E, k), (F, v)))
    scores = np.einsum("...qd,...rd->...qr", q, k, optimize=True) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
    return np.einsum("...qr,...rd->...qd", weights, v, optimize=True).astype(q.dtype)


def scores_first(q, k, v, E, F):
    scores = (q @ k.swapaxes(-1, -2)) @ E.T / q.shape[-1] ** 0.5
    return (softmax(scores) @ (F @ v)).astype(q.dtype)


def weights_mixed(q, k, v, E, F):
    return (full.weights(q, k) @ E.T @ (F @ v)).astype(q.dtype)


def linformer_case(name, n_queries, n_keys, rank, width, lead=(), value_width=None, **words):
    shapes = [(*lead, n_queries, width), (*lead, n_keys, width)]
    shapes += [(*lead, n_keys, value_width or width), (rank, n_keys), (rank, n_keys)]
    return array_case(name, *shapes, **words)


def random_linformer(rng):
    n_queries, n_keys, rank = (int(x) for x in rng.integers((4, 20, 2), (60, 90, 20)))
    name = f"random, {n_queries} queries, {n_keys} keys, rank {rank}"
    return linformer_case(name, n_queries, n_keys, rank, 8)(rng)


Spec(
    kind="array",
    reference=lambda q, k, v, E, F: linformer.attention(
        q, k, v, key_projection=E, value_projection=F
    ),
    cases=[
        linformer_case("1 query, 1 key", 1, 1, 1, 3),
        linformer_case("1 query, 5 keys, rank 2", 1, 5, 2, 3),
        linformer_case("7 queries, 5 keys, rank 1", 7, 5, 1, 3),
        linformer_case("5 queries, 11 keys, rank 3", 5, 11, 3, 7),
        linformer_case("rank as large as the keys", 6, 7, 7, 5),
        linformer_case("values narrower than keys", 6, 13, 4, 8, value_width=3),
        linformer_case("2 heads", 5, 11, 3, 4, lead=(2,)),
        linformer_case("batch of 2, 3 heads", 5, 7, 2, 4, lead=(2, 3)),
        linformer_case("float64", 9, 17, 5, 8, dtype=np.float64),
        linformer_case("float64, a long query", 9, 17, 5, 8, dtype=np.float64, longer=1000),
        linformer_case("one query 100 times longer", 9, 40, 6, 16, longer=100),
        linformer_case("130 queries, 50 keys", 130, 50, 10, 8),
        random_linformer,
    ],
    memory=Memory(
        linformer_case("n = 2048, rank 32", 2048, 2048, 32, 16),
        2048 * (6 * 32 + 4 * 16) * 4,
        "six arrays of n · rank numbers and four as large as q",
    ),
    mistakes=[
        Mistake(scores_first,
                says="your numbers are right, but all Tq × Tk scores exist before E mixes them",
                next="(q kᵀ) Eᵀ = q (E k)ᵀ: mix the keys first"),
        edit("E @ k, F @ v", "F @ k, E @ v",
             says="your projections are the wrong way round",
             next="E mixes the keys, F the values"),
        edit("F @ v", "E @ v",
             says="your values are mixed by E",
             next="the values have a projection of their own, F"),
        Mistake(weights_mixed,
                says="your softmax runs over all Tk keys, and its weights are mixed afterwards",
                next="softmax comes after mixing: it runs over `rank` mixed keys"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D before the softmax"),
        edit("/ q.shape[-1] ** 0.5", "/ len(E) ** 0.5",
             says="your scores are divided by the root of the rank",
             next="a score is a product of D numbers: divide by the square root of D"),
        edit("axis=-1", "axis=-2",
             says="your softmax runs over the queries",
             next="each query's weights sum to 1: axis=-1"),
        edit(" - scores.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("E @ k, F @ v", "E @ k / E.sum(-1, keepdims=True), F @ v",
             says="you divided the rows of E by their sums: mixed keys become averages",
             next="take E and F as they are"),
    ],
    alternatives=[linformer_by_blocks, linformer_by_einsum],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.3"
# ## 06.3 Pooling, and the run that is left
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/06_pooling.ipynb#Pooling)
#
# Each run of `pool` tokens becomes one key and one value, their means; the last run may be shorter.
# Add log(size of the run) to the scores of a run, so that it counts as often as its tokens would.

# %% [markdown] role="prompt" exercise="06.3"
# q is `(Tq, D)`, k `(Tk, D)`, v `(Tk, Dv)`; result `(Tq, Dv)`. With pool 1 it is full attention.
#
# **Memory limit** at n = 2048, pool 32, D = 16, float32: six arrays of n · n / pool numbers and
# four as large as q, 3.5 MiB.


# %% role="answer" exercise="06.3"
def pooled_attention(q, k, v, pool):
    """Return attention over runs, (Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    starts = np.arange(0, len(k), pool)
    sizes = np.diff(starts, append=len(k))
    mean_k = np.add.reduceat(k, starts) / sizes[:, None].astype(k.dtype)
    mean_v = np.add.reduceat(v, starts) / sizes[:, None].astype(v.dtype)
    scores = q @ mean_k.T / q.shape[-1] ** 0.5
    scores += np.log(sizes).astype(q.dtype)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ mean_v).astype(q.dtype)
    # END SOLUTION


# %% role="check" exercise="06.3"
check("06.3")

# %% [markdown] role="hints" exercise="06.3"
# 1. Where does each run start, and how many tokens has it? All else is attention with fewer keys.
# 2. `np.add.reduceat(k, starts)` sums the rows between starts. Divide each sum by the run's own
#    size.
# 3. starts = np.arange(0, len(k), pool); sizes = np.diff(starts, append=len(k)); scores = q @
#    mean_k.T / √D + np.log(sizes).


# %% role="spec" exercise="06.3"
def pooled_by_slices(q, k, v, pool):
    runs = [slice(start, start + pool) for start in range(0, len(k), pool)]
    mean_k, mean_v = (np.array([x[run].mean(axis=0) for run in runs]) for x in (k, v))
    sizes = np.array([len(k[run]) for run in runs], q.dtype)
    scores = q @ mean_k.T / q.dtype.type(math.sqrt(q.shape[-1]))
    scores -= scores.max(axis=-1, keepdims=True)
    weights = sizes * np.exp(scores)
    return weights @ mean_v / weights.sum(axis=-1, keepdims=True)


def pooled_by_projection(q, k, v, pool):
    """Blocks of queries, and a matrix of means."""
    run = np.arange(len(k)) // pool
    mean = (run == np.arange(run[-1] + 1)[:, None]).astype(k.dtype)
    sizes = mean.sum(axis=1, keepdims=True)
    mean_k, mean_v = mean @ k / sizes, mean @ v / sizes
    parts = [
        softmax(q[i : i + 99] @ mean_k.T / math.sqrt(q.shape[-1]) + np.log(sizes.T)) @ mean_v
        for i in range(0, len(q), 99)
    ]
    return np.concatenate(parts).astype(q.dtype)


def pooled_by_repeating(q, k, v, pool):
    run = np.arange(len(k)) // pool
    mean_k, mean_v = (
        np.array([x[run == r].mean(axis=0) for r in range(run[-1] + 1)])[run] for x in (k, v)
    )
    return full.attention(q, mean_k, mean_v)


def pooled_scores(q, k, v, pool):
    starts = np.arange(0, len(k), pool)
    sizes = np.diff(starts, append=len(k))
    scores = np.add.reduceat(q @ k.T, starts, axis=1) / sizes / math.sqrt(q.shape[-1])
    return (softmax(scores + np.log(sizes)) @ pooled.pool_tokens(k, v, pool=pool)[1]).astype(
        q.dtype
    )


def random_pooling(rng):
    n_queries, n_keys, pool = (int(x) for x in rng.integers((4, 20, 2), (50, 90, 15)))
    name = f"random, {n_queries} queries, {n_keys} keys, pool {pool}"
    return qkv(name, (n_queries, 8), pool, keys=n_keys)(rng)


REST = "sizes = np.diff(starts, append=len(k))"

Spec(
    kind="array",
    reference=lambda q, k, v, pool: pooled.attention(q, k, v, pool=pool),
    cases=[
        qkv("1 token", (1, 3), 1),
        qkv("pool 1: full attention", (5, 3), 1),
        qkv("6 tokens in runs of 2", (6, 4), 2),
        qkv("7 tokens in runs of 3: one is left", (7, 4), 3),
        qkv("1 query, 11 keys in runs of 4", (1, 5), 4, keys=11),
        qkv("9 queries, 5 keys in runs of 2", (9, 4), 2, keys=5),
        qkv("a run longer than the text", (4, 4), 50, keys=7),
        qkv("values narrower than keys", (6, 8), 4, keys=13, value_width=3),
        qkv("float64", (9, 8), 5, keys=17, dtype=np.float64),
        qkv("float64, a long query", (9, 8), 5, keys=17, dtype=np.float64, longer=1000),
        qkv("one query 1000 times longer", (9, 16), 3, keys=40, longer=1000),
        random_pooling,
        random_pooling,
    ],
    memory=Memory(
        qkv("n = 2048, pool 32", (2048, 16), 32),
        2048 * (6 * 64 + 4 * 16) * 4,
        "six arrays of n · n / pool numbers and four as large as q",
    ),
    mistakes=[
        Mistake(pooled_by_repeating,
                says="your numbers are right, but pooled keys were written back to every token: "
                "n × n scores, or these were pooled",
                next="keep one key for each run: its score is the mean of theirs, and log(size) "
                "makes it count as often",
                variants=(pooled_scores,)),
        edit("    scores += np.log(sizes).astype(q.dtype)\n", "",
             also=[edit("np.log(sizes)", "np.log(np.full(len(sizes), pool))")],
             says="your runs count alike, however many tokens they hold",
             next="add log(size) to the scores of each run, of the last one its own"),
        edit(REST, "sizes = np.full(len(starts), pool)",
             says="your last run is taken to be as long as the others",
             next="the last run holds what is left: its size is len(k) minus its start"),
        edit("np.arange(0, len(k), pool)", "np.arange(0, max(1, len(k) // pool) * pool, pool)",
             REST, "sizes = np.diff(starts, append=min(len(k), len(starts) * pool))\n"
             "    k, v = k[: sizes.sum()], v[: sizes.sum()]",
             says="your tokens after the last whole run are never seen",
             next="the last run may be shorter: keep it"),
        edit("np.add.reduceat(k, starts) / sizes[:, None].astype(k.dtype)", "k[starts]",
             "np.add.reduceat(v, starts) / sizes[:, None].astype(v.dtype)", "v[starts]",
             says="you took the first token of each run",
             next="a pooled key is the mean of its run"),
        edit(" / sizes[:, None].astype(k.dtype)", "", " / sizes[:, None].astype(v.dtype)", "",
             says="your runs are sums, not means",
             next="divide each sum by the run's size"),
        edit(" / sizes[:, None].astype(v.dtype)", "",
             says="your values are sums, your keys are means",
             next="both are means of their run"),
        edit("np.log(sizes)", "np.log(sizes) / q.shape[-1] ** 0.5",
             says="your log(size) is divided by √D, as the scores are",
             next="add it after the division"),
        edit("np.log(sizes)", "sizes",
             says="you added the size of the run, not its logarithm",
             next="e^(s + log size) is size · e^s"),
        edit(" / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D, before you add log(size)"),
        edit("np.add.reduceat", "np.maximum.reduceat", " / sizes[:, None].astype(k.dtype)", "",
             " / sizes[:, None].astype(v.dtype)", "",
             says="you took the largest number of each run: max pooling",
             next="a pooled key is the mean of its run"),
    ],
    alternatives=[pooled_by_slices, pooled_by_projection],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.4"
# ## 06.4 Merge what is alike
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/06_pooling.ipynb#Runs-that-follow-the-text)
#
# Cut the tokens into `keep` runs: before the `keep` − 1 tokens whose key is least like the key
# before it, by the cosine of the two. Return the mean key of each run.

# %% [markdown] role="prompt" exercise="06.4"
# The result is `(keep, D)` for k `(Tk, D)`, in the order of the text and in the dtype of k. A key
# of zeros has cosine 0 with any other.
#
# `merge_neighbours(k, len(k))` is k, and `merge_neighbours(k, 1)` its mean.


# %% role="answer" exercise="06.4"
def merge_neighbours(k, keep):
    """Return the mean key of each of `keep` runs, (keep, D) in the dtype of k."""
    # BEGIN SOLUTION
    length = np.linalg.norm(k, axis=1, keepdims=True)
    unit = k / np.where(length > 0, length, 1)
    cosine = (unit[1:] * unit[:-1]).sum(axis=1)  # of token 1, 2, ... with the one before
    cuts = np.sort(np.argsort(cosine)[: keep - 1]) + 1
    starts = np.concatenate([[0], cuts])
    sizes = np.diff(starts, append=len(k))
    return (np.add.reduceat(k, starts) / sizes[:, None]).astype(k.dtype)
    # END SOLUTION


# %% role="check" exercise="06.4"
check("06.4")

# %% [markdown] role="hints" exercise="06.4"
# 1. There are Tk − 1 places where a cut may fall. How do you choose `keep` − 1 of them?
# 2. Divide each key by its length; the cosine of neighbours is the sum of their products. The
#    places of the smallest cosines are cuts, in the order of the text.
# 3. cuts = np.sort(np.argsort(cosine)[: keep - 1]) + 1; starts = [0, *cuts]; the means are
#    np.add.reduceat(k, starts) over the sizes of the runs.


# %% role="spec" exercise="06.4"
def merge_by_splitting(k, keep):
    alike = []
    for before, token in itertools.pairwise(k):
        both = math.sqrt((before @ before) * (token @ token))
        alike.append(before @ token / both if both else 0.0)
    cuts = sorted(sorted(range(1, len(k)), key=lambda token: alike[token - 1])[: keep - 1])
    return np.array([run.mean(axis=0) for run in np.split(k, cuts)], k.dtype)


def merge_by_labels(k, keep):
    length = np.sqrt(np.square(k).sum(axis=1))
    cosine = np.einsum("td,td->t", k[1:], k[:-1]) / np.maximum(length[1:] * length[:-1], 1e-30)
    is_cut = np.zeros(len(k), bool)
    if keep > 1:
        is_cut[1:][np.argpartition(cosine, keep - 2)[: keep - 1]] = True
    run = np.cumsum(is_cut)
    member = (run == np.arange(keep)[:, None]).astype(k.dtype)
    return (member @ k / member.sum(axis=1, keepdims=True)).astype(k.dtype)


def merge_by_steps(k, keep):
    """The two most alike become their mean, which is compared anew, until `keep` are left."""
    means, sizes = list(k.astype(float)), [1] * len(k)
    while len(means) > keep:
        length = [np.linalg.norm(mean) or 1 for mean in means]
        unit = np.array(means) / np.array(length)[:, None]
        at = int(np.argmax((unit[1:] * unit[:-1]).sum(axis=1)))
        both = sizes[at] + sizes[at + 1]
        means[at] = (sizes[at] * means[at] + sizes[at + 1] * means.pop(at + 1)) / both
        sizes[at : at + 2] = [both]
    return np.array(means, k.dtype)


def keys_with(name, n_keys, width, keep, zero=None, dtype=np.float32, alike=False):
    def make(rng):
        k = rng.standard_normal((n_keys, width))
        k = np.repeat(k, 3, axis=0)[:n_keys] + 0.1 * rng.standard_normal(k.shape) if alike else k
        k *= rng.uniform(0.2, 3, (n_keys, 1))
        if zero is not None:  # least like its neighbours, since all others are somewhat alike
            k = np.abs(k)
            k[zero] = 0
        return Case(name, (k.astype(dtype), keep))

    return make


def random_keys(rng):
    n_keys = int(rng.integers(20, 60))
    keep = int(rng.integers(2, n_keys - 1))
    return keys_with(f"random, {n_keys} keys, keep {keep}", n_keys, 6, keep)(rng)


Spec(
    kind="array",
    cases=[
        keys_with("1 key", 1, 3, 1),
        keys_with("2 keys, keep 1", 2, 3, 1),
        keys_with("5 keys, keep all", 5, 3, 5),
        keys_with("5 keys, keep 2", 5, 3, 2),
        keys_with("9 keys, keep 4", 9, 5, 4),
        keys_with("threes that are alike", 21, 7, 7, alike=True),
        keys_with("a key of zeros", 11, 4, 5, zero=4),
        keys_with("float64", 13, 5, 6, dtype=np.float64),
        keys_with("40 keys, keep 39", 40, 6, 39),
        random_keys,
        random_keys,
    ],
    mistakes=[
        edit("np.argsort(cosine)", "np.argsort(-cosine)",
             says="you cut between the keys that are most alike",
             next="the most similar neighbours stay together: cut where the cosine is smallest"),
        edit(") + 1\n", ")\n", "[[0], cuts]", "[[0], cuts[cuts > 0]]",
             says="your cuts stand one token too early",
             next="entry 0 of the cosines belongs to token 1: add 1"),
        edit("np.where(length > 0, length, 1)", "1",
             says="you compared dot products: long keys seem alike, short ones do not",
             next="divide each key by its length first"),
        edit("(unit[1:] * unit[:-1]).sum(axis=1)", "-np.square(k[1:] - k[:-1]).sum(axis=1)",
             says="you compared distances, in which the lengths of keys count",
             next="the cosine looks at the direction only"),
        edit("/ np.where(length > 0, length, 1)", "/ length",
             says="a key of zeros gives 0/0 = NaN",
             next="divide by 1 where the length is 0"),
        Mistake(merge_by_steps,
                says="you merged the two most alike again and again, and compared means of runs",
                next="compare the keys as they came in, once, and cut everywhere at once"),
        edit("[: keep - 1]", "[:keep]",
             says="you made one run too many",
             next="`keep` runs need `keep` - 1 cuts"),
        edit("cosine = (unit[1:] * unit[:-1]).sum(axis=1)",
             "step = -(-len(k) // keep)\n"
             "    cosine = -(np.arange(1, len(k)) % step == 0).astype(int)",
             says="your runs are equally long, whatever the keys are",
             next="let the cosine of neighbours say where to cut"),
        edit(" / sizes[:, None]", "",
             says="your runs are sums, not means",
             next="divide each sum by the run's size"),
        edit("np.add.reduceat(k, starts) / sizes[:, None]", "k[starts]",
             says="you kept the first key of each run",
             next="a merged key is the mean of its run"),
        edit("np.add.reduceat(k, starts) / sizes[:, None]",
             "np.add.reduceat(unit, starts) / sizes[:, None]",
             says="you averaged keys of length 1",
             next="lengths are for the cosine only: average the keys as they are"),
    ],
    alternatives=[merge_by_splitting, merge_by_labels],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.5"
# ## 06.5 Learned scores, in factors
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/06_pooling.ipynb#Scores-that-no-key-wrote)
#
# softmax(left rightᵀ) v for left `(Tq, rank)`, right `(Tk, rank)` and v `(Tk, Dv)`: logits that
# were learned, so that no 1/√D shrinks them. Result `(Tq, Dv)`, dtype of v.

# %% [markdown] role="prompt" exercise="06.5"
# The factors are small, but every one of the Tq × Tk logits is needed. **Memory limit** at
# n = 2048, rank 3, Dv = 8, float32: half of the logits, 8 MiB.


# %% role="answer" exercise="06.5"
def factorised_attention(left, right, v):
    """Return the Synthesizer's attention, (Tq, Dv) in the dtype of v."""
    # BEGIN SOLUTION
    block = 64
    out = np.empty((len(left), v.shape[-1]), v.dtype)
    for start in range(0, len(left), block):
        logits = left[start : start + block] @ right.T
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[start : start + block] = weights @ v
    return out
    # END SOLUTION


# %% role="check" exercise="06.5"
check("06.5")

# %% [markdown] role="hints" exercise="06.5"
# 1. A row of the softmax needs no other row. How many rows must exist at once?
# 2. Take the rows of left in blocks of 64: their logits, their softmax, times v, into the output.
# 3. for start in range(0, len(left), 64): logits = left[start : start + 64] @ right.T; subtract
#    each row's maximum, exp, divide by the row's sum; out[start : start + 64] = weights @ v.


# %% role="spec" exercise="06.5"
def factorised_by_rows(left, right, v):
    rows = []
    for some in np.array_split(left, 1 + len(left) // 40):
        logits = right @ some.T
        weights = np.exp(logits - logits.max(axis=0))
        rows.append((weights / weights.sum(axis=0)).T @ v)
    return np.concatenate(rows)


def factorised_in_logarithms(left, right, v):
    out = np.empty((len(left), v.shape[1]), v.dtype)
    for rows in np.array_split(np.arange(len(left)), 1 + len(left) // 50):
        logits = left[rows] @ right.T
        out[rows] = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)) @ v
    return out


def factorised_by_reference(left, right, v):
    logits = synthesizer.factorised(left, right)
    return synthesizer.attention(np.empty_like(left), right, v, logits=logits)


def factorised_whole(left, right, v):
    return softmax(left @ right.T) @ v


def factorised_moved(left, right, v):
    weights = np.exp(left), np.exp(right)
    return weights[0] @ (weights[1].T @ v) / (weights[0] @ weights[1].sum(axis=0))[:, None]


def factors_case(name, n_queries, n_keys, rank, value_width, **words):
    shapes = (n_queries, rank), (n_keys, rank), (n_keys, value_width)
    return array_case(name, *shapes, **words)


def random_factors(rng):
    n_queries, n_keys, rank = (int(x) for x in rng.integers((4, 20, 2), (150, 90, 9)))
    name = f"random, {n_queries} queries, {n_keys} keys, rank {rank}"
    return factors_case(name, n_queries, n_keys, rank, 5)(rng)


LOGITS = "left[start : start + block] @ right.T"

Spec(
    kind="array",
    exponents=lambda left, right, v: left @ right.T,
    cases=[
        factors_case("1 query, 1 key", 1, 1, 1, 2),
        factors_case("1 query, 5 keys", 1, 5, 2, 3),
        factors_case("7 queries, 5 keys, rank 3", 7, 5, 3, 2),
        factors_case("5 queries, 11 keys, rank 3", 5, 11, 3, 7),
        factors_case("rank larger than the keys", 6, 7, 13, 5),
        factors_case("float64", 9, 17, 5, 3, dtype=np.float64),
        factors_case("float64, a large row", 9, 17, 5, 3, dtype=np.float64, longer=1000),
        factors_case("logits 200 times larger", 9, 40, 6, 4, longer=200),
        factors_case("65 queries, 3 keys", 65, 3, 2, 4),
        factors_case("130 queries, 33 keys", 130, 33, 4, 6),
        random_factors,
        random_factors,
    ],
    memory=Memory(
        factors_case("n = 2048, rank 3", 2048, 2048, 3, 8),
        2 * 2048 * 2048,
        "half of the n × n logits: n² · 4 / 2 bytes",
    ),
    mistakes=[
        Mistake(factorised_whole,
                says="your numbers are right, but all Tq × Tk logits exist at once",
                next="small factors are no small product: take the rows of left in blocks"),
        Mistake(factorised_moved,
                says="you moved the brackets, and took exp of each factor",
                next="exp stands between the products: e^(a·b) is not e^a · e^b"),
        edit(LOGITS, LOGITS + " / right.shape[-1] ** 0.5",
             says="you divided the logits by √rank",
             next="learned logits have their own size: no factor"),
        edit("axis=-1", "axis=0",
             says="your softmax runs over the queries of a block",
             next="each query's weights sum to 1: axis=-1"),
        edit("        weights /= weights.sum(axis=-1, keepdims=True)\n", "",
             says="your weights are not divided by their sum",
             next="each row of weights must sum to 1"),
        edit(" - logits.max(axis=-1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of logits before np.exp"),
        edit("range(0, len(left), block)", "range(0, len(left) // block * block, block)",
             "np.empty(", "np.zeros(",
             says="your last, shorter block of queries is never computed",
             next="slices may end beyond the last row: let the loop run to len(left)"),
        edit(LOGITS, "np.maximum(left[start : start + block] @ right.T, 0)",
             says="you cut negative logits off at 0",
             next="relu belongs to the dense Synthesizer's hidden layer: keep the product as it "
             "is"),
    ],
    alternatives=[factorised_by_rows, factorised_by_reference, factorised_in_logarithms],
    variants=[edit("block = 64", f"block = {size}") for size in (16, 32, 100, 128)],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.6"
# ## 06.6 Pooled, and nothing of the future
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/06_pooling.ipynb#From-left-to-right)
#
# A query sees the runs *before* its own as means, with log(pool) added to their scores, and its own
# run token by token up to itself. One softmax runs over both.

# %% [markdown] role="prompt" exercise="06.6"
# q is `(Tq, D)`, k `(Tk, D)`, v `(Tk, Dv)`. The last query stands at the last key; a query before
# key 0 gives zeros.
#
# **Memory limit** at n = 1024, pool 32, D = 16, float32: six arrays of n · (n / pool + pool)
# and four of n · D numbers, 1.75 MiB.


# %% role="answer" exercise="06.6"
def causal_pooled(q, k, v, pool):
    """Return causal pooled attention, (Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    ahead, whole = len(k) - len(q), len(k) // pool * pool
    mean_k, mean_v = (x[:whole].reshape(-1, pool, x.shape[-1]).mean(axis=1) for x in (k, v))
    out = np.zeros((len(q), v.shape[-1]), q.dtype)
    for run, start in enumerate(range(0, len(k), pool)):
        own = np.arange(start, min(start + pool, len(k)))
        rows = np.arange(max(0, start - ahead), max(0, own[-1] + 1 - ahead))
        scores = q[rows] @ np.concatenate([mean_k[:run], k[own]]).T / q.shape[-1] ** 0.5
        scores[:, :run] += np.log(pool)
        scores[:, run:][own > rows[:, None] + ahead] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[rows] = weights @ np.concatenate([mean_v[:run], v[own]])
    return out
    # END SOLUTION


# %% role="check" exercise="06.6"
check("06.6")

# %% [markdown] role="hints" exercise="06.6"
# 1. All queries of one run see the same means and the same tokens of their own. So walk over runs.
# 2. The runs before are all whole: x[:whole].reshape(-1, pool, width).mean(axis=1). Put the first
#    `run` means and the tokens of the own run into one array of keys; hide own tokens that come
#    after the query.
# 3. rows = np.arange(max(0, start - ahead), max(0, stop - ahead)); scores[:, :run] += np.log(pool);
#    scores[:, run:][own > rows[:, None] + ahead] = -np.inf; then softmax, and the same two parts of
#    v.


# %% role="spec" exercise="06.6"
def causal_by_queries(q, k, v, pool):
    out, starts = np.zeros((len(q), v.shape[-1]), q.dtype), np.arange(0, len(k), pool)
    means = [np.add.reduceat(x, starts) / x.dtype.type(pool) for x in (k, v)]
    for i in range(max(0, len(q) - len(k)), len(q)):
        run, at = divmod(i + len(k) - len(q), pool)
        own = slice(run * pool, run * pool + at + 1)
        keys, values = (np.r_[x[:run], y[own]] for x, y in zip(means, (k, v), strict=True))
        scores = keys @ q[i] / math.sqrt(q.shape[-1])
        weights = np.where(np.arange(len(keys)) < run, pool, 1) * np.exp(scores - scores.max())
        out[i] = weights @ values / weights.sum()
    return out


def causal_in_parts(q, k, v, pool):
    """Past and own run for all queries at once: n · (n / pool + pool) scores."""
    n_runs, at = -(-len(k) // pool), np.arange(len(q)) + len(k) - len(q)
    sees = at >= 0
    pad = [(0, n_runs * pool - len(k)), (0, 0)]
    keys, values = (np.pad(x, pad).reshape(n_runs, pool, -1) for x in (k, v))
    run = np.maximum(at, 0) // pool
    past = q @ keys.mean(axis=1).T / math.sqrt(q.shape[-1]) + math.log(pool)
    past[np.arange(n_runs) >= run[:, None]] = -np.inf
    own = np.empty((len(q), pool), q.dtype)
    for r in range(n_runs):
        own[run == r] = q[run == r] @ keys[r].T / math.sqrt(q.shape[-1])
    own[run[:, None] * pool + np.arange(pool) > at[:, None]] = -np.inf
    weights = softmax(np.concatenate([past, own], axis=1))
    out = weights[:, :n_runs] @ values.mean(axis=1)
    for r in range(n_runs):
        out[run == r] += weights[run == r, n_runs:] @ values[r]
    return np.where(sees[:, None], out, 0).astype(q.dtype)


def causal_by_repeating(q, k, v, pool):
    """Means written back to every token, beside the tokens: two n × n arrays of scores."""
    at = np.arange(len(q))[:, None] + len(k) - len(q)
    key, run = np.arange(len(k)), np.arange(len(k)) // pool
    mean_k, mean_v = (
        np.array([x[run == r].mean(axis=0) for r in range(run[-1] + 1)])[run] for x in (k, v)
    )
    mask = np.concatenate([run < at // pool, (run == at // pool) & (key <= at)], axis=1)
    return full.attention(q, np.concatenate([mean_k, k]), np.concatenate([mean_v, v]), mask=mask)


def causal_too_soon(q, k, v, pool):
    """A run is pooled as soon as it is whole, for the query that ends it too."""
    whole, out = len(k) // pool * pool, np.zeros((len(q), v.shape[-1]), q.dtype)
    means = [x[:whole].reshape(-1, pool, x.shape[-1]).mean(axis=1) for x in (k, v)]
    for i in range(max(0, len(q) - len(k)), len(q)):
        seen = i + len(k) - len(q) + 1
        runs, own = seen // pool, slice(seen // pool * pool, seen)
        keys, values = (np.r_[x[:runs], y[own]] for x, y in zip(means, (k, v), strict=True))
        scores = keys @ q[i] / math.sqrt(q.shape[-1])
        scores[:runs] += math.log(pool)
        out[i] = softmax(scores) @ values
    return out


def random_causal(rng):
    n_queries, n_keys, pool = (int(x) for x in rng.integers((9, 20, 2), (50, 50, 12)))
    name = f"random, {n_queries} queries, {n_keys} keys, pool {pool}"
    return qkv(name, (n_queries, 8), pool, keys=n_keys)(rng)


HIDDEN = "scores[:, run:][own > rows[:, None] + ahead] = -np.inf"

Spec(
    kind="array",
    reference=lambda q, k, v, pool: pooled.attention(q, k, v, pool=pool, causal=True),
    cases=[
        qkv("1 token", (1, 3), 1),
        qkv("pool 1: causal attention", (5, 3), 1),
        qkv("6 tokens in runs of 2", (6, 4), 2),
        qkv("7 tokens in runs of 3", (7, 4), 3),
        qkv("a run longer than the text", (5, 4), 50),
        qkv("1 query, 11 keys in runs of 4", (1, 5), 4, keys=11),
        qkv("5 queries, 13 keys in runs of 3", (5, 4), 3, keys=13),
        qkv("13 queries, 5 keys: empty rows", (13, 4), 2, keys=5),
        qkv("values narrower than keys", (17, 8), 4, value_width=3),
        qkv("float64", (17, 8), 5, dtype=np.float64),
        qkv("float64, a long query", (17, 8), 5, dtype=np.float64, longer=1000),
        qkv("one query 1000 times longer", (40, 16), 7, longer=1000),
        random_causal,
        random_causal,
    ],
    memory=Memory(
        qkv("n = 1024, pool 32", (1024, 16), 32),
        (6 * 1024 * (32 + 32) + 4 * 1024 * 16) * 4,
        "six arrays of n · (n / pool + pool) numbers and four as large as q",
    ),
    mistakes=[
        Mistake(causal_by_repeating,
                says="your numbers are right, but the means were written back to every token: "
                "n × n scores",
                next="one key for each run before, and the tokens of the own run"),
        edit("mean_k[:run], k[own]", "mean_k[: run + 1], k[own]",
             "mean_v[:run], v[own]", "mean_v[: run + 1], v[own]",
             "[:, :run]", "[:, : len(mean_k[: run + 1])]", "[:, run:]",
             "[:, len(mean_k[: run + 1]) :]",
             says="your queries see the mean of their own run, which holds their future",
             next="only runs before the own one are pooled"),
        Mistake(causal_too_soon,
                says="the last query of each run sees that run as a mean",
                next="it is the query's own run until the next one begins: token by token"),
        edit(HIDDEN, "pass",
             says="your queries see all of their own run, also what comes after them",
             next="hide the own tokens at positions beyond the query"),
        edit("own > rows", "own >= rows",
             "np.exp(scores - scores.max(axis=-1, keepdims=True))",
             "np.exp(scores - np.maximum(scores.max(axis=-1, keepdims=True), -1e30))",
             "weights /= weights.sum(axis=-1, keepdims=True)",
             "weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)",
             says="your queries do not see their own token",
             next="own positions up to the query's own stay visible"),
        edit("        scores[:, :run] += np.log(pool)\n", "",
             also=[edit("scores[:, :run] +=", "scores +=")],
             says="your means count no more than single tokens",
             next="add log(pool) to the scores of the runs before, and to no others"),
        edit("len(k) - len(q), len(k)", "0, len(k)",
             "max(0, own[-1] + 1 - ahead)", "min(len(q), own[-1] + 1)",
             says="your query i sits at key i, which is right only for Tq = Tk",
             next="the last query stands at the last key: add Tk - Tq"),
        edit("mean_k[:run]", "mean_k[:0]", "mean_v[:run]", "mean_v[:0]",
             "[:, :run]", "[:, :0]", "[:, run:]", "[:, 0:]",
             says="your queries see their own run and nothing before it",
             next="put the means of the runs before beside the tokens of the own run"),
        edit("np.concatenate([mean_k[:run], k[own]])",
             "np.concatenate([mean_k[:run], k[own]])[:, :]",
             " / q.shape[-1] ** 0.5", "",
             says="your output is what you get without 1/√D",
             next="divide the scores by the square root of D, before you add log(pool)"),
        edit("-np.inf", "0",
             says="your hidden scores are 0, and exp(0) = 1 is a weight",
             next="set the scores of later tokens to -inf before the softmax"),
    ],
    alternatives=[causal_by_queries, causal_in_parts],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="06.V2"
# ## 06.V2 What Linformer saves, with everything counted
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/06_low_rank.ipynb#Three-prices-for-one-thing)
#
# A textbook compares standard attention, Linformer and a window (width // 2 keys on each side and
# the query's own; edges exact), for n tokens in one head of width d. Count matrix products only, 2
# FLOPs a multiply-add, Linformer's projections included.

# %% [markdown] role="prompt" exercise="06.V2"
# Return a dict: `standard`, `linformer`, `window`, their FLOPs; `order`, a tuple of these names,
# fewest first (no two are equal); `gain`, standard over linformer; `bytes_gain`, the n × n scores
# over what Linformer holds instead: n × rank scores, mixed K and V, and the two projections.
#
# `linformer_budget(8, 2, 1, 2)`: 512, 128, 176, ("linformer", "window", "standard"), 4.0, 2.286.


# %% role="answer" exercise="06.V2"
def linformer_budget(n, d, rank, width):
    """Return the FLOPs of three methods, their order, and what Linformer gains, as a dict."""
    # BEGIN SOLUTION
    side = min(width // 2, n - 1)
    flops = {
        "standard": 2 * 2 * n * n * d,
        "linformer": 4 * 2 * n * rank * d,
        "window": 2 * 2 * (n * (2 * side + 1) - side * (side + 1)) * d,
    }
    return flops | {
        "order": tuple(sorted(flops, key=flops.get)),
        "gain": flops["standard"] / flops["linformer"],
        "bytes_gain": n * n / (n * rank + 2 * rank * d + 2 * n * rank),
    }
    # END SOLUTION


# %% role="check" exercise="06.V2"
check("06.V2")

# %% [markdown] role="hints" exercise="06.V2"
# 1. Standard attention has two products, Linformer four. Write down the three sizes of each.
# 2. E k: rank × n × d; F v the same; q with the mixed keys: n × rank × d; weights with the mixed
#    values the same. A product of sizes a × b × c takes 2·a·b·c FLOPs.
# 3. standard 4·n²·d, linformer 8·n·rank·d, window 4·pairs·d with pairs = n·(2·side + 1) −
#    side·(side + 1); Linformer holds n·rank + 2·rank·d + 2·n·rank numbers.


# %% role="spec" exercise="06.V2"
def budget_by_products(n, d, rank, width):
    pairs = sum(min(n - 1, i + width // 2) - max(0, i - width // 2) + 1 for i in range(n))
    products = {
        "standard": [(n, d, n), (n, n, d)],
        "linformer": [(rank, n, d), (rank, n, d), (n, d, rank), (n, rank, d)],
        "window": [(pairs, d, 1), (pairs, 1, d)],
    }
    found = {name: sum(2 * math.prod(one) for one in all_) for name, all_ in products.items()}
    held = sum(math.prod(shape) for shape in [(n, rank), (2, rank, d), (2, rank, n)])
    order = tuple(name for _, name in sorted((count, name) for name, count in found.items()))
    return found | {"order": order, "gain": n / (2 * rank), "bytes_gain": n**2 / held}


def budget_by_costs(n, d, rank, width):
    names, sizes = ("standard", "linformer", "window"), (1, 1, n, n, d)
    counts = (
        full.cost(*sizes).flops,
        8 * n * rank * d,
        4 * window.count(n, n, window=width // 2) * d,
    )
    found = dict(zip(names, counts, strict=True))
    return found | {
        "order": tuple(sorted(names, key=lambda name: found[name])),
        "gain": counts[0] / counts[1],
        "bytes_gain": n / rank / (3 + 2 * d / n),
    }


def draw_sizes(rng):
    while True:
        n, d, rank, width = (int(x) for x in rng.integers((20, 2, 2, 2), (3000, 200, 300, 600)))
        counts = linformer_budget(n, d, rank, width)
        if rank < n and len({counts[name] for name in ("standard", "linformer", "window")}) == 3:
            return n, d, rank, width


Spec(
    kind="number",
    cases=[
        case("3 tokens", 3, 5, 1, 2),
        case("8 tokens, rank 1", 8, 2, 1, 2),
        case("11 tokens, rank 7: Linformer takes most", 11, 5, 7, 4),
        case("odd width 5", 13, 3, 2, 5),
        case("width larger than 2n", 9, 4, 2, 30),
        case("the document's n = 4096, d = 768, rank 256, w = 512", 4096, 768, 256, 512),
        case("the same per head, d = 64", 4096, 64, 256, 512),
        *draws(4, draw_sizes),
    ],
    mistakes=[
        edit("4 * 2 * n * rank", "2 * 2 * n * rank",
             says="your Linformer leaves out its two projections",
             next="E k and F v take 2·n·rank·d FLOPs each, as much as the rest"),
        edit("4 * 2 * n * rank", "3 * 2 * n * rank",
             says="your Linformer has three products, as a textbook's sum has",
             next="keys and values are both projected: four products"),
        edit("2 * 2 * n * n * d", "2 * n * n * d",
             says="your standard attention has one product",
             next="q kᵀ and weights · v: two products"),
        edit("2 * 2 * n * n * d", "2 * n * n * d",
             "4 * 2 * n * rank * d", "4 * n * rank * d",
             "2 * 2 * (n", "2 * (n",
             says="you counted multiply-adds, not FLOPs",
             next="one multiply-add is 2 FLOPs"),
        edit(" + 2 * n * rank)", ")",
             says="your Linformer holds no projections",
             next="E and F have n·rank numbers each"),
        edit(" + 2 * rank * d", "",
             says="your Linformer leaves out the mixed keys and values",
             next="add 2·rank·d numbers"),
        edit("n * n / (n * rank + 2 * rank * d + 2 * n * rank)", "n / rank",
             says="your bytes_gain compares scores with scores only",
             next="Linformer also holds mixed K and V and its projections"),
        edit("(n * (2 * side + 1) - side * (side + 1))", "n * width",
             says="your window has n·width pairs, the document's shorthand",
             next="count width // 2 keys on each side and the query's own, edges exact"),
        edit("min(width // 2, n - 1)", "width // 2", " - side * (side + 1)", "",
             says="your window gives every query the keys of one in the middle",
             next="subtract the two triangles that the edges cut off"),
        edit("key=flops.get", "key=flops.get, reverse=True",
             says="your order begins with the most FLOPs",
             next="order goes from the fewest to the most"),
        edit('flops["standard"] / flops["linformer"]', "n / rank",
             says="your gain is the ratio of the scores, n / rank",
             next="the gain in FLOPs is standard over linformer"),
    ],
    alternatives=[budget_by_products, budget_by_costs],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# n = 4096, d = 768, rank 256: 5.4 times fewer operations in its text (C246), 8 times in its
# exercise (C404); chapter V has 16, the ratio of scores (C092). It is 8. With
# projections held, memory falls by 4.7. It ranks the window's accuracy first; the text decides
# (C405).
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/06_low_rank.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
