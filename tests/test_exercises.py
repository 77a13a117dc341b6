"""Every exercise: what is right passes, each mistake is caught and named, the limits hold."""

import dataclasses
import importlib.util
import inspect
import itertools
import linecache
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from covering import by_day
from numpy.lib.stride_tricks import as_strided
from prose import MOST_WORDS, words_of_a_prompt

from attncourse import distributed, model
from attncourse.claims import LEDGER
from attncourse.grading import assembly, compare, quality
from attncourse.grading import exercises as registry
from attncourse.grading.judging import judge
from attncourse.grading.solution import stub, without_markers
from attncourse.grading.spec import Case
from attncourse.reference import full, kv_cache, linear, longformer, lsh, window
from attncourse.reference._parts import int8
from attncourse.sources import read
from attncourse.units import format_bytes

ROOT = Path(__file__).parents[1]
HAS_TRITON = importlib.util.find_spec("triton") is not None


SOURCES = {
    path.stem[:2]: read(path, ROOT) for path in sorted((ROOT / "solutions/_source").glob("*.py"))
}
# As they are written, not as they were built last: no build is needed to try a change.
BY_CHAPTER = {chapter: assembly.exercises(source.grading) for chapter, source in SOURCES.items()}
EXERCISES = [each for chapter in BY_CHAPTER.values() for each in chapter]


def exercise(exercise_id):
    [found] = [each for each in EXERCISES if each.id == exercise_id]
    return found


def needs(each):
    missing = each.needs == "triton" and not HAS_TRITON
    return pytest.mark.skipif(missing, reason="Triton is not installed: it is made for Linux only")


def each_exercise():
    return [pytest.param(each, id=each.id, marks=needs(each)) for each in EXERCISES]


def each_mistake():
    """Of each exercise three by day, and all at night."""
    return [
        pytest.param(each, mistake, id=f"{each.id} {mistake.says[:60]}", marks=needs(each))
        for each in EXERCISES
        for mistake in by_day(each.mistakes[:3], each.mistakes)
    ]


def samples(*kinds):
    """Return what shows the judge at work: an exercise of each kind by day, at night all."""
    chosen = [each for each in EXERCISES if not kinds or each.kind in kinds]
    firsts = {(each.kind, bool(each.memory)): each for each in reversed(chosen)}.values()
    return [pytest.param(each, id=each.id, marks=needs(each)) for each in by_day(firsts, chosen)]


def seeds(each):
    return range(by_day(1, 2 if each.kind == "kernel" else 10))  # kernels are slow


def cells(chapter, role, exercise_id=None):
    return [
        cell
        for cell in SOURCES[chapter].cells
        if cell.metadata.get("role") == role
        and exercise_id in (None, cell.metadata.get("exercise"))
    ]


def answer(each, edit=without_markers):
    """Run the set-up cells, the given code and the answer cell, as a kernel would."""
    [cell] = cells(each.chapter, "answer", each.id)
    given = [c for c in cells(each.chapter, "prompt", each.id) if c.cell_type == "code"]
    namespace = {"__name__": "__main__"}
    for number, part in enumerate([*cells(each.chapter, "setup"), *given, cell]):
        source = edit(part.source) if part is cell else part.source
        name = f"<{each.id} {edit.__name__} {number}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)
    return namespace[each.function]


# The registry ------------------------------------------------------------------------------------


def test_the_registry_has_every_exercise_of_the_sources():
    ids = [each.id for each in EXERCISES]
    assert len(set(ids)) == len(ids)
    assert list(registry.chapters()) == list(BY_CHAPTER)
    for chapter, made in BY_CHAPTER.items():
        assert [each.id for each in made] == [e.id for e in registry.chapter_exercises(chapter)]
    assert all(registry.exercise(id).id == id for id in ids)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_an_exercise_lacks_nothing(each):
    assert each.lacks() == []


@pytest.mark.parametrize("wrong", ["04.9", "99.1", "4.3", "V1", "", "04"])
def test_an_unknown_exercise_says_what_there_is(wrong):
    with pytest.raises(LookupError, match=r"04"):
        registry.exercise(wrong)


def test_an_unknown_chapter_says_what_there_is():
    known = ", ".join(BY_CHAPTER)
    with pytest.raises(LookupError, match=f"no exercises for chapter '77': there are {known}"):
        registry.chapter_exercises("77")


def test_exercises_are_made_when_asked_and_without_torch():
    code = (
        "import sys; from attncourse.grading import exercises\n"
        "exercises.exercise('04.6')\n"
        "assert not {'torch', 'triton', 'matplotlib', 'jupytext'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_of_a_chapter_have_different_names():
    for made in BY_CHAPTER.values():
        names = [each.function for each in made]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_hints_differ_and_say_more_each_time(each):
    assert len(set(each.hints)) == 3
    assert all(hint.strip() and hint.endswith((".", "?")) for hint in each.hints)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_cases_come_anew_from_the_seed(each):
    def cases(seed):
        return {
            case.name: pickle.dumps(case.args) for case in each.cases(np.random.default_rng(seed))
        }

    first = cases(3)
    assert first == cases(3) != cases(4)
    assert len(first) >= 7
    assert len(list(each.cases(np.random.default_rng(3)))) == len(first)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_what_kernels_move_is_compared_in_cases_that_are_the_same_each_time(each):
    if each.kind == "kernel":
        first, second = (each.cases(np.random.default_rng(seed)) for seed in (0, 1))
        for one, other in zip(first, second, strict=True):
            if not quality.drawn(one.name):
                assert one.name == other.name
                for a, b in zip(one.args, other.args, strict=True):
                    assert np.shape(a) == np.shape(b)
                    # floats may differ, and nothing else: sizes, windows and layouts
                    assert getattr(a, "dtype", None) == np.float32 or np.array_equal(a, b)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_a_smallest_case_comes_first(each):
    def size(case):
        return sum(np.size(value) if np.ndim(value) else abs(int(value)) for value in case.args)

    sizes = [size(case) for case in each.cases(np.random.default_rng(0)) if case.args]
    assert sizes[0] == min(sizes)


# Right answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("each", each_exercise())
def test_right_answers_pass_whatever_the_seed(each):
    # by day the solution runs in solutions/, and each result of the reference is what is expected
    right = [*by_day([], [answer(each)]), *each.alternatives]
    metered = by_day(1, len(right))  # by day the memory of one alternative; never a reference's
    if each.kind != "kernel" and not each.drive:  # whose references are called otherwise
        right += by_day([], [each.reference])
    whole, unmetered = each, dataclasses.replace(each, memory=None)
    for seed, (number, function) in itertools.product(seeds(each), enumerate(right)):
        each = whole if number < metered else unmetered
        verdict = judge(each, function, seed=seed)
        assert verdict.status == "passed", (function, seed, str(verdict))
        assert verdict.score == each.points


@pytest.mark.parametrize(
    ("exercise_id", "number", "seed"),
    [("16.1", 0, 1025), ("16.1", 0, 549172), ("07.V9", 1, 1023), ("06.5", 3, 1)],
)
def test_a_right_answer_passes_where_rounding_spares_the_reference(exercise_id, number, seed):
    """In these cases one run in float32 lost far less than other right ways of computing do."""
    each = exercise(exercise_id)
    function = [answer(each), *each.alternatives][number]
    verdict = judge(each, function, seed=seed)
    assert verdict.status == "passed", str(verdict)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_allowed_to_rounding_hides_no_clipped_exponent(seed):
    """Where scores are large float32 allows more; the same case in float64 does not."""

    def clipped(source):
        visible = "np.where(np.isfinite(scores), np.maximum(scores - row_max, -10), -np.inf)"
        return without_markers(source).replace("scores - row_max", visible)

    each = exercise("02.1")
    assert judge(each, answer(each, clipped), seed=seed).status == "failed"


@pytest.mark.nightly
@pytest.mark.parametrize("each", each_exercise())
def test_right_answers_need_half_of_what_is_allowed(each, monkeypatch):
    monkeypatch.setattr(compare, "SLACK", compare.SLACK / 2)
    unmetered = dataclasses.replace(each, memory=None)
    for seed in range(1000, 1002 if each.kind == "kernel" else 1005):
        for function in (answer(each), *each.alternatives):
            verdict = judge(unmetered, function, seed=seed)
            assert verdict.status == "passed", (function, seed, str(verdict))


@pytest.mark.parametrize("each", each_exercise())
def test_the_untouched_stub_is_not_attempted(each):
    verdict = judge(each, answer(each, stub), seed=0)
    assert (verdict.status, verdict.score) == ("not_attempted", 0), str(verdict)


@pytest.mark.parametrize("each", samples())
def test_legal_oddities_pass(each):
    solution = answer(each)

    def with_extra_default(*args, verbose=False):
        return solution(*args)

    class Callable:
        def __call__(self, *args):
            return solution(*args)

    for odd in (with_extra_default, Callable()):
        verdict = judge(each, odd, seed=0)
        assert verdict.status == "passed", str(verdict)


def each_part(function, change):
    """Let a function return its array, or each array of its tuple, changed."""

    def changed(*args):
        result = function(*args)
        return tuple(map(change, result)) if isinstance(result, tuple) else change(result)

    return changed


@pytest.mark.parametrize("each", samples("array"))
def test_views_and_other_memory_layouts_pass(each):
    solution = each_part(answer(each), np.asfortranarray)
    verdict = judge(each, solution, seed=0)
    assert verdict.status == "passed", str(verdict)


@pytest.mark.parametrize("each", samples("array"))
def test_a_wider_dtype_is_told_from_a_wrong_value(each):
    solution = each_part(answer(each), lambda array: array.astype(np.float64))
    verdict = judge(each, solution, seed=0)
    assert verdict.status == "failed"
    assert re.search("dtype float64, expected (float32|int64)", verdict.reason)


@pytest.mark.parametrize("each", samples("number"))
def test_numpy_integers_are_numbers(each):
    solution = answer(each)

    def as_numpy(value):
        if isinstance(value, dict):
            return {key: as_numpy(part) for key, part in value.items()}
        if isinstance(value, bool):
            return np.bool_(value)
        return np.int64(value) if isinstance(value, int) and value < 2**63 else value

    verdict = judge(each, lambda *args: as_numpy(solution(*args)), seed=0)
    assert verdict.status == "passed", str(verdict)


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("each", "mistake"), each_mistake())
def test_a_mistake_is_rejected_and_named(each, mistake):
    for seed in range(1 if each.kind == "kernel" else by_day(1, 5)):
        verdict = judge(each, mistake.function, seed=seed)
        assert (verdict.status, verdict.score) == ("failed", 0), seed
        assert mistake.says in str(verdict), (seed, str(verdict))
        assert mistake.next in str(verdict), (seed, str(verdict))
        if "peak" in verdict.reason:
            break  # right numbers: only the memory is wrong, and that does not depend on the seed
    first = next((one for one in each.mistakes if one.variants), None)  # by day one of an exercise
    for variant in by_day(mistake.variants[: mistake is first], mistake.variants):
        verdict = judge(each, variant, seed=0)
        assert verdict.status == "failed", variant
        assert mistake.says in str(verdict), str(verdict)


