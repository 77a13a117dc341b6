import functools

import numpy as np
import pytest

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, window


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "multiply_adds"),
    [
        (lambda: ones(3, 4) @ ones(4, 5), 3 * 4 * 5),
        (lambda: np.matmul(ones(3, 4), ones(4, 5)), 3 * 4 * 5),
        (lambda: np.matmul(ones(2, 1, 3, 4), ones(6, 4, 5)), 2 * 6 * 3 * 4 * 5),  # broadcast
        (lambda: ones(4) @ ones(4), 4),
        (lambda: ones(2, 3, 4) @ ones(4), 2 * 3 * 4),
        (lambda: ones(0, 4) @ ones(4, 5), 0),
        (lambda: np.matmul(ones(4, 3), ones(4, 5), axes=[(1, 0), (0, 1), (0, 1)]), 3 * 4 * 5),
        (lambda: np.matmul(ones(3, 4), ones(4, 5), out=ones(3, 5)) @ ones(5, 2), 60 + 30),
        (lambda: np.dot(ones(2, 3, 4), ones(5, 4, 6)), 2 * 3 * 5 * 6 * 4),
        (lambda: ones(3, 4).dot(ones(4, 5)), 3 * 4 * 5),
        (lambda: np.dot(ones(3, 4), 2.0), 0),
        (lambda: np.inner(ones(3, 4), ones(5, 4)), 3 * 5 * 4),
        (lambda: np.vdot(ones(3, 4), ones(3, 4)), 12),
        (lambda: np.vecdot(ones(3, 4), ones(3, 4)), 12),
        (lambda: np.tensordot(ones(3, 4, 5), ones(4, 5, 6)), 3 * 6 * 20),
        (lambda: np.tensordot(ones(3, 4), ones(5, 3), axes=([0], [1])), 4 * 5 * 3),
        (lambda: np.linalg.multi_dot([ones(3, 4), ones(4, 5), ones(5, 6)]), 60 + 90),
        (lambda: np.einsum("id,jd->ij", ones(3, 4), ones(5, 4)), 3 * 4 * 5),
        (lambda: np.einsum("id,jd->ij", ones(3, 4), ones(5, 4), optimize=True), 3 * 4 * 5),
        (lambda: np.einsum("...id,...jd->...ij", ones(2, 3, 4), ones(5, 4)), 2 * 3 * 4 * 5),
        (lambda: np.einsum("...id, ...jd", ones(2, 3, 4), ones(2, 5, 4)), 2 * 3 * 4 * 5),
        (lambda: np.einsum("...ij,...ij->...i", ones(3, 4), ones(3, 4)), 12),
        (lambda: np.einsum("ij->ji", ones(3, 4)), 0),
        (
            lambda: np.einsum("ij,jk,kl->il", ones(4, 5), ones(5, 6), ones(6, 3), optimize=True),
            5 * 6 * 3 + 4 * 5 * 3,
        ),
        (lambda: ones(3, 4) * ones(3, 4) + np.exp(ones(3, 4)), 0),
    ],
)
def test_count_flops_is_exact(call, multiply_adds):
    plain = call()
    assert measure.count_flops(call) == 2 * multiply_adds
    seen = []
    measure.count_flops(lambda: seen.append(call()))
    np.testing.assert_array_equal(seen[0], plain)


def test_count_flops_survives_what_drops_a_subclass():
    def call(q, k):
        k = np.asarray(k)
        near = np.lib.stride_tricks.sliding_window_view(k, 3, axis=0)
        strided = np.lib.stride_tricks.as_strided(k, (2, 4), k.strides)
        picked = np.where(k > 0, k, 0)[np.arange(5)].astype(np.float64).reshape(5, 4)
        acc = np.zeros((4, 4))
        acc += picked.T @ picked
        return near @ np.ones(3) @ acc, strided @ acc, np.concatenate([picked, picked]) @ acc

    expected = (3 * 4 * 3 + 3 * 4 * 4) + 2 * 4 * 4 + 10 * 4 * 4 + 4 * 5 * 4
    assert measure.count_flops(call, ones(3, 4), ones(5, 4)) == 2 * expected


def test_count_flops_sees_arrays_inside_containers_and_keywords():
    def call(pair, *, table):
        return pair[0] @ pair[1] @ table["v"]

    flops = measure.count_flops(call, (ones(2, 3), ones(3, 4)), table={"v": ones(4, 5)})
    assert flops == 2 * (2 * 3 * 4 + 2 * 4 * 5)


def test_count_flops_puts_numpy_back_even_after_an_error():
    before = {name: getattr(np, name) for name in measure.flops._ARRAY_MAKERS}
    with pytest.raises(ValueError, match="matmul"):
        measure.count_flops(lambda: ones(3, 4) @ ones(3, 4))
    assert all(getattr(np, name) is function for name, function in before.items())


def test_count_flops_refuses_what_it_cannot_count():
    with pytest.raises(NotImplementedError, match=r"np\.einsum"):
        measure.count_flops(lambda: np.einsum(ones(2, 3), [0, 1], ones(3, 2), [1, 2]))


def test_counted_calls_change_nothing_for_the_references():
    q, k, v = random_qkv(100, 130, heads=2, width=8)
    for call in (
        lambda q, k, v: full.attention(q, k, v, causal=True),
        lambda q, k, v: window.attention(q, k, v, window=9, dilation=2),
    ):
        expected, seen = call(q, k, v), []
        measure.count_flops(lambda *args, call=call, seen=seen: seen.append(call(*args)), q, k, v)
        np.testing.assert_array_equal(np.asarray(seen[0]), expected)


def test_count_flops_of_full_attention_is_its_cost():
    q, k, v = random_qkv(60, 70, heads=3, batch=2, width=16)
    assert measure.count_flops(full.attention, q, k, v) == 4 * 2 * 3 * 60 * 70 * 16


