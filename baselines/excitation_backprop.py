"""Excitation backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction
from .cam_layer import lacks_feature_map
from .excitation import excitation_map


@dataclass(frozen=True)
class ExcitationBackprop:
    """Attribute by the probability with which a random walk from the target through excitatory weights gets there.

    `a_ij = Σ_k p^k_ij` with the probabilities `p` of `excitation` at the output of a layer; the maps add up to 1. The
    walk starts at the target alone. Where branches are added, it goes on in proportion to the positive parts of their
    values; the code released with TorchRay takes the values as they are, so that its `p` may be negative or above 1.
    The map has the resolution of the layer and is enlarged bilinearly when it becomes a heatmap.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `excitation_layer`.

    Raises:
        ValueError: there is no such layer, its output is not `(B, C, h, w)`, or something above it has no rule
            (`excitation`).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[1].weight.data.fill_(2.0).shape
        torch.Size([1, 1, 1, 1])
        >>> ExcitationBackprop(layer="1").attribute(model, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([0])).shape
        torch.Size([1, 1, 1, 2])
    """

    name: ClassVar[str] = "excitation_backprop"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Zhang et al. 2018, arXiv:1608.00507"

    reduction: Reduction = "none"
    layer: str | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        return excitation_map(model, inputs, targets, self.layer)
