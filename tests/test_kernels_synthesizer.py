"""The Triton twin of the Synthesizer: in the interpreter, or on the GPU where there is one."""

import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, synthesizer
from attncourse.reference import synthesizer as reference

import torch  # isort: skip
from twins import DEVICE, DTYPES, close, each_dtype, peak_of, tensors, with_nan_margins

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def drawn(*shape, dtype=torch.float32, seed=0):
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return numbers.to(DEVICE, dtype)


def matrices(kind, Tq, Tk, D, hidden, *leading, dtype=torch.float32):
    """Positional and keyword arguments of the function named `kind`."""
    if kind == "random":
        return [drawn(*leading, Tq + 3, Tk, dtype=dtype)], {}  # rows for longer sequences
    if kind == "factorised":
        left, right = drawn(*leading, Tq + 3, hidden), drawn(Tk, hidden)
        return [x.to(dtype) / hidden**0.25 for x in (left, right)], {}
    layers = [drawn(*leading, D, hidden) / D**0.5, drawn(hidden, Tk) / hidden**0.5]
    biases = {"first_bias": drawn(hidden), "second_bias": drawn(Tk, seed=1)}
    return [x.to(dtype) for x in layers], {name: x.to(dtype) for name, x in biases.items()}


def exact(work, q, k, v, kind, given, causal):
    """The reference in this dtype."""

    def array(tensor):
        return tensor.cpu().numpy().astype(work)

    matrices, biases = given
    biases = {name: array(x) for name, x in biases.items()}
    logits = getattr(reference, kind)(*(array(x) for x in matrices), **biases)
    out = reference.attention(*(array(x) for x in (q, k, v)), logits=logits, causal=causal)
    return torch.from_numpy(out).to(DEVICE)


# (kind, Tq, Tk, D, Dv, hidden, leading axes, causal)
CASES = [
    ("random", 63, 100, 20, 33, 1, (2,), True),
    ("random", 128, 40, 16, 16, 1, (1, 1), False),
    ("dense", 63, 63, 20, 16, 40, (2,), True),
    ("dense", 100, 128, 64, 16, 16, (), False),
    ("factorised", 100, 63, 16, 16, 9, (), True),  # the first queries see nothing
    ("factorised", 20, 30, 256, 200, 256, (1, 1), False),
    ("dense", 1, 1, 16, 16, 1, (), True),
    ("dense", 5, 0, 16, 16, 4, (), False),
    ("factorised", 0, 5, 16, 16, 4, (), False),
]


@each_dtype(CASES)
def test_values_against_float64(case, dtype):
    kind, Tq, Tk, D, Dv, hidden, leading, causal = case
    heads = leading[-1] if leading else 2
    q, k, v = tensors(Tq, Tk, D, Dv, heads=heads, dtype=dtype)
    args, biases = given = matrices(kind, Tq, Tk, D, hidden, *leading, dtype=dtype)
    logits = getattr(synthesizer, kind)(*args, **biases)
    out = synthesizer.attention(q, k, v, logits=logits, causal=causal)
    runs = (exact(work, q, k, v, kind, given, causal) for work in (np.float64, np.float32))
    close(out, dtype, *runs, roundings=4)  # the hidden layer and the weights are rounded too
    if causal and Tq > Tk:
        assert not out[..., : Tq - Tk, :].any()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_a_hidden_layer_beyond_float16(dtype):
    """64 products of 50 and 50 are 160,000, and float16 ends at 65,504."""
    q, k, v = tensors(8, 40, 64, 16, dtype=dtype)
    layers = q.new_full((64, 32), 50), drawn(32, 40, dtype=dtype) / 2**16
    biases = {"first_bias": 1000 * drawn(32, dtype=dtype)}
    inputs = q + 50, k, v
    out = synthesizer.attention(*inputs, logits=synthesizer.dense(*layers, **biases))
    given = layers, biases
    runs = (exact(work, *inputs, "dense", given, False) for work in (np.float64, np.float32))
    close(out, dtype, *runs, roundings=8)


def test_keys_are_not_read_and_the_future_changes_nothing():
    q, k, v = tensors(100, 100, 16)
    args, biases = matrices("dense", 100, 100, 16, 8)
    logits = synthesizer.dense(*args, **biases)
    before = synthesizer.attention(q, k, v, logits=logits, causal=True)
    v[..., 60:, :] -= 1
    after = synthesizer.attention(q, torch.full_like(k, torch.nan), v, logits=logits, causal=True)
    assert torch.equal(before[..., :60, :], after[..., :60, :])
    assert (before[..., 60:, :] != after[..., 60:, :]).any(-1).all()


