"""LSH attention in Triton: torch hashes and sorts, one kernel gathers, attends and merges rounds.

A library sorts best, and most of the work comes after: each chunk of sorted queries attends to a
stretch of sorted keys. Their rows are gathered by index; nothing is moved.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.definitions.directions import check_buckets, draw_rotations
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_no_grad,
    check_tensors,
    finite,
    hide,
    join_tile,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
)


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    exclude_self: bool = False,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the keys that hashing finds for each query.

    A program is a tile of one chunk of queries in one round, and walks over the stretch of sorted
    keys that the chunk looks at. What the rounds before have found is an output and the logarithm
    of its softmax sum per query: with these the online softmax goes on. A pair found again in a
    later round does not count twice.

    Contract: `attncourse.kernels`; knobs: `reference.lsh.attention`.
    `seed` gives the reference's hashes. Where two directions are equally near to a vector, rounding
    may decide otherwise.
    Gradients: none.
    Memory: the output; with several rounds (B, H, Tq, Dv + 1) float32; a few integers per token and
        round; while it hashes, (B, H, T, n_buckets / 2) float32.
    """
    where = "lsh.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    exclude_self = check_flag(where, "exclude_self", exclude_self)
    n_buckets, n_rounds, chunk, seed = _check_knobs(where, n_buckets, n_rounds, chunk, seed)
    check_no_grad(where, q, k, v)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    scale = check_scale(where, scale, D)
    if not Tq or not Tk:
        return q.new_zeros(B, H, Tq, Dv)
    cut = _cut(Tq, Tk, D, Dv, chunk, q.element_size())
    rotations = _rotations(D, n_buckets, n_rounds, seed, q.device)
    found_starts = q.new_empty(n_rounds - 1, B, H, Tq, dtype=torch.int32)
    found_places = q.new_empty(n_rounds - 1, B, H, Tk, dtype=torch.int32)
    kept = Tq if n_rounds > 1 else 0
    acc = q.new_empty(B, H, kept, Dv, dtype=torch.float32)
    lse = q.new_empty(B, H, kept, dtype=torch.float32)
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        for number, rotation in enumerate(rotations):
            q_order, k_order, starts = _sort(q, k, rotation, cut)
            _lsh_round_kernel[(starts.shape[2] * cut.tiles, H, B)](
                q, k, v, q_order, k_order, starts, found_starts, found_places, acc, lse, out,
                q.stride(), k.stride(), v.stride(), out.stride(),
                Tq, Tk, cut.rows, cut.tiles, cut.stretch, number, scale,
                D, Dv, padded(D), padded(Dv), cut.BLOCK_Q, cut.BLOCK_K,
                number == 0, number == n_rounds - 1, causal, exclude_self,
                **cut.options,
            )  # fmt: skip
            if number < n_rounds - 1:  # what later rounds need to know of this one
                of_queries = starts.repeat_interleave(cut.rows, dim=2)[:, :, :Tq]
                found_starts[number].scatter_(2, q_order, of_queries)
                places = torch.arange(Tk, dtype=torch.int32, device=q.device).expand(B, H, Tk)
                found_places[number].scatter_(2, k_order, places)
    return out


