"""Reversible residual layers: the backward pass computes the inputs back from the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attncourse.training import replay


class Block(nn.Module):
    """y1 = x1 + F(x2), y2 = x2 + G(y1); backwards x2 = y2 - G(y1), x1 = y1 - F(x2).

    Exact on paper. In floating point each way rounds, so that a block restores its input up to
    rounding only, and errors add up over the blocks.
    """

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        """Take F and G, modules from one tensor to one of the same shape."""
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (y1, y2)."""
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x1, x2) up to rounding, if F and G give again what they gave."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


def forward(blocks: Sequence[Block], x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of blocks in a row and keep only these two, whatever their number.

    The backward pass goes from the last block to the first. It computes the block's inputs from
    its outputs, runs F and G once more with gradients on, and forgets both: one forward pass more,
    so 4/3 of the FLOPs, and the activations of one F or G instead of those of all. `replay.run`
    says what the second run finds as the first one did: random numbers, autocast, buffers.

    Args:
        blocks: The blocks; those of plain autograd would each keep their activations.
        x1: First half of the input.
        x2: Second half, of the same shape.

    Returns:
        (y1, y2) of the last block.

    Raises:
        ValueError: Halves of different shapes, or an F or G that changes its input in place.

    Paper:
        Gomez, Ren, Urtasun, Grosse 2017, arXiv:1707.04585; in attention Kitaev,
        Kaiser, Levskaya 2020, arXiv:2001.04451, section 3.
    """
    if x1.shape != x2.shape:
        raise ValueError(
            f"reversible.forward: x1 and x2 must have one shape, got {tuple(x1.shape)} and "
            f"{tuple(x2.shape)}"
        )
    if not torch.is_grad_enabled():
        for block in blocks:
            x1, x2 = block(x1, x2)
        return x1, x2
    parameters = nn.ModuleList(blocks).parameters()  # each once, whoever shares it
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
        ctx.blocks, ctx.runs = blocks, []
        for block in blocks:
            added, f_again = replay.run("reversible.forward", block.f, x2)
            x1 = x1 + added
            added, g_again = replay.run("reversible.forward", block.g, x1)
            x2 = x2 + added
            ctx.runs.append((f_again, g_again))
        ctx.save_for_backward(x1, x2, *parameters)  # torch sees if parameters change meanwhile
        return x1, x2

    @staticmethod
    def backward(ctx, grad1, grad2):
        y1, y2, *_ = ctx.saved_tensors
        sums: dict[Tensor, Tensor] = {}
        for block, (f_again, g_again) in zip(reversed(ctx.blocks), reversed(ctx.runs), strict=True):
            y2, part = _undo(block.g, g_again, y1, y2, grad2, sums)  # y2 is x2 from here on
            grad1 = grad1 + part
            y1, part = _undo(block.f, f_again, y2, y1, grad1, sums)
            grad2 = grad2 + part
        # under saved_tensors_hooks the saved parameters are others than the blocks' own
        parameters = nn.ModuleList(ctx.blocks).parameters()
        return None, grad1, grad2, *(sums.get(parameter) for parameter in parameters)


def _undo(
    module: nn.Module,
    again: Callable[[Tensor], Tensor],
    given: Tensor,
    total: Tensor,
    grad: Tensor,
    sums: dict[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return total - module(given), and its gradient for `given`; add the parameters' to `sums`."""
    given = given.detach().requires_grad_()
    added = again(given)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    of_given, *found = torch.autograd.grad(
        added, [given, *parameters], grad.to(added.dtype), allow_unused=True
    )
    for parameter, new in zip(parameters, found, strict=True):
        if new is not None:
            sums[parameter] = sums[parameter] + new if parameter in sums else new
    of_given = torch.zeros_like(given) if of_given is None else of_given
    return total - added.detach(), of_given


class _Layer(nn.Module):
    """tanh(x W)."""

    def __init__(self, width: int, draw: torch.Generator) -> None:
        super().__init__()
        weight = torch.randn(width, width, generator=draw, dtype=torch.double) / width**0.5
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight)
