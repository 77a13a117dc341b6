"""Attention over processes: equal to attention in one, bytes to the byte, and no process left."""

import functools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import covering
import numpy as np
import pytest
import ring_jobs as jobs

from attncourse.cost import Cost, Device
from attncourse.distributed import (
    LINKS,
    Link,
    Shares,
    WorkerError,
    Workers,
    all_to_all_attention,
    cost,
    each,
    here,
    positions,
    ring_attention,
    runs,
    shard,
    slow_link,
    travel,
    unshard,
)
from attncourse.distributed.cost import BLOCK, Step

ROOT = Path(__file__).parents[1]
ATTENTION = ("ring", "all_to_all")


@pytest.fixture(scope="module")
def pools():
    """Workers by their number, started once for all tests."""
    made = {}

    def workers(n):
        if n not in made:
            made[n] = Workers(n, limit=60)
        return made[n]

    yield workers
    for pool in made.values():
        pool.close()


def drawn(n_queries, n_keys, *, heads=4, kv_heads=4, width=8, value_width=8, dtype="float64"):
    """Draw q, k, v and a gradient of out, and compute out and gradients in one process."""
    import torch

    kind = getattr(torch, dtype)
    shapes = [
        (2, heads, n_queries, width), (2, kv_heads, n_keys, width),
        (2, kv_heads, n_keys, value_width), (2, heads, n_queries, value_width),
    ]  # fmt: skip
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64).to(kind) for shape in shapes]


def in_one_process(q, k, v, grad, causal):
    """Return out, dq, dk and dv in float64, from the whole matrix of weights."""
    import torch

    inputs = [x.double().requires_grad_() for x in (q, k, v)]
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in inputs[1:])
    scores = inputs[0] @ keys.mT / q.shape[-1] ** 0.5
    if causal:
        n_queries, n_keys = scores.shape[-2:]
        seen = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        scores = scores.masked_fill(~seen, -torch.inf)
    out = torch.nan_to_num(scores.softmax(-1)) @ values
    return out.detach(), *torch.autograd.grad((out * grad.double()).sum(), inputs)


def parts(tensors, size, layout):
    return [each(shard(x, rank, size, layout) for rank in range(size)) for x in tensors]


def itemsize(tensor):
    return tensor.element_size()


# Equal to attention in one process, and bytes as counted

SIZES = {  # n_queries, n_keys, heads, kv_heads, width, value_width
    "even": (16, 16, 4, 4, 8, 8),
    "uneven, grouped heads": (37, 37, 8, 4, 5, 3),
    "fewer tokens than processes": (3, 3, 4, 4, 8, 8),
    "one query": (1, 21, 4, 4, 8, 8),
    "rows without keys": (21, 2, 4, 4, 8, 8),
    "several tiles": (600, 600, 4, 4, 4, 4),
}
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-8}


