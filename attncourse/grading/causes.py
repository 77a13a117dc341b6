"""Search for the likely cause of a failure: a known mistake, two at once, or a sign in the numbers.

All failing cases are heard, not only the first. A mistake is named if it does what the answer does
wherever the answer fails; where other failing cases contradict it, it is called one of two slips or
not named at all. What no mistake explains is left to the guesses of `diagnose`, and a guess is
shown only if every failing case bears it out.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attncourse.grading.compare import differences, part_name, same
from attncourse.grading.diagnose import Guess
from attncourse.grading.spec import Case, Exercise, Mistake
from attncourse.grading.values import plain_dict

if TYPE_CHECKING:
    from attncourse.grading.guard import Raised
    from attncourse.grading.judging import Trial

SECONDS = 10.0  # how long a failure may be compared with known mistakes
Suspect = tuple[Mistake, Callable]


_OVERFLOW = Guess(
    "overflow",
    "an exponential overflowed, and what is divided by ∞ is zero",
    "subtract the largest exponent before `exp`",
)


class _OutOfTime(Exception):
    pass


class Search:
    """The search for the cause of one failure.

    Args:
        exercise: What was asked.
        function: The answer.
        cases: All cases; the first one has failed.
        attempt: Calls a function on a case.
        target: What is expected of a case.
    """

    def __init__(
        self,
        exercise: Exercise,
        function: Callable,
        cases: list[Case],
        attempt: Callable[[Callable, Case], Trial],
        target: Callable[[Case], Any],
    ) -> None:
        self.exercise, self.function, self.cases = exercise, function, cases
        self._attempt, self._target = attempt, target
        self._stop = time.monotonic() + SECONDS
        self._tried: dict[tuple[int, int], tuple[Callable, Trial]] = {}

    def cause(self, suspects: Callable[[], Iterable[Suspect]]) -> Guess | None:
        """Return the likely cause and the next step, None if nothing fits or the time is up."""
        try:
            whole, part = self._mistake(suspects())
            return (
                whole
                or self._mistake(self._pairs())[0]
                or self._by_part(suspects)
                or self._guess(())
                or part
            )
        except _OutOfTime:
            return None

    # What the answer and the suspects do ---------------------------------------------------------

    def _try(self, function: Callable, case: Case) -> Trial:
        key = id(function), id(case)
        if key not in self._tried:
            if time.monotonic() > self._stop:
                raise _OutOfTime
            # The function is kept, so that its id stays its own.
            self._tried[key] = function, self._attempt(function, case)
        return self._tried[key][1]

    def _mine(self, case: Case) -> Trial:
        return self._try(self.function, case)

    def _failing(self) -> list[Case]:
        return [case for case in self.cases if self._mine(case).finding]

    def _passing(self) -> list[Case]:
        return [case for case in self.cases if not self._mine(case).finding]

    def _alike(self, function: Callable, case: Case) -> bool:
        return alike(self._mine(case), self._try(function, case), self._target(case))

    # Known mistakes ------------------------------------------------------------------------------

    def _mistake(self, suspects: Iterable[Suspect]) -> tuple[Guess | None, Guess | None]:
        """Return the mistake that explains all failing cases, and the one that explains most.

        Where the answer is right and a mistake is not, the two differ: of several mistakes the one
        that spoils the fewest such cases fits best, and if it spoils any, one failing case alone
        does not prove it. A mistake that explains only some failing cases must spoil none.
        """
        # Two numbers agree by chance sooner than two arrays.
        share = 0.2 if self.exercise.kind in ("number", "class") else 0.0
        whole: list[tuple[int, int, Guess]] = []
        part: list[tuple[int, int, Guess]] = []
        for place, (mistake, function) in enumerate(suspects):
            first = self.cases[0]
            if not self._try(function, first).finding or not self._alike(function, first):
                continue
            failing, passing = self._failing(), self._passing()
            explained = sum(self._alike(function, case) for case in failing)
            spoiled = sum(self._try(function, case).finding is not None for case in passing)
            guess = Guess(mistake.says, mistake.says, mistake.next)
            if explained == len(failing):
                if not spoiled:
                    return guess, None
                if explained > 1:
                    whole.append((spoiled, place, guess))
            elif explained >= max(2, share * len(failing)) and not spoiled:
                words = (
                    f"{mistake.says} – in {explained} of the {len(failing)} failing cases: "
                    "it may be one slip of two"
                )
                part.append((-explained, place, replace(guess, cause=words)))
        return _best(whole), _best(part)

    def _pairs(self) -> Iterator[Suspect]:
        for pair in self.exercise.pairs():
            for function in pair.functions:
                yield pair, function

    # Results of several parts --------------------------------------------------------------------

    def _by_part(self, suspects: Callable[[], Iterable[Suspect]]) -> Guess | None:
        """Explain each wrong key of a dict, or value of a tuple, by itself."""
        if not isinstance(self._target(self.cases[0]), (dict, tuple)):
            return None
        wrong: dict[Any, list[Case]] = {}
        for case in self._failing():
            for path in self._differences(case):
                if not path:
                    return None
                cases = wrong.setdefault(path[0], [])
                if case not in cases:
                    cases.append(case)
        shown = self._target(self.cases[0])  # another case may have other keys
        keys = shown if isinstance(shown, dict) else range(len(shown))
        wrong = {key: cases for key, cases in wrong.items() if key in keys}
        explained: dict[str, tuple[Guess, list[str]]] = {}
        for key, cases in wrong.items():
            if len(wrong) > 1 and self._is_usual(key, cases):
                continue
            if found := self._mistake_in(key, cases, suspects()) or self._guess((key,)):
                name = part_name(key, shown, self.exercise)
                explained.setdefault(found.cause, (found, []))[1].append(name)
        if not explained:
            return None
        found = [guess for guess, _ in explained.values()]
        if len(found) == 1 and len(next(iter(explained.values()))[1]) == len(wrong):
            return found[0]
        words = "\n".join(
            f"{', '.join(names)}: {guess.cause}" for guess, names in explained.values()
        )
        return Guess("parts", words, found[0].next)

    def _is_usual(self, key: Any, wrong: list[Case]) -> bool:
        """Whether one of few words stands in a part, such as False: any two may agree by chance."""
        usual: list[Any] = []
        for case in self.cases:
            with contextlib.suppress(LookupError):  # another case may have other keys
                usual.append(self._target(case)[key])
        words = [x for x in usual if isinstance(x, (str, bool, np.bool_))]
        mine = [plain_dict(self._mine(case).outcome.value)[key] for case in wrong]
        return all(isinstance(x, (str, bool, np.bool_)) and x in words for x in mine)

    def _mistake_in(self, key: Any, wrong: list[Case], suspects: Iterable[Suspect]) -> Guess | None:
        """Return the mistake that gives one part of the result as the answer does."""

        def part(function: Callable, case: Case) -> tuple[Any, ...]:
            value = plain_dict(self._try(function, case).outcome.value)
            try:
                return (value[key],)
            except (TypeError, LookupError):
                return ()

        def agree(function: Callable, case: Case) -> bool:
            theirs = part(function, case)
            return bool(theirs) and same(
                part(self.function, case)[0], *theirs, self._target(case)[key]
            )

        found: list[tuple[int, int, Guess]] = []
        for place, (mistake, function) in enumerate(suspects):
            if all(agree(function, case) for case in wrong):
                spoiled = sum(not agree(function, case) for case in self.cases if case not in wrong)
                if len(wrong) > 1 or not spoiled:
                    found.append((spoiled, place, Guess(mistake.says, mistake.says, mistake.next)))
        return _best(found)

    # Signs in the numbers ------------------------------------------------------------------------

    def _differences(self, case: Case) -> dict[tuple, Any]:
        """Return what is wrong in each part of the answer's result; nothing if it has none."""
        trial = self._mine(case)
        if trial.outcome.raised:
            return {(): None}
        found = differences(self._target(case), trial.outcome.value, case, self.exercise)
        return dict(found) or {(): None}

    def _guess(self, path: tuple) -> Guess | None:
        """Return a guess that every case bears out in which this part is wrong."""
        found = []
        for case in self._failing():
            wrong = self._differences(case)
            if path in wrong or () in wrong:
                finding = wrong.get(path)
                guesses = finding.guesses if finding else ()
                if "overflow encountered in exp" in self._mine(case).printed:
                    guesses = [_OVERFLOW if guess.sign == "zero" else guess for guess in guesses]
                found.append({guess.sign: guess for guess in guesses})
        for sign, guess in found[0].items() if found else ():
            if all(sign in each for each in found) and (guess.sure or len(found) > 1):
                return guess
        return None


def _best(found: list[tuple[int, int, Guess]]) -> Guess | None:
    return min(found)[2] if found else None


def alike(mine: Trial, theirs: Trial, target: Any) -> bool:
    """Whether two calls ended alike: same error, or same complaint and same result."""
    if not agree(mine, theirs, target):
        return False
    if mine.outcome.raised:
        return True
    if mine.held:
        return abs(mine.held - theirs.held) <= 0.05 * mine.held
    return (mine.finding and mine.finding.reason) == (theirs.finding and theirs.finding.reason)


def _complaint(raised: Raised) -> list[str]:
    """What an error says beside sizes and names, if NumPy raises its kind for everything."""
    if raised.kind not in (ValueError, TypeError):
        return []
    return re.findall(r"[A-Za-z]{2,}", re.sub(r"'[^']*'", "", raised.message))


def agree(mine: Trial, theirs: Trial, target: Any) -> bool:
    """Whether two calls raised the same error or returned the same result."""
    a, b = mine.outcome.raised, theirs.outcome.raised
    if a or b:
        return bool(a and b and a.kind is b.kind and _complaint(a) == _complaint(b))
    return same(mine.outcome.value, theirs.outcome.value, target)
