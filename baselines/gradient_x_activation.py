"""Gradient times activation at a layer, which element-wise Grad-CAM and linear approximation have in common."""

from __future__ import annotations

from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from .cam_layer import cam_layer
from .through_captum import attribute_through


def gradient_x_activation(model: nn.Module, inputs: Tensor, targets: Tensor, layer: str | None) -> Tensor:
    """Compute `A · ∂f_t / ∂A` at the output `A` of a layer.

    Args:
        model: the model.
        inputs: `(B, C, H, W)` floating point.
        targets: `(B,)` int64.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.

    Returns:
        `(B, K, h, w)`, the shape of the layer's output.

    Raises:
        ValueError: there is no such layer, or its output is not `(B, K, h, w)`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> gradient_x_activation(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0]), None)
        tensor([[[[2., 0.]]]])
    """
    method = LayerGradientXActivation(model, cam_layer(model, inputs, layer))
    found = attribute_through(method, inputs, targets)
    if found.ndim != 4:
        raise ValueError(f"`layer` must have a (B, C, h, w) output; {layer!r} gave {tuple(found.shape)}")
    return found
