"""The control that knows nothing: noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..datasets.philox import uniform
from .base import Reduction
from .option_checks import given_keys


@dataclass(frozen=True)
class RandomMap:
    """Draw every pixel independently and uniformly from the unit interval.

    The numbers depend on the sample's key alone: not on the model, the image, the batch or the device.

    Attributes:
        reduction: how channels become a heatmap; there is one already.

    Raises:
        ValueError: from `attribute`, without `keys`.

    Example:
        >>> import torch
        >>> image, target = torch.zeros(1, 3, 2, 2), torch.tensor([0])
        >>> RandomMap().attribute(nn.Identity(), image, target, keys=torch.tensor([7])).shape
        torch.Size([1, 1, 2, 2])
    """

    name: ClassVar[str] = "random"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "control"

    reduction: Reduction = "none"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return noise, `(B, 1, H, W)`.

        Args:
            model: ignored.
            inputs: `(B, C, H, W)`; only the shape, the type and the device are used.
            targets: ignored.
            keys: `(B,)` int64 sample keys.
        """
        del model, targets
        keys = given_keys(keys, "random")
        batch, _, height, width = inputs.shape
        noise = uniform(0, "explainer/random", keys.to(inputs.device), 0, height * width)
        return noise.view(batch, 1, height, width).to(inputs.dtype)
