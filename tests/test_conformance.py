"""What every mechanism of the catalogue must do. Being in the catalogue is all it takes."""

import ast
import collections
import functools
import importlib.util
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import oracles
import pytest
from covering import by_day, pairwise
from hypothesis import given
from hypothesis import strategies as st

import attncourse
from attncourse import MECHANISMS, measure
from attncourse.cost import Cost
from attncourse.inputs import random_qkv
from attncourse.reference import full

PACKAGE = Path(attncourse.__file__).parent
SIZES = [(1, 1), (63, 63), (100, 100), (64, 64), (5, 63), (63, 5), (1, 100)]
SPOILT_SIZES = [(40, 40), (9, 40), (40, 9)]
COUNTED_SIZES = by_day(
    [(50, 50), (32, 100), (100, 32), (1, 1)], [(100, 100), (64, 200), (200, 64), (1, 1)]
)
N_LONG = by_day(70, 100)  # at 70 three tiles of 32 rows or two of 64, the last one ragged
KERNEL_SIZES = [(1, 1), (63, 63), (5, N_LONG), (N_LONG, 5)]
KERNEL_DTYPES = [np.float32, np.float16]
GRADIENT_SIZES = [(33, 33), (5, 40), (40, 5)]
# (n, dtype, heads, causal); what float16 adds, copies in float32, shows at shorter lengths
PEAKS = [
    tuple(row.values())
    for row in pairwise(
        n=by_day((1024,), (1024, 4096)),
        dtype=(np.float16, np.float32),
        heads=(1, 2),
        causal=(False, True),
    )
] + [by_day((2048, np.float32, 2, False), (16384, np.float32, 1, True))]


def having(*features):
    """Parametrize over the mechanisms that have all these features."""
    chosen = [m for m in MECHANISMS.values() if set(features) <= m.has]
    return pytest.mark.parametrize("mechanism", chosen, ids=[m.stem for m in chosen])


def kernel_of(mechanism):
    if importlib.util.find_spec("triton") is None:  # importing it here would be too early
        pytest.skip("Triton has no wheels for this platform")
    return mechanism.kernel


def run(mechanism, q, k, v, module=None, **knobs):
    """Call `attention` with knobs, or with the arrays that stand for them."""
    causal = {name: knobs.pop(name) for name in ("causal", "scale") if name in knobs}
    sizes = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    if module is not None:
        return module.attention(q, k, v, **mechanism.tensors(*sizes, q, **knobs), **causal)
    keywords = mechanism.keywords(*sizes, q.dtype, **knobs)
    return mechanism.reference.attention(q, k, v, **keywords, **causal)


def takes(mechanism, sizes):
    return not mechanism.square or sizes[0] == sizes[1]


def sizes_for(mechanism, sizes):
    if not takes(mechanism, sizes):
        pytest.skip("needs as many queries as keys")
    return sizes


def ends_of_causal(mechanism):
    return (False, True) if mechanism.causal else (False,)


def levels(mechanism):
    """Knobs at their least, a little above, and at their sensible values."""
    chosen = {
        tuple((knob.name, value(knob)) for knob in mechanism.knobs)
        for value in (
            lambda knob: knob.low,
            lambda knob: min(knob.low + 3 * knob.step, knob.high),
            lambda knob: knob.value,
        )
    }
    return sorted(chosen)


def settings(mechanism, **others):
    """Yield knobs at each of their levels, causal and not.

    `others` is what else the test varies, as (the one at hand, all of them): by day every two of
    level, end and those meet, instead of all.
    """
    axes = {name: every for name, (_, every) in others.items()}
    if "sizes" in axes:  # what is skipped covers nothing
        axes["sizes"] = [sizes for sizes in axes["sizes"] if takes(mechanism, sizes)]
    for row in pairwise(knobs=levels(mechanism), causal=ends_of_causal(mechanism), **axes):
        if all(row[name] == here for name, (here, _) in others.items()):
            yield dict(row["knobs"]) | {"causal": row["causal"]}


def settings_of_twins(mechanism):
    """Of `settings` by day the first and the last, causal if it may be: the interpreter is slow."""
    everything = list(settings(mechanism))
    return by_day([everything[0], everything[-1]], everything)


def start(mechanism, k, v, knobs=None, module=None):
    """The state before the first step: None, or what `start` makes from the shapes of k and v."""
    knobs = mechanism.values if knobs is None else knobs
    begin = getattr(module or mechanism.reference, "start", None)
    if begin is None:
        return None
    accepted = set(inspect.signature(begin).parameters)
    return begin(k, v, **{name: x for name, x in knobs.items() if name in accepted})


def knob_names(mechanism):
    return [knob.name for knob in mechanism.knobs]


# Signatures


@having()
def test_attention_takes_qkv_and_keyword_only_knobs(mechanism):
    parameters = inspect.signature(mechanism.reference.attention).parameters
    names = list(parameters)
    assert names[:3] == ["q", "k", "v"]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in names[3:])
    assert mechanism.arguments or set(knob_names(mechanism)) <= set(names)
    assert names[-2:] == ["causal", "scale"] or names[-1] == "causal"  # not all have scores
    assert parameters["causal"].default is False
    assert "scale" not in parameters or parameters["scale"].default is None


@having("kernel")
def test_twins_share_their_signature(mechanism):
    def shape(function):
        return [
            (p.name, p.kind, getattr(p.default, "__name__", p.default))  # functions are twins too
            for p in inspect.signature(function).parameters.values()
        ]

    kernel = kernel_of(mechanism)
    assert shape(kernel.attention) == shape(mechanism.reference.attention)
    assert shape(kernel.cost) == shape(mechanism.reference.cost)


@having()
def test_cost_takes_sizes_knobs_and_dtype_bytes(mechanism):
    parameters = inspect.signature(mechanism.reference.cost).parameters
    names = ["B", "H", "Tq", "Tk", "D", *knob_names(mechanism), "causal", "dtype_bytes"]
    assert [name for name in parameters if name in names] == names
    optional = [p for name, p in parameters.items() if name not in names]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in optional)


