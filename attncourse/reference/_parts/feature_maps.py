"""Feature maps φ for linear attention, with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FeatureMap = Callable[[np.ndarray], np.ndarray]


def elu_plus_one(x: np.ndarray) -> np.ndarray:
    """Return elu(x) + 1 elementwise: 1 + x above zero, exp(x) below; never negative."""
    features = np.minimum(x, 0)
    np.exp(features, out=features)
    features += np.maximum(x, 0)
    return features


def elu_plus_one_backward(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return the gradient with respect to x, given the one with respect to elu(x) + 1."""
    return grad * np.exp(np.minimum(x, 0))
