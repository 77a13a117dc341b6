"""Locality-sensitive hashing: vectors that point the same way tend to share a bucket."""

from __future__ import annotations

import numpy as np

from attncourse.definitions import directions
from attncourse.definitions.directions import check_buckets

STRETCH = 128  # tokens hashed together


def draw_rotations(width: int, *, n_buckets: int, n_rounds: int, seed: int = 0) -> np.ndarray:
    """Return random directions (rounds, D, n_buckets / 2), standard normal.

    They are called rotations after the paper; they are not orthogonal. More rounds leave the
    earlier ones as they were.

    Args:
        width: D.
        n_buckets: Even: each direction and its opposite is a bucket.
        n_rounds: Independent drawings.
        seed: The same seed gives the same rotations.

    Paper:
        Andoni et al. 2015, arXiv:1509.02897; Kitaev, Kaiser, Levskaya 2020,
        arXiv:2001.04451, section 2.
    """
    n_buckets, n_rounds, seed = check_buckets("lsh.draw_rotations", n_buckets, n_rounds, seed)
    return directions.draw_rotations(width, n_buckets, n_rounds, seed)


def hash_vectors(x: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return the bucket of each vector in each round: argmax of [x R, -x R].

    Only directions count: a vector and any positive multiple of it share their buckets.

    Args:
        x: (..., T, D) floating.
        rotations: R (rounds, D, n_buckets / 2), from `draw_rotations`.

    Returns:
        int (rounds, ..., T), 0 to n_buckets - 1.

    Memory:
        The products of 128 tokens, (..., 128, n_buckets).
    """
    work = np.result_type(x.dtype, np.float32)
    buckets = np.empty((len(rotations), *x.shape[:-1]), np.int64)
    for round_, rotation in enumerate(rotations.astype(work, copy=False)):
        for first in range(0, x.shape[-2], STRETCH):
            part = slice(first, first + STRETCH)
            along = np.matmul(x[..., part, :].astype(work, copy=False), rotation)
            both = np.concatenate([along, -along], axis=-1)  # (..., 128, n_buckets)
            buckets[round_, ..., part] = both.argmax(axis=-1)
    return buckets


def collision_rate(x: np.ndarray, y: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return in which share of the rounds x and y share a bucket.

    Args:
        x: (..., T, D).
        y: (..., T, D), compared with x row by row.
        rotations: (rounds, D, n_buckets / 2); many rounds estimate the probability.

    Returns:
        (..., T), 0 to 1.
    """
    return (hash_vectors(x, rotations) == hash_vectors(y, rotations)).mean(axis=0)


def bucket_sizes(buckets: np.ndarray, n_buckets: int) -> np.ndarray:
    """Return how many tokens each bucket holds: (..., n_buckets) for buckets (..., T)."""
    sizes = np.zeros((*buckets.shape[:-1], n_buckets), np.int64)
    for index in np.ndindex(*buckets.shape[:-1]):
        sizes[index] = np.bincount(buckets[index], minlength=n_buckets)
    return sizes
