# %% [markdown]
# # 10 · Triton: what a GPU does with it
#
# A kernel that is right in the interpreter ([part one](10_triton.ipynb)) is right arithmetic, no
# more. Its speed depends on what a GPU has little of: registers, shared memory, places for warps.
# You count them without owning one.
#
# <!-- summary: compile a kernel for a GPU you have not; registers, shared memory and occupancy by
# hand; tiles tried on an H200, where Triton stops, and bugs that pass on powers of two. -->

# %% role="setup"
import inspect
import os

for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded
os.environ["TRITON_INTERPRET"] = "1"  # in this process; a compiler gets one of its own

import numpy as np
from IPython.display import display

from attncourse import claims, cost, machine_code, measure, occupancy, plots, widgets
from attncourse.bench import tiles
from attncourse.grading.stand_ins import tl, torch, triton
from attncourse.units import format_bytes, format_seconds

# %% [markdown]
# Where there is no Triton, on macOS and Windows, kernels are not run; what a compiler or a GPU
# said is read from records. The cells say which of the two you see.

# %%
if torch:
    from attncourse import trace
print("kernels run in Triton's interpreter" if torch else "no Triton here: kernels are skipped")

# %% [markdown]
# ## What the interpreter cannot show
#
# It shows values, masks and traffic, access by access. It cannot show
#
# - **races**: it runs one program after the other
#   ([part one](10_triton.ipynb#Two-programs,-one-address));
# - **registers and shared memory**: its tiles are NumPy arrays, of any size and shape;
# - **time**: an operation costs the same for a tile of 16 or of 128;
# - **bfloat16**: let us see.

# %% [markdown]
# One kernel for this page, the product of [part one](10_triton.ipynb#A-tile-of-a-product):


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
        acc = tl.dot(a, b, acc, input_precision="ieee")
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc, mask=inside)


# %%
def product(a, b, BLOCK):
    """Return a b in float32."""
    (M, K), N = a.shape, b.shape[1]
    out, grid = torch.empty(M, N), (triton.cdiv(M, BLOCK), triton.cdiv(N, BLOCK))
    product_kernel[grid](a, b, out, M, N, K, BLOCK=BLOCK)
    return out


for dtype in ("float32", "float16", "bfloat16") if torch else ():
    a, b = (torch.ones(20, 20) + torch.arange(20) / 8).to(getattr(torch, dtype)), torch.eye(20)
    off = (product(a, b.to(a.dtype), BLOCK=16) - a.float()).abs().max()
    print(f"{dtype:<8} times the identity: {'right' if off == 0 else 'WRONG'}")

# %% [markdown]
# If a line says WRONG, the interpreter multiplied the bits of bfloat16 as if they were whole
# numbers, without error or warning. (So the course's kernels refuse it there.) And does it refuse
# a tile of 4 × 4, which no tensor core can multiply?

# %%
if torch:
    a = torch.ones(20, 20)
    print("tile of 4 × 4: ", "right" if (product(a, a, BLOCK=4) == 20).all() else "wrong")

# %% [markdown]
# ## Compile for a GPU you have not
#
# Triton compiles for any GPU, and needs none. What it makes goes through five forms: its own
# language, the same with layouts for threads, LLVM's, **PTX**, which is NVIDIA's portable
# assembler, and machine code. The last two tell everything that we miss. Two tries for an H100; the
# first takes a few seconds:

# %% tags=["nbval-ignore-output"]
source = inspect.getsource(getattr(product_kernel, "fn", product_kernel))
jobs = [{"dtype": "fp16", "BLOCK": block, "num_warps": 4} for block in (64, 4)]
for job in measure.progress(jobs, "compiling", expect_seconds=6):
    try:
        (found,), by = machine_code.compiled(source, [job])
        print(f"tile of {job['BLOCK']} ({by}): {found.registers} registers a thread,")
        print(f"  {format_bytes(found.shared_bytes)} shared, {found.spilled_bytes} B spilled")
        print("  products:", *found.products, "\n  copies:  ", *found.copies)
    except RuntimeError as refused:
        print(f"tile of {job['BLOCK']}: {str(refused)[:150]}")