@pytest.mark.parametrize(
    "case",
    covering.pairwise(
        algorithm=list(ATTENTION),
        size=[2, 4],
        causal=[False, True],
        layout=["zigzag", "contiguous"],
        dtype=["float32", "float64", "bfloat16"],
        sizes=list(SIZES),
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_attention_over_processes_is_attention(pools, case):
    n_queries, n_keys, heads, kv_heads, width, value_width = SIZES[case["sizes"]]
    tensors = drawn(
        n_queries, n_keys, heads=heads, kv_heads=kv_heads, width=width, value_width=value_width,
        dtype=case["dtype"],
    )  # fmt: skip
    size, layout = case["size"], case["layout"]
    options = {"causal": case["causal"], "layout": layout}
    whole = {"n_queries": n_queries, "n_keys": n_keys}
    given = {} if case["sizes"] == "even" else whole  # by itself where all hold as many
    answers = pools(size).run(
        jobs.both_ways, case["algorithm"], *parts(tensors, size, layout), **options, **given
    )
    found = [unshard(list(x), layout) for x in zip(*(a[0] for a in answers), strict=True)]
    # Sums of n products, of numbers around 1, in another order, each rounded.
    bound = 4 * n_keys**0.5 * EPSILON[case["dtype"]]
    for x, expected in zip(found, in_one_process(*tensors, case["causal"]), strict=True):
        assert x.dtype == tensors[0].dtype
        assert float((x.double() - expected).abs().max()) <= bound * max(1, expected.abs().max())
    if n_queries == n_keys:
        for backward in (False, True):
            predicted = cost(
                case["algorithm"], n_keys, size, batch=2, heads=heads, kv_heads=kv_heads,
                width=width, value_width=value_width, causal=case["causal"], layout=layout,
                dtype_bytes=itemsize(tensors[0]), backward=backward,
            )  # fmt: skip
            assert predicted.sent == tuple(sent[backward] for _, sent in answers)


# What each does, step by step


@pytest.mark.parametrize(
    "case",
    covering.pairwise(
        size=[2, 4], causal=[False, True], layout=["zigzag", "contiguous"], overlap=[False, True],
        n=[29, 605],
    ),
    ids=lambda case: "-".join(map(str, case.values())),
)  # fmt: skip
def test_each_step_of_a_ring_is_as_counted(pools, case):
    size, n, overlap = case["size"], case["n"], case["overlap"]
    tensors = drawn(n, n, width=4, value_width=3)
    options = {"causal": case["causal"], "layout": case["layout"]}
    answers = pools(size).run(
        jobs.order, "ring", *parts(tensors, size, case["layout"]), n_queries=n, n_keys=n,
        overlap=overlap, **options,
    )  # fmt: skip
    found = [unshard(list(x), case["layout"]) for x in zip(*(a[0] for a in answers), strict=True)]
    for x, expected in zip(found, in_one_process(*tensors, case["causal"]), strict=True):
        assert np.allclose(x, expected, rtol=0, atol=1e-11)
    for backward in (False, True):
        counted = cost(
            "ring", n, size, batch=2, heads=4, width=4, value_width=3, dtype_bytes=8,
            backward=backward, **options,
        ).steps  # fmt: skip
        for steps, (_, ways) in zip(counted, answers, strict=True):
            rows = [row[:3] for row in ways[backward]]
            told = [(step.sent, step.messages, step.work.flops) for step in steps]
            assert rows == told if backward else rows == [*told, (0, 0, 0)]
            # The next block while this one is in use, and behind it dk and dv of the one before.
            under_way = [
                (overlap and step < size - 1) + (backward and step >= 2) for step in range(size)
            ]
            assert [row[3] for row in ways[backward]] == [*under_way, 0]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_flops_of_a_swap_are_as_counted(pools, causal, size):
    tensors = drawn(605, 605, heads=8, width=4, value_width=3)
    whole = {"n_queries": 605, "n_keys": 605}
    shards = parts(tensors, size, "zigzag")
    answers = pools(size).run(jobs.order, "all_to_all", *shards, causal=causal, **whole)
    for backward in (False, True):
        counted = cost(
            "all_to_all", 605, size, batch=2, heads=8, kv_heads=4, width=4, value_width=3,
            causal=causal, backward=backward,
        ).flops  # fmt: skip
        assert counted == tuple(sum(row[2] for row in ways[backward]) for _, ways in answers)


@pytest.mark.parametrize("algorithm", ATTENTION)
def test_shares_of_huge_scores_add_up_to_one(pools, algorithm):
    import torch

    q, k, v = torch.full((1, 2, 8, 4), 1e8), torch.ones(1, 2, 8, 4), torch.ones(1, 2, 8, 4)
    found = pools(2).run(jobs.both_ways, algorithm, *parts((q, k, v, v), 2, "zigzag"))
    assert np.allclose(unshard([answer[0][0] for answer in found]), v, rtol=0, atol=1e-6)


def test_messages_are_counted_where_some_processes_hold_nothing(pools):
    tensors = drawn(1, 1)[:3]
    found = pools(4).run(jobs.messages, *parts(tensors, 4, "zigzag"), n_queries=1, n_keys=1)
    steps = cost("all_to_all", 1, 4, batch=2, heads=4, width=8).steps
    assert found == [sum(step.messages for step in of_rank) for of_rank in steps]


def test_bytes_of_the_chapter(pools):
    ring, swapped = (cost(x, 1024, 4, heads=4, width=32) for x in ("ring", "all_to_all"))
    assert ring.sent == (786_432,) * 4 and swapped.sent == (393_216,) * 4
    assert cost("ring", 1024, 4, heads=4, width=32, backward=True).sent == (2 * 786_432,) * 4
    assert cost("all_to_all", 1024, 4, heads=4, width=32, backward=True).sent == swapped.sent
    import torch

    x = torch.ones(1, 4, 256, 32)
    assert pools(4).run(jobs.with_wrapped_send, x, x, x) == [786_432] * 4
    assert pools(4).run(jobs.gathered_bytes) == [(3 * 12, 3)] * 4


@pytest.mark.parametrize(
    ("algorithm", "dtype", "n", "heads", "width"),
    [
        *covering.by_day(
            [("ring", "float32", 1024, 4, 32), ("all_to_all", "bfloat16", 1024, 4, 32)],
            [(x, y, 1024, 4, 32) for x in ATTENTION for y in ("float32", "bfloat16")],
        ),
        ("ring", "float32", 4096, 1, 128),  # a block is more than a tile: a third one would show
    ],
)
def test_bytes_held_are_at_most_as_predicted(pools, algorithm, dtype, n, heads, width):
    import torch

    sizes = {"heads": heads, "kv_heads": heads, "width": width, "value_width": width}
    shards = parts(drawn(n, n, **sizes, dtype=dtype)[:3], 4, "zigzag")
    # the least of three: gloo's own thread may hold a buffer a moment longer than the call does
    runs = [pools(4).run(jobs.peaks, algorithm, *shards, causal=True) for _ in range(3)]
    found = np.min(runs, axis=0)  # (rank, way)
    for way, backward in enumerate((False, True)):
        predicted = cost(
            algorithm, n, 4, batch=2, **sizes, causal=True,
            dtype_bytes=getattr(torch, dtype).itemsize, backward=backward,
        ).held  # fmt: skip
        for measured, most in zip((peaks[way] for peaks in found), predicted, strict=True):
            assert most / 2 <= measured <= most


@pytest.mark.parametrize("algorithm", ATTENTION)
def test_a_group_of_some_processes(pools, algorithm):
    tensors = drawn(10, 10)
    twice = [each([x[0], x[0], x[1], x[1]]) for x in parts(tensors, 2, "zigzag")]
    answers = pools(4).run(jobs.in_pairs, algorithm, *twice)
    expected = in_one_process(*tensors, True)
    for pair in (answers[0::2], answers[1::2]):
        found = [unshard(list(x)) for x in zip(*(found for found, _ in pair), strict=True)]
        assert all(
            np.allclose(x, y, rtol=0, atol=1e-13) for x, y in zip(found, expected, strict=True)
        )


@pytest.mark.parametrize("algorithm", ATTENTION)
def test_scores_take_the_scale_given(pools, algorithm):
    q, k, v, grad = drawn(10, 10)
    out, _, dk, dv = in_one_process(q * 0.3 * q.shape[-1] ** 0.5, k, v, grad, False)
    answers = pools(2).run(
        jobs.both_ways, algorithm, *parts((q, k, v, grad), 2, "zigzag"), scale=0.3
    )
    found = [unshard(list(x)) for x in zip(*(found for found, _ in answers), strict=True)]
    for x, expected in zip((found[0], *found[2:]), (out, dk, dv), strict=True):
        assert np.allclose(x, expected, rtol=0, atol=1e-13)


def test_one_process_is_a_group_too():
    tensors = drawn(9, 9)
    with Workers(1) as workers:
        (answer,) = workers.run(jobs.both_ways, "ring", *tensors, causal=True)
    assert answer[1] == (0, 0)
    assert np.allclose(answer[0][0], in_one_process(*tensors, True)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("algorithm", ATTENTION)
def test_a_slow_link_is_as_slow_as_it_says(pools, algorithm):
    import torch

    x = torch.ones(1, 4, 64, 8)
    sent = cost(algorithm, 128, 2, heads=4, width=8).sent[0]
    assert min(pools(2).run(jobs.slowly, algorithm, x, x, x, sent / 0.2)) >= 0.2
    with pytest.raises(ValueError, match="above 0, got 0"), slow_link(0):
        pass


# Who holds what


@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 29])
def test_shards_are_all_tokens_once(n, layout):
    import torch

    for size in (1, 2, 3, 4):
        held = [positions(n, rank, size, layout) for rank in range(size)]
        assert sorted(np.concatenate(held)) == list(range(n))
        lengths = [len(own) for own in held]
        assert max(lengths) - min(lengths) <= 2
        x = np.arange(n * 3.0).reshape(1, 1, n, 3)
        for whole in (x, torch.from_numpy(x)):
            cut = [shard(whole, rank, size, layout) for rank in range(size)]
            assert type(cut[0]) is type(whole)
            assert all(
                (part == whole[:, :, own]).all() for part, own in zip(cut, held, strict=True)
            )
            assert (unshard(cut, layout) == whole).all()
            assert cut[0] is not whole
        tokens = [shard(np.arange(n), rank, size, layout, axis=0) for rank in range(size)]
        assert (unshard(tokens, layout, axis=0) == np.arange(n)).all()


def test_zigzag_is_one_early_and_one_late_run():
    assert runs(16, 1, 4) == [range(2, 4), range(12, 14)]
    assert runs(16, 1, 4, "contiguous") == [range(4, 8)]


@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
@pytest.mark.parametrize("n", [5, 64, 1000])
def test_pairs_are_those_of_the_mask(n, layout):
    for size in (1, 3, 4):
        rows = [positions(n, rank, size, layout) for rank in range(size)]
        pairs = cost("ring", n, size, causal=True, layout=layout, heads=3).pairs
        assert pairs == tuple(3 * int((own + 1).sum()) for own in rows)
        assert cost("ring", n, size, layout=layout).pairs == tuple(n * len(own) for own in rows)


def test_causal_is_unfair_unless_it_zigzags():
    contiguous = cost("ring", 1024, 4, causal=True, layout="contiguous")
    assert contiguous.pairs == (32_896, 98_432, 163_968, 229_504)
    assert cost("ring", 1024, 4, causal=True).pairs == (131_200,) * 4
    swapped = cost("all_to_all", 1024, 4, causal=True, heads=4)
    assert swapped.pairs == (1024 * 1025 // 2,) * 4


# What it costs

QUICK = Device("quick", 1e12, 1e15, 0, "a test")


def test_seconds_of_a_ring_are_the_longer_of_computing_and_sending():
    shares = cost("ring", 1024, 4)
    computing = shares.flops[0] / 4 / 1e12
    for sending in (computing / 2, computing * 3):
        link = Link("test", shares.sent[0] / 3 / sending, "a test")
        together = 3 * max(computing, sending) + computing
        assert shares.seconds(QUICK, link) == pytest.approx(together)
        apart = 4 * computing + 3 * sending
        assert shares.seconds(QUICK, link, overlap=False) == pytest.approx(apart)


def test_seconds_of_a_swap_are_a_sum():
    shares = cost("all_to_all", 1024, 4, heads=4)
    link = Link("test", 1e6, "a test", latency=1e-3)
    expected = shares.flops[0] / 1e12 + shares.sent[0] / 1e6 + 4 * 3 * 1e-3
    assert shares.seconds(QUICK, link) == pytest.approx(expected)


def test_a_process_waits_for_its_neighbour_and_for_no_other():
    """Seconds are FLOPs, and each block takes one; process 1 is held up by 0, process 2 is not."""

    def shares(algorithm, *flops, sent):
        steps = [
            [Step(Cost(x, 0, 0, 0), *y) for x, y in zip(own, sent, strict=True)] for own in flops
        ]
        return Shares(algorithm, (), tuple(map(tuple, steps)))

    one, link = Device("one", 1, 1, 0, "a test"), Link("one", 1, "a test")
    ring = functools.partial(shares, "ring", sent=[(1, 1), (1, 1), (0, 0)])
    # Process 0 is done with its first block at 3, and sends the second from 3 to 4.
    assert ring([3, 1, 1], [1, 1, 4], [1, 1, 1]).seconds(one, link) == 8
    assert ring([3, 1, 1], [1, 1, 1], [1, 1, 4]).seconds(one, link) == 6
    assert ring([3, 1, 1], [1, 1, 4], [1, 1, 1]).seconds(one, link, overlap=False) == 10
    for algorithm in ("gather", "all_to_all"):  # 0 is done at 3, and then all send
        one_after = shares(algorithm, [3, 1], [1, 4], sent=[(2, 1), (0, 0)])
        assert one_after.seconds(one, link) == 3 + 2 + 4


@pytest.mark.parametrize("causal", [False, True])
def test_one_process_does_what_flash_attention_does(causal):
    from attncourse.reference import flash

    ring = cost("ring", 605, 1, batch=2, heads=4, causal=causal, layout="contiguous")
    (work,) = (step.work for step in ring.steps[0])
    alone = flash.cost(2, 4, 605, 605, 64, block_q=BLOCK, block_k=BLOCK, causal=causal)
    found_so_far = 2 * 4 * 605 * (64 + 1) * 4  # out and lse, of the block before
    assert work.flops == alone.flops and work.bytes_written == alone.bytes_written
    assert work.bytes_read == alone.bytes_read + found_so_far
    grouped = cost(
        "ring", 605, 1, batch=2, heads=4, kv_heads=1, causal=causal, layout="contiguous"
    ).steps[0][0]  # fmt: skip
    keys = alone.bytes_read - 2 * 4 * 605 * 64 * 4
    assert work.bytes_read - grouped.work.bytes_read == keys * 3 // 4


def test_flops_are_those_of_whole_tiles():
    assert cost("ring", 1024, 4).flops == (4 * 256 * 1024 * 64,) * 4
    half = cost("ring", 2048, 2, causal=True).flops  # tiles of 256: 8 · 9 / 2 of 64
    assert sum(half) == 4 * 36 * 256**2 * 64
    backward = cost("ring", 1024, 4, backward=True).flops[0]
    assert backward == 5 * cost("ring", 1024, 4).flops[0] // 2


def test_gathering_sends_what_a_ring_does_and_holds_all_keys():
    ring, gather = (cost(name, 65_536, 64, width=64) for name in ("ring", "gather"))
    assert gather.sent == ring.sent
    block = 2 * 1024 * 64 * 4
    assert gather.held[0] - ring.held[0] == (64 - 2) * block
    ring, gather = (cost(name, 65_536, 64, width=64, backward=True) for name in ("ring", "gather"))
    assert gather.sent == (63 * block,) * 64  # dk and dv, to those that hold the keys
    assert gather.held[0] - ring.held[0] == (64 - (2 + 3)) * block  # either holds its own besides


def test_a_million_tokens_are_counted_at_once():
    start = time.process_time()
    shares = cost("ring", 2**20, 64, heads=8, width=128, causal=True, dtype_bytes=2)
    assert len(set(shares.pairs)) == 1
    assert shares.seconds(QUICK, LINKS["NVLink 4"]) > 0
    assert time.process_time() - start < 3


def test_a_million_tokens_take_less_where_all_do_as_much():
    counted = {
        layout: cost("ring", 2**14, 8, causal=True, layout=layout).seconds(QUICK, LINKS["NVLink 4"])
        for layout in ("zigzag", "contiguous")
    }
    assert 1.7 < counted["contiguous"] / counted["zigzag"] < 2


def test_this_machine_is_measured(pools):
    device, link = here(pools(2))
    assert device.flops_per_second > 1e6 and link.bytes_per_second > 1e5
    with pytest.raises(ValueError, match="at least 2 workers, got 1"):
        here(Workers(1))


def test_figures_of_this_machine_are_what_was_computed_and_sent(pools):
    for (flops, _, sent), calls in pools(2).run(jobs.in_one_second_each):
        assert (flops, sent) == (calls[0][0], calls[2][1]) and min(flops, sent) > 0
    slowest = SimpleNamespace(n=2, run=lambda *_: [(1.0, 5.0, 6.0), (4.0, 2.0, 3.0)])
    device, link = here(slowest)
    figures = device.flops_per_second, device.bytes_per_second, link.bytes_per_second
    assert figures == (1, 2, 3) and device.peak("float32") == 1


# What is refused


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: runs(8, 4, 4), "rank must be below size 4, got 4"),
        (lambda: runs(8, 0, 0), "size must be at least 1"),
        (lambda: runs(8, 0, 2, "striped"), "layout must be 'zigzag' or 'contiguous'"),
        (lambda: unshard([np.ones((3, 1)), np.ones((1, 1))]), r"\[2, 2\] each \(zigzag\), got \["),
        (lambda: cost("tree", 8, 2), "algorithm must be one of 'ring'"),
        (lambda: cost("all_to_all", 8, 2, heads=3), "got 3 heads of keys and 2 processes"),
        (lambda: cost("ring", 8, 2, heads=3, kv_heads=2), "multiple of kv_heads, got 3 and 2"),
        (lambda: Workers(0), "n must be at least 1"),
        (lambda: Workers(2, limit=0), "limit must be above 0 seconds, got 0"),
        (lambda: Workers(2, idle=-1), "idle must be above 0 seconds, got -1"),
        (lambda: Workers(2).run(len, each([1, 2, 3])), "each must hold 2 arguments, got 3"),
    ],
)
def test_wrong_values_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_attention_needs_a_group():
    import torch

    x = torch.ones(1, 4, 2, 8)
    for attention in (ring_attention, all_to_all_attention):
        with pytest.raises(RuntimeError, match="no process group here; call it by Workers"):
            attention(x, x, x)


