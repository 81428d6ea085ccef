"""ResNet-18 with the maximum over the last feature map in place of the mean."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from .consistency_loss import Consistency, ConsistencyMap, ConsistencyReduction
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

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        stem: Literal["auto", "imagenet", "small"] = "auto",
        consistency: float = 0.0,
        consistency_map: ConsistencyMap = "elementwise",
        consistency_reduction: ConsistencyReduction = "mean",
    ) -> None:
        super().__init__(
            image_shape,
            n_classes,
            pool=nn.AdaptiveMaxPool2d(1),
            stem=stem,
            consistency=Consistency(consistency, consistency_map, consistency_reduction),
        )