# %% [markdown]
# What to read there:
#
# - A program is run by `num_warps` **warps** of 32 **threads**, which share its tile's lanes.
# - **Registers** are a thread's own memory: 255 at most, four bytes each. `acc` lives in them.
# - What does not fit is **spilled**: written to slow memory and read back. It should be 0.

# %% [markdown]
# - **Shared memory** holds tiles of `a` and `b` on their way, `num_stages` at once: the next arrive
#   while these are multiplied. A program has 227 KiB at most.
# - The **product** is an instruction like `wgmma.mma_async…m64n64k16.f32.f16.f16`: four warps
#   multiply 64 × 16 by 16 × 64, float16 in, float32 out, and go on meanwhile. Without one, each
#   multiplication is done alone, far slower.

# %% [markdown]
# Now move the tile. At which size does it stop to fit? What do eight warps change? And which
# product does float32 get?

# %% folded=true
record = machine_code.table()
known = {tuple(row["job"].values()): row["found"] for row in record["rows"]} if record else {}
limits = {"registers of a thread": 255, "shared memory": 227 * 1024}
live_code = plots.LiveBars(dict.fromkeys(limits, 0.0), unit="% of the limit", high=110)


# %% folded=true
def draw_code(BLOCK, num_warps, dtype):
    name, one = f"{dtype}, tile of {BLOCK}, {num_warps} warps", known.get((dtype, BLOCK, num_warps))
    if one is None:
        live_code.update(dict.fromkeys(limits, 0.0), name)
        return f"{name}: not recorded, since it spills and takes minutes."
    used = one["registers"] / 255, one["shared_bytes"] / limits["shared memory"]
    live_code.update(dict(zip(limits, (100 * x for x in used), strict=True)), name)
    fits = "" if max(used) <= 1 else " It does NOT fit."
    products = ", ".join(one["products"]) or "one by one"
    return f"{name}: {one['spilled_bytes']} B spilled, products {products}.{fits}"


# %% folded=true
if record:
    blocks, dtypes = widgets.choice([16, 32, 64, 128, 256], 128), ["fp16", "fp32"]
    controls = {"BLOCK": blocks, "num_warps": widgets.choice([4, 8], 4), "dtype": dtypes}
    display(widgets.explore(draw_code, live_code.figure, **controls))
    print(f"recorded with Triton {record['triton']}, for an H100 or H200, on {record['date']}")

# %% [markdown]
# `acc` alone needs $b^2 / \text{threads}$ registers a thread: $128^2 / 128 = 128$ with four warps,
# and $256^2 / 128 = 512$, which nobody has. Eight warps halve it. So registers and shared memory
# limit the tile, and [part one](10_triton.ipynb#A-tile-of-a-product) wants a large one.

# %% [markdown]
# Float32 gets no tensor core here, since the kernel asks for `ieee`: they would round its factors
# to TF32, which keeps ten bits after the point. (The course's own kernels, compiled so:
# [registers](../docs/registers.md).)

# %% [markdown] covers="O8"
# ## Occupancy by hand
#
# A warp that waits for memory does nothing for hundreds of cycles. An *SM*, one of a GPU's
# processors, hides that by working on another warp. So it wants many of them *resident*, at most
# 64 on an H100; **occupancy** is the share that it has. All resident programs keep their registers
# and their shared memory.

# %% [markdown]
# By hand, for the tile of 64 as recorded: an SM has 65,536 registers and 228 KiB of shared memory,
# of which the system takes 1 KiB for each program.

# %%
tile = known.get(("fp16", 64, 4), {"registers": 64, "shared_bytes": 49_152, "threads": 128})
by_registers = 65_536 // (tile["registers"] * tile["threads"])
by_shared = 228 * 1024 // (tile["shared_bytes"] + 1024)
programs, warps = min(by_registers, by_shared), tile["threads"] // 32
print(f"registers allow {by_registers} programs, shared memory {by_shared}")
print(f"so {programs} of {warps} warps: {programs * warps} of 64, {programs * warps / 64:.0%}")
few = occupancy.occupancy(tile["registers"], tile["shared_bytes"], warps)
assert few == programs * warps / 64

