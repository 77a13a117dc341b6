"""Mixed precision: compute in 16 bits, keep the weights in 32, scale the loss so nothing is lost.

float16 has no numbers below 6e-8, so small gradients become 0, and 11 bits, so a small update of a
weight changes nothing. bfloat16 has float32's range, and 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class LossScaler:
    """A factor for the loss that is as large as the gradients bear.

    Gradients are linear in the loss: scaled up they stay above float16's smallest number, and are
    divided by the same factor in float32. If one overflows, the step is skipped and the factor
    halved; after `interval` good steps it is doubled.

    Attributes:
        scale: The factor now, a power of 2 so that scaling never rounds.
        skipped: Steps skipped so far.
    """

    def __init__(self, scale: float = 2.0**16, *, interval: int = 2000) -> None:
        """Start at `scale` and double it after `interval` good steps in a row."""
        self.scale, self.interval = scale, interval
        self.skipped = self._good = 0

    def update(self, finite: bool) -> None:
        """Take note of a step whose gradients were all finite, or were not."""
        if not finite:
            self.scale, self._good = max(self.scale / 2, 1.0), 0
            self.skipped += 1
            return
        self._good += 1
        if self._good == self.interval:
            self.scale, self._good = self.scale * 2, 0


class MixedPrecision:
    """A model in 16 bits whose weights have masters in float32.

    Attributes:
        masters: float32 weights, in the order of `model.parameters()`; the optimizer updates them.
        optimizer: What updates them.
        scaler: Scales the loss; None leaves it alone, as is usual for bfloat16.

    Paper:
        Micikevicius et al. 2018, arXiv:1710.03740, sections 3.1 (masters) and 3.2 (scaling).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        dtype: torch.dtype = torch.float16,
        scaler: LossScaler | None = None,
    ) -> None:
        """Copy the weights of `model` to float32 and turn the model itself into `dtype`.

        Args:
            model: Changed in place.
            optimizer: Makes one for a list of tensors: `lambda masters: torch.optim.SGD(masters)`.
            dtype: torch.float16 or torch.bfloat16.
            scaler: None for no loss scaling.

        Raises:
            ValueError: Another dtype.
        """
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"MixedPrecision: dtype must be torch.float16 or torch.bfloat16, got {dtype}"
            )
        self.masters = [p.detach().float().clone() for p in model.parameters()]
        self.model, self.scaler = model.to(dtype), scaler
        self.optimizer = optimizer(self.masters)

    def step(self, loss: Tensor) -> bool:
        """Go back through the graph of `loss` and update masters and weights.

        Args:
            loss: Computed in float32: the gradient that enters a float16 loss is the scale itself,
                and overflows above 65504.

        Returns:
            False if a gradient was not finite and the step was skipped.
        """
        factor = self.scaler.scale if self.scaler else 1.0
        (loss.float() * factor).backward()
        for master, weight in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = None if weight.grad is None else weight.grad.float() / factor
            weight.grad = None
        grads = [master.grad for master in self.masters if master.grad is not None]
        finite = all(bool(grad.isfinite().all()) for grad in grads)
        if self.scaler:
            self.scaler.update(finite)
        if finite:
            self.optimizer.step()
            with torch.no_grad():
                for master, weight in zip(self.masters, self.model.parameters(), strict=True):
                    weight.copy_(master)  # rounds
        self.optimizer.zero_grad()
        return finite


def underflow(gradients: Iterable[Tensor], dtype: torch.dtype, *, scale: float = 1.0) -> float:
    """Return the share of the nonzero gradients, 0 to 1, that become 0 in `dtype`.

    Args:
        gradients: In float32 or wider.
        dtype: What they are rounded to.
        scale: Factor of the loss, and so of each of them.
    """
    nonzero = lost = 0
    for gradient in gradients:
        present = gradient != 0
        nonzero += int(present.sum())
        lost += int(((gradient * scale).to(dtype)[present] == 0).sum())
    return lost / max(1, nonzero)


def state_bytes(n_parameters: int, *, mixed: bool, moments: int = 2) -> int:
    """Return the bytes of weights, gradients, masters and an optimizer's moments.

    Plain float32 with Adam: 4 + 4 + 8 = 16 a parameter. Mixed: 2 + 2 + 4 + 8 = 16 as well; what
    halves is the activations.

    Args:
        n_parameters: Parameters of the model.
        mixed: 16-bit weights and gradients with float32 masters, instead of float32 throughout.
        moments: float32 numbers that the optimizer keeps for each: 2 for Adam, 0 for plain SGD.
    """
    return n_parameters * ((2 + 2 + 4 if mixed else 4 + 4) + 4 * moments)
