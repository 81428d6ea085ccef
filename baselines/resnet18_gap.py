"""ResNet-18 with the mean over the last feature map, as published."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from .resnet18 import ResNet18


class Resnet18Gap(ResNet18, nn.Module):  # the catalog knows models by this base
    """ResNet-18 with the mean over the last feature map, as published.

    Every channel answers for the whole image, so Grad-CAM and element-wise Grad-CAM agree.
    Parameters are named as torchvision's, whose weights fit where `stem="imagenet"` and the classes are as many.

    Args:
        image_shape: `(C, H, W)` of the images to train on; others pass as well.
        n_classes: number of logits.
        stem: how the network begins: `"imagenet"`, 7×7 of stride 2 and max-pooling; `"small"`, 3×3 of stride 1;
            `"auto"`, small for images of up to 64 pixels.
        consistency: weight of the consistency loss in training; 0 is ordinary training (`Consistency`).
        consistency_map: explanation that is held consistent, `"elementwise"` or `"gradcam"`.
        consistency_reduction: `"mean"` over cells or `"norm"`.

    Raises:
        ValueError: an option is none of its words, or `consistency` is negative.

    Reference:
        K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

    Example:
        >>> model = Resnet18Gap((3, 224, 224), 1000)
        >>> sum(parameter.numel() for parameter in model.parameters())
        11689512
    """

    name: ClassVar[str] = "resnet18_gap"
    pooling = nn.AdaptiveAvgPool2d
