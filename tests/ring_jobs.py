"""What the workers of test_distributed.py run; they import this file, so it imports no pytest."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist

from attncourse import measure
from attncourse.distributed import (
    all_to_all_attention,
    count_sent,
    measured,
    ring_attention,
    slow_link,
    tiles,
)

ATTENTION = {"ring": ring_attention, "all_to_all": all_to_all_attention}


def both_ways(algorithm, q, k, v, grad, **options):
    """Return out, dq, dk and dv, and the bytes sent forward and backward."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    with count_sent() as forward:
        out = ATTENTION[algorithm](*inputs, **options)
    with count_sent() as backward:
        gradients = torch.autograd.grad((out * grad).sum(), inputs)
    return (out.detach(), *gradients), (forward.bytes, backward.bytes)


class Arrival:
    """Messages under way, counted as such until they are waited for."""

    def __init__(self, works, under_way):
        self.works, self.under_way = works, under_way
        under_way.append(self)

    def wait(self):
        for work in self.works:
            work.wait()
        self.under_way.remove(self)


@contextmanager
def watched():
    """Yield rows of (bytes sent, messages, FLOPs, parcels under way), one a block of keys.

    What was sent is what was since the row before; a last row is what was sent after all blocks.
    """
    rows, under_way, before = [], [], [0, 0]
    real = dist.batch_isend_irecv, tiles.attend, tiles.gradients

    def row(flops):
        now = [sent.bytes, sent.messages]
        rows.append((now[0] - before[0], now[1] - before[1], flops, len(under_way)))
        before[:] = now

    def computing(function):
        def watched(*args, **options):
            found = []
            flops = measure.count_flops(lambda: found.append(function(*args, **options)))
            row(flops)
            return found[0]

        return watched

    dist.batch_isend_irecv = lambda moves: [Arrival(real[0](moves), under_way)]
    tiles.attend, tiles.gradients = map(computing, real[1:])
    try:
        with count_sent() as sent:
            yield rows
        row(0)
    finally:
        dist.batch_isend_irecv, tiles.attend, tiles.gradients = real


def order(algorithm, q, k, v, grad, **options):
    """Return out, dq, dk and dv, and the rows of `watched` forward and backward."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    with watched() as forward:
        out = ATTENTION[algorithm](*inputs, **options)
    with watched() as backward:
        gradients = torch.autograd.grad((out * grad).sum(), inputs)
    return (out.detach(), *gradients), (forward, backward)


def peaks(algorithm, q, k, v, **options):
    """Return the most bytes held forward and backward."""
    forward = measure.peak_bytes(ATTENTION[algorithm], q, k, v, **options)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    total = ATTENTION[algorithm](*inputs, **options).sum()
    backward = measure.peak_bytes(_backward, total, inputs)
    return forward, backward


def _backward(total, inputs):
    return torch.autograd.grad(total, inputs, retain_graph=True)


def messages(q, k, v, **options):
    with count_sent() as sent:
        all_to_all_attention(q, k, v, **options)
    return sent.messages


def in_pairs(algorithm, *tensors):
    """Attend in two groups of two, as `both_ways`."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    group = groups[dist.get_rank() % 2]
    return both_ways(algorithm, *tensors, causal=True, group=group)


def in_one_second_each():
    """Return what `here` finds if each call takes a second, and each one's FLOPs and bytes sent."""
    calls = []

    def one_second(call):
        with count_sent() as sent:
            flops = measure.count_flops(call)
        calls.append((flops, sent.bytes))
        return 1.0

    real, measured._seconds = measured._seconds, one_second
    try:
        return measured._measure(4, 32), calls
    finally:
        measured._seconds = real


def with_wrapped_send(q, k, v):
    """Count what goes through isend itself."""
    sent = []
    ring_of = dist.P2POp

    def counted(op, tensor, *rest):
        if op is dist.isend:
            sent.append(tensor.nbytes)
        return ring_of(op, tensor, *rest)

    dist.P2POp = counted
    try:
        ring_attention(q, k, v)
    finally:
        dist.P2POp = ring_of
    return sum(sent)


def slowly(algorithm, q, k, v, bytes_per_second):
    dist.barrier()
    start = time.perf_counter()
    with slow_link(bytes_per_second):
        ATTENTION[algorithm](q, k, v)
    return time.perf_counter() - start


def reduced_bytes():
    with count_sent() as sent:
        dist.all_reduce(torch.ones(3))
    return sent.bytes


def gathered_bytes():
    with count_sent() as sent:
        dist.all_gather([torch.empty(3) for _ in range(dist.get_world_size())], torch.ones(3))
        dist.barrier()
    return sent.bytes, sent.messages


def die_at(rank, number):
    if dist.get_rank() == rank:
        os.kill(os.getpid(), number)
    dist.barrier()


def leave_at(rank):
    if dist.get_rank() == rank:
        os._exit(3)
    dist.barrier()


def raise_at(rank):
    if dist.get_rank() == rank:
        raise ValueError("too few tokens\nand more of this")
    dist.barrier()


def sleep_at(rank):
    if dist.get_rank() == rank:
        time.sleep(60)
    dist.barrier()


def compute_at(rank, seconds):
    until = time.monotonic() + seconds
    while dist.get_rank() == rank and time.monotonic() < until:
        pass
    dist.barrier()
    return dist.get_rank()


def leave_to_children_at(rank, seconds):
    code = (
        f"import time\nuntil = time.monotonic() + {seconds}\nwhile time.monotonic() < until: pass"
    )
    if dist.get_rank() == rank:
        subprocess.run([sys.executable, "-c", code], check=True)
    dist.barrier()
    return dist.get_rank()


def stop_at(rank):
    die_at(rank, signal.SIGSTOP)


def echo(value):
    """Return the value from each rank, a moment later."""
    time.sleep(0.01)
    return value, dist.get_rank()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def speechless_at(rank):
    if dist.get_rank() == rank:
        raise Speechless
    dist.barrier()


def silent_at(rank):
    if dist.get_rank() == rank:
        raise ValueError
    dist.barrier()


class NotUnpickled:
    def __reduce__(self):
        return int, ("no number",)


def what_is_not_unpickled():
    return NotUnpickled()
