"""Judge an answer: run the cases, find what is wrong with the first that fails, and guess why.

The cases run in order, smallest first; `causes` then looks at all that fail. Nothing is shown and
nothing recorded here: the notebook, the tests and the command line all come through `judge`.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from attncourse.grading import causes, guard, quality, resident
from attncourse.grading.assembly import Written
from attncourse.grading.carried import Carried, carried
from attncourse.grading.compare import difference, expected, same
from attncourse.grading.diagnose import argument_names
from attncourse.grading.messages import (
    Finding,
    Verdict,
    error_words,
    name_of_type,
    plain,
    signature,
    verdict,
)
from attncourse.grading.places import unwrap
from attncourse.grading.spec import Case, Driven, Exercise
from attncourse.grading.values import cast, is_array, leaves, to_numpy, to_torch, unchanged
from attncourse.units import format_bytes

REPEATS = 2  # cases that are tried once more with other values
_NUMPY = dict(vars(np))  # NumPy's names before the learner's code could replace one


def judge(exercise: Exercise, function: Any, seed: int | None = None) -> Verdict:
    """Judge an answer.

    Args:
        exercise: What was asked.
        function: The answer; anything at all.
        seed: For the random cases. If not given: `ATTNCOURSE_SEED`, else a fresh one.

    Returns:
        The verdict. An error of the reference or of the grader itself is its own status and never
        counts as a wrong answer.

    Raises:
        KeyboardInterrupt: The user interrupted the check.
        ValueError: `ATTNCOURSE_SEED` is no whole number.
    """
    seed = _seed() if seed is None else seed
    vars(np).update(_NUMPY)
    if not callable(function):
        asked = "class" if exercise.kind == "class" else "function"
        reason = f"`{exercise.function}` is {name_of_type(function)}, not a {asked}"
        return verdict(exercise, "failed", reason=reason, seed=seed)
    if lacking := _lacking(exercise.needs):
        if _is_stub(function):
            return verdict(exercise, "not_attempted", seed=seed)
        return verdict(exercise, "not_verified_here", reason=lacking, seed=seed)
    try:
        return _Judge(exercise, function, seed).verdict()
    except Exception as error:
        return verdict(exercise, "grader_error", reason=error_words(error), seed=seed)


@dataclass(frozen=True)
class Trial:
    """One call of a function and what is wrong with it, None if nothing is."""

    outcome: guard.Outcome
    finding: Finding | None = None
    held: int = 0  # bytes, if they were metered
    carried: Sequence[Carried] = ()  # by the function before the call, if it was metered
    kept: Sequence[Carried] = ()  # by the call, and too much

    @property
    def printed(self) -> str:
        """What the call printed and warned about."""
        return "\n".join(part for part in (self.outcome.printed, *self.outcome.warned) if part)


class _Round:
    """The cases of one exercise and seed, and what they give whoever is judged."""

    def __init__(self, exercise: Exercise, seed: int) -> None:
        self.exercise, self.seed = exercise, seed
        self.cases = list(exercise.cases(np.random.default_rng(seed)))
        self._targets: dict[int, Any] = {}
        known = itertools.chain.from_iterable(each.functions for each in exercise.mistakes)
        self.trials: dict[int, dict[int, Trial]] = {id(function): {} for function in known}

    @cached_property
    def second_draw(self) -> list[Case]:
        return list(self.exercise.cases(np.random.default_rng([self.seed, 2])))

    @cached_property
    def memory_case(self) -> Case:
        return self.exercise.memory.case(np.random.default_rng([self.seed, 1]))

    def target(self, case: Case) -> Any:
        if id(case) not in self._targets:
            self._targets[id(case)] = expected(self.exercise, case)
        return self._targets[id(case)]


_round = lru_cache(maxsize=1)(_Round)  # who tries the same seed again need not wait as long


class _Judge:
    def __init__(self, exercise: Exercise, function: Any, seed: int) -> None:
        self.exercise, self.function, self.seed = exercise, function, seed
        self._round = _round(exercise, seed)
        self.cases, self._target = self._round.cases, self._round.target
        self._mine: dict[int, Trial] = self._round.trials.get(id(function), {})  # by case
        self._blind = False  # whether the recorder of Triton's accesses has lost its hooks
        self._moved: dict[str, tuple[int, int]] = {}  # by case: bytes, and the least possible

    def verdict(self) -> Verdict:
        for case in self.cases:
            trial = self._first(case)
            if _not_attempted(trial, first=case is self.cases[0]):
                return verdict(self.exercise, "not_attempted", seed=self.seed)
            if trial.finding:
                return self._failed(case, trial, self.cases)
        again = self._try(self.function, self.cases[0])
        if again.finding:
            return self._report(self.cases[0], again, _unsteady(again.finding))
        for case, before in itertools.islice(self._repeats(), REPEATS):
            trial = self._try(self.function, case)
            if trial.finding:
                if difference(self._target(before), trial.outcome.value, before, self.exercise):
                    return self._failed(case, trial, self.cases)
                return self._report(case, trial, _stale(trial.finding))
        if self.exercise.memory:
            trial = self._first(self._round.memory_case, metered=True)
            if (raised := trial.outcome.raised) and raised.kind.__name__ == "NotAlone":
                _, _, reason = raised.message.partition(": ")
                return verdict(self.exercise, "not_verified_here", reason=reason, seed=self.seed)
            if trial.finding:
                return self._failed(self._round.memory_case, trial, [self._round.memory_case])
            if finding := self._hidden(trial):
                return self._report(self._round.memory_case, trial, finding)
        if self._uncounted():
            reason = (
                "its traffic is counted in Triton's interpreter: `attncourse grade` uses it, or "
                "start Python with TRITON_INTERPRET=1"
            )
            share = None if self._traced else quality.roofline(self.exercise, self.function)
            how = {"reason": reason, "seed": self.seed, "roofline": share}
            return verdict(self.exercise, "not_verified_here", **how)
        how = {"cause": _origin(self.function), "seed": self.seed, "moved": self._over_least()}
        return verdict(self.exercise, "passed", **how)

    def _over_least(self) -> float | None:
        """Return the bytes moved over the least possible, in cases whose sizes are not drawn."""
        counted = [pair for name, pair in self._moved.items() if not quality.drawn(name)]
        least = sum(least for _, least in counted)
        return sum(moved for moved, _ in counted) / least if least else None

    def _repeats(self) -> Iterator[tuple[Case, Case]]:
        """Yield cases with the shapes of an earlier one, which follows, and another result."""

        def result(case: Case) -> Any:
            return self.exercise.reference(*cast(case.args), **cast(case.kwargs))

        earlier = {signature(case): case for case in self.cases}
        for case in self._round.second_draw:
            before = earlier.get(signature(case))
            if before and not same(result(case), result(before)):
                yield case, before

    def _first(self, case: Case, *, metered: bool = False) -> Trial:
        """Try the answer, and keep what came of it for the search for a cause."""
        self._mine[id(case)] = trial = self._try(self.function, case, metered=metered)
        return trial

    def _once(self, function: Callable, case: Case, *, metered: bool = False) -> Trial:
        """Try a function; what a known mistake does with a case is tried once in a round."""
        known = self._mine if function is self.function else self._round.trials.get(id(function))
        if known is None:
            return self._try(function, case, metered=metered)
        if id(case) not in known:
            known[id(case)] = self._try(function, case, metered=metered)
        return known[id(case)]

    def _try(
        self, function: Any, case: Case, *, metered: bool = False, located: bool = True
    ) -> Trial:
        """Run a case on copies of its arguments and find what is wrong, the worst first.

        To say which line takes too much memory, which is asked for by `located`, is slow.
        """
        if isinstance(function, Written):
            function = function.__wrapped__  # made now: its time is not the call's
        args, kwargs = self._arguments(case)
        target = self._target(case)  # before the answer can touch what the reference is made of
        called = self.exercise.called(function)
        run, given, seconds = called, args, self.exercise.seconds
        before, kept = carried(function) if metered else (), ()
        if metered:
            from attncourse.grading import meter

            run, given, seconds = meter.held, (called, *args), 3 * seconds
        elif self.exercise.kind == "kernel":
            run, given = _record if self._traced else _finish, (function, *args)
        outcome = guard.call(run, given, kwargs, seconds=seconds, owner=function)
        if outcome.raised:
            return Trial(outcome, self._raised(outcome.raised, case, seconds))
        value, trace, n_bytes = outcome.value, None, 0
        if metered:
            value, n_bytes = value
        elif self._traced:
            value, trace = value
        outcome = guard.Outcome(value, None, outcome.printed, outcome.warned)
        finding = (
            (trace and _out_of_bounds(trace))
            or self._changed(case, args, kwargs)
            or difference(target, value, case, self.exercise)
            or self._view(value, (args, kwargs))
            or (trace and self._traffic(trace, case))
        )
        if not finding and metered and n_bytes > self.exercise.memory.allowed_bytes:
            # A second call, which `_too_much` makes, would find what this one has kept.
            if kept := _kept(before, carried(function), more_than=n_bytes // 4):
                finding = self._keeps(n_bytes, kept, "kept after the call")
            elif located:
                finding = self._too_much(function, case, n_bytes)
        return Trial(outcome, finding, n_bytes, before, kept)

    def _arguments(self, case: Case) -> tuple[tuple, dict]:
        args, kwargs = copy.deepcopy((case.args, dict(case.kwargs)))
        if self.exercise.kind != "kernel":
            return args, kwargs
        return tuple(map(to_torch, args)), {name: to_torch(x) for name, x in kwargs.items()}

    @cached_property
    def _traced(self) -> bool:
        """Whether Triton's interpreter can tell what the kernel touches."""
        if self.exercise.kind != "kernel" or self.exercise.needs != "triton":
            return False
        from attncourse import kernels

        return kernels.INTERPRETED

    def _uncounted(self) -> bool:
        return self.exercise.traffic is not None and (self._blind or not self._traced)

    def _raised(self, raised: guard.Raised, case: Case, seconds: float) -> Finding:
        kind, where = raised.kind, ""
        if raised.place:
            where = str(raised.place) + (f": {raised.place.text}" if raised.place.text else "")
        if kind is guard.TimeUp:
            return Finding(
                f"took longer than {seconds:g} s",
                where and f"stopped at {where}",
                "a loop that does not end, or far more work than is needed",
                "look at how often each loop runs for these arguments",
            )
        if issubclass(kind, MemoryError):
            return Finding(
                "asked for more memory than an exercise may use",
                "\n".join(part for part in (where, raised.message) if part),
                "a list or array that grows without end, or one far too large",
                "write down the shape of each array it makes",
            )
        if issubclass(kind, RecursionError):
            return Finding("calls itself without end", where, next="give the recursion an end")
        if kind is SystemExit:
            return Finding("called exit", where, next="return the result instead")
        if kind.__name__ == "Unmetered":
            step = "leave `tracemalloc` alone: the memory is being graded"
            return Finding("switched the memory meter off", next=step)
        reason = f"raised {kind.__name__}" + (f": {raised.message}" if raised.message else "")
        if not raised.place and self.exercise.drive:
            if not issubclass(kind, (TypeError, AttributeError)):
                step = "compare what it calls, and what it returns, with what the exercise says"
                return Finding(reason, where, next=step)
            is_class = self.exercise.kind == "class"
            parts = "methods, their names and parameters," if is_class else "parameters"
            step = f"compare its {parts} with those of the exercise"
            return Finding(reason, where, "it cannot be used as the exercise says", step)
        if not raised.place and issubclass(kind, TypeError):
            asked = plain(inspect.signature(self.exercise.reference))
            asked = re.sub(r"(:|\s*->)\s*[^,)=]+", "", asked)
            cause = "it cannot be called with the arguments that the exercise names"
            return Finding(reason, where, cause, f"its parameters are to be {asked}")
        return Finding(reason, where, next="run it by hand on this smallest case")

    def _changed(self, case: Case, args: tuple, kwargs: dict) -> Finding | None:
        """Find an argument that the answer wrote to."""
        after = argument_names(self.exercise.reference, Case(case.name, args, kwargs))
        for name, before in argument_names(self.exercise.reference, case).items():
            if not unchanged(before, after[name]):
                return Finding(
                    f"changed its argument `{name}` in place",
                    cause="an operation such as `-=`, `out=`, `sort()` or `x[...] = …` on it",
                    next=f"work on a copy, or write `{name} = {name} - …`",
                )
        return None

    def _view(self, value: Any, arguments: Any) -> Finding | None:
        if self.exercise.may_return_view:
            return None
        given, mine = ([to_numpy(x) for x in leaves(y) if is_array(x)] for y in (arguments, value))
        for result in mine:
            if any(np.may_share_memory(result, theirs) for theirs in given):
                return Finding(
                    "returned a view of an argument",
                    cause="the result shares its memory with what came in",
                    next="return a new array: end with `.copy()`",
                )
        return None

    def _traffic(self, trace: Any, case: Case) -> Finding | None:
        if self.exercise.traffic is None:
            return None
        if not trace.launches:
            return Finding(
                "launched no Triton kernel", next="start the kernel: `kernel[grid](...)`"
            )
        self._blind = not trace.accesses
        allowed = self.exercise.traffic(case)
        for verb, did, may in (
            ("loads", trace.bytes_loaded, allowed.bytes_read),
            ("stores", trace.bytes_stored, allowed.bytes_written),
        ):
            if did() > may:
                tensors = dict.fromkeys(access.tensor for access in trace.accesses)
                by_tensor = {name: did(name) for name in tensors}
                where = ", ".join(
                    f"{format_bytes(n)} of {name}" for name, n in by_tensor.items() if n
                )
                return Finding(
                    f"{verb} {format_bytes(did())}, allowed {format_bytes(may)}",
                    f"{verb} {where}",
                    "tiles are touched that the result does not need, or the same one twice",
                    "work out the first and the last tile of each loop by hand for this case",
                )
        if not self._blind:
            least = quality.least(self.exercise, case, trace.result)
            moved = trace.bytes_loaded() + trace.bytes_stored()
            self._moved[case.name] = moved, least.bytes_read + least.bytes_written
        return None

    def _too_much(self, function: Any, case: Case, n_bytes: int) -> Finding:
        from attncourse.grading import meter

        args, kwargs = self._arguments(case)
        seconds = 6 * self.exercise.seconds  # a line trace is slow
        found = guard.call(
            meter.located,
            (n_bytes, self.exercise.called(function), *args),
            kwargs,
            seconds=seconds,
            owner=function,
        )
        peak = found.value if found.raised is None else meter.Peak(n_bytes)
        allowed = self.exercise.memory.allowed_bytes
        reason = f"peak {format_bytes(n_bytes)} at {case.name}, allowed {format_bytes(allowed)}"
        cause = f"allowed is {self.exercise.memory.why}"
        step = "make that array smaller: a block at a time, or only the part that is used"
        if peak.wider and (kept := self._if_narrow(function, case, n_bytes)):
            dtype, wide = meter.widest(case.args), " and ".join({*peak.wider.values()})
            names = ", ".join(f"`{name}`" for name in [*peak.wider][:4])
            others = " and others" if len(peak.wider) > 4 else ""
            cause = (
                f"{wide}, where {dtype} came in: {names}{others}. In {dtype} the peak would be "
                f"about {format_bytes(kept)}"
            )
            step = (
                f"keep to {dtype}: name the dtype where an array is made, and scale by a Python "
                "number (64**0.5; np.sqrt(64) is a float64 and widens what it meets)"
            )
        return Finding(
            reason + (f": {peak}" if str(peak) else ""),
            f"{peak.place}: {peak.source}" if peak.source else "",
            cause,
            step,
        )

    def _if_narrow(self, function: Any, case: Case, n_bytes: int) -> int | None:
        """Return the peak that arrays of the arguments' dtype would have, if that is allowed.

        None if it is not, or if the peak grows with the dtype of what comes in, as it should.
        """
        from attncourse.grading import meter

        times_wider = 8 / np.dtype(meter.widest(case.args)).itemsize
        args, kwargs = cast(case.args, np.float64), cast(dict(case.kwargs), np.float64)
        given = (self.exercise.called(function), *args)
        wide = guard.call(
            meter.held, given, kwargs, seconds=3 * self.exercise.seconds, owner=function
        )
        if wide.raised:
            return None
        held = wide.value[1]
        kept = round(held / times_wider)
        follows = held > n_bytes * (1 + times_wider) / 2
        return None if follows or kept > self.exercise.memory.allowed_bytes else kept

    def _keeps(self, n_bytes: int, kept: Sequence[Carried], when: str) -> Finding:
        case, allowed = self._round.memory_case, self.exercise.memory.allowed_bytes
        n_kept = sum(each.bytes for each in kept)
        return Finding(
            f"peak {format_bytes(n_bytes)} at {case.name}, allowed {format_bytes(allowed)}: "
            f"{format_bytes(n_kept)} of it {when}",
            "\n".join(str(each) for each in kept[:3] if each.bytes > 0.05 * n_kept),
            "what is made once and kept counts like what is made in the call",
            "make it inside the function, a block at a time, and keep nothing",
        )

    def _hidden(self, trial: Trial) -> Finding | None:
        """Find memory that the answer uses and the meter of allocations does not see."""
        case, allowed = self._round.memory_case, self.exercise.memory.allowed_bytes
        limit = f"at {case.name}, allowed {format_bytes(allowed)}"
        n_bytes = trial.held + sum(each.bytes for each in trial.carried)
        if n_bytes > allowed:
            return self._keeps(n_bytes, trial.carried, "kept from before the call")
        args, kwargs = self._arguments(case)
        small = self._arguments(self.cases[0])
        seconds = 3 * self.exercise.seconds
        called = self.exercise.called(self.function)
        grown = resident.growth(called, args, kwargs, before=small, seconds=seconds)
        if grown is None:
            return None
        if grown.started:
            return Finding(
                "started another process, whose memory cannot be metered",
                next="compute everything in your function itself",
            )
        if grown.bytes > allowed + resident.NOISE:
            return Finding(
                f"the process took {format_bytes(grown.bytes)} {limit}",
                f"NumPy and Python account for {format_bytes(trial.held)} of it",
                "memory taken past NumPy, or an older buffer that is written to",
                "make every buffer with NumPy, inside the function, and a block at a time",
            )
        return None

    def _failed(self, case: Case, trial: Trial, cases: list[Case]) -> Verdict:
        """Look for the likely cause and write the verdict."""
        ended = trial.outcome.raised and trial.outcome.raised.kind in (guard.TimeUp, MemoryError)
        if ended or trial.kept:
            return self._report(case, trial, trial.finding)
        metered = bool(trial.held)
        again = self._try(self.function, case, metered=metered, located=False)
        # What a call holds may be another amount each time; the result may not.
        steady = causes.agree if metered else causes.alike
        if not steady(again, trial, self._target(case)):
            return self._report(case, trial, _unsteady(trial.finding))
        if self.exercise.explain and not trial.outcome.raised:
            return self._report(case, trial, self._explained(case, trial.finding))
        cases = [case, *(each for each in cases if each is not case)]
        search = causes.Search(
            self.exercise,
            self.function,
            cases,
            lambda function, each: self._once(function, each, metered=metered),
            self._target,
        )
        finding = trial.finding
        if found := search.cause(lambda: self._suspects(metered)):
            finding = replace(finding, cause=found.cause, next=found.next)
        elif not finding.cause and not finding.next:
            finding = replace(finding, next="run it by hand on this smallest case")
        return self._report(case, trial, finding)

    def _explained(self, case: Case, finding: Finding) -> Finding:
        """Let the exercise itself say why a case failed."""
        args, kwargs = self._arguments(case)
        run, seconds = Driven(self.exercise.explain, self.function), self.exercise.seconds
        outcome = guard.call(run, args, kwargs, seconds=seconds, owner=self.function)
        if outcome.raised:
            return finding
        cause, step = outcome.value
        return replace(finding, cause=cause, next=step)

    def _suspects(self, metered: bool) -> Iterator[causes.Suspect]:
        """Yield the known mistakes; if memory is at stake, only those whose numbers are right."""
        for mistake in self.exercise.mistakes:
            for function in mistake.functions:
                if not metered or not any(
                    self._once(function, each).finding for each in self.cases
                ):
                    yield mistake, function

    def _report(self, case: Case, trial: Trial, finding: Finding) -> Verdict:
        call = f"{self.exercise.function}{signature(case)}"
        return verdict(
            self.exercise,
            "failed",
            reason=finding.reason,
            case=case.name if self.exercise.drive else f"{case.name}: {call}",
            where=finding.where,
            cause=finding.cause,
            hint=finding.next,
            seed=self.seed,
            printed=trial.printed,
        )


