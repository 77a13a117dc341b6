"""What an exercise is: one `Exercise` holds everything the grader, the tests and the hints need.

The specs are data. They import neither torch nor Triton, and nothing here runs the learner's code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.random import Generator, default_rng

from attncourse.cost import Cost

KINDS = ("number", "mask", "array", "kernel", "class")
NEEDS = ("numpy", "triton", "gpu")
TILE_SIZES = (8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500, 512)  # what learners choose
_ID = re.compile(r"\d\d\.V?[1-9]\d?")  # 04.3, or 04.V7 for one taken from the source documents


class SpecError(ValueError):
    """An exercise contradicts the rules that every exercise keeps."""


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one call of the answer.

    The name is printed in messages: "1 query", "Tq ≠ Tk", "n = 4096". Arrays are NumPy arrays;
    exercises of kind "kernel" hand them to the answer as torch tensors, on the GPU if there is one.
    The grader passes copies, so that cases may share arrays.
    """

    name: str
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.args, tuple):
            raise SpecError(f"case {self.name!r}: args must be a tuple, got {self.args!r}")


@dataclass(frozen=True)
class Mistake:
    """A named wrong implementation: tests prove it rejected, learners are told when it is theirs.

    `says` completes "likely cause": "your output is what you get without 1/√D". `next` is the next
    step. A mistake may give right numbers if it fails on memory, traffic or by changing its
    arguments. `variants` are the same slip made in other ways, with other sizes of tiles: any of
    them may be the learner's.
    """

    function: Callable
    says: str
    next: str
    variants: tuple[Callable, ...] = ()

    @property
    def functions(self) -> tuple[Callable, ...]:
        """All ways to make the mistake."""
        return (self.function, *self.variants)


@dataclass(frozen=True)
class Memory:
    """How many bytes the answer may hold at once, its result included and its arguments not.

    `case` makes the call that is metered; its name says the size ("n = 4096"). `why` states the
    formula behind `allowed_bytes`: "two rows of blocks: 2 · block · 3 · block · 4 bytes".
    """

    case: Callable[[Generator], Case]
    allowed_bytes: int
    why: str

    def __post_init__(self) -> None:
        if not isinstance(self.allowed_bytes, int) or self.allowed_bytes <= 0:
            raise SpecError(f"allowed_bytes must be a positive int, got {self.allowed_bytes!r}")


