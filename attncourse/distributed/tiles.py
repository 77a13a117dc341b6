"""Attention of some queries to some keys, tile by tile in torch, wherever either sit.

Each process holds its queries and works through blocks of keys that come from elsewhere. What a
block adds is joined by the log-sum-exp. Tiles that a causal mask hides wholly are skipped.

Inside, queries are (B, Hkv, G, Tq, D): G query heads share one head of keys, (B, Hkv, Tk, D).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 256  # queries and keys of a tile


def tiles(held: Sequence[range], block: int = BLOCK) -> Iterator[tuple[slice, range]]:
    """Cut runs into tiles of at most `block` positions: where they lie here, and in the whole."""
    offset = 0
    for run in held:
        for start in range(run.start, run.stop, block):
            tile = range(start, min(start + block, run.stop))
            here = offset + start - run.start
            yield slice(here, here + len(tile)), tile
        offset += len(run)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float32 for the shorter ones."""
    return torch.promote_types(dtype, torch.float32)


def start(q: Tensor, value_width: int) -> tuple[Tensor, Tensor]:
    """Return out (..., Tq, Dv) of zeros and lse (..., Tq) of −inf: no key seen yet."""
    work = work_dtype(q.dtype)
    out = q.new_zeros((*q.shape[:-1], value_width), dtype=work)
    return out, q.new_full(q.shape[:-1], -torch.inf, dtype=work)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    queries: Sequence[range],
    keys: Sequence[range],
    causal: bool,
    factor: float,
) -> None:
    """Join to out and lse, in place, what the queries find in one block of keys.

    Args:
        q: (B, Hkv, G, Tq, D).
        k: (B, Hkv, Tk, D).
        v: (B, Hkv, Tk, Dv).
        out: (B, Hkv, G, Tq, Dv), as `start` or the block before left it.
        lse: (B, Hkv, G, Tq), likewise.
        queries: Runs of the keys' positions at which the queries sit.
        keys: Runs of the positions of these keys.
        causal: Whether a query sees only keys up to its own position.
        factor: Of the scores.
    """
    for rows, at in tiles(queries):
        q_tile = _rows(q, rows, out.dtype) * factor
        for cols, of in tiles(keys):
            if causal and of.start > at[-1]:
                continue
            k_tile, v_tile = (x[..., cols, :].to(out.dtype) for x in (k, v))
            found = _tile(q_tile, k_tile, v_tile, q.shape[2], at, of, causal)
            merge(out[..., rows, :], lse[..., rows], *found)


def _tile(q_tile, k_tile, v_tile, group, at, of, causal):
    """Return out (B, Hkv, G·rows, Dv) and lse (B, Hkv, G·rows, 1) of a tile."""
    scores = _scores(q_tile, k_tile, group, at, of, causal)
    top = finite(scores.amax(-1, keepdim=True))  # (B, Hkv, G·rows, 1)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    part = weights @ v_tile
    part.div_(total.clamp(min=1))  # at least 1 where a key is seen, else 0
    return part, total.log_().add_(top)


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Join a part, computed on other keys, to out and lse in place.

        lse' = log(e^lse + e^part_lse)      out' = out · e^(lse − lse') + part · e^(part_lse − lse')

    The two shares are divided by their sum, so that it is 1 for huge scores, too: an lse of 10⁸ in
    float32 has no digits left for log 2, and both shares would be 1.

    Args:
        out: (..., rows, Dv).
        lse: (..., rows); −inf where no key was seen.
        part: As many numbers as out.
        part_lse: As many as lse.
    """
    part, part_lse = part.view(out.shape), part_lse.view(lse.shape)
    pivot = finite(torch.maximum(lse, part_lse))
    share, part_share = (lse - pivot).exp_(), (part_lse - pivot).exp_()
    total = (share + part_share).clamp_(min=1)  # at least 1 where a key is seen, else 0
    out *= share.div_(total)[..., None]
    out += part.mul_(part_share.div_(total)[..., None])
    lse.copy_(torch.logaddexp(lse, part_lse))


def gradients(
    grad: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    dq: Tensor,
    *,
    queries: Sequence[range],
    keys: Sequence[range],
    causal: bool,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Return dk and dv of one block of keys, and add to dq, in place, what it gives.

    Each tile of weights is made again: exp(score − lse).

    Args:
        grad: Of the output, (B, Hkv, G, Tq, Dv).
        delta: Its product with the output, summed over Dv: (B, Hkv, G, Tq).
        q: (B, Hkv, G, Tq, D).
        k: (B, Hkv, Tk, D).
        v: (B, Hkv, Tk, Dv).
        lse: (B, Hkv, G, Tq) after all keys.
        dq: (B, Hkv, G, Tq, D).
        queries: As in `attend`.
        keys: As in `attend`.
        causal: As in `attend`.
        factor: As in `attend`.

    Returns:
        dk (B, Hkv, Tk, D) and dv (B, Hkv, Tk, Dv).
    """
    work = dq.dtype
    dk, dv = torch.zeros_like(k, dtype=work), torch.zeros_like(v, dtype=work)
    for rows, at in tiles(queries):
        q_tile = _rows(q, rows, work) * factor
        grad_tile = _rows(grad, rows, work)
        pivot = finite(_rows(lse[..., None], rows, work))
        delta_tile = _rows(delta[..., None], rows, work)
        dq_tile = torch.zeros_like(q_tile)
        for cols, of in tiles(keys):
            if causal and of.start > at[-1]:
                continue
            k_tile, v_tile = (x[..., cols, :].to(work) for x in (k, v))
            weights = _scores(q_tile, k_tile, q.shape[2], at, of, causal).sub_(pivot).exp_()
            dv[..., cols, :] += weights.mT @ grad_tile
            dscores = (grad_tile @ v_tile.mT).sub_(delta_tile).mul_(weights)
            del weights  # before the next tile is made
            dq_tile += dscores @ k_tile
            dk[..., cols, :] += dscores.mT @ q_tile
            del dscores
        dq[..., rows, :] += dq_tile.mul_(factor).view(dq[..., rows, :].shape)
    return dk, dv


def finite(lse: Tensor) -> Tensor:
    """Return lse with 0 for −inf, so that a row without keys gives no NaN."""
    return lse.masked_fill(lse == -torch.inf, 0.0)


def _rows(x: Tensor, rows: slice, dtype: torch.dtype) -> Tensor:
    """Return a tile of (B, Hkv, G, T, D) with the G heads below one another, in `dtype`."""
    return x[..., rows, :].flatten(2, 3).to(dtype)


def _scores(
    q_tile: Tensor, k_tile: Tensor, group: int, at: range, of: range, causal: bool
) -> Tensor:
    """Return the scores (B, Hkv, G·rows, cols) of a tile, −inf where the mask hides a key."""
    scores = q_tile @ k_tile.mT
    if causal and of[-1] > at.start:
        key = torch.arange(of.start, of.stop, device=scores.device)
        query = torch.arange(at.start, at.stop, device=scores.device)
        each_head = scores.view(*scores.shape[:2], group, len(at), len(of))
        each_head.masked_fill_(key > query[:, None], -torch.inf)
    return scores