@having("mask")
def test_mask_takes_sizes_and_knobs(mechanism):
    parameters = inspect.signature(mechanism.reference.mask).parameters
    names = ["n_queries", "n_keys", *knob_names(mechanism), "causal"]
    assert [name for name in parameters if name in names] == names
    optional = [p for name, p in parameters.items() if name not in names]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in optional)


# Docstrings: what all mechanisms share is said in `attncourse.reference`, once

SHARED = {"q", "k", "v", "causal", "scale", "grad_out", "n_queries", "n_keys"}
SHARED |= {"B", "H", "Tq", "Tk", "D", "dtype_bytes"}
MAY_DIFFER = {"q", "causal", "scale", "dtype_bytes"}
CONTRACT = ("attention", "mask", "count", "cost", "step", "backward")


def described(docstring):
    """Return what the Args of a docstring say of each argument."""
    arguments = (docstring or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def undescribed(stem, mechanism):
    """Return what is missing from the docstrings of a reference."""
    module = mechanism.reference
    if stem != mechanism.stem:
        module = importlib.import_module(f"attncourse.reference.{stem}")
    functions = {name: getattr(module, name) for name in CONTRACT if hasattr(module, name)}
    texts = {name: inspect.getdoc(function) for name, function in functions.items()}
    missing = [name for name, text in texts.items() if "`attncourse.reference`" not in text]
    missing += [part for part in ("Memory:", "Paper:") if part not in texts["attention"]]
    said = described(texts["attention"]).keys() | {"causal", "scale"}
    parameters = inspect.signature(module.attention).parameters.values()
    missing += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in said]
    if mechanism.arguments:  # its sliders set the sizes of arrays
        said |= described(texts["cost"]).keys()
    return missing + [
        knob for knob in knob_names(mechanism) if stem == mechanism.stem and knob not in said
    ]


@having()
def test_docstrings_say_what_is_special(mechanism):
    for stem in (mechanism.stem, *mechanism.variants):
        assert undescribed(stem, mechanism) == [], stem


def docstrings_of_references():
    """Yield (file, function, docstring)."""
    for path in (PACKAGE / "reference").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path.stem, node.name, ast.get_docstring(node)


def test_what_all_mechanisms_share_is_described_once():
    contract = importlib.import_module("attncourse.reference").__doc__
    assert {name for name in SHARED if not re.search(rf"\b{name}\b", contract)} == set()
    files = collections.defaultdict(set)
    for file, function, docstring in docstrings_of_references():
        shared = {name: text for name, text in described(docstring).items() if name in SHARED}
        if function in CONTRACT:
            assert shared.keys() <= MAY_DIFFER, (file, function)
        for entry in shared.items():
            files[entry].add(file)
    assert {entry: found for entry, found in files.items() if len(found) > 1} == {}


def test_an_args_section_is_read():
    arguments = "    q: (..., Tq, D),\n        as it is.\n    window: Radius."
    text = f"Do.\n\nArgs:\n{arguments}\n\nPaper:\n    a: b"
    assert described(text) == {"q": "(..., Tq, D), as it is.", "window": "Radius."}


# Values


@having("mask")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_full_attention_under_its_mask(mechanism, sizes):
    sizes_for(mechanism, sizes)
    for knobs in settings(mechanism, sizes=(sizes, SIZES)):
        q, k, v = random_qkv(*sizes, batch=2, heads=3, width=7, value_width=5, dtype=np.float64)
        mask = mechanism.reference.mask(*sizes, **knobs)
        assert mask.shape == sizes and mask.dtype == bool
        out = run(mechanism, q, k, v, **knobs)
        np.testing.assert_allclose(
            out, full.attention(q, k, v, mask=mask), atol=1e-12, err_msg=str(knobs)
        )


@having("mask")
def test_agrees_with_plain_loops(mechanism):
    sizes = (13, 13) if mechanism.square else (9, 13)
    q, k, v = random_qkv(*sizes, width=4, value_width=3, dtype=np.float64)
    for knobs in settings(mechanism):
        mask = mechanism.reference.mask(*sizes, **knobs)
        expected = oracles.attention(q, k, v, lambda i, j, mask=mask: mask[i, j], scale=0.3)
        out = run(mechanism, q, k, v, scale=0.3, **knobs)
        np.testing.assert_allclose(out, expected, atol=1e-12, err_msg=str(knobs))


@having("mask")
@given(
    n_queries=st.integers(1, 40), n_keys=st.integers(1, 40), seed=st.integers(0, 99), data=st.data()
)
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
def test_hidden_keys_have_no_influence(mechanism, n_queries, n_keys, seed, data):
    causal = data.draw(st.booleans()) and mechanism.causal
    knobs = {knob.name: data.draw(st.integers(knob.low, knob.high)) for knob in mechanism.knobs}
    q, k, v = random_qkv(n_queries, n_keys, width=4, seed=seed, dtype=np.float64)
    before = run(mechanism, q, k, v, causal=causal, **knobs)
    i = data.draw(st.integers(0, n_queries - 1))
    hidden = ~mechanism.reference.mask(n_queries, n_keys, causal=causal, **knobs)[i]
    k[..., hidden, :] *= -3
    v[..., hidden, :] += 1
    after = run(mechanism, q, k, v, causal=causal, **knobs)
    np.testing.assert_array_equal(before[..., i, :], after[..., i, :])


@having()
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_collapses_to_full_attention(mechanism, sizes):
    if mechanism.collapse is None:
        pytest.skip("never equals full attention")
    sizes_for(mechanism, sizes)
    q, k, v = random_qkv(*sizes, heads=2, width=8, dtype=np.float64)
    for causal in ends_of_causal(mechanism):
        out = run(mechanism, q, k, v, causal=causal, **mechanism.collapse(*sizes))
        np.testing.assert_allclose(out, full.attention(q, k, v, causal=causal), atol=1e-12)


