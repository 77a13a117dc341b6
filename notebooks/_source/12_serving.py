# %% [markdown]
# # 12 · Many texts at once
#
# A batch fetches the weights once for many texts, says
# [the first part](12_inference.ipynb#Prefill-and-decode). But texts differ in length, come when
# they want and end when they are done. Here you pack them: pages instead of stretches, a batch that
# changes at every step, and keys that are split.
#
# <!-- summary: ragged batches and what padding wastes; pages, a block table, sharing and copy on
# write; texts that join and leave a batch at every step, simulated with real lengths; one query
# split over many programs; a model that writes several texts in pages. -->

# %% [markdown]
# The first part says what a KV cache is and what a step costs. No cell takes longer than a few
# seconds.

# %% role="setup"
import os

# One thread: times then differ by the work, and not by who else wants the cores.
for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded

import numpy as np

from attncourse import claims, measure, model, plots, serving, widgets
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, grouped, kv_cache, paged
from attncourse.softmax import softmax
from attncourse.units import format_bytes

# %% [markdown] covers="N4"
# ## A batch of ragged texts
#
# Real lengths first. Take the functions of the five modules that the course's model never saw: the
# head of a function with its docstring is a *prompt*, as if somebody had asked for it, and the rest
# is the *answer*. Lengths are in tokens of the model.

# %%
small = model.load()
lengths = [
    pair
    for text in model.held_out()
    for pair in serving.functions_of(text, lambda piece: len(small.encode(piece)))
]
prompts, answers = np.array(lengths).T
print(f"{len(lengths)} functions; the first are", *lengths[:5])
print(f"answers: median {np.median(answers):.0f} tokens, mean {answers.mean():.0f}", end="")
print(f", longest {answers.max()}")

# %% [markdown]
# Texts are like that: many short, a few very long. A batch wants an array, $B \times n$, and so the
# obvious way is to *pad*: all rows as long as the longest.

# %% folded=true
totals = prompts + answers


def padded_rows():
    rows = np.arange(totals.max()) < np.sort(totals)[::-1, None]
    axes = plots.heatmap(rows, title="tokens and padding, the longest on top", x="token", y="text")
    plots.show(axes, f"{rows.mean():.0%} of the padded array are tokens.")


widgets.guess(
    "These texts padded to the longest of them: how much of the array is padding?",
    lambda: 100 * (1 - paged.utilisation(totals, int(totals.max()))),
    unit="%",
    explain=padded_rows,
)

# %% [markdown]
# And a server cannot even pad to the longest of its batch. It does not know how long an answer will
# be, so it reserves what a text may have at most. That room is taken from others who wait.

# %%
for reserved in (2048, 8192):
    used = paged.utilisation(totals, reserved)
    print(f"{reserved} tokens reserved for each: {used:.1%} of the memory holds tokens")

# %% [markdown] covers="N3 S8"
# ## Pages
#
# Operating systems met this problem in the 1960s, with programs instead of texts. Their answer was
# to cut memory into *pages* of one size, to give out a page when it is needed, and to keep a
# table of who has which. A cache can do the same
# ([PagedAttention](https://arxiv.org/abs/2309.06180), as in vLLM). By hand, with pages of 4 tokens:

# %%
pool = paged.PagePool(8, 4, heads=1, width=8)
one, two = paged.PageTable(pool), paged.PageTable(pool)
_, k, v = (array[0] for array in random_qkv(11, width=8))  # (1, 11, 8)
for table, tokens in ((one, slice(0, 6)), (two, slice(0, 3)), (one, slice(6, 11))):
    table.append(k[:, tokens], v[:, tokens])
