"""What checkpointing saves and costs: the formula, and a step of a plain network to hold it to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncourse import measure
from attncourse.inputs import check_count
from attncourse.training import checkpointing


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
    being recomputed: ceil(L / k) + k, least near k = √L. Then two gradients of that size, if L > 1.

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
        every = check_count("checkpointing_cost.predict", "every", every, least=1)
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
        tokens: n, so large that n · d hides the d · d parameters.
        width: d.
    """
    layers = [_Layer(width) for _ in range(n_layers)]
    x = torch.randn(tokens, width)

    def step(x: Tensor) -> None:
        for layer in layers:
            layer.runs = 0
        out = checkpointing.forward(layers, x, every=every)
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