@having()
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_is_kept_and_error_is_rounding(mechanism, dtype):
    q, k, v = random_qkv(100, heads=2, width=32, dtype=dtype)
    out = run(mechanism, q, k, v, **mechanism.values)
    exact = run(mechanism, *(a.astype(np.float64) for a in (q, k, v)), **mechanism.values)
    assert out.dtype == dtype
    work = max(np.finfo(np.float32).eps if dtype != np.float64 else 0, np.finfo(np.float64).eps)
    work *= mechanism.roundings
    assert np.abs(out - exact).max() <= oracles.tolerance(exact, dtype, work_error=work)


@having()
def test_leading_axes_are_free(mechanism):
    q, k, v = random_qkv(20, batch=2, heads=3, width=8)
    out = run(mechanism, q, k, v, **mechanism.values)
    flat = run(mechanism, q[1], k[1], v[1], **mechanism.values)
    plain = run(mechanism, q[1, 2], k[1, 2], v[1, 2], **mechanism.values)
    assert plain.shape == (20, 8)
    np.testing.assert_allclose(out[1], flat, atol=1e-6)
    np.testing.assert_allclose(out[1, 2], plain, atol=1e-6)


@having()
def test_queries_before_the_first_key_give_zeros(mechanism):
    if mechanism.square or not mechanism.causal:
        pytest.skip("has no such queries")
    q, k, v = random_qkv(7, 3, width=8)
    out = run(mechanism, q, k, v, causal=True, **mechanism.values)
    assert np.all(out[..., :4, :] == 0) and np.all(np.isfinite(out))
    assert np.all(np.any(out[..., 4:, :] != 0, axis=-1))


@having()
@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_empty_sequences(mechanism, sizes):
    sizes_for(mechanism, sizes)
    q, k, v = random_qkv(*sizes, width=8, value_width=3)
    out = run(mechanism, q, k, v, **mechanism.values)
    assert out.shape == (1, 1, sizes[0], 3) and np.all(out == 0)


@having()
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_arguments_stay_as_they_were(mechanism, dtype):
    q, k, v = random_qkv(40, width=8, dtype=dtype)
    for causal in ends_of_causal(mechanism):
        keywords = mechanism.keywords(40, 40, 8, 8, dtype, **mechanism.values)
        given = [q, k, v, *(value for value in keywords.values() if isinstance(value, np.ndarray))]
        before = [array.copy() for array in given]
        for array in given:
            array.flags.writeable = False
        mechanism.reference.attention(q, k, v, causal=causal, **keywords)
        assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


@having("step")
def test_a_step_leaves_its_arguments_as_they_were(mechanism):
    arrays = random_qkv(3, width=8, dtype=np.float64)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    _, state = mechanism.reference.step(start(mechanism, *arrays[1:]), *arrays)
    mechanism.reference.step(state, *arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@having()
def test_strides_do_not_matter(mechanism):
    q, k, v = random_qkv(40, heads=2, width=8)
    strided = [np.moveaxis(np.moveaxis(a, 1, 2).copy(), 2, 1) for a in (q, k, v)]
    assert not strided[0].flags.c_contiguous
    np.testing.assert_allclose(
        run(mechanism, *strided, **mechanism.values),
        run(mechanism, q, k, v, **mechanism.values),
        atol=1e-6,
    )


@having()
def test_nan_passes_through_to_its_row_only(mechanism):
    q, k, v = random_qkv(30, width=8)
    q[..., 4, 2] = np.nan
    out = run(mechanism, q, k, v, **mechanism.values)
    assert np.all(np.isnan(out[..., 4, :]))
    assert np.all(np.isfinite(np.delete(out, 4, axis=-2)))


def rows_that_change(before, after):
    """bool (B, H, Tq): the rows in which a number is another."""
    return (before != after).any(axis=-1)


def spoil_and_compare(mechanism, call, arrays, keys):
    """A value that is not finite spoils the rows that attend to it, and no others."""
    q, k, v = arrays
    clean = call(q, k, v)
    for key, number in zip(keys, itertools.cycle((np.nan, np.inf, -np.inf)), strict=False):
        changed = v.copy()
        changed[..., key, :] += 1
        attending = rows_that_change(clean, call(q, k, changed))
        changed[..., key, 0] = number
        out = call(q, k, changed)
        assert np.array_equal(~np.isfinite(out[..., 0]), attending), (key, number)
        assert np.array_equal(out[~attending], clean[~attending]), (key, number)
        if mechanism.family != "content":  # else the key changes who attends to whom
            changed = k.copy()
            changed[..., key, :] = number
            out = call(q, changed, v)
            assert np.array_equal(out[~attending], clean[~attending]), (key, number)
            if np.isnan(number) and mechanism.family != "learned scores":
                assert np.isnan(out[attending]).all(), (key, number)


@having()
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("sizes", SPOILT_SIZES, ids=str)
def test_what_is_not_finite_spoils_the_rows_that_attend_to_it(mechanism, sizes):
    sizes_for(mechanism, sizes)
    arrays = random_qkv(*sizes, heads=2, width=8, dtype=np.float64)
    middle = sizes[1] // 2
    keys = sorted({0, middle, sizes[1] - 1, *by_day((), (3, sizes[1] - 2))})
    for knobs in settings(mechanism, sizes=(sizes, SPOILT_SIZES)):
        call = functools.partial(run, mechanism, **knobs)
        spoil_and_compare(mechanism, call, arrays, keys)


@having()
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("sizes", [(1, 1), (9, 9), (3, 20)], ids=str)
def test_infinity_passes_through_to_its_row_only(mechanism, sizes):
    """NaN, or what an ever larger number leads to: never the zeros of a row that sees no key."""
    sizes_for(mechanism, sizes)
    for seed, sign, causal in itertools.product(range(3), (1, -1), ends_of_causal(mechanism)):
        q, k, v = random_qkv(*sizes, width=8, seed=seed, dtype=np.float64)
        rows = []
        for number in (np.inf, 1e100):
            q[..., 0, 2] = sign * number
            out = run(mechanism, q, k, v, causal=causal, **mechanism.values)
            assert np.all(np.isfinite(out[..., 1:, :]))
            rows.append(out[..., 0, :])
        assert np.all(np.isnan(rows[0])) or np.allclose(*rows, atol=1e-12), (seed, sign, causal)


@having()
@pytest.mark.parametrize("sizes", [(5, 5), (3, 7), (7, 3), (1, 1), (0, 4), (4, 0)], ids=str)
def test_knobs_may_exceed_the_sequence(mechanism, sizes):
    """A window wider than the sequence, more global tokens than tokens, a rank above Tk."""
    sizes_for(mechanism, sizes)
    q, k, v = random_qkv(*sizes, width=8, value_width=3, dtype=np.float64)
    largest = {knob.name: knob.high for knob in mechanism.knobs}
    for causal in ends_of_causal(mechanism):
        knobs = largest | {"causal": causal}
        out = run(mechanism, q, k, v, **knobs)
        if "mask" in mechanism.has:
            mask = mechanism.reference.mask(*sizes, **knobs)
            np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)
        assert out.shape == (1, 1, sizes[0], 3) and np.all(np.isfinite(out))
        assert mechanism.reference.cost(1, 1, *sizes, 8, **knobs).flops >= 0


