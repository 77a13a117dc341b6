"""What the block-sparse kernels share, forward and backward: how a program reads its plan."""

import triton
import triton.language as tl

from attncourse.kernels._parts.tiles import tiling


def launch_options(width: int, dtype_bytes: int, *, backward: bool = False) -> dict[str, int]:
    """Return the warps and stages at which the kernels spill no registers.

    Args:
        width: The larger of D and Dv.
        dtype_bytes: Bytes of one number of q, k and v.
        backward: Whether the kernel is one of the backward pass.
    """
    _, _, options = tiling(width, dtype_bytes)
    if dtype_bytes == 4 and (width <= 64 or not backward):
        options["num_warps"] = 8
    return options


@triton.jit
def tokens_of(order_ptr, tile, BLOCK: tl.constexpr):
    """The tokens of a tile: neighbours, or those that the order names."""
    places = tile * BLOCK + tl.arange(0, BLOCK)
    if order_ptr is not None:
        places = tl.load(order_ptr + places)
    return places


@triton.jit
def program_of(items_ptr):
    """What this program has to do: row, first full entry, first cut one, end, number of share."""
    item = items_ptr + 5 * tl.program_id(0)
    row, share = tl.load(item), tl.load(item + 4)
    return row, tl.load(item + 1), tl.load(item + 2), tl.load(item + 3), share


@triton.jit
def rows_to_store(tokens, share, BLOCK: tl.constexpr):
    """Where results go: to their tokens, or to the rows of this program's share."""
    return tl.where(share < 0, tokens, share * BLOCK + tl.arange(0, BLOCK))


@triton.jit
def picture_rows(pictures_ptr, entry_ptr, BLOCK_Q: tl.constexpr):
    """The picture of an entry: a 64-bit word for each query, whose bit x stands for key x."""
    picture = tl.load(entry_ptr + 1).to(tl.int64)
    return tl.load(pictures_ptr + picture * BLOCK_Q + tl.arange(0, BLOCK_Q))
