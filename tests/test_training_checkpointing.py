import itertools

import pytest
import torch
from torch import nn

from attncourse import claims
from attncourse.training import checkpointing, checkpointing_cost


def layers_of(n, width=6, seed=0):
    torch.manual_seed(seed)
    layer = lambda: nn.Sequential(nn.Linear(width, width), nn.Tanh())  # noqa: E731
    return nn.ModuleList(layer() for _ in range(n)).double()


def gradients(layers, x, **knobs):
    layers.zero_grad()
    x = x.clone().requires_grad_()
    out = checkpointing.forward(layers, x, **knobs)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(parameter.grad.clone() for parameter in layers.parameters())]


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("n", [1, 5, 7])
def test_output_and_gradients_are_those_of_plain_autograd(n, every):
    layers, x = layers_of(n), torch.randn(4, 6, dtype=torch.double)
    kept = gradients(layers, x)
    recomputed = gradients(layers, x, every=every)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


def test_gradients_agree_with_finite_differences():
    layers = layers_of(3, width=3)
    x = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: checkpointing.forward(layers, x, every=2), (x,))


def test_agrees_with_torch_checkpoint():
    layers, x = layers_of(4), torch.randn(4, 6, dtype=torch.double)
    mine = gradients(layers, x, every=2)
    layers.zero_grad()
    x = x.clone().requires_grad_()
    out = torch.utils.checkpoint.checkpoint_sequential(layers, 2, x, use_reentrant=False)
    out.square().sum().backward()
    theirs = [out, x.grad, *(parameter.grad for parameter in layers.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_no_layers_and_no_gradients():
    x = torch.randn(2, 3)
    assert checkpointing.forward([], x, every=2) is x
    with torch.no_grad():
        assert checkpointing.forward(layers_of(3, 3).float(), x, every=2).requires_grad is False


def test_frozen_parameters_and_inputs_without_gradients():
    layers = layers_of(4)
    layers[0].requires_grad_(False)
    x = torch.randn(4, 6, dtype=torch.double)
    checkpointing.forward(layers, x, every=2).sum().backward()
    assert all(parameter.grad is None for parameter in layers[0].parameters())
    assert all(parameter.grad is not None for parameter in layers[1:].parameters())


def test_dropout_drops_the_same_numbers_again():
    layers = nn.ModuleList([nn.Dropout(0.5), nn.Linear(6, 6), nn.Dropout(0.5)]).double()
    x = torch.randn(4, 6, dtype=torch.double)
    torch.manual_seed(3)
    kept = gradients(layers, x)
    torch.manual_seed(3)
    recomputed = gradients(layers, x, every=3)
    after = torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
    torch.manual_seed(3)
    checkpointing.forward(layers, x)
    assert torch.equal(after, torch.rand(1))  # the backward pass leaves the generator alone


@pytest.mark.parametrize(
    ("n_layers", "every"), list(itertools.product((2, 5, 12, 16), (None, 1, 2, 3, 4, 12)))
)
def test_what_is_measured_is_what_the_formula_says(n_layers, every):
    predicted = checkpointing_cost.predict(n_layers, every, 8192, 8)
    measured = checkpointing_cost.measured(n_layers, every, 8192, 8)
    assert (measured.layer_runs, measured.held) == (predicted.layer_runs, predicted.held)
    assert abs(measured.peak_bytes / predicted.peak_bytes - 1) < 0.05


def test_memory_is_least_near_the_square_root():
    assert [checkpointing_cost.best_every(n) for n in (1, 4, 9, 16, 100, 10_000)] == [
        *(1, 2, 3, 4, 10, 100)
    ]
    for n in range(1, 200):
        held = checkpointing_cost.predict(n, checkpointing_cost.best_every(n), 1, 1).held
        assert n**0.5 * 2 - 1e-9 <= held < n**0.5 * 2 + 1


def test_the_published_claims():
    # C295 and C297: every 3rd of 12 layers holds 7 units, 1.7 times less and not 3 times less
    held = checkpointing_cost.predict(12, 3, 1, 1).held
    assert held == claims.recompute("C295") == 7
    assert 12 / held == pytest.approx(claims.recompute("C297"), rel=1e-3)
    # C029 and C296: 4/3 of the FLOPs, not twice
    for name in ("C029", "C296"):
        assert checkpointing_cost.compute_ratio() == pytest.approx(claims.recompute(name), rel=1e-3)


def test_bad_segments_are_refused():
    for every, error in ((0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"checkpointing.forward: every must be .*{every}"):
            checkpointing.forward(layers_of(2), torch.randn(1, 6).double(), every=every)
    with pytest.raises(ValueError, match=r"checkpointing_cost.predict: every must be at least 1"):
        checkpointing_cost.predict(4, 0, 1, 1)
