"""Segment recurrence (Transformer-XL) in Triton: each segment is flash attention with Tq ≠ Tk.

The last query of a segment is its last key, as flash attention aligns them. All segments that are
whole and have their whole memory are views of one shape, whose keys overlap: one launch each.
"""

from collections.abc import Iterator

import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels import flash
from attncourse.kernels._parts.grids import MAX_GRID
from attncourse.kernels._parts.tiles import check_tensors

TILES = {"block_q": 128, "block_k": 64}  # the largest; `flash.tile_sizes` cuts them to what fits


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    chunk: int,
    memory: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over a query's own segment and the `memory` keys before it.

    A tile of scores of one segment exists at a time on each multiprocessor: the (Tq, Tk) matrix is
    never made, and tiles outside of the segments are not even computed.

    Contract: `attncourse.kernels`; knobs: `reference.segment.attention`.
    Gradients: as `flash`; the memory gets them too, where the source keeps them out.
    Memory: the output, and of the segments of one launch their output and (B, H, Tq) float32.
    """
    where = "segment.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    chunk, memory = _check_knobs(where, chunk, memory)
    scale = check_scale(where, scale, q.shape[-1])
    B, H, Tq, _ = q.shape
    Tk = k.shape[2]
    launches = list(_launches(Tq, Tk, chunk, memory))
    out = q.new_empty(B, H, Tq, v.shape[-1])
    knobs = TILES | {"causal": causal, "scale": scale}
    for rows, keys, count in launches:
        ranges = rows, keys, keys, rows
        if count == 1:  # of all sequences of the batch together
            *inputs, part = (
                x[:, :, own.start : own.stop] for x, own in zip((q, k, v, out), ranges, strict=True)
            )
            part.copy_(flash.attention(*inputs, **knobs))
            continue
        for sequences in _together(q, k, v, out):
            *inputs, part = (
                _alike(x, own, chunk, count) for x, own in zip(sequences, ranges, strict=True)
            )
            part.copy_(flash.attention(*inputs, **knobs))
    return out


def _together(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield (B·H, T, D) views, all sequences as heads of one; else each (H, T, D) by itself.

    Pieces take the place of the batch, and two axes are one if their strides allow it.
    """
    B, H = tensors[0].shape[:2]
    if B * H <= MAX_GRID and all(
        B == 1 or H == 1 or x.stride(0) == H * x.stride(1) for x in tensors
    ):
        yield tuple(x.flatten(0, 1) for x in tensors)
    else:
        yield from zip(*tensors, strict=True)


def _alike(x: torch.Tensor, first: range, chunk: int, count: int) -> torch.Tensor:
    """Return `count` pieces of x (H, T, D), the first and those `chunk` tokens on, as one view.

    It has shape (count, H, len(first), D): pieces take the place of the batch. They may overlap.
    """
    last = first.stop + (count - 1) * chunk
    return x[:, first.start : last].unfold(1, len(first), chunk).permute(1, 0, 3, 2)


def _launches(n_queries: int, n_keys: int, chunk: int, memory: int) -> Iterator[tuple]:
    """Yield (queries, keys, count): segments, the first of `count` that follow and are alike."""
    if not n_queries or not n_keys:
        yield range(n_queries), range(n_keys), 1
        return
    ahead = n_keys - n_queries
    begin = max(ahead, 0) // chunk * chunk
    while begin < n_keys:
        end = min(begin + chunk, n_keys)
        first = begin - ahead if begin > max(ahead, 0) else 0
        rows, keys = range(first, end - ahead), range(max(begin - memory, 0), end)
        count = 1
        if begin >= memory and len(rows) == chunk == end - begin:
            count = (n_keys - begin) // chunk
        yield rows, keys, count
        begin += count * chunk


def _check_knobs(where: str, chunk: int, memory: int) -> tuple[int, int]:
    chunk = check_count(where, "chunk", chunk, least=1)
    return chunk, check_count(where, "memory", memory)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    memory: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count `flash.cost` of each segment, and `torch_cost`: see `attncourse.kernels`."""
    chunk, memory = _check_knobs("segment.cost", chunk, memory)
    causal = check_flag("segment.cost", "causal", causal)
    knobs = {"causal": causal, "dtype_bytes": dtype_bytes}
    total = torch_cost(B, H, Tq, Tk, D, chunk=chunk, memory=memory, **knobs)
    flops, read, written, largest = total.flops, total.bytes_read, total.bytes_written, 0
    for rows, keys, count in _launches(Tq, Tk, chunk, memory):
        one = flash.cost(count, H, len(rows), len(keys), D, **TILES, **knobs)
        flops += B * one.flops
        read += B * one.bytes_read
        written += B * one.bytes_written
        largest = max(largest, B * one.peak_bytes)
    return Cost(flops, read, written, total.peak_bytes + largest)


@int_sizes
def torch_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    memory: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count the part of `cost` that is torch's: segments are copied to where they belong."""
    out = B * H * Tq * D * dtype_bytes
    return Cost(flops=0, bytes_read=out, bytes_written=out, peak_bytes=out)
