"""Where a block has its layer norm: a small language model, trained with it in either place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncourse.inputs import check_count, check_flag

WIDTH, HEADS, CONTEXT, BATCH, RATE = 32, 4, 24, 8, 3e-3


class Block(nn.Module):
    """Causal self-attention and an MLP, each with a residual path and a norm."""

    def __init__(self, *, pre: bool):
        """Draw the weights as torch does.

        Args:
            pre: x + part(norm(x)) if true, else norm(x + part(x)).
        """
        super().__init__()
        self.pre = pre
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (batch, tokens, width)."""
        for norm, part in zip(self.norms, (self._attend, self._mlp), strict=True):
            x = x + part(norm(x)) if self.pre else norm(x + part(x))
        return x

    def _attend(self, x: Tensor) -> Tensor:
        heads = self.project(x).unflatten(-1, (3, HEADS, -1))  # (batch, tokens, 3, heads, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.merge(out.transpose(1, 2).flatten(2))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


@dataclass(frozen=True)
class Trained:
    """What a short training showed.

    Attributes:
        losses: Of each step, in nats a letter.
        before: The gradient's norm at the input of each block before training, over that of the
            last one.
        after: The same once training was over.
    """

    losses: list[float]
    before: list[float]
    after: list[float]


def train(text: str, *, depth: int, pre: bool, steps: int = 25, seed: int = 0) -> Trained:
    """Train blocks to predict a text letter by letter, at one learning rate and without warm-up.

    Args:
        text: More than 24 letters.
        depth: Blocks.
        pre: Whether a block begins with its norms; see `Block`.
        steps: Of Adam, each with 8 stretches of the text.
        seed: Of weights and stretches; torch's own random numbers go on as if nothing was drawn.

    Raises:
        ValueError: The text is too short.
    """
    depth = check_count("norms.train", "depth", depth, least=1)
    steps = check_count("norms.train", "steps", steps, least=1)
    pre = check_flag("norms.train", "pre", pre)
    if len(text) <= CONTEXT:
        raise ValueError(
            f"norms.train: text must have more than {CONTEXT} letters, got {len(text)}"
        )
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(letter) for letter in text])
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = _Model(len(letters), depth, pre)
        adam = torch.optim.Adam(model.parameters(), RATE, fused=True)
        probe, losses = _stretches(ids), []
        before = _gradients(model, probe)
        for _ in range(steps):
            loss = model.loss(_stretches(ids))
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        return Trained(losses, before, _gradients(model, probe))


class _Model(nn.Module):
    def __init__(self, letters: int, depth: int, pre: bool):
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block(pre=pre) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters))

    def loss(self, stretches: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """Return the mean loss of stretches (batch, CONTEXT + 1); `inputs` gets each block's."""
        x = self.letters(stretches[:, :-1]) + self.places.weight
        for block in self.blocks:
            if inputs is not None:
                inputs.append(x)
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), stretches[:, 1:].flatten())


def _stretches(ids: Tensor) -> Tensor:
    first = torch.randint(len(ids) - CONTEXT, (BATCH, 1))
    return ids[first + torch.arange(CONTEXT + 1)]


def _gradients(model: _Model, stretches: Tensor) -> list[float]:
    inputs: list[Tensor] = []
    loss = model.loss(stretches, inputs)
    norms = [float(grad.norm()) for grad in torch.autograd.grad(loss, inputs)]
    return [norm / norms[-1] for norm in norms]
