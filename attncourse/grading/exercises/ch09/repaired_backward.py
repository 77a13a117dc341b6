"""Exercise 09.6: a backward pass by recomputation with two bugs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.grading.spec import TILE_SIZES, Case, Exercise, Memory, Mistake
from attncourse.reference import flash, full

METERED_N, METERED_D = 1024, 64
ROWS_BYTES = METERED_N * METERED_D * 4  # an array as large as q


def repaired_backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    out: np.ndarray,
    lse: np.ndarray,
    block: int = 64,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of causal attention with respect to q, k and v."""
    return flash.backward(
        grad_out, q, k, v, out=out, lse=lse, block_q=block, block_k=block, causal=True
    )


def _tiled(
    *,
    of_row: bool = True,
    ahead: bool = True,
    causal: bool = True,
    scale_q: bool = True,
    scale_k: bool = True,
    subtract: float = 1,
    lse_subtracted: bool = True,
    size: int | None = None,
) -> Callable:
    """Make a backward pass like the one in the exercise, with some of its lines wrong.

    `size` is that of the tiles, whatever the caller asks for.
    """

    def backward(grad_out, q, k, v, out, lse, block=64):
        block = size or block
        dq, dk, dv = (np.zeros_like(array) for array in (q, k, v))
        factor = q.dtype.type(q.shape[-1] ** -0.5)
        position = np.arange(len(q)) + (len(k) - len(q) if ahead else 0)
        row_delta = (out * grad_out).sum(axis=-1, keepdims=True)
        for i in range(0, len(q), block):
            for j in range(0, len(k), block):
                r, c = slice(i, i + block), slice(j, j + block)
                scores = q[r] @ k[c].T * factor
                visible = np.arange(len(k))[c] <= position[r, None]
                visible |= not causal
                p = np.zeros_like(scores)
                shift = lse[r, None] if lse_subtracted else 0
                with np.errstate(over="ignore"):
                    np.exp(scores - shift, out=p, where=visible)
                dp = grad_out[r] @ v[c].T
                delta = row_delta[r] if of_row else (p * dp).sum(axis=-1, keepdims=True)
                ds = p * (dp - subtract * delta) * factor
                dv[c] += p.T @ grad_out[r]
                dq[r] += ds @ k[c] if scale_q else ds @ k[c] / factor
                dk[c] += ds.T @ q[r] if scale_k else ds.T @ q[r] / factor
        return dq, dk, dv

    return backward


def _backward_by_rows(grad_out, q, k, v, out, lse, block=64):
    """Take one row of the matrix at a time, as long as it is."""
    ahead, factor = len(k) - len(q), q.shape[-1] ** -0.5
    dq, dk, dv = (np.zeros(array.shape, lse.dtype) for array in (q, k, v))
    for i in range(max(0, -ahead), len(q)):
        seen = slice(0, i + ahead + 1)
        p = np.exp(k[seen] @ q[i] * factor - lse[i])
        dp = v[seen] @ grad_out[i]
        ds = p * (dp - p @ dp) * factor
        dq[i] = ds @ k[seen]
        dk[seen] += ds[:, None] * q[i]
        dv[seen] += p[:, None] * grad_out[i]
    return tuple(array.astype(q.dtype, copy=False) for array in (dq, dk, dv))


def _dense(grad_out, q, k, v, out, lse, block=64):
    return full.backward(grad_out, q, k, v, causal=True)


def _inputs(generator, n_queries, n_keys, width, value_width, dtype, shift=0.0):
    shapes = ((n_queries, value_width), (n_queries, width), (n_keys, width), (n_keys, value_width))
    grad_out, q, k, v = (generator.standard_normal(shape).astype(dtype) for shape in shapes)
    if shift:  # adds shift² / √D to each score: exp overflows without lse
        q[:, -1] = k[:, -1] = shift
    out, lse = flash.forward(q, k, v, block_q=64, block_k=64, causal=True)
    return grad_out, q, k, v, out, lse


def _cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, dtype=np.float32, shift=0.0):
        return Case(name, _inputs(generator, n_queries, n_keys, 7, 5, dtype, shift))

    n_queries, n_keys = (int(x) for x in generator.integers(70, 200, 2))
    return [
        case("2 queries, 2 keys", 2, 2),
        case("1 query, 6 keys", 1, 6),
        case("6 queries, 2 keys: empty rows", 6, 2),
        case("one tile", 32, 32),
        case("two tiles of keys", 100, 100),
        case("fewer queries than keys", 40, 150),
        case("more queries than keys", 150, 40),
        case("200 queries, 3 keys", 200, 3),
        case("3 queries, 200 keys", 3, 200),
        case("large scores", 30, 90, shift=17.0),
        case("float64", 130, 130, np.float64),
        case(f"random, {n_queries} queries, {n_keys} keys", n_queries, n_keys),
    ]


def _metered(generator: Generator) -> Case:
    arguments = _inputs(generator, METERED_N, METERED_N, METERED_D, METERED_D, np.float32)
    return Case(f"n = {METERED_N}", arguments)


REPAIRED_BACKWARD = Exercise(
    id="09.6",
    chapter="09",
    title="Find two bugs in a backward pass",
    function="repaired_backward",
    kind="array",
    minutes=20,
    difficulty=3,
    points=3,
    hints=(
        "One bug shows as soon as there are two tiles of keys, the other only where n_queries and "
        "n_keys differ. Which quantity belongs to a whole row?",
        "delta is a sum over all keys of a row. Inside the loop only one tile of them is at hand. "
        "And query i sits at key position i + n_keys - n_queries.",
        "Before the loops: delta = (out * grad_out).sum(-1, keepdims=True), and position = "
        "np.arange(n_queries) + n_keys - n_queries; in the tile delta[r] and position[r].",
    ),
    reference=repaired_backward,
    cases=_cases,
    memory=Memory(
        _metered, 8 * ROWS_BYTES, "the three gradients and five arrays more: 8 · n · D · 4 bytes"
    ),
    mistakes=(
        Mistake(
            "as given",
            _tiled(of_row=False, ahead=False),
            "both bugs are still there: your gradients are those of the given code",
            "compare with a single tile, block = 1000: which gradients change, and why?",
            tuple(_tiled(of_row=False, ahead=False, size=size) for size in TILE_SIZES),
        ),
        Mistake(
            "only delta repaired",
            _tiled(ahead=False),
            "one bug is left: query i is taken to sit at key i",
            "the last query sits at the last key: add n_keys - n_queries",
        ),
        Mistake(
            "only the position repaired",
            _tiled(of_row=False),
            "one bug is left: delta is summed over one tile of keys instead of the whole row",
            "rowsum(p · dp) equals rowsum(out · grad_out): take that, before the loops",
            tuple(_tiled(of_row=False, size=size) for size in TILE_SIZES),
        ),
        Mistake(
            "delta dropped",
            _tiled(subtract=0),
            "your dS is P · dP: the softmax's own derivative is missing",
            "subtract delta from dP before you multiply by P",
        ),
        Mistake(
            "delta added",
            _tiled(subtract=-1),
            "your delta has the wrong sign: it is added to dP",
            "subtract delta from dP before you multiply by P",
        ),
        Mistake(
            "mask dropped",
            _tiled(causal=False),
            "your queries see the future",
            "keep the mask: key position <= query position",
        ),
        Mistake(
            "dk not scaled",
            _tiled(scale_k=False),
            "your dk lacks the factor 1/√D",
            "the factor was right in the given code: dq and dk both have it",
        ),
        Mistake(
            "dq not scaled",
            _tiled(scale_q=False),
            "your dq lacks the factor 1/√D",
            "the factor was right in the given code: dq and dk both have it",
        ),
        Mistake(
            "lse dropped",
            _tiled(lse_subtracted=False),
            "your weights are not normalised: exp(scores) without lse",
            "a weight is exp(score - lse of its row)",
        ),
        Mistake(
            "dense",
            _dense,
            "your numbers are right, but the tiles are gone: whole n × n arrays exist at once",
            "repair the two lines, and keep the loops",
        ),
    ),
    alternatives=(_tiled(), _backward_by_rows),
)