@pytest.mark.parametrize(
    ("algorithm", "shapes", "options", "says"),
    [
        (
            "ring",
            [(1, 4, 3, 8)] * 3,
            {"n_keys": 5},
            "process 1 of 2 must hold 2 .* got 3",
        ),
        ("ring", [(4, 3, 8)] * 3, {}, r"ValueError: ring_attention: q must be \(B, H, n/P, D\)"),
        ("ring", [(1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)], {}, "multiple of k's and v's"),
        ("ring", [(1, 4, 4, 8), (1, 4, 4, 7), (1, 4, 4, 8)], {}, r"must be \(B, H, Tq, D\)"),
        ("ring", [(1, 4, 4, 8)] * 3, {"layout": "stripes"}, "layout must be 'zigzag' or"),
        ("ring", [(1, 4, 4, 8)] * 3, {"causal": 1}, "TypeError: ring_attention: causal"),
        ("all_to_all", [(1, 3, 4, 8)] * 3, {}, "must divide the heads, got 3 heads of q and 2"),
        ("all_to_all", [(1, 4, 4, 8), (1, 1, 4, 8), (1, 1, 4, 8)], {}, "1 heads of k and v and 2"),
    ],
)
def test_wrong_shards_are_refused(pools, algorithm, shapes, options, says):
    import torch

    tensors = [torch.ones(shape) for shape in shapes]
    with pytest.raises(WorkerError, match=says):
        pools(2).run(jobs.ATTENTION[algorithm], *tensors, **options)


