"""What the workers of test_distributed.py run; they import this file, so it imports no pytest."""

import os
import signal
import time

import torch
import torch.distributed as dist

from attncourse import measure
from attncourse.distributed import all_to_all_attention, count_sent, ring_attention, slow_link

ATTENTION = {"ring": ring_attention, "all_to_all": all_to_all_attention}


def both_ways(algorithm, q, k, v, grad, **options):
    """Return out, dq, dk and dv, and the bytes sent forward and backward."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    with count_sent() as forward:
        out = ATTENTION[algorithm](*inputs, **options)
    with count_sent() as backward:
        gradients = torch.autograd.grad((out * grad).sum(), inputs)
    return (out.detach(), *gradients), (forward.bytes, backward.bytes)


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


def in_pairs(q, k, v):
    """Attend in two groups of two, and return the rank in each."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    group = groups[dist.get_rank() % 2]
    return ring_attention(q, k, v, causal=True, group=group)


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


def slowly(q, k, v, bytes_per_second):
    dist.barrier()
    start = time.perf_counter()
    with slow_link(bytes_per_second):
        ring_attention(q, k, v)
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
