"""Random directions, drawn by NumPy: the same seed gives a reference and its Triton twin the same.

Performer projects on them to estimate an exponential, LSH attention to find neighbours.
"""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count, check_flag, stream


def draw_directions(
    where: str, n_features: int, width: int, orthogonal: bool, seed: int
) -> np.ndarray:
    """Return the directions of Performer, float32 (m, D); see `reference.performer.draw_features`.

    Args:
        where: The function that asks, such as "performer.attention".
        n_features: m.
        width: D.
        orthogonal: Blocks of D directions at right angles.
        seed: At least 0.
    """
    n_features = check_count(where, "n_features", n_features, least=1)
    orthogonal = check_flag(where, "orthogonal", orthogonal)
    generator = stream("performer", check_count(where, "seed", seed))
    directions = generator.standard_normal((n_features, width))  # (m, D)
    if orthogonal:
        lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
        blocks = generator.standard_normal((-(-n_features // width), width, width))
        rotations, upper = np.linalg.qr(blocks)
        # qr picks signs that depend on the block; these make every rotation equally likely
        rotations *= np.sign(np.einsum("bii->bi", upper))[:, None, :]
        directions = rotations.reshape(-1, width)[:n_features] * lengths
    return directions.astype(np.float32)  # rounding draws other directions, and is no error


def draw_rotations(width: int, n_buckets: int, n_rounds: int, seed: int) -> np.ndarray:
    """Return LSH's directions (rounds, D, n_buckets / 2); see `reference.lsh.draw_rotations`.

    Args:
        width: D.
        n_buckets: Even.
        n_rounds: Independent drawings; more leave the earlier ones as they were.
        seed: At least 0.
    """
    generator = stream("lsh", seed)
    return generator.standard_normal((n_rounds, width, n_buckets // 2))


def check_buckets(where: str, n_buckets: int, n_rounds: int, seed: int) -> tuple[int, int, int]:
    """Return buckets, rounds and seed as ints, or refuse what hashing cannot use."""
    n_buckets = check_count(where, "n_buckets", n_buckets, least=2)
    if n_buckets % 2:
        raise ValueError(f"{where}: n_buckets must be even, got {n_buckets}")
    n_rounds = check_count(where, "n_rounds", n_rounds, least=1)
    return n_buckets, n_rounds, check_count(where, "seed", seed)
