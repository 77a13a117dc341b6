"""Pages of tokens on a GPU: who holds which, and the kernel that puts new tokens into them."""

import torch
import triton
import triton.language as tl

from attncourse.inputs import check_flag, check_qkv, check_scale
from attncourse.kernels._parts.block_table import check_pages, launch, slot_rows, token_rows
from attncourse.kernels._parts.grids import cuts
from attncourse.kernels._parts.tiles import load_tile, padded, store_rows, tiling


# the table grows with the cache: see `_paged_fwd_kernel`
@triton.jit(do_not_specialize=["stride_ts"])
def _paged_append_kernel(
    k_ptr, v_ptr, table_ptr, lengths_ptr, key_pages_ptr, value_pages_ptr,
    k_strides, v_strides, stride_ts, stride_tp, lengths_strides, key_pages_strides,
    value_pages_strides,
    T,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_K: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_K new tokens of one head of one sequence go to their pages."""
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    tokens = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    length = tl.load(lengths_ptr + batch * lengths_strides[0])  # before these tokens
    pages, slots, in_tokens = token_rows(
        table_ptr + batch * stride_ts, length + tokens, length + T, stride_tp, PAGE
    )
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    k_ptr += batch * k_strides[0] + group * k_strides[1]
    v_ptr += batch * v_strides[0] + group * v_strides[1]
    k = load_tile(k_ptr, tokens, cols, k_strides, T, D)  # [BLOCK_K, BLOCK_D]
    v = load_tile(v_ptr, tokens, v_cols, v_strides, T, Dv)  # [BLOCK_K, BLOCK_DV]
    k_rows = slot_rows(pages, slots, group, key_pages_strides)  # [BLOCK_K]
    v_rows = slot_rows(pages, slots, group, value_pages_strides)  # [BLOCK_K]
    store_rows(key_pages_ptr, k, k_rows, in_tokens, cols, key_pages_strides, D)
    store_rows(value_pages_ptr, v, v_rows, in_tokens, v_cols, value_pages_strides, Dv)


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
        _, BLOCK_K, options = tiling(max(D, Dv), k.element_size())
        pools = self.key_pages, self.value_pages
        launches = [(k, v, table, lengths, *pools)]
        if parts := cuts(B, G, G):
            launches = [
                (k[b, g], v[b, g], table[b], lengths[b], *(pool[:, g] for pool in pools))
                for b, groups in parts
                for g, _ in groups
            ]
        for inputs in launches:
            grid = (triton.cdiv(T, BLOCK_K), inputs[0].shape[1], inputs[0].shape[0])
            strides = [x.stride() for x in inputs]
            strides[2:3] = strides[2]  # the table's stand alone
            with torch.cuda.device_of(k):
                _paged_append_kernel[grid](
                    *inputs, *strides,
                    T, D, Dv, padded(D), padded(Dv), BLOCK_K, page, **options,
                )  # fmt: skip
        lengths += T
        self.lengths = [length + T for length in self.lengths]

    def attend(self, q: torch.Tensor, *, causal: bool, scale: float | None = None) -> torch.Tensor:
        """Return attention of q (B, H, T, D); if causal, q are each sequence's last T tokens."""
        table, lengths = self._tensors()
        check_pages("paged.attend", q, self.key_pages, self.value_pages, table, lengths)
        causal = check_flag("paged.attend", "causal", causal)
        scale = check_scale("paged.attend", scale, q.shape[-1])
        longest = max(self.lengths, default=0)
        pools = self.key_pages, self.value_pages
        return launch(q, *pools, table, lengths, longest, causal, scale)

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
