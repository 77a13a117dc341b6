"""The mechanisms in torch, where gradients are needed: to tune the model or to train another.

    attend = twins.twin(Attention.of("window", window=64))
    attend(q, k, v)  # (B, H, T, D) to (B, H, T, D), causal, the numbers of the reference

The references are the definitions; a test holds each of these to its own. None saves memory: a
whole (T, T) matrix is fine at the few hundred tokens that are tuned on. What is chosen by content
(top-k, blocks, buckets) is chosen without a gradient; what is chosen gets one. Rounded keys and
values pass their gradient on as if they had not been rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from attncourse.catalogue import MECHANISMS
from attncourse.definitions.directions import draw_directions
from attncourse.model.attention import Attention
from attncourse.model.network import Attend, causal
from attncourse.reference import block_topk, lsh, quantised_cache

EXACT = ("full", "chunked", "flash", "kv_cache", "paged")  # all the same numbers
PATTERNS = (
    "window", "strided", "random_keys", "longformer", "bigbird", "sparse_transformer", "segment",
)  # fmt: skip


def twin(attention: Attention) -> Attend:
    """Return the same causal attention in torch.

    Args:
        attention: A mechanism at its knobs, as `Model.swap` puts into a layer.

    Returns:
        A function of q, k and v, (B, H, T, D), as many queries as keys.

    Raises:
        ValueError: One that has no twin here.
    """
    stem, knobs = attention.stem, dict(attention.knobs)
    if stem in EXACT:
        return causal
    if stem in PATTERNS:
        return partial(_by_pattern, attention)
    if stem in _TWINS:
        return partial(_TWINS[stem], **knobs)
    known = ", ".join(sorted({*EXACT, *PATTERNS, *_TWINS}))
    raise ValueError(f"twins.twin: {stem} has none; these have: {known}")


def _by_pattern(attention: Attention, q, k, v) -> torch.Tensor:
    knobs = tuple(sorted(attention.knobs.items()))
    return _masked(q, k, v, _pattern(attention.stem, knobs, q.shape[-2]))


@cache
def _pattern(stem: str, knobs: tuple[tuple[str, Any], ...], n: int) -> torch.Tensor:
    return torch.from_numpy(MECHANISMS[stem].reference.mask(n, n, **dict(knobs), causal=True))


def _masked(q, k, v, visible: torch.Tensor) -> torch.Tensor:
    """Attention where `visible`, (..., T, T), is True; zeros for who sees nobody."""
    nobody = ~visible.any(dim=-1, keepdim=True)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible | nobody)
    return out.masked_fill(nobody, 0.0)


def _lower(q: torch.Tensor) -> torch.Tensor:
    """Return who may see whom, causal: bool (T, T)."""
    return torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).tril()


def _topk(q, k, v, *, keep: int) -> torch.Tensor:
    lower = _lower(q)
    with torch.no_grad():
        scores = (q @ k.mT).masked_fill(~lower, -torch.inf)
        least = scores.topk(min(keep, scores.shape[-1]), dim=-1).values[..., -1:]
    return _masked(q, k, v, (scores >= least) & lower)


def _block_topk(q, k, v, **knobs: Any) -> torch.Tensor:
    queries, keys = _arrays(q, k)
    chosen = block_topk.select(queries, keys, **knobs, causal=True)
    visible = block_topk.mask_of(chosen, k.shape[-2], block=knobs["block"], causal=True)
    return _masked(q, k, v, torch.from_numpy(visible))


def _lsh(q, k, v, **knobs: Any) -> torch.Tensor:
    found = lsh.found(*_arrays(q, k), **knobs, causal=True)
    return _masked(q, k, v, torch.from_numpy(found))


def _pooled(q, k, v, *, pool: int) -> torch.Tensor:
    """One softmax over the means of the runs before a token's own, and over its own run."""
    n, whole = q.shape[-2], q.shape[-2] // pool
    means = (x[..., : whole * pool, :].unflatten(-2, (whole, pool)).mean(-2) for x in (k, v))
    position = torch.arange(n)
    run = position // pool
    earlier = torch.arange(whole) < run[:, None]  # (T, runs)
    own = (run == run[:, None]) & (position <= position[:, None])  # (T, T)
    bias = torch.zeros(n, whole + n, dtype=q.dtype)
    bias[:, :whole] = float(np.log(pool))
    bias.masked_fill_(~torch.cat([earlier, own], dim=-1), -torch.inf)
    keys, values = (torch.cat(pair, dim=-2) for pair in zip(means, (k, v), strict=True))
    return functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def _linear(q, k, v, *, chunk: int = 0) -> torch.Tensor:
    weights = (functional.elu(q) + 1) @ (functional.elu(k) + 1).mT
    return _divided(weights, v)


