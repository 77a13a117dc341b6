"""Plans of layouts: grids that say which blocks of keys each block of queries attends to."""

import functools
import math

import numpy as np

from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.plan import Plan
from attncourse.kernels._parts.tiles import padded, tiling


def tile_sizes(block: int, width: int, dtype_bytes: int) -> tuple[int, int]:
    """Return BLOCK_Q and BLOCK_K for blocks of any size.

    The sides of a tile are powers of two, and at least 16. So that no tile is cut, they divide the
    block where they can: 128 and 64 have tiles of 64, 96 has tiles of 32. Where they cannot, or
    where tiles would be too small for tensor cores to pay, several blocks share a tile, which is
    cut if not all of them are listed.

    Args:
        block: Tokens in a block.
        width: The larger of D and Dv.
        dtype_bytes: Bytes of one number of q, k and v.
    """
    side = block & -block  # the largest power of two that divides it
    if side < 32:
        side = max(32, padded(block))
    BLOCK_Q, BLOCK_K, _ = tiling(width, dtype_bytes)
    return min(side, BLOCK_Q), min(side, BLOCK_K)


def layout_plan(
    n_queries: int,
    n_keys: int,
    layout: np.ndarray,
    block: int,
    causal: bool,
    BLOCK_Q: int,
    BLOCK_K: int,
) -> Plan:
    """Return the plan of a layout; the last few are kept."""
    bits = np.packbits(layout).tobytes()
    return _kept_plan(n_queries, n_keys, bits, layout.shape, int(block), causal, BLOCK_Q, BLOCK_K)


@functools.lru_cache(maxsize=16)
def _kept_plan(n_queries, n_keys, bits, shape, block, causal, BLOCK_Q, BLOCK_K) -> Plan:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=math.prod(shape))
    layout = flat.astype(bool).reshape(shape)
    return of_layout(n_queries, n_keys, layout, block, causal, BLOCK_Q, BLOCK_K)


def of_layout(
    n_queries, n_keys, layout, block, causal, BLOCK_Q, BLOCK_K, partial=None, visible=None
) -> Plan:
    """Make the plan of a layout; arguments as in `block_sparse.attention`."""
    ahead = n_keys - n_queries
    top = ahead // block  # the number of the first row of the layout
    # tiles are counted in key positions, as blocks are: their edges fall together
    base = ahead // BLOCK_Q * BLOCK_Q
    places = np.arange(base, n_keys if n_queries else base) - ahead
    places[places < 0] = n_queries
    q_order = planning.whole_tiles(places, BLOCK_Q, n_queries)
    k_order = planning.whole_tiles(np.arange(n_keys), BLOCK_K, n_keys)
    starts = base + BLOCK_Q * np.arange(len(q_order) // BLOCK_Q)
    edges = (
        np.maximum(starts, ahead) // block - top,
        (np.minimum(starts + BLOCK_Q, n_keys) - 1) // block - top + 1,
        np.arange(0, n_keys, BLOCK_K) // block,
        (np.minimum(np.arange(0, n_keys, BLOCK_K) + BLOCK_K, n_keys) - 1) // block + 1,
    )
    listed, area = _counts(layout, *edges), _counts(np.ones_like(layout), *edges)
    row, column = np.nonzero(listed)
    if causal:
        past = column * BLOCK_K < starts[row] + BLOCK_Q
        row, column = row[past], column[past]
    sure = (listed == area)[row, column] & ((column + 1) * BLOCK_K <= n_keys)
    if causal:
        sure &= (column + 1) * BLOCK_K - 1 <= np.maximum(starts, ahead)[row]
    if visible:
        asked = layout if partial is None else partial
        sure &= _counts(asked, *edges)[row, column] == 0

    def seen(i, j):
        row_block, column_block = (i + ahead) // block - top, j // block
        shown = layout[row_block, column_block]
        if visible:
            exempt = partial is not None and ~partial[row_block, column_block]
            shown = shown & (visible(i, j) | exempt)
        return shown & (j <= i + ahead) if causal else shown

    sizes, orders, blocks = (n_queries, n_keys), (q_order, k_order), (BLOCK_Q, BLOCK_K)
    return planning.build(sizes, orders, blocks, (row, column), seen, sure=sure)


def _counts(grid: np.ndarray, top, bottom, left, right) -> np.ndarray:
    """Return how many are True in rows top ... bottom - 1 and columns left ... right - 1."""
    total = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(grid, axis=0, dtype=np.int32), axis=1, out=total[1:, 1:])
    high, low = total[bottom], total[top]
    return high[:, right] - high[:, left] - low[:, right] + low[:, left]
