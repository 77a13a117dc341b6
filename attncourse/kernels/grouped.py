"""Grouped-query attention in Triton: the flash kernels, where several heads read the same keys."""

import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels import flash
from attncourse.kernels._parts.grids import in_grids
from attncourse.kernels._parts.tiles import check_tensors

TILE = {"block_q": 128, "block_k": 64}  # cut to what fits on chip: see `flash.tile_sizes`


@in_grids()
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v, where query head h reads key/value head h // (H / G).

    A program of the flash kernel finds the key/value head of its queries by that division: k and v
    are never repeated. In the backward pass a program owns some keys and walks over the H / G heads
    that read them, so that their gradients add up in registers, and dk and dv are written once.

    For a few queries against many keys see `kv_cache`, whose kernel puts the queries of all these
    heads into one tile.

    Contract: `attncourse.kernels`; knobs: `reference.grouped.attention`.
    Gradients: as `flash`.
    Memory: the output and (B, H, Tq) float32.
    """
    where = "grouped.attention"
    check_grouped(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    scale = check_scale(where, scale, q.shape[-1])
    return flash.attend(q, k, v, **TILE, causal=causal, scale=scale)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernel of `attention` does: see `attncourse.kernels`.

    A program serves one query head, so k and v count once for each of them and each tile of its
    queries, however many heads share them: `groups` changes nothing that is counted here. A GPU
    keeps tiles that neighbours read in its L2 cache; no help from a cache is counted.
    """
    _ = check_groups("grouped.cost", H, groups)  # each query head reads its keys by itself
    causal = check_flag("grouped.cost", "causal", causal)
    return flash.cost(B, H, Tq, Tk, D, **TILE, causal=causal, dtype_bytes=dtype_bytes)


def check_groups(where: str, heads: int, groups: int | None) -> int:
    """Return G, or say why so many key/value heads cannot serve this many query heads."""
    groups = heads if groups is None else check_count(where, "groups", groups, least=1)
    if groups and heads % groups:
        raise ValueError(f"{where}: groups must divide the {heads} query heads, got {groups}")
    return groups


def check_grouped(where: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse what `check_tensors` refuses, but let q have a multiple of the heads of k and v."""
    if all(getattr(tensor, "ndim", 0) == 4 for tensor in (q, k, v)) and len(q) == len(k):
        heads, groups = q.shape[1], k.shape[1]
        if heads != groups and (groups == 0 or heads % groups):
            raise ValueError(
                f"{where}: q must have a multiple of the heads of k and v, got {heads} and {groups}"
            )
        q = q[:, :groups]
    check_tensors(where, q, k, v)
