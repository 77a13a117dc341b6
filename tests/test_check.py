"""The judge, tried on answers that are wrong, careless or hostile."""

import builtins
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings
from collections import Counter, OrderedDict, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from attncourse import progress
from attncourse.cost import Cost
from attncourse.grading import (
    causes,
    check,
    exercises,
    guard,
    hint,
    judging,
    places,
    quality,
    values,
)
from attncourse.grading.check import judge
from attncourse.grading.messages import Verdict, plain
from attncourse.grading.spec import Case, Exercise, Memory, Mistake, SpecError

ROOT = Path(__file__).parent.parent


# Toy exercises


def weights(q, k):
    scores = q @ k.T / np.sqrt(q.shape[-1]).astype(q.dtype)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def unscaled(q, k):
    return weights(q * np.sqrt(q.shape[-1]).astype(q.dtype), k)


def weights_cases(rng):
    def case(name, n_queries, n_keys, dtype=np.float32):
        q, k = (rng.standard_normal((n, 4)).astype(dtype) for n in (n_queries, n_keys))
        return Case(name, (q, k))

    return [
        case("1 query, 2 keys", 1, 2),
        case("Tq ≠ Tk", 3, 5),
        case("square", 6, 6),
        case("float16", 3, 4, np.float16),
        case("float64", 3, 4, np.float64),
    ]


def count(n, heads):
    return n * n * heads


def band(n, window):
    i, j = np.ogrid[:n, :n]
    return abs(i - j) <= window


def others(n=5):
    """Mistakes that resemble nothing, to fill the quota."""
    return [Mistake(lambda *a, i=i: -i - 7.5, f"none {i}", "next") for i in range(n)]


def toy(reference, cases, kind, mistakes=(), **fields):
    fields = {"seconds": 2.0, "alternatives": (reference, reference)} | fields
    return Exercise(
        id="99.1",
        chapter="99",
        title="Toy",
        function=reference.__name__,
        minutes=1,
        difficulty=1,
        points=3,
        hints=("look", "think", "write"),
        reference=reference,
        cases=cases,
        kind=kind,
        mistakes=(*mistakes, *others()),
        **fields,
    )


UNSCALED = Mistake(unscaled, "your output is what you get without 1/√D", "divide")
WEIGHTS = toy(weights, weights_cases, "array", [UNSCALED])
COUNT = toy(count, lambda rng: [Case("1 token", (1, 3)), Case("n = 10⁸", (10**8, 10**8))], "number")
BAND = toy(band, lambda rng: [Case("3 tokens", (3, 0)), Case("5 tokens", (5, 1))], "mask")


def number(value, **fields):
    """Return an exercise whose answer is always `value`."""

    def answer():
        return value

    return toy(answer, lambda rng: [Case("the case")], "number", **fields)


def numbers(*values, **fields):
    """Return an exercise whose answer in case i is `values[i]`."""

    def answer(i):
        return values[i]

    cases = [Case(f"case {i}", (i,)) for i in range(len(values))]
    return toy(answer, lambda rng: cases, "number", **fields)


def failed(exercise, function, *parts):
    """Judge, demand a failure, and find each part in what the learner reads."""
    verdict = judge(exercise, function, seed=3)
    assert verdict.status == "failed", verdict
    assert verdict.score == 0
    for part in parts:
        assert part in str(verdict), str(verdict)
    return verdict


# Specs


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": "4.3"}, "id must look like"),
        ({"id": "98.1"}, "chapter must be that of the id"),
        ({"mistakes": others(5) + others(1)}, "say the same"),
        ({"kind": "list"}, "kind must be one of"),
        ({"needs": "tpu"}, "needs must be one of"),
        ({"points": 0}, "points must be a positive int"),
        ({"difficulty": 4}, "difficulty must be"),
        ({"function": "two words"}, "function must be a name"),
        ({"traffic": len}, "traffic is counted for kernels only"),
    ],
)
def test_spec_refuses_what_breaks_the_rules(change, complaint):
    with pytest.raises(SpecError, match=complaint):
        replace(WEIGHTS, **change)


@pytest.mark.parametrize(
    ("change", "lack"),
    [
        ({"hints": ("one", "two")}, "three hints are needed, got 2"),
        ({"mistakes": others(4)}, "at least 5 mistakes are needed, got 4"),
        ({"alternatives": (weights,)}, "at least 2 alternatives are needed, got 1"),
        ({"cases": weights_cases}, "at least 7 cases are needed, got 5"),
    ],
)
def test_a_draft_says_what_it_lacks(change, lack):
    whole = replace(WEIGHTS, cases=lambda rng: weights_cases(rng) + weights_cases(rng)[:2])
    assert not whole.lacks()
    assert replace(whole, **change).lacks() == [f"exercise {WEIGHTS.id}: {lack}"]


def test_case_and_memory_refuse_wrong_types():
    with pytest.raises(SpecError, match="args must be a tuple"):
        Case("one", [1])
    with pytest.raises(SpecError, match="positive int"):
        Memory(lambda rng: Case("one"), 0, "nothing")


# Passing and the form of verdicts


def test_passing_line_is_stable():
    lines = {str(judge(WEIGHTS, weights)) for _ in range(3)}
    assert lines == {"✓ 99.1 Toy: passed, 3/3 points"}


def test_right_answers_in_other_words_pass():
    def double(q, k):
        return weights(q.astype(np.float64), k.astype(np.float64)).astype(q.dtype)

    def loops(q, k):
        out = np.empty((len(q), len(k)), q.dtype)
        for i, row in enumerate(q):
            e = np.exp((k * row).sum(-1) * q.shape[-1] ** -0.5)
            out[i] = e / e.sum()
        return out

    for answer in (double, loops):
        assert judge(WEIGHTS, answer).status == "passed"


def test_failure_has_five_parts_in_plain_text():
    verdict = failed(WEIGHTS, unscaled, "failed, 0/3 points: wrong values")
    assert verdict.case.startswith("1 query, 2 keys: weights((1, 4) float32")
    assert "row 0, column 0: expected" in verdict.where
    assert "allowed" in verdict.where
    assert verdict.cause == "your output is what you get without 1/√D"
    assert verdict.hint == "divide"
    assert "\x1b" not in str(verdict)
    assert "ATTNCOURSE_SEED=3" in str(verdict)


def test_data_is_what_the_report_needs():
    data = judge(WEIGHTS, unscaled, seed=3).data
    names = {"exercise", "status", "score", "points", "reason", "cause", "hint", "seed"}
    assert set(data) == names
    assert json.loads(json.dumps(data)) == data


def test_the_first_case_that_fails_is_reported_in_order():
    def wrong_for_many(q, k):
        return weights(q, k) + (len(q) > 1) * q.dtype.type(0.5)

    assert failed(WEIGHTS, wrong_for_many).case.startswith("Tq ≠ Tk")


# Seeds


