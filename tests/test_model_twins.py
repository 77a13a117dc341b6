"""The mechanisms in torch have the numbers of their references, and gradients that fit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attncourse.model import twins  # noqa: E402
from attncourse.model.attention import Attention  # noqa: E402

KNOBS = {
    "full": {},
    "flash": {},
    "chunked": {"chunk": 7},
    "kv_cache": {},
    "paged": {"page": 4},
    "window": {"window": 5, "dilation": 2},
    "strided": {"stride": 3},
    "random_keys": {"n_random": 3},  # some see nobody
    "longformer": {"window": 3, "global_tokens": 2},
    "bigbird": {"block": 4, "random_blocks": 1, "global_blocks": 1, "window_blocks": 1},
    "sparse_transformer": {"stride": 4},
    "segment": {"chunk": 6, "memory": 4},
    "topk": {"keep": 5},
    "block_topk": {"block": 4, "keep": 3, "choose_every": 2},
    "lsh": {"n_buckets": 4, "n_rounds": 2, "chunk": 5},
    "pooled": {"pool": 4},
    "linear": {},
    "performer": {"n_features": 40},
    "quantised_cache": {"group": 8},
    "grouped": {"groups": 2},
}


def drawn(n=27, width=8):
    rng = np.random.default_rng(0)
    return [2 * rng.standard_normal((2, 4, n, width)) for _ in range(3)]


def test_each_twin_is_tried():
    assert KNOBS.keys() == {*twins.EXACT, *twins.PATTERNS, *twins._TWINS}


@pytest.mark.parametrize("stem", KNOBS)
def test_a_twin_has_the_numbers_of_its_reference(stem):
    attention, arrays = Attention.of(stem, **KNOBS[stem]), drawn()
    right = attention(*arrays)
    out = twins.twin(attention)(*map(torch.from_numpy, arrays))
    np.testing.assert_allclose(out, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem", ["pooled", "topk", "quantised_cache", "performer"])
def test_a_text_may_be_shorter_than_a_knob(stem):
    attention, arrays = Attention.of(stem, **KNOBS[stem]), drawn(3)
    out = twins.twin(attention)(*map(torch.from_numpy, arrays))
    np.testing.assert_allclose(out, attention(*arrays), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem", ["window", "topk", "pooled", "performer", "linear"])
def test_gradients_are_those_of_differences(stem):
    attention = Attention.of(stem, **KNOBS[stem])
    tensors = [torch.from_numpy(x[:1, :1, :9, :2]).requires_grad_() for x in drawn()]
    assert torch.autograd.gradcheck(twins.twin(attention), tensors)


@pytest.mark.parametrize("stem", ["lsh", "block_topk", "quantised_cache", "grouped", "random_keys"])
def test_gradients_are_finite_and_reach_all(stem):
    tensors = [torch.from_numpy(x).requires_grad_() for x in drawn()]
    twins.twin(Attention.of(stem, **KNOBS[stem]))(*tensors).square().sum().backward()
    for tensor in tensors:
        assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


def test_what_has_no_twin_is_said():
    with pytest.raises(ValueError, match=r"twins\.twin: scoring has none; these have: .*window"):
        twins.twin(Attention.of("scoring"))
