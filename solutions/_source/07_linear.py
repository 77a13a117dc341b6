# %% [markdown]
# # 07 Exercises: linear attention and the Performer
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("07.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# φ is a feature map, m its number of features. Softmax attention has the scores q·k/√D. One
# multiply-add is 2 FLOPs. Leading axes, written `...`, are free. Results have the dtype of q.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton  # for 07.5

# %% role="spec"
"""What the specs of this chapter share."""

import numpy as np

from attncourse.cost import Cost
from attncourse.grading.spec import TILE_SIZES
from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv
from attncourse.reference import full, linear, performer

MEMORY = Memory(
    qkv("n = 4096", (4096, 64)),
    8 * 4096 * 64 * 4,
    "eight arrays as large as q: 8 · n · D · 4 bytes",
)
PHI = "np.exp(np.minimum(x, 0)) + np.maximum(x, 0)"


def arrays(name, *shapes, dtype=np.float32, change=lambda *made: made):
    """Return a maker of a case of standard normal arrays, which `change` may alter as float64."""

    def make(rng):
        made = change(*(rng.standard_normal(shape) for shape in shapes))
        return case(name, *(array.astype(dtype) for array in made))

    return make


def attention_case(name, n, change):
    """Return a maker of a case of n tokens, D = 4, whose q and k are altered."""
    return arrays(name, *[(n, 4)] * 3, change=lambda q, k, v: (*change(q, k), v))


def random_sizes(names, low, high, shapes, dtype=np.float32):
    """Return a maker of a case of random sizes, from which `shapes` makes those of the arrays."""

    def make(rng):
        sizes = rng.integers(low, high).tolist()
        return arrays(f"random, {names} = {tuple(sizes)}", *shapes(*sizes), dtype=dtype)(rng)

    return make


def longer(x):
    """Make row 1 eight times longer."""
    x[..., 1, :] *= 8
    return x


def phi(x):
    """Return elu(x) + 1."""
    return np.exp(np.minimum(x, 0)) + np.maximum(x, 0)


def with_ones(v):
    """Let a column of ones beside v collect the normaliser."""
    return np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)


def normalised(scores, v):
    """Average v with whole rows of scores; a row of zeros gives zeros."""
    total = scores.sum(axis=-1, keepdims=True)
    return (scores / np.where(total == 0, 1, total)) @ v


# %% [markdown] role="prompt" exercise="07.1"
# ## 07.1 Where to put the brackets
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/07_linear.ipynb#Move-the-brackets)
#
# (φ(Q) φ(K)ᵀ) V or φ(Q) (φ(K)ᵀ V)? Q has `n_queries` rows, K and V have `n_keys`, φ gives
# `features` numbers, V is `value_width` wide. No normaliser; φ itself is free.

# %% [markdown] role="prompt" exercise="07.1"
# Return a dict of ints: `left_flops`, `right_flops`, of both products; `left_numbers`,
# `right_numbers`, the size of what stands in brackets; `crossover`, the smallest n with n queries
# and n keys for which right takes strictly fewer FLOPs, whatever the given lengths.
#
# `bracket_costs(3, 5, 2, 4)`: 180, 128, 15, 8, 3.


# %% role="answer" exercise="07.1"
def bracket_costs(n_queries, n_keys, features, value_width):
    """Return five ints for both ways to put the brackets."""
    # BEGIN SOLUTION
    m, width = features, value_width
    return {
        "left_flops": 2 * n_queries * n_keys * (m + width),
        "right_flops": 2 * m * width * (n_keys + n_queries),
        "left_numbers": n_queries * n_keys,
        "right_numbers": m * width,
        "crossover": 2 * m * width // (m + width) + 1,
    }
    # END SOLUTION


# %% role="check" exercise="07.1"
check("07.1")

# %% [markdown] role="hints" exercise="07.1"
# 1. A product of (a, b) and (b, c) takes a·b·c multiply-adds, and one is 2 FLOPs. Write the shapes
#    of all four products.
# 2. Left: (Tq, m)(m, Tk), then (Tq, Tk)(Tk, Dv). Right: (m, Tk)(Tk, Dv), then (Tq, m)(m, Dv).
# 3. With n queries and n keys right is cheaper if 2·m·Dv < n·(m + Dv). The first such n is
#    2·m·Dv // (m + Dv) + 1.

# %% role="spec" exercise="07.1"
CROSSOVER = "2 * m * width // (m + width) + 1"


def costs_by_search(n_queries, n_keys, features, value_width):
    def left(t, s):
        return 2 * t * s * features + 2 * t * s * value_width

    def right(t, s):
        return 2 * s * features * value_width + 2 * t * features * value_width

    low, high = 0, features + value_width  # left is not dearer at low, and is at high
    while high - low > 1:
        middle = (low + high) // 2
        if left(middle, middle) > right(middle, middle):
            high = middle
        else:
            low = middle
    return {
        "right_flops": right(n_queries, n_keys),
        "left_flops": left(n_queries, n_keys),
        "right_numbers": features * value_width,
        "left_numbers": n_queries * n_keys,
        "crossover": high,
    }


