"""A small convolutional network for small images: the black box of the quickstart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .consistency_loss import Consistency, ConsistencyMap, ConsistencyReduction, consistent_training_loss
from .option_checks import check_word

_LAST_MAP_SIDE = 8
_RECIPE = {"epochs": 5, "batch_size": 64, "learning_rate": 1e-2, "weight_decay": 1e-2, "consistency_share": 0.25}
_EPOCHS = {"digits": 12}


class CifarCnn(nn.Module):
    """Five blocks of 3×3 convolution, batch norm and ReLU, then the mean over the map and a linear layer.

    Blocks of stride 2 halve the image until the last map is about 8×8, which takes three of them for 64×64 images
    and two for 28×28 or 32×32. Images of another size than the network was built for pass as well, because the
    mean does not mind how large the map is. All activations are separate `nn.ReLU` modules that do not work in
    place, so that methods which change the backward pass of ReLUs can be told apart layer by layer.

    Args:
        image_shape: `(C, H, W)` of the images to train on.
        n_classes: number of logits.
        head: `"gap"`, the mean over the map, or `"gmp"`, its maximum, by which each channel answers for one position.
        consistency: weight of the consistency loss in training; 0 is ordinary training (`Consistency`).
        consistency_map: explanation that is held consistent, `"elementwise"` or `"gradcam"`.
        consistency_reduction: `"mean"` over cells or `"norm"`.

    Raises:
        ValueError: an option is none of its words, or `consistency` is negative.

    Example:
        >>> import torch
        >>> model = CifarCnn((3, 64, 64), 10).eval()
        >>> model(torch.zeros(2, 3, 64, 64)).shape, model.features(torch.zeros(2, 3, 64, 64)).shape
        (torch.Size([2, 10]), torch.Size([2, 64, 8, 8]))
    """

    name: ClassVar[str] = "cifar_cnn"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        head: Literal["gap", "gmp"] = "gap",
        consistency: float = 0.0,
        consistency_map: ConsistencyMap = "elementwise",
        consistency_reduction: ConsistencyReduction = "mean",
    ) -> None:
        super().__init__()
        check_word("head", head, ("gap", "gmp"))
        self.consistency = Consistency(consistency, consistency_map, consistency_reduction)
        channels, height, width = image_shape
        halvings = round(math.log2(max(height, width) / _LAST_MAP_SIDE))
        self.features = nn.Sequential(
            _block(channels, 16, halve=halvings >= 3),
            _block(16, 32, halve=halvings >= 2),
            _block(32, 32),
            _block(32, 64, halve=halvings >= 1),
            _block(64, 64),
        )
        self.pool = nn.AdaptiveMaxPool2d(1) if head == "gmp" else nn.AdaptiveAvgPool2d(1)  # modules, for LRP's rules
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, n_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` normalised images."""
        return self.classify(self.feature_map(inputs))

    def feature_map(self, inputs: Tensor) -> Tensor:
        """Return `(B, 64, h, w)`, the last feature map, of images of any size."""
        return self.features(inputs)

    def classify(self, features: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, 64, h, w)` feature maps of any size."""
        return self.classifier(self.flatten(self.pool(features)))

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how long and how fast to train on a dataset; unknown ones get the recipe of `digit_scenes`.

        With the option `consistency`, a `consistency_share` of each batch is put into composites: a quarter, where the
        publication takes all, so that training takes twice instead of five times as long.
        """
        return _RECIPE | {"epochs": _EPOCHS.get(dataset_name, _RECIPE["epochs"])}

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


def _block(inputs: int, outputs: int, *, halve: bool = False) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2 if halve else 1, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