def test_seed_is_fresh_unless_it_is_given(monkeypatch):
    monkeypatch.delenv("ATTNCOURSE_SEED", raising=False)
    assert len({judge(WEIGHTS, unscaled).seed for _ in range(4)}) > 1
    monkeypatch.setenv("ATTNCOURSE_SEED", "77")
    first, second = judge(WEIGHTS, unscaled), judge(WEIGHTS, unscaled)
    assert first == second
    assert first.seed == 77
    monkeypatch.setenv("ATTNCOURSE_SEED", "many")
    with pytest.raises(ValueError, match="whole number, got 'many'"):
        judge(WEIGHTS, weights)


def test_seed_makes_the_cases():
    seen = []
    judge(WEIGHTS, lambda q, k: seen.append(q.copy()) or weights(q, k), seed=1)
    judge(WEIGHTS, lambda q, k: seen.append(q.copy()) or weights(q, k), seed=2)
    assert not np.array_equal(seen[0], seen[len(seen) // 2])


def test_a_result_that_is_kept_by_shape_fails():
    kept = {}

    def answer(q, k):
        key = q.shape, k.shape, q.dtype
        if key not in kept:
            kept[key] = weights(q, k)
        return kept[key].copy()

    failed(WEIGHTS, answer, "wrong values", "what an earlier call with the same shapes returned")
    kept.clear()
    assert judge(BAND, lambda n, w: kept.setdefault((n, w), band(n, w)).copy()).status == "passed"


def test_what_fails_in_the_second_draw_only_is_diagnosed_like_any_other():
    calls = []

    def answer(q, k):
        calls.append(q)
        return (weights if len(calls) <= 6 else unscaled)(q, k)

    assert "earlier call" not in str(failed(WEIGHTS, answer, "wrong values"))


# Not attempted


def test_stub_is_not_attempted():
    def stub(q, k):
        raise NotImplementedError

    assert str(judge(WEIGHTS, stub)) == "○ 99.1 Toy: not attempted"


def test_not_implemented_later_or_by_a_library_is_a_failure():
    def half(q, k):
        if len(q) > 1:
            raise NotImplementedError
        return weights(q, k)

    def library(q, k):
        return next(iter([])) if False else json.JSONEncoder().default(q)

    failed(WEIGHTS, half, "raised NotImplementedError")
    failed(WEIGHTS, library, "raised TypeError")


def test_no_function_is_a_failure_in_one_line():
    failed(WEIGHTS, np.ones(3), "`weights` is a NumPy array, not a function")


# Exceptions


def test_exception_shows_the_learners_line():
    def wrong(q, k):
        total = q.sum()
        return np.linalg.inv(np.zeros((2, 2))) + total

    failed(
        WEIGHTS, wrong, "raised LinAlgError: Singular matrix", "line 3 of your function: return np."
    )


def test_exception_in_a_helper_names_it():
    def wrong(q, k):
        return helper_that_raises(q)

    failed(WEIGHTS, wrong, "line 2 of `helper_that_raises`: return q[99]")


def helper_that_raises(q):
    return q[99]


def test_wrong_parameters_are_named():
    failed(WEIGHTS, lambda q: q, "raised TypeError", "its parameters are to be (q, k)")


class Hostile(Exception):
    def __str__(self):
        raise SystemExit

    __repr__ = __str__


def raising(error):
    def answer(q, k):
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (SystemExit(0), "called exit"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (GeneratorExit(), "raised GeneratorExit"),
        (Hostile(), "raised Hostile: (cannot be shown)"),
        (MemoryError(), "asked for more memory"),
        (
            ValueError("\x1b[31mred\x1b[0m\x07\n and " + "long " * 999),
            "raised ValueError: red and long",
        ),
    ],
)
def test_any_exception_is_a_failure(error, part):
    verdict = failed(WEIGHTS, raising(error), part)
    assert len(verdict.reason) < 400
    assert "\x1b" not in str(verdict)


def test_exit_does_not_end_anything():
    failed(WEIGHTS, lambda q, k: sys.exit(3), "called exit")
    failed(WEIGHTS, lambda q, k: builtins.exit(), "called exit")


def test_recursion_ends():
    def again(q, k):
        return again(q, k)

    failed(WEIGHTS, again, "calls itself without end")


def test_real_interrupt_ends_the_check():
    def slow(q, k):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    # A process started in the background by a script ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(WEIGHTS, slow)
    finally:
        signal.signal(signal.SIGINT, before)


# Loops and memory without end

QUICK = replace(WEIGHTS, seconds=0.2)


def loop(q, k):
    while True:
        pass


def stubborn_loop(q, k):
    while True:
        try:
            sum(range(50))
        except BaseException:
            pass


def sleeper(q, k):
    time.sleep(60)


@pytest.mark.parametrize("answer", [loop, stubborn_loop, sleeper])
def test_loop_ends_at_the_limit(answer):
    start = time.monotonic()
    failed(QUICK, answer, "took longer than 0.2 s", "of your function")
    assert time.monotonic() - start < 2


def test_what_the_compiler_adds_belongs_to_the_line_before():
    def answer():
        try:
            yield
        except BaseException:
            pass

    frame = answer().gi_frame
    added = [start for start, _, line in frame.f_code.co_lines() if line is None]
    assert added  # an exception there has no line of its own
    for lasti in added:
        where = places.last_place(answer, TracebackType(None, frame, lasti, -1))
        assert 1 <= where.line <= 5


@pytest.mark.parametrize("answer", [loop, stubborn_loop])
def test_loop_ends_in_another_thread(answer):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(QUICK, answer, seed=3)))
    thread.start()
    thread.join(timeout=10)
    assert verdicts
    assert verdicts[0].reason == "took longer than 0.2 s"


def test_a_late_time_up_is_still_one(monkeypatch):
    def late(error, owner):
        raise guard.TimeUp

    monkeypatch.setattr(guard, "_describe", late)
    outcome = guard.call(lambda: 1 / 0, (), {}, seconds=1, owner=None)
    assert outcome.raised.kind is guard.TimeUp


def test_other_threads_judge_as_well():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(WEIGHTS, weights)))
    thread.start()
    thread.join(timeout=10)
    assert [verdict.status for verdict in verdicts] == ["passed"]


def test_alarm_of_somebody_else_goes_on():
    rings = []
    before = signal.signal(signal.SIGALRM, lambda *args: rings.append(args))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.6)
        failed(QUICK, loop)
        assert not rings
        remaining, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < remaining < 0.5
        time.sleep(remaining + 0.1)
        assert len(rings) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux only")
def test_memory_without_end_is_stopped(monkeypatch):
    import resource

    monkeypatch.setattr(guard, "HEADROOM", 300 * 2**20)
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def hoard(q, k):
        kept = []
        while True:
            kept.append(np.empty(2**22))

    def absurd(q, k):
        return np.zeros((10**5, 10**5))

    failed(WEIGHTS, hoard, "asked for more memory", "line 4 of your function")
    failed(WEIGHTS, absurd, "asked for more memory", "Unable to allocate 74.5 GiB")
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


# Wrong types


class Liar:
    """Equal to everything, and an array if asked."""

    def __eq__(self, other):
        return True

    __ne__ = __hash__ = None

    def __array__(self, dtype=None, copy=None):
        return np.zeros((1, 2), np.float32)

    def __float__(self):
        return 3.0