@having()
def test_a_knob_may_be_as_large_as_integers_get(mechanism):
    """It means no limit, and takes no memory of its own unless the cost says that it does."""
    q, k, v = random_qkv(6, width=8, dtype=np.float64)
    for knob, knobs in without_limit(mechanism):
        out = run(mechanism, q, k, v, **knobs)
        if knob.name != "seed":
            high = knobs | {knob.name: knob.high}
            np.testing.assert_allclose(out, run(mechanism, q, k, v, **high), atol=1e-12)
        if "mask" in mechanism.has:
            mask = mechanism.reference.mask(6, 6, **knobs)
            np.testing.assert_allclose(out, full.attention(q, k, v, mask=mask), atol=1e-12)


def without_limit(mechanism):
    """Yield (knob, knobs): one at a time as large as can be, where that needs no huge memory."""
    for knob, causal in itertools.product(mechanism.knobs, ends_of_causal(mechanism)):
        largest = sys.maxsize - sys.maxsize % knob.step
        knobs = mechanism.values | {knob.name: largest, "causal": causal}
        if mechanism.reference.cost(1, 1, 6, 6, 8, **knobs).peak_bytes < 2**40:
            yield knob, knobs


INTEGERS = (np.int8, np.uint8, np.int16, np.int64, np.uint64, np.array)


def of_type(mechanism, integer):
    """Return knobs that fill 7 bits where they may, as ints and as NumPy's integers."""
    plain = {knob.name: min(knob.high, 100) for knob in mechanism.knobs}
    return plain, {name: integer(value) for name, value in plain.items()}


integers = pytest.mark.parametrize("integer", INTEGERS, ids=lambda integer: integer.__name__)


@having()
@integers
def test_integers_of_numpy_are_as_good_as_plain_ones(mechanism, integer):
    q, k, v = random_qkv(150, width=8, dtype=np.float64)
    plain, typed = of_type(mechanism, integer)
    for causal in ends_of_causal(mechanism):
        out, expected = (run(mechanism, q, k, v, causal=causal, **x) for x in (typed, plain))
        np.testing.assert_array_equal(out, expected)
        has_mask = "mask" in mechanism.has
        for name in ("mask", "count", "cost"):
            if name != "cost" and not (has_mask and hasattr(mechanism.reference, name)):
                continue
            function = getattr(mechanism.reference, name)
            sizes = (1, 2, 150, 150, 8) if name == "cost" else (150, 150)
            result, expected = (function(*sizes, causal=causal, **x) for x in (typed, plain))
            assert np.array_equal(result, expected), name
            assert name != "cost" or all(type(x) is int for x in vars(result).values())
    if "step" in mechanism.has:
        outs = [steps(mechanism, x, q, k, v) for x in (typed, plain)]
        np.testing.assert_array_equal(*outs)


SIZE_NAMES = ("B", "H", "Tq", "Tk", "D", "dtype_bytes", "n_queries", "n_keys")


def counting(mechanism, module):
    """Yield (name, call, sizes): what takes sizes, with knobs, and sizes that fill 7 bits."""
    plain, _ = of_type(mechanism, int)
    for name in ("mask", "count", "cost"):
        if name == "cost" or ("mask" in mechanism.has and hasattr(module, name)):
            call = functools.partial(getattr(module, name), **plain)
            sizes = {"B": 1, "H": 100, "D": 8, "dtype_bytes": 4}
            asked = [size for size in inspect.signature(call).parameters if size in SIZE_NAMES]
            yield name, call, {size: sizes.get(size, 100) for size in asked}


def check_sizes(mechanism, module):
    for name, call, sizes in counting(mechanism, module):
        expected = call(**sizes)
        for integer in INTEGERS:
            result = call(**{size: integer(value) for size, value in sizes.items()})
            assert np.array_equal(result, expected), (name, integer)
            assert name != "cost" or all(type(x) is int for x in vars(result).values())
        by_place = [np.int8(value) for size, value in sizes.items() if size != "dtype_bytes"]
        assert np.array_equal(call(*by_place), expected), name
        for size in sizes:
            for error, wrongs in WRONG_SIZES.items():
                for wrong in wrongs:
                    where = f"{mechanism.stem}.{name}"
                    refuses(error, where, size, call, **sizes | {size: wrong})


WRONG_SIZES = {TypeError: ("4", 4.0, None, True), ValueError: (-1, np.int8(-1), 2**63)}


@having()
def test_sizes_of_numpy_are_as_good_as_plain_ones(mechanism):
    check_sizes(mechanism, mechanism.reference)


@having("kernel")
def test_kernels_take_sizes_of_numpy(mechanism):
    check_sizes(mechanism, kernel_of(mechanism))


def steps(mechanism, knobs, q, k, v):
    """Return what the 150 tokens see that come in three steps, from a start with these knobs."""
    state, outs = start(mechanism, k, v, knobs), []
    for rows in (slice(0, 101), slice(101, 102), slice(102, 150)):
        parts = (array[..., rows, :] for array in (q, k, v))
        out, state = mechanism.reference.step(state, *parts)
        outs.append(out)
    return np.concatenate(outs, axis=-2)


