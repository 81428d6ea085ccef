"""Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum.attr import LayerGradCam
from torch import Tensor, nn

from .base import Reduction
from .cam_layer import cam_layer, lacks_feature_map
from .through_captum import attribute_through


@dataclass(frozen=True)
class GradCam:
    """Attribute by the channels of a layer, weighed by their mean gradient and rectified.

    `a_ij = max(0, Σ_k w_k A^k_ij)` with `w_k = mean_ij ∂f_t / ∂A^k_ij` and `A` the layer's output. The map has the
    resolution of the layer and is enlarged bilinearly when it becomes a heatmap.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.

    Raises:
        ValueError: there is no such layer, or its output is not `(B, C, h, w)`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> GradCam().attribute(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0]))
        tensor([[[[2., 0.]]]])
    """

    name: ClassVar[str] = "gradcam"
    rectified: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Selvaraju et al. 2017, arXiv:1610.02391"

    reduction: Reduction = "none"
    layer: str | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        method = LayerGradCam(model, cam_layer(model, inputs, self.layer))
        maps = attribute_through(method, inputs, targets, relu_attributions=True)
        if maps.ndim != 4:
            raise ValueError(f"`layer` must have a (B, C, h, w) output; {self.layer!r} gave maps {tuple(maps.shape)}")
        return maps