class LyingArray(np.ndarray):
    def __eq__(self, other):
        return np.ones(self.shape, bool)

    def __array_ufunc__(self, *args, **kwargs):
        return np.zeros(self.shape)


def test_a_torch_tensor_is_no_numpy_array():
    torch = pytest.importorskip("torch")
    failed(
        WEIGHTS, lambda q, k: torch.from_numpy(weights(q, k)), "returned a torch tensor", "NumPy"
    )


def test_types_that_are_no_array():
    failed(WEIGHTS, lambda q, k: weights(q, k).tolist(), "returned a list, expected a NumPy array")
    failed(WEIGHTS, lambda q, k: None, "returned None", "without a `return`")
    failed(WEIGHTS, lambda q, k: Liar(), "Liar, expected a NumPy array")
    failed(WEIGHTS, lambda q, k: weights(q, k).view(LyingArray), "LyingArray, expected")
    failed(WEIGHTS, lambda q, k: np.asmatrix(weights(q, k)), "matrix", "np.asarray")
    failed(WEIGHTS, lambda q, k: np.ma.array(weights(q, k)), "MaskedArray")
    failed(WEIGHTS, lambda q, k: (yield weights(q, k)), "returned a generator", "yield")


def test_wrong_dtype_and_shape():
    failed(
        WEIGHTS, lambda q, k: weights(q, k).astype(np.float64), "dtype float64, expected float32"
    )
    failed(WEIGHTS, lambda q, k: weights(q, k)[None], "shape (1, 1, 2), expected (1, 2)")
    failed(
        replace(WEIGHTS, cases=lambda rng: weights_cases(rng)[1:]),
        lambda q, k: weights(q, k).T.copy(),
        "shape (5, 3), expected (3, 5)",
        "another order",
    )
    failed(BAND, lambda n, w: band(n, w).astype(int), "dtype int64, expected bool")


def test_changed_argument_is_named():
    def in_place(q, k):
        out = weights(q, k)
        k *= 1.5
        return out

    def reshaped(q, k):
        out = weights(q, k)
        q.shape = (q.size,)
        return out

    failed(WEIGHTS, in_place, "changed its argument `k` in place")
    failed(WEIGHTS, reshaped, "changed its argument `q` in place")


def test_view_of_an_argument_is_refused_unless_allowed():
    def keep(x):
        return x[:2].copy()

    exercise = toy(keep, lambda rng: [Case("4 values", (np.arange(4.0),))], "array")
    failed(exercise, lambda x: x[:2], "returned a view of an argument")
    assert judge(replace(exercise, may_return_view=True), lambda x: x[:2]).status == "passed"


# Numbers


def test_integers_are_compared_exactly():
    assert judge(COUNT, lambda n, h: n * n * h).status == "passed"
    failed(COUNT, lambda n, h: n * n * h + 1, "off by one")
    verdict = failed(COUNT, lambda n, h: n * n * h + (n > 1), str(10**24 + 1))
    assert verdict.cause == ""  # one number
    failed(COUNT, lambda n, h: float(n) * n * h, "exactly only up to 2**53")
    failed(
        COUNT,
        lambda n, h: int(np.multiply(np.int64(n * n), np.int64(h), dtype=np.int64)),
        "overflowed",
    )


def test_numpy_numbers_count_and_bools_do_not():
    for value in (np.int64(7), np.uint8(7), np.array(7), 7.0, np.float32(7)):
        assert judge(number(7), lambda v=value: v).status == "passed", value
    failed(number(1), lambda: True, "returned a bool, expected an int")
    failed(number(1), lambda: np.True_, "expected an int")
    failed(number(1), lambda: Liar(), "expected an int")
    failed(number(1), lambda: "1", "returned a str, expected an int")
    failed(number(1.5), lambda: 1.5 + 0j, "returned a complex, expected a number")
    failed(
        number(1), lambda: type("Int", (int,), {"__eq__": lambda *a: True})(5), "expected an int"
    )


def test_floats_have_a_relative_tolerance():
    assert judge(number(1e-30), lambda: 1e-30 * (1 + 1e-12)).status == "passed"
    failed(number(1e-30), lambda: 1.1e-30, "relative error allowed 1e-09")
    failed(numbers(2 / 3, 5 / 7), lambda i: (0.67, 0.71)[i], "rounded to 2 digits")
    failed(number(1.0), lambda: float("nan"), "returned nan")
    failed(number(1.0), lambda: float("inf"), "returned inf")
    assert judge(number(1.0, tolerance=0.01), lambda: 1.005).status == "passed"
    failed(number(1.0), lambda: 10**400, "an integer of 1329 bits")


def test_other_single_values():
    assert judge(number(True), lambda: np.True_).status == "passed"
    failed(number(True), lambda: 1, "returned an int, expected a bool")
    failed(number(True), lambda: False, "expected True, yours False")
    assert judge(number(None), lambda: None).status == "passed"
    failed(number(None), lambda: 0, "expected None")
    failed(number("B"), lambda: "A", "expected 'B', yours 'A'")


def test_a_factor_must_hold_in_every_failing_case():
    failed(COUNT, lambda n, h: n * n * h * h, "times heads = 3")
    failed(numbers(72, 5 * 36), lambda i: (36, 90)[i], "divided by 2")
    assert failed(numbers(72, 5 * 36), lambda i: (36, 91)[i]).cause == ""
    assert failed(numbers(72, 5), lambda i: (36, 5)[i]).cause == ""  # one number is no proof
    failed(numbers(1024.0, 3.0), lambda i: (1048.576, 3.072)[i], "1.024")
    failed(numbers(5, 7), lambda i: (-5, -7)[i], "times -1")
    assert failed(numbers(1, 8), lambda i: (2, 6)[i]).cause == ""  # one off, and two


def test_minus_one_that_stands_for_none_is_not_a_count():
    for pair in ((-1, -1), (0, 0)), ((-1, -1), (-2, -2)), ((0, 0), (-1, -1)):
        right, wrong = pair
        assert "off by" not in failed(numbers(*right), lambda i, wrong=wrong: wrong[i]).cause
    failed(numbers(0, 4), lambda i: (1, 5)[i], "off by one")


def test_float32_on_the_way_is_named():
    pair = numbers(1 / 3, 1 / 7)
    failed(pair, lambda i: float(np.float32((1 / 3, 1 / 7)[i])), "computed in float32")
    doubles = replace(WEIGHTS, cases=lambda rng: [Case(n, (*rng.random((2, 5, 8)),)) for n in "ab"])

    def scale(kind):
        return lambda q, k: weights(q * kind(1 / np.sqrt(q.shape[-1])) * np.sqrt(8), k)

    failed(doubles, scale(np.float32), "computed in float32")
    assert judge(doubles, scale(np.float64)).status == "passed"
    shrunk = failed(doubles, lambda q, k: weights(q, k) / (1 + 1e-8))
    assert "float32" not in shrunk.cause