def _performer(
    q, k, v, *, n_features: int, orthogonal: bool = True, seed: int = 0, chunk: int = 0
) -> torch.Tensor:
    """Positive features; each key's largest exponent so far is taken out, as in the reference."""
    width = q.shape[-1]
    drawn = draw_directions("twins.performer", n_features, width, orthogonal, seed)
    directions = torch.from_numpy(drawn).to(q)

    def exponents(x):
        x = x * width**-0.25
        return x @ directions.mT - x.square().sum(-1, keepdim=True) / 2

    of_q, of_k = exponents(q), exponents(k)
    highest = of_k.detach().amax(-1).cummax(-1).values  # (B, H, T)
    phi_q = (of_q - of_q.detach().amax(-1, keepdim=True)).exp()
    phi_k = (of_k - highest[..., None]).exp()
    fade = (highest[..., None, :] - highest[..., :, None]).clamp(max=0).exp()
    return _divided(phi_q @ phi_k.mT * fade, v)


def _divided(weights, v) -> torch.Tensor:
    """Return weights @ v of earlier tokens, rows divided by their sums; zeros where that is 0."""
    weights = weights.tril()
    total = weights.sum(-1, keepdim=True)
    return weights @ v / total.masked_fill(total == 0, 1.0)


def _quantised_cache(q, k, v, *, group: int) -> torch.Tensor:
    """Keys and values of the groups before a token's own are rounded."""
    groups = torch.arange(q.shape[-2]) // group
    own = groups == groups[:, None]
    rounded_k, rounded_v = _rounded(k, group, -2), _rounded(v, group, -1)
    scores = torch.where(own, q @ k.mT, q @ rounded_k.mT) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~_lower(q), -torch.inf).softmax(-1)
    return weights.masked_fill(~own, 0.0) @ v + weights.masked_fill(own, 0.0) @ rounded_v


def _rounded(x, group: int, axis: int) -> torch.Tensor:
    """Return x as int8 keeps it, in groups of tokens; the gradient passes."""
    (array,) = _arrays(x)
    parts = np.split(array, range(group, array.shape[-2], group), axis=-2)
    back = [quantised_cache.dequantise(*quantised_cache.quantise(part, axis)) for part in parts]
    return x + (torch.from_numpy(np.concatenate(back, axis=-2)).to(x) - x).detach()


def _grouped(q, k, v, *, groups: int | None = None) -> torch.Tensor:
    """Each group of heads shares the mean of its keys, and of its values."""
    shared = k.shape[1] // (groups or k.shape[1])
    k, v = (x.unflatten(1, (-1, shared)).mean(2).repeat_interleave(shared, 1) for x in (k, v))
    return causal(q, k, v)


def _arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


_TWINS: dict[str, Callable[..., torch.Tensor]] = {
    "topk": _topk,
    "block_topk": _block_topk,
    "lsh": _lsh,
    "pooled": _pooled,
    "linear": _linear,
    "performer": _performer,
    "quantised_cache": _quantised_cache,
    "grouped": _grouped,
}
