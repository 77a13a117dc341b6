"""The same transformer in torch, where gradients are needed: to train it and to tune it.

`attncourse.model.decoder` is the definition; a test holds both to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from attncourse.model.decoder import Shape

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Full causal attention: (B, H, T, D) to (B, H, T, D)."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class Network(nn.Module):
    """A decoder without cross-attention; its parameters bear the names of the shipped weights.

    Args:
        shape: Its sizes.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.n_ids, shape.width) / shape.width**0.5)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.norm = nn.Parameter(torch.ones(shape.width))

    def forward(
        self, ids: torch.Tensor, attend: Attend | Sequence[Attend] = causal
    ) -> torch.Tensor:
        """Return the logits (B, T, n_ids) of the next id after each of `ids`, int64 (B, T).

        Args:
            ids: A text in each row.
            attend: The attention of all layers, or one for each.
        """
        x, angle = self.read(ids)
        each = [attend] * len(self.layers) if callable(attend) else attend
        for layer, one in zip(self.layers, each, strict=True):
            x = layer(x, angle, one)
        return self.logits(x)

    def read(self, ids: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """Return what enters the first layer, (B, T, width), and the angles of the positions."""
        x = self.embedding[ids] * self.shape.width**0.5
        return x, _angles(ids.shape[-1], self.shape.head_width, self.shape.base)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, T, n_ids) of what leaves the last layer."""
        return norm(x, self.norm) @ self.embedding.T

    def loss(self, ids: torch.Tensor, attend: Attend | Sequence[Attend] = causal) -> torch.Tensor:
        """Return the mean of -log p, in nats, over all ids (B, T) but the first of each row."""
        return mean_loss(self(ids[:, :-1], attend), ids)


class Layer(nn.Module):
    """Attention and a position-wise MLP, each after a norm and added to what comes in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads = shape.n_heads
        width, hidden = shape.width, shape.hidden
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.randn(3 * width, width) / width**0.5)
        self.out = nn.Parameter(torch.zeros(width, width))
        self.mlp_norm = nn.Parameter(torch.ones(width))
        self.up = nn.Parameter(torch.randn(hidden, width) / width**0.5)
        self.down = nn.Parameter(torch.zeros(width, hidden))

    def forward(self, x: torch.Tensor, angle: tuple, attend: Attend) -> torch.Tensor:
        """Return (B, T, width) for (B, T, width)."""
        x = x + self.attention(x, angle, attend)
        return x + self.mlp(x)

    def attention(self, x: torch.Tensor, angle: tuple, attend: Attend) -> torch.Tensor:
        """Return what attention adds to x."""
        qkv = norm(x, self.attention_norm) @ self.qkv.T
        q, k, v = qkv.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        out = attend(rotate(q, *angle), rotate(k, *angle), v)
        return out.transpose(1, 2).flatten(2) @ self.out.T

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the MLP adds to x."""
        hidden = functional.relu(norm(x, self.mlp_norm) @ self.up.T).square()
        return hidden @ self.down.T


def mean_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log p, in nats, of ids (B, T + 1) whose logits are (B, T, n_ids)."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Return x over its root mean square, times a gain for each column."""
    return functional.rms_norm(x, x.shape[-1:], gain, eps=1e-5)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return q or k turned by its position, pair by pair, as `relative.rotate` does."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def _angles(n_tokens: int, width: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    rate = torch.exp(-math.log(base) * torch.arange(0, width, 2) / width)
    angle = torch.arange(n_tokens)[:, None] * rate
    return angle.cos(), angle.sin()
