"""Chapter 15: the tables of methods with their orders of growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attncourse import graph
from attncourse.claims.finders._growth import exponent, law
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv
from attncourse.reference import (
    bigbird,
    flash,
    full,
    linear,
    linformer,
    longformer,
    performer,
    random_keys,
    sparse_transformer,
    topk,
    window,
)

LONG = (4096, 8192, 16384)
LONG_WORDS = "n = 4,096, 8,192, 16,384"


def window_flops(n: int) -> int:
    """Return what a window of 128 on each side costs."""
    return window.cost(1, 1, n, n, 64, window=128).flops


def _linear_flops(n: int) -> int:
    return linear.cost(1, 1, n, n, 64).flops


def _linformer_flops(n: int, rank: int = 256, width: int = 64) -> int:
    return linformer.cost(1, 1, n, n, width, rank=rank).flops


def _performer_flops(n: int, m: int = 256, width: int = 64) -> int:
    return performer.cost(1, 1, n, n, width, n_features=m).flops


def _bigbird_flops(n: int, knobs: int = 1, width: int = 64) -> int:
    """Count for w blocks a side, 2w random and w global ones, w = `knobs`."""
    blocks: dict[str, Any] = {
        "window_blocks": knobs,
        "random_blocks": 2 * knobs,
        "global_blocks": knobs,
    }
    return bigbird.cost(1, 1, n, n, width, block=32, **blocks).flops


def _sqrt_pairs(n: int) -> int:
    """Count the pairs of the Sparse Transformer's pattern with its best stride."""
    return graph.connections(sparse_transformer.mask(n, n, stride=math.isqrt(n), causal=True))


@finds("C033")
def compute_of_standard_attention(claim: Claim) -> Found:
    """Compare the FLOPs with those of the rows below it."""
    n = 4096
    own = full.cost(1, 1, n, n, 64).flops
    others = {
        "flash": flash.cost(1, 1, n, n, 64, block_q=128, block_k=128).flops,
        "a window of 128 a side": window_flops(n),
        "linear attention": _linear_flops(n),
    }
    words = ", ".join(f"{own / flops:.3g} times those of {name}" for name, flops in others.items())
    return Found(
        f"{own / 1e9:.1f} GFLOP: {words}",
        f"cost of each reference, n = {n:,}, one head of 64",
        own <= min(others.values()),
    )


@finds("C035")
def memory_of_flash(claim: Claim) -> Found:
    """Count what is kept beside the output, and with it."""
    q, k, v = random_qkv(512)
    out, lse = flash.forward(q, k, v, block_q=128, block_k=128)
    per_query = (out.size + lse.size) / 512
    return Found(
        f"{lse.size // 512} number a query beyond q, k, v and out; {per_query:.0f} with out, "
        "so O(n d) in all",
        "flash.forward, n = 512, D = 64, tiles of 128",
        out.size == 0,  # the output is held too, and it grows with d
    )


@finds("C036")
def memory_of_sparse_and_linear(claim: Claim) -> Found:
    """Fit the growth of what is held, a linear state's output included, and of stored patterns."""
    grows = {
        "linear attention with its output": exponent(_linear_held, LONG),
        "a stored band": exponent(lambda n: window.count(n, n, window=64), LONG),
        "a stored pattern of √n keys": exponent(_sqrt_pairs, (256, 576, 1024)),
    }
    words = ", ".join(f"{power:.2f} for {name}" for name, power in grows.items())
    return Found(
        f"exponents in n: {words}",
        f"linear.cost and window.count, {LONG_WORDS}; sparse_transformer.mask, n = 256 to 1,024",
        max(grows.values()) < 1.1,
    )


def _linear_held(n: int) -> int:
    return linear.cost(1, 1, n, n, 64).peak_bytes