class Driven:
    """An answer that is used as each case says; its own code is what counts as the learner's."""

    def __init__(self, drive: Callable, answer: Callable) -> None:
        self._drive, self.__wrapped__ = drive, answer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Use the answer, and return what came."""
        return self._drive(self.__wrapped__, *args, **kwargs)


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise: what is asked, what is right, what is commonly wrong.

    The reference is called with the arguments of a case and returns the expected result: a number
    (int, float, bool), an array, or a tuple, list or dict of those. Its type, shape and dtype are
    the ones asked of the answer. Float arrays are judged against the reference in float64.

    Attributes:
        id: chapter and number, "04.3"; "04.V7" for an exercise of the source documents.
        chapter: two digits, "04".
        title: a few words, printed in each verdict.
        function: the name of the learner's function, or class.
        minutes: how long a learner may need.
        difficulty: 1 to 3.
        points: awarded when the exercise passes.
        hints: exactly three, from a nudge to nearly the answer.
        reference: the right answer, in NumPy.
        cases: makes the cases from a random generator: smallest first, edge cases, then random.
        kind: "number", "mask", "array", "kernel" (torch tensors in, torch tensor out) or "class".
        mistakes: at least five.
        alternatives: at least two right answers written in another way.
        pairs: two of the mistakes at once, made when they are asked for: where no single one fits.
        memory: the metered call, if memory is graded.
        traffic: the most bytes a kernel may load and store in a case, counted in the interpreter.
        least: the fewest bytes that any kernel can move in a case; None: each array once.
        timed: makes a case large enough to be timed on a GPU.
        tolerance: relative for numbers (None: 1e-9), absolute for arrays (None: from the dtype).
        exponents: what exponentials are taken of in a case, if not of q kᵀ / √D: an array.
        seconds: the limit for each call.
        needs: what the machine must have: "numpy", "triton" or "gpu".
        may_return_view: whether the result may share memory with the arguments.
        drive: `drive(answer, *args)` uses the answer as a case says and returns what came.
        explain: `explain(answer, *args)` returns the cause and the next step of a case that
            failed, from what the answer itself does; no mistake is looked for then.
    """

    id: str
    chapter: str
    title: str
    function: str
    minutes: int
    difficulty: int
    points: int
    hints: tuple[str, str, str]
    reference: Callable
    cases: Callable[[Generator], Sequence[Case]]
    kind: str
    mistakes: Sequence[Mistake]
    alternatives: Sequence[Callable]
    pairs: Callable[[], Iterable[Mistake]] = tuple
    memory: Memory | None = None
    traffic: Callable[[Case], Cost] | None = None
    least: Callable[[Case], int] | None = None
    timed: Callable[[Generator], Case] | None = None
    tolerance: float | None = None
    exponents: Callable[..., Any] | None = None
    seconds: float = 5.0
    needs: str = "numpy"
    may_return_view: bool = False
    drive: Callable | None = None
    explain: Callable | None = None

    def __post_init__(self) -> None:
        says = [mistake.says for mistake in self.mistakes]
        rules = [
            (_ID.fullmatch(self.id), f"id must look like 04.3 or 04.V7, got {self.id!r}"),
            (
                self.id.startswith(f"{self.chapter}."),
                f"chapter must be that of the id, got {self.chapter!r}",
            ),
            (self.title.strip(), "title is empty"),
            (self.function.isidentifier(), f"function must be a name, got {self.function!r}"),
            (self.minutes > 0, f"minutes must be positive, got {self.minutes!r}"),
            (
                self.difficulty in (1, 2, 3),
                f"difficulty must be 1, 2 or 3, got {self.difficulty!r}",
            ),
            (
                isinstance(self.points, int) and self.points > 0,
                f"points must be a positive int, got {self.points!r}",
            ),
            (self.kind in KINDS, f"kind must be one of {KINDS}, got {self.kind!r}"),
            (self.needs in NEEDS, f"needs must be one of {NEEDS}, got {self.needs!r}"),
            (len(set(says)) == len(says), f"two mistakes say the same: {says}"),
            (
                all(mistake.says and mistake.next for mistake in self.mistakes),
                "each mistake needs `says` and `next`",
            ),
            (
                self.traffic is None or self.kind == "kernel",
                "traffic is counted for kernels only",
            ),
            (self.kind != "class" or self.drive, "a class needs `drive`"),
            (self.kind != "kernel" or not self.drive, "a kernel is called, not driven"),
            (self.seconds > 0, f"seconds must be positive, got {self.seconds!r}"),
        ]
        for holds, complaint in rules:
            if not holds:
                raise SpecError(f"exercise {self.id}: {complaint}")

    def called(self, answer: Callable) -> Callable:
        """Return what takes the arguments of a case: the answer itself, or what drives it."""
        return answer if self.drive is None else Driven(self.drive, answer)

    def lacks(self) -> list[str]:
        """Say what a draft may lack and a released exercise may not."""
        n_cases = len(self.cases(default_rng(0)))
        wanted = (
            (len(self.hints) == 3, f"three hints are needed, got {len(self.hints)}"),
            (
                len(self.mistakes) >= 5,
                f"at least 5 mistakes are needed, got {len(self.mistakes)}",
            ),
            (
                len(self.alternatives) >= 2,
                f"at least 2 alternatives are needed, got {len(self.alternatives)}",
            ),
            (n_cases >= 7, f"at least 7 cases are needed, got {n_cases}"),
        )
        return [f"exercise {self.id}: {complaint}" for holds, complaint in wanted if not holds]
