"""Grouped-query attention in Triton: in the interpreter, or on the GPU where there is one."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, flash, grouped
from attncourse.reference import grouped as reference

import torch  # isort: skip
from twins import (
    DEVICE,
    close,
    definition,
    each_dtype,
    each_layout,
    gradients,
    tensors,
    with_nan_margins,
)

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def grouped_tensors(H, G, Tq, Tk, D, Dv=None, *, batch=1, **how):
    q, _, _ = tensors(Tq, 1, D, heads=H, batch=batch, **how)
    _, k, v = tensors(1, Tk, D, Dv, heads=G, batch=batch, seed=1, **how)
    return q, k, v


def repeated(q, *shared):
    return [tensor.repeat_interleave(q.shape[1] // tensor.shape[1], 1) for tensor in shared]


def summed(q, k, grad):
    """The gradient of the heads that share a key, added up."""
    B, G = k.shape[:2]
    return grad.reshape(B, G, q.shape[1] // G, *grad.shape[2:]).sum(2)


def past(Tq, Tk, causal):
    visible = torch.ones(Tq, Tk, dtype=torch.bool, device=DEVICE)
    return visible.tril(Tk - Tq) if causal else visible


# (H, G, Tq, Tk, D, Dv, causal)
CASES = [
    (4, 2, 63, 100, 20, 33, True),
    (3, 1, 100, 63, 16, 16, True),  # the first queries see nothing
    (6, 3, 1, 64, 64, 64, False),
    (4, 1, 1, 1, 16, 16, True),
    (2, 1, 70, 70, 128, 160, True),
    (2, 2, 40, 40, 16, 8, False),
    (4, 2, 5, 0, 16, 16, False),
    (4, 2, 0, 5, 16, 16, True),
]


@each_dtype(CASES)
def test_grouped_and_its_gradients_against_float64(case, dtype):
    check_values_and_gradients(case, dtype)


@pytest.mark.usefixtures("on_a_hopper")
@pytest.mark.parametrize("causal", [False, True])
def test_the_tile_of_a_hopper_gives_the_same_gradients(causal):
    assert flash.tile_sizes(**grouped.TILE, width=128, dtype_bytes=2, backward=True)[0] == 64
    check_values_and_gradients((4, 2, 70, 100, 128, 128, causal), torch.float16)


def check_values_and_gradients(case, dtype):
    H, G, Tq, Tk, D, Dv, causal = case
    mine = grouped_tensors(H, G, Tq, Tk, D, Dv, dtype=dtype, grad=True)
    out = grouped.attention(*mine, causal=causal)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(grad_out)
    mask = past(Tq, Tk, causal)
    runs = []
    for wide, device in ((torch.float64, DEVICE), (torch.float32, "cpu")):
        q, k, v = (tensor.detach().to(device, wide) for tensor in mine)
        arrays = (q, *repeated(q, k, v), mask.to(device))
        dq, dk, dv = gradients(*arrays, grad_out.to(device, wide))
        runs.append((definition(*arrays).nan_to_num(), dq, summed(q, k, dk), summed(q, k, dv)))
    exact, single = runs
    for tensor, twin, work in zip(
        [out.detach(), *(t.grad for t in mine)], exact, single, strict=True
    ):
        close(tensor, dtype, twin, work)


def test_as_many_groups_as_heads_is_flash_attention_to_the_bit():
    inputs = grouped_tensors(2, 2, 60, 70, 16, grad=True)
    results = []
    for function, knobs in ((grouped.attention, {}), (flash.attention, grouped.TILE)):
        out = function(*inputs, **knobs, causal=True)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_each_head_reads_the_keys_of_its_group_and_no_others():
    q, k, v = grouped_tensors(6, 3, 20, 20, 16)
    before = grouped.attention(q, k, v)
    k[:, 1], v[:, 1] = 7.0, 7.0
    after = grouped.attention(q, k, v)
    changed = [not torch.equal(before[:, head], after[:, head]) for head in range(6)]
    assert changed == [False, False, True, True, False, False]


@each_layout
def test_any_strides_give_the_same_bits(layout):
    whole = grouped_tensors(4, 2, 20, 40, 20, 24, batch=2, grad=True)
    views = [with_nan_margins(tensor, layout).requires_grad_() for tensor in whole]
    grad_out = torch.ones(()).to(DEVICE).expand(2, 4, 20, 24)  # stride 0 everywhere
    results = []
    for inputs in (whole, views):
        out = grouped.attention(*inputs, causal=True)
        results.append([out, *torch.autograd.grad(out, inputs, grad_out)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_runs_give_the_same_bits():
    def run():
        mine = grouped_tensors(4, 2, 40, 70, 16, dtype=torch.float16, grad=True)
        out = grouped.attention(*mine)
        return [out, *torch.autograd.grad(out.float().square().sum(), mine)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
def test_flops_and_traffic_are_what_cost_says_and_gradients_are_written_once():
    inputs = grouped_tensors(4, 2, 40, 70, 24, dtype=torch.float16, grad=True)
    for causal in (False, True):
        with trace.recording() as traced:
            out = grouped.attention(*inputs, causal=causal)
        cost = grouped.cost(1, 4, 40, 70, 24, groups=2, causal=causal, dtype_bytes=2)
        counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
        assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
        with trace.recording() as backward:
            out.sum().backward()
        assert not traced.out_of_bounds and not backward.out_of_bounds
        assert backward.bytes_stored("dk") == inputs[1].nbytes
        assert backward.bytes_stored("dv") == inputs[2].nbytes


def test_nothing_is_allocated_for_repeated_keys():
    assert grouped.cost(1, 8, 64, 64, 16, groups=1).peak_bytes == 8 * 64 * (16 + 1) * 4


# What cannot run is refused before anything is written


def bad_calls():
    q, k, v = grouped_tensors(6, 3, 4, 4, 16)
    yield (
        ValueError,
        "multiple of the heads of k and v, got 6 and 4",
        (q, *tensors(4, 4, 16, heads=4)[1:]),
    )
    yield ValueError, "multiple of the heads of k and v, got 3 and 6", (k, q, q)
    yield ValueError, "same leading axes", (q, k, v[:, :1])
    yield ValueError, "same leading axes", (q.expand(2, 6, 4, 16), k, v)
    yield TypeError, "q must be a torch tensor, got ndarray", (q.cpu().numpy(), k, v)
    yield ValueError, r"k must have 4 axes .* shape \(4, 16\)", (q, k[0, 0], v)
    yield ValueError, "one device", (q, k.to("meta"), v)


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, args = list(bad_calls())[number]
    with pytest.raises(error, match=r"^grouped\.attention: .*" + words):
        grouped.attention(*args)


def test_the_refusals_are_those_of_the_reference():
    _, words, args = next(bad_calls())
    with pytest.raises(ValueError, match=words) as theirs:
        reference.attention(*(tensor.cpu().numpy() for tensor in args))
    with pytest.raises(ValueError, match=words) as ours:
        grouped.attention(*args)
    assert str(ours.value) == str(theirs.value)
    for module in (grouped, reference):
        with pytest.raises(ValueError, match=r"grouped.cost: groups must divide the 6 query heads"):
            module.cost(1, 6, 4, 4, 16, groups=4)


def test_no_heads_and_no_batch_give_empty_outputs():
    for H, G, batch in ((4, 2, 0), (0, 0, 2)):
        out = grouped.attention(*grouped_tensors(H, G, 3, 3, 16, batch=batch))
        assert out.shape == (batch, H, 3, 16)


# Only a GPU proves these


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("groups", [8, 2, 1])
def test_large_groups_against_repeated_keys(groups, width):
    q, k, v = grouped_tensors(8, groups, 500, 600, width, dtype=torch.bfloat16, grad=True)
    out = grouped.attention(q, k, v, causal=True)
    exact = [tensor.detach().double() for tensor in (q, k, v)]
    single = [tensor.detach().float().cpu() for tensor in (q, k, v)]
    mask = past(500, 600, True)
    work = definition(single[0], *repeated(single[0], *single[1:]), mask.cpu())
    close(out.detach(), q.dtype, definition(exact[0], *repeated(exact[0], *exact[1:]), mask), work)
    grad_out = torch.ones_like(out)
    for tensor, grad in zip((q, k, v), torch.autograd.grad(out, (q, k, v), grad_out), strict=True):
        assert grad.shape == tensor.shape and grad.isfinite().all()


@pytest.mark.gpu
def test_offsets_beyond_32_bits():
    room = torch.zeros(2**32, dtype=torch.float16, device="cuda")
    far = [
        room.as_strided((1, heads, 64, 16), (1, 2**32 // heads, 2**24, 1), 16 * i).normal_()
        for i, heads in enumerate((4, 2, 2))
    ]
    results = []
    for inputs in (far, [tensor.contiguous() for tensor in far]):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = grouped.attention(*leaves, causal=True)
        results.append([out, *torch.autograd.grad(out.sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