@finds("C101", "C301")
def window_growth(claim: Claim) -> Found:
    """Fit the exponents of window attention."""

    def stored(n: int, w: int = 64) -> int:
        return window.count(n, n, window=w)

    def flops(w: int) -> int:
        return window.cost(1, 1, 16384, 16384, 64, window=w).flops

    return law(
        {
            "FLOPs in n": (1, exponent(window_flops, LONG)),
            "FLOPs in w": (1, exponent(flops, (256, 512, 1024))),
            "FLOPs in d": (1, exponent(_window_flops_of_width, (32, 64, 128))),
            "weights in n": (1, exponent(stored, LONG)),
            "weights in w": (1, exponent(lambda w: stored(16384, w), (64, 128, 256))),
        },
        f"window.cost and window.count, {LONG_WORDS}; a side w = 256, 512, 1,024 for the FLOPs and "
        "64, 128, 256 for the weights",
    )


def _window_flops_of_width(width: int) -> int:
    return window.cost(1, 1, 4096, 4096, width, window=128).flops


@finds("C102")
def sparse_growth(claim: Claim) -> Found:
    """Fit the exponents of the Sparse Transformer with stride √n."""

    def flops(n: int, width: int = 64) -> int:
        knobs: dict[str, Any] = {"stride": math.isqrt(n), "pattern": "fixed", "causal": True}
        return sparse_transformer.cost(1, 1, n, n, width, **knobs).flops

    return law(
        {
            "FLOPs in n": (1.5, exponent(flops, (1024, 4096, 16384))),
            "FLOPs in d": (1, exponent(lambda d: flops(1024, d), (32, 64, 128))),
            "weights in n": (1.5, exponent(_sqrt_pairs, (256, 576, 1024))),
        },
        "sparse_transformer, causal, stride √n: cost of the fixed pattern, n = 1,024, 4,096, "
        "16,384; mask of the strided one, n = 256, 576, 1,024",
    )


@finds("C103")
def linear_growth(claim: Claim) -> Found:
    """Fit the exponents of linear attention; the printed memory grows with n, and its state not."""
    widths = (64, 128, 256)
    state = exponent(lambda n: _linear_held(n) - n * 64 * 4, LONG)
    return law(
        {
            "FLOPs in n": (1, exponent(_linear_flops, LONG)),
            "FLOPs in d": (2, exponent(lambda d: linear.cost(1, 1, 4096, 4096, d).flops, widths)),
            "bytes beyond the output in n": (1, state),
            "bytes with the output in n": (1, exponent(_linear_held, LONG)),
        },
        f"linear.cost, {LONG_WORDS}, one head of 64; d = 64, 128, 256",
    )


@finds("C104", "C304")
def low_rank_growth(claim: Claim) -> Found:
    """Fit the exponents of Linformer."""

    def stored(n: int, rank: int = 32) -> int:
        q, k, _ = random_qkv(n)
        return full.weights(q, linformer.mean_pool(rank, n).astype(k.dtype) @ k).size

    short, ranks = (256, 512, 1024), (32, 64, 128)
    return law(
        {
            "FLOPs in n": (1, exponent(_linformer_flops, LONG)),
            "FLOPs in rank": (1, exponent(lambda r: _linformer_flops(8192, r), ranks)),
            "FLOPs in d": (1, exponent(lambda d: _linformer_flops(8192, width=d), ranks)),
            "weights in n": (1, exponent(stored, short)),
            "weights in rank": (1, exponent(lambda r: stored(512, r), ranks)),
        },
        f"linformer.cost, {LONG_WORDS}, rank and d = 32, 64, 128; weights: n = 256, 512, 1,024",
    )


@finds("C305")
def performer_growth(claim: Claim) -> Found:
    """Fit the exponents of Performer."""
    sizes = (64, 128, 256)

    def stored(n: int, m: int = 64) -> int:
        q, _, _ = random_qkv(n)
        return performer.feature_map(q, performer.draw_features(m, 64)).size

    return law(
        {
            "FLOPs in n": (1, exponent(_performer_flops, LONG)),
            "FLOPs in m": (1, exponent(lambda m: _performer_flops(8192, m), sizes)),
            "FLOPs in d": (1, exponent(lambda d: _performer_flops(8192, width=d), sizes)),
            "features in n": (1, exponent(stored, (256, 512, 1024))),
            "features in m": (1, exponent(lambda m: stored(256, m), sizes)),
        },
        f"performer.cost, {LONG_WORDS}; m and d = 64, 128, 256; features of all queries",
    )


