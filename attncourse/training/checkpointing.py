"""Gradient checkpointing: keep the input of every k-th layer, compute the rest a second time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncourse import measure
from attncourse.inputs import check_count


def forward(layers: Sequence[nn.Module], x: Tensor, *, every: int | None = None) -> Tensor:
    """Return the output of layers in a row, with their activations kept or recomputed.

    Only the inputs of the segments of `every` layers live until the backward pass. There each
    segment runs forward once more, the last one first, and its activations live until its own
    backward pass is done: at most L / k + k layers are held instead of L.

    Args:
        layers: Modules from one tensor to one tensor.
        x: The input of the first.
        every: k, layers in a segment; None keeps everything.

    Returns:
        What `nn.Sequential(*layers)(x)` returns; its gradients are the same too.

    Raises:
        TypeError: `every` is no integer.
        ValueError: `every` is below 1.

    Paper:
        Chen, Xu, Zhang, Guestrin 2016, arXiv:1604.06174, section 4.
    """
    if every is None:
        return nn.Sequential(*layers)(x)
    check_count("checkpointing.forward", "every", every, least=1)
    for start in range(0, len(layers), every):
        segment = nn.Sequential(*layers[start : start + every])
        x = _Segment.apply(segment, x, *segment.parameters())
    return x


class _Segment(torch.autograd.Function):
    """A segment that forgets its activations and makes them again when they are needed."""

    @staticmethod
    def forward(ctx, segment, x, *parameters):
        ctx.segment = segment
        ctx.random = _random_state(x)
        ctx.save_for_backward(x)
        return segment(x)  # gradients are off here: nothing inside is kept

    @staticmethod
    def backward(ctx, grad):
        (saved,) = ctx.saved_tensors
        x = saved.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.enable_grad():
            _set_random_state(x, ctx.random)  # dropout drops the same numbers again
            out = ctx.segment(x)
        tensors = (x, *ctx.segment.parameters())
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
        return None, *(next(found) if tensor.requires_grad else None for tensor in tensors)


def _random_state(x: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()


def _set_random_state(x: Tensor, state: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.set_rng_state(state, x.device)
    else:
        torch.set_rng_state(state)


@dataclass(frozen=True)
class Step:
    """What a training step of L layers takes.

    Attributes:
        layer_runs: How often a layer runs forward.
        held: The most layer outputs held at once.
        peak_bytes: The most bytes held at once, parameters and their gradients aside.
    """

    layer_runs: int
    held: int
    peak_bytes: int


def predict(
    n_layers: int, every: int | None, tokens: int, width: int, dtype_bytes: int = 4
) -> Step:
    """Say what one step of `measured` takes.

    L outputs without checkpoints; with them one for each segment and those of the segment that is
    being recomputed: ceil(L / k) + k, least near k = √L. Then two gradients of that size.

    Args:
        n_layers: L.
        every: k; None keeps everything.
        tokens: n.
        width: d: a layer keeps its output, n · d numbers.
        dtype_bytes: Bytes of one number.
    """
    if every is None:
        held, layer_runs = n_layers, n_layers
    else:
        check_count("checkpointing.predict", "every", every, least=1)
        held, layer_runs = -(-n_layers // every) + min(every, n_layers), 2 * n_layers
    return Step(layer_runs, held, (held + 2) * tokens * width * dtype_bytes)


def best_every(n_layers: int) -> int:
    """Return the k that holds the fewest layers, the smallest such k: about √L."""
    return min(range(1, n_layers + 1), key=lambda k: -(-n_layers // k) + k)


def compute_ratio(*, forward: float = 1.0, backward: float = 2.0) -> float:
    """Return the FLOPs of a step with every layer recomputed over those without.

    A backward pass has two products where the forward pass has one: (1 + 1 + 2) / (1 + 2) = 4/3.

    Args:
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass, in the same unit.
    """
    return (2 * forward + backward) / (forward + backward)


def measured(n_layers: int, every: int | None, tokens: int, width: int) -> Step:
    """Run a step of L layers tanh(x W) and report what it took; `held` from the peak.

    Args:
        n_layers: L.
        every: k; None keeps everything.
        tokens: n, much larger than `width` so that the d · d parameters do not count.
        width: d.
    """
    layers = [_Layer(width) for _ in range(n_layers)]
    x = torch.randn(tokens, width)

    def step(x: Tensor) -> None:
        for layer in layers:
            layer.runs = 0
        out = forward(layers, x, every=every)
        out.sum().backward()

    peak = measure.peak_bytes(step, x)
    layer_runs = sum(layer.runs for layer in layers)
    return Step(layer_runs, round(peak / (tokens * width * x.element_size())) - 2, peak)


class _Layer(nn.Module):
    """tanh(x W), which keeps one tensor for its backward pass; it counts its runs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.tanh(x @ self.weight)
