"""A linear model, of which it is known what every pixel contributes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Two classes with the logits `±Σ w·x / 2`: the log-odds of a class are a sum over pixels."""

    def __init__(self, size: tuple[int, int, int] = (3, 9, 9), *, scale: float = 0.2) -> None:
        """Draw the weights."""
        super().__init__()
        weight = torch.randn(size, generator=torch.Generator().manual_seed(11)) * scale
        self.weight = nn.Parameter(weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 2)` logits."""
        half = (inputs * self.weight).sum(dim=(1, 2, 3)) / 2
        return torch.stack((half, -half), dim=1)


class Contributions:
    """What each element adds to the log-odds of the target, multiplied by a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        """A negative factor ranks the pixels the wrong way round."""
        self.factor = factor

    def attribute(self, model: Linear, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        sign = (1 - 2 * targets).view(-1, 1, 1, 1)
        return (self.factor * sign * model.weight * inputs).detach()
