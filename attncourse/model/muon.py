"""Muon: a step of the same size in every direction of a matrix.

`torch.optim.Muon` does the same in bfloat16, which takes ten times as long on a CPU that has no
such arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """Momentum, whose matrix is made nearly orthogonal before it is added.

    Args:
        matrices: Parameters of two axes; those of one shape are handled together.
        lr: The step's size.
        momentum: Share of the earlier steps that is kept.
        weight_decay: Share of the matrix, times lr, that each step takes away.

    Paper:
        Jordan et al. 2024, kellerjordan.github.io/posts/muon: five Newton–Schulz steps with the
        coefficients given there, Nesterov momentum.
    """

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients that are there."""
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                alike[matrix.shape].append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = []
                for matrix in matrices:
                    state = self.state[matrix]
                    buffer = state.setdefault("momentum", torch.zeros_like(matrix))
                    buffer.lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(buffer, group["momentum"]))
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(update, alpha=size)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Return matrices (..., m, n) with the singular vectors of x and singular values near 1."""
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.mT
