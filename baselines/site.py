"""SITE, a classifier that explains itself by class prototypes which turn and move with the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model_checks import check_input_size, check_sides
from .option_checks import check_counts, check_word
from .prototype_loss import cross_entropy, draw_examples, prototype_loss
from .rigid_motion import random_rigid, randomly_mirrored, warp, warp_filled
from .site_networks import (
    CAM_LAYERS,
    SiteForm,
    image_extractor,
    image_generators,
    latent_encoder,
    latent_extractor,
    latent_generators,
    latent_halvings,
    resized,
)

Comparison = Literal["moved_back", "moved_along"]
_WIDTH = 8
_SIDE = 128
_RECIPE = {"epochs": 20, "batch_size": 32, "learning_rate": 0.005, "prototype_weight": 10.0}
_MNIST = {
    "epochs": 125, "batch_size": 256, "learning_rate": 1e-3, "optimizer": "adam", "schedule": "constant",
    "prototype_weight": 10.0,
}  # fmt: skip
_RECIPES: dict[str, dict[str, Any]] = {
    "digits": _RECIPE | {"epochs": 60},  # the digits are few: 1258
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "cifar10": {
        "epochs": 100, "batch_size": 64, "learning_rate": 1e-2, "optimizer": "adam", "schedule": "steps",
        "milestones": [51, 81], "factor": 0.5, "prototype_weight": 5.0, "mirror": True,
    },
}  # fmt: skip


class Site(nn.Module):
    """Self-Interpretable model with Transformation Equivariant interpretation, in each of its published forms.

    One generator `G_c` per class answers an image with a prototype. The logit of class c is the inner product of its
    prototype with a latent `z` of the image, without a bias, so the explanation `G_c ⊙ z` is exact: its elements add
    up to the logit.

    * `form="mnist"`: z is the image itself, with values in [0, 1]; an extractor `E` feeds the generators:

          logit_c(x) = <G_c(E(x)), x>,    G_c in (0, 1).

      The explanation `(B, C, H, W)` is non-negative where pixels are.
    * `form="resnet"` and `form="cnn"`, published for CIFAR-10: z = F1(x) is a latent map `(10, side/8, side/8)` of the
      image resized to `side`, and the generators are fed with it through an encoder that they share:

          logit_c(x) = <G_c(F1(x)), F1(x)>,    G_c, F1 in (-1, 1).

      The explanation is summed over the ten channels, `(B, 1, side/8, side/8)`, so that it adds up to the logit
      exactly. The published map is the mean over them, a tenth of it, and is enlarged with `align_corners=True`; ours
      is enlarged as every other heatmap.

    Training (`training_loss`) classifies randomly turned and moved copies `T(x)` and asks that every prototype,
    moved back, looks like a training image of its class, or like its latent map, to which no gradient flows:

        loss = CE(logits(T(x)), y) + w * mean over c of BCE(T^-1(G_c(T(x))), z(x_c)).

    Values in (-1, 1) are brought to (0, 1) for the BCE by `(v + 1) / 2`. This is the paper's equation 6, and what the
    release does on MNIST. On CIFAR-10 it moves no prototype back but moves the example along, `BCE(G_c(F1(T(x))),
    F1(T(x_c)))`, which is `comparison="moved_along"`.

    Where this departs from the published training:

    * `x_c` is drawn from the batch, not from a pool of 1000 images per class; a class that is absent from the
      batch adds nothing to the sum (the mean is still over all classes; under `"moved_along"`, over those compared).
    * Values that `T^-1` fills wholly or partly from outside are left out of the BCE (the mean is still over all
      values). Published, they add a constant that carries no gradient, and a pull at the very rim.
    * `"moved_back"` on latent maps passes every example through F1 once, untransformed, in a batch of its own.
    * On MNIST the release goes on with 500 epochs of plain SGD, which no recipe here repeats. On CIFAR-10 it
      normalises by the statistics of ImageNet; here images are normalised as the dataset says.
    * For `digits` and others without a published training the recipe is AdamW with a one-cycle rate.

    Args:
        image_shape: `(C, H, W)`. Under `form="mnist"` `H` and `W` must be multiples of 4, and the network takes this
            size only; the other forms resize images of any size.
        n_classes: number of logits.
        form: `"mnist"`; `"resnet"`, with a ResNet-18 of half the usual widths; `"cnn"`, with six plain convolutions of
            our choice, as the paper gives their parameters only, 1.2 million. At side 128 with ten classes the form
            `"resnet"` has 7,819,482 parameters; the published count of 7,819,592 includes 110 of a linear layer that
            only the black box uses (`site_backbone`).
        width: channels of the generators of the form `"mnist"`, an even number: `2 width`, `width` and `width / 2`
            after their layers; by default 8. The published network has 32, which makes 1,365,472 parameters for
            `(1, 28, 28)` and ten classes. Narrower ones train faster; their prototypes are coarser. The extractor is
            always the published one.
        side: the side that images are resized to in the other forms, 16, 32, 64, 128 (default, as published), ….
            Encoder and generators have a layer less for every halving.
        comparison: `"moved_back"` or `"moved_along"`, the latter not for `form="mnist"`.
        classes_per_step: under `"moved_along"`, how many classes, drawn for every batch, are compared with examples;
            each costs a pass of the whole batch through F1. All by default, as published.

    Raises:
        ValueError: a size or an option is not as stated.

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
    own_sums_to: ClassVar[str | None] = "logit"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        form: SiteForm = "mnist",
        width: int | None = None,
        side: int | None = None,
        comparison: Comparison = "moved_back",
        classes_per_step: int | None = None,
    ) -> None:
        super().__init__()
        _check_options(form, width, side, comparison, classes_per_step)
        channels, height, wide = image_shape
        self.image_shape = (channels, height, wide)
        self.n_classes = n_classes
        self.form: SiteForm = form
        self.comparison = comparison
        self.classes_per_step = n_classes if classes_per_step is None else min(classes_per_step, n_classes)
        self.cam_layer = CAM_LAYERS[form]  # the last map after a ReLU, for Grad-CAM
        if form == "mnist":
            check_sides(self.image_shape, 4)
            grid = (height // 4, wide // 4)
            self.extractor = image_extractor(channels, grid)
            self.generators = image_generators(n_classes, channels, width or _WIDTH, grid)
            return
        self.side = side or _SIDE
        halvings = latent_halvings(self.side)
        self.extractor = latent_extractor(form, channels)
        self.encoder = latent_encoder(halvings)
        self.generators = latent_generators(n_classes, halvings)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset: the published values for `mnist` and, for the latent forms, `cifar10`.

        `prototype_weight` is the w of the loss; `mirror` mirrors every second image, drawn anew for each batch.
        """
        return dict(_RECIPES.get(dataset_name, _RECIPE))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        latent = self.latent(inputs)
        return _logits(self._prototypes_at(latent), latent)

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the explanations, whose elements add up to the logits of `targets`.

        They are `(B, C, H, W)` under `form="mnist"`, else `(B, 1, side/8, side/8)`.
        """
        latent, rows = self.latent(inputs), torch.arange(len(inputs), device=inputs.device)
        explanation = self._prototypes_at(latent)[rows, targets] * latent
        return explanation if self.form == "mnist" else explanation.sum(dim=1, keepdim=True)

    def latent(self, inputs: Tensor) -> Tensor:
        """Return the latent z of inputs: they themselves, or `(B, 10, side/8, side/8)` in (-1, 1)."""
        return inputs if self.form == "mnist" else self.extractor(resized(inputs, self.side))

    def prototypes(self, inputs: Tensor) -> Tensor:
        """Return `(B, K, …)`, for every input and class a prototype of the shape and range of the latent."""
        return self._prototypes_at(self.latent(inputs))

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and its `(B, K)` logits, both of transformed images.

        Random numbers come from torch's global generator on the CPU, which the training loop seeds.

        Raises:
            ValueError: a pixel is outside of [0, 1], under `form="mnist"`.
        """
        if recipe.get("mirror", False):
            images = randomly_mirrored(images)
        if self.form == "mnist":
            return self._loss_of_images(images, labels, recipe)
        return self._loss_of_latents(resized(images, self.side), labels, recipe)

    def _loss_of_images(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"`images` must have pixels in [0, 1] to train `site`, were in [{images.min():g}, {images.max():g}]; "
                'use a dataset without normalisation (mean 0, std 1), or another `form` than "mnist"'
            )
        matrices = random_rigid(len(images)).to(images)
        examples = draw_examples(labels, self.n_classes)
        transformed = warp(images, matrices)
        prototypes = self._prototypes_at(transformed)
        logits = _logits(prototypes, transformed)
        distance = prototype_loss(prototypes, matrices, images, examples)
        return F.cross_entropy(logits, labels) + recipe["prototype_weight"] * distance, logits

    def _loss_of_latents(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        matrices = random_rigid(len(images)).to(images)
        examples = draw_examples(labels, self.n_classes)
        latent = self.extractor(warp_filled(images, matrices))
        prototypes = self._prototypes_at(latent)
        logits = _logits(prototypes, latent)
        if self.comparison == "moved_back":
            distance = prototype_loss(_as_share(prototypes), matrices, self._target(images), examples)
        else:
            distance = self._distance_moved_along(prototypes, matrices, images, examples)
        return F.cross_entropy(logits, labels) + recipe["prototype_weight"] * distance, logits

    def _distance_moved_along(self, prototypes: Tensor, matrices: Tensor, images: Tensor, examples: Tensor) -> Tensor:
        """Compare prototypes with the latent maps of examples that were moved like the input."""
        classes = (examples[0] >= 0).nonzero()[:, 0]
        classes = classes[torch.randperm(len(classes))[: self.classes_per_step].to(classes.device)]
        moved = warp_filled(images[examples[:, classes]].flatten(0, 1), matrices.repeat_interleave(len(classes), dim=0))
        compared = _as_share(prototypes[:, classes])
        return cross_entropy(compared, self._target(moved).view_as(compared))

    def _target(self, images: Tensor) -> Tensor:
        """Latent maps to compare with, in (0, 1), without a gradient; batch statistics are updated, as published."""
        with torch.no_grad():
            return _as_share(self.extractor(images))

    def _prototypes_at(self, latent: Tensor) -> Tensor:
        """`(B, K, …)`: what the generators answer to a latent."""
        if self.form == "mnist":
            check_input_size(latent, self.image_shape)
            code = self.extractor(latent)
        else:
            code = self.encoder(latent)
        made = self.generators(code.repeat(1, self.n_classes, 1, 1))
        return made.reshape(len(latent), self.n_classes, *latent.shape[1:])


def _check_options(
    form: str, width: int | None, side: int | None, comparison: str, classes_per_step: int | None
) -> None:
    check_word("form", form, get_args(SiteForm))
    check_word("comparison", comparison, get_args(Comparison))
    check_counts(**{name: one for name, one in (("width", width), ("side", side)) if one is not None})
    if width is not None and (width < 2 or width % 2):
        raise ValueError(f"`width` must be an even number of at least 2, was {width}")
    check_counts(classes_per_step=1 if classes_per_step is None else classes_per_step)
    if form == "mnist" and (side is not None or comparison != "moved_back"):
        raise ValueError('`side` and `comparison` must be left out under `form="mnist"`, which has no latent map')
    if form != "mnist" and width is not None:
        raise ValueError(f'`width` must be left out under `form="{form}"`, was {width}')
    if classes_per_step is not None and comparison != "moved_along":
        raise ValueError('`classes_per_step` must be left out unless `comparison="moved_along"`')


def _logits(prototypes: Tensor, latent: Tensor) -> Tensor:
    return (prototypes * latent[:, None]).sum(dim=(2, 3, 4))


def _as_share(values: Tensor) -> Tensor:
    """Bring values from (-1, 1) to (0, 1)."""
    return (values + 1) / 2
