"""Finds what the texts say of attention that looks at content: how sparse it is, and LSH."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv
from attncourse.reference import full, lsh

BUCKETS = 8


@finds("C008")
def _keys_for_most_of_the_mass(claim: Claim) -> Found:
    n = int(claim.parameters["n"])
    q, k, _ = (array[0, 0] for array in random_qkv(64, n))
    shares = {}
    for spread in (0.5, 1, 2, 4):
        weights = np.sort(full.weights(np.float32(spread) * q, k), axis=-1)[:, ::-1]
        shares[spread] = ((weights.cumsum(axis=-1) < 0.9).sum(axis=-1) + 1).mean() / n
    return Found(
        "90 % of the mass lie on "
        + ", ".join(f"{share:.1%} of the keys (spread {s})" for s, share in shares.items()),
        f"64 queries and n = {n:,} keys, random, width 64; spread is the deviation of the logits",
        agrees=max(shares.values()) < 0.5,
    )


@finds("C358")
def _two_hashes(claim: Claim) -> Found:
    x, y = _pair(0.9)
    b, rounds = int(claim.parameters["b"]), 2000
    lone = np.concatenate([x, y]) @ lsh.draw_rotations(64, n_buckets=2 * b, n_rounds=rounds)
    plain = lone.argmax(axis=-1)
    signed = lsh.draw_rotations(64, n_buckets=b, n_rounds=rounds)
    rates = (plain[:, 0] == plain[:, 1]).mean(), lsh.collision_rate(x, y, signed)[0]
    return Found(
        f"directions alone share a bucket in {rates[0]:.2f}, with their opposites in "
        f"{rates[1]:.2f} of the rounds",
        f"two vectors at cosine 0.9, width 64, {b} buckets, {rounds:,} rounds, seed 0; "
        f"Reformer's hash has {b // 2} directions and their opposites",
        agrees=bool(abs(rates[0] - rates[1]) < 0.05),
    )


@finds("C359")
def _collisions(claim: Claim) -> Found:
    b, rounds = int(claim.parameters["b"]), 2000
    rotations = lsh.draw_rotations(64, n_buckets=b, n_rounds=rounds)
    rates = {
        cosine: float(lsh.collision_rate(*_pair(cosine), rotations)[0])
        for cosine in (0.0, 0.5, 0.8, 0.9, 0.99)
    }
    return Found(
        ", ".join(f"cosine {cosine}: {rate:.2f}" for cosine, rate in rates.items()),
        f"share of {rounds:,} rounds in which both are in one of {b} buckets, width 64, seed 0",
        agrees=all(rate > 0.9 for cosine, rate in rates.items() if cosine >= 0.8),
    )


@finds("C360")
def _bucket_sizes(claim: Claim) -> Found:
    n, b = int(claim.parameters["n"]), int(claim.parameters["b"])
    sizes = {name: _sizes(n, common) for name, common in _DATA.items()}
    return Found(
        "; ".join(
            f"{found.mean():.0f} on average, at most {found.max()} ({name})"
            for name, found in sizes.items()
        ),
        _keys_setting(n),
        agrees=bool(np.abs(sizes["random keys"] / (n / b) - 1).max() < 0.25),
    )


@finds("C361")
def _keys_seen(claim: Claim) -> Found:
    n, b = int(claim.parameters["n"]), int(claim.parameters["b"])
    seen = {name: _seen(n, common) for name, common in _DATA.items()}
    return Found(
        ", ".join(f"{keys:.0f} ({name})" for name, keys in seen.items()),
        f"own and next bucket of an average query; {_keys_setting(n)}",
        agrees=abs(seen["random keys"] / (2 * n / b) - 1) < 0.05,
    )


@finds("C362")
def _fewer_keys(claim: Claim) -> Found:
    n = int(claim.parameters["n"])
    return Found(
        n / _seen(n, _DATA["random keys"]),
        "n over the keys in own and next bucket of an average query, before hashing and sorting; "
        f"n = {n:,} random keys of width 64, {BUCKETS} buckets, one round, seed 0",
    )


@finds("C363")
def _mass_found(claim: Claim) -> Found:
    n = 1024
    q, k, _ = random_qkv(n)
    knobs: dict[str, Any] = {"n_buckets": BUCKETS, "chunk": n // BUCKETS}
    weights, words = full.weights(q, k), []
    for rounds in (1, 4):
        seen = lsh.found(q, k, n_rounds=rounds, **knobs)
        words.append(
            f"{(weights * seen).sum(axis=-1).mean():.1%} of the mass in {seen.mean():.1%} of the "
            f"pairs ({rounds} round{'s' * (rounds > 1)})"
        )
    return Found(
        ", ".join(words),
        f"random q and k, n = {n:,}, width 64, {BUCKETS} buckets, chunks of {n // BUCKETS} keys; "
        "no accuracy of a trained model",
    )


@finds("C368")
def _enwik8(claim: Claim) -> Found:
    return Found(
        1.05,
        "Kitaev, Kaiser, Levskaya 2020, arXiv:2001.04451, section 5: 12 layers, tuned and trained "
        "for longer; 1.19 after 20,000 steps",
    )


@finds("C367")
def _length_of_enwik8(claim: Claim) -> Found:
    return Found(
        2**16,
        "the task is named enwik8-64K: Kitaev, Kaiser, Levskaya 2020, arXiv:2001.04451, section 5",
    )


@finds("C410")
def _grows_with_buckets(claim: Claim) -> Found:
    b, lengths = int(claim.parameters["b"]), (4096, 8192, 16384)

    def flops(n: int, n_buckets: int) -> int:
        knobs: dict[str, Any] = {"n_buckets": n_buckets, "n_rounds": 1, "chunk": n // n_buckets}
        return lsh.cost(1, 1, n, n, 64, **knobs).flops

    fixed = exponent(lambda n: flops(n, b), lengths)
    in_b = exponent(lambda b: flops(16384, b), (4, 8, 16))
    return Found(
        f"FLOPs grow as n^{fixed:.2f} b^{in_b:.2f}: quadratic while b stays",
        f"cost of our LSH attention, one round, chunks of n / b keys, width 64: n = 4,096 to "
        f"16,384 with b = {b}, b = 4 to 16 with n = 16,384",
        agrees=abs(fixed - 2) < 0.1 and abs(in_b + 1) < 0.1,
    )


_DATA = {"random keys": 0.0, "with a common mean": 1.0}  # length of what is added to all


def _keys_setting(n: int) -> str:
    return (
        f"n = {n:,} keys of width 64, {BUCKETS} buckets, one round, seed 0; a common mean is a "
        "random vector as long as the others, added to all"
    )


@functools.cache
def _sizes(n: int, common: float) -> np.ndarray:
    """Return the sizes of the buckets of random keys, which may share a mean."""
    _, k, v = (array[0, 0] for array in random_qkv(n))
    rotations = lsh.draw_rotations(64, n_buckets=BUCKETS, n_rounds=1)
    return lsh.bucket_sizes(lsh.hash_vectors(k + common * v[0], rotations), BUCKETS)[0]


def _seen(n: int, common: float) -> float:
    """Return the keys in own and next bucket, averaged over tokens hashed as the keys are."""
    sizes = _sizes(n, common)
    return float((sizes * (sizes + np.roll(sizes, -1))).sum() / n)


def _pair(cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two vectors (1, 64) at a given angle."""
    x = np.zeros((1, 64))
    y = np.zeros((1, 64))
    x[0, 0], y[0, 0], y[0, 1] = 1, cosine, np.sqrt(1 - cosine**2)
    return x, y