def test_containers_name_the_part():
    right = {"n": 1, "parts": (2, 3.5), "steps": [4]}
    exercise = number(right)
    assert judge(exercise, lambda: {"steps": [4], "parts": (2, 3.5), "n": 1}).status == "passed"
    failed(exercise, lambda: right | {"n": 2}, "key 'n': wrong value")
    failed(exercise, lambda: right | {"parts": (2, 3.25)}, "key 'parts', value 2 of 2: wrong value")
    failed(exercise, lambda: {"n": 1, "parts": (2, 3.5)}, "key 'steps' is missing")
    failed(exercise, lambda: right | {"m": 1}, "key 'm' is not asked for")
    failed(exercise, lambda: right | {"parts": [2, 3.5]}, "returned a list, expected a tuple of 2")
    failed(exercise, lambda: right | {"parts": (2,)}, "returned 1 values, expected 2")
    keys = "a dict with the keys 'n', 'parts' and 'steps'"
    failed(exercise, lambda: 5, f"returned an int, expected {keys}", f"Next:   return {keys}")
    failed(number({"n": 1}), lambda: 5, "expected a dict with the key 'n'")
    failed(number([]), lambda: None, "returned None, expected an empty list")


def test_any_class_of_dict_is_a_dict():
    class Hostile(dict):
        def __getitem__(self, key):
            raise RuntimeError

        keys = values = items = __iter__ = __getitem__

    right = {"visited": 3, "masked": {"n": 1}}
    exercise = number(right, mistakes=(Mistake(lambda: right | {"visited": 2}, "one less", "x"),))
    for kind in (Counter, partial(defaultdict, int), OrderedDict, Hostile):
        assert judge(exercise, lambda kind=kind: kind(right)).status == "passed"
        failed(exercise, lambda kind=kind: kind(right | {"visited": 2}), "key 'visited'")
        assert failed(exercise, lambda kind=kind: kind(right | {"visited": 2})).cause == "one less"
    failed(exercise, lambda: Counter(visited=3), "key 'masked' is missing")


# Masks


def test_mask_failure_shows_three_pictures():
    def wide(n, window):
        return band(n, window + 1)

    text = str(failed(BAND, wide, "wrong mask", "4 too many of 9"))
    rows = [line.split() for line in text.splitlines() if "█" in line and "may" not in line]
    assert rows == [["█··", "██·", "·+·"], ["·█·", "███", "+·+"], ["··█", "·██", "·+·"]]


def test_masks_are_diagnosed():
    def causal(n):
        return np.tri(n, dtype=bool)

    exercise = toy(causal, lambda rng: [Case("5 tokens", (5,))], "mask")
    failed(exercise, lambda n: ~causal(n), "inverted")
    failed(exercise, lambda n: causal(n).T.copy(), "queries and keys are swapped")
    failed(exercise, lambda n: np.tri(n, k=-1, dtype=bool), "shifted: one row too late")
    failed(exercise, lambda n: causal(n) | np.eye(n, k=3, dtype=bool), "and more", "2 too many")
    failed(exercise, lambda n: causal(n) & ~np.eye(n, k=-3, dtype=bool), "too little is visible")


def test_a_mask_with_nothing_to_invert_is_not_called_inverted():
    exercise = toy(band, lambda rng: [Case("1 token", (1, 0))], "mask")
    verdict = failed(exercise, lambda n, window: band(n, window - 1), "< or ≤?")
    assert "inverted" not in str(verdict)


def test_picture_of_a_large_mask_is_cut_to_the_difference():
    exercise = toy(band, lambda rng: [Case("100 tokens", (100, 3))], "mask")

    def one_wrong(n, window):
        mask = band(n, window)
        mask[90, 90] = False
        return mask

    text = str(failed(exercise, one_wrong, "row 90, column 90", "from row 70 and column 70"))
    assert text.count("−") == 2  # in the picture and in its legend
    assert max(map(len, text.splitlines())) <= 100


# Arrays

TALL = replace(WEIGHTS, cases=lambda rng: weights_cases(rng)[2:3])


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda q, k: weights(q, k) * np.float32(2), "the right one times 2"),
        (lambda q, k: weights(q, k) * np.float32(0.25), "1/D"),
        (lambda q, k: weights(q, k) * np.float32(1.7), "times 1.7"),
        (lambda q, k: weights(q, k).T.copy(), "transposed"),
        (lambda q, k: np.roll(weights(q, k), 1, 0), "one row too late"),
        (lambda q, k: np.roll(weights(q, k), -1, 1), "one column too early"),
        (lambda q, k: weights(k, q).T.copy(), "the columns sum to 1, not the rows"),
        (lambda q, k: np.exp(q @ k.T), "sums to"),
        (lambda q, k: np.zeros((6, 6), np.float32), "every value is zero"),
        (lambda q, k: np.full((6, 6), np.nan, np.float32), "NaN comes from"),
    ],
)
def test_arrays_are_diagnosed(answer, cause):
    failed(TALL, answer, cause)


def test_one_wrong_value_is_no_factor():
    def one_off(q, k):
        out = weights(q, k)
        out.flat[out.argmax()] += np.float32(5.1e-4)
        return out

    exercise = replace(TALL, tolerance=5e-4)
    assert "the right one times" not in failed(exercise, one_off).cause


def test_zeros_beside_an_overflow_are_not_called_unwritten():
    def overflows(q, k):
        scores = np.exp(q @ k.T + np.float32(1000))
        return np.nan_to_num(weights(q, k) / scores, posinf=0)

    verdict = failed(TALL, overflows, "overflow encountered in exp", "an exponential overflowed")
    assert "every value is zero" not in str(verdict)


def test_wrong_rows_are_named():
    def half(q, k):
        out = weights(q, k)
        out[2:4] += 0.25
        return out

    failed(TALL, half, "row 2, column 0", "12 of 36 values differ, all in rows 2 to 3")


