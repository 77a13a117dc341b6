import pytest
import torch
from torch import nn

from attncourse.training import mixed_precision
from attncourse.training.mixed_precision import LossScaler, MixedPrecision

HALF = torch.float16


def sgd(lr):
    return lambda masters: torch.optim.SGD(masters, lr=lr)


def one_weight(value=1.0):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def test_float16_and_bfloat16_follow_float32_training():
    def data():
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(256, 8, generator=draw)
        return x, torch.tanh(x @ torch.randn(8, 1, generator=draw))

    def network():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    x, target = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    expected = (model(x) - target).square().mean().item()
    for dtype, scaler in ((HALF, LossScaler()), (torch.bfloat16, None)):
        trained = MixedPrecision(network(), sgd(0.1), dtype, scaler)
        steps = []
        for _ in range(60 + 8):
            loss = (trained.model(x.to(dtype)).float() - target).square().mean()
            steps.append(trained.step(loss))
            if sum(steps) == 60:
                break
        assert sum(steps) == 60 and all(p.dtype == dtype for p in trained.model.parameters())
        found = (trained.model(x.to(dtype)).float() - target).square().mean().item()
        assert found == pytest.approx(expected, rel=0.05)


def test_masters_keep_updates_that_float16_weights_would_lose():
    updates = 1000 * [1e-4]  # each below half of float16's step at 1, 4.9e-4
    weight = torch.ones((), dtype=HALF)
    for update in updates:
        weight = weight + torch.tensor(update, dtype=HALF)
    assert weight == 1  # nothing ever happened
    model = one_weight()
    training = MixedPrecision(model, sgd(1e-4))
    for _ in updates:
        assert training.step(-model(torch.ones(1, 1, dtype=HALF)).sum())
    assert training.masters[0].item() == pytest.approx(1.1, abs=1e-4)
    assert model.weight.item() == pytest.approx(1.1, abs=5e-4)


def test_underflow_is_lost_without_a_scale_and_kept_with_one():
    tiny = 1e-9

    def trained(scaler):
        model = one_weight(0.5)
        training = MixedPrecision(model, sgd(1e8), HALF, scaler)
        # y = tiny · w in float32, so that the gradient enters float16 as tiny · scale
        assert training.step(model.weight.float().sum() * tiny)
        return training.masters[0].item()

    assert trained(None) == 0.5  # 1e-9 is 0 in float16
    assert trained(LossScaler(2.0**16)) == pytest.approx(0.5 - 0.1, rel=1e-2)


def test_share_of_gradients_that_underflow():
    gradients = [torch.tensor([1e-9, 1e-7, 1e-3, 0.0]), torch.tensor([-1e-10, 2e-8])]
    assert mixed_precision.underflow(gradients, HALF) == 3 / 5  # 5.96e-8 is the least, half rounds
    assert mixed_precision.underflow(gradients, HALF, scale=2.0**16) == 0
    assert mixed_precision.underflow(gradients, torch.bfloat16) == 0
    assert mixed_precision.underflow([torch.zeros(3)], HALF) == 0
    assert mixed_precision.underflow([torch.tensor([2.0**-25]), torch.ones(1)], HALF) == 0.5
    assert mixed_precision.underflow([torch.tensor([2.0**-24])], HALF) == 0


def test_an_overflow_skips_the_step_and_halves_the_scale_until_it_fits():
    model = one_weight()
    training = MixedPrecision(model, sgd(1.0), HALF, LossScaler(2.0**20))
    one = torch.ones(1, 1, dtype=HALF)
    outcomes = [training.step(0.125 * model(one).float().sum()) for _ in range(7)]
    # 0.125 · 2^20 = 131072 overflows, so does 65536; 32768 does not
    assert outcomes == [False, False, True, True, True, True, True]
    assert training.scaler.scale == 2.0**18 and training.scaler.skipped == 2
    assert training.masters[0].item() == 1 - 5 * 0.125  # a skipped step changes nothing


def test_the_scale_doubles_after_enough_good_steps_in_a_row():
    scaler = LossScaler(4.0, interval=3)
    for finite in (True, True, False, True, True, True, True):
        scaler.update(finite)
    assert scaler.scale == 4.0 and scaler.skipped == 1  # halved once, doubled once
    for _ in range(10):
        scaler.update(False)
    assert scaler.scale == 1.0


def test_what_is_not_finite_for_another_reason_is_skipped_too():
    model = one_weight()
    training = MixedPrecision(model, sgd(1.0), torch.bfloat16)
    assert training.step(model.weight.sum() * torch.nan) is False
    assert training.masters[0].item() == 1 and model.weight.grad is None


def test_a_weight_without_a_gradient_is_left_alone():
    model = nn.ModuleList([one_weight(), one_weight(3.0)])
    training = MixedPrecision(model, sgd(0.5))
    assert training.step(model[0](torch.ones(1, 1, dtype=HALF)).sum())
    assert [master.item() for master in training.masters] == [0.5, 3.0]


def test_only_the_activations_halve():
    # Claim C020: "lower precision significantly reduces memory"
    assert mixed_precision.state_bytes(10, mixed=False) == 160
    assert mixed_precision.state_bytes(10, mixed=True) == 160
    assert mixed_precision.state_bytes(10, mixed=True, moments=0) == 80
    model = nn.Linear(32, 32, bias=False)
    training = MixedPrecision(model, lambda masters: torch.optim.Adam(masters))
    training.step(model(torch.randn(4, 32, dtype=HALF)).float().sum())
    state = [t for s in training.optimizer.state.values() for t in s.values() if t.ndim]
    held = sum(t.nbytes for t in (*model.parameters(), *training.masters, *state))
    gradients = sum(p.nbytes for p in model.parameters())
    assert held + gradients == mixed_precision.state_bytes(1024, mixed=True)

    def kept(dtype):
        saved = []
        x = torch.randn(64, 32, dtype=dtype, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(t.nbytes), lambda t: t
        ):
            torch.tanh(x).exp()
        return sum(saved)

    assert kept(HALF) * 2 == kept(torch.float32)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype must be torch.float16 or .*got torch.float32"):
        MixedPrecision(one_weight(), sgd(1.0), torch.float32)
