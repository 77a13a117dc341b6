"""Paged attention in Triton: split-KV, with a look into the block table for where each key lies."""

import math

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_qkv
from attncourse.kernels import splits
from attncourse.kernels.grouped import check_groups
from attncourse.kernels.splits import attend_tile, key_tiles, packed_rows, visible_keys
from attncourse.kernels.tiles import (
    check_grid,
    load_rows,
    load_tile,
    nonzero,
    padded,
    store_rows,
    tiling,
)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    page: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return grouped attention over keys and values that are put into pages first.

    One kernel scatters the tokens into pages, a second one attends: as in `kv_cache` a program
    takes one split of the keys, and it finds each key by its page in the block table. The sequence
    is never put together again.

    Args:
        q: (B, H, Tq, D) float32, float16 or bfloat16, any strides, D ≤ 256.
        k: (B, G, Tk, D); G divides H.
        v: (B, G, Tk, Dv), Dv ≤ 256.
        page: Tokens in a page, any number; no effect on values.
        causal: Query i sees keys up to its own position i + Tk - Tq.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (B, H, Tq, Dv) in the dtype of q; a query that sees no key gets zeros.

    Raises:
        TypeError: No tensors, a dtype without a kernel, or a page that is no integer.
        ValueError: Shapes, dtypes or devices that do not fit, page < 1, or a gradient is asked for.

    Memory:
        The pages: less than one page beyond the tokens of each sequence; the output and one
        float32 for each of its rows and splits; where there is more than one split, also their
        partial outputs in float32.

    Paper:
        Kwon et al. 2023, arXiv:2309.06180, section 4.1.
    """
    where = "paged.attention"
    splits.check(where, q, k, v)
    check_count(where, "page", page, least=1)
    cache = start(k, v, page=page)
    cache.append(k, v)
    return cache.attend(q, causal=causal, scale=scale)


def start(
    k: torch.Tensor, v: torch.Tensor, *, page: int, n_pages: int | None = None
) -> "PagedCache":
    """Return an empty cache for sequences like k (B, G, T, D) and v.

    Args:
        k: Its shape, dtype and device count, its numbers do not.
        v: The same.
        page: Tokens in a page.
        n_pages: Pages of the pool; enough for T tokens of each sequence if not given.
    """
    B, G, T = k.shape[:3]
    page = check_count("paged.start", "page", page, least=1)
    n_pages = B * triton.cdiv(T, page) if n_pages is None else n_pages
    check_count("paged.start", "n_pages", n_pages)
    pools = (a.new_empty(n_pages, G, page, a.shape[-1]) for a in (k, v))
    return PagedCache(*pools, n_sequences=B)


def step(
    state: "PagedCache",
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, "PagedCache"]:
    """Append the new tokens, then let them attend, each sequence to itself.

    Args:
        state: The cache; it is changed in place.
        q: (B, H, T, D).
        k: (B, G, T, D); G divides H.
        v: (B, G, T, Dv).
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        out (B, H, T, Dv), and the state.
    """
    splits.check("paged.step", q, k, v)
    state.append(k, v)
    return state.attend(q, causal=True, scale=scale), state


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
    read from whatever lies there. A GPU is waited for once to hear the answer, some 10
    microseconds. A `PagedCache` knows that its own table is right, and does not ask.

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
    _check_pages("paged.attend", q, key_pages, value_pages, table, lengths)
    longest = _check_table("paged.attend", table, lengths, len(key_pages), key_pages.shape[2])
    return _attend(q, key_pages, value_pages, table, lengths, longest, causal, scale)


@triton.jit
def _token_rows(table_ptr, tokens, n_tokens, stride_table, PAGE: tl.constexpr):
    """The page and the slot in it of each token; those beyond the end look nothing up.

    PAGE is known to the compiler: a division by a power of two becomes a shift.
    """
    in_tokens = tokens < n_tokens
    pages = tl.load(table_ptr + tokens // PAGE * stride_table, mask=in_tokens, other=0)
    return pages.to(tl.int64), (tokens % PAGE).to(tl.int64), in_tokens


@triton.jit
def _paged_append_kernel(
    k_ptr, v_ptr, table_ptr, lengths_ptr, key_pages_ptr, value_pages_ptr,
    stride_kb, stride_kh, stride_kt, stride_kd,
    stride_vb, stride_vh, stride_vt, stride_vd,
    stride_ts, stride_tp, stride_ns,
    stride_kpp, stride_kph, stride_kpt, stride_kpd,
    stride_vpp, stride_vph, stride_vpt, stride_vpd,
    T,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_KV: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_KV new tokens of one head of one sequence go to their pages."""
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    tokens = tl.program_id(0) * BLOCK_KV + tl.arange(0, BLOCK_KV)
    length = tl.load(lengths_ptr + batch * stride_ns)  # before these tokens
    pages, slots, in_tokens = _token_rows(
        table_ptr + batch * stride_ts, length + tokens, length + T, stride_tp, PAGE
    )
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    k_ptr += batch * stride_kb + group * stride_kh
    v_ptr += batch * stride_vb + group * stride_vh
    k = load_tile(k_ptr, tokens, cols, stride_kt, stride_kd, T, D)  # [BLOCK_KV, BLOCK_D]
    v = load_tile(v_ptr, tokens, v_cols, stride_vt, stride_vd, T, Dv)  # [BLOCK_KV, BLOCK_DV]
    k_rows = pages * stride_kpp + group * stride_kph + slots * stride_kpt
    v_rows = pages * stride_vpp + group * stride_vph + slots * stride_vpt
    store_rows(key_pages_ptr, k, k_rows, in_tokens, cols, stride_kpd, D)
    store_rows(value_pages_ptr, v, v_rows, in_tokens, v_cols, stride_vpd, Dv)