def test_nan_from_empty_rows_and_from_float16():
    def safe(x):
        total = x.sum(-1, keepdims=True)
        return np.divide(x, total, out=np.zeros_like(x), where=total != 0)

    x = np.array([[0, 0], [1, 3]], np.float32)
    exercise = toy(safe, lambda rng: [Case("an empty row", (x,))], "array")
    failed(exercise, lambda x: x / x.sum(-1, keepdims=True), "returned NaN", "no key is visible")

    def shifted(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    half = np.array([1, 20], np.float16)
    exercise = toy(shifted, lambda rng: [Case("float16", (half,))], "array")
    failed(exercise, lambda x: np.exp(x) / np.exp(x).sum(), "float16 ends at 65504")


@pytest.mark.parametrize(
    ("dtype", "small", "large"),
    [(np.float64, 1e-15, 1e-13), (np.float32, 1e-7, 1e-4), (np.float16, 1e-3, 0.1)],
)
def test_tolerance_follows_the_dtype(dtype, small, large):
    exercise = replace(WEIGHTS, cases=lambda rng: [Case("one", tuple(np.ones((2, 3, 4), dtype)))])

    def off(error):
        return lambda q, k: (weights(q, k) + error * (np.arange(3) == 1)).astype(dtype)

    assert judge(exercise, off(small)).status == "passed"
    failed(exercise, off(large), f"rounding of {dtype.__name__}")


def test_a_reference_that_loses_nothing_by_luck_allows_what_other_ways_lose():
    """x - 1 is exact in float32, so one run says that nothing is lost; near 1 much may be."""

    def above_one(x):
        return x - 1

    def by_squares(x):
        return (x * x - 1) / (x + 1)

    x = np.array([1.001, 1.002], np.float32)
    exercise = toy(above_one, lambda rng: [Case("near 1", (x,))], "array")
    assert judge(exercise, by_squares).status == "passed"
    failed(exercise, lambda x: (x - 1) * np.float32(1.01), "rounding of float32")


def test_nudged_arguments_keep_what_is_equal_whole_or_infinite():
    x = np.array([0.3, 0.3, 2.0, 0.0, np.inf, -np.inf, 0.7])
    moved = values.nudge(x, 1e-7, 0)
    assert moved[0] == moved[1] != 0.3 and moved[6] != 0.7
    assert np.array_equal(moved[2:6], x[2:6])
    assert np.abs(moved[[0, 6]] / x[[0, 6]] - 1).max() <= 1e-7
    assert np.isnan(values.nudge(np.array([np.nan]), 1e-7, 0)).all()


# Mistakes


def test_one_failing_case_is_no_proof_where_the_mistake_would_fail_more():
    def sometimes(q, k):
        return unscaled(q, k) if q.dtype == np.float32 and len(q) == 1 else weights(q, k)

    assert "1/√D" not in failed(WEIGHTS, sometimes).cause
    assert failed(WEIGHTS, unscaled).cause == UNSCALED.says


def test_a_mistake_is_named_by_the_failing_cases():
    def in_float32(q, k):
        return unscaled(q, k) if q.dtype == np.float32 else weights(q, k)

    assert failed(WEIGHTS, in_float32).cause == UNSCALED.says


def test_the_mistake_that_fails_least_elsewhere_is_named():
    narrow = Mistake(
        lambda q, k: unscaled(q, k) if len(k) > 4 else weights(q, k), "long texts", "cut"
    )
    for mistakes in ([UNSCALED, narrow], [narrow, UNSCALED]):
        exercise = replace(WEIGHTS, mistakes=(*mistakes, *others()))
        assert failed(exercise, narrow.function).cause == "long texts"
        assert failed(exercise, unscaled).cause == UNSCALED.says


def test_a_contradicted_mistake_is_at_most_one_of_two():
    def both(q, k):
        return unscaled(q, k) * np.where(np.arange(len(q)) < 3, 1, 2)[:, None].astype(q.dtype)

    cause = failed(WEIGHTS, both).cause
    assert cause.startswith(UNSCALED.says)
    assert "in 4 of the 5 failing cases: it may be one slip of two" in cause


def test_any_variant_of_a_mistake_will_do():
    def in_tiles(size):
        """Start the maximum anew in each tile."""

        def tiled(q, k):
            tiles = [weights(q, k[i : i + size]) for i in range(0, len(k), size)]
            return np.concatenate(tiles, axis=-1)

        return tiled

    apart = Mistake(in_tiles(2), "each tile by itself", "join", (in_tiles(3), in_tiles(4)))
    exercise = replace(WEIGHTS, mistakes=(apart, *others()))
    for size in (2, 3, 4):
        assert failed(exercise, in_tiles(size)).cause == "each tile by itself"
    assert "by itself" not in failed(exercise, in_tiles(5)).cause


def doubled(q, k):
    return weights(q, k) * q.dtype.type(2)


DOUBLED = Mistake(doubled, "your weights are doubled", "halve them")


def test_pairs_of_slips_are_tried():
    def both(q, k):
        return unscaled(q, k) * q.dtype.type(2)

    pair = Mistake(both, "two slips at once: neither scaled nor halved", "see above")
    exercise = replace(WEIGHTS, mistakes=(UNSCALED, DOUBLED, *others()))
    assert "slips at once" not in failed(exercise, both).cause
    exercise = replace(exercise, pairs=lambda: iter([pair]))
    assert failed(exercise, both).cause == pair.says
    assert failed(exercise, doubled).cause == DOUBLED.says


def test_parts_are_explained_one_by_one():
    def count(n, d):
        return {"pairs": n * n, "bytes": 4 * n * d, "flops": 2 * n * n * d}

    def changed(**parts):
        return lambda n, d: count(n, d) | {key: make(n, d) for key, make in parts.items()}

    def half(n, d):
        return n * n * d

    mistakes = (
        Mistake(changed(bytes=lambda n, d: 2 * n * d), "2 bytes a number", "take 4"),
        Mistake(changed(flops=half, pairs=lambda n, d: n * n // 2), "half", "twice"),
    )
    cases = [Case("small", (3, 5)), Case("wide", (7, 11)), Case("long", (13, 2))]
    exercise = toy(count, lambda rng: cases, "number", mistakes)
    verdict = failed(exercise, changed(bytes=lambda n, d: 2 * n * d, flops=half))
    assert verdict.cause == "key 'bytes': 2 bytes a number\nkey 'flops': half"
    assert failed(exercise, changed(flops=half)).cause == "half"
    thrice = changed(flops=half, pairs=lambda n, d: 3 * n * n)
    words = "key 'pairs': your value is the right one times 3\nkey 'flops': half"
    assert failed(exercise, thrice).cause == words
    odd = changed(flops=half, pairs=lambda n, d: n * n + d * d)
    assert failed(exercise, odd).cause == "key 'flops': half"


def test_text_as_numpy_chooses_it_is_text():
    exercise = number(("better", 2))
    for text in (np.str_("better"), np.where(True, "better", "worse"), "better"):
        assert judge(exercise, lambda text=text: (text, 2), seed=0).status == "passed"
    failed(exercise, lambda: (np.str_("worse"), 2), "expected 'better', yours 'worse'")


def test_numbers_are_no_mask():
    def positive(x):
        return x > 0

    cases = [Case("two", (np.array([1.0, 2.0]),))]
    exercise = toy(positive, lambda rng: cases, "mask")
    verdict = failed(exercise, lambda x: np.flatnonzero(x > 0), "dtype int64, expected bool")
    assert verdict.cause == "numbers, where True or False is asked of each"
    assert verdict.hint == "end with a comparison: it gives a mask"


def test_one_of_few_words_in_a_part_proves_nothing():
    def judged(x):
        return x - 0.5, "up" if x > 0.5 else "down"

    def turned(x):
        return x - 0.5, "down" if x > 0.5 else "up"

    def squared(x):
        return (x - 1.5) ** 2, "down" if x > 0.5 else "up"

    cases = [Case(f"x = {x}", (x,)) for x in (0.25, 2.75, 4.75)]
    mistakes = [Mistake(turned, "your words are turned round", "turn them")]
    exercise = toy(judged, lambda rng: cases, "number", mistakes)
    assert failed(exercise, turned).cause == "your words are turned round"
    assert failed(exercise, squared).cause == ""


def test_the_search_for_a_cause_ends(monkeypatch):
    monkeypatch.setattr(causes, "SECONDS", -1.0)
    verdict = failed(WEIGHTS, unscaled)
    assert verdict.cause == ""
    assert verdict.hint == "run it by hand on this smallest case"


def test_mistake_is_recognised_by_what_it_does():
    def clobber(q, k):
        out = weights(q, k)
        q[:] = 0
        return out

    def clobber_too(q, k):
        try:
            return weights(q, k)
        finally:
            q.fill(0)

    says = Mistake(clobber, "you empty q", "leave it")
    assert failed(replace(WEIGHTS, mistakes=(says, *others())), clobber_too).cause == "you empty q"
    says = Mistake(raising(OverflowError()), "it overflows", "do not")
    exercise = replace(WEIGHTS, mistakes=(says, *others()))
    assert failed(exercise, raising(OverflowError("other words"))).cause == "it overflows"
    assert failed(exercise, raising(ValueError())).cause == ""


def test_an_error_that_numpy_has_for_everything_is_recognised_by_its_words():
    """16.1 once told an answer whose `out=` did not fit that its values stay behind its keys."""
    says = Mistake(raising(ValueError("matmul: 3 is not 4 for 'k'")), "k stays", "pass it on")
    exercise = replace(WEIGHTS, mistakes=(says, *others()))
    assert failed(exercise, raising(ValueError("matmul: 7 is not 5 for 'v'"))).cause == "k stays"
    assert failed(exercise, raising(ValueError("matmul: output operand 0 is 7"))).cause == ""


def test_a_mistake_is_known_by_its_numbers_not_by_how_they_are_written():
    def quartiles(times):
        return {"low": float(np.quantile(times, 0.25)), "mean": float(np.mean(times))}

    def extremes(times):
        return {"low": float(np.min(times)), "mean": float(np.sum(times) / 3)}

    def by_hand(times):  # other keys first, another rounding, NumPy's type
        return {"mean": times[0] / 3 + times[1] / 3 + times[2] / 3, "low": np.float64(min(times))}

    case = Case("three", (np.array([0.1, 0.2, 0.4]),))
    assert by_hand(*case.args)["mean"] != extremes(*case.args)["mean"]
    says = Mistake(extremes, "your low is the fastest", "go a quarter of the way")
    exercise = toy(quartiles, lambda rng: [case], "number", [says])
    assert failed(exercise, by_hand).cause == "your low is the fastest"


# Memory


def row_maxima(q):
    return np.array([(q @ row).max() for row in q], q.dtype)


def whole_matrix(q):
    scores = q @ q.T
    return scores.max(-1)


def maxima_cases(rng):
    return [Case("5 rows", (rng.standard_normal((5, 8), dtype=np.float32),))]


def large(rng):
    return Case("n = 1024", (rng.standard_normal((1024, 8), dtype=np.float32),))


MAXIMA = toy(
    row_maxima,
    maxima_cases,
    "array",
    [Mistake(whole_matrix, "you make all scores at once", "go row by row")],
    memory=Memory(large, 300_000, "n · 64 · 4 bytes, a block of 64 rows"),
)


def test_memory_is_graded_with_the_line_and_shape():
    def mine(q):
        q = q * 1
        everything = q @ q.T
        return everything.max(-1)

    verdict = failed(
        MAXIMA,
        mine,
        "peak 4.0 MiB at n = 1024, allowed 293.0 KiB: "
        "a (1024, 1024) float32 array made at line 3 of your function",
        "everything = q @ q.T",
    )
    assert verdict.cause == "you make all scores at once"
    assert judge(MAXIMA, row_maxima).status == "passed"


def test_memory_without_a_known_mistake_states_the_formula():
    exercise = replace(MAXIMA, mistakes=others())
    verdict = failed(exercise, whole_matrix)
    assert verdict.cause == "allowed is n · 64 · 4 bytes, a block of 64 rows"


def test_wrong_numbers_at_the_metered_size_fail():
    def small_only(q):
        return row_maxima(q) if len(q) < 100 else np.zeros(len(q), q.dtype)

    failed(MAXIMA, small_only, "wrong values", "n = 1024")


def test_switching_the_meter_off_does_not_help():
    def sly(q):
        tracemalloc.stop()
        out = (q @ q.T).max(-1)
        tracemalloc.clear_traces()
        return out

    failed(MAXIMA, sly, "peak 4.0 MiB")
    assert not tracemalloc.is_tracing()


# State


def test_prints_and_warnings_are_shown_on_failure_only(capfd):
    def noisy(q, k, answer=weights):
        print("hello", file=sys.stdout)
        print("\x1b[1mbold\x1b[0m", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return answer(q, k)

    assert judge(WEIGHTS, noisy).printed == ""
    failed(WEIGHTS, partial(noisy, answer=unscaled), "Output: hello", "bold", "careful")
    assert capfd.readouterr() == ("", "")


def test_endless_printing_is_cut():
    def flood(q, k):
        for _ in range(10_000):
            print("spam " * 20)

    assert len(failed(WEIGHTS, flood).printed) < 3000
    stream = guard._Printed()
    for _ in range(10_000):
        stream.write("spam " * 20)
    assert len(stream.text) < 5000


def test_first_call_right_then_wrong():
    calls = []

    def once(q, k):
        calls.append(1)
        return weights(q, k) if len(calls) <= 5 else weights(q, k) * 0

    failed(WEIGHTS, once, "another result for the same arguments")


def test_random_answer_is_called_random():
    rng = np.random.default_rng()

    def guess(q, k):
        return rng.random((len(q), len(k)), dtype=np.float32)

    failed(WEIGHTS, guess, "another result for the same arguments")


def test_state_is_restored():
    watched = signal.SIGALRM, signal.SIGINT, signal.SIGTERM

    def vandal(q, k):
        out = weights(q, k)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        for number in watched:
            signal.signal(number, signal.SIG_IGN)
        sys.setrecursionlimit(400)
        sys.settrace(lambda *args: None)
        sys.stdout = sys.stderr = sys.stdin = None
        os.chdir("/")
        os.environ["VANDAL"] = "was here"
        tracemalloc.start()
        np.allclose = np.array_equal = np.isnan = np.abs = lambda *a, **k: np.True_
        builtins.len = lambda x: 7
        del builtins.sorted, builtins.isinstance, builtins.print
        return out

    def state():
        return {
            "numpy": (np.allclose, np.isnan, np.abs, str(np.geterr())),
            "builtins": (builtins.len, builtins.sorted, builtins.isinstance, builtins.print),
            "filters": list(warnings.filters),
            "handlers": [signal.getsignal(number) for number in watched],
            "depth": sys.getrecursionlimit(),
            "trace": sys.gettrace(),
            "streams": (sys.stdin, sys.stdout, sys.stderr),
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
            "tracing": tracemalloc.is_tracing(),
            "random": (random.getstate(), str(np.random.get_state())),  # noqa: NPY002
        }

    before = state()
    assert judge(WEIGHTS, vandal).status == "passed"
    assert state() == before
    failed(WEIGHTS, lambda q, k: vandal(q, k) * 0)
    assert state() == before


def test_numpy_patched_before_the_check_is_put_right(monkeypatch):
    monkeypatch.setattr(np, "abs", lambda *args, **kwargs: np.zeros(()))
    monkeypatch.setattr(np, "allclose", lambda *args, **kwargs: True)
    failed(WEIGHTS, unscaled, "1/√D")


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs clocks of threads")
def test_where_another_thread_works_memory_is_not_judged():
    """A notebook's own thread is no fault of the answer, and an answer's gets no points."""
    end = threading.Event()

    def work():
        while not end.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work, name="other", daemon=True)
    thread.start()
    try:
        assert str(judge(MAXIMA, row_maxima)) == (
            "– 99.1 Toy: not verified here (the thread 'other' worked at the same time, and memory "
            "is counted for the whole process: let it end first)"
        )
    finally:
        end.set()
        thread.join()
    assert judge(MAXIMA, row_maxima).status == "passed"


def test_threads_left_running_change_nothing():
    stop = threading.Event()

    def busy(q, k):
        threading.Thread(target=stop.wait, daemon=True).start()
        return weights(q, k)

    try:
        assert judge(WEIGHTS, busy).status == "passed"
        failed(WEIGHTS, lambda q, k: busy(q, k) * 0)
    finally:
        stop.set()


def test_answers_cannot_change_the_cases():
    seen = []

    def greedy(q, k):
        seen.append((q, k))
        for old_q, old_k in seen[:-1]:
            old_q[:] = old_k[:] = 0
        return weights(q, k)

    assert judge(WEIGHTS, greedy).status == "passed"


# The grader's own failures


def test_error_of_the_reference_is_no_wrong_answer():
    def broken(q, k):
        raise RuntimeError("no reference")

    verdict = judge(replace(WEIGHTS, reference=broken), weights)
    assert (verdict.status, verdict.score) == ("grader_error", 0)
    assert "the grader failed, not your answer (RuntimeError: no reference)" in str(verdict)
    broken_cases = replace(WEIGHTS, cases=lambda rng: 1 / 0)
    assert judge(broken_cases, weights).status == "grader_error"


def test_what_cannot_run_here_is_not_a_pass(monkeypatch):
    monkeypatch.setattr(judging, "_lacking", lambda needs: "needs an NVIDIA GPU")
    exercise = replace(WEIGHTS, needs="gpu")
    verdict = judge(exercise, weights)
    assert str(verdict) == "– 99.1 Toy: not verified here (needs an NVIDIA GPU)"
    assert verdict.score == 0

    def stub(q, k):
        """Do it."""
        raise NotImplementedError

    assert judge(exercise, stub).status == "not_attempted"


def test_plain_survives_anything():
    assert plain("a\x1b[2Jb\x00c") == "abc"
    assert plain("\x1b]0;title\x07x") == "x"
    assert plain(Hostile()) == "(cannot be shown)"
    assert plain("x" * 999, 10) == "xxxxxxxxxx …"
    assert plain("a\ud800b") == "ab"


def test_lone_surrogates_of_an_answer_can_be_shown():
    for answer in (
        lambda q, k: "\ud800",
        lambda q, k: {"\ud800": q},
        lambda q, k: print("\ud800"),
        raising(ValueError("\ud800")),
    ):
        verdict = failed(WEIGHTS, answer)
        str(verdict).encode()
        json.dumps(verdict.data, ensure_ascii=False).encode()


# Kernels


def double(x):
    return 2 * x


@pytest.fixture
def kernel():
    """An exercise on a kernel that doubles a vector, and the module with its answers."""
    pytest.importorskip("triton")
    import toy_kernel

    exercise = toy(
        double,
        lambda rng: [Case(f"n = {n}", (rng.random(n, dtype=np.float32),)) for n in (16, 40)],
        "kernel",
        needs="triton",
        traffic=lambda case: Cost(0, case.args[0].nbytes, case.args[0].nbytes, 0),
        seconds=20.0,
    )
    return exercise, toy_kernel


def test_kernel_passes_in_the_interpreter(kernel):
    exercise, answers = kernel
    assert judge(exercise, answers.doubled).status == "passed"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("unmasked", "reads outside of `x`"),
        ("loaded_twice", "loads 128 B, allowed 64 B"),
        ("without_kernel", "launched no Triton kernel"),
        ("as_array", "returned a NumPy array, expected a torch tensor"),
        ("in_place", "changed its argument `x` in place"),
        ("wrong", "wrong values"),
        ("broken", "line 7 of `_double_kernel`: for _ in range(TIMES - 1):"),
    ],
)
def test_kernel_fails(kernel, name, part):
    exercise, answers = kernel
    verdict = failed(exercise, getattr(answers, name), part)
    assert verdict.case.startswith("n = 40" if name == "unmasked" else "n = 16")


def test_kernel_stub_is_not_attempted(kernel):
    exercise, answers = kernel
    assert judge(exercise, answers.stub).status == "not_attempted"


def test_traffic_that_cannot_be_counted_is_not_a_pass(kernel, monkeypatch):
    from attncourse import kernels

    exercise, answers = kernel
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    verdict = judge(exercise, answers.doubled)
    assert verdict.status == "not_verified_here"
    assert "TRITON_INTERPRET=1" in verdict.reason


def at_most(times, **fields):
    """Allow a kernel so many times the traffic that is needed."""
    return {
        "traffic": lambda case: Cost(0, times * case.args[0].nbytes, times * case.args[0].nbytes, 0)
    } | fields


def test_a_kernel_that_passes_is_told_what_it_moved_over_the_least(kernel, monkeypatch, capsys):
    exercise, answers = kernel
    lenient = replace(exercise, **at_most(2))
    assert judge(lenient, answers.doubled).moved == 1.0
    assert judge(lenient, answers.loaded_twice).moved == 1.5
    assert judge(exercise, answers.loaded_twice).moved is None  # it fails
    half = replace(lenient, least=lambda case: case.args[0].nbytes)
    assert judge(half, answers.doubled).moved == 2.0
    monkeypatch.setattr(exercises, "exercise", lambda exercise_id: lenient)
    passed = "✓ 99.1 Toy: passed, 3/3 points\n"
    for answer, said in (
        (answers.loaded_twice, "moved 1.50 times the least possible"),
        (answers.doubled, "moved 1.00 times the least possible; your best before 1.50"),
        (answers.loaded_twice, "moved 1.50 times the least possible; your best before 1.00"),
    ):
        check("99.1", answer)
        assert capsys.readouterr().out == f"{passed}          {said}\n"


def test_the_least_is_the_arguments_read_and_the_result_written(kernel):
    exercise, _ = kernel
    case = Case("", (np.ones(100, np.float32), 3, [np.ones(5)]))
    least = quality.least(replace(exercise, **at_most(2)), case, np.ones((7, 2), np.float16))
    assert (least.bytes_read, least.bytes_written) == (400 + 40, 28)


def test_what_was_moved_is_compared_in_cases_of_one_size_only(kernel):
    exercise, answers = kernel

    def cases(rng):
        n = int(rng.integers(20, 2000))
        drawn = Case(f"random, n = {n}", (rng.random(n, dtype=np.float32),))
        return [*exercise.cases(rng), drawn]

    def more_in_larger_ones(x):
        return answers.loaded_twice(x) if len(x) > 16 else answers.doubled(x)

    drawing = replace(exercise, cases=cases, **at_most(2))
    assert len({judge(drawing, more_in_larger_ones, seed=seed).moved for seed in range(3)}) == 1


def test_on_a_gpu_the_share_of_its_roofline_is_told(kernel, monkeypatch, capsys):
    import torch

    from attncourse import kernels, measure

    exercise, answers = kernel
    large = Case("large", (np.ones(1000, np.float32),))
    exercise = replace(exercise, timed=lambda rng: large)
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    assert judge(exercise, answers.doubled).roofline is None  # there is no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    least = 8000 / 3350e9
    took = measure.timing.Timing(4 * least, 4 * least, 4 * least, 30)
    monkeypatch.setattr(measure, "seconds", lambda function, *args, **how: took)
    verdict = judge(exercise, answers.doubled)
    assert verdict.status == "not_verified_here"
    assert verdict.roofline == pytest.approx(0.25)
    monkeypatch.setattr(exercises, "exercise", lambda exercise_id: exercise)
    check("99.1", answers.doubled)
    assert capsys.readouterr().out.endswith("\n          reached 25% of this GPU's roofline\n")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Another GPU")
    assert judge(exercise, answers.doubled).roofline is None
    without = replace(exercise, timed=None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert judge(without, answers.doubled).roofline is None


# check, hint and the notebook


@pytest.fixture
def course(monkeypatch, tmp_path):
    """Make 99.1 the only exercise and keep progress in a scratch folder."""
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path))

    def find(exercise_id):
        if exercise_id != "99.1":
            raise LookupError(f"no exercise {exercise_id!r}")
        return WEIGHTS

    monkeypatch.setattr(exercises, "exercise", find)


