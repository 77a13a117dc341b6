"""Attention over pages that lie anywhere in a pool; a block table says whose they are."""

import torch
import triton
import triton.language as tl

from attncourse.inputs import check_flag, check_scale
from attncourse.kernels._parts import splits
from attncourse.kernels._parts.grids import cuts, join
from attncourse.kernels._parts.splits import (
    attend_tile,
    key_tiles,
    of_split,
    packed_rows,
    visible_keys,
)
from attncourse.kernels._parts.tiles import (
    load_rows,
    nonzero,
    padded,
    pass_infinity,
    store_rows,
)


def attend(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return the attention of each sequence over its own pages.

    The table is looked through before anything is launched, for a page outside the pool would be
    read from whatever lies there. The host then waits once for the GPU to hear the answer. A
    `PagedCache` keeps its own table on the host, where it is right, and does not ask.

    Args:
        q: (S, H, Tq, D), S sequences; float32, float16 or bfloat16, D ≤ 256.
        key_pages: (n_pages, G, page, D), the pool; G divides H.
        value_pages: (n_pages, G, page, Dv), Dv ≤ 256.
        table: int32 or int64 (S, max_pages): the pages of each sequence in order; entries beyond
            its length are not looked at.
        lengths: int32 or int64 (S,): tokens of each sequence.
        causal: The queries are the last Tq tokens of each sequence, and see no later one.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (S, H, Tq, Dv) in the dtype of q.

    Raises:
        TypeError: No tensors, or a table or lengths that hold no integers.
        ValueError: Shapes, dtypes or devices that do not fit, a sequence longer than its pages, or
            a table that points outside the pool.
    """
    check_pages("paged.attend", q, key_pages, value_pages, table, lengths)
    causal = check_flag("paged.attend", "causal", causal)
    scale = check_scale("paged.attend", scale, q.shape[-1])
    longest = _check_table("paged.attend", table, lengths, len(key_pages), key_pages.shape[2])
    return launch(q, key_pages, value_pages, table, lengths, longest, causal, scale)


@triton.jit
def token_rows(table_ptr, tokens, n_tokens, stride_table, PAGE: tl.constexpr):
    """The page and the slot in it of each token; those beyond the end look nothing up.

    PAGE is known to the compiler: a division by a power of two becomes a shift.
    """
    in_tokens = tokens < n_tokens
    pages = tl.load(table_ptr + tokens // PAGE * stride_table, mask=in_tokens, other=0)
    return pages.to(tl.int64), (tokens % PAGE).to(tl.int64), in_tokens


@triton.jit
def slot_rows(pages, slots, group, strides):
    """Where in the pool the rows of some tokens of one head begin."""
    return pages * strides[0] + group * strides[1] + slots * strides[2]


# the table grows with the cache: see `_kv_cache_fwd_kernel`; its strides are no tuple, for Triton
# specialises the numbers of a tuple whatever it is told
@triton.jit(do_not_specialize=["stride_ts", "span"])
def _paged_fwd_kernel(
    q_ptr, key_pages_ptr, value_pages_ptr, table_ptr, lengths_ptr, part_ptr, lse_ptr,
    q_strides, key_pages_strides, value_pages_strides, stride_ts, stride_tp, lengths_strides,
    part_strides, lse_strides,
    Tq, shared, span, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows of one group of one sequence, and one split of its keys.

    As in `_kv_cache_fwd_kernel`, but each sequence has its own length, and each key its page.
    """
    row_tiles = tl.cdiv(Tq * shared, BLOCK_R)
    start = tl.program_id(0) % row_tiles * BLOCK_R
    split = tl.program_id(0) // row_tiles
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + group * shared * q_strides[1]
    table_ptr += batch * stride_ts
    part_ptr = of_split(part_ptr, split, batch, group * shared, part_strides)
    lse_ptr = of_split(lse_ptr, split, batch, group * shared, lse_strides)

    Tk = tl.load(lengths_ptr + batch * lengths_strides[0]).to(tl.int32)
    queries, heads, in_rows = packed_rows(start, Tq, shared, BLOCK_R)
    lse_ptr += heads * lse_strides[2] + queries * lse_strides[3]  # [BLOCK_R]
    knobs = start, split, span, Tq, Tk, shared
    first_tile, first_cut, last_tile = key_tiles(*knobs, BLOCK_R, BLOCK_K, CAUSAL)
    if (first_tile >= last_tile) & (split > 0):  # a shorter sequence ends before this split
        tl.store(lse_ptr, tl.full([BLOCK_R], float("-inf"), tl.float32), mask=in_rows)
        return

    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_rows(q_ptr, heads * q_strides[1] + queries * q_strides[2], in_rows, cols, q_strides, D)
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_R, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_R], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_R], tl.float32)
    keys = first_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    stop = min(last_tile * BLOCK_K, Tk)
    pages, slots, in_keys = token_rows(table_ptr, keys, stop, stride_tp, PAGE)
    bounds = first_tile, first_cut, last_tile
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for _tile in range(bounds[stretch], bounds[stretch + 1]):
            k_rows = slot_rows(pages, slots, group, key_pages_strides)  # [BLOCK_K]
            v_rows = slot_rows(pages, slots, group, value_pages_strides)  # [BLOCK_K]
            k = load_rows(key_pages_ptr, k_rows, in_keys, cols, key_pages_strides, D)
            v = load_rows(value_pages_ptr, v_rows, in_keys, v_cols, value_pages_strides, Dv)
            visible = visible_keys(queries, keys, Tq, Tk, CAUSAL)  # [BLOCK_R, BLOCK_K]
            acc, running_max, running_sum = attend_tile(
                q, k, v, visible, acc, running_max, running_sum, scale, stretch == 1
            )
            keys += BLOCK_K  # where the next keys lie is asked before it is needed
            pages, slots, in_keys = token_rows(table_ptr, keys, stop, stride_tp, PAGE)

    running_sum = nonzero(running_sum)
    acc /= running_sum[:, None]  # [BLOCK_R, BLOCK_DV]
    part_rows = heads * part_strides[2] + queries * part_strides[3]
    store_rows(part_ptr, acc, part_rows, in_rows, v_cols, part_strides, Dv)
    lse = running_max + tl.log2(running_sum)  # to base 2, as the scores; -inf where no key is seen
    tl.store(lse_ptr, lse, mask=in_rows)


