"""SITE, a classifier that explains itself by class prototypes which turn and move with the image (MNIST form)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Site(nn.Module):
    """Self-Interpretable model with Transformation Equivariant interpretation, in the form published for MNIST.

    An extractor `E` reads the image and one generator `G_c` per class answers with a prototype, an image with
    values in (0, 1). The logit of class c is the inner product of its prototype with the input,

        logit_c(x) = <G_c(E(x)), x>,

    so the explanation `G_c(E(x)) * x` is exact: its elements add up to the logit, without a bias. It is
    non-negative where pixels are.

    Training (`training_loss`) classifies randomly turned and moved copies `T(x)` and asks that every prototype,
    moved back, looks like a training image of its class:

        loss = CE(logits(T(x)), y) + w * mean over c of BCE(T^-1(G_c(E(T(x)))), x_c).

    Where this departs from the published training:

    * `x_c` is drawn from the batch, not from a pool of 1000 images per class; a class that is absent from the
      batch adds nothing to the sum (the mean is still over all classes).
    * Pixels that `T^-1` fills wholly or partly from outside of the image are left out of the BCE (the mean is
      still over all pixels). Published, they add a constant that carries no gradient, and a pull at the very rim.
    * The optimiser is that of `interpeval.bench.training`, not Adam with a constant rate.

    Args:
        image_shape: `(C, H, W)`; `H` and `W` must be multiples of 4. The network takes this size only.
        n_classes: number of logits.
        width: channels of the generators, an even number: `2 width`, `width` and `width / 2` after their layers. The
            published network has 32, which makes 1,365,472 parameters for `(1, 28, 28)` and ten classes. Narrower
            ones train faster; their prototypes are coarser. The extractor is always the published one.

    Raises:
        ValueError: a size or `width` is not as stated.

    Reference:
        Y. Wang, X. Wang, "Self-Interpretable Model with Transformation Equivariant Interpretation", NeurIPS 2021.

    Example:
        >>> model = Site((1, 28, 28), 10).eval()
        >>> images, targets = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])
        >>> explanation = model.attribute(images, targets)
        >>> torch.allclose(explanation.sum((1, 2, 3)), model(images)[[0, 1], targets])
        True
    """

    name: ClassVar[str] = "site"
    cam_layer: ClassVar[str] = "extractor.relu2"
    """The extractor's feature map of a quarter of the image's side, for Grad-CAM."""
    own_sums_to: ClassVar[str | None] = "logit"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, width: int = 8) -> None:
        super().__init__()
        channels, height, side = image_shape
        if height % 4 or side % 4 or min(image_shape) < 1:
            raise ValueError(f"`image_shape` must be (C, H, W) with H and W multiples of 4, was {tuple(image_shape)}")
        if width < 2 or width % 2:
            raise ValueError(f"`width` must be an even number of at least 2, was {width}")
        self.image_shape = (channels, height, side)
        grid = (height // 4, side // 4)
        self.extractor = _extractor(channels, grid)
        self.n_classes = n_classes
        self.generators = _generators(n_classes, channels, width, grid)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset; `prototype_weight` is the w of the loss."""
        epochs = 60 if dataset_name == "digits" else 20  # the digits are few: 1258
        return {"epochs": epochs, "batch_size": 32, "learning_rate": 0.005, "prototype_weight": 10.0}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        return _logits(self.prototypes(inputs), inputs)

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)` explanations `G_target(E(x)) * x`, whose elements add up to the logits of `targets`."""
        rows = torch.arange(len(inputs), device=inputs.device)
        return self.prototypes(inputs)[rows, targets] * inputs

    def prototypes(self, inputs: Tensor) -> Tensor:
        """Return `(B, K, C, H, W)`, for every input and class the prototype `G_c(E(x))`, values in (0, 1)."""
        if tuple(inputs.shape[1:]) != self.image_shape:
            raise ValueError(f"`inputs` must be (B, {_text(self.image_shape)}), was ({_text(inputs.shape)})")
        features = self.extractor(inputs).repeat(1, self.n_classes, 1, 1)
        return self.generators(features).reshape(len(inputs), self.n_classes, *self.image_shape)

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and its `(B, K)` logits, both of transformed images.

        Random numbers come from torch's global generator on the CPU, which the training loop seeds.

        Raises:
            ValueError: a pixel is outside of [0, 1].
        """
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"`images` must have pixels in [0, 1] to train `site`, were in [{images.min():g}, {images.max():g}]; "
                "use a dataset without normalisation (mean 0, std 1)"
            )
        matrices = random_rigid(len(images)).to(images)
        examples = draw_examples(labels, self.n_classes)
        transformed = warp(images, matrices)
        prototypes = self.prototypes(transformed)
        logits = _logits(prototypes, transformed)
        distance = prototype_loss(prototypes, matrices, images, examples)
        return F.cross_entropy(logits, labels) + recipe["prototype_weight"] * distance, logits


def random_rigid(count: int) -> Tensor:
    """Draw `(count, 2, 3)` matrices `[R | b]`: angle in U(-90°, 90°), each shift in U(-0.5, 0.5) (half a side is 1)."""
    return rigid((torch.rand(count) - 0.5) * math.pi, torch.rand(count, 2) - 0.5)


def rigid(angles: Tensor, shifts: Tensor) -> Tensor:
    """Build `(B, 2, 3)` matrices `[R | b]` from `(B,)` angles in radians and `(B, 2)` shifts (x, y).

    They map output to input positions, in the coordinates of `torch.nn.functional.affine_grid`.
    """
    cos, sin = angles.cos(), angles.sin()
    rotations = torch.stack((cos, -sin, sin, cos), dim=1).view(-1, 2, 2)
    return torch.cat((rotations, shifts[:, :, None]), dim=2)


def inverse(matrices: Tensor) -> Tensor:
    """Invert `(B, 2, 3)` rigid matrices: `[R' | -R' b]`, `R'` being the transpose of `R`."""
    back = matrices[:, :, :2].transpose(1, 2)
    return torch.cat((back, -back @ matrices[:, :, 2:]), dim=2)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample `(B, C, H, W)` bilinearly by `(B, 2, 3)` matrices, `align_corners=True`; outside of the image is 0."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def draw_examples(labels: Tensor, n_classes: int) -> Tensor:
    """Draw for every sample one row of the batch from each class: `(B, n_classes)`, -1 where the batch has none."""
    rows = torch.full((len(labels), n_classes), -1, dtype=torch.int64, device=labels.device)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        rows[:, label] = members[torch.randint(len(members), (len(labels),)).to(members.device)]
    return rows