# Workers that fail


def gone(pids):
    """Whether none of the processes runs any more; a moment may pass until it is cleared away."""
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@needs_proc
@pytest.mark.parametrize(
    ("job", "arguments", "says"),
    [
        (jobs.die_at, (1, 9), r"^Workers: worker 1 of 3 died of SIGKILL; all were"),
        (jobs.leave_at, (2,), r"^Workers: worker 2 of 3 died with status 3; all were ended$"),
        (jobs.raise_at, (1,), r"^Workers.run: worker 1 of 3 raised ValueError: too few tokens$"),
        (
            jobs.sleep_at,
            (1,),
            r"^Workers.run: after 5 s without work 3 of 3 workers .*: 1 at line \d+ of ring",
        ),
        (jobs.stop_at, (0,), r"^Workers.run: after 5 s without .*: 0 without a word; 1, 2 at line"),
    ],
    ids=["killed", "left", "raised", "hung", "stopped"],
)
def test_a_worker_that_fails_ends_all_with_one_line(job, arguments, says):
    with Workers(3) as workers:
        workers.start()
        pids = workers.pids
        start = time.monotonic()
        with pytest.raises(WorkerError, match=says) as error:
            workers.run(job, *arguments)
        assert time.monotonic() - start < 20
        assert "\n" not in str(error.value)
        assert gone(pids) and workers.pids == []
        assert workers.run(os.getpid) == workers.pids != pids


