"""A training step as a timeline: which bytes are alive at each operation of torch, and as what."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attncourse.measure.tensors import leaves

KINDS = ("parameters", "moments", "gradients", "kept", "made again", "scratch")
"""What bytes are alive as.

    parameters   the weights
    moments      what the optimizer remembers of earlier gradients
    gradients    of the parameters
    kept         saved in the forward pass because the backward pass needs it
    made again   saved for a backward pass that has begun, by a part that is computed once more
    scratch      all else: on the way to a result
"""


@dataclass
class Held:
    """A piece of memory and how long it was held.

    Attributes:
        n_bytes: Its size.
        operation: What made it, as torch calls it; empty if it was there before.
        start: The operation that made it, by number; 0 if it was there before.
        stop: The operation after which it was gone.
        kind: One of `KINDS`.
    """

    n_bytes: int
    operation: str
    start: int
    stop: int = -1
    kind: str = "scratch"


@dataclass
class Timeline:
    """What a step held.

    Attributes:
        held: Each piece of memory.
        operations: What torch did, in order.
        backward: The number of the first operation of the backward pass.
        update: That of the optimizer's first.
        loss: The loss, in nats.
    """

    held: list[Held] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    backward: int = 0
    update: int = 0
    loss: float = float("nan")

    def bytes(self) -> dict[str, np.ndarray]:
        """Return for each kind the bytes alive while each operation ran, int (operations,)."""
        change = {kind: np.zeros(len(self.operations) + 1, np.int64) for kind in KINDS}
        for one in self.held:
            change[one.kind][one.start] += one.n_bytes
            change[one.kind][one.stop] -= one.n_bytes
        return {kind: np.cumsum(each)[:-1] for kind, each in change.items()}

    def total(self) -> np.ndarray:
        """Return the bytes of all kinds, int (operations,)."""
        return sum(self.bytes().values())

    def peak(self) -> dict[str, int]:
        """Return for each kind the bytes alive when most are alive in all."""
        at = int(self.total().argmax())
        return {kind: int(each[at]) for kind, each in self.bytes().items()}

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive."""
        return int(self.total().max())

    @property
    def step_bytes(self) -> int:
        """The most bytes alive that are neither parameters nor moments: what the step takes."""
        each = self.bytes()
        return int((self.total() - each["parameters"] - each["moments"]).max())


class Adam:
    """Adam, in as few operations as its timeline is to show.

    `torch.optim` does the same and loads torch's compiler first, for seconds.

    Attributes:
        parameters: What it updates.
        moments: Two tensors for each of them: running means of its gradient and of the square.

    Paper:
        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3) -> None:
        """Begin with moments of 0."""
        self.parameters, self.lr, self.steps = list(parameters), lr, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters, and forget their gradients one by one."""
        self.steps += 1
        rate = self.lr * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for parameter, (first, second) in zip(self.parameters, self.moments, strict=True):
            first.lerp_(parameter.grad, 0.1)
            second.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            parameter.addcdiv_(first, second.sqrt().add_(1e-8), value=-rate)
            parameter.grad = None

    def zero_grad(self) -> None:
        """Forget the gradients of a step that is not taken."""
        for parameter in self.parameters:
            parameter.grad = None


def record(loss: Callable[[], Tensor], optimizer: Adam) -> Timeline:
    """Take one training step and return what it held.

    Each operation passes torch's dispatcher, which says what memory its results lie in; Python says
    when that is given back. What an operation needs inside itself is not seen.

    Args:
        loss: The forward pass. Inputs that it finds elsewhere are not counted.
        optimizer: Of the parameters.
    """
    seen, parameters = _Recorder(), optimizer.parameters
    seen.there(parameters, "parameters")
    seen.there((moment for both in optimizer.moments for moment in both), "moments")
    with seen, torch.autograd.graph.saved_tensors_hooks(seen.save, lambda tensor: tensor):
        out = loss()
        seen.line.loss = out.item()
        seen.line.backward = len(seen.line.operations)
        out.backward()
        del out
        seen.line.update = len(seen.line.operations)
        seen.call((p.grad for p in parameters if p.grad is not None), "gradients")
        optimizer.step()
    return seen.done()


class _Recorder(TorchDispatchMode):
    """Notes each new piece of memory, and when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Timeline()
        self.alive: dict[int, tuple[Held, weakref.ref]] = {}

    @classmethod
    def _should_skip_dynamo(cls):
        """Skip torch's compiler where it was used: else it would be loaded, for seconds."""
        return "torch._dynamo" in sys.modules

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name, number = func.overloadpacket.__name__, len(self.line.operations)
        self.line.operations.append(name)
        for tensor in leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor, name, number)
        return result

    def _note(self, tensor: Tensor, name: str, number: int, kind: str = "scratch") -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive:
            return
        held = Held(storage.nbytes(), name, number, kind=kind)

        def gone(_: object) -> None:
            self.alive.pop(key)
            held.stop = len(self.line.operations)

        self.line.held.append(held)
        self.alive[key] = held, weakref.ref(storage, gone)

    def there(self, tensors: Iterable[Tensor], kind: str) -> None:
        for tensor in tensors:
            self._note(tensor, "", 0, kind)

    def call(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say of what kind tensors are that are alive."""
        for tensor in tensors:
            found = self.alive.get(tensor.untyped_storage()._cdata)
            if found:
                found[0].kind = kind

    def save(self, tensor: Tensor) -> Tensor:
        """What autograd calls with each tensor that it keeps."""
        found = self.alive.get(tensor.untyped_storage()._cdata)
        if found and found[0].kind == "scratch":
            begun = self.line.backward and found[0].start >= self.line.backward
            found[0].kind = "made again" if begun else "kept"
        return tensor

    def done(self) -> Timeline:
        for held, _ in self.alive.values():
            held.stop = len(self.line.operations)
        self.alive.clear()
        return self.line