def test_count_flops_inside_count_flops_counts_for_both():
    inner = []

    def outer(a, b):
        a @ b
        inner.append(measure.count_flops(np.matmul, a, b))
        inner.append(measure.count_flops(lambda: ones(2, 3) @ ones(3, 4)))
        return a @ b

    flops = measure.count_flops(outer, ones(3, 4), ones(4, 5))
    assert inner == [2 * 60, 2 * 24]
    assert flops == 3 * 2 * 60 + 2 * 24


def test_count_flops_forgets_an_inner_one_that_failed():
    def outer(a):
        with pytest.raises(ZeroDivisionError):
            measure.count_flops(lambda: 1 / 0)
        return a @ a

    assert measure.count_flops(outer, ones(3, 3)) == 2 * 27
    assert measure.count_flops(outer, ones(3, 3)) == 2 * 27


@pytest.mark.parametrize("held", ["argument", "closure"])
def test_count_flops_counts_the_products_of_tensors_too(held):
    torch = pytest.importorskip("torch")
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    call = (np.matmul, ones(3, 4), ones(4, 5))
    if held == "argument":
        assert measure.count_flops(torch.matmul, a, b) == 2 * 60
    else:
        assert measure.count_flops(lambda: a @ b) == 2 * 60
    both = measure.count_flops(lambda: (a @ b, measure.count_flops(*call)))
    assert both == 2 * 60 + 2 * 60
    twice = measure.count_flops(lambda: (a @ b, measure.count_flops(torch.matmul, a, b)))
    assert twice == 2 * 60 + 2 * 60


GLOBAL = ones(3, 4)


class Holder:
    def __init__(self, array):
        self.array = array

    def product(self, other):
        return other @ GLOBAL


def test_count_flops_sees_arrays_that_a_function_carries():
    a, b = ones(3, 4), ones(4, 5)
    pair = (a, b)
    calls = {
        "closure": lambda: a @ b,
        "tuple in a closure": lambda: pair[0] @ pair[1],
        "default": lambda x=a, y=b: x @ y,
        "partial": functools.partial(np.matmul, a, out=None),
        "global": lambda: GLOBAL @ GLOBAL.T,
        "method": Holder(a).product,
    }
    more = {"partial": (b,), "method": (ones(5, 3),)}
    flops = {how: measure.count_flops(f, *more.get(how, ())) for how, f in calls.items()}
    assert flops == dict.fromkeys(calls, 2 * 60) | {"global": 2 * 3 * 4 * 3}
    assert {type(x) for x in (a, b, *pair, GLOBAL)} == {np.ndarray}
    assert calls["default"].__defaults__[0] is a

    assert measure.count_flops(lambda *, x=a: x @ b) == 2 * 60

    def rebinds():
        nonlocal a
        a = a @ b
        return a

    assert measure.count_flops(rebinds) == 2 * 60 and a.shape == (3, 5)


HEADS = ones(8, 10, 20)


def generated():
    for head in HEADS:
        yield head @ head.T


def scores():
    return [HEADS[h] @ HEADS[h].T for h in range(8)]


def with_itself(array, other=HEADS, *, again=HEADS):
    return array @ other[0].T if array is not other else again


def repeated(times):
    return repeated(times - 1) if times else sum(generated())


@pytest.mark.parametrize(
    "call",
    [
        scores,
        lambda: [HEADS[h] @ HEADS[h].T for h in range(8)],
        lambda: {h: HEADS[h] @ HEADS[h].T for h in range(8)},
        lambda: sum(HEADS[h] @ HEADS[h].T for h in range(8)),
        lambda: (lambda: (lambda: HEADS @ HEADS.swapaxes(1, 2))())(),
        lambda: list(map(lambda head: head @ head.T, HEADS)),
        lambda: list(generated()),
        lambda: scores(),
        lambda: [with_itself(head) for head in HEADS],
        lambda: repeated(3),
        lambda helper=scores: helper(),
    ],
)
def test_count_flops_sees_globals_of_nested_code_and_of_helpers(call):
    assert measure.count_flops(call) == 2 * 8 * 10 * 20 * 10
    assert {type(x) for x in (HEADS, *with_itself.__defaults__)} == {np.ndarray}
    assert type(with_itself.__kwdefaults__["again"]) is np.ndarray


def test_count_flops_sees_what_local_helpers_carry():
    q, k = ones(6, 4), ones(7, 4)

    def helper():
        return full.attention(q, k, k)

    bound = Holder(q).product
    assert measure.count_flops(lambda: helper()) == 4 * 6 * 7 * 4
    assert measure.count_flops(lambda: bound(ones(5, 3))) == 2 * 5 * 3 * 4
    assert type(q) is type(GLOBAL) is np.ndarray


@pytest.mark.parametrize(("heads", "causal"), [(1, False), (3, False), (3, True)])
def test_count_flops_counts_the_attention_of_torch(heads, causal):
    torch = pytest.importorskip("torch")
    attend = torch.nn.functional.scaled_dot_product_attention
    q, k = torch.ones(2, heads, 64, 32), torch.ones(2, heads, 16, 32)
    for key in (q, k):
        expected = 4 * 2 * heads * 64 * key.shape[-2] * 32
        assert measure.count_flops(attend, q, key, key, is_causal=causal) == expected
    one = torch.ones(1, 1, 64, 32)
    assert measure.count_flops(attend, one, one, one) == 524_288

    leaf = q.clone().requires_grad_()
    flops = measure.count_flops(lambda: attend(leaf, leaf, leaf).sum().backward())
    # scores and output; scores again, and a gradient for each operand of both products
    assert flops == (2 + 5) * 2 * 2 * heads * 64 * 64 * 32