# Wrong answers that passed before there were cases of uneven lengths ------------------------------


def one_maximum_a_block(q, k, v, stretches):
    """Take one maximum for a block of queries: beside a long query a short one has only zeros.

    `stretches` are (queries, keys, which pairs are visible).
    """
    work = np.result_type(q.dtype, np.float32)
    out = np.zeros(q.shape[:-1] + v.shape[-1:], q.dtype)
    for rows, keys, visible in stretches:
        scores = q[..., rows, :].astype(work) @ k[..., keys, :].swapaxes(-1, -2)
        scores = np.where(visible, scores / work.type(math.sqrt(q.shape[-1])), -np.inf)
        if scores.size:
            weights = np.exp(scores - scores.max())
            with np.errstate(invalid="ignore"):
                weights /= weights.sum(axis=-1, keepdims=True)
            out[..., rows, :] = weights @ v[..., keys, :]
    return out


def blocks_of(n, size=32):
    return [np.arange(i, min(i + size, n)) for i in range(0, n, size)]


def lean(q, k, v):
    keys = np.arange(len(k))
    return one_maximum_a_block(q, k, v, [(rows, keys, True) for rows in blocks_of(len(q))])


def windowed(q, k, v, window, n_global=0, block=32):
    n, stretches = q.shape[-2], []
    for rows in blocks_of(n, block):
        near = np.arange(max(n_global, rows[0] - window), min(n, rows[-1] + window + 1))
        keys = np.concatenate([np.arange(n_global), near])
        visible = (np.abs(rows[:, None] - keys) <= window) | (keys < n_global)
        stretches.append((rows, keys, visible))
    return one_maximum_a_block(q, k, v, stretches)


def block_sparse(q, k, v, layout, block):
    n = q.shape[-2]
    at = np.arange(n) // block
    stretches = [
        (rows, np.flatnonzero(listed[at]), True)
        for rows, listed in zip(blocks_of(n, block), layout, strict=True)
    ]
    return one_maximum_a_block(q, k, v, stretches)


def tiled(q, k, v):
    """An online softmax with one running maximum for all queries."""
    work = np.result_type(q.dtype, np.float32)
    top, total, acc = -np.inf, 0.0, 0.0
    for start in range(0, k.shape[-2], 64):
        keys = k[..., start : start + 64, :].swapaxes(-1, -2)
        scores = q.astype(work) @ keys / work.type(math.sqrt(q.shape[-1]))
        higher = max(top, scores.max())
        weights, fade = np.exp(scores - higher), work.type(np.exp(top - higher))
        total = total * fade + weights.sum(axis=-1, keepdims=True)
        acc, top = acc * fade + weights @ v[..., start : start + 64, :], higher
    with np.errstate(invalid="ignore"):
        return (acc / total).astype(q.dtype)


def divided_by_exp_of_lse(grad_out, q, k, v, out, lse, block=64):
    """Make a weight exp(score) / exp(lse), which overflows, instead of exp(score - lse)."""
    ahead, factor = len(k) - len(q), q.dtype.type(q.shape[-1] ** -0.5)
    dq, dk, dv = (np.zeros_like(array) for array in (q, k, v))
    for rows in blocks_of(len(q), 16):
        visible = np.arange(len(k)) <= rows[:, None] + ahead
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            weights = np.exp(q[rows] @ k.T * factor) / np.exp(lse[rows, None])
        p = np.where(visible, weights, 0)
        delta = (out[rows] * grad_out[rows]).sum(axis=-1, keepdims=True)
        ds = p * (grad_out[rows] @ v.T - delta) * factor
        dv += p.T @ grad_out[rows]
        dq[rows] += ds @ k
        dk += ds.T @ q[rows]
    return dq, dk, dv


def error_of_lean(q, k, v, out):
    exact = lean(q, k, v)
    return float(np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2)))


@pytest.mark.parametrize(
    ("exercise_id", "wrong"),
    [
        ("01.4", lean),
        ("04.3", windowed),
        ("05.3", block_sparse),
        ("05.6", windowed),
        ("09.3", tiled),
        ("09.6", divided_by_exp_of_lse),
        ("13.4", error_of_lean),
        ("04.7", "for blocks that lie before the first key"),
        ("07.6", "your queries share one maximum"),
    ],
)
def test_answers_that_break_on_uneven_lengths_fail(exercise_id, wrong):
    each = exercise(exercise_id)
    if isinstance(wrong, str):
        [wrong] = [slip.function for slip in each.mistakes if slip.says.startswith(wrong)]
    for seed in range(by_day(1, 3)):
        verdict = judge(each, wrong, seed=seed)
        assert verdict.status == "failed", seed
        assert "peak" not in verdict.reason, str(verdict)


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_mistakes_say_different_things(each):
    says = [mistake.says for mistake in each.mistakes]
    assert len(set(says)) == len(says)


@pytest.mark.parametrize(
    ("exercise_id", "name"),
    [
        ("04.7", "broken_window"),
        ("05.6", "broken_union"),
        ("09.6", "broken_backward"),
        ("15.5", "broken_guide"),
        ("16.5", "broken_ring"),
    ],
)
def test_the_given_code_of_the_repair_is_one_of_its_mistakes(exercise_id, name):
    each = exercise(exercise_id)
    [given] = [c for c in cells(each.chapter, "prompt", each.id) if c.cell_type == "code"]
    namespace = {"np": np}
    exec(given.source, namespace)
    verdict = judge(each, namespace[name], seed=0)
    assert verdict.status == "failed"
    assert each.mistakes[0].says in str(verdict)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it is made for Linux only")
