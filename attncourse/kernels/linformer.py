"""Linformer in Triton: two products mix keys and values down, then the flash kernel runs on these.

Mixing is a plain product of given matrices: nothing in it can be skipped, and nothing fused with
what follows, since each query needs all mixed keys. That is what torch's matrix product is best at;
and it has gradients, which projections need to be learned.
"""

import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels import flash
from attncourse.kernels._parts.tiles import (
    check_beside,
    check_tensors,
    shrunk_product,
)

TILES = {"block_q": 128, "block_k": 64}  # the largest; `flash.tile_sizes` cuts them to what fits


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    key_projection: torch.Tensor,
    value_projection: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q (E k)ᵀ · scale) F v, E and F being the projections.

    E k and F v have `rank` rows. A query has that many scores, whatever Tk is, and a tile of them
    lives on chip at a time.

    Contract: `attncourse.kernels`; knobs: `reference.linformer.attention`.
    In float16 sums of keys may be about √Tk times as large as the dtype holds, for E k is stored
    divided by that; F v must fit, as the output must.
    Gradients: as `flash`, also with respect to the projections.
    Memory: E k and F v (B, H, rank, D + Dv) in the dtype of q, the output, and (B, H, Tq) float32.
    """
    where = "linformer.attention"
    check_tensors(where, q, k, v)
    if check_flag(where, "causal", causal):
        raise ValueError(f"{where}: cannot be causal: each mixed key holds the future")
    scale = check_scale(where, scale, q.shape[-1])
    check_beside(where, q, key_projection=key_projection, value_projection=value_projection)
    _check_shapes(where, key_projection, value_projection, k)
    # only scores need the factor: mixed values must fit in their dtype, as the output does
    mixed_k, factor = shrunk_product(_each_head(key_projection, k), k)
    mixed_v = torch.matmul(_each_head(value_projection, v), v)
    return flash.attention(q, mixed_k, mixed_v, **TILES, scale=scale * factor)


def _each_head(projection: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the projection for each head of x; one that heads share is not repeated."""
    return projection.expand(*x.shape[:2], *projection.shape[-2:])


def _check_shapes(where, key_projection, value_projection, k) -> None:
    n_keys = k.shape[-2]
    for name, tensor in (
        ("key_projection", key_projection),
        ("value_projection", value_projection),
    ):
        leading = tensor.shape[:-2]
        fits = tensor.ndim in (2, 3, 4) and tensor.shape[-1] == n_keys >= tensor.shape[-2]
        aligned = zip(reversed(leading), reversed(k.shape[:-2]), strict=False)
        if not fits or any(a not in (1, b) for a, b in aligned):
            raise ValueError(
                f"{where}: {name} must have shape (rank, {n_keys}) with rank at most {n_keys}, "
                f"leading axes broadcasting to {tuple(k.shape[:-2])}, got {tuple(tensor.shape)}"
            )
    if key_projection.shape[-2] != value_projection.shape[-2]:
        raise ValueError(
            f"{where}: key_projection and value_projection must have the same rank, "
            f"got {key_projection.shape[-2]} and {value_projection.shape[-2]}"
        )


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    rank: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count `torch_cost`, and `flash.cost` over `rank` keys: see `attncourse.kernels`.

    All heads share their projections. A rank above Tk counts as Tk, as in the reference's
    `mean_pool`.
    """
    rank = check_count("linformer.cost", "rank", rank, least=1)
    mixing = torch_cost(B, H, Tq, Tk, D, rank=rank, causal=causal, dtype_bytes=dtype_bytes)
    attending = flash.cost(B, H, Tq, min(rank, Tk), D, **TILES, dtype_bytes=dtype_bytes)
    return Cost(
        flops=mixing.flops + attending.flops,
        bytes_read=mixing.bytes_read + attending.bytes_read,
        bytes_written=mixing.bytes_written + attending.bytes_written,
        peak_bytes=mixing.peak_bytes + attending.peak_bytes,
    )


@int_sizes
def torch_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    rank: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count the part of `cost` that is torch's: mixing. Each array is read or written once."""
    rank = min(check_count("linformer.cost", "rank", rank, least=1), Tk)
    if check_flag("linformer.cost", "causal", causal):
        raise ValueError("linformer.cost: cannot be causal: each mixed key holds the future")
    mixed = 2 * B * H * rank * D * dtype_bytes
    return Cost(
        flops=4 * B * H * rank * Tk * D,
        bytes_read=2 * (rank * Tk + B * H * Tk * D) * dtype_bytes,
        bytes_written=mixed,
        peak_bytes=mixed,
    )
