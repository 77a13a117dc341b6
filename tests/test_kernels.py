"""The Triton kernels: in the interpreter where there is no GPU, on the GPU where there is one."""

import functools
import gc
import itertools
import mmap
import os
import re
import subprocess
import sys

import covering
import numpy as np
import oracles
import pytest
import registers

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import (
    INTERPRETED,
    bigbird,
    flash,
    full,
    linear,
    lsh,
    performer,
    random_keys,
    sparse_transformer,
    strided,
    t5,
    window,
)
from attncourse.kernels._parts import plan, tiles

import torch  # isort: skip
from twins import (
    DEVICE,
    close,
    definition,
    each_dtype,
    each_layout,
    far_apart,
    gradients,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def window_mask(Tq, Tk, window, dilation=1, causal=False):
    visible = oracles.window_visible(Tq, Tk, window, dilation, causal)
    return torch.from_numpy(oracles.mask_of(visible, Tq, Tk)).to(DEVICE)


# (Tq, Tk, D, Dv, window, dilation, causal)
WINDOWS = [
    (1, 1, 16, 16, 0, 1, False),
    (63, 63, 20, 33, 5, 1, True),
    (100, 100, 64, 64, 40, 1, False),
    (128, 128, 16, 16, 200, 1, False),  # wider than the sequence
    (128, 128, 16, 16, 62, 1, False),  # one key short of a tile without mask
    (128, 128, 16, 16, 0, 1, True),  # itself only
    (63, 100, 16, 16, 7, 1, False),
    (100, 63, 16, 16, 7, 1, True),  # the first queries see nothing
    (100, 100, 16, 16, 9, 3, False),
    (37, 100, 16, 8, 4, 7, True),
    (100, 37, 16, 16, 4, 3, False),
    (3, 7, 16, 16, 1, 20, False),  # each residue class holds one token at most
    (1, 128, 100, 16, 50, 1, True),
    (40, 40, 160, 256, 6, 1, False),
    (5, 0, 16, 16, 3, 2, False),
    (0, 5, 16, 16, 3, 2, False),
]


@each_dtype(WINDOWS)
def test_window_and_its_gradients_against_float64(case, dtype):
    check_values_and_gradients(case, dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_the_passes_have_tiles_of_their_own(causal):
    assert window.tile_sizes(128, 2)[:2] == (64, 32)
    assert window.tile_sizes(128, 2, backward=True)[:2] == (64, 64)
    check_values_and_gradients((100, 130, 128, 80, 30, 2, causal), torch.float16)
    if INTERPRETED:
        inputs, knobs = tensors(100, 130, 128, dtype=torch.float16), {"window": 30, "dilation": 2}
        traced = trace.record(window.attention, *inputs, **knobs, causal=causal)
        cost = window.cost(1, 1, 100, 130, 128, **knobs, causal=causal, dtype_bytes=2)
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
        with trace.recording() as traced:
            inputs = [tensor.requires_grad_() for tensor in inputs]
            window.attention(*inputs, **knobs, causal=causal).sum().backward()
        grids = {launch.kernel: launch.grid[0] for launch in traced.launches}
        assert grids["window_dkdv"] == 2  # 65 keys of a class, 64 of a tile


def check_values_and_gradients(case, dtype):
    Tq, Tk, D, Dv, w, dilation, causal = case
    mine = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype, grad=True)
    out = window.attention(*mine, window=w, dilation=dilation, causal=causal)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    mask = window_mask(Tq, Tk, w, dilation, causal)
    exact = [tensor.detach().double().requires_grad_() for tensor in mine]
    result = definition(*exact, mask)
    result.backward(grad_out.double())
    single = [tensor.detach().float() for tensor in mine]
    close(out.detach(), dtype, result.detach(), definition(*single, mask))
    lost = gradients(*single, mask, grad_out.float())
    for tensor, twin, work in zip(mine, exact, lost, strict=True):
        close(tensor.grad, dtype, twin.grad.nan_to_num(), work)


def test_the_loops_visit_the_tiles_that_are_seen_and_no_others():
    BLOCK, size = 4, 11
    tiles = [range(first, min(first + BLOCK, size)) for first in range(0, size, BLOCK)]
    for start, n_rows, *reach in itertools.product(range(-9, size), (1, 2, 4), *[range(10)] * 2):
        stop = min(start + n_rows, size)  # the last query sits at the last key
        seen = [
            [row - reach[0] <= key <= row + reach[1] for row in range(start, stop) for key in tile]
            for tile in tiles
        ]
        first_tile, last_tile = window._tile_range.fn(start, stop, *reach, size, BLOCK)
        assert [any(pairs) for pairs in seen] == [first_tile <= t < last_tile for t in range(3)]
        first, last = window._whole_range.fn(last_tile, start, stop, *reach, size, BLOCK)
        whole = [all(pairs) and len(t) == BLOCK for pairs, t in zip(seen, tiles, strict=True)]
        assert whole == [first <= t < last for t in range(3)]


def test_window_gradients_against_finite_differences():
    q, k, v = (t[0].cpu().double().numpy() for t in tensors(4, 6, 3, 5, heads=1))
    twins = [torch.tensor(a[None], dtype=torch.float32, device=DEVICE) for a in (q, k, v)]
    for twin in twins:
        twin.requires_grad_()
    knobs = {"window": 1, "dilation": 2}
    grad_out = np.random.default_rng(2).standard_normal((1, 4, 5))
    out = window.attention(*twins, **knobs, causal=False)
    out.backward(torch.tensor(grad_out[None], dtype=torch.float32, device=DEVICE))
    visible = oracles.window_visible(4, 6, **knobs)

    def loss():
        return (oracles.attention(q, k, v, visible) * grad_out).sum()

    for array, twin in zip((q, k, v), twins, strict=True):
        expected = oracles.finite_differences(loss, array)
        np.testing.assert_allclose(twin.grad[0].cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_rows_without_keys_give_zeros_and_zero_gradients():
    mine = tensors(90, 10, 16, grad=True)
    out = window.attention(*mine, window=2, causal=True)
    out.sum().backward()
    assert not out[..., :80, :].any() and out[..., 80:, :].all()
    assert not mine[0].grad[..., :80, :].any()
    assert all(tensor.grad.isfinite().all() for tensor in mine)
    mine = tensors(10, 90, 16, grad=True)  # and keys that no query sees
    window.attention(*mine, window=2, causal=True).sum().backward()
    assert not mine[1].grad[..., :78, :].any() and not mine[2].grad[..., :78, :].any()


def test_a_window_as_wide_as_the_sequence_is_full_attention():
    q, k, v = tensors(70, 100, 16)
    for causal in (False, True):
        whole = full.attention(q, k, v, causal=causal)
        # one computes eˢ, the other 2^(s·log2 e)
        torch.testing.assert_close(window.attention(q, k, v, window=100, causal=causal), whole)


def test_dilated_attention_is_window_attention_of_each_residue_class():
    q, k, v = tensors(100, 100, 16)
    out = window.attention(q, k, v, window=5, dilation=3)
    for first in range(3):
        part = window.attention(*(t[:, :, first::3] for t in (q, k, v)), window=5)
        assert torch.equal(out[:, :, first::3], part)


def test_a_huge_window_or_dilation_is_no_overflow():
    q, k, v = tensors(20, 20, 16)
    whole = window.attention(q, k, v, window=20)
    assert torch.equal(window.attention(q, k, v, window=2**40), whole)
    assert torch.equal(window.attention(q, k, v, window=3, dilation=2**40), v)


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(20, 40, 20, 24, heads=2, batch=2, grad=True)
    views = [with_nan_margins(tensor, layout).requires_grad_() for tensor in whole]
    grad_out = torch.ones(()).to(DEVICE).expand(2, 2, 20, 24)  # stride 0 everywhere
    results = []
    for inputs in (whole, views):
        out = window.attention(*inputs, window=9, dilation=2, causal=True)
        results.append([out, *torch.autograd.grad(out, inputs, grad_out)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        assert torch.equal(full.attention(*whole), full.attention(*views))


def test_two_runs_give_the_same_bits():
    def run():
        mine = tensors(100, 100, 16, dtype=torch.float16, grad=True)
        out = window.attention(*mine, window=20)
        return [out, *torch.autograd.grad(out.float().square().sum(), mine)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_large_scores_do_not_overflow():
    q, k, v = tensors(40, 40, 16, grad=True)
    out = window.attention(q, k, v, window=4, scale=1e4)
    out.sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in (q, k, v))
    exact = definition(q.double(), k.double(), v.double(), window_mask(40, 40, 4), scale=1e4)
    assert (out - exact).abs().max() <= 1e-2  # scores of 1e5 carry roundings of 4e-3


def test_a_second_derivative_is_refused():
    mine = tensors(8, 8, 16, grad=True)
    out = window.attention(*mine, window=2)
    (grad,) = torch.autograd.grad(out.square().sum(), mine[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@each_dtype([(1, 1, 16, 16), (63, 100, 20, 33), (100, 63, 64, 16), (128, 40, 16, 100)])
def test_full_against_float64(case, dtype):
    Tq, Tk, D, Dv = case
    q, k, v = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    positions = torch.arange(Tq, device=DEVICE)[:, None] + Tk - Tq
    past = torch.arange(Tk, device=DEVICE) <= positions
    mask = torch.rand(Tq, Tk, generator=torch.Generator().manual_seed(3)).to(DEVICE) < 0.5
    bias = torch.randn(1, 1, 1, Tk, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    for mask_, bias_, causal in [(None, None, True), (mask, bias, False), (mask, bias[0], True)]:
        visible = torch.ones_like(past) if mask_ is None else mask_
        visible = visible & past if causal else visible
        added = 0.0 if bias_ is None else bias_
        exact, single = (
            definition(q.to(d), k.to(d), v.to(d), visible, bias=added)
            for d in (torch.float64, torch.float32)
        )
        out = full.attention(q, k, v, mask=mask_, bias=bias_, causal=causal)
        close(out, dtype, exact.nan_to_num(), single.nan_to_num())


@pytest.mark.parametrize("name", ["mask", "bias"])
def test_a_transposed_mask_or_bias_wider_than_32_bits(name):
    """Its columns are 2²⁵ numbers apart, so that those of the last keys lie past 2³¹."""
    dtype = torch.bool if name == "mask" else torch.float16
    first = 2**31 if INTERPRETED else 0  # what wraps lands on zeros, not outside
    n_bytes = (first + 66 * 2**25) * dtype.itemsize
    if INTERPRETED:  # pages that nobody touches take no memory
        no_reserve = 0x4000  # MAP_NORESERVE, which Python 3.11 does not name
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        room = torch.frombuffer(mmap.mmap(-1, n_bytes, flags=flags), dtype=dtype)
    else:
        room = torch.empty(n_bytes // dtype.itemsize, dtype=dtype, device=DEVICE)
    given = room.as_strided((20, 66), (1, 2**25), first)
    near = (torch.randn(20, 66, generator=torch.Generator().manual_seed(5)) * 4).to(DEVICE)
    near = near > 0 if name == "mask" else near.half()
    given.copy_(near)
    inputs = tensors(20, 66, 16)
    assert torch.equal(
        full.attention(*inputs, **{name: given}), full.attention(*inputs, **{name: near})
    )


def test_full_gives_what_underflows_no_weight():
    k, v = (torch.tensor(x, device=DEVICE).view(1, 1, 2, 1) for x in ([0.0, -300.0], [1.0, 3e38]))
    q = torch.ones(1, 1, 2, 1, device=DEVICE)
    for more in ({}, {"causal": True}, {"mask": torch.ones(2, 2, dtype=bool, device=DEVICE)}):
        assert full.attention(q, k, v, **more).flatten().tolist() == [1.0, 1.0], more


@pytest.mark.filterwarnings("ignore:invalid value")
def test_full_takes_an_infinite_score_for_no_hidden_key():
    q, k, v = tensors(5, 5, 8)
    k[..., 1, :] = torch.inf
    out = full.attention(q.abs(), k, v, causal=True)
    assert out.isnan().any(-1).flatten().tolist() == [False, True, True, True, True]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("hides", ["causal", "mask", "nothing"])
@pytest.mark.parametrize("how", ["bias", "key", "overflow"])
def test_full_tells_a_hidden_key_from_one_of_no_weight(how, hides):
    q, k, v = tensors(5, 5, 8)
    q, more = q.abs(), {}
    v[..., 1, 3] = torch.nan
    if how == "bias":
        more["bias"] = torch.zeros(5, 5, device=DEVICE)
        more["bias"][:, 1] = -torch.inf
    else:
        k[..., 1, :] = -torch.inf if how == "key" else -3e38
        q *= 1 if how == "key" else 1e20
    if hides == "mask":
        more["mask"] = torch.ones(5, 5, dtype=bool, device=DEVICE)
        more["mask"][0, 1] = False
    spoilt = full.attention(q, k, v, causal=hides == "causal", **more).isnan().any(-1)
    assert spoilt.flatten().tolist() == [hides == "nothing", True, True, True, True]


def test_full_without_tokens():
    assert full.attention(*tensors(0, 5, 16)).shape == (1, 1, 0, 16)
    assert not full.attention(*tensors(5, 0, 16)).any()


# What cannot run is refused before anything is written


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    near = functools.partial(window.attention, window=2)
    yield TypeError, "q must be a torch tensor, got ndarray", near, (q.cpu().numpy(), k, v), {}
    yield ValueError, r"k must have 4 axes .* shape \(6, 16\)", near, (q, k[0, 0], v), {}
    yield ValueError, "same number of keys", near, (q, k, v[:, :, 1:]), {}
    yield ValueError, "one dtype", near, (q, k.half(), v), {}
    yield (
        TypeError,
        "float32, float16 or bfloat16, got torch.float64",
        near,
        (
            q.double(),
            k.double(),
            v.double(),
        ),
        {},
    )
    yield ValueError, "one device", near, (q, k.to("meta"), v), {}
    yield ValueError, "D must be between 1 and 256, got 257", near, tensors(2, 2, 257, 16), {}
    yield ValueError, "Dv must be between 1 and 256, got 300", near, tensors(2, 2, 16, 300), {}
    yield ValueError, "window must be at least 0, got -3", near, (q, k, v), {"window": -3}
    yield TypeError, "window must be an integer, got float 2.5", near, (q, k, v), {"window": 2.5}
    yield ValueError, "dilation must be at least 1, got 0", near, (q, k, v), {"dilation": 0}
    long = [t[:, :1, :1].expand(1, 1, 70_000, 16) for t in (q, k, v)]
    many = "heads × dilation must be at most 65535, got 70000"  # even of one head
    yield ValueError, many, near, long, {"dilation": 70_000}
    whole = full.attention
    long = [t[:, :, :1].expand(1, 1, 2**20 + 1, 16) for t in (q, k, v)]
    yield ValueError, "at most 1048576 keys, .* got 1048577; flash", whole, (q, *long[1:]), {}
    yield ValueError, "must not require grad", whole, (q.clone().requires_grad_(), k, v), {}
    learned = torch.ones(6, 6, device=DEVICE, requires_grad=True)
    yield ValueError, "must not require grad", whole, (q, k, v), {"bias": learned}
    yield TypeError, "mask must be boolean", whole, (q, k, v), {"mask": torch.ones(6, 6)}
    yield TypeError, "bias must be a torch tensor, got float", whole, (q, k, v), {"bias": 1.0}
    yield (
        ValueError,
        r"mask must broadcast to \(1, 1, 6, 6\), got \(5, 6\)",
        whole,
        (q, k, v),
        {"mask": torch.ones(5, 6, dtype=torch.bool, device=DEVICE)},
    )


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, function, args, kwargs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^(window|full)\.attention: .*" + words):
        function(*args, **kwargs)


@pytest.mark.skipif(not INTERPRETED, reason="about the interpreter")
def test_a_launch_replaces_the_language_once_and_puts_it_back(monkeypatch):
    import triton.language as tl
    from triton.runtime import interpreter

    replaced, original = [], interpreter._patch_lang_core
    monkeypatch.setattr(
        interpreter,
        "_patch_lang_core",
        lambda lang, scope: (replaced.append(lang), original(lang, scope)),
    )
    window.attention(*tensors(1, 1, 16), window=3)  # what the first launch of all leaves behind
    replaced.clear()
    untouched = dict(vars(tl)), dict(vars(tl.tensor))
    for launches in (1, 2):
        window.attention(*tensors(40, 40, 16), window=3)
        assert replaced.count(tl) == launches
        assert (dict(vars(tl)), dict(vars(tl.tensor))) == untouched


@pytest.mark.skipif(not INTERPRETED, reason="about the interpreter")
def test_a_launch_interrupted_while_it_replaces_the_language_spoils_none_after_it(monkeypatch):
    from triton.runtime import interpreter

    def interrupted(scope):
        raise KeyboardInterrupt

    inputs = tensors(40, 40, 16)
    wanted = window.attention(*inputs, window=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(interpreter, "_patch_reduce_scan", interrupted)
        window.attention(*inputs, window=3)
    for _ in range(2):
        assert torch.equal(window.attention(*inputs, window=3), wanted)


@pytest.mark.skipif(not INTERPRETED, reason="about the interpreter")
def test_bfloat16_is_refused_in_the_interpreter():
    with pytest.raises(ValueError, match="bfloat16, which the interpreter computes wrongly"):
        window.attention(*tensors(4, 4, 16, dtype=torch.bfloat16), window=1)


def test_cpu_tensors_are_refused_outside_of_the_interpreter(monkeypatch):
    monkeypatch.setattr(tiles, "INTERPRETED", False)
    q, k, v = (tensor.cpu() for tensor in tensors(4, 4, 16))
    with pytest.raises(ValueError, match=r"on a CUDA device, got cpu.*TRITON_INTERPRET=1"):
        window.attention(q, k, v, window=1)


# In a process of its own


def run_python(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=kept | {"CUDA_VISIBLE_DEVICES": ""} | environment,
    )


COSTS = """
import itertools
from attncourse import MECHANISMS

for mechanism in MECHANISMS.values():
    if "kernel" not in mechanism.has:
        continue
    kernel = mechanism.kernel
    functions = [getattr(kernel, name) for name in ("cost", "torch_cost") if hasattr(kernel, name)]
    ends = (False, True) if mechanism.causal else (False,)
    for cost, causal, dtype_bytes in itertools.product(functions, ends, (2, 4)):
        knobs = mechanism.values | {"causal": causal, "dtype_bytes": dtype_bytes}
        counts = cost(1, 2, 100, 130, 48, **knobs)
        print(mechanism.stem, *(type(count).__name__ for count in vars(counts).values()))
"""


def test_costs_are_counted_in_plain_python():
    run = run_python(COSTS, TRITON_INTERPRET="0")  # where the host cannot call a jitted function
    assert run.returncode == 0, run.stderr
    counted = set(run.stdout.splitlines())
    assert len(counted) > 20
    assert {line for line in counted if not line.endswith(" int int int int")} == set()


# Importing


def test_without_triton_the_import_says_what_to_do():
    run = run_python("import sys; sys.modules['triton'] = None; import attncourse.kernels")
    assert "ImportError: attncourse.kernels needs Triton" in run.stderr
    assert "attncourse.reference" in run.stderr


def test_triton_imported_too_early_is_explained():
    run = run_python("import triton, attncourse.kernels")
    assert "ImportError: attncourse.kernels: triton was imported before" in run.stderr


def test_no_room_says_how_much_was_asked_for_and_what_would_fit():
    q, k, v = (tensor.expand(1, 2, 2**20, 16) for tensor in tensors(1, 1, 16))
    words = r"^full\.attention: 8\.0 TiB asked for scores, .* are free: n = \d+; flash"
    with pytest.raises(torch.OutOfMemoryError, match=words) as caught:
        full.attention(q, k, v)
    free = float(re.search(r"n = (\d+)", str(caught.value))[1]) ** 2 * 8
    assert 2**20 < free < 2**40


# Nothing is done that nobody asked for


DIFFERENTIABLE = [
    (window, {"window": 8}),
    (flash, {"block_q": 32, "block_k": 32}),
    (linear, {}),
    (bigbird, {"block": 16}),
    (sparse_transformer, {"stride": 4}),  # of two plans
]


@pytest.mark.skipif(not INTERPRETED, reason="looked at in the interpreter")
@pytest.mark.parametrize(
    ("kernel", "knobs"), DIFFERENTIABLE, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_gradient_that_nobody_asked_for_is_not_computed(kernel, knobs):
    whole = tensors(20, 20, 16, grad=True)
    kernel.attention(*whole, **knobs).sum().backward()
    for asked in (0, 2):
        inputs = [x.detach().requires_grad_(at == asked) for at, x in enumerate(whole)]
        out = kernel.attention(*inputs, **knobs)
        with trace.recording() as traced:
            out.sum().backward()
        assert torch.equal(inputs[asked].grad, whole[asked].grad)
        kernels = " ".join(launch.kernel for launch in traced.launches)
        assert ("_dq" in kernels, "_dk" in kernels) == (asked == 0, asked == 2 and kernel != linear)


HOLDING = [
    (t5, lambda q: {"table": q.new_ones(32, 1)}),
    (performer, lambda q: {"n_features": 16}),
    (lsh, lambda q: {"n_buckets": 4, "n_rounds": 1, "chunk": 8}),
    (random_keys, lambda q: {"n_random": 2}),
]


@pytest.mark.parametrize(("kernel", "knobs"), HOLDING, ids=lambda x: getattr(x, "__name__", ""))
def test_no_tensor_stays_when_a_call_is_over(kernel, knobs):
    def alive():
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    inputs = tensors(17, 17, 16)
    given = knobs(inputs[0])
    gc.collect()
    before = alive()
    kernel.attention(*inputs, **given)
    gc.collect()
    assert alive() == before


def test_few_plans_stay_on_the_device():
    q, k, v = tensors(20, 20, 16)
    for stride in range(2, 9):
        strided.attention(q, k, v, stride=stride)
    assert len(plan._held) == plan.HELD


# Compiled for GPUs that need not be here


@pytest.fixture
def page():
    """docs/registers.md, for whose kernels all this was done when it was written."""
    text = registers.PAGE.read_text(encoding="utf-8")
    if registers.sources() in text and not covering.NIGHTLY:
        pytest.skip("docs/registers.md was written from the same kernels by the same Triton")
    return text


@pytest.mark.timeout(7200)
def test_every_launcher_compiles_what_it_launches(page):
    names = set(registers.launches(covering.by_day("pairs", "all")))
    compiled_alone = set(re.findall(r"^\| (\w+)", page, re.MULTILINE)) - {"kernel"}
    assert {name.strip("_").removesuffix("_kernel") for name in names} == compiled_alone


def test_a_growing_cache_compiles_nothing_anew():
    (counts,) = registers.outside_the_interpreter("launches.py", "decode")
    assert counts.keys() == {"kv_cache", "paged"}
    for steps in counts.values():
        assert steps[0] and not any(steps[1:])


@pytest.mark.parametrize("arch", [pytest.param(80, marks=pytest.mark.nightly), 90])
def test_every_kernel_compiles(arch, page):
    reports = registers.reports(arch)
    if registers.PINNED:
        assert registers.section(arch, reports) in page, "run python tests/registers.py"
        assert registers.spilling() in page


# Only a GPU proves these


@pytest.mark.gpu
def test_offsets_beyond_32_bits():
    far = [tensor.requires_grad_() for tensor in far_apart()]
    results = []
    for inputs in (far, [tensor.detach().contiguous().requires_grad_() for tensor in far]):
        out = window.attention(*inputs, window=8)
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    q, k, v = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    for kernel, knobs in ((window, {"window": 256}), (full, {})):
        kernel.attention(q, k, v, causal=causal, **knobs)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kernel.attention(q, k, v, causal=causal, **knobs)
        peak = torch.cuda.max_memory_allocated() - before
        expected = kernel.cost(1, 4, 4096, 4096, 64, causal=causal, dtype_bytes=2, **knobs)
        assert abs(peak - expected.peak_bytes) <= 0.02 * expected.peak_bytes
