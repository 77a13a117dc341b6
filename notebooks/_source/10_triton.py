# %% [markdown]
# # 10 · Triton: from a pointer to flash
#
# A GPU knows addresses, not arrays, and thousands of programs running the same code. You write it
# from scratch: six kernels, each with one idea more, their bytes counted. [Part
# two](10_tuning.ipynb) asks what a GPU makes of them.
#
# <!-- summary: Triton from the first line: vector add, softmax, a product, flash, window and scan
# as kernels, each played tile by tile; missing masks, coalescing, races, and who owns a tile. -->

# %% role="setup"
import itertools
import os

for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded
os.environ["TRITON_INTERPRET"] = "1"  # here we watch kernels, also where a GPU could run them

import numpy as np
from IPython.display import display

from attncourse import claims, cost, measure, plots, widgets
from attncourse.grading.stand_ins import tl, torch, triton
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, linear, window
from attncourse.units import format_bytes

# %% [markdown]
# The interpreter runs kernels on the CPU, one program after the other, and a recorder notes every
# access. Triton is made for Linux. Elsewhere all cells that run a kernel do nothing, and the
# pictures are those stored on this page: read them, and do not run their cells.

# %%
if torch:
    from attncourse import trace
print("kernels run in Triton's interpreter" if torch else "no Triton here: kernels are skipped")

# %% [markdown] covers="S3"
# ## One program, one tile
#
# Add two vectors of a million numbers. A program for each number would be a million programs to
# start, each waiting for its four bytes. One program for all leaves 131 of an H100's 132 processors
# without work.
#
# So each program takes a *tile*: a block of numbers, on which each operation works as a whole.

# %% [markdown]
# A program knows only its number, and where the vectors begin. The rest is arithmetic. For ten
# numbers in tiles of four, by hand:

# %%
for program in range(3):
    at = program * 4 + np.arange(4)
    print(f"program {program}: offsets {at}, inside {at < 10}")

# %% [markdown]
# The last tile overruns the vector: its last two *lanes*, as the places in a tile are called, have
# nothing to do, and the mask says so. In Triton these are the first two lines of five (the six
# words, *program, pointer, offset, mask, load and store, dot*, are explained in
# [a kernel in twenty lines](04_window.ipynb#A-kernel-in-twenty-lines)):


# %%
@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # which numbers are mine
    inside = at < n
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    y = tl.load(y_ptr + at, mask=inside, other=0.0)
    tl.store(out_ptr + at, x + y, mask=inside)


# %% [markdown]
# Whoever launches it says how many programs there are: the *grid*, in square brackets. `BLOCK` is
# fixed when the kernel is compiled, and a power of two.


# %%
def added(x, y, BLOCK=256):
    """Return x + y."""
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(len(x), BLOCK),)](x, y, out, len(x), BLOCK=BLOCK)
    return out


# %%
runs = {}
if torch:
    drawn = stream("vectors", 0).standard_normal((2, 1000)).astype(np.float32)
    runs["add"] = trace.record(added, *torch.from_numpy(drawn))
    np.testing.assert_array_equal(runs["add"].result, drawn[0] + drawn[1])
    print(runs["add"])

# %% [markdown]
# **This picture stays with us.** Left the grid of programs, beside it each tensor as it lies in
# memory; the slider goes from access to access. Below, the bytes that have moved, and a mark at
# the least possible: each tensor once.

# %% folded=true
if torch:
    live_add = plots.LiveRun({"add": runs["add"]})
    display(widgets.explore(live_add.draw, live_add.figure, step=(0, live_add.steps, 1, 8)))

# %% [markdown]
# The last tile of `x` is shorter, since the mask cut it. How much is lost to such lanes? Take one
# number more than a tile holds:

# %% folded=true
widgets.guess(
    "1025 numbers in tiles of 1024: how many percent of all lanes have nothing to do?",
    lambda: 100 * (1 - 1025 / 2048),
    unit="%",
    explain="Two programs, 2048 lanes, and the second program adds one number.",
)

# %% folded=true
lengths = np.arange(1, 4097)
live_lanes = plots.LiveCurves(
    lengths, {"idle": 0.0 * lengths}, x_label="n", y_label="idle lanes in %", high=100
)


