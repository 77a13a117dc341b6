"""The course's model as it trains, with a technique that saves memory: the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attncourse.model.network import Attend, Layer, Network, causal, mean_loss
from attncourse.training import checkpointing, reversible


def loss(
    network: Network,
    ids: Tensor,
    attend: Attend = causal,
    *,
    every: int | None = None,
    reverse: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the mean of -log p, in nats.

    Args:
        network: The model.
        ids: int64 (B, T + 1).
        attend: Its attention.
        every: Layers between two checkpoints; None keeps all.
        reverse: Take each layer as a reversible block of its two parts, which is another model with
            the same weights: both halves begin as the input, and their mean is the output.
        dtype: Other than float32: what torch's autocast computes products in.
    """
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        x, angle = network.read(ids[:, :-1])
        if reverse:
            blocks = [
                reversible.Block(_Attention(layer, angle, attend), _MLP(layer))
                for layer in network.layers
            ]
            x = sum(reversible.forward(blocks, x, x)) / 2
        else:
            layers = [_Whole(layer, angle, attend) for layer in network.layers]
            x = checkpointing.forward(layers, x, every=every)
        return mean_loss(network.logits(x), ids)


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full causal attention as it is written down, with an n × n matrix of weights a head."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1) @ v


class _Whole(nn.Module):
    def __init__(self, layer: Layer, angle: tuple, attend: Attend) -> None:
        super().__init__()
        self.layer, self.angle, self.attend = layer, angle, attend

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.angle, self.attend)


class _Attention(_Whole):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer.attention(x, self.angle, self.attend)


class _MLP(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.mlp(x)