print("one has the pages", one.pages, "and two has", two.pages)
print("token 9 of one: page", one.pages[9 // 4], "place", 9 % 4)
np.testing.assert_array_equal(pool.keys[one.pages[9 // 4], :, 9 % 4], k[:, 9])

# %% [markdown]
# Token $j$ of a text lies in page `pages[j // page]` at place `j % page`: that is the *block table*
# and all there is to it. Attention walks along the table and multiplies each page where it lies.
# The collapse test: one text in pages of any size is the contiguous cache.

# %%
q, k, v = random_qkv(37, heads=2, width=8)
whole = full.attention(q, k, v, causal=True)
for page in (1, 5, 16, 64):
    out = paged.attention(q, k, v, page=page, causal=True)
    np.testing.assert_allclose(out, whole, atol=1e-6)
print("pages of any size give full attention")

# %% [markdown]
# A text loses at most the end of its last page, whatever its length:
#
# $$ \text{room lost} = (-n) \bmod p \;<\; p, \qquad
#    \text{padding loses} = n_{\max} - n $$
#
# Small pages lose less. What speaks against pages of one token? The table, and what hardware likes
# to read in one stretch.

# %%
sizes = [1, 4, 16, 64, 256, 1024]
lost = {"room lost": [100 * (1 - paged.utilisation(totals, page)) for page in sizes]}
axis = {"x_label": "tokens in a page", "y_label": "% of the room", "log_x": True}
axes = plots.curves(sizes, lost, **axis)
said = {page: lost["room lost"][sizes.index(page)] for page in (16, 256)}
plots.show(axes, "; ".join(f"pages of {page} lose {x:.1f}%" for page, x in said.items()) + ".")

# %% [markdown]
# The other gift of a table: two texts may point to the same page. When many answers start from one
# prompt, its pages are held once. Only a text that writes into a shared page needs a page of its
# own: *copy on write*. Now watch a pool at work.


# %% folded=true
FIRST = "comes with {} tokens"
EVENTS = [
    *(("A", FIRST, 10), ("B", FIRST, 5), ("A", "writes {}", 4), ("B", "writes {}", 3)),
    *(("C", "is forked from A", 0), ("C", "writes {}", 1), ("A", "writes {}", 3)),
    *(("B", "leaves", 0), ("D", FIRST, 9), ("A", "leaves", 0), ("C", "writes {}", 6)),
    ("D", "leaves", 0),
]


# %%
def play(steps):
    """The tables after so many events."""
    pool, tables = paged.PagePool(14, 4, heads=1, width=1), {}
    for name, what, n in EVENTS[:steps]:
        if "forked" in what:
            tables[name] = tables["A"].fork()
        elif what == "leaves":
            tables.pop(name).truncate(0)
        else:
            tables.setdefault(name, paged.PageTable(pool)).append(*np.zeros((2, 1, n, 1), "f4"))
    return pool, tables


# %% [markdown]
# **Slide through the events.** A column is a page; what has a frame belongs to two texts. At which
# event does C get its first own page, and which tokens move into it? Whose pages does D get? What
# happens to the pages of A when A leaves? Below lies the same without pages.

# %% folded=true
live_pool = plots.LivePool(14, 4, list("ABCD"), reserved=24)


def draw_pool(event):
    pool, tables = play(event)
    held = {name: table.length for name, table in tables.items()}
    name, what, n = EVENTS[event - 1] if event else ("nobody", "is there", 0)
    said = f"{name} {what.format(n)}"
    pages = {name: table.pages for name, table in tables.items()}
    live_pool.update(pages, held, f"event {event}: {said}")
    taken = (len(pool.owners) - pool.n_free) * pool.page
    return (
        f"After event {event}, {said}: {sum(held.values())} tokens, counted for each text, in "
        f"{taken} places of pages; without pages {24 * len(held)} places are reserved."
    )


# %%
widgets.explore(draw_pool, live_pool.figure, event=(0, len(EVENTS), 1, 5))

# %% [markdown]
# [Exercise 12.5](../exercises/12_inference.ipynb#12.5-Pages-that-nobody-can-corrupt) is this pool.
# A fuzzer appends, forks and frees at random, and looks for a token that changed without being
# written. The reference is [`reference/paged.py`](../attncourse/reference/paged.py). The card has
# a claim of [a text that this course checks](00_start.ipynb#The-four-texts), and how it was found:

# %%
claims.check("C038")

# %% [markdown]
# Pages of one batch, each text with its own length, in one call: no row is padded, and each text
# gets what it would get alone. The rows of the table that is printed are texts; −1 is no page.

# %%
pool = paged.PagePool(32, 4, heads=2, width=8)
tables, alone = [], []
for seed, n in enumerate((17, 3, 40)):
    q, k, v = random_qkv(1, n, heads=4, width=8, seed=seed)
    k, v = k[0, :2], v[0, :2]
    tables.append(paged.PageTable(pool))
    tables[-1].append(k, v)
    alone.append((q, grouped.attention(q, k[None], v[None])))
queries = np.concatenate([q for q, _ in alone])
numbers = np.full((3, 10), -1)
for row, table in zip(numbers, tables, strict=True):
    row[: len(table.pages)] = table.pages
out = paged.attend(queries, pool.keys, pool.values, numbers, np.array([17, 3, 40]))
np.testing.assert_allclose(out, np.concatenate([o for _, o in alone]), atol=1e-6)
print(numbers)

# %% [markdown] covers="N14"
# ## Join and leave at every step
#
# Memory is packed; now time. A *static* batch is written until its longest answer is done: whoever
# is done early keeps a slot that does nothing. But decode goes step by step, so why not look at the
# door after each? *Continuous batching* lets a text leave when done, and the next join
# ([Orca](https://www.usenix.org/conference/osdi22/presentation/yu)).

# %% [markdown]
# The smallest case: two slots, answers of 3, 1 and 2 tokens. On a clock where a step takes one
# second, by hand: the static batch takes 3 steps for the first two texts and 2 for the third. And
# joining?

# %%
ticking = serving.Clock(weights=1, token_bytes=0)
three = [serving.Request(0, 1, answer) for answer in (3, 1, 2)]
for join in (False, True):
    steps = serving.serve(three, slots=2, join=join, clock=ticking).steps
    print(f"{'joining' if join else 'static':<8} {steps} steps")

# %% [markdown]
# For real lengths we need a clock. Ours takes what a step needs at least: the weights are fetched
# or multiplied, whichever is longer, and each cache is fetched. It is the first part's model of 6.4
# billion weights on an H100. [`serving.py`](../attncourse/serving.py) plays requests through it.
# Who comes when is drawn once.
#
# $$ \text{step} = \max\Bigl(\frac{2N \cdot \text{new tokens}}{\text{FLOP/s}},\;
#    \frac{2N}{\text{bytes/s}}\Bigr) + \frac{\text{cached bytes}}{\text{bytes/s}} $$

# %%
clock = serving.Clock()
for new, cached in ((1, 0), (8, 8 * 300), (2000, 0)):
    print(f"{new:>4} new tokens, {cached:>4} in caches: {1e3 * clock.seconds(new, cached):.1f} ms")
crowd = serving.arrivals(lengths, 60, rate=1000)  # nearly all at once


def speed(**how):
    return serving.serve(crowd, slots=8, **how).tokens_a_second


# %% folded=true
widgets.guess(
    "Sixty of these requests at once, eight slots: how many times as many tokens a second are "
    "written if texts join and leave at every step?",
    lambda: speed(join=True) / speed(join=False),
    unit="times",
    explain=f"A static batch lasts as long as its longest answer. The mean is {answers.mean():.0f} "
    f"tokens, but the longest of eight is often many hundreds.",
)

# %% [markdown]
# **Who waits, and for whom?** Pale is a slot whose text is done and whose batch is not. Raise the
# rate until texts wait for seconds; which of the two gives in first? Then add slots.

# %% folded=true
live_slots = plots.LiveSchedule(["static", "joining"], 32.0)


def draw_slots(rate, slots):
    requests, spans, said = serving.arrivals(lengths, 60, rate=rate), {}, {}
    for name in ("static", "joining"):
        way = serving.serve(requests, slots=slots, join=name == "joining")
        spans[name], wait = way.spans, f"mean wait {way.waits.mean():.2g} s"
        said[name] = f"{name}: {way.tokens_a_second:,.0f} tokens a second, {wait}"
    live_slots.update(spans, said)
    return f"{rate} requests a second, {slots} slots. {'; '.join(said.values())}."


# %%
rates, some = widgets.choice([2, 4, 8, 16, 32], 4), widgets.choice([2, 4, 8, 16], 8)
widgets.explore(draw_slots, live_slots.figure, rate=rates, slots=some)

# %% [markdown]
# A mean hides who suffers. So look at the waiting of all, to the first token of the answer:

# %%
waits = {"static": [], "joining": []}
for rate in (1, 2, 4, 8, 16):
    requests = serving.arrivals(lengths, 120, rate=rate)
    for name in waits:
        served = serving.serve(requests, slots=8, join=name == "joining")
        waits[name].append(np.quantile(served.waits, 0.9))
axis = {"x_label": "requests a second", "y_label": "seconds", "log_x": True}
axes = plots.curves([1, 2, 4, 8, 16], waits, title="nine of ten wait less than", **axis)
said = ", ".join(f"{name} {line[2]:.2g} s" for name, line in waits.items())
plots.show(axes, f"At 4 requests a second nine of ten wait less than: {said}.")

# %% [markdown]
# Now both together. With little memory it is room that keeps texts out. Reserved stretches let few
# in; pages let in whoever has a page, and when none is left, the last one in is *thrown out* and
# read again later. How much memory does each way need for the same speed?

# %%
rooms = [3000, 4000, 6000, 8000, 16000, 32000]  # tokens that fit
rush = serving.arrivals(lengths, 80, rate=32)
by_room = {"2048 reserved": [], "pages of 16": []}
thrown = []
for room in rooms:
    by_page = serving.serve(rush, slots=64, page=16, room=room)
    stretches = serving.serve(rush, slots=64, longest=2048, room=room)
    thrown.append(by_page.thrown_out)
    for name, served in zip(by_room, (stretches, by_page), strict=True):
        by_room[name].append(served.tokens_a_second)

# %% folded=true
axis = {"x_label": "tokens that have room", "y_label": "tokens a second", "log_x": True}
axes = plots.curves(rooms, by_room, **axis)
gain = by_room["pages of 16"][1] / by_room["2048 reserved"][1]
said = f"With room for {rooms[1]} tokens pages write {gain:.1f} times as fast"
plots.show(
    axes, f"{said}, though {thrown[1]} texts are thrown out; with {rooms[-1]}, {thrown[-1]}."
)

# %% [markdown]
# A simulation is as good as its clock. Ours leaves out attention's products, the host, and the
# network; and it reads a long prompt in one step, for which all others wait. Real servers cut
# prompts into pieces and read one in each step.

# %% [markdown] covers="N15"
# ## One query, many keys
#
# The last thing to pack is the chip. In decode each head has one query. Flash attention gives a
# program to each tile of queries ([chapter 09](09_flash_backward.ipynb)). The heads of a group make
# one tile, so with eight key/value heads and one text there are eight programs, each of which walks
# over all keys.

# %% folded=true
widgets.guess(
    "An H100 has 132 multiprocessors. One text, eight key/value heads, one program each: how much "
    "of the chip works?",
    lambda: 100 * 8 / 132,
    unit="%",
    explain="And a cache that comes through 8 of 132 doors comes slowly, however wide the street.",
)

# %% [markdown]
# The queries cannot be cut. The keys can: *split-KV decode*, or Flash-Decoding. Each program takes
# a run of keys and returns its output and the logarithm of its softmax sum, $L_s$. The repair of
# [chapter 09](09_flash.ipynb#Cut-the-keys:-the-tempting-way) joins them: a part counts by its sum.
#
# $$ \text{out} = \sum_s w_s\, \text{out}_s, \qquad w_s = \frac{e^{L_s}}{\sum_{s'} e^{L_{s'}}} $$

# %%
q, k, v = random_qkv(1, 1000, heads=4, width=16, dtype=np.float64)
parts = [
    flash.forward(q, k[..., keys, :], v[..., keys, :], block_q=1, block_k=64)
    for keys in (slice(0, 300), slice(300, 301), slice(301, 1000))
]
outs, logs = (np.array(each) for each in zip(*parts, strict=True))  # (3, ..., 1, D), (3, ..., 1)
shares = softmax(np.moveaxis(logs, 0, -1))  # (..., 1, 3)
merged = np.einsum("sbhqd,bhqs->bhqd", outs, shares)
np.testing.assert_allclose(merged, full.attention(q, k, v), atol=1e-12)
print("what the three parts count in head 0:", np.round(shares[0, 0, 0], 4))

# %% [markdown]
# [Exercise 12.6](../exercises/12_inference.ipynb#12.6-Split-the-keys) asks for it, with empty parts
# among them. How many parts? Each one more keeps more of the chip at work, and writes a result that
# has to be read again. A model of that, for one text:
#
# $$ \text{time} = \frac{\text{cache}}{\text{bandwidth} \cdot \min(1,\, \text{programs} / 132)}
#    + \frac{\text{results, written and read}}{\text{bandwidth}} $$

# %%
parts = 2.0 ** np.arange(11)
h100 = DEVICES["H100 80 GB"]


def decode_time(context, groups, heads=32, width=128):
    """Microseconds for one query of each head, by the number of splits."""
    cache = kv_cache.size_bytes(context, groups, width)
    busy = np.minimum(1, groups * parts / 132)
    results = 2 * parts * heads * (width + 1) * 4 * (parts > 1)
    return 1e6 * (cache / busy + results) / h100.bytes_per_second


# %% folded=true
live_split = plots.LiveCurves(
    parts, {"one step": decode_time(32768, 8)}, log_x=True, x_label="splits", y_label="µs"
)


def draw_split(context, groups):
    times = decode_time(context, groups)
    live_split.update({"one step": times}, f"{context} keys, {groups} key/value heads")
    best, gain = int(parts[times.argmin()]), times[0] / times.min()
    return (
        f"{context} keys, {groups} heads: best with {best} splits, {gain:.1f} times as fast as one."
    )


# %%
contexts, some = (
    widgets.choice([512, 2048, 8192, 32768, 131072], 32768),
    widgets.choice([1, 2, 8, 32], 8),
)
widgets.explore(draw_split, live_split.figure, context=contexts, groups=some)

# %% [markdown]
# Short texts have no keys to share out, and with many heads or texts there are programs enough.
# Our kernel decides by that: [`splits.py`](../attncourse/kernels/_parts/splits.py), for
# [`kv_cache`](../attncourse/kernels/kv_cache.py) and [`paged`](../attncourse/kernels/paged.py).
# Slide through its programs, in Triton's interpreter if there is no GPU: each loads the same query
# and a run of keys of its own.

# %% tags=["nbval-ignore-output"]
try:
    import torch

    from attncourse import trace
    from attncourse.kernels import kv_cache as cache_kernel

    tensors = [torch.from_numpy(array) for array in random_qkv(1, 1024, width=16)]
    tiles = plots.LiveTiles(trace.record(cache_kernel.attention, *tensors, chunk=1))
    shown = widgets.explore(tiles.draw, tiles.figure, program=(0, tiles.programs - 1, 1, 2))
except (ImportError, RuntimeError) as reason:
    shown = reason
shown

# %% [markdown]
# ## In a real model
#
# Back to the model of the course, with no padding anywhere. Three prompts of different lengths are
# read into the pages of one pool for each layer; then each step multiplies the weights with one
# token of every text, and attention follows each block table.

# %%
page = model.page()
asked = ["import", page[:150], "def heappush(heap, item):\n"]
made = model.write_together(small, asked, 24, page=16)
assert made.texts == [small.generate(text, 24) for text in asked]
for text, added in zip(asked, made.texts, strict=True):
    print(f"{text.splitlines()[-1]!r:>40} ⟦…⟧ {added[:48]!r}")

# %% [markdown]
# The same tokens, letter by letter, that each would get alone. And the bytes?

# %%
held = [table.length for table in made.tables[0]]
each = kv_cache.size_bytes(1, 4, 32, layers=4, dtype_bytes=4)
print("tokens", held, "pages of layer 0", [table.pages for table in made.tables[0]])
print(f"in pages {format_bytes(made.bytes_held)}, of which {format_bytes(sum(held) * each)} tokens")
print(f"padded {format_bytes(len(held) * max(held) * each)}", end=", ")
print(f"reserved for 512 each {format_bytes(len(held) * 512 * each)}")

# %% [markdown]
# How does the time for a token change with the number of texts? The weights are fetched once for
# all. On your machine the clock says, below; what did the [roofline](12_inference.ipynb) promise?

# %% tags=["nbval-ignore-output"]
for count in (1, 4, 16):
    call = measure.seconds(
        model.write_together, small, ["import"] * count, 12, repeats=3, at_most=1.0
    )
    print(f"{count:>2} texts: {1e3 * call.median / 12 / count:.2f} ms a token")

# %% [markdown]
# ## Try it with texts of your own
#
# What do you ask, and how long are the answers? Put pairs of lengths into `mine`, in tokens: a
# quarter of the letters is a fair guess. With what traffic does a server of your texts begin to
# keep you waiting, and would static batches do?

# %%
mine = [(400, 60), (50, 300), (3000, 40)]
for rate in (1, 4, 16):
    requests = serving.arrivals(mine, 100, rate=rate)
    served = [serving.serve(requests, slots=16, join=join, page=16) for join in (False, True)]
    waits = [f"{np.quantile(way.waits, 0.9):.2g} s" for way in served]
    print(
        f"{rate:>2} requests a second: nine of ten wait less than",
        " static, ".join(waits),
        "joining",
    )

# %% [markdown]
# Next: [chapter 13](13_measuring.ipynb) asks what a time is worth, and times ten mechanisms side by
# side.