def prototype_loss(prototypes: Tensor, matrices: Tensor, images: Tensor, examples: Tensor) -> Tensor:
    """Compare prototypes, moved back, with example images of their classes: the mean binary cross-entropy.

    Args:
        prototypes: `(B, K, C, H, W)` in (0, 1), of the images transformed by `matrices`.
        matrices: `(B, 2, 3)` rigid transformations.
        images: `(B, C, H, W)` untransformed, in [0, 1].
        examples: `(B, K)` rows of `images`, one of each class, -1 where there is none (`draw_examples`).

    Returns:
        Scalar, the mean over all `B * K * C * H * W` elements. An element counts as 0 where there is no example or
        where moving back mixes in anything from outside of the prototype.
    """
    back = inverse(matrices)
    moved = warp(prototypes.flatten(1, 2), back).view_as(prototypes)
    inside = warp(torch.ones_like(images[:, :1]), back)[:, None] > 0.999
    counts = inside & (examples >= 0)[:, :, None, None, None]
    # Rounding in the interpolation can exceed 1, which the BCE refuses.
    return F.binary_cross_entropy(moved.clamp(0, 1), images[examples], weight=counts.to(moved).expand_as(moved))


def _logits(prototypes: Tensor, inputs: Tensor) -> Tensor:
    return (prototypes * inputs[:, None]).sum(dim=(2, 3, 4))


def _extractor(channels: int, grid: tuple[int, int]) -> nn.Sequential:
    """`(C, H, W)` to `(64, 1, 1)`."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 4, stride=2, padding=1),
            norm1=nn.BatchNorm2d(32),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 4, stride=2, padding=1),
            norm2=nn.BatchNorm2d(64),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(64, 64, grid, bias=False),
            relu3=nn.ReLU(),
        )
    )


def _generators(count: int, channels: int, width: int, grid: tuple[int, int]) -> nn.Sequential:
    """`count` separate networks side by side as groups, each from `(64, 1, 1)` to `(C, H, W)` in (0, 1)."""
    wide, middle, narrow = count * 2 * width, count * width, count * width // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.ConvTranspose2d(count * 64, wide, 1, groups=count, bias=False),
            norm1=nn.BatchNorm2d(wide),
            relu1=nn.ReLU(),
            conv2=nn.ConvTranspose2d(wide, middle, grid, groups=count, bias=False),
            norm2=nn.BatchNorm2d(middle),
            relu2=nn.ReLU(),
            conv3=nn.ConvTranspose2d(middle, narrow, 4, stride=2, padding=1, groups=count, bias=False),
            norm3=nn.BatchNorm2d(narrow),
            relu3=nn.ReLU(),
            conv4=nn.ConvTranspose2d(narrow, count * channels, 4, stride=2, padding=1, groups=count, bias=False),
            sigmoid=nn.Sigmoid(),
        )
    )


def _text(shape: tuple[int, ...] | torch.Size) -> str:
    return ", ".join(str(size) for size in shape)
