"""The control that knows the answer: the annotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction


@dataclass(frozen=True)
class Truth:
    """Return the annotation mask itself, the ceiling of localisation.

    Attributes:
        reduction: how channels become a heatmap; there is one already.

    Raises:
        ValueError: from `attribute`, without `masks`.

    Example:
        >>> import torch
        >>> image, target = torch.zeros(1, 3, 1, 2), torch.tensor([0])
        >>> Truth().attribute(nn.Identity(), image, target, masks=torch.tensor([[[False, True]]]))
        tensor([[[[0., 1.]]]])
    """

    name: ClassVar[str] = "truth"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})
    control: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "control"

    reduction: Reduction = "none"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, masks: Tensor | None = None) -> Tensor:
        """Return the masks, `(B, 1, H, W)`.

        Args:
            model: ignored.
            inputs: `(B, C, H, W)`; only the type and the device are used.
            targets: ignored.
            masks: `(B, H, W)` bool, true on the object.
        """
        del model, targets
        if masks is None:
            raise ValueError("`masks` must be given: the `truth` control needs a dataset with object masks")
        return masks[:, None].to(inputs)
