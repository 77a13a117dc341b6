# %% [markdown]
# # 10 Exercises: Triton from the first line
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("10.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# Tensors are float32 and contiguous: row after row. Each `tl.load` and `tl.store` that could leave
# its tensor has a `mask=`, loads also `other=`. Write `tl.dot(a, b, input_precision="ieee")`.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint
from attncourse.grading.stand_ins import tl, torch, triton

# %% role="spec"
"""What the specs of this chapter share."""

import math

import numpy as np

from attncourse.cost import Cost
from attncourse.grading.writing import Spec, case, draws, edit, qkv
from attncourse.reference import full, window


def normal(name, *shapes, rest=(), change=lambda *made: made):
    """Return a maker of a case of standard normal float32 arrays, which `change` may alter."""

    def make(rng):
        made = change(*(rng.standard_normal(shape) for shape in shapes))
        return case(name, *(array.astype(np.float32) for array in made), *rest)

    return make


def n_tiles(n, block):
    return -(-n // block)


# %% [markdown] role="prompt" exercise="10.1"
# ## 10.1 Add two vectors
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/10_triton.ipynb#One-program,-one-tile)
#
# factor · x + y for two vectors of n numbers, n as it comes. Write the body of the kernel, in which
# each program takes `BLOCK` numbers, and say how many `programs` there are.

# %% [markdown] role="prompt" exercise="10.1"
# You need `tl.program_id(0)`, `tl.arange(0, BLOCK)`, `tl.load(pointers, mask=…, other=…)` and
# `tl.store(pointers, values, mask=…)`.
#
# **Traffic limit**: each number of x and y is loaded once, each of the result stored once.


# %% role="answer" exercise="10.1"
@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, factor, BLOCK: tl.constexpr):
    # BEGIN SOLUTION
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    y = tl.load(y_ptr + at, mask=inside, other=0.0)
    tl.store(out_ptr + at, factor * x + y, mask=inside)
    # END SOLUTION


def scaled_sum(x, y, factor):
    """Return factor · x + y, (n,)."""
    BLOCK = 16
    out = x.new_full(x.shape, float("nan"))  # what no program stores stays NaN
    # BEGIN SOLUTION
    programs = triton.cdiv(len(x), BLOCK)
    # END SOLUTION
    add_kernel[(programs,)](x, y, out, len(x), factor, BLOCK)
    return out


# %% role="check" exercise="10.1"
check("10.1")

# %% [markdown] role="hints" exercise="10.1"
# 1. With n = 37 and BLOCK = 16: how many programs, and which numbers are those of program 2? How
#    many of its places lie beyond the end?
# 2. Program p takes the places p·BLOCK … p·BLOCK + BLOCK - 1; those from n on are masked away, in
#    both loads and in the store. There are ⌈n / BLOCK⌉ programs.
# 3. at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); inside = at < n; tl.store(out_ptr + at,
#    factor * x + y, mask=inside); programs = triton.cdiv(len(x), BLOCK).


# %% role="spec" exercise="10.1"
def random_vectors(rng):
    n = int(rng.integers(18, 90))
    return normal(f"random, n = {n}", n, n, rest=(-1.25,))(rng)


AT = "tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)"
PROGRAMS = "triton.cdiv(len(x), BLOCK)"

Spec(
    kind="kernel",
    reference=lambda x, y, factor: factor * x + y,
    cases=[
        normal("n = 1", 1, 1, rest=(1.0,)),
        normal("one whole tile, n = 16", 16, 16, rest=(3.0,)),
        normal("two tiles, n = 32", 32, 32, rest=(-2.0,)),
        normal("half a tile, n = 7", 7, 7, rest=(0.5,)),
        normal("one number more than a tile, n = 17", 17, 17, rest=(3.0,)),
        normal("one number less than two tiles, n = 31", 31, 31, rest=(3.0,)),
        normal("factor 0, n = 19", 19, 19, rest=(0.0,)),
        normal("n = 100", 100, 100, rest=(-0.75,)),
        random_vectors,
    ],
    traffic=lambda call: Cost(0, 2 * call.args[0].nbytes, call.args[0].nbytes, 0),
    timed=normal("n = 10⁷", 10**7, 10**7, rest=(0.5,)),
    seconds=20.0,
    mistakes=[
        edit(PROGRAMS, "len(x) // BLOCK",
             says="your last, shorter tile has no program: n // BLOCK rounds down",
             next="round up: triton.cdiv(len(x), BLOCK)"),
        edit(AT, "tl.arange(0, BLOCK)",
             says="only the first tile is stored: all programs take it, or there is but one",
             next="add tl.program_id(0) * BLOCK to the places, and let there be a program for each "
             "tile",
             also=[edit(PROGRAMS, "1")]),
        edit(AT, "tl.program_id(0) + tl.arange(0, BLOCK)",
             says="your programs overlap: each begins one number after the one before it",
             next="program p begins at p * BLOCK"),
        edit("tl.store(out_ptr + at, factor * x + y, mask=inside)",
             "tl.store(out_ptr + at, factor * x + y)",
             says="your store has no mask: the last program writes past the end of out",
             next="tl.store takes a mask as well: mask=inside"),
        edit("at < n", "at <= n",
             says="your last program reads past the ends of x and y",
             next="give both loads a mask: the last place is n - 1, so at < n",
             also=[edit(", mask=inside, other=0.0", "")]),
        edit(AT, f"({AT}) % n",
             says="your places beyond the end wrap around: numbers are loaded and stored again",
             next="mask those places away instead of taking them % n"),
        edit("at < n", "tl.arange(0, BLOCK) < n",
             says="your mask looks at the place within the tile, which is below n in each program",
             next="compare the places themselves: at < n"),
        edit("factor * x + y", "factor * (x + y)",
             says="your factor multiplies y as well",
             next="factor * x + y"),
        edit("factor * x + y", "x + factor * y",
             says="your factor multiplies y instead of x",
             next="factor * x + y"),
        edit("factor * x + y", "x + y",
             says="your factor is missing",
             next="factor * x + y"),
    ],
    alternatives=[
        edit(AT, "tl.program_id(0) + tl.num_programs(0) * tl.arange(0, BLOCK)"),
        edit(PROGRAMS, "len(x) // BLOCK + 1", "inside = at < n", "inside = n > at"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.2"
# ## 10.2 Softmax of rows
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/10_triton.ipynb#A-row-at-a-time)
#
# Each program takes one row of x `(n_rows, n_cols)` and stores its softmax. `BLOCK` is `n_cols`,
# rounded up to a power of two. A score of −inf is a hidden key and gets weight 0; a row of nothing
# but −inf gives zeros.

# %% [markdown] role="prompt" exercise="10.2"
# `tl.max(x, 0)` and `tl.sum(x, 0)` reduce a vector, `tl.where(condition, a, b)` chooses. Scores may
# be ±1000.
#
# **Traffic limit**: each score is loaded once, each weight stored once.


# %% role="answer" exercise="10.2"
@triton.jit
def softmax_kernel(x_ptr, out_ptr, n_cols, BLOCK: tl.constexpr):
    # BEGIN SOLUTION
    cols = tl.arange(0, BLOCK)
    at = tl.program_id(0) * n_cols + cols
    x = tl.load(x_ptr + at, mask=cols < n_cols, other=float("-inf"))
    top = tl.max(x, 0)
    pivot = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp(x - pivot)
    total = tl.sum(weights, 0)
    weights = weights / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + at, weights, mask=cols < n_cols)
    # END SOLUTION


def row_softmax(x):
    """Return the softmax of each row, (n_rows, n_cols)."""
    n_rows, n_cols = x.shape
    out = x.new_full(x.shape, float("nan"))  # what no program stores stays NaN
    softmax_kernel[(n_rows,)](x, out, n_cols, triton.next_power_of_2(n_cols))
    return out


# %% role="check" exercise="10.2"
check("10.2")

# %% [markdown] role="hints" exercise="10.2"
# 1. A softmax needs the largest score, the exponentials and their sum. What must a place beyond the
#    end hold, so that it changes neither the maximum nor the sum?
# 2. Load with other=float("-inf"): its exponential is 0. In a row without a visible key the maximum
#    is -inf, too, and -inf minus -inf is NaN: subtract 0 there, and divide by 1.
# 3. pivot = tl.where(top == float("-inf"), 0.0, top); weights = tl.exp(x - pivot); divide by
#    tl.where(total == 0.0, 1.0, total); store with mask=cols < n_cols.


# %% role="spec" exercise="10.2"
def softmax_rows(x):
    top = x.max(axis=1, keepdims=True)
    weights = np.exp(x - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def scores(name, n_rows, n_cols, hidden=(), shift=0.0):
    """Return a maker of a case; `hidden` are the rows and columns that are -inf."""

    def change(x):
        x += shift
        for place in hidden:
            x[place] = -np.inf
        return (x,)

    return normal(name, (n_rows, n_cols), change=change)


def random_scores(rng):
    n_rows, n_cols = (int(x) for x in rng.integers((2, 5), (5, 60)))
    return scores(f"random, {n_rows} × {n_cols}", n_rows, n_cols, [(1, slice(3, None))])(rng)


LOAD = 'x = tl.load(x_ptr + at, mask=cols < n_cols, other=float("-inf"))'
PIVOT = 'tl.where(top == float("-inf"), 0.0, top)'
TOTAL = "tl.where(total == 0.0, 1.0, total)"
EVERY_KEY = slice(None)

Spec(
    kind="kernel",
    reference=softmax_rows,
    cases=[
        scores("1 × 1", 1, 1),
        scores("2 × 8, a power of two", 2, 8),
        scores("2 × 5, padded", 2, 5),
        scores("some keys hidden, 2 × 8", 2, 8, [(0, slice(5, None)), (1, slice(0, 3))]),
        scores("a row without a visible key, 2 × 4", 2, 4, [(1, EVERY_KEY)]),
        scores("the same, padded, 3 × 6", 3, 6, [(1, EVERY_KEY), (2, 0)]),
        scores("scores near 1000", 2, 7, shift=1000.0),
        scores("scores near -1000", 2, 7, shift=-1000.0),
        scores("2 × 100", 2, 100),
        random_scores,
    ],
    traffic=lambda call: Cost(0, call.args[0].nbytes, call.args[0].nbytes, 0),
    timed=scores("16384 × 2000", 16384, 2000),
    seconds=20.0,
    mistakes=[
        edit('other=float("-inf")', "other=0.0",
             says="places beyond the end hold 0, and take part as a key with score 0",
             next='load them as -inf: other=float("-inf")'),
        edit("x - pivot", "x",
             says="your exponentials overflow or vanish: no maximum is subtracted",
             next="subtract the row's maximum before tl.exp"),
        edit("top = tl.max(x, 0)", "top = tl.maximum(tl.max(x, 0), 0.0)",
             says="your maximum is at least 0: of scores far below, all exponentials vanish",
             next="take the maximum of the row as it is"),
        edit(PIVOT, "top",
             says="a row without a visible key is NaN: -inf minus -inf, or 0 / 0",
             next="subtract 0 where the maximum is -inf, and divide by 1 where the sum is 0",
             also=[edit(TOTAL, "total"), edit(PIVOT, "top", TOTAL, "total")]),
        edit("n_cols + cols", "BLOCK + cols",
             says="your rows lie BLOCK apart, but in memory they lie n_cols apart",
             next="row r begins at r * n_cols, however wide the tile is"),
        edit("tl.program_id(0) * n_cols + cols", "cols",
             says="all programs take the first row: yours does not ask which one it is",
             next="row tl.program_id(0) begins at tl.program_id(0) * n_cols"),
        edit(LOAD, f"{LOAD}\n    top = tl.max(x, 0)\n    {LOAD}",
             says="your program loads the row twice: once for the maximum, once for the weights",
             next="x stays on the chip: load it once"),
        edit("weights, mask=cols < n_cols", "weights",
             says="your store has no mask: it writes into the next row, and past the end of out",
             next="tl.store takes a mask as well: mask=cols < n_cols"),
        edit(LOAD, "x = tl.load(x_ptr + at)",
             says="your load has no mask: it reads from the next row, and past the end of x",
             next='mask=cols < n_cols, other=float("-inf")'),
        edit(" / " + TOTAL, "",
             says="your weights are not divided by their sum",
             next="divide by the sum of the exponentials"),
    ],
    alternatives=[
        edit('other=float("-inf"))',
             'other=0.0)\n    x = tl.where(cols < n_cols, x, float("-inf"))'),
        edit("tl.exp(x - pivot)", "tl.exp2((x - pivot) * 1.4426950408889634)",
             "weights / " + TOTAL, "tl.where(total == 0.0, 0.0, weights / (total + 1e-30))"),
        edit("cols = tl.arange(0, BLOCK)", "cols = tl.arange(0, BLOCK)[None, :]",
             "tl.max(x, 0)", "tl.max(x, 1)[:, None]",
             "tl.sum(weights, 0)", "tl.sum(weights, 1)[:, None]"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.3"
# ## 10.3 A tile of a product
#
# *25 minutes · difficulty 2 of 3 · 4 points*
# · [section](../notebooks/10_triton.ipynb#A-tile-of-a-product)
#
# The product of a `(n_rows, n_inner)` and b `(n_inner, n_cols)`: program (i, j) owns tile (i, j) of
# the result, and walks along `n_inner`. Write the body of the kernel, and choose `BLOCK`.

# %% [markdown] role="prompt" exercise="10.3"
# **Traffic limit**: what tiles of 32 × 32 move. Each tile of the result loads its rows of a and its
# columns of b once, and is stored once.
#
# Larger tiles move less, and the interpreter takes any; what stops them on a GPU, part 2 of the
# chapter shows.


# %% role="answer" exercise="10.3"
@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr, n_rows, n_inner, n_cols, BLOCK: tl.constexpr):
    # BEGIN SOLUTION
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n_inner, BLOCK):
        across = start + tl.arange(0, BLOCK)[None, :]
        down = start + tl.arange(0, BLOCK)[:, None]
        in_a = (rows < n_rows) & (across < n_inner)
        in_b = (down < n_inner) & (cols < n_cols)
        a = tl.load(a_ptr + rows * n_inner + across, mask=in_a, other=0.0)
        b = tl.load(b_ptr + down * n_cols + cols, mask=in_b, other=0.0)
        acc += tl.dot(a, b, input_precision="ieee")
    tl.store(out_ptr + rows * n_cols + cols, acc, mask=(rows < n_rows) & (cols < n_cols))
    # END SOLUTION


def product(a, b):
    """Return a @ b, (n_rows, n_cols)."""
    # BEGIN SOLUTION
    BLOCK = 32
    # END SOLUTION
    (n_rows, n_inner), n_cols = a.shape, b.shape[1]
    out = a.new_full((n_rows, n_cols), float("nan"))  # what no program stores stays NaN
    grid = (triton.cdiv(n_rows, BLOCK), triton.cdiv(n_cols, BLOCK))
    product_kernel[grid](a, b, out, n_rows, n_inner, n_cols, BLOCK)
    return out


# %% role="check" exercise="10.3"
check("10.3")

# %% [markdown] role="hints" exercise="10.3"
# 1. Which rows of a and which columns of b does tile (i, j) need? It takes them `BLOCK` at a time,
#    and adds up a product of two tiles in each turn.
# 2. rows from tl.program_id(0), cols from tl.program_id(1). A row of a is n_inner long, a row of b
#    n_cols. Places beyond the end of n_inner must be 0 in both tiles.
# 3. acc = tl.zeros((BLOCK, BLOCK), tl.float32); in the loop acc += tl.dot(a, b, …) with a at rows *
#    n_inner + across and b at down * n_cols + cols; after it one tl.store.


# %% role="spec" exercise="10.3"
def product_traffic(call):
    """Return the most that the kernel may move: what tiles of 32 × 32 do."""
    a, b = call.args
    read = a.nbytes * n_tiles(b.shape[1], 32) + b.nbytes * n_tiles(len(a), 32)
    written = 4 * len(a) * b.shape[1]
    return Cost(2 * a.size * b.shape[1], read, written, 0)


def factors(n_rows, n_inner, n_cols, name="{} × {} times {} × {}"):
    name = name.format(n_rows, n_inner, n_inner, n_cols)
    return normal(name, (n_rows, n_inner), (n_inner, n_cols))


def random_factors(rng):
    sizes = rng.integers((33, 5, 5), (64, 40, 32)).tolist()
    return factors(*sizes, "random, {} × {} times {} × {}")(rng)


IN_A, IN_B = "(rows < n_rows) & (across < n_inner)", "(down < n_inner) & (cols < n_cols)"
IN_OUT = "(rows < n_rows) & (cols < n_cols)"

Spec(
    kind="kernel",
    reference=lambda a, b: a @ b,
    cases=[
        factors(1, 1, 1),
        factors(32, 32, 32),
        factors(64, 8, 64),
        factors(8, 64, 8),
        factors(3, 40, 5),
        factors(33, 7, 20),
        factors(20, 7, 33),
        factors(35, 34, 40),
        random_factors,
    ],
    traffic=product_traffic,
    timed=factors(2048, 2048, 2048),
    seconds=20.0,
    mistakes=[
        edit("BLOCK = 32", "BLOCK = 16",
             says="your tiles are 16 wide: a and b travel about twice as often as with 32",
             next="bytes fall as 1 / BLOCK: choose a larger one"),
        edit(IN_A, "across < n_inner", "rows * n_inner", "rows % n_rows * n_inner",
             IN_B, "down < n_inner", "n_cols + cols", "n_cols + cols % n_cols",
             says="your rows and columns beyond the end wrap around, and are loaded again",
             next="mask them away instead of taking them % n_rows and % n_cols",
             also=[edit(IN_A, "across < n_inner", "rows * n_inner", "rows % n_rows * n_inner")]),
        edit("rows = tl.program_id(0)", "rows = tl.program_id(1)",
             "cols = tl.program_id(1)", "cols = tl.program_id(0)",
             says="your program (i, j) takes tile (j, i): right only if the grid is square",
             next="the grid has rows first: rows from tl.program_id(0), cols from program_id(1)"),
        edit("tl.program_id(1)", "tl.program_id(0)",
             says="your programs take the tiles on the diagonal only, and several the same one",
             next="cols come from tl.program_id(1)"),
        edit("rows * n_inner", "rows * n_cols",
             says="your rows of a lie n_cols apart: they are n_inner long",
             next="a is at rows * n_inner + across"),
        edit("down * n_cols", "down * n_inner",
             says="your rows of b lie n_inner apart: they are n_cols long",
             next="b is at down * n_cols + cols"),
        edit("range(0, n_inner, BLOCK)", "range(0, n_inner // BLOCK * BLOCK, BLOCK)",
             says="your loop leaves out the last, shorter tile of n_inner",
             next="run over range(0, n_inner, BLOCK), and mask"),
        edit("acc += ", "acc = ",
             says="your acc holds the last turn only: it is replaced, not added to",
             next="acc += tl.dot(…)"),
        edit(IN_A, "rows < n_rows",
             says="your tile of a runs into the next row, and past the end of a",
             next="mask along n_inner as well: & (across < n_inner)"),
        edit(IN_B, "cols < n_cols",
             says="your tile of b runs past its last row",
             next="mask along n_inner as well: (down < n_inner) &"),
        edit(IN_A, "across < n_inner",
             says="your tile of a runs past its last row",
             next="mask the rows: (rows < n_rows) &"),
        edit(IN_B, "down < n_inner",
             says="your tile of b runs into its next row, and past the end of b",
             next="mask the columns: & (cols < n_cols)"),
        edit(IN_OUT, "rows < n_rows",
             says="your store runs into the next row of the result, which another program owns, or "
             "past its end",
             next="mask=(rows < n_rows) & (cols < n_cols)",
             also=[edit(", mask=" + IN_OUT, "")]),
    ],
    alternatives=[
        edit("BLOCK = 32", "BLOCK = 64"),
        edit("tl.dot(a, b, ", "tl.trans(tl.dot(tl.trans(b), tl.trans(a), ", '"ieee")', '"ieee"))'),
        edit("start + tl.arange(0, BLOCK)", "start + tl.arange(0, 16)",
             "range(0, n_inner, BLOCK)", "range(0, n_inner, 16)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.4"
# ## 10.4 Flash in one loop
#
# *35 minutes · difficulty 3 of 3 · 5 points*
# · [section](../notebooks/10_triton.ipynb#The-loop-of-flash)
#
# softmax(q kᵀ · scale) v for several heads: q `(H, Tq, D)`, k and v `(H, Tk, D)`, without a mask.
# Write the whole body. Program (i, h) owns the queries of tile i of head h.

# %% [markdown] role="prompt" exercise="10.4"
# A tile is `WIDTH` wide: D, which may be any number, rounded up to a power of two, at least 16.
#
# **Traffic limit**: each program loads its queries once and each key and value of its head once,
# stores its rows once, and touches nothing beyond D.
#
# With one key, for example, every row of the result is v.


# %% role="answer" exercise="10.4"
@triton.jit
def flash_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n_queries, n_keys, D, scale,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    # BEGIN SOLUTION
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)[None, :]
    at_rows = (head * n_queries + rows[:, None]) * D + cols
    in_rows = (rows[:, None] < n_queries) & (cols < D)
    q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, n_keys, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        at_keys = (head * n_keys + keys[:, None]) * D + cols
        in_keys = (keys[:, None] < n_keys) & (cols < D)
        k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(keys[None, :] < n_keys, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - new_max[:, None])
        rescale = tl.exp(running_max - new_max)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    tl.store(out_ptr + at_rows, acc / running_sum[:, None], mask=in_rows)
    # END SOLUTION


def flash_heads(q, k, v):
    """Return attention of several heads, (H, Tq, D)."""
    BLOCK = 16
    heads, n_queries, D = q.shape
    out = torch.full_like(q, float("nan"))  # what no program stores stays NaN
    flash_kernel[(triton.cdiv(n_queries, BLOCK), heads)](
        q, k, v, out, n_queries, k.shape[1], D, D**-0.5,
        BLOCK=BLOCK, WIDTH=max(16, triton.next_power_of_2(D)),
    )  # fmt: skip
    return out


# %% role="check" exercise="10.4"
check("10.4")

# %% [markdown] role="hints" exercise="10.4"
# 1. Three things stay on the chip while the keys pass by: the largest score of each query so far,
#    the sum of its exponentials, and the summed values. What happens to them at a new maximum?
# 2. Row r of head h begins at (h * n_queries + r) * D. Mask rows and columns in each load. Keys
#    beyond the end get the score -inf. Divide once, after the loop.
# 3. new_max = tl.maximum(running_max, tl.max(scores, 1)); weights = tl.exp(scores - new_max[:,
#    None]); rescale = tl.exp(running_max - new_max); both sums: old * rescale + new.


# %% role="spec" exercise="10.4"
def heads_of(name, heads, n_queries, n_keys, width, **how):
    return qkv(name, (heads, n_queries, width), keys=n_keys, **how)


def flash_traffic(call):
    """Return the most that the kernel may move: k and v once for each tile of queries."""
    q, k, _ = call.args
    flops = 4 * q.size * k.shape[1]
    return Cost(flops, q.nbytes + 2 * k.nbytes * n_tiles(q.shape[1], 16), q.nbytes, 0)


def random_heads(rng):
    sizes = 2, *rng.integers((3, 17, 2), (16, 32, 16)).tolist()
    return heads_of("random, H, Tq, Tk, D = {}, {}, {}, {}".format(*sizes), *sizes)(rng)


IN_ROWS = "(rows[:, None] < n_queries) & (cols < D)"
IN_KEYS = "(keys[:, None] < n_keys) & (cols < D)"
LOAD_K = "k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)"
NO_RESCALE = (" * rescale[:, None]", "", " * rescale", "")
HIDDEN = 'tl.where(keys[None, :] < n_keys, scores, float("-inf"))'

Spec(
    kind="kernel",
    reference=lambda q, k, v: full.attention(q, k, v),
    cases=[
        heads_of("1 query, 1 key, D = 1", 1, 1, 1, 1),
        heads_of("two heads, one tile", 2, 16, 16, 16),
        heads_of("two tiles of keys", 1, 16, 32, 16),
        heads_of("two tiles of queries", 1, 32, 16, 16),
        heads_of("D = 5", 2, 4, 6, 5),
        heads_of("one key in the last tile", 1, 3, 17, 16),
        heads_of("more queries than keys", 1, 20, 3, 7),
        heads_of("large scores", 1, 6, 20, 16, shift=25.0),
        heads_of("all scores far below 0", 1, 6, 20, 16, shift=-25.0),
        heads_of("one query 400 times longer", 1, 5, 20, 16, longer=400),
        random_heads,
    ],
    traffic=flash_traffic,
    timed=heads_of("16 heads, n = 4096, D = 64", 16, 4096, 4096, 64),
    seconds=20.0,
    mistakes=[
        edit("        k = ",
             "        q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)\n        k = ",
             says="your program loads q again for each tile of keys",
             next="q stays on the chip: it is loaded once, before the loop"),
        edit("head * n_queries + ", "", "head * n_keys + ", "",
             says="all your programs work on head 0",
             next="head h begins at row h * n_queries of q and out, h * n_keys of k and v"),
        edit("head * n_keys", "head * n_queries",
             says="your heads of k and v lie n_queries rows apart: right only if Tq = Tk",
             next="head h of k and v begins at row h * n_keys"),
        edit(") * D + cols", ") * WIDTH + cols",
             says="your rows lie WIDTH apart, but in memory they lie D apart",
             next="multiply the row by D, however wide the tile is"),
        edit(IN_ROWS, "rows[:, None] < n_queries", IN_KEYS, "keys[:, None] < n_keys",
             says="your tiles run on beyond D: into the next row, and past the end",
             next="mask the columns as well: & (cols < D)"),
        edit(IN_ROWS, "cols < D", IN_KEYS, "cols < D",
             says="your tiles run on beyond the last row of a head",
             next="mask the rows as well: (rows[:, None] < n_queries) &, and so for the keys"),
        edit(LOAD_K, LOAD_K.replace("0.0", 'float("-inf")'), HIDDEN, "scores",
             says="keys beyond the end are loaded as -inf: q · k is then NaN, or +inf",
             next="load zeros, and set the scores of those keys to -inf",
             also=[edit(LOAD_K, LOAD_K.replace("0.0", 'float("-inf")'))]),
        edit(HIDDEN, "scores",
             says="keys beyond the end take part: a masked load gives zeros, and exp(0) is 1",
             next="set their scores to -inf: tl.where(keys[None, :] < n_keys, scores, "
             "float('-inf'))"),
        edit("(0, n_keys, BLOCK)", "(0, n_keys // BLOCK * BLOCK, BLOCK)",
             says="your loop leaves out the last, shorter tile of keys",
             next="run over range(0, n_keys, BLOCK)"),
        edit(" * scale", "",
             says="your scores are not multiplied by scale",
             next="multiply the scores by `scale`"),
        edit('tl.full((BLOCK,), float("-inf"), tl.float32)', "tl.zeros((BLOCK,), tl.float32)",
             says="your running maximum starts at 0: far below it exp gives only zeros",
             next='start it at -inf: tl.full((BLOCK,), float("-inf"), tl.float32)'),
        edit("scores - new_max[:, None]", "scores", *NO_RESCALE,
             says="your exponentials overflow: no maximum is subtracted",
             next="subtract new_max[:, None] from the scores before tl.exp"),
        edit(*NO_RESCALE,
             says="a new maximum changes nothing of what you kept",
             next="multiply running_sum and acc by tl.exp(running_max - new_max)"),
        edit("acc * rescale[:, None]", "acc",
             says="a new maximum shrinks your running_sum, but not acc",
             next="multiply acc by rescale[:, None]"),
        edit("running_sum * rescale", "running_sum",
             says="a new maximum shrinks your acc, but not running_sum",
             next="multiply running_sum by rescale"),
        edit("tl.max(scores, 1)", "tl.max(tl.max(scores, 1), 0)",
             says="your queries share one maximum: beside a long one the others have only zeros",
             next="take the maximum of each row: tl.max(scores, 1)"),
        edit(" / running_sum[:, None]", "",
             says="your rows are not divided by the sum of their exponentials",
             next="divide by running_sum[:, None] after the loop"),
    ],
    alternatives=[
        edit("* scale", "* (scale * 1.4426950408889634)", "tl.exp(", "tl.exp2("),
        edit(IN_ROWS, "(rows < n_queries)[:, None] & (cols < D)",
             "q_ptr + at_rows", "q_ptr + head * n_queries * D + rows[:, None] * D + cols",
             "acc / running_sum[:, None]", "acc * (1.0 / running_sum)[:, None]"),
        edit("(0, n_keys, BLOCK)", "(0, n_keys, 32)",
             "start + tl.arange(0, BLOCK)", "start + tl.arange(0, 32)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.5"
# ## 10.5 Only the tiles of a window
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/10_triton.ipynb#Only-the-tiles-of-a-window)
#
# The query at key position p sees the keys p − window … p; query i stands at p = i + n_keys −
# n_queries. Tiles are 32 queries tall and 16 keys wide. Which do a program's queries need?

# %% [markdown] role="prompt" exercise="10.5"
# Set `first_tile`, and `end_tile`, the first that is not needed, then `visible` `[BLOCK_Q,
# BLOCK_K]`. A query that sees nothing gets zeros.
#
# **Traffic limit**: tiles of k and v with a visible key, each loaded once.
#
# Tq = Tk = 80, window = 10: tile 1 (queries 32 … 63) sees the keys 22 … 63, in `range(1, 4)`.


# %% role="answer" exercise="10.5"
@triton.jit
def window_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n_queries, n_keys, window, scale,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    cols = tl.arange(0, D)[None, :]
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    in_rows = rows[:, None] < n_queries
    q = tl.load(q_ptr + rows[:, None] * D + cols, mask=in_rows, other=0.0)
    running_max = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, D), tl.float32)
    ahead = n_keys - n_queries
    # BEGIN SOLUTION
    past_key = tl.minimum(n_keys, (tile + 1) * BLOCK_Q + ahead)
    first_tile = tl.maximum(0, tile * BLOCK_Q + ahead - window) // BLOCK_K
    end_tile = tl.cdiv(tl.maximum(0, past_key), BLOCK_K)
    # END SOLUTION
    for key_tile in range(first_tile, end_tile):
        keys = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
        in_keys = keys[:, None] < n_keys
        k = tl.load(k_ptr + keys[:, None] * D + cols, mask=in_keys, other=0.0)
        v = tl.load(v_ptr + keys[:, None] * D + cols, mask=in_keys, other=0.0)
        # BEGIN SOLUTION
        age = rows[:, None] + ahead - keys[None, :]
        visible = (age >= 0) & (age <= window)
        # END SOLUTION
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        pivot = tl.where(new_max == float("-inf"), 0.0, new_max)  # no visible key so far
        weights = tl.exp(scores - pivot[:, None])
        rescale = tl.exp(running_max - pivot)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None] + tl.dot(weights, v, input_precision="ieee")
        running_max = new_max
    total = tl.where(running_sum == 0.0, 1.0, running_sum)
    tl.store(out_ptr + rows[:, None] * D + cols, acc / total[:, None], mask=in_rows)


def causal_window(q, k, v, window):
    """Return causal window attention of one head, (Tq, D)."""
    BLOCK_Q, BLOCK_K = 32, 16
    n_queries, D = q.shape
    out = torch.empty_like(q)
    window_kernel[(triton.cdiv(n_queries, BLOCK_Q),)](
        q, k, v, out, n_queries, len(k), window, D**-0.5, D, BLOCK_Q, BLOCK_K
    )
    return out


# %% role="check" exercise="10.5"
check("10.5")

# %% [markdown] role="hints" exercise="10.5"
# 1. The first query of the tile sees furthest back, the last one furthest forward. At which key
#    positions do they stand?
# 2. The first needed key is tile · BLOCK_Q + ahead - window, but not below 0; the first one no
#    longer needed is (tile + 1) · BLOCK_Q + ahead, but not below 0 nor above n_keys. Round the one
#    down to a tile, the other up.
# 3. first_tile = tl.maximum(0, tile * BLOCK_Q + ahead - window) // BLOCK_K; end_tile is tl.cdiv of
#    the other; visible: rows[:, None] + ahead - keys[None, :] lies between 0 and window.


# %% role="spec" exercise="10.5"
def tiles_of_window(call, block_q=32, block_k=16):
    """Yield the first key loaded by each tile of queries, and the one after the last."""
    q, k, _, size = call.args
    ahead = len(k) - len(q)
    for start in range(0, len(q), block_q):
        past = max(0, min(len(k), start + block_q + ahead))
        first = max(0, start + ahead - size) // block_k * block_k
        yield first, max(first, min(len(k), n_tiles(past, block_k) * block_k))


def window_traffic(call):
    """Return the most that the kernel may move: tiles of k and v with a visible key."""
    q, width = call.args[0], call.args[0].shape[1]
    keys = sum(past - first for first, past in tiles_of_window(call))
    return Cost(4 * 32 * keys * width, q.nbytes + 2 * keys * width * 4, q.nbytes, 0)


def window_least(call):
    """Return the bytes of the queries and keys that take part, and of the result."""
    q, k, _, size = call.args
    seeing = min(len(q), len(k))  # queries with a key at or before their place
    seen = min(len(k), seeing + size)
    return 4 * q.shape[1] * (seeing + 2 * seen + len(q))


def windowed(name, n_queries, n_keys, size, **how):
    return qkv(name, (n_queries, 16), size, keys=n_keys, **how)


def random_window(rng):
    sizes = rng.integers((20, 33, 2), (50, 60, 20)).tolist()
    return windowed("random, Tq, Tk, window = {}, {}, {}".format(*sizes), *sizes)(rng)


FIRST = "tl.maximum(0, tile * BLOCK_Q + ahead - window) // BLOCK_K"
PAST = "tl.minimum(n_keys, (tile + 1) * BLOCK_Q + ahead)"
END = "tl.cdiv(tl.maximum(0, past_key), BLOCK_K)"

Spec(
    kind="kernel",
    reference=lambda q, k, v, size: window.attention(q, k, v, window=size, causal=True),
    cases=[
        windowed("1 query, 1 key, window 0", 1, 1, 0),
        windowed("whole tiles, window 16", 48, 48, 16),
        windowed("window 17, odd length", 51, 51, 17),
        windowed("window larger than the text", 35, 35, 100),
        windowed("fewer queries than keys", 33, 70, 5),
        windowed("3 queries, 60 keys", 3, 60, 7),
        windowed("more queries than keys: a tile sees nothing", 60, 20, 4),
        random_window,
    ],
    traffic=window_traffic,
    least=window_least,
    timed=windowed("n = 65536, window 256", 65536, 65536, 256),
    seconds=20.0,
    mistakes=[
        edit(FIRST, "0", END, "tl.cdiv(n_keys, BLOCK_K)",
             says="your program loads every tile and masks most of them away",
             next="start at the tile of the first visible key, end after that of the last"),
        edit(FIRST, "0",
             says="your loop starts at tile 0: the tiles before the window are loaded and masked",
             next="the tile's first query sees back to tile * BLOCK_Q + ahead - window"),
        edit(END, "tl.cdiv(n_keys, BLOCK_K)",
             says="your loop runs to the last tile: those in the future are loaded and masked",
             next="the tile's last query sees up to its own place"),
        edit("(tile + 1) * BLOCK_Q + ahead", "(tile + 1) * BLOCK_Q + ahead + window",
             says="your window reaches into the future: you load window more keys than are seen",
             next="it is causal: the last query sees nothing after its own place"),
        edit("BLOCK_Q + ahead - window", "BLOCK_Q - window",
             "BLOCK_Q + ahead)", "BLOCK_Q)", "+ ahead - keys", "- keys",
             says="your query i stands at key i: right only if Tq = Tk",
             next="it stands at i + ahead"),
        edit("BLOCK_Q + ahead - window", "BLOCK_Q - window", "BLOCK_Q + ahead)", "BLOCK_Q)",
             says="your mask knows where the queries stand, your tiles do not: right only if Tq = "
             "Tk",
             next="add ahead to the tile's first and last query"),
        edit(FIRST, f"({FIRST}) + 1",
             says="your loop starts one tile late",
             next="round the first key down: // BLOCK_K"),
        edit(END, "tl.maximum(0, past_key) // BLOCK_K",
             says="your loop leaves out the last tile where it is needed only in part",
             next="round up: tl.cdiv"),
        edit(END, f"{END} + 1",
             says="your loop runs one tile too far",
             next="end_tile is the first tile that is not needed, and range leaves it out"),
        edit(FIRST, "tile * BLOCK_Q // BLOCK_K",
             says="your program starts at its own tile: the keys before it are missing",
             next="the first query sees back by window"),
        edit("tl.maximum(0, tile * BLOCK_Q + ahead - window) // BLOCK_K",
             "(tile * BLOCK_Q + ahead - window) // BLOCK_K",
             says="your first tile lies before the first key: the program reads before k",
             next="clip the first key at 0 before you divide"),
        edit(" & (age <= window)", "",
             says="your mask is causal, but has no window: whole tiles are seen",
             next="& (age <= window)"),
        edit("(age >= 0) & ", "",
             says="your mask lets the future in",
             next="(age >= 0) &"),
        edit("age <= window", "age < window",
             says="your window is one key too narrow",
             next="window keys back are still seen: age <= window"),
    ],
    alternatives=[
        edit(PAST, "tl.minimum((tile + 1) * BLOCK_Q, n_queries) + ahead"),
        edit("age = rows[:, None] + ahead - keys[None, :]", "place = rows[:, None] + ahead",
             "(age >= 0) & (age <= window)",
             "(keys[None, :] <= place) & (keys[None, :] >= place - window)"),
        edit(END, "(tl.maximum(0, past_key) + BLOCK_K - 1) // BLOCK_K"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.6"
# ## 10.6 A state instead of keys
#
# *30 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/10_triton.ipynb#A-state-instead-of-keys)
#
# Causal linear attention that forgets: row i is Σ_{j≤i} decay^{i−j} (q_i · k_j) v_j, without a
# normaliser. q, k, v are `(n, D)`, 0 < decay ≤ 1. One program walks over the chunks: write its
# loop.

# %% [markdown] role="prompt" exercise="10.6"
# decay^a is `tl.exp2(a * log2_decay)`. decay may be 0.0001: decay^{−15} is no float32, and no power
# that you need is negative.
#
# **Traffic limit**: each element of q, k and v loaded once, each of the result stored once.
#
# With decay = 1 it is plain linear attention; row 0 is always (q_0 · k_0) v_0.


# %% role="answer" exercise="10.6"
@triton.jit
def fading_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, log2_decay, D: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.arange(0, BLOCK)  # in the chunk
    cols = tl.arange(0, D)[None, :]
    state = tl.zeros((D, D), tl.float32)  # what the chunk before leaves
    # BEGIN SOLUTION
    for first in range(0, n, BLOCK):
        rows = first + place
        at_rows = rows[:, None] * D + cols
        in_rows = rows[:, None] < n
        q = tl.load(q_ptr + at_rows, mask=in_rows, other=0.0)
        k = tl.load(k_ptr + at_rows, mask=in_rows, other=0.0)
        v = tl.load(v_ptr + at_rows, mask=in_rows, other=0.0)
        age = place[:, None] - place[None, :]
        fade = tl.exp2(tl.where(age >= 0, age, 0) * log2_decay)
        own = tl.dot(q, tl.trans(k), input_precision="ieee")
        own = tl.where(age >= 0, own * fade, 0.0)
        out = tl.dot(own, v, input_precision="ieee")
        since = tl.exp2((place + 1) * log2_decay)  # how far the state has faded at each place
        out += tl.dot(q * since[:, None], state, input_precision="ieee")
        tl.store(out_ptr + at_rows, out, mask=in_rows)
        left = tl.exp2((BLOCK - 1 - place) * log2_decay)  # and each key at the end of the chunk
        state = state * tl.exp2(BLOCK * log2_decay)
        state += tl.dot(tl.trans(k * left[:, None]), v, input_precision="ieee")
    # END SOLUTION


def fading_attention(q, k, v, decay):
    """Return causal linear attention that forgets, (n, D)."""
    n, D = q.shape
    out = torch.full_like(q, float("nan"))  # what no program stores stays NaN
    fading_kernel[(1,)](q, k, v, out, n, float(np.log2(decay)), D=D, BLOCK=16)
    return out


# %% role="check" exercise="10.6"
check("10.6")

# %% [markdown] role="hints" exercise="10.6"
# 1. Let the state be Σ decay^{age} k_jᵀ v_j over the chunks before, aged at their last row. How old
#    is it for the first query of the chunk, and for the last?
# 2. A query sees its own chunk through a lower triangle with decay^{i−j} in it, and the state times
#    decay^{place + 1}. Then the state fades by decay^BLOCK, and key j of the chunk joins it with
#    decay^{BLOCK − 1 − place}.
# 3. With age = place[:, None] - place[None, :]: own = tl.where(age >= 0, own * fade, 0.0); out =
#    own v + (q · since) state; state = state · decay^BLOCK + (k · left)ᵀ v.


# %% role="spec" exercise="10.6"
def fading(q, k, v, decay):
    age = np.arange(len(q))[:, None] - np.arange(len(q))
    fade = np.where(age >= 0, decay ** np.maximum(age, 0), 0)
    return (fade * (q @ k.T) @ v).astype(q.dtype)


def fading_traffic(call):
    q = call.args[0]
    return Cost(4 * q.size * (q.shape[1] + 16), 3 * q.nbytes, q.nbytes, 0)


def random_fading(rng):
    n = int(rng.integers(34, 48))
    return qkv(f"random, n = {n}", (n, 16), 0.75)(rng)


SINCE, LEFT = "(place + 1) * log2_decay", "(BLOCK - 1 - place) * log2_decay"
STATE = """\
        left = tl.exp2((BLOCK - 1 - place) * log2_decay)  # and each key at the end of the chunk
        state = state * tl.exp2(BLOCK * log2_decay)
        state += tl.dot(tl.trans(k * left[:, None]), v, input_precision="ieee")
"""
FADE = "tl.exp2(tl.where(age >= 0, age, 0) * log2_decay)"

Spec(
    kind="kernel",
    reference=fading,
    cases=[
        qkv("1 token", (1, 16), 0.5),
        qkv("one chunk, nothing is forgotten", (16, 16), 1.0),
        qkv("one chunk", (16, 16), 0.5),
        qkv("two chunks, nothing is forgotten", (32, 16), 1.0),
        qkv("two chunks", (32, 16), 0.75),
        qkv("a last chunk of one token", (33, 16), 0.875),
        qkv("D = 32, odd length", (21, 32), 0.75),
        qkv("decay 0.0001", (20, 16), 0.0001),
        random_fading,
    ],
    traffic=fading_traffic,
    timed=qkv("n = 65536, D = 64", (65536, 64), 0.99),
    seconds=20.0,
    mistakes=[
        edit("own * fade", "own",
             says="your own chunk does not fade: only what comes through the state does",
             next="multiply the scores by decay^(i - j)"),
        edit(FADE, "(tl.exp2(place * log2_decay)[:, None] * tl.exp2(-place * log2_decay)[None, :])",
             says="your decay^(i - j) is decay^i · decay^-j, and decay^-j overflows",
             next="subtract first: tl.exp2((i - j) * log2_decay), with i >= j only"),
        edit(SINCE, "place * log2_decay",
             says="your state is one step too young: the chunk's first query is 1 after its end",
             next="decay^(place + 1)"),
        edit("q * since[:, None]", "q",
             says="your state does not fade within the chunk",
             next="multiply row `place` of q by decay^(place + 1)"),
        edit(" * tl.exp2(BLOCK * log2_decay)", "",
             says="your state does not fade from chunk to chunk",
             next="multiply it by decay^BLOCK before the chunk joins"),
        edit("BLOCK * log2_decay", "log2_decay",
             says="your state fades by one step a chunk",
             next="a chunk is BLOCK steps: decay^BLOCK"),
        edit("k * left[:, None]", "k",
             says="your chunk joins the state as if all its keys were as young as the last",
             next="multiply key `place` by decay^(BLOCK - 1 - place)"),
        edit(LEFT, "(BLOCK - place) * log2_decay",
             says="your keys are one step too old when they join the state",
             next="the last key of the chunk joins with decay^0: BLOCK - 1 - place"),
        edit(LEFT, "place * log2_decay",
             says="your keys join the state aged the wrong way round: the last one is the oldest",
             next="decay^(BLOCK - 1 - place)"),
        edit("age >= 0, own", "age > 0, own",
             says="your queries do not see their own key",
             next="age >= 0"),
        edit("age >= 0, own * fade, 0.0", "age > -BLOCK, own * fade, 0.0",
             says="your queries see the later keys of their chunk",
             next="keep the scores where age >= 0"),
        edit("out += tl.dot(q * since[:, None], state,", "out += 0.0 * tl.dot(q, state,",
             says="your queries see their own chunk only",
             next="add (q · since) state"),
        edit(STATE, "", "        since = ", STATE + "        since = ",
             says="your chunk joins the state before its queries have used it: they see it twice",
             next="out and its store first, then the state"),
        edit("tl.trans(k * left[:, None]), v", "tl.trans(v), k * left[:, None]",
             says="your state is transposed: vᵀ k instead of kᵀ v",
             next="rows of the state belong to k, columns to v"),
        edit("        v = tl.load(v_ptr + at_rows, mask=in_rows, other=0.0)\n",
             "        v = tl.load(v_ptr + at_rows, mask=in_rows, other=0.0)\n"
             "        state = tl.zeros((D, D), tl.float32)\n"
             "        for start in range(0, first, BLOCK):\n"
             "            back = (first - start) * D\n"
             "            old = tl.load(k_ptr + at_rows - back)\n"
             "            old = old * tl.exp2((first - start - 1 - place) * log2_decay)[:, None]\n"
             "            values = tl.load(v_ptr + at_rows - back)\n"
             '            state += tl.dot(tl.trans(old), values, input_precision="ieee")\n',
             says="your program loads all earlier chunks again for each chunk",
             next="what they leave is in the state: load each chunk once"),
    ],
    alternatives=[
        edit("q * since[:, None], state,", "q, state,",  # the output fades, not q
             'out += tl.dot(q, state, input_precision="ieee")',
             'out += tl.dot(q, state, input_precision="ieee") * since[:, None]',
             "tl.trans(k * left[:, None]), v", "tl.trans(k), v * left[:, None]"),
        edit(FADE, 'tl.exp2(tl.where(age >= 0, age * log2_decay, float("-inf")))',
             "tl.where(age >= 0, own * fade, 0.0)", "own * fade"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.7"
# ## 10.7 Occupancy by hand
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/10_tuning.ipynb#Occupancy-by-hand)
#
# An SM of an H100 holds at most 64 warps of 32 threads, 32 programs, 65,536 registers and 228 KiB
# of shared memory. A warp gets its registers in whole lots of 256. Each program takes 1 KiB of
# shared memory besides its own.

# %% [markdown] role="prompt" exercise="10.7"
# A program has `warps` warps (4, 8 or 16), `registers` a thread, `shared_kib` of its own. Return a
# pair: how many programs an SM runs at once, and the most registers a thread may have so that it
# runs one more; 0 if something else forbids that.
#
# `programs_at_once(4, 168, 64)`: (3, 0). With `shared_kib` = 32: (3, 128).


# %% role="answer" exercise="10.7"
def programs_at_once(warps, registers, shared_kib):
    """Return the programs at once, and the most registers a thread for one program more."""
    # BEGIN SOLUTION
    room = min(64 // warps, 32, 228 // (shared_kib + 1))
    per_warp = -(-registers * 32 // 256) * 256
    programs = min(room, 65536 // (per_warp * warps))
    if programs == room:
        return programs, 0
    most = 65536 // ((programs + 1) * warps) // 256 * 256
    return programs, most // 32
    # END SOLUTION


# %% role="check" exercise="10.7"
check("10.7")

# %% [markdown] role="hints" exercise="10.7"
# 1. Four things can run out. How many programs does each of them allow? The least number wins.
# 2. A warp takes 32 · registers, rounded up to a multiple of 256. For one program more, divide
#    65,536 among all warps, and round each one's share down to a multiple of 256.
# 3. room = min(64 // warps, 32, 228 // (shared_kib + 1)); programs = min(room, 65536 // (per_warp *
#    warps)); if programs < room, 65536 // ((programs + 1) * warps) // 256 * 8 registers.


# %% role="spec" exercise="10.7"
def programs_by_search(warps, registers, shared_kib):
    def fit(per_thread):
        lots = n_tiles(32 * per_thread, 256)
        count = 0
        while (
            (count + 1) * warps <= 64
            and count < 32
            and (count + 1) * warps * lots <= 256
            and (count + 1) * (shared_kib + 1) <= 228
        ):
            count += 1
        return count

    now = fit(registers)
    return now, max((fewer for fewer in range(1, registers) if fit(fewer) > now), default=0)


def programs_by_lots(warps, registers, shared_kib):
    lots = (registers + 7) // 8
    limits = [64 // warps, 32, 228 // (shared_kib + 1)]
    programs = min(*limits, 256 // (lots * warps))
    fits = all(programs < limit for limit in limits)
    return programs, 256 // ((programs + 1) * warps) * 8 if fits else 0


PER_WARP = "-(-registers * 32 // 256) * 256"

Spec(
    kind="number",
    cases=[
        case("8 registers, 1 KiB: the warps run out", 4, 8, 1),
        case("168 registers, 64 KiB", 4, 168, 64),
        case("168 registers, 32 KiB", 4, 168, 32),
        case("255 registers", 4, 255, 16),
        case("8 warps, 128 registers", 8, 128, 48),
        case("169 registers: one more than whole lots", 4, 169, 16),
        case("16 warps of 168 registers: not even one", 16, 168, 100),
        case("shared memory of nearly all", 8, 64, 227),
        case("more shared memory than there is", 4, 64, 228),
        case("113 KiB, twice", 4, 128, 113),
        case("114 KiB, once", 4, 64, 114),
        case("8 warps of 40 registers", 8, 40, 8),
        *draws(6, lambda rng: (int(rng.choice((4, 8, 16))), *rng.integers((40, 1), (256, 70)))),
    ],
    mistakes=[
        edit("return programs, most // 32", "return programs, 0",
             says="your second number is always 0",
             next="where only registers run out, fewer of them make room for one program more"),
        edit(PER_WARP, "registers * 32",
             says="your registers are not rounded up to whole lots",
             next="a warp takes 32 · registers, rounded up to a multiple of 256"),
        edit(PER_WARP, "registers",
             says="your warps take the registers of one thread",
             next="a warp has 32 threads"),
        edit("(per_warp * warps)", "per_warp",
             says="your programs take the registers of one warp",
             next="a program has `warps` warps"),
        edit("(shared_kib + 1)", "max(1, shared_kib)",
             says="your programs take only their own shared memory",
             next="each takes 1 KiB besides"),
        edit("64 // warps, 32, ", "32, ",
             says="your warps never run out: 64 is a limit of warps, not of programs",
             next="at most 64 warps are 64 // warps programs",
             also=[edit("64 // warps, 32, ", "64, 32, ")]),
        edit(", 228 // (shared_kib + 1)", "",
             says="your shared memory does not run out",
             next="228 // (shared_kib + 1) programs"),
        edit("    if programs == room:\n        return programs, 0\n", "",
             says="your second number forgets that something else may forbid one program more",
             next="0 if the warps, the programs or the shared memory allow no more"),
        edit(" // 256 * 256\n    return", "\n    return",
             says="your second number is not rounded down to whole lots",
             next="a warp's share is a multiple of 256 registers: round down"),
        edit("(programs + 1) * warps", "max(1, programs) * warps",
             says="your second number is for as many programs as there are now",
             next="one more: divide among (programs + 1) * warps warps"),
        edit("most // 32", "most",
             says="your second number is of a warp",
             next="divide by 32: asked are the registers of a thread"),
    ],
    alternatives=[programs_by_search, programs_by_lots],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="10.8"
# ## 10.8 Six planted bugs
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/10_tuning.ipynb#Six-bugs)
#
# One query a head, as when text is written token by token: q `(H, D)`, k and v `(H, n, D)`. The
# code below is right where n and D are powers of two. It has six bugs: copy and repair it.

# %% [markdown] role="prompt" exercise="10.8"
# `N` and `WIDTH` are n and D, rounded up to powers of two. `from attncourse import trace` helps:
# `trace.record(broken_token, q, k, v)` shows what is read and written, and where out of bounds.
#
# **Traffic limit**: each element loaded once, each of the result stored once.


# %% role="prompt" exercise="10.8"
@triton.jit
def broken_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D, scale, N: tl.constexpr, WIDTH: tl.constexpr):
    head = tl.program_id(0)
    keys, cols = tl.arange(0, N), tl.arange(0, WIDTH)
    at_keys = head * N * D + keys[:, None] * WIDTH + cols[None, :]
    in_keys = (keys[:, None] < n) & (cols[None, :] < D)
    q = tl.load(q_ptr + head * D + cols)
    k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
    v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
    scores = tl.sum(k * q[None, :], 1) * scale
    weights = tl.exp(scores - tl.max(scores, 0))
    out = tl.sum(weights[:, None] * v, 0) / tl.sum(weights, 0)
    tl.store(out_ptr + head * D + cols, out)


# %% role="prompt" exercise="10.8"
def broken_token(q, k, v):
    heads, n, D = k.shape
    N, WIDTH = triton.next_power_of_2(n), triton.next_power_of_2(D)
    out = torch.full_like(q, float("nan"))  # what no program stores stays NaN
    broken_kernel[(heads,)](q, k, v, out, n, D, WIDTH**-0.5, N, WIDTH)
    return out


# %% role="answer" exercise="10.8"
@triton.jit
def token_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D, scale, N: tl.constexpr, WIDTH: tl.constexpr):
    # BEGIN SOLUTION
    head = tl.program_id(0)
    keys, cols = tl.arange(0, N), tl.arange(0, WIDTH)
    at_keys = head * n * D + keys[:, None] * D + cols[None, :]
    in_keys = (keys[:, None] < n) & (cols[None, :] < D)
    q = tl.load(q_ptr + head * D + cols, mask=cols < D, other=0.0)
    k = tl.load(k_ptr + at_keys, mask=in_keys, other=0.0)
    v = tl.load(v_ptr + at_keys, mask=in_keys, other=0.0)
    scores = tl.sum(k * q[None, :], 1) * scale
    scores = tl.where(keys < n, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 0))
    out = tl.sum(weights[:, None] * v, 0) / tl.sum(weights, 0)
    tl.store(out_ptr + head * D + cols, out, mask=cols < D)
    # END SOLUTION


def next_token(q, k, v):
    """Return attention of one query a head, (H, D)."""
    # BEGIN SOLUTION
    heads, n, D = k.shape
    N, WIDTH = triton.next_power_of_2(n), triton.next_power_of_2(D)
    out = torch.full_like(q, float("nan"))  # what no program stores stays NaN
    token_kernel[(heads,)](q, k, v, out, n, D, D**-0.5, N, WIDTH)
    return out
    # END SOLUTION


# %% role="check" exercise="10.8"
check("10.8")

# %% [markdown] role="hints" exercise="10.8"
# 1. Try n = 8 with D = 5, then n = 11 with D = 8, both with two heads: each shows bugs of its own.
#    Suspect every use of N and WIDTH, and every load and store without a mask.
# 2. Four bugs are about D: two masks that are missing, the step from key to key, and the scale. Two
#    are about n: the step from head to head, and the score of a key beyond the end.
# 3. mask=cols < D at q and at the store; head * n * D + keys[:, None] * D; D**-0.5 in the launcher;
#    scores = tl.where(keys < n, scores, float("-inf")).


# %% role="spec" exercise="10.8"
def token_case(name, heads, n, width, longer=1.0):
    def change(q, k, v):
        q[0] *= longer
        return q, k, v

    return normal(name, (heads, width), *[(heads, n, width)] * 2, change=change)


def token_traffic(call):
    q, k, _ = call.args
    return Cost(4 * k.size, q.nbytes + 2 * k.nbytes, q.nbytes, 0)


def random_token(rng):
    heads, n, width = (int(x) for x in rng.integers((2, 9, 9), (4, 16, 16)))
    return token_case(f"random, H, n, D = {heads}, {n}, {width}", heads, n, width)(rng)


OF_Q = ("mask=cols < D, other=0.0", "mask=cols < WIDTH, other=0.0")
OF_HEADS, OF_KEYS = ("head * n * D", "head * N * D"), ("keys[:, None] * D", "keys[:, None] * WIDTH")
OF_SCORES = ('    scores = tl.where(keys < n, scores, float("-inf"))\n', "")
OF_STORE, OF_SCALE = (", out, mask=cols < D", ", out"), ("D**-0.5", "WIDTH**-0.5")

Spec(
    kind="kernel",
    reference=lambda q, k, v: full.attention(q[:, None], k, v)[:, 0],
    cases=[
        token_case("one key, D = 1", 1, 1, 1),
        token_case("8 keys, D = 8", 2, 8, 8),
        token_case("16 keys, D = 4", 2, 16, 4),
        token_case("8 keys, D = 5", 2, 8, 5),
        token_case("11 keys, D = 8", 2, 11, 8),
        token_case("3 heads, 13 keys, D = 6", 3, 13, 6),
        token_case("a query 200 times longer", 2, 19, 12, longer=200),
        random_token,
    ],
    traffic=token_traffic,
    timed=token_case("16384 heads, n = 64, D = 64", 16384, 64, 64),
    seconds=20.0,
    mistakes=[
        edit(*OF_Q, *OF_HEADS, *OF_KEYS, *OF_SCORES, *OF_STORE, *OF_SCALE,
             says="all six bugs are still there: this is the given kernel",
             next="begin with n = 8, D = 5: what does the tracer say of q and of out?"),
        edit(*OF_Q,
             says="a bug is left: q is loaded beyond D",
             next="mask=cols < D, other=0.0"),
        edit(*OF_HEADS,
             says="a bug is left: your heads lie N rows apart, but in memory they lie n rows apart",
             next="head * n * D"),
        edit(*OF_KEYS,
             says="a bug is left: your keys lie WIDTH apart, but in memory they lie D apart",
             next="keys[:, None] * D"),
        edit(*OF_SCORES,
             says="a bug is left: keys beyond the end take part with the score 0",
             next="set their scores to -inf before the maximum is taken"),
        edit(*OF_STORE,
             says="a bug is left: the store goes on beyond D, into the row of the next head",
             next="mask=cols < D in tl.store, too"),
        edit(*OF_SCALE,
             says="a bug is left: the scale is that of the padded width",
             next="D**-0.5"),
        edit("(keys[:, None] < n) & (cols[None, :] < D)", "cols[None, :] < D",
             says="your in_keys lets keys beyond the end through: it was right in the given code",
             next="(keys[:, None] < n) & (cols[None, :] < D)"),
    ],
    alternatives=[
        edit('scores = tl.where(keys < n, scores, float("-inf"))',
             'scores = scores + tl.where(keys < n, 0.0, float("-inf"))'),
        edit("weights = tl.exp(scores - tl.max(scores, 0))",
             "weights = tl.where(keys < n, tl.exp(scores - tl.max(scores, 0)), 0.0)", *OF_SCORES),
        edit("head * n * D + keys[:, None] * D", "(head * n + keys[:, None]) * D",
             "n, D, D**-0.5", "n, D, 1 / np.sqrt(D)"),
    ],
)  # fmt: skip

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/10_triton.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