Spec(
    kind="number",
    cases=[
        case("all sizes 1", 1, 1, 1, 1),
        case("2 queries, 3 keys, 5 features, values of 7", 2, 3, 5, 7),
        case("1 query, 5 keys", 1, 5, 2, 3),
        case("5 queries, 1 key", 5, 1, 2, 3),
        case("features as wide as values", 8, 8, 4, 4),
        case("more features than tokens", 3, 3, 64, 5),
        case("values of one number", 6, 7, 8, 1),
        case("n = 4096, 64 features", 4096, 4096, 64, 64),
        case("n = 10⁹", 10**9, 10**9, 256, 64),
        *draws(5, lambda rng: rng.integers(1, (500, 500, 300, 129))),
    ],
    mistakes=[
        edit(": 2 * n_queries", ": n_queries", ": 2 * m * width * (n", ": m * width * (n",
             says="your FLOPs are half: you counted multiply-adds",
             next="one multiply-add is 2 FLOPs"),
        edit("n_keys * (m + width)", "n_keys * m",
             says="your left_flops have the scores only: the product with V is missing",
             next="add 2·Tq·Tk·Dv for weights times values"),
        edit("(n_keys + n_queries)", "n_keys",
             says="your right_flops have the state only: each query must still read it",
             next="add 2·Tq·m·Dv for φ(Q) times the state"),
        edit("(n_keys + n_queries)", "2 * n_queries",
             says="your right_flops take as many keys as queries",
             next="the state is a sum over keys, and is read once for each query"),
        edit("value_width", "features",
             says="your counts take values to be as wide as features: n·d'² is right only then",
             next="use value_width wherever V takes part"),
        edit(CROSSOVER, "-(-2 * m * width // (m + width))",
             says="your crossover is where both cost the same or right is cheaper",
             next="asked is the first n at which right is strictly cheaper"),
        edit(CROSSOVER, "m + 1",
             says="your crossover is n = m + 1, which is right only if values are as wide as "
             "features",
             next="solve 2·m·Dv·(n + n) < 2·n·n·(m + Dv) for n"),
        edit('right_numbers": m * width', 'right_numbers": m * (n_keys + width)',
             says="your right_numbers count the features of all keys as well",
             next="the intermediate result is φ(K)ᵀ V alone: its size does not depend on n"),
        edit('right_numbers": m * width', 'right_numbers": m * (width + 1)',
             says="your right_numbers have the column of the normaliser",
             next="here only φ(K)ᵀ V is asked"),
    ],
    alternatives=[
        costs_by_search,
        edit("2 * n_queries * n_keys * (m + width)",
             "2 * (n_queries * m * n_keys + n_queries * n_keys * width)",
             CROSSOVER, "-(-(2 * m * width + 1) // (m + width))"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.2"
# ## 07.2 Linear attention
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/07_linear.ipynb#Another-similarity)
#
# Row i is φ(q_i) Σ_j φ(k_j)ᵀ v_j, divided by φ(q_i) · Σ_j φ(k_j), with φ(x) = elu(x) + 1: exp(x)
# below 0, x + 1 above. q is `(..., Tq, D)`, k `(..., Tk, D)`, v `(..., Tk, Dv)`. Not causal; add
# nothing to the normaliser.

# %% [markdown] role="prompt" exercise="07.2"
# With one key, for example, every row of the result is its value.
#
# **Memory limit** at n = 4096, D = 64, float32: eight arrays as large as q, 8 MiB. A 4096 × 4096
# array does not fit, not even of booleans.


# %% role="answer" exercise="07.2"
def linear_attention(q, k, v):
    """Return linear attention with elu + 1, (..., Tq, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    phi_q, phi_k = (np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q, k))
    seen = phi_q @ (phi_k.swapaxes(-1, -2) @ v)
    return seen / (phi_q @ phi_k.sum(axis=-2)[..., None])
    # END SOLUTION


# %% role="check" exercise="07.2"
check("07.2")

# %% [markdown] role="hints" exercise="07.2"
# 1. φ(x) = elu(x) + 1 is exp(x) below zero and x + 1 above. Apply it to q and to k; then two
#    products, with the brackets on the right.
# 2. The normaliser of query i is φ(q_i) · Σ_j φ(k_j): sum φ(k) over the keys first.
# 3. phi_q @ (phi_k.swapaxes(-1, -2) @ v) / (phi_q @ phi_k.sum(axis=-2)[..., None]), with phi =
#    np.exp(np.minimum(x, 0)) + np.maximum(x, 0).

# %% role="spec" exercise="07.2"
TOTAL = "(phi_q @ phi_k.sum(axis=-2)[..., None])"


def linear_by_ones(q, k, v):
    state = np.einsum("...tf,...te->...fe", phi(k), with_ones(v), optimize=True)
    seen = np.einsum("...tf,...fe->...te", phi(q), state, optimize=True)
    return seen[..., :-1] / seen[..., -1:]


def linear_by_blocks(q, k, v):
    """Add up one block of keys after the other, then read with one block of queries."""
    state, out = 0, np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    for start in range(0, k.shape[-2], 50):
        rows = slice(start, start + 50)
        features = phi(k[..., rows, :].astype(np.float64))
        state = state + features.swapaxes(-1, -2) @ with_ones(v[..., rows, :])
    for start in range(0, q.shape[-2], 50):
        seen = phi(q[..., start : start + 50, :].astype(np.float64)) @ state
        out[..., start : start + 50, :] = seen[..., :-1] / seen[..., -1:]
    return out


Spec(
    kind="array",
    exponents=lambda q, k, v: 0.0,
    reference=lambda q, k, v: linear.attention(q, k, v),
    cases=[
        qkv("1 query, 2 keys, D = 1", (1, 1), keys=2),
        qkv("7 tokens", (7, 3)),
        qkv("fewer queries than keys", (3, 5), keys=11),
        qkv("more queries than keys", (11, 5), keys=3),
        qkv("Dv ≠ D", (6, 5), value_width=7),
        qkv("2 batches, 3 heads", (2, 3, 7, 5), keys=11),
        attention_case("inputs shifted down by 12", 6, lambda q, k: (q - 12, k - 12)),
        attention_case("inputs shifted up by 200", 6, lambda q, k: (q + 200, k + 200)),
        attention_case("one key eight times longer", 6, lambda q, k: (q, longer(k))),
        qkv("float64", (11, 5), keys=12, dtype=np.float64),
        qkv("200 queries, 2 keys", (200, 5), keys=2),
        qkv("2 queries, 200 keys", (2, 5), keys=200),
        qkv("100 tokens", (100, 16)),
        random_sizes("Tq, Tk, D", 2, (90, 90, 20), lambda t, s, d: ((t, d), (s, d), (s, d))),
    ],
    memory=MEMORY,  # two feature arrays, the result and what np.where takes fit
    mistakes=[
        Mistake(lambda q, k, v: normalised(phi(q) @ phi(k).swapaxes(-1, -2), v),
                says="your numbers are right, but all n × n similarities exist at once",
                next="multiply φ(k)ᵀ and v first: their product has D × Dv numbers"),
        edit(" / " + TOTAL, "",
             says="your rows are not divided by their normaliser",
             next="divide row i by φ(q_i) · Σ_j φ(k_j)"),
        edit(TOTAL, "k.shape[-2]",
             says="your rows are divided by the number of keys",
             next="the weights of a row sum to φ(q_i) · Σ_j φ(k_j), not to n"),
        edit(" / " + TOTAL, "", "@ v", "@ (v / (phi_k @ phi_q.sum(axis=-2)[..., None]))",
             says="your weights sum to 1 over the queries, not over the keys",
             next="sum φ(k) over the keys, and divide each query's row"),
        edit("[..., None])", "[..., None] + 1e-6)",
             says="your normaliser has 1e-6 added: where features are small, the output shrinks",
             next="divide by the sum as it is"),
        edit(PHI, PHI + " - 1",
             says="your features are elu(x), which goes down to -1: weights become negative",
             next="add 1: elu(x) + 1 is exp(x) below zero"),
        edit(PHI, "1 + np.maximum(x, 0)",
             says="your features are 1 for all negative inputs",
             next="below zero elu(x) + 1 is exp(x)"),
        edit(PHI, "np.maximum(x, 0)",
             says="your features are max(x, 0)",
             next="elu(x) + 1 is exp(x) below zero and x + 1 above"),
        edit(PHI, "np.logaddexp(0, x)",
             says="your features are softplus: log(1 + exp(x))",
             next="elu(x) + 1 is exp(x) below zero and x + 1 above; softplus only resembles it"),
        edit(PHI, "np.exp(x)",
             says="your features are exp(x) above zero, too",
             next="above zero elu(x) + 1 is x + 1"),
        edit("in (q, k)", "in (q / q.shape[-1] ** 0.25, k / q.shape[-1] ** 0.25)",
             says="your q and k are divided by D^¼, as for a softmax",
             next="elu + 1 is applied to q and k as they are"),
        Mistake(lambda q, k, v: full.attention(q, k, v),
                says="your output is that of softmax attention",
                next="replace exp(q·k/√D) by φ(q)·φ(k)"),
    ],
    alternatives=[
        linear_by_ones,
        linear_by_blocks,
        edit(PHI, "np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.3"
# ## 07.3 Causal, with a state
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/07_linear.ipynb#In-chunks)
#
# The same, causal: query i sees the keys 0 … i. q and k are `(..., n, D)`, v is `(..., n, Dv)`.
# Row 0 is always v_0.

# %% [markdown] role="prompt" exercise="07.3"
# **Memory limit** at n = 4096, D = 64, float32: eight arrays as large as q, 8 MiB. A loop over
# tokens fits, and so do chunks. The states of all tokens at once, n·D·(Dv + 1) numbers, take 65
# MiB; all weights 64 MiB.


# %% role="answer" exercise="07.3"
def causal_linear(q, k, v):
    """Return causal linear attention with elu + 1, (..., n, Dv) in the dtype of q."""
    # BEGIN SOLUTION
    chunk, n = 64, q.shape[-2]
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    state = np.zeros((*q.shape[:-2], q.shape[-1], v.shape[-1] + 1), q.dtype)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        phi_q, phi_k = (
            np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q[..., rows, :], k[..., rows, :])
        )
        values = np.concatenate([v[..., rows, :], np.ones_like(v[..., rows, :1])], axis=-1)
        seen = phi_q @ state + np.tril(phi_q @ phi_k.swapaxes(-1, -2)) @ values
        out[..., rows, :] = seen[..., :-1] / seen[..., -1:]
        state = state + phi_k.swapaxes(-1, -2) @ values
    return out
    # END SOLUTION


# %% role="check" exercise="07.3"
check("07.3")

# %% [markdown] role="hints" exercise="07.3"
# 1. Query i needs Σ φ(k_j) [v_j, 1]ᵀ over j ≤ i. Keep that sum while you walk, and never keep more
#    than one of it.
# 2. Walk in chunks. A query sees the state of all earlier chunks, and in its own chunk the lower
#    triangle of scores, its own key included. Then the chunk joins the state.
# 3. seen = phi_q @ state + np.tril(phi_q @ phi_k.swapaxes(-1, -2)) @ values, with values = [v, 1];
#    then state = state + phi_k.swapaxes(-1, -2) @ values; divide by seen[..., -1:].


# %% role="spec" exercise="07.3"
def causal_by_tokens(q, k, v):
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    phi_q, phi_k, values = phi(q), phi(k), with_ones(v)
    state = np.zeros((*q.shape[:-2], q.shape[-1], values.shape[-1]))
    for i in range(q.shape[-2]):
        state += phi_k[..., i, :, None] * values[..., i, None, :]
        seen = (phi_q[..., i, None, :] @ state)[..., 0, :]
        out[..., i, :] = seen[..., :-1] / seen[..., -1:]
    return out


def causal_by_sums(length):
    """Hold all states of `length` tokens at a time."""

    def attention(q, k, v):
        out, state = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype), 0
        for start in range(0, q.shape[-2], length):
            rows = slice(start, start + length)
            steps = phi(k[..., rows, :])[..., None] * with_ones(v[..., rows, :])[..., None, :]
            steps[..., 0, :, :] += state
            states = np.cumsum(steps, axis=-3)
            seen = (phi(q[..., rows, :])[..., None, :] @ states)[..., 0, :]
            out[..., rows, :] = seen[..., :-1] / seen[..., -1:]
            state = states[..., -1, :, :]
        return out

    return attention


Spec(
    kind="array",
    exponents=lambda q, k, v: 0.0,
    reference=lambda q, k, v: linear.attention(q, k, v, causal=True),
    cases=[
        qkv("1 token", (1, 3)),
        qkv("2 tokens", (2, 3)),
        qkv("17 tokens", (17, 5)),
        qkv("Dv ≠ D", (9, 5), value_width=7),
        qkv("128 tokens", (128, 8)),
        qkv("131 tokens", (131, 8)),
        qkv("2 batches, 3 heads", (2, 3, 70, 5)),
        attention_case("inputs shifted down by 12", 40, lambda q, k: (q - 12, k - 12)),
        qkv("float64", (100, 5), dtype=np.float64),
        random_sizes("n, D", (130, 2), (200, 20), lambda n, d: [(n, d)] * 3),
    ],
    memory=MEMORY,  # all states at once: n·D·(Dv + 1) numbers, 65 MiB; all weights: 64 MiB
    mistakes=[
        Mistake(causal_by_sums(10**9),
                says="your numbers are right, but a cumulative sum holds the state of every token: "
                "n·D·(Dv + 1) numbers",
                next="keep one state, and add to it while you walk"),
        edit("64", "q.shape[-2]",
             says="your numbers are right, but the whole n × n matrix exists at once",
             next="make the triangle of one chunk at a time; what is before it comes from the "
             "state"),
        Mistake(lambda q, k, v: linear.attention(q, k, v),
                says="your queries see all keys, later ones too",
                next="query i sees keys 0 … i"),
        edit("/ seen[..., -1:]", "/ (phi_q @ "
             "(np.exp(np.minimum(k, 0)) + np.maximum(k, 0)).sum(axis=-2)[..., None])",
             says="your normaliser sums over all keys, the later ones too",
             next="numerator and normaliser sum over the same keys: a column of ones in v does "
             "both"),
        edit("np.tril", "",
             says="your queries see all of their own chunk, later keys too",
             next="in its own chunk a query sees the lower triangle only"),
        edit("phi_q @ state", "phi_q @ (state + phi_k.swapaxes(-1, -2) @ values)",
             says="your chunk joins the state before its queries read it, and is counted twice",
             next="read the state first, then add the chunk to it"),
        edit("-2)) @ values", "-2), -1) @ values",
             says="your queries do not see their own key: the first one sees nothing",
             next="the diagonal belongs to the triangle"),
        edit("state = state + phi_k", "state = phi_k",
             says="your state is replaced by each chunk: the ones before it are forgotten",
             next="add the chunk to the state: state = state + φ(k)ᵀ @ values"),
        edit("phi_q @ state + ", "",
             says="your queries see their own chunk only",
             next="add φ(q) @ state, the sum over all earlier chunks"),
        edit(" + np.tril(phi_q @ phi_k.swapaxes(-1, -2)) @ values", "",
             says="your queries see the earlier chunks only, and those of the first chunk nothing",
             next="add the lower triangle of the own chunk's scores times its values"),
        edit("np.empty", "np.zeros", "(0, n,", "(0, n // chunk * chunk,",
             says="your loop ends with the last full chunk: the rest stays zero",
             next="let the last chunk be shorter: slices may end beyond n"),
    ],
    alternatives=[causal_by_tokens, causal_by_sums(16)],
    variants=[edit("64", str(size)) for size in TILE_SIZES if size != 64 and size < 130],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.4"
# ## 07.4 Positive random features
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/07_performer.ipynb#Positive-features)
#
# φ(x), one feature for each row w of `directions` `(m, D)`, so that over random directions φ(q) ·
# φ(k) is exp(q·k/√D) on average. x is `(..., T, D)`, the result `(..., T, m)`, in the dtype of x.

# %% [markdown] role="prompt" exercise="07.4"
# `positive_features(np.array([[2.0]]), np.array([[1.0], [0.0], [2.0], [-1.0]]))`, with D = 1, is
# `[[0.5, 0.067…, 3.694…, 0.009…]]`. Where the result is a fair number, nothing may overflow on the
# way to it.


# %% role="answer" exercise="07.4"
def positive_features(x, directions):
    """Return the positive random features of x, (..., T, m)."""
    # BEGIN SOLUTION
    m, width = directions.shape
    small = x / x.dtype.type(width**0.25)
    exponents = small @ directions.T - np.square(small).sum(axis=-1, keepdims=True) / 2
    return np.exp(exponents) / x.dtype.type(m**0.5)
    # END SOLUTION


# %% role="check" exercise="07.4"
check("07.4")

# %% [markdown] role="hints" exercise="07.4"
# 1. Start from E exp(w·z) = exp(|z|²/2) with z = q + k. What must be taken off so that only q·k is
#    left? And where does √D go?
# 2. φ(x) = exp(w·x - |x|²/2) / √m gives exp(q·k). For exp(q·k/√D) put x / D^¼ for x, in both
#    places.
# 3. small = x / width**0.25; np.exp(small @ directions.T - (small**2).sum(-1, keepdims=True) / 2) /
#    m**0.5: one exponential of the whole exponent.

# %% role="spec" exercise="07.4"
SQUARE = "np.square(small).sum(axis=-1, keepdims=True) / 2"


def features_by_directions(x, directions):
    m, width = directions.shape
    small = x / x.dtype.type(width**0.25)
    half = np.square(small).sum(axis=-1) / 2
    columns = [np.exp((small * w).sum(axis=-1) - half) for w in directions]
    return np.stack(columns, axis=-1) / x.dtype.type(m**0.5)


def features_by_distances(x, directions):
    """Complete the square: w·x - |x|²/2 is (|w|² - |w - x|²) / 2."""
    m, width = directions.shape
    small, w = (x / width**0.25).astype(np.float64), directions.astype(np.float64)
    apart = np.square(small[..., None, :] - w).sum(axis=-1)
    return (np.exp((np.square(w).sum(axis=-1) - apart) / 2) / m**0.5).astype(x.dtype)


Spec(
    kind="array",
    reference=lambda x, directions: performer.feature_map(x, directions),
    cases=[
        arrays("1 token, D = 1, 1 direction", (1, 1), (1, 1)),
        arrays("2 tokens, D = 3, 5 directions", (2, 3), (5, 3)),
        case("x of length 12: two large exponents nearly cancel",
             np.array([[12.0]], np.float32), np.array([[12.0], [6.0]], np.float32)),
        arrays("D = 16", (4, 16), (8, 16)),
        arrays("more directions than D", (4, 3), (20, 3)),
        arrays("2 batches, 3 heads", (2, 3, 5, 4), (7, 4)),
        arrays("short vectors", (6, 8), (12, 8), change=lambda x, w: (x / 10, w)),
        arrays("one token eight times longer", (6, 8), (12, 8), change=lambda x, w: (longer(x), w)),
        arrays("float64", (6, 8), (12, 8), dtype=np.float64),
        random_sizes("n, D, m", 2, (40, 30, 50), lambda n, d, m: ((n, d), (m, d))),
    ],
    mistakes=[
        edit("0.25", "0.5", " - " + SQUARE, "",
             says="your features are exp(w·x/√D) / √m, the textbook's: they lead to another "
             "attention",
             next="divide x by D^¼ and multiply by exp(-|x|²/2)"),
        edit(" - " + SQUARE, "",
             says="your features lack the factor exp(-|x|²/2√D): long keys get a bonus",
             next="subtract half the square of the divided x inside the exponential"),
        edit("np.square(small)", "np.square(x)",
             says="your |x|²/2 is that of x before it was divided by D^¼",
             next="divide x first, and use the divided x in both places"),
        edit("np.square(small)", "np.square(x / width**0.5)",
             says="your |x|²/2 is divided by D instead of √D",
             next="x / D^¼ has the square |x|²/√D"),
        edit("0.25", "0.5",
             says="your x is divided by √D: q and k both are, so that the scores become q·k/D",
             next="each of q and k takes half of 1/√D: divide x by D^¼"),
        edit("x / x.dtype.type(width**0.25)", "x",
             says="your features estimate exp(q·k), without 1/√D",
             next="divide x by D^¼ first"),
        edit("T - np", "T + np",
             says="your factor is exp(+|x|²/2), which belongs to sines and cosines",
             next="positive features have exp(-|x|²/2)"),
        edit(" / x.dtype.type(m**0.5)", "",
             says="your features lack 1/√m: their product is a sum over directions, not an average",
             next="divide by the square root of the number of directions"),
        edit("m**0.5", "m",
             says="your features are divided by m: their product by m²",
             next="each of the two factors takes 1/√m"),
        edit("np.exp(exponents)", f"np.exp(small @ directions.T) * np.exp(-{SQUARE})",
             says="your two exponentials overflow and vanish, where their product is a fair number",
             next="add the exponents first, then take one exponential"),
        edit("np.exp(exponents)", f"np.cos(small @ directions.T) * np.exp({SQUARE})",
             says="your features are the cosine half of the trigonometric ones",
             next="positive features are exponentials of w·x"),
    ],
    alternatives=[features_by_directions, features_by_distances],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.5"
# ## 07.5 The walk of a Triton kernel
#
# *25 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/07_linear.ipynb#The-kernel-tile-by-tile)
#
# Causal linear attention: one program a head walks over the chunks. Compute `acc` `[BLOCK, D]` and
# `total` `[BLOCK]`, numerator and normaliser of the chunk's queries, and keep `state` and `norm`
# up to date. Inputs are `(H, n, D)` float32, contiguous: features already.

# %% [markdown] role="prompt" exercise="07.5"
# **Traffic limit**: each element of q, k and v loaded once, each of the result stored once. Write
# `input_precision="ieee"` in each `tl.dot`. Rows beyond n are zeros.
#
# Example: with one token, `acc` is (φ(q)·φ(k)) v, `total` is φ(q)·φ(k), and the result is v.


# %% role="answer" exercise="07.5"
@triton.jit
def scan_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D: tl.constexpr, BLOCK: tl.constexpr):
    head = tl.program_id(0)
    cols = tl.arange(0, D)
    state = tl.zeros((D, D), tl.float32)  # sum of φ(k) vᵀ
    norm = tl.zeros((D,), tl.float32)  # sum of φ(k)
    for first in range(0, n, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        at_rows = head * n * D + rows[:, None] * D + cols[None, :]  # [BLOCK, D]
        in_rows = rows[:, None] < n
        phi_q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
        phi_k = tl.load(k_ptr + at_rows, mask=in_rows, other=0.0)
        v = tl.load(v_ptr + at_rows, mask=in_rows, other=0.0)
        # BEGIN SOLUTION
        own = tl.dot(phi_q, tl.trans(phi_k), input_precision="ieee")  # [BLOCK, BLOCK]
        own = tl.where(rows[:, None] >= rows[None, :], own, 0.0)
        acc = tl.dot(phi_q, state, input_precision="ieee")
        acc += tl.dot(own, v, input_precision="ieee")
        total = tl.sum(phi_q * norm[None, :], 1) + tl.sum(own, 1)
        state += tl.dot(tl.trans(phi_k), v, input_precision="ieee")
        norm += tl.sum(phi_k, 0)
        # END SOLUTION
        total = tl.where(total == 0.0, 1.0, total)
        tl.store(out_ptr + at_rows, acc / total[:, None], mask=in_rows)


def launch_scan(phi_q, phi_k, v):
    """Return causal linear attention, (H, n, D)."""
    heads, n, D = phi_q.shape
    out = torch.empty_like(v)
    scan_kernel[(heads,)](phi_q, phi_k, v, out, n, D=D, BLOCK=16)
    return out


# %% role="check" exercise="07.5"
check("07.5")

# %% [markdown] role="hints" exercise="07.5"
# 1. For one chunk: what comes from `state` and `norm`, what from the chunk itself, and what must be
#    added to `state` and `norm` for the next one? In which order?
# 2. acc and total each have two parts: φ(q) times the state (or norm), and the lower triangle of
#    φ(q) φ(k)ᵀ times v (or summed). The chunk joins state and norm last.
# 3. own = tl.where(rows[:, None] >= rows[None, :], tl.dot(phi_q, tl.trans(phi_k)), 0.0); total =
#    tl.sum(phi_q * norm[None, :], 1) + tl.sum(own, 1); state += tl.dot(tl.trans(phi_k), v).

# %% role="spec" exercise="07.5"
MASKED = "tl.where(rows[:, None] >= rows[None, :], own, 0.0)"
JOINED = ["phi_q, state,", 'phi_q, state + tl.dot(tl.trans(phi_k), v, input_precision="ieee"),',
          "norm[None, :]", "(norm + tl.sum(phi_k, 0))[None, :]"]  # fmt: skip
AGAIN = """\
        state *= 0.0
        norm *= 0.0
        for start in range(0, first, BLOCK):
            back = (first - start) * D
            again = tl.load(k_ptr + at_rows - back)
            values = tl.load(v_ptr + at_rows - back)
            state += tl.dot(tl.trans(again), values, input_precision="ieee")
            norm += tl.sum(again, 0)
"""


def features(name, heads, n, width=16):
    return arrays(name, *[(heads, n, width)] * 3, change=lambda q, k, v: (phi(q), phi(k), v))


def random_length(rng):
    n = int(rng.integers(34, 64))
    return features(f"random, n = {n}", 1, n)(rng)


def scan_traffic(call):
    """Return the most that the kernel may load and store: each tile of q, k, v and out once."""
    v = call.args[2]
    return Cost(4 * v.size * (v.shape[-1] + 16), 3 * v.nbytes, v.nbytes, v.nbytes)


Spec(
    kind="kernel",
    reference=lambda phi_q, phi_k, v: normalised(np.tril(phi_q @ phi_k.swapaxes(-1, -2)), v),
    tolerance=3e-5,  # right too: add the whole chunk, and take what is not seen off again
    cases=[
        features("1 token", 1, 1),
        features("one chunk", 1, 16),
        features("two chunks", 1, 32),
        features("odd length", 1, 45),
        features("3 heads", 3, 20),
        features("D = 32", 1, 40, 32),
        random_length,
    ],
    traffic=scan_traffic,
    timed=features("256 heads, n = 4096", 256, 4096, 64),
    seconds=20.0,
    mistakes=[
        edit("        acc = ", AGAIN + "        acc = ",
             says="your program loads all earlier chunks again for each chunk: traffic grows with "
             "n²",
             next="what earlier chunks give is in state and norm: load each chunk once"),
        edit(*JOINED,
             says="your chunk joins the state before its queries read it, and is counted twice",
             next="read state and norm first, then add the chunk"),
        edit(MASKED, "own + 0.0",
             says="your queries see all keys of their own chunk, later ones too",
             next="mask the chunk's own scores: rows[:, None] >= rows[None, :]"),
        edit(">=", ">",
             says="your queries do not see their own key",
             next="compare with >=, not with >"),
        edit('tl.dot(phi_q, state, input_precision="ieee")', "tl.zeros((BLOCK, D), tl.float32)",
             "tl.sum(phi_q * norm[None, :], 1) + ", "",
             says="your queries see their own chunk only",
             next="add φ(q) @ state to acc, and φ(q) · norm to total"),
        edit("state +=", "state =", "norm +=", "norm =",
             says="your state holds the chunk before only: it is replaced, not added to",
             next="state and norm are running sums: use +="),
        edit(" + tl.sum(own, 1)", "",
             says="your normaliser leaves out the chunk's own keys",
             next="add the row sums of the masked scores to total"),
        edit("tl.dot(tl.trans(phi_k), v,", "tl.dot(tl.trans(v), phi_k,",
             says="your state is transposed: vᵀ φ(k) instead of φ(k)ᵀ v",
             next="rows of the state are features, columns are those of v"),
        edit(">=", "<=",
             says="your mask is the wrong way round: in its own chunk a query sees later keys only",
             next="keep the scores where rows[:, None] >= rows[None, :]"),
        edit("tl.sum(phi_q * norm[None, :], 1) + ", "",
             says="your normaliser has the chunk's own keys only: norm is missing",
             next="start total with the sum of phi_q * norm[None, :] over the features"),
        edit("phi_q * norm[None, :]", "phi_q",
             says="your normaliser adds the sum of the query's features, without norm",
             next="weight each feature of the query with that of norm: phi_q * norm[None, :]"),
        edit("tl.sum(phi_q * norm[None, :], 1) + tl.sum(own, 1)", "tl.sum(phi_q, 1)",
             says="your rows are divided by the sum of the query's features",
             next="the normaliser is φ(q_i) · Σ_j φ(k_j): from norm, and from the chunk's own "
             "keys"),
        edit("tl.dot(tl.trans(phi_k), v", "tl.dot(phi_k, v",
             says="your state is φ(k) v instead of φ(k)ᵀ v: tl.trans is missing",
             next="add tl.dot(tl.trans(phi_k), v) to the state"),
        edit("phi_q, tl.trans(phi_k)", "phi_q, phi_k",
             says="your scores are φ(q) φ(k) instead of φ(q) φ(k)ᵀ: tl.trans is missing",
             next="multiply with tl.trans(phi_k)"),
    ],
    alternatives=[
        edit(*JOINED, ">=", "<", "acc += tl", "acc -= tl", "+ tl.sum(own", "- tl.sum(own"),
        edit(MASKED, "own * (rows[:, None] >= rows[None, :]).to(tl.float32)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.6"
# ## 07.6 Find two bugs in a Performer
#
# *15 minutes · difficulty 3 of 3 · 3 points*
# · [section](../notebooks/07_performer.ipynb#Large-exponents)
#
# It should estimate softmax attention with positive features, and not overflow for long vectors.
# One bug is in a division, the other in a maximum. Copy the code into the answer cell and repair
# it. Random directions come as `directions` `(m, D)`.


# %% role="prompt" exercise="07.6"
def broken_performer(q, k, v, directions):
    def exponents(x):
        x = x / x.dtype.type(x.shape[-1] ** 0.5)
        return x @ directions.T - np.square(x).sum(axis=-1, keepdims=True) / 2

    of_q, of_k = exponents(q), exponents(k)
    phi_q = np.exp(of_q - of_q.max(axis=-1, keepdims=True))
    phi_k = np.exp(of_k - of_k.max(axis=-1, keepdims=True))
    values = np.column_stack([v, np.ones(len(v), v.dtype)])
    seen = phi_q @ (phi_k.T @ values)
    return seen[:, :-1] / seen[:, -1:]


# %% role="answer" exercise="07.6"
def repaired_performer(q, k, v, directions):
    """Return attention with positive features for q (Tq, D), k (Tk, D), v (Tk, Dv): (Tq, Dv)."""

    # BEGIN SOLUTION
    def exponents(x):
        x = x / x.dtype.type(x.shape[-1] ** 0.25)
        return x @ directions.T - np.square(x).sum(axis=-1, keepdims=True) / 2

    of_q, of_k = exponents(q), exponents(k)
    phi_q = np.exp(of_q - of_q.max(axis=-1, keepdims=True))
    phi_k = np.exp(of_k - of_k.max())
    values = np.column_stack([v, np.ones(len(v), v.dtype)])
    seen = phi_q @ (phi_k.T @ values)
    return seen[:, :-1] / seen[:, -1:]
    # END SOLUTION


# %% role="check" exercise="07.6"
check("07.6")

# %% [markdown] role="hints" exercise="07.6"
# 1. One bug changes which exponential is estimated, the other which keys count. With keys of one
#    length and many features, only the first would show.
# 2. q and k are both divided, so that the scores are divided twice. And a maximum may be taken off
#    only if it is the same for everything that is compared: whose weights are compared with whose?
# 3. Divide by D^¼. Keep the maximum of each query; but keys are compared with each other, so
#    subtract one maximum, `of_k.max()`, from all of them.

# %% role="spec" exercise="07.6"
OF_QUERY = "of_q.max(axis=-1, keepdims=True)"


def performer_in_logarithms(q, k, v, directions):
    """Add up exponents, key by key, as softmax would: exact whatever the range."""
    of_q, of_k = (
        small @ directions.T.astype(np.float64) - np.square(small).sum(axis=-1, keepdims=True) / 2
        for small in (x.astype(np.float64) / q.shape[-1] ** 0.25 for x in (q, k))
    )
    together = of_q[:, None, :] + of_k[None, :, :]
    weights = np.exp(together - together.max(axis=(1, 2), keepdims=True)).sum(axis=-1)
    return normalised(weights, v).astype(q.dtype)


def performer_in_float32(q, k, v, directions):
    """Take the softmax of the logarithm of each pair's weight, in the dtype that came."""
    small = [x / x.dtype.type(x.shape[-1] ** 0.25) for x in (q, k)]
    of_q, of_k = (x @ directions.T - np.square(x).sum(-1, keepdims=True) / 2 for x in small)
    pairs = np.logaddexp.reduce(of_q[:, None] + of_k, axis=-1)
    return np.exp(pairs - np.logaddexp.reduce(pairs, axis=-1, keepdims=True)) @ v


def sizes(n_queries, n_keys, width, m):
    return (n_queries, width), (n_keys, width), (n_keys, 5), (m, width)


def lengths(name, of_q, of_k, width=4):
    """Give all one length, or each its own; for long vectors e^(w·x - |x|²/2) is tiny."""

    def change(q, k, *rest):
        q, k = (
            x / np.linalg.norm(x, axis=1, keepdims=True) * np.reshape(length, (-1, 1))
            for x, length in ((q, of_q), (k, of_k))
        )
        return q * width**0.25, k * width**0.25, *rest

    return arrays(name, *sizes(6, 40, width, 64), change=change)


Spec(
    kind="array",
    exponents=lambda q, k, *_: np.square(np.concatenate([q, k])).sum(-1) / q.shape[-1] ** 0.5,
    cases=[
        arrays("1 query, 2 keys", *sizes(1, 2, 2, 3)),
        arrays("3 queries, 5 keys", *sizes(3, 5, 7, 11)),
        arrays("more queries than keys", *sizes(9, 3, 4, 16)),
        lengths("short vectors", 0.1, 0.2),
        lengths("long keys", 1, 24),
        lengths("long queries", 24, 1),
        lengths("one query eight times longer than the others", [3, 24, 3, 3, 3, 3], 1),
        lengths("keys of all lengths", 1, np.linspace(0.1, 20, 40)),
        arrays("200 queries, 2 keys", *sizes(200, 2, 5, 16)),
        arrays("2 queries, 200 keys", *sizes(2, 200, 5, 16)),
        arrays("D = 16", *sizes(20, 20, 16, 64)),
        arrays("float64", *sizes(12, 12, 6, 30), dtype=np.float64),
        random_sizes("Tq, Tk, D, m", (5, 5, 3, 10), (60, 60, 12, 60), sizes),
    ],
    mistakes=[
        edit("0.25", "0.5", "of_k.max()", "of_k.max(axis=-1, keepdims=True)",
             says="both bugs are still there: your output is that of the given code",
             next="look at each division and each maximum, and ask what cancels"),
        edit("of_k.max()", "of_k.max(axis=-1, keepdims=True)",
             says="one bug is left: each key's own maximum is subtracted, and changes its weight",
             next="keys are compared with each other: subtract one number from all of them"),
        edit("0.25", "0.5",
             says="one bug is left: the scores are q·k/D instead of q·k/√D",
             next="q and k each take half of 1/√D"),
        edit(" - of_k.max()", "",
             says="your keys' exponents are raised as they are: those of long vectors all vanish",
             next="subtract the largest exponent of all keys"),
        edit(" - " + OF_QUERY, "",
             says="your queries' exponents are raised as they are: those of long vectors all "
             "vanish",
             next="the maximum of each query was right: it cancels in the quotient"),
        edit(OF_QUERY, "of_q.max()",
             says="your queries share one maximum: beside a short query a long one has only zeros, "
             "0/0",
             next="the maximum of each query was right: it cancels in the quotient"),
        edit("of_k.max()", "of_k.max(axis=0)",
             says="your keys lose a maximum for each feature: features then count unlike",
             next="subtract one number from all exponents of all keys"),
        edit(OF_QUERY, "of_q.max(axis=0)",
             says="your queries lose a maximum for each feature: features then count unlike",
             next="the queries' maximum was right: over the features of one query"),
        edit(" - np.square(x).sum(axis=-1, keepdims=True) / 2", "",
             says="your exponents lack |x|²/2: long keys get a bonus",
             next="the square was right: change the division and one maximum"),
        edit(" / 2", "",
             says="your exponents lose |x|² instead of |x|²/2",
             next="the square was right: change the division and one maximum"),
        edit("x = x / x.dtype.type(x.shape[-1] ** 0.25)", "pass",
             says="your scores are q·k, without 1/√D",
             next="divide q and k by D^¼"),
    ],
    alternatives=[
        performer_in_logarithms,
        performer_in_float32,
        edit("np.column_stack([v, np.ones(len(v), v.dtype)])", "v",
             "seen[:, :-1] / seen[:, -1:]", "seen / (phi_q @ phi_k.sum(axis=0))[:, None]"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="07.V3"
# ## 07.V3 How good is a Performer?
#
# *20 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/07_performer.ipynb#An-error-is-nothing-alone)
#
# A textbook measures a Performer by three numbers, and prints a table of them. Do it with the
# right features, φ(x) as in 07.4, beside the answer that ignores the query. q, k and v are
# `(n, D)` float64, `directions` is `(m, D)`.

# %% [markdown] role="prompt" exercise="07.V3"
# Return a dict: `mse` against softmax attention; `relative`, mse over the mean square of the exact
# output; `cosine` of both outputs, each as one vector; `baseline_mse`, of the mean of v for every
# query; `full_flops`, `performer_flops`, of φ's projections and all other products, without
# normalisers; `speedup`, their ratio.

# %% [markdown] role="prompt" exercise="07.V3"
# With q = [[1.0], [0.0]], k = [[1.0], [-1.0]], v = [[1.0], [0.0]] and directions = [[0.0]]:
# 0.0725…, 0.1413…, 0.9640…, 0.0725…, 16, 16, 1.0. `attncourse.reference` may be used.


# %% role="answer" exercise="07.V3"
def performer_report(q, k, v, directions):
    """Return seven numbers for a Performer with the given directions."""
    # BEGIN SOLUTION
    from attncourse.reference import full, linear, performer

    (n, width), m = q.shape, len(directions)
    exact = full.attention(q, k, v)
    found = linear.attention(q, k, v, feature_map=lambda x: performer.feature_map(x, directions))
    mse = np.square(found - exact).mean()
    return {
        "mse": mse,
        "relative": mse / np.square(exact).mean(),
        "cosine": (found * exact).sum() / np.sqrt(np.square(found).sum() * np.square(exact).sum()),
        "baseline_mse": np.square(v.mean(axis=0) - exact).mean(),
        "full_flops": 4 * n * n * width,
        "performer_flops": 8 * n * m * width,
        "speedup": n / (2 * m),
    }
    # END SOLUTION


# %% role="check" exercise="07.V3"
check("07.V3")

# %% [markdown] role="hints" exercise="07.V3"
# 1. Compute both outputs first: softmax attention, and linear attention with the positive features
#    of the given directions. All errors compare these two arrays as a whole.
# 2. relative is the mse over the mean square of the exact output. The baseline answers every query
#    with v.mean(axis=0). FLOPs: two products of 2·n²·D, or four of 2·n·m·D.
# 3. performer.feature_map(x, directions) and linear.attention(q, k, v, feature_map=...) do the
#    work; cosine = sum(a·b) / sqrt(sum(a²)·sum(b²)); the speedup is n / 2m.

# %% role="spec" exercise="07.V3"
FEATURES = "performer.feature_map(x, directions)"
FOUND = f"linear.attention(q, k, v, feature_map=lambda x: {FEATURES})"
COSINE = "(found * exact).sum() / np.sqrt(np.square(found).sum() * np.square(exact).sum())"


def report_by_matrices(q, k, v, directions):
    (n, width), m = q.shape, len(directions)

    def features(x):
        small = x / width**0.25
        return np.exp(small @ directions.T - (small**2).sum(axis=1, keepdims=True) / 2)

    scores = q @ k.T / np.sqrt(width)
    exact = normalised(np.exp(scores - scores.max(axis=1, keepdims=True)), v)
    found = normalised(features(q) @ features(k).T, v)
    full_products = [(n, width, n), (n, n, width)]
    products = [(n, width, m), (n, width, m), (m, n, width), (n, m, width)]
    dense, cheap = (2 * sum(a * b * c for a, b, c in each) for each in (full_products, products))
    return {
        "speedup": dense / cheap,
        "full_flops": dense,
        "performer_flops": cheap,
        "mse": ((found - exact) ** 2).mean(),
        "relative": ((found - exact) ** 2).sum() / (exact**2).sum(),
        "cosine": exact.ravel() @ found.ravel() / np.linalg.norm(exact) / np.linalg.norm(found),
        "baseline_mse": ((v.mean(axis=0, keepdims=True) - exact) ** 2).mean(),
    }


def report_shapes(n, width, m):
    return *[(n, width)] * 3, (m, width)


def report_case(name, *shape, factor=1.0):
    return arrays(name, *report_shapes(*shape), dtype=np.float64,
                  change=lambda q, k, *rest: (factor * q, factor * k, *rest))  # fmt: skip


Spec(
    kind="number",
    cases=[
        report_case("2 tokens, D = 2, 1 direction", 2, 2, 1),
        report_case("5 tokens", 5, 3, 7),
        report_case("more directions than tokens", 6, 4, 32),
        report_case("inputs × 1/4", 40, 8, 16, factor=0.25),
        report_case("D = 1", 8, 1, 6),
        report_case("the document's d = 64, at n = 128 and m = 64", 128, 64, 64),
        random_sizes("n, D, m", (20, 3, 5), (60, 16, 40), report_shapes, np.float64),
    ],
    mistakes=[
        edit(FEATURES, "np.exp(x @ directions.T / width**0.5)",
             says="your feature map is the textbook's exp(w·x/√D) / √m, which leads elsewhere",
             next="use exp(w·x - |x|²/2) / √m with x divided by D^¼"),
        edit(f"found = {FOUND}", f"phi = lambda x: {FEATURES}\n    found = phi(q) @ (phi(k).T @ v)",
             says="your Performer's rows are not divided by their normaliser",
             next="divide row i by φ(q_i) · Σ_j φ(k_j)"),
        edit("full.attention(q, k, v)", "full.attention(q, k, v, scale=1)",
             says="your exact attention has scores q·k, without 1/√D",
             next="divide the scores by √D before the softmax"),
        edit("v.mean(axis=0) - exact", "exact",
             says="your baseline answers with zeros",
             next="the baseline is the mean of v over the keys, for every query"),
        edit('"mse": mse', '"mse": mse**0.5',
             says="your mse is its own square root",
             next="take the mean of the squared differences"),
        edit("mse / np.square(exact).mean()", "(mse / np.square(exact).mean()) ** 0.5",
             says="your relative error is a ratio of lengths, not of squares",
             next="divide the mse by the mean square of the exact output"),
        edit(COSINE, f"np.mean({COSINE.replace('sum()', 'sum(axis=1)')})",
             says="your cosine is the mean of one cosine for each row",
             next="take all numbers of each output as one long vector"),
        edit("4 * n * n", "2 * n * n", "8 * n", "2 * n", "n / (2 * m)", "n / m",
             says="your FLOPs count one product of each method: the textbook's speedup n/m",
             next="softmax attention has two products, the Performer four"),
        edit("4 * n * n", "2 * n * n", "8 * n", "4 * n",
             says="your FLOPs are half: you counted multiply-adds",
             next="one multiply-add is 2 FLOPs"),
        edit("n / (2 * m)", "2 * m / n",
             says="your speedup is upside down",
             next="divide the FLOPs of softmax attention by the Performer's"),
    ],
    alternatives=[
        report_by_matrices,
        edit(FOUND, FOUND.replace("attention(q, k, v,", "weights(q, k,") + " @ v",
             COSINE, "np.vdot(found, exact) / np.linalg.norm(found) / np.linalg.norm(exact)"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# n = 512, d = 64, m = 256: MSE 0.0012 (C422), cosine 0.9934 (C423). On the chapter's tokens the
# printed code gives 0.0029 and 0.67, the mean of v 0.0034 and 0.60. Speedups of 2.0 (C432) and 16
# at 4096 (C435) compare one product; yours are 1.0 and 8.0.
#
# </details>

# %% [markdown] role="prompt" exercise="07.V9"
# ## 07.V9 Where linear and softmax attention part
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/07_linear.ipynb#Another-similarity)
#
# The *total variation* of two rows of weights is half the sum of their absolute differences. Return
# it for each query: softmax's row against that of φ(x) = elu(x) + 1. q is `(Tq, D)`, k `(Tk, D)`,
# the result `(Tq,)`.

# %% [markdown] role="prompt" exercise="07.V9"
# `row_distances(np.array([[1.0]]), np.array([[0.0], [2.0]]))` is `[0.1307…]`: softmax gives 0.119…
# and 0.880…, linear attention 0.25 and 0.75.


# %% role="answer" exercise="07.V9"
def row_distances(q, k):
    """Return the total variation of both rows of each query, (Tq,)."""
    # BEGIN SOLUTION
    scores = q @ k.T / q.dtype.type(q.shape[1] ** 0.5)
    softmax = np.exp(scores - scores.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    phi_q, phi_k = (np.exp(np.minimum(x, 0)) + np.maximum(x, 0) for x in (q, k))
    linear = phi_q @ phi_k.T
    linear /= linear.sum(axis=1, keepdims=True)
    return np.abs(softmax - linear).sum(axis=1) / 2
    # END SOLUTION


# %% role="check" exercise="07.V9"
check("07.V9")

# %% [markdown] role="hints" exercise="07.V9"
# 1. Make both matrices of weights, (Tq, Tk), each with rows that sum to 1. Then compare them row by
#    row.
# 2. Softmax: exp(q·k/√D) over its row sum, with the row's maximum subtracted first. Linear:
#    φ(q)·φ(k) over its row sum, with φ(x) = elu(x) + 1.
# 3. np.abs(softmax_weights - linear_weights).sum(axis=1) / 2, in the dtype of q.

# %% role="spec" exercise="07.V9"
SUM = "np.abs(softmax - linear).sum(axis=1)"


def distances_by_overlap(q, k):
    """Subtract from 1 what both rows have in common."""
    both = np.minimum(full.weights(q, k), linear.weights(q, k))
    return (1 - both.sum(axis=1, dtype=np.float64)).astype(q.dtype)


def pair(name, n_queries, n_keys, width, factor=1.0, dtype=np.float32):
    return arrays(name, (n_queries, width), (n_keys, width), dtype=dtype,
                  change=lambda q, k: (factor * q, factor * k))  # fmt: skip


Spec(
    kind="array",
    reference=lambda q, k: np.abs(full.weights(q, k) - linear.weights(q, k)).sum(axis=1) / 2,
    cases=[
        pair("1 query, 2 keys", 1, 2, 1),
        pair("1 query, 1 key: no distance", 1, 1, 3),
        pair("3 queries, 7 keys", 3, 7, 5),
        pair("nearly even rows", 5, 7, 4, factor=0.1),
        pair("peaked rows", 5, 7, 4, factor=4.0),
        pair("long vectors", 5, 7, 4, factor=30.0),
        arrays("one query eight times longer", (5, 4), (7, 4), change=lambda q, k: (longer(q), k)),
        pair("100 queries, 2 keys", 100, 2, 5),
        pair("2 queries, 100 keys", 2, 100, 5),
        pair("float64", 6, 9, 5, dtype=np.float64),
        pair("float64, long vectors", 6, 9, 5, factor=30.0, dtype=np.float64),
        random_sizes("Tq, Tk, D", 2, (60, 60, 20), lambda t, s, d: ((t, d), (s, d))),
    ],
    mistakes=[
        edit(SUM + " / 2", SUM,
             says="your distances are twice as large: what one row has too much the other has too "
             "little",
             next="divide the sum of absolute differences by 2"),
        edit("sum(axis=1) / 2", "mean(axis=1)",
             says="your distances are means over the keys, which shrink with their number",
             next="sum the absolute differences of a row, and halve the sum"),
        edit("sum(axis=1) / 2", "max(axis=1)",
             says="your distances look at the key that differs most",
             next="sum the absolute differences of all keys, and halve the sum"),
        edit(SUM + " / 2", "np.linalg.norm(softmax - linear, axis=1)",
             says="your distances are Euclidean",
             next="total variation sums absolute differences, and halves the sum"),
        edit(SUM + " / 2", "(softmax * np.log(np.maximum(softmax, 1e-30) / linear)).sum(axis=1)",
             says="your distances are Kullback–Leibler divergences",
             next="total variation is half the sum of absolute differences"),
        edit("linear /= linear.sum(axis=1, keepdims=True)", "pass",
             says="your linear weights do not sum to 1",
             next="divide each row of φ(q)·φ(k) by its sum"),
        edit(" / q.dtype.type(q.shape[1] ** 0.5)", "",
             says="your softmax has scores q·k, without 1/√D",
             next="divide the scores by √D"),
        edit(" - scores.max(axis=1, keepdims=True)", "",
             says="your exponentials overflow: the row maximum is not subtracted",
             next="subtract the maximum of each row of scores before np.exp"),
        edit("scores.max(axis=1, keepdims=True)", "scores.max()",
             says="your queries share one maximum: the weights of shorter ones all vanish, 0/0",
             next="subtract the maximum of each row of scores"),
        edit(PHI, "np.exp(x)",
             says="your features are exp(x) above zero, too",
             next="above zero elu(x) + 1 is x + 1"),
        edit(PHI, PHI + " - 1",
             says="your features are elu(x), which goes down to -1: weights become negative",
             next="add 1 to elu(x)"),
        edit("sum(axis=1) / 2", "sum(axis=0) / 2",
             says="your sums run over the queries: one number for each key",
             next="sum over the keys, the last axis: one number for each query"),
    ],
    alternatives=[
        distances_by_overlap,
        edit(SUM + " / 2", "np.maximum(softmax - linear, 0).sum(axis=1)"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what the textbook prints</summary>
#
# "Typically 5–15 %" (C175). For random q and k of width 64 and 512 tokens the mean distance is 36
# %; if q and k are half as long, still 9 %, and then the softmax is nearly even itself.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run `attncourse grade
# exercises/07_linear.ipynb`. It runs a copy of the notebook from the top and prints the score;
# your file is not changed. Plain `pytest --nbval exercises/07_linear.ipynb` gives the same
# verdicts.