@having("kernel")
@pytest.mark.filterwarnings("error::RuntimeWarning")  # of an overflow that came to nothing
# int8 overflows where positions and blocks go past 127; the others differ at any length
@pytest.mark.parametrize(("integer", "n"), [(np.int8, 150), (np.uint64, 20), (np.array, 20)])
def test_kernels_take_integers_of_numpy(mechanism, integer, n):
    kernel = kernel_of(mechanism)
    if not mechanism.knobs:
        pytest.skip("has no knobs")
    arrays = random_qkv(n, width=8)
    plain, typed = of_type(mechanism, integer)
    causal = mechanism.causal
    if takes(mechanism, (20, n)):  # by day the last queries, whose positions are the largest
        arrays = arrays[0][..., by_day(slice(-20, None), slice(None)), :], *arrays[1:]
    out = run(mechanism, *on_device(*arrays), module=kernel, causal=causal, **typed)
    exact = run(mechanism, *arrays, causal=causal, **plain)  # by the reference: it is fast
    np.testing.assert_allclose(out.cpu().numpy(), exact, atol=1e-5)
    costs = [kernel.cost(1, 2, 150, 150, 8, causal=causal, **x) for x in (typed, plain)]
    assert costs[0] == costs[1]


@having("kernel")
def test_a_kernels_knob_may_be_as_large_as_integers_get(mechanism):
    kernel = kernel_of(mechanism)
    q, k, v = random_qkv(6, width=8)
    for _, knobs in without_limit(mechanism):
        out = run(mechanism, *on_device(q, k, v), module=kernel, **knobs).cpu().numpy()
        np.testing.assert_allclose(out, run(mechanism, q, k, v, **knobs), atol=1e-5)


@having()
def test_no_heads_and_no_batch_give_empty_outputs(mechanism):
    for batch, heads in ((0, 2), (2, 0)):
        q, k, v = random_qkv(6, batch=batch, heads=heads, width=8, value_width=3)
        assert run(mechanism, q, k, v, **mechanism.values).shape == (batch, heads, 6, 3)


@having()
def test_causal_means_that_the_future_changes_nothing(mechanism):
    q, k, v = random_qkv(50, width=8, dtype=np.float64)
    knobs = mechanism.values | {"causal": True}
    if not mechanism.causal:
        with pytest.raises(ValueError, match=rf"{mechanism.stem}\.attention: .*causal"):
            run(mechanism, q, k, v, **knobs)
        return
    before = run(mechanism, q, k, v, **knobs)
    if mechanism.online:
        k[..., 30:, :] += 1
    v[..., 30:, :] -= 1
    after = run(mechanism, q, k, v, **knobs)
    np.testing.assert_array_equal(before[..., :30, :], after[..., :30, :])
    assert not np.allclose(before[..., 30:, :], after[..., 30:, :])


@having("step")
@pytest.mark.parametrize("tokens", [(1,) * 21, (10, 1, 7, 3), (21,)], ids=str)
def test_steps_equal_causal_attention(mechanism, tokens):
    q, k, v = random_qkv(21, heads=2, width=8, value_width=5, dtype=np.float64)
    module, knobs = mechanism.reference, mechanism.values
    state = start(mechanism, k, v)
    outs = []
    for end in itertools.accumulate(tokens):
        new = slice(sum(out.shape[-2] for out in outs), end)
        out, state = module.step(state, q[..., new, :], k[..., new, :], v[..., new, :])
        outs.append(out)
    whole = run(mechanism, q, k, v, causal=True, **knobs)
    np.testing.assert_allclose(np.concatenate(outs, axis=-2), whole, atol=1e-12)


@having("step")
@pytest.mark.parametrize("twin", [False, True], ids=["reference", "kernel"])
def test_a_step_refuses_more_queries_than_keys(mechanism, twin):
    module, (q, k, v) = mechanism.reference, random_qkv(5, 3, width=16)
    if twin:
        if "kernel" not in mechanism.has or not hasattr(kernel_of(mechanism), "step"):
            pytest.skip("its twin has no step")
        module, (q, k, v) = kernel_of(mechanism), on_device(q, k, v)
    state = start(mechanism, k, v, module=module)
    message = rf"{mechanism.stem}\.step: q .*must have .* tokens.*, got 5 and 3"
    with pytest.raises(ValueError, match=message):
        module.step(state, q, k, v)
    fresh = start(mechanism, k, v, module=module)
    outs = [module.step(one, q[..., :3, :], k, v)[0] for one in (state, fresh)]
    assert (outs[0] == outs[1]).all()  # the state is as it was


# Costs


@having()
@pytest.mark.parametrize("sizes", COUNTED_SIZES, ids=str)
def test_cost_predicts_the_flops_exactly(mechanism, sizes):
    sizes_for(mechanism, sizes)
    for knobs in settings(mechanism, sizes=(sizes, COUNTED_SIZES)):
        q, k, v = random_qkv(*sizes, batch=2, heads=3, width=16)
        keywords = mechanism.keywords(*sizes, 16, 16, q.dtype, **knobs)
        counted = measure.count_flops(mechanism.reference.attention, q, k, v, **keywords)
        cost = mechanism.reference.cost(2, 3, *sizes, 16, **knobs)
        assert isinstance(cost, Cost)
        assert all(type(number) is int for number in vars(cost).values())
        assert cost.flops == counted, knobs


def not_too_long(mechanism, n, peak_bytes):
    if mechanism.longest is not None and n > mechanism.longest:
        pytest.skip("would take minutes")
    if peak_bytes > 256 * 2**20:
        pytest.skip(f"would take {peak_bytes / 2**20:.0f} MiB")


