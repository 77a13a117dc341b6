"""Finds what the texts say of low rank: costs of Linformer and Synthesizer, spectra of weights."""

from __future__ import annotations

import functools

import numpy as np

from attncourse import spectra
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv
from attncourse.reference import full, linformer, synthesizer


@finds("C017")
def _no_query_meets_a_key(claim: Claim) -> Found:
    n, D, rank = 4096, 64, 8
    saved = full.cost(1, 1, n, n, D).flops
    saved -= synthesizer.cost(1, 1, n, n, D, hidden=rank, kind="random").flops
    return Found(
        f"{saved:,} FLOPs less, those of one product; but {n * n:,} learned logits, or "
        f"{2 * n * rank:,} as factors",
        f"costs of full attention and of our Synthesizer, one head, n = {n:,}, width {D}, "
        f"rank {rank}",
        agrees=saved == 2 * n * n * D,
    )


@finds("C019")
def _error_of_low_rank(claim: Claim) -> Found:
    n, rank = 256, 64
    errors = {
        name: float(np.sqrt(1 - spectra.energy_curve(matrix)[rank - 1]))
        for name, matrix in _weights(n).items()
    }
    return Found(
        ", ".join(f"{name} {error:.2f}" for name, error in errors.items()),
        f"relative error of the best approximation of rank {rank}, n = {n}: the share of n that "
        "rank 256 is of 1,024",
        agrees=max(errors.values()) < 0.1,
    )


@finds("C090", "C239")
def _grows_with_the_rank(claim: Claim) -> Found:
    in_n = exponent(lambda n: linformer.cost(1, 1, n, n, 64, rank=256).flops)
    in_r = exponent(lambda r: linformer.cost(1, 1, 4096, 4096, 64, rank=r).flops, (64, 128, 256))
    in_d = exponent(lambda d: linformer.cost(1, 1, 4096, 4096, d, rank=256).flops, (64, 128, 256))
    name = "k" if "k" in claim.printed else "r"
    return Found(
        f"FLOPs grow as n^{in_n:.2f} {name}^{in_r:.2f} d^{in_d:.2f}",
        f"cost of our Linformer: n = 1,024 to 4,096, {name} = 64 to 256, d = 64 to 256",
        agrees=all(abs(found - 1) < 0.01 for found in (in_n, in_r, in_d)),
    )


@finds("C240")
def _effective_ranks(claim: Claim) -> Found:
    n = 256
    ranks = {
        name: [int(spectra.effective_rank(matrix, energy=share)) for share in (0.9, 0.99)]
        for name, matrix in _weights(n).items()
    }
    return Found(
        ", ".join(f"{name} {low}/{high}" for name, (low, high) in ranks.items()),
        f"rank that holds 90 / 99 % of the energy, n = {n}, no trained weights",
    )


@functools.cache
def _weights(n: int) -> dict[str, np.ndarray]:
    """Return weights of attention that is random, local, or a copy of the token before."""
    q, k, _ = (array[0, 0] for array in random_qkv(n))
    distance = np.arange(n) - np.arange(n)[:, None]
    nothing = np.zeros_like(q)
    return {
        "smooth local band": full.weights(nothing, nothing, bias=-((distance / 16) ** 2) / 2),
        "random logits of spread 1": full.weights(q, k),
        "random logits of spread 4": full.weights(4 * q, k),
        "copy of the token before": full.weights(nothing, nothing, bias=5.0 * (distance == -1)),
    }
