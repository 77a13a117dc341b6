# %% [markdown]
# # 16 · More than one machine
#
# Some texts are longer than one machine can hold. Attention joins every token to every other, and
# yet its tokens may lie on many machines: the keys travel, and what each query found is joined as
# in [chapter 09](09_flash.ipynb). Here real processes do it, and every byte that they send is
# predicted first.
#
# <!-- summary: attention over several processes: keys that go round a ring, tokens swapped for
# heads, both ways with gradients; fair shares under a causal mask, bytes sent to the byte, sending
# hidden behind computing, and a million tokens on 64 GPUs. -->

# %% [markdown]
# You need the online softmax of [chapter 09](09_flash.ipynb#Cut-the-keys:-the-tempting-way). Four
# processes will be started, on this machine alone; the first time that takes some seconds.

# %% role="setup"
import dataclasses
import functools
import os

# One thread: the processes share the cores, and times differ by the work.
for threads in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{threads}_THREADS"] = "1"  # is read when NumPy is loaded

import numpy as np

from attncourse import distributed, measure, model, plots, widgets
from attncourse.cost import DEVICES, Cost
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full, linear, segment
from attncourse.units import format_bytes, format_seconds

# %% [markdown]
# ## More keys than one machine holds
#
# A query's row of attention needs no other query. So cut the text into $P$ parts, one for each
# process, and let each compute its own rows. Sixteen tokens of a page that the course's model
# reads, the $q$, $k$ and $v$ of its last layer, on four processes:

# %%
small = model.load()
ids = small.encode(model.page())[:16]
q, k, v = (x[None] for x in small.qkv(ids)[-1])  # (1, 4 heads, 16 tokens, 32)
rows = [full.attention(part, k, v) for part in np.split(q, 4, axis=-2)]
np.testing.assert_allclose(np.concatenate(rows, axis=-2), full.attention(q, k, v), atol=1e-6)
print("four processes with 4 queries each give what one gives")

# %% [markdown]
# Nothing had to be joined. What is wrong? Look at the call: each process needs all of `k` and `v`.
# It came with its own $n/P$, so it has to *gather* those of all others, layer by layer. And then?

# %% folded=true
widgets.guess(
    "A text of 2²⁰ tokens on 64 GPUs, 32 heads of 128, 16 bits a number. For one layer, how many "
    "bytes of keys and values does each GPU hold once it has gathered them?",
    lambda: 2 * 32 * 2**20 * 128 * 2,
    unit="B",
    explain="As many as one GPU alone would. It came with a 64th of them, 256 MiB.",
)

# %% [markdown]
# However many machines there are, each holds $n$ keys: the memory that was to be shared out is
# multiplied. The package counts it. `cost` says what a call takes of each process; `held` is the
# most that it holds beyond what it came with.

# %%
shape = {"heads": 32, "width": 128, "dtype_bytes": 2}
for size in (4, 16, 64):
    gather = distributed.cost("gather", 2**20, size, **shape)
    came_with = 2 * 32 * 2**20 // size * 128 * 2
    print(f"{size:>2} processes: each holds {max(gather.held) / came_with:.1f} times what it had")

# %% [markdown] covers="X6"
# ## Pass the keys around
#
# Must all keys be there at once? A softmax may be summed by blocks, in any order, if one keeps the
# logarithm $L$ of its sum. So queries stay, and keys travel: each process attends to a block, sends
# it to the right, takes one from the left. That is *ring attention* ([Liu et al.
# 2023](https://arxiv.org/abs/2310.01889)).

# %% [markdown]
# By hand, four processes as four lists. A process is known by its number, its *rank*, and in the
# exercises a rank is the process itself. What one has found so far is a pair, `out` and $L$; two
# pairs are joined by their sums, as [chapter 12](12_serving.ipynb#One-query,-many-keys) joins
# splits of the cache:
#
# $$ L = \log(e^{L_a} + e^{L_b}), \qquad
#    \text{out} = e^{L_a - L}\, \text{out}_a + e^{L_b - L}\, \text{out}_b $$


# %%
def attend(q, k, v):
    """What the queries find in one block: out (…, T, D) and the log of each softmax's sum."""
    return flash.forward(q, k, v, block_q=64, block_k=64)


def join(a, b):
    log = np.logaddexp(a[1], b[1])  # (…, T)
    return sum(np.exp(one[1] - log)[..., None] * one[0] for one in (a, b)), log


# %%
queries, keys, values = (np.split(x, 4, axis=-2) for x in (q, k, v))
blocks = list(zip(keys, values, strict=True))
found = [attend(part, *block) for part, block in zip(queries, blocks, strict=True)]
for _step in range(3):
    blocks = [blocks[rank - 1] for rank in range(4)]  # each takes from its left neighbour
    new = [attend(part, *block) for part, block in zip(queries, blocks, strict=True)]
    found = [join(before, now) for before, now in zip(found, new, strict=True)]
