"""Multi-head latent attention: one small vector a token is kept, and serves all heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes, stream
from attncourse.reference import grouped
from attncourse.reference._parts import pieces
from attncourse.softmax import nan_to_keys


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    key_up: np.ndarray,
    value_up: np.ndarray,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax attention to keys and values that are made of latents and never built.

    Of each token a latent c of R numbers is kept, and a short key r that its position has turned,
    the same for all heads. Head h has

        key   [c key_up[h] | r]        value   c value_up[h]

    k is [c | r], (..., G, Tk, R + Dr), and v is c, (..., G, Tk, R): in a cache a view of k.

    Since q (c key_up)ᵀ = (q key_upᵀ) cᵀ, each query goes down to the latents, instead of all of
    them up to keys; and the mean of the latents goes up, instead of each. What is left is grouped
    attention with G = 1 and heads as wide as a latent. A key that is turned could not go this way,
    as the turn would stand between q and key_up: hence r beside c.

    Standard arguments, result and errors as in `attncourse.reference`, heads as in `grouped`.

    Args:
        q: (..., H, Tq, Dc + Dr): what meets the latent's key, then what meets r.
        key_up: (..., R, Dc), learned, of q's dtype; leading axes, if any, broadcast to q's.
        value_up: (..., R, Dv), as key_up.
        scale: 1/√(Dc + Dr) if None.

    Raises:
        TypeError: Matrices that hold no floating numbers.
        ValueError: Matrices whose sizes or dtype do not fit.

    Memory:
        The scores of one block, (..., G, 128, Tk), and its queries as wide as what is kept. No key
        and no value.

    Paper:
        DeepSeek-AI 2024, arXiv:2405.04434, section 2.1 and appendix C.
    """
    where = "latent.attention"
    _check(where, q, k, v, key_up, value_up)
    causal = check_flag(where, "causal", causal)
    factor = check_scale(where, scale, q.shape[-1])
    work = np.result_type(q.dtype, np.float32)
    down, up = key_up.astype(work, copy=False).swapaxes(-1, -2), value_up.astype(work, copy=False)
    k, v = nan_to_keys(k, v)
    shared = q.shape[-3] // max(1, k.shape[-3]) if q.ndim > 2 else 1
    out = np.zeros((*q.shape[:-1], value_up.shape[-1]), q.dtype)  # (..., H, Tq, Dv)
    for rows, stop in pieces.blocks(q.shape[-2], k.shape[-2], shared, causal):
        lowered = _lower(q[..., rows, :], down)  # (..., H, block, R + Dr)
        kept, latents = (pieces.of_array(array[..., :stop, :]) for array in (k, v))
        seen = (*k.shape[:-2], stop)
        mixed = pieces.attend(lowered, kept, latents, seen, v.shape[-1], causal, factor)
        out[..., rows, :] = np.matmul(mixed, up)
        del lowered, mixed  # before the next block makes its own
    return out