def _kept(
    before: Sequence[Carried], after: Sequence[Carried], more_than: int
) -> tuple[Carried, ...]:
    """Return what a function carries more of than before, if that is much; `bytes` is how much."""
    had = {each.name: each.bytes for each in before}
    grown = [replace(each, bytes=each.bytes - had.get(each.name, 0)) for each in after]
    if sum(each.bytes for each in grown) <= more_than:
        return ()
    return tuple(sorted(grown, key=lambda each: -each.bytes))


def _not_attempted(trial: Trial, *, first: bool) -> bool:
    """Whether the answer is still the stub, which raises NotImplementedError at once."""
    raised = trial.outcome.raised
    return bool(first and raised and raised.own and issubclass(raised.kind, NotImplementedError))


def _is_stub(function: Any) -> bool:
    """Recognise a stub that cannot be run here: nothing in it but NotImplementedError."""
    plain_function = unwrap(function)
    return bool(plain_function) and plain_function.__code__.co_names == ("NotImplementedError",)


def _unsteady(finding: Finding) -> Finding:
    return Finding(
        finding.reason,
        finding.where,
        "another result for the same arguments: random numbers, or something kept from a call",
        "compute everything from the arguments, in each call anew",
    )


def _stale(finding: Finding) -> Finding:
    return Finding(
        finding.reason,
        finding.where,
        "it is what an earlier call with the same shapes returned: something was kept",
        "compute everything from the arguments, in each call anew",
    )