@having()
@pytest.mark.parametrize("n", by_day([1024], [1024, 4096, 16384]))
def test_cost_predicts_the_flops_of_long_sequences_exactly(mechanism, n):
    """With one narrow head, causal where it can be: the width counts in the test above."""
    knobs = mechanism.values | {"causal": mechanism.causal}
    cost = mechanism.reference.cost(1, 1, n, n, 4, **knobs)
    not_too_long(mechanism, n, cost.peak_bytes)
    q, k, v = random_qkv(n, width=4)
    keywords = mechanism.keywords(n, n, 4, 4, q.dtype, **knobs)
    assert cost.flops == measure.count_flops(mechanism.reference.attention, q, k, v, **keywords)


@having()
@pytest.mark.parametrize(
    ("n", "dtype", "heads", "causal"), PEAKS, ids=lambda value: getattr(value, "__name__", value)
)
def test_cost_predicts_the_peak_within_a_tenth(mechanism, n, dtype, heads, causal):
    knobs = mechanism.values | {"causal": causal and mechanism.causal}
    predicted = mechanism.reference.cost(
        1, heads, n, n, 64, dtype_bytes=np.dtype(dtype).itemsize, **knobs
    ).peak_bytes
    not_too_long(mechanism, n, predicted)
    q, k, v = random_qkv(n, heads=heads, dtype=dtype)
    keywords = mechanism.keywords(n, n, 64, 64, q.dtype, **knobs)
    peak = measure.peak_bytes(mechanism.reference.attention, q, k, v, **keywords)
    assert abs(peak / predicted - 1) <= 0.1, (peak, predicted, knobs)


# Errors


def raises(error, mechanism, arrays, *words, module=None, **knobs):
    with pytest.raises(error) as caught:
        if mechanism.arguments and not knobs:
            make, like = mechanism.keywords, np.float32
            if module is not None:
                make, like = mechanism.tensors, arrays[0]
            keywords = make(6, 6, 8, 8, like, **mechanism.values)
        else:
            keywords = mechanism.values | knobs
        (module or mechanism.reference).attention(*arrays, **keywords)
    message = str(caught.value)
    assert message.startswith(f"{mechanism.stem}.attention: "), message
    for word in words:
        assert word in message, message


@having()
def test_errors_name_mechanism_argument_expectation_and_what_came(mechanism):
    q, k, v = random_qkv(6, width=8)
    wide, _, _ = random_qkv(6, width=9)
    _, short, _ = random_qkv(5, width=8)
    whole = np.ones((1, 1, 6, 8), dtype=np.int64)
    two = np.concatenate([k, k])
    raises(ValueError, mechanism, (wide, k, v), "q and k", "width", "9", "8")
    raises(ValueError, mechanism, (q, short, v), "k and v", "number of keys", "5", "6")
    raises(ValueError, mechanism, (q, two, v), "leading axes")
    raises(ValueError, mechanism, (q, k.astype(np.float64), v), "dtype", "float64")
    raises(ValueError, mechanism, (q[0, 0, 0], k, v), "q", "at least 2 axes", "(8,)")
    raises(TypeError, mechanism, (whole, whole, whole), "q", "floating", "int64")
    raises(TypeError, mechanism, (q.tolist(), k, v), "q", "array", "list")
    raises(TypeError, mechanism, (q, k, None), "v", "array", "NoneType")
    raises(TypeError, mechanism, (q > 0, k > 0, v > 0), "q", "floating", "bool")
    raises(TypeError, mechanism, (q.astype(complex), k, v), "q", "floating", "complex")
    raises(ValueError, mechanism, (q, k[0, 0, 0], v), "k", "at least 2 axes", "(8,)")
    raises(ValueError, mechanism, (q, k, v[0, 0, 0]), "v", "at least 2 axes", "(8,)")
    raises(ValueError, mechanism, (q[0], k, v), "leading axes", "(1, 6, 8)", "(1, 1, 6, 8)")
    raises(ValueError, mechanism, (q[..., :0], k[..., :0], v), "width D", "at least 1")


@having()
def test_errors_of_knobs(mechanism):
    arrays = random_qkv(6, width=8)
    for knob in mechanism.knobs if mechanism.arguments is None else ():
        low = {knob.name: knob.low - 1}
        raises(ValueError, mechanism, arrays, knob.name, str(knob.low), str(knob.low - 1), **low)
        for wrong in (2.5, "3", None, True):
            raises(
                TypeError,
                mechanism,
                arrays,
                knob.name,
                "integer",
                repr(wrong),
                **{knob.name: wrong},
            )


@having("mask")
def test_mask_and_cost_refuse_the_same_knobs(mechanism):
    for knob in mechanism.knobs:
        wrong = mechanism.values | {knob.name: knob.low - 1}
        with pytest.raises(ValueError, match=f"{mechanism.stem}.mask: {knob.name}"):
            mechanism.reference.mask(4, 4, **wrong)
        with pytest.raises(ValueError, match=f"{mechanism.stem}.cost: {knob.name}"):
            mechanism.reference.cost(1, 1, 4, 4, 8, **wrong)


WRONG_FLAGS = ("no", 1, 0, None, np.ones(1, dtype=bool), 1.0)
WRONG_SCALES = {
    TypeError: ("1", True, [1], np.ones(1), 1j),
    ValueError: (np.nan, np.inf, -np.inf, np.float32("inf"), 10**400),
}


def refuses(error, where, name, call, **knobs):
    with pytest.raises(error) as caught:
        call(**knobs)
    assert str(caught.value).startswith(f"{where}: {name} must be "), str(caught.value)


def wrong_arguments(mechanism, module, arrays, keywords):
    """Ask `attention`, `mask` and `cost` of a module for what no mechanism can mean."""
    stem, values = mechanism.stem, mechanism.values
    calls = {"attention": functools.partial(module.attention, *arrays, **keywords)}
    calls["cost"] = functools.partial(module.cost, 1, 1, 6, 6, 8, **values)
    if hasattr(module, "mask") and "mask" in mechanism.has:
        calls["mask"] = functools.partial(module.mask, 6, 6, **values)
    for function, call in calls.items():
        for wrong in WRONG_FLAGS:
            refuses(TypeError, f"{stem}.{function}", "causal", call, causal=wrong)
        for knob in mechanism.knobs if function != "attention" or not mechanism.arguments else ():
            for number in (2**63, 2**64, 10**30, np.uint64(2**63)):
                refuses(ValueError, f"{stem}.{function}", knob.name, call, **{knob.name: number})
    if "scale" in inspect.signature(module.attention).parameters:
        for error, scales in WRONG_SCALES.items():
            for scale in scales:
                refuses(error, f"{stem}.attention", "scale", calls["attention"], scale=scale)


