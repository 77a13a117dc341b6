"""The Triton twin of pooled attention: in the interpreter, or on the GPU where there is one."""

import itertools
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, pooled
from attncourse.reference import pooled as reference

import torch  # isort: skip
from twins import (
    DEVICE,
    each_dtype,
    each_layout,
    equals_reference,
    peak_of,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def vector(D, *leading, dtype=torch.float32):
    drawn = torch.randn(*leading, D, generator=torch.Generator().manual_seed(5))
    return drawn.to(DEVICE, dtype)


# (Tq, Tk, D, Dv, pool, kind, causal)
CASES = [
    (1, 1, 16, 16, 1, "mean", True),
    (63, 63, 20, 33, 4, "mean", True),
    (100, 128, 64, 16, 7, "max", True),
    (100, 63, 16, 16, 64, "learned", True),  # the first queries see nothing; one run
    (63, 100, 16, 24, 3, "adaptive", False),
    (20, 128, 16, 100, 1, "learned", False),
    (20, 40, 256, 200, 5, "max", False),
    (40, 30, 16, 16, 10**12, "mean", True),
    (5, 0, 16, 16, 3, "adaptive", False),
    (0, 5, 16, 16, 3, "learned", True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, pool, kind, causal = case
    inputs = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    knobs = {"pool": pool, "kind": kind, "causal": causal}
    if kind == "learned":
        knobs["pooling_vector"] = vector(D, dtype=dtype)
    # pooled keys, pooled values and weights are rounded to the dtype
    equals_reference(pooled, reference, *inputs, roundings=4, **knobs)


def test_runs_of_one_token_are_flash():
    q, k, v = tensors(40, 50, 16)
    for kind in ("mean", "max", "adaptive"):
        out = pooled.attention(q, k, v, pool=1, kind=kind)
        torch.testing.assert_close(out, flash.attention(q, k, v, block_q=64, block_k=64))


def test_each_head_may_have_its_own_vector():
    q, k, v = tensors(20, 40, 16, heads=2)
    own = vector(16, 2)
    out = pooled.attention(q, k, v, pool=4, kind="learned", pooling_vector=own)
    for head in range(2):
        part = (tensor[:, head : head + 1] for tensor in (q, k, v))
        alone = pooled.attention(*part, pool=4, kind="learned", pooling_vector=own[head])
        assert torch.equal(out[:, head : head + 1], alone)


def test_adaptive_cuts_are_those_of_the_reference():
    _, k, _ = tensors(1, 90, 16, heads=2)
    k[:, :, 10:20] = 0  # of equal likeness: the first is cut
    k[:, :, 40:45] = k[:, :, 40:41]
    for pool in (1, 4, 90, 100):
        starts = pooled._cuts(k, min(pool, 90)).cpu().numpy()
        for head in range(2):
            cuts = reference.cuts(k[0, head].cpu().numpy(), -(-90 // pool))
            assert list(starts[0, head]) == [*cuts, 90]


def test_the_future_changes_nothing():
    q, k, v = tensors(100, 100, 16)
    for kind in ("mean", "max"):
        before = pooled.attention(q, k, v, pool=7, kind=kind, causal=True)
        later_k, later_v = k.clone(), v.clone()
        later_k[..., 60:, :] += 1
        later_v[..., 60:, :] -= 1
        after = pooled.attention(q, later_k, later_v, pool=7, kind=kind, causal=True)
        assert torch.equal(before[..., :60, :], after[..., :60, :])
        assert (before[..., 60:, :] != after[..., 60:, :]).any(-1).all()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", ["mean", "max", "learned"])
@pytest.mark.parametrize("name, number", [("k", torch.nan), ("v", torch.nan), ("v", -torch.inf)])
def test_a_run_is_as_spoilt_as_its_worst_token(kind, name, number):
    arrays = dict(zip("qkv", tensors(20, 20, 16), strict=True))
    arrays[name][..., 7, 0] = number
    more = {"pooling_vector": vector(16)} if kind == "learned" else {}
    out = pooled.attention(**arrays, pool=5, kind=kind, causal=True, **more)
    assert (~out.isfinite()).any(-1).nonzero()[:, -1].tolist() == list(range(7, 20))


def test_rows_without_keys_give_zeros():
    out = pooled.attention(*tensors(90, 10, 16), pool=3, causal=True)
    assert not out[..., :80, :].any() and out[..., 80:, :].all()


def test_the_loops_visit_the_runs_and_tokens_that_are_seen_and_no_others():
    for Tq, Tk, pool, BLOCK_Q in itertools.product(range(1, 9), range(9), (1, 3, 20), (1, 4)):
        n_runs = -(-Tk // pool)
        for start in range(0, Tq, BLOCK_Q):
            positions = [i + Tk - Tq for i in range(start, min(start + BLOCK_Q, Tq))]
            n_all, n_any, *own = pooled._seen.fn(start, Tq, Tk, n_runs, pool, BLOCK_Q, True)
            runs = [max(p, 0) // pool for p in positions]
            assert (n_all, n_any) == (min(runs), max(runs))
            keys = [j for p in positions for j in range(max(p, 0) // pool * pool, p + 1)]
            assert not keys or own == [min(keys), max(keys) + 1]
            assert keys or own[1] - own[0] <= 0
            everything = pooled._seen.fn(start, Tq, Tk, n_runs, pool, BLOCK_Q, False)
            assert everything == (n_runs, n_runs, 0, 0)


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(10, 20, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    turned = vector(40, 2, 2)[..., ::2]
    for knobs in (
        {"causal": True, "kind": "learned", "pooling_vector": turned},
        {"kind": "adaptive"},
    ):
        outs = [pooled.attention(*x, pool=6, **knobs) for x in (whole, views, views)]
        assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("sizes", [(150, 300), (100, 63), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernels_do(sizes):
    ways = [("mean", True), ("learned", False), ("adaptive", False)]
    for (kind, causal), (D, pool) in zip(ways, ((16, 3), (100, 90), (40, 5)), strict=True):
        knobs = {"pool": pool, "kind": kind, "causal": causal}
        given = {"pooling_vector": vector(D, dtype=torch.float16)} if kind == "learned" else {}
        inputs = tensors(*sizes, D, dtype=torch.float16)
        traced = trace.record(pooled.attention, *inputs, **knobs, **given)
        assert not traced.out_of_bounds
        cost, apart = (
            f(1, 1, *sizes, D, **knobs, dtype_bytes=2) for f in (pooled.cost, pooled.torch_cost)
        )
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        read, written = cost.bytes_read - apart.bytes_read, cost.bytes_written - apart.bytes_written
        assert counted == (cost.flops, read, written), knobs


def bad_calls():
    inputs = tensors(6, 6, 16)
    yield ValueError, "pool must be at least 1, got 0", inputs, {"pool": 0}
    yield TypeError, "pool must be an integer, got float", inputs, {"pool": 2.5}
    yield (
        ValueError,
        "kind must be one of mean, max.*'median'",
        inputs,
        {"pool": 2, "kind": "median"},
    )
    yield ValueError, "'learned' needs pooling_vector", inputs, {"pool": 2, "kind": "learned"}
    given = {"pool": 2, "pooling_vector": vector(16)}
    yield ValueError, "'mean' takes no pooling_vector", inputs, given
    learned = {"kind": "learned", "pooling_vector": vector(16).requires_grad_()}
    yield ValueError, "must not require grad", inputs, {"pool": 2} | learned
    wrong = {"pool": 2, "kind": "learned", "pooling_vector": vector(15)}
    yield ValueError, r"must broadcast to \(1, 1, 16\), got \(15,\)", inputs, wrong
    wrong = wrong | {"pooling_vector": vector(16).half()}
    yield ValueError, "pooling_vector must be torch.float32", inputs, wrong
    never = {"pool": 2, "kind": "adaptive", "causal": True}
    yield ValueError, "cannot be causal: adaptive cuts", inputs, never
    yield ValueError, "must not require grad", tensors(6, 6, 16, grad=True), {"pool": 2}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, inputs, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^pooled\.attention: .*" + words):
        pooled.attention(*inputs, **knobs)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_is_what_cost_says(causal):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    peak = peak_of(pooled.attention, *inputs, pool=4, causal=causal)
    cost = pooled.cost(1, 4, 4096, 4096, 64, pool=4, causal=causal, dtype_bytes=2)
    assert abs(peak - cost.peak_bytes) <= 0.02 * cost.peak_bytes
