"""Chapter 15: the advice on which method to choose."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from attncourse import measure
from attncourse.bench import SHOWN, latest
from attncourse.bench.records import speedups
from attncourse.catalogue import MECHANISMS
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finders.complexity import LONG, LONG_WORDS, window_flops
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv
from attncourse.reference import (
    flash,
    full,
    linear,
    performer,
    window,
)
from attncourse.units import format_difference


@finds("C099")
def longest_with_full_attention(claim: Claim) -> Found:
    """Take lengths at which models with full attention were trained."""
    lengths = {"BERT": 512, "GPT-2": 1024, "Llama 2": 4096}
    low, high = map(int, claim.printed.split("-"))
    return Found(
        ", ".join(f"{n:,} in {model}" for model, n in lengths.items()),
        "Devlin et al. 2019, appendix A.2; Radford et al. 2019, section 2.3; Touvron et al. 2023 "
        "(Llama 2), table 1",
        all(low <= n <= high for n in lengths.values()),
    )


@finds("C211")
def families(claim: Claim) -> Found:
    """Give Performer's features to linear attention: are the two families one?"""
    q, k, v = random_qkv(64, width=16)
    directions = performer.draw_features(32, 16)

    def features(x: np.ndarray) -> np.ndarray:
        return performer.feature_map(x, directions)

    one = linear.attention(q, k, v, feature_map=features)
    apart = float(np.abs(one - performer.attention(q, k, v, n_features=32)).max())
    kinds = len({mechanism.family for mechanism in MECHANISMS.values()})
    same = apart < 1e-4
    return Found(
        f"{5 - same} of the 5 are different: linear attention with Performer's features is "
        f"Performer (apart by {format_difference(apart, below=1e-5)}); this course sorts into "
        f"{kinds} families",
        "linear.attention and performer.attention, n = 64, D = 16, m = 32; the catalogue",
        not same,
    )


@finds("C344")
def sparse_beyond_8192(claim: Claim) -> Found:
    """Fit how window attention grows, and divide the printed times."""
    times_printed = {"Longformer": 72, "BigBird": 60, "Performer": 48}
    ratios = {name: ms / times_printed["Performer"] for name, ms in times_printed.items()}
    power = exponent(window_flops, LONG)
    return Found(
        f"window attention grows with n to the power {power:.2f}; printed at n = 16,384: "
        f"Longformer {ratios['Longformer']:.2f} and BigBird {ratios['BigBird']:.2f} times as long "
        "as Performer",
        f"window.cost, {LONG_WORDS}; 72, 60 and 48 ms of chapter E",
        power > 1.1,
    )


@finds("C342")
def printed_gains_of_sparse(claim: Claim) -> Found:
    """Divide chapter E's own times between 2048 and 8192 tokens."""
    gains = {
        "Longformer at 4,096": 98 / 18,
        "BigBird at 4,096": 98 / 15,
        "BigBird at 8,192": 390 / 30,
    }
    low, high = map(int, claim.printed.split("-"))
    return Found(
        ", ".join(f"{gain:.1f} for {name}" for name, gain in gains.items()),
        "quotients of chapter E's printed times: 98/18, 98/15 and 390/30 ms"
        + _gain_on_a_gpu("window", (4096, 8192)),
        all(low <= gain <= high for gain in gains.values()),
    )


@finds("C341", "C343")
def printed_gains_of_flash(claim: Claim) -> Found:
    """Divide chapter E's own times, and show what a GPU of another kind gave."""
    gains, lengths = (
        ({1024: 8 / 3, 2048: 12 / 3.5}, (1024, 2048))
        if claim.id == "C341"
        else ({2048: 12 / 3.5, 4096: 98 / 25, 8192: 190 / 55}, (2048, 4096, 8192))
    )
    low, high = map(int, claim.printed.split("-"))
    return Found(
        ", ".join(f"{gain:.1f} at n = {n:,}" for n, gain in gains.items()) + ", as printed",
        "quotients of chapter E's printed times on an A100" + _gain_on_a_gpu("flash", lengths),
        all(low <= gain <= high for gain in gains.values()),
    )


def _gain_on_a_gpu(stem: str, lengths: tuple[int, ...]) -> str:
    """Return what a record of a GPU says of standard attention's time over another's."""
    wanted: dict[str, Any] = dict(SHOWN)
    record = latest("gpu", mechanisms=["full", stem], **wanted)
    gains = speedups(record, "full", stem, **wanted)
    words = ", ".join(f"{gains[n]:.1f} at n = {n:,}" for n in lengths if n in gains)
    if record is None or not words:
        return ""
    gpu, date = record["machine"]["gpu"], record["date"][:10]
    how = f"{wanted['heads']} heads of {wanted['width']} in {record['settings']['dtype']}"
    return f"; measured for {stem}: {words} ({how}, {gpu}, {date})"


def _quick(function: Callable[..., Any], *args: Any, **knobs: Any) -> float:
    """Return the seconds of the faster calls, so that others on the machine disturb less."""
    return measure.seconds(function, *args, repeats=9, at_most=0.15, **knobs).low


@finds("C340")
def short_texts(claim: Claim) -> Found:
    """Time standard attention and others at 256 tokens."""
    n = 256
    qkv = random_qkv(n, heads=12)
    standard = _quick(full.attention, *qkv)
    others = {
        "flash": _quick(flash.attention, *qkv, block_q=256, block_k=256),
        "a window of 64 a side": _quick(window.attention, *qkv, window=64),
        "Performer with m = 128": _quick(performer.attention, *qkv, n_features=128),
    }
    ratios = {name: seconds / standard for name, seconds in others.items()}
    return Found(
        "; ".join(f"{name} takes {ratio:.1f} times as long" for name, ratio in ratios.items())
        + " as standard attention",
        f"this machine's CPU, NumPy, n = {n}, 12 heads of 64, float32",
        min(ratios.values()) > 1,
    )


@finds("C346")
def sparse_on_a_cpu(claim: Claim) -> Found:
    """Time a window as blocks, and as a mask on all scores, against standard attention."""
    n, side = 2048, 64
    qkv = random_qkv(n)
    standard = _quick(full.attention, *qkv)
    blocked = _quick(window.attention, *qkv, window=side)
    masked = _quick(full.attention, *qkv, mask=window.mask(n, n, window=side))
    return Found(
        f"blocks: {standard / blocked:.1f} times as fast as standard attention; a mask on all "
        f"scores: {standard / masked:.2f} times",
        f"this machine's CPU, NumPy, n = {n:,}, one head of 64, {side} keys a side",
        standard > 2 * blocked and standard > 2 * masked,
    )


@finds("C148", "C290")
def fused_attention_in_torch(claim: Claim) -> Found:
    """Ask torch what it has of its own, and whether xformers has any part in it."""
    import torch

    own = ["torch.nn.functional.scaled_dot_product_attention"]
    fused = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.from_numpy(a) for a in random_qkv(64))
    apart = float((fused(q, k, v) - torch.softmax(q @ k.mT / 8, dim=-1) @ v).abs().max())
    if importlib.util.find_spec("torch.nn.attention.flex_attention"):
        own.append("torch.nn.attention.flex_attention")
    foreign = "xformers" in sys.modules
    return Found(
        f"{' and '.join(own)}: {len(own)} of torch's own, the first "
        f"{format_difference(apart, below=1e-5)} from standard attention; xformers loaded: "
        f"{foreign}",
        f"torch {torch.__version__.partition('+')[0]}, this machine's CPU",
        foreign or apart > 1e-3,
    )
