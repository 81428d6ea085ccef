"""The control that says nothing: a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction


@dataclass(frozen=True)
class Uniform:
    """Attribute 1 to every pixel.

    Attributes:
        reduction: how channels become a heatmap; there is one already.

    Example:
        >>> import torch
        >>> Uniform().attribute(nn.Identity(), torch.zeros(1, 3, 1, 2), torch.tensor([0]))
        tensor([[[[1., 1.]]]])
    """

    name: ClassVar[str] = "uniform"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "control"

    reduction: Reduction = "none"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return ones, `(B, 1, H, W)`; the model, the image's content and the target are ignored."""
        del model, targets
        return inputs.new_ones(len(inputs), 1, *inputs.shape[-2:])
