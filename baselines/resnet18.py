"""ResNet-18 as torchvision builds it, with a choice of how the last map is pooled and how the network begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from .consistency_loss import Consistency, ConsistencyMap, ConsistencyReduction, consistent_training_loss
from .option_checks import check_word

_SMALL_SIDE = 64
_BLOCKS = [2, 2, 2, 2]
_RECIPES: dict[str, dict[str, Any]] = {
    "imagenet": {
        "epochs": 90, "batch_size": 256, "learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.9,
        "weight_decay": 1e-4, "schedule": "steps", "milestones": [31, 61], "factor": 0.1,
    },
    "coco": {
        "epochs": 36, "batch_size": 256, "learning_rate": 0.01, "optimizer": "sgd", "momentum": 0.9,
        "weight_decay": 5e-4, "schedule": "steps", "milestones": [25, 31], "factor": 0.1,
    },
    "digits": {"epochs": 5, "batch_size": 64, "learning_rate": 2e-3, "weight_decay": 1e-2},
    "digit_scenes": {"epochs": 1, "batch_size": 64, "learning_rate": 2e-3, "weight_decay": 1e-2},
}  # fmt: skip
_SMALL = {"epochs": 20, "batch_size": 128, "learning_rate": 5e-3, "weight_decay": 1e-2}


class ResNet18(ResNet):
    """What `resnet18_gap` and `resnet18_gmp` share; its parameters are named as torchvision's.

    Weights of `torchvision.models.resnet18` therefore fit where `stem="imagenet"` and the classes are as many.

    Args:
        image_shape: `(C, H, W)` of the images to train on; others pass as well.
        n_classes: number of logits.
        stem: `"imagenet"`, 7×7 of stride 2 and max-pooling, a map of 1/32 of the image's side; `"small"`, 3×3 of
            stride 1 without pooling, 1/8; `"auto"`, small for images of up to 64 pixels.
        consistency: weight of the consistency loss in training; 0 is ordinary training (`Consistency`).
        consistency_map: explanation that is held consistent, `"elementwise"` or `"gradcam"`.
        consistency_reduction: `"mean"` over cells or `"norm"`.

    Raises:
        ValueError: an option is none of its words, or `consistency` is negative.
    """

    cam_layer: ClassVar[str] = "layer4"
    pooling: ClassVar[Callable[[int], nn.Module]]
    """Makes, of a side of 1, what turns the last feature map into `(B, 512, 1, 1)`."""

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
        check_word("stem", stem, ("auto", "imagenet", "small"))
        super().__init__(BasicBlock, _BLOCKS, num_classes=n_classes)
        channels, height, width = image_shape
        if stem == "small" or (stem == "auto" and max(height, width) <= _SMALL_SIDE):
            self.conv1 = _first(channels, 3, stride=1)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = _first(channels, 7, stride=2)
        self.avgpool = type(self).pooling(1)  # torchvision's name, whatever it computes
        self.consistency = Consistency(consistency, consistency_map, consistency_reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` normalised images."""
        return self.classify(self.feature_map(x))

    def feature_map(self, inputs: Tensor) -> Tensor:
        """Return `(B, 512, h, w)`, the last feature map, of images of any size."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        return self.layer4(self.layer3(self.layer2(self.layer1(stem))))

    def classify(self, features: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, 512, h, w)` feature maps of any size."""
        return self.fc(self.avgpool(features).flatten(1))

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train: as published for `imagenet` and `coco`, else a few epochs for small images.

        The published trainings also crop at random, to 224 pixels, and mirror; here images are taken as they are. A
        `consistency_share` of less than 1 puts only that part of each batch into composites.
        """
        return dict(_RECIPES.get(dataset_name, _SMALL))

    def training_loss(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and its `(B, K)` logits; see `consistent_training_loss`."""
        return consistent_training_loss(
            self, images, labels, self.consistency, share=recipe.get("consistency_share", 1.0)
        )


def _first(channels: int, side: int, *, stride: int) -> nn.Conv2d:
    """A first convolution with weights drawn as torchvision draws its own."""
    convolution = nn.Conv2d(channels, 64, side, stride=stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
