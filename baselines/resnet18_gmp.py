"""ResNet-18 with the maximum over the last feature map in place of the mean."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from .resnet18 import ResNet18


class Resnet18Gmp(ResNet18, nn.Module):  # the catalog knows models by this base
    """ResNet-18 with the maximum over the last feature map in place of the mean.

    Every channel answers for the one position where it is largest, so that Grad-CAM and element-wise Grad-CAM differ.
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
        V. Pillai, H. Pirsiavash, "Explainable Models with Consistent Interpretations", AAAI 2021.

    Example:
        >>> model = Resnet18Gmp((3, 224, 224), 1000)
        >>> sum(parameter.numel() for parameter in model.parameters())
        11689512
    """

    name: ClassVar[str] = "resnet18_gmp"
    pooling = nn.AdaptiveMaxPool2d
