"""The feature map that chapter E prints for the Performer, and the attention it leads to.

Printed: φ(x) = exp(x W) / √m with W ~ N(0, 1) / √D. It is not the softmax's: over many draws
φ(q) · φ(k) is exp(|q + k|² / 2D), so that the scores become q·k/D + |k|²/2D instead of q·k/√D.
Three repairs make it `performer.feature_map`: x / D^¼, W ~ N(0, 1), and the factor exp(-|x|²/2).
"""

from __future__ import annotations

import math

import numpy as np

from attncourse.inputs import check_count, check_flag, check_qkv, stream
from attncourse.reference import full, linear


def draw_features(n_features: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Draw W as chapter E prints it, transposed: (m, D) float64, normal numbers / √D.

    Args:
        n_features: m.
        width: D.
        seed: At least 0.
    """
    n_features = check_count("printed_features.draw_features", "n_features", n_features, least=1)
    width = check_count("printed_features.draw_features", "width", width, least=1)
    seed = check_count("printed_features.draw_features", "seed", seed)
    generator = stream("printed features", seed)
    return generator.standard_normal((n_features, width)) / math.sqrt(width)


def feature_map(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return φ(x) = exp(x Wᵀ) / √m as chapter E prints it.

    Args:
        x: (..., T, D) floating.
        directions: W, (m, D) from `draw_features`.

    Returns:
        (..., T, m).
    """
    phi = np.exp(np.matmul(x, directions.T))
    phi /= math.sqrt(len(directions))
    return phi


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_features: int,
    seed: int = 0,
    causal: bool = False,
) -> np.ndarray:
    """Return linear attention with the printed feature map.

    Args:
        q: (..., Tq, D) floating.
        k: (..., Tk, D).
        v: (..., Tk, Dv).
        n_features: m.
        seed: Another seed draws other directions.
        causal: No key after the query's own position.

    Returns:
        (..., Tq, Dv). The printed code adds 1e-6 to the normaliser, which is about Tk here: no
        digit that is shown changes.
    """
    check_qkv("printed_features.attention", q, k, v)
    causal = check_flag("printed_features.attention", "causal", causal)
    directions = draw_features(n_features, q.shape[-1], seed=seed).astype(q.dtype)
    return linear.attention(
        q, k, v, feature_map=lambda x: feature_map(x, directions), causal=causal
    )


def limit(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False) -> np.ndarray:
    """Return what `attention` comes to with ever more features: softmax(q kᵀ/D + |k|²/2D) v.

    Args as in `attention`.
    """
    check_qkv("printed_features.limit", q, k, v)
    causal = check_flag("printed_features.limit", "causal", causal)
    width = q.shape[-1]
    bonus = np.square(k).sum(axis=-1)[..., None, :] / (2 * width)
    return full.attention(q, k, v, bias=bonus, causal=causal, scale=1 / width)


def implied_power(error: float, cosine: float) -> float:
    """Return the mean square of the outputs that an error and a cosine imply together.

    For an error that is independent of the output, cosine² = P / (P + error).

    Args:
        error: Mean squared error.
        cosine: Cosine similarity of approximate and exact outputs, between 0 and 1.

    Returns:
        P, in the unit of the error.

    Raises:
        ValueError: A cosine that is not between 0 and 1: no power gives it.
    """
    if not 0 <= cosine < 1:
        raise ValueError(
            f"printed_features.implied_power: cosine must be at least 0 and below 1, got {cosine}"
        )
    return error * cosine**2 / (1 - cosine**2)
