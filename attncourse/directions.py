"""Random directions, drawn by NumPy: the same seed gives a reference and its Triton twin the same.

Performer projects on them to estimate an exponential, LSH attention to find neighbours.
"""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count


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
    check_count(where, "n_features", n_features, least=1)
    generator = np.random.default_rng(check_count(where, "seed", seed))
    directions = generator.standard_normal((n_features, width))
    if orthogonal:
        lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
        blocks = generator.standard_normal((-(-n_features // width), width, width))
        rotations, upper = np.linalg.qr(blocks)
        # qr picks signs that depend on the block; these make every rotation equally likely
        rotations *= np.sign(np.einsum("bii->bi", upper))[:, None, :]
        directions = rotations.reshape(-1, width)[:n_features] * lengths
    return directions.astype(np.float32)  # rounding draws other directions, and is no error
