"""The Triton twin of block top-k: in the interpreter, or on the GPU where there is one."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, block_topk
from attncourse.reference import block_topk as reference

import torch  # isort: skip
from twins import DEVICE, close, definition, each_dtype, each_layout, tensors, with_nan_margins

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def visible(q, k, **knobs):
    """Who may attend to whom, as the reference chooses in float32, like the twin."""
    chosen = reference.select(*(x.float().cpu().numpy() for x in (q, k)), **knobs)
    sizes = {"block": knobs["block"], "causal": knobs["causal"]}
    return torch.from_numpy(reference.mask_of(chosen, k.shape[2], **sizes)).to(DEVICE)


# (Tq, Tk, D, Dv, block, keep, choose_every, bound, causal)
CASES = [
    (1, 1, 16, 16, 64, 2, 16, True, True),
    (24, 40, 20, 33, 12, 3, 1, False, True),  # a tile for each query
    (100, 100, 16, 16, 48, 2, 20, True, True),  # groups of 20, 20 and 8 in each block
    (40, 150, 16, 16, 40, 2, 16, False, False),  # a last block of 30 keys
    (90, 40, 64, 16, 16, 2, 8, True, True),  # the first queries sit before all keys
    (90, 40, 16, 16, 16, 2, 8, False, False),
    (40, 72, 256, 200, 36, 2, 36, False, True),  # more queries in a group than in a tile
    (30, 20, 16, 16, 10**9, 10**9, 10**9, False, True),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    Tq, Tk, D, Dv, block, keep, choose_every, bound, causal = case
    knobs = {"block": block, "keep": keep, "choose_every": choose_every}
    knobs |= {"bound": bound, "causal": causal}
    q, k, v = tensors(Tq, Tk, D, Dv, heads=1 + (Tq == 24), dtype=dtype)
    out = block_topk.attention(q, k, v, **knobs)
    mask = visible(q, k, **knobs)
    exact, single = (
        definition(q.to(work), k.to(work), v.to(work), mask).nan_to_num()
        for work in (torch.float64, torch.float32)
    )
    close(out, dtype, exact, single, roundings=2)  # the weights are rounded too


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = tensors(20, 40, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    knobs = {"block": 8, "keep": 2, "choose_every": 4, "causal": True}
    outs = [block_topk.attention(*x, **knobs) for x in (whole, views, views)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(100, 100), (90, 40), (40, 90), (20, 0), (0, 20)], ids=str)
def test_cost_is_what_the_kernel_does(sizes, causal):
    knobs = {"block": 24, "keep": 2, "choose_every": 10, "causal": causal}
    arrays = tensors(*sizes, 40, dtype=torch.float16)
    traced = trace.record(block_topk.attention, *arrays, **knobs)
    cost, apart = (
        count(1, 1, *sizes, 40, **knobs, dtype_bytes=2)
        for count in (block_topk.cost, block_topk.torch_cost)
    )
    assert not traced.out_of_bounds
    assert traced.flops == cost.flops - apart.flops
    assert traced.bytes_loaded() == cost.bytes_read - apart.bytes_read
    assert traced.bytes_stored() == cost.bytes_written - apart.bytes_written


def test_sharing_a_choice_fills_the_tiles():
    knobs = {"block": 64, "keep": 8, "causal": True, "dtype_bytes": 2}
    sizes = 1, 8, 2**12, 2**12, 64
    alone, shared = (
        block_topk.cost(*sizes, choose_every=c, **knobs).flops
        - block_topk.torch_cost(*sizes, choose_every=c, **knobs).flops
        for c in (1, 16)
    )
    assert alone == 16 * shared  # 15 rows of 16 were empty


def test_the_twin_chooses_the_last_block_of_a_ragged_sequence():
    q, k, v = tensors(20, 70, 16)
    k[..., 64:, :] = 3 * q[..., :1, :]  # the last six keys, in a block of their own
    knobs = {"block": 32, "keep": 2, "causal": False}
    mask = visible(q, k, **knobs)
    assert mask[0, 0, 0, 64:].all()
    out = block_topk.attention(q, k, v, **knobs)
    torch.testing.assert_close(out, definition(q, k, v, mask))


def bad_calls():
    good = {"block": 4, "keep": 2}
    yield ValueError, "block must be at least 1, got 0", good | {"block": 0}
    yield TypeError, "keep must be an integer, got float", good | {"keep": 1.5}
    yield ValueError, "choose_every must be at least 1, got -1", good | {"choose_every": -1}
    yield TypeError, "bound must be True or False, got int 0", good | {"bound": 0}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^block_topk\.attention: .*" + words):
        block_topk.attention(*tensors(6, 6, 16), **knobs)


def test_gradients_are_refused():
    with pytest.raises(ValueError, match=r"^block_topk\.attention: .*must not require grad"):
        block_topk.attention(*tensors(6, 6, 16, grad=True), block=2, keep=1)
