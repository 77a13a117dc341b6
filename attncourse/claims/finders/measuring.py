"""Chapter 13: printed times and speedups, held against counts and this machine's clock."""

from __future__ import annotations

import numpy as np

from attncourse import measure
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.graph import connections
from attncourse.inputs import random_qkv
from attncourse.reference import bigbird, block_sparse, full, random_keys


def _tiles_used(mask: np.ndarray, tile: int) -> float:
    """Return the share of a mask's pairs in the tiles that it touches."""
    count = len(mask) // tile
    touched = mask.reshape(count, tile, count, tile).any(axis=(1, 3))
    return connections(mask) / (touched.sum() * tile**2)


def _realised(mask: np.ndarray, attend) -> float:
    """Return the speedup over full attention, as a share of the pairs' ratio."""
    n = len(mask)
    inputs = random_qkv(n)
    slow = measure.seconds(full.attention, *inputs, repeats=3).median
    fast = measure.seconds(attend, *inputs, repeats=3).median
    return slow / fast / (n * n / connections(mask))


@finds("C143")
def _random_pattern(claim: Claim) -> Found:
    n, keys = 1024, 32
    mask = random_keys.mask(n, n, n_random=keys)

    def attend(q, k, v):
        return random_keys.attention(q, k, v, n_random=keys)

    used = ", ".join(f"{_tiles_used(mask, tile):.0%} of tiles of {tile}" for tile in (16, 32))
    return Found(
        f"{_realised(mask, attend):.0%} of the operation ratio; the pattern uses {used}",
        f"this machine's CPU, NumPy, {keys} random keys a query, n = {n:,}, one head of 64; median "
        "of 3 calls",
    )


@finds("C144")
def _block_pattern(claim: Claim) -> Found:
    n, block = 1024, 32
    # the blocks beside the diagonal, and every eighth one
    i, j = np.ogrid[: n // block, : n // block]
    layout = (np.abs(i - j) <= 1) | (j % 8 == 0)
    mask = block_sparse.mask(n, n, layout=layout, block=block)

    def attend(q, k, v):
        return block_sparse.attention(q, k, v, layout=layout, block=block)

    scattered = random_keys.mask(n, n, n_random=32)
    return Found(
        f"{_realised(mask, attend):.0%} of the operation ratio; blocks use "
        f"{_tiles_used(mask, block):.0%} of their tiles, 32 random keys a query rounded up to "
        f"blocks {_tiles_used(scattered, block):.0%}",
        f"this machine's CPU, NumPy, blocks of {block}, {mask.mean():.0%} of them, n = {n:,}, one "
        "head of 64; median of 3 calls",
    )


def _range(id: str) -> tuple[float, float]:
    """Return the ends of a printed range such as "50-70"."""
    low, high = get(id).printed.split("-")
    return float(low), float(high)


@finds("C077")
def _share_of_theory(claim: Claim) -> Found:
    low, high = _range("C077")
    others = {"random patterns": _range("C143"), "blocks": _range("C144")}
    times = get("C224").parameters
    printed = 100 * float(times["a"]) / float(times["b"]) / float(get("C221").printed)
    words = ", ".join(f"{name} {a:.0f}-{b:.0f} %" for name, (a, b) in others.items())
    return Found(
        f"the texts also print {words}, and for Longformer times that make {printed:.0f} %",
        "98 ms over 18 ms by the factor of 4 in connections, both of chapter E; the ranges are "
        "chapter V's",
        # the other ranges are for special patterns, which "typically" leaves room for
        agrees=low <= printed <= high,
    )


@finds("C178")
def _least_memory(claim: Claim) -> Found:
    heads, n, width, keys = (int(claim.parameters[name]) for name in ("h", "n", "dh", "k"))
    held = {
        "full": n * n,
        "local": n * 512,
        "sparse": n * keys,
        "linear": width * width,
        "low rank": n * 256,
    }
    sizes = {name: heads * numbers * 4 / 1e6 for name, numbers in held.items()}
    least = min(sizes, key=sizes.__getitem__)
    words = ", ".join(f"{name} {size:,.1f} MB" for name, size in sizes.items())
    return Found(
        f"{words}: {least} needs {sizes['sparse'] / sizes[least]:.0f} times less than sparse",
        f"n = {n:,}, {heads} heads of {width}, float32; window of 512 keys, {keys} keys, rank 256; "
        "linear: the state without its normaliser",
        agrees=least == "sparse",
    )


@finds("C235")
def _share_of_bigbird(claim: Claim) -> Found:
    n = 4096
    speedup = float(claim.parameters["a"]) / float(claim.parameters["b"])
    printed = n / (2 * 256 + 64 + 32)
    blocks = n * n / connections(bigbird.mask(n, n, block=64))
    return Found(
        f"98 / 15 is {speedup:.1f}: {speedup / printed:.0%} of the {printed:.1f} times fewer keys "
        f"that the chapter counts, {speedup / blocks:.0%} of the {blocks:.1f} times of the "
        "published blocks",
        f"the printed times; 608 of {n:,} keys; BigBird's mask with blocks of 64, 3 of window, 3 "
        "random and 2 global: Zaheer et al. 2020, arXiv:2007.14062",
    )


@finds("C475")
def _three_times(claim: Claim) -> Found:
    parameters = claim.parameters
    small, *large = (float(parameters[name]) for name in ("c", "a", "b"))
    words = " and ".join(f"{time:.0f} ms are {time / small:,.0f} times" for time in large)
    return Found(
        f"{words} {small} ms",
        "the times that chapters V and E print for one layer at n = 8,192",
        agrees=max(large) / small < 1.5,
    )
