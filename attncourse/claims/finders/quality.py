"""Chapter 14: printed losses and scores, held against the texts' other figures and small trials."""

from __future__ import annotations

import numpy as np

from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.inputs import random_qkv, stream
from attncourse.reference import flash, full, linformer, window
from attncourse.units import format_difference


def _range(id: str) -> tuple[float, float]:
    """Return the ends of a printed range such as "95-98"."""
    low, high = get(id).printed.split("-")
    return float(low), float(high)


@finds("C140", "C141")
def _loss(claim: Claim) -> Found:
    kept = {"C140": "C089", "C141": "C096"}[claim.id]
    low, high = _range(kept)
    lost, printed = (100 - high, 100 - low), _range(claim.id)
    return Found(
        f"{low:.0f}-{high:.0f} % kept, so {lost[0]:.0f}-{lost[1]:.0f} % lost",
        "chapter V's own section on the method, and its table of accuracies",
        agrees=lost[0] <= printed[0] and printed[1] <= lost[1],
    )


@finds("C180")
def _plateau(claim: Claim) -> Found:
    found = {lag: _first_flat(lag) for lag in (32, 128)}
    words = ", ".join(f"at {width} where they reach back {lag}" for lag, width in found.items())
    return Found(
        f"perplexity stops falling {words}: the plateau follows the data",
        "causal windows of 8 to 512 on 1,024 symbols of 16 kinds, 9 of 10 the same as the one "
        "that many steps before; attention that looks for that step; seed 0",
    )


def _first_flat(lag: int) -> int:
    """Return the narrowest window that has the least perplexity on symbols that repeat."""
    n, kinds, sure = 1024, 16, 0.9
    generator = stream("symbols that repeat", 0)
    symbols = generator.integers(kinds, size=n)
    for t in range(lag, n):
        if generator.random() < sure:
            symbols[t] = symbols[t - lag]
    # a key is its position, and a query asks for the position `lag` before its own
    position, rate = np.arange(n)[:, None], generator.uniform(0, 2 * np.pi, 64)
    k, q = (
        np.concatenate([np.cos(turn), np.sin(turn)], axis=1)
        for turn in (position * rate, (position - lag) * rate)
    )
    v = np.eye(kinds)[symbols]
    widths = (8, 16, 32, 64, 128, 256, 512)
    perplexities = []
    for width in widths:
        seen = window.attention(q, k, v, window=width, causal=True, scale=1.0)
        right = seen[np.arange(lag, n), symbols[lag:]]
        trusts = (  # how far to trust what is seen, as training would find out
            np.exp(-np.log(trust * right + (1 - trust) / kinds).mean())
            for trust in np.arange(0, 1, 0.05)
        )
        perplexities.append(float(min(trusts)))
    least = min(perplexities)
    return next(
        width for width, found in zip(widths, perplexities, strict=True) if found < 1.05 * least
    )


@finds("C332")
def _wide_window(claim: Claim) -> Found:
    n, width = 512, 512
    q, k, v = random_qkv(n)
    wanted = full.attention(q, k, v)
    off = float(np.abs(window.attention(q, k, v, window=width) - wanted).max())
    return Found(
        f"window and full attention are {format_difference(off, below=1e-5)} apart: the same "
        "function",
        f"n = {n}, which chapter E names as BERT's limit, and Longformer's {width} keys on each "
        "side; the comparison itself names neither",
    )


@finds("C333")
def _flash_accuracy(claim: Claim) -> Found:
    q, k, v = random_qkv(512, seed=1)
    wanted = full.attention(q, k, v)
    off = np.abs(flash.attention(q, k, v, block_q=64, block_k=64) - wanted).max()
    percent = float(100 * off / np.abs(wanted).max())
    return Found(
        f"outputs differ by {format_difference(percent, below=1e-3)} % of the largest",
        "tiles of 64 × 64 against full attention, float32, n = 512, one head of 64, seed 1; no "
        "task's score",
        agrees=percent < float(claim.printed),
    )


@finds("C353")
def _wikihop(claim: Claim) -> Found:
    return Found(
        75.0,
        "accuracy of the base model on the development set: Beltagy, Peters, Cohan 2020, "
        "arXiv:2004.05150, section 6",
    )


def _data(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return q, k and v of random tokens, of smooth ones, or with one key to find for each."""
    n = 1024
    q, k, v = random_qkv(n)
    if kind == "smooth tokens":
        generator = stream("smooth tokens", 0)
        waves = np.sin(np.arange(n)[:, None] * generator.uniform(0, 0.02, 64))
        x = waves.astype(np.float32)[None, None]
        return x, x, x
    if kind == "a needle nearby":
        return 2 * np.roll(k, 5, axis=-2), k, v
    if kind == "a needle far away":
        return 2 * np.roll(k, n // 2, axis=-2), k, v
    return q, k, v


@finds("C405")
def _ranking(claim: Claim) -> Found:
    kinds = ("random tokens", "smooth tokens", "a needle nearby", "a needle far away")
    pool = linformer.mean_pool(256, 1024)
    better, words = [], []
    for kind in kinds:
        q, k, v = _data(kind)
        wanted = full.attention(q, k, v)
        outs = (
            window.attention(q, k, v, window=128),
            linformer.attention(q, k, v, key_projection=pool, value_projection=pool),
        )
        size = np.square(wanted).mean()
        near, low = (float(np.sqrt(np.square(out - wanted).mean() / size)) for out in outs)
        better.append(near < low)
        words.append(f"{kind} {near:.2g} and {low:.2g}")
    return Found(
        "error of the window and of Linformer: " + ", ".join(words),
        "root mean square over that of full attention; n = 1,024, one head of 64, 128 keys on "
        "each side, 256 means of 4 keys, seed 0",
        agrees=all(better),
    )
