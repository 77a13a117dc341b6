"""Chapter 09: exact attention in chunks and tiles, what it holds and what it moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from attncourse import bench, measure
from attncourse.bench import records
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import chunked, flash, full
from attncourse.softmax import softmax
from attncourse.units import format_difference

TILES: dict[str, Any] = {"block_q": 64, "block_k": 64}
SHOWN: dict[str, Any] = dict(bench.SHOWN)
MB = 1e6


@finds("C012")
def _never_whole(claim: Claim) -> Found:
    n = 2048
    matrix = 4 * n * n
    held = measure.peak_bytes(flash.attention, *random_qkv(n), **TILES)
    standard = measure.peak_bytes(full.attention, *random_qkv(n))
    exact = _exact(claim)
    return Found(
        f"{held / MB:.2f} MB are held at most, output included; the matrix takes "
        f"{matrix / MB:.1f} MB, and standard attention holds {standard / MB:.1f} MB; "
        f"{exact.value}",
        f"measured peak, NumPy, float32, n = {n:,}; exactness: {exact.setting}",
        agrees=held < matrix / 8 and standard >= matrix and bool(exact.agrees),
    )


@finds("C413")
def _exact(claim: Claim) -> Found:
    q, k, v = random_qkv(512, dtype=np.float64)
    wanted = full.attention(q, k, v)
    off = float(np.abs(flash.attention(q, k, v, **TILES) - wanted).max())
    unit = float(np.finfo(float).eps * np.abs(wanted).max())
    return Found(
        f"{format_difference(off, below=16 * unit)} apart, 16 roundings of the largest output",
        "tiles of 64 × 64 against full attention, float64, n = 512, one head of 64, seed 0",
        agrees=off < 16 * unit,
    )


@finds("C013")
def _kept(claim: Claim) -> Found:
    n = 1024
    _, lse = flash.forward(*random_qkv(n), **TILES)
    return Found(
        f"{lse.size:,} numbers for {n:,} queries: each keeps a running maximum and a running sum, "
        "which become one logarithm of a sum that the backward pass reads",
        "tiles of 64 × 64, one head of 64",
        agrees=lse.size == 0,
    )


def _beyond(n: int) -> int:
    """Return the most bytes that tiles hold beyond their output."""
    return measure.peak_bytes(flash.attention, *random_qkv(n), **TILES) - n * 64 * 4


@finds("C031")
def _statistics_only(claim: Claim) -> Found:
    small, large = _beyond(1024), _beyond(2048)
    each = (large - small) / 1024
    return Found(
        f"beyond the output {large / 1e3:.0f} kB are held at n = 2,048, and {each:.1f} bytes more "
        f"for each further query; the matrix would take {4 * 2048**2 / MB:.1f} MB",
        "tiles of 64 × 64, float32, one head of 64, measured peak, NumPy; a tile, its queries and "
        "their sums so far are in it",
        agrees=abs(each - 4) < 2,
    )


@finds("C050")
def _mixed_chunks(claim: Claim) -> Found:
    q, k, v = random_qkv(1024)
    wanted = full.attention(q, k, v)
    parts = [
        softmax(q @ k[..., half, :].swapaxes(-1, -2) / 8) @ v[..., half, :]
        for half in (slice(0, 512), slice(512, 1024))
    ]
    largest = np.abs(wanted).max()
    off = float(np.abs(sum(parts) - wanted).max() / largest)
    whole = chunked.attention(q, k, v, chunk=64)
    right = float(np.abs(whole - wanted).max() / largest)
    return Found(
        f"softmax in each half of the keys, times its values, added up: {off:.0%} of the largest "
        f"output off; chunks of queries over all keys, nothing added: "
        f"{'only rounding' if right < 1e-5 else f'{right:.0%}'}",
        "n = 1,024, one head of 64, seed 0",
        agrees=off < 1e-3,
    )


@finds("C051")
def _chunks(claim: Claim) -> Found:
    def held(n: int, chunk: int = 256) -> int:
        return chunked.cost(1, 1, n, n, 64, chunk=chunk).peak_bytes

    def scores(chunk: int) -> int:
        return held(65536, chunk) - 65536 * 64 * 4

    lengths = (2**14, 2**15, 2**16)
    matrix = exponent(lambda n: full.cost(1, 1, n, n, 64).peak_bytes, lengths)
    length, size = exponent(held, lengths), exponent(scores, (256, 512, 1024))
    n, c = int(claim.parameters["n"]), int(claim.parameters["c"])
    return Found(
        f"the peak grows as n^{length:.1f} and c^{size:.1f} instead of n^{matrix:.1f}: "
        f"{n * n / (n * c):.0f} times fewer scores",
        f"peak of the references, n = 16,384 to 65,536 with chunks of {c}, one head of 64; the "
        "factor at n = 4,096",
        agrees=abs(length - 1) < 0.1 and abs(size - 1) < 0.1 and matrix > 1.8,
    )


@finds("C052", "C146")
def _speedup(claim: Claim) -> Found:
    record = bench.latest("gpu", mechanisms=["full", "flash"], **SHOWN)
    gains = records.speedups(record, "full", "flash", **SHOWN)
    if record is None or not gains:  # or none of both at one length
        return Found("no run on a GPU is recorded here", "results of attncourse bench")
    words = ", ".join(f"{gain:.1f}× at n = {n:,}" for n, gain in gains.items())
    return Found(
        words,
        f"our flash kernel over our standard one, which is unfused, {record['machine']['gpu']}, "
        f"{record['date'][:10]}, {record['settings']['dtype']}, "
        f"{records.setting_words(SHOWN)}",
        agrees=all(2 <= gain <= 4 for gain in gains.values()),
    )


@finds("C266")
def _tile_of_768(claim: Claim) -> Found:
    block, sram = 128, 192

    def needed(width: int, n_bytes: int) -> float:
        return (4 * block * width + block * block) * n_bytes / 1024

    return Found(
        f"{needed(768, 4):,.0f} KiB of {sram} in float32, {needed(768, 2):,.0f} in float16; heads "
        f"of 64 in float16 need {needed(64, 2):.0f}",
        "tiles of q, k, v, output and scores, 128 × 128; an A100's SM has 192 KiB: Dao et al. "
        "2022, arXiv:2205.14135, section 2.1",
        agrees=needed(768, 4) <= sram,
    )


@finds("C267")
def _of_order_n(claim: Claim) -> Found:
    def held(n: int, width: int = 64) -> int:
        return flash.cost(1, 1, n, n, width, **TILES).peak_bytes

    lengths = (2**16, 2**17)
    each = exponent(held, lengths)
    more = {d: (held(2**17, d) - held(2**16, d)) / 2**16 / 4 for d in (64, 128)}
    words = ", ".join(f"{numbers:.0f} at width {d}" for d, numbers in more.items())
    return Found(
        f"the peak grows as n^{each:.2f}, by these numbers for each query: {words}, the output "
        "and 1 of statistics; q, k and v come on top",
        "peak of the reference, tiles of 64 × 64, n = 65,536 and 131,072",
        agrees=abs(each - 1) < 0.05 and more[128] == more[64],  # O(n) would not grow with d
    )


@finds("C263")
def _sram(claim: Claim) -> Found:
    each, sms = 192, 108
    return Found(
        each * 1024 / 1e6,
        f"{each} KiB in each of {sms} SMs of an A100, {each * sms / 1024:.2f} MiB in all: Dao et "
        "al. 2022, arXiv:2205.14135, section 2.1",
    )


@finds(*(f"C{number}" for number in range(273, 278)))
def _estimate(claim: Claim) -> Found:
    n, a100 = int(claim.parameters["n"]), DEVICES["A100 40 GB"]
    record = bench.latest("gpu", mechanisms=["flash"], **SHOWN)
    measured = records.times(record, "flash", **SHOWN).get(n)
    beside = ""
    if record is not None and measured is not None:
        beside = (
            f"; measured: {measured * 1e3:.2f} ms, {SHOWN['heads']} heads of {SHOWN['width']} in "
            f"{record['settings']['dtype']}, {record['machine']['gpu']}, {record['date'][:10]}"
        )
    return Found(
        float(f"{1e3 * full.cost(1, 12, n, n, 64).flops / (0.4 * a100.peak('float16')):.3g}"),
        f"an estimate, no measurement: 12 heads of 64, n = {n:,}, both products at 40 % of an "
        f"A100's {a100.peak('float16') / 1e12:.0f} TFLOP/s{beside}",
    )


@finds("C268", "C270")
def _with_output(claim: Claim) -> Found:
    n, d, each = (int(claim.parameters[name]) for name in ("n", "d", "bytes"))
    heads = d // 64
    cost = flash.cost(1, heads, n, n, 64, **TILES, dtype_bytes=each)
    total = 3 * n * d * each + cost.bytes_written  # q, k, v; output and statistics
    return Found(
        float(f"{total / MB:.3g}"),
        f"q, k, v, output and one number for each query and head, n = {n:,}, {heads} heads of 64, "
        "float32; without the output "
        f"{3 * n * d * each / MB:.1f}",
    )


@finds("C283", "C284")
def _cache(claim: Claim) -> Found:
    n, each, l2 = int(claim.parameters["n"]), int(claim.parameters["bytes"]), 40
    one, twelve = (heads * n * n * each / MB for heads in (1, 12))
    half = 12 * n * n * 2 / MB
    fits = {True: "fit", False: "do not"}
    agree = one <= l2 and twelve <= l2 if claim.id == "C283" else one > l2 and twelve > l2
    return Found(
        f"one head's {one:.1f} MB {fits[one <= l2]}, 12 heads' {twelve:.1f} MB "
        f"{fits[twelve <= l2]}; in float16 12 heads' {half:.1f} MB {fits[half <= l2]}",
        f"n = {n:,}, {each} bytes a number as in the sizes printed, which decide; an A100's L2 "
        f"cache has {l2} MB: NVIDIA A100 data sheet",
        agrees=agree,
    )


@finds("C288")
def _second_version(claim: Claim) -> Found:
    return Found(
        2.0,
        "a fact of the paper's abstract, about 2 times on an A100: Dao 2023, arXiv:2307.08691; "
        "the first version is not among the kernels here",
    )


@finds("C289")
def _parallel(claim: Claim) -> Found:
    n, heads, block, width = 8192, 12, 128, 64
    tiles = -(-n // block)
    return Found(
        f"{heads * tiles:,} programs instead of {heads}: one a tile of {block} queries, where the "
        f"first version starts one a head; {n * width * tiles / 1e6:.0f} million divisions a head "
        f"become {n * width / 1e6:.1f} million",
        f"n = {n:,}, {heads} heads of {width}, batch 1; Dao 2023, arXiv:2307.08691, sections 3.1 "
        "to 3.3: fewer operations that are no products, work split over the sequence, and over "
        "warps",
        agrees=tiles == 1,
    )


@finds("C348")
def _fused(claim: Claim) -> Found:
    n, width = 512, 64
    flops = measure.count_flops(flash.attention, *random_qkv(n), **TILES)
    pair, projection = 2 * n * n * width, 2 * n * width * width
    return Found(
        f"{flops / pair:.0f} products of {n} × {n} × {width}, and "
        f"{(flops - 2 * pair) / projection:.0f} of {n} × {width} × {width}",
        "products counted in the reference, whose kernel has the same steps: q kᵀ, softmax, · v",
        agrees=flops == 2 * pair + projection,
    )


@finds("C449")
def _batch(claim: Claim) -> Found:
    def kept(n: int, standard: bool) -> int:
        return 4 * n * 64 * 2 + (n * n * 2 if standard else 4 * n)

    factors = {n: kept(n, True) / kept(n, False) for n in (512, 4096, 8192)}
    words = ", ".join(f"{factor:.0f} at n = {n:,}" for n, factor in factors.items())
    return Found(
        f"{words}, if attention had the memory to itself",
        "kept for the backward pass by one head of 64 in float16: q, k, v, output, and the weights "
        "or one float32 number a query",
    )