@having()
def test_flags_scales_and_huge_knobs_are_checked(mechanism):
    arrays = random_qkv(6, width=8)
    keywords = mechanism.keywords(6, 6, 8, 8, np.float32, **mechanism.values)
    wrong_arguments(mechanism, mechanism.reference, arrays, keywords)
    step = getattr(mechanism.reference, "step", None)
    if step is not None and "scale" in inspect.signature(step).parameters:
        call = functools.partial(step, start(mechanism, *arrays[1:]), *arrays)
        refuses(ValueError, f"{mechanism.stem}.step", "scale", call, scale=np.nan)


@having("kernel")
def test_kernels_check_flags_scales_and_huge_knobs(mechanism):
    kernel = kernel_of(mechanism)
    tensors = on_device(*random_qkv(6, width=8))
    keywords = mechanism.tensors(6, 6, 8, 8, tensors[0], **mechanism.values)
    wrong_arguments(mechanism, kernel, tensors, keywords)


@having()
def test_numbers_of_numpy_are_flags_and_scales(mechanism):
    q, k, v = random_qkv(6, width=8)
    keywords = mechanism.keywords(6, 6, 8, 8, np.float32, **mechanism.values)
    attention = functools.partial(mechanism.reference.attention, q, k, v, **keywords)
    causal = mechanism.causal
    np.testing.assert_array_equal(attention(causal=causal), attention(causal=np.bool_(causal)))
    if "scale" in inspect.signature(mechanism.reference.attention).parameters:
        for scale in (np.float64(0.5), np.float16(0.5), np.array(0.5)):
            out = attention(scale=scale)
            assert out.dtype == np.float32
            np.testing.assert_array_equal(out, attention(scale=0.5))


def test_no_caller_drops_what_a_check_returns():
    """The number that a check returns is a plain int; the one that it was given may overflow."""
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    returning = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        and node.name.lstrip("_").startswith("check_")
        and node.returns is not None
        and ast.unparse(node.returns) != "None"
    }
    assert {"check_count", "check_flag", "check_scale"} <= returning
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).split(".")[-1]
            assert called not in returning, ast.unparse(node)


# Triton twins, in the interpreter where there is no GPU


def on_device(*arrays, grad=False):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [torch.from_numpy(a.copy()).to(device).requires_grad_(grad) for a in arrays]


