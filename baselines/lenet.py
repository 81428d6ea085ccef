"""LeNet, a small convolutional network for digits: FLINT's predictor on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

_RECIPE = {"epochs": 12, "batch_size": 64, "learning_rate": 1e-3, "optimizer": "adam", "schedule": "constant"}
_RECIPES = {
    "digits": _RECIPE | {"epochs": 30},
    "digit_scenes": _RECIPE | {"epochs": 5},
    "mnist": _RECIPE | {"batch_size": 16, "learning_rate": 1e-4},
    "fashion_mnist": _RECIPE | {"batch_size": 16, "learning_rate": 1e-4},
}


class Lenet(nn.Module):
    """Two convolutions, max-pooling and two linear layers, with dropout: the predictor f of FLINT, trained alone.

    It has 809,034 parameters for `(1, 28, 28)` and ten classes, takes images of one size, and stands beside FLINT as
    what the paper calls BASE-f. (SITE is compared with another network, `site_backbone`.)

    Departs from the released network in that its two ReLUs after convolutions and that before the last layer are
    separate modules; what is computed is the same.

    Args:
        image_shape: `(C, H, W)`, with H and W even. The network takes this size only.
        n_classes: number of logits.

    Raises:
        ValueError: H or W is odd.

    Reference:
        J. Parekh, P. Mozharovskyi, F. d'Alché-Buc, "A Framework to Learn with Interpretation", NeurIPS 2021.

    Example:
        >>> model = Lenet((1, 28, 28), 10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        809034
    """

    name: ClassVar[str] = "lenet"
    cam_layer: ClassVar[str] = "features.relu2"
    """The map of half the image's side that the linear layers see."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 2 or width % 2:
            raise ValueError(f"`image_shape` must be (C, H, W) with H and W even, was {tuple(image_shape)}")
        self.features = nn.Sequential()
        self.features.add_module("conv1", nn.Conv2d(channels, 16, 3, padding=1))
        self.features.add_module("relu1", nn.ReLU())
        self.features.add_module("conv2", nn.Conv2d(16, 32, 3, padding=1))
        self.features.add_module("pool", nn.MaxPool2d(2))
        self.features.add_module("dropout", nn.Dropout(0.5))
        self.features.add_module("relu2", nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * (height // 2) * (width // 2), 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, n_classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` normalised images."""
        return self.classifier(self.features(inputs))

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train: Adam of a constant rate, for `mnist` and `fashion_mnist` as FLINT is trained."""
        return dict(_RECIPES.get(dataset_name, _RECIPE))

    def training_loss(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Mapping[str, Any],  # noqa: ARG002  # other models read theirs
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of `(B,)` labels, and the `(B, K)` logits."""
        logits = self(images)
        return F.cross_entropy(logits, labels), logits
