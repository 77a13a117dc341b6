"""Check and time attention over many processes, on one machine or several.

    torchrun --nproc-per-node 4 -m attncourse.distributed --tokens 4096

With a GPU for each process of a machine it runs over nccl, which no GPU has tried yet, else over
gloo on CPUs. The first process prints: for each algorithm the largest difference from attention in
one process, the bytes that a process sends beside those that were predicted, and seconds. On
several machines torchrun needs `--nnodes`, `--rdzv-backend c10d` and `--rdzv-endpoint host:port`
too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from attncourse import needed

if not needed.has("torch"):
    raise needed.missing("torch", "attncourse.distributed", __name__)

import torch
import torch.distributed as dist

from attncourse.distributed import (
    all_to_all_attention,
    cost,
    count_sent,
    ring_attention,
    shard,
)
from attncourse.distributed.sharding import LAYOUTS
from attncourse.units import format_seconds

TOLERANCE = 1e-4  # of the largest number: sums of n float32 products, in another order
ALGORITHMS = {"ring": ring_attention, "all_to_all": all_to_all_attention}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 0 if all results are right."""
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node P -m attncourse.distributed",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in all; 4096")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, help="heads of keys and values; as many as heads")
    parser.add_argument("--width", type=int, default=32, help="numbers in a query, key or value")
    parser.add_argument("--full", action="store_true", help="let queries see later keys")
    parser.add_argument("--layout", choices=LAYOUTS, default="zigzag")
    parser.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    args = parser.parse_args(arguments)
    if "WORLD_SIZE" not in os.environ:
        parser.error(
            "start it under torchrun: torchrun --nproc-per-node 4 -m attncourse.distributed"
        )
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= here
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        return _run(args, device)
    finally:
        dist.destroy_process_group()


def _run(args: argparse.Namespace, device: torch.device) -> int:
    rank, size = dist.get_rank(), dist.get_world_size()
    kv_heads = args.kv_heads or args.heads
    torch.manual_seed(0)  # the same on each process
    shapes = [(1, heads, args.tokens, args.width) for heads in (args.heads, kv_heads, kv_heads)]
    whole = [torch.randn(shape).to(device) for shape in shapes]
    grad = torch.randn(shapes[0]).to(device)
    expected = _expected(*whole, grad, causal=not args.full)
    parts = [shard(x, rank, size, args.layout) for x in (*whole, grad)]
    options = {
        "causal": not args.full, "layout": args.layout,
        "n_queries": args.tokens, "n_keys": args.tokens,
    }  # fmt: skip
    _say(f"{size} processes over {dist.get_backend()}, {args.tokens} tokens, {args.heads} heads")
    _say(f"{'':20} {'largest error':>13} {'bytes sent':>12} of {'predicted':>12} {'seconds':>13}")
    good = True
    for name, attention in ALGORITHMS.items():
        if name == "all_to_all" and kv_heads % size:
            _say(f"{name:20} left out: {size} processes do not divide {kv_heads} heads")
            continue
        counted = [
            cost(
                name, args.tokens, size, heads=args.heads, kv_heads=kv_heads, width=args.width,
                causal=not args.full, layout=args.layout, backward=backward,
            ).sent[rank]
            for backward in (False, True)
        ]  # fmt: skip
        found, sent, spent = _measure(attention, parts, options, args.repeats)
        shards = [shard(x, rank, size, args.layout) for x in expected]
        errors = [_error(x, y) for x, y in zip(found, shards, strict=True)]
        for way, error, n_bytes, predicted, seconds in zip(
            (name, f"{name}, backward"), (errors[0], max(errors[1:])), sent, counted, spent,
            strict=True,
        ):  # fmt: skip
            good &= _most(float(error > TOLERANCE or n_bytes != predicted)) == 0
            _say(
                f"{way:20} {_most(error):13.1e} {n_bytes:12,} of {predicted:12,}"
                f" {format_seconds(_most(seconds)):>13}"
            )
    _say("all right" if good else "not all is right")
    return 0 if good else 1


def _measure(attention, parts, options, repeats):
    """Return out, dq, dk, dv; the bytes sent, and the median seconds, forward and backward."""
    *parts, grad = parts
    inputs = [part.requires_grad_() for part in parts]
    with count_sent() as forward:
        out = attention(*inputs, **options)
    with count_sent() as backward:
        gradients = torch.autograd.grad((out * grad).sum(), inputs)
    seconds = ([], [])
    for _ in range(repeats):
        begun = _now()
        again = (attention(*inputs, **options) * grad).sum()
        between = _now()
        torch.autograd.grad(again, inputs)
        seconds[0].append(between - begun)
        seconds[1].append(_now() - between)
    median = [sorted(times)[len(times) // 2] for times in seconds]
    return (out.detach(), *gradients), (forward.bytes, backward.bytes), median


def _now() -> float:
    """Return the time once all processes are here."""
    dist.barrier()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _expected(q, k, v, grad, causal):
    """Return out, dq, dk, dv of torch's attention in one process."""
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *inputs, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.detach(), *torch.autograd.grad((out * grad).sum(), inputs)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference over the largest number expected."""
    if not found.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _most(value: float) -> float:
    """Return the largest of all processes."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    most = torch.tensor(value, device=device, dtype=torch.float64)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most)


def _say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