def test_check_finds_the_function_by_name(course, capsys):
    assert check("99.1") is None  # `weights` of this module
    assert capsys.readouterr().out == "✓ 99.1 Toy: passed, 3/3 points\n"
    assert progress.load().entry("99.1").passed
    check("99.1", unscaled)
    assert "✗ 99.1 Toy: failed" in capsys.readouterr().out
    assert progress.load().entry("99.1").passed
    check("99.2")
    assert capsys.readouterr().out == "no exercise '99.2'\n"


def test_undefined_function_is_not_attempted(course, capsys, monkeypatch):
    monkeypatch.delitem(globals(), "weights")
    check("99.1")
    assert "not attempted (`weights` is not defined: run the cell" in capsys.readouterr().out


def test_broken_spec_is_a_grader_error(monkeypatch, capsys):
    monkeypatch.setattr(exercises, "exercise", lambda exercise_id: 1 / 0)
    check("99.1")
    assert "! 99.1 : the grader failed, not your answer (ZeroDivision" in capsys.readouterr().out


def test_hints_come_in_order_and_are_recorded(course, capsys):
    for level, text in ((1, "look"), (2, "think"), (3, "write")):
        hint("99.1")
        assert capsys.readouterr().out == f"99.1 Toy: hint {level} of 3\n{text}\n"
        assert progress.load().entry("99.1").hints == level
    hint("99.1")
    told = "99.1 Toy: hint 3 of 3, the last: there are no more\nwrite\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("show", [check, hint])
