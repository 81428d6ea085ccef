"""The plain gradient of the logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum.attr import Saliency
from torch import Tensor, nn

from .base import Reduction
from .through_captum import attribute_through


@dataclass(frozen=True)
class Gradient:
    """Attribute by the gradient of the target's logit, `a = ∂f_t(x) / ∂x`, with its sign.

    The paper takes the largest magnitude over channels; here that is the reduction to a heatmap, not the attribution.

    Attributes:
        reduction: how channels become a heatmap.

    Example:
        >>> import torch
        >>> model = nn.Flatten()
        >>> Gradient().attribute(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1]))
        tensor([[[[0., 1.]]]])
    """

    name: ClassVar[str] = "gradient"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Simonyan, Vedaldi, Zisserman 2014, arXiv:1312.6034"

    reduction: Reduction = "max_abs"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        return attribute_through(Saliency(model), inputs, targets, abs=False)
