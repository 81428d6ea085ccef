"""LFI-CAM, a classifier whose attention map is made by a network and is its explanation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Reduction
from .cifar_cnn import CifarCnn

_CIFAR: Mapping[str, Any] = {
    "epochs": 300,
    "batch_size": 128,
    "learning_rate": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "steps",
    "milestones": [151, 226],
    "factor": 0.1,
}
_SHORT: Mapping[str, Any] = {"epochs": 5, "batch_size": 64, "learning_rate": 1e-2, "weight_decay": 1e-2}


class LfiCam(nn.Module):
    """Learning Feature Importance from Class Activation Maps, in the form for CIFAR.

    A feature importance network looks at the last feature map A of a backbone and weighs its channels; the weighted
    map is the attention that the classifier pays to each place, and its explanation:

        w = softmax over k of FIN(Â ⊙ x̄)_k,   M = norm(relu(Σ_k w_k A_k)),   logits = FC(mean over cells of A + M ⊙ A),

    where Â is A with every channel scaled to [0, 1] within the sample, x̄ the mean over channels of the image resized
    to the grid of A, and norm scales a map to [0, 1] as well. Where all values are equal, such a scaled map is 0. FIN
    is four 3×3 convolutions with batch normalisation, with ReLU after the second and the fourth, then the mean over
    the map.

    The explanation that this model gives of itself is M, `(B, 1, h, w)` in [0, 1]. It is the same for every target:
    the attention does not know of classes.

    Departs from the published experiments in the backbone, which is the small network `cifar_cnn` and not a deep
    residual one. The variant published for ImageNet places the ReLUs of FIN otherwise.

    Args:
        image_shape: `(C, H, W)`.
        n_classes: number of logits.

    Reference:
        K. H. Lee, C. Park, J. Oh, N. Kwak, "LFI-CAM: Learning Feature Importance for Better Visual Explanation", ICCV
        2021.

    Example:
        >>> model = LfiCam((3, 32, 32), 10).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model(images).shape, model.attribute(images, torch.tensor([0, 1])).shape
        (torch.Size([2, 10]), torch.Size([2, 1, 8, 8]))
    """

    name: ClassVar[str] = "lfi_cam"
    cam_layer: ClassVar[str] = "features"
    """The backbone's feature map A, for Grad-CAM."""
    own_reduction: ClassVar[Reduction] = "none"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        backbone = CifarCnn(image_shape, n_classes)
        width = backbone.classifier.in_features
        self.features = backbone.features
        self.importance = nn.Sequential(
            *_convolution(width), *_convolution(width), nn.ReLU(),
            *_convolution(width), *_convolution(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1),
        )  # fmt: skip
        self.classifier = nn.Linear(width, n_classes)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset: `cifar10` as published, others for minutes, as `cifar_cnn` is."""
        if dataset_name == "cifar10":
            return dict(_CIFAR)
        return {**_SHORT, "epochs": 12} if dataset_name == "digits" else dict(_SHORT)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs."""
        maps = self.features(inputs)
        return self.classifier((maps + self._attention(maps, inputs) * maps).mean(dim=(2, 3)))

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, h, w)`, the attention map, whatever the targets."""
        del targets
        return self._attention(self.features(inputs), inputs)

    def training_loss(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Mapping[str, Any],  # noqa: ARG002  # other models read theirs
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of `(B,)` labels, and the `(B, K)` logits."""
        logits = self(images)
        return F.cross_entropy(logits, labels), logits

    def _attention(self, maps: Tensor, inputs: Tensor) -> Tensor:
        """`(B, 1, h, w)`."""
        seen = inputs.mean(dim=1, keepdim=True)
        seen = F.interpolate(seen, size=maps.shape[2:], mode="bilinear", align_corners=False)
        weights = self.importance(unit_range(maps) * seen)
        return unit_range(torch.einsum("bk,bkhw->bhw", weights, maps)[:, None].relu())


def unit_range(maps: Tensor) -> Tensor:
    """Scale every one of `(B, C, h, w)` maps to [0, 1]; one whose values are all equal becomes 0.

    Example:
        >>> unit_range(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))
        tensor([[[[0., 1.]],
        <BLANKLINE>
                 [[0., 0.]]]])
    """
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def _convolution(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
