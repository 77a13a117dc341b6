"""Split-KV: the keys that a few queries see are shared out to many programs, and merged again.

While a model generates there is one query for each head. One program for each would leave most of
a GPU idle, and the cache would come through a few of its multiprocessors only. So each program
takes a run of the keys, a split, and a second small kernel joins what the splits found.
"""

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.kernels import INTERPRETED
from attncourse.kernels._parts.grids import count_parts
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_no_grad,
    finite,
    hide,
    load_rows,
    nonzero,
    padded,
)
from attncourse.kernels.grouped import check_grouped

MIN_KEYS = 128  # a shorter split would write more than it saves
MAX_SPLITS = 128  # one program merges the splits of a row, all at once
PROGRAMS = 2  # for each multiprocessor: while one waits for memory, the other computes
H100 = 132  # its multiprocessors, for the interpreter; an H200 has as many


def tile_sizes(rows: int, width: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK_R and BLOCK_K, rows and keys of a tile, and the options of the launch.

    A row is one query of one head. Rows are few in generation, and each key is used for all of
    them: what counts is that the loads of the next tiles are under way, which `num_stages` says.

    Args:
        rows: Rows that there are, or that belong together.
        width: The larger of D and Dv.
        dtype_bytes: Bytes of one number of q, k and v.
    """
    if dtype_bytes == 4:  # exact float32 has no tensor cores: operands sit in registers
        most, BLOCK_K, num_stages = (32, 32, 2) if width <= 64 else (16, 16, 2)
    elif width <= 64:
        most, BLOCK_K, num_stages = 64, 64, 4
    elif width <= 128:
        most, BLOCK_K, num_stages = 32, 64, 3
    else:
        most, BLOCK_K, num_stages = 16, 32, 3
    options = {"num_warps": 4, "num_stages": num_stages}
    return min(padded(rows), most), BLOCK_K, options


def share_out(n_programs: int, n_keys: int, block: int) -> tuple[int, int]:
    """Return how many splits there are, and `span`: the keys of each, whole tiles of them.

    Enough to keep the current GPU busy, and no more, for each split costs a partial result.

    Args:
        n_programs: Programs that there are without splitting.
        n_keys: Keys of the longest sequence.
        block: Keys of a tile.
    """
    wanted = triton.cdiv(PROGRAMS * multiprocessors(), max(1, n_programs))
    n_splits = max(1, min(wanted, n_keys // MIN_KEYS, MAX_SPLITS))
    span = max(1, triton.cdiv(n_keys, n_splits * block)) * block
    return max(1, triton.cdiv(n_keys, span)), span


def multiprocessors() -> int:
    """Return how many programs the current GPU runs side by side, in the interpreter an H100's."""
    if INTERPRETED or not torch.cuda.is_available():
        return H100
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


@triton.jit
def of_split(ptr, split, batch, head, strides):
    """Where the results of a split begin, for one head of one sequence."""
    return ptr + (split.to(tl.int64) * strides[0] + batch * strides[1] + head * strides[2])


@triton.jit
def packed_rows(start, Tq, shared, BLOCK_R: tl.constexpr):
    """The query and the head in its group of rows start ..., and which of these rows exist.

    The `shared` heads that read the same keys stand side by side, query after query: one product
    serves them all, and a tensor core, which wants 16 rows, gets them.
    """
    rows = start + tl.arange(0, BLOCK_R)
    return (rows // shared).to(tl.int64), (rows % shared).to(tl.int64), rows < Tq * shared


@triton.jit
def key_tiles(
    start, split, span, Tq, Tk, shared,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The key tiles of a split that any of the rows start ... sees: first_tile ... last_tile - 1.

    From first_cut on some rows may not see a key that others of their tile do.

    These bounds are the mechanism: a program loads its share, and of that no tile of the future.
    """
    n_whole, n_seen = Tk + BLOCK_K, Tk  # its end cuts the last tile, and hides no key
    if CAUSAL:
        n_whole = max(start // shared + 1 + Tk - Tq, 0)
        last_query = (min(start + BLOCK_R, Tq * shared) - 1) // shared
        n_seen = max(last_query + 1 + Tk - Tq, 0)
    first_tile = split * span // BLOCK_K  # without remainder
    last_tile = (min((split + 1) * span, n_seen) + BLOCK_K - 1) // BLOCK_K
    first_cut = min(max(n_whole // BLOCK_K, first_tile), last_tile)
    return first_tile, first_cut, last_tile


@triton.jit
def visible_keys(queries, keys, Tq, Tk, CAUSAL: tl.constexpr):
    """True where a query may attend to a key, [BLOCK_R, BLOCK_K]."""
    visible = (keys < Tk)[None, :]
    if CAUSAL:
        positions = queries.to(tl.int32) + (Tk - Tq)  # where the queries sit among the keys
        visible &= keys[None, :] <= positions[:, None]
    return visible


@triton.jit
def attend_tile(q, k, v, visible, acc, running_max, running_sum, scale, CUT: tl.constexpr):
    """One step of the online softmax, as in the flash kernel; the mask costs nothing here.

    q [BLOCK_R, BLOCK_D], k [BLOCK_K, BLOCK_D], v [BLOCK_K, BLOCK_DV], acc [BLOCK_R, BLOCK_DV].
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_R, BLOCK_K]
    scores *= scale * LOG2E
    if CUT:
        scores, v = hide(scores, v, visible)
    else:
        scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(running_max, tl.max(scores, 1))  # [BLOCK_R]
    pivot = finite(new_max)
    weights = tl.exp2(scores - pivot[:, None])  # [BLOCK_R, BLOCK_K]
    rescale = tl.exp2(running_max - pivot)  # [BLOCK_R]
    running_sum = running_sum * rescale + tl.sum(weights, 1)  # [BLOCK_R]
    acc *= rescale[:, None]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [BLOCK_R, BLOCK_DV]
    return acc, new_max, running_sum


# there are more splits as a cache grows: one kernel serves any number of them
@triton.jit(do_not_specialize=["n_splits"])
def merge_kernel(
    part_ptr, lse_ptr, out_ptr,
    part_strides, lse_strides, out_strides,
    n_splits,
    Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: one row of the output, from what each split found for it.

    A split's log-sum-exp says how much weight its keys have among all keys: see
    `reference.flash.merge`. Where it is -inf, the split saw no key and stored nothing else.
    """
    query = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    part_ptr += batch * part_strides[1] + head * part_strides[2] + query * part_strides[3]
    lse_ptr += batch * lse_strides[1] + head * lse_strides[2] + query * lse_strides[3]
    out_ptr += batch * out_strides[0] + head * out_strides[1] + query * out_strides[2]

    splits = tl.arange(0, BLOCK_S).to(tl.int64)
    cols = tl.arange(0, BLOCK_DV)
    in_splits = splits < n_splits
    lse = tl.load(lse_ptr + splits * lse_strides[0], mask=in_splits, other=float("-inf"))
    saw_keys = lse > float("-inf")
    parts = load_rows(part_ptr, splits * part_strides[0], saw_keys, cols, part_strides, Dv)
    weights = tl.exp2(lse - finite(tl.max(lse, 0)))  # [BLOCK_S], as lse
    out = tl.sum(weights[:, None] * parts, 0) / nonzero(tl.sum(weights, 0))  # [BLOCK_DV]
    tl.store(out_ptr + cols * out_strides[3], out.to(out_ptr.dtype.element_ty), mask=cols < Dv)


def partials(out: torch.Tensor, n_splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for the splits' results (n_splits, B, H, Tq, Dv) and lse (n_splits, B, H, Tq).

    A single split needs no merging: it writes into `out`.
    """
    lse = out.new_empty(n_splits, *out.shape[:-1], dtype=torch.float32)
    if n_splits == 1:
        return out[None], lse
    return out.new_empty(n_splits, *out.shape, dtype=torch.float32), lse


def merge(parts: torch.Tensor, lse: torch.Tensor, out: torch.Tensor) -> None:
    """Write attention to all keys into `out`, given what `partials` made room for."""
    n_splits = len(parts)
    if n_splits > 1:
        B, H, Tq, Dv = out.shape
        merge_kernel[(Tq, H, B)](
            parts, lse, out,
            parts.stride(), lse.stride(), out.stride(),
            n_splits, Dv, padded(Dv), MAX_SPLITS,
            num_warps=8,
        )  # fmt: skip


def check(where: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse what the kernels of the caches cannot run on, gradients included."""
    check_grouped(where, q, k, v)
    check_no_grad(where, q, k, v)


def cost(
    B: int, G: int, shared: int, Tq: int, Tk: int, D: int, chunk: int, causal: bool,
    dtype_bytes: int, *, key_bytes: int = 0, program_bytes: int = 0,
) -> Cost:  # fmt: skip
    """Count what the kernels of split-KV do, partial results included: see `attncourse.kernels`.

    What does not fit into one grid is counted part by part.

    Args:
        B: Batch.
        G: Key/value heads.
        shared: Query heads that share one.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        chunk: Queries whose rows make a tile, if it can hold them.
        causal: Leaves out the tiles of the future.
        dtype_bytes: Bytes of one number of q, k, v and out.
        key_bytes: Read for each key, to find it.
        program_bytes: Read once by each program.
    """
    more = shared, Tq, Tk, D, chunk, causal, dtype_bytes, key_bytes, program_bytes

    def of_part(batch: int, heads: int) -> Cost:
        return _cost(batch, heads // max(1, shared), *more)

    return count_parts(of_part, B, G * shared, G, Tq * D * dtype_bytes)


def _cost(B, G, shared, Tq, Tk, D, chunk, causal, dtype_bytes, key_bytes, program_bytes) -> Cost:
    """Count what fits into one grid."""
    n_rows = Tq * shared
    BLOCK_R, BLOCK_K, _ = tile_sizes(chunk * shared, D, dtype_bytes)
    row_tiles = triton.cdiv(n_rows, BLOCK_R)
    n_splits, span = share_out(row_tiles * B * G, Tk, BLOCK_K)
    tiles = keys = rows = 0
    for start in range(0, n_rows, BLOCK_R):
        for split in range(n_splits):
            knobs = start, split, span, Tq, Tk, shared, BLOCK_R, BLOCK_K, causal
            first_tile, _, last_tile = key_tiles.fn(*knobs)
            if first_tile < last_tile or split == 0:
                tiles += max(last_tile - first_tile, 0)
                keys += max(min(last_tile * BLOCK_K, Tk) - first_tile * BLOCK_K, 0)
                rows += min(BLOCK_R, n_rows - start)
    read = (rows + 2 * keys) * D * dtype_bytes
    read += keys * key_bytes + row_tiles * n_splits * program_bytes
    out, lse = n_rows * D * dtype_bytes, n_splits * n_rows * 4
    written, held = lse, out + lse
    if n_splits == 1:
        written += out
    else:
        seen = (min(max(i + 1 + Tk - Tq, 0), Tk) if causal else Tk for i in range(Tq))
        parts = shared * sum(triton.cdiv(n_seen, span) for n_seen in seen)  # those with keys
        read += lse + parts * D * 4
        written += rows * D * 4 + out
        held += n_splits * n_rows * D * 4
    return Cost(
        flops=4 * B * G * tiles * BLOCK_R * BLOCK_K * padded(D),
        bytes_read=B * G * read,
        bytes_written=B * G * written,
        peak_bytes=B * G * held,
    )