def test_the_six_bugs_show_where_a_size_is_no_power_of_two_and_only_there():
    import torch

    each = exercise("10.8")
    given = answer(each).__globals__["broken_token"]
    verdict = judge(each, given, seed=0)
    assert each.mistakes[0].says in str(verdict)
    for heads, n, width in ((1, 1, 1), (3, 8, 4), (2, 4, 8), (3, 2, 16)):
        rng = np.random.default_rng(0)
        shapes = (heads, width), (heads, n, width), (heads, n, width)
        args = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
        got = given(*map(torch.from_numpy, args)).numpy()
        np.testing.assert_allclose(got, each.reference(*args), atol=1e-5)


def test_counting_by_a_loop_runs_out_of_time():
    quick = dataclasses.replace(exercise("04.2"), seconds=0.5)

    def by_loop(n, window, causal):
        return sum(min(n - 1, i + window * (not causal)) - max(0, i - window) + 1 for i in range(n))

    verdict = judge(quick, by_loop, seed=0)
    assert verdict.status == "failed"
    assert "10¹²" in str(verdict)


def test_counts_are_exact_at_a_trillion():
    count = exercise("04.2").reference
    assert count(10**12, 512, False) == 10**12 * 1025 - 512 * 513
    assert count(10**12, 10**11, True) == 10**12 * (10**11 + 1) - 10**11 * (10**11 + 1) // 2
    assert count(10**12, 10**13, False) == 10**24
    verdict = judge(exercise("04.2"), lambda *args: int(float(count(*args))), seed=0)
    assert verdict.status == "failed"


def test_counts_are_those_of_the_mask():
    count = exercise("04.2").reference
    for n, w, causal in itertools.product(range(1, 9), range(11), (False, True)):
        assert count(n, w, causal) == window.mask(n, n, window=w, causal=causal).sum()