def launch(q, key_pages, value_pages, table, lengths, longest, causal, scale):
    """Return `attend` of tensors that are checked; `longest` is the largest of the lengths."""
    S, H, Tq, D = q.shape
    _, G, page, Dv = value_pages.shape
    if parts := cuts(S, H, G):
        more = longest, causal, scale
        return join(
            [
                [
                    launch(q[s, h], key_pages[:, g], value_pages[:, g], table[s], lengths[s], *more)
                    for h, g in heads
                ]
                for s, heads in parts
            ]
        )
    shared = H // max(1, G)
    rows = max(1, Tq) * shared
    BLOCK_R, BLOCK_K, options = splits.tile_sizes(rows, max(D, Dv), q.element_size())
    row_tiles = triton.cdiv(Tq * shared, BLOCK_R)
    out = q.new_empty(S, H, Tq, Dv)
    with torch.cuda.device_of(q):
        n_splits, span = splits.share_out(row_tiles * S * G, longest, BLOCK_K)
        parts, lse = splits.partials(out, n_splits)
        _paged_fwd_kernel[(row_tiles * n_splits, G, S)](
            q, key_pages, value_pages, table, lengths, parts, lse,
            q.stride(), key_pages.stride(), value_pages.stride(),
            *table.stride(), lengths.stride(), parts.stride(), lse.stride(),
            Tq, shared, span, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_R, BLOCK_K, causal, page, **options,
        )  # fmt: skip
        splits.merge(parts, lse, out)
    return out


def check_pages(where, q, key_pages, value_pages, table, lengths) -> None:
    """Refuse tensors that do not belong together; their numbers are not looked at."""
    for name, tensor in (("q", q), ("key_pages", key_pages), ("value_pages", value_pages)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{where}: {name} must be a torch tensor, got {type(tensor).__name__}")
        if tensor.ndim != 4:
            raise ValueError(f"{where}: {name} must have 4 axes, got shape {tuple(tensor.shape)}")
    if len(key_pages) != len(value_pages):
        raise ValueError(
            f"{where}: key_pages and value_pages must be as many, "
            f"got {len(key_pages)} and {len(value_pages)}"
        )
    splits.check(where, q[:0], key_pages[:0], value_pages[:0])  # a page is a k without a batch
    for name, tensor, n_axes in (("table", table, 2), ("lengths", lengths, 1)):
        dtype = getattr(tensor, "dtype", type(tensor).__name__)
        if dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{where}: {name} must hold int32 or int64 numbers, got {dtype}")
        if tensor.ndim != n_axes or len(tensor) != len(q):
            raise ValueError(
                f"{where}: {name} must have a row for each of {len(q)} sequences, "
                f"got shape {tuple(tensor.shape)}"
            )
        if tensor.device != q.device:
            raise ValueError(f"{where}: {name} must be on {q.device}, as q, got {tensor.device}")


def _check_table(where, table, lengths, n_pages, page) -> int:
    """Return the largest length, once no sequence leaves its pages and no page the pool.

    All is looked at where it lies, and three numbers come back: one wait for the GPU.
    """
    if not len(lengths):
        return 0
    max_pages = table.shape[1]
    first_tokens = torch.arange(max_pages, device=table.device) * page
    outside = (first_tokens < lengths[:, None]) & ((table < 0) | (table >= n_pages))
    longest, shortest, n_outside = torch.stack(
        (lengths.max().long(), lengths.min().long(), outside.sum())
    ).tolist()
    if shortest < 0 or longest > max_pages * page:
        row = int(((lengths < 0) | (lengths > max_pages * page)).nonzero()[0])
        raise ValueError(
            f"{where}: sequence {row} has {int(lengths[row])} tokens, its {max_pages} pages hold "
            f"{max_pages * page}"
        )
    if n_outside:
        row, column = outside.nonzero()[0].tolist()
        raise ValueError(
            f"{where}: table must point to pages 0 ... {n_pages - 1}, "
            f"got {int(table[row, column])} for sequence {row}"
        )
    return longest