def test_work_may_take_longer_than_a_hang():
    with Workers(2, idle=1) as workers:
        assert workers.run(jobs.compute_at, 1, 2.5) == [0, 1]


def test_a_child_process_of_a_worker_works_too():
    with Workers(2, idle=1, limit=math.inf) as workers:
        assert workers.run(jobs.leave_to_children_at, 1, 2.5) == [0, 1]


def test_work_without_end_is_ended_at_the_limit():
    says = r"^Workers.run: after 1 s 2 of 2 workers had not answered: 0 at line"
    with pytest.raises(WorkerError, match=says), Workers(2, limit=1) as workers:
        workers.run(jobs.compute_at, 0, 60.0)


def test_a_slow_link_is_no_hang():
    import torch

    x = torch.ones(1, 4, 64, 8)
    with Workers(2, idle=1) as workers:
        assert min(workers.run(jobs.slowly, "ring", x, x, x, 2 * x.nbytes / 2.5)) >= 2.5


def test_errors_without_a_message_are_told_too(pools):
    for job, says in (
        (jobs.silent_at, "worker 1 of 2 raised ValueError$"),
        (jobs.speechless_at, "worker 1 of 2 raised Speechless: its message raises RuntimeError$"),
    ):
        with pytest.raises(WorkerError, match=says):
            pools(2).run(job, 1)


