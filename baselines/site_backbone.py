"""SITE's black box: the same extractor with a linear classifier in place of the generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from .model_checks import check_sides
from .option_checks import check_word
from .rigid_motion import random_rigid, randomly_mirrored, warp, warp_filled
from .site_networks import (
    CAM_LAYERS,
    LATENT_CHANNELS,
    SiteForm,
    image_extractor,
    latent_extractor,
    latent_halvings,
    resized,
)

_SIDE = 128
_RECIPE = {"epochs": 20, "batch_size": 32, "learning_rate": 0.005}
_MNIST = {"epochs": 125, "batch_size": 256, "learning_rate": 1e-3, "optimizer": "adam", "schedule": "constant"}
_RECIPES: dict[str, dict[str, Any]] = {
    "digits": _RECIPE | {"epochs": 60},
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "cifar10": {
        "epochs": 100, "batch_size": 64, "learning_rate": 1e-2, "optimizer": "adam", "schedule": "steps",
        "milestones": [51, 81], "factor": 0.5, "mirror": True,
    },
}  # fmt: skip


class SiteBackbone(nn.Module):
    """The network that `site` is compared with, in the same forms and trained on the same transformed images.

    * `form="mnist"`: the extractor and a linear layer, 234,922 parameters for `(1, 28, 28)` and ten classes; that the
      head is linear is inferred from the published count, 235 thousand.
    * `form="resnet"`: the latent map, averaged over positions, and a linear layer of its ten values; 2,813,724
      parameters.
    * `form="cnn"`: likewise; 1,169,484 parameters.

    The loss is the cross-entropy of randomly turned and moved copies of the images.

    Args:
        image_shape: `(C, H, W)`, as for `site`.
        n_classes: number of logits.
        form: as for `site`.
        side: the side that images are resized to in the forms `"resnet"` and `"cnn"`; by default 128.

    Raises:
        ValueError: a size or an option is not as stated.

    Reference:
        Y. Wang, X. Wang, "Self-Interpretable Model with Transformation Equivariant Interpretation", NeurIPS 2021.

    Example:
        >>> model = SiteBackbone((1, 28, 28), 10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        234922
    """

    name: ClassVar[str] = "site_backbone"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        form: SiteForm = "mnist",
        side: int | None = None,
    ) -> None:
        super().__init__()
        check_word("form", form, get_args(SiteForm))
        channels, height, width = image_shape
        self.cam_layer = CAM_LAYERS[form]
        if form == "mnist":
            if side is not None:
                raise ValueError('`side` must be left out under `form="mnist"`, which takes images as they are')
            check_sides(image_shape, 4)
            self.extractor = image_extractor(channels, (height // 4, width // 4))
            self.classifier = nn.Linear(64, n_classes)
        else:
            latent_halvings(side or _SIDE)  # SITE's condition on the side
            self.extractor = latent_extractor(form, channels)
            self.classifier = nn.Linear(LATENT_CHANNELS, n_classes)
        self.side = None if form == "mnist" else side or _SIDE

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train: as `site` on the same dataset, with the same `mirror`."""
        return dict(_RECIPES.get(dataset_name, _RECIPE))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs."""
        images = inputs if self.side is None else resized(inputs, self.side)
        return self.classifier(self.extractor(images).mean(dim=(2, 3)))

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of transformed images, and their `(B, K)` logits."""
        if recipe.get("mirror", False):
            images = randomly_mirrored(images)
        matrices = random_rigid(len(images)).to(images)
        move = warp if self.side is None else warp_filled
        images = images if self.side is None else resized(images, self.side)
        logits = self(move(images, matrices))
        return F.cross_entropy(logits, labels), logits
