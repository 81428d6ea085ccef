"""Extremal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Reduction
from .gaussian_blur import gaussian_blur
from .option_checks import check_counts
from .smooth_masks import SmoothMasks
from .through_captum import gradients_enabled

_LEVELS = 8
_LEARNING_RATE = 0.01
_MOMENTUM = 0.9
_DAMPENING = 0.9
_AREA_WEIGHT = 300.0
_AREA_GROWTH = 1.0035
_TIE = 1e-12


@dataclass(frozen=True)
class ExtremalPerturbation:
    """Attribute by the smooth mask of a given area that keeps the class's logit as high as can be.

    For every area `a`, `m_a = argmax f_t(x ⊗ m) − λ mean((sort(m) − r_a)²)`, where `r_a` is 1 for the share `a` of the
    largest values and 0 for the others; the attribution is the sum of the `m_a`. `x ⊗ m` blurs the image where the
    mask is low: it interpolates between 8 copies, from a Gaussian of `blur` pixels at 0 to the image itself at 1 (the
    game "preserve"). Masks are `SmoothMasks` of parameters that start at 1 and are cut to [0, 1] after every step of
    gradient ascent (rate 0.01, momentum and dampening 0.9); `λ` starts at 300 and grows by 0.35 % each step. The
    perturbed image is mirrored left to right at every other step, the first included, which suits networks for
    photographs and hardly those for digits (`mirrored`). Nothing is drawn at random.

    Written from the paper and the settings of its benchmark, which are for images of 224 pixels: `step`, `sigma` and
    `blur` are scaled with the shorter side elsewhere. Departs from the released code in where grid points lie and in
    the blur near the border, and so will not repeat its maps digit by digit.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        areas: shares of the pixels, each in (0, 1].
        n_steps: steps of the ascent.
        step: pixels between grid points; by default 7 at 224 pixels.
        sigma: reach of a grid point in pixels; by default three steps.
        blur: the strongest blur in pixels; by default 20 at 224 pixels.
        mirrored: whether every other step shows the model the mirror image.
        contrastive: keep `f_t − max_(j ≠ t) f_j` high instead.
        smoothing: sigma of a Gaussian that the sum of the masks is blurred with, as a share of the shorter side;
            the published benchmark takes 0.09.
        batch_size: samples that are optimised at once.

    Raises:
        ValueError: from `attribute`, for an option out of its range, or `contrastive` of a model with one output.

    Example:
        >>> class Bright(nn.Module):
        ...     def forward(self, inputs):
        ...         return (inputs - 5.0).clamp(min=0).sum(dim=(1, 2, 3))[:, None]
        >>> image = torch.tensor([[[[0.0, 0.0, 0.0, 9.0]] * 4]])
        >>> explainer = ExtremalPerturbation(areas=(0.25,), n_steps=300, sigma=1.0, blur=4.0)
        >>> explainer.attribute(Bright(), image, torch.tensor([0]))[0, 0, 0] > 0.6
        tensor([False, False, False,  True])
    """

    name: ClassVar[str] = "extremal_perturbation"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Fong, Patrick, Vedaldi 2019, arXiv:1910.08485"

    reduction: Reduction = "none"
    areas: tuple[float, ...] = (0.1,)
    n_steps: int = 800
    step: int | None = None
    sigma: float | None = None
    blur: float | None = None
    mirrored: bool = True
    contrastive: bool = False
    smoothing: float = 0.0
    batch_size: int = 2

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the masks, `(B, 1, H, W)` from 0 to their number; arguments as `Explainer.attribute`."""
        self._check()
        found: list[Tensor] = []
        with gradients_enabled():
            for images, classes in zip(
                inputs.split(self.batch_size), targets.clone().split(self.batch_size), strict=True
            ):
                some = images.detach().clone()
                found.append(torch.stack([self._mask(model, some, classes, area) for area in self.areas]).sum(dim=0))
            maps = torch.cat(found)[:, None]
            return gaussian_blur(maps, self.smoothing * min(maps.shape[-2:]))

    def _check(self) -> None:
        """Refuse options out of their range."""
        check_counts(n_steps=self.n_steps, batch_size=self.batch_size)
        if not isinstance(self.areas, tuple) or not self.areas or not all(0 < area <= 1 for area in self.areas):
            raise ValueError(f"`areas` must be a tuple of shares in (0, 1], such as (0.1,); was {self.areas!r}")
        for name in ("step", "sigma", "blur"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be above 0 or None, was {value}")
        if self.smoothing < 0:
            raise ValueError(f"`smoothing` must be 0 or more, was {self.smoothing}")

    def _mask(self, model: nn.Module, images: Tensor, targets: Tensor, area: float) -> Tensor:
        """The `(B, H, W)` masks of one area."""
        height, width = images.shape[-2:]
        scale = min(height, width) / 224
        step = self.step or max(1, round(7 * scale))
        exact = images.double()  # so that pixels of one value are told from those that only come close
        masks_of = SmoothMasks((height, width), step=step, sigma=self.sigma or 3.0 * step, like=exact)
        pyramid = _pyramid(images, self.blur or 20 * scale)
        wanted = _sorted_reference(height * width, area).to(exact)
        grids = exact.new_ones((len(images), *masks_of.grid_size))
        velocity = None
        for number in range(self.n_steps):
            grids.requires_grad_()
            masks = masks_of(grids)
            seen = _preserved(pyramid, masks.to(images.dtype))
            reward = self._reward(model(seen.flip(-1) if self.mirrored and number % 2 == 0 else seen), targets)
            excess = _excess(masks.flatten(1), wanted)
            loss = (_AREA_WEIGHT * _AREA_GROWTH**number * excess - reward.double()).sum()
            (gradient,) = torch.autograd.grad(loss, grids)
            velocity = gradient if velocity is None else _MOMENTUM * velocity + (1 - _DAMPENING) * gradient
            grids = (grids.detach() - _LEARNING_RATE * velocity).clamp(0, 1)
        return masks_of(grids).to(images.dtype)

    def _reward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`(B,)`: what the mask is to keep high."""
        chosen = logits.gather(1, targets[:, None])[:, 0]
        if not self.contrastive:
            return chosen
        if logits.shape[1] == 1:
            raise ValueError("`contrastive` needs two classes or more, the model has one output")
        return chosen - logits.scatter(1, targets[:, None], -torch.inf).amax(dim=1)


def _sorted_reference(n_pixels: int, area: float) -> Tensor:
    """`(n_pixels,)`: what a mask of this area is, sorted: zeros, then ones."""
    return (torch.arange(n_pixels) >= n_pixels - round(area * n_pixels)).float()


def _excess(masks: Tensor, wanted: Tensor) -> Tensor:
    """`(B,)` mean squared differences between sorted `(B, P)` masks and what they are to be.

    Pixels of one value, up to rounding, share the mean of what their ranks are to be. Masks start from one value
    everywhere, and the order in which a sort leaves ties, by rows, would else decide which of them stay.
    """
    values = masks.sort(dim=1).values
    with torch.no_grad():
        starts = F.pad(values.diff(dim=1) > _TIE, (1, 0))
        group = starts.long().cumsum(dim=1)
        none = torch.zeros_like(values)
        sizes = none.scatter_add(1, group, torch.ones_like(values))
        shared = none.scatter_add(1, group, wanted.expand_as(values)) / sizes.clamp(min=1)
    return (values - shared.gather(1, group)).square().mean(dim=1)


def _pyramid(images: Tensor, blur: float) -> Tensor:
    """`(B, 8, C, H, W)`: the images, from the strongest blur to none."""
    return torch.stack([gaussian_blur(images, blur * (1 - k / (_LEVELS - 1))) for k in range(_LEVELS)], dim=1)


def _preserved(pyramid: Tensor, masks: Tensor) -> Tensor:
    """`(B, C, H, W)`: every pixel from the level of the pyramid that its mask value says, interpolated linearly."""
    heights = (_LEVELS - 1) * masks
    below = heights.detach().floor().clamp(max=_LEVELS - 2)  # not above: at 1 the gradient is that from below
    index = below.long()[:, None, None].expand(-1, 1, *pyramid.shape[2:])
    lower, upper = (pyramid.gather(1, level)[:, 0] for level in (index, index + 1))
    return lower + (heights - below)[:, None] * (upper - lower)