out = np.concatenate([out for out, _ in found], axis=-2)
np.testing.assert_allclose(out, full.attention(q, k, v), atol=1e-5)
print("after three steps round, the same as full attention")

# %% [markdown]
# With one process the loop is empty, and it *is* full attention: the collapse test. **Now step
# through it. Which squares of the board are made at the same time, and why is none ever made
# twice?** At step $s$, process $r$ holds the keys of process $r - s$.

# %% folded=true
from ipywidgets import IntSlider

ring = plots.LiveRing(4)
counts = widgets.choice([2, 3, 4, 5, 6, 8], 4)
at_step = IntSlider(1, min=0, max=3)
counts.observe(lambda change: setattr(at_step, "max", change.new - 1), "value")  # the last step
widgets.explore(ring.draw, ring.figure, processes=counts, step=at_step)

# %% [markdown]
# Each step fills one square in every row and in every column: all processes work, and each block is
# with one of them. Beside its own, nobody holds more than two blocks: the one in use and the one
# that comes.

# %% [markdown]
# And what is sent? A block has $n/P$ tokens, and passes $P - 1$ times:
#
# $$ \underbrace{2 \cdot H_{kv} \cdot \frac{n}{P} \cdot D \cdot b}_{\text{a block, in bytes}}
#    \cdot\, (P - 1) $$
#
# with $b$ bytes a number, and $H_{kv}$ heads of keys and values, which
# [chapter 12](12_inference.ipynb#Heads-that-share) calls $G$.

# %% folded=true
widgets.guess(
    "The same text on 16 processes instead of 4. How many times as many bytes does each one send?",
    lambda: (15 / 16) / (3 / 4),
    unit="times",
    explain="(P − 1)/P goes from 3/4 to 15/16. The blocks are smaller, but there are more steps: "
    "everybody has to see all keys. All 16 together send five times as much as all 4 did.",
)

# %% [markdown]
# [Exercise 16.1](../exercises/16_scale_out.ipynb#16.1-Keys-on-a-ring) asks for the ring, with its
# memory graded: nobody may hold all keys.

# %% [markdown] covers="X10"
# ## Real processes
#
# Lists cannot lose a byte, wait or die; processes can. `Workers(4)` starts four that know one
# another by `torch.distributed`, the engine under every training on several GPUs. `run` calls a
# function in each, and `each` gives each its own argument. What stands in a cell travels there.

# %%
import time

import torch
import torch.distributed as dist

from attncourse.distributed import all_to_all_attention, each, ring_attention, shard, unshard


# %%
def sharded(attention, q, k, v, **options):
    """What each process runs: attention of its share, and the bytes that it sent."""
    with distributed.count_sent() as sent:
        out = attention(q, k, v, **options)
    return out, sent.bytes


def shares(arrays, size, layout="zigzag"):
    """Each array as one torch tensor for each process."""
    tensors = [torch.from_numpy(x) for x in arrays]
    return [each(shard(x, rank, size, layout) for rank in range(size)) for x in tensors]


