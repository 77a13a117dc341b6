"""Finds what the texts say of local windows: real masks, costs, and times on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from attncourse import graph, masks, measure
from attncourse.bench import SHOWN, latest, records
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv
from attncourse.reference import full, strided, window


@finds("C009")
def _grows_with_the_window(claim: Claim) -> Found:
    in_n = exponent(lambda n: window.cost(1, 1, n, n, 64, window=128).flops, (4096, 8192, 16384))
    in_w = exponent(lambda w: window.cost(1, 1, 16384, 16384, 64, window=w).flops, (256, 512, 1024))
    return Found(
        f"FLOPs grow as n^{in_n:.2f} w^{in_w:.2f}",
        "cost of our blocked window, width 64: n = 4,096 to 16,384 with radius 128, "
        "radius 256 to 1,024 with n = 16,384",
        agrees=abs(in_n - 1) < 0.1 and abs(in_w - 1) < 0.1,
    )


@finds("C058")
def _grows_with_the_width(claim: Claim) -> Found:
    in_n = exponent(lambda n: window.cost(1, 1, n, n, 64, window=128).flops, (4096, 8192, 16384))
    in_w = exponent(lambda w: window.cost(1, 1, 16384, 16384, 64, window=w).flops, (256, 512, 1024))
    in_d = exponent(lambda d: window.cost(1, 1, 4096, 4096, d, window=128).flops, (64, 128, 256))
    return Found(
        f"FLOPs grow as n^{in_n:.2f} w^{in_w:.2f} d^{in_d:.2f}",
        "cost of our blocked window: n = 4,096 to 16,384, radius 256 to 1,024, d = 64 to 256",
        agrees=all(abs(found - 1) < 0.1 for found in (in_n, in_w, in_d)),
    )


@finds("C059")
def _speed_of_a_window(claim: Claim) -> Found:
    n, w = int(claim.parameters["n"]), int(claim.parameters["w"])
    alone: dict[str, Any] = {**SHOWN, "heads": 1, "n": n}
    if recorded := latest("cpu", mechanisms=["full", "window"], **alone):
        gain = records.speedups(recorded, "full", "window", **alone)[n]
        where = f"{recorded['machine']['cpu']}, NumPy, {recorded['date'][:10]}"
    else:
        slow, fast = _attention(n), _attention(n, window=w // 2)
        gain = measure.seconds(slow, repeats=3).median / measure.seconds(fast, repeats=3).median
        where = "this machine's CPU, NumPy"
    masked, plain = _performed(True), _performed(False)
    return Found(
        f"{gain:.1f} times faster in blocks; with a mask {masked / plain:.0%} of the products of "
        "full attention",
        f"time: n = {n:,}, {w // 2} keys on each side, one head of 64, {where}; products: counted "
        "at n = 1,024",
        agrees=gain > 0.9 * n / w and masked < plain / 2,
    )


@finds("C062")
def _sight(claim: Claim) -> Found:
    n, w = 257, 32
    mask = window.mask(n, n, window=w // 2)
    i, j = np.nonzero(mask)
    farthest, later = np.abs(i - j).max(), graph.hops(mask)[0, w // 2 + 1]
    return Found(
        f"the farthest key is {farthest} tokens away; one token more takes {later} layers",
        f"mask of n = {n}, w = {w} on both sides together",
        agrees=bool(farthest == w // 2 and later == 2),
    )


@finds("C064")
def _longer(claim: Claim) -> Found:
    shorter, longest = np.array([512, 1024]), np.array([4096, 8192])
    ratios = longest[:, None] / shorter
    same_end = longest / shorter
    return Found(
        f"{same_end.min():.0f} times at both ends, "
        f"{ratios.min():.0f} to {ratios.max():.0f} times in all",
        "chapter V's table of greatest lengths: full 512-1024, local 4096-8192",
        agrees=bool(10 <= same_end.min() and same_end.max() <= 20),
    )


@finds("C170")
def _speed_on_a_gpu(claim: Claim) -> Found:
    shown: dict[str, Any] = SHOWN
    recorded = latest("gpu", mechanisms=["full", "window"], **shown)
    if recorded is not None:
        gains = records.speedups(recorded, "full", "window", **shown)
        return Found(
            records.speedup_words(gains),
            f"{recorded['machine']['gpu']}, {recorded['date'][:10]}, "
            f"{records.setting_words(shown)}, {recorded['settings']['dtype']}, "
            "our standard kernel, unfused, over our window of 128 keys on each side",
        )
    n, w = 1024, 128
    slow = measure.seconds(_attention(n), repeats=3).median
    fast = measure.seconds(_attention(n, window=w // 2), repeats=3).median
    return Found(
        f"{slow / fast:.1f} times, with {n / w:.0f} times fewer pairs",
        f"no run on a GPU is recorded; n = {n:,}, w = {w}, this machine's CPU, NumPy",
    )


@finds("C214")
def _layers(claim: Claim) -> Found:
    n, w = 512, 64
    needed = int(graph.hops(window.mask(n, n, window=w)).max())
    return Found(
        f"{needed} layers; ceil(n / w) = {-(-n // w)}",
        f"graph search in the mask of n = {n}, w = {w} on each side",
        agrees=needed == -(-n // w),
    )


@finds("C216")
def _strided_reach(claim: Claim) -> Found:
    n, s = 512, int(claim.parameters["s"])
    mask = strided.mask(n, n, stride=s)
    alone, islands = graph.reach(mask, 8), len(np.unique(graph.islands(mask)))
    joined = graph.hops(mask | window.mask(n, n, window=s // 2))
    return Found(
        f"alone {alone.mean():.2%} of all pairs after 8 layers, in {islands} islands; "
        f"with a window of {s // 2} on each side all pairs after {joined.max()} layers",
        f"masks of n = {n}, s = {s}",
        agrees=bool(alone.all()),
    )


@finds("C057")
def _keys_of_half_a_window(claim: Claim) -> Found:
    n, w = 1024, int(claim.parameters["w"])
    return Found(
        float(window.mask(n, n, window=w // 2)[n // 2].sum()),
        f"mask of n = {n:,}, a query in the middle, i - w/2 ... i + w/2 with w = {w}",
    )


@finds("C370")
def _keys_of_the_printed_code(claim: Claim) -> Found:
    n, w = 1024, int(claim.parameters["w"])
    mask = np.zeros((n, n), dtype=bool)
    for i in range(n):
        mask[i, max(0, i - w // 2) : min(n, i + w // 2 + 1)] = True
    before, after = np.flatnonzero(mask[n // 2])[[0, -1]] - n // 2
    return Found(
        f"{-before} keys before and {after} after the query, {mask[n // 2].sum()} with its own",
        f"the interval of the printed code, n = {n:,}, w = {w}, a query in the middle",
        agrees=bool(-before == w == after),
    )


@finds("C375")
def _products_of_the_scores(claim: Claim) -> Found:
    return Found(_performed() / 2, _DENSE)


@finds("C376")
def _products_in_all(claim: Claim) -> Found:
    return Found(_performed(), _DENSE)


@finds("C406")
def _inflation(claim: Claim) -> Found:
    n, w = int(claim.parameters["n"]), int(claim.parameters["w"])
    q, k, _ = (array[0, 0] for array in random_qkv(n))
    distance = np.abs(np.arange(n) - np.arange(n)[:, None])
    inside = window.mask(n, n, window=w // 2)
    grown = {
        pull: 1 / (full.weights(q, k, bias=-pull * distance / (w // 2)) * inside).sum(axis=-1)
        for pull in (0.0, 3.0)
    }
    return Found(
        f"on average {grown[0.0].mean():.1f}-fold weights inside without preference, "
        f"{grown[3.0].mean():.2f}-fold where attention is local",
        f"n = {n:,}, {w // 2} keys on each side, random q and k of width 64; "
        f"local: scores fall by 3 in {w // 2} tokens",
        agrees=bool(grown[0.0].max() < 1.01),
    )


@finds("C408")
def _printed_corner(claim: Claim) -> Found:
    n, crop, half = 1024, int(claim.parameters["crop"]), int(claim.parameters["half"])
    mask = window.mask(n, n, window=half)
    corner = masks.density(mask[:crop, :crop])
    return Found(
        f"{corner:.1%} filled, and {masks.density(mask):.1%} of the whole mask",
        f"mask of n = {n:,}, {half} keys on each side; its first {crop} rows and columns",
        agrees=corner < 0.5,
    )


@finds("C476")
def _readings(claim: Claim) -> Found:
    n, w = 1024, int(claim.parameters["w"])
    inside = {
        int(window.mask(n, n, window=w // 2)[n // 2].sum()),
        int(window.mask(n, n, window=w)[n // 2].sum()),
    }
    keys = sorted({w, 2 * w} | inside)
    return Found(
        f"{', '.join(map(str, keys[:-1]))} or {keys[-1]} keys for a query",
        f"w = {w}: masks of n = {n:,} with w/2 and with w keys on each side, and the w and 2w "
        "keys that totals are printed with",
        agrees=len(keys) == 1,
    )


_DENSE = (
    "counted in full attention under the mask, as the printed code computes it: n = 1,024, "
    "128 keys on each side, width 64"
)


@functools.cache
def _performed(masked: bool = True) -> float:
    """Return the multiply-adds of both products of full attention, under a window's mask or not."""
    n, w = 1024, 256
    q, k, v = random_qkv(n)
    mask = window.mask(n, n, window=w // 2) if masked else None
    return measure.count_flops(full.attention, q, k, v, mask=mask) / 2


def _attention(n: int, **knobs: int) -> Callable[[], np.ndarray]:
    """Return a call of window attention if a window is given, else of full attention."""
    attention: Callable[..., np.ndarray] = window.attention if knobs else full.attention
    return functools.partial(attention, *random_qkv(n), **knobs)