def unfolded(
    k: np.ndarray, v: np.ndarray, *, key_up: np.ndarray, value_up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and values that `attention` does not build.

    Full attention to them is the definition. They are as large as those of an ordinary cache.

    Args:
        k: (..., 1, Tk, R + Dr), or (Tk, R + Dr) for one head: latents and turned keys.
        v: (..., 1, Tk, R), the latents.
        key_up: (H, R, Dc), or as in `attention`.
        value_up: (H, R, Dv).

    Returns:
        Keys (..., H, Tk, Dc + Dr) and values (..., H, Tk, Dv).
    """
    content = np.matmul(k[..., : key_up.shape[-2]], key_up)  # (..., H, Tk, Dc)
    turned = k[..., key_up.shape[-2] :]
    turned = np.broadcast_to(turned, (*content.shape[:-1], turned.shape[-1]))
    return np.concatenate([content, turned], axis=-1), np.matmul(v, value_up)


def random_matrices(
    heads: int, rank: int, width: int, value_width: int, *, seed: int = 0, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Draw key_up (H, R, Dc) and value_up (H, R, Dv), scaled so that sizes stay what they are.

    Args:
        heads: H.
        rank: R, the width of a latent.
        width: Dc.
        value_width: Dv.
        seed: The same seed gives the same numbers, in any dtype.
        dtype: A NumPy floating dtype.
    """
    where = "latent.random_matrices"
    heads, rank = check_count(where, "heads", heads), check_count(where, "rank", rank, least=1)
    widths = {"width": width, "value_width": value_width}
    sizes = [check_count(where, name, value) for name, value in widths.items()]
    generator = stream("latent", seed)
    drawn = (generator.standard_normal((heads, rank, n)) for n in sizes)
    key_up, value_up = ((array / rank**0.5).astype(dtype) for array in drawn)
    return key_up, value_up


@int_sizes
def mask(n_queries: int, n_keys: int, *, causal: bool = False) -> np.ndarray:
    """Return the mask, as described in `attncourse.reference`: all keys, or all that came."""
    if check_flag("latent.mask", "causal", causal):
        return masks.causal(n_queries, n_keys)
    return np.ones((n_queries, n_keys), dtype=bool)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    rank: int | None = None,
    rotary: int = 0,
    groups: int | None = None,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    What is kept is read once for the scores and its latents once for the mean, for each block of
    rows, and so are the matrices of each head.

    Args:
        rank: R, the width of a latent; D - rotary if None.
        rotary: Dr of the D numbers of a query, those that meet the turned key.
        groups: G; in a model 1.
    """
    where = "latent.cost"
    G = grouped.check_groups(where, H, groups)
    rotary = check_count(where, "rotary", rotary)
    if rotary > D:
        raise ValueError(f"{where}: rotary must be at most the width D = {D}, got {rotary}")
    R = D - rotary if rank is None else check_count(where, "rank", rank)
    causal = check_flag(where, "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    content, kept = D - rotary, R + rotary
    matrices = H * R * (content + D)
    flops = read = largest = 0
    for rows, stop in pieces.blocks(Tq, Tk, H // G, causal):
        n_rows = H // G * (rows.stop - rows.start)
        converted = min(pieces.PIECE, stop) * kept if work_bytes != dtype_bytes else 0
        flops += n_rows * (content * R + stop * (kept + R) + R * D)
        read += B * G * (n_rows * D + stop * (kept + R)) + matrices
        # the queries, lowered and scaled; the mean, its sum and the last product of it
        largest = max(largest, n_rows * (stop + 2 * kept + 3 * R) + converted)
    out = B * H * Tq * D * dtype_bytes
    widened = matrices if work_bytes != dtype_bytes else 0
    return Cost(
        flops=2 * B * G * flops,
        bytes_read=read * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + (B * G * largest + widened) * work_bytes,
    )


def size_bytes(
    tokens: int, rank: int, rotary: int, *, layers: int = 1, batch: int = 1, dtype_bytes: int = 2
) -> int:
    """Return the bytes that are kept of so many tokens in a whole model, however many its heads.

    Args:
        tokens: Tokens of each sequence.
        rank: R, numbers in a latent.
        rotary: Dr, numbers in a turned key.
        layers: Layers of the model.
        batch: Sequences.
        dtype_bytes: Bytes of one number that is kept.
    """
    where, numbers = "latent.size_bytes", {"rank": rank, "rotary": rotary}
    of_token = sum(check_count(where, name, value) for name, value in numbers.items())
    times = {"tokens": tokens, "layers": layers, "batch": batch, "dtype_bytes": dtype_bytes}
    return of_token * math.prod(check_count(where, name, value) for name, value in times.items())


def _lower(q: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return queries (..., H, block, Dc + Dr) as they meet what is kept, (..., R + Dr)."""
    content, rank = down.shape[-2:]
    lowered = np.empty((*q.shape[:-1], rank + q.shape[-1] - content), down.dtype)
    np.matmul(q[..., :content].astype(down.dtype, copy=False), down, out=lowered[..., :rank])
    lowered[..., rank:] = q[..., content:]
    return lowered


def _check(where: str, q, k, v, key_up, value_up) -> None:
    matrices = {"key_up": key_up, "value_up": value_up}
    for name, matrix in matrices.items():
        got = getattr(matrix, "dtype", type(matrix).__name__)
        if not str(got).startswith("float"):
            raise TypeError(f"{where}: {name} must be an array of floating numbers, got {got}")
        if matrix.ndim < 2:
            raise ValueError(f"{where}: {name} must have at least 2 axes, got {matrix.shape}")
    _check_widths(where, q, k, v, *key_up.shape[-2:], value_up.shape[-2])
    for name, matrix in matrices.items():
        leading = matrix.shape[-3::-1]
        fits = all(a in (1, b) for a, b in zip(leading, q.shape[-3::-1], strict=False))
        if not fits or len(leading) > q.ndim - 2 or matrix.dtype != q.dtype:
            raise ValueError(
                f"{where}: {name} must be {q.dtype} with leading axes that broadcast to "
                f"{q.shape[:-2]}, got {matrix.dtype} {matrix.shape}"
            )


def _check_widths(where: str, q, k, v, rank: int, content: int, value_rank: int) -> None:
    arrays = all(getattr(array, "ndim", 0) for array in (q, k))
    if rank == content or not arrays:  # q and k are equally wide, or refused
        grouped.check_grouped(where, q, k, v)
    else:
        wide = np.shape(q)[-1] - content + rank
        if wide < rank or np.shape(k)[-1] != wide:
            raise ValueError(
                f"{where}: q must be {content} numbers wide and k {rank}, as key_up says, and as "
                f"many more both, got {np.shape(q)[-1]} and {np.shape(k)[-1]}"
            )
        grouped.check_grouped(where, np.broadcast_to(q[..., :1], (*q.shape[:-1], wide)), k, v)
    for name, got in (("v", v.shape[-1]), ("value_up", value_rank)):
        if got != rank:
            raise ValueError(
                f"{where}: {name} must have {rank} numbers of a latent, as key_up has, got {got}"
            )
