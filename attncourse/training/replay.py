"""Running a module a second time to the same result: what all recomputation rests on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def run(where: str, module: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return module(x), and a function that computes it once more, with gradients on.

    The second run draws the same random numbers, computes under the same autocast and starts from
    the same buffers, and leaves generators and buffers alone: BatchNorm counts a batch once. Not
    known are generators other than torch's, and attributes that are no buffers.

    Args:
        where: The function that asks, such as "checkpointing.forward".
        module: From one tensor to one tensor.
        x: Its input.

    Raises:
        ValueError: The module overwrote its input, from which it was to be run again.
        RuntimeError: By the second run, where the gradients themselves are to have gradients.

    Memory:
        Of random state and buffers, what the first run changed; a copy of all buffers during it.
    """
    random, precision, version = _random(x), _precision(x), x._version
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with _autocast(precision):
        out = module(x)
    if x._version != version:
        raise ValueError(f"{where}: a layer must not change its input in place, got {module}")
    drew = any(not torch.equal(old, new) for old, new in zip(random, _random(x), strict=True))
    after = dict(module.named_buffers())
    buffers = {name: old for name, old in before.items() if not torch.equal(old, after[name])}
    states = random if drew else []

    def again(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # in a backward pass: create_graph=True
            raise RuntimeError(f"{where}: gradients of gradients are not computed (create_graph)")
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        with _drawing(x, states), _autocast(precision), torch.enable_grad():
            return torch.func.functional_call(module, copies, (x,))

    return out, again


def _random(x: Tensor) -> list[Tensor]:
    """The states of the CPU's generator and of that of x's device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]


@contextlib.contextmanager
def _drawing(x: Tensor, states: list[Tensor]) -> Iterator[None]:
    """Draw from these states, and give the generators their own back; none leave them as is."""
    with torch.random.fork_rng([x.device] if x.is_cuda else [], enabled=bool(states)):
        for state, generator in zip(states, (torch, torch.cuda), strict=False):
            generator.set_rng_state(state)
        yield


def _precision(x: Tensor) -> dict[str, tuple[bool, torch.dtype]]:
    """Whether autocast is on, and to which dtype, on the CPU and on x's device."""
    return {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in {"cpu", x.device.type}
    }


@contextlib.contextmanager
def _autocast(precision: dict[str, tuple[bool, torch.dtype]]) -> Iterator[None]:
    """Restore what `_precision` found.

    Without autocast's cache of rounded weights: those of the first run have no graph, and the
    second would find them and lose the gradients of the weights.
    """
    with contextlib.ExitStack() as stack:
        for kind, (on, dtype) in precision.items():
            stack.enter_context(torch.autocast(kind, dtype, enabled=on, cache_enabled=False))
        yield
