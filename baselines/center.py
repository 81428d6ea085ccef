"""The control that knows how photographs are taken: the centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Reduction


@dataclass(frozen=True)
class Center:
    """Attribute by a Gaussian at the centre of the image, its standard deviation a quarter of the side.

    `a_ij = exp(−(i − (H−1)/2)² / 2(H/4)² − (j − (W−1)/2)² / 2(W/4)²)`. Each direction goes by its own side, so
    the map of a stretched image is the stretched map.

    Attributes:
        reduction: how channels become a heatmap; there is one already.

    Example:
        >>> import torch
        >>> Center().attribute(nn.Identity(), torch.zeros(1, 3, 1, 4), torch.tensor([0])).round(decimals=3)
        tensor([[[[0.3250, 0.8820, 0.8820, 0.3250]]]])
    """

    name: ClassVar[str] = "center"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "control"

    reduction: Reduction = "none"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the bump, `(B, 1, H, W)`; the model, the image's content and the target are ignored."""
        del model, targets
        rows, columns = (_bump(side, inputs) for side in inputs.shape[-2:])
        return (rows[:, None] * columns).expand(len(inputs), 1, -1, -1).clone()


def _bump(side: int, like: Tensor) -> Tensor:
    """A Gaussian over one side, 1 at its middle."""
    offsets = torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2
    return torch.exp(-(offsets**2) / (2 * (side / 4) ** 2))