@pytest.mark.parametrize("kind", synthesizer.KINDS)
def test_any_strides_give_the_same_bits(kind):
    q, k, v = whole = tensors(20, 40, 20, 24, heads=2, batch=2)
    views = [with_nan_margins(tensor, "transposed") for tensor in whole]
    args, biases = matrices(kind, 20, 40, 20, 8, 2, 2)
    turned = [with_nan_margins(x.expand(2, 2, *x.shape[-2:]), "transposed") for x in args]
    plain, other = (getattr(synthesizer, kind)(*x, **biases) for x in (args, turned))
    out = synthesizer.attention(q, k, v, logits=plain)
    strided = synthesizer.attention(*views, logits=other)
    # torch's product of the first layer may add in another order
    torch.testing.assert_close(out, strided, rtol=0, atol=1e-6 if kind == "dense" else 0)
    assert torch.equal(strided, synthesizer.attention(*views, logits=other))


@pytest.mark.skipif(not INTERPRETED, reason="counted in the interpreter")
@pytest.mark.parametrize("kind", synthesizer.KINDS)
def test_cost_is_what_the_kernel_does(kind):
    for sizes, D, causal in (((150, 200), 16, True), ((100, 63), 100, False), ((0, 5), 16, True)):
        args, _ = matrices(kind, *sizes, D, 24, dtype=torch.float16)
        logits = getattr(synthesizer, kind)(*args)
        inputs = tensors(*sizes, D, dtype=torch.float16)
        traced = trace.record(synthesizer.attention, *inputs, logits=logits, causal=causal)
        knobs = {"hidden": 24, "kind": kind, "causal": causal, "dtype_bytes": 2}
        cost, apart = (
            f(1, 1, *sizes, D, **knobs) for f in (synthesizer.cost, synthesizer.torch_cost)
        )
        assert not traced.out_of_bounds
        assert traced.flops == cost.flops - apart.flops
        assert traced.bytes_loaded() == cost.bytes_read - apart.bytes_read
        assert traced.bytes_stored() == cost.bytes_written - apart.bytes_written


def bad_calls():
    q, k, v = tensors(6, 6, 16)
    yield TypeError, "of this module return, got function", (q, k, v), lambda q, rows: q
    yield (
        ValueError,
        r"logits must broadcast to \(1, 1, 6, 6\), got \(5, 6\)",
        (q, k, v),
        synthesizer.random(drawn(5, 6)),
    )
    yield (
        ValueError,
        "logits must be torch.float32",
        (q, k, v),
        synthesizer.random(drawn(6, 6).half()),
    )
    yield (
        ValueError,
        r"first must broadcast to \(1, 1, 16, 4\), got \(15, 4\)",
        (q, k, v),
        synthesizer.dense(drawn(15, 4), drawn(4, 6)),
    )
    yield (
        ValueError,
        r"second must broadcast",
        (q, k, v),
        synthesizer.dense(drawn(16, 4), drawn(4, 7)),
    )
    yield (
        ValueError,
        r"right must broadcast",
        (q, k, v),
        synthesizer.factorised(drawn(6, 4), drawn(7, 4)),
    )
    yield (
        ValueError,
        "rank must be between 1 and 256, got 257",
        (q, k, v),
        synthesizer.factorised(drawn(6, 257), drawn(6, 257)),
    )
    yield (
        ValueError,
        "hidden must be between 1 and 256, got 300",
        (q, k, v),
        synthesizer.dense(drawn(16, 300), drawn(300, 6)),
    )
    yield (
        ValueError,
        "must not require grad",
        (q, k, v),
        synthesizer.random(drawn(6, 6).requires_grad_()),
    )
    bias = {"second_bias": drawn(5)}
    yield (
        ValueError,
        r"second_bias must broadcast to \(6,\), got \(5,\)",
        (q, k, v),
        synthesizer.dense(drawn(16, 4), drawn(4, 6), **bias),
    )


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, inputs, logits = list(bad_calls())[number]
    with pytest.raises(error, match=r"^synthesizer\.attention: .*" + words):
        synthesizer.attention(*inputs, logits=logits)


def test_matrices_that_do_not_fit_each_other_are_refused_at_once():
    with pytest.raises(ValueError, match=r"^synthesizer\.dense: .*share hidden"):
        synthesizer.dense(drawn(16, 4), drawn(5, 6))
    with pytest.raises(ValueError, match=r"^synthesizer\.factorised: .*share rank"):
        synthesizer.factorised(drawn(6, 4), drawn(6, 5))
    with pytest.raises(TypeError, match=r"^synthesizer\.random: logits must be a torch tensor"):
        synthesizer.random(np.ones((6, 6)))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", synthesizer.KINDS)
def test_extra_memory_is_what_cost_says(kind):
    inputs = tensors(4096, 4096, 64, heads=4, dtype=torch.bfloat16)
    args, _ = matrices(kind, 4096, 4096, 64, 64, dtype=torch.bfloat16)
    peak = peak_of(synthesizer.attention, *inputs, logits=getattr(synthesizer, kind)(*args))
    knobs = {"hidden": 64, "kind": kind, "dtype_bytes": 2}
    expected = synthesizer.cost(1, 4, 4096, 4096, 64, **knobs).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected
