"""Exercise 07.5: the walk of a Triton kernel whose state stays on chip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.cost import Cost
from attncourse.grading.exercises.ch07.shared import elu_plus_one, normalised
from attncourse.grading.spec import Case, Exercise, Mistake

KERNEL_BLOCK = 16  # tokens of a chunk in the given kernel


def launch_scan(phi_q: np.ndarray, phi_k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return causal linear attention for features (H, n, D) and values (H, n, D)."""
    return normalised(np.tril(phi_q @ phi_k.swapaxes(-1, -2)), v)


def kernel_traffic(case: Case) -> Cost:
    """Return the most that the kernel may load and store: each tile of q, k, v and out once."""
    v = case.args[2]
    heads, n, width = v.shape
    chunks = -(-n // KERNEL_BLOCK)
    products = 2 * (KERNEL_BLOCK * width * width + KERNEL_BLOCK * KERNEL_BLOCK * width)
    return Cost(
        flops=2 * heads * chunks * products,
        bytes_read=3 * v.nbytes,
        bytes_written=v.nbytes,
        peak_bytes=v.nbytes,
    )


def _kernel(name: str) -> Callable:
    """Return a launcher from `launchers`, which is imported when it is called."""

    def launch(phi_q, phi_k, v):
        import attncourse.kernels  # noqa: F401  before Triton: it switches the interpreter on
        from attncourse.grading.exercises.ch07 import launchers

        return getattr(launchers, name)(phi_q, phi_k, v)

    return launch


def _kernel_cases(generator: Generator) -> list[Case]:
    def case(name, heads, n, width):
        q, k, v = generator.standard_normal((3, heads, n, width), dtype=np.float32)
        return Case(name, (elu_plus_one(q), elu_plus_one(k), v))

    length = int(generator.integers(34, 64))
    return [
        case("1 token", 1, 1, 16),
        case("one chunk", 1, 16, 16),
        case("two chunks", 1, 32, 16),
        case("odd length", 1, 45, 16),
        case("3 heads", 3, 20, 16),
        case("D = 32", 1, 40, 32),
        case(f"random, n = {length}", 1, length, 16),
    ]


SCAN_KERNEL = Exercise(
    id="07.5",
    chapter="07",
    title="The walk of a Triton kernel",
    function="launch_scan",
    kind="kernel",
    needs="triton",
    minutes=25,
    difficulty=3,
    points=3,
    hints=(
        "For one chunk: what comes from `state` and `norm`, what from the chunk itself, and what "
        "must be added to `state` and `norm` for the next one? In which order?",
        "acc and total each have two parts: φ(q) times the state (or norm), and the lower triangle "
        "of φ(q) φ(k)ᵀ times v (or summed). The chunk joins state and norm last.",
        "own = tl.where(rows[:, None] >= rows[None, :], tl.dot(phi_q, tl.trans(phi_k)), 0.0); "
        "total = tl.sum(phi_q * norm[None, :], 1) + tl.sum(own, 1); "
        "state += tl.dot(tl.trans(phi_k), v).",
    ),
    reference=launch_scan,
    cases=_kernel_cases,
    traffic=kernel_traffic,
    seconds=20.0,
    mistakes=(
        Mistake(
            "looking back",
            _kernel("looking_back"),
            "your program loads all earlier chunks again for each chunk: traffic grows with n²",
            "what earlier chunks give is in state and norm: load each chunk once",
        ),
        Mistake(
            "joined too early",
            _kernel("joined_too_early"),
            "your chunk joins the state before its queries read it, and is counted twice",
            "read state and norm first, then add the chunk",
        ),
        Mistake(
            "future seen",
            _kernel("future_seen"),
            "your queries see all keys of their own chunk, later ones too",
            "mask the chunk's own scores: rows[:, None] >= rows[None, :]",
        ),
        Mistake(
            "own key missing",
            _kernel("own_key_missing"),
            "your queries do not see their own key",
            "compare with >=, not with >",
        ),
        Mistake(
            "state forgotten",
            _kernel("state_forgotten"),
            "your queries see their own chunk only",
            "add φ(q) @ state to acc, and φ(q) · norm to total",
        ),
        Mistake(
            "state replaced",
            _kernel("state_replaced"),
            "your state holds the chunk before only: it is replaced, not added to",
            "state and norm are running sums: use +=",
        ),
        Mistake(
            "normaliser of the state",
            _kernel("normaliser_of_the_state"),
            "your normaliser leaves out the chunk's own keys",
            "add the row sums of the masked scores to total",
        ),
        Mistake(
            "transposed",
            _kernel("transposed"),
            "your state is transposed: vᵀ φ(k) instead of φ(k)ᵀ v",
            "rows of the state are features, columns are those of v",
        ),
        Mistake(
            "mask reversed",
            _kernel("mask_reversed"),
            "your mask is the wrong way round: in its own chunk a query sees later keys only",
            "keep the scores where rows[:, None] >= rows[None, :]",
        ),
        Mistake(
            "norm forgotten",
            _kernel("norm_forgotten"),
            "your normaliser has the chunk's own keys only: norm is missing",
            "start total with the sum of phi_q * norm[None, :] over the features",
        ),
        Mistake(
            "keys not transposed",
            _kernel("keys_not_transposed"),
            "your state is φ(k) v instead of φ(k)ᵀ v: tl.trans is missing",
            "add tl.dot(tl.trans(phi_k), v) to the state",
        ),
        Mistake(
            "scores not transposed",
            _kernel("scores_not_transposed"),
            "your scores are φ(q) φ(k) instead of φ(q) φ(k)ᵀ: tl.trans is missing",
            "multiply with tl.trans(phi_k)",
        ),
    ),
    alternatives=(_kernel("right"), _kernel("by_difference"), _kernel("by_weights")),
)
