"""Guided Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Reduction
from .cam_layer import lacks_feature_map
from .gradcam import GradCam
from .relu_rule import lacks_rule, relu_ruled_gradient


@dataclass(frozen=True)
class GuidedGradCam:
    """Attribute by guided backpropagation, multiplied by the enlarged Grad-CAM map.

    `a = g ⊙ enlarge(max(0, Σ_k w_k A^k))` with `g` the gradient of `guided_backprop` and the map of `gradcam`, enlarged
    bilinearly (`align_corners=False`), as in the paper. Captum's class enlarges by the nearest neighbour by default,
    and its guided half sees `nn.ReLU` modules only.

    Attributes:
        reduction: how channels become a heatmap.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.

    Raises:
        ValueError: there is no such layer, its output is not `(B, C, h, w)`, or the model has no ReLU, or other
            activations, or hides what it does (`relu_ruled_gradient`).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> GuidedGradCam().attribute(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0]))
        tensor([[[[1., 0.]]]])
    """

    name: ClassVar[str] = "guided_gradcam"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Selvaraju et al. 2017, arXiv:1610.02391"

    reduction: Reduction = "max_abs"
    layer: str | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_rule(model) or lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the products, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        maps = GradCam(layer=self.layer).attribute(model, inputs, targets)
        enlarged = F.interpolate(maps, size=inputs.shape[-2:], mode="bilinear", align_corners=False)
        return relu_ruled_gradient(model, inputs, targets, "guided") * enlarged
