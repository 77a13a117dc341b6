"""BigBird: a window, a few random blocks and a few global blocks, all in whole blocks of tokens.

Whole blocks are what makes the pattern fast: a random key costs a gather of one row, a random block
is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attncourse.cost import Cost
from attncourse.definitions import patterns
from attncourse.inputs import check_qkv, check_scale, int_sizes
from attncourse.reference import block_sparse
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the blocks of keys that `layout` lists.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        block: Tokens in a block.
        window_blocks: Radius in blocks: 2·window_blocks + 1 of them, window_blocks + 1 if causal.
        random_blocks: Blocks drawn for each block of queries among those it would not see; all, if
            there are fewer.
        global_blocks: The first so many blocks, or a row of block numbers; all, if there are fewer.
        seed: The same seed and sizes give the same blocks; all heads share them.
        causal: Random blocks are drawn from the past.

    Raises:
        ValueError: block < 1, another knob < 0, or a global block that does not exist.

    Memory:
        One row of blocks: its scores, (..., block, block · (2·window_blocks + 1 + random_blocks +
        global_blocks)), and a copy of its keys or values; a global block needs scores (..., block,
        Tk).

    Paper:
        Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D (the blocks).
    """
    check_qkv("bigbird.attention", q, k, v)
    scale = check_scale("bigbird.attention", scale, q.shape[-1])
    k, v = nan_to_keys(k, v)
    knobs = (block, window_blocks, random_blocks, global_blocks, seed, causal)
    chosen = patterns.bigbird("bigbird.attention", q.shape[-2], k.shape[-2], *knobs)
    return block_sparse.attention(q, k, v, layout=chosen, block=block, causal=causal, scale=scale)


def layout(
    n_queries: int,
    n_keys: int,
    *,
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
) -> np.ndarray:
    """Return which blocks see which: window, global and random ones.

    Random blocks are drawn without replacement among those that are neither in the window nor
    global, so that none is counted twice. Each row has a random stream of its own: the blocks of a
    causal row do not change when the sequence grows.

    The widely used implementation in transformers has blocks of 64, a window of 3 (the radius is
    1), 3 random blocks and 2 global ones: the first and the last (here: global_blocks=(0, last)).
    It draws a plan for each head, and in training only. Outside training its random blocks are the
    first block, once more for each: its keys count 1 + random_blocks times.

    Arguments as in `attention`; causal leaves out the blocks that lie in the future.

    Returns:
        bool (query blocks, key blocks), as `layouts.grid` numbers them.
    """
    knobs = (block, window_blocks, random_blocks, global_blocks, seed, causal)
    return patterns.bigbird("bigbird.layout", n_queries, n_keys, *knobs)


@int_sizes
def mask(
    n_queries: int,
    n_keys: int,
    *,
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
) -> np.ndarray:
    """Return the mask (Tq, Tk) of BigBird attention; arguments as in `attncourse.reference`."""
    knobs = (block, window_blocks, random_blocks, global_blocks, seed, causal)
    chosen = patterns.bigbird("bigbird.mask", n_queries, n_keys, *knobs)
    return block_sparse.mask(n_queries, n_keys, layout=chosen, block=block, causal=causal)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    block: int,
    window_blocks: int = 1,
    random_blocks: int = 3,
    global_blocks: int | Sequence[int] | np.ndarray = 2,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The seed moves the ends of ragged sequences at most.
    """
    knobs = (block, window_blocks, random_blocks, global_blocks, seed, causal)
    chosen = patterns.bigbird("bigbird.cost", Tq, Tk, *knobs)
    sizes = {"block": block, "causal": causal, "dtype_bytes": dtype_bytes}
    return block_sparse.layout_cost(B, H, Tq, Tk, D, layout=chosen, **sizes)
