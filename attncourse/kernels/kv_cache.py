"""Attention to a key/value cache in Triton: few queries, many keys, so the keys are split."""

import math

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import (
    check_count,
    check_flag,
    check_new_tokens,
    check_qkv,
    check_scale,
    int_sizes,
)
from attncourse.kernels._parts import splits
from attncourse.kernels._parts.grids import in_grids
from attncourse.kernels._parts.splits import (
    attend_tile,
    key_tiles,
    of_split,
    packed_rows,
    visible_keys,
)
from attncourse.kernels._parts.tiles import (
    load_rows,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    room_for,
    store_rows,
)
from attncourse.kernels.grouped import check_groups


def start(k: torch.Tensor, v: torch.Tensor, *, capacity: int | None = None) -> "KVCache":
    """Return an empty cache for tokens like k (B, G, T, D) and v, with room for T of them.

    Only shape, dtype and device of k and v count. `capacity` is room for so many tokens instead.
    """
    room = k.shape[-2] if capacity is None else check_count("kv_cache.start", "capacity", capacity)
    with _room_for("kv_cache.start", room, k, v):
        return KVCache(*(a.new_empty(*a.shape[:-2], room, a.shape[-1]) for a in (k, v)))


def _room_for(where: str, tokens: int, k: torch.Tensor, v: torch.Tensor):
    each = sum(math.prod(a.shape[:-2]) * a.shape[-1] * a.element_size() for a in (k, v))
    asked = where, f"{tokens} tokens", tokens * each
    return room_for(*asked, lambda free: f"{free // each} tokens", k.device)


def step(
    state: "KVCache",
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, "KVCache"]:
    """Append the new tokens, then let them attend: in this order, so that a token sees itself.

    The cache is changed in place. T is 1 in generation, more in prefill; where there are fewer
    queries than keys, they are those of the last tokens.
    """
    splits.check("kv_cache.step", q, k, v)
    scale = check_scale("kv_cache.step", scale, q.shape[-1])
    check_new_tokens("kv_cache.step", q, k)
    state.append(k, v)
    return state.attend(q, causal=True, scale=scale), state


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    chunk: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return grouped attention, computed as generation does, all its steps side by side.

    At each step the cache is the front part of k and v, so here k and v are the cache. A program
    is one step, or some of its rows, and one split of the keys that this step sees. The queries of
    the H / G heads that share a key/value head are rows of one tile: each key is read once for all
    of them.

    Contract: `attncourse.kernels`; knobs: `reference.kv_cache.attention`.
    A tile has 16 to 64 rows, so small steps (`chunk`) go together and large ones are cut; no effect
    on values.
    Gradients: none.
    Memory: the output and one float32 for each of its rows and splits; where there is more than one
        split, also their partial outputs in float32.
    Paper: groups as in Ainslie et al. 2023, arXiv:2305.13245, section 2.2.
    """
    where = "kv_cache.attention"
    splits.check(where, q, k, v)
    chunk = check_count(where, "chunk", chunk, least=1)
    causal = check_flag(where, "causal", causal)
    scale = check_scale(where, scale, q.shape[-1])
    return _attend(q, k, v, chunk, causal, scale)


# the cache grows: a kernel compiled for Tk = 1 or for multiples of 16 would be compiled anew
@triton.jit(do_not_specialize=["Tk", "span"])
def _kv_cache_fwd_kernel(
    q_ptr, k_ptr, v_ptr, part_ptr, lse_ptr,
    q_strides, k_strides, v_strides, part_strides, lse_strides,
    Tq, Tk, shared, span, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows of one group, and one split of the keys."""
    row_tiles = tl.cdiv(Tq * shared, BLOCK_R)
    start = tl.program_id(0) % row_tiles * BLOCK_R
    split = tl.program_id(0) // row_tiles
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + group * shared * q_strides[1]
    k_ptr += batch * k_strides[0] + group * k_strides[1]
    v_ptr += batch * v_strides[0] + group * v_strides[1]
    part_ptr = of_split(part_ptr, split, batch, group * shared, part_strides)
    lse_ptr = of_split(lse_ptr, split, batch, group * shared, lse_strides)

    queries, heads, in_rows = packed_rows(start, Tq, shared, BLOCK_R)
    lse_ptr += heads * lse_strides[2] + queries * lse_strides[3]  # [BLOCK_R]
    knobs = start, split, span, Tq, Tk, shared
    first_tile, first_cut, last_tile = key_tiles(*knobs, BLOCK_R, BLOCK_K, CAUSAL)
    if (first_tile >= last_tile) & (split > 0):  # no key: the merging kernel sees it by its lse
        tl.store(lse_ptr, tl.full([BLOCK_R], float("-inf"), tl.float32), mask=in_rows)
        return

    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_rows(q_ptr, heads * q_strides[1] + queries * q_strides[2], in_rows, cols, q_strides, D)
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_R, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_R], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_R], tl.float32)
    bounds = first_tile, first_cut, last_tile
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            k = load_tile(k_ptr, keys, cols, k_strides, Tk, D)  # [BLOCK_K, BLOCK_D]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            visible = visible_keys(queries, keys, Tq, Tk, CAUSAL)  # [BLOCK_R, BLOCK_K]
            acc, running_max, running_sum = attend_tile(
                q, k, v, visible, acc, running_max, running_sum, scale, stretch == 1
            )

    running_sum = nonzero(running_sum)
    acc /= running_sum[:, None]  # [BLOCK_R, BLOCK_DV]
    part_rows = heads * part_strides[2] + queries * part_strides[3]
    store_rows(part_ptr, acc, part_rows, in_rows, v_cols, part_strides, Dv)
    lse = running_max + tl.log2(running_sum)  # to base 2, as the scores; -inf where no key is seen
    tl.store(lse_ptr, lse, mask=in_rows)


