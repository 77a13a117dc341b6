"""Chapter 12: the cache of keys and values, and its pages."""

from __future__ import annotations

import numpy as np

from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, kv_cache, paged
from attncourse.units import format_difference


@finds("C037")
def cache_before_the_token(claim: Claim) -> Found:
    """Compare the printed step with causal attention: as written, scaled, and with the token."""
    n, width, t = (int(claim.parameters[name]) for name in "ndt")
    q, k, v = random_qkv(n, width=width, dtype=np.float64)
    wanted = full.attention(q, k, v, causal=True)[..., t, :]
    new = slice(t, t + 1)

    def apart(last: int, scale: float | None) -> float:
        out = full.attention(q[..., new, :], k[..., :last, :], v[..., :last, :], scale=scale)
        return float(np.abs(out[..., 0, :] - wanted).max())

    cache = kv_cache.start(k, v)
    kv_cache.step(cache, q[..., :t, :], k[..., :t, :], v[..., :t, :])
    stepped, _ = kv_cache.step(cache, q[..., new, :], k[..., new, :], v[..., new, :])
    off = float(np.abs(stepped[..., 0, :] - wanted).max())
    appended = format_difference(off, below=1e-12)
    written, scaled = apart(t, 1.0), apart(t, None)
    return Found(
        f"off by {written:.2f} as written, {scaled:.2f} with 1/√d, {appended} with the "
        "token's own key and value appended first",
        f"against full.attention, causal, n = {n}, d = {width}, t = {t}, float64, random_qkv",
        written < 1e-6,
    )


@finds("C038")
def pages_of_a_cache(claim: Claim) -> Found:
    """Fill pages from sequences of many lengths, and compare the room with padding."""
    page, longest = 16, 2048
    lengths = stream("lengths", 0).integers(1, longest + 1, 64)
    lost = int(paged.waste(lengths, page).max())
    used = paged.utilisation(lengths, page), paged.utilisation(lengths, longest)
    q, k, v = random_qkv(40, heads=2, batch=2)
    same = np.allclose(
        paged.attention(q, k, v, page=page, causal=True),
        full.attention(q, k, v, causal=True),
        atol=1e-5,
    )
    return Found(
        f"at most {lost} tokens of room lost a sequence, {used[0]:.1%} of it used; "
        f"{used[1]:.0%} if each reserves the longest; attention is the same: {same}",
        f"pages of {page} tokens, 64 lengths up to {longest:,}; paged.attention, 40 tokens",
        same and lost < page,
    )