# %% folded=true
widgets.guess(
    "128 registers a thread, 8 warps a program, no shared memory: which share of an H100's 64 "
    "warps can be resident?",
    lambda: 100 * occupancy.occupancy(128, 0, 8),
    unit="%",
    explain="A program has 256 threads, so 32,768 registers: two programs, 16 warps.",
)

# %% [markdown]
# Which limit binds? Move the registers from 32 to 33, with 8 warps: what happens, and why so much?

# %% folded=true
names = ("registers", "shared memory", "warps", "programs")
live_sm = plots.LiveBars(dict.fromkeys(names, 0), unit="programs", high=32)


def draw_sm(registers, shared_KiB, num_warps, gpu):
    sizes = registers, 1024 * shared_KiB, num_warps
    allowed, share = occupancy.limits(*sizes, gpu=gpu), occupancy.occupancy(*sizes, gpu=gpu)
    name = f"{gpu}: {registers} registers, {shared_KiB} KiB, {num_warps} warps"
    live_sm.update({limit: min(32, number) for limit, number in allowed.items()}, name)
    binding = min(allowed, key=allowed.get)
    return f"{name}. The limit is {binding}: {allowed[binding]} programs, {share:.0%} of the warps."


# %% folded=true
some, gpus = widgets.choice([1, 2, 4, 8, 16], 8), list(occupancy.MULTIPROCESSORS)
sizes = {"registers": (16, 255, 1, 32), "shared_KiB": (0, 227, 1, 16)}
widgets.explore(draw_sm, live_sm.figure, **sizes, num_warps=some, gpu=gpus)

# %% [markdown]
# A warp gets its registers in lots of 256, eight a thread: 33 cost as much as 40. With those an SM
# holds six programs of 8 warps instead of eight, and a quarter of its warps is gone. So occupancy
# falls in steps, of lots and of whole programs:

# %% folded=true
per_thread = np.arange(16, 256)
stairs = {
    f"{warps} warps": [100 * occupancy.occupancy(int(r), 0, warps) for r in per_thread]
    for warps in (4, 8, 16)
}
axis = {"x_label": "registers of a thread", "y_label": "occupancy in %"}
axes = plots.curves(per_thread, stairs, **axis)
plots.show(axes, "The more warps a program has, the longer the steps.")

# %% [markdown]
# More is not always better: a large tile with few warps may load so much less that it wins, as long
# as its copies are under way early enough. Occupancy says what is possible; only a clock tells what
# is fast.
# [Exercise 10.7](../exercises/10_triton.ipynb#10.7-Occupancy-by-hand) is this calculation.

# %% [markdown]
# ### Too few programs, and the last wave
#
# A grid fills the SMs in *waves*. The last one may be nearly empty, and everyone waits for it.

# %% folded=true
widgets.guess(
    "133 programs of equal length, one at a time on each of an H100's 132 SMs: which share of the "
    "SMs' time is idle?",
    lambda: 100 * (1 - occupancy.waves(133, 1)[1]),
    unit="%",
    explain="Two waves, and in the second one 131 SMs wait for a single program.",
)