def test_layers_are_those_of_a_search_in_the_graph():
    layers = exercise("04.4").reference
    for w, dilations in itertools.product((1, 2, 3), ((1,), (1, 2), (1, 3), (1, 2, 4))):
        n = 61
        reached = np.eye(n, dtype=bool)
        for layer in range(8):
            for distance in range(n // 2 + 1):
                if reached[n // 2, n // 2 + distance]:
                    assert layers(distance, w, dilations) <= layer
                else:
                    assert layers(distance, w, dilations) > layer
            step = window.mask(n, n, window=w, dilation=dilations[layer % len(dilations)])
            reached = masks_product(reached, step)


def test_counts_of_a_longformer_are_those_of_the_mask():
    count = exercise("05.2").reference
    for n, w, g in itertools.product(range(1, 8), range(9), range(9)):
        assert count(n, w, g) == longformer.mask(n, n, window=w, global_tokens=g).sum()
    regular = 10**12 - 64
    assert count(10**12, 512, 64) == 64 * 10**12 + regular * (64 + 1025) - 512 * 513


def test_the_rows_of_a_bigbird_are_its_parts():
    for n, w, r, g in itertools.product((6, 9), (1, 2), (0, 1), (0, 1, 3)):
        row = {**dict.fromkeys(range(g), n), **dict.fromkeys(range(g, n), w + r + g)}
        assert exercise("05.V4").reference(n, w, r, g)["total"] == sum(row.values())


def masks_product(a, b):
    return (a.astype(int) @ b.astype(int)) > 0


# Memory ------------------------------------------------------------------------------------------


def attention_in(dtype):
    """Window attention by a whole matrix of some dtype."""

    def whole_matrix(q, k, v, window):
        scores = np.empty((*q.shape[:-1], q.shape[-2]), dtype)
        for i in range(0, q.shape[-2], 64):
            scores[..., i : i + 64, :] = q[..., i : i + 64, :] @ k.swapaxes(-1, -2)
        return exercise("04.3").reference(q, k, v, window)

    return whole_matrix


def boolean_square(q, k, v, window):
    n = q.shape[-2]
    visible = np.zeros((n, n), bool)
    visible[np.arange(n), np.arange(n)] = True
    return exercise("04.3").reference(q, k, v, window)


def touched_a_bit_at_a_time(q, k, v, window):
    n = q.shape[-2]
    rows = [np.zeros(n, np.float32) for _ in range(n)]
    del rows
    return exercise("04.3").reference(q, k, v, window)


def as_python_lists(q, k, v, window):
    n = q.shape[-2]
    scores = [[0.0] * n for _ in range(n)]
    del scores
    return exercise("04.3").reference(q, k, v, window)


def gathered_by_strides(q, k, v, window):
    n = q.shape[-2]
    edges = [(0, 0)] * (k.ndim - 2) + [(window, window), (0, 0)]
    padded = np.pad(k, edges)
    near = as_strided(
        padded, (*padded.shape[:-2], n, 2 * window + 1, k.shape[-1]),
        (*padded.strides[:-2], padded.strides[-2], *padded.strides[-2:]),
    )  # fmt: skip
    copied = near.copy()
    assert copied.shape == near.shape
    return exercise("04.3").reference(q, k, v, window)


def sum_of_products(q, k, v, window):
    products = q[..., :256, None, :] * k[..., None, :, :]
    assert products.size
    return exercise("04.3").reference(q, k, v, window)


def shorter(each, factor):
    """The exercise with its memory case, and what it allows, cut to a fraction of the tokens."""
    memory = each.memory

    def case(generator):
        *arrays, window = memory.case(generator).args
        return Case("a part", (*(x[..., : x.shape[-2] // factor, :] for x in arrays), window))

    allowed = memory.allowed_bytes // factor
    return dataclasses.replace(
        each, memory=dataclasses.replace(memory, case=case, allowed_bytes=allowed)
    )


@pytest.mark.parametrize(
    ("attack", "shape"),
    [
        *by_day(
            [],
            [
                (attention_in(np.float16), "({n}, {n}) float16"),
                (attention_in(np.float32), "({n}, {n}) float32"),
                (attention_in(np.float64), "({n}, {n}) float64"),
            ],
        ),
        (boolean_square, "({n}, {n}) bool"),
        (gathered_by_strides, ""),
        (sum_of_products, "(256, {n}, 64) float32"),
        (touched_a_bit_at_a_time, ""),
        (as_python_lists, ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_memory_attacks_fail_with_the_line(attack, shape):
    # By day with a quarter of the tokens; a square of bools is too small there to be forbidden.
    factor = 1 if attack is boolean_square else by_day(4, 1)
    each = shorter(exercise("04.3"), factor)
    verdict = judge(each, attack, seed=0)
    assert verdict.status == "failed"
    message, shape = str(verdict), shape.format(n=4096 // factor)
    assert f"allowed {format_bytes(each.memory.allowed_bytes)}" in message, message
    assert shape in message, message
    assert re.search(r"line \d+", message), message


def test_the_memory_limit_is_the_one_that_the_prompt_states():
    each = exercise("04.3")
    assert math.isclose(each.memory.allowed_bytes / 2**20, 8.6, abs_tol=0.05)
    assert exercise("04.7").memory.allowed_bytes == 2**22
    assert exercise("05.3").memory.allowed_bytes == exercise("05.6").memory.allowed_bytes == 2**21
    assert exercise("00.2").memory.allowed_bytes == 1.25 * 2**20
    [_, limit] = cells("00", "prompt", "00.2")
    assert "at n = 2048: 160 rows of scores at once, 160 · n · 4 bytes = 1.25 MiB" in limit.source
    [_, limit] = cells("09", "prompt", "09.3")
    assert exercise("09.3").memory.allowed_bytes == 2**17 == 2**16 * 4 // 2
    assert "8 queries and 65536 keys, D = 8, float32: half a row of scores, 128 KiB" in limit.source
    [_, limit, _] = cells("09", "prompt", "09.6")
    assert exercise("09.6").memory.allowed_bytes == 2**21 == 8 * 1024 * 64 * 4
    assert "at n = 1024 is limited to eight arrays as large as q, 2 MiB" in limit.source
    prompts = "\n".join(cell.source for cell in SOURCES["04"].cells)
    assert "8.6 MiB" in prompts
    assert f"({4096 * 49 * 64 * 4 // 2**20} MiB)" in prompts


# Kernels -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it is made for Linux only")
def test_masking_every_tile_fails_on_traffic_alone():
    each = exercise("04.6")
    verdict = judge(each, each.mistakes[0].function, seed=0)
    assert verdict.status == "failed"
    # two tiles of 16 rows and width 16, window 0: q once, K and V of one tile for each query tile
    needed, loaded = 3 * 32 * 16 * 4, (1 + 2 * 2) * 32 * 16 * 4
    assert verdict.reason == f"loads {format_bytes(loaded)}, allowed {format_bytes(needed)}"
    assert verdict.case.startswith("two tiles, window 0")
    assert verdict.where == "loads 2.0 KiB of q, 4.0 KiB of k, 4.0 KiB of v"
    assert verdict.cause == each.mistakes[0].says


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it is made for Linux only")
def test_a_second_pass_over_the_keys_fails_on_traffic_alone():
    each = exercise("09.5")
    verdict = judge(each, each.mistakes[0].function, seed=0)
    # one query and one key of width 16: q, k and v once, and k once more
    needed, loaded = 3 * 16 * 4, 4 * 16 * 4
    assert verdict.reason == f"loads {format_bytes(loaded)}, allowed {format_bytes(needed)}"
    assert verdict.where == "loads 64 B of q, 128 B of k, 64 B of v"
    assert verdict.cause == each.mistakes[0].says


def test_without_triton_a_kernel_can_be_written_and_is_not_verified():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_exercises import answer, exercise, judge\n"
        "each = exercise('04.6')\n"
        "print(judge(each, answer(each), seed=0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("– 04.6 Tile bounds of a Triton kernel: not verified here (")
    assert "Triton" in done.stdout


def test_tile_ranges_are_those_of_the_mask():
    tile_range = exercise("04.6").traffic.__globals__["tile_range"]
    block = 16
    for n, w in itertools.product((1, 16, 40, 63, 100), (0, 1, 15, 16, 17, 99)):
        mask = window.mask(n, n, window=w)
        for tile in range(-(-n // block)):
            rows = mask[tile * block : (tile + 1) * block]
            keys = np.flatnonzero(rows.any(axis=0))
            first, past = tile_range(tile, n, w)
            assert (first, past) == (keys[0] // block, keys[-1] // block + 1)


# The notebooks -----------------------------------------------------------------------------------


def test_every_exercise_has_its_cells_in_order():
    for chapter, made in BY_CHAPTER.items():
        order = [
            (cell.metadata["exercise"], cell.metadata["role"])
            for cell in SOURCES[chapter].cells
            if cell.metadata.get("role") in ("answer", "check")
        ]
        ids = [each.id for each in made]
        assert order == list(itertools.product(ids, ("answer", "check")))


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_the_check_cell_is_one_line(each):
    [cell] = cells(each.chapter, "check", each.id)
    assert cell.source == f'check("{each.id}")'


def texts():
    """The text cells up to the first exercise of a chapter, and from each to the next."""
    found = {}
    for chapter, source in SOURCES.items():
        name = chapter
        for cell in source.cells:
            name = cell.metadata.get("exercise", name)
            if cell.cell_type == "markdown":
                found.setdefault(name, []).append(cell.source)
    return [pytest.param(cells, id=name) for name, cells in found.items()]


@pytest.mark.parametrize("cells", texts())
def test_text_cells_are_short(cells):
    assert [cell for cell in cells if len(words_of_a_prompt(cell)) > MOST_WORDS] == []


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.id)
def test_stubs_keep_signature_and_docstring(each):
    if each.needs == "triton" and not HAS_TRITON:
        pytest.skip("Triton is not installed: it is made for Linux only")

    def shown(function):
        return inspect.signature(function), function.__doc__

    solved, unsolved = answer(each), answer(each, stub)
    assert shown(unsolved) == shown(solved)
    if each.kind == "class":
        methods = [name for name, value in vars(solved).items() if inspect.isfunction(value)]
        assert methods
        for name in methods:
            assert shown(getattr(unsolved, name)) == shown(getattr(solved, name))


def test_the_examples_in_the_prompts_are_right():
    def result(exercise_id, *args):
        return answer(exercise(exercise_id))(*args)

    assert answer(exercise("00.1"))(n=3, heads=2, layers=5, batch=1, bytes_per_number=4) == 360
    q, k = np.array([[1.0, 0], [0, 1]]), np.array([[2.0, 3], [4, 1]])
    assert result("00.2", q, k).tolist() == [4, 3]
    bill = list(result("01.1", 3, 1, 1, 2, 2, 2).values())
    assert bill == [384, 384, 1536, 96, 36, 2436]
    assert list(result("01.2", 2, 3, 5, 4).values()) == [108, 216, 276]
    assert result("01.3", 100, 36, 1, 1, 1, 4) == 4
    assert list(result("01.5", 8, 4, 8.0, 2.0).values()) == [2.0, True, 2.0, 4.0, 0.5]
    assert result("01.6", [1, 2, 4], [1.0, 4.0, 5.0]) == [1]
    assert list(result("01.V2", 2, 4, 2).values()) == [8, 24, 128, 64, 0.25]
    assert list(result("01.V6", 4, 3, 2, 2, 4).values()) == [192, 96, 48, 0.5, 0.75]
    assert result("04.1", 2, 4, 1, False).astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert (result("04.2", 5, 2, False), result("04.2", 5, 2, True)) == (19, 12)
    assert result("04.4", 7, 2, (1, 2)) == 3
    savings = result("04.V1", 8, 4, 2)
    assert list(savings.values()) == [34, 0.53125, 512, 512, 272, 256, 136]
    mask = result("05.1", 2, 4, 0, 3, 1, False)
    assert mask.astype(int).tolist() == [[1, 0, 1, 0], [1, 0, 0, 1]]
    assert (result("05.2", 5, 1, 1), result("05.2", 5, 1, 0)) == (19, 13)
    q, k, v = np.random.default_rng(0).standard_normal((3, 6, 4))
    np.testing.assert_allclose(result("05.3", q, k, v, np.eye(6, dtype=bool), 1), v)
    assert result("05.4", window.mask(6, 6, window=1)) == 5
    assert result("05.4", np.eye(1, dtype=bool)) == 0
    bird = result("05.V4", 8, 2, 1, 1)
    assert list(bird.values()) == [14, 7, 7, 8, 36, 4.5, 0.5625, 144]
    combined = list(result("05.V8", 6, 2, 3, 1).values())
    assert combined[:2] + combined[4:] == [34, 25, 100]
    assert [f"{value:.6f}"[:5] for value in combined[2:4]] == ["4.166", "0.694"]
    speedups = list(result("04.V7", 8, 4, 2, 2).values())
    assert speedups[:4] + speedups[5:] == [512, 272, 320, 136, 1.6]
    assert f"{speedups[4]:.4f}"[:5] == "1.882"
    assert result("09.1", 5, 4, 2, 2, 1) == {"standard": 116, "tiled": 68}
    assert result("09.2", 8, 8, 2, 2) == {"visited": 10, "masked": 4}
    halves = np.array([[0.0]]), np.array([0.0]), np.array([[3.0]]), np.log([2.0])
    np.testing.assert_allclose([part.item() for part in result("09.4", *halves)], [2, np.log(3)])
    budget = list(result("09.V2", 3, 1, 1, 1, 2, 1).values())
    assert budget == [18, 20, 16, 12, ("flash", "window", "standard", "linformer")]
    assert result("10.7", 4, 168, 64) == (3, 0)
    assert result("10.7", 4, 168, 32) == (3, 128)
    assert result("15.1", 36, 1, 2, 1, 1, 2) == (2, 8, 1)
    assert result("15.2", (50, 7, 0), (10, 1, 1)) == 11


def test_the_memory_budget_of_the_textbook_is_told_right():
    after = "\n".join(cell.source for cell in SOURCES["09"].cells)
    printed = {"C386": "104.8", "C396": "43.5", "C399": "46.1"}
    assert all(
        LEDGER[claim].printed == value and claim in after for claim, value in printed.items()
    )
    one, twelve = (exercise("09.V2").reference(4096, 768, heads, 256, 512, 4) for heads in (1, 12))
    assert 43.5e6 < one["linformer"] - 2 * 4096 * 256 * 4 < 43.6e6  # what it forgets
    megabytes = [one["linformer"], one["flash"], twelve["standard"]]
    megabytes += [twelve["linformer"], twelve["window"]]
    assert [f"{value / 1e6:.1f}" for value in megabytes] == [
        "51.9",
        "37.8",
        "843.1",
        "98.0",
        "135.5",
    ]
    assert all(f"{value / 1e6:.1f}" in after for value in megabytes)
    assert (one["order"], twelve["order"]) == (
        ("flash", "window", "linformer", "standard"),
        ("flash", "linformer", "window", "standard"),
    )


def test_the_numbers_after_chapter_01_are_right():
    after = "\n".join(cell.source for cell in SOURCES["01"].cells)
    printed = {"C382": 16_777_216, "C384": 9_437_184}
    for claim, value in printed.items():
        assert float(LEDGER[claim].printed) == value
        assert f"{value:,}" in after and claim in after
    budget = exercise("01.V2").reference
    one, twelve = budget(4096, 768, 1), budget(4096, 768, 12)
    assert f"{one['flops'] / 1e9:.1f} G FLOPs" in after
    assert f"{twelve['total_bytes'] / 1e6:.0f} MB" in after
    assert f"{twelve['scores_share']:.0%}" == "96%" and f"{one['scores_share']:.0%}" == "64%"
    assert "96 % of it instead of 64 %" in after
    methods = exercise("01.V6").reference(512, 12, 64, 256, 2)
    assert f"{methods['linear']:,} bytes" in after
    assert methods["full"] == float(LEDGER["C150"].printed)
    seconds = [float(LEDGER[f"C{number}"].printed) for number in range(196, 202)]
    lengths = [512 * 2**i for i in range(6)]
    assert exercise("01.6").reference(lengths, seconds) == [2, 3, 4]


def test_the_numbers_after_the_calculations_are_right():
    after = "\n".join(cell.source for cell in SOURCES["04"].cells)
    printed = {"C376": 33_554_432, "C377": 262_144, "C164": 16_777_216, "C167": 131_072}
    for claim, value in printed.items():
        assert float(LEDGER[claim].printed) == value
        assert f"{value:,}" in after and claim in after
    savings = exercise("04.V1").reference(1024, 256, 64)
    assert f"{savings['masked_flops']:,}" in after
    assert f"{savings['connections']:,}" in after
    assert f"{100 * savings['density']:.1f} %" in after
    speedup = exercise("04.V7").reference(1024, 128, 64, 64)
    assert f"{speedup['local_bytes'] // 4:,}" in after
    assert f"{speedup['speedup']:.1f}×" in after
    assert f"{speedup['tiled_speedup']:.1f}×" in after


# Chapter 02 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_02_are_right():
    def result(exercise_id, *args):
        return answer(exercise(exercise_id))(*args)

    q, k, v = np.random.default_rng(0).standard_normal((3, 5, 4))
    np.testing.assert_allclose(result("02.1", q, k, v, np.eye(5, dtype=bool)), v)
    mask = result("02.2", np.array([3, 1]), 2, 3)
    assert mask.astype(int).tolist() == [[[[1, 1, 0], [1, 1, 1]]], [[[1, 0, 0], [1, 0, 0]]]]
    assert result("02.3", np.array([1000.0, 1000.0, -np.inf]), 0).tolist() == [0.5, 0.5, 0]
    costs = result("02.V14", 3, 5, 2, 4, 10)
    assert list(costs.values()) == [60, 908, 13.0]


def test_the_memory_limits_of_chapter_02_are_those_of_the_prompts():
    heads, additive = exercise("02.4"), exercise("02.5")
    q, k, _, n_heads, _ = heads.memory.case(np.random.default_rng(0)).args
    scores = n_heads * len(q) * len(k) * 4
    assert heads.memory.allowed_bytes == 2**23 == 4 * scores + 2 * k.nbytes
    assert (scores, k.nbytes, n_heads * len(k) * 64 * 4) == (2**20, 2**21, 2**24)
    q, k, *_, vector = additive.memory.case(np.random.default_rng(0)).args
    scores = len(q) * len(k) * 4
    assert additive.memory.allowed_bytes == 3 * 2**20 == 12 * scores
    assert (scores, scores * len(vector)) == (2**18, 2**23)


def test_the_numbers_after_the_exercises_of_chapter_02_are_right():
    after = "\n".join(cell.source for cell in SOURCES["02"].cells)
    [document] = [
        each
        for each in exercise("02.V5").cases(np.random.default_rng(0))
        if each.name.startswith("the document's")
    ]
    out, weights = exercise("02.V5").reference(*document.args)
    told = str(weights.shape), str(out.shape), f"{weights.size} weights"
    assert all(text in after for text in told)
    limits = [exercise("02.V14").reference(9, 9, 64, 16, tanh)["limit"] for tanh in (20, 1)]
    assert limits == [2.875, 0.5] and "2.875" in after and "to 0.5;" in after


def test_a_sum_in_float16_loses_what_the_prompt_of_02_3_says():
    one_then_many = np.full((5001, 2), 0.0002, np.float16)
    one_then_many[0] = 1
    assert (one_then_many.sum(axis=0) == 1).all()
    assert (one_then_many.sum(axis=0, dtype=np.float32) > 1.9).all()


# Chapter 03 --------------------------------------------------------------------------------------


def test_the_widths_after_the_buckets_of_chapter_03_are_right():
    after = "\n".join(cell.source for cell in SOURCES["03"].cells)
    buckets = exercise("03.V11").reference(-np.arange(10**5), 32, 128)
    widths = np.bincount(buckets)[:-1]  # the last holds all the rest
    assert f"from {widths.min()} to {widths.max()} with T5's sizes" in " ".join(after.split())


# Chapter 08 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_08_are_right():
    def result(exercise_id, *args):
        return answer(exercise(exercise_id))(*args)

    q, k, v = np.random.default_rng(0).standard_normal((3, 7, 4))
    np.testing.assert_allclose(result("08.1", q, k, v, 7), full.attention(q, k, v))
    np.testing.assert_allclose(result("08.1", q, k, v, 1), v[(q @ k.T).argmax(axis=1)])
    x, directions = np.array([[3.0, 1], [-3, 1]]), np.eye(2)[None]
    assert result("08.2", x, directions).tolist() == [[0, 2]]
    assert result("08.4", [1, 3]) == 16 / 20 and result("08.4", [2, 2, 2, 2]) == 64 / 48
    found = np.tile([4, 2, -1], (1, 7, 1))
    one = result("08.5", q, k, v, found)
    np.testing.assert_allclose(result("08.5", q, k, v, found.repeat(2, axis=0)), one)
    np.testing.assert_allclose(result("08.5", q, k, v, np.stack([found[0], found[0] * 0 - 1])), one)
    own = np.arange(7)[:, None] // 2 == np.arange(4)
    assert (result("08.6", q, k, 2, 1) == own).all()
    assert (result("08.6", q, k, 2, 4) == (np.cumsum(own[:, ::-1], axis=1)[:, ::-1] > 0)).all()


@pytest.mark.parametrize(("n", "chunk"), [(60, 6), (12, 12), (40, 20)])
def test_a_round_of_exercise_08_3_is_one_of_reformer(n, chunk):
    q, v = np.random.default_rng(n).standard_normal((2, n, 8))
    k, knobs = lsh.unit_keys(q), {"n_buckets": 6, "n_rounds": 1, "seed": 3}
    [buckets] = lsh.hash_vectors(q, lsh.draw_rotations(8, **knobs))
    expected = lsh.attention(q, k, v, chunk=chunk, exclude_self=True, causal=True, **knobs)
    got = answer(exercise("08.3"))(q, k, v, buckets, chunk)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_the_memory_limits_of_chapter_08_are_those_of_the_prompts():
    def metered(number):
        memory = exercise(f"08.{number}").memory
        return memory.allowed_bytes, memory.case(np.random.default_rng(0)).args

    allowed, (q, k, *_) = metered(1)
    assert allowed == 2**22 == len(q) * len(k) and 4 * allowed == 2**24
    allowed, (x, rotations) = metered(2)
    products = len(rotations) * len(x) * rotations.shape[-1] * 4
    assert (allowed, products) == (5.5 * 2**20, 2**23)
    allowed, (q, *_, chunk) = metered(3)
    assert allowed == 3 * 2**20 == 5 * len(q) * 2 * chunk * 4 + 4 * q.nbytes
    allowed, (q, k, _, found) = metered(5)
    assert allowed == 3.5 * 2**20 == 7 * found[0].size * q.shape[-1] * 4
    assert found.size * q.shape[-1] * 4 == len(q) * len(k) == 2**22
    allowed, (q, k, block, _) = metered(6)
    assert allowed == 3.5 * 2**20 == 7 * len(q) * len(k) // block * 8
    assert len(q) * len(k) == 2**22


def test_the_numbers_after_08_4_are_right():
    after = "\n".join(cell.source for cell in SOURCES["08"].cells)
    gain, n = exercise("08.4").reference, 4096
    assert LEDGER["C362"].printed == "8" and "C362" in after
    even = {b: gain([n // b] * b) for b in (8, 32, 64, 128, 256, 512)}
    assert (f"{even[8]:.2f}", f"{even[512]:.1f}") == ("3.98", "15.1") and even[32] == even[512]
    assert max(even.values()) == even[128] == 32 and 2 * math.sqrt(n) == 128
    assert all(text in after for text in ("3.98", "here 128, which gives 32", "15.1"))


# Chapter 11 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_11_are_right():
    bill = answer(exercise("11.1"))((2, 3), (5, 7), 4)
    assert list(bill.values()) == [60, 108, 80, 120, 128]
    assert list(answer(exercise("11.3"))(12, 3, 1).values()) == [7, 9, 1.25, 4]
    assert float(np.float16(1e-4) / np.float16(2**14)) == 0  # the first hint of 11.5


def test_the_memory_limits_of_chapter_11_are_those_of_the_prompts():
    for number, held in (("11.2", 30), ("11.4", 2 * 16), ("11.6", 36)):
        memory = exercise(number).memory
        x, *rest = memory.case(np.random.default_rng(0)).args
        assert memory.allowed_bytes == 1.25 * 2**20 == 20 * x.nbytes
        weights = next(each for each in rest if np.ndim(each) == 3)
        assert len(weights) * (1 + (number == "11.4")) == held
        [text] = [c.source for c in cells("11", "prompt", number) if "limit" in c.source]
        assert "20 arrays as" in text and "1.25 MiB" in text
        assert f"L = {held}," in text or f"alone take\n{held}" in text or f"are {held}." in text


def test_the_numbers_after_the_exercises_of_chapter_11_are_right():
    after = " ".join(" ".join(cell.source.split()) for cell in SOURCES["11"].cells)
    bill = exercise("11.1").reference((196_608,) * 12, (2_097_152,) * 12, 4)
    for key in ("resting", "after_forward", "peak", "added_up"):
        assert f"{bill[key] / 1e6:.1f} MB" in after
    third, fourth = (exercise("11.3").reference(12, k, 1) for k in (3, 4))
    assert exercise("11.3").reference(12, 3, 21)["best"] == 1
    assert (third["held"], f"{12 / third['held']:.1f}", third["times"]) == (7, "1.7", 1.25)
    assert (fourth["held"], f"{fourth['times']:.2f}") == (7, "1.22") and "1.22" in after


def slope(function, arrays, number, step=1e-6):
    """Return how fast function(arrays) grows with the first number of one of them."""
    moved = [[each.copy() for each in arrays] for _ in range(2)]
    moved[0][number].flat[0] += step
    moved[1][number].flat[0] -= step
    return (function(*moved[0]) - function(*moved[1])) / (2 * step)


def test_the_gradients_of_chapter_11_are_slopes():
    chain, blocks = answer(exercise("11.2")), answer(exercise("11.4"))
    layer = chain.__globals__["layer"]
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((5, 3)), rng.standard_normal((4, 3, 3))

    def loss(x, weights):
        for weight in weights:
            x = layer(x, weight)
        return (x**2).sum() / 2

    for number, gradient in enumerate(chain(x, weights, 3)):
        assert math.isclose(gradient.flat[0], slope(loss, (x, weights), number), rel_tol=1e-6)
    x1, x2, f, g = *rng.standard_normal((2, 5, 3)), *rng.standard_normal((2, 4, 3, 3))

    def weighed(x1, x2, f, g):
        y1, y2 = blocks(f, g).forward(x1, x2)
        return y1.sum() + 2 * y2.sum()

    ones = np.ones_like(x1)
    _, _, *gradients = blocks(f, g).backward(*blocks(f, g).forward(x1, x2), ones, 2 * ones)
    for number, gradient in enumerate(gradients):
        expected = slope(weighed, (x1, x2, f, g), number)
        assert math.isclose(gradient.flat[0], expected, rel_tol=1e-5)


def test_no_plan_within_the_room_of_11_6_keeps_more():
    plan = answer(exercise("11.6"))
    without_room = exercise("11.6").drive.__globals__["without_room"]
    for n_layers, room in itertools.product(range(1, 8), range(1, 8)):
        plans = itertools.chain.from_iterable(
            itertools.combinations(range(1, n_layers), more) for more in range(n_layers)
        )
        fitting = [(0, *rest) for rest in plans if not without_room((0, *rest), n_layers, room)]
        assert bool(fitting) == (room * (room + 1) // 2 >= n_layers)
        if fitting:
            kept = plan(n_layers, 100, 100 * room + 99).kept
            assert tuple(kept) in fitting
            assert len(kept) == max(map(len, fitting)) == min(room, n_layers)


# Chapter 12 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_12_are_right():
    kept = answer(exercise("12.2"))(1, 4, 2, 8, 16, 4, 2, 32)
    assert list(kept.values()) == [128, 64, 32, 40, 42.0]
    q, k, v = (np.ones(shape) for shape in ((4, 3, 5), (2, 1, 5), (2, 1, 2)))
    v[1] = 2
    assert answer(exercise("12.3"))(q, k, v)[..., 0].tolist() == 2 * [[1] * 3] + 2 * [[2] * 3]
    store = answer(exercise("12.5"))(4, 2, 3)
    store.append("a", np.zeros((8, 3)))
    assert store.bytes_per_token() == 12.0
    store.fork("a", "b")
    assert store.bytes_per_token() == 6.0


def test_what_is_kept_is_what_the_package_counts():
    sizes = {"layers": 3, "dtype_bytes": 2}
    kept = exercise("12.2").reference(3, 8, 4, 16, 9, 5, 2, 32)
    assert kept["mha"] == kv_cache.size_bytes(1, 8, 16, **sizes)
    assert kept["gqa"] == kv_cache.size_bytes(1, 4, 16, **sizes)
    assert 32 * kept["int8"] == int8.size_bytes(32, 4, 16, group=32, layers=3)


def test_the_memory_limits_of_chapter_12_are_those_of_the_prompts():
    shared, latent, pages = (exercise(f"12.{number}").memory for number in (3, 4, 5))
    q, k, _ = shared.case(np.random.default_rng(0)).args
    scores = len(q) * k.shape[1] * 4
    assert shared.allowed_bytes == 2**20 == 4 * scores == k.nbytes // 2
    assert len(q) * k[0].nbytes == 16 * 2**20
    q, kept, key_up, _ = latent.case(np.random.default_rng(0)).args
    assert latent.allowed_bytes == 1.5 * 2**20 == 6 * len(q) * len(kept) * 4
    assert len(kept) * key_up.shape[-1] * 4 == 2 * 2**20 == 32 * 2**20 / len(q)
    assert f"{pages.allowed_bytes / 2**20:.1f}" == "1.2"
    prompts = " ".join(" ".join(cell.source.split()) for cell in SOURCES["12"].cells)
    assert all(f" {limit} MiB" in prompts for limit in ("1", "16", "1.5", "32", "2", "1.2"))


def test_the_numbers_after_the_pages_are_right():
    after = "\n".join(cell.source for cell in SOURCES["12"].cells)
    store = answer(exercise("12.5"))(16, 75, 64)
    store.append("prompt", np.zeros((1000, 64)))
    assert f"takes {store.bytes_per_token():.1f} bytes a row" in after
    for name in range(12):
        store.fork("prompt", name)
        store.append(name, np.zeros((5, 64)))
    assert f"rows each: {store.bytes_per_token():.1f} bytes a row" in " ".join(after.split())
    with pytest.raises(MemoryError):
        store.append("more", np.zeros((1, 64)))


def without(wanted):
    [slip] = [each for each in exercise("12.5").mistakes if each.says.startswith(wanted)]
    return slip.function


@pytest.mark.parametrize("wanted", ["your forks write", "your free gives back", "your copy leaves"])
def test_random_programs_alone_find_what_corrupts_pages(wanted):
    each = exercise("12.5")
    fuzzed = dataclasses.replace(each, cases=lambda rng: each.cases(rng)[-6:])
    for seed in range(3):
        assert judge(fuzzed, without(wanted), seed=seed).status == "failed", seed


@pytest.mark.nightly
def test_a_store_that_counts_pages_and_copies_rows_fails_on_memory():
    plain = exercise("12.5").alternatives[0]

    class Copies(plain):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.copies = {}

        def append(self, name, rows):
            super().append(name, rows[:, :0])
            before = self.copies.get(name, np.zeros((0, self.width), np.float32))
            self.copies[name] = np.concatenate([before, rows])

        def fork(self, name, new):
            super().fork(name, new)
            self.copies[new] = self.copies[name].copy()

        def free(self, name):
            super().free(name)
            del self.copies[name]

        def read(self, name):
            return self.copies[name].copy()

    verdict = judge(exercise("12.5"), Copies, seed=0)
    assert "peak" in verdict.reason, str(verdict)


# Chapter 13 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_13_are_right():
    def result(exercise_id, *args):
        return answer(exercise(exercise_id))(*args)

    assert result("13.1", np.array([9.0, 3.0, 1.0, 2.0]), 1) == (1.5, 2.0, 2.5)
    clock = np.array([0.0, 1.0]), np.array([0.1, 1.1]), np.array([5.0, 8.0])
    assert result("13.2", *clock, 0) == 4.0
    assert math.isclose(result("13.3", np.array([512, 1024]), np.array([3.0, 12.0])), 2.0)
    assert result("13.4", *np.ones((3, 2, 2)), np.zeros((2, 2))) == 1.0
    times = np.array([3.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0])
    assert result("13.5", np.array([256, 512, 1024]), *times) == 512
    audit = result("13.6", np.full(3, 1024), np.array([0.25, 1.0, 100.0]), 2, 64, 1.0)
    assert audit == [1, 0, -1] and f"{4 * 2 * 64 * 1024**2 / 1e12 * 1e3:.2f}" == "0.54"
    speedups = list(result("13.V7", 8, 4, 2, 2, 1e3, 0.25).values())
    assert [f"{value:.4f}"[:5] for value in speedups] == ["1.882", "1.600", "1.336", "0.438"]
    assert result("13.V10", 4, 1, 2, 2, 2, 1) == (64, 32, 32, 24, 32, 3)


def test_the_numbers_after_the_exercises_of_chapter_13_are_right():
    after = "\n".join(cell.source for cell in SOURCES["13"].cells)
    lengths = np.array([512, 1024, 2048, 4096, 8192, 16384])
    printed = np.array([float(LEDGER[f"C{number}"].printed) for number in range(196, 202)])
    assert f"{exercise('13.3').reference(lengths, printed):.2f}" == "1.56" and "1.56" in after
    audit = exercise("13.6").reference
    assert audit(lengths, printed, 12, 64, 312.0) == [-1] * 6
    assert audit(np.array([8192]), np.array([0.15]), 12, 64, 312.0) == [1]
    speedups = exercise("13.V7").reference(1024, 128, 64, 64, 1e12, 5e-6)
    for key in ("theory", "tiled", "observed"):
        assert f"{speedups[key]:.1f}×" in after
    _, _, sparse, state, _, best = exercise("13.V10").reference(8192, 12, 64, 512, 90, 256)
    assert f"{sparse / 1e6:.1f} MB" in after
    assert f"{state / 1e6:.1f} MB" in after and best == 3
    assert exercise("13.4").memory.allowed_bytes == 3.5 * 2**20 and "3.5 MiB" in after


# Chapter 14 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_14_are_right():
    scores = answer(exercise("14.1"))(np.array([np.log(16), 0.0]), ["a", "bc", "dé"])
    np.testing.assert_allclose(scores, (4.0, 1.0, 0.8))
    points = np.array([4, 2, 4, 8]), np.array([1.0, 2.0, 3.0, 1.0])
    assert answer(exercise("14.4"))(*points).tolist() == [True, True, False, False]
    losses = np.array([3.0, 2.0]), np.array([2.75, 1.75])
    found = answer(exercise("14.5"))(*losses, np.array([np.nan, np.nan, 12.706]))
    assert found == (-0.25, -0.25, -0.25, "better")


def test_a_probe_of_14_2_tells_who_copies():
    small, text = model.load(), "".join(model.held_out())
    segments = model.repeated(small, text, n=64, rows=2)[:, :64]
    probe = answer(exercise("14.2"))
    first, second = probe(small.row_losses, segments)
    expected = model.copying(small, text, n=64, rows=2)
    np.testing.assert_allclose((first, second), expected, rtol=1e-6)
    near_first, near_second = probe(small.swap("window", window=16).row_losses, segments)
    assert second < 0.6 * first and near_second > 0.95 * near_first


@pytest.mark.parametrize("seed", range(3))
def test_what_14_3_gives_is_as_its_prompt_says(seed):
    for each in exercise("14.3").cases(np.random.default_rng(seed)):
        n, width, norm, knob = each.args
        assert norm**2 >= 25 * width**0.5
        low, high = {"window": (1, n - 2), "linear": (0, 0), "pooled": (2, (n - 1) // 2)}[
            each.kwargs["mechanism"]
        ]
        assert low <= knob <= high


def test_what_a_head_keeps_in_14_6_is_what_the_package_counts():
    first, *_ = exercise("14.6").cases(np.random.default_rng(0))
    _, held, _ = first.args
    for kept, rows in zip(held, (512, 65, 17, 512 // 16 + 16), strict=False):
        assert kept == kv_cache.size_bytes(rows, 1, 32, dtype_bytes=2)
    state = linear.step(None, *np.zeros((3, 1, 32)))[1]
    assert held[-1] == 2 * state.size


def test_the_numbers_after_14_v12_are_right():
    after = "\n".join(cell.source for cell in SOURCES["14"].cells)
    assert LEDGER["C180"].printed == "256-512" and "C180" in after
    [symbols] = [
        each
        for each in exercise("14.V12").cases(np.random.default_rng(0))
        if each.name.startswith("symbols")
    ]
    distances = symbols.args[2]
    assert distances.mean() == 80 and (distances > 80).mean() == 0.5
    assert exercise("14.V12").reference(*symbols.args) == (128, 128)


# Chapter 16 --------------------------------------------------------------------------------------


def test_the_examples_of_chapter_16_are_right():
    held, pairs = answer(exercise("16.2"))(8, 0, 2)
    assert (held.tolist(), pairs.tolist()) == ([0, 1, 6, 7], [10, 8])
    sent = answer(exercise("16.4"))(6, 2, 4, 2, 5, 2)
    assert list(sent.values()) == [(120, 360), (120, 240), (180, 180)]


def test_the_memory_limit_of_the_ring_is_that_of_its_prompt():
    memory = exercise("16.1").memory
    q, k, v, sizes, *_ = memory.case(np.random.default_rng(0)).args
    assert (len(sizes), {*sizes}, q.shape[1]) == (16, {256}, 64)
    tile, block, out = 256 * 256 * 4, 2 * 256 * 64 * 4, 256 * 64 * 4
    assert memory.allowed_bytes == 1.5 * 2**20 == 4 * tile + 2 * block + 4 * out
    assert (k.nbytes + v.nbytes, 256 * len(k) * 4) == (2 * 2**20, 4 * 2**20)
    prompts = " ".join(" ".join(cell.source.split()) for cell in cells("16", "prompt", "16.1"))
    assert all(
        text in prompts for text in ("1.5 MiB", "are 2 MiB", "all keys 4 MiB", "block in q's dtype")
    )


def ring_in_float64(q, k, v, size, exchange):
    out, lse = np.zeros((len(q), v.shape[-1])), np.full((len(q), 1), -np.inf)
    for step in range(size):
        if step > 0:
            k, v = exchange(k, v)
        if len(k) > 0:
            scores = q @ k.T / np.sqrt(q.shape[-1])
            total = np.logaddexp(lse, np.logaddexp.reduce(scores, axis=-1, keepdims=True))
            out = np.exp(lse - total) * out + np.exp(scores - total) @ v
            lse = total
    return out.astype(q.dtype)


@pytest.mark.nightly
def test_a_ring_in_float64_is_told_so_and_one_of_all_blocks_is_not():
    message = str(judge(exercise("16.1"), ring_in_float64, seed=1))
    assert "float64, where float32 came in: `out`, `lse`, `scores`, `total`" in message
    assert "In float32 the peak would be about 1.0 MiB" in message
    assert "keep to float32" in message
    assert "for each of" not in message  # several arrays at once: no shape accounts for them

    def all_blocks(q, k, v, size, exchange):
        blocks = [(k, v)]
        for _ in range(size - 1):
            blocks.append(exchange(*blocks[-1]))
        k, v = map(np.concatenate, zip(*blocks, strict=True))
        scores = q @ k.T / np.sqrt(q.shape[-1])
        scores -= scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores)
        return ((weights / weights.sum(-1, keepdims=True)) @ v).astype(q.dtype)

    message = str(judge(exercise("16.1"), all_blocks, seed=1))
    assert "peak" in message
    assert "float32 the peak" not in message  # it would be too large in float32, too


def test_a_cause_names_only_ranks_of_the_case_that_is_shown():
    def stops(text):
        sends = "            k, v = exchange(k, v)\n"
        stop = "            if len(k) == 0:\n                break\n"
        return (
            without_markers(text).replace(sends, stop + sends).replace("if len(k) > 0", "if True")
        )

    verdict = judge(exercise("16.1"), answer(exercise("16.1"), stops), seed=1)
    assert verdict.case == "tokens of the ranks: 3, 0, 2"
    assert "your ring ends at an empty block" in verdict.cause
    assert set(re.findall(r"rank (\d)", verdict.cause)) <= {"0", "1", "2"}


@pytest.mark.parametrize("n", [8, 40, 4096])
def test_zigzag_is_as_fair_as_16_2_says(n):
    after = "\n".join(cell.source for cell in SOURCES["16"].cells)
    run = n // 8
    for rank in range(4):
        _, pairs = exercise("16.2").reference(n, rank, 4)
        assert pairs.tolist() == [2 * run**2 + run] + 3 * [2 * run**2]
    assert f"2 · {run}² = {2 * run**2:,} pairs, and {run} more" in after or n != 4096


def test_the_numbers_after_16_4_are_right():
    after = "\n".join(cell.source for cell in SOURCES["16"].cells)
    sent = {
        (size, kv_heads): exercise("16.4").reference(2**20, size, 64, kv_heads, 128, 2)
        for size, kv_heads in itertools.product((8, 16, 64), (8, 64))
    }
    gb = {size: [each and f"{each[0] / 1e9:.2f}" for each in sent[size].values()] for size in sent}
    assert gb[8, 64] == ["30.06", "30.06", "7.52"] and gb[64, 64] == ["33.82", "33.82", "1.06"]
    assert gb[8, 8] == ["3.76", "3.76", "4.23"] and gb[16, 8][2] is None
    assert all(text in after for text in ("30.1 GB in a ring and 7.5 s", "33.8 and 1.06."))
    assert "3.8 GB against 4.2" in after


def test_the_package_shares_and_sends_as_chapter_16_counts():
    for n, size in itertools.product((1, 24, 37), (1, 2, 3, 4)):
        shares = distributed.cost("ring", n, size, causal=True).pairs
        for rank in range(size):
            held, pairs = exercise("16.2").reference(n, rank, size)
            assert held.tolist() == distributed.positions(n, rank, size, "zigzag").tolist()
            assert pairs.sum() == shares[rank]
    for size, kv_heads, dtype_bytes in itertools.product((1, 2, 4), (1, 4), (2, 4)):
        sent = exercise("16.4").reference(24, size, 8, kv_heads, 5, dtype_bytes)
        sizes = {"heads": 8, "kv_heads": kv_heads, "width": 5, "dtype_bytes": dtype_bytes}
        for way, backward in itertools.product(sent, (False, True)):
            if sent[way]:
                counted = distributed.cost(way, 24, size, backward=backward, **sizes).sent
                assert set(counted) == {sent[way][backward]}


def test_the_two_bugs_of_a_ring_show_from_three_ranks_on():
    each = exercise("16.5")
    given = answer(each).__globals__["broken_ring"]
    two = dataclasses.replace(
        each, cases=lambda rng: [case for case in each.cases(rng) if case.args[3].max() < 2]
    )
    assert len(two.cases(np.random.default_rng(0))) >= 4
    assert judge(two, given, seed=0).status == "passed"


def test_the_numbers_after_the_counts_of_chapter_05_are_right():
    after = "\n".join(cell.source for cell in SOURCES["05"].cells)
    printed = {"C458": 1_690_624, "C461": 6.8, "C459": 89.92, "C173": 97, "C174": 2.37}
    for claim, value in printed.items():
        assert float(LEDGER[claim].printed) == value
        assert f"{value:,}" in after and claim in after
    bird = exercise("05.V4").reference(4096, 256, 64, 32)
    assert f"{bird['total']:,}" in after
    assert f"{bird['bytes'] / 1e6:.2f} MB" in after
    assert f"{100 * (1 - bird['density']):.2f} %" in after
    assert "1,570,816" in after and "1,570,816" in LEDGER["C463"].note
    combined = exercise("05.V8").reference(4096, 64, 128, 1)
    assert f"{combined['added'] / 4096:.2f} added up" in after
    assert f"{combined['average']:.2f} in the union" in after
    assert f"{100 * combined['density']:.3f} %" in after


# Chapter 15: the cause of a design is measured on the design itself -------------------------------


def designed(*pairs, seed=0):
    design = list(pairs)
    verdict = judge(exercise("15.6"), lambda: design, seed=seed)
    assert verdict.status == "failed"
    assert "two slips" not in verdict.cause and "by hand" not in verdict.hint
    return verdict


def near(tokens):
    return "window", {"window": tokens}


@pytest.mark.parametrize(
    ("first", "last", "shares"),
    [(near(32), near(380), "8%, 8%, 99%, 99%"), (near(16), ("full", {}), "4%, 4%, 100%, 100%")],
)
def test_a_design_of_too_many_bytes_is_told_which_layers_keep_them(first, last, shares):
    verdict = designed(first, first, last, last)
    assert verdict.reason == "bytes kept: wrong value"
    assert f"yours keep {shares}" in verdict.cause and "linear" not in verdict.cause
    assert "16 bits in layers 2 and 3" in verdict.cause and "quantised_cache" in verdict.hint


def test_full_attention_everywhere_is_one_slip():
    verdict = designed(*[("full", {})] * 4)
    assert "much is kept in layers 0, 1, 2 and 3" in verdict.cause
    assert "nearby" in verdict.hint


@pytest.mark.parametrize(
    ("design", "layers"),
    [
        ([near(24), near(24), near(24), ("quantised_cache", {})], "layer 2:"),
        ([near(24), near(24), near(24), near(24)], "layers 2 and 3:"),
    ],
)
def test_a_design_is_told_which_layers_do_not_reach_the_quotes(design, layers):
    assert f"out of reach of {layers}" in designed(*design).cause


def test_of_two_linear_layers_the_one_is_named_that_loses():
    far = "quantised_cache", {}
    assert "linear in layer 1:" in designed(("linear", {}), ("linear", {}), far, far).cause


@pytest.mark.parametrize(
    ("design", "cause", "step"),
    [
        ([("windw", {})] * 4, "no such mechanism: is window meant?", "full, chunked, flash"),
        ([("linformer", {})] * 4, "linformer cannot be causal", "full, chunked, flash"),
        ([("window", {"windo": 3})] * 4, "a knob of layer 0 is unknown", "dilation, scale, window"),
        ([near(24), near(-1)] * 2, "a knob of layer 1 has a value", "window = 128"),
        ([("full", {})] * 3, "your design has 3 entries, not 4", "four pairs"),
        (["window"] * 4, "no such pair", '("window", {"window": 100})'),
        ([("full", 3)] * 4, "no such pair", '("window", {"window": 100})'),
        (None, "a function without a `return` returns None", "four pairs"),
    ],
)
def test_what_is_no_design_gets_the_step_that_makes_it_one(design, cause, step):
    verdict = judge(exercise("15.6"), lambda: design, seed=0)
    assert verdict.reason == "design: wrong value"
    assert cause in verdict.cause and step in verdict.hint
    assert "unpack" not in str(verdict)


def test_a_design_whose_knob_cannot_have_its_value_is_told_which():
    def rounded_by_nothing():
        return [("window", {"window": 24})] * 2 + [("quantised_cache", {"group": 0})] * 2

    verdict = judge(exercise("15.6"), rounded_by_nothing, seed=0)
    assert verdict.status == "failed" and "group must be at least 1, got 0" in str(verdict)