def test_ids_are_forgiving_and_unknown_ones_say_what_there_is(show, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path))
    for name in ("4.1", "04.1", " 04.1", 4.1, "4.v1"):
        show(name)
        assert re.match(r"(○ )?04\.(1|V1) ", capsys.readouterr().out)
    for name, told in {
        "4.11": "no exercise '04.11': chapter 04 has 04.1, 04.2, 04.3",
        "4": "no exercise '04': chapter 04 has 04.1, 04.2, 04.3",
        "window": "no exercise 'window': the chapters are 00, 01",
        "\ud800": "no exercise '0\\ud800': the chapters are",
        None: "no exercise 'None': the chapters are",
    }.items():
        show(name)
        assert capsys.readouterr().out.startswith(told)


def test_in_a_notebook(tmp_path):
    """The cells of a notebook in IPython, each with what it displayed."""
    cells = [
        "from attncourse.grading import check",
        "check('99.1')",
        "def weights(q, k):\n    raise NotImplementedError",
        "check('99.1')",
        "def weights(q, k):\n    return q +* k",
        "check('99.1')",
        "from test_check import unscaled\ndef weights(q, k):\n    return unscaled(q, k)",
        "check('99.1')",
        "wrong_name\ndef weights(q, k):\n    return q",
        "del weights\ncheck('99.1')",
        "import test_check",
        "def weights(q, k):\n    display('mine')\n    return test_check.weights(q, k)",
        "check('99.1')",
        "weights = test_check.weights",
        "check('99.1')",
        "def weights(q, k):\n    raise NotImplementedError",
        "check('99.1')",
    ]
    program = """
    import json, sys
    import test_check
    from IPython.core.interactiveshell import InteractiveShell
    from attncourse.grading import exercises
    from IPython.utils.capture import capture_output
    exercises.exercise = lambda exercise_id: test_check.WEIGHTS
    for name in ("attncourse.grading", "attncourse.grading.check"):
        del sys.modules[name]
    shell = InteractiveShell.instance()
    shown = []
    for number, cell in enumerate(json.loads(sys.argv[1])):
        with capture_output() as captured:
            shell.run_cell(cell, cell_id=str(number))
        shown.append([[o.data, o.metadata] for o in captured.outputs])
    print(json.dumps(shown))
    """
    environment = os.environ | {
        "ATTNCOURSE_HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), json.dumps(cells)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    shown = [outputs for outputs in json.loads(run.stdout) if outputs]
    texts = [data["text/plain"] for [[data, _]] in shown]
    assert texts.pop(3).startswith("✗ 99.1 Toy: failed, 0/3 points: wrong values")
    assert texts == [
        "○ 99.1 Toy: not attempted (`weights` is not defined: run the cell above first)",
        "○ 99.1 Toy: not attempted",
        "○ 99.1 Toy: not attempted (the cell above raised SyntaxError: invalid syntax, line 2)",
        "○ 99.1 Toy: not attempted (the cell above raised NameError: "
        "name 'wrong_name' is not defined)",
        "✓ 99.1 Toy: passed, 3/3 points",
        "✓ 99.1 Toy: passed, 3/3 points",
        "○ 99.1 Toy: not attempted (another cell has defined `weights` too: "
        "if it is below this check,\n          move it above)",
    ]
    verdicts = [metadata["attncourse"] for [[_, metadata]] in shown]
    assert verdicts.pop(3)["cause"] == UNSCALED.says
    assert [verdict["status"] for verdict in verdicts] == [
        *["not_attempted"] * 4,
        *["passed"] * 2,
        "not_attempted",
    ]
    assert all(verdict["exercise"] == "99.1" for verdict in verdicts)
    assert [verdict["cause"] for verdict in verdicts[4:6]] == [
        "",
        "the function comes from the module test_check",
    ]


def test_importing_the_grader_is_light():
    heavy = {"torch", "triton", "matplotlib", "IPython"}
    program = f"import attncourse.grading, sys; print({heavy} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


def test_verdict_marks_have_words():
    for status in ("passed", "failed", "not_attempted", "not_verified_here", "grader_error"):
        assert len(str(Verdict("99.1", "Toy", status, 0, 3))) > len("✓ 99.1 Toy: ") + 5