# %%
for batch, heads, n in ((1, 12, 512), (1, 12, 1024), (1, 12, 4096), (8, 16, 4096)):
    programs = batch * heads * -(-n // 128)
    count, busy = occupancy.waves(programs, 2)
    said = f"{programs:>4} programs, waves: {count:>2}, {busy:4.0%} of the places used"
    print(f"batch {batch}, {heads} heads, n = {n:>4}: {said}")

# %% [markdown]
# (Query tiles of 128, two programs an SM.) Short texts leave most of a GPU idle, whatever the
# kernel. And they pay a third price: each *launch* takes microseconds on the CPU before anything
# runs. From the record of a real GPU, beside the time that the products need at its peak:

# %%
tried = tiles.latest()
h200 = cost.DEVICES["H200"]
for n in (512, 4096, 16384) if tried else ():
    least = 4 * 16 * n**2 * 64 / h200.peak("float16")
    took = tiles.peers(tried, "flash fwd", 64, False, n)
    shown = [f"{name} {format_seconds(took[name])}" for name in ("Triton", "SDPA, cuDNN")]
    print(f"n = {n:>5}: at the peak {format_seconds(least)}, {', '.join(shown)}")

# %% [markdown]
# At $n = 512$, which share of a call is arithmetic, in anybody's kernel? That is also why a speedup
# printed for short texts says little. A decision guide has one; beside it an H100's record:

# %%
claims.check("C341")

# %% [markdown]
# The check to keep: **below the floor, two kernels are compared by their launches.** Where many
# short calls follow one another, one lets the GPU replay them as one (a CUDA graph), or fuses them.

# %% [markdown]
# ## Tiles that were tried
#
# Which tile, how many warps, how many stages? Rules of thumb end here; one tries. In Triton a
# decorator does it, once for each `key`, and keeps the best:
#
# ```python
# @triton.autotune(
#     configs=[triton.Config({"BLOCK": 64}, num_warps=4, num_stages=3), ...], key=["n"]
# )
# ```


# %% folded=true
def ends():
    """The fastest and the slowest of them, with their seconds."""
    times = list(tiles.tried(tried, "flash bwd", 64, False, 16384).items())
    return times[0], times[-1]


def slowest_over_fastest():
    (_, least), (_, most) = ends()
    return most / least


# %% folded=true
if tried:
    asked = widgets.guess(
        "Eleven tiles for the same backward pass of flash on an H200, all of them right: how many "
        "times as long as the fastest does the slowest take?",
        slowest_over_fastest,
        unit="times",
        explain=lambda answer: (
            f"In the record, n = 16384, heads of 64: {ends()[0][0]} against {ends()[1][0]}."
        ),
    )
    display(asked)

# %% [markdown]
# All that was tried on one H200. The fastest tile stands first: is it the same one for another
# width, another length, or causal?

# %% folded=true
MOST = 12
_, ax = plots.figure(height=4.2)
live_tried = plots.LiveBars({f"{i}": 0.0 for i in range(MOST)}, ax, unit="s")


def draw_tried(what):
    times = tiles.tried(tried, *choices[what])
    seconds = [*times.values(), *[0.0] * (MOST - len(times))]
    live_tried.update(dict(enumerate(seconds)), what)
    live_tried.ax.set_yticklabels([*map(str, times), *[""] * (MOST - len(times))])
    for text in live_tried.texts[len(times) :]:
        text.set_text("")
    first, last = seconds[0], seconds[len(times) - 1]
    return f"Fastest: {next(iter(times))}; the slowest takes {last / first:.1f} times as long."


# %% folded=true
if tried:
    choices = tiles.settings(tried)
    machine = tried["machine"]
    display(widgets.explore(draw_tried, live_tried.figure, what=list(choices)))
    print(f"{machine['gpu']}, Triton {machine['versions']['triton']}, {tried['date']}: 16 heads,")
    print("float16, median; the run was cut short, and other programs shared its CPU")

# %%
if tried:
    best = {what: next(iter(tiles.tried(tried, *choices[what]))) for what in choices}
    flash_best = {what: tile for what, tile in best.items() if what.startswith("flash fwd")}
    print(len(set(best.values())), "different tiles win", len(best), "settings")
    for what, tile in flash_best.items():
        print(f"{what:<40} {tile}")

# %% [markdown]
# A winning tile is no law: it holds for this GPU, compiler and size. Tuning multiplies what must be
# right: **check the values of every configuration, not of the winner only**.
# `python -m attncourse.bench.tiles 4096 64` times and checks them on your GPU.
#
# Some texts print one factor for all this. Here is one, beside what this CPU finds:

# %% tags=["nbval-ignore-output"]
claims.check("C067")

# %% [markdown]
# The check to keep: **a factor has two sides**. Ask for both kernels, the GPU and the size.

# %% [markdown] covers="S6"
# ## Where Triton stops
#
# An honest page. How near does the best tile come to what others wrote, on the same GPU? Bars are
# useful operations a second, $4 n^2 D$ a head; the data sheet allows 989 TFLOP/s. Our kernel *as
# launched* and its peers come from one measurement, *best tile* and torch's *default* from another.

# %% folded=true
peers = ("best tile tried", "torch's default", "as launched", "FlashAttention-2", "cuDNN")
live_peers = plots.LiveBars(dict.fromkeys(peers, 0.0), unit="TFLOP/s", high=700)


def seconds_of(n, width, causal):
    """What each of them took in one setting."""
    here = "flash fwd", int(width), causal, n
    default = {tuple(row[:4]): row[4] for row in tried["default"]}[here]
    timed = tiles.peers(tried, *here)
    best_tile = next(iter(tiles.tried(tried, *here).values()))
    return [best_tile, default, timed["Triton"], timed["SDPA, flash"], timed["SDPA, cuDNN"]]


# %% folded=true
def draw_peers(n, width, causal):
    flops = 4 * 16 * n**2 * int(width) / (2 if causal else 1)
    rates = [flops / seconds / 1e12 for seconds in seconds_of(n, width, causal)]
    name = f"n = {n}, heads of {width}{', causal' if causal else ''}"
    live_peers.update(dict(zip(peers, rates, strict=True)), name)
    best_tile, default, ours, second_version, cudnn = rates
    return (
        f"{name}: as launched {ours / cudnn:.2f} of cuDNN's speed and {ours / second_version:.2f} "
        f"of FlashAttention-2's; the best tile {best_tile / default:.2f} of torch's default."
    )


# %% folded=true
if tried:
    lengths, widths = widgets.choice([4096, 16384], 16384), ["64", "128"]
    display(widgets.explore(draw_peers, live_peers.figure, n=lengths, width=widths, causal=False))
else:
    print("no such run is recorded")

# %% [markdown]
# All use the same tensor cores. To keep a Hopper GPU's busy, three things must happen at once, and
# a kernel like ours says none:
#
# - **Copies without threads.** The tensor memory accelerator (TMA) fetches a whole tile by one
#   instruction of one thread. Our pointers, offsets and masks take all threads, and registers.
#   (Triton has tensor descriptors for TMA.)

# %% [markdown]
# - **Warps with roles.** Some only load, others only multiply: *warp specialisation*. Loaders need
#   few registers, and give theirs away.
# - **Ping-pong.** Two groups of warps take turns: while one has its softmax, the other has the
#   tensor cores.
#
# FlashAttention-3 does all three in CUDA: up to 740 TFLOP/s in float16 on an H100, 75 % of its peak
# ([Shah et al. 2024](https://arxiv.org/abs/2407.08608)).

# %% [markdown]
# What our product's code has of this can be read in the record. `cp.async` copies by threads;
# `cp.async.bulk.tensor` would be TMA:

# %%
if record:
    made = [row["found"] for row in record["rows"]]
    print("copies:  ", *sorted({name for one in made for name in one["copies"]}))
    print(
        "products:", *sorted({name.split(".sync")[0] for one in made for name in one["products"]})
    )

# %% [markdown]
# Triton 3.6 and 3.9, which we tried, do not split warps by roles on Hopper: asked to, they compile
# the same code or fail. So the trade is thirty lines that you change in an afternoon, against
# thousands in CUDA for one kind of chip, and the bars above. For a pattern that nobody has written,
# it is no question.

# %% [markdown] covers="W15"
# ## Six bugs
#
# The first half of a kernel takes an afternoon; the bugs take the week. They share a habit: **they
# pass where sizes are powers of two**. Here is a kernel with three, for the means of a matrix's
# rows. Find them before you read on.


# %%
@triton.jit
def means_kernel(x_ptr, out_ptr, n_rows, n_cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + rows[:, None] * COLS + cols[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + rows, tl.sum(x, 1) / COLS)


# %%
def means(x):
    """Return the mean of each row."""
    out, COLS = x.new_empty(len(x)), triton.next_power_of_2(x.shape[1])
    means_kernel[(triton.cdiv(len(x), 16),)](x, out, *x.shape, ROWS=16, COLS=COLS)
    return out


for shape in ((16, 16), (64, 32), (64, 24), (50, 32), (50, 24)) if torch else ():
    x = torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(shape)
    run = trace.record(means, x)
    right = "right" if torch.allclose(run.result, x.mean(1)) else "WRONG"
    beyond = {one.tensor: 0 for one in run.out_of_bounds}
    print(f"{shape}: {right}, out of bounds in {', '.join(beyond) or 'nothing'}")

# %% [markdown]
# **First: compare with a reference, on sizes of which each is odd in one way only.** Two lines are
# right. (64, 24) is wrong in values, (50, 32) only in where it stores, and its values pass! Without
# a trace nobody would know, until a GPU writes into someone else's tensor.

# %% [markdown]
# **Then ask the trace.** Which rows did a program load? At (64, 24) the first one should have the
# rows 0 to 15:

# %%
if torch:
    x = torch.arange(1.0, 1 + 64 * 24).reshape(64, 24)
    run = trace.record(means, x)
    for (program, *_), [(rows, _)] in run.tiles("x").items():
        found = f"rows {rows[0]:>2} to {rows[1] - 1:>2}" if rows else "no row that is there"
        print(f"program {program}: {found}")
    print(f"loaded {run.bytes_loaded('x')} bytes of {x.nbytes}")

# %% [markdown]
# Sixteen rows became more, and the last program found none: rows lie `n_cols` apart, not `COLS`.
# (The count of bytes looks right. It says how much, not where.) Mend that, and all values are still
# wrong by one factor, 24 / 32: a sum of 24 numbers, divided by 32. The store without a mask is the
# third.


# %%
@triton.jit
def mended_kernel(x_ptr, out_ptr, n_rows, n_cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + rows[:, None] * n_cols + cols[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + rows, tl.sum(x, 1) / n_cols, mask=rows < n_rows)


# %%
def mended(x):
    """Return the mean of each row."""
    out, COLS = x.new_empty(len(x)), triton.next_power_of_2(x.shape[1])
    mended_kernel[(triton.cdiv(len(x), 16),)](x, out, *x.shape, ROWS=16, COLS=COLS)
    return out


for shape in ((1, 1), (64, 24), (50, 32), (37, 41)) if torch else ():
    x = torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(shape)
    run = trace.record(mended, x)
    np.testing.assert_allclose(run.result, x.mean(1), rtol=1e-6)
    assert not run.out_of_bounds and run.bytes_loaded() == x.nbytes
    print(f"{shape}: right, nothing out of bounds, each number loaded once")

# %% [markdown]
# | what you see | ask |
# | --- | --- |
# | wrong at odd lengths | `out_of_bounds`; what padding adds |
# | wrong unless square | `tiles(…)`: where do rows and columns stand? |
# | right, but too many bytes | `bytes_loaded(…)` beside the formula: a loop bound |
# | other numbers each run | two owners of one tile |
# | right here, not on a GPU | the sums' dtype; int32 offsets beyond 2³¹; too small a dot |

# %% [markdown]
# [Exercise 10.8](../exercises/10_triton.ipynb#10.8-Six-planted-bugs) plants six, of six kinds. All
# pass on powers of two.
#
# ## Try it on your own kernel
#
# Take your answer to [exercise 10.3](../exercises/10_triton.ipynb#10.3-A-tile-of-a-product), or any
# kernel that uses `tl` alone, and paste it over `product_kernel`. How many registers does it take?
# Which tile would an H100 hold twice? How many waves is your own text, at 16 heads?

# %%
text = "Paste a text of your own here."
programs = 16 * -(-len(text.split()) // 64)
count, busy = occupancy.waves(programs, 2)
print(f"{programs} programs in tiles of 64 words: waves: {count}, {busy:.0%} of the places used")

# %% [markdown]
# Next: [chapter 11](11_training.ipynb) looks at all that a training step holds, attention or not.
