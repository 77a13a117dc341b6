"""Reversible residual layers: the backward pass computes the inputs back from the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """y1 = x1 + F(x2), y2 = x2 + G(y1); backwards x2 = y2 - G(y1), x1 = y1 - F(x2).

    Exact on paper. In floating point each way rounds, so that a block restores its input up to
    rounding only, and errors add up over the blocks.
    """

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        """Take F and G, modules from one tensor to one of the same shape, without randomness."""
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (y1, y2)."""
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x1, x2) up to rounding."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


def forward(blocks: Sequence[Block], x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of blocks in a row and keep only these two, whatever their number.

    The backward pass goes from the last block to the first. It computes the block's inputs from
    its outputs, runs F and G once more with gradients on, and forgets both: one forward pass more,
    so 4/3 of the FLOPs, and the activations of one F or G instead of those of all.

    Args:
        blocks: The blocks; those of plain autograd would each keep their activations.
        x1: First half of the input.
        x2: Second half, of the same shape.

    Returns:
        (y1, y2) of the last block.

    Raises:
        ValueError: Halves of different shapes.

    Paper:
        Gomez, Ren, Urtasun, Grosse 2017, arXiv:1707.04585; in attention Kitaev,
        Kaiser, Levskaya 2020, arXiv:2001.04451, section 3.
    """
    if x1.shape != x2.shape:
        raise ValueError(
            f"reversible.forward: x1 and x2 must have one shape, got {tuple(x1.shape)} and "
            f"{tuple(x2.shape)}"
        )
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    return _Reversible.apply(blocks, x1, x2, *parameters)


def reconstruction_error(
    dtype: torch.dtype, *, n_blocks: int = 12, tokens: int = 64, width: int = 64, seed: int = 0
) -> float:
    """Return the largest error of an input computed back through random blocks.

    Args:
        dtype: In which all is computed.
        n_blocks: Blocks, F and G each tanh(x W) with W of variance 1 / d.
        tokens: n.
        width: d, of each half.
        seed: For weights and inputs, drawn in float64 and then rounded.
    """
    draw = torch.Generator().manual_seed(seed)
    blocks = [Block(_Layer(width, draw), _Layer(width, draw)).to(dtype) for _ in range(n_blocks)]
    inputs = [torch.randn(tokens, width, generator=draw, dtype=torch.double) for _ in range(2)]
    before = after = [half.to(dtype) for half in inputs]
    with torch.no_grad():
        for block in blocks:
            after = block(*after)
        for block in reversed(blocks):
            after = block.inverse(*after)
    return max(
        (old.double() - new.double()).abs().max().item()
        for old, new in zip(before, after, strict=True)
    )


class _Reversible(torch.autograd.Function):
    """All blocks as one function that saves its outputs and nothing else."""

    @staticmethod
    def forward(ctx, blocks, x1, x2, *parameters):
        for block in blocks:
            x1, x2 = block(x1, x2)
        ctx.blocks = blocks
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    def backward(ctx, grad1, grad2):
        y1, y2 = ctx.saved_tensors
        grads: list[Tensor | None] = []
        for block in reversed(ctx.blocks):
            y2, part, of_g = _undo(block.g, y1, y2, grad2)  # y2 is x2 from here on
            grad1 = grad1 + part
            y1, part, of_f = _undo(block.f, y2, y1, grad1)
            grad2 = grad2 + part
            grads = of_f + of_g + grads
        return None, grad1, grad2, *grads


def _undo(
    module: nn.Module, given: Tensor, total: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return total - module(given), and the gradients of module(given): for `given`, parameters."""
    given = given.detach().requires_grad_()
    with torch.enable_grad():
        added = module(given)
    wanted = [given, *(p for p in module.parameters() if p.requires_grad)]
    found = iter(torch.autograd.grad(added, wanted, grad, allow_unused=True))
    of_given = next(found)
    of_parameters = [next(found) if p.requires_grad else None for p in module.parameters()]
    of_given = torch.zeros_like(given) if of_given is None else of_given
    return total - added.detach(), of_given, of_parameters


class _Layer(nn.Module):
    """tanh(x W)."""

    def __init__(self, width: int, draw: torch.Generator) -> None:
        super().__init__()
        weight = torch.randn(width, width, generator=draw, dtype=torch.double) / width**0.5
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight)
