"""The Triton twin of LSH attention: in the interpreter, or on the GPU where there is one."""

import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, full, lsh
from attncourse.reference import lsh as reference
from attncourse.reference._parts import sorted_chunks

import torch  # isort: skip
from twins import DEVICE, close, definition, each_dtype, each_layout, tensors, with_nan_margins

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def found(q, k, **knobs):
    """Which keys the reference finds, hashing in float32 as the twin does."""
    arrays = (tensor.float().cpu().numpy() for tensor in (q, k))
    return torch.from_numpy(reference.found(*arrays, **knobs)).to(DEVICE)


# (Tq, Tk, D, Dv, n_buckets, n_rounds, chunk, exclude_self, causal)
CASES = [
    (1, 1, 16, 16, 2, 2, 1, True, True),  # lonely: its own position
    (63, 63, 20, 33, 8, 3, 8, True, True),
    (128, 128, 16, 16, 4, 2, 32, False, False),
    (100, 150, 16, 16, 6, 2, 40, False, True),
    (150, 60, 64, 16, 8, 1, 16, True, True),  # the first queries sit before all keys
    (90, 128, 16, 24, 4, 2, 50, True, False),  # more queries in a chunk than in a tile
    (40, 40, 256, 200, 4, 2, 20, False, True),
    (30, 20, 16, 16, 4, 2, 10**9, False, True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, n_buckets, n_rounds, chunk, exclude_self, causal = case
    knobs = {"n_buckets": n_buckets, "n_rounds": n_rounds, "chunk": chunk, "seed": 1}
    knobs |= {"exclude_self": exclude_self, "causal": causal}
    q, k, v = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 63), dtype=dtype)
    out = lsh.attention(q, k, v, **knobs)
    mask = found(q, k, **knobs)
    exact, single = (
        definition(q.to(work), k.to(work), v.to(work), mask).nan_to_num()
        for work in (torch.float64, torch.float32)
    )
    close(out, dtype, exact, single, roundings=2)  # the weights are rounded too


@pytest.mark.parametrize(("n_queries", "n_keys", "chunk"), [(60, 60, 8), (50, 90, 7), (90, 50, 9)])
def test_buckets_orders_and_starts_are_those_of_the_reference(n_queries, n_keys, chunk):
    q, k, _ = tensors(n_queries, n_keys, 16, heads=2)
    q[..., 3, :] = 0  # the first bucket
    rotations = reference.draw_rotations(16, n_buckets=6, n_rounds=2, seed=4)
    mine = lsh._rotations(16, 6, 2, 4, q.device)
    assert np.array_equal(mine.cpu().numpy(), rotations.astype(np.float32))
    cut = lsh._cut(n_queries, n_keys, 16, 16, chunk, 4)
    for number in range(2):
        buckets = reference.hash_vectors(q.cpu().numpy(), rotations)[number]
        assert np.array_equal(lsh._hash(q, mine[number]).cpu().numpy(), buckets)
        q_order, k_order, starts = (x.cpu().numpy() for x in lsh._sort(q, k, mine[number], cut))
        for head in range(2):
            arrays = (x[0, head].cpu().numpy() for x in (q, k))
            theirs = sorted_chunks._sort(*arrays, rotations[number], cut.rows, chunk)
            for a, b in zip((q_order, k_order, starts), theirs, strict=True):
                assert np.array_equal(a[0, head], b)


def test_chunks_that_hold_all_keys_are_full_attention():
    q, k, v = tensors(40, 60, 16)
    for causal in (False, True):
        out = lsh.attention(q, k, v, n_buckets=4, n_rounds=3, chunk=60, causal=causal)
        torch.testing.assert_close(out, full.attention(q, k, v, causal=causal))


def test_without_tokens():
    knobs = {"n_buckets": 4, "n_rounds": 2, "chunk": 8}
    assert lsh.attention(*tensors(0, 5, 16), **knobs).shape == (1, 1, 0, 16)
    assert not lsh.attention(*tensors(5, 0, 16), **knobs).any()


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(8, 12, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    knobs = {"n_buckets": 4, "n_rounds": 2, "chunk": 6, "causal": True}
    outs = [lsh.attention(*x, **knobs) for x in (whole, views, views)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(100, 100), (150, 60), (70, 130), (30, 0), (0, 30)], ids=str)
def test_cost_is_what_the_kernel_does(sizes, causal):
    knobs = {"n_buckets": 4, "n_rounds": 3, "chunk": 25, "causal": causal}
    traced = trace.record(lsh.attention, *tensors(*sizes, 40, dtype=torch.float16), **knobs)
    cost, apart = (f(1, 1, *sizes, 40, **knobs, dtype_bytes=2) for f in (lsh.cost, lsh.torch_cost))
    assert not traced.out_of_bounds
    assert traced.flops == cost.flops - apart.flops
    assert traced.bytes_loaded() == cost.bytes_read - apart.bytes_read
    stored = cost.bytes_written - apart.bytes_written
    assert traced.bytes_stored() == (stored if all(sizes) else 0)  # zeros are torch's


def test_memory_is_linear_in_the_tokens():
    knobs = {"n_buckets": 64, "n_rounds": 4, "chunk": 64, "dtype_bytes": 2}
    short, long = (lsh.cost(1, 8, n, n, 64, **knobs) for n in (2**12, 2**15))
    assert long.peak_bytes == 8 * short.peak_bytes and long.flops == 8 * short.flops


def bad_calls():
    good = {"n_buckets": 4, "n_rounds": 2, "chunk": 4}
    yield ValueError, "n_buckets must be at least 2, got 0", good | {"n_buckets": 0}
    yield ValueError, "n_buckets must be even, got 5", good | {"n_buckets": 5}
    yield TypeError, "n_rounds must be an integer, got float", good | {"n_rounds": 1.5}
    yield ValueError, "chunk must be at least 1, got 0", good | {"chunk": 0}
    yield ValueError, "seed must be at least 0, got -1", good | {"seed": -1}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^lsh\.attention: .*" + words):
        lsh.attention(*tensors(6, 6, 16), **knobs)


def test_gradients_are_refused():
    with pytest.raises(ValueError, match=r"^lsh\.attention: .*must not require grad"):
        lsh.attention(*tensors(6, 6, 16, grad=True), n_buckets=2, n_rounds=1, chunk=2)
