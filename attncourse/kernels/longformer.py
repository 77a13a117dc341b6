"""Longformer in Triton: the block-sparse kernels, after putting tokens in an order that suits them.

Tokens of one residue class stand together, so that a dilated window is a band of tiles. Global
tokens stand at the end: for all others they are a tile or two more, and their own rows list
everything. Such long lists are shared out among several programs.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_positions, int_sizes
from attncourse.kernels import block_sparse
from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.plan import Plan, plan_cost
from attncourse.kernels._parts.tiles import check_tensors, tiling


@in_grids(q_global=(-4, -3), k_global=(-4, -3), v_global=(-4, -3))
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: int,
    dilation: int = 1,
    global_tokens: int | Sequence[int] | np.ndarray = 0,
    q_global: torch.Tensor | None = None,
    k_global: torch.Tensor | None = None,
    v_global: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over each query's window and the global tokens.

    A tile of queries visits the key tiles of its window, those inside without a mask, and the
    global keys, which are gathered into tiles of their own. Global queries with projections of
    their own are a second pass over a few rows.

    Contract: `attncourse.kernels`; knobs: `reference.longformer.attention`.
    Gradients: as `block_sparse`.
    Memory: the output, (B, H, Tq) float32, the lists, and (B, H, 64, Dv) float32 for each share of
        the global rows. With projections of their own the output twice.
    """
    where = "longformer.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    n_queries, n_keys = q.shape[2], k.shape[2]
    knobs = *_check_knobs(where, n_queries, n_keys, window, dilation, global_tokens), causal
    own = {"q": (q, q_global), "k": (k, k_global), "v": (v, v_global)}
    every = [_own_or_plain(name, *tensors) for name, tensors in own.items()]
    blocks = tiling(max(q.shape[3], v.shape[3]), q.element_size())[:2]
    run = functools.partial(block_sparse.run, where)
    if all(tensor is None for tensor in (q_global, k_global, v_global)):
        return run(q, k, v, (_plan(n_queries, n_keys, *knobs, *blocks),), scale)
    out = run(q, k, v, (_plan(n_queries, n_keys, *knobs, *blocks, with_global_rows=False),), scale)
    chosen = torch.tensor(knobs[2], dtype=torch.int64, device=q.device)
    rows = chosen[chosen >= n_keys - n_queries] - (n_keys - n_queries)
    plan = _global_plan(n_queries, n_keys, knobs[2], causal, *blocks)
    few = run(every[0].index_select(2, rows), *every[1:], (plan,), scale)
    return out.index_copy(2, rows, few)


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    window: int,
    dilation: int = 1,
    global_tokens: int | Sequence[int] | np.ndarray = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels do without projections of global tokens: see `plan_cost`."""
    knobs = _check_knobs("longformer.cost", Tq, Tk, window, dilation, global_tokens)
    causal = check_flag("longformer.cost", "causal", causal)
    blocks = tiling(D, dtype_bytes)[:2]
    return plan_cost((_plan(Tq, Tk, *knobs, causal, *blocks),), B, H, D, dtype_bytes)


@functools.lru_cache(maxsize=16)
def _plan(
    n_queries: int,
    n_keys: int,
    window: int,
    dilation: int,
    chosen: tuple[int, ...],
    causal: bool,
    BLOCK_Q: int,
    BLOCK_K: int,
    with_global_rows: bool = True,
) -> Plan:
    """Return the plan of these knobs; the last few are kept."""
    positions, keys = np.arange(n_queries) + n_keys - n_queries, np.arange(n_keys)
    global_query, global_key = np.isin(positions, chosen), np.isin(keys, chosen)
    near = np.flatnonzero(~global_query)
    near = planning.by_class(near, positions[near], dilation)
    near_keys = planning.by_class(keys[~global_key], keys[~global_key], dilation)
    q_parts = [
        planning.whole_tiles(part, BLOCK_Q, n_queries)
        for part in (near, np.flatnonzero(global_query & with_global_rows))
    ]
    k_parts = [
        planning.whole_tiles(part, BLOCK_K, n_keys) for part in (near_keys, keys[global_key])
    ]
    first_global_row, first_global_column = len(q_parts[0]) // BLOCK_Q, len(k_parts[0]) // BLOCK_K
    orders = np.concatenate(q_parts), np.concatenate(k_parts)
    n_rows, n_columns = len(orders[0]) // BLOCK_Q, len(orders[1]) // BLOCK_K
    span = window * dilation
    reached = planning.reach(positions[near], near_keys, dilation, span, 0 if causal else span)
    candidates = planning.union(
        planning.candidates(*reached, BLOCK_Q, BLOCK_K),
        planning.rectangle(range(n_rows), range(first_global_column, n_columns)),
        planning.rectangle(range(first_global_row, n_rows), range(n_columns)),
    )

    def visible(i, j):
        ahead = j - positions[i]
        shown = (np.abs(ahead) <= span) & (ahead % dilation == 0)
        shown = shown | global_query[i] | global_key[j]
        return shown & (ahead <= 0) if causal else shown

    return planning.build((n_queries, n_keys), orders, (BLOCK_Q, BLOCK_K), candidates, visible)


@functools.lru_cache(maxsize=16)
def _global_plan(n_queries, n_keys, chosen, causal, BLOCK_Q, BLOCK_K) -> Plan:
    """Return the plan of the global queries alone, which see all keys."""
    positions = np.array([token for token in chosen if token >= n_keys - n_queries], dtype=int)
    orders = (
        planning.whole_tiles(np.arange(len(positions)), BLOCK_Q, len(positions)),
        planning.whole_tiles(np.arange(n_keys), BLOCK_K, n_keys),
    )
    everything = planning.rectangle(
        range(len(orders[0]) // BLOCK_Q), range(len(orders[1]) // BLOCK_K)
    )

    def visible(i, j):
        return j <= positions[i] if causal else np.ones((1, 1, 1), dtype=bool)

    sizes = len(positions), n_keys
    return planning.build(sizes, orders, (BLOCK_Q, BLOCK_K), everything, visible)


def _own_or_plain(name: str, plain: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    if own is None:
        return plain
    if not isinstance(own, torch.Tensor):
        came = type(own).__name__
    elif (own.shape, own.dtype, own.device) != (plain.shape, plain.dtype, plain.device):
        came = f"{own.dtype} {tuple(own.shape)} on {own.device}"
    else:
        return own
    raise ValueError(
        f"longformer.attention: {name}_global must be shaped as {name}, {plain.dtype} "
        f"{tuple(plain.shape)} on {plain.device}, got {came}"
    )


def _check_knobs(
    where, n_queries, n_keys, window, dilation, global_tokens
) -> tuple[int, int, tuple[int, ...]]:
    # a window or a step beyond both ends changes nothing
    most = max(1, n_queries + n_keys)
    window = min(check_count(where, "window", window), most)
    dilation = min(check_count(where, "dilation", dilation, least=1), most)
    chosen = check_positions(where, "global_tokens", global_tokens, n_keys)
    return window, dilation, tuple(chosen.tolist())