@triton.jit
def _lsh_round_kernel(
    q_ptr, k_ptr, v_ptr, q_sorted_ptr, k_sorted_ptr, starts_ptr, found_starts_ptr, found_places_ptr,
    acc_ptr, lse_ptr, out_ptr,
    q_strides, k_strides, v_strides, out_strides,
    Tq, Tk, rows, tiles, stretch, number, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, CAUSAL: tl.constexpr, EXCLUDE_SELF: tl.constexpr,
):  # fmt: skip
    """One program: up to BLOCK_Q of the `rows` queries of one chunk of one head, in one round.

    What the launcher makes itself, from q_order to lse, is contiguous.
    """
    chunk, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    if chunk * rows + tile * BLOCK_Q >= Tq:  # of the last chunk, which may be shorter
        return
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    sequence = batch * tl.num_programs(1) + head
    n_sequences = tl.num_programs(1) * tl.num_programs(2)

    in_chunk = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    ranks = chunk * rows + in_chunk  # in the order of the queries
    in_rows = (in_chunk < rows) & (ranks < Tq)
    # missing ones are beyond the end, where nothing is loaded or stored
    q_sorted_ptr += sequence * Tq
    queries = tl.load(q_sorted_ptr + ranks, mask=in_rows, other=Tq).to(tl.int32)  # [BLOCK_Q]
    own = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    acc_ptr += sequence * Tq * Dv
    lse_ptr += sequence * Tq
    if FIRST:
        acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
        running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        running_sum = tl.zeros([BLOCK_Q], tl.float32)
    else:  # an output and its log-sum-exp weigh as much as all that went into them
        acc = load_tile(acc_ptr, queries, v_cols, (Dv, 1), Tq, Dv)  # [BLOCK_Q, BLOCK_DV]
        running_max = tl.load(lse_ptr + queries, mask=in_rows, other=float("-inf"))
        running_sum = tl.where(running_max == float("-inf"), 0.0, 1.0)

    k_sorted_ptr += sequence * Tk
    start = tl.load(starts_ptr + sequence * (tl.num_programs(0) // tiles) + chunk)
    for key_tile in range(0, tl.cdiv(stretch, BLOCK_K)):
        steps = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
        in_stretch = steps < stretch
        places = (start + steps) % Tk  # the order is a ring
        keys = tl.load(k_sorted_ptr + places, mask=in_stretch, other=Tk).to(tl.int32)  # [BLOCK_K]
        k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
        scores *= scale * LOG2E
        visible = in_rows[:, None] & in_stretch[None, :]  # [BLOCK_Q, BLOCK_K]
        if CAUSAL:
            visible &= keys[None, :] <= own[:, None]
        if EXCLUDE_SELF:
            visible &= keys[None, :] != own[:, None]
        for earlier in range(0, number):  # what a round before has found counts there
            place = earlier * n_sequences + sequence
            here = found_starts_ptr + place * Tq
            their_start = tl.load(here + queries, mask=in_rows, other=0)  # [BLOCK_Q]
            here = found_places_ptr + place * Tk
            their_place = tl.load(here + keys, mask=in_stretch, other=0)  # [BLOCK_K]
            away = their_place[None, :] - their_start[:, None]  # [BLOCK_Q, BLOCK_K]
            visible &= tl.where(away < 0, away + Tk, away) >= stretch
        v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
        scores, v = hide(scores, v, visible)
        acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

    acc /= nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    if LAST:
        if CAUSAL or EXCLUDE_SELF:  # who found nobody attends to its own position
            own = tl.where(own < 0, Tk, own)
            v = load_tile(v_ptr, own, v_cols, v_strides, Tk, Dv).to(tl.float32)
            acc = tl.where((running_sum == 0.0)[:, None], v, acc)
        store_tile(out_ptr, acc, queries, v_cols, out_strides, Tq, Dv)
    else:
        store_tile(acc_ptr, acc, queries, v_cols, (Dv, 1), Tq, Dv)
        lse = finite(running_max) + tl.log2(nonzero(running_sum))  # to base 2, as the scores
        lse = tl.where(running_sum == 0.0, float("-inf"), lse)
        tl.store(lse_ptr + queries, lse, mask=in_rows)


class _Cut(NamedTuple):
    """How the work is cut: `rows` queries of a chunk in `tiles`, and the keys they look at."""

    rows: int
    tiles: int
    stretch: int
    chunk: int
    BLOCK_Q: int
    BLOCK_K: int
    options: dict[str, int]


def _cut(Tq: int, Tk: int, D: int, Dv: int, chunk: int, dtype_bytes: int) -> _Cut:
    chunk = min(chunk, Tk)  # more changes nothing
    rows, stretch = triton.cdiv(chunk * Tq, Tk), min(2 * chunk, Tk)
    BLOCK_Q, BLOCK_K, options = _tiling(max(D, Dv), dtype_bytes)
    BLOCK_Q, BLOCK_K = min(BLOCK_Q, padded(rows)), min(BLOCK_K, padded(stretch))
    return _Cut(rows, triton.cdiv(rows, BLOCK_Q), stretch, chunk, BLOCK_Q, BLOCK_K, options)


def _tiling(width: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return the largest BLOCK_Q and BLOCK_K, and the options of the launch.

    As in `tiling`, nothing spills at these sizes, but for float32: wider than 128, and 16 bytes on
    an A100 up to 64. Scores lie beside what earlier rounds have found, so they are spread over more
    threads.
    """
    if dtype_bytes == 4:
        side = 32 if width <= 64 else 16
        return side, side, {"num_warps": 8, "num_stages": 1}
    BLOCK_K = 64 if width <= 64 else 32 if width <= 128 else 16
    return 64, BLOCK_K, {"num_warps": 8, "num_stages": 2}


def _hash(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return the bucket (B, H, T) of each vector: the nearest of n_buckets / 2 axes' two ends."""
    along = torch.matmul(x.float(), rotation)
    most, least = along.max(-1), along.min(-1)
    return torch.where(-least[0] > most[0], least[1] + rotation.shape[1], most[1])


def _sort(q, k, rotation, cut: _Cut) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries and keys by bucket, int64, and where each chunk starts to look, int32."""
    Tq, Tk = q.shape[2], k.shape[2]
    q_bucket, k_bucket = _hash(q, rotation), _hash(k, rotation)
    q_order, k_order = (bucket.argsort(stable=True) for bucket in (q_bucket, k_bucket))
    leader = q_order[:, :, :: cut.rows].contiguous()
    # the place of (bucket, position) among the keys; positions run from Tk - Tq to Tk - 1
    span = Tq + Tk
    codes = k_bucket.gather(2, k_order) * span + k_order + Tq
    places = torch.searchsorted(codes, q_bucket.gather(2, leader) * span + leader + Tk)
    return q_order.contiguous(), k_order.contiguous(), ((places - cut.chunk) % Tk).int()


@functools.lru_cache(maxsize=32)
def _drawn(width, n_buckets, n_rounds, seed) -> np.ndarray:
    return draw_rotations(width, n_buckets, n_rounds, seed).astype(np.float32)


def _rotations(width, n_buckets, n_rounds, seed, device) -> torch.Tensor:
    """Return the reference's directions (rounds, D, n_buckets / 2) float32, drawn once."""
    return torch.from_numpy(_drawn(width, n_buckets, n_rounds, seed)).to(device)


def _check_knobs(
    where: str, n_buckets: int, n_rounds: int, chunk: int, seed: int
) -> tuple[int, int, int, int]:
    n_buckets, n_rounds, seed = check_buckets(where, n_buckets, n_rounds, seed)
    return n_buckets, n_rounds, check_count(where, "chunk", chunk, least=1), seed


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    The data do not change it, nor does `seed`: chunks are fixed. Hashing, of `torch_cost`, takes
    (Tq + Tk) · D · n_buckets a round. Causal adds the values of the queries' own positions, which
    lonely ones need.
    """
    n_buckets, n_rounds, chunk, _ = _check_knobs("lsh.cost", n_buckets, n_rounds, chunk, seed)
    causal = check_flag("lsh.cost", "causal", causal)
    knobs = {"n_buckets": n_buckets, "n_rounds": n_rounds, "chunk": chunk}
    finding = torch_cost(B, H, Tq, Tk, D, **knobs, dtype_bytes=dtype_bytes)
    out = B * H * Tq * D * dtype_bytes
    if not Tq or not Tk:
        return Cost(0, 0, out, out)
    cut = _cut(Tq, Tk, D, D, chunk, dtype_bytes)
    firsts = range(0, Tq, cut.rows)  # of each chunk
    programs = sum(triton.cdiv(min(cut.rows, Tq - first), cut.BLOCK_Q) for first in firsts)
    key_tiles = triton.cdiv(cut.stretch, cut.BLOCK_K)
    kept = (n_rounds - 1) * Tq * (D + 1) * 4  # outputs and log-sum-exps between the rounds
    gathered = (Tq + 2 * programs * cut.stretch) * D * dtype_bytes
    indices = Tq * 8 + programs * (cut.stretch * 8 + 4)
    compared = n_rounds * (n_rounds - 1) // 2 * (key_tiles * Tq + programs * cut.stretch) * 4
    lonely = min(Tq, Tk) * D * dtype_bytes if causal else 0
    tiles = n_rounds * programs * key_tiles
    return Cost(
        flops=4 * B * H * tiles * cut.BLOCK_Q * cut.BLOCK_K * padded(D) + finding.flops,
        bytes_read=B * H * (n_rounds * (gathered + indices) + compared + kept + lonely)
        + finding.bytes_read,
        bytes_written=B * H * kept + out + finding.bytes_written,
        peak_bytes=out + B * H * (n_rounds > 1) * Tq * (D + 1) * 4 + finding.peak_bytes,
    )


@int_sizes
def torch_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count the part of `cost` that is torch's: hashing and sorting.

    Vectors and directions are read once a round, orders and starts written once, and what later
    rounds need to know; what passes through memory in between is the library's affair. So the peak
    is the least possible: hashes' products beside what is kept of the rounds.
    """
    n_buckets, n_rounds, chunk, _ = _check_knobs("lsh.cost", n_buckets, n_rounds, chunk, seed)
    causal = check_flag("lsh.cost", "causal", causal)
    if not Tq or not Tk:
        return Cost(0, 0, 0, 0)
    cut = _cut(Tq, Tk, D, D, chunk, dtype_bytes)
    tokens, starts = B * H * (Tq + Tk), B * H * triton.cdiv(Tq, cut.rows)
    directions = D * n_buckets // 2 * 4
    known = 4 * tokens * (n_rounds - 1)
    widened = D if dtype_bytes < 4 else 0
    hashing = B * H * max(Tq, Tk) * (n_buckets // 2 + widened) * 4
    return Cost(
        flops=n_rounds * tokens * D * n_buckets,
        bytes_read=n_rounds * (tokens * D * dtype_bytes + directions),
        bytes_written=n_rounds * (8 * tokens + 4 * starts) + known,
        peak_bytes=known + max(hashing, 8 * tokens + 4 * starts),
    )