@finds("C306")
def flash_growth(claim: Claim) -> Found:
    """Fit the exponents of flash attention."""

    def flops(n: int, width: int = 64) -> int:
        return flash.cost(1, 1, n, n, width, block_q=128, block_k=128).flops

    def kept(n: int) -> int:
        return flash.forward(*random_qkv(n), block_q=128, block_k=128)[1].size

    return law(
        {
            "FLOPs in n": (2, exponent(flops)),
            "FLOPs in d": (1, exponent(lambda d: flops(1024, d), (32, 64, 128))),
            "numbers kept beyond q, k, v and out in n": (1, exponent(kept, (256, 512, 1024))),
        },
        "flash.cost, n = 1,024, 2,048, 4,096; log-sum-exps of flash.forward, n = 256 to 1,024",
    )


@finds("C302")
def longformer_pairs(claim: Claim) -> Found:
    """Count the pairs with and without global tokens."""
    n, w, g = 1024, 64, 8
    without, with_global = (
        graph.connections(longformer.mask(n, n, window=w, global_tokens=count)) for count in (0, g)
    )
    share = with_global / without - 1
    return Found(
        f"{with_global:,} pairs with {g} global tokens, {without:,} without: {share:.1%} more",
        f"longformer.mask, n = {n:,}, w = {w} a side",
        share < 0.01,
    )


@finds("C303")
def bigbird_growth(claim: Claim) -> Found:
    """Fit the exponents of BigBird in n, in d, and in w, r and g together."""
    return law(
        {
            "FLOPs in n": (1, exponent(_bigbird_flops, LONG)),
            "in w, r and g together": (1, exponent(lambda x: _bigbird_flops(LONG[-1], x), (2, 4))),
            "in d": (1, exponent(lambda d: _bigbird_flops(4096, width=d), (32, 64, 128))),
        },
        f"bigbird.cost, {LONG_WORDS}, blocks of 32: w = g = 1 block, 2 and 4 for the second "
        "exponent, r = 2w",
    )


@finds("C210")
def fixed_and_chosen_keys(claim: Claim) -> Found:
    """Fit the exponents where the keys are known beforehand, and where they are searched."""

    def drawn(n: int, keys: int = 64) -> int:
        return random_keys.cost(1, 1, n, n, 64, n_random=keys).flops

    found = law(
        {
            "FLOPs in n": (1, exponent(drawn, LONG)),
            "in k": (1, exponent(lambda keys: drawn(4096, keys), (64, 128, 256))),
        },
        f"random_keys.cost, {LONG_WORDS}; k = 64, 128, 256; topk.cost for the search",
    )
    searched = exponent(lambda n: topk.cost(1, 1, n, n, 64, keep=64).flops)
    words = f"{found.value}; {searched:.2f} in n if the best keys have to be searched"
    return Found(words, found.setting, found.agrees)


@finds("C411")
def who_is_linear(claim: Claim) -> Found:
    """Fit the exponents in n of Performer and of those it is said to beat by being linear."""
    counts: dict[str, Callable[[int], float]] = {
        "Performer": _performer_flops,
        "window": window_flops,
        "BigBird": _bigbird_flops,
        "Linformer": _linformer_flops,
    }
    grows = {name: exponent(count, LONG) for name, count in counts.items()}
    linear_too = [name for name, power in grows.items() if power < 1.1]
    return Found(
        "FLOPs in n: " + ", ".join(f"{power:.2f} for {name}" for name, power in grows.items()),
        f"cost of each reference, {LONG_WORDS}, one head of 64",
        linear_too == ["Performer"],
    )