def test_a_result_that_cannot_be_unpickled_is_an_error_of_the_worker(pools):
    says = "what worker . of 2 returned cannot be unpickled here: ValueError: invalid literal"
    with pytest.raises(WorkerError, match=says):
        pools(2).run(jobs.what_is_not_unpickled)
    assert pools(2).run(jobs.echo, 3) == [(3, 0), (3, 1)]


def in_threads(function, n=3):
    """Call a function with 0 to n - 1, each in a thread, and return what each returned."""
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, function(i))) for i in range(n)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found.get(i) for i in range(n)]


def test_threads_take_turns_with_workers():
    with Workers(2) as workers:
        found = in_threads(lambda i: [workers.run(jobs.echo, (i, j)) for j in range(5)])
    assert found == [[[((i, j), 0), ((i, j), 1)] for j in range(5)] for i in range(3)]


def test_the_script_is_itself_after_threads_have_started_workers():
    def started(i):
        with Workers(1) as workers:
            return workers.run(jobs.echo, i)

    main = sys.modules["__main__"]
    try:
        assert in_threads(started) == [[(i, 0)] for i in range(3)]
        assert sys.modules["__main__"] is main
    finally:
        sys.modules["__main__"] = main


def test_what_a_worker_said_in_full_is_kept(pools):
    with pytest.raises(WorkerError) as error:
        pools(2).run(jobs.raise_at, 0)
    assert "and more of this" in error.value.traceback and "ring_jobs" in error.value.traceback


