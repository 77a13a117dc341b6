"""A learned predictor of which keys score high: queries and keys in a few dimensions."""

from __future__ import annotations

import numpy as np

from attncourse.inputs import check_count, check_qkv

Predictor = tuple[np.ndarray, np.ndarray]


def fit_predictor(q: np.ndarray, k: np.ndarray, *, rank: int) -> Predictor:
    """Fit projections A and B such that (q A) · (k B) ranks keys as q · k does.

    Among all of this rank they have the least mean squared error over all pairs of q and k, up to
    a constant per query, which no ranking sees: so the keys are centred. With C the covariances,
    the columns of V the first eigenvectors of C_k^½ C_q C_k^½: A = C_k^½ V, B = C_k^-½ V.

    Args:
        q: (..., Tq, D) sample of queries; each head gets its own fit.
        k: (..., Tk, D) sample of keys.
        rank: Dimensions in which the predictor scores, at most D.

    Returns:
        A and B, (..., D, rank) in the dtype of q.

    Raises:
        ValueError: rank < 1 or above D, and as in `attention`.
    """
    check_qkv("topk.fit_predictor", q, k, k)
    rank = check_count("topk.fit_predictor", "rank", rank, least=1)
    if rank > q.shape[-1]:
        raise ValueError(
            f"topk.fit_predictor: rank must be at most the width D = {q.shape[-1]}, got {rank}"
        )
    x, y = (array.astype(np.float64) for array in (q, k))
    y -= y.mean(axis=-2, keepdims=True)
    of_q, of_k = (np.matmul(a.swapaxes(-1, -2), a) for a in (x, y))  # (..., D, D)
    values, vectors = np.linalg.eigh(of_k)
    spread = np.sqrt(np.maximum(values, 0))[..., None, :]
    some = np.where(spread > 1e-6 * spread[..., -1:], spread, np.inf)  # where keys vary at all
    back = vectors.swapaxes(-1, -2)
    root, inverse = np.matmul(vectors * spread, back), np.matmul(vectors / some, back)
    _, first = np.linalg.eigh(np.matmul(np.matmul(root, of_q), root))
    first = first[..., : -rank - 1 : -1]
    return tuple(np.matmul(a, first).astype(q.dtype) for a in (root, inverse))


def ranked(where, q, k, predictor) -> tuple[np.ndarray, np.ndarray]:
    """Return what is multiplied to rank the keys: q and k, or their few predictor's dimensions."""
    if predictor is None:
        return q, k
    for name, matrix in zip("AB", predictor, strict=True):
        if matrix.shape[-2] != q.shape[-1] or matrix.shape[-1] != predictor[0].shape[-1]:
            raise ValueError(
                f"{where}: predictor must be two arrays (..., {q.shape[-1]}, rank), "
                f"got {name} {matrix.shape}"
            )
    work = np.result_type(q.dtype, np.float32)
    return tuple(
        np.matmul(array.astype(work, copy=False), matrix.astype(work, copy=False))
        for array, matrix in zip((q, k), predictor, strict=True)
    )
