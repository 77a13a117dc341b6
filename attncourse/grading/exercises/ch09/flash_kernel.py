"""Exercise 09.5: the loop of a FlashAttention kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from attncourse.cost import Cost
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.reference import full

KERNEL_BLOCK = 16  # queries, and keys, of a tile in the given kernel


def launch_flash(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return attention of one head, q (Tq, D), k and v (Tk, D)."""
    return full.attention(q, k, v)


def kernel_traffic(case: Case) -> Cost:
    """Return the most that the kernel may move: q and out once, k and v once per query tile."""
    q, k, _ = case.args
    rows, keys, size = q.size, k.size, q.itemsize
    tiles = -(-len(q) // KERNEL_BLOCK)
    padded_keys = -(-len(k) // KERNEL_BLOCK) * KERNEL_BLOCK
    return Cost(
        flops=4 * tiles * KERNEL_BLOCK * padded_keys * q.shape[1],
        bytes_read=(rows + 2 * keys * tiles) * size,
        bytes_written=rows * size,
        peak_bytes=rows * size,
    )


def _kernel(name: str) -> Callable:
    """Return a launcher from `launchers`, which is imported when it is called."""

    def launch(q, k, v):
        import attncourse.kernels  # noqa: F401  before Triton: it switches the interpreter on
        from attncourse.grading.exercises.ch09 import launchers

        return getattr(launchers, name)(q, k, v)

    return launch


def _cases(generator: Generator) -> list[Case]:
    def case(name, n_queries, n_keys, width=16, shift=0.0):
        q = generator.standard_normal((n_queries, width), dtype=np.float32)
        k, v = generator.standard_normal((2, n_keys, width), dtype=np.float32)
        if shift:  # adds shift² / √D to each score: exp overflows without a maximum
            q[:, -1] = k[:, -1] = shift
        return Case(name, (q, k, v))

    n_queries, n_keys = (int(x) for x in generator.integers(17, 40, 2))
    return [
        case("1 query, 1 key", 1, 1),
        case("one tile", 16, 16),
        case("two tiles of keys", 16, 32),
        case("two tiles of queries", 32, 16),
        case("the last tile of keys is shorter", 16, 37),
        case("one key in the last tile", 20, 33),
        case("D = 32", 16, 32, width=32),
        case("large scores", 16, 40, shift=25.0),
        case(f"random, {n_queries} queries, {n_keys} keys", n_queries, n_keys),
    ]


FLASH_KERNEL = Exercise(
    id="09.5",
    chapter="09",
    title="The loop of a Triton kernel",
    function="launch_flash",
    kind="kernel",
    needs="triton",
    minutes=30,
    difficulty=3,
    points=4,
    hints=(
        "The loop is the one of the NumPy column in the chapter. What does a program need of k and "
        "v in one turn, and what may it keep?",
        "Load a tile of k and one of v, with a mask. Scores of keys beyond the end become -inf. "
        "Then new_max, weights, rescale; both sums; running_max = new_max.",
        "rescale = tl.exp(running_max - new_max); running_sum = running_sum * rescale + "
        "tl.sum(weights, 1); acc = acc * rescale[:, None] + tl.dot(weights, v, "
        'input_precision="ieee").',
    ),
    reference=launch_flash,
    cases=_cases,
    traffic=kernel_traffic,
    seconds=20.0,
    mistakes=(
        Mistake(
            "two passes",
            _kernel("two_passes"),
            "your program loads k twice: once for the maximum, once for the weights",
            "carry the maximum along, and rescale what is kept when it grows",
        ),
        Mistake(
            "q in the loop",
            _kernel("q_in_the_loop"),
            "your program loads q again for each tile of keys",
            "q stays on the chip: it is loaded once, before the loop",
        ),
        Mistake(
            "values not rescaled",
            _kernel("values_not_rescaled"),
            "a new maximum shrinks your running_sum, but not acc",
            "multiply acc by rescale[:, None]",
        ),
        Mistake(
            "sum not rescaled",
            _kernel("sum_not_rescaled"),
            "a new maximum shrinks your acc, but not running_sum",
            "multiply running_sum by rescale",
        ),
        Mistake(
            "rescaled the wrong way",
            _kernel("rescaled_upwards"),
            "your rescale is exp(new maximum - old maximum): it grows what must shrink",
            "rescale = tl.exp(running_max - new_max)",
        ),
        Mistake(
            "nothing rescaled",
            _kernel("nothing_rescaled"),
            "a new maximum changes nothing of what you kept",
            "multiply running_sum and acc by tl.exp(running_max - new_max)",
        ),
        Mistake(
            "maximum kept",
            _kernel("maximum_kept"),
            "your running_max stays at -inf: each tile forgets the ones before",
            "end the turn with running_max = new_max",
        ),
        Mistake(
            "no maximum",
            _kernel("no_maximum"),
            "your exponentials overflow: no maximum is subtracted",
            "subtract new_max[:, None] from the scores before tl.exp",
        ),
        Mistake(
            "no scale",
            _kernel("no_scale"),
            "your output is what you get without 1/√D",
            "multiply the scores by `scale`",
        ),
        Mistake(
            "padding attended",
            _kernel("padding_attended"),
            "keys beyond the end take part: a masked load gives zeros, and exp(0) is 1",
            "set their scores to -inf: tl.where(keys[None, :] < n_keys, scores, float('-inf'))",
        ),
        Mistake(
            "last tile left out",
            _kernel("last_tile_left_out"),
            "your loop leaves out the last, shorter tile of keys",
            "run over range(0, n_keys, BLOCK)",
        ),
        Mistake(
            "loads not masked",
            _kernel("loads_not_masked"),
            "your loads run past the end of k and v",
            "give tl.load mask= and other=0.0",
        ),
    ),
    alternatives=(_kernel("with_exp2"), _kernel("with_lse")),
)
