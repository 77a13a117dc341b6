"""Finds what the texts say of sparse patterns: masks, graphs, counts of Longformer and BigBird."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attncourse import graph, masks, measure
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.claims.verdicts import agrees
from attncourse.inputs import random_qkv
from attncourse.reference import (
    bigbird,
    full,
    longformer,
    offsets,
    random_keys,
    sparse_transformer,
    strided,
    window,
)


@finds("C010")
def _strides(claim: Claim) -> Found:
    n, shares = int(claim.parameters["n"]), {}
    for name, steps in (("primes", (31, 61, 127)), ("powers of two", (32, 64, 128))):
        kept = np.array(offsets.multiples(n, strides=steps))
        two = np.concatenate([np.add.outer(kept, kept), np.subtract.outer(kept, kept)], axis=None)
        shares[name] = np.isin(np.arange(n), np.abs(two)).mean()
    return Found(
        ", ".join(f"{name} {share:.1%}" for name, share in shares.items()),
        f"share of the distances below n = {n:,} that two steps make; strides 31, 61, 127 and "
        "32, 64, 128",
        agrees=bool(shares["primes"] > 0.99 and shares["powers of two"] < 0.1),
    )


@finds("C011")
def _random_alone(claim: Claim) -> Found:
    n, draws = 256, 10
    unheard = {
        r: sum(
            bool((graph.hops(random_keys.mask(n, n, n_random=r, seed=seed)) < 0).any())
            for seed in range(draws)
        )
        for r in (1, 3, 8, 32)
    }
    return Found(
        f"not all joined, with r = {', '.join(map(str, unheard))}: "
        f"{', '.join(map(str, unheard.values()))} of {draws} draws",
        f"graph search in masks of n = {n}, each query with itself and r random keys, "
        f"seeds 0 to {draws - 1}",
        agrees=not any(unheard.values()),
    )


@finds("C018")
def _bigbird_is_linear(claim: Claim) -> Found:
    lengths = (4096, 8192, 16384)
    costs = {n: bigbird.cost(1, 1, n, n, 64, block=64) for n in lengths}
    flops = exponent(lambda n: costs[n].flops, lengths)
    peak = exponent(lambda n: costs[n].peak_bytes, lengths)
    joined = graph.hops(bigbird.mask(512, 512, block=16)).max()
    return Found(
        f"FLOPs grow as n^{flops:.2f}, the peak as n^{peak:.2f}; all pairs joined after "
        f"{joined} layers",
        "our BigBird, window of 3 blocks, 3 random and 2 global: cost at n = 4,096 to 16,384 with "
        "blocks of 64, mask of n = 512 with blocks of 16",
        agrees=bool(flops < 1.1 and peak < 1.1 and joined == 2),
    )


@finds("C065")
def _longformer_is_linear(claim: Claim) -> Found:
    lengths = (4096, 8192, 16384)
    knobs: dict[str, Any] = {"window": 256, "global_tokens": 2}
    flops = exponent(lambda n: longformer.cost(1, 1, n, n, 64, **knobs).flops, lengths)
    return Found(
        f"FLOPs grow as n^{flops:.2f}",
        "cost of our Longformer at n = 4,096 to 16,384, 256 keys on each side, 2 global tokens",
        agrees=abs(flops - 1) < 0.1,
    )


@finds("C067")
def _blocks_against_a_mask(claim: Claim) -> Found:
    n, w = 2048, 64
    q, k, v = random_qkv(n)
    mask = window.mask(n, n, window=w)
    naive = measure.seconds(functools.partial(full.attention, q, k, v, mask=mask), repeats=3)
    blocked = measure.seconds(functools.partial(window.attention, q, k, v, window=w), repeats=3)
    return Found(
        f"{naive.median / blocked.median:.0f} times as fast as a masked dense computation",
        f"n = {n:,}, {w} keys on each side, one head of 64, this machine's CPU, NumPy",
    )


@finds("C068")
def _block_and_columns(claim: Claim) -> Found:
    n, k = 64, 8
    mask = sparse_transformer.mask(n, n, stride=k, pattern="fixed")
    own = masks.blocks(n, n, block=k)
    rest = np.flatnonzero((mask & ~own)[0])
    keys, joined = np.unique(mask.sum(axis=1)), graph.hops(mask).max()
    return Found(
        f"{keys[0]} keys for each query: its block of {k}, and {len(rest)} more, "
        f"{rest[1] - rest[0]} apart; all pairs joined after {joined} layers",
        f'mask of n = {n}, stride {k}: our Sparse Transformer\'s "fixed" pattern',
        agrees=bool((mask >= own).all() and (np.diff(rest) == k).all() and joined == 2),
    )


@finds("C069")
def _root(claim: Claim) -> Found:
    lengths = (256, 1024, 2304)
    kept = {n: sparse_transformer.mask(n, n, stride=math.isqrt(n)) for n in lengths}
    pairs = exponent(lambda n: graph.connections(kept[n]), lengths)
    return Found(
        f"pairs grow as n^{pairs:.2f}, and each takes 4 d FLOPs",
        "masks of our Sparse Transformer, both factors, stride sqrt(n), n = 256 to 2,304",
        agrees=abs(pairs - 1.5) < 0.05,
    )


@finds("C171")
def _keys_of_a_window(claim: Claim) -> Found:
    mask = window.mask(1024, 1024, window=32)
    return Found(
        float(mask[512].sum()), "mask of n = 1,024, i - 32 ... i + 32, a query in the middle"
    )


@finds("C173")
def _keys_of_a_union(claim: Claim) -> Found:
    n, w, s = (int(claim.parameters[name]) for name in ("n", "w", "s"))
    union = window.mask(n, n, window=w // 2)
    union |= strided.mask(n, n, stride=s)
    union[:, 0] = True
    return Found(
        float(union.sum() / n),
        f"union of three masks of n = {n:,}: i - {w // 2} ... i + {w // 2}, stride {s}, key 0; "
        "average query",
    )


@finds("C217")
def _hubs(claim: Claim) -> Found:
    n, g = 1024, int(claim.parameters["g"])
    mask = longformer.mask(n, n, window=0, global_tokens=g)
    added = int((mask & ~np.eye(n, dtype=bool)).sum()) + g
    growth = exponent(
        lambda n: graph.connections(longformer.mask(n, n, window=0, global_tokens=g)) - n,
        (256, 512, 1024),
    )
    return Found(
        f"{added:,} pairs, 2ng - g² = {2 * n * g - g * g:,}; they grow as n^{growth:.2f}",
        f"rows and columns of g = {g} global tokens in a mask of n = {n:,}; growth from n = 256",
        agrees=added == 2 * n * g - g * g and abs(growth - 1) < 0.05,
    )


@finds("C225")
def _plans(claim: Claim) -> Found:
    h, r, n = (int(claim.parameters[name]) for name in ("h", "r", "n"))
    drawn = [random_keys.draw(16, n, n_random=r, seed=head)[:, 1:] for head in range(h)]
    rows = np.concatenate(drawn, axis=1)
    union = np.mean([len(np.unique(row)) for row in rows]) / n
    released = h  # one plan for each head
    return Found(
        f"{released} plans for {h} heads, which see {union:.1%} of the keys together; with one "
        f"plan {r / n:.1%}",
        f"number of plans: transformers' BigBirdBlockSparseAttention, in training; shares: "
        f"{r} of n = {n:,} keys drawn for 16 queries, seeds 0 to {h - 1}",
        agrees=released == 1,
    )


@finds("C226")
def _keys_of_bigbird(claim: Claim) -> Found:
    w, r, g = (int(claim.parameters[name]) for name in ("w", "r", "g"))
    n = 2048
    mask = _bigbird(n, w, r, g)
    regular = mask[g:].sum(axis=1)
    return Found(
        f"{regular.max()} keys inside, {regular.mean():.1f} on average",
        f"rows of the regular tokens in a mask of n = {n:,}: {w} keys on each side, {r} random "
        f"keys outside the window, {g} global tokens",
        agrees=bool(regular.max() == 2 * w + r + g),
    )


@finds("C227")
def _short_paths(claim: Claim) -> Found:
    lengths = (64, 128, 256, 512)
    hub = [graph.hops(longformer.mask(n, n, window=1, global_tokens=1)).max() for n in lengths]
    return Found(
        f"{', '.join(map(str, hub))} layers with a global token, "
        f"{', '.join(map(str, _ring()))} with 2 random keys",
        "graph search in masks of n = 64, 128, 256, 512: one neighbour on each side, and one "
        "global token or two random keys (seed 0)",
        agrees=bool(max(hub) == 2 and 0 < min(_ring()) and max(_ring()) < 2 * math.log2(512)),
    )


@finds("C233")
def _released_sizes(claim: Claim) -> Found:
    block = int(claim.parameters["block"])
    knobs: dict[str, Any] = {
        "window_blocks": 1,
        "random_blocks": 3,
        "global_blocks": (0, 4096 // block - 1),
    }
    keys = bigbird.layout(4096, 4096, block=block, **knobs).mean() * 4096
    sizes = (3 * block, 3 * block, 2 * block)
    return Found(
        f"{'/'.join(map(str, sizes))} tokens; {keys:.0f} keys for an average token",
        f"transformers' BigBirdConfig: blocks of {block}, 3 random; its code: a window of 3, the "
        "first and the last global; layout of n = 4,096",
        agrees="/".join(map(str, sizes)) == claim.printed,
    )


@finds("C350")
def _layers_of_a_plan(claim: Claim) -> Found:
    lengths = (4096, 16384, 65536)
    needed = [_layers(n, [1] * 4 + [2] * 4 + [8]) for n in lengths]
    doubled = [_layers(n, [2**level for level in range(24)]) for n in lengths]
    return Found(
        f"{', '.join(map(str, needed))} layers; if dilation doubled in each layer, "
        f"{', '.join(map(str, doubled))}",
        "reaches of the windows alone, without global tokens, added up for n = 4,096, 16,384, "
        "65,536: 512 keys on each side, dilation 1 in four layers, 2 in four, then 8",
        agrees=needed[2] - needed[1] <= needed[1] - needed[0] + 1,
    )


@finds("C351")
def _copies(claim: Claim) -> Found:
    known = np.arange(512)
    table = np.tile(known, 4096 // len(known))
    return Found(
        f"{len(table) // len(known) - 1} copies fill positions {len(known)} to {len(table) - 1}",
        "a table of 512 rows repeated up to 4,096",
        agrees=bool(len(table) == 4096 and (table[512:] == table[:-512]).all()),
    )


@finds("C456", "C457")
def _in_no_row(claim: Claim) -> Found:
    n, w, r, g = 4096, 256, 64, 32
    mask = _bigbird(n, w // 2, r, g)
    regular, hubs = graph.connections(mask[g:]), graph.connections(mask[:g])
    incoming = graph.connections(mask[g:, :g])
    return Found(
        graph.connections(mask) - regular - hubs,
        f"pairs outside the rows of regular and of global tokens, whose {incoming:,} incoming "
        f"pairs lie in the rows of regular tokens; mask of n = {n:,}, {w // 2} keys on each side, "
        f"r = {r}, g = {g}",
    )


@finds("C459")
def _sparsity(claim: Claim) -> Found:
    rows, mask = _exercise()
    return _both(claim, 100 - rows / 4096**2 * 100, 100 - mask / 4096**2 * 100)


@finds("C460")
def _density(claim: Claim) -> Found:
    rows, mask = _exercise()
    return _both(claim, rows / 4096**2 * 100, mask / 4096**2 * 100)


@finds("C461")
def _megabytes(claim: Claim) -> Found:
    rows, mask = _exercise()
    return _both(claim, rows * 4 / 1e6, mask * 4 / 1e6)


@finds("C462")
def _saving(claim: Claim) -> Found:
    rows, mask = _exercise()
    return _both(claim, 100 - rows / 4096**2 * 100, 100 - mask / 4096**2 * 100)


@finds("C468")
def _ring_and_random(claim: Claim) -> Found:
    layers = _ring()
    per_doubling = np.diff(layers)
    return Found(
        f"{', '.join(map(str, layers))} layers: at most {per_doubling.max()} more per doubling",
        "graph search in masks of n = 64, 128, 256, 512: one neighbour on each side and two "
        "random keys, seed 0",
        agrees=bool(per_doubling.max() <= 2),
    )


@finds("C469")
def _fewer_pairs(claim: Claim) -> Found:
    rows, mask = _exercise()
    gains = {4096: float(get("C235").printed), 8192: float(get("C236").printed)}
    words = ", ".join(f"{gain:g} at n = {n:,}" for n, gain in gains.items())
    return Found(
        f"{words} by the printed times; {4096**2 / rows:.1f} times fewer pairs by rows, "
        f"{4096**2 / mask:.1f} in the mask",
        f"chapter E's times for BigBird; pairs: {_SETTING}",
        agrees=all(agrees(claim.printed, gain) for gain in gains.values()),
    )


@finds("C483")
def _memory_at_16k(claim: Claim) -> Found:
    n, block = (int(claim.parameters[name]) for name in ("n", "block"))
    own = bigbird.cost(1, 12, n, n, 64, block=block).peak_bytes
    whole = full.cost(1, 12, n, n, 64).peak_bytes
    share = bigbird.layout(n, n, block=block).mean()
    weights = 144 * n * n * 4  # 12 layers of 12 heads
    released = 4096
    return Found(
        f"a layer holds {own / 1e9:.2f} GB, with full attention "
        f"{whole / 1e9:.1f}; the weights of 12 layers, kept for training, "
        f"{share * weights / 1e9:.1f} GB instead of {weights / 1e9:.0f}; the released models have "
        f"{released:,} positions",
        f"cost and layout of our BigBird, blocks of {block}, n = {n:,}, 12 heads of 64, float32; "
        "positions: transformers' BigBirdConfig",
        agrees=bool(share * weights < 40e9 < weights and released >= n),
    )


_SETTING = (
    "n = 4,096, w = 256 in all, r = 64, g = 32: by rows (n - g)(w + r + g) + gn; the mask has 128 "
    "keys on each side, its edges, and random keys outside the rest"
)


def _both(claim: Claim, rows: float, mask: float) -> Found:
    """Return the count by rows beside that of the mask."""
    return Found(
        f"{rows:.2f} {claim.unit} by rows, {mask:.2f} {claim.unit} in the mask",
        _SETTING,
        agrees=bool(agrees(claim.printed, rows) or agrees(claim.printed, mask)),
    )


@functools.cache
def _exercise() -> tuple[int, int]:
    """Return BigBird's pairs in the exercise: each row counted once, and in a real mask."""
    n, w, r, g = 4096, 256, 64, 32
    return (n - g) * (w + r + g) + g * n, graph.connections(_bigbird(n, w // 2, r, g))


def _bigbird(n: int, radius: int, r: int, g: int) -> np.ndarray:
    knobs: dict[str, Any] = {"window_blocks": radius, "random_blocks": r, "global_blocks": g}
    return bigbird.layout(n, n, block=1, **knobs)  # in blocks of one token, the mask


@functools.cache
def _ring() -> list[int]:
    """Return the layers that a ring with two random keys needs at n = 64, 128, 256, 512."""
    return [
        int(
            graph.hops(
                window.mask(n, n, window=1) | random_keys.mask(n, n, n_random=2, seed=0)
            ).max()
        )
        for n in (64, 128, 256, 512)
    ]


def _layers(n: int, dilations: Sequence[int], radius: int = 512) -> int:
    """Return after how many layers the first token hears the last; the last dilation goes on."""
    reach = layers = 0
    while reach < n - 1:
        reach += radius * dilations[min(layers, len(dilations) - 1)]
        layers += 1
    return layers