def test_what_cannot_be_counted_is_refused(pools):
    with pytest.raises(WorkerError, match="cannot tell the bytes of allreduce_"):
        pools(2).run(jobs.reduced_bytes)


def test_two_pools_do_not_hear_one_another():
    with Workers(2) as one, Workers(2) as other:
        one.start()
        other.start()
        assert one.run(jobs.gathered_bytes) == other.run(jobs.gathered_bytes)
        assert not set(one.pids) & set(other.pids)
        one.close()
        assert other.run(os.getpid) == other.pids


@needs_proc
def test_workers_go_when_nobody_refers_to_them():
    workers = Workers(2)
    workers.start()
    pids = workers.pids
    del workers
    assert gone(pids)


SCRIPT = """
import os, signal, threading, time
import torch.distributed as dist
from attncourse.distributed import Workers
two = 2

def twice(x):
    return x * two

def job(x):
    return twice(dist.get_rank() + x)

def forever():
    while True:
        time.sleep(1)

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts it may ignore interrupts
workers = Workers(2)
print(workers.run(job, 10), flush=True)  # a script without a guard is not run again
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    workers.run(forever)
except KeyboardInterrupt:
    print(workers.pids, flush=True)
workers.start()
print(*workers.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@needs_proc
def test_no_process_outlives_ctrl_c_or_the_death_of_its_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    results, after_ctrl_c, pids = done.stdout.splitlines()
    assert (results, after_ctrl_c) == ("[20, 22]", "[]")
    assert gone(pids.split())
    assert list(tmp_path.glob("attncourse-*")) == []


# What travels

three = 3


def of_a_notebook(function):
    function.__module__ = "__main__"
    return function


@of_a_notebook
def thrice(x):
    return three * x


@of_a_notebook
def with_array(x: "Cost" = three):
    return [thrice(y) for y in np.arange(x)]


def sent(value):
    return pickle.loads(travel.dumps(value))


def test_a_function_of_a_notebook_travels_as_its_text():
    arrived = sent(with_array)
    assert arrived is not with_array and arrived(2) == [0, 3] and arrived() == [0, 3, 6]
    assert sent({"f": thrice})["f"](2) == 6
    assert sent(np.mean) is np.mean


def test_what_cannot_travel_is_refused():
    local = 1

    @of_a_notebook
    def closure():
        return local

    class Own:
        pass

    Own.__module__ = "__main__"
    for value, says in (
        (of_a_notebook(lambda: 1), "a lambda cannot travel .* name by def"),
        (closure, "closure cannot .* it uses local of the function around it"),
        (Own, "the class Own cannot travel"),
        ([Own()], "the class Own cannot travel"),
        (open, None),
        (jobs.__dict__["ATTENTION"].keys(), "cannot pickle"),
    ):
        if says is None:
            assert sent(value) is value
            continue
        with pytest.raises(TypeError, match=says):
            travel.dumps(value)


def test_a_part_of_a_tensor_travels_alone():
    import torch

    whole = torch.ones(1000, 1000, requires_grad=True)
    assert len(travel.dumps(whole[:2])) < 20_000
    assert sent(whole).requires_grad and not sent(whole * 2).requires_grad


# Under torchrun


@pytest.mark.nightly
@pytest.mark.parametrize("arguments", [[], ["--heads", "6", "--kv-heads", "3", "--full"]])
def test_the_same_under_torchrun(arguments):
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3",
            "-m", "attncourse.distributed", "--tokens", "100", *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all right"
    assert ("left out" in done.stdout) == (not arguments)


def test_outside_torchrun_it_says_how_to_start_it(capsys, monkeypatch):
    from attncourse.distributed.__main__ import main

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "torchrun --nproc-per-node 4 -m attncourse.distributed" in capsys.readouterr().err