# %%
workers = distributed.Workers(4)
n, heads, width = 1024, 4, 32
q, k, v = random_qkv(n, heads=heads, width=width)
outs, sent = zip(*workers.run(sharded, ring_attention, *shares((q, k, v), 4)), strict=True)
np.testing.assert_allclose(unshard(outs).numpy(), full.attention(q, k, v), atol=1e-5)
predicted = (4 - 1) * 2 * heads * (n // 4) * width * 4
print("out of four processes is that of one, to rounding")
print("bytes sent", *sent, "predicted", predicted)

# %% [markdown]
# To the byte. What is counted is what `torch.distributed` was asked to send; the network wraps some
# more around it. And is $n/P$ all that a process holds? Its peak, measured in the process, beside
# the prediction, for two processes and for four:


# %%
def peak(q, k, v):
    return measure.peak_bytes(ring_attention, q, k, v)


arrays = random_qkv(1024, width=128)
for size in (2, 4):
    parts = shares(arrays, size)
    with distributed.Workers(size) as some:
        held = max(some.run(peak, *parts))
    said = distributed.cost("ring", 1024, size, width=128).held[0]
    own = format_bytes(sum(part[0].nbytes for part in parts))
    print(f"P = {size}: {own} to begin with, {format_bytes(said)} predicted beside that,", end=" ")
    print(f"measured {held / said:.1f} of it")

# %% [markdown]
# Predicted are the result, the blocks that travel (one for $P = 2$, two from 3 on) and a tile of
# scores, of 256 rows at most. For longer texts the tile stays as it is, and all else grows with
# $n/P$: where one wants many machines, only that counts. The same function for a million tokens:

# %% folded=true
sizes = [2, 4, 8, 16, 32, 64]
held = {
    way: [max(distributed.cost(way, 2**20, size, **shape).held) for size in sizes]
    for way in ("ring", "gather")
}
words = {"unit": "bytes", "x": "processes P", "title": "one layer of 2²⁰ tokens"}
axes = plots.growth(sizes, {}, held, **words)
ends = [f"{way} {format_bytes(line[-1])}" for way, line in held.items()]
plots.show(axes, f"What each process holds beyond its share; with 64 of them {', '.join(ends)}.")

# %% [markdown]
# What if one dies? The others wait for its block, and the more machines there are, the sooner one
# of them fails. So one has to learn *that* it did, and soon. Here process 2 leaves in the middle:


# %%
def fall(rank):
    if dist.get_rank() == rank:
        os._exit(3)  # without a word, as when memory runs out
    dist.barrier()


try:
    workers.run(fall, 2)
except distributed.WorkerError as error:
    print(error)

# %% [markdown]
# And what if one is only missing, because an `if` kept it from the call? Nothing is broken then,
# and nothing will ever come. But who waits computes nothing: after `idle` seconds in which no
# process does, a few if not given, `run` gives up. Work that takes long goes on.


# %%
def skipped(rank):
    if dist.get_rank() == rank:
        time.sleep(60)  # it never comes to the barrier
    dist.barrier()


try:
    with distributed.Workers(4, idle=2) as impatient:
        impatient.run(skipped, 3)
except distributed.WorkerError as error:
    print(error)

# %% [markdown]
# It says where each was: the odd one out is the first named. Nothing stays behind, and the next
# `run` starts new processes. A cluster does the same from further away: `torchrun` watches, ends
# all if one fails, and may start them again from the last checkpoint.

# %% [markdown]
# The same functions run there, on one machine or several; on GPUs, which we have not measured, over
# NVIDIA's NCCL:
#
# ```
# torchrun --nproc-per-node 4 -m attncourse.distributed --tokens 4096
# ```
#
# It checks both algorithms against torch's attention, with gradients. The ring is one page,
# [`distributed/ring.py`](../attncourse/distributed/ring.py);
# [`distributed`](../attncourse/distributed/__init__.py) names libraries with kernels of their own.

# %% [markdown] covers="X8"
# ## Causal is unfair
#
# A causal mask hides half of the pairs, so a causal ring should take half the time. Give each
# process a run of neighbouring tokens, and count its pairs. The first process has the first
# queries, which see hardly any key; the last one has those that see nearly all.


# %%
def causal_pairs(n, size, layout):
    """The pairs of query and key that each process computes and no mask hides."""
    return distributed.cost("ring", n, size, causal=True, layout=layout).pairs


# %% folded=true
widgets.guess(
    "Eight processes with a run of neighbouring tokens each, causal. How many times as many pairs "
    "does the last one have as the first?",
    lambda: np.divide(*np.array(causal_pairs(2**20, 8, "contiguous"))[[-1, 0]]),
    unit="times",
    explain="Process r has its own triangle and r squares below it: (r + 1/2) shares of (n/P)². "
    "That is 1/2 for the first and 15/2 for the last.",
)

# %%
for layout in ("contiguous", "zigzag"):
    print(f"{layout:>10}:", *(f"{pairs:,}" for pairs in causal_pairs(1024, 4, layout)))

# %% [markdown]
# The second line is the repair, and it costs nothing. Cut the text into $2P$ runs, and give process
# $r$ the runs $r$ and $2P - 1 - r$: one early, one late, as in a *zigzag*. **Raise the processes:
# what does the longest bar on the left come to, in means?**

# %% folded=true
live_shares = plots.LiveShares(["contiguous", "zigzag"], 64)


def draw_shares(processes):
    owners = {way: np.empty(64, int) for way in live_shares.axes}
    for way, owner in owners.items():
        for rank in range(processes):
            owner[distributed.positions(64, rank, processes, way)] = rank
    live_shares.update(owners, processes)
    most = [max(pairs) / np.mean(pairs) for way in owners
            for pairs in [causal_pairs(64, processes, way)]]  # fmt: skip
    said = f"{most[0]:.2f} times the mean with neighbouring tokens, {most[1]:.2f} with zigzag"
    return f"{processes} processes: the busiest has {said}."


# %%
counts = widgets.choice([2, 4, 8, 16, 32], 4)
widgets.explore(draw_shares, live_shares.figure, processes=counts)

# %% [markdown]
# Runs $r$ and $2P - 1 - r$ see, in runs, $(r + \tfrac12) + (2P - 1 - r + \tfrac12) = 2P$: the same
# for every $r$. With neighbours, whose runs are twice as long, the last process has $P - \tfrac12$
# where the mean is $P/2$, nearly twice as much; and all wait for it. In a ring they even wait at
# each *step*:

# %%
for layout in ("contiguous", "zigzag"):
    counted = distributed.cost("ring", 2**16, 4, causal=True, layout=layout)
    steps = [max(step.work.flops for step in some) for some in zip(*counted.steps, strict=True)]
    print(f"{layout:>10}, busiest of each step:", *(f"{step / steps[0]:.2f}" for step in steps))

# %% [markdown]
# Counted in tiles, relative to the first step, in which half of a square is hidden. With neighbours
# someone has a whole square in each later step, and so causal takes nearly as long as if nothing
# were hidden. With zigzag each step is half a square for everybody.

# %% [markdown]
# Zigzag came with
# [ring-flash-attention](https://github.com/zhuzilin/ring-flash-attention/issues/2);
# [striped attention](https://arxiv.org/abs/2311.09431) deals single tokens out like cards, to the
# same end. [Exercise 16.2](../exercises/16_scale_out.ipynb#16.2-A-fair-share) is about who gets
# which. A mask then needs to know where each token sat before it was dealt out.

# %%
for layout in ("contiguous", "zigzag"):
    parts = shares((q, k, v), 4, layout)
    outs = workers.run(ring_attention, *parts, causal=True, layout=layout)
    out = unshard(outs, layout).numpy()
    np.testing.assert_allclose(out, full.attention(q, k, v, causal=True), atol=1e-5)
print("either layout gives what one process gives; the workers that died had been replaced")

# %% [markdown]
# [Exercise 16.5](../exercises/16_scale_out.ipynb#16.5-A-ring-that-is-nearly-right) has a causal
# ring with two bugs, of which two processes notice nothing, and asks for both.

# %% [markdown] covers="X7"
# ## Swap tokens for heads
#
# Heads need nothing of one another, so cut by heads, not by tokens. The tokens are already here and
# there: each process gives away its tokens of all heads but its own, and gets all tokens of its
# own. Then it attends as one machine would, and swaps back. Four processes and four heads, by hand:

# %%
have = [[f"{head}{part}" for head in "abcd"] for part in range(4)]  # by process
get = [list(given) for given in zip(*have, strict=True)]
for rank in range(4):
    print(f"process {rank}: head and part", *have[rank], " → ", *get[rank])

# %% [markdown]
# It is a transposed matrix, of which each process holds a row: an *all-to-all*. The diagonal stays
# at home. This is sequence parallelism as in
# [DeepSpeed-Ulysses](https://arxiv.org/abs/2309.14509). What is sent of $q$, $k$, $v$, and of out
# on its way back:
#
# $$ 4 \cdot H \cdot \frac{n}{P} \cdot D \cdot b \cdot \frac{P - 1}{P}
#    \;=\; \frac{2}{P} \;\text{of what a ring sends} $$

# %%
outs, sent = zip(*workers.run(sharded, all_to_all_attention, *shares((q, k, v), 4)), strict=True)
np.testing.assert_allclose(unshard(outs).numpy(), full.attention(q, k, v), atol=1e-5)
counted = distributed.cost("all_to_all", n, 4, heads=heads, width=width)
print("bytes sent", *sent, "predicted", counted.sent[0], "and by a ring", predicted)

# %% [markdown]
# With 64 processes that is a 32nd: a ring shows all keys to everybody, an all-to-all sends each
# number once. So why would anyone use a ring? Try heads that
# [share keys](12_inference.ipynb#Heads-that-share), 64 of queries with 8 of keys, as many models
# have; and then more processes than heads of keys:

# %%
for way, size in (("ring", 64), ("all_to_all", 8), ("all_to_all", 64)):
    try:
        counted = distributed.cost(way, 2**20, size, heads=64, kv_heads=8, width=128, dtype_bytes=2)
        print(f"{way} on {size}: {format_bytes(counted.sent[0], decimal=True)} sent by each")
    except ValueError as error:
        print(f"{way} on {size}:", error)

# %% [markdown]
# A process needs at least a head. And shared keys make the ring cheap, which sends nothing else,
# while the all-to-all has all of $q$ and out to swap. **Let more and more heads share: from how
# many processes on does the all-to-all send less, and is there such a number for 8 heads of keys?**

# %%
senders = {"ring": "ring", "all-to-all": "all_to_all", "gather": "gather"}


@functools.cache
def sent_by(kv_heads):
    """GB that each process sends for a layer; NaN with more processes than heads of keys."""
    shape = {"heads": 64, "kv_heads": kv_heads, "width": 128, "dtype_bytes": 2}
    sent = {name: [np.nan] * len(sizes) for name in senders}
    for name, way in senders.items():
        for at, size in enumerate(sizes):
            if way != "all_to_all" or size <= kv_heads:
                sent[name][at] = distributed.cost(way, 2**20, size, **shape).sent[0] / 1e9
    return sent


# %% folded=true
labels = {"x_label": "processes P", "y_label": "GB sent by each"}
live_sent = plots.LiveCurves(sizes, sent_by(64), log_x=True, **labels)


def draw_sent(kv_heads):
    curves = sent_by(kv_heads)
    live_sent.update(curves, f"2²⁰ tokens, 64 heads, {kv_heads} of keys and values")
    at = sizes.index(kv_heads)
    said = ", ".join(f"{name} {line[at]:.3g} GB" for name, line in curves.items())
    return f"With {kv_heads} processes, the most that an all-to-all can use, each sends: {said}."


# %%
widgets.explore(draw_sent, live_sent.figure, kv_heads=widgets.choice([4, 8, 16, 32, 64], 64))

# %% [markdown]
# An all-to-all sends $(1 + H/H_{kv})/P$ of what a ring sends. The curves meet at 2 processes with
# 64 heads of keys, at 5 with 16; with 8 they would at 9, one more than there are heads.

# %% [markdown]
# A gather sends as much as a ring, and holds all of it. Large clusters take both: an all-to-all
# among the GPUs of a machine, where links are fast and $P$ is small, and a ring from machine to
# machine ([Fang and Zhao 2024](https://arxiv.org/abs/2405.07719)).
# [Exercise 16.3](../exercises/16_scale_out.ipynb#16.3-Tokens-for-heads) swaps there and back; ours
# is [`all_to_all.py`](../attncourse/distributed/all_to_all.py).

# %% [markdown] covers="X6 X7"
# ## The way back
#
# Training needs gradients. Those of the queries are easy: a process that sees all keys once more
# has $dq$ of its rows. But $dk$ and $dv$ of a block have a part from every process's queries, and
# none of them sees more than its own. Where are they added up?

# %% [markdown]
# On the way. The keys go round again, and behind each block travel its $dk$ and $dv$: every process
# adds its part and hands them on, and after the last one they go home. For an all-to-all the way
# back is the same swap with the arrows turned.


# %%
def gradients(attention, q, k, v, grad, **options):
    """What each process runs: dq, dk and dv of its share, and the bytes that they took."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*inputs, **options)
    with distributed.count_sent() as sent:
        found = torch.autograd.grad((out * grad).sum(), inputs)
    return *found, sent.bytes


# %%
attention = {"ring": ring_attention, "all_to_all": all_to_all_attention}
grad = random_qkv(n, heads=heads, width=width, seed=1)[0]
inputs = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)
expected = torch.autograd.grad((out * torch.from_numpy(grad)).sum(), inputs)
for way, function in attention.items():
    *found, sent = zip(
        *workers.run(gradients, function, *shares((q, k, v, grad), 4), causal=True), strict=True
    )
    for parts, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(unshard(parts), whole, atol=1e-4)
    counted = distributed.cost(way, n, 4, heads=heads, width=width, causal=True, backward=True)
    print(f"{way}: the gradients of one process; {sent[0]:,} bytes, predicted {counted.sent[0]:,}")

# %% [markdown]
# The ring sends twice as much as on its way there, the all-to-all the same. And in the 16 bits that
# models are trained with? $dk$ and $dv$ are sums of $P$ parts; rounded at every stop, they would be
# the worse the more machines there are. So they travel with 32 bits, as heavy as two blocks:

# %%
ring16 = [distributed.cost("ring", n, 4, dtype_bytes=2, backward=back).sent[0]
          for back in (False, True)]  # fmt: skip
print(f"in 16 bits the way back sends {ring16[1] / ring16[0]:.0f} times as much as the way there")

# %% [markdown]
# [Exercise 16.4](../exercises/16_scale_out.ipynb#16.4-Bytes-on-the-wire) counts the bytes of all
# three, both ways.

# %% [markdown] covers="X9"
# ## Hide the sending
#
# A process that waits for a block does nothing. But a block can come while the one before is in
# use: ask for the next one, compute, and only then wait. A step then takes the longer of both, and
# not their sum.

# %% [markdown]
# When is sending free? Computing a step takes $4 H (n/P)^2 D$ FLOPs, sending a block
# $2 H (n/P) D\, b$ bytes; with $F$ FLOPs and $W$ bytes a second,
#
# $$ \frac{4 H (n/P)^2 D}{F} \;\ge\; \frac{2 H (n/P) D\, b}{W}
#    \quad\Longleftrightarrow\quad \frac{n}{P} \;\ge\; \frac{b\, F}{2\, W} $$
#
# Heads and their width are gone, and so is $n$: what counts is how many tokens *each process* has.

# %% folded=true
h100, network = DEVICES["H100 80 GB"], distributed.LINKS["InfiniBand NDR"]
widgets.guess(
    "H100s with 989 TFLOP/s in 16 bits, over InfiniBand at 50 GB/s. How many tokens must each have "
    "so that a ring hides what it sends?",
    lambda: 2 * h100.peak("float16") / (2 * network.bytes_per_second),
    unit="tokens",
    explain="b F / 2W, as if both ran at their peaks. NVLink, at 450 GB/s each way, needs a ninth "
    "of it; a causal mask halves the work and doubles the tokens; eight query heads for each head "
    "of keys need an eighth.",
)

# %% [markdown]
# Here the network is this machine's memory, too fast to see anything. `slow_link` lets a process
# wait as if its link were slower. Each time is the better of two causal rings of 1,024 tokens, with
# and without overlap, beside what `seconds` predicts from the FLOPs and bytes a second that `here`
# measures first. (Some seconds.)


# %%
def timed(q, k, v, speed, overlap):
    dist.barrier()
    start = time.perf_counter()
    with distributed.slow_link(speed):
        ring_attention(q, k, v, causal=True, overlap=overlap)
    dist.barrier()
    return time.perf_counter() - start


# %%
speeds = [4e6 * 2**i for i in range(6)]
ways = {"while computing": True, "afterwards": False}
pools = {2: distributed.Workers(2), 4: workers}
figures = {size: distributed.here(pool) for size, pool in pools.items()}
measured_ms = {size: {way: [] for way in ways} for size in pools}
settings = [(size, speed) for size in pools for speed in speeds]
for size, speed in measure.progress(settings, "rings", expect_seconds=5):
    parts = shares((q, k, v), size)
    for way, overlap in ways.items():
        runs = [max(pools[size].run(timed, *parts, speed, overlap)) for _ in range(2)]
        measured_ms[size][way].append(1e3 * min(runs))
pools[2].close()


# %%
def predicted_ms(size, way):
    counted = distributed.cost("ring", n, size, heads=heads, width=width, causal=True)
    device, loopback = figures[size]
    fastest = loopback.bytes_per_second
    links = [dataclasses.replace(loopback, bytes_per_second=min(x, fastest)) for x in speeds]
    return [1e3 * counted.seconds(device, link, overlap=ways[way]) for link in links]


# %%
def computing_ms(size):
    """Without anything to wait for."""
    counted = distributed.cost("ring", n, size, heads=heads, width=width, causal=True)
    device, loopback = figures[size]
    at_once = dataclasses.replace(loopback, bytes_per_second=float("inf"), latency=0)
    return 1e3 * counted.seconds(device, at_once)


model_ms = {size: {way: predicted_ms(size, way) for way in ways} for size in pools}

# %% [markdown]
# **Slow the link down: from where on does a time double with each step? And where does overlap save
# most?** Lines are the model, hollow marks your machine, dots the speed that you chose. Both axes
# are logarithmic: equal ratios are equally far apart.

# %% folded=true
mb_a_second = [round(speed / 1e6) for speed in speeds]
words = {"x_label": "MB a second", "y_label": "milliseconds", "log_x": True, "log_y": True}
live_ring = plots.LiveCurves(mb_a_second, model_ms[4], measured=measured_ms[4], **words)


# %% folded=true
def draw_ring(processes, speed):
    said, found = model_ms[processes], measured_ms[processes]
    title = f"a ring of 1,024 tokens on {processes} processes; lines: the model"
    live_ring.update(said, title, at=speed, measured=found)
    at = mb_a_second.index(speed)
    each_way = [f"{way} {found[way][at]:.0f} ms, predicted {said[way][at]:.0f}" for way in said]
    together, summed = (said[way][at] for way in ways)
    computing = computing_ms(processes)
    return (
        f"{processes} processes at {speed} MB a second: {'; '.join(each_way)}. By the model "
        f"computing takes {computing:.1f} ms and sending {summed - computing:.1f}, and overlap "
        f"saves {1 - together / summed:.0%}."
    )


# %% tags=["nbval-ignore-output"]
counts, rates = widgets.choice([2, 4], 4), widgets.choice(mb_a_second, 16)
widgets.explore(draw_ring, live_ring.figure, processes=counts, speed=rates)

# %% [markdown]
# Overlap hides the shorter of the two, so it gains most where both take as long, and never more
# than a factor of two. Measured marks scatter: where the lines are close, the ways may come out
# reversed. Where marks lie above their lines, the processes shared cores, or a message took longer
# to set off than to arrive.

# %% [markdown]
# Now real links, by the same model. The height is the time of all GPUs together, $P$ times that of
# one: **a ring that hides everything is a flat line. From how many GPUs on does it rise, with which
# link?**

# %%
drawn = {"ring": ("ring", True), "ring, no overlap": ("ring", False)}
drawn["all-to-all"] = ("all_to_all", True)
layer = {"heads": 64, "width": 128, "dtype_bytes": 2, "causal": True}


@functools.cache
def gpu_milliseconds(tokens, link):
    """P times the time of one layer."""

    def height(way, overlap, size):
        counted = distributed.cost(way, tokens, size, **layer)
        return 1e3 * size * counted.seconds(h100, distributed.LINKS[link], overlap=overlap)

    return {name: [height(*way, size) for size in sizes] for name, way in drawn.items()}


# %% folded=true
labels = {"x_label": "H100s", "y_label": "GPU-milliseconds"}
live_time = plots.LiveCurves(sizes, gpu_milliseconds(2**17, network.name), log_x=True, **labels)


def draw_time(tokens, link, processes):
    curves = gpu_milliseconds(tokens, link)
    live_time.update(curves, f"one layer of {tokens:,} tokens, {link}", at=processes)
    alone = 1e3 * distributed.cost("ring", tokens, 1, **layer).seconds(h100, network)
    at = sizes.index(processes)
    said = ", ".join(f"{name} {alone / line[at]:.0%}" for name, line in curves.items())
    return f"{tokens // processes:,} tokens on each; of the GPUs' time is used: {said}."


# %%
lengths = widgets.choice([2**i for i in range(13, 22)], 2**17)
links = widgets.choice(list(distributed.LINKS), network.name)
counts = widgets.choice(sizes, 16)
widgets.explore(draw_time, live_time.figure, tokens=lengths, link=links, processes=counts)

# %% [markdown]
# With a causal mask, hiding takes $b F / W$ tokens each: 39,560 over InfiniBand, 4,396 over NVLink.
# By this rule $2^{17}$ tokens feed 3 GPUs over the one, 29 over the other. Until then the line is
# nearly flat: at each step a GPU reads and writes once more what it has found so far.

# %% [markdown]
# ## One million tokens
#
# Everything is there to say what nobody can try at home. A model of 80 layers, 64 heads of 128, and
# 8 of keys and values, a common shape of 70 billion weights; a text of $2^{20}$ tokens; 64 H100s,
# InfiniBand between them. Attention alone, forward, causal, in 16 bits.


# %%
def million(way, size, **more):
    sizes = {"heads": 64, "kv_heads": 8, "width": 128, "dtype_bytes": 2, "causal": True} | more
    return distributed.cost(way, 2**20, size, **sizes)


# %% folded=true
widgets.guess(
    "How long does attention take in all 80 layers, at the GPUs' peak?",
    lambda: 80 * million("ring", 64).seconds(h100, network),
    unit="s",
    explain=lambda took: (
        f"{format_seconds(took / 80)} a layer, {million('ring', 64).flops[0] / 1e12:,.0f} TFLOP on "
        f"each GPU. One H100 would need {80 * million('ring', 1).seconds(h100, network) / 60:.0f} "
        "minutes, if it could hold the text."
    ),
)

# %%
for way, layout in (("ring", "zigzag"), ("ring", "contiguous"), ("gather", "zigzag")):
    one = million(way, 64, layout=layout)
    used = million(way, 1).seconds(h100, network) / 64 / one.seconds(h100, network)
    held, sent = (format_bytes(x, decimal=True) for x in (max(one.held), 80 * one.sent[0]))
    print(f"{way}, {layout}: {used:.0%} of the time used, {held} held, {sent} sent by each")
everything = 80 * 2 * 8 * 2**20 * 128 * 2
print("keys and values of all layers:", format_bytes(everything, decimal=True))
print("a 64th of them:", format_bytes(everything / 64, decimal=True))

# %% [markdown]
# That is at peak, and without weights and all else. It does say who waits for what: neighbouring
# tokens waste nearly half of the time, and a gather waits for its keys. A ring hides its sending
# with 16,384 tokens each, not 39,560 as above: 8 heads of keys for 64 of queries are an eighth of
# the bytes.

# %% [markdown] covers="K8 X2 X5"
# ## One machine after the other
#
# Must everybody see everything? *Segment recurrence*
# ([chapter 06](06_pooling.ipynb#A-state-from-chunk-to-chunk)) reads a text in segments; each sees
# itself and a memory of the keys before it. Here is what is handed on, machine after machine:

# %%
state, outs = segment.start(k, v, chunk=256, memory=256), []
for rank in range(4):  # one after the other, each with its own quarter
    own = [shard(x, rank, 4, "contiguous") for x in (q, k, v)]
    out, state = segment.step(state, *own)
    outs.append(out)
    if rank < 3:  # nobody comes after the last one
        print(f"process {rank} hands on {format_bytes(state.keys.nbytes + state.values.nbytes)}")
_, summary = linear.step(None, q, k, v)
print(f"with linear attention, each hands on {format_bytes(summary.nbytes)}")
whole = segment.attention(q, k, v, chunk=256, memory=256, causal=True)
np.testing.assert_allclose(unshard(outs, "contiguous"), whole, atol=1e-5)

# %% [markdown]
# One block from one neighbour, however long the text: a ring that stops after its first step. The
# state of [linear attention](07_linear.ipynb#Causal-and-a-recurrence) is smaller still, a matrix
# for each head. But it sums up *all* that came before, so there the machines do wait for one
# another, or add up their parts [in a tree](07_linear.ipynb#All-at-once-as-a-scan).

# %% [markdown]
# And the price? What lies further back than the memory is gone, except for what the layers hand on:

# %%
unseen = np.concatenate([small.encode(text)[:206] for text in model.held_out()])[: 2 * 512 + 1]
print(f"on {len(unseen) - 1:,} unseen tokens, all keys: {small.loss(unseen):.3f} nats a token")
for memory in (0, 32, 128):
    forgets = small.swap("segment", chunk=128, memory=memory)
    print(f"four segments of 128, memory {memory:>3}: {forgets.loss(unseen):.3f}")

# %% [markdown]
# With a memory of 128 the mean is as good as with all keys. But a mean over tokens hides what a
# name needs that was given once, far back.

# %% [markdown]
# The [survey](00_start.ipynb#The-four-texts) hopes in the end for *hardware co-design*, and for
# algorithms, hardware and theory that advance together. This chapter is a case of both: zigzag,
# overlap and the choice between ring and all-to-all have no other reason than the ratio $F/W$ of
# some machine, and an identity of the log-sum-exp is what makes them exact.

# %% [markdown]
# ## In a real model
#
# The course's model reads its page with the attention of every layer on four processes. A token is
# dark if it has become less probable. One way is not exact: the ring that stops after its first
# step: a process sees its own quarter of the page and the one before. Choose the way:


# %%
from attncourse.model.attention import Attention


class Spread(Attention):
    """Attention of a layer on four processes; the stem is the way."""

    def __call__(self, q, k, v):
        lengths = {"n_queries": q.shape[-2], "n_keys": k.shape[-2]}
        parts = shares((q, k, v), 4)
        outs = workers.run(attention[self.stem], *parts, causal=True, **lengths)
        return unshard(outs).numpy()

    def cost(self, n, **shape):
        counted = distributed.cost(self.stem, n, 4, causal=True, dtype_bytes=2, **shape)
        return Cost(sum(counted.flops), 0, 0, max(counted.held))


# %%
class OneStep(Attention):
    """The ring that stops after its first step: segments of a quarter of the text."""

    @staticmethod
    def of_length(n):
        quarter = -(-n // 4)
        return Attention("segment", {"chunk": quarter, "memory": quarter})

    def __call__(self, q, k, v):
        return self.of_length(k.shape[-2])(q, k, v)

    def cost(self, n, **shape):
        return self.of_length(n).cost(n, **shape)


# %% folded=true
names = {"ring": "ring", "all-to-all": "all_to_all"}
spread = {"ring of one step": OneStep("segment")} | {
    name: Spread(way) for name, way in names.items()
}
tried = model.compare(
    small, {name: dataclasses.replace(small, attention=(way,) * 4) for name, way in spread.items()}
)
widgets.in_a_real_model("attention", tried)

# %%
for name, way in names.items():
    for length in (512, 16_384):
        one = distributed.cost(way, length, 4, heads=4, width=32, causal=True, dtype_bytes=2)
        sent, held = 4 * sum(one.sent) / length, format_bytes(max(one.held))
        print(f"{name}, n = {length:,}: {sent:,.0f} bytes sent a token, {held} held by each")

# %% [markdown]
# An exact algorithm loses no word, wherever it runs. What is sent for a token does not grow with
# the text, but what is computed does: the longer a text, the easier it is to share out.

# %% [markdown]
# ## Try it with your own machines
#
# Put in the sizes of a model and of machines that you know. Up to how many of them does a text of
# yours keep busy? Then, in a terminal, let `torchrun` say what yours really do.

# %%
tokens, link = 100_000, distributed.LINKS["10 Gbit Ethernet"]
mine = {"heads": 32, "kv_heads": 8, "width": 128, "dtype_bytes": 2, "causal": True}
alone = distributed.cost("ring", tokens, 1, **mine).seconds(DEVICES["RTX 4090"], link)
for size in (2, 4, 8, 16):
    took = distributed.cost("ring", tokens, size, **mine).seconds(DEVICES["RTX 4090"], link)
    used = alone / took / size
    print(f"{size:>2} machines: {format_seconds(took)} a layer, {used:.0%} of their time used")
workers.close()

# %% [markdown]
# Next: [the audit](17_audit.ipynb) holds all that the four texts print against what these chapters
# found.