@having("kernel")
@pytest.mark.parametrize("sizes", KERNEL_SIZES, ids=str)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=["float32", "float16"])
def test_kernel_equals_the_reference(mechanism, sizes, dtype):
    kernel = kernel_of(mechanism)
    heads = by_day(1 + (sizes[0] < N_LONG // 2), 2)  # of several tiles of queries, one
    q, k, v = random_qkv(*sizes, heads=heads, width=24, value_width=20, dtype=dtype)
    others = {"sizes": (sizes, KERNEL_SIZES), "dtype": (dtype, KERNEL_DTYPES)}
    for knobs in settings(mechanism, **others):
        wide = [a.astype(np.float64) for a in (q, k, v)]
        exact = run(mechanism, *wide, **knobs)
        single = run(mechanism, *(a.astype(np.float32) for a in wide), **knobs)
        out = run(mechanism, *on_device(q, k, v), module=kernel, **knobs).cpu().numpy()
        assert out.shape == exact.shape and out.dtype == dtype
        # float32 work loses about sqrt(D) roundings even where NumPy happens to lose fewer
        work_error = np.abs(single - exact).max() + 4 * np.finfo(np.float32).eps
        if dtype == np.float16:
            work_error += np.finfo(np.float16).eps  # the weights are rounded for the second product
        assert np.abs(out - exact).max() <= oracles.tolerance(exact, dtype, work_error), knobs


@having("kernel", "backward")
@pytest.mark.parametrize("sizes", GRADIENT_SIZES, ids=str)
def test_kernel_gradients_equal_those_of_the_definition(mechanism, sizes):
    import torch

    kernel = kernel_of(mechanism)
    heads = by_day(1 + (mechanism.square or sizes == (5, 40)), 2)
    q, k, v = random_qkv(*sizes, heads=heads, width=16, value_width=12)
    for knobs in settings(mechanism, sizes=(sizes, GRADIENT_SIZES)):
        twin = on_device(q, k, v, grad=True)
        grad = torch.randn(1, heads, sizes[0], 12, generator=torch.Generator().manual_seed(0))
        run(mechanism, *twin, module=kernel, **knobs).backward(grad.to(twin[0].device))
        exact = definition_gradients(mechanism, grad.numpy(), q, k, v, **knobs)
        for mine, expected in zip(twin, exact, strict=True):
            allowed = oracles.tolerance(expected, np.float32, 16 * np.finfo(np.float32).eps)
            assert np.abs(mine.grad.cpu().numpy() - expected).max() <= allowed, knobs


def definition_gradients(mechanism, *arrays, **knobs):
    """dq, dk and dv in float64: by the reference if it has them, else by autograd."""
    import torch

    grad_out, q, k, v = (array.astype(np.float64) for array in arrays)
    if hasattr(mechanism.reference, "backward"):
        return mechanism.reference.backward(grad_out, q, k, v, **knobs)
    sizes = q.shape[-2], k.shape[-2]
    causal = knobs.pop("causal")
    knobs = mechanism.keywords(*sizes, q.shape[-1], v.shape[-1], q.dtype, **knobs)
    masks = mechanism.reference if hasattr(mechanism.reference, "mask") else full
    mask = torch.from_numpy(masks.mask(*sizes, **knobs, causal=causal))
    exact = [torch.from_numpy(array).requires_grad_() for array in (q, k, v)]
    scores = exact[0] @ exact[1].mT / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    (weights @ exact[2]).backward(torch.from_numpy(grad_out))
    return [tensor.grad.nan_to_num().numpy() for tensor in exact]


@having("kernel")
def test_kernel_errors_are_those_of_the_reference(mechanism):
    kernel = kernel_of(mechanism)
    q, k, v = on_device(*random_qkv(6, width=8))
    (wide,) = on_device(random_qkv(6, width=9)[0])
    raises(ValueError, mechanism, (wide, k, v), "q and k", "width", module=kernel)
    raises(TypeError, mechanism, (q.long(), k.long(), v.long()), "floating", module=kernel)
    for knob in mechanism.knobs if mechanism.arguments is None else ():
        low = {knob.name: knob.low - 1}
        raises(ValueError, mechanism, (q, k, v), knob.name, str(knob.low), module=kernel, **low)
        wrong = {knob.name: 2.5}
        raises(TypeError, mechanism, (q, k, v), knob.name, "integer", module=kernel, **wrong)


@having("kernel")
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN slice")
@pytest.mark.parametrize("sizes", [(1, 1), (9, 9), (3, 20), (20, 3)], ids=str)
def test_kernel_passes_infinity_as_the_reference_does(mechanism, sizes):
    kernel = kernel_of(mechanism)
    sizes_for(mechanism, sizes)
    ends = ends_of_causal(mechanism)
    both = itertools.product((np.inf, -np.inf), ends)
    for number, causal in by_day([(np.inf, ends[0]), (-np.inf, ends[-1])], both):
        q, k, v = random_qkv(*sizes, width=8, seed=int(number < 0))
        q[..., 0, 2] = number
        knobs = mechanism.values | {"causal": causal}
        out = run(mechanism, *on_device(q, k, v), module=kernel, **knobs).cpu().numpy()
        np.testing.assert_allclose(out, run(mechanism, q, k, v, **knobs), atol=1e-4)


@having("kernel")
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN slice")
def test_kernel_spoils_the_rows_that_attend_and_no_others(mechanism):
    kernel = kernel_of(mechanism)

    def call(*arrays):
        return run(mechanism, *on_device(*arrays), module=kernel, **knobs).cpu().numpy()

    long = (290, (140, 288))  # as a cache that is shared out among programs
    for n_keys, keys in by_day([(40, (15,))], [(40, (15, 39)), long]):
        for causal in by_day(ends_of_causal(mechanism)[-1:], ends_of_causal(mechanism)):
            knobs = mechanism.values | {"causal": causal}
            spoil_and_compare(mechanism, call, random_qkv(n_keys, width=16), keys)


@having("kernel")
def test_kernel_has_the_gradients_that_it_says(mechanism):
    kernel = kernel_of(mechanism)
    arrays = on_device(*random_qkv(4, heads=2, width=16), grad=True)
    none = "Gradients: none." in inspect.getdoc(kernel.attention)
    try:
        out = run(mechanism, *arrays, module=kernel, **mechanism.values)
    except ValueError as error:
        assert none and "must not require grad" in str(error)
    else:
        assert out.requires_grad and not none


@having("kernel")
def test_kernel_traffic_is_what_its_cost_says(mechanism):
    kernel = kernel_of(mechanism)
    from attncourse import trace

    for knobs in settings_of_twins(mechanism):
        heads = by_day(1, 2)
        arrays = on_device(*random_qkv(N_LONG, heads=heads, width=16))
        if arrays[0].is_cuda:
            pytest.skip("traffic is counted in the interpreter")
        traced = trace.record(run, mechanism, *arrays, module=kernel, **knobs)
        assert not traced.out_of_bounds
        cost = kernel.cost(1, heads, N_LONG, N_LONG, 16, **knobs)
        expected = cost.bytes_read, cost.bytes_written
        if hasattr(kernel, "torch_cost"):  # what torch does is in the cost, but not in the trace
            apart = kernel.torch_cost(1, heads, N_LONG, N_LONG, 16, **knobs)
            expected = cost.bytes_read - apart.bytes_read, cost.bytes_written - apart.bytes_written
        assert (traced.bytes_loaded(), traced.bytes_stored()) == expected, knobs


EVERY_TWIN = """
import torch
from attncourse import MECHANISMS
from attncourse.inputs import random_qkv

for mechanism in MECHANISMS.values():
    if "kernel" in mechanism.has:
        n = 64 if mechanism.square else 37
        tensors = [torch.from_numpy(array).cuda() for array in random_qkv(n, 64, width=24)]
        knobs = mechanism.tensors(n, 64, 24, 24, tensors[0], **mechanism.values)
        mechanism.kernel.attention(*tensors, **knobs)
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.skipif(not shutil.which("compute-sanitizer"), reason="comes with the CUDA toolkit")
def test_compute_sanitizer_finds_no_wrong_access():
    command = ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-c", EVERY_TWIN]
    own_room = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or tensors lie side by side in one block
    done = subprocess.run(command, env=os.environ | own_room, capture_output=True, text=True)
    if "ERROR SUMMARY" not in done.stdout:
        pytest.skip(f"compute-sanitizer does not run here: {done.stdout[-200:]}")
    assert done.returncode == 0, done.stdout[-3000:]


# Gradients of the references that have them


@having()
def test_reference_backward_against_finite_differences(mechanism):
    if not hasattr(mechanism.reference, "backward"):
        pytest.skip("the reference has no backward pass")
    q, k, v = random_qkv(5, 7, width=3, value_width=4, dtype=np.float64)
    grad_out = random_qkv(5, width=4, seed=1, dtype=np.float64)[0]
    for knobs in settings(mechanism):
        gradients = mechanism.reference.backward(grad_out, q, k, v, **knobs)

        def loss(knobs=knobs):
            return float((mechanism.reference.attention(q, k, v, **knobs) * grad_out).sum())

        for array, gradient in zip((q, k, v), gradients, strict=True):
            numeric = oracles.finite_differences(loss, array)
            np.testing.assert_allclose(gradient, numeric, atol=1e-7)