def _out_of_bounds(trace: Any) -> Finding | None:
    if not trace.out_of_bounds:
        return None
    access = trace.out_of_bounds[0]
    verb = {"load": "reads", "store": "writes"}.get(access.kind, "updates")
    return Finding(
        f"{verb} outside of `{access.tensor}`",
        f"program {access.program} of {access.kernel}: {access.out_of_bounds} of "
        f"{access.elements} elements, {len(trace.out_of_bounds)} such accesses in all",
        "a mask is missing, or a tile starts before the first or after the last row",
        "give every load and store that can overrun a `mask=`, loads also `other=`",
    )


def _finish(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Wait for the GPU, so that its errors are raised by the call and not later."""
    import torch

    result = function(*args, **kwargs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _record(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    from attncourse import trace

    traced = trace.record(function, *args, **kwargs)
    return traced.result, traced


def _seed() -> int:
    given = os.environ.get("ATTNCOURSE_SEED")
    if given is None:
        return secrets.randbelow(10**6)
    if not given.strip().isdecimal():
        raise ValueError(f"ATTNCOURSE_SEED must be a whole number, got {given!r}")
    return int(given)


def _lacking(needs: str) -> str:
    """Say what the machine lacks for an exercise, empty if nothing."""
    if needs == "gpu":
        if importlib.util.find_spec("torch") is None:
            return "needs an NVIDIA GPU and torch"
        import torch

        if not torch.cuda.is_available():
            return "needs an NVIDIA GPU"
    if needs in ("triton", "gpu"):
        try:
            importlib.import_module("attncourse.kernels")
        except ImportError as error:
            return plain(error)
    return ""


def _origin(function: Any) -> str:
    """Remark on a function that was imported instead of written in the notebook."""
    module = plain(getattr(function, "__module__", "") or "")
    return "" if module in ("", "__main__") else f"the function comes from the module {module}"
