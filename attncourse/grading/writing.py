"""What an exercise is written with: its spec stands beside its cells in `solutions/_source`.

    # %% role="spec" exercise="04.1"
    Spec(
        kind="mask",
        cases=[
            case("window 1", 4, 4, 1, False),
            *draws(6, lambda rng: (*rng.integers(1, 40, 2), 3, bool(rng.integers(2)))),
        ],
        mistakes=[
            edit("<= window", "< window", says="your mask leaves out …", next="use <= …"),
        ],
        alternatives=[mask_by_rows],
    )

The spec cells of a chapter are run in order as one module, in which each answer is known by its
name; `attncourse build` takes them out of the notebooks. Title, minutes, difficulty and points are
read from the prompt, the three hints from a list in a cell of role "hints".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from attncourse.cost import Cost
from attncourse.grading.spec import Case, Memory, Mistake, SpecError

Maker = Callable[[Generator], Case]


@dataclass(frozen=True)
class Edit:
    """A change of the solution; a wrong one is a mistake, a right one an alternative.

    Attributes:
        changes: (old, new) pairs; in the lines of the solution each `old` is replaced wherever it
            stands, and it must stand there.
        text: instead of changes, the whole answer cell.
        says: what the mistake does, for learners: "your output is what you get without 1/√D".
        next: the next step.
        also: other changes that make the same slip.
    """

    changes: tuple[tuple[str, str], ...]
    text: str = ""
    says: str = ""
    next: str = ""
    also: tuple[Edit, ...] = ()


def edit(*changes: str, says: str = "", next: str = "", also: Sequence[Edit] = ()) -> Edit:
    """Return a change of the solution.

    Args:
        *changes: old, new, old, new, …
        says: what a mistake says to the learner whose answer does the same; none for a right edit.
        next: the next step that it suggests.
        also: other edits that make the same slip; they say nothing themselves.
    """
    if not changes or len(changes) % 2:
        raise SpecError(f"an edit takes pairs of old and new text, got {len(changes)} texts")
    pairs = tuple(zip(changes[::2], changes[1::2], strict=True))
    return Edit(pairs, says=says, next=next, also=tuple(also))


def rewrite(text: str, says: str = "", next: str = "") -> Edit:
    """Return another text of the whole answer cell, for kernels that no edit reaches."""
    return Edit((), text, says, next)


def case(name: str, *args: Any, **kwargs: Any) -> Case:
    """Return a case that does not depend on chance."""
    return Case(name, args, kwargs)


def draws(times: int, arguments: Callable[[Generator], Sequence], name: str = "") -> list[Maker]:
    """Return makers of random cases, each named by its arguments.

    Args:
        times: how many.
        arguments: draws the arguments from a generator; NumPy's integers become Python's.
        name: for arguments that are too long to print; they are numbered then.
    """

    def maker(number: int) -> Maker:
        def make(generator: Generator) -> Case:
            drawn = tuple(
                value.item() if isinstance(value, np.generic) else value
                for value in arguments(generator)
            )
            return Case(f"random {name} {number}" if name else f"random {drawn}", drawn)

        return make

    return [maker(number) for number in range(1, times + 1)]


def qkv(
    name: str,
    shape: tuple[int, ...],
    *rest: Any,
    keys: int | None = None,
    value_width: int | None = None,
    dtype: type = np.float32,
    shift: float = 0.0,
    longer: float = 0.0,
) -> Maker:
    """Return a maker of a case `(q, k, v, *rest)` of standard normal numbers.

    Args:
        name: of the case.
        shape: of q, (..., Tq, D).
        *rest: arguments after v.
        keys: Tk; Tq if not given.
        value_width: Dv; D if not given.
        dtype: of q, k and v.
        shift: adds shift · abs(shift) / √D to every score, so that exponentials overflow unless
            the maximum is subtracted, or underflow if the shift is negative.
        longer: if given, the last query is so many times the last key: beside that score those of
            the others vanish unless each row has a maximum of its own.
    """

    def make(generator: Generator) -> Case:
        *lead, n_queries, width = shape
        n_keys = n_queries if keys is None else keys
        q = generator.standard_normal(shape)
        k = generator.standard_normal((*lead, n_keys, width))
        v = generator.standard_normal((*lead, n_keys, value_width or width))
        if shift:
            q[..., -1], k[..., -1] = abs(shift), shift
        if longer:
            q[..., -1, :] = longer * k[..., -1, :]
        return Case(name, (q.astype(dtype), k.astype(dtype), v.astype(dtype), *rest))

    return make


@dataclass(frozen=True)
class Spec:
    """All of an exercise that its prompt, answer and hints do not say.

    Attributes:
        kind: "number", "mask", "array", "kernel" (torch tensors in, torch tensor out) or "class".
        cases: cases and makers of cases, smallest first; or one function of the generator that
            returns them all.
        mistakes: at least five, in the order in which they are looked for: edits of the solution,
            or `Mistake`s where an edit does not reach.
        alternatives: at least two right answers written in another way, functions or edits.
        variants: right edits, such as other tile sizes, under which each mistake is known too.
        reference: the right answer in NumPy, if it is not the solution itself; with `drive`, a
            function of a case's arguments that returns what that should.
        memory: the metered call, if memory is graded.
        traffic: the most bytes a kernel may load and store in a case; its `flops` are the work.
        least: the fewest bytes that any kernel can move in a case, where not each element of all
            arrays is needed.
        timed: a maker of a case large enough to be timed on a GPU.
        tolerance: relative for numbers (None: 1e-9), absolute for arrays (None: from the dtype, and
            from what rounding does to a case).
        exponents: a function of a case's arguments: what the answer takes exponentials of, if not
            of q kᵀ / √D, an array. The larger, the more of their digits rounding takes.
        seconds: the limit for each call.
        needs: "numpy", "triton" or "gpu"; empty: what the kind needs.
        may_return_view: whether the result may share memory with the arguments.
        drive: what each class needs, and each answer whose result is not itself right or wrong:
            `drive(answer, *args)` makes an object, or calls the function, as the arguments of a
            case say, and returns what came, best a dict that names each step.
        explain: for answers of which many are right and more are wrong: `explain(answer, *args)`
            returns the cause and the next step of a case that failed, from what the answer does.
            The mistakes are then for the tests alone: it must name each of them.
    """

    kind: str
    cases: Sequence[Case | Maker] | Callable[[Generator], Sequence[Case]]
    mistakes: Sequence[Edit | Mistake] = ()
    alternatives: Sequence[Edit | Callable] = ()
    variants: Sequence[Edit] = ()
    reference: Callable | None = None
    memory: Memory | None = None
    traffic: Callable[[Case], Cost] | None = None
    least: Callable[[Case], int] | None = None
    timed: Maker | None = None
    tolerance: float | None = None
    exponents: Callable | None = None
    seconds: float = 5.0
    needs: str = ""
    may_return_view: bool = False
    drive: Callable | None = None
    explain: Callable | None = None
