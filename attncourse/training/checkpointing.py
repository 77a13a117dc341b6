"""Gradient checkpointing: keep the input of every k-th layer, compute the rest a second time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attncourse.inputs import check_count
from attncourse.training import replay


def forward(layers: Sequence[nn.Module], x: Tensor, *, every: int | None = None) -> Tensor:
    """Return the output of layers in a row, with their activations kept or recomputed.

    Only the inputs of the segments of `every` layers live until the backward pass. There each
    segment runs forward once more, the last one first, and its activations live until its own
    backward pass is done: at most L / k + k layers are held instead of L. `replay.run` says what
    the second run finds as the first one did: random numbers, autocast, buffers.

    Args:
        layers: Modules from one tensor to one tensor.
        x: The input of the first.
        every: k, layers in a segment; None keeps everything.

    Returns:
        What `nn.Sequential(*layers)(x)` returns; its gradients are the same too.

    Raises:
        TypeError: `every` is no integer.
        ValueError: `every` is below 1, or a layer that begins a segment changes its input in place.

    Paper:
        Chen, Xu, Zhang, Guestrin 2016, arXiv:1604.06174, section 4.
    """
    if every is not None:
        every = check_count("checkpointing.forward", "every", every, least=1)
    if every is None or not torch.is_grad_enabled():
        return nn.Sequential(*layers)(x)
    for start in range(0, len(layers), every):
        segment = nn.Sequential(*layers[start : start + every])
        x = _Segment.apply(segment, x, *segment.parameters())
    return x


class _Segment(torch.autograd.Function):
    """A segment that forgets its activations and makes them again when they are needed."""

    @staticmethod
    def forward(ctx, segment, x, *parameters):
        # gradients are off here: nothing inside is kept
        out, ctx.again = replay.run("checkpointing.forward", segment, x)
        ctx.save_for_backward(x, *parameters)  # then torch sees if they change before they serve
        return out

    @staticmethod
    def backward(ctx, grad):
        saved, *parameters = ctx.saved_tensors
        x = saved.detach().requires_grad_(ctx.needs_input_grad[1])
        tensors = (x, *parameters)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = iter(torch.autograd.grad(ctx.again(x), wanted, grad, allow_unused=True))
        return None, *(next(found) if tensor.requires_grad else None for tensor in tensors)
