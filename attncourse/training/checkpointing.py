"""Gradient checkpointing: keep the input of every k-th layer, compute the rest a second time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
    every = check_count("checkpointing.forward", "every", every, least=1)
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