@in_grids()
def _attend(q, keys, values, chunk, causal, scale):
    """Launch the kernels over the keys and values so far."""
    B, H, Tq, D = q.shape
    G, Tk, Dv = values.shape[1:]
    shared = H // max(1, G)
    BLOCK_R, BLOCK_K, options = splits.tile_sizes(chunk * shared, max(D, Dv), q.element_size())
    row_tiles = triton.cdiv(Tq * shared, BLOCK_R)
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        n_splits, span = splits.share_out(row_tiles * B * G, Tk, BLOCK_K)
        parts, lse = splits.partials(out, n_splits)
        _kv_cache_fwd_kernel[(row_tiles * n_splits, G, B)](
            q, keys, values, parts, lse,
            q.stride(), keys.stride(), values.stride(), parts.stride(), lse.stride(),
            Tq, Tk, shared, span, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_R, BLOCK_K, causal, **options,
        )  # fmt: skip
        splits.merge(parts, lse, out)
    return out


class KVCache:
    """Keys and values of the tokens so far, in tensors with room to spare.

    When the room is used up, both tensors are made twice as long and the tokens copied: over n
    tokens less than one copy a token.

    Attributes:
        length: Tokens in the cache.
        tokens_copied: Tokens that growing has moved so far.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take the room: (B, G, capacity, D) and (B, G, capacity, Dv)."""
        self._rooms = [keys, values]
        self.length = self.tokens_copied = 0

    @property
    def keys(self) -> torch.Tensor:
        """The keys so far, (B, G, length, D): a view."""
        return self._rooms[0][:, :, : self.length]

    @property
    def values(self) -> torch.Tensor:
        """The values so far, (B, G, length, Dv): a view."""
        return self._rooms[1][:, :, : self.length]

    @property
    def bytes_held(self) -> int:
        """Bytes of both tensors, the spare room included."""
        return sum(room.nbytes for room in self._rooms)

    @property
    def bytes_used(self) -> int:
        """Bytes of the tokens in the cache."""
        return self.keys.nbytes + self.values.nbytes

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put new tokens at the end: k (B, G, T, D) and v (B, G, T, Dv)."""
        check_qkv("kv_cache.append", k, k, v)
        for name, new, room in zip(("k", "v"), (k, v), self._rooms, strict=True):
            fits = (*room.shape[:-2], new.shape[-2], room.shape[-1])
            if tuple(new.shape) != fits or new.dtype != room.dtype or new.device != room.device:
                raise ValueError(
                    f"kv_cache.append: {name} must be {room.dtype} {fits} on {room.device}, "
                    f"got {new.dtype} {tuple(new.shape)} on {new.device}"
                )
        end, capacity = self.length + k.shape[-2], self._rooms[0].shape[-2]
        if end > capacity:
            self._grow(max(end, 2 * capacity))
        for new, room in zip((k, v), self._rooms, strict=True):
            room[:, :, self.length : end] = new
        self.length = end

    def attend(self, q: torch.Tensor, *, causal: bool, scale: float | None = None) -> torch.Tensor:
        """Return attention of q (B, H, T, D); if causal, q are the cache's last T tokens."""
        splits.check("kv_cache.attend", q, self.keys, self.values)
        causal = check_flag("kv_cache.attend", "causal", causal)
        scale = check_scale("kv_cache.attend", scale, q.shape[-1])
        return _attend(q, self.keys, self.values, max(1, q.shape[2]), causal, scale)

    def _grow(self, capacity: int) -> None:
        grown = []
        with _room_for("kv_cache.append", capacity, self.keys, self.values):
            for filled in (self.keys, self.values):
                grown.append(filled.new_empty(*filled.shape[:-2], capacity, filled.shape[-1]))
                grown[-1][:, :, : self.length] = filled
        self._rooms = grown  # both or none
        self.tokens_copied += self.length


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    chunk: int,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    How many splits there are depends on the GPU: see `splits.share_out`. k and v are read once for
    each tile of rows, which holds all the heads of a group.
    """
    G = check_groups("kv_cache.cost", H, groups)
    chunk = check_count("kv_cache.cost", "chunk", chunk, least=1)
    causal = check_flag("kv_cache.cost", "causal", causal)
    return splits.cost(B, G, H // max(1, G), Tq, Tk, D, chunk, causal, dtype_bytes)
