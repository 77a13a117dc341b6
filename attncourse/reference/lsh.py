"""LSH attention: queries look among the keys whose hashes place them nearby, and nowhere else."""

from __future__ import annotations

import numpy as np

from attncourse.cost import Cost
from attncourse.definitions.directions import check_buckets
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference._parts.hashing import (
    STRETCH,
    bucket_sizes,
    collision_rate,
    draw_rotations,
    hash_vectors,
)
from attncourse.reference._parts.sorted_chunks import sorted_chunks
from attncourse.softmax import nan_to_keys, scaled

__all__ = [
    "attention",
    "bucket_sizes",
    "collision_rate",
    "cost",
    "draw_rotations",
    "found",
    "hash_vectors",
    "unit_keys",
]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    exclude_self: bool = False,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(q kᵀ · scale) v over the keys that hashing finds for each query.

    In each round, queries and keys are sorted by bucket, and by position within a bucket. A chunk
    of queries looks at the `chunk` sorted keys before the place of its first query and at the
    `chunk` keys from there on; the order is a ring. If q and k share their hashes, that is its
    own chunk and the one before, as in Reformer. Buckets may be uneven, the work is not. The
    scores of one chunk exist; rounds are merged by their running maximum and sum, and a pair
    found again in a later round does not count twice.

    A query that finds nobody attends to its own position. `exclude_self` keeps it from doing so
    otherwise: with k = `unit_keys(q)` every token would like itself best. Causal hides later
    keys; *which* earlier keys are found still depends on the hashes of the whole sequence.

    Standard arguments, result and errors as in `attncourse.reference`.

    Args:
        n_buckets: Even; each of n_buckets / 2 random directions and its opposite.
        n_rounds: Independent hashes; a key missed in one may be found in another.
        chunk: Keys in a chunk; ⌈chunk · Tq / Tk⌉ queries in one of theirs.
        seed: The same seed gives the same hashes, for all heads.
        exclude_self: No query looks at its own position i + Tk - Tq unless it finds nobody.

    Raises:
        ValueError: n_buckets < 2 or odd, n_rounds < 1, chunk < 1, seed < 0.

    Memory:
        One head at a time: its output, a few integers per token and round, and the keys, values and
        scores (chunk, 2·chunk) of one chunk.

    Paper:
        Kitaev, Kaiser, Levskaya 2020, arXiv:2001.04451, section 2. There a query sees only its own
        bucket within the two chunks; here, as in transformers, it sees both chunks whole.
        transformers counts a pair once for each round that finds it, the paper once, as here.
    """
    check_qkv("lsh.attention", q, k, v)
    causal = check_flag("lsh.attention", "causal", causal)
    exclude_self = check_flag("lsh.attention", "exclude_self", exclude_self)
    n_buckets, n_rounds, chunk, seed = _check_knobs(
        "lsh.attention", n_buckets, n_rounds, chunk, seed
    )
    factor = check_scale("lsh.attention", scale, q.shape[-1])
    rotations = draw_rotations(q.shape[-1], n_buckets=n_buckets, n_rounds=n_rounds, seed=seed)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for head in np.ndindex(*q.shape[:-2]):
        seen = sorted_chunks(q[head], k[head], rotations, chunk, exclude_self, causal)
        out[head] = _attend(q[head], k[head], v[head], seen, factor)
    return out


def found(
    q: np.ndarray,
    k: np.ndarray,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    exclude_self: bool = False,
    causal: bool = False,
) -> np.ndarray:
    """Return which keys each query attends to, bool (..., Tq, Tk); the arguments of `attention`.

    `full.attention` under this mask is `attention`. Unlike a pattern's mask it depends on q and k.
    """
    check_qkv("lsh.found", q, k, k)
    causal = check_flag("lsh.found", "causal", causal)
    exclude_self = check_flag("lsh.found", "exclude_self", exclude_self)
    n_buckets, n_rounds, chunk, seed = _check_knobs("lsh.found", n_buckets, n_rounds, chunk, seed)
    rotations = draw_rotations(q.shape[-1], n_buckets=n_buckets, n_rounds=n_rounds, seed=seed)
    mask = np.zeros(q.shape[:-1] + k.shape[-2:-1], dtype=bool)
    for head in np.ndindex(*q.shape[:-2]):
        for i, j, hidden in sorted_chunks(q[head], k[head], rotations, chunk, exclude_self, causal):
            mask[head][i[:, None], j] |= ~hidden
        lonely = np.flatnonzero(~mask[head].any(axis=-1))
        lonely = lonely[lonely >= q.shape[-2] - k.shape[-2]]
        mask[head][lonely, lonely + k.shape[-2] - q.shape[-2]] = k.shape[-2] > 0
    return mask


def unit_keys(q: np.ndarray) -> np.ndarray:
    """Return q with each vector scaled to length 1: the keys of shared-QK attention.

    Positive scaling changes no hash, so token i has one bucket as a query and as a key.
    `attention(q, unit_keys(q), v, exclude_self=True, scale=1.0, ...)` is Reformer's.
    """
    length = np.sqrt(np.square(q, dtype=np.result_type(q.dtype, np.float32)).sum(-1, keepdims=True))
    length[length == 0] = 1
    return (q / length).astype(q.dtype, copy=False)


@int_sizes
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    n_buckets: int,
    n_rounds: int,
    chunk: int,
    seed: int = 0,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does; arguments and rules as in `attncourse.reference`.

    The data do not change it, chunks are fixed; nor do seed and causal: what is hidden is computed
    too. Hashing costs (Tq + Tk) · D · n_buckets a round, and each query looks at 2·chunk keys.
    """
    n_buckets, n_rounds, chunk, _ = _check_knobs("lsh.cost", n_buckets, n_rounds, chunk, seed)
    causal = check_flag("lsh.cost", "causal", causal)
    work_bytes = max(4, dtype_bytes)  # float16 is computed in float32
    converted = work_bytes if work_bytes != dtype_bytes else 0
    stretch = min(2 * chunk, Tk)
    rows = min(-(-chunk * Tq // Tk), Tq) if Tk else 0
    n_chunks = -(-Tq // rows) if rows else 0
    out = B * H * Tq * D * dtype_bytes
    # one head: output, sum and maximum; start and place of the rounds before; orders of this one
    head = Tq * (D + 2) * work_bytes + (Tq + Tk) * (4 * (n_rounds - 1) + 8)
    gathered = (rows + 2 * stretch) * D * (dtype_bytes + converted)
    looking = rows * stretch * (work_bytes + 1) + gathered + 3 * rows * D * work_bytes
    hashing = min(STRETCH, max(Tq, Tk)) * (2 * n_buckets * work_bytes + D * converted)
    sorting = (Tq + Tk) * 8 + max(hashing, (Tq + 3 * Tk) * 8)  # buckets, new orders, codes
    rotations = n_rounds * D * n_buckets // 2 * 8
    return Cost(
        flops=B * H * n_rounds * ((Tq + Tk) * D * n_buckets + 4 * Tq * stretch * D),
        bytes_read=B * H * n_rounds * (2 * Tq + Tk + 2 * n_chunks * stretch) * D * dtype_bytes,
        bytes_written=out,
        peak_bytes=out + head + rotations + max(looking, sorting),
    )


def _attend(q, k, v, seen, factor) -> np.ndarray:
    """Return one head's output (Tq, Dv): what each chunk finds, merged as it comes."""
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros((len(q), v.shape[-1]), work)  # (Tq, Dv)
    total, top = np.zeros((len(q), 1), work), np.full((len(q), 1), -np.inf, work)
    for i, j, hidden in seen:
        _merge(out, total, top, i, q[i], k[j], v[j], hidden, factor)
    lonely = np.flatnonzero(total == 0)
    lonely = lonely[lonely >= len(q) - len(k)] if len(k) else lonely[:0]
    out[lonely] = v[lonely + len(k) - len(q)]
    total[total == 0] = 1
    out /= total
    return out


def _merge(out, total, top, i, q, k, v, hidden, factor) -> None:
    """Add one chunk to the running output, sum and maximum of its queries i."""
    k, v = nan_to_keys(*(array.astype(out.dtype, copy=False) for array in (k, v)))
    scores = np.matmul(scaled(q, factor), k.T)  # (rows, 2·chunk)
    np.copyto(scores, -np.inf, where=hidden)
    new_top = np.maximum(top[i], scores.max(axis=-1, keepdims=True))
    pivot = np.where(new_top == -np.inf, 0, new_top)  # exp(-inf - 0) = 0 instead of NaN
    scores -= pivot
    np.exp(scores, out=scores)
    fade = np.exp(top[i] - pivot)  # (rows, 1)
    total[i] = total[i] * fade + scores.sum(axis=-1, keepdims=True)
    out[i] = out[i] * fade + np.matmul(scores, v)
    top[i] = new_top


def _check_knobs(
    where: str, n_buckets: int, n_rounds: int, chunk: int, seed: int
) -> tuple[int, int, int, int]:
    n_buckets, n_rounds, seed = check_buckets(where, n_buckets, n_rounds, seed)
    return n_buckets, n_rounds, check_count(where, "chunk", chunk, least=1), seed
