"""What a second run of a module must find as the first one did, by both ways to recompute."""

import contextlib

import pytest
import torch
from torch import nn

from attncourse.training import checkpointing, reversible
from attncourse.training.reversible import Block

WIDTH = 6


class Noise(nn.Module):
    """Adds numbers drawn on the CPU, as a layer that is dropped as a whole does."""

    def forward(self, x):
        return x + torch.rand(())


class Counter(nn.Module):
    """Multiplies by how often it was called: what it computes depends on its buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Rebinding(nn.Module):
    """The same with a new tensor each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x * self.calls


class OwnPrecision(nn.Module):
    """Leaves autocast for its product."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.inner(x.float())


def linear():
    return nn.Linear(WIDTH, WIDTH)


class Shared(nn.Module):
    """Two products with one matrix."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return torch.tanh(x @ self.weight) @ self.weight


def tied():
    weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
    return [Shared(weight), nn.Linear(WIDTH, WIDTH), Shared(weight), Shared(weight)]


def frozen():
    layers = [linear() for _ in range(4)]
    layers[1].requires_grad_(False)
    layers[2].bias.requires_grad_(False)
    return layers


def spectral():
    norm = nn.utils.parametrizations.spectral_norm
    return [norm(linear()) for _ in range(4)]


def twice():
    layer, other = nn.Sequential(linear(), nn.Dropout(0.5)), linear()
    return [layer, other, other, layer]


CASES = {
    "plain": lambda: [linear() for _ in range(4)],
    "dropout": lambda: [linear(), nn.Dropout(0.5), linear(), nn.Dropout(0.3)],
    "numbers of the CPU": lambda: [linear(), Noise(), linear(), Noise()],
    "BatchNorm": lambda: [linear(), nn.BatchNorm1d(WIDTH), linear(), nn.BatchNorm1d(WIDTH)],
    "running mean of all": lambda: [nn.BatchNorm1d(WIDTH, momentum=None), linear()] * 2,
    "spectral norm": spectral,
    "counters": lambda: [Counter(), linear(), Rebinding(), linear()],
    "own precision": lambda: [OwnPrecision(), linear(), OwnPrecision(), linear()],
    "frozen": frozen,
    "tied": tied,
    "used twice": twice,
}
PRECISIONS = {
    "float32": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast, off inside": lambda: _nested(torch.bfloat16, enabled=False),
    "autocast, float16 inside": lambda: _nested(torch.float16),
}


@contextlib.contextmanager
def _nested(dtype, enabled=True):
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", dtype, enabled=enabled):
        yield


def checkpointed(layers, x, *, recompute):
    return checkpointing.forward(layers, x, every=2 if recompute else None)


def reversed_back(layers, x, *, recompute):
    blocks = nn.ModuleList(Block(f, g) for f, g in zip(layers[::2], layers[1::2], strict=True))
    halves = x, x.flip(-1)
    if recompute:
        return torch.cat(reversible.forward(blocks, *halves))
    for block in blocks:
        halves = block(*halves)
    return torch.cat(halves)


def step(run, make, precision, *, recompute, inside=False):
    """Output, gradients, buffers and the generator's next number of one training step."""
    torch.manual_seed(0)
    layers = nn.ModuleList(make())
    with torch.no_grad():
        for (
            parameter
        ) in layers.parameters():  # few bits: what is added to a half is taken off whole
            parameter.copy_((parameter * 16).round() / 16)
    x = (torch.randn(8, WIDTH) * 16).round().div(16).requires_grad_()
    with precision():
        out = run(layers, x, recompute=recompute)
        loss = out.float().square().mean()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    grads = {name: parameter.grad for name, parameter in layers.named_parameters()}
    buffers = dict(layers.named_buffers())
    return {
        "out": out.detach(),
        "x": x.grad,
        **grads,
        **buffers,
        "next": torch.rand(()),
    }


def allowed(run, case, precision):
    """How far off a gradient may be, as a share of the largest."""
    if case in {"tied", "used twice", "running mean of all"}:
        # Several gradients of one weight: autocast adds them up in 16 bits, recomputation in 32
        return 2 * torch.finfo(torch.bfloat16).eps if "autocast" in precision else 1e-6
    return 0 if run is checkpointed else 1e-5


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_a_recomputed_step_is_the_plain_step(run, case, precision, inside):
    kept, again = (
        step(run, CASES[case], PRECISIONS[precision], recompute=recompute, inside=inside)
        for recompute in (False, True)
    )
    assert kept.keys() == again.keys()
    gradients = {"x", *dict(nn.ModuleList(CASES[case]()).named_parameters())}
    for name, expected in kept.items():
        assert (again[name] is None) == (expected is None), name
        if expected is not None:
            assert again[name].dtype == expected.dtype, name
            off = (again[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
            assert off <= (allowed(run, case, precision) if name in gradients else 0), name


@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_input_changed_in_place_is_refused(run):
    where = "checkpointing" if run is checkpointed else "reversible"
    x = torch.randn(8, WIDTH)
    with pytest.raises(ValueError, match=rf"{where}\.forward: a layer must not change its input"):
        run([nn.ReLU(inplace=True), linear()], x, recompute=True)
    run([linear(), nn.ReLU()], x, recompute=True)


@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_parameters_changed_before_the_backward_pass_are_noticed(run):
    layers = nn.ModuleList([linear(), linear()])
    out = run(layers, torch.randn(8, WIDTH), recompute=True)
    with torch.no_grad():
        layers[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_a_second_derivative_is_refused(run):
    x = torch.randn(8, WIDTH, requires_grad=True)
    out = run([linear(), nn.Tanh()], x, recompute=True)
    with pytest.raises(RuntimeError, match=r"forward: gradients of gradients are not computed"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize("run", [checkpointed, reversed_back])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_plain_run(run, mode):
    layers, x = [linear(), nn.BatchNorm1d(WIDTH)], torch.randn(8, WIDTH)
    with mode():
        again = run(layers, x * 1, recompute=True)
        assert torch.equal(again, run(layers, x * 1, recompute=False))
        assert layers[1].num_batches_tracked == 2


@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(run):
    layers, x = nn.ModuleList([Counter(), nn.BatchNorm1d(WIDTH)]), torch.randn(8, WIDTH)
    x.requires_grad_()
    out = run(layers, x, recompute=True).square().sum()
    grads = [torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads) and layers[0].calls == 1


@pytest.mark.gpu
@pytest.mark.parametrize("run", [checkpointed, reversed_back])
def test_a_gpu_draws_the_same_numbers_again_in_16_bits(run):
    layers = nn.ModuleList([linear(), nn.Dropout(0.5), linear(), nn.Dropout(0.5)]).cuda()
    x = torch.randn(8, WIDTH, device="cuda")
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        layers.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            run(layers, x, recompute=recompute).float().square().sum().backward()
        found.append([parameter.grad.clone() for parameter in layers.parameters()])
    for expected, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0.05, atol=0.05)