def draw_lanes(n, tile):
    programs = -(-lengths // tile)
    idle = 100 * (1 - lengths / (programs * tile))
    live_lanes.update({"idle": idle}, f"tiles of {tile}", at=n)
    return f"n = {n}, tiles of {tile}: {programs[n - 1]} programs, {idle[n - 1]:.1f} % idle lanes."


some = widgets.choice([64, 256, 1024], 256)
widgets.explore(draw_lanes, live_lanes.figure, n=(1, 4096, 1, 300), tile=some)

# %% [markdown]
# The teeth get lower with each tile more: what counts is how many tiles there are.
# [Exercise 10.1](../exercises/10_triton.ipynb#10.1-Add-two-vectors) is your first kernel.

# %% [markdown] covers="W9"
# ## Where the tensor ends
#
# Forget a mask, and what happens? Often nothing. That is what makes it dangerous. Here is a kernel
# that doubles a matrix in place, in tiles of 4 × 4. It masks the rows and forgets the columns.


# %%
@triton.jit
def double_kernel(x_ptr, n_rows, n_cols, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = rows[:, None] * n_cols + cols[None, :]
    inside = (rows < n_rows)[:, None]  # and the columns?
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    tl.store(x_ptr + offsets, 2 * x, mask=inside)


# %%
def doubled(n_cols, n_rows=7):
    """Double a matrix of ones in place, as the kernel does it."""
    x = torch.ones(n_rows, n_cols)
    double_kernel[(triton.cdiv(n_rows, 4), triton.cdiv(n_cols, 4))](x, n_rows, n_cols, BLOCK=4)
    return x


spoiled = {n_cols: trace.record(doubled, n_cols) for n_cols in range(5, 13)} if torch else {}
for n_cols, run in spoiled.items():
    right = bool((run.result == 2).all())
    beyond = f"{len(run.out_of_bounds)} accesses out of bounds"
    print(f"{n_cols:>2} columns: {'right' if right else 'WRONG'}, {beyond}")

# %% [markdown]
# With 8 and with 12 columns it is right, and a test with a round size would pass. What goes wrong
# at 6? Each element should be 2. Start at 6 columns, then go to 8.

# %% folded=true
if torch:
    times = {"x": "column", "y": "row", "words": ("untouched", "doubled once", "doubled again")}
    live_spoiled = plots.LiveHeatmap(np.zeros((7, 6)), title=" ", **times)

    def draw_spoiled(columns):
        values = np.log2(spoiled[columns].result.numpy()).clip(0, 2)
        live_spoiled.update(values, f"7 × {columns}, tiles of 4 × 4")
        beyond = sum(access.out_of_bounds for access in spoiled[columns].out_of_bounds)
        again = int((values == 2).sum())
        return f"{columns} columns: {again} numbers doubled twice, {beyond} lanes out of bounds."

    display(widgets.explore(draw_spoiled, live_spoiled.figure, columns=(5, 12, 1, 6)))

# %% [markdown]
# Column 6 of row 2 has the address of row 3, column 0. The tile at the right edge doubles **its
# neighbour's numbers**, and no tool objects to a valid address. Only at the last row does it leave
# the tensor. There `trace` notes it and protects other memory; on a GPU it is someone else's
# data, or a crash.

# %% [markdown] covers="O7"
# ### Padding, and what it wastes
#
# Masks fit a tile to any matrix. But the tile itself must suit the hardware: in Triton its sides
# are powers of two, and a dot sums over 16 numbers at least (if the other sides are smaller, the
# compiler pads them). What lies beyond the matrix is multiplied as zeros, for nothing.

# %%
for width in (16, 48, 64, 80, 96, 128, 160):
    whole = max(16, 2 ** int(np.ceil(np.log2(width))))
    print(f"heads of {width:>3}: tile of {whole:>3}, {1 - width / whole:4.0%} of the work is zeros")

# %% [markdown]
# A head of 80 pays for 128. Text lengths matter less: of many tiles only the last one is cut. What
# do tensor cores want? A textbook says:

# %%
claims.check("C142")

# %% [markdown]
# The check to keep: **ask for bytes, not for numbers**. A float16 is half a float32.
#
# ## A row at a time
#
# The softmax of each row of a matrix: one program, one row. A row of 50 needs a tile of 64: what
# stands in the 14 lanes beyond? Zeros do no harm to a sum, so `other=0.0`, as before:

# %%
row = np.array([1.0, 2.0, 0.5])
for beyond in (0.0, -np.inf):
    tile = np.exp(np.append(row, beyond))
    print(f"padded with {beyond:>4}: weights {np.round(tile / tile.sum(), 3)[:3]}", end=", ")
    print(f"together {tile[:3].sum() / tile.sum():.3f}")

# %% [markdown]
# $e^0 = 1$: a lane that does not exist took a share. **Padding must be what changes nothing**: 0
# for a sum, $-\infty$ for a maximum, and for a softmax too.


# %%
@triton.jit
def softmax_kernel(x_ptr, out_ptr, n_cols, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < n_cols
    offsets = tl.program_id(0) * n_cols + cols
    x = tl.load(x_ptr + offsets, mask=inside, other=float("-inf"))  # [BLOCK]
    weights = tl.exp(x - tl.max(x, 0))
    tl.store(out_ptr + offsets, weights / tl.sum(weights, 0), mask=inside)


# %% [markdown]
# Everything between load and store happens in registers. NumPy makes five passes over the matrix:
# maximum, subtract, exp, sum, divide. Each reads it; three write it back.

# %% folded=true
widgets.guess(
    "A matrix that fits in no cache: how many times as many bytes do NumPy's five passes move?",
    lambda: (5 + 3) / (1 + 1),
    unit="times",
    explain="Five reads and three writes, instead of one of each.",
)


# %%
def softmax_rows(x):
    """Return the softmax of each row."""
    out = torch.empty_like(x)
    BLOCK = triton.next_power_of_2(x.shape[1])
    softmax_kernel[(len(x),)](x, out, x.shape[1], BLOCK=BLOCK)
    return out


# %%
if torch:
    scores = stream("rows", 0).standard_normal((20, 50)).astype(np.float32)
    runs["softmax"] = trace.record(softmax_rows, torch.from_numpy(scores))
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(runs["softmax"].result, expected, rtol=1e-5)
    assert runs["softmax"].bytes_loaded() == runs["softmax"].bytes_stored() == scores.nbytes
    print(runs["softmax"])

# %% [markdown]
# Each element is read once and written once: the least possible. The price is that a whole row
# must fit in the registers of one program. A row of a million keys does not; then one needs
# [the online softmax](09_flash.ipynb#The-online-softmax), and we come to it.
# [Exercise 10.2](../exercises/10_triton.ipynb#10.2-Softmax-of-rows) counts your loads.

# %% [markdown] covers="O9"
# ## A tile of a product
#
# Nearly all of attention's arithmetic is in two matrix products. Take $C = A B$, all $n \times n$.
# The simplest program makes one number of $C$: it loads a row of $A$ and a column of $B$.

# %% folded=true
widgets.guess(
    "n = 4096 in float16, where each matrix is 34 MB: how much do all programs load together, if "
    "each makes one number?",
    lambda: 2 * 4096**3 * 2,
    unit="B",
    explain="n² programs load 2n numbers each. At an H100's 3.35 TB/s that is 82 ms; its tensor "
    "cores could have multiplied in 0.14 ms.",
)

# %% [markdown]
# Each number is loaded $n$ times, and used once each time. So let a program make a tile of
# $b \times b$, from $n / b$ pairs of tiles:
#
# $$ \underbrace{(n/b)^2}_{\text{programs}} \cdot \underbrace{n/b}_{\text{steps}} \cdot
#    \underbrace{2 b^2}_{\text{loaded}} \;=\; \frac{2 n^3}{b} $$
#
# Twice the tile, half the bytes. The arithmetic stays: $2n^3$. So a byte of float16 feeds $b / 2$
# operations.


# %%
@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr, M, N, K, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        in_a = (rows < M)[:, None] & (inner < K)[None, :]
        in_b = (inner < K)[:, None] & (cols < N)[None, :]
        a = tl.load(a_ptr + rows[:, None] * K + inner[None, :], mask=in_a, other=0.0)
        b = tl.load(b_ptr + inner[:, None] * N + cols[None, :], mask=in_b, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")  # acc + a b
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc, mask=inside)


# %%
def product(a, b, BLOCK=16):
    """Return a b."""
    (M, K), N = a.shape, b.shape[1]
    out = a.new_empty(M, N)
    product_kernel[(triton.cdiv(M, BLOCK), triton.cdiv(N, BLOCK))](a, b, out, M, N, K, BLOCK=BLOCK)
    return out


# %%
if torch:
    drawn = stream("factors", 0).standard_normal((2, 64, 64)).astype(np.float32)
    a, b = torch.from_numpy(drawn)
    products = {f"tiles of {BLOCK}": trace.record(product, a, b, BLOCK) for BLOCK in (16, 32, 64)}
    for (name, run), BLOCK in zip(products.items(), (16, 32, 64), strict=True):
        np.testing.assert_allclose(run.result, drawn[0] @ drawn[1], atol=1e-4)
        assert run.bytes_loaded() == 2 * 64**3 // BLOCK * 4
        print(f"{name}: loaded {format_bytes(run.bytes_loaded())}, as predicted")
    odd = trace.record(product, a[:50, :37].contiguous(), b[:37, :41].contiguous())
    np.testing.assert_allclose(odd.result, drawn[0][:50, :37] @ drawn[1][:37, :41], atol=1e-4)
    runs["product"] = odd

# %% [markdown]
# Prediction and count agree, and an odd product, 50 × 37 by 37 × 41, comes out right too. Slide:
# which tiles of `b` does a program need, and who needs them again?

# %% folded=true
if torch:
    live_product = plots.LiveRun(products | {"odd sizes": odd})
    sizes = list(live_product.runs)
    slider = (0, live_product.steps, 1, 22)
    shown = live_product.figure
    display(widgets.explore(live_product.draw, shown, step=slider, kernel=sizes))

# %% [markdown]
# How large a tile does it take? A device's *ridge*, in operations per byte, is what it must be fed
# so that computing, and not memory, is the limit ([chapter 01](01_bottleneck.ipynb)).

# %%
for name in ("A100 40 GB", "H100 80 GB"):
    device = cost.DEVICES[name]
    ridge = device.peak("float16") / device.bytes_per_second
    print(f"{name}: ridge {ridge:.0f} operations a byte, so tiles of {2 * ridge:.0f} without help")

# %% [markdown]
# No such tile fits on chip. The help is the L2 cache: programs that run at the same time load the
# same tiles, and only the first of them goes to memory.
# [Exercise 10.3](../exercises/10_triton.ipynb#10.3-A-tile-of-a-product) has its bytes graded.

# %% [markdown] covers="F29"
# ### Neighbours come along
#
# Bytes asked for are not bytes fetched. Memory hands out *sectors* of 32 bytes, eight numbers of
# float32. Lanes that ask for neighbours share a sector: the access is *coalesced*. A matrix of
# 16 × 16, stored row by row; which sixteen numbers are dear?

# %% folded=true
at = np.arange(256).reshape(16, 16)
asked_for = {
    "a row": at[5],
    "a column": at[:, 5],
    "a tile of 4 × 4": at[4:8, 4:8],
    "16 gathered numbers": stream("gathered", 0).choice(256, 16, replace=False),
    "two whole sectors": at[[3, 11], :8],
}


# %% folded=true
kinds = {"x": "column", "y": "row", "words": ("stays", "comes along", "asked for")}
live_sectors = plots.LiveHeatmap(np.zeros((16, 16)), title=" ", **kinds)


def draw_sectors(load):
    numbers = np.ravel(asked_for[load])
    fetched = np.isin(at // 8, numbers // 8)
    live_sectors.update(fetched + 1.0 * np.isin(at, numbers), load)
    return f"For {load} {fetched.sum() // 8} sectors come: {16 / fetched.sum():.0%} is of use."


widgets.explore(draw_sectors, live_sectors.figure, load=list(asked_for))

# %% [markdown]
# A column costs eight times a row, so tiles should lie along rows. A whole *key*, 64 numbers of
# float16, is four sectors, and wastes none even gathered alone. Then why are patterns of single
# keys slow? As many scores, once with 64 keys of its own for each query, once with a block of 64
# that 64 queries share:

# %%
long_q, long_k = (array[0, 0] for array in random_qkv(2048)[:2])
single = stream("single", 0).integers(0, 2048, (2048, 64))
block_of = stream("blocks", 0).permutation(32)
ways = {
    "keys of its own": lambda: (long_k[single] @ long_q[:, :, None])[..., 0],
    "a shared block": lambda: (
        long_q.reshape(32, 64, 64) @ long_k.reshape(32, 64, 64)[block_of].swapaxes(1, 2)
    ),
}
sizes = {way: scores().size for way, scores in ways.items()}
print("scores:", sizes)

# %% tags=["nbval-ignore-output"]
took = {way: measure.seconds(scores, repeats=9).median for way, scores in ways.items()}
for way, seconds in took.items():
    print(f"{way:<16} {sizes[way] / seconds / 1e6:5.0f} million scores a second")
claims.check("C144")

# %% [markdown]
# A block is loaded once and used by 64 queries: one product of matrices. Keys of one's own are
# loaded 64 times as often, and are used once each, where no dot can help. The check to keep: **ask
# which theory a share is a share of**; the card counts operations, on this CPU.

# %% [markdown] covers="W15"
# ## Two programs, one address
#
# So far every number of `out` had one program that wrote it. What if two write to one place? Say,
# the sums of columns, each program adding its rows to the same `out`. Load, add, store:


# %%
@triton.jit
def column_sums_kernel(x_ptr, out_ptr, order_ptr, n_rows, HOW: tl.constexpr, BLOCK: tl.constexpr):
    turn = tl.load(order_ptr + tl.program_id(0))  # which tile it takes: so we can change the order
    rows, cols = turn * BLOCK + tl.arange(0, BLOCK), tl.arange(0, 16)
    x = tl.load(x_ptr + rows[:, None] * 16 + cols, mask=(rows < n_rows)[:, None], other=0.0)
    sums = tl.sum(x, 0)
    if HOW == "store":
        tl.store(out_ptr + cols, sums)
    elif HOW == "load, add, store":
        tl.store(out_ptr + cols, tl.load(out_ptr + cols) + sums)
    else:
        tl.atomic_add(out_ptr + cols, sums)


# %%
def column_sums(x, how, order):
    """Return the sums of the 16 columns, the tiles taken in this order."""
    out = x.new_zeros(16)
    column_sums_kernel[(len(order),)](x, out, order, len(x), HOW=how, BLOCK=16)
    return out


# %%
hows = ("store", "load, add, store", "atomic add")
if torch:
    x = torch.from_numpy(stream("columns", 0).standard_normal((120, 16)).astype(np.float32))
    orders = [torch.from_numpy(stream("order", 0, i).permutation(8)) for i in range(8)]
    found = {how: torch.stack([column_sums(x, how, order) for order in orders]) for how in hows}
    for how, sums in found.items():
        apart, off = sums.max(0)[0] - sums.min(0)[0], (sums - x.sum(0)).abs().max()
        agree = "all orders agree" if apart.max() < 1e-4 else "the order decides"
        print(f"{how:<17} {agree}; {'right' if off < 1e-4 else 'wrong'}")

# %% [markdown]
# Changing the order unmasks the first one: the last to write wins. The second looks fine, in every
# order. **It is wrong.** The interpreter runs one program to its end before the next begins. A GPU
# runs them together, and a program may load what another is about to change.

# %% folded=true
widgets.guess(
    "1000 programs each load a counter, add 1 and store it. It began at 0, and all run at once: "
    "what can it show at the least?",
    lambda: 1,
    unit="",
    explain="All load 0 before the first one stores. Then all of them store 1.",
)

# %% [markdown]
# Two programs, A and B, are four steps. All six ways to interleave them, by hand:

# %%
for order in sorted(set(itertools.permutations("AABB"))):
    counter, loaded = 0, {}
    for program in order:
        if program in loaded:
            counter = loaded[program] + 1  # its second step: store
        else:
            loaded[program] = counter  # its first: load
    print(" ".join(order), "->", counter, "" if counter == 2 else "one is lost")

# %% [markdown]
# An *atomic* add does all three at once, so nothing is lost. But who comes first is open, and
# floating-point sums depend on the order: two runs need not give the same bits. And each program
# reads and writes all of `out`:

# %%
if torch:
    atomics = trace.record(column_sums, x, "atomic add", orders[0])
    different = len({tuple(sums.tolist()) for sums in found["atomic add"]})
    print("8 orders gave", "more than one result" if different > 1 else "one result")
    print(f"out has {16 * 4} bytes; {atomics.bytes_stored('out')} were written")

# %% [markdown]
# So this course keeps a rule: **each tile of the output has one owner.** The owner walks over
# everything that its tile needs, and stores once. Then there is nothing to race for, and each run
# gives the same bits. Whether a kernel keeps it, its trace can tell in every run, whatever the
# order:


# %%
def overlap(ours, theirs):
    """Whether two spans share a place; None is a whole axis."""
    return not (ours and theirs) or max(ours[0], theirs[0]) < min(ours[1], theirs[1])


# %%
def shared(run):
    """The pairs of programs that store to the same place of a tensor."""
    stores = [one for one in run.accesses if one.kind != "load"]
    return {
        (one.program, other.program)
        for one, other in itertools.combinations(stores, 2)
        if (one.tensor, one.program != other.program) == (other.tensor, True)
        and overlap(one.rows, other.rows)
        and overlap(one.columns, other.columns)
    }


# %%
if torch:
    racing = trace.record(column_sums, x, "load, add, store", orders[0])
    print("column sums:", len(shared(racing)), "pairs of programs share a place")
    print("product:    ", len(shared(runs["product"])))

# %% [markdown] covers="S3"
# ## The loop of flash
#
# Attention is product, softmax, product. Three kernels do it, and between them the scores travel to
# memory and back: $4 n^2$ numbers ([chapter 09](09_flash.ipynb#Count-the-traffic)). One kernel
# keeps them on chip. It owns a tile of queries, walks over the tiles of keys, and does the online
# softmax for all its rows at once.

# %% [markdown]
# A few pieces first. `load_rows` and `store_rows` move rows of an $(n, D)$ matrix. The second
# number of a program is its head; with one head it is 0.


# %%
@triton.jit
def load_rows(ptr, rows, n, D: tl.constexpr):
    offsets = (tl.program_id(1) * n + rows)[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(ptr + offsets, mask=(rows < n)[:, None], other=0.0)  # [rows, D]


@triton.jit
def store_rows(ptr, tile, rows, n, D: tl.constexpr):
    offsets = (tl.program_id(1) * n + rows)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(ptr + offsets, tile, mask=(rows < n)[:, None])


# %% [markdown]
# `online` takes one more tile of scores into what is kept of each row: the largest score so far,
# the sum of $e^{s - \max}$, and the values summed with these weights. A larger score shrinks what
# is kept. Where nothing was seen the maximum is $-\infty$, and 0 is subtracted instead, as
# $-\infty - (-\infty)$ is NaN.


# %%
@triton.jit
def online(scores, visible, v, running_max, running_sum, acc):
    scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(running_max, tl.max(scores, 1))
    pivot = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp(scores - pivot[:, None])  # [queries, keys]
    rescale = tl.exp(running_max - pivot)  # [queries]
    running_sum = running_sum * rescale + tl.sum(weights, 1)
    acc = acc * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_max, running_sum, acc


# %%
@triton.jit
def nothing_seen(BLOCK: tl.constexpr, D: tl.constexpr):
    none = tl.full([BLOCK], float("-inf"), tl.float32)
    return none, tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, D], tl.float32)


@triton.jit
def ratio(sums, weights):  # a row that saw nothing, such as one beyond the end, gives 0
    return sums / tl.where(weights == 0, 1.0, weights)[:, None]


# %% [markdown]
# And now the kernel. Two lines make it right at any length: rows beyond the end are not stored,
# and keys beyond the end are not *visible*. A zero from `other=0.0` would be a score of 0, and
# take its share, as in the softmax above.


# %%
@triton.jit
def flash_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = load_rows(q_ptr, rows, n, D)  # [BLOCK, D]
    running_max, running_sum, acc = nothing_seen(BLOCK, D)
    for start in range(0, n, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        k, v = load_rows(k_ptr, keys, n, D), load_rows(v_ptr, keys, n, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK, BLOCK]
        visible = (keys < n)[None, :]
        running_max, running_sum, acc = online(scores, visible, v, running_max, running_sum, acc)
    store_rows(out_ptr, ratio(acc, running_sum), rows, n, D)


# %%
def flash(q, k, v, BLOCK=16):
    """Return attention of (heads, n, D) or (n, D) tensors."""
    n, D = q.shape[-2:]
    out, grid = torch.empty_like(q), (triton.cdiv(n, BLOCK), q.numel() // (n * D))
    flash_kernel[grid](q, k, v, out, n, D**-0.5, D=D, BLOCK=BLOCK)
    return out


q, k, v = (array[0, 0] for array in random_qkv(100, width=16))
if torch:
    tensors = [torch.from_numpy(array) for array in (q, k, v)]
    runs["flash"] = trace.record(flash, *tensors)
    np.testing.assert_allclose(runs["flash"].result, full.attention(q, k, v), atol=1e-5)
    print(runs["flash"])

# %% [markdown]
# The collapse test: one tile as wide as the text is plain attention, and it passes any length.

# %%
for n in (1, 37, 64, 100) if torch else ():
    part = [array[:n].copy() for array in (q, k, v)]
    given = [torch.from_numpy(array) for array in part]
    for BLOCK in (16, 128):
        np.testing.assert_allclose(flash(*given, BLOCK), full.attention(*part), atol=1e-5)
    print(f"n = {n:>3}: tiles of 16 and of 128 give full attention")

# %% [markdown]
# **Play it.** What does a program touch once, what again and again? And how do the bytes compare
# with the least possible, if a tile is 16, 32 or 64?

# %% folded=true
if torch:
    tiles = {f"tiles of {BLOCK}": trace.record(flash, *tensors, BLOCK) for BLOCK in (16, 32, 64)}
    live_flash = plots.LiveRun(tiles)
    slider, sizes = (0, live_flash.steps, 1, 27), list(tiles)
    display(widgets.explore(live_flash.draw, live_flash.figure, step=slider, kernel=sizes))

# %% [markdown]
# Compare your loop with [the course's kernel](../attncourse/kernels/flash.py): it adds strides,
# heads that share keys, a causal loop, and base 2.
# [Exercise 10.4](../exercises/10_triton.ipynb#10.4-Flash-in-one-loop) leaves all of it to you.

# %% [markdown] covers="F28"
# ## Only the tiles of a window
#
# A window needs one line more: a key is visible if it is *near*. The result is right then, and no
# byte is saved: a masked tile is loaded like any other. So the loop must know its first and its
# last tile.


# %%
@triton.jit
def near(rows, keys, left, right, n):
    step = keys[None, :] - rows[:, None]
    return (step >= -left) & (step <= right) & (keys < n)[None, :]


@triton.jit
def tiles_of(program, left, right, n, BLOCK: tl.constexpr):
    start = program * BLOCK  # the program's first query; its last one is start + BLOCK - 1
    first = tl.maximum(start - left, 0) // BLOCK
    last = tl.cdiv(tl.minimum(start + BLOCK + right, n), BLOCK)
    return first, last  # one past the last


# %% [markdown]
# `slack` lets the loop walk further than the window: 0 walks over its tiles only, and $n$ over all.


# %%
@triton.jit
def window_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, scale, left, right, slack, D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = load_rows(q_ptr, rows, n, D)
    running_max, running_sum, acc = nothing_seen(BLOCK, D)
    first, last = tiles_of(tl.program_id(0), left + slack, right + slack, n, BLOCK)
    for tile in range(first, last):
        keys = tile * BLOCK + tl.arange(0, BLOCK)
        k, v = load_rows(k_ptr, keys, n, D), load_rows(v_ptr, keys, n, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = near(rows, keys, left, right, n)
        running_max, running_sum, acc = online(scores, visible, v, running_max, running_sum, acc)
    store_rows(out_ptr, ratio(acc, running_sum), rows, n, D)


# %%
def windowed(q, k, v, left, right, slack=0, BLOCK=16):
    """Return attention to the keys i - left ... i + right."""
    n, D = q.shape[-2:]
    out, grid = torch.empty_like(q), (triton.cdiv(n, BLOCK), q.numel() // (n * D))
    sizes = n, D**-0.5, left, right, slack
    window_kernel[grid](q, k, v, out, *sizes, D=D, BLOCK=BLOCK)
    return out


# %%
if torch:
    runs["window"] = trace.record(windowed, *tensors, 10, 10)
    masked = trace.record(windowed, *tensors, 10, 10, slack=100)
    for run in (runs["window"], masked):
        expected = window.attention(q, k, v, window=10)
        np.testing.assert_allclose(run.result, expected, atol=1e-5)
    collapsed = windowed(*tensors, 100, 100)
    np.testing.assert_allclose(collapsed, full.attention(q, k, v), atol=1e-5)
    assert masked.bytes_loaded() == runs["flash"].bytes_loaded()
    print("all masked:", format_bytes(masked.bytes_loaded()), "loaded, as much as flash")
    print("skipped:   ", format_bytes(runs["window"].bytes_loaded()))

# %% [markdown]
# Masking alone saved nothing; skipping saves what lies outside. Slide through both.

# %% folded=true
if torch:
    live_window = plots.LiveRun({"tiles skipped": runs["window"], "tiles masked": masked})
    slider, bounds = (0, live_window.steps, 1, 21), list(live_window.runs)
    display(widgets.explore(live_window.draw, live_window.figure, step=slider, kernel=bounds))

# %% [markdown]
# A window seldom ends where a tile does. What sticks out is computed and hidden:

# %% folded=true
widgets.guess(
    "32 keys on each side, tiles of 64 × 64: how many percent of the scores that a program "
    "computes, away from the ends, are visible?",
    lambda: 100 * 65 / 192,
    unit="%",
    explain="64 queries together reach over 128 keys, which lie in three tiles. Of their 192 "
    "columns each row sees 65.",
)


# %%
def computed_share(mask, block):
    """Which share of the scores in the tiles that hold any visible pair is visible."""
    size = -(-len(mask) // block) * block
    padded = np.zeros((size, size), bool)
    padded[: len(mask), : len(mask)] = mask
    touched = padded.reshape(size // block, block, -1, block).any(axis=(1, 3))
    return mask.sum() / (touched.sum() * block**2)


for block in (16, 32, 64, 128):
    shares = [computed_share(window.mask(1024, 1024, window=w), block) for w in (8, 64, 256)]
    print(f"tiles of {block:>3}:", ", ".join(f"{share:4.0%}" for share in shares), "visible")

# %% [markdown]
# (For 8, 64 and 256 keys on each side.) Small tiles waste less; large tiles move less and multiply
# faster. Patterns made *of* blocks waste nothing, and one kernel serves them all: it walks over a
# list of tiles instead of from first to last
# ([chapter 05](05_sparse_tiles.ipynb), [`block_sparse`](../attncourse/kernels/block_sparse.py)).

# %%
if torch:
    from attncourse.kernels import block_sparse

    layout = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    inputs = [torch.from_numpy(array) for array in random_qkv(4 * 32, width=16)]
    listed = trace.record(block_sparse.attention, *inputs, layout=layout, block=32)
    read = len([one for one in listed.accesses if one.tensor == "k"])
    print(f"{layout.sum()} tiles of 32 × 32 are in the list, {read} tiles of keys were read")

# %% [markdown]
# [Exercise 10.5](../exercises/10_triton.ipynb#10.5-Only-the-tiles-of-a-window) asks for the first
# and the last tile, and counts the bytes.

# %% [markdown]
# ## A state instead of keys
#
# Linear attention ([chapter 07](07_linear.ipynb)) forgets the keys: what a query needs of all
# earlier ones is a matrix $S = \sum_j \phi(k_j)\, v_j^\top$ and a vector $z = \sum_j \phi(k_j)$,
# $D \times D$ and $D$ numbers. A kernel keeps them in registers and walks over the text once.

# %% [markdown]
# $$ \text{out}_i = \frac{\phi(q_i)\,(S_{\text{before}} + \text{own tile})}
#                        {\phi(q_i) \cdot (z_{\text{before}} + \text{own tile})} $$
#
# Within its own tile a query must not see what comes later. There the scores are made, masked and
# used as always, a small triangle. Then the tile joins the state.


# %%
@triton.jit
def scan_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D: tl.constexpr, BLOCK: tl.constexpr):
    state, total = tl.zeros([D, D], tl.float32), tl.zeros([D], tl.float32)
    for start in range(0, n, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        q, k = load_rows(q_ptr, rows, n, D), load_rows(k_ptr, rows, n, D)
        v = load_rows(v_ptr, rows, n, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
        own = tl.dot(scores, v, input_precision="ieee")
        sums = tl.dot(q, state, own, input_precision="ieee")
        weights = tl.sum(scores, 1) + tl.sum(q * total[None, :], 1)
        store_rows(out_ptr, ratio(sums, weights), rows, n, D)
        state = tl.dot(tl.trans(k), v, state, input_precision="ieee")
        total += tl.sum(k, 0)


# %%
def scanned(q, k, v, BLOCK=16):
    """Return causal linear attention of features q and k."""
    n, D = q.shape[-2:]
    out = torch.empty_like(q)
    scan_kernel[(1, q.numel() // (n * D))](q, k, v, out, n, D=D, BLOCK=BLOCK)
    return out


if torch:
    features = [torch.nn.functional.elu(x) + 1 for x in tensors[:2]]
    runs["scan"] = trace.record(scanned, *features, tensors[2])
    expected = linear.attention(q, k, v, causal=True)
    np.testing.assert_allclose(runs["scan"].result, expected, atol=1e-5)
    print(runs["scan"])

# %% [markdown]
# Each tensor moves once, which no kernel can undercut. The bill comes elsewhere: **one program for
# a whole head**. Sixteen heads keep 16 of 132 processors busy. Real kernels cut the text, let many
# programs sum their part, and add up the states
# ([`kernels/linear.py`](../attncourse/kernels/linear.py)); that is a second trip.
# [Exercise 10.6](../exercises/10_triton.ipynb#10.6-A-state-instead-of-keys) is this loop with a
# memory that fades.

# %% [markdown]
# ## All of them
#
# Six kernels, one picture. Which of them moves each tensor once, and which again and again? How
# many programs share the work? Draw one from memory: the grid, the tensors, the tile of now.

# %% folded=true
if torch:
    live_all = plots.LiveRun(runs)
    slider, kernels = (0, live_all.steps, 1, 16), widgets.choice(list(runs), "flash")
    display(widgets.explore(live_all.draw, live_all.figure, step=slider, kernel=kernels))

# %% folded=true
if torch:
    times_least = {
        f"{name}, grid of {len(run.programs)}": (run.bytes_loaded() + run.bytes_stored())
        / live_all.runs[name].least
        for name, run in runs.items()
    }
    axes = plots.bars(times_least, unit="×", title="bytes moved, each tensor once = 1")
    most = max(times_least, key=times_least.get)
    plots.show(axes, f"{most}, moves most: {times_least[most]:.2f} times the least possible.")

# %% [markdown]
# ## In a real model
#
# The course's small model reads a page that it never saw, with our `window_kernel` in all its
# layers and heads: a token sees itself and those before it, up to the window. Nothing is trained
# again. Does it do what the reference does, on rows that were not made for it?

# %% folded=true
import dataclasses

from attncourse import model

small = model.load()
page = small.encode(model.page())


# %%
def attend_with(left):
    """A layer's attention by our kernel; by the reference where there is no Triton."""

    def attend(q, k, v):
        if not torch:
            return window.attention(q, k, v, window=left, causal=True)
        heads = [torch.from_numpy(np.ascontiguousarray(x[0])) for x in (q, k, v)]
        return windowed(*heads, left, 0, BLOCK=128).numpy()[None]

    return attend


# %%
tried = model.trials(small, "window", window=[8, 32, 512])
for left, by_reference in tried.items():
    layers = (attend_with(left),) * small.shape.n_layers
    by_kernel = dataclasses.replace(small, attention=layers).losses(page) - small.losses(page)
    np.testing.assert_allclose(by_kernel, by_reference.excess[1:], atol=1e-3)
print("on this page, each window of the kernel loses what that of the reference loses")

# %% [markdown]
# So the reference may speak for it. A token is dark if it has become less probable, in nats;
# *copying* is the model's gain on 128 shuffled tokens that it reads a second time. The FLOPs are
# the reference's; our kernel has tiles of its own.

# %% folded=true
widgets.in_a_real_model("window", tried, start=32)

# %% [markdown]
# ## Try it on your own text
#
# Your text has no round length either. Paste some paragraphs, and the kernel reads them as the
# model's first layer would. A window of 1000 sees all that came before: which window makes its
# bytes half? Which tile wastes least? Then go on to [part two](10_tuning.ipynb): registers,
# occupancy, and six bugs.

# %%
text = "Now is better than never, although never is often better than *right* now."
if torch:
    mine = [torch.from_numpy(np.ascontiguousarray(x)) for x in small.qkv(small.encode(text))[0]]
    n = mine[0].shape[1]
    least = 4 * sum(x.numel() for x in (*mine, mine[0]))
    for left, BLOCK in itertools.product((8, 1000), (16, 32)):
        run = trace.record(windowed, *mine, left, 0, BLOCK=BLOCK)
        moved = run.bytes_loaded() + run.bytes_stored()
        print(
            f"{n} tokens, window {left:>4}, tiles of {BLOCK}: {moved / least:.2f} times the least"
        )