@triton.jit
def _paged_fwd_kernel(
    q_ptr, key_pages_ptr, value_pages_ptr, table_ptr, lengths_ptr, part_ptr, lse_ptr,
    stride_qb, stride_qh, stride_qt, stride_qd,
    stride_kpp, stride_kph, stride_kpt, stride_kpd,
    stride_vpp, stride_vph, stride_vpt, stride_vpd,
    stride_ts, stride_tp, stride_ns,
    stride_ps, stride_pb, stride_ph, stride_pt, stride_pd,
    stride_ls, stride_lb, stride_lh, stride_lt,
    Tq, shared, span, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_KV: tl.constexpr, CAUSAL: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows of one group of one sequence, and one split of its keys.

    As in `_kv_cache_fwd_kernel`, but each sequence has its own length, and each key its page.
    """
    row_tiles = tl.cdiv(Tq * shared, BLOCK_R)
    start = tl.program_id(0) % row_tiles * BLOCK_R
    split = tl.program_id(0) // row_tiles
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * stride_qb + group * shared * stride_qh
    table_ptr += batch * stride_ts
    part_ptr += split.to(tl.int64) * stride_ps + batch * stride_pb + group * shared * stride_ph
    lse_ptr += split.to(tl.int64) * stride_ls + batch * stride_lb + group * shared * stride_lh

    Tk = tl.load(lengths_ptr + batch * stride_ns).to(tl.int32)
    queries, heads, in_rows = packed_rows(start, Tq, shared, BLOCK_R)
    lse_ptr += heads * stride_lh + queries * stride_lt  # [BLOCK_R]
    first_tile, last_tile = key_tiles(start, split, span, Tq, Tk, shared, BLOCK_R, BLOCK_KV, CAUSAL)
    if (first_tile >= last_tile) & (split > 0):  # a shorter sequence ends before this split
        tl.store(lse_ptr, tl.full([BLOCK_R], float("-inf"), tl.float32), mask=in_rows)
        return

    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_rows(q_ptr, heads * stride_qh + queries * stride_qt, in_rows, cols, stride_qd, D)
    acc = tl.zeros([BLOCK_R, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_R], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_R], tl.float32)
    keys = first_tile * BLOCK_KV + tl.arange(0, BLOCK_KV)
    stop = min(last_tile * BLOCK_KV, Tk)
    pages, slots, in_keys = _token_rows(table_ptr, keys, stop, stride_tp, PAGE)
    for _tile in range(first_tile, last_tile):
        k_rows = pages * stride_kpp + group * stride_kph + slots * stride_kpt  # [BLOCK_KV]
        v_rows = pages * stride_vpp + group * stride_vph + slots * stride_vpt  # [BLOCK_KV]
        k = load_rows(key_pages_ptr, k_rows, in_keys, cols, stride_kpd, D)
        v = load_rows(value_pages_ptr, v_rows, in_keys, v_cols, stride_vpd, Dv)
        visible = visible_keys(queries, keys, Tq, Tk, CAUSAL)
        acc, running_max, running_sum = attend_tile(
            q, k, v, visible, acc, running_max, running_sum, scale
        )
        keys += BLOCK_KV  # where the next keys lie is asked before it is needed
        pages, slots, in_keys = _token_rows(table_ptr, keys, stop, stride_tp, PAGE)

    running_sum = nonzero(running_sum)
    acc /= running_sum[:, None]  # [BLOCK_R, BLOCK_DV]
    part_rows = heads * stride_ph + queries * stride_pt
    store_rows(part_ptr, acc, part_rows, in_rows, v_cols, stride_pd, Dv)
    lse = running_max + tl.log2(running_sum)  # to base 2, as the scores; -inf where no key is seen
    tl.store(lse_ptr, lse, mask=in_rows)


def _attend(q, key_pages, value_pages, table, lengths, longest, causal, scale):
    """Launch the kernels; `longest` is the largest of the lengths, known without asking a GPU."""
    S, H, Tq, D = q.shape
    _, G, page, Dv = value_pages.shape
    shared = H // max(1, G)
    scale = 1 / math.sqrt(D) if scale is None else float(scale)
    rows = max(1, Tq) * shared
    BLOCK_R, BLOCK_KV, options = splits.tile_sizes(rows, max(D, Dv), q.element_size())
    row_tiles = triton.cdiv(Tq * shared, BLOCK_R)
    out = q.new_empty(S, H, Tq, Dv)
    with torch.cuda.device_of(q):
        n_splits, span = splits.share_out(row_tiles * S * G, longest, BLOCK_KV)
        parts, lse = splits.partials(out, n_splits)
        _paged_fwd_kernel[(row_tiles * n_splits, G, S)](
            q, key_pages, value_pages, table, lengths, parts, lse,
            *q.stride(), *key_pages.stride(), *value_pages.stride(),
            *table.stride(), *lengths.stride(), *parts.stride(), *lse.stride(),
            Tq, shared, span, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_R, BLOCK_KV, bool(causal), page, **options,
        )  # fmt: skip
        splits.merge(parts, lse, out)
    return out


class PagedCache:
    """A batch of sequences over one pool of pages.

    Which page belongs to whom is decided on the host, in plain lists. The GPU has a copy of them,
    the block table, which is renewed when a sequence gets a page.

    Attributes:
        key_pages: (n_pages, G, page, D), the pool.
        value_pages: (n_pages, G, page, Dv).
        pages: The numbers of each sequence's pages, in order.
        lengths: Tokens of each sequence.
    """

    def __init__(
        self, key_pages: torch.Tensor, value_pages: torch.Tensor, n_sequences: int
    ) -> None:
        """Take an empty pool for so many sequences."""
        self.key_pages, self.value_pages = key_pages, value_pages
        self.pages: list[list[int]] = [[] for _ in range(n_sequences)]
        self.lengths = [0] * n_sequences
        self._free = list(range(len(key_pages)))[::-1]  # the next page is the last of the list
        self._on_device = None

    @property
    def n_free(self) -> int:
        """Pages that no sequence holds."""
        return len(self._free)

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put new tokens at the end of each sequence: k (B, G, T, D) and v (B, G, T, Dv).

        Raises:
            ValueError: Tokens of another shape, dtype or device than the pool's.
            MemoryError: Too few free pages; no sequence has grown.
        """
        self._check(k, v)
        page, (B, G, T, D), Dv = self.key_pages.shape[2], k.shape, v.shape[-1]
        missing = [
            triton.cdiv(length + T, page) - len(pages)
            for length, pages in zip(self.lengths, self.pages, strict=True)
        ]
        if sum(missing) > self.n_free:
            raise MemoryError(
                f"paged.append: {sum(missing)} pages asked for, {self.n_free} of "
                f"{len(self.key_pages)} free"
            )
        for pages, count in zip(self.pages, missing, strict=True):
            pages += [self._free.pop() for _ in range(count)]
        if sum(missing):
            self._on_device = None
        table, lengths = self._tensors()
        _, BLOCK_KV, options = tiling(max(D, Dv), k.element_size())
        with torch.cuda.device_of(k):
            _paged_append_kernel[(triton.cdiv(T, BLOCK_KV), G, B)](
                k, v, table, lengths, self.key_pages, self.value_pages,
                *k.stride(), *v.stride(), *table.stride(), *lengths.stride(),
                *self.key_pages.stride(), *self.value_pages.stride(),
                T, D, Dv, padded(D), padded(Dv), BLOCK_KV, page, **options,
            )  # fmt: skip
        lengths += T
        self.lengths = [length + T for length in self.lengths]

    def attend(self, q: torch.Tensor, *, causal: bool, scale: float | None = None) -> torch.Tensor:
        """Return attention of q (B, H, T, D); if causal, q are each sequence's last T tokens."""
        table, lengths = self._tensors()
        _check_pages("paged.attend", q, self.key_pages, self.value_pages, table, lengths)
        longest = max(self.lengths, default=0)
        pools = self.key_pages, self.value_pages
        return _attend(q, *pools, table, lengths, longest, causal, scale)

    def release(self, sequence: int) -> None:
        """Give back the pages of one sequence, which is empty then."""
        self._free += self.pages[sequence][::-1]
        self.pages[sequence], self.lengths[sequence] = [], 0
        self._on_device = None

    def _tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block table int32 (B, max_pages), unused -1, and the lengths int32 (B,)."""
        if self._on_device is None:
            longest = max(map(len, self.pages), default=0)
            table = [pages + [-1] * (longest - len(pages)) for pages in self.pages]
            pool = self.key_pages
            self._on_device = tuple(
                torch.tensor(numbers, dtype=torch.int32, pin_memory=pool.is_cuda)
                .reshape(len(self.pages), *columns)
                .to(pool.device, non_blocking=True)  # pinned and so copied without waiting
                for numbers, columns in ((table, [longest]), (self.lengths, []))
            )
        return self._on_device

    def _check(self, k, v) -> None:
        check_qkv("paged.append", k, k, v)
        for name, new, pool in (("k", k, self.key_pages), ("v", v, self.value_pages)):
            fits = (len(self.pages), pool.shape[1], new.shape[-2], pool.shape[-1])
            if tuple(new.shape) != fits or new.dtype != pool.dtype or new.device != pool.device:
                raise ValueError(
                    f"paged.append: {name} must be {pool.dtype} {fits} on {pool.device}, "
                    f"got {new.dtype} {tuple(new.shape)} on {new.device}"
                )


def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    page: int,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do, with Dv = D: filling the pages, and attention.

    A program reads one entry of the block table, in 4 bytes, for each key that it loads.

    Args:
        B: Batch.
        H: Query heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        page: Tokens in a page.
        groups: G, key/value heads; H if not given.
        causal: Leaves out the tiles of the future.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    G = check_groups("paged.cost", H, groups)
    page = check_count("paged.cost", "page", page, least=1)
    sizes = B, G, H // max(1, G), Tq, Tk, D, max(1, Tq), causal, dtype_bytes
    attending = splits.cost(*sizes, key_bytes=4, program_bytes=4)
    _, BLOCK_KV, _ = tiling(D, dtype_bytes)
    tokens, n_pages = 2 * B * G * Tk * D * dtype_bytes, triton.cdiv(Tk, page)
    entries = 4 * B * G * (Tk + triton.cdiv(Tk, BLOCK_KV))  # of the table, and lengths
    return Cost(
        flops=attending.flops,
        bytes_read=tokens + entries + attending.bytes_read,
        bytes_written=tokens + attending.bytes_written,
        peak_bytes=2 * B * G * n_pages * page * D * dtype_bytes
        + 4 * B * (n_pages + 1)  # the table and the lengths
        + attending.peak_bytes,
    )


def _check_pages(where, q, key_pages, value_pages, table, lengths) -> None:
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
    check_grid(where, {"sequences": len(q)})
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
